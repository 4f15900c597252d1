//! A network namespace, a daemon in the root namespace and a watcher: what a
//! scenario runs in.

use std::fs::File;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use serde_json::Value;

use crate::collect::{Collected, DEADLINE, wait_until};
use crate::kept::{self, How};
use crate::kernel::{self, Kernel, Limit};
use crate::metrics::{self, Scrape};
use crate::netns::{Netns, V4};
use crate::pace;
use crate::process::{Process, RST, ebpf_loaded, find_program};
use crate::watcher::{Seen, Watcher};
use crate::{expect, tcp};

/// The port of sentinels: refused connects that mark a place in the stream. No
/// scenario uses it.
pub(crate) const SENTINEL_PORT: u16 = 9;

/// How long a sentinel is waited for before another is sent.
const SENTINEL: Duration = Duration::from_millis(150);

/// Where the store is, in the folder of the test.
pub(crate) const DATA: &str = "data";

/// How far a scrape must be from every event, so that none is on its way into
/// the counters meanwhile.
const QUIET: jiff::SignedDuration = jiff::SignedDuration::from_millis(5);

/// How long the daemon may take to stop.
pub(crate) const STOP: Duration = Duration::from_secs(2);

/// Runs a scenario over both address families and asserts that the resets of
/// its namespace are exactly those it returns.
pub(crate) fn live(test: &str, tools: &[&str], scenario: impl FnOnce(&Lab) -> Vec<Value> + Send) {
    let Some(lab) = Lab::start(test, tools, &[]) else {
        return;
    };
    let expected = lab.inside(|| scenario(&lab));
    lab.finish(&expected);
}

/// Says why a test can't run here. Not through `println` alone, which the test runner
/// keeps to itself when the test passes, unless it is asked for it, as `cargo xtask
/// test` does to count these.
pub(crate) fn skipped(test: &str, why: &str) {
    println!("SKIPPED: {test}: {why}");
    let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {why}");
}

/// Whether root and these tools, programs or devices by their path, are there;
/// if not, the test is reported as skipped.
pub(crate) fn can_run(test: &str, tools: &[&str]) -> bool {
    if !rustix::process::geteuid().is_root() {
        skipped(test, "needs root");
        return false;
    }
    for tool in ["ip", "nsenter"].iter().chain(tools) {
        let there = if tool.starts_with('/') {
            File::options().read(true).write(true).open(tool).is_ok()
        } else {
            find_program(tool).is_some()
        };
        if !there {
            skipped(test, &format!("needs {tool}"));
            return false;
        }
    }
    true
}

/// Lets one live test run at a time on this machine, whatever starts it: each
/// has the processor to itself, and none sees the resets of another. The folder
/// for temporary files is what is locked, so that nothing is left behind.
pub(crate) fn exclusive() -> File {
    let folder = File::open(std::env::temp_dir()).expect("it can be opened");
    flock(&folder, FlockOperation::LockExclusive).expect("it can be locked");
    folder
}

/// A folder that is removed with its content.
#[derive(Debug)]
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// Makes one.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rst-test-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a folder can be made");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `rst daemon` as a child, ready.
#[derive(Debug)]
pub(crate) struct Daemon {
    /// Where it serves.
    pub(crate) socket: PathBuf,
    log: Collected<String>,
    /// Itself.
    pub(crate) process: Process,
}

impl Daemon {
    /// Starts it and waits until it is ready. The machine's own configuration
    /// does not matter. `by` turns its command into the
    /// one that is run, and becomes it.
    pub(crate) fn start(
        folder: &Folder,
        settings: &str,
        flags: &[&str],
        by: impl FnOnce(Command) -> Command,
    ) -> Self {
        let socket = folder.0.join("rst.sock");
        let config = folder.0.join("rst.toml");
        std::fs::write(&config, pace::settings(settings)).unwrap();
        let mut command = Command::new(RST);
        command.args(["daemon", "--debug", "--socket"]);
        command.arg(&socket).arg("--config").arg(config);
        if !settings.contains("listen = ") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command
            .arg("--data-dir")
            .arg(folder.0.join(DATA))
            .args(flags);
        let mut process = Process::start(by(command));
        let log = Collected::start(process.stderr(), |line| line);
        let daemon = Self {
            socket,
            log,
            process,
        };
        wait_until("the daemon is ready", || {
            assert!(
                !daemon.log.wait_end(Duration::ZERO),
                "the daemon ended: {}",
                daemon.log()
            );
            matches!(metrics::get(&daemon.socket, "/readyz"), Ok((200, _)))
        });
        daemon
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.with(|lines| lines.join("\n"))
    }

