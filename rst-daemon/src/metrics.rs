//! The Prometheus metrics: one function per family, all of them listed in
//! [`families`] but for the largest one, which is in [`resets`]. Names and labels are a public interface.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use prometheus::core::Collector as _;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{Encoder as _, TextEncoder};
use rst_common::cause::{Direction, OwnerSource};
use rst_common::history::BUCKETS;

use crate::clock::Hz;
use crate::cost::ProbeCost;
use crate::governor::Shed;
use crate::incidents::{Of, Total};
use crate::kernel::counters::{Connections, Counts, Histogram as Counted, Label};
use crate::kernel::listeners::Served;
use crate::kernel::probes::PROBES;
use crate::kernel::ring::ReaderStats;
use crate::ledger::{Counter as KernelCounter, Report};
use crate::reload::Reading;
use crate::store;

/// Label value of what is not known.
const UNKNOWN: &str = "unknown";
/// Label value of what had no room of its own.
pub const OTHER: &str = "other";

/// How many owners were found, by [`OwnerSource`].
pub type OwnersFound = [u64; OwnerSource::ALL.len()];

/// Everything the metrics show, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The kernel's exact counts.
    pub counts: Counts,
    /// What the reader met.
    pub reader: ReaderStats,
    /// How the owners in the detailed events were found.
    pub owners: OwnersFound,
    /// Room for series in the kernel's count map.
    pub max_series: u32,
    /// The kernel's timer ticks a second.
    pub hz: Hz,
    /// Names of the probes that are attached.
    pub attached: Vec<&'static str>,
    /// What the programs have cost, estimated.
    pub probes: Vec<ProbeCost>,
    /// What is given up to stay within the budget.
    pub shed: Shed,
    /// Names of the workloads in the counts, where they have one.
    pub workloads: HashMap<u64, Arc<str>>,
    /// The ports that are served.
    pub served: Vec<Served>,
    /// The kernel's own counters, and ours against them.
    pub ledger: Report,
    /// Resets that the kernel skipped our program for: those that `counts` lacks, where the
    /// ledger may be of a minute ago.
    pub missed: u64,
    /// How many incidents there have been, and are.
    pub incidents: BTreeMap<Of, Total>,
    /// How the store stands, where there is one.
    pub store: Option<store::Status>,
    /// How the last reading of the settings went.
    pub settings: Reading,
}

impl Snapshot {
    fn workload(&self, workload: Label<u64>) -> &str {
        match workload {
            Label::None => UNKNOWN,
            Label::Value(id) => self.workloads.get(&id).map_or(UNKNOWN, |name| name),
            Label::Other => OTHER,
        }
    }
}

/// Names of workloads by their numbers.
pub type Names = HashMap<u64, Arc<str>>;

/// What a workload is called in the metrics, by the names of those that have one.
#[must_use]
pub fn workload_name(names: &Names, workload: Label<u64>) -> Arc<str> {
    match workload {
        Label::None => UNKNOWN.into(),
        Label::Value(id) => names.get(&id).map_or_else(|| UNKNOWN.into(), Arc::clone),
        Label::Other => OTHER.into(),
    }
}

/// Renders the Prometheus text format. `reason` names a kernel reason number.
pub fn render(
    snapshot: &Snapshot,
    reason: impl Fn(u8) -> Option<String>,
) -> prometheus::Result<Vec<u8>> {
    let mut families = families(snapshot, reason);
    families.extend(ProcessCollector::for_self().collect());
    // The encoder refuses a family without a sample.
    families.retain(|family| !family.get_metric().is_empty());
    let mut text = resets::text(snapshot).into_bytes();
    TextEncoder::new().encode(&families, &mut text)?;
    Ok(text)
}

fn families(snapshot: &Snapshot, reason: impl Fn(u8) -> Option<String>) -> Vec<MetricFamily> {
    let mut families = vec![
        kernel_reasons(&snapshot.counts, reason),
        connections(
            "rst_connections_total",
            "Connections that came about.",
            snapshot,
            &snapshot.counts.connections,
        ),
        connections(
            "rst_timeouts_total",
            "Connections that died of silence, without a reset.",
            snapshot,
            &snapshot.counts.timeouts,
        ),
        idle(snapshot),
        ages(snapshot),
        counter(
            "rst_ignored_resets_total",
            "Resets that arrived and changed nothing; many of them are a sign of injection.",
            snapshot
                .counts
                .ignored
                .iter()
                .map(|(why, count)| (vec![("why", why.label())], *count)),
        ),
    ];
    families.extend(detail(snapshot));
    families.extend(ledger(snapshot));
    families.extend(incidents(snapshot));
    families.extend(own(snapshot));
    families.extend(configuration::families(&snapshot.settings));
    families.extend(snapshot.store.iter().flat_map(stored::families));
    families
}

