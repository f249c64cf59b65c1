//! A task's snapshots while it works: when the next one is due, one being written, one waiting for its epoch, old ones
//! being removed, and what is to be said of all that.
//!
//! What always holds: the hot path only packs; writing and removing go on beside it. A store that is away costs nothing but
//! longer restarts: it is tried again, with growing pauses, for as long as it takes. All snapshots of a process together take
//! no more memory than `room.rs` gives.

use tidewatch_operators::planted::{self, Bug};
use tidewatch_schemas::time::EventTime;

use super::room::Room;
use super::side::{Job, Side};
use super::{Recovery, WorkerConfig};
use crate::epoch::OutputHash;
use crate::log::TopicPartition;
use crate::snapshot::{self, CHAIN_MAX, Index, SnapshotError, SnapshotStore, Stamp, Taken, id};
use crate::status::{Cause, SnapshotStatus, about};
use crate::task::Task;

/// After failures in a row the pause between two attempts doubles up to so many times the usual one.
const PAUSE_FACTOR_MAX: i64 = 4;

struct Writing {
    id: String,
    at: EventTime,
    job: Job<Result<(Index, u64), SnapshotError>>,
}

/// What came of a wish to take a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begun {
    /// It is on its way.
    Yes,
    /// None is to be taken.
    No,
    /// Others take all the memory that there is for snapshots.
    NoRoom,
}

struct Ready {
    id: String,
    index: Index,
}

pub(super) struct Keep {
    pub(super) store: SnapshotStore,
    every_ns: i64,
    writer: String,
    stamp: Stamp,
    /// The committed one.
    current: Option<String>,
    index: Index,
    /// The next one is written whole.
    whole: bool,
    last: EventTime,
    /// The next one is due and waits for room.
    waits: bool,
    /// Position of the newest one taken.
    taken_at: Option<i64>,
    writing: Option<Writing>,
    ready: Option<Ready>,
    sweeping: Option<Job<usize>>,
    failed_in_a_row: u32,
    status: SnapshotStatus,
}

impl Keep {
    /// `None` when the stage keeps no snapshots.
    pub(super) fn new(config: &WorkerConfig, at: &TopicPartition) -> Option<Self> {
        let Recovery::Replay { snapshots: Some(store), every } = &config.recovery else { return None };
        Some(Self {
            store: store.of(&format!("{}-{}", config.stage, at.partition)),
            every_ns: every.as_nanos() as i64,
            writer: config.writer_id.clone(),
            stamp: Stamp::own(config.output_version),
            current: None,
            index: Index::new(),
            whole: true,
            last: (config.clock)(),
            waits: false,
            taken_at: None,
            writing: None,
            ready: None,
            sweeping: None,
            failed_in_a_row: 0,
            status: SnapshotStatus::default(),
        })
    }

    /// The committed snapshot; `index` is that of the state that the task has now, `None` when it could not be read.
    pub(super) fn adopt(&mut self, id: String, loaded: Option<(Index, i64)>) {
        self.status.current = Some(id.clone());
        self.current = Some(id);
        self.whole = loaded.is_none();
        if let Some((index, position)) = loaded {
            self.index = index;
            self.taken_at = Some(position);
        }
    }

    /// Enough time has passed since the last one.
    pub(super) fn is_due(&self, now: EventTime) -> bool {
        let doubled = 1i64.checked_shl(self.failed_in_a_row).unwrap_or(i64::MAX).clamp(1, PAUSE_FACTOR_MAX);
        now.since(self.last) >= self.every_ns.saturating_mul(doubled)
    }

