//! What is known of a register or a stack slot.

use super::instruction::{Instruction, op};

/// What a register or a stack slot holds, as far as the NULL rule goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing that has to do with an argument.
    Clean,
    /// A constant.
    Number(i32),
    /// The program's context.
    Context,
    /// An address on the stack of this call depth; the offset where it is known.
    Stack(usize, Option<i32>),
    /// An argument that has not been tested.
    Argument(usize),
    /// One that has.
    Tested(usize),
    /// 0, or something that is there only where these arguments have been tested: an
    /// `Option` of one, or what a comparison gave. Where it is not 0, they have been.
    Implies(u32),
    /// An address computed from one that has.
    Within(usize),
    /// The low half of an argument, a number.
    Low(usize),
    /// That, in the upper half of the register.
    Shifted(usize),
    /// Computed from arguments that have not been tested, a bit each.
    From(u32),
    /// One of several things on the paths that meet here.
    Lost,
}

/// Nothing is mapped below.
const PAGE: i32 = 4096;

impl Value {
    /// The arguments that must be tested before this is used as an address.
    pub(crate) const fn untested(self) -> u32 {
        match self {
            Self::Argument(index) | Self::Low(index) | Self::Shifted(index) => 1 << index,
            Self::From(arguments) => arguments,
            Self::Clean
            | Self::Number(_)
            | Self::Implies(_)
            | Self::Context
            | Self::Stack(..)
            | Self::Tested(_)
            | Self::Within(_)
            | Self::Lost => 0,
        }
    }

    /// A number computed from this.
    const fn number(untested: u32) -> Self {
        if untested == 0 {
            Self::Clean
        } else {
            Self::From(untested)
        }
    }

    /// What is left of it when only a part is read.
    pub(crate) const fn part(self) -> Self {
        match self {
            Self::Lost => Self::Lost,
            other => Self::number(other.untested()),
        }
    }

    /// What is left of it when something is written over a part.
    pub(crate) const fn rest(self) -> Self {
        match self {
            Self::Context | Self::Stack(..) => Self::Lost,
            other => other.part(),
        }
    }

    /// It, once these arguments have been tested.
    pub(crate) const fn after_test(self, tested: u32) -> Self {
        match self {
            Self::Argument(index) if tested & 1 << index != 0 => Self::Tested(index),
            Self::From(arguments) => Self::number(arguments & !tested),
            other => other,
        }
    }

    /// What holds of it and of `zero`, where the path of the first has passed the test of
    /// `arguments` and that of the other has not.
    pub(crate) const fn implies(self, arguments: u32, zero: Self) -> Option<Self> {
        if arguments == 0 || self.untested() != 0 || matches!(self, Self::Number(0)) {
            return None;
        }
        match (self, zero) {
            (Self::Context | Self::Stack(..) | Self::Lost, _) => None,
            (_, Self::Number(0)) => Some(Self::Implies(arguments)),
            (_, Self::Implies(known)) if known & arguments != 0 => {
                Some(Self::Implies(known & arguments))
            }
            _ => None,
        }
    }

    /// What holds of it and of another, where two paths meet that have passed the same
    /// tests.
    pub(crate) fn join(self, other: Self) -> Self {
        if self == other {
            return self;
        }
        match (self, other) {
            (Self::Stack(one, _), Self::Stack(two, _)) if one == two => Self::Stack(one, None),
            (Self::Context | Self::Stack(..) | Self::Lost, _)
            | (_, Self::Context | Self::Stack(..) | Self::Lost) => Self::Lost,
            (Self::Tested(index), Self::Number(0)) | (Self::Number(0), Self::Tested(index)) => {
                Self::Implies(1 << index)
            }
            (Self::Tested(index), Self::Implies(arguments))
            | (Self::Implies(arguments), Self::Tested(index))
                if arguments & 1 << index != 0 =>
            {
                Self::Implies(1 << index)
            }
            (Self::Implies(arguments), Self::Number(0))
            | (Self::Number(0), Self::Implies(arguments)) => Self::Implies(arguments),
            (Self::Implies(one), Self::Implies(two)) if one & two != 0 => Self::Implies(one & two),
            (Self::Argument(one), Self::Tested(two)) | (Self::Tested(two), Self::Argument(one))
                if one == two =>
            {
                self.weaker(other)
            }
            _ => Self::number(self.untested() | other.untested()),
        }
    }

    fn weaker(self, other: Self) -> Self {
        if matches!(self, Self::Argument(_)) {
            self
        } else {
            other
        }
    }

    /// What an arithmetic instruction makes of it. `operand` is a register's value; for
    /// an immediate, `instruction` has it.
    pub(crate) fn compute(
        self,
        instruction: Instruction,
        wide: bool,
        operand: Option<Self>,
    ) -> Self {
        let immediate = operand.is_none().then_some(instruction.imm);
        match (instruction.op(), operand) {
            // A sign-extending move has an offset.
            (op::MOV, Some(value)) if wide && instruction.off == 0 => return value,
            (op::MOV, Some(value)) => {
                return match value {
                    // 32-bit copies of pointers are numbers to every verifier.
                    Self::Context | Self::Stack(..) => Self::Clean,
                    Self::Argument(index) | Self::Tested(index) | Self::Low(index)
                        if instruction.off == 0 =>
                    {
                        Self::Low(index)
                    }
                    Self::Implies(arguments) if instruction.off == 0 => Self::Implies(arguments),
                    other => other.part(),
                };
            }
            (op::MOV, None) => return Self::Number(instruction.imm),
            (op::NEG | op::END, _) => return self.part(),
            // So few bits are an index, never an address: what is added to it is.
            (op::AND, None)
                if (0..PAGE).contains(&instruction.imm)
                    && !matches!(self, Self::Implies(_) | Self::Lost) =>
            {
                return Self::Clean;
            }
            _ => {}
        }
        // Where the result is not 0, neither was.
        match (self, operand.unwrap_or(Self::Clean)) {
            (Self::Implies(one), Self::Implies(two)) if instruction.op() == op::AND => {
                return Self::Implies(one | two);
            }
            (Self::Implies(arguments), _) | (_, Self::Implies(arguments))
                if instruction.op() == op::AND =>
            {
                return Self::Implies(arguments);
            }
            _ => {}
        }
        match (self, instruction.op(), immediate) {
            (Self::Stack(depth, Some(at)), op::ADD, Some(more)) if wide => {
                Self::Stack(depth, at.checked_add(more))
            }
            (Self::Stack(depth, _), op::ADD | op::SUB, _) if wide => Self::Stack(depth, None),
            (Self::Low(index), op::LSH, Some(32)) if wide => Self::Shifted(index),
            (Self::Shifted(index), op::RSH, Some(32)) if wide => Self::Low(index),
            _ => {
                let operand = operand.unwrap_or(Self::Clean);
                // A number plus the address of something.
                if let (Self::Stack(depth, _), op::ADD) = (operand, instruction.op()) {
                    return Self::Stack(depth, None);
                }
                let lost = |value| matches!(value, Self::Context | Self::Stack(..) | Self::Lost);
                if lost(self) || lost(operand) {
                    return Self::Lost;
                }
                match (self, operand) {
                    (Self::Tested(index) | Self::Within(index), other)
                    | (other, Self::Tested(index) | Self::Within(index))
                        if wide && other.untested() == 0 =>
                    {
                        Self::Within(index)
                    }
                    _ => Self::number(self.untested() | operand.untested()),
                }
            }
        }
    }
}
