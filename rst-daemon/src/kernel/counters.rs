//! Reads the exact counts from the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Instant;

use aya::Pod;
use aya::maps::{MapData, PerCpuArray, PerCpuValues};
use rst_common::cause::{Cause, Direction, Ignored, Impact, Role};
use rst_common::count::{
    Ages, CountKey, OTHER_PORT, ages_index, ages_retracted_index, detail_index, overflow_parts,
};
use rst_common::event::DetailStats;
use rst_common::history::{BUCKET_SLOTS, BUCKETS};

use super::batch::Batch;
use super::tracked::Tracked;

/// Words of [`rst_common::count::CountKey`].
const KEY_WORDS: usize = 2;
const _: () = assert!(size_of::<CountKey>() == KEY_WORDS * size_of::<u64>());
/// [`rst_common::count::CountValue`] as it lies in memory.
type RawValue = [u64; VALUE_WORDS];
const VALUE_WORDS: usize = 4;
/// [`DetailStats`] as it lies in memory.
type RawDetail = [u64; 2];
/// [`Ages`] as it lies in memory.
type RawAges = [u64; BUCKET_SLOTS + 1];
const _: () = assert!(size_of::<RawAges>() == size_of::<Ages>());

/// What a count belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// Which side sent it.
    pub direction: Direction,
    /// Why.
    pub cause: Cause,
    /// Who lost what.
    pub impact: Impact,
    /// What this host was.
    pub role: Role,
    /// The kernel's reason.
    pub reason: Label<u8>,
    /// The service's port.
    pub port: Label<u16>,
    /// Whose it was (the id of a cgroup).
    pub workload: Label<u64>,
}

/// What silences are counted under.
pub type Gaps = (Cause, Label<u64>, Label<u16>);

/// What connections are counted under.
pub type Connections = (Role, Label<u64>, Label<u16>);

/// A label value that may be missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label<T> {
    /// There is none.
    None,
    /// This one.
    Value(T),
    /// There was no room to keep it apart.
    Other,
}

/// Durations by bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fall into each bucket of [`BUCKETS`]; the last one is open.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Their sum, jiffies.
    pub sum: u64,
}

impl Histogram {
    fn of(raw: &RawAges) -> Self {
        let mut histogram = Self::default();
        histogram.buckets.copy_from_slice(&raw[..=BUCKETS.len()]);
        histogram.sum = raw[BUCKET_SLOTS];
        histogram
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Self) {
        self.combine(other, u64::wrapping_add);
    }

    fn combine(&mut self, other: &Self, combine: fn(u64, u64) -> u64) {
        for (own, others) in self.buckets.iter_mut().zip(other.buckets) {
            *own = combine(*own, others);
        }
        self.sum = combine(self.sum, other.sum);
    }

    fn is_empty(&self) -> bool {
        self.buckets.iter().all(|count| *count == 0)
    }
}

/// The counts that a spike shows in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Resets by series.
    pub resets: BTreeMap<Series, u64>,
    /// Connections that were made.
    pub connections: BTreeMap<Connections, u64>,
}

/// All counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Resets by series.
    pub resets: BTreeMap<Series, u64>,
    /// Silence before the reset, for the causes that have one.
    pub gaps: BTreeMap<Gaps, Histogram>,
    /// Ages of the connections, where known.
    pub ages: BTreeMap<(Direction, Cause), Histogram>,
    /// Connections that died of silence.
    pub timeouts: BTreeMap<Connections, u64>,
    /// Connections that were made.
    pub connections: BTreeMap<Connections, u64>,
    /// Resets that changed nothing.
    pub ignored: BTreeMap<Ignored, u64>,
    /// Detailed events that were not sent.
    pub detail: BTreeMap<Cause, DetailStats>,
    /// Series in the kernel's map.
    pub entries: usize,
    /// Sockets that are tracked.
    pub tracked: usize,
    /// How many can be.
    pub tracked_room: usize,
}

