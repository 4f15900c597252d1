//! Access to kernel structures by the offsets in [`LAYOUT`].
//!
//! The daemon freezes `.rodata` before load, so the verifier knows each offset
//! as a constant: `base + offset` stays a typed pointer (PTR_TO_BTF_ID) and the
//! load is checked against the kernel's BTF. An offset of [`ABSENT`] removes
//! the load as dead code.
//!
//! NULL rule: verifiers of 6.2-6.11 take tracepoint arguments as never NULL and
//! delete a check of the typed value; those from 6.12 on demand one. So each
//! argument is tested twice: a 32-bit copy, which is a plain number to every
//! verifier, and the pointer itself. (An object at an exact multiple of 4 GiB
//! reads as absent: at most one socket for each 4 GiB of memory can lie there.)

use core::{
    arch::asm,
    marker::PhantomData,
    ptr::{self, NonNull},
};

use aya_ebpf::helpers::{
    bpf_probe_read_kernel,
    generated::{
        bpf_get_current_task, bpf_get_current_task_btf, bpf_skc_to_tcp_sock, bpf_sock_from_file,
    },
};
pub(crate) use rst_common::verifier::{flag, forget};
use rst_common::{
    classify::Times,
    drops::MAX_DROPS,
    event::Control,
    history::BUCKET_SLOTS,
    layout::{ABSENT, Field},
    reason::{MAX_REASONS, RAW_NONE},
};

use crate::{
    access::{Access, Call, Typed},
    maps::{CLOSED_SETS, DROPS, HAS_TASK_BTF, LAYOUT, MAX_PORTS, REASONS, SEED, SOCKETS_MASK},
};

/// Offset of a field, or [`ABSENT`].
#[inline(always)]
pub(crate) fn offset(field: Field) -> u32 {
    // SAFETY: the index is below the array's length by construction. Volatile,
    // because the daemon replaces the value after compilation.
    unsafe { ptr::read_volatile(&raw const LAYOUT[field as usize]) }
}

/// What the classifier measures durations by.
#[inline(always)]
pub(crate) fn times(control: *mut Control) -> Times {
    // SAFETY: a valid map value, which the daemon sets before it attaches.
    unsafe {
        Times {
            idle: ptr::read_volatile(&raw const (*control).idle) as u32,
            jiffy_us: ptr::read_volatile(&raw const (*control).jiffy_us) as u32,
        }
    }
}

/// For how long a closed connection is remembered, as [`Ending::units`].
#[inline(always)]
pub(crate) fn closed_window(control: *mut Control) -> u32 {
    // SAFETY: a valid map value, which the daemon sets before it attaches.
    unsafe { ptr::read_volatile(&raw const (*control).closed) as u32 }
}

/// The period of the shares of detail.
#[inline(always)]
pub(crate) fn period(control: *mut Control) -> u32 {
    // SAFETY: a valid map value, whole 8-byte load.
    unsafe { ptr::read_volatile(&raw const (*control).period) as u32 }
}

/// Bucket of a duration in jiffies: how many bounds are below it.
#[inline(always)]
pub(crate) fn bucket(control: *mut Control, jiffies: u32) -> u32 {
    let mut index = 0;
    let mut step = BUCKET_SLOTS / 2;
    while step != 0 {
        // SAFETY: a valid map value; the mask bounds the index for the compiler
        // and for the verifier.
        let bound = unsafe {
            (&raw const (*control).buckets)
                .cast::<u32>()
                .add((index as usize + step - 1) & (BUCKET_SLOTS - 1))
                .read_volatile()
        };
        index += is_below(bound, jiffies) * step as u32;
        step /= 2;
    }
    index
}

/// 1 where `a < b`, without a branch for the verifier to follow.
#[inline(always)]
fn is_below(a: u32, b: u32) -> u32 {
    let mut difference = u64::from(a);
    // SAFETY: computes with two registers.
    unsafe {
        asm!(
            "{0} -= {1}",
            "{0} >>= 63",
            inout(reg) difference,
            in(reg) u64::from(b),
            options(pure, nomem, nostack),
        );
    }
    difference as u32
}

