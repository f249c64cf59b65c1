//! P1, its snapshots: what is lost, torn, of another version or not to be reached never changes a signal. Either state comes
//! back from the log's own records, or the one task that cannot go on stops and says what to do, and the others go on.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidewatch::log::{Committed, Log, Member, TopicPartition};
use tidewatch::run::RunError;
use tidewatch::snapshot::{OUTPUT_VERSION, SnapshotStore};
use tidewatch::status::{Cause, RestoreStep, TaskPhase, TaskStatus};
use tidewatch::topology::Stage;
use tidewatch::worker::{Side, WorkerError};
use tidewatch_tests::gate::Gate;
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{self, Layout, LogKind, Scenario, Signals};
use tidewatch_tests::traffic;

const LAYOUT: Layout = Layout {
    poll_records: 16,
    inputs: 1,
    obs: 2,
    findings: 1,
    workers: 1,
    shuffle: None,
    log: LogKind::Memory,
    drive: scenario::Drive::Lockstep,
};

/// Rounds in which part of the work is done, and snapshots are taken on the way.
const ROUNDS: usize = 16;

/// Outputs of a later binary.
const NEXT: u32 = OUTPUT_VERSION + 1;

/// Seconds for which a store is away.
const AWAY_S: i64 = 600;

/// Seconds after which silence has closed everything.
const NIGHT_S: i64 = 200;

struct Bench {
    scenario: Scenario,
    log: Arc<dyn Log>,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let scenario = traffic::by_hand();
        let log = scenario::open(LAYOUT.log).unwrap().0;
        scenario.load(&LAYOUT, &log).unwrap();
        Self { scenario, log, dir: tempfile::tempdir().unwrap() }
    }

    fn store(&self) -> SnapshotStore {
        SnapshotStore::open(self.dir.path().to_str().unwrap()).unwrap()
    }

    /// Snapshots are written in place: what a round has done is done.
    fn live(&self) -> Live {
        self.live_over(self.store())
    }

    fn live_over(&self, store: SnapshotStore) -> Live {
        let mut topology = self.scenario.topology(&LAYOUT);
        topology.snapshots.every = Duration::from_secs(1);
        let began = traffic::noon(4_000.0);
        let mut live = Live::with(&self.scenario, topology, LAYOUT, self.log.clone(), began, Some(store)).unwrap();
        live.run.side = Side::InPlace;
        live
    }

    /// Runs a part of the way, with snapshots, goes on a little without, and crashes.
    fn crashed(&self) {
        for every in [Duration::from_secs(1), Duration::from_secs(3600)] {
            let mut live = self.live();
            live.run.topology.snapshots.every = every;
            live.start_all().unwrap();
            for _ in 0..ROUNDS {
                live.round().unwrap();
            }
            live.crash();
        }
        for partition in 0..LAYOUT.obs {
            let (committed, meta) = self.committed(partition);
            let position = position(meta["snapshot"].as_str().unwrap());
            assert!(position < committed.offset, "{position} {committed:?}");
        }
    }

    /// Runs a part of the way and stops properly.
    fn stopped(&self) {
        let mut live = self.live();
        live.start_all().unwrap();
        for _ in 0..ROUNDS {
            live.round().unwrap();
        }
        live.stop().unwrap();
    }

    fn at(&self, partition: u32) -> TopicPartition {
        TopicPartition::new(self.scenario.topology(&LAYOUT).names.obs(), partition)
    }

    fn committed(&self, partition: u32) -> (Committed, serde_json::Value) {
        let group = self.scenario.topology(&LAYOUT).names.group(Stage::Detect);
        let committed = self.log.committed(&group, &[self.at(partition)]).unwrap().pop().unwrap().unwrap();
        let meta = serde_json::from_str(&committed.metadata).unwrap();
        (committed, meta)
    }

    /// Commits other metadata for detect's partition.
    fn forge(&self, partition: u32, offset: i64, metadata: String) {
        let names = self.scenario.topology(&LAYOUT).names;
        let member = Member { id: "forger".to_owned(), index: 0, of: 1 };
        let membership = self.log.join(&names.group(Stage::Detect), &[names.obs()], &member).unwrap();
        let mut writer = membership.writer("forger").unwrap();
        writer.commit(&[], &[(self.at(partition), Committed { offset, metadata })]).unwrap();
        membership.leave(true).unwrap();
    }

    fn objects(&self, task: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path().join(task)).unwrap();
        let mut objects: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
        objects.sort();
        objects
    }
}

/// Offset at which a snapshot of that name lies.
fn position(name: &str) -> i64 {
    name.split('-').nth(1).unwrap().parse().unwrap()
}

fn finish(live: &mut Live) -> Signals {
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(NIGHT_S).unwrap();
    live.settle().unwrap();
    live.published().unwrap()
}

fn undisturbed() -> Signals {
    let signals = finish(&mut Bench::new().live());
    assert!(signals.values().flatten().count() > 3, "nothing to lose");
    signals
}

