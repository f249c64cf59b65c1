//! A worker: one thread's tasks of one stage. Reads their partitions, gathers their outputs into an epoch, commits it
//! with their offsets, and brings tasks up: newest committed snapshot, muted re-processing, live.
//!
//! What always holds: the group is served only between epochs, so no partition is taken away inside one; a task that is
//! still being restored does not join the epoch; after an epoch that did not commit every task starts again from what is
//! committed. Knows no detection and no wire format.

pub(crate) mod absent;
mod error;
mod keep;
mod known;
pub(crate) mod meta;
mod pace;
mod restore;
mod room;
mod side;
mod slot;
mod tell;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch_schemas::control::{Mark, Roster};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::epoch::{Ledger, OutputHash};
use crate::log::{Append, CommitError, Committed, Log, Membership, PollLimit, Reader, TopicPartition, Writer};
use crate::metrics::Metrics;
use crate::snapshot::SnapshotStore;
use crate::status::{Board, TaskPhase};
use crate::task::{Digest, Task};
use crate::telemetry::Telemetry;

pub use absent::Absent;
pub use error::WorkerError;
use keep::Begun;
pub use known::Known;
pub use pace::Pace;
pub(crate) use room::SNAPSHOTS_BYTES_MAX;
pub use side::Side;
pub use slot::Phase;
use slot::{SETTLE_PAUSE, Slot};
use tell::Moments;

/// Wall clock, for silence and for the length of epochs; simulated in tests.
pub type Clock = Arc<dyn Fn() -> EventTime + Send + Sync>;

/// The machine's clock.
#[allow(clippy::disallowed_methods)] // The one place where the pipeline asks for the time.
pub fn system_clock() -> Clock {
    Arc::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        EventTime(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    })
}

/// Bytes of outputs after which an epoch ends early: well below what a transaction should hold.
pub(crate) const EPOCH_BYTES_MAX: usize = 16 << 20;

/// A full log is asked again after so long.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// A round over the tasks that takes longer is told: nothing in it should wait for long.
const SLOW_ROUND_NS: i64 = 5 * SECOND_NS;

/// Aborted epochs in a row after which a worker gives up.
const ABORTS_MAX: u32 = 20;

/// Makes a task for a partition.
pub type MakeTask = Box<dyn Fn(&TopicPartition) -> Box<dyn Task> + Send>;

/// How a stage's tasks come back after a restart.
#[derive(Clone, Debug)]
pub enum Recovery {
    /// From the committed offset and note (normalize: its decisions are recorded, never taken again).
    Note,
    /// By re-processing, from the newest snapshot or from the start of the log.
    Replay {
        /// Where snapshots are; `None` = none are taken.
        snapshots: Option<SnapshotStore>,
        /// Time between two.
        every: Duration,
    },
}

/// Where a partition is read from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// First offset when nothing is committed.
    pub from: Option<i64>,
    /// First offset not to be read; `None` = up to what is there when the reader first reaches the end, if `ends`.
    pub until: Option<i64>,
    /// The end of the range is the end of the input's time.
    pub ends: bool,
}

/// What a worker needs to know.
pub struct WorkerConfig {
    /// Stage name, for messages and snapshot paths.
    pub stage: &'static str,
    /// Where the stage reads.
    pub source: Arc<dyn Log>,
    /// Where it writes and commits.
    pub sink: Arc<dyn Log>,
    /// Membership of the stage's group, in `sink`.
    pub membership: Box<dyn Membership>,
    /// Writer id.
    pub writer_id: String,
    /// Group.
    pub group: String,
    /// Makes tasks.
    pub make: MakeTask,
    /// How they come back.
    pub recovery: Recovery,
    /// Length of an epoch.
    pub epoch: Duration,
    /// One poll.
    pub poll: PollLimit,
    /// Who writes and loads snapshots.
    pub side: Side,
    /// Wall clock.
    pub clock: Clock,
    /// Where a partition is read from and to, when not from its start for ever.
    pub bounds: BTreeMap<TopicPartition, Bound>,
    /// Pace of normalize tasks; `None` = run free.
    pub pace: Option<Arc<Pace>>,
    /// Who has not been heard of, and the roster on which they stand; with a pace.
    pub absent: Option<(Arc<Absent>, Arc<Mutex<Roster>>)>,
    /// The control topic, where other processes' marks are heard; only with a pace.
    pub control: Option<Box<dyn Reader>>,
    /// The stage before has finished; what is there now is all.
    pub upstream_done: Arc<AtomicBool>,
    /// Counts of committed epochs.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Number of this worker among those of its stage in this process.
    pub index: u32,
    /// Where it says how its tasks are.
    pub board: Arc<Board>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// Who hears of its epochs; `None` = nobody.
    pub telemetry: Option<Telemetry>,
    /// Version of the outputs of this binary's tasks.
    pub output_version: u32,
    /// Goes on from outputs of another version without comparing them, knowingly.
    pub accept_new_outputs: bool,
    /// A position in a topic that was deleted and made again is forgotten, knowingly.
    pub accept_new_topics: bool,
    /// A task that cannot go on stops alone, its partition held; otherwise the worker stops.
    pub alone: bool,
    /// Offsets that this process saw committed: what is committed never goes back.
    pub known: Arc<Known>,
    /// Topics that the stage writes, asked for again when an epoch was lost.
    pub outputs: Vec<String>,
    /// An epoch ends as soon as nothing more is there to read.
    pub eager: bool,
    /// Records below the committed offset are removed (backtests keep their memory small).
    pub trim: bool,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Something was read or written.
    Busy,
    /// Nothing to do for now.
    Idle,
    /// Nothing will come any more.
    Done,
}

