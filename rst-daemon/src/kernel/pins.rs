//! Counts that outlive the daemon: their tables are pinned in a BPF file system, where the
//! next daemon finds them and counts on.
//!
//! They lie in a folder whose name stands for what keys and values mean. A version whose
//! counts mean something else, or whose tables have another size, begins anew and says so.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{MapError, MapInfo};
use aya_obj::Object;
use rst_common::cause::{Cause, Direction, Ignored, Impact, Role};
use rst_common::history::BUCKETS;
use rustix::fs::{FlockOperation, FsWord, flock, fstatfs};
use sha1::{Digest as _, Sha1};

/// The tables that are kept: the counts, and what their keys stand for. What became of
/// events (`DETAIL`) is not among them, for the daemon counts a part of that itself.
pub const KEPT: [&str; 11] = [
    "RESETS",
    "OVERFLOW",
    "OVERFLOW_GAPS",
    "AGES",
    "TIMEOUTS",
    "TIMEOUTS_OVERFLOW",
    "CONNECTIONS",
    "CONNECTIONS_OVERFLOW",
    "IGNORED",
    "PORTS",
    "LABELS",
];

/// What was kept once, for folders of then to be removed.
const ONCE_KEPT: [&str; 1] = ["NAMES"];

/// Counts up where the meaning of a key or a value changes in a way that [`meaning`] does
/// not see.
const VERSION: u32 = 2;

/// What a BPF file system is known by (`include/uapi/linux/magic.h`).
const BPF_FS_MAGIC: FsWord = 0xcafe_4a11;

/// Why counts can't be kept.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Another daemon counts there.
    #[error("another rst counts in {}", .0.display())]
    InUse(PathBuf),
    /// The directory can't be used.
    #[error("{}: {source}; pin_dir must be in a BPF file system (mount -t bpf), and all in it belong to rst's user", path.display())]
    Folder {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        source: io::Error,
    },
    /// A pinned table can't be opened or looked at.
    #[error("{}: {source}", path.display())]
    Table {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        source: MapError,
    },
}

/// What a table was made as: its kind, the sizes of its keys and values in bytes, its
/// entries.
type Shape = (u32, u32, u32, u32);

/// The folder of the pinned tables, which is this daemon's alone while it lives.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    /// What the counts go on from.
    pub found: Found,
    _lock: File,
}

/// What was in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing: the first start since the host's.
    Nothing,
    /// Counts, with which it goes on.
    Counts,
    /// Counts that don't fit, for this reason: they were removed.
    Misfit(String),
}

impl Pins {
    /// Takes the directory over. What lies there and does not fit the tables of `object`,
    /// with these numbers of entries instead of its own, is removed. So many workloads are
    /// told apart.
    pub fn open(
        dir: &Path,
        object: &Object,
        entries: &[(&str, u32)],
        max_workloads: u32,
    ) -> Result<Self, PinError> {
        let private = |path: &Path| {
            let made = DirBuilder::new().mode(0o700).create(path);
            match made {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        };
        private(dir).map_err(|source| folder_error(dir, source))?;
        let lock = File::open(dir).map_err(|source| folder_error(dir, source))?;
        let kind = fstatfs(&lock).map_err(|error| folder_error(dir, error.into()))?;
        if kind.f_type != BPF_FS_MAGIC {
            return Err(folder_error(dir, io::Error::other("no BPF file system")));
        }
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| PinError::InUse(dir.to_owned()))?;

        let folder = dir.join(meaning(max_workloads));
        let mut found = Found::Nothing;
        if remove_others(dir, &folder).map_err(|source| folder_error(dir, source))? {
            found = Found::Misfit(
                "they are of another version, or max_workloads has changed".to_owned(),
            );
        }
        private(&folder).map_err(|source| folder_error(&folder, source))?;
        let pins = Self {
            folder,
            found,
            _lock: lock,
        };
        pins.compared(object, entries)
    }

    /// Where a table is pinned.
    #[must_use]
    pub fn path(&self, table: &str) -> PathBuf {
        self.folder.join(table)
    }

