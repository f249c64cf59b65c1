//! Runs fuzz targets on the stable toolchain: seeded mutations of good inputs, with every allocation counted. Not
//! coverage-guided: that is what cargo-fuzz is for. `TIDEWATCH_FUZZ_RUNS` sets how many inputs each target gets,
//! `TIDEWATCH_FUZZ_SEED` where the stream begins, `TIDEWATCH_FUZZ_TARGETS` which targets run (names, comma between them).
//! Shared by the smoke tests of the workspace (by path), so it holds no target itself.
#![allow(clippy::disallowed_methods, reason = "how often to run comes from the environment; the test ends at a time")]
// Each test binary uses a part of it.
#![allow(dead_code)]

pub mod allocator;
mod mutate;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use allocator::Peak;
use mutate::Random;
use tidewatch_schemas::fuzz::{INPUT_BYTES_MAX, Target};

/// Inputs a target, when the environment says nothing.
pub const RUNS: u64 = 3_000;

/// Targets that run at once.
const THREADS: usize = 2;

/// What was found.
pub struct Found {
    pub run: u64,
    pub input: Vec<u8>,
    pub what: String,
}

/// What a target did.
pub struct Stats {
    pub execs: u64,
    pub peak_bytes: usize,
}

/// Runs every target, two at a time, and panics with what was found.
pub fn run_all(targets: &[Target]) {
    let runs = number("TIDEWATCH_FUZZ_RUNS", RUNS);
    let seed = number("TIDEWATCH_FUZZ_SEED", 1);
    let only = std::env::var("TIDEWATCH_FUZZ_TARGETS").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only.split(',').any(|n| n == name);
    let targets: Vec<&Target> = targets.iter().filter(|t| wanted(t.name)).collect();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
            let from = Instant::now();
            match fuzz(target, runs, seed) {
                Ok(stats) => eprintln!(
                    "{}: {} executions in {:.1} s, heap at most {} KiB",
                    target.name,
                    stats.execs,
                    from.elapsed().as_secs_f64(),
                    stats.peak_bytes.div_ceil(1024)
                ),
                Err(Found { run, input, what }) => {
                    let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
                    panic!("{}: run {run} of seed {seed}: {what}, on {hex}", target.name);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..THREADS).for_each(|_| drop(scope.spawn(work))));
}

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} must be a number, got {text}")),
        Err(_) => default,
    }
}

/// Runs a target over its seeds and mutations of them; gives the first input that breaks a promise.
pub fn fuzz(target: &Target, runs: u64, seed: u64) -> Result<Stats, Found> {
    let seeds = (target.seeds)(target.name);
    assert!(!seeds.is_empty(), "{} has no seed", target.name);
    let mut random = Random(seed ^ target.name.bytes().fold(0u64, |hash, b| hash.wrapping_mul(31).wrapping_add(u64::from(b))));
    let mut stats = Stats { execs: 0, peak_bytes: 0 };
    for run in 0..runs {
        // The seeds themselves first.
        let input = seeds.get(run as usize).cloned().unwrap_or_else(|| random.mutated(&seeds, INPUT_BYTES_MAX));
        let peak = Peak::start();
        let result = catch_unwind(AssertUnwindSafe(|| (target.body)(&input)));
        let peak_bytes = peak.bytes();
        stats.execs += 1;
        stats.peak_bytes = stats.peak_bytes.max(peak_bytes);
        if result.is_err() {
            return Err(Found { run, input, what: "it panicked".to_owned() });
        }
        if peak_bytes > target.heap_bytes_max {
            let what = format!("{peak_bytes} bytes on the heap, at most {}", target.heap_bytes_max);
            return Err(Found { run, input, what });
        }
    }
    Ok(stats)
}
