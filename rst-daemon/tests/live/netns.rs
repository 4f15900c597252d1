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
        // An address of IPv6, also a device's own, can be used at once.
        namespace.inside(|| {
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").unwrap();
        });
        namespace.ip(&["link", "set", "lo", "up"]);
        let client = V6.client.to_string();
        namespace.ip(&["addr", "add", &client, "dev", "lo", "nodad"]);
        namespace
    }

    /// Runs `ip` in it.
    pub(crate) fn ip(&self, args: &[&str]) {
        ip(&[&["-n", &self.name], args].concat());
    }

    /// Sets one of its settings below `/proc/sys/net`.
    pub(crate) fn set(&self, setting: &str, value: u64) {
        let path = format!("/proc/sys/net/{setting}");
        self.inside(|| std::fs::write(&path, value.to_string()))
            .unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Joins it with another by a veth pair. Clients are here, servers there;
    /// `number` sets the subnets apart.
    pub(crate) fn join(&self, other: &Self, number: u8) -> [Family; 2] {
        let (near, far) = (format!("near{number}"), format!("far{number}"));
        self.ip(&["link", "add", &near, "type", "veth", "peer", &far]);
        self.ip(&["link", "set", &far, "netns", &other.name]);
        let ends = subnets(number);
        self.address(&near, ends.map(|ends| ends.client));
        other.address(&far, ends.map(|ends| ends.server));
        ends
    }

    /// Gives the far end of a joint ([`Self::join`]) to another, and its
    /// addresses with it.
    pub(crate) fn hand_over(&self, other: &Self, number: u8, ends: [Family; 2]) {
        let far = format!("far{number}");
        self.ip(&["link", "set", &far, "netns", &other.name]);
        other.address(&far, ends.map(|ends| ends.server));
    }

    /// Gives a device an address of each family and sets it up.
    pub(crate) fn address(&self, device: &str, addresses: [IpAddr; 2]) {
        for address in addresses {
            let prefix = if address.is_ipv4() { 24 } else { 64 };
            let address = format!("{address}/{prefix}");
            self.ip(&["addr", "add", &address, "dev", device]);
        }
        self.ip(&["link", "set", device, "up"]);
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

/// The two ends of a link, for each family.
pub(crate) fn subnets(number: u8) -> [Family; 2] {
    let v4 = |host| IpAddr::V4(Ipv4Addr::new(10, 77, number, host));
    let v6 = |host| IpAddr::V6(Ipv6Addr::new(0xfd77, number.into(), 0, 0, 0, 0, 0, host));
    [
        Family {
            server: v4(1),
            client: v4(2),
        },
        Family {
            server: v6(1),
            client: v6(2),
        },
    ]
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
