//! One guest: a kernel under QEMU that runs the tests, and what it says of them.

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{fetch::Kernel, initramfs::Base, results::Results};
use crate::{
    interrupt,
    process::{Dir, Running},
    target_dir,
    test::lines,
};

/// Longest that a guest may take; on a host with nothing else to do it takes a few minutes.
const LIMIT: Duration = Duration::from_secs(1800);

/// How often an interrupt is looked for.
const LOOK: Duration = Duration::from_millis(200);

/// Lines of the console that are shown where a guest does not reach its end.
const QUOTED_LINES: usize = 25;

/// On every kernel's command line. What guards against the processor's faults, and the clearing of
/// all memory, guard nothing here and take a tenth of the time.
const COMMON: &str = "quiet panic=-1 mitigations=off init_on_alloc=0";

/// What became of a guest.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Until the tests began.
    pub(crate) boot: Option<Duration>,
    /// From there to the end.
    pub(crate) run: Duration,
    pub(crate) results: Results,
    /// Why the guest did not come to its end, with its console's last lines.
    pub(crate) died: Option<String>,
}

/// Boots a kernel, runs the tests in it, and waits for its end. What it says, with the seconds
/// since the start, also goes to `vm/RELEASE.log` in cargo's target directory.
///
/// Emulated, for stock kernels do not run everywhere under KVM, and one processor, for several
/// guests run at once.
pub(crate) fn run(kernel: &Kernel, base: &Base) -> Result<Outcome> {
    let mut results = Results::default();
    let guest = Guest {
        kernel,
        memory: "1G",
        append: "",
        log: &kernel.release,
        limit: LIMIT,
    };
    let ending = guest.run(&base.with_modules(kernel)?, |line| results.add(line))?;
    Ok(Outcome {
        boot: ending.boot,
        run: ending.run,
        results,
        died: ending.died,
    })
}

/// What is booted, and how.
pub(super) struct Guest<'a> {
    pub(super) kernel: &'a Kernel,
    pub(super) memory: &'a str,
    /// More for the kernel's command line.
    pub(super) append: &'a str,
    /// Name of the log in cargo's target directory.
    pub(super) log: &'a str,
    /// Longest that it may take.
    pub(super) limit: Duration,
}

/// How a guest went.
pub(super) struct Ending {
    /// Until it said that it begins.
    pub(super) boot: Option<Duration>,
    /// From there to the end.
    pub(super) run: Duration,
    /// Why it did not come to its end, with its console's last lines.
    pub(super) died: Option<String>,
}

impl Guest<'_> {
    /// Boots it with this file system and waits for its end; `say` gets what it says in
    /// between.
    pub(super) fn run(&self, archive: &[u8], mut say: impl FnMut(&str)) -> Result<Ending> {
        let Self {
            kernel,
            memory,
            append,
            log,
            limit,
        } = self;
        let dir = Dir::new()?;
        let (initrd, console) = (dir.join("initrd"), dir.join("console"));
        fs::write(&initrd, archive)?;
        let arch = kernel.arch;
        let mut command = Command::new(arch.qemu());
        command
            .args(["-accel", "tcg", "-smp", "1", "-m", memory])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"]);
        arch.machine(&mut command, &format!("file:{}", console.display()));
        command
            .arg("-kernel")
            .arg(kernel.dir.join("vmlinuz"))
            .arg("-initrd")
            .arg(&initrd)
            .arg("-append")
            .arg(format!("{} {COMMON} {append}", arch.append()))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("errors"))?);
        let begin = Instant::now();
        let mut machine = Running::start(arch.qemu(), &mut command)?;
        let lines = lines(machine.stdout().context("qemu has no stdout")?);

        let logs = target_dir().join("vm");
        fs::create_dir_all(&logs)?;
        let mut log = fs::File::create(logs.join(format!("{log}.log")))?;
        let mut boot = None;
        let mut end = None;
        let died = loop {
            interrupt::check()?;
            match lines.recv_timeout(LOOK) {
                Ok(line) => {
                    let line = line.trim_end_matches('\r');
                    writeln!(log, "{:6.1} {line}", begin.elapsed().as_secs_f32())?;
                    if line == "GUEST-BEGINS" {
                        boot = Some(begin.elapsed());
                    } else if line.starts_with("GUEST-ENDS ") {
                        end = Some(begin.elapsed());
                    } else {
                        say(line);
                    }
                }
                Err(RecvTimeoutError::Disconnected) if end.is_some() => break None,
                Err(RecvTimeoutError::Disconnected) => break Some("it ended early".to_owned()),
                Err(RecvTimeoutError::Timeout) if begin.elapsed() < *limit => {}
                Err(RecvTimeoutError::Timeout) => {
                    break Some(format!("it did not end within {} s", limit.as_secs()));
                }
            }
        };
        machine.stop()?;
        let died = died.map(|why| {
            let said = [console, dir.join("errors")].map(|file| fs::read(file).unwrap_or_default());
            let said = String::from_utf8_lossy(&said.concat()).into_owned();
            let said: Vec<&str> = said.lines().collect();
            let last = said[said.len().saturating_sub(QUOTED_LINES)..].join("\n");
            format!("{why}; the console's last lines:\n{last}")
        });
        Ok(Ending {
            boot,
            run: end
                .unwrap_or_else(|| begin.elapsed())
                .saturating_sub(boot.unwrap_or_default()),
            died,
        })
    }
}
