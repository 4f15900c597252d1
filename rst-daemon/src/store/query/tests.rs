//! What is found, against what a watcher would have been shown.

use clap::Parser as _;

use super::*;
use crate::reset::{Owner, Reset, Workload};
use crate::store::database::{Bounds, Database, Item};
use crate::testing::{self, TempDir};

#[derive(clap::Parser)]
struct Flags {
    #[command(flatten)]
    filter: Filter,
}

fn query(line: &str) -> Query {
    let words = std::iter::once("rst").chain(line.split_whitespace());
    Query {
        filter: Flags::try_parse_from(words).unwrap().filter,
        since: Timestamp::MIN,
        until: Timestamp::MAX,
    }
}

/// A store in a directory with these in it.
fn store(dir: &TempDir, told: &[Told]) -> Database {
    let bounds = Bounds {
        bytes: 64 << 20,
        age: Duration::from_secs(1 << 40),
    };
    let mut database = Database::open(&dir.join(""), bounds).unwrap();
    let items: Vec<_> = told.iter().cloned().map(Item::Told).collect();
    database.write(&items, Timestamp::now()).unwrap();
    database
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_795_000_000 + second).unwrap()
}

/// Resets that differ in everything that can be asked for, and a restart.
fn different() -> Vec<Told> {
    let workload = |name: &str| Workload {
        kind: "systemd".into(),
        name: name.into(),
        pod_uid: None,
    };
    let mut told = Vec::new();
    for (second, direction) in [(0, "sent"), (1, "received")] {
        for cause in ["refused", "unread_data"] {
            for (ip, port) in [
                ("10.0.1.10", 443),
                ("2001:db8::1", 80),
                ("::ffff:10.9.9.9", 1),
            ] {
                told.push(
                    Reset {
                        time: at(second),
                        direction: direction.into(),
                        cause: cause.into(),
                        impact: if port == 443 { "benign" } else { "uncertain" }.into(),
                        remote: Some(testing::endpoint(ip, port)),
                        netns: Some(port.into()),
                        workload: (port == 80).then(|| workload("web.service")),
                        owner: (port != 1).then(|| Owner {
                            pid: Some(u32::from(port)),
                            comm: "x".into(),
                            source: "connect".into(),
                        }),
                        ..testing::reset()
                    }
                    .into(),
                );
            }
        }
    }
    told.push(
        Reset {
            time: at(0),
            local: None,
            remote: None,
            netns: None,
            owner: None,
            workload: Some(workload("\u{1b}[2J\\")),
            ..testing::reset()
        }
        .into(),
    );
    let mut over = testing::restarted();
    over.time = at(1);
    told.push(over.into());
    told
}

fn told(found: Vec<Found>) -> Vec<Told> {
    found.into_iter().map(|row| row.told.unwrap()).collect()
}

fn all(reader: &Reader, query: &Query) -> Vec<Told> {
    let rows: Result<Vec<_>, _> = reader.all(query).unwrap().collect();
    told(rows.unwrap())
}

#[test]
fn each_filter_finds_what_a_watcher_is_shown() {
    let dir = TempDir::new();
    let different = different();
    let _database = store(&dir, &different);
    let reader = Reader::open(&dir.join("")).unwrap();
    for (line, some) in [
        ("", true),
        ("--direction sent", true),
        ("--cause refused", true),
        ("--cause half_open", false),
        ("--impact benign", true),
        ("--workload web.service", true),
        ("--workload gunicorn.service", true),
        ("--workload web", false),
        ("--port 443", true),
        ("--port 42310", true),
        ("--port 8000", true),
        ("--port 2", false),
        ("--peer 10.0.1.10", true),
        ("--peer 10.0.0.0/8", true),
        ("--peer 10.9.9.9", true),
        ("--peer ::/0", true),
        ("--peer 10.0.1.5", false),
        ("--pid 80", true),
        ("--pid 81", false),
        ("--netns 443", true),
        ("--netns 4026531840", true),
        (
            "--direction sent --cause refused --peer 2001:db8::/32 --port 80",
            true,
        ),
        (
            "--direction sent --cause refused --peer 2001:db8::/32 --port 443",
            false,
        ),
    ] {
        let query = query(line);
        let mut wanted: Vec<_> = different
            .iter()
            .filter(|told| query.filter.wants(told))
            .cloned()
            .collect();
        wanted.sort_by_key(time);
        assert_eq!(!wanted.is_empty(), some, "{line}");
        assert_eq!(all(&reader, &query), wanted, "{line}");
        assert_eq!(told(reader.newest(&query, 100).unwrap()), wanted, "{line}");
    }
    let mut query = query("");
    query.filter.workload = Some("\u{1b}[2J\\".into());
    assert_eq!(all(&reader, &query), [different[12].clone()]);
}

fn time(told: &Told) -> Timestamp {
    match told {
        Told::Reset(reset) => reset.time,
        Told::Restarted(restarted) => restarted.time,
    }
}

