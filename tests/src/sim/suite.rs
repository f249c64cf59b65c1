//! Many seeds, and the controls: runs them on a few threads, each world on one of them, and gathers what came of it.
//!
//! What always holds: the result does not depend on the number of threads; a failing seed comes with the shortest list of
//! accidents that still fails.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::check::Reference;
use super::controls::Control;
use super::office::{ARRANGEMENTS, Arrangement};
use super::plan::{Accident, plan};
use super::report::{ControlLine, Failure, Report};
use super::world::{self, Options, Outcome, told};
use crate::scenario::{Signals, without_raw};

/// Seeds in which a control must be found.
pub const CONTROL_SEEDS: u64 = 200;

/// Runs that shortening a failing history may take.
const SHRINK_RUNS_MAX: usize = 150;

/// Lines of history shown of a failure.
const TOLD_LINES: usize = 60;

/// What undisturbed runs give, by arrangement; each is made when it is first asked for.
#[derive(Debug, Default)]
pub struct References {
    control: Option<Control>,
    made: [OnceLock<Result<Arc<Reference>, String>>; ARRANGEMENTS as usize],
    plain: OnceLock<Result<Signals, String>>,
}

impl References {
    /// With a planted bug, or without.
    pub fn new(control: Option<Control>) -> Self {
        Self { control, ..Self::default() }
    }

    fn made(&self, arrangement: Arrangement) -> Result<Arc<Reference>, String> {
        let make = || world::undisturbed(arrangement, self.control).map(Arc::new).map_err(|e| e.to_string());
        self.made[arrangement.0 as usize].get_or_init(make).clone()
    }

    /// That of an arrangement. Its signals must be those of every other arrangement but for where their rows lay.
    pub fn of(&self, arrangement: Arrangement) -> Result<Arc<Reference>, String> {
        let reference = self.made(arrangement)?;
        let plain = self.plain.get_or_init(|| self.made(Arrangement(0)).map(|r| without_raw(&r.signals)));
        let plain = plain.as_ref().map_err(Clone::clone)?;
        let own = without_raw(&reference.signals);
        if own != *plain {
            let differs =
                plain.iter().flat_map(|(t, all)| all.iter().zip(own.get(t).into_iter().flatten())).find(|(a, b)| a != b);
            return Err(format!("arrangements {} and 0 of the same rows give other signals: {differs:#?}", arrangement.0));
        }
        Ok(reference)
    }
}

/// One seed with its plan, or with some accidents of it.
pub fn one(seed: u64, accidents: Vec<Accident>, references: &References) -> anyhow::Result<Outcome> {
    let reference = references.of(Arrangement::of(seed)).map_err(|e| anyhow::anyhow!("{e}"))?;
    world::run(Options { seed, accidents, control: references.control, reference: Some(reference) })
}

/// The seeds from `start` on. `said` is called after each, for progress.
pub fn seeds(start: u64, count: u64, threads: usize, said: impl Fn(&Outcome) + Sync) -> anyhow::Result<Report> {
    let references = References::new(None);
    let next = AtomicU64::new(start);
    let report = Mutex::new(Report::new(start, count));
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start + count {
                        return;
                    }
                    match one(seed, plan(seed), &references) {
                        Ok(outcome) => {
                            said(&outcome);
                            report.lock().unwrap_or_else(PoisonError::into_inner).add(&outcome);
                        }
                        Err(e) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                            return;
                        }
                    }
                }
            });
        }
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    Ok(report.into_inner().unwrap_or_else(PoisonError::into_inner))
}

/// The failure of a seed, its accidents made as few as still fail.
pub fn explain(seed: u64, shrink: bool) -> anyhow::Result<Option<Failure>> {
    let references = References::new(None);
    let all = plan(seed);
    let outcome = one(seed, all.clone(), &references)?;
    let Some(broken) = outcome.broken.clone() else { return Ok(None) };
    let mut kept: Vec<usize> = (0..all.len()).collect();
    let mut last = outcome;
    let mut runs = 0;
    let mut shorter = shrink;
    while shorter {
        shorter = false;
        for n in (0..kept.len()).rev() {
            if runs >= SHRINK_RUNS_MAX {
                break;
            }
            runs += 1;
            let fewer: Vec<usize> = kept.iter().copied().filter(|i| *i != kept[n]).collect();
            let outcome = one(seed, fewer.iter().map(|i| all[*i]).collect(), &references)?;
            if outcome.broken.is_some() {
                kept = fewer;
                last = outcome;
                shorter = true;
                break;
            }
        }
    }
    Ok(Some(Failure {
        seed,
        broken: last.broken.clone().unwrap_or(broken),
        accidents: kept.iter().map(|i| format!("{i:>3} {}", all[*i])).collect(),
        command: format!(
            "cargo run --release -p tidewatch-tests --bin simulate -- --seed {seed} --faults {}",
            kept.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
        ),
        history: told(&last.history, TOLD_LINES),
    }))
}

/// Looks for a planted bug.
pub fn control(control: Control, start: u64, threads: usize) -> ControlLine {
    let references = References::new(Some(control));
    let next = AtomicU64::new(start);
    let stop = AtomicBool::new(false);
    let found: Mutex<BTreeMap<u64, String>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= start + CONTROL_SEEDS {
                        return;
                    }
                    let broken = match one(seed, plan(seed), &references) {
                        Ok(outcome) => outcome.broken,
                        // Undisturbed runs that differ by arrangement, or break, have found it already.
                        Err(e) => Some(e.to_string()),
                    };
                    if let Some(broken) = broken {
                        found.lock().unwrap_or_else(PoisonError::into_inner).insert(seed, broken);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner).pop_first();
    ControlLine { name: control.name(), after: found.as_ref().map(|(seed, _)| seed - start + 1), broken: found.map(|(_, b)| b) }
}
