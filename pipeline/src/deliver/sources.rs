//! The partitions a destination reads, and its position in each. A position is the first offset not yet done with: it
//! passes a signal only once that signal was delivered, set aside or is none of the destination's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_schemas::time::EventTime;

use super::event::Event;
use crate::log::{Committed, Log, LogError, OffsetRange, PollLimit, Reader, Record, TopicPartition};

/// How often a backlog is asked of the log while there is one.
const BACKLOG_EVERY: Duration = Duration::from_secs(1);

/// Where a destination without any position begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// With what comes from now on.
    #[default]
    Now,
    /// With the oldest signal kept.
    Beginning,
    /// With the first record at or after that timestamp.
    At(EventTime),
}

struct Source {
    reader: Box<dyn Reader>,
    /// As committed; `None` = not yet.
    committed: Option<i64>,
    backlog: u64,
}

/// All partitions assigned to this member.
pub(super) struct Sources {
    log: Arc<dyn Log>,
    group: String,
    topic: String,
    start: Start,
    /// Written with every position: from when on this destination exists. A partition that has no position though
    /// others have one is read from that moment on: it is new, or its member was the later one to start.
    since: Option<EventTime>,
    sources: BTreeMap<u32, Source>,
    /// Which partition is read first: moves on, so that none is starved.
    turn: usize,
    backlog_at: Option<Instant>,
}

impl Sources {
    pub(super) fn new(log: Arc<dyn Log>, group: String, topic: String, start: Start) -> Self {
        Self { log, group, topic, start, since: None, sources: BTreeMap::new(), turn: 0, backlog_at: None }
    }

    /// Takes up a new assignment. Partitions that stay keep their place. `skip_lost` begins at the oldest record kept
    /// where retention has removed the one to go on with; without it that is an error. Returns records lost.
    pub(super) fn assign(&mut self, assigned: &[TopicPartition], skip_lost: bool) -> Result<u64, LogError> {
        let wanted: BTreeSet<u32> = assigned.iter().filter(|a| a.topic == self.topic).map(|a| a.partition).collect();
        self.sources.retain(|partition, _| wanted.contains(partition));
        if wanted.iter().all(|partition| self.sources.contains_key(partition)) {
            return Ok(0);
        }
        let all: Vec<_> = (0..self.log.partitions(&self.topic)?).map(|p| TopicPartition::new(self.topic.clone(), p)).collect();
        let committed = self.log.committed(&self.group, &all)?;
        let is_new = committed.iter().all(Option::is_none);
        let now = (crate::log::local::wall_clock())();
        let known = committed.iter().flatten().find_map(|c| parse_since(&c.metadata));
        let since = *self.since.get_or_insert(known.unwrap_or(if is_new { now } else { EventTime::MIN }));
        let mut lost = 0;
        for (at, committed) in all.iter().zip(committed) {
            if !wanted.contains(&at.partition) || self.sources.contains_key(&at.partition) {
                continue;
            }
            let range = self.log.offsets(at)?;
            let mut from = match (&committed, self.start) {
                (Some(committed), _) => committed.offset,
                (None, Start::Now) if is_new => range.end,
                (None, Start::Now) => self.log.offset_at(at, since)?,
                (None, Start::Beginning) => range.start,
                (None, Start::At(time)) => self.log.offset_at(at, time)?,
            };
            if skip_lost && (from < range.start || from > range.end) {
                lost += u64::try_from(range.start - from).unwrap_or(0);
                from = range.start;
            }
            let reader = self.log.reader(at, from)?;
            self.sources.insert(at.partition, Source { reader, committed: committed.map(|c| c.offset), backlog: 0 });
        }
        Ok(lost)
    }

    pub(super) fn has(&self, partition: u32) -> bool {
        self.sources.contains_key(&partition)
    }

    /// Reads on, from each partition in turn, without waiting.
    pub(super) fn read(&mut self, limit: PollLimit, mut take: impl FnMut(u32, Record)) -> Result<(), LogError> {
        let count = self.sources.len();
        self.turn = self.turn.wrapping_add(1);
        let mut left = limit;
        for i in 0..count {
            let place = (self.turn.wrapping_add(i)) % count;
            let Some((partition, source)) = self.sources.iter_mut().nth(place) else { continue };
            for record in source.reader.poll(left, Duration::ZERO)? {
                left.records = left.records.saturating_sub(1);
                left.bytes = left.bytes.saturating_sub(record.size());
                take(*partition, record);
            }
            if left.records == 0 || left.bytes == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Positions that have moved since the last commit. `pending` is what was read and is not done with.
    pub(super) fn moved(&self, pending: &VecDeque<Event>) -> Vec<(TopicPartition, Committed)> {
        let mut offsets = Vec::new();
        let metadata = self.since.map(|t| format!("since={}", t.0)).unwrap_or_default();
        for (partition, source) in &self.sources {
            let offset = position(*partition, source, pending);
            if source.committed != Some(offset) {
                let at = TopicPartition::new(self.topic.clone(), *partition);
                offsets.push((at, Committed { offset, metadata: metadata.clone() }));
            }
        }
        offsets
    }

    /// The log has these positions now.
    pub(super) fn settled(&mut self, offsets: &[(TopicPartition, Committed)]) {
        for (at, committed) in offsets {
            if let Some(source) = self.sources.get_mut(&at.partition) {
                source.committed = Some(committed.offset);
            }
        }
    }

    /// Every partition was read to its end.
    pub(super) fn at_end(&self) -> bool {
        self.sources.values().all(|source| source.reader.at_end())
    }

    /// Records not yet done with. Asked of the log at most every [`BACKLOG_EVERY`].
    pub(super) fn backlog(&mut self, pending: usize) -> u64 {
        if self.at_end() {
            return pending as u64;
        }
        if self.backlog_at.is_none_or(|at| at.elapsed() >= BACKLOG_EVERY) {
            self.backlog_at = Some(Instant::now());
            for (partition, source) in &mut self.sources {
                // A log that cannot be asked now leaves the last figure.
                if let Ok(OffsetRange { end, .. }) = self.log.offsets(&TopicPartition::new(self.topic.clone(), *partition)) {
                    source.backlog = u64::try_from(end - source.reader.position()).unwrap_or(0);
                }
            }
        }
        self.sources.values().map(|s| s.backlog).sum::<u64>() + pending as u64
    }
}

fn position(partition: u32, source: &Source, pending: &VecDeque<Event>) -> i64 {
    let first = pending.iter().find(|event| event.partition == partition);
    first.map_or_else(|| source.reader.position(), |event| event.record.offset)
}

pub(crate) fn parse_since(metadata: &str) -> Option<EventTime> {
    metadata.strip_prefix("since=")?.parse().ok().map(EventTime)
}
