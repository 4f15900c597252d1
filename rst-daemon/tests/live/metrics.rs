//! Reads `/metrics` and compares what moved with the events that were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use jiff::Timestamp;
use prometheus_parse::Value as Sample;
use rst_common::cause::Cause;
use rst_common::history::BUCKETS;
use serde_json::Value;

use crate::collect::DEADLINE;
use crate::pace;

/// Labels of one series.
pub(crate) type Labels = BTreeMap<String, String>;

/// Increase by series.
pub(crate) type Increase = BTreeMap<Labels, u64>;

/// The gauges that tests look at.
const GAUGES: [&str; 8] = [
    "rst_unaccounted_resets",
    "rst_tracked_sockets",
    "rst_probe_up",
    "rst_shed_level",
    "rst_incident_active",
    "rst_store_up",
    "rst_config_last_reload_successful",
    "rst_config_last_reload_success_timestamp_seconds",
];

/// All counters at one moment, buckets among them, sums of seconds in
/// milliseconds, and what is unaccounted.
#[derive(Clone, Debug)]
pub(crate) struct Scrape {
    samples: BTreeMap<(String, Labels), u64>,
    /// Just before.
    pub(crate) begin: Timestamp,
    /// Just after.
    pub(crate) end: Timestamp,
}

impl Scrape {
    /// Asks the daemon behind the UNIX socket.
    pub(crate) fn take(socket: &Path) -> Self {
        let begin = Timestamp::now();
        let (status, text) = get(socket, "/metrics").expect("the daemon answers");
        let end = Timestamp::now();
        assert_eq!(status, 200, "{text}");
        let lines = text.lines().map(|line| Ok(line.to_owned()));
        let parsed = prometheus_parse::Scrape::parse(lines).expect("valid metrics");
        let samples = parsed.samples.into_iter().flat_map(|sample| {
            let labels: Labels = sample
                .labels
                .iter()
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
            match sample.value {
                Sample::Counter(value) => vec![((sample.metric, labels), whole(value))],
                Sample::Histogram(buckets) => {
                    let metric = format!("{}_bucket", sample.metric);
                    let buckets = buckets.into_iter().map(|bucket| {
                        let mut labels = labels.clone();
                        labels.insert("le".to_owned(), bucket.less_than.to_string());
                        ((metric.clone(), labels), whole(bucket.count))
                    });
                    buckets.collect()
                }
                // Sums of seconds.
                Sample::Untyped(sum) if sample.metric.ends_with("_seconds_sum") => {
                    vec![((sample.metric, labels), whole((sum * 1000.0).round()))]
                }
                Sample::Gauge(value) if GAUGES.contains(&sample.metric.as_str()) => {
                    vec![((sample.metric, labels), whole(value))]
                }
                Sample::Gauge(_) | Sample::Summary(_) | Sample::Untyped(_) => Vec::new(),
            }
        });
        Self {
            samples: samples.collect(),
            begin,
            end,
        }
    }

    /// Before anything was counted.
    pub(crate) fn nothing() -> Self {
        let now = Timestamp::now();
        Self {
            samples: BTreeMap::new(),
            begin: now,
            end: now,
        }
    }

    /// What a counter has grown by since `before`, summed over all labels but
    /// those named; series that stood still are left out.
    pub(crate) fn increase(&self, before: &Self, name: &str, labels: &[&str]) -> Increase {
        let mut increase = Increase::new();
        for (key @ (metric, series), value) in &self.samples {
            if metric != name {
                continue;
            }
            let old = before.samples.get(key).copied().unwrap_or_default();
            let grown = value.checked_sub(old).expect("a counter never falls");
            let kept = series
                .iter()
                .filter(|(label, _)| labels.contains(&label.as_str()))
                .map(|(label, value)| (label.clone(), value.clone()));
            *increase.entry(kept.collect()).or_default() += grown;
        }
        increase.retain(|_, grown| *grown != 0);
        increase
    }

    /// What a metric without labels stands at.
    pub(crate) fn value(&self, name: &str) -> u64 {
        self.samples[&(name.to_owned(), Labels::new())]
    }

    /// What a series stands at; 0 where it is not there.
    pub(crate) fn gauge(&self, name: &str, labels: &Labels) -> u64 {
        let series = (name.to_owned(), labels.clone());
        self.samples.get(&series).copied().unwrap_or_default()
    }

    /// The probes that are attached, or have run.
    pub(crate) fn probes_up(&self) -> BTreeSet<String> {
        let up = self
            .samples
            .iter()
            .filter(|((metric, _), value)| metric == "rst_probe_up" && **value == 1);
        up.filter_map(|((_, labels), _)| labels.get("probe").cloned())
            .collect()
    }

    /// What all series of a metric add up to.
    pub(crate) fn total(&self, name: &str) -> u64 {
        let series = self
            .samples
            .iter()
            .filter(|((metric, _), _)| metric == name);
        series.map(|(_, value)| value).sum()
    }

    /// What `rst_events_total` has grown by for one outcome.
    pub(crate) fn events(&self, before: &Self, outcome: &str) -> u64 {
        let increase = self.increase(before, "rst_events_total", &["outcome"]);
        let labels = Labels::from([("outcome".to_owned(), outcome.to_owned())]);
        increase.get(&labels).copied().unwrap_or_default()
    }

    /// What `rst_resets_total` has grown by where all these labels match.
    pub(crate) fn resets(&self, before: &Self, wanted: &[(&str, &str)]) -> u64 {
        self.sum(before, "rst_resets_total", wanted)
    }

