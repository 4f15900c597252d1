//! What the daemon says of itself, on standard error: for people with time and level, for
//! systemd's journal, which has these itself, with the priority alone.

use std::fmt;
use std::io::{self, IsTerminal as _};

use rustix::fs::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

/// The priority of an error (`LOG_ERR`, syslog(3)).
const ERROR: u8 = 3;

/// Logs at INFO from now on, the lines of the eBPF programs at `programs`: the libraries
/// below have much to say at DEBUG.
pub fn init(programs: Level) {
    let levels = Targets::new()
        .with_default(Level::INFO)
        .with_target("rst_ebpf_object", programs);
    let common = tracing_subscriber::fmt()
        .with_max_level(programs)
        .with_writer(io::stderr);
    if to_journal() {
        let common = common.with_ansi(false).event_format(Journal);
        common.finish().with(levels).init();
    } else {
        let common = common
            .with_target(false)
            .with_ansi(io::stderr().is_terminal());
        common.finish().with(levels).init();
    }
}

/// Says why the program ends, whether it logs already or not.
pub fn failure(error: &dyn fmt::Display) {
    let text = format!("rst: {error}");
    if to_journal() {
        eprintln!("{}", prioritized(ERROR, &text));
    } else {
        eprintln!("{text}");
    }
}

/// Whether standard error is the journal.
fn to_journal() -> bool {
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let Ok(stderr) = fstat(io::stderr()) else {
        return false;
    };
    stream.is_some_and(|stream| stream == format!("{}:{}", stderr.st_dev, stderr.st_ino))
}

/// Text with its priority as the journal takes it, before each line (sd-daemon(3)).
fn prioritized(priority: u8, text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| format!("<{priority}>{line}"))
        .collect();
    lines.join("\n")
}

/// How events are written for the journal.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        // syslog(3): warning, info, debug.
        let priority = match *event.metadata().level() {
            Level::ERROR => ERROR,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        let mut text = String::new();
        context
            .field_format()
            .format_fields(Writer::new(&mut text), event)?;
        writeln!(writer, "{}", prioritized(priority, &text))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_a_priority_before_each_line() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(Journal)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("ready: {}", 1);
            tracing::warn!("refused; the verifier's last lines:\n  1: exit");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<6>ready: 1\n<4>refused; the verifier's last lines:\n<4>  1: exit\n"
        );
    }
}
