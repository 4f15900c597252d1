//! The daemon's settings: defaults, then the file, then the flags.
//!
//! The file is walked by hand rather than through serde, which stops at the
//! first fault: whoever fixes a file wants all of them at once, each with its
//! line.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Range, RangeInclusive};
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
use crate::when;

/// The file that is read when none is named.
pub const DEFAULT_PATH: &str = "/etc/rst/rst.toml";

/// The UNIX socket when none is named.
pub const DEFAULT_SOCKET: &str = "/run/rst/rst.sock";

/// The directory of the store when none is named.
pub const DEFAULT_DATA_DIR: &str = "/var/lib/rst";

/// The commented reference file; it holds the defaults.
pub const EXAMPLE: &str = include_str!("../dist/rst.toml");

/// Longest path of a UNIX socket: `sun_path` less its terminating zero.
const MAX_SOCKET_PATH: usize = 107;

/// Smallest and largest ring buffer.
const RING_BYTES: RangeInclusive<u32> = 4096..=1 << 30;

/// Smallest and largest count table.
const MAX_SERIES: RangeInclusive<u32> = 64..=1_000_000;

/// Fewest and most ports, or workloads, told apart.
const MAX_LABELS: RangeInclusive<u32> = 1..=65_534;

/// Shortest and longest silence that can count as idle: below a jiffy nothing
/// can be told, above a day nothing is idle.
const IDLE_MS: RangeInclusive<u32> = 10..=86_400_000;

/// Least and most of one CPU, percent: 100 is all of it.
const MAX_CPU: RangeInclusive<u32> = 1..=100;

/// Least and most memory, megabytes.
const MAX_MEMORY: RangeInclusive<u32> = 16..=65_536;

/// Fewest and most sockets, or closed connections, remembered.
const REMEMBERED: RangeInclusive<u32> = 64..=1 << 26;

/// Fewest and most resets that an incident has at least.
const INCIDENT_RESETS: RangeInclusive<u32> = 1..=1_000_000;

/// Shortest and longest time before incidents, and after one.
const INCIDENT_SECONDS: RangeInclusive<u32> = 2..=86_400;
/// Smallest and largest store, megabytes; 0 is none.
const STORE_MB: RangeInclusive<u32> = 16..=1 << 20;

/// Shortest time that resets are kept.
const SHORTEST_STORE: Duration = Duration::from_secs(60);

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
    #[arg(long, value_name = "PATH", value_parser = socket_flag)]
    pub socket: Option<PathBuf>,
    /// Resets described one by one, at most, per second; 0 = counts only [default: 2000]
    #[arg(long, value_name = "N")]
    pub details_per_second: Option<u32>,
    /// Directory of the store that `rst history` reads [default: /var/lib/rst]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
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
            "listen" => address(content).map(|listen| self.listen = listen),
            "web_config" => web_config(content).map(|file| self.web_config = file),
            "tcp_details" => content
                .as_bool()
                .map(|details| self.tcp_details = details)
                .ok_or_else(|| "is neither true nor false".to_owned()),
            "socket" => socket(content).map(|socket| self.socket = socket),
            "details_per_second" => {
                integer(content, 0..=u32::MAX).map(|limit| self.details_per_second = limit)
            }
            "ring_bytes" => ring_bytes(content).map(|bytes| self.ring_bytes = bytes),
            "max_series" => integer(content, MAX_SERIES).map(|series| self.max_series = series),
            "max_ports" => integer(content, MAX_LABELS).map(|ports| self.max_ports = ports),
            "max_workloads" => {
                integer(content, MAX_LABELS).map(|workloads| self.max_workloads = workloads)
            }
            "idle_ms" => integer(content, IDLE_MS).map(|silence| self.idle_ms = silence),
            "multiplexed_ports" => ports(content).map(|ports| self.multiplexed_ports = ports),
            "tracked_sockets" => {
                integer(content, REMEMBERED).map(|sockets| self.tracked_sockets = sockets)
            }
            "max_cpu_percent" => {
                integer(content, MAX_CPU).map(|percent| self.max_cpu_percent = percent)
            }
            "max_memory_mb" => integer(content, MAX_MEMORY).map(|size| self.max_memory_mb = size),
            "closed_connections" => integer(content, REMEMBERED)
                .map(|connections| self.closed_connections = connections),
            "incident_min_resets" => {
                integer(content, INCIDENT_RESETS).map(|resets| self.incident_min_resets = resets)
            }
            "incident_warmup_seconds" => integer(content, INCIDENT_SECONDS)
                .map(|seconds| self.incident_warmup_seconds = seconds),
            "incident_close_seconds" => integer(content, INCIDENT_SECONDS)
                .map(|seconds| self.incident_close_seconds = seconds),
            "data_dir" => data_dir(content).map(|dir| self.data_dir = dir),
            "store_max_mb" => store_mb(content).map(|size| self.store_max_mb = size),
            "store_max_age" => store_age(content).map(|age| self.store_max_age = age),
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
        self
    }
}