/// Entries of the table of sockets less one.
#[inline(always)]
pub(crate) fn sockets_mask() -> u32 {
    // SAFETY: volatile, because the daemon replaces the value after compilation.
    unsafe { ptr::read_volatile(&raw const SOCKETS_MASK) }
}

/// Entries of the table of closed connections.
#[inline(always)]
pub(crate) fn closed_sets() -> u32 {
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const CLOSED_SETS) }
}

/// Start of every hash of a tuple.
#[inline(always)]
pub(crate) fn seed() -> u64 {
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const SEED) }
}

/// How many ports are told apart.
#[inline(always)]
pub(crate) fn max_ports() -> u32 {
    // SAFETY: as above.
    unsafe { ptr::read_volatile(&raw const MAX_PORTS) }
}

/// Zero, in a way neither the compiler nor the verifier can see through: the one
/// turns runs of zeros into calls of its `memset`, which writes byte by byte
/// here; the other would follow what was never written apart from what was.
#[inline(always)]
pub(crate) fn zero() -> u64 {
    forget(0)
}

/// A port as an index, cut to 16 bits where the verifier sees it: the compiler knows
/// that it has no more.
#[inline(always)]
pub(crate) fn sixteen_bits(port: u16) -> usize {
    let mut index = u64::from(port);
    // SAFETY: computes with one register.
    unsafe { asm!("{0} &= 0xffff", inout(reg) index, options(pure, nomem, nostack)) };
    index as usize
}

/// Adds to a counter in one instruction, so that neither another CPU nor a
/// nested program is lost.
///
/// # Safety
/// `counter` must point into a map value, 8-byte aligned.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, amount: u64) {
    // SAFETY: the caller's promise; BPF_ATOMIC add without fetch exists in
    // every verifier since 3.18.
    unsafe {
        asm!(
            "lock *(u64 *)(r1 + 0) += r2",
            in("r1") counter,
            in("r2") amount,
            options(nostack),
        );
    }
}

/// The same for 4 bytes, also to subtract.
///
/// # Safety
/// `counter` must point into a map value, 4-byte aligned.
#[inline(always)]
pub(crate) unsafe fn add32(counter: *mut u32, amount: i32) {
    // SAFETY: as above.
    unsafe {
        asm!(
            "lock *(u32 *)(r1 + 0) += w2",
            in("r1") counter,
            in("r2") i64::from(amount),
            options(nostack),
        );
    }
}

/// The classifier's reason for a number of the running kernel.
#[inline(always)]
pub(crate) fn reason(raw: u8) -> u8 {
    if raw == RAW_NONE {
        return 0;
    }
    let index = usize::from(raw) & (MAX_REASONS - 1);
    // SAFETY: the mask bounds the index for the compiler and for the verifier.
    // Volatile, because the daemon replaces the value after compilation.
    unsafe { ptr::read_volatile((&raw const REASONS).cast::<u8>().add(index)) }
}

/// What a reason for which the kernel drops packets means for a reset.
#[inline(always)]
pub(crate) fn drop_reason(raw: u32) -> u8 {
    let index = raw as usize;
    if index >= MAX_DROPS {
        return 0;
    }
    // SAFETY: just checked; the mask is for the verifier. Volatile as above.
    unsafe { ptr::read_volatile((&raw const DROPS).cast::<u8>().add(index & (MAX_DROPS - 1))) }
}

/// The low half of a pointer, as a number the verifier knows nothing about.
#[inline(always)]
fn low_half(pointer: *const u8) -> u32 {
    let mut value = pointer as u64;
    // SAFETY: a register move; verifiers turn the 32-bit copy of a pointer into
    // an unknown scalar for privileged programs.
    unsafe { asm!("w1 = w1", inout("r1") value, options(pure, nomem, nostack)) };
    value as u32
}

