//! Whose connection it was: the process and the service.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;

use rst_daemon::workload::of_cgroup;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::DEADLINE;
use crate::expect::{this_process, verdict};
use crate::lab::{Lab, is_sentinel, live, skipped};
use crate::netns::{FAMILIES, V4};
use crate::process::{Process, find_program};
use crate::programs::Server;
use crate::tcp::{self, Pair};

/// A cgroup of its own, removed on drop.
struct Cgroup {
    folder: PathBuf,
    /// As the kernel names it.
    path: String,
}

impl Cgroup {
    /// Makes one; `None` where this process may not.
    fn new(name: &str) -> Option<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let root = mounts.lines().find_map(|line| {
            let columns: Vec<&str> = line.split(' ').collect();
            (columns.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(columns[1]))
        })?;
        let path = format!("/rst-test-{}-{name}.service", std::process::id());
        let folder = root.join(&path[1..]);
        fs::create_dir(&folder).ok()?;
        Some(Self { folder, path })
    }

    /// A command that runs in it, with the pid that the child gets.
    fn command(&self, inner: &Command) -> Command {
        let mut command = Command::new("/bin/sh");
        let script = r#"echo $$ > "$0" && exec "$@""#;
        command
            .args(["-c", script])
            .arg(self.folder.join("cgroup.procs"));
        command.arg(inner.get_program()).args(inner.get_args());
        command
    }

    /// What the JSON says of it.
    fn named(&self) -> Value {
        serde_json::to_value(of_cgroup(&self.path)).unwrap()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its processes are gone a moment after they have been waited for.
        for _ in 0..1000 {
            if fs::remove_dir(&self.folder).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Accepts one connection, waits for its input, and closes without reading.
const SERVER: &str = r"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.create_server((sys.argv[1], 0), family=family)
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
connection.recv(1, socket.MSG_PEEK)
connection.close()
sys.stdin.read()
";

/// Asks, and waits for the answer.
const CLIENT: &str = r"
import socket, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])))
print(connection.getsockname()[1], flush=True)
connection.sendall(b'hello')
try:
    connection.recv(1)
except ConnectionResetError:
    pass
sys.stdin.read()
";

fn python(lab: &Lab, script: &str, args: &[String]) -> Command {
    let python = find_program("python3").expect("checked before");
    let mut command = lab.netns.command(python);
    command.args(["-c", script]).args(args);
    command
}

/// The first line that a program prints, a port.
fn port(process: &mut Process) -> u16 {
    let mut line = String::new();
    BufReader::new(process.stdout())
        .read_line(&mut line)
        .unwrap();
    line.trim().parse().unwrap()
}

/// The name of a process, as `ps` shows it.
fn comm(process: &Process) -> String {
    let comm = fs::read_to_string(format!("/proc/{}/comm", process.pid())).unwrap();
    comm.trim_end().to_owned()
}

fn owner(process: &Process, source: &str) -> Value {
    json!({"pid": process.pid(), "comm": comm(process), "source": source})
}

