//! `rst doctor`: whether the probes run on this host and what is lost where they don't, and
//! which of its settings reset connections.

mod host;
mod probes;

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::str::FromStr;

use serde::Serialize;

use self::host::Settings;
use crate::cli::DoctorArgs;
use crate::client::{self, ClientError};
use crate::ledger;
use crate::print;
use crate::text;

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Something to change.
    Finding,
    /// Something that this kernel can't do: nothing to change but the kernel.
    Limit,
    /// All well.
    Ok,
}

/// A check and what came of it: a line of `rst doctor`, an object with `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// What was looked at.
    check: &'static str,
    verdict: Verdict,
    /// What was found.
    what: String,
    /// Why it is so, where that is known.
    why: Option<String>,
    /// What rst does not show for it.
    not_shown: Vec<String>,
    /// What to change; `null` where there is nothing.
    change: Option<String>,
}

impl Checked {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            verdict: Verdict::Ok,
            what: what.into(),
            why: None,
            not_shown: Vec::new(),
            change: None,
        }
    }

    fn finding(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Finding,
            ..Self::ok(check, what)
        }
    }

    fn limit(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Limit,
            ..Self::ok(check, what)
        }
    }

    fn advising(self, change: impl Into<String>) -> Self {
        Self {
            change: Some(change.into()),
            ..self
        }
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Finding => "FINDING",
            Verdict::Limit => "limit",
            Verdict::Ok => "ok",
        };
        write!(
            out,
            "{verdict:8} {}: {}",
            self.check,
            text::safe(&self.what)
        )?;
        let lost = self.not_shown.iter().map(|lost| ("not shown", lost));
        let why = self.why.iter().map(|why| ("why", why));
        let change = self.change.iter().map(|change| ("to change", change));
        for (head, line) in lost.chain(why).chain(change) {
            write!(out, "\n{:8} {head}: {}", "", text::safe(line))?;
        }
        Ok(())
    }
}

/// Why the host could not be examined.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// There is a daemon, and it can't be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Standard output can't be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Examines and prints, what is to be changed first; whether there was a finding.
pub async fn run(args: DoctorArgs) -> Result<bool, DoctorError> {
    let mut checked = match client::status(&args.socket).await {
        Ok(status) => probes::of_daemon(&status),
        Err(ClientError::NoDaemon(_)) => probes::tried_here(&args.socket),
        Err(error) => return Err(error.into()),
    };
    checked.extend(read_settings().check());
    checked.sort_by_key(|one| one.verdict);
    let finding = checked.iter().any(|one| one.verdict == Verdict::Finding);
    match print(&checked, args.json) {
        Err(error) if print::is_closed(&error) => Ok(finding),
        result => Ok(result.map(|()| finding)?),
    }
}

fn print(checked: &[Checked], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for one in checked {
        if json {
            writeln!(out, "{}", text::json(one)?)?;
        } else {
            writeln!(out, "{one}")?;
        }
    }
    out.flush()
}

fn read_settings() -> Settings {
    Settings {
        conntrack_s: sysctl("net/netfilter/nf_conntrack_tcp_timeout_established"),
        keepalive_s: sysctl("net/ipv4/tcp_keepalive_time"),
        aborts_on_overflow: sysctl("net/ipv4/tcp_abort_on_overflow"),
        overflows: ledger::listen_overflows(),
    }
}

fn sysctl<T: FromStr>(name: &str) -> Option<T> {
    let value = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
    value.trim().parse().ok()
}
