//! Who listens on a port of a namespace, and who has listened.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
};
use rst_common::{
    cause::OwnerSource,
    event::Control,
    history::{ANY_V4, ANY_V6, Listened, Listener, ListenerKey, MIXED, SERVED_SECONDS, SHARED},
    layout::Field,
    owner::Holder,
};

use crate::{
    access::Access,
    gather,
    kernel::{self, Sock},
    maps::{LISTENERS, SERVED},
    process::{self, Owner},
    tuple,
};

#[inline(always)]
fn key(netns: u64, port: u16) -> ListenerKey {
    ListenerKey {
        netns,
        port,
        pad: [0; 3],
    }
}

/// Whether anybody listens, or has listened, where a segment went that is answered
/// by a reset; such resets are counted for the listener that has gone. `address`
/// is only asked for where the port is known.
#[inline(always)]
pub(crate) fn find(
    control: *mut Control,
    netns: u64,
    port: u16,
    address: impl FnOnce() -> Option<(u8, [u64; 2])>,
) -> Listened {
    // Most lookups are of ports that a scan tries: those end here.
    let entry = if is_served(port) {
        LISTENERS.get_ptr_mut(key(netns, port))
    } else {
        None
    };
    let Some(entry) = entry else {
        // SAFETY: a valid map value, whole 8-byte load.
        let forgotten = unsafe { ptr::read_volatile(&raw const (*control).listeners_forgotten) };
        return if forgotten == 0 {
            Listened::Never
        } else {
            Listened::Unknown
        };
    };
    // SAFETY: a valid map value; one that is removed meanwhile stays readable. A torn
    // address is read as another one, for one segment.
    let listener = unsafe { entry.read() };
    let when = if listener.any_address == ANY_V4 | ANY_V6 {
        listener.at(ANY_V4, [0; 2])
    } else {
        match address() {
            Some((family, address)) => listener.at(family, address),
            None => Listened::Unknown,
        }
    };
    if when as u8 != Listened::Before as u8 {
        return when;
    }
    if is_long_ago(control, listener.stopped) {
        return Listened::Unknown;
    }
    // SAFETY: a valid map value, shared by all CPUs.
    unsafe { kernel::add(&raw mut (*entry).resets, 1) };
    when
}

/// Whether somebody listens at an address now.
#[inline(always)]
pub(crate) fn listens(netns: u64, port: u16, family: u8, address: [u64; 2]) -> bool {
    if !is_served(port) {
        return false;
    }
    let Some(entry) = LISTENERS.get_ptr_mut(key(netns, port)) else {
        return false;
    };
    // SAFETY: as in `find`.
    let listener = unsafe { entry.read() };
    listener.at(family, address) as u8 == Listened::Now as u8
}

/// The byte of a port in [`SERVED`].
#[inline(always)]
fn served(port: u16) -> Option<*mut u8> {
    let bytes = SERVED.get_ptr_mut(0)?;
    // SAFETY: a valid map value with a byte for every port; the mask bounds the index
    // for the verifier.
    Some(unsafe { bytes.cast::<u8>().add(kernel::sixteen_bits(port)) })
}

/// Whether anybody has listened on a port, in any namespace.
#[inline(always)]
fn is_served(port: u16) -> bool {
    // SAFETY: see `served`.
    served(port).is_none_or(|byte| unsafe { ptr::read_volatile(byte) } != 0)
}

/// Whether a port has long ceased to serve.
#[inline(always)]
fn is_long_ago(control: *mut Control, stopped: u64) -> bool {
    // SAFETY: takes no argument and reads a kernel variable.
    let jiffies = unsafe { bpf_jiffies64() }.wrapping_sub(stopped);
    let jiffy_us = u64::from(kernel::times(control).jiffy_us);
    jiffies.wrapping_mul(jiffy_us) > SERVED_SECONDS * 1_000_000
}

