//! The partitions a destination reads, and its position in each. A position is the first offset not yet done with: it
//! passes a signal only once that signal was delivered, set aside or is none of the destination's business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidewatch_schemas::time::EventTime;

use super::event::Event;
use crate::log::{Committed, Log, LogError, OffsetRange, PollLimit, Reader, Record, TopicPartition};
use crate::worker::WorkerError;

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

/// Which topic of the signals' name the positions belong to, by the ids that brokers give.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownTopic {
    /// Id that the deployment recorded; `None` = none.
    pub recorded: Option<String>,
    /// That one took another's place.
    pub made_again: bool,
    /// Positions in another topic are forgotten, knowingly, and the one that is there is read from its first record.
    pub accept_new: bool,
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
    known: KnownTopic,
    /// Id of the topic that is read, written with every position; `None` where brokers give none.
    id: Option<String>,
    /// Written with every position: from when on this destination exists. A partition that has no position though
    /// others have one is read from that moment on: it is new, or its member was the later one to start.
    since: Option<EventTime>,
    sources: BTreeMap<u32, Source>,
    /// Which partition is read first: moves on, so that none is starved.
    turn: usize,
    backlog_at: Option<Instant>,
}

impl Sources {
    pub(super) fn new(log: Arc<dyn Log>, group: String, topic: String, start: Start, known: KnownTopic) -> Self {
        let sources = BTreeMap::new();
        Self { log, group, topic, start, known, id: None, since: None, sources, turn: 0, backlog_at: None }
    }

    /// Takes up a new assignment. Partitions that stay keep their place. `skip_lost` begins at the oldest record kept
    /// where retention has removed the one to go on with; without it that is an error. Returns records lost.
    pub(super) fn assign(&mut self, assigned: &[TopicPartition], skip_lost: bool) -> Result<u64, WorkerError> {
        let wanted: BTreeSet<u32> = assigned.iter().filter(|a| a.topic == self.topic).map(|a| a.partition).collect();
        self.sources.retain(|partition, _| wanted.contains(partition));
        if wanted.iter().all(|partition| self.sources.contains_key(partition)) {
            return Ok(0);
        }
        let all: Vec<_> = (0..self.log.partitions(&self.topic)?).map(|p| TopicPartition::new(self.topic.clone(), p)).collect();
        let mut committed = self.log.committed(&self.group, &all)?;
        let anew = self.check_topic(&mut committed)?;
        if anew {
            // All that the new topic holds was told of nobody: also what lies in partitions that others take up later.
            self.since = Some(EventTime::MIN);
        }
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
                (None, _) if anew => range.start,
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

    /// The topic is the one in which the group has its positions, or an error says that it was made again. Where that is meant
    /// the positions go, and the answer is true: it is read from its first record.
    fn check_topic(&mut self, committed: &mut [Option<Committed>]) -> Result<bool, WorkerError> {
        self.id = self.log.topic_id(&self.topic)?;
        let Some(now) = self.id.as_deref() else { return Ok(false) };
        let recreated = |was: &str, offset: Option<i64>| WorkerError::Recreated {
            task: format!("deliver {}", self.topic).into(),
            topic: self.topic.as_str().into(),
            group: self.group.as_str().into(),
            was: was.into(),
            now: now.into(),
            committed: offset.map_or(String::new(), |offset| format!(" and stands at offset {offset}")).into(),
        };
        // Recorded anew where it was meant, so this one changed under the running process, or nobody meant it.
        if let Some(was) = self.known.recorded.as_deref().filter(|was| *was != now) {
            return Err(recreated(was, committed.iter().flatten().next().map(|c| c.offset)));
        }
        let mut forgotten = false;
        for position in committed.iter_mut() {
            let Some(at) = position else { continue };
            let Some(was) = field(&at.metadata, "topic").filter(|was| *was != now) else { continue };
            if !self.known.accept_new {
                return Err(recreated(was, Some(at.offset)));
            }
            tracing::warn!(group = %self.group, topic = %self.topic, was, now, offset = at.offset,
                "new topic accepted: the position in the old one is forgotten, the new one is read from its first record");
            *position = None;
            forgotten = true;
        }
        let is_without = committed.iter().all(Option::is_none);
        Ok(forgotten || (self.known.accept_new && self.known.made_again && is_without))
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
        let since = self.since.map(|t| format!("since={}", t.0));
        let topic = self.id.as_ref().map(|id| format!("topic={id}"));
        let metadata = since.into_iter().chain(topic).collect::<Vec<_>>().join(" ");
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

/// When a destination began, by the metadata of its position.
pub(crate) fn parse_since(metadata: &str) -> Option<EventTime> {
    field(metadata, "since")?.parse().ok().map(EventTime)
}

/// A field of a position's metadata: `name=value`, parted by spaces.
fn field<'a>(metadata: &'a str, name: &str) -> Option<&'a str> {
    metadata.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
}
