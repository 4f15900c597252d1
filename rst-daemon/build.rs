//! Compiles the eBPF programs (crate `rst-ebpf`) to `OUT_DIR/rst-ebpf-object`, which the library
//! embeds.
//!
//! It drives cargo itself instead of through aya-build, which leaves no way to set the target
//! cpu. It installs nothing: what is missing is the business of `cargo xtask setup`.

use std::{env, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result, ensure};
use object::build::elf::{Builder, SectionData};
use object::elf::SHT_STRTAB;

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

use toolchain::Toolchain;

/// Binary target of `rst-ebpf`, and the file's name in OUT_DIR.
const OBJECT: &str = "rst-ebpf-object";

fn main() -> ExitCode {
    // The dependency on the empty library of `rst-ebpf` reruns this script when one of its
    // dependencies changes, `rst-common` among them. Its binary's own files are added here.
    println!("cargo::rerun-if-changed=../rst-ebpf");

    let Some(toolchain) = Toolchain::find() else {
        return give_up("no Rust toolchain for eBPF is installed");
    };
    if !toolchain::linker_found() {
        return give_up("bpf-linker is missing or too old");
    }
    match compile(toolchain) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Has cargo print one line as the error of this package, instead of the output of a script that
/// failed.
fn give_up(what: &str) -> ExitCode {
    println!("cargo::error={what}: run `cargo xtask setup`");
    ExitCode::SUCCESS
}

fn compile(toolchain: Toolchain) -> Result<()> {
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let arch = env::var_os("CARGO_CFG_TARGET_ARCH").context("CARGO_CFG_TARGET_ARCH is not set")?;
    // A directory of its own: the outer cargo holds the lock of the usual one.
    let target_dir = out_dir.join("ebpf");

    let mut cargo = toolchain.cargo("build");
    cargo
        .args(["--release", "--bin", OBJECT, "--target-dir"])
        .arg(&target_dir)
        // The host's registers, whose layout aya-ebpf needs to know.
        .env("AYA_BPF_TARGET_ARCH", arch);
    let status = cargo
        .status()
        .with_context(|| format!("cannot run {cargo:?}"))?;
    ensure!(
        status.success(),
        "the eBPF programs do not compile, see above ({status})"
    );

    let built = target_dir
        .join(toolchain::TARGET)
        .join("release")
        .join(OBJECT);
    let whole = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let stripped =
        without_dwarf(&whole).with_context(|| format!("cannot strip {}", built.display()))?;
    let embedded = out_dir.join(OBJECT);
    fs::write(&embedded, stripped).with_context(|| format!("cannot write {}", embedded.display()))
}

/// The object without the sections for debuggers, four fifths of it. What the kernel's
/// verifier quotes the source from stays: that is BTF.
fn without_dwarf(whole: &[u8]) -> Result<Vec<u8>> {
    let mut object = Builder::read(whole)?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_") || name.starts_with(b".rel.debug_");
    }
    object.delete_orphans();
    // LLVM keeps the names of sections in the table of the symbols' names.
    let names = object.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(stripped)
}
