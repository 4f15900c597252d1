//! One load under every observer: its rate, the observer's CPU, and whether the observer missed
//! any reset.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Bench,
    columns::{Available, Column},
    daemon::Counted,
    loads::{Generator, Load},
    namespace::Namespace,
    report::{self, Finding, NOTHING, Spread, Table, float},
    rounds,
};

/// One measurement.
pub(super) struct Cell {
    /// Resets, connections or bytes per second.
    pub(super) rate: f64,
    /// The same per CPU second of the generator: what programs in the kernel cost it, whoever
    /// else uses the machine.
    pub(super) per_cpu: f64,
    /// Cores that the observer's processes used.
    pub(super) cpu: Option<f64>,
    /// Resets sent, as the kernel counts them.
    pub(super) kernel: u64,
    /// As the observer does.
    pub(super) told: Option<Counted>,
}

/// Runs the load once, in a namespace of its own, under an observer of its own.
pub(super) fn cell(bench: &Bench, column: Column, load: Load) -> Result<Cell> {
    let namespace = Namespace::new()?;
    let observer = column.start(&bench.binary, &namespace)?;
    let generator = Generator::new(load, &namespace)?;
    let counted = observer.counted()?;
    let resets = namespace.out_resets()?;
    let cpu = observer.cpu()?;
    let work = generator.run(bench.time)?;
    let seconds = work.time.as_secs_f64();
    let cpu = observer
        .cpu()?
        .zip(cpu)
        .map(|(after, before)| after.saturating_sub(before).as_secs_f64() / seconds);
    let kernel = namespace.out_resets()? - resets;
    let told = observer.finish()?.map(|after| Counted {
        counted: after.counted - counted.counted,
        missed: after.missed - counted.missed,
    });
    let amount = match load {
        Load::Storm { .. } => kernel,
        Load::Unread | Load::Short | Load::Bulk => work.amount,
    };
    Ok(Cell {
        rate: float(amount) / seconds,
        per_cpu: float(amount) / work.cpu.as_secs_f64(),
        cpu,
        kernel,
        told,
    })
}

/// What the last column can't leave out.
const ELSEWHERE: &str = "the kernel's are those of the load's namespace; a surplus is resets of \
                         others on this machine";

/// Runs the load under every observer there is here.
pub(super) fn measure(bench: &Bench, load: Load, title: &str) -> Result<Finding> {
    eprintln!("{title}");
    let Available { columns, missing } = &bench.observers;
    let cells = rounds::run(bench.rounds, columns.len(), |subject| {
        cell(bench, columns[subject], load)
    })?;

    let rows: Vec<_> = columns
        .iter()
        .zip(&cells)
        .map(|(column, own)| Row::new(column.label(), own, &cells[0]))
        .collect();
    let table = Table {
        title: title.to_owned(),
        head: vec![
            "observer",
            "per s, median (min-max)",
            "ratio to without",
            "per CPU s, ratio",
            "CPU, cores",
            "told",
            "missed",
            "told + missed - kernel's",
        ],
        rows: rows.iter().map(Row::show).collect(),
        notes: missing.iter().cloned().chain([ELSEWHERE.into()]).collect(),
    };
    let json = json!({
        "observers": rows.iter().map(Row::json).collect::<Vec<_>>(),
        "not_available": missing,
    });
    Ok(Finding { table, json })
}

/// The rates of some rounds.
pub(super) fn rates(cells: &[Cell]) -> Vec<f64> {
    cells.iter().map(|cell| cell.rate).collect()
}

/// The rates per CPU second of some rounds.
pub(super) fn rates_per_cpu(cells: &[Cell]) -> Vec<f64> {
    cells.iter().map(|cell| cell.per_cpu).collect()
}

/// What all rounds say of one observer.
struct Row {
    observer: &'static str,
    rates: Vec<f64>,
    rate: Option<Spread>,
    ratio: Option<Spread>,
    per_cpu: Option<Spread>,
    per_cpu_ratio: Option<Spread>,
    /// The mean: one round's is a few clock ticks.
    cpu: Option<f64>,
    /// In all rounds together.
    kernel: u64,
    told: Option<Counted>,
}

