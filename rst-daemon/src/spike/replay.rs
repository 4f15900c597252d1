//! Judges the defaults: a week each of made-up counts, and the table of
//! `docs/incidents.md` that comes of it.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use rand_distr::{Distribution as _, Geometric, Poisson};

use super::track::{Connections, Track, Turn};
use super::{Parameters, Rules, STEP};

/// Steps of a week, a day and an hour.
const WEEK: u32 = 7 * DAY;
const DAY: u32 = 24 * HOUR;
const HOUR: u32 = 1800;
const MINUTE: u32 = 30;

/// From one spike to the next, and how long one lasts.
const PERIOD: u32 = DAY / 2;
const LASTS: u32 = 10 * MINUTE;

/// Resets a second on which the rest is built.
const BASES: [f64; 4] = [0.01, 0.1, 1.0, 50.0];

/// What a week looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Quiet,
    Diurnal,
    Clusters,
    Episodes,
    Deploys,
    Traffic,
    Spikes(f64),
    Ramp(u32),
}

const SHAPES: [Shape; 11] = [
    Shape::Quiet,
    Shape::Diurnal,
    Shape::Traffic,
    Shape::Clusters,
    Shape::Episodes,
    Shape::Deploys,
    Shape::Spikes(3.0),
    Shape::Spikes(10.0),
    Shape::Spikes(100.0),
    Shape::Ramp(1),
    Shape::Ramp(6),
];

impl Shape {
    fn is_quiet(self) -> bool {
        match self {
            Self::Quiet | Self::Diurnal | Self::Traffic | Self::Clusters | Self::Episodes => true,
            Self::Deploys | Self::Spikes(_) | Self::Ramp(_) => false,
        }
    }

    fn name(self) -> String {
        match self {
            Self::Quiet => "quiet: a Poisson process".into(),
            Self::Diurnal => "diurnal: from 0.2 to 1.8 times the rate".into(),
            Self::Traffic => "traffic: 20 times the connections within half an hour each morning, 1 % of them lost".into(),
            Self::Clusters => "bursty: in clusters of 10 on average".into(),
            Self::Episodes => "bursty: 5 times the rate for a minute, every quarter of an hour on average".into(),
            Self::Deploys => "deploy every hour: 200 more within 10 s".into(),
            Self::Spikes(times) => format!("spike of {times}x for 10 minutes, twice a day"),
            Self::Ramp(hours) => format!("ramp to 10x within {hours} h, twice a day"),
        }
    }

    /// Whether something is wrong at a step, and since how many steps.
    fn wrong(self, step: u32) -> Option<u32> {
        let since = (step % PERIOD).checked_sub(PERIOD / 2)?;
        let lasts = match self {
            Self::Spikes(_) => LASTS,
            Self::Ramp(hours) => hours * HOUR,
            Self::Quiet
            | Self::Diurnal
            | Self::Traffic
            | Self::Clusters
            | Self::Episodes
            | Self::Deploys => return None,
        };
        (since < lasts).then_some(since)
    }
}

/// A seeded week.
struct Week {
    shape: Shape,
    /// Resets a step.
    base: f64,
    random: SmallRng,
    step: u32,
    episode: bool,
}

impl Week {
    fn new(shape: Shape, base: f64, seed: u64) -> Self {
        Self {
            shape,
            base: base * STEP.as_secs_f64(),
            random: SmallRng::seed_from_u64(seed),
            step: 0,
            episode: false,
        }
    }

    fn poisson(&mut self, mean: f64) -> u32 {
        let count: f64 = Poisson::new(mean).unwrap().sample(&mut self.random);
        whole(count)
    }

    /// Resets and connections of the next step.
    fn next(&mut self) -> (u32, u32) {
        let step = self.step;
        self.step += 1;
        let base = self.base;
        let day = f64::from(step % DAY) / f64::from(DAY);
        let wave = (day * std::f64::consts::TAU).sin();
        let mut connections = 0;
        let resets = match self.shape {
            Shape::Quiet => self.poisson(base),
            Shape::Diurnal => self.poisson(base * (1.0 + 0.8 * wave)),
            Shape::Traffic => {
                // Night until 8, then half an hour from 1 to 20, and back in the evening.
                let times = 1.0 + 19.0 * ((day - 8.0 / 24.0) * 48.0).clamp(0.0, 1.0)
                    - 19.0 * ((day - 20.0 / 24.0) * 48.0).clamp(0.0, 1.0);
                connections = self.poisson(base * 100.0 * times);
                self.poisson(f64::from(connections).max(1e-9) * 0.01)
            }
            Shape::Clusters => {
                let clusters = self.poisson(base / 10.0);
                let size = Geometric::new(0.1).unwrap();
                let sizes = (0..clusters).map(|_| 1 + size.sample(&mut self.random));
                u32::try_from(sizes.sum::<u64>()).unwrap()
            }
            Shape::Episodes => {
                let mean = if self.episode { MINUTE } else { 15 * MINUTE };
                if self.random.random_ratio(1, mean) {
                    self.episode = !self.episode;
                }
                let times = if self.episode { 5.0 } else { 1.0 };
                self.poisson(base * times)
            }
            Shape::Deploys => {
                let deploy = if (step + HOUR / 2) % HOUR < 5 {
                    40.0
                } else {
                    0.0
                };
                self.poisson(base + deploy)
            }
            Shape::Spikes(times) => {
                let times = self.shape.wrong(step).map_or(1.0, |_| times);
                self.poisson(base * times)
            }
            Shape::Ramp(hours) => {
                let since = self.shape.wrong(step).unwrap_or(0);
                let part = f64::from(since) / f64::from(hours * HOUR);
                self.poisson(base * (1.0 + 9.0 * part))
            }
        };
        (resets, connections)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a count of events"
)]
fn whole(count: f64) -> u32 {
    count as u32
}

