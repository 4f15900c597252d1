//! A reader for the few things wanted of the kernel's BTF: member offsets, enum
//! names, prototypes.
//!
//! aya parses the same blob to load programs but keeps members to itself, and
//! general-purpose readers flatten every type first, which costs more than the
//! whole start-up may. One pass over the 5-10 MB finds everything here.
//! Format: `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h` (7.2).

use std::collections::HashMap;

/// Where the running kernel publishes its BTF.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;
/// Longest chain of typedefs and qualifiers, and deepest nesting of anonymous
/// structs, that is followed: real ones stay below 10, so more is a loop.
const MAX_DEPTH: usize = 32;
/// Members that are looked at for one name: the largest structs have a few hundred, so more
/// is an anonymous struct that holds itself more than once.
const MAX_MEMBERS: usize = 1 << 16;

mod signature;

pub use signature::Signature;

pub(in crate::kernel) mod kind {
    pub(in crate::kernel) const INT: u32 = 1;
    pub(in crate::kernel) const PTR: u32 = 2;
    pub(in crate::kernel) const ARRAY: u32 = 3;
    pub(in crate::kernel) const STRUCT: u32 = 4;
    pub(in crate::kernel) const UNION: u32 = 5;
    pub(in crate::kernel) const ENUM: u32 = 6;
    pub(in crate::kernel) const FWD: u32 = 7;
    pub(in crate::kernel) const TYPEDEF: u32 = 8;
    pub(in crate::kernel) const VOLATILE: u32 = 9;
    pub(in crate::kernel) const CONST: u32 = 10;
    pub(in crate::kernel) const RESTRICT: u32 = 11;
    pub(in crate::kernel) const FUNC: u32 = 12;
    pub(in crate::kernel) const FUNC_PROTO: u32 = 13;
    pub(in crate::kernel) const VAR: u32 = 14;
    pub(in crate::kernel) const DATASEC: u32 = 15;
    pub(in crate::kernel) const FLOAT: u32 = 16;
    pub(in crate::kernel) const DECL_TAG: u32 = 17;
    pub(in crate::kernel) const TYPE_TAG: u32 = 18;
    pub(in crate::kernel) const ENUM64: u32 = 19;
}

/// Why a BTF blob can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// It does not begin like one.
    #[error("not BTF data: magic {found:#06x} instead of {MAGIC:#06x}")]
    Magic {
        /// What stands there.
        found: u16,
    },
    /// It ends before what it promises.
    #[error("truncated BTF data: {what} at byte {at} of {len}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        at: usize,
        /// Length of the data.
        len: usize,
    },
    /// A kind newer than this reader.
    #[error("unknown BTF kind {kind} of type {id}; a newer rst may know it")]
    Kind {
        /// The kind.
        kind: u32,
        /// The type's id.
        id: u32,
    },
}

/// Kind and size of a member once typedefs and qualifiers are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// An integer or enum of this many bytes.
    Int(u32),
    /// A pointer.
    Pointer,
    /// A struct or union of this many bytes.
    Composite(u32),
    /// An array of integers of this many bytes.
    Array(u32),
    /// A bit field.
    BitField,
    /// Anything else.
    Other,
}

/// A member found in a struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Bytes from the start of the struct it was looked up in.
    pub offset: u32,
    /// What it is.
    pub shape: Shape,
    /// Its type, for going on from there.
    id: u32,
}

/// One type's head.
#[derive(Clone, Copy)]
struct Type {
    kind: u32,
    kind_flag: bool,
    vlen: usize,
    /// Size, or the id of the type it refers to.
    size_or_id: u32,
    name: u32,
    /// Where the kind's own data begins.
    data: usize,
}

/// A parsed BTF blob.
pub struct Btf<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    /// Byte position of each type, by id; id 0 is void.
    positions: Vec<u32>,
    /// Ids of named structs, enums, typedefs and functions that were asked for.
    named: HashMap<&'a str, u32>,
}

