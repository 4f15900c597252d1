//! Connections that were there before the daemon: whoever holds them then.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Script, client_address, python_here, workload};
use crate::cgroup::{Cgroup, NEEDS_CGROUPS};
use crate::expect::{this_process, verdict};
use crate::lab::{Lab, can_run, skipped};
use crate::netns::{FAMILIES, V4};
use crate::tcp::{self, Pair};

/// A connection that was there before the daemon: whoever holds it now.
#[test]
fn connection_of_before_the_start() {
    let connect = || {
        FAMILIES.map(|family| {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair
        })
    };
    let test = "connection_of_before_the_start";
    let Some((lab, pairs)) = Lab::after(test, connect) else {
        return;
    };
    let expected = pairs.map(|pair| {
        tcp::abort(pair.server);
        tcp::wait_error(&pair.client);
        let broken = "connection_broken";
        let mut aborted = verdict(
            "sent",
            pair.server_end,
            pair.client_end,
            ["app_abort", broken, "server"],
        );
        aborted["owner"] = this_process();
        aborted["age_ms"] = Value::Null;
        let lost = ["peer_abort", broken, "client"];
        let mut lost = verdict("received", pair.client_end, pair.server_end, lost);
        // It has waited for as long as the daemon took to start: that decides.
        lost["cause"] = json!({});
        lost["owner"] = this_process();
        lost["owner"]["source"] = json!("iterator");
        lost["age_ms"] = Value::Null;
        [aborted, lost]
    });
    lab.finish(&expected.concat());
}

/// Accepts connections, and aborts one in so many when it is told to.
const HOLDER: &str = r"
import resource, socket, struct, sys
most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
def abort(connections):
    for connection in connections:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        connection.close()
role, comm, address, port, count, step, first = sys.argv[1:]
with open('/proc/self/comm', 'w') as file:
    file.write(comm)
if role == 'server':
    listener = socket.create_server((address, 0), backlog=4096)
    print(listener.getsockname()[1], flush=True)
    connections = [listener.accept()[0] for _ in range(int(count))]
    for connection in connections:
        connection.recv(1)
else:
    connections = []
    for _ in range(int(count)):
        connection = socket.socket()
        connection.bind((address, 0))
        connection.connect(('127.0.0.1', int(port)))
        connection.send(b'x')
        connections.append(connection)
print('ready', flush=True)
sys.stdin.readline()
abort(connections[int(first)::int(step)])
print('done', flush=True)
sys.stdin.read()
";

/// Processes that hold connections, with as many at their peers.
const CLIENTS: usize = 5;
/// Connections of each: ten thousand in all.
const HELD: usize = 2000;
/// One in so many is aborted, at each end.
const STEP: usize = 50;
/// How many owners must be known of those that the peer has reset: a set of the
/// table holds four, and some are fuller.
const KNOWN_PERCENT: usize = 95;

/// Those that hold the connections, each a process.
struct Holders {
    server: Script,
    clients: Vec<Script>,
}

impl Holders {
    /// Makes the connections, in this thread's namespace. Clients are in a cgroup.
    fn new(cgroup: &Cgroup) -> Self {
        let holder = |role: &str, comm: String, from: IpAddr, port: u16, count: usize| {
            // Not the same connections at both ends.
            let first = if role == "server" { "0" } else { "1" };
            let [from, port, count, step] = [
                from.to_string(),
                port.to_string(),
                count.to_string(),
                STEP.to_string(),
            ];
            let [role, first] = [role, first].map(ToOwned::to_owned);
            python_here(HOLDER, &[role, comm, from, port, count, step, first])
        };
        let all = CLIENTS * HELD;
        let mut server = Script::start(holder("server", "server".to_owned(), V4.server, 0, all));
        let server_port: u16 = server.number();
        let clients = (0..CLIENTS).map(|number| {
            let from = client_address(number);
            let comm = format!("holder-{number}");
            let client = holder("client", comm, from, server_port, HELD);
            Script::start(cgroup.command(&client))
        });
        let mut clients: Vec<Script> = clients.collect();
        for script in clients.iter_mut().chain([&mut server]) {
            assert_eq!(script.says(), "ready");
        }
        Self { server, clients }
    }
}

/// Ten thousand connections are open when the daemon starts. Whoever holds one is
/// told, or nobody, and nearly always it is known.
#[test]
fn ten_thousand_connections_of_before_the_start() {
    let test = "ten_thousand_connections_of_before_the_start";
    if !can_run(test, &["python3"]) {
        return;
    }
    let Some(cgroup) = Cgroup::service("holder") else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let Some((lab, mut holders)) = Lab::after(test, || Holders::new(&cgroup)) else {
        return;
    };
    for script in std::iter::once(&mut holders.server).chain(&mut holders.clients) {
        script.go_on();
        assert_eq!(script.says(), "done");
    }
    // What is said of the process at an address.
    let truth = |end: &Value, source: &str| {
        let ip: IpAddr = end["ip"].as_str().unwrap().parse().unwrap();
        if ip == V4.server {
            let server = &holders.server;
            return (server.owner(source), workload(server.process.pid()));
        }
        let number = (0..CLIENTS).find(|number| client_address(*number) == ip);
        let client = &holders.clients[number.expect("one of them")];
        (client.owner(source), cgroup.named())
    };
    let events = lab.finish_with(&[], |_| true);
    let mut known = 0;
    let mut received = 0;
    for event in &events {
        let is_sent = event["direction"] == "sent";
        let source = if is_sent { "current" } else { "iterator" };
        let (owner, workload) = truth(&event["local"], source);
        if is_sent {
            assert_eq!(event["owner"], owner, "{event}");
        } else {
            received += 1;
            known += usize::from(!event["owner"].is_null());
            assert!(
                event["owner"].is_null() || event["owner"] == owner,
                "{event}"
            );
        }
        let told = &event["workload"];
        assert!(told.is_null() || *told == workload, "{event}");
    }
    println!("{known} of {received} owners were known");
    // A client may have aborted what the server had aborted before.
    let sample = CLIENTS * HELD / STEP;
    assert!((sample..=2 * sample).contains(&received), "{received}");
    assert_eq!(2 * received, events.len());
    assert!(
        known * 100 >= received * KNOWN_PERCENT,
        "{known} of {received}"
    );
}
