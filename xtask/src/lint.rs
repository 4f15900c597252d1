//! `cargo xtask lint`: formatting, clippy for the host and for eBPF, the dependencies, and the
//! house rules.

use anyhow::{Result, bail};

use crate::{cargo, deny, root, setup, succeed, target_dir, tidy};

/// Runs all of them, the quick ones first; stops at the first that fails.
pub(crate) fn run() -> Result<()> {
    let complaints = tidy::check_workspace(root())?;
    if !complaints.is_empty() {
        bail!("house rules:\n{}", complaints.join("\n"));
    }
    succeed(cargo("fmt").args(["--all", "--check"]))?;

    // The daemon embeds the programs, so clippy has to build them.
    let toolchain = setup::ensure_build()?;
    setup::ensure_clippy(toolchain)?;
    let no_warnings = ["--", "--deny", "warnings"];
    succeed(
        cargo("clippy")
            .args(["--workspace", "--exclude", "rst-ebpf", "--all-targets"])
            .args(no_warnings),
    )?;
    // `rst-common` was looked at above; this one is of another version of the compiler.
    succeed(
        toolchain
            .cargo("clippy")
            .current_dir(root())
            .args(["--release", "--no-deps", "--target-dir"])
            .arg(target_dir().join("lint-ebpf"))
            .args(no_warnings),
    )?;
    deny::check()
}
