//! The most frequent of many, in little memory.

/// Counters of a [`Sketch`].
const ROOM: usize = 32;

/// Space-saving (Metwally, Agrawal, El Abbadi, "Efficient Computation of Frequent and
/// Top-k Elements in Data Streams", 2005): what has more than one part in [`ROOM`] of
/// all is in it, and no count is too low.
#[derive(Clone, Debug)]
pub struct Sketch<T> {
    counters: Vec<Counter<T>>,
}

/// How often something was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter<T> {
    /// What.
    pub of: T,
    /// So often at most.
    pub count: u64,
    /// So often less at least.
    pub error: u64,
}

impl<T> Default for Sketch<T> {
    fn default() -> Self {
        Self {
            counters: Vec::new(),
        }
    }
}

impl<T: Clone + PartialEq> Sketch<T> {
    /// Seen once more.
    pub fn see(&mut self, of: T) {
        if let Some(known) = self.counters.iter_mut().find(|counter| counter.of == of) {
            known.count += 1;
        } else if self.counters.len() < ROOM {
            self.counters.push(Counter {
                of,
                count: 1,
                error: 0,
            });
        } else if let Some(least) = self.counters.iter_mut().min_by_key(|it| it.count) {
            *least = Counter {
                of,
                count: least.count + 1,
                error: least.count,
            };
        }
    }

    /// The most frequent, the most first.
    #[must_use]
    pub fn top(&self, number: usize) -> Vec<Counter<T>> {
        let mut counters = self.counters.clone();
        counters.sort_by_key(|counter| std::cmp::Reverse(counter.count - counter.error));
        counters.truncate(number);
        counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_counted_exactly() {
        let mut sketch = Sketch::default();
        for of in [1, 2, 1, 3, 1, 2] {
            sketch.see(of);
        }
        let counters = [(1, 3), (2, 2)].map(|(of, count)| Counter {
            of,
            count,
            error: 0,
        });
        assert_eq!(sketch.top(2), counters);
    }

    #[test]
    fn a_frequent_one_is_found_among_very_many() {
        let mut sketch = Sketch::default();
        for other in 0..10_000 {
            sketch.see(other);
            if other % 4 == 0 {
                sketch.see(-1);
            }
        }
        assert_eq!(sketch.counters.len(), ROOM);
        let [first] = sketch.top(1)[..] else {
            panic!("nothing");
        };
        assert_eq!(first.of, -1);
        assert!(
            first.count >= 2500 && first.count - first.error <= 2500,
            "{first:?}"
        );
    }
}
