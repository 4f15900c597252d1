//! Cgroups of the tests' own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use rst_daemon::workload::of_cgroup;
use serde_json::Value;

/// Why a test that needs them is skipped.
pub(crate) const NEEDS_CGROUPS: &str = "needs a cgroup2 file system that it may write to";

/// A cgroup (v2) of its own, removed on drop.
#[derive(Debug)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    /// As the kernel names it.
    pub(crate) path: String,
}

impl Cgroup {
    /// One of a systemd service; `None` where this process may not make it.
    pub(crate) fn service(name: &str) -> Option<Self> {
        let service = format!("rst-test-{}-{name}.service", std::process::id());
        Self::new(format!("/system.slice/{service}"))
    }

    /// One of a container of docker under systemd; and its id.
    pub(crate) fn container() -> Option<(Self, String)> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // What docker shows is the beginning.
        let id = format!("{:012x}{number:052x}", std::process::id());
        let made = Self::new(format!("/system.slice/docker-{id}.scope"))?;
        Some((made, id))
    }

    fn new(path: String) -> Option<Self> {
        let folder = mount("cgroup2", "rw")?.join(&path[1..]);
        fs::create_dir_all(&folder).ok()?;
        Some(Self { folder, path })
    }

    /// A command that runs in it, with the pid that the child gets.
    pub(crate) fn command(&self, inner: &Command) -> Command {
        run_in(&self.folder, inner)
    }

    /// What the JSON says of it.
    pub(crate) fn named(&self) -> Value {
        serde_json::to_value(of_cgroup(&self.path)).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        remove(&self.folder);
        // Fails where it holds any other, so where it is not the tests' own.
        let _ = self.folder.parent().map(fs::remove_dir);
    }
}

/// Removes a cgroup once its processes are gone, which is a moment after they have
/// been waited for.
pub(crate) fn remove(folder: &Path) {
    for _ in 0..1000 {
        if fs::remove_dir(folder).is_ok() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// A command that runs in the cgroup of a folder, with the pid that the child gets.
pub(crate) fn run_in(folder: &Path, inner: &Command) -> Command {
    let mut command = Command::new("/bin/sh");
    let script = r#"echo $$ > "$0" && exec "$@""#;
    command
        .args(["-c", script])
        .arg(folder.join("cgroup.procs"));
    command.arg(inner.get_program()).args(inner.get_args());
    command
}

/// Where a cgroup file system with this option is mounted.
pub(crate) fn mount(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let columns: Vec<&str> = line.split(' ').collect();
        let has_option = columns.get(3)?.split(',').any(|has| has == option);
        (columns[2] == kind && has_option).then(|| PathBuf::from(columns[1]))
    })
}
