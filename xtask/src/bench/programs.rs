//! eBPF programs from outside: what the kernel says of those a process holds, and empty ones to
//! compare with.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    process,
};

use anyhow::{Context as _, Result};

/// The tracepoints rst's programs are on.
pub(super) const TRACEPOINTS: [&str; 4] = [
    "tcp_send_reset",
    "tcp_receive_reset",
    "inet_sock_set_state",
    "inet_sk_error_report",
];

/// What the kernel says of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Program {
    /// Times it ran while statistics were on.
    pub(super) runs: u64,
    /// Time it took in these, nanoseconds.
    pub(super) nanos: u64,
    /// Times it was left out because it was running on that CPU already (Linux 5.12).
    pub(super) missed: u64,
}

/// Programs by tracepoint.
pub(super) type Programs = BTreeMap<String, Program>;

/// The programs on tracepoints that a process holds.
pub(super) fn of_process(pid: u32) -> Result<Programs> {
    let dir = format!("/proc/{pid}/fdinfo");
    let mut infos = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {dir}"))? {
        // A descriptor that has just been closed.
        let Ok(info) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        infos.push(info);
    }
    Ok(by_tracepoint(&infos))
}

/// A program's descriptor has its numbers, its link's has the tracepoint.
fn by_tracepoint(infos: &[String]) -> Programs {
    let programs: BTreeMap<u64, Program> = infos
        .iter()
        .filter(|info| field(info, "prog_type").is_some())
        .filter_map(|info| {
            let number = |name| field(info, name).and_then(|value| value.parse().ok());
            let program = Program {
                runs: number("run_cnt").unwrap_or_default(),
                nanos: number("run_time_ns").unwrap_or_default(),
                missed: number("recursion_misses").unwrap_or_default(),
            };
            Some((number("prog_id")?, program))
        })
        .collect();
    infos
        .iter()
        .filter_map(|info| {
            let tracepoint = field(info, "tp_name")?;
            let id: u64 = field(info, "prog_id")?.parse().ok()?;
            Some((tracepoint.to_owned(), *programs.get(&id)?))
        })
        .collect()
}

fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(str::trim)
}

/// Programs that return at once; detached when dropped.
pub(super) struct EmptyPrograms {
    _fds: Vec<OwnedFd>,
}

impl EmptyPrograms {
    /// One on each of the tracepoints.
    pub(super) fn attach(tracepoints: &[&str]) -> Result<Self> {
        let mut fds = Vec::new();
        for tracepoint in tracepoints {
            let program = load_empty().context("cannot load an empty program")?;
            let link = open_raw_tracepoint(tracepoint, &program)
                .with_context(|| format!("cannot attach an empty program to {tracepoint}"))?;
            fds.extend([program, link]);
        }
        Ok(Self { _fds: fds })
    }
}

/// What the kernel says of [`EmptyPrograms`].
pub(super) fn own() -> Result<Programs> {
    of_process(process::id())
}

/// `BPF_PROG_LOAD` with its attributes up to the log's level; the kernel takes the rest for zero.
fn load_empty() -> io::Result<OwnedFd> {
    const PROG_LOAD: libc::c_int = 5;
    const RAW_TRACEPOINT: u32 = 17;

    #[repr(C)]
    struct Attributes {
        program_type: u32,
        instructions: u32,
        code: u64,
        license: u64,
    }

    // r0 = 0; exit
    let code: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 0, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    bpf(
        PROG_LOAD,
        &Attributes {
            program_type: RAW_TRACEPOINT,
            instructions: 2,
            code: code.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        },
    )
}

/// `BPF_RAW_TRACEPOINT_OPEN`: attached as long as the descriptor lives.
fn open_raw_tracepoint(name: &str, program: &OwnedFd) -> io::Result<OwnedFd> {
    const RAW_TRACEPOINT_OPEN: libc::c_int = 17;

    #[repr(C)]
    struct Attributes {
        name: u64,
        program: i32,
        pad: u32,
    }

    let name = CString::new(name)?;
    bpf(
        RAW_TRACEPOINT_OPEN,
        &Attributes {
            name: name.as_ptr() as u64,
            program: program.as_raw_fd(),
            pad: 0,
        },
    )
}

/// The system call, for commands that give a descriptor.
fn bpf<T>(command: libc::c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads size_of::<T>() bytes of attributes, which hold integers and
    // addresses of memory that outlives the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attributes),
            size_of::<T>(),
        )
    };
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The kernel's statistics of programs, on as long as this lives.
pub(super) struct Statistics {
    before: String,
}

impl Statistics {
    const SETTING: &str = "/proc/sys/kernel/bpf_stats_enabled";

    pub(super) fn switch_on() -> Result<Self> {
        let context = || format!("cannot use {}", Self::SETTING);
        let before = fs::read_to_string(Self::SETTING).with_context(context)?;
        fs::write(Self::SETTING, "1").with_context(context)?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        if let Err(error) = fs::write(Self::SETTING, &self.before) {
            eprintln!("warning: cannot restore {}: {error}", Self::SETTING);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Program, by_tracepoint};

    #[test]
    fn a_program_is_found_by_its_link() {
        let infos = [
            "pos:\t0\nprog_type:\t26\nprog_id:\t7\nrun_time_ns:\t900\nrun_cnt:\t10\n\
             recursion_misses:\t3\n",
            "link_type:\traw_tracepoint\nlink_id:\t1\nprog_id:\t7\ntp_name:\ttcp_send_reset\n",
            "prog_type:\t26\nprog_id:\t8\nrun_time_ns:\t1\nrun_cnt:\t1\n",
            "pos:\t0\nflags:\t02\n",
        ];
        let programs = by_tracepoint(&infos.map(str::to_owned));
        let expected = Program {
            runs: 10,
            nanos: 900,
            missed: 3,
        };
        assert_eq!(programs, [("tcp_send_reset".to_owned(), expected)].into());
    }
}
