//! Two hundred hosts in one Prometheus: what the rules over all of them say, and what
//! they take. The hosts are made up; their series are those of the daemon.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::server::Prometheus;
use super::site::Site;
use super::{free_address, wait_for};
use crate::lab::{Folder, can_run, exclusive};

/// How many hosts there are.
const HOSTS: usize = 200;

/// Services on each.
const SERVICES: usize = 5;

/// The first hosts that break together: a quarter of all.
const BREAKING: usize = HOSTS / 4;

/// Connections a second to each service, and failures on the hosts that have some: each
/// tenth.
const RATE: f64 = 20.0;
const FAILING: usize = HOSTS / 10;

/// Hosts with an incident of the first service, and of the second.
const INCIDENTS: [usize; 2] = [3, 2];

/// The window of the rules, 5 minutes, 30 times as fast.
const WINDOW: f64 = 10.0;

/// Longest until the rules have seen a whole window, or until an alert fires.
const PATIENCE: Duration = Duration::from_secs(40);

/// How far counts may be from what they are at an exact moment: a tenth.
const TOLERANCE: f64 = 0.1;

/// How a service fails its clients: direction, cause, impact.
const LOSSES: [[&str; 3]; 4] = [
    ["sent", "refused", "connect_failed"],
    ["sent", "listen_overflow", "connect_failed"],
    ["sent", "unread_data", "connection_broken"],
    ["received", "peer_gave_up", "connection_broken"],
];

/// What a host shows after some time.
fn metrics(host: usize, uptime: Duration) -> String {
    let mut text = "# TYPE rst_build_info gauge\nrst_build_info{version=\"0.1.0\"} 1\n".to_owned();
    let total = uptime.as_secs_f64() * RATE;
    let mut line = |family: &str, labels: &str, value: f64| {
        let _ = writeln!(text, "{family}{{{labels}}} {value}");
    };
    for service in 0..SERVICES {
        let of = format!("workload=\"svc{service}\",port=\"{}\"", 8000 + service);
        line(
            "rst_connections_total",
            &format!("role=\"server\",{of}"),
            total,
        );
        for [direction, cause, impact] in LOSSES {
            let fails = host.is_multiple_of(HOSTS / FAILING) && cause == "refused";
            let labels = format!(
                "direction=\"{direction}\",cause=\"{cause}\",impact=\"{impact}\",role=\"server\",{of}"
            );
            line("rst_resets_total", &labels, if fails { total } else { 0.0 });
        }
        let incident = INCIDENTS.get(service).is_some_and(|hosts| host < *hosts);
        let labels = format!("workload=\"svc{service}\",cause=\"refused\"");
        line(
            "rst_incident_active",
            &labels,
            f64::from(u8::from(incident)),
        );
    }
    text
}

#[test]
fn fleet_of_two_hundred_hosts_is_added_up() {
    let test = "fleet_of_two_hundred_hosts_is_added_up";
    if !can_run(test, &["prometheus"]) {
        return;
    }
    let _exclusive = exclusive();
    let folder = Folder::new();
    let (begin, broken) = (Instant::now(), Arc::<AtomicBool>::default());
    let breaks = Arc::clone(&broken);
    let site = Site::start(move |path, _| {
        let host: usize = path[1..].parse().expect("the number of a host");
        if host < BREAKING && breaks.load(Ordering::Relaxed) {
            return "no metrics".to_owned();
        }
        metrics(host, begin.elapsed())
    });
    let targets: Vec<_> = (0..HOSTS)
        .map(|host| {
            format!(
                "- targets: [\"{}\"]\n        \
                 labels: {{instance: host{host}, __metrics_path__: /{host}}}",
                site.address
            )
        })
        .collect();
    let prometheus = Prometheus::start(&folder, &targets.join("\n      "), free_address());
    let value = |expression: &str| prometheus.value(expression);
    let near = |expression: &str, wanted: f64| {
        let near = |value: f64| (value - wanted).abs() <= wanted * TOLERANCE;
        wait_for(expression, PATIENCE, || {
            value(expression).filter(|it| near(*it))
        })
    };

    near("job:up:count", count(HOSTS));
    near("job:up:avg", 1.0);
    // Of the failing hosts, in a window.
    let failures = count(FAILING) * RATE * WINDOW;
    near(
        "impact_role_workload_port:rst_resets:increase5m{impact=\"connect_failed\",workload=\"svc0\"}",
        failures,
    );
    let attempts = count(HOSTS) * RATE * WINDOW + failures;
    near(
        "role_workload_port:rst_connect_failures_per_attempts:ratio_increase5m{workload=\"svc0\"}",
        failures / attempts,
    );
    near(
        "sum(direction_cause_impact_workload:rst_resets:rate5m{cause=\"refused\"})",
        count(SERVICES * FAILING) * RATE,
    );
    // One more host than services may have by chance, and one less.
    let firing = |alert: &str| format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\"}}");
    wait_for("the fleet's incident fires", PATIENCE, || {
        value(&firing("RstFleetIncident"))
    });
    let labels = &prometheus.query(&firing("RstFleetIncident"))[0]["metric"];
    assert_eq!(labels["workload"], "svc0");
    // Each failing host pages for each service by itself.
    near(
        &format!("count({})", firing("RstConnectFailures")),
        count(SERVICES * FAILING),
    );
    assert_eq!(value(&firing("RstFleetDown")), None);

    // What it takes: series of each kind, and the time for the rules.
    let recorded = |level: &str| value(&format!("count({{__name__=~\"{level}.*:.*\"}})"));
    let per_host = recorded("instance_").unwrap();
    let fleet = recorded("(job|impact|role|direction|cause)").unwrap();
    let head = prometheus.own("prometheus_tsdb_head_series");
    let rules = prometheus.own("prometheus_rule_group_last_duration_seconds");
    println!(
        "{HOSTS} hosts of {SERVICES} services: {head} series, {per_host} of them recorded for \
         hosts and {fleet} for the fleet; one evaluation of all rules takes {rules:.3} s"
    );
    // Per host and service two impacts, connections and two ratios at most.
    assert!(per_host <= count(HOSTS * SERVICES * 5), "{per_host}");
    // As many for all hosts, by cause those that there are, two of `up`, incidents.
    assert!(
        fleet <= count(SERVICES * (5 + LOSSES.len()) + 2 + 2),
        "{fleet}"
    );
    let missed = prometheus.own("prometheus_rule_group_iterations_missed_total");
    assert!(missed < 1.0, "{missed} evaluations were missed");

    broken.store(true, Ordering::Relaxed);
    near("job:up:avg", 0.75);
    wait_for("the fleet's outage fires", PATIENCE, || {
        value(&firing("RstFleetDown"))
    });
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn count(number: usize) -> f64 {
    number as f64
}
