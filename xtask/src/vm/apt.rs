//! apt with sources and package lists of its own, for one architecture: nothing is installed,
//! and apt's lists stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{arch::Arch, fetch::output};

/// Releases of Debian with kernels that are still maintained: in the security archive, and in the
/// main one.
const SECURITY_SUITES: [&str; 2] = ["bullseye-security", "bookworm-security"];
const SUITES: [&str; 1] = ["trixie-backports"];

/// The release that the programs of guests of another architecture are from.
const PROGRAMS_SUITE: &str = "bookworm";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// apt for an architecture.
pub(super) struct Apt {
    dir: PathBuf,
    arch: Arch,
}

impl Apt {
    /// With its files below `dir`.
    pub(super) fn new(dir: PathBuf, arch: Arch) -> Result<Self> {
        let make = || {
            fs::create_dir_all(dir.join("lists/partial"))?;
            fs::create_dir_all(dir.join("archives/partial"))?;
            // Of packages that are installed: none.
            fs::write(dir.join("status"), "")
        };
        make().with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir, arch })
    }

    /// Reads the package lists.
    pub(super) fn refresh(&self) -> Result<()> {
        let sources = sources(&archives()?, self.arch)?;
        fs::write(self.dir.join("sources.list"), sources)?;
        eprintln!(
            "  read Debian's lists of packages for {} ..",
            self.arch.debian()
        );
        output(self.command("apt-get").arg("update"))?;
        Ok(())
    }

    /// The names of packages with this prefix, one a line.
    pub(super) fn names(&self, prefix: &str) -> Result<String> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(String::from_utf8_lossy(&names.stdout).into_owned())
    }

    /// Downloads packages, as apt takes their names, and unpacks them below `to`.
    pub(super) fn unpack(&self, packages: &[String], to: &Path) -> Result<()> {
        self.clean()?;
        let mut download = self.command("apt-get");
        download.arg("download").args(packages);
        output(download.current_dir(self.dir.join("archives")))?;
        self.unpack_archives(to)
    }

    /// Likewise, with the packages that they depend on.
    pub(super) fn unpack_whole(&self, packages: &[&str], to: &Path) -> Result<()> {
        self.clean()?;
        let mut download = self.command("apt-get");
        download.args([
            "install",
            "--yes",
            "--download-only",
            "--no-install-recommends",
        ]);
        output(download.args(packages))?;
        self.unpack_archives(to)
    }

    fn unpack_archives(&self, to: &Path) -> Result<()> {
        for package in self.archives()? {
            output(Command::new("dpkg-deb").arg("-x").arg(&package).arg(to))?;
        }
        self.clean()
    }

    /// Removes what was downloaded, also by one that was killed.
    fn clean(&self) -> Result<()> {
        self.archives()?.iter().try_for_each(fs::remove_file)?;
        Ok(())
    }

    /// The packages that are downloaded.
    fn archives(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.dir.join("archives"))?;
        let files = entries.map(|entry| Ok(entry?.path()));
        let files: Vec<PathBuf> = files.collect::<Result<_>>()?;
        let is_package = |file: &PathBuf| file.extension().is_some_and(|end| end == "deb");
        Ok(files.into_iter().filter(is_package).collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut set = |name: &str, value: &str| {
            command.arg("-o").arg(format!("{name}={value}"));
        };
        let file = |name: &str| self.dir.join(name).to_string_lossy().into_owned();
        set("quiet", "2");
        set("APT::Architecture", self.arch.debian());
        set("APT::Architectures", self.arch.debian());
        set("Dir::Etc::sourcelist", &file("sources.list"));
        set("Dir::Etc::sourceparts", "-");
        set("Dir::State::lists", &file("lists"));
        set("Dir::State::status", &file("status"));
        set("Dir::Cache", &self.dir.to_string_lossy());
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
fn sources(archives: &str, arch: Arch) -> Result<String> {
    let (security, main) = (
        archive(archives, "debian-security")?,
        archive(archives, "debian")?,
    );
    let line = |uri: &str, suite: &str| {
        let arch = arch.debian();
        format!("deb [signed-by={KEYRING} arch={arch}] {uri} {suite} main\n")
    };
    let security = SECURITY_SUITES.map(|suite| line(security, suite));
    let programs = match arch {
        Arch::Amd64 => None,
        Arch::Arm64 => Some(PROGRAMS_SUITE),
    };
    let suites = SUITES.into_iter().chain(programs);
    let main = suites.map(|suite| line(main, suite));
    Ok(security.into_iter().chain(main).collect())
}

#[cfg(test)]
mod tests {
    use super::{Arch, sources};

    #[test]
    fn the_archives_of_this_machine_are_asked() {
        let archives = "http://mirror/debian/\nhttp://other/\nhttp://mirror/debian-security/\n";
        let sources = sources(archives, Arch::Amd64).unwrap();
        let uris: Vec<_> = sources
            .lines()
            .filter_map(|line| line.split(' ').nth(3))
            .collect();
        let security = "http://mirror/debian-security/";
        assert_eq!(uris, [security, security, "http://mirror/debian/"]);
        assert!(!sources.contains("arm64"));
    }

    #[test]
    fn another_distribution_is_told() {
        let error = sources("http://mirror/ubuntu/\n", Arch::Amd64)
            .unwrap_err()
            .to_string();
        assert!(error.contains("debian-security"), "{error}");
    }

    #[test]
    fn guests_of_another_architecture_need_programs_too() {
        let archives = "http://mirror/debian/\nhttp://mirror/debian-security/\n";
        let sources = sources(archives, Arch::Arm64).unwrap();
        let last = sources.lines().last().unwrap();
        assert!(
            last.ends_with("arch=arm64] http://mirror/debian/ bookworm main"),
            "{last}"
        );
    }
}
