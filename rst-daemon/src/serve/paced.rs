//! Scrapes that cost little however many ask: those who wait share one, and one begins
//! only when the last has been paid for.

use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::serve::Scrape;

/// A scrape is followed by a rest of so many times what it took: scrapes take a tenth of a
/// CPU at most.
const REST: u32 = 9;

/// Longest rest, for where the machine is so busy that a scrape takes long.
const LONGEST_REST: Duration = Duration::from_millis(250);

/// The metrics, for anybody who asks.
pub struct Paced {
    scrape: Scrape,
    last: Mutex<Option<Last>>,
}

struct Last {
    begun: Instant,
    rested: Instant,
    outcome: Result<Bytes, String>,
}

impl Paced {
    /// Paces this.
    #[must_use]
    pub fn new(scrape: Scrape) -> Self {
        Self {
            scrape,
            last: Mutex::new(None),
        }
    }

    /// Metrics that were read after this was called.
    pub(super) async fn get(&self) -> Result<Bytes, String> {
        let asked = Instant::now();
        // First come, first served.
        let mut last = self.last.lock().await;
        if let Some(last) = &*last {
            if last.begun >= asked {
                return last.outcome.clone();
            }
            sleep_until(last.rested).await;
        }
        let begun = Instant::now();
        let outcome = (self.scrape)().map(Bytes::from);
        let ended = Instant::now();
        let rest = ((ended - begun) * REST).min(LONGEST_REST);
        *last = Some(Last {
            begun,
            rested: ended + rest,
            outcome: outcome.clone(),
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::testing;

    const COST: Duration = Duration::from_millis(5);

    fn counting() -> (Arc<AtomicU32>, Paced) {
        let scrapes = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&scrapes);
        let paced = Paced::new(Arc::new(move || {
            std::thread::sleep(COST);
            Ok(count.fetch_add(1, Ordering::Relaxed).to_string().into())
        }));
        (scrapes, paced)
    }

    #[test]
    fn each_answer_is_newer_than_its_question() {
        testing::run(async {
            let (_, paced) = counting();
            for number in 0..3 {
                assert_eq!(paced.get().await, Ok(number.to_string().into()));
            }
        });
    }

    #[test]
    fn those_who_wait_share_a_scrape() {
        testing::run(async {
            let (scrapes, paced) = counting();
            let paced = Arc::new(paced);
            paced.get().await.unwrap();
            let waiting: Vec<_> = (0..50)
                .map(|_| {
                    let paced = Arc::clone(&paced);
                    tokio::spawn(async move { paced.get().await.unwrap() })
                })
                .collect();
            for task in waiting {
                assert_eq!(task.await.unwrap(), "1");
            }
            assert_eq!(scrapes.load(Ordering::Relaxed), 2);
        });
    }

    #[test]
    fn a_loop_takes_a_tenth_of_the_time() {
        testing::run(async {
            let (scrapes, paced) = counting();
            let started = Instant::now();
            for _ in 0..5 {
                paced.get().await.unwrap();
            }
            assert_eq!(scrapes.load(Ordering::Relaxed), 5);
            assert!(started.elapsed() >= COST * (5 + 4 * REST));
        });
    }
}
