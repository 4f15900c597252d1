//! Finds out what building and testing need and this machine lacks, and installs it.
//!
//! What is already there is preferred. It does nothing before saying what, and nothing at all
//! where it can't do everything: then it prints the commands.

use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::{
    packages,
    packages::{
        BENCH_TOOLS, BOOT_TOOLS, CROSS_TOOLS, FUZZ_TOOLS, NoServices, PACKAGE_CRATES,
        PACKAGE_TOOLS, TEST_TOOLS, Tool, VM_TOOLS,
    },
    step::{Log, Step},
    toolchain,
    toolchain::Toolchain,
};

/// LLVM that bpf-linker is built with; it reads what compilers up to this version emit.
const LLVM_MAJOR: u32 = 22;

/// Where Debian puts that LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

const LINKER_INSTALL: &str = "cargo install bpf-linker --version 0.13.0 --locked --force \
                              --no-default-features --features llvm-22";

/// What to run where there are no Debian packages.
const WITHOUT_APT: &str = "  rustup toolchain install nightly --component rust-src,clippy\n  \
                           cargo binstall bpf-linker";

/// Without a network rustup may hang; with one this takes seconds.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// `cargo xtask setup`.
pub(crate) fn command() -> Result<()> {
    let toolchain = ensure_build()?;
    println!(
        "everything is in place: toolchain {}, bpf-linker",
        toolchain.name()
    );
    Ok(())
}

/// Sees to it that the daemon with its eBPF programs can be built.
pub(crate) fn ensure_build() -> Result<Toolchain> {
    let linker = toolchain::linker_found();
    if linker && let Some(toolchain) = Toolchain::find() {
        return Ok(toolchain);
    }
    ensure!(
        packages::has_command("rustup"),
        "rustup is not installed: see https://rustup.rs"
    );

    let mut found = Found {
        toolchain: Toolchain::find().is_some_and(|toolchain| linker || readable(toolchain)),
        linker,
        rust_packages: packages::missing(packages::RUST),
        llvm_packages: packages::missing(packages::LLVM),
    };
    let mut log = Log::create()?;
    let by_packages = packages::has_command("apt-get") && packages::is_root();
    if found.wants_rust_src(by_packages) && nightly_llvm().is_some_and(|major| major <= LLVM_MAJOR)
    {
        let step = rust_src();
        eprintln!(
            "missing: {}\nfirst, for {} s at most:\n  {step}",
            found.lack(),
            RUSTUP_LIMIT.as_secs()
        );
        found.toolchain = step.run(&mut log).is_ok() && Toolchain::find().is_some();
        if !found.toolchain {
            eprintln!("rustup can't fetch it, see {}", log.path.display());
        }
    }
    if !found.complete() {
        eprintln!("missing: {}", found.lack());
        perform(&found.plan(), &mut log)?;
    }
    match Toolchain::find() {
        Some(toolchain) if toolchain::linker_found() => Ok(toolchain),
        _ => bail!(
            "everything was installed, yet {} can't be run; is ~/.cargo/bin on the PATH?",
            found.lack()
        ),
    }
}

/// Sees to it that clippy can look at the eBPF programs.
pub(crate) fn ensure_clippy(toolchain: Toolchain) -> Result<()> {
    let works = || {
        let mut command = toolchain::rustup_run(toolchain.name(), "cargo");
        toolchain::output(command.args(["clippy", "--version"])).is_some()
    };
    if works() {
        return Ok(());
    }
    eprintln!("missing: clippy of toolchain {}", toolchain.name());
    let title = "install clippy of the eBPF toolchain";
    let steps = match toolchain {
        Toolchain::Linked => vec![
            packages::refresh(),
            packages::install(title, &[packages::CLIPPY]),
        ],
        Toolchain::Nightly => vec![Step::new(
            title,
            "rustup component add clippy --toolchain nightly",
        )],
    };
    perform(&steps, &mut Log::create()?)
}

/// Installs what the tests need. What can't be installed is said: its tests will be skipped.
pub(crate) fn ensure_test_tools() -> Result<()> {
    ensure_tools(TEST_TOOLS, "for the tests", "their tests are skipped")
}

