//! How many sockets are tracked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use rst_common::history::{Life, Set, Slot};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// How long a count is taken for the number still.
const FRESH: Duration = Duration::from_secs(5);

/// Words of a slot.
const WORDS: usize = size_of::<Slot>() / size_of::<u64>();

/// Reads the table of sockets.
#[derive(Debug)]
pub struct Tracked {
    fd: OwnedFd,
    /// Bytes of the table.
    len: usize,
    last: Option<(Instant, usize)>,
}

impl Tracked {
    /// Of this table.
    pub(super) fn new(map: &MapData) -> io::Result<Self> {
        let sets = map.info().map_err(io::Error::other)?.max_entries();
        Ok(Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            len: usize::try_from(sets).map_err(io::Error::other)? * size_of::<Set>(),
            last: None,
        })
    }

    /// How many sockets the table has room for.
    #[must_use]
    pub const fn room(&self) -> usize {
        self.len / size_of::<Slot>()
    }

    /// How many sockets there are in it that live, a few seconds ago at most.
    pub(super) fn count(&mut self, now: Instant) -> io::Result<usize> {
        if let Some((when, count)) = self.last
            && now.duration_since(when) < FRESH
        {
            return Ok(count);
        }
        let table = Table::map(&self.fd, self.len)?;
        let count = table
            .words()
            .chunks_exact(WORDS)
            .filter(|slot| lives(slot))
            .count();
        self.last = Some((now, count));
        Ok(count)
    }
}

/// Whether a slot is of a socket that lives.
fn lives(slot: &[AtomicU64]) -> bool {
    let word = |offset: usize| {
        let word = slot.get(offset / size_of::<u64>());
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    };
    let identity = word(std::mem::offset_of!(Slot, identity));
    let content = word(std::mem::offset_of!(Slot, content));
    identity != 0 && Life::unpack(content).state_before == 0
}

/// The table's memory, for as long as it is looked at: mapped for good it would count as the
/// daemon's.
struct Table {
    start: *mut u64,
    len: usize,
}

impl Table {
    fn map(fd: &impl AsFd, len: usize) -> io::Result<Self> {
        // SAFETY: a fresh mapping at an address that the kernel chooses; nothing else in the
        // process knows it.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                len,
                ProtFlags::READ,
                MapFlags::SHARED,
                fd,
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            len,
        })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is of `len` bytes and lives as long as self; it starts at a page.
        // The programs write to it meanwhile, in whole words, and it is read by atomic loads
        // alone, which a read-only mapping allows.
        unsafe { std::slice::from_raw_parts(self.start.cast(), self.len / size_of::<u64>()) }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made, which nobody refers to any more.
        let _ = unsafe { munmap(self.start.cast(), self.len) };
    }
}

#[cfg(test)]
mod tests {
    use rst_common::tcp::state;

    use super::*;

    fn slot(identity: u64, state_before: u8) -> [AtomicU64; WORDS] {
        let life = Life {
            state_before,
            start: 77,
            ..Life::unknown(443)
        };
        [identity, u64::MAX, 5, life.pack()].map(AtomicU64::new)
    }

    #[test]
    fn sockets_that_were_closed_and_empty_slots_do_not_count() {
        assert!(lives(&slot(0xffff_8881_0000_4000, 0)));
        assert!(!lives(&slot(0xffff_8881_0000_4000, state::ESTABLISHED)));
        assert!(!lives(&slot(0, 0)));
    }
}
