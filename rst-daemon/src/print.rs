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
use crate::reset::Reset;
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

    /// One line for a reset, without its newline.
    fn line(&self, reset: &Reset) -> io::Result<String> {
        match self {
            Self::Text(style) => Ok(text::line(reset, style)),
            Self::Json => text::json(reset).map_err(io::Error::from),
        }
    }
}

/// Prints one reset.
pub fn reset(reset: &Reset, format: &Format) -> io::Result<()> {
    let line = format.line(reset)?;
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
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
    let mut resets = hub.subscribe();
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("print".to_owned())
        .spawn(move || {
            let result = loop {
                match resets.blocking_recv() {
                    Ok(next) => {
                        let next: Arc<Reset> = next;
                        if filter.matches(&next)
                            && let Err(error) = reset(&next, &format)
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
