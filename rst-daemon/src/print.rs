//! Prints resets to standard output, as text or JSON.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::oneshot;

use crate::filter::Filter;
use crate::hub::Hub;
use crate::reset::{Reset, Told};
use crate::text::{self, Style};

/// How resets are printed.
#[derive(Clone, Debug)]
pub enum Format {
    /// A line for a human.
    Text(Style),
    /// A JSON object a line.
    Json,
}

impl Format {
    /// JSON, or text in the local time zone, coloured on a terminal unless
    /// `NO_COLOR` is set (<https://no-color.org>).
    #[must_use]
    pub fn for_stdout(json: bool) -> Self {
        if json {
            return Self::Json;
        }
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self::Text(Style {
            color: io::stdout().is_terminal() && !no_color,
            zone: TimeZone::system(),
        })
    }

    /// One line, without its newline.
    fn line(&self, told: &Told) -> io::Result<String> {
        match (self, told) {
            (Self::Text(style), Told::Reset(reset)) => Ok(text::line(reset, style)),
            (Self::Text(style), Told::Restarted(restarted)) => {
                Ok(text::restarted(restarted, style))
            }
            (Self::Json, told) => text::told(told).map_err(io::Error::from),
        }
    }
}

/// Prints what it is told.
#[derive(Debug)]
pub struct Printer {
    format: Format,
    /// Whether a line of text begins with its day.
    dated: bool,
    /// The last reset printed.
    last: Option<Arc<Reset>>,
}

impl Printer {
    /// Nothing printed yet.
    #[must_use]
    pub fn new(format: Format) -> Self {
        Self {
            format,
            dated: false,
            last: None,
        }
    }

    /// Likewise; lines of text begin with their day.
    #[must_use]
    pub fn dated(format: Format) -> Self {
        Self {
            dated: true,
            ..Self::new(format)
        }
    }

    /// Prints one line.
    pub fn print(&mut self, told: &Told) -> io::Result<()> {
        let Some(line) = self.line(told)? else {
            return Ok(());
        };
        let mut out = io::stdout().lock();
        writeln!(out, "{line}")?;
        out.flush()
    }

    /// The next line, without its newline. As text, what both ends of a connection
    /// tell is one story: `None` for the second.
    pub fn line(&mut self, told: &Told) -> io::Result<Option<String>> {
        let (time, reset) = match told {
            Told::Reset(reset) => (reset.time, Some(reset)),
            Told::Restarted(restarted) => (restarted.time, None),
        };
        if let (Format::Text(_), Some(reset), Some(last)) = (&self.format, reset, &self.last)
            && text::is_other_end(reset, last)
        {
            return Ok(None);
        }
        let mut line = self.format.line(told)?;
        if let (Format::Text(style), true) = (&self.format, self.dated) {
            let day = time.to_zoned(style.zone.clone()).date();
            line.insert_str(0, &format!("{day} "));
        }
        self.last = reset.cloned();
        Ok(Some(line))
    }
}

/// Says that resets were not shown. They are counted all the same.
pub fn missed(count: u64) {
    eprintln!(
        "rst: {count} resets not shown: this output is too slow for them; the metrics count them all"
    );
}

/// Prints what the hub publishes, on a thread of its own: a terminal that
/// stands still must not hold the reader up. The receiver resolves when the
/// output is closed or fails, or the hub is gone.
pub fn from_hub(
    hub: &Hub,
    filter: Filter,
    format: Format,
) -> io::Result<oneshot::Receiver<io::Result<()>>> {
    let mut told = hub.subscribe();
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("print".to_owned())
        .spawn(move || {
            let mut printer = Printer::new(format);
            let result = loop {
                match told.blocking_recv() {
                    Ok(next) => {
                        if filter.wants(&next)
                            && let Err(error) = printer.print(&next)
                        {
                            break Err(error);
                        }
                    }
                    Err(RecvError::Lagged(count)) => missed(count),
                    Err(RecvError::Closed) => break Ok(()),
                }
            };
            // Nobody waits for it when the program is ending anyway.
            let _ = ended.send(result);
        })?;
    Ok(end)
}

/// How long the printer may take for what is left when the program ends.
const LEFT_OVER: Duration = Duration::from_secs(1);

/// Waits for the printer, once the hub is gone.
pub async fn finish(end: oneshot::Receiver<io::Result<()>>) -> io::Result<()> {
    match tokio::time::timeout(LEFT_OVER, end).await {
        Ok(Ok(result)) => result,
        // The output stands still, or the thread has panicked and said so.
        Ok(Err(_)) | Err(_) => Ok(()),
    }
}

/// Whether the reader of our output has gone, which is no failure (`| head`).
#[must_use]
pub fn is_closed(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}
