//! The memory of a map that can be mapped (`BPF_F_MMAPABLE`).

use std::io;
use std::os::fd::AsFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// It is mapped for as long as this lives. What is in it changes under the reader's eyes.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

impl Mapping {
    /// Maps this many bytes from the first value on; at least a page.
    pub(super) fn new(fd: impl AsFd, len: usize, access: ProtFlags) -> io::Result<Self> {
        let len = len.next_multiple_of(rustix::param::page_size());
        // SAFETY: a fresh mapping at an address that the kernel chooses; nothing else in the
        // process knows it.
        let start = unsafe { mmap(ptr::null_mut(), len, access, MapFlags::SHARED, fd, 0) }?;
        let start = NonNull::new(start.cast())
            .ok_or_else(|| io::Error::other("mmap returned address 0"))?;
        Ok(Self { start, len })
    }

    /// Where it begins: at a page.
    pub(super) const fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made; who has its start keeps self as long as
        // that is used. Failing would leave it mapped until exit.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.len) };
    }
}
