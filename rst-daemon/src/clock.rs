//! The kernel's clocks in terms of ours: jiffies and CLOCK_MONOTONIC.

use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};

/// Timer ticks a second, CONFIG_HZ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hz(u32);

const SECOND_NS: u64 = 1_000_000_000;

/// The values that Kconfig offers (kernel/Kconfig.hz, 7.2), also on architectures with
/// choices of their own (arch/*/Kconfig).
const CHOICES: &[u32] = if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
    &[100, 250, 300, 1000]
} else {
    &[24, 48, 64, 100, 128, 200, 250, 256, 300, 500, 1000, 1024]
};

/// How much nearer the right choice must be than the next one, jiffies: `jiffies` may
/// lag behind where a processor was held up.
const CLEARLY: u128 = 40;

impl Hz {
    /// HZ from one reading of both clocks. `jiffies` starts 300 seconds before
    /// its lower half wraps (`INITIAL_JIFFIES`, include/linux/jiffies.h) and
    /// then counts HZ a second of CLOCK_MONOTONIC, so only one choice fits.
    /// `None` around the wrap, where every choice does.
    #[must_use]
    pub fn of((ktime_ns, jiffies): (u64, u64)) -> Option<Self> {
        let distance = |hz: u32| {
            let start = (1u64 << 32) - 300 * u64::from(hz);
            let ticks = u128::from(ktime_ns) * u128::from(hz) / u128::from(SECOND_NS);
            (u128::from(start) + ticks).abs_diff(u128::from(jiffies))
        };
        let mut choices: Vec<(u128, u32)> = CHOICES.iter().map(|hz| (distance(*hz), *hz)).collect();
        choices.sort_unstable();
        let [(nearest, hz), (next, _), ..] = choices[..] else {
            return None;
        };
        (next >= 4 * nearest + CLEARLY).then_some(Self(hz))
    }

    /// HZ as counted between two readings some seconds apart: for a kernel with an HZ that
    /// is none of the choices, and around the wrap.
    #[must_use]
    pub fn between(first: (u64, u64), second: (u64, u64)) -> Option<Self> {
        let ns = second.0.checked_sub(first.0)?;
        let ticks = u128::from(second.1.checked_sub(first.1)?) * u128::from(SECOND_NS);
        let hz = (ticks + u128::from(ns / 2)).checked_div(ns.into())?;
        u32::try_from(hz).ok().filter(|hz| *hz > 0).map(Self)
    }

    /// Jiffies of a number of milliseconds, rounded up; capped at what the
    /// kernel's 32-bit clocks can tell.
    #[must_use]
    pub fn jiffies(self, milliseconds: u32) -> u32 {
        let jiffies = (u64::from(milliseconds) * u64::from(self.0)).div_ceil(1000);
        u32::try_from(jiffies).unwrap_or(u32::MAX)
    }

    /// Microseconds of a jiffy.
    #[must_use]
    pub fn jiffy_us(self) -> u32 {
        1_000_000 / self.0
    }

    /// Milliseconds of a number of jiffies.
    #[must_use]
    pub fn milliseconds(self, jiffies: u32) -> u64 {
        u64::from(jiffies) * 1000 / u64::from(self.0)
    }
}

/// The difference between wall clock and CLOCK_MONOTONIC at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    offset_ns: i128,
}

impl WallClock {
    /// Reads both clocks now. Taken anew for each round of events, so that a
    /// stepped clock shows at once.
    #[must_use]
    pub fn now() -> Self {
        let ns = |clock| {
            let time = clock_gettime(clock);
            i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec)
        };
        Self::from_offset(ns(ClockId::Realtime) - ns(ClockId::Monotonic))
    }

    /// A clock that is `offset_ns` ahead of CLOCK_MONOTONIC.
    #[must_use]
    pub fn from_offset(offset_ns: i128) -> Self {
        Self { offset_ns }
    }

    /// Wall-clock time of a CLOCK_MONOTONIC reading. Outside the years that
    /// `Timestamp` covers, the nearest it covers.
    #[must_use]
    pub fn at(self, ktime_ns: u64) -> Timestamp {
        let ns = self.offset_ns + i128::from(ktime_ns);
        Timestamp::from_nanosecond(ns).unwrap_or(if ns < 0 {
            Timestamp::MIN
        } else {
            Timestamp::MAX
        })
    }
}

