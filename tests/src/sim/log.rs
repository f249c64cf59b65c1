//! The simulated cluster as one process's log: what the pipeline is given in place of Kafka.
//!
//! Its writers run the production procedure ([`tidewatch::log::protocol`]); everything else behaves as the Kafka log does
//! where a caller can see it. What always holds: every request is a step that fate decides about; a process that is not
//! scheduled does not heartbeat; handles do nothing when they are dropped, so that a crash leaves the cluster as it is.

mod client;
mod link;
mod membership;
mod reader;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidewatch::log::protocol::{Times, TransactionalWriter};
use tidewatch::log::{
    CommitError, Committed, Log, LogError, Member, Membership, OffsetRange, Reader, TopicPartition, TopicSpec, Writer,
};
use tidewatch_schemas::time::EventTime;

use super::broker::{Broker, Request, Response};
use super::fate::{Fate, ProcessId, Step};
use client::SimClient;
use link::{Link, unexpected};
use membership::SimMembership;
use reader::SimReader;

/// Mistakes that a client could make, for controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Offsets are committed outside the transaction, before its end.
    OffsetsOutside,
    /// An unclear commit is taken for aborted, and its epoch repeated.
    AbortUnclear,
    /// A restart fences nobody: another transactional id each time, no group metadata with the offsets, and no look at
    /// what the group said since the last poll.
    NoFencing,
}

/// How a process's log is set up.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Times of the commit protocol.
    pub times: Times,
    /// A planted mistake.
    pub bug: Option<Bug>,
}

impl Default for Settings {
    /// The Kafka log's defaults, and no mistake.
    fn default() -> Self {
        let s = Duration::from_secs;
        Self { times: Times { commit_budget: s(8), transaction: s(10), reach: s(10) }, bug: None }
    }
}

/// One process's log. Cloning gives another handle of the same process.
#[derive(Clone)]
pub struct SimLog {
    link: Arc<Link>,
}

impl std::fmt::Debug for SimLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimLog").field("process", &self.link.process).finish_non_exhaustive()
    }
}

impl SimLog {
    /// The log of a process.
    pub fn new(broker: Arc<Mutex<Broker>>, fate: Arc<dyn Fate>, process: ProcessId, settings: Settings) -> Self {
        Self { link: Arc::new(Link::new(broker, fate, process, settings)) }
    }
}

impl Log for SimLog {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.link.insist("create topic", Step::LogCreate, &Request::CreateTopic(spec.clone())).map(drop)
    }

    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        match self.link.insist("list topics", Step::LogMetadata, &Request::Metadata)? {
            Response::Topics(topics) => Ok(topics),
            other => Err(unexpected("list topics", &other)),
        }
    }

    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        let found = self.topics()?.into_iter().find(|(name, _)| name == topic);
        found.map(|(_, n)| n).ok_or_else(|| LogError::UnknownTopic { topic: topic.to_owned() })
    }

    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.link.range(Step::RestartOffsets, at)
    }

    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        match self.link.insist("ask for offsets by time", Step::LogByTime, &Request::ByTime(at.clone(), time))? {
            Response::Offset(offset) => Ok(offset),
            other => Err(unexpected("ask for offsets by time", &other)),
        }
    }

    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        let range = self.link.range(Step::RestartReader, at)?;
        if !(range.start..=range.end).contains(&from) {
            return Err(LogError::OutOfRange { at: at.clone(), wanted: from, start: range.start, end: range.end });
        }
        Ok(Box::new(SimReader::new(&self.link, at, from)))
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        open(SimClient::new(&self.link, id, None))
    }

    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        let found = self.link.committed(Step::RestartCommitted, group, at, self.link.settings.times.reach)?;
        self.link.note_committed(at, &found);
        Ok(found)
    }

    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError> {
        for topic in topics {
            self.partitions(topic)?;
        }
        Ok(Box::new(SimMembership::join(&self.link, group, topics, member)))
    }

    fn enforce_retention(&self, _now: EventTime) -> Result<u64, LogError> {
        Ok(0)
    }

    fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
        self.link.insist("delete records", Step::LogDelete, &Request::DeleteBefore(at.clone(), offset)).map(drop)
    }
}

/// A writer of the production procedure.
fn open(client: SimClient) -> Result<Box<dyn Writer>, LogError> {
    let bug = client.bug();
    let writer = TransactionalWriter::open(client)?;
    Ok(if bug == Some(Bug::AbortUnclear) { Box::new(Repeating(writer)) } else { Box::new(writer) })
}

/// The other half of [`Bug::AbortUnclear`]: an epoch that is said to be aborted is written again.
struct Repeating(TransactionalWriter<SimClient>);

impl Writer for Repeating {
    fn commit(&mut self, appends: &[tidewatch::log::Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        match self.0.commit(appends, offsets) {
            Err(CommitError::Aborted { .. }) => self.0.commit(appends, offsets),
            other => other,
        }
    }
}
