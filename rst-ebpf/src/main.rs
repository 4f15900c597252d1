//! The eBPF programs: gather the facts of a reset, classify, count, emit.
//!
//! Hooks (tp_btf, all network namespaces): `tcp_send_reset` with its two
//! prototypes, `tcp_receive_reset`, `inet_sock_set_state` for what is remembered
//! of sockets, `inet_sk_error_report` for connections that die of silence;
//! `kfree_skb` for resets that change nothing;
//! fexit `inet_csk_accept` for who accepts, where the kernel allows it; the functions
//! of [`functions`] for resets that no tracepoint shows, and those of [`arrival`] for the
//! segments' headers; and
//! `iter/task_file` once, for the sockets there are at the start. No policy lives
//! here: what a reset means is decided by `rst_common::classify`.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    unreachable_pub,
    clippy::needless_pass_by_value,
    reason = "the shape that the btf_tracepoint macro wants and makes"
)]
#![expect(
    clippy::cast_possible_truncation,
    reason = "the kernel's wider fields are cut to the wire types on purpose, sizes are small constants"
)]

mod access;
mod arrival;
mod closed;
mod count;
mod drops;
mod emit;
mod functions;
mod gather;
mod kernel;
mod listeners;
mod maps;
mod ports;
mod process;
mod segment;
mod sockets;
mod tuple;

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::{btf_tracepoint, fexit, kprobe, raw_tracepoint},
    programs::{BtfTracePointContext, FExitContext, ProbeContext, RawTracePointContext},
};
use rst_common::{
    cause::{Cause, Direction, Origin, Role, ends_connection, has_gap},
    classify::{Verdict, classify_received, classify_sent, gap, role, turn_at_close, turn_at_fin},
    count::{ConnectionKey, CountKey},
    event::Control,
    facts::{Facts, known},
    history::{Closed, Ending, Life},
    layout::Field,
    reason::{RAW_NONE, Reason},
    tcp::{shutdown, state},
};

use crate::{
    access::Call,
    gather::Source,
    kernel::{Skb, Sock, Task},
    maps::CONTROL,
    process::Owner,
    segment::Segment,
    tuple::Tuple,
};

/// `sk_protocol` of TCP; MPTCP is 262.
const IPPROTO_TCP: u16 = 6;

/// `include/uapi/asm-generic/errno.h`.
const ETIMEDOUT: u32 = 110;

/// From 6.10 on: `(sk, skb, reason)`.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    // `enum sk_rst_reason` has a few dozen members.
    send_reset(&ctx, Some(ctx.arg::<u32>(2) as u8), false);
    0
}

/// `(sk, skb)`, also of segments that meet no socket: one of the two changes of 6.10 alone,
/// as a distribution may have it. Touching a third argument would not load there.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset_no_reason(ctx: BtfTracePointContext) -> i32 {
    send_reset(&ctx, None, false);
    0
}

/// Up to 6.9: the same, but full sockets alone.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset_full_socket(ctx: BtfTracePointContext) -> i32 {
    send_reset(&ctx, None, true);
    0
}

/// `(sk)` in every version, always a full socket.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    receive_reset(&ctx);
    0
}

/// `(sk, oldstate, newstate)` in every version; MPTCP and SCTP pass here too.
#[btf_tracepoint(function = "inet_sock_set_state")]
pub fn inet_sock_set_state(ctx: BtfTracePointContext) -> i32 {
    let (old, new) = (ctx.arg::<u32>(1) as u8, ctx.arg::<u32>(2) as u8);
    let opens = new == state::SYN_SENT || new == state::ESTABLISHED;
    let closes = new == state::CLOSE;
    if !(opens || closes || new == state::CLOSE_WAIT || new == state::LISTEN) {
        return 0;
    }
    let Some(sk) = Sock::from_arg(&ctx, 0) else {
        return 0;
    };
    if sk.common::<u16>(Field::SkProtocol) != Some(IPPROTO_TCP) {
        return 0;
    }
    if new == state::SYN_SENT {
        connect(sk);
    } else if new == state::ESTABLISHED {
        establish(sk, old);
    } else if new == state::LISTEN {
        // What the table holds is of an earlier socket at the same address.
        listen(sk, process::current(), false);
    } else if old == state::LISTEN {
        listeners::end(sk);
        sockets::end(sk, LISTENERS_PEER, old);
    } else if closes {
        close(sk, old);
    } else {
        let Some(control) = CONTROL.get_ptr_mut(0) else {
            return 0;
        };
        let turn = turn_at_fin(&turn_facts(sk), kernel::times(control));
        let turn = kernel::forget(turn as u64) as u8;
        sockets::peer_closed(sk, gather::remote_port(sk), turn);
    }
    0
}

