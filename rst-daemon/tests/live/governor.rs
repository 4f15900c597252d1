//! What rst may cost, and the switch that takes it off.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::collect::wait_until;
use crate::lab::Lab;
use crate::metrics::{Scrape, get};
use crate::netns::V4;
use crate::tcp::{closed_port, connect_refused};

/// Longest until a budget that is far too small is noticed: it is looked at every
/// five seconds, and twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// Above its budget rst describes fewer resets, and counts them all the same.
#[test]
fn detail_is_shed_and_counts_stay() {
    let test = "detail_is_shed_and_counts_stay";
    let Some(lab) = Lab::configured(test, &[], "max_cpu_percent = 1", &[]) else {
        return;
    };
    let before = Scrape::take(&lab.daemon.socket);
    assert_eq!(before.value("rst_shed_level"), 0);
    let (over, begin) = (AtomicBool::new(false), Instant::now());
    let storm = || {
        lab.inside(|| {
            let mut sent = 0;
            while !over.load(Ordering::Relaxed) && begin.elapsed() < PATIENCE {
                connect_refused(V4.client, closed_port(V4));
                sent += 1;
            }
            sent
        })
    };
    let sent: u64 = thread::scope(|scope| {
        let storms = [scope.spawn(storm), scope.spawn(storm)];
        while begin.elapsed() < PATIENCE {
            let now = Scrape::take(&lab.daemon.socket);
            if now.value("rst_shed_level") > 0 {
                break;
            }
            thread::sleep(Duration::from_millis(100));
        }
        over.store(true, Ordering::Relaxed);
        storms.into_iter().map(|storm| storm.join().unwrap()).sum()
    });
    let log = lab.daemon.log();
    assert!(log.contains("nine of ten resets are only counted"), "{log}");
    let after = Scrape::take(&lab.daemon.socket);
    let port = closed_port(V4).port().to_string();
    let received = [("direction", "received"), ("port", port.as_str())];
    assert_eq!(after.resets(&before, &received), sent);
    assert_eq!(after.value("rst_unaccounted_resets"), 0);
}

/// One signal takes all probes off, and the daemon says that it is blind.
#[test]
fn sigusr1_takes_all_probes_off() {
    let test = "sigusr1_takes_all_probes_off";
    let Some(mut lab) = Lab::start(test, &[], &[]) else {
        return;
    };
    let up = || Scrape::take(&lab.daemon.socket).total("rst_probe_up");
    assert!(up() >= 4, "{} probes", up());
    lab.daemon.process.signal(Signal::USR1);
    wait_until("all probes are off", || up() == 0);
    let (status, body) = get(&lab.daemon.socket, "/readyz").unwrap();
    assert_eq!(status, 503, "{body}");
    let before = Scrape::take(&lab.daemon.socket);
    lab.inside(|| connect_refused(V4.client, closed_port(V4)));
    let after = Scrape::take(&lab.daemon.socket);
    assert_eq!(after.resets(&before, &[]), 0);
    lab.daemon.stop(Signal::TERM);
    let log = lab.daemon.log();
    assert!(log.contains("all probes are detached"), "{log}");
}
