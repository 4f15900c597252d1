//! The daemon's settings: defaults, then the file, then the flags.
//!
//! The file is walked by hand rather than through serde, which stops at the
//! first fault: whoever fixes a file wants all of them at once, each with its
//! line.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::governor::Limits;
use crate::serve::{Gate, GateError};
use crate::spike::Parameters;
use crate::store::database::Bounds;

mod values;

#[cfg(test)]
mod tests;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/rst/rst.toml";

/// The UNIX socket when none is named.
pub const DEFAULT_SOCKET: &str = "/run/rst/rst.sock";

/// The directory of the store when none is named.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/rst";

/// The commented reference file; it holds the defaults.
pub const EXAMPLE: &str = include_str!("../dist/rst.toml");

/// PostgreSQL, MySQL, Redis, MongoDB, Cassandra, Kafka, AMQP, etcd, gRPC's usual
/// one: protocols that pipeline, push, or speak in both directions at once.
/// HTTPS may carry HTTP/2.
const MULTIPLEXED_PORTS: [u16; 11] = [
    443, 2379, 2380, 3306, 5432, 5672, 6379, 9042, 9092, 27017, 50051,
];

/// The daemon's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where `/metrics` and the health checks are served.
    pub listen: SocketAddr,
    /// The web configuration file of the listener: TLS and passwords.
    pub web_config: Option<PathBuf>,
    /// Whether the listener serves the event stream too.
    pub tcp_details: bool,
    /// Where the event stream is served.
    pub socket: PathBuf,
    /// Events described in detail, at most, per second; 0 = counts only.
    pub details_per_second: u32,
    /// Size of the ring buffer, bytes.
    pub ring_bytes: u32,
    /// Entries of the kernel's count map.
    pub max_series: u32,
    /// Ports told apart in the metrics.
    pub max_ports: u32,
    /// Workloads told apart in the metrics.
    pub max_workloads: u32,
    /// Silence after which a connection counts as idle, milliseconds.
    pub idle_ms: u32,
    /// Service ports that carry many requests at once.
    pub multiplexed_ports: Vec<u16>,
    /// Sockets remembered while they live; rounded up to a power of two.
    pub tracked_sockets: u32,
    /// CPU time that rst may take, percent of one CPU.
    pub max_cpu_percent: u32,
    /// Resident memory that the daemon may take, megabytes.
    pub max_memory_mb: u32,
    /// Connections remembered for two minutes after their end, in eights.
    pub closed_connections: u32,
    /// Fewest resets that can be an incident.
    pub incident_min_resets: u32,
    /// Time after the start, and after a service is first seen, without incidents,
    /// seconds.
    pub incident_warmup_seconds: u32,
    /// Time without a spike after which an incident is over, seconds.
    pub incident_close_seconds: u32,
    /// Directory of the store.
    pub data_dir: PathBuf,
    /// Directory in a BPF file system that keeps the counts over a restart.
    pub pin_dir: Option<PathBuf>,
    /// Disk that the store may take, megabytes; 0 = no store.
    pub store_max_mb: u32,
    /// How long a reset is stored.
    pub store_max_age: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 10004)),
            web_config: None,
            tcp_details: false,
            socket: DEFAULT_SOCKET.into(),
            details_per_second: 2000,
            ring_bytes: 1 << 20,
            max_series: 4096,
            max_ports: 1000,
            max_workloads: 1000,
            idle_ms: 1000,
            multiplexed_ports: MULTIPLEXED_PORTS.to_vec(),
            tracked_sockets: 1 << 16,
            max_cpu_percent: 25,
            max_memory_mb: 64,
            closed_connections: 4000,
            incident_min_resets: 10,
            incident_warmup_seconds: 300,
            incident_close_seconds: 120,
            data_dir: DEFAULT_DATA_DIR.into(),
            pin_dir: None,
            store_max_mb: 1024,
            store_max_age: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// Settings that attached probes and their reader take over as they run; see [`Config`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Events described in detail, at most, per second.
    pub details_per_second: u32,
    /// Silence after which a connection counts as idle, milliseconds.
    pub idle_ms: u32,
    /// Service ports that carry many requests at once.
    pub multiplexed_ports: Vec<u16>,
}

