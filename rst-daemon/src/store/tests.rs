//! The thread that writes, from its queue to the file.

use rusqlite::Connection;

use super::*;
use crate::testing::{self, DEADLINE, TempDir};

fn config(dir: PathBuf) -> Config {
    Config {
        data_dir: dir,
        store_max_mb: 16,
        ..Config::default()
    }
}

/// A store whose settings don't change.
fn begun(config: Config) -> Store {
    start(watch::channel(config).1).unwrap()
}

fn started(dir: PathBuf) -> (Queue, Gauge, End) {
    let store = begun(config(dir));
    (store.queue.unwrap(), store.gauge.unwrap(), store.end)
}

fn reset() -> Told {
    let mut reset = testing::reset();
    reset.time = Timestamp::now();
    reset.into()
}

fn incident() -> Incident {
    Incident {
        v: 1,
        id: "1795185121-1".into(),
        host: "web1".into(),
        workload: "nginx.service".into(),
        role: "server".into(),
        port: Some(443),
        cause: "refused".into(),
        impact: "connect_failed".into(),
        opened: Timestamp::now(),
        closed: None,
        first: Timestamp::now(),
        last: Timestamp::now(),
        resets: 57,
        connections: 3,
        usual_per_second: 0.5,
        usual_now: false,
        described: 0,
        peers: Vec::new(),
        idle_ms: None,
        restarts: Vec::new(),
        samples: vec![testing::reset()],
        hint: None,
        advice: "look".into(),
    }
}

/// Waits for the thread's end: longer than a daemon does.
fn ended(end: End) {
    testing::run(async { end.0.await.unwrap() });
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what}: not in time");
        thread::sleep(Duration::from_millis(1));
    }
}

/// None where the file is not a store yet.
fn rows(dir: &TempDir) -> u64 {
    let connection = Connection::open(dir.join(database::FILE)).unwrap();
    connection
        .query_row("SELECT count(*) FROM resets", [], |row| row.get(0))
        .unwrap_or_default()
}

#[test]
fn what_is_in_the_queue_at_the_end_is_written() {
    let dir = TempDir::new();
    let (queue, gauge, end) = started(dir.join(""));
    for _ in 0..5000 {
        queue.keep(reset());
    }
    queue.keep_incident(incident());
    drop(queue);
    ended(end);
    let status = gauge.status();
    assert_eq!((status.written, status.dropped), (5001, [0; 4]));
    assert!(status.up && status.bytes > 5_000_000, "{status:?}");
    assert_eq!(rows(&dir), 5000);
    let connection = Connection::open(dir.join(database::FILE)).unwrap();
    let stored = incidents::get(&connection, "1795185121-1")
        .unwrap()
        .unwrap();
    let read: Incident = serde_json::from_str(&stored.json).unwrap();
    assert_eq!(
        (read.resets, stored.workload.as_str()),
        (57, "nginx.service")
    );
}

#[test]
fn a_queue_that_is_full_holds_nobody_up() {
    let dir = TempDir::new();
    let (queue, gauge, end) = started(dir.join(""));
    let told = reset();
    // Faster than any disk.
    let most = 40 * QUEUE as u64;
    for _ in 0..most {
        queue.keep(told.clone());
    }
    drop(queue);
    ended(end);
    let status = gauge.status();
    let dropped = status.dropped[Why::QueueFull as usize];
    assert!(dropped > 0, "{status:?}");
    assert_eq!(status.written + dropped, most);
}

#[test]
fn no_store_where_none_is_wanted() {
    let dir = TempDir::new();
    let store = begun(Config {
        store_max_mb: 0,
        ..config(dir.join("d"))
    });
    assert!(store.queue.is_none() && store.gauge.is_none());
    testing::run(store.end.wait());
    assert!(!dir.join("d").exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_said_and_tried_again() {
    let dir = TempDir::new();
    std::fs::write(dir.join("d"), "in the way").unwrap();
    let (queue, gauge, end) = started(dir.join("d"));
    until("a reset is dropped", || {
        queue.keep(reset());
        gauge.status().dropped[Why::Unavailable as usize] > 0
    });
    assert!(!gauge.status().up);
    std::fs::remove_file(dir.join("d")).unwrap();
    until("a reset is written", || {
        queue.keep(reset());
        gauge.status().written > 0
    });
    assert!(gauge.status().up);
    drop(queue);
    ended(end);
}

#[test]
fn a_store_that_is_damaged_or_removed_is_begun_anew() {
    let dir = TempDir::new();
    std::fs::write(dir.join(database::FILE), [b'x'; 10_000]).unwrap();
    let (queue, gauge, end) = started(dir.join(""));
    until("a reset is written", || {
        queue.keep(reset());
        gauge.status().written > 0
    });
    let aside = dir.join("rst.db-damaged");
    assert_eq!(std::fs::read(aside).unwrap(), [b'x'; 10_000]);

    std::fs::remove_file(dir.join(database::FILE)).unwrap();
    until("a new file has a reset", || {
        queue.keep(reset());
        dir.join(database::FILE).exists() && rows(&dir) > 0
    });
    drop(queue);
    ended(end);
}

#[test]
fn a_newer_store_is_left_alone() {
    let dir = TempDir::new();
    let (queue, _, end) = started(dir.join(""));
    drop(queue);
    ended(end);
    let connection = Connection::open(dir.join(database::FILE)).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    let (queue, gauge, end) = started(dir.join(""));
    until("a reset is dropped", || {
        queue.keep(reset());
        gauge.status().dropped[Why::Unavailable as usize] > 0
    });
    drop(queue);
    ended(end);
    assert!(!gauge.status().up);
    assert_eq!(rows(&dir), 0);
    assert!(!dir.join("rst.db-damaged").exists());
}
