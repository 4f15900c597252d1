//! The eBPF programs: gather the facts of a reset, classify, count, emit.
//!
//! Hooks (tp_btf, all network namespaces): `tcp_send_reset` with its two
//! prototypes, `tcp_receive_reset`. No policy lives here: what a reset means is
//! decided by `rst_common::classify`.
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

mod count;
mod emit;
mod gather;
mod kernel;
mod maps;

use aya_ebpf::{
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::{btf_tracepoint, raw_tracepoint},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use rst_common::{
    cause::Direction,
    classify::{Verdict, classify},
    count::CountKey,
    facts::Facts,
    reason::RAW_NONE,
    tcp::{shutdown, state},
};

use crate::{
    gather::Segment,
    kernel::{Skb, Sock},
    maps::CONTROL,
};

/// From 6.10 on: `(sk, skb, reason)`.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset(ctx: BtfTracePointContext) -> i32 {
    // `enum sk_rst_reason` has a few dozen members.
    send_reset(&ctx, ctx.arg::<u32>(2) as u16);
    0
}

/// Up to 6.9: `(sk, skb)`; touching a third argument would not load there.
#[btf_tracepoint(function = "tcp_send_reset")]
pub fn tcp_send_reset_no_reason(ctx: BtfTracePointContext) -> i32 {
    send_reset(&ctx, RAW_NONE);
    0
}

/// `(sk)` in every version, always a full socket.
#[btf_tracepoint(function = "tcp_receive_reset")]
pub fn tcp_receive_reset(ctx: BtfTracePointContext) -> i32 {
    if let Some(sk) = Sock::from_arg(&ctx, 0) {
        receive_reset(&ctx, sk);
    }
    0
}

#[inline(always)]
fn send_reset(ctx: &BtfTracePointContext, raw_reason: u16) {
    // The map's only entry: the check is for the verifier.
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    let sk = Sock::from_arg(ctx, 0);
    let skb = Skb::from_arg(ctx, 1);

    let mut facts = gather::facts(Direction::Sent);
    facts.reason = kernel::reason(raw_reason);
    let segment = Segment::gather(skb, &mut facts);
    let source = gather::connection(sk, &mut facts);
    if skb.is_none() {
        gather::task(&mut facts);
    }
    let port = gather::service(&source, &mut facts);
    let verdict = classify(&facts, kernel::idle_threshold(control));

    let key = key(&facts, verdict, raw_reason, port);
    count::count(&key);
    let doubt = if skb.is_some() {
        source.id(sk).map_or(0, |id| count::retract_receive(&id))
    } else {
        0
    };
    emit::emit(ctx, control, &facts, &key, &source, sk, &segment, doubt);
}

#[inline(always)]
fn receive_reset(ctx: &BtfTracePointContext, sk: Sock) {
    let Some(control) = CONTROL.get_ptr_mut(0) else {
        return;
    };
    let mut facts = gather::facts(Direction::Received);
    let source = gather::connection(Some(sk), &mut facts);
    let port = gather::service(&source, &mut facts);
    let verdict = classify(&facts, kernel::idle_threshold(control));

    let key = key(&facts, verdict, RAW_NONE, port);
    count::count(&key);
    // `tcp_rcv_state_process`: the states in which data after shutdown ends in
    // `tcp_reset`.
    let doubtful = matches!(
        facts.state,
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::CLOSE_WAIT | state::CLOSING | state::LAST_ACK
    ) && facts.shutdown & shutdown::RCV != 0;
    let doubt = if doubtful {
        source
            .id(Some(sk))
            .map_or(0, |id| count::doubt_receive(&id, key))
    } else {
        0
    };
    emit::emit(
        ctx,
        control,
        &facts,
        &key,
        &source,
        Some(sk),
        &Segment::NONE,
        doubt,
    );
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

#[inline(always)]
fn key(facts: &Facts, verdict: Verdict, reason: u16, port: u16) -> CountKey {
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
    CountKey {
        direction: facts.direction,
        cause,
        impact,
        role,
        reason,
        port,
    }
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
