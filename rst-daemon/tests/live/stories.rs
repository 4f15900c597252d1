//! Resets that belong together: both ends of a connection, and the restart of a
//! service.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use serde_json::{Value, json};

use crate::collect::{Collected, DEADLINE, wait_until};
use crate::expect::{this_process, verdict};
use crate::kernel::Limit;
use crate::lab::Lab;
use crate::netns::{Family, V4};
use crate::process::{Process, RST};
use crate::tcp::{self, Pair};

/// A watcher that prints text, and its lines.
fn text_watcher(lab: &Lab, filter: [&str; 2]) -> (Process, Collected<String>) {
    let mut command = Command::new(RST);
    command.arg("watch").args(filter).arg("--socket");
    command.arg(&lab.daemon.socket);
    let mut process = Process::start(command);
    let lines = Collected::start(process.stdout(), |line| line);
    (process, lines)
}

/// Each end tells who the other one is, and as text it is one line, also where the
/// ends are in two namespaces.
#[test]
fn both_ends_are_one_story() {
    let Some(lab) = Lab::start("both_ends_are_one_story", &[], &[]) else {
        return;
    };
    let another = lab.another();
    let ends: [Family; 2] = lab.netns.join(&another, 1);
    let mut expected = Vec::new();
    for family in ends {
        let mut pair = Pair::across(&lab.netns, &another, family);
        let (_process, lines) = text_watcher(&lab, ["--port", &pair.server_end.port().to_string()]);
        pair.client.write_all(b"question").unwrap();
        // The watcher has no way to say that it listens: a refusal on the same port
        // shows that it does.
        let mut refusals = Vec::new();
        let there = || {
            let server = SocketAddr::new(V4.server, pair.server_end.port());
            let client = lab.inside(|| tcp::connect_refused(V4.client, server));
            refusals.push((server, client));
            lines
                .wait(DEADLINE / 20, |lines| (!lines.is_empty()).then_some(()))
                .is_some()
        };
        wait_until("the watcher prints", there);
        let Pair {
            server,
            client,
            server_end,
            client_end,
            ..
        } = pair;
        tcp::wait_unread(&server, 8);
        drop(server);
        tcp::wait_error(&client);
        let of_pair = format!("{}", client_end.port());
        let line = lines.wait(DEADLINE, |lines| {
            lines.iter().find(|line| line.contains(&of_pair)).cloned()
        });
        let line = line.expect("a line of the pair");
        assert!(line.contains(" sent     unread_data "), "{line}");
        let this = this_process();
        let peer = format!(
            " peer={}[{}]:peer_abort ",
            this["comm"].as_str().unwrap(),
            this["pid"]
        );
        assert!(line.contains(&peer), "{line}");
        lab.flush();
        let of_pair = lines
            .wait(DEADLINE, |lines| {
                let lines = lines.iter().filter(|line| line.contains(&of_pair));
                Some(lines.count())
            })
            .unwrap_or_default();
        assert_eq!(of_pair, 1, "told once");

        let mut sent = verdict(
            "sent",
            server_end,
            client_end,
            ["unread_data", "connection_broken", "server"],
        );
        let mut received = verdict(
            "received",
            client_end,
            server_end,
            ["peer_abort", "connection_broken", "client"],
        );
        sent["netns"] = json!(another.inode);
        for (event, cause) in [(&mut sent, "peer_abort"), (&mut received, "unread_data")] {
            event["peer_cause"] = json!(cause);
            event["peer_owner"] = json!({"pid": this["pid"], "comm": this["comm"]});
        }
        expected.extend([sent, received]);
        for (server, client) in refusals {
            let cause = |direction, local, remote| {
                let mut event = verdict(direction, local, remote, ["refused", "", ""]);
                for name in ["impact", "role"] {
                    event.as_object_mut().unwrap().remove(name);
                }
                event["peer_cause"] = json!("refused");
                event
            };
            let mut sent = cause("sent", server, client);
            sent["peer_owner"] = json!({"pid": this["pid"], "source": "connect"});
            expected.push(sent);
            expected.push(cause("received", client, server));
        }
    }
    lab.finish(&expected);
}

/// A service goes, is missed, and comes back.
#[test]
fn restart_links_the_resets_in_between() {
    let Some(lab) = Lab::start("restart_links_the_resets_in_between", &[], &[]) else {
        return;
    };
    if !lab
        .kernel
        .shows_in("restart_links_the_resets_in_between", Limit::NoSocket)
    {
        lab.finish(&[]);
        return;
    }
    // Before the listener is there: a child that starts holds it for a moment.
    let (_process, lines) = text_watcher(&lab, ["--netns", &lab.netns.inode.to_string()]);
    wait_until("the watcher is there", || {
        lab.flush();
        lines.with(|lines| !lines.is_empty())
    });
    let listener = lab.inside(|| tcp::listener(V4.server, 16));
    let server = listener.local_addr().unwrap();
    drop(listener);
    let mut expected = Vec::new();
    for resets in 1..=3 {
        let client = lab.inside(|| tcp::connect_refused(V4.client, server));
        let failed = |role| ["refused", "connect_failed", role];
        let received = verdict("received", client, server, failed("client"));
        let mut sent = verdict("sent", server, client, failed("server"));
        lab.wait_event(&sent);
        sent["restart"] = json!({"started": null, "resets": resets});
        expected.extend([sent, received]);
    }
    let _again = lab.inside(|| tcp::listen_at(server));
    let wanted = json!({"port": server.port(), "restart": {"resets": 3}});
    let restarted = lab.wait_event(&wanted).event;
    let time = |name: &str| -> jiff::Timestamp {
        restarted["restart"][name]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    };
    assert!(time("stopped") < time("started"), "{restarted}");
    assert_eq!(restarted["time"], restarted["restart"]["started"]);
    // Connections to it are none of its resets.
    let mut pair = lab.inside(|| tcp::connect(V4.client, server).0);
    pair.write_all(b"x").unwrap();
    let told = lines.wait(DEADLINE, |lines| {
        let mut lines = lines.iter();
        lines.find(|line| line.contains(" restart ")).cloned()
    });
    let told = told.unwrap_or_else(|| {
        let lines = lines.with(|lines| lines.join("\n"));
        panic!("no line of the restart {restarted}, only {lines}");
    });
    let name = restarted["restart"]["workload"]["name"].as_str();
    let told_end = told.split_once(" restart  ").unwrap().1;
    // Nothing may have sorted this process into a cgroup.
    let name = name.filter(|name| *name != "/").unwrap_or("a service");
    let expected_end = format!("{name} listens again on port {} after ", server.port());
    assert!(told_end.starts_with(&expected_end), "{told}");
    assert!(told.ends_with(": 3 resets in between"), "{told}");
    let events = lab.finish(&expected);
    let stopped = |event: &Value| event["restart"]["stopped"].clone();
    let linked = events.iter().filter(|event| !event["restart"].is_null());
    for event in linked {
        assert_eq!(stopped(event), stopped(&restarted), "the same restart");
    }
    drop(pair);
}
