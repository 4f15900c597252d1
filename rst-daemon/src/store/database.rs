//! The file: opening it, writing to it, keeping it within its bounds.
//!
//! SQLite in WAL mode with `synchronous = NORMAL` (<https://sqlite.org/wal.html>):
//! after a crash of rst nothing that was written is missing; after a loss of power
//! the last seconds may be, and what is there is whole.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rst_common::cause::{Cause, Role};
use rusqlite::{Connection, ErrorCode, Transaction, TransactionBehavior, params};
use thiserror::Error;

use super::digest::{self, Digest, Mark};
use super::{incidents, schema};
use crate::incident::Incident;
use crate::reset::{Reset, Restarted, Told};
use crate::text;

/// Name of the file in its directory.
pub const FILE: &str = "rst.db";

/// What is added to the name of one that is damaged.
const DAMAGED: &str = "-damaged";

/// Page size of a new file, bytes: a reset takes 1.5 KB, and few pages should have
/// to leave room unused at their end.
const PAGE: u64 = 8192;

/// Length of the WAL at which it is copied to the file, bytes: at 2,000 resets a
/// second every four seconds.
const CHECKPOINT: u64 = 16 << 20;

/// Most that the WAL may grow to while somebody reads, bytes.
const MAX_WAL: u64 = 64 << 20;

/// How long somebody else's lock is waited for.
pub(super) const BUSY: Duration = Duration::from_millis(250);

/// Share of the file that may be unused before some of it is given back: an eighth.
const UNUSED: u64 = 8;

/// Rows deleted at a time where nothing is to be written; else twice what comes.
const AT_LEISURE: usize = 5000;

/// Rows deleted for each page too many: about as many as it holds.
const A_PAGE: u64 = 8;

/// Pages given back at a time.
const GIVEN_BACK: u32 = 256;

/// Why there is no store, or it can't take more.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file or its directory can't be made.
    #[error("cannot make {}: {source}", path.display())]
    Make {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A later version of rst made it.
    #[error(
        "it was made by a newer rst (schema {found}, this one knows {known}): use that one, or move the file away"
    )]
    Newer {
        /// Its schema.
        found: usize,
        /// The newest known here.
        known: usize,
    },
    /// An earlier version of rst made it, and this one may only read.
    #[error(
        "it was made by an older rst (schema {found}, this one knows {known}): start the daemon of this version, which brings it up to date"
    )]
    Older {
        /// Its schema.
        found: usize,
        /// The newest known here.
        known: usize,
    },
    /// No store at all.
    #[error("it is a database of another program: move it away, or choose another data_dir")]
    Foreign,
    /// The file system can't share memory, as some network file systems can't.
    #[error("its file system has no shared memory: choose a data_dir on a local one")]
    NoWal,
    /// No room on the disk.
    #[error("the disk is full: make room, or lower store_max_mb")]
    Full,
    /// The WAL can't be emptied.
    #[error(
        "another program has been reading it for too long: see who with `fuser {FILE}`, and end it"
    )]
    Reader,
    /// Somebody else's transaction.
    #[error("another program holds it locked: see who with `fuser {FILE}`, and end it")]
    Locked,
    /// The content is wrong.
    #[error("it is damaged: {0}")]
    Damaged(#[source] rusqlite::Error),
    /// The file was removed or replaced.
    #[error("the file was removed")]
    Removed,
    /// Anything else.
    #[error(transparent)]
    Sqlite(rusqlite::Error),
    /// A reset that is no JSON.
    #[error("cannot write a reset as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Damaged(error),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            _ => Self::Sqlite(error),
        }
    }
}

/// How large and how old it may become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// All files together, bytes.
    pub bytes: u64,
    /// How long a reset is kept.
    pub age: Duration,
}

impl Bounds {
    /// Share of the WAL.
    fn wal(self) -> u64 {
        MAX_WAL.min(self.bytes / 4)
    }

    /// What is left for the file itself.
    fn file(self) -> u64 {
        self.bytes - self.wal()
    }
}

/// Something to keep.
#[derive(Clone, Debug)]
pub enum Item {
    /// What a watcher is told.
    Told(Told),
    /// An incident, new or changed.
    Incident(Box<Incident>),
}

/// What a transaction has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Rows written.
    pub written: u64,
    /// Rows deleted because they were too old or too many.
    pub deleted: u64,
}

/// An open store that can be written.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    path: PathBuf,
    inode: u64,
    bounds: Bounds,
}

