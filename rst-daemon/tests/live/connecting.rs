//! Connections that can't be made.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::expect::{no_socket, received, sent, socket};
use crate::lab::{Lab, live};
use crate::netns::{FAMILIES, Family, Netns};
use crate::tcp;

#[test]
fn closed_port() {
    live("closed_port", &[], |_| {
        FAMILIES.into_iter().flat_map(refused).collect()
    });
}

fn refused(family: Family) -> [Value; 2] {
    let server = tcp::closed_port(family);
    let client = tcp::connect_refused(family.client, server);
    let ours = json!({"cause": "refused", "impact": "benign", "reason": "NO_SOCKET"});
    let theirs = socket(json!({
        "cause": "refused", "impact": "connect_failed", "role": "client",
        "state": "SYN_SENT", "turn": null,
        "unread_bytes": null, "unacked_bytes": null,
        "bytes_sent": null, "bytes_received": null, "probes_out": null,
    }));
    [
        sent(server, client, no_socket(ours)),
        received(client, server, theirs),
    ]
}

/// Handshakes that wait for data, so that one can find the queue full at its
/// end that had room at its start. With a backlog of 2 the queue takes 3, and a
/// third handshake at a time would be given a SYN cookie.
#[test]
fn accept_queue_overflow() {
    live("accept_queue_overflow", &[], |_| {
        let setting = "/proc/sys/net/ipv4/tcp_abort_on_overflow";
        std::fs::write(setting, "1").unwrap();
        let mut expected = Vec::new();
        for family in FAMILIES {
            let listener = tcp::listener(family.server, 2);
            tcp::set_option(&listener, libc::TCP_DEFER_ACCEPT, 30);
            let server = listener.local_addr().unwrap();
            let enter = |connection: &mut TcpStream| {
                connection.write_all(b"hello").unwrap();
                tcp::wait_acknowledged(connection);
            };
            let mut queued = Vec::new();
            for _ in 0..2 {
                let (mut connection, _) = tcp::connect(family.client, server);
                enter(&mut connection);
                queued.push(connection);
            }
            let (mut last_to_fit, _) = tcp::connect(family.client, server);
            let (mut too_late, client) = tcp::connect(family.client, server);
            enter(&mut last_to_fit);
            too_late.write_all(b"second").unwrap();
            tcp::wait_error(&too_late);
            for _ in 0..3 {
                let (mut accepted, _) = listener.accept().unwrap();
                accepted.read_exact(&mut [0; 5]).unwrap();
            }

            let mut full = no_socket(json!({
                "cause": "listen_overflow", "impact": "connect_failed", "reason": "INVALID_SYN",
                "role": "server", "state": "LISTEN",
            }));
            full["origin"] = json!("socket");
            expected.push(sent(server, client, full));
            let lost = socket(json!({
                "cause": "peer_abort", "impact": "connection_broken",
                "role": "client", "state": "ESTABLISHED",
                "unread_bytes": 0, "unacked_bytes": 6,
                "bytes_received": 0, "bytes_sent": 6,
            }));
            expected.push(received(client, server, lost));
        }
        expected
    });
}

/// The daemon was there before the namespace.
#[test]
fn namespace_made_after_the_start() {
    let test = "namespace_made_after_the_start";
    let Some(mut lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let first = std::mem::replace(&mut lab.netns, Netns::new());
    assert_ne!(first.inode, lab.netns.inode);
    let expected = lab.inside(|| FAMILIES.into_iter().flat_map(refused).collect::<Vec<_>>());
    lab.finish(&expected);
}