/// Our process asks for a connection.
#[inline(always)]
fn connect(sk: Sock) {
    let life = begun(Role::Client, gather::remote_port(sk));
    sockets::begin(sk, life, process::current());
}

/// A connection that begins now.
#[inline(always)]
fn begun(role: Role, remote_port: u16) -> Life {
    Life {
        // SAFETY: takes no argument and reads a kernel variable.
        start: Life::start_of(unsafe { bpf_jiffies64() }),
        role: role as u8,
        ..Life::unknown(remote_port)
    }
}

/// A connection has come about. We have asked for it where the handshake ends in
/// SYN_SENT. From SYN_RECV it is a child of a listener, which has no `struct socket`
/// until it is accepted; or both ends have sent a SYN, and then it is known since
/// ours (or it was accepted before, with TCP Fast Open, and is not).
#[inline(always)]
fn establish(sk: Sock, old: u8) {
    let remote_port = gather::remote_port(sk);
    let has_socket = sk
        .tcp()
        .and_then(|tcp| tcp.get::<u64>(Field::SkSocket))
        .is_none_or(|socket| socket != 0);
    let asked = old == state::SYN_SENT;
    if asked || kernel::flag(has_socket) != 0 {
        let known = sockets::find(sk, remote_port)
            .filter(|(life, _)| life.role == Role::Client as u8 && life.state_before == 0);
        if asked || known.is_some() {
            let owner = known.map_or(Owner::UNKNOWN, |(_, owner)| owner);
            let ttl = handshake_ttl(sk);
            if known.is_none() {
                let life = Life {
                    ttl,
                    ..begun(Role::Client, remote_port)
                };
                sockets::begin(sk, life, owner);
            } else if ttl != 0 {
                sockets::shaken(sk, remote_port, ttl);
            }
            count::connection(&ConnectionKey {
                workload: owner.workload,
                port: ports::bounded(remote_port),
                role: Role::Client as u8,
                pad: [0; 5],
            });
            return;
        }
    }
    let port = sk.common::<u16>(Field::SkNum).unwrap_or_default();
    let owner = sk
        .net()
        .map_or(Owner::UNKNOWN, |net| listeners::owner(net.id(), port));
    let life = Life {
        ttl: handshake_ttl(sk),
        ..begun(Role::Server, remote_port)
    };
    sockets::begin(sk, life, owner);
    count::connection(&ConnectionKey {
        workload: owner.workload,
        port: ports::bounded(port),
        role: Role::Server as u8,
        pad: [0; 5],
    });
}

/// Time to live of the segment that completes the handshake, 0 where it was not noted.
#[inline(always)]
fn handshake_ttl(sk: Sock) -> u8 {
    arrival::take(sk).map_or(0, |header| header.ttl)
}

/// The remote port of a socket that listens.
const LISTENERS_PEER: u16 = 0;

/// A listener begins, or is found: then `once`, for the iterator may come to a
/// socket by several files, and the table of sockets tells which it has seen.
#[inline(always)]
fn listen(sk: Sock, owner: Owner, once: bool) {
    let life = Life {
        role: Role::Server as u8,
        ..Life::unknown(LISTENERS_PEER)
    };
    let new = sockets::begin(sk, life, owner);
    if let Some(control) = CONTROL.get_ptr_mut(0)
        && (new || !once)
    {
        listeners::begin(control, sk, owner);
    }
}

