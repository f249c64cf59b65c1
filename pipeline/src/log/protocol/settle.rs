//! How an unclear commit is settled.
//!
//! The producer is dropped and one with the same id is initialised: the coordinator completes a prepared commit or aborts
//! an open transaction, then bumps the epoch, so that late requests of the dropped producer are refused. After that the
//! outcome is a fact that can be read:
//!
//! - *offsets*: the group's committed offsets stand at the epoch's end (committed), at its start (aborted), or elsewhere
//!   (another owner has moved on: fenced);
//! - *a stored record*, where an epoch moves no offsets or the writer has no group: every record was acknowledged with
//!   its offset before the end of the transaction was asked for, and a read_committed reader shows the record at that
//!   offset exactly if the transaction committed.
//!
//! What always holds: a writer that could not settle within [`SETTLE_WAIT`] is finished; it never guesses and never
//! repeats an epoch.

use std::time::Duration;

use super::client::{Client, Standing, Why};
use super::epoch::Epoch;
use super::writer::TransactionalWriter;
use crate::log::{CommitError, Committed, LogError, TopicPartition};

/// How long brokers may stay away while an outcome is open.
pub const SETTLE_WAIT: Duration = Duration::from_secs(60);

/// What the broker says about an epoch.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Committed,
    Aborted,
    Elsewhere,
    /// Offsets cannot tell.
    Unmoved,
}

impl<C: Client> TransactionalWriter<C> {
    /// Finds out how the epoch ended; the writer goes on with a new producer.
    pub(super) fn settle(&mut self, epoch: Epoch<'_>, reason: &str) -> Result<(), CommitError> {
        let result = self.find_out(epoch, reason);
        self.client.settled(&result);
        result
    }

    fn find_out(&mut self, epoch: Epoch<'_>, reason: &str) -> Result<(), CommitError> {
        let offsets = epoch.offsets;
        let standing = self.client.standing();
        // Invariant: taking the id back is right only while the partitions are still ours.
        if standing == Standing::Left || (standing == Standing::Member && !self.client.holds(offsets)) {
            return Err(self.finish(format!("{reason}; its partitions belong to another member")));
        }
        let stored = self.client.stored().first().cloned();
        let deadline = self.client.now() + SETTLE_WAIT;
        tracing::warn!(writer = self.client.id(), reason, "the outcome of an epoch is unclear: settling it with a new producer");
        if let Err(error) = self.reopen(Why::Settle, SETTLE_WAIT) {
            return Err(self.open_outcome(reason, error));
        }
        let mut outcome = Outcome::Unmoved;
        if standing == Standing::Member && !offsets.is_empty() {
            let at: Vec<TopicPartition> = offsets.iter().map(|(at, _)| at.clone()).collect();
            let left = deadline.saturating_sub(self.client.now());
            let found = match self.client.committed(&at, Why::Settle, left) {
                Ok(found) => found,
                Err(error) => return Err(self.open_outcome(reason, error)),
            };
            let starts: Vec<Option<Committed>> = at.iter().map(|at| self.starts.get(at).cloned().unwrap_or_default()).collect();
            outcome = decide(&starts, offsets, &found);
        }
        if outcome == Outcome::Unmoved {
            outcome = match stored {
                // No record and no offset moved: both outcomes are the same.
                None if epoch.appends.is_empty() => Outcome::Committed,
                // Invariant: the end is asked for only when every record is stored, so it was not.
                None => Outcome::Aborted,
                Some((at, offset)) => {
                    let left = deadline.saturating_sub(self.client.now());
                    match self.client.read_back(&at, offset, left) {
                        Ok(true) => Outcome::Committed,
                        Ok(false) => Outcome::Aborted,
                        Err(error) => return Err(self.open_outcome(reason, error)),
                    }
                }
            };
        }
        match outcome {
            Outcome::Committed | Outcome::Unmoved => {
                self.starts.extend(offsets.iter().map(|(at, committed)| (at.clone(), Some(committed.clone()))));
                Ok(())
            }
            Outcome::Aborted => Err(CommitError::Aborted { reason: reason.to_owned() }),
            Outcome::Elsewhere => Err(self.finish(format!("{reason}; the group's offsets were moved by another owner"))),
        }
    }

    /// The outcome stays open: this writer must not write again.
    fn open_outcome(&mut self, reason: &str, error: LogError) -> CommitError {
        let closing = format!("{reason}; the outcome is unknown, restore from the committed offsets");
        // `finish` makes every later commit fail; this one says why.
        drop(self.finish(closing));
        CommitError::Log(error)
    }
}

/// What the committed offsets say.
fn decide(starts: &[Option<Committed>], ends: &[(TopicPartition, Committed)], found: &[Option<Committed>]) -> Outcome {
    let at_start = found.iter().eq(starts.iter());
    let at_end = found.iter().map(Option::as_ref).eq(ends.iter().map(|(_, end)| Some(end)));
    match (at_start, at_end) {
        (true, true) => Outcome::Unmoved,
        (true, false) => Outcome::Aborted,
        (false, true) => Outcome::Committed,
        (false, false) => Outcome::Elsewhere,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(offset: i64) -> Option<Committed> {
        Some(Committed { offset, metadata: String::new() })
    }

    fn ends(offsets: &[i64]) -> Vec<(TopicPartition, Committed)> {
        let one = |(i, o): (usize, &i64)| (TopicPartition::new("t", i as u32), Committed { offset: *o, metadata: String::new() });
        offsets.iter().enumerate().map(one).collect()
    }

    #[test]
    fn offsets_decide() {
        let starts = [c(5), None];
        assert_eq!(decide(&starts, &ends(&[9, 3]), &[c(9), c(3)]), Outcome::Committed);
        assert_eq!(decide(&starts, &ends(&[9, 3]), &[c(5), None]), Outcome::Aborted);
        // One partition moved on by somebody else, or half of an epoch: never ours.
        assert_eq!(decide(&starts, &ends(&[9, 3]), &[c(9), c(4)]), Outcome::Elsewhere);
        assert_eq!(decide(&starts, &ends(&[9, 3]), &[c(9), None]), Outcome::Elsewhere);
        assert_eq!(decide(&[c(5)], &ends(&[5]), &[c(5)]), Outcome::Unmoved);
    }

    #[test]
    fn metadata_is_part_of_the_offset() {
        let end = [(TopicPartition::new("t", 0), Committed { offset: 5, metadata: "b".into() })];
        let found = [Some(Committed { offset: 5, metadata: "b".into() })];
        assert_eq!(decide(&[Some(Committed { offset: 5, metadata: "a".into() })], &end, &found), Outcome::Committed);
    }
}
