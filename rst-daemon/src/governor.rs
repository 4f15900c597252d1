//! What rst may cost this host, and what it gives up to stay within that: detail
//! first, then what is optional. The counts of resets are never given up.

use std::fmt;
use std::time::Duration;

/// How often the cost is looked at.
pub const PERIOD: Duration = Duration::from_secs(5);

/// Periods above the budget after which more is given up.
const PATIENCE: u32 = 2;

/// Periods well below it after which something is taken up again: a minute.
const RELIEF: u32 = 12;

/// Periods within it after which that is tried: ten minutes.
const TRIAL: u32 = 120;

/// The budget.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// CPU time a second, of the daemon and of its programs in the kernel.
    pub cpu: f64,
    /// Resident memory, bytes.
    pub memory: u64,
}

/// What rst has cost in a period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cost {
    /// CPU time a second of the daemon.
    pub daemon: f64,
    /// CPU time a second of the programs in the kernel, as far as it is measured.
    pub programs: f64,
    /// Resident memory, bytes.
    pub memory: u64,
}

/// What is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shed {
    /// Nothing.
    #[default]
    Nothing,
    /// Nine of ten details.
    MostDetail,
    /// All detail.
    Detail,
    /// All detail, and the optional probes.
    OptionalProbes,
}

impl Shed {
    const ALL: [Self; 4] = [
        Self::Nothing,
        Self::MostDetail,
        Self::Detail,
        Self::OptionalProbes,
    ];

    /// How far that is: 0 is nothing.
    #[must_use]
    pub const fn level(self) -> u8 {
        self as u8
    }

    /// The details a second that are left of so many.
    #[must_use]
    pub const fn details(self, configured: u32) -> u32 {
        match self {
            Self::Nothing => configured,
            Self::MostDetail => configured / 10,
            Self::Detail | Self::OptionalProbes => 0,
        }
    }

    fn neighbour(self, step: i8) -> Option<Self> {
        let level = usize::from(self.level()).checked_add_signed(step.into())?;
        Self::ALL.get(level).copied()
    }
}

impl fmt::Display for Shed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Nothing => "nothing is left out any more",
            Self::MostDetail => "nine of ten resets are only counted, not described",
            Self::Detail => "resets are only counted, not described",
            Self::OptionalProbes => {
                "resets are only counted, not described, and the optional probes are off"
            }
        })
    }
}

/// A decision, for the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// What is given up from now on.
    pub shed: Shed,
    /// What led to it.
    pub cost: Cost,
    limits: Limits,
}

impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shed, cost, limits } = self;
        write!(
            out,
            "rst takes {:.1} % of a CPU ({:.1} % in the kernel) of {:.1} % and {} MB of {} MB: {shed}; the counts stay exact",
            100.0 * (cost.daemon + cost.programs),
            100.0 * cost.programs,
            100.0 * limits.cpu,
            cost.memory >> 20,
            limits.memory >> 20,
        )
    }
}

/// Watches the cost.
#[derive(Debug)]
pub struct Governor {
    limits: Limits,
    shed: Shed,
    over: u32,
    below: u32,
    within: u32,
}

impl Governor {
    /// Gives nothing up yet.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            shed: Shed::Nothing,
            over: 0,
            below: 0,
            within: 0,
        }
    }

    /// Goes by another budget from now on.
    pub fn limit(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes the cost of one period in; a change where there is one.
    pub fn judge(&mut self, cost: Cost) -> Option<Change> {
        let Limits { cpu, memory } = self.limits;
        let time = cost.daemon + cost.programs;
        let over = time > cpu || cost.memory > memory;
        let below = time < cpu / 2.0 && cost.memory <= memory;
        self.over = if over { self.over + 1 } else { 0 };
        self.below = if below { self.below + 1 } else { 0 };
        self.within = if over { 0 } else { self.within + 1 };
        let step = if self.over >= PATIENCE {
            1
        } else if self.below >= RELIEF || self.within >= TRIAL {
            -1
        } else {
            return None;
        };
        (self.over, self.below, self.within) = (0, 0, 0);
        self.shed = self.shed.neighbour(step)?;
        Some(Change {
            shed: self.shed,
            cost,
            limits: self.limits,
        })
    }

    /// What is given up now.
    #[must_use]
    pub const fn shed(&self) -> Shed {
        self.shed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        cpu: 0.1,
        memory: 64 << 20,
    };

    fn cost(cpu: f64, memory: u64) -> Cost {
        Cost {
            daemon: cpu / 2.0,
            programs: cpu / 2.0,
            memory: memory << 20,
        }
    }

    /// What is given up after each of so many periods at this cost.
    fn levels(governor: &mut Governor, periods: u32, cost: Cost) -> Vec<u8> {
        let level = |_| {
            governor.judge(cost);
            governor.shed().level()
        };
        (0..periods).map(level).collect()
    }

    #[test]
    fn what_stays_too_dear_is_given_up_step_by_step() {
        for dear in [cost(0.11, 10), cost(0.01, 65)] {
            let mut governor = Governor::new(LIMITS);
            assert_eq!(
                levels(&mut governor, 8, dear),
                [0, 1, 1, 2, 2, 3, 3, 3],
                "{dear:?}"
            );
        }
    }

    #[test]
    fn a_peak_is_nothing() {
        let mut governor = Governor::new(LIMITS);
        for _ in 0..10 {
            assert_eq!(governor.judge(cost(0.5, 10)), None);
            assert_eq!(governor.judge(cost(0.09, 10)), None);
        }
    }

    #[test]
    fn what_has_become_cheap_is_taken_up_again() {
        let mut governor = Governor::new(LIMITS);
        levels(&mut governor, 4, cost(0.2, 10));
        // Later where it may be too dear at once.
        let slow = levels(&mut governor, TRIAL, cost(0.07, 10));
        assert_eq!((slow[118], slow[119]), (2, 1));
        levels(&mut governor, 2, cost(0.2, 10));
        let relief = levels(&mut governor, 3 * RELIEF, cost(0.01, 10));
        assert_eq!(
            (relief[10], relief[11], relief[23], relief[35]),
            (2, 1, 0, 0)
        );
    }

    #[test]
    fn a_change_says_why() {
        let mut governor = Governor::new(LIMITS);
        governor.judge(cost(0.3, 20));
        let change = governor.judge(cost(0.3, 20)).unwrap();
        assert_eq!(
            change.to_string(),
            "rst takes 30.0 % of a CPU (15.0 % in the kernel) of 10.0 % and 20 MB of 64 MB: nine \
             of ten resets are only counted, not described; the counts stay exact"
        );
    }

    #[test]
    fn details_shrink_with_the_level() {
        assert_eq!(Shed::ALL.map(|shed| shed.details(2000)), [2000, 200, 0, 0]);
    }
}
