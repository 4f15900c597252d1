//! The guests' file system: busybox, what the live tests run, and the libraries of all that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    fetch::{Kernel, output},
    groups,
};
use crate::process::Dir;

/// Programs that the tests run, besides rst.
const PROGRAMS: [&str; 3] = ["ip", "nsenter", "ss"];

const INIT: &str = include_str!("init.sh");

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
    pub(crate) fn new(binaries: &Binaries) -> Result<Self> {
        let dir = Dir::new()?;
        let root = dir.path();
        fs::create_dir_all(root.join("usr/bin"))?;
        fs::create_dir_all(root.join("bin"))?;
        write_program(&root.join("init"), INIT)?;
        fs::write(
            root.join("tests"),
            groups::tests().collect::<Vec<_>>().join("\n"),
        )?;
        add(root, &find("busybox")?, Path::new("/bin/busybox"))?;
        for program in PROGRAMS {
            let file = find(program)?;
            add(root, &file, &Path::new("/usr/bin").join(program))?;
        }
        // With what a debugger wants they are ten times as large.
        let stripped = Dir::new()?;
        for (binary, to) in [
            (&binaries.live, Path::new("/usr/bin/live")),
            (&binaries.rst, &binaries.rst),
        ] {
            let file = stripped.join("file");
            output(Command::new("strip").arg("-o").arg(&file).arg(binary))?;
            add(root, &file, to)?;
        }
        Ok(Self {
            archive: archive(root)?,
        })
    }

    /// The file system for a kernel: the kernel unpacks one archive after the other.
    pub(crate) fn with_modules(&self, kernel: &Kernel) -> Result<Vec<u8>> {
        let dir = Dir::new()?;
        let modules = dir.join("modules");
        fs::create_dir(&modules)?;
        for entry in fs::read_dir(kernel.dir.join("modules"))? {
            let entry = entry?;
            fs::copy(entry.path(), modules.join(entry.file_name()))?;
        }
        Ok([&self.archive[..], &archive(dir.path())?].concat())
    }
}

/// Where a program of this machine is.
fn find(program: &str) -> Result<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not installed"))
}

/// Copies a program, and the libraries it is linked with to where it looks for them.
pub(super) fn add(root: &Path, file: &Path, to: &Path) -> Result<()> {
    copy(root, file, to)?;
    // It fails for static ones.
    let listed = Command::new("ldd").arg(file).output()?;
    for library in libraries(&String::from_utf8_lossy(&listed.stdout)) {
        copy(root, library, library)?;
    }
    Ok(())
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

/// The files that `ldd` names.
fn libraries(listed: &str) -> Vec<&Path> {
    listed
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(|word| Path::new(word.trim_end_matches(':')))
        .collect()
}

/// A directory as the kernel unpacks it (Documentation/driver-api/early-userspace).
pub(super) fn archive(root: &Path) -> Result<Vec<u8>> {
    let script = "find . | cpio --create --format=newc --owner=0:0 --quiet";
    Ok(output(Command::new("sh").args(["-c", script]).current_dir(root))?.stdout)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::libraries;

    #[test]
    fn the_loader_is_a_library_too() {
        let listed = "\tlinux-vdso.so.1 (0x00007ffe)
\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f0e)
\t/lib64/ld-linux-x86-64.so.2 (0x00007f0e)
";
        let paths = [
            "/lib/x86_64-linux-gnu/libc.so.6",
            "/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(listed), paths.map(Path::new));
        assert!(libraries("\tnot a dynamic executable\n").is_empty());
    }
}
