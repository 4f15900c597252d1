//! The service: bind, attach, read, serve, stop. The order matters: what a user
//! can get wrong is found before anything is attached.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rst_common::cause::Cause;
use rst_common::classify::{Times, Verdict, classify};
use rst_common::event::{self, Event};
use rst_common::facts::Facts;
use rst_common::history::Listened;
use rst_common::reason::Reason;
use tokio::sync::watch;
use tracing::{Level, debug, enabled, info};

use crate::basis;
use crate::clock::{Hz, WallClock};
use crate::config::Config;
use crate::hint;
use crate::hint::estimator::Estimator;
use crate::hub::Hub;
use crate::join::{self, Joiner, owner_source};
use crate::kernel::counters::Counters;
use crate::kernel::listeners::{Listeners, Stopped};
use crate::kernel::load::{self, LoadError, Settings};
use crate::kernel::ring::{Reader, ReaderStats};
use crate::kernel::{kernel_log, preflight};
use crate::metrics::{self, OwnersFound, Snapshot};
use crate::reset::Reset;
use crate::serve::{self, BindError, Readiness, Scrape, Serve};
use crate::workload::cgroups::Cgroups;
use crate::workload::resolver::Resolver;

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// An address or a socket can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The probes can't be attached.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The counts can't be read.
    #[error("cannot read the counts: {0}")]
    Counts(#[from] aya::maps::MapError),
    /// The ring buffer can't be read.
    #[error("cannot read the ring buffer: {0}")]
    Ring(#[source] io::Error),
}

/// The attached probes with everything needed to turn events into resets.
pub struct Tracer {
    ebpf: aya::Ebpf,
    reader: Reader,
    joiner: Arc<Joiner>,
    resolver: Arc<Mutex<Resolver>>,
    listeners: Arc<Listeners>,
    hub: Hub,
    insight: Insight,
    attached: Vec<&'static str>,
}

impl Tracer {
    /// Attaches the probes. Resets go to `hub`; the counts are returned apart.
    pub fn attach(
        config: &Config,
        log_kernel: bool,
        hub: Hub,
    ) -> Result<(Self, Counters), DaemonError> {
        let mut kernel = load::attach(Settings {
            ring_bytes: config.ring_bytes,
            max_series: config.max_series,
            idle_ms: config.idle_ms,
            multiplexed_ports: &config.multiplexed_ports,
            tracked_sockets: config.tracked_sockets,
            closed_connections: config.closed_connections,
            log_kernel,
        })?;
        if log_kernel {
            kernel_log::forward(&mut kernel.ebpf);
        }
        for field in &kernel.layout.absent {
            info!("this kernel lacks {field}: what it would tell is reported as unknown");
        }
        let host = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let pids_match = preflight::in_initial_pid_namespace();
        if !pids_match {
            info!("in a pid namespace: process ids are reported as unknown");
        }
        let joiner = Arc::new(Joiner::new(
            host,
            kernel.layout.reason_names,
            kernel.hz,
            pids_match,
        ));
        let reader = Reader::new(
            kernel.ring,
            kernel.control,
            kernel.doubts,
            config.details_per_second,
        )
        .map_err(DaemonError::Ring)?;
        let names = kernel.names;
        let resolver = Resolver::new(cgroups(), Box::new(move |id| names.get(&id, 0).ok()));
        give_memory_back();
        Ok((
            Self {
                resolver: Arc::new(Mutex::new(resolver)),
                listeners: Arc::new(kernel.listeners),
                ebpf: kernel.ebpf,
                reader,
                joiner,
                hub,
                insight: Insight {
                    estimator: Estimator::new(config.idle_ms.into()),
                    times: kernel.times,
                    owners: OwnersFound::default(),
                },
                attached: kernel.attached,
            },
            kernel.counters,
        ))
    }

    /// Reads events until `shutdown` resolves, then detaches the probes and
    /// delivers what is left. `after_round` sees the reader's statistics.
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        mut after_round: impl FnMut(ReaderStats, OwnersFound),
    ) -> Result<(), DaemonError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let mut deliver = publisher(
                &self.joiner,
                &self.resolver,
                &self.listeners,
                &self.hub,
                &mut self.insight,
            );
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                round = self.reader.round(&mut deliver) => round.map_err(DaemonError::Ring)?,
            }
            drop(deliver);
            after_round(self.reader.stats(), self.insight.owners);
        }
        // Detaches: no event comes after this.
        drop(self.ebpf);
        let mut deliver = publisher(
            &self.joiner,
            &self.resolver,
            &self.listeners,
            &self.hub,
            &mut self.insight,
        );
        self.reader.finish(&mut deliver);
        drop(deliver);
        after_round(self.reader.stats(), self.insight.owners);
        Ok(())
    }
}

/// What is learned from one event after the other.
struct Insight {
    estimator: Estimator,
    times: Times,
    owners: OwnersFound,
}

