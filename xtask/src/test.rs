//! `cargo xtask test`: all tests, a short run of the fuzz targets and the kernel matrix, its
//! core or all of it, then one line that sums them up.
//!
//! Tests run one at a time, for the live ones share the machine's network stack. One that can't
//! run here prints `SKIPPED: reason` and returns; cargo reports it as passed, the sum does not.

use std::{
    fmt,
    io::{BufRead as _, BufReader},
    process::{ChildStdout, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use crate::{cargo, fuzz, setup, vm};

/// How long output may stay away after cargo's end before it is taken for complete.
const QUIET: Duration = Duration::from_secs(2);

/// Sets up, runs the tests whose names contain the filter, prints the sum.
pub(crate) fn run(filter: Option<&str>, kernels: bool) -> Result<()> {
    setup::ensure_build()?;
    setup::ensure_test_tools()?;
    if let Err(error) = setup::ensure_package_tools() {
        eprintln!("warning: tests of packages are skipped: {error:#}");
    }

    let mut command = cargo("test");
    command.args(["--workspace", "--exclude", "rst-ebpf", "--no-fail-fast"]);
    command
        .args(filter)
        .args(["--", "--test-threads=1", "--show-output"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo test")?;
    let lines = lines(child.stdout.take().context("cargo has no stdout")?);

    let mut sum = Sum::default();
    loop {
        match lines.recv_timeout(QUIET) {
            Ok(line) => {
                println!("{line}");
                sum.add(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            // A process that a test left behind may keep the pipe open.
            Err(RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
    if !child.wait()?.success() && sum.failed == 0 {
        // It did not compile, or a test took its whole process down.
        sum.failed = 1;
    }
    // A filter is for one test.
    if filter.is_none() {
        match fuzz::run(fuzz::SHORT) {
            Ok(outcome) => {
                sum.passed += outcome.passed;
                sum.failed += outcome.failed;
            }
            // What comes after it is worth to know all the same.
            Err(error) => {
                println!("error: the fuzz targets did not run: {error:#}");
                sum.failed += 1;
            }
        }
    }
    let choice = match (filter, kernels) {
        (_, true) => Some(vm::Choice::All),
        (None, false) => Some(vm::Choice::Core),
        (Some(_), false) => None,
    };
    if let Some(choice) = choice {
        sum.add_matrix(vm::matrix(&vm::Options::default(), choice));
    }
    println!("\n{sum}");
    if sum.failed != 0 {
        bail!("there are failed tests");
    }
    Ok(())
}

/// The lines as they come.
pub(crate) fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if sender
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    receiver
}

/// Results of all test binaries together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sum {
    /// As cargo counts, so with those that skipped themselves.
    passed: u64,
    failed: u64,
    /// Marked with `#[ignore]`.
    ignored: u64,
    /// Said `SKIPPED: ..`.
    skipped: u64,
}

impl Sum {
    /// Counts a line of cargo's output.
    fn add(&mut self, line: &str) {
        if line.starts_with("SKIPPED: ") {
            self.skipped += 1;
        } else if let Some(result) = line.strip_prefix("test result: ") {
            for part in result.split([';', '.']) {
                let mut words = part.split_whitespace();
                let (Some(number), Some(what)) = (words.next(), words.next()) else {
                    continue;
                };
                let Ok(number) = number.parse::<u64>() else {
                    continue;
                };
                match what {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
        }
    }
}

impl Sum {
    /// Adds the kernel matrix. Where it could not be run that is one failure.
    fn add_matrix(&mut self, matrix: Result<vm::Tally>) {
        match matrix {
            Ok(tally) => {
                // As cargo counts.
                self.passed += tally.passed + tally.limited + tally.skipped;
                self.failed += tally.failed;
                self.skipped += tally.skipped;
            }
            Err(error) => {
                eprintln!("error: the kernel matrix: {error:#}");
                self.failed += 1;
            }
        }
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let passed = self.passed.saturating_sub(self.skipped);
        let skipped = self.ignored + self.skipped;
        write!(
            f,
            "{passed} passed, {} failed, {skipped} skipped",
            self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Sum;

    fn sum(output: &str) -> String {
        let mut sum = Sum::default();
        output.lines().for_each(|line| sum.add(line));
        sum.to_string()
    }

    #[test]
    fn binaries_are_added_up() {
        let output = "\
running 12 tests
test result: ok. 11 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s
test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 12.31s
";
        assert_eq!(sum(output), "15 passed, 2 failed, 1 skipped");
    }

    #[test]
    fn a_test_that_skips_itself_has_not_passed() {
        let output = "\
---- resets_of_nginx stdout ----
SKIPPED: nginx is not installed
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        assert_eq!(sum(output), "2 passed, 0 failed, 2 skipped");
    }

    #[test]
    fn nothing_ran() {
        assert_eq!(
            sum("error: could not compile"),
            "0 passed, 0 failed, 0 skipped"
        );
    }
}
