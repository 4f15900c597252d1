//! The ports that the counts tell apart. Which ports a host's own processes
//! connect to or listen on is their choice, so there is room for so many only.

use core::ptr;

use rst_common::{count::OTHER_PORT, event::PORT_WORDS};

use crate::{kernel, maps::PORTS};

/// The port that a service is counted under: its own as long as there is room.
#[inline(always)]
pub(crate) fn bounded(port: u16) -> u16 {
    if port == 0 {
        return 0;
    }
    let Some(word) = PORTS.get_ptr_mut(u32::from(port) / 64) else {
        return OTHER_PORT;
    };
    let bit = 1 << (port & 63);
    // SAFETY: a valid map value, whole 8-byte load.
    if unsafe { ptr::read_volatile(word) } & bit != 0 {
        return port;
    }
    admit(port)
}

/// A port that is not known yet. Two CPUs that write one word at the same moment
/// may lose a port, which then is counted as two of those there is room for.
#[inline(never)]
fn admit(port: u16) -> u16 {
    let (Some(word), Some(count)) = (
        PORTS.get_ptr_mut(u32::from(port) / 64),
        PORTS.get_ptr_mut(PORT_WORDS as u32),
    ) else {
        return OTHER_PORT;
    };
    // SAFETY: valid map values, whole 8-byte accesses.
    unsafe {
        if ptr::read_volatile(count) >= u64::from(kernel::max_ports()) {
            return OTHER_PORT;
        }
        kernel::add(count, 1);
        let ports = ptr::read_volatile(word);
        ptr::write_volatile(word, ports | 1 << (port & 63));
    }
    port
}