    /// Stops it with a signal and asserts that it leaves nothing behind.
    pub(crate) fn stop(&mut self, signal: Signal) {
        let programs = self.process.ebpf_programs();
        assert!(!programs.is_empty(), "the daemon holds its programs");
        self.process.signal(signal);
        let status = self.process.wait(STOP);
        assert_eq!(status.code(), Some(0), "{}", self.log());
        assert!(!self.socket.exists(), "the socket is left behind");
        // The kernel frees them after a grace period.
        wait_until("the programs are gone", || !ebpf_loaded(&programs));
    }
}

/// Everything that a scenario needs. The fields are dropped in this order.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Sees all resets of all namespaces.
    pub(crate) watcher: Watcher,
    /// Sends them.
    pub(crate) daemon: Daemon,
    /// Where the traffic is.
    pub(crate) netns: Netns,
    /// More namespaces of the scenario, as they are in the JSON.
    others: Mutex<Vec<u64>>,
    /// For files of the test.
    pub(crate) folder: Folder,
    /// What the kernel can show.
    pub(crate) kernel: Kernel,
    test: String,
    /// What another daemon would have to be started with to be the same.
    how: Option<How>,
    /// Whether the daemon has seen every connection begin.
    ages_are_known: bool,
    /// The counters when the watcher had begun to see everything.
    before: Option<Scrape>,
    _exclusive: File,
}

impl Lab {
    /// Starts all of it; `None` where the test is skipped.
    pub(crate) fn start(test: &str, tools: &[&str], daemon_flags: &[&str]) -> Option<Self> {
        Self::configured(test, tools, "", daemon_flags)
    }

    /// The same with a daemon that reads these settings.
    pub(crate) fn configured(
        test: &str,
        tools: &[&str],
        settings: &str,
        daemon_flags: &[&str],
    ) -> Option<Self> {
        if !can_run(test, tools) {
            return None;
        }
        let exclusive = exclusive();
        let how = How::new(settings, daemon_flags);
        let (daemon, folder) = kept::take(Some(&how)).unwrap_or_else(|| {
            let folder = Folder::new();
            (how.start(&folder), folder)
        });
        let mut lab = Self::new(test, Netns::new(), daemon, folder, exclusive);
        lab.how = Some(how);
        Some(lab)
    }

    /// The same with a daemon that another command becomes ([`Daemon::start`]).
    pub(crate) fn by(
        test: &str,
        tools: &[&str],
        settings: &str,
        by: impl FnOnce(Command) -> Command,
    ) -> Option<Self> {
        let lab = Self::prepared(test, tools, settings, by, || ());
        lab.map(|(lab, ())| lab)
    }

    /// The same with a daemon that starts after something has happened in the
    /// namespace.
    pub(crate) fn after<R: Send>(
        test: &str,
        happened: impl FnOnce() -> R + Send,
    ) -> Option<(Self, R)> {
        let by = |command| command;
        let (lab, result) = Self::prepared(test, &[], "", by, happened)?;
        Some((lab.of_any_age(), result))
    }

    /// The same where the daemon can't know how old each connection is.
    pub(crate) fn of_any_age(mut self) -> Self {
        self.ages_are_known = false;
        self
    }

    fn prepared<R: Send>(
        test: &str,
        tools: &[&str],
        settings: &str,
        by: impl FnOnce(Command) -> Command,
        happened: impl FnOnce() -> R + Send,
    ) -> Option<(Self, R)> {
        if !can_run(test, tools) {
            return None;
        }
        let exclusive = exclusive();
        // It would see what happens.
        kept::take(None);
        let netns = Netns::new();
        let result = netns.inside(happened);
        let folder = Folder::new();
        let daemon = Daemon::start(&folder, settings, &[], by);
        let lab = Self::new(test, netns, daemon, folder, exclusive);
        Some((lab, result))
    }

