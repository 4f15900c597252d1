//! Reads the counts every two seconds and keeps the book of incidents.
//!
//! I/O: it reads the kernel's maps, the clocks and the table of listeners.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jiff::Timestamp;
use rst_common::cause::{Cause, Impact, Role};
use rst_common::event::Event;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use super::{Book, Detail, Linked, tell};
use crate::clock::WallClock;
use crate::hint;
use crate::incident::Incident;
use crate::join;
use crate::kernel::counters::{Label, Tally};
use crate::kernel::listeners::Since;
use crate::metrics::{Names, workload_name};
use crate::publish::Host;
use crate::reset::Restart;
use crate::spike::detector::is_loss;
use crate::spike::track::Turn;
use crate::spike::{Change, Detector, Key, Parameters, Reading, STEP, Service};
use crate::store::Queue;
use crate::text;

/// Watches for incidents until it is dropped. `read` reads the counts; `book` is what
/// others look into; the store keeps what it holds; `parameters` tells what makes an
/// incident at the moment.
pub async fn watch(
    host: Arc<Host>,
    book: Arc<Mutex<Book>>,
    store: Option<Queue>,
    parameters: impl Fn() -> Parameters,
    mut read: impl FnMut() -> Result<Tally, String>,
) {
    let mut watch = Watch {
        host,
        book,
        store,
        detector: Detector::new(parameters()),
        at: Instant::now(),
        seen: 0,
        is_full: false,
        failed: false,
    };
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        watch.detector.retune(parameters());
        let result = read().and_then(|tally| watch.step(&tally));
        if let Err(error) = &result
            && !watch.failed
        {
            warn!("cannot look for incidents: {error}");
        }
        watch.failed = result.is_err();
    }
}

struct Watch {
    host: Arc<Host>,
    book: Arc<Mutex<Book>>,
    store: Option<Queue>,
    detector: Detector,
    /// When the counts were read last.
    at: Instant,
    /// Events that have been looked at.
    seen: u64,
    /// That there is more than can be watched has been said.
    is_full: bool,
    /// That the counts can't be read has been said.
    failed: bool,
}

