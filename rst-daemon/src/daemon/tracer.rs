//! The probes with what turns their events into resets: attached, read, told what to do.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{DaemonError, Weighed};
use crate::config::{Config, Tuning};
use crate::cost;
use crate::governor::Shed;
use crate::hub::Hub;
use crate::join::Joiner;
use crate::kernel::counters::Counters;
use crate::kernel::hooks::Hooks;
use crate::kernel::labels;
use crate::kernel::load::{self, LoadError, Settings};
use crate::kernel::pins::{Found, Pins};
use crate::kernel::probes::SEND_RESET_FUNCTIONS;
use crate::kernel::programs::ProgramHandle;
use crate::kernel::ring::{LONGEST_SLEEP, Reader, ReaderStats, monotonic_ns};
use crate::kernel::verdict::Judged;
use crate::kernel::{capabilities, kernel_log, preflight};
use crate::ledger::{Blindness, Ledger};
use crate::manager::{Manager, Watchdog};
use crate::metrics::OwnersFound;
use crate::publish::{Host, Insight, Publisher};
use crate::workload::cgroups::Cgroups;
use crate::workload::resolver::Resolver;

/// The attached probes with everything needed to turn events into resets.
pub struct Tracer {
    /// `None` once the probes are detached.
    ebpf: Option<aya::Ebpf>,
    hooks: Hooks,
    reader: Reader,
    pub(super) publisher: Publisher,
    details_per_second: u32,
    shed: Shed,
    longest_sleep: Duration,
    blindness: Blindness,
    /// What the kernel's tables take.
    memory: String,
    /// Nobody else counts there while this lives.
    pins: Option<Pins>,
}

/// What a tracer that runs may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Give this up.
    Shed(Shed),
    /// Go by these settings.
    Retune(Tuning),
    /// Forget who has long stopped listening.
    Tidy,
    /// Attach to functions of modules that have been loaded.
    FollowModules,
    /// Take all probes off, for good.
    Detach,
}

/// What a tracer tells of itself.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// What the reader met.
    pub reader: ReaderStats,
    /// How owners were found.
    pub owners: OwnersFound,
    /// Names of the probes that are attached.
    pub attached: Vec<&'static str>,
    /// What became of each probe when it was to be attached.
    pub verdicts: Arc<[Judged]>,
    /// When the ring was read last, `CLOCK_MONOTONIC`, nanoseconds.
    pub read_at: u64,
}

