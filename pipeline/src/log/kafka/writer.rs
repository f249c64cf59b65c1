//! Epochs as Kafka transactions: records and group offsets, all or nothing.
//!
//! One transactional producer per writer id; opening it fences the id's earlier producer. What always holds: the outcome
//! a caller sees is the broker's, never read off an error text. The transaction itself is in [`super::transaction`], the
//! way out of an unclear end in [`super::settle`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};

use super::Shared;
use super::client::{About, plain, translate, unreachable};
use super::deliveries::{Deliveries, Epoch};
use super::membership::{Group, GroupRef};
use super::transaction::Stop;
use crate::log::{Append, CommitError, Committed, LogError, METADATA_BYTES_MAX, TopicPartition, Writer};

/// Longest single wait inside a transactional call; short, so that budgets are kept to.
pub(super) const STEP: Duration = Duration::from_secs(1);
/// One round of serving delivery reports; `poll` always takes all of it.
pub(super) const SERVE_STEP: Duration = Duration::from_millis(1);

/// Writes epochs under one id.
pub(super) struct KafkaWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) id: String,
    pub(super) group: Option<GroupRef>,
    /// `None` between a dropped producer and its successor.
    pub(super) producer: Option<BaseProducer<Deliveries>>,
    /// What the group had committed when this writer last knew, for partitions it commits.
    pub(super) starts: BTreeMap<TopicPartition, Option<Committed>>,
    /// [`Group::changes`] when `starts` was read.
    starts_at: u64,
    /// Why this writer is finished, once it is.
    pub(super) finished: Option<String>,
}

impl KafkaWriter {
    /// Opens, finishing or aborting what an earlier producer of this id left behind, and fencing it.
    pub(super) fn open(shared: &Arc<Shared>, id: &str, group: Option<GroupRef>) -> Result<Self, LogError> {
        let mut writer = Self {
            shared: Arc::clone(shared),
            id: id.to_owned(),
            group,
            producer: None,
            starts: BTreeMap::new(),
            starts_at: 0,
            finished: None,
        };
        writer.reopen(shared.config.times.reach)?;
        Ok(writer)
    }

