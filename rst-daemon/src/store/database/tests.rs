//! A store on a real file system.

use super::*;
use crate::testing::{self, TempDir};

const BOUNDS: Bounds = Bounds {
    bytes: 16 << 20,
    age: Duration::from_secs(3600),
};

/// The time of [`testing::reset`].
fn now() -> Timestamp {
    testing::reset().time
}

fn items(count: usize) -> Vec<Item> {
    vec![Item::Told(testing::reset().into()); count]
}

fn number(database: &Database, sql: &str) -> i64 {
    let connection = &database.connection;
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn integrity(database: &Database) -> String {
    let connection = &database.connection;
    connection
        .query_row("PRAGMA integrity_check", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn a_reset_becomes_columns_and_the_object_that_watchers_get() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join("a/b"), BOUNDS).unwrap();
    let mut reset = testing::reset();
    if let Some(owner) = &mut reset.owner {
        owner.comm = "evil\u{1b}[2J".into();
    }
    reset.cause = "stale_reuse".into();
    let all = [
        Item::Told(reset.clone().into()),
        Item::Told(testing::restarted().into()),
    ];
    let done = database.write(&all, now()).unwrap();
    assert_eq!((done.written, done.deleted), (2, 0));
    let row: Vec<String> = database
        .connection
        .query_row(
            "SELECT time_ns, direction, cause, impact, role, workload, port, local_ip, local_port,
                 peer_ip, peer_port, pid, comm, netns, state, reason, idle_ms, age_ms, json
             FROM resets",
            [],
            |row| {
                (0..19)
                    .map(|column| {
                        Ok(match row.get_ref(column)? {
                            rusqlite::types::ValueRef::Null => "NULL".to_owned(),
                            rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                            value @ (rusqlite::types::ValueRef::Real(_)
                            | rusqlite::types::ValueRef::Text(_)
                            | rusqlite::types::ValueRef::Blob(_)) => value.as_str()?.to_owned(),
                        })
                    })
                    .collect()
            },
        )
        .unwrap();
    let json = text::json(&reset).unwrap();
    assert!(!json.contains('\u{1b}'));
    assert_eq!(
        row,
        [
            "1795185121123456789",
            "received",
            "stale_reuse",
            "connection_broken",
            "client",
            "NULL",
            "443",
            "10.0.1.5",
            "42310",
            "10.0.1.10",
            "443",
            "812",
            "evil\\u{1b}[2J",
            "4026531840",
            "CLOSE_WAIT",
            "NULL",
            "60012",
            "NULL",
            &json,
        ]
    );
    assert_eq!(
        number(&database, "SELECT count(*) FROM restarts WHERE port = 8000"),
        1
    );
}

#[test]
fn only_the_group_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = TempDir::new();
    let mut database = Database::open(&dir.join("rst"), BOUNDS).unwrap();
    database.write(&items(1), now()).unwrap();
    for (name, most) in [
        ("", 0o750),
        (FILE, 0o640),
        ("rst.db-wal", 0o640),
        ("rst.db-shm", 0o640),
    ] {
        let mode = fs::metadata(dir.join("rst").join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777 & !most, 0, "{name}: {mode:o}");
    }
}

#[test]
fn what_is_too_old_goes() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    database.write(&items(5), now()).unwrap();
    let later = now() + Duration::from_secs(3599);
    let mut young = testing::reset();
    young.time = later;
    let done = database.write(&[Item::Told(young.into())], later).unwrap();
    assert_eq!(done.deleted, 0);
    let done = database.write(&[], later + Duration::from_secs(2)).unwrap();
    assert_eq!(done.deleted, 5);
    assert_eq!(number(&database, "SELECT count(*) FROM resets"), 1);
    assert_eq!(number(&database, "SELECT count(*) FROM digests"), 1);
    database
        .write(&[], later + Duration::from_secs(9999))
        .unwrap();
    assert_eq!(number(&database, "SELECT count(*) FROM resets"), 0);
    assert_eq!(number(&database, "SELECT count(*) FROM digests"), 0);
}

