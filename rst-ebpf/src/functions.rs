//! Resets that pass no tracepoint, seen where the kernel makes them.
//!
//! Hooks: up to Linux 6.9 `tcp_v4_send_reset` and `tcp_v6_send_reset`, by fentry or
//! else by kprobe, for the segments that meet no socket or TIME_WAIT: there
//! `tcp_send_reset` fires for full sockets alone. And by kprobe what netfilter's REJECT
//! calls: `nf_send_reset` and `nf_send_reset6`, on bridges and devices
//! `nf_reject_skb_v4_tcp_reset` and `nf_reject_skb_v6_tcp_reset`.

use aya_ebpf::{
    macros::{fentry, kprobe},
    programs::{FEntryContext, ProbeContext},
};
use rst_common::{
    cause::{Cause, Direction, Origin, ends_connection},
    classify::{classify_segment, segment_role},
    event::Control,
    facts::{Facts, known},
    history::Listened,
    layout::Field,
    reason::RAW_NONE,
    tcp::{flag, state},
};

use crate::{
    access::{Access, Call},
    closed, count, emit, ending,
    gather::{self, Source},
    kernel::{self, Net, Skb, Sock},
    listeners,
    maps::CONTROL,
    segment::Segment,
    tuple::Tuple,
};

/// Up to 6.9: `(sk, skb)`.
#[fentry(function = "tcp_v4_send_reset")]
pub fn tcp_v4_send_reset(ctx: FEntryContext) -> i32 {
    send_reset(&ctx, Family::V4);
    0
}

/// Likewise.
#[fentry(function = "tcp_v6_send_reset")]
pub fn tcp_v6_send_reset(ctx: FEntryContext) -> i32 {
    send_reset(&ctx, Family::V6);
    0
}

/// Where fentry is refused.
#[kprobe(function = "tcp_v4_send_reset")]
pub fn tcp_v4_send_reset_kprobe(ctx: ProbeContext) -> i32 {
    send_reset(&ctx, Family::V4);
    0
}

/// Likewise.
#[kprobe(function = "tcp_v6_send_reset")]
pub fn tcp_v6_send_reset_kprobe(ctx: ProbeContext) -> i32 {
    send_reset(&ctx, Family::V6);
    0
}

/// `(net, oldskb, hook)` in 5.10, `(net, sk, oldskb, hook)` since 5.11. Which of them
/// it is, the third argument tells: no pointer is as small as the number of a hook.
#[kprobe(function = "nf_send_reset")]
pub fn nf_send_reset(ctx: ProbeContext) -> i32 {
    reject(&ctx, rejected(&ctx), Family::V4);
    0
}

/// Likewise.
#[kprobe(function = "nf_send_reset6")]
pub fn nf_send_reset6(ctx: ProbeContext) -> i32 {
    reject(&ctx, rejected(&ctx), Family::V6);
    0
}

/// `(net, oldskb, dev, hook)`, since 5.11.
#[kprobe(function = "nf_reject_skb_v4_tcp_reset")]
pub fn nf_reject_skb_v4_tcp_reset(ctx: ProbeContext) -> i32 {
    reject(&ctx, Skb::from_arg(&ctx, 1), Family::V4);
    0
}

/// Likewise.
#[kprobe(function = "nf_reject_skb_v6_tcp_reset")]
pub fn nf_reject_skb_v6_tcp_reset(ctx: ProbeContext) -> i32 {
    reject(&ctx, Skb::from_arg(&ctx, 1), Family::V6);
    0
}

/// The packet that `nf_send_reset` answers.
#[inline(always)]
fn rejected<C: Call>(ctx: &C) -> Option<Skb<C::Access>> {
    /// More than there are (`enum nf_inet_hooks`, include/uapi/linux/netfilter.h).
    const HOOKS: u32 = 16;
    if (ctx.pointer(2) as u32) < HOOKS {
        Skb::from_arg(ctx, 1)
    } else {
        Skb::from_arg(ctx, 2)
    }
}

