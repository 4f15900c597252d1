//! Debian's kernels, fetched once into a cache outside the repository.
//!
//! They come from the archives that this machine's apt uses, from other releases of Debian, with
//! package lists of their own: nothing is installed, and apt's lists stay as they are.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

use super::release::{self, Release};

/// In the user's cache. The number changes with what is kept of a kernel.
const CACHE: &str = "rst/kernels-1";

/// Releases of Debian with kernels that are still maintained: in the security archive, and in the
/// main one.
const SECURITY_SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];
const SUITES: [&str; 1] = ["trixie-backports"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Modules that the tests need where they are not built in: veth pairs, TUN devices, `ss -K`.
const MODULES: [&str; 3] = ["veth", "tun", "tcp_diag"];

/// A kernel in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    /// As `uname -r` has it.
    pub(crate) release: String,
    /// `vmlinuz`, and `modules` with what the tests need, in the order of their names.
    pub(crate) dir: PathBuf,
}

/// The kernels of these series; for each that can't be had, why. Those in the cache are taken as
/// they are unless `update`.
pub(crate) fn kernels(series: &[String], update: bool) -> Result<Vec<Result<Kernel>>> {
    let cache = Cache::open()?;
    if update || series.iter().any(|series| cache.find(series).is_none()) {
        cache.refresh()?;
        let listed = cache.packages()?;
        let packages: Vec<&str> = listed.lines().collect();
        let obtained = series.iter().map(|series| match cache.find(series) {
            Some(kernel) if !update => Ok(kernel),
            _ => cache.fetch(series, &packages),
        });
        return Ok(obtained.collect());
    }
    let cached = series.iter().map(|series| {
        let kernel = cache.find(series);
        kernel.with_context(|| format!("{series} has gone from the cache"))
    });
    Ok(cached.collect())
}

/// Where the user's caches are.
pub(super) fn cache_base() -> Result<PathBuf> {
    env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".cache")))
        .context("neither XDG_CACHE_HOME nor HOME is set")
}

struct Cache {
    dir: PathBuf,
    /// One xtask at a time changes it.
    _lock: fs::File,
}

