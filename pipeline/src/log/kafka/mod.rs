//! The log on Apache Kafka, by rdkafka: production.
//!
//! One [`KafkaLog`] per process and cluster; readers, members and writers each own a client. What always holds: only
//! blocking calls, each bounded (never on an async worker thread); readers see committed records only and skip nothing
//! silently; records and offsets of an epoch share one transaction; a commit whose outcome is unknown is settled by a new
//! producer with the same id before anything else happens ([`super::protocol`]).
//!
//! Costs to know: a reader is a client of its own (a connection per broker and a few threads), its queue holds at most
//! [`config::READER_QUEUE_KIB_MAX`]; opening a writer asks the transaction coordinator.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionListElem};
use tidewatch_schemas::time::EventTime;

use super::protocol::TransactionalWriter;
use super::{
    Committed, Log, LogError, Member, Membership, OffsetRange, PollLimit, Reader, Settled, TopicPartition, TopicSpec, Writer,
};
use client::{About, Quiet, code_of, retry, serve, translate, unreachable};
use tools::Tools;

mod admin;
mod apart;
mod client;
pub mod config;
mod deliveries;
mod doubt;
pub mod inspect;
mod membership;
mod producer;
mod pulse;
mod reader;
pub mod rights;
mod shares;
mod tools;

pub use config::{Compression, GroupProtocol, KafkaConfig, KafkaSasl, KafkaTimes, KafkaTls, SaslMechanism, SecretSource};

/// Topics whose partition counts and record limits are remembered. At the limit all are forgotten and asked for again.
const TOPICS_KNOWN_MAX: usize = 4096;
/// How often a position above the end is asked for again before it is believed: a new leader may lag for a moment.
const RANGE_CHECKS: u32 = 3;
/// Longest first try of a question; each further one may take twice as long.
const ASK_FIRST: Duration = Duration::from_secs(1);
/// Longest wait for an end that is only shown.
const HIGH_WATERMARK_WAIT: Duration = Duration::from_secs(2);
/// Pause before a broker is asked again for a topic that was just made.
const NEWS_PAUSE: Duration = Duration::from_millis(50);

/// Kafka as a log.
#[derive(Clone)]
pub struct KafkaLog {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for KafkaLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaLog").field("brokers", &self.shared.config.brokers).finish_non_exhaustive()
    }
}

impl KafkaLog {
    /// Connects and asks for the cluster's metadata once: an unreachable cluster is said so within
    /// [`KafkaTimes::reach`], a refused plaintext connection at once.
    pub fn connect(config: KafkaConfig) -> Result<Self, LogError> {
        let quiet = Quiet::default();
        let tools = Tools::open(&config, &quiet)?;
        let (admin, known, unstable, settled) = Default::default();
        let shared = Shared { config, tools, quiet, admin, known, unstable, settled };
        let log = Self { shared: Arc::new(shared) };
        log.topics()?;
        Ok(log)
    }
}

impl Log for KafkaLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.shared.create_topic(spec)
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        let s = &self.shared;
        let metadata = s.ask("list topics", About::Cluster, |t| s.tools.fetch_metadata(None, t))?;
        let mut topics: Vec<(String, u32)> = metadata
            .topics()
            .iter()
            // Kafka's own topics are nobody's business here.
            .filter(|t| t.error().is_none() && !t.name().starts_with("__"))
            .map(|t| (t.name().to_owned(), t.partitions().len() as u32))
            .collect();
        topics.sort_unstable();
        Ok(topics)
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.shared.partitions(topic)
    }

    fn topic_id(&self, topic: &str) -> Result<Option<String>, LogError> {
        let deadline = Instant::now() + self.shared.config.times.reach;
        loop {
            let refused = match self.describe_topic_id(topic, self.shared.config.times.reach) {
                Ok(id) => return Ok(id),
                Err(refused) => refused,
            };
            // Gone, refused and away have their own errors there; else a broker has not heard of a new topic yet.
            self.shared.partitions(topic)?;
            if Instant::now() >= deadline {
                return Err(unreachable(&self.shared.config, &self.shared.quiet.words, &refused));
            }
            std::thread::sleep(NEWS_PAUSE);
        }
    }

    fn topic_id_within(&self, topic: &str, wait: Duration) -> Result<Option<String>, LogError> {
        let config = &self.shared.config;
        self.describe_topic_id(topic, wait).map_err(|refused| unreachable(config, &self.shared.quiet.words, &refused))
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.shared.offsets(at)
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        self.shared.offset_at(at, time)
    }

    fn high_watermark(&self, at: &TopicPartition) -> Result<i64, LogError> {
        self.shared.high_watermark(at)
    }

    fn settled(&self) -> Settled {
        *self.shared.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        self.shared.check_range(at, from)?;
        Ok(Box::new(reader::KafkaReader::open(&self.shared, at, from)?))
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        Ok(Box::new(TransactionalWriter::open(producer::KafkaClient::new(&self.shared, id, None))?))
    }

    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        let s = &self.shared;
        let quiet = Quiet::default();
        let consumer: BaseConsumer<Quiet> = s
            .config
            .consumer(group)?
            .create_with_context(quiet.clone())
            .map_err(|e| translate("read committed offsets", About::Group(group), &e, &s.config, &quiet.words))?;
        let result = committed_by(&consumer, at, Instant::now() + s.config.times.reach);
        serve(&consumer);
        client::close(consumer);
        result.map_err(|e| translate("read committed offsets", About::Group(group), &e, &s.config, &quiet.words))
    }

    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError> {
        Ok(Box::new(membership::KafkaMembership::join(&self.shared, group, topics, member)?))
    }

    fn enforce_retention(&self, _now: EventTime) -> Result<u64, LogError> {
        // The brokers do it by the topic's settings.
        Ok(0)
    }

    fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
        self.shared.delete_before(at, offset)
    }
}

