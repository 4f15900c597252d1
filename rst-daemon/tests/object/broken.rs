//! Programs that break the NULL rule, and some that keep it: the check must tell them
//! apart.

use super::super::instruction::Instruction;
use super::check;

const fn instruction(code: u8, dst: usize, src: usize, off: i32, imm: i32) -> Instruction {
    Instruction {
        code,
        dst,
        src,
        off,
        imm,
    }
}

/// `r6 = *(u64 *)(r1 + 0)`: the argument.
const ARGUMENT: Instruction = instruction(0x79, 6, 1, 0, 0);
/// `r0 = *(u32 *)(r6 + 16)`: a use.
const USE: Instruction = instruction(0x61, 0, 6, 16, 0);
const EXIT: Instruction = instruction(0x95, 0, 0, 0, 0);
/// `r7 = r6`, `w7 = w7`: a 32-bit copy.
const COPY: Instruction = instruction(0xbf, 7, 6, 0, 0);
const LOW: Instruction = instruction(0xbc, 7, 7, 0, 0);
/// `r2 = r6`
const SPARE: Instruction = instruction(0xbf, 2, 6, 0, 0);

/// `if REGISTER == 0 goto +over`, 64-bit.
const fn if_zero(register: usize, over: i32) -> Instruction {
    instruction(0x15, register, 0, over, 0)
}

/// The same, 32-bit.
const fn if_zero_32(register: usize, over: i32) -> Instruction {
    instruction(0x16, register, 0, over, 0)
}

/// `if REGISTER != 0 goto +over`
const fn if_not_zero(register: usize, over: i32) -> Instruction {
    instruction(0x55, register, 0, over, 0)
}

const fn call(helper: i32) -> Instruction {
    instruction(0x85, 0, 0, 0, helper)
}

const UNTESTED: &str = "argument 0 is used without a 32-bit test before";

fn breaks(code: &[Instruction], expected: &str) {
    let problem = check(code, &[0], &[]).unwrap_err();
    assert!(problem.contains(expected), "{problem}");
}

#[test]
fn a_use_without_a_test_is_found() {
    breaks(&[ARGUMENT, USE, EXIT], UNTESTED);
}

#[test]
fn a_test_of_the_pointer_does_not_count() {
    breaks(&[ARGUMENT, if_zero(6, 1), USE, EXIT], UNTESTED);
    breaks(&[ARGUMENT, if_zero_32(6, 1), USE, EXIT], UNTESTED);
}

#[test]
fn a_test_of_a_32_bit_copy_counts() {
    for test in [if_zero(7, 1), if_zero_32(7, 1)] {
        assert_eq!(
            check(&[ARGUMENT, COPY, LOW, test, USE, EXIT], &[0], &[]),
            Ok(1)
        );
    }
    let jump = instruction(0x05, 0, 0, 1, 0);
    let code = [ARGUMENT, COPY, LOW, if_not_zero(7, 1), jump, USE, EXIT];
    assert_eq!(check(&code, &[0], &[]), Ok(1));
}

#[test]
fn the_compilers_way_to_cut_a_register_counts() {
    let left = instruction(0x67, 7, 0, 0, 32);
    let right = instruction(0x77, 7, 0, 0, 32);
    let code = [ARGUMENT, COPY, LOW, left, right, if_zero(7, 1), USE, EXIT];
    assert_eq!(check(&code, &[0], &[]), Ok(1));
}

#[test]
fn the_wrong_branch_is_found() {
    breaks(
        &[ARGUMENT, COPY, LOW, if_not_zero(7, 1), USE, EXIT],
        UNTESTED,
    );
}

/// `r8 = r6` where the test is passed, else 0: then a test of r8 tells for r6 too.
#[test]
fn an_option_carries_the_test() {
    let none = instruction(0xb7, 8, 0, 0, 0);
    let some = instruction(0xbf, 8, 6, 0, 0);
    let code = |condition| {
        [
            ARGUMENT,
            COPY,
            LOW,
            none,
            condition,
            some,
            if_zero(8, 1),
            USE,
            EXIT,
        ]
    };
    assert_eq!(check(&code(if_zero(7, 1)), &[0], &[]), Ok(1));
    breaks(&code(if_not_zero(7, 1)), UNTESTED);
    breaks(&code(if_zero(9, 1)), UNTESTED);
    // So does a comparison's result: `w9 &= w8`, `if w9 != 1 goto +1`.
    let flag = |condition| {
        [
            ARGUMENT,
            COPY,
            LOW,
            none,
            condition,
            instruction(0xb4, 8, 0, 0, 1),
            instruction(0x5c, 9, 8, 0, 0),
            instruction(0x56, 9, 0, 1, 1),
            USE,
            EXIT,
        ]
    };
    assert_eq!(check(&flag(if_zero(7, 1)), &[0], &[]), Ok(1));
    breaks(&flag(if_not_zero(7, 1)), UNTESTED);
}

