//! The quiet suite: on a host where nothing is wrong no reset is counted as
//! `connect_failed` or `connection_broken`, whatever else is counted. The twins
//! at the end are the same things gone wrong.
//!
//! Real programs play both ends where there are some. Traffic stays in the
//! lab's namespace.

#[path = "quiet/addresses.rs"]
mod addresses;
#[path = "quiet/banner.rs"]
mod banner;
#[path = "quiet/browser.rs"]
mod browser;
#[path = "quiet/checks.rs"]
mod checks;
#[path = "quiet/http2.rs"]
mod http2;
#[path = "quiet/load.rs"]
mod load;
#[path = "quiet/nginx.rs"]
mod nginx;
#[path = "quiet/pools.rs"]
mod pools;
#[path = "quiet/scan.rs"]
mod scan;
#[path = "quiet/streams.rs"]
mod streams;
#[path = "quiet/tls.rs"]
mod tls;
#[path = "quiet/twins.rs"]
mod twins;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::collect::wait_until;
use crate::lab::Lab;
use crate::process::{Process, find_program};

/// Longest that a program of a scenario may run.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a scenario and asserts that none of its resets is noisy.
fn quiet(test: &str, tools: &[&str], scenario: impl FnOnce(&Lab)) {
    noisy_exactly(test, tools, |lab| {
        scenario(lab);
        Vec::new()
    });
}

/// Runs a scenario and asserts that its noisy resets are exactly those it
/// returns. Returns all of its resets.
fn noisy_exactly(
    test: &str,
    tools: &[&str],
    scenario: impl FnOnce(&Lab) -> Vec<Value>,
) -> Vec<Value> {
    let Some(lab) = Lab::start(test, tools, &[]) else {
        return Vec::new();
    };
    let expected = scenario(&lab);
    finish(test, lab, &expected)
}

/// Ends a lab whose noisy resets are expected to be these.
fn finish(test: &str, lab: Lab, noisy: &[Value]) -> Vec<Value> {
    let events = lab.finish_with(noisy, |event| !is_noisy(event));
    println!("{test}: {}", summary(&events));
    events
}

/// Whether an alert may be built on it.
fn is_noisy(event: &Value) -> bool {
    event["impact"] == "connect_failed" || event["impact"] == "connection_broken"
}

/// How many resets of which kind there were, for whoever reads the output.
fn summary(events: &[Value]) -> String {
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for event in events {
        let words = ["direction", "cause", "impact", "role"].map(|name| event[name].as_str());
        let kind = words.map(|word| word.unwrap_or("null")).join(" ");
        *counts.entry(kind).or_default() += 1;
    }
    let counts: Vec<_> = counts
        .iter()
        .map(|(kind, count)| format!("{count} x {kind}"))
        .collect();
    if counts.is_empty() {
        "no reset".to_owned()
    } else {
        counts.join(", ")
    }
}

/// A program in the lab's namespace.
fn command(lab: &Lab, program: &str) -> Command {
    let program = find_program(program).expect("checked before");
    lab.netns.command(program)
}

/// A script of this suite, in Python.
fn python(lab: &Lab, script: &str, args: &[&str]) -> Command {
    let mut command = command(lab, "python3");
    command.args(["-c", script]).args(args);
    command
}

/// Runs a program to its end, which must be a good one; what it printed.
fn run(command: Command) -> String {
    let shown = format!("{command:?}");
    let mut process = Process::start(command);
    drop(process.stdin());
    let status = process.wait(PATIENCE);
    let (mut output, mut errors) = (String::new(), String::new());
    process.stdout().read_to_string(&mut output).unwrap();
    process.stderr().read_to_string(&mut errors).unwrap();
    assert!(status.success(), "{shown}: {status}\n{output}\n{errors}");
    output
}

/// Waits until something listens on these ports, over both address families.
/// Looked up, since a connect would be refused before.
fn wait_listening(lab: &Lab, ports: &[u16]) {
    lab.inside(|| {
        wait_until("the ports are served", || {
            ["tcp", "tcp6"].iter().all(|table| {
                let table = format!("/proc/thread-self/net/{table}");
                let sockets = std::fs::read_to_string(table).unwrap();
                ports.iter().all(|port| is_listening(&sockets, *port))
            })
        });
    });
}

fn is_listening(sockets: &str, port: u16) -> bool {
    let port = format!(":{port:04X}");
    sockets.lines().any(|line| {
        // Number, local end, remote end, state.
        let columns: Vec<_> = line.split_whitespace().take(4).collect();
        columns.len() == 4 && columns[1].ends_with(&port) && columns[3] == "0A"
    })
}