/// What readers, members and writers of one cluster share.
pub(super) struct Shared {
    /// How to reach it.
    config: KafkaConfig,
    /// A consumer without a group: metadata, offsets, times.
    tools: Tools,
    /// Its callbacks.
    quiet: Quiet,
    /// Admin client, made when needed.
    admin: Mutex<Option<admin::Admin>>,
    /// What is known of topics.
    known: Mutex<BTreeMap<String, Known>>,
    /// A consumer that sees open transactions, made when needed: for ends alone.
    unstable: Mutex<Option<BaseConsumer<Quiet>>>,
    /// Unclear commits.
    settled: Mutex<Settled>,
}

/// What is known of a topic.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Partition count. It may grow later: ask again when a partition seems to be missing.
    partitions: Option<u32>,
    /// Largest record, bytes.
    record_bytes_max: Option<usize>,
    /// When it was made or found to be right: for a while some brokers may not have heard of it yet.
    accepted: Option<Instant>,
}

impl Shared {
    /// One bounded call on the tools consumer, repeated while nobody answers.
    fn ask<T>(
        &self,
        call: &'static str,
        about: About<'_>,
        mut f: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, LogError> {
        // A lost answer, as of a broker that has just died, costs a second and not all the time there is.
        let mut longest = ASK_FIRST;
        let result = retry(Instant::now() + self.config.times.reach, |left| {
            let wait = left.min(longest);
            longest *= 2;
            f(wait)
        });
        self.tools.serve();
        let result = result.map_err(|e| translate(call, about, &e, &self.config, &self.quiet.words));
        if matches!(result, Err(LogError::Denied { .. })) {
            self.tools.renew(&self.config);
        }
        result
    }

    /// Partition count, asked of the cluster and remembered.
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.despite_news(topic, || self.count_partitions(topic))
    }

