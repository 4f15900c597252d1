//! The maps and read-only data shared with the daemon. Names are part of the
//! contract with `rst_daemon::kernel::load`.

use aya_ebpf::{
    macros::map,
    maps::{Array, PerCpuArray, PerCpuHashMap, RingBuf},
};
use rst_common::{
    count::{CountKey, CountValue, OVERFLOW_ENTRIES},
    event::{Control, DOUBT_SLOTS, DetailStats, Doubt, PORT_WORDS},
    layout::{ABSENT, FIELD_COUNT, Layout},
    reason::MAX_REASONS,
};

/// `BPF_F_MMAPABLE` of `include/uapi/linux/bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// Exact counts. Sized by the daemon before load.
#[map]
pub(crate) static RESETS: PerCpuHashMap<CountKey, CountValue> =
    PerCpuHashMap::with_max_entries(4096, 0);

/// What the full count map can't take.
#[map]
pub(crate) static OVERFLOW: PerCpuArray<CountValue> =
    PerCpuArray::with_max_entries(OVERFLOW_ENTRIES as u32, 0);

/// Receive events that may be none.
#[map]
pub(crate) static DOUBTS: Array<Doubt> = Array::with_max_entries(DOUBT_SLOTS as u32, 0);

/// Detailed events. Sized by the daemon before load.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Wake-ups and the budget of detail, shared with the reader.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, MMAPABLE);

/// Ports that carry many requests at once, a bit set.
#[map]
pub(crate) static MULTIPLEXED: Array<u64> = Array::with_max_entries(PORT_WORDS as u32, 0);

/// What became of the detailed events.
#[map]
pub(crate) static DETAIL: PerCpuArray<DetailStats> = PerCpuArray::with_max_entries(1, 0);

/// Offsets of the kernel's fields, set by the daemon before load.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = [ABSENT; FIELD_COUNT];

/// The kernel's reason numbers as `rst_common::reason::Reason` bytes, set by
/// the daemon before load.
#[unsafe(no_mangle)]
pub(crate) static REASONS: [u8; MAX_REASONS] = [0; MAX_REASONS];
