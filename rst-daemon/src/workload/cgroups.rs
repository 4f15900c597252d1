//! From a cgroup's id, which is what the kernel's programs see, to its path.
//!
//! The id is the number of the directory's inode in cgroup2 (version 2 only).
//! The kernel opens it like a file handle, which takes CAP_DAC_READ_SEARCH;
//! without, the tree is walked now and then. Either blocks for as long as a few
//! system calls take, or reading some thousand small directories.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FsWord, Mode, OFlags};

use super::mount::{self, Mount};
use super::recent::Recent;

/// Paths remembered at most.
const KNOWN: usize = 4096;

/// Ids remembered at most that nothing was found for.
const MISSING: usize = 1024;

/// How long nothing is tried again for such an id. Ids don't come back, so this
/// is for the walk, which is bounded and may have missed it.
const MISSING_FOR: Duration = Duration::from_secs(10);

/// Directories read at most in one walk.
const WALK_LIMIT: usize = 16_384;

/// Shortest time between two walks.
const WALK_PAUSE: Duration = Duration::from_secs(1);

/// Pause for each directory read. Reading one takes some twenty microseconds,
/// so that walks stay at a few percent of one processor however large the tree.
const WALK_PAUSE_PER_DIRECTORY: Duration = Duration::from_millis(1);

/// Longest path kept, in bytes. The unit or container stands before that.
const MAX_PATH: usize = 1024;

/// `CGROUP2_SUPER_MAGIC` (include/uapi/linux/magic.h).
const CGROUP2: FsWord = 0x6367_7270;

/// Why cgroups can't be resolved.
#[derive(Debug, thiserror::Error)]
pub enum CgroupsError {
    /// The list of mounts.
    #[error("cannot read /proc/self/mountinfo: {0}; mount /proc")]
    Mountinfo(#[source] io::Error),
    /// A host of cgroup version 1, or a container without.
    #[error(
        "no cgroup2 file system is mounted, so services are not known by name; \
         mount one at /sys/fs/cgroup or /sys/fs/cgroup/unified"
    )]
    NotMounted,
    /// The mount itself.
    #[error("cannot open the cgroup2 file system at {}: {source}; let rst read it", .point.display())]
    Open {
        /// Where it is mounted.
        point: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

/// Paths of cgroups by id. A path once learnt stays known when the cgroup is
/// gone, as long as there is room.
#[derive(Debug)]
pub struct Cgroups {
    tree: Tree,
    /// Whether the kernel opens cgroups by id for this process.
    handles: bool,
    known: Recent<Arc<str>>,
    /// Ids nothing was found for, and until when that holds.
    missing: Recent<Instant>,
    next_walk: Option<Instant>,
}

impl Cgroups {
    /// Finds the cgroup2 mount.
    pub fn open() -> Result<Self, CgroupsError> {
        let mountinfo = fs::read("/proc/self/mountinfo").map_err(CgroupsError::Mountinfo)?;
        let mut error = CgroupsError::NotMounted;
        for mount in mount::cgroup2(&String::from_utf8_lossy(&mountinfo)) {
            match Tree::open(&mount) {
                Ok(Some(tree)) => return Ok(Self::new(tree, true)),
                // Another mount covers it.
                Ok(None) => {}
                Err(source) => {
                    let point = mount.point;
                    error = CgroupsError::Open { point, source };
                }
            }
        }
        Err(error)
    }

    fn new(tree: Tree, handles: bool) -> Self {
        Self {
            tree,
            handles,
            known: Recent::new(KNOWN),
            missing: Recent::new(MISSING),
            next_walk: None,
        }
    }

    /// Path of a cgroup from the root of the tree, `/` for the root itself.
    /// Bounded in length; the names in it are text from outside.
    pub fn resolve(&mut self, id: u64, now: Instant) -> Option<Arc<str>> {
        if let Some(path) = self.known.get(id) {
            return Some(Arc::clone(path));
        }
        if self.missing.get(id).is_some_and(|until| now < *until) {
            return None;
        }
        let mut path = None;
        if self.handles {
            match self.tree.open_by_id(id) {
                Ok(opened) => path = Some(opened),
                Err(error) => self.handles = !is_permanent(&error),
            }
        }
        if !self.handles {
            if self.next_walk.is_some_and(|next| now < next) {
                return None;
            }
            path = self.walk(Some(id), now);
        }
        let Some(path) = path else {
            self.missing.insert(id, now + MISSING_FOR);
            return None;
        };
        let path = Arc::from(path);
        self.known.insert(id, Arc::clone(&path));
        Some(path)
    }

    /// Learns what there is now, so that services that end before their first
    /// reset are known. For the start of the daemon.
    pub fn learn(&mut self, now: Instant) {
        self.walk(None, now);
    }

    /// Learns what there is room for, and what is wanted in any case.
    fn walk(&mut self, wanted: Option<u64>, now: Instant) -> Option<String> {
        let mut found = None;
        let read = self.tree.walk(|id, path| {
            if wanted == Some(id) {
                found = Some(path);
            } else {
                self.known.insert_if_room(id, Arc::from(path));
            }
        });
        let pause = WALK_PAUSE_PER_DIRECTORY.saturating_mul(read);
        self.next_walk = Some(now + pause.max(WALK_PAUSE));
        found
    }
}

/// Whether no cgroup can be opened by its id: not permitted, by capability or
/// seccomp, or not supported, as in gVisor. Else it is this one that can't,
/// mostly as it is gone (ESTALE).
fn is_permanent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EOPNOTSUPP)
    )
}

