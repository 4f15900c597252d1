//! The text that Prometheus gets.

use rst_common::cause::{Cause, Ignored, Impact, Role};
use rst_common::event::DetailStats;

use super::*;
use crate::kernel::counters::Series;
use crate::ledger::{Blindness, Ours, Values};

fn series(reason: Label<u8>, port: Label<u16>) -> Series {
    Series {
        direction: Direction::Sent,
        cause: Cause::UnreadData,
        impact: Impact::ConnectionBroken,
        role: Role::Server,
        reason,
        port,
        workload: Label::None,
    }
}

pub(super) fn snapshot() -> Snapshot {
    Snapshot {
        settings: Reading {
            successful: false,
            success: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
        },
        counts: Counts {
            resets: [
                (series(Label::Value(9), Label::Value(80)), 3),
                (series(Label::Value(63), Label::Value(80)), 1),
                (series(Label::None, Label::None), 2),
                (series(Label::Other, Label::Other), 5),
            ]
            .into(),
            detail: [(Cause::UnreadData, 2), (Cause::Refused, 1)]
                .map(|(cause, sampled_out)| {
                    let lost = u64::from(cause == Cause::Refused);
                    (cause, DetailStats { sampled_out, lost })
                })
                .into(),
            gaps: [(
                (Cause::IdleTimeout, Label::None, Label::Value(443)),
                durations(&[(9, 7), (24, 1)], 7 * 6000 + 800_000),
            )]
            .into(),
            ages: [(
                (Direction::Sent, Cause::UnreadData),
                durations(&[(0, 2)], 150),
            )]
            .into(),
            timeouts: [((Role::Client, Label::Value(7), Label::Value(443)), 4)].into(),
            // A service that was restarted, and so is in another cgroup.
            connections: [8, 9]
                .map(|id| ((Role::Server, Label::Value(id), Label::Value(80)), 10))
                .into(),
            ignored: [(Ignored::Embryonic, 2)].into(),
            entries: 3,
            tracked: 12,
            tracked_room: 64,
        },
        reader: ReaderStats {
            delivered: 6,
            malformed: 1,
        },
        owners: [1, 2, 3, 0, 0, 0],
        max_series: 4096,
        hz: hz(),
        attached: vec!["tcp_send_reset"],
        probes: vec![ProbeCost {
            probe: "tcp_send_reset",
            runs: 1000.0,
            seconds: 0.25,
        }],
        shed: Shed::Detail,
        workloads: [8, 9].map(|id| (id, "web.service".into())).into(),
        served: vec![Served {
            workload: 8,
            port: 80,
        }],
        ledger: ledger(),
        missed: 3,
        incidents: BTreeMap::new(),
        store: Some(store::Status {
            up: true,
            written: 12,
            deleted: 4,
            dropped: [3, 0, 0, 1],
            bytes: 8192,
        }),
    }
}

fn ledger() -> Report {
    let mut kernel = Values::default();
    kernel[KernelCounter::OutResets] = Some(16);
    kernel[KernelCounter::EstabResets] = Some(4);
    kernel[KernelCounter::AbortOnClose] = Some(4);
    Report {
        kernel,
        ours: Ours {
            sent: 11,
            missed_sent: 2,
            missed_received: 1,
        },
        unaccounted: 3,
        credited: 6,
        suspects: vec![],
        namespaces: 1,
        unread: 0,
        blindness: Blindness::None,
    }
}

/// 100 ticks a second, ten seconds after the start.
fn hz() -> Hz {
    Hz::of((10_000_000_000, (1 << 32) - 300 * 100 + 1000)).unwrap()
}

fn durations(buckets: &[(usize, u64)], sum: u64) -> Counted {
    let mut durations = Counted {
        sum,
        ..Counted::default()
    };
    for (bucket, count) in buckets {
        durations.buckets[*bucket] = *count;
    }
    durations
}

fn text(snapshot: &Snapshot) -> String {
    let reason = |raw| (raw == 9).then(|| "TCP_ABORT_ON_CLOSE".to_owned());
    String::from_utf8(render(snapshot, reason).unwrap()).unwrap()
}