/// A worker.
pub struct Worker {
    config: WorkerConfig,
    writer: Box<dyn Writer>,
    slots: BTreeMap<TopicPartition, Slot>,
    /// Tasks that cannot go on, with the reason; their partitions stay ours.
    stopped: BTreeMap<TopicPartition, String>,
    /// What the group gave us; `None` = it has not answered yet.
    assigned: Option<Vec<TopicPartition>>,
    epoch_began: EventTime,
    aborts: u32,
    epochs: u64,
    finished: bool,
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker").field("stage", &self.config.stage).field("slots", &self.slots.len()).finish_non_exhaustive()
    }
}

impl Worker {
    /// A worker that has not looked for its tasks yet. Opening the writer settles what an earlier one of the same id left.
    pub fn new(config: WorkerConfig) -> Result<Self, WorkerError> {
        let writer = config.membership.writer(&config.writer_id)?;
        let epoch_began = (config.clock)();
        let worker = Self {
            config,
            writer,
            slots: BTreeMap::new(),
            stopped: BTreeMap::new(),
            assigned: None,
            epoch_began,
            aborts: 0,
            epochs: 0,
            finished: false,
        };
        worker.tell_waiting();
        Ok(worker)
    }

    /// Epochs that this worker has committed.
    pub fn epochs(&self) -> u64 {
        self.epochs
    }

    /// Whether its last epoch was not lost.
    pub fn is_sound(&self) -> bool {
        self.aborts == 0
    }

    /// Gives its tasks up as they are, after a failure: the next worker begins from what is committed.
    pub fn abandon(self) {
        self.tell_gone();
    }

    /// One round: tasks, records, and the epoch's end when it is due. `wait` is spent only when there is nothing to do.
    pub fn step(&mut self, wait: Duration) -> Result<Step, WorkerError> {
        if self.finished {
            return Ok(Step::Done);
        }
        let upstream_done = self.config.upstream_done.load(Ordering::Acquire);
        let between = self.slots.values().all(|s| s.out.appends().is_empty() && !s.moved());
        if (between || self.assigned.is_none()) && self.assign(wait)? {
            return Ok(Step::Busy);
        }
        let now = (self.config.clock)();
        let mut busy = false;
        let mut urgent = false;
        let mut stopping = Vec::new();
        for (at, slot) in &mut self.slots {
            if slot.finished || self.config.pace.as_ref().is_some_and(|p| !p.may_go(at)) {
                continue;
            }
            match slot.read(&self.config, now, wait.is_zero()) {
                Ok(any) => busy |= any,
                Err(error) if self.config.alone && error.is_one_tasks() => {
                    stopping.push((at.clone(), error));
                    continue;
                }
                Err(error) => return Err(error),
            }
            urgent |= slot.out.urgent || slot.out.bytes() > EPOCH_BYTES_MAX;
        }
        let took_ns = (self.config.clock)().since(now);
        if took_ns > SLOW_ROUND_NS {
            let took_s = took_ns as f64 / 1e9;
            tracing::warn!(
                stage = self.config.stage,
                took_s,
                "reading took long: a broker did not answer, or the processor is busy"
            );
        }
        for (at, error) in stopping {
            self.slots.remove(&at);
            self.stop_task(&at, &error);
        }
        let due = now.since(self.epoch_began) >= self.config.epoch.as_nanos() as i64;
        let all_quiet = !busy && upstream_done && self.slots.values().all(|s| s.finished || s.at_end());
        // In lock step nobody waits for more: what is there is handed on.
        let eager = self.config.eager && !busy;
        if urgent || due || all_quiet || eager {
            busy |= self.commit()?;
            self.epoch_began = now;
        }
        if all_quiet && !busy && self.assigned.is_some() {
            self.finished = true;
            return Ok(Step::Done);
        }
        if !busy && !wait.is_zero() {
            let longest = Duration::from_nanos((self.config.epoch.as_nanos() as i64 - now.since(self.epoch_began)).max(0) as u64);
            std::thread::sleep(wait.min(longest));
        }
        Ok(if busy { Step::Busy } else { Step::Idle })
    }

