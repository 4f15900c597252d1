//! From all counts to the spikes in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rst_common::cause::{Cause, Impact, Role};

use super::track::{Connections, Opening, Track, Turn};
use super::{LONGEST, Parameters, Rules};
use crate::kernel::counters::Label;

/// Services that are watched, at most: each takes about 0.8 kB.
const MAX_SERVICES: usize = 2000;

/// Counts that are watched, at most: each takes about 1.2 kB.
const MAX_TRACKS: usize = 2000;

/// What connections are counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Service {
    /// The workload's name in the metrics.
    pub workload: Arc<str>,
    /// What this host is in the connections.
    pub role: Role,
    /// The service's port.
    pub port: Label<u16>,
}

/// What resets are counted under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Whose.
    pub service: Service,
    /// Why.
    pub cause: Cause,
    /// What was lost.
    pub impact: Impact,
}

/// All counts at one moment; none ever falls.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Services that are there, whether they have had a connection or not.
    pub served: Vec<Service>,
    /// Connections that came about.
    pub connections: BTreeMap<Service, u64>,
    /// Resets by which something was lost.
    pub resets: BTreeMap<Key, u64>,
}

/// A spike begins or ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// In which count.
    pub key: Key,
    /// What happened.
    pub turn: Turn,
    /// The count itself, as it was before the spike began (at its opening) or as it is
    /// now.
    pub resets: u64,
    /// The service's connections, likewise.
    pub connections: u64,
}

#[derive(Debug)]
struct Counted<T> {
    last: u64,
    of: T,
}

#[derive(Debug)]
struct Watched {
    connections: Counted<Connections>,
    tracks: BTreeMap<(Cause, Impact), Counted<Track>>,
}

/// Watches all counts.
#[derive(Debug)]
pub struct Detector {
    rules: Rules,
    services: BTreeMap<Service, Watched>,
    tracks: usize,
    started: bool,
}

/// Whether a reset counts: by others nothing was lost, or nobody can know.
#[must_use]
pub fn is_loss(impact: Impact) -> bool {
    match impact {
        Impact::ConnectFailed | Impact::ConnectionBroken => true,
        Impact::Benign | Impact::Uncertain => false,
    }
}

