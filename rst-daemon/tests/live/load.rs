//! Storms and bursts: counts stay exact, events stay quick, nobody waits for a
//! watcher that stands still.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::collect::{DEADLINE, wait_until};
use crate::expect::{no_socket, received, sent};
use crate::kernel::Limit;
use crate::lab::{Lab, SENTINEL_PORT, is_sentinel};
use crate::metrics::Scrape;
use crate::netns::{FAMILIES, V4};
use crate::pace;
use crate::tcp::{Pair, closed_port, connect_refused, wait_unread};
use crate::watcher::Watcher;

/// Connects of the storm.
const STORM: u64 = 20_000;

/// How long a scrape may take meanwhile.
const SCRAPE: Duration = Duration::from_secs(1);

/// How often the storm is repeated when resets from elsewhere on this machine
/// got into it. A product that counts too much does so every time.
const ATTEMPTS: usize = 3;

#[test]
fn counts_are_exact_in_a_storm() {
    let test = "counts_are_exact_in_a_storm";
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100"]) else {
        return;
    };
    for attempt in 1..=ATTEMPTS {
        let Err(more) = storm(test, &lab) else {
            return;
        };
        eprintln!("attempt {attempt} met {more} resets from elsewhere");
    }
    panic!("too many resets were counted in each of {ATTEMPTS} attempts");
}

/// `Err` says how many resets too many there were.
fn storm(test: &str, lab: &Lab) -> Result<(), u64> {
    let storm = pace::storm(STORM);
    let both_ends = lab.kernel.shows_in(test, Limit::NoSocket);
    let before = lab.quiet_scrape();
    let over = AtomicBool::new(false);
    let (taken, slowest) = thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            let mut taken = 0u32;
            let mut slowest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let start = Instant::now();
                Scrape::take(&lab.daemon.socket);
                slowest = slowest.max(start.elapsed());
                taken += 1;
            }
            (taken, slowest)
        });
        let senders = FAMILIES.map(|family| {
            scope.spawn(move || {
                lab.inside(|| {
                    for _ in 0..storm / 2 {
                        connect_refused(family.client, closed_port(family));
                    }
                });
            })
        });
        for sender in senders {
            sender.join().unwrap();
        }
        over.store(true, Ordering::Relaxed);
        scrapes.join().unwrap()
    });
    // A guest's storm is short, and a scrape takes long there.
    let least = if pace::is_emulated() { 1 } else { 3 };
    assert!(taken >= least, "{taken} scrapes during the storm");
    assert!(
        slowest < pace::patience(SCRAPE),
        "a scrape took {slowest:?}"
    );

    let after = lab.quiet_scrape();
    let port = closed_port(V4).port().to_string();
    let received = after.resets(&before, &[("direction", "received"), ("port", &port)]);
    // A program that is interrupted on its processor is not run again there, which the
    // kernel counts.
    let missed = after.sum(&before, "rst_missed_resets_total", &[]);
    assert!(received <= storm, "{received} received");
    assert!(received + missed >= storm, "{received} and {missed}");
    let all = after.resets(&before, &[]);
    let outcomes = ["delivered", "sampled_out", "lost"];
    let events: u64 = outcomes
        .iter()
        .map(|outcome| after.events(&before, outcome))
        .sum();
    assert_eq!(after.events(&before, "lost"), 0);
    let told_of = if both_ends { 2 * storm } else { storm } - missed;
    assert!(
        after.events(&before, "sampled_out") > told_of / 2,
        "the budget holds"
    );
    assert_eq!(events, all, "every reset is delivered, sampled out or lost");
    let port = SENTINEL_PORT.to_string();
    let sentinels = after.resets(&before, &[("direction", "received"), ("port", &port)]);
    let sent = after.resets(&before, &[("direction", "sent"), ("cause", "refused")]);
    let expected = if both_ends { storm + sentinels } else { 0 };
    assert!(sent + missed >= expected, "{sent} of {expected} sent");
    let expected = expected + storm + sentinels;
    assert!(all + missed >= expected, "{all} of {expected} counted");
    let more = all + missed - expected;
    if more == 0 { Ok(()) } else { Err(more) }
}

