//! Who listens, and who has listened, from the kernel's table.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData};
use rst_common::history::{LISTENERS, Listened, Listener, ListenerKey, MIXED, SERVED_SECONDS};
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
    /// Its workload ([`rst_common::owner::workload`]).
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
        /// By whom ([`rst_common::owner::workload`]).
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
    /// By whom ([`rst_common::owner::workload`]), 0 where that is not known.
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
        stopped(self.one().get(&[netns, u64::from(port)], 0).ok()?)
    }

    /// What there is for an address and port where somebody stopped listening at this
    /// moment. `None` where another stop has come since, or the port is not known.
    #[must_use]
    pub fn since(&self, at: Address, stopped_ns: u64) -> Option<Since> {
        let listener = self.one().get(&[at.netns, u64::from(at.port)], 0).ok()?;
        since(listener, at, stopped_ns)
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
            if listeners.iter().all(|found| is_old(*found, now_ns)) {
                old.push(key);
            }
        })?;
        let mut forgotten = false;
        if entries > LISTENERS / 2 {
            let mut one = self.one();
            for key in old {
                // Somebody may have come back since. A moment remains, in an hour.
                if one.get(&key, 0).is_ok_and(|found| is_old(found, now_ns)) {
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
            ports.extend(listeners.iter().filter_map(|found| served(key, *found)));
        })?;
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }
}

fn stopped(listener: RawListener) -> Option<Stopped> {
    let [_, _, state, holder, workload, _, at_ns, _, resets, exit] = listener;
    let [_, _, shared, exited, ..] = state.to_ne_bytes();
    if listening(state) != 0 || at_ns == 0 {
        return None;
    }
    let Holder { pid, born, .. } = Holder::unpack(holder);
    let [a, b, c, d, ..] = exit.to_ne_bytes();
    Some(Stopped {
        pid: (shared == 0 && pid != 0).then_some(pid),
        born,
        workload: if shared == MIXED { 0 } else { workload },
        at_ns,
        exit_code: (exited != 0).then_some(u32::from_ne_bytes([a, b, c, d])),
        resets,
    })
}

fn since(listener: RawListener, at: Address, stopped_ns: u64) -> Option<Since> {
    let [
        one,
        two,
        state,
        _,
        workload,
        _,
        at_ns,
        started_ns,
        resets,
        _,
    ] = listener;
    let [any_address, several, ..] = state.to_ne_bytes();
    if at_ns != stopped_ns {
        return None;
    }
    let there = Listener {
        address: [one, two],
        any_address,
        several,
        listening: listening(state),
        ..Listener::default()
    };
    Some(match there.at(at.family, at.address) {
        Listened::Now => Since::Somebody {
            workload,
            at_ns: started_ns,
            resets,
        },
        Listened::Unknown | Listened::Never | Listened::Before => Since::Nobody,
    })
}

fn served([_, port]: RawKey, listener: RawListener) -> Option<Served> {
    let [_, _, state, _, workload, ..] = listener;
    let [low, high, ..] = port.to_ne_bytes();
    (listening(state) != 0).then_some(Served {
        workload,
        port: u16::from_ne_bytes([low, high]),
    })
}

/// Whether the last one has stopped longer ago than it counts.
fn is_old(listener: RawListener, now_ns: u64) -> bool {
    let [_, _, state, _, _, _, stopped_ns, ..] = listener;
    listening(state) == 0
        && stopped_ns != 0
        && now_ns.saturating_sub(stopped_ns) > SERVED_SECONDS * 1_000_000_000
}

/// Sockets that listen.
fn listening(state: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = state.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use rst_common::history::ANY_V4;

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
        let told = Stopped {
            pid: Some(812),
            born: 3,
            workload: 7,
            at_ns: 5,
            exit_code: Some(9),
            resets: 3,
        };
        assert_eq!(stopped(raw(gone)), Some(told));
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
        assert_eq!(stopped(raw(shared)), Some(unsure));
        let key = [
            1,
            u64::from(8080u16.to_ne_bytes()[0]) | u64::from(8080u16.to_ne_bytes()[1]) << 8,
        ];
        assert_eq!(served(key, raw(gone)), None);
        let there = Listener {
            listening: 1,
            ..gone
        };
        assert_eq!(stopped(raw(there)), None);
        let later = 6 + SERVED_SECONDS * 1_000_000_000;
        assert!(is_old(raw(gone), later) && !is_old(raw(gone), later - 1));
        assert!(!is_old(raw(there), later));
        let at = Address {
            netns: 1,
            port: 8080,
            family: ANY_V4,
            address: [0x0100_007f, 0],
        };
        assert_eq!(since(raw(gone), at, 5), Some(Since::Nobody));
        assert_eq!(since(raw(gone), at, 4), None, "of another stop");
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
        assert_eq!(since(raw(again), at, 5), Some(told));
        let elsewhere = Listener {
            any_address: 0,
            address: [0x0200_007f, 0],
            ..again
        };
        assert_eq!(since(raw(elsewhere), at, 5), Some(Since::Nobody));
        let mixed = Listener {
            shared: MIXED,
            ..gone
        };
        assert_eq!(stopped(raw(mixed)).unwrap().workload, 0);
        let web = Served {
            workload: 7,
            port: 8080,
        };
        assert_eq!(served(key, raw(there)), Some(web));
        // The port stands in the key's first two bytes of its second word.
        assert_eq!(std::mem::offset_of!(ListenerKey, port), 8);
    }
}