/// The kernel's maps of counts.
pub struct CountMaps {
    /// `RESETS`.
    pub resets: Batch<KEY_WORDS, VALUE_WORDS>,
    /// `OVERFLOW`.
    pub overflow: PerCpuArray<MapData, RawValue>,
    /// `OVERFLOW_GAPS`.
    pub overflow_gaps: PerCpuArray<MapData, RawAges>,
    /// `AGES`.
    pub ages: PerCpuArray<MapData, RawAges>,
    /// `TIMEOUTS`.
    pub timeouts: Batch<KEY_WORDS, 1>,
    /// `TIMEOUTS_OVERFLOW`.
    pub timeouts_overflow: PerCpuArray<MapData, u64>,
    /// `CONNECTIONS`.
    pub connections: Batch<KEY_WORDS, 1>,
    /// `CONNECTIONS_OVERFLOW`.
    pub connections_overflow: PerCpuArray<MapData, u64>,
    /// `IGNORED`.
    pub ignored: PerCpuArray<MapData, u64>,
    /// `DETAIL`.
    pub detail: PerCpuArray<MapData, RawDetail>,
    /// `SOCKETS`.
    pub sockets: Tracked,
}

/// Reads the count maps.
pub struct Counters {
    maps: CountMaps,
    /// What was published last: a counter must not fall.
    published: BTreeMap<Series, u64>,
    /// Likewise.
    published_ages: BTreeMap<(Direction, Cause), Histogram>,
}

/// The kernel's counts as they stand.
#[derive(Default)]
struct Raw {
    /// Counted and taken back, by series.
    values: BTreeMap<Series, [u64; 2]>,
    /// Silences.
    gaps: BTreeMap<Gaps, Histogram>,
    /// Keys in the count map.
    entries: usize,
}

impl Counts {
    /// Resets sent that the kernel counts as well (`OutRsts`): all but netfilter's own.
    #[must_use]
    pub fn sent(&self) -> u64 {
        let sent = self.resets.iter().filter(|(series, _)| {
            series.direction == Direction::Sent && series.cause != Cause::FirewallReject
        });
        sent.map(|(_, resets)| resets).sum()
    }

    /// The workloads in them.
    #[must_use]
    pub fn workloads(&self) -> BTreeSet<u64> {
        let resets = self.resets.keys().map(|series| series.workload);
        let gaps = self.gaps.keys().map(|(_, workload, _)| *workload);
        let connections = self.connections.keys().chain(self.timeouts.keys());
        resets
            .chain(gaps)
            .chain(connections.map(|(_, workload, _)| *workload))
            .filter_map(|workload| match workload {
                Label::Value(id) => Some(id),
                Label::None | Label::Other => None,
            })
            .collect()
    }
}

impl Counters {
    /// Takes the maps over.
    #[must_use]
    pub fn new(maps: CountMaps) -> Self {
        Self {
            maps,
            published: BTreeMap::new(),
            published_ages: BTreeMap::new(),
        }
    }

    /// Reads the resets and the connections that have a key: the least that shows a
    /// spike. What is taken back a moment later may be in it.
    pub fn tally(&mut self) -> io::Result<Tally> {
        let mut tally = Tally::default();
        for (series, [resets, retracted]) in self.read_series()?.values {
            let published = self.published.get(&series).copied().unwrap_or_default();
            let resets = resets.saturating_sub(retracted).max(published);
            tally.resets.insert(series, resets);
        }
        tally.connections =
            read_connections(&self.maps.connections, &self.maps.connections_overflow)?;
        Ok(tally)
    }

