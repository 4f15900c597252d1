//! What a host has besides: other programs on the same tracepoints, and a limit of memory.

use std::net::SocketAddr;
use std::process::Command;
use std::thread;

use rustix::process::Signal;

use crate::collect::{Collected, DEADLINE, wait_until};
use crate::lab::{Lab, can_run, skipped};
use crate::memory::Memory;
use crate::metrics::Scrape;
use crate::netns::{FAMILIES, V4};
use crate::process::Process;
use crate::tcp::{closed_port, connect_refused};
use crate::watcher::Watcher;

/// Mounts what bpftrace looks for, for itself alone, and becomes it.
const MOUNTS: &str = r#"mount -t tracefs none /sys/kernel/tracing &&
mount -t debugfs none /sys/kernel/debug && exec "$@""#;

/// Counts on both tracepoints; on the one that tells it everywhere, the resets of a port. It
/// says that it is ready before and
/// behind the probes, in whichever order they are attached.
fn counting(port: u16) -> String {
    format!(
        r#"interval:ms:50 {{ printf("first\n"); }}
tracepoint:tcp:tcp_send_reset {{ @sent = count(); }}
tracepoint:tcp:tcp_receive_reset /args->dport == {port}/ {{ @received = count(); }}
interval:ms:50 {{ printf("last\n"); }}"#
    )
}

/// bpftrace on the same tracepoints counts what rst counts; that it comes and goes changes
/// nothing.
#[test]
fn bpftrace_counts_the_same() {
    const RESETS: u64 = 5000;
    let test = "bpftrace_counts_the_same";
    let Some(lab) = Lab::start(test, &["bpftrace", "unshare"], &[]) else {
        return;
    };
    let port = closed_port(V4).port();
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", MOUNTS]);
    command.args(["sh", "bpftrace", "-B", "none", "-e", &counting(port)]);
    let mut bpftrace = Process::start(command);
    let said = Collected::start(bpftrace.stdout(), |line| line);
    let complaints = Collected::start(bpftrace.stderr(), |line| line);
    let ready = |lines: &[String]| {
        let has = |word| lines.iter().any(|line| line == word);
        (has("first") && has("last")).then_some(())
    };
    assert!(
        said.wait(2 * DEADLINE, ready).is_some(),
        "bpftrace is not ready: {}",
        complaints.with(|lines| lines.join("\n"))
    );

    let before = lab.quiet_scrape();
    lab.inside(|| {
        for number in 0..RESETS {
            let family = FAMILIES[usize::from(number % 2 == 0)];
            connect_refused(family.client, closed_port(family));
        }
    });
    let after = lab.quiet_scrape();
    bpftrace.signal(Signal::INT);
    assert!(said.wait_end(DEADLINE), "bpftrace does not end");
    let theirs = |name: &str| {
        said.with(|lines| {
            let count = lines.iter().find_map(|line| line.strip_prefix(name));
            count.map(|count| count.parse::<u64>().unwrap())
        })
    };
    let port = port.to_string();
    let labels = [("direction", "received"), ("port", port.as_str())];
    assert_eq!(after.resets(&before, &labels), RESETS);
    assert_eq!(theirs("@received: "), Some(RESETS));
    assert!(theirs("@sent: ") >= Some(RESETS));
    assert_eq!(after.value("rst_missed_resets_total"), 0);

    // Without it again.
    lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    let last = lab.quiet_scrape();
    assert_eq!(last.resets(&after, &labels), 1);
}

/// 64 MB, the kernel's tables included, are enough for ten thousand ports with all their
/// resets stored, watched and scraped. At its limit a process waits here.
#[test]
fn memory_limit_is_kept() {
    const LIMIT: u64 = 64 << 20;
    const PORTS: u16 = 10_000;
    let test = "memory_limit_is_kept";
    if !can_run(test, &[]) {
        return;
    }
    let memory = match Memory::new() {
        Ok(memory) => memory,
        Err(why) => return skipped(test, why),
    };
    let by = |command: Command| memory.command(&command);
    let settings = "details_per_second = 100000\nmax_ports = 10000\nmax_series = 16384";
    let Some(lab) = Lab::by(test, &[], settings, by) else {
        return;
    };
    // The verifier takes more for a moment.
    memory.limit(LIMIT);
    let before = Scrape::take(&lab.daemon.socket);
    let slow = Watcher::start(&lab.daemon.socket, &[]);
    slow.process.signal(Signal::STOP);
    // Below the ephemeral ports.
    let first = 2000;
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            lab.inside(|| {
                for port in first..first + PORTS {
                    connect_refused(V4.client, SocketAddr::new(V4.server, port));
                }
            });
        });
        while !storm.is_finished() {
            Scrape::take(&lab.daemon.socket);
        }
    });
    let mut now = Scrape::take(&lab.daemon.socket);
    let counted = now.increase(&before, "rst_resets_total", &["direction", "port"]);
    let on = |port: &str| {
        let labels = [("direction", "received"), ("port", port)];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        counted.get(&labels.into()).copied().unwrap_or_default()
    };
    let ports = first..first + PORTS;
    let alone: u64 = ports.map(|port| on(&port.to_string())).sum();
    assert_eq!(alone + on("other"), u64::from(PORTS));
    // The daemon's own connections, and whose sentinels come by, take room as well.
    assert!(on("other") < 10, "{} counted together", on("other"));
    let sum = |now: &Scrape, name: &str| now.sum(&before, name, &[]);
    wait_until("each event is stored, or counted with why not", || {
        now = Scrape::take(&lab.daemon.socket);
        let kept = sum(&now, "rst_store_written_total") + sum(&now, "rst_store_dropped_total");
        kept > 0 && kept >= now.events(&before, "delivered")
    });
    println!(
        "{} kB at most, refused {} times",
        memory.peak() >> 10,
        memory.refused()
    );
    assert!(memory.peak() <= LIMIT);
    assert_eq!(now.value("rst_unaccounted_resets"), 0);
}