/// Installs what fuzzing needs.
pub(crate) fn ensure_fuzz_tools() -> Result<()> {
    ensure_tools(FUZZ_TOOLS, "for fuzzing", "there is no fuzzing without")
}

/// Installs what the benchmark needs. What can't be installed is said, also in its tables.
pub(crate) fn ensure_bench_tools() -> Result<()> {
    ensure_tools(BENCH_TOOLS, "for the benchmark", "they are left out")
}

/// Installs what the kernel matrix needs; an error where that can't be done.
pub(crate) fn ensure_vm_tools() -> Result<()> {
    require_tools(VM_TOOLS, "the kernel matrix")
}

/// Installs what kernels of arm64 need; an error where that can't be done.
pub(crate) fn ensure_cross_tools() -> Result<()> {
    require_tools(CROSS_TOOLS, "a kernel of arm64")
}

/// Installs what the boot test needs; an error where that can't be done.
pub(crate) fn ensure_boot_tools() -> Result<()> {
    ensure_vm_tools()?;
    require_tools(BOOT_TOOLS, "the boot test")
}

/// Installs what making packages needs; an error where that can't be done.
pub(crate) fn ensure_package_tools() -> Result<()> {
    require_tools(PACKAGE_TOOLS, "making packages")?;
    let steps: Vec<Step> = PACKAGE_CRATES
        .iter()
        .filter(|tool| !packages::has_command(tool.name))
        .map(|tool| {
            let install = format!(
                "cargo install {} --version {} --locked",
                tool.name, tool.version
            );
            Step::new(&format!("build {} (some minutes)", tool.name), &install)
        })
        .collect();
    if steps.is_empty() {
        return Ok(());
    }
    perform(&steps, &mut Log::create()?)
}

/// Installs all of these, or fails.
fn require_tools(tools: &[Tool], what: &str) -> Result<()> {
    ensure_tools(
        tools,
        &format!("for {what}"),
        &format!("{what} can't be run"),
    )?;
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !packages::has_command(tool.command))
        .map(|tool| tool.package)
        .collect();
    ensure!(
        missing.is_empty(),
        "{what} needs {}: install them",
        missing.join(", ")
    );
    Ok(())
}

/// `without`: what becomes of those that can't be installed.
fn ensure_tools(tools: &[Tool], purpose: &str, without: &str) -> Result<()> {
    let missing: Vec<_> = tools
        .iter()
        .filter(|tool| !packages::has_command(tool.command))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("missing {purpose}:");
    for tool in &missing {
        eprintln!("  {:12} {}", tool.package, tool.reason);
    }
    if !packages::has_command("apt-get") || !packages::is_root() {
        eprintln!("warning: only root with apt-get can install them; {without}");
        return Ok(());
    }
    let _guard = NoServices::start()?;
    let mut log = Log::create()?;
    // One by one: a package that this system does not have must not keep the others away.
    let installs = missing
        .iter()
        .map(|tool| packages::install(&format!("install {}", tool.package), &[tool.package]));
    std::iter::once(packages::refresh())
        .chain(installs)
        .try_for_each(|step| step.optional().run(&mut log))
}

/// What was found on this machine.
struct Found {
    /// A toolchain can build for eBPF.
    toolchain: bool,
    /// A linker that is new enough.
    linker: bool,
    /// Debian's Rust packages that are not installed.
    rust_packages: Vec<&'static str>,
    /// Debian's LLVM packages that are not installed.
    llvm_packages: Vec<&'static str>,
}

impl Found {
    fn complete(&self) -> bool {
        self.toolchain && self.linker
    }

    /// rustup is asked only where Debian's packages are neither there nor to be
    /// had: theirs is the compiler whose output is tested on every kernel.
    fn wants_rust_src(&self, by_packages: bool) -> bool {
        !self.toolchain && !by_packages && !self.rust_packages.is_empty()
    }

