//! Epochs as Kafka transactions: records and group offsets, all or nothing.
//!
//! One transactional producer per writer id; opening it fences the id's earlier producer. What always holds: the whole
//! epoch, from begin to the end of the transaction, fits the commit budget or is given up; the outcome a caller sees is
//! the broker's, never read off an error text: unclear ends go to [`super::settle`].
//!
//! A fencing error inside the transaction time-out can only come from another producer of the same id (the broker aborts
//! nothing younger), so it is final and this writer never takes the id back. Later than that, the broker may have timed
//! our own transaction out; then a member that still holds its partitions settles, anyone else gives up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::topic_partition_list::Offset;

use super::Shared;
use super::client::{About, Words, code_of, hear, hear_error, is_unreachable, plain, translate, unreachable};
use super::config::BATCH_BYTES_MAX;
use super::membership::{Group, GroupRef};
use crate::log::{Append, CommitError, Committed, LogError, METADATA_BYTES_MAX, TopicPartition, Writer};

/// Longest single wait for the end of a transaction; short, so that the budget is kept to.
const COMMIT_STEP: Duration = Duration::from_secs(1);
/// One round of serving delivery reports; `poll` always takes all of it.
const SERVE_STEP: Duration = Duration::from_millis(1);
/// Longest single wait for an abort: nobody serves delivery reports inside that call.
const ABORT_STEP: Duration = Duration::from_millis(100);
/// How long an abort may take before the producer is dropped instead.
const ABORT_WAIT: Duration = Duration::from_secs(5);
/// Pause while the client's queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(2);
/// How long a commit waits for its records to become visible.
const VISIBLE_WAIT: Duration = Duration::from_millis(500);
/// Deliveries are served after this many records, so that reports do not pile up.
const SERVE_EVERY: usize = 4096;

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

/// Delivery reports of the running epoch.
#[derive(Clone, Default)]
pub(super) struct Deliveries {
    pub(super) words: Words,
    epoch: Arc<Mutex<Epoch>>,
}

/// What the delivery reports said.
#[derive(Default)]
struct Epoch {
    /// The last stored record of each partition: visible exactly if the transaction committed.
    stored: Vec<(TopicPartition, i64)>,
    /// The first refusal: why and where.
    refused: Option<(Code, TopicPartition)>,
}