    fn new(test: &str, netns: Netns, daemon: Daemon, folder: Folder, exclusive: File) -> Self {
        let kernel = Kernel::of(&Scrape::take(&daemon.socket));
        let watcher = Watcher::start(&daemon.socket, &[]);
        let mut lab = Self {
            watcher,
            daemon,
            netns,
            others: Mutex::default(),
            folder,
            kernel,
            test: test.to_owned(),
            how: None,
            ages_are_known: true,
            before: None,
            _exclusive: exclusive,
        };
        lab.before = Some(lab.quiet_scrape());
        lab
    }

    /// Starts a daemon in place of one that has ended, with the same settings.
    pub(crate) fn restart(&mut self) {
        let how = self.how.take().unwrap_or_else(|| How::new("", &[]));
        self.daemon = how.start(&self.folder);
    }

    /// Runs code in the namespace, on a thread of its own.
    pub(crate) fn inside<R: Send>(&self, code: impl FnOnce() -> R + Send) -> R {
        self.netns.inside(code)
    }

    /// Makes one more namespace, whose events are this lab's too.
    pub(crate) fn another(&self) -> Netns {
        let netns = Netns::new();
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        others.push(netns.inode);
        netns
    }

    /// The counters when the watcher had begun to see everything.
    pub(crate) fn before(&self) -> &Scrape {
        self.before.as_ref().expect("set by start")
    }

    /// Whether an event is of a namespace of this lab.
    pub(crate) fn is_own(&self, event: &Value) -> bool {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        event["netns"] == self.netns.inode || others.iter().any(|inode| event["netns"] == *inode)
    }

    /// Waits until everything that has happened is in the stream. One sentinel
    /// is not enough: a received reset that may be none is held back until the
    /// reader's next look but one.
    pub(crate) fn flush(&self) {
        for _ in 0..3 {
            self.sentinel();
        }
    }

    /// Sends sentinels until all events of one have arrived.
    fn sentinel(&self) {
        let all = if self.kernel.shows(Limit::NoSocket) {
            2
        } else {
            1
        };
        let to = SocketAddr::new(V4.server, SENTINEL_PORT);
        wait_until("a sentinel arrives", || {
            // A port may come up twice, so earlier events don't count.
            let earlier = self.watcher.seen.with(<[Seen]>::len);
            let port = self.inside(|| tcp::connect_refused(V4.client, to)).port();
            let arrived = |events: &[Seen]| {
                let mine = events[earlier..].iter().filter(|seen| {
                    let (local, remote) = (&seen.event["local"], &seen.event["remote"]);
                    self.is_own(&seen.event)
                        && is_sentinel(&seen.event)
                        && (local["port"] == port || remote["port"] == port)
                });
                (mine.count() == all).then_some(())
            };
            self.watcher.seen.wait(SENTINEL, arrived).is_some()
        });
    }

    /// Reads the counters at a moment when no event is under way, so that each
    /// event is certainly before it or after it.
    pub(crate) fn quiet_scrape(&self) -> Scrape {
        let mut scrape = None;
        wait_until("no reset happens during a scrape", || {
            self.flush();
            // The sentinels themselves must be far enough away.
            std::thread::sleep(2 * QUIET.unsigned_abs());
            let taken = Scrape::take(&self.daemon.socket);
            std::thread::sleep(2 * QUIET.unsigned_abs());
            self.flush();
            let quiet = taken.begin - QUIET..taken.end + QUIET;
            let disturbed = |events: &[Seen]| events.iter().any(|seen| quiet.contains(&seen.time));
            scrape = Some(taken);
            !self.watcher.seen.with(disturbed)
        });
        scrape.expect("just taken")
    }

    /// Ends the scenario: asserts that the resets of its namespaces were exactly
    /// the expected ones, that the counters agree with the stream, and that the
    /// daemon stops well. Returns those namespaces' events.
    pub(crate) fn finish(self, expected: &[Value]) -> Vec<Value> {
        self.finish_with(expected, |_| false)
    }

