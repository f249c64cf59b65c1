//! One simulated process: the strands that production runs as threads, over the production code of run and worker. What
//! production's loops do around a worker stands here once more, in the same order, because they wait in real time.
//!
//! What always holds: a process that stops says why; what it reports of its tasks it reports after a commit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch::log::{CommitError, LogError, TopicPartition};
use tidewatch::run::{Run, RunError, Shared};
use tidewatch::topology::Stage;
use tidewatch::worker::{Step, Worker, WorkerError};
use tidewatch_schemas::time::EventTime;

use super::baton::{Baton, MS};
use super::check::Reported;

/// An idle worker looks again after so long (production: 20 ms; the machine that runs this has other worlds to see).
const IDLE_NS: i64 = 200 * MS;
/// Partition counts are looked up again after so long, as production does.
const ROSTER_NS: i64 = 10_000 * MS;
/// What cannot be reached is tried again after so long, as production does.
const UNREACHABLE_NS: i64 = 1_000 * MS;

/// The stages of a process, a strand each.
pub const STAGES: [Stage; 3] = [Stage::Normalize, Stage::Detect, Stage::Correlate];

/// Why a process stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// As production does when another has taken over, or when what it needs does not answer: it is started again.
    Exit(String),
    /// A task that cannot go on: never right in these worlds.
    Broken(String),
}

/// A process at work.
#[derive(Clone)]
pub struct Process {
    baton: Arc<Baton>,
    run: Arc<Run>,
    shared: Shared,
    workers: u32,
    stop: Arc<AtomicBool>,
    for_good: Arc<AtomicBool>,
    ready: Arc<AtomicBool>,
    /// Stages that have not ended.
    left: Arc<AtomicU32>,
    stopped: Arc<Mutex<Option<Stopped>>>,
    reports: Arc<Mutex<Vec<Reported>>>,
}

impl Process {
    /// A process that has not begun. `workers` is the number of each stage.
    pub fn new(baton: &Arc<Baton>, run: Run, workers: u32) -> Self {
        let shared = run.shared();
        Self {
            baton: baton.clone(),
            run: Arc::new(run),
            shared,
            workers,
            stop: Arc::default(),
            for_good: Arc::default(),
            ready: Arc::default(),
            left: Arc::new(AtomicU32::new(STAGES.len() as u32)),
            stopped: Arc::default(),
            reports: Arc::default(),
        }
    }

    /// Told to stop, as SIGTERM does.
    pub fn stop(&self, for_good: bool) {
        self.for_good.store(for_good, Ordering::Release);
        self.stop.store(true, Ordering::Release);
    }

