//! Reads whole hash maps, many entries for each system call: key by key it takes
//! two calls each.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::ptr;

use aya::maps::MapData;

/// `BPF_MAP_LOOKUP_BATCH` of `include/uapi/linux/bpf.h` (since Linux 5.6).
const BPF_MAP_LOOKUP_BATCH: libc::c_int = 24;

/// Entries asked for at a time, at first.
const ENTRIES: u32 = 256;

/// `union bpf_attr`, the part for batches.
#[repr(C)]
#[derive(Debug)]
struct Attributes {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attributes>() == 56);

/// A hash map whose keys are `K` words and whose values are `V` words.
#[derive(Debug)]
pub struct Batch<const K: usize, const V: usize> {
    fd: OwnedFd,
    /// Values for each key.
    copies: usize,
}

impl<const K: usize, const V: usize> Batch<K, V> {
    /// A map with one value for each key.
    pub fn shared(map: &MapData) -> io::Result<Self> {
        Self::of(map, 1)
    }

    /// A map with one value for each key and possible CPU.
    pub fn per_cpu(map: &MapData) -> io::Result<Self> {
        let cpus = aya::util::nr_cpus().map_err(|(_, error)| error)?;
        Self::of(map, cpus)
    }

    fn of(map: &MapData, copies: usize) -> io::Result<Self> {
        let info = map.info().map_err(io::Error::other)?;
        // What is read has to fit what is made ready for it.
        if (info.key_size(), info.value_size()) != (bytes(K)?, bytes(V)?) {
            return Err(io::Error::other("keys or values of another size"));
        }
        Ok(Self {
            fd: map.fd().as_fd().try_clone_to_owned()?,
            copies,
        })
    }

    /// Hands every entry on: each that was there all the time exactly once.
    pub fn each(&self, mut entry: impl FnMut([u64; K], &[[u64; V]])) -> io::Result<()> {
        let mut room = ENTRIES;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let mut position = 0u64;
        let mut first = true;
        loop {
            let entries = usize::try_from(room).map_err(io::Error::other)?;
            keys.resize(entries, [0; K]);
            values.resize(entries * self.copies, [0; V]);
            let mut next = 0u64;
            let mut attributes = Attributes {
                in_batch: if first { 0 } else { address(&raw mut position) },
                out_batch: address(&raw mut next),
                keys: address(keys.as_mut_ptr()),
                values: address(values.as_mut_ptr()),
                count: room,
                map_fd: self.fd.as_raw_fd().cast_unsigned(),
                elem_flags: 0,
                flags: 0,
            };
            // SAFETY: the kernel writes at most `count` keys, `count * copies`
            // values of the sizes checked in `of` (8-byte words, so no padding for
            // each CPU), a position of 4 bytes, and the attributes themselves; all
            // of them live until the call returns.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_bpf,
                    BPF_MAP_LOOKUP_BATCH,
                    ptr::from_mut(&mut attributes),
                    size_of::<Attributes>(),
                )
            };
            let error = (result != 0).then(io::Error::last_os_error);
            let code = error.as_ref().and_then(io::Error::raw_os_error);
            // More entries in one bucket than there is room for.
            if code == Some(libc::ENOSPC) {
                room *= 2;
                continue;
            }
            let at_end = code == Some(libc::ENOENT);
            if let Some(error) = error.filter(|_| !at_end) {
                return Err(error);
            }
            let count = usize::try_from(attributes.count).map_err(io::Error::other)?;
            for (key, values) in keys.iter().zip(values.chunks(self.copies)).take(count) {
                entry(*key, values);
            }
            if at_end {
                return Ok(());
            }
            position = next;
            first = false;
        }
    }
}

fn bytes(words: usize) -> io::Result<u32> {
    u32::try_from(words * size_of::<u64>()).map_err(io::Error::other)
}

fn address<T>(pointer: *mut T) -> u64 {
    pointer.expose_provenance() as u64
}
