//! Finds the silence that several resets of one service share.
//!
//! One gap may be chance; half of the last resets after the same gap is a
//! timer, known by name or not. Nothing here reads a clock: the gaps are in
//! the observations. Memory and work are bounded: so many services are
//! remembered, the ones longest unheard of go first, and of each the last few
//! resets.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use rst_common::cause::{Cause, Role};

use super::cluster::{Cluster, clusters};
pub use super::finding::{Finding, KeepAlive};
use super::{is_own_keepalive, signature, timers};

/// Services remembered at most, counted for each cause.
const KEYS: usize = 1024;

/// Resets remembered at most for each service and cause.
const RECENT: usize = 64;

/// Gaps told of and remembered at most for each service and cause.
const TOLD: usize = 4;

/// Resets that a lower end needs at least: that of a few lies anywhere.
const BOUND_MEMBERS: usize = 10;

/// How often as many resets as last time are worth telling again.
const GROWTH: u64 = 10;

/// Whose connections.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The workload that owns the sockets, where known.
    pub workload: Option<String>,
    /// Which end this host was.
    pub role: Role,
    /// The other end.
    pub peer: IpAddr,
    /// The service's port: the peer's, or this host's where it is the server.
    pub port: u16,
}

/// One reset after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Why the connection was reset.
    pub cause: Cause,
    /// Since data last moved, milliseconds, as in [`super::Gaps::data_ms`].
    pub gap_ms: u64,
    /// Since the peer's last segment, where known, milliseconds. Without it no
    /// timer is named that follows segments.
    pub segment_ms: Option<u64>,
    /// Whether this host's keep-alive was on.
    pub keepalive_on: bool,
    /// This host's keep-alive time, on or off, where known, milliseconds.
    pub keepalive_ms: Option<u64>,
}

/// What was seen of every service.
#[derive(Debug)]
pub struct Estimator {
    /// A shorter silence is no timer's.
    pub shortest_ms: u64,
    services: HashMap<Arc<(Key, Cause)>, Service>,
    /// By when they were last heard of, the longest ago first.
    order: BTreeMap<u64, Arc<(Key, Cause)>>,
    /// Observations so far; it tells earlier from later.
    turn: u64,
}

/// What was seen of one service for one cause.
#[derive(Debug, Default)]
struct Service {
    heard: u64,
    recent: VecDeque<Observation>,
    told: VecDeque<Told>,
}

/// A gap that a finding was given out for.
#[derive(Clone, Debug)]
struct Told {
    at_least: bool,
    gap_ms: u64,
    range: RangeInclusive<u64>,
    /// Resets with this gap so far.
    count: u64,
    /// As many there were when it was last told.
    last_count: u64,
}

impl Estimator {
    /// Nothing seen yet. Silences shorter than `shortest_ms` are those of a
    /// connection in use.
    #[must_use]
    pub fn new(shortest_ms: u64) -> Self {
        Self {
            shortest_ms,
            services: HashMap::new(),
            order: BTreeMap::new(),
            turn: 0,
        }
    }

    /// Takes one reset in; what it shows, the first time that it is seen, as it
    /// changes clearly, and each time its count has grown tenfold.
    pub fn observe(&mut self, key: Key, observation: Observation) -> Option<Finding> {
        let own_keepalive = observation
            .keepalive_ms
            .filter(|_| observation.keepalive_on);
        if observation.gap_ms < self.shortest_ms
            || signature(observation.cause).is_none()
            || is_own_keepalive(observation.gap_ms, own_keepalive)
        {
            return None;
        }
        let key = Arc::new((key, observation.cause));
        self.turn += 1;
        let service = self.services.entry(Arc::clone(&key)).or_default();
        self.order.remove(&service.heard);
        service.heard = self.turn;
        self.order.insert(self.turn, Arc::clone(&key));
        let finding = service.observe(&key.0, observation);
        if self.services.len() > KEYS
            && let Some((_, forgotten)) = self.order.pop_first()
        {
            self.services.remove(&forgotten);
        }
        finding
    }
}

