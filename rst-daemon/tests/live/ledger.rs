//! The kernel's counters against ours: they agree in a storm, and where
//! namespaces come and go.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

use crate::collect::wait_until;
use crate::lab::{Lab, skipped};
use crate::metrics::Scrape;
use crate::netns::{FAMILIES, Netns, V4};
use crate::pace;
use crate::tcp::{Pair, closed_port, connect_refused};

/// Resets of the storm, in all namespaces together.
const STORM: u64 = 200_000;

/// Namespaces that come and go.
const PASSING: u64 = 5000;

/// Most resets in one of them.
const EACH: u64 = 500;

/// How long the ledger may take: its readings are as far apart as their cost
/// asks for, and it believes two in a row.
const SETTLED: Duration = Duration::from_secs(90);

/// What the ledger shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    /// Resets sent, as the kernel counts them.
    kernel: u64,
    /// As we do.
    sent: u64,
    unaccounted: u64,
    credited: u64,
}

impl Shown {
    fn of(scrape: &Scrape) -> Self {
        let sent = |more: &[(&str, &str)]| {
            scrape.resets(
                &Scrape::nothing(),
                &[&[("direction", "sent")], more].concat(),
            )
        };
        Self {
            kernel: scrape.value("rst_kernel_out_resets_total"),
            // The kernel does not count netfilter's.
            sent: sent(&[]) - sent(&[("cause", "firewall_reject")]),
            unaccounted: scrape.value("rst_unaccounted_resets"),
            credited: scrape.value("rst_credited_resets_total"),
        }
    }

    /// Waits until the ledger has read everything there is, and has explained
    /// it.
    fn settled(lab: &Lab) -> Self {
        let start = Instant::now();
        loop {
            let shown = Self::of(&lab.quiet_scrape());
            if shown.kernel + shown.credited == shown.sent + shown.unaccounted {
                return shown;
            }
            assert!(
                start.elapsed() < pace::patience(SETTLED),
                "{shown:?}: {}",
                lab.daemon.log()
            );
        }
    }
}

/// Connects to a closed port so many times.
fn refuse(namespace: &Netns, number: u64) {
    namespace.inside(|| {
        for number in 0..number {
            let family = FAMILIES[usize::from(number % 2 == 0)];
            connect_refused(family.client, closed_port(family));
        }
    });
}

#[test]
fn storm_is_counted_as_the_kernel_counts_it() {
    let test = "storm_is_counted_as_the_kernel_counts_it";
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100"]) else {
        return;
    };
    let other = lab.another();
    thread::scope(|scope| {
        for namespace in [&lab.netns, &other] {
            scope.spawn(move || refuse(namespace, STORM / 2));
        }
        // Readings in the middle of it must not take what is under way for a
        // difference.
        for _ in 0..20 {
            Scrape::take(&lab.daemon.socket);
        }
    });
    let shown = Shown::settled(&lab);
    assert!(shown.sent >= STORM, "{shown:?}");
    assert_eq!((shown.unaccounted, shown.credited), (0, 0), "{shown:?}");
    assert_eq!(shown.kernel, shown.sent);
}

/// Resets of established connections, each of which the kernel also counts as an
/// abort.
#[test]
fn aborts_are_the_kernels_own() {
    let test = "aborts_are_the_kernels_own";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    lab.inside(|| {
        for family in FAMILIES {
            let mut pair = Pair::new(family);
            pair.ask(b"question");
            pair.answer(b"answer that nobody reads");
            let (client, mut server) = (pair.client, pair.server);
            std::io::Write::write_all(&mut server, b"more").unwrap();
            crate::tcp::wait_unread(&client, 4);
            drop(client);
            crate::tcp::wait_error(&server);
        }
    });
    Shown::settled(&lab);
    let scrape = Scrape::take(&lab.daemon.socket);
    let aborts = |counter| {
        let labels = [("counter", counter)];
        scrape.sum(&Scrape::nothing(), "rst_kernel_aborts_total", &labels)
    };
    // Others on this machine may abort connections too.
    assert!(aborts("TCPAbortOnClose") >= 2);
    // Both ends were established.
    assert!(scrape.value("rst_kernel_estab_resets_total") >= 4);
}