/// A port under attack does not hide what happens to others: each kind of reset gets
/// its first ones told.
#[test]
fn storm_hides_no_other_service() {
    let test = "storm_hides_no_other_service";
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100"]) else {
        return;
    };
    let before = Scrape::take(&lab.daemon.socket);
    let sampled_out = |cause| {
        let now = Scrape::take(&lab.daemon.socket);
        now.sum(&before, "rst_sampled_out_total", &[("cause", cause)])
    };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        // Ends with the test also where that fails.
        let _end = OnDrop(|| over.store(true, Ordering::Relaxed));
        scope.spawn(|| {
            lab.inside(|| {
                while !over.load(Ordering::Relaxed) {
                    connect_refused(V4.client, closed_port(V4));
                }
            });
        });
        wait_until("the budget is used up", || sampled_out("refused") > 1000);
        for _ in 0..5 {
            let mut pair = lab.inside(|| Pair::new(V4));
            pair.client.write_all(b"question").unwrap();
            wait_unread(&pair.server, 8);
            let (server, client) = (pair.server_end, pair.client_end);
            drop(pair);
            let verdict = json!({"cause": "unread_data"});
            lab.wait_event(&sent(server, client, verdict));
        }
    });
    assert_eq!(sampled_out("unread_data"), 0);
}

/// Calls it at the end.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Longest that a lone event may take to be printed.
const LATENCY: Duration = Duration::from_secs(1);

/// Time between lone events, in which the reader goes to sleep.
const PAUSE: Duration = Duration::from_millis(200);

#[test]
fn lone_event_arrives_at_once() {
    let test = "lone_event_arrives_at_once";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let mut latencies = Vec::new();
    let mut expected = Vec::new();
    for _ in 0..10 {
        // Not for luck: what is timed is an event after a silence.
        thread::sleep(PAUSE);
        let server = closed_port(V4);
        let start = Instant::now();
        let client = lab.inside(|| connect_refused(V4.client, server));
        let ours = sent(server, client, no_socket(json!({"cause": "refused"})));
        let latency = lab.latency(start, &ours);
        assert!(latency < LATENCY, "{latency:?}");
        latencies.push(latency);
        expected.push(ours);
        expected.push(received(client, server, json!({"cause": "refused"})));
    }
    latencies.sort();
    eprintln!("latencies of lone events: {latencies:?}");
    lab.finish(&expected);
}

/// Resets sent at a time to two watchers, of which one stands still.
const BATCH: usize = 200;

/// As many as fill every buffer on the way to the one that stands still.
const BATCHES: usize = 20;

#[test]
fn stopped_watcher_holds_nobody_up() {
    let test = "stopped_watcher_holds_nobody_up";
    // The budget is not what this is about.
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100000"]) else {
        return;
    };
    let stopped = Watcher::start(&lab.daemon.socket, &[]);
    wait_until("the second watcher is there", || {
        lab.flush();
        stopped.seen.with(|events| !events.is_empty())
    });
    stopped.process.signal(Signal::STOP);
    let mut expected = Vec::new();
    let (mut looked_at, mut own) = (0, 0);
    for batch in 1..=BATCHES {
        let refused = lab.inside(|| {
            let clients = (0..BATCH).map(|_| connect_refused(V4.client, closed_port(V4)));
            clients.collect::<Vec<_>>()
        });
        for client in refused {
            let server = closed_port(V4);
            let cause = json!({"cause": "refused"});
            expected.push(sent(server, client, cause.clone()));
            expected.push(received(client, server, cause));
        }
        let all = 2 * batch * BATCH;
        let arrived = lab.watcher.seen.wait(DEADLINE, |events| {
            // Each is looked at once: there are thousands, and one comes at a time.
            let new = events[looked_at..]
                .iter()
                .filter(|seen| lab.is_own(&seen.event) && !is_sentinel(&seen.event));
            own += new.count();
            looked_at = events.len();
            (own >= all).then_some(())
        });
        assert!(arrived.is_some(), "batch {batch} does not arrive");
    }
    let seen = stopped.seen.with(<[_]>::len);
    assert!(seen < BATCH, "the stopped watcher printed {seen} events");
    // It is still stopped when the daemon has to stop within its time.
    lab.finish(&expected);
}

/// What the budget allows reaches a watcher that reads, also when it comes at
/// once.
#[test]
fn burst_within_the_budget_is_shown() {
    // Two resets each, of the 2000 a second that are the default.
    const BURST: usize = 900;
    let test = "burst_within_the_budget_is_shown";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let server = closed_port(V4);
    let clients = lab.inside(|| {
        let clients = (0..BURST).map(|_| connect_refused(V4.client, server));
        clients.collect::<Vec<_>>()
    });
    let cause = json!({"cause": "refused"});
    let both = |client| {
        [
            sent(server, client, cause.clone()),
            received(client, server, cause.clone()),
        ]
    };
    let expected: Vec<_> = clients.into_iter().flat_map(both).collect();
    lab.finish(&expected);
}

