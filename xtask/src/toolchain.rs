//! Which Rust toolchain and linker compile the eBPF programs, and how cargo is called with them.
//!
//! Shared by xtask and `rst-daemon/build.rs`, which includes this file. It only looks; what is
//! missing is installed by `setup.rs`.

use std::{path::Path, process::Command};

/// The eBPF target of this machine's byte order.
pub(crate) const TARGET: &str = if cfg!(target_endian = "big") {
    "bpfeb-unknown-none"
} else {
    "bpfel-unknown-none"
};

/// Name under which set-up links Debian's Rust packages as a rustup toolchain.
pub(crate) const LINKED_NAME: &str = "rst-bpf";

/// Oldest bpf-linker known to read what these toolchains emit.
const LINKER_AT_LEAST: (u32, u32) = (0, 13);

/// Crates that use unstable features, which a stable compiler allows only by name. The name of
/// the package itself is not among them and there is no bare `1`, so nothing else is affected.
const UNSTABLE_CRATES: &str = "aya_ebpf,rst_common,rst_ebpf_object";

/// A toolchain that can build the eBPF programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// Debian's packages: a stable compiler with `core` prebuilt for BPF.
    Linked,
    /// rustup's nightly with `rust-src`, from which cargo builds `core`.
    Nightly,
}

impl Toolchain {
    /// Looks for one that is ready to use.
    pub(crate) fn find() -> Option<Self> {
        let linked = || {
            sysroot(LINKED_NAME)
                .is_some_and(|root| Path::new(&root).join("lib/rustlib").join(TARGET).is_dir())
        };
        let nightly = || {
            sysroot(Self::Nightly.name()).is_some_and(|root| {
                Path::new(&root)
                    .join("lib/rustlib/src/rust/library/core")
                    .is_dir()
            })
        };
        choose(linked, nightly)
    }

    /// The name rustup knows it by.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Linked => LINKED_NAME,
            Self::Nightly => "nightly",
        }
    }

    /// `cargo SUBCOMMAND` on this toolchain for package `rst-ebpf` and the eBPF target, free of
    /// what an outer cargo, running on another toolchain, has put into the environment.
    pub(crate) fn cargo(self, subcommand: &str) -> Command {
        let mut command = rustup_run(self.name(), "cargo");
        command.args([subcommand, "--package", "rst-ebpf", "--target", TARGET]);
        match self {
            Self::Linked => command.env("RUSTC_BOOTSTRAP", UNSTABLE_CRATES),
            Self::Nightly => command
                .args(["-Z", "build-std=core"])
                .env_remove("RUSTC_BOOTSTRAP"),
        };
        for outer in [
            "RUSTC",
            "RUSTC_WRAPPER",
            "RUSTC_WORKSPACE_WRAPPER",
            "RUSTFLAGS",
        ] {
            command.env_remove(outer);
        }
        // The cpu: v3 has the 32-bit registers and jumps, and every supported kernel takes it.
        command.env(
            "CARGO_ENCODED_RUSTFLAGS",
            "-Ctarget-cpu=v3\x1f-Cdebuginfo=2\x1f-Clink-arg=--btf",
        );
        command
    }
}

/// Debian's packages come first: they are linked under a name of our own, so somebody chose them.
fn choose(linked: impl FnOnce() -> bool, nightly: impl FnOnce() -> bool) -> Option<Toolchain> {
    if linked() {
        Some(Toolchain::Linked)
    } else if nightly() {
        Some(Toolchain::Nightly)
    } else {
        None
    }
}

/// Whether a bpf-linker that is new enough is on the PATH.
pub(crate) fn linker_found() -> bool {
    output(Command::new("bpf-linker").arg("--version")).is_some_and(|text| new_enough(&text))
}

/// Reads `bpf-linker 0.13.0`.
fn new_enough(version: &str) -> bool {
    let mut numbers = version
        .split_whitespace()
        .nth(1)
        .unwrap_or_default()
        .split('.')
        .map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= LINKER_AT_LEAST,
        _ => false,
    }
}

/// `PROGRAM` of a rustup toolchain; one that is not installed is an error, never a download.
pub(crate) fn rustup_run(toolchain: &str, program: &str) -> Command {
    let mut command = Command::new("rustup");
    command
        .args(["run", toolchain, program])
        .env("RUSTUP_AUTO_INSTALL", "0");
    command
}

fn sysroot(toolchain: &str) -> Option<String> {
    output(rustup_run(toolchain, "rustc").args(["--print", "sysroot"]))
}

/// What a command prints, trimmed, if it can be run and succeeds.
pub(crate) fn output(command: &mut Command) -> Option<String> {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{Toolchain, choose, new_enough};

    #[test]
    fn the_linked_toolchain_comes_first() {
        assert_eq!(choose(|| true, || true), Some(Toolchain::Linked));
        assert_eq!(choose(|| true, || false), Some(Toolchain::Linked));
        assert_eq!(choose(|| false, || true), Some(Toolchain::Nightly));
        assert_eq!(choose(|| false, || false), None);
    }

    #[test]
    fn an_old_or_strange_linker_does_not_count() {
        for version in ["bpf-linker 0.13.0", "bpf-linker 0.14.2", "bpf-linker 1.0.0"] {
            assert!(new_enough(version), "{version}");
        }
        for version in ["bpf-linker 0.9.15", "bpf-linker", "", "bpf-linker x.y"] {
            assert!(!new_enough(version), "{version}");
        }
    }
}
