//! The contract between a local log and the place where its bytes lie. A store knows neither fencing nor visibility.

use std::collections::BTreeMap;
use std::fmt;

use tidewatch_schemas::time::EventTime;

use crate::log::{Committed, LogError, OffsetRange, PollLimit, Record, TopicPartition, TopicSpec};

/// Where a partition begins and ends, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First offset kept.
    pub start: i64,
    /// Next offset to be given out.
    pub next: i64,
    /// Bytes held, overhead included.
    pub bytes: u64,
    /// Records since the last gap (only with [`super::Settings::gap_every`]).
    pub since_gap: u64,
}

/// A record with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// Partition id.
    pub partition: u32,
    /// The record, offset and timestamp set.
    pub record: Record,
}

/// One epoch, all or nothing.
#[derive(Clone, Debug, Default)]
pub struct Epoch {
    /// Records in order of append.
    pub records: Vec<Placed>,
    /// New bounds of every partition written to (`start` is not changed by an epoch).
    pub bounds: BTreeMap<u32, Bounds>,
    /// Group whose offsets move.
    pub group: String,
    /// Its new offsets.
    pub offsets: Vec<(TopicPartition, Committed)>,
}

/// What a store held when it was opened.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// Topics with the id of their first partition; ids of one topic follow each other and begin at 0 without gaps.
    pub topics: Vec<(TopicSpec, u32)>,
    /// Bounds by partition id.
    pub bounds: Vec<Bounds>,
    /// Committed offsets by group.
    pub committed: BTreeMap<String, BTreeMap<TopicPartition, Committed>>,
}

/// Keeps records by partition id and offset.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Remembers a topic whose partitions get the ids from `first` on.
    fn create_topic(&self, spec: &TopicSpec, first: u32) -> Result<(), LogError>;

    /// Writes an epoch, all or nothing. Never called twice at a time.
    fn write(&self, epoch: Epoch) -> Result<(), LogError>;

    /// Records of `range` in order, as many as `limit` says, at least one when one is there.
    fn read(&self, partition: u32, range: OffsetRange, limit: PollLimit) -> Result<Vec<Record>, LogError>;

    /// The first offset in `range` whose timestamp is at or after `time`.
    fn first_at(&self, partition: u32, range: OffsetRange, time: EventTime) -> Result<Option<i64>, LogError>;

    /// The first offset that `keep` accepts, given timestamp and bytes (overhead included) from the start on; `None` when
    /// it accepts none of `range`. A store may ask for several neighbouring records at once, with their highest timestamp
    /// and all their bytes; they then stay or go together.
    fn first_kept(
        &self,
        partition: u32,
        range: OffsetRange,
        keep: &mut dyn FnMut(EventTime, u64) -> bool,
    ) -> Result<Option<i64>, LogError>;

    /// Makes `start` the first offset kept, before any record below it is removed.
    fn set_start(&self, partition: u32, start: i64) -> Result<(), LogError>;

    /// Removes the records of `range`. Returns records and bytes (overhead included) removed. Never called twice at a time.
    fn remove(&self, partition: u32, range: OffsetRange) -> Result<(u64, u64), LogError>;
}
