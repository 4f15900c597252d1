//! The last resets by which something was lost, as the kernel described them: an
//! incident opens when many of its resets are over.

use std::collections::VecDeque;

use rst_common::cause::Impact;
use rst_common::event::Event;

use crate::spike::detector::is_loss;

/// How many are remembered: half a megabyte of them.
const ROOM: usize = 2048;

/// The last ones, numbered as they came.
#[derive(Debug, Default)]
pub struct Recent {
    events: VecDeque<Event>,
    taken: u64,
}

impl Recent {
    /// Remembers an event, if something was lost by it.
    pub fn push(&mut self, event: &Event) {
        if !Impact::from_byte(event.impact).is_some_and(is_loss) {
            return;
        }
        if self.events.len() == ROOM {
            self.events.pop_front();
        }
        self.events.push_back(*event);
        self.taken += 1;
    }

    /// The number of the next one.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Those from a number on that are remembered, each with its own.
    #[must_use]
    pub fn since(&self, number: u64) -> Vec<(u64, Event)> {
        let first = self.taken - self.events.len() as u64;
        let numbered = (first..).zip(self.events.iter().copied());
        numbered.filter(|(at, _)| *at >= number).collect()
    }
}
