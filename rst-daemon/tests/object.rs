//! What must hold for the eBPF object that the daemon embeds, on the instructions
//! themselves.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "most values are of no concern at each place"
)]

use std::collections::HashSet;

use aya_obj::{Object, ProgramSection};
use rst_daemon::kernel::prototypes::{PROTOTYPES, Prototype};

#[path = "object/instruction.rs"]
mod instruction;
#[path = "object/null_rule.rs"]
mod null_rule;
#[path = "object/value.rs"]
mod value;

use instruction::Instruction;

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/rst-ebpf-object"));

/// The object with the functions that a program calls put behind it.
fn linked() -> Object {
    let mut object = Object::parse(OBJECT).unwrap();
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections).unwrap();
    object
}

/// Whether the kernel calls it with typed arguments that older verifiers trust.
const fn is_traced(section: &ProgramSection) -> bool {
    matches!(
        section,
        ProgramSection::BtfTracePoint
            | ProgramSection::FEntry { .. }
            | ProgramSection::FExit { .. }
    )
}

/// No program without a prototype, and no prototype is left over.
#[test]
fn every_traced_program_has_its_prototype() {
    let object = linked();
    let mut known: Vec<_> = PROTOTYPES.iter().map(|known| known.program).collect();
    known.sort_unstable();
    let mut traced: Vec<_> = object
        .programs
        .iter()
        .filter(|(name, program)| match program.section {
            ProgramSection::Iter { .. } => true,
            // Most are at a function that a traced program is at too.
            ProgramSection::KProbe => known.contains(&name.as_str()),
            _ => is_traced(&program.section),
        })
        .map(|(name, _)| name.as_str())
        .collect();
    traced.sort_unstable();
    assert_eq!(traced, known);
}

/// Words of a program's context that are pointers to a struct: arguments, and what a
/// function returns (the word after them).
fn pointers(prototype: &Prototype) -> Vec<usize> {
    let words = prototype.parameters.iter().chain(&prototype.returns);
    words
        .enumerate()
        .filter(|(_, name)| name.starts_with("struct ") && name.ends_with('*'))
        .map(|(index, _)| index)
        .collect()
}

/// Between 6.2 and 6.11 verifiers take these arguments as never NULL, delete every check
/// of the typed pointer, and the kernel oopses at the load behind it. So each use of one
/// comes after a check of a 32-bit copy, which is a number to every verifier.
#[test]
fn every_use_of_an_argument_follows_its_32_bit_test() {
    let object = linked();
    let library: Vec<Vec<Instruction>> = ["memset", "memcpy", "memmove"]
        .iter()
        .filter_map(|name| object.functions.values().find(|known| known.name == *name))
        .map(|known| known.instructions.iter().map(Instruction::from).collect())
        .collect();
    let mut checked = 0;
    for (name, program) in &object.programs {
        if !is_traced(&program.section) {
            continue;
        }
        let prototype = PROTOTYPES.iter().find(|known| known.program == name);
        let code: Vec<Instruction> = object.functions[&program.function_key()]
            .instructions
            .iter()
            .map(Instruction::from)
            .collect();
        let uses = null_rule::check(&code, &pointers(prototype.unwrap()), &library)
            .unwrap_or_else(|problem| panic!("{name}: {problem}"));
        eprintln!(
            "{name}: {} instructions, {uses} uses of arguments",
            code.len()
        );
        assert!(uses > 0, "{name} uses no argument: the check has lost them");
        checked += 1;
    }
    assert!(checked >= 9, "only {checked} programs");
}
