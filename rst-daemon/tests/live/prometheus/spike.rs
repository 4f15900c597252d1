//! A service is killed under load: the alert reaches the webhook, and is taken back. A
//! port scan, health checks and a restart of the daemon before it are no alerts.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::alertmanager::Alertmanager;
use super::server::Prometheus;
use super::{FASTER, dashboard, free_address, wait_for};
use crate::collect::DEADLINE;
use crate::expect::matches;
use crate::lab::{Folder, Lab, STOP};
use crate::line::{TUN, tun};
use crate::metrics::get;
use crate::netns::{Netns, V4};
use crate::process::{Process, find_program};
use crate::programs::Server;
use crate::tcp;

/// Where the service is.
const SERVER: SocketAddr = SocketAddr::new(V4.server, 8080);

/// A service that gets health checks and nothing else.
const CHECKED: SocketAddr = SocketAddr::new(V4.server, 8081);

/// Time between two requests.
const PACE: Duration = Duration::from_millis(20);

/// Silence of a connection that is idle.
const IDLE: Duration = Duration::from_millis(150);

/// Ports that are scanned.
const SCANNED: f64 = 1000.0;

/// Longest until an alert arrives: it has to hold for 2 minutes, is looked at every half
/// minute and waits for half a minute for others, 30 times as fast; and the machine is slow.
const ARRIVES: Duration = Duration::from_secs(30);

/// Longest until all are taken back: the window of 5 minutes and Alertmanager's interval
/// of 5 minutes have to pass, 30 times as fast, and the incident has to close.
const RESOLVES: Duration = Duration::from_secs(60);

/// Alerts that the spike may raise: of the service, of its clients on the same host, and
/// of rst's own detector.
const EXPECTED: [&str; 6] = [
    "RstConnectFailures",
    "RstBrokenConnections",
    "RstUpstreamConnectFailures",
    "RstUpstreamBrokenConnections",
    "RstIncident",
    "RstIncidentGoesOn",
];

fn nginx(netns: &Netns, folder: &Folder, port: u16) -> Server {
    let http = format!("server {{ listen {port}; location / {{ return 200 'hello'; }} }}");
    Server::nginx(netns, folder, &http, port)
}

/// Asks the service again and again, whether or not it answers.
fn load(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        if let Ok(mut stream) = TcpStream::connect(SERVER) {
            let _ = stream.write_all(b"GET / HTTP/1.0\r\n\r\n");
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        thread::sleep(PACE);
    }
}

/// A health check each second, 30 times as fast, that resets its connection.
fn checks(over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let (check, _) = tcp::connect(V4.client, CHECKED);
        tcp::abort(check);
        thread::sleep(Duration::from_secs(1) / FASTER);
    }
}

/// Each second an idle connection that is reset; now and then an attempt that nobody
/// answers.
fn everyday(over: &AtomicBool) {
    let unanswered = SocketAddr::from(([10, 99, 0, 2], 80));
    let listener = tcp::listener(V4.server, 16);
    for second in 0.. {
        if over.load(Ordering::Relaxed) {
            return;
        }
        let start = Instant::now();
        let (mut client, _) = tcp::connect(V4.client, listener.local_addr().unwrap());
        let (mut server, _) = listener.accept().unwrap();
        tcp::transfer(&mut client, &mut server, b"question");
        tcp::transfer(&mut server, &mut client, b"answer");
        thread::sleep(IDLE);
        tcp::abort(server);
        tcp::wait_error(&client);
        if second % 10 == 0 {
            let attempt = tcp::bound([10, 99, 0, 1].into());
            tcp::set_option(&attempt, libc::TCP_USER_TIMEOUT, 300);
            let error = rustix::net::connect(&attempt, &unanswered).expect_err("no answer");
            assert_eq!(error, rustix::io::Errno::TIMEDOUT);
        }
        thread::sleep(Duration::from_secs(1).saturating_sub(start.elapsed()));
    }
}