    /// Why it stopped, when not because it was told to.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What its tasks reported since the last look.
    pub fn reports(&self) -> Vec<Reported> {
        std::mem::take(&mut self.reports.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How its tasks are, in words.
    pub fn told(&self) -> String {
        let lines = self.shared.board.tasks().into_iter().map(|t| {
            let (held, mark) = (t.progress.held_by.unwrap_or_default(), t.progress.watermark.map(|t| t.to_string()));
            let (task, at, committed) = (format!("{} {}/{}", t.stage, t.topic, t.partition), t.position, t.committed);
            format!(
                "  {task} at {at} ({committed:?}), {:?}, {mark:?} held by {held}, {} bytes\n",
                t.phase, t.progress.state_bytes
            )
        });
        lines.collect()
    }

    /// Bytes of state that its tasks hold.
    pub fn state_bytes(&self) -> u64 {
        self.shared.board.progress().values().map(|p| p.state_bytes).sum()
    }

    fn fail(&self, why: Stopped) {
        self.stop.store(true, Ordering::Release);
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }

    fn told_to_stop(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The main thread: makes the topics, then looks after the roster.
    pub fn main(&self) {
        while let Err(error) = self.run.create_topics() {
            if self.told_to_stop() {
                return;
            }
            if !matches!(error, LogError::Unreachable { .. }) {
                return self.fail(Stopped::Exit(error.to_string()));
            }
            self.baton.rest(UNREACHABLE_NS);
        }
        self.ready.store(true, Ordering::Release);
        let mut waited_ns = 0;
        while !self.told_to_stop() && self.left.load(Ordering::Acquire) > 0 {
            self.baton.rest(UNREACHABLE_NS);
            waited_ns += UNREACHABLE_NS;
            if waited_ns >= ROSTER_NS {
                waited_ns = 0;
                // Not read this time: read next time.
                let _ = self.run.refresh_roster(&self.shared);
            }
        }
    }

    /// A stage's thread.
    pub fn stage(&self, stage: Stage) {
        while !self.ready.load(Ordering::Acquire) {
            if self.told_to_stop() {
                self.left.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            self.baton.rest(IDLE_NS);
        }
        loop {
            match self.work(stage) {
                Ok(()) => break,
                Err(error) if unreachable(&error) && !self.told_to_stop() => self.baton.rest(UNREACHABLE_NS),
                Err(error) => {
                    self.fail(verdict(&error));
                    break;
                }
            }
        }
        self.left.fetch_sub(1, Ordering::AcqRel);
    }

    fn work(&self, stage: Stage) -> Result<(), RunError> {
        let at = |source| RunError::Worker { stage: stage.name(), source };
        let workers: Result<Vec<Worker>, RunError> =
            (0..self.workers).map(|i| self.run.worker(stage, i, self.workers, &self.shared)).collect();
        let mut workers = workers?;
        let mut seen: Vec<Seen> = workers.iter().map(|_| Seen::default()).collect();
        while !self.told_to_stop() {
            let mut busy = false;
            for (worker, seen) in workers.iter_mut().zip(&mut seen) {
                if worker.step(Duration::ZERO).map_err(at)? == Step::Busy {
                    busy = true;
                    self.report(stage, worker, seen);
                }
            }
            self.baton.rest(if busy { MS } else { IDLE_NS });
        }
        let for_good = self.for_good.load(Ordering::Acquire);
        workers.into_iter().try_for_each(|w| w.stop(for_good)).map_err(at)
    }

    /// Reports the tasks that have closed more than at the last look. Digests cost a walk over all state: only when the
    /// board shows that something closed.
    fn report(&self, stage: Stage, worker: &Worker, seen: &mut Seen) {
        let prefix = format!("{}:", stage.name());
        let mut moved = false;
        for (name, progress) in self.shared.board.progress().into_iter().filter(|(name, _)| name.starts_with(&prefix)) {
            moved |= seen.board.insert(name, progress.watermark) != Some(progress.watermark);
        }
        if stage == Stage::Normalize || !moved {
            return;
        }
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, digest, hash) in worker.digests() {
            if digest.closed != EventTime::MIN && seen.closed.insert(at.clone(), digest.closed) != Some(digest.closed) {
                reports.push(Reported { task: (stage.name(), at), digest, hash });
            }
        }
    }
}

/// What was reported of tasks.
#[derive(Default)]
struct Seen {
    board: BTreeMap<String, Option<EventTime>>,
    closed: BTreeMap<TopicPartition, EventTime>,
}

fn unreachable(error: &RunError) -> bool {
    let log = match error {
        RunError::Log(log) | RunError::Worker { source: WorkerError::Log(log), .. } => log,
        RunError::Worker { source: WorkerError::Commit(CommitError::Log(log)), .. } => log,
        _ => return false,
    };
    matches!(log, LogError::Unreachable { .. })
}

/// Whether a process that ends so is only to be started again.
fn verdict(error: &RunError) -> Stopped {
    let words = error.to_string();
    let exit = matches!(error, RunError::Log(_) | RunError::Worker { source: WorkerError::Log(_) | WorkerError::Commit(_), .. });
    if exit { Stopped::Exit(words) } else { Stopped::Broken(words) }
}
