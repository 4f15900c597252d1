//! When resets are more than usual: a test on the exact counts, with hysteresis.
//!
//! Pure. A [`Detector`] is fed with all counts each [`STEP`] and tells which spikes
//! begin and end. For each service (workload, role and port) and each cause, a
//! [`track::Track`] looks at the last 10 seconds, minute and five minutes:
//!
//! - What is to be expected is the larger of three: the rate of the last hours, as
//!   large a share of the service's connections as in that time, and one in a
//!   thousand of its connections. More resets because of more connections are no spike.
//! - How far counts stray is learned over a day (the index of dispersion, at least that
//!   of a Poisson process) on top of a rate that is never known better than to a fifth.
//!   Both make a negative binomial distribution ([`tail`]).
//! - A spike opens when so many resets have a probability of less than one in a million,
//!   are at least [`Parameters::min_resets`], and are half as many again as in the
//!   fourth worst hour of the last day: what happens every few hours is a habit.
//! - It closes when the count has been usual for [`Parameters::calm`].
//! - What comes during a spike is not learned, but for its first five minutes as a habit.

pub mod detector;
#[cfg(test)]
mod replay;
pub mod tail;
pub mod track;

use std::time::Duration;

pub use detector::{Change, Detector, Key, Reading, Service};

/// Time between two readings of the counts.
pub const STEP: Duration = Duration::from_secs(2);

/// Steps of the windows that are looked at: 10 s for what is violent, a minute, and
/// five minutes for what is slow.
pub const WINDOWS: [usize; 3] = [5, 30, 150];

/// The longest of [`WINDOWS`].
pub const LONGEST: usize = WINDOWS[WINDOWS.len() - 1];

/// All that can be turned. The defaults are judged in `docs/incidents.md`; those that
/// an operator may want otherwise are settings of the daemon.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parameters {
    /// Fewest resets in a window that can be a spike. Setting `incident_min_resets`.
    pub min_resets: u32,
    /// Time after the start, and after a service is first seen, in which there is no
    /// spike. Setting `incident_warmup_seconds`.
    pub warmup: Duration,
    /// Time without a spike after which it is over. Setting `incident_close_seconds`.
    pub calm: Duration,
    /// A spike opens above this surprise, nats: `exp(-14)` is 8 in 10 million.
    pub open_nats: f64,
    /// It goes on while the surprise is above this, nats: `exp(-4)` is 2 %.
    pub stay_nats: f64,
    /// Memory of the rate.
    pub rate_memory: Duration,
    /// Memory of how far counts stray from it.
    pub spread_memory: Duration,
    /// How far the true rate may always be from the learned one: its standard deviation
    /// over its mean.
    pub variation: f64,
    /// How much more that is at the start; it falls off with the memory of the rate.
    pub young_variation: f64,
    /// Share of a service's connections that may always be lost.
    pub share: f64,
    /// How many times what is habitual a spike has to be.
    pub habit_margin: f64,
    /// A spike that has lasted so long is the new usual.
    pub longest: Duration,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            min_resets: 10,
            warmup: Duration::from_secs(300),
            calm: Duration::from_secs(120),
            open_nats: 14.0,
            stay_nats: 4.0,
            rate_memory: Duration::from_secs(3 * 3600),
            spread_memory: Duration::from_secs(86_400),
            variation: 0.2,
            young_variation: 0.4,
            share: 0.001,
            habit_margin: 1.5,
            longest: Duration::from_secs(86_400),
        }
    }
}

/// [`Parameters`] in steps.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    parameters: Parameters,
    warmup: u32,
    calm: u32,
    longest: u32,
    /// What is left of the rate's memory after a step.
    rate_keep: f64,
    /// Likewise of the spread's.
    spread_keep: f64,
}

impl Rules {
    /// The rules that these parameters make.
    #[must_use]
    pub fn new(parameters: Parameters) -> Self {
        let keep = |memory: Duration| (-STEP.as_secs_f64() / memory.as_secs_f64()).exp();
        Self {
            parameters,
            warmup: steps(parameters.warmup),
            calm: steps(parameters.calm),
            longest: steps(parameters.longest),
            rate_keep: keep(parameters.rate_memory),
            spread_keep: keep(parameters.spread_memory),
        }
    }
}

/// How many steps a time takes, rounded up; at least one.
#[must_use]
pub fn steps(time: Duration) -> u32 {
    let steps = time.as_millis().div_ceil(STEP.as_millis());
    u32::try_from(steps).unwrap_or(u32::MAX).max(1)
}
