//! P1, its groundwork: stopped or crashed at many points of the way and started again, a run publishes what an
//! undisturbed one publishes, byte for byte; and where that cannot be, it says so instead of going on.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidewatch::log::{Committed, Log, Member, TopicPartition};
use tidewatch::run::RunError;
use tidewatch::snapshot::SnapshotStore;
use tidewatch::topology::Stage;
use tidewatch::worker::WorkerError;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{self, Layout, LogKind, Scenario, Signals};
use tidewatch_tests::traffic;

const LAYOUT: Layout = Layout {
    poll_records: 16,
    inputs: 2,
    obs: 3,
    findings: 2,
    workers: 2,
    shuffle: None,
    log: LogKind::Embedded,
    drive: scenario::Drive::Lockstep,
};

/// Seconds after which silence has closed everything.
const NIGHT_S: i64 = 200;

/// Crashes and stops in one run.
const RESTARTS: u32 = 20;

/// The clock of these runs stands far behind the rows' time; it only measures epochs, silence and snapshots.
fn began() -> EventTime {
    traffic::noon(4_000.0)
}

fn live(scenario: &Scenario, log: &Arc<dyn Log>, snapshots: Option<SnapshotStore>) -> Live {
    let mut topology = scenario.topology(&LAYOUT);
    topology.snapshots.every = Duration::from_secs(1);
    Live::with(scenario, topology, LAYOUT, log.clone(), began(), snapshots).unwrap()
}

fn finish(live: &mut Live) -> Signals {
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(NIGHT_S).unwrap();
    live.settle().unwrap();
    live.published().unwrap()
}

fn undisturbed(scenario: &Scenario) -> Signals {
    let (log, _keep) = scenario::open(LAYOUT.log).unwrap();
    scenario.load(&LAYOUT, &log).unwrap();
    let signals = finish(&mut live(scenario, &log, None));
    assert!(signals.values().flatten().count() > 3, "nothing to lose");
    signals
}

/// Crashes (or stops) at random steps, most of them while there is work, some when there is none.
fn disturbed(scenario: &Scenario, seed: u64, with_snapshots: bool) -> Signals {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (log, _keep) = scenario::open(LAYOUT.log).unwrap();
    scenario.load(&LAYOUT, &log).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let snapshots = with_snapshots.then(|| SnapshotStore::open(dir.path().to_str().unwrap()).unwrap());
    let mut live = live(scenario, &log, snapshots);
    let mut restarts = 0;
    while restarts < RESTARTS {
        live.start_all().unwrap();
        for _ in 0..random.random_range(1..120) {
            live.step(random.random_range(0..64)).unwrap();
        }
        restarts += 1;
        if random.random_bool(0.3) {
            live.stop().unwrap();
        } else {
            live.crash();
        }
    }
    // And one more in the night, when only silence moves time.
    live.pass(40).unwrap();
    live.crash();
    finish(&mut live)
}

#[test]
fn crashes_and_stops_change_nothing() {
    let scenario = traffic::by_hand();
    let want = undisturbed(&scenario);
    for seed in 0..6 {
        assert_eq!(disturbed(&scenario, seed, true), want, "seed {seed}");
    }
}

#[test]
fn without_a_snapshot_everything_is_done_again_in_silence() {
    let scenario = traffic::by_hand();
    let want = undisturbed(&scenario);
    for seed in 100..103 {
        assert_eq!(disturbed(&scenario, seed, false), want, "seed {seed}");
    }
}

/// A finished run whose workers have stopped, and the log.
fn stopped(snapshots: Option<&SnapshotStore>) -> (Scenario, Arc<dyn Log>, Option<tempfile::TempDir>) {
    let scenario = traffic::by_hand();
    let (log, keep) = scenario::open(LAYOUT.log).unwrap();
    scenario.load(&LAYOUT, &log).unwrap();
    let mut live = live(&scenario, &log, snapshots.cloned());
    finish(&mut live);
    live.stop().unwrap();
    (scenario, log, keep)
}

/// Starts detect alone and runs it until it fails.
fn failure(scenario: &Scenario, log: &Arc<dyn Log>, snapshots: Option<SnapshotStore>) -> WorkerError {
    let mut live = live(scenario, log, snapshots);
    live.start(Stage::Detect, 0).unwrap();
    live.start(Stage::Detect, 1).unwrap();
    for turn in 0..10_000 {
        if let Err(e) = live.step(turn) {
            return match e.downcast::<WorkerError>() {
                Ok(e) => e,
                Err(e) => match e.downcast::<RunError>().unwrap() {
                    RunError::Worker { source, .. } => source,
                    e => panic!("{e}"),
                },
            };
        }
    }
    panic!("it did not fail");
}

#[test]
fn a_hash_that_does_not_come_out_again_stops_the_task() {
    let (scenario, log, _keep) = stopped(None);
    let names = scenario.topology(&LAYOUT).names;
    let at = TopicPartition::new(names.obs(), 0);
    let committed = log.committed(&names.group(Stage::Detect), std::slice::from_ref(&at)).unwrap().pop().unwrap().unwrap();
    let mut meta: serde_json::Value = serde_json::from_str(&committed.metadata).unwrap();
    meta["hash"] = "00".repeat(32).into();
    let member = Member { id: "forger".to_owned(), index: 0, of: 1 };
    let membership = log.join(&names.group(Stage::Detect), &[names.obs()], &member).unwrap();
    let forged = Committed { offset: committed.offset, metadata: meta.to_string() };
    membership.writer("forger").unwrap().commit(&[], &[(at, forged)]).unwrap();
    membership.leave(true).unwrap();
    let error = failure(&scenario, &log, None);
    let WorkerError::Diverged { task, offset, expected, got, .. } = &error else { panic!("{error}") };
    assert_eq!((task.as_str(), *offset), ("detect tidewatch.obs/0", committed.offset));
    assert!(*expected == "00".repeat(32) && got != expected, "{error}");
}

#[test]
fn a_log_that_begins_after_what_is_needed_stops_the_task_with_the_range() {
    let (scenario, log, _keep) = stopped(None);
    let at = TopicPartition::new(scenario.topology(&LAYOUT).names.obs(), 1);
    log.delete_before(&at, 7).unwrap();
    let error = failure(&scenario, &log, None);
    let WorkerError::Lost { task, from, to } = &error else { panic!("{error}") };
    assert_eq!((task.as_str(), *from, *to), ("detect tidewatch.obs/1", 0, 7));
}

#[test]
fn with_a_snapshot_what_lies_before_it_may_go() {
    let dir = tempfile::tempdir().unwrap();
    let store = SnapshotStore::open(dir.path().to_str().unwrap()).unwrap();
    let (scenario, log, _keep) = stopped(Some(&store));
    let want = scenario::published(&log, &scenario.topology(&LAYOUT).names.signals()).unwrap();
    for partition in 0..LAYOUT.obs {
        log.delete_before(&TopicPartition::new(scenario.topology(&LAYOUT).names.obs(), partition), 7).unwrap();
    }
    let mut live = live(&scenario, &log, Some(store));
    assert_eq!(finish(&mut live), want);
}
