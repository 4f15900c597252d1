//! Reading the store, also while a daemon writes to it.
//!
//! No read lasts longer than it takes to fetch one batch: as long as it does, the
//! WAL can't be emptied.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags, params_from_iter};
use thiserror::Error;

use super::database::{FILE, StoreError, nanoseconds, wal};
use super::schema;
use crate::filter::Filter;
use crate::reset::Told;
use crate::text;

/// How long a lock is waited for; the daemon holds one for a moment when it starts.
const PATIENCE: Duration = Duration::from_secs(5);

/// Rows fetched at a time.
const BATCH: usize = 1000;

/// What happens within this time, nanoseconds, is shown in the order in which it was
/// told: the other end of a connection after the one that lost more.
const TOLD_TOGETHER: i64 = 100_000_000;

/// Name of the function that tells the peers wanted; SQL has no networks.
const IS_PEER: &str = "is_peer";

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
        self.time_ns.div_euclid(TOLD_TOGETHER)
    }
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
        let mut found = newest(Kind::Resets)?;
        found.sort_by_key(|row| (row.moment(), row.id));
        found.extend(newest(Kind::Restarts)?);
        // Stable: a restart comes after the resets of its moment.
        found.sort_by_key(Found::moment);
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(found.split_off(found.len().saturating_sub(limit)))
    }

    /// All that are asked for, the oldest first.
    pub fn all<'a>(
        &'a self,
        query: &'a Query,
    ) -> impl Iterator<Item = Result<Found, ReadError>> + 'a {
        let mut resets = Ahead::new(self, query, Kind::Resets);
        let mut restarts = Ahead::new(self, query, Kind::Restarts);
        std::iter::from_fn(move || {
            let next = resets.peek().and_then(|reset| {
                let restart = restarts.peek()?;
                Ok(match (reset, restart) {
                    (None, _) => restarts.take(),
                    (Some(reset), Some(restart)) if restart < reset => restarts.take(),
                    (Some(_), _) => resets.take(),
                })
            });
            next.transpose()
        })
    }

    /// Some of the rows that are asked for, the oldest first.
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
        let table = kind.table(&query.filter);
        let sql = format!("SELECT time_ns, id, json FROM {table} WHERE {conditions} {more}");
        let rows = || {
            if let Some(peer) = query.filter.peer {
                name_peers(&self.connection, peer)?;
            }
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
        rows().map_err(|error: rusqlite::Error| ReadError::Content {
            path: self.path.clone(),
            source: error.into(),
        })
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
    /// The table, and the index to search. SQLite would take the one that fits most
    /// conditions, and then look at each row it finds for the others: with a common
    /// cause that is slower than the index that has all columns.
    fn table(self, filter: &Filter) -> &'static str {
        let Filter {
            direction: None,
            cause,
            impact: None,
            workload,
            port: None,
            peer: None,
            pid: None,
            netns: None,
        } = filter
        else {
            return self.all();
        };
        match (self, cause, workload) {
            (Self::Resets, Some(_), None) => "resets INDEXED BY resets_by_cause",
            (Self::Resets, None, Some(_)) => "resets INDEXED BY resets_by_workload",
            (Self::Resets | Self::Restarts, _, _) => self.all(),
        }
    }

    fn all(self) -> &'static str {
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
    let Query {
        filter,
        since,
        until,
    } = query;
    let Filter {
        direction,
        cause,
        impact,
        workload,
        port,
        peer,
        pid,
        netns,
    } = filter;
    let mut sql = String::from("time_ns >= ? AND time_ns < ?");
    let mut values = [since, until]
        .map(|time| Value::Integer(nanoseconds(*time)))
        .to_vec();
    let mut add = |condition: &str, value: Option<Value>| {
        if let Some(value) = value {
            sql.push_str(" AND ");
            sql.push_str(condition);
            values.extend(std::iter::repeat_n(value, condition.matches('?').count()));
        }
    };
    let text = |label: &str| Value::Text(label.to_owned());
    match kind {
        Kind::Resets => {
            add("direction = ?", direction.map(|it| text(it.label())));
            add("cause = ?", cause.map(|it| text(it.label())));
            add("impact = ?", impact.map(|it| text(it.label())));
            let port = port.map(|port| Value::Integer(port.into()));
            add("(local_port = ? OR peer_port = ?)", port);
            add("pid = ?", pid.map(|pid| Value::Integer(pid.into())));
            add(&format!("{IS_PEER}(peer_ip) = ?"), peer.map(|_| 1.into()));
        }
        // As the filter of a watcher has it.
        Kind::Restarts => {
            let of_resets = (direction, cause, impact, peer, pid);
            let (None, None, None, None, None) = of_resets else {
                return None;
            };
            add("port = ?", port.map(|port| Value::Integer(port.into())));
        }
    }
    let name = workload.as_ref().map(|name| Value::Text(text::safe(name)));
    add("workload = ?", name);
    add("netns = ?", netns.map(|netns| Value::Integer(netns.into())));
    Some((sql, values))
}

/// Makes SQL know which peers are wanted.
fn name_peers(connection: &Connection, network: IpNet) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function(IS_PEER, 1, flags, move |context| {
        let ip = match context.get_raw(0) {
            ValueRef::Text(text) => str::from_utf8(text).ok(),
            ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) | ValueRef::Blob(_) => None,
        };
        let ip: Option<std::net::IpAddr> = ip.and_then(|ip| ip.parse().ok());
        Ok(ip.is_some_and(|ip| network.contains(&ip)))
    })
}

/// One table from the oldest row on, fetched ahead.
struct Ahead<'a> {
    reader: &'a Reader,
    query: &'a Query,
    kind: Kind,
    fetched: VecDeque<Found>,
    /// Where the next batch begins; `None` after the last.
    from: Option<(i64, i64)>,
}

impl<'a> Ahead<'a> {
    fn new(reader: &'a Reader, query: &'a Query, kind: Kind) -> Self {
        Self {
            reader,
            query,
            kind,
            fetched: VecDeque::new(),
            from: Some((i64::MIN, i64::MIN)),
        }
    }

    /// Moment of the next row.
    fn peek(&mut self) -> Result<Option<i64>, ReadError> {
        if self.fetched.is_empty()
            && let Some(from) = self.from
        {
            let order = Order::Rising(from);
            let mut batch = self.reader.fetch(self.query, self.kind, order)?;
            let last = batch.last().map(|row| (row.time_ns, row.id));
            self.from = last.filter(|_| batch.len() == BATCH);
            batch.sort_by_key(|row| (row.moment(), row.id));
            self.fetched = batch.into();
        }
        Ok(self.fetched.front().map(Found::moment))
    }

    fn take(&mut self) -> Option<Found> {
        self.fetched.pop_front()
    }
}

#[cfg(test)]
mod tests;