#[cfg(test)]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "of times"
)]
mod tests {
    use super::*;

    /// The clocks of a kernel so long after its start, seconds, whose jiffies lag so far
    /// behind, seconds too.
    fn clocks(hz: u32, uptime: f64, lag: f64) -> (u64, u64) {
        let ticks = ((uptime - lag).max(0.0) * f64::from(hz)) as u64;
        let start = (1u64 << 32) - 300 * u64::from(hz);
        ((uptime * 1e9) as u64, start + ticks)
    }

    #[test]
    fn hz_follows_from_one_reading() {
        for hz in CHOICES {
            for uptime in [0.0, 1.0, 60.0, 293.0, 307.0, 86_400.0, 1000.0 * 86_400.0] {
                let (ktime, jiffies) = clocks(*hz, uptime, 1.0 / f64::from(*hz));
                assert_eq!(Hz::of((ktime, jiffies)), Some(Hz(*hz)), "after {uptime} s");
            }
        }
    }

    #[test]
    fn around_the_wrap_no_choice_is_better_than_another() {
        assert_eq!(Hz::of((300 * SECOND_NS, 1 << 32)), None);
    }

    /// Where a processor was held up near the wrap, another choice may fit better: no
    /// answer is given then, and never a wrong one.
    #[test]
    fn jiffies_that_lag_mislead_nobody() {
        for hz in CHOICES {
            for tenths in 2900..3100 {
                for lag in [0.0, 0.01, 0.03, 0.1] {
                    let (ktime, jiffies) = clocks(*hz, f64::from(tenths) / 10.0, lag);
                    let told = Hz::of((ktime, jiffies));
                    assert!(told.is_none_or(|told| told == Hz(*hz)), "{hz}: {told:?}");
                }
            }
        }
    }

    /// Some kernels are built with others than Kconfig's.
    #[test]
    fn any_hz_can_be_counted() {
        for hz in [100, 250, 500, 600, 750, 2000] {
            for uptime in [1.0, 295.0, 1e6] {
                let (first, second) = (clocks(hz, uptime, 0.0), clocks(hz, uptime + 10.0, 0.0));
                assert_eq!(Hz::between(first, second), Some(Hz(hz)));
                if !CHOICES.contains(&hz) && uptime > 1000.0 {
                    assert_eq!(Hz::of(first), None);
                }
            }
        }
        let still = clocks(250, 5.0, 0.0);
        assert_eq!(Hz::between(still, still), None);
        assert_eq!(Hz::between(still, (still.0 + SECOND_NS, still.1)), None);
    }

    #[test]
    fn jiffies_become_milliseconds() {
        assert_eq!(Hz(250).milliseconds(250), 1000);
        assert_eq!(Hz(250).jiffies(1000), 250);
        assert_eq!(Hz(100).jiffies(1), 1);
        assert_eq!(Hz(1024).jiffies(u32::MAX), u32::MAX);
        assert_eq!(Hz(1000).milliseconds(u32::MAX), 4_294_967_295);
    }

    #[test]
    fn monotonic_time_becomes_wall_clock_time() {
        let clock = WallClock::from_offset(1_795_225_402_000_000_000);
        assert_eq!(
            clock.at(123_456_789).to_string(),
            "2026-11-21T01:43:22.123456789Z"
        );
        assert_eq!(WallClock::from_offset(i128::MAX / 2).at(0), Timestamp::MAX);
    }
}
