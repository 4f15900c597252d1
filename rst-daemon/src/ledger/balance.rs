//! The kernel's count of resets sent against ours.
//!
//! The two are never read at one moment, so ours is read before the kernel's and
//! again after it: the difference is known to lie in a range, as wide as what
//! was counted meanwhile. It changes for two reasons alone. A reset that the
//! kernel counts and we don't makes it rise. The end of a namespace, with resets
//! that were not read any more, makes it fall, and so does a reset over IPv6
//! that finds no route: the kernel shows it and does not count it. Each is
//! summed up apart, by the least change that fits all readings, so that the one
//! does not hide the other.
//!
//! A reset that is between the kernel's counter and our program while both are
//! read looks like a change. So a change counts when two readings in a row show
//! it.

/// One reading.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    /// The kernel's count; too small where it is not complete.
    pub(super) kernel: u64,
    /// Ours, read before the kernel's.
    pub(super) before: u64,
    /// Ours, read after it; `None` where the reading had no need of it, see
    /// [`Balance::needs_after`].
    pub(super) after: Option<u64>,
    /// Whether all namespaces were read.
    pub(super) complete: bool,
}

impl Reading {
    /// The kernel's count less ours, at least.
    fn low(&self) -> Option<i64> {
        self.after.map(|after| difference(self.kernel, after))
    }

    /// Likewise at most, were it complete.
    fn high(&self) -> i64 {
        difference(self.kernel, self.before)
    }
}

fn difference(kernel: u64, ours: u64) -> i64 {
    kernel.wrapping_sub(ours).cast_signed()
}

/// What the readings so far tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Balance {
    /// Where the difference lies.
    low: i64,
    high: i64,
    /// The last reading's difference, where it lay above.
    above: Option<i64>,
    /// Likewise below.
    below: Option<i64>,
    unaccounted: u64,
    credited: u64,
}

impl Balance {
    /// Starts with the first reading: what it shows is taken for no difference.
    pub(super) fn new(kernel: u64, before: u64, after: u64) -> Self {
        Self {
            low: difference(kernel, after),
            high: difference(kernel, before),
            above: None,
            below: None,
            unaccounted: 0,
            credited: 0,
        }
    }

    /// Whether ours must be read once more to tell what a reading shows. Not
    /// where nothing has happened meanwhile.
    pub(super) fn needs_after(&self, reading: &Reading) -> bool {
        reading.high() > self.low
    }

    /// Whether we have counted what the namespaces that were read have not.
    pub(super) fn is_short(&self, reading: &Reading) -> bool {
        reading.high() < self.low
    }

    /// Takes a reading in.
    pub(super) fn observe(&mut self, reading: &Reading) {
        match reading.low() {
            Some(low) if low > self.high => self.rise(low),
            Some(low) => {
                self.above = None;
                self.low = self.low.max(low);
            }
            None => self.above = None,
        }
        // What has not been read can only add to it.
        if reading.complete {
            let high = reading.high();
            if high < self.low {
                self.fall(high);
            } else {
                self.below = None;
                self.high = self.high.min(high);
            }
        }
    }

    fn rise(&mut self, low: i64) {
        let Some(earlier) = self.above.replace(low) else {
            return;
        };
        let shown = earlier.min(low);
        self.unaccounted += shown.abs_diff(self.high);
        self.settle(shown);
        self.above = (low > shown).then_some(low);
    }

    fn fall(&mut self, high: i64) {
        let Some(earlier) = self.below.replace(high) else {
            return;
        };
        let shown = earlier.max(high);
        self.credited += shown.abs_diff(self.low);
        self.settle(shown);
        self.below = (high < shown).then_some(high);
    }

    fn settle(&mut self, difference: i64) {
        self.low = difference;
        self.high = difference;
        self.above = None;
        self.below = None;
    }

    /// Whether a change was seen that the next reading has to confirm.
    pub(super) const fn is_pending(&self) -> bool {
        self.above.is_some() || self.below.is_some()
    }

    /// Resets that the kernel has counted and we have not, at least.
    pub(super) const fn unaccounted(&self) -> u64 {
        self.unaccounted
    }

