//! Connections that several processes or threads have to do with: workers, threads,
//! children, and those that take a connection over.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use serde_json::{Value, json};

use super::{CLIENT, SERVER, Script, owner, python, workload};
use crate::collect::wait_until;
use crate::lab::Lab;
use crate::netns::{FAMILIES, Family};
use crate::programs::Server;
use crate::tcp;

/// Which process answers.
const APP: &str = r"
import os
def app(environ, start_response):
    pid = str(os.getpid()).encode()
    start_response('200 OK', [('Content-Length', str(len(pid)))])
    return [pid]
";

const PORT: u16 = 8000;

fn gunicorn(lab: &Lab, settings: &[&str]) -> Server {
    let listen = FAMILIES.map(|family| SocketAddr::new(family.server, PORT));
    let settings = [&["--workers", "3"], settings].concat();
    let gunicorn = Server::gunicorn(&lab.netns, &lab.folder, APP, &settings, listen);
    wait_until("the workers are there", || gunicorn.workers().len() == 3);
    gunicorn
}

/// An event of a connection, its owner and that one's workload.
fn of_owner(
    direction: &str,
    [local, remote]: [SocketAddr; 2],
    role: &str,
    owner: &Value,
    workload: &Value,
) -> Value {
    json!({
        "direction": direction, "role": role,
        "local": {"ip": local.ip(), "port": local.port()},
        "remote": {"ip": remote.ip(), "port": remote.port()},
        "owner": owner, "workload": workload,
    })
}

/// This process, by how it is found, at its end of a connection.
fn of_this(direction: &str, ends: [SocketAddr; 2], role: &str, source: &str) -> Value {
    let pid = std::process::id();
    of_owner(direction, ends, role, &owner(pid, source), &workload(pid))
}

/// Which of the workers has a connection is not known where the peer resets it:
/// the one that listens is told.
#[test]
fn workers_share_a_listener() {
    let test = "workers_share_a_listener";
    let Some(lab) = Lab::start(test, &["gunicorn"], &[]) else {
        return;
    };
    let gunicorn = gunicorn(&lab, &["--worker-class", "gthread", "--keep-alive", "30"]);
    let expected = lab.inside(|| {
        let both = FAMILIES.map(|family| {
            let server_end = SocketAddr::new(family.server, PORT);
            let (mut client, client_end) = tcp::connect(family.client, server_end);
            client
                .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                .unwrap();
            let mut answer = BufReader::new(&client);
            let mut line = String::new();
            while line != "\r\n" {
                line.clear();
                answer.read_line(&mut line).unwrap();
            }
            // The body came with the head, or comes still.
            assert!(!answer.fill_buf().unwrap().is_empty());
            tcp::wait_unread(&client, 0);
            tcp::abort(client);
            let ends = [server_end, client_end];
            let listener = gunicorn.0.pid();
            let owner = owner(listener, "listener");
            assert_eq!(owner["comm"], "gunicorn");
            let mut lost = of_owner("received", ends, "server", &owner, &workload(listener));
            lost["cause"] = json!("peer_abort");
            lost
        });
        for event in &both {
            lab.wait_event(event);
        }
        both
    });
    drop(gunicorn);
    lab.finish_with(&expected, |event| event["direction"] == "sent");
}

/// Requests to each address.
const REQUESTS: usize = 6;

