//! How a program gets at its arguments, and at what these point to.
//!
//! Tracepoints and traced functions (tp_btf, fentry) have typed arguments, whose
//! fields are plain loads. A probed function (kprobe) has numbers, and each field
//! is a copy by a helper. What is done with them is the same.

use core::{arch::asm, mem::MaybeUninit, ptr};

use aya_ebpf::{
    EbpfContext,
    helpers::generated::bpf_probe_read_kernel,
    programs::{BtfTracePointContext, FEntryContext, FExitContext, ProbeContext},
};
use rst_common::layout::{ABSENT, Field};

use crate::kernel::{self, Skb, Sock};

/// How what a pointer leads to is read.
pub(crate) trait Access: Copy {
    /// Reads a field at a pointer.
    ///
    /// # Safety
    /// Where the verifier types the pointer, it must be of the field's root struct
    /// (or of one that begins with it) and past the NULL rule; `T` must have the size
    /// the layout table states for the field.
    unsafe fn read<T: Copy>(base: *const u8, field: Field) -> Option<T>;

    /// The device of a packet.
    fn device(skb: Skb<Self>) -> Option<*const u8>;

    /// The same socket as the helpers take it, where they do.
    fn typed(sk: Sock<Self>) -> Option<Sock>;
}

/// Pointers whose type the verifier knows.
#[derive(Clone, Copy)]
pub(crate) struct Typed;

/// Pointers that are numbers to the verifier.
#[derive(Clone, Copy)]
pub(crate) struct Untyped;

impl Access for Typed {
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, field: Field) -> Option<T> {
        // SAFETY: the caller's promise.
        unsafe { kernel::load(base, field) }
    }

    #[inline(always)]
    fn device(skb: Skb<Self>) -> Option<*const u8> {
        skb.get(Field::SkbDev)
    }

    #[inline(always)]
    fn typed(sk: Sock<Self>) -> Option<Sock> {
        Some(sk)
    }
}

impl Access for Untyped {
    /// Zeros where the address is bad, as a typed load would read: so there is one way
    /// less for the verifier to follow.
    #[inline(always)]
    unsafe fn read<T: Copy>(base: *const u8, field: Field) -> Option<T> {
        let offset = kernel::offset(field);
        if offset == ABSENT {
            return None;
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper checks the address, and fills all of the value in any case
        // (`bpf_probe_read_kernel_common`, kernel/trace/bpf_trace.c); fields are numbers,
        // pointers and arrays of bytes.
        unsafe {
            bpf_probe_read_kernel(
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
                base.wrapping_add(offset as usize).cast(),
            );
            Some(value.assume_init())
        }
    }

    /// A packet that leaves has none yet, but its route has.
    #[inline(always)]
    fn device(skb: Skb<Self>) -> Option<*const u8> {
        skb.get(Field::SkbDev)
            .filter(|device: &*const u8| !device.is_null())
            .or_else(|| kernel::probe(skb.route()?, Field::RouteDev))
    }

    #[inline(always)]
    fn typed(_: Sock<Self>) -> Option<Sock> {
        None
    }
}

/// The context of a program that is called with arguments.
pub(crate) trait Call: EbpfContext {
    /// How what its pointers lead to is read.
    type Access: Access;

    /// An argument that is a pointer.
    fn pointer(&self, index: usize) -> *mut u8;

    /// The context once more, so that the compiler reads its pointers again instead
    /// of keeping them.
    fn again(&self) -> Self;
}

macro_rules! typed_calls {
    ($($context:ident)*) => { $(
        impl Call for $context {
            type Access = Typed;

            #[inline(always)]
            fn pointer(&self, index: usize) -> *mut u8 {
                self.arg(index)
            }

            #[inline(always)]
            fn again(&self) -> Self {
                Self::new(same(self).cast())
            }
        }
    )* };
}

typed_calls! { BtfTracePointContext FEntryContext FExitContext }

impl Call for ProbeContext {
    type Access = Untyped;

    #[inline(always)]
    fn pointer(&self, index: usize) -> *mut u8 {
        // Only an index beyond the registers has none.
        self.arg(index).unwrap_or(ptr::null_mut())
    }

    #[inline(always)]
    fn again(&self) -> Self {
        Self::new(same(self).cast())
    }
}

/// The pointer to a context, of which the compiler knows nothing any more.
#[inline(always)]
#[expect(
    clippy::pointers_in_nomem_asm_block,
    reason = "the register is copied, nothing is read through it"
)]
fn same(ctx: &impl EbpfContext) -> *mut u8 {
    let mut pointer = ctx.as_ptr();
    // SAFETY: leaves the register as it is.
    unsafe { asm!("{0} = {0}", inout(reg) pointer, options(pure, nomem, nostack)) };
    pointer.cast()
}
