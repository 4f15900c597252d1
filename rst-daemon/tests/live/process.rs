//! Child processes that end with the test.

use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::pace;

/// The program under test.
pub(crate) const RST: &str = env!("CARGO_BIN_EXE_rst");

/// A child that is killed, by its pid, when it is dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program with its output piped.
    pub(crate) fn start(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Self { child, name }
    }

    /// Its pid.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The pids of its children.
    pub(crate) fn children(&self) -> Vec<u32> {
        let pid = self.pid();
        let children = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let children = children.split_whitespace();
        children.map(|pid| pid.parse().unwrap()).collect()
    }

    /// Its standard input, once.
    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("taken once")
    }

    /// Its standard output, once.
    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().expect("taken once")
    }

    /// Its standard error, once.
    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().expect("taken once")
    }

    /// Sends it a signal. It has not been waited for, so the pid is its own.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("the child is there");
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self, patience: Duration) -> ExitStatus {
        self.ends_within(patience)
            .unwrap_or_else(|| panic!("{} still runs after {patience:?}", self.name))
    }

    /// Waits for its end; `None` where it still runs.
    pub(crate) fn ends_within(&mut self, patience: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        let patience = pace::patience(patience);
        loop {
            let status = self.child.try_wait().expect("it can be waited for");
            if status.is_some() || start.elapsed() >= patience {
                return status;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many files it has open.
    pub(crate) fn descriptors(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(folder)
            .expect("the child is there")
            .count()
    }

    /// Ids of the eBPF programs it holds.
    pub(crate) fn ebpf_programs(&self) -> Vec<u32> {
        let folder = format!("/proc/{}/fdinfo", self.pid());
        std::fs::read_dir(folder)
            .expect("the child is there")
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path()).ok())
            .filter_map(|text| {
                let id = text.lines().find_map(|line| line.strip_prefix("prog_id:"));
                id?.trim().parse().ok()
            })
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the kernel still has any of these eBPF programs.
pub(crate) fn ebpf_loaded(ids: &[u32]) -> bool {
    aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .any(|program| ids.contains(&program.id()))
}

/// Where a program is, system folders first: what comes first in `PATH` may be
/// a wrapper that runs it as a child.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    ["/usr/bin", "/usr/sbin", "/bin", "/sbin"]
        .into_iter()
        .chain(path.split(':'))
        .map(|folder| Path::new(folder).join(name))
        .find(|file| file.is_file())
}
