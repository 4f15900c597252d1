//! Silence before the reset: whose timer, whose turn.

use std::thread::sleep;
use std::time::Duration;

use rst_common::tcp::state;
use serde_json::{Value, json};

use crate::expect::{no_socket, received, sent, socket, this_process};
use crate::lab::{Lab, live};
use crate::netns::{FAMILIES, Family};
use crate::tcp::{self, Pair};

/// The threshold: short, so that a test need not stand still for long.
const IDLE_MS: u64 = 100;

/// Runs a scenario over both families with the short threshold, and asserts
/// that the idle times told of `cause` are at least the silence.
fn idle(test: &str, cause: &str, scenario: fn(Family) -> [Value; 2]) {
    let Some(lab) = Lab::configured(test, &[], &format!("idle_ms = {IDLE_MS}"), &[]) else {
        return;
    };
    let expected: Vec<_> = lab.inside(|| FAMILIES.into_iter().flat_map(scenario).collect());
    for event in lab.finish(&expected) {
        if event["cause"] == cause {
            let idle = event["idle_segment_ms"].as_u64().unwrap();
            assert!(idle >= IDLE_MS, "{event}");
        }
    }
}

/// Runs a scenario over both families with the usual threshold, which no stall
/// of the machine reaches.
fn at_once(test: &str, scenario: fn(Family) -> [Value; 2]) {
    live(test, &[], |_| {
        FAMILIES.into_iter().flat_map(scenario).collect()
    });
}

/// The scenario itself: nothing happens for longer than the threshold.
fn silence() {
    sleep(Duration::from_millis(IDLE_MS * 3 / 2));
}

/// A pooled connection that the other side has forgotten is used again.
#[test]
fn forgotten_connection_is_used_again() {
    idle(
        "forgotten_connection_is_used_again",
        "stale_reuse",
        |family| {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            silence();
            tcp::vanish(pair.server);
            drop(pair.listener);
            std::io::Write::write_all(&mut pair.client, &[b'x'; 100]).unwrap();
            tcp::wait_error(&pair.client);
            let lost = socket(json!({
                "cause": "stale_reuse", "impact": "connection_broken",
                "role": "client", "state": "ESTABLISHED", "turn": "us", "unacked_bytes": 100,
            }));
            let unknown = json!({
                "cause": "half_open", "impact": "connection_broken", "reason": "NO_SOCKET",
                "role": "server",
            });
            [
                sent(pair.server_end, pair.client_end, no_socket(unknown)),
                received(pair.client_end, pair.server_end, lost),
            ]
        },
    );
}

/// A balancer resets what is idle.
#[test]
fn idle_connection_is_reset() {
    idle("idle_connection_is_reset", "idle_timeout", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.answer(b"answer");
        silence();
        let (aborted, lost) = abort_server(
            pair,
            json!({"impact": "benign", "turn": "us"}),
            json!({"cause": "idle_timeout", "impact": "uncertain", "turn": "peer"}),
        );
        [aborted, lost]
    });
}

/// A proxy gives up on its upstream.
#[test]
fn request_is_never_answered() {
    idle("request_is_never_answered", "no_response", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        silence();
        let (aborted, lost) = abort_server(
            pair,
            json!({"impact": "connection_broken", "turn": "peer"}),
            json!({"cause": "no_response", "impact": "connection_broken", "turn": "us"}),
        );
        [aborted, lost]
    });
}

/// The server aborts an established connection: its event and the client's.
fn abort_server(pair: Pair, sent_fields: Value, lost_fields: Value) -> (Value, Value) {
    tcp::abort(pair.server);
    tcp::wait_error(&pair.client);
    let mut aborted = socket(sent_fields);
    aborted["cause"] = json!("app_abort");
    aborted["role"] = json!("server");
    aborted["owner"] = this_process();
    aborted["linger"] = json!({"time_s": 0});
    let mut lost = socket(lost_fields);
    lost["role"] = json!("client");
    lost["state"] = json!("ESTABLISHED");
    (
        sent(pair.server_end, pair.client_end, aborted),
        received(pair.client_end, pair.server_end, lost),
    )
}

