//! `rst watch`: by itself, and with filters.

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::{DEADLINE, wait_until};
use crate::expect::{check, no_socket, received, sent};
use crate::lab::{Folder, Lab, STOP, can_run, exclusive, is_sentinel};
use crate::netns::{FAMILIES, Netns, V4, V6};
use crate::process::ebpf_loaded;
use crate::tcp::{closed_port, connect_refused};
use crate::watcher::{Seen, Watcher};

/// No daemon: the watcher attaches the probes itself.
#[test]
fn watch_without_a_daemon() {
    if !can_run("watch_without_a_daemon", &[]) {
        return;
    }
    let _exclusive = exclusive();
    let folder = Folder::new();
    let netns = Netns::new();
    let mut watcher = Watcher::start(&folder.0.join("no.sock"), &[]);
    let own = |events: &[Seen]| -> Vec<Value> {
        let events = events.iter().map(|seen| seen.event.clone());
        events
            .filter(|event| event["netns"] == netns.inode)
            .collect()
    };
    // Until it is attached nothing is seen; the last attempt is, twice.
    let mut expected = Vec::new();
    wait_until("the watcher sees resets", || {
        let server = closed_port(V4);
        let client = netns.inside(|| connect_refused(V4.client, server));
        let cause = json!({"cause": "refused"});
        expected = vec![
            sent(server, client, no_socket(cause.clone())),
            received(client, server, cause),
        ];
        let both = |events: &[Seen]| {
            let events = own(events).into_iter();
            let of_client = |event: &Value| {
                let port = client.port();
                event["local"]["port"] == port || event["remote"]["port"] == port
            };
            (events.filter(of_client).count() == 2).then_some(())
        };
        watcher.seen.wait(STOP / 4, both).is_some()
    });
    let seen_before = watcher.seen.with(|events| own(events).len());
    let server = closed_port(V6);
    let client = netns.inside(|| connect_refused(V6.client, server));
    let cause = json!({"cause": "refused"});
    let expected = [
        sent(server, client, no_socket(cause.clone())),
        received(client, server, cause),
    ];
    let arrived = watcher.seen.wait(DEADLINE, |events| {
        (own(events).len() >= seen_before + 2).then_some(())
    });
    assert!(arrived.is_some());
    let events = watcher
        .seen
        .with(|events| own(events)[seen_before..].to_vec());
    check(&events, &expected).unwrap();

    let programs = watcher.process.ebpf_programs();
    assert!(!programs.is_empty(), "it holds the programs");
    watcher.process.signal(Signal::TERM);
    assert_eq!(watcher.process.wait(STOP).code(), Some(0));
    wait_until("the programs are gone", || !ebpf_loaded(&programs));
}

/// A filter as the tests understand it.
type Wanted<'a> = Box<dyn Fn(&Value) -> bool + 'a>;

/// Each watcher shows what its filter says, and no more.
#[test]
fn filters() {
    let Some(mut lab) = Lab::start("filters", &[], &[]) else {
        return;
    };
    let other = Netns::new();
    let (chosen, unwanted) = (closed_port(V4).port(), closed_port(V4).port() + 1);
    let namespace = lab.netns.inode.to_string();
    let port = chosen.to_string();
    let inode = lab.netns.inode;
    let filters: Vec<(Vec<&str>, Wanted<'_>)> = vec![
        (
            vec!["--direction", "sent"],
            Box::new(|event| event["direction"] == "sent"),
        ),
        (
            vec!["--direction", "received"],
            Box::new(|event| event["direction"] == "received"),
        ),
        (
            vec!["--port", &port],
            Box::new(|event| event["local"]["port"] == chosen || event["remote"]["port"] == chosen),
        ),
        // The client's end is the peer of the sent resets.
        (
            vec!["--peer", "127.0.0.2"],
            Box::new(|event| event["remote"]["ip"] == "127.0.0.2"),
        ),
        (
            vec!["--peer", "fd00::/64"],
            Box::new(|event| event["remote"]["ip"] == "fd00::2"),
        ),
        (
            vec!["--netns", &namespace],
            Box::new(|event| event["netns"] == inode),
        ),
        (
            vec![
                "--direction",
                "sent",
                "--port",
                &port,
                "--netns",
                &namespace,
            ],
            Box::new(|event| {
                event["direction"] == "sent"
                    && event["local"]["port"] == chosen
                    && event["netns"] == inode
            }),
        ),
    ];
    let watchers: Vec<Watcher> = filters
        .iter()
        .map(|(flags, _)| Watcher::start(&lab.daemon.socket, flags))
        .collect();
    // Every one of them wants some of these resets.
    let provoke = || {
        for family in FAMILIES {
            for port in [chosen, unwanted] {
                let server = std::net::SocketAddr::new(family.server, port);
                lab.inside(|| connect_refused(family.client, server));
                other.inside(|| connect_refused(family.client, server));
            }
        }
    };
    wait_until("all watchers are there", || {
        provoke();
        lab.flush();
        watchers
            .iter()
            .all(|watcher| watcher.seen.with(|events| !events.is_empty()))
    });
    let start = jiff::Timestamp::now();
    provoke();
    lab.flush();
    // What is to be shown: of these two namespaces, since then, no sentinels.
    let own = [inode, other.inode];
    let since = |watcher: &Watcher| -> Vec<Value> {
        let late = watcher.events().into_iter();
        let late = late.filter(|seen| seen.time > start).map(|seen| seen.event);
        late.filter(|event| own.iter().any(|inode| event["netns"] == *inode))
            .filter(|event| !is_sentinel(event))
            .collect()
    };
    let all = since(&lab.watcher);
    assert_eq!(all.len(), 16);
    let expected: Vec<Vec<Value>> = filters
        .iter()
        .map(|(_, wanted)| all.iter().filter(|event| wanted(event)).cloned().collect())
        .collect();
    for (watcher, expected) in watchers.iter().zip(&expected) {
        wait_until("a watcher shows what it should", || {
            since(watcher).len() >= expected.len()
        });
    }
    lab.daemon.stop(Signal::TERM);
    for (((flags, _), watcher), expected) in filters.iter().zip(&watchers).zip(&expected) {
        assert!(watcher.seen.wait_end(DEADLINE));
        assert!(!expected.is_empty(), "{flags:?}");
        if let Err(difference) = check(&since(watcher), expected) {
            panic!("{flags:?}\n{difference}");
        }
    }
}

/// What has happened before the daemon is told to stop is still shown.
#[test]
fn what_is_left_is_shown_at_the_end() {
    let Some(mut lab) = Lab::start("what_is_left_is_shown_at_the_end", &[], &[]) else {
        return;
    };
    let server = closed_port(V4);
    let clients = lab.inside(|| {
        let clients = (0..100).map(|_| connect_refused(V4.client, server));
        clients.collect::<Vec<_>>()
    });
    lab.daemon.stop(Signal::TERM);
    assert!(lab.watcher.seen.wait_end(DEADLINE));
    let cause = json!({"cause": "refused"});
    let both = |client| {
        [
            sent(server, client, cause.clone()),
            received(client, server, cause.clone()),
        ]
    };
    let expected: Vec<Value> = clients.into_iter().flat_map(both).collect();
    let own = lab.watcher.events().into_iter().map(|seen| seen.event);
    let own = own.filter(|event| lab.is_own(event) && !is_sentinel(event));
    if let Err(difference) = check(&own.collect::<Vec<_>>(), &expected) {
        panic!("{difference}");
    }
}
