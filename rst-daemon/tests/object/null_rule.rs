//! Follows the arguments of a program through its instructions, and finds uses of one
//! that no 32-bit test comes before.
//!
//! Every path is followed; where two meet, only what holds on both is kept. What can't be
//! followed is an error, never taken for fine. A test of the 64-bit register does not
//! count, nor a 32-bit jump on the pointer itself: `is_branch_taken` in
//! kernel/bpf/verifier.c (6.6) decides both by the register's type.

use std::collections::BTreeMap;

use super::instruction::{Class, Instruction, PSEUDO_CALL, op};
use super::value::Value;

/// Helpers by number (include/uapi/linux/bpf.h): how many arguments they take.
const HELPERS: [(i32, usize); 17] = [
    (1, 2),   // map_lookup_elem
    (2, 4),   // map_update_elem
    (3, 2),   // map_delete_elem
    (5, 0),   // ktime_get_ns
    (8, 0),   // get_smp_processor_id
    (14, 0),  // get_current_pid_tgid
    (16, 2),  // get_current_comm
    (35, 0),  // get_current_task
    (80, 0),  // get_current_cgroup_id
    (113, 3), // probe_read_kernel
    (118, 0), // jiffies64
    (131, 3), // ringbuf_reserve
    (132, 2), // ringbuf_submit
    (133, 2), // ringbuf_discard
    (137, 1), // skc_to_tcp_sock
    (158, 0), // get_current_task_btf
    (162, 1), // sock_from_file
];

/// Those that write to what their first argument points to, as many bytes as the second
/// one says.
const WRITERS: [i32; 2] = [16, 113];

/// Bytes of stack of a function, and of a slot.
const STACK: i32 = 512;
const SLOT: i32 = 8;
const SLOTS: usize = 64;
/// The frame pointer.
const FRAME: usize = 10;

/// Registers and stack of one function that runs.
#[derive(Clone, PartialEq, Eq)]
struct Frame {
    registers: [Value; 11],
    slots: [Value; SLOTS],
}

impl Frame {
    fn new(depth: usize) -> Self {
        let mut registers = [Value::Clean; 11];
        registers[FRAME] = Value::Stack(depth, Some(0));
        Self {
            registers,
            slots: [Value::Clean; SLOTS],
        }
    }
}

/// What holds before an instruction.
#[derive(Clone, PartialEq, Eq)]
struct State {
    /// The innermost is the last.
    frames: Vec<Frame>,
    /// Arguments that have been tested, a bit each.
    tested: u32,
}

impl State {
    fn values(&mut self) -> impl Iterator<Item = &mut Value> {
        self.frames
            .iter_mut()
            .flat_map(|frame| frame.registers.iter_mut().chain(&mut frame.slots))
    }

    /// These arguments have been tested.
    fn test(&mut self, arguments: u32) {
        self.tested |= arguments;
        for value in self.values() {
            *value = value.after_test(arguments);
        }
    }

    /// Keeps what holds in the other too; whether something changed.
    fn meet(&mut self, mut other: Self) -> bool {
        let before = self.clone();
        // What has been tested on one of the two paths alone.
        let (first, second) = (self.tested & !other.tested, other.tested & !self.tested);
        self.tested &= other.tested;
        for (value, other) in self.values().zip(other.values()) {
            *value = value
                .implies(first, *other)
                .or_else(|| other.implies(second, *value))
                .unwrap_or_else(|| value.join(*other));
        }
        *self != before
    }

    fn register(&mut self, number: usize) -> &mut Value {
        let last = self.frames.len() - 1;
        &mut self.frames[last].registers[number]
    }
}

/// Where a path is: the instructions to return to, and the next one.
type Place = (Vec<usize>, usize);

struct Check<'a> {
    code: &'a [Instruction],
    /// Words of the context that are pointers.
    pointers: &'a [usize],
    /// `memset`, `memcpy` and `memmove`, whose loops are not followed.
    library: &'a [Vec<Instruction>],
    /// What holds at each place, and the places to look at again.
    states: BTreeMap<Place, State>,
    todo: Vec<Place>,
    /// Instructions that use an argument.
    uses: Vec<usize>,
}

/// How many instructions use one of the pointers, each after its test; else the first
/// that breaks the rule or can't be followed.
///
/// `library` is the code of functions that write r3 bytes to r1, and read them from r2
/// where that is an address.
pub(crate) fn check(
    code: &[Instruction],
    pointers: &[usize],
    library: &[Vec<Instruction>],
) -> Result<usize, String> {
    let mut frame = Frame::new(0);
    frame.registers[1] = Value::Context;
    let mut check = Check {
        code,
        pointers,
        library,
        states: BTreeMap::new(),
        todo: Vec::new(),
        uses: Vec::new(),
    };
    let start = State {
        frames: vec![frame],
        tested: 0,
    };
    check.reach((Vec::new(), 0), start);
    while let Some(place) = check.todo.pop() {
        let state = check.states[&place].clone();
        let at = place.1;
        check
            .step(place, state)
            .map_err(|problem| format!("instruction {at}: {problem}"))?;
    }
    check.uses.sort_unstable();
    check.uses.dedup();
    Ok(check.uses.len())
}

