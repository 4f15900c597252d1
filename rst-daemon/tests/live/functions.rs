//! Resets that pass no tracepoint: those without a connection before Linux 6.10, and
//! netfilter's own.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;

use rst_daemon::kernel::probes::{PROBES, Probe, SEND_RESET_FUNCTIONS};
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::{no_socket, received, sent, socket, verdict};
use crate::lab::{Lab, skipped};
use crate::metrics::Scrape;
use crate::netns::{FAMILIES, Netns};
use crate::pace;
use crate::process::{RST, find_program};
use crate::tcp::{self, closed_port, connect_refused};

/// Where the rules reject: one that nobody listens on, one that somebody does, and
/// one by the rule on what leaves.
const CLOSED: u16 = 81;
const OPEN: u16 = 82;
const LEAVING: u16 = 83;

/// SYNs that are rejected in the storm, of each family.
const STORM: u64 = 5_000;

/// Resets of the sentinels that may lie between the reading of the kernel's counters and a
/// scrape.
const SLACK: u64 = 100;

const RULES: &str = "table inet firewall {
    chain incoming {
        type filter hook input priority 0; policy accept;
        tcp dport { 81, 82 } reject with tcp reset
    }
    chain leaving {
        type filter hook output priority 0; policy accept;
        tcp dport 83 reject with tcp reset
    }
}";

/// Sets the rules of a namespace; `false` where its kernel can't reject.
fn reject(netns: &Netns) -> bool {
    let nft = find_program("nft").expect("checked before");
    let mut nft: Command = netns.command(nft);
    nft.arg(RULES).output().unwrap().status.success()
}

/// Whether a probe is attached.
fn is_up(lab: &Lab, probe: &str) -> bool {
    let scrape = Scrape::take(&lab.daemon.socket);
    scrape.sum(&Scrape::nothing(), "rst_probe_up", &[("probe", probe)]) == 1
}

/// The line of the log that says that a probe is not attached: it begins with the names
/// of all that are not for the same reason.
fn missing<'a>(log: &'a str, probe: &str) -> Option<&'a str> {
    log.lines().find(|line| {
        let Some((head, _)) = line.split_once("; not shown: ") else {
            return false;
        };
        let words = head.split([' ', ',', ':']);
        words.into_iter().any(|word| word == probe)
    })
}

/// A lab whose firewall rejects, with both its probes attached; what keeps a kernel from
/// it is said.
fn firewall(test: &str) -> Option<Lab> {
    let lab = Lab::start(test, &["nft"], &[])?;
    let log = lab.daemon.log();
    if let Some(line) = missing(&log, "nf_send_reset") {
        // Silence would be worse than blindness.
        assert!(
            line.contains("not shown: resets that netfilter's REJECT sends"),
            "{log}"
        );
        skipped(test, "this kernel has no kprobes");
        return None;
    }
    if !reject(&lab.netns) {
        skipped(test, "this kernel lacks nft's reject");
        return None;
    }
    // The rules may have loaded the modules.
    wait_until("the probes are attached", || {
        is_up(&lab, "nf_send_reset") && is_up(&lab, "nf_send_reset6")
    });
    Some(lab)
}

/// What is known of a SYN that a rule has answered.
fn rejected(role: &str) -> Value {
    no_socket(json!({
        "origin": "netfilter", "cause": "firewall_reject", "impact": "connect_failed",
        "reason": null, "basis": "a SYN was rejected by a firewall rule", "role": role,
    }))
}

/// A rule answers for a port that nobody listens on, for one that somebody does, and
/// for what leaves.
#[test]
fn firewall_rejects_connections() {
    let test = "firewall_rejects_connections";
    let Some(lab) = firewall(test) else {
        return;
    };
    let expected = lab.inside(|| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let open = SocketAddr::new(family.server, OPEN);
            let _listener = tcp::listen_at(open);
            for (port, role) in [(CLOSED, "unknown"), (OPEN, "server"), (LEAVING, "unknown")] {
                let server = SocketAddr::new(family.server, port);
                let client = connect_refused(family.client, server);
                expected.push(sent(server, client, rejected(role)));
                let refused = json!({
                    "cause": "refused", "impact": "connect_failed",
                    "role": "client", "state": "SYN_SENT", "probes_out": null,
                });
                expected.push(received(client, server, socket(refused)));
            }
        }
        expected
    });
    lab.finish(&expected);
}