/// Each worker leaves most of an upload unread: the one that answered is told.
#[test]
fn worker_that_resets_is_told() {
    let test = "worker_that_resets_is_told";
    let Some(lab) = Lab::start(test, &["gunicorn"], &[]) else {
        return;
    };
    let gunicorn = gunicorn(&lab, &[]);
    let workers = gunicorn.workers();
    let listener = workload(gunicorn.0.pid());
    let mut expected = Vec::new();
    lab.inside(|| {
        for family in FAMILIES.into_iter().cycle().take(FAMILIES.len() * REQUESTS) {
            let server_end = SocketAddr::new(family.server, PORT);
            let (mut client, client_end) = tcp::connect(family.client, server_end);
            // One segment, more of it than the worker reads to see the head.
            let head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 20000\r\n\r\n";
            let request = head.to_owned() + &"x".repeat(20_000);
            client.write_all(request.as_bytes()).unwrap();
            let mut answer = Vec::new();
            let error = client.read_to_end(&mut answer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            let answer = String::from_utf8(answer).unwrap();
            let (_, pid) = answer.rsplit_once("\r\n").unwrap();
            let pid: u32 = pid.parse().unwrap();
            assert!(workers.contains(&pid.cast_signed()), "{pid}: {workers:?}");
            let ends = [server_end, client_end];
            let owner = owner(pid, "current");
            assert_eq!(owner["comm"], "gunicorn");
            let mut closed = of_owner("sent", ends, "server", &owner, &listener);
            closed["cause"] = json!("unread_data");
            expected.push(closed);
            let ends = [client_end, server_end];
            expected.push(of_this("received", ends, "client", "connect"));
        }
    });
    drop(gunicorn);
    lab.finish(&expected);
}

/// Runs a program in a thread with a name of its own.
const THREAD: &str = r"
import sys, threading
def work(script):
    with open('/proc/thread-self/comm', 'w') as comm:
        comm.write('a-thread')
    exec(script, {})
threading.Thread(target=work, args=[sys.argv.pop(1)]).start()
";

/// A thread connects, and a thread accepts and closes: the process is told, by the
/// name of its first thread.
#[test]
fn process_of_a_thread_is_told() {
    let test = "process_of_a_thread_is_told";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let expected = FAMILIES.map(|family| {
        let address = family.server.to_string();
        let args = [SERVER.to_owned(), address.clone(), "0".to_owned()];
        let mut server = Script::start(python(&lab.netns, THREAD, &args));
        let server_end = SocketAddr::new(family.server, server.number());
        let args = [CLIENT.to_owned(), address, server_end.port().to_string()];
        let mut client = Script::start(python(&lab.netns, THREAD, &args));
        let client_end = SocketAddr::new(family.server, client.number());
        let both = [(&server, "current"), (&client, "connect")].map(|(script, source)| {
            let owner = script.owner(source);
            assert_ne!(owner["comm"], "a-thread");
            (owner, workload(script.process.pid()))
        });
        let [(server, service), (client, program)] = &both;
        let ends = [server_end, client_end];
        let mut closed = of_owner("sent", ends, "server", server, service);
        closed["cause"] = json!("unread_data");
        let ends = [client_end, server_end];
        let lost = of_owner("received", ends, "client", client, program);
        let both = [closed, lost];
        for event in &both {
            lab.wait_event(event);
        }
        both
    });
    lab.finish(&expected.concat());
}

/// What a connection comes from.
const ORIGIN: &str = r"
import os, socket, struct, sys
def name(comm):
    with open('/proc/self/comm', 'w') as file:
        file.write(comm)
def open_connection(role, address, port):
    if role == 'client':
        return socket.create_connection((address, int(port)))
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    listener = socket.create_server((address, 0), family=family)
    print(listener.getsockname()[1], flush=True)
    return listener.accept()[0]
def abort(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    connection.close()
";

/// Gives its connection away, with SCM_RIGHTS.
const GIVER: &str = r"
name('giver')
connection = open_connection(*sys.argv[1:4])
taker = socket.socket(socket.AF_UNIX)
taker.connect(sys.argv[4])
socket.send_fds(taker, [b'x'], [connection.fileno()])
connection.close()
print('given', flush=True)
sys.stdin.read()
";

/// Takes a connection, and aborts it when it is told.
const TAKER: &str = r"
name('taker')
meeting = socket.socket(socket.AF_UNIX)
meeting.bind(sys.argv[1])
meeting.listen()
print('ready', flush=True)
giver, _ = meeting.accept()
_, [handle], _, _ = socket.recv_fds(giver, 1, 1)
connection = socket.socket(fileno=handle)
print('taken', flush=True)
sys.stdin.readline()
abort(connection)
sys.stdin.read()
";

/// Leaves its connection to a child, which aborts it when it is told.
const PARENT: &str = r"
name('parent')
connection = open_connection(*sys.argv[1:4])
left, leaves = os.pipe()
if os.fork() == 0:
    name('child')
    os.read(left, 1)
    print('taken', flush=True)
    sys.stdin.readline()
    abort(connection)
    sys.stdin.read()
    os._exit(0)
connection.close()
os.write(leaves, b'x')
os.wait()
";

/// How a connection comes to another process.
#[derive(Clone, Copy, Debug)]
enum Way {
    Passed,
    Inherited,
}

/// Who had the connection first, and who has it in the end.
struct HandOver {
    first: Script,
    /// Where it is no child of the first.
    taker: Option<Script>,
    peer: TcpStream,
    /// This host's end at those two, and the peer's.
    ends: [SocketAddr; 2],
}

impl HandOver {
    fn new(lab: &Lab, way: Way, role: &str, family: Family) -> Self {
        let script = |code: &str, args: &[String]| {
            Script::start(python(&lab.netns, &format!("{ORIGIN}{code}"), args))
        };
        let meeting = lab.folder.0.join("meeting");
        let listener: TcpListener = lab.inside(|| tcp::listener(family.server, 16));
        let listens = listener.local_addr().unwrap();
        let meeting_path = meeting.display().to_string();
        let mut args = vec![
            role.to_owned(),
            family.server.to_string(),
            listens.port().to_string(),
        ];
        let (mut first, mut taker) = match way {
            Way::Passed => {
                let mut taker = script(TAKER, std::slice::from_ref(&meeting_path));
                assert_eq!(taker.says(), "ready");
                args.push(meeting_path);
                (script(GIVER, &args), Some(taker))
            }
            Way::Inherited => (script(PARENT, &args), None),
        };
        let (peer, ends) = if role == "client" {
            let (peer, client_end) = listener.accept().unwrap();
            (peer, [client_end, listens])
        } else {
            let server_end = SocketAddr::new(family.server, first.number());
            let (peer, client_end) = lab.inside(|| tcp::connect(family.client, server_end));
            (peer, [server_end, client_end])
        };
        if let Some(taker) = &mut taker {
            assert_eq!(first.says(), "given");
            assert_eq!(taker.says(), "taken");
            std::fs::remove_file(meeting).unwrap();
        } else {
            assert_eq!(first.says(), "taken");
        }
        Self {
            first,
            taker,
            peer,
            ends,
        }
    }

    /// The process that has it in the end.
    fn last(&self) -> u32 {
        self.taker.as_ref().map_or_else(
            || {
                let [child] = self.first.process.children()[..] else {
                    panic!("it has one child");
                };
                child
            },
            |taker| taker.process.pid(),
        )
    }
}

/// How the two of them are called.
fn names(way: Way) -> [&'static str; 2] {
    match way {
        Way::Passed => ["giver", "taker"],
        Way::Inherited => ["parent", "child"],
    }
}

/// How the owner of an end is found that did not close it.
fn source(role: &str) -> &'static str {
    if role == "client" {
        "connect"
    } else {
        "listener"
    }
}

fn other(role: &str) -> &'static str {
    if role == "client" { "server" } else { "client" }
}

