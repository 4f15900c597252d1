//! Memory of one daemon as it meets more and more, and what a scrape of it costs then.

use std::time::Instant;

use anyhow::Result;
use serde_json::json;

use super::{
    Bench, cpu,
    daemon::Daemon,
    interrupt,
    loads::{self, Generator, Load, Ports},
    namespace::Namespace,
    report::{self, Finding, NOTHING, Spread, Table, float},
};

/// Scrapes timed at each stage.
const SCRAPES: usize = 20;

/// More ports than the count map holds by default: a scrape shows all it can.
const PORTS: u16 = 10_000;

/// Runs one daemon through the stages.
pub(super) fn measure(bench: &Bench, storm: Load) -> Result<Finding> {
    let title = "memory of the daemon, and its scrapes over the UNIX socket";
    eprintln!("{title}");
    let many_ports = Load::Storm {
        senders: loads::cpus(),
        ports: Ports::Lost(PORTS),
    };
    let stages = [
        ("idle", None),
        ("after a storm", Some(storm)),
        ("after short connections", Some(Load::Short)),
        ("after a storm to 10,000 ports", Some(many_ports)),
    ];
    let daemon = Daemon::start(&bench.binary)?;
    let mut rows = Vec::new();
    let mut json = Vec::new();
    for (label, load) in stages {
        interrupt::check()?;
        if let Some(load) = load {
            let namespace = Namespace::new()?;
            Generator::new(load, &namespace)?.run(bench.time)?;
        }
        let resident = cpu::resident(daemon.pid())?;
        let mut bytes = 0;
        let mut entries = 0;
        let mut times = Vec::with_capacity(SCRAPES);
        for _ in 0..SCRAPES {
            let start = Instant::now();
            let scrape = daemon.scrape()?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
            bytes = scrape.0.len();
            entries = scrape.sum("rst_map_entries", r#"map="resets""#)?;
        }
        let scraped = cpu::resident(daemon.pid())?;
        let time = Spread::of(times);
        rows.push(vec![
            label.to_owned(),
            mebibytes(resident),
            mebibytes(scraped),
            entries.to_string(),
            bytes.to_string(),
            time.map_or_else(
                || NOTHING.to_owned(),
                |time| time.show(|ms| format!("{ms:.2}")),
            ),
        ]);
        json.push(json!({
            "stage": label,
            "resident_bytes": resident,
            "resident_after_scrapes_bytes": scraped,
            "map_entries": entries,
            "scrape_bytes": bytes,
            "scrape_ms": time.map(Spread::json),
        }));
    }
    daemon.stop()?;
    let table = Table {
        title: title.to_owned(),
        head: vec![
            "stage",
            "RSS, MiB",
            "after scrapes",
            "keys",
            "scrape, bytes",
            "scrape, ms, median (min-max)",
        ],
        rows,
        notes: vec![],
    };
    Ok(Finding {
        table,
        json: json.into(),
    })
}

fn mebibytes(bytes: u64) -> String {
    report::short(float(bytes) / float(1 << 20))
}
