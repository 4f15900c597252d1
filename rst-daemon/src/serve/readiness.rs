//! Whether the daemon does its work yet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Not ready until set, and no more once the probes are gone. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// A latch that is not set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets it: the probes are attached.
    pub fn set_ready(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Takes it back: the probes are detached.
    pub fn set_blind(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it is set.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_the_latch() {
        let latch = Readiness::new();
        let clone = latch.clone();
        assert!(!clone.is_ready());
        latch.set_ready();
        assert!(clone.is_ready());
        clone.set_blind();
        assert!(!latch.is_ready());
    }
}
