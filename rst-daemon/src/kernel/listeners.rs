//! Who listens, and who has listened, from the kernel's table.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData};
use rst_common::history::{LISTENERS, Listened, Listener, ListenerKey, SERVED_SECONDS};
use rst_common::owner::Holder;

use super::batch::Batch;

/// [`ListenerKey`] as it lies in memory.
type RawKey = [u64; KEY_WORDS];
const KEY_WORDS: usize = 2;
const _: () = assert!(size_of::<RawKey>() == size_of::<ListenerKey>());
/// [`Listener`] as it lies in memory.
type RawListener = [u64; WORDS];
const WORDS: usize = 10;
const _: () = assert!(size_of::<RawListener>() == size_of::<Listener>());

/// Who stopped listening on a port, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The process, where it was one alone.
    pub pid: Option<u32>,
    /// When that began ([`rst_common::owner::born`]).
    pub born: u32,
    /// Its workload (the id of a cgroup).
    pub workload: u64,
    /// When, `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// How the process was ending, as in `wait(2)`, where it was.
    pub exit_code: Option<u32>,
    /// Resets since then for want of a listener.
    pub resets: u64,
}

/// Where a segment went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The namespace: its cookie, or its inode where the kernel has no cookies.
    pub netns: u64,
    /// The port.
    pub port: u16,
    /// [`ANY_V4`](rst_common::history::ANY_V4) or
    /// [`ANY_V6`](rst_common::history::ANY_V6).
    pub family: u8,
    /// The address, as [`Listener`] has it.
    pub address: [u64; 2],
}

/// What there is on a port where somebody stopped listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nobody listens there yet.
    Nobody,
    /// Somebody has listened again.
    Somebody {
        /// By whom (the id of a cgroup).
        workload: u64,
        /// Since when, `CLOCK_MONOTONIC`, nanoseconds.
        at_ns: u64,
        /// Resets until then for want of a listener.
        resets: u64,
    },
}

/// A port that is served now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Served {
    /// By whom (the id of a cgroup), 0 where that is not known.
    pub workload: u64,
    /// The port, host byte order.
    pub port: u16,
}

/// The kernel's table.
#[derive(Debug)]
pub struct Listeners {
    one: Mutex<HashMap<MapData, RawKey, RawListener>>,
    all: Batch<KEY_WORDS, WORDS>,
}

impl Listeners {
    /// Takes the map over; `all` reads the same one as a whole.
    #[must_use]
    pub fn new(one: HashMap<MapData, RawKey, RawListener>, all: Batch<KEY_WORDS, WORDS>) -> Self {
        Self {
            one: Mutex::new(one),
            all,
        }
    }

    /// Who stopped listening on a port of a namespace, by its cookie, or its inode
    /// where the kernel has no cookies. `None` where somebody listens.
    #[must_use]
    pub fn stopped(&self, netns: u64, port: u16) -> Option<Stopped> {
        stopped(&self.get(netns, port)?)
    }

    /// What there is for an address and port where somebody stopped listening at this
    /// moment. `None` where another stop has come since, or the port is not known.
    #[must_use]
    pub fn since(&self, at: Address, stopped_ns: u64) -> Option<Since> {
        since(&self.get(at.netns, at.port)?, at, stopped_ns)
    }

    fn get(&self, netns: u64, port: u16) -> Option<Listener> {
        let raw = self.one().get(&[netns, u64::from(port)], 0).ok()?;
        Some(parse(raw))
    }

    fn one(&self) -> MutexGuard<'_, HashMap<MapData, RawKey, RawListener>> {
        self.one.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room where half of it is taken: who has long stopped listening is
    /// forgotten; whether anybody was. `now_ns`: `CLOCK_MONOTONIC`.
    pub fn tidy(&self, now_ns: u64) -> io::Result<bool> {
        let (mut entries, mut old) = (0, Vec::new());
        self.all.each(|key, listeners| {
            entries += 1;
            if listeners.iter().all(|raw| is_old(&parse(*raw), now_ns)) {
                old.push(key);
            }
        })?;
        let mut forgotten = false;
        if entries > LISTENERS / 2 {
            let mut one = self.one();
            for key in old {
                // Somebody may have come back since. A moment remains, in an hour.
                if one
                    .get(&key, 0)
                    .is_ok_and(|raw| is_old(&parse(raw), now_ns))
                {
                    forgotten |= one.remove(&key).is_ok();
                }
            }
        }
        Ok(forgotten)
    }

    /// The ports that are served now, in any namespace.
    pub fn served(&self) -> io::Result<Vec<Served>> {
        let mut ports = Vec::new();
        self.all.each(|key, listeners| {
            ports.extend(listeners.iter().filter_map(|raw| served(key, &parse(*raw))));
        })?;
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }
}

/// A listener as it lies in memory.
fn parse(raw: RawListener) -> Listener {
    let [
        first,
        second,
        state,
        holder,
        workload,
        stopped,
        stopped_ns,
        started_ns,
        resets,
        exit,
    ] = raw;
    let (state, listening) = halves(state);
    let [any_address, several, shared, exited] = state.to_ne_bytes();
    let (exit_code, pad) = halves(exit);
    Listener {
        address: [first, second],
        any_address,
        several,
        shared,
        exited,
        listening,
        holder,
        workload,
        stopped,
        stopped_ns,
        started_ns,
        resets,
        exit_code,
        pad,
    }
}