    /// Takes one at `position`, unless one is on its way or the newest lies there already.
    pub(super) fn begin(
        &mut self,
        config: &WorkerConfig,
        task: &mut dyn Task,
        position: i64,
        hash: OutputHash,
        now: EventTime,
    ) -> Begun {
        if self.writing.is_some() || self.ready.is_some() || self.taken_at == Some(position) {
            return Begun::No;
        }
        // Written at once, it waits for nobody; and simulated processes know nothing of each other.
        let room = if config.side == Side::InPlace { None } else { Room::take(task.progress().state_bytes) };
        if room.is_none() && config.side != Side::InPlace {
            self.status.waited += u64::from(!std::mem::replace(&mut self.waits, true));
            return Begun::NoRoom;
        }
        self.waits = false;
        self.last = now;
        let whole = self.whole || snapshot::objects(&self.index).len() >= CHAIN_MAX;
        let Some(state) = task.state(whole) else { return Begun::No };
        self.taken_at = Some(position);
        let taken = Taken { position, replay_offset: state.replay_offset.unwrap_or(position), hash: hash.0 };
        let id = id::next(self.current.as_deref(), position, &self.writer, now.0);
        let (store, stamp, before, name) = (self.store.clone(), self.stamp.clone(), self.index.clone(), id.clone());
        let job = config.side.start("snapshot", move || {
            let written = store.write(&name, &stamp, &taken, state, &before);
            drop(room);
            written
        });
        self.writing = Some(Writing { id, at: now, job });
        Begun::Yes
    }

    /// Looks whether the one being written is done; if so it waits for the next epoch.
    pub(super) fn look(&mut self, config: &WorkerConfig, at: &TopicPartition) {
        if !self.writing.as_ref().is_some_and(|w| w.job.is_finished()) {
            return;
        }
        let Some(Writing { id, at: began, job }) = self.writing.take() else { return };
        let now = (config.clock)();
        let written = job.take().unwrap_or_else(|_| {
            Err(SnapshotError::Store { name: id.clone(), reason: "the writing thread panicked; this is a bug".to_owned() })
        });
        let whom = about(config.stage, at);
        match written {
            Ok((index, bytes)) => {
                self.whole = false;
                self.status.bytes = bytes;
                self.status.at = Some(began);
                self.status.took_s = now.since(began).max(0) as f64 / 1e9;
                if std::mem::take(&mut self.failed_in_a_row) > 0 {
                    tracing::warn!(stage = config.stage, task = %at, snapshot = id, "snapshots are written again");
                    self.status.failed = None;
                    config.board.clear(Cause::SnapshotStore, &whom);
                    config.board.clear(Cause::DiskFull, &whom);
                }
                tracing::debug!(stage = config.stage, task = %at, snapshot = id, bytes, took_s = self.status.took_s, "snapshot written");
                if planted::is(Bug::SnapshotEarly) {
                    self.store.sweep(&id, &snapshot::objects(&index));
                }
                self.ready = Some(Ready { id, index });
            }
            Err(error) => {
                // What changed since is not known any more: the next one is whole.
                self.whole = true;
                self.taken_at = None;
                self.failed_in_a_row += 1;
                self.status.failures += 1;
                self.status.failed = Some(error.to_string());
                let cause = if matches!(error, SnapshotError::Full { .. }) { Cause::DiskFull } else { Cause::SnapshotStore };
                config.board.raise(cause, &whom, error.to_string(), now);
                tracing::warn!(stage = config.stage, task = %at, %error, failures = self.failed_in_a_row,
                    "snapshot not written; epochs go on, restarts take longer until one is");
            }
        }
    }

    /// One waits to become current.
    pub(super) fn has_news(&self) -> bool {
        self.ready.is_some()
    }

    /// What the next epoch's metadata name.
    pub(super) fn named(&self) -> Option<String> {
        self.ready.as_ref().map(|r| r.id.clone()).or_else(|| self.current.clone())
    }

    /// The epoch has committed: what it named is current, and what nobody needs any more goes.
    pub(super) fn committed(&mut self, config: &WorkerConfig) {
        let Some(Ready { id, index }) = self.ready.take() else { return };
        self.status.current = Some(id.clone());
        self.current = Some(id.clone());
        self.index = index;
        if self.sweeping.as_ref().is_some_and(|job| !job.is_finished()) {
            return;
        }
        let (store, keep) = (self.store.clone(), snapshot::objects(&self.index));
        self.sweeping = Some(config.side.start("snapshot-sweep", move || store.sweep(&id, &keep)));
    }

    /// Whether one is being written.
    pub(super) fn is_writing(&self) -> bool {
        self.writing.as_ref().is_some_and(|w| !w.job.is_finished())
    }

    /// What is to be said.
    pub(super) fn status(&self) -> SnapshotStatus {
        self.status.clone()
    }
}
