//! Applications and processes that close with something left undone.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Command;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::DEADLINE;
use crate::expect::{owner, received, sent, socket, this_process};
use crate::lab::{Lab, live};
use crate::netns::{FAMILIES, Family, V4};
use crate::process::{Process, find_program};
use crate::tcp::{self, Pair};

/// The reset of an application's close, as the peer's end receives it while
/// neither side has closed.
fn met_established(role: &str, impact: &str, fields: Value) -> Value {
    let mut facts = socket(fields);
    facts["cause"] = json!("peer_abort");
    facts["impact"] = json!(impact);
    facts["role"] = json!(role);
    facts["state"] = json!("ESTABLISHED");
    facts
}

#[test]
fn server_closes_with_unread_data() {
    live("server_closes_with_unread_data", &[], |_| {
        FAMILIES.into_iter().flat_map(unread_at_server).collect()
    });
}

fn unread_at_server(family: Family) -> [Value; 2] {
    let mut pair = Pair::new(family);
    pair.client.write_all(b"hello").unwrap();
    tcp::wait_unread(&pair.server, 5);
    tcp::wait_acknowledged(&pair.client);
    drop(pair.server);
    let error = tcp::wait_error(&pair.client);
    assert_eq!(error, std::io::ErrorKind::ConnectionReset);
    unread_events(pair.server_end, pair.client_end, &this_process())
}

fn unread_events(
    server: std::net::SocketAddr,
    client: std::net::SocketAddr,
    owner: &Value,
) -> [Value; 2] {
    let closed = socket(json!({
        "cause": "unread_data", "impact": "connection_broken", "reason": "TCP_ABORT_ON_CLOSE",
        "role": "server", "state": "ESTABLISHED", "turn": "peer", "owner": owner,
        "unread_bytes": 5, "unacked_bytes": 0, "bytes_received": 5, "bytes_sent": 0,
    }));
    let lost = met_established(
        "client",
        "connection_broken",
        json!({
            "turn": "us", "unread_bytes": 0, "unacked_bytes": 0,
            "bytes_received": 0, "bytes_sent": 5,
        }),
    );
    [sent(server, client, closed), received(client, server, lost)]
}

/// An IPv4 client of a dual-stack listener: the kernel's socket is an IPv6 one
/// with mapped addresses.
#[test]
fn mapped_addresses_are_ipv4() {
    live("mapped_addresses_are_ipv4", &[], |_| {
        let listener = tcp::listener(std::net::Ipv6Addr::UNSPECIFIED.into(), 16);
        let port = listener.local_addr().unwrap().port();
        let server_end = std::net::SocketAddr::new(V4.server, port);
        let (mut client, client_end) = tcp::connect(V4.client, server_end);
        let (server, from) = listener.accept().unwrap();
        assert!(from.is_ipv6(), "{from} is not mapped");
        client.write_all(b"hello").unwrap();
        tcp::wait_unread(&server, 5);
        tcp::wait_acknowledged(&client);
        drop(server);
        tcp::wait_error(&client);
        unread_events(server_end, client_end, &this_process()).into()
    });
}

#[test]
fn server_aborts_after_its_answer() {
    live("server_aborts_after_its_answer", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            tcp::abort(pair.server);
            tcp::wait_error(&pair.client);
            let aborted = socket(json!({
                "cause": "app_abort", "impact": "benign", "reason": "TCP_STATE",
                "role": "server", "state": "ESTABLISHED", "turn": "us", "owner": this_process(),
                "linger": {"time_s": 0}, "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 8, "bytes_sent": 6,
            }));
            expected.push(sent(pair.server_end, pair.client_end, aborted));
            let lost = json!({
                "turn": "peer", "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 6, "bytes_sent": 8,
            });
            let lost = met_established("client", "uncertain", lost);
            expected.push(received(pair.client_end, pair.server_end, lost));
        }
        expected
    });
}

#[test]
fn server_aborts_with_an_answer_pending() {
    live("server_aborts_with_an_answer_pending", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            tcp::abort(pair.server);
            tcp::wait_error(&pair.client);
            let aborted = socket(json!({
                "cause": "app_abort", "impact": "connection_broken", "reason": "TCP_STATE",
                "role": "server", "state": "ESTABLISHED", "turn": "peer", "owner": this_process(),
                "linger": {"time_s": 0}, "unread_bytes": 0, "unacked_bytes": 0,
            }));
            expected.push(sent(pair.server_end, pair.client_end, aborted));
            let lost = json!({"turn": "us", "unread_bytes": 0, "unacked_bytes": 0});
            let lost = met_established("client", "connection_broken", lost);
            expected.push(received(pair.client_end, pair.server_end, lost));
        }
        expected
    });
}