    /// Takes up the group's decision. True when the tasks changed.
    fn assign(&mut self, wait: Duration) -> Result<bool, WorkerError> {
        let wait = if self.assigned.is_some() { Duration::ZERO } else { wait };
        let Some(partitions) = self.config.membership.poll(wait)? else { return Ok(false) };
        let began = self.config.telemetry.is_some().then(&*self.config.clock);
        self.slots.retain(|at, _| {
            let stays = partitions.contains(at);
            if !stays {
                self.config.board.remove(self.config.stage, at);
            }
            stays
        });
        self.stopped.retain(|at, _| {
            let stays = partitions.contains(at);
            if !stays {
                self.config.board.remove(self.config.stage, at);
            }
            stays
        });
        let change = self.tell_assigned(self.assigned.as_deref(), &partitions);
        self.assigned = Some(partitions);
        self.start_missing()?;
        self.tell_begun(began.zip(change));
        Ok(true)
    }

    /// The task cannot go on. What it wrote since its last epoch is dropped with it; the others are not concerned.
    fn stop_task(&mut self, at: &TopicPartition, error: &WorkerError) {
        // Inputs are several topics; what detect and correlate read is one each.
        let topic = if self.config.pace.is_some() { format!("{}/", at.topic) } else { String::new() };
        let reason = format!(
            "{error}; `tidewatch gather TOPOLOGY --task {}/{topic}{} --out DIR` gathers what is needed to look into it",
            self.config.stage, at.partition
        );
        tracing::error!(stage = self.config.stage, task = %at, reason, "task stopped; the others go on");
        self.config.board.task(self.config.stage, at, |line| line.phase = TaskPhase::Stopped { reason: reason.clone() });
        self.stopped.insert(at.clone(), reason);
    }