/// The two numbers that lie in a word; the programs are built for little endian.
#[expect(clippy::cast_possible_truncation, reason = "cut in two")]
const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn stopped(listener: &Listener) -> Option<Stopped> {
    if listener.listening != 0 || listener.stopped_ns == 0 {
        return None;
    }
    let Holder { pid, born, .. } = Holder::unpack(listener.holder);
    Some(Stopped {
        pid: (listener.shared == 0 && pid != 0).then_some(pid),
        born,
        workload: listener.workload(),
        at_ns: listener.stopped_ns,
        exit_code: (listener.exited != 0).then_some(listener.exit_code),
        resets: listener.resets,
    })
}

fn since(listener: &Listener, at: Address, stopped_ns: u64) -> Option<Since> {
    if listener.stopped_ns != stopped_ns {
        return None;
    }
    Some(match listener.at(at.family, at.address) {
        Listened::Now => Since::Somebody {
            workload: listener.workload(),
            at_ns: listener.started_ns,
            resets: listener.resets,
        },
        Listened::Unknown | Listened::Never | Listened::Before => Since::Nobody,
    })
}

fn served([_, port]: RawKey, listener: &Listener) -> Option<Served> {
    let [low, high, ..] = port.to_ne_bytes();
    (listener.listening != 0).then_some(Served {
        workload: listener.workload(),
        port: u16::from_ne_bytes([low, high]),
    })
}

/// Whether the last one has stopped longer ago than it counts.
fn is_old(listener: &Listener, now_ns: u64) -> bool {
    listener.listening == 0
        && listener.stopped_ns != 0
        && now_ns.saturating_sub(listener.stopped_ns) > SERVED_SECONDS * 1_000_000_000
}

#[cfg(test)]
mod tests {
    use rst_common::history::{ANY_V4, MIXED};

    use super::*;

    /// As the programs write it.
    fn raw(listener: Listener) -> RawListener {
        let state = [
            listener.any_address,
            listener.several,
            listener.shared,
            listener.exited,
        ];
        let listening = listener.listening.to_ne_bytes();
        let state = [state, listening].concat().try_into().unwrap();
        let exit = [listener.exit_code.to_ne_bytes(), [0; 4]].concat();
        [
            listener.address[0],
            listener.address[1],
            u64::from_ne_bytes(state),
            listener.holder,
            listener.workload,
            listener.stopped,
            listener.stopped_ns,
            listener.started_ns,
            listener.resets,
            u64::from_ne_bytes(exit.try_into().unwrap()),
        ]
    }

    #[test]
    fn a_listener_that_has_gone_and_one_that_is_there() {
        let gone = Listener {
            holder: Holder {
                pid: 812,
                born: 3,
                ..Holder::default()
            }
            .pack(),
            workload: 7,
            exited: 1,
            exit_code: 9,
            stopped: 1,
            stopped_ns: 5,
            resets: 3,
            ..Listener::default()
        };
        assert_eq!(parse(raw(gone)), gone);
        let told = Stopped {
            pid: Some(812),
            born: 3,
            workload: 7,
            at_ns: 5,
            exit_code: Some(9),
            resets: 3,
        };
        assert_eq!(stopped(&gone), Some(told));
        let shared = Listener {
            shared: 1,
            exited: 0,
            ..gone
        };
        let unsure = Stopped {
            pid: None,
            exit_code: None,
            ..told
        };
        assert_eq!(stopped(&shared), Some(unsure));
        let key = [
            1,
            u64::from(8080u16.to_ne_bytes()[0]) | u64::from(8080u16.to_ne_bytes()[1]) << 8,
        ];
        assert_eq!(served(key, &gone), None);
        let there = Listener {
            listening: 1,
            ..gone
        };
        assert_eq!(stopped(&there), None);
        let later = 6 + SERVED_SECONDS * 1_000_000_000;
        assert!(is_old(&gone, later) && !is_old(&gone, later - 1));
        assert!(!is_old(&there, later));
        let at = Address {
            netns: 1,
            port: 8080,
            family: ANY_V4,
            address: [0x0100_007f, 0],
        };
        assert_eq!(since(&gone, at, 5), Some(Since::Nobody));
        assert_eq!(since(&gone, at, 4), None, "of another stop");
        let again = Listener {
            any_address: ANY_V4,
            started_ns: 7,
            workload: 8,
            ..there
        };
        let told = Since::Somebody {
            workload: 8,
            at_ns: 7,
            resets: 3,
        };
        assert_eq!(since(&again, at, 5), Some(told));
        let elsewhere = Listener {
            any_address: 0,
            address: [0x0200_007f, 0],
            ..again
        };
        assert_eq!(since(&elsewhere, at, 5), Some(Since::Nobody));
        let mixed = Listener {
            shared: MIXED,
            ..gone
        };
        let several = Listener {
            listening: 1,
            ..mixed
        };
        assert_eq!(served(key, &several).unwrap().workload, 0);
        assert_eq!(stopped(&mixed).unwrap().workload, 0);
        let web = Served {
            workload: 7,
            port: 8080,
        };
        assert_eq!(served(key, &there), Some(web));
        // The port stands in the key's first two bytes of its second word.
        assert_eq!(std::mem::offset_of!(ListenerKey, port), 8);
    }
}
