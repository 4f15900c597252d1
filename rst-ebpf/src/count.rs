//! Exact counts, and taking back the receive events that were none.

use core::ptr;

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    maps::{PerCpuArray, PerCpuHashMap},
};
use rst_common::{
    count::{
        Ages, ConnectionKey, CountKey, CountValue, Recent, ages_index, ages_retracted_index,
        overflow_index,
    },
    event::{Control, DOUBT_SLOTS},
    history::BUCKET_SLOTS,
};

use crate::{
    kernel,
    maps::{
        AGES, CONNECTIONS, CONNECTIONS_OVERFLOW, DOUBTS, OVERFLOW, OVERFLOW_GAPS, RESETS, TIMEOUTS,
        TIMEOUTS_OVERFLOW,
    },
};

/// Counts one reset, with the silence before it in jiffies where the key has a
/// bucket for it. Never fails: what the map can't take goes to the overflow
/// array. Returns how many of its key this CPU has seen in this period.
#[inline(always)]
pub(crate) fn count(key: &CountKey, gap: u32, period: u32) -> u32 {
    if let Some(value) = RESETS.get_ptr_mut(key) {
        return increment(value, gap, period);
    }
    insert(key, gap, period)
}

/// The first reset of a key.
#[inline(never)]
fn insert(key: &CountKey, gap: u32, period: u32) -> u32 {
    let recent = Recent::next(0, period);
    let one = CountValue {
        resets: 1,
        retracted: 0,
        gap: u64::from(gap),
        recent: recent.pack(),
    };
    if RESETS.insert(key, one, u64::from(BPF_NOEXIST)).is_ok() {
        return recent.resets;
    }
    // Another CPU was first, or the map is full.
    if let Some(value) = RESETS.get_ptr_mut(key) {
        return increment(value, gap, period);
    }
    let index = overflow_index(key.direction, key.cause, key.impact);
    let recent = OVERFLOW
        .get_ptr_mut(index)
        .map_or(u32::MAX, |value| increment(value, 0, period));
    if key.gap != 0
        && let Some(gaps) = OVERFLOW_GAPS.get_ptr_mut(u32::from(key.cause))
    {
        add_age(gaps, u32::from(key.gap) - 1, u64::from(gap));
    }
    recent
}

#[inline(always)]
fn increment(value: *mut CountValue, gap: u32, period: u32) -> u32 {
    // SAFETY: a valid map value of this CPU. Key and overflow index hold the
    // direction, and the kernel skips a program that nests in itself; but those of sent
    // resets may nest in each other, so the count is one instruction. The gap is of
    // received ones alone, and the recent ones only share out detail.
    unsafe {
        kernel::add(&raw mut (*value).resets, 1);
        (*value).gap += u64::from(gap);
        let recent = Recent::next((*value).recent, period);
        (*value).recent = recent.pack();
        recent.resets
    }
}

/// Counts the age of a connection that was reset.
#[inline(always)]
pub(crate) fn age(control: *mut Control, key: &CountKey, age: u32) {
    if let Some(ages) = AGES.get_ptr_mut(ages_index(key.direction, key.cause)) {
        add_age(ages, kernel::bucket(control, age), u64::from(age));
    }
}

#[inline(always)]
fn add_age(ages: *mut Ages, bucket: u32, age: u64) {
    // SAFETY: a valid map value of this CPU, written by the programs of one
    // direction alone, see `increment`; the mask bounds the index for the
    // compiler and for the verifier.
    unsafe {
        let slot = (&raw mut (*ages).resets)
            .cast::<u64>()
            .add(bucket as usize & (BUCKET_SLOTS - 1));
        *slot += 1;
        (*ages).sum += age;
    }
}

/// Counts a connection that died of silence.
#[inline(always)]
pub(crate) fn timeout(key: &ConnectionKey) {
    connection_in(&TIMEOUTS, &TIMEOUTS_OVERFLOW, key);
}

