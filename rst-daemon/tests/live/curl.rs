//! What curl's exit status says, beside what rst says.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rst_common::tcp::state;
use serde_json::Value;

use crate::collect::DEADLINE;
use crate::expect::verdict;
use crate::lab::Lab;
use crate::netns::{FAMILIES, Family};
use crate::programs::curl_from;
use crate::tcp;

/// curl could not connect.
const REFUSED: i32 = 7;
/// curl's patience ended.
const TIMEOUT: i32 = 28;
/// The server closed without a word.
const EMPTY: i32 = 52;
/// The connection was reset.
const RECEIVE: i32 = 56;

/// curl's own, which it does not tell of where it is refused.
const PORT: u16 = 20_000;

fn run(test: &str, scenario: impl Fn(&Lab, Family) -> Vec<Value>) {
    let Some(lab) = Lab::start(test, &["curl"], &[]) else {
        return;
    };
    let expected = FAMILIES.map(|family| scenario(&lab, family));
    lab.finish(&expected.concat());
}

/// Lets curl ask a server that does with the request what it likes.
fn ask(
    lab: &Lab,
    family: Family,
    patience: &str,
    server: impl FnOnce(TcpStream) + Send,
) -> (i32, SocketAddr, SocketAddr) {
    let listener: TcpListener = lab.inside(|| tcp::listener(family.server, 16));
    let end = listener.local_addr().unwrap();
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut more = [0; 1024];
                let len = stream.read(&mut more).unwrap();
                assert_ne!(len, 0, "curl's request has an end");
                head.extend(&more[..len]);
            }
            server(stream);
        });
        let client = SocketAddr::new(family.client, PORT);
        let output = curl_from(&lab.netns, client, end, patience);
        let code = output.status.code().unwrap();
        serving.join().unwrap();
        (code, client, end)
    })
}

/// Exit status 7 on a port that has lost its listener.
#[test]
fn curl_is_refused_by_a_service_that_is_down() {
    let refused = |lab: &Lab, family: Family| {
        let listener = lab.inside(|| tcp::listener(family.server, 16));
        let server = listener.local_addr().unwrap();
        drop(listener);
        refused(lab, family, server, ["connect_failed", "server"])
    };
    run("curl_is_refused_by_a_service_that_is_down", refused);
}

/// Exit status 7 on a port that nobody ever listened on: for the server that is
/// no more than a scan.
#[test]
fn curl_is_refused_where_nobody_listens() {
    run("curl_is_refused_where_nobody_listens", |lab, family| {
        let verdict = ["benign", "unknown"];
        refused(lab, family, tcp::closed_port(family), verdict)
    });
}

fn refused(lab: &Lab, family: Family, server: SocketAddr, [impact, role]: [&str; 2]) -> Vec<Value> {
    let client = SocketAddr::new(family.client, PORT);
    let output = curl_from(&lab.netns, client, server, "10");
    assert_eq!(output.status.code(), Some(REFUSED), "{output:?}");
    let failed = ["refused", "connect_failed", "client"];
    vec![
        verdict("sent", server, client, ["refused", impact, role]),
        verdict("received", client, server, failed),
    ]
}

/// Exit status 28: curl closes with a FIN, and the server, which does not look,
/// answers a connection that is gone.
#[test]
fn curl_gives_up_on_a_slow_server() {
    run("curl_gives_up_on_a_slow_server", |lab, family| {
        let (code, client, server) = ask(lab, family, "1.2", |mut stream| {
            tcp::wait_state(&stream, state::CLOSE_WAIT);
            // 24 bytes would look like the end of a TLS connection.
            let answer = format!("HTTP/1.0 200 OK\r\n\r\n{:100}", "hello");
            stream.write_all(answer.as_bytes()).unwrap();
            tcp::wait_error(&stream);
        });
        assert_eq!(code, TIMEOUT);
        let broken = "connection_broken";
        vec![
            verdict("sent", client, server, ["late_data", broken, "client"]),
            verdict(
                "received",
                server,
                client,
                ["peer_closed", broken, "server"],
            ),
        ]
    });
}

/// Exit status 52: a FIN in place of an answer is no reset.
#[test]
fn curl_gets_an_empty_reply() {
    run("curl_gets_an_empty_reply", |lab, family| {
        let (code, ..) = ask(lab, family, "10", drop);
        assert_eq!(code, EMPTY);
        Vec::new()
    });
}

/// Exit status 56: a reset in place of an answer.
#[test]
fn curl_is_reset() {
    run("curl_is_reset", |lab, family| {
        let (code, client, server) = ask(lab, family, "10", tcp::abort);
        assert_eq!(code, RECEIVE);
        let broken = "connection_broken";
        vec![
            verdict("sent", server, client, ["app_abort", broken, "server"]),
            verdict("received", client, server, ["peer_abort", broken, "client"]),
        ]
    });
}
