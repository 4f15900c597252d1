//! Reads the ring buffer: wakes once for a lone event, then looks every
//! [`TICK`] until things are quiet again, so that a storm costs no wake-ups.

use std::time::Duration;

use aya::maps::{Array, MapData, RingBuf};
use rst_common::cause::Direction;
use rst_common::event::{EVENT_SIZE, Event};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::control::{Budget, ControlPage};
use super::load::RawDoubt;

/// How often the reader looks while events come.
const TICK: Duration = Duration::from_millis(20);

/// Longest sleep: bounds what a lost wake-up could cost. The protocol loses
/// none but in one case, a ring that fills up between a commit and its wake-up.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// How long a received event that may be none is held back. The event that
/// takes it back follows within microseconds.
const HOLD_NS: u64 = 5_000_000;

/// Why a record of the ring is no event.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a record of {actual} bytes instead of {EVENT_SIZE}")]
pub struct DecodeError {
    /// Its length.
    pub actual: usize,
}

/// Reads one record.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    let record: &[u8; EVENT_SIZE] = record.try_into().map_err(|_| DecodeError {
        actual: record.len(),
    })?;
    // SAFETY: the source is exactly as long as an Event, which is repr(C) and
    // made of integers alone, so every bit pattern is one; it is read
    // unaligned.
    Ok(unsafe { record.as_ptr().cast::<Event>().read_unaligned() })
}

/// Holds received events back that may be none; see [`rst_common::event::Doubt`].
#[derive(Debug, Default)]
pub struct Held {
    events: Vec<Event>,
}

impl Held {
    /// Takes an event in. What is certain comes out through `deliver` at once.
    pub fn push(&mut self, event: Event, deliver: &mut impl FnMut(Event)) {
        let received = event.facts.direction == Direction::Received as u8;
        if event.doubt == 0 {
            deliver(event);
        } else if received {
            self.events.push(event);
        } else {
            self.events.retain(|held| !same_connection(held, &event));
            deliver(event);
        }
    }

    /// Delivers the events held for long enough, unless `retracted` says that
    /// they were none (their sent event may not have come through).
    pub fn release(
        &mut self,
        now_ns: u64,
        mut retracted: impl FnMut(&Event) -> bool,
        deliver: &mut impl FnMut(Event),
    ) {
        self.events.retain(|held| {
            if now_ns.saturating_sub(held.ktime_ns) < HOLD_NS {
                return true;
            }
            if !retracted(held) {
                deliver(*held);
            }
            false
        });
    }

    /// Whether nothing is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }
}

fn same_connection(one: &Event, other: &Event) -> bool {
    one.doubt == other.doubt
        && one.local_port == other.local_port
        && one.remote_port == other.remote_port
        && one.local_addr == other.local_addr
        && one.remote_addr == other.remote_addr
}

/// What the reader met besides events, for the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReaderStats {
    /// Events handed on.
    pub delivered: u64,
    /// Records that were no event.
    pub malformed: u64,
}

/// The ring buffer's reader.
pub struct Reader {
    ring: AsyncFd<RingBuf<MapData>>,
    control: ControlPage,
    doubts: Array<MapData, RawDoubt>,
    budget: Budget,
    held: Held,
    stats: ReaderStats,
    read_at: u64,
}

impl Reader {
    /// A reader that allows `details_per_second` detailed events.
    pub fn new(
        ring: RingBuf<MapData>,
        control: ControlPage,
        doubts: Array<MapData, RawDoubt>,
        details_per_second: u32,
    ) -> std::io::Result<Self> {
        let budget = Budget::new(details_per_second, monotonic_ns());
        // SAFETY: the descriptor belongs to the map inside `ring`, which closes
        // it only when it is dropped, after the registration.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        share(&control, details_per_second);
        let mut reader = Self {
            ring,
            control,
            doubts,
            budget,
            held: Held::default(),
            stats: ReaderStats::default(),
            read_at: monotonic_ns(),
        };
        reader.top_up();
        Ok(reader)
    }

    /// Allows another number of detailed events from now on.
    pub fn limit(&mut self, details_per_second: u32) {
        self.budget = Budget::at(details_per_second, monotonic_ns(), self.control.used());
        share(&self.control, details_per_second);
        self.top_up();
    }

    /// Says that there may have been listeners that the programs don't know.
    pub fn forget_listeners(&self) {
        self.control.forget_listeners();
    }

