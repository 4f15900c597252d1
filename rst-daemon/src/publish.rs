//! What becomes of an event: joined with what the host knows, learned from, and
//! handed to whoever watches.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rst_common::cause::Cause;
use rst_common::classify::{Times, Verdict, classify};
use rst_common::event::{self, Event};
use rst_common::facts::Facts;
use rst_common::history::{ANY_V4, ANY_V6, Listened};
use rst_common::reason::Reason;
use rst_common::tcp::{AF_INET, AF_INET6};
use tracing::{Level, debug, enabled, info};

use crate::clock::{Hz, WallClock};
use crate::hint::estimator::Estimator;
use crate::hub::Hub;
use crate::incidents::recent::Recent;
use crate::join::{self, Joiner, owner_source};
use crate::kernel::listeners::{Address, Listeners, Stopped};
use crate::metrics::OwnersFound;
use crate::pairs::Pairs;
use crate::reset::{Reset, Restart, Restarted, Told, VERSION, Workload};
use crate::restart::{Outages, Over};
use crate::store::Queue;
use crate::workload::resolver::Resolver;
use crate::{basis, hint, process};

/// What the host knows beside the events, for the events and for the scrape.
#[derive(Debug)]
pub struct Host {
    /// Names for numbers.
    pub joiner: Joiner,
    /// Names of workloads.
    pub resolver: Mutex<Resolver>,
    /// Who listens, and who has listened.
    pub listeners: Listeners,
    /// The last events by which something was lost.
    pub recent: Mutex<Recent>,
}

impl Host {
    /// What the counts of these workloads are published under, where they have a
    /// name.
    #[must_use]
    pub fn labels(&self, workloads: impl IntoIterator<Item = u64>) -> HashMap<u64, Arc<str>> {
        let now = Instant::now();
        let mut resolver = self.resolver();
        let labels = workloads
            .into_iter()
            .filter_map(|id| Some((id, resolver.label(id, now)?)));
        labels.collect()
    }

    /// The reset that an event tells of.
    pub(crate) fn tell(&self, event: &Event, clock: WallClock) -> Reset {
        let of = self.resolver().resolve(event.workload, Instant::now());
        let holder = self.joiner.holder_of(event);
        let running = holder.and_then(|(pid, born)| process::running(pid, born));
        self.joiner.join(event, clock, of, running)
    }

    /// Who had listened where a segment went that found nobody. The process is told
    /// where it ended with it, or runs still: it may have left the socket to others.
    pub(crate) fn gone(&self, event: &Event, at: Address) -> Option<(Stopped, Option<Workload>)> {
        let stopped = self.listeners.stopped(at.netns, at.port)?;
        // It may have come and gone since.
        if stopped.at_ns > event.ktime_ns {
            return None;
        }
        let pid = stopped.pid.filter(|pid| {
            stopped.exit_code.is_some() || process::running(*pid, stopped.born).is_some()
        });
        let workload = self.workload(stopped.workload);
        Some((Stopped { pid, ..stopped }, workload))
    }

    /// A workload by its number.
    pub(crate) fn workload(&self, id: u64) -> Option<Workload> {
        self.resolver().resolve(id, Instant::now()).workload
    }

    /// A restart that is over.
    fn restarted(&self, over: &Over, clock: WallClock) -> Restarted {
        let started = clock.at(over.started_ns);
        Restarted {
            v: VERSION,
            time: started,
            host: self.joiner.host().to_owned(),
            port: over.port,
            netns: over.netns,
            restart: Restart {
                workload: over.workload.clone(),
                stopped: over.at,
                started: Some(started),
                resets: over.resets,
            },
        }
    }

    /// The last events by which something was lost.
    pub(crate) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn resolver(&self) -> MutexGuard<'_, Resolver> {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a segment went that found no listener where there had been one.
pub(crate) fn address(event: &Event) -> Option<Address> {
    if event.facts.listened != Listened::Before as u8 {
        return None;
    }
    let family = match event.family {
        AF_INET => ANY_V4,
        AF_INET6 => ANY_V6,
        _ => return None,
    };
    let (halves, _) = event.local_addr.as_chunks();
    let address = [*halves.first()?, *halves.get(1)?];
    Some(Address {
        netns: if event.known & event::known::NETNS_COOKIE != 0 {
            event.netns_cookie
        } else {
            u64::from(event.netns)
        },
        port: event.local_port,
        family,
        address: address.map(u64::from_ne_bytes),
    })
}

/// How long a restart may be over before it is told.
const RESTART_DELAY: Duration = Duration::from_millis(500);

/// How long an event may wait for the other end's before that is looked for again.
const PAIR_DELAY: Duration = Duration::from_millis(20);

/// Publishes events as resets.
pub struct Publisher {
    host: Arc<Host>,
    hub: Hub,
    store: Option<Queue>,
    insight: Insight,
    pairs: Pairs,
    outages: Outages,
}

impl Publisher {
    /// Resets go to `hub`.
    #[must_use]
    pub fn new(host: Arc<Host>, hub: Hub, insight: Insight) -> Self {
        Self {
            host,
            hub,
            store: None,
            insight,
            pairs: Pairs::default(),
            outages: Outages::default(),
        }
    }

    /// From now on they go to the store as well, where there is one.
    pub fn keep_in(&mut self, store: Option<Queue>) {
        self.store = store;
    }