/// The cgroup2 file system.
#[derive(Debug)]
struct Tree {
    mount: Mount,
    top: OwnedFd,
}

/// `struct file_handle` with what kernfs puts into it (kernfs_encode_fh(),
/// fs/kernfs/mount.c).
#[repr(C)]
struct Handle {
    /// Length of what follows the type.
    bytes: u32,
    /// `FILEID_KERNFS` (include/linux/exportfs.h).
    kind: i32,
    /// Id of the cgroup, in the byte order of the host.
    id: u64,
}

const _: () = assert!(size_of::<Handle>() == 16);

impl Tree {
    /// `None` where something else is mounted on top.
    fn open(mount: &Mount) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let top = rustix::fs::open(&mount.point, flags, Mode::empty())?;
        let is_cgroup2 = rustix::fs::fstatfs(&top)?.f_type == CGROUP2;
        Ok(is_cgroup2.then(|| Self {
            mount: mount.clone(),
            top,
        }))
    }

    /// Path of a cgroup. The kernel opens any of the tree, but has a path only
    /// for what lies below the mount.
    fn open_by_id(&self, id: u64) -> io::Result<String> {
        let handle = Handle {
            bytes: 8,
            kind: 0xfe,
            id,
        };
        // SAFETY: the kernel reads the header of the handle and as many bytes
        // behind it as the header says, all of them in `handle`.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                self.top.as_raw_fd(),
                &raw const handle,
                libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC,
            )
        };
        let fd = match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => fd,
            _ => return Err(io::Error::last_os_error()),
        };
        // SAFETY: the kernel has just opened it for us alone.
        let cgroup = unsafe { OwnedFd::from_raw_fd(fd) };
        let link = fs::read_link(format!("/proc/self/fd/{}", cgroup.as_raw_fd()))?;
        self.path(&link)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Path of a cgroup from that of its directory, where it lies below the
    /// mount. Those above and beside show as `/`.
    fn path(&self, directory: &Path) -> Option<String> {
        let inside = directory.strip_prefix(&self.mount.point).ok()?;
        Some(join(&self.mount.root, &inside.to_string_lossy()))
    }

    /// Tells id and path of each cgroup below the mount, those nearer to the
    /// top first. The number of directories read.
    fn walk(&self, mut tell: impl FnMut(u64, String)) -> u32 {
        let mut tell = |id, directory: &Path| {
            if let Some(path) = self.path(directory) {
                tell(id, path);
            }
        };
        let mut read = 0;
        let mut left = WALK_LIMIT;
        if let Ok(top) = fs::metadata(&self.mount.point) {
            tell(top.ino(), &self.mount.point);
        }
        let mut directories = VecDeque::from([self.mount.point.clone()]);
        while let Some(directory) = directories.pop_front() {
            read += 1;
            // It may be gone by now.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                if left == 0 {
                    return read;
                }
                left -= 1;
                let path = entry.path();
                tell(entry.ino(), &path);
                directories.push_back(path);
            }
        }
        read
    }
}

/// A path below a root that is empty or starts with a slash.
fn join(root: &str, inside: &str) -> String {
    // Marks a cgroup that was removed since it was opened (d_path(),
    // fs/d_path.c).
    let inside = inside.strip_suffix(" (deleted)").unwrap_or(inside);
    let inside = inside.trim_start_matches('/');
    let mut path = if inside.is_empty() && !root.is_empty() {
        root.to_owned()
    } else {
        format!("{root}/{inside}")
    };
    let mut end = path.len().min(MAX_PATH);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.truncate(end);
    path
}

#[cfg(test)]
mod tests;
