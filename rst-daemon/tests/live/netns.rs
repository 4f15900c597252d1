//! A network namespace that lives as long as the test.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// An address family with the addresses that tests use: two of this host, so
/// that local and remote can't be mistaken for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Family {
    /// Where servers listen.
    pub(crate) server: IpAddr,
    /// Where clients come from.
    pub(crate) client: IpAddr,
}

/// IPv4.
pub(crate) const V4: Family = Family {
    server: IpAddr::V4(Ipv4Addr::LOCALHOST),
    client: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)),
};

/// IPv6.
pub(crate) const V6: Family = Family {
    server: IpAddr::V6(Ipv6Addr::LOCALHOST),
    client: IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
};

/// Both.
pub(crate) const FAMILIES: [Family; 2] = [V4, V6];

/// A named network namespace with its loopback up; deleted on drop.
#[derive(Debug)]
pub(crate) struct Netns {
    name: String,
    file: File,
    /// What `netns` is in the JSON.
    pub(crate) inode: u64,
}

impl Netns {
    /// Makes one.
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rst-test-{}-{number}", std::process::id());
        ip(&["netns", "add", &name]);
        let path = PathBuf::from("/run/netns").join(&name);
        let file = File::open(&path).expect("ip has made it");
        let inode = file.metadata().expect("it can be looked at").ino();
        let namespace = Self { name, file, inode };
        namespace.ip(&["link", "set", "lo", "up"]);
        let client = V6.client.to_string();
        namespace.ip(&["addr", "add", &client, "dev", "lo", "nodad"]);
        namespace
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }

    /// Runs code in it, on a thread of its own; other threads stay where they
    /// are.
    pub(crate) fn inside<R: Send>(&self, code: impl FnOnce() -> R + Send) -> R {
        thread::scope(|scope| {
            let run = || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("root may enter it");
                code()
            };
            scope
                .spawn(run)
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A command that runs in it, with the pid that the child gets.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", self.name))
            .arg("--")
            .arg(program);
        command
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.name])
            .status();
    }
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip runs");
    assert!(
        output.status.success(),
        "ip {}: {}",
        args.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
}
