//! The command line of `rst`. Parsing only; a usage error exits with 2.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rst_common::cause::Cause;

use crate::config::{DEFAULT_DATA_DIR, DEFAULT_SOCKET, Overrides};
use crate::filter::Filter;
use crate::when::{self, When};

/// Says why TCP connections are reset
#[derive(Debug, Parser)]
#[command(name = "rst", version, propagate_version = true)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the service: attach the probes, count, serve metrics and the stream
    Daemon(DaemonArgs),
    /// Show each reset as it happens, from a running daemon
    Watch(WatchArgs),
    /// Show reset spikes and what they were, from a running daemon
    Incidents(IncidentsArgs),
    /// Show the resets that were stored, whether or not a daemon runs
    History(HistoryArgs),
    /// Say what a cause means, what it rests on, how to confirm and mend it
    Explain {
        /// The cause; without one, the list of all
        #[arg(value_parser = cause)]
        cause: Option<Cause>,
    },
    /// Check whether the probes run on this host, and its settings: exits with 1 where there is
    /// something to change, with 2 where that could not be found out
    Doctor(DoctorArgs),
    /// Check a configuration file, or print the commented default
    #[command(subcommand)]
    Config(ConfigCommand),
}

fn cause(label: &str) -> Result<Cause, String> {
    Cause::from_label(label).ok_or_else(|| "no such cause; `rst explain` lists them".to_owned())
}

/// Flags of `rst daemon`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct DaemonArgs {
    /// Configuration file [default: /etc/rst/rst.toml where it exists]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings that win over the file
    #[command(flatten)]
    pub overrides: Overrides,
    /// Print each reset to standard output as it happens
    #[arg(long)]
    pub print: bool,
    /// Print JSON, one object a line
    #[arg(long, requires = "print")]
    pub json: bool,
    /// Log lines of the kernel side, for debugging
    #[arg(long)]
    pub log_kernel: bool,
    /// Log more: each verdict is checked, here and without the kernel's reason
    #[arg(long)]
    pub debug: bool,
}

/// Flags of `rst watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// The daemon's UNIX socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Which resets to show
    #[command(flatten)]
    pub filter: Filter,
}

/// Flags of `rst incidents`.
#[derive(Debug, Args)]
pub struct IncidentsArgs {
    /// Only those that were open at this time or later: how long ago (1h, 2d), or when
    /// (2026-11-20, 2026-11-20T14:00, RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<When>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// The daemon's UNIX socket
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Flags of `rst history`.
#[derive(Debug, Args)]
pub struct HistoryArgs {
    /// Only from then on: 15m, 1h, 2d (ago), 2026-11-20, 2026-11-20T14:00 or RFC 3339
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub since: Option<When>,
    /// Only until then, likewise
    #[arg(long, value_name = "TIME", value_parser = when::parse)]
    pub until: Option<When>,
    /// The newest so many only
    #[arg(long, value_name = "N")]
    pub limit: Option<u32>,
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// Where the daemon stores them: its data_dir
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DATA_DIR)]
    pub data_dir: PathBuf,
    /// Which resets to show
    #[command(flatten)]
    pub filter: Filter,
}

/// Flags of `rst doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON, one object a line
    #[arg(long)]
    pub json: bool,
    /// The daemon's UNIX socket; where none runs the probes are attached for a moment
    #[arg(long, value_name = "PATH", default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

/// Commands of `rst config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a configuration file and report everything wrong with it
    Check {
        /// The file [default: /etc/rst/rst.toml where it exists]
        file: Option<PathBuf>,
    },
    /// Print the commented default configuration
    Example,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn daemon_flags() {
        let line = "rst daemon --config /c --listen [::1]:1 --socket /s --details-per-second 0 \
                    --print --json --log-kernel";
        let Command::Daemon(args) = parse(line).unwrap().command else {
            panic!("not the daemon");
        };
        assert_eq!(args.config, Some("/c".into()));
        assert_eq!(args.overrides.listen, Some("[::1]:1".parse().unwrap()));
        assert_eq!(args.overrides.socket, Some("/s".into()));
        assert_eq!(args.overrides.details_per_second, Some(0));
        assert!(args.print && args.json && args.log_kernel);
    }

    #[test]
    fn watch_flags() {
        let Command::Watch(args) = parse("rst watch --json --port 443").unwrap().command else {
            panic!("not watch");
        };
        assert!(args.json);
        assert_eq!(args.socket, PathBuf::from(DEFAULT_SOCKET));
        assert_eq!(args.filter.port, Some(443));
    }

    #[test]
    fn history_flags() {
        let line = "rst history --since 1h --until 2026-11-20T14:00:00Z --limit 5 --json \
                    --data-dir /d --cause refused";
        let Command::History(args) = parse(line).unwrap().command else {
            panic!("not history");
        };
        assert_eq!(
            args.since,
            Some(When::Ago(jiff::SignedDuration::from_hours(1)))
        );
        assert_eq!(
            args.until,
            Some(When::At("2026-11-20T14:00:00Z".parse().unwrap()))
        );
        assert_eq!((args.limit, args.json), (Some(5), true));
        assert_eq!(args.data_dir, PathBuf::from("/d"));
        assert_eq!(args.filter.cause, Some(Cause::Refused));
    }

    #[test]
    fn doctor_flags() {
        let Command::Doctor(args) = parse("rst doctor --json --socket /s").unwrap().command else {
            panic!("not doctor");
        };
        assert!(args.json);
        assert_eq!(args.socket, PathBuf::from("/s"));
    }

    #[test]
    fn config_commands() {
        let Command::Config(command) = parse("rst config check /f").unwrap().command else {
            panic!("not config");
        };
        assert!(matches!(command, ConfigCommand::Check { file } if file == Some("/f".into())));
        assert!(parse("rst config check").is_ok());
        assert!(parse("rst config example").is_ok());
    }

    #[test]
    fn usage_errors_exit_with_2() {
        for line in [
            "rst",
            "rst bogus",
            "rst config",
            "rst daemon --json",
            "rst daemon --listen localhost",
            "rst daemon --details-per-second -1",
            "rst watch --peer nobody",
            "rst watch extra",
            "rst incidents --since yesterday",
            "rst history --since yesterday",
            "rst history --limit -1",
            "rst explain nonsense",
            &format!("rst daemon --socket /{}", "x".repeat(107)),
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn version_and_help_are_no_errors() {
        for line in ["rst --version", "rst watch --version", "rst --help"] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 0, "{line}");
        }
        assert_eq!(
            parse("rst --version").unwrap_err().kind(),
            ErrorKind::DisplayVersion
        );
    }

    #[test]
    fn the_help_states_the_real_defaults() {
        let mut command = Cli::command();
        let help = command
            .find_subcommand_mut("daemon")
            .unwrap()
            .render_long_help()
            .to_string();
        // It is wrapped to the terminal.
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let defaults = crate::config::Config::default();
        for value in [
            defaults.listen.to_string(),
            defaults.socket.display().to_string(),
            defaults.details_per_second.to_string(),
            defaults.data_dir.display().to_string(),
            crate::config::DEFAULT_PATH.into(),
        ] {
            assert!(help.contains(&format!("[default: {value}")), "{value}");
        }
    }
}
