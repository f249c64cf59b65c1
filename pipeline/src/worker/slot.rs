//! A task in its place: its reader, its outputs, its phase on the way from a restart to live, its snapshots.

mod report;
mod trace;

use std::time::Duration;

use tidewatch_operators::planted::{self, Bug};
use tidewatch_schemas::time::EventTime;

use super::keep::{Begun, Keep};
use super::known;
use super::meta::Meta;
use super::restore::{self, Loading, Watch, Way};
use super::tell::Heard;
use super::{Bound, Recovery, WorkerConfig, WorkerError};
use crate::epoch::{OutputHash, Outputs};
use crate::log::{Committed, LogError, Reader, Record, TopicPartition};
use crate::status::{Cause, RestoreTimes, about};
use crate::task::{Digest, Progress, Task};
use crate::telemetry::Links;
use crate::time::input::Peers;

/// How far a restarted task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// A snapshot is on its way into it.
    Loading,
    /// Refilling slices that were open at the snapshot, up to its position.
    Refill {
        /// Snapshot's position.
        position: i64,
    },
    /// Re-processing with outputs muted, up to the committed offset.
    Muted,
    /// Taking part in epochs.
    Live,
}

/// A task at work, and what it reads.
struct Work {
    task: Box<dyn Task>,
    reader: Box<dyn Reader>,
}

/// What a restart has to come to.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// Committed offset.
    committed: i64,
    /// Hash that must come out there; `None` = knowingly not compared.
    expected: Option<OutputHash>,
    /// Offset at which the hash began.
    from: i64,
    /// The committed outputs are of another version.
    other_outputs: Option<u32>,
}

/// A task not read for so long was held, or its process stood still: what its reader saw before is no news.
const STOOD_STILL_NS: i64 = 5_000_000_000;

/// A snapshot that is being written is looked at again after so long.
pub(super) const SETTLE_PAUSE: Duration = Duration::from_millis(1);

pub(super) struct Slot {
    at: TopicPartition,
    /// `None` while a snapshot is on its way into the task.
    work: Option<Work>,
    loading: Option<Loading>,
    pub(super) out: Outputs,
    phase: Phase,
    goal: Option<Goal>,
    bound: Option<Bound>,
    from: i64,
    committed: Option<i64>,
    /// Id of the topic, where the log gives one.
    topic: Option<String>,
    keep: Option<Keep>,
    keeps_note: bool,
    /// It cannot be read for now.
    away: bool,
    /// When it was last read.
    looked: Option<EventTime>,
    /// Since when nobody has said that it is itself.
    unknown_since: Option<EventTime>,
    pub(super) heard: Heard,
    /// Trace contexts of what was read; `None` = nobody asks.
    links: Option<Links>,
    /// Offset and moment at which the running step of a restart began.
    step_began: (i64, EventTime),
    watch: Option<Watch>,
    restored: Option<RestoreTimes>,
    pub(super) finished: bool,
}

