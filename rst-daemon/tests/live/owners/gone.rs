//! Processes that have ended before anybody could ask for their names.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{CLIENT, Script, python, workload};
use crate::collect::DEADLINE;
use crate::expect::verdict;
use crate::lab::{Lab, live};
use crate::netns::FAMILIES;
use crate::tcp;

/// The process that asked has ended when its connection is reset.
#[test]
fn process_that_has_gone_keeps_its_name() {
    let test = "process_that_has_gone_keeps_its_name";
    live(test, &["python3"], |lab| {
        let both = FAMILIES.map(|family| {
            let listener = tcp::listener(family.server, 16);
            let server_end = listener.local_addr().unwrap();
            let args = [family.server.to_string(), server_end.port().to_string()];
            let mut client = Script::start(python(&lab.netns, CLIENT, &args));
            let client_end = SocketAddr::new(family.server, client.number());
            let (server, _) = listener.accept().unwrap();
            tcp::wait_unread(&server, 5);
            let owner = client.owner("connect");
            client.end();
            tcp::wait_state(&server, rst_common::tcp::state::CLOSE_WAIT);
            tcp::abort(server);
            let unread = ["unread_data", "connection_broken", "server"];
            let closed = ["after_close", "benign", "client"];
            let mut closed = verdict("received", client_end, server_end, closed);
            closed["owner"] = owner;
            [verdict("sent", server_end, client_end, unread), closed]
        });
        both.concat()
    });
}

/// Connects by a name of its own, aborts or is reset, and is gone: it says when,
/// in nanoseconds of the clock, as the last thing it does.
const BRIEF: &str = r"
import os, socket, struct, sys, time
with open('/proc/self/comm', 'w') as comm:
    comm.write(sys.argv[4])
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(connection.getsockname()[1], flush=True)
if sys.argv[3] == 'sent':
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    connection.close()
else:
    try:
        connection.recv(1)
    except ConnectionResetError:
        pass
os.write(1, b'%d\n' % time.time_ns())
os._exit(0)
";

/// Processes that go, of each family and each direction.
const ROUNDS: usize = 5;

/// How soon after the reset one of them at least must have gone for the test to
/// show anything.
const AT_ONCE: Duration = Duration::from_millis(1);

/// The process goes with its connection: it is told all the same.
#[test]
fn process_that_goes_at_once_is_told() {
    let test = "process_that_goes_at_once_is_told";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let mut expected = Vec::new();
    let mut ended = Vec::new();
    let rounds = FAMILIES.into_iter().cycle().take(FAMILIES.len() * ROUNDS);
    for (number, family) in rounds.enumerate() {
        let listener = lab.inside(|| tcp::listener(family.server, 16));
        let server_end = listener.local_addr().unwrap();
        for (direction, source) in [("sent", "current"), ("received", "connect")] {
            let name = format!("brief-{number}");
            let args = [
                family.server.to_string(),
                server_end.port().to_string(),
                direction.to_owned(),
                name.clone(),
            ];
            let mut brief = Script::start(python(&lab.netns, BRIEF, &args));
            let client_end = SocketAddr::new(family.server, brief.number());
            let (server, _) = listener.accept().unwrap();
            if direction == "received" {
                tcp::abort(server);
            }
            ended.push((client_end, server_end, brief.number::<u64>()));
            let pid = brief.process.pid();
            assert!(brief.process.wait(DEADLINE).success());
            let ends = |local: SocketAddr, remote: SocketAddr, direction: &str, role: &str| {
                json!({
                    "direction": direction, "role": role,
                    "local": {"ip": local.ip(), "port": local.port()},
                    "remote": {"ip": remote.ip(), "port": remote.port()},
                })
            };
            let mut told = ends(client_end, server_end, direction, "client");
            told["owner"] = json!({"pid": pid, "comm": name, "source": source});
            told["workload"] = workload(std::process::id());
            let (other, source) = match direction {
                "sent" => ("received", "listener"),
                _ => ("sent", "current"),
            };
            let mut at_server = ends(server_end, client_end, other, "server");
            at_server["owner"] = super::owner(std::process::id(), source);
            expected.extend([told, at_server]);
        }
    }
    let events = lab.finish(&expected);
    let lived = ended.iter().map(|(client, server, at)| {
        let of_client = |event: &&Value| {
            event["role"] == "client"
                && event["local"]["port"] == client.port()
                && event["remote"]["port"] == server.port()
        };
        let event = events.iter().find(of_client).expect("just compared");
        let time: jiff::Timestamp = event["time"].as_str().unwrap().parse().unwrap();
        let ended = SystemTime::UNIX_EPOCH + Duration::from_nanos(*at);
        ended.duration_since(time.into()).unwrap_or_default()
    });
    let mut lived: Vec<Duration> = lived.collect();
    lived.sort();
    println!("they lived on for {lived:?}");
    assert!(lived[0] < AT_ONCE, "none went at once: {lived:?}");
}