/// What became of the detailed events.
fn detail(snapshot: &Snapshot) -> [MetricFamily; 3] {
    [
        events(snapshot),
        counter(
            "rst_owner_total",
            "Owners in the detailed events, by how they were found.",
            OwnerSource::ALL
                .iter()
                .zip(snapshot.owners)
                .map(|(source, found)| (vec![("source", source.label())], found)),
        ),
        counter(
            "rst_sampled_out_total",
            "Resets that were not described one by one, because the budget was used up.",
            snapshot
                .counts
                .detail
                .iter()
                .map(|(cause, detail)| (vec![("cause", cause.label())], detail.sampled_out)),
        ),
    ]
}

/// The kernel's own counts against ours.
fn ledger(snapshot: &Snapshot) -> [MetricFamily; 6] {
    [
        kernel_total(
            "rst_kernel_out_resets_total",
            "Resets sent, as the kernel counts them (OutRsts) in all network namespaces.",
            snapshot,
            KernelCounter::OutResets,
        ),
        kernel_total(
            "rst_kernel_estab_resets_total",
            "Connections lost while established, as the kernel counts them (EstabResets) in all network namespaces.",
            snapshot,
            KernelCounter::EstabResets,
        ),
        kernel_aborts(&snapshot.ledger),
        counter(
            "rst_missed_resets_total",
            "Resets that the kernel skipped our program for, as it counts them.",
            [(vec![], snapshot.missed)],
        ),
        counter(
            "rst_credited_resets_total",
            "Resets counted here that no counter of the kernel's tells: it went with its network namespace, can't be read, or the reset found no route.",
            [(vec![], snapshot.ledger.credited)],
        ),
        gauge(
            "rst_unaccounted_resets",
            "Resets sent since the start that the kernel has counted, and rst neither as resets nor as missed.",
            [(
                vec![],
                usize::try_from(snapshot.ledger.unaccounted).unwrap_or(usize::MAX),
            )],
        ),
    ]
}

/// Spikes of resets.
fn incidents(snapshot: &Snapshot) -> [MetricFamily; 2] {
    fn labels((workload, cause): &Of) -> Labels<'_> {
        vec![("workload", &**workload), ("cause", cause.label())]
    }
    let all = || snapshot.incidents.iter();
    [
        counter(
            "rst_incidents_total",
            "Spikes of resets.",
            all().map(|(of, total)| (labels(of), total.opened)),
        ),
        gauge(
            "rst_incident_active",
            "Spikes of resets that go on.",
            all().map(|(of, total)| (labels(of), total.active)),
        ),
    ]
}

/// The daemon itself.
fn own(snapshot: &Snapshot) -> [MetricFamily; 9] {
    [
        counter(
            "rst_label_overflow_total",
            "Resets counted under a label `other`, for want of room.",
            [(vec![], overflow(snapshot))],
        ),
        gauge(
            "rst_map_entries",
            "Entries in use of a kernel map.",
            [
                (vec![("map", "resets")], snapshot.counts.entries),
                (vec![("map", "sockets")], snapshot.counts.tracked),
            ],
        ),
        gauge(
            "rst_map_capacity",
            "Room for entries in a kernel map.",
            [
                (vec![("map", "resets")], snapshot.max_series as usize),
                (vec![("map", "sockets")], snapshot.counts.tracked_room),
            ],
        ),
        gauge(
            "rst_tracked_sockets",
            "Connections and listeners whose owner, age and role are known, a few seconds ago at most.",
            [(vec![], snapshot.counts.tracked)],
        ),
        probes(snapshot),
        cost(
            "rst_probe_runs_total",
            "Runs of a probe's program, estimated from samples of 80 ms in each 5 seconds.",
            snapshot.probes.iter().map(|cost| (cost.probe, cost.runs)),
        ),
        cost(
            "rst_probe_seconds_total",
            "Processor time of a probe's program, estimated likewise.",
            snapshot
                .probes
                .iter()
                .map(|cost| (cost.probe, cost.seconds)),
        ),
        gauge(
            "rst_shed_level",
            "What is given up to stay within max_cpu_percent and max_memory_mb: 0 nothing, 1 most detail, 2 all detail, 3 the optional probes too.",
            [(vec![], usize::from(snapshot.shed.level()))],
        ),
        gauge(
            "rst_build_info",
            "Always 1; the version is in the labels.",
            [(vec![("version", env!("CARGO_PKG_VERSION"))], 1)],
        ),
    ]
}

