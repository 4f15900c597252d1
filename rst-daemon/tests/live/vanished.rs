//! A line that swallows everything: who finds out, and how.

use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use rst_common::tcp::state;
use serde_json::json;

use crate::expect::verdict;
use crate::kernel::Limit;
use crate::lab::Lab;
use crate::line::{Line, TUN};
use crate::metrics::{Increase, Labels};
use crate::programs::{curl, url};
use crate::tcp::{self, Pair};

/// One way.
const DELAY: Duration = Duration::from_millis(20);

/// Where nobody answers.
const PORT: u16 = 80;

/// The peer vanishes behind the line, and keep-alive probes find that out.
#[test]
fn probes_over_a_dead_line_run_out() {
    let Some(lab) = Lab::start("probes_over_a_dead_line_run_out", &[TUN], &[]) else {
        return;
    };
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, DELAY);
    let pairs = line.ends.map(|family| {
        let mut pair = Pair::across(&lab.netns, &far, family);
        pair.ask(b"question");
        pair.answer(b"answer");
        tcp::probe_once(&pair.client);
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
    let Some(lab) = Lab::start(test, &["curl", TUN], &[]) else {
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

/// A question, and an attempt to connect, on a line that swallows them: the
/// kernel gives up, and no reset tells of it either.
#[test]
fn silence_is_counted() {
    let test = "silence_is_counted";
    let Some(lab) = Lab::start(test, &[TUN], &[]) else {
        return;
    };
    let far = lab.another();
    let line = Line::new(&lab.netns, &far, 1, DELAY);
    let pairs = line.ends.map(|family| {
        let mut pair = Pair::across(&lab.netns, &far, family);
        pair.ask(b"question");
        pair.answer(b"answer");
        tcp::set_option(&pair.client, libc::TCP_USER_TIMEOUT, 300);
        pair
    });
    line.blackhole(true);
    let before = lab.quiet_scrape();
    for (pair, family) in pairs.iter().zip(line.ends) {
        (&pair.client).write_all(b"another").unwrap();
        let attempt = lab.inside(|| tcp::bound(family.client));
        tcp::set_option(&attempt, libc::TCP_USER_TIMEOUT, 300);
        let to = SocketAddr::new(family.server, PORT);
        let error = rustix::net::connect(&attempt, &to).expect_err("nothing answers");
        assert_eq!(error, rustix::io::Errno::TIMEDOUT);
    }
    for pair in &pairs {
        assert_eq!(tcp::wait_error(&pair.client), ErrorKind::TimedOut);
    }
    let increase = lab
        .quiet_scrape()
        .increase(&before, "rst_timeouts_total", &["role", "port"]);
    let ports = pairs.iter().map(|pair| (pair.server_end.port(), 1));
    let expected = ports.chain([(PORT, 2)]).map(|(port, count)| {
        let labels = [("role", "client".to_owned()), ("port", port.to_string())];
        let labels = labels.map(|(name, value)| (name.to_owned(), value));
        (Labels::from(labels), count)
    });
    let mut expected: Increase = expected.collect();
    if !lab.kernel.shows_in(test, Limit::Timeouts) {
        expected.clear();
    }
    assert_eq!(increase, expected);
    for pair in pairs {
        // Its FIN would find the line whole again.
        tcp::vanish(pair.server);
    }
    lab.finish(&[]);
}
