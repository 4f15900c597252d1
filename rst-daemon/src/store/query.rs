//! Reading the store, also while a daemon writes to it.
//!
//! No read lasts longer than it takes to fetch one batch, or to pass over the digests: as
//! long as it does, the WAL can't be emptied. A search holds 16 bytes for each reset that it
//! is to show.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, params_from_iter};
use thiserror::Error;

use super::database::{FILE, StoreError, nanoseconds, wal};
use super::{digest, schema};
use crate::filter::{Filter, RestartFilter};
use crate::reset::Told;
use crate::text;

/// How long a lock is waited for; the daemon holds one for a moment when it starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rows fetched at a time.
const BATCH: usize = 1000;

/// What happens within this time, nanoseconds, is shown in the order in which it was
/// told: the other end of a connection after the one that lost more.
const TOLD_TOGETHER: i64 = 100_000_000;

/// Why the store can't be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// There is none.
    #[error(
        "there is no store at {}; the daemon makes one unless store_max_mb is 0, and --data-dir names its directory",
        .0.display()
    )]
    None(PathBuf),
    /// It may not be read.
    #[error("permission denied on {}; run as root or as a member of the file's group", .0.display())]
    Denied(PathBuf),
    /// Any other fault of the file.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: io::Error,
    },
    /// What is in it.
    #[error("cannot read {}: {source}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// The fault.
        source: StoreError,
    },
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Which.
    pub filter: Filter,
    /// From this moment on.
    pub since: Timestamp,
    /// Until just before this one.
    pub until: Timestamp,
}

impl Query {
    /// Whether not all resets of the time are asked for.
    fn restricts_resets(&self) -> bool {
        self.filter != Filter::default()
    }
}

/// One row.
#[derive(Clone, Debug)]
pub struct Found {
    time_ns: i64,
    id: i64,
    /// What a watcher was told, or why it can't be read.
    pub told: Result<Told, String>,
}

impl Found {
    fn moment(&self) -> i64 {
        moment(self.time_ns)
    }
}

fn moment(time_ns: i64) -> i64 {
    time_ns.div_euclid(TOLD_TOGETHER)
}

