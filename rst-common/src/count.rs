//! What a reset is counted under in the kernel.

use crate::cause::{Cause, Impact};
use crate::history::BUCKET_SLOTS;

/// Key of the count map. Nothing in it is chosen by a stranger: `port` is set
/// only where this host's own programs chose it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct CountKey {
    /// [`crate::cause::Direction`] as a byte.
    pub direction: u8,
    /// [`crate::cause::Cause`] as a byte.
    pub cause: u8,
    /// [`crate::cause::Impact`] as a byte.
    pub impact: u8,
    /// [`crate::cause::Role`] as a byte.
    pub role: u8,
    /// The kernel's own number, or [`crate::reason::RAW_NONE`].
    pub reason: u8,
    /// Bucket of the silence before it plus one, for causes that have one
    /// ([`Cause::has_gap`]); else 0.
    pub gap: u8,
    /// The service's port in host byte order, 0 where there is none to name,
    /// [`OTHER_PORT`] where there was no room for it.
    pub port: u16,
    /// Whose socket it was (the id of its cgroup), 0 where that is not known.
    pub workload: u64,
}

const _: () = assert!(size_of::<CountKey>() == 16);

/// What stands for the ports that there was no room to tell apart, so that a
/// process can't fill the maps by the ports it connects to or listens on. The port
/// of this number is one of them.
pub const OTHER_PORT: u16 = u16::MAX;

/// Value of the count map, one for each CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CountValue {
    /// Resets counted; written only by the program of the key's direction.
    pub resets: u64,
    /// Of these, how many turned out to be no reset: `tcp_receive_reset` also
    /// fires for data after shutdown, where this host sends the reset. Written
    /// only by the `tcp_send_reset` program, so the two never race on a CPU.
    pub retracted: u64,
    /// Jiffies of silence before them, where the key has a bucket.
    pub gap: u64,
    /// [`Recent`] in a number.
    pub recent: u64,
}

const _: () = assert!(size_of::<CountValue>() == 32);

/// How many resets of a key a CPU has seen in the present period of the budget of
/// detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recent {
    /// The period ([`crate::event::Control::period`]).
    pub period: u32,
    /// Resets in it.
    pub resets: u32,
}

impl Recent {
    /// One more in this period.
    #[must_use]
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cut to the parts it is made of"
    )]
    pub const fn next(word: u64, period: u32) -> Self {
        let resets = if (word >> 32) as u32 == period {
            (word as u32).saturating_add(1)
        } else {
            1
        };
        Self { period, resets }
    }

    /// As a number.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.period as u64) << 32 | self.resets as u64
    }
}

/// Directions, as a size.
const DIRECTIONS: usize = 2;
/// Room for causes in [`overflow_index`]; a power of two.
const CAUSES: usize = 32;
/// Room for impacts in [`overflow_index`]; a power of two.
const IMPACTS: usize = 4;

const _: () = assert!(Cause::ALL.len() <= CAUSES && Impact::ALL.len() <= IMPACTS);

/// Entries of the array that counts what the full count map can't take.
pub const OVERFLOW_ENTRIES: usize = DIRECTIONS * CAUSES * IMPACTS;

/// Where a key is counted once the count map is full: direction, cause and
/// impact are kept, the rest reads `other`. Always below [`OVERFLOW_ENTRIES`].
#[must_use]
#[inline(always)]
pub const fn overflow_index(direction: u8, cause: u8, impact: u8) -> u32 {
    let impact = impact as usize & (IMPACTS - 1);
    index_of(direction, cause) * narrow(IMPACTS) + narrow(impact)
}

/// The (direction, cause, impact) bytes of an index made by [`overflow_index`].
#[must_use]
pub const fn overflow_parts(index: usize) -> (usize, usize, usize) {
    (
        index / (CAUSES * IMPACTS) % DIRECTIONS,
        index / IMPACTS % CAUSES,
        index % IMPACTS,
    )
}

/// Ages of the connections of one (direction, cause): resets by bucket, and the
/// sum of their ages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Ages {
    /// Resets by bucket of [`crate::history::BUCKETS`]; the one after the last
    /// bound is the open one.
    pub resets: [u64; BUCKET_SLOTS],
    /// Jiffies.
    pub sum: u64,
}

/// Entries of the array of [`Ages`]: those of both directions, and after them
/// what was taken back of the received ones.
pub const AGES_ENTRIES: usize = (DIRECTIONS + 1) * CAUSES;

/// Where the ages of a direction and cause are. Always below
/// [`AGES_ENTRIES`].
#[must_use]
#[inline(always)]
pub const fn ages_index(direction: u8, cause: u8) -> u32 {
    index_of(direction, cause)
}

/// Where the ages of received resets are that turned out to be none.
#[must_use]
#[inline(always)]
pub const fn ages_retracted_index(cause: u8) -> u32 {
    narrow(DIRECTIONS * CAUSES) + index_of(0, cause)
}

/// Entries of the array of what became of the detailed events.
pub const DETAIL_ENTRIES: usize = CAUSES;

/// Where those of a cause are. Always below [`DETAIL_ENTRIES`].
#[must_use]
#[inline(always)]
pub const fn detail_index(cause: u8) -> u32 {
    index_of(0, cause)
}

/// Where a direction and cause are in an array by both.
#[inline(always)]
const fn index_of(direction: u8, cause: u8) -> u32 {
    let direction = direction as usize & (DIRECTIONS - 1);
    let cause = cause as usize & (CAUSES - 1);
    narrow(direction * CAUSES + cause)
}

/// An index of the small arrays here, as the kernel takes it.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "below 256")]
const fn narrow(index: usize) -> u32 {
    index as u32
}

/// What a connection is counted under when it is made, and when it dies of
/// silence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ConnectionKey {
    /// Whose it is (the id of its cgroup), 0 where that is not known.
    pub workload: u64,
    /// The service's port in host byte order, 0 where there is none to name,
    /// [`OTHER_PORT`] where there was no room for it.
    pub port: u16,
    /// [`crate::cause::Role`] as a byte.
    pub role: u8,
    /// Padding.
    pub pad: [u8; 5],
}

const _: () = assert!(size_of::<ConnectionKey>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_begins_anew() {
        let first = Recent::next(0, 7);
        assert_eq!((first.period, first.resets), (7, 1));
        let second = Recent::next(first.pack(), 7);
        assert_eq!((second.period, second.resets), (7, 2));
        assert_eq!(Recent::next(second.pack(), 8).resets, 1);
        let most = Recent {
            period: 7,
            resets: u32::MAX,
        };
        assert_eq!(Recent::next(most.pack(), 7), most);
    }
}
