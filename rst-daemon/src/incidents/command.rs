//! `rst incidents`: what the daemon knows of reset spikes.

use std::io::{self, Write as _};

use jiff::{Timestamp, Zoned};

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
    /// Standard output can't be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Shows those that were open at the time asked for, or later.
pub async fn run(args: IncidentsArgs) -> Result<(), IncidentsError> {
    let incidents = client::incidents(&args.socket, args.since).await?;
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

/// A moment in the past as people write it: how long ago (`1h`, `90m`, `2d`), a date or
/// a time of this zone, or RFC 3339.
pub fn since(text: &str) -> Result<Timestamp, String> {
    moment(text, &Zoned::now()).ok_or_else(|| {
        "write how long ago, such as 1h or 2d, or when, such as 2026-11-20, 2026-11-20T14:00 or 2026-11-20T14:00:00Z".to_owned()
    })
}

fn moment(text: &str, now: &Zoned) -> Option<Timestamp> {
    if let Ok(span) = text.parse::<jiff::Span>() {
        return Some(now.checked_sub(span.abs()).ok()?.timestamp());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Some(time);
    }
    let time: jiff::civil::DateTime = text.parse().ok()?;
    Some(time.to_zoned(now.time_zone().clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_people_write_them() {
        let now: Zoned = "2026-11-21T12:00:00+01:00[+01:00]".parse().unwrap();
        for (text, expected) in [
            ("1h", "2026-11-21T10:00:00Z"),
            ("90m", "2026-11-21T09:30:00Z"),
            ("2d", "2026-11-19T11:00:00Z"),
            ("2026-11-20", "2026-11-19T23:00:00Z"),
            ("2026-11-20T14:00", "2026-11-20T13:00:00Z"),
            ("2026-11-20T14:00:00Z", "2026-11-20T14:00:00Z"),
        ] {
            let moment = moment(text, &now).map(|moment| moment.to_string());
            assert_eq!(moment.as_deref(), Some(expected), "{text}");
        }
        for text in ["", "yesterday", "1", "14:00"] {
            assert_eq!(moment(text, &now), None, "{text}");
        }
        assert!(since("x").unwrap_err().starts_with("write how long ago"));
    }
}
