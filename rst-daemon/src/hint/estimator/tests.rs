//! The estimator against simulated resets; every stream has its seed.

use super::*;

/// A SplitMix64 stream: small, seeded, good enough to simulate with.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// From 1 s to an hour, every second of it as likely.
    fn uniform(&mut self) -> u64 {
        1_000 + self.below(3_599_000)
    }

    /// From 1 s to about 17 minutes, every doubling as likely.
    fn doubling(&mut self) -> u64 {
        let base = 1_000 << self.below(10);
        base + self.below(base)
    }
}

fn key(port: u16) -> Key {
    Key {
        workload: Some("nginx.service".to_owned()),
        role: Role::Client,
        peer: IpAddr::from([10, 0, 1, 10]),
        port,
    }
}

fn reset(cause: Cause, gap_ms: u64) -> Observation {
    Observation {
        cause,
        gap_ms,
        segment_ms: Some(gap_ms),
        keepalive_on: false,
        keepalive_ms: Some(7_200_000),
    }
}

/// Below all gaps here.
const SHORTEST_MS: u64 = 1000;

fn run(cause: Cause, gaps: impl IntoIterator<Item = u64>) -> Vec<Finding> {
    let mut estimator = Estimator::new(SHORTEST_MS);
    gaps.into_iter()
        .filter_map(|gap| estimator.observe(key(443), reset(cause, gap)))
        .collect()
}

const EXACT: [Cause; 4] = [
    Cause::IdleTimeout,
    Cause::NoResponse,
    Cause::PeerClosed,
    Cause::LateData,
];

/// How many streams a simulation runs.
const STREAMS: u64 = 200;

/// Streams of 200 resets in which something was found.
fn false_findings(cause: Cause, gap: impl Fn(&mut Random) -> u64) -> usize {
    (0..STREAMS)
        .filter(|&seed| {
            let mut random = Random(seed);
            let gaps: Vec<u64> = (0..200).map(|_| gap(&mut random)).collect();
            !run(cause, gaps).is_empty()
        })
        .count()
}

#[test]
fn noise_shows_nothing() {
    assert_eq!(false_findings(Cause::IdleTimeout, Random::uniform), 0);
    // Short gaps lie denser, so that five of the first ten meet now and then:
    // in 2 of 10,000 streams; of the uniform ones in none.
    let doubling = false_findings(Cause::IdleTimeout, Random::doubling);
    assert!(doubling <= 2, "{doubling} of {STREAMS}");
}

#[test]
fn noise_of_reuse_shows_no_common_gap() {
    for seed in 0..STREAMS {
        let mut random = Random(seed);
        let gaps: Vec<u64> = (0..200).map(|_| random.uniform()).collect();
        for finding in run(Cause::StaleReuse, gaps) {
            assert!(finding.at_least, "{seed}: {finding}");
        }
    }
}

#[test]
fn a_timer_among_outliers_is_found() {
    for seed in 0..STREAMS {
        let mut random = Random(seed);
        let gaps: Vec<u64> = (0..200)
            .map(|_| {
                if random.below(10) < 3 {
                    random.uniform()
                } else {
                    59_950 + random.below(120)
                }
            })
            .collect();
        let findings = run(Cause::IdleTimeout, gaps);
        let first = findings.first().unwrap();
        assert!((59_950..60_070).contains(&first.gap_ms), "{seed}: {first}");
        assert!(
            first.to_string().contains("after 60.0 s of silence")
                || first.to_string().contains("after 60.1 s of silence")
        );
        // Said once, and once more with ten times the count.
        assert!(findings.len() <= 2, "{seed}: {findings:?}");
        for finding in &findings {
            assert!(finding.to_string().contains("AWS ALB"), "{finding}");
        }
    }
}

#[test]
fn two_timers_are_both_found() {
    for seed in 0..STREAMS {
        let mut random = Random(seed);
        let gaps: Vec<u64> = (0..100)
            .map(|_| {
                let timer = if random.below(2) == 0 {
                    60_000
                } else {
                    350_000
                };
                timer + random.below(100)
            })
            .collect();
        let findings = run(Cause::StaleReuse, gaps);
        for (gap, name) in [(60_000, "AWS ALB"), (350_000, "AWS NLB")] {
            let same: Vec<&Finding> = findings
                .iter()
                .filter(|finding| !finding.at_least && finding.gap_ms / 100 * 100 == gap)
                .collect();
            assert!(!same.is_empty(), "{seed}: {findings:?}");
            assert!(same.len() <= 2, "{seed}: {findings:?}");
            assert!(same[0].to_string().contains(name), "{seed}: {findings:?}");
        }
    }
}

#[test]
fn five_are_needed_and_half_of_all() {
    for cause in EXACT {
        assert_eq!(run(cause, [60_000; 4]), []);
        let findings = run(cause, [60_000, 60_010, 60_020, 60_030, 60_040]);
        assert_eq!(findings.len(), 1);
        assert_eq!((findings[0].count, findings[0].gap_ms), (5, 60_020));
        let scattered = (1..=6).map(|step| step * step * 100_000);
        assert_eq!(run(cause, scattered.chain([60_000; 5])), []);
    }
}

