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
use crate::router::{Routed, SERVER_DEVICE};
use crate::tcp::{self, Pair};
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

/// Who resets a connection through a router.
#[derive(Clone, Copy, Debug)]
enum By {
    /// The server.
    Server,
    /// The router, in its name.
    Router,
}

/// What the server's segments begin with at the handshake and later; who resets; how far
/// the reset's time to live is from the handshake's, and what is made of it.
const ROUTED: [(u8, u8, By, i16, &str, u8); 4] = [
    // As it should be.
    (64, 64, By::Server, 0, "peer_abort", 0),
    // The way has become two hops longer.
    (64, 62, By::Server, -2, "peer_abort", 1),
    // The router answers for a server behind it, as balancers do.
    (64, 64, By::Router, 1, "peer_abort", 1),
    // It is nearer than the server by far.
    (50, 50, By::Router, 15, "forged", 3),
];

/// A router on the way takes one from the time to live of what it forwards. What it sends
/// itself in the server's name has its own.
#[test]
fn resets_through_a_router() {
    let Some(lab) = lab("resets_through_a_router") else {
        return;
    };
    let routed = Routed::new(&lab);
    let begin_with = |ttl: u8| {
        routed.server.set("ipv4/ip_default_ttl", ttl.into());
        let device = format!("ipv6/conf/{SERVER_DEVICE}/hop_limit");
        routed.server.set(&device, ttl.into());
    };
    let mut expected = Vec::new();
    for (handshake, later, by, distance, cause, score) in ROUTED {
        for ends in routed.ends {
            begin_with(handshake);
            let mut pair = Pair::across(&lab.netns, &routed.server, ends);
            pair.ask(b"question");
            pair.answer(b"answer");
            pair.ask(b"another");
            begin_with(later);
            match by {
                By::Server => tcp::abort(pair.server),
                By::Router => {
                    let reset = Segment {
                        from: pair.server_end,
                        to: pair.client_end,
                        sequence: tcp::next_received(&pair.client),
                        acknowledged: 0,
                        flags: flag::RST | flag::ACK,
                    };
                    routed.router.inside(|| reset.inject(64));
                    tcp::vanish(pair.server);
                }
            }
            tcp::wait_error(&pair.client);
            let verdict_of = [cause, "connection_broken", "client"];
            let mut told = verdict("received", pair.client_end, pair.server_end, verdict_of);
            let at_handshake = handshake - 1;
            let ttl = i16::from(at_handshake) + distance;
            told["packet"] = json!({"ttl": ttl});
            told["forgery"] = json!({"score": score, "handshake_ttl": at_handshake});
            expected.push(told);
        }
    }
    lab.finish_with(&expected, |event| event["direction"] == "sent");
}
