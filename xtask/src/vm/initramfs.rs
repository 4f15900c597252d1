//! The guests' file system: busybox, what the live tests run, and the libraries of all that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    arch::Arch,
    fetch::{Kernel, output},
    groups::{self, Choice},
};
use crate::process::Dir;

/// Programs that the tests run, besides rst.
const PROGRAMS: [&str; 4] = ["ip", "nft", "nsenter", "ss"];

const INIT: &str = include_str!("init.sh");

/// Where the kernel looks for what loads a module that it needs (`CONFIG_MODPROBE_PATH`).
const MODPROBE: (&str, &str) = ("sbin/modprobe", include_str!("modprobe.sh"));

/// The binaries under test.
pub(crate) struct Binaries {
    /// The live tests.
    pub(crate) live: PathBuf,
    /// `rst`, where the tests look for it.
    pub(crate) rst: PathBuf,
}

/// What all guests share.
pub(crate) struct Base {
    archive: Vec<u8>,
}

impl Base {
    pub(crate) fn new(binaries: &Binaries, system: &System, choice: Choice) -> Result<Self> {
        let dir = Dir::new()?;
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin"))?;
        fs::create_dir_all(root.join("bin"))?;
        write_program(&root.join("init"), INIT)?;
        fs::create_dir(root.join("sbin"))?;
        write_program(&root.join(MODPROBE.0), MODPROBE.1)?;
        fs::write(
            root.join("tests"),
            groups::tests(choice).collect::<Vec<_>>().join("\n"),
        )?;
        let busybox = system.find("busybox")?;
        system.add(root, &busybox, Path::new("/bin/busybox"))?;
        for program in PROGRAMS {
            let file = system.find(program)?;
            system.add(root, &file, &Path::new("/usr/bin").join(program))?;
        }
        // With what a debugger wants they are ten times as large.
        let stripped = Dir::new()?;
        for (binary, to) in [
            (&binaries.live, Path::new("/usr/bin/live")),
            (&binaries.rst, &binaries.rst),
        ] {
            let file = stripped.join("file");
            let strip = system.strip();
            output(Command::new(strip).arg("-o").arg(&file).arg(binary))?;
            system.add(root, &file, to)?;
        }
        Ok(Self {
            archive: archive(root)?,
        })
    }

    /// The file system for a kernel: the kernel unpacks one archive after the other.
    pub(crate) fn with_modules(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let dir = Dir::new()?;
        for (folder, kept) in kernel.modules() {
            let modules = dir.join(folder);
            fs::create_dir(&modules)?;
            for entry in fs::read_dir(kept)? {
                let entry = entry?;
                fs::copy(entry.path(), modules.join(entry.file_name()))?;
            }
        }
        Ok([&self.archive[..], &archive(dir.path())?].concat())
    }
}

/// Where the guests' programs and libraries are taken from.
pub(super) struct System {
    /// `/` for this machine.
    root: PathBuf,
    arch: Arch,
}

impl System {
    /// This machine.
    pub(super) fn host() -> Self {
        Self::of(PathBuf::from("/"), Arch::Amd64)
    }

    /// Debian's packages unpacked below `root`.
    pub(super) fn of(root: PathBuf, arch: Arch) -> Self {
        Self { root, arch }
    }

    /// Where a program is.
    fn find(&self, program: &str) -> Result<PathBuf> {
        ["usr/bin", "bin", "usr/sbin", "sbin"]
            .iter()
            .map(|dir| self.root.join(dir).join(program))
            .find(|path| path.is_file() && !path.is_symlink())
            .with_context(|| format!("{program} is not in {}", self.root.display()))
    }

    /// The program that takes from a binary what a debugger wants.
    fn strip(&self) -> String {
        match self.arch {
            Arch::Amd64 => "strip".to_owned(),
            Arch::Arm64 => format!("{}-strip", self.arch.triplet()),
        }
    }

    /// Copies a program into the guest's file system, and what it is linked with to where the
    /// loader looks for it.
    fn add(&self, guest: &Path, file: &Path, to: &Path) -> Result<()> {
        copy(guest, file, to)?;
        let mut files = vec![file.to_owned()];
        while let Some(file) = files.pop() {
            let read = output(Command::new("readelf").arg("-ldW").arg(&file))?;
            for name in linked(&String::from_utf8_lossy(&read.stdout)) {
                let (from, to) = self.library(&name)?;
                if !guest.join(to.strip_prefix("/")?).exists() {
                    copy(guest, &from, &to)?;
                    files.push(from);
                }
            }
        }
        Ok(())
    }

    /// Where a library is, by its name or its path, and where it has to be in the guest.
    fn library(&self, name: &str) -> Result<(PathBuf, PathBuf)> {
        let triplet = self.arch.triplet();
        ["/lib", "/usr/lib"]
            .iter()
            // A path stays as it is.
            .map(|dir| Path::new(dir).join(triplet).join(name))
            .map(|path| {
                (
                    self.root.join(path.strip_prefix("/").unwrap_or(&path)),
                    path,
                )
            })
            .find(|(file, _)| file.is_file())
            .with_context(|| format!("the library {name} is not in {}", self.root.display()))
    }
}

/// What a program or library is linked with: the loader's path, and names of libraries.
fn linked(read: &str) -> Vec<String> {
    read.lines()
        .filter_map(|line| {
            let line = line.trim();
            let name = line
                .strip_prefix("[Requesting program interpreter: ")
                .or_else(|| line.split_once("Shared library: [").map(|(_, name)| name))?;
            Some(name.strip_suffix(']')?.to_owned())
        })
        .collect()
}

fn copy(root: &Path, file: &Path, to: &Path) -> Result<()> {
    let to = root.join(to.strip_prefix("/")?);
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
    Ok(())
}

pub(super) fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    output(Command::new("chmod").arg("755").arg(path))?;
    Ok(())
}

/// A directory as the kernel unpacks it (Documentation/driver-api/early-userspace).
pub(super) fn archive(root: &Path) -> Result<Vec<u8>> {
    let script = "find . | cpio --create --format=newc --owner=0:0 --quiet";
    Ok(output(Command::new("sh").args(["-c", script]).current_dir(root))?.stdout)
}

#[cfg(test)]
mod tests {
    use super::linked;

    #[test]
    fn the_loader_is_needed_too() {
        let read = "\
  INTERP         0x000238 0x0000000000000238 0x0000000000000238 0x00001b 0x00001b R   0x1
      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]
 0x0000000000000001 (NEEDED)             Shared library: [libmnl.so.0]
 0x000000000000000c (INIT)               0x6f98
 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]
";
        assert_eq!(
            linked(read),
            ["/lib/ld-linux-aarch64.so.1", "libmnl.so.0", "libc.so.6"]
        );
        assert!(linked("\nThere is no dynamic section in this file.\n").is_empty());
    }
}
