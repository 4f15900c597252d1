//! One count over time: what is usual, and when it is not.

use super::tail::surprise;
use super::{LONGEST, Parameters, Rules, STEP, WINDOWS};

/// Hours of which the worst window is remembered.
const HOURS: usize = 24;

/// Steps of an hour.
const HOUR: u32 = 1800;

/// The hour that shows what is habitual, from the worst one: what was there in so many
/// hours of a day is.
const HABIT: usize = 4;

/// Steps of a spike that are learned as a habit.
const LEARNED: u32 = 150;

/// Counts of the last steps, and of the last windows.
#[derive(Clone, Debug)]
pub struct Recent {
    counts: Box<[u32; LONGEST]>,
    /// Where the next one goes.
    next: usize,
    /// By [`WINDOWS`].
    sums: [u32; WINDOWS.len()],
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            counts: Box::new([0; LONGEST]),
            next: 0,
            sums: [0; WINDOWS.len()],
        }
    }
}

impl Recent {
    /// One step more.
    pub fn push(&mut self, count: u32) {
        for (sum, steps) in self.sums.iter_mut().zip(WINDOWS) {
            let left = self.counts[(self.next + LONGEST - steps) % LONGEST];
            *sum = sum.saturating_sub(left).saturating_add(count);
        }
        self.counts[self.next] = count;
        self.next = (self.next + 1) % LONGEST;
    }

    /// What there was in the last so many steps.
    #[must_use]
    pub fn last(&self, steps: u32) -> u64 {
        let steps = usize::try_from(steps).unwrap_or(LONGEST).min(LONGEST);
        self.backwards().take(steps).map(u64::from).sum()
    }

    /// What there was in the last step.
    fn newest(&self) -> u32 {
        self.counts[(self.next + LONGEST - 1) % LONGEST]
    }

    /// The newest first.
    fn backwards(&self) -> impl Iterator<Item = u32> {
        let (newer, older) = (&self.counts[..self.next], &self.counts[self.next..]);
        newer.iter().rev().chain(older.iter().rev()).copied()
    }
}

/// A sum over an exponentially fading past.
#[derive(Clone, Copy, Debug, Default)]
pub struct Fading(f64);

impl Fading {
    /// One step more.
    pub fn add(&mut self, value: f64, keep: f64) {
        self.0 = self.0 * keep + value;
    }

    /// As it stands.
    #[must_use]
    pub fn sum(self) -> f64 {
        self.0
    }
}

/// What a service's connections say of what is to be expected.
#[derive(Clone, Debug, Default)]
pub struct Connections {
    /// Of the last steps.
    pub recent: Recent,
    /// In the memory of the rate.
    pub fading: Fading,
    /// Steps since the service was first seen.
    pub age: u32,
}

impl Connections {
    /// One step more.
    pub fn push(&mut self, count: u32, rules: &Rules) {
        self.recent.push(count);
        self.fading.add(count.into(), rules.rate_keep);
        self.age = self.age.saturating_add(1);
    }
}

/// The worst windows of the hours of a day.
#[derive(Clone, Copy, Debug, Default)]
struct Habit {
    hours: [u32; HOURS],
    hour: usize,
    step: u32,
    /// The [`HABIT`]-th of them.
    usual: u32,
}

impl Habit {
    fn step(&mut self, count: Option<u32>) {
        if let Some(count) = count {
            self.hours[self.hour] = self.hours[self.hour].max(count);
        }
        self.step += 1;
        if self.step == HOUR {
            let mut hours = self.hours;
            hours.sort_unstable();
            self.usual = hours[HOURS - HABIT];
            self.step = 0;
            self.hour = (self.hour + 1) % HOURS;
            self.hours[self.hour] = 0;
        }
    }
}

/// Weight of the belief that counts are independent of each other, events.
const INDEPENDENT: f64 = 10.0;

/// How far the counts of a window stray from what was expected.
#[derive(Clone, Copy, Debug, Default)]
struct Spread {
    squares: f64,
    events: f64,
}

impl Spread {
    fn learn(&mut self, count: f64, mean: f64) {
        self.squares += (count - mean) * (count - mean);
        self.events += count;
    }