fn address(value: &DeValue<'_>) -> Result<SocketAddr, String> {
    let text = string(value)?;
    text.parse().map_err(|_| {
        format!("is {text:?}; write an IP address and a port, such as \"127.0.0.1:10004\" or \"[::1]:10004\"")
    })
}

fn socket(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as {DEFAULT_SOCKET:?}"
        ));
    }
    socket_flag(text).map_err(|problem| format!("is {problem}"))
}

/// None where it is empty.
fn web_config(value: &DeValue<'_>) -> Result<Option<PathBuf>, String> {
    let text = string(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as \"/etc/rst/web.yml\", or \"\" for none"
        ));
    }
    Ok(Some(text.into()))
}

fn data_dir(value: &DeValue<'_>) -> Result<PathBuf, String> {
    let text = string(value)?;
    if !text.starts_with('/') || text.contains('\0') {
        return Err(format!(
            "is {text:?}; write an absolute path, such as {DEFAULT_DATA_DIR:?}"
        ));
    }
    Ok(text.into())
}

fn store_mb(value: &DeValue<'_>) -> Result<u32, String> {
    let size = integer(value, 0..=*STORE_MB.end())?;
    if size != 0 && !STORE_MB.contains(&size) {
        return Err(format!(
            "is {size}; write 0 for no store, or a number from {} to {}",
            STORE_MB.start(),
            STORE_MB.end()
        ));
    }
    Ok(size)
}

fn store_age(value: &DeValue<'_>) -> Result<Duration, String> {
    let text = string(value)?;
    when::duration(text)
        .ok()
        .filter(|age| *age >= SHORTEST_STORE)
        .ok_or_else(|| {
            format!(
                "is {text:?}; write a duration of a minute at least, such as \"12h\" or \"30d\""
            )
        })
}

/// A socket's path as a flag gives it: it may be relative.
fn socket_flag(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!(
            "a path of {} bytes; a UNIX socket's has at most {MAX_SOCKET_PATH}, choose a shorter one",
            text.len()
        ));
    }
    Ok(text.into())
}

/// Whether it is a multiple of the page size follows from the power of two on
/// all but the smallest sizes, and those the loader rounds up.
fn ring_bytes(value: &DeValue<'_>) -> Result<u32, String> {
    let bytes = integer(value, RING_BYTES)?;
    if bytes.is_power_of_two() {
        return Ok(bytes);
    }
    // The range ends at a power of two, so neither neighbour overflows.
    let above = bytes.next_power_of_two();
    Err(format!(
        "is {bytes}; write a power of two, such as {} or {above}",
        above / 2
    ))
}

fn ports(value: &DeValue<'_>) -> Result<Vec<u16>, String> {
    let list = value.as_array().ok_or_else(|| {
        format!(
            "is of type {}; write a list of ports, such as [443, 5432]",
            value.type_str()
        )
    })?;
    list.iter()
        .map(|port| {
            let port = integer(port.get_ref(), 1..=u32::from(u16::MAX))?;
            u16::try_from(port).map_err(|error| error.to_string())
        })
        .collect()
}

fn string<'a>(value: &'a DeValue<'_>) -> Result<&'a str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("is of type {}; write a string", value.type_str()))
}

