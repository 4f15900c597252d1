//! A load generator that ends its run: it leaves with requests under way.

use std::net::SocketAddr;

use serde_json::Value;

use super::nginx::{Nginx, PATIENT, PATIENT_TLS, TOOLS};
use super::{command, is_noisy, run, summary};
use crate::lab::Lab;
use crate::netns::V4;

/// Connections of a run.
const CONNECTIONS: usize = 20;

/// Runs wrk for a second and asserts that all noisy resets are `tolerated`, and
/// no more than one for each connection.
fn load(test: &str, scheme: &str, port: u16, path: &str, tolerated: impl Fn(&Value) -> bool) {
    let tools = [&TOOLS[..], &["wrk"]].concat();
    let Some(lab) = Lab::start(test, &tools, &[]) else {
        return;
    };
    let nginx = Nginx::start(&lab);
    let url = format!("{scheme}://{}{path}", SocketAddr::new(V4.server, port));
    let mut wrk = command(&lab, "wrk");
    wrk.args(["--threads", "1", "--duration", "1s"]);
    wrk.args(["--connections", &CONNECTIONS.to_string(), &url]);
    let report = run(wrk);
    assert!(!report.contains("Socket errors"), "{report}");
    assert!(nginx.served() > CONNECTIONS, "{report}");
    let events = lab.finish_with(&[], |event| !is_noisy(event) || tolerated(event));
    println!("{test}: {}", summary(&events));
    let noisy = events.iter().filter(|event| is_noisy(event)).count();
    assert!(noisy <= CONNECTIONS, "{noisy} of {CONNECTIONS} broken");
}

/// All answers have reached wrk, which does not read the last ones.
#[test]
fn wrk_ends_its_run() {
    load("wrk_ends_its_run", "http", PATIENT, "/", |_| false);
}

#[test]
fn wrk_ends_its_run_over_tls() {
    load(
        "wrk_ends_its_run_over_tls",
        "https",
        PATIENT_TLS,
        "/",
        |_| false,
    );
}

/// In the middle of large answers: nginx did lose connections with something
/// undelivered. Whether wrk meant it can't be seen there; wrk itself must be
/// quiet.
#[test]
fn wrk_ends_its_run_of_downloads() {
    let test = "wrk_ends_its_run_of_downloads";
    load(test, "http", PATIENT, "/large", |event| {
        event["direction"] == "received" && event["role"] == "server"
    });
}