impl Slot {
    /// Brings a task up from what is committed; a snapshot is loaded beside the worker.
    pub(super) fn start(config: &WorkerConfig, at: &TopicPartition) -> Result<Self, WorkerError> {
        let mut watch = Watch::begin((config.clock)());
        let mut committed = config.sink.committed(&config.group, std::slice::from_ref(at))?.pop().flatten();
        let topic = config.known.check_topic(config, at, &mut committed)?;
        config.known.check(config, at, committed.as_ref().map(|c| c.offset))?;
        let meta = committed.as_ref().and_then(|c| Meta::decode(&c.metadata));
        watch.step((config.clock)(), |t| &mut t.committed_s);
        let mut slot = Self {
            at: at.clone(),
            work: None,
            loading: None,
            out: Outputs::default(),
            phase: Phase::Live,
            goal: None,
            bound: config.bounds.get(at).copied(),
            from: meta.as_ref().map_or(0, |m| m.from),
            committed: committed.as_ref().map(|c| c.offset),
            topic,
            keep: Keep::new(config, at),
            keeps_note: matches!(config.recovery, Recovery::Note),
            step_began: (0, (config.clock)()),
            watch: Some(watch),
            restored: None,
            away: false,
            unknown_since: None,
            looked: None,
            heard: Heard { restoring: Some((config.clock)()), ..Heard::default() },
            links: config.telemetry.is_some().then(Links::default),
            finished: false,
        };
        let way = restore::way(config, at, committed.as_ref(), meta.as_ref(), (slot.keeps_note, slot.keep.is_some()))?;
        if let (Some(c), Some(meta)) = (&committed, &meta)
            && !slot.keeps_note
        {
            slot.goal = Some(Goal {
                committed: c.offset,
                expected: Some(OutputHash::parse(&meta.hash).unwrap_or_default()),
                from: meta.from,
                other_outputs: (meta.outputs != config.output_version).then_some(meta.outputs),
            });
        }
        let mut task = (config.make)(at);
        match way {
            Way::Fresh => {
                let range = config.source.offsets(at)?;
                slot.from = slot.bound.and_then(|b| b.from).unwrap_or(range.start).max(range.start);
                slot.open(config, task, slot.from, Phase::Live)?;
            }
            Way::Note(note) => {
                if let Some(note) = note {
                    task.resume(&note);
                }
                let offset = slot.committed.unwrap_or_default();
                slot.from = offset;
                slot.open(config, task, offset, Phase::Live)?;
            }
            Way::Again => slot.again(config, None)?,
            Way::Snapshot(id) => {
                if let Some(keep) = &slot.keep {
                    slot.loading = Some(Loading::begin(config, at, keep.store.clone(), id));
                    slot.phase = Phase::Loading;
                }
            }
        }
        Ok(slot)
    }

    /// Looks whether the snapshot has been loaded, and goes on with it. True when it went on.
    fn load(&mut self, config: &WorkerConfig, patient: bool) -> Result<bool, WorkerError> {
        let Some(loading) = &mut self.loading else { return Ok(false) };
        let Some(result) = loading.look(config, &self.at, patient) else { return Ok(false) };
        let id = std::mem::take(&mut loading.id);
        self.loading = None;
        let now = (config.clock)();
        if let Some(watch) = &mut self.watch {
            watch.step(now, |t| &mut t.load_s);
        }
        let brought = match result {
            Ok(brought) => brought,
            Err(error) => {
                if let Some(keep) = &mut self.keep {
                    keep.adopt(id.clone(), None);
                }
                return self.again(config, Some((id, error.to_string()))).map(|()| true);
            }
        };
        let goal = self.goal()?;
        let taken = &brought.taken;
        self.goal = Some(self.judge(config, goal, Some(taken.position), &id)?);
        if let Some(watch) = &mut self.watch {
            watch.loaded(&brought);
        }
        if let Some(keep) = &mut self.keep {
            keep.adopt(id, Some((brought.index, taken.position)));
        }
        self.out.resume(taken.hash());
        self.open(config, brought.task, taken.replay_offset, Phase::Refill { position: taken.position })?;
        Ok(true)
    }

    fn goal(&self) -> Result<Goal, WorkerError> {
        self.goal.ok_or_else(|| WorkerError::Unmarked {
            task: self.at.to_string(),
            offset: self.committed.unwrap_or_default(),
            group: String::new(),
        })
    }

    /// Re-processes from where the outputs began. `lost`: the snapshot that is no help, and why.
    fn again(&mut self, config: &WorkerConfig, lost: Option<(String, String)>) -> Result<(), WorkerError> {
        let snapshot = lost.as_ref().map_or("(none)", |(id, _)| id);
        let goal = self.judge(config, self.goal()?, None, snapshot)?;
        self.goal = Some(goal);
        if let Some((id, reason)) = lost {
            let range = config.source.offsets(&self.at)?;
            if range.start > goal.from {
                return Err(WorkerError::Unreadable {
                    task: format!("{} {}", config.stage, self.at),
                    snapshot: id,
                    reason,
                    from: goal.from,
                    start: range.start,
                });
            }
            tracing::warn!(stage = config.stage, task = %self.at, snapshot = id, reason, from = goal.from, to = goal.committed,
                "the snapshot is no help: state comes back from the log's own records, which takes longer");
        }
        self.open(config, (config.make)(&self.at), goal.from, Phase::Muted)
    }

