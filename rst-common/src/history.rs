//! What the programs remember: sockets while they live, connections that were
//! closed a moment ago, and who has listened.
//!
//! Sockets and endings are in tables of fixed size, made of small sets. Nothing is allocated for a socket, nothing is ever refused: a
//! collision forgets the older entry, and what is forgotten reads as unknown.

use crate::cause::{Role, Turn};

/// What became of a connection that a segment belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Closed {
    /// Not looked up.
    Unknown,
    /// It was not closed here lately, or that is forgotten.
    No,
    /// This host sent its FIN and has dropped the socket since; the peer may
    /// still have been sending.
    ByUs,
    /// Nothing more was to come: both ends had closed, or the reset of this
    /// connection has been counted.
    Done,
}

/// Whether anybody listens, or has listened, where a segment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Listened {
    /// Not looked up, or there was no room to remember.
    Unknown,
    /// Nobody since the daemon started.
    Never,
    /// Somebody did.
    Before,
    /// Somebody does.
    Now,
}

/// Slots of a set.
pub const WAYS: usize = 4;

/// One entry of the table of sockets: who it is about, and what is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Slot {
    /// Address of the socket; 0 is empty.
    pub identity: u64,
    /// Who holds it, [`crate::owner::Holder`] in a number, and above it
    /// [`Life::ttl`].
    pub holder: u64,
    /// The workload it belongs to (the id of its cgroup), 0 where it is not
    /// known.
    pub workload: u64,
    /// The rest of [`Life`] in a number.
    pub content: u64,
}

/// Where the time to live stands in [`Slot::holder`]: ids of processes have 22 bits
/// (`PID_MAX_LIMIT`, include/linux/threads.h).
const TTL_SHIFT: u32 = 56;

/// [`Slot::holder`] of a holder (in a number) and a time to live.
#[must_use]
#[inline(always)]
pub const fn with_ttl(holder: u64, ttl: u8) -> u64 {
    holder & ((1 << TTL_SHIFT) - 1) | (ttl as u64) << TTL_SHIFT
}

/// The holder (in a number) and the time to live of a [`Slot::holder`].
#[must_use]
#[inline(always)]
pub const fn without_ttl(word: u64) -> (u64, u8) {
    (word & ((1 << TTL_SHIFT) - 1), (word >> TTL_SHIFT) as u8)
}

/// The slots among which an entry is found; two cache lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Set {
    /// The slots, in no order.
    pub slots: [Slot; WAYS],
}

const _: () = assert!(size_of::<Set>() == 128);

/// Where a socket is found: the low half of its address, well mixed.
#[must_use]
#[inline(always)]
pub const fn socket_hash(low_half: u32) -> u32 {
    // Fibonacci hashing; the low bits of an address are those of its slab.
    ((low_half as u64 >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

/// What is known of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The low 40 bits of `jiffies64` when the connection began, 0 where that
    /// is not known.
    pub start: u64,
    /// [`crate::cause::Role`] as a byte.
    pub role: u8,
    /// [`crate::cause::Turn`] as a byte: who had spoken last when the peer's FIN
    /// came.
    pub turn: u8,
    /// [`crate::tcp::state`] before it was closed; 0 while it lives.
    pub state_before: u8,
    /// The remote port, which tells the socket from an earlier one at the same
    /// address.
    pub remote_port: u16,
    /// Time to live, or hop limit, of the segment with which the peer completed the
    /// handshake; 0 where it is not known.
    pub ttl: u8,
}

/// 34 years at 1000 Hz.
const START_MASK: u64 = (1 << 40) - 1;

impl Life {
    /// Nothing but the remote port.
    #[must_use]
    #[inline(always)]
    pub const fn unknown(remote_port: u16) -> Self {
        Self {
            start: 0,
            role: Role::Unknown as u8,
            turn: Turn::Unknown as u8,
            state_before: 0,
            remote_port,
            ttl: 0,
        }
    }

    /// As a number, all but the time to live.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        (self.start & START_MASK) << 24
            | (self.turn as u64 & 3) << 22
            | (self.role as u64 & 3) << 20
            | (self.state_before as u64 & 15) << 16
            | self.remote_port as u64
    }

    /// From a number.
    #[must_use]
    #[inline(always)]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "cut to the bits it is made of"
    )]
    pub const fn unpack(content: u64) -> Self {
        Self {
            start: content >> 24,
            turn: (content >> 22) as u8 & 3,
            role: (content >> 20) as u8 & 3,
            state_before: (content >> 16) as u8 & 15,
            remote_port: content as u16,
            ttl: 0,
        }
    }

    /// Jiffies since the start.
    #[must_use]
    #[inline(always)]
    pub const fn age(self, jiffies: u64) -> u64 {
        jiffies.wrapping_sub(self.start) & START_MASK
    }

    /// What [`Life::start`] is made of.
    #[must_use]
    #[inline(always)]
    pub const fn start_of(jiffies: u64) -> u64 {
        jiffies & START_MASK
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When it did ([`Ending::time`]).
    pub when: u32,
    /// [`Closed`] as a byte.
    pub closed: u8,
    /// [`crate::cause::Role`] as a byte.
    pub role: u8,
    /// [`crate::cause::Turn`] as a byte: who had spoken last.
    pub turn: u8,
}