/// A connection has ended. What our FIN has closed is remembered, for the peer's
/// data may still come; what ends without a FIN or a reset is forgotten as the
/// peer would see it.
#[inline(always)]
fn close(sk: Sock, old: u8) {
    let remote_port = gather::remote_port(sk);
    let life = sockets::end(sk, remote_port, old);
    let closed = match old {
        state::FIN_WAIT1 | state::FIN_WAIT2 => Closed::ByUs,
        state::CLOSING | state::LAST_ACK => Closed::Done,
        // The reset comes next, and a segment may come before it: the socket can't
        // be found any more.
        state::ESTABLISHED | state::CLOSE_WAIT if gather::resets_on_close(sk) => Closed::Done,
        _ => return,
    };
    let (Some(control), Some(net), Some(local_port)) =
        (CONTROL.get_ptr_mut(0), sk.net(), gather::local_port(sk))
    else {
        return;
    };
    let hash = Tuple::of_socket(sk, local_port, remote_port).hash(net.id());
    // Who was waited for matters where data may still come alone.
    let turn = if closed as u8 == Closed::ByUs as u8 {
        turn_at_close(&turn_facts(sk), kernel::times(control)) as u64
    } else {
        0
    };
    let ending = Ending {
        when: 0,
        role: life.role,
        turn: kernel::forget(turn) as u8,
        closed: closed as u8,
    };
    closed::remember(control, hash, ending, Ending::time(life.start));
}

/// The facts that tell who sent data last.
#[inline(always)]
fn turn_facts(sk: Sock) -> Facts {
    let mut facts = gather::facts(Direction::Received);
    gather::turn(sk, &mut facts);
    facts
}

/// From 5.14 on: `(sk)`. Tells the error that the application gets.
#[btf_tracepoint(function = "inet_sk_error_report")]
pub fn inet_sk_error_report(ctx: BtfTracePointContext) -> i32 {
    let (Some(sk), Some(control)) = (Sock::from_arg(&ctx, 0), CONTROL.get_ptr_mut(0)) else {
        return 0;
    };
    if sk.common::<u16>(Field::SkProtocol) != Some(IPPROTO_TCP) {
        return 0;
    }
    // `tcp_write_err` reports the last ICMP error where there was one.
    let error = sk.common::<u32>(Field::SkErr).unwrap_or_default();
    let soft = sk.common::<u32>(Field::SkErrSoft).unwrap_or_default();
    if error == 0 || error != ETIMEDOUT && error != soft {
        return 0;
    }
    let mut facts = gather::facts(Direction::Received);
    let source = gather::connection(Some(sk), &mut facts);
    // Keep-alive resets the connection before it reports: that is no silence.
    if source.hash != 0
        && closed::find(control, source.hash)
            .is_some_and(|ending| ending.closed == Closed::Done as u8)
    {
        return 0;
    }
    let port = gather::service(&source, role(&facts), &mut facts);
    let role = kernel::forget(role(&facts) as u64) as u8 & 3;
    count::timeout(&ConnectionKey {
        workload: source.owner.workload,
        port,
        role,
        pad: [0; 5],
    });
    0
}

/// From 6.11 on: `(skb, location, reason, rx_sk)`.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb(ctx: BtfTracePointContext) -> i32 {
    drops::dropped(&ctx, ctx.arg(2), Some(3));
    0
}

/// From 5.17 to 6.10: `(skb, location, reason)`.
#[btf_tracepoint(function = "kfree_skb")]
pub fn kfree_skb_no_socket(ctx: BtfTracePointContext) -> i32 {
    drops::dropped(&ctx, ctx.arg(2), None);
    0
}

/// Arguments of `inet_csk_accept` from 6.10 on: `(sk, arg)`. What it returns comes
/// after them.
const ACCEPT_ARGS: usize = 2;
/// Before: `(sk, flags, err, kern)`.
const ACCEPT_ARGS_BEFORE: usize = 4;

/// From 6.10 on.
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept(ctx: FExitContext) -> i32 {
    accept(&ctx, ACCEPT_ARGS);
    0
}

/// Up to 6.9.
#[fexit(function = "inet_csk_accept")]
pub fn inet_csk_accept_4(ctx: FExitContext) -> i32 {
    accept(&ctx, ACCEPT_ARGS_BEFORE);
    0
}