/// The client's patience ends first.
#[test]
fn client_gives_up() {
    idle("client_gives_up", "peer_gave_up", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        silence();
        tcp::abort(pair.client);
        tcp::wait_error(&pair.server);
        let aborted = socket(json!({
            "cause": "app_abort", "impact": "connection_broken", "turn": "us", "owner": this_process(),
            "linger": {"time_s": 0},
        }));
        let lost = socket(json!({
            "cause": "peer_gave_up", "impact": "connection_broken",
            "role": "server", "state": "ESTABLISHED", "turn": "peer",
        }));
        [
            sent(pair.client_end, pair.server_end, aborted),
            received(pair.server_end, pair.client_end, lost),
        ]
    });
}

/// Our keep-alive probe finds the connection gone.
#[test]
fn probe_finds_the_connection_gone() {
    idle("probe_finds_the_connection_gone", "stale_probe", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.answer(b"answer");
        tcp::vanish(pair.server);
        drop(pair.listener);
        rustix::net::sockopt::set_tcp_keepidle(&pair.client, Duration::from_secs(1)).unwrap();
        rustix::net::sockopt::set_socket_keepalive(&pair.client, true).unwrap();
        tcp::wait_error(&pair.client);
        let stray = json!({"cause": "stray", "impact": "benign", "reason": "NO_SOCKET"});
        let lost = socket(json!({
            "cause": "stale_probe", "impact": "uncertain",
            "role": "client", "state": "ESTABLISHED", "probes_out": 1,
            "keepalive": {"enabled": true, "time_s": 1},
        }));
        [
            sent(pair.server_end, pair.client_end, no_socket(stray)),
            received(pair.client_end, pair.server_end, lost),
        ]
    });
}

/// Accepted and thrown away at once.
#[test]
fn connection_is_thrown_away() {
    at_once("connection_is_thrown_away", |family| {
        let (aborted, lost) = abort_server(
            Pair::new(family),
            json!({"impact": "uncertain", "turn": null}),
            json!({"cause": "no_data", "impact": "connect_failed", "turn": null}),
        );
        [aborted, lost]
    });
}

/// What a health checker does.
#[test]
fn health_check_is_benign() {
    at_once("health_check_is_benign", |family| {
        let pair = Pair::new(family);
        tcp::abort(pair.client);
        tcp::wait_error(&pair.server);
        let aborted = socket(json!({
            "cause": "app_abort", "turn": null, "owner": this_process(), "linger": {"time_s": 0},
        }));
        let lost = socket(json!({
            "cause": "no_data", "impact": "benign", "role": "server", "state": "ESTABLISHED",
        }));
        [
            sent(pair.client_end, pair.server_end, aborted),
            received(pair.server_end, pair.client_end, lost),
        ]
    });
}

/// A listener goes away with a connection nobody has accepted.
#[test]
fn listener_closes_with_a_connection_waiting() {
    at_once("listener_closes_with_a_connection_waiting", |family| {
        let listener = tcp::listener(family.server, 16);
        let server = listener.local_addr().unwrap();
        let (client, client_end) = tcp::connect(family.client, server);
        tcp::wait_state(&client, state::ESTABLISHED);
        drop(listener);
        tcp::wait_error(&client);
        // Who closes it may be anybody: a handshake can end as the listener goes.
        let mut owner = this_process();
        owner["source"] = json!("listener");
        let closed = socket(json!({
            "cause": "listener_closed", "impact": "connect_failed", "reason": "TCP_STATE",
            "role": "server", "state": "ESTABLISHED", "owner": owner,
        }));
        let lost = socket(json!({
            "cause": "no_data", "impact": "connect_failed", "role": "client", "state": "ESTABLISHED",
        }));
        [
            sent(server, client_end, closed),
            received(client_end, server, lost),
        ]
    });
}

/// A client that closes while its upload waits is still a client, and its FIN
/// is no lost byte.
#[test]
fn upload_is_dropped_after_the_client_has_closed() {
    at_once("upload_is_dropped_after_the_client_has_closed", |family| {
        let pair = Pair::new(family);
        pair.client.set_nonblocking(true).unwrap();
        // Until neither buffer takes any more.
        let chunk = vec![b'x'; 1 << 16];
        while std::io::Write::write(&mut &pair.client, &chunk).is_ok() {}
        drop(pair.client);
        drop(pair.server);
        let closed = socket(json!({
            "cause": "unread_data", "impact": "connection_broken", "role": "server",
            "owner": this_process(),
        }));
        let lost = socket(json!({
            "cause": "after_close", "impact": "connection_broken",
            "role": "client", "state": "FIN_WAIT1",
        }));
        [
            sent(pair.server_end, pair.client_end, closed),
            received(pair.client_end, pair.server_end, lost),
        ]
    });
}