impl<'a> Btf<'a> {
    /// Reads the blob and remembers where the types called `wanted` are (the
    /// first struct, union, enum or typedef of each name).
    pub fn parse(bytes: &'a [u8], wanted: &[impl AsRef<str>]) -> Result<Self, BtfError> {
        let magic = u16_at(bytes, 0, "header")?;
        if magic != MAGIC {
            return Err(BtfError::Magic { found: magic });
        }
        let header_len = usize_at(bytes, 4, "header")?;
        let type_off = usize_at(bytes, 8, "header")?;
        let type_len = usize_at(bytes, 12, "header")?;
        let str_off = usize_at(bytes, 16, "header")?;
        let str_len = usize_at(bytes, 20, "header")?;
        let start = header_len.max(HEADER_LEN) + type_off;
        let end = start + type_len;
        let strings = bytes
            .get(header_len + str_off..header_len + str_off + str_len)
            .ok_or(BtfError::Truncated {
                what: "strings",
                at: header_len + str_off,
                len: bytes.len(),
            })?;

        if end > bytes.len() {
            return Err(BtfError::Truncated {
                what: "types",
                at: end,
                len: bytes.len(),
            });
        }

        let mut btf = Self {
            bytes,
            strings,
            // 40 bytes a type is the average of vmlinux.
            positions: Vec::with_capacity(type_len / 24 + 1),
            named: HashMap::with_capacity(wanted.len()),
        };
        btf.positions.push(0);
        let mut at = start;
        while at < end {
            let id = u32::try_from(btf.positions.len()).unwrap_or(u32::MAX);
            let position = u32::try_from(at).map_err(|_| BtfError::Truncated {
                what: "type beyond 4 GiB",
                at,
                len: bytes.len(),
            })?;
            btf.positions.push(position);
            let found = btf.read(at)?;
            if matches!(
                found.kind,
                kind::STRUCT | kind::UNION | kind::ENUM | kind::ENUM64 | kind::TYPEDEF | kind::FUNC
            ) && found.name != 0
            {
                let name = btf.string(found.name);
                if wanted.iter().any(|wanted| wanted.as_ref() == name) {
                    btf.named.entry(name).or_insert(id);
                }
            }
            at = found.data
                + match found.kind {
                    kind::INT | kind::VAR | kind::DECL_TAG => 4,
                    kind::ARRAY => 12,
                    kind::STRUCT | kind::UNION | kind::DATASEC | kind::ENUM64 => found.vlen * 12,
                    kind::ENUM | kind::FUNC_PROTO => found.vlen * 8,
                    kind::PTR
                    | kind::FWD
                    | kind::TYPEDEF
                    | kind::VOLATILE
                    | kind::CONST
                    | kind::RESTRICT
                    | kind::FUNC
                    | kind::FLOAT
                    | kind::TYPE_TAG => 0,
                    kind => return Err(BtfError::Kind { kind, id }),
                };
        }
        Ok(btf)
    }