    /// Reads everything.
    pub fn read(&mut self) -> io::Result<Counts> {
        let ages = self.read_ages()?;
        let first = self.read_raw()?;
        // A receive event that is none is counted a moment before it is taken
        // back. What has been taken back by the second pass covers all that was
        // counted in the first.
        let second = if self.may_be_unsettled(&first) {
            Some(self.read_raw()?)
        } else {
            None
        };
        let mut counts = Counts {
            gaps: first.gaps,
            entries: first.entries,
            tracked: self.maps.sockets.count(Instant::now())?,
            tracked_room: self.maps.sockets.room(),
            ..Counts::default()
        };
        for (series, [resets, mut retracted]) in first.values {
            if let Some([_, later]) = second.as_ref().and_then(|raw| raw.values.get(&series)) {
                retracted = *later;
            }
            let published = self.published.entry(series).or_default();
            *published = (*published).max(resets.saturating_sub(retracted));
            counts.resets.insert(series, *published);
        }
        for ((direction, cause), mut histogram) in ages {
            if direction == Direction::Received {
                let index = ages_retracted_index(cause as u8);
                histogram.combine(
                    &read_histogram(&self.maps.ages, index)?,
                    u64::saturating_sub,
                );
            }
            let published = self.published_ages.entry((direction, cause)).or_default();
            published.combine(&histogram, u64::max);
            counts.ages.insert((direction, cause), *published);
        }
        counts.timeouts = read_connections(&self.maps.timeouts, &self.maps.timeouts_overflow)?;
        counts.connections =
            read_connections(&self.maps.connections, &self.maps.connections_overflow)?;
        for why in Ignored::ALL {
            let count = get(&self.maps.ignored, *why as u32)?.iter().sum();
            counts.ignored.insert(*why, count);
        }
        for cause in Cause::ALL {
            let mut detail = DetailStats::default();
            for [sampled_out, lost] in get(&self.maps.detail, detail_index(*cause as u8))?.iter() {
                detail.sampled_out += sampled_out;
                detail.lost += lost;
            }
            counts.detail.insert(*cause, detail);
        }
        Ok(counts)
    }

    /// Whether a series that can hold receive events that are none has moved.
    fn may_be_unsettled(&self, raw: &Raw) -> bool {
        raw.values.iter().any(|(series, [resets, retracted])| {
            series.direction == Direction::Received
                && matches!(
                    series.cause,
                    Cause::AfterClose | Cause::PeerClosed | Cause::Mptcp
                )
                && resets.saturating_sub(*retracted)
                    != self.published.get(series).copied().unwrap_or_default()
        })
    }

    fn read_raw(&self) -> io::Result<Raw> {
        let mut raw = self.read_series()?;
        self.read_overflow(&mut raw)?;
        Ok(raw)
    }

    /// What has a key.
    fn read_series(&self) -> io::Result<Raw> {
        let mut raw = Raw::default();
        self.maps.resets.each(|key, values| {
            raw.entries += 1;
            let Some((series, bucket)) = series(key) else {
                return;
            };
            let [resets, retracted, gap, _] = sum(values);
            let value = raw.values.entry(series).or_default();
            value[0] += resets;
            value[1] += retracted;
            if let Some(bucket) = bucket {
                let key = (series.cause, series.workload, series.port);
                let gaps = raw.gaps.entry(key).or_default();
                gaps.buckets[bucket.min(BUCKETS.len())] += resets;
                gaps.sum += gap;
            }
        })?;
        Ok(raw)
    }

    /// What had no room for one.
    fn read_overflow(&self, raw: &mut Raw) -> io::Result<()> {
        for index in 0..self.maps.overflow.len() {
            let [resets, retracted, ..] = sum(&get(&self.maps.overflow, index)?);
            if resets == 0 && retracted == 0 {
                continue;
            }
            let (direction, cause, impact) = overflow_parts(index as usize);
            let (Some(direction), Some(cause), Some(impact)) = (
                Direction::ALL.get(direction),
                Cause::ALL.get(cause),
                Impact::ALL.get(impact),
            ) else {
                continue;
            };
            let series = Series {
                direction: *direction,
                cause: *cause,
                impact: *impact,
                role: Role::Unknown,
                reason: Label::Other,
                port: Label::Other,
                workload: Label::Other,
            };
            raw.values.insert(series, [resets, retracted]);
        }
        for cause in Cause::ALL.iter().filter(|cause| cause.has_gap()) {
            let gaps = read_histogram(&self.maps.overflow_gaps, *cause as u32)?;
            if !gaps.is_empty() {
                raw.gaps.insert((*cause, Label::Other, Label::Other), gaps);
            }
        }
        Ok(())
    }