    fn start_missing(&mut self) -> Result<(), WorkerError> {
        for at in self.assigned.clone().into_iter().flatten() {
            if self.slots.contains_key(&at) || self.stopped.contains_key(&at) {
                continue;
            }
            match Slot::start(&self.config, &at) {
                Ok(slot) => {
                    tracing::info!(stage = self.config.stage, task = %at, from = slot.position(), "task started");
                    self.config.board.task(self.config.stage, &at, |line| slot.report(line));
                    self.slots.insert(at, slot);
                }
                Err(error) if self.config.alone && error.is_one_tasks() => self.stop_task(&at, &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the epoch. True when something was committed.
    fn commit(&mut self) -> Result<bool, WorkerError> {
        let mut appends: Vec<Append> = Vec::new();
        let mut offsets: Vec<(TopicPartition, Committed)> = Vec::new();
        for (at, slot) in self.slots.iter_mut().filter(|(_, s)| s.is_live()) {
            slot.snapshot_ready(&self.config);
            slot.flush();
            if slot.out.appends().is_empty() && !slot.moved() && !slot.has_news() {
                continue;
            }
            appends.extend_from_slice(slot.out.appends());
            offsets.push((at.clone(), slot.committed_form(&self.config)));
        }
        if offsets.is_empty() {
            self.pace()?;
            self.publish();
            return Ok(false);
        }
        let closing = (self.config.clock)();
        let mut full = false;
        loop {
            let result = self.writer.commit(&appends, &offsets);
            if let Err(error) = &result
                && !full
            {
                self.tell_failed(error);
            }
            match result {
                Ok(()) => break,
                Err(CommitError::Full { at, limit_bytes }) => {
                    tracing::debug!(%at, limit_bytes, "full: waiting for readers");
                    full = true;
                    std::thread::sleep(FULL_PAUSE);
                }
                Err(e @ (CommitError::Aborted { .. } | CommitError::Fenced { .. })) => return self.restart(e, closing),
                Err(e) => return Err(e.into()),
            }
        }
        let moments = Moments { began: self.epoch_began, closing, committed: (self.config.clock)() };
        if full {
            self.tell_room();
        }
        self.aborts = 0;
        self.epochs += 1;
        let mut ledger = Ledger::default();
        for (at, _) in &offsets {
            if let Some(slot) = self.slots.get_mut(at) {
                self.config.known.note(self.config.stage, at, slot.position());
                slot.trace(&self.config, moments, None);
                ledger.add(&slot.out.committed());
                slot.committed(&self.config);
            }
        }
        self.tell_epoch(moments, &appends, &offsets, &ledger);
        self.config.ledger.lock().unwrap_or_else(PoisonError::into_inner).add(&ledger);
        self.pace()?;
        self.publish();
        if self.config.trim {
            for (at, committed) in &offsets {
                self.config.sink.delete_before(at, committed.offset)?;
            }
        }
        Ok(true)
    }

    /// The epoch is lost: every task starts again from what is committed, behind a fresh writer.
    fn restart(&mut self, reason: CommitError, closing: EventTime) -> Result<bool, WorkerError> {
        self.trace_lost(&reason, closing);
        self.aborts += 1;
        if self.aborts > ABORTS_MAX {
            return Err(reason.into());
        }
        self.tell_rebalance("epoch_lost");
        tracing::warn!(stage = self.config.stage, %reason, "epoch lost: tasks restart from what is committed");
        let had: Vec<TopicPartition> = std::mem::take(&mut self.slots).into_keys().chain(self.stopped.keys().cloned()).collect();
        let again = self.begin_again();
        // Lines of tasks that did not come back go: with an error that is all of them.
        for at in had.iter().filter(|at| again.is_err() || !self.slots.contains_key(at) && !self.stopped.contains_key(at)) {
            self.config.board.remove(self.config.stage, at);
        }
        again.map(|()| true)
    }

    /// Takes up what the group gives now, behind a fresh writer.
    fn begin_again(&mut self) -> Result<(), WorkerError> {
        for topic in &self.config.outputs {
            self.config.sink.partitions(topic)?;
        }
        // Who was replaced hears of it here, and must not take the id back from its successor.
        if let Some(partitions) = self.config.membership.poll(Duration::ZERO)? {
            self.stopped.retain(|at, _| partitions.contains(at));
            self.assigned = Some(partitions);
        }
        self.writer = self.config.membership.writer(&self.config.writer_id)?;
        self.start_missing()
    }

    /// What the tasks' states and outputs came to so far; for checks.
    pub fn digests(&self) -> Vec<(TopicPartition, Digest, OutputHash)> {
        self.slots.iter().filter_map(|(at, s)| Some((at.clone(), s.digest()?, s.out.hash()))).collect()
    }

    fn pace(&mut self) -> Result<(), WorkerError> {
        let Some(pace) = &self.config.pace else { return Ok(()) };
        let now = (self.config.clock)();
        if let Some(control) = &mut self.config.control {
            for record in control.poll(self.config.poll, Duration::ZERO)? {
                if let Some(Ok(mark)) = record.value.as_deref().map(Mark::decode) {
                    pace.heard(&mark);
                    if let Some((absent, _)) = &self.config.absent
                        && let Some(gone) = absent.heard(&mark, now)
                    {
                        tell::tell_absent(&self.config.board, &mark, gone, now);
                    }
                }
            }
        }
        for (at, slot) in &self.slots {
            pace.publish(at, slot.progress(), slot.finished);
        }
        if let Some((absent, roster)) = &self.config.absent {
            absent.look(&roster.lock().unwrap_or_else(PoisonError::into_inner), now);
        }
        Ok(())
    }

    /// Commits what is there, takes a last snapshot at what is committed, and leaves the group.
    pub fn stop(mut self, for_good: bool) -> Result<(), WorkerError> {
        let now = (self.config.clock)();
        self.commit()?;
        // One that is being written lies behind; the next one lies where nothing has to be done again.
        for slot in self.slots.values_mut() {
            slot.settle(&self.config);
        }
        self.commit()?;
        for slot in self.slots.values_mut() {
            // One after the other where there is not room for all.
            while slot.snapshot_now(&self.config, now) == Begun::NoRoom {
                std::thread::sleep(SETTLE_PAUSE);
            }
        }
        for slot in self.slots.values_mut() {
            slot.settle(&self.config);
        }
        self.commit()?;
        self.tell_gone();
        self.config.membership.leave(for_good)?;
        Ok(())
    }
}