    /// Variance over mean; 1 for a Poisson process.
    fn dispersion(&self) -> f64 {
        ((self.squares + INDEPENDENT) / (self.events + INDEPENDENT)).max(1.0)
    }
}

/// What is known of a count: sums over a past that fades.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    events: f64,
    steps: f64,
    connections: f64,
    spread: [Spread; WINDOWS.len()],
}

impl Past {
    /// Adds what has come since, and lets what was there before fade as much.
    fn add(&mut self, new: &Self, rules: &Rules) {
        let keep = rules.rate_keep.powf(new.steps);
        self.events = self.events * keep + new.events;
        self.steps = self.steps * keep + new.steps;
        self.connections = self.connections * keep + new.connections;
        let keep = rules.spread_keep.powf(new.steps);
        for (spread, new) in self.spread.iter_mut().zip(new.spread) {
            spread.squares = spread.squares * keep + new.squares;
            spread.events = spread.events * keep + new.events;
        }
    }
}

/// Steps that are learned together, at first and at most: what may be the beginning of
/// a spike is not learned yet.
const FIRST_LESSON: f64 = 5.0;
const LESSON: f64 = 150.0;

/// What has been learned of a count.
#[derive(Clone, Debug)]
pub struct Track {
    recent: Recent,
    past: Past,
    /// What has not been learned yet.
    lesson: Past,
    habit: [Habit; WINDOWS.len()],
    spike: Option<Spike>,
}

/// A spike that is going on.
#[derive(Clone, Copy, Debug)]
struct Spike {
    /// Which of [`WINDOWS`] has shown it.
    window: usize,
    steps: u32,
    calm: u32,
}

/// What a step brings.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Turn {
    /// A spike begins.
    Opened(Opening),
    /// It is over.
    Closed {
        /// Steps since it was last seen.
        calm: u32,
        /// It has not ended, but is what is usual now.
        usual: bool,
    },
}

/// How a spike shows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Opening {
    /// Steps since it has begun, this one included.
    pub steps: u32,
    /// Resets in them.
    pub resets: u64,
    /// Resets to be expected in a step.
    pub usual: f64,
}

impl Track {
    /// A count that has been 0 since the service was first seen.
    #[must_use]
    pub fn new(of: &Connections, rules: &Rules) -> Self {
        // The sum of as many steps that fade.
        let faded = 1.0 - rules.rate_keep.powf(of.age.into());
        Self {
            recent: Recent::default(),
            past: Past {
                steps: faded / (1.0 - rules.rate_keep),
                connections: of.fading.sum(),
                ..Past::default()
            },
            lesson: Past::default(),
            habit: [Habit::default(); WINDOWS.len()],
            spike: None,
        }
    }

    /// One step more: so many resets; the service's connections stand at this step
    /// already.
    pub fn step(&mut self, resets: u32, of: &Connections, rules: &Rules) -> Option<Turn> {
        self.recent.push(resets);
        match self.spike {
            None => self.quiet(resets, of, rules),
            Some(spike) => self.open(spike, of, rules),
        }
    }

    /// A step without a spike so far.
    fn quiet(&mut self, resets: u32, of: &Connections, rules: &Rules) -> Option<Turn> {
        if of.age > rules.warmup {
            let shown = (0..WINDOWS.len()).find(|window| self.is_spike(*window, of, rules));
            if let Some(window) = shown {
                self.spike = Some(Spike {
                    window,
                    steps: 0,
                    calm: 0,
                });
                self.lesson = Past::default();
                let mean = self.expected(window, of, rules);
                // A spike teaches little, however large it is.
                let learned = (4.0 * mean).max(rules.parameters.min_resets.into());
                let sum = f64::from(self.recent.sums[window]);
                self.past.spread[window].learn(sum.min(learned), mean);
                self.remember(true);
                return Some(Turn::Opened(self.opening(window, mean)));
            }
        }
        self.remember(true);
        let lesson = &mut self.lesson;
        lesson.events += f64::from(resets);
        lesson.steps += 1.0;
        lesson.connections += f64::from(of.recent.newest());
        // Once for each of the shortest windows.
        if self.recent.next.is_multiple_of(WINDOWS[0]) {
            for window in 0..WINDOWS.len() {
                let mean = self.expected(window, of, rules);
                let sum = self.recent.sums[window].into();
                self.lesson.spread[window].learn(sum, mean);
            }
        }
        if self.lesson.steps >= LESSON.min(self.past.steps.max(FIRST_LESSON)) {
            let lesson = std::mem::take(&mut self.lesson);
            self.past.add(&lesson, rules);
        }
        None
    }

