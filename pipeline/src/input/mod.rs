//! Inputs of a bounded run: files and folders, and ranges of topics, behind the same door as any log. For files the
//! record timestamp says nothing (rows carry the time) and the end of a file is the end of its time; a folder is one
//! partition per log kind, its files in time order.

mod files;
mod spec;

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewatch_schemas::time::EventTime;

use crate::log::{Committed, Log, LogError, Member, Membership, OffsetRange, Reader, TopicPartition, TopicSpec, Writer};

pub use files::{FileInput, FileSet, LINE_BYTES_MAX};
pub use spec::{InputSpec, Range, RangeEnd, SpecError};

/// A log that only reads: files as topics of one partition, and topics of another log under their own names.
#[derive(Debug, Default)]
pub struct Sources {
    files: BTreeMap<String, FileSet>,
    log: Option<Arc<dyn Log>>,
}

impl Sources {
    /// None yet; `log` serves the topics that are no files.
    pub fn new(log: Option<Arc<dyn Log>>) -> Self {
        Self { files: BTreeMap::new(), log }
    }

    /// Adds files as a topic.
    pub fn add(&mut self, topic: String, files: FileSet) {
        self.files.insert(topic, files);
    }

    fn log(&self, topic: &str) -> Result<&Arc<dyn Log>, LogError> {
        self.log.as_ref().ok_or_else(|| LogError::UnknownTopic { topic: topic.to_owned() })
    }
}

const READ_ONLY: LogError = LogError::Unsupported { what: "writing to the inputs of a bounded run" };

impl Log for Sources {
    fn create_topic(&self, _: &TopicSpec) -> Result<(), LogError> {
        Err(READ_ONLY)
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        Ok(self.files.keys().map(|t| (t.clone(), 1)).collect())
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        if self.files.contains_key(topic) { Ok(1) } else { self.log(topic)?.partitions(topic) }
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        if self.files.contains_key(&at.topic) {
            return Ok(OffsetRange { start: 0, end: i64::MAX });
        }
        self.log(&at.topic)?.offsets(at)
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        self.log(&at.topic)?.offset_at(at, time)
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        match self.files.get(&at.topic) {
            Some(files) => Ok(Box::new(files.reader(from)?)),
            None => self.log(&at.topic)?.reader(at, from),
        }
    }

    fn writer(&self, _: &str) -> Result<Box<dyn Writer>, LogError> {
        Err(READ_ONLY)
    }

    fn committed(&self, _: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        Ok(vec![None; at.len()])
    }

    fn join(&self, _: &str, _: &[String], _: &Member) -> Result<Box<dyn Membership>, LogError> {
        Err(READ_ONLY)
    }

    fn enforce_retention(&self, _: EventTime) -> Result<u64, LogError> {
        Ok(0)
    }

    fn delete_before(&self, _: &TopicPartition, _: i64) -> Result<(), LogError> {
        Ok(())
    }
}
