//! One epoch as one transaction: begin, records, offsets, end; or abort.
//!
//! What always holds: the whole epoch fits the commit budget or is given up; running out of time before the end was asked
//! for is an abort, after that it is unclear; a transaction that cannot be aborted is settled.
//!
//! A fencing error inside the transaction time-out can only come from another producer of the same id (the broker aborts
//! nothing younger), so it is final and this writer never takes the id back. Later than that, the broker may have timed
//! our own transaction out; then a member that still holds its partitions settles, anyone else gives up.

use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

use super::client::{About, Words, code_of, is_unreachable, plain, translate};
use super::config::BATCH_BYTES_MAX;
use super::deliveries::Deliveries;
use super::membership::Group;
use super::writer::{KafkaWriter, SERVE_STEP, STEP};
use crate::log::{Append, CommitError, Committed, LogError, TopicPartition};

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

/// How a step of an epoch ended other than well.
pub(super) enum Stop {
    /// Nothing is committed: abort.
    Abort {
        /// Why.
        reason: String,
        /// The end of the transaction may have been asked for: if the abort fails, that decides.
        asked: bool,
    },
    /// Unclear: settle.
    Settle(String),
    /// Another producer of this id, or another owner.
    Fenced(String),
}

impl Stop {
    /// An abort before the end was asked for.
    fn abort(reason: String) -> Self {
        Self::Abort { reason, asked: false }
    }
}

impl KafkaWriter {
    /// One transaction, from begin to its end.
    pub(super) fn run(
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
                return Err(Stop::abort(format!("offset {} of {at}: {}", committed.offset, plain(&error))));
            }
            element.set_metadata(&committed.metadata);
        }
        let metadata = group.consumer().ok().and_then(Consumer::group_metadata);
        let Some(metadata) = metadata else { return Err(Stop::Fenced("its member has left the group".into())) };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match producer.send_offsets_to_transaction(&list, &metadata, left.min(STEP)) {
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
            match producer.commit_transaction(left.min(STEP)) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Flush(code)) if !asked => {
                    if left.is_zero() || !is_unreachable(code) {
                        return Err(Stop::abort(format!("records not stored in time ({code})")));
                    }
                }
                Err(KafkaError::Transaction(e)) if e.is_retriable() && !left.is_zero() => asked = true,
                // Mostly a refused record, before the end was asked for; the broker's answer to an abort will tell.
                Err(KafkaError::Transaction(e)) if e.txn_requires_abort() => {
                    return Err(Stop::Abort { reason: e.string(), asked: true });
                }
                Err(error) => {
                    return Err(match self.stop(&error, "commit", began) {
                        Stop::Abort { reason, .. } => Stop::Settle(reason),
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
            _ => Stop::abort(reason),
        }
    }

    /// True while the broker cannot have timed the transaction out.
    fn is_recent(&self, began: Instant) -> bool {
        began.elapsed() < self.shared.config.times.transaction
    }

    /// Asks for an abort until it is done or cannot be.
    fn try_abort(&self) -> Result<(), KafkaError> {
        let Some(producer) = &self.producer else { return Ok(()) };
        let deadline = Instant::now() + ABORT_WAIT;
        loop {
            producer.poll(SERVE_STEP);
            match producer.abort_transaction(ABORT_STEP) {
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                other => return other,
            }
        }
    }

    /// Gives an epoch up that another owner has taken over. The abort is a courtesy: readers need not wait for the
    /// transaction to time out.
    pub(super) fn yield_to(&mut self, reason: String) -> CommitError {
        if self.producer.as_ref().is_some_and(|p| p.client().fatal_error().is_none()) {
            drop(self.try_abort());
        }
        self.finish(reason)
    }

    /// Aborts, and goes on with a new producer: its higher epoch shuts out late requests of this one. When the abort does
    /// not work and the end was never asked for, the new producer aborts; when it was, the outcome must be found out.
    pub(super) fn abort(
        &mut self,
        reason: String,
        asked: bool,
        offsets: &[(TopicPartition, Committed)],
        began: Instant,
    ) -> Result<(), CommitError> {
        let aborted = self.try_abort();
        let refused = self.producer.as_ref().and_then(|p| p.context().lock().refused.take());
        if let Err(error) = aborted {
            match self.stop(&error, "abort", began) {
                Stop::Fenced(reason) => return Err(self.finish(reason)),
                _ if asked => return self.settle(offsets, &reason),
                _ => {}
            }
        }
        if let Err(error) = self.reopen(self.shared.config.times.reach) {
            // The next commit tries again.
            tracing::debug!(%error, writer = self.id, "no new producer after an abort");
        }
        Err(self.why(refused, reason))
    }

    /// Why an epoch was aborted, in the caller's terms.
    fn why(&self, refused: Option<(Code, TopicPartition)>, reason: String) -> CommitError {
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

    /// Waits until a reader can see the epoch. The coordinator answers a commit when the decision is on disk and writes
    /// the markers after that; until then the last stable offset stands before our records. Bounded, because another
    /// writer's open transaction holds it back as well; that is no reason to fail.
    pub(super) fn wait_until_visible(&self, producer: &BaseProducer<Deliveries>) {
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
