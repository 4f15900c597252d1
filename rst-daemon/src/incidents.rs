//! From spikes to incidents: what is known of each, which are open, and which were.
//!
//! [`Book`] is pure: it is told which spikes begin and end, what the counts are, and of
//! each reset that was described one by one.

pub mod command;
pub mod recent;
pub mod run;
pub mod sketch;
pub mod tell;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rst_common::cause::Cause;

use crate::incident::{Incident, Peer, VERSION};
use crate::kernel::counters::Label;
use crate::kernel::listeners::Address;
use crate::metrics::OTHER;
use crate::reset::{Reset, Restart};
use crate::spike::detector::Change;
use crate::spike::track::{Opening, Turn};
use crate::spike::{Key, Reading, STEP};
use sketch::Sketch;

/// Incidents that are over and kept, the newest ones.
const CLOSED: usize = 256;

/// Incidents that are open at once; of more, only the number is known.
const OPEN: usize = 256;

/// Peers that are named.
const PEERS: usize = 5;

/// Resets that are kept as samples.
const SAMPLES: usize = 3;

/// Silences that the middle one is of.
const SILENCES: usize = 101;

/// Restarts that are linked.
const RESTARTS: usize = 8;

/// Workloads and causes whose numbers are told apart.
const TOTALS: usize = 1000;

/// What incidents are counted under.
pub type Of = (Arc<str>, Cause);

/// How many incidents there have been, and are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Total {
    /// Since the start.
    pub opened: u64,
    /// Now.
    pub active: usize,
}

/// A reset that was described, as far as every one is looked at.
#[derive(Clone, Debug)]
pub struct Detail {
    /// What it was counted under.
    pub key: Key,
    /// When.
    pub at: Timestamp,
    /// The other end.
    pub peer: Option<IpAddr>,
    /// The silence before it, milliseconds, for causes that have one.
    pub silence_ms: Option<u64>,
    /// Whose timer that may have been.
    pub hint: Option<String>,
}

/// A restart that resets come of, to be followed until it is over.
#[derive(Clone, Debug)]
pub struct Linked {
    /// Where there was nobody any more.
    pub address: Address,
    /// Since when, `CLOCK_MONOTONIC`, nanoseconds.
    pub stopped_ns: u64,
    /// As it is told.
    pub restart: Restart,
}

/// An incident that goes on, and what it is made of.
#[derive(Debug)]
struct Open {
    incident: Incident,
    /// The counts before it.
    resets: u64,
    connections: u64,
    peers: Sketch<IpAddr>,
    silences: VecDeque<u64>,
    hints: Sketch<String>,
    restarts: Vec<Linked>,
}

/// All incidents since the start.
#[derive(Debug)]
pub struct Book {
    host: String,
    open: BTreeMap<Key, Open>,
    closed: VecDeque<Incident>,
    totals: BTreeMap<Of, Total>,
    number: u64,
}

impl Book {
    /// Nothing has happened on this host.
    #[must_use]
    pub fn new(host: String) -> Self {
        Self {
            host,
            open: BTreeMap::new(),
            closed: VecDeque::new(),
            totals: BTreeMap::new(),
            number: 0,
        }
    }

    /// How many there have been and are, by what they are counted under.
    #[must_use]
    pub fn totals(&self) -> BTreeMap<Of, Total> {
        self.totals.clone()
    }