    /// Asks again while a topic that was just made is unknown to the broker that happens to answer.
    fn despite_news<T>(&self, topic: &str, ask: impl Fn() -> Result<T, LogError>) -> Result<T, LogError> {
        loop {
            let result = ask();
            let is_unknown = matches!(result, Err(LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. }));
            let is_new = || self.known(topic).accepted.is_some_and(|at| at.elapsed() < self.config.times.reach);
            if !is_unknown || !is_new() {
                return result;
            }
            std::thread::sleep(NEWS_PAUSE);
        }
    }

    fn count_partitions(&self, topic: &str) -> Result<u32, LogError> {
        let metadata = self.ask("ask for topic", About::Topic(topic), |t| self.tools.fetch_metadata(Some(topic), t))?;
        let found = metadata.topics().iter().find(|t| t.name() == topic);
        let Some(found) = found else { return Err(LogError::UnknownTopic { topic: topic.to_owned() }) };
        if let Some(error) = found.error() {
            let error = KafkaError::MetadataFetch(error.into());
            return Err(translate("ask for topic", About::Topic(topic), &error, &self.config, &self.quiet.words));
        }
        let partitions = found.partitions().len() as u32;
        if partitions == 0 {
            return Err(LogError::UnknownTopic { topic: topic.to_owned() });
        }
        self.remember(topic, |known| known.partitions = Some(partitions));
        Ok(partitions)
    }

    /// Makes sure a partition exists, with as few questions as possible.
    fn check_partition(&self, at: &TopicPartition) -> Result<(), LogError> {
        if self.known(&at.topic).partitions.is_some_and(|n| at.partition < n) {
            return Ok(());
        }
        if at.partition < self.partitions(&at.topic)? { Ok(()) } else { Err(LogError::UnknownPartition { at: at.clone() }) }
    }

    /// What is known of a topic.
    fn known(&self, topic: &str) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or_default()
    }

    /// Notes something about a topic.
    fn remember(&self, topic: &str, note: impl FnOnce(&mut Known)) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= TOPICS_KNOWN_MAX && !known.contains_key(topic) {
            known.clear();
        }
        note(known.entry(topic.to_owned()).or_default());
    }

    /// Start and last stable offset. The client asks for the end with its own isolation level, read_committed, so the
    /// broker answers with the last stable offset, not with the high watermark.
    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.check_partition(at)?;
        let ask = || {
            self.ask("ask for offsets", About::Partition(at), |t| self.tools.fetch_watermarks(&at.topic, at.partition as i32, t))
        };
        let (start, end) = self.despite_news(&at.topic, ask)?;
        Ok(OffsetRange { start, end })
    }

    /// End with the records of open transactions.
    fn high_watermark(&self, at: &TopicPartition) -> Result<i64, LogError> {
        let mut unstable = self.unstable.lock().unwrap_or_else(PoisonError::into_inner);
        if unstable.is_none() {
            let mut settings = self.config.client()?;
            settings.set("isolation.level", "read_uncommitted");
            let made = settings.create_with_context(self.quiet.clone());
            *unstable = Some(made.map_err(|e| translate("connect", About::Cluster, &e, &self.config, &self.quiet.words))?);
        }
        let Some(consumer) = unstable.as_ref() else { return self.offsets(at).map(|range| range.end) };
        // Once, and briefly: this is for people, and nothing waits for it.
        let asked = consumer.fetch_watermarks(&at.topic, at.partition as i32, HIGH_WATERMARK_WAIT);
        let failed = |e| translate("ask for the end", About::Partition(at), &e, &self.config, &self.quiet.words);
        Ok(asked.map_err(failed)?.1)
    }

    /// First offset at or after a time.
    fn offset_at(self: &Arc<Self>, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        self.check_partition(at)?;
        let end = |s: &Self| s.offsets(at).map(|r| r.end);
        // Records carry milliseconds: at or after 1.2 ms means at or after 2 ms. Before 1970 is before every record.
        let time_ms = time.0.div_euclid(1_000_000) + i64::from(time.0.rem_euclid(1_000_000) > 0);
        let list = self.ask("ask for offsets by time", About::Partition(at), |t| {
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(time_ms.max(0)))?;
            let list = self.tools.offsets_for_times(list, t)?;
            list.elements().iter().try_for_each(TopicPartitionListElem::error)?;
            Ok(list)
        })?;
        match list.elements().first().map(TopicPartitionListElem::offset) {
            Some(Offset::Offset(offset)) => self.first_at_or_after(at, offset, time, end(self)?),
            _ => end(self),
        }
    }

    /// The first visible record of at least `time` from `offset` on; `end` when there is none before it.
    ///
    /// The broker also counts what no reader sees: aborted records, and transaction markers, which carry the broker's
    /// clock and so look younger than every event. When its answer is such an offset, the records behind it are read.
    fn first_at_or_after(self: &Arc<Self>, at: &TopicPartition, offset: i64, time: EventTime, end: i64) -> Result<i64, LogError> {
        let mut reader = reader::KafkaReader::open(self, at, offset)?;
        let mut heard = Instant::now();
        // One record decides in the common case.
        let mut limit = PollLimit { records: 1, bytes: 1 };
        while reader.position() < end && !reader.at_end() {
            let records = reader.poll(limit, self.config.times.reach)?;
            if let Some(found) = records.iter().find(|r| r.timestamp >= time) {
                return Ok(found.offset.min(end));
            }
            if !records.is_empty() {
                heard = Instant::now();
                limit = PollLimit::default();
            } else if heard.elapsed() > self.config.times.reach * 2 {
                return Err(unreachable(&self.config, &self.quiet.words, "no records while searching by time"));
            }
        }
        Ok(end)
    }

    /// Refuses a position outside what can be read.
    fn check_range(&self, at: &TopicPartition, from: i64) -> Result<(), LogError> {
        let mut range = self.offsets(at)?;
        for _ in 1..RANGE_CHECKS {
            if from <= range.end {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
            range = self.offsets(at)?;
        }
        if (range.start..=range.end).contains(&from) {
            return Ok(());
        }
        Err(LogError::OutOfRange { at: at.clone(), wanted: from, start: range.start, end: range.end })
    }
}

/// Committed offsets of the consumer's group; stable ones, so it waits for an open transaction of that group.
fn committed_by<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    at: &[TopicPartition],
    deadline: Instant,
) -> Result<Vec<Option<Committed>>, KafkaError> {
    if at.is_empty() {
        return Ok(Vec::new());
    }
    retry(deadline, |left| {
        let mut list = TopicPartitionList::with_capacity(at.len());
        for at in at {
            list.add_partition(&at.topic, at.partition as i32);
        }
        let list = consumer.committed_offsets(list, left)?;
        at.iter()
            .map(|at| {
                let Some(found) = list.find_partition(&at.topic, at.partition as i32) else { return Ok(None) };
                match found.error() {
                    Err(error) if matches!(code_of(&error), Some(Code::UnknownTopicOrPartition | Code::NoOffset)) => Ok(None),
                    Err(error) => Err(error),
                    Ok(()) => match found.offset() {
                        Offset::Offset(offset) => Ok(Some(Committed { offset, metadata: metadata_of(&found)? })),
                        _ => Ok(None),
                    },
                }
            })
            .collect()
    })
}

/// The metadata string. rdkafka panics on bytes that are not UTF-8, which another program may have committed.
fn metadata_of(found: &TopicPartitionListElem<'_>) -> Result<String, KafkaError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| found.metadata().to_owned()))
        .map_err(|_| KafkaError::OffsetFetch(Code::ValueDeserialization))
}
