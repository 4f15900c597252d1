//! What became of each hook, and why.

use std::fmt;
use std::io;

use aya::programs::ProgramError;
use serde::{Deserialize, Serialize};

use super::preflight::Host;
use super::probes::Probe;

/// Lines of the verifier's log that are shown.
const LOG_LINES: usize = 5;

/// The kernel's own number for "not supported", which no libc names
/// (include/linux/errno.h).
const ENOTSUPP: i32 = 524;

/// What became of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is attached; an iterator has run.
    Attached,
    /// It was attached, and is not any more.
    Detached,
    /// It is a function of a module that is not loaded: says which.
    Waiting(String),
    /// This kernel does not have it: see [`Probe::when`].
    NotHere,
    /// Another hook of this kernel shows the same: see [`Probe::when`].
    NotNeeded,
    /// This kernel has another of the same name.
    Changed(String),
    /// The kernel does not allow it: its error, with the likely reason.
    Refused(String),
    /// It does not work, as it should: the error, with the verifier's last lines.
    Failed(String),
}

/// A [`Verdict`] in a word, as the status has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "see Verdict")]
pub enum Outcome {
    Attached,
    Detached,
    Waiting,
    NotOnThisKernel,
    NotNeeded,
    Changed,
    Refused,
    Failed,
}

/// A hook with what became of it.
#[derive(Clone, Debug)]
pub struct Judged {
    /// The hook.
    pub probe: &'static Probe,
    /// What became of it.
    pub verdict: Verdict,
}

/// A hook as the status tells it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Its name, as in `rst_probe_up`.
    pub probe: String,
    /// Whether the daemon can be ready without it.
    pub required: bool,
    /// What became of it.
    pub verdict: Outcome,
    /// `null` where it is attached.
    pub why: Option<String>,
    /// What is lost without it.
    pub shows: String,
}

impl Verdict {
    /// What becomes of a hook whose program can't be loaded or attached.
    #[must_use]
    pub fn of(program: &str, error: &ProgramError, host: &Host) -> Self {
        if let ProgramError::LoadError {
            io_error,
            verifier_log,
        } = error
        {
            return Self::of_load(program, io_error, &verifier_log.to_string(), host);
        }
        let shown = chain(error);
        if let ProgramError::SyscallError(error) = error
            && let Some(reason) = likely(&error.io_error, host)
        {
            return Self::Refused(format!("{shown}: {reason}"));
        }
        Self::Failed(format!("program {program}: {shown}"))
    }

    /// The verifier says why where it is the one that refuses; the whole log is
    /// hundreds of lines and goes to the debug log.
    fn of_load(program: &str, error: &io::Error, log: &str, host: &Host) -> Self {
        let lines = last_lines(log);
        if lines.is_empty() {
            return match likely(error, host) {
                Some(reason) => Self::Refused(format!("{error}: {reason}")),
                None => Self::Failed(format!(
                    "program {program}: {error}, and the verifier says nothing"
                )),
            };
        }
        tracing::debug!("verifier log of {program}:\n{log}");
        Self::Failed(format!(
            "program {program}: {error}; the verifier's last lines:\n  {}",
            lines.join("\n  ")
        ))
    }

    /// What the kernel said of it, and the likely reason; empty where it said nothing.
    #[must_use]
    pub fn detail(&self) -> &str {
        match self {
            Self::Attached | Self::Detached | Self::NotHere | Self::NotNeeded => "",
            Self::Waiting(why) | Self::Changed(why) | Self::Refused(why) | Self::Failed(why) => why,
        }
    }

    /// The same without what was said of it.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Attached => Outcome::Attached,
            Self::Detached => Outcome::Detached,
            Self::Waiting(_) => Outcome::Waiting,
            Self::NotHere => Outcome::NotOnThisKernel,
            Self::NotNeeded => Outcome::NotNeeded,
            Self::Changed(_) => Outcome::Changed,
            Self::Refused(_) => Outcome::Refused,
            Self::Failed(_) => Outcome::Failed,
        }
    }
}

impl Judged {
    /// Why it is not attached; `None` where it is.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Attached => None,
            Verdict::Detached => Some("taken off to stay within max_cpu_percent, or by SIGUSR1"),
            Verdict::NotHere | Verdict::NotNeeded => Some(self.probe.when),
            Verdict::Waiting(_)
            | Verdict::Changed(_)
            | Verdict::Refused(_)
            | Verdict::Failed(_) => Some(self.verdict.detail()),
        }
    }

    /// For the status.
    #[must_use]
    pub fn told(&self) -> Told {
        Told {
            probe: self.probe.name.to_owned(),
            required: self.probe.required,
            verdict: self.verdict.outcome(),
            why: self.why().map(str::to_owned),
            shows: self.probe.shows.to_owned(),
        }
    }
}

