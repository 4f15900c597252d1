//! What the kernel's verifier is not to follow.

/// The same value, of which the verifier knows nothing any more.
///
/// It follows every path with every constant it has seen on the way, so a
/// handful of yes-or-no facts and a verdict of constants multiply what it has
/// to check a hundredfold. Combined with an unknown number and back, they are
/// one state again.
#[must_use]
#[inline(always)]
pub fn forget(value: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut value = value;
        // SAFETY: computes with two registers; the 32-bit copy of the frame pointer
        // is an unknown scalar to the verifier.
        unsafe {
            core::arch::asm!(
                "r2 = r10",
                "w2 = w2",
                "r1 ^= r2",
                "r1 ^= r2",
                inout("r1") value,
                out("r2") _,
                options(pure, nomem, nostack),
            );
        }
        value
    }
    #[cfg(not(target_arch = "bpf"))]
    value
}

/// [`forget`] of 32 bits.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it has no more")]
pub fn forget_u32(value: u32) -> u32 {
    forget(u64::from(value)) as u32
}

/// [`forget`] of 8 bits.
#[must_use]
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "it has no more")]
pub fn forget_u8(value: u8) -> u8 {
    forget(u64::from(value)) as u8
}

/// [`forget`] of a fact that is yes or no.
#[must_use]
#[inline(always)]
pub fn flag(value: bool) -> u8 {
    forget_u8(u8::from(value)) & 1
}

/// A set of numbers below 64, for [`holds`].
#[must_use]
pub const fn set(members: &[u8]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < members.len() {
        bits |= 1 << members[index];
        index += 1;
    }
    bits
}

/// Whether a number is in a [`set`]: one way for the verifier, where comparing it with each
/// would be as many.
#[must_use]
#[inline(always)]
pub const fn holds(set: u64, number: u32) -> bool {
    number < u64::BITS && (set >> (number & (u64::BITS - 1))) & 1 != 0
}
