//! A line that swallows everything: who finds out, and how.

use std::net::SocketAddr;
use std::time::Duration;

use rst_common::tcp::state;
use rustix::net::sockopt;
use serde_json::json;

use crate::expect::verdict;
use crate::lab::Lab;
use crate::line::Line;
use crate::programs::{curl, url};
use crate::tcp::{self, Pair};

/// One way.
const DELAY: Duration = Duration::from_millis(20);

/// The peer vanishes behind the line, and keep-alive probes find that out.
#[test]
fn probes_over_a_dead_line_run_out() {
    let Some(lab) = Lab::start("probes_over_a_dead_line_run_out", &[], &[]) else {
        return;
    };
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, DELAY);
    let pairs = line.ends.map(|family| {
        let mut pair = Pair::across(&lab.netns, &far, family);
        pair.ask(b"question");
        pair.answer(b"answer");
        let second = Duration::from_secs(1);
        sockopt::set_tcp_keepidle(&pair.client, second).unwrap();
        sockopt::set_tcp_keepintvl(&pair.client, second).unwrap();
        sockopt::set_tcp_keepcnt(&pair.client, 1).unwrap();
        sockopt::set_socket_keepalive(&pair.client, true).unwrap();
        pair
    });
    line.blackhole(true);
    let expected = pairs.map(|pair| {
        tcp::wait_state(&pair.client, state::CLOSE);
        // Its FIN would find the line whole again.
        tcp::vanish(pair.server);
        let verdict_of = ["keepalive_timeout", "connection_broken", "client"];
        let mut vanished = verdict("sent", pair.client_end, pair.server_end, verdict_of);
        vanished["state"] = json!("ESTABLISHED");
        vanished["probes_out"] = json!(1);
        vanished["keepalive"] = json!({"enabled": true, "time_s": 1});
        vanished
    });
    for event in lab.finish(&expected) {
        // Two ways of the line, as the handshake measured them.
        let rtt = event["srtt_us"].as_u64().unwrap();
        assert!((40_000..80_000).contains(&rtt), "{event}");
    }
}

/// curl's patience ends, exit status 28: no reset tells of it.
#[test]
fn curl_times_out_on_a_dead_line() {
    let test = "curl_times_out_on_a_dead_line";
    let Some(lab) = Lab::start(test, &["curl"], &[]) else {
        return;
    };
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, DELAY);
    line.blackhole(true);
    for family in line.ends {
        let url = url(SocketAddr::new(family.server, 80), "/");
        let output = curl(&lab.netns, &["--max-time", "0.2", &url]);
        assert_eq!(output.status.code(), Some(28), "{output:?}");
    }
    lab.finish(&[]);
}
