//! What has become of the probes: a running daemon's, or those attached here for a moment.

use super::{Checked, Verdict};
use crate::config::Config;
use crate::kernel::capabilities::Held;
use crate::kernel::load;
use crate::kernel::verdict::{Judged, Told};
use crate::status::Status;

const CHECK: &str = "probes";

/// What a daemon says of its own.
pub(super) fn of_daemon(status: &Status) -> Vec<Checked> {
    let mut checked = judge(&status.kernel, &status.probes);
    if !status.ready {
        checked.push(Checked {
            check: "daemon",
            verdict: Verdict::Finding,
            what: "it runs and is not ready".to_owned(),
            change: Some("see its log: journalctl -u rst-daemon".to_owned()),
        });
    }
    checked
}

/// Attaches them, and takes them off again.
pub(super) fn tried_here() -> Vec<Checked> {
    let kernel = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    let daemon = Checked {
        check: "daemon",
        verdict: Verdict::Finding,
        what: "none runs: no reset is counted".to_owned(),
        change: Some("systemctl enable --now rst-daemon, or `rst daemon`".to_owned()),
    };
    let attached = load::attach(load::Settings::of(&Config::default()));
    let mut checked = match attached {
        Ok(attached) => {
            let verdicts = attached.hooks.verdicts();
            judge(
                &kernel,
                &verdicts.iter().map(Judged::told).collect::<Vec<_>>(),
            )
        }
        Err(error) => vec![Checked {
            check: CHECK,
            verdict: Verdict::Finding,
            what: format!("they can't run on Linux {kernel}: {error}"),
            // The error says it.
            change: None,
        }],
    };
    checked.extend(Held::read().missing().map(|missing| Checked {
        check: "capabilities",
        verdict: Verdict::Limit,
        what: format!("this process lacks {}: {}", missing.name, missing.without),
        change: None,
    }));
    checked.insert(0, daemon);
    checked
}

/// A line for those that are attached, and one for all that are not for the same reason.
fn judge(kernel: &str, probes: &[Told]) -> Vec<Checked> {
    let needed = probes.iter().filter(|probe| probe.verdict != "not_needed");
    let well = names(needed.filter(|probe| probe.is_well()));
    let mut checked = vec![Checked::ok(CHECK, format!("on Linux {kernel}: {well}"))];
    let mut groups: Vec<Vec<&Told>> = Vec::new();
    for probe in probes.iter().filter(|probe| !probe.is_well()) {
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
    let mut why = first.why.clone().unwrap_or_default();
    if first.verdict == "not_on_this_kernel" {
        why.insert_str(0, "only where ");
    }
    let lost: Vec<&str> = group.iter().map(|probe| probe.shows.as_str()).collect();
    let what = format!(
        "{}: {}; not shown: {}; {why}",
        names(group.iter().copied()),
        first.verdict.replace('_', " "),
        lost.join("; "),
    );
    let (verdict, change) = match first.verdict.as_str() {
        "not_on_this_kernel" => (Verdict::Limit, None),
        "detached" => (
            Verdict::Finding,
            Some("raise max_cpu_percent; after SIGUSR1 restart the daemon"),
        ),
        "refused" => (
            Verdict::Finding,
            Some("what refuses them, as named; or do without what is not shown"),
        ),
        _ => (
            Verdict::Finding,
            Some("a newer rst may know this kernel; if not, report its version and this line"),
        ),
    };
    Checked {
        check: CHECK,
        verdict,
        what,
        change: change.map(str::to_owned),
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
        let lines: Vec<_> = checked
            .iter()
            .map(|one| (one.verdict, one.what.as_str()))
            .collect();
        assert_eq!(
            lines,
            [
                (Verdict::Ok, "on Linux 6.1.0: a, c"),
                (
                    Verdict::Finding,
                    "b, d: refused; not shown: what b shows; what d shows; no"
                ),
                (
                    Verdict::Limit,
                    "e: not on this kernel; not shown: what e shows; only where BTF has it"
                ),
                (
                    Verdict::Finding,
                    "f: detached; not shown: what f shows; it was dear"
                ),
            ]
        );
    }
}
