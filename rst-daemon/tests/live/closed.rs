//! Segments that meet a connection which one side has closed.

use std::io::Write as _;
use std::net::Shutdown;

use rst_common::tcp::state;
use serde_json::json;

use crate::expect::{received, sent, socket, this_process, time_wait};
use crate::lab::live;
use crate::netns::FAMILIES;
use crate::pace;
use crate::tcp::{self, Pair};

/// More than a TLS record that may be no data.
const LATE: &[u8] = &[b'x'; 100];

/// The last data may be of the same jiffy as the peer's, and then the peer's
/// FIN hides who spoke last, so that `turn` is left open in these tests; see
/// [`the_peers_fin_is_not_its_turn`].
///
/// The server answers a client that has gone as it spoke: nobody waits for it.
#[test]
fn server_sends_after_the_client_has_closed() {
    live("server_sends_after_the_client_has_closed", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            drop(pair.client);
            tcp::wait_time_wait(pair.client_end);
            tcp::wait_state(&pair.server, state::CLOSE_WAIT);
            pair.server.write_all(LATE).unwrap();
            tcp::wait_error(&pair.server);
            let late = json!({
                "cause": "late_data", "impact": "uncertain",
                "reason": "TCP_TIMEWAIT_SOCKET", "role": "client",
            });
            expected.push(sent(pair.client_end, pair.server_end, time_wait(late)));
            let lost = socket(json!({
                "cause": "peer_closed", "impact": "uncertain",
                "role": "server", "state": "CLOSE_WAIT",
                "unread_bytes": 0, "unacked_bytes": 100,
                "bytes_received": 8, "bytes_sent": 100,
            }));
            expected.push(received(pair.server_end, pair.client_end, lost));
        }
        expected
    });
}

/// A client uses a kept-alive connection that the server has closed.
#[test]
fn client_sends_after_the_server_has_closed() {
    live("client_sends_after_the_server_has_closed", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            drop(pair.server);
            tcp::wait_time_wait(pair.server_end);
            tcp::wait_state(&pair.client, state::CLOSE_WAIT);
            pair.client.write_all(LATE).unwrap();
            tcp::wait_error(&pair.client);
            let late = json!({
                "cause": "late_data", "impact": "connection_broken",
                "reason": "TCP_TIMEWAIT_SOCKET", "role": "server",
            });
            expected.push(sent(pair.server_end, pair.client_end, time_wait(late)));
            let lost = socket(json!({
                "cause": "peer_closed", "impact": "connection_broken",
                "role": "client", "state": "CLOSE_WAIT",
                "unread_bytes": 0, "unacked_bytes": 100,
                "bytes_received": 6, "bytes_sent": 108,
            }));
            expected.push(received(pair.client_end, pair.server_end, lost));
        }
        expected
    });
}

/// The client has finished sending and waits for the answer.
#[test]
fn reset_meets_fin_wait2() {
    live("reset_meets_fin_wait2", &[], |_| {
        half_closed(Shutdown::Write, "peer_abort", "connection_broken")
    });
}

/// The client has shut down both ways: here the kernel also reports plain data
/// as a reset, so this true one must be told from those.
#[test]
fn reset_meets_fin_wait2_shut_for_receiving() {
    live("reset_meets_fin_wait2_shut_for_receiving", &[], |_| {
        half_closed(Shutdown::Both, "after_close", "benign")
    });
}

fn half_closed(how: Shutdown, cause: &str, impact: &str) -> Vec<serde_json::Value> {
    let mut expected = Vec::new();
    for family in FAMILIES {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.client.shutdown(how).unwrap();
        tcp::wait_state(&pair.client, state::FIN_WAIT2);
        tcp::wait_state(&pair.server, state::CLOSE_WAIT);
        tcp::abort(pair.server);
        tcp::wait_state(&pair.client, state::CLOSE);
        let aborted = socket(json!({
            "cause": "app_abort", "impact": "connection_broken", "reason": "TCP_STATE",
            "role": "server", "state": "CLOSE_WAIT", "turn": "peer", "owner": this_process(),
            "linger": {"time_s": 0}, "unread_bytes": 0, "unacked_bytes": 0,
            "bytes_received": 8, "bytes_sent": 0,
        }));
        expected.push(sent(pair.server_end, pair.client_end, aborted));
        let lost = socket(json!({
            "cause": cause, "impact": impact,
            "role": "client", "state": "FIN_WAIT2", "turn": "us",
            "unread_bytes": 0, "unacked_bytes": 0,
            "bytes_received": 0, "bytes_sent": 8,
        }));
        expected.push(received(pair.client_end, pair.server_end, lost));
    }
    expected
}

/// Data for a connection that is shut down both ways: the kernel calls its
/// receive tracepoint although no reset has come.
#[test]
fn data_after_shutdown_is_no_received_reset() {
    live("data_after_shutdown_is_no_received_reset", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.client.shutdown(Shutdown::Both).unwrap();
            tcp::wait_state(&pair.client, state::FIN_WAIT2);
            tcp::wait_state(&pair.server, state::CLOSE_WAIT);
            pair.server.write_all(LATE).unwrap();
            tcp::wait_error(&pair.server);
            let late = socket(json!({
                "cause": "late_data", "impact": "uncertain",
                "reason": "TCP_ABORT_ON_DATA", "role": "client",
                "unread_bytes": 0, "unacked_bytes": 0, "bytes_sent": 8,
            }));
            expected.push(sent(pair.client_end, pair.server_end, late));
            let mut lost = socket(json!({
                "cause": "peer_closed", "impact": "uncertain",
                "role": "server", "state": "CLOSE_WAIT",
                "unread_bytes": 0, "unacked_bytes": 100,
                "bytes_received": 8, "bytes_sent": 100,
            }));
            if pace::is_emulated() {
                // Here the FIN may come a jiffy after the question: it was the server's turn.
                lost["impact"] = json!({});
            }
            expected.push(received(pair.server_end, pair.client_end, lost));
        }
        expected
    });
}

/// Within a jiffy of the question and its FIN nobody can tell who spoke last.
#[test]
fn the_peers_fin_is_not_its_turn() {
    live("the_peers_fin_is_not_its_turn", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.client.write_all(b"question").unwrap();
            pair.client.shutdown(Shutdown::Both).unwrap();
            tcp::wait_state(&pair.server, state::CLOSE_WAIT);
            pair.server.write_all(LATE).unwrap();
            tcp::wait_error(&pair.server);
            let late = json!({"cause": "late_data"});
            expected.push(sent(pair.client_end, pair.server_end, late));
            let lost = json!({
                "cause": "peer_closed", "impact": "uncertain",
                "state": "CLOSE_WAIT", "turn": null, "unread_bytes": 8, "unacked_bytes": 100,
            });
            expected.push(received(pair.server_end, pair.client_end, lost));
        }
        expected
    });
}

/// A client that sends at once and is reset before anything is acknowledged:
/// the server has never said a word.
#[test]
fn a_silent_peer_has_no_turn() {
    live("a_silent_peer_has_no_turn", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let Pair {
                listener,
                mut client,
                server,
                client_end,
                server_end,
            } = Pair::new(family);
            tcp::vanish(server);
            drop(listener);
            client.write_all(b"question").unwrap();
            tcp::wait_error(&client);
            expected.push(sent(server_end, client_end, json!({"origin": "none"})));
            let lost = json!({
                "state": "ESTABLISHED", "turn": "us", "bytes_received": 0, "unacked_bytes": 8,
            });
            expected.push(received(client_end, server_end, lost));
        }
        expected
    });
}
