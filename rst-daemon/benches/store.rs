//! The store with a million resets of one hour: what writing takes at the most that is described
//! at the defaults, and how long `rst history` looks for what is rare or not there.
//!
//! `cargo bench --package rst-daemon --bench store` prints it. The store lies in
//! `RST_STORE_BENCH`, or else in a directory of its own under the temporary one, which needs 2 GB.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jiff::{Span, Timestamp};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rst_daemon::filter::Filter;
use rst_daemon::reset::{Reset, Told};
use rst_daemon::store::database::{Bounds, Database, Item, StoreError};
use rst_daemon::store::query::{Query, Reader};

/// Resets in the store, of one hour.
const RESETS: u32 = 1_000_000;

/// Resets of a transaction: what comes at 2,000 a second while the store gathers.
const BATCH: u32 = 200;

/// How often each search is made; the median is shown.
const ROUNDS: usize = 7;

/// Searches by the query of their filter, none of which finds more than a few.
const SEARCHES: [&str; 14] = [
    "workload=nosuch",
    "cause=memory_pressure",
    "direction=sent&cause=stale_reuse",
    "impact=uncertain",
    "direction=received&impact=benign",
    "port=7",
    "pid=7",
    "netns=7",
    "peer=203.0.113.0/24",
    "peer=2001:db8::/32",
    "peer=203.0.113.9",
    "workload=nosuch&port=443",
    "cause=stale_reuse&peer=203.0.113.9",
    "cause=stale_reuse&workload=unit3.service&direction=sent",
];

/// A reset as it is stored most often, without what differs.
const RESET: &str = r#"{"v":1,"time":"2026-11-20T14:32:01.123456789Z","host":"web1","direction":"received","cause":"stale_reuse","impact":"connection_broken",
"basis":"established, silent 60.0 s, unanswered data","origin":"socket","reason":null,
"local":{"ip":"10.0.1.5","port":42310},"remote":{"ip":"10.0.1.10","port":443},"family":"ipv4","role":"client","state":"ESTABLISHED",
"owner":{"pid":812,"comm":"nginx","source":"connect"},"peer_owner":null,"peer_cause":null,"killer":null,
"workload":{"kind":"systemd","name":"nginx.service"},"cgroup":"/system.slice/nginx.service",
"uid":33,"netns":4026531840,"cookie":5123,"community_id":"1:ldl6Pq0DaNHtQNZuoTjDKwidIcU=",
"turn":"us","idle_rx_ms":60012,"idle_tx_ms":0,"idle_segment_ms":60012,"probes_out":0,"age_ms":61240,"bytes_sent":1840,"bytes_received":920,
"unacked_bytes":460,"unsent_bytes":0,"unread_bytes":0,"srtt_us":412,"retransmits":0,
"keepalive":{"enabled":false,"time_s":7200,"interval_s":75,"probes":9},"linger":null,"exit":null,
"packet":{"ttl":null,"seq":null,"ack":null,"window":null},"forgery":null,"restart":null,
"hint":"matches the 60 s idle timeout of AWS ALB","advice":"keep the client's idle time-out shorter than that of what it connects to"}"#;

