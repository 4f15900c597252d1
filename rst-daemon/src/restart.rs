//! Restarts of services: a port loses its listener, resets come of it, and the same
//! workload listens again.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::kernel::listeners::{Address, Since, Stopped};
use crate::reset::Workload;

/// Where a port is: its namespace as the kernel's table of listeners knows it, and
/// its number.
type Place = (u64, u16);

/// Ports without a listener that are looked after at once.
const MAX_OUTAGES: usize = 1024;

/// How long one is waited for, nanoseconds: what comes back after an hour was no
/// restart (see [`rst_common::history::SERVED_SECONDS`]).
const LONGEST_NS: u64 = rst_common::history::SERVED_SECONDS * 1_000_000_000;

/// A restart that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Over {
    /// Who had stopped, and is back.
    pub workload: Option<Workload>,
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

#[derive(Clone, Debug)]
struct Outage {
    address: Address,
    stopped: Stopped,
    workload: Option<Workload>,
    at: Timestamp,
    netns: Option<u32>,
}

/// The ports whose listener has gone and is missed: at least one reset came of it.
#[derive(Debug, Default)]
pub struct Outages {
    open: BTreeMap<Place, Outage>,
}

impl Outages {
    /// A reset came of it that nobody listens at this address any more. Returns when
    /// the listener stopped, the same for each of its resets: `at`, or what that was
    /// the first time.
    pub fn missed(
        &mut self,
        address: Address,
        stopped: Stopped,
        workload: Option<Workload>,
        at: Timestamp,
        netns: Option<u32>,
    ) -> Timestamp {
        let place = (address.netns, address.port);
        let known = self.open.get(&place);
        if let Some(outage) = known.filter(|outage| outage.stopped.at_ns == stopped.at_ns) {
            return outage.at;
        }
        if self.open.len() < MAX_OUTAGES || known.is_some() {
            let outage = Outage {
                address,
                stopped,
                workload,
                at,
                netns,
            };
            self.open.insert(place, outage);
        }
        at
    }

    /// Whether anything is waited for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The restarts that are over. `since` tells what there is at an address where
    /// somebody stopped at this moment, `name` a workload by its number: the cgroup of
    /// a service may be a new one.
    pub fn over(
        &mut self,
        now_ns: u64,
        since: impl Fn(Address, u64) -> Option<Since>,
        mut name: impl FnMut(u64) -> Option<Workload>,
    ) -> Vec<Over> {
        let mut over = Vec::new();
        self.open.retain(|_, outage| {
            let stopped = &outage.stopped;
            match since(outage.address, stopped.at_ns) {
                Some(Since::Nobody) => now_ns.saturating_sub(stopped.at_ns) < LONGEST_NS,
                Some(Since::Somebody {
                    workload,
                    at_ns,
                    resets,
                }) => {
                    let same = workload == stopped.workload
                        || outage.workload.is_some() && name(workload) == outage.workload;
                    // Somebody else's service in its place is no restart.
                    if same {
                        over.push(Over {
                            workload: outage.workload.clone(),
                            at: outage.at,
                            netns: outage.netns,
                            port: outage.address.port,
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

    const ADDRESS: Address = Address {
        netns: 1,
        port: 8000,
        family: 1,
        address: [5, 0],
    };

    fn stopped() -> Stopped {
        Stopped {
            pid: Some(812),
            born: 3,
            workload: 7,
            at_ns: 5,
            exit_code: Some(9),
            resets: 1,
        }
    }

    /// Workloads 7 and 8 are one service, in two cgroups.
    fn name(workload: u64) -> Option<Workload> {
        (workload != 0).then(|| Workload {
            kind: "systemd".into(),
            name: if workload < 9 {
                "a.service"
            } else {
                "b.service"
            }
            .into(),
            pod_uid: None,
        })
    }

    fn again(workload: u64) -> Since {
        Since::Somebody {
            workload,
            at_ns: 50,
            resets: 3,
        }
    }

    fn missed(outages: &mut Outages, address: Address, at: Timestamp) -> Timestamp {
        outages.missed(address, stopped(), name(7), at, Some(4))
    }

    #[test]
    fn a_restart_is_told_once_it_is_over() {
        for workload in [7, 8] {
            let mut outages = Outages::default();
            let (first, second) = (Timestamp::MIN, Timestamp::MAX);
            assert_eq!(missed(&mut outages, ADDRESS, first), first);
            assert_eq!(missed(&mut outages, ADDRESS, second), first);
            assert_eq!(outages.over(20, |_, _| Some(Since::Nobody), name), []);
            let over = Over {
                workload: name(7),
                at: first,
                netns: Some(4),
                port: 8000,
                started_ns: 50,
                resets: 3,
            };
            let since = |address, stopped_ns| {
                assert_eq!((address, stopped_ns), (ADDRESS, 5));
                Some(again(workload))
            };
            assert_eq!(outages.over(60, since, name), [over]);
            assert!(outages.is_empty());
            assert_eq!(outages.over(70, |_, _| Some(again(7)), name), []);
        }
    }

    #[test]
    fn what_does_not_come_back_is_no_restart() {
        for (now_ns, since) in [
            (60, Some(again(9))),
            (60, Some(again(0))),
            (60, None),
            (LONGEST_NS + 5, Some(Since::Nobody)),
        ] {
            let mut outages = Outages::default();
            missed(&mut outages, ADDRESS, Timestamp::MIN);
            assert_eq!(outages.over(now_ns, |_, _| since, name), []);
            assert!(outages.is_empty(), "{since:?}");
        }
    }

    #[test]
    fn so_many_are_waited_for_and_no_more() {
        let mut outages = Outages::default();
        for netns in 0..=MAX_OUTAGES as u64 {
            let address = Address { netns, ..ADDRESS };
            missed(&mut outages, address, Timestamp::MIN);
        }
        let over = outages.over(60, |_, _| Some(again(7)), name);
        assert_eq!(over.len(), MAX_OUTAGES);
    }
}
