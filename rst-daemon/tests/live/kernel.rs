//! What the running kernel can show, and what a test expects where it can't: the one
//! place that knows. It asks the kernel's BTF and the daemon's `rst_probe_up`, not
//! version numbers.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::OnceLock;

use rst_daemon::kernel::btf::{Btf, VMLINUX};
use rst_daemon::kernel::layout::{self, KernelLayout};
use rst_daemon::kernel::probes::{SEND_RESET_FUNCTIONS, SOCKETS_AT_START};
use serde_json::{Value, json};

use crate::metrics::Scrape;

/// Something that a kernel does not show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Limit {
    /// `tcp_send_reset` is silent where no socket takes part.
    NoSocket,
    /// It gives no reasons, or not this one.
    Reason,
    /// No program sees who accepts: whoever listens is told.
    Accept,
    /// No program can look at what was open before the start.
    BeforeStart,
    /// `inet_sk_error_report` is not there.
    Timeouts,
    /// `kfree_skb` says no reason.
    Ignored,
    /// It says no socket: which one has ignored a reset is not known.
    IgnoredBy,
}

impl Limit {
    /// What is not shown.
    fn what(self) -> &'static str {
        match self {
            Self::NoSocket => "resets sent for closed ports, unknown connections and TIME_WAIT",
            Self::Reason => "the kernel's reason",
            Self::Accept => "which process accepts a connection",
            Self::BeforeStart => "whose a socket from before the start is, or who listened then",
            Self::Timeouts => "connections that die of silence",
            Self::Ignored => "resets that change nothing",
            Self::IgnoredBy => "which kind of socket has ignored a reset",
        }
    }
}

/// The running kernel, as a daemon sees it.
#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) layout: &'static KernelLayout,
    /// The probes that are attached, or have run.
    up: BTreeSet<String>,
}

impl Kernel {
    /// Looks at it, and at what a daemon has attached.
    pub(crate) fn of(scrape: &Scrape) -> Self {
        static LAYOUT: OnceLock<KernelLayout> = OnceLock::new();
        let layout = LAYOUT.get_or_init(|| {
            let bytes = std::fs::read(VMLINUX).expect("the daemon has read it");
            let btf = Btf::parse(&bytes, &layout::wanted()).expect("as the daemon has");
            layout::resolve(&btf).expect("as the daemon has")
        });
        Self {
            layout,
            up: scrape.probes_up(),
        }
    }

    /// Whether something is shown.
    pub(crate) fn shows(&self, what: Limit) -> bool {
        match what {
            Limit::NoSocket => {
                let functions = SEND_RESET_FUNCTIONS.iter();
                self.layout.send_reset_shows_all
                    || functions.copied().all(|name| self.up.contains(name))
            }
            // Those of sockets came last.
            Limit::Reason => self.has_reason("TCP_ABORT_ON_CLOSE"),
            Limit::Accept => self.up.contains("inet_csk_accept"),
            Limit::BeforeStart => self.up.contains(SOCKETS_AT_START),
            Limit::Timeouts => self.up.contains("inet_sk_error_report"),
            Limit::Ignored => self.up.contains("kfree_skb"),
            Limit::IgnoredBy => self.layout.kfree_skb_args.is_some_and(|args| args > 3),
        }
    }

    /// Likewise; what is not is told as a limit of the test.
    pub(crate) fn shows_in(&self, test: &str, what: Limit) -> bool {
        let shown = self.shows(what);
        if !shown {
            limited(test, what);
        }
        shown
    }

    fn has_reason(&self, name: &str) -> bool {
        let mut names = self.layout.reason_names.iter().flatten();
        names.any(|known| known == name)
    }

    /// What is expected here of the resets that every kernel would show in full, and
    /// what of it is less.
    pub(crate) fn expected(&self, all: &[Value]) -> (Vec<Value>, BTreeSet<Limit>) {
        let mut limits = BTreeSet::new();
        let no_socket = self.shows(Limit::NoSocket);
        let (shown, hidden): (Vec<&Value>, Vec<&Value>) = all
            .iter()
            .partition(|reset| no_socket || !is_without_socket(reset));
        if !hidden.is_empty() {
            limits.insert(Limit::NoSocket);
        }
        let shown = shown.into_iter().cloned().map(|mut reset| {
            if hidden.iter().any(|hidden| is_peer(hidden, &reset)) {
                without_peer(&mut reset);
            }
            limits.extend(self.lessen(&mut reset));
            reset
        });
        (shown.collect(), limits)
    }

    /// Takes from a reset what is not shown here.
    pub(crate) fn lessen(&self, reset: &mut Value) -> Vec<Limit> {
        let mut limits = Vec::new();
        if reset["reason"]
            .as_str()
            .is_some_and(|name| !self.has_reason(name))
        {
            reset["reason"] = Value::Null;
            limits.push(Limit::Reason);
        }
        if reset["owner"]["source"] == "accept" && !self.shows(Limit::Accept) {
            reset["owner"]["source"] = json!("listener");
            limits.push(Limit::Accept);
        }
        if reset["owner"]["source"] == "iterator" && !self.shows(Limit::BeforeStart) {
            reset["owner"] = Value::Null;
            limits.push(Limit::BeforeStart);
        }
        let scanned = json!({"cause": "refused", "direction": "sent", "impact": "benign"});
        let is_scan = scanned
            .as_object()
            .is_some_and(|scan| scan.iter().all(|(name, value)| reset[name] == *value));
        if is_scan && !self.shows(Limit::BeforeStart) {
            // Somebody may have listened there before.
            reset["impact"] = json!("uncertain");
            limits.push(Limit::BeforeStart);
        }
        limits
    }
}

/// Whether a reset is sent on behalf of no full socket. An expectation says so by its
/// `origin`; nothing but a closed port refuses.
fn is_without_socket(reset: &Value) -> bool {
    let origin = reset["origin"].as_str();
    reset["direction"] == "sent"
        && (matches!(origin, Some("none" | "timewait")) || reset["cause"] == "refused")
}

/// Whether two are the ends of one connection.
fn is_peer(one: &Value, other: &Value) -> bool {
    one["local"] == other["remote"] && one["remote"] == other["local"]
}

/// What is known of a peer whose own reset is not shown: nothing.
fn without_peer(reset: &mut Value) {
    for name in ["peer_cause", "peer_owner"] {
        if let Some(value) = reset.get_mut(name) {
            *value = json!(null);
        }
    }
}

/// Says that a test has expected less than other kernels show, for whoever reads along
/// and for the kernel matrix, which counts it.
pub(crate) fn limited(test: &str, what: Limit) {
    let _ = writeln!(std::io::stderr(), "LIMITED: {test}: {}", what.what());
}
