//! What a search looks at of each reset before it reads the whole of it.
//!
//! A digest has what `rst history` filters by, in 60 bytes; those that were written together
//! lie in one row. So a search for what is rare passes over a million resets in the time that
//! reading 60 MB takes, whatever it asks for, and no index has to be kept for each filter.
//! Names stand in it as a hash: what matches may be wanted, and what does not is not.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use rusqlite::functions::FunctionFlags;
use rusqlite::{Connection, Transaction, params};
use sha1::{Digest as _, Sha1};

use crate::filter::Filter;
use crate::text;

/// Length of a digest, bytes. Part of the schema.
const SIZE: usize = 60;

/// Digests of a row: two such rows and no less fit a page.
const TOGETHER: usize = 64;

/// Name of the function that makes a digest in SQL.
const FUNCTION: &str = "digest_of";

/// A reset, as far as it is searched by. What is not known is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    /// Nanoseconds since 1970.
    pub(super) time_ns: i64,
    /// Its row.
    pub(super) id: i64,
    /// Address of the peer; that of IPv4 mapped.
    pub(super) peer: Ipv6Addr,
    /// Ports of this host and of the peer.
    pub(super) ports: [u16; 2],
    /// The process that owns it.
    pub(super) pid: u32,
    /// Inode of its network namespace.
    pub(super) netns: u32,
    /// [`Mark`]s of direction, cause, impact and workload.
    pub(super) marks: [Mark; 4],
}

/// What stands for a name: the first bytes of its SHA-1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark([u8; 4]);

impl Mark {
    pub(super) fn of(name: &str) -> Self {
        let hash = Sha1::digest(name);
        Self([hash[0], hash[1], hash[2], hash[3]])
    }
}

impl Digest {
    /// Puts it behind the others.
    fn put(&self, out: &mut Vec<u8>) {
        out.extend(self.time_ns.to_le_bytes());
        out.extend(self.id.to_le_bytes());
        out.extend(self.peer.octets());
        out.extend(self.ports.map(u16::to_le_bytes).as_flattened());
        out.extend(self.pid.to_le_bytes());
        out.extend(self.netns.to_le_bytes());
        out.extend(self.marks.map(|mark| mark.0).as_flattened());
    }

    /// Takes the first one off; `None` at the end.
    fn take(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self {
            time_ns: i64::from_le_bytes(cut(bytes)?),
            id: i64::from_le_bytes(cut(bytes)?),
            peer: cut::<16>(bytes)?.into(),
            ports: [
                u16::from_le_bytes(cut(bytes)?),
                u16::from_le_bytes(cut(bytes)?),
            ],
            pid: u32::from_le_bytes(cut(bytes)?),
            netns: u32::from_le_bytes(cut(bytes)?),
            marks: [
                Mark(cut(bytes)?),
                Mark(cut(bytes)?),
                Mark(cut(bytes)?),
                Mark(cut(bytes)?),
            ],
        })
    }
}

fn cut<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*head)
}

/// The address as a digest has it.
pub(super) fn address(ip: Option<IpAddr>) -> Ipv6Addr {
    match ip {
        None => Ipv6Addr::UNSPECIFIED,
        Some(IpAddr::V4(ip)) => ip.to_ipv6_mapped(),
        Some(IpAddr::V6(ip)) => ip,
    }
}

/// Which digests a search looks for.
#[derive(Debug)]
struct Wanted {
    since_ns: i64,
    until_ns: i64,
    peer: Option<IpNet>,
    port: Option<u16>,
    pid: Option<u32>,
    netns: Option<u32>,
    marks: [Option<Mark>; 4],
}

impl Wanted {
    fn new(filter: &Filter, since_ns: i64, until_ns: i64) -> Self {
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
        Self {
            since_ns,
            until_ns,
            peer: *peer,
            port: *port,
            pid: *pid,
            netns: *netns,
            marks: [
                direction.map(|it| Mark::of(it.label())),
                cause.map(|it| Mark::of(it.label())),
                impact.map(|it| Mark::of(it.label())),
                workload.as_ref().map(|name| Mark::of(&text::safe(name))),
            ],
        }
    }

