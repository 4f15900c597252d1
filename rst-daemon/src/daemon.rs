//! The service: bind, attach, read, serve, stop. The order matters: what a user
//! can get wrong is found before anything is attached.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;
use tracing::info;

use crate::config::Config;
use crate::hub::Hub;
use crate::join::Joiner;
use crate::kernel::counters::{Counters, Counts};
use crate::kernel::load::{self, LoadError, RECEIVE_RESET, SEND_RESET, Settings};
use crate::kernel::programs::ProgramHandle;
use crate::kernel::ring::{LONGEST_SLEEP, Reader, ReaderStats};
use crate::kernel::{kernel_log, preflight};
use crate::ledger::{Blindness, Ledger, Ours};
use crate::metrics::{self, OwnersFound, Snapshot};
use crate::publish::{Host, Insight, Publisher};
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
    Counts(#[source] io::Error),
    /// The kernel does not tell of our programs.
    #[error("cannot read the statistics of the programs: {0}")]
    Programs(#[source] io::Error),
    /// The ring buffer can't be read.
    #[error("cannot read the ring buffer: {0}")]
    Ring(#[source] io::Error),
}

/// The attached probes with everything needed to turn events into resets.
pub struct Tracer {
    ebpf: aya::Ebpf,
    reader: Reader,
    publisher: Publisher,
    attached: Vec<&'static str>,
    programs: Vec<ProgramHandle>,
    blindness: Blindness,
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
            max_ports: config.max_ports,
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
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        let pids_match = preflight::in_initial_pid_namespace();
        if !pids_match {
            info!("in a pid namespace: process ids are reported as unknown");
        }
        let reader = Reader::new(
            kernel.ring,
            kernel.control,
            kernel.doubts,
            config.details_per_second,
        )
        .map_err(DaemonError::Ring)?;
        let names = kernel.names;
        let host = Arc::new(Host {
            joiner: Joiner::new(name, kernel.layout.reason_names, kernel.hz, pids_match),
            resolver: Mutex::new(Resolver::new(
                cgroups(),
                Box::new(move |id| names.get(&id, 0).ok()),
                config.max_workloads,
            )),
            listeners: kernel.listeners,
        });
        give_memory_back();
        Ok((
            Self {
                ebpf: kernel.ebpf,
                reader,
                publisher: Publisher::new(host, hub, Insight::new(config.idle_ms, kernel.times)),
                attached: kernel.attached,
                programs: kernel.programs,
                blindness: if kernel.layout.send_reset_has_reason {
                    Blindness::None
                } else {
                    Blindness::NoSocket
                },
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
            let patience = self.publisher.patience().unwrap_or(LONGEST_SLEEP);
            {
                let mut deliver = |event| self.publisher.take(event);
                tokio::select! {
                    biased;
                    () = &mut shutdown => break,
                    round = self.reader.round(&mut deliver, patience) => round.map_err(DaemonError::Ring)?,
                }
            }
            self.publisher.publish(self.reader.read_at());
            after_round(self.reader.stats(), self.publisher.owners());
        }
        // Detaches: no event comes after this.
        drop(self.ebpf);
        let publisher = &mut self.publisher;
        self.reader.finish(&mut |event| publisher.take(event));
        publisher.publish(u64::MAX);
        after_round(self.reader.stats(), self.publisher.owners());
        Ok(())
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
    let (mut tracer, counters) = Tracer::attach(&config, log_kernel, hub.clone())?;
    let mut weighed = Weighed {
        counters,
        programs: std::mem::take(&mut tracer.programs),
    };
    let ledger = Ledger::start(tracer.blindness, || weighed.read().map(|(_, ours)| ours))?;

    let stats = Arc::new(Mutex::new(<(ReaderStats, OwnersFound)>::default()));
    let ready = Readiness::default();
    let serve = Arc::new(Serve {
        hub,
        ready: ready.clone(),
        scrape: scrape(
            weighed,
            ledger,
            Arc::clone(&stats),
            tracer.publisher.host(),
            &config,
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

/// The exact counts with what the ledger weighs.
struct Weighed {
    counters: Counters,
    programs: Vec<ProgramHandle>,
}

impl Weighed {
    fn read(&mut self) -> Result<(Counts, Ours), DaemonError> {
        let counts = self.counters.read().map_err(DaemonError::Counts)?;
        let mut ours = Ours {
            sent: counts.sent(),
            ..Ours::default()
        };
        for program in &self.programs {
            let missed = match program.probe {
                SEND_RESET => &mut ours.missed_sent,
                RECEIVE_RESET => &mut ours.missed_received,
                _ => continue,
            };
            *missed = program.stats().map_err(DaemonError::Programs)?.missed;
        }
        Ok((counts, ours))
    }
}

fn scrape(
    weighed: Weighed,
    ledger: Ledger,
    stats: Arc<Mutex<(ReaderStats, OwnersFound)>>,
    host: Arc<Host>,
    config: &Config,
    attached: Vec<&'static str>,
) -> Scrape {
    let ledger = Mutex::new((weighed, ledger));
    let max_series = config.max_series;
    let max_ports = usize::try_from(config.max_ports).unwrap_or(usize::MAX);
    Arc::new(move || {
        let (weighed, ledger) = &mut *lock(&ledger);
        let mut read = || weighed.read().map_err(|error| error.to_string());
        let (counts, ours) = read()?;
        let ledger = ledger.read(ours, || read().map(|(_, ours)| ours))?;
        let mut served = host
            .listeners
            .served()
            .map_err(|error| format!("cannot read the listeners: {error}"))?;
        // More have no label of their own.
        served.truncate(max_ports);
        let mut workloads = counts.workloads();
        workloads.extend(served.iter().map(|served| served.workload));
        let workloads = host.labels(workloads);
        let (reader, owners) = *lock(&stats);
        let snapshot = Snapshot {
            counts,
            reader,
            owners,
            max_series,
            hz: host.joiner.hz(),
            attached: attached.clone(),
            workloads,
            served,
            ledger: ledger.clone(),
        };
        metrics::render(&snapshot, |raw| host.joiner.known_reason(raw))
            .map_err(|error| error.to_string())
    })
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
