//! Looks the table of kernel fields up in the running kernel's BTF.

use std::collections::BTreeMap;

use rst_common::drops::{Drops, MAX_DROPS, entry};
use rst_common::layout::{ABSENT, FIELD_COUNT, FIELDS, KernelField, Kind, Layout, Need};
use rst_common::reason::{MAX_REASONS, Reason};

use super::btf::{Btf, Shape};
use super::prototypes;

/// Types looked up besides the roots of the fields.
const HELPER_ENUM: &str = "bpf_func_id";
/// The enum of the kernel's reasons.
const REASON_ENUM: &str = "sk_rst_reason";
const REASON_PREFIX: &str = "SK_RST_REASON_";
/// The enum of the kernel's reasons to drop a packet.
const DROP_ENUM: &str = "skb_drop_reason";
const DROP_PREFIX: &str = "SKB_DROP_REASON_";
/// The record of `tcp_send_reset`, of its own since it fires without a full socket too
/// (6.10, commit 19822a980e19); before, it shared that of `tcp_event_sk_skb`.
const SEND_RESET_RECORD: &str = "trace_event_raw_tcp_send_reset";
/// What gives a connection to the process that accepts it.
const ACCEPT: &str = "inet_csk_accept";

/// What handles a reset that arrives.
const RESET: &str = "tcp_reset";

/// Why this kernel's structures can't be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Required fields are missing or have changed.
    #[error(
        "this kernel lacks what rst needs to read: {}; report the kernel version, a newer rst may know it",
        .0.join(", ")
    )]
    Fields(Vec<String>),
    /// The tracepoints are not there.
    #[error(
        "this kernel has no tracepoint {0}: it needs Linux 5.10 or newer with CONFIG_NET and CONFIG_TRACEPOINTS"
    )]
    Tracepoint(&'static str),
}

/// What the programs and the daemon know of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "what there is, one by one")]
pub struct KernelLayout {
    /// Offsets for the programs.
    pub layout: Layout,
    /// Optional fields this kernel lacks, with what was found instead.
    pub absent: Vec<String>,
    /// Number to [`Reason`] byte, for the programs.
    pub reasons: [u8; MAX_REASONS],
    /// Number of a reason to drop a packet to what it means for a reset.
    pub drops: Drops,
    /// Arguments of the tracepoint `kfree_skb`: 4, before 6.11 3, before 5.17 2.
    pub kfree_skb_args: Option<usize>,
    /// Number to the kernel's name without its prefix.
    pub reason_names: Vec<Option<String>>,
    /// Whether `tcp_send_reset` passes a reason (6.10 and newer).
    pub send_reset_has_reason: bool,
    /// Whether `tcp_send_reset` also fires where there is no full socket (6.10 and
    /// newer).
    pub send_reset_shows_all: bool,
    /// Whether `inet_sk_error_report` is there (5.14 and newer).
    pub has_error_report: bool,
    /// Arguments of `inet_csk_accept`, where it can be traced: 2, before 6.10 4.
    pub accept_args: Option<usize>,
    /// Arguments of `tcp_reset`, where it can be traced: 2, before 5.11 1.
    pub reset_args: Option<usize>,
    /// The programs whose prototype the kernel does not have, each with what differs.
    pub misfits: BTreeMap<&'static str, String>,
    /// Whether programs get the current task typed (5.11 and newer).
    pub has_task_btf: bool,
    /// Whether programs find the socket of a file (5.11 and newer).
    pub has_sock_from_file: bool,
}

