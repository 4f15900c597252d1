//! `rst`: parses the command line, runs the command, turns the outcome into an
//! exit code (0 ok, 1 failed, 2 usage).

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use rst_daemon::cli::{
    Cli, Command, ConfigCommand, DaemonArgs, DoctorArgs, IncidentsArgs, WatchArgs,
};
use rst_daemon::config::{self, Config, ConfigError};
use rst_daemon::filter::Filter;
use rst_daemon::hub::Hub;
use rst_daemon::print::{self, Format};
use rst_daemon::reload::Source;
use rst_daemon::{daemon, doctor, explain, history, incidents, log, watch};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{Level, warn};

/// What went wrong, by exit code.
enum Failure {
    /// What the user asked for makes no sense: 2.
    Usage(ConfigError),
    /// It made sense and failed: 1.
    Failed(anyhow::Error),
    /// The host could not be examined: 2.
    Unexamined(anyhow::Error),
    /// The host has been examined, and something is to be changed: 1.
    Finding,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(error)
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Daemon(args) => run_daemon(args),
        Command::Watch(args) => run_watch(args).map_err(Failure::from),
        Command::Incidents(args) => run_incidents(args).map_err(Failure::from),
        Command::History(args) => history::run(args).map_err(|error| Failure::Failed(error.into())),
        Command::Explain { cause } => {
            print_line(cause.map_or_else(explain::list, explain::cause).trim_end())
                .map_err(Failure::from)
        }
        Command::Doctor(args) => run_doctor(args),
        Command::Config(ConfigCommand::Check { file }) => check_config(file.as_deref()),
        Command::Config(ConfigCommand::Example) => print_example().map_err(Failure::from),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(error)) => {
            log::failure(&error);
            ExitCode::from(2)
        }
        Err(Failure::Unexamined(error)) => {
            log::failure(&format_args!("{error:#}"));
            ExitCode::from(2)
        }
        Err(Failure::Finding) => ExitCode::FAILURE,
        Err(Failure::Failed(error)) => {
            log::failure(&format_args!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run_daemon(args: DaemonArgs) -> Result<(), Failure> {
    let source = Source {
        file: args.config,
        flags: args.overrides,
    };
    let config = source.read().map_err(Failure::Usage)?;
    log::init(if args.log_kernel || args.debug {
        Level::DEBUG
    } else {
        Level::INFO
    });
    runtime()?.block_on(async {
        let hub = Hub::new();
        let format = Format::for_stdout(args.json);
        let printed = args
            .print
            .then(|| print::from_hub(&hub, Filter::default(), format))
            .transpose()
            .context("cannot start the printer")?;
        let stop = stop_signal()?;
        daemon::run(config, source, args.log_kernel, hub, stop)
            .await
            .map_err(|error| Failure::Failed(error.into()))?;
        if let Some(printed) = printed
            && let Err(error) = print::finish(printed).await
        {
            warn!("not everything was printed: {error}");
        }
        Ok(())
    })
}

fn run_watch(args: WatchArgs) -> anyhow::Result<()> {
    log::init(Level::INFO);
    runtime()?.block_on(async {
        let stop = stop_signal()?;
        Ok(watch::run(args, stop).await?)
    })
}

fn run_incidents(args: IncidentsArgs) -> anyhow::Result<()> {
    Ok(runtime()?.block_on(incidents::command::run(args))?)
}

fn run_doctor(args: DoctorArgs) -> Result<(), Failure> {
    let examined = runtime().and_then(|runtime| Ok(runtime.block_on(doctor::run(args))?));
    match examined {
        Ok(false) => Ok(()),
        Ok(true) => Err(Failure::Finding),
        Err(error) => Err(Failure::Unexamined(error)),
    }
}

fn check_config(file: Option<&Path>) -> Result<(), Failure> {
    let config = Config::load(file).map_err(Failure::Usage)?;
    config.gate().map_err(anyhow::Error::from)?;
    let name = file.unwrap_or(Path::new(config::DEFAULT_PATH));
    print_line(&format!("{}: ok", name.display()))?;
    Ok(())
}

fn print_example() -> anyhow::Result<()> {
    print_line(config::EXAMPLE.trim_end())
}

fn print_line(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if print::is_closed(&error) => Ok(()),
        result => result.context("cannot print"),
    }
}

/// One thread: the work is small, and memory counts.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// Resolves at SIGTERM or SIGINT; the handlers are in place on return.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
