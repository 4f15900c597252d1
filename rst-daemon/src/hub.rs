//! Hands what there is to tell to whoever watches at the moment.
//!
//! Bounded: a watcher that falls behind is told how many it missed, and never
//! holds up the probe side or the others.

use tokio::sync::broadcast;

use crate::reset::Told;

/// What is kept for a watcher that is behind.
pub const CAPACITY: usize = 4096;

/// The sending end; clones feed the same watchers.
#[derive(Clone, Debug)]
pub struct Hub {
    sender: broadcast::Sender<Told>,
}

impl Hub {
    /// A hub without watchers.
    #[must_use]
    pub fn new() -> Self {
        Self {
            sender: broadcast::Sender::new(CAPACITY),
        }
    }

    /// Whether anybody watches. Ask before building something for nobody.
    #[must_use]
    pub fn has_subscribers(&self) -> bool {
        self.sender.receiver_count() != 0
    }

    /// Hands it to every watcher; dropped where there is none.
    pub fn publish(&self, told: impl Into<Told>) {
        if self.has_subscribers() {
            // The only error is that the last watcher has just left.
            let _ = self.sender.send(told.into());
        }
    }

    /// All that is published from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.sender.subscribe()
    }
}

impl Default for Hub {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast::error::TryRecvError;

    use super::*;
    use crate::testing;

    #[test]
    fn a_reset_without_watchers_is_dropped() {
        let hub = Hub::new();
        hub.publish(testing::reset());
        assert!(!hub.has_subscribers());
        assert_eq!(hub.subscribe().try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn every_watcher_gets_every_reset() {
        let hub = Hub::new();
        let mut watchers = [hub.subscribe(), hub.subscribe()];
        hub.clone().publish(testing::reset());
        for watcher in &mut watchers {
            assert_eq!(watcher.try_recv().unwrap(), testing::reset().into());
        }
    }

    #[test]
    fn a_watcher_that_is_behind_is_told_how_many_it_missed() {
        let hub = Hub::new();
        let mut watcher = hub.subscribe();
        for _ in 0..CAPACITY + 5 {
            hub.publish(testing::reset());
        }
        assert_eq!(watcher.try_recv(), Err(TryRecvError::Lagged(5)));
        assert!(watcher.try_recv().is_ok());
    }
}