    /// Whether a type of this name was found.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.named.contains_key(name)
    }

    /// Finds a member by its path; members of anonymous structs and unions
    /// count as members of their parent.
    #[must_use]
    pub fn member(&self, root: &str, path: &[&str]) -> Option<Member> {
        let mut found = Member {
            offset: 0,
            shape: Shape::Other,
            id: *self.named.get(root)?,
        };
        for name in path {
            let mut left = MAX_MEMBERS;
            let step = self.step(found.id, name, 0, &mut left)?;
            found = Member {
                offset: found.offset.checked_add(step.offset)?,
                ..step
            };
        }
        Some(found)
    }

    /// Names and values of an enum's members.
    #[must_use]
    pub fn enum_members(&self, name: &str) -> Vec<(&'a str, u64)> {
        let Some(found) = self.named.get(name).and_then(|id| self.resolve(*id)) else {
            return Vec::new();
        };
        let (size, wide) = match found.kind {
            kind::ENUM => (8, false),
            kind::ENUM64 => (12, true),
            _ => return Vec::new(),
        };
        (0..found.vlen)
            .map_while(|index| {
                let at = found.data + index * size;
                let name = self.string(u32_at(self.bytes, at, "enum").ok()?);
                let low = u64::from(u32_at(self.bytes, at + 4, "enum").ok()?);
                let high = if wide {
                    u64::from(u32_at(self.bytes, at + 8, "enum").ok()?)
                } else {
                    0
                };
                Some((name, high << 32 | low))
            })
            .collect()
    }

    /// `left`: members that may still be looked at.
    fn step(&self, id: u32, name: &str, depth: usize, left: &mut usize) -> Option<Member> {
        if depth > MAX_DEPTH {
            return None;
        }
        let composite = self.resolve(id)?;
        if !matches!(composite.kind, kind::STRUCT | kind::UNION) {
            return None;
        }
        for index in 0..composite.vlen {
            *left = left.checked_sub(1)?;
            let at = composite.data + index * 12;
            let member_name = u32_at(self.bytes, at, "member").ok()?;
            let id = u32_at(self.bytes, at + 4, "member").ok()?;
            let raw = u32_at(self.bytes, at + 8, "member").ok()?;
            let (bits, bit_field) = if composite.kind_flag {
                (raw & 0x00ff_ffff, raw >> 24 != 0)
            } else {
                (raw, false)
            };
            if member_name == 0 {
                if let Some(inner) = self.step(id, name, depth + 1, left) {
                    return Some(Member {
                        offset: (bits / 8).checked_add(inner.offset)?,
                        ..inner
                    });
                }
            } else if self.string(member_name) == name {
                let shape = if bit_field || bits % 8 != 0 {
                    Shape::BitField
                } else {
                    self.shape(id)
                };
                return Some(Member {
                    offset: bits / 8,
                    shape,
                    id,
                });
            }
        }
        None
    }

    fn shape(&self, id: u32) -> Shape {
        match self.resolve(id) {
            Some(found) => match found.kind {
                kind::INT | kind::ENUM | kind::ENUM64 => Shape::Int(found.size_or_id),
                kind::PTR => Shape::Pointer,
                kind::STRUCT | kind::UNION => Shape::Composite(found.size_or_id),
                kind::ARRAY => self.array(found).unwrap_or(Shape::Other),
                _ => Shape::Other,
            },
            None => Shape::Other,
        }
    }

    fn array(&self, array: Type) -> Option<Shape> {
        let element = self.resolve(u32_at(self.bytes, array.data, "array").ok()?)?;
        let count = u32_at(self.bytes, array.data + 8, "array").ok()?;
        (element.kind == kind::INT)
            .then(|| count.checked_mul(element.size_or_id).map(Shape::Array))?
    }

    /// Follows typedefs and qualifiers.
    fn resolve(&self, mut id: u32) -> Option<Type> {
        for _ in 0..MAX_DEPTH {
            if id == 0 {
                return None;
            }
            let found = self
                .read(*self.positions.get(usize::try_from(id).ok()?)? as usize)
                .ok()?;
            let transparent = matches!(
                found.kind,
                kind::TYPEDEF | kind::VOLATILE | kind::CONST | kind::RESTRICT | kind::TYPE_TAG
            );
            if !transparent {
                return Some(found);
            }
            id = found.size_or_id;
        }
        None
    }

    fn read(&self, at: usize) -> Result<Type, BtfError> {
        let name = u32_at(self.bytes, at, "type")?;
        let info = u32_at(self.bytes, at + 4, "type")?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            kind_flag: info >> 31 != 0,
            vlen: info as usize & 0xffff,
            size_or_id: u32_at(self.bytes, at + 8, "type")?,
            name,
            data: at + 12,
        })
    }

    /// The string at an offset; an offset outside or a string that is no UTF-8
    /// reads as empty, which matches no name.
    fn string(&self, offset: u32) -> &'a str {
        let tail = self.strings.get(offset as usize..).unwrap_or_default();
        let len = tail.iter().position(|byte| *byte == 0).unwrap_or(0);
        std::str::from_utf8(&tail[..len]).unwrap_or_default()
    }
}

fn u16_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u16, BtfError> {
    array_at(bytes, at, what).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize, what: &'static str) -> Result<u32, BtfError> {
    array_at(bytes, at, what).map(u32::from_ne_bytes)
}

fn usize_at(bytes: &[u8], at: usize, what: &'static str) -> Result<usize, BtfError> {
    u32_at(bytes, at, what).map(|value| value as usize)
}

fn array_at<const N: usize>(
    bytes: &[u8],
    at: usize,
    what: &'static str,
) -> Result<[u8; N], BtfError> {
    bytes
        .get(at..)
        .and_then(|tail| tail.first_chunk::<N>())
        .copied()
        .ok_or(BtfError::Truncated {
            what,
            at,
            len: bytes.len(),
        })
}

#[cfg(test)]
pub(in crate::kernel) mod tests;