/// Counts a connection that was made.
#[inline(always)]
pub(crate) fn connection(key: &ConnectionKey) {
    connection_in(&CONNECTIONS, &CONNECTIONS_OVERFLOW, key);
}

#[inline(always)]
fn connection_in(
    map: &PerCpuHashMap<ConnectionKey, u64>,
    overflow: &PerCpuArray<u64>,
    key: &ConnectionKey,
) {
    let value = map.get_ptr_mut(key).or_else(|| {
        // Fails where another CPU was first, or the map is full.
        let _ = map.insert(key, 0, u64::from(BPF_NOEXIST));
        map.get_ptr_mut(key)
            .or_else(|| overflow.get_ptr_mut(u32::from(key.role)))
    });
    if let Some(value) = value {
        // SAFETY: a valid map value of this CPU; only this program writes it,
        // and it never nests on a CPU.
        unsafe { *value += 1 };
    }
}

/// What tells one connection from every other for the moment it matters.
pub(crate) struct ConnectionId {
    /// See `Doubt::connection`.
    pub(crate) connection: u64,
    /// See `Doubt::ports`.
    pub(crate) ports: u32,
}

impl ConnectionId {
    #[inline(always)]
    fn slot(&self) -> u32 {
        // Sockets are at least 64 bytes apart.
        (self.connection >> (32 + 6)) as u32 & (DOUBT_SLOTS as u32 - 1)
    }
}

/// Leaves a mark for [`retract_receive`]; the mark's slot plus one, or 0.
#[inline(always)]
pub(crate) fn doubt_receive(id: &ConnectionId, key: CountKey, age: u64) -> u32 {
    let slot = id.slot();
    let Some(doubt) = DOUBTS.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: a valid map value. Another CPU may write the same slot at the
    // same moment; who reads the mark compares both id fields, and looks at the
    // connection again after the key.
    unsafe {
        ptr::write_volatile(&raw mut (*doubt).ports, 0);
        ptr::write_volatile(&raw mut (*doubt).connection, id.connection);
        (*doubt).key = key;
        (*doubt).age = age;
        (*doubt).retracted = 0;
        ptr::write_volatile(&raw mut (*doubt).ports, id.ports);
    }
    slot + 1
}

/// Takes the receive event of this connection back, if there was one: its
/// slot plus one, or 0.
#[inline(always)]
pub(crate) fn retract_receive(control: *mut Control, id: &ConnectionId) -> u32 {
    let slot = id.slot();
    let Some(doubt) = DOUBTS.get_ptr_mut(slot) else {
        return 0;
    };
    // SAFETY: a valid map value; see `doubt_receive` for the races.
    let (connection, ports, retracted, key, age) = unsafe {
        (
            ptr::read_volatile(&raw const (*doubt).connection),
            ptr::read_volatile(&raw const (*doubt).ports),
            ptr::read_volatile(&raw const (*doubt).retracted),
            (*doubt).key,
            (*doubt).age,
        )
    };
    if connection != id.connection || ports != id.ports || retracted != 0 {
        return 0;
    }
    // SAFETY: as above.
    let unchanged = unsafe { ptr::read_volatile(&raw const (*doubt).connection) } == connection;
    if !unchanged {
        // Another connection took the slot while its key was read.
        return 0;
    }
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut (*doubt).retracted, 1) };
    // What is not in the full map was counted in the overflow array.
    let value = RESETS
        .get_ptr_mut(key)
        .or_else(|| OVERFLOW.get_ptr_mut(overflow_index(key.direction, key.cause, key.impact)));
    if let Some(value) = value {
        // SAFETY: a valid map value of this CPU; only `tcp_send_reset` writes
        // this field, and it never nests on a CPU.
        unsafe { (*value).retracted += 1 };
    }
    if age != u64::MAX
        && let Some(ages) = AGES.get_ptr_mut(ages_retracted_index(key.cause))
    {
        add_age(ages, kernel::bucket(control, age as u32), age);
    }
    slot + 1
}