    /// What a counter has grown by where all these labels match.
    pub(crate) fn sum(&self, before: &Self, name: &str, wanted: &[(&str, &str)]) -> u64 {
        let names: Vec<_> = wanted.iter().map(|(name, _)| *name).collect();
        let increase = self.increase(before, name, &names);
        let labels: Labels = wanted
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        increase.get(&labels).copied().unwrap_or_default()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counters are whole numbers and far below 2^53"
)]
fn whole(value: f64) -> u64 {
    assert!(value >= 0.0, "{value} as a counter");
    value as u64
}

/// One HTTP request over a UNIX socket: status and body.
pub(crate) fn get(socket: &Path, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(pace::patience(DEADLINE)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.unwrap_or_default(), body.to_owned()))
}

/// Says how the counters' increase differs from the events seen meanwhile.
pub(crate) fn compare(before: &Scrape, after: &Scrape, events: &[Value]) -> Result<(), String> {
    let names = ["direction", "cause", "impact", "role", "workload", "port"];
    let mut problems = String::new();
    let mut check = |metric: &str, counted: &Increase, seen: &Increase| {
        let all: BTreeMap<_, _> = counted.iter().chain(seen).collect();
        for labels in all.keys() {
            let counted = counted.get(*labels).copied().unwrap_or_default();
            let seen = seen.get(*labels).copied().unwrap_or_default();
            if counted != seen {
                let _ = writeln!(
                    problems,
                    "{metric} {labels:?} grew by {counted}, but the watcher saw {seen}"
                );
            }
        }
    };
    let counted = after.increase(before, "rst_resets_total", &names);
    let seen = events.iter().map(|event| {
        let label = |name: &str| (name.to_owned(), text(event, name));
        let mut labels: Labels = names[..4].iter().map(|name| label(name)).collect();
        labels.insert("workload".to_owned(), workload(event));
        labels.insert("port".to_owned(), service_port(event));
        labels
    });
    check("rst_resets_total", &counted, &count(seen));

    let names = ["direction", "reason"];
    let counted = after.increase(before, "rst_kernel_reason_total", &names);
    let seen = events
        .iter()
        .filter(|event| !event["reason"].is_null())
        .map(|event| {
            names
                .iter()
                .map(|name| ((*name).to_owned(), text(event, name)))
                .collect()
        });
    check("rst_kernel_reason_total", &counted, &count(seen));

    let names = ["cause", "workload", "port"];
    let gaps = events.iter().filter_map(|event| {
        let of = vec![text(event, "cause"), workload(event), service_port(event)];
        Some((of, gap_ms(event)?))
    });
    for (metric, seen) in histogram("rst_idle_seconds", &names, gaps) {
        let labels = [&names[..], &["le"]].concat();
        check(&metric, &after.increase(before, &metric, &labels), &seen);
    }

    let names = ["direction", "cause"];
    let ages = events.iter().filter_map(|event| {
        let of = names.map(|name| text(event, name)).to_vec();
        Some((of, event["age_ms"].as_u64()?))
    });
    for (metric, seen) in histogram("rst_connection_age_seconds", &names, ages) {
        let labels = [&names[..], &["le"]].concat();
        check(&metric, &after.increase(before, &metric, &labels), &seen);
    }

    for outcome in ["sampled_out", "lost", "malformed"] {
        let grown = after.events(before, outcome);
        if grown != 0 {
            let _ = writeln!(
                problems,
                "{grown} events {outcome}: a storm of resets from elsewhere on this machine?"
            );
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}

/// The silence that an event adds to the histogram, for causes that have one.
fn gap_ms(event: &Value) -> Option<u64> {
    let cause = Cause::from_label(event["cause"].as_str()?)?;
    if !cause.has_gap() {
        return None;
    }
    if cause == Cause::StaleReuse {
        return event["idle_segment_ms"].as_u64();
    }
    let data = [&event["idle_rx_ms"], &event["idle_tx_ms"]].map(Value::as_u64);
    data.into_iter().flatten().min()
}

/// What durations, with the values of these labels, add to the series of a
/// histogram.
fn histogram(
    metric: &str,
    names: &[&str],
    durations: impl Iterator<Item = (Vec<String>, u64)>,
) -> [(String, Increase); 2] {
    let (mut buckets, mut sums) = (Increase::new(), Increase::new());
    for (values, millis) in durations {
        let names = names.iter().map(|name| (*name).to_owned());
        let labels: Labels = names.zip(values).collect();
        let bounds = BUCKETS.iter().map(|bound| f64::from(*bound));
        for bound in bounds.chain([f64::INFINITY]) {
            #[expect(clippy::cast_precision_loss, reason = "days in milliseconds")]
            if millis as f64 <= bound * 1000.0 {
                let mut labels = labels.clone();
                labels.insert("le".to_owned(), bound.to_string());
                *buckets.entry(labels).or_default() += 1;
            }
        }
        *sums.entry(labels).or_default() += millis;
    }
    sums.retain(|_, millis| *millis != 0);
    [
        (format!("{metric}_bucket"), buckets),
        (format!("{metric}_sum"), sums),
    ]
}

fn count(labels: impl Iterator<Item = Labels>) -> Increase {
    let mut counts = Increase::new();
    for labels in labels {
        *counts.entry(labels).or_default() += 1;
    }
    counts
}

/// The workload label.
fn workload(event: &Value) -> String {
    let name = event["workload"]["name"].as_str();
    name.unwrap_or("unknown").to_owned()
}

/// The port label: the service's port.
fn service_port(event: &Value) -> String {
    let end = match event["role"].as_str() {
        Some("server") => "local",
        Some("client") => "remote",
        _ => return "unknown".to_owned(),
    };
    event[end]["port"].to_string()
}

fn text(event: &Value, name: &str) -> String {
    event[name].as_str().unwrap_or_default().to_owned()
}
