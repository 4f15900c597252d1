//! Host totals of counters that live and die with their network namespaces.

use super::snmp::{Counter, Values};

/// What all namespaces together have counted since the start, those that are
/// gone included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals(Values);

/// The last reading of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    values: Values,
    /// Whether what it has counted before its first reading matters.
    from_zero: bool,
    /// Resets it has sent since [`Last::settle`].
    pub(super) grown: u64,
}

impl Last {
    /// Of a namespace that has not been read. What it has counted already is
    /// ours to compare where it is new (`from_zero`), not where it was there at
    /// the start.
    pub(super) fn new(from_zero: bool) -> Self {
        Self {
            values: Values::default(),
            from_zero,
            grown: 0,
        }
    }

    /// Starts to count anew what it has grown by.
    pub(super) const fn settle(&mut self) {
        self.grown = 0;
    }
}

impl Totals {
    /// Totals that start with the resets counted already.
    pub(super) fn new(out_resets: u64) -> Self {
        let mut values = Values::default();
        values[Counter::OutResets] = Some(out_resets);
        Self(values)
    }

    /// Adds what a namespace has counted since its last reading; whether that is
    /// anything. A counter that has gone backwards is another's: it has begun at
    /// zero.
    pub(super) fn add(&mut self, last: &mut Last, now: &Values) -> bool {
        let mut moved = false;
        for counter in Counter::ALL {
            let Some(value) = now[counter] else {
                continue;
            };
            let grown = match last.values[counter] {
                Some(before) => value.checked_sub(before).unwrap_or(value),
                None if last.from_zero => value,
                None => 0,
            };
            last.values[counter] = Some(value);
            *self.0[counter].get_or_insert(0) += grown;
            moved |= grown != 0;
            if counter == Counter::OutResets {
                last.grown += grown;
            }
        }
        moved
    }

    /// The totals.
    pub(super) const fn values(&self) -> &Values {
        &self.0
    }

    /// Resets sent.
    pub(super) fn out_resets(&self) -> u64 {
        self.0[Counter::OutResets].unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(out: u64, on_data: u64) -> Values {
        let mut values = Values::default();
        values[Counter::OutResets] = Some(out);
        values[Counter::AbortOnData] = Some(on_data);
        values
    }

    #[test]
    fn what_was_there_at_the_start_does_not_count() {
        let mut totals = Totals::new(2);
        let mut host = Last::new(false);
        assert!(!totals.add(&mut host, &values(1000, 50)));
        assert!(totals.add(&mut host, &values(1003, 50)));
        assert!(totals.add(&mut host, &values(1003, 51)));
        assert_eq!(*totals.values(), values(5, 1));
        assert_eq!(host.grown, 3);
    }

    #[test]
    fn all_of_a_new_namespace_counts_and_stays_when_it_is_gone() {
        let mut totals = Totals::new(0);
        for _ in 0..3 {
            let mut new = Last::new(true);
            assert!(totals.add(&mut new, &values(7, 0)));
            assert!(totals.add(&mut new, &values(9, 0)));
        }
        assert_eq!(totals.out_resets(), 27);
    }

    #[test]
    fn a_counter_that_went_backwards_began_at_zero() {
        let mut totals = Totals::new(0);
        let mut last = Last::new(false);
        totals.add(&mut last, &values(100, 7));
        assert!(totals.add(&mut last, &values(4, 7)));
        assert!(totals.add(&mut last, &values(6, 8)));
        assert_eq!(*totals.values(), values(6, 1));
    }

    #[test]
    fn a_counter_that_is_not_there_has_no_total() {
        let mut totals = Totals::new(0);
        let mut last = Last::new(true);
        totals.add(&mut last, &values(1, 0));
        assert_eq!(totals.values()[Counter::AbortOnMemory], None);
        assert_eq!(totals.values()[Counter::AbortOnData], Some(0));
    }

    #[test]
    fn growth_is_told_since_it_was_settled() {
        let mut totals = Totals::new(0);
        let mut last = Last::new(true);
        totals.add(&mut last, &values(5, 0));
        last.settle();
        totals.add(&mut last, &values(8, 0));
        assert_eq!(last.grown, 3);
    }
}
