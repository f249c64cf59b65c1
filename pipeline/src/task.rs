//! A task: a stage's work on one partition. Reads records in order, writes into an epoch, can be noted down at any
//! record boundary and taken up again. The worker drives it and owns reading, committing and restarting.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

use crate::epoch::Outputs;
use crate::log::Record;
use crate::time::input::Peers;

/// A reason to stop that a retry cannot heal. Names what to do.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// A record of an internal topic that this binary cannot read: somebody else writes there, or a newer version did.
    #[error("{topic}/{partition} offset {offset}: {reason}; was the topic written by a newer tidewatch, or by hand?")]
    Foreign {
        /// Topic.
        topic: String,
        /// Partition.
        partition: u32,
        /// Offset.
        offset: i64,
        /// What is wrong.
        reason: String,
    },
    /// Local disk.
    #[error("spilling to local disk failed: {0}")]
    Spill(#[from] std::io::Error),
    /// A snapshot that cannot be taken up.
    #[error("snapshot of {task} cannot be restored: {reason}")]
    Restore {
        /// Task.
        task: String,
        /// What is wrong.
        reason: String,
    },
}

/// State of a task in parts, to be written at a slice boundary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Everything small: watermarks, roster, versions, list of inputs.
    pub head: Vec<u8>,
    /// State groups: changed ones, or all.
    pub parts: BTreeMap<(String, u16), Bytes>,
    /// Whether `parts` are all there are.
    pub full: bool,
    /// Lowest offset that holds a row of an open slice; `None` = no row waits.
    pub replay_offset: Option<i64>,
}

/// What a task's state came to: two tasks of one log that have closed as much have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Slices are closed up to here.
    pub closed: EventTime,
    /// BLAKE3 over all state groups, in their order.
    pub state: [u8; 32],
}

impl Digest {
    /// Over (operator, key group) and bytes, in order.
    pub fn over(closed: EventTime, groups: impl IntoIterator<Item = ((String, u16), Vec<u8>)>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for ((operator, group), bytes) in groups {
            for field in [operator.as_bytes(), &group.to_le_bytes(), &bytes] {
                hasher.update(&(field.len() as u64).to_le_bytes());
                hasher.update(field);
            }
        }
        Self { closed, state: *hasher.finalize().as_bytes() }
    }
}

/// What the pace-maker and the people need to know of a task.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Watermark, or the bound up to which slices are closed.
    pub watermark: Option<EventTime>,
    /// What holds it up, in words.
    pub held_by: Option<String>,
    /// Rows waiting in open slices.
    pub waiting_rows: u64,
    /// Rows spilled to disk so far.
    pub spilled_rows: u64,
    /// Keys with state.
    pub keys: u64,
    /// Bytes of state.
    pub state_bytes: u64,
    /// Keys evicted at a limit.
    pub evicted: u64,
    /// Most bytes of state before keys are evicted; 0 = no limit is known.
    #[serde(default)]
    pub state_bytes_max: u64,
    /// Slices with rows that wait.
    #[serde(default)]
    pub open_slices: u64,
    /// Bytes of them in memory.
    #[serde(default)]
    pub slice_bytes: u64,
    /// Most of them before rows spill; 0 = no limit is known.
    #[serde(default)]
    pub slice_bytes_max: u64,
    /// State by rule.
    #[serde(default)]
    pub rules: Vec<RuleFigures>,
    /// Verdicts by rule.
    #[serde(default)]
    pub judged: Vec<JudgedFigures>,
    /// New pairs not reported one by one, at a limit.
    #[serde(default)]
    pub contacts_withheld: u64,
    /// Open connections forgotten at a limit.
    #[serde(default)]
    pub connections_evicted: u64,
    /// Rows have come, and it is not silent since.
    #[serde(default)]
    pub active: bool,
    /// Nothing will follow.
    pub done: bool,
}

/// State of one rule in one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFigures {
    /// Rule id.
    pub rule: String,
    /// Its detector, by the kind that rules name.
    pub detector: String,
    /// Keys with state.
    pub keys: u64,
    /// Bytes of state.
    pub bytes: u64,
    /// Keys evicted at a limit.
    pub evicted: u64,
    /// Findings that an exception kept back, since the task began.
    #[serde(default)]
    pub allowed: u64,
    /// Rows that the rule's `where` let its detector not see.
    #[serde(default)]
    pub where_rows: u64,
    /// Findings that the rule's `where` did not let through.
    #[serde(default)]
    pub where_findings: u64,
    /// Rows or findings that did not match because of an error in them.
    #[serde(default)]
    pub where_errors: u64,
}

/// What came of one rule's candidates in one task.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedFigures {
    /// Rule id.
    pub rule: String,
    /// Became signals.
    pub signals: u64,
    /// Would have become signals, but that the rule runs in shadow.
    #[serde(default)]
    pub shadow: u64,
    /// Held back by suppression.
    pub suppressed: u64,
    /// Too common, or otherwise nothing in the tenant's view.
    pub dismissed: u64,
    /// Held back by an exception up to its severity.
    #[serde(default)]
    pub allowed: u64,
}

/// A stage's work on one partition.
pub trait Task: Send {
    /// The first record to come lies at or after `position`.
    fn begin(&mut self, position: i64) {
        let _ = position;
    }

    /// One record, in order. Outputs are a function of the records alone.
    fn record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), TaskError>;

    /// The partition had nothing to give at wall-clock time `now`; `at_end` says that a successful fetch showed it.
    fn quiet(&mut self, now: EventTime, at_end: bool, peers: Peers) {
        let _ = (now, at_end, peers);
    }

    /// No record will come (files, bounded ranges). `closes` says that the input's time ends with it, so that its last
    /// slices close; otherwise only what was recorded about the range still counts.
    fn end(&mut self, closes: bool) {
        let _ = closes;
    }

    /// The epoch is about to commit: write what is pending.
    fn flush(&mut self, out: &mut Outputs) {
        let _ = out;
    }

    /// What must survive a restart beside a snapshot, at most 3 KiB.
    fn note(&self) -> Option<String> {
        None
    }

    /// Takes up what [`Task::note`] gave.
    fn resume(&mut self, note: &str) {
        let _ = note;
    }

    /// Whether a slice boundary was just passed, so that a snapshot is worth taking.
    fn at_boundary(&self) -> bool {
        false
    }

    /// State to write; `None` = this task keeps none.
    fn state(&mut self, full: bool) -> Option<State> {
        let _ = full;
        None
    }

    /// Takes up a state; `done` is told of bytes taken up. Until the state's position [`Task::replay`] is called instead of
    /// [`Task::record`].
    fn restore(&mut self, state: &State, done: &dyn Fn(usize)) -> Result<(), TaskError> {
        let _ = (state, done);
        Ok(())
    }

    /// A record between a snapshot's replay offset and its position: only rows of slices open then are taken.
    fn replay(&mut self, record: &Record) -> Result<(), TaskError> {
        let _ = record;
        Ok(())
    }

    /// How far it is.
    fn progress(&self) -> Progress;

    /// Digest of what closed slices left behind; `None` = nothing is kept. Walks over all state: for checks alone.
    fn digest(&self) -> Option<Digest> {
        None
    }
}
