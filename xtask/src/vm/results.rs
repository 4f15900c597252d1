//! What the tests of one guest said, read from libtest's output as it comes.

use std::collections::{BTreeMap, BTreeSet};

/// How a test went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Passed,
    /// It passed, and expected less than other kernels show: it said `LIMITED:`.
    Limited,
    /// It said `SKIPPED:`.
    Skipped,
    Failed,
}

/// The tests of a guest.
#[derive(Debug, Default)]
pub(crate) struct Results {
    verdicts: BTreeMap<String, Verdict>,
    /// What the kernel does not show, with the tests that said so.
    limits: BTreeMap<String, BTreeSet<String>>,
    /// Why tests were skipped.
    skips: BTreeSet<String>,
    running: Option<Running>,
    /// Names and output of the failed tests.
    failures: Vec<String>,
}

/// The test that runs.
#[derive(Debug)]
struct Running {
    name: String,
    /// Unless it fails.
    verdict: Verdict,
    said: Vec<String>,
}

impl Results {
    /// Takes a line.
    pub(crate) fn add(&mut self, line: &str) {
        let mut rest = line;
        if let Some((name, said)) = line
            .strip_prefix("test ")
            .and_then(|line| line.split_once(" ... "))
        {
            self.running = Some(Running {
                name: name.to_owned(),
                verdict: Verdict::Passed,
                said: Vec::new(),
            });
            rest = said;
        }
        let Some(running) = &mut self.running else {
            return;
        };
        if let Some(limit) = rest.strip_prefix("LIMITED: ") {
            running.verdict = Verdict::Limited;
            let (_, limit) = limit.split_once(": ").unwrap_or_default();
            let tests = self.limits.entry(limit.to_owned()).or_default();
            tests.insert(running.name.clone());
        } else if let Some(why) = rest.strip_prefix("SKIPPED: ") {
            running.verdict = Verdict::Skipped;
            self.skips.insert(why.to_owned());
        } else if rest == "ok" {
            self.verdicts.insert(running.name.clone(), running.verdict);
            self.running = None;
        } else if rest == "FAILED" {
            self.verdicts.insert(running.name.clone(), Verdict::Failed);
            self.failures.push(format!("---- {} ----", running.name));
            self.failures.append(&mut running.said);
            self.running = None;
        } else {
            running.said.push(rest.to_owned());
        }
    }

    /// How a test went; `None` where it did not come to its end.
    pub(crate) fn of(&self, test: &str) -> Option<Verdict> {
        self.verdicts.get(test).copied()
    }

    /// The test that runs, or ran when the guest died.
    pub(crate) fn running(&self) -> Option<&str> {
        self.running.as_ref().map(|running| running.name.as_str())
    }

    /// What the kernel does not show, and how many tests said so.
    pub(crate) fn limits(&self) -> impl Iterator<Item = (&str, usize)> {
        let limits = self.limits.iter();
        limits.map(|(limit, tests)| (limit.as_str(), tests.len()))
    }

    /// Why tests were skipped.
    pub(crate) fn skips(&self) -> impl Iterator<Item = &str> {
        self.skips.iter().map(String::as_str)
    }

    /// What the failed tests said.
    pub(crate) fn failures(&self) -> &[String] {
        &self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::{Results, Verdict};

    const OUTPUT: &str = "
running 5 tests
test aborts::mptcp ... SKIPPED: mptcp: this kernel has no MPTCP
SKIPPED: mptcp: this kernel has no MPTCP
ok
test closing::one ... ok
test closing::two ... LIMITED: two: the kernel's reason
LIMITED: two: other things
ok
test dead::three ... attempt 1 met 2 resets
FAILED
test dead::four ... 
";

    fn results(output: &str) -> Results {
        let mut results = Results::default();
        output.lines().for_each(|line| results.add(line));
        results
    }

    #[test]
    fn each_test_has_its_verdict() {
        let results = results(OUTPUT);
        assert_eq!(results.of("aborts::mptcp"), Some(Verdict::Skipped));
        assert_eq!(results.of("closing::one"), Some(Verdict::Passed));
        assert_eq!(results.of("closing::two"), Some(Verdict::Limited));
        assert_eq!(results.of("dead::three"), Some(Verdict::Failed));
        let limits: Vec<_> = results.limits().collect();
        assert_eq!(limits, [("other things", 1), ("the kernel's reason", 1)]);
        assert_eq!(results.skips().count(), 1);
    }

    #[test]
    fn a_test_without_an_end_has_none() {
        let results = results("test dead::four ... \nLIMITED: four: x\n");
        assert_eq!(results.of("dead::four"), None);
        assert_eq!(results.running(), Some("dead::four"));
    }

    #[test]
    fn what_failed_tests_said_is_kept() {
        let said = ["---- dead::three ----", "attempt 1 met 2 resets"];
        assert_eq!(results(OUTPUT).failures(), said);
    }
}
