//! A service that is killed under load is an incident, told at its beginning and at its
//! end; health checks and scans are none.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::collect::wait_until;
use crate::expect::matches;
use crate::lab::Lab;
use crate::metrics::{Labels, Scrape};
use crate::netns::V4;
use crate::process::{Process, RST, find_program};
use crate::programs::Server;
use crate::tcp;

/// The port of the service that is killed.
const PORT: u16 = 8080;

/// Times that a test can wait for.
const SETTINGS: &str = "incident_warmup_seconds = 2\nincident_close_seconds = 2\n";

/// Time until a service that has just been seen can have an incident: the counts have
/// been read three times.
const WARM: Duration = Duration::from_secs(7);

/// Longest that an incident may take to open.
const OPENS: Duration = Duration::from_secs(10);

fn python(lab: &Lab) -> Server {
    let args = ["-m", "http.server", "--bind", "0.0.0.0", &PORT.to_string()];
    Server::start(&lab.netns, "python3", &args, PORT)
}

/// What `rst incidents` says.
fn incidents(lab: &Lab, args: &[&str]) -> String {
    let mut command = Command::new(RST);
    command
        .arg("incidents")
        .arg("--socket")
        .arg(&lab.daemon.socket);
    let output = command.args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The incidents on a port.
fn on(lab: &Lab, port: u16) -> Vec<Value> {
    let lines = incidents(lab, &["--json"]);
    let all = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    all.filter(|incident: &Value| incident["port"] == port)
        .collect()
}

/// One answer of the server.
fn answer(lab: &Lab) {
    lab.inside(|| {
        crate::programs::http(SocketAddr::new(V4.server, PORT), "HEAD", "/");
    });
}

/// Longest that it may take to close: what is in the shortest window has to leave it.
const CLOSES: Duration = Duration::from_secs(20);

/// Asks the server until a condition holds, which is looked at a few times a second.
fn answers_until(lab: &Lab, what: &str, patience: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    loop {
        answer(lab);
        if condition() {
            return;
        }
        assert!(
            start.elapsed() < patience,
            "{what}: not within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Keeps the service in use until it has been known for long enough.
fn warm_up(lab: &Lab) {
    let start = Instant::now();
    let warm = || start.elapsed() > WARM;
    answers_until(lab, "the daemon has warmed up", 2 * WARM, warm);
}

#[test]
fn killed_server_is_an_incident() {
    let test = "killed_server_is_an_incident";
    let Some(lab) = Lab::configured(test, &["python3"], SETTINGS, &[]) else {
        return;
    };
    let mut server = python(&lab);
    warm_up(&lab);
    let before = Scrape::take(&lab.daemon.socket);
    server.0.signal(Signal::KILL);
    let killed = Instant::now();
    server.0.wait(Duration::from_secs(5));
    // The load: clients that go on.
    let refuse = || {
        lab.inside(|| {
            for _ in 0..20 {
                tcp::connect_refused(V4.client, SocketAddr::new(V4.server, PORT));
            }
        });
    };
    let mut opened = None;
    wait_until("the incident opens", || {
        refuse();
        let all = on(&lab, PORT);
        opened = all
            .into_iter()
            .find(|incident| incident["role"] == "server");
        opened.is_some()
    });
    let delay = killed.elapsed();
    assert!(delay < OPENS, "{delay:?}");
    println!("opened after {delay:?}");
    let wanted = json!({
        "v": 1, "cause": "refused", "impact": "connect_failed", "port": PORT, "closed": null,
    });
    let opened = opened.unwrap();
    assert!(matches(&wanted, &opened), "{opened}");
    let workload = opened["workload"].as_str().unwrap().to_owned();
    let labels = Labels::from([
        ("workload".to_owned(), workload.clone()),
        ("cause".to_owned(), "refused".to_owned()),
    ]);
    let scrape = Scrape::take(&lab.daemon.socket);
    let active = |scrape: &Scrape| scrape.gauge("rst_incident_active", &labels);
    assert!(active(&scrape) >= 1);

    // It comes back, and the incident closes by itself.
    drop(server);
    let _again = python(&lab);
    let mut closed = None;
    answers_until(&lab, "the incident closes", CLOSES, || {
        let mut all = on(&lab, PORT).into_iter();
        closed = all.find(|it| it["id"] == opened["id"] && !it["closed"].is_null());
        closed.is_some()
    });
    let closed = closed.unwrap();
    println!("{}", incidents(&lab, &[]));
    let after = Scrape::take(&lab.daemon.socket);
    assert_eq!(active(&after), 0);
    let counted = after.resets(
        &before,
        &[
            ("cause", "refused"),
            ("role", "server"),
            ("port", &PORT.to_string()),
        ],
    );
    assert_eq!(closed["resets"], counted, "{closed}");
    assert_eq!(closed["described"], counted, "{closed}");
    assert_eq!(closed["peers"][0]["ip"], V4.client.to_string());
    assert_eq!(closed["peers"][0]["resets"], counted);
    assert_eq!(closed["samples"].as_array().map(Vec::len), Some(3));
    assert_eq!(closed["restarts"][0]["resets"], counted, "{closed}");
    assert!(!closed["restarts"][0]["started"].is_null(), "{closed}");
    // As a page, not where it was over before, and in the journal once at each end.
    let page = incidents(&lab, &["--since", "1h"]);
    assert!(
        page.contains(" over      refused (connect_failed) of "),
        "{page}"
    );
    assert_eq!(
        incidents(&lab, &["--since", "2100-01-01"]),
        "no incidents\n"
    );
    let log = lab.daemon.log();
    let id = closed["id"].as_str().unwrap();
    let told = log.lines().filter(|line| line.contains(id));
    told.for_each(|line| println!("{line}"));
    for end in ["opened", "closed"] {
        let line = format!("incident {id} {end}: refused (connect_failed) of {workload}, server");
        assert_eq!(log.matches(&line).count(), 1, "{line}\n{log}");
    }
}

/// A check that resets each connection, and a scan of ports that nobody serves.
#[test]
fn checks_and_scans_are_no_incident() {
    let test = "checks_and_scans_are_no_incident";
    let Some(lab) = Lab::configured(test, &["python3", "nmap"], SETTINGS, &[]) else {
        return;
    };
    let _server = python(&lab);
    warm_up(&lab);
    let before = Scrape::take(&lab.daemon.socket);
    let server = SocketAddr::new(V4.server, PORT);
    let nmap = find_program("nmap").expect("checked before");
    let mut nmap: Command = lab.netns.command(nmap);
    nmap.args(["-sS", "-n", "-Pn", "-p", "1-300", &V4.server.to_string()]);
    let mut nmap = Process::start(nmap);
    assert!(nmap.wait(Duration::from_secs(30)).success());
    // One a second in life; here a window sees many more. The server complains of each on
    // a pipe that nobody reads, which has room for 64 kB.
    for _ in 0..25 {
        lab.inside(|| {
            let (check, _) = tcp::connect(V4.client, server);
            tcp::abort(check);
        });
        // So that its queue of five never overflows.
        answer(&lab);
    }
    let resets = |impact| {
        let now = Scrape::take(&lab.daemon.socket);
        now.resets(&before, &[("impact", impact)])
    };
    wait_until("all are counted", || resets("benign") >= 300);
    // Three readings of the counts later nothing has opened.
    let start = Instant::now();
    answers_until(&lab, "the counts have been read", 2 * WARM, || {
        start.elapsed() > WARM
    });
    assert_eq!(
        incidents(&lab, &[]),
        "no incidents\n",
        "{}",
        lab.daemon.log()
    );
    assert_eq!(
        Scrape::take(&lab.daemon.socket).total("rst_incidents_total"),
        0
    );
    assert!(
        !lab.daemon.log().contains("incident"),
        "{}",
        lab.daemon.log()
    );
}