    /// A step of a spike.
    fn open(&mut self, mut spike: Spike, of: &Connections, rules: &Rules) -> Option<Turn> {
        spike.steps += 1;
        self.remember(spike.steps < LEARNED);
        let sum = self.recent.sums[spike.window];
        let mean = self.expected(spike.window, of, rules);
        let goes_on = sum >= rules.parameters.min_resets.div_ceil(2)
            && surprise(sum, mean, self.variance(spike.window, mean, of, rules))
                >= rules.parameters.stay_nats;
        spike.calm = if goes_on { 0 } else { spike.calm + 1 };
        self.spike = Some(spike);
        let usual = spike.steps >= rules.longest;
        if spike.calm < rules.calm && !usual {
            return None;
        }
        self.spike = None;
        if usual {
            // What there is now is where learning begins anew.
            self.past.events = self.recent.sums[WINDOWS.len() - 1].into();
            self.past.steps = LESSON;
            self.past.connections = of.recent.sums[WINDOWS.len() - 1].into();
        } else {
            // What was the spike's is not looked at again.
            self.recent = Recent::default();
        }
        Some(Turn::Closed {
            calm: spike.calm,
            usual,
        })
    }

    fn remember(&mut self, learn: bool) {
        for (habit, sum) in self.habit.iter_mut().zip(self.recent.sums) {
            habit.step(learn.then_some(sum));
        }
    }

    /// How many resets there should be in a window. The half stands for what has not
    /// been seen yet.
    fn expected(&self, window: usize, of: &Connections, rules: &Rules) -> f64 {
        let steps = f64::from(u16::try_from(WINDOWS[window]).unwrap_or(u16::MAX));
        let by_time = (self.past.events + 0.5) / self.past.steps.max(1.0) * steps;
        let connections = f64::from(of.recent.sums[window]);
        let by_connections = self.past.events / self.past.connections.max(1.0) * connections;
        by_time
            .max(by_connections)
            .max(rules.parameters.share * connections)
    }

    fn variance(&self, window: usize, mean: f64, of: &Connections, rules: &Rules) -> f64 {
        let Parameters {
            variation,
            young_variation,
            rate_memory,
            ..
        } = rules.parameters;
        let age = f64::from(of.age) * STEP.as_secs_f64() / rate_memory.as_secs_f64();
        let unsure = (variation + young_variation * (-age).exp()) * mean;
        self.past.spread[window].dispersion() * mean + unsure * unsure
    }

    fn is_spike(&self, window: usize, of: &Connections, rules: &Rules) -> bool {
        let sum = self.recent.sums[window];
        let Parameters {
            min_resets,
            habit_margin,
            open_nats,
            ..
        } = rules.parameters;
        if sum < min_resets || f64::from(sum) <= habit_margin * f64::from(self.habit[window].usual)
        {
            return false;
        }
        let mean = self.expected(window, of, rules);
        surprise(sum, mean, self.variance(window, mean, of, rules)) >= open_nats
    }

    /// Since when: the first step of the window that is above what is usual.
    fn opening(&self, window: usize, mean: f64) -> Opening {
        let steps = WINDOWS[window];
        let usual = mean / f64::from(u16::try_from(steps).unwrap_or(u16::MAX));
        let above = self
            .recent
            .backwards()
            .take(steps)
            .map(|count| f64::from(count) > 2.0 * usual);
        let first = above.enumerate().filter(|(_, above)| *above).last();
        let steps = first.map_or(0, |(back, _)| back) + 1;
        let steps = u32::try_from(steps).unwrap_or(u32::MAX);
        Opening {
            steps,
            resets: self.recent.last(steps),
            usual,
        }
    }
}
