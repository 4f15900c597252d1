//! The capabilities that rst uses (capabilities(7)): for what, and what is lost
//! without each. The one place for that: preflight, the unit file and the lines of the
//! log at the start follow it.

use std::fmt::Write as _;

/// Whether the daemon runs without it, and whether the unit grants it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing works without it.
    Required,
    /// Something is lost without it; the unit grants it.
    Granted,
    /// Little is lost without it and whoever has it can do almost anything: the unit
    /// leaves it to the administrator.
    Left,
}

/// A capability and what rst does with it.
#[derive(Clone, Copy, Debug)]
pub struct Capability {
    /// As systemd and capabilities(7) have it.
    pub name: &'static str,
    /// Its bit (`include/uapi/linux/capability.h`).
    number: u32,
    /// How much depends on it.
    pub need: Need,
    /// What rst does with it.
    pub reason: &'static str,
    /// What is lost without it.
    pub without: &'static str,
}

/// All of them. Each line was found by running without it, as an unprivileged user with
/// the others in its ambient set (Linux 6.18), and by `cargo xtask vm --boot`.
pub const CAPABILITIES: &[Capability] = &[
    Capability {
        name: "CAP_BPF",
        number: 39,
        need: Need::Required,
        reason: "make the maps and load the programs",
        without: "rst does not start",
    },
    Capability {
        name: "CAP_PERFMON",
        number: 38,
        need: Need::Required,
        reason: "read kernel structures in the programs and attach them",
        without: "rst does not start",
    },
    Capability {
        name: "CAP_DAC_READ_SEARCH",
        number: 2,
        need: Need::Granted,
        reason: "open a cgroup by its number, to name the service of a reset",
        without: "services are found by walking the tree of cgroups, at most once a second: one that came and went in between has no name",
    },
    Capability {
        name: "CAP_SYS_PTRACE",
        number: 19,
        need: Need::Left,
        reason: "see in which network namespace the processes of other users are",
        without: "the line that says where an unaccounted reset may be from names a process instead of the number of the namespace; where /proc is mounted with hidepid, namespaces of other users are not found at all",
    },
    Capability {
        name: SYS_ADMIN,
        number: SYS_ADMIN_NUMBER,
        need: Need::Left,
        reason: "enter network namespaces without a process, and measure what the programs cost",
        without: "resets sent in network namespaces without a process are credited instead of accounted for, and rst_probe_runs_total, rst_probe_seconds_total and what max_cpu_percent bounds leave out the programs in the kernel",
    },
];

/// It stands for CAP_BPF and CAP_PERFMON too.
const SYS_ADMIN: &str = "CAP_SYS_ADMIN";
const SYS_ADMIN_NUMBER: u32 = 21;

/// A set of capabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held(u64);

impl Held {
    /// The effective ones in the text of `/proc/PID/status`; nothing readable counts as
    /// none.
    #[must_use]
    pub fn parse(status: &str) -> Self {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("CapEff:"))
            .and_then(|value| u64::from_str_radix(value.trim(), 16).ok());
        Self(line.unwrap_or(0))
    }

    /// Those that this process has.
    #[must_use]
    pub fn read() -> Self {
        Self::parse(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
    }

    fn has(self, capability: &Capability) -> bool {
        let bit = |number: u32| self.0 >> number & 1 == 1;
        bit(capability.number) || capability.need == Need::Required && bit(SYS_ADMIN_NUMBER)
    }

    /// Those of [`CAPABILITIES`] that it lacks.
    pub fn missing(self) -> impl Iterator<Item = &'static Capability> {
        CAPABILITIES
            .iter()
            .filter(move |capability| !self.has(capability))
    }
}

/// Names in a row, as the settings of a unit have them.
#[must_use]
pub fn names(of: impl IntoIterator<Item = &'static Capability>) -> String {
    let mut text = String::new();
    for capability in of {
        let gap = if text.is_empty() { "" } else { " " };
        // Writing to a String does not fail.
        let _ = write!(text, "{gap}{}", capability.name);
    }
    text
}

/// Those that the unit grants.
pub fn granted() -> impl Iterator<Item = &'static Capability> {
    CAPABILITIES
        .iter()
        .filter(|capability| capability.need != Need::Left)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(effective: &str) -> String {
        names(Held::parse(&format!("Name:\tx\nCapEff:\t{effective}\n")).missing())
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        assert_eq!(missing("000001ffffffffff"), "");
        assert_eq!(missing("000000c000000004"), "CAP_SYS_PTRACE CAP_SYS_ADMIN");
        assert_eq!(names(Held::parse("garbage").missing()), names(CAPABILITIES));
    }

    #[test]
    fn the_old_one_stands_for_the_new_ones() {
        assert_eq!(
            missing("0000000000200000"),
            "CAP_DAC_READ_SEARCH CAP_SYS_PTRACE"
        );
    }

    #[test]
    fn the_docs_list_these() {
        let docs = include_str!("../../docs/security.md");
        let listed: Vec<&str> = docs
            .lines()
            .filter(|line| line.starts_with("| CAP_"))
            .collect();
        let expected: Vec<String> = CAPABILITIES
            .iter()
            .map(|it| format!("| {} | {} | {} |", it.name, it.reason, it.without))
            .collect();
        assert_eq!(listed, expected);
        assert!(docs.contains("It grants the first three:"));
        assert_eq!(granted().count(), 3);
    }

    #[test]
    fn the_unit_grants_these_and_says_why() {
        let unit = include_str!("../../dist/rst-daemon.service");
        let granted = names(granted());
        for setting in ["AmbientCapabilities", "CapabilityBoundingSet"] {
            let line = format!("\n{setting}={granted}\n");
            assert!(unit.contains(&line), "{line}");
        }
        for Capability { name, reason, .. } in CAPABILITIES {
            let line = format!("\n#   {name}: {reason}\n");
            assert!(unit.contains(&line), "{line}");
        }
    }
}
