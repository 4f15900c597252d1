//! Writes the manual pages and shell completions of `rst` into a directory, for its packages:
//! `manual DIR`.
//!
//! An example, so that what makes them is no part of the program.

use std::{env, fs, io, path::Path};

use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate_to};
use clap_mangen::{
    Man,
    roff::{Roff, bold, roman},
};
use jiff::Timestamp;
use rst_daemon::{
    cli::Cli,
    config::{DEFAULT_DATA_DIR, DEFAULT_PATH, DEFAULT_SOCKET},
};

/// What `main.rs` makes of an outcome.
const EXIT_STATUS: [(&str, &str); 3] = [
    ("0", "Success."),
    ("1", "It failed; standard error says why."),
    ("2", "The command line or the configuration is wrong."),
];

/// What the commands read and leave behind.
const FILES: [(&str, &str); 3] = [
    (
        DEFAULT_PATH,
        "The configuration; rst config example prints it with comments.",
    ),
    (DEFAULT_SOCKET, "The socket of a running daemon."),
    (DEFAULT_DATA_DIR, "The store of rst history."),
];

/// What all of it is, for the first page.
const ABOUT: &str = "\
rst daemon watches every TCP reset that this host sends or receives, says why it happened and to \
which service, and counts it for Prometheus. The other commands show what it sees and has seen: \
root and the group rst may use them.

/usr/share/doc/rst has the documents, what each cause and each alert means among them; \
/usr/share/rst has rules for Prometheus and a dashboard for Grafana.";

/// What one asks first.
const EXAMPLES: [(&str, &str); 5] = [
    (
        "rst watch --impact connection_broken",
        "Each reset by which a connection was lost, as it happens.",
    ),
    (
        "rst history --since 1h --port 443 --json",
        "Those of the last hour at port 443, one JSON object a line.",
    ),
    ("rst incidents", "Spikes, and what is known of each."),
    (
        "rst explain idle_timeout",
        "What this cause means, and how to confirm and mend it.",
    ),
    (
        "rst config check && systemctl reload rst-daemon",
        "Takes changed settings over. No count is lost.",
    ),
];

/// What `rst daemon` does on each.
const SIGNALS: [(&str, &str); 3] = [
    (
        "SIGHUP",
        "Reads the configuration again. One with a fault is refused, and the settings stay.",
    ),
    (
        "SIGUSR1",
        "Takes all programs out of the kernel, until a restart.",
    ),
    ("SIGTERM, SIGINT", "Ends it, with what it has stored safe."),
];

fn main() -> Result<()> {
    let dir = env::args_os().nth(1).context("usage: manual DIR")?;
    let dir = Path::new(&dir);
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let mut command = Cli::command();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, "rst", dir)?;
    }
    // `rst help watch` is `rst watch --help`: no page of its own.
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let today = Timestamp::now().strftime("%F").to_string();
    pages(&command, &today, dir)?;
    Ok(())
}

/// A page for each command, of this date, as `man rst-watch` expects it.
fn pages(command: &Command, date: &str, dir: &Path) -> io::Result<()> {
    let name = command.get_display_name().unwrap_or("rst");
    let mut page = Vec::new();
    let mut shown = command.clone();
    if command.get_display_name().is_none() {
        shown = shown.long_about(ABOUT);
    }
    Man::new(shown)
        .title(name.to_uppercase())
        .date(date)
        .source(concat!("rst ", env!("CARGO_PKG_VERSION")))
        .manual("rst")
        .render(&mut page)?;
    list("EXIT STATUS", &EXIT_STATUS).to_writer(&mut page)?;
    match name {
        "rst" => {
            list("EXAMPLES", &EXAMPLES).to_writer(&mut page)?;
            list("FILES", &FILES).to_writer(&mut page)?;
        }
        "rst-daemon" => {
            list("SIGNALS", &SIGNALS).to_writer(&mut page)?;
            list("FILES", &FILES).to_writer(&mut page)?;
        }
        _ => list("SEE ALSO", &[("rst(1)", "")]).to_writer(&mut page)?,
    }
    fs::write(dir.join(format!("{name}.1")), page)?;
    for subcommand in command.get_subcommands() {
        pages(subcommand, date, dir)?;
    }
    Ok(())
}

/// A section of terms and what they mean.
fn list(title: &str, entries: &[(&str, &str)]) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", [title]);
    for (term, meaning) in entries {
        roff.control("TP", []);
        roff.text([bold(*term)]);
        roff.text([roman(*meaning)]);
    }
    roff
}
