//! What a local log knows in memory: topics, bounds, committed offsets, fences and groups. Pure: no store, no clock.

use std::collections::BTreeMap;

use crate::log::{Committed, LogError, OffsetRange, TopicPartition, TopicSpec};

use super::groups::Groups;
use super::store::{Bounds, Epoch, Recovered};

/// Topics of one log; more are refused.
pub const TOPICS_MAX: usize = 4096;
/// Partitions of all topics of one log; more are refused.
pub const PARTITIONS_MAX: usize = 65_536;
/// Writer ids one log remembers in order to fence; more are refused.
pub const WRITERS_MAX: usize = 65_536;
/// Committed positions of all groups; a commit that would add more is refused.
pub const COMMITTED_MAX: usize = 1 << 20;
/// Members of all groups; more are refused.
pub const GROUP_MEMBERS_MAX: usize = 4096;

/// Counters of a local log since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Epochs committed.
    pub commits: u64,
    /// Records committed.
    pub records: u64,
    /// Bytes committed, overhead included.
    pub bytes: u64,
    /// Commits refused because a partition was full.
    pub refused_full: u64,
    /// Commits refused because a record was too large.
    pub refused_too_large: u64,
    /// Commits refused because the writer was fenced.
    pub refused_fenced: u64,
    /// Topics, partitions, writers, members or positions refused because this log holds its limit of them.
    pub refused_limit: u64,
    /// Records removed by retention or deletion.
    pub removed: u64,
}

/// A topic and the id of its first partition.
#[derive(Debug)]
pub(crate) struct Topic {
    pub(crate) spec: TopicSpec,
    pub(crate) first: u32,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) topics: BTreeMap<String, Topic>,
    /// By partition id.
    pub(crate) bounds: Vec<Bounds>,
    pub(crate) committed: BTreeMap<String, BTreeMap<TopicPartition, Committed>>,
    committed_count: usize,
    /// Writer id to the number of its newest writer.
    writers: BTreeMap<String, u64>,
    last_writer: u64,
    pub(crate) groups: Groups,
    pub(crate) stats: Stats,
}

impl State {
    pub(crate) fn new(recovered: Recovered) -> Self {
        let committed_count = recovered.committed.values().map(BTreeMap::len).sum();
        Self {
            topics: recovered.topics.into_iter().map(|(spec, first)| (spec.name.clone(), Topic { spec, first })).collect(),
            bounds: recovered.bounds,
            committed: recovered.committed,
            committed_count,
            writers: BTreeMap::new(),
            last_writer: 0,
            groups: Groups::default(),
            stats: Stats::default(),
        }
    }

    pub(crate) fn topic(&self, name: &str) -> Result<&Topic, LogError> {
        self.topics.get(name).ok_or_else(|| LogError::UnknownTopic { topic: name.to_owned() })
    }

    /// The id of a partition; an index into `bounds`.
    pub(crate) fn partition(&self, at: &TopicPartition) -> Result<u32, LogError> {
        let topic = self.topic(&at.topic)?;
        if at.partition >= topic.spec.partitions {
            return Err(LogError::UnknownPartition { at: at.clone() });
        }
        Ok(topic.first + at.partition)
    }

    pub(crate) fn bounds(&self, id: u32) -> Bounds {
        self.bounds[id as usize]
    }

    pub(crate) fn range(&self, id: u32) -> OffsetRange {
        let b = self.bounds(id);
        OffsetRange { start: b.start, end: b.next }
    }

    /// Where a new topic's partitions would begin; `None` when the topic is already there with that count.
    pub(crate) fn place_topic(&mut self, spec: &TopicSpec) -> Result<Option<u32>, LogError> {
        if let Some(topic) = self.topics.get(&spec.name) {
            return if topic.spec.partitions == spec.partitions {
                Ok(None)
            } else {
                Err(LogError::Partitions { topic: spec.name.clone(), expected: spec.partitions, got: topic.spec.partitions })
            };
        }
        let after = self.bounds.len() + spec.partitions as usize;
        if self.topics.len() >= TOPICS_MAX || after > PARTITIONS_MAX {
            self.stats.refused_limit += 1;
            return Err(LogError::Client {
                call: "create_topic",
                reason: format!("this log holds at most {TOPICS_MAX} topics and {PARTITIONS_MAX} partitions"),
            });
        }
        // Below PARTITIONS_MAX, hence below u32::MAX.
        Ok(Some(self.bounds.len() as u32))
    }

    pub(crate) fn add_topic(&mut self, spec: &TopicSpec, first: u32) {
        self.bounds.resize(first as usize + spec.partitions as usize, Bounds::default());
        self.topics.insert(spec.name.clone(), Topic { spec: spec.clone(), first });
    }

    /// Registers a new writer of that id; earlier ones are fenced from now on.
    pub(crate) fn open_writer(&mut self, id: &str) -> Result<u64, LogError> {
        if !self.writers.contains_key(id) && self.writers.len() >= WRITERS_MAX {
            self.stats.refused_limit += 1;
            return Err(LogError::Client {
                call: "writer",
                reason: format!("this log remembers at most {WRITERS_MAX} writer ids"),
            });
        }
        self.last_writer += 1;
        self.writers.insert(id.to_owned(), self.last_writer);
        Ok(self.last_writer)
    }

    pub(crate) fn is_newest_writer(&self, id: &str, number: u64) -> bool {
        self.writers.get(id) == Some(&number)
    }

    /// Positions a group would hold more than now.
    pub(crate) fn has_room_for(&mut self, group: &str, offsets: &[(TopicPartition, Committed)]) -> Result<(), LogError> {
        let of_group = self.committed.get(group);
        let new = offsets.iter().filter(|(tp, _)| of_group.is_none_or(|g| !g.contains_key(tp))).count();
        if self.committed_count + new > COMMITTED_MAX {
            self.stats.refused_limit += 1;
            return Err(LogError::Client {
                call: "commit",
                reason: format!("this log holds at most {COMMITTED_MAX} committed positions"),
            });
        }
        Ok(())
    }

    /// Makes a stored epoch visible.
    pub(crate) fn publish(&mut self, done: &Summary) {
        for (id, next) in &done.bounds {
            let b = &mut self.bounds[*id as usize];
            b.next = next.next;
            b.since_gap = next.since_gap;
        }
        for (id, bytes) in &done.bytes {
            self.bounds[*id as usize].bytes += bytes;
            self.stats.bytes += bytes;
        }
        if !done.offsets.is_empty() {
            let of_group = self.committed.entry(done.group.clone()).or_default();
            for (tp, committed) in &done.offsets {
                if of_group.insert(tp.clone(), committed.clone()).is_none() {
                    self.committed_count += 1;
                }
            }
        }
        self.stats.commits += 1;
        self.stats.records += done.records;
    }
}

/// What remains of an epoch once the store has its records.
#[derive(Debug)]
pub(crate) struct Summary {
    records: u64,
    bounds: BTreeMap<u32, Bounds>,
    bytes: BTreeMap<u32, u64>,
    group: String,
    offsets: Vec<(TopicPartition, Committed)>,
}

impl Summary {
    pub(crate) fn of(epoch: &Epoch, bytes: BTreeMap<u32, u64>) -> Self {
        Self {
            records: epoch.records.len() as u64,
            bounds: epoch.bounds.clone(),
            bytes,
            group: epoch.group.clone(),
            offsets: epoch.offsets.clone(),
        }
    }
}