/// An open store that can be read.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens the store in a directory.
    pub fn open(dir: &Path) -> Result<Self, ReadError> {
        let path = dir.join(FILE);
        // SQLite would not say why.
        if let Err(source) = File::open(&path) {
            let kind = source.kind();
            return Err(if kind == io::ErrorKind::NotFound {
                ReadError::None(path)
            } else if kind == io::ErrorKind::PermissionDenied {
                ReadError::Denied(path)
            } else {
                ReadError::Open { path, source }
            });
        }
        let reader = |connection| Self {
            connection,
            path: path.clone(),
        };
        let open = |immutable| open(&path, immutable).map(reader);
        let opened = match open(false) {
            // Whoever may not write beside the file needs a daemon that has done so.
            // Where none runs nobody changes the file.
            Err(StoreError::Sqlite(error))
                if error.sqlite_error_code() == Some(rusqlite::ErrorCode::CannotOpen)
                    && !wal(&path).exists() =>
            {
                open(true)
            }
            result => result,
        };
        opened.map_err(|source| ReadError::Content { path, source })
    }

    /// The newest `limit` that are asked for, the oldest of them first.
    pub fn newest(&self, query: &Query, limit: u32) -> Result<Vec<Found>, ReadError> {
        let newest = |kind| self.fetch(query, kind, Order::Falling(limit));
        let restarts = newest(Kind::Restarts)?;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let mut found = if query.restricts_resets() {
            let mut candidates = self.search(query)?;
            candidates.sort_unstable();
            let newest = candidates.into_iter().rev();
            newest
                .filter_map(|row| self.wanted(query, row).transpose())
                .take(limit)
                .collect::<Result<Vec<_>, _>>()?
        } else {
            newest(Kind::Resets)?
        };
        found.sort_by_key(|row| (row.moment(), row.id));
        found.extend(restarts);
        // Stable: a restart comes after the resets of its moment.
        found.sort_by_key(Found::moment);
        Ok(found.split_off(found.len().saturating_sub(limit)))
    }

    /// All that are asked for, the oldest first.
    pub fn all<'a>(
        &'a self,
        query: &'a Query,
    ) -> Result<impl Iterator<Item = Result<Found, ReadError>> + 'a, ReadError> {
        let mut resets = Ahead::new(self, query, Kind::Resets)?;
        let mut restarts = Ahead::new(self, query, Kind::Restarts)?;
        Ok(std::iter::from_fn(move || {
            let next = resets.peek().and_then(|reset| {
                let restart = restarts.peek()?;
                Ok(match (reset, restart) {
                    (None, _) => restarts.take(),
                    (Some(reset), Some(restart)) if restart < reset => restarts.take(),
                    (Some(_), _) => resets.take(),
                })
            });
            next.transpose()
        }))
    }

    /// Time and id of the resets that may be wanted.
    fn search(&self, query: &Query) -> Result<Vec<(i64, i64)>, ReadError> {
        let [since, until] = [query.since, query.until].map(nanoseconds);
        digest::search(&self.connection, &query.filter, since, until)
            .map_err(|error| self.fault(error))
    }

    /// The reset of that time and row, if it is wanted. It may have been deleted since it
    /// was found.
    fn wanted(&self, query: &Query, (time_ns, id): (i64, i64)) -> Result<Option<Found>, ReadError> {
        let json = || {
            self.connection
                .prepare_cached("SELECT json FROM resets WHERE id = ? AND time_ns = ?")?
                .query_row([id, time_ns], |row| row.get::<_, String>(0))
                .optional()
        };
        let json = json().map_err(|error| self.fault(error))?;
        let found = json.map(|json| Found {
            time_ns,
            id,
            told: Kind::Resets.read(&json),
        });
        let is_wanted = |told: &Told| query.filter.wants(told);
        Ok(found.filter(|found| found.told.as_ref().map_or(true, is_wanted)))
    }

    fn fault(&self, error: rusqlite::Error) -> ReadError {
        ReadError::Content {
            path: self.path.clone(),
            source: error.into(),
        }
    }

    /// Some of the rows that are asked for, the oldest first; all of the resets in the
    /// time, whatever the filter.
    fn fetch(&self, query: &Query, kind: Kind, order: Order) -> Result<Vec<Found>, ReadError> {
        let Some((conditions, mut values)) = conditions(query, kind) else {
            return Ok(Vec::new());
        };
        let (more, limit) = match order {
            Order::Falling(limit) => (
                "ORDER BY time_ns DESC, id DESC LIMIT ?",
                Value::Integer(limit.into()),
            ),
            Order::Rising((time_ns, id)) => {
                values.extend([Value::Integer(time_ns), Value::Integer(id)]);
                (
                    "AND (time_ns, id) > (?, ?) ORDER BY time_ns, id LIMIT ?",
                    Value::Integer(i64::try_from(BATCH).unwrap_or(i64::MAX)),
                )
            }
        };
        values.push(limit);
        let table = kind.table();
        let sql = format!("SELECT time_ns, id, json FROM {table} WHERE {conditions} {more}");
        let rows = || -> rusqlite::Result<_> {
            let mut statement = self.connection.prepare_cached(&sql)?;
            let rows = statement.query_map(params_from_iter(values), |row| {
                Ok(Found {
                    time_ns: row.get(0)?,
                    id: row.get(1)?,
                    told: kind.read(&row.get::<_, String>(2)?),
                })
            })?;
            let mut rows = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            if matches!(order, Order::Falling(_)) {
                rows.reverse();
            }
            Ok(rows)
        };
        rows().map_err(|error| self.fault(error))
    }
}

/// `immutable`: nobody writes to it, and so nothing need be made beside it.
fn open(path: &Path, immutable: bool) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = if immutable {
        let uri = format!("file:{}?immutable=1", uri_path(path));
        Connection::open_with_flags(uri, flags | OpenFlags::SQLITE_OPEN_URI)?
    } else {
        Connection::open_with_flags(path, flags)?
    };
    connection.busy_timeout(PATIENCE)?;
    schema::check(&connection)?;
    Ok(connection)
}

/// The characters that mean something in a URI, encoded
/// (<https://sqlite.org/uri.html>).
fn uri_path(path: &Path) -> String {
    let path = path.to_string_lossy();
    path.replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23")
}