/// A pointer of the context, or `None` for NULL.
#[inline(always)]
fn not_null(pointer: *mut u8) -> Option<NonNull<u8>> {
    if low_half(pointer) == 0 {
        return None;
    }
    NonNull::new(pointer)
}

/// Reads a field through a typed pointer.
///
/// # Safety
/// `base` must be a PTR_TO_BTF_ID of the field's root struct (or of one that
/// begins with it) that has passed the NULL rule, and `T` the size the layout
/// table states for the field.
#[inline(always)]
pub(crate) unsafe fn load<T: Copy>(base: *const u8, field: Field) -> Option<T> {
    // SAFETY: the caller's promise.
    unsafe { load_within(base, field, 0) }
}

/// The same for a part of a field, so many bytes from its start.
///
/// # Safety
/// As above, with `T` the size of that part.
#[inline(always)]
unsafe fn load_within<T: Copy>(base: *const u8, field: Field, bytes: usize) -> Option<T> {
    let offset = offset(field);
    if offset == ABSENT {
        return None;
    }
    // SAFETY: the verifier checks `offset` against the BTF of the struct; loads
    // through PTR_TO_BTF_ID are fault-safe where it can't prove the pointer.
    Some(unsafe { ptr::read_volatile(base.add(offset as usize + bytes).cast::<T>()) })
}

/// Reads a field at an address the verifier knows no type of.
#[inline(always)]
pub(crate) fn probe<T>(base: u64, field: Field) -> Option<T> {
    let offset = offset(field);
    if offset == ABSENT {
        return None;
    }
    probe_at(base.wrapping_add(u64::from(offset)))
}

/// Reads kernel memory at any address; a bad one gives `None`.
#[inline(always)]
pub(crate) fn probe_at<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails without a fault.
    unsafe { bpf_probe_read_kernel(address as *const T) }.ok()
}

// The pointers below are NonNull so that `Option` of them is the bare pointer:
// older verifiers (5.10) reject the half-initialised pairs that a separate
// discriminant would spill to the stack.

/// `struct sock *` of a tracepoint; only `sock_common` is valid in it until its
/// state is known (TIME_WAIT and request sockets are smaller).
#[derive(Clone, Copy)]
pub(crate) struct Sock<A: Access = Typed>(NonNull<u8>, PhantomData<A>);

impl<A: Access> Sock<A> {
    /// The low half of its address: tells two live sockets apart.
    #[inline(always)]
    pub(crate) fn low_half(self) -> u32 {
        low_half(self.0.as_ptr())
    }

    /// Argument `index`, unless NULL. Where a traced function returns, what it returns
    /// comes after its arguments.
    #[inline(always)]
    pub(crate) fn from_arg(ctx: &impl Call<Access = A>, index: usize) -> Option<Self> {
        not_null(ctx.pointer(index)).map(Self::at)
    }

    #[inline(always)]
    fn at(pointer: NonNull<u8>) -> Self {
        Self(pointer, PhantomData)
    }

    /// A field of `sock_common`.
    #[inline(always)]
    pub(crate) fn common<T: Copy>(self, field: Field) -> Option<T> {
        // SAFETY: a sock, which begins with sock_common, past the NULL rule (see
        // `not_null`).
        unsafe { A::read(self.0.as_ptr(), field) }
    }

    /// The network namespace.
    #[inline(always)]
    pub(crate) fn net(self) -> Option<Net<A>> {
        self.common::<*const u8>(Field::SkNet).map(Net::at)
    }

    /// Whether a number is its address.
    #[inline(always)]
    pub(crate) fn is_at(self, address: u64) -> bool {
        self.0.as_ptr() as u64 == address
    }

    /// Writes its address as a number.
    ///
    /// # Safety
    /// `place` must point into a map value.
    #[inline(always)]
    pub(crate) unsafe fn store_at(self, place: *mut u64) {
        // SAFETY: the caller's promise; verifiers let programs with CAP_PERFMON
        // store pointers in maps.
        unsafe { ptr::write_volatile(place, self.0.as_ptr() as u64) };
    }
}