/// How a step of an epoch ended other than well.
pub(super) enum Stop {
    /// Nothing is committed: abort.
    Abort(String),
    /// Unclear: settle.
    Settle(String),
    /// Another producer of this id, or another owner.
    Fenced(String),
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
            let error = match producer.init_transactions(left.min(COMMIT_STEP)) {
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

    /// One transaction, from begin to its end.
    fn run(
        &self,
        producer: &BaseProducer<Deliveries>,
        group: Option<&Group>,
        appends: &[Append],
        offsets: &[(TopicPartition, Committed)],
        began: Instant,
    ) -> Result<(), Stop> {
        let deadline = began + self.shared.config.times.commit_budget;
        producer.begin_transaction().map_err(|e| self.stop(&e, "begin", began))?;
        for (i, append) in appends.iter().enumerate() {
            if i % SERVE_EVERY == SERVE_EVERY - 1 {
                producer.poll(Duration::ZERO);
            }
            self.send(producer, append, deadline, began)?;
        }
        if let Some(group) = group.filter(|_| !offsets.is_empty()) {
            self.send_offsets(producer, group, offsets, deadline, began)?;
        }
        self.end(producer, deadline, began)
    }

    /// Queues one record, waiting while the queue is full.
    fn send(&self, producer: &BaseProducer<Deliveries>, append: &Append, deadline: Instant, began: Instant) -> Result<(), Stop> {
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&append.topic).partition(append.partition as i32);
        if let Some(key) = &append.key {
            record = record.key(&key[..]);
        }
        if let Some(value) = &append.value {
            record = record.payload(&value[..]);
        }
        if let Some(time) = append.timestamp {
            // Zero would mean "now" to the client, and Kafka has no time before 1970.
            record = record.timestamp(time.0.div_euclid(1_000_000).max(1));
        }
        if !append.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(append.headers.len());
            record = record.headers(
                append
                    .headers
                    .iter()
                    .fold(headers, |all, (name, value)| all.insert(Header { key: name, value: Some(&value[..]) })),
            );
        }
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(Code::QueueFull), back)) if Instant::now() < deadline => {
                    producer.poll(FULL_PAUSE);
                    record = back;
                }
                Err((error, _)) => return Err(self.stop(&error, "append", began)),
            }
        }
    }

    /// Adds the offsets, with the group metadata of this moment.
    fn send_offsets(
        &self,
        producer: &BaseProducer<Deliveries>,
        group: &Group,
        offsets: &[(TopicPartition, Committed)],
        deadline: Instant,
        began: Instant,
    ) -> Result<(), Stop> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, committed) in offsets {
            let mut element = list.add_partition(&at.topic, at.partition as i32);
            if let Err(error) = element.set_offset(Offset::Offset(committed.offset)) {
                return Err(Stop::Abort(format!("offset {} of {at}: {}", committed.offset, plain(&error))));
            }
            element.set_metadata(&committed.metadata);
        }
        let metadata = group.consumer().ok().and_then(Consumer::group_metadata);
        let Some(metadata) = metadata else { return Err(Stop::Fenced("its member has left the group".into())) };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match producer.send_offsets_to_transaction(&list, &metadata, left.min(COMMIT_STEP)) {
                Ok(()) => return Ok(()),
                // Nothing can have been committed yet: when the budget is spent, aborting is right.
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !left.is_zero() => {
                    producer.poll(FULL_PAUSE);
                }
                Err(error) => return Err(self.stop(&error, "commit offsets", began)),
            }
        }
    }

    /// Ends the transaction, asking again while that can help.
    fn end(&self, producer: &BaseProducer<Deliveries>, deadline: Instant, began: Instant) -> Result<(), Stop> {
        // The client's own flush serves reports in rounds of 100 ms; waiting here leaves it nothing to do.
        while producer.in_flight_count() > 0 && Instant::now() < deadline {
            producer.poll(SERVE_STEP);
        }
        // Once the request may be on its way, running out of time is no longer an abort.
        let mut asked = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match producer.commit_transaction(left.min(COMMIT_STEP)) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Flush(code)) if !asked => {
                    if left.is_zero() || !is_unreachable(code) {
                        return Err(Stop::Abort(format!("records not stored in time ({code})")));
                    }
                }
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !left.is_zero() => asked = true,
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    return Err(Stop::Abort(e.string()));
                }
                Err(error) => {
                    return Err(match self.stop(&error, "commit", began) {
                        Stop::Abort(reason) => Stop::Settle(reason),
                        other => other,
                    });
                }
            }
        }
    }

    /// What an error before the end of the transaction means.
    fn stop(&self, error: &KafkaError, call: &str, began: Instant) -> Stop {
        let fatal = self.producer.as_ref().and_then(|p| p.client().fatal_error());
        let reason = match &fatal {
            Some((_, words)) => format!("{call}: {words}"),
            None => format!("{call}: {}", plain(error)),
        };
        let code = fatal.as_ref().map(|(code, _)| *code).or_else(|| code_of(error));
        let is_fatal = fatal.is_some() || matches!(error, KafkaError::Transaction(e) if e.is_fatal());
        match code {
            Some(Code::FencedInstanceId | Code::UnknownMemberId) => Stop::Fenced(reason),
            Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced) if self.is_recent(began) => {
                Stop::Fenced(reason)
            }
            _ if is_fatal => Stop::Settle(reason),
            _ => Stop::Abort(reason),
        }
    }

    /// True while the broker cannot have timed the transaction out.
    fn is_recent(&self, began: Instant) -> bool {
        began.elapsed() < self.shared.config.times.transaction
    }

    /// Aborts. When that does not work either, the next producer of this id does it: the end of the transaction was
    /// never asked for, so it cannot have committed.
    fn abort(&mut self, reason: String, began: Instant) -> CommitError {
        let Some(producer) = &self.producer else { return CommitError::Aborted { reason } };
        let deadline = Instant::now() + ABORT_WAIT;
        let failed: Option<RDKafkaError> = loop {
            producer.poll(SERVE_STEP);
            match producer.abort_transaction(ABORT_STEP) {
                Ok(()) => break None,
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(KafkaError::Transaction(e)) => break Some(e),
                Err(_) => break None,
            }
        };
        let refused = producer.context().lock().refused.take();
        if let Some(error) = failed {
            if let Stop::Fenced(reason) = self.stop(&KafkaError::Transaction(error), "abort", began) {
                return self.finish(reason);
            }
            self.producer = None;
        }
        match refused {
            Some((Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge, at)) => {
                // Every record was below the known limit, so the topic was made by others with a smaller one.
                let reason =
                    format!("{at} refused a batch: its max.message.bytes is below {BATCH_BYTES_MAX}, or below the record limit");
                LogError::Client { call: "append", reason }.into()
            }
            Some((code, at)) => match translate(
                "append",
                About::Partition(&at),
                &KafkaError::MessageProduction(code),
                &self.shared.config,
                &Words::default(),
            ) {
                denied @ LogError::Denied { .. } => denied.into(),
                _ => CommitError::Aborted { reason: format!("{at}: {code}") },
            },
            None => CommitError::Aborted { reason },
        }
    }

    /// One stored record of the running epoch.
    pub(super) fn stored(&self) -> Option<(TopicPartition, i64)> {
        self.producer.as_ref()?.context().lock().stored.first().cloned()
    }

    /// Waits until a reader can see the epoch. The coordinator answers a commit when the decision is on disk and writes
    /// the markers after that; until then the last stable offset stands before our records. Bounded, because another
    /// writer's open transaction holds it back as well; that is no reason to fail.
    fn wait_until_visible(&self, producer: &BaseProducer<Deliveries>) {
        let stored = std::mem::take(&mut producer.context().lock().stored);
        if stored.is_empty() {
            return;
        }
        let deadline = Instant::now() + VISIBLE_WAIT;
        while Instant::now() < deadline {
            // The tools' isolation level makes the end the last stable offset; one request per broker.
            let mut list = TopicPartitionList::with_capacity(stored.len());
            for (at, _) in &stored {
                drop(list.add_partition_offset(&at.topic, at.partition as i32, Offset::End));
            }
            let Ok(ends) = self.shared.tools.offsets_for_times(list, VISIBLE_WAIT) else { return };
            let seen = |(at, offset): &(TopicPartition, i64)| {
                let end = ends.find_partition(&at.topic, at.partition as i32).map(|e| e.offset());
                matches!(end, Some(Offset::Offset(end)) if end > *offset)
            };
            if stored.iter().all(seen) {
                return;
            }
            std::thread::sleep(FULL_PAUSE);
        }
        tracing::debug!(writer = self.id, "an epoch is committed but held back by another transaction");
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
            Err(Stop::Abort(reason)) => Err(self.abort(reason, began)),
            Err(Stop::Fenced(reason)) => Err(self.finish(reason)),
            Err(Stop::Settle(reason)) => self.settle(offsets, &reason),
        }
    }
}