/// The protocol whose function it is.
#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// Whether a packet is routed to this host; `None` where it has no route, or
    /// nothing is known of it.
    #[inline(always)]
    fn is_local<A: Access>(self, skb: Skb<A>) -> Option<bool> {
        /// `include/uapi/linux/ipv6_route.h`.
        const RTF_LOCAL: u32 = 0x8000_0000;
        let route = skb.route()?;
        match self {
            Self::V4 => Some(kernel::probe::<u16>(route, Field::RouteType)? == RTN_LOCAL),
            Self::V6 => Some(kernel::probe::<u32>(route, Field::Route6Flags)? & RTF_LOCAL != 0),
        }
    }

    /// Where the TCP header of a packet is, and the bytes from there on, under the
    /// conditions for rejecting it (`nf_reject_ip_tcphdr_get`,
    /// `nf_reject_ip6_tcphdr_get`; 5.10 to 7.2), but for the checksum. `Err` where it is
    /// not rejected, and `Ok(None)` where headers of IPv6 lie in between.
    #[inline(always)]
    fn tcp<A: Access>(self, skb: Skb<A>) -> Result<Option<(u64, u32)>, ()> {
        /// `IPPROTO_TCP`.
        const TCP: u8 = 6;
        /// RFC 8200 section 3.
        const IPV6_HEADER: u64 = 40;
        let head = skb.get::<u64>(Field::SkbHead).unwrap_or_default();
        let network = skb.get::<u16>(Field::SkbNetworkHeader).unwrap_or_default();
        let header = head.wrapping_add(u64::from(network));
        let Some(ip) = kernel::probe_at::<[u8; 10]>(header) else {
            return Err(());
        };
        match self {
            // RFC 791 section 3.1: header length in the first byte, total length at byte
            // 2, fragment offset at byte 6, protocol at byte 9.
            Self::V4 => {
                let fragment = u16::from_be_bytes([ip[6], ip[7]]) & 0x1fff;
                if fragment != 0 || ip[9] != TCP {
                    return Err(());
                }
                let header_len = u32::from(ip[0] & 0xf) * 4;
                let total = u32::from(u16::from_be_bytes([ip[2], ip[3]]));
                let at = header.wrapping_add(u64::from(header_len));
                Ok(Some((at, total.saturating_sub(header_len))))
            }
            // Payload length at byte 4, next header at byte 6.
            Self::V6 if ip[6] == TCP => {
                let len = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
                Ok(Some((header.wrapping_add(IPV6_HEADER), len)))
            }
            Self::V6 => Ok(None),
        }
    }
}

/// `include/uapi/linux/rtnetlink.h`.
const RTN_LOCAL: u16 = 2;

/// What `tcp_send_reset` leaves out, under the kernel's own conditions for sending
/// (`tcp_v4_send_reset`, `tcp_v6_send_reset`; 5.10 to 6.9).
#[inline(always)]
fn send_reset<C: Call>(ctx: &C, family: Family) {
    let (Some(control), Some(skb)) = (CONTROL.get_ptr_mut(0), Skb::from_arg(ctx, 1)) else {
        return;
    };
    let sk = Sock::from_arg(ctx, 0);
    if sk.is_some_and(is_full) {
        return;
    }
    let mut facts = gather::facts(Direction::Sent);
    let mut segment = Segment::gather(Some(skb), &mut facts);
    let resets = facts.segment_flags & flag::RST == 0
        && (sk.is_some() || family.is_local(skb) != Some(false))
        && !is_signed(skb, &facts);
    if !resets {
        return;
    }
    let mut source = gather::origin(sk, &mut facts);
    let origin = if kernel::flag(sk.is_some()) == 0 {
        Origin::None
    } else {
        Origin::TimeWait
    };
    // So many ways lead here that the verifier would give up following each of them.
    gather::settle(&mut facts, &mut source, &mut segment);
    facts.origin = origin as u8;
    gather::history(control, sk, &segment, &mut source, &mut facts);
    gather::settle(&mut facts, &mut source, &mut segment);
    report(
        ctx,
        control,
        &mut facts,
        source,
        segment,
        origin,
        |ctx, _| (Sock::from_arg(ctx, 0), Skb::from_arg(ctx, 1)),
    );
}

/// Whether the tracepoint shows what a socket answers (`sk_fullsock`,
/// include/net/sock.h).
#[inline(always)]
fn is_full<A: Access>(sk: Sock<A>) -> bool {
    // A required field: the daemon does not start without it.
    let state = sk.common::<u8>(Field::SkState).unwrap_or_default();
    state != state::TIME_WAIT && state != state::NEW_SYN_RECV
}

