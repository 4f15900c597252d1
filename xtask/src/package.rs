//! `cargo xtask package`: the Debian package, the RPM package, and a tarball whose program
//! needs no libraries.
//!
//! What they hold stands in `rst-daemon/Cargo.toml`, for cargo-deb and for cargo-generate-rpm;
//! the tarball has what the Debian package has.

mod notices;
#[cfg(test)]
mod tests;

use std::{
    env,
    env::consts::ARCH,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    cargo,
    process::Dir,
    root, setup, succeed, target_dir,
    vm::{executable, messages, output},
};

/// What is in the Debian package for Debian alone, below `usr/share`.
const DEBIAN_ONLY: [&str; 2] = ["lintian", "doc/rst/changelog.Debian.gz"];

/// The licence of the C library.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

/// The packages that were made.
struct Packages {
    deb: PathBuf,
    rpm: PathBuf,
}

/// `cargo xtask package`.
pub(crate) fn run() -> Result<()> {
    setup::ensure_build()?;
    setup::ensure_package_tools()?;
    let dir = target_dir().join("packages");
    let made = make(&dir, "release")?;
    let tarball = make_tarball(&dir, &made.deb, "release")?;
    for path in [made.deb, made.rpm, tarball] {
        let bytes = fs::metadata(&path)?.len();
        #[expect(clippy::cast_precision_loss, reason = "it is shown with one decimal")]
        let megabytes = bytes as f64 / 1e6;
        println!("{} ({megabytes:.1} MB)", path.display());
    }
    Ok(())
}

/// The target, named so that what is said of it does not apply to what runs in the build.
fn target() -> String {
    format!("{ARCH}-unknown-linux-gnu")
}

/// Builds what goes into both packages with this profile of cargo, and makes them in `dir`.
fn make(dir: &Path, profile: &str) -> Result<Packages> {
    let staged = Staged::build(profile)?;
    empty(dir)?;
    Ok(Packages {
        deb: staged.deb(dir, &[])?,
        rpm: staged.rpm(dir)?,
    })
}

/// Makes the Debian package, then the one that follows it, in `dir`.
pub(crate) fn two_debs(dir: &Path, profile: &str) -> Result<[PathBuf; 2]> {
    let staged = Staged::build(profile)?;
    let newer = concat!(env!("CARGO_PKG_VERSION"), "-2");
    let make = |name: &str, more: &[&str]| {
        let dir = dir.join(name);
        empty(&dir)?;
        staged.deb(&dir, more)
    };
    Ok([make("now", &[])?, make("next", &["--deb-version", newer])?])
}

/// What cargo-deb and cargo-generate-rpm look for in cargo's target directory.
struct Staged(Dir);

impl Staged {
    fn build(profile: &str) -> Result<Self> {
        let staged = Self(Dir::new()?);
        let release = staged.0.join("release");
        let manual_dir = release.join("manual");
        fs::create_dir_all(&manual_dir)?;
        // Both at once, and selected as the tests are: what these have built serves here too.
        let targets = ["--bin", "rst", "--example", "manual"];
        let built = messages(&mut build(profile, &targets))?;
        strip(&executable(&built, "rst")?, &release.join("rst"))?;
        manual(&executable(&built, "manual")?, &manual_dir)?;
        fs::write(
            release.join("THIRD-PARTY.txt"),
            notices::third_party(&target())?,
        )?;
        fs::copy(notices::rust_library()?, release.join("rust-library.html"))?;
        Ok(staged)
    }

    /// A tool that finds all of it where cargo would have built it.
    fn tool(&self, subcommand: &str) -> Command {
        let mut command = cargo(subcommand);
        command
            .args(["--package", "rst-daemon"])
            .env("CARGO_TARGET_DIR", self.0.path());
        command
    }

    fn deb(&self, dir: &Path, more: &[&str]) -> Result<PathBuf> {
        let mut command = self.tool("deb");
        command.args(["--quiet", "--no-build"]).args(more);
        if let Some(maintainer) = maintainer(|name| env::var(name).ok()) {
            command.args(["--maintainer", &maintainer]);
        }
        succeed(command.arg("--output").arg(dir))?;
        only(dir, "deb")
    }