/// What is listed by its time goes along one index, so that no more is read than is shown,
/// and nothing is sorted.
#[test]
fn each_list_follows_an_index() {
    let dir = TempDir::new();
    let _database = store(&dir, &[]);
    let reader = Reader::open(&dir.join("")).unwrap();
    for (kind, index) in [
        (Kind::Resets, "resets_by_time (time_ns"),
        (Kind::Restarts, "restarts_by_time (time_ns"),
    ] {
        let (conditions, values) = conditions(&query(""), kind).unwrap();
        let table = kind.table();
        for order in ["time_ns DESC, id DESC", "time_ns, id"] {
            let sql = format!(
                "EXPLAIN QUERY PLAN SELECT json FROM {table} WHERE {conditions} ORDER BY {order}"
            );
            let mut statement = reader.connection.prepare(&sql).unwrap();
            let plan = statement
                .query_map(params_from_iter(&values), |row| row.get::<_, String>(3))
                .unwrap();
            let plan: Vec<_> = plan.map(Result::unwrap).collect();
            assert_eq!(plan.len(), 1, "{plan:?}");
            assert!(plan[0].contains(index), "{plan:?}");
        }
    }
}

/// Rows are found by their digest, also those that an rst without digests has written, and
/// a number that a deleted row had is not taken for it.
#[test]
fn a_store_of_the_first_version_is_searched_as_any_other() {
    let dir = TempDir::new();
    let different = different();
    let mut database = store(&dir, &different);
    let digests = || {
        let connection = Connection::open(dir.join(FILE)).unwrap();
        let mut statement = connection
            .prepare("SELECT resets FROM digests ORDER BY id")
            .unwrap();
        let rows = statement
            .query_map([], |row| row.get::<_, Vec<u8>>(0))
            .unwrap();
        rows.flat_map(Result::unwrap).collect::<Vec<_>>()
    };
    let written = digests();
    drop(database);
    let connection = Connection::open(dir.join(FILE)).unwrap();
    connection
        .execute_batch(
            "DROP TABLE digests; DROP INDEX resets_by_time;
             CREATE INDEX resets_by_time ON resets (
                 time_ns, id, direction, cause, impact, local_port, peer_port, pid, netns,
                 peer_ip, workload
             );
             CREATE INDEX resets_by_cause ON resets (cause, time_ns, id);
             CREATE INDEX resets_by_workload ON resets (workload, time_ns, id);
             PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let error = Reader::open(&dir.join("")).unwrap_err().to_string();
    assert!(error.contains("made by an older rst (schema 1"), "{error}");

    let bounds = Bounds {
        bytes: 64 << 20,
        age: Duration::from_secs(1 << 40),
    };
    database = Database::open(&dir.join(""), bounds).unwrap();
    let sorted = |bytes: &[u8]| {
        let mut digests: Vec<_> = bytes.chunks(60).map(<[u8]>::to_vec).collect();
        digests.sort();
        digests
    };
    assert_eq!(sorted(&digests()), sorted(&written));
    let reader = Reader::open(&dir.join("")).unwrap();
    let port = query("--port 443");
    let before = all(&reader, &port);
    assert!(!before.is_empty());

    // The newest row goes, and its number is given to another.
    let connection = Connection::open(dir.join(FILE)).unwrap();
    let newest = "DELETE FROM resets WHERE id = (SELECT max(id) FROM resets)";
    assert_eq!(connection.execute(newest, []).unwrap(), 1);
    let mut other = testing::reset();
    other.time = at(9);
    database
        .write(&[Item::Told(other.clone().into())], Timestamp::now())
        .unwrap();
    let found = all(&reader, &query("--cause peer_closed"));
    assert_eq!(found, [Told::from(other)]);
}

#[test]
fn the_newest_of_many_are_found_whatever_lies_between() {
    let dir = TempDir::new();
    let mut expected = Vec::new();
    let mut told = Vec::new();
    for number in 0..300u32 {
        let mut reset = testing::reset();
        // The clock jumps back in the middle.
        reset.time = at(i64::from(number % 150));
        reset.netns = Some(number % 10);
        told.push(Told::from(reset));
        if number % 10 == 3 {
            expected.push(told[told.len() - 1].clone());
        }
    }
    let _database = store(&dir, &told);
    expected.sort_by_key(time);
    let reader = Reader::open(&dir.join("")).unwrap();
    let query = query("--netns 3");
    assert!(all(&reader, &query) == expected);
    for limit in [0, 1, 7, 30, 100] {
        let first = expected.len().saturating_sub(limit as usize);
        let found = self::told(reader.newest(&query, limit).unwrap());
        assert!(found == expected[first..], "{limit}");
    }
}

#[test]
fn times_are_from_including_until_excluding() {
    let dir = TempDir::new();
    let _database = store(&dir, &different());
    let reader = Reader::open(&dir.join("")).unwrap();
    let count = |since, until| {
        let query = Query {
            since,
            until,
            ..query("")
        };
        let all = all(&reader, &query).len();
        assert_eq!(reader.newest(&query, 100).unwrap().len(), all);
        all
    };
    assert_eq!(count(at(0), at(1)), 7);
    assert_eq!(count(at(1), at(2)), 7);
    assert_eq!(count(at(0), at(2)), 14);
    assert_eq!(count(at(2), Timestamp::MAX), 0);
}

#[test]
fn the_newest_are_in_their_order() {
    let dir = TempDir::new();
    let different = different();
    let _database = store(&dir, &different);
    let reader = Reader::open(&dir.join("")).unwrap();
    let found = told(reader.newest(&query(""), 3).unwrap());
    assert_eq!(found, [&different[10..12], &different[13..]].concat());
    assert!(reader.newest(&query(""), 0).unwrap().is_empty());
}

/// The end that lost more was told first, though it happened a moment later.
#[test]
fn both_ends_stay_in_the_order_in_which_they_were_told() {
    let dir = TempDir::new();
    let [mut first, mut second] = [testing::reset(), testing::reset()];
    first.time = "2026-11-20T14:32:01.123456789Z".parse().unwrap();
    second.time = "2026-11-20T14:32:01.123456Z".parse().unwrap();
    second.direction = "sent".into();
    let ends = [first.into(), second.into()];
    let _database = store(&dir, &ends);
    let reader = Reader::open(&dir.join("")).unwrap();
    assert_eq!(all(&reader, &query("")), ends);
    assert_eq!(told(reader.newest(&query(""), 9).unwrap()), ends);
}

/// More than one batch of each, out of order, with many at the same moment.
#[test]
fn batches_lose_nothing_and_repeat_nothing() {
    let dir = TempDir::new();
    let mut expected = Vec::new();
    for number in 0..3500u32 {
        let mut reset = testing::reset();
        reset.time = at(i64::from(number % 7));
        reset.uid = Some(number);
        expected.push(Told::from(reset));
        if number % 3 == 0 {
            let mut over = testing::restarted();
            over.time = at(i64::from(number % 7));
            over.restart.resets = u64::from(number);
            expected.push(over.into());
        }
    }
    let _database = store(&dir, &expected);
    expected.sort_by_key(|told| (time(told), matches!(told, Told::Restarted(_))));
    let reader = Reader::open(&dir.join("")).unwrap();
    assert!(all(&reader, &query("")) == expected);
}

#[test]
fn it_is_read_while_it_is_written() {
    let dir = TempDir::new();
    let mut database = store(&dir, &different());
    let reader = Reader::open(&dir.join("")).unwrap();
    let query = query("");
    let mut rows = reader.all(&query).unwrap();
    assert!(rows.next().is_some());
    let more = [Item::Told(testing::reset().into())];
    database.write(&more, Timestamp::now()).unwrap();
    assert_eq!(1 + rows.count(), 14);
    assert_eq!(all(&reader, &query).len(), 15);
}

#[test]
fn it_is_read_after_the_daemon_and_where_nothing_can_be_written() {
    let dir = TempDir::new();
    drop(store(&dir, &different()));
    let connection = open(&dir.join(FILE), true).unwrap();
    let reader = Reader {
        connection,
        path: dir.join(FILE),
    };
    assert_eq!(all(&reader, &query("")).len(), 14);
    assert!(!wal(&dir.join(FILE)).exists());
    drop(reader);
    let reader = Reader::open(&dir.join("")).unwrap();
    assert_eq!(all(&reader, &query("")).len(), 14);
}

#[test]
fn a_row_of_another_version_is_told_apart() {
    let dir = TempDir::new();
    drop(store(&dir, &different()));
    let connection = Connection::open(dir.join(FILE)).unwrap();
    connection
        .execute("UPDATE resets SET json = '{\"v\":9}' WHERE id = 1", [])
        .unwrap();
    drop(connection);
    let reader = Reader::open(&dir.join("")).unwrap();
    let query = query("");
    let rows: Vec<_> = reader.all(&query).unwrap().map(Result::unwrap).collect();
    let unreadable: Vec<_> = rows
        .iter()
        .filter_map(|row| row.told.as_ref().err())
        .collect();
    assert_eq!((rows.len(), unreadable.len()), (14, 1));
    assert!(unreadable[0].contains("missing field"), "{unreadable:?}");
}

#[test]
fn what_is_no_store_is_said() {
    let dir = TempDir::new();
    let message = |dir: &Path| Reader::open(dir).unwrap_err().to_string();
    assert!(message(&dir.join("")).contains("there is no store at "));
    std::fs::write(dir.join(FILE), [b'x'; 10_000]).unwrap();
    assert!(message(&dir.join("")).contains("it is damaged"));
    std::fs::remove_file(dir.join(FILE)).unwrap();
    let other = Connection::open(dir.join(FILE)).unwrap();
    other.execute_batch("CREATE TABLE a (x)").unwrap();
    assert!(message(&dir.join("")).contains("a database of another program"));
    drop(other);
    std::fs::remove_file(dir.join(FILE)).unwrap();
    drop(store(&dir, &[]));
    let newer = Connection::open(dir.join(FILE)).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    assert!(message(&dir.join("")).contains("made by a newer rst (schema 99"));
}
