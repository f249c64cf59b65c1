//! One partition in order, from a given offset.
//!
//! Assigned by hand: the group name is only a label, nothing is committed. What always holds: the position moves past
//! transaction markers and aborted records once the end was seen; an offset that is gone is an error, never a jump; after
//! any sign that the broker is away the reader is not at its end until a broker has confirmed it.
//!
//! Invariant: a position that the partition does not hold is never reset (`auto.offset.reset=error`): below the start it is
//! [`LogError::OutOfRange`] for whoever lost records to say so, above the end for whoever met another topic of the name.
//! Invariant: the position handed out passes markers, so what is committed from it leaves no lag behind when idle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::topic_partition_list::Offset;
use tidewatch_schemas::time::EventTime;

use super::client::{self, About, Quiet, code_of, is_unreachable, translate};
use super::{KafkaConfig, Shared};
use crate::log::{LogError, OffsetRange, PollLimit, Reader, Record, TopicPartition};

/// How often an idle reader that saw a broken connection asks for the end of its partition.
const PROBE_EVERY: Duration = Duration::from_millis(500);
/// Longest such question.
const PROBE_WAIT: Duration = Duration::from_millis(1000);

/// Reads one partition.
pub(super) struct KafkaReader {
    /// `None` only while closing.
    consumer: Option<BaseConsumer<Quiet>>,
    quiet: Quiet,
    shared: Arc<Shared>,
    at: TopicPartition,
    position: i64,
    at_end: bool,
    /// The partition is being fetched.
    assigned: bool,
    /// Since when the connection is in doubt.
    doubt_since: Option<Instant>,
    /// The brokers did not know the partition.
    unknown: bool,
    probed: Instant,
}

impl KafkaReader {
    /// Opens without checking the range and without fetching: the first poll does both, so that a reader that waits for
    /// its turn holds no records.
    pub(super) fn open(shared: &Arc<Shared>, at: &TopicPartition, from: i64) -> Result<Self, LogError> {
        let quiet = Quiet::default();
        let config = &shared.config;
        let fail = |e: KafkaError| translate("open reader", About::Partition(at), &e, config, &quiet.words);
        let settings = config.consumer(&format!("{}-reader", config.client_id))?;
        let consumer: BaseConsumer<Quiet> = settings.create_with_context(quiet.clone()).map_err(fail)?;
        Ok(Self {
            consumer: Some(consumer),
            quiet,
            shared: Arc::clone(shared),
            at: at.clone(),
            position: from,
            at_end: false,
            assigned: false,
            doubt_since: None,
            unknown: false,
            probed: Instant::now(),
        })
    }

    /// What an error of the client means. `Ok` = it heals by itself.
    fn failed(&mut self, error: &KafkaError) -> Result<(), LogError> {
        let config: &KafkaConfig = &self.shared.config;
        if let KafkaError::MessageConsumptionFatal(_) = error {
            return Err(translate("read", About::Partition(&self.at), error, config, &self.quiet.words));
        }
        match code_of(error) {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => self.check_range(),
            // The group is a label; a reader needs no right to it and no coordinator.
            Some(Code::GroupAuthorizationFailed) => Ok(()),
            // A restarting broker may know no topics for a moment: gone only if that stays so.
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicId) => {
                self.unknown = true;
                self.doubt();
                Ok(())
            }
            Some(code) if is_unreachable(code) => {
                self.doubt();
                Ok(())
            }
            Some(Code::BadMessage | Code::BadCompression | Code::InvalidMessage | Code::Underflow) => Err(LogError::Damaged {
                path: format!("{} at or after offset {}", self.at, self.position),
                reason: client::plain(error),
            }),
            _ => Err(translate("read", About::Partition(&self.at), error, config, &self.quiet.words)),
        }
    }

    /// The broker refused the position: gone for good, or a new leader that did not know it yet.
    fn check_range(&mut self) -> Result<(), LogError> {
        let result = self.shared.check_range(&self.at, self.position);
        // The client has stopped fetching: start again, so that the next poll fails again or goes on.
        self.assigned = false;
        self.at_end = false;
        result
    }

    /// Starts fetching at the position, if that has not happened yet.
    fn start(&mut self) -> Result<(), LogError> {
        if self.assigned {
            return Ok(());
        }
        let Some(consumer) = &self.consumer else { return Ok(()) };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.at.topic, self.at.partition as i32, Offset::Offset(self.position))
            .and_then(|()| consumer.assign(&list))
            .map_err(|e| translate("read", About::Partition(&self.at), &e, &self.shared.config, &self.quiet.words))?;
        self.assigned = true;
        Ok(())
    }

    /// From now on the end must be confirmed.
    fn doubt(&mut self) {
        self.at_end = false;
        self.doubt_since.get_or_insert_with(Instant::now);
    }

    /// Asks for the end while in doubt; reports a broker that stays away.
    fn probe(&mut self, left: Duration) -> Result<(), LogError> {
        let (Some(since), Some(consumer)) = (self.doubt_since, &self.consumer) else { return Ok(()) };
        if self.probed.elapsed() < PROBE_EVERY {
            return Ok(());
        }
        self.probed = Instant::now();
        let wait = PROBE_WAIT.min(left.max(Duration::from_millis(50)));
        match consumer.fetch_watermarks(&self.at.topic, self.at.partition as i32, wait) {
            Ok((start, end)) => {
                let range = OffsetRange { start, end };
                self.doubt_since = None;
                self.pass_markers();
                self.at_end = self.position >= range.end;
                Ok(())
            }
            Err(error) if since.elapsed() >= self.shared.config.times.reach => {
                Err(translate("read", About::Partition(&self.at), &error, &self.shared.config, &self.quiet.words))
            }
            Err(_) => Ok(()),
        }
    }

    /// Takes over the client's position, which also passes what is never shown: markers, aborted records.
    fn pass_markers(&mut self) {
        let Some(consumer) = &self.consumer else { return };
        let Ok(list) = consumer.position() else { return };
        let found = list.find_partition(&self.at.topic, self.at.partition as i32);
        if let Some(Offset::Offset(offset)) = found.map(|f| f.offset()) {
            self.position = self.position.max(offset);
        }
    }
}