#[test]
fn a_connection_in_use_has_no_timer() {
    assert_eq!(run(Cause::LateData, [SHORTEST_MS - 1; 20]), []);
    assert_eq!(run(Cause::LateData, [SHORTEST_MS; 20]).len(), 1);
}

#[test]
fn told_again_as_the_count_has_grown_tenfold() {
    let counts: Vec<u64> = run(Cause::IdleTimeout, [60_000; 600])
        .iter()
        .map(|finding| finding.count)
        .collect();
    assert_eq!(counts, [5, 50, 500]);
}

#[test]
fn told_again_as_the_gap_changes() {
    let gaps = [[60_000; 64], [120_000; 64]].concat();
    let told: Vec<u64> = run(Cause::IdleTimeout, gaps)
        .iter()
        .filter(|finding| finding.count < 50)
        .map(|finding| finding.gap_ms)
        .collect();
    assert_eq!(told, [60_000, 120_000]);
    // A change within the tolerance is none.
    let gaps = [[60_000; 20], [60_900; 20]].concat();
    assert_eq!(run(Cause::IdleTimeout, gaps).len(), 1);
}

#[test]
fn spread_reuse_gives_a_lower_end() {
    // Used again at any time after a timer of 300 s; one stray.
    let gaps = (0..20).map(|step| 310_000 + step * step * 20_000);
    let findings = run(Cause::StaleReuse, [2_000].into_iter().chain(gaps.clone()));
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(
        findings[0].to_string(),
        "9 resets of connections to 10.0.1.10:443 after at least 310.0 s of silence: \
         a timer on the way is no longer than that; keep-alive is off on these sockets; \
         set it below 310.0 s"
    );
    // Where the gap is exact, a lower end says nothing.
    for cause in EXACT {
        assert_eq!(run(cause, gaps.clone()), []);
    }
}

#[test]
fn clustered_reuse_takes_its_lowest_but_one() {
    let findings = run(Cause::StaleReuse, [60_900, 60_012, 60_400, 59_990, 60_020]);
    assert_eq!(findings[0].gap_ms, 60_012);
    assert!(!findings[0].at_least);
}

#[test]
fn our_own_keepalive_and_other_causes_are_left_out() {
    let mut estimator = Estimator::new(SHORTEST_MS);
    for _ in 0..20 {
        for cause in [Cause::StaleProbe, Cause::PeerAbort, Cause::PeerGaveUp] {
            assert_eq!(estimator.observe(key(443), reset(cause, 60_000)), None);
        }
        let mut probed = reset(Cause::IdleTimeout, 60_100);
        probed.keepalive_on = true;
        probed.keepalive_ms = Some(60_000);
        assert_eq!(estimator.observe(key(443), probed), None);
    }
    assert!(estimator.services.is_empty());
    // Off, its time means nothing.
    let mut off = reset(Cause::IdleTimeout, 60_100);
    off.keepalive_ms = Some(60_000);
    let found = (0..5).filter_map(|_| estimator.observe(key(443), off));
    assert_eq!(found.count(), 1);
}

#[test]
fn keepalive_is_told_as_it_was() {
    let told = |on: [bool; 5]| {
        let mut estimator = Estimator::new(SHORTEST_MS);
        let found = on.into_iter().filter_map(|keepalive_on| {
            let seen = reset(Cause::IdleTimeout, 240_000);
            estimator.observe(
                key(443),
                Observation {
                    keepalive_on,
                    ..seen
                },
            )
        });
        found.last().unwrap().keepalive
    };
    assert_eq!(told([false; 5]), KeepAlive::Off);
    assert_eq!(told([true, false, true, true, true]), KeepAlive::Mixed);
    let time_ms = Some(7_200_000);
    assert_eq!(told([true; 5]), KeepAlive::On { time_ms });
}

#[test]
fn services_and_causes_are_kept_apart() {
    let mut estimator = Estimator::new(SHORTEST_MS);
    for port in 1..=4 {
        for cause in EXACT {
            assert_eq!(estimator.observe(key(port), reset(cause, 60_000)), None);
        }
    }
    assert_eq!(estimator.services.len(), 16);
}

#[test]
fn memory_is_bounded_and_the_longest_unheard_of_goes_first() {
    let mut estimator = Estimator::new(SHORTEST_MS);
    let seen = reset(Cause::IdleTimeout, 60_000);
    for _ in 0..4 {
        estimator.observe(key(0), seen);
        estimator.observe(key(1), seen);
    }
    for port in 2..=1023 {
        estimator.observe(key(port), seen);
    }
    // Heard of again: now the other of the two is the oldest.
    assert!(estimator.observe(key(0), seen).is_some());
    for port in 1024..5000 {
        estimator.observe(key(port), seen);
        estimator.observe(key(0), seen);
        assert_eq!(estimator.services.len(), KEYS);
        assert_eq!(estimator.order.len(), KEYS);
    }
    assert_eq!(estimator.observe(key(1), seen), None, "it was forgotten");
    let mut random = Random(1);
    for _ in 0..10_000 {
        let gap = random.doubling();
        estimator.observe(key(0), reset(Cause::StaleReuse, gap));
    }
    for service in estimator.services.values() {
        assert!(service.recent.len() <= RECENT);
        assert!(service.told.len() <= TOLD);
    }
}
