//! Resets that arrive and change nothing.

use aya_ebpf::programs::BtfTracePointContext;
use rst_common::{
    cause::Ignored,
    drops::{NO_SOCKET, why},
    layout::Field,
    tcp::flag,
};

use crate::{
    kernel::{self, Skb, Sock},
    maps::IGNORED,
};

/// `IPPROTO_TCP`.
const TCP: u8 = 6;

/// `skb->transport_header` that is not set (include/linux/skbuff.h).
const UNSET: u16 = u16::MAX;

/// Entries of `IGNORED`.
pub(crate) const KINDS: usize = Ignored::ALL.len();

/// Counts the packet if it is a reset. `socket`: the argument that tells which
/// socket it met, where there is one.
#[inline(always)]
pub(crate) fn dropped(ctx: &BtfTracePointContext, reason: u32, socket: Option<usize>) {
    let entry = kernel::drop_reason(reason);
    if entry == 0 {
        return;
    }
    let Some(skb) = Skb::from_arg(ctx, 0) else {
        return;
    };
    // Most are SYNs to a closed port.
    if entry == NO_SOCKET && skb.flags().is_some_and(|flags| flags & flag::RST == 0) {
        return;
    }
    if !is_reset(skb) {
        return;
    }
    let state = socket
        .and_then(|index| Sock::from_arg(ctx, index))
        .and_then(|sk| sk.common::<u8>(Field::SkState));
    let why = why(
        entry,
        kernel::forget(u64::from(state.unwrap_or_default())) as u8,
    );
    if let Some(count) = IGNORED.get_ptr_mut(u32::from(why)) {
        // SAFETY: a valid map value of this CPU. The program may nest in another
        // context, so the addition is one instruction.
        unsafe { kernel::add(count, 1) };
    }
}

/// Whether it is a TCP segment with RST. Of IPv6 only where no extension header
/// comes before TCP's.
#[inline(always)]
fn is_reset(skb: Skb) -> bool {
    let head = skb.get::<u64>(Field::SkbHead).unwrap_or_default();
    let network = skb.get::<u16>(Field::SkbNetworkHeader).unwrap_or_default();
    let transport = skb.get::<u16>(Field::SkbTransportHeader).unwrap_or(UNSET);
    if transport == UNSET {
        return false;
    }
    // RFC 9293 section 3.1: flags at byte 13.
    let at = head.wrapping_add(u64::from(transport)).wrapping_add(13);
    if kernel::probe_at::<u8>(at).is_none_or(|flags| flags & flag::RST == 0) {
        return false;
    }
    let Some(ip) = kernel::probe_at::<[u8; 10]>(head.wrapping_add(u64::from(network))) else {
        return false;
    };
    // RFC 791 section 3.1: protocol at byte 9; RFC 8200 section 3: next header at 6.
    let protocol = if ip[0] >> 4 == 6 { ip[6] } else { ip[9] };
    protocol == TCP
}
