//! What a run of the simulation says of itself: as JSON for machines, as a table for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::{Value, json};

use super::fate::Step;
use super::plan::crash_points;
use super::world::Outcome;

/// A seed counts with at least so many crashes, rebalances and signals.
pub const CRASHES_MIN: usize = 3;
/// See [`CRASHES_MIN`].
pub const REBALANCES_MIN: u64 = 1;
/// See [`CRASHES_MIN`].
pub const SIGNALS_MIN: u64 = 50;
/// So many seeds hit every crash point, or the run shows less than it says.
pub const POINTS_SEEDS_MIN: u64 = 1000;

/// A crash point: a step, and whether it was done.
pub type Point = (Step, bool);

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Seed.
    pub seed: u64,
    /// What broke.
    pub broken: String,
    /// The accidents that are left.
    pub accidents: Vec<String>,
    /// The command that repeats it.
    pub command: String,
    /// The last lines.
    pub history: String,
}

/// What became of a control.
#[derive(Clone, Debug)]
pub struct ControlLine {
    /// The bug.
    pub name: &'static str,
    /// Found in the how-manieth seed; `None` = not found.
    pub after: Option<u64>,
    /// As what it showed.
    pub broken: Option<String>,
}

/// Gathered over seeds.
#[derive(Clone, Debug, Default)]
pub struct Report {
    start: u64,
    count: u64,
    /// Seeds that passed.
    pub passed: u64,
    /// Of those, seeds that count.
    pub counted: u64,
    /// Seeds that broke a promise, and which.
    pub failed: BTreeMap<u64, String>,
    /// Crashes by point.
    pub points: BTreeMap<Point, u64>,
    /// Two crashes of one world, one after the other.
    pub pairs: BTreeMap<(Point, Point), u64>,
    /// Digest of each seed's history.
    pub histories: BTreeMap<u64, u64>,
    crashes: u64,
    rebalances: u64,
    signals: u64,
    compared: u64,
    steps: u64,
    longest: (u64, u64),
    simulated_ns: i64,
    /// Real time, s.
    pub took_s: f64,
    /// Controls.
    pub controls: Vec<ControlLine>,
}

fn name(point: &Point) -> String {
    format!("{} {}", if point.1 { "after" } else { "before" }, point.0)
}

impl Report {
    /// Of so many seeds from one on.
    pub fn new(start: u64, count: u64) -> Self {
        Self { start, count, ..Self::default() }
    }

    /// Adds a seed.
    pub fn add(&mut self, outcome: &Outcome) {
        let history = &outcome.history;
        if let Some(broken) = &outcome.broken {
            self.failed.insert(outcome.seed, broken.clone());
        } else {
            self.passed += 1;
            let counts =
                history.crashes.len() >= CRASHES_MIN && outcome.rebalances >= REBALANCES_MIN && outcome.signals >= SIGNALS_MIN;
            self.counted += u64::from(counts);
        }
        for point in &history.crashes {
            *self.points.entry(*point).or_default() += 1;
        }
        for pair in history.crashes.windows(2) {
            *self.pairs.entry((pair[0], pair[1])).or_default() += 1;
        }
        self.histories.insert(outcome.seed, history.digest);
        self.crashes += history.crashes.len() as u64;
        self.rebalances += outcome.rebalances;
        self.signals += outcome.signals;
        self.compared += outcome.compared;
        self.steps += history.count;
        self.longest = self.longest.max((history.count, outcome.seed));
        self.simulated_ns += outcome.took_ns;
    }

    /// Points at which nothing ever crashed.
    pub fn missed(&self) -> Vec<String> {
        crash_points().filter(|p| !self.points.contains_key(p)).map(|p| name(&p)).collect()
    }

    /// Controls that were not found.
    pub fn not_found(&self) -> Vec<&'static str> {
        self.controls.iter().filter(|c| c.after.is_none()).map(|c| c.name).collect()
    }

    /// Enough happened for the result to mean something: nineteen of twenty worlds count, and many worlds hit every crash point.
    pub fn is_enough(&self) -> bool {
        let many = self.count >= POINTS_SEEDS_MIN;
        let few = self.count < 20;
        (few || self.counted * 20 >= self.count * 19) && (!many || self.missed().is_empty())
    }

    /// For machines.
    pub fn json(&self) -> Value {
        let points: BTreeMap<String, u64> =
            crash_points().map(|p| (name(&p), self.points.get(&p).copied().unwrap_or(0))).collect();
        let control = |c: &ControlLine| json!({"bug": c.name, "found_in_seed": c.after, "as": c.broken});
        json!({
            "start": self.start,
            "seeds": self.count,
            "passed": self.passed,
            "counted": self.counted,
            "counts_with": {"crashes": CRASHES_MIN, "rebalances": REBALANCES_MIN, "signals": SIGNALS_MIN},
            "failed": self.failed,
            "crashes": self.crashes,
            "rebalances": self.rebalances,
            "signals": self.signals,
            "digests_compared": self.compared,
            "steps": self.steps,
            "longest": {"seed": self.longest.1, "steps": self.longest.0},
            "simulated_s": self.simulated_ns / 1_000_000_000,
            "took_s": (self.took_s * 10.0).round() / 10.0,
            "crash_points": points,
            "crash_points_missed": self.missed(),
            "crash_pairs": self.pairs.len(),
            "crash_pairs_possible": crash_points().count().pow(2),
            "controls": self.controls.iter().map(control).collect::<Vec<_>>(),
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| out.push_str(&(text + "\n"));
        if self.count > 0 {
            line(format!("seeds      {} from {} on: {} passed, {} counted", self.count, self.start, self.passed, self.counted));
            line(format!(
                "worlds     {} crashes, {} moves of partitions, {} signals",
                self.crashes, self.rebalances, self.signals
            ));
            line(format!("checked    {} states and output hashes against undisturbed runs", self.compared));
            line(format!(
                "length     {} steps, {} s simulated in {:.1} s; longest: seed {} with {} steps",
                self.steps,
                self.simulated_ns / 1_000_000_000,
                self.took_s,
                self.longest.1,
                self.longest.0
            ));
            let possible = crash_points().count();
            line(format!(
                "crashes at {} of {possible} points, {} of {} pairs",
                possible - self.missed().len(),
                self.pairs.len(),
                possible.pow(2)
            ));
        }
        for step in Step::ALL {
            let at = |after| self.points.get(&(*step, after)).copied().unwrap_or(0);
            if self.count > 0 && crash_points().any(|(s, _)| s == *step) {
                let _ = writeln!(out, "  {:<26} before {:>5}  after {:>5}", step.name(), at(false), at(true));
            }
        }
        for c in &self.controls {
            let found = c.after.map_or("NOT FOUND".to_owned(), |n| format!("found in seed {n}"));
            let _ = writeln!(out, "control    {:<48} {found}", c.name);
            if let Some(broken) = &c.broken {
                let first = broken.lines().next().unwrap_or_default();
                let _ = writeln!(out, "           {}", first.chars().take(160).collect::<String>());
            }
        }
        out
    }
}