#[test]
fn a_full_store_loses_its_oldest_and_keeps_its_size() {
    let dir = TempDir::new();
    let bounds = Bounds {
        bytes: 2 << 20,
        ..BOUNDS
    };
    let mut database = Database::open(&dir.join(""), bounds).unwrap();
    let (mut deleted, mut largest) = (0, 0);
    for _ in 0..60 {
        deleted += database.write(&items(100), now()).unwrap().deleted;
        largest = largest.max(database.bytes());
    }
    assert!(deleted > 3000, "{deleted}");
    // One transaction beyond.
    assert!(largest < bounds.bytes + (200 << 10), "{largest}");
    let kept = number(&database, "SELECT count(*) FROM resets");
    assert_eq!(kept.unsigned_abs(), 6000 - deleted);
    assert!(kept > 100, "{kept}");
    assert_eq!(number(&database, "SELECT max(id) FROM resets"), 6000);
    assert_eq!(
        number(&database, "SELECT min(id) FROM resets").unsigned_abs(),
        deleted + 1
    );
    // Of what is gone, no more is known than what shared a row with what is left.
    let digests = number(&database, "SELECT sum(length(resets) / 60) FROM digests");
    assert!((kept..kept + 100).contains(&digests), "{digests} of {kept}");
    assert_eq!(integrity(&database), "ok");
}

#[test]
fn room_that_is_not_needed_is_given_back() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    for _ in 0..20 {
        database.write(&items(200), now()).unwrap();
    }
    drop(database);
    let before = length(&dir.join(FILE));
    let bounds = Bounds {
        bytes: 1 << 20,
        ..BOUNDS
    };
    let mut database = Database::open(&dir.join(""), bounds).unwrap();
    for _ in 0..20 {
        database.write(&[], now()).unwrap();
    }
    drop(database);
    let after = length(&dir.join(FILE));
    assert!(before > 4 << 20, "{before}");
    assert!(after < 1 << 20, "{after}");
}

/// SQLite's own limit stands in for the disk's: the error is the same.
#[test]
fn a_full_disk_passes() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    database.write(&items(10), now()).unwrap();
    let limit = |database: &Database, pages: i64| {
        database
            .connection
            .pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let pages = number(&database, "PRAGMA page_count");
    limit(&database, pages);
    let error = database.write(&items(1000), now()).unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error}");
    assert_eq!(number(&database, "SELECT count(*) FROM resets"), 10);
    limit(&database, 1 << 20);
    database.write(&items(1000), now()).unwrap();
    assert_eq!(number(&database, "SELECT count(*) FROM resets"), 1010);
}

#[test]
fn a_reader_that_never_ends_does_not_fill_the_disk() {
    let dir = TempDir::new();
    let bounds = Bounds {
        bytes: 4 << 20,
        ..BOUNDS
    };
    let mut database = Database::open(&dir.join(""), bounds).unwrap();
    database.write(&items(1), now()).unwrap();
    let reader = Connection::open(dir.join(FILE)).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM resets")
        .unwrap();
    let mut refused = false;
    for _ in 0..100 {
        match database.write(&items(100), now()) {
            Ok(_) => {}
            Err(StoreError::Reader) => {
                refused = true;
                break;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused);
    let size = database.bytes();
    assert!(size < bounds.bytes + (1 << 20), "{size}");
    reader.execute_batch("END").unwrap();
    database.write(&items(100), now()).unwrap();
    assert!(length(&wal(&dir.join(FILE))) < 1 << 20);
}

#[test]
fn somebody_elses_transaction_is_no_reason_to_wait_for_long() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    let other = Connection::open(dir.join(FILE)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = database.write(&items(1), now()).unwrap_err();
    assert!(matches!(error, StoreError::Locked), "{error}");
    other.execute_batch("END").unwrap();
    database.write(&items(1), now()).unwrap();
}

#[test]
fn a_file_that_was_removed_is_noticed() {
    let dir = TempDir::new();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    fs::remove_file(dir.join(FILE)).unwrap();
    let error = database.write(&items(1), now()).unwrap_err();
    assert!(matches!(error, StoreError::Removed), "{error}");
}

#[test]
fn damage_is_known_at_the_start_and_in_the_middle() {
    let dir = TempDir::new();
    fs::write(dir.join(FILE), [b'x'; 10_000]).unwrap();
    let error = Database::open(&dir.join(""), BOUNDS).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    assert_eq!(
        set_aside(&dir.join("")).unwrap(),
        dir.join("rst.db-damaged")
    );

    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    database.write(&items(500), now()).unwrap();
    drop(database);
    // All pages but the first.
    let mut content = fs::read(dir.join(FILE)).unwrap();
    content[8192..].fill(0x5a);
    fs::write(dir.join(FILE), content).unwrap();
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    let error = database.write(&items(1), now()).unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    drop(database);
    set_aside(&dir.join("")).unwrap();
    assert!(length(&dir.join("rst.db-damaged")) > 500_000);
    let mut database = Database::open(&dir.join(""), BOUNDS).unwrap();
    database.write(&items(1), now()).unwrap();
}