fn integer(value: &DeValue<'_>, range: RangeInclusive<u32>) -> Result<u32, String> {
    let Some(digits) = value.as_integer() else {
        return Err(format!(
            "is of type {}; write a whole number",
            value.type_str()
        ));
    };
    i128::from_str_radix(digits.as_str(), digits.radix())
        .ok()
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            format!(
                "is {digits}; write a number from {} to {}",
                range.start(),
                range.end()
            )
        })
}

/// toml breaks some of its messages over lines; ours are one line per problem.
fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn line_of(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    const KEYS: [&str; 21] = [
        "listen",
        "web_config",
        "tcp_details",
        "socket",
        "details_per_second",
        "ring_bytes",
        "max_series",
        "max_ports",
        "max_workloads",
        "idle_ms",
        "multiplexed_ports",
        "tracked_sockets",
        "closed_connections",
        "max_cpu_percent",
        "max_memory_mb",
        "incident_min_resets",
        "incident_warmup_seconds",
        "incident_close_seconds",
        "data_dir",
        "store_max_mb",
        "store_max_age",
    ];

    fn parse(text: &str) -> Result<Config, String> {
        Config::parse(text, Path::new("rst.toml")).map_err(|error| error.to_string())
    }

    #[test]
    fn the_example_holds_every_key_at_its_default() {
        assert_eq!(parse(EXAMPLE), Ok(Config::default()));
        let document = DeTable::parse(EXAMPLE).unwrap();
        assert_eq!(document.get_ref().len(), KEYS.len());
        for key in KEYS {
            assert!(document.get_ref().contains_key(key), "{key} is missing");
        }
    }

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(parse(""), Ok(Config::default()));
        assert_eq!(parse("# nothing\n"), Ok(Config::default()));
    }

    #[test]
    fn every_key_is_taken_over() {
        let text = "listen = '[::1]:9'\nweb_config = '/w'\ntcp_details = true\n\
                    socket = '/s'\ndetails_per_second = 0\n\
                    ring_bytes = 0x1000\nmax_series = 1_000_000\nmax_ports = 1\n\
                    max_workloads = 2\nidle_ms = 10\n\
                    multiplexed_ports = [1, 65535]\ntracked_sockets = 100\n\
                    closed_connections = 64\nmax_cpu_percent = 3\nmax_memory_mb = 100\n\
                    incident_min_resets = 1\nincident_warmup_seconds = 2\n\
                    incident_close_seconds = 86400\n\
                    data_dir = '/d'\nstore_max_mb = 16\nstore_max_age = '1m'\n";
        let expected = Config {
            listen: "[::1]:9".parse().unwrap(),
            web_config: Some("/w".into()),
            tcp_details: true,
            socket: "/s".into(),
            details_per_second: 0,
            ring_bytes: 4096,
            max_series: 1_000_000,
            max_ports: 1,
            max_workloads: 2,
            idle_ms: 10,
            multiplexed_ports: vec![1, 65535],
            tracked_sockets: 100,
            closed_connections: 64,
            max_cpu_percent: 3,
            max_memory_mb: 100,
            incident_min_resets: 1,
            incident_warmup_seconds: 2,
            incident_close_seconds: 86_400,
            data_dir: "/d".into(),
            store_max_mb: 16,
            store_max_age: Duration::from_secs(60),
        };
        assert_eq!(parse(text), Ok(expected));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        assert_eq!(
            parse("\nlisten_on = 1\n[\"a\\u001b\"]\nb = 1\n").unwrap_err(),
            "rst.toml:2: unknown key `listen_on`; remove it, or see `rst config example` for the \
             keys there are\n\
             rst.toml:3: unknown key `a\\u{1b}`; remove it, or see `rst config example` for the \
             keys there are"
        );
    }

    #[test]
    fn all_bad_values_are_reported_at_once() {
        let text = "listen = \"localhost\"\nsocket = \"rst.sock\"\ndetails_per_second = -1\n\
                    ring_bytes = 5000\nmax_series = 63\nmystery = true\nidle_ms = 9\n\
                    multiplexed_ports = [443, 0]\n";
        assert_eq!(
            parse(text).unwrap_err(),
            "rst.toml:1: `listen` is \"localhost\"; write an IP address and a port, such as \
             \"127.0.0.1:10004\" or \"[::1]:10004\"\n\
             rst.toml:2: `socket` is \"rst.sock\"; write an absolute path, such as \
             \"/run/rst/rst.sock\"\n\
             rst.toml:3: `details_per_second` is -1; write a number from 0 to 4294967295\n\
             rst.toml:4: `ring_bytes` is 5000; write a power of two, such as 4096 or 8192\n\
             rst.toml:5: `max_series` is 63; write a number from 64 to 1000000\n\
             rst.toml:6: unknown key `mystery`; remove it, or see `rst config example` for the \
             keys there are\n\
             rst.toml:7: `idle_ms` is 9; write a number from 10 to 86400000\n\
             rst.toml:8: `multiplexed_ports` is 0; write a number from 1 to 65535"
        );
    }

    #[test]
    fn wrong_types_and_sizes_are_reported() {
        let long = format!("socket = \"/{}\"", "x".repeat(107));
        for (text, part) in [
            ("listen = 10004", "of type integer; write a string"),
            (
                "max_series = \"64\"",
                "of type string; write a whole number",
            ),
            ("max_series = 1e3", "of type float; write a whole number"),
            (
                "max_series = 99999999999999999999999999999999999999999999",
                "write a number from",
            ),
            ("ring_bytes = 2147483648", "from 4096 to 1073741824"),
            ("ring_bytes = 4095", "from 4096 to 1073741824"),
            (&long, "a path of 108 bytes"),
            (
                "data_dir = 'd'",
                "write an absolute path, such as \"/var/lib/rst\"",
            ),
            (
                "store_max_mb = 15",
                "write 0 for no store, or a number from 16",
            ),
            ("store_max_age = 30", "of type integer; write a string"),
            (
                "store_max_age = '59s'",
                "is \"59s\"; write a duration of a minute",
            ),
            ("store_max_age = '30'", "such as \"12h\" or \"30d\""),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn syntax_errors_stand_beside_the_others() {
        let message = parse("max_series = 1\nlisten = \nlisten = 3\nmystery = 1\n").unwrap_err();
        let lines: Vec<&str> = message
            .lines()
            .map(|line| line.split(' ').next().unwrap_or_default())
            .collect();
        assert_eq!(
            lines,
            ["rst.toml:1:", "rst.toml:2:", "rst.toml:3:", "rst.toml:4:"],
            "{message}"
        );
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error_with_its_name() {
        let dir = TempDir::new();
        let directory = dir.join("");
        for path in [directory, dir.join("none.toml")] {
            let message = Config::load(Some(&path)).unwrap_err().to_string();
            let start = format!("can't read the configuration file {}: ", path.display());
            assert!(message.starts_with(&start), "{message}");
        }
    }

    #[test]
    fn the_fallback_may_be_absent_but_not_wrong() {
        let dir = TempDir::new();
        let path = dir.join("rst.toml");
        assert_eq!(
            Config::load_or_default(None, &path).unwrap(),
            Config::default()
        );
        std::fs::write(&path, "max_series = 64").unwrap();
        assert_eq!(Config::load_or_default(None, &path).unwrap().max_series, 64);
        std::fs::write(&path, "max_series = 6").unwrap();
        assert!(Config::load_or_default(None, &path).is_err());
    }

    #[test]
    fn flags_win() {
        let flags = Overrides {
            listen: Some("0.0.0.0:1".parse().unwrap()),
            web_config: Some("w".into()),
            socket: None,
            details_per_second: Some(7),
            data_dir: Some("d".into()),
        };
        let expected = Config {
            listen: "0.0.0.0:1".parse().unwrap(),
            web_config: Some("w".into()),
            details_per_second: 7,
            data_dir: "d".into(),
            ..Config::default()
        };
        assert_eq!(Config::default().with(flags), expected);
        assert_eq!(
            Config::default().with(Overrides::default()),
            Config::default()
        );
    }
}
