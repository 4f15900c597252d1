//! What each program costs per run, beside an empty one on the same tracepoint in the same run.
//!
//! The kernel's statistics are on meanwhile. Reading the clock for them is most of what an empty
//! program costs, so the difference is what counts.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    Bench,
    daemon::Daemon,
    loads::{Generator, Load},
    namespace::Namespace,
    programs::{self, EmptyPrograms, Program, Programs, Statistics, TRACEPOINTS},
    report::{self, Finding, NOTHING, Spread, Table, float},
    rounds,
};

/// Runs below which a mean says nothing.
const FEW: u64 = 1000;

/// What one round says of one program.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Sample {
    /// Nanoseconds per run.
    rst: f64,
    empty: f64,
    /// Runs per reset or connection.
    runs: f64,
}

/// Measures the programs under each load.
pub(super) fn measure(bench: &Bench, loads: &[Load]) -> Result<Finding> {
    let title = "nanoseconds per run of each program, less those of an empty one";
    eprintln!("{title}");
    let daemon = Daemon::start(&bench.binary)?;
    let empty = EmptyPrograms::attach(&TRACEPOINTS)?;
    let statistics = Statistics::switch_on()?;
    let samples = rounds::run(bench.rounds, loads.len(), |subject| {
        round(bench, &daemon, loads[subject])
    })?;
    drop(statistics);
    drop(empty);
    daemon.stop()?;

    let mut rows = Vec::new();
    let mut programs = Vec::new();
    for (load, rounds) in loads.iter().zip(&samples) {
        for (number, tracepoint) in TRACEPOINTS.iter().enumerate() {
            let rounds: Option<Vec<&Sample>> =
                rounds.iter().map(|round| round[number].as_ref()).collect();
            if let Some(rounds) = rounds {
                rows.push(show(label(*load), tracepoint, &rounds));
                programs.push(json(label(*load), tracepoint, &rounds));
            }
        }
    }
    let table = Table {
        title: title.to_owned(),
        head: vec![
            "load",
            "program",
            "runs per event",
            "rst",
            "empty",
            "net, median (min-max)",
        ],
        rows,
        notes: vec![],
    };
    Ok(Finding {
        table,
        json: programs.into(),
    })
}

fn label(load: Load) -> &'static str {
    match load {
        Load::Storm { .. } => "storm",
        Load::Unread => "unread",
        Load::Short => "short",
        Load::Bulk => "bulk",
    }
}

/// One sample for each tracepoint, where the load reaches it.
fn round(bench: &Bench, daemon: &Daemon, load: Load) -> Result<Vec<Option<Sample>>> {
    let namespace = Namespace::new()?;
    let generator = Generator::new(load, &namespace)?;
    let rst_before = programs::of_process(daemon.pid())?;
    let empty_before = programs::own()?;
    let work = generator.run(bench.time)?;
    let rst = programs::of_process(daemon.pid())?;
    let empty = programs::own()?;
    let sample = |tracepoint: &&str| {
        let rst = grown(&rst_before, &rst, tracepoint)
            .with_context(|| format!("rst has no program on {tracepoint}"))?;
        let empty = grown(&empty_before, &empty, tracepoint)
            .with_context(|| format!("there is no empty program on {tracepoint}"))?;
        Ok(sample(rst, empty, work.amount))
    };
    TRACEPOINTS.iter().map(sample).collect()
}

/// What a program did in between; `None` where there is none.
fn grown(before: &Programs, after: &Programs, tracepoint: &str) -> Option<Program> {
    let before = before.get(tracepoint)?;
    let after = after.get(tracepoint)?;
    Some(Program {
        runs: after.runs - before.runs,
        nanos: after.nanos - before.nanos,
        missed: after.missed - before.missed,
    })
}

fn sample(rst: Program, empty: Program, events: u64) -> Option<Sample> {
    let mean = |program: Program| float(program.nanos) / float(program.runs);
    (rst.runs >= FEW && empty.runs >= FEW).then(|| Sample {
        rst: mean(rst),
        empty: mean(empty),
        runs: float(rst.runs) / float(events),
    })
}

fn spread(rounds: &[&Sample], of: impl Fn(&Sample) -> f64) -> Option<Spread> {
    Spread::of(rounds.iter().map(|sample| of(sample)))
}

fn show(load: &str, tracepoint: &str, rounds: &[&Sample]) -> Vec<String> {
    let median = |of: fn(&Sample) -> f64| {
        let spread = spread(rounds, of);
        spread.map_or(f64::NAN, |spread| spread.median)
    };
    let net = spread(rounds, |sample| sample.rst - sample.empty);
    vec![
        load.to_owned(),
        tracepoint.to_owned(),
        format!("{:.2}", median(|sample| sample.runs)),
        report::whole(median(|sample| sample.rst)),
        report::whole(median(|sample| sample.empty)),
        net.map_or_else(|| NOTHING.to_owned(), |net| net.show(report::whole)),
    ]
}

fn json(load: &str, tracepoint: &str, rounds: &[&Sample]) -> Value {
    let json = |of: fn(&Sample) -> f64| spread(rounds, of).map(Spread::json);
    json!({
        "load": load,
        "program": tracepoint,
        "runs_per_event": json(|sample| sample.runs),
        "rst_ns": json(|sample| sample.rst),
        "empty_ns": json(|sample| sample.empty),
        "net_ns": json(|sample| sample.rst - sample.empty),
    })
}

#[cfg(test)]
mod tests {
    use super::{Program, Sample, sample, show};

    fn program(runs: u64, nanos: u64) -> Program {
        Program {
            runs,
            nanos,
            missed: 0,
        }
    }

    #[test]
    fn a_few_runs_say_nothing() {
        assert!(sample(program(999, 1), program(5000, 1), 1000).is_none());
        assert!(sample(program(5000, 1), program(0, 0), 1000).is_none());
        let found = sample(program(5000, 1_000_000), program(4000, 200_000), 1000);
        let expected = Sample {
            rst: 200.0,
            empty: 50.0,
            runs: 5.0,
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn the_net_cost_is_taken_round_by_round() {
        let samples = [(200.0, 50.0), (300.0, 100.0), (160.0, 60.0)];
        let samples = samples.map(|(rst, empty)| Sample {
            rst,
            empty,
            runs: 2.0,
        });
        let rounds: Vec<_> = samples.iter().collect();
        assert_eq!(
            show("storm", "tcp_send_reset", &rounds),
            [
                "storm",
                "tcp_send_reset",
                "2.00",
                "200",
                "60",
                "150 (100-200)"
            ]
        );
    }
}
