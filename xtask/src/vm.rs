//! `cargo xtask vm`: the kernel matrix. Debian's kernels boot under QEMU, and a choice of the
//! live tests ([`groups`]) runs in each, with the same expectations.

mod apt;
mod arch;
mod boot;
mod cross;
mod fetch;
mod groups;
mod guest;
mod initramfs;
mod release;
mod report;
mod results;

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    sync::Mutex,
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use serde_json::Value;

use self::{
    arch::Arch,
    fetch::Kernel,
    initramfs::{Base, Binaries, System},
    report::Row,
};
use crate::{cargo, interrupt, setup, toolchain::Toolchain};

pub(crate) use self::{fetch::output, groups::Choice, report::Tally};

#[cfg(test)]
pub(crate) use self::boot::debian;

/// What the matrix holds where nothing else is asked for.
const SERIES: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", release::NEWEST];

/// Which kernels.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Series such as 6.12, or `newest`; five of them where none is named. With `-arm64` at the
    /// end on such a processor: 6.12-arm64
    series: Vec<String>,
    /// Boot Debian's systemd with the unit file instead, and put the service to the test
    #[arg(long)]
    boot: bool,
    /// A test of each group alone, as `cargo xtask test` has them
    #[arg(long)]
    core: bool,
    /// Look for newer kernels than those in the cache
    #[arg(long)]
    update: bool,
}

/// `cargo xtask vm`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.boot {
        return boot::run(&options.series, options.update);
    }
    let choice = if options.core {
        Choice::Core
    } else {
        Choice::All
    };
    let tally = matrix(options, choice)?;
    if tally.failed > 0 {
        bail!("{} failures in the kernel matrix", tally.failed);
    }
    Ok(())
}

/// Runs the matrix, prints it, and says how many tests went how.
pub(crate) fn matrix(options: &Options, choice: Choice) -> Result<Tally> {
    let toolchain = setup::ensure_build()?;
    setup::ensure_vm_tools()?;
    interrupt::install()?;
    let begin = Instant::now();
    let mut series = options.series.clone();
    if series.is_empty() {
        series = SERIES.map(str::to_owned).into();
    }
    let mut bases = Vec::new();
    for arch in Arch::ALL {
        if series.iter().any(|series| Arch::of(series).0 == arch) {
            bases.push((arch, base(arch, toolchain, options.update, choice)?));
        }
    }
    let kernels = fetch::kernels(&series, options.update)?;
    let prepared = begin.elapsed();
    eprintln!(
        "kernels and tests are ready after {:.0} s",
        prepared.as_secs_f32()
    );

    let rows = run_all(series, kernels, &bases)?;
    println!("\n{}", report::table(&rows, choice));
    println!("{}", report::notes(&rows));
    println!(
        "{} live tests ran on each kernel, in {:.0} s; the others need server programs or time, and \
         run on the host alone",
        groups::tests(choice).count(),
        begin.elapsed().as_secs_f32()
    );
    Ok(report::tally(&rows, choice))
}

/// What all guests of an architecture share.
fn base(arch: Arch, toolchain: Toolchain, update: bool, choice: Choice) -> Result<Base> {
    let (binaries, system) = match arch {
        Arch::Amd64 => {
            let binaries = build(cargo("test"))?;
            check_groups(&binaries)?;
            (binaries, System::host())
        }
        // A test that is not there would be one without a result, a failure.
        Arch::Arm64 => cross::build(toolchain, update)?,
    };
    Base::new(&binaries, &system, choice)
}

/// Whether every test that is to run is there.
fn check_groups(binaries: &Binaries) -> Result<()> {
    let listed = output(Command::new(&binaries.live).arg("--list"))?;
    let unknown = groups::unknown(&String::from_utf8_lossy(&listed.stdout));
    ensure!(
        unknown.is_empty(),
        "xtask/src/vm/groups.rs names live tests that are not there: {}",
        unknown.join(", ")
    );
    Ok(())
}

/// Builds the live tests and the binary they run, by this `cargo test`.
fn build(mut command: Command) -> Result<Binaries> {
    command.args(["--package", "rst-daemon", "--test", "live", "--no-run"]);
    let text = messages(&mut command)?;
    Ok(Binaries {
        live: executable(&text, "live")?,
        rst: executable(&text, "rst")?,
    })
}

/// Has cargo build; its messages, which name what was built.
pub(crate) fn messages(command: &mut Command) -> Result<String> {
    let built = command
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(built.status.success(), "it does not compile: {command:?}");
    Ok(String::from_utf8_lossy(&built.stdout).into_owned())
}

/// Where cargo says that it has put a target.
pub(crate) fn executable(messages: &str, target: &str) -> Result<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .with_context(|| format!("cargo names no executable `{target}`"))
}

/// Runs the guests, one more at once than there are processors: they wait now and then.
fn run_all(
    series: Vec<String>,
    kernels: Vec<Result<Kernel>>,
    bases: &[(Arch, Base)],
) -> Result<Vec<Row>> {
    let at_once = thread::available_parallelism().map_or(1, usize::from) + 1;
    let mut rows: Vec<Option<Row>> = series.iter().map(|_| None).collect();
    let waiting = Mutex::new(rows.iter_mut().zip(series).zip(kernels));
    let next = || {
        let mut waiting = waiting
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        waiting.next()
    };
    thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(((row, series), kernel)) = next() {
                    if interrupt::raised() {
                        return;
                    }
                    *row = Some(one(series, kernel, bases));
                }
            });
        }
    });
    interrupt::check()?;
    Ok(rows.into_iter().flatten().collect())
}

fn one(series: String, kernel: Result<Kernel>, bases: &[(Arch, Base)]) -> Row {
    let kernel = match kernel {
        Ok(kernel) => kernel,
        Err(error) => {
            return Row {
                series,
                release: None,
                outcome: Err(format!("{error:#}")),
            };
        }
    };
    let base = bases.iter().find(|(arch, _)| *arch == kernel.arch);
    let outcome = base
        .with_context(|| format!("nothing is built for {}", kernel.arch.debian()))
        .and_then(|(_, base)| guest::run(&kernel, base))
        .map_err(|error| format!("{error:#}"));
    if let Ok(outcome) = &outcome {
        eprintln!(
            "  Linux {} .. {:.0} s",
            kernel.release,
            outcome.run.as_secs_f32()
        );
    }
    Row {
        series,
        release: Some(kernel.release),
        outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::executable;

    #[test]
    fn the_executables_are_found_among_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"name":"rst"},"executable":null}
{"reason":"compiler-artifact","target":{"name":"rst"},"executable":"/target/debug/rst"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(
            executable(messages, "rst").unwrap(),
            Path::new("/target/debug/rst")
        );
        assert!(executable(messages, "live").is_err());
    }
}