    /// What the host knows.
    #[must_use]
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// Another silence, milliseconds, is what counts as idle from now on. Returns it in
    /// jiffies.
    pub fn set_idle(&mut self, idle_ms: u32) -> u32 {
        let idle = self.host.joiner.hz().jiffies(idle_ms);
        let times = Times {
            idle,
            ..self.insight.times
        };
        self.insight.set_idle(idle_ms, times);
        idle
    }

    /// How the owners of the events so far were found.
    #[must_use]
    pub fn owners(&self) -> OwnersFound {
        self.insight.owners
    }

    /// Takes one event in.
    pub fn take(&mut self, event: Event) {
        self.insight.owners[owner_source(&event) as usize] += 1;
        self.host.recent().push(&event);
        if enabled!(Level::DEBUG) {
            self.insight.check(&event);
        }
        let timer =
            Cause::from_byte(event.cause).is_some_and(|cause| hint::signature(cause).is_some());
        if timer || self.store.is_some() || self.hub.has_subscribers() {
            self.pairs.push(event);
        }
    }

    /// Publishes what need not wait any longer at this moment, `CLOCK_MONOTONIC`,
    /// nanoseconds.
    pub fn publish(&mut self, now_ns: u64) {
        // Read once, and only with the first of them: the wait before it may have
        // been long.
        let clock = OnceCell::new();
        let clock = || *clock.get_or_init(WallClock::now);
        while let Some((event, other)) = self.pairs.pop(now_ns) {
            let mut reset = self.tell(&event, clock());
            let Some(other) = other else {
                self.hand_on(reset);
                continue;
            };
            let mut peer = self.tell(&other, clock());
            reset.peer_owner.clone_from(&peer.owner);
            peer.peer_owner.clone_from(&reset.owner);
            reset.peer_cause = Some(peer.cause.clone());
            peer.peer_cause = Some(reset.cause.clone());
            self.hand_on(reset);
            self.hand_on(peer);
        }
        if self.outages.is_empty() {
            return;
        }
        let listeners = &self.host.listeners;
        let since = |address, stopped_ns| listeners.since(address, stopped_ns);
        let name = |workload| self.host.workload(workload);
        for over in self.outages.over(now_ns, since, name) {
            self.hand_on(self.host.restarted(&over, clock()));
        }
    }

    fn hand_on(&self, told: impl Into<Told>) {
        let told = told.into();
        if let Some(store) = &self.store {
            store.keep(told.clone());
        }
        self.hub.publish(told);
    }

    /// How long it can wait until [`Self::publish`] is due; `None` where nothing
    /// waits.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        if !self.pairs.is_empty() {
            Some(PAIR_DELAY)
        } else if !self.outages.is_empty() {
            Some(RESTART_DELAY)
        } else {
            None
        }
    }

    fn tell(&mut self, event: &Event, clock: WallClock) -> Reset {
        let mut reset = self.host.tell(event, clock);
        if let Some(address) = address(event)
            && let Some((gone, workload)) = self.host.gone(event, address)
        {
            let name = workload.as_ref().and_then(Workload::telling_name);
            let told = basis::stopped(&gone, name, event.ktime_ns);
            reset.basis.push_str(&told);
            let inode = event.known & event::known::NETNS != 0;
            let stopped = self.outages.missed(
                address,
                gone,
                workload.clone(),
                clock.at(gone.at_ns),
                inode.then_some(event.netns),
            );
            reset.restart = Some(Restart {
                workload,
                stopped,
                started: None,
                resets: gone.resets,
            });
        }
        self.insight.learn(event, &mut reset, self.host.joiner.hz());
        reset
    }
}

/// What is learned from one event after the other.
pub struct Insight {
    estimator: Estimator,
    times: Times,
    owners: OwnersFound,
}

impl Insight {
    /// Nothing seen yet. A silence shorter than `idle_ms` is none.
    #[must_use]
    pub fn new(idle_ms: u32, times: Times) -> Self {
        Self {
            estimator: Estimator::new(idle_ms.into()),
            times,
            owners: OwnersFound::default(),
        }
    }

    /// Another silence is the shortest from now on.
    fn set_idle(&mut self, idle_ms: u32, times: Times) {
        self.estimator.shortest_ms = idle_ms.into();
        self.times = times;
    }

    /// Says once what the resets of a service have in common; that is the hint
    /// of the one that shows it.
    fn learn(&mut self, event: &Event, reset: &mut Reset, hz: Hz) {
        let Some((key, observation)) = join::observation(event, reset, hz) else {
            return;
        };
        if let Some(finding) = self.estimator.observe(key, observation) {
            let finding = finding.to_string();
            info!("{finding}");
            reset.hint = Some(finding);
        }
    }

    /// Decides once more, here: the kernel must have come to the same, and it
    /// should not have needed the reason it was given.
    fn check(&self, event: &Event) {
        let verdict = |facts| {
            let Verdict {
                cause,
                impact,
                role,
            } = classify(&facts, self.times);
            [cause as u8, impact as u8, role as u8]
        };
        let told = [event.cause, event.impact, event.role];
        let here = verdict(event.facts);
        if here != told {
            debug!("decided otherwise: {here:?} here, {told:?} in the kernel: {event:?}");
        }
        let withheld = verdict(Facts {
            reason: Reason::Unspecified as u8,
            ..event.facts
        });
        if withheld != here {
            debug!("decided by the reason: {withheld:?} without, {here:?} with it: {event:?}");
        }
    }
}