impl Service {
    fn observe(&mut self, key: &Key, observation: Observation) -> Option<Finding> {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(observation);
        for told in &mut self.told {
            if told.range.contains(&observation.gap_ms) {
                told.count += 1;
            }
        }

        let mut gaps: Vec<u64> = self.recent.iter().map(|reset| reset.gap_ms).collect();
        gaps.sort_unstable();
        let clusters = clusters(&gaps);
        let shared = clusters
            .iter()
            .find(|cluster| cluster.range.contains(&observation.gap_ms));
        let told = match shared {
            Some(cluster) => self.tell_cluster(cluster, observation.cause)?,
            // The connection was used again some time after the timer.
            None if clusters.is_empty() && observation.cause == Cause::StaleReuse => {
                self.tell_bound(&gaps)?
            }
            None => return None,
        };
        let members: Vec<&Observation> = self
            .recent
            .iter()
            .filter(|reset| told.range.contains(&reset.gap_ms))
            .collect();
        Some(Finding {
            key: key.clone(),
            cause: observation.cause,
            count: told.count,
            gap_ms: told.gap_ms,
            segment_ms: median(members.iter().filter_map(|reset| reset.segment_ms)),
            at_least: told.at_least,
            keepalive: keepalive(&members),
        })
    }

    fn tell_cluster(&mut self, cluster: &Cluster, cause: Cause) -> Option<Told> {
        // Reuse comes after the timer, the earliest the closest to it.
        let gap_ms = if cause == Cause::StaleReuse {
            cluster.low_ms
        } else {
            cluster.median_ms
        };
        let same = self
            .told
            .iter()
            .position(|told| !told.at_least && told.range.contains(&gap_ms));
        let range = around(gap_ms);
        self.tell(same, gap_ms, range, false)
    }

    fn tell_bound(&mut self, sorted: &[u64]) -> Option<Told> {
        if sorted.len() < BOUND_MEMBERS {
            return None;
        }
        // A reset of another origin may come earlier.
        let strays = (sorted.len() / 10).max(1);
        let gap_ms = sorted[strays].max(1);
        // A lower end wanders with every reset; only half or twice is news.
        let same = self.told.iter().position(|told| {
            told.at_least
                && gap_ms < told.gap_ms.saturating_mul(2)
                && told.gap_ms < gap_ms.saturating_mul(2)
        });
        self.tell(same, gap_ms, gap_ms..=u64::MAX, true)
    }

    /// What there is to tell: the new gap, or the same with a grown count.
    fn tell(
        &mut self,
        same: Option<usize>,
        gap_ms: u64,
        range: RangeInclusive<u64>,
        at_least: bool,
    ) -> Option<Told> {
        let grown = match same.and_then(|index| self.told.remove(index)) {
            Some(told) if told.count < told.last_count.saturating_mul(GROWTH) => {
                self.told.push_back(told);
                return None;
            }
            Some(told) => Some(told.count),
            None => None,
        };
        let count = grown.unwrap_or_else(|| {
            let inside = self
                .recent
                .iter()
                .map(|reset| range.contains(&reset.gap_ms));
            inside.map(u64::from).sum()
        });
        if self.told.len() == TOLD {
            self.told.pop_front();
        }
        let told = Told {
            at_least,
            gap_ms,
            range,
            count,
            last_count: count,
        };
        self.told.push_back(told.clone());
        Some(told)
    }
}

/// The gaps that count as this one: a timer explains no two farther apart.
fn around(gap_ms: u64) -> RangeInclusive<u64> {
    let window = timers::window(gap_ms);
    let width = window.end() - window.start();
    gap_ms.saturating_sub(width)..=gap_ms.saturating_add(width)
}

fn keepalive(resets: &[&Observation]) -> KeepAlive {
    match resets.iter().filter(|reset| reset.keepalive_on).count() {
        0 => KeepAlive::Off,
        on if on == resets.len() => KeepAlive::On {
            time_ms: resets.iter().filter_map(|reset| reset.keepalive_ms).max(),
        },
        _ => KeepAlive::Mixed,
    }
}

fn median(values: impl Iterator<Item = u64>) -> Option<u64> {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests;
