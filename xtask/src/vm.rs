//! `cargo xtask vm`: the kernel matrix. Debian's kernels boot under QEMU, and a choice of the
//! live tests ([`groups`]) runs in each, with the same expectations.

mod boot;
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
    fetch::Kernel,
    initramfs::{Base, Binaries},
    report::Row,
};
use crate::{cargo, interrupt, setup};

pub(crate) use self::{fetch::output, report::Tally};

#[cfg(test)]
pub(crate) use self::boot::debian;

/// What the matrix holds where nothing else is asked for.
const SERIES: [&str; 5] = ["5.10", "6.1", "6.12", "6.18", release::NEWEST];

/// Which kernels.
#[derive(Args, Default)]
pub(crate) struct Options {
    /// Series such as 6.12, or `newest`; five of them where none is named
    series: Vec<String>,
    /// Boot Debian's systemd with the unit file instead, and put the service to the test
    #[arg(long)]
    boot: bool,
    /// Look for newer kernels than those in the cache
    #[arg(long)]
    update: bool,
}

/// `cargo xtask vm`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.boot {
        return boot::run(&options.series, options.update);
    }
    let tally = matrix(options)?;
    if tally.failed > 0 {
        bail!("{} failures in the kernel matrix", tally.failed);
    }
    Ok(())
}

/// Runs the matrix, prints it, and says how many tests went how.
pub(crate) fn matrix(options: &Options) -> Result<Tally> {
    setup::ensure_build()?;
    setup::ensure_vm_tools()?;
    interrupt::install()?;
    let begin = Instant::now();
    let mut series = options.series.clone();
    if series.is_empty() {
        series = SERIES.map(str::to_owned).into();
    }
    let binaries = build()?;
    let listed = output(Command::new(&binaries.live).arg("--list"))?;
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let unknown = groups::unknown(&listed);
    ensure!(
        unknown.is_empty(),
        "xtask/src/vm/groups.rs names live tests that are not there: {}",
        unknown.join(", ")
    );
    let kernels = fetch::kernels(&series, options.update)?;
    let prepared = begin.elapsed();
    eprintln!(
        "kernels and tests are ready after {:.0} s",
        prepared.as_secs_f32()
    );

    let base = Base::new(&binaries)?;
    let rows = run_all(series, kernels, &base)?;
    println!("\n{}", report::table(&rows));
    println!("{}", report::notes(&rows));
    let all = listed
        .lines()
        .filter(|line| line.ends_with(": test"))
        .count();
    println!(
        "{} of {all} live tests ran on each kernel, in {:.0} s; the others need server programs or \
         time, and run on the host alone",
        groups::tests().count(),
        begin.elapsed().as_secs_f32()
    );
    Ok(report::tally(&rows))
}

/// Builds the live tests and the binary they run.
fn build() -> Result<Binaries> {
    let mut command = cargo("test");
    command.args(["--package", "rst-daemon", "--test", "live", "--no-run"]);
    command.arg("--message-format=json-render-diagnostics");
    let built = command
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo test")?;
    ensure!(built.status.success(), "the live tests do not compile");
    let text = String::from_utf8_lossy(&built.stdout);
    Ok(Binaries {
        live: executable(&text, "live")?,
        rst: executable(&text, "rst")?,
    })
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
fn run_all(series: Vec<String>, kernels: Vec<Result<Kernel>>, base: &Base) -> Result<Vec<Row>> {
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
                    *row = Some(one(series, kernel, base));
                }
            });
        }
    });
    interrupt::check()?;
    Ok(rows.into_iter().flatten().collect())
}

fn one(series: String, kernel: Result<Kernel>, base: &Base) -> Row {
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
    let outcome = guest::run(&kernel, base).map_err(|error| format!("{error:#}"));
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
