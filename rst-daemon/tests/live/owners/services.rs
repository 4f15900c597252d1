//! The service that a connection belongs to: units and containers, by their cgroup.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{CLIENT, SERVER, Script, comm, python};
use crate::cgroup::{Cgroup, NEEDS_CGROUPS};
use crate::expect::{this_process, verdict};
use crate::lab::{Lab, skipped};
use crate::netns::{FAMILIES, Family, Netns};
use crate::tcp;

/// This process, as the one that connected.
fn this_client() -> Value {
    let mut owner = this_process();
    owner["source"] = json!("connect");
    owner
}

/// Adds the service to what is expected.
fn of_service(mut event: Value, owner: Value, cgroup: &Cgroup) -> Value {
    event["owner"] = owner;
    event["workload"] = cgroup.named();
    event["cgroup"] = json!(cgroup.path);
    event
}

/// Two services, each in a cgroup of its own.
#[test]
fn services_are_told_apart() {
    let test = "services_are_told_apart";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let (Some(web), Some(app)) = (Cgroup::service("web"), Cgroup::service("app")) else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let expected = FAMILIES.map(|family| {
        let address = family.server.to_string();
        let server = python(&lab.netns, SERVER, &[address.clone(), "0".to_owned()]);
        let mut server = Script::start(web.command(&server));
        let server_end = SocketAddr::new(family.server, server.number());
        let client = python(
            &lab.netns,
            CLIENT,
            &[address, server_end.port().to_string()],
        );
        let mut client = Script::start(app.command(&client));
        // To another address of the host it goes from that one.
        let client_end = SocketAddr::new(family.server, client.number());
        let closed = ["unread_data", "connection_broken", "server"];
        let closed = verdict("sent", server_end, client_end, closed);
        let closed = of_service(closed, server.owner("current"), &web);
        let lost = ["peer_abort", "connection_broken", "client"];
        let lost = verdict("received", client_end, server_end, lost);
        let lost = of_service(lost, client.owner("connect"), &app);
        lab.wait_event(&closed);
        lab.wait_event(&lost);
        // The service that listened, though it is gone.
        server.end();
        let [refused, failed] = lab.inside(|| refused(family, server_end, &web));
        [closed, lost, refused, failed]
    });
    for event in lab.finish(&expected.concat()) {
        if event["cause"] == "refused" && event["direction"] == "sent" {
            let basis = event["basis"].as_str().unwrap();
            let web = web.named()["name"].as_str().unwrap().to_owned();
            let told = format!("has lost its listener; {web} (pid ");
            assert!(basis.contains(&told), "{basis}");
            let how = " s ago, killed by signal 9";
            assert!(basis.ends_with(how), "{basis}");
        }
    }
}

/// An attempt to connect where a service has listened, and what is said of it.
fn refused(family: Family, server_end: SocketAddr, service: &Cgroup) -> [Value; 2] {
    let from = tcp::connect_refused(family.client, server_end);
    let refused = ["refused", "connect_failed", "server"];
    let mut refused = verdict("sent", server_end, from, refused);
    refused["owner"] = Value::Null;
    refused["workload"] = service.named();
    let failed = ["refused", "connect_failed", "client"];
    let mut failed = verdict("received", from, server_end, failed);
    failed["owner"] = this_client();
    [refused, failed]
}

/// The port that two services listen on.
const PORT: u16 = 8080;

/// Two services at the same address and port, in two network namespaces. Each
/// reset is of the right one, also where nobody listens any more.
#[test]
fn same_port_in_two_namespaces() {
    let test = "same_port_in_two_namespaces";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let (Some(first), Some(second)) = (Cgroup::service("a"), Cgroup::service("b")) else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let other = lab.another();
    let places = [(&lab.netns, &first), (&other, &second)];
    let in_namespace = |netns: &Netns, mut events: Vec<Value>| {
        for event in &mut events {
            event["netns"] = json!(netns.inode);
        }
        events
    };
    let mut expected = Vec::new();
    for family in FAMILIES {
        let server_end = SocketAddr::new(family.server, PORT);
        let args = [family.server.to_string(), PORT.to_string()];
        let mut servers = places.map(|(netns, service)| {
            let server = python(netns, SERVER, &args);
            let mut server = Script::start(service.command(&server));
            assert_eq!(server.number::<u16>(), PORT);
            server
        });
        for (server, (netns, service)) in servers.iter().zip(places) {
            let (client, client_end) = netns.inside(|| tcp::connect(family.client, server_end));
            std::io::Write::write_all(&mut &client, b"hello").unwrap();
            assert_eq!(
                tcp::wait_error(&client),
                std::io::ErrorKind::ConnectionReset
            );
            let closed = ["unread_data", "connection_broken", "server"];
            let closed = verdict("sent", server_end, client_end, closed);
            let closed = of_service(closed, server.owner("current"), service);
            let lost = ["peer_abort", "connection_broken", "client"];
            let mut lost = verdict("received", client_end, server_end, lost);
            lost["owner"] = this_client();
            expected.extend(in_namespace(netns, vec![closed, lost]));
        }
        // The first while the other listens, the other, and the first again.
        for which in [0, 1, 0] {
            servers[which].end();
            let (netns, service) = places[which];
            let events = netns.inside(|| refused(family, server_end, service));
            expected.extend(in_namespace(netns, events.to_vec()));
        }
    }
    lab.finish(&expected);
}

