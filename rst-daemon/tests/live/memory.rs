//! A limit of memory that a process has reached.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::cgroup::{mount, remove, run_in};

/// A cgroup of the memory controller, below this process's; removed on drop.
///
/// Of version 1, where a process may wait at its limit. In version 2 it is killed.
#[derive(Debug)]
pub(crate) struct Memory {
    folder: PathBuf,
}

impl Memory {
    /// Makes one, without a limit; or says what is missing.
    pub(crate) fn new() -> Result<Self, &'static str> {
        let mount = mount("cgroup", "memory").ok_or(
            "needs the memory controller of cgroup v1, where a process waits at its limit",
        )?;
        let own = fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.split_once(":memory:/"));
        let (_, own) = own.ok_or("is in no cgroup of the memory controller")?;
        let name = format!("rst-test-{}", std::process::id());
        let folder = mount.join(own).join(name);
        fs::create_dir(&folder).map_err(|_| "may not make a cgroup of the memory controller")?;
        let memory = Self { folder };
        // Not killed, but kept waiting.
        memory.set("memory.oom_control", "1");
        Ok(memory)
    }

    /// A command that runs in it, with the pid that the child gets.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        run_in(&self.folder, inner)
    }

    /// Allows no more than what is in use.
    pub(crate) fn limit_to_use(&self) {
        let in_use = self.get("memory.usage_in_bytes");
        self.set("memory.limit_in_bytes", &in_use.to_string());
    }

    /// Allows so much from now on, in bytes.
    pub(crate) fn limit(&self, bytes: u64) {
        self.set("memory.limit_in_bytes", &bytes.to_string());
        self.set("memory.max_usage_in_bytes", "0");
    }

    /// The most that has been in use since then, in bytes.
    pub(crate) fn peak(&self) -> u64 {
        self.get("memory.max_usage_in_bytes")
    }

    /// Allows as much as the machine has.
    pub(crate) fn lift(&self) {
        self.set("memory.limit_in_bytes", "-1");
    }

    /// How often more was wanted than is allowed.
    pub(crate) fn refused(&self) -> u64 {
        self.get("memory.failcnt")
    }

    fn get(&self, name: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(name)).unwrap();
        text.trim_end().parse().unwrap()
    }

    fn set(&self, name: &str, value: &str) {
        fs::write(self.folder.join(name), value).unwrap();
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        remove(&self.folder);
    }
}
