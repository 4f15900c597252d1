//! Debian's kernels, fetched once into a cache outside the repository.
//!
//! They come from the archives that this machine's apt uses, from other releases of Debian
//! ([`super::apt`]).

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use super::{
    apt::Apt,
    arch::Arch,
    release::{self, Release},
};

/// In the user's cache. The number changes with what is kept of a kernel.
const CACHE: &str = "rst/kernels-2";

/// Modules that the tests need where they are not built in, by the folder of the guest's that
/// they are in.
const MODULES: [(&str, &[&str]); 2] = [
    // Loaded at the start: veth pairs, TUN devices, `ss -K`.
    ("modules", &["veth", "tun", "tcp_diag"]),
    // When a test sets a rule of netfilter's, which may be after the daemon's start.
    ("modules-nft", &["nft_reject_inet"]),
];

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) arch: Arch,
    /// As `uname -r` has it.
    pub(crate) release: String,
    /// `vmlinuz`, and folders of modules, each in the order of their names.
    pub(crate) dir: PathBuf,
}

impl Kernel {
    /// Its folders of modules.
    pub(super) fn modules(&self) -> impl Iterator<Item = (&'static str, PathBuf)> {
        MODULES
            .into_iter()
            .map(|(folder, _)| (folder, self.dir.join(folder)))
    }
}

/// The kernels of these series; for each that can't be had, why. Those in the cache are taken as
/// they are unless `update`.
pub(crate) fn kernels(series: &[String], update: bool) -> Result<Vec<Result<Kernel>>> {
    let cache = Cache::open()?;
    // Read for those architectures alone that lack something.
    let mut lists = Vec::new();
    for arch in Arch::ALL {
        let mut of_it = series.iter().filter(|series| Arch::of(series).0 == arch);
        if of_it.any(|series| update || cache.find(series).is_none()) {
            let apt = cache.apt(arch)?;
            apt.refresh()?;
            lists.push((arch, apt.names("linux-")?, apt));
        }
    }
    let obtained = series.iter().map(|series| match cache.find(series) {
        Some(kernel) if !update => Ok(kernel),
        _ => {
            let lists = lists.iter().find(|lists| lists.0 == Arch::of(series).0);
            let (_, names, apt) =
                lists.with_context(|| format!("{series} has gone from the cache"))?;
            cache.fetch(series, names, apt)
        }
    });
    Ok(obtained.collect())
}

/// Where the user's caches are.
pub(super) fn cache_base() -> Result<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

/// What is kept of Debian. One xtask at a time has it.
pub(super) struct Cache {
    dir: PathBuf,
    _lock: fs::File,
}

impl Cache {
    pub(super) fn open() -> Result<Self> {
        let dir = cache_base()?.join(CACHE);
        let open = || {
            fs::create_dir_all(&dir)?;
            let lock = fs::File::open(&dir)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            io::Result::Ok(lock)
        };
        let lock = open().with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// apt for an architecture.
    pub(super) fn apt(&self, arch: Arch) -> Result<Apt> {
        let dir = match arch {
            Arch::Amd64 => "apt",
            Arch::Arm64 => "apt-arm64",
        };
        Apt::new(self.dir.join(dir), arch)
    }

    /// Whether there is a directory of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.dir.join(name).is_dir()
    }

    /// The directory of this name, made by `fill` where it is not there or `anew`.
    pub(super) fn directory(
        &self,
        name: &str,
        anew: bool,
        fill: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let dir = self.dir.join(name);
        if anew || !dir.is_dir() {
            let work = self.work()?;
            fill(&work)?;
            if dir.is_dir() {
                fs::remove_dir_all(&dir)?;
            }
            fs::rename(work, &dir)?;
        }
        Ok(dir)
    }

    /// An empty directory.
    fn work(&self) -> Result<PathBuf> {
        let work = self.dir.join("work");
        if work.exists() {
            // Left behind by one that was killed.
            fs::remove_dir_all(&work)?;
        }
        fs::create_dir(&work)?;
        Ok(work)
    }

    /// A series is a link to its newest release.
    fn find(&self, series: &str) -> Option<Kernel> {
        let release = fs::read_link(self.dir.join(series)).ok()?;
        let dir = self.dir.join(&release);
        dir.join("vmlinuz").is_file().then(|| Kernel {
            arch: Arch::of(series).0,
            release: release.to_string_lossy().into_owned(),
            dir,
        })
    }

