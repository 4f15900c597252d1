//! The command line from outside: exit codes, messages, what is left behind.
//!
//! What needs root says `SKIPPED:` on stderr without it.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Longest that a test waits for anything.
const DEADLINE: Duration = Duration::from_secs(10);

/// Longest that a command may take to end after a signal.
const STOP: Duration = Duration::from_secs(2);

fn rst() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rst"));
    command.stdin(Stdio::null());
    command
}

/// A folder of a test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rst-cli-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn socket(&self) -> PathBuf {
        self.0.join("rst.sock")
    }

    /// Nothing was bound, so nothing can have been attached: that comes later.
    fn assert_untouched(&self) {
        assert!(!self.socket().exists());
        assert!(!self.socket().with_extension("sock.lock").exists());
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asserts exit code 2 and one line on stderr, with these words in it.
fn assert_usage(output: &Output, words: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert_words(&message, words);
}

/// Asserts exit code 1 and one line on stderr besides the log's, with these
/// words in it.
fn assert_failed(output: &Output, words: &[&str]) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{message}");
    let lines = message.lines().filter(|line| line.starts_with("rst: "));
    assert_eq!(lines.count(), 1, "{message}");
    assert_words(&message, words);
}

fn assert_words(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} is not in: {message}");
    }
}

fn is_root(test: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        // Not through `eprintln`, which is shown for failed tests alone.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: needs root");
    }
    root
}

/// A running command; killed on drop. What it logs is kept open.
struct Running(Child, Option<Lines<BufReader<ChildStderr>>>);

impl Running {
    fn start(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(command.spawn().unwrap(), None)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < STOP, "it still runs");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a daemon on its own socket and any port, and waits until it is ready.
fn daemon(socket: &Path) -> Running {
    let mut command = rst();
    command.args(["daemon", "--config", "/dev/null", "--listen", "127.0.0.1:0"]);
    command.arg("--socket").arg(socket);
    command.arg("--data-dir").arg(socket.with_extension("data"));
    let mut daemon = Running::start(command);
    let mut log = BufReader::new(daemon.0.stderr.take().unwrap()).lines();
    let ready = log.find(|line| line.as_ref().is_ok_and(|line| line.contains("ready: ")));
    assert!(ready.is_some(), "the daemon ended before it was ready");
    daemon.1 = Some(log);
    daemon
}

#[test]
fn usage_errors_exit_with_2() {
    let folder = Folder::new();
    let socket = folder.socket();
    for (args, words) in [
        (&["daemon", "--bogus"][..], &["--bogus"][..]),
        (
            &["daemon", "--listen", "127.0.0.1:99999"],
            &["--listen", "99999"],
        ),
        (
            &["daemon", "--listen", "localhost"],
            &["--listen", "localhost"],
        ),
        (
            &["daemon", "--details-per-second", "many"],
            &["--details-per-second", "many"],
        ),
        (&["watch", "--bogus"], &["--bogus"]),
        (&["watch", "--port", "70000"], &["--port", "70000"]),
        (
            &["watch", "--peer", "10.0.0.0/33"],
            &["--peer", "10.0.0.0/33"],
        ),
        (&["watch", "--direction", "up"], &["--direction", "up"]),
        (&["watch", "--netns", "self"], &["--netns", "self"]),
    ] {
        let output = rst()
            .args(args)
            .arg("--socket")
            .arg(&socket)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
        assert_words(&stderr(&output), words);
    }
    folder.assert_untouched();
}

#[test]
fn wrong_configuration_exits_with_2() {
    let folder = Folder::new();
    let cases = [
        ("listne = \"127.0.0.1:0\"\n", &[":1:", "listne"][..]),
        ("listen = \"127.0.0.1:99999\"\n", &[":1:", "listen"]),
        ("\nring_bytes = 5000\n", &[":2:", "ring_bytes"]),
        ("listen = \n", &[":1:"]),
    ];
    for (text, words) in cases {
        let file = folder.file("rst.toml", text);
        for command in [&["daemon", "--config"][..], &["config", "check"]] {
            let mut rst = rst();
            rst.args(command).arg(&file);
            if command[0] == "daemon" {
                rst.arg("--socket").arg(folder.socket());
            }
            assert_usage(&rst.output().unwrap(), words);
        }
    }
    // All problems at once, a line each.
    let file = folder.file("rst.toml", "a = 1\nb = 2\n");
    let output = rst().args(["config", "check"]).arg(&file).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stderr(&output).lines().count(), 2, "{output:?}");
    folder.assert_untouched();
}