#[test]
fn every_reset_is_in_one_series() {
    let text = text(&snapshot());
    for line in [
        r#"rst_resets_total{direction="sent",cause="unread_data",impact="connection_broken",role="server",workload="unknown",port="80"} 4"#,
        r#"rst_resets_total{direction="sent",cause="unread_data",impact="connection_broken",role="server",workload="unknown",port="unknown"} 2"#,
        r#"rst_resets_total{direction="sent",cause="unread_data",impact="connection_broken",role="server",workload="unknown",port="other"} 5"#,
        r#"rst_kernel_reason_total{direction="sent",reason="TCP_ABORT_ON_CLOSE"} 3"#,
        r#"rst_kernel_reason_total{direction="sent",reason="unknown"} 1"#,
        r#"rst_kernel_reason_total{direction="sent",reason="other"} 5"#,
        r#"rst_timeouts_total{role="client",workload="unknown",port="443"} 4"#,
        r#"rst_resets_total{direction="sent",cause="refused",impact="connect_failed",role="server",workload="web.service",port="80"} 0"#,
        r#"rst_owner_total{source="unknown"} 1"#,
        r#"rst_owner_total{source="connect"} 3"#,
        r#"rst_connections_total{role="server",workload="web.service",port="80"} 20"#,
        r#"rst_idle_seconds_bucket{cause="idle_timeout",workload="unknown",port="443",le="55"} 0"#,
        r#"rst_idle_seconds_bucket{cause="idle_timeout",workload="unknown",port="443",le="60"} 7"#,
        r#"rst_idle_seconds_bucket{cause="idle_timeout",workload="unknown",port="443",le="7200"} 7"#,
        r#"rst_idle_seconds_bucket{cause="idle_timeout",workload="unknown",port="443",le="+Inf"} 8"#,
        r#"rst_idle_seconds_sum{cause="idle_timeout",workload="unknown",port="443"} 8420"#,
        r#"rst_idle_seconds_count{cause="idle_timeout",workload="unknown",port="443"} 8"#,
        r#"rst_connection_age_seconds_bucket{direction="sent",cause="unread_data",le="1"} 2"#,
        r#"rst_connection_age_seconds_sum{direction="sent",cause="unread_data"} 1.5"#,
        r#"rst_events_total{outcome="delivered"} 6"#,
        r#"rst_events_total{outcome="sampled_out"} 3"#,
        r#"rst_events_total{outcome="lost"} 1"#,
        r#"rst_sampled_out_total{cause="unread_data"} 2"#,
        r#"rst_ignored_resets_total{why="embryonic"} 2"#,
        r#"rst_probe_runs_total{probe="tcp_send_reset"} 1000"#,
        r#"rst_probe_seconds_total{probe="tcp_send_reset"} 0.25"#,
        "rst_shed_level 2",
        "rst_store_up 1",
        r#"rst_store_dropped_total{why="queue_full"} 3"#,
        r#"rst_store_dropped_total{why="unavailable"} 1"#,
        "rst_store_bytes 8192",
        r#"rst_events_total{outcome="malformed"} 1"#,
        "rst_label_overflow_total 5",
        "rst_kernel_out_resets_total 16",
        "rst_kernel_estab_resets_total 4",
        r#"rst_kernel_aborts_total{counter="TCPAbortOnClose"} 4"#,
        "rst_missed_resets_total 3",
        "rst_credited_resets_total 6",
        "rst_unaccounted_resets 3",
        r#"rst_map_entries{map="resets"} 3"#,
        r#"rst_map_capacity{map="resets"} 4096"#,
        r#"rst_map_entries{map="sockets"} 12"#,
        r#"rst_map_capacity{map="sockets"} 64"#,
        "rst_tracked_sockets 12",
        r#"rst_probe_up{probe="tcp_send_reset",required="true"} 1"#,
        r#"rst_probe_up{probe="tcp_receive_reset",required="true"} 0"#,
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} not in\n{text}"
        );
    }
    assert!(text.contains("process_resident_memory_bytes "), "{text}");
    assert!(text.contains("rst_build_info{version="), "{text}");
    // The kernel does not have it.
    assert!(!text.contains("TCPAbortOnMemory"), "{text}");
}

#[test]
fn a_prometheus_parser_reads_all_of_it() {
    let text = text(&snapshot());
    let lines = text.lines().map(|line| Ok(line.to_owned()));
    let scrape = prometheus_parse::Scrape::parse(lines).unwrap();
    // The parser makes one sample of the buckets of a histogram.
    let samples = text.lines().filter(|line| {
        !line.starts_with('#') && (!line.contains("_bucket{") || line.contains("+Inf"))
    });
    assert_eq!(scrape.samples.len(), samples.count());
    let total: f64 = scrape
        .samples
        .iter()
        .filter(|sample| sample.metric == "rst_resets_total")
        .map(|sample| {
            let prometheus_parse::Value::Counter(value) = sample.value else {
                panic!("not a counter: {:?}", sample.value);
            };
            value
        })
        .sum();
    assert!((total - 11.0).abs() < f64::EPSILON);
}

#[test]
fn nothing_counted_yet_is_valid_too() {
    let text = text(&Snapshot {
        counts: Counts::default(),
        served: vec![],
        attached: vec![],
        ..snapshot()
    });
    assert!(!text.contains("rst_resets_total{"));
    assert!(text.contains(r#"rst_probe_up{probe="tcp_receive_reset",required="true"} 0"#));
}

#[test]
fn a_file_that_was_refused_is_told_with_the_time_of_the_last_good_one() {
    let text = text(&snapshot());
    for line in [
        "rst_config_last_reload_successful 0",
        "rst_config_last_reload_success_timestamp_seconds 1800000000",
    ] {
        assert!(text.lines().any(|it| it == line), "{line}: {text}");
    }
}
