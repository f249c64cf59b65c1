//! rdkafka as a client of the commit protocol: one transactional producer, its group, and what can be read back.
//!
//! Maps calls and errors and decides nothing; the procedure is [`crate::log::protocol`]. What always holds: every wait is
//! finite; group metadata is asked for anew with every call; a fatal error of the producer stands behind whatever error a
//! call returned.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::Offset;

use super::Shared;
use super::apart;
use super::client::{About, Words, code_of, is_denied, is_unreachable, plain, translate, unreachable};
use super::config::BATCH_BYTES_MAX;
use super::deliveries::{Deliveries, Epoch};
use super::membership::{Group, GroupRef};
use super::reader::KafkaReader;
use crate::log::protocol::{Client, Failure, Init, Kind, Standing, Times, Why};
use crate::log::{Append, CommitError, Committed, LogError, METADATA_BYTES_MAX, PollLimit, Reader, TopicPartition};

/// Wait for what the client has to say of a failure; `poll` always takes all of it.
const SERVE_STEP: Duration = Duration::from_millis(1);
/// Events of the client served in one go.
const EVENTS_SERVED_MAX: usize = 64;
/// Longest single wait of a read-back.
const READ_STEP: Duration = Duration::from_millis(500);

/// The client of one transactional id.
pub(super) struct KafkaClient {
    shared: Arc<Shared>,
    id: String,
    group: Option<GroupRef>,
    /// `None` between a dropped producer and its successor.
    producer: Option<Arc<BaseProducer<Deliveries>>>,
    /// The producer was initialised.
    open: bool,
    /// A right that the running epoch was refused, in the broker's words: what follows it only says that the epoch failed.
    denied: Mutex<Option<String>>,
    since: Instant,
}

impl KafkaClient {
    /// Without a producer yet.
    pub(super) fn new(shared: &Arc<Shared>, id: &str, group: Option<GroupRef>) -> Self {
        Self {
            shared: Arc::clone(shared),
            id: id.to_owned(),
            group,
            producer: None,
            open: false,
            denied: Mutex::default(),
            since: Instant::now(),
        }
    }

    /// The group, while its member is there.
    fn member(&self) -> Option<Arc<Group>> {
        self.group.as_ref().and_then(GroupRef::upgrade)
    }

    fn producer(&self) -> Result<&BaseProducer<Deliveries>, Failure> {
        self.producer.as_deref().ok_or_else(|| Failure::new(Kind::Fatal, "no producer"))
    }

    /// A transactional call that may block, apart: the client has been seen not to come back from one, whatever time-out it
    /// was given (librdkafka 2.12.1, `send_offsets_to_transaction` while a broker died). Such a producer is given up.
    ///
    /// Invariant: what was asked of a producer that is given up is settled by its successor, as after any fatal error.
    fn apart(
        &mut self,
        call: &'static str,
        wait: Duration,
        work: impl FnOnce(&BaseProducer<Deliveries>) -> Result<(), KafkaError> + Send + 'static,
    ) -> Result<(), Failure> {
        let Some(producer) = &self.producer else { return Err(Failure::new(Kind::Fatal, "no producer")) };
        match apart::run(producer, wait, work) {
            Some(result) => result.map_err(|e| self.failure(&e)),
            None => {
                self.note_hung();
                tracing::warn!(
                    writer = self.id,
                    call,
                    "the kafka client does not come back from a call: its producer is given up"
                );
                self.close();
                Err(Failure::new(Kind::Fatal, format!("{call}: the client does not come back")))
            }
        }
    }

    fn note_hung(&self) {
        self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner).hung += 1;
    }

    /// What an error of a transactional call means.
    fn failure(&self, error: &KafkaError) -> Failure {
        let fatal = self.producer.as_ref().and_then(|p| p.client().fatal_error());
        let reason = fatal.as_ref().map_or_else(|| plain(error), |(_, words)| words.clone());
        let code = fatal.as_ref().map(|(code, _)| *code).or_else(|| code_of(error));
        if code.is_some_and(is_denied) {
            *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.clone());
        }
        Failure { kind: kind_of(error, code, fatal.is_some()), reason }
    }
}

