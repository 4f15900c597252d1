//! What the tests of several modules share.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::incident::{Incident, Peer};
use crate::reset::{
    Endpoint, Keepalive, Owner, Packet, Reset, Restart, Restarted, VERSION, Workload,
};

/// Longest that a test waits for a condition.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A received reset with every number that the text form prints.
pub(crate) fn reset() -> Reset {
    Reset {
        v: VERSION,
        time: "2026-11-20T14:32:01.123456789Z".parse().unwrap(),
        host: "web1".into(),
        direction: "received".into(),
        cause: "peer_closed".into(),
        impact: "connection_broken".into(),
        basis: "the peer had closed, 460 bytes undelivered".into(),
        origin: "socket".into(),
        reason: None,
        local: Some(endpoint("10.0.1.5", 42310)),
        remote: Some(endpoint("10.0.1.10", 443)),
        family: Some("ipv4".into()),
        role: "client".into(),
        state: Some("CLOSE_WAIT".into()),
        owner: Some(Owner {
            pid: Some(812),
            comm: "nginx".into(),
            source: "current".into(),
        }),
        peer_owner: None,
        peer_cause: None,
        killer: None,
        workload: None,
        cgroup: None,
        uid: Some(33),
        netns: Some(4_026_531_840),
        cookie: Some(5123),
        community_id: Some("1:ldl6Pq0DaNHtQNZuoTjDKwidIcU=".into()),
        turn: Some("us".into()),
        idle_rx_ms: Some(60_012),
        idle_tx_ms: Some(3),
        idle_segment_ms: Some(60_012),
        probes_out: Some(0),
        age_ms: None,
        bytes_sent: Some(1840),
        bytes_received: Some(920),
        unacked_bytes: Some(460),
        unsent_bytes: Some(0),
        unread_bytes: Some(0),
        srtt_us: Some(412),
        retransmits: Some(0),
        keepalive: Some(Keepalive {
            enabled: false,
            time_s: Some(7200),
            interval_s: Some(75),
            probes: Some(9),
        }),
        linger: None,
        exit: None,
        packet: Packet::default(),
        forgery: None,
        restart: None,
        hint: None,
        advice: None,
    }
}

/// A service that was away for two seconds.
pub(crate) fn restarted() -> Restarted {
    Restarted {
        v: VERSION,
        time: "2026-11-20T14:32:03.2Z".parse().unwrap(),
        host: "web1".into(),
        port: 8000,
        netns: Some(4_026_531_840),
        restart: Restart {
            workload: Some(Workload {
                kind: "systemd".into(),
                name: "gunicorn.service".into(),
                pod_uid: None,
            }),
            stopped: "2026-11-20T14:32:01.1Z".parse().unwrap(),
            started: Some("2026-11-20T14:32:03.2Z".parse().unwrap()),
            resets: 57,
        },
    }
}

/// An incident that is over, with everything that the text form prints.
pub(crate) fn incident() -> Incident {
    let time = |time: &str| time.parse().unwrap();
    Incident {
        v: VERSION,
        id: "1795225402-1".into(),
        host: "web1".into(),
        workload: "gunicorn.service".into(),
        role: "server".into(),
        port: Some(8000),
        cause: "refused".into(),
        impact: "connect_failed".into(),
        opened: time("2026-11-20T14:32:04Z"),
        closed: Some(time("2026-11-20T14:34:14Z")),
        first: time("2026-11-20T14:32:00Z"),
        last: time("2026-11-20T14:32:12Z"),
        resets: 163,
        connections: 20,
        usual_per_second: 0.01,
        usual_now: false,
        described: 163,
        peers: vec![
            Peer {
                ip: "10.0.1.7".parse().unwrap(),
                resets: 103,
                uncertain: 0,
            },
            Peer {
                ip: "2001:db8::1".parse().unwrap(),
                resets: 60,
                uncertain: 10,
            },
        ],
        idle_ms: Some(60_012),
        restarts: vec![restarted().restart],
        samples: vec![reset()],
        hint: Some("matches the 60 s idle timeout of AWS ALB".into()),
        advice: "start the service".into(),
    }
}

/// An [`Endpoint`] from its parts.
pub(crate) fn endpoint(ip: &str, port: u16) -> Endpoint {
    Endpoint {
        ip: ip.parse().unwrap(),
        port,
    }
}

/// An empty directory, removed with all it holds when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "rst-test-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a test on the kind of runtime the daemon has.
pub(crate) fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(async { tokio::time::timeout(DEADLINE, test).await })
        .expect("the test ended before its deadline")
}

/// Lets other tasks run until the condition holds; panics at the deadline.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "{what}: not within {DEADLINE:?}"
        );
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
