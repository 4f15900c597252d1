//! Port scans by nmap: the host that is scanned has lost nothing.

use std::process::Command;

use serde_json::{Value, json};

use crate::expect::matches;
use crate::lab::Lab;
use crate::netns::Family;
use crate::process::find_program;
use crate::tcp;

/// Scans an open and a closed port of another host. What that host says must
/// be benign; returns what the scanner's says.
fn scan(test: &str, how: &str) -> Vec<Value> {
    let Some(lab) = Lab::start(test, &["nmap"], &[]) else {
        return Vec::new();
    };
    let host = lab.another();
    let ends = lab.netns.join(&host, 1);
    let listeners = ends.map(|family| host.inside(|| tcp::listener(family.server, 16)));
    for (family, listener) in ends.into_iter().zip(&listeners) {
        let open = listener.local_addr().unwrap().port();
        nmap(&lab, how, family, open);
    }
    drop(listeners);
    let refused = ends.map(|family| {
        json!({
            "direction": "sent", "cause": "refused", "impact": "benign",
            "family": if family.server.is_ipv4() { "ipv4" } else { "ipv6" },
            "netns": host.inode, "local": {"port": tcp::closed_port(family).port()},
        })
    });
    // It closes at once what it has opened.
    let dropped = json!({
        "direction": "received", "cause": "no_data", "impact": "benign", "role": "server",
        "netns": host.inode,
    });
    let scanner = lab.netns.inode;
    let events = lab.finish_with(&[], |_| true);
    for event in &events {
        let mut fine = refused.iter().chain([&dropped]);
        let fine = event["netns"] == scanner || fine.any(|fine| matches(fine, event));
        assert!(fine, "{event}");
    }
    for refused in &refused {
        let met = events.iter().any(|event| matches(refused, event));
        assert!(met, "no event like {refused}");
    }
    events
        .into_iter()
        .filter(|event| event["netns"] == scanner)
        .collect()
}

fn nmap(lab: &Lab, how: &str, family: Family, open: u16) {
    let closed = tcp::closed_port(family).port();
    let nmap = find_program("nmap").expect("checked before");
    let mut nmap: Command = lab.netns.command(nmap);
    nmap.args([how, "-n", "-Pn", "--disable-arp-ping", "--max-retries", "2"]);
    nmap.args(family.server.is_ipv6().then_some("-6"));
    nmap.arg("-p").arg(format!("{closed},{open}"));
    let output = nmap.arg(family.server.to_string()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    for (port, state) in [(closed, "closed"), (open, "open")] {
        let found = text.lines().any(|line| {
            let mut words = line.split_whitespace();
            words.next() == Some(&format!("{port}/tcp")) && words.next() == Some(state)
        });
        assert!(found, "port {port} is not {state}: {output:?}");
    }
}

/// Half a handshake. The scanner's own kernel knows nothing of its SYN, and
/// resets the answer.
#[test]
fn syn_scan_is_benign() {
    let stray = json!({"direction": "sent", "cause": "stray", "impact": "benign"});
    for event in scan("syn_scan_is_benign", "-sS") {
        assert!(matches(&stray, &event), "{event}");
    }
}

/// Connections made and dropped. Those that fail are the scanner's.
#[test]
fn connect_scan_is_benign() {
    let refused = json!({
        "direction": "received", "cause": "refused", "impact": "connect_failed", "role": "client",
    });
    let dropped = json!({"direction": "sent", "cause": "app_abort", "role": "client"});
    for event in scan("connect_scan_is_benign", "-sT") {
        let fine = matches(&refused, &event) || matches(&dropped, &event);
        assert!(fine, "{event}");
    }
}