/// The class of an error: a fatal one first, then what the client says may be repeated or must be aborted.
fn kind_of(error: &KafkaError, code: Option<Code>, fatal: bool) -> Kind {
    match (error, code) {
        (KafkaError::Transaction(e), _) if !fatal && e.is_retriable() => Kind::Again,
        (_, Some(Code::FencedInstanceId | Code::UnknownMemberId)) => Kind::Expelled,
        (_, Some(Code::Fenced | Code::InvalidProducerEpoch | Code::ProducerFenced)) => Kind::Fenced,
        (_, _) if fatal => Kind::Fatal,
        // Only rdkafka's own flush before the end.
        (KafkaError::Flush(code), _) if is_unreachable(*code) => Kind::Unstored,
        (KafkaError::Flush(_), _) => Kind::Unstorable,
        (KafkaError::MessageProduction(Code::QueueFull), _) => Kind::QueueFull,
        (KafkaError::Transaction(e), _) if e.is_fatal() => Kind::Fatal,
        (KafkaError::Transaction(e), _) if e.txn_requires_abort() => Kind::MustAbort,
        // Invariant: an error of a transactional call that has no class is as good as fatal.
        (KafkaError::Transaction(_), _) => Kind::Fatal,
        _ => Kind::MustAbort,
    }
}

impl Client for KafkaClient {
    fn settled(&self, result: &Result<(), CommitError>) {
        let mut settled = self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match result {
            Ok(()) => &mut settled.committed,
            Err(CommitError::Aborted { .. }) => &mut settled.aborted,
            Err(CommitError::Fenced { .. }) => &mut settled.fenced,
            Err(_) => &mut settled.open,
        };
        *count += 1;
    }

    fn id(&self) -> &str {
        &self.id
    }

