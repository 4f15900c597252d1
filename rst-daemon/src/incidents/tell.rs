//! Incidents as text: a line of the journal, a few lines of `rst incidents`.
//!
//! Pure. Whatever comes from outside is made harmless for the terminal first.

use std::fmt::Write as _;

use jiff::Timestamp;
use rst_common::cause::Cause;

use crate::incident::{Incident, Peer};
use crate::text::{self, Style, safe};

/// The line of the journal when it opens.
#[must_use]
pub fn opened(incident: &Incident) -> String {
    let mut line = format!(
        "incident {} opened: {}, {} in {}, usually {} a second",
        incident.id,
        what(incident),
        resets(incident.resets),
        lasted(incident),
        incident.usual_per_second
    );
    if let Some(restart) = incident.restarts.first() {
        let _ = write!(line, "; {}", text::restart(restart));
    }
    if let Some(hint) = &incident.hint {
        let _ = write!(line, "; {}", safe(hint));
    }
    let _ = write!(line, "; {}", peers(incident));
    line
}

/// The line of the journal when it closes.
#[must_use]
pub fn closed(incident: &Incident) -> String {
    let mut line = format!(
        "incident {} closed: {}, {} in {}, {} connections meanwhile",
        incident.id,
        what(incident),
        resets(incident.resets),
        lasted(incident),
        incident.connections
    );
    if incident.usual_now {
        line.push_str("; it has not ended, and counts as usual from now on");
    }
    if let Some(restart) = incident.restarts.last() {
        let _ = write!(line, "; {}", text::restart(restart));
    }
    line
}

/// A few lines for a human.
#[must_use]
pub fn page(incident: &Incident, style: &Style) -> String {
    let time = |time: Timestamp| time.to_zoned(style.zone.clone());
    let state = match incident.closed {
        None => "open".to_owned(),
        Some(_) if incident.usual_now => "usual now".to_owned(),
        Some(_) => "over".to_owned(),
    };
    let mut page = format!(
        "{} {state:<9} {}: {} in {}, usually {} a second\n",
        time(incident.first).strftime("%Y-%m-%d %H:%M:%S"),
        what(incident),
        resets(incident.resets),
        lasted(incident),
        incident.usual_per_second
    );
    let mut row = |name: &str, value: &str| {
        let _ = writeln!(page, "  {name:<12} {value}");
    };
    if let Some(cause) = Cause::from_label(&incident.cause) {
        row("meaning", cause.text().meaning);
    }
    row(
        "connections",
        &format!("{} meanwhile", incident.connections),
    );
    row("peers", &peers(incident));
    if let Some(idle) = incident.idle_ms {
        row("idle before", &text::time(idle));
    }
    if let Some(hint) = &incident.hint {
        row("hint", &safe(hint));
    }
    for restart in &incident.restarts {
        row("restart", &text::restart(restart));
    }
    for sample in &incident.samples {
        row("sample", &text::line(sample, style));
    }
    row("fix", &safe(&incident.advice));
    page
}

/// "refused (connect_failed) of web.service, server, port 8080"
fn what(incident: &Incident) -> String {
    let port = incident
        .port
        .map_or("other ports".to_owned(), |port| format!("port {port}"));
    format!(
        "{} ({}) of {}, {}, {port}",
        safe(&incident.cause),
        safe(&incident.impact),
        safe(&incident.workload),
        safe(&incident.role)
    )
}

fn resets(number: u64) -> String {
    format!("{number} {}", if number == 1 { "reset" } else { "resets" })
}

/// From the first to the last.
fn lasted(incident: &Incident) -> String {
    let lasted = incident.last.duration_since(incident.first);
    text::time(u64::try_from(lasted.as_millis()).unwrap_or(0))
}

/// "10.0.0.7 (12), 10.0.0.8 (3) of 15 described"
fn peers(incident: &Incident) -> String {
    if incident.described == 0 {
        return "none was described one by one".to_owned();
    }
    let peers: Vec<String> = incident
        .peers
        .iter()
        .map(
            |Peer {
                 ip,
                 resets,
                 uncertain,
             }| match uncertain {
                0 => format!("{ip} ({resets})"),
                _ => format!("{ip} ({} to {resets})", resets - uncertain),
            },
        )
        .collect();
    format!("{} of {} described", peers.join(", "), incident.described)
}
