//! The detailed event: budget, ring buffer, wake-up.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP},
    helpers::generated::{bpf_get_current_pid_tgid, bpf_ktime_get_ns},
};
use aya_log_ebpf::debug;
use rst_common::{
    cause::Cause,
    count::{CountKey, detail_index},
    event::{Control, Event, known},
    facts::{self, Facts},
    layout::Field,
    owner::Holder,
};

use crate::{
    access::{Access, Call},
    arrival,
    gather::{self, Source},
    kernel::{self, Sock},
    maps::{DETAIL, EVENTS},
    process,
    segment::Segment,
    tuple::Tuple,
};

/// Sends the detailed event if the budget allows it, and counts what became of
/// it. `recent`: how many of its key this CPU has seen in this period.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined; each is in a register already"
)]
pub(crate) fn emit<C: Call>(
    ctx: &C,
    control: *mut Control,
    facts: &Facts,
    key: &CountKey,
    source: &Source,
    sk: Option<Sock<C::Access>>,
    segment: &Segment<C::Access>,
    doubt: u32,
    recent: u32,
) {
    let Some(stats) = DETAIL.get_ptr_mut(detail_index(key.cause)) else {
        return;
    };
    // SAFETY: a valid map value, shared with other CPUs and the reader; whole
    // 8-byte loads.
    let (used, allowed, reserve, share) = unsafe {
        (
            ptr::read_volatile(&raw const (*control).used),
            ptr::read_volatile(&raw const (*control).allowed),
            ptr::read_volatile(&raw const (*control).reserve),
            ptr::read_volatile(&raw const (*control).share),
        )
    };
    let kept = if u64::from(recent) <= share {
        0
    } else {
        reserve
    };
    if used + kept >= allowed {
        // SAFETY: a valid map value of this CPU. The two programs may nest and
        // share it, so the addition is one instruction.
        unsafe { kernel::add(&raw mut (*stats).sampled_out, 1) };
        return;
    }
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        // SAFETY: as above.
        unsafe { kernel::add(&raw mut (*stats).lost, 1) };
        return;
    };
    // SAFETY: `control` is a valid map value; atomic, as every CPU adds to it.
    unsafe { kernel::add(&raw mut (*control).used, 1) };

    let event = entry.as_mut_ptr();
    debug!(
        ctx,
        "reset: cause {} state {} reason {}", key.cause, facts.state, key.reason
    );
    // SAFETY: `event` points to a reserved record of the ring buffer of exactly
    // this size; every field is written below.
    unsafe {
        (*event).facts = *facts;
        (*event).ktime_ns = bpf_ktime_get_ns();
        (*event).reason = key.reason;
        (*event).cause = key.cause;
        (*event).impact = key.impact;
        (*event).role = key.role;
        (*event).doubt = doubt;
        (*event).known = tuple(event, source, segment)
            | connection(event, source, sk)
            | namespace(event, sk, segment)
            | current(event, facts, key.cause)
            | packet(event, sk, facts);
        owner(event, source);
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    wake(control);
}

/// The header of the reset that arrived, where it was noted.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
unsafe fn packet<A: Access>(event: *mut Event, sk: Option<Sock<A>>, facts: &Facts) -> u32 {
    let header = if facts.knows(facts::known::PACKET) {
        sk.and_then(A::typed).and_then(arrival::take)
    } else {
        None
    };
    // SAFETY: the caller's promise.
    unsafe {
        let Some(header) = header else {
            let zero = kernel::zero();
            (*event).packet_seq = zero as u32;
            (*event).packet_ack = zero as u32;
            (*event).packet_window = zero as u16;
            (*event).packet_flags = zero as u8;
            (*event).ip_id = zero as u16;
            return 0;
        };
        (*event).packet_seq = header.seq;
        (*event).packet_ack = header.ack;
        (*event).packet_window = header.window;
        (*event).packet_flags = header.flags;
        (*event).ip_id = header.ip_id;
    }
    known::PACKET
}

