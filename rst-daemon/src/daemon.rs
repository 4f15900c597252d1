//! The service: bind, attach, read, serve, stop. The order matters: what a user
//! can get wrong is found before anything is attached.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use rst_common::cause::Cause;
use rst_common::classify::{Times, Verdict, classify};
use rst_common::event::Event;
use rst_common::facts::Facts;
use rst_common::reason::Reason;
use tokio::sync::watch;
use tracing::{Level, debug, enabled, info};

use crate::clock::{Hz, WallClock};
use crate::config::Config;
use crate::hint;
use crate::hint::estimator::Estimator;
use crate::hub::Hub;
use crate::join::{self, Joiner};
use crate::kernel::counters::Counters;
use crate::kernel::load::{self, LoadError, Settings};
use crate::kernel::ring::{Reader, ReaderStats};
use crate::kernel::{kernel_log, preflight};
use crate::metrics::{self, Snapshot};
use crate::reset::Reset;
use crate::serve::{self, BindError, Readiness, Scrape, Serve};

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
        give_memory_back();
        Ok((
            Self {
                ebpf: kernel.ebpf,
                reader,
                joiner,
                hub,
                insight: Insight {
                    estimator: Estimator::new(config.idle_ms.into()),
                    times: kernel.times,
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
        mut after_round: impl FnMut(ReaderStats),
    ) -> Result<(), DaemonError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let mut deliver = publisher(&self.joiner, &self.hub, &mut self.insight);
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                round = self.reader.round(&mut deliver) => round.map_err(DaemonError::Ring)?,
            }
            after_round(self.reader.stats());
        }
        // Detaches: no event comes after this.
        drop(self.ebpf);
        let deliver = &mut publisher(&self.joiner, &self.hub, &mut self.insight);
        self.reader.finish(deliver);
        after_round(self.reader.stats());
        Ok(())
    }
}

/// What is learned from one event after the other.
struct Insight {
    estimator: Estimator,
    times: Times,
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
fn publisher(joiner: &Joiner, hub: &Hub, insight: &mut Insight) -> impl FnMut(Event) {
    let mut clock = None;
    move |event| {
        let timer =
            Cause::from_byte(event.cause).is_some_and(|cause| hint::signature(cause).is_some());
        if timer || hub.has_subscribers() {
            let clock = *clock.get_or_insert_with(WallClock::now);
            let mut reset = joiner.join(&event, clock);
            insight.learn(&event, &mut reset, joiner.hz());
            hub.publish(reset);
        }
        if enabled!(Level::DEBUG) {
            insight.check(&event);
        }
    }
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

    let stats = Arc::new(Mutex::new(ReaderStats::default()));
    let ready = Readiness::default();
    let serve = Arc::new(Serve {
        hub,
        ready: ready.clone(),
        scrape: scrape(
            counters,
            Arc::clone(&stats),
            Arc::clone(&tracer.joiner),
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
        .run(shutdown, |now| {
            *stats.lock().unwrap_or_else(PoisonError::into_inner) = now;
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
    stats: Arc<Mutex<ReaderStats>>,
    joiner: Arc<Joiner>,
    max_series: u32,
    attached: Vec<&'static str>,
) -> Scrape {
    let counters = Mutex::new(counters);
    Arc::new(move || {
        let counts = counters
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .read()
            .map_err(|error| format!("cannot read the counts: {error}"))?;
        let snapshot = Snapshot {
            counts,
            reader: *stats.lock().unwrap_or_else(PoisonError::into_inner),
            max_series,
            hz: joiner.hz(),
            attached: attached.clone(),
        };
        metrics::render(&snapshot, |raw| joiner.known_reason(raw))
            .map_err(|error| error.to_string())
    })
}

/// Returns to the kernel what parsing its BTF took: tens of megabytes, once.
fn give_memory_back() {
    // SAFETY: takes a number and touches only the allocator's own state.
    unsafe { libc::malloc_trim(0) };
}
