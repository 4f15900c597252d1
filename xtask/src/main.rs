//! `cargo xtask`: set-up, build, run, test, benchmark, packages and lint of the workspace.

mod bench;
mod deny;
mod fuzz;
mod interrupt;
mod lint;
mod package;
mod packages;
mod process;
mod run;
mod setup;
mod step;
mod test;
mod tidy;
mod toolchain;
mod vm;

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Parser;

#[derive(Parser)]
#[command(
    bin_name = "cargo xtask",
    about = "Set-up, build, test, benchmark and lint of rst"
)]
enum Cli {
    /// Install what building needs and this machine lacks
    Setup,
    /// Build the release binary, target/release/rst
    Build,
    /// Build, then run the daemon and print each reset as it happens
    Run {
        /// Further arguments of `rst daemon`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Run the unit tests and the live tests (root), then sum them up in one line
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
        /// All of the kernel matrix, as `cargo xtask vm` runs it, instead of its core
        #[arg(long)]
        kernels: bool,
    },
    /// Run live tests on other kernels, under QEMU (root)
    Vm(vm::Options),
    /// Fuzz what comes from outside, each target for a while
    Fuzz {
        /// Seconds for each target
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Measure what rst costs, beside other observers and none (root)
    Bench(bench::Options),
    /// Make the packages, in target/packages: .deb, .rpm and a tarball
    Package,
    /// Check formatting, clippy (host and eBPF), the dependencies and the house rules
    Lint,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli::Setup => setup::command(),
        Cli::Build => run::build(),
        Cli::Run { args } => run::daemon(&args),
        Cli::Test { filter, kernels } => test::run(filter.as_deref(), kernels),
        Cli::Vm(options) => vm::run(&options),
        Cli::Fuzz { seconds } => fuzz::command(seconds),
        Cli::Bench(options) => bench::run(&options),
        Cli::Package => package::run(),
        Cli::Lint => lint::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's directory.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies in the workspace")
}

/// Where cargo puts what it builds.
fn target_dir() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// The cargo that runs xtask, in the workspace's directory.
fn cargo(subcommand: &str) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.arg(subcommand).current_dir(root());
    command
}

/// Runs a command whose output the user sees.
fn succeed(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("cannot run {command:?}"))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// A command as one types it, without environment and paths of programs.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default();
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
