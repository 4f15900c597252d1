//! A TUN device whose other end is this process: it is the peer, segment by segment.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};

use crate::collect::wait_until;
use crate::lab::Lab;
use crate::line::tun;
use crate::netns::{Family, subnets};

/// IANA's number of TCP.
const TCP: u8 = 6;

/// The peer's port.
pub(crate) const PORT: u16 = 80;
/// Its initial sequence number.
pub(crate) const SEQUENCE: u32 = 7_000;

/// The time to live that most hosts begin with.
const TTL: u8 = 64;

/// The device's other end.
pub(crate) struct Wire {
    device: File,
    pub(crate) ends: [Family; 2],
}

/// What matters of a segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    pub(crate) flags: u8,
}

impl Wire {
    pub(crate) fn new(lab: &Lab) -> Self {
        let device = lab.inside(|| tun("wire"));
        let ends = subnets(1);
        lab.netns.address("wire", ends.map(|ends| ends.client));
        Self { device, ends }
    }

    pub(crate) fn send(&mut self, segment: Segment) {
        self.send_with(segment, TTL);
    }

    /// Sends it with another time to live.
    pub(crate) fn send_with(&mut self, segment: Segment, ttl: u8) {
        self.device.write_all(&segment.packet(ttl)).unwrap();
    }

    /// The next segment from this port with all these flags; others are of
    /// earlier days.
    pub(crate) fn receive(&mut self, from: SocketAddr, flags: u8) -> Segment {
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
    /// Sends it from this namespace, whoever's address it comes from.
    pub(crate) fn inject(self, ttl: u8) {
        let family = if self.to.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let socket = rustix::net::socket(family, SocketType::RAW, Some(ipproto::RAW)).unwrap();
        let mut to = self.to;
        // Raw sockets have no ports.
        to.set_port(0);
        let packet = self.packet(ttl);
        let sent = rustix::net::sendto(&socket, &packet, SendFlags::empty(), &to).unwrap();
        assert_eq!(sent, packet.len());
    }

    /// An IP packet with nothing but TCP's header in it.
    fn packet(self, ttl: u8) -> Vec<u8> {
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
                let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, ttl, TCP, 0, 0];
                packet.extend(&addresses);
                let sum = checksum(&packet);
                packet[10..12].copy_from_slice(&sum);
                (packet, addresses)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let addresses = [from.octets(), to.octets()].concat();
                let mut packet = vec![0x60, 0, 0, 0, 0, 20, TCP, ttl];
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
