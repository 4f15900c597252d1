//! Tells systemd how the service stands (`sd_notify(3)`), where it runs under it, and
//! feeds its watchdog.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use rustix::io::Errno;
use tracing::warn;

/// The service manager.
#[derive(Debug)]
pub struct Manager {
    /// `None` where the daemon was not started by one.
    socket: Option<UnixDatagram>,
    /// How long the watchdog waits; `None` where nobody asks for one.
    pub watchdog: Option<Duration>,
}

impl Manager {
    /// The one that has started this process, by `NOTIFY_SOCKET`, `WATCHDOG_USEC` and
    /// `WATCHDOG_PID`. One that can't be reached is an error: it would wait in vain.
    pub fn find() -> io::Result<Self> {
        let socket = match env::var_os("NOTIFY_SOCKET") {
            Some(path) if !path.is_empty() => Some(connect(&path)?),
            _ => None,
        };
        let text = |name| env::var(name).ok();
        Ok(Self {
            watchdog: socket.as_ref().and_then(|_| {
                watchdog(
                    text("WATCHDOG_USEC").as_deref(),
                    text("WATCHDOG_PID").as_deref(),
                    std::process::id(),
                )
            }),
            socket,
        })
    }

    /// Says how it stands, in a few words for `systemctl status`.
    pub fn status(&self, status: &str) {
        self.send(&format!("STATUS={}", one_line(status)));
    }

    /// The service does its work (again).
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// The settings are being read; [`Self::ready`] is its end.
    pub fn reloading(&self) {
        let now = crate::kernel::ring::monotonic_ns() / 1000;
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// The service ends.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// Feeds the watchdog, where there is one and it is time, for a reader that has read
    /// the ring last at this moment ([`Watchdog::is_due`]).
    pub fn feed_after(&self, watchdog: Option<&mut Watchdog>, read_at_ns: u64) {
        if watchdog.is_some_and(|watchdog| watchdog.is_due(read_at_ns)) {
            self.feed();
        }
    }

    fn feed(&self) {
        self.send("WATCHDOG=1");
    }

    fn send(&self, state: &str) {
        let Some(socket) = &self.socket else {
            return;
        };
        if let Err(error) = socket.send(state.as_bytes()) {
            warn!("cannot tell the service manager {state:?}: {error}");
        }
    }
}

/// Connects to a socket by its path, or by its abstract name after a `@`. Messages wait
/// for room a moment at most: a manager that has stopped must not stop the daemon.
fn connect(path: &OsStr) -> io::Result<UnixDatagram> {
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => SocketAddr::from_pathname(path)?,
        // `vsock:`, of virtual machines' managers.
        _ => return Err(Errno::AFNOSUPPORT.into()),
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(Duration::from_millis(100)))?;
    Ok(socket)
}

/// How long the watchdog waits, where it is this process that it watches.
fn watchdog(microseconds: Option<&str>, watched: Option<&str>, own: u32) -> Option<Duration> {
    if watched.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let period = Duration::from_micros(microseconds?.parse().ok()?);
    (!period.is_zero()).then_some(period)
}

/// A line break would begin another variable.
fn one_line(text: &str) -> String {
    text.replace('\n', "; ")
}

/// When the watchdog is fed: only when the reader has come round since the last time.
#[derive(Debug)]
pub struct Watchdog {
    /// How long the reader may sleep.
    pub longest_sleep: Duration,
    pause_ns: u64,
    fed_ns: u64,
}

impl Watchdog {
    /// For a manager that waits so long.
    #[must_use]
    pub fn new(period: Duration) -> Self {
        let quarter = period / 4;
        Self {
            longest_sleep: quarter,
            pause_ns: u64::try_from(quarter.as_nanos()).unwrap_or(u64::MAX),
            fed_ns: 0,
        }
    }

    /// Whether to feed it, for a reader that has read the ring last at this moment,
    /// `CLOCK_MONOTONIC`, nanoseconds.
    pub fn is_due(&mut self, read_at_ns: u64) -> bool {
        let due = read_at_ns.saturating_sub(self.fed_ns) >= self.pause_ns;
        if due {
            self.fed_ns = read_at_ns;
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    fn heard(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    fn manager(socket: UnixDatagram) -> Manager {
        Manager {
            socket: Some(socket),
            watchdog: None,
        }
    }

    #[test]
    fn it_is_told_by_path_and_by_abstract_name() {
        let dir = TempDir::new();
        let path = dir.join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("rst-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let by_name = UnixDatagram::bind_addr(&address).unwrap();
        for (listener, address) in [
            (by_path, path.into_os_string()),
            (by_name, format!("@{name}").into()),
        ] {
            let manager = manager(connect(&address).unwrap());
            manager.ready("one\ntwo");
            assert_eq!(heard(&listener), "READY=1\nSTATUS=one; two");
            manager.feed();
            assert_eq!(heard(&listener), "WATCHDOG=1");
            manager.reloading();
            let said = heard(&listener);
            let time = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
            assert!(time.parse::<u64>().unwrap() > 0);
            manager.stopping();
            assert_eq!(heard(&listener), "STOPPING=1");
        }
        assert!(connect(OsStr::new("vsock:2:1")).is_err());
    }

    #[test]
    fn a_manager_that_does_not_read_holds_nobody_up() {
        let dir = TempDir::new();
        let path = dir.join("notify");
        let _listener = UnixDatagram::bind(&path).unwrap();
        let manager = manager(connect(path.as_os_str()).unwrap());
        let begin = std::time::Instant::now();
        // net.unix.max_dgram_qlen is 10 unless it was changed, and 512 at times.
        for _ in 0..20 {
            manager.feed();
        }
        assert!(begin.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn only_the_process_that_is_meant_is_watched() {
        let half = Some(Duration::from_millis(500));
        assert_eq!(watchdog(Some("500000"), None, 7), half);
        assert_eq!(watchdog(Some("500000"), Some("7"), 7), half);
        assert_eq!(watchdog(Some("500000"), Some("8"), 7), None);
        assert_eq!(watchdog(Some("0"), None, 7), None);
        assert_eq!(watchdog(Some("soon"), None, 7), None);
        assert_eq!(watchdog(None, None, 7), None);
    }

    #[test]
    fn a_reader_that_stands_still_does_not_feed_it() {
        let second = 1_000_000_000;
        let mut watchdog = Watchdog::new(Duration::from_secs(4));
        assert_eq!(watchdog.longest_sleep, Duration::from_secs(1));
        assert!(watchdog.is_due(50 * second));
        assert!(!watchdog.is_due(50 * second));
        assert!(!watchdog.is_due(51 * second - 1));
        assert!(watchdog.is_due(51 * second));
        assert!(!watchdog.is_due(51 * second));
    }
}
