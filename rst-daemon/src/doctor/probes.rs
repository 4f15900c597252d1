//! What has become of the probes: a running daemon's, or those attached here for a moment.

use std::path::Path;

use super::Checked;
use crate::config::Config;
use crate::kernel::capabilities::Held;
use crate::kernel::load;
use crate::kernel::verdict::{Judged, Outcome, Told, together};
use crate::status::Status;

const CHECK: &str = "probes";

/// So many are looked at: what answers at the socket need not be a daemon.
const MAX_PROBES: usize = 256;

/// What a daemon says of its own.
pub(super) fn of_daemon(status: &Status) -> Vec<Checked> {
    let mut checked = judge(&status.kernel, &status.probes);
    if !status.ready {
        let daemon = Checked::finding("daemon", "it runs and is not ready");
        checked.insert(0, daemon.advising("see its log: journalctl -u rst-daemon"));
    }
    checked
}

/// Attaches them, and takes them off again.
pub(super) fn tried_here(socket: &Path) -> Vec<Checked> {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let daemon = format!(
        "none answers at {}: if none runs no reset is counted",
        socket.display()
    );
    let daemon = Checked::finding("daemon", daemon).advising(
        "systemctl enable --now rst-daemon, or `rst daemon`; --socket names another's socket",
    );
    let attached = load::attach(load::Settings::of(&Config::default()));
    let mut checked = match attached {
        Ok(attached) => {
            let verdicts = attached.hooks.verdicts();
            judge(
                &kernel,
                &verdicts.iter().map(Judged::told).collect::<Vec<_>>(),
            )
        }
        Err(error) => {
            let what = format!("this process can't attach them, on Linux {kernel}");
            // It says what to change.
            let why = Some(error.to_string());
            vec![Checked {
                why,
                ..Checked::finding(CHECK, what)
            }]
        }
    };
    checked.extend(Held::read().missing().map(|missing| Checked {
        not_shown: vec![missing.without.to_owned()],
        ..Checked::limit("capabilities", format!("{} is missing here", missing.name))
    }));
    checked.insert(0, daemon);
    checked
}

/// A line for those that are attached, and one for all that are not for the same reason.
fn judge(kernel: &str, probes: &[Told]) -> Vec<Checked> {
    let (mut well, mut not) = (Vec::new(), Vec::new());
    for probe in probes.iter().take(MAX_PROBES) {
        match probe.verdict {
            Outcome::Attached | Outcome::Waiting => well.push(probe),
            Outcome::NotNeeded => {}
            Outcome::Detached
            | Outcome::NotOnThisKernel
            | Outcome::Changed
            | Outcome::Refused
            | Outcome::Failed => not.push(probe),
        }
    }
    let mut checked = Vec::new();
    if !well.is_empty() {
        let well = names(&well);
        checked.push(Checked::ok(CHECK, format!("on Linux {kernel}: {well}")));
    }
    let alike = |one: &Told, other: &Told| one.verdict == other.verdict && one.why == other.why;
    let groups = together(not.into_iter(), alike);
    checked.extend(groups.iter().map(|group| not_attached(group)));
    checked
}

fn not_attached(group: &[&Told]) -> Checked {
    let first = group[0];
    let finding = |what: &str, change: &str| {
        Checked::finding(CHECK, format!("{}: {what}", names(group))).advising(change)
    };
    let unknown = "a newer rst may know this kernel; if not, report its version and this line";
    let mut why = first.why.clone();
    let checked = match first.verdict {
        Outcome::Detached => finding(
            "detached",
            "raise max_cpu_percent; after SIGUSR1 restart the daemon",
        ),
        Outcome::Refused => finding(
            "refused",
            "what refuses them, as named; or do without what is not shown",
        ),
        Outcome::Changed => finding("changed", unknown),
        Outcome::Failed => finding("failed", unknown),
        Outcome::NotOnThisKernel | Outcome::Attached | Outcome::Waiting | Outcome::NotNeeded => {
            why = why.map(|why| format!("only where {why}"));
            Checked::limit(CHECK, format!("{}: not on this kernel", names(group)))
        }
    };
    Checked {
        why,
        not_shown: group.iter().map(|probe| probe.shows.clone()).collect(),
        ..checked
    }
}

fn names(probes: &[&Told]) -> String {
    let names: Vec<&str> = probes.iter().map(|probe| probe.probe.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(probe: &str, verdict: Outcome, why: Option<&str>) -> Told {
        Told {
            probe: probe.to_owned(),
            required: false,
            verdict,
            why: why.map(str::to_owned),
            shows: format!("what {probe} shows"),
        }
    }

    #[test]
    fn what_is_not_shown_is_told_once_for_each_reason() {
        let checked = judge(
            "6.1.0",
            &[
                told("a", Outcome::Attached, None),
                told("b", Outcome::Refused, Some("no")),
                told("c", Outcome::Waiting, Some("for a module")),
                told("d", Outcome::Refused, Some("no")),
                told("g", Outcome::NotNeeded, Some("BTF lacks it")),
                told("e", Outcome::NotOnThisKernel, Some("BTF has it")),
                told("f", Outcome::Detached, Some("it was dear")),
            ],
        );
        let lines: Vec<_> = checked.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "ok       probes: on Linux 6.1.0: a, c",
                "FINDING  probes: b, d: refused
         not shown: what b shows
         not shown: what d shows
         why: no
         to change: what refuses them, as named; or do without what is not shown",
                "limit    probes: e: not on this kernel
         not shown: what e shows
         why: only where BTF has it",
                "FINDING  probes: f: detached
         not shown: what f shows
         why: it was dear
         to change: raise max_cpu_percent; after SIGUSR1 restart the daemon",
            ]
        );
    }
}
