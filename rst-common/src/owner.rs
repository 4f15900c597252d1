//! Whose socket it is: processes, and the workloads they belong to.
//!
//! A workload is a number in the kernel and a name in the daemon: the id of the
//! cgroup (v2) that the process was in when it connected or began to listen.

/// Who holds a socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    /// Process (thread group), 0 where several share the socket or the kernel
    /// holds it.
    pub pid: u32,
    /// [`crate::cause::OwnerSource`] as a byte.
    pub source: u8,
    /// Whether the kernel itself holds it (NFS and the like).
    pub is_kernel: bool,
    /// When the process began ([`born`]): tells it from a later one of the same id.
    pub born: u32,
}

/// Bits of [`Holder::born`].
const BORN_BITS: u32 = 22;

/// When a process began, from `task_struct.start_boottime` in nanoseconds: in
/// hundredths of a second, as `/proc/PID/stat` has it, and cut to what there is room
/// for; it comes round after 11 hours.
#[must_use]
#[inline(always)]
pub const fn born(start_ns: u64) -> u32 {
    born_ticks(start_ns / 10_000_000)
}

/// The same from the hundredths of a second of `/proc/PID/stat`.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "cut on purpose")]
pub const fn born_ticks(ticks: u64) -> u32 {
    ticks as u32 & ((1 << BORN_BITS) - 1)
}

impl Holder {
    /// As a number.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.pid as u64) << 32
            | (self.born as u64 & ((1 << BORN_BITS) - 1)) << 10
            | (self.is_kernel as u64) << 8
            | self.source as u64
    }

    /// From a number.
    #[must_use]
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cut to the parts it is made of"
    )]
    pub const fn unpack(word: u64) -> Self {
        Self {
            pid: (word >> 32) as u32,
            source: word as u8,
            is_kernel: word & 0x100 != 0,
            born: (word >> 10) as u32 & ((1 << BORN_BITS) - 1),
        }
    }
}

/// A command name as the kernel holds it (`TASK_COMM_LEN`), in two words.
pub type Comm = [u64; 2];

/// The name without what an earlier, longer one has left behind its end: before 5.17
/// the kernel does not clear it (`__set_task_comm`).
#[must_use]
#[inline(always)]
pub const fn clean(comm: Comm) -> Comm {
    let first = until_zero(comm[0]);
    let rest = if first.1 { 0 } else { until_zero(comm[1]).0 };
    [first.0, rest]
}

/// The bytes of a word before its first zero byte, and whether there is one. The
/// first byte of a name is the lowest of its word.
#[inline(always)]
const fn until_zero(word: u64) -> (u64, bool) {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // The lowest bit that is set is the highest bit of the first zero byte.
    let zeros = word.wrapping_sub(ONES) & !word & (ONES << 7);
    if zeros == 0 {
        return (word, false);
    }
    let end = (zeros & zeros.wrapping_neg()) >> 7;
    (word & end.wrapping_sub(1), true)
}

/// What is known of a process that connects or listens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// Process (thread group); 0 is empty.
    pub pid: u32,
    /// When it began ([`born`]).
    pub born: u32,
    /// Name of the group leader, as `ps` shows it.
    pub comm: Comm,
    /// Its workload: the id of its cgroup, 0 where it is not known.
    pub workload: u64,
}

/// Processes remembered; a power of two. Ids are given out in turn, so that
/// their low bits are the best hash there is.
pub const PROCESSES: u32 = 8192;

/// Longest name that the counts of a workload are published under, bytes: 128 characters
/// of at most 4.
pub const LABEL_BYTES: usize = 512;

/// A name as it is kept, filled up with zeros; empty where there is none.
pub type LabelName = [u8; LABEL_BYTES];

/// Id of the root cgroup (`kernfs_create_root`, fs/kernfs/dir.c).
pub const ROOT_CGROUP: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cause::OwnerSource;

    #[test]
    fn packed_and_unpacked() {
        for is_kernel in [false, true] {
            let holder = Holder {
                pid: u32::MAX,
                source: OwnerSource::Iterator as u8,
                is_kernel,
                born: born(u64::MAX),
            };
            assert_eq!(Holder::unpack(holder.pack()), holder);
        }
    }

    #[test]
    fn names_end_at_the_first_zero() {
        let comm = |bytes: &[u8; 16]| {
            let (low, high) = bytes.split_at(8);
            [low, high].map(|half| u64::from_le_bytes(half.try_into().expect("8 bytes")))
        };
        for (bytes, expected) in [
            (b"systemd\0d\0\0\0\0\0\0\0", b"systemd\0\0\0\0\0\0\0\0\0"),
            (b"a-longer-name\0xy", b"a-longer-name\0\0\0"),
            (b"\0bcdefghijklmno\0", &[0; 16]),
            (
                b"sh\0c\0e\x80\x01ghijkl\0\0",
                b"sh\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            (
                b"\x80\x81\xff\0\0\0\0\0\0\0\0\0\0\0\0\0",
                b"\x80\x81\xff\0\0\0\0\0\0\0\0\0\0\0\0\0",
            ),
            (b"fifteen-letters\0", b"fifteen-letters\0"),
        ] {
            assert_eq!(clean(comm(bytes)), comm(expected), "{bytes:?}");
        }
    }
}
