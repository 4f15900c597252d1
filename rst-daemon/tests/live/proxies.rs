//! HAProxy between a client and a server, and its time-outs.

use std::fmt::Write as _;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::collect::DEADLINE;
use crate::expect::{owner, verdict};
use crate::lab::Lab;
use crate::netns::FAMILIES;
use crate::programs::{Server, curl_from, http};
use crate::tcp;

const PORT: u16 = 8080;

/// HAProxy's time-out, and the daemon's idea of idle.
const TIMEOUT_MS: u64 = 500;
const SETTINGS: &str = "idle_ms = 200";

/// A connection through HAProxy.
struct Tunnel {
    client: TcpStream,
    client_end: SocketAddr,
    front: SocketAddr,
    server: TcpStream,
    server_end: SocketAddr,
    back: SocketAddr,
}

/// HAProxy with these options, and the servers behind it.
fn start(lab: &Lab, options: &str) -> (Server, [TcpListener; 2]) {
    let listeners = lab.inside(|| FAMILIES.map(|family| tcp::listener(family.server, 16)));
    let mut settings = format!(
        "defaults
            mode tcp
            {options}
            timeout connect 5s
            timeout client {TIMEOUT_MS}ms
            timeout server {TIMEOUT_MS}ms\n"
    );
    for (family, listener) in FAMILIES.iter().zip(&listeners) {
        let front = SocketAddr::new(family.server, PORT);
        let to = listener.local_addr().unwrap();
        let _ = write!(
            settings,
            "listen port{}\nbind {front}\nserver it {to}\n",
            to.port()
        );
    }
    let file = lab.folder.0.join("haproxy.cfg");
    std::fs::write(&file, settings).unwrap();
    let file = file.to_str().unwrap();
    let haproxy = Server::start(&lab.netns, "haproxy", &["-db", "-f", file], PORT);
    (haproxy, listeners)
}

fn tunnel(lab: &Lab, listener: &TcpListener) -> Tunnel {
    let server_end = listener.local_addr().unwrap();
    let front = SocketAddr::new(server_end.ip(), PORT);
    let from = FAMILIES[usize::from(front.is_ipv6())].client;
    let (client, client_end) = lab.inside(|| tcp::connect(from, front));
    let (server, back) = listener.accept().unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    Tunnel {
        client,
        client_end,
        front,
        server,
        server_end,
        back,
    }
}

impl Tunnel {
    fn ask(&mut self) {
        tcp::transfer(&mut self.client, &mut self.server, b"question");
    }

    fn answer(&mut self) {
        // Longer than a jiffy: everybody knows who spoke last.
        sleep(Duration::from_millis(20));
        tcp::transfer(&mut self.server, &mut self.client, b"answer");
    }

    /// HAProxy resets its connection with the client. The client has its FIN
    /// already: whatever it lost, `lost`, it lost with that.
    fn front_reset(&self, haproxy: &Server, impact: &str, lost: &str) -> [Value; 2] {
        let (client, front) = (self.client_end, self.front);
        [
            abort(haproxy, front, client, [impact, "server"]),
            verdict("received", client, front, ["peer_closed", lost, "client"]),
        ]
    }

    /// HAProxy resets its connection with the server, which sees `lost`.
    fn back_reset(&self, haproxy: &Server, impact: &str, lost: [&str; 2]) -> [Value; 2] {
        let (server, back) = (self.server_end, self.back);
        [
            abort(haproxy, back, server, [impact, "client"]),
            verdict("received", server, back, [lost[0], lost[1], "server"]),
        ]
    }
}

fn abort(haproxy: &Server, from: SocketAddr, to: SocketAddr, [impact, role]: [&str; 2]) -> Value {
    let mut abort = verdict("sent", from, to, ["app_abort", impact, role]);
    abort["linger"] = json!({"time_s": 0});
    abort["owner"] = owner(haproxy.0.pid(), "haproxy");
    abort
}

/// An idle tunnel, such as a WebSocket. The client gets a FIN; the server gets
/// one and a reset after it, which says no more.
#[test]
fn haproxy_ends_an_idle_tunnel() {
    let test = "haproxy_ends_an_idle_tunnel";
    let Some(lab) = Lab::configured(test, &["haproxy"], SETTINGS, &[]) else {
        return;
    };
    let (haproxy, listeners) = start(&lab, "");
    let expected = listeners.map(|listener| {
        let mut tunnel = tunnel(&lab, &listener);
        tunnel.ask();
        tunnel.answer();
        assert_eq!(tunnel.client.read(&mut [0]).unwrap(), 0, "a FIN");
        assert_eq!(tunnel.server.read(&mut [0]).unwrap(), 0, "a FIN");
        tcp::wait_error(&tunnel.server);
        tunnel.back_reset(&haproxy, "benign", ["peer_closed", "benign"])
    });
    drop(haproxy);
    lab.finish(&expected.concat());
}

