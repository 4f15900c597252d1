//! Prototypes as the kernel's BTF has them, written in a form that can be compared.
//!
//! Typedefs and qualifiers are followed and integers are named by their size and
//! sign (`u32`, `s32`, `bool`), so that neither the compiler nor a `const` makes a
//! difference. Structs and enums stand by their name.

use std::fmt;

use super::{Btf, MAX_DEPTH, Type, kind, u32_at};

/// `BTF_INT_SIGNED` and `BTF_INT_BOOL`, in the word that follows an integer
/// (include/uapi/linux/btf.h).
const INT_SIGNED: u32 = 1 << 24;
const INT_BOOL: u32 = 1 << 26;

/// What a function or a tracepoint takes and gives back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it returns; `void` for a tracepoint.
    pub returns: String,
    /// Its parameters; those of a tracepoint without the probe's own data.
    pub parameters: Vec<String>,
}

impl fmt::Display for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}({})", self.returns, self.parameters.join(", "))
    }
}

impl Btf<'_> {
    /// Prototype of a tracepoint, or `None` where the kernel has no such tracepoint.
    /// It is the typedef `btf_trace_NAME`, whose first parameter is the probe's own
    /// data.
    #[must_use]
    pub fn tracepoint(&self, tracepoint: &str) -> Option<Signature> {
        let typedef = *self.named.get(format!("btf_trace_{tracepoint}").as_str())?;
        let pointer = self.resolve(typedef)?;
        if pointer.kind != kind::PTR {
            return None;
        }
        let mut signature = self.signature(pointer.size_or_id)?;
        if signature.parameters.is_empty() {
            return None;
        }
        signature.parameters.remove(0);
        Some(signature)
    }

    /// Prototype of a function, or `None` where the kernel has none of this name that
    /// can be traced.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<Signature> {
        let function = self.resolve(*self.named.get(name)?)?;
        if function.kind != kind::FUNC {
            return None;
        }
        self.signature(function.size_or_id)
    }

    fn signature(&self, id: u32) -> Option<Signature> {
        let prototype = self.resolve(id)?;
        if prototype.kind != kind::FUNC_PROTO {
            return None;
        }
        let parameters = (0..prototype.vlen)
            .map(|index| {
                let at = prototype.data + index * 8 + 4;
                Some(self.type_name(u32_at(self.bytes, at, "parameter").ok()?))
            })
            .collect::<Option<_>>()?;
        Some(Signature {
            returns: self.type_name(prototype.size_or_id),
            parameters,
        })
    }

    /// How a type is written here.
    fn type_name(&self, mut id: u32) -> String {
        let mut stars = 0;
        // No prototype has as many: more is a loop.
        while stars < MAX_DEPTH {
            let base = match self.resolve(id) {
                None => "void".to_owned(),
                Some(found) if found.kind == kind::PTR => {
                    stars += 1;
                    id = found.size_or_id;
                    continue;
                }
                Some(found) => self.base_name(found),
            };
            return if stars == 0 {
                base
            } else {
                format!("{base} {}", "*".repeat(stars))
            };
        }
        "a pointer to itself".to_owned()
    }

    fn base_name(&self, found: Type) -> String {
        let name = self.string(found.name);
        match found.kind {
            kind::INT => {
                let encoding = u32_at(self.bytes, found.data, "integer").unwrap_or(0);
                if encoding & INT_BOOL != 0 {
                    return "bool".to_owned();
                }
                let sign = if encoding & INT_SIGNED != 0 { 's' } else { 'u' };
                format!("{sign}{}", u64::from(found.size_or_id) * 8)
            }
            kind::FWD if found.kind_flag => format!("union {name}"),
            kind::UNION => format!("union {name}"),
            kind::STRUCT | kind::FWD => format!("struct {name}"),
            kind::ENUM | kind::ENUM64 => format!("enum {name}"),
            kind::FUNC_PROTO => "a function".to_owned(),
            kind::ARRAY => "an array".to_owned(),
            other => format!("BTF kind {other}"),
        }
    }
}
