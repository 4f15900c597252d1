//! The storm from one CPU and from all, and with ever more keys in the kernel's count map.

use anyhow::Result;
use serde_json::{Value, json};

use super::{
    Bench,
    columns::Column,
    loads::{self, Load, Ports},
    report::{self, Finding, NOTHING, Spread, Table},
    rounds, traffic,
};

/// Numbers of keys: ports that have lost their listener are counted each for itself.
const KEYS: [u16; 3] = [10, 1_000, 10_000];

/// Runs each storm without and with the daemon.
pub(super) fn measure(bench: &Bench) -> Result<Finding> {
    let title = "SYN storm by CPUs and keys: resets per second";
    eprintln!("{title}");
    let storms = storms(loads::cpus());
    let columns = [Column::Without, Column::Daemon];
    // Both columns of a storm directly one after the other.
    let cells = rounds::run(bench.rounds, storms.len() * columns.len(), |subject| {
        let (_, load) = storms[subject / columns.len()];
        traffic::cell(bench, columns[subject % columns.len()], load)
    })?;

    let mut rows = Vec::new();
    let mut json = Vec::new();
    for ((label, _), cells) in storms.iter().zip(cells.chunks_exact(columns.len())) {
        let [without, daemon] = [0, 1].map(|column| traffic::rates(&cells[column]));
        let per_cpu = [0, 1].map(|column| traffic::rates_per_cpu(&cells[column]));
        let spreads = [
            Spread::of(without.iter().copied()),
            Spread::of(daemon.iter().copied()),
            Spread::of(report::ratios(&daemon, &without)),
            Spread::of(report::ratios(&per_cpu[1], &per_cpu[0])),
        ];
        rows.push(show(label, spreads));
        json.push(self::json(label, spreads));
    }
    let table = Table {
        title: title.to_owned(),
        head: vec![
            "storm",
            "without",
            "rst daemon",
            "ratio, median (min-max)",
            "per CPU s, ratio",
        ],
        rows,
        notes: vec![],
    };
    Ok(Finding {
        table,
        json: json.into(),
    })
}

fn storms(cpus: usize) -> Vec<(String, Load)> {
    let mut numbers = vec![1, cpus];
    numbers.dedup();
    let by_cpus = numbers.into_iter().map(|senders| {
        let ports = Ports::Never;
        (
            format!("{senders} CPU, no port of its own"),
            Load::Storm { senders, ports },
        )
    });
    let by_keys = KEYS.into_iter().map(|count| {
        let ports = Ports::Lost(count);
        (
            format!("{cpus} CPU, {count} ports"),
            Load::Storm {
                senders: cpus,
                ports,
            },
        )
    });
    by_cpus.chain(by_keys).collect()
}

fn show(label: &str, [without, daemon, ratio, per_cpu]: [Option<Spread>; 4]) -> Vec<String> {
    let or_nothing = |text: Option<String>| text.unwrap_or_else(|| NOTHING.to_owned());
    vec![
        label.to_owned(),
        or_nothing(without.map(|spread| spread.show(report::short))),
        or_nothing(daemon.map(|spread| spread.show(report::short))),
        or_nothing(ratio.map(|spread| spread.show(report::ratio))),
        or_nothing(per_cpu.map(|spread| spread.show(report::ratio))),
    ]
}

fn json(label: &str, [without, daemon, ratio, per_cpu]: [Option<Spread>; 4]) -> Value {
    json!({
        "storm": label,
        "without_per_second": without.map(Spread::json),
        "daemon_per_second": daemon.map(Spread::json),
        "ratio": ratio.map(Spread::json),
        "per_cpu_second_ratio": per_cpu.map(Spread::json),
    })
}

#[cfg(test)]
mod tests {
    use super::storms;

    #[test]
    fn one_cpu_is_not_measured_twice() {
        let labels = |cpus| storms(cpus).into_iter().map(|(label, _)| label);
        assert_eq!(labels(1).count(), 4);
        assert_eq!(
            labels(2).collect::<Vec<_>>()[..3],
            [
                "1 CPU, no port of its own",
                "2 CPU, no port of its own",
                "2 CPU, 10 ports"
            ]
        );
    }
}