impl Database {
    /// Opens the store in a directory; makes what is not there.
    pub fn open(dir: &Path, bounds: Bounds) -> Result<Self, StoreError> {
        let path = dir.join(FILE);
        let make = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Make { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(dir)
            .map_err(make(dir))?;
        // The mode of the WAL and the shared memory follows that of the file.
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o640)
            .open(&path)
            .map_err(make(&path))?;
        let inode = file.metadata().map_err(make(&path))?.ino();
        let mut connection = Connection::open(&path)?;
        connection.busy_timeout(BUSY)?;
        // Both have an effect on an empty file only.
        connection.pragma_update(None, "page_size", PAGE)?;
        connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(StoreError::NoWal);
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        // Kibibytes where it is negative.
        connection.pragma_update(None, "cache_size", -2048)?;
        let frames = CHECKPOINT.min(bounds.wal() / 4) / PAGE;
        connection.pragma_update(None, "wal_autocheckpoint", frames)?;
        connection.pragma_update(None, "journal_size_limit", bounds.wal() / 2)?;
        // What it sorts may be larger than memory.
        schema::migrate(&mut connection)?;
        // Nothing beside the file itself from now on.
        connection.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(Self {
            connection,
            path,
            inode,
            bounds,
        })
    }

    /// Keeps within other bounds from the next writing on.
    pub fn limit(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }

    /// Writes all of these or, where it fails, none; and makes room for them. `now`
    /// is what ages are told from.
    pub fn write(&mut self, items: &[Item], now: Timestamp) -> Result<Done, StoreError> {
        self.see_that_it_is_there()?;
        self.see_that_the_wal_is_short()?;
        let transaction = self
            .connection
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut digests = Vec::with_capacity(items.len());
        for item in items {
            match item {
                Item::Told(Told::Reset(reset)) => digests.push(insert_reset(&transaction, reset)?),
                Item::Told(Told::Restarted(restarted)) => insert_restart(&transaction, restarted)?,
                Item::Incident(incident) => {
                    incidents::put(&transaction, &incidents::Row::of(incident)?)?;
                }
            }
        }
        digest::write(&transaction, &digests)?;
        let room = if items.is_empty() {
            AT_LEISURE
        } else {
            2 * items.len() + 100
        };
        let deleted = purge(&transaction, self.bounds, now, room)?;
        transaction.commit()?;
        Ok(Done {
            written: items.len() as u64,
            deleted,
        })
    }

    /// Bytes that all files take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        length(&self.path) + length(&wal(&self.path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn see_that_it_is_there(&self) -> Result<(), StoreError> {
        let there = fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode);
        there.then_some(()).ok_or(StoreError::Removed)
    }

    fn see_that_the_wal_is_short(&self) -> Result<(), StoreError> {
        if length(&wal(&self.path)) <= self.bounds.wal() {
            return Ok(());
        }
        let busy: bool =
            self.connection
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy {
            Err(StoreError::Reader)
        } else {
            Ok(())
        }
    }
}

