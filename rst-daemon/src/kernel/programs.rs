//! What the kernel knows of our attached programs (`struct bpf_prog_info`,
//! include/uapi/linux/bpf.h).

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

/// An attached program. Holding it keeps the program loaded, not attached.
#[derive(Debug)]
pub struct ProgramHandle {
    /// The probe it belongs to, see [`super::probes::PROBES`].
    pub probe: &'static str,
    program: OwnedFd,
}

/// The kernel's own statistics of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProgramStats {
    /// Time it ran, nanoseconds, while statistics were switched on.
    pub run_time_ns: u64,
    /// Runs, likewise.
    pub runs: u64,
    /// Runs that were skipped because the program was running on that CPU
    /// already. 0 before Linux 5.12, which does not tell; tracepoint programs are
    /// skipped since 6.1.
    pub missed: u64,
}

/// `BPF_OBJ_GET_INFO_BY_FD`.
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Words of `struct bpf_prog_info` up to `recursion_misses`.
const INFO_WORDS: usize = 27;

/// The part of `union bpf_attr` for that command.
#[repr(C)]
struct InfoAttr {
    fd: u32,
    info_len: u32,
    info: u64,
}

impl ProgramHandle {
    /// Takes a descriptor over.
    #[must_use]
    pub const fn new(probe: &'static str, program: OwnedFd) -> Self {
        Self { probe, program }
    }

    /// Asks the kernel.
    pub fn stats(&self) -> io::Result<ProgramStats> {
        // Zeros in what goes in: no list is asked for.
        let mut info = [0u64; INFO_WORDS];
        let attr = InfoAttr {
            fd: self.program.as_raw_fd().cast_unsigned(),
            info_len: u32::try_from(size_of_val(&info)).map_err(io::Error::other)?,
            info: info.as_mut_ptr().expose_provenance() as u64,
        };
        // SAFETY: `attr` is as long as is said, and `info` as long as it says; both
        // outlive the call. An older kernel writes less, a newer one no more.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                OBJ_GET_INFO_BY_FD,
                &raw const attr,
                size_of_val(&attr),
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        let [run_time_ns, runs, missed] = [info[24], info[25], info[26]];
        Ok(ProgramStats {
            run_time_ns,
            runs,
            missed,
        })
    }
}