    /// A silence of so many jiffies counts as idle from now on.
    pub fn set_idle(&self, jiffies: u32) {
        self.control.set_idle(jiffies);
    }

    /// What the reader met so far.
    #[must_use]
    pub fn stats(&self) -> ReaderStats {
        self.stats
    }

    /// When the ring was read last, `CLOCK_MONOTONIC`, nanoseconds.
    #[must_use]
    pub fn read_at(&self) -> u64 {
        self.read_at
    }

    /// Waits until there is something to read, but no longer than this, then reads
    /// all of it. Returns after each round, so that the caller can do something
    /// between rounds.
    pub async fn round(
        &mut self,
        deliver: &mut impl FnMut(Event),
        patience: Duration,
    ) -> std::io::Result<()> {
        if self.drain(deliver).await {
            tokio::time::sleep(TICK).await;
            return Ok(());
        }
        self.control.ask_for_wake();
        if self.drain(deliver).await {
            self.control.stay_awake();
            tokio::time::sleep(TICK).await;
            return Ok(());
        }
        // Readiness left over from records read meanwhile costs one more round.
        if let Ok(guard) = tokio::time::timeout(patience, self.ring.readable_mut()).await {
            guard?.clear_ready();
        }
        self.control.stay_awake();
        Ok(())
    }

    /// Reads what is there; returns whether there is reason to look again soon.
    /// Yields now and then: those that the events are for run on this thread.
    async fn drain(&mut self, deliver: &mut impl FnMut(Event)) -> bool {
        self.read_at = monotonic_ns();
        let mut records = 0;
        loop {
            let batch = self.read_batch(deliver);
            records += batch;
            if batch < BATCH || records >= MAX_RECORDS {
                break;
            }
            tokio::task::yield_now().await;
        }
        self.release(monotonic_ns(), deliver);
        self.top_up();
        records != 0 || !self.held.is_empty() || !self.budget.is_full(self.control.used())
    }

    /// Reads up to [`BATCH`] records.
    fn read_batch(&mut self, deliver: &mut impl FnMut(Event)) -> usize {
        let Self {
            ring, held, stats, ..
        } = self;
        let mut records = 0;
        while records < BATCH {
            let Some(record) = ring.get_mut().next() else {
                break;
            };
            records += 1;
            match decode(&record) {
                Ok(event) => held.push(event, &mut |event| {
                    stats.delivered += 1;
                    deliver(event);
                }),
                Err(_) => stats.malformed += 1,
            }
        }
        records
    }

    /// Delivers what was held for long enough.
    fn release(&mut self, now_ns: u64, deliver: &mut impl FnMut(Event)) {
        let Self {
            held,
            doubts,
            stats,
            ..
        } = self;
        held.release(now_ns, |event| retracted(doubts, event), &mut |event| {
            stats.delivered += 1;
            deliver(event);
        });
    }

    /// Delivers everything left, at the end.
    pub fn finish(&mut self, deliver: &mut impl FnMut(Event)) {
        while self.read_batch(deliver) != 0 {}
        self.release(u64::MAX, deliver);
    }

    fn top_up(&mut self) {
        let now_ns = monotonic_ns();
        let allowed = self.budget.top_up(now_ns, self.control.used());
        self.control.allow(allowed, Budget::period(now_ns));
    }
}

/// Sets the shares of the budget.
fn share(control: &ControlPage, details_per_second: u32) {
    // Of the host, not those that this process may use.
    let cpus = aya::util::nr_cpus().unwrap_or(1).max(1);
    control.share(
        Budget::reserve(u64::from(details_per_second)),
        Budget::share(cpus as u64),
    );
}

/// Records read between two turns of the other tasks.
const BATCH: usize = 256;

/// Records read before the budget is topped up.
const MAX_RECORDS: usize = 8192;

