//! Server-sent events that end as they should, at either end.

use std::io::{BufRead as _, BufReader};

use super::{PATIENCE, python, quiet, run};
use crate::netns::FAMILIES;
use crate::process::Process;

/// The server.
const SERVER: &str = include_str!("sse_server.py");

/// The listener at the other end.
const CLIENT: &str = include_str!("sse_client.py");

/// Streams of each test and family.
const STREAMS: usize = 10;

/// Events that a client waits for.
const EVENTS: usize = 5;

/// Lets clients listen until [`EVENTS`] have come, or `until` the "end", to a
/// server that sends `events` and looks for the client's end or not.
fn stream(test: &str, events: usize, until: &str, looks: &str) {
    quiet(test, &["python3"], |lab| {
        for family in FAMILIES {
            let address = family.server.to_string();
            let script: [&str; 3] = [&address, &events.to_string(), looks];
            let mut server = Process::start(python(lab, SERVER, &script));
            let mut lines = BufReader::new(server.stdout()).lines().map(Result::unwrap);
            let port = lines.next().expect("it says where it listens");
            let own = family.client.to_string();
            let (streams, wanted) = (STREAMS.to_string(), EVENTS.to_string());
            let script: [&str; 6] = [&address, &port, &own, &streams, &wanted, until];
            run(python(lab, CLIENT, &script));
            // One line for each stream that has ended.
            assert_eq!(lines.by_ref().take(STREAMS).count(), STREAMS);
            drop(server.stdin());
            assert!(server.wait(PATIENCE).success());
        }
    });
}

/// The server sends its last event and closes.
#[test]
fn server_ends_its_events() {
    stream("server_ends_its_events", EVENTS, "end", "looks");
}

/// The client has heard enough and closes; the server notices.
#[test]
fn client_ends_its_events() {
    // More events than the client will wait for.
    stream("client_ends_its_events", 10_000, "enough", "looks");
}

/// Likewise, but the server notices only when it sends the next event: nobody
/// waited for it any more.
#[test]
fn client_ends_its_events_unnoticed() {
    stream(
        "client_ends_its_events_unnoticed",
        10_000,
        "enough",
        "sends",
    );
}
