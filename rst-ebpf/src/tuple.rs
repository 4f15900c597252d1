//! Addresses and ports of a connection, and their hash.

use rst_common::{
    history::{ANY_V4, ANY_V6, TupleHash},
    layout::Field,
    tcp::{AF_INET, AF_INET6},
};

use crate::{
    access::Access,
    kernel::{self, Sock},
    segment::Segment,
};

/// Both ends of a connection. IPv4 addresses, mapped ones too, are in the first
/// 4 bytes.
pub(crate) struct Tuple {
    /// `AF_INET`, `AF_INET6`, or 0 where nothing is known.
    pub(crate) family: u16,
    /// This host's port, host byte order.
    pub(crate) local_port: u16,
    /// The peer's port, likewise.
    pub(crate) remote_port: u16,
    /// This host's address.
    pub(crate) local: [u64; 2],
    /// The peer's address.
    pub(crate) remote: [u64; 2],
}

impl Tuple {
    /// Nothing known.
    #[inline(always)]
    pub(crate) fn unknown() -> Self {
        Self {
            family: 0,
            local_port: 0,
            remote_port: 0,
            local: [kernel::zero(); 2],
            remote: [kernel::zero(); 2],
        }
    }

    /// The socket's own, with the ports given.
    #[inline(always)]
    pub(crate) fn of_socket<A: Access>(sk: Sock<A>, local_port: u16, remote_port: u16) -> Self {
        let mut tuple = Self::unknown();
        tuple.local_port = local_port;
        tuple.remote_port = remote_port;
        if sk.common::<u16>(Field::SkFamily) == Some(AF_INET6)
            && let (Some(local), Some(remote)) = (
                sk.common::<[u64; 2]>(Field::SkV6RcvSaddr),
                sk.common::<[u64; 2]>(Field::SkV6Daddr),
            )
            && !is_mapped(remote)
        {
            tuple.family = AF_INET6;
            tuple.local = local;
            tuple.remote = remote;
            return tuple;
        }
        // A mapped connection has its IPv4 addresses here too.
        tuple.family = AF_INET;
        tuple.local[0] = u64::from(sk.common::<u32>(Field::SkRcvSaddr).unwrap_or_default());
        tuple.remote[0] = u64::from(sk.common::<u32>(Field::SkDaddr).unwrap_or_default());
        tuple
    }

    /// Local is where the segment went to, remote where it came from.
    #[inline(always)]
    pub(crate) fn of_segment<A: Access>(segment: &Segment<A>) -> Self {
        let mut tuple = Self::unknown();
        let Some(skb) = segment.skb else {
            return tuple;
        };
        let head = skb.get::<u64>(Field::SkbHead).unwrap_or_default();
        let network = skb.get::<u16>(Field::SkbNetworkHeader).unwrap_or_default();
        let header = head.wrapping_add(u64::from(network));
        // RFC 8200 section 3: source at byte 8, destination at byte 24. An IPv4
        // header is shorter, but the TCP header behind it is not.
        let Some(words) = kernel::probe_at::<[u64; 5]>(header) else {
            return tuple;
        };
        tuple.local_port = segment.local_port;
        tuple.remote_port = segment.remote_port;
        if words[0] as u8 >> 4 == 6 {
            tuple.family = AF_INET6;
            tuple.local = [words[3], words[4]];
            tuple.remote = [words[1], words[2]];
        } else {
            // RFC 791 section 3.1: source at byte 12, destination at byte 16.
            tuple.family = AF_INET;
            tuple.local[0] = words[2] & 0xffff_ffff;
            tuple.remote[0] = words[1] >> 32;
        }
        tuple
    }

    /// This host's address and its family, where they are known.
    #[inline(always)]
    pub(crate) fn address(&self) -> Option<(u8, [u64; 2])> {
        let family = match self.family {
            AF_INET => ANY_V4,
            AF_INET6 => ANY_V6,
            _ => return None,
        };
        Some((family, self.local))
    }

    /// Hash of the tuple in a namespace.
    #[inline(always)]
    pub(crate) fn hash(&self, netns: u64) -> u64 {
        let ports = u64::from(self.local_port) << 16 | u64::from(self.remote_port);
        TupleHash::new(kernel::seed())
            .word(netns << 32 ^ ports)
            .word(self.local[0])
            .word(self.local[1])
            .word(self.remote[0])
            .word(self.remote[1])
            .finish()
    }
}

/// `skc_ipv6only` in its byte: behind the four bits of `skc_reuse` and that of
/// `skc_reuseport` (`struct sock_common`, include/net/sock.h, 5.10 to 7.3).
const IPV6ONLY: u8 = 1 << 5;

/// The families that a socket on every address serves.
#[inline(always)]
pub(crate) fn families(sk: Sock) -> u8 {
    if sk.common::<u16>(Field::SkFamily) != Some(AF_INET6) {
        return ANY_V4;
    }
    let bits = sk.common::<u8>(Field::SkIpv6only).unwrap_or_default();
    if bits & IPV6ONLY != 0 {
        ANY_V6
    } else {
        ANY_V4 | ANY_V6
    }
}

/// The address a socket is bound to, as [`Tuple::local`] would have it.
#[inline(always)]
pub(crate) fn bound_address(sk: Sock) -> Option<[u64; 2]> {
    if sk.common::<u16>(Field::SkFamily) == Some(AF_INET6) {
        let address = sk.common::<[u64; 2]>(Field::SkV6RcvSaddr)?;
        if !is_mapped(address) {
            return Some(address);
        }
    }
    Some([u64::from(sk.common::<u32>(Field::SkRcvSaddr)?), 0])
}

/// ::ffff:0:0/96, RFC 4291 section 2.5.5.2.
#[inline(always)]
fn is_mapped(address: [u64; 2]) -> bool {
    address[0] == 0 && address[1] as u32 == 0xffff_0000
}
