//! What a failure means for a running job: does it pass when its cause is gone, or must somebody decide first.
//!
//! Pure: errors in, verdict out. What always holds: nothing that was committed is in doubt when the verdict is *wait* (the
//! worker starts again from what is committed), and an error that could skip or repeat records is never waited out.

use crate::log::{CommitError, LogError};
use crate::snapshot::SnapshotError;
use crate::task::TaskError;
use crate::worker::WorkerError;

use super::RunError;

/// Why a worker waits. Each is gone when somebody or something outside heals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// No answer from the log's servers.
    Unreachable,
    /// The login or the rights were refused.
    Denied,
    /// A topic or partition is not there.
    Missing,
    /// Local disk is full or failing: the log's, or that of spilled slices.
    Storage,
    /// The object store with the snapshots does not answer.
    Snapshots,
    /// Epoch after epoch was aborted by the brokers.
    Aborted,
    /// The client said something that has no name here.
    Other,
}

impl Cause {
    /// All, as documented.
    pub const ALL: &'static [Self] =
        &[Self::Unreachable, Self::Denied, Self::Missing, Self::Storage, Self::Snapshots, Self::Aborted, Self::Other];

    /// One word, for metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Missing => "missing",
            Self::Storage => "storage",
            Self::Snapshots => "snapshots",
            Self::Aborted => "aborted",
            Self::Other => "other",
        }
    }

    /// What somebody can do about it.
    pub fn what_to_do(self) -> &'static str {
        match self {
            Self::Unreachable => "look whether the brokers run and a majority of controllers is there; goes on by itself",
            Self::Denied => {
                "give the user its password and rights back (docs/kafka.md lists them; `tidewatch validate --online` shows what is \
                 missing); a new password in the password file is taken up; goes on by itself"
            }
            Self::Missing => {
                "make the topic again, with the same partitions; goes on by itself where no position was lost with it, and says so \
                 where one was"
            }
            Self::Storage => "free space on the disk; goes on by itself",
            Self::Snapshots => "bring the object store back; goes on by itself",
            Self::Aborted => "look at the reason and at the brokers' logs; tried again by itself",
            Self::Other => "look at the reason and at the brokers' logs; tried again by itself",
        }
    }
}

/// Why to wait after this error; `None` = stop, waiting would not help or would not be safe.
pub fn cause(error: &RunError) -> Option<Cause> {
    match error {
        RunError::Log(log) => of_log(log),
        RunError::Worker { source, .. } => match source {
            WorkerError::Log(log) | WorkerError::Commit(CommitError::Log(log)) => of_log(log),
            WorkerError::Commit(CommitError::Aborted { .. }) => Some(Cause::Aborted),
            WorkerError::Snapshot(SnapshotError::Store { source, .. }) => of_store(source),
            WorkerError::Task(TaskError::Spill(_)) => Some(Cause::Storage),
            _ => None,
        },
        _ => None,
    }
}

/// Of an error of the log.
pub fn of_log(error: &LogError) -> Option<Cause> {
    match error {
        LogError::Unreachable { .. } => Some(Cause::Unreachable),
        LogError::Denied { .. } => Some(Cause::Denied),
        LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. } => Some(Cause::Missing),
        LogError::Storage { .. } => Some(Cause::Storage),
        LogError::Client { .. } => Some(Cause::Other),
        // Another count of partitions, positions that are gone, a directory or a name that belongs to somebody else, bytes
        // that are not what was written: more of the same would not help, or would do harm.
        LogError::Partitions { .. }
        | LogError::OutOfRange { .. }
        | LogError::Replaced { .. }
        | LogError::Locked { .. }
        | LogError::Damaged { .. }
        | LogError::Unsupported { .. } => None,
    }
}

fn of_store(error: &object_store::Error) -> Option<Cause> {
    match error {
        // What is named in a commit must be there: only somebody who removed it can say why it is not.
        object_store::Error::NotFound { .. } => None,
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => Some(Cause::Denied),
        _ => Some(Cause::Snapshots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::TopicPartition;

    fn worker(source: WorkerError) -> RunError {
        RunError::Worker { stage: "detect", source }
    }

    #[test]
    fn what_heals_is_waited_for_and_what_does_not_is_not() {
        let at = TopicPartition::new("t", 0);
        let unknown = || LogError::UnknownTopic { topic: "t".into() };
        let gone = || LogError::OutOfRange { at: at.clone(), wanted: 5, start: 0, end: 2 };
        assert_eq!(cause(&RunError::Log(unknown())), Some(Cause::Missing));
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Log(unknown())))), Some(Cause::Missing));
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Aborted { reason: "x".into() }))), Some(Cause::Aborted));
        assert_eq!(cause(&worker(TaskError::Spill(std::io::Error::other("full")).into())), Some(Cause::Storage));
        assert_eq!(cause(&worker(gone().into())), None);
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Fenced { id: "w".into(), reason: "x".into() }))), None);
        assert_eq!(cause(&RunError::Panic { stage: "detect" }), None);
    }

    #[test]
    fn every_cause_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<&str> = Cause::ALL.iter().map(|c| c.name()).collect();
        assert_eq!(names.len(), Cause::ALL.len());
    }
}
