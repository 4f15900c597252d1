//! What metrics never carry.

use std::net::{IpAddr, SocketAddr};

use prometheus_parse::{Scrape, Value as Sample};
use serde_json::{Value, json};

use crate::expect::{no_socket, received, sent, socket};
use crate::lab::{Lab, live};
use crate::metrics;
use crate::netns::FAMILIES;
use crate::tcp;

/// Resets of this process, and then no label of any metric that could tell of it or of
/// its peer: only the name of its service, which is its own where it is in none.
#[test]
fn no_label_holds_an_address_or_a_process() {
    live("no_label_holds_an_address_or_a_process", &[], |lab| {
        let mut expected: Vec<Value> = Vec::new();
        let mut ends: Vec<SocketAddr> = Vec::new();
        for family in FAMILIES {
            let server = tcp::closed_port(family);
            let client = tcp::connect_refused(family.client, server);
            let ours = json!({"cause": "refused", "impact": "benign", "reason": "NO_SOCKET"});
            let theirs = socket(json!({
                "cause": "refused", "impact": "connect_failed", "role": "client",
                "state": "SYN_SENT", "turn": null,
                "unread_bytes": null, "unacked_bytes": null,
                "bytes_sent": null, "bytes_received": null, "probes_out": null,
            }));
            expected.push(sent(server, client, no_socket(ours)));
            expected.push(received(client, server, theirs));
            ends.extend([server, client]);
        }
        look(lab, &ends);
        expected
    });
}

fn look(lab: &Lab, ends: &[SocketAddr]) {
    // They have been counted when this returns.
    lab.flush();
    let (status, text) = metrics::get(&lab.daemon.socket, "/metrics").expect("the daemon answers");
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = Scrape::parse(lines).expect("valid metrics");
    let pid = std::process::id().to_string();
    let comm = std::fs::read_to_string("/proc/self/comm").expect("this process has a name");
    let comm = comm.trim_end();
    let clients: Vec<String> = ends
        .iter()
        .skip(1)
        .step_by(2)
        .map(|client| client.port().to_string())
        .collect();
    let mut served = false;
    for sample in &scrape.samples {
        for (label, value) in sample.labels.iter() {
            let shown = format!("{}{{{label}={value:?}}}", sample.metric);
            assert!(value.parse::<IpAddr>().is_err(), "{shown}");
            assert!(value.parse::<SocketAddr>().is_err(), "{shown}");
            for end in ends {
                let address = end.ip().to_string();
                // "::1" is short enough to be part of a path of cgroups.
                assert!(
                    !value.split(['/', ' ']).any(|word| word == address),
                    "{shown}"
                );
            }
            assert_ne!(*value, pid, "{shown}");
            assert_ne!(*value, comm, "{shown}");
            assert!(label != "port" || !clients.contains(value), "{shown}");
        }
        served |= sample.metric == "rst_resets_total"
            && sample.labels.get("cause") == Some("refused")
            && matches!(sample.value, Sample::Counter(count) if count > 0.0);
    }
    assert!(served, "the resets are in the scrape:\n{text}");
}
