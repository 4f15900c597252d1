//! The table of live sockets: whose they are, when the connection began, what we
//! were in it, and the state it was in before it was closed.

use core::ptr;

use rst_common::history::{Life, Set, Slot, WAYS, socket_hash, with_ttl, without_ttl};

use crate::{
    access::Access,
    kernel::{self, Sock},
    maps::SOCKETS,
    process::Owner,
};

/// The set that a socket belongs to.
#[inline(always)]
fn set<A: Access>(sk: Sock<A>) -> Option<*mut Set> {
    SOCKETS.get_ptr_mut(socket_hash(sk.low_half()) & kernel::sockets_mask())
}

/// What is known of a socket with this remote port.
#[inline(always)]
pub(crate) fn find<A: Access>(sk: Sock<A>, remote_port: u16) -> Option<(Life, Owner)> {
    let set = set(sk)?;
    let mut found = slot(set, 0);
    for way in 1..WAYS {
        let candidate = slot(set, way);
        if is_of(candidate, sk) {
            found = candidate;
        }
    }
    // SAFETY: a valid map value. Another socket may take the slot meanwhile: then
    // its identity has changed, or its remote port is another.
    let (life, owner) = unsafe { read(found) };
    (is_of(found, sk) && life.remote_port == remote_port && life.pack() != 0)
        .then_some((life, owner))
}

/// What stands in a slot.
///
/// # Safety
/// `slot` must be a valid map value.
#[inline(always)]
unsafe fn read(slot: *mut Slot) -> (Life, Owner) {
    // SAFETY: the caller's promise; whole 8-byte loads.
    let (content, holder, workload) = unsafe {
        (
            ptr::read_volatile(&raw const (*slot).content),
            ptr::read_volatile(&raw const (*slot).holder),
            ptr::read_volatile(&raw const (*slot).workload),
        )
    };
    let (holder, ttl) = without_ttl(holder);
    let life = Life {
        ttl,
        ..Life::unpack(kernel::forget(content))
    };
    (life, Owner { holder, workload })
}

/// A connection begins, or a listener. Returns whether the socket was not in the
/// table.
#[inline(always)]
pub(crate) fn begin(sk: Sock, life: Life, owner: Owner) -> bool {
    let Some(set) = set(sk) else {
        return false;
    };
    let (slot, found) = choose(set, sk);
    write(slot, sk, life, owner);
    !found
}

/// A connection was there at the start: who holds it. Nothing more is known of it.
#[inline(always)]
pub(crate) fn found(sk: Sock, remote_port: u16, owner: Owner) {
    let Some(set) = set(sk) else {
        return;
    };
    let (slot, known) = choose(set, sk);
    if !known {
        write(slot, sk, Life::unknown(remote_port), owner);
    }
}

/// A connection is accepted. It stays the listener's service's, unless that
/// listens for others.
#[inline(always)]
pub(crate) fn accepted<A: Access>(sk: Sock<A>, remote_port: u16, owner: Owner, activated: bool) {
    let Some((life, before)) = find(sk, remote_port) else {
        return;
    };
    let Some(set) = set(sk) else {
        return;
    };
    let (slot, found) = choose(set, sk);
    if found {
        let workload = if activated || before.workload == 0 {
            owner.workload
        } else {
            before.workload
        };
        write(slot, sk, life, Owner { workload, ..owner });
    }
}

/// The handshake is complete: the time to live of the peer's segment.
#[inline(always)]
pub(crate) fn shaken(sk: Sock, remote_port: u16, ttl: u8) {
    update(sk, remote_port, |life| life.ttl = ttl);
}

/// A connection is closed: what is known of it.
#[inline(always)]
pub(crate) fn end(sk: Sock, remote_port: u16, state: u8) -> Life {
    update(sk, remote_port, |life| life.state_before = state)
}

/// The peer's FIN has come: who had spoken last.
#[inline(always)]
pub(crate) fn peer_closed(sk: Sock, remote_port: u16, turn: u8) {
    update(sk, remote_port, |life| life.turn = turn);
}

/// Changes what is known of a socket; the result.
#[inline(always)]
fn update(sk: Sock, remote_port: u16, change: impl FnOnce(&mut Life)) -> Life {
    let mut life = Life::unknown(remote_port);
    let Some(set) = set(sk) else {
        change(&mut life);
        return life;
    };
    let (slot, found) = choose(set, sk);
    // SAFETY: a valid map value.
    let known = unsafe { read(slot) };
    let mut owner = Owner::UNKNOWN;
    if found && known.0.remote_port == remote_port {
        (life, owner) = known;
    }
    change(&mut life);
    write(slot, sk, life, owner);
    life
}

/// The slot of a socket, or the one that it may take: an empty one, that of a
/// closed socket, else any. And whether it is the socket's own.
#[inline(always)]
fn choose<A: Access>(set: *mut Set, sk: Sock<A>) -> (*mut Slot, bool) {
    let mut chosen = slot(set, sk.low_half() as usize >> 12 & (WAYS - 1));
    for way in 0..WAYS {
        let candidate = slot(set, way);
        // SAFETY: a valid map value.
        let (identity, content) = unsafe {
            (
                ptr::read_volatile(&raw const (*candidate).identity),
                ptr::read_volatile(&raw const (*candidate).content),
            )
        };
        if sk.is_at(identity) {
            return (candidate, true);
        }
        if Life::unpack(content).state_before != 0 || identity == 0 {
            chosen = candidate;
        }
    }
    (chosen, false)
}

/// Whether a slot is this socket's.
#[inline(always)]
fn is_of<A: Access>(slot: *mut Slot, sk: Sock<A>) -> bool {
    // SAFETY: a valid map value.
    sk.is_at(unsafe { ptr::read_volatile(&raw const (*slot).identity) })
}

#[inline(always)]
fn slot(set: *mut Set, way: usize) -> *mut Slot {
    // SAFETY: `way` is below WAYS, so the slot is inside the map value.
    unsafe { &raw mut (*set).slots[way & (WAYS - 1)] }
}

/// Readers look at the identity first and last, so a half-written slot is
/// nobody's.
#[inline(always)]
fn write<A: Access>(slot: *mut Slot, sk: Sock<A>, life: Life, owner: Owner) {
    // SAFETY: a valid map value. Two sockets may write it at the same moment:
    // who reads compares the remote port in the content too.
    unsafe {
        ptr::write_volatile(&raw mut (*slot).identity, 0);
        ptr::write_volatile(&raw mut (*slot).content, life.pack());
        ptr::write_volatile(&raw mut (*slot).holder, with_ttl(owner.holder, life.ttl));
        ptr::write_volatile(&raw mut (*slot).workload, owner.workload);
        sk.store_at(&raw mut (*slot).identity);
    }
}