/// The journal takes the priority from the beginning of each line, and knows the time.
#[test]
fn failures_have_a_priority_in_the_journal() {
    use std::os::unix::fs::MetadataExt as _;

    let folder = Folder::new();
    let config = folder.file("rst.toml", "mystery = 1\nlisten = 3\n");
    let said = folder.0.join("stderr");
    let stderr = std::fs::File::create(&said).unwrap();
    let meta = stderr.metadata().unwrap();
    let status = rst()
        .args(["daemon", "--config"])
        .arg(&config)
        .env("JOURNAL_STREAM", format!("{}:{}", meta.dev(), meta.ino()))
        .stderr(stderr)
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(2));
    let said = std::fs::read_to_string(&said).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{said}");
    assert!(lines[0].starts_with("<3>rst: "), "{said}");
    assert!(lines.iter().all(|line| line.starts_with("<3>")), "{said}");
}

#[test]
fn unreadable_configuration_exits_with_2() {
    let folder = Folder::new();
    let missing = folder.0.join("missing.toml");
    let binary = folder.0.join("binary.toml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    for file in [&missing, &folder.0, &binary] {
        let name = file.to_str().unwrap();
        let mut command = rst();
        command.args(["daemon", "--config"]).arg(file);
        command.arg("--socket").arg(folder.socket());
        assert_usage(&command.output().unwrap(), &[name]);
    }
    folder.assert_untouched();
}

#[test]
fn the_example_passes_the_check() {
    let folder = Folder::new();
    let example = rst().args(["config", "example"]).output().unwrap();
    assert!(
        example.status.success() && example.stderr.is_empty(),
        "{example:?}"
    );
    let text = String::from_utf8(example.stdout).unwrap();
    let file = folder.file("rst.toml", &text);
    let output = rst().args(["config", "check"]).arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_words(
        &String::from_utf8(output.stdout).unwrap(),
        &["rst.toml: ok"],
    );
    let missing = folder.0.join("missing.toml");
    let output = rst()
        .args(["config", "check"])
        .arg(missing)
        .output()
        .unwrap();
    assert_usage(&output, &["missing.toml"]);
}

/// Printing into a pipe that nobody reads is no failure.
#[test]
fn the_example_may_be_cut_short() {
    let mut command = rst();
    command.args(["config", "example"]);
    let mut example = Running::start(command);
    drop(example.0.stdout.take());
    assert_eq!(example.wait().code(), Some(0));
}

#[test]
fn second_daemon_leaves_the_first_alone() {
    if !is_root("second_daemon_leaves_the_first_alone") {
        return;
    }
    let folder = Folder::new();
    let socket = folder.socket();
    let mut first = daemon(&socket);
    let start = |listen: &str, socket: &Path| {
        let mut command = rst();
        command.args(["daemon", "--config", "/dev/null", "--listen", listen]);
        command.arg("--socket").arg(socket).output().unwrap()
    };
    let output = start("127.0.0.1:0", &socket);
    assert_failed(&output, &["another rst daemon", "rst.sock", "--socket"]);
    assert!(
        UnixStream::connect(&socket).is_ok(),
        "the first still serves"
    );

    // Somebody on the port: any program.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let other = folder.0.join("other.sock");
    let output = start(&address, &other);
    assert_failed(&output, &["in use", &address, "--listen"]);
    assert!(!other.exists(), "its socket is left behind");

    first.signal(Signal::TERM);
    assert_eq!(first.wait().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn signals_stop_the_daemon() {
    if !is_root("signals_stop_the_daemon") {
        return;
    }
    for signal in [Signal::INT, Signal::TERM] {
        let folder = Folder::new();
        let mut daemon = daemon(&folder.socket());
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0), "{signal:?}");
        assert!(!folder.socket().exists(), "{signal:?}");
    }
}

