//! P1 in the simulation: a few seeds in every test run, one world told twice, and planted bugs that must be found. Many
//! seeds and all planted bugs are the gate's (`.ci/run simulate`) and the command's: `simulate --help`.

#![allow(clippy::unwrap_used)]

use tidewatch_tests::sim::controls::Control;
use tidewatch_tests::sim::log::Bug;
use tidewatch_tests::sim::plan::plan;
use tidewatch_tests::sim::suite::{self, References};

/// Seeds of this test.
const SEEDS: u64 = 12;

/// Worlds at a time.
const THREADS: usize = 2;

#[test]
fn what_dies_loses_repeats_and_alters_nothing() {
    let report = suite::seeds(1, SEEDS, THREADS, |_| {}).unwrap();
    assert!(report.failed.is_empty(), "{:#?}", report.failed);
    assert_eq!(report.counted, SEEDS, "every world has crashes, moves and signals enough to count");
}

#[test]
fn one_seed_is_one_history() {
    let seed = 5;
    let again = || suite::one(seed, plan(seed), &References::new(None)).unwrap();
    let (first, second) = (again(), again());
    assert_eq!((first.history.count, first.history.digest), (second.history.count, second.history.digest));
    assert_eq!(first.signals, second.signals);
}

#[test]
fn planted_bugs_of_the_client_are_found() {
    for bug in [Bug::OffsetsOutside, Bug::AbortUnclear, Bug::NoFencing] {
        let found = suite::control(Control::Client(bug), 1, THREADS);
        assert!(found.after.is_some(), "{} was not found", found.name);
    }
}
