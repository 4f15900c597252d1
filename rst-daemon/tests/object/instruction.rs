//! eBPF instructions, decoded (Documentation/bpf/standardization/instruction-set.rst).

use aya_obj::generated::bpf_insn;

/// One instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Class, operation and source.
    pub(crate) code: u8,
    /// Destination register.
    pub(crate) dst: usize,
    /// Source register.
    pub(crate) src: usize,
    /// Offset of a memory access or of a jump.
    pub(crate) off: i32,
    /// Immediate value.
    pub(crate) imm: i32,
}

impl From<&bpf_insn> for Instruction {
    fn from(raw: &bpf_insn) -> Self {
        Self {
            code: raw.code,
            dst: usize::from(raw.dst_reg()),
            src: usize::from(raw.src_reg()),
            off: i32::from(raw.off),
            imm: raw.imm,
        }
    }
}

/// What an instruction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A 64-bit constant, in two slots.
    Constant,
    Load,
    /// Of a register, or of an immediate.
    Store,
    /// On a memory word at once.
    Atomic,
    Compute32,
    Compute64,
    /// Conditional or not, calls and returns.
    Jump,
}

/// Operations, the upper half of [`Instruction::code`].
pub(crate) mod op {
    pub(crate) const ADD: u8 = 0x00;
    pub(crate) const SUB: u8 = 0x10;
    pub(crate) const AND: u8 = 0x50;
    pub(crate) const LSH: u8 = 0x60;
    pub(crate) const RSH: u8 = 0x70;
    pub(crate) const NEG: u8 = 0x80;
    pub(crate) const MOV: u8 = 0xb0;
    pub(crate) const END: u8 = 0xd0;
    pub(crate) const JA: u8 = 0x00;
    pub(crate) const JEQ: u8 = 0x10;
    pub(crate) const JNE: u8 = 0x50;
    pub(crate) const CALL: u8 = 0x80;
    pub(crate) const EXIT: u8 = 0x90;
}

/// `BPF_PSEUDO_CALL` in the source register: a function of the program.
pub(crate) const PSEUDO_CALL: usize = 1;

const FROM_REGISTER: u8 = 0x08;

impl Instruction {
    pub(crate) fn class(self) -> Result<Class, String> {
        let mode = self.code & 0xe0;
        Ok(match (self.code & 0x07, mode) {
            (0x00, _) if self.code == 0x18 => Class::Constant,
            (0x01, 0x60 | 0x80) => Class::Load,
            (0x02 | 0x03, 0x60) => Class::Store,
            (0x03, 0xc0) => Class::Atomic,
            (0x04, _) => Class::Compute32,
            (0x07, _) => Class::Compute64,
            (0x05, _) => Class::Jump,
            (0x06, _) if self.op() != op::JA => Class::Jump,
            _ => return Err(format!("unknown instruction {:#04x}", self.code)),
        })
    }

    pub(crate) const fn op(self) -> u8 {
        self.code & 0xf0
    }

    pub(crate) const fn has_register(self) -> bool {
        self.code & FROM_REGISTER != 0
    }

    /// Bytes that are loaded or stored.
    pub(crate) const fn size(self) -> i32 {
        match self.code & 0x18 {
            0x00 => 4,
            0x08 => 2,
            0x10 => 1,
            _ => 8,
        }
    }
}
