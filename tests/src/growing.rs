//! A log that shows fewer partitions of one topic than there are, until it is told to grow: Kafka topics can, local ones
//! cannot. Everything else is the log behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tidewatch::log::{Committed, Log, LogError, Member, Membership, OffsetRange, Reader, TopicPartition, TopicSpec, Writer};
use tidewatch_schemas::time::EventTime;

#[derive(Debug)]
struct Shown {
    topic: String,
    partitions: AtomicU32,
}

impl Shown {
    fn is(&self, at: &TopicPartition) -> bool {
        at.topic != self.topic || at.partition < self.partitions.load(Ordering::Relaxed)
    }
}

/// The log.
#[derive(Debug)]
pub struct Growing {
    log: Arc<dyn Log>,
    shown: Arc<Shown>,
}

impl Growing {
    /// Shows `partitions` of `topic`.
    pub fn new(log: Arc<dyn Log>, topic: &str, partitions: u32) -> Arc<Self> {
        let shown = Shown { topic: topic.to_owned(), partitions: partitions.into() };
        Arc::new(Self { log, shown: Arc::new(shown) })
    }

    /// Shows so many from now on.
    pub fn grow(&self, partitions: u32) {
        self.shown.partitions.store(partitions, Ordering::Relaxed);
    }
}

impl Log for Growing {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.log.create_topic(spec)
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        self.log.topics()
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let all = self.log.partitions(topic)?;
        Ok(if topic == self.shown.topic { all.min(self.shown.partitions.load(Ordering::Relaxed)) } else { all })
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.log.offsets(at)
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        self.log.offset_at(at, time)
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        self.log.reader(at, from)
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        self.log.writer(id)
    }

    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        self.log.committed(group, at)
    }

    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError> {
        let inner = self.log.join(group, topics, member)?;
        Ok(Box::new(Filtered { inner, shown: self.shown.clone(), all: Vec::new(), told: None }))
    }

    fn enforce_retention(&self, now: EventTime) -> Result<u64, LogError> {
        self.log.enforce_retention(now)
    }

    fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
        self.log.delete_before(at, offset)
    }
}

struct Filtered {
    inner: Box<dyn Membership>,
    shown: Arc<Shown>,
    all: Vec<TopicPartition>,
    told: Option<Vec<TopicPartition>>,
}

impl Membership for Filtered {
    fn poll(&mut self, timeout: Duration) -> Result<Option<Vec<TopicPartition>>, LogError> {
        if let Some(all) = self.inner.poll(timeout)? {
            self.all = all;
        }
        let now: Vec<TopicPartition> = self.all.iter().filter(|at| self.shown.is(at)).cloned().collect();
        if self.told.as_ref() == Some(&now) {
            return Ok(None);
        }
        self.told = Some(now.clone());
        Ok(Some(now))
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        self.inner.writer(id)
    }

    fn leave(self: Box<Self>, for_good: bool) -> Result<(), LogError> {
        self.inner.leave(for_good)
    }
}
