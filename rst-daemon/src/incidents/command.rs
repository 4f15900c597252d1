//! `rst incidents`: what the daemon knows of reset spikes.

use std::io::{self, Write as _};

use jiff::Zoned;

use crate::cli::IncidentsArgs;
use crate::client::{self, ClientError};
use crate::print::{self, Format};
use crate::text;

/// Why they are not shown.
#[derive(Debug, thiserror::Error)]
pub enum IncidentsError {
    /// The daemon can't be asked.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A time that the calendar does not have.
    #[error("no such time: {0}")]
    Time(#[source] jiff::Error),
    /// Standard output can't be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Shows those that were open at the time asked for, or later.
pub async fn run(args: IncidentsArgs) -> Result<(), IncidentsError> {
    let now = Zoned::now();
    let since = args.since.map(|since| since.resolve(&now)).transpose();
    let incidents = client::incidents(&args.socket, since.map_err(IncidentsError::Time)?).await?;
    let format = Format::for_stdout(args.json);
    let mut out = io::stdout().lock();
    let mut print = || -> io::Result<()> {
        for incident in &incidents {
            match &format {
                Format::Text(style) => write!(out, "{}", super::tell::page(incident, style))?,
                Format::Json => writeln!(out, "{}", text::json(incident)?)?,
            }
        }
        if incidents.is_empty() && !args.json {
            writeln!(out, "no incidents")?;
        }
        out.flush()
    };
    match print() {
        Err(error) if print::is_closed(&error) => Ok(()),
        result => Ok(result?),
    }
}