    /// Ages as counted, before any are taken back.
    fn read_ages(&self) -> io::Result<BTreeMap<(Direction, Cause), Histogram>> {
        let mut ages = BTreeMap::new();
        for direction in Direction::ALL {
            for cause in Cause::ALL {
                let index = ages_index(*direction as u8, *cause as u8);
                let histogram = read_histogram(&self.maps.ages, index)?;
                if !histogram.is_empty() {
                    ages.insert((*direction, *cause), histogram);
                }
            }
        }
        Ok(ages)
    }
}

fn read_connections(
    map: &Batch<KEY_WORDS, 1>,
    overflow: &PerCpuArray<MapData, u64>,
) -> io::Result<BTreeMap<Connections, u64>> {
    let mut counts = BTreeMap::new();
    map.each(|[workload, rest], values| {
        let [port_low, port_high, role, ..] = rest.to_ne_bytes();
        let role = Role::from_byte(role).unwrap_or(Role::Unknown);
        let port = port_label(u16::from_ne_bytes([port_low, port_high]));
        let key = (role, workload_label(workload), port);
        *counts.entry(key).or_default() += values.iter().flatten().sum::<u64>();
    })?;
    for role in Role::ALL {
        let count: u64 = get(overflow, *role as u32)?.iter().sum();
        if count != 0 {
            counts.insert((*role, Label::Other, Label::Other), count);
        }
    }
    Ok(counts)
}

/// What each CPU has at an index.
fn get<V: Pod>(map: &PerCpuArray<MapData, V>, index: u32) -> io::Result<PerCpuValues<V>> {
    map.get(&index, 0).map_err(io::Error::other)
}

fn read_histogram(map: &PerCpuArray<MapData, RawAges>, index: u32) -> io::Result<Histogram> {
    let mut histogram = Histogram::default();
    for raw in get(map, index)?.iter() {
        histogram.add(&Histogram::of(raw));
    }
    Ok(histogram)
}

fn sum(values: &[RawValue]) -> RawValue {
    values
        .iter()
        .fold([0; 4], |[a, b, c, _], [more, less, gap, _]| {
            [a + more, b + less, c + gap, 0]
        })
}

/// The series of a key and its bucket of silence; `None` for bytes that no
/// program of ours writes.
fn series([labels, workload]: [u64; KEY_WORDS]) -> Option<(Series, Option<usize>)> {
    let [direction, cause, impact, role, reason, gap, low, high] = labels.to_ne_bytes();
    let series = Series {
        direction: Direction::from_byte(direction)?,
        cause: Cause::from_byte(cause)?,
        impact: Impact::from_byte(impact)?,
        role: Role::from_byte(role)?,
        reason: if reason == rst_common::reason::RAW_NONE {
            Label::None
        } else {
            Label::Value(reason)
        },
        port: port_label(u16::from_ne_bytes([low, high])),
        workload: workload_label(workload),
    };
    Some((series, usize::from(gap).checked_sub(1)))
}

fn port_label(port: u16) -> Label<u16> {
    match port {
        0 => Label::None,
        OTHER_PORT => Label::Other,
        port => Label::Value(port),
    }
}

fn workload_label(workload: u64) -> Label<u64> {
    if workload == 0 {
        Label::None
    } else {
        Label::Value(workload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rst_common::reason::RAW_NONE;

    #[test]
    fn a_key_reads_back_as_its_series() {
        let [port_low, port_high] = 443u16.to_ne_bytes();
        let labels = [
            Direction::Received as u8,
            Cause::PeerClosed as u8,
            Impact::Benign as u8,
            Role::Client as u8,
            RAW_NONE,
            11,
            port_low,
            port_high,
        ];
        assert_eq!(
            series([u64::from_ne_bytes(labels), 1]),
            Some((
                Series {
                    direction: Direction::Received,
                    cause: Cause::PeerClosed,
                    impact: Impact::Benign,
                    role: Role::Client,
                    reason: Label::None,
                    port: Label::Value(443),
                    workload: Label::Value(1),
                },
                Some(10)
            ))
        );
        assert_eq!(series([u64::MAX; 2]), None);
    }
}
