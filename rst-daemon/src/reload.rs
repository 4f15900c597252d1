//! Reads the settings again while the daemon runs. What can change takes effect at once,
//! without a count being lost; what sizes a table in the kernel or names a place waits for
//! the next start, and is said to.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::config::{Config, ConfigError, Overrides};
use crate::daemon::Command;
use crate::manager::Manager;

/// Where the settings come from.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// The file; without one the default, where it exists.
    pub file: Option<PathBuf>,
    /// Flags, which win over it.
    pub flags: Overrides,
}

impl Source {
    /// Reads them.
    pub fn read(&self) -> Result<Config, ConfigError> {
        Ok(Config::load(self.file.as_deref())?.with(self.flags.clone()))
    }
}

/// How the last reading of the settings went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Whether they were taken over.
    pub successful: bool,
    /// When some were, last.
    pub success: Timestamp,
}

impl Reading {
    /// Some were taken over just now.
    #[must_use]
    pub fn success() -> Self {
        Self {
            successful: true,
            success: Timestamp::now(),
        }
    }

    /// Takes in how one more went.
    pub fn note(&mut self, successful: bool) {
        if successful {
            *self = Self::success();
        } else {
            self.successful = false;
        }
    }
}

/// What becomes of the settings of a daemon that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Those it goes on with.
    pub config: Config,
    /// Those that are new.
    pub changed: Vec<&'static str>,
    /// Those that only a restart changes: they keep their value.
    pub kept: Vec<&'static str>,
}

impl Plan {
    /// From the settings that it runs with to those that are wanted.
    #[must_use]
    pub fn new(running: &Config, wanted: Config) -> Self {
        let Config {
            listen,
            web_config,
            tcp_details,
            socket,
            details_per_second,
            ring_bytes,
            max_series,
            max_ports,
            max_workloads,
            idle_ms,
            multiplexed_ports,
            tracked_sockets,
            max_cpu_percent,
            max_memory_mb,
            closed_connections,
            incident_min_resets,
            incident_warmup_seconds,
            incident_close_seconds,
            data_dir,
            pin_dir,
            store_max_mb,
            store_max_age,
        } = wanted;
        let mut config = running.clone();
        let (mut changed, mut kept) = (Vec::new(), Vec::new());
        macro_rules! take {
            ($($name:ident),*) => {$(
                if config.$name != $name {
                    config.$name = $name;
                    changed.push(stringify!($name));
                }
            )*};
        }
        macro_rules! keep {
            ($($name:ident),*) => {$(
                if running.$name != $name {
                    kept.push(stringify!($name));
                }
            )*};
        }
        take!(details_per_second, idle_ms, multiplexed_ports);
        take!(max_cpu_percent, max_memory_mb);
        take!(
            incident_min_resets,
            incident_warmup_seconds,
            incident_close_seconds
        );
        take!(store_max_age);
        keep!(
            listen,
            web_config,
            tcp_details,
            socket,
            data_dir,
            pin_dir,
            ring_bytes,
            max_series,
            max_ports,
            max_workloads
        );
        keep!(tracked_sockets, closed_connections);
        // Whether there is a store is decided at the start.
        if running.store_max_mb == 0 || store_max_mb == 0 {
            keep!(store_max_mb);
        } else {
            take!(store_max_mb);
        }
        Self {
            config,
            changed,
            kept,
        }
    }
}

/// Reads the settings again at each of these signals, for as long as it is polled; `done`
/// is told whether they were taken over. `standing` says how the daemon stands apart from
/// that: the service manager shows the last that it was told.
pub async fn at_each(
    mut signal: Signal,
    source: Source,
    settings: watch::Sender<Config>,
    commands: &mpsc::Sender<Command>,
    manager: &Manager,
    done: impl Fn(bool),
    standing: impl Fn() -> &'static str,
) {
    while signal.recv().await.is_some() {
        manager.reloading();
        let result = match source.read() {
            Ok(wanted) => {
                let Plan {
                    config,
                    changed,
                    kept,
                } = Plan::new(&settings.borrow(), wanted);
                // Nobody listens where the daemon is stopping.
                let _ = commands.send(Command::Retune(config.tuning())).await;
                settings.send_replace(config);
                done(true);
                let mut result =
                    format!("the settings were read again; changed: {}", list(&changed));
                info!("{result}");
                if !kept.is_empty() {
                    let kept = format!(
                        "these keep their value until rst is restarted: {}",
                        list(&kept)
                    );
                    warn!("{kept}");
                    result = format!("{result}; {kept}");
                }
                result
            }
            Err(error) => {
                let faults = error.to_string().replace('\n', "; ");
                done(false);
                let result = format!("the settings are refused, those from before stay: {faults}");
                error!("{result}");
                result
            }
        };
        manager.ready(&format!("{}; {result}", standing()));
    }
}

fn list(names: &[&str]) -> String {
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn plan(running: &str, wanted: &str) -> Plan {
        let parse = |text| Config::parse(text, Path::new("f")).unwrap();
        Plan::new(&parse(running), parse(wanted))
    }

    /// Each setting of the reference file, with a value that is not the default.
    const OTHERS: &str = "
        listen = '127.0.0.1:1'
        web_config = '/w'
        tcp_details = true
        socket = '/s'
        details_per_second = 1
        ring_bytes = 4096
        max_series = 100
        max_ports = 2
        max_workloads = 3
        idle_ms = 20
        multiplexed_ports = []
        tracked_sockets = 100
        max_cpu_percent = 1
        max_memory_mb = 20
        closed_connections = 100
        incident_min_resets = 1
        incident_warmup_seconds = 2
        incident_close_seconds = 3
        data_dir = '/d'
        pin_dir = '/p'
        store_max_mb = 20
        store_max_age = '1h'
    ";

    #[test]
    fn every_setting_is_taken_over_or_named() {
        let Plan {
            config,
            changed,
            kept,
        } = plan("", OTHERS);
        let mut named: Vec<&str> = changed.iter().chain(&kept).copied().collect();
        named.sort_unstable();
        let mut keys: Vec<&str> = OTHERS
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0.trim()))
            .collect();
        keys.sort_unstable();
        assert_eq!(named, keys);
        assert_eq!(config.idle_ms, 20);
        assert_eq!(config.multiplexed_ports, [0; 0]);
        assert_eq!(config.max_series, Config::default().max_series);
        assert_eq!(config.listen, Config::default().listen);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let plan = plan(OTHERS, OTHERS);
        assert_eq!((plan.changed, plan.kept), (vec![], vec![]));
    }

    #[test]
    fn a_store_is_neither_begun_nor_ended() {
        for (running, wanted) in [("store_max_mb = 0", ""), ("", "store_max_mb = 0")] {
            let plan = plan(running, wanted);
            assert_eq!((plan.changed, plan.kept), (vec![], vec!["store_max_mb"]));
        }
    }
}