/// Steps until a worker fails.
fn failure(live: &mut Live) -> WorkerError {
    let error = live.start_all().err().or_else(|| (0..10_000).find_map(|_| live.round().err())).expect("it fails");
    match error.downcast::<WorkerError>() {
        Ok(error) => error,
        Err(error) => match error.downcast::<RunError>().unwrap() {
            RunError::Worker { source, .. } => source,
            error => panic!("{error}"),
        },
    }
}

fn task(live: &Live, partition: u32) -> TaskStatus {
    let tasks = live.shared().board.tasks();
    tasks.into_iter().find(|t| t.stage == "detect" && t.partition == partition).unwrap()
}

fn tear(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn a_snapshot_that_is_gone_or_torn_is_replaced_by_the_logs_own_records() {
    let want = undisturbed();
    let ways: [fn(&Path); 2] = [tear, |path| std::fs::remove_file(path).unwrap()];
    for way in ways {
        let bench = Bench::new();
        bench.crashed();
        assert!(bench.committed(0).1["snapshot"].is_string());
        bench.objects("detect-0").iter().for_each(|object| way(object));
        let mut live = bench.live();
        assert_eq!(finish(&mut live), want);
        // And there are snapshots again.
        assert_eq!(task(&live, 0).snapshot.unwrap().failed, None);
        let (_, meta) = bench.committed(0);
        let object = bench.dir.path().join("detect-0").join(format!("{}.snap", meta["snapshot"].as_str().unwrap()));
        assert!(object.exists());
    }
}

#[test]
fn where_the_log_no_longer_has_them_the_task_stops_and_says_so() {
    let bench = Bench::new();
    bench.crashed();
    let (committed, meta) = bench.committed(1);
    bench.objects("detect-1").iter().for_each(|object| tear(object));
    bench.log.delete_before(&bench.at(1), committed.offset.min(3)).unwrap();
    let error = failure(&mut bench.live());
    let WorkerError::Unreadable { task, snapshot, from, start, .. } = &error else { panic!("{error}") };
    assert_eq!((task.as_str(), *from, *start), ("detect tidewatch.obs/1", 0, 3));
    assert_eq!(snapshot, meta["snapshot"].as_str().unwrap());
}

#[test]
fn one_task_that_cannot_go_on_stops_alone() {
    let bench = Bench::new();
    bench.crashed();
    let (committed, right) = bench.committed(0);
    let mut wrong = right.clone();
    wrong["hash"] = "00".repeat(32).into();
    bench.forge(0, committed.offset, wrong.to_string());
    let before = bench.committed(1).0.offset;
    let mut live = bench.live();
    live.run.alone = true;
    live.start_all().unwrap();
    live.settle().unwrap();
    let stopped = task(&live, 0).phase;
    let TaskPhase::Stopped { reason } = stopped else { panic!("{stopped:?}") };
    assert!(reason.contains("does not reproduce") && reason.contains("tidewatch gather TOPOLOGY --task detect/0"), "{reason}");
    assert_eq!(task(&live, 1).phase, TaskPhase::Live);
    assert!(bench.committed(1).0.offset > before, "the other goes on");
    assert_eq!(bench.committed(0), (Committed { metadata: wrong.to_string(), ..committed.clone() }, wrong), "this one does not");
    // Put right, nothing is missing and nothing is twice.
    live.stop().unwrap();
    bench.forge(0, committed.offset, right.to_string());
    assert_eq!(finish(&mut bench.live()), undisturbed());
}

#[test]
fn positions_that_no_tidewatch_committed_are_not_gone_on_from() {
    let bench = Bench::new();
    bench.crashed();
    bench.forge(0, 5, String::new());
    let error = failure(&mut bench.live());
    assert!(matches!(error, WorkerError::Unmarked { offset: 5, .. }), "{error}");
}

#[test]
fn other_outputs_begin_at_a_snapshot_where_the_old_ones_end_or_not_at_all() {
    let want = undisturbed();
    // A proper stop leaves one there.
    let bench = Bench::new();
    bench.stopped();
    let mut live = bench.live();
    live.run.output_version = NEXT;
    assert_eq!(finish(&mut live), want);
    assert_eq!(bench.committed(0).1["outputs"], NEXT);
    live.crash();
    // From then on the new ones are the ones.
    let mut live = bench.live();
    live.run.output_version = NEXT;
    assert_eq!(finish(&mut live), want);

    // A crash does not.
    let bench = Bench::new();
    bench.crashed();
    let mut live = bench.live();
    live.run.output_version = NEXT;
    let error = failure(&mut live);
    let WorkerError::Outputs { theirs: OUTPUT_VERSION, ours: NEXT, .. } = &error else { panic!("{error}") };
    assert!(error.to_string().contains("SIGTERM") && error.to_string().contains("--accept-new-outputs"), "{error}");
    let mut live = bench.live();
    live.run.output_version = NEXT;
    live.run.accept_new_outputs = true;
    assert_eq!(finish(&mut live), want, "here the outputs are the same");
}

/// A file where the task's directory should be: the store fails, and not because an object is missing.
fn block(dir: &Path, task: &str) {
    if dir.join(task).exists() {
        std::fs::rename(dir.join(task), dir.join("aside")).unwrap();
    }
    std::fs::write(dir.join(task), "in the way").unwrap();
}

fn unblock(dir: &Path, task: &str) {
    std::fs::remove_file(dir.join(task)).unwrap();
    if dir.join("aside").exists() {
        std::fs::rename(dir.join("aside"), dir.join(task)).unwrap();
    }
}

fn degraded(live: &Live) -> bool {
    live.shared().board.conditions().0.iter().any(|c| c.cause == Cause::SnapshotStore && c.about == "detect tidewatch.obs/0")
}

#[test]
fn a_store_that_is_away_costs_snapshots_and_nothing_else() {
    let want = undisturbed();
    let bench = Bench::new();
    block(bench.dir.path(), "detect-0");
    let mut live = bench.live();
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(AWAY_S).unwrap();
    assert!(degraded(&live));
    let status = task(&live, 0).snapshot.unwrap();
    assert!(status.failures > 1 && status.failed.is_some() && status.current.is_none(), "{status:?}");
    assert!(task(&live, 1).snapshot.unwrap().current.is_some());
    // It is asked less and less often, but again and again: back, and snapshots are written without anybody's doing.
    unblock(bench.dir.path(), "detect-0");
    live.pass(NIGHT_S).unwrap();
    live.settle().unwrap();
    assert!(!degraded(&live));
    let status = task(&live, 0).snapshot.unwrap();
    assert!(status.failed.is_none() && status.current.is_some() && status.bytes > 0, "{status:?}");
    assert_eq!(live.published().unwrap(), want);
}

#[test]
fn a_store_that_is_away_at_a_restart_is_waited_for_and_holds_up_no_other_task() {
    let want = undisturbed();
    let bench = Bench::new();
    bench.crashed();
    let before = bench.committed(1).0.offset;
    block(bench.dir.path(), "detect-0");
    let mut live = bench.live();
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(AWAY_S).unwrap();
    assert!(degraded(&live) && matches!(task(&live, 0).phase, TaskPhase::Restoring { step: RestoreStep::Load, .. }));
    assert!(task(&live, 1).phase == TaskPhase::Live && bench.committed(1).0.offset > before);
    unblock(bench.dir.path(), "detect-0");
    live.pass(60).unwrap();
    assert!(!degraded(&live) && task(&live, 0).phase == TaskPhase::Live);
    assert_eq!(finish(&mut live), want);
}

#[test]
fn loading_blocks_nobody_and_tasks_load_side_by_side() {
    let bench = Bench::new();
    let (gate, open) = Gate::new();
    let store = SnapshotStore::over(Arc::new(gate)).unwrap();
    let mut live = bench.live_over(store.clone());
    live.start_all().unwrap();
    for _ in 0..ROUNDS {
        live.round().unwrap();
    }
    live.stop().unwrap();
    open.store(false, Ordering::Release);
    let mut live = bench.live_over(store);
    live.run.side = Side::Threads;
    let shared = live.run.shared();
    let mut worker = live.run.worker(Stage::Detect, 0, 1, &shared).unwrap();
    let loading = || {
        let tasks = shared.board.tasks();
        tasks.iter().filter(|t| matches!(t.phase, TaskPhase::Restoring { step: RestoreStep::Load, .. })).count()
    };
    // The gate is shut: a step that waited for it would never return.
    while loading() < 2 {
        worker.step(Duration::from_millis(1)).unwrap();
    }
    worker.step(Duration::from_millis(1)).unwrap();
    assert_eq!(loading(), 2, "both at once");
    open.store(true, Ordering::Release);
    while !shared.board.tasks().iter().all(|t| t.phase == TaskPhase::Live) {
        worker.step(Duration::from_millis(1)).unwrap();
        // The clock goes on, so that the worker says how it is.
        live.round().unwrap();
    }
}

#[test]
fn what_is_written_is_swept_incremental_and_told() {
    let bench = Bench::new();
    let mut live = bench.live();
    finish(&mut live);
    live.stop().unwrap();
    let (_, meta) = bench.committed(0);
    let current = format!("{}.snap", meta["snapshot"].as_str().unwrap());
    let objects = bench.objects("detect-0");
    assert_eq!(objects.last().unwrap().file_name().unwrap().to_str().unwrap(), current);
    assert!(objects.len() <= 16, "old ones go: {objects:?}");
    // A stop leaves nothing to be done again.
    let (committed, _) = bench.committed(0);
    assert_eq!(position(&current), committed.offset);
}
