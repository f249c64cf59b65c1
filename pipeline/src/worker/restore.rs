//! Bringing a task back: which way, loading beside the worker, what to do when a snapshot cannot be had, and how long each
//! part took.
//!
//! What always holds: a task that is being loaded blocks nobody; a snapshot that is gone for good is replaced by the log's
//! own records, or the task stops and says why; one that cannot be had for now is asked for again for as long as it takes.

use std::sync::Arc;

use tidewatch_schemas::time::EventTime;

use super::meta::Meta;
use super::side::{Job, in_turn};
use super::{WorkerConfig, WorkerError};
use crate::log::{Committed, TopicPartition};
use crate::snapshot::{Index, LoadProgress, LoadTimes, SnapshotError, SnapshotStore, Taken};
use crate::status::{Cause, RestoreTimes, about};
use crate::task::{Task, TaskError};

/// First pause before a store that failed is asked again; doubles up to [`PAUSE_NS_MAX`].
const PAUSE_NS: i64 = 1_000_000_000;

/// Longest such pause.
const PAUSE_NS_MAX: i64 = 30_000_000_000;

/// How a task comes back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Nothing is committed: from the start of its partition.
    Fresh,
    /// From the committed offset, with a note.
    Note(Option<String>),
    /// From a snapshot, then re-processing.
    Snapshot(String),
    /// Re-processing from where its outputs began.
    Again,
}

/// Decides by what is committed.
pub(super) fn way(
    config: &WorkerConfig,
    at: &TopicPartition,
    committed: Option<&Committed>,
    meta: Option<&Meta>,
    keeps: (bool, bool),
) -> Result<Way, WorkerError> {
    let (keeps_note, keeps_snapshots) = keeps;
    let Some(committed) = committed else { return Ok(Way::Fresh) };
    if keeps_note {
        return Ok(Way::Note(meta.and_then(|m| m.note.clone())));
    }
    let Some(meta) = meta else {
        return Err(WorkerError::Unmarked {
            task: format!("{} {at}", config.stage),
            offset: committed.offset,
            group: config.group.clone(),
        });
    };
    match &meta.snapshot {
        Some(id) if keeps_snapshots => Ok(Way::Snapshot(id.clone())),
        _ => Ok(Way::Again),
    }
}

/// What a loading thread brings back.
pub(super) struct Brought {
    pub task: Box<dyn Task>,
    pub taken: Taken,
    pub index: Index,
    pub bytes: u64,
    pub times: LoadTimes,
    pub decode_ns: i64,
}

/// Why it brings nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotBrought {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error("the loading thread panicked; this is a bug")]
    Panicked,
}

impl NotBrought {
    /// No later attempt can succeed.
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Snapshot(e) => e.is_lost(),
            Self::Task(_) | Self::Panicked => true,
        }
    }
}

type Load = Job<Result<Brought, NotBrought>>;

/// A snapshot on its way into a task.
pub(super) struct Loading {
    pub(super) id: String,
    store: SnapshotStore,
    pub(super) progress: Arc<LoadProgress>,
    pub(super) began: EventTime,
    job: Option<Load>,
    tries: u32,
    again_at: EventTime,
}

impl Loading {
    pub(super) fn begin(config: &WorkerConfig, at: &TopicPartition, store: SnapshotStore, id: String) -> Self {
        let now = (config.clock)();
        let mut loading = Self { id, store, progress: Arc::default(), began: now, job: None, tries: 0, again_at: now };
        loading.start(config, at);
        loading
    }

    fn start(&mut self, config: &WorkerConfig, at: &TopicPartition) {
        self.progress = Arc::default();
        let (store, id, progress, clock) = (self.store.clone(), self.id.clone(), self.progress.clone(), config.clock.clone());
        let mut task = (config.make)(at);
        self.job = Some(config.side.start("restore", move || {
            let loaded = store.load(&id, &progress, &*clock)?;
            // Side by side they would all be ready at the end; in turn the first goes on while the others are taken up.
            let decode_ns = in_turn(|| {
                let read = clock();
                task.restore(&loaded.state, &|bytes| progress.add(bytes as u64)).map(|()| clock().since(read))
            })?;
            Ok(Brought { task, taken: loaded.taken, index: loaded.index, bytes: loaded.bytes, times: loaded.times, decode_ns })
        }));
    }

    /// The result when there is one. A store that fails is asked again after a pause. `patient`: wait for the thread.
    pub(super) fn look(
        &mut self,
        config: &WorkerConfig,
        at: &TopicPartition,
        patient: bool,
    ) -> Option<Result<Brought, NotBrought>> {
        let now = (config.clock)();
        if self.job.is_none() && now >= self.again_at {
            self.start(config, at);
        }
        if !self.job.as_ref().is_some_and(|job| patient || job.is_finished()) {
            return None;
        }
        let result = self.job.take()?.take().unwrap_or(Err(NotBrought::Panicked));
        match result {
            Err(error) if !error.is_final() => {
                let pause = PAUSE_NS.saturating_mul(1 << self.tries.min(5)).min(PAUSE_NS_MAX);
                self.tries += 1;
                self.again_at = now.plus(pause);
                config.board.raise(Cause::SnapshotStore, &about(config.stage, at), error.to_string(), now);
                tracing::warn!(stage = config.stage, task = %at, %error, tries = self.tries, pause_s = pause / 1_000_000_000,
                    "the snapshot cannot be read now; asking again");
                None
            }
            result => {
                if self.tries > 0 {
                    config.board.clear(Cause::SnapshotStore, &about(config.stage, at));
                }
                Some(result)
            }
        }
    }
}

/// Moments of a restart, on their way to [`RestoreTimes`].
#[derive(Clone, Debug)]
pub(super) struct Watch {
    began: EventTime,
    step: EventTime,
    pub(super) times: RestoreTimes,
}

impl Watch {
    pub(super) fn begin(now: EventTime) -> Self {
        Self { began: now, step: now, times: RestoreTimes::default() }
    }

    /// Ends the running step.
    pub(super) fn step(&mut self, now: EventTime, of: impl FnOnce(&mut RestoreTimes) -> &mut f64) {
        *of(&mut self.times) += seconds(now.since(self.step));
        self.step = now;
    }

    /// A loading thread's own figures.
    pub(super) fn loaded(&mut self, brought: &Brought) {
        self.times.bytes = brought.bytes;
        self.times.read_s = seconds(brought.times.own_ns + brought.times.earlier_ns);
        self.times.verify_s = seconds(brought.times.verify_ns);
        self.times.decode_s = seconds(brought.decode_ns);
    }

    pub(super) fn finish(mut self, now: EventTime) -> RestoreTimes {
        self.times.total_s = seconds(now.since(self.began));
        self.times
    }
}

fn seconds(ns: i64) -> f64 {
    ns.max(0) as f64 / 1e9
}
