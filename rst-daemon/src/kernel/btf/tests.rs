//! BTF built by hand: what the kernel's own may look like, and what is broken.

use proptest::prelude::*;

use super::*;

const NOTHING: &[&str] = &[];

/// Builds a BTF blob type by type; ids start at 1.
#[derive(Default)]
pub(in crate::kernel) struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    pub(in crate::kernel) fn new() -> Self {
        Self {
            strings: vec![0],
            ..Self::default()
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let offset = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        offset
    }

    fn head(&mut self, name: &str, kind: u32, flag: bool, vlen: usize, size_or_id: u32) {
        let name = self.name(name);
        let info = kind << 24 | u32::from(flag) << 31 | u32::try_from(vlen).unwrap();
        self.words(&[name, info, size_or_id]);
    }

    fn words(&mut self, words: &[u32]) {
        self.types
            .extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    }

    pub(in crate::kernel) fn int(self, name: &str, size: u32) -> Self {
        self.encoded_int(name, size, 0)
    }

    /// With its `BTF_INT_*` bits.
    pub(in crate::kernel) fn encoded_int(mut self, name: &str, size: u32, encoding: u32) -> Self {
        self.head(name, kind::INT, false, 0, size);
        self.words(&[encoding << 24 | (size * 8)]);
        self
    }

    pub(in crate::kernel) fn reference(mut self, name: &str, kind: u32, to: u32) -> Self {
        self.head(name, kind, false, 0, to);
        self
    }

    /// Members: name, type, bit offset.
    pub(in crate::kernel) fn composite(
        mut self,
        name: &str,
        kind: u32,
        size: u32,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) -> Self {
        self.head(name, kind, flag, members.len(), size);
        for (name, id, bits) in members {
            let name = self.name(name);
            self.words(&[name, *id, *bits]);
        }
        self
    }

    pub(in crate::kernel) fn enumeration(mut self, name: &str, members: &[(&str, u32)]) -> Self {
        self.head(name, kind::ENUM, false, members.len(), 4);
        for (name, value) in members {
            let name = self.name(name);
            self.words(&[name, *value]);
        }
        self
    }

    /// Parameters by type.
    pub(in crate::kernel) fn prototype(mut self, returns: u32, parameters: &[u32]) -> Self {
        self.head("", kind::FUNC_PROTO, false, parameters.len(), returns);
        for id in parameters {
            self.words(&[0, *id]);
        }
        self
    }

    pub(in crate::kernel) fn build(self) -> Vec<u8> {
        let mut blob = Vec::new();
        blob.extend(MAGIC.to_ne_bytes());
        blob.extend([1, 0]);
        let type_len = u32::try_from(self.types.len()).unwrap();
        let str_len = u32::try_from(self.strings.len()).unwrap();
        for word in [24, 0, type_len, type_len, str_len] {
            blob.extend(u32::to_ne_bytes(word));
        }
        blob.extend(self.types);
        blob.extend(self.strings);
        blob
    }
}

/// 1 u32, 2 u64, 3 const u32, 4 typedef of it, 5 pointer, 6 inner union,
/// 7 the struct, 8 one with bit fields.
fn sample() -> Vec<u8> {
    Builder::new()
        .int("unsigned int", 4)
        .int("long unsigned int", 8)
        .reference("", kind::CONST, 1)
        .reference("my_u32", kind::TYPEDEF, 3)
        .reference("", kind::PTR, 7)
        .composite(
            "",
            kind::UNION,
            8,
            false,
            &[("wide", 2, 0), ("narrow", 4, 0)],
        )
        .composite(
            "sock",
            kind::STRUCT,
            24,
            false,
            &[("first", 4, 0), ("", 6, 64), ("next", 5, 128)],
        )
        .composite(
            "bits",
            kind::STRUCT,
            4,
            true,
            &[("flag", 1, 1 << 24 | 3), ("plain", 1, 32)],
        )
        .build()
}

#[test]
fn members_are_found_through_typedefs_and_anonymous_unions() {
    let blob = sample();
    let btf = Btf::parse(&blob, &["sock", "bits"]).unwrap();
    let find = |path: &[&str]| {
        btf.member("sock", path)
            .map(|found| (found.offset, found.shape))
    };
    assert_eq!(find(&["first"]), Some((0, Shape::Int(4))));
    assert_eq!(find(&["wide"]), Some((8, Shape::Int(8))));
    assert_eq!(find(&["narrow"]), Some((8, Shape::Int(4))));
    assert_eq!(find(&["next"]), Some((16, Shape::Pointer)));
    assert_eq!(find(&["missing"]), None);
    // A path does not go through a pointer: that is another object.
    assert_eq!(find(&["next", "first"]), None);
    assert_eq!(btf.member("unknown", &["first"]), None);
}

