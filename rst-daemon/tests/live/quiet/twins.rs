//! The same things gone wrong: each loss is noisy, once for each end of the
//! connection that can prove it.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr};

use serde_json::{Value, json};

use super::nginx::{Nginx, TLS, TOOLS};
use super::{command, noisy_exactly, run};
use crate::expect::{received, sent};
use crate::netns::{FAMILIES, Family};
use crate::tcp::{self, Pair};

/// Runs a scenario that needs no programs, once for each family.
fn twin(test: &str, scenario: fn(Family) -> Vec<Value>) {
    noisy_exactly(test, &[], |lab| {
        lab.inside(|| FAMILIES.into_iter().flat_map(scenario).collect())
    });
}

fn broken(cause: &str, role: &str) -> Value {
    json!({"cause": cause, "impact": "connection_broken", "role": role})
}

/// Without what the owner and the options of a socket are.
fn only(mut event: Value) -> Value {
    for field in ["owner", "exit", "linger"] {
        event.as_object_mut().expect("it is one").remove(field);
    }
    event
}

/// What the server's end says.
fn at_server(pair: &Pair, cause: &str) -> Value {
    let fields = broken(cause, "server");
    only(sent(pair.server_end, pair.client_end, fields))
}

/// What the client's end says.
fn at_client(pair: &Pair) -> Value {
    let fields = broken("peer_abort", "client");
    only(received(pair.client_end, pair.server_end, fields))
}

/// The server aborts in the middle of its answer. It knows that some of it was
/// never sent; the client can't tell that from the end of a complete answer.
#[test]
fn download_is_truncated() {
    twin("download_is_truncated", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.server.set_nonblocking(true).unwrap();
        // Until nothing more fits: the client does not read.
        let part = vec![b'x'; 65536];
        while pair.server.write(&part).is_ok() {}
        let lost = at_server(&pair, "app_abort");
        tcp::abort(pair.server);
        tcp::wait_error(&pair.client);
        vec![lost]
    });
}

/// The client has sent all and waits; the server aborts in place of an answer.
#[test]
fn half_closed_client_is_left_without_answer() {
    twin("half_closed_client_is_left_without_answer", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.client.shutdown(Shutdown::Write).unwrap();
        tcp::wait_acknowledged(&pair.client);
        tcp::wait_state(&pair.server, rst_common::tcp::state::CLOSE_WAIT);
        let both = vec![at_server(&pair, "app_abort"), at_client(&pair)];
        tcp::abort(pair.server);
        tcp::wait_error(&pair.client);
        both
    });
}

/// The server aborts with the request read and unanswered.
#[test]
fn request_is_left_unanswered() {
    twin("request_is_left_unanswered", |family| {
        let mut pair = Pair::new(family);
        pair.ask(b"question");
        pair.answer(b"answer");
        pair.ask(b"one more question");
        let both = vec![at_server(&pair, "app_abort"), at_client(&pair)];
        tcp::abort(pair.server);
        tcp::wait_error(&pair.client);
        both
    });
}

/// The server closes with the body unread, and the client has more of it to send.
#[test]
fn upload_fails() {
    twin("upload_fails", |family| {
        let mut pair = Pair::new(family);
        pair.client.set_nonblocking(true).unwrap();
        let part = vec![b'x'; 65536];
        while pair.client.write(&part).is_ok() {}
        let both = vec![at_server(&pair, "unread_data"), at_client(&pair)];
        drop(pair.server);
        tcp::wait_error(&pair.client);
        both
    });
}

/// Nobody listens any more where somebody did.
#[test]
fn service_is_gone() {
    twin("service_is_gone", |family| {
        let pair = Pair::new(family);
        let server = pair.server_end;
        drop(pair);
        let client = tcp::connect_refused(family.client, server);
        let failed =
            |role: &str| json!({"cause": "refused", "impact": "connect_failed", "role": role});
        let mut refused = sent(server, client, failed("server"));
        refused.as_object_mut().expect("it is one").remove("role");
        vec![
            only(refused),
            only(received(client, server, failed("client"))),
        ]
    });
}

/// curl finds the goodbye of nginx unread on a kept connection, takes that for
/// life, and asks again: the request is lost. It is tried once more on a new
/// connection, which rst can't know.
#[test]
fn curl_uses_a_connection_that_nginx_closed() {
    let test = "curl_uses_a_connection_that_nginx_closed";
    let tools = [&TOOLS[..], &["curl"]].concat();
    noisy_exactly(test, &tools, |lab| {
        let nginx = Nginx::start(lab);
        let mut expected = Vec::new();
        for family in FAMILIES {
            let server = SocketAddr::new(family.server, TLS);
            // Longer than any TLS record that is no request.
            let url = format!("https://{server}/?{}", "x".repeat(100));
            let mut curl = command(lab, "curl");
            curl.args(["--silent", "--show-error", "--insecure", "--noproxy", "*"]);
            // One request every 1.5 s.
            curl.args(["--rate", "40/m", "--write-out", " %{local_port} "]);
            curl.args(["--interface", &family.client.to_string()]);
            curl.args([&url, &url]);
            let output = run(curl);
            let words: Vec<_> = output.split_whitespace().collect();
            let ["hello", first, "hello", second] = words[..] else {
                panic!("{output}");
            };
            assert_ne!(first, second, "a new connection");
            let client = SocketAddr::new(family.client, first.parse().unwrap());
            let mut late = sent(server, client, broken("late_data", "server"));
            late.as_object_mut().expect("it is one").remove("role");
            let lost = received(client, server, broken("peer_closed", "client"));
            expected.extend([only(late), only(lost)]);
        }
        assert_eq!(nginx.served(), FAMILIES.len() * 2);
        expected
    });
}