fn scan(netns: &Netns) {
    let nmap = find_program("nmap").expect("checked before");
    let mut nmap: Command = netns.command(nmap);
    let ports = format!("1-{SCANNED}");
    nmap.args(["-sS", "-n", "-Pn", "-p", &ports, &V4.server.to_string()]);
    assert!(Process::start(nmap).wait(Duration::from_secs(30)).success());
}

/// What promtool says of the metrics as they are.
fn metrics_are_well_formed(lab: &Lab) {
    let (_, metrics) = get(&lab.daemon.socket, "/metrics").unwrap();
    let mut promtool = Command::new(find_program("promtool").expect("Prometheus has it"));
    promtool.args(["check", "metrics"]);
    let mut promtool = Process::start(promtool);
    promtool.stdin().write_all(metrics.as_bytes()).unwrap();
    let said = std::io::read_to_string(promtool.stderr()).unwrap();
    assert!(
        promtool.wait(DEADLINE).success() && said.is_empty(),
        "{said}"
    );
}

fn name(alert: &Value) -> &str {
    alert["labels"]["alertname"].as_str().unwrap()
}

/// The alert of that name that has reached the webhook as firing, or as resolved.
fn told(alertmanager: &Alertmanager, wanted: &str, status: &str) -> Option<Value> {
    let mut alerts = alertmanager.told().into_iter();
    alerts.find(|alert| name(alert) == wanted && alert["status"] == status)
}

/// Nothing fires, and nothing has reached the webhook.
fn assert_silent(prometheus: &Prometheus, alertmanager: &Alertmanager) {
    let fired = prometheus.query("count_over_time(ALERTS{alertstate=\"firing\"}[10m])");
    assert!(fired.is_empty(), "{fired:?}");
    let told = alertmanager.told();
    assert!(told.is_empty(), "{told:?}");
}

#[test]
fn killed_server_alerts_and_everyday_resets_do_not() {
    let test = "killed_server_alerts_and_everyday_resets_do_not";
    let tools = [
        "nginx",
        "nmap",
        "prometheus",
        "prometheus-alertmanager",
        TUN,
    ];
    let target = free_address();
    // As in the rules, time runs 30 times as fast: an incident closes after 2 minutes.
    let settings = format!(
        "listen = \"{target}\"\nidle_ms = {}\nincident_warmup_seconds = 2\n\
         incident_close_seconds = 4\n",
        IDLE.as_millis() - 50
    );
    let Some(mut lab) = Lab::configured(test, &tools, &settings, &[]) else {
        return;
    };
    let netns = lab.another();
    // A device that nobody reads.
    let _dead = netns.inside(|| tun("dead"));
    netns.ip(&["addr", "add", "10.99.0.1/24", "dev", "dead"]);
    netns.ip(&["link", "set", "dead", "up"]);
    let alertmanager = Alertmanager::start(&lab.folder);
    let targets = format!("- targets: [\"{target}\"]");
    let prometheus = Prometheus::start(&lab.folder, &targets, alertmanager.address);
    let (folder, other_folder) = (Folder::new(), Folder::new());
    let server = nginx(&netns, &folder, SERVER.port());
    let _checked = nginx(&netns, &other_folder, CHECKED.port());
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let _over = Over(&over);
        scope.spawn(|| netns.inside(|| load(&over)));
        scope.spawn(|| netns.inside(|| checks(&over)));
        scope.spawn(|| netns.inside(|| everyday(&over)));
        quiet_day(&mut lab, &netns, &prometheus);
        metrics_are_well_formed(&lab);
        assert_silent(&prometheus, &alertmanager);
        spike(server, &netns, &folder, target, &alertmanager);
        // In the history of the last two minutes everything has happened.
        dashboard::check(test, &prometheus, &lab.kernel);
    });
    assert_eq!(prometheus.log(), "");
}