/// A socket begins to listen.
#[inline(always)]
pub(crate) fn begin(control: *mut Control, sk: Sock, owner: Owner) {
    let Some((netns, port, address)) = place(sk) else {
        return;
    };
    let key = key(netns, port);
    if let Some(byte) = served(port) {
        // SAFETY: see `served`; whole byte.
        unsafe { ptr::write_volatile(byte, 1) };
    }
    // As what is accepted there is told of it.
    let holder = Holder {
        source: OwnerSource::Listener as u8,
        ..Holder::unpack(owner.holder)
    }
    .pack();
    let any = if address == [0; 2] {
        tuple::families(sk)
    } else {
        0
    };
    // SAFETY: takes no argument and reads a clock.
    let now = unsafe { bpf_ktime_get_ns() };
    let entry = Listener {
        address,
        any_address: any,
        several: 0,
        shared: 0,
        exited: 0,
        listening: 1,
        holder,
        workload: owner.workload,
        stopped: 0,
        stopped_ns: 0,
        started_ns: now,
        resets: 0,
        exit_code: 0,
        pad: 0,
    };
    if LISTENERS.insert(key, entry, u64::from(BPF_NOEXIST)).is_ok() {
        return;
    }
    let Some(listener) = LISTENERS.get_ptr_mut(key) else {
        // Full: from now on nobody can be said never to have listened.
        // SAFETY: a valid map value, whole 8-byte store.
        unsafe { ptr::write_volatile(&raw mut (*control).listeners_forgotten, 1) };
        return;
    };
    // SAFETY: a valid map value. Of two sockets that begin to listen on one port at
    // the same moment either may be told; both are counted.
    unsafe {
        let idle = (*listener).listening == 0;
        if idle {
            // What others have served there may be another's now, or nobody's.
            if (*listener).any_address & !any != 0 || any == 0 && (*listener).address != address {
                (*listener).several = 1;
            }
            (*listener).any_address = any;
            (*listener).address = address;
            (*listener).shared = 0;
            (*listener).started_ns = now;
        } else {
            if any != 0 {
                (*listener).any_address |= any;
            } else if (*listener).address == [0; 2] {
                (*listener).address = address;
            } else if (*listener).address != address {
                (*listener).several = 1;
                (*listener).address = address;
            }
            if (*listener).workload != owner.workload {
                (*listener).shared = MIXED;
            } else if (*listener).holder != holder && (*listener).shared == 0 {
                (*listener).shared = SHARED;
            }
        }
        (*listener).holder = holder;
        (*listener).workload = owner.workload;
        kernel::add32(&raw mut (*listener).listening, 1);
    }
}

/// A process has accepted a connection. Where a service manager listens for it
/// (`systemd.socket(5)`), the listener is its own from now on. Returns whether it
/// is of that kind.
#[inline(always)]
pub(crate) fn accepted<A: Access>(sk: Sock<A>, owner: Owner) -> bool {
    let (Some(net), Some(port)) = (sk.net(), sk.common::<u16>(Field::SkNum)) else {
        return false;
    };
    let Some(listener) = LISTENERS.get_ptr_mut(key(net.id(), port)) else {
        return false;
    };
    // SAFETY: a valid map value; whole loads and stores.
    unsafe {
        if !process::is_manager(ptr::read_volatile(&raw const (*listener).holder)) {
            return false;
        }
        ptr::write_volatile(&raw mut (*listener).workload, owner.workload);
    }
    true
}

/// A socket stops listening.
#[inline(always)]
pub(crate) fn end(sk: Sock) {
    let Some((netns, port, _)) = place(sk) else {
        return;
    };
    let code = process::exiting();
    let exited = kernel::flag(code.is_some());
    let code = code.unwrap_or_default();
    // Whoever exits with the socket has held it; another than that has begun to
    // listen, where that one has forked.
    let holder = if exited == 0 {
        0
    } else {
        process::exiting_holder()
    };
    if let Some(listener) = LISTENERS.get_ptr_mut(key(netns, port)) {
        // SAFETY: a valid map value; see `begin`.
        unsafe {
            if (*listener).listening != 0 {
                kernel::add32(&raw mut (*listener).listening, -1);
            }
            if holder != 0 && (*listener).shared == 0 {
                (*listener).holder = holder;
            }
            (*listener).resets = 0;
            (*listener).stopped = bpf_jiffies64();
            (*listener).stopped_ns = bpf_ktime_get_ns();
            (*listener).exited = exited;
            (*listener).exit_code = code;
        }
    }
}

/// Who listens, or listened last, on a port.
#[inline(always)]
pub(crate) fn owner(netns: u64, port: u16) -> Owner {
    let Some(listener) = LISTENERS.get_ptr(key(netns, port)) else {
        return Owner::UNKNOWN;
    };
    // SAFETY: a valid map value; whole loads.
    let (holder, workload, shared) = unsafe {
        (
            ptr::read_volatile(&raw const (*listener).holder),
            ptr::read_volatile(&raw const (*listener).workload),
            ptr::read_volatile(&raw const (*listener).shared),
        )
    };
    Owner {
        // Of several nobody knows which accepts.
        holder: if shared == 0 { holder } else { 0 },
        workload: if shared == MIXED { 0 } else { workload },
    }
}

/// Namespace, port and address of a listening socket.
#[inline(always)]
fn place(sk: Sock) -> Option<(u64, u16, [u64; 2])> {
    // A port that the kernel has chosen is given back before the state changes
    // (`tcp_set_state`): then `skc_num` is 0, and `inet_sport` is still there.
    let port = gather::local_port(sk).filter(|port| *port != 0)?;
    Some((sk.net()?.id(), port, tuple::bound_address(sk)?))
}
