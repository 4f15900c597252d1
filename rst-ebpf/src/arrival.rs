//! The segment that the kernel handles for a socket at this moment. Functions that are
//! given both note it (fentry or kprobe); the tracepoint they come to next, which is given the
//! socket alone, reads it.

use core::ptr;

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use rst_common::layout::Field;

use crate::{
    access::{Access, Call},
    kernel::{self, Skb, Sock},
    maps::ARRIVAL,
    segment::TcpHeader,
};

/// From 5.11 on: `(sk, skb)`. The reset itself; `tcp_receive_reset` comes next.
#[fentry(function = "tcp_reset")]
pub fn tcp_reset(ctx: FEntryContext) -> i32 {
    note(&ctx, [0, 1], true);
    0
}

/// `(sk, skb)` in every version: the answer to our SYN.
#[fentry(function = "tcp_finish_connect")]
pub fn tcp_finish_connect(ctx: FEntryContext) -> i32 {
    note(&ctx, [0, 1], false);
    0
}

/// `(parent, child, skb)` in every version: the segment that completes the handshake
/// of a connection to a listener.
#[fentry(function = "tcp_child_process")]
pub fn tcp_child_process(ctx: FEntryContext) -> i32 {
    note(&ctx, [1, 2], false);
    0
}

/// Where fentry is refused.
#[kprobe(function = "tcp_reset")]
pub fn tcp_reset_kprobe(ctx: ProbeContext) -> i32 {
    note(&ctx, [0, 1], true);
    0
}

/// Likewise.
#[kprobe(function = "tcp_finish_connect")]
pub fn tcp_finish_connect_kprobe(ctx: ProbeContext) -> i32 {
    note(&ctx, [0, 1], false);
    0
}

/// Likewise.
#[kprobe(function = "tcp_child_process")]
pub fn tcp_child_process_kprobe(ctx: ProbeContext) -> i32 {
    note(&ctx, [1, 2], false);
    0
}

/// What is noted, on each CPU. One socket's note may be mixed with another's where the
/// task is preempted in between: then `check` does not fit, and it is nobody's.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Arrival {
    /// Sequence number, and the acknowledgement number below it.
    numbers: u64,
    /// [`Header`] but for the numbers.
    others: u64,
    /// Of both and the socket.
    check: u64,
}

/// The header of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// Sequence number.
    pub(crate) seq: u32,
    /// Acknowledgement number.
    pub(crate) ack: u32,
    /// Identification field, 0 for IPv6.
    pub(crate) ip_id: u16,
    /// Window as it stands there.
    pub(crate) window: u16,
    /// TCP flags; 0 where only `ttl` is known.
    pub(crate) flags: u8,
    /// Time to live, or hop limit.
    pub(crate) ttl: u8,
}

/// How the words are checked: never 0, so that an empty entry is of no socket.
#[inline(always)]
fn check<A: Access>(sk: Sock<A>, numbers: u64, others: u64) -> u64 {
    let socket = u64::from(sk.low_half()) << 32 | 1;
    socket ^ numbers ^ others.rotate_left(17)
}

/// Notes the segment of a function that is called with a socket and with it, at these
/// places: its time to live, and where it is a `reset` the TCP header too.
#[inline(always)]
pub(crate) fn note<C: Call>(ctx: &C, [sk, skb]: [usize; 2], reset: bool) {
    let (Some(sk), Some(skb)) = (Sock::from_arg(ctx, sk), Skb::from_arg(ctx, skb)) else {
        return;
    };
    let Some(arrival) = ARRIVAL.get_ptr_mut(0) else {
        return;
    };
    let head = skb.get::<u64>(Field::SkbHead).unwrap_or_default();
    let network = skb.get::<u16>(Field::SkbNetworkHeader).unwrap_or_default();
    let Some(ip) = kernel::probe_at::<[u8; 10]>(head.wrapping_add(u64::from(network))) else {
        return;
    };
    // RFC 791 section 3.1: identification at byte 4, time to live at 8; RFC 8200
    // section 3: hop limit at 7.
    let (ttl, ip_id) = if ip[0] >> 4 == 6 {
        (ip[7], 0)
    } else {
        (ip[8], u16::from_be_bytes([ip[4], ip[5]]))
    };
    let mut numbers = 0;
    let mut others = u64::from(ttl) | u64::from(ip_id) << 32;
    if reset {
        let Some(transport) = skb.get::<u16>(Field::SkbTransportHeader) else {
            return;
        };
        let at = head.wrapping_add(u64::from(transport));
        let Some(tcp) = kernel::probe_at::<TcpHeader>(at) else {
            return;
        };
        numbers = u64::from(u32::from_be(tcp.sequence)) << 32
            | u64::from(u32::from_be(tcp.acknowledgement));
        others |= u64::from(tcp.flags) << 8 | u64::from(u16::from_be(tcp.window)) << 16;
    }
    // SAFETY: a valid map value of this CPU.
    unsafe {
        ptr::write_volatile(&raw mut (*arrival).numbers, numbers);
        ptr::write_volatile(&raw mut (*arrival).others, others);
        ptr::write_volatile(&raw mut (*arrival).check, check(sk, numbers, others));
    }
}

/// What was noted for this socket.
#[inline(always)]
pub(crate) fn of(sk: Sock) -> Option<Header> {
    let arrival = ARRIVAL.get_ptr_mut(0)?;
    // SAFETY: a valid map value of this CPU.
    let (numbers, others, found) = unsafe {
        (
            ptr::read_volatile(&raw const (*arrival).numbers),
            ptr::read_volatile(&raw const (*arrival).others),
            ptr::read_volatile(&raw const (*arrival).check),
        )
    };
    if found != check(sk, numbers, others) {
        return None;
    }
    Some(Header {
        seq: (numbers >> 32) as u32,
        ack: numbers as u32,
        ip_id: (others >> 32) as u16,
        window: (others >> 16) as u16,
        flags: (others >> 8) as u8,
        ttl: others as u8,
    })
}

/// The same, which has been read then.
#[inline(always)]
pub(crate) fn take(sk: Sock) -> Option<Header> {
    let header = of(sk)?;
    let arrival = ARRIVAL.get_ptr_mut(0)?;
    // SAFETY: a valid map value of this CPU.
    unsafe { ptr::write_volatile(&raw mut (*arrival).check, 0) };
    Some(header)
}