impl Epoch {
    /// Notes a stored record. Reports come in runs of one partition, so the last entry nearly always matches.
    fn store(&mut self, message: &impl Message) {
        let same = |at: &TopicPartition| at.partition as i32 == message.partition() && at.topic == message.topic();
        match self.stored.iter_mut().rev().find(|(at, _)| same(at)) {
            Some((_, offset)) => *offset = message.offset(),
            None => self.stored.push((place_of(message), message.offset())),
        }
    }
}

impl Deliveries {
    fn lock(&self) -> std::sync::MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        hear(&self.words, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        hear_error(&self.words, &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut epoch = self.lock();
        match result {
            Ok(message) => epoch.store(message),
            // What an abort throws away was not refused.
            Err((KafkaError::MessageProduction(Code::PurgeQueue | Code::PurgeInflight), _)) => {}
            Err((error, message)) if epoch.refused.is_none() => {
                epoch.refused = code_of(error).map(|code| (code, place_of(message)));
            }
            Err(_) => {}
        }
    }
}

/// Where a message went.
fn place_of(message: &impl Message) -> TopicPartition {
    TopicPartition::new(message.topic(), u32::try_from(message.partition()).unwrap_or(0))
}

/// Bytes of a record to be written, counted as [`crate::log::Record::size`] does.
fn size_of(append: &Append) -> usize {
    append.key.as_ref().map_or(0, bytes::Bytes::len)
        + append.value.as_ref().map_or(0, bytes::Bytes::len)
        + append.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
}
