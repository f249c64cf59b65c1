//! The one door to topics: read a partition from an offset; append to several partitions and commit offsets atomically.
//!
//! Three logs stand behind it: [`memory`] (tests, simulation, backtests over files), [`embedded`] (a directory on one
//! machine) and [`kafka`] (production). The first two are one [`local`] log over two stores. All pass the same suite,
//! [`conformance`]. What always holds: order per partition; a reader sees committed records only; offsets grow but may
//! have gaps; a second writer of one id fences the first; a commit is all or nothing, and a [`Writer::commit`] that
//! returns has *settled* it (an unknown outcome is resolved inside the log, never guessed by the caller; only over
//! [`socket`], where the owner may have died, an error can say that the outcome is unknown).
//! Nothing here knows what a record means.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

pub mod conformance;
pub mod embedded;
pub mod kafka;
pub mod local;
pub mod memory;
pub mod partitioner;
pub mod protocol;
pub mod socket;

/// One record of a partition. Cheap to clone: bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in the partition; grows, with gaps.
    pub offset: i64,
    /// The log's timestamp of the record (Kafka: LogAppendTime or CreateTime as the topic says).
    pub timestamp: EventTime,
    /// Partitioning key as written, if any.
    pub key: Option<Bytes>,
    /// The bytes. `None` is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in written order; names may repeat, values may be anything.
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&Bytes> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v)
    }

    /// Bytes held by key, value and headers.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>()
    }
}

/// One record to be written. The partition is always explicit: placing is the caller's decision, not the client's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Topic, with the deployment's prefix.
    pub topic: String,
    /// Partition of the topic.
    pub partition: u32,
    /// Record timestamp; `None` = the log's clock at append.
    pub timestamp: Option<EventTime>,
    /// Key bytes.
    pub key: Option<Bytes>,
    /// Value bytes; `None` writes a tombstone.
    pub value: Option<Bytes>,
    /// Headers.
    pub headers: Vec<(String, Bytes)>,
}

/// A partition by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
}

impl TopicPartition {
    /// Shorthand.
    pub fn new(topic: impl Into<String>, partition: u32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A group's position in one partition, committed with an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to read.
    pub offset: i64,
    /// What the task wants to find again after a restart (at most [`METADATA_BYTES_MAX`]).
    pub metadata: String,
}

/// Kafka's default `offset.metadata.max.bytes`; every log keeps to it.
pub const METADATA_BYTES_MAX: usize = 4096;

/// How a topic is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Name with the deployment's prefix.
    pub name: String,
    /// Partition count; fixed for internal topics.
    pub partitions: u32,
    /// Largest record (key + value + headers), bytes.
    pub record_bytes_max: usize,
    /// Oldest records go when a partition exceeds this many bytes.
    pub retention_bytes: Option<u64>,
    /// Records older than this go (by record timestamp against the log's clock).
    pub retention_age: Option<Duration>,
    /// The log's own clock stamps records (Kafka `message.timestamp.type=LogAppendTime`).
    pub append_time: bool,
}

impl TopicSpec {
    /// A topic with 1 MiB records, kept for ever, stamped by the writer.
    pub fn new(name: impl Into<String>, partitions: u32) -> Self {
        Self {
            name: name.into(),
            partitions,
            record_bytes_max: 1 << 20,
            retention_bytes: None,
            retention_age: None,
            append_time: false,
        }
    }
}

/// Readable offsets of a partition: `start..end`, end being the last stable offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// First offset kept.
    pub start: i64,
    /// One past the last committed record.
    pub end: i64,
}

/// How much one poll may bring.
#[derive(Clone, Copy, Debug)]
pub struct PollLimit {
    /// At most this many records (at least one is returned when one is there).
    pub records: usize,
    /// Stop after the record that passes this many bytes.
    pub bytes: usize,
}

impl Default for PollLimit {
    fn default() -> Self {
        Self { records: 1024, bytes: 4 << 20 }
    }
}

