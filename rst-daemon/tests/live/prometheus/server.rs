//! Prometheus as a child, asked over HTTP.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::{dist, free_address};
use crate::collect::{Collected, wait_until};
use crate::lab::Folder;
use crate::process::{Process, find_program};
use crate::programs::{ends, http};

/// What the example says of the target, and where Alertmanager is.
const TARGET: &str = "- targets: [\"127.0.0.1:10004\"]";
const ALERTMANAGER: &str = "127.0.0.1:9093";

/// A running Prometheus with the rules.
pub(super) struct Prometheus {
    address: SocketAddr,
    log: Collected<String>,
    _process: Process,
}

impl Prometheus {
    /// Starts one with the example configuration, for these targets in place of its own.
    pub(super) fn start(folder: &Folder, targets: &str, alertmanager: SocketAddr) -> Self {
        let config = dist("prometheus/prometheus.yml");
        for replaced in [TARGET, ALERTMANAGER] {
            assert_eq!(
                config.matches(replaced).count(),
                1,
                "{replaced} in {config}"
            );
        }
        let config = config
            .replace(TARGET, targets)
            .replace(ALERTMANAGER, &alertmanager.to_string());
        let folder = &folder.0;
        for file in ["rst.rules.yml", "rst.fleet.rules.yml"] {
            let rules = dist(&format!("prometheus/{file}"));
            std::fs::write(folder.join(file), rules).unwrap();
        }
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let address = free_address();
        let mut command = Command::new(find_program("prometheus").expect("checked before"));
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        let (process, log) = start(command, address);
        Self {
            address,
            log,
            _process: process,
        }
    }

    /// The samples that an expression gives now.
    pub(super) fn query(&self, expression: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", encode(expression));
        self.ask(&path)
    }

    /// The value of the one sample that an expression gives; `None` where there is none.
    pub(super) fn value(&self, expression: &str) -> Option<f64> {
        let samples = self.query(expression);
        assert!(samples.len() < 2, "{expression}: {samples:?}");
        samples.first().map(|sample| number(&sample["value"]))
    }

    /// The values of each series that an expression gives, each second of the last two
    /// minutes.
    pub(super) fn history(&self, expression: &str) -> Vec<Vec<f64>> {
        let now = jiff::Timestamp::now().as_second();
        let (begin, query) = (now - 120, encode(expression));
        let path = format!("/api/v1/query_range?query={query}&start={begin}&end={now}&step=1");
        let series = self.ask(&path);
        let values = series.iter().map(|series| {
            let values = series["values"].as_array().unwrap();
            values.iter().map(number).collect()
        });
        values.collect()
    }

    fn ask(&self, path: &str) -> Vec<Value> {
        let answer = body(&http(self.address, "GET", path));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }

    /// What one of its own metrics without labels stands at, or the sum of its series.
    pub(super) fn own(&self, metric: &str) -> f64 {
        let metrics = http(self.address, "GET", "/metrics");
        let values = metrics.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let name = series.split('{').next()?;
            (name == metric).then(|| value.parse::<f64>().expect("a number"))
        });
        values.reduce(|sum, value| sum + value).expect("it has it")
    }

    /// What it has complained of.
    pub(super) fn log(&self) -> String {
        self.log.with(|lines| lines.join("\n"))
    }
}

/// Starts Prometheus or Alertmanager, and waits until it is ready.
pub(super) fn start(command: Command, address: SocketAddr) -> (Process, Collected<String>) {
    let name = Path::new(command.get_program()).display().to_string();
    let mut process = Process::start(command);
    let log = Collected::start(process.stderr(), |line| line);
    wait_until("it is ready", || {
        if let Some(status) = process.ends_within(std::time::Duration::ZERO) {
            panic!("{name}: {status}: {}", log.with(|lines| lines.join("\n")));
        }
        // A connect would be refused before it listens.
        !ends(address.port()).is_empty()
            && http(address, "GET", "/-/ready").starts_with("HTTP/1.0 200 ")
    });
    (process, log)
}

/// The object behind the head of an answer.
pub(super) fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A sample: its time, and its value as a string.
fn number(sample: &Value) -> f64 {
    sample[1].as_str().unwrap().parse().unwrap()
}

/// An expression as a part of an address.
fn encode(text: &str) -> String {
    let bytes = text.bytes().map(|byte| {
        if byte.is_ascii_alphanumeric() {
            char::from(byte).to_string()
        } else {
            format!("%{byte:02X}")
        }
    });
    bytes.collect()
}