impl Row {
    fn new(observer: &'static str, cells: &[Cell], without: &[Cell]) -> Self {
        let rates = rates(cells);
        let per_cpu = rates_per_cpu(cells);
        let cpu: Option<Vec<f64>> = cells.iter().map(|cell| cell.cpu).collect();
        let told: Option<Vec<Counted>> = cells.iter().map(|cell| cell.told).collect();
        Self {
            observer,
            rate: Spread::of(rates.iter().copied()),
            ratio: Spread::of(report::ratios(&rates, &self::rates(without))),
            rates,
            per_cpu: Spread::of(per_cpu.iter().copied()),
            per_cpu_ratio: Spread::of(report::ratios(&per_cpu, &rates_per_cpu(without))),
            cpu: cpu.map(|cpu| cpu.iter().sum::<f64>() / float(cpu.len() as u64)),
            kernel: cells.iter().map(|cell| cell.kernel).sum(),
            told: told.map(|told| Counted {
                counted: told.iter().map(|told| told.counted).sum(),
                missed: told.iter().map(|told| told.missed).sum(),
            }),
        }
    }

    /// How many resets too many (above zero) or too few were told of.
    fn difference(&self) -> Option<i128> {
        let told = self.told?;
        Some(i128::from(told.counted) + i128::from(told.missed) - i128::from(self.kernel))
    }

    fn show(&self) -> Vec<String> {
        let spread = |spread: Option<Spread>, show: fn(f64) -> String| {
            spread.map_or_else(|| NOTHING.to_owned(), |spread| spread.show(show))
        };
        let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
        vec![
            self.observer.to_owned(),
            spread(self.rate, report::short),
            spread(self.ratio, report::ratio),
            spread(self.per_cpu_ratio, report::ratio),
            or_nothing(self.cpu.map(report::ratio)),
            or_nothing(self.told.map(|told| told.counted.to_string())),
            or_nothing(self.told.map(|told| told.missed.to_string())),
            or_nothing(
                self.difference()
                    .map(|difference| format!("{difference:+}")),
            ),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "observer": self.observer,
            "per_second": self.rate.map(Spread::json),
            "per_second_by_round": self.rates,
            "ratio": self.ratio.map(Spread::json),
            "per_cpu_second": self.per_cpu.map(Spread::json),
            "per_cpu_second_ratio": self.per_cpu_ratio.map(Spread::json),
            "cpu_cores": self.cpu,
            "kernel_resets": self.kernel,
            "told": self.told.map(|told| told.counted),
            "missed": self.told.map(|told| told.missed),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Cell, Counted, Row};

    fn cell(rate: f64, cpu: Option<f64>, kernel: u64, told: Option<(u64, u64)>) -> Cell {
        Cell {
            rate,
            per_cpu: rate / 2.0,
            cpu,
            kernel,
            told: told.map(|(counted, missed)| Counted { counted, missed }),
        }
    }

    #[test]
    fn rounds_become_a_row() {
        let cells = [
            cell(900.0, Some(0.5), 100, Some((90, 8))),
            cell(500.0, Some(0.25), 50, Some((50, 0))),
        ];
        let without = [1000.0, 1000.0].map(|rate| cell(rate, None, 100, None));
        let row = Row::new("rst daemon", &cells, &without);
        assert_eq!(
            row.show(),
            [
                "rst daemon",
                "700 (500-900)",
                "0.700 (0.500-0.900)",
                "0.700 (0.500-0.900)",
                "0.375",
                "140",
                "8",
                "-2"
            ]
        );
        let json = row.json();
        assert_eq!(json["kernel_resets"], 150);
        assert_eq!(json["ratio"]["min"], json!(0.5));
    }

    #[test]
    fn who_does_not_count_misses_nothing() {
        let cells = [cell(10.0, None, 7, None)];
        let row = Row::new("without", &cells, &cells);
        let same = "1.000 (1.000-1.000)";
        let expected = ["without", "10.0 (10.0-10.0)", same, same];
        assert_eq!(row.show()[..4], expected);
        assert_eq!(row.show()[4..], ["-"; 4]);
    }
}