impl Check<'_> {
    fn reach(&mut self, place: Place, state: State) {
        let changed = if let Some(known) = self.states.get_mut(&place) {
            known.meet(state)
        } else {
            self.states.insert(place.clone(), state);
            true
        };
        if changed {
            self.todo.push(place);
        }
    }

    fn step(&mut self, (returns, at): Place, mut state: State) -> Result<(), String> {
        let instruction = *self.code.get(at).ok_or("the program runs out")?;
        let (dst, src) = (instruction.dst, instruction.src);
        let mut next = at + 1;
        match instruction.class()? {
            Class::Constant => {
                *state.register(dst) = Value::Clean;
                next += 1;
            }
            class @ (Class::Compute32 | Class::Compute64) => {
                let operand = instruction.has_register().then(|| *state.register(src));
                let wide = class == Class::Compute64;
                let value = *state.register(dst);
                *state.register(dst) = value.compute(instruction, wide, operand);
            }
            Class::Load => {
                let base = *state.register(src);
                *state.register(dst) = self.load(at, instruction, base, &state)?;
            }
            Class::Store => {
                let value = if instruction.code & 0x07 == 0x03 {
                    *state.register(src)
                } else {
                    Value::Number(instruction.imm)
                };
                let base = *state.register(dst);
                self.store(at, instruction, base, value, &mut state)?;
            }
            Class::Atomic => {
                let base = *state.register(dst);
                self.store(at, instruction, base, Value::Clean, &mut state)?;
                // What it fetches, where it does.
                *state.register(src) = Value::Clean;
            }
            Class::Jump => return self.jump((returns, at), instruction, state),
        }
        self.reach((returns, next), state);
        Ok(())
    }

    /// A use as an address.
    fn access(&mut self, at: usize, base: Value, tested: u32) -> Result<(), String> {
        let untested = base.untested() & !tested;
        if untested != 0 {
            return Err(format!(
                "argument {} is used without a 32-bit test before",
                untested.trailing_zeros()
            ));
        }
        match base {
            Value::Lost => Err("an address can't be followed".to_owned()),
            // The verifier itself refuses a load from what may be the number 0.
            Value::Tested(_) | Value::Implies(_) | Value::Within(_) => {
                self.uses.push(at);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn load(
        &mut self,
        at: usize,
        instruction: Instruction,
        base: Value,
        state: &State,
    ) -> Result<Value, String> {
        self.access(at, base, state.tested)?;
        Ok(match base {
            Value::Context => {
                let word = usize::try_from(instruction.off / SLOT).unwrap_or(usize::MAX);
                if !self.pointers.contains(&word) {
                    Value::Clean
                } else if instruction.off % SLOT != 0 || instruction.size() != SLOT {
                    return Err("a part of an argument is loaded".to_owned());
                } else if state.tested & 1 << word != 0 {
                    Value::Tested(word)
                } else {
                    Value::Argument(word)
                }
            }
            Value::Stack(depth, Some(offset)) => {
                let (first, last) = slots(offset + instruction.off, instruction.size())?;
                let slots = &state.frames[depth].slots;
                if whole(offset + instruction.off, instruction.size()) {
                    slots[first]
                } else {
                    let parts = slots[first..=last].iter().map(|slot| slot.part());
                    parts.fold(Value::Clean, Value::join)
                }
            }
            Value::Stack(depth, None) => {
                let slots = &state.frames[depth].slots;
                let parts = slots.iter().map(|slot| slot.part());
                parts.fold(Value::Clean, Value::join)
            }
            _ => Value::Clean,
        })
    }

    fn store(
        &mut self,
        at: usize,
        instruction: Instruction,
        base: Value,
        value: Value,
        state: &mut State,
    ) -> Result<(), String> {
        self.access(at, base, state.tested)?;
        let (depth, range) = match base {
            Value::Context => return Err("the context is written".to_owned()),
            Value::Stack(depth, Some(offset)) => {
                let (first, last) = slots(offset + instruction.off, instruction.size())?;
                if whole(offset + instruction.off, instruction.size()) {
                    state.frames[depth].slots[first] = value;
                    return Ok(());
                }
                (depth, first..=last)
            }
            Value::Stack(depth, None) => (depth, 0..=SLOTS - 1),
            _ => return Ok(()),
        };
        for slot in &mut state.frames[depth].slots[range] {
            *slot = slot.rest().join(value.part());
        }
        Ok(())
    }

    fn jump(
        &mut self,
        (mut returns, at): Place,
        instruction: Instruction,
        mut state: State,
    ) -> Result<(), String> {
        let target = |offset: i32| {
            usize::try_from(offset)
                .map_or_else(
                    |_| (at + 1).checked_sub(offset.unsigned_abs() as usize),
                    |forward| (at + 1).checked_add(forward),
                )
                .ok_or("a jump out of the program")
        };
        match instruction.op() {
            op::JA => self.reach((returns, target(instruction.off)?), state),
            op::EXIT => {
                let result = *state.register(0);
                state.frames.pop();
                // The program itself ends where there is nobody to return to.
                if let Some(back) = returns.pop() {
                    *state.register(0) = result;
                    for number in 1..=5 {
                        *state.register(number) = Value::Clean;
                    }
                    self.reach((returns, back), state);
                }
            }
            op::CALL if instruction.src == PSEUDO_CALL => {
                let start = target(instruction.imm)?;
                let code = self.code.get(start..).unwrap_or_default();
                if self.library.iter().any(|known| code.starts_with(known)) {
                    self.copy(at, &mut state)?;
                    self.reach((returns, at + 1), state);
                    return Ok(());
                }
                let depth = state.frames.len();
                if depth > 8 {
                    return Err("too many functions call one another".to_owned());
                }
                let mut frame = Frame::new(depth);
                frame.registers[1..=5].copy_from_slice(&state.frames[depth - 1].registers[1..=5]);
                state.frames.push(frame);
                returns.push(at + 1);
                self.reach((returns, start), state);
            }
            op::CALL => {
                self.helper(at, instruction, &mut state)?;
                self.reach((returns, at + 1), state);
            }
            condition => {
                let mut jumps = state.clone();
                let constant = !instruction.has_register();
                let tested = match *state.register(instruction.dst) {
                    Value::Low(index) if constant && instruction.imm == 0 => 1 << index,
                    Value::Implies(arguments) if constant => arguments,
                    _ => 0,
                };
                // On which side it is not 0.
                match (condition, instruction.imm == 0) {
                    (op::JEQ, true) | (op::JNE, false) => state.test(tested),
                    (op::JNE, true) | (op::JEQ, false) => jumps.test(tested),
                    _ => {}
                }
                // A constant takes one side only.
                let taken = match (*state.register(instruction.dst), condition) {
                    (Value::Number(number), op::JEQ) if constant => Some(number == instruction.imm),
                    (Value::Number(number), op::JNE) if constant => Some(number != instruction.imm),
                    _ => None,
                };
                if taken != Some(false) {
                    self.reach((returns.clone(), target(instruction.off)?), jumps);
                }
                if taken != Some(true) {
                    self.reach((returns, at + 1), state);
                }
            }
        }
        Ok(())
    }

    /// A call of a function of the library.
    fn copy(&mut self, at: usize, state: &mut State) -> Result<(), String> {
        let [to, from, size] = [1, 2, 3].map(|number| *state.register(number));
        self.access(at, to, state.tested)?;
        self.access(at, from, state.tested)?;
        if let Value::Stack(..) | Value::Context = from {
            return Err("a copy from the stack or the context is not followed".to_owned());
        }
        match to {
            Value::Stack(depth, offset) => {
                written(&mut state.frames[depth].slots, offset, size)?;
            }
            Value::Context => return Err("the context is written".to_owned()),
            _ => {}
        }
        for number in 1..=5 {
            *state.register(number) = Value::Clean;
        }
        *state.register(0) = to;
        Ok(())
    }

    fn helper(
        &mut self,
        at: usize,
        instruction: Instruction,
        state: &mut State,
    ) -> Result<(), String> {
        let (_, arguments) = HELPERS
            .iter()
            .find(|(number, _)| *number == instruction.imm && instruction.src == 0)
            .ok_or_else(|| {
                format!(
                    "unknown helper {}: add it to the table of this test",
                    instruction.imm
                )
            })?;
        for number in 1..=*arguments {
            let value = *state.register(number);
            self.access(at, value, state.tested)?;
        }
        if WRITERS.contains(&instruction.imm)
            && let Value::Stack(depth, offset) = *state.register(1)
        {
            let size = *state.register(2);
            written(&mut state.frames[depth].slots, offset, size)?;
        }
        for number in 0..=5 {
            *state.register(number) = Value::Clean;
        }
        Ok(())
    }
}

/// What a helper has written to the stack is no argument; where it may have, what was
/// there may still be.
fn written(slots: &mut [Value; SLOTS], offset: Option<i32>, size: Value) -> Result<(), String> {
    let (Some(offset), Value::Number(size)) = (offset, size) else {
        for slot in slots {
            *slot = slot.rest();
        }
        return Ok(());
    };
    let (first, last) = self::slots(offset, size)?;
    for (index, slot) in (0..).zip(slots).take(last + 1).skip(first) {
        let start = index * SLOT - STACK;
        let covered = offset <= start && start + SLOT <= offset + size;
        *slot = if covered { Value::Clean } else { slot.rest() };
    }
    Ok(())
}

/// The first and the last slot of an access to the stack.
fn slots(offset: i32, size: i32) -> Result<(usize, usize), String> {
    let first = usize::try_from((offset + STACK) / SLOT);
    let last = usize::try_from((offset + STACK + size - 1) / SLOT);
    match (first, last) {
        (Ok(first), Ok(last)) if offset >= -STACK && last < SLOTS => Ok((first, last)),
        _ => Err(format!("an access to the stack at {offset}")),
    }
}

const fn whole(offset: i32, size: i32) -> bool {
    size == SLOT && offset % SLOT == 0
}

#[cfg(test)]
#[path = "broken.rs"]
mod broken;
