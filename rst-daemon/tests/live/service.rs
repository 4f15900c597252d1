//! The daemon as a service: it reads its settings again at SIGHUP without losing a count,
//! and tells the service manager how it stands.

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::collect::{DEADLINE, wait_until};
use crate::lab::{Folder, Lab, can_run};
use crate::metrics::Scrape;
use crate::netns::V4;
use crate::pace;
use crate::tcp::{self, Pair, closed_port, connect_refused};

const SUCCESSFUL: &str = "rst_config_last_reload_successful";
const SUCCESS_TIME: &str = "rst_config_last_reload_success_timestamp_seconds";

/// Writes other settings and has them read; waits until the log says what came of it.
fn reload(lab: &Lab, settings: &str, said: &str) {
    let times = || lab.daemon.log().matches(said).count();
    let before = times();
    std::fs::write(lab.folder.0.join("rst.toml"), settings).unwrap();
    lab.daemon.process.signal(Signal::HUP);
    wait_until(said, || times() > before);
}

/// Resets of clients that were refused, without end: their number so far.
fn storm(lab: &Lab, over: &AtomicBool, sent: &AtomicU64) {
    lab.inside(|| {
        while !over.load(Ordering::Relaxed) {
            connect_refused(V4.client, closed_port(V4));
            sent.fetch_add(1, Ordering::Relaxed);
            thread::sleep(Duration::from_millis(1));
        }
    });
}

/// The cause of a client's reset after its request was acknowledged and a short silence,
/// which is part of the scenario.
fn cause_after_silence(lab: &Lab) -> String {
    let end = lab.inside(|| {
        let mut pair = Pair::new(V4);
        pair.ask(b"question");
        thread::sleep(Duration::from_millis(60));
        tcp::abort(pair.server);
        pair.client_end
    });
    let seen = lab.wait_event(&json!({"direction": "received", "local": {"port": end.port()}}));
    seen.event["cause"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn settings_are_read_again_without_losing_a_count() {
    let test = "settings_are_read_again_without_losing_a_count";
    let Some(mut lab) = Lab::by(test, &[], "idle_ms = 86400000", |command| command) else {
        return;
    };
    let before = Scrape::take(&lab.daemon.socket);
    assert_eq!(before.value(SUCCESSFUL), 1);
    assert_eq!(cause_after_silence(&lab), "peer_abort");

    let (over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        scope.spawn(|| storm(&lab, &over, &sent));
        // Ends the storm also where an assertion fails.
        let end = Defer(|| over.store(true, Ordering::Relaxed));
        for _ in 0..10 {
            reload(
                &lab,
                &pace::settings("idle_ms = 20\nmax_series = 5000"),
                "were read again; changed: idle_ms",
            );
            reload(
                &lab,
                "idle_ms = 'x'\nmystery = 1",
                "the settings are refused, those from before stay: ",
            );
            reload(
                &lab,
                &pace::settings("idle_ms = 86400000"),
                "were read again; changed: idle_ms",
            );
        }
        drop(end);
    });
    let log = lab.daemon.log();
    for line in [
        "these keep their value until rst is restarted: max_series",
        "rst.toml:1: `idle_ms` is of type string; write a whole number; ",
        "rst.toml:2: unknown key `mystery`",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }

    reload(&lab, "idle_ms = 20", "changed: idle_ms");
    assert_eq!(cause_after_silence(&lab), "no_response");
    reload(
        &lab,
        "idle_ms = 20\nmultiplexed_ports = []",
        "changed: multiplexed_ports",
    );
    let good = Scrape::take(&lab.daemon.socket);
    reload(&lab, "idle_ms = 0", "the settings are refused");
    wait_until("the refusal is in the metrics", || {
        Scrape::take(&lab.daemon.socket).value(SUCCESSFUL) == 0
    });
    let bad = Scrape::take(&lab.daemon.socket);
    assert_eq!(bad.value(SUCCESS_TIME), good.value(SUCCESS_TIME));
    assert!(good.value(SUCCESS_TIME) >= before.value(SUCCESS_TIME));
    // What was refused has changed nothing.
    assert_eq!(cause_after_silence(&lab), "no_response");

    let port = closed_port(V4).port().to_string();
    let sent = sent.into_inner();
    assert!(sent > 0);
    let after = lab.quiet_scrape();
    let received = [("direction", "received"), ("port", port.as_str())];
    assert_eq!(after.resets(&before, &received), sent);
    assert_eq!(after.value("rst_unaccounted_resets"), 0);
    lab.daemon.stop(Signal::TERM);
}

/// Runs when it is dropped.
struct Defer<F: FnMut()>(F);

impl<F: FnMut()> Drop for Defer<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// As systemd does it: ready, alive as long as the reader comes round, reloading, stopping.
#[test]
fn the_service_manager_is_told() {
    /// Of the watchdog. What a stall of the machine does not reach.
    const PERIOD: Duration = Duration::from_secs(4);
    let test = "the_service_manager_is_told";
    if !can_run(test, &[]) {
        return;
    }
    let folder = Folder::new();
    let path = folder.0.join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let period = pace::patience(PERIOD);
    let Some(mut lab) = Lab::by(test, &[], "", |mut command| {
        command.env("NOTIFY_SOCKET", &path);
        command.env("WATCHDOG_USEC", period.as_micros().to_string());
        command
    }) else {
        return;
    };
    let hear = |patience: Duration| {
        let mut buffer = [0; 4096];
        manager.set_read_timeout(Some(patience)).unwrap();
        let length = manager.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
    };
    let wait_for = |what: &str| {
        let begin = Instant::now();
        while begin.elapsed() < pace::patience(DEADLINE) {
            if let Some(said) = hear(period)
                && said.starts_with(what)
            {
                return;
            }
        }
        panic!("the manager was not told {what}");
    };
    wait_for("READY=1\nSTATUS=");
    for _ in 0..3 {
        let begin = Instant::now();
        wait_for("WATCHDOG=1");
        assert!(begin.elapsed() < period, "{:?}", begin.elapsed());
    }
    let reload = |settings: &str, result: &str| {
        std::fs::write(lab.folder.0.join("rst.toml"), pace::settings(settings)).unwrap();
        lab.daemon.process.signal(Signal::HUP);
        wait_for("RELOADING=1\nMONOTONIC_USEC=");
        wait_for(&format!("READY=1\nSTATUS={result}"));
    };
    reload(
        "",
        "running; the settings were read again; changed: nothing",
    );
    reload(
        "idle_ms = 70\nmax_ports = 7",
        "running; the settings were read again; changed: idle_ms; \
         these keep their value until rst is restarted: max_ports",
    );
    reload(
        "idle_ms = 0",
        "running; the settings are refused, those from before stay: ",
    );

    // A daemon that stands still says nothing.
    lab.daemon.process.signal(Signal::STOP);
    while hear(Duration::from_millis(100)).is_some() {}
    assert_eq!(hear(period), None);
    lab.daemon.process.signal(Signal::CONT);
    wait_for("WATCHDOG=1");

    // A reload does not hide that nothing is counted any more.
    let detached = "all probes are detached, as SIGUSR1 asks: nothing is counted until a restart";
    lab.daemon.process.signal(Signal::USR1);
    wait_for(&format!("STATUS={detached}"));
    reload(
        "",
        &format!("{detached}; the settings were read again; changed: "),
    );

    lab.daemon.stop(Signal::TERM);
    wait_for("STOPPING=1");
}
