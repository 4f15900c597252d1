//! Sockets that come to lie where others were.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use super::{Script, client_address, owner, python, workload};
use crate::cgroup::{Cgroup, NEEDS_CGROUPS};
use crate::lab::{Lab, is_sentinel, skipped};
use crate::netns::V4;
use crate::tcp;

/// Connections made and reset again and again, by processes with a name and an
/// address of their own.
const CHURN: &str = r"
import socket, sys
comm, address, port, count = sys.argv[1:]
with open('/proc/self/comm', 'w') as file:
    file.write(comm)
print('ready', flush=True)
sys.stdin.readline()
for _ in range(int(count)):
    connection = socket.socket()
    connection.bind((address, 0))
    try:
        connection.connect(('127.0.0.1', int(port)))
        connection.recv(1)
    except ConnectionResetError:
        pass
    connection.close()
print('done', flush=True)
sys.stdin.read()
";

/// Processes that connect.
const CLIENTS: usize = 4;
/// Connections of each.
const ROUNDS: usize = 25_000;
/// Threads that accept, and abort what they have accepted.
const SERVERS: usize = 2;

/// A table with little room, and details as many as are read in time: the rest is
/// counted alone.
const SETTINGS: &str = "details_per_second = 1000\nring_bytes = 16777216\ntracked_sockets = 64";

/// Each reset is counted under the service of the process that it happened to, and
/// each that is told names that process; or nobody, where the table had no room.
#[test]
fn no_owner_is_ever_wrong() {
    let test = "no_owner_is_ever_wrong";
    let Some(lab) = Lab::configured(test, &["python3"], SETTINGS, &[]) else {
        return;
    };
    let names: [String; CLIENTS] = std::array::from_fn(|number| format!("churn-{number}"));
    let Some(services): Option<Vec<_>> = names.iter().map(|name| Cgroup::service(name)).collect()
    else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let addresses: [IpAddr; CLIENTS] = std::array::from_fn(client_address);
    let listener = lab.inside(|| tcp::listener(V4.server, 128));
    let server = listener.local_addr().unwrap();
    let mut clients: [Script; CLIENTS] = std::array::from_fn(|number| {
        let args = [
            names[number].clone(),
            addresses[number].to_string(),
            server.port().to_string(),
            ROUNDS.to_string(),
        ];
        let client = python(&lab.netns, CHURN, &args);
        let mut client = Script::start(services[number].command(&client));
        assert_eq!(client.says(), "ready");
        client
    });
    let before = lab.quiet_scrape();
    let all = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..SERVERS {
            scope.spawn(|| {
                while all.fetch_add(1, Ordering::Relaxed) < CLIENTS * ROUNDS {
                    let (accepted, _) = listener.accept().unwrap();
                    tcp::abort(accepted);
                }
            });
        }
        clients.iter_mut().for_each(Script::go_on);
    });
    for client in &mut clients {
        assert_eq!(client.says(), "done");
    }
    let after = lab.quiet_scrape();
    let port = server.port().to_string();
    let counted = |workload: &str| {
        let labels = [
            ("direction", "received"),
            ("port", &*port),
            ("workload", workload),
        ];
        after.resets(&before, &labels)
    };
    let counted_right = services
        .iter()
        .map(|service| counted(service.named()["name"].as_str().unwrap()));
    let counted_right: Vec<u64> = counted_right.collect();
    let (told, wrong) = check(&lab, server, &clients, &services, &addresses);
    let [known, seen] = told;
    println!("{known} of {seen} clients told were known; counted: {counted_right:?}");
    assert!(wrong.is_empty(), "{} were wrong: {}", wrong.len(), wrong[0]);
    assert!(known > 0, "nothing was known at all");
    let unknown = counted("unknown");
    let each = u64::try_from(ROUNDS).unwrap();
    assert!(counted_right.iter().all(|count| *count <= each));
    let all = counted_right.iter().sum::<u64>() + unknown;
    assert_eq!(
        all,
        each * u64::try_from(CLIENTS).unwrap(),
        "{unknown} unknown"
    );
}

/// Looks at what was told: of how many clients the owner was known, of how many in
/// all; and the events that say something wrong.
fn check(
    lab: &Lab,
    server: SocketAddr,
    clients: &[Script],
    services: &[Cgroup],
    addresses: &[IpAddr],
) -> ([usize; 2], Vec<Value>) {
    let this = std::process::id();
    let [sender, acceptor] = ["current", "listener"].map(|source| owner(this, source));
    let this = workload(this);
    let clients = clients.iter().zip(services);
    let clients: Vec<_> = clients
        .map(|(client, service)| (client.owner("connect"), service.named()))
        .collect();
    let mut wrong = Vec::new();
    let [mut known, mut seen] = [0, 0];
    // Too many to show each: what the watcher got is enough.
    for event in lab.watcher.events().into_iter().map(|seen| seen.event) {
        let is_other = !lab.is_own(&event) || is_sentinel(&event);
        if is_other || event["cause"] == "refused" {
            continue;
        }
        let ip: IpAddr = event["local"]["ip"].as_str().unwrap().parse().unwrap();
        let client = addresses.iter().position(|address| *address == ip);
        let (owner, workload) = match client {
            Some(client) => {
                seen += 1;
                known += usize::from(!event["owner"].is_null());
                (&clients[client].0, &clients[client].1)
            }
            None if event["direction"] == "sent" => (&sender, &this),
            None => (&acceptor, &this),
        };
        assert_eq!(ip == server.ip(), client.is_none(), "{event}");
        let is_right = |told: &Value, truth: &Value| told.is_null() || told == truth;
        if !is_right(&event["owner"], owner) || !is_right(&event["workload"], workload) {
            wrong.push(event);
        }
    }
    ([known, seen], wrong)
}
