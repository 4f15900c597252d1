//! The maps and read-only data shared with the daemon. Names are part of the
//! contract with `rst_daemon::kernel::load`.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    macros::map,
    maps::{Array, HashMap, PerCpuArray, PerCpuHashMap, RingBuf},
};
use rst_common::{
    cause::{Cause, Role},
    count::{
        AGES_ENTRIES, Ages, ConnectionKey, CountKey, CountValue, DETAIL_ENTRIES, OVERFLOW_ENTRIES,
    },
    drops::{Drops, MAX_DROPS},
    event::{Control, DOUBT_SLOTS, DetailStats, Doubt, PORT_WORDS},
    history::{Endings, LISTENERS as LISTENERS_ROOM, Listener, ListenerKey, Set},
    layout::{ABSENT, FIELD_COUNT, Layout},
    owner::{LabelName, PROCESSES as CAPACITY, Process},
    reason::MAX_REASONS,
};

use crate::{arrival::Arrival, drops::KINDS};

/// Every port.
pub(crate) const PORTS_ALL: usize = u16::MAX as usize + 1;

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

/// Silence before the resets that the full count map can't take, by cause.
#[map]
pub(crate) static OVERFLOW_GAPS: PerCpuArray<Ages> =
    PerCpuArray::with_max_entries(Cause::ALL.len() as u32, 0);

/// Ages of the connections that were reset.
#[map]
pub(crate) static AGES: PerCpuArray<Ages> = PerCpuArray::with_max_entries(AGES_ENTRIES as u32, 0);

/// Connections that died of silence.
#[map]
pub(crate) static TIMEOUTS: PerCpuHashMap<ConnectionKey, u64> =
    PerCpuHashMap::with_max_entries(1024, 0);

/// What the full map of timeouts can't take, by role.
#[map]
pub(crate) static TIMEOUTS_OVERFLOW: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Role::ALL.len() as u32, 0);

/// Connections that were made. Sized by the daemon before load.
#[map]
pub(crate) static CONNECTIONS: PerCpuHashMap<ConnectionKey, u64> =
    PerCpuHashMap::with_max_entries(4096, 0);

/// What the full map of connections can't take, by role.
#[map]
pub(crate) static CONNECTIONS_OVERFLOW: PerCpuArray<u64> =
    PerCpuArray::with_max_entries(Role::ALL.len() as u32, 0);

/// Sockets while they live. Sized by the daemon before load, which counts them now and then.
#[map]
pub(crate) static SOCKETS: Array<Set> = Array::with_max_entries(1, MMAPABLE);

/// Connections that were closed or reset here a moment ago. Sized likewise.
#[map]
pub(crate) static CLOSED: Array<Endings> = Array::with_max_entries(1, 0);

/// The segment that is handled on this CPU.
#[map]
pub(crate) static ARRIVAL: PerCpuArray<Arrival> = PerCpuArray::with_max_entries(1, 0);

/// The processes that have connected or listened.
#[map]
pub(crate) static PROCESSES: Array<Process> = Array::with_max_entries(CAPACITY, 0);

/// What the counts of a workload are published under. The daemon's alone: it lies with the
/// counts so that it lives as long as they do.
#[map]
pub(crate) static LABELS: HashMap<u64, LabelName> =
    HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Who listens, and who has listened.
#[map]
pub(crate) static LISTENERS: HashMap<ListenerKey, Listener> =
    HashMap::with_max_entries(LISTENERS_ROOM, 0);

/// Ports that somebody listens on, or has listened on, in any namespace: a byte each,
/// for bits can't be set without a lock on every kernel.
#[map]
pub(crate) static SERVED: Array<[u8; PORTS_ALL]> = Array::with_max_entries(1, 0);

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

/// Ports that are told apart, a bit set, and behind it how many there are.
#[map]
pub(crate) static PORTS: Array<u64> = Array::with_max_entries(PORT_WORDS as u32 + 1, 0);

/// Resets that changed nothing, by `rst_common::cause::Ignored`.
#[map]
pub(crate) static IGNORED: PerCpuArray<u64> = PerCpuArray::with_max_entries(KINDS as u32, 0);

/// What became of the detailed events.
#[map]
pub(crate) static DETAIL: PerCpuArray<DetailStats> =
    PerCpuArray::with_max_entries(DETAIL_ENTRIES as u32, 0);

/// Offsets of the kernel's fields, set by the daemon before load.
#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Layout = [ABSENT; FIELD_COUNT];

/// The kernel's reason numbers as `rst_common::reason::Reason` bytes, set by
/// the daemon before load.
#[unsafe(no_mangle)]
pub(crate) static REASONS: [u8; MAX_REASONS] = [0; MAX_REASONS];

/// What the kernel's reasons for dropping packets mean for resets; likewise.
#[unsafe(no_mangle)]
pub(crate) static DROPS: Drops = [0; MAX_DROPS];

/// Entries of `SOCKETS` less one; set by the daemon before load.
#[unsafe(no_mangle)]
pub(crate) static SOCKETS_MASK: u32 = 0;

/// Entries of `CLOSED`; likewise.
#[unsafe(no_mangle)]
pub(crate) static CLOSED_SETS: u32 = 1;

/// Start of every hash of a tuple; likewise, at random.
#[unsafe(no_mangle)]
pub(crate) static SEED: u64 = 0;

/// Room in `PORTS`; likewise.
#[unsafe(no_mangle)]
pub(crate) static MAX_PORTS: u32 = 0;

/// Whether the kernel has `bpf_get_current_task_btf`; likewise.
#[unsafe(no_mangle)]
pub(crate) static HAS_TASK_BTF: u8 = 0;