/// Where fexit is refused, `(sk, parent)` in every version: what `inet_accept` does next with
/// the connection (`sock_graft`), as those of other families do. A kretprobe of
/// `inet_csk_accept` would not do: there are only so many at a time (`maxactive`), and each
/// process that waits in `accept` holds one.
#[kprobe(function = "security_sock_graft")]
pub fn security_sock_graft(ctx: ProbeContext) -> i32 {
    let protocol = Sock::from_arg(&ctx, 0).and_then(|sk| sk.common::<u16>(Field::SkProtocol));
    if protocol == Some(IPPROTO_TCP) {
        accept(&ctx, 0);
    }
    0
}

/// A process takes the connection that this argument is: it is the one that holds it, as
/// far as anybody can know. The listener may be another's (socket activation): then it is
/// that process's service, too.
#[inline(always)]
fn accept<C: Call>(ctx: &C, index: usize) {
    let Some(sk) = Sock::from_arg(ctx, index) else {
        return;
    };
    let owner = process::accepting();
    let activated = listeners::accepted(sk, owner);
    sockets::accepted(sk, gather::remote_port(sk), owner, activated);
}

/// `struct bpf_iter__task_file` of `kernel/bpf/task_iter.c`: where the task is.
const ITER_TASK: usize = 1;
/// Likewise the file.
const ITER_FILE: usize = 3;

/// Run once at the start: notes the sockets that exist already, and who holds them.
///
/// # Safety
/// For the kernel to call, with the context of a `task_file` iterator.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub unsafe extern "C" fn sockets_at_start(ctx: *const *mut u8) -> i32 {
    // SAFETY: the context has four words; the verifier types the second one
    // `struct task_struct *` and the last one `struct file *`, or NULL.
    let (task, file) = unsafe { (ctx.add(ITER_TASK).read(), ctx.add(ITER_FILE).read()) };
    let Some(sk) = Sock::of_file(file) else {
        return 0;
    };
    if sk.common::<u16>(Field::SkProtocol) != Some(IPPROTO_TCP) {
        return 0;
    }
    let Some(owner) = Task::of(task).map(process::of) else {
        return 0;
    };
    let state = sk.common::<u8>(Field::SkState).unwrap_or_default();
    if state == state::LISTEN {
        listen(sk, owner, true);
    } else if state == state::ESTABLISHED || state == state::CLOSE_WAIT {
        sockets::found(sk, gather::remote_port(sk), owner);
    }
    0
}

#[inline(always)]
fn send_reset(ctx: &BtfTracePointContext, reason: Option<u8>, full_sockets: bool) {
    let raw_reason = reason.unwrap_or(RAW_NONE);
    // The map's only entry: the check is for the verifier.
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    let mut facts = gather::facts(Direction::Sent);
    facts.reason = kernel::reason(raw_reason);
    let mut segment = Segment::gather(Skb::from_arg(ctx, 1), &mut facts);
    let sk = Sock::from_arg(ctx, 0);
    let mut source = gather::connection(sk, &mut facts);
    if !source.full {
        gather::history(control, sk, &segment, &mut source, &mut facts);
    }
    gather::task(&mut facts);
    gather::settle(&mut facts, &mut source, &mut segment);
    // The compiler leaves out the rest.
    if reason.is_none() {
        facts.reason = Reason::Unspecified as u8;
    }
    if full_sockets {
        facts.origin = Origin::Socket as u8;
    }

    let port = gather::service(&source, role(&facts), &mut facts);
    let verdict = classify_sent(&facts, kernel::times(control));
    let (key, recent) = count(control, &facts, verdict, raw_reason, port, &source);
    let doubt = match source.id() {
        Some(id) if facts.knows(known::SEGMENT) => count::retract_receive(control, &id),
        _ => 0,
    };
    // Refused and stray segments are of no connection. Where a segment comes again
    // and again, our resets do not arrive, and the connection stays remembered.
    if source.hash != 0 && (ends_connection(key.cause) || key.cause == Cause::AfterReset as u8) {
        closed::remember(control, source.hash, ending(&key), 0);
    }

    let ctx = &ctx.again();
    segment.skb = Skb::from_arg(ctx, 1);
    let doubt = kernel::forget(u64::from(doubt)) as u32;
    let recent = kernel::forget(u64::from(recent)) as u32;
    let sk = Sock::from_arg(ctx, 0);
    emit::emit(
        ctx, control, &facts, &key, &source, sk, &segment, doubt, recent,
    );
}