/// What a namespace has counted before the daemon started is not compared, and
/// what it counts afterwards is.
#[test]
fn namespace_from_before_the_start_counts_from_there() {
    let test = "namespace_from_before_the_start_counts_from_there";
    let happened = || {
        for _ in 0..100 {
            connect_refused(V4.client, closed_port(V4));
        }
    };
    let Some((lab, ())) = Lab::after(test, happened) else {
        return;
    };
    refuse(&lab.netns, 50);
    let shown = Shown::settled(&lab);
    assert!(shown.sent >= 50, "{shown:?}");
    assert_eq!((shown.unaccounted, shown.credited), (0, 0), "{shown:?}");
}

/// Namespaces come, send resets and go, most of them before they are read: what
/// went with them is credited, and nothing is unaccounted.
#[test]
fn namespaces_that_come_and_go_leave_no_gap() {
    let test = "namespaces_that_come_and_go_leave_no_gap";
    let Some(lab) = Lab::start(test, &[], &["--details-per-second", "100"]) else {
        return;
    };
    let open = lab.daemon.process.descriptors();
    let mut resets = 0;
    thread::scope(|scope| {
        let storm = scope.spawn(|| refuse(&lab.netns, 20_000));
        for number in 0..PASSING {
            let passing = Netns::new();
            if number % 5 == 0 {
                refuse(&passing, number % EACH);
                resets += number % EACH;
            }
            if number % 50 == 0 {
                Scrape::take(&lab.daemon.socket);
            }
        }
        storm.join().unwrap();
    });
    let shown = Shown::settled(&lab);
    assert_eq!(shown.unaccounted, 0, "{shown:?}");
    assert!(shown.credited <= resets, "{shown:?}, {resets} at most");
    assert!(shown.credited > 0, "{shown:?}: all were read in time");
    // Of other tests' namespaces, too.
    wait_until("the daemon lets go of them", || {
        lab.daemon.process.descriptors() < open + 50
    });
}

/// A namespace that the daemon reads dies as soon as nobody else needs it: the
/// far end of its link goes with it.
#[test]
fn ledger_keeps_no_namespace_alive() {
    let test = "ledger_keeps_no_namespace_alive";
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let dying = Netns::new();
    dying.join(&lab.netns, 1);
    refuse(&dying, 100);
    let read = Shown::settled(&lab);
    assert_eq!((read.unaccounted, read.credited), (0, 0), "{read:?}");
    let far_end = || {
        lab.inside(|| {
            let mut ip = Command::new("ip");
            ip.args(["link", "show", "far1"]);
            ip.output().unwrap().status.success()
        })
    };
    assert!(far_end());
    drop(dying);
    wait_until("the link is gone", || !far_end());
    // What it had counted stays.
    let after = Shown::settled(&lab);
    assert!(after.kernel >= read.kernel, "{after:?}");
    assert_eq!((after.unaccounted, after.credited), (0, 0), "{after:?}");
}

/// The clock of the host, which is set right again.
struct Clock {
    /// What it was, and when.
    was: Timespec,
    since: Instant,
}

impl Clock {
    fn keep() -> Self {
        Self {
            was: clock_gettime(ClockId::Realtime),
            since: Instant::now(),
        }
    }

    /// Sets it so many days off.
    fn step(&self, days: i64) {
        let since = i64::try_from(self.since.elapsed().as_secs()).unwrap();
        let time = Timespec {
            tv_sec: self.was.tv_sec + since + days * 86_400,
            tv_nsec: self.was.tv_nsec,
        };
        clock_settime(ClockId::Realtime, time).unwrap();
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.step(0);
    }
}

/// Someone sets the clock half a year forward, and seven years back.
#[test]
fn steps_of_the_clock_lose_nothing() {
    let test = "steps_of_the_clock_lose_nothing";
    if !pace::is_emulated() {
        skipped(test, "sets the clock: only in a guest of the kernel matrix");
        return;
    }
    let Some(lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let before = Shown::settled(&lab);
    let clock = Clock::keep();
    for days in [0, 182, -7 * 365, 0] {
        clock.step(days);
        refuse(&lab.netns, 100);
    }
    // The lab's own resets come on top of these.
    let shown = Shown::settled(&lab);
    assert_eq!((shown.unaccounted, shown.credited), (0, 0), "{shown:?}");
    assert!(shown.kernel >= before.kernel + 400, "{before:?} {shown:?}");
}