impl Detector {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        Self {
            rules: Rules::new(parameters),
            services: BTreeMap::new(),
            tracks: 0,
            started: false,
        }
    }

    /// Goes by other parameters from now on. What has been learned stays.
    pub fn retune(&mut self, parameters: Parameters) {
        if self.rules.parameters != parameters {
            self.rules = Rules::new(parameters);
        }
    }

    /// Whether there is more than can be watched.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.services.len() >= MAX_SERVICES || self.tracks >= MAX_TRACKS
    }

    /// Looks at a reading that comes so many steps after the one before; what happened
    /// in several is spread over them. What the first one holds was before the start.
    pub fn step(&mut self, reading: &Reading, steps: u32) -> Vec<Change> {
        self.admit(reading);
        let steps = steps.clamp(1, u32::try_from(LONGEST).unwrap_or(u32::MAX));
        let mut changes = Vec::new();
        for (service, watched) in &mut self.services {
            let now = reading
                .connections
                .get(service)
                .copied()
                .unwrap_or_default();
            let made = now.saturating_sub(watched.connections.last);
            watched.connections.last = now;
            let mut key = Key {
                service: service.clone(),
                cause: Cause::Unknown,
                impact: Impact::Uncertain,
            };
            let mut grown = Vec::with_capacity(watched.tracks.len());
            for ((cause, impact), counted) in &mut watched.tracks {
                (key.cause, key.impact) = (*cause, *impact);
                let resets = reading.resets.get(&key).copied().unwrap_or_default();
                grown.push(resets.saturating_sub(counted.last));
                counted.last = resets;
            }
            for step in 0..steps {
                let connections = &mut watched.connections.of;
                connections.push(part(made, step, steps), &self.rules);
                for (((cause, impact), counted), grown) in watched.tracks.iter_mut().zip(&grown) {
                    let part = part(*grown, step, steps);
                    let Some(turn) = counted.of.step(part, connections, &self.rules) else {
                        continue;
                    };
                    (key.cause, key.impact) = (*cause, *impact);
                    let (resets, connections) = match turn {
                        Turn::Opened(Opening { steps, resets, .. }) => {
                            (resets, connections.recent.last(steps))
                        }
                        Turn::Closed { .. } => (0, 0),
                    };
                    changes.push(Change {
                        key: key.clone(),
                        turn,
                        resets: counted.last.saturating_sub(resets),
                        connections: now.saturating_sub(connections),
                    });
                }
            }
        }
        changes
    }

    /// Takes in what is new, as far as there is room.
    fn admit(&mut self, reading: &Reading) {
        let first = !std::mem::replace(&mut self.started, true);
        let before = |count: u64| if first { count } else { 0 };
        let of = reading.resets.keys().map(|key| &key.service);
        let services = reading.served.iter().chain(reading.connections.keys());
        for service in services.chain(of) {
            if self.services.contains_key(service) || self.services.len() >= MAX_SERVICES {
                continue;
            }
            let connections = reading.connections.get(service).copied();
            let watched = Watched {
                connections: Counted {
                    last: before(connections.unwrap_or_default()),
                    of: Connections::default(),
                },
                tracks: BTreeMap::new(),
            };
            self.services.insert(service.clone(), watched);
        }
        for (key, resets) in &reading.resets {
            let Some(watched) = self.services.get_mut(&key.service) else {
                continue;
            };
            let of = (key.cause, key.impact);
            if self.tracks >= MAX_TRACKS || watched.tracks.contains_key(&of) {
                continue;
            }
            self.tracks += 1;
            let counted = Counted {
                last: before(*resets),
                of: Track::new(&watched.connections.of, &self.rules),
            };
            watched.tracks.insert(of, counted);
        }
    }
}

