//! gunicorn's workers: killed in the middle of a request, and replaced.

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::{owner, verdict};
use crate::lab::Lab;
use crate::netns::FAMILIES;
use crate::programs::{Server, ends, http};
use crate::tcp;

const PORT: u16 = 8000;

/// `/hang` says that it has begun and never answers.
const APP: &str = r"
import time
def app(environ, start_response):
    if environ['PATH_INFO'] == '/hang':
        open('begun', 'w').close()
        time.sleep(60)
    start_response('200 OK', [('Content-Length', '5')])
    return [b'hello']
";

/// Requests that a reload may take.
const REQUESTS: usize = 1000;

fn gunicorn(lab: &Lab, workers: &str) -> Server {
    let listen = FAMILIES.map(|family| SocketAddr::new(family.server, PORT));
    let settings = ["--workers", workers];
    let server = Server::gunicorn(&lab.netns, &lab.folder, APP, &settings, listen);
    wait_until("the workers are there", || {
        server.workers().len().to_string() == workers
    });
    server
}

/// Kills the worker that `/hang` keeps busy; its pid. The next one is there
/// when it returns.
fn kill_worker(server: &Server, begun: &Path) -> u32 {
    wait_until("the worker is at work", || begun.exists());
    std::fs::remove_file(begun).unwrap();
    let [worker] = server.workers()[..] else {
        panic!("there is one worker");
    };
    let pid = Pid::from_raw(worker).expect("no pid is 0");
    kill_process(pid, Signal::KILL).unwrap();
    wait_until(
        "another worker is there",
        || matches!(server.workers()[..], [other] if other != worker),
    );
    worker.cast_unsigned()
}

/// Most of an upload is unread when the worker is killed.
#[test]
fn worker_is_killed_with_unread_data() {
    let test = "worker_is_killed_with_unread_data";
    // A request may wait until a new worker is up, and that is no silence.
    let settings = "idle_ms = 60000";
    let Some(lab) = Lab::configured(test, &["gunicorn"], settings, &[]) else {
        return;
    };
    let gunicorn = gunicorn(&lab, "1");
    let begun = lab.folder.0.join("begun");
    let expected: Vec<Value> = lab.inside(|| {
        let killed = FAMILIES.map(|family| {
            let server_end = SocketAddr::new(family.server, PORT);
            let (mut client, client_end) = tcp::connect(family.client, server_end);
            let head = "POST /hang HTTP/1.1\r\nContent-Length: 100000\r\n\r\n";
            client.write_all(head.as_bytes()).unwrap();
            client.write_all(&vec![b'x'; 50_000]).unwrap();
            tcp::wait_acknowledged(&client);
            let worker = kill_worker(&gunicorn, &begun);
            let error = tcp::wait_error(&client);
            assert_eq!(error, std::io::ErrorKind::ConnectionReset);
            let killed = ["process_exit", "connection_broken", "server"];
            let mut killed = verdict("sent", server_end, client_end, killed);
            killed["exit"] = json!({"signal": 9, "code": null});
            killed["owner"] = owner(worker, "gunicorn");
            let lost = ["peer_abort", "connection_broken", "client"];
            [killed, verdict("received", client_end, server_end, lost)]
        });
        killed.concat()
    });
    drop(gunicorn);
    for event in lab.finish(&expected) {
        if event["cause"] == "process_exit" {
            // All but the first reads, which may have had the head alone.
            let unread = event["unread_bytes"].as_u64().unwrap();
            assert!((20_000..=50_000).contains(&unread), "{event}");
        }
    }
}

/// The worker has read the request: the client gets a FIN, and no reset tells
/// of the lost answer.
#[test]
fn worker_is_killed_with_nothing_unread() {
    let test = "worker_is_killed_with_nothing_unread";
    let Some(lab) = Lab::start(test, &["gunicorn"], &[]) else {
        return;
    };
    let gunicorn = gunicorn(&lab, "1");
    let begun = lab.folder.0.join("begun");
    lab.inside(|| {
        for family in FAMILIES {
            let server = SocketAddr::new(family.server, PORT);
            let (mut client, _) = tcp::connect(family.client, server);
            client.write_all(b"GET /hang HTTP/1.1\r\n\r\n").unwrap();
            kill_worker(&gunicorn, &begun);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "a FIN");
        }
    });
    drop(gunicorn);
    lab.finish(&[]);
}

/// Workers are replaced while requests come in: nobody notices.
#[test]
fn graceful_reload_resets_nothing() {
    let test = "graceful_reload_resets_nothing";
    let Some(lab) = Lab::start(test, &["gunicorn"], &[]) else {
        return;
    };
    let gunicorn = gunicorn(&lab, "2");
    let request = |family: usize| {
        let server = SocketAddr::new(FAMILIES[family % 2].server, PORT);
        let answer = http(server, "GET", "/");
        assert!(answer.ends_with("hello"), "{answer}");
    };
    lab.inside(|| {
        (0..10).for_each(request);
        let old = gunicorn.workers();
        gunicorn.0.signal(Signal::HUP);
        let replaced = (0..REQUESTS).any(|number| {
            request(number);
            let now = gunicorn.workers();
            now.len() == 2 && now.iter().all(|worker| !old.contains(worker))
        });
        assert!(replaced, "not replaced after {REQUESTS} requests");
        (0..10).for_each(request);
        assert!(!ends(PORT).is_empty(), "it still listens");
    });
    drop(gunicorn);
    lab.finish(&[]);
}
