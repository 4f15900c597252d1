//! Live tests: each provokes real resets in a network namespace of its own and
//! asserts what the real daemon says of them, in the stream and in the
//! counters, once each.
//!
//! They need root and an eBPF-capable kernel; what is missing is named in a
//! `SKIPPED:` line on stderr. They run one at a time, see [`lab::exclusive`].
//!
//! Some run on other kernels too (`cargo xtask vm`; which ones stands in
//! xtask/src/vm/groups.rs). What a kernel can't show is not expected of it, and is
//! named in a `LIMITED:` line, see [`kernel`].
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "live/cgroup.rs"]
mod cgroup;
#[path = "live/collect.rs"]
mod collect;
#[path = "live/expect.rs"]
mod expect;
#[path = "live/kept.rs"]
mod kept;
#[path = "live/kernel.rs"]
mod kernel;
#[path = "live/lab.rs"]
mod lab;
#[path = "live/line.rs"]
mod line;
#[path = "live/memory.rs"]
mod memory;
#[path = "live/metrics.rs"]
mod metrics;
#[path = "live/netns.rs"]
mod netns;
#[path = "live/pace.rs"]
mod pace;
#[path = "live/process.rs"]
mod process;
#[path = "live/programs.rs"]
mod programs;
#[path = "live/tcp.rs"]
mod tcp;
#[path = "live/watcher.rs"]
mod watcher;
#[path = "live/wire.rs"]
mod wire;

#[path = "live/aborts.rs"]
mod aborts;
#[path = "live/balancer.rs"]
mod balancer;
#[path = "live/beside.rs"]
mod beside;
#[path = "live/closed.rs"]
mod closed;
#[path = "live/closing.rs"]
mod closing;
#[path = "live/connecting.rs"]
mod connecting;
#[path = "live/crafted.rs"]
mod crafted;
#[path = "live/curl.rs"]
mod curl;
#[path = "live/dead.rs"]
mod dead;
#[path = "live/forged.rs"]
mod forged;
#[path = "live/functions.rs"]
mod functions;
#[path = "live/governor.rs"]
mod governor;
#[path = "live/history.rs"]
mod history;
#[path = "live/idle.rs"]
mod idle;
#[path = "live/incidents.rs"]
mod incidents;
#[path = "live/labels.rs"]
mod labels;
#[path = "live/ledger.rs"]
mod ledger;
#[path = "live/listeners.rs"]
mod listeners;
#[path = "live/load.rs"]
mod load;
#[path = "live/owners.rs"]
mod owners;
#[path = "live/pins.rs"]
mod pins;
#[path = "live/prometheus.rs"]
mod prometheus;
#[path = "live/proxies.rs"]
mod proxies;
#[path = "live/quiet.rs"]
mod quiet;
#[path = "live/router.rs"]
mod router;
#[path = "live/scans.rs"]
mod scans;
#[path = "live/servers.rs"]
mod servers;
#[path = "live/service.rs"]
mod service;
#[path = "live/stories.rs"]
mod stories;
#[path = "live/uploads.rs"]
mod uploads;
#[path = "live/upstream.rs"]
mod upstream;
#[path = "live/vanished.rs"]
mod vanished;
#[path = "live/watching.rs"]
mod watching;
#[path = "live/workers.rs"]
mod workers;
