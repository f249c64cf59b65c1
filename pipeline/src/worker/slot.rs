//! A task in its place: its reader, its outputs, its phase on the way from a restart to live, its snapshots.

use std::collections::BTreeSet;

use tidewatch_schemas::time::EventTime;

use super::known;
use super::meta::Meta;
use super::side::Job;
use super::{Recovery, WorkerConfig, WorkerError};
use crate::epoch::{OutputHash, Outputs};
use crate::log::{Committed, LogError, Reader, Record, TopicPartition};
use crate::snapshot::{CHAIN_MAX, Index, SnapshotError, SnapshotStore, Taken};
use crate::status::{Cause, RestoreStep, TaskPhase, TaskStatus, about};
use crate::task::Task;
use crate::time::input::Peers;

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

/// How far a restarted task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Refilling slices that were open at the snapshot, up to its position.
    Refill {
        /// Snapshot's position.
        position: i64,
        /// Then muted up to here.
        committed: i64,
        /// Hash that must come out there.
        expected: OutputHash,
    },
    /// Re-processing with outputs muted.
    Muted {
        /// Up to here.
        committed: i64,
        /// Hash that must come out.
        expected: OutputHash,
    },
    /// Taking part in epochs.
    Live,
}

struct Snapshots {
    store: SnapshotStore,
    every_ns: i64,
    current: Option<String>,
    index: Index,
    last: EventTime,
    /// Position of the newest one taken.
    taken_at: Option<i64>,
    writing: Option<(String, Job<Result<Index, SnapshotError>>)>,
    ready: Option<(String, Index)>,
    sequence: u64,
    failed: bool,
}

/// What a slot counts for its worker to tell.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Records read since the worker last looked.
    pub records: u64,
    /// Timestamp of the last one.
    pub last: Option<EventTime>,
    /// When the task was begun, until it is live.
    pub restoring: Option<EventTime>,
}

pub(super) struct Slot {
    at: TopicPartition,
    pub(super) task: Box<dyn Task>,
    reader: Box<dyn Reader>,
    pub(super) out: Outputs,
    phase: Phase,
    bound: Option<Bound>,
    from: i64,
    committed: Option<i64>,
    snapshots: Option<Snapshots>,
    keeps_note: bool,
    /// It cannot be read for now.
    away: bool,
    pub(super) heard: Heard,
    /// Offset and moment at which the running step of a restart began.
    step_began: (i64, EventTime),
    pub(super) finished: bool,
}

impl Slot {
    /// Brings a task up from what is committed.
    pub(super) fn start(config: &WorkerConfig, at: &TopicPartition) -> Result<Self, WorkerError> {
        let committed = config.sink.committed(&config.group, std::slice::from_ref(at))?.pop().flatten();
        config.known.check(config, at, committed.as_ref().map(|c| c.offset))?;
        let meta = committed.as_ref().and_then(|c| Meta::decode(&c.metadata));
        let bound = config.bounds.get(at).copied();
        let mut task = (config.make)(at);
        let mut out = Outputs::default();
        let mut snapshots = match &config.recovery {
            Recovery::Replay { snapshots: Some(store), every } => Some(Snapshots {
                store: store.of(&format!("{}-{}", config.stage, at.partition)),
                every_ns: every.as_nanos() as i64,
                current: None,
                index: Index::new(),
                last: (config.clock)(),
                taken_at: None,
                writing: None,
                ready: None,
                sequence: 0,
                failed: false,
            }),
            _ => None,
        };
        let keeps_note = matches!(config.recovery, Recovery::Note);
        let start = || -> Result<i64, LogError> {
            let range = config.source.offsets(at)?;
            Ok(bound.and_then(|b| b.from).unwrap_or(range.start).max(range.start))
        };
        let (position, phase, from) = match (committed.as_ref(), meta) {
            (None, _) => {
                let start = start()?;
                (start, Phase::Live, start)
            }
            (Some(c), meta) if keeps_note => {
                if let Some(note) = meta.and_then(|m| m.note) {
                    task.resume(&note);
                }
                (c.offset, Phase::Live, c.offset)
            }
            (Some(c), meta) => {
                let meta = meta.unwrap_or_default();
                let expected = OutputHash::parse(&meta.hash).unwrap_or_default();
                match (&meta.snapshot, &mut snapshots) {
                    (Some(id), Some(s)) => {
                        let loaded = s.store.load(id)?;
                        task.restore(&loaded.state)?;
                        out.resume(loaded.taken.hash());
                        s.current = Some(id.clone());
                        s.index = loaded.index;
                        let taken = loaded.taken;
                        s.taken_at = Some(taken.position);
                        let phase = Phase::Refill { position: taken.position, committed: c.offset, expected };
                        (taken.replay_offset, phase, meta.from)
                    }
                    _ => (meta.from, Phase::Muted { committed: c.offset, expected }, meta.from),
                }
            }
        };
        task.begin(position);
        let reader = match config.source.reader(at, position) {
            Err(LogError::OutOfRange { wanted, start, end, .. }) => return Err(known::gone(config, at, wanted, start, end)),
            reader => reader?,
        };
        out.mute(phase != Phase::Live);
        let committed = committed.map(|c| c.offset);
        let step_began = (position, (config.clock)());
        let heard = Heard { restoring: Some(step_began.1), ..Heard::default() };
        let mut slot = Self {
            at: at.clone(),
            task,
            reader,
            out,
            phase,
            bound,
            from,
            committed,
            snapshots,
            keeps_note,
            away: false,
            heard,
            step_began,
            finished: false,
        };
        slot.advance(config, position)?;
        Ok(slot)
    }