/// The program as a user without any privilege, who can reach its folder.
fn unprivileged(folder: &Folder) -> Command {
    use std::os::unix::fs::PermissionsExt as _;
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(&folder.0, open).unwrap();
    // The build folder may be closed to others.
    let program = folder.0.join("rst");
    std::fs::copy(env!("CARGO_BIN_EXE_rst"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg(program).stdin(Stdio::null());
    command
}

#[test]
fn daemon_without_privilege_names_the_capabilities() {
    if !is_root("daemon_without_privilege_names_the_capabilities") {
        return;
    }
    let folder = Folder::new();
    let mut command = unprivileged(&folder);
    command.args(["daemon", "--config", "/dev/null", "--listen", "127.0.0.1:0"]);
    let output = command
        .arg("--socket")
        .arg(folder.socket())
        .output()
        .unwrap();
    assert_failed(&output, &["CAP_BPF", "CAP_PERFMON", "root"]);
    assert!(!folder.socket().exists(), "its socket is left behind");
}

#[test]
fn watch_without_daemon_or_privilege_says_both() {
    if !is_root("watch_without_daemon_or_privilege_says_both") {
        return;
    }
    let folder = Folder::new();
    let mut command = unprivileged(&folder);
    let output = command
        .args(["watch", "--socket"])
        .arg(folder.socket())
        .output()
        .unwrap();
    assert_failed(
        &output,
        &["no rst daemon serves", "rst.sock", "CAP_BPF", "CAP_PERFMON"],
    );
}

/// As in `rst watch | head -1`, with a daemon and without.
#[test]
fn watch_ends_when_nobody_reads() {
    if !is_root("watch_ends_when_nobody_reads") {
        return;
    }
    // Resets of the root namespace would disturb the live tests.
    let lock = std::fs::File::create(std::env::temp_dir().join("rst-live-test.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let folder = Folder::new();
    let socket = folder.socket();
    for with_daemon in [false, true] {
        let _daemon = with_daemon.then(|| daemon(&socket));
        let mut command = rst();
        command.args(["watch", "--json", "--socket"]).arg(&socket);
        let mut watch = Running::start(command);
        let mut out = BufReader::new(watch.0.stdout.take().unwrap());
        let start = Instant::now();
        let reader = std::thread::spawn(move || out.read_line(&mut String::new()));
        let refused = || {
            assert!(start.elapsed() < DEADLINE, "with a daemon: {with_daemon}");
            // Nobody listens there: a refused connect on loopback.
            assert!(TcpStream::connect("127.0.0.1:9").is_err());
            std::thread::sleep(Duration::from_millis(10));
        };
        while !reader.is_finished() {
            refused();
        }
        assert!(reader.join().unwrap().unwrap() > 0);
        // The pipe is closed by now; the next resets can't be printed.
        let status = loop {
            refused();
            if let Some(status) = watch.0.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(0), "with a daemon: {with_daemon}");
    }
}

/// What `rst doctor --json` prints, and its exit code.
fn examined(mut command: Command, socket: &Path) -> (Option<i32>, Vec<serde_json::Value>) {
    command.args(["doctor", "--json", "--socket"]).arg(socket);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    (output.status.code(), lines.collect())
}

/// The finding that begins a line of `rst doctor`.
fn finding<'a>(lines: &'a [serde_json::Value], check: &str) -> &'a str {
    let found = lines
        .iter()
        .find(|line| line["check"] == check && line["verdict"] == "finding");
    found.and_then(|line| line["what"].as_str()).unwrap()
}

#[test]
fn doctor_without_a_daemon_tries_the_probes() {
    if !is_root("doctor_without_a_daemon_tries_the_probes") {
        return;
    }
    let folder = Folder::new();
    let (code, lines) = examined(rst(), &folder.socket());
    assert_eq!(code, Some(1));
    assert!(finding(&lines, "daemon").starts_with("none answers at "));
    let ok = lines.iter().find(|line| line["verdict"] == "ok").unwrap();
    assert_eq!(ok["check"], "probes");
    let what = ok["what"].as_str().unwrap();
    assert!(what.contains("tcp_send_reset, tcp_receive_reset"), "{what}");
    folder.assert_untouched();
}

#[test]
fn doctor_says_what_the_probes_need() {
    if !is_root("doctor_says_what_the_probes_need") {
        return;
    }
    let folder = Folder::new();
    let (code, lines) = examined(unprivileged(&folder), &folder.socket());
    assert_eq!(code, Some(1));
    assert!(finding(&lines, "probes").starts_with("this process can't attach them"));
    assert!(lines.iter().any(|line| {
        let why = line["why"].as_str().unwrap_or_default();
        why.contains("CAP_BPF CAP_PERFMON missing")
    }));
}

/// What is no daemon can't be asked: the host is not examined.
#[test]
fn doctor_fails_where_the_socket_is_not_ours() {
    let folder = Folder::new();
    let socket = folder.socket();
    let other = UnixListener::bind(&socket).unwrap();
    let answer = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().unwrap();
        stream.write_all(b"220 mail.example.org ESMTP\r\n").unwrap();
    });
    let (code, lines) = examined(rst(), &socket);
    assert_eq!((code, lines.len()), (Some(2), 0));
    answer.join().unwrap();
}