    fn times(&self) -> Times {
        let times = &self.shared.config.times;
        Times { commit_budget: times.commit_budget, transaction: times.transaction, reach: times.reach }
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    fn serve(&mut self, wait: Duration) {
        // Not in the client's own wait: rdkafka rounds what is left of it down to milliseconds, and spins through the last one.
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        let Some(producer) = &self.producer else { return };
        // A poll that may not wait serves one event; a report is one of many records. What waits to be served, words of the
        // client included, counts as in flight.
        for _ in 0..EVENTS_SERVED_MAX {
            let before = producer.in_flight_count();
            producer.poll(Duration::ZERO);
            if producer.in_flight_count() == before {
                break;
            }
        }
    }

    fn close(&mut self) {
        self.open = false;
        self.producer = None;
    }

    fn is_open(&self) -> bool {
        self.open && self.producer.is_some()
    }

    fn renew(&mut self, _why: Why) -> Result<(), LogError> {
        self.close();
        let config = &self.shared.config;
        let deliveries = Deliveries::default();
        let producer = config
            .producer(&self.id)?
            .create_with_context(deliveries.clone())
            .map_err(|e| translate("open writer", About::Writer(&self.id), &e, config, &deliveries.words))?;
        self.producer = Some(Arc::new(producer));
        Ok(())
    }

    fn init(&mut self, wait: Duration) -> Result<Init, LogError> {
        let config = &self.shared.config;
        let Some(producer) = &self.producer else {
            return Err(LogError::Client { call: "open writer", reason: "no producer".into() });
        };
        let Some(outcome) = apart::run(producer, wait, move |p| p.init_transactions(wait)) else {
            let hung = unreachable(config, &producer.context().words, "the client does not come back from opening a writer");
            self.note_hung();
            self.renew(Why::Start)?;
            return Ok(Init::NotYet(hung));
        };
        let Err(error) = outcome else {
            self.open = true;
            return Ok(Init::Done);
        };
        producer.poll(SERVE_STEP);
        let words = producer.context().words.clone();
        match &error {
            KafkaError::Transaction(e) if e.is_retriable() => Ok(Init::NotYet(unreachable(config, &words, &plain(&error)))),
            _ => Err(translate("open writer", About::Writer(&self.id), &error, config, &words)),
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        *self.denied.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let producer = self.producer()?;
        *producer.context().lock() = Epoch::default();
        producer.begin_transaction().map_err(|e| self.failure(&e))
    }

    fn append(&mut self, append: &Append) -> Result<(), Failure> {
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
            let insert = |all: OwnedHeaders, (name, value): &(String, bytes::Bytes)| {
                all.insert(Header { key: name, value: Some(&value[..]) })
            };
            record = record.headers(append.headers.iter().fold(headers, insert));
        }
        self.producer()?.send(record).map_err(|(error, _)| self.failure(&error))
    }

    fn in_flight(&self) -> usize {
        self.producer.as_ref().map_or(0, |p| usize::try_from(p.in_flight_count()).unwrap_or(0))
    }

    fn send_offsets(&mut self, offsets: &[(TopicPartition, Committed)], wait: Duration) -> Result<(), Failure> {
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for (at, committed) in offsets {
            let mut element = list.add_partition(&at.topic, at.partition as i32);
            if let Err(error) = element.set_offset(Offset::Offset(committed.offset)) {
                let reason = format!("offset {} of {at}: {}", committed.offset, plain(&error));
                return Err(Failure::new(Kind::MustAbort, reason));
            }
            element.set_metadata(&committed.metadata);
        }
        // Invariant: fresh group metadata for every call; a stale generation is refused by the broker.
        let metadata = self.member().and_then(|group| group.consumer().ok().and_then(Consumer::group_metadata));
        let Some(metadata) = metadata else { return Err(Failure::new(Kind::Expelled, "its member has left the group")) };
        self.apart("commit offsets", wait, move |p| p.send_offsets_to_transaction(&list, &metadata, wait))
    }

    fn commit(&mut self, wait: Duration) -> Result<(), Failure> {
        self.apart("commit", wait, move |p| p.commit_transaction(wait))
    }

    fn abort(&mut self, wait: Duration) -> Result<(), Failure> {
        self.apart("abort", wait, move |p| p.abort_transaction(wait))
    }

    fn stored(&self) -> Vec<(TopicPartition, i64)> {
        self.producer.as_ref().map(|p| p.context().lock().stored.clone()).unwrap_or_default()
    }

    fn refusal(&mut self) -> Option<CommitError> {
        let denied = self.denied.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((code, at)) = self.producer.as_ref().and_then(|p| p.context().lock().refused.take()) else {
            return denied.map(|reason| LogError::Denied { what: format!("write an epoch: {reason}") }.into());
        };
        if matches!(code, Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge) {
            // Every record was below the known limit, so the topic was made by others with a smaller one.
            let reason =
                format!("{at} refused a batch: its max.message.bytes is below {BATCH_BYTES_MAX}, or below the record limit");
            return Some(LogError::Client { call: "append", reason }.into());
        }
        let error = KafkaError::MessageProduction(code);
        match translate("append", About::Partition(&at), &error, &self.shared.config, &Words::default()) {
            denied @ LogError::Denied { .. } => Some(denied.into()),
            _ => Some(CommitError::Aborted { reason: format!("{at}: {code}") }),
        }
    }

    fn is_in_doubt(&self) -> bool {
        let Some(producer) = &self.producer else { return false };
        // The news waits in a queue; a poll that may not wait serves one event.
        for _ in 0..EVENTS_SERVED_MAX {
            producer.poll(Duration::ZERO);
        }
        producer.context().is_in_doubt()
    }

    fn standing(&self) -> Standing {
        match &self.group {
            None => Standing::Alone,
            Some(group) if group.upgrade().is_some() => Standing::Member,
            Some(_) => Standing::Left,
        }
    }

    fn holds(&self, offsets: &[(TopicPartition, Committed)]) -> bool {
        self.member().is_some_and(|group| group.holds(offsets.iter().map(|(at, _)| at)))
    }

    fn changes(&self) -> u64 {
        self.member().map_or(0, |group| group.changes())
    }

    fn committed(&mut self, at: &[TopicPartition], _why: Why, wait: Duration) -> Result<Vec<Option<Committed>>, LogError> {
        let Some(group) = self.member() else {
            return Err(LogError::Client { call: "read committed offsets", reason: "the member has left".into() });
        };
        super::committed_by(group.consumer()?, at, Instant::now() + wait)
            .map_err(|e| translate("read committed offsets", About::Group(&group.name), &e, &self.shared.config, group.words()))
    }

    fn read_back(&mut self, at: &TopicPartition, offset: i64, wait: Duration) -> Result<bool, LogError> {
        let deadline = Instant::now() + wait;
        let mut reader = KafkaReader::open(&self.shared, at, offset)?;
        loop {
            let records = reader.poll(PollLimit { records: 1, bytes: 1 }, READ_STEP)?;
            if let Some(first) = records.first() {
                return Ok(first.offset == offset);
            }
            if reader.at_end() {
                return Ok(false);
            }
            if Instant::now() >= deadline {
                return Err(LogError::Client { call: "read back an epoch", reason: format!("no answer for {at}") });
            }
        }
    }

    fn is_visible(&mut self, stored: &[(TopicPartition, i64)], wait: Duration) -> Result<bool, LogError> {
        // The tools' isolation level makes the end the last stable offset; one request per broker.
        let mut list = TopicPartitionList::with_capacity(stored.len());
        for (at, _) in stored {
            drop(list.add_partition_offset(&at.topic, at.partition as i32, Offset::End));
        }
        let fail = |e: KafkaError| translate("ask for offsets", About::Cluster, &e, &self.shared.config, &Words::default());
        let ends = self.shared.tools.offsets_for_times(list, wait).map_err(fail)?;
        let seen = |(at, offset): &(TopicPartition, i64)| {
            let end = ends.find_partition(&at.topic, at.partition as i32).map(|e| e.offset());
            matches!(end, Some(Offset::Offset(end)) if end > *offset)
        };
        Ok(stored.iter().all(seen))
    }

    fn check(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
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
}

/// Bytes of a record to be written, counted as [`crate::log::Record::size`] does.
fn size_of(append: &Append) -> usize {
    append.key.as_ref().map_or(0, bytes::Bytes::len)
        + append.value.as_ref().map_or(0, bytes::Bytes::len)
        + append.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_their_class() {
        let of = |error: &KafkaError, fatal: Option<Code>| kind_of(error, fatal.or_else(|| code_of(error)), fatal.is_some());
        let timed_out = KafkaError::Flush(Code::OperationTimedOut);
        assert_eq!(of(&timed_out, None), Kind::Unstored, "rdkafka's own flush: the end was never asked for");
        assert_eq!(of(&KafkaError::Flush(Code::MessageSizeTooLarge), None), Kind::Unstorable);
        assert_eq!(of(&KafkaError::MessageProduction(Code::QueueFull), None), Kind::QueueFull);
        assert_eq!(of(&KafkaError::MessageProduction(Code::UnknownPartition), None), Kind::MustAbort);
        // A fatal error of the producer stands behind whatever a call returned.
        assert_eq!(of(&timed_out, Some(Code::Fenced)), Kind::Fenced);
        assert_eq!(of(&timed_out, Some(Code::InvalidProducerEpoch)), Kind::Fenced);
        assert_eq!(of(&timed_out, Some(Code::FencedInstanceId)), Kind::Expelled);
        assert_eq!(of(&timed_out, Some(Code::InvalidTransactionalState)), Kind::Fatal);
    }
}
