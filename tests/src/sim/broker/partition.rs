//! One partition: records, markers, open transactions, and what it knows of producers.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tidewatch::log::{Append, OffsetRange, PollLimit, Record};
use tidewatch_schemas::time::EventTime;

use super::{Batch, Refusal};

/// Batches of a producer that a repetition is recognised by, as in Kafka.
const REMEMBERED_MAX: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Committed,
    Aborted,
    Marker,
}

struct Entry {
    timestamp: EventTime,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Bytes)>,
    pid: i64,
    fate: Fate,
}

/// What a partition knows of a producer.
#[derive(Default)]
struct Known {
    epoch: i32,
    next_sequence: i64,
    /// First sequence and last offset.
    recent: VecDeque<(i64, i64)>,
}

/// A partition. Offsets are dense: entry `i` lies at `start + i`.
pub(super) struct Partition {
    start: i64,
    entries: VecDeque<Entry>,
    /// Open transactions: producer to its first record.
    open: BTreeMap<i64, i64>,
    known: BTreeMap<i64, Known>,
    /// The log's clock stamps records.
    stamped: bool,
}

impl Partition {
    pub(super) fn new(stamped: bool) -> Self {
        Self { start: 0, entries: VecDeque::new(), open: BTreeMap::new(), known: BTreeMap::new(), stamped }
    }

    fn next(&self) -> i64 {
        self.start + self.entries.len() as i64
    }

    /// Start and last stable offset.
    pub(super) fn range(&self) -> OffsetRange {
        OffsetRange { start: self.start, end: self.open.values().min().copied().unwrap_or(self.next()) }
    }

    pub(super) fn fetch(&self, from: i64, limit: PollLimit) -> Result<Batch, Refusal> {
        let range = self.range();
        if from < range.start || from > self.next() {
            return Err(Refusal::OutOfRange(range));
        }
        let mut batch = Batch { records: Vec::new(), next: from, end: range.end };
        let mut bytes = 0;
        while batch.next < range.end {
            let entry = &self.entries[(batch.next - self.start) as usize];
            if entry.fate == Fate::Committed {
                if !batch.records.is_empty() && (batch.records.len() >= limit.records || bytes >= limit.bytes) {
                    break;
                }
                let record = Record {
                    offset: batch.next,
                    timestamp: entry.timestamp,
                    key: entry.key.clone(),
                    value: entry.value.clone(),
                    headers: entry.headers.clone(),
                };
                bytes += record.size();
                batch.records.push(record);
            }
            batch.next += 1;
        }
        Ok(batch)
    }

    /// The first visible record of at least `time`; the end when there is none.
    pub(super) fn first_at(&self, time: EventTime) -> i64 {
        let end = self.range().end;
        let found = self.entries.iter().zip(self.start..end).find(|(e, _)| e.fate == Fate::Committed && e.timestamp >= time);
        found.map_or(end, |(_, offset)| offset)
    }

    pub(super) fn delete_before(&mut self, offset: i64) {
        while self.start < offset.min(self.range().end) {
            self.entries.pop_front();
            self.start += 1;
        }
    }

    /// Whether any transaction is open here.
    pub(super) fn is_held(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a transaction of this producer is open here.
    pub(super) fn is_open(&self, pid: i64) -> bool {
        self.open.contains_key(&pid)
    }

    /// Takes a batch of a transaction.
    pub(super) fn append(
        &mut self,
        pid: i64,
        epoch: i32,
        sequence: i64,
        records: Vec<Append>,
        now_ns: i64,
    ) -> Result<i64, Refusal> {
        let next = self.next();
        let known = self.known.entry(pid).or_default();
        if epoch < known.epoch {
            return Err(Refusal::ProducerFenced);
        }
        if epoch > known.epoch {
            *known = Known { epoch, ..Known::default() };
        }
        if let Some((_, last)) = known.recent.iter().find(|(first, _)| *first == sequence) {
            return Ok(*last);
        }
        if sequence != known.next_sequence {
            return Err(Refusal::OutOfOrderSequence);
        }
        known.next_sequence += records.len() as i64;
        let last = next + records.len() as i64 - 1;
        known.recent.push_back((sequence, last));
        if known.recent.len() > REMEMBERED_MAX {
            known.recent.pop_front();
        }
        self.open.entry(pid).or_insert(next);
        for append in records {
            let now = EventTime(now_ns.div_euclid(1_000_000) * 1_000_000);
            let timestamp = if self.stamped { now } else { append.timestamp.unwrap_or(now) };
            let Append { key, value, headers, .. } = append;
            self.entries.push_back(Entry { timestamp, key, value, headers, pid, fate: Fate::Open });
        }
        Ok(last)
    }

    /// Takes a record outside any transaction. Its offset.
    pub(super) fn put(&mut self, append: Append, now_ns: i64) -> i64 {
        let offset = self.next();
        let timestamp = append.timestamp.unwrap_or(EventTime(now_ns));
        let Append { key, value, headers, .. } = append;
        self.entries.push_back(Entry { timestamp, key, value, headers, pid: -1, fate: Fate::Committed });
        offset
    }

    /// Writes the end of a transaction. `epoch` shuts out the producer's earlier ones.
    pub(super) fn end(&mut self, pid: i64, epoch: i32, commit: bool, now_ns: i64) {
        let known = self.known.entry(pid).or_default();
        if epoch > known.epoch {
            *known = Known { epoch, ..Known::default() };
        }
        if let Some(first) = self.open.remove(&pid) {
            let skip = (first - self.start).max(0) as usize;
            let fate = if commit { Fate::Committed } else { Fate::Aborted };
            for entry in self.entries.iter_mut().skip(skip).filter(|e| e.pid == pid && e.fate == Fate::Open) {
                entry.fate = fate;
            }
        }
        let (timestamp, fate) = (EventTime(now_ns), Fate::Marker);
        self.entries.push_back(Entry { timestamp, key: None, value: None, headers: Vec::new(), pid, fate });
    }
}
