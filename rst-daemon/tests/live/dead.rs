//! Connections that one end no longer knows, and connections killed from
//! outside.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use rst_common::tcp::state;
use serde_json::{Value, json};

use crate::expect::{no_socket, received, sent, socket};
use crate::lab::{Lab, live, skipped};
use crate::netns::{FAMILIES, Family};
use crate::process::find_program;
use crate::tcp::{self, Pair};

/// Data that can be no TLS close_notify.
const LARGE: [u8; 100] = [b'x'; 100];

/// A server that was restarted: its old connection's segment meets the new
/// listener. The addresses are in the segment alone.
#[test]
fn segment_of_a_dead_connection_meets_a_listener() {
    live("segment_of_a_dead_connection_meets_a_listener", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            tcp::vanish(pair.server);
            pair.client.write_all(&LARGE).unwrap();
            tcp::wait_error(&pair.client);
            let mut facts = no_socket(json!({
                "cause": "half_open", "impact": "connection_broken", "reason": "TCP_FLAGS",
                "role": "server", "state": "LISTEN",
            }));
            facts["origin"] = json!("socket");
            expected.push(sent(pair.server_end, pair.client_end, facts));
            expected.push(lost_established(pair.client_end, pair.server_end));
        }
        expected
    });
}

/// A server that has gone for good.
#[test]
fn segment_of_a_dead_connection_meets_no_socket() {
    live("segment_of_a_dead_connection_meets_no_socket", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            tcp::vanish(pair.server);
            drop(pair.listener);
            pair.client.write_all(&LARGE).unwrap();
            tcp::wait_error(&pair.client);
            let facts = no_socket(json!({
                "cause": "half_open", "impact": "connection_broken", "reason": "NO_SOCKET",
                "role": "server",
            }));
            expected.push(sent(pair.server_end, pair.client_end, facts));
            expected.push(lost_established(pair.client_end, pair.server_end));
        }
        expected
    });
}

fn lost_established(client: SocketAddr, server: SocketAddr) -> Value {
    let lost = socket(json!({
        "cause": "peer_abort", "impact": "connection_broken",
        "role": "client", "state": "ESTABLISHED", "turn": "us",
        "unread_bytes": 0, "unacked_bytes": LARGE.len(),
        "bytes_received": 0, "bytes_sent": 8 + LARGE.len(),
    }));
    received(client, server, lost)
}

/// A bare FIN for a connection that is gone.
#[test]
fn fin_of_a_dead_connection_is_stray() {
    live("fin_of_a_dead_connection_is_stray", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let pair = Pair::new(family);
            tcp::vanish(pair.server);
            drop(pair.listener);
            pair.client.shutdown(std::net::Shutdown::Write).unwrap();
            tcp::wait_state(&pair.client, state::CLOSE);
            let stray = json!({"cause": "stray", "impact": "benign", "reason": "NO_SOCKET"});
            expected.push(sent(pair.server_end, pair.client_end, no_socket(stray)));
            let lost = socket(json!({
                "cause": "peer_abort", "impact": "uncertain",
                "role": "client", "state": "FIN_WAIT1", "turn": null,
                "unread_bytes": 0, "bytes_received": 0, "bytes_sent": 0,
            }));
            expected.push(received(pair.client_end, pair.server_end, lost));
        }
        expected
    });
}

#[test]
fn killed_by_ss() {
    live("killed_by_ss", &["ss"], |lab| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            let ss = find_program("ss").expect("checked before");
            let mut ss: Command = lab.netns.command(ss);
            let port = pair.server_end.port().to_string();
            // The server's socket alone.
            ss.args([
                "--tcp",
                "--numeric",
                "--no-header",
                "--kill",
                "state",
                "established",
            ]);
            ss.args(["sport", "=", &format!(":{port}")]);
            let output = ss.output().unwrap();
            let killed = String::from_utf8_lossy(&output.stdout);
            if !killed.contains(&port) {
                let why = String::from_utf8_lossy(&output.stderr);
                skipped("killed_by_ss", &format!("ss can't kill here: {why}"));
                return expected;
            }
            tcp::wait_error(&pair.client);
            let destroyed = socket(json!({
                "cause": "admin_kill", "impact": "connection_broken", "reason": "TCP_STATE",
                "killer": {"comm": "ss", "source": "current"},
                "role": "server", "state": "ESTABLISHED", "turn": "peer",
                "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 8, "bytes_sent": 0,
            }));
            expected.push(sent(pair.server_end, pair.client_end, destroyed));
            let lost = socket(json!({
                "cause": "peer_abort", "impact": "connection_broken",
                "role": "client", "state": "ESTABLISHED", "turn": "us",
                "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 0, "bytes_sent": 8,
            }));
            expected.push(received(pair.client_end, pair.server_end, lost));
        }
        expected
    });
}

/// The peer's address goes away: probes get no answer, and neither does the
/// reset.
#[test]
fn keepalive_gives_up() {
    live("keepalive_gives_up", &[], |lab| {
        let ends = [
            Family {
                server: IpAddr::V4(Ipv4Addr::new(10, 99, 0, 1)),
                client: IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)),
            },
            Family {
                server: IpAddr::V6(Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, 1)),
                client: IpAddr::V6(Ipv6Addr::new(0xfd00, 99, 0, 0, 0, 0, 0, 2)),
            },
        ];
        let pairs = ends.map(|ends| unreachable_pair(lab, ends));
        let mut expected = Vec::new();
        for pair in pairs {
            tcp::wait_state(&pair.client, state::CLOSE);
            // Its FIN would get through where a route is remembered.
            tcp::vanish(pair.server);
            let vanished = socket(json!({
                "cause": "keepalive_timeout", "impact": "connection_broken",
                "reason": "TCP_KEEPALIVE_TIMEOUT",
                "role": "client", "state": "ESTABLISHED", "turn": "us", "probes_out": 1,
                "keepalive": {"enabled": true, "time_s": 1, "interval_s": 1, "probes": 1},
                "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 0, "bytes_sent": 8,
            }));
            expected.push(sent(pair.client_end, pair.server_end, vanished));
        }
        expected
    });
}

fn unreachable_pair(lab: &Lab, ends: Family) -> Pair {
    for address in [ends.client, ends.server] {
        let address = address.to_string();
        lab.netns.ip(&["addr", "add", &address, "dev", "lo"]);
    }
    let mut pair = Pair::between(ends.client, ends.server);
    pair.ask(b"question");
    let server = ends.server.to_string();
    // What it sends has nowhere to go either, so it stays quiet.
    let prefix = if ends.server.is_ipv4() { 32 } else { 128 };
    lab.netns
        .ip(&["addr", "del", &format!("{server}/{prefix}"), "dev", "lo"]);
    lab.netns.ip(&["route", "add", "blackhole", &server]);
    tcp::probe_once(&pair.client);
    pair
}