/// What a health checker does.
#[test]
fn client_aborts_after_the_answer() {
    live("client_aborts_after_the_answer", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer");
            tcp::abort(pair.client);
            tcp::wait_error(&pair.server);
            let aborted = socket(json!({
                "cause": "app_abort", "impact": "benign", "reason": "TCP_STATE",
                "role": "client", "state": "ESTABLISHED", "turn": "peer", "owner": this_process(),
                "linger": {"time_s": 0}, "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 6, "bytes_sent": 8,
            }));
            expected.push(sent(pair.client_end, pair.server_end, aborted));
            let lost = json!({
                "turn": "us", "unread_bytes": 0, "unacked_bytes": 0,
                "bytes_received": 8, "bytes_sent": 6,
            });
            let lost = met_established("server", "benign", lost);
            expected.push(received(pair.server_end, pair.client_end, lost));
        }
        expected
    });
}

/// With unread data the kernel resets on account of that, before it looks at
/// SO_LINGER.
#[test]
fn server_aborts_with_unread_data() {
    live("server_aborts_with_unread_data", &[], |_| {
        let mut expected = Vec::new();
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.client.write_all(b"hello").unwrap();
            tcp::wait_unread(&pair.server, 5);
            tcp::wait_acknowledged(&pair.client);
            tcp::abort(pair.server);
            tcp::wait_error(&pair.client);
            let [mut closed, lost] =
                unread_events(pair.server_end, pair.client_end, &this_process());
            closed["linger"] = json!({"time_s": 0});
            expected.extend([closed, lost]);
        }
        expected
    });
}

/// A server in Python that accepts one connection, reads nothing, and exits
/// with status 3 when its standard input ends.
const SERVER: &str = "
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
listener.bind((sys.argv[1], 0))
listener.listen()
print(listener.getsockname()[1], flush=True)
connection, peer = listener.accept()
print('accepted', flush=True)
sys.stdin.read()
import os
os._exit(3)
";

#[test]
fn process_is_killed_with_unread_data() {
    let test = "process_is_killed_with_unread_data";
    live(test, &["python3"], |lab| {
        let killed = |server: &mut Process| server.signal(Signal::KILL);
        let exit = json!({"signal": 9, "code": null});
        let both = FAMILIES.map(|family| unread_at_process(lab, family, killed, &exit));
        both.concat()
    });
}

#[test]
fn process_exits_with_unread_data() {
    let test = "process_exits_with_unread_data";
    live(test, &["python3"], |lab| {
        let exits = |server: &mut Process| drop(server.stdin());
        let exit = json!({"signal": null, "code": 3});
        let both = FAMILIES.map(|family| unread_at_process(lab, family, exits, &exit));
        both.concat()
    });
}

fn unread_at_process(
    lab: &Lab,
    family: Family,
    end: impl Fn(&mut Process),
    exit: &Value,
) -> Vec<Value> {
    let python = find_program("python3").expect("checked before");
    let mut command: Command = lab.netns.command(&python);
    command.args(["-c", SERVER]).arg(family.server.to_string());
    let mut process = Process::start(command);
    let mut lines = BufReader::new(process.stdout()).lines().map(Result::unwrap);
    let port = lines.next().unwrap().parse().unwrap();
    let server_end = std::net::SocketAddr::new(family.server, port);
    let (mut client, client_end) = tcp::connect(family.client, server_end);
    assert_eq!(lines.next().as_deref(), Some("accepted"));
    client.write_all(b"hello").unwrap();
    tcp::wait_acknowledged(&client);
    let comm = format!("/proc/{}/comm", process.pid());
    let comm = std::fs::read_to_string(comm).unwrap();
    let owner = owner(process.pid(), comm.trim_end());
    end(&mut process);
    process.wait(DEADLINE);
    tcp::wait_error(&client);
    let [mut closed, lost] = unread_events(server_end, client_end, &owner);
    closed["cause"] = json!("process_exit");
    closed["exit"] = exit.clone();
    vec![closed, lost]
}