/// Settings given as flags; they win over the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Overrides {
    /// Where to serve /metrics and the health checks [default: 127.0.0.1:10004]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Web configuration file of Prometheus' exporters: TLS and passwords for --listen
    #[arg(long, value_name = "FILE")]
    pub web_config: Option<PathBuf>,
    /// UNIX socket for `rst watch` [default: /run/rst/rst.sock]
    #[arg(long, value_name = "PATH", value_parser = values::socket_flag)]
    pub socket: Option<PathBuf>,
    /// Resets described one by one, at most, per second; 0 = counts only [default: 2000]
    #[arg(long, value_name = "N")]
    pub details_per_second: Option<u32>,
    /// Directory of the store that `rst history` reads [default: /var/lib/rst]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory in a BPF file system, such as /sys/fs/bpf/rst, that keeps the counts over a
    /// restart [default: none]
    #[arg(long, value_name = "DIR")]
    pub pin_dir: Option<PathBuf>,
}

/// Why there are no settings.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file can't be read.
    #[error(
        "can't read the configuration file {}: {source}; see that it exists and may be read",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file was read and is wrong.
    #[error("{}", list(path, problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Everything wrong with it, in the order of the lines.
        problems: Vec<Problem>,
    },
}

/// One fault of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line in the file, from 1.
    pub line: usize,
    /// What is wrong and what to do.
    pub message: String,
}

fn list(path: &Path, problems: &[Problem]) -> String {
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}:{}: {}", path.display(), problem.line, problem.message))
        .collect();
    lines.join("\n")
}