    fn lack(&self) -> String {
        let toolchain = (!self.toolchain).then_some("a Rust toolchain for eBPF");
        let linker = (!self.linker).then_some("bpf-linker");
        toolchain
            .into_iter()
            .chain(linker)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// The steps from here to a complete set-up.
    fn plan(&self) -> Vec<Step> {
        let mut wanted = Vec::new();
        if !self.toolchain {
            wanted.extend(&self.rust_packages);
        }
        if !self.linker {
            wanted.extend(&self.llvm_packages);
        }
        let mut steps = Vec::new();
        if !wanted.is_empty() {
            steps.push(packages::refresh());
            steps.push(packages::install(
                &format!("install {}", wanted.join(", ")),
                &wanted,
            ));
        }
        if !self.toolchain {
            let link = format!("rustup toolchain link {} /usr", toolchain::LINKED_NAME);
            steps.push(Step::new(
                "link Debian's Rust as a toolchain of rustup",
                &link,
            ));
        }
        if !self.linker {
            let build = Step::new("build bpf-linker (about 2 minutes)", LINKER_INSTALL);
            steps.push(build.env("LLVM_PREFIX", LLVM_PREFIX));
        }
        steps
    }
}

fn rust_src() -> Step {
    Step::new(
        "fetch rust-src",
        "rustup component add rust-src --toolchain nightly",
    )
    .limit(RUSTUP_LIMIT)
}

/// Runs the steps after saying them, or explains why it can't.
fn perform(steps: &[Step], log: &mut Log) -> Result<()> {
    let packages_wanted = steps.iter().any(|step| step.needs_root);
    if packages_wanted && !packages::has_command("apt-get") {
        bail!("it can't be installed from here: there is no apt-get. Run\n{WITHOUT_APT}");
    }
    if packages_wanted && !packages::is_root() {
        bail!(
            "it can't be installed from here: this is not root. Run\n{}",
            commands(steps, "sudo ")
        );
    }
    eprintln!("to do:\n{}", commands(steps, ""));
    steps.iter().try_for_each(|step| step.run(log))
}

fn commands(steps: &[Step], as_root: &str) -> String {
    let line = |step: &Step| format!("  {}{step}", if step.needs_root { as_root } else { "" });
    steps.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// Whether the linker that would be built can read what this toolchain emits.
fn readable(toolchain: Toolchain) -> bool {
    match toolchain {
        Toolchain::Linked => true,
        Toolchain::Nightly => nightly_llvm().is_some_and(|major| major <= LLVM_MAJOR),
    }
}

/// LLVM version of the nightly toolchain, if one is installed.
fn nightly_llvm() -> Option<u32> {
    let mut command = toolchain::rustup_run(Toolchain::Nightly.name(), "rustc");
    llvm_major(&toolchain::output(
        command.arg("--verbose").arg("--version"),
    )?)
}

fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Found, commands, llvm_major};

    fn plan(found: &Found) -> String {
        commands(&found.plan(), "sudo ")
    }

    #[test]
    fn a_bare_machine_gets_everything() {
        let found = Found {
            toolchain: false,
            linker: false,
            rust_packages: vec!["rustc-web"],
            llvm_packages: vec!["llvm-22-dev"],
        };
        assert!(found.wants_rust_src(false));
        assert!(!found.wants_rust_src(true));
        assert_eq!(found.lack(), "a Rust toolchain for eBPF, bpf-linker");
        assert_eq!(
            plan(&found),
            "  sudo apt-get -o DPkg::Lock::Timeout=120 update\n  \
             sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=120 install --yes \
             --no-install-recommends rustc-web llvm-22-dev\n  \
             rustup toolchain link rst-bpf /usr\n  \
             LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked \
             --force --no-default-features --features llvm-22"
        );
    }

    #[test]
    fn packages_that_are_there_are_only_linked() {
        let found = Found {
            toolchain: false,
            linker: true,
            rust_packages: vec![],
            llvm_packages: vec!["llvm-22-dev"],
        };
        assert!(!found.wants_rust_src(false));
        assert_eq!(plan(&found), "  rustup toolchain link rst-bpf /usr");
    }

    #[test]
    fn a_nightly_with_rust_src_needs_only_the_linker() {
        let found = Found {
            toolchain: true,
            linker: false,
            rust_packages: vec!["rustc-web"],
            llvm_packages: vec![],
        };
        assert!(!found.wants_rust_src(false));
        assert_eq!(found.lack(), "bpf-linker");
        assert!(
            plan(&found).starts_with("  LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker")
        );
    }

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        assert_eq!(
            llvm_major("rustc 1.97.0\nrelease: 1.97.0\nLLVM version: 22.1.4\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.97.0"), None);
    }
}
