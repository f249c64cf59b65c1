//! What a check is given, and the few moves all checks share.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewatch_schemas::time::EventTime;

use crate::log::{
    Append, CommitError, Committed, Log, LogError, Member, Membership, PollLimit, Record, TopicPartition, TopicSpec,
};

/// What a log claims beyond the door's own promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Log::enforce_retention`] removes records at once (Kafka does it in its own time).
    pub retention_at_once: bool,
    /// A partition has the byte limit that was wanted, and is full beyond it.
    pub byte_limit: bool,
    /// Partitions can be taken over by the other members within [`Fixture::patience`] after one left for good.
    pub takes_over: bool,
    /// Groups can be joined.
    pub groups: bool,
    /// [`Log::delete_before`] works.
    pub deletes: bool,
}

impl Capabilities {
    /// What the local logs claim.
    pub const LOCAL: Self = Self { retention_at_once: true, byte_limit: true, takes_over: true, groups: true, deletes: true };
}

/// What a check wants of its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Byte limit of each partition.
    pub partition_bytes_max: Option<u64>,
    /// An unused offset after every so many records, if the log does not have gaps by itself.
    pub gap_every: Option<u64>,
}

/// A log to be checked.
pub struct Fixture {
    /// The log.
    pub log: Arc<dyn Log>,
    /// What it claims.
    pub capabilities: Capabilities,
    /// Prefix of every topic, group and writer name, so that runs on one broker do not meet.
    pub prefix: String,
    /// How long to wait for what must come.
    pub patience: Duration,
    /// Kept while the check runs (a temporary directory).
    pub keep: Box<dyn Any>,
}

/// What a check found broken.
#[derive(Debug)]
pub struct Broken(String);

impl Broken {
    /// In words.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<LogError> for Broken {
    fn from(e: LogError) -> Self {
        Self(format!("unexpected: {e}"))
    }
}

impl From<CommitError> for Broken {
    fn from(e: CommitError) -> Self {
        Self(format!("unexpected: {e}"))
    }
}

/// `Err` with the words unless the condition holds.
pub(super) fn expect(holds: bool, what: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds { Ok(()) } else { Err(Broken(what())) }
}

/// `Err` naming both unless they are equal.
pub(super) fn same<T: PartialEq + fmt::Debug>(what: &str, got: &T, expected: &T) -> Result<(), Broken> {
    expect(got == expected, || format!("{what}: got {got:?}, expected {expected:?}"))
}

/// One slice of patience.
const STEP: Duration = Duration::from_millis(20);

impl Fixture {
    /// A name of this run.
    pub(super) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Makes a topic of this run.
    pub(super) fn topic(&self, name: &str, partitions: u32) -> Result<String, Broken> {
        self.topic_with(TopicSpec::new(self.name(name), partitions))
    }

    pub(super) fn topic_with(&self, spec: TopicSpec) -> Result<String, Broken> {
        self.log.create_topic(&spec)?;
        Ok(spec.name)
    }

    /// How often to look for what must come, [`STEP`] apart.
    pub(super) fn looks(&self) -> u32 {
        u32::try_from(self.patience.as_millis() / STEP.as_millis()).unwrap_or(u32::MAX).max(1)
    }

    pub(super) fn step(&self) -> Duration {
        STEP
    }

    /// Everything committed from `from` to the end.
    pub(super) fn read(&self, at: &TopicPartition, from: i64) -> Result<Vec<Record>, Broken> {
        let mut reader = self.log.reader(at, from)?;
        let mut out: Vec<Record> = Vec::new();
        for _ in 0..self.looks() {
            loop {
                let records = reader.poll(PollLimit::default(), STEP)?;
                if records.is_empty() {
                    break;
                }
                out.extend(records);
            }
            if reader.at_end() {
                return Ok(out);
            }
        }
        Err(Broken(format!("the end of {at} was not reached: read {} records to {}", out.len(), reader.position())))
    }

    /// The values of everything from the start, as text.
    pub(super) fn texts(&self, at: &TopicPartition) -> Result<Vec<String>, Broken> {
        let start = self.log.offsets(at)?.start;
        Ok(self.read(at, start)?.iter().map(text).collect())
    }

    /// The only member of a group, with its partitions.
    pub(super) fn alone(&self, group: &str, topics: &[String]) -> Result<Box<dyn Membership>, Broken> {
        let member = Member { id: self.name("only"), index: 0, of: 1 };
        let mut membership = self.log.join(group, topics, &member)?;
        let mut expected = 0;
        for topic in topics {
            expected += self.log.partitions(topic)? as usize;
        }
        for _ in 0..self.looks() {
            if membership.poll(STEP)?.is_some_and(|held| held.len() == expected) {
                return Ok(membership);
            }
        }
        Err(Broken(format!("the only member of {group} was not given all {expected} partitions")))
    }
}

pub(super) fn text(record: &Record) -> String {
    record.value.as_ref().map_or_else(|| "<tombstone>".to_owned(), |v| String::from_utf8_lossy(v).into_owned())
}

/// A record with a text and nothing else.
pub(super) fn append(topic: &str, partition: u32, value: impl Into<String>) -> Append {
    Append {
        topic: topic.to_owned(),
        partition,
        timestamp: None,
        key: None,
        value: Some(Bytes::from(value.into())),
        headers: Vec::new(),
    }
}

/// The same at a moment.
pub(super) fn append_at(topic: &str, partition: u32, time: EventTime, value: impl Into<String>) -> Append {
    Append { timestamp: Some(time), ..append(topic, partition, value) }
}

pub(super) fn committed(offset: i64, metadata: &str) -> Committed {
    Committed { offset, metadata: metadata.to_owned() }
}
