//! Finds the network namespaces of the host and reads their counters.
//!
//! A namespace is held by `O_PATH` descriptors of its `snmp` and `netstat`. Such
//! a descriptor does not keep the namespace alive; it can be opened for reading
//! as long as the namespace lives, whatever becomes of the process or the mount
//! by which it was found; and while it is held, the kernel does not give its
//! inode number to another (fs/proc/generic.c `pde_put`), so that number is the
//! namespace's identity.
//!
//! Not found are namespaces that only sockets, open files, or threads other
//! than a process' first hold, and mounts that this process does not see.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, open, stat, statat};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::mounts::{Mounted, mounted};
use super::snmp::{self, Counter, Values};
use super::totals::{Last, Totals};

/// For how long a namespace that has counted something is read in every pass.
const ACTIVE: Duration = Duration::from_secs(300);

/// How a namespace was found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    /// By a process that is in it.
    Process(u32),
    /// By a mount.
    Mount(PathBuf),
}

/// A way into a namespace that does not keep it alive.
#[derive(Debug)]
struct Handle {
    snmp: OwnedFd,
    netstat: OwnedFd,
    /// Inode of `snmp`.
    id: u64,
}

impl Handle {
    /// Opens the files in a folder: `/proc/PID/net`.
    fn open(net: &str) -> Result<Self, Errno> {
        let path = OFlags::PATH | OFlags::CLOEXEC;
        let snmp = open(format!("{net}/snmp"), path, Mode::empty())?;
        let netstat = open(format!("{net}/netstat"), path, Mode::empty())?;
        let id = rustix::fs::fstat(&snmp)?.st_ino;
        // A process may have gone to another namespace between the two.
        if stat(format!("{net}/snmp"))?.st_ino != id {
            return Err(Errno::AGAIN);
        }
        Ok(Self { snmp, netstat, id })
    }
}

#[derive(Debug)]
struct Namespace {
    handle: Handle,
    origin: Origin,
    /// Its inode, as `ls -l /proc/PID/ns/net` shows it; `None` without the
    /// right to look.
    inode: Option<u64>,
    last: Last,
    /// Digest of TCP's numbers at the last reading; `None` before the first.
    tcp: Option<u64>,
    /// Whether rst itself is in it: on most hosts, where most happens.
    own: bool,
    /// When it last counted something.
    moved: Option<Instant>,
}

impl Namespace {
    fn is_active(&self, now: Instant) -> bool {
        let lately = |moved| now.saturating_duration_since(moved) < ACTIVE;
        self.own || self.moved.is_some_and(lately)
    }
}

/// What went on in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Growth {
    /// Its inode, the `netns` of the events, where known.
    pub inode: Option<u64>,
    /// A name for it: a mount or a process.
    pub name: String,
    /// Resets sent there.
    pub grown: u64,
}

/// What keeps a namespace from being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unread {
    /// How many.
    pub(super) namespaces: usize,
    /// Why, for one of them.
    pub(super) error: Option<Errno>,
    /// Whether another time it may go better: it is not for want of a right.
    pub(super) for_now: bool,
}

impl Unread {
    fn add(&mut self, error: Errno) {
        self.namespaces += 1;
        self.error = Some(error);
        self.for_now |= !matches!(error, Errno::PERM | Errno::ACCESS);
    }
}

/// The namespaces that are known.
#[derive(Debug)]
pub(super) struct Namespaces {
    known: HashMap<u64, Namespace>,
    text: String,
    path: String,
}