/// A rule that is set while the connection stands.
#[test]
fn firewall_breaks_a_connection() {
    let test = "firewall_breaks_a_connection";
    let Some(lab) = firewall(test) else {
        return;
    };
    let nft = |rules: &str| {
        let nft = find_program("nft").expect("checked before");
        let output = lab.netns.command(nft).arg(rules).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    let mut expected = Vec::new();
    for family in FAMILIES {
        let mut pair = lab.inside(|| {
            let mut pair = tcp::Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            pair
        });
        nft(&format!(
            "insert rule inet firewall incoming tcp dport {} reject with tcp reset",
            pair.server_end.port()
        ));
        std::io::Write::write_all(&mut pair.client, b"another").unwrap();
        tcp::wait_error(&pair.client);
        let rejects = ["firewall_reject", "connection_broken", "server"];
        expected.push(verdict("sent", pair.server_end, pair.client_end, rejects));
        let lost = ["peer_abort", "connection_broken", "client"];
        expected.push(verdict("received", pair.client_end, pair.server_end, lost));
    }
    // The server's end knows of nothing. The answers to its FIN are rejected too, so that it
    // sends it again and again.
    lab.finish_with(&expected, |event| event["cause"] == "after_reset");
}

/// Each is counted, and the kernel's own counters know nothing of them.
#[test]
fn rejects_are_exact_and_apart() {
    let test = "rejects_are_exact_and_apart";
    let Some(lab) = firewall(test) else {
        return;
    };
    let before = lab.quiet_scrape();
    let storm = pace::storm(STORM);
    lab.inside(|| {
        for family in FAMILIES {
            for _ in 0..storm {
                connect_refused(family.client, SocketAddr::new(family.server, CLOSED));
            }
        }
    });
    let after = lab.quiet_scrape();
    let sent = [("direction", "sent"), ("cause", "firewall_reject")];
    assert_eq!(after.resets(&before, &sent), 2 * storm);
    let others = after.resets(&before, &[("direction", "sent")]) - 2 * storm;
    let kernel =
        after.value("rst_kernel_out_resets_total") - before.value("rst_kernel_out_resets_total");
    assert!(
        kernel <= others + SLACK,
        "{kernel} resets counted by the kernel, {others} by us"
    );
    assert_eq!(after.value("rst_unaccounted_resets"), 0);
}

/// Asserts that `rst doctor` tells of each probe what the metrics do, and exits by it.
fn doctor_agrees(lab: &Lab) {
    let mut doctor = Command::new(RST);
    doctor
        .args(["doctor", "--json", "--socket"])
        .arg(&lab.daemon.socket);
    let output = doctor.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let lines: Vec<Value> = lines.collect();
    let told = |well: bool| {
        let lines = lines.iter().filter(|line| line["check"] == "probes");
        let lines = lines.filter(|line| (line["verdict"] == "ok") == well);
        let words = lines.flat_map(|line| line["what"].as_str().unwrap().split([' ', ',', ':']));
        words.collect::<BTreeSet<&str>>()
    };
    let (well, not) = (told(true), told(false));
    let up = Scrape::take(&lab.daemon.socket).probes_up();
    let shows_all = lab.kernel.layout.send_reset_shows_all;
    for Probe { name, .. } in PROBES {
        let told = (well.contains(name), not.contains(name));
        if up.contains(*name) {
            assert_eq!(told, (true, false), "{name}: {text}");
        } else if shows_all && SEND_RESET_FUNCTIONS.contains(name) {
            assert_eq!(told, (false, false), "{name} is not needed: {text}");
        } else {
            // It may wait for its module.
            assert_ne!(told.0, told.1, "{name}: {text}");
        }
    }
    let findings = lines.iter().any(|line| line["verdict"] == "finding");
    assert_eq!(output.status.code(), Some(i32::from(findings)), "{text}");
}

/// What a kernel shows of resets without a connection: by its tracepoint, or by the
/// functions, or else not, and then the daemon says so.
#[test]
fn resets_without_a_connection_are_seen_or_missed_aloud() {
    let test = "resets_without_a_connection_are_seen_or_missed_aloud";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    doctor_agrees(&lab);
    let log = lab.daemon.log();
    let probes = ["tcp_v4_send_reset", "tcp_v6_send_reset"];
    let before = lab.before().clone();
    let to = FAMILIES.map(closed_port);
    lab.inside(|| {
        for (family, to) in FAMILIES.into_iter().zip(to) {
            connect_refused(family.client, to);
        }
    });
    let scrape = lab.quiet_scrape();
    let refused = scrape.resets(&before, &[("direction", "sent"), ("cause", "refused")]);
    for probe in probes {
        let up = is_up(&lab, probe);
        let is_missed = missing(&log, probe).is_some();
        let is_needed = !lab.kernel.layout.send_reset_shows_all;
        assert_eq!(up || is_missed, is_needed, "{probe}: {log}");
        assert!(!(up && is_missed), "{probe}: {log}");
        if is_missed {
            return skipped(test, &format!("{probe} can't be probed here"));
        }
    }
    assert!(refused >= 2, "{refused} sent resets were seen");
    assert_eq!(scrape.value("rst_unaccounted_resets"), 0);
}