/// Puts the damaged store of a directory aside, in place of an earlier one; where it
/// is now. Nobody may have it open.
pub(super) fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let path = dir.join(FILE);
    let aside = append(&path, DAMAGED);
    fs::rename(&path, &aside)?;
    // SQLite takes a WAL by its name. Without one the file may still be of use.
    match fs::rename(wal(&path), wal(&aside)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => remove(&wal(&aside))?,
        result => result?,
    }
    remove(&append(&path, "-shm"))?;
    Ok(aside)
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn append(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The WAL of a database.
pub(super) fn wal(path: &Path) -> PathBuf {
    append(path, "-wal")
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Nanoseconds since 1970; the nearest there is where they don't fit (after 2262).
pub(super) fn nanoseconds(time: Timestamp) -> i64 {
    let ns = time.as_nanosecond();
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

fn insert_reset(transaction: &Transaction<'_>, reset: &Reset) -> Result<Digest, StoreError> {
    let json = text::json(reset)?;
    let server = reset.role == Role::Server.label();
    let client = reset.role == Role::Client.label();
    let (local, peer) = (reset.local, reset.remote);
    let service = if server {
        local
    } else {
        peer.filter(|_| client)
    };
    let data = reset.idle_rx_ms.into_iter().chain(reset.idle_tx_ms).min();
    let idle = if reset.cause == Cause::StaleReuse.label() {
        reset.idle_segment_ms
    } else {
        data
    };
    let ip = |ip: std::net::IpAddr| ip.to_canonical().to_string();
    let owner = reset.owner.as_ref();
    let pid = owner.and_then(|owner| owner.pid);
    let of = reset.workload.as_ref();
    let workload = of.map(|workload| text::safe(&workload.name));
    let time_ns = nanoseconds(reset.time);
    transaction
        .prepare_cached(
            "INSERT INTO resets (time_ns, direction, cause, impact, role, workload, port,
                 local_ip, local_port, peer_ip, peer_port, pid, comm, netns, state, reason,
                 idle_ms, age_ms, json)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
                 ?17, ?18, ?19)",
        )?
        .execute(params![
            time_ns,
            reset.direction,
            reset.cause,
            reset.impact,
            reset.role,
            workload,
            service.map(|end| end.port),
            local.map(|end| ip(end.ip)),
            local.map(|end| end.port),
            peer.map(|end| ip(end.ip)),
            peer.map(|end| end.port),
            pid,
            owner.map(|owner| text::safe(&owner.comm)),
            reset.netns,
            reset.state,
            reset.reason,
            idle.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
            reset.age_ms.map(|ms| i64::try_from(ms).unwrap_or(i64::MAX)),
            json,
        ])?;
    Ok(Digest {
        time_ns,
        id: transaction.last_insert_rowid(),
        peer: digest::address(peer.map(|end| end.ip)),
        ports: [local, peer].map(|end| end.map_or(0, |end| end.port)),
        pid: pid.unwrap_or(0),
        netns: reset.netns.unwrap_or(0),
        marks: [
            Mark::of(&reset.direction),
            Mark::of(&reset.cause),
            Mark::of(&reset.impact),
            workload.as_deref().map_or_else(Mark::default, Mark::of),
        ],
    })
}

fn insert_restart(transaction: &Transaction<'_>, over: &Restarted) -> Result<(), StoreError> {
    let json = text::json(over)?;
    let workload = over.restart.workload.as_ref();
    transaction
        .prepare_cached(
            "INSERT INTO restarts (time_ns, workload, port, netns, json)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![
            nanoseconds(over.time),
            workload.map(|workload| text::safe(&workload.name)),
            over.port,
            over.netns,
            json,
        ])?;
    Ok(())
}

/// Deletes at most `room` resets that are too old, or the oldest where the file is
/// full; how many rows went.
fn purge(
    transaction: &Transaction<'_>,
    bounds: Bounds,
    now: Timestamp,
    room: usize,
) -> Result<u64, StoreError> {
    let oldest = nanoseconds(now.saturating_sub(bounds.age).unwrap_or(Timestamp::MIN));
    let mut deleted = transaction
        .prepare_cached(
            "DELETE FROM resets WHERE id IN
                 (SELECT id FROM resets WHERE time_ns < ?1 ORDER BY time_ns LIMIT ?2)",
        )?
        .execute(params![oldest, room])?;
    deleted += transaction
        .prepare_cached("DELETE FROM restarts WHERE time_ns < ?1")?
        .execute([oldest])?;
    deleted += incidents::delete_closed(transaction, oldest)?;

    let [pages, free, size] = pages(transaction)?;
    let excess = (pages - free).saturating_sub(bounds.file() / size);
    if excess > 0 {
        let room = room.min(usize::try_from(A_PAGE * excess).unwrap_or(room));
        deleted += transaction
            .prepare_cached(
                "DELETE FROM resets WHERE id IN (SELECT id FROM resets ORDER BY id LIMIT ?1)",
            )?
            .execute([room])?;
        // What tells of them goes with them.
        deleted += transaction
            .prepare_cached(
                "DELETE FROM restarts WHERE time_ns < (SELECT min(time_ns) FROM resets)",
            )?
            .execute([])?;
    }
    digest::purge(transaction)?;
    if free > pages / UNUSED {
        // Each step gives one page back.
        let mut vacuum =
            transaction.prepare_cached(&format!("PRAGMA incremental_vacuum({GIVEN_BACK})"))?;
        let mut steps = vacuum.query([])?;
        while steps.next()?.is_some() {}
    }
    Ok(deleted as u64)
}

/// Pages of the file, those of them that are unused, and the size of one.
fn pages(connection: &Connection) -> Result<[u64; 3], StoreError> {
    let read = |name: &str| {
        connection
            .prepare_cached(&format!("PRAGMA {name}"))?
            .query_row([], |row| row.get::<_, u64>(0))
    };
    Ok([
        read("page_count")?,
        read("freelist_count")?,
        read("page_size")?,
    ])
}

#[cfg(test)]
mod tests;