impl Namespaces {
    /// Knows none yet.
    pub(super) fn new() -> Self {
        raise_descriptors();
        Self {
            known: HashMap::new(),
            text: String::with_capacity(16 * 1024),
            path: String::new(),
        }
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Reads rst's own and those that have counted something lately into `totals`.
    pub(super) fn read_active(&mut self, totals: &mut Totals, now: Instant) {
        self.read(totals, now, |namespace| namespace.is_active(now));
    }

    /// Reads all of them, and looks for new ones; `at_start`: what those have
    /// counted already does not matter. Returns those that could not be read.
    pub(super) fn read_all(&mut self, totals: &mut Totals, now: Instant, at_start: bool) -> Unread {
        let mut unread = self.read(totals, now, |_| true);
        let last = Last::new(!at_start);
        if let Err(error) = self.find_by_process(last, &mut unread) {
            unread.add(error);
        }
        if let Err(error) = self.find_by_mount(last, &mut unread) {
            unread.add(error);
        }
        let new = self.read(totals, now, |namespace| namespace.tcp.is_none());
        Unread {
            namespaces: unread.namespaces + new.namespaces,
            error: unread.error.or(new.error),
            for_now: unread.for_now || new.for_now,
        }
    }

    /// The namespaces that have sent most since [`Self::settle`].
    pub(super) fn grown(&self, most: usize) -> Vec<Growth> {
        let mut grown: Vec<&Namespace> = self
            .known
            .values()
            .filter(|namespace| namespace.last.grown != 0)
            .collect();
        grown.sort_by_key(|namespace| {
            (std::cmp::Reverse(namespace.last.grown), namespace.handle.id)
        });
        grown.truncate(most);
        grown
            .into_iter()
            .map(|namespace| Growth {
                inode: namespace.inode,
                name: name(namespace),
                grown: namespace.last.grown,
            })
            .collect()
    }

    /// Starts to count anew what each has grown by.
    pub(super) fn settle(&mut self) {
        for namespace in self.known.values_mut() {
            namespace.last.settle();
        }
    }

    fn read(
        &mut self,
        totals: &mut Totals,
        now: Instant,
        wanted: impl Fn(&Namespace) -> bool,
    ) -> Unread {
        let mut unread = Unread::default();
        let mut known = std::mem::take(&mut self.known);
        known.retain(|_, namespace| {
            if !wanted(namespace) {
                return true;
            }
            match self.read_one(namespace) {
                Ok(Some(values)) => {
                    if totals.add(&mut namespace.last, &values) {
                        namespace.moved = Some(now);
                    }
                    true
                }
                // What it has counted stays in the totals.
                Ok(None) => false,
                Err(error) => {
                    unread.add(error);
                    true
                }
            }
        });
        self.known = known;
        unread
    }

    /// Reads the counters; `None`: the namespace is gone. `netstat` costs most and
    /// is left out where nothing has happened to TCP since the last reading.
    fn read_one(&mut self, namespace: &mut Namespace) -> Result<Option<Values>, Errno> {
        let mut values = Values::default();
        let Some(tcp) = self.read_file(&namespace.handle.snmp, "Tcp", &mut values)? else {
            return Ok(None);
        };
        if values[Counter::OutResets].is_none() {
            return Err(Errno::NODATA);
        }
        if namespace.tcp != Some(tcp) {
            let netstat = self.read_file(&namespace.handle.netstat, "TcpExt", &mut values)?;
            if netstat.is_none() {
                return Ok(None);
            }
            namespace.tcp = Some(tcp);
        }
        Ok(Some(values))
    }

    /// Reads the counters of a protocol; a digest of all its numbers, or `None`
    /// where the namespace is gone.
    fn read_file(
        &mut self,
        file: &OwnedFd,
        protocol: &'static str,
        values: &mut Values,
    ) -> Result<Option<u64>, Errno> {
        set(
            &mut self.path,
            format_args!("/proc/self/fd/{}", file.as_raw_fd()),
        );
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = match open(self.path.as_str(), flags, Mode::empty()) {
            Ok(file) => file,
            // Its files are gone, or are about to go.
            Err(Errno::NOENT | Errno::NXIO) => return Ok(None),
            Err(error) => return Err(error),
        };
        self.text.clear();
        File::from(file)
            .read_to_string(&mut self.text)
            .map_err(|error| errno(&error))?;
        let numbers = snmp::parse(&self.text, protocol, values).map_err(|_| Errno::BADMSG)?;
        let mut digest = DefaultHasher::new();
        numbers.hash(&mut digest);
        Ok(Some(digest.finish()))
    }

    fn find_by_process(&mut self, last: Last, unread: &mut Unread) -> Result<(), Errno> {
        let mut refused = HashSet::new();
        let proc = open("/proc", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in Dir::read_from(&proc)? {
            let entry = entry?;
            let Some(pid) = pid(entry.file_name()) else {
                continue;
            };
            set(&mut self.path, format_args!("{pid}/net/snmp"));
            // A process may end at any time.
            let Ok(file) = statat(&proc, self.path.as_str(), AtFlags::empty()) else {
                continue;
            };
            let id = file.st_ino;
            if self.known.contains_key(&id) || refused.contains(&id) {
                continue;
            }
            match Handle::open(&format!("/proc/{pid}/net")) {
                Ok(handle) => {
                    let inode = stat(format!("/proc/{pid}/ns/net")).ok();
                    let inode = inode.map(|inode| inode.st_ino);
                    self.add(handle, Origin::Process(pid), inode, last);
                }
                // It ended, or went elsewhere: the next pass looks again.
                Err(Errno::NOENT | Errno::SRCH | Errno::AGAIN | Errno::INVAL) => {}
                Err(error) => {
                    refused.insert(id);
                    unread.add(error);
                }
            }
        }
        Ok(())
    }

    /// Enters the mounted namespaces that no process is in, each for a moment
    /// and on a thread of its own.
    fn find_by_mount(&mut self, last: Last, unread: &mut Unread) -> Result<(), Errno> {
        let mountinfo =
            std::fs::read_to_string("/proc/self/mountinfo").map_err(|error| errno(&error))?;
        let known: HashSet<u64> = self
            .known
            .values()
            .filter_map(|namespace| namespace.inode)
            .collect();
        let mut new: Vec<Mounted> = mounted(&mountinfo)
            .filter(|mounted| !known.contains(&mounted.inode))
            .collect();
        new.sort_by_key(|mounted| mounted.inode);
        new.dedup_by_key(|mounted| mounted.inode);
        if new.is_empty() {
            return Ok(());
        }
        let entered = thread::scope(|scope| {
            let enter = || new.iter().map(enter).collect::<Vec<_>>();
            scope.spawn(enter).join()
        });
        let entered = entered.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        for (mounted, result) in new.into_iter().zip(entered) {
            match result {
                Ok(handle) => {
                    let origin = Origin::Mount(mounted.point);
                    self.add(handle, origin, Some(mounted.inode), last);
                }
                // Unmounted meanwhile.
                Err(Errno::NOENT | Errno::INVAL) => {}
                Err(error) => unread.add(error),
            }
        }
        Ok(())
    }

    fn add(&mut self, handle: Handle, origin: Origin, inode: Option<u64>, last: Last) {
        match self.known.entry(handle.id) {
            // Without the right to see inodes, a mount may lead to a namespace
            // that a process led to.
            Entry::Occupied(mut known) => {
                known.get_mut().inode = inode.or(known.get().inode);
            }
            Entry::Vacant(place) => {
                place.insert(Namespace {
                    own: is_in("/proc/self/net", handle.id),
                    handle,
                    origin,
                    inode,
                    last,
                    tcp: None,
                    moved: None,
                });
            }
        }
    }
}

/// Moves this thread into a mounted namespace.
fn enter(mounted: &Mounted) -> Result<Handle, Errno> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let namespace = open(&mounted.point, flags, Mode::empty())?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    Handle::open("/proc/thread-self/net")
}

/// Text that is none has no number of its own.
fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::ILSEQ)
}

/// Whether a folder `/proc/PID/net` is of this namespace.
fn is_in(net: &str, id: u64) -> bool {
    stat(format!("{net}/snmp")).is_ok_and(|file| file.st_ino == id)
}

/// A name that says where to look.
fn name(namespace: &Namespace) -> String {
    if namespace.own {
        return "rst's own".to_owned();
    }
    match &namespace.origin {
        Origin::Mount(point) => point.display().to_string(),
        Origin::Process(pid) if is_in(&format!("/proc/{pid}/net"), namespace.handle.id) => {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("{}[{pid}]", comm.trim_end())
        }
        Origin::Process(_) => "whose first process has gone".to_owned(),
    }
}

fn pid(name: &CStr) -> Option<u32> {
    name.to_str().ok()?.parse().ok()
}

fn set(text: &mut String, content: std::fmt::Arguments<'_>) {
    text.clear();
    // Writing to a string does not fail.
    let _ = text.write_fmt(content);
}

/// Two descriptors for each namespace can be more than the usual 1024.
fn raise_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    // Where it fails, namespaces that need more are told as not read.
    if limit != raised {
        let _ = setrlimit(Resource::Nofile, raised);
    }
}