    /// Resets that we have counted and no counter of the kernel's tells, at
    /// least.
    pub(super) const fn credited(&self) -> u64 {
        self.credited
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(kernel: u64, before: u64, after: u64) -> Reading {
        Reading {
            kernel,
            before,
            after: Some(after),
            complete: true,
        }
    }

    /// The result of readings of all namespaces: kernel, ours before, ours after.
    #[track_caller]
    fn check(readings: &[(u64, u64, u64)], unaccounted: u64, credited: u64) {
        let (kernel, before, after) = readings[0];
        let mut balance = Balance::new(kernel, before, after);
        for (kernel, before, after) in &readings[1..] {
            balance.observe(&full(*kernel, *before, *after));
        }
        let found = (balance.unaccounted(), balance.credited());
        assert_eq!(found, (unaccounted, credited), "{balance:?}");
    }

    #[test]
    fn quiet_is_even() {
        check(&[(5, 5, 5), (5, 5, 5), (9, 9, 9)], 0, 0);
    }

    #[test]
    fn what_happens_during_a_reading_is_no_difference() {
        check(&[(5, 3, 8), (120, 100, 140), (200, 200, 200)], 0, 0);
        check(&[(8, 3, 8), (200, 200, 200)], 0, 0);
        check(&[(3, 3, 8), (200, 200, 200)], 0, 0);
    }

    #[test]
    fn a_reset_that_was_not_seen_is_unaccounted_once_two_readings_say_so() {
        check(&[(0, 0, 0), (1, 0, 0)], 0, 0);
        check(&[(0, 0, 0), (1, 0, 0), (1, 0, 0)], 1, 0);
        check(&[(0, 0, 0), (1, 0, 0), (9, 8, 8), (9, 8, 8)], 1, 0);
        check(&[(0, 0, 0), (7, 0, 0), (9, 0, 0)], 7, 0);
        check(&[(0, 0, 0), (7, 0, 0), (9, 0, 0), (9, 0, 0)], 9, 0);
    }

    #[test]
    fn a_reset_on_its_way_is_no_difference() {
        check(&[(0, 0, 0), (1, 0, 0), (1, 1, 1), (1, 1, 1)], 0, 0);
        check(&[(0, 0, 0), (0, 1, 1), (1, 1, 1), (1, 1, 1)], 0, 0);
        check(&[(0, 0, 0), (1, 0, 0), (1, 2, 2), (2, 2, 2)], 0, 0);
    }

    #[test]
    fn what_went_with_a_namespace_is_credited() {
        check(&[(0, 0, 0), (3, 10, 10), (3, 10, 10)], 0, 7);
        check(&[(0, 0, 0), (3, 10, 10), (13, 20, 20), (13, 20, 20)], 0, 7);
    }

    #[test]
    fn neither_hides_the_other() {
        let gap = [(0, 0, 0), (5, 0, 0), (5, 0, 0)];
        let lost = [(5, 3, 3), (5, 3, 3)];
        check(&[&gap[..], &lost].concat(), 5, 3);
        let more = [(7, 3, 3), (7, 3, 3)];
        check(&[&gap[..], &lost, &more].concat(), 7, 3);
    }

    #[test]
    fn an_incomplete_reading_credits_nothing() {
        let mut balance = Balance::new(0, 0, 0);
        let partial = Reading {
            complete: false,
            ..full(3, 10, 10)
        };
        assert!(balance.is_short(&partial));
        for _ in 0..3 {
            balance.observe(&partial);
        }
        assert_eq!(balance, Balance::new(0, 0, 0));
        // But what it shows is there.
        let above = Reading {
            complete: false,
            ..full(12, 10, 10)
        };
        balance.observe(&above);
        balance.observe(&above);
        assert_eq!(balance.unaccounted(), 2);
    }

    #[test]
    fn ours_is_read_again_only_where_it_matters() {
        let balance = Balance::new(0, 0, 0);
        assert!(!balance.needs_after(&full(5, 5, 5)));
        assert!(!balance.needs_after(&full(5, 6, 6)));
        assert!(balance.needs_after(&full(6, 5, 5)));
    }

    /// One thing that happens between two looks at a counter.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// Counted by both.
        Seen,
        /// Counted by the kernel alone.
        Unseen,
        /// Counted by us alone, for good.
        Lost,
        Read,
        /// A reading with this many resets, seen, before and after the look at
        /// the kernel's.
        ReadAmid(u8, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Seen),
            1 => Just(Step::Unseen),
            1 => Just(Step::Lost),
            2 => Just(Step::Read),
            2 => (0u8..9, 0u8..9).prop_map(|(early, late)| Step::ReadAmid(early, late)),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        /// Never more than there is; and where it is quiet at each reading, the
        /// difference is exactly what was found.
        #[test]
        fn it_tells_the_truth(steps in steps()) {
            let (mut kernel, mut ours, mut unseen, mut lost) = (0u64, 0u64, 0u64, 0u64);
            let mut balance = Balance::new(0, 0, 0);
            for step in steps {
                match step {
                    Step::Seen => (kernel, ours) = (kernel + 1, ours + 1),
                    Step::Unseen => (kernel, unseen) = (kernel + 1, unseen + 1),
                    Step::Lost => (ours, lost) = (ours + 1, lost + 1),
                    Step::Read => balance.observe(&full(kernel, ours, ours)),
                    Step::ReadAmid(early, late) => {
                        let before = ours;
                        let (early, late) = (u64::from(early), u64::from(late));
                        (kernel, ours) = (kernel + early, ours + early);
                        let read = kernel;
                        (kernel, ours) = (kernel + late, ours + late);
                        balance.observe(&full(read, before, ours));
                    }
                }
                prop_assert!(balance.unaccounted() <= unseen);
                prop_assert!(balance.credited() <= lost);
            }
            for _ in 0..3 {
                balance.observe(&full(kernel, ours, ours));
            }
            let found = balance.unaccounted().cast_signed() - balance.credited().cast_signed();
            prop_assert_eq!(found, unseen.cast_signed() - lost.cast_signed());
            prop_assert!(!balance.is_pending());
        }
    }
}
