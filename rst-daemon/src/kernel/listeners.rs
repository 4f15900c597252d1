//! Who listens, and who has listened, from the kernel's table.

use std::io;

use aya::maps::{HashMap, MapData};
use rst_common::history::{Listener, ListenerKey};
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
    /// Its workload ([`rst_common::owner::workload`]).
    pub workload: u64,
    /// When, `CLOCK_MONOTONIC`, nanoseconds.
    pub at_ns: u64,
    /// How the process was ending, as in `wait(2)`, where it was.
    pub exit_code: Option<u32>,
    /// Resets since then for want of a listener.
    pub resets: u64,
}

/// What there is on a port where somebody stopped listening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// Nobody listens yet.
    Nobody(Stopped),
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
    one: HashMap<MapData, RawKey, RawListener>,
    all: Batch<KEY_WORDS, WORDS>,
}

impl Listeners {
    /// Takes the map over; `all` reads the same one as a whole.
    #[must_use]
    pub fn new(one: HashMap<MapData, RawKey, RawListener>, all: Batch<KEY_WORDS, WORDS>) -> Self {
        Self { one, all }
    }

    /// Who stopped listening on a port of a namespace, by its cookie, or its inode
    /// where the kernel has no cookies. `None` where somebody listens.
    #[must_use]
    pub fn stopped(&self, netns: u64, port: u16) -> Option<Stopped> {
        stopped(self.one.get(&[netns, u64::from(port)], 0).ok()?)
    }

    /// What there is on a port where somebody stopped listening at this moment.
    /// `None` where another stop has come since, or the port is not known.
    #[must_use]
    pub fn since(&self, netns: u64, port: u16, stopped_ns: u64) -> Option<Since> {
        since(self.one.get(&[netns, u64::from(port)], 0).ok()?, stopped_ns)
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
    let pid = Holder::unpack(holder).pid;
    let [a, b, c, d, ..] = exit.to_ne_bytes();
    Some(Stopped {
        pid: (shared == 0 && pid != 0).then_some(pid),
        workload,
        at_ns,
        exit_code: (exited != 0).then_some(u32::from_ne_bytes([a, b, c, d])),
        resets,
    })
}

fn since(listener: RawListener, stopped_ns: u64) -> Option<Since> {
    let [_, _, state, _, workload, _, at_ns, started_ns, resets, _] = listener;
    if at_ns != stopped_ns {
        None
    } else if listening(state) == 0 {
        stopped(listener).map(Since::Nobody)
    } else {
        Some(Since::Somebody {
            workload,
            at_ns: started_ns,
            resets,
        })
    }
}

fn served([_, port]: RawKey, listener: RawListener) -> Option<Served> {
    let [_, _, state, _, workload, ..] = listener;
    let [low, high, ..] = port.to_ne_bytes();
    (listening(state) != 0).then_some(Served {
        workload,
        port: u16::from_ne_bytes([low, high]),
    })
}

/// Sockets that listen.
fn listening(state: u64) -> u32 {
    let [_, _, _, _, a, b, c, d] = state.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
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
        assert_eq!(since(raw(gone), 5), Some(Since::Nobody(told)));
        assert_eq!(since(raw(gone), 4), None, "of another stop");
        let again = Listener {
            started_ns: 7,
            workload: 8,
            ..there
        };
        let told = Since::Somebody {
            workload: 8,
            at_ns: 7,
            resets: 3,
        };
        assert_eq!(since(raw(again), 5), Some(told));
        let web = Served {
            workload: 7,
            port: 8080,
        };
        assert_eq!(served(key, raw(there)), Some(web));
        // The port stands in the key's first two bytes of its second word.
        assert_eq!(std::mem::offset_of!(ListenerKey, port), 8);
    }
}