    pub(super) fn position(&self) -> i64 {
        self.reader.position()
    }

    pub(super) fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Read past what is committed.
    pub(super) fn moved(&self) -> bool {
        self.is_live() && self.committed != Some(self.reader.position())
    }

    /// A snapshot waits to become current.
    pub(super) fn has_news(&self) -> bool {
        self.snapshots.as_ref().is_some_and(|s| s.ready.is_some())
    }

    pub(super) fn at_end(&self) -> bool {
        self.reader.at_end() && self.is_live()
    }

    /// Moves on to the next phase when the next offset to be processed is `next`.
    fn advance(&mut self, config: &WorkerConfig, next: i64) -> Result<(), WorkerError> {
        if let Phase::Refill { position, committed, expected } = self.phase
            && next >= position
        {
            self.phase = Phase::Muted { committed, expected };
            self.step_began = (next, (config.clock)());
        }
        if let Phase::Muted { committed, expected } = self.phase
            && next >= committed
        {
            if self.out.hash() != expected {
                return Err(WorkerError::Diverged {
                    task: format!("{} {}", config.stage, self.at),
                    offset: committed,
                    expected: expected.to_hex(),
                    got: self.out.hash().to_hex(),
                    snapshot: self.snapshots.as_ref().and_then(|s| s.current.clone()).unwrap_or_else(|| "(none)".to_owned()),
                });
            }
            self.out.mute(false);
            self.phase = Phase::Live;
        }
        Ok(())
    }

