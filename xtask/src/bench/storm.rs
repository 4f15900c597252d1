//! SYNs from a raw socket, made beforehand and sent many at a time.

use std::{io::IoSlice, net::Ipv4Addr, ops::Range};

use anyhow::{Context as _, Result};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketAddrV4, SocketType, connect,
    ipproto, sendmmsg, socket,
};

use super::loads::End;

/// SYNs given to the kernel in one call.
const BATCH: usize = 64;

/// SYNs with different source ports, at least.
const SOURCES: u16 = 256;

/// First source port.
const FIRST_SOURCE: u16 = 32_000;

/// An IPv4 and a TCP header.
type Syn = [u8; 40];

/// Sends SYNs to ports of 127.0.0.1 in turn; returns how many.
pub(super) fn send(ports: Range<u16>, end: &End) -> Result<u64> {
    let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        .context("cannot make a raw socket")?;
    connect(&raw, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;

    let count = SOURCES.max(ports.end - ports.start);
    let syns: Vec<Syn> = (0..count)
        .zip(ports.cycle())
        .map(|(number, port)| syn(FIRST_SOURCE + number % SOURCES, port))
        .collect();
    let slices: Vec<_> = syns.iter().map(|syn| [IoSlice::new(syn)]).collect();
    let mut controls: Vec<_> = slices
        .iter()
        .map(|_| SendAncillaryBuffer::default())
        .collect();
    let mut messages: Vec<_> = slices
        .iter()
        .zip(&mut controls)
        .map(|(slice, control)| MMsgHdr::new(slice, control))
        .collect();

    let mut sent = 0;
    loop {
        for batch in messages.chunks_mut(BATCH) {
            if end.reached() {
                return Ok(sent);
            }
            sent += sendmmsg(&raw, batch, SendFlags::empty())? as u64;
        }
    }
}

/// A SYN from and to 127.0.0.1. The kernel fills in the IP header's length and checksum.
fn syn(source: u16, port: u16) -> Syn {
    const TCP: u8 = 6;
    const SYN: u8 = 2;
    let address = Ipv4Addr::LOCALHOST.octets();
    let mut packet = [0; 40];
    let (ip, tcp) = packet.split_at_mut(20);
    // Version 4, five words; 64 hops.
    ip[0] = 0x45;
    ip[8] = 64;
    ip[9] = TCP;
    ip[12..16].copy_from_slice(&address);
    ip[16..20].copy_from_slice(&address);

    tcp[0..2].copy_from_slice(&source.to_be_bytes());
    tcp[2..4].copy_from_slice(&port.to_be_bytes());
    // Five words; a window.
    tcp[12] = 0x50;
    tcp[13] = SYN;
    tcp[14] = 4;
    let pseudo_header = [&address[..], &address, &[0, TCP, 0, 20]].concat();
    let checksum = checksum(&[&pseudo_header[..], tcp].concat());
    tcp[16..18].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The Internet checksum (RFC 1071) of an even number of bytes, few enough for 32 bits.
fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let [_, _, high, low] = (folded + (folded >> 16)).to_be_bytes();
    !u16::from_be_bytes([high, low])
}

#[cfg(test)]
mod tests {
    use super::{checksum, syn};

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&example), !0xddf2);
    }

    #[test]
    fn a_segment_with_its_checksum_sums_up_to_nothing() {
        let packet = syn(4711, 80);
        let pseudo_header = [&packet[12..20], &[0, 6, 0, 20]].concat();
        assert_eq!(checksum(&[&pseudo_header[..], &packet[20..]].concat()), 0);
        assert_eq!(packet[22..24], [0, 80]);
    }
}