/// Endings of a set.
pub const ENDINGS: usize = 8;

/// The endings among which one is found; a cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Endings {
    /// In no order; 0 is empty.
    pub words: [u64; ENDINGS],
}

const _: () = assert!(size_of::<Endings>() == 64);

/// Bits of an ending beside the hash it belongs to: 24 of its time, 2 each of
/// what, role and turn.
const ENDING_BITS: u32 = 30;
const TIME_MASK: u32 = (1 << 24) - 1;
/// Jiffies of a unit of time, as a power of two.
const TIME_SHIFT: u32 = 6;

impl Ending {
    /// A moment as the table holds it: in units of 64 jiffies, which come round
    /// after 12 days at 1000 Hz.
    #[must_use]
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "cut on purpose")]
    pub const fn time(jiffies: u64) -> u32 {
        (jiffies >> TIME_SHIFT) as u32 & TIME_MASK
    }

    /// Units of time in so many jiffies.
    #[must_use]
    pub const fn units(jiffies: u32) -> u32 {
        jiffies >> TIME_SHIFT
    }

    /// Units of time from one moment to another ([`Ending::time`]).
    #[must_use]
    #[inline(always)]
    pub const fn between(then: u32, now: u32) -> u32 {
        now.wrapping_sub(then) & TIME_MASK
    }

    /// As a number, with the part of the connection's hash that there is room
    /// for, 34 bits: one of 2 billion lookups finds another connection's.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self, hash: u64) -> u64 {
        hash << ENDING_BITS
            | ((self.when & TIME_MASK) as u64) << 6
            | (self.closed as u64 & 3) << 4
            | (self.role as u64 & 3) << 2
            | self.turn as u64 & 3
    }

    /// Whether a number is of the connection with this hash. Never, where it is
    /// empty.
    #[must_use]
    #[inline(always)]
    pub const fn is_of(word: u64, hash: u64) -> bool {
        (word ^ hash << ENDING_BITS) >> ENDING_BITS == 0
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
            when: (word >> 6) as u32 & TIME_MASK,
            closed: (word >> 4) as u8 & 3,
            role: (word >> 2) as u8 & 3,
            turn: word as u8 & 3,
        }
    }
}

/// The set of a connection that ended, of so many sets.
#[must_use]
#[inline(always)]
pub const fn endings_of(hash: u64, sets: u32) -> u32 {
    (((hash >> 32) * sets as u64) >> 32) as u32
}

/// How long a closed connection is remembered, seconds: longer than a peer that our
/// reset did not reach waits before it sends again (`TCP_RTO_MAX`,
/// include/net/tcp.h: two minutes).
pub const CLOSED_SECONDS: u32 = 125;

/// Hash of a connection's tuple in its namespace. Seeded, so that a stranger
/// who chooses addresses and ports can't choose what it collides with.
#[derive(Clone, Copy, Debug)]
pub struct TupleHash(u64);

impl TupleHash {
    /// The start of a hash.
    #[must_use]
    #[inline(always)]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Takes a word in. The multiplier and shifts are those of MurmurHash3's
    /// finaliser (public domain).
    #[must_use]
    #[inline(always)]
    pub const fn word(self, word: u64) -> Self {
        let mixed = (self.0 ^ word).wrapping_mul(0xff51_afd7_ed55_8ccd);
        Self(mixed ^ mixed >> 33)
    }

