//! A task in its place: its reader, its outputs, its phase on the way from a restart to live, its snapshots.

use std::collections::BTreeSet;

use tidewatch_operators::planted::{self, Bug};
use tidewatch_schemas::time::EventTime;

use super::meta::Meta;
use super::side::Job;
use super::{Recovery, WorkerConfig, WorkerError};
use crate::epoch::{OutputHash, Outputs};
use crate::log::{Committed, LogError, Reader, Record, TopicPartition};
use crate::snapshot::{CHAIN_MAX, Index, SnapshotError, SnapshotStore, Taken};
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
    writing: Option<(String, Job<Result<Index, SnapshotError>>)>,
    ready: Option<(String, Index)>,
    sequence: u64,
    failed: bool,
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
    pub(super) finished: bool,
}

impl Slot {
    /// Brings a task up from what is committed.
    pub(super) fn start(config: &WorkerConfig, at: &TopicPartition) -> Result<Self, WorkerError> {
        let committed = config.sink.committed(&config.group, std::slice::from_ref(at))?.pop().flatten();
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
                        let phase = Phase::Refill { position: taken.position, committed: c.offset, expected };
                        (taken.replay_offset, phase, meta.from)
                    }
                    _ => (meta.from, Phase::Muted { committed: c.offset, expected }, meta.from),
                }
            }
        };
        task.begin(position);
        let reader = match config.source.reader(at, position) {
            Err(LogError::OutOfRange { start, .. }) if position < start => {
                return Err(WorkerError::Lost { task: format!("{} {at}", config.stage), from: position, to: start });
            }
            reader => reader?,
        };
        out.mute(phase != Phase::Live);
        let committed = committed.map(|c| c.offset);
        let mut slot =
            Self { at: at.clone(), task, reader, out, phase, bound, from, committed, snapshots, keeps_note, finished: false };
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
                tracing::warn!(task = %self.at, %error, "unreachable: waiting");
                self.task.quiet(now, planted::is(Bug::SilenceUnreachable), Peers::default());
                return Ok(false);
            }
            records => records?,
        };
        let any = !records.is_empty();
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
        let Some(s) = &mut self.snapshots else { return Ok(()) };
        let due = now.since(s.last) >= s.every_ns && s.writing.is_none() && s.ready.is_none();
        if !due || self.phase != Phase::Live || !self.task.at_boundary() {
            return Ok(());
        }
        s.last = now;
        let objects: BTreeSet<&String> = s.index.values().collect();
        let full = s.current.is_none() || s.failed || objects.len() >= CHAIN_MAX;
        let Some(state) = self.task.state(full) else { return Ok(()) };
        let position = self.reader.position();
        let taken = Taken { position, replay_offset: state.replay_offset.unwrap_or(position), hash: self.out.hash().0 };
        s.sequence += 1;
        let id = format!("{:020}-{}-{}", position.max(0), now.0, s.sequence);
        let (store, before, name) = (s.store.clone(), s.index.clone(), id.clone());
        s.writing = Some((id, config.side.start("snapshot", move || store.write(&name, &taken, state, &before))));
        Ok(())
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
                if planted::is(Bug::SnapshotEarly) {
                    let keep = index.values().cloned().chain([id.clone()]).collect();
                    s.store.sweep(&keep);
                }
                s.ready = Some((id, index));
            }
            Ok(Err(e)) => {
                tracing::warn!(task = %self.at, error = %e, "snapshot not written: the next one is whole; restarts take longer until then");
                s.failed = true;
            }
            Err(_) => s.failed = true,
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

    /// Waits for a snapshot that is being written.
    pub(super) fn settle(&mut self) {
        let Some(s) = &mut self.snapshots else { return };
        while s.writing.as_ref().is_some_and(|(_, job)| !job.is_finished()) {
            std::thread::yield_now();
        }
        self.snapshot_ready();
    }
}
