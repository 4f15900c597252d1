//! Numbers as they are shown: medians with their spread, in tables and as JSON.

use std::fmt;

use serde_json::{Value, json};

/// What several rounds gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// `None` where there are no values.
    pub(super) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted[sorted.len() / 2];
        let lower = sorted[(sorted.len() - 1) / 2];
        Some(Self {
            median: f64::midpoint(lower, upper),
            min,
            max,
        })
    }

    pub(super) fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }

    /// `median (min-max)`, each as `show` has it.
    pub(super) fn show(self, show: impl Fn(f64) -> String) -> String {
        format!(
            "{} ({}-{})",
            show(self.median),
            show(self.min),
            show(self.max)
        )
    }
}

/// Each value over the one of the same round in `base`.
pub(super) fn ratios<'a>(
    values: &'a [f64],
    base: &'a [f64],
) -> impl Iterator<Item = f64> + use<'a> {
    values.iter().zip(base).map(|(value, base)| value / base)
}

/// A count as a floating-point number.
#[expect(
    clippy::cast_precision_loss,
    reason = "exact up to 2^53, and only shown with a few digits"
)]
pub(super) fn float(count: u64) -> f64 {
    count as f64
}

/// Three significant digits, with k, M or G.
pub(super) fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        size if size >= 999.5e6 => (value / 1e9, "G"),
        size if size >= 999.5e3 => (value / 1e6, "M"),
        size if size >= 999.5 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let decimals = match scaled.abs() {
        size if size >= 99.95 => 0,
        size if size >= 9.995 => 1,
        _ => 2,
    };
    format!("{scaled:.decimals$}{unit}")
}

/// A ratio with three decimals.
pub(super) fn ratio(value: f64) -> String {
    format!("{value:.3}")
}

/// A whole number.
pub(super) fn whole(value: f64) -> String {
    format!("{value:.0}")
}

/// What is shown where there is nothing to say.
pub(super) const NOTHING: &str = "-";

/// A table for the screen.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) title: String,
    /// Heads of the columns.
    pub(super) head: Vec<&'static str>,
    pub(super) rows: Vec<Vec<String>>,
    /// Lines below it.
    pub(super) notes: Vec<String>,
}

impl Table {
    fn widths(&self) -> Vec<usize> {
        let cells = |column: usize| {
            let rows = self.rows.iter().filter_map(move |row| row.get(column));
            rows.map(|cell| cell.chars().count())
        };
        self.head
            .iter()
            .enumerate()
            .map(|(column, head)| cells(column).chain([head.len()]).max().unwrap_or(0))
            .collect()
    }
}

/// The first column to the left, the others to the right.
impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |cells: &mut dyn Iterator<Item = &str>| {
            let padded =
                cells
                    .zip(&widths)
                    .enumerate()
                    .map(|(column, (cell, &width))| match column {
                        0 => format!("{cell:width$}"),
                        _ => format!("{cell:>width$}"),
                    });
            let line = padded.collect::<Vec<_>>().join("  ");
            line.trim_end().to_owned()
        };
        writeln!(f, "{}", self.title)?;
        writeln!(f, "  {}", line(&mut self.head.iter().copied()))?;
        for row in &self.rows {
            writeln!(f, "  {}", line(&mut row.iter().map(String::as_str)))?;
        }
        for note in &self.notes {
            writeln!(f, "  {note}")?;
        }
        Ok(())
    }
}

/// What a part of the benchmark found.
pub(super) struct Finding {
    pub(super) table: Table,
    pub(super) json: Value,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Spread, Table, ratios, short};

    #[test]
    fn the_median_lies_in_the_middle() {
        let spread = |values: &[f64]| Spread::of(values.iter().copied());
        let of = |median, min, max| Some(Spread { median, min, max });
        assert_eq!(spread(&[3.0, 1.0, 2.0]), of(2.0, 1.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), of(2.5, 1.0, 4.0));
        assert_eq!(spread(&[7.0]), of(7.0, 7.0, 7.0));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let ratios: Vec<f64> = ratios(&[1.0, 3.0], &[2.0, 2.0]).collect();
        assert_eq!(ratios, [0.5, 1.5]);
    }

    #[test]
    fn numbers_have_three_digits() {
        for (value, shown) in [
            (0.0, "0.00"),
            (9.996, "10.0"),
            (99.96, "100"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (412_345.0, "412k"),
            (999_600.0, "1.00M"),
            (12_345_678.0, "12.3M"),
            (4.5e9, "4.50G"),
        ] {
            assert_eq!(short(value), shown);
        }
    }

    #[test]
    fn a_spread_is_shown_and_written() {
        let spread = Spread {
            median: 2000.0,
            min: 1000.0,
            max: 3000.0,
        };
        assert_eq!(spread.show(short), "2.00k (1.00k-3.00k)");
        let expected = json!({ "median": 2000.0, "min": 1000.0, "max": 3000.0 });
        assert_eq!(spread.json(), expected);
    }

    #[test]
    fn columns_are_aligned() {
        let table = Table {
            title: "storm".into(),
            head: vec!["observer", "per s", "ratio"],
            rows: vec![
                vec!["without".into(), "400k".into(), "1.000".into()],
                vec!["rst daemon, default".into(), "1".into()],
            ],
            notes: vec!["tcpdump: not here".into()],
        };
        assert_eq!(
            table.to_string(),
            "storm\n  \
             observer             per s  ratio\n  \
             without               400k  1.000\n  \
             rst daemon, default      1\n  \
             tcpdump: not here\n"
        );
    }
}