    /// Whether outputs of another version may be gone on from: at a snapshot that lies exactly where they end, or knowingly.
    fn judge(&self, config: &WorkerConfig, goal: Goal, position: Option<i64>, snapshot: &str) -> Result<Goal, WorkerError> {
        let Some(theirs) = goal.other_outputs else { return Ok(goal) };
        if position == Some(goal.committed) {
            return Ok(goal);
        }
        if config.accept_new_outputs {
            tracing::warn!(stage = config.stage, task = %self.at, committed = goal.committed, theirs, ours = config.output_version,
                "new outputs accepted: re-processing is not compared with what was committed");
            return Ok(Goal { expected: None, ..goal });
        }
        Err(WorkerError::Outputs {
            task: format!("{} {}", config.stage, self.at),
            theirs,
            ours: config.output_version,
            offset: goal.committed,
            snapshot: snapshot.to_owned(),
            position: position.map_or("nowhere".to_owned(), |p| format!("at offset {p}")),
        })
    }

    /// Begins to read at `position`.
    fn open(&mut self, config: &WorkerConfig, mut task: Box<dyn Task>, position: i64, phase: Phase) -> Result<(), WorkerError> {
        task.begin(position);
        let reader = match config.source.reader(&self.at, position) {
            Err(LogError::OutOfRange { wanted, start, end, .. }) => {
                return Err(known::gone(config, &self.at, wanted, start, end));
            }
            reader => reader?,
        };
        self.work = Some(Work { task, reader });
        self.phase = phase;
        self.out.mute(phase != Phase::Live && !planted::is(Bug::Unmuted));
        let now = (config.clock)();
        self.step_began = (position, now);
        if let Some(watch) = &mut self.watch {
            watch.step(now, |t| &mut t.open_s);
        }
        self.advance(config, position)
    }

    /// Next offset to be read; the committed one while a snapshot is loaded.
    pub(super) fn position(&self) -> i64 {
        self.work.as_ref().map_or(self.committed.unwrap_or_default(), |w| w.reader.position())
    }

    pub(super) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Read past what is committed.
    pub(super) fn moved(&self) -> bool {
        self.is_live() && self.committed != Some(self.position())
    }

    /// A snapshot waits to become current.
    pub(super) fn has_news(&self) -> bool {
        self.keep.as_ref().is_some_and(Keep::has_news)
    }

    pub(super) fn at_end(&self) -> bool {
        self.is_live() && self.work.as_ref().is_some_and(|w| w.reader.at_end())
    }

    /// The epoch is about to commit.
    pub(super) fn flush(&mut self) {
        if let Some(work) = &mut self.work {
            work.task.flush(&mut self.out);
        }
    }

    /// How far the task is.
    pub(super) fn progress(&self) -> Progress {
        self.work.as_ref().map(|w| w.task.progress()).unwrap_or_default()
    }

    /// What the task's state came to; for checks.
    pub(super) fn digest(&self) -> Option<Digest> {
        self.work.as_ref().and_then(|w| w.task.digest())
    }

