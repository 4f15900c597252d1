//! `rst watch --json` as a child.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use crate::collect::Collected;
use crate::process::{Process, RST};

/// A reset as the watcher printed it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// When its line was read.
    pub(crate) at: Instant,
    /// When the daemon says it happened.
    pub(crate) time: Timestamp,
    /// The line.
    pub(crate) event: Value,
}

/// A running `rst watch --json`.
#[derive(Debug)]
pub(crate) struct Watcher {
    /// What it prints.
    pub(crate) seen: Collected<Seen>,
    /// What it says on stderr.
    pub(crate) log: Collected<String>,
    /// Itself.
    pub(crate) process: Process,
}

impl Watcher {
    /// Starts one.
    pub(crate) fn start(socket: &Path, filter: &[&str]) -> Self {
        let mut command = Command::new(RST);
        command.args(["watch", "--json", "--socket"]).arg(socket);
        command.args(filter);
        let mut process = Process::start(command);
        let seen = Collected::start(process.stdout(), |line| {
            let at = Instant::now();
            let event: Value = serde_json::from_str(&line).unwrap_or_default();
            let time = event["time"].as_str().and_then(|time| time.parse().ok());
            Seen {
                at,
                time: time.unwrap_or_default(),
                event,
            }
        });
        let log = Collected::start(process.stderr(), |line| line);
        Self { seen, log, process }
    }

    /// All resets so far.
    pub(crate) fn events(&self) -> Vec<Seen> {
        let mut seen = self.seen.with(<[Seen]>::to_vec);
        seen.retain(|seen| !seen.event["cause"].is_null());
        seen
    }
}