impl Watch {
    fn step(&mut self, tally: &Tally) -> Result<(), String> {
        let (steps, now) = (self.steps(), Timestamp::now());
        let (reading, names) = self.reading(tally)?;
        let changes = self.detector.step(&reading, steps);
        if self.detector.is_full() && !std::mem::replace(&mut self.is_full, true) {
            warn!(
                "more services or causes than can be watched for incidents: the first are; lower max_ports or max_workloads to watch the rest together"
            );
        }
        let book = Arc::clone(&self.book);
        let mut book = lock(&book);
        for change in &changes {
            if let Turn::Opened(opening) = &change.turn {
                book.open(change, opening, now);
            }
        }
        self.details(&mut book, &changes, &names);
        book.count(&reading, now);
        for change in changes {
            match change.turn {
                Turn::Opened(_) => {
                    if let Some(incident) = book.told(&change.key) {
                        warn!("{}", tell::opened(&incident));
                        self.keep(incident);
                    }
                }
                Turn::Closed { .. } => {
                    if let Some(incident) = book.close(&change, now) {
                        info!("{}", tell::closed(&incident));
                        self.keep(incident);
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores what it is now.
    fn keep(&self, incident: Incident) {
        if let Some(store) = &self.store {
            store.keep_incident(incident);
        }
    }

    /// Steps since the last time, to the nearest.
    fn steps(&mut self) -> u32 {
        let now = Instant::now();
        let passed = now.duration_since(self.at) + STEP / 2;
        self.at = now;
        u32::try_from(passed.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX)
    }

    /// The counts under the names of the metrics, and those names.
    fn reading(&self, tally: &Tally) -> Result<(Reading, Names), String> {
        let served = self
            .host
            .listeners
            .served()
            .map_err(|error| format!("cannot read the listeners: {error}"))?;
        let losses = || {
            tally
                .resets
                .iter()
                .filter(|(series, _)| is_loss(series.impact))
        };
        let known = losses()
            .map(|(series, _)| series.workload)
            .chain(tally.connections.keys().map(|(_, workload, _)| *workload));
        let ids: BTreeSet<u64> = known
            .filter_map(|workload| match workload {
                Label::Value(id) => Some(id),
                Label::None | Label::Other => None,
            })
            .chain(served.iter().map(|served| served.workload))
            .collect();
        let names = self.host.labels(ids);
        let service = |role, workload, port| Service {
            workload: workload_name(&names, workload),
            role,
            port,
        };
        let mut reading = Reading::default();
        for served in &served {
            let (workload, port) = (Label::Value(served.workload), Label::Value(served.port));
            reading.served.push(service(Role::Server, workload, port));
        }
        for ((role, workload, port), count) in &tally.connections {
            let service = service(*role, *workload, *port);
            *reading.connections.entry(service).or_default() += count;
        }
        for (series, count) in losses() {
            let key = Key {
                service: service(series.role, series.workload, series.port),
                cause: series.cause,
                impact: series.impact,
            };
            *reading.resets.entry(key).or_default() += count;
        }
        Ok((reading, names))
    }

    /// Tells the book of the resets that were described since the last time; of what has
    /// just opened, of all that are remembered.
    fn details(&mut self, book: &mut Book, changes: &[Change], names: &Names) {
        let seen = std::mem::replace(&mut self.seen, self.host.recent().taken());
        if book.is_quiet() {
            return;
        }
        let clock = WallClock::now();
        let is_new = |key: &Key| {
            let mut opened = changes
                .iter()
                .filter(|it| matches!(it.turn, Turn::Opened(_)));
            opened.any(|change| change.key == *key)
        };
        // Below they are told in full, which takes the lock of others.
        let events = self
            .host
            .recent()
            .since(if changes.is_empty() { seen } else { 0 });
        let mut linked = BTreeSet::new();
        for (number, event) in events {
            let Some(detail) = self.detail(&event, clock, names) else {
                continue;
            };
            let key = detail.key.clone();
            if number < seen && !is_new(&key) || !book.has(&key) {
                continue;
            }
            // One is enough: the others are of the same restart, or the next time shows.
            if linked.insert(key.clone())
                && let Some(restart) = self.restart(&event, clock)
            {
                book.link(&key, restart);
            }
            if book.see(detail) {
                book.sample(&key, self.host.tell(&event, clock));
            }
        }
        book.follow(|linked| self.follow(linked, clock));
    }

    /// What every reset is looked at for.
    fn detail(&self, event: &Event, clock: WallClock, names: &Names) -> Option<Detail> {
        let cause = Cause::from_byte(event.cause)?;
        let impact = Impact::from_byte(event.impact)?;
        let role = Role::from_byte(event.role)?;
        let ends = join::endpoints(event);
        let port = match (role, ends) {
            (Role::Server, Some((local, _))) => Label::Value(local.port),
            (Role::Client, Some((_, remote))) => Label::Value(remote.port),
            (Role::Server | Role::Client, None) | (Role::Unknown, _) => Label::None,
        };
        let workload = if event.workload == 0 {
            Label::None
        } else {
            Label::Value(event.workload)
        };
        let gaps = join::gaps_of(cause, event, self.host.joiner.hz());
        let silence = if cause == Cause::StaleReuse {
            gaps.segment_ms
        } else {
            gaps.data_ms
        };
        Some(Detail {
            key: Key {
                service: Service {
                    workload: workload_name(names, workload),
                    role,
                    port,
                },
                cause,
                impact,
            },
            at: clock.at(event.ktime_ns),
            peer: ends.map(|(_, remote)| remote.ip),
            silence_ms: silence.filter(|_| cause.has_gap()),
            hint: hint::hint(cause, gaps),
        })
    }

    /// The restart that a reset comes of.
    fn restart(&self, event: &Event, clock: WallClock) -> Option<Linked> {
        let address = crate::publish::address(event)?;
        let (stopped, workload) = self.host.gone(event, address)?;
        Some(Linked {
            address,
            stopped_ns: stopped.at_ns,
            restart: Restart {
                workload,
                stopped: clock.at(stopped.at_ns),
                started: None,
                resets: stopped.resets,
            },
        })
    }

    /// How a restart stands.
    fn follow(&self, linked: &mut Linked, clock: WallClock) {
        let listeners = &self.host.listeners;
        let Linked {
            address,
            stopped_ns,
            restart,
        } = linked;
        match listeners.since(*address, *stopped_ns) {
            // Somebody else's service in its place is no restart.
            Some(Since::Somebody {
                workload,
                at_ns,
                resets,
            }) if self.host.workload(workload) == restart.workload => {
                restart.started = Some(clock.at(at_ns));
                restart.resets = resets;
            }
            Some(Since::Nobody) => {
                if let Some(stopped) = listeners.stopped(address.netns, address.port) {
                    restart.resets = stopped.resets;
                }
            }
            Some(Since::Somebody { .. }) | None => {}
        }
    }
}

/// What `/api/v1/incidents` answers: a JSON array of those open at `since` or later.
pub fn api(book: &Mutex<Book>, since: Timestamp) -> Result<Vec<u8>, String> {
    let incidents = lock(book).list(since);
    let json = text::json(&incidents).map_err(|error| error.to_string())?;
    Ok(json.into_bytes())
}

/// The book, whoever has panicked over it.
pub fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}
