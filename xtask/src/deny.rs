//! What every dependency is held to: cargo-deny with `xtask/deny.toml`.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{
    cargo, packages, root,
    step::{Log, Step},
    succeed,
};

/// The version is pinned: a newer one may find what this one lets pass.
const INSTALL: &str = "cargo install cargo-deny --version 0.20.2 --locked";

/// The database of advisories is a git repository; where it can be had, this takes seconds.
const FETCH_LIMIT: Duration = Duration::from_secs(60);

/// Licences, doubles, bans and sources; advisories where their database can be had.
pub(crate) fn check() -> Result<()> {
    let mut log = Log::create()?;
    if !packages::has_command("cargo-deny") {
        eprintln!("missing: cargo-deny\nto do:\n  {INSTALL}");
        Step::new("build cargo-deny (some minutes)", INSTALL).run(&mut log)?;
    }
    succeed(deny().args(["check", "bans", "licenses", "sources"]))?;

    let fetch = format!("cargo deny --config {} fetch db", config());
    let fetched = Step::new("fetch the advisories of RustSec", &fetch)
        .limit(FETCH_LIMIT)
        .run(&mut log);
    if fetched.is_err() {
        eprintln!(
            "warning: NO ADVISORIES WERE LOOKED AT: their database at github.com can't be fetched, see {}",
            log.path.display()
        );
        return Ok(());
    }
    succeed(deny().args(["check", "advisories"]))
}

fn deny() -> Command {
    let mut command = cargo("deny");
    command.args(["--locked", "--offline", "--config", &config()]);
    command
}

fn config() -> String {
    root().join("xtask/deny.toml").display().to_string()
}
