//! Reads the exact counts from the kernel.

use std::collections::BTreeMap;

use aya::maps::{MapData, MapError, PerCpuArray, PerCpuHashMap};
use rst_common::cause::{Cause, Direction, Impact, Role};
use rst_common::count::overflow_parts;
use rst_common::event::DetailStats;

/// [`rst_common::count::CountKey`] as it lies in memory.
type RawKey = [u8; 8];
/// [`rst_common::count::CountValue`] as it lies in memory.
type RawValue = [u64; 2];
/// [`DetailStats`] as it lies in memory.
type RawDetail = [u64; 2];

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
    pub reason: Label<u16>,
    /// The service's port.
    pub port: Label<u16>,
}

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

/// All counts at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Resets by series.
    pub resets: BTreeMap<Series, u64>,
    /// Detailed events.
    pub detail: DetailStats,
    /// Series in the kernel's map.
    pub entries: usize,
    /// Resets counted under `other`, because the map is full.
    pub overflow: u64,
}

/// The count maps.
pub struct Counters {
    resets: PerCpuHashMap<MapData, RawKey, RawValue>,
    overflow: PerCpuArray<MapData, RawValue>,
    detail: PerCpuArray<MapData, RawDetail>,
    /// What was published last: a counter must not fall.
    published: BTreeMap<Series, u64>,
}

/// The kernel's counts as they stand.
#[derive(Default)]
struct Raw {
    /// Counted and taken back, by series.
    values: BTreeMap<Series, [u64; 2]>,
    /// Keys in the count map.
    entries: usize,
}

impl Counters {
    /// Takes the three maps over.
    #[must_use]
    pub fn new(
        resets: PerCpuHashMap<MapData, RawKey, RawValue>,
        overflow: PerCpuArray<MapData, RawValue>,
        detail: PerCpuArray<MapData, RawDetail>,
    ) -> Self {
        Self {
            resets,
            overflow,
            detail,
            published: BTreeMap::new(),
        }
    }

    /// Reads everything.
    pub fn read(&mut self) -> Result<Counts, MapError> {
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
            entries: first.entries,
            ..Counts::default()
        };
        for (series, [resets, mut retracted]) in first.values {
            if let Some([_, later]) = second.as_ref().and_then(|raw| raw.values.get(&series)) {
                retracted = *later;
            }
            let published = self.published.entry(series).or_default();
            *published = (*published).max(resets.saturating_sub(retracted));
            if series.port == Label::Other {
                counts.overflow += *published;
            }
            counts.resets.insert(series, *published);
        }
        for [sampled_out, lost] in self.detail.get(&0, 0)?.iter() {
            counts.detail.sampled_out += sampled_out;
            counts.detail.lost += lost;
        }
        Ok(counts)
    }

    /// Whether a series that can hold receive events that are none has moved.
    fn may_be_unsettled(&self, raw: &Raw) -> bool {
        raw.values.iter().any(|(series, [resets, retracted])| {
            series.direction == Direction::Received
                && matches!(series.cause, Cause::AfterClose | Cause::PeerClosed)
                && resets.saturating_sub(*retracted)
                    != self.published.get(series).copied().unwrap_or_default()
        })
    }

    fn read_raw(&self) -> Result<Raw, MapError> {
        let mut raw = Raw::default();
        for item in &self.resets {
            let (key, values) = item?;
            raw.entries += 1;
            if let Some(series) = series(key) {
                raw.values.insert(series, sum(&values));
            }
        }
        for index in 0..self.overflow.len() {
            let value = sum(&self.overflow.get(&index, 0)?);
            if value == [0, 0] {
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
            };
            raw.values.insert(series, value);
        }
        Ok(raw)
    }
}

fn sum(values: &[RawValue]) -> RawValue {
    values
        .iter()
        .fold([0, 0], |[resets, retracted], [more, less]| {
            [resets + more, retracted + less]
        })
}

/// The series of a key; `None` for bytes that no program of ours writes.
fn series(key: RawKey) -> Option<Series> {
    let [
        direction,
        cause,
        impact,
        role,
        reason_low,
        reason_high,
        port_low,
        port_high,
    ] = key;
    let reason = u16::from_ne_bytes([reason_low, reason_high]);
    let port = u16::from_ne_bytes([port_low, port_high]);
    Some(Series {
        direction: Direction::from_byte(direction)?,
        cause: Cause::from_byte(cause)?,
        impact: Impact::from_byte(impact)?,
        role: Role::from_byte(role)?,
        reason: if reason == rst_common::reason::RAW_NONE {
            Label::None
        } else {
            Label::Value(reason)
        },
        port: if port == 0 {
            Label::None
        } else {
            Label::Value(port)
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rst_common::reason::RAW_NONE;

    #[test]
    fn a_key_reads_back_as_its_series() {
        let [reason_low, reason_high] = RAW_NONE.to_ne_bytes();
        let [port_low, port_high] = 443u16.to_ne_bytes();
        let key = [
            Direction::Received as u8,
            Cause::PeerClosed as u8,
            Impact::Benign as u8,
            Role::Client as u8,
            reason_low,
            reason_high,
            port_low,
            port_high,
        ];
        assert_eq!(
            series(key),
            Some(Series {
                direction: Direction::Received,
                cause: Cause::PeerClosed,
                impact: Impact::Benign,
                role: Role::Client,
                reason: Label::None,
                port: Label::Value(443),
            })
        );
        assert_eq!(series([9, 0, 0, 0, 0, 0, 0, 0]), None);
    }
}