/// A scan and a restart of the daemon, while the service is in use.
fn quiet_day(lab: &mut Lab, netns: &Netns, prometheus: &Prometheus) {
    let above = |expression: &str, limit: f64| {
        let value = prometheus.value(expression)?;
        (value >= limit).then_some(value)
    };
    let connections = "sum(instance_role_workload_port:rst_connections:increase5m{role=\"server\",port=\"8080\"})";
    wait_for("the load is seen", ARRIVES, || above(connections, 100.0));
    scan(netns);
    let scanned = "sum(rst_resets_total{cause=\"refused\",impact=\"benign\"})";
    wait_for("the scan is counted", ARRIVES, || {
        above(scanned, SCANNED / 2.0)
    });

    lab.daemon.stop(Signal::TERM);
    lab.restart();
    let restarts = "changes(process_start_time_seconds{job=\"rst\"}[2m])";
    wait_for("the restart is seen", ARRIVES, || above(restarts, 1.0));
    // More than would be enough for an alert if they counted.
    let checks = "sum(rst_resets_total{cause=\"no_data\",impact=\"benign\",port=\"8081\"})";
    wait_for("health checks are counted", ARRIVES, || {
        above(checks, 200.0)
    });
    let idle = "sum(rst_resets_total{cause=\"idle_timeout\",impact=\"uncertain\"})";
    wait_for("idle resets are counted", ARRIVES, || above(idle, 8.0));
}

/// The service is killed, comes back, and the alerts with it.
fn spike(
    mut server: Server,
    netns: &Netns,
    folder: &Folder,
    target: SocketAddr,
    alertmanager: &Alertmanager,
) {
    server.0.signal(Signal::KILL);
    server.0.wait(STOP);
    let page = wait_for("the page arrives", ARRIVES, || {
        told(alertmanager, "RstConnectFailures", "firing")
    });
    let ticket = wait_for("the ticket arrives", ARRIVES, || {
        told(alertmanager, "RstIncident", "firing")
    });
    for alert in [&page, &ticket] {
        println!("{alert:#}");
    }
    let labels = &page["labels"];
    let workload = labels["workload"].as_str().unwrap();
    let wanted = json!({"path": "/page", "labels": {
        "alertname": "RstConnectFailures", "severity": "page", "job": "rst",
        "instance": target.to_string(), "role": "server", "port": "8080",
    }});
    assert!(matches(&wanted, &page), "{page}");
    let texts = &page["annotations"];
    assert_eq!(
        texts["summary"],
        format!("Clients cannot connect to {workload} on {target}")
    );
    let description = texts["description"].as_str().unwrap();
    let (share, rest) = description.split_once("% ").unwrap();
    assert!(
        (5.0..=100.0).contains(&share.parse().unwrap()),
        "{description}"
    );
    let attempts = format!(
        "of the attempts to connect to port 8080 of {workload} on {target} were reset in the last \
         five minutes: "
    );
    let count = rest.strip_prefix(&attempts).expect(description);
    let count = count.strip_suffix(" connections.").expect(description);
    assert!(count.parse::<u32>().unwrap() >= 30, "{description}");
    assert_eq!(texts["runbook_url"], "docs/alerts.md#rstconnectfailures");
    let wanted = json!({"path": "/ticket", "labels": {"severity": "ticket", "cause": "refused"}});
    assert!(matches(&wanted, &ticket), "{ticket}");

    let _server = nginx(netns, folder, SERVER.port());
    let names = |status: &str| -> BTreeSet<_> {
        let all = alertmanager.told().into_iter();
        let all = all.filter(|alert| alert["status"] == status);
        all.map(|alert| (name(&alert).to_owned(), alert["fingerprint"].to_string()))
            .collect()
    };
    wait_for("all alerts are taken back", RESOLVES, || {
        (names("firing") == names("resolved")).then_some(())
    });
    for (name, _) in names("firing") {
        println!("fired and resolved: {name}");
        assert!(
            EXPECTED.contains(&name.as_str()),
            "{:?}",
            alertmanager.told()
        );
    }
}

/// Ends the threads of a test, also of one that fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
