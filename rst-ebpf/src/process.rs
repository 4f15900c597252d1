//! The processes that connect and listen, and the workloads they belong to.

use core::ptr;

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_current_pid_tgid};
use rst_common::{
    cause::OwnerSource,
    layout::Field,
    owner::{Comm, Holder, PROCESSES as CAPACITY, Process, born, clean},
};

use crate::{
    kernel::{self, Task},
    maps::PROCESSES,
};

/// `PF_EXITING`, `include/linux/sched.h`.
const PF_EXITING: u32 = 0x4;
/// `PF_KTHREAD`, `include/linux/sched.h`.
const PF_KTHREAD: u32 = 0x0020_0000;

/// `systemd` as the kernel holds it.
const SYSTEMD: Comm = [u64::from_ne_bytes(*b"systemd\0"), 0];

/// Whose socket it is.
#[derive(Clone, Copy)]
pub(crate) struct Owner {
    /// [`Holder`] in a number, 0 where it is not known.
    pub(crate) holder: u64,
    /// Id of its cgroup, 0 where it is not known.
    pub(crate) workload: u64,
}

impl Owner {
    /// Nobody known.
    pub(crate) const UNKNOWN: Self = Self {
        holder: 0,
        workload: 0,
    };
}

/// The process that runs now, as the one that connects or begins to listen.
#[inline(always)]
pub(crate) fn current() -> Owner {
    running(OwnerSource::Connect)
}

/// The process that runs now, as the one that accepts a connection.
#[inline(always)]
pub(crate) fn accepting() -> Owner {
    running(OwnerSource::Accept)
}

#[inline(always)]
fn running(source: OwnerSource) -> Owner {
    // SAFETY: the helpers take nothing and return numbers.
    let (pid, cgroup) = unsafe {
        (
            (bpf_get_current_pid_tgid() >> 32) as u32,
            bpf_get_current_cgroup_id(),
        )
    };
    owner(Task::current(), pid, cgroup, source)
}

/// Whether a holder is a service manager, which listens for others: `systemd`, of
/// the system or of a user.
#[inline(always)]
pub(crate) fn is_manager(holder: u64) -> bool {
    let holder = Holder::unpack(holder);
    holder.pid != 0 && name_of(holder) == Some(SYSTEMD)
}

/// The process of a task of an iterator.
#[inline(always)]
pub(crate) fn of(task: Task) -> Owner {
    let cgroup = task
        .follow(Field::TaskCgroups)
        .follow(Field::CssSetCgroup)
        .follow(Field::CgroupKn)
        .get::<u64>(Field::KnId);
    owner(
        task,
        task.get(Field::TaskTgid),
        cgroup,
        OwnerSource::Iterator,
    )
}

#[inline(always)]
fn owner(task: Task, pid: u32, workload: u64, source: OwnerSource) -> Owner {
    let flags = task.get::<u32>(Field::TaskFlags);
    let leader = task.follow(Field::TaskGroupLeader);
    let comm = clean(leader.get(Field::TaskComm));
    let is_kernel = kernel::flag(flags & PF_KTHREAD != 0) != 0;
    let born = born(leader.get(Field::TaskStartBoottime));
    if !is_kernel {
        note(pid, born, comm, workload);
    }
    let pid = if is_kernel { 0 } else { pid };
    Owner {
        holder: Holder {
            pid,
            source: source as u8,
            is_kernel,
            born,
        }
        .pack(),
        workload,
    }
}

/// The current process by the name of its group leader, as `ps` shows it, unless it is
/// the kernel itself.
#[inline(always)]
pub(crate) fn current_name() -> Option<Comm> {
    let task = Task::current();
    if task.get::<u32>(Field::TaskFlags) & PF_KTHREAD != 0 {
        return None;
    }
    let leader = task.follow(Field::TaskGroupLeader);
    Some(clean(leader.get(Field::TaskComm)))
}

/// How the current process is exiting, as in `wait(2)`; `None` where it is not.
#[inline(always)]
pub(crate) fn exiting() -> Option<u32> {
    let task = Task::current();
    if kernel::flag(task.get::<u32>(Field::TaskFlags) & PF_EXITING != 0) == 0 {
        return None;
    }
    let signal = task.follow(Field::TaskSignal);
    Some(signal.get(Field::SignalExitCode))
}

/// The process that is exiting, as one that has listened; its workload is the
/// listener's.
#[inline(always)]
pub(crate) fn exiting_holder() -> u64 {
    let task = Task::current();
    let leader = task.follow(Field::TaskGroupLeader);
    Holder {
        pid: task.get(Field::TaskTgid),
        source: OwnerSource::Listener as u8,
        is_kernel: false,
        born: born(leader.get(Field::TaskStartBoottime)),
    }
    .pack()
}

/// Remembers the name of a process, for when it has gone.
#[inline(always)]
fn note(pid: u32, born: u32, comm: Comm, workload: u64) {
    let Some(process) = PROCESSES.get_ptr_mut(pid & (CAPACITY - 1)) else {
        return;
    };
    // SAFETY: a valid map value.
    let known = unsafe { read(process) };
    let same = known.pid == pid && known.born == born;
    if same && known.comm == comm && known.workload == workload {
        return;
    }
    // SAFETY: a valid map value. Readers look for the id first, so a half-written
    // entry is nobody's.
    unsafe {
        ptr::write_volatile(&raw mut (*process).pid, 0);
        ptr::write_volatile(&raw mut (*process).born, born);
        ptr::write_volatile(&raw mut (*process).comm, comm);
        ptr::write_volatile(&raw mut (*process).workload, workload);
        ptr::write_volatile(&raw mut (*process).pid, pid);
    }
}

/// The name of a process that has connected or listened.
#[inline(always)]
pub(crate) fn name_of(holder: Holder) -> Option<Comm> {
    let process = PROCESSES.get_ptr_mut(holder.pid & (CAPACITY - 1))?;
    // SAFETY: a valid map value.
    let known = unsafe { read(process) };
    let same = kernel::flag(known.pid == holder.pid && known.born == holder.born) != 0;
    same.then_some(known.comm)
}

/// An entry; its id is 0 where it has changed meanwhile.
///
/// # Safety
/// `process` must point to a value of [`PROCESSES`].
#[inline(always)]
unsafe fn read(process: *mut Process) -> Process {
    // SAFETY: the caller's promise.
    unsafe {
        let pid = ptr::read_volatile(&raw const (*process).pid);
        let born = ptr::read_volatile(&raw const (*process).born);
        let comm = ptr::read_volatile(&raw const (*process).comm);
        let workload = ptr::read_volatile(&raw const (*process).workload);
        let unchanged = ptr::read_volatile(&raw const (*process).pid) == pid;
        Process {
            pid: if unchanged { pid } else { 0 },
            born,
            comm,
            workload,
        }
    }
}