    /// Whether the reset may be wanted.
    fn may_be(&self, digest: &Digest) -> bool {
        (self.since_ns..self.until_ns).contains(&digest.time_ns)
            && self
                .marks
                .iter()
                .zip(&digest.marks)
                .all(|(wanted, mark)| wanted.is_none_or(|it| it == *mark))
            && self.port.is_none_or(|port| digest.ports.contains(&port))
            && self.pid.is_none_or(|pid| digest.pid == pid)
            && self.netns.is_none_or(|netns| digest.netns == netns)
            && self
                .peer
                .is_none_or(|peer| peer.contains(&digest.peer.to_canonical()))
    }
}

/// Writes the digests of what a transaction has written.
pub(super) fn write(transaction: &Transaction<'_>, digests: &[Digest]) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO digests (last_id, first_ns, last_ns, resets) VALUES (?1, ?2, ?3, ?4)",
    )?;
    for row in digests.chunks(TOGETHER) {
        let mut bytes = Vec::with_capacity(row.len() * SIZE);
        for digest in row {
            digest.put(&mut bytes);
        }
        let times = || row.iter().map(|digest| digest.time_ns);
        statement.execute(params![
            row.iter().map(|digest| digest.id).max(),
            times().min(),
            times().max(),
            bytes,
        ])?;
    }
    Ok(())
}

/// Deletes the digests of which no reset is left, from the oldest on; how many rows.
pub(super) fn purge(transaction: &Transaction<'_>) -> rusqlite::Result<usize> {
    transaction
        .prepare_cached(
            "DELETE FROM digests WHERE id < coalesce(
                 (SELECT id FROM digests WHERE last_id >= (SELECT min(id) FROM resets)
                  ORDER BY id LIMIT 1),
                 9223372036854775807)",
        )?
        .execute([])
}

/// Time and id of the resets that may be wanted, in no order.
pub(super) fn search(
    connection: &Connection,
    filter: &Filter,
    since_ns: i64,
    until_ns: i64,
) -> rusqlite::Result<Vec<(i64, i64)>> {
    let wanted = Wanted::new(filter, since_ns, until_ns);
    // One after the other as they lie in the file. The index alone would have each row
    // looked up by itself.
    let mut statement = connection.prepare_cached(
        "SELECT resets FROM digests
         WHERE id >= (SELECT min(id) FROM digests WHERE last_ns >= ?1 AND first_ns < ?2)
           AND id <= (SELECT max(id) FROM digests WHERE last_ns >= ?1 AND first_ns < ?2)
           AND +last_ns >= ?1 AND +first_ns < ?2",
    )?;
    let mut rows = statement.query([since_ns, until_ns])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let mut bytes = row.get_ref(0)?.as_blob()?;
        while let Some(digest) = Digest::take(&mut bytes) {
            if wanted.may_be(&digest) {
                found.push((digest.time_ns, digest.id));
            }
        }
    }
    Ok(found)
}

/// Lets SQL make a digest of a row of `resets`, for the step of the schema that brings
/// them in.
pub(super) fn add_function(connection: &Connection) -> rusqlite::Result<()> {
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection.create_scalar_function(FUNCTION, 11, flags, |row| {
        let mark = |at| -> rusqlite::Result<Mark> {
            let name: Option<String> = row.get(at)?;
            Ok(name.as_deref().map_or_else(Mark::default, Mark::of))
        };
        let peer: Option<String> = row.get(2)?;
        let digest = Digest {
            time_ns: row.get(0)?,
            id: row.get(1)?,
            peer: address(peer.and_then(|peer| peer.parse().ok())),
            ports: [
                row.get::<Option<u16>>(3)?.unwrap_or(0),
                row.get::<Option<u16>>(4)?.unwrap_or(0),
            ],
            pid: row.get::<Option<u32>>(5)?.unwrap_or(0),
            netns: row.get::<Option<u32>>(6)?.unwrap_or(0),
            marks: [mark(7)?, mark(8)?, mark(9)?, mark(10)?],
        };
        let mut bytes = Vec::with_capacity(SIZE);
        digest.put(&mut bytes);
        Ok(bytes)
    })
}