/// Resets that are counted under something else than their own labels.
fn overflow(snapshot: &Snapshot) -> u64 {
    let counts = snapshot.counts.resets.iter();
    counts
        .filter(|(series, _)| {
            series.port == Label::Other || snapshot.workload(series.workload) == OTHER
        })
        .map(|(_, resets)| resets)
        .sum()
}

/// Connections by role, workload and port.
fn connections(
    name: &str,
    help: &str,
    snapshot: &Snapshot,
    counts: &BTreeMap<Connections, u64>,
) -> MetricFamily {
    let mut totals = BTreeMap::<_, u64>::new();
    for ((role, workload, of), count) in counts {
        let key = (role.label(), snapshot.workload(*workload), port(*of));
        *totals.entry(key).or_default() += count;
    }
    counter(
        name,
        help,
        totals.iter().map(|((role, workload, port), count)| {
            (
                vec![
                    ("role", *role),
                    ("workload", *workload),
                    ("port", port.as_str()),
                ],
                *count,
            )
        }),
    )
}

fn idle(snapshot: &Snapshot) -> MetricFamily {
    let mut totals = BTreeMap::<_, Counted>::new();
    for ((cause, workload, of), gaps) in &snapshot.counts.gaps {
        let key = (cause.label(), snapshot.workload(*workload), port(*of));
        totals.entry(key).or_default().add(gaps);
    }
    let metrics = totals.iter().map(|((cause, workload, port), gaps)| {
        let labels = [
            ("cause", *cause),
            ("workload", *workload),
            ("port", port.as_str()),
        ];
        histogram(&labels, gaps, snapshot.hz)
    });
    family(
        "rst_idle_seconds",
        "Silence before a reset: since data last moved, or since the peer's last segment where our data found the connection gone.",
        MetricType::HISTOGRAM,
        metrics.collect(),
    )
}

