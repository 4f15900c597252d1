//! `cargo xtask fuzz`: every fuzz target for a bounded time, guided by coverage.
//!
//! libFuzzer comes with the crate libfuzzer-sys, which builds it with the C++ compiler. What
//! it needs of rustc, the counters of LLVM's sancov and AddressSanitizer, a stable compiler
//! has too, behind RUSTC_BOOTSTRAP. Inputs that reach new code are kept in the target
//! directory; `rst-daemon/fuzz/corpus` holds those to begin with.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{cargo, root, setup, succeed, target_dir};

/// Where the targets and their inputs are.
const DIRECTORY: &str = "rst-daemon/fuzz";

/// Seconds for each target that `cargo xtask test` spends.
pub(crate) const SHORT: u32 = 5;

/// Memory that one input may take, MB; AddressSanitizer's own is counted.
const MEMORY_MB: u32 = 2048;

/// Seconds that one input may take on a busy machine.
const SECONDS_AN_INPUT: u32 = 20;

/// Flags of rustc: counters and comparisons for libFuzzer, checks of memory.
const FLAGS: [&str; 8] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    // The tables of a crate must not be split.
    "-Ccodegen-units=1",
    "-Zsanitizer=address",
];

/// What came of the targets.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

/// `cargo xtask fuzz`.
pub(crate) fn command(seconds: u32) -> Result<()> {
    let outcome = run(seconds)?;
    if outcome.failed != 0 {
        bail!("{} fuzz targets failed", outcome.failed);
    }
    Ok(())
}

/// Builds the targets and runs each for some seconds.
pub(crate) fn run(seconds: u32) -> Result<Outcome> {
    setup::ensure_build()?;
    setup::ensure_fuzz_tools()?;
    let binary = build()?;
    let mut outcome = Outcome::default();
    for name in targets(&root().join(DIRECTORY).join("corpus"))? {
        println!("\nfuzzing {name} for {seconds} s");
        if one(&binary, &name, seconds)? {
            outcome.passed += 1;
        } else {
            outcome.failed += 1;
        }
    }
    Ok(outcome)
}

/// The host, as rustc names it: AddressSanitizer wants it told, so that build scripts and
/// macros stay without.
fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

fn build() -> Result<PathBuf> {
    let host = host()?;
    // Other flags than those of the workspace: a directory of its own.
    let target_dir = target_dir().join("fuzz");
    succeed(
        cargo("build")
            .args(["--quiet", "--release", "--locked", "--target", &host])
            .arg("--manifest-path")
            .arg(root().join(DIRECTORY).join("Cargo.toml"))
            .arg("--target-dir")
            .arg(&target_dir)
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f")),
    )?;
    Ok(target_dir.join(host).join("release/rst-fuzz"))
}

/// A target for each directory of the corpus.
fn targets(corpus: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let unreadable = || format!("cannot read {}", corpus.display());
    for entry in fs::read_dir(corpus).with_context(unreadable)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    ensure!(!names.is_empty(), "{} is empty", corpus.display());
    Ok(names)
}

/// Whether nothing was found.
fn one(binary: &Path, name: &str, seconds: u32) -> Result<bool> {
    let directory = target_dir().join("fuzz").join("inputs").join(name);
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let findings = target_dir().join("fuzz").join(format!("{name}-"));
    let status = Command::new(binary)
        .env("RST_FUZZ_TARGET", name)
        // SQLite's one file has two tables of one name, each static.
        .env("ASAN_OPTIONS", "detect_odr_violation=0")
        .args([
            format!("-max_total_time={seconds}"),
            format!("-timeout={SECONDS_AN_INPUT}"),
            format!("-rss_limit_mb={MEMORY_MB}"),
            format!("-artifact_prefix={}", findings.display()),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
            // It would need ptrace, which containers forbid.
            "-detect_leaks=0".to_owned(),
        ])
        // What is new goes to the first directory.
        .arg(&directory)
        .arg(root().join(DIRECTORY).join("corpus").join(name))
        .status()
        .with_context(|| format!("cannot run {}", binary.display()))?;
    if !status.success() {
        eprintln!(
            "{name} failed ({status}); again: RST_FUZZ_TARGET={name} {} {}HASH",
            binary.display(),
            findings.display()
        );
    }
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::{DIRECTORY, targets};
    use crate::root;

    #[test]
    fn each_target_has_its_corpus() {
        let source = std::fs::read_to_string(root().join(DIRECTORY).join("src/main.rs")).unwrap();
        let corpus = root().join(DIRECTORY).join("corpus");
        let names = targets(&corpus).unwrap();
        let table = source.split_once("const TARGETS").unwrap().1;
        let table = table.split_once("];").unwrap().0;
        assert_eq!(table.matches("(\"").count(), names.len());
        for name in names {
            assert!(table.contains(&format!("(\"{name}\", {name})")), "{name}");
            let inputs = std::fs::read_dir(corpus.join(&name)).unwrap();
            assert!(inputs.count() > 0, "{name}");
        }
    }
}