/// The one that has it in the end aborts it: that one is told.
fn aborts(lab: &Lab, way: Way, role: &str, family: Family) -> [Value; 2] {
    let mut hands = HandOver::new(lab, way, role, family);
    let service = workload(hands.first.process.pid());
    let closes = owner(hands.last(), "current");
    assert_eq!(closes["comm"], names(way)[1]);
    hands.taker.as_mut().unwrap_or(&mut hands.first).go_on();
    let error = tcp::wait_error(&hands.peer);
    assert_eq!(error, ErrorKind::ConnectionReset);
    let [local, remote] = hands.ends;
    let mut aborted = of_owner("sent", [local, remote], role, &closes, &service);
    aborted["cause"] = json!("app_abort");
    let role = other(role);
    let lost = of_this("received", [remote, local], role, source(role));
    [aborted, lost]
}

/// The peer resets it: the one that had it first is told.
fn is_reset(lab: &Lab, way: Way, role: &str, family: Family) -> [Value; 2] {
    let hands = HandOver::new(lab, way, role, family);
    let first = hands.first.owner(source(role));
    assert_eq!(first["comm"], names(way)[0]);
    let service = workload(hands.first.process.pid());
    let [local, remote] = hands.ends;
    tcp::abort(hands.peer);
    let lost = of_owner("received", [local, remote], role, &first, &service);
    lab.wait_event(&lost);
    let aborted = of_this("sent", [remote, local], other(role), "current");
    [lost, aborted]
}

/// A connection has come to another process, by SCM_RIGHTS or from the parent. Where
/// that one aborts it, it is told; where the peer resets it, the one that made the
/// connection or listened for it is. The service is that one's each time.
#[test]
fn connection_of_another_process() {
    let test = "connection_of_another_process";
    let Some(lab) = Lab::start(test, &["python3"], &[]) else {
        return;
    };
    let mut expected = Vec::new();
    for family in FAMILIES {
        for way in [Way::Passed, Way::Inherited] {
            for role in ["client", "server"] {
                expected.extend(aborts(&lab, way, role, family));
                expected.extend(is_reset(&lab, way, role, family));
            }
        }
    }
    lab.finish(&expected);
}