/// Commits whose outcome was unclear, by what asking the log showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settled {
    /// They had committed.
    pub committed: u64,
    /// They had not.
    pub aborted: u64,
    /// Another owner had gone on.
    pub fenced: u64,
    /// Brokers stayed away: the writer ended without an answer.
    pub open: u64,
    /// Calls of the client that did not come back; whatever they were about was settled by a new producer.
    #[serde(default)]
    pub hung: u64,
}

/// A set of partitions.
pub trait Log: Send + Sync + fmt::Debug {
    /// Makes a topic, or accepts the one that is there. A different partition count is an error ([`LogError::Partitions`]).
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError>;

    /// Names and partition counts of all topics, sorted.
    fn topics(&self) -> Result<Vec<(String, u32)>, LogError>;

    /// Partition count of a topic.
    fn partitions(&self, topic: &str) -> Result<u32, LogError>;

    /// What tells a topic from a later one of the same name, as short text; `None` where nothing does (a local log's topics
    /// cannot be deleted, brokers before 2.8 give no ids).
    fn topic_id(&self, topic: &str) -> Result<Option<String>, LogError> {
        let _ = topic;
        Ok(None)
    }

    /// The same, asked once and waited for no longer than that: for whoever has other things to do meanwhile.
    fn topic_id_within(&self, topic: &str, wait: Duration) -> Result<Option<String>, LogError> {
        let _ = wait;
        self.topic_id(topic)
    }

    /// First and last stable offset.
    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError>;

    /// One past the last record, those of open transactions too; at least the end of [`Log::offsets`]. Where the log has no
    /// open transactions that others could see it is that end.
    fn high_watermark(&self, at: &TopicPartition) -> Result<i64, LogError> {
        self.offsets(at).map(|range| range.end)
    }

    /// The first offset whose record timestamp is at or after `time`; the end when there is none.
    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError>;

    /// A reader of committed records from `from` on. `from` below the start is [`LogError::OutOfRange`]: nothing is skipped silently.
    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError>;

    /// A writer that belongs to no group (a producer of inputs, a tool). Opening it fences an earlier writer of the same id.
    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError>;

    /// What a group has committed, in the order asked; `None` = never.
    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError>;

    /// Joins a group that shares out the partitions of `topics`.
    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError>;

    /// How commits of unclear outcome were settled so far.
    fn settled(&self) -> Settled {
        Settled::default()
    }

    /// Drops what retention no longer keeps (Kafka does so by itself: no-op). Returns records removed.
    fn enforce_retention(&self, now: EventTime) -> Result<u64, LogError>;

    /// Removes records below `offset` (Kafka DeleteRecords).
    fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError>;
}

/// Reads one partition in order.
pub trait Reader: Send {
    /// The next committed records; empty when nothing came within `timeout`, or when all that came was a gap.
    /// [`LogError::OutOfRange`] when the log's start has passed the position: nothing is skipped silently.
    fn poll(&mut self, limit: PollLimit, timeout: Duration) -> Result<Vec<Record>, LogError>;

    /// The next offset to read; past gaps and transaction markers already seen.
    fn position(&self) -> i64;

    /// True when the last successful fetch showed that nothing committed lies at or after [`Reader::position`].
    /// An unreachable partition is never at its end.
    fn at_end(&self) -> bool;

    /// True when the partition was not known for a while and is again, until [`Reader::is_itself`]: it may be another one of
    /// the same name, so whoever goes on from a position compares it first. Nothing is read meanwhile.
    fn was_unknown(&self) -> bool {
        false
    }

    /// It is the partition that it was.
    fn is_itself(&mut self) {}
}

/// Writes epochs: all of one epoch's records and offsets, or none.
pub trait Writer: Send {
    /// Appends the records and, for a writer that came from a [`Membership`], commits the group's offsets, atomically.
    /// On `Ok` both are durable and visible. On [`CommitError::Aborted`] neither is, and the same epoch may be tried
    /// again after the tasks were restored. On [`CommitError::Full`] neither is, and the same call may be repeated.
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError>;
}

/// Who joins a group.
#[derive(Clone, Debug)]
pub struct Member {
    /// Stable name of this member (Kafka `group.instance.id`).
    pub id: String,
    /// Number of this member among [`Member::of`]; used where the log places tasks by itself.
    pub index: u32,
    /// How many members there are.
    pub of: u32,
}

