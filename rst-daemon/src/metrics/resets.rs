//! `rst_resets_total`, written as text at once: with a thousand ports it is nearly all of
//! a scrape, and a library's form for each series takes seven times as long to build and
//! encode.

use std::collections::HashMap;
use std::fmt::Write as _;

use rst_common::cause::{Cause, Direction, Impact, Role};

use super::{Snapshot, port};
use crate::kernel::counters::Label;

const NAME: &str = "rst_resets_total";
const HELP: &str = "TCP resets, exact.";

/// How a service fails its clients.
const LOSSES: [(Direction, Cause, Impact); 13] = {
    use Direction::{Received, Sent};
    use Impact::{ConnectFailed, ConnectionBroken};
    [
        (Sent, Cause::Refused, ConnectFailed),
        (Sent, Cause::ListenOverflow, ConnectFailed),
        (Sent, Cause::ListenerClosed, ConnectFailed),
        (Sent, Cause::FirewallReject, ConnectFailed),
        (Sent, Cause::HalfOpen, ConnectionBroken),
        (Sent, Cause::LateData, ConnectionBroken),
        (Sent, Cause::UnreadData, ConnectionBroken),
        (Sent, Cause::ProcessExit, ConnectionBroken),
        (Sent, Cause::AppAbort, ConnectionBroken),
        (Sent, Cause::KeepaliveTimeout, ConnectionBroken),
        (Received, Cause::PeerClosed, ConnectionBroken),
        (Received, Cause::PeerGaveUp, ConnectionBroken),
        (Received, Cause::PeerAbort, ConnectionBroken),
    ]
};

/// The labels of one series.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Labels {
    direction: Direction,
    cause: Cause,
    impact: Impact,
    role: Role,
    /// Its place among the names.
    workload: usize,
    port: Label<u16>,
}

/// The names of workloads, each once.
#[derive(Default)]
struct Names<'a> {
    places: HashMap<&'a str, usize>,
    /// As they stand between quotes.
    escaped: Vec<String>,
}

impl<'a> Names<'a> {
    fn place(&mut self, name: &'a str) -> usize {
        *self.places.entry(name).or_insert_with(|| {
            self.escaped.push(escape(name));
            self.escaped.len() - 1
        })
    }
}

/// The family in the text format.
pub(super) fn text(snapshot: &Snapshot) -> String {
    let mut names = Names::default();
    let series = series(snapshot, &mut names);
    let mut text = String::with_capacity(16 * 1024 + 160 * series.len());
    if series.is_empty() {
        return text;
    }
    // Writing to a string does not fail.
    let _ = write!(text, "# HELP {NAME} {HELP}\n# TYPE {NAME} counter\n");
    for (labels, resets) in series {
        let parts = [
            "{direction=\"",
            labels.direction.label(),
            "\",cause=\"",
            labels.cause.label(),
            "\",impact=\"",
            labels.impact.label(),
            "\",role=\"",
            labels.role.label(),
            "\",workload=\"",
            &names.escaped[labels.workload],
            "\",port=\"",
        ];
        text.push_str(NAME);
        text.extend(parts);
        let _ = match labels.port {
            Label::Value(port) => writeln!(text, "{port}\"}} {resets}"),
            other @ (Label::None | Label::Other) => {
                writeln!(text, "{}\"}} {resets}", port(other))
            }
        };
    }
    text
}

/// Every series with its count, in order, each once.
fn series<'a>(snapshot: &'a Snapshot, names: &mut Names<'a>) -> Vec<(Labels, u64)> {
    let counted = snapshot.counts.resets.iter().map(|(series, resets)| {
        let labels = Labels {
            direction: series.direction,
            cause: series.cause,
            impact: series.impact,
            role: series.role,
            workload: names.place(snapshot.workload(series.workload)),
            port: series.port,
        };
        (labels, *resets)
    });
    let mut all: Vec<_> = counted.collect();
    all.reserve(snapshot.served.len() * LOSSES.len());
    // There from the start, so that the first ones have a rate.
    for served in &snapshot.served {
        let workload = names.place(snapshot.workload(Label::Value(served.workload)));
        all.extend(LOSSES.map(|(direction, cause, impact)| {
            let labels = Labels {
                direction,
                cause,
                impact,
                role: Role::Server,
                workload,
                port: Label::Value(served.port),
            };
            (labels, 0)
        }));
    }
    all.sort_unstable_by_key(|(labels, _)| *labels);
    // The map keeps the kernel's reason apart, and what has one name.
    all.dedup_by(|(labels, resets), (kept, total)| {
        let same = labels == kept;
        if same {
            *total += *resets;
        }
        same
    });
    all
}

/// A label's value as the text format has it (Prometheus, exposition formats).
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('\n', "\\n")
        .replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use prometheus::{Encoder as _, TextEncoder};

    use super::super::{counter, tests::snapshot};
    use super::*;
    use crate::kernel::counters::Series;

    /// What the library makes of the same series.
    fn encoded(snapshot: &Snapshot) -> String {
        let mut names = Names::default();
        let mut plain = HashMap::new();
        for id in snapshot.workloads.keys() {
            let name = snapshot.workload(Label::Value(*id));
            plain.insert(names.place(name), name);
        }
        for label in [Label::None, Label::Other] {
            let name = snapshot.workload(label);
            plain.insert(names.place(name), name);
        }
        let series = series(snapshot, &mut names);
        let ports: Vec<_> = series.iter().map(|(labels, _)| port(labels.port)).collect();
        let samples = series.iter().zip(&ports).map(|((labels, resets), port)| {
            let labels = vec![
                ("direction", labels.direction.label()),
                ("cause", labels.cause.label()),
                ("impact", labels.impact.label()),
                ("role", labels.role.label()),
                ("workload", plain[&labels.workload]),
                ("port", port.as_str()),
            ];
            (labels, *resets)
        });
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&[counter(NAME, HELP, samples)], &mut text)
            .unwrap();
        String::from_utf8(text).unwrap()
    }

    fn sorted(text: &str) -> Vec<&str> {
        let mut lines: Vec<_> = text.lines().collect();
        lines.sort_unstable();
        lines
    }

    #[test]
    fn the_text_is_that_of_the_library() {
        let mut snapshot = snapshot();
        snapshot.workloads.insert(7, "a\\b\"c\nd.service".into());
        let (series, resets) = snapshot.counts.resets.iter().next().unwrap();
        let odd = Series {
            workload: Label::Value(7),
            ..*series
        };
        snapshot.counts.resets.insert(odd, resets + 1);
        let text = text(&snapshot);
        assert!(text.contains(r#"workload="a\\b\"c\nd.service""#), "{text}");
        assert_eq!(sorted(&text), sorted(&encoded(&snapshot)));
    }

    #[test]
    fn there_is_no_family_without_a_series() {
        let mut snapshot = snapshot();
        snapshot.served.clear();
        snapshot.counts.resets.clear();
        assert_eq!(text(&snapshot), "");
    }
}
