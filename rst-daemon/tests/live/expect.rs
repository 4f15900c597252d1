//! What a scenario expects: JSON objects whose fields must all match, each
//! against exactly one event.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::{Value, json};

/// A sent reset between two ends, with more fields. What is `null` unless the
/// scenario makes it otherwise is expected to be `null`; a socket is expected to be
/// this process's own.
pub(crate) fn sent(local: SocketAddr, remote: SocketAddr, fields: Value) -> Value {
    reset("sent", local, remote, fields)
}

/// A received reset, likewise.
pub(crate) fn received(local: SocketAddr, remote: SocketAddr, fields: Value) -> Value {
    let mut reset = reset("received", local, remote, fields);
    reset["reason"] = Value::Null;
    reset
}

fn reset(direction: &str, local: SocketAddr, remote: SocketAddr, fields: Value) -> Value {
    let family = if local.ip().to_canonical().is_ipv4() {
        "ipv4"
    } else {
        "ipv6"
    };
    let mut reset = json!({
        "v": 1,
        "direction": direction,
        "local": end(local),
        "remote": end(remote),
        "family": family,
        "owner": owner_of(&fields),
        "killer": null,
        "exit": null,
        "linger": null,
    });
    merge(&mut reset, fields);
    reset
}

/// This process, as whoever connects, listens or accepts; nobody where there is no
/// socket.
fn owner_of(fields: &Value) -> Value {
    let source = match (fields["origin"].as_str(), fields["role"].as_str()) {
        (Some("none" | "timewait" | "netfilter"), _) => return Value::Null,
        (Some("socket"), Some("client")) => "connect",
        (Some("socket"), Some("server")) if fields["state"] == "LISTEN" => "listener",
        (Some("socket"), Some("server")) => "accept",
        // Left open.
        _ => return json!({}),
    };
    let mut owner = this_process();
    owner["source"] = json!(source);
    owner
}

/// A reset of which the verdict matters: cause, impact and role.
pub(crate) fn verdict(
    direction: &str,
    local: SocketAddr,
    remote: SocketAddr,
    [cause, impact, role]: [&str; 3],
) -> Value {
    json!({
        "direction": direction,
        "local": end(local),
        "remote": end(remote),
        "cause": cause,
        "impact": impact,
        "role": role,
    })
}

fn end(address: SocketAddr) -> Value {
    json!({"ip": address.ip().to_canonical(), "port": address.port()})
}

/// Facts that every full socket of these tests has, unless `fields` says
/// otherwise.
pub(crate) fn socket(fields: Value) -> Value {
    let mut socket = json!({
        "origin": "socket",
        "uid": 0,
        "retransmits": 0,
        "probes_out": 0,
        "keepalive": {"enabled": false, "time_s": 7200, "interval_s": 75, "probes": 9},
    });
    merge(&mut socket, fields);
    socket
}

/// Facts of a segment that met no socket.
pub(crate) fn no_socket(fields: Value) -> Value {
    let mut facts = without_socket("none");
    facts["state"] = Value::Null;
    merge(&mut facts, fields);
    facts
}

/// Facts of a segment that met a closed connection.
pub(crate) fn time_wait(fields: Value) -> Value {
    let mut facts = without_socket("timewait");
    facts["state"] = json!("TIME_WAIT");
    merge(&mut facts, fields);
    facts
}

fn without_socket(origin: &str) -> Value {
    let mut facts = json!({"origin": origin, "role": "unknown"});
    for unknown in [
        "uid",
        "cookie",
        "turn",
        "idle_rx_ms",
        "idle_tx_ms",
        "idle_segment_ms",
        "probes_out",
        "bytes_sent",
        "bytes_received",
        "unacked_bytes",
        "unread_bytes",
        "srtt_us",
        "retransmits",
        "keepalive",
    ] {
        facts[unknown] = Value::Null;
    }
    facts
}

fn merge(into: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else {
        panic!("fields are a JSON object");
    };
    for (name, value) in fields {
        into[name] = value;
    }
}

/// This process as an owner found at the reset, by the name of its first
/// thread, as `ps` shows it.
pub(crate) fn this_process() -> Value {
    let comm = std::fs::read_to_string("/proc/self/comm").unwrap();
    owner(std::process::id(), comm.trim_end())
}

/// A process that was running when the reset was sent.
pub(crate) fn owner(pid: u32, comm: &str) -> Value {
    json!({"pid": pid, "comm": comm, "source": "current"})
}

/// How many differences are shown of each kind.
const MOST_SHOWN: usize = 12;

/// Says how the events differ from what is expected: each expectation is met by
/// one event, and no event is left over.
pub(crate) fn check(events: &[Value], expected: &[Value]) -> Result<(), String> {
    let mut left: Vec<&Value> = events.iter().collect();
    let mut unmet = Vec::new();
    for wanted in expected {
        match left.iter().position(|event| matches(wanted, event)) {
            Some(index) => {
                left.remove(index);
            }
            None => unmet.push(wanted),
        }
    }
    let mut problems = String::new();
    let mut shown: Vec<&Value> = Vec::new();
    if unmet.len() + left.len() > MOST_SHOWN {
        let (unmet, left) = (unmet.len(), left.len());
        let _ = writeln!(problems, "{unmet} missing, {left} not expected, such as:");
    }
    for wanted in unmet.into_iter().take(MOST_SHOWN) {
        let _ = writeln!(problems, "missing: {wanted}");
        let closest = left
            .iter()
            .map(|event| (differences(wanted, event), event))
            .min_by_key(|(differences, _)| differences.len());
        if let Some((differences, event)) = closest {
            let _ = writeln!(problems, "  the closest event that is left: {event}");
            shown.push(event);
            for difference in differences {
                let _ = writeln!(problems, "    {difference}");
            }
        }
    }
    for event in left.into_iter().take(MOST_SHOWN) {
        let _ = if shown.contains(&event) {
            let (local, remote) = (&event["local"], &event["remote"]);
            writeln!(
                problems,
                "not expected: the event of {local} and {remote} above"
            )
        } else {
            writeln!(problems, "not expected: {event}")
        };
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// Whether an event has all the fields.
pub(crate) fn matches(wanted: &Value, event: &Value) -> bool {
    // Most events differ here, and listing how would take its time.
    let same = |name: &str| {
        wanted
            .get(name)
            .is_none_or(|end| end.get("ip").is_none() || *end == event[name])
    };
    same("local") && same("remote") && differences(wanted, event).is_empty()
}

fn differences(wanted: &Value, event: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare("", wanted, Some(event), &mut found);
    found
}

fn compare(pointer: &str, wanted: &Value, event: Option<&Value>, found: &mut Vec<String>) {
    if let Value::Object(fields) = wanted {
        for (name, wanted) in fields {
            let event = event.and_then(|event| event.get(name));
            compare(&format!("{pointer}/{name}"), wanted, event, found);
        }
    } else if Some(wanted) != event {
        let event = event.map_or("absent".to_owned(), Value::to_string);
        found.push(format!("{pointer}: expected {wanted}, is {event}"));
    }
}