/// A watcher that stood still goes on, and is told what it missed.
#[test]
fn stopped_watcher_is_told_what_it_missed() {
    let test = "stopped_watcher_is_told_what_it_missed";
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100000"]) else {
        return;
    };
    let refused = |number: usize| {
        lab.inside(|| {
            for _ in 0..number {
                connect_refused(V4.client, closed_port(V4));
            }
        });
    };
    lab.watcher.process.signal(Signal::STOP);
    let before = Scrape::take(&lab.daemon.socket);
    let mut sent = 0;
    let port = closed_port(V4).port().to_string();
    for _ in 0..BATCHES {
        refused(BATCH);
        sent += BATCH as u64;
        // The counters don't wait either.
        let now = Scrape::take(&lab.daemon.socket);
        let counted = now.resets(&before, &[("direction", "received"), ("port", &port)]);
        assert_eq!(counted, sent);
    }
    wait_until("all events have been read", || {
        let now = Scrape::take(&lab.daemon.socket);
        now.events(&before, "delivered") >= 2 * sent
    });
    lab.watcher.process.signal(Signal::CONT);
    lab.flush();
    let missed: u64 = lab.watcher.log.with(|lines| {
        let numbers = lines.iter().filter_map(|line| {
            let rest = line.strip_prefix("rst: ")?;
            let (number, _) = rest.split_once(" resets not shown")?;
            number.parse::<u64>().ok()
        });
        numbers.sum()
    });
    let shown = lab.watcher.seen.with(|events| {
        let own = events
            .iter()
            .filter(|seen| lab.is_own(&seen.event) && !is_sentinel(&seen.event));
        own.count() as u64
    });
    assert!(missed > 0, "nothing was missed of {sent}");
    assert!(shown + missed >= 2 * sent, "{shown} shown, {missed} missed");
}

/// A daemon that stands still, with room for a few events: what it can't describe is
/// counted as lost, every reset is counted, and it goes on by itself.
#[test]
fn stopped_daemon_counts_on() {
    let test = "stopped_daemon_counts_on";
    let settings = "ring_bytes = 4096\ndetails_per_second = 100000";
    let Some(lab) = Lab::configured(test, &[], settings, &[]) else {
        return;
    };
    let before = Scrape::take(&lab.daemon.socket);
    lab.daemon.process.signal(Signal::STOP);
    lab.inside(|| {
        for _ in 0..STORM / 2 {
            connect_refused(V4.client, closed_port(V4));
        }
    });
    lab.daemon.process.signal(Signal::CONT);
    let after = Scrape::take(&lab.daemon.socket);
    let port = closed_port(V4).port().to_string();
    let received = after.resets(&before, &[("direction", "received"), ("port", &port)]);
    assert_eq!(received, STORM / 2);
    let lost = after.events(&before, "lost");
    assert!(lost > STORM / 2, "{lost} of {STORM} lost");
    // As soon as there is room again, events come as before.
    let client = lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    let verdict = json!({"cause": "refused"});
    lab.wait_event(&sent(closed_port(V4), client, verdict));
}

/// More ports than are told apart, and more series than are read at a time: each is
/// counted, the rest together.
#[test]
fn ports_without_room_are_counted_together() {
    const PORTS: u16 = 700;
    const ROOM: u16 = 600;
    let test = "ports_without_room_are_counted_together";
    let settings = format!("max_ports = {ROOM}");
    let Some(lab) = Lab::configured(test, &[], &settings, &[]) else {
        return;
    };
    let before = Scrape::take(&lab.daemon.socket);
    // Below the ephemeral ports.
    let first = 2000;
    lab.inside(|| {
        for port in first..first + PORTS {
            connect_refused(V4.client, SocketAddr::new(V4.server, port));
        }
    });
    let after = Scrape::take(&lab.daemon.socket);
    let received = |port: &str| {
        let labels = [("direction", "received"), ("port", port)];
        after.resets(&before, &labels)
    };
    let alone = (first..first + PORTS).filter(|port| received(&port.to_string()) == 1);
    // The daemon's own connections, and whose sentinels come by, take room as well.
    let alone = u64::try_from(alone.count()).unwrap();
    let few = u64::from(ROOM) - 10..=u64::from(ROOM);
    assert!(few.contains(&alone), "{alone}");
    assert_eq!(received("other"), u64::from(PORTS) - alone);
}
