//! Segments that no healthy peer sends.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rst_common::tcp::flag;
use rustix::io::Errno;
use serde_json::json;

use crate::collect::wait_until;
use crate::expect::verdict;
use crate::kernel::Limit;
use crate::lab::Lab;
use crate::line::TUN;
use crate::metrics::Scrape;
use crate::netns::Family;
use crate::tcp;
use crate::wire::{PORT, SEQUENCE, Segment, Wire};

/// How far off the acknowledgements are that are wrong.
const OFF: u32 = 1000;

/// A socket that connects to the wire's end, and its SYN there.
fn connecting(lab: &Lab, wire: &mut Wire, family: Family) -> (OwnedFd, Segment) {
    let (socket, end) = lab.inside(|| {
        let socket = tcp::bound(family.client);
        rustix::io::ioctl_fionbio(&socket, true).unwrap();
        let error = rustix::net::connect(&socket, &SocketAddr::new(family.server, PORT));
        assert_eq!(error, Err(Errno::INPROGRESS));
        let end = tcp::name_of(&socket);
        (socket, end)
    });
    let syn = wire.receive(end, flag::SYN);
    (socket, syn)
}

/// The answer to our SYN acknowledges something else: an old connection of the
/// same ports (RFC 9293 figure 8).
#[test]
fn bad_ack_in_syn_sent() {
    let test = "bad_ack_in_syn_sent";
    let Some(lab) = Lab::start(test, &[TUN], &[]) else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let expected = wire.ends.map(|family| {
        let (_socket, syn) = connecting(&lab, &mut wire, family);
        wire.send(Segment {
            from: syn.to,
            to: syn.from,
            sequence: SEQUENCE,
            acknowledged: syn.sequence.wrapping_add(OFF),
            flags: flag::ACK,
        });
        let reset = wire.receive(syn.from, flag::RST);
        assert_eq!(reset.sequence, syn.sequence.wrapping_add(OFF));
        let error = ["protocol_error", "benign", "client"];
        let mut error = verdict("sent", syn.from, syn.to, error);
        error["state"] = json!("SYN_SENT");
        error
    });
    lab.finish(&expected);
}

/// Both ends open at once, and then the other acknowledges what never was.
#[test]
fn bad_ack_in_syn_recv() {
    let test = "bad_ack_in_syn_recv";
    let Some(lab) = Lab::start(test, &[TUN], &[]) else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let expected = wire.ends.map(|family| {
        let (_socket, syn) = connecting(&lab, &mut wire, family);
        let segment = |sequence, acknowledged, flags| Segment {
            from: syn.to,
            to: syn.from,
            sequence,
            acknowledged,
            flags,
        };
        wire.send(segment(SEQUENCE, 0, flag::SYN));
        wire.receive(syn.from, flag::SYN | flag::ACK);
        let wrong = syn.sequence.wrapping_add(OFF);
        wire.send(segment(SEQUENCE + 1, wrong, flag::ACK));
        let reset = wire.receive(syn.from, flag::RST);
        assert_eq!(reset.sequence, wrong);
        let error = ["protocol_error", "uncertain", "client"];
        let mut error = verdict("sent", syn.from, syn.to, error);
        error["state"] = json!("SYN_RECV");
        error
    });
    lab.finish(&expected);
}

/// The last ACK of a handshake acknowledges something else. The kernel looks at
/// it as if there had been no request: the listener answers.
#[test]
fn bad_ack_of_a_request() {
    let test = "bad_ack_of_a_request";
    let Some(lab) = Lab::start(test, &[TUN], &[]) else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let expected = wire.ends.map(|family| {
        // Here the wire's end is the client.
        let listener = lab.inside(|| tcp::listener(family.client, 16));
        let server = listener.local_addr().unwrap();
        let client = SocketAddr::new(family.server, PORT);
        let segment = |sequence, acknowledged, flags| Segment {
            from: client,
            to: server,
            sequence,
            acknowledged,
            flags,
        };
        wire.send(segment(SEQUENCE, 0, flag::SYN));
        let answer = wire.receive(server, flag::SYN | flag::ACK);
        let wrong = answer.sequence.wrapping_add(OFF);
        wire.send(segment(SEQUENCE + 1, wrong, flag::ACK));
        wire.receive(server, flag::RST);
        let mut stray = verdict("sent", server, client, ["stray", "benign", "server"]);
        stray["state"] = json!("LISTEN");
        stray
    });
    lab.finish(&expected);
}

/// Resets that change nothing are counted by why they don't: somebody may be
/// guessing.
#[test]
fn resets_are_ignored() {
    let test = "resets_are_ignored";
    let Some(lab) = Lab::start(test, &[TUN], &[]) else {
        return;
    };
    let mut wire = Wire::new(&lab);
    let mut listeners = Vec::new();
    let before = Scrape::take(&lab.daemon.socket);
    for family in wire.ends {
        let listener = lab.inside(|| tcp::listener(family.client, 16));
        let server = listener.local_addr().unwrap();
        listeners.push(listener);
        let mut next = PORT;
        let mut request = |wire: &mut Wire| {
            next += 1;
            let segment = Segment {
                from: SocketAddr::new(family.server, next),
                to: server,
                sequence: SEQUENCE,
                acknowledged: 0,
                flags: flag::SYN,
            };
            wire.send(segment);
            let answer = wire.receive(server, flag::SYN | flag::ACK);
            Segment {
                sequence: SEQUENCE + 1,
                acknowledged: answer.sequence.wrapping_add(1),
                flags: flag::ACK,
                ..segment
            }
        };
        let reset = |segment: Segment, sequence| Segment {
            sequence,
            flags: flag::RST,
            ..segment
        };
        // Nobody listens there.
        let segment = request(&mut wire);
        let mut closed = reset(segment, SEQUENCE);
        closed.to.set_port(PORT);
        wire.send(closed);
        // The request is not accepted yet.
        wire.send(reset(segment, SEQUENCE + 1));
        let established = request(&mut wire);
        wire.send(established);
        wire.send(reset(established, SEQUENCE.wrapping_add(1 << 30)));
        wire.send(reset(established, SEQUENCE + 10));
        wire.receive(server, flag::ACK);
    }
    let ignored = |why| {
        let now = Scrape::take(&lab.daemon.socket);
        now.sum(&before, "rst_ignored_resets_total", &[("why", why)])
    };
    let mut whys = vec!["no_socket", "out_of_window", "challenge_ack"];
    if !lab.kernel.shows_in(test, Limit::Ignored) {
        whys.clear();
    } else if lab.kernel.shows_in(test, Limit::IgnoredBy) {
        whys.push("embryonic");
    } else {
        whys.push("other");
    }
    for why in whys {
        wait_until(why, || ignored(why) >= 2);
        assert_eq!(ignored(why), 2, "{why}");
    }
    lab.finish(&[]);
}