    /// Drops the producer and makes one anew with the same id: the coordinator ends the earlier transaction, then bumps
    /// the epoch, so that stragglers of the earlier producer are refused.
    pub(super) fn reopen(&mut self, wait: Duration) -> Result<(), LogError> {
        self.producer = None;
        let config = &self.shared.config;
        let deliveries = Deliveries::default();
        let about = About::Writer(&self.id);
        let fail = |e: KafkaError| translate("open writer", about, &e, config, &deliveries.words);
        let producer: BaseProducer<Deliveries> =
            config.producer(&self.id)?.create_with_context(deliveries.clone()).map_err(fail)?;
        let deadline = Instant::now() + wait;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let error = match producer.init_transactions(left.min(STEP)) {
                Ok(()) => break,
                Err(error) => error,
            };
            producer.poll(SERVE_STEP);
            match &error {
                KafkaError::Transaction(e) if e.is_retriable() && !left.is_zero() => {}
                KafkaError::Transaction(e) if e.is_retriable() => {
                    return Err(unreachable(config, &deliveries.words, &plain(&error)));
                }
                _ => return Err(fail(error)),
            }
        }
        self.producer = Some(producer);
        Ok(())
    }

    /// The group, if this writer has one. An error when its member has left.
    pub(super) fn member(&self) -> Result<Option<Arc<Group>>, CommitError> {
        match &self.group {
            None => Ok(None),
            Some(group) => match group.upgrade() {
                Some(group) => Ok(Some(group)),
                None => Err(self.fenced("its member has left the group")),
            },
        }
    }

    /// Fenced, in the caller's terms.
    pub(super) fn fenced(&self, reason: impl Into<String>) -> CommitError {
        CommitError::Fenced { id: self.id.clone(), reason: reason.into() }
    }

    /// The end of this writer: every later commit says so too.
    pub(super) fn finish(&mut self, reason: String) -> CommitError {
        self.producer = None;
        self.finished = Some(reason.clone());
        self.fenced(reason)
    }

    /// Refuses what can be refused before anything is written.
    fn check(&self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        // Appends come in runs of one partition: what was looked up for the run before holds for the next record.
        let mut run: Option<(TopicPartition, usize)> = None;
        for append in appends {
            let limit = match &run {
                Some((at, limit)) if at.partition == append.partition && at.topic == append.topic => *limit,
                _ => {
                    let at = TopicPartition::new(&append.topic, append.partition);
                    self.shared.check_partition(&at)?;
                    let limit = self.shared.record_bytes_max(&append.topic);
                    run = Some((at, limit));
                    limit
                }
            };
            let bytes = size_of(append);
            if bytes > limit {
                let at = TopicPartition::new(&append.topic, append.partition);
                return Err(CommitError::TooLarge { at, bytes, limit_bytes: limit });
            }
        }
        for (at, committed) in offsets {
            if committed.metadata.len() > METADATA_BYTES_MAX {
                let reason = format!("{} bytes for {at}, at most {METADATA_BYTES_MAX}", committed.metadata.len());
                return Err(LogError::Client { call: "commit offset metadata", reason }.into());
            }
        }
        Ok(())
    }

    /// Makes sure that the group's offsets before this epoch are known: an unclear end is decided against them.
    fn read_starts(&mut self, group: &Group, offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        let changes = group.changes();
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
        let found = self.committed(group, &missing, self.shared.config.times.reach)?;
        self.starts.extend(missing.into_iter().zip(found));
        Ok(())
    }

    /// What the group has committed.
    pub(super) fn committed(
        &self,
        group: &Group,
        at: &[TopicPartition],
        wait: Duration,
    ) -> Result<Vec<Option<Committed>>, LogError> {
        super::committed_by(group.consumer()?, at, Instant::now() + wait)
            .map_err(|e| translate("read committed offsets", About::Group(&group.name), &e, &self.shared.config, group.words()))
    }

    /// One stored record of the running epoch.
    pub(super) fn stored(&self) -> Option<(TopicPartition, i64)> {
        self.producer.as_ref()?.context().lock().stored.first().cloned()
    }
}

impl Writer for KafkaWriter {
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        if let Some(reason) = &self.finished {
            return Err(self.fenced(reason.clone()));
        }
        if appends.is_empty() && offsets.is_empty() {
            return Ok(());
        }
        let group = self.member()?;
        if group.is_none() && !offsets.is_empty() {
            return Err(LogError::Unsupported { what: "committing offsets without a group" }.into());
        }
        self.check(appends, offsets)?;
        if let Some(group) = &group {
            if !group.holds(offsets.iter().map(|(at, _)| at)) {
                return Err(self.fenced(format!("partitions of this epoch no longer belong to this member of {}", group.name)));
            }
            self.read_starts(group, offsets)?;
        }
        if self.producer.is_none() {
            self.reopen(self.shared.config.times.reach)?;
        }
        let Some(producer) = &self.producer else { return Err(self.fenced("no producer")) };
        *producer.context().lock() = Epoch::default();
        let began = Instant::now();
        match self.run(producer, group.as_deref(), appends, offsets, began) {
            Ok(()) => {
                self.wait_until_visible(producer);
                self.starts.extend(offsets.iter().map(|(at, committed)| (at.clone(), Some(committed.clone()))));
                Ok(())
            }
            Err(Stop::Abort { reason, asked }) => self.abort(reason, asked, offsets, began),
            Err(Stop::Fenced(reason)) => Err(self.yield_to(reason)),
            Err(Stop::Settle(reason)) => {
                let result = self.settle(offsets, &reason);
                self.shared.note_settled(&result);
                result
            }
        }
    }
}

/// Bytes of a record to be written, counted as [`crate::log::Record::size`] does.
fn size_of(append: &Append) -> usize {
    append.key.as_ref().map_or(0, bytes::Bytes::len)
        + append.value.as_ref().map_or(0, bytes::Bytes::len)
        + append.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
}
