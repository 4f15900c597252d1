//! Counts that outlive the daemon.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::cgroup::{Cgroup, NEEDS_CGROUPS};
use crate::lab::{Daemon, Folder, Lab, STOP, can_run, skipped};
use crate::metrics::Scrape;
use crate::netns::V4;
use crate::process::{Process, find_program};
use crate::tcp::{closed_port, connect_refused};

/// A BPF file system in a folder, unmounted on drop.
struct BpfFs<'a>(&'a Path);

impl<'a> BpfFs<'a> {
    fn mount(folder: &'a Path) -> Self {
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "bpf", "bpf"]).arg(folder).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{output:?}");
        Self(folder)
    }
}

impl Drop for BpfFs<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0).status();
    }
}

/// Connects once from a cgroup of its own, to a port where nobody listens.
const CLIENT: &str = r"
import socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])))
except ConnectionRefusedError:
    pass
";

/// The next daemon counts on, also what is no more: the workload of a count keeps its
/// name. Nobody else counts there meanwhile; tables of another size begin anew.
#[test]
fn counts_go_on_after_a_restart() {
    let test = "counts_go_on_after_a_restart";
    let tools = ["mount", "umount", "python3"];
    if !can_run(test, &tools) {
        return;
    }
    let pinned = Folder::new();
    let bpffs = BpfFs::mount(&pinned.0);
    let dir = pinned.0.join("rst");
    let settings = format!("pin_dir = {:?}\n", dir.to_str().unwrap());
    let Some(mut lab) = Lab::configured(test, &tools, &settings, &[]) else {
        return;
    };
    let Some(cgroup) = Cgroup::service("gone") else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let server = closed_port(V4);
    let before = lab.quiet_scrape();
    lab.inside(|| {
        for _ in 0..50 {
            connect_refused(V4.client, server);
        }
        let mut client = Command::new(find_program("python3").unwrap());
        client.args(["-c", CLIENT, &server.ip().to_string()]);
        client.arg(server.port().to_string());
        let status = Process::start(cgroup.command(&client)).wait(STOP);
        assert!(status.success(), "{status}");
    });
    let workload = cgroup.named()["name"].as_str().unwrap().to_owned();
    let port = server.port().to_string();
    let gone = [
        ("direction", "received"),
        ("port", port.as_str()),
        ("workload", workload.as_str()),
    ];
    let counted = lab.quiet_scrape();
    assert_eq!(counted.resets(&before, &gone), 1, "{workload}");
    assert_eq!(counted.resets(&before, &gone[..2]), 51);
    drop(cgroup);

    // Another one counts for itself.
    let folder = Folder::new();
    let mut second = Daemon::start(&folder, &settings, &[], |command| command);
    assert!(
        second.log().contains("another rst counts in"),
        "{}",
        second.log()
    );
    let own = Scrape::take(&second.socket);
    assert_eq!(own.resets(&Scrape::nothing(), &gone), 0);
    second.stop(Signal::TERM);

    lab.daemon.process.signal(Signal::KILL);
    lab.daemon.process.wait(STOP);
    lab.restart();
    let log = lab.daemon.log();
    assert!(log.contains("counts go on from"), "{log}");
    let again = Scrape::take(&lab.daemon.socket);
    assert_eq!(again.resets(&counted, &gone), 0);
    assert_eq!(again.resets(&before, &gone), 1);
    lab.inside(|| {
        for _ in 0..7 {
            connect_refused(V4.client, server);
        }
    });
    let after = Scrape::take(&lab.daemon.socket);
    assert_eq!(after.resets(&before, &gone), 1);
    assert_eq!(after.resets(&before, &gone[..2]), 51 + 7);
    assert_eq!(after.value("rst_unaccounted_resets"), 0);

    lab.daemon.stop(Signal::TERM);
    let larger = settings + "max_series = 5000\n";
    let mut third = Daemon::start(&folder, &larger, &[], |command| command);
    let log = third.log();
    assert!(
        log.contains("counts begin anew") && log.contains("RESETS has another size"),
        "{log}"
    );
    let anew = Scrape::take(&third.socket);
    assert_eq!(anew.resets(&Scrape::nothing(), &gone[..2]), 0);
    third.stop(Signal::TERM);
    drop(lab);
    drop(bpffs);
}

/// A directory that can't be used costs nothing but what it is for, and is named.
#[test]
fn counts_are_kept_nowhere_else() {
    let test = "counts_are_kept_nowhere_else";
    let folder = Folder::new();
    let settings = format!("pin_dir = {:?}\n", folder.0.to_str().unwrap());
    let Some(lab) = Lab::configured(test, &[], &settings, &[]) else {
        return;
    };
    let log = lab.daemon.log();
    let told = format!(
        "counts are not kept for the next start: {}",
        folder.0.display()
    );
    assert!(log.contains(&told) && log.contains("mount -t bpf"), "{log}");
    let before = Scrape::take(&lab.daemon.socket);
    lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    let after = Scrape::take(&lab.daemon.socket);
    assert!(after.resets(&before, &[("direction", "received")]) >= 1);
}
