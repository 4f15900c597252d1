//! The daemon under measurement, and what it says of itself.

use std::{
    fs,
    fs::File,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread,
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    interrupt,
    process::{Dir, Running},
    programs,
};

/// Longest that an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// `rst daemon` with its default settings, ready.
pub(super) struct Daemon {
    process: Running,
    socket: PathBuf,
    _dir: Dir,
}

impl Daemon {
    pub(super) fn start(binary: &Path) -> Result<Self> {
        let dir = Dir::new()?;
        let (config, log) = (dir.join("rst.toml"), dir.join("log"));
        // Empty: the defaults, whatever stands in /etc.
        fs::write(&config, "")?;
        let socket = dir.join("rst.sock");
        let mut command = Command::new(binary);
        command.arg("daemon").arg("--config").arg(&config);
        command.args(["--listen", "127.0.0.1:0"]);
        command.arg("--socket").arg(&socket);
        command.arg("--data-dir").arg(dir.join("data"));
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Running::start("rst daemon", &mut command)?;
        interrupt::wait_for("rst daemon is ready", || {
            process.check(&log)?;
            Ok(get(&socket, "/readyz").ok())
        })?;
        Ok(Self {
            process,
            socket,
            _dir: dir,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn stop(self) -> Result<()> {
        self.process.stop()
    }

    pub(super) fn scrape(&self) -> Result<Scrape> {
        get(&self.socket, "/metrics").map(Scrape)
    }

    /// Resets sent that it has counted so far, with those the kernel kept from it.
    pub(super) fn counted(&self) -> Result<Counted> {
        let counted = self
            .scrape()?
            .sum("rst_resets_total", r#"direction="sent""#)?;
        let programs = programs::of_process(self.pid())?;
        let missed = programs
            .get("tcp_send_reset")
            .map_or(0, |program| program.missed);
        Ok(Counted { counted, missed })
    }

    /// Starts `rst watch` with its output thrown away.
    pub(super) fn watch(&self, binary: &Path) -> Result<Running> {
        let mut command = Command::new(binary);
        command.arg("watch").arg("--socket").arg(&self.socket);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let watch = Running::start("rst watch", &mut command)?;
        let socket = self.socket.to_string_lossy();
        interrupt::wait_for("rst watch is connected", || {
            let sockets = fs::read_to_string("/proc/net/unix")?;
            Ok(is_connected(&sockets, &socket).then_some(()))
        })?;
        Ok(watch)
    }

    /// Scrapes it at once and then each second.
    pub(super) fn scrape_each_second(&self) -> Scraper {
        let (stop, stopped) = mpsc::channel::<()>();
        let socket = self.socket.clone();
        let thread = thread::spawn(move || {
            loop {
                get(&socket, "/metrics")?;
                if stopped.recv_timeout(Duration::from_secs(1)) != Err(RecvTimeoutError::Timeout) {
                    return Ok(());
                }
            }
        });
        Scraper { stop, thread }
    }
}

/// Resets, as one observer has counted them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Those it counted.
    pub(super) counted: u64,
    /// Those it knows that it missed.
    pub(super) missed: u64,
}

/// A thread that scrapes until it is stopped.
pub(super) struct Scraper {
    stop: Sender<()>,
    thread: JoinHandle<Result<()>>,
}

impl Scraper {
    pub(super) fn stop(self) -> Result<()> {
        drop(self.stop);
        match self.thread.join() {
            Ok(result) => result,
            Err(_) => bail!("the thread that scrapes panicked"),
        }
    }
}

/// The metrics as text.
pub(super) struct Scrape(pub(super) String);

impl Scrape {
    /// Sum of the samples of a metric that have this label; all of them where it is empty.
    pub(super) fn sum(&self, metric: &str, label: &str) -> Result<u64> {
        let mut sum = 0;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(metric) else {
                continue;
            };
            if !rest.starts_with(['{', ' ']) || !rest.contains(label) {
                continue;
            }
            let value = rest.rsplit(' ').next().unwrap_or_default();
            sum += value
                .parse::<u64>()
                .with_context(|| format!("not a whole number: {line}"))?;
        }
        Ok(sum)
    }
}

/// One request over the UNIX socket; the body of the answer.
fn get(socket: &Path, path: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("no HTTP answer to {path}"))?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.ends_with(" 200 OK"), "{path}: {status}");
    Ok(body.to_owned())
}

/// Whether somebody is connected to the socket of this path, by `/proc/net/unix`.
fn is_connected(sockets: &str, path: &str) -> bool {
    const CONNECTED: &str = "03";
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(5) == Some(CONNECTED) && fields.nth(1) == Some(path)
    })
}

#[cfg(test)]
mod tests {
    use super::{Scrape, is_connected};

    #[test]
    fn samples_of_one_metric_are_added_up() {
        let scrape = Scrape(
            "# TYPE a counter\na{d=\"sent\",p=\"80\"} 3\na{d=\"sent\",p=\"81\"} 4\n\
             a{d=\"received\"} 10\na_b 100\nb 1.5\n"
                .to_owned(),
        );
        assert_eq!(scrape.sum("a", "d=\"sent\"").unwrap(), 7);
        assert_eq!(scrape.sum("a", "").unwrap(), 17);
        assert_eq!(scrape.sum("none", "").unwrap(), 0);
        assert!(scrape.sum("b", "").is_err());
    }

    #[test]
    fn a_listening_socket_is_no_connection() {
        let listening = "0000: 00000002 00000000 00010000 0001 01 50 /tmp/a\n";
        let connected = "0000: 00000003 00000000 00000000 0001 03 51 /tmp/a\n";
        assert!(!is_connected(listening, "/tmp/a"));
        assert!(is_connected(&[listening, connected].concat(), "/tmp/a"));
        assert!(!is_connected(connected, "/tmp/b"));
    }
}
