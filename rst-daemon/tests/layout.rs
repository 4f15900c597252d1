//! The offsets found in the running kernel's BTF against what bpftool reads
//! there.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::collections::HashMap;
use std::process::Command;

use rst_common::layout::{ABSENT, FIELDS, Kind};
use rst_daemon::kernel::btf::{self, Btf};
use rst_daemon::kernel::layout::{resolve, wanted};

/// A type of `bpftool btf dump`: what it refers to, or its members.
#[derive(Default)]
struct Type {
    refers_to: Option<u32>,
    /// Name, type id, bit offset.
    members: Vec<(String, u32, u32)>,
}

#[test]
fn offsets_agree_with_bpftool() {
    if !std::path::Path::new(btf::VMLINUX).exists() {
        println!("SKIPPED: offsets_agree_with_bpftool: this kernel publishes no BTF");
        return;
    }
    let Ok(dump) = Command::new("bpftool")
        .args(["btf", "dump", "file", btf::VMLINUX, "format", "raw"])
        .output()
    else {
        println!("SKIPPED: offsets_agree_with_bpftool: bpftool is not installed");
        return;
    };
    assert!(dump.status.success(), "{dump:?}");
    let (types, structs) = parse(&String::from_utf8(dump.stdout).unwrap());

    let bytes = std::fs::read(btf::VMLINUX).unwrap();
    let layout = resolve(&Btf::parse(&bytes, &wanted()).unwrap()).unwrap();
    let mut compared = 0;
    for (field, offset) in FIELDS.iter().zip(layout.layout) {
        if offset == ABSENT {
            continue;
        }
        let mut id = structs[field.root];
        let mut bits = 0;
        for name in field.path {
            let (member, at) = find(&types, id, name).unwrap_or_else(|| panic!("{field:?}"));
            id = member;
            bits += at;
        }
        // The programs take the one bit field there is from its byte by this bit.
        let bit = if field.kind == Kind::BitField { 5 } else { 0 };
        assert_eq!(offset * 8 + bit, bits, "{}.{:?}", field.root, field.path);
        compared += 1;
    }
    assert_eq!(compared + layout.absent.len(), FIELDS.len());
}

fn parse(dump: &str) -> (HashMap<u32, Type>, HashMap<String, u32>) {
    let (mut types, mut structs) = (HashMap::<u32, Type>::new(), HashMap::new());
    let mut current = 0;
    for line in dump.lines() {
        if let Some(rest) = line.strip_prefix('[') {
            let (id, rest) = rest.split_once("] ").unwrap();
            current = id.parse().unwrap();
            let mut words = rest.split(' ');
            let kind = words.next().unwrap();
            let name = rest.split('\'').nth(1).unwrap_or_default();
            if kind == "STRUCT" {
                structs.entry(name.to_owned()).or_insert(current);
            }
            // Pointers end a path, as they do in the table.
            let transparent = ["TYPEDEF", "CONST", "VOLATILE", "RESTRICT", "TYPE_TAG"];
            let refers_to = transparent
                .contains(&kind)
                .then(|| number(line, "type_id="))
                .flatten();
            types.insert(
                current,
                Type {
                    refers_to,
                    ..Type::default()
                },
            );
        } else if let (Some(id), Some(bits)) =
            (number(line, "type_id="), number(line, "bits_offset="))
        {
            let name = line.split('\'').nth(1).unwrap().to_owned();
            types
                .get_mut(&current)
                .unwrap()
                .members
                .push((name, id, bits));
        }
    }
    (types, structs)
}

fn number(line: &str, key: &str) -> Option<u32> {
    let rest = line.split_once(key)?.1;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
}

fn find(types: &HashMap<u32, Type>, id: u32, name: &str) -> Option<(u32, u32)> {
    let found = types.get(&id)?;
    if let Some(to) = found.refers_to {
        return find(types, to, name);
    }
    found.members.iter().find_map(|(member, id, bits)| {
        if member == name {
            Some((*id, *bits))
        } else if member == "(anon)" {
            find(types, *id, name).map(|(id, inner)| (id, bits + inner))
        } else {
            None
        }
    })
}
