//! Restarts of services: a port loses its listener, resets come of it, and the same
//! workload listens again.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::kernel::listeners::{Since, Stopped};

/// Where a port is: its namespace as the kernel's table of listeners knows it, and
/// its number.
pub type Place = (u64, u16);

/// Ports without a listener that are looked after at once.
const MAX_OUTAGES: usize = 1024;

/// How long one is waited for, nanoseconds: what comes back after an hour was no
/// restart (see [`rst_common::history::SERVED_SECONDS`]).
const LONGEST_NS: u64 = rst_common::history::SERVED_SECONDS * 1_000_000_000;

/// A restart that is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Over {
    /// Who had stopped.
    pub stopped: Stopped,
    /// When, UTC.
    pub at: Timestamp,
    /// Inode of the namespace, where it is known.
    pub netns: Option<u32>,
    /// The port.
    pub port: u16,
    /// When the workload listened again, `CLOCK_MONOTONIC`, nanoseconds.
    pub started_ns: u64,
    /// Resets in between.
    pub resets: u64,
}

#[derive(Clone, Copy, Debug)]
struct Outage {
    stopped: Stopped,
    at: Timestamp,
    netns: Option<u32>,
}

/// The ports whose listener has gone and is missed: at least one reset came of it.
#[derive(Debug, Default)]
pub struct Outages {
    open: BTreeMap<Place, Outage>,
}

impl Outages {
    /// A reset came of it that nobody listens there. Returns when the listener
    /// stopped, the same for each of its resets: `at`, or what that was the first
    /// time.
    pub fn missed(
        &mut self,
        place: Place,
        stopped: Stopped,
        at: Timestamp,
        netns: Option<u32>,
    ) -> Timestamp {
        let known = self.open.get(&place);
        if let Some(outage) = known.filter(|outage| outage.stopped.at_ns == stopped.at_ns) {
            return outage.at;
        }
        if self.open.len() < MAX_OUTAGES || known.is_some() {
            self.open.insert(place, Outage { stopped, at, netns });
        }
        at
    }

    /// Whether anything is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The restarts that are over. `since` tells what there is at a place where
    /// somebody stopped at this moment.
    pub fn over(&mut self, now_ns: u64, since: impl Fn(Place, u64) -> Option<Since>) -> Vec<Over> {
        let mut over = Vec::new();
        self.open.retain(|place, Outage { stopped, at, netns }| {
            let age = now_ns.saturating_sub(stopped.at_ns);
            match since(*place, stopped.at_ns) {
                Some(Since::Nobody(_)) => age < LONGEST_NS,
                Some(Since::Somebody {
                    workload,
                    at_ns,
                    resets,
                }) => {
                    // Somebody else's service in its place is no restart.
                    if workload == stopped.workload {
                        over.push(Over {
                            stopped: *stopped,
                            at: *at,
                            netns: *netns,
                            port: place.1,
                            started_ns: at_ns,
                            resets,
                        });
                    }
                    false
                }
                None => false,
            }
        });
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = (1, 8000);

    fn stopped() -> Stopped {
        Stopped {
            pid: Some(812),
            workload: 7,
            at_ns: 5,
            exit_code: Some(9),
            resets: 1,
        }
    }

    fn again(workload: u64) -> Since {
        Since::Somebody {
            workload,
            at_ns: 50,
            resets: 3,
        }
    }

    #[test]
    fn a_restart_is_told_once_it_is_over() {
        let mut outages = Outages::default();
        let (first, second) = (Timestamp::MIN, Timestamp::MAX);
        assert_eq!(outages.missed(PLACE, stopped(), first, Some(4)), first);
        assert_eq!(outages.missed(PLACE, stopped(), second, Some(4)), first);
        assert_eq!(outages.over(20, |_, _| Some(Since::Nobody(stopped()))), []);
        let over = Over {
            stopped: stopped(),
            at: first,
            netns: Some(4),
            port: 8000,
            started_ns: 50,
            resets: 3,
        };
        let since = |place, stopped_ns| {
            assert_eq!((place, stopped_ns), (PLACE, 5));
            Some(again(7))
        };
        assert_eq!(outages.over(60, since), [over]);
        assert!(outages.is_empty());
        assert_eq!(outages.over(70, |_, _| Some(again(7))), []);
    }

    #[test]
    fn what_does_not_come_back_is_no_restart() {
        for (now_ns, since) in [
            (60, Some(again(8))),
            (60, None),
            (LONGEST_NS + 5, Some(Since::Nobody(stopped()))),
        ] {
            let mut outages = Outages::default();
            outages.missed(PLACE, stopped(), Timestamp::MIN, None);
            assert_eq!(outages.over(now_ns, |_, _| since), []);
            assert!(outages.is_empty(), "{since:?}");
        }
    }

    #[test]
    fn so_many_are_waited_for_and_no_more() {
        let mut outages = Outages::default();
        for netns in 0..=MAX_OUTAGES as u64 {
            outages.missed((netns, 80), stopped(), Timestamp::MIN, None);
        }
        let over = outages.over(60, |_, _| Some(again(7)));
        assert_eq!(over.len(), MAX_OUTAGES);
    }
}
