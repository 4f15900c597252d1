//! Reads the output of a child on a thread, and lets tests wait for what it says.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::pace;

/// Longest that a test waits for anything that is not timed by the test itself.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// How often a condition is polled that nobody signals.
const POLL: Duration = Duration::from_millis(1);

/// Polls until `condition` holds.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let (start, patience) = (Instant::now(), pace::patience(DEADLINE));
    while !condition() {
        assert!(
            start.elapsed() < patience,
            "waited {patience:?} in vain: {what}"
        );
        thread::sleep(POLL);
    }
}

/// The lines that a child has written so far, each parsed to a `T`.
#[derive(Debug)]
pub(crate) struct Collected<T> {
    shared: Arc<Shared<T>>,
}

#[derive(Debug)]
struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: Vec<T>,
    ended: bool,
}

impl<T: Send + 'static> Collected<T> {
    /// Starts to read.
    pub(crate) fn start(
        output: impl Read + Send + 'static,
        mut parse: impl FnMut(String) -> T + Send + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                items: Vec::new(),
                ended: false,
            }),
            changed: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { break };
                let item = parse(line);
                writer.lock().items.push(item);
                writer.changed.notify_all();
            }
            writer.lock().ended = true;
            writer.changed.notify_all();
        });
        Self { shared }
    }

    /// Waits until `found` finds what it wants in all items so far; `None` at
    /// the deadline, or at once when the output has ended without it.
    pub(crate) fn wait<R>(
        &self,
        patience: Duration,
        mut found: impl FnMut(&[T]) -> Option<R>,
    ) -> Option<R> {
        let end = Instant::now() + pace::patience(patience);
        let mut state = self.shared.lock();
        loop {
            if let Some(result) = found(&state.items) {
                return Some(result);
            }
            let left = end.saturating_duration_since(Instant::now());
            if state.ended || left.is_zero() {
                return None;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Waits until the output is closed; whether it was in time.
    pub(crate) fn wait_end(&self, patience: Duration) -> bool {
        let end = Instant::now() + pace::patience(patience);
        let mut state = self.shared.lock();
        while !state.ended {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Looks at all items so far.
    pub(crate) fn with<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&self.shared.lock().items)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
