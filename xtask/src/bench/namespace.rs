//! A network namespace for one measurement: nothing in it comes from the one before.

use std::{
    fs,
    fs::File,
    os::fd::{AsFd as _, AsRawFd as _},
    panic, process,
    process::Command,
    thread,
};

use anyhow::{Context as _, Result};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::succeed;

/// This thread's counters of its network namespace; those of `/proc/net` are the process's.
const COUNTERS: &str = "/proc/thread-self/net/snmp";

/// A namespace with its loopback up. It has no name and goes with its last user.
pub(super) struct Namespace(File);

impl Namespace {
    pub(super) fn new() -> Result<Self> {
        // A thread of its own is left behind in it, so the others stay where they are.
        on_a_thread(|| {
            // SAFETY: threads share file descriptors as before; only the network is new.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
                .context("cannot make a network namespace")?;
            succeed(Command::new("ip").args(["link", "set", "lo", "up"]))?;
            Ok(Self(File::open("/proc/thread-self/ns/net")?))
        })
    }

    /// Runs `body`, and the threads it starts, inside.
    pub(super) fn inside<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?;
            body()
        })
    }

    /// A file that `nsenter --net=` takes.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", process::id(), self.0.as_raw_fd())
    }

    /// Resets sent in it, as the kernel counts them.
    pub(super) fn out_resets(&self) -> Result<u64> {
        self.inside(|| {
            let text = fs::read_to_string(COUNTERS)?;
            out_resets(&text).with_context(|| format!("no OutRsts in {COUNTERS}"))
        })
    }
}

fn on_a_thread<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let result = scope.spawn(body).join();
        result.unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// `OutRsts` of the pair of lines that begin with `Tcp:`: names, then values.
fn out_resets(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter(|line| line.starts_with("Tcp:"));
    let names = lines.next()?.split_whitespace();
    let values = lines.next()?.split_whitespace();
    let (_, value) = names.zip(values).find(|(name, _)| *name == "OutRsts")?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::out_resets;

    #[test]
    fn resets_are_found_by_name() {
        let text = "Ip: Forwarding\nIp: 2\nTcp: MaxConn InErrs OutRsts\nTcp: -1 3 4711\n";
        assert_eq!(out_resets(text), Some(4711));
        assert_eq!(out_resets("Tcp: MaxConn\nTcp: -1\n"), None);
        assert_eq!(out_resets(""), None);
    }
}