impl Insight {
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

/// Publishes the events of one round as resets. The wall clock is read once,
/// with the first of them: the wait before it may have been long.
fn publisher(
    joiner: &Joiner,
    resolver: &Mutex<Resolver>,
    listeners: &Listeners,
    hub: &Hub,
    insight: &mut Insight,
) -> impl FnMut(Event) {
    let mut clock = None;
    move |event| {
        let timer =
            Cause::from_byte(event.cause).is_some_and(|cause| hint::signature(cause).is_some());
        if timer || hub.has_subscribers() {
            let clock = *clock.get_or_insert_with(WallClock::now);
            let now = Instant::now();
            let mut resolver = lock(resolver);
            let of = resolver.resolve(event.workload, now);
            let mut reset = joiner.join(&event, clock, of);
            if let Some(gone) = stopped(listeners, &event) {
                let workload = resolver.resolve(gone.workload, now).workload;
                let name = workload.as_ref().map(|workload| workload.name.as_str());
                reset
                    .basis
                    .push_str(&basis::stopped(&gone, name, event.ktime_ns));
            }
            drop(resolver);
            insight.learn(&event, &mut reset, joiner.hz());
            hub.publish(reset);
        }
        insight.owners[owner_source(&event) as usize] += 1;
        if enabled!(Level::DEBUG) {
            insight.check(&event);
        }
    }
}

/// Who stopped listening where this segment went.
fn stopped(listeners: &Listeners, event: &Event) -> Option<Stopped> {
    if event.facts.listened != Listened::Before as u8 {
        return None;
    }
    let netns = if event.known & event::known::NETNS_COOKIE != 0 {
        event.netns_cookie
    } else {
        u64::from(event.netns)
    };
    listeners.stopped(netns, event.local_port)
}

/// Runs the service until `shutdown` resolves.
pub async fn run(
    config: Config,
    log_kernel: bool,
    hub: Hub,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let socket = serve::bind_unix(&config.socket)?;
    let listener = serve::bind_tcp(config.listen).await?;
    let (tracer, mut counters) = Tracer::attach(&config, log_kernel, hub.clone())?;
    counters.read()?;

    let stats = Arc::new(Mutex::new(<(ReaderStats, OwnersFound)>::default()));
    let ready = Readiness::default();
    let serve = Arc::new(Serve {
        hub,
        ready: ready.clone(),
        scrape: scrape(
            counters,
            Arc::clone(&stats),
            Arc::clone(&tracer.joiner),
            Arc::clone(&tracer.resolver),
            Arc::clone(&tracer.listeners),
            config.max_series,
            tracer.attached.clone(),
        ),
    });
    // The real port, where any was asked for.
    let address = listener.local_addr().unwrap_or(config.listen);
    let (stop, stopped) = watch::channel(false);
    let tcp = tokio::spawn(serve::serve_tcp(
        listener,
        Arc::clone(&serve),
        stopped.clone(),
    ));
    let unix = tokio::spawn(serve::serve_unix(socket, serve, stopped));
    ready.set_ready();
    info!(
        "ready: metrics on http://{}/metrics, events on {}",
        address,
        config.socket.display()
    );

    let result = tracer
        .run(shutdown, |reader, owners| {
            *lock(&stats) = (reader, owners);
        })
        .await;
    // Nobody listens when both servers have ended by themselves; fine.
    let _ = stop.send(true);
    let _ = tokio::join!(tcp, unix);
    info!("stopped: probes detached");
    result
}

fn scrape(
    counters: Counters,
    stats: Arc<Mutex<(ReaderStats, OwnersFound)>>,
    joiner: Arc<Joiner>,
    resolver: Arc<Mutex<Resolver>>,
    listeners: Arc<Listeners>,
    max_series: u32,
    attached: Vec<&'static str>,
) -> Scrape {
    let counters = Mutex::new(counters);
    Arc::new(move || {
        let counts = lock(&counters)
            .read()
            .map_err(|error| format!("cannot read the counts: {error}"))?;
        let served = listeners.served();
        let mut workloads = counts.workloads();
        workloads.extend(served.iter().map(|served| served.workload));
        let workloads = name_workloads(&mut lock(&resolver), workloads);
        let (reader, owners) = *lock(&stats);
        let snapshot = Snapshot {
            counts,
            reader,
            owners,
            max_series,
            hz: joiner.hz(),
            attached: attached.clone(),
            workloads,
            served,
        };
        metrics::render(&snapshot, |raw| joiner.known_reason(raw))
            .map_err(|error| error.to_string())
    })
}

/// The names of workloads that have one.
fn name_workloads(
    resolver: &mut Resolver,
    workloads: impl IntoIterator<Item = u64>,
) -> HashMap<u64, String> {
    let now = Instant::now();
    let named = workloads.into_iter().filter_map(|id| {
        let workload = resolver.resolve(id, now).workload?;
        Some((id, workload.name))
    });
    named.collect()
}

/// The names of cgroups, where there are any.
fn cgroups() -> Option<Cgroups> {
    match Cgroups::open() {
        Ok(mut cgroups) => {
            cgroups.learn(Instant::now());
            Some(cgroups)
        }
        Err(error) => {
            info!("{error}");
            None
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns to the kernel what parsing its BTF took: tens of megabytes, once.
fn give_memory_back() {
    // SAFETY: takes a number and touches only the allocator's own state.
    unsafe { libc::malloc_trim(0) };
}