fn main() {
    let dir = std::env::var_os("RST_STORE_BENCH").map_or_else(
        || std::env::temp_dir().join(format!("rst-store-bench.{}", std::process::id())),
        PathBuf::from,
    );
    let bounds = Bounds {
        bytes: 8 << 30,
        age: Duration::from_secs(365 * 86_400),
    };
    let now = Timestamp::now();
    let mut database = Database::open(&dir, bounds).expect("there is room for it");
    let mut resets = Resets::new();
    let hour = Span::new().nanoseconds(3_600_000_000_000 / i64::from(RESETS));
    let mut time = now - Span::new().hours(1);
    let (mut most_wal, mut took, mut busy) = (0, Duration::ZERO, Duration::ZERO);
    for _ in 0..RESETS / BATCH {
        let batch: Vec<_> = (0..BATCH)
            .map(|_| {
                time += hour;
                resets.next(time)
            })
            .collect();
        let (begun, cpu) = (Instant::now(), cpu_time());
        database.write(&batch, now).expect("it is written");
        took += begun.elapsed();
        busy += cpu_time().saturating_sub(cpu);
        most_wal = database.bytes().max(most_wal);
    }
    println!(
        "write: {RESETS} resets, {BATCH} at a time: {:.1} us each, {:.1} us of processor time; {} bytes each on disk",
        took.as_secs_f64() * 1e6 / f64::from(RESETS),
        busy.as_secs_f64() * 1e6 / f64::from(RESETS),
        most_wal / u64::from(RESETS),
    );
    search_all("nobody writes", &dir, now);

    let over = Arc::new(AtomicBool::new(false));
    let writer = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut refused = 0;
            while !over.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let batch: Vec<_> = (0..BATCH).map(|_| resets.next(Timestamp::now())).collect();
                match database.write(&batch, now) {
                    Ok(_) => {}
                    Err(StoreError::Reader) => refused += 1,
                    Err(error) => panic!("{error}"),
                }
                thread::sleep(Duration::from_millis(100).saturating_sub(begun.elapsed()));
            }
            refused
        })
    };
    search_all("2,000 a second are written", &dir, now);
    over.store(true, Ordering::Relaxed);
    let refused = writer.join().expect("the writer ends");
    println!("writes refused because the searches leave no moment between them: {refused}");
    if std::env::var_os("RST_STORE_BENCH").is_none() {
        std::fs::remove_dir_all(&dir).expect("it is ours");
    }
}

/// Times each search of the last hour, from opening the store to the last row.
fn search_all(while_: &str, dir: &Path, now: Timestamp) {
    println!("search, {while_}: median and longest of {ROUNDS}, ms");
    for search in SEARCHES.into_iter().chain(["", "workload=unit3.service"]) {
        let limit = (!SEARCHES.contains(&search)).then_some(20);
        let query = Query {
            filter: Filter::from_query(search).expect("it is a filter"),
            since: now - Span::new().hours(1),
            until: Timestamp::MAX,
        };
        let mut found = 0;
        let mut times: Vec<_> = (0..ROUNDS)
            .map(|_| {
                let begun = Instant::now();
                let reader = Reader::open(dir).expect("it is there");
                found = match limit {
                    Some(limit) => reader.newest(&query, limit).expect("it is read").len(),
                    None => reader
                        .all(&query)
                        .expect("it is read")
                        .collect::<Result<Vec<_>, _>>()
                        .expect("it is read")
                        .len(),
                };
                begun.elapsed().as_secs_f64() * 1000.0
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let search = limit.map_or_else(
            || search.to_owned(),
            |limit| format!("{search} limit {limit}"),
        );
        println!(
            "  {search:58} {:8.1} {:8.1}  {found} found",
            times[ROUNDS / 2],
            times[ROUNDS - 1]
        );
    }
}

/// Resets of a busy host: two causes, nine services, 50,000 peers.
struct Resets {
    template: Reset,
    random: SmallRng,
}

impl Resets {
    fn new() -> Self {
        Self {
            template: serde_json::from_str(RESET).expect("it is a reset"),
            random: SmallRng::seed_from_u64(1),
        }
    }

    fn next(&mut self, time: Timestamp) -> Item {
        let mut reset = self.template.clone();
        let unit = self.random.random_range(0..9u32);
        reset.time = time;
        if self.random.random_bool(0.5) {
            reset.direction = "sent".into();
            reset.cause = "unread_data".into();
        }
        if let Some(local) = &mut reset.local {
            local.port = self.random.random_range(32_768..61_000);
        }
        if let Some(remote) = &mut reset.remote {
            remote.ip =
                std::net::Ipv4Addr::from(0x0a00_0000 + self.random.random_range(0..50_000u32))
                    .into();
        }
        if let Some(owner) = &mut reset.owner {
            owner.pid = Some(800 + unit);
        }
        if let Some(workload) = &mut reset.workload {
            workload.name = format!("unit{unit}.service");
        }
        Item::Told(Told::Reset(Arc::new(reset)))
    }
}

/// Processor time of this process, its own and the kernel's for it.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}