/// What became of a week.
#[derive(Debug, Default)]
struct Outcome {
    /// Things that were wrong.
    wrong: u32,
    /// Steps until each of those that were told was.
    delays: Vec<u32>,
    /// What was told while nothing was wrong.
    falsely: u32,
}

fn replay(shape: Shape, base: f64, seed: u64) -> Outcome {
    let rules = Rules::new(Parameters::default());
    let mut week = Week::new(shape, base, seed);
    let mut connections = Connections::default();
    let mut track = Track::new(&connections, &rules);
    let mut outcome = Outcome::default();
    let mut told = false;
    for step in 0..WEEK {
        let (resets, made) = week.next();
        connections.push(made, &rules);
        let turn = track.step(resets, &connections, &rules);
        let wrong = shape.wrong(step);
        if wrong == Some(0) {
            outcome.wrong += 1;
            told = false;
        }
        if let Some(Turn::Opened(_)) = turn {
            match wrong {
                Some(since) if !told => {
                    // Read at the end of the step.
                    outcome.delays.push(since + 1);
                    told = true;
                }
                Some(_) => {}
                None => outcome.falsely += 1,
            }
        }
    }
    outcome.delays.sort_unstable();
    outcome
}

fn seconds(steps: u32) -> String {
    let seconds = u64::from(steps) * STEP.as_secs();
    if seconds < 300 {
        format!("{seconds} s")
    } else {
        format!("{} min", seconds / 60)
    }
}

/// Weeks of each shape: of what is bursty two, so that one false alarm in them is less
/// than one a week.
fn seeds(shape: Shape) -> std::ops::RangeInclusive<u64> {
    if matches!(shape, Shape::Clusters | Shape::Episodes) {
        1..=2
    } else {
        1..=1
    }
}

/// All weeks of a shape, by their base.
fn judge(shape: Shape) -> Vec<(f64, Vec<Outcome>)> {
    let weeks = |base| {
        seeds(shape)
            .map(move |seed| replay(shape, base, seed))
            .collect()
    };
    BASES.map(|base| (base, weeks(base))).into()
}

fn row(shape: Shape, base: f64, weeks: &[Outcome]) -> String {
    let falsely: u32 = weeks.iter().map(|week| week.falsely).sum();
    let number = u32::try_from(weeks.len()).unwrap();
    let falsely = f64::from(falsely) / f64::from(number);
    let first = &weeks[0];
    let delay = |at: Option<&u32>| at.map_or("-".to_owned(), |steps| seconds(*steps));
    let found = if first.wrong == 0 {
        "-".to_owned()
    } else {
        format!("{} of {}", first.delays.len(), first.wrong)
    };
    format!(
        "| {} | {base} | {found} | {} | {} | {falsely} |\n",
        shape.name(),
        delay(first.delays.get(first.delays.len() / 2)),
        delay(first.delays.last()),
    )
}

const PAGE: &str = include_str!("../../docs/incidents.md");

/// What stands before the table, and after it.
const TABLE: [&str; 2] = ["<!-- table -->\n", "<!-- end -->\n"];

/// `UPDATE_DOCS=1 cargo test` writes the table anew.
#[test]
fn the_defaults_find_spikes_and_leave_the_rest() {
    // On one thread: other tests have deadlines.
    let judged = SHAPES.map(|shape| (shape, judge(shape)));
    let mut table = String::from(
        "| a week of | resets a second | found | median delay | longest delay | false a week |\n|---|---|---|---|---|---|\n",
    );
    for (shape, weeks) in &judged {
        for (base, weeks) in weeks {
            let row = row(*shape, *base, weeks);
            let falsely: u32 = weeks.iter().map(|week| week.falsely).sum();
            if shape.is_quiet() {
                let weeks = u32::try_from(weeks.len()).unwrap();
                assert!(falsely < weeks, "one a week: {row}");
            }
            if *shape == Shape::Spikes(10.0) {
                let [week] = &weeks[..] else {
                    panic!("{row}");
                };
                assert_eq!(week.delays.len(), 14, "{row}");
                let soon = *base >= 1.0;
                assert!(
                    !soon || week.delays.iter().all(|steps| *steps <= 5),
                    "{row}"
                );
            }
            table.push_str(&row);
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/incidents.md");
    let (before, rest) = PAGE.split_once(TABLE[0]).unwrap();
    let (_, after) = rest.split_once(TABLE[1]).unwrap();
    let page = [before, TABLE[0], &table, TABLE[1], after].concat();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    assert!(
        std::fs::read_to_string(path).unwrap() == page,
        "docs/incidents.md is stale: run UPDATE_DOCS=1 cargo test"
    );
}
