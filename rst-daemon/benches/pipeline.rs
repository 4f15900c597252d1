//! The daemon's own work on one core: an event from the ring buffer to whoever watches, and a
//! scrape of everything that can be counted.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use divan::Bencher;
use jiff::tz::TimeZone;
use rst_common::cause::{Cause, Direction, Impact, Origin, OwnerSource, Role};
use rst_common::event::{self, EVENT_SIZE, Event};
use rst_common::facts::{Facts, known};
use rst_common::owner::Holder;
use rst_common::tcp::{AF_INET, state};
use rst_daemon::clock::{Hz, WallClock};
use rst_daemon::governor::Shed;
use rst_daemon::hub::Hub;
use rst_daemon::join::Joiner;
use rst_daemon::kernel::counters::{Counts, Label, Series};
use rst_daemon::kernel::listeners::Served;
use rst_daemon::kernel::ring::{ReaderStats, decode};
use rst_daemon::ledger::{Blindness, Ours, Report, Values};
use rst_daemon::metrics::{self, Snapshot};
use rst_daemon::reload::Reading;
use rst_daemon::reset::{Reset, Told};
use rst_daemon::text::{self, Style};
use rst_daemon::workload::resolver::Resolver;

fn main() {
    for (name, served) in [("nobody serves them", false), ("all are served", true)] {
        let bytes = render(&snapshot(served)).len();
        println!(
            "size: scrape of {WORKLOADS} x {PORTS} workloads and ports, {name}: {bytes} bytes"
        );
    }
    divan::main();
}

/// Workloads and ports of a scrape: 2,000 pairs.
const WORKLOADS: u64 = 100;
const PORTS: u16 = 20;

/// A connection that the peer had forgotten, with all there is to know of it.
fn event() -> Event {
    let facts = Facts {
        known: known::STATE
            | known::IDLE_TX
            | known::IDLE_RX
            | known::IDLE_SEGMENT
            | known::UNREAD
            | known::UNSENT
            | known::UNACKED
            | known::PROBES_OUT
            | known::BYTES_SENT
            | known::BYTES_RETRANS
            | known::BYTES_ACKED
            | known::BYTES_RECEIVED
            | known::SOCK_FLAGS
            | known::AGE,
        direction: Direction::Received as u8,
        origin: Origin::Socket as u8,
        state: state::ESTABLISHED,
        tracked_role: Role::Client as u8,
        idle_rx: 15_000,
        idle_tx: 0,
        idle_segment: 15_000,
        unacked: 460,
        age: 16_000,
        srtt_us: 412,
        bytes_sent: 1840,
        bytes_acked: 1381,
        bytes_received: 920,
        ..Facts::default()
    };
    let empty = decode(&[0; EVENT_SIZE]).expect("it has the length of an event");
    Event {
        facts,
        ktime_ns: 4_711_000_000_000,
        sock_cookie: 5123,
        netns: 4_026_531_840,
        known: event::known::TUPLE
            | event::known::NETNS
            | event::known::SOCK_COOKIE
            | event::known::UID
            | event::known::RETRANSMITS
            | event::known::KEEPALIVE,
        uid: 33,
        holder: Holder {
            born: 0,
            pid: 812,
            source: OwnerSource::Connect as u8,
            is_kernel: false,
        }
        .pack(),
        holder_comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0",
        workload: 7,
        keepalive_time: 1_800_000,
        keepalive_intvl: 18_750,
        keepalive_probes: 9,
        local_addr: *b"\x0a\0\x01\x05\0\0\0\0\0\0\0\0\0\0\0\0",
        remote_addr: *b"\x0a\0\x01\x0a\0\0\0\0\0\0\0\0\0\0\0\0",
        local_port: 42_310,
        remote_port: 443,
        family: AF_INET,
        reason: 9,
        cause: Cause::StaleReuse as u8,
        impact: Impact::ConnectionBroken as u8,
        role: Role::Client as u8,
        ..empty
    }
}

/// The event as it lies in the ring buffer.
fn record() -> [u8; EVENT_SIZE] {
    // SAFETY: an Event is that long, repr(C), and its padding is spelled out, so every byte is
    // initialised.
    unsafe { std::mem::transmute::<Event, [u8; EVENT_SIZE]>(event()) }
}

/// The daemon's way from a record to a reset.
struct Pipeline {
    joiner: Joiner,
    resolver: Resolver,
    clock: WallClock,
    record: [u8; EVENT_SIZE],
}

impl Pipeline {
    fn new() -> Self {
        let reasons = vec![Some("TCP_ABORT_ON_CLOSE".to_owned()); 16];
        let nginx = Arc::<str>::from("/system.slice/nginx.service");
        Self {
            joiner: Joiner::new("web1".to_owned(), reasons, hz(), true),
            resolver: Resolver::new(Box::new(move |_, _| Some(Arc::clone(&nginx))), 1000),
            clock: WallClock::now(),
            record: record(),
        }
    }