    /// The hash, never 0.
    #[must_use]
    #[inline(always)]
    pub const fn finish(self) -> u64 {
        self.word(0x5bd1_e995).0 | 1
    }
}

/// Who listened on a port of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct ListenerKey {
    /// The namespace: its cookie, or its inode on kernels without cookies.
    pub netns: u64,
    /// The port, host byte order.
    pub port: u16,
    /// Padding.
    pub pad: [u16; 3],
}

/// Several processes of one workload listen on a port.
pub const SHARED: u8 = 1;
/// Processes of several workloads do.
pub const MIXED: u8 = 2;

/// Every address of IPv4.
pub const ANY_V4: u8 = 1;
/// Every address of IPv6.
pub const ANY_V6: u8 = 2;

/// How long a port counts as one that has served, seconds after the last listener
/// has left: longer than an outage that nobody looks at, and then only a scan may
/// come by where a port was open once (passive FTP).
pub const SERVED_SECONDS: u64 = 3600;

/// Ports for which it is known who listens, or has listened.
pub const LISTENERS: u32 = 8192;

/// Who listens, or listened, there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    /// The address of the last one that listened on one address alone, as the
    /// socket holds it; an IPv4 address is in the first 4 bytes.
    pub address: [u64; 2],
    /// Families of which one has listened on every address: [`ANY_V4`],
    /// [`ANY_V6`], or both.
    pub any_address: u8,
    /// 1 when several have listened on different addresses.
    pub several: u8,
    /// [`SHARED`] when more than one process listens there at once, [`MIXED`] when
    /// they are of more than one workload.
    pub shared: u8,
    /// Whether the last one's process was exiting when it stopped.
    pub exited: u8,
    /// Sockets that listen now.
    pub listening: u32,
    /// The last one's process, [`crate::owner::Holder`] in a number.
    pub holder: u64,
    /// Its workload (the id of its cgroup), 0 where it is not known.
    pub workload: u64,
    /// `jiffies64` when the last one stopped, 0 before any has.
    pub stopped: u64,
    /// The same on `CLOCK_MONOTONIC`, nanoseconds.
    pub stopped_ns: u64,
    /// When somebody began to listen where nobody did, `CLOCK_MONOTONIC`,
    /// nanoseconds.
    pub started_ns: u64,
    /// Resets that were sent there for want of a listener since `stopped`.
    pub resets: u64,
    /// How its process was exiting when it stopped, as in `wait(2)`.
    pub exit_code: u32,
    /// Padding.
    pub pad: u32,
}

const _: () = assert!(size_of::<ListenerKey>() == 16 && size_of::<Listener>() == 80);

impl Listener {
    /// The workload that listens there, 0 where it is not known: of several nobody
    /// knows which accepts.
    #[must_use]
    pub const fn workload(&self) -> u64 {
        if self.shared == MIXED {
            0
        } else {
            self.workload
        }
    }

    /// Whether a segment to this address, of this family ([`ANY_V4`] or
    /// [`ANY_V6`]), would have found, or finds, one of them.
    #[must_use]
    #[inline(always)]
    pub const fn at(&self, family: u8, address: [u64; 2]) -> Listened {
        let here = self.any_address & family != 0
            || (self.address[0] == address[0] && self.address[1] == address[1]);
        if !here {
            if self.several != 0 {
                Listened::Unknown
            } else {
                Listened::Never
            }
        } else if self.listening != 0 {
            Listened::Now
        } else {
            Listened::Before
        }
    }
}

/// Upper bounds of the histogram buckets, seconds: the usual idle timers, and
/// what lies between.
pub const BUCKETS: [u16; 24] = [
    1, 2, 5, 10, 15, 20, 30, 50, 55, 60, 65, 75, 90, 120, 180, 240, 300, 350, 400, 600, 900, 1800,
    3600, 7200,
];

/// Room for bucket bounds in jiffies, a power of two.
pub const BUCKET_SLOTS: usize = 32;

