//! `cargo xtask vm --boot`: Debian with its systemd boots under QEMU and starts
//! rst-daemon.service, the file as it is; a script ([`DRIVE`]) puts it to the test, and the
//! package after it.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{
    apt,
    arch::Arch,
    fetch::{self, Kernel, output},
    guest::Guest,
    initramfs::{archive, write_program},
};
use crate::{interrupt, package, process::Dir, setup, target_dir};

/// The kernel where none is named: Debian 12's own.
const SERIES: [&str; 1] = ["6.1"];

/// Debian in the user's cache. The number changes with what is in it.
const CACHE: &str = "rst/debian-1";

/// The release that is booted: its systemd is the oldest that the unit is written for.
const SUITE: &str = "bookworm";

/// What is in it besides the essential packages.
const PACKAGES: &str = "systemd,systemd-sysv,iproute2,mawk";

/// Nobody reads these there, and all of it has to fit into the guest's memory.
const LEFT_OUT: [&str; 7] = [
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/man/*",
    "/usr/share/zoneinfo/*",
    "/usr/share/info/*",
    "/usr/share/i18n/*",
    "/usr/share/bash-completion/*",
];

/// Longest that a guest may take.
const LIMIT: Duration = Duration::from_secs(900);

const DRIVE: &str = include_str!("boot/drive.sh");

const DRIVE_UNIT: &str = "[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/drive
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
";

/// More than the defaults, for an emulated processor is slow: rst may take all of it.
const SETTINGS: &str = "max_cpu_percent = 100\nidle_ms = 20000\n";

/// `cargo xtask vm --boot`.
pub(super) fn run(series: &[String], update: bool) -> Result<()> {
    ensure!(
        series
            .iter()
            .all(|series| Arch::of(series).0 == Arch::Amd64),
        "the boot test is for amd64 alone"
    );
    setup::ensure_build()?;
    setup::ensure_boot_tools()?;
    setup::ensure_package_tools()?;
    interrupt::install()?;
    let begin = Instant::now();
    let series = if series.is_empty() {
        SERIES.map(str::to_owned).into()
    } else {
        series.to_vec()
    };
    let debian = debian(update)?;
    let debian = fs::read(&debian).with_context(|| format!("cannot read {}", debian.display()))?;
    let initrd = [debian, overlay()?].concat();
    let mut failed = Vec::new();
    for (series, kernel) in series.iter().zip(fetch::kernels(&series, update)?) {
        let kernel = kernel.with_context(|| format!("Linux {series}"))?;
        eprintln!(
            "  boot Debian {SUITE} with Linux {} (ready after {:.0} s) ..",
            kernel.release,
            begin.elapsed().as_secs_f32()
        );
        failed.extend(boot(&kernel, &initrd)?);
    }
    ensure!(
        failed.is_empty(),
        "the service failed at {}",
        failed.join("; ")
    );
    Ok(())
}

/// Boots one kernel, prints what was found, and returns what failed.
fn boot(kernel: &Kernel, initrd: &[u8]) -> Result<Vec<String>> {
    let name = format!("boot-{}", kernel.release);
    let guest = Guest {
        kernel,
        memory: "2G",
        append: "rdinit=/lib/systemd/systemd systemd.firstboot=off \
                 systemd.mask=serial-getty@ttyS0.service systemd.show_status=false",
        log: &name,
        limit: LIMIT,
    };
    let mut report = Report::default();
    let ending = guest.run(initrd, |line| {
        if let Some(told) = report.add(line) {
            println!("  {told}");
        }
    })?;
    println!(
        "Linux {}: {} of {} checks passed; boot {:.0} s, checks {:.0} s; all of it: {}",
        kernel.release,
        report.passed,
        report.passed + report.failed.len(),
        ending.boot.unwrap_or_default().as_secs_f32(),
        ending.run.as_secs_f32(),
        target_dir().join(format!("vm/{name}.log")).display()
    );
    if let Some(why) = ending.died {
        bail!("the guest died: {why}");
    }
    ensure!(report.passed > 0, "the guest has checked nothing");
    Ok(report.failed)
}

/// What the guest has said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    passed: usize,
    failed: Vec<String>,
}

impl Report {
    /// Takes a line in; what to show of it.
    fn add<'a>(&mut self, line: &'a str) -> Option<&'a str> {
        if let Some(passed) = line.strip_prefix("CHECK ok ") {
            self.passed += 1;
            return Some(passed);
        }
        let failed = line.strip_prefix("CHECK FAILED ")?;
        self.failed.push(failed.to_owned());
        Some(&line["CHECK ".len()..])
    }
}

/// Debian as an archive that the kernel unpacks, and cpio, made once; the file.
pub(crate) fn debian(update: bool) -> Result<PathBuf> {
    let dir = fetch::cache_base()?.join(CACHE);
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // One xtask at a time makes it.
    let lock = fs::File::open(&dir)?;
    flock(&lock, FlockOperation::LockExclusive)?;
    let kept = dir.join(format!("{SUITE}.cpio"));
    if update || !kept.is_file() {
        eprintln!("  make a Debian {SUITE} (about a minute) ..");
        let work = Dir::new()?;
        let root = work.join("root");
        let mut command = Command::new("mmdebstrap");
        command.args(["--quiet", "--variant=apt", "--format=directory"]);
        command.arg(format!("--include={PACKAGES}"));
        for path in LEFT_OUT {
            command.arg(format!("--dpkgopt=path-exclude={path}"));
        }
        command.arg(SUITE).arg(&root);
        command.arg(format!("deb {} {SUITE} main", apt::debian()?));
        output(&mut command)?;
        for gone in ["var/lib/apt/lists", "var/cache/apt"] {
            fs::remove_dir_all(root.join(gone))?;
        }
        let unfinished = dir.join("unfinished");
        fs::write(&unfinished, archive(&root)?)?;
        fs::rename(unfinished, &kept)?;
    }
    Ok(kept)
}

/// What the Debian package brings, that package and the next to be installed at last, and the
/// script.
fn overlay() -> Result<Vec<u8>> {
    let (dir, made) = (Dir::new()?, Dir::new()?);
    let root_dir = dir.path();
    let debs = package::two_debs(made.path(), "dev")?;
    output(
        Command::new("dpkg-deb")
            .arg("--extract")
            .args([&debs[0], root_dir]),
    )?;
    for (deb, to) in debs.iter().zip(["now.deb", "next.deb"]) {
        fs::copy(deb, root_dir.join(to))?;
    }
    let etc = root_dir.join("etc");
    let wants = etc.join("systemd/system/multi-user.target.wants");
    fs::create_dir_all(&wants)?;
    fs::write(etc.join("rst/rst.toml"), SETTINGS)?;
    fs::write(etc.join("machine-id"), "b08dfa6083e7567a1921a715000001fb\n")?;
    fs::write(etc.join("systemd/system/drive.service"), DRIVE_UNIT)?;
    enable(&wants, "/etc/systemd/system/drive.service")?;
    enable(&wants, "/usr/lib/systemd/system/rst-daemon.service")?;
    let unit = "usr/lib/systemd/system/rst-daemon.service";
    let unit = fs::read_to_string(root_dir.join(unit))?;
    let drive = DRIVE.replace("CAPABILITIES", &mask(&unit)?);
    write_program(&root_dir.join("drive"), &drive)?;
    archive(root_dir)
}

fn enable(wants: &Path, unit: &str) -> io::Result<()> {
    let name = Path::new(unit).file_name().unwrap_or_default();
    symlink(unit, wants.join(name))
}

/// The capabilities that a unit grants, as `/proc/PID/status` shows them
/// (include/uapi/linux/capability.h).
fn mask(unit: &str) -> Result<String> {
    let granted = unit
        .lines()
        .find_map(|line| line.strip_prefix("AmbientCapabilities="))
        .context("the unit grants no capabilities")?;
    let mut mask = 0u64;
    for name in granted.split(' ') {
        mask |= match name {
            "CAP_DAC_READ_SEARCH" => 1 << 2,
            "CAP_SYS_PTRACE" => 1 << 19,
            "CAP_SYS_ADMIN" => 1 << 21,
            "CAP_PERFMON" => 1 << 38,
            "CAP_BPF" => 1 << 39,
            _ => bail!("{name} has no number in xtask/src/vm/boot.rs"),
        };
    }
    Ok(format!("{mask:016x}"))
}

#[cfg(test)]
mod tests {
    use super::{Report, mask};

    #[test]
    fn the_capabilities_of_a_unit() {
        let unit = "[Service]\nAmbientCapabilities=CAP_BPF CAP_PERFMON CAP_DAC_READ_SEARCH\n";
        assert_eq!(mask(unit).unwrap(), "000000c000000004");
        assert!(mask("AmbientCapabilities=CAP_X\n").is_err());
        assert!(mask("").is_err());
    }

    #[test]
    fn what_fails_is_told() {
        let mut report = Report::default();
        assert_eq!(report.add("CHECK ok ready"), Some("ready"));
        assert_eq!(report.add("Nov 22 something"), None);
        assert_eq!(report.add("CHECK FAILED stops: x"), Some("FAILED stops: x"));
        assert_eq!(
            (report.passed, report.failed),
            (1, vec!["stops: x".to_owned()])
        );
    }
}
