//! A map with room for so many cgroups; the ones longest unasked for go first.

use std::collections::{BTreeMap, HashMap};

/// Values by cgroup id.
#[derive(Debug)]
pub(super) struct Recent<V> {
    capacity: usize,
    values: HashMap<u64, (u64, V)>,
    /// Ids by when they were last asked for, the longest ago first.
    order: BTreeMap<u64, u64>,
    /// Uses so far; it tells earlier from later.
    turn: u64,
}

impl<V> Recent<V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self {
            capacity,
            values: HashMap::new(),
            order: BTreeMap::new(),
            turn: 0,
        }
    }

    pub(super) fn get(&mut self, id: u64) -> Option<&V> {
        let (used, value) = self.values.get_mut(&id)?;
        self.turn += 1;
        self.order.remove(used);
        self.order.insert(self.turn, id);
        *used = self.turn;
        Some(value)
    }

    pub(super) fn insert(&mut self, id: u64, value: V) {
        self.turn += 1;
        self.order.insert(self.turn, id);
        if let Some((used, _)) = self.values.insert(id, (self.turn, value)) {
            self.order.remove(&used);
        }
        if self.values.len() > self.capacity
            && let Some((_, forgotten)) = self.order.pop_first()
        {
            self.values.remove(&forgotten);
        }
    }

    /// Takes a new value in only where none has to go for it.
    pub(super) fn insert_if_room(&mut self, id: u64, value: V) {
        if self.values.len() < self.capacity && !self.values.contains_key(&id) {
            self.insert(id, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_unused_goes_first() {
        let mut recent = Recent::new(2);
        recent.insert(1, "one");
        recent.insert(2, "two");
        assert_eq!(recent.get(1), Some(&"one"));
        recent.insert(3, "three");
        assert_eq!(recent.get(2), None);
        assert_eq!(recent.get(1), Some(&"one"));
        assert_eq!(recent.get(3), Some(&"three"));
    }

    #[test]
    fn a_value_is_replaced() {
        let mut recent = Recent::new(2);
        recent.insert(1, "one");
        recent.insert(2, "two");
        recent.insert(1, "uno");
        assert_eq!(recent.get(1), Some(&"uno"));
        assert_eq!(recent.get(2), Some(&"two"));
    }

    #[test]
    fn what_needs_room_waits() {
        let mut recent = Recent::new(2);
        recent.insert_if_room(1, "one");
        recent.insert_if_room(1, "uno");
        recent.insert_if_room(2, "two");
        recent.insert_if_room(3, "three");
        assert_eq!(recent.get(1), Some(&"one"));
        assert_eq!(recent.get(3), None);
    }

    #[test]
    fn it_never_grows_beyond_its_capacity() {
        let mut recent = Recent::new(64);
        for id in 0..10_000 {
            recent.insert(id % 200, id);
            recent.get(id % 7);
            assert!(recent.values.len() <= 64);
            assert_eq!(recent.order.len(), recent.values.len());
        }
    }
}