/// In a pid namespace of its own it has another pid than the host sees: this asks,
/// and is asked by hand to abort the next connection.
const CONTAINED: &str = r"
import os, socket, struct, sys
assert os.getpid() == 1, 'no pid namespace of its own'
end = (sys.argv[1], int(sys.argv[2]))
connection = socket.create_connection(end)
print(connection.getsockname()[1], flush=True)
connection.sendall(b'hello')
try:
    connection.recv(1)
except ConnectionResetError:
    pass
connection = socket.create_connection(end)
print(connection.getsockname()[1], flush=True)
sys.stdin.readline()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
connection.close()
sys.stdin.read()
";

/// A client in a container: namespaces of its own for processes, network and
/// cgroups, and a cgroup as docker makes it.
#[test]
fn container_is_told_with_the_pid_of_the_host() {
    let test = "container_is_told_with_the_pid_of_the_host";
    let Some(lab) = Lab::start(test, &["python3", "unshare"], &[]) else {
        return;
    };
    let Some((docker, id)) = Cgroup::container() else {
        return skipped(test, NEEDS_CGROUPS);
    };
    let workload = json!({"kind": "docker", "name": id[..12]});
    assert_eq!(docker.named(), workload, "as docker ps shows it");
    let container = lab.another();
    let expected = FAMILIES.map(|family| {
        let listener = container.inside(|| tcp::listener(family.server, 16));
        let server_end = listener.local_addr().unwrap();
        let python = crate::process::find_program("python3").expect("checked before");
        let mut inner = container.command("unshare");
        inner.args(["--pid", "--cgroup", "--fork", "--kill-child"]);
        inner.arg(python).args(["-c", CONTAINED]);
        inner.args([family.server.to_string(), server_end.port().to_string()]);
        let mut client = Script::start(docker.command(&inner));
        let client_ends: [SocketAddr; 2] = std::array::from_fn(|round| {
            let end = SocketAddr::new(family.server, client.number());
            let (server, _) = listener.accept().unwrap();
            if round == 0 {
                tcp::wait_unread(&server, 5);
                tcp::abort(server);
            } else {
                client.go_on();
                assert_eq!(
                    tcp::wait_error(&server),
                    std::io::ErrorKind::ConnectionReset
                );
            }
            end
        });
        // Its first process is a child of what made the namespaces.
        let [pid] = client.process.children()[..] else {
            panic!("it has one child");
        };
        let owner = |source| json!({"pid": pid, "comm": comm(pid), "source": source});
        let lost = ["peer_abort", "connection_broken", "client"];
        let lost = verdict("received", client_ends[0], server_end, lost);
        let lost = of_service(lost, owner("connect"), &docker);
        let aborted = json!({
            "direction": "sent", "role": "client", "cause": "app_abort",
            "local": {"ip": family.server, "port": client_ends[1].port()},
            "remote": {"ip": family.server, "port": server_end.port()},
        });
        let aborted = of_service(aborted, owner("current"), &docker);
        let mut events = vec![lost, aborted];
        for (direction, client_end) in ["sent", "received"].into_iter().zip(client_ends) {
            let mut owner = this_process();
            if direction == "received" {
                owner["source"] = json!("listener");
            }
            events.push(json!({
                "direction": direction, "role": "server", "owner": owner,
                "local": {"ip": server_end.ip(), "port": server_end.port()},
                "remote": {"ip": client_end.ip(), "port": client_end.port()},
            }));
        }
        for event in &mut events {
            event["netns"] = json!(container.inode);
        }
        events
    });
    lab.finish(&expected.concat());
}
