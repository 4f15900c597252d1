//! `rst watch`: streams from a running daemon, or attaches the probes itself
//! where none runs.

use std::future::Future;
use std::io;

use tokio::sync::mpsc;
use tracing::info;

use crate::cli::WatchArgs;
use crate::client::{self, ClientError, Item};
use crate::config::Config;
use crate::daemon::{DaemonError, Tracer};
use crate::hub::Hub;
use crate::print::{self, Format, Printer};

/// Why watching ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The daemon can't be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The daemon went away.
    #[error("the daemon has stopped")]
    DaemonStopped,
    /// No daemon runs, and the probes can't be attached from here.
    #[error("{daemon}; and watching without a daemon is not possible here: {own}")]
    Alone {
        /// Why there is no stream.
        daemon: ClientError,
        /// Why there are no probes.
        own: DaemonError,
    },
    /// The probes failed.
    #[error(transparent)]
    Tracer(#[from] DaemonError),
    /// Standard output can't be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Watches until `shutdown` resolves or the output is closed.
pub async fn run(args: WatchArgs, shutdown: impl Future<Output = ()>) -> Result<(), WatchError> {
    let format = Format::for_stdout(args.json);
    let mut shutdown = std::pin::pin!(shutdown);
    let stream = tokio::select! {
        () = &mut shutdown => return Ok(()),
        stream = client::stream(&args.socket, &args.filter) => stream,
    };
    let result = match stream {
        Ok(stream) => tokio::select! {
            () = &mut shutdown => Ok(()),
            result = from_daemon(stream, format) => result,
        },
        Err(daemon @ ClientError::NoDaemon(_)) => alone(args, format, daemon, shutdown).await,
        Err(error) => Err(error.into()),
    };
    match result {
        Err(WatchError::Print(error)) if print::is_closed(&error) => Ok(()),
        result => result,
    }
}

async fn from_daemon(mut stream: client::Stream, format: Format) -> Result<(), WatchError> {
    let mut printer = Printer::new(format);
    loop {
        match stream.next().await? {
            Some(Item::Told(told, _)) => printer.print(&told)?,
            Some(Item::Missed(count)) => print::missed(count),
            None => return Err(WatchError::DaemonStopped),
        }
    }
}

/// Attaches the probes for as long as it watches.
async fn alone(
    args: WatchArgs,
    format: Format,
    daemon: ClientError,
    shutdown: impl Future<Output = ()>,
) -> Result<(), WatchError> {
    let hub = Hub::new();
    let printed = print::from_hub(&hub, args.filter, format)?;
    let (tracer, _counters) = match Tracer::attach(&Config::default(), false, hub) {
        Ok(attached) => attached,
        Err(own) => return Err(WatchError::Alone { daemon, own }),
    };
    info!("no daemon runs: probes attached for as long as this command watches");
    let mut printed = printed;
    let mut outcome = None;
    let end = async {
        tokio::select! {
            () = shutdown => {}
            // The thread sends before it ends, so an error here is a panic in it.
            result = &mut printed => outcome = Some(result.unwrap_or(Ok(()))),
        }
    };
    // Nobody tells it anything.
    let (_commands, commanded) = mpsc::channel(1);
    tracer.run(end, commanded, |_| {}).await?;
    match outcome {
        Some(result) => Ok(result?),
        None => Ok(print::finish(printed).await?),
    }
}
