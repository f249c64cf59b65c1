//! What can stop a worker, or one task of it; every message says what to do.

use crate::log::{CommitError, LogError};
use crate::task::TaskError;

/// What stops a worker.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A task.
    #[error(transparent)]
    Task(#[from] TaskError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log, at a commit.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// Re-processing gave other outputs than those that are committed.
    #[error(
        "{task}: re-processing up to offset {offset} does not reproduce what was committed (expected {expected}, got {got}); \
         keep the topic, the snapshot {snapshot} and both binaries, and start from a snapshot at the committed offset"
    )]
    Diverged {
        /// Task.
        task: String,
        /// Committed offset.
        offset: i64,
        /// Committed hash.
        expected: String,
        /// Hash now.
        got: String,
        /// Snapshot it started from.
        snapshot: String,
    },
    /// The snapshot is no help and the log no longer holds what could replace it.
    #[error(
        "{task}: snapshot {snapshot} cannot be taken up ({reason}), and the log begins at {start}, so that its state cannot come \
         back from records {from}..; bring the snapshot's objects back from a backup of the store and start again"
    )]
    Unreadable {
        /// Task.
        task: String,
        /// Snapshot.
        snapshot: String,
        /// What is wrong with it.
        reason: String,
        /// First offset that would be needed.
        from: i64,
        /// First offset kept.
        start: i64,
    },
    /// This binary gives other outputs than the one that committed, and no snapshot lies where those end.
    #[error(
        "{task}: offset {offset} was committed by a tidewatch whose outputs are of version {theirs}, this one's are of version \
         {ours}, and its snapshot {snapshot} lies {position}: re-processing could not give again what was committed. Stop the \
         older version with SIGTERM, which leaves a snapshot at the committed offset, then start this one; or start this one \
         with --accept-new-outputs, which goes on without that proof"
    )]
    Outputs {
        /// Task.
        task: String,
        /// Version of the committed outputs.
        theirs: u32,
        /// Version of this binary's.
        ours: u32,
        /// Committed offset.
        offset: i64,
        /// Snapshot.
        snapshot: String,
        /// Where it lies, in words.
        position: String,
    },
    /// An offset that no tidewatch committed.
    #[error(
        "{task}: offset {offset} of group {group} was committed without tidewatch's metadata, by hand or by another program, so \
         that its state cannot be known; delete the group's offsets to begin anew (kafka-consumer-groups.sh --delete-offsets)"
    )]
    Unmarked {
        /// Task.
        task: String,
        /// Offset.
        offset: i64,
        /// Group.
        group: String,
    },
    /// The log no longer holds what a restart needs.
    #[error("{task}: offsets {from}..{to} are needed to restore its state and the log begins at {to}")]
    Lost {
        /// Task.
        task: String,
        /// First needed.
        from: i64,
        /// First kept.
        to: i64,
    },
    /// The topic is another one than that in which the group has its position.
    #[error(
        "{task}: topic {topic} was deleted and made again: group {group} worked on the one with id {was}{committed}, now there is \
         one with id {now}; the task stops, so that nothing is skipped or done twice. If that was meant: stop every process of \
         this deployment and start each once with `tidewatch run TOPOLOGY --accept-new-topics`, which begins at the first record \
         of the new topic; what went with the old one and was not read is lost"
    )]
    Recreated {
        /// Task.
        task: Box<str>,
        /// Topic.
        topic: Box<str>,
        /// Group.
        group: Box<str>,
        /// Id of the topic as it was.
        was: Box<str>,
        /// Id that the brokers give now.
        now: Box<str>,
        /// Where the group stood, in words; empty where the brokers have forgotten it.
        committed: Box<str>,
    },
    /// What is committed lies beyond the topic's end, or is less than it was.
    #[error(
        "{task}: group {group} committed offset {committed} and {found}: positions were set, or the topic was deleted and made \
         again by brokers that give no ids; the task stops, so that nothing is skipped or done twice. If that was meant: stop every process of this \
         deployment, forget the positions with `kafka-consumer-groups.sh --delete-offsets --group {group} --topic \
         {topic}`, and start again; what went with the old topic and was not read is lost"
    )]
    Rewound {
        /// Task.
        task: String,
        /// Topic.
        topic: String,
        /// Group.
        group: String,
        /// What it had committed.
        committed: i64,
        /// What is there now, in words.
        found: Box<str>,
    },
}

impl WorkerError {
    /// One task cannot go on, and no retry can heal it; the others are not concerned.
    pub(super) fn is_one_tasks(&self) -> bool {
        match self {
            Self::Task(error) => matches!(error, TaskError::Foreign { .. } | TaskError::Restore { .. }),
            Self::Diverged { .. }
            | Self::Lost { .. }
            | Self::Rewound { .. }
            | Self::Recreated { .. }
            | Self::Unreadable { .. }
            | Self::Outputs { .. }
            | Self::Unmarked { .. } => true,
            _ => false,
        }
    }
}