/// Whether the send program has taken this receive event back.
fn retracted(doubts: &Array<MapData, RawDoubt>, event: &Event) -> bool {
    let Some(slot) = event.doubt.checked_sub(1) else {
        return false;
    };
    let Ok([_, ports_and_flag, ..]) = doubts.get(&slot, 0) else {
        return false;
    };
    let [p0, p1, p2, p3, r0, r1, r2, r3] = ports_and_flag.to_ne_bytes();
    let ports = u32::from_ne_bytes([p0, p1, p2, p3]);
    let flag = u32::from_ne_bytes([r0, r1, r2, r3]);
    flag != 0 && ports == rst_common::event::Doubt::ports(event.local_port, event.remote_port)
}

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns`, nanoseconds.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rst_common::cause::Direction;

    use super::*;

    /// An event of zeros but for what the holder looks at.
    fn event(direction: Direction, doubt: u32, ktime_ns: u64) -> Event {
        let mut event = decode(&[0; EVENT_SIZE]).unwrap();
        event.facts.direction = direction as u8;
        event.doubt = doubt;
        event.ktime_ns = ktime_ns;
        event.local_port = 80;
        event
    }

    #[test]
    fn a_record_of_another_length_is_refused() {
        for len in [0, 8, EVENT_SIZE - 1, EVENT_SIZE + 1, 4096] {
            let error = decode(&vec![0; len]).unwrap_err();
            assert_eq!(error, DecodeError { actual: len });
            assert!(error.to_string().contains(&len.to_string()));
        }
    }

    #[test]
    fn what_is_certain_is_delivered_at_once() {
        let mut held = Held::default();
        let mut delivered = Vec::new();
        held.push(event(Direction::Received, 0, 1), &mut |event| {
            delivered.push(event);
        });
        held.push(event(Direction::Sent, 0, 2), &mut |event| {
            delivered.push(event);
        });
        assert_eq!(delivered.len(), 2);
        assert!(held.is_empty());
    }

    #[test]
    fn a_receive_event_that_is_taken_back_is_never_delivered() {
        let mut held = Held::default();
        let mut delivered = Vec::new();
        held.push(event(Direction::Received, 5, 1), &mut |event| {
            delivered.push(event);
        });
        held.push(event(Direction::Sent, 5, 2), &mut |event| {
            delivered.push(event);
        });
        held.release(u64::MAX, |_| false, &mut |event| delivered.push(event));
        let directions: Vec<_> = delivered
            .iter()
            .map(|event| event.facts.direction)
            .collect();
        assert_eq!(directions, [Direction::Sent as u8]);
    }

    #[test]
    fn another_connection_of_the_same_slot_takes_nothing_back() {
        let mut held = Held::default();
        let mut delivered = Vec::new();
        held.push(event(Direction::Received, 5, 1), &mut |event| {
            delivered.push(event);
        });
        let other = Event {
            remote_port: 9,
            ..event(Direction::Sent, 5, 2)
        };
        held.push(other, &mut |event| delivered.push(event));
        held.release(u64::MAX, |_| false, &mut |event| delivered.push(event));
        assert_eq!(delivered.len(), 2);
    }

    #[test]
    fn a_doubtful_event_waits_and_then_asks_the_kernel() {
        for (taken_back, expected) in [(false, 1), (true, 0)] {
            let mut held = Held::default();
            let mut delivered = Vec::new();
            held.push(event(Direction::Received, 5, 1000), &mut |event| {
                delivered.push(event);
            });
            held.release(1000 + HOLD_NS - 1, |_| taken_back, &mut |event| {
                delivered.push(event);
            });
            assert_eq!(delivered.len(), 0);
            held.release(1000 + HOLD_NS, |_| taken_back, &mut |event| {
                delivered.push(event);
            });
            assert_eq!(delivered.len(), expected);
            assert!(held.is_empty());
        }
    }

    proptest! {
        /// Whatever stands in a record, it becomes a reset that can be written
        /// as JSON and as text.
        #[test]
        fn any_record_can_be_told(bytes in proptest::collection::vec(any::<u8>(), EVENT_SIZE)) {
            let event = decode(&bytes).unwrap();
            let joiner = crate::join::Joiner::new("host".to_owned(), vec![None; 64], crate::clock::Hz::of((0, (1 << 32) - 300 * 250)).unwrap(), true);
            let clock = crate::clock::WallClock::from_offset(0);
            let reset = joiner.join(&event, clock, crate::workload::resolver::Named::default(), None);
            let json = crate::text::json(&reset).unwrap();
            prop_assert!(serde_json::from_str::<crate::reset::Reset>(&json).is_ok());
            let style = crate::text::Style { color: false, zone: jiff::tz::TimeZone::UTC };
            let line = crate::text::line(&reset, &style);
            prop_assert!(!line.chars().any(char::is_control), "{line:?}");
        }
    }
}
