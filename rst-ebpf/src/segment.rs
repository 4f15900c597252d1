//! The segment that a reset answers.

use rst_common::{
    facts::{Facts, PAYLOAD_PREFIX, known},
    layout::Field,
};

use crate::{
    access::{Access, Typed},
    gather::fact,
    kernel::{self, Skb},
};

/// The TCP header as far as it is used, network order.
#[repr(C)]
pub(crate) struct TcpHeader {
    source: u16,
    destination: u16,
    /// Of the first byte.
    pub(crate) sequence: u32,
    /// Of the next byte that is expected.
    pub(crate) acknowledgement: u32,
    data_offset: u8,
    /// [`flag`].
    pub(crate) flags: u8,
    /// As it stands there, not scaled.
    pub(crate) window: u16,
}

impl TcpHeader {
    /// Its length with the options, bytes.
    #[inline(always)]
    fn len(&self) -> u32 {
        u32::from(self.data_offset >> 4) * 4
    }
}

/// The segment that a reset answers; without one, all zeros.
pub(crate) struct Segment<A: Access = Typed> {
    /// The packet itself.
    pub(crate) skb: Option<Skb<A>>,
    /// Its destination: this host's port, host byte order.
    pub(crate) local_port: u16,
    /// Its source: the peer's port, host byte order.
    pub(crate) remote_port: u16,
}

impl<A: Access> Segment<A> {
    /// No segment caused the reset.
    pub(crate) const NONE: Self = Self {
        skb: None,
        local_port: 0,
        remote_port: 0,
    };

    /// Reads the TCP header and the first payload bytes. In every path that
    /// sends a reset `skb->data` is the transport header.
    #[inline(always)]
    pub(crate) fn gather(skb: Option<Skb<A>>, facts: &mut Facts) -> Self {
        let Some(skb) = skb else {
            return Self::NONE;
        };
        let data = skb.get::<u64>(Field::SkbData).unwrap_or_default();
        let len = skb.get::<u32>(Field::SkbLen).unwrap_or_default();
        let (segment, header_len) = Self::at(skb, data, len, facts);
        if facts.payload_len == 0 {
            return segment;
        }
        // Payload may lie in fragments, which can't be read from here.
        let linear = len.wrapping_sub(skb.get::<u32>(Field::SkbDataLen).unwrap_or(len));
        if linear >= header_len + PAYLOAD_PREFIX as u32 {
            let payload = kernel::probe_at(data.wrapping_add(u64::from(header_len)));
            fact!(facts.payload = payload, PAYLOAD);
        }
        segment
    }

    /// Reads the TCP header at an address: the segment has so many bytes from there
    /// on. Also returns the length of the header.
    #[inline(always)]
    pub(crate) fn at(skb: Skb<A>, header: u64, len: u32, facts: &mut Facts) -> (Self, u32) {
        let mut segment = Self {
            skb: Some(skb),
            ..Self::NONE
        };
        let Some(header) = kernel::probe_at::<TcpHeader>(header) else {
            return (segment, 0);
        };
        segment.local_port = u16::from_be(header.destination);
        segment.remote_port = u16::from_be(header.source);
        facts.segment_flags = header.flags;
        facts.payload_len = len.saturating_sub(header.len());
        facts.known |= known::SEGMENT;
        (segment, header.len())
    }
}