    /// Likewise; events for which `tolerated` holds may come any number of times.
    pub(crate) fn finish_with(
        mut self,
        expected: &[Value],
        tolerated: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let after = self.quiet_scrape();
        let before = self.before().clone();
        let kept = self.how.take().filter(|_| kept::keeps());
        if kept.is_some() {
            self.watcher.process.signal(Signal::TERM);
        } else {
            self.daemon.stop(Signal::TERM);
        }
        assert!(
            self.watcher.seen.wait_end(DEADLINE),
            "the watcher goes on after the daemon has stopped"
        );
        let all = self.watcher.events();
        let between: Vec<Value> = all
            .iter()
            .filter(|seen| seen.time > before.end && seen.time < after.begin)
            .map(|seen| seen.event.clone())
            .collect();
        let own: Vec<Value> = all
            .into_iter()
            .map(|seen| seen.event)
            .filter(|event| self.is_own(event) && !is_sentinel(event))
            .collect();
        for event in &own {
            println!("{}", told(event));
        }
        let strict: Vec<Value> = own
            .iter()
            .filter(|event| !tolerated(event))
            .cloned()
            .collect();
        let (expected, limits) = self.kernel.expected(expected);
        let mut problems = String::new();
        for result in [
            expect::check(&strict, &expected),
            metrics::compare(&before, &after, &between),
            self.watcher_is_content(kept.is_some()),
            self.verdicts_hold(),
            self.ages_are_known(&own),
        ] {
            problems.push_str(&result.err().unwrap_or_default());
        }
        assert!(problems.is_empty(), "\n{problems}{}", self.daemon.log());
        for limit in limits {
            kernel::limited(&self.test, limit);
        }
        if let Some(how) = kept {
            kept::leave(how, self.daemon, self.folder);
        }
        own
    }

    /// The daemon has decided each time as the kernel did, and the same without
    /// the kernel's reason.
    fn verdicts_hold(&self) -> Result<(), String> {
        let log = self.daemon.log();
        let mut otherwise = log.lines().filter(|line| line.contains(" decided "));
        otherwise
            .next()
            .map_or(Ok(()), |line| Err(format!("{line}\n")))
    }

    fn ages_are_known(&self, events: &[Value]) -> Result<(), String> {
        let mut unknown = events.iter().filter(|event| {
            self.ages_are_known
                && event["origin"] == "socket"
                && event["state"] != "LISTEN"
                && event["age_ms"].is_null()
        });
        unknown
            .next()
            .map_or(Ok(()), |event| Err(format!("of unknown age: {event}\n")))
    }

    fn watcher_is_content(&self, daemon_goes_on: bool) -> Result<(), String> {
        let log = self.watcher.log.with(|lines| lines.join("\n"));
        let end = if daemon_goes_on {
            ""
        } else {
            "rst: the daemon has stopped"
        };
        if log == end {
            Ok(())
        } else {
            Err(format!("the watcher said: {log}\n"))
        }
    }

    /// Waits for an event of these namespaces, from now or before.
    pub(crate) fn wait_event(&self, wanted: &Value) -> Seen {
        let mut wanted = wanted.clone();
        self.kernel.lessen(&mut wanted);
        let found = self.watcher.seen.wait(DEADLINE, |events| {
            let mut events = events.iter();
            events
                .find(|seen| self.is_own(&seen.event) && expect::matches(&wanted, &seen.event))
                .cloned()
        });
        found.unwrap_or_else(|| panic!("no event like {wanted}"))
    }

    /// How long something takes to be printed, from when it is done.
    pub(crate) fn latency(&self, done: Instant, wanted: &Value) -> Duration {
        self.wait_event(wanted).at.saturating_duration_since(done)
    }
}

/// The verdict, for whoever reads the output.
fn told(event: &Value) -> String {
    let words = ["direction", "cause", "impact", "role", "basis"];
    words
        .map(|name| event[name].as_str().unwrap_or("null"))
        .join(" | ")
}

/// Whether an event belongs to a sentinel.
pub(crate) fn is_sentinel(event: &Value) -> bool {
    event["local"]["port"] == SENTINEL_PORT || event["remote"]["port"] == SENTINEL_PORT
}
