//! The tables, and how a store that an older rst made becomes one of today.

use std::cmp::Ordering;

use rusqlite::Connection;

use super::database::StoreError;
use super::digest;

/// `PRAGMA application_id` of a store: "rst1" in ASCII, for `file(1)` and for us.
const APPLICATION_ID: i32 = 0x7273_7431;

/// What leads from each version of the schema to the next; never changed once
/// released, only added to. `PRAGMA user_version` says how many a file has had.
///
/// Ids grow in the order of writing, which is what makes room when the store is
/// full; times can jump with the host's clock.
///
/// The second step has one compact row for many resets ([`digest`]) instead of indexes
/// that hold every column that is filtered by: it is read faster, and written with less.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE resets (
        id INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        direction TEXT NOT NULL,
        cause TEXT NOT NULL,
        impact TEXT NOT NULL,
        role TEXT NOT NULL,
        workload TEXT,
        port INTEGER,
        local_ip TEXT,
        local_port INTEGER,
        peer_ip TEXT,
        peer_port INTEGER,
        pid INTEGER,
        comm TEXT,
        netns INTEGER,
        state TEXT,
        reason TEXT,
        idle_ms INTEGER,
        age_ms INTEGER,
        json TEXT NOT NULL
    ) STRICT;
    CREATE INDEX resets_by_time ON resets (
        time_ns, id, direction, cause, impact, local_port, peer_port, pid, netns, peer_ip, workload
    );
    CREATE INDEX resets_by_cause ON resets (cause, time_ns, id);
    CREATE INDEX resets_by_workload ON resets (workload, time_ns, id);
    CREATE TABLE restarts (
        id INTEGER PRIMARY KEY,
        time_ns INTEGER NOT NULL,
        workload TEXT,
        port INTEGER NOT NULL,
        netns INTEGER,
        json TEXT NOT NULL
    ) STRICT;
    CREATE INDEX restarts_by_time ON restarts (time_ns, id);
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY,
        opened_ns INTEGER NOT NULL,
        closed_ns INTEGER,
        workload TEXT NOT NULL,
        cause TEXT NOT NULL,
        json TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX incidents_by_time ON incidents (opened_ns);
",
    "
    CREATE TABLE digests (
        id INTEGER PRIMARY KEY,
        last_id INTEGER NOT NULL,
        first_ns INTEGER NOT NULL,
        last_ns INTEGER NOT NULL,
        resets BLOB NOT NULL CHECK (length(resets) % 60 = 0)
    ) STRICT;
    INSERT INTO digests (last_id, first_ns, last_ns, resets)
        SELECT id, time_ns, time_ns, digest_of(time_ns, id, peer_ip, local_port, peer_port,
            pid, netns, direction, cause, impact, workload)
        FROM resets INDEXED BY resets_by_time ORDER BY time_ns, id;
    CREATE INDEX digests_by_time ON digests (last_ns, first_ns);
    DROP INDEX resets_by_time;
    DROP INDEX resets_by_cause;
    DROP INDEX resets_by_workload;
    CREATE INDEX resets_by_time ON resets (time_ns, id);
",
];

/// Brings an open file to today's schema; one that is empty becomes a store.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), StoreError> {
    digest::add_function(connection)?;
    migrate_to(connection, MIGRATIONS)
}

/// Whether today's rst can read the file.
pub(super) fn check(connection: &Connection) -> Result<(), StoreError> {
    let found = version(connection)?;
    let known = MIGRATIONS.len();
    match found.cmp(&known) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(StoreError::Newer { found, known }),
        Ordering::Less => Err(StoreError::Older { found, known }),
    }
}

fn migrate_to(connection: &mut Connection, migrations: &[&str]) -> Result<(), StoreError> {
    let known = migrations.len();
    let transaction =
        connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = version(&transaction)?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    if found == known {
        return Ok(());
    }
    for step in &migrations[found..] {
        transaction.execute_batch(step)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    Ok(transaction.commit()?)
}

/// Steps that a file has had; 0 for one that is empty.
fn version(connection: &Connection) -> Result<usize, StoreError> {
    let application: i32 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let version = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let tables: u32 =
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if application == APPLICATION_ID || (tables == 0 && version == 0) {
        Ok(version)
    } else {
        Err(StoreError::Foreign)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "CREATE TABLE a (x); INSERT INTO a VALUES (7);";
    const SECOND: &str = "ALTER TABLE a ADD COLUMN y; UPDATE a SET y = x + 1;";

    fn memory() -> Connection {
        Connection::open_in_memory().unwrap()
    }

    #[test]
    fn an_older_store_is_brought_up_step_by_step() {
        let mut connection = memory();
        migrate_to(&mut connection, &[FIRST]).unwrap();
        for _ in 0..2 {
            migrate_to(&mut connection, &[FIRST, SECOND]).unwrap();
            let y: i64 = connection
                .query_row("SELECT y FROM a", [], |row| row.get(0))
                .unwrap();
            assert_eq!((y, version(&connection).unwrap()), (8, 2));
        }
    }

    #[test]
    fn a_step_that_fails_leaves_the_store_as_it_was() {
        let mut connection = memory();
        migrate_to(&mut connection, &[FIRST]).unwrap();
        assert!(migrate_to(&mut connection, &[FIRST, SECOND, "nonsense"]).is_err());
        assert_eq!(version(&connection).unwrap(), 1);
        assert!(connection.prepare("SELECT y FROM a").is_err());
    }

    #[test]
    fn a_newer_store_is_refused() {
        let mut connection = memory();
        migrate_to(&mut connection, &[FIRST, SECOND]).unwrap();
        let error = migrate_to(&mut connection, &[FIRST]).unwrap_err();
        assert!(matches!(error, StoreError::Newer { found: 2, known: 1 }));
    }

    #[test]
    fn what_somebody_else_made_is_refused() {
        let mut connection = memory();
        connection.execute_batch(FIRST).unwrap();
        let error = migrate(&mut connection).unwrap_err();
        assert!(matches!(error, StoreError::Foreign), "{error}");
    }

    #[test]
    fn a_store_that_is_not_of_today_cannot_be_read() {
        let mut connection = memory();
        assert!(matches!(
            check(&connection),
            Err(StoreError::Older { found: 0, .. })
        ));
        migrate(&mut connection).unwrap();
        check(&connection).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        assert!(matches!(
            check(&connection),
            Err(StoreError::Newer { found: 99, .. })
        ));
    }
}
