//! Who observes: nobody, an empty program, the daemon in several ways, and what people use
//! otherwise.

use std::{
    fs,
    fs::File,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    cpu,
    daemon::{Counted, Daemon, Scraper},
    interrupt,
    namespace::Namespace,
    process::{Dir, Running},
    programs::{EmptyPrograms, TRACEPOINTS},
};

/// An observer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Without,
    Empty,
    Daemon,
    Watch,
    Scrape,
    BpftraceCount,
    BpftracePrint,
    Tcpdump,
}

impl Column {
    pub(super) const ALL: [Self; 8] = [
        Self::Without,
        Self::Empty,
        Self::Daemon,
        Self::Watch,
        Self::Scrape,
        Self::BpftraceCount,
        Self::BpftracePrint,
        Self::Tcpdump,
    ];

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Without => "without",
            Self::Empty => "empty programs",
            Self::Daemon => "rst daemon",
            Self::Watch => "rst + watch",
            Self::Scrape => "rst + scrape 1/s",
            Self::BpftraceCount => "bpftrace count",
            Self::BpftracePrint => "bpftrace print",
            Self::Tcpdump => "tcpdump",
        }
    }

    /// Whether it is somebody else's program, which this machine may not be able to run.
    pub(super) fn is_peer(self) -> bool {
        matches!(
            self,
            Self::BpftraceCount | Self::BpftracePrint | Self::Tcpdump
        )
    }

    /// Starts it; returns when it observes.
    pub(super) fn start(self, binary: &Path, namespace: &Namespace) -> Result<Observer> {
        Ok(match self {
            Self::Without => Observer::Nobody,
            Self::Empty => Observer::Empty {
                _programs: EmptyPrograms::attach(&TRACEPOINTS)?,
            },
            Self::Daemon => Observer::rst(Daemon::start(binary)?, None, None),
            Self::Watch => {
                let daemon = Daemon::start(binary)?;
                let watch = daemon.watch(binary)?;
                Observer::rst(daemon, Some(watch), None)
            }
            Self::Scrape => {
                let daemon = Daemon::start(binary)?;
                let scraper = daemon.scrape_each_second();
                Observer::rst(daemon, None, Some(scraper))
            }
            Self::BpftraceCount => Observer::Peer(Peer::bpftrace(COUNT, counted_by_bpftrace)?),
            Self::BpftracePrint => Observer::Peer(Peer::bpftrace(PRINT, printed_by_bpftrace)?),
            Self::Tcpdump => Observer::Peer(Peer::tcpdump(namespace)?),
        })
    }
}

/// The observers this machine can run.
#[derive(Default)]
pub(super) struct Available {
    /// Nobody is the first.
    pub(super) columns: Vec<Column>,
    /// Why the others can't be run.
    pub(super) missing: Vec<String>,
}

