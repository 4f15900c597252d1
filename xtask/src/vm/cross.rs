//! What a guest of another architecture needs: the live tests built for it, and Debian's
//! programs and libraries.
//!
//! Nothing of it is installed here but a cross compiler: Rust's standard library and the
//! programs are unpacked in the cache.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{
    arch::Arch,
    fetch::{Cache, output},
    initramfs::{Binaries, System},
};
use crate::{root, setup, target_dir, toolchain, toolchain::Toolchain};

/// Where the guests' programs are from: busybox, `ip` and `ss`, `nft`, `nsenter`, and the library
/// that unwinds the tests' panics.
const PROGRAMS: [&str; 5] = [
    "busybox-static",
    "iproute2",
    "nftables",
    "util-linux",
    "libgcc-s1",
];

/// The package with Rust's standard library, here and there.
const STD: &str = "libstd-rust-web-dev";

/// Rust's name of arm64.
const TARGET: &str = "aarch64-unknown-linux-gnu";

/// Builds the live tests for arm64; with them, what they run on.
///
/// `toolchain`: Debian's, for no other can be had for arm64 without rustup's downloads.
pub(super) fn build(toolchain: Toolchain, update: bool) -> Result<(Binaries, System)> {
    ensure!(
        toolchain == Toolchain::Linked,
        "the guests with arm64 need Debian's Rust: install {} and run `rustup toolchain link {} \
         /usr`",
        crate::packages::RUST.join(", "),
        toolchain::LINKED_NAME
    );
    setup::ensure_cross_tools()?;
    let arch = Arch::Arm64;
    let (sysroot, programs) = fetch(arch, update)?;
    let triplet = arch.triplet();
    let mut command = toolchain::rustup_run(toolchain.name(), "cargo");
    command
        .args(["test", "--target", TARGET, "--target-dir"])
        // Not to build for this machine anew with every change between the two toolchains.
        .arg(target_dir().join(arch.debian()))
        .current_dir(root());
    for outer in ["CARGO", "RUSTC", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"] {
        command.env_remove(outer);
    }
    let name = TARGET.replace('-', "_");
    let upper = name.to_uppercase();
    command
        .env(
            format!("CARGO_TARGET_{upper}_LINKER"),
            format!("{triplet}-gcc"),
        )
        .env(
            format!("CARGO_TARGET_{upper}_RUSTFLAGS"),
            format!("--sysroot={}", sysroot.display()),
        )
        .env(format!("CC_{name}"), format!("{triplet}-gcc"))
        .env(format!("AR_{name}"), format!("{triplet}-ar"));
    let binaries = super::build(command)?;
    Ok((binaries, System::of(programs, arch)))
}

/// The directories with Rust's standard library, of the very version that is installed here, and
/// with the guests' programs.
fn fetch(arch: Arch, update: bool) -> Result<(PathBuf, PathBuf)> {
    let shown = output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", STD]))
        .with_context(|| format!("{STD} is not installed"))?;
    let version = String::from_utf8_lossy(&shown.stdout).into_owned();
    let cache = Cache::open()?;
    let apt = cache.apt(arch)?;
    let (std, programs) = (
        format!("{STD}-{version}-{}", arch.debian()),
        format!("programs-{}", arch.debian()),
    );
    if update || !cache.has(&std) || !cache.has(&programs) {
        apt.refresh()?;
    }
    let std = cache.directory(&std, false, |dir: &Path| {
        eprintln!("  fetch Rust's standard library for {} ..", arch.debian());
        apt.unpack(&[format!("{STD}={version}")], dir)
    })?;
    let programs = cache.directory(&programs, update, |dir: &Path| {
        eprintln!("  fetch the guests' programs for {} ..", arch.debian());
        apt.unpack_whole(&PROGRAMS, dir)
    })?;
    Ok((std.join("usr"), programs))
}