    fn rpm(&self, dir: &Path) -> Result<PathBuf> {
        let mut command = self.tool("generate-rpm");
        command.args(["--auto-req", "builtin", "--target-dir"]);
        succeed(command.arg(self.0.path()).arg("--output").arg(dir))?;
        only(dir, "rpm")
    }
}

/// Who answers for the package, by the variables that Debian's own tools read (dch(1)).
fn maintainer(variable: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (name, address) = (variable("DEBFULLNAME")?, variable("DEBEMAIL")?);
    Some(format!("{name} <{address}>"))
}

/// Builds for the packages.
fn build(profile: &str, targets: &[&str]) -> Command {
    let mut command = cargo("build");
    command
        .args(["--workspace", "--exclude", "rst-ebpf", "--profile", profile])
        .args(targets);
    command
}

/// Copies a program without what only a debugger reads.
fn strip(program: &Path, to: &Path) -> Result<()> {
    output(Command::new("strip").arg("-o").args([to, program]))?;
    Ok(())
}

/// Manual pages, packed as both packages want them, and completions: from the definitions of
/// the commands.
fn manual(writer: &Path, dir: &Path) -> Result<()> {
    output(Command::new(writer).arg(dir))?;
    let pages = files(dir, "1")?;
    output(Command::new("gzip").args(["-9", "--no-name"]).args(pages))?;
    Ok(())
}

/// Makes an empty directory: packages of another version must not lie beside these.
fn empty(dir: &Path) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))?;
    }
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))
}

/// The tree of the Debian package below one directory, with a program that needs no
/// libraries and with the licences.
fn make_tarball(dir: &Path, deb: &Path, profile: &str) -> Result<PathBuf> {
    let work = Dir::new()?;
    let program = work.join("rst");
    let target = target();
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.replace('-', "_").to_uppercase()
    );
    let mut command = build(profile, &["--bin", "rst", "--target", &target]);
    // The C library too (Rust reference, "Static and dynamic C runtimes").
    let built = messages(command.env(flags, "-Ctarget-feature=+crt-static"))?;
    strip(&executable(&built, "rst")?, &program)?;
    let dynamic = output(Command::new("readelf").arg("--dynamic").arg(&program))?.stdout;
    let dynamic = String::from_utf8_lossy(&dynamic);
    ensure!(
        !dynamic.contains("(NEEDED)"),
        "{} needs libraries:\n{dynamic}",
        program.display()
    );
    let name = format!("rst-{}-linux-{ARCH}", env!("CARGO_PKG_VERSION"));
    let tree = work.join(&name);
    output(Command::new("dpkg-deb").arg("--extract").args([deb, &tree]))?;
    for gone in DEBIAN_ONLY {
        let path = tree.join("usr/share").join(gone);
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.with_context(|| format!("cannot remove {}", path.display()))?;
    }
    fs::copy(program, tree.join("usr/bin/rst"))?;
    for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
        fs::copy(root().join(licence), tree.join(licence))?;
    }
    fs::copy(LGPL, tree.join("LICENSE-LGPL-2.1"))
        .with_context(|| format!("cannot copy {LGPL}, of the package base-files"))?;
    let tarball = dir.join(format!("{name}.tar.gz"));
    output(
        Command::new("tar")
            .args([
                "--create",
                "--gzip",
                "--owner=0",
                "--group=0",
                "--sort=name",
                "--file",
            ])
            .arg(&tarball)
            .arg("--directory")
            .arg(work.path())
            .arg(&name),
    )?;
    Ok(tarball)
}

/// The file of this kind, of which there is one.
fn only(dir: &Path, extension: &str) -> Result<PathBuf> {
    let found = files(dir, extension)?;
    let [one] = found.as_slice() else {
        bail!("not one file of {}: {found:?}", dir.display());
    };
    Ok(one.clone())
}

/// The files of this kind.
fn files(dir: &Path, extension: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|is| is == extension) {
            found.push(path);
        }
    }
    Ok(found)
}