    /// `names`: of the packages that there are.
    fn fetch(&self, series: &str, names: &str, apt: &Apt) -> Result<Kernel> {
        let packages: Vec<&str> = names.lines().collect();
        let (arch, version) = Arch::of(series);
        let release = release::choose(&packages, version, arch)
            .with_context(|| format!("Debian has no kernel {series} for cloud machines now"))?;
        if !self.dir.join(&release.name).is_dir() {
            eprintln!("  fetch Linux {} ..", release.name);
            self.unpack(&release, apt)
                .with_context(|| format!("cannot fetch Linux {}", release.name))?;
        }
        let link = self.dir.join(series);
        if link.is_symlink() {
            fs::remove_file(&link)?;
        }
        symlink(&release.name, &link)?;
        self.find(series)
            .with_context(|| format!("the packages of Linux {} hold no kernel", release.name))
    }

    /// Downloads and unpacks a release, and keeps of it what is needed.
    fn unpack(&self, release: &Release, apt: &Apt) -> Result<()> {
        let work = self.work()?;
        let kept = work.join("kept");
        fs::create_dir(&kept)?;
        apt.unpack(&release.packages, &work)?;
        // Newer ones have all of it below /usr.
        if work.join("usr/lib/modules").is_dir() {
            fs::create_dir_all(work.join("lib"))?;
            fs::rename(work.join("usr/lib/modules"), work.join("lib/modules"))?;
        }
        let name = &release.name;
        let modules = work.join("lib/modules").join(name);
        let kernel = [
            work.join(format!("boot/vmlinuz-{name}")),
            modules.join("vmlinuz"),
        ];
        let kernel = kernel.iter().find(|path| path.is_file());
        let kernel = kernel.context("the packages hold no vmlinuz")?;
        fs::rename(kernel, kept.join("vmlinuz"))?;

        output(Command::new("depmod").arg("-b").arg(&work).arg(name))?;
        let dependencies = fs::read_to_string(modules.join("modules.dep"))?;
        let builtin = fs::read_to_string(modules.join("modules.builtin"))?;
        for (folder, wanted) in MODULES {
            let kept = kept.join(folder);
            fs::create_dir(&kept)?;
            let order = load_order(wanted, &dependencies, &builtin)?;
            for (number, file) in order.iter().enumerate() {
                let module = modules.join(file);
                let packed = file.strip_suffix(".xz");
                let stem = Path::new(packed.unwrap_or(file)).file_name();
                let stem = stem.context("a module without a name")?.to_string_lossy();
                let to = kept.join(format!("{number:02}-{stem}"));
                if packed.is_some() {
                    let plain = output(Command::new("xz").arg("-dc").arg(&module))?;
                    fs::write(to, plain.stdout)?;
                } else {
                    fs::rename(module, to)?;
                }
            }
        }
        fs::rename(&kept, self.dir.join(name))?;
        fs::remove_dir_all(&work)?;
        Ok(())
    }
}

/// The files of modules and of what they need, those that others need first.
fn load_order(wanted: &[&str], dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let is = |file: &str, module: &str| {
        let name = Path::new(file)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        name.split_once(".ko")
            .is_some_and(|(stem, _)| stem.replace('-', "_") == module)
    };
    let mut order: Vec<String> = Vec::new();
    for &module in wanted {
        let line = dependencies.lines().find_map(|line| {
            let (file, needs) = line.split_once(':')?;
            is(file, module).then_some((file, needs))
        });
        let Some((file, needs)) = line else {
            if builtin.lines().any(|file| is(file, module)) {
                continue;
            }
            bail!("it has no module {module}");
        };
        // depmod names first what is needed last.
        for file in needs.split_whitespace().rev().chain([file]) {
            if !order.iter().any(|there| there == file) {
                order.push(file.to_owned());
            }
        }
    }
    Ok(order)
}

/// Runs a command quietly; what it said is the error where it fails.
pub(crate) fn output(command: &mut Command) -> Result<Output> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    ensure!(
        output.status.success(),
        "`{}` failed ({}): {}",
        crate::shown(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::load_order;

    #[test]
    fn modules_come_after_what_they_need() {
        let wanted = ["veth", "tun", "tcp_diag"];
        let dependencies = "\
kernel/net/ipv4/inet_diag.ko.xz:
kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz kernel/net/core/sock.ko.xz
kernel/drivers/net/tun.ko.xz:
";
        let order = load_order(&wanted, dependencies, "kernel/drivers/net/veth.ko\n").unwrap();
        assert_eq!(
            order,
            [
                "kernel/drivers/net/tun.ko.xz",
                "kernel/net/core/sock.ko.xz",
                "kernel/net/ipv4/inet_diag.ko.xz",
                "kernel/net/ipv4/tcp_diag.ko.xz",
            ]
        );
        assert!(load_order(&wanted, dependencies, "").is_err());
    }
}
