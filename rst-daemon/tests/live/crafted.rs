//! Segments that no healthy peer sends: this process is the peer, at the other
//! end of a TUN device.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rst_common::tcp::flag;
use rustix::io::Errno;
use serde_json::json;

use crate::collect::wait_until;
use crate::expect::verdict;
use crate::lab::Lab;
use crate::line::{TUN, tun};
use crate::metrics::Scrape;
use crate::netns::{Family, subnets};
use crate::tcp;

/// IANA's number of TCP.
const TCP: u8 = 6;

/// How far off the acknowledgements are that are wrong.
const OFF: u32 = 1000;

/// The peer's port, and its initial sequence number.
const PORT: u16 = 80;
const SEQUENCE: u32 = 7_000;

/// The device's other end.
struct Wire {
    device: File,
    ends: [Family; 2],
}

/// What matters of a segment.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    acknowledged: u32,
    flags: u8,
}

impl Wire {
    fn new(lab: &Lab) -> Self {
        let device = lab.inside(|| tun("wire"));
        let ends = subnets(1);
        lab.netns.address("wire", ends.map(|ends| ends.client));
        Self { device, ends }
    }

    fn send(&mut self, segment: Segment) {
        self.device.write_all(&segment.packet()).unwrap();
    }

    /// The next segment from this port with all these flags; others are of
    /// earlier days.
    fn receive(&mut self, from: SocketAddr, flags: u8) -> Segment {
        let mut found = None;
        wait_until("the segment comes", || {
            let mut packet = [0; 2048];
            while let Ok(len) = self.device.read(&mut packet) {
                let segment = Segment::parse(&packet[..len]);
                let fits =
                    |segment: &Segment| segment.from == from && segment.flags & flags == flags;
                found = found.or(segment.filter(fits));
            }
            found.is_some()
        });
        found.expect("just waited for")
    }
}

impl Segment {
    /// An IP packet with nothing but TCP's header in it.
    fn packet(self) -> Vec<u8> {
        let mut header = Vec::new();
        header.extend(self.from.port().to_be_bytes());
        header.extend(self.to.port().to_be_bytes());
        header.extend(self.sequence.to_be_bytes());
        header.extend(self.acknowledged.to_be_bytes());
        // Length in words, flags, window, checksum, urgent pointer.
        header.extend([5 << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        let (mut packet, addresses) = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, TCP, 0, 0];
                packet.extend(&addresses);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum);
                (packet, addresses)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                let mut packet = vec![0x60, 0, 0, 0, 0, 20, TCP, 64];
                packet.extend(&addresses);
                (packet, addresses)
            }
            _ => panic!("both ends are of one family"),
        };
        // The pseudo header of both families adds up to the same.
        let pseudo = [&addresses[..], &[0, TCP, 0, 20], &header].concat();
        let sum = checksum(&pseudo);
        header[16..18].copy_from_slice(&sum);
        packet.extend(header);
        packet
    }

    fn parse(packet: &[u8]) -> Option<Self> {
        let address = |at: usize, len: usize| match len {
            4 => IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap()),
            _ => IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap()),
        };
        let (protocol, from, to, start) = match packet.first()? >> 4 {
            4 => (packet[9], address(12, 4), address(16, 4), 20),
            6 => (packet[6], address(8, 16), address(24, 16), 40),
            _ => return None,
        };
        if protocol != TCP {
            return None;
        }
        let header = &packet[start..];
        let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().unwrap());
        let port = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        Some(Self {
            from: SocketAddr::new(from, port(0)),
            to: SocketAddr::new(to, port(2)),
            sequence: word(4),
            acknowledged: word(8),
            flags: header[13],
        })
    }
}

/// The Internet checksum, RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or_default();
        u32::from(u16::from_be_bytes([word[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [_, _, high, low] = (!sum).to_be_bytes();
    [high, low]
}

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
    for why in ["no_socket", "embryonic", "out_of_window", "challenge_ack"] {
        wait_until(why, || ignored(why) >= 2);
        assert_eq!(ignored(why), 2, "{why}");
    }
    lab.finish(&[]);
}