/// One hook, what became of it, and what is lost without it.
impl fmt::Display for Judged {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Probe { name, shows, .. } = self.probe;
        let why = self.why().unwrap_or_default();
        match &self.verdict {
            Verdict::Attached => write!(out, "{name}: attached; shows {shows}"),
            Verdict::Detached => write!(out, "{name}: detached, {why}; not shown: {shows}"),
            Verdict::NotNeeded => write!(out, "{name}: not needed, only where {why}"),
            Verdict::Waiting(_) => write!(out, "{name}: waits, {why}; shows {shows}"),
            Verdict::NotHere => {
                write!(
                    out,
                    "{name}: not on this kernel, only where {why}; not shown: {shows}"
                )
            }
            Verdict::Changed(_) => write!(
                out,
                "{name}: not attached, for this kernel's differs from what rst was built for; not shown: {shows}; {why}; report the kernel version, a newer rst may know it"
            ),
            Verdict::Refused(_) => write!(out, "{name}: refused; not shown: {shows}; {why}"),
            Verdict::Failed(_) => write!(out, "{name}: failed; not shown: {shows}; {why}"),
        }
    }
}

/// What the log says of the hooks that are not attached: a line each, and one for all
/// that the kernel has not or refuses for the same reason. Also whether something is wrong.
#[must_use]
pub fn log_lines(hooks: &[Judged]) -> Vec<(bool, String)> {
    let told = hooks
        .iter()
        .filter(|judged| !matches!(judged.verdict, Verdict::Attached | Verdict::NotNeeded));
    let groups = together(told, |first, judged| {
        matches!(judged.verdict, Verdict::NotHere | Verdict::Refused(_))
            && first.verdict == judged.verdict
            && first.why() == judged.why()
    });
    groups.iter().map(|group| line(group)).collect()
}

/// Items that are alike together, in the order of the first of each.
pub fn together<'a, T>(
    items: impl Iterator<Item = &'a T>,
    alike: impl Fn(&T, &T) -> bool,
) -> Vec<Vec<&'a T>> {
    let mut groups: Vec<Vec<&T>> = Vec::new();
    for item in items {
        match groups.iter_mut().find(|group| alike(group[0], item)) {
            Some(group) => group.push(item),
            None => groups.push(vec![item]),
        }
    }
    groups
}

/// One line for hooks that have become the same, and whether something is wrong.
fn line(group: &[&Judged]) -> (bool, String) {
    let first = group[0];
    let why = first.why().unwrap_or_default();
    let all = |what: fn(&Probe) -> &str, between| {
        let parts: Vec<_> = group.iter().map(|judged| what(judged.probe)).collect();
        parts.join(between)
    };
    let (names, shows) = (
        all(|probe| probe.name, ", "),
        all(|probe| probe.shows, "; "),
    );
    match &first.verdict {
        Verdict::NotHere => (
            false,
            format!("{names}: not on this kernel, only where {why}; not shown: {shows}"),
        ),
        Verdict::Refused(_) => (true, format!("{names}: refused; not shown: {shows}; {why}")),
        Verdict::Changed(_) | Verdict::Failed(_) => (true, first.to_string()),
        Verdict::Attached | Verdict::Detached | Verdict::Waiting(_) | Verdict::NotNeeded => {
            (false, first.to_string())
        }
    }
}

/// The likely reason for which a kernel refuses, where there is one.
fn likely(error: &io::Error, host: &Host) -> Option<String> {
    let reason = match error.raw_os_error()? {
        libc::EPERM | libc::EACCES => {
            return Some(if let Err(missing) = host.check() {
                missing.to_string()
            } else if let Some(mode) = host.lockdown_mode() {
                format!("likely kernel lockdown, which is in {mode} mode")
            } else if host.lockdown.is_empty() {
                "likely kernel lockdown (/sys/kernel/security, which would tell, is not mounted), a security module or the seccomp filter of a container".to_owned()
            } else {
                "likely a security module, the seccomp filter of a container, or a hardened kernel"
                    .to_owned()
            });
        }
        ENOTSUPP | libc::EOPNOTSUPP => {
            "this kernel can't trace functions on this architecture (no BPF trampolines)"
        }
        libc::EINVAL => {
            "likely a kernel without it (CONFIG_BPF_EVENTS, CONFIG_FUNCTION_TRACER, CONFIG_KPROBES)"
        }
        libc::ENOENT | libc::ESRCH => "the kernel has nothing of this name to attach to",
        libc::EBUSY => "something else holds it (ftrace, a live patch)",
        _ => return None,
    };
    Some(reason.to_owned())
}

/// How the lines begin that follow the verifier's reason.
const STATISTICS: [&str; 4] = [
    "processed ",
    "verification time ",
    "stack depth ",
    "mark_precise: ",
];

/// The last lines of a log that say something.
fn last_lines(log: &str) -> Vec<&str> {
    let mut lines: Vec<_> = log
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !STATISTICS.iter().any(|stat| line.starts_with(stat)))
        .collect();
    lines.split_off(lines.len().saturating_sub(LOG_LINES))
}

