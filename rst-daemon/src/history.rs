//! `rst history`: what the store holds, as `rst watch` would have shown it.

use std::io::{self, BufWriter, Write as _};

use jiff::{Timestamp, Zoned};

use crate::cli::HistoryArgs;
use crate::print::{self, Format, Printer};
use crate::store::query::{Found, Query, ReadError, Reader};

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The store can't be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// A time that the calendar does not have.
    #[error("no such time: {0}")]
    Time(#[source] jiff::Error),
    /// The end is before the beginning.
    #[error("--until {until} is not after --since {since}: exchange them")]
    Backwards {
        /// The beginning.
        since: Timestamp,
        /// The end.
        until: Timestamp,
    },
    /// Standard output can't be written.
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Prints what is asked for, the oldest first.
pub fn run(args: HistoryArgs) -> Result<(), HistoryError> {
    let now = Zoned::now();
    let resolve = |when: Option<crate::when::When>, otherwise| {
        when.map_or(Ok(otherwise), |when| when.resolve(&now))
            .map_err(HistoryError::Time)
    };
    let since = resolve(args.since, Timestamp::MIN)?;
    let until = resolve(args.until, Timestamp::MAX)?;
    if until <= since {
        return Err(HistoryError::Backwards { since, until });
    }
    let query = Query {
        filter: args.filter,
        since,
        until,
    };
    let reader = Reader::open(&args.data_dir)?;
    let mut output = Output {
        printer: Printer::dated(Format::for_stdout(args.json)),
        out: BufWriter::new(io::stdout().lock()),
        unreadable: None,
    };
    let printed = match args.limit {
        Some(limit) => output.all(reader.newest(&query, limit)?.into_iter().map(Ok)),
        None => output.all(reader.all(&query)?),
    };
    match printed.and_then(|()| Ok(output.out.flush()?)) {
        Err(HistoryError::Print(error)) if print::is_closed(&error) => return Ok(()),
        result => result?,
    }
    if let Some((rows, why)) = output.unreadable {
        eprintln!("rst: {rows} rows can't be read, another version of rst wrote them: {why}");
    }
    Ok(())
}

struct Output<'a> {
    printer: Printer,
    out: BufWriter<io::StdoutLock<'a>>,
    /// How many, and why the first.
    unreadable: Option<(u64, String)>,
}

impl Output<'_> {
    fn all(
        &mut self,
        rows: impl Iterator<Item = Result<Found, ReadError>>,
    ) -> Result<(), HistoryError> {
        for row in rows {
            match row?.told {
                Ok(told) => {
                    if let Some(line) = self.printer.line(&told)? {
                        writeln!(self.out, "{line}")?;
                    }
                }
                Err(why) => self.unreadable.get_or_insert((0, why)).0 += 1,
            }
        }
        Ok(())
    }
}
