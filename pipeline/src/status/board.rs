//! Where workers, slots, destinations and the run itself say how they are, and where everybody reads it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidewatch_schemas::time::EventTime;

use super::{Cause, Condition, EpochStatus, ProcessState, TaskStatus};
use crate::log::TopicPartition;
use crate::task::Progress;

/// Conditions kept at a time; more are counted, not listed.
pub const CONDITIONS_MAX: usize = 1024;

/// What a committed epoch tells of one task.
#[derive(Clone, Copy, Debug, Default)]
pub struct EpochFacts {
    /// When it committed.
    pub at: EventTime,
    /// From its begin to its commit, seconds.
    pub took_s: f64,
    /// Of which the commit, seconds.
    pub commit_s: f64,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: ProcessState,
    tasks: BTreeMap<(String, TopicPartition), TaskStatus>,
    conditions: BTreeMap<(Cause, String), Condition>,
    left_out: u64,
}

impl Board {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes on a task's line; makes it when it is not there.
    pub fn task(&self, stage: &str, at: &TopicPartition, write: impl FnOnce(&mut TaskStatus)) {
        let mut inner = self.lock();
        let line = inner.tasks.entry((stage.to_owned(), at.clone())).or_insert_with(|| TaskStatus::new(stage, at));
        write(line);
    }

    /// Writes on a task's line, if it is there.
    pub fn known_task(&self, stage: &str, at: &TopicPartition, write: impl FnOnce(&mut TaskStatus)) {
        if let Some(line) = self.lock().tasks.get_mut(&(stage.to_owned(), at.clone())) {
            write(line);
        }
    }

    /// Whether the partition, when it was last asked for, held more than a task at this position can see: records of a
    /// transaction that is still open.
    pub fn holds_more(&self, stage: &str, at: &TopicPartition, position: i64) -> bool {
        self.lock().tasks.get(&(stage.to_owned(), at.clone())).and_then(|task| task.end).is_some_and(|end| end > position)
    }

    /// An epoch of a task has committed.
    pub fn epoch(&self, stage: &str, at: &TopicPartition, facts: EpochFacts) {
        self.task(stage, at, |task| {
            task.epoch = Some(EpochStatus { at: facts.at, took_s: facts.took_s, commit_s: facts.commit_s });
        });
    }

    /// The task is no longer here.
    pub fn remove(&self, stage: &str, at: &TopicPartition) {
        let mut inner = self.lock();
        inner.tasks.remove(&(stage.to_owned(), at.clone()));
        let about = about(stage, at);
        inner.conditions.retain(|(_, whom), _| *whom != about);
    }

    /// Something is wrong. Said again it keeps its first moment and takes the newest words.
    pub fn raise(&self, cause: Cause, about: &str, reason: impl Into<String>, now: EventTime) {
        let mut inner = self.lock();
        let key = (cause, about.to_owned());
        if let Some(condition) = inner.conditions.get_mut(&key) {
            condition.reason = reason.into();
        } else if inner.conditions.len() < CONDITIONS_MAX {
            let condition = Condition { cause, about: about.to_owned(), reason: reason.into(), since: now };
            inner.conditions.insert(key, condition);
        } else {
            inner.left_out += 1;
        }
    }

    /// It is well again.
    pub fn clear(&self, cause: Cause, about: &str) {
        // The usual case writes nothing and must allocate nothing.
        let mut inner = self.lock();
        if !inner.conditions.is_empty() {
            inner.conditions.remove(&(cause, about.to_owned()));
        }
    }

    /// All is well again with whom it is about.
    pub fn clear_all(&self, about: &str) {
        self.lock().conditions.retain(|(_, whom), _| whom != about);
    }

    /// How far the process is.
    pub fn set_state(&self, state: ProcessState) {
        self.lock().state = state;
    }

    /// How far the process is.
    pub fn state(&self) -> ProcessState {
        self.lock().state
    }

    /// All lines.
    pub fn tasks(&self) -> Vec<TaskStatus> {
        self.lock().tasks.values().cloned().collect()
    }

    /// What the tasks know, by `stage:topic/partition`.
    pub fn progress(&self) -> BTreeMap<String, Progress> {
        self.lock().tasks.iter().map(|((stage, at), task)| (format!("{stage}:{at}"), task.progress.clone())).collect()
    }

    /// What is wrong, oldest first; and how often more was wrong than fits.
    pub fn conditions(&self) -> (Vec<Condition>, u64) {
        let inner = self.lock();
        let mut all: Vec<Condition> = inner.conditions.values().cloned().collect();
        all.sort_by_key(|c| c.since);
        (all, inner.left_out)
    }
}

/// Whom a task's condition is about.
pub(crate) fn about(stage: &str, at: &TopicPartition) -> String {
    format!("{stage} {at}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_wrong_keeps_its_moment_and_goes() {
        let board = Board::default();
        board.raise(Cause::Unreachable, "detect", "no answer", EventTime(5));
        board.raise(Cause::Unreachable, "detect", "still no answer", EventTime(9));
        board.raise(Cause::Denied, "detect", "no right", EventTime(1));
        let (all, _) = board.conditions();
        assert_eq!(
            all.iter().map(|c| (c.since.0, c.reason.as_str())).collect::<Vec<_>>(),
            [(1, "no right"), (5, "still no answer")]
        );
        board.clear(Cause::Denied, "detect");
        assert_eq!(board.conditions().0.len(), 1);
        board.clear_all("detect");
        assert!(board.conditions().0.is_empty());
    }

    #[test]
    fn more_is_counted_and_not_kept() {
        let board = Board::default();
        for n in 0..CONDITIONS_MAX + 3 {
            board.raise(Cause::Other, &n.to_string(), "", EventTime(0));
        }
        assert_eq!((board.conditions().0.len(), board.conditions().1), (CONDITIONS_MAX, 3));
    }

    #[test]
    fn a_task_that_leaves_takes_its_conditions_along() {
        let board = Board::default();
        let at = TopicPartition::new("obs", 3);
        board.epoch("detect", &at, EpochFacts { at: EventTime::from_secs(10), took_s: 0.5, commit_s: 0.1 });
        board.raise(Cause::SnapshotStore, &about("detect", &at), "away", EventTime(1));
        let task = board.tasks().pop().unwrap();
        assert_eq!((task.at().as_str(), task.epoch.unwrap().took_s), ("obs/3", 0.5));
        board.remove("detect", &at);
        assert!(board.tasks().is_empty() && board.conditions().0.is_empty());
    }
}