impl Sock {
    /// The socket behind a `struct file *` that may be NULL or no socket at all.
    #[inline(always)]
    pub(crate) fn of_file(file: *mut u8) -> Option<Self> {
        let file = NonNull::new(file)?;
        // SAFETY: the helper takes any file and answers NULL where it is no
        // socket.
        let socket = unsafe { bpf_sock_from_file(file.as_ptr().cast()) };
        let socket = NonNull::new(socket.cast::<u8>())?;
        // SAFETY: PTR_TO_BTF_ID socket from the helper, checked for NULL.
        let sk = unsafe { load::<*mut u8>(socket.as_ptr(), Field::SocketSk) }?;
        not_null(sk).map(Self::at)
    }

    /// The full TCP socket; `None` for TIME_WAIT, request and MPTCP sockets.
    #[inline(always)]
    pub(crate) fn tcp(self) -> Option<TcpSock> {
        // SAFETY: the helper takes any sock_common and answers NULL where it is
        // no full TCP socket.
        let tcp = unsafe { bpf_skc_to_tcp_sock(self.0.as_ptr().cast()) };
        NonNull::new(tcp.cast()).map(TcpSock)
    }
}

/// `struct task_struct *`, or what it leads to.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

impl Task {
    /// The one that runs now.
    #[inline(always)]
    pub(crate) fn current() -> Self {
        // SAFETY: takes no argument.
        Self(unsafe {
            if has_task_btf() {
                bpf_get_current_task_btf().cast_const().cast()
            } else {
                bpf_get_current_task() as *const u8
            }
        })
    }

    /// The task of an iterator, unless NULL.
    #[inline(always)]
    pub(crate) fn of(task: *const u8) -> Option<Self> {
        (!task.is_null()).then_some(Self(task))
    }

    /// A field; zero where it is not known, for the reason above.
    #[inline(always)]
    pub(crate) fn get<T: Copy + Default>(self, field: Field) -> T {
        if has_task_btf() {
            // SAFETY: the verifier types the pointer from BTF, as `field` says;
            // such walked pointers are read fault-safely.
            unsafe { load(self.0, field) }.unwrap_or_default()
        } else {
            probe(self.0 as u64, field).unwrap_or_default()
        }
    }

    /// What a field points to.
    #[inline(always)]
    pub(crate) fn follow(self, field: Field) -> Self {
        if has_task_btf() {
            // SAFETY: as above.
            Self(unsafe { load(self.0, field) }.unwrap_or(ptr::null()))
        } else {
            Self(probe(self.0 as u64, field).unwrap_or(ptr::null()))
        }
    }
}

/// Whether the verifier types the current task (since Linux 5.11).
#[inline(always)]
fn has_task_btf() -> bool {
    // SAFETY: volatile, because the daemon replaces the value after compilation.
    unsafe { ptr::read_volatile(&raw const HAS_TASK_BTF) != 0 }
}

/// `struct tcp_sock *`: begins with `inet_connection_sock`, `inet_sock`, `sock`
/// and `sock_common`.
#[derive(Clone, Copy)]
pub(crate) struct TcpSock(NonNull<u8>);

impl TcpSock {
    /// A field of `tcp_sock` or of a struct it begins with.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, field: Field) -> Option<T> {
        // SAFETY: PTR_TO_BTF_ID tcp_sock from the helper, checked for NULL in
        // `Sock::tcp`.
        unsafe { load(self.0.as_ptr(), field) }
    }

    /// The least round trip time of late, microseconds (`minmax_get`,
    /// include/linux/win_minmax.h: the value of the first sample).
    #[inline(always)]
    pub(crate) fn min_rtt(self) -> Option<u32> {
        // SAFETY: PTR_TO_BTF_ID tcp_sock; the sample's second number, after its time.
        unsafe { load_within(self.0.as_ptr(), Field::TpRttMin, size_of::<u32>()) }
    }

    /// kernfs id of the cgroup v2 the socket was created in.
    #[inline(always)]
    pub(crate) fn cgroup_id(self) -> Option<u64> {
        let cgroup = self.get::<*const u8>(Field::SkCgroup)?;
        // SAFETY: the verifier types the pointer `struct cgroup` from BTF; such
        // walked pointers are read fault-safely.
        let node = unsafe { load::<*const u8>(cgroup, Field::CgroupKn) }?;
        // SAFETY: likewise `struct kernfs_node`.
        unsafe { load(node, Field::KnId) }
    }
}