    fn reset(&mut self) -> Reset {
        let event = decode(black_box(&self.record)).expect("it has the length of an event");
        let of = self.resolver.resolve(event.workload, Instant::now());
        self.joiner.join(&event, self.clock, of, None)
    }
}

/// 250 ticks a second, ten seconds after the start.
fn hz() -> Hz {
    Hz::of((10_000_000_000, (1 << 32) - 300 * 250 + 2500)).expect("the clocks fit")
}

/// A record becomes a reset.
#[divan::bench(sample_count = 2000)]
fn decode_join(bencher: Bencher<'_, '_>) {
    let mut pipeline = Pipeline::new();
    bencher.bench_local(|| pipeline.reset());
}

/// The same, and it is handed to one who watches.
#[divan::bench(sample_count = 2000)]
fn decode_join_hub(bencher: Bencher<'_, '_>) {
    let mut pipeline = Pipeline::new();
    let hub = Hub::new();
    let mut watcher = hub.subscribe();
    bencher.bench_local(|| {
        hub.publish(pipeline.reset());
        watcher.try_recv().expect("it has just been published")
    });
}

/// The same, and written for the stream.
#[divan::bench(sample_count = 2000)]
fn decode_join_hub_json(bencher: Bencher<'_, '_>) {
    let mut pipeline = Pipeline::new();
    let hub = Hub::new();
    let mut watcher = hub.subscribe();
    bencher.bench_local(|| {
        hub.publish(pipeline.reset());
        let told = watcher.try_recv().expect("it has just been published");
        let Told::Reset(reset) = told else {
            unreachable!("a reset was published");
        };
        text::json(reset.as_ref()).expect("a reset is JSON")
    });
}

/// A line of text of a reset.
#[divan::bench(sample_count = 2000)]
fn line(bencher: Bencher<'_, '_>) {
    let reset = Pipeline::new().reset();
    let style = Style {
        color: false,
        zone: TimeZone::UTC,
    };
    bencher.bench_local(|| text::line(black_box(&reset), &style));
}

/// A scrape of 2,000 workloads and ports.
#[divan::bench]
fn scrape(bencher: Bencher<'_, '_>) {
    let snapshot = snapshot(false);
    bencher.bench_local(|| render(&snapshot));
}

/// The same where all of them are served: each has its series at zero from the start.
#[divan::bench]
fn scrape_served(bencher: Bencher<'_, '_>) {
    let snapshot = snapshot(true);
    bencher.bench_local(|| render(&snapshot));
}

fn render(snapshot: &Snapshot) -> Vec<u8> {
    metrics::render(black_box(snapshot), |raw| Some(format!("REASON_{raw}")))
        .expect("every family can be encoded")
}

/// Two causes and the connections of each pair.
fn snapshot(are_served: bool) -> Snapshot {
    let pairs = || (1..=WORKLOADS).flat_map(|id| (1..=PORTS).map(move |port| (id, port)));
    let series = |(workload, port), direction, cause| Series {
        direction,
        cause,
        impact: Impact::ConnectionBroken,
        role: Role::Server,
        reason: Label::Value(11),
        port: Label::Value(port),
        workload: Label::Value(workload),
    };
    let resets = pairs().flat_map(|pair| {
        [
            (series(pair, Direction::Sent, Cause::UnreadData), 3),
            (series(pair, Direction::Received, Cause::PeerAbort), 4),
        ]
    });
    let connections = pairs().map(|(workload, port)| {
        let key = (Role::Server, Label::Value(workload), Label::Value(port));
        (key, 1_000_000)
    });
    let served = pairs().map(|(workload, port)| Served { workload, port });
    Snapshot {
        counts: Counts {
            resets: resets.collect(),
            connections: connections.collect(),
            ..Counts::default()
        },
        reader: ReaderStats::default(),
        owners: [0; OwnerSource::ALL.len()],
        max_series: 4096,
        hz: hz(),
        attached: vec!["tcp_send_reset", "tcp_receive_reset"],
        workloads: (1..=WORKLOADS)
            .map(|id| (id, Arc::from(format!("service-{id}.service"))))
            .collect(),
        probes: Vec::new(),
        shed: Shed::Nothing,
        store: None,
        settings: Reading {
            successful: true,
            success: jiff::Timestamp::UNIX_EPOCH,
        },
        missed: 0,
        ledger: Report {
            kernel: Values::default(),
            ours: Ours::default(),
            unaccounted: 0,
            credited: 0,
            suspects: Vec::new(),
            namespaces: 1,
            unread: 0,
            blindness: Blindness::None,
        },
        served: if are_served { served.collect() } else { vec![] },
        incidents: BTreeMap::new(),
    }
}