/// Told not to linger, HAProxy resets both ends, and the server's at once.
#[test]
fn haproxy_resets_an_idle_tunnel() {
    let test = "haproxy_resets_an_idle_tunnel";
    let Some(lab) = Lab::configured(test, &["haproxy"], SETTINGS, &[]) else {
        return;
    };
    let (haproxy, listeners) = start(&lab, "option nolinger");
    let expected = listeners.map(|listener| {
        let mut tunnel = tunnel(&lab, &listener);
        tunnel.ask();
        tunnel.answer();
        tcp::wait_error(&tunnel.client);
        tcp::wait_error(&tunnel.server);
        let idle = ["idle_timeout", "uncertain"];
        let front = tunnel.front_reset(&haproxy, "benign", "benign");
        [front, tunnel.back_reset(&haproxy, "benign", idle)].concat()
    });
    drop(haproxy);
    for event in lab.finish(&expected.concat()) {
        if event["cause"] == "idle_timeout" {
            assert_gap(&event);
        }
    }
}

/// The silence was as long as HAProxy's time-out.
fn assert_gap(event: &Value) {
    let idle = event["idle_segment_ms"].as_u64().unwrap();
    let gap = TIMEOUT_MS - 50..TIMEOUT_MS + 300;
    assert!(gap.contains(&idle), "{event}");
}

/// The server takes too long, and learns that nobody waits any more.
#[test]
fn haproxy_gives_up_on_a_slow_server() {
    let test = "haproxy_gives_up_on_a_slow_server";
    let Some(lab) = Lab::configured(test, &["haproxy"], SETTINGS, &[]) else {
        return;
    };
    let (haproxy, listeners) = start(&lab, "option nolinger");
    let broken = "connection_broken";
    let expected = listeners.map(|listener| {
        let mut tunnel = tunnel(&lab, &listener);
        tunnel.ask();
        tcp::wait_error(&tunnel.client);
        tcp::wait_error(&tunnel.server);
        let lost = ["peer_gave_up", broken];
        let front = tunnel.front_reset(&haproxy, broken, "uncertain");
        [front, tunnel.back_reset(&haproxy, broken, lost)].concat()
    });
    drop(haproxy);
    for event in lab.finish(&expected.concat()) {
        if event["cause"] == "peer_gave_up" {
            assert_gap(&event);
        }
    }
}

/// Between HTTP and HTTP the client is told by an answer, and only the server
/// by a reset.
#[test]
fn haproxy_answers_504_for_a_slow_server() {
    let test = "haproxy_answers_504_for_a_slow_server";
    let Some(lab) = Lab::configured(test, &["haproxy"], SETTINGS, &[]) else {
        return;
    };
    let (haproxy, listeners) = start(&lab, "mode http");
    let broken = "connection_broken";
    let expected = listeners.map(|listener| {
        let server_end = listener.local_addr().unwrap();
        let front = SocketAddr::new(server_end.ip(), PORT);
        let answer = lab.inside(|| http(front, "GET", "/"));
        assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
        let (server, back) = listener.accept().unwrap();
        tcp::wait_error(&server);
        let lost = ["peer_gave_up", broken, "server"];
        [
            abort(&haproxy, back, server_end, [broken, "client"]),
            verdict("received", server_end, back, lost),
        ]
    });
    drop(haproxy);
    lab.finish(&expected.concat());
}

/// The client's patience is the shortest, and HAProxy passes that on. Its
/// answer, status 400, finds the client gone.
#[test]
fn haproxy_passes_on_that_the_client_gave_up() {
    let test = "haproxy_passes_on_that_the_client_gave_up";
    let Some(lab) = Lab::configured(test, &["haproxy", "curl"], SETTINGS, &[]) else {
        return;
    };
    let (haproxy, listeners) = start(&lab, "mode http\noption abortonclose");
    let broken = "connection_broken";
    let expected = listeners.map(|listener| {
        let server_end = listener.local_addr().unwrap();
        let front = SocketAddr::new(server_end.ip(), PORT);
        let family = FAMILIES[usize::from(front.is_ipv6())];
        let client = SocketAddr::new(family.client, 20_000);
        let output = curl_from(&lab.netns, client, front, "0.3");
        assert_eq!(output.status.code(), Some(28), "{output:?}");
        let (server, back) = listener.accept().unwrap();
        tcp::wait_error(&server);
        let late = ["late_data", broken, "client"];
        let closed = ["peer_closed", broken, "server"];
        let lost = ["peer_gave_up", broken, "server"];
        [
            verdict("sent", client, front, late),
            verdict("received", front, client, closed),
            abort(&haproxy, back, server_end, [broken, "client"]),
            verdict("received", server_end, back, lost),
        ]
    });
    drop(haproxy);
    lab.finish(&expected.concat());
}
