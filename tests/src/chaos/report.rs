//! What a run came to, for machines and for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::compare::Difference;
use super::kinds::Kind;
use super::rotation::Rotation;
use super::scene::SESSION_S;

/// On another worker: the session time-out and so many seconds.
const TAKE_OVER_S: f64 = SESSION_S as f64 + 10.0;
/// In place, seconds.
const IN_PLACE_S: f64 = 5.0;
/// Signals of a run that counts.
const SIGNALS_MIN: u64 = 1_000;

/// One scene, as far as it has come.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SceneReport {
    /// Rotations done.
    pub rotations: Vec<Rotation>,
    /// No more rows will be produced.
    pub fed: bool,
    /// Records and rows produced.
    pub records: u64,
    /// Rows in them.
    pub rows: u64,
    /// Workers that ended by themselves, with their last words.
    pub ended: Vec<String>,
    /// Signals published.
    pub signals: u64,
    /// By kind.
    pub signals_by_kind: BTreeMap<String, u64>,
    /// Records on the late and the rejected topic.
    pub late: u64,
    /// Records on the rejected topic.
    pub rejected: u64,
    /// Marks of silence in the control topic.
    pub silences: u64,
    /// Against the undisturbed run.
    pub undisturbed: Option<Difference>,
    /// Against the backtest.
    pub backtest: Option<Difference>,
    /// Everything has been compared.
    pub done: bool,
}

/// A run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Seed.
    pub seed: u64,
    /// Rotations asked for, those of the scene with marks apart.
    pub rotations: u32,
    /// Only these kinds; all when empty.
    #[serde(default)]
    pub only: Vec<Kind>,
    /// The fault that every worker had.
    #[serde(default)]
    pub planted: Option<String>,
    /// Scenes by name.
    pub scenes: BTreeMap<String, SceneReport>,
    /// Seconds so far, over all continuations.
    pub wall_s: f64,
    /// Continuations.
    pub resumed: u32,
}

/// Times of one kind.
#[derive(Clone, Debug, Default, Serialize)]
pub struct KindReport {
    /// How many.
    pub rotations: u32,
    /// Of which so many count.
    pub counted: u32,
    /// Longest time from the deed to the next commit of the tasks concerned, seconds.
    pub longest_s: Option<f64>,
    /// The middle one.
    pub median_s: Option<f64>,
    /// Longest until all tasks had committed, seconds.
    pub all_longest_s: f64,
}

impl Report {
    /// All rotations.
    fn all(&self) -> impl Iterator<Item = &Rotation> {
        self.scenes.values().flat_map(|s| &s.rotations)
    }

    /// All comparisons.
    fn differences(&self) -> impl Iterator<Item = &Difference> {
        self.scenes.values().flat_map(|s| s.undisturbed.iter().chain(&s.backtest))
    }

    /// Rotations that hit a slice and an epoch.
    fn counted(&self) -> usize {
        self.all().filter(|r| r.not_counted.is_none()).count()
    }

    /// Times by kind.
    pub fn kinds(&self) -> BTreeMap<Kind, KindReport> {
        let mut kinds: BTreeMap<Kind, (KindReport, Vec<f64>)> = BTreeMap::new();
        for rotation in self.all() {
            let (kind, times) = kinds.entry(rotation.kind).or_default();
            kind.rotations += 1;
            kind.counted += u32::from(rotation.not_counted.is_none());
            kind.all_longest_s = kind.all_longest_s.max(rotation.all_s);
            times.extend(rotation.recovery_s);
        }
        kinds
            .into_iter()
            .map(|(name, (mut kind, mut times))| {
                times.sort_by(f64::total_cmp);
                kind.longest_s = times.last().copied();
                kind.median_s = times.get(times.len() / 2).copied();
                (name, kind)
            })
            .collect()
    }

