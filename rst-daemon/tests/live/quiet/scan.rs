//! A port scan. The scanned side must stay quiet; a scanner that connects is a
//! client whose connects failed.

use serde_json::Value;

use super::nginx::{Nginx, TOOLS};
use super::{command, is_noisy, run};
use crate::lab::Lab;
use crate::netns::V4;
use crate::tcp;

/// Ports that nobody listens on.
const CLOSED: std::ops::Range<u16> = 7000..7200;

/// Those, and two that nginx serves.
const PORTS: &str = "7000-7199,8080,8443";

/// Runs a scan; `failed` says how many connects of the scanner were refused.
fn scan(test: &str, tools: &[&str], failed: usize, scan: impl FnOnce(&Lab)) {
    let tools = [&TOOLS[..], tools].concat();
    let Some(lab) = Lab::start(test, &tools, &[]) else {
        return;
    };
    let nginx = Nginx::start(&lab);
    scan(&lab);
    drop(nginx);
    let is_scanner = |event: &Value| {
        event["direction"] == "received" && event["cause"] == "refused" && event["role"] == "client"
    };
    let events = lab.finish_with(&[], |event| !is_noisy(event) || is_scanner(event));
    println!("{test}: {}", super::summary(&events));
    assert_eq!(
        events.iter().filter(|event| is_scanner(event)).count(),
        failed
    );
    let refused = |event: &&Value| event["direction"] == "sent" && event["cause"] == "refused";
    let scanned = events.iter().filter(refused).count();
    assert!(scanned >= CLOSED.len(), "{scanned} refused");
}

#[test]
fn closed_ports_are_tried() {
    scan("closed_ports_are_tried", &[], CLOSED.len(), |lab| {
        lab.inside(|| {
            for port in CLOSED {
                tcp::connect_refused(V4.client, (V4.server, port).into());
            }
        });
    });
}

fn nmap(lab: &Lab, how: &str) {
    let mut nmap = command(lab, "nmap");
    // No names, no ping, no second try.
    nmap.args([how, "-n", "-Pn", "--max-retries", "0", "-p", PORTS]);
    nmap.arg(V4.server.to_string());
    let report = run(nmap);
    assert!(report.contains("8080/tcp open"), "{report}");
    assert!(report.contains("200 closed"), "{report}");
}

#[test]
fn nmap_connects() {
    scan("nmap_connects", &["nmap"], CLOSED.len(), |lab| {
        nmap(lab, "-sT");
    });
}

/// SYNs that no socket sent: nothing fails for this host.
#[test]
fn nmap_sends_syns() {
    scan("nmap_sends_syns", &["nmap"], 0, |lab| nmap(lab, "-sS"));
}
