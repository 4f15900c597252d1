//! What was told, kept on disk for `rst history` and `sqlite3`.
//!
//! A thread of its own writes it, so that no disk holds the reader of events up.
//! What it can't keep up with, or can't write, is counted and gone: the counts of
//! resets never depend on it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use crate::config::Config;
use crate::incident::Incident;
use crate::reset::Told;

pub mod database;
mod digest;
pub mod incidents;
pub mod query;
mod schema;

use database::{Database, Item, StoreError};

/// What may wait to be written: four seconds of the most that is described one by
/// one at the defaults, about 16 MB where the disk stands still.
const QUEUE: usize = 8192;

/// Most that is written in one transaction.
const BATCH: usize = 4096;

/// How long more is waited for, to be written in the same transaction.
const GATHER: Duration = Duration::from_millis(100);

/// How often age is looked at where nothing comes.
const TIDY: Duration = Duration::from_secs(10);

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);

/// How long the daemon waits for the rest to be written when it stops.
const LAST: Duration = Duration::from_secs(1);

/// Why something is not in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// More came than the disk takes.
    QueueFull,
    /// No room on the disk.
    DiskFull,
    /// Another program reads or locks the store for too long.
    Locked,
    /// There is no store that can be written.
    Unavailable,
}

impl Why {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::QueueFull,
        Self::DiskFull,
        Self::Locked,
        Self::Unavailable,
    ];

    /// Label of `rst_store_dropped_total`.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::DiskFull => "disk_full",
            Self::Locked => "locked",
            Self::Unavailable => "unavailable",
        }
    }

    fn of(error: &StoreError) -> Self {
        match error {
            StoreError::Full => Self::DiskFull,
            StoreError::Reader | StoreError::Locked => Self::Locked,
            StoreError::Make { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::DiskFull
            }
            StoreError::Make { .. }
            | StoreError::Newer { .. }
            | StoreError::Older { .. }
            | StoreError::Foreign
            | StoreError::NoWal
            | StoreError::Damaged(_)
            | StoreError::Removed
            | StoreError::Sqlite(_)
            | StoreError::Json(_) => Self::Unavailable,
        }
    }
}

/// How the store stands, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether it takes what comes.
    pub up: bool,
    /// Rows written.
    pub written: u64,
    /// Rows deleted because they were too old or too many.
    pub deleted: u64,
    /// What was not written, by [`Why`].
    pub dropped: [u64; Why::ALL.len()],
    /// Bytes that it takes on disk.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    up: AtomicBool,
    written: AtomicU64,
    deleted: AtomicU64,
    dropped: [AtomicU64; Why::ALL.len()],
    bytes: AtomicU64,
}

impl Shared {
    fn missed(&self, why: Why, items: usize) {
        self.dropped[why as usize].fetch_add(items as u64, Ordering::Relaxed);
    }
}

/// The way into the store. It ends when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct Queue {
    sender: SyncSender<Item>,
    shared: Arc<Shared>,
}

impl Queue {
    /// Keeps what a watcher is told. Never waits.
    pub fn keep(&self, told: Told) {
        self.offer(Item::Told(told));
    }

    /// Keeps an incident, or what has become of one.
    pub fn keep_incident(&self, incident: Incident) {
        self.offer(Item::Incident(Box::new(incident)));
    }

    fn offer(&self, item: Item) {
        if self.sender.try_send(item).is_err() {
            self.shared.missed(Why::QueueFull, 1);
        }
    }
}

/// How a store stands; goes on after its queue.
#[derive(Clone, Debug)]
pub struct Gauge(Arc<Shared>);

impl Gauge {
    /// How it stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        let shared = &self.0;
        Status {
            up: shared.up.load(Ordering::Relaxed),
            written: read(&shared.written),
            deleted: read(&shared.deleted),
            dropped: shared.dropped.each_ref().map(read),
            bytes: read(&shared.bytes),
        }
    }
}

/// A store that is being written, where one is configured.
#[derive(Debug)]
pub struct Store {
    /// The way in.
    pub queue: Option<Queue>,
    /// How it stands.
    pub gauge: Option<Gauge>,
    /// Resolves at its end.
    pub end: End,
}

/// The end of a store.
#[derive(Debug)]
pub struct End(oneshot::Receiver<()>);

impl End {
    /// Waits for the rest to be written, once no queue is left; a moment at most.
    pub async fn wait(self) {
        // Where there is no store, or its thread has panicked and said so, it ends at once.
        if tokio::time::timeout(LAST, self.0).await.is_err() {
            warn!("the store is slow: not everything was written");
        }
    }
}