/// Wakes the reader if it sleeps.
///
/// The commit above is a full barrier (`xchg` in `bpf_ringbuf_commit`), and the
/// reader sets `need_wake`, fences and looks at the ring once more before it
/// sleeps: so either it sees the record or we see the flag.
#[inline(always)]
fn wake(control: *mut Control) {
    // SAFETY: a valid map value, shared with the reader; whole 8-byte load.
    if unsafe { ptr::read_volatile(&raw const (*control).need_wake) } == 0 {
        return;
    }
    // Two CPUs may both come here: one wake-up too many, no harm.
    // SAFETY: as above, a whole 8-byte store.
    unsafe { ptr::write_volatile(&raw mut (*control).need_wake, 0) };
    // Only a record carries a wake-up; a discarded one is skipped by readers.
    if let Some(entry) = EVENTS.reserve::<u64>(0) {
        entry.discard(u64::from(BPF_RB_FORCE_WAKEUP));
    } else {
        // The ring is full: leave the wake-up to the next event.
        // SAFETY: as above, a whole 8-byte store.
        unsafe { ptr::write_volatile(&raw mut (*control).need_wake, 1) };
    }
}

/// Addresses and ports.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
unsafe fn tuple<A: Access>(event: *mut Event, source: &Source, segment: &Segment<A>) -> u32 {
    // SAFETY: the caller's promise.
    unsafe {
        if source.tuple.family != 0 {
            write_tuple(event, &source.tuple)
        } else {
            write_tuple(event, &Tuple::of_segment(segment))
        }
    }
}

/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "asserted below")]
unsafe fn write_tuple(event: *mut Event, tuple: &Tuple) -> u32 {
    // SAFETY: the caller's promise; both arrays are 16 bytes at a multiple of 8
    // in the record.
    unsafe {
        (*event).family = tuple.family;
        (*event).local_port = tuple.local_port;
        (*event).remote_port = tuple.remote_port;
        (&raw mut (*event).local_addr)
            .cast::<[u64; 2]>()
            .write(tuple.local);
        (&raw mut (*event).remote_addr)
            .cast::<[u64; 2]>()
            .write(tuple.remote);
    }
    if tuple.family == 0 { 0 } else { known::TUPLE }
}

const _: () = assert!(
    core::mem::offset_of!(Event, comm).is_multiple_of(8)
        && core::mem::offset_of!(Event, holder_comm).is_multiple_of(8)
        && core::mem::offset_of!(Event, local_addr).is_multiple_of(8)
        && core::mem::offset_of!(Event, remote_addr).is_multiple_of(8)
);

/// Writes a field's value, zero where it is unknown, and marks it known.
macro_rules! detail {
    ($event:ident, $bits:ident, $name:ident = $value:expr, $known:ident) => {{
        let value = $value;
        (*$event).$name = value.unwrap_or_default();
        if value.is_some() {
            $bits |= known::$known;
        }
    }};
}

