//! Resets that are not the peer's, and those that only look like it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;

use rst_common::tcp::flag;
use rustix::io::Errno;
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::verdict;
use crate::lab::{Lab, skipped};
use crate::line::TUN;
use crate::metrics::Scrape;
use crate::netns::Family;
use crate::tcp;
use crate::wire::{PORT, SEQUENCE, Segment, Wire};

/// How far away the peer is.
const PEER_TTL: u8 = 57;

/// Time to live of the reset, what it is then, and the score.
const CASES: [(u8, &str, u8); 5] = [
    (PEER_TTL, "peer_abort", 0),
    // The way has changed.
    (PEER_TTL + 2, "peer_abort", 1),
    (PEER_TTL - 4, "peer_abort", 1),
    // A box nearby, and one that begins with another number.
    (PEER_TTL + 5, "forged", 3),
    (250, "forged", 3),
];

/// A lab whose daemon sees the headers of resets.
fn lab(test: &str) -> Option<Lab> {
    let lab = Lab::start(test, &[TUN], &[])?;
    let probe = [("probe", "tcp_reset")];
    if lab.before().sum(&Scrape::nothing(), "rst_probe_up", &probe) == 0 {
        skipped(test, "this kernel allows no probe of tcp_reset");
        return None;
    }
    Some(lab)
}

/// What is said of a connection that was reset with data on its way.
fn told(local: SocketAddr, remote: SocketAddr, role: &str, reset: (u8, &str, u8)) -> Value {
    let (ttl, cause, score) = reset;
    // What a server has sent last may have arrived.
    let impact = if role == "server" && cause == "peer_abort" {
        "uncertain"
    } else {
        "connection_broken"
    };
    let mut told = verdict("received", local, remote, [cause, impact, role]);
    told["state"] = json!("ESTABLISHED");
    told["packet"] = json!({"ttl": ttl, "seq": SEQUENCE + 1, "window": 0xffff, "flags": "RST,ACK"});
    told["forgery"] = json!({"score": score, "handshake_ttl": PEER_TTL});
    told
}

/// Our client has asked; then the connection is reset.
#[test]
fn reset_of_a_client() {
    let Some(lab) = lab("reset_of_a_client") else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let mut expected = Vec::new();
    for family in wire.ends {
        for (case, port) in CASES.into_iter().zip(PORT..) {
            let server = SocketAddr::new(family.server, port);
            let (client, end) = ask(&lab, &mut wire, family, server);
            let question = wire.receive(end, flag::PSH);
            let reset = Segment {
                from: server,
                to: end,
                sequence: SEQUENCE + 1,
                acknowledged: question.sequence,
                flags: flag::RST | flag::ACK,
            };
            wire.send_with(reset, case.0);
            tcp::wait_error(&client);
            expected.push(told(end, server, "client", case));
        }
    }
    lab.finish(&expected);
}

/// A connection to the wire's end on which our client has asked.
fn ask(lab: &Lab, wire: &mut Wire, family: Family, server: SocketAddr) -> (TcpStream, SocketAddr) {
    let (socket, end): (OwnedFd, _) = lab.inside(|| {
        let socket = tcp::bound(family.client);
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        let error = rustix::net::connect(&socket, &server);
        assert_eq!(error, Err(Errno::INPROGRESS));
        let end = tcp::name_of(&socket);
        (socket, end)
    });
    let syn = wire.receive(end, flag::SYN);
    let answer = Segment {
        from: server,
        to: end,
        sequence: SEQUENCE,
        acknowledged: syn.sequence.wrapping_add(1),
        flags: flag::SYN | flag::ACK,
    };
    wire.send_with(answer, PEER_TTL);
    let mut client = TcpStream::from(socket);
    wait_until("connected", || client.write_all(b"question").is_ok());
    (client, end)
}

/// Our server has sent more than a greeting; then the connection is reset.
#[test]
fn reset_of_a_server() {
    let Some(lab) = lab("reset_of_a_server") else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let mut expected = Vec::new();
    for family in wire.ends {
        let listener = lab.inside(|| tcp::listener(family.client, 16));
        let server = listener.local_addr().unwrap();
        for (case, port) in CASES.into_iter().zip(PORT..) {
            let segment = |sequence, acknowledged, flags| Segment {
                from: SocketAddr::new(family.server, port),
                to: server,
                sequence,
                acknowledged,
                flags,
            };
            wire.send(segment(SEQUENCE, 0, flag::SYN));
            let answer = wire.receive(server, flag::SYN | flag::ACK);
            let next = answer.sequence.wrapping_add(1);
            wire.send_with(segment(SEQUENCE + 1, next, flag::ACK), PEER_TTL);
            let (mut stream, peer) = listener.accept().unwrap();
            stream.write_all(&[b'.'; 2000]).unwrap();
            wire.receive(server, flag::PSH);
            let reset = segment(SEQUENCE + 1, next, flag::RST | flag::ACK);
            wire.send_with(reset, case.0);
            tcp::wait_error(&stream);
            expected.push(told(server, peer, "server", case));
        }
    }
    lab.finish(&expected);
}