/// Membership of a group: which partitions are ours.
pub trait Membership: Send {
    /// Serves the group. Call it only *between* epochs: a revoked partition is gone when it returns.
    /// `Some` brings the whole new assignment, sorted; `None` = unchanged.
    fn poll(&mut self, timeout: Duration) -> Result<Option<Vec<TopicPartition>>, LogError>;

    /// A writer whose offsets are committed for this group, fenced by id and by the group's generation.
    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError>;

    /// Leaves. `for_good` gives the static membership up; otherwise the partitions wait for this member's return.
    fn leave(self: Box<Self>, for_good: bool) -> Result<(), LogError>;
}

/// What a log can refuse.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// No such topic.
    #[error("topic {topic} does not exist")]
    UnknownTopic {
        /// Asked for.
        topic: String,
    },
    /// No such partition.
    #[error("partition {at} does not exist")]
    UnknownPartition {
        /// Asked for.
        at: TopicPartition,
    },
    /// The topic exists with another partition count.
    #[error("topic {topic} has {got} partitions, expected {expected}")]
    Partitions {
        /// Topic.
        topic: String,
        /// Asked for.
        expected: u32,
        /// Found.
        got: u32,
    },
    /// The offset is below what the log still keeps, or above its end.
    #[error("offset {wanted} of {at} is outside {start}..{end}")]
    OutOfRange {
        /// Where.
        at: TopicPartition,
        /// Asked for.
        wanted: i64,
        /// First kept.
        start: i64,
        /// End.
        end: i64,
    },
    /// The principal may not do that.
    #[error("not allowed: {what}")]
    Denied {
        /// What was tried, with the topic or group.
        what: String,
    },
    /// No answer from the servers.
    #[error("cannot reach {what}: {reason}")]
    Unreachable {
        /// Broker list or path.
        what: String,
        /// The client's words.
        reason: String,
    },
    /// Another member runs under this one's name.
    #[error("another process runs as member {member} of group {group}: each process of a stage needs an --ordinal of its own")]
    Replaced {
        /// Group.
        group: String,
        /// Member.
        member: String,
    },
    /// Another process owns the directory.
    #[error(
        "{path} is in use by process {pid}; tap, lag and dlq reach it through that process, a second run needs its own directory"
    )]
    Locked {
        /// Directory.
        path: String,
        /// Owner, as its lock file says.
        pid: String,
    },
    /// What is stored cannot be read.
    #[error("damaged log at {path}: {reason}")]
    Damaged {
        /// Where.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// Storage failed.
    #[error("storage of {path} failed: {reason}")]
    Storage {
        /// Where.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// Storage failed earlier; this process cannot use it any more.
    #[error("storage of {path} is closed: {reason}")]
    Closed {
        /// Where.
        path: String,
        /// Why, and what to do.
        reason: String,
    },
    /// The client library failed in a way that has no name here.
    #[error("{call} failed: {reason}")]
    Client {
        /// Which call.
        call: &'static str,
        /// The client's words.
        reason: String,
    },
    /// This log cannot do that.
    #[error("{what} is not supported by this log")]
    Unsupported {
        /// What.
        what: &'static str,
    },
}

/// How a commit can end other than well.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Nothing was written; restore and repeat.
    #[error("epoch aborted: {reason}")]
    Aborted {
        /// Why.
        reason: String,
    },
    /// Another writer of this id, or another owner of the partitions, has taken over: stop these tasks.
    #[error("writer {id} is fenced: {reason}")]
    Fenced {
        /// Writer id.
        id: String,
        /// Why.
        reason: String,
    },
    /// A limit is full: wait and repeat the same commit.
    #[error("{at} is full at {limit_bytes} bytes")]
    Full {
        /// Which partition.
        at: TopicPartition,
        /// Its limit.
        limit_bytes: u64,
    },
    /// One record is larger than its topic allows: repeating cannot help.
    #[error("record of {bytes} bytes for {at} exceeds {limit_bytes}")]
    TooLarge {
        /// Where.
        at: TopicPartition,
        /// Its size.
        bytes: usize,
        /// The topic's limit.
        limit_bytes: usize,
    },
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
}
