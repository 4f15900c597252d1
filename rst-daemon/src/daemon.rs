//! The service: bind, attach, read, serve, stop. The order matters: what a user
//! can get wrong is found before anything is attached.

use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

use crate::config::Config;
use crate::cost::{self, ProbeCost};
use crate::governor::{Limits, Shed};
use crate::hub::Hub;
use crate::incidents::{self, Book};
use crate::kernel::counters::{Counters, Counts, Tally};
use crate::kernel::load::LoadError;
use crate::kernel::preflight;
use crate::kernel::probes::{RECEIVE_RESET, SEND_RESET, SEND_RESET_FUNCTIONS};
use crate::kernel::programs::ProgramHandle;
use crate::ledger::{Ledger, Ours};
use crate::manager::Manager;
use crate::metrics::{self, Snapshot};
use crate::publish::Host;
use crate::reload::{Reading, Source};
use crate::serve::{
    self, BindError, Gate, GateError, Paced, Readiness, Scrape, Serve, ServerThread, StatusOf,
};
use crate::status::Report;
use crate::store::{self, Gauge, Store};

mod signals;
mod tracer;

pub use tracer::{Command, Status, Tracer};

use signals::{Signals, Subject};

/// Why the daemon can't run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// An address or a socket can't be had.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// TLS or passwords for the listener can't be had.
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The server's thread can't be started.
    #[error("cannot start the thread of the HTTP server: {0}")]
    Server(#[source] io::Error),
    /// The probes can't be attached.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The counts can't be read.
    #[error("cannot read the counts: {0}")]
    Counts(#[source] io::Error),
    /// The kernel does not tell of our programs.
    #[error("cannot read the statistics of the programs: {0}")]
    Programs(#[source] io::Error),
    /// SIGUSR1 or SIGHUP can't be handled.
    #[error("cannot handle signals: {0}")]
    Signal(#[source] io::Error),
    /// systemd can't be told.
    #[error(
        "cannot reach the service manager at $NOTIFY_SOCKET: {0}; unset it, or let rst reach it"
    )]
    Manager(#[source] io::Error),
    /// The thread of the store can't be started.
    #[error("cannot start to write the store: {0}")]
    Store(#[source] io::Error),
    /// The ring buffer can't be read.
    #[error("cannot read the ring buffer: {0}")]
    Ring(#[source] io::Error),
}

/// Commands that wait for the tracer.
const COMMANDS: usize = 8;

/// What the scrape shows of the daemon itself.
#[derive(Clone, Debug)]
struct Inside {
    status: Status,
    probes: Vec<ProbeCost>,
    shed: Shed,
    settings: Reading,
}

/// Runs the service until `shutdown` resolves. At SIGHUP it reads its settings again.
pub async fn run(
    config: Config,
    source: Source,
    log_kernel: bool,
    hub: Hub,
    shutdown: impl Future<Output = ()>,
) -> Result<(), DaemonError> {
    let manager = Arc::new(Manager::find().map_err(DaemonError::Manager)?);
    let signals = Signals::handle()?;
    let gate = config.gate()?;
    let server = ServerThread::start().map_err(DaemonError::Server)?;
    let (socket, listener) = server.bind(&config.socket, config.listen).await?;
    let (mut tracer, counters) = Tracer::attach(&config, log_kernel, hub.clone())?;
    tracer.introduce();
    let mut watchdog = tracer.watched_by(&manager);
    let settings = watch::Sender::new(config.clone());
    let Store { queue, gauge, end } =
        store::start(settings.subscribe()).map_err(DaemonError::Store)?;
    tracer.publisher.keep_in(queue.clone());
    let programs: Arc<[ProgramHandle]> = tracer.programs()?.into();
    let mut weighed = Weighed {
        counters,
        programs: Arc::clone(&programs),
    };
    let ledger = tracer.ledger(&mut weighed)?;
    let weighed = Arc::new(Mutex::new(weighed));
    let host = tracer.publisher.host();
    let book = Arc::new(Mutex::new(Book::new(host.joiner.host().to_owned())));

    let inside = Arc::new(Mutex::new(Inside {
        status: tracer.status(),
        probes: Vec::new(),
        shed: Shed::Nothing,
        settings: Reading::success(),
    }));
    let (commands, commanded) = mpsc::channel(COMMANDS);
    let ready = Readiness::default();
    let serve = Arc::new(Serve {
        hub,
        ready: ready.clone(),
        scrape: Paced::new(scrape(
            Arc::clone(&weighed),
            ledger,
            Arc::clone(&inside),
            Arc::clone(&host),
            Arc::clone(&book),
            gauge,
            &config,
        )),
        incidents: {
            let book = Arc::clone(&book);
            Arc::new(move |since| incidents::run::api(&book, since))
        },
        status: status_of(Arc::clone(&inside)),
    });
    // The real port, where any was asked for.
    let address = listener.local_addr().unwrap_or(config.listen);
    let (stop, stopped) = watch::channel(false);
    let scheme = Gate::scheme(gate.as_deref());
    let tcp = server.spawn(serve::serve_tcp(
        listener,
        gate,
        Arc::clone(&serve),
        stopped.clone(),
    ));
    let unix = server.spawn(serve::serve_unix(socket, serve, stopped));
    // Ended with the daemon.
    let mut beside = JoinSet::new();
    beside.spawn(keep_cost(
        programs,
        now(settings.subscribe(), Config::limits),
        Arc::clone(&inside),
        commands.clone(),
    ));
    beside.spawn(incidents::run::watch(
        host,
        book,
        queue,
        now(settings.subscribe(), Config::spikes),
        move || lock(&weighed).tally(),
    ));
    beside.spawn(signals.obey(Subject {
        source,
        settings,
        commands,
        manager: Arc::clone(&manager),
        ready: ready.clone(),
        inside: Arc::clone(&inside),
    }));
    ready.set_ready();
    info!(
        "ready: metrics on {scheme}://{}/metrics, events on {}",
        address,
        config.socket.display()
    );
    manager.ready(signals::RUNNING);

    let result = tracer
        .run(shutdown, commanded, |status| {
            manager.feed_after(watchdog.as_mut(), status.read_at);
            lock(&inside).status = status;
        })
        .await;
    manager.stopping();
    drop(beside);
    // Nobody listens when both servers have ended by themselves; fine.
    let _ = stop.send(true);
    let _ = tokio::join!(tcp, unix, end.wait());
    info!("stopped: probes detached");
    result
}

/// What follows from the settings at the moment.
fn now<T>(settings: watch::Receiver<Config>, of: impl Fn(&Config) -> T) -> impl Fn() -> T {
    move || of(&settings.borrow())
}

/// Periods of the governor after which the table of listeners is tidied: a minute.
const TIDY_PERIODS: u32 = 12;

/// Keeps rst within its limits.
async fn keep_cost(
    programs: Arc<[ProgramHandle]>,
    limits: impl Fn() -> Limits,
    inside: Arc<Mutex<Inside>>,
    commands: mpsc::Sender<Command>,
) {
    let mut periods = 0;
    let tell = |probes: &[ProbeCost], change: Option<Shed>| {
        let mut inside = lock(&inside);
        inside.probes = probes.to_vec();
        periods += 1;
        // There is room: the tracer takes each at once, and three come in five seconds
        // at most.
        let _ = commands.try_send(Command::FollowModules);
        if periods % TIDY_PERIODS == 0 {
            // Likewise.
            let _ = commands.try_send(Command::Tidy);
        }
        if let Some(shed) = change {
            inside.shed = shed;
            // Likewise.
            let _ = commands.try_send(Command::Shed(shed));
        }
    };
    cost::watch(programs, limits, random, tell).await;
}

/// Any number from 0 to 1.
fn random() -> f64 {
    let mut byte = [0u8];
    // Without any, the windows lie at the start of their periods.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::empty());
    f64::from(byte[0]) / 255.0
}

/// The exact counts with what the ledger weighs.
struct Weighed {
    counters: Counters,
    programs: Arc<[ProgramHandle]>,
}

impl Weighed {
    fn tally(&mut self) -> Result<Tally, String> {
        let tally = self.counters.tally();
        tally.map_err(|error| format!("cannot read the counts: {error}"))
    }

    fn read(&mut self) -> Result<(Counts, Ours), DaemonError> {
        let counts = self.counters.read().map_err(DaemonError::Counts)?;
        let mut ours = Ours {
            sent: counts.sent(),
            ..Ours::default()
        };
        for program in self.programs.iter() {
            let missed = match program.probe {
                RECEIVE_RESET => &mut ours.missed_received,
                probe if probe == SEND_RESET || SEND_RESET_FUNCTIONS.contains(&probe) => {
                    &mut ours.missed_sent
                }
                _ => continue,
            };
            *missed += program.stats().map_err(DaemonError::Programs)?.missed;
        }
        Ok((counts, ours))
    }
}

fn scrape(
    weighed: Arc<Mutex<Weighed>>,
    ledger: Ledger,
    inside: Arc<Mutex<Inside>>,
    host: Arc<Host>,
    book: Arc<Mutex<Book>>,
    store: Option<Gauge>,
    config: &Config,
) -> Scrape {
    let ledger = Mutex::new(ledger);
    let max_series = config.max_series;
    let max_ports = usize::try_from(config.max_ports).unwrap_or(usize::MAX);
    Arc::new(move || {
        let (ledger, weighed) = (&mut *lock(&ledger), &mut *lock(&weighed));
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
        // Not held while they are written out: the reader of the ring buffer would wait.
        let Inside {
            status:
                Status {
                    reader,
                    owners,
                    attached,
                    verdicts: _,
                    read_at: _,
                },
            probes,
            shed,
            settings,
        } = lock(&inside).clone();
        let snapshot = Snapshot {
            counts,
            reader,
            owners,
            max_series,
            hz: host.joiner.hz(),
            attached,
            probes,
            shed,
            workloads,
            served,
            ledger: ledger.clone(),
            missed: ours.missed_sent + ours.missed_received,
            incidents: lock(&book).totals(),
            store: store.as_ref().map(Gauge::status),
            settings,
        };
        metrics::render(&snapshot, |raw| host.joiner.known_reason(raw))
            .map_err(|error| error.to_string())
    })
}

/// What the status tells.
fn status_of(inside: Arc<Mutex<Inside>>) -> StatusOf {
    let kernel = preflight::Host::read().release;
    Arc::new(move || {
        let status = &lock(&inside).status;
        Report {
            kernel: kernel.clone(),
            probes: Arc::clone(&status.verdicts),
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
