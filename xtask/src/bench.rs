//! `cargo xtask bench`: what rst costs, beside nobody, an empty program and what people use
//! otherwise, all in one run.
//!
//! Each round runs every observer once, in an order that moves on by one from round to round, so
//! that a machine that is slower for a while is so for all. Ratios are taken within a round.

mod columns;
mod cost;
mod cpu;
mod daemon;
mod loads;
mod memory;
mod namespace;
mod programs;
mod report;
mod rounds;
mod scaling;
mod storm;
mod traffic;
mod userspace;

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};

use self::{
    columns::Available,
    loads::{Load, Ports},
    report::Finding,
};
use crate::{interrupt, packages, process, run, setup, target_dir};

/// What to measure, and for how long.
#[derive(Args)]
pub(crate) struct Options {
    /// Parts to run; all where none is named
    #[arg(value_enum, value_name = "NAME")]
    parts: Vec<Part>,
    /// Rounds; each runs every observer once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of traffic in each measurement
    #[arg(long, default_value_t = 1.5, value_parser = seconds)]
    seconds: f64,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("write 0.1 to 3600".to_owned())
    }
}

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// SYNs to a closed port: resets per second
    Storm,
    /// Connections closed with a byte unread: resets of full sockets
    Unread,
    /// Short connections without resets
    Short,
    /// Bulk transfer
    Bulk,
    /// Nanoseconds of each program per run
    Cost,
    /// The storm from one and more CPUs, and with many keys
    Scaling,
    /// Memory of the daemon, and its scrapes
    Memory,
    /// The daemon's own work, on one core
    Userspace,
}

/// What all parts need.
struct Bench {
    /// The release binary.
    binary: PathBuf,
    rounds: usize,
    /// Traffic of one measurement.
    time: Duration,
    /// Who can observe here.
    observers: Available,
}

/// Builds, measures, prints the tables, writes `bench.json`.
pub(crate) fn run(options: &Options) -> Result<()> {
    run::build()?;
    setup::ensure_bench_tools()?;
    ensure!(packages::is_root(), "only root can attach programs");
    interrupt::install()?;

    let parts = if options.parts.is_empty() {
        Part::value_variants()
    } else {
        &options.parts
    };
    let binary = target_dir().join("release/rst");
    let observers = if parts.iter().any(|part| part.compares()) {
        columns::available(&binary)?
    } else {
        Available::default()
    };
    let bench = Bench {
        binary,
        rounds: usize::try_from(options.rounds)?,
        time: Duration::from_secs_f64(options.seconds),
        observers,
    };
    let load_before = load_average()?;
    let mut found = Map::new();
    for part in parts {
        let Finding { table, json } = part.measure(&bench)?;
        println!("{table}");
        found.insert(part.name(), json);
    }

    let machine = json!({
        "kernel": read("/proc/sys/kernel/osrelease")?,
        "cpus": loads::cpus(),
        "load_average_before": load_before,
        "load_average_after": load_average()?,
    });
    let result = json!({
        "machine": machine,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "parts": found,
    });
    let path = target_dir().join("bench.json");
    fs::write(&path, format!("{result:#}\n"))
        .with_context(|| format!("cannot write {}", path.display()))?;
    println!("{machine}\nall numbers: {}", path.display());
    Ok(())
}

impl Part {
    fn name(self) -> String {
        let name = self.to_possible_value();
        name.map_or_else(String::new, |name| name.get_name().to_owned())
    }

    /// Whether it runs all observers.
    fn compares(self) -> bool {
        matches!(self, Self::Storm | Self::Unread | Self::Short | Self::Bulk)
    }

    fn measure(self, bench: &Bench) -> Result<Finding> {
        let compare = |load, title| traffic::measure(bench, load, title);
        match self {
            Self::Storm => compare(storm(), "SYNs to a closed port: resets per second"),
            Self::Unread => {
                let title = "connections reset with a byte unread, per second";
                compare(Load::Unread, title)
            }
            Self::Short => compare(Load::Short, "short connections without resets, per second"),
            Self::Bulk => compare(Load::Bulk, "bulk transfer without resets, bytes per second"),
            Self::Cost => cost::measure(bench, &[storm(), Load::Unread, Load::Short]),
            Self::Scaling => scaling::measure(bench),
            Self::Memory => memory::measure(bench, storm()),
            Self::Userspace => userspace::measure(),
        }
    }
}

/// SYNs from all CPUs to a port that never had a listener.
fn storm() -> Load {
    Load::Storm {
        senders: loads::cpus(),
        ports: Ports::Never,
    }
}

fn load_average() -> Result<Value> {
    let text = read("/proc/loadavg")?;
    let average = text.split_whitespace().next().unwrap_or_default();
    Ok(average.parse::<f64>()?.into())
}

fn read(path: &str) -> Result<String> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn a_measurement_has_some_length() {
        assert_eq!(seconds("0.5"), Ok(0.5));
        for wrong in ["0", "-1", "NaN", "inf", "x"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
