//! What has become of the probes: a running daemon's, or those attached here for a moment.

use std::path::Path;

use super::{Checked, Verdict};
use crate::config::Config;
use crate::kernel::capabilities::Held;
use crate::kernel::load;
use crate::kernel::verdict::{Judged, Told};
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
    let needed = probes.iter().filter(|probe| probe.verdict != "not_needed");
    let well = names(needed.filter(|probe| probe.is_well()));
    let mut checked = Vec::new();
    if !well.is_empty() {
        checked.push(Checked::ok(CHECK, format!("on Linux {kernel}: {well}")));
    }
    let mut groups: Vec<Vec<&Told>> = Vec::new();
    for probe in probes
        .iter()
        .take(MAX_PROBES)
        .filter(|probe| !probe.is_well())
    {
        let alike = |group: &&mut Vec<&Told>| {
            group[0].verdict == probe.verdict && group[0].why == probe.why
        };
        match groups.iter_mut().find(alike) {
            Some(group) => group.push(probe),
            None => groups.push(vec![probe]),
        }
    }
    checked.extend(groups.iter().map(|group| not_attached(group)));
    checked
}

fn not_attached(group: &[&Told]) -> Checked {
    let first = group[0];
    let what = format!(
        "{}: {}",
        names(group.iter().copied()),
        first.verdict.replace('_', " ")
    );
    let checked = match first.verdict.as_str() {
        "not_on_this_kernel" => Checked::limit(CHECK, what),
        "detached" => Checked::finding(CHECK, what)
            .advising("raise max_cpu_percent; after SIGUSR1 restart the daemon"),
        "refused" => Checked::finding(CHECK, what)
            .advising("what refuses them, as named; or do without what is not shown"),
        _ => Checked::finding(CHECK, what)
            .advising("a newer rst may know this kernel; if not, report its version and this line"),
    };
    let why = first.why.clone().map(|why| match checked.verdict {
        Verdict::Limit => format!("only where {why}"),
        Verdict::Finding | Verdict::Ok => why,
    });
    Checked {
        why,
        not_shown: group.iter().map(|probe| probe.shows.clone()).collect(),
        ..checked
    }
}

fn names<'a>(probes: impl Iterator<Item = &'a Told>) -> String {
    let names: Vec<&str> = probes.map(|probe| probe.probe.as_str()).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(probe: &str, verdict: &str, why: Option<&str>) -> Told {
        Told {
            probe: probe.to_owned(),
            required: false,
            verdict: verdict.to_owned(),
            why: why.map(str::to_owned),
            shows: format!("what {probe} shows"),
        }
    }

    #[test]
    fn what_is_not_shown_is_told_once_for_each_reason() {
        let checked = judge(
            "6.1.0",
            &[
                told("a", "attached", None),
                told("b", "refused", Some("no")),
                told("c", "waiting", Some("for a module")),
                told("d", "refused", Some("no")),
                told("g", "not_needed", Some("BTF lacks it")),
                told("e", "not_on_this_kernel", Some("BTF has it")),
                told("f", "detached", Some("it was dear")),
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
