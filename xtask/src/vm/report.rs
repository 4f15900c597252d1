//! The matrix as a table, and what to say below it.

use std::fmt::Write as _;

use super::{
    groups::{self, Choice, GROUPS, Group},
    guest::Outcome,
    results::Verdict,
};

/// A row: the series that was asked for, and the release that was run or why none was.
pub(crate) struct Row {
    pub(crate) series: String,
    pub(crate) release: Option<String>,
    pub(crate) outcome: Result<Outcome, String>,
}

/// How many tests went how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    /// Passed, with less expected than other kernels show.
    pub(crate) limited: u64,
    /// Those that did not come to their end are among them.
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    fn of(outcome: &Outcome, tests: impl Iterator<Item = &'static str>) -> Self {
        let mut tally = Self::default();
        for test in tests {
            match outcome.results.of(test) {
                Some(Verdict::Passed) => tally.passed += 1,
                Some(Verdict::Limited) => tally.limited += 1,
                Some(Verdict::Skipped) => tally.skipped += 1,
                Some(Verdict::Failed) | None => tally.failed += 1,
            }
        }
        tally
    }

    /// `7`, `4+3 limited`, `6, 1 FAILED`.
    fn cell(self) -> String {
        let mut cell = self.passed.to_string();
        for (number, what) in [
            (self.limited, "limited"),
            (self.skipped, "skipped"),
            (self.failed, "FAILED"),
        ] {
            if number > 0 {
                let _ = write!(cell, " +{number} {what}");
            }
        }
        cell
    }
}

/// All rows together. A kernel that could not be had, or whose guest could not be run, is one
/// failure.
pub(crate) fn tally(rows: &[Row], choice: Choice) -> Tally {
    let mut sum = Tally::default();
    for row in rows {
        match &row.outcome {
            Ok(outcome) => {
                let tally = Tally::of(outcome, groups::tests(choice));
                sum.passed += tally.passed;
                sum.limited += tally.limited;
                sum.failed += tally.failed;
                sum.skipped += tally.skipped;
            }
            Err(_) => sum.failed += 1,
        }
    }
    sum
}

/// Kernels by groups of tests.
pub(crate) fn table(rows: &[Row], choice: Choice) -> String {
    let mut head = vec!["kernel".to_owned(), "boot".to_owned(), "tests".to_owned()];
    head.extend(GROUPS.iter().map(|group| group.name.to_owned()));
    let mut lines = vec![head];
    for row in rows {
        let name = row.release.clone().unwrap_or_else(|| row.series.clone());
        let mut line = vec![name];
        match &row.outcome {
            Ok(outcome) => {
                let boot = outcome
                    .boot
                    .map(|boot| format!("{:.1} s", boot.as_secs_f32()));
                line.push(boot.unwrap_or_else(|| "-".to_owned()));
                line.push(format!("{:.0} s", outcome.run.as_secs_f32()));
                let cell = |group: &Group| Tally::of(outcome, group.tests(choice)).cell();
                line.extend(GROUPS.iter().map(cell));
            }
            Err(why) => line.push(format!("NOT RUN: {why}")),
        }
        lines.push(line);
    }
    aligned(&lines)
}

/// What each kernel does not show, why tests were skipped, and what has failed.
pub(crate) fn notes(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let (Some(release), Ok(outcome)) = (&row.release, &row.outcome) else {
            continue;
        };
        let results = &outcome.results;
        for (limit, tests) in results.limits() {
            let _ = writeln!(text, "{release} does not show {limit} ({tests} tests)");
        }
        for skip in results.skips() {
            let _ = writeln!(text, "{release} skipped {skip}");
        }
        if !results.failures().is_empty() {
            let _ = writeln!(text, "\n{release}: {}\n", results.failures().join("\n"));
        }
        if let Some(died) = &outcome.died {
            let during = results.running().unwrap_or("no test");
            let _ = writeln!(text, "\n{release}, while {during} ran: {died}\n");
        }
    }
    text
}

/// Columns as wide as they need to be; a line may end early.
fn aligned(lines: &[Vec<String>]) -> String {
    let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
    let full = lines.iter().filter(|line| line.len() == columns);
    let width = |column: usize| {
        full.clone()
            .map(|line| line[column].len())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let mut row = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(row, "{cell:width$}  ");
        }
        text.push_str(row.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Choice, Row, groups, notes, table, tally};
    use crate::vm::{guest::Outcome, results::Results};

    fn row(output: &str, died: Option<&str>) -> Row {
        let mut results = Results::default();
        output.lines().for_each(|line| results.add(line));
        Row {
            series: "6.1".to_owned(),
            release: Some("6.1.0-1".to_owned()),
            outcome: Ok(Outcome {
                boot: Some(Duration::from_secs(3)),
                run: Duration::from_secs(90),
                results,
                died: died.map(str::to_owned),
            }),
        }
    }

    fn all(verdict: &str) -> String {
        let lines: Vec<_> = groups::tests(Choice::All)
            .map(|test| format!("test {test} ... {verdict}"))
            .collect();
        lines.join("\n")
    }

    #[test]
    fn every_test_of_every_kernel_is_counted() {
        let number = groups::tests(Choice::All).count() as u64;
        let limited = all("LIMITED: x: the kernel's reason\nok");
        let rows = [
            row(&all("ok"), None),
            row(&limited, None),
            row("", Some("panic")),
        ];
        let sum = tally(&rows, Choice::All);
        assert_eq!(
            (sum.passed, sum.limited, sum.failed),
            (number, number, number)
        );
        let text = notes(&rows);
        assert!(text.contains(&format!(
            "6.1.0-1 does not show the kernel's reason ({number} tests)"
        )));
        assert!(text.contains("6.1.0-1, while no test ran: panic"), "{text}");
    }

    #[test]
    fn a_kernel_that_can_not_be_had_is_a_failure_and_in_the_table() {
        let rows = [Row {
            series: "6.8".to_owned(),
            release: None,
            outcome: Err("Debian has no kernel 6.8".to_owned()),
        }];
        assert_eq!(tally(&rows, Choice::Core).failed, 1);
        let table = table(&rows, Choice::Core);
        assert!(
            table.ends_with("6.8     NOT RUN: Debian has no kernel 6.8\n"),
            "{table}"
        );
    }
}