/// A table of what watchers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Resets,
    Restarts,
}

impl Kind {
    /// The table, and the index that has its rows in the order of their time.
    fn table(self) -> &'static str {
        match self {
            Self::Resets => "resets INDEXED BY resets_by_time",
            Self::Restarts => "restarts INDEXED BY restarts_by_time",
        }
    }

    fn read(self, json: &str) -> Result<Told, String> {
        let told = match self {
            Self::Resets => serde_json::from_str(json).map(|reset| Told::Reset(Arc::new(reset))),
            Self::Restarts => {
                serde_json::from_str(json).map(|restarted| Told::Restarted(Arc::new(restarted)))
            }
        };
        told.map_err(|error| error.to_string())
    }
}

/// Which end of what is asked for comes first, and how much of it.
#[derive(Clone, Copy, Debug)]
enum Order {
    /// So many of the newest, the newest first.
    Falling(u32),
    /// A batch of what comes after this time and id.
    Rising((i64, i64)),
}

/// The conditions in SQL, with the values of their parameters; `None` where no row
/// can meet them.
fn conditions(query: &Query, kind: Kind) -> Option<(String, Vec<Value>)> {
    let mut sql = String::from("time_ns >= ? AND time_ns < ?");
    let mut values = [query.since, query.until]
        .map(|time| Value::Integer(nanoseconds(time)))
        .to_vec();
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            sql.push_str(condition);
            values.push(value);
        }
    };
    if kind == Kind::Restarts {
        let RestartFilter {
            workload,
            port,
            netns,
        } = query.filter.of_restarts()?;
        let name = workload.map(|name| Value::Text(text::safe(name)));
        add(
            " AND port = ?",
            port.map(|port| Value::Integer(port.into())),
        );
        add(" AND workload = ?", name);
        add(
            " AND netns = ?",
            netns.map(|netns| Value::Integer(netns.into())),
        );
    }
    Some((sql, values))
}

/// One table from the oldest row on, fetched ahead.
struct Ahead<'a> {
    reader: &'a Reader,
    query: &'a Query,
    kind: Kind,
    fetched: VecDeque<Found>,
    rest: Rest,
}

/// What is not fetched yet.
enum Rest {
    /// All that is asked for after this time and id.
    After((i64, i64)),
    /// Those of these that are wanted, by time and id.
    Listed(std::vec::IntoIter<(i64, i64)>),
}

impl<'a> Ahead<'a> {
    fn new(reader: &'a Reader, query: &'a Query, kind: Kind) -> Result<Self, ReadError> {
        let rest = if kind == Kind::Resets && query.restricts_resets() {
            let mut rows = reader.search(query)?;
            rows.sort_unstable_by_key(|(time_ns, id)| (moment(*time_ns), *id));
            Rest::Listed(rows.into_iter())
        } else {
            Rest::After((i64::MIN, i64::MIN))
        };
        Ok(Self {
            reader,
            query,
            kind,
            fetched: VecDeque::new(),
            rest,
        })
    }

    /// Moment of the next row.
    fn peek(&mut self) -> Result<Option<i64>, ReadError> {
        if self.fetched.is_empty() {
            self.fetch()?;
        }
        Ok(self.fetched.front().map(Found::moment))
    }

    fn fetch(&mut self) -> Result<(), ReadError> {
        match &mut self.rest {
            Rest::After(from) => {
                let order = Order::Rising(*from);
                let mut batch = self.reader.fetch(self.query, self.kind, order)?;
                let last = batch.last().map(|row| (row.time_ns, row.id));
                self.rest = match last.filter(|_| batch.len() == BATCH) {
                    Some(last) => Rest::After(last),
                    None => Rest::Listed(Vec::new().into_iter()),
                };
                batch.sort_by_key(|row| (row.moment(), row.id));
                self.fetched = batch.into();
            }
            Rest::Listed(rows) => {
                let (reader, query) = (self.reader, self.query);
                let next = rows.find_map(|row| reader.wanted(query, row).transpose());
                self.fetched.extend(next.transpose()?);
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Option<Found> {
        self.fetched.pop_front()
    }
}

#[cfg(test)]
mod tests;