/// What a full socket knows beyond the facts.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
unsafe fn connection<A: Access>(event: *mut Event, source: &Source, sk: Option<Sock<A>>) -> u32 {
    let mut bits = 0;
    // SAFETY: the caller's promise.
    unsafe {
        let sk = sk.filter(|_| source.full).and_then(A::typed);
        let Some(tcp) = sk.and_then(Sock::tcp) else {
            let zero = kernel::zero();
            (*event).sock_cookie = zero;
            (*event).cgroup_id = zero;
            (*event).uid = zero as u32;
            (*event).retransmits = zero as u32;
            (*event).keepalive_time = zero as u32;
            (*event).keepalive_intvl = zero as u32;
            (*event).keepalive_probes = zero as u8;
            return 0;
        };
        // 0: nobody has asked for the cookie yet.
        detail!(
            event,
            bits,
            sock_cookie = tcp
                .get::<u64>(Field::SkCookie)
                .filter(|cookie| *cookie != 0),
            SOCK_COOKIE
        );
        detail!(
            event,
            bits,
            cgroup_id = tcp.cgroup_id().filter(|id| *id != 0),
            CGROUP
        );
        detail!(event, bits, uid = tcp.get::<u32>(Field::SkUid), UID);
        detail!(
            event,
            bits,
            retransmits = tcp.get::<u32>(Field::TpTotalRetrans),
            RETRANSMITS
        );
        let net = sk.and_then(Sock::net);
        // A zero in the socket means the namespace's setting.
        let time = tcp
            .get::<u32>(Field::TpKeepaliveTime)
            .filter(|time| *time != 0)
            .or_else(|| net?.get(Field::NetKeepaliveTime));
        let intvl = tcp
            .get::<u32>(Field::TpKeepaliveIntvl)
            .filter(|intvl| *intvl != 0)
            .or_else(|| net?.get(Field::NetKeepaliveIntvl));
        let probes = tcp
            .get::<u8>(Field::TpKeepaliveProbes)
            .filter(|probes| *probes != 0)
            .or_else(|| net?.get(Field::NetKeepaliveProbes));
        if time.is_some() && intvl.is_some() && probes.is_some() {
            bits |= known::KEEPALIVE;
        }
        (*event).keepalive_time = time.unwrap_or_default();
        (*event).keepalive_intvl = intvl.unwrap_or_default();
        (*event).keepalive_probes = probes.unwrap_or_default();
    }
    bits
}

/// The network namespace: the socket's, or that of the device the answered
/// segment came through.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
unsafe fn namespace<A: Access>(
    event: *mut Event,
    sk: Option<Sock<A>>,
    segment: &Segment<A>,
) -> u32 {
    let mut bits = 0;
    let net = sk.and_then(Sock::net).or_else(|| segment.skb?.net());
    let netns = net.and_then(|net| net.get::<u32>(Field::NetInum));
    let cookie = net.and_then(|net| net.get::<u64>(Field::NetCookie));
    // SAFETY: the caller's promise.
    unsafe {
        detail!(event, bits, netns = netns, NETNS);
        detail!(event, bits, netns_cookie = cookie, NETNS_COOKIE);
    }
    bits
}

/// The process that runs now, only where it is certainly the one that closed the
/// socket, or that destroyed it.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "asserted above")]
unsafe fn current(event: *mut Event, facts: &Facts, cause: u8) -> u32 {
    let kills = cause == Cause::AdminKill as u8;
    // Connections that nobody has accepted go with their listener, whoever closes it,
    // or in whatever task the handshake ends a moment later.
    let closes = gather::is_closing(facts) && cause != Cause::ListenerClosed as u8;
    let name = if kills || closes {
        process::current_name()
    } else {
        None
    };
    // SAFETY: the caller's promise; the helper only returns a number.
    unsafe {
        let Some(name) = name else {
            (*event).pid = 0;
            (&raw mut (*event).comm)
                .cast::<[u64; 2]>()
                .write([kernel::zero(); 2]);
            return 0;
        };
        (*event).pid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (&raw mut (*event).comm).cast::<[u64; 2]>().write(name);
    }
    if kills { known::KILLER } else { known::OWNER }
}

/// Whose socket it is.
///
/// # Safety
/// `event` must be writable; see [`emit`].
#[inline(always)]
#[expect(clippy::cast_ptr_alignment, reason = "asserted above")]
unsafe fn owner(event: *mut Event, source: &Source) {
    let holder = Holder::unpack(source.owner.holder);
    let name = if holder.pid == 0 {
        None
    } else {
        process::name_of(holder)
    };
    // SAFETY: the caller's promise.
    unsafe {
        (*event).holder = source.owner.holder;
        (*event).workload = source.owner.workload;
        (&raw mut (*event).holder_comm)
            .cast::<[u64; 2]>()
            .write(name.unwrap_or([kernel::zero(); 2]));
    }
}