/// Whether the segment carries an MD5 signature (RFC 2385), which the kernel answers
/// only where a listener has the key: not known here, and seldom.
#[inline(always)]
fn is_signed<A: Access>(skb: Skb<A>, facts: &Facts) -> bool {
    /// Length of a TCP header without options.
    const HEADER: u32 = 20;
    const LONGEST: u32 = 60 - HEADER;
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SIGNATURE: u8 = 19;
    const SIGNATURE_LEN: u32 = 18;
    let data = skb.get::<u64>(Field::SkbData).unwrap_or_default();
    let len = skb.get::<u32>(Field::SkbLen).unwrap_or_default();
    let room = len.saturating_sub(facts.payload_len + HEADER);
    let (mut at, mut signed) = (0, false);
    // Each option takes a byte at least, and the signature must have room.
    for _ in 0..=LONGEST - SIGNATURE_LEN {
        if at + SIGNATURE_LEN > room {
            break;
        }
        let option = data.wrapping_add(u64::from(HEADER + at));
        let [kind, option_len] = kernel::probe_at::<[u8; 2]>(option).unwrap_or([END, 0]);
        let step = if kind == NOTHING { 1 } else { option_len };
        signed = kind == SIGNATURE && u32::from(option_len) == SIGNATURE_LEN;
        if signed || kind == END || step == 0 {
            break;
        }
        // One state for the verifier, however it came here.
        at = kernel::forget(u64::from(at) + u64::from(step)) as u32 & 0xff;
    }
    kernel::flag(signed) != 0
}

/// A packet that a rule of netfilter answers with a reset.
#[inline(always)]
fn reject<C: Call>(ctx: &C, skb: Option<Skb<C::Access>>, family: Family) {
    let (Some(control), Some(skb)) = (CONTROL.get_ptr_mut(0), skb) else {
        return;
    };
    let Ok(tcp) = family.tcp(skb) else {
        return;
    };
    let mut facts = gather::facts(Direction::Sent);
    let mut segment = match tcp {
        Some((header, len)) => Segment::at(skb, header, len, &mut facts).0,
        None => Segment {
            skb: Some(skb),
            ..Segment::NONE
        },
    };
    if facts.segment_flags & flag::RST != 0 {
        return;
    }
    let mut source = gather::origin(None::<Sock<C::Access>>, &mut facts);
    if family.is_local(skb) == Some(true)
        && let Some(netns) = skb.net().map(Net::id)
        && let Some((any, address)) = Tuple::of_segment(&segment).address()
        && listeners::listens(netns, segment.local_port, any, address)
    {
        facts.listened = Listened::Now as u8;
        source.service = segment.local_port;
        source.owner = listeners::owner(netns, segment.local_port);
        source.owner.holder = 0;
    }
    gather::settle(&mut facts, &mut source, &mut segment);
    let origin = Origin::Netfilter;
    report(
        ctx,
        control,
        &mut facts,
        source,
        segment,
        origin,
        |_, skb| (None, skb),
    );
}

/// The socket and the packet that a function is called with.
type Arguments<A> = (Option<Sock<A>>, Option<Skb<A>>);

/// Decides, counts and tells. `again` takes the socket and the packet from the arguments
/// once more, where the verifier types them.
#[inline(always)]
fn report<C: Call>(
    ctx: &C,
    control: *mut Control,
    facts: &mut Facts,
    mut source: Source,
    mut segment: Segment<C::Access>,
    origin: Origin,
    again: impl FnOnce(&C, Option<Skb<C::Access>>) -> Arguments<C::Access>,
) {
    // The compiler leaves out what is of connections.
    facts.origin = origin as u8;
    facts.known &= !known::PACKET;
    source.full = false;
    let source = &source;
    let port = gather::service(source, segment_role(facts), facts);
    let verdict = classify_segment(facts, kernel::times(control));
    let (key, recent) = count(control, facts, verdict, RAW_NONE, port, source);
    // As `tcp_send_reset` does. The connection that a rule rejects goes on here.
    let answers = origin as u8 != Origin::Netfilter as u8;
    if answers
        && source.hash != 0
        && (ends_connection(key.cause) || key.cause == Cause::AfterReset as u8)
    {
        closed::remember(control, source.hash, ending(&key), 0);
    }
    let ctx = &ctx.again();
    let sk;
    (sk, segment.skb) = again(ctx, segment.skb);
    let recent = kernel::forget(u64::from(recent)) as u32;
    emit::emit(ctx, control, facts, &key, source, sk, &segment, 0, recent);
}