impl Reader for KafkaReader {
    fn poll(&mut self, limit: PollLimit, timeout: Duration) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + timeout;
        let mut records = Vec::new();
        let mut bytes = 0usize;
        // The client says "end" behind every fetch that reached it. Whoever polls seldom finds many of them in the queue, with
        // records between: passed over, or a topic that is read once a second is read ever later.
        let mut ended = false;
        if self.was_unknown() {
            return Ok(records);
        }
        while records.is_empty() || (records.len() < limit.records && bytes < limit.bytes) {
            self.start()?;
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(consumer) = &self.consumer else { break };
            let wait = if records.is_empty() && !ended { left } else { Duration::ZERO };
            // In doubt, come back in time for the next question.
            let wait = if self.doubt_since.is_some() { wait.min(PROBE_EVERY) } else { wait };
            match client::poll(consumer, &self.quiet.words, wait) {
                Some(Ok(message)) if self.unknown => {
                    // Whether it is a record of the same topic is not known yet: fetched again when it is.
                    drop(message);
                    (self.assigned, self.doubt_since) = (false, None);
                    break;
                }
                Some(Ok(message)) => {
                    let record = record_of(&message);
                    drop(message);
                    bytes = bytes.saturating_add(record.size());
                    self.position = record.offset + 1;
                    self.at_end = false;
                    self.doubt_since = None;
                    records.push(record);
                }
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    self.pass_markers();
                    self.at_end = true;
                    self.doubt_since = None;
                    ended = true;
                }
                // What was read is handed out first; a lasting failure shows again at the next poll.
                Some(Err(error)) => match self.failed(&error) {
                    Ok(()) => {}
                    Err(_) if !records.is_empty() => break,
                    Err(failed) => return Err(failed),
                },
                None if ended || !records.is_empty() => break,
                None => {
                    self.probe(left)?;
                    if self.at_end || Instant::now() >= deadline {
                        break;
                    }
                }
            }
        }
        if records.is_empty() {
            self.pass_markers();
        }
        Ok(records)
    }

    fn position(&self) -> i64 {
        self.position
    }

    fn at_end(&self) -> bool {
        self.at_end
    }

    fn was_unknown(&self) -> bool {
        self.unknown && self.doubt_since.is_none()
    }

    fn is_itself(&mut self) {
        self.unknown = false;
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            client::close(consumer);
        }
    }
}

/// A record with bytes of its own.
///
/// Invariant: nothing of a fetch buffer is kept: a client message would keep its whole fetch answer alive. One allocation
/// holds key,
/// value and header values.
fn record_of(message: &BorrowedMessage<'_>) -> Record {
    let headers = headers_of(message);
    let key = message.key();
    let value = message.payload();
    let size = key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len) + headers.iter().map(|(_, v)| v.len()).sum::<usize>();
    let mut bytes = Vec::with_capacity(size);
    for part in key.into_iter().chain(value).chain(headers.iter().map(|(_, v)| *v)) {
        bytes.extend_from_slice(part);
    }
    let mut rest = Bytes::from(bytes);
    let key = key.map(|k| rest.split_to(k.len()));
    let value = value.map(|v| rest.split_to(v.len()));
    let headers = headers.into_iter().map(|(name, v)| (name, rest.split_to(v.len()))).collect();
    Record {
        offset: message.offset(),
        timestamp: EventTime(message.timestamp().to_millis().unwrap_or(0).saturating_mul(1_000_000)),
        key,
        value,
        headers,
    }
}

/// Headers; a null value is an empty one. rdkafka panics on a name that is not UTF-8: such a header is left out.
fn headers_of<'m>(message: &'m BorrowedMessage<'_>) -> Vec<(String, &'m [u8])> {
    let Some(headers) = message.headers() else { return Vec::new() };
    (0..headers.count())
        .filter_map(|i| {
            let header = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| headers.try_get(i))).ok()??;
            Some((header.key.to_owned(), header.value.unwrap_or_default()))
        })
        .collect()
}
