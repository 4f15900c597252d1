//! The table of connections that were closed or reset here a moment ago, so
//! that their late segments are told from those of connections unknown here.

use core::ptr;

use aya_ebpf::helpers::generated::bpf_jiffies64;
use rst_common::{
    event::Control,
    history::{Closed, Ending, Set, Slot, WAYS},
};

use crate::{kernel, maps::CLOSED};

/// How the connection with this hash ended, if it did lately.
#[inline(always)]
pub(crate) fn find(control: *mut Control, hash: u64) -> Option<Ending> {
    let set = set(hash)?;
    let mut content = kernel::zero();
    for way in 0..WAYS {
        let slot = slot(set, way);
        // SAFETY: a valid map value. Another connection may take the slot
        // between the two reads: one late segment is then misjudged.
        let (identity, found) = unsafe {
            (
                ptr::read_volatile(&raw const (*slot).identity),
                ptr::read_volatile(&raw const (*slot).content),
            )
        };
        if identity == hash {
            content = found;
        }
    }
    let ending = Ending::unpack(kernel::forget(content));
    (ending.closed != Closed::Unknown as u8
        && now().wrapping_sub(ending.when) <= kernel::closed_window(control))
    .then_some(ending)
}

/// Remembers how a connection ended, just now. One whose reset is counted stays so.
#[inline(always)]
pub(crate) fn remember(control: *mut Control, hash: u64, ending: Ending) {
    let Some(set) = set(hash) else {
        return;
    };
    let now = now();
    let mut oldest = 0;
    let mut chosen = slot(set, 0);
    for way in 0..WAYS {
        let candidate = slot(set, way);
        // SAFETY: a valid map value.
        let (identity, content) = unsafe {
            (
                ptr::read_volatile(&raw const (*candidate).identity),
                ptr::read_volatile(&raw const (*candidate).content),
            )
        };
        let earlier = Ending::unpack(content);
        let age = now.wrapping_sub(earlier.when);
        if identity == hash {
            let settled =
                earlier.closed == Closed::Done as u8 && age <= kernel::closed_window(control);
            if settled && ending.closed != Closed::Done as u8 {
                return;
            }
            chosen = candidate;
            break;
        }
        if identity == 0 || age > oldest {
            oldest = if identity == 0 { u32::MAX } else { age };
            chosen = candidate;
        }
    }
    let ending = Ending {
        when: now,
        ..ending
    };
    // SAFETY: a valid map value; see `find` for the race.
    unsafe {
        ptr::write_volatile(&raw mut (*chosen).identity, 0);
        ptr::write_volatile(&raw mut (*chosen).content, kernel::forget(ending.pack()));
        ptr::write_volatile(&raw mut (*chosen).identity, hash);
    }
}

#[inline(always)]
fn set(hash: u64) -> Option<*mut Set> {
    CLOSED.get_ptr_mut((hash >> 32) as u32 & kernel::closed_mask())
}

#[inline(always)]
fn slot(set: *mut Set, way: usize) -> *mut Slot {
    // SAFETY: `way` is below WAYS, so the slot is inside the map value.
    unsafe { &raw mut (*set).slots[way & (WAYS - 1)] }
}

#[inline(always)]
fn now() -> u32 {
    // SAFETY: takes no argument and reads a kernel variable.
    unsafe { bpf_jiffies64() as u32 }
}