#[test]
fn a_path_around_the_test_is_found() {
    // An unrelated condition jumps over the test.
    let code = [ARGUMENT, COPY, LOW, if_zero(8, 1), if_zero(7, 1), USE, EXIT];
    breaks(&code, UNTESTED);
}

#[test]
fn the_test_of_another_argument_does_not_count() {
    let other = instruction(0x79, 7, 1, 8, 0);
    let code = [ARGUMENT, other, LOW, if_zero(7, 1), USE, EXIT];
    let problem = check(&code, &[0, 1], &[]).unwrap_err();
    assert!(problem.contains(UNTESTED), "{problem}");
}

#[test]
fn helpers_use_their_arguments() {
    let to_r1 = instruction(0xbf, 1, 6, 0, 0);
    breaks(&[ARGUMENT, to_r1, call(137), EXIT], UNTESTED);
    // Not one that is no argument of theirs.
    assert_eq!(check(&[ARGUMENT, SPARE, call(5), EXIT], &[0], &[]), Ok(0));
    breaks(&[call(9999), EXIT], "unknown helper 9999");
}

#[test]
fn what_is_spilled_or_computed_is_followed() {
    let spill = instruction(0x7b, 10, 6, -8, 0);
    let fill = instruction(0x79, 8, 10, -8, 0);
    let use_filled = instruction(0x61, 0, 8, 0, 0);
    breaks(&[ARGUMENT, spill, fill, use_filled, EXIT], UNTESTED);
    let tested = [
        ARGUMENT,
        spill,
        COPY,
        LOW,
        if_zero(7, 2),
        fill,
        use_filled,
        EXIT,
    ];
    assert_eq!(check(&tested, &[0], &[]), Ok(1));
    // `r6 += r9`
    let add = instruction(0x0f, 6, 9, 0, 0);
    breaks(&[ARGUMENT, add, USE, EXIT], UNTESTED);
    let tested = [ARGUMENT, COPY, LOW, if_zero(7, 2), add, USE, EXIT];
    assert_eq!(check(&tested, &[0], &[]), Ok(1));
}

#[test]
fn functions_are_followed() {
    // `r1 = r6`, call of the function behind the exit, which uses its argument.
    let to_r1 = instruction(0xbf, 1, 6, 0, 0);
    let call = instruction(0x85, 0, 1, 0, 1);
    let use_first = instruction(0x61, 0, 1, 0, 0);
    breaks(&[ARGUMENT, to_r1, call, EXIT, use_first, EXIT], UNTESTED);
    // It takes the context.
    let call = instruction(0x85, 0, 1, 0, 1);
    breaks(&[call, EXIT, ARGUMENT, USE, EXIT], UNTESTED);
}

#[test]
fn what_cannot_be_followed_is_an_error() {
    breaks(
        &[instruction(0x20, 0, 0, 0, 0), EXIT],
        "unknown instruction",
    );
    breaks(&[ARGUMENT], "the program runs out");
    // The context, or a number: a path each.
    let forget = instruction(0xb7, 1, 0, 0, 0);
    breaks(
        &[if_zero(8, 1), forget, ARGUMENT, EXIT],
        "can't be followed",
    );
}

#[test]
fn the_librarys_functions_write_their_range_only() {
    // `*(u64 *)(r10 - 16) = r6`; `r1 = r10`, `r1 += AT`, `r3 = 8`, call of the function
    // behind the exit; `r6 = *(u64 *)(r10 - 16)`.
    let code = |at| {
        [
            ARGUMENT,
            COPY,
            LOW,
            instruction(0x7b, 10, 6, -16, 0),
            instruction(0xbf, 1, 10, 0, 0),
            instruction(0x07, 1, 0, 0, at),
            instruction(0xb7, 2, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, 8),
            instruction(0x85, 0, 1, 0, 3),
            instruction(0x79, 6, 10, -16, 0),
            USE,
            EXIT,
            // The function.
            instruction(0xb7, 0, 0, 0, 77),
            EXIT,
        ]
    };
    let library = [vec![instruction(0xb7, 0, 0, 0, 77), EXIT]];
    let beside = check(&code(-8), &[0], &library).unwrap_err();
    assert!(beside.contains(UNTESTED), "{beside}");
    // The argument is written over.
    assert_eq!(check(&code(-16), &[0], &library), Ok(0));
}
