//! The fuzz targets: bytes in, no panic, and what must hold of the result.
//!
//! `cargo xtask fuzz` runs each; `RST_FUZZ_TARGET` names the one that is wanted.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use jiff::tz::TimeZone;
use libfuzzer_sys::fuzz_target;
use rst_common::event::EVENT_SIZE;
use rst_daemon::clock::{Hz, WallClock};
use rst_daemon::config::Config;
use rst_daemon::filter::Filter;
use rst_daemon::join::Joiner;
use rst_daemon::kernel::btf::Btf;
use rst_daemon::kernel::{layout, ring};
use rst_daemon::incident::Incident;
use rst_daemon::incidents::tell;
use rst_daemon::reset::{Reset, Restarted};
use rst_daemon::serve::fuzz::exchange;
use rst_daemon::text::{self, Style};
use rst_daemon::workload::of_cgroup;
use rst_daemon::workload::resolver::Named;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A target; the corpus of each lies in `corpus/NAME`.
type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 7] = [
    ("btf", btf),
    ("cgroup", cgroup),
    ("config", config),
    ("event", event),
    ("filter", filter),
    ("http", http),
    ("line", line),
];

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let wanted = std::env::var("RST_FUZZ_TARGET").unwrap_or_default();
    match TARGETS.iter().find(|(name, _)| *name == wanted) {
        Some((_, target)) => *target,
        None => panic!("RST_FUZZ_TARGET={wanted:?} is none of {TARGETS:?}"),
    }
});

fuzz_target!(|data: &[u8]| TARGET(data));

/// The kernel's BTF, damaged: offsets are found or not, nothing else.
fn btf(data: &[u8]) {
    if let Ok(btf) = Btf::parse(data, &layout::wanted()) {
        let _ = layout::resolve(&btf);
    }
}

/// A cgroup's path: whoever makes cgroups chooses it.
fn cgroup(data: &[u8]) {
    let Ok(path) = std::str::from_utf8(data) else {
        return;
    };
    if let Some(workload) = of_cgroup(path) {
        assert!(!workload.name.is_empty(), "{workload:?}");
    }
}

/// A configuration file: what is taken is within its limits.
fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = Config::parse(text, Path::new("rst.toml")) {
        assert!(!error.to_string().is_empty());
    }
}

/// A record of the ring buffer, told as JSON and as text.
fn event(data: &[u8]) {
    let event = match ring::decode(data) {
        Ok(event) => event,
        Err(error) => return assert_ne!(error.actual, EVENT_SIZE),
    };
    let Some(hz) = Hz::of((0, (1 << 32) - 300 * 250)) else {
        panic!("clocks at zero have some HZ");
    };
    let joiner = Joiner::new("host".to_owned(), vec![None; 64], hz, true);
    let reset = joiner.join(&event, WallClock::from_offset(0), Named::default(), None);
    let json = text::json(&reset).unwrap_or_default();
    assert!(serde_json::from_str::<Reset>(&json).is_ok(), "{json}");
    is_safe(&text::line(&reset, &style()));
}

fn style() -> Style {
    Style {
        color: false,
        zone: TimeZone::UTC,
    }
}

/// Asserts that a terminal does nothing but show it, in lines.
fn is_safe(text: &str) {
    let mut shown = text.chars().filter(|character| *character != '\n');
    assert!(!shown.any(char::is_control), "{text:?}");
}

/// A line of JSON, of the store or of a daemon's stream: whoever can write there chooses it.
/// What is read is told safely, and read again as it was.
fn line(data: &[u8]) {
    if let Ok(reset) = serde_json::from_slice::<Reset>(data) {
        is_safe(&text::line(&reset, &style()));
        assert_eq!(again(&reset), reset);
    }
    if let Ok(restarted) = serde_json::from_slice::<Restarted>(data) {
        is_safe(&text::restarted(&restarted, &style()));
        assert_eq!(again(&restarted), restarted);
    }
    if let Ok(incident) = serde_json::from_slice::<Incident>(data) {
        is_safe(&tell::page(&incident, &style()));
    }
}

fn again<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let json = text::json(value).unwrap_or_default();
    match serde_json::from_str(&json) {
        Ok(again) => again,
        Err(error) => panic!("{error}: {json}"),
    }
}

/// The query of a stream: what is read is written in the same way again.
fn filter(data: &[u8]) {
    let Ok(query) = std::str::from_utf8(data) else {
        return;
    };
    match Filter::from_query(query) {
        Ok(filter) => {
            let again = Filter::from_query(&filter.to_query());
            assert_eq!(again.ok().as_ref(), Some(&filter));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// What a client sends to the UNIX socket.
fn http(data: &[u8]) {
    let answer = exchange(data);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."));
}