/// Names to hand to [`Btf::parse`].
#[must_use]
pub fn wanted() -> Vec<String> {
    let roots = FIELDS.iter().map(|field| field.root);
    let mut names: Vec<String> = roots
        .chain([REASON_ENUM, DROP_ENUM, HELPER_ENUM, SEND_RESET_RECORD])
        .map(str::to_owned)
        .chain(prototypes::wanted())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Looks everything up; optional fields that are missing are listed, required
/// ones are an error that names them all.
pub fn resolve(btf: &Btf<'_>) -> Result<KernelLayout, LayoutError> {
    let mut layout = [ABSENT; FIELD_COUNT];
    let (mut absent, mut missing) = (Vec::new(), Vec::new());
    for (field, slot) in FIELDS.iter().zip(&mut layout) {
        match offset(btf, field) {
            Ok(offset) => *slot = offset,
            Err(problem) => match field.need {
                Need::Required => missing.push(problem),
                Need::Optional => absent.push(problem),
            },
        }
    }
    if !missing.is_empty() {
        return Err(LayoutError::Fields(missing));
    }
    let args = |tracepoint| {
        let found = btf.tracepoint(tracepoint)?;
        Some(found.parameters.len())
    };
    let send_reset = args("tcp_send_reset").ok_or(LayoutError::Tracepoint("tcp:tcp_send_reset"))?;
    for (name, full) in [
        ("tcp_receive_reset", "tcp:tcp_receive_reset"),
        ("inet_sock_set_state", "sock:inet_sock_set_state"),
    ] {
        args(name).ok_or(LayoutError::Tracepoint(full))?;
    }
    let (reasons, reason_names) = reasons(btf);
    let helpers = btf.enum_members(HELPER_ENUM);
    let has_helper = |wanted| helpers.iter().any(|(name, _)| *name == wanted);
    Ok(KernelLayout {
        layout,
        absent,
        reasons,
        reason_names,
        drops: drops(btf),
        kfree_skb_args: args("kfree_skb"),
        send_reset_has_reason: send_reset >= 3,
        send_reset_shows_all: send_reset >= 3
            || btf.member(SEND_RESET_RECORD, &["skaddr"]).is_some(),
        has_error_report: args("inet_sk_error_report").is_some(),
        accept_args: btf.function(ACCEPT).map(|found| found.parameters.len()),
        reset_args: btf.function(RESET).map(|found| found.parameters.len()),
        misfits: prototypes::misfits(btf),
        has_task_btf: has_helper("BPF_FUNC_get_current_task_btf"),
        has_sock_from_file: has_helper("BPF_FUNC_sock_from_file"),
    })
}

fn offset(btf: &Btf<'_>, field: &KernelField) -> Result<u32, String> {
    let name = format!("{}.{}", field.root, field.path.join("."));
    let Some(member) = btf.member(field.root, field.path) else {
        return Err(name);
    };
    let fits = match field.kind {
        Kind::Int(size) => member.shape == Shape::Int(size),
        Kind::LowByte => matches!(member.shape, Shape::Int(_)),
        Kind::BitField => member.shape == Shape::BitField,
        Kind::Pointer => member.shape == Shape::Pointer,
        Kind::Bytes(size) => {
            member.shape == Shape::Composite(size) || member.shape == Shape::Array(size)
        }
    };
    if fits {
        Ok(member.offset)
    } else {
        Err(format!(
            "{name} ({:?} instead of {:?})",
            member.shape, field.kind
        ))
    }
}

fn reasons(btf: &Btf<'_>) -> ([u8; MAX_REASONS], Vec<Option<String>>) {
    let mut bytes = [Reason::Unspecified as u8; MAX_REASONS];
    let mut names = vec![None; MAX_REASONS];
    for (member, value) in btf.enum_members(REASON_ENUM) {
        let Some(name) = member.strip_prefix(REASON_PREFIX) else {
            continue;
        };
        let Some(index) = usize::try_from(value)
            .ok()
            .filter(|index| *index < MAX_REASONS)
        else {
            continue;
        };
        names[index] = Some(name.to_owned());
        if let Some((_, reason)) = Reason::NAMES.iter().find(|(known, _)| *known == name) {
            bytes[index] = *reason as u8;
        }
    }
    (bytes, names)
}

fn drops(btf: &Btf<'_>) -> Drops {
    let mut drops = [0; MAX_DROPS];
    for (member, value) in btf.enum_members(DROP_ENUM) {
        let entry = member.strip_prefix(DROP_PREFIX).map_or(0, entry);
        let index = usize::try_from(value).ok();
        if let Some(slot) = index.and_then(|index| drops.get_mut(index)) {
            *slot = entry;
        }
    }
    drops
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_required_field_is_refused_by_name() {
        // One empty struct: no field of any kind.
        let mut blob = Vec::from(0xeb9f_u16.to_ne_bytes());
        blob.extend([1, 0]);
        for word in [24u32, 0, 12, 12, 6, 1, 4 << 24, 0] {
            blob.extend(word.to_ne_bytes());
        }
        blob.extend(b"\0sock\0");
        let btf = Btf::parse(&blob, &wanted()).unwrap();
        let message = resolve(&btf).unwrap_err().to_string();
        for field in [
            "sock_common.skc_state",
            "inet_sock.inet_sport",
            "sk_buff.head",
        ] {
            assert!(message.contains(field), "{message}");
        }
        assert!(!message.contains("tcp_sock.srtt_us"), "{message}");
    }
}
