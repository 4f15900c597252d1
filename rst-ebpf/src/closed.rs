//! The table of connections that were closed or reset here a moment ago, so
//! that their late segments are told from those of connections unknown here.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use rst_common::{
    event::Control,
    history::{Closed, ENDINGS, Ending, Endings, endings_of},
};

use crate::{kernel, maps::CLOSED};

/// How the connection with this hash ended, if it did lately.
#[inline(always)]
pub(crate) fn find(control: *mut Control, hash: u64) -> Option<Ending> {
    let set = set(hash)?;
    let mut found = kernel::zero();
    for index in 0..ENDINGS {
        // SAFETY: a valid map value, whole 8-byte load.
        let word = unsafe { ptr::read_volatile(place(set, index)) };
        if Ending::is_of(word, hash) {
            found = word;
        }
    }
    let ending = Ending::unpack(kernel::forget(found));
    (ending.closed != Closed::Unknown as u8
        && Ending::between(ending.when, now()) <= kernel::closed_window(control))
    .then_some(ending)
}

/// Asks for the memory that [`remember`] will need: it is seldom in the cache, and
/// on its way while the facts are read.
#[inline(always)]
pub(crate) fn expect(hash: u64) {
    if let Some(set) = set(hash) {
        // SAFETY: a valid map value, whole 8-byte load.
        unsafe { ptr::read_volatile(place(set, 0)) };
    }
}

/// Remembers how a connection ended, just now. One whose reset is counted stays
/// so, unless it was an earlier one of the same tuple, from before `start`
/// ([`Ending::time`]).
#[inline(always)]
pub(crate) fn remember(control: *mut Control, hash: u64, ending: Ending, start: u32) {
    let Some(set) = set(hash) else {
        return;
    };
    let now = now();
    let mut oldest = 0;
    let mut chosen = place(set, 0);
    for index in 0..ENDINGS {
        let candidate = place(set, index);
        // SAFETY: a valid map value, whole 8-byte load.
        let word = unsafe { ptr::read_volatile(candidate) };
        let earlier = Ending::unpack(word);
        let age = Ending::between(earlier.when, now);
        if Ending::is_of(word, hash) {
            let window = kernel::closed_window(control);
            let is_earlier = start != 0 && Ending::between(start, now) < age;
            let settled = earlier.closed == Closed::Done as u8 && age <= window && !is_earlier;
            if settled && ending.closed != Closed::Done as u8 {
                return;
            }
            chosen = candidate;
            break;
        }
        if word == 0 || age > oldest {
            oldest = if word == 0 { u32::MAX } else { age };
            chosen = candidate;
        }
    }
    let ending = Ending {
        when: now,
        ..ending
    };
    // SAFETY: a valid map value, whole 8-byte store.
    unsafe { ptr::write_volatile(chosen, kernel::forget(ending.pack(hash))) };
}

#[inline(always)]
fn set(hash: u64) -> Option<*mut Endings> {
    CLOSED.get_ptr_mut(endings_of(hash, kernel::closed_sets()))
}

#[inline(always)]
fn place(set: *mut Endings, index: usize) -> *mut u64 {
    // SAFETY: `index` is below ENDINGS, so the place is inside the map value.
    unsafe { &raw mut (*set).words[index & (ENDINGS - 1)] }
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: takes no argument and reads a kernel variable.
    Ending::time(unsafe { bpf_jiffies64() })
}