    /// Moves on to the next phase when the next offset to be processed is `next`.
    fn advance(&mut self, config: &WorkerConfig, next: i64) -> Result<(), WorkerError> {
        if let Phase::Refill { position } = self.phase
            && next >= position
        {
            self.phase = Phase::Muted;
            self.stepped(config, next, |t| &mut t.refill_s);
        }
        if self.phase == Phase::Muted {
            let Goal { committed, expected, .. } = self.goal()?;
            if next < committed {
                return Ok(());
            }
            if let Some(expected) = expected
                && self.out.hash() != expected
            {
                return Err(WorkerError::Diverged {
                    task: format!("{} {}", config.stage, self.at),
                    offset: committed,
                    expected: expected.to_hex(),
                    got: self.out.hash().to_hex(),
                    snapshot: self.keep.as_ref().and_then(Keep::named).unwrap_or_else(|| "(none)".to_owned()),
                });
            }
            self.out.mute(false);
            self.phase = Phase::Live;
            self.stepped(config, next, |t| &mut t.muted_s);
        }
        Ok(())
    }

    fn stepped(&mut self, config: &WorkerConfig, next: i64, of: impl FnOnce(&mut RestoreTimes) -> &mut f64) {
        let now = (config.clock)();
        self.step_began = (next, now);
        if let Some(watch) = &mut self.watch {
            watch.step(now, of);
        }
    }

