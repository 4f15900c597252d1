//! `cargo xtask build` and `cargo xtask run`.

use std::{os::unix::process::CommandExt as _, process::Command};

use anyhow::{Result, anyhow};

use crate::{cargo, setup, succeed, target_dir};

/// Builds the release binary.
pub(crate) fn build() -> Result<()> {
    setup::ensure_build()?;
    succeed(cargo("build").args(["--release", "--package", "rst-daemon"]))
}

/// Builds the daemon and becomes it, so that signals and the exit status are its own.
pub(crate) fn daemon(args: &[String]) -> Result<()> {
    build()?;
    let binary = target_dir().join("release/rst");
    let error = Command::new(&binary)
        .args(["daemon", "--print"])
        .args(args)
        .exec();
    Err(anyhow!(error).context(format!("cannot run {}", binary.display())))
}