impl Tracer {
    /// Attaches the probes. Resets go to `hub`; the counts are returned apart.
    pub fn attach(
        config: &Config,
        log_kernel: bool,
        hub: Hub,
    ) -> Result<(Self, Counters), DaemonError> {
        let mut kernel = load::attach(Settings {
            log_kernel,
            ..Settings::of(config)
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
        let attached = kernel.hooks.names();
        let shows_all = kernel.layout.send_reset_shows_all
            || SEND_RESET_FUNCTIONS
                .iter()
                .all(|function| attached.contains(function));
        let blindness = if shows_all {
            Blindness::None
        } else {
            Blindness::NoSocket
        };
        let mut cgroups = cgroups();
        let path_of = move |id, now| cgroups.as_mut()?.resolve(id, now);
        let mut resolver = Resolver::new(Box::new(path_of), config.max_workloads);
        if kernel.pins.is_some() {
            let mut kept = kernel.labels;
            let labels = labels::read(&kept);
            let keep = move |id, label: Option<&str>| labels::keep(&mut kept, id, label);
            resolver = resolver.with_labels(labels, Box::new(keep));
        }
        let host = Arc::new(Host {
            joiner: Joiner::new(name, kernel.layout.reason_names, kernel.hz, pids_match),
            resolver: Mutex::new(resolver),
            listeners: kernel.listeners,
            recent: Mutex::default(),
        });
        // Tens of megabytes, which reading the kernel's BTF took.
        cost::give_memory_back();
        Ok((
            Self {
                ebpf: Some(kernel.ebpf),
                hooks: kernel.hooks,
                reader,
                publisher: Publisher::new(host, hub, Insight::new(config.idle_ms, kernel.times)),
                details_per_second: config.details_per_second,
                shed: Shed::Nothing,
                longest_sleep: LONGEST_SLEEP,
                memory: kernel.memory,
                blindness,
                pins: kernel.pins,
            },
            kernel.counters,
        ))
    }

    /// Begins to weigh its counts against the kernel's.
    pub(super) fn ledger(&self, weighed: &mut Weighed) -> Result<Ledger, DaemonError> {
        let found = self.pins.as_ref().map(|pins| &pins.found);
        let kept = found == Some(&Found::Counts);
        Ledger::start(self.blindness, kept, || {
            weighed.read().map(|(_, ours)| ours)
        })
    }

    /// Says what there is, and what is missing.
    pub(super) fn introduce(&self) {
        for missing in capabilities::Held::read().missing() {
            info!("without {}: {}", missing.name, missing.without);
        }
        info!(
            "the kernel's tables take {}; tracked_sockets, max_series, ring_bytes and closed_connections size them",
            self.memory
        );
    }

    /// Comes round often enough for the watchdog, where there is one.
    pub(super) fn watched_by(&mut self, manager: &Manager) -> Option<Watchdog> {
        let watchdog = Watchdog::new(manager.watchdog?);
        self.longest_sleep = LONGEST_SLEEP.min(watchdog.longest_sleep);
        Some(watchdog)
    }

    /// Handles of the programs.
    pub(super) fn programs(&mut self) -> Result<Vec<ProgramHandle>, LoadError> {
        match &mut self.ebpf {
            Some(ebpf) => self.hooks.programs(ebpf),
            None => Ok(Vec::new()),
        }
    }

    /// Reads events, and does as it is told, until `shutdown` resolves; then detaches
    /// the probes and delivers what is left. `after_round` sees how it stands.
    pub async fn run(
        mut self,
        shutdown: impl Future<Output = ()>,
        mut commands: mpsc::Receiver<Command>,
        mut after_round: impl FnMut(Status),
    ) -> Result<(), DaemonError> {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let patience = self.publisher.patience().unwrap_or(self.longest_sleep);
            let command = {
                let mut deliver = |event| self.publisher.take(event);
                tokio::select! {
                    biased;
                    () = &mut shutdown => break,
                    Some(command) = commands.recv() => Some(command),
                    round = self.reader.round(&mut deliver, patience) => {
                        round.map_err(DaemonError::Ring)?;
                        None
                    }
                }
            };
            if let Some(command) = command {
                self.obey(command);
            }
            self.publisher.publish(self.reader.read_at());
            after_round(self.status());
        }
        self.detach();
        // No event comes after this.
        let publisher = &mut self.publisher;
        self.reader.finish(&mut |event| publisher.take(event));
        publisher.publish(u64::MAX);
        after_round(self.status());
        Ok(())
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Shed(shed) => {
                self.shed = shed;
                self.reader.limit(shed.details(self.details_per_second));
                let keep = shed != Shed::OptionalProbes;
                if let Some(ebpf) = &mut self.ebpf
                    && let Err(error) = self.hooks.keep_optional(ebpf, keep)
                {
                    warn!("{error}");
                }
            }
            Command::Retune(tuning) => self.retune(&tuning),
            Command::Tidy => match self.publisher.host().listeners.tidy(monotonic_ns()) {
                Ok(true) => self.reader.forget_listeners(),
                Ok(false) => {}
                Err(error) => warn!("cannot read the listeners: {error}"),
            },
            Command::FollowModules => {
                if let Some(ebpf) = &mut self.ebpf {
                    self.hooks.follow_modules(ebpf);
                }
            }
            Command::Detach => {
                self.detach();
                warn!(
                    "all probes are detached, as SIGUSR1 asks: nothing is counted any more; restart rst to attach them"
                );
            }
        }
    }

    fn retune(&mut self, tuning: &Tuning) {
        let Tuning {
            details_per_second,
            idle_ms,
            multiplexed_ports,
        } = tuning;
        self.details_per_second = *details_per_second;
        self.reader.limit(self.shed.details(*details_per_second));
        self.reader.set_idle(self.publisher.set_idle(*idle_ms));
        if let Some(ebpf) = &mut self.ebpf
            && let Err(error) = load::set_multiplexed_ports(ebpf, multiplexed_ports)
        {
            warn!("multiplexed_ports can't be changed: {error}");
        }
    }

    fn detach(&mut self) {
        self.hooks.clear();
        self.ebpf = None;
    }

    pub(super) fn status(&self) -> Status {
        Status {
            reader: self.reader.stats(),
            owners: self.publisher.owners(),
            attached: self.hooks.names(),
            verdicts: self.hooks.verdicts(),
            read_at: self.reader.read_at(),
        }
    }
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