fn ages(snapshot: &Snapshot) -> MetricFamily {
    let metrics = snapshot
        .counts
        .ages
        .iter()
        .map(|((direction, cause), ages)| {
            let labels = [("direction", direction.label()), ("cause", cause.label())];
            histogram(&labels, ages, snapshot.hz)
        });
    family(
        "rst_connection_age_seconds",
        "Age of the connections that were reset, where their beginning was seen.",
        MetricType::HISTOGRAM,
        metrics.collect(),
    )
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format is f64; exact up to 2^53"
)]
fn histogram(labels: &[(&'static str, &str)], counts: &Counted, hz: Hz) -> Metric {
    let mut histogram = Histogram::default();
    let mut total = 0;
    let mut buckets = Vec::with_capacity(BUCKETS.len());
    for (bound, count) in BUCKETS.iter().zip(counts.buckets) {
        total += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(f64::from(*bound));
        bucket.set_cumulative_count(total);
        buckets.push(bucket);
    }
    let beyond = counts.buckets[BUCKETS.len()];
    histogram.set_bucket(buckets);
    histogram.set_sample_count(total + beyond);
    histogram.set_sample_sum(counts.sum as f64 / f64::from(hz.jiffies(1000)));
    let mut metric = metric(labels);
    metric.set_histogram(histogram);
    metric
}

fn port(port: Label<u16>) -> String {
    match port {
        Label::None => UNKNOWN.to_owned(),
        Label::Value(port) => port.to_string(),
        Label::Other => OTHER.to_owned(),
    }
}

fn kernel_reasons(counts: &Counts, name: impl Fn(u8) -> Option<String>) -> MetricFamily {
    let mut totals = BTreeMap::<_, u64>::new();
    for (series, resets) in &counts.resets {
        let reason = match series.reason {
            Label::None => continue,
            // The kernel gives none for what it receives.
            Label::Other if series.direction == Direction::Received => continue,
            // Numbers without a name are no labels: they would come and go with
            // the kernel's version.
            Label::Value(raw) => name(raw).unwrap_or_else(|| UNKNOWN.to_owned()),
            Label::Other => OTHER.to_owned(),
        };
        *totals
            .entry((series.direction.label(), reason))
            .or_default() += resets;
    }
    counter(
        "rst_kernel_reason_total",
        "TCP resets by the reason the kernel itself gives.",
        totals.iter().map(|((direction, reason), resets)| {
            (
                vec![("direction", *direction), ("reason", reason.as_str())],
                *resets,
            )
        }),
    )
}

fn events(snapshot: &Snapshot) -> MetricFamily {
    let detail = snapshot.counts.detail.values();
    let [sampled_out, lost] = detail.fold([0, 0], |[sampled_out, lost], detail| {
        [sampled_out + detail.sampled_out, lost + detail.lost]
    });
    counter(
        "rst_events_total",
        "Detailed events by what became of them; the counts of resets do not depend on these.",
        [
            (vec![("outcome", "delivered")], snapshot.reader.delivered),
            (vec![("outcome", "sampled_out")], sampled_out),
            (vec![("outcome", "lost")], lost),
            (vec![("outcome", "malformed")], snapshot.reader.malformed),
        ],
    )
}

/// A counter of the kernel's; absent where the kernel does not have it.
fn kernel_total(
    name: &str,
    help: &str,
    snapshot: &Snapshot,
    counter_of: KernelCounter,
) -> MetricFamily {
    let total = snapshot.ledger.kernel[counter_of];
    counter(name, help, total.map(|total| (vec![], total)))
}

fn kernel_aborts(ledger: &Report) -> MetricFamily {
    let totals = KernelCounter::ABORTS
        .iter()
        .filter_map(|counter| Some((vec![("counter", counter.name())], ledger.kernel[*counter]?)));
    counter(
        "rst_kernel_aborts_total",
        "Connections and handshakes aborted, as the kernel counts them in all network namespaces.",
        totals,
    )
}

fn probes(snapshot: &Snapshot) -> MetricFamily {
    gauge(
        "rst_probe_up",
        "1 when the probe is attached.",
        PROBES.iter().map(|probe| {
            let required = if probe.required { "true" } else { "false" };
            (
                vec![("probe", probe.name), ("required", required)],
                usize::from(snapshot.attached.contains(&probe.name)),
            )
        }),
    )
}

/// An estimate for each probe.
fn cost<'a>(
    name: &str,
    help: &str,
    estimates: impl IntoIterator<Item = (&'a str, f64)>,
) -> MetricFamily {
    let samples = estimates.into_iter().map(|(probe, value)| {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = metric(&[("probe", probe)]);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, samples.collect())
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

#[expect(
    clippy::cast_precision_loss,
    reason = "the format is f64; exact up to 2^53"
)]
fn counter<'a>(
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels<'a>, u64)>,
) -> MetricFamily {
    let samples = samples.into_iter().map(|(labels, value)| {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        let mut metric = metric(&labels);
        metric.set_counter(counter);
        metric
    });
    family(name, help, MetricType::COUNTER, samples.collect())
}

#[expect(
    clippy::cast_precision_loss,
    reason = "the format is f64; exact up to 2^53"
)]
fn gauge<'a>(
    name: &str,
    help: &str,
    samples: impl IntoIterator<Item = (Labels<'a>, usize)>,
) -> MetricFamily {
    let samples = samples.into_iter().map(|(labels, value)| {
        let mut gauge = Gauge::default();
        gauge.set_value(value as f64);
        let mut metric = metric(&labels);
        metric.set_gauge(gauge);
        metric
    });
    family(name, help, MetricType::GAUGE, samples.collect())
}

fn metric(labels: &[(&'static str, &str)]) -> Metric {
    Metric::from_label(
        labels
            .iter()
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value((*value).to_owned());
                pair
            })
            .collect(),
    )
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

mod configuration;
mod resets;
mod stored;
#[cfg(test)]
mod tests;