/// The bounds in jiffies; what is beyond the last never matches.
#[must_use]
pub fn bucket_bounds(jiffies_per_second: u32) -> [u32; BUCKET_SLOTS] {
    let mut bounds = [u32::MAX; BUCKET_SLOTS];
    for (bound, seconds) in bounds.iter_mut().zip(BUCKETS) {
        *bound = u32::from(seconds).saturating_mul(jiffies_per_second);
    }
    bounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_and_unpacked() {
        let life = Life {
            start: 0xff_1234_5678,
            role: Role::Server as u8,
            turn: 2,
            state_before: 8,
            remote_port: 50_000,
            ttl: 0,
        };
        assert_eq!(Life::unpack(life.pack()), life);
        let largest = crate::owner::Holder {
            // `PID_MAX_LIMIT`
            pid: 1 << 22,
            source: 5,
            is_kernel: true,
            born: u32::MAX >> 10,
        };
        assert_eq!(
            without_ttl(with_ttl(largest.pack(), 255)),
            (largest.pack(), 255)
        );
        let hash = TupleHash::new(1).word(2).finish();
        let ending = Ending {
            when: Ending::time(u64::MAX),
            closed: Closed::Done as u8,
            role: Role::Client as u8,
            turn: 1,
        };
        let word = ending.pack(hash);
        assert_eq!(Ending::unpack(word), ending);
        assert!(Ending::is_of(word, hash) && !Ending::is_of(word, hash ^ 1));
        assert!(!Ending::is_of(0, hash), "empty");
    }

    #[test]
    fn an_ending_grows_old_where_its_time_wraps() {
        let before = Ending::time((1 << 30) - 64);
        assert_eq!(Ending::between(before, Ending::time((1 << 30) + 64)), 2);
    }

    #[test]
    fn endings_spread_over_the_table() {
        let mut load = [0u8; 500];
        for tuple in 0..2000 {
            let hash = TupleHash::new(7).word(tuple).finish();
            load[endings_of(hash, 500) as usize] += 1;
        }
        // As balls thrown at random: the fullest of 500 has 12 or so of 2,000.
        assert!(load.iter().all(|load| *load < 16), "{load:?}");
    }

    #[test]
    fn age_goes_on_where_the_start_wraps() {
        let life = Life {
            start: Life::start_of((1 << 40) - 10),
            ..Life::unknown(0)
        };
        assert_eq!(life.age((1 << 40) + 5), 15);
    }

    #[test]
    fn sockets_of_one_slab_spread_over_the_table() {
        // 2,368 bytes apart, as tcp_sock is: 1,000 sockets in 1,024 sets.
        let mut load = [0u8; 1024];
        for socket in 0..1000u32 {
            let hash = socket_hash(0x8100_0000 + socket * 2368);
            load[hash as usize & 1023] += 1;
        }
        let too_many: u32 = load
            .iter()
            .map(|sockets| u32::from(*sockets).saturating_sub(4))
            .sum();
        assert!(too_many < 20, "{too_many} of 1000 sockets find no room");
    }

    #[test]
    fn tuples_that_differ_in_one_bit_hash_apart() {
        let hash = |word| TupleHash::new(1).word(word).word(7).finish();
        let distance: u32 = (0..64)
            .map(|bit| (hash(0) ^ hash(1 << bit)).count_ones())
            .sum();
        // Half of 64 bits, on average.
        assert!((26..38).contains(&(distance / 64)), "{}", distance / 64);
        assert_ne!(TupleHash::new(1).finish(), TupleHash::new(2).finish());
    }

    #[test]
    fn a_listener_counts_where_it_listened() {
        let one = Listener {
            address: [0x0100_007f, 0],
            listening: 1,
            ..Listener::default()
        };
        assert_eq!(one.at(ANY_V4, [0x0100_007f, 0]), Listened::Now);
        assert_eq!(one.at(ANY_V4, [0x0200_007f, 0]), Listened::Never);
        let several = Listener { several: 1, ..one };
        assert_eq!(several.at(ANY_V4, [0x0200_007f, 0]), Listened::Unknown);
        let any = Listener {
            any_address: ANY_V6,
            listening: 0,
            ..one
        };
        assert_eq!(any.at(ANY_V6, [9, 9]), Listened::Before);
        assert_eq!(any.at(ANY_V4, [9, 0]), Listened::Never);
    }

    #[test]
    fn bounds_in_jiffies() {
        let bounds = bucket_bounds(250);
        assert_eq!(
            (bounds[0], bounds[23], bounds[24]),
            (250, 1_800_000, u32::MAX)
        );
        assert!(BUCKETS.is_sorted());
    }
}