/// Starts to write the store that is configured; its bounds follow the settings.
pub fn start(settings: watch::Receiver<Config>) -> io::Result<Store> {
    let config = settings.borrow().clone();
    let (ended, end) = oneshot::channel();
    if config.store_max_mb == 0 {
        return Ok(Store {
            queue: None,
            gauge: None,
            end: End(end),
        });
    }
    let (sender, receiver) = mpsc::sync_channel(QUEUE);
    let shared = Arc::<Shared>::default();
    let writer = Writer {
        dir: config.data_dir,
        settings,
        shared: Arc::clone(&shared),
        database: None,
        trouble: None,
    };
    thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || {
            writer.run(&receiver);
            // Nobody waits where the daemon has failed.
            let _ = ended.send(());
        })?;
    Ok(Store {
        queue: Some(Queue {
            sender,
            shared: Arc::clone(&shared),
        }),
        gauge: Some(Gauge(shared)),
        end: End(end),
    })
}

/// The thread.
struct Writer {
    dir: PathBuf,
    settings: watch::Receiver<Config>,
    shared: Arc<Shared>,
    /// `None` where it has to be opened.
    database: Option<Database>,
    /// What is wrong since the last success.
    trouble: Option<Trouble>,
}

/// Why nothing is written at the moment.
struct Trouble {
    why: Why,
    /// What was logged.
    message: String,
    /// When to try again.
    retry: Instant,
    /// What was not written since.
    dropped: usize,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Item>) {
        let mut batch = Vec::new();
        self.keep(&batch);
        loop {
            match queue.recv_timeout(TIDY) {
                Ok(item) => {
                    batch.push(item);
                    thread::sleep(GATHER);
                    batch.extend(queue.try_iter().take(BATCH - 1));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.keep(&batch);
            batch.clear();
            batch.shrink_to(BATCH / 16);
        }
    }

    /// Writes it, or says why not and counts it.
    fn keep(&mut self, batch: &[Item]) {
        if let Some(trouble) = &mut self.trouble
            && Instant::now() < trouble.retry
        {
            trouble.dropped += batch.len();
            self.shared.missed(trouble.why, batch.len());
            return;
        }
        match self.write(batch) {
            Ok(()) => {
                if let Some(trouble) = self.trouble.take() {
                    info!(
                        "the store is written again: {} resets are missing in it",
                        trouble.dropped
                    );
                }
            }
            Err(error) => self.fail(&error, batch.len()),
        }
    }

    fn write(&mut self, batch: &[Item]) -> Result<(), StoreError> {
        let bounds = self.settings.borrow().bounds();
        let database = match &mut self.database {
            Some(database) => database,
            None => self.database.insert(Database::open(&self.dir, bounds)?),
        };
        database.limit(bounds);
        let done = database.write(batch, Timestamp::now())?;
        let shared = &self.shared;
        shared.up.store(true, Ordering::Relaxed);
        shared.written.fetch_add(done.written, Ordering::Relaxed);
        shared.deleted.fetch_add(done.deleted, Ordering::Relaxed);
        shared.bytes.store(database.bytes(), Ordering::Relaxed);
        Ok(())
    }

    fn fail(&mut self, error: &StoreError, dropped: usize) {
        let why = Why::of(error);
        // A lock or a full disk passes; anything else needs a new beginning.
        if why == Why::Unavailable {
            self.database = None;
        }
        let damaged = matches!(error, StoreError::Damaged(_));
        let message = if damaged {
            self.set_aside(error)
        } else {
            format!(
                "{}: {error}; resets are counted and told, but not stored",
                self.dir.join(database::FILE).display()
            )
        };
        let before = self.trouble.take();
        if before.as_ref().map(|trouble| &trouble.message) != Some(&message) {
            error!("{message}");
        }
        self.shared.up.store(false, Ordering::Relaxed);
        self.shared.missed(why, dropped);
        self.trouble = Some(Trouble {
            why,
            message,
            retry: Instant::now() + RETRY,
            dropped: before.map_or(0, |trouble| trouble.dropped) + dropped,
        });
    }

    /// Makes room for a new store; what to say.
    fn set_aside(&mut self, damage: &StoreError) -> String {
        let path = self.dir.join(database::FILE);
        match database::set_aside(&self.dir) {
            Ok(aside) => format!(
                "{}: {damage}; it is now {} (`sqlite3 FILE .recover` may read it), and a new one is begun",
                path.display(),
                aside.display()
            ),
            Err(error) => format!(
                "{}: {damage}; and it can't be set aside ({error}): move it away; resets are counted and told, but not stored",
                path.display()
            ),
        }
    }
}

#[cfg(test)]
mod tests;
