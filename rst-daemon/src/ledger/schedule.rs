//! When to read how much: the cost is a share of the time, whatever the number
//! of namespaces, processes and CPUs makes of it, and as long as that is not too
//! seldom.

use std::time::{Duration, Instant};

/// A pass takes at most one in so many parts of the time: 6 ms a minute.
const SHARE: u32 = 10_000;

/// Likewise a full pass while the sums don't agree, which it may settle.
const SHARE_WHILE_SHORT: u32 = 1_000;

/// Longest time between full passes, whatever they cost.
const LONGEST: Duration = Duration::from_secs(600);

/// Likewise passes over the active namespaces.
const LONGEST_ACTIVE: Duration = Duration::from_secs(60);

/// What to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pass {
    /// The namespaces that have counted something lately.
    Active,
    /// All of them, after a look for new ones.
    Full,
}

/// When each pass ended, and what it cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Schedule {
    active: Option<(Instant, Duration)>,
    full: Option<(Instant, Duration)>,
}

impl Schedule {
    /// What to read now. `short`: whether we count what the active namespaces
    /// don't.
    pub(super) fn due(&self, now: Instant, short: bool) -> Option<Pass> {
        let due = |last: Option<(Instant, Duration)>, share, longest| {
            last.is_none_or(|(end, cost)| {
                now.saturating_duration_since(end) >= cost.saturating_mul(share).min(longest)
            })
        };
        let share = if short { SHARE_WHILE_SHORT } else { SHARE };
        if due(self.full, share, LONGEST) {
            Some(Pass::Full)
        } else if due(self.active, SHARE, LONGEST_ACTIVE) {
            Some(Pass::Active)
        } else {
            None
        }
    }

    /// Notes that a pass has ended, and the processor time it took.
    pub(super) const fn done(&mut self, pass: Pass, end: Instant, cost: Duration) {
        match pass {
            Pass::Active => self.active = Some((end, cost)),
            Pass::Full => self.full = Some((end, cost)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_pass_waits_in_proportion_to_its_cost() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        assert_eq!(schedule.due(start, false), Some(Pass::Full));
        schedule.done(Pass::Full, start, 3 * MS);
        assert_eq!(schedule.due(start, false), Some(Pass::Active));
        schedule.done(Pass::Active, start, MS / 10);
        assert_eq!(schedule.due(start + 999 * MS, false), None);
        assert_eq!(schedule.due(start + 1000 * MS, false), Some(Pass::Active));
        assert_eq!(schedule.due(start + 29_999 * MS, false), Some(Pass::Active));
        assert_eq!(schedule.due(start + 30_000 * MS, false), Some(Pass::Full));
    }

    #[test]
    fn no_pass_waits_for_ever() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.done(Pass::Active, start, Duration::MAX);
        schedule.done(Pass::Full, start, Duration::MAX);
        assert_eq!(schedule.due(start + 59_999 * MS, false), None);
        assert_eq!(schedule.due(start + 60_000 * MS, false), Some(Pass::Active));
        assert_eq!(schedule.due(start + 600_000 * MS, false), Some(Pass::Full));
    }

    #[test]
    fn a_difference_is_settled_sooner() {
        let start = Instant::now();
        let mut schedule = Schedule::default();
        schedule.done(Pass::Full, start, 3 * MS);
        schedule.done(Pass::Active, start, MS);
        assert_eq!(schedule.due(start + 2999 * MS, true), None);
        assert_eq!(schedule.due(start + 3000 * MS, true), Some(Pass::Full));
    }
}
