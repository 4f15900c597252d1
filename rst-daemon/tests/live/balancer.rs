//! A balancer that resets a connection after so long a silence, whoever's turn
//! it is.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::collect::DEADLINE;
use crate::expect::{owner, verdict};
use crate::lab::Lab;
use crate::netns::{FAMILIES, Family};
use crate::process::{Process, find_program};
use crate::tcp;

/// The balancer's timer.
const TIMEOUT_MS: u64 = 500;

/// Takes one connection and makes one.
const BALANCER: &str = r"
import select, socket, struct, sys
address, port, timeout = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
listener = socket.create_server((address, 0), family=family)
print(listener.getsockname()[1], flush=True)
front, _ = listener.accept()
back = socket.create_connection((address, port))
while ready := select.select([front, back], [], [], timeout)[0]:
    for end in ready:
        (back if end is front else front).sendall(end.recv(65536))
for end in front, back:
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    end.close()
print('reset', flush=True)
sys.stdin.read()
";

/// What the four ends say: the balancer's two, the client's and the server's.
struct Wanted {
    front: [&'static str; 3],
    back: [&'static str; 3],
    client: [&'static str; 3],
    server: [&'static str; 3],
}

/// A connection through the balancer that falls silent after the question, or
/// after the answer.
fn silence(lab: &Lab, family: Family, answered: bool, wanted: &Wanted) -> Vec<Value> {
    let listener = tcp::listener(family.server, 16);
    let server_end = listener.local_addr().unwrap();
    let python = find_program("python3").expect("checked before");
    let mut command: Command = lab.netns.command(&python);
    command
        .args(["-c", BALANCER])
        .arg(family.server.to_string());
    command.arg(server_end.port().to_string());
    command.arg(format!("0.{TIMEOUT_MS}"));
    let mut balancer = Process::start(command);
    let mut lines = BufReader::new(balancer.stdout())
        .lines()
        .map(Result::unwrap);
    let port = lines.next().unwrap().parse().unwrap();
    let front = SocketAddr::new(family.server, port);
    let (mut client, client_end) = tcp::connect(family.client, front);
    let (mut server, back): (TcpStream, _) = listener.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    tcp::transfer(&mut client, &mut server, b"question");
    if answered {
        tcp::transfer(&mut server, &mut client, b"answer");
    }
    assert_eq!(lines.next().as_deref(), Some("reset"));
    tcp::wait_error(&client);
    tcp::wait_error(&server);
    let comm = std::fs::read_to_string(format!("/proc/{}/comm", balancer.pid())).unwrap();
    let abort = |local, remote, wanted| {
        let mut abort = verdict("sent", local, remote, wanted);
        abort["linger"] = json!({"time_s": 0});
        abort["owner"] = owner(balancer.pid(), comm.trim_end());
        abort
    };
    vec![
        abort(front, client_end, wanted.front),
        abort(back, server_end, wanted.back),
        verdict("received", client_end, front, wanted.client),
        verdict("received", server_end, back, wanted.server),
    ]
}

fn check(test: &str, answered: bool, wanted: &Wanted) {
    let Some(lab) = Lab::configured(test, &["python3"], "idle_ms = 200", &[]) else {
        return;
    };
    let expected: Vec<Value> = lab.inside(|| {
        let both = FAMILIES.map(|family| silence(&lab, family, answered, wanted));
        both.concat()
    });
    for event in lab.finish(&expected) {
        let idle = event["idle_segment_ms"].as_u64().unwrap();
        let gap = TIMEOUT_MS - 50..TIMEOUT_MS + 300;
        assert!(gap.contains(&idle), "{event}");
    }
}

/// Nobody wants anything: nothing is lost, and nobody can know that.
#[test]
fn balancer_resets_what_is_idle() {
    let wanted = Wanted {
        front: ["app_abort", "benign", "server"],
        back: ["app_abort", "benign", "client"],
        client: ["idle_timeout", "uncertain", "client"],
        server: ["idle_timeout", "uncertain", "server"],
    };
    check("balancer_resets_what_is_idle", true, &wanted);
}

/// The server takes longer than the balancer waits.
#[test]
fn balancer_resets_a_slow_request() {
    let broken = "connection_broken";
    let wanted = Wanted {
        front: ["app_abort", broken, "server"],
        back: ["app_abort", broken, "client"],
        client: ["no_response", broken, "client"],
        server: ["peer_gave_up", broken, "server"],
    };
    check("balancer_resets_a_slow_request", false, &wanted);
}

/// Enough resets after the same silence are a timer, which is told once, with
/// what to do.
#[test]
fn a_timer_is_found() {
    let test = "a_timer_is_found";
    let Some(lab) = Lab::configured(test, &[], "idle_ms = 200", &[]) else {
        return;
    };
    let (server, expected) = lab.inside(|| {
        let family = FAMILIES[0];
        let listener = tcp::listener(family.server, 16);
        let server = listener.local_addr().unwrap();
        let pairs: Vec<_> = (0..8)
            .map(|_| {
                let (mut client, client_end) = tcp::connect(family.client, server);
                let (mut accepted, _) = listener.accept().unwrap();
                accepted.set_read_timeout(Some(DEADLINE)).unwrap();
                tcp::transfer(&mut client, &mut accepted, b"question");
                tcp::transfer(&mut accepted, &mut client, b"answer");
                (client, client_end, accepted)
            })
            .collect();
        std::thread::sleep(Duration::from_millis(TIMEOUT_MS));
        let both = pairs.into_iter().map(|(client, client_end, accepted)| {
            tcp::abort(accepted);
            tcp::wait_error(&client);
            [
                verdict(
                    "sent",
                    server,
                    client_end,
                    ["app_abort", "benign", "server"],
                ),
                verdict(
                    "received",
                    client_end,
                    server,
                    ["idle_timeout", "uncertain", "client"],
                ),
            ]
        });
        (server, both.collect::<Vec<_>>().concat())
    });
    let events = lab.finish(&expected);
    let found: Vec<&str> = events
        .iter()
        .filter_map(|event| event["hint"].as_str())
        .filter(|hint| hint.contains("resets of connections"))
        .collect();
    let start = format!("5 resets of connections to {server} after 0.5 s of silence: ");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(&start), "{found:?}");
    assert!(found[0].contains("keep-alive is off"), "{found:?}");
}