/// `struct net *` reached from a socket or a device.
#[derive(Clone, Copy)]
pub(crate) struct Net<A: Access = Typed>(*const u8, PhantomData<A>);

impl<A: Access> Net<A> {
    #[inline(always)]
    fn at(pointer: *const u8) -> Self {
        Self(pointer, PhantomData)
    }

    /// A field of `struct net`.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, field: Field) -> Option<T> {
        // SAFETY: where the verifier types pointers, it does this one `struct net` from
        // BTF; such walked pointers are read fault-safely.
        unsafe { A::read(self.0, field) }
    }

    /// What tells it from other namespaces: its cookie, or its inode where the
    /// kernel has none.
    #[inline(always)]
    pub(crate) fn id(self) -> u64 {
        self.get::<u64>(Field::NetCookie)
            .or_else(|| self.get::<u32>(Field::NetInum).map(u64::from))
            .unwrap_or_default()
    }
}

/// `struct sk_buff *` of an argument: the segment that is answered.
#[derive(Clone, Copy)]
pub(crate) struct Skb<A: Access = Typed>(NonNull<u8>, PhantomData<A>);

impl<A: Access> Skb<A> {
    /// Argument `index`, unless NULL.
    #[inline(always)]
    pub(crate) fn from_arg(ctx: &impl Call<Access = A>, index: usize) -> Option<Self> {
        not_null(ctx.pointer(index)).map(|pointer| Self(pointer, PhantomData))
    }

    /// A field of `sk_buff`.
    #[inline(always)]
    pub(crate) fn get<T: Copy>(self, field: Field) -> Option<T> {
        // SAFETY: an sk_buff past the NULL rule (see `not_null`).
        unsafe { A::read(self.0.as_ptr(), field) }
    }

    /// Address of its route (`skb_dst`, include/linux/skbuff.h), where it has one: the
    /// lowest bit says who holds it.
    #[inline(always)]
    pub(crate) fn route(self) -> Option<u64> {
        let route = self.get::<u64>(Field::SkbRoute)? & !1;
        (route != 0).then_some(route)
    }

    /// The network namespace of the device it came through. Only where the
    /// segment met no socket: the kernel clears the device when it has found one.
    #[inline(always)]
    pub(crate) fn net(self) -> Option<Net<A>> {
        let device = A::device(self)?;
        // SAFETY: where the verifier types pointers, it does this one
        // `struct net_device` from BTF; such walked pointers are read fault-safely.
        unsafe { A::read::<*const u8>(device, Field::DevNet) }.map(Net::at)
    }
}

impl Skb {
    /// The flags of the TCP header as the kernel has noted them (`TCP_SKB_CB`): where
    /// it has, and it is no packet of another protocol.
    #[inline(always)]
    pub(crate) fn flags(self) -> Option<u8> {
        let (block, flags) = (offset(Field::SkbCb), offset(Field::TcpCbFlags));
        if block == ABSENT || flags == ABSENT {
            return None;
        }
        let at = block as usize + flags as usize;
        // SAFETY: PTR_TO_BTF_ID sk_buff past the NULL rule; a byte of `cb`, which is
        // an array of bytes that `struct tcp_skb_cb` fits into.
        Some(unsafe { ptr::read_volatile(self.0.as_ptr().add(at)) })
    }
}
