//! Finds the gaps that many resets share.

use std::ops::RangeInclusive;

use super::timers;

/// Resets that a shared gap needs at least: four at one place among a few
/// happen by chance.
const MIN_MEMBERS: usize = 5;

/// Gaps so close that one timer explains them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    /// The gaps the timer explains, milliseconds.
    pub(super) range: RangeInclusive<u64>,
    /// How many there are.
    pub(super) members: usize,
    /// The one in the middle, milliseconds.
    pub(super) median_ms: u64,
    /// The smallest but one, as one stray proves nothing, milliseconds.
    pub(super) low_ms: u64,
}

/// The gaps that stand out among these, which are sorted: one that holds half
/// of them, or two that hold three quarters together, the second half of what
/// the first leaves. Two timers on one way are common (a balancer's and the
/// server's behind it), three are not.
pub(super) fn clusters(sorted: &[u64]) -> Vec<Cluster> {
    let Some((first, inside)) = densest(sorted) else {
        return Vec::new();
    };
    let rest = [&sorted[..inside.start], &sorted[inside.end..]].concat();
    let second = densest(&rest)
        .map(|(second, _)| second)
        .filter(|second| second.members * 2 >= rest.len())
        .filter(|second| (first.members + second.members) * 4 >= sorted.len() * 3);
    match second {
        Some(second) => vec![first, second],
        None if first.members * 2 >= sorted.len() => vec![first],
        None => Vec::new(),
    }
}

/// Where one timer explains the most gaps, and which those are.
fn densest(sorted: &[u64]) -> Option<(Cluster, std::ops::Range<usize>)> {
    let (mut best, mut end) = (0..0, 0);
    for (start, &lowest) in sorted.iter().enumerate() {
        while sorted
            .get(end)
            .is_some_and(|gap| range_from(lowest).contains(gap))
        {
            end += 1;
        }
        if end - start > best.len() {
            best = start..end;
        }
    }
    let members = &sorted[best.clone()];
    if members.len() < MIN_MEMBERS {
        return None;
    }
    let cluster = Cluster {
        range: range_from(members[0]),
        members: members.len(),
        median_ms: members[members.len() / 2],
        low_ms: members[1],
    };
    Some((cluster, best))
}

/// What a timer explains whose earliest gap is this one.
fn range_from(lowest: u64) -> RangeInclusive<u64> {
    let window = timers::window(lowest);
    lowest..=lowest.saturating_add(window.end() - window.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(gaps: &[u64]) -> Vec<(u64, usize)> {
        let mut sorted = gaps.to_vec();
        sorted.sort_unstable();
        clusters(&sorted)
            .into_iter()
            .map(|cluster| (cluster.median_ms, cluster.members))
            .collect()
    }

    #[test]
    fn four_are_too_few() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[60_000; 4]), []);
        assert_eq!(found(&[60_000; 5]), [(60_000, 5)]);
    }

    #[test]
    fn half_of_all_is_enough_and_less_is_not() {
        let spread = |count: u64| (1..=count).map(|step| 100_000 * step * step);
        let with = |count| [[60_000; 6].to_vec(), spread(count).collect()].concat();
        assert_eq!(found(&with(6)), [(60_000, 6)]);
        assert_eq!(found(&with(7)), []);
    }

    #[test]
    fn two_gaps_stand_beside_each_other() {
        let mut gaps = [[60_000; 10], [350_000; 10]].concat();
        assert_eq!(found(&gaps), [(60_000, 10), (350_000, 10)]);
        gaps.extend([5_000, 9_000, 17_000, 33_000, 129_000]);
        assert_eq!(found(&gaps), [(60_000, 10), (350_000, 10)]);
        // Neither half alone nor three quarters together.
        gaps.extend([1_000, 3_000, 250_000, 513_000, 1_025_000, 2_049_000]);
        assert_eq!(found(&gaps), []);
    }

    #[test]
    fn five_that_meet_by_chance_are_not_the_second() {
        let mut gaps = vec![60_000; 40];
        gaps.extend([1_600_000; 5]);
        gaps.extend((1..=8).map(|step| 3_000 * step * step));
        assert_eq!(found(&gaps), [(60_000, 40)]);
    }

    #[test]
    fn a_timer_later_than_another_does_not_hide_it() {
        assert_eq!(
            found(&[[600_000; 6], [640_000; 6]].concat()),
            [(600_000, 6), (640_000, 6)]
        );
    }

    #[test]
    fn one_stray_does_not_make_the_lowest() {
        let cluster = &clusters(&[59_700, 60_001, 60_002, 60_003, 60_004])[0];
        assert_eq!((cluster.low_ms, cluster.median_ms), (60_001, 60_002));
        assert!(cluster.range.contains(&61_000));
        assert!(!cluster.range.contains(&62_000));
    }
}