#[test]
fn bit_fields_are_told_from_whole_members() {
    let blob = sample();
    let btf = Btf::parse(&blob, &["bits"]).unwrap();
    assert_eq!(
        btf.member("bits", &["flag"]).unwrap().shape,
        Shape::BitField
    );
    let plain = btf.member("bits", &["plain"]).unwrap();
    assert_eq!((plain.offset, plain.shape), (4, Shape::Int(4)));
}

#[test]
fn enum_members_and_prototypes_are_read() {
    // 2 const sock, 3 its pointer, 4 void pointer, 7 int, 8 bool, 9 int **.
    let blob = Builder::new()
        .composite("sock", kind::STRUCT, 8, false, &[])
        .reference("", kind::CONST, 1)
        .reference("", kind::PTR, 2)
        .reference("", kind::PTR, 0)
        .enumeration("reason", &[("A", 0), ("B", 7)])
        .reference("a_typedef", kind::TYPEDEF, 5)
        .encoded_int("int", 4, 1)
        .encoded_int("_Bool", 1, 4)
        .reference("", kind::PTR, 10)
        .reference("", kind::PTR, 7)
        .prototype(0, &[4, 3, 6, 8])
        .reference("", kind::PTR, 11)
        .reference("btf_trace_tcp_send_reset", kind::TYPEDEF, 12)
        .prototype(3, &[9, 7])
        .reference("inet_csk_accept", kind::FUNC, 14)
        .build();
    let names = ["reason", "btf_trace_tcp_send_reset", "inet_csk_accept"];
    let btf = Btf::parse(&blob, &names).unwrap();
    assert_eq!(btf.enum_members("reason"), [("A", 0), ("B", 7)]);
    assert_eq!(btf.enum_members("none"), []);
    // The first parameter is the probe's own.
    let tracepoint = btf.tracepoint("tcp_send_reset").unwrap();
    assert_eq!(
        tracepoint.to_string(),
        "void(struct sock *, enum reason, bool)"
    );
    assert_eq!(btf.tracepoint("tcp_receive_reset"), None);
    let function = btf.function("inet_csk_accept").unwrap();
    assert_eq!(function.to_string(), "struct sock *(s32 **, s32)");
    // Each of its own kind.
    assert_eq!(btf.function("btf_trace_tcp_send_reset"), None);
    assert_eq!(btf.function("reason"), None);
}

/// An anonymous struct that holds itself twice: each level doubles what there is to see.
#[test]
fn structs_that_hold_themselves_end() {
    let blob = Builder::new()
        .composite("s", kind::STRUCT, 8, false, &[("", 1, 0), ("", 1, 32)])
        .build();
    let btf = Btf::parse(&blob, &["s"]).unwrap();
    assert_eq!(btf.member("s", &["missing"]), None);
}

#[test]
fn pointer_loops_end() {
    let blob = Builder::new()
        .reference("", kind::PTR, 1)
        .prototype(1, &[1])
        .reference("looped", kind::FUNC, 2)
        .build();
    let btf = Btf::parse(&blob, &["looped"]).unwrap();
    let found = btf.function("looped").unwrap();
    assert_eq!(found.returns, "a pointer to itself");
}

#[test]
fn typedef_loops_end() {
    let blob = Builder::new()
        .reference("a", kind::TYPEDEF, 2)
        .reference("b", kind::TYPEDEF, 1)
        .composite("s", kind::STRUCT, 4, false, &[("m", 1, 0), ("", 3, 0)])
        .build();
    let btf = Btf::parse(&blob, &["s"]).unwrap();
    assert_eq!(btf.member("s", &["m"]).unwrap().shape, Shape::Other);
    assert_eq!(btf.member("s", &["not there"]), None);
}

#[test]
fn what_is_no_btf_is_said_so() {
    assert_eq!(
        Btf::parse(b"\x7fELF", NOTHING).err(),
        Some(BtfError::Magic { found: 0x457f })
    );
    let blob = Builder::new().reference("x", 25, 0).build();
    assert_eq!(
        Btf::parse(&blob, NOTHING).err(),
        Some(BtfError::Kind { kind: 25, id: 1 })
    );
    let blob = sample();
    for len in 0..blob.len() {
        assert!(
            Btf::parse(&blob[..len], &["sock"]).is_err(),
            "cut to {len} bytes"
        );
    }
}

proptest! {
    #[test]
    fn damaged_btf_never_panics(position in 0usize..400, value: u8) {
        let mut blob = sample();
        let position = position % blob.len();
        blob[position] = value;
        if let Ok(btf) = Btf::parse(&blob, &["sock", "bits"]) {
            let _ = btf.member("sock", &["narrow"]);
            let _ = btf.member("bits", &["flag"]);
            let _ = btf.enum_members("sock");
            let _ = btf.tracepoint("sock");
            let _ = btf.function("sock");
        }
    }
}