    /// Whether any is open.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.open.is_empty()
    }

    /// Those that were open at `since` or later, the oldest first.
    #[must_use]
    pub fn list(&self, since: Timestamp) -> Vec<Incident> {
        let open = self.open.values().map(Open::told);
        let mut all: Vec<_> = self
            .closed
            .iter()
            .filter(|incident| incident.closed.is_none_or(|closed| closed >= since))
            .cloned()
            .chain(open)
            .collect();
        all.sort_by_key(|incident| incident.opened);
        all
    }

    /// A spike has begun.
    pub fn open(&mut self, change: &Change, opening: &Opening, now: Timestamp) {
        self.number += 1;
        let total = self.total(&change.key);
        total.opened += 1;
        if self.open.len() >= OPEN {
            return;
        }
        self.total(&change.key).active += 1;
        let Key {
            service,
            cause,
            impact,
        } = &change.key;
        let incident = Incident {
            v: VERSION,
            id: format!("{}-{}", now.as_second(), self.number),
            host: self.host.clone(),
            workload: service.workload.to_string(),
            role: service.role.label().to_owned(),
            port: match service.port {
                Label::Value(port) => Some(port),
                Label::None | Label::Other => None,
            },
            cause: cause.label().to_owned(),
            impact: impact.label().to_owned(),
            opened: now,
            closed: None,
            first: back(now, opening.steps),
            last: now,
            resets: opening.resets,
            connections: 0,
            usual_per_second: rounded(opening.usual / STEP.as_secs_f64()),
            usual_now: false,
            described: 0,
            peers: Vec::new(),
            idle_ms: None,
            restarts: Vec::new(),
            samples: Vec::new(),
            hint: None,
            advice: cause.text().fix.to_owned(),
        };
        let open = Open {
            incident,
            resets: change.resets,
            connections: change.connections,
            peers: Sketch::default(),
            silences: VecDeque::new(),
            hints: Sketch::default(),
            restarts: Vec::new(),
        };
        self.open.insert(change.key.clone(), open);
    }

    /// The counts as they stand.
    pub fn count(&mut self, reading: &Reading, now: Timestamp) {
        for (key, open) in &mut self.open {
            let resets = reading.resets.get(key).copied().unwrap_or_default();
            let made = reading.connections.get(&key.service).copied();
            let resets = resets.saturating_sub(open.resets);
            if resets > open.incident.resets {
                open.incident.last = now;
            }
            open.incident.resets = resets;
            open.incident.connections = made.unwrap_or_default().saturating_sub(open.connections);
        }
    }

    /// Whether one of these is open.
    #[must_use]
    pub fn has(&self, key: &Key) -> bool {
        self.open.contains_key(key)
    }

    /// A reset was described. Returns whether it is a sample, to be told in full.
    pub fn see(&mut self, detail: Detail) -> bool {
        let Some(open) = self.open.get_mut(&detail.key) else {
            return false;
        };
        let incident = &mut open.incident;
        if detail.at < incident.first {
            return false;
        }
        incident.described += 1;
        if let Some(peer) = detail.peer {
            open.peers.see(peer);
        }
        if let Some(silence) = detail.silence_ms {
            if open.silences.len() == SILENCES {
                open.silences.pop_front();
            }
            open.silences.push_back(silence);
        }
        if let Some(hint) = detail.hint {
            open.hints.see(hint);
        }
        incident.samples.len() < SAMPLES
    }

    /// A sample in full.
    pub fn sample(&mut self, key: &Key, reset: Reset) {
        if let Some(open) = self.open.get_mut(key) {
            open.incident.samples.push(reset);
        }
    }

    /// Its resets come of a restart.
    pub fn link(&mut self, key: &Key, linked: Linked) {
        let Some(open) = self.open.get_mut(key) else {
            return;
        };
        let known = open.restarts.iter().any(|it| {
            (it.address.netns, it.address.port, it.stopped_ns)
                == (linked.address.netns, linked.address.port, linked.stopped_ns)
        });
        if !known && open.restarts.len() < RESTARTS {
            open.restarts.push(linked);
        }
    }

    /// Looks after the restarts that are not over.
    pub fn follow(&mut self, mut look: impl FnMut(&mut Linked)) {
        for open in self.open.values_mut() {
            let restarts = open.restarts.iter_mut();
            for linked in restarts.filter(|linked| linked.restart.started.is_none()) {
                look(linked);
            }
        }
    }

    /// An open one as it stands.
    #[must_use]
    pub fn told(&self, key: &Key) -> Option<Incident> {
        self.open.get(key).map(Open::told)
    }

    /// A spike is over, and so is its incident.
    pub fn close(&mut self, change: &Change, now: Timestamp) -> Option<Incident> {
        let Turn::Closed { calm, usual } = change.turn else {
            return None;
        };
        let open = self.open.remove(&change.key)?;
        let total = self.total(&change.key);
        total.active = total.active.saturating_sub(1);
        let incident = Incident {
            closed: Some(now),
            // Later ones were not more than usual.
            last: back(now, calm).min(open.incident.last),
            usual_now: usual,
            ..open.told()
        };
        if self.closed.len() == CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(incident.clone());
        Some(incident)
    }

    fn total(&mut self, key: &Key) -> &mut Total {
        let of = (Arc::clone(&key.service.workload), key.cause);
        let of = if self.totals.len() < TOTALS || self.totals.contains_key(&of) {
            of
        } else {
            (OTHER.into(), key.cause)
        };
        self.totals.entry(of).or_default()
    }
}

impl Open {
    fn told(&self) -> Incident {
        let mut silences: Vec<_> = self.silences.iter().copied().collect();
        silences.sort_unstable();
        let peers = self.peers.top(PEERS).into_iter();
        Incident {
            peers: peers
                .map(|peer| Peer {
                    ip: peer.of,
                    resets: peer.count,
                    uncertain: peer.error,
                })
                .collect(),
            idle_ms: silences.get(silences.len() / 2).copied(),
            restarts: self.restarts.iter().map(|it| it.restart.clone()).collect(),
            hint: self.hints.top(1).pop().map(|hint| hint.of),
            ..self.incident.clone()
        }
    }
}

/// So many steps before.
fn back(now: Timestamp, steps: u32) -> Timestamp {
    now.checked_sub(STEP * steps).unwrap_or(Timestamp::MIN)
}

/// To a thousandth.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests;
