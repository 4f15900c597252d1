//! The table of live sockets: when a connection began, what we were in it, and
//! the state it was in before it was closed.

use core::ptr;

use rst_common::{
    cause::Role,
    history::{Life, Set, Slot, WAYS, socket_hash},
};

use crate::{
    kernel::{self, Sock},
    maps::SOCKETS,
};

/// The set that a socket belongs to.
#[inline(always)]
fn set(sk: Sock) -> Option<*mut Set> {
    SOCKETS.get_ptr_mut(socket_hash(sk.low_half()) & kernel::sockets_mask())
}

/// What is known of a socket with this remote port.
#[inline(always)]
pub(crate) fn find(sk: Sock, remote_port: u16) -> Option<Life> {
    let set = set(sk)?;
    let mut content = kernel::zero();
    for way in 0..WAYS {
        let slot = slot(set, way);
        // SAFETY: a valid map value. Another socket may take the slot between
        // the two reads; the remote port is part of what is read second.
        let (identity, found) = unsafe {
            (
                ptr::read_volatile(&raw const (*slot).identity),
                ptr::read_volatile(&raw const (*slot).content),
            )
        };
        if sk.is_at(identity) {
            content = found;
        }
    }
    let life = Life::unpack(kernel::forget(content));
    (life.remote_port == remote_port && content != 0).then_some(life)
}

/// A connection begins. Returns whether the socket was not in the table.
#[inline(always)]
pub(crate) fn begin(sk: Sock, life: Life) -> bool {
    let Some(set) = set(sk) else {
        return false;
    };
    let (slot, found) = choose(set, sk);
    write(slot, sk, life.pack());
    !found
}

/// A connection is closed: what is known of it.
#[inline(always)]
pub(crate) fn end(sk: Sock, remote_port: u16, state: u8) -> Life {
    let unknown = Life {
        start: 0,
        role: Role::Unknown as u8,
        turn: 0,
        state_before: state,
        remote_port,
    };
    let Some(set) = set(sk) else {
        return unknown;
    };
    let (slot, found) = choose(set, sk);
    // SAFETY: a valid map value.
    let content = unsafe { ptr::read_volatile(&raw const (*slot).content) };
    let mut life = Life::unpack(content);
    if !found || life.remote_port != remote_port {
        life = unknown;
    }
    life.state_before = state;
    write(slot, sk, life.pack());
    life
}

/// The peer's FIN has come: who had spoken last.
#[inline(always)]
pub(crate) fn peer_closed(sk: Sock, remote_port: u16, turn: u8) {
    let Some(set) = set(sk) else {
        return;
    };
    let (slot, found) = choose(set, sk);
    // SAFETY: a valid map value.
    let content = unsafe { ptr::read_volatile(&raw const (*slot).content) };
    let mut life = Life::unpack(content);
    if !found || life.remote_port != remote_port {
        life = Life {
            start: 0,
            role: Role::Unknown as u8,
            turn,
            state_before: 0,
            remote_port,
        };
    }
    life.turn = turn;
    write(slot, sk, life.pack());
}

/// The slot of a socket, or the one that it may take: an empty one, that of a
/// closed socket, else any. And whether it is the socket's own.
#[inline(always)]
fn choose(set: *mut Set, sk: Sock) -> (*mut Slot, bool) {
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

#[inline(always)]
fn slot(set: *mut Set, way: usize) -> *mut Slot {
    // SAFETY: `way` is below WAYS, so the slot is inside the map value.
    unsafe { &raw mut (*set).slots[way & (WAYS - 1)] }
}

/// Readers look for the identity first, so a half-written slot is nobody's.
#[inline(always)]
fn write(slot: *mut Slot, sk: Sock, content: u64) {
    // SAFETY: a valid map value. Two sockets may write it at the same moment:
    // who reads compares the remote port in the content too.
    unsafe {
        ptr::write_volatile(&raw mut (*slot).identity, 0);
        ptr::write_volatile(&raw mut (*slot).content, content);
        sk.store_at(&raw mut (*slot).identity);
    }
}