/// Two services, each in a cgroup of its own.
#[test]
fn services_are_told_apart() {
    let test = "services_are_told_apart";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let (Some(web), Some(app)) = (Cgroup::new("web"), Cgroup::new("app")) else {
        return skipped(test, "needs a cgroup2 file system that it may write to");
    };
    let expected = FAMILIES.map(|family| {
        let address = family.server.to_string();
        let server = python(&lab, SERVER, std::slice::from_ref(&address));
        let mut server = Process::start(web.command(&server));
        let server_end = SocketAddr::new(family.server, port(&mut server));
        let client = python(&lab, CLIENT, &[address, server_end.port().to_string()]);
        let mut client = Process::start(app.command(&client));
        // To another address of the host it goes from that one.
        let client_end = SocketAddr::new(family.server, port(&mut client));
        let closed = ["unread_data", "connection_broken", "server"];
        let mut closed = verdict("sent", server_end, client_end, closed);
        closed["owner"] = owner(&server, "current");
        closed["workload"] = web.named();
        closed["cgroup"] = json!(web.path);
        let lost = ["peer_abort", "connection_broken", "client"];
        let mut lost = verdict("received", client_end, server_end, lost);
        lost["owner"] = owner(&client, "connect");
        lost["workload"] = app.named();
        lost["cgroup"] = json!(app.path);
        lab.wait_event(&closed);
        lab.wait_event(&lost);
        // The service that listened, though it is gone.
        server.signal(Signal::KILL);
        server.wait(DEADLINE);
        let from = lab.inside(|| tcp::connect_refused(family.client, server_end));
        let refused = ["refused", "connect_failed", "server"];
        let mut refused = verdict("sent", server_end, from, refused);
        refused["owner"] = Value::Null;
        refused["workload"] = web.named();
        lab.wait_event(&refused);
        let failed = ["refused", "connect_failed", "client"];
        let mut failed = verdict("received", from, server_end, failed);
        failed["owner"] = this_process();
        failed["owner"]["source"] = json!("connect");
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

/// The process that asked has ended when its connection is reset.
#[test]
fn process_that_has_gone_keeps_its_name() {
    let test = "process_that_has_gone_keeps_its_name";
    live(test, &["python3"], |lab| {
        let both = FAMILIES.map(|family| {
            let listener = tcp::listener(family.server, 16);
            let server_end = listener.local_addr().unwrap();
            let args = [family.server.to_string(), server_end.port().to_string()];
            let mut client = Process::start(python(lab, CLIENT, &args));
            let client_end = SocketAddr::new(family.server, port(&mut client));
            let (server, _) = listener.accept().unwrap();
            tcp::wait_unread(&server, 5);
            let owner = owner(&client, "connect");
            client.signal(Signal::KILL);
            client.wait(DEADLINE);
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

const APP: &str = r"
def app(environ, start_response):
    start_response('200 OK', [('Content-Length', '5')])
    return [b'hello']
";

/// Which of the workers has a connection is not known where the peer resets it:
/// the one that listens is told.
#[test]
fn workers_share_a_listener() {
    let test = "workers_share_a_listener";
    let Some(lab) = Lab::start(test, &["gunicorn"], &[]) else {
        return;
    };
    let listen = FAMILIES.map(|family| SocketAddr::new(family.server, 8000));
    let settings = [
        "--workers",
        "3",
        "--worker-class",
        "gthread",
        "--keep-alive",
        "30",
    ];
    let gunicorn = Server::gunicorn(&lab.netns, &lab.folder, APP, &settings, listen);
    let expected = lab.inside(|| {
        let both = FAMILIES.map(|family| {
            let server_end = SocketAddr::new(family.server, 8000);
            let (mut client, client_end) = tcp::connect(family.client, server_end);
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut answer = BufReader::new(&client);
            let mut line = String::new();
            while !line.ends_with("hello") && line.len() < 1000 {
                let read = answer.fill_buf().unwrap();
                line.push_str(&String::from_utf8_lossy(read));
                let read = read.len();
                answer.consume(read);
            }
            tcp::wait_unread(&client, 0);
            tcp::abort(client);
            json!({
                "direction": "received", "role": "server", "cause": "peer_abort",
                "remote": {"ip": client_end.ip(), "port": client_end.port()},
                "owner": {"pid": gunicorn.0.pid(), "comm": "gunicorn", "source": "listener"},
            })
        });
        for event in &both {
            lab.wait_event(event);
        }
        both
    });
    drop(gunicorn);
    lab.finish_with(&expected, |event| event["direction"] == "sent");
}

/// Connections made and reset again and again, so that sockets come to lie where
/// others were, by two processes, each from an address of its own.
const CHURN: &str = r"
import socket, sys
for _ in range(int(sys.argv[4])):
    connection = socket.socket()
    connection.bind((sys.argv[1], 0))
    try:
        connection.connect((sys.argv[2], int(sys.argv[3])))
        connection.recv(1)
    except ConnectionResetError:
        pass
    connection.close()
";

/// Connections of each process.
const ROUNDS: usize = 3000;

#[test]
fn no_owner_is_ever_wrong() {
    let test = "no_owner_is_ever_wrong";
    let settings = "details_per_second = 100000\nring_bytes = 16777216\ntracked_sockets = 64";
    let Some(lab) = Lab::configured(test, &["python3"], settings, &[]) else {
        return;
    };
    let listener = lab.inside(|| tcp::listener(V4.server, 128));
    let server = listener.local_addr().unwrap();
    let addresses = [2, 3].map(|host| IpAddr::V4(Ipv4Addr::new(127, 0, 1, host)));
    let clients = addresses.map(|address| {
        let args = [
            address.to_string(),
            server.ip().to_string(),
            server.port().to_string(),
            ROUNDS.to_string(),
        ];
        Process::start(python(&lab, CHURN, &args))
    });
    for _ in 0..2 * ROUNDS {
        let (accepted, _) = listener.accept().unwrap();
        tcp::abort(accepted);
    }
    let pids = clients.map(|mut client| {
        let pid = client.pid();
        assert!(client.wait(DEADLINE).success());
        pid
    });
    lab.flush();
    let mut known = 0;
    // Too many to show each: what the watcher got is enough.
    for event in lab.watcher.events().into_iter().map(|seen| seen.event) {
        if !lab.is_own(&event) || is_sentinel(&event) {
            continue;
        }
        let Some(owner) = event["owner"].as_object() else {
            continue;
        };
        let told = &owner["pid"];
        let truth = if event["direction"] == "sent" || event["role"] == "server" {
            std::process::id()
        } else {
            let ip: IpAddr = event["local"]["ip"].as_str().unwrap().parse().unwrap();
            let client = addresses.iter().position(|address| *address == ip);
            client.map_or(std::process::id(), |client| pids[client])
        };
        assert_eq!(*told, truth, "{event}");
        known += u32::from(event["role"] == "client");
    }
    println!("{known} of {} clients were known", 2 * ROUNDS);
    assert!(known > 0, "nothing was known at all");
}

/// Every connection is counted once at each end.
#[test]
fn connections_are_counted() {
    let Some(lab) = Lab::start("connections_are_counted", &[], &[]) else {
        return;
    };
    let before = lab.quiet_scrape();
    let ports = lab.inside(|| FAMILIES.map(|family| Pair::new(family).server_end.port()));
    let grown = lab
        .quiet_scrape()
        .increase(&before, "rst_connections_total", &["role", "port"]);
    for port in ports {
        for role in ["client", "server"] {
            let found = grown
                .iter()
                .find(|(labels, _)| labels["role"] == role && labels["port"] == port.to_string());
            assert_eq!(
                found.map(|(_, count)| *count),
                Some(1),
                "{role} {port}: {grown:?}"
            );
        }
    }
    lab.finish(&[]);
}

/// Ports that are served, more than the daemon has room for.
const PORTS: usize = 100;
/// Connections to each.
const EACH: usize = 100;

/// Every table is full, and nobody's connection fails or goes uncounted.
#[test]
fn full_tables_fail_no_connection() {
    let test = "full_tables_fail_no_connection";
    let settings = "max_series = 64\ntracked_sockets = 64\nclosed_connections = 64";
    let Some(lab) = Lab::configured(test, &[], settings, &[]) else {
        return;
    };
    let before = lab.quiet_scrape();
    lab.inside(|| {
        let listeners: Vec<_> = (0..PORTS).map(|_| tcp::listener(V4.server, 16)).collect();
        for number in 0..PORTS * EACH {
            let listener = &listeners[number % PORTS];
            let server = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(server).expect("no connection fails");
            let (accepted, _) = listener.accept().unwrap();
            if number % 10 == 0 {
                tcp::abort(accepted);
            } else {
                drop(client);
            }
        }
    });
    let after = lab.quiet_scrape();
    let counted = after.increase(&before, "rst_connections_total", &["role"]);
    let wanted = u64::try_from(PORTS * EACH).unwrap();
    for role in ["client", "server", "unknown"] {
        let labels = [("role".to_owned(), role.to_owned())].into();
        let wanted = if role == "unknown" { 0 } else { wanted };
        assert_eq!(
            counted.get(&labels).copied().unwrap_or_default(),
            wanted,
            "{role}"
        );
    }
    let other = after.increase(&before, "rst_connections_total", &["port"]);
    let other = other.get(&[("port".to_owned(), "other".to_owned())].into());
    assert!(
        other.is_some_and(|count| *count > 0),
        "the map was not full"
    );
}
