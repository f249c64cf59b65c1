//! What a failure means for a running job: does it pass when its cause is gone, or must somebody decide first.
//!
//! Pure: errors in, verdict out. What always holds: nothing that was committed is in doubt when the verdict is *wait* (the
//! worker starts again from what is committed), and an error that could skip or repeat records is never waited out.

use crate::log::{CommitError, LogError};
use crate::status::Cause;
use crate::task::TaskError;
use crate::worker::WorkerError;

use super::RunError;

/// Why to wait after this error; `None` = stop, waiting would not help or would not be safe.
pub fn cause(error: &RunError) -> Option<Cause> {
    match error {
        RunError::Log(log) => of_log(log),
        RunError::Worker { source, .. } => match source {
            WorkerError::Log(log) | WorkerError::Commit(CommitError::Log(log)) => of_log(log),
            WorkerError::Commit(CommitError::Aborted { .. }) => Some(Cause::Commit),
            WorkerError::Task(TaskError::Spill(_)) => Some(Cause::DiskFull),
            _ => None,
        },
        // Read at every start of a worker; after the first it is a file that was moved or is being written.
        RunError::Registry(_) => Some(Cause::Other),
        RunError::Panic { .. } => None,
    }
}

/// Of an error of the log.
pub fn of_log(error: &LogError) -> Option<Cause> {
    match error {
        LogError::Unreachable { .. } => Some(Cause::Unreachable),
        LogError::Denied { .. } => Some(Cause::Denied),
        LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. } => Some(Cause::TopicMissing),
        LogError::Storage { .. } => Some(Cause::DiskFull),
        LogError::Client { .. } => Some(Cause::Other),
        // Another count of partitions, positions that are gone, a directory or a name that belongs to somebody else, bytes
        // that are not what was written: more of the same would not help, or would do harm.
        LogError::Partitions { .. }
        | LogError::OutOfRange { .. }
        | LogError::Replaced { .. }
        | LogError::Locked { .. }
        | LogError::Damaged { .. }
        | LogError::Closed { .. }
        | LogError::Unsupported { .. } => None,
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
        assert_eq!(cause(&RunError::Log(unknown())), Some(Cause::TopicMissing));
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Log(unknown())))), Some(Cause::TopicMissing));
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Aborted { reason: "x".into() }))), Some(Cause::Commit));
        assert_eq!(cause(&worker(TaskError::Spill(std::io::Error::other("full")).into())), Some(Cause::DiskFull));
        assert_eq!(cause(&worker(gone().into())), None);
        assert_eq!(cause(&worker(WorkerError::Commit(CommitError::Fenced { id: "w".into(), reason: "x".into() }))), None);
        assert_eq!(cause(&RunError::Panic { stage: "detect" }), None);
    }
}