/// Starts each once: this warms up, and shows which of the others' programs can't run here.
pub(super) fn available(binary: &Path) -> Result<Available> {
    eprintln!("looking for observers");
    let mut found = Available::default();
    for column in Column::ALL {
        interrupt::check()?;
        let namespace = Namespace::new()?;
        match column.start(binary, &namespace).and_then(Observer::finish) {
            Ok(_) => found.columns.push(column),
            Err(error) if column.is_peer() => {
                let missing = format!("{} can't run here: {error:#}", column.label());
                found.missing.push(missing);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Counts resets by state and port.
const COUNT: &str = "
    tracepoint:tcp:tcp_send_reset { @sent[args->state] = count(); }
    tracepoint:tcp:tcp_receive_reset { @received[args->dport] = count(); }";

/// Prints a line for each.
const PRINT: &str = r#"
    tracepoint:tcp:tcp_send_reset { printf("sent %d\n", args->state); }
    tracepoint:tcp:tcp_receive_reset { printf("received %d\n", args->dport); }"#;

/// An observer at work; stopped when dropped.
pub(super) enum Observer {
    Nobody,
    Empty {
        _programs: EmptyPrograms,
    },
    Rst {
        daemon: Daemon,
        watch: Option<Running>,
        scraper: Option<Scraper>,
    },
    Peer(Peer),
}

impl Observer {
    fn rst(daemon: Daemon, watch: Option<Running>, scraper: Option<Scraper>) -> Self {
        Self::Rst {
            daemon,
            watch,
            scraper,
        }
    }

    /// CPU time of its processes; `None` where it has none.
    pub(super) fn cpu(&self) -> Result<Option<Duration>> {
        match self {
            Self::Nobody | Self::Empty { .. } => Ok(None),
            Self::Rst { daemon, watch, .. } => {
                let watch = watch.as_ref().map(|watch| cpu::time(watch.pid()));
                Ok(Some(
                    cpu::time(daemon.pid())? + watch.transpose()?.unwrap_or_default(),
                ))
            }
            Self::Peer(peer) => Ok(Some(cpu::time(peer.process.pid())?)),
        }
    }

    /// What it has counted so far. Peers say it only at their end, and have met nothing yet.
    pub(super) fn counted(&self) -> Result<Counted> {
        match self {
            Self::Rst { daemon, .. } => daemon.counted(),
            Self::Nobody | Self::Empty { .. } | Self::Peer(_) => Ok(Counted::default()),
        }
    }

    /// Stops it; what it has counted in all, where it counts.
    pub(super) fn finish(self) -> Result<Option<Counted>> {
        match self {
            Self::Nobody | Self::Empty { .. } => Ok(None),
            Self::Rst {
                daemon,
                watch,
                scraper,
            } => {
                let counted = daemon.counted()?;
                if let Some(scraper) = scraper {
                    scraper.stop()?;
                }
                if let Some(watch) = watch {
                    watch.stop()?;
                }
                daemon.stop()?;
                Ok(Some(counted))
            }
            Self::Peer(peer) => peer.finish().map(Some),
        }
    }
}

/// Longest that tcpdump leaves packets in a block that is not full (libpcap's time-out).
const BLOCK: Duration = Duration::from_secs(1);

/// Somebody else's program.
pub(super) struct Peer {
    process: Running,
    /// Time after which it has taken what there is.
    delay: Duration,
    /// Where it leaves its result.
    result: PathBuf,
    /// Finds the number of resets sent there.
    count: fn(&str) -> Result<u64>,
    _dir: Dir,
}

impl Peer {
    fn bpftrace(script: &str, count: fn(&str) -> Result<u64>) -> Result<Self> {
        // Says that all is attached, in whichever order that is done; padded, for it is written
        // in blocks.
        let pad = ".".repeat(8192);
        let script = format!(
            "interval:ms:50 {{ printf(\"first\\n{pad}\\n\"); }} {script} \
             interval:ms:50 {{ printf(\"last\\n{pad}\\n\"); }}"
        );
        // It wants tracefs where it may not be mounted.
        let mount = "mount -t tracefs none /sys/kernel/tracing && \
                     mount -t debugfs none /sys/kernel/debug && exec \"$@\"";
        let dir = Dir::new()?;
        let (result, log) = (dir.join("out"), dir.join("log"));
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private"]);
        command.args(["sh", "-c", mount, "sh", "bpftrace", "-o"]);
        command.arg(&result).args(["-e", &script]);
        let process = start("bpftrace", command, &log, &result, |out| {
            let has = |word| out.lines().any(|line| line == word);
            has("first") && has("last")
        })?;
        Ok(Self {
            process,
            delay: Duration::ZERO,
            result,
            count,
            _dir: dir,
        })
    }

    fn tcpdump(namespace: &Namespace) -> Result<Self> {
        let dir = Dir::new()?;
        let (log, packets) = (dir.join("log"), dir.join("pcap"));
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.path()));
        command.args(["tcpdump", "-Z", "root", "-n", "-i", "lo", "-w"]);
        command.arg(packets).arg("tcp[tcpflags] & tcp-rst != 0");
        let process = start("tcpdump", command, &log, &log, |log| {
            log.contains("listening on lo")
        })?;
        Ok(Self {
            process,
            delay: BLOCK,
            result: log,
            count: captured_by_tcpdump,
            _dir: dir,
        })
    }

    fn finish(self) -> Result<Counted> {
        thread::sleep(self.delay);
        self.process.stop()?;
        let text = fs::read_to_string(&self.result)?;
        Ok(Counted {
            counted: (self.count)(&text)?,
            missed: 0,
        })
    }
}

/// Starts a program that complains to `log` and is ready once the text of `shown` says so.
fn start(
    name: &str,
    mut command: Command,
    log: &Path,
    shown: &Path,
    is_ready: fn(&str) -> bool,
) -> Result<Running> {
    command.stdout(Stdio::null()).stderr(File::create(log)?);
    let mut process = Running::start(name, &mut command)?;
    interrupt::wait_for(&format!("{name} is ready"), || {
        process.check(log)?;
        let text = fs::read_to_string(shown).unwrap_or_default();
        Ok(is_ready(&text).then_some(()))
    })?;
    Ok(process)
}

/// Sum of `@sent[7]: 12`.
fn counted_by_bpftrace(text: &str) -> Result<u64> {
    text.lines()
        .filter_map(|line| line.strip_prefix("@sent[")?.split_once("]: "))
        .map(|(_, count)| Ok(count.trim().parse::<u64>()?))
        .sum()
}

fn printed_by_bpftrace(text: &str) -> Result<u64> {
    let lines = text.lines().filter(|line| line.starts_with("sent "));
    Ok(u64::try_from(lines.count())?)
}

fn captured_by_tcpdump(log: &str) -> Result<u64> {
    let line = log.lines().find_map(|line| {
        line.strip_suffix(" packets captured")
            .or_else(|| line.strip_suffix(" packet captured"))
    });
    let count = line.context("tcpdump does not say what it captured")?;
    Ok(count.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::{captured_by_tcpdump, counted_by_bpftrace, printed_by_bpftrace};

    #[test]
    fn bpftrace_counts_by_key() {
        let text = "first\n@received[80]: 5\n@sent[7]: 30\n@sent[1]: 12\n";
        assert_eq!(counted_by_bpftrace(text).unwrap(), 42);
        assert_eq!(counted_by_bpftrace("").unwrap(), 0);
        assert!(counted_by_bpftrace("@sent[7]: x\n").is_err());
    }

    #[test]
    fn bpftrace_prints_lines() {
        let text = "last\nsent 7\nreceived 80\nsent 7\nLost 3 events\n";
        assert_eq!(printed_by_bpftrace(text).unwrap(), 2);
    }

    #[test]
    fn tcpdump_says_what_it_captured() {
        let log = "listening on lo\n12 packets captured\n14 packets received by filter\n";
        assert_eq!(captured_by_tcpdump(log).unwrap(), 12);
        assert_eq!(captured_by_tcpdump("1 packet captured\n").unwrap(), 1);
        assert!(captured_by_tcpdump("").is_err());
    }
}