#[inline(always)]
fn receive_reset(ctx: &BtfTracePointContext) {
    let (Some(control), Some(sk)) = (CONTROL.get_ptr_mut(0), Sock::from_arg(ctx, 0)) else {
        return;
    };
    let mut facts = gather::facts(Direction::Received);
    let mut source = gather::connection(Some(sk), &mut facts);
    gather::packet(sk, &mut facts);
    let mut segment = Segment::NONE;
    gather::settle(&mut facts, &mut source, &mut segment);

    let port = gather::service(&source, role(&facts), &mut facts);
    let verdict = classify_received(&facts, kernel::times(control));
    let (key, recent) = count(control, &facts, verdict, RAW_NONE, port, &source);
    // `tcp_rcv_state_process`: the states in which data after shutdown ends in
    // `tcp_reset`.
    let doubtful = matches!(
        facts.state,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT | state::CLOSING | state::LAST_ACK
    ) && facts.shutdown & shutdown::RCV != 0;
    let doubt = match source.id() {
        Some(id) if doubtful => {
            let age = if facts.knows(known::AGE) {
                u64::from(facts.age)
            } else {
                u64::MAX
            };
            count::doubt_receive(&id, key, age)
        }
        _ => 0,
    };
    if source.hash != 0 && ends_connection(key.cause) {
        closed::remember(control, source.hash, ending(&key), 0);
    }

    let ctx = &ctx.again();
    let doubt = kernel::forget(u64::from(doubt)) as u32;
    let recent = kernel::forget(u64::from(recent)) as u32;
    let sk = Sock::from_arg(ctx, 0);
    emit::emit(
        ctx, control, &facts, &key, &source, sk, &segment, doubt, recent,
    );
}

/// What is remembered of a connection whose reset is counted.
#[inline(always)]
pub(crate) fn ending(key: &CountKey) -> Ending {
    Ending {
        when: 0,
        role: key.role,
        turn: 0,
        closed: Closed::Done as u8,
    }
}

/// Counts what was decided. Also returns how many of its key this CPU has seen in
/// this period.
#[inline(always)]
pub(crate) fn count(
    control: *mut Control,
    facts: &Facts,
    verdict: Verdict,
    raw_reason: u8,
    port: u16,
    source: &Source,
) -> (CountKey, u32) {
    // The verifier would follow each verdict through all that comes after.
    let [cause, impact, role, ..] = kernel::forget(u64::from_le_bytes([
        verdict.cause as u8,
        verdict.impact as u8,
        verdict.role as u8,
        0,
        0,
        0,
        0,
        0,
    ]))
    .to_le_bytes();
    let mut key = CountKey {
        direction: facts.direction,
        cause,
        impact,
        role,
        reason: raw_reason,
        gap: 0,
        port,
        workload: source.owner.workload,
    };
    let mut silence = 0;
    if has_gap(cause) {
        silence = gap(facts, cause);
        key.gap = kernel::bucket(control, silence) as u8 + 1;
    }
    let recent = count::count(&key, silence, kernel::period(control));
    if facts.knows(known::AGE) {
        count::age(control, &key, facts.age);
    }
    (key, recent)
}

/// Not attached: the daemon runs it once, to learn the kernel's HZ from one
/// reading of both clocks.
#[raw_tracepoint]
pub fn clock(_ctx: RawTracePointContext) -> i32 {
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        // SAFETY: a valid map value; nothing else writes these fields.
        unsafe {
            (*control).clock_ktime_ns = bpf_ktime_get_ns();
            (*control).clock_jiffies = bpf_jiffies64();
        }
    }
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel grants its GPL-only helpers to this licence; the source is
/// MIT OR Apache-2.0.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
