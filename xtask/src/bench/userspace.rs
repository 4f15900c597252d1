//! The daemon's own work, by the benchmark in `rst-daemon/benches`.

use std::{collections::HashMap, process::Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;

use super::report::{self, Finding, Table};
use crate::{cargo, shown};

/// Runs it; its output goes to the screen as it is, too.
pub(super) fn measure() -> Result<Finding> {
    let title = "user space, one core";
    eprintln!("{title}");
    let mut command = cargo("bench");
    command.args(["--package", "rst-daemon", "--bench", "pipeline"]);
    command.stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo bench")?;
    ensure!(output.status.success(), "`{}` failed", shown(&command));
    let text = String::from_utf8(output.stdout)?;
    let found = medians(&text)?;
    if found.is_empty() {
        bail!("`{}` shows no result:\n{text}", shown(&command));
    }
    let table = Table {
        title: title.to_owned(),
        head: vec!["work", "median, us", "per s"],
        rows: found
            .iter()
            .map(|(name, nanos)| {
                vec![
                    name.clone(),
                    format!("{:.2}", nanos / 1e3),
                    report::short(1e9 / nanos),
                ]
            })
            .collect(),
        notes: sizes(&text).map(str::to_owned).collect(),
    };
    let json = json!({
        "median_ns": found.into_iter().collect::<HashMap<_, _>>(),
    });
    Ok(Finding { table, json })
}

/// Lines the benchmark says of itself.
fn sizes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.strip_prefix("size: "))
}

/// Names and medians, nanoseconds, from divan's table: a branch of its tree for each, the name
/// and the fastest in the first cell, the median in the third.
fn medians(text: &str) -> Result<Vec<(String, f64)>> {
    text.lines()
        .filter_map(|line| line.strip_prefix("├─").or_else(|| line.strip_prefix("╰─")))
        .map(|line| {
            median(line).with_context(|| format!("cannot understand this line of divan: {line}"))
        })
        .collect()
}

fn median(line: &str) -> Option<(String, f64)> {
    let mut cells = line.split('│');
    let name = cells.next()?.split_whitespace().next()?;
    let (value, unit) = cells.nth(1)?.trim().split_once(' ')?;
    let nanos = match unit {
        "ns" => 1.0,
        "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    Some((name.to_owned(), value.parse::<f64>().ok()? * nanos))
}

#[cfg(test)]
mod tests {
    use super::{medians, sizes};

    const OUTPUT: &str = "\
size: 2000 pairs: 12 bytes
Timer precision: 10 ns
pipeline        fastest       │ slowest       │ median        │ mean          │ samples │ iters
├─ decode       4.5 ns        │ 9.1 ns        │ 5.25 ns       │ 5.3 ns        │ 100     │ 3200
╰─ to_json      1.9 µs        │ 12.4 µs       │ 2 µs          │ 2.2 µs        │ 100     │ 800
";

    #[test]
    fn medians_are_read_from_the_tree() {
        let expected = [("decode".to_owned(), 5.25), ("to_json".to_owned(), 2000.0)];
        assert_eq!(medians(OUTPUT).unwrap(), expected);
        assert!(medians("├─ decode 4 ns │ 9 ns │ 5 years │ 5 ns").is_err());
        assert_eq!(medians("").unwrap(), []);
    }

    #[test]
    fn sizes_are_passed_on() {
        let sizes: Vec<_> = sizes(OUTPUT).collect();
        assert_eq!(sizes, ["2000 pairs: 12 bytes"]);
    }
}