/// The share of one of several steps; the last one has what remains.
fn part(count: u64, step: u32, steps: u32) -> u32 {
    let each = count / u64::from(steps);
    let part = if step + 1 == steps {
        count - each * u64::from(steps - 1)
    } else {
        each
    };
    u32::try_from(part).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spike::steps;

    fn service() -> Service {
        Service {
            workload: "web.service".into(),
            role: Role::Server,
            port: Label::Value(80),
        }
    }

    fn key() -> Key {
        Key {
            service: service(),
            cause: Cause::Refused,
            impact: Impact::ConnectFailed,
        }
    }

    fn reading(resets: u64, connections: u64) -> Reading {
        Reading {
            served: vec![service()],
            connections: [(service(), connections)].into(),
            resets: if resets == 0 {
                BTreeMap::new()
            } else {
                [(key(), resets)].into()
            },
        }
    }

    /// A detector that has seen a service without a reset for so long.
    fn after(quiet: u32) -> Detector {
        let mut detector = Detector::new(Parameters::default());
        for step in 0..quiet {
            assert_eq!(detector.step(&reading(0, u64::from(step) * 20), 1), []);
        }
        detector
    }

    fn warm() -> u32 {
        steps(Parameters::default().warmup) + 1
    }

    #[test]
    fn a_first_reset_ever_can_be_a_spike_of_a_service_that_is_known() {
        let mut detector = after(warm());
        assert_eq!(detector.step(&reading(9, 3020), 1), []);
        let changes = detector.step(&reading(59, 3040), 1);
        let [
            Change {
                key: of,
                turn: Turn::Opened(opening),
                resets: 0,
                ..
            },
        ] = &changes[..]
        else {
            panic!("{changes:?}");
        };
        assert_eq!(*of, key());
        assert_eq!((opening.steps, opening.resets), (2, 59));
        assert!(opening.usual < 0.1, "{opening:?}");
    }

    #[test]
    fn what_begins_is_no_spike() {
        let mut detector = after(warm() - 10);
        for step in 0..5 {
            assert_eq!(detector.step(&reading(1000 * step, 7000), 1), []);
        }
        // Another service, seen for the first time with its resets.
        let mut detector = after(warm());
        let mut other = reading(0, 7000);
        let service = Service {
            port: Label::Value(81),
            ..service()
        };
        other.resets.insert(Key { service, ..key() }, 5000);
        assert_eq!(detector.step(&other, 1), []);
    }

    #[test]
    fn what_was_before_the_start_is_not_counted() {
        let mut detector = Detector::new(Parameters::default());
        for step in 0..2 * warm() {
            let made = u64::from(step);
            assert_eq!(detector.step(&reading(1_000_000, 1_000_000 + made), 1), []);
        }
    }

    #[test]
    fn more_connections_have_more_resets() {
        let mut detector = Detector::new(Parameters::default());
        let (mut resets, mut connections) = (0, 0);
        for step in 0..5000 {
            let times = if step < 4000 { 1 } else { 20 };
            resets += times;
            connections += 100 * times;
            assert_eq!(
                detector.step(&reading(resets, connections), 1),
                [],
                "{step}"
            );
        }
        // Without them it is a spike.
        let changes = (0..10).flat_map(|_| {
            resets += 100;
            detector.step(&reading(resets, connections), 1)
        });
        assert_eq!(changes.count(), 1);
    }

    #[test]
    fn it_closes_by_itself_and_exactly() {
        let mut detector = after(warm());
        assert_eq!(detector.step(&reading(500, 7000), 1).len(), 1);
        let calm = steps(Parameters::default().calm);
        let mut changes = Vec::new();
        for _ in 0..calm + 5 {
            changes.extend(detector.step(&reading(503, 7000), 1));
        }
        let [
            Change {
                turn:
                    Turn::Closed {
                        calm: 60,
                        usual: false,
                    },
                resets: 503,
                ..
            },
        ] = &changes[..]
        else {
            panic!("{changes:?}");
        };
        // What it was is not looked at again.
        for _ in 0..1000 {
            assert_eq!(detector.step(&reading(503, 7000), 1), []);
        }
    }

    #[test]
    fn a_late_reading_is_spread_over_its_time() {
        let mut detector = Detector::new(Parameters::default());
        let mut resets = 0;
        for _ in 0..4000 {
            resets += 10;
            assert_eq!(detector.step(&reading(resets, 7000), 1), []);
        }
        // A machine that slept for ten minutes of a process that did not.
        assert_eq!(detector.step(&reading(resets + 3000, 7000), 300), []);
        assert_eq!([part(7, 0, 3), part(7, 1, 3), part(7, 2, 3)], [2, 2, 3]);
    }

    #[test]
    fn a_spike_that_never_ends_is_usual_one_day() {
        let mut detector = after(warm());
        let mut resets = 0;
        let mut turns = Vec::new();
        for step in 0..100_000u64 {
            resets += 40;
            for change in detector.step(&reading(resets, 7000), 1) {
                turns.push((step, change.turn));
            }
        }
        let [
            (_, Turn::Opened(_)),
            (43_200.., Turn::Closed { usual: true, .. }),
        ] = turns[..]
        else {
            panic!("{turns:?}");
        };
    }

    #[test]
    fn there_is_so_much_room_and_no_more() {
        let mut detector = Detector::new(Parameters::default());
        let mut all = Reading::default();
        for port in 1..=2500 {
            let service = Service {
                port: Label::Value(port),
                ..service()
            };
            all.served.push(service.clone());
            all.resets.insert(Key { service, ..key() }, 1);
        }
        detector.step(&all, 1);
        assert_eq!((detector.services.len(), detector.tracks), (2000, 2000));
        assert!(detector.is_full());
        // What the limits above state.
        let ring = size_of::<[u32; LONGEST]>();
        assert!(
            size_of::<Counted<Track>>() + ring < 1200,
            "{}",
            size_of::<Counted<Track>>()
        );
        assert!(
            size_of::<(Service, Watched)>() + ring < 800,
            "{}",
            size_of::<(Service, Watched)>()
        );
    }
}