impl Config {
    /// Reads a file; without one named, [`DEFAULT_PATH`] where it exists.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_or_default(path, Path::new(DEFAULT_PATH))
    }

    fn load_or_default(named: Option<&Path>, fallback: &Path) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(fallback);
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, path),
            Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {
                Ok(Self::default())
            }
            Err(source) => Err(ConfigError::Read {
                path: path.into(),
                source,
            }),
        }
    }

    /// Reads the text of a file; the path only serves the messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut problems: Vec<Problem> = syntax
            .iter()
            .map(|error| Problem {
                line: line_of(text, error.span().map_or(0, |span| span.start)),
                message: one_line(error.message()),
            })
            .collect();
        // What the parser made of a broken line is nothing to complain about.
        let broken: Vec<usize> = problems.iter().map(|problem| problem.line).collect();

        let mut config = Self::default();
        for (key, value) in document.get_ref() {
            if let Err((span, message)) = config.set(key, value) {
                let line = line_of(text, span.start);
                if !broken.contains(&line) {
                    problems.push(Problem { line, message });
                }
            }
        }
        if problems.is_empty() {
            return Ok(config);
        }
        problems.sort_by_key(|problem| problem.line);
        Err(ConfigError::Invalid {
            path: path.into(),
            problems,
        })
    }

    /// Takes one key of the file over, or says where and what is wrong.
    fn set(
        &mut self,
        key: &Spanned<impl AsRef<str>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), (Range<usize>, String)> {
        let name = key.get_ref().as_ref();
        let content = value.get_ref();
        let result = match name {
            "listen" => values::address(content).map(|listen| self.listen = listen),
            "web_config" => values::optional_path(content, "/etc/rst/web.yml")
                .map(|file| self.web_config = file),
            "tcp_details" => content
                .as_bool()
                .map(|details| self.tcp_details = details)
                .ok_or_else(|| "is neither true nor false".to_owned()),
            "socket" => values::socket(content).map(|socket| self.socket = socket),
            "details_per_second" => {
                values::integer(content, 0..=u32::MAX).map(|limit| self.details_per_second = limit)
            }
            "ring_bytes" => values::ring_bytes(content).map(|bytes| self.ring_bytes = bytes),
            "max_series" => {
                values::integer(content, values::MAX_SERIES).map(|series| self.max_series = series)
            }
            "max_ports" => {
                values::integer(content, values::MAX_LABELS).map(|ports| self.max_ports = ports)
            }
            "max_workloads" => values::integer(content, values::MAX_LABELS)
                .map(|workloads| self.max_workloads = workloads),
            "idle_ms" => {
                values::integer(content, values::IDLE_MS).map(|silence| self.idle_ms = silence)
            }
            "multiplexed_ports" => {
                values::ports(content).map(|ports| self.multiplexed_ports = ports)
            }
            "tracked_sockets" => values::integer(content, values::REMEMBERED)
                .map(|sockets| self.tracked_sockets = sockets),
            "max_cpu_percent" => values::integer(content, values::MAX_CPU)
                .map(|percent| self.max_cpu_percent = percent),
            "max_memory_mb" => {
                values::integer(content, values::MAX_MEMORY).map(|size| self.max_memory_mb = size)
            }
            "closed_connections" => values::integer(content, values::REMEMBERED)
                .map(|connections| self.closed_connections = connections),
            "incident_min_resets" => values::integer(content, values::INCIDENT_RESETS)
                .map(|resets| self.incident_min_resets = resets),
            "incident_warmup_seconds" => values::integer(content, values::INCIDENT_SECONDS)
                .map(|seconds| self.incident_warmup_seconds = seconds),
            "incident_close_seconds" => values::integer(content, values::INCIDENT_SECONDS)
                .map(|seconds| self.incident_close_seconds = seconds),
            "data_dir" => values::data_dir(content).map(|dir| self.data_dir = dir),
            "pin_dir" => {
                values::optional_path(content, "/sys/fs/bpf/rst").map(|dir| self.pin_dir = dir)
            }
            "store_max_mb" => values::store_mb(content).map(|size| self.store_max_mb = size),
            "store_max_age" => values::store_age(content).map(|age| self.store_max_age = age),
            _ => {
                let message = format!(
                    "unknown key `{}`; remove it, or see `rst config example` for the keys there are",
                    name.escape_debug()
                );
                return Err((key.span(), message));
            }
        };
        result.map_err(|message| (value.span(), format!("`{name}` {message}")))
    }

    /// What makes an incident.
    #[must_use]
    pub fn spikes(&self) -> Parameters {
        Parameters {
            min_resets: self.incident_min_resets,
            warmup: Duration::from_secs(self.incident_warmup_seconds.into()),
            calm: Duration::from_secs(self.incident_close_seconds.into()),
            ..Parameters::default()
        }
    }

    /// What the probes and their reader go by.
    #[must_use]
    pub fn tuning(&self) -> Tuning {
        Tuning {
            details_per_second: self.details_per_second,
            idle_ms: self.idle_ms,
            multiplexed_ports: self.multiplexed_ports.clone(),
        }
    }

    /// What rst may cost.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            cpu: f64::from(self.max_cpu_percent) / 100.0,
            memory: u64::from(self.max_memory_mb) << 20,
        }
    }

    /// What clients of the listener go through first.
    pub fn gate(&self) -> Result<Option<Arc<Gate>>, GateError> {
        match &self.web_config {
            Some(file) => Ok(Some(Arc::new(Gate::open(file, self.tcp_details)?))),
            None if self.tcp_details => Err(GateError::Missing),
            None => Ok(None),
        }
    }

    /// How much is stored, for how long.
    #[must_use]
    pub fn bounds(&self) -> Bounds {
        Bounds {
            bytes: u64::from(self.store_max_mb) << 20,
            age: self.store_max_age,
        }
    }

    /// These settings with the flags applied.
    #[must_use]
    pub fn with(mut self, overrides: Overrides) -> Self {
        let Overrides {
            listen,
            web_config,
            socket,
            details_per_second,
            data_dir,
            pin_dir,
        } = overrides;
        if let Some(listen) = listen {
            self.listen = listen;
        }
        if web_config.is_some() {
            self.web_config = web_config;
        }
        if let Some(socket) = socket {
            self.socket = socket;
        }
        if let Some(limit) = details_per_second {
            self.details_per_second = limit;
        }
        if let Some(dir) = data_dir {
            self.data_dir = dir;
        }
        if pin_dir.is_some() {
            self.pin_dir = pin_dir;
        }
        self
    }
}

/// toml breaks some of its messages over lines; ours are one line per problem.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}