    /// Reads and processes what one poll brings. True when something came. `patient`: waits for a snapshot being loaded,
    /// for whoever drives in lock step.
    pub(super) fn read(&mut self, config: &WorkerConfig, now: EventTime, patient: bool) -> Result<bool, WorkerError> {
        let Some(work) = &mut self.work else { return self.load(config, patient) };
        let stood_still = self.looked.replace(now).is_some_and(|before| now.since(before) > STOOD_STILL_NS);
        if work.reader.was_unknown() {
            let since = *self.unknown_since.get_or_insert(now);
            if !config.known.is_itself(config, &self.at, self.topic.as_deref(), now.since(since))? {
                return Ok(false);
            }
            self.unknown_since = None;
            tracing::info!(stage = config.stage, task = %self.at, "the brokers did not know the partition for a moment; it is the same");
            work.reader.is_itself();
        }
        let records = match work.reader.poll(config.poll, Duration::ZERO) {
            // Neither silent nor at its end: it holds its downstream until it answers again.
            Err(error @ LogError::Unreachable { .. }) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(stage = config.stage, task = %self.at, %error, "cannot be read: waiting");
                    config.board.raise(Cause::Unreachable, &about(config.stage, &self.at), error.to_string(), now);
                }
                work.task.quiet(now, planted::is(Bug::SilenceUnreachable), Peers::default());
                return Ok(false);
            }
            Err(LogError::OutOfRange { wanted, start, end, .. }) => {
                return Err(known::gone(config, &self.at, wanted, start, end));
            }
            records => records?,
        };
        if self.away && (!records.is_empty() || work.reader.at_end()) {
            self.away = false;
            tracing::warn!(stage = config.stage, task = %self.at, "can be read again");
            config.board.clear(Cause::Unreachable, &about(config.stage, &self.at));
        }
        let any = !records.is_empty();
        self.heard.records += records.len() as u64;
        if let (Phase::Live, Some(links)) = (self.phase, &mut self.links) {
            records.iter().for_each(|record| links.see(record));
        }
        self.heard.last = records.last().map(|r| r.timestamp).or(self.heard.last);
        for record in &records {
            if self.bound.and_then(|b| b.until).is_some_and(|until| record.offset >= until) {
                self.finish();
                return Ok(true);
            }
            self.advance(config, record.offset)?;
            self.process(record)?;
        }
        self.advance(config, self.position())?;
        if !any && let Some(work) = &mut self.work {
            let peers = config.pace.as_ref().map(|pace| pace.peers(&self.at)).unwrap_or_default();
            let (position, at_end) = (work.reader.position(), work.reader.at_end());
            // Invariant: what a reader saw before this process stood still says nothing of the time since, and the end of
            // what is committed is no silence while an open transaction holds more.
            let silent = at_end && !stood_still && !config.board.holds_more(config.stage, &self.at, position);
            work.task.quiet(now, silent, peers);
            let reached = self.bound.is_some_and(|b| match b.until {
                Some(until) => position >= until || at_end,
                None => b.ends && at_end,
            });
            if reached && self.is_live() {
                self.finish();
                return Ok(true);
            }
        }
        let due = self.keep.as_ref().is_some_and(|keep| keep.is_due(now));
        if due && self.work.as_ref().is_some_and(|w| w.task.at_boundary()) {
            self.snapshot_now(config, now);
        }
        Ok(any)
    }

    fn finish(&mut self) {
        if let Some(work) = &mut self.work {
            work.task.end(self.bound.is_some_and(|b| b.ends));
        }
        self.finished = true;
    }

    fn process(&mut self, record: &Record) -> Result<(), WorkerError> {
        let Some(work) = &mut self.work else { return Ok(()) };
        match self.phase {
            Phase::Refill { .. } => work.task.replay(record)?,
            Phase::Loading | Phase::Muted | Phase::Live => work.task.record(record, &mut self.out)?,
        }
        Ok(())
    }

    /// Begins a snapshot at the position reached, whether a slice boundary was just passed or not: rows of open slices are
    /// read again from the log. Called right after a commit it lies at the committed offset, so that a restart has nothing
    /// to do again. Nothing is to begin when the task is not live, keeps no state, has one on the way (see
    /// [`Slot::settle`]), or its newest one lies here already.
    pub(super) fn snapshot_now(&mut self, config: &WorkerConfig, now: EventTime) -> Begun {
        let live = self.is_live();
        match (&mut self.keep, &mut self.work) {
            (Some(keep), Some(work)) if live => keep.begin(config, &mut *work.task, work.reader.position(), self.out.hash(), now),
            _ => Begun::No,
        }
    }

    /// A snapshot that has been written waits for the next epoch.
    pub(super) fn snapshot_ready(&mut self, config: &WorkerConfig) {
        if let Some(keep) = &mut self.keep {
            keep.look(config, &self.at);
        }
    }

    /// What is committed for this partition.
    pub(super) fn committed_form(&self, config: &WorkerConfig) -> Committed {
        let note = || self.work.as_ref().and_then(|w| w.task.note());
        let meta = Meta {
            v: 1,
            hash: if self.keeps_note { String::new() } else { self.out.hash().to_hex() },
            from: self.from,
            outputs: config.output_version,
            topic: self.topic.clone(),
            snapshot: self.keep.as_ref().and_then(Keep::named),
            note: self.keeps_note.then(note).flatten(),
        };
        Committed { offset: self.position(), metadata: meta.encode() }
    }

    /// The epoch has committed.
    pub(super) fn committed(&mut self, config: &WorkerConfig) {
        self.committed = Some(self.position());
        if let Some(keep) = &mut self.keep {
            keep.committed(config);
        }
        if let Some(mut watch) = self.watch.take() {
            let now = (config.clock)();
            watch.step(now, |t| &mut t.commit_s);
            let t = watch.finish(now);
            if self.goal.is_some() {
                tracing::info!(stage = config.stage, task = %self.at, bytes = t.bytes, total_s = t.total_s, committed_s = t.committed_s,
                    load_s = t.load_s, read_s = t.read_s, verify_s = t.verify_s, decode_s = t.decode_s, open_s = t.open_s,
                    refill_s = t.refill_s, muted_s = t.muted_s, commit_s = t.commit_s, "restored: first epoch committed");
                if let Some(telemetry) = &config.telemetry {
                    telemetry.restored(config.stage, &self.at, now.0, &t);
                }
            }
            self.restored = Some(t);
        }
    }

    /// Waits for a snapshot that is being written.
    pub(super) fn settle(&mut self, config: &WorkerConfig) {
        // Not in a tight loop: what writes may need this core, and the system's own threads behind a slow disk do.
        while self.keep.as_ref().is_some_and(Keep::is_writing) {
            std::thread::sleep(SETTLE_PAUSE);
        }
        self.snapshot_ready(config);
    }
}