    /// Nothing lost, duplicated or altered, and enough of everything.
    pub fn is_good(&self) -> bool {
        let compared = self.scenes.values().all(|s| s.done && s.backtest.is_some() && s.rejected == 0);
        let signals: u64 = self.scenes.values().map(|s| s.signals).sum();
        let compared = compared && self.counted() >= self.rotations as usize;
        compared && signals >= SIGNALS_MIN && self.differences().all(Difference::is_none)
    }

    /// For machines.
    pub fn json(&self, command: &str, at: &str) -> serde_json::Value {
        let sum = |of: fn(&Difference) -> u64| self.differences().map(of).sum::<u64>();
        let total = |of: fn(&SceneReport) -> u64| self.scenes.values().map(of).sum::<u64>();
        let kinds = self.kinds();
        let longest = |kind: Kind| kinds.get(&kind).and_then(|k| k.longest_s);
        let met =
            |got: Option<f64>, most: f64| serde_json::json!({"longest_s": got, "at_most_s": most, "met": got.map(|g| g <= most)});
        serde_json::json!({
            "command": command,
            "at": at,
            "good": self.is_good(),
            "seed": self.seed,
            "rotations": self.all().count(),
            "counted": self.counted(),
            "not_counted": self.all().filter_map(|r| Some(serde_json::json!({"kind": r.kind, "why": r.not_counted.as_ref()?}))).collect::<Vec<_>>(),
            "kinds": kinds,
            "rows": total(|s| s.rows),
            "records": total(|s| s.records),
            "signals": total(|s| s.signals),
            "lost": sum(|d| d.lost),
            "duplicated": sum(|d| d.duplicated),
            "altered": sum(|d| d.altered + d.invented),
            "reordered": sum(|d| d.reordered),
            "session_timeout_s": SESSION_S,
            "kill_to_commit_on_another_worker": met(longest(Kind::KillAndLeave), TAKE_OVER_S),
            "kill_to_commit_in_place": met(longest(Kind::KillInPlace), IN_PLACE_S),
            "ended_by_themselves": total(|s| s.ended.len() as u64),
            "wall_s": self.wall_s,
            "resumed": self.resumed,
            "scenes": self.scenes,
        })
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let seconds = |s: Option<f64>| s.map_or_else(|| "-".to_owned(), |s| format!("{s:.1}"));
        let mut line = |cells: [&str; 6]| {
            let [name, rest @ ..] = cells;
            let rest: String = rest.iter().map(|c| format!("{c:>11}")).collect();
            // A string takes everything.
            let _written = writeln!(out, "{name:<28}{rest}");
        };
        line(["rotation", "number", "counted", "median s", "longest s", "all, s"]);
        for (kind, k) in self.kinds() {
            let (number, counted) = (k.rotations.to_string(), k.counted.to_string());
            line([
                kind.name(),
                &number,
                &counted,
                &seconds(k.median_s),
                &seconds(k.longest_s),
                &format!("{:.1}", k.all_longest_s),
            ]);
        }
        for (name, s) in &self.scenes {
            let _written = writeln!(
                out,
                "{name}: {} rotations, {} rows, {} signals, {} late, {} rejected, {} marks of silence, {} workers ended by themselves",
                s.rotations.len(),
                s.rows,
                s.signals,
                s.late,
                s.rejected,
                s.silences,
                s.ended.len()
            );
            for (against, d) in [("undisturbed run", &s.undisturbed), ("backtest", &s.backtest)] {
                let Some(d) = d else { continue };
                let _written = writeln!(
                    out,
                    "  against the {against}: lost {}, duplicated {}, altered {}, invented {}, reordered {}",
                    d.lost, d.duplicated, d.altered, d.invented, d.reordered
                );
                for example in &d.examples {
                    let _written = writeln!(out, "    {example}");
                }
            }
        }
        for rotation in self.all().filter(|r| r.not_counted.is_some()) {
            let why = rotation.not_counted.as_deref().unwrap_or_default();
            let _written = writeln!(out, "not counted: {} ({}): {why}", rotation.kind.name(), rotation.what);
        }
        let _written = writeln!(out, "{} in {:.0} s", if self.is_good() { "good" } else { "NOT GOOD" }, self.wall_s);
        out
    }
}
