//! How many sockets are tracked.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use rst_common::history::{Life, Set, Slot};
use rustix::mm::ProtFlags;

use super::mapping::Mapping;

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
        // Mapped for good it would count as the daemon's.
        let table = Mapping::new(&self.fd, self.len, ProtFlags::READ)?;
        // SAFETY: the mapping is of so many bytes at least, begins at a page and lives longer
        // than the slice. The programs write to it meanwhile, in whole words, and it is read by
        // atomic loads alone, which a read-only mapping allows.
        let words: &[AtomicU64] = unsafe {
            std::slice::from_raw_parts(table.start().as_ptr().cast(), self.len / size_of::<u64>())
        };
        let slots = words.chunks_exact(WORDS);
        let count = slots.filter(|slot| lives(slot)).count();
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
