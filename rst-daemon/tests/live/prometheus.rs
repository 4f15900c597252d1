//! The real Prometheus and Alertmanager with the files of `dist/`: what they make of the
//! daemon's metrics.
//!
//! The files say minutes and hours, for which no test can wait. In them time runs
//! [`FASTER`] times as fast: every duration is divided by that, those in the expressions
//! too. Nothing else is changed but the addresses.

#[path = "prometheus/alertmanager.rs"]
mod alertmanager;
#[path = "prometheus/dashboard.rs"]
mod dashboard;
#[path = "prometheus/fleet.rs"]
mod fleet;
#[path = "prometheus/server.rs"]
mod server;
#[path = "prometheus/site.rs"]
mod site;
#[path = "prometheus/spike.rs"]
mod spike;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::netns::V4;

/// How much faster time runs.
const FASTER: u32 = 30;

/// How often a condition is polled that costs a request.
const POLL: Duration = Duration::from_millis(100);

/// A file of `dist/`, with time running faster.
fn dist(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("dist")
        .join(file);
    let text = std::fs::read_to_string(&path);
    faster(&text.unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Divides the durations in a text. One is a number with a unit that stands by itself:
/// the one in `rst_connections:increase5m` is part of a name, and stays.
fn faster(text: &str) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut faster = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let end = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else {
            rest.find(is_word).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(end);
        if let Some(seconds) = seconds(word) {
            assert_eq!(seconds % FASTER, 0, "{word} does not become whole seconds");
            faster.extend([&(seconds / FASTER).to_string(), "s"]);
        } else {
            faster.push_str(word);
        }
        rest = after;
    }
    faster
}

/// A duration in seconds.
fn seconds(word: &str) -> Option<u32> {
    let unit = match word.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number: u32 = word[..word.len() - 1].parse().ok()?;
    Some(number * unit)
}

#[test]
fn only_durations_are_made_shorter() {
    assert_eq!(
        faster("a:b:increase5m{port=\"10004\"}[5m] offset 1h [1h:1m] >= 30, for: 30s"),
        "a:b:increase5m{port=\"10004\"}[10s] offset 120s [120s:2s] >= 30, for: 1s"
    );
}

/// An address of this host that nobody listens on yet.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind(SocketAddr::new(V4.server, 0)).unwrap();
    listener.local_addr().unwrap()
}

/// Waits until something is found.
fn wait_for<T>(what: &str, patience: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = found() {
            println!("{what}: after {:.1?}", start.elapsed());
            return found;
        }
        assert!(
            start.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(POLL);
    }
}