    /// Reads and processes what one poll brings. True when something came.
    pub(super) fn read(&mut self, config: &WorkerConfig, now: EventTime) -> Result<bool, WorkerError> {
        let records = match self.reader.poll(config.poll, std::time::Duration::ZERO) {
            // Neither silent nor at its end: it holds its downstream until it answers again.
            Err(error @ LogError::Unreachable { .. }) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(stage = config.stage, task = %self.at, %error, "cannot be read: waiting");
                    config.board.raise(Cause::Unreachable, &about(config.stage, &self.at), error.to_string(), now);
                }
                self.task.quiet(now, false, Peers::default());
                return Ok(false);
            }
            Err(LogError::OutOfRange { wanted, start, end, .. }) => {
                return Err(known::gone(config, &self.at, wanted, start, end));
            }
            records => records?,
        };
        if self.away && (!records.is_empty() || self.reader.at_end()) {
            self.away = false;
            tracing::warn!(stage = config.stage, task = %self.at, "can be read again");
            config.board.clear(Cause::Unreachable, &about(config.stage, &self.at));
        }
        if self.reader.was_unknown() {
            // It may be another topic of the same name; then the brokers have forgotten the positions of the first.
            let committed = config.sink.committed(&config.group, std::slice::from_ref(&self.at))?.pop().flatten();
            config.known.check(config, &self.at, committed.map(|c| c.offset))?;
        }
        let any = !records.is_empty();
        self.heard.records += records.len() as u64;
        self.heard.last = records.last().map(|r| r.timestamp).or(self.heard.last);
        for record in &records {
            if self.bound.and_then(|b| b.until).is_some_and(|until| record.offset >= until) {
                self.finish();
                return Ok(true);
            }
            self.advance(config, record.offset)?;
            self.process(record)?;
        }
        self.advance(config, self.reader.position())?;
        if !any {
            let peers = config.pace.as_ref().map(|pace| pace.peers(&self.at)).unwrap_or_default();
            self.task.quiet(now, self.reader.at_end(), peers);
            let reached = self.bound.is_some_and(|b| match b.until {
                Some(until) => self.reader.position() >= until || self.reader.at_end(),
                None => b.ends && self.reader.at_end(),
            });
            if reached && self.is_live() {
                self.finish();
                return Ok(true);
            }
        }
        self.begin_snapshot(config, now)?;
        Ok(any)
    }

    fn finish(&mut self) {
        self.task.end(self.bound.is_some_and(|b| b.ends));
        self.finished = true;
    }

    fn process(&mut self, record: &Record) -> Result<(), WorkerError> {
        match self.phase {
            Phase::Refill { .. } => self.task.replay(record)?,
            Phase::Muted { .. } | Phase::Live => self.task.record(record, &mut self.out)?,
        }
        Ok(())
    }

    /// Takes a snapshot when one is due and a slice boundary was just passed; writing goes on beside the hot path.
    fn begin_snapshot(&mut self, config: &WorkerConfig, now: EventTime) -> Result<(), WorkerError> {
        let due = self.snapshots.as_ref().is_some_and(|s| now.since(s.last) >= s.every_ns);
        if due && self.task.at_boundary() {
            self.snapshot_now(config, now);
        }
        Ok(())
    }

    /// Begins a snapshot at the position reached, whether a slice boundary was just passed or not: rows of open slices are
    /// read again from the log. Called right after a commit it lies at the committed offset, so that a restart has nothing
    /// to do again. False when there is nothing to begin: the task is not live, keeps no state, has one on the way (see
    /// [`Slot::settle`]), or its newest one lies here already.
    pub(super) fn snapshot_now(&mut self, config: &WorkerConfig, now: EventTime) -> bool {
        let position = self.reader.position();
        let Some(s) = &mut self.snapshots else { return false };
        if self.phase != Phase::Live || s.writing.is_some() || s.ready.is_some() || s.taken_at == Some(position) {
            return false;
        }
        s.last = now;
        let objects: BTreeSet<&String> = s.index.values().collect();
        let full = s.current.is_none() || s.failed || objects.len() >= CHAIN_MAX;
        let Some(state) = self.task.state(full) else { return false };
        s.taken_at = Some(position);
        let taken = Taken { position, replay_offset: state.replay_offset.unwrap_or(position), hash: self.out.hash().0 };
        s.sequence += 1;
        let id = format!("{:020}-{}-{}", position.max(0), now.0, s.sequence);
        let (store, before, name) = (s.store.clone(), s.index.clone(), id.clone());
        s.writing = Some((id, config.side.start("snapshot", move || store.write(&name, &taken, state, &before))));
        true
    }

    /// A snapshot that has been written waits for the next epoch.
    pub(super) fn snapshot_ready(&mut self) {
        let Some(s) = &mut self.snapshots else { return };
        if !s.writing.as_ref().is_some_and(|(_, job)| job.is_finished()) {
            return;
        }
        let Some((id, job)) = s.writing.take() else { return };
        match job.take() {
            Ok(Ok(index)) => {
                s.failed = false;
                s.ready = Some((id, index));
            }
            Ok(Err(e)) => {
                tracing::warn!(task = %self.at, error = %e, "snapshot not written: the next one is whole; restarts take longer until then");
                s.failed = true;
                s.taken_at = None;
            }
            Err(_) => {
                s.failed = true;
                s.taken_at = None;
            }
        }
    }

    /// What is committed for this partition.
    pub(super) fn committed_form(&self) -> Committed {
        let snapshot = self.snapshots.as_ref().and_then(|s| s.ready.as_ref().map(|(id, _)| id.clone()).or(s.current.clone()));
        let meta = Meta {
            v: 1,
            hash: if self.keeps_note { String::new() } else { self.out.hash().to_hex() },
            from: self.from,
            snapshot,
            note: self.keeps_note.then(|| self.task.note()).flatten(),
        };
        Committed { offset: self.reader.position(), metadata: meta.encode() }
    }

    /// The epoch has committed.
    pub(super) fn committed(&mut self, config: &WorkerConfig, _now: EventTime) -> Result<(), WorkerError> {
        let _ = config;
        self.committed = Some(self.reader.position());
        if let Some(s) = &mut self.snapshots
            && let Some((id, index)) = s.ready.take()
        {
            let mut keep: BTreeSet<String> = index.values().cloned().collect();
            keep.insert(id.clone());
            s.current = Some(id);
            s.index = index;
            s.store.sweep(&keep);
        }
        Ok(())
    }

    /// How the task is, for its line on the board.
    pub(super) fn report(&self, line: &mut TaskStatus) {
        line.position = self.reader.position();
        line.committed = self.committed;
        line.at_end = self.reader.at_end();
        line.progress = self.task.progress();
        line.phase = match self.phase {
            _ if self.finished => TaskPhase::Finished,
            Phase::Live => TaskPhase::Live,
            Phase::Refill { position, .. } => self.restoring(RestoreStep::Refill, position),
            Phase::Muted { committed, .. } => self.restoring(RestoreStep::Muted, committed),
        };
    }

    fn restoring(&self, step: RestoreStep, until: i64) -> TaskPhase {
        let (begin, since) = self.step_began;
        let offsets = |to: i64| u64::try_from(to - begin).unwrap_or_default();
        TaskPhase::Restoring { step, done: offsets(self.reader.position()), of: offsets(until), since }
    }

    /// Waits for a snapshot that is being written.
    pub(super) fn settle(&mut self) {
        let Some(s) = &mut self.snapshots else { return };
        while s.writing.as_ref().is_some_and(|(_, job)| !job.is_finished()) {
            std::thread::yield_now();
        }
        self.snapshot_ready();
    }
}
