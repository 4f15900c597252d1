//! What becomes of an event: joined with what the host knows, learned from, and
//! handed to whoever watches.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rst_common::cause::Cause;
use rst_common::classify::{Times, Verdict, classify};
use rst_common::event::{self, Event};
use rst_common::facts::Facts;
use rst_common::history::Listened;
use rst_common::reason::Reason;
use tracing::{Level, debug, enabled, info};

use crate::clock::{Hz, WallClock};
use crate::hint::estimator::Estimator;
use crate::hub::Hub;
use crate::join::{self, Joiner, owner_source};
use crate::kernel::listeners::{Listeners, Stopped};
use crate::metrics::OwnersFound;
use crate::reset::Reset;
use crate::workload::resolver::Resolver;
use crate::{basis, hint};

/// What the host knows beside the events, for the events and for the scrape.
#[derive(Debug)]
pub struct Host {
    /// Names for numbers.
    pub joiner: Joiner,
    /// Names of workloads.
    pub resolver: Mutex<Resolver>,
    /// Who listens, and who has listened.
    pub listeners: Listeners,
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
    fn tell(&self, event: &Event, clock: WallClock) -> Reset {
        let now = Instant::now();
        let mut resolver = self.resolver();
        let of = resolver.resolve(event.workload, now);
        let mut reset = self.joiner.join(event, clock, of);
        if let Some(gone) = self.stopped(event) {
            let workload = resolver.resolve(gone.workload, now).workload;
            let name = workload.as_ref().map(|workload| workload.name.as_str());
            let told = basis::stopped(&gone, name, event.ktime_ns);
            reset.basis.push_str(&told);
        }
        reset
    }

    /// Who stopped listening where this segment went.
    fn stopped(&self, event: &Event) -> Option<Stopped> {
        if event.facts.listened != Listened::Before as u8 {
            return None;
        }
        let netns = if event.known & event::known::NETNS_COOKIE != 0 {
            event.netns_cookie
        } else {
            u64::from(event.netns)
        };
        self.listeners.stopped(netns, event.local_port)
    }

    fn resolver(&self) -> MutexGuard<'_, Resolver> {
        self.resolver.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Publishes events as resets.
pub struct Publisher {
    host: Arc<Host>,
    hub: Hub,
    insight: Insight,
}

impl Publisher {
    /// Resets go to `hub`.
    #[must_use]
    pub fn new(host: Arc<Host>, hub: Hub, insight: Insight) -> Self {
        Self { host, hub, insight }
    }

    /// What the host knows.
    #[must_use]
    pub fn host(&self) -> Arc<Host> {
        Arc::clone(&self.host)
    }

    /// How the owners of the events so far were found.
    #[must_use]
    pub fn owners(&self) -> OwnersFound {
        self.insight.owners
    }

    /// Takes the events of one round. The wall clock is read once, with the first
    /// of them: the wait before it may have been long.
    pub fn round(&mut self) -> impl FnMut(Event) {
        let mut clock = None;
        move |event| self.publish(&event, || *clock.get_or_insert_with(WallClock::now))
    }

    fn publish(&mut self, event: &Event, clock: impl FnOnce() -> WallClock) {
        let timer =
            Cause::from_byte(event.cause).is_some_and(|cause| hint::signature(cause).is_some());
        if timer || self.hub.has_subscribers() {
            let mut reset = self.host.tell(event, clock());
            self.insight.learn(event, &mut reset, self.host.joiner.hz());
            self.hub.publish(reset);
        }
        self.insight.owners[owner_source(event) as usize] += 1;
        if enabled!(Level::DEBUG) {
            self.insight.check(event);
        }
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