    /// Removes the tables unless all are there and have the wanted shape: counts of which a
    /// part is missing contradict each other.
    fn compared(mut self, object: &Object, entries: &[(&str, u32)]) -> Result<Self, PinError> {
        let mut shapes = Vec::new();
        for table in KEPT {
            let path = self.path(table);
            if fs::exists(&path).map_err(|source| folder_error(&path, source))? {
                let shape = pinned(&path).map_err(|source| PinError::Table { path, source })?;
                shapes.push((table, shape));
            }
        }
        if shapes.is_empty() {
            return Ok(self);
        }
        let misfit = if shapes.len() == KEPT.len() {
            shapes.iter().find_map(|(table, shape)| {
                let wanted = wanted(object, table, entries)?;
                (*shape != wanted).then(|| format!("{table} has another size"))
            })
        } else {
            Some("some of the tables are missing".to_owned())
        };
        let Some(misfit) = misfit else {
            self.found = Found::Counts;
            return Ok(self);
        };
        for (table, _) in shapes {
            let path = self.path(table);
            fs::remove_file(&path).map_err(|source| folder_error(&path, source))?;
        }
        self.found = Found::Misfit(misfit);
        Ok(self)
    }
}

fn folder_error(path: &Path, source: io::Error) -> PinError {
    PinError::Folder {
        path: path.to_owned(),
        source,
    }
}

/// The shape of a pinned table.
fn pinned(path: &Path) -> Result<Shape, MapError> {
    let info = MapInfo::from_pin(path)?;
    Ok((
        info.map_type()? as u32,
        info.key_size(),
        info.value_size(),
        info.max_entries(),
    ))
}

/// The shape that a table of the object will have.
fn wanted(object: &Object, table: &str, entries: &[(&str, u32)]) -> Option<Shape> {
    let map = object.maps.get(table)?;
    let number = entries.iter().find(|(name, _)| *name == table);
    Some((
        map.map_type(),
        map.key_size(),
        map.value_size(),
        number.map_or(map.max_entries(), |(_, number)| *number),
    ))
}

/// Removes our folders of other meanings; whether there were any. Whatever else lies in
/// the directory is another program's.
fn remove_others(dir: &Path, own: &Path) -> io::Result<bool> {
    let mut removed = false;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        // Not of what a link leads to.
        if path == own || !entry.file_type()?.is_dir() || !is_ours(&entry.file_name()) {
            continue;
        }
        for table in KEPT.iter().chain(&ONCE_KEPT) {
            match fs::remove_file(path.join(table)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                Ok(()) | Err(_) => {}
            }
        }
        // Not where it holds anything else.
        fs::remove_dir(&path)?;
        removed = true;
    }
    Ok(removed)
}

/// Whether a folder may have been named by [`meaning`].
fn is_ours(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    name.len() == 16 && name.iter().all(is_digit)
}

/// A name for what keys and values mean: the numbers that stand for causes and the like,
/// the bounds of the buckets, and which workloads are `other`.
fn meaning(max_workloads: u32) -> String {
    let labels = |all: &mut dyn Iterator<Item = &'static str>| all.collect::<Vec<_>>().join(" ");
    let text = [
        VERSION.to_string(),
        labels(&mut Direction::ALL.iter().map(|one| one.label())),
        labels(&mut Cause::ALL.iter().map(|one| one.label())),
        labels(&mut Impact::ALL.iter().map(|one| one.label())),
        labels(&mut Role::ALL.iter().map(|one| one.label())),
        labels(&mut Ignored::ALL.iter().map(|one| one.label())),
        format!("{BUCKETS:?}"),
        max_workloads.to_string(),
    ];
    let digest = Sha1::digest(text.join("\n"));
    let start = digest.iter().take(8);
    let name = start.fold(0u64, |name, byte| name << 8 | u64::from(*byte));
    format!("{name:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn what_is_another_programs_stays() {
        let dir = TempDir::new();
        let (own, other) = (meaning(1), meaning(2));
        let table = format!("{other}/RESETS");
        let full = "0123456789abcdef";
        for folder in [&own, &other, "snap", "tc/globals", full] {
            fs::create_dir_all(dir.join(folder)).unwrap();
        }
        let foreign = format!("{full}/theirs");
        let once = format!("{other}/NAMES");
        for file in [&table, &once, "snap/device", "tc/globals/map"] {
            fs::write(dir.join(file), "").unwrap();
        }
        std::os::unix::fs::symlink(dir.join("snap"), dir.join("fedcba9876543210")).unwrap();
        let root = dir.join("");
        fs::remove_dir(dir.join(full)).unwrap();
        assert!(remove_others(&root, &dir.join(&own)).unwrap());
        assert!(!dir.join(&other).exists());
        for path in [&own, "snap/device", "tc/globals/map", "fedcba9876543210"] {
            assert!(dir.join(path).exists(), "{path} is gone");
        }
        assert!(!remove_others(&root, &dir.join(&own)).unwrap());
        // One that looks like ours and is not: said, and left.
        fs::create_dir(dir.join(full)).unwrap();
        fs::write(dir.join(&foreign), "").unwrap();
        assert!(remove_others(&root, &dir.join(&own)).is_err());
        assert!(dir.join(&foreign).exists());
    }
}