impl Cache {
    fn open() -> Result<Self> {
        let dir = cache_base()?.join(CACHE);
        let open = || {
            fs::create_dir_all(dir.join("apt/lists/partial"))?;
            fs::create_dir_all(dir.join("apt/archives/partial"))?;
            let lock = fs::File::open(&dir)?;
            flock(&lock, FlockOperation::LockExclusive)?;
            io::Result::Ok(lock)
        };
        let lock = open().with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// A series is a link to its newest release.
    fn find(&self, series: &str) -> Option<Kernel> {
        let release = fs::read_link(self.dir.join(series)).ok()?;
        let dir = self.dir.join(&release);
        dir.join("vmlinuz").is_file().then(|| Kernel {
            release: release.to_string_lossy().into_owned(),
            dir,
        })
    }

    fn fetch(&self, series: &str, packages: &[&str]) -> Result<Kernel> {
        let release = release::choose(packages, series)
            .with_context(|| format!("Debian has no kernel {series} for cloud machines now"))?;
        if !self.dir.join(&release.name).is_dir() {
            eprintln!("  fetch Linux {} ..", release.name);
            self.unpack(&release)
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
    fn unpack(&self, release: &Release) -> Result<()> {
        let work = self.dir.join("work");
        if work.exists() {
            // Left behind by one that was killed.
            fs::remove_dir_all(&work)?;
        }
        let kept = work.join("kept");
        fs::create_dir_all(kept.join("modules"))?;
        let mut download = self.apt("apt-get");
        download.arg("download").args(&release.packages);
        output(download.current_dir(&work))?;
        for entry in fs::read_dir(&work)? {
            let package = entry?.path();
            if package
                .extension()
                .is_some_and(|extension| extension == "deb")
            {
                output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&work))?;
            }
        }
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
        for (number, file) in load_order(&dependencies, &builtin)?.iter().enumerate() {
            let module = modules.join(file);
            let packed = file.strip_suffix(".xz");
            let stem = Path::new(packed.unwrap_or(file)).file_name();
            let stem = stem.context("a module without a name")?.to_string_lossy();
            let to = kept.join(format!("modules/{number:02}-{stem}"));
            if packed.is_some() {
                let plain = output(Command::new("xz").arg("-dc").arg(&module))?;
                fs::write(to, plain.stdout)?;
            } else {
                fs::rename(module, to)?;
            }
        }
        fs::rename(&kept, self.dir.join(name))?;
        fs::remove_dir_all(&work)?;
        Ok(())
    }

    /// Reads the package lists.
    fn refresh(&self) -> Result<()> {
        let sources = sources(&archives()?)?;
        fs::write(self.dir.join("apt/sources.list"), sources)?;
        eprintln!("  read Debian's lists of kernels ..");
        output(self.apt("apt-get").arg("update"))?;
        Ok(())
    }

    fn packages(&self) -> Result<String> {
        let names = output(self.apt("apt-cache").args(["pkgnames", "linux-"]))?;
        Ok(String::from_utf8_lossy(&names.stdout).into_owned())
    }

    /// apt with sources and lists of its own, which knows of nothing that is installed.
    fn apt(&self, program: &str) -> Command {
        let apt = self.dir.join("apt");
        let mut command = Command::new(program);
        let mut set = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        set("quiet", "2");
        set("APT::Architecture", "amd64");
        set("APT::Architectures", "amd64");
        set(
            "Dir::Etc::sourcelist",
            &apt.join("sources.list").to_string_lossy(),
        );
        set("Dir::Etc::sourceparts", "-");
        set("Dir::State::lists", &apt.join("lists").to_string_lossy());
        set("Dir::State::status", "/dev/null");
        set("Dir::Cache", &apt.to_string_lossy());
        set("APT::Sandbox::User", "root");
        set("Acquire::Languages", "none");
        set("Acquire::Retries", "3");
        command
    }
}

/// Where Debian's packages are: the archive that this machine's apt uses.
pub(super) fn debian() -> Result<String> {
    Ok(archive(&archives()?, "debian")?.to_owned())
}

/// The addresses of apt's archives, one a line.
fn archives() -> Result<String> {
    let listed = output(Command::new("apt-get").args([
        "indextargets",
        "--format",
        "$(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    Ok(String::from_utf8_lossy(&listed.stdout).into_owned())
}

/// That of them with this name.
fn archive<'a>(archives: &'a str, name: &str) -> Result<&'a str> {
    let end = format!("/{name}/");
    archives
        .lines()
        .find(|uri| uri.ends_with(&end))
        .with_context(|| {
            format!(
                "apt has no archive `{name}`: the kernels are Debian's, add it to apt's sources"
            )
        })
}

/// apt's list of sources, from the addresses of the archives that this machine uses.
fn sources(archives: &str) -> Result<String> {
    let (security, main) = (
        archive(archives, "debian-security")?,
        archive(archives, "debian")?,
    );
    let line = |uri: &str, suite: &str| {
        format!("deb [signed-by={KEYRING} arch=amd64] {uri} {suite} main\n")
    };
    let security = SECURITY_SUITES.map(|suite| line(security, suite));
    let main = SUITES.map(|suite| line(main, suite));
    Ok(security.into_iter().chain(main).collect())
}

/// The files of [`MODULES`] and of what they need, those that others need first.
fn load_order(dependencies: &str, builtin: &str) -> Result<Vec<String>> {
    let is = |file: &str, module: &str| {
        let name = Path::new(file)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        name.split_once(".ko")
            .is_some_and(|(stem, _)| stem.replace('-', "_") == module)
    };
    let mut order: Vec<String> = Vec::new();
    for module in MODULES {
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
    use super::{load_order, sources};

    #[test]
    fn the_archives_of_this_machine_are_asked() {
        let archives = "http://mirror/debian/\nhttp://other/\nhttp://mirror/debian-security/\n";
        let sources = sources(archives).unwrap();
        let uris: Vec<_> = sources
            .lines()
            .filter_map(|line| line.split(' ').nth(3))
            .collect();
        let security = "http://mirror/debian-security/";
        assert_eq!(uris, [security, security, "http://mirror/debian/"]);
    }

    #[test]
    fn another_distribution_is_told() {
        let error = sources("http://mirror/ubuntu/\n").unwrap_err().to_string();
        assert!(error.contains("debian-security"), "{error}");
    }

    #[test]
    fn modules_come_after_what_they_need() {
        let dependencies = "\
kernel/net/ipv4/inet_diag.ko.xz:
kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz kernel/net/core/sock.ko.xz
kernel/drivers/net/tun.ko.xz:
";
        let order = load_order(dependencies, "kernel/drivers/net/veth.ko\n").unwrap();
        assert_eq!(
            order,
            [
                "kernel/drivers/net/tun.ko.xz",
                "kernel/net/core/sock.ko.xz",
                "kernel/net/ipv4/inet_diag.ko.xz",
                "kernel/net/ipv4/tcp_diag.ko.xz",
            ]
        );
        assert!(load_order(dependencies, "").is_err());
    }
}
