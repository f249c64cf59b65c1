//! A writer of epochs over any [`Client`]: records and group offsets, all or nothing.
//!
//! What always holds: opening fences the id's earlier producer; a writer that was fenced, or could not find out how an
//! epoch ended, never writes again.

use std::collections::BTreeMap;
use std::time::Duration;

use super::client::{Client, Init, Standing, Why};
use super::epoch::{Epoch, STEP, Stop};
use crate::log::{Append, CommitError, Committed, LogError, TopicPartition, Writer};

/// Writes epochs under one transactional id.
pub struct TransactionalWriter<C> {
    pub(super) client: C,
    /// What the group had committed when this writer last knew, for partitions it commits.
    pub(super) starts: BTreeMap<TopicPartition, Option<Committed>>,
    /// [`Client::changes`] when `starts` was read.
    starts_at: u64,
    /// Why this writer is finished, once it is.
    finished: Option<String>,
}

impl<C: Client> TransactionalWriter<C> {
    /// Opens, finishing or aborting what an earlier producer of this id left behind, and fencing it.
    pub fn open(client: C) -> Result<Self, LogError> {
        let mut writer = Self { client, starts: BTreeMap::new(), starts_at: 0, finished: None };
        let reach = writer.client.times().reach;
        writer.reopen(Why::Start, reach)?;
        Ok(writer)
    }

    /// Drops the producer and makes one anew with the same id: the coordinator ends the earlier transaction, then bumps
    /// the epoch, so that stragglers of the earlier producer are refused.
    pub(super) fn reopen(&mut self, why: Why, wait: Duration) -> Result<(), LogError> {
        let deadline = self.client.now() + wait;
        self.client.renew(why)?;
        loop {
            let left = deadline.saturating_sub(self.client.now());
            let outcome = self.client.init(left.min(STEP));
            match outcome {
                Ok(Init::Done) => return Ok(()),
                Ok(Init::NotYet(_)) if !left.is_zero() => {}
                Ok(Init::NotYet(error)) | Err(error) => {
                    self.client.close();
                    return Err(error);
                }
            }
        }
    }

    /// Fenced, in the caller's terms.
    fn fenced(&self, reason: impl Into<String>) -> CommitError {
        CommitError::Fenced { id: self.client.id().to_owned(), reason: reason.into() }
    }

    /// The end of this writer: every later commit says so too.
    pub(super) fn finish(&mut self, reason: String) -> CommitError {
        self.client.close();
        self.finished = Some(reason.clone());
        self.fenced(reason)
    }

    /// Makes sure that the group's offsets before this epoch are known: an unclear end is decided against them.
    fn read_starts(&mut self, offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        let changes = self.client.changes();
        if changes != self.starts_at {
            // Partitions moved: another owner may have committed meanwhile.
            self.starts.clear();
            self.starts_at = changes;
        }
        let missing: Vec<TopicPartition> =
            offsets.iter().map(|(at, _)| at).filter(|at| !self.starts.contains_key(*at)).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let reach = self.client.times().reach;
        let found = self.client.committed(&missing, Why::Start, reach)?;
        self.starts.extend(missing.into_iter().zip(found));
        Ok(())
    }
}

impl<C: Client> Writer for TransactionalWriter<C> {
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        if let Some(reason) = &self.finished {
            return Err(self.fenced(reason.clone()));
        }
        if appends.is_empty() && offsets.is_empty() {
            return Ok(());
        }
        let standing = self.client.standing();
        match standing {
            Standing::Left => return Err(self.fenced("its member has left the group")),
            Standing::Alone if !offsets.is_empty() => {
                return Err(LogError::Unsupported { what: "committing offsets without a group" }.into());
            }
            Standing::Alone | Standing::Member => {}
        }
        self.client.check(appends, offsets)?;
        if standing == Standing::Member {
            if !self.client.holds(offsets) {
                return Err(self.fenced("partitions of this epoch no longer belong to this member"));
            }
            self.read_starts(offsets)?;
        }
        if !self.client.is_open() {
            let reach = self.client.times().reach;
            self.reopen(Why::Reopen, reach)?;
        }
        let epoch = Epoch::new(&self.client, appends, offsets);
        match self.run(epoch) {
            Ok(ended) => {
                self.wait_until_visible();
                self.starts.extend(offsets.iter().map(|(at, committed)| (at.clone(), Some(committed.clone()))));
                if ended.in_doubt {
                    self.shut_out_stragglers();
                }
                Ok(())
            }
            Err(Stop::Abort { reason, asked }) => self.abort(reason, asked, epoch),
            Err(Stop::Fenced(reason)) => Err(self.yield_to(reason)),
            Err(Stop::Settle(reason)) => self.settle(epoch, &reason),
        }
    }
}
