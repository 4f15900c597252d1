//! Rounds: every subject once in each, in an order that moves on.

use anyhow::Result;

use super::interrupt;

/// Measures each of `count` subjects in each round; results by subject, then by round.
pub(super) fn run<T>(
    rounds: usize,
    count: usize,
    mut measure: impl FnMut(usize) -> Result<T>,
) -> Result<Vec<Vec<T>>> {
    let mut results: Vec<Vec<T>> = (0..count).map(|_| Vec::with_capacity(rounds)).collect();
    for round in 0..rounds {
        eprint!("  round {} of {rounds} ", round + 1);
        for subject in order(round, count) {
            interrupt::check()?;
            results[subject].push(measure(subject)?);
            eprint!(".");
        }
        eprintln!();
    }
    interrupt::check()?;
    Ok(results)
}

fn order(round: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

#[cfg(test)]
mod tests {
    use super::{order, run};

    #[test]
    fn the_order_moves_on() {
        assert_eq!(order(0, 3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(order(1, 3).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(order(5, 3).collect::<Vec<_>>(), [2, 0, 1]);
    }

    #[test]
    fn results_are_sorted_by_subject() {
        let mut calls = 0;
        let results = run(2, 2, |subject| {
            calls += 1;
            Ok((subject, calls))
        });
        assert_eq!(results.unwrap(), [[(0, 1), (0, 4)], [(1, 2), (1, 3)]]);
    }

    #[test]
    fn a_failure_ends_it() {
        let results = run(2, 2, |subject| {
            anyhow::ensure!(subject == 0, "no");
            Ok(())
        });
        assert!(results.is_err());
    }
}
