//! How unlikely a count is.

/// Minus the logarithm of the probability of so many events or more, nats, for a
/// negative binomial distribution with this mean and variance; `variance` above `mean`,
/// and both above 0. Never more than the truth: the tail is bounded by the geometric
/// series of its first term.
///
/// With `k = mean^2 / (variance - mean)` and `q = mean / (mean + k)` the probability of
/// `x` is `G(x + k) / (G(k) x!) (1 - q)^k q^x`, and the ratio of one to the one before
/// tends to `q`.
#[must_use]
pub fn surprise(count: u32, mean: f64, variance: f64) -> f64 {
    let x = f64::from(count);
    if x <= mean {
        return 0.0;
    }
    let k = mean * mean / (variance - mean);
    let q = mean / (mean + k);
    let term = libm::lgamma(x + k) - libm::lgamma(k) - libm::lgamma(x + 1.0)
        + k * (k / (mean + k)).ln()
        + x * q.ln();
    // It falls with x where k > 1, and rises to q else; below 1 above the mean.
    let ratio = ((x + k) / (x + 1.0) * q).max(q);
    (-(term - (1.0 - ratio).ln())).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Summed term by term.
    fn exact(count: u32, mean: f64, variance: f64) -> f64 {
        let k = mean * mean / (variance - mean);
        let q = mean / (mean + k);
        let (mut term, mut below) = ((k * (1.0 - q).ln()).exp(), 0.0);
        for x in 0..count {
            below += term;
            term *= (f64::from(x) + k) / (f64::from(x) + 1.0) * q;
        }
        let (mut tail, mut x) = (0.0, f64::from(count));
        while term > tail * 1e-15 || tail == 0.0 {
            tail += term;
            term *= (x + k) / (x + 1.0) * q;
            x += 1.0;
        }
        assert!((below + tail - 1.0).abs() < 1e-9, "{below} + {tail}");
        -tail.ln()
    }

    #[test]
    fn it_is_the_tail_of_the_distribution_and_never_says_more() {
        for (mean, variance) in [
            (0.1, 0.11),
            (1.0, 1.04),
            (3.0, 30.0),
            (50.0, 150.0),
            (50.0, 2000.0),
        ] {
            for times in [3, 5, 10, 20] {
                let count = (mean * f64::from(times)).ceil();
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "small and above 0"
                )]
                let count = count as u32;
                let (told, truth) = (
                    surprise(count, mean, variance),
                    exact(count, mean, variance),
                );
                assert!(told <= truth + 1e-6, "{count} of {mean}: {told} > {truth}");
                assert!(told > truth - 1.5, "{count} of {mean}: {told} << {truth}");
            }
        }
    }

    #[test]
    fn what_is_expected_is_no_surprise() {
        assert!(surprise(5, 5.0, 6.0).abs() < f64::EPSILON);
        assert!(surprise(0, 0.1, 0.2).abs() < f64::EPSILON);
        assert!(surprise(6, 5.0, 6.0) < 1.0);
    }

    #[test]
    fn storms_stay_numbers() {
        let surprise = surprise(u32::MAX, 1e-3, 1.1e-3);
        assert!(surprise.is_finite() && surprise > 1e9, "{surprise}");
    }
}
