//! Who listens on a port of a namespace, and who has listened.

use core::ptr;

use aya_ebpf::bindings::BPF_NOEXIST;
use rst_common::{
    event::Control,
    history::{Listened, Listener, ListenerKey},
    layout::Field,
};

use crate::{kernel::Sock, maps::LISTENERS, tuple};

#[inline(always)]
fn key(netns: u64, port: u16) -> ListenerKey {
    ListenerKey {
        netns,
        port,
        pad: [0; 3],
    }
}

/// Whether anybody listens, or has listened, where a segment went. `address` is
/// only asked for where the port is known.
#[inline(always)]
pub(crate) fn find(
    control: *mut Control,
    netns: u64,
    port: u16,
    address: impl FnOnce() -> Option<[u64; 2]>,
) -> Listened {
    let Some(listener) = LISTENERS.get_ptr(key(netns, port)) else {
        // SAFETY: a valid map value, whole 8-byte load.
        let forgotten = unsafe { ptr::read_volatile(&raw const (*control).listeners_forgotten) };
        return if forgotten == 0 {
            Listened::Never
        } else {
            Listened::Unknown
        };
    };
    // SAFETY: a valid map value; entries are never removed. A torn address is
    // read as another one, for one segment.
    let listener = unsafe { listener.read() };
    if listener.any_address != 0 {
        return listener.at([0; 2]);
    }
    match address() {
        Some(address) => listener.at(address),
        None => Listened::Unknown,
    }
}

/// A socket begins to listen.
#[inline(always)]
pub(crate) fn begin(control: *mut Control, sk: Sock) {
    let Some((netns, port, address)) = place(sk) else {
        return;
    };
    let key = key(netns, port);
    let any = address == [0; 2];
    let entry = Listener {
        address,
        any_address: u8::from(any),
        several: 0,
        pad: [0; 2],
        listening: 1,
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
    // SAFETY: a valid map value. Two sockets that begin to listen on one port at
    // the same moment may lose one of the counts.
    unsafe {
        if any {
            (*listener).any_address = 1;
        } else if (*listener).address == [0; 2] {
            (*listener).address = address;
        } else if (*listener).address != address {
            (*listener).several = 1;
            (*listener).address = address;
        }
        (*listener).listening += 1;
    }
}

/// A socket stops listening.
#[inline(always)]
pub(crate) fn end(sk: Sock) {
    let Some((netns, port, _)) = place(sk) else {
        return;
    };
    if let Some(listener) = LISTENERS.get_ptr_mut(key(netns, port)) {
        // SAFETY: a valid map value; see `begin`.
        unsafe {
            if (*listener).listening != 0 {
                (*listener).listening -= 1;
            }
        }
    }
}

/// Namespace, port and address of a listening socket.
#[inline(always)]
fn place(sk: Sock) -> Option<(u64, u16, [u64; 2])> {
    let port = sk.common::<u16>(Field::SkNum).filter(|port| *port != 0)?;
    Some((sk.net()?.id(), port, tuple::bound_address(sk)?))
}