/// An error with everything that caused it, on one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::capabilities::Held;
    use super::super::probes::PROBES;
    use super::*;

    fn host(lockdown: &str) -> Host {
        Host {
            capabilities: Held::parse("CapEff:\tffffffffffffffff\n"),
            release: "6.1.0".to_owned(),
            has_btf: true,
            lockdown: lockdown.to_owned(),
            has_kprobes: true,
        }
    }

    fn load(errno: i32, log: &str, host: &Host) -> Verdict {
        let error = io::Error::from_raw_os_error(errno);
        Verdict::of_load("some_program", &error, log, host)
    }

    fn refused(errno: i32, host: &Host) -> String {
        let verdict = load(errno, "\n", host);
        let Verdict::Refused(why) = verdict else {
            panic!("{verdict:?}");
        };
        why
    }

    #[test]
    fn a_refusal_tells_its_likely_reason() {
        let free = host("[none] integrity confidentiality\n");
        let locked = host("none [integrity] confidentiality\n");
        let poor = Host {
            capabilities: Held::parse("CapEff:\t0\n"),
            ..host("")
        };
        for (errno, host, expected) in [
            (libc::EPERM, &locked, "lockdown, which is in integrity mode"),
            (libc::EPERM, &free, "likely a security module"),
            (libc::EPERM, &host(""), "which would tell, is not mounted"),
            (libc::EACCES, &poor, "CAP_BPF CAP_PERFMON missing"),
            (ENOTSUPP, &free, "no BPF trampolines"),
            (libc::EINVAL, &free, "CONFIG_FUNCTION_TRACER"),
            (libc::ENOENT, &free, "nothing of this name"),
        ] {
            let why = refused(errno, host);
            assert!(why.contains(expected), "{why}");
            assert!(why.contains("(os error"), "{why}");
        }
        assert_eq!(
            load(libc::ENOMEM, "", &free).outcome(),
            Outcome::Failed,
            "there is no likely reason"
        );
    }

    #[test]
    fn a_failure_shows_the_last_lines_of_the_verifier() {
        let steps: Vec<_> = (0..500)
            .map(|line| format!("{line}: (b7) r1 = 0"))
            .collect();
        let log = format!(
            "{}\nR1 invalid mem access 'scalar'\nverification time 12 usec\nstack depth 8\nprocessed 500 insns (limit 1000000) max_states_per_insn 0\n\n",
            steps.join("\n")
        );
        let Verdict::Failed(why) = load(libc::EACCES, &log, &host("")) else {
            panic!("the verifier says why");
        };
        assert_eq!(
            why,
            "program some_program: Permission denied (os error 13); the verifier's last lines:\n  \
             496: (b7) r1 = 0\n  497: (b7) r1 = 0\n  498: (b7) r1 = 0\n  499: (b7) r1 = 0\n  \
             R1 invalid mem access 'scalar'"
        );
    }

    #[test]
    fn what_is_lost_is_told_with_each_verdict() {
        let verdicts = [
            Verdict::Detached,
            Verdict::NotHere,
            Verdict::Changed("2 arguments instead of 3".to_owned()),
            Verdict::Refused("no".to_owned()),
            Verdict::Failed("broken".to_owned()),
        ];
        for probe in PROBES {
            for verdict in verdicts.clone() {
                let judged = Judged { probe, verdict };
                let text = judged.to_string();
                assert!(text.starts_with(&format!("{}: ", probe.name)), "{text}");
                assert!(
                    text.contains(&format!("not shown: {}", probe.shows)),
                    "{text}"
                );
                assert!(text.contains(judged.why().unwrap()), "{text}");
            }
        }
        let attached = Judged {
            probe: &PROBES[0],
            verdict: Verdict::Attached,
        };
        assert_eq!(attached.why(), None);
        assert!(attached.to_string().contains(": attached; "), "{attached}");
    }

    #[test]
    fn what_is_refused_alike_is_one_line() {
        let verdicts = [
            Verdict::Attached,
            Verdict::Refused("no".to_owned()),
            Verdict::NotHere,
            Verdict::Refused("never".to_owned()),
            Verdict::Refused("no".to_owned()),
        ];
        let judged: Vec<_> = PROBES
            .iter()
            .zip(verdicts)
            .map(|(probe, verdict)| Judged { probe, verdict })
            .collect();
        let lines = log_lines(&judged);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert_eq!(
            lines[0],
            (
                true,
                format!(
                    "{}, {}: refused; not shown: {}; {}; no",
                    PROBES[1].name, PROBES[4].name, PROBES[1].shows, PROBES[4].shows
                )
            )
        );
        assert_eq!(lines[1], (false, judged[2].to_string()));
        assert_eq!(lines[2], (true, judged[3].to_string()));
    }
}
