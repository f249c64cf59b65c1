//! Bytes on disk: three tables of one fjall database. Records in blocks by partition and offset; the highest timestamp of
//! every 4096 offsets (search by time); and a small table of topics, bounds and committed positions.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode};
use serde::Serialize;
use tidewatch_schemas::time::EventTime;

use crate::log::local::{Epoch, RECORD_OVERHEAD_BYTES, Store};
use crate::log::{LogError, OffsetRange, PollLimit, Record, TopicSpec};

use super::block::{BlockBuilder, BlockKey, BlockRecords};
use super::form::{
    StoredCommitted, StoredEnd, StoredStart, StoredTopic, committed_key, kind, number, position_key, small_key, topic_key,
};
use super::lock::DirLock;

/// Offsets per entry of the search by time, as a power of two: one entry of 20 bytes per 4096 records.
const TIME_SLOT_BITS: u32 = 12;

/// Free bytes on the disk below which nothing more is written: a journal file and a table that records accepted before may
/// still grow into.
const FREE_BYTES_MIN: u64 = 128 << 20;

/// A log's bytes in a directory. Opened by [`super::EmbeddedLog::open`].
pub struct FjallStore {
    pub(super) db: Database,
    pub(super) records: Keyspace,
    pub(super) times: Keyspace,
    pub(super) small: Keyspace,
    pub(super) parts: Mutex<Vec<Part>>,
    pub(super) mode: PersistMode,
    pub(super) dir: PathBuf,
    /// A write failed: nothing more is written or promised.
    pub(super) failed: AtomicBool,
    /// Last field: the directory is free only after the database is closed.
    pub(super) _lock: DirLock,
}

/// What the store keeps at hand of each partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    pub(super) end: StoredEnd,
    pub(super) start: StoredStart,
    /// The newest entry of times and its highest timestamp.
    pub(super) slot: Option<(i64, EventTime)>,
}

impl FjallStore {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes on disk.
    pub(super) fn disk_bytes(&self) -> Result<u64, LogError> {
        self.db.disk_space().map_err(|e| storage(&self.dir, &e))
    }

    pub(super) fn parts(&self) -> MutexGuard<'_, Vec<Part>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn batch(&self, capacity: usize, mode: PersistMode) -> OwnedWriteBatch {
        OwnedWriteBatch::with_capacity(self.db.clone(), capacity).durability(Some(mode))
    }

    pub(super) fn commit(&self, batch: OwnedWriteBatch) -> Result<(), LogError> {
        if self.failed.load(Ordering::Acquire) {
            let reason = "a write failed halfway; start again: opening the directory shows what is there".to_owned();
            return Err(LogError::Closed { path: self.dir.display().to_string(), reason });
        }
        self.has_room()?;
        batch.commit().map_err(|e| {
            self.failed.store(true, Ordering::Release);
            storage(&self.dir, &e)
        })
    }

    /// Refuses while little is left on the disk. What is refused here can be tried again; a write that the disk itself cut
    /// off cannot.
    fn has_room(&self) -> Result<(), LogError> {
        // A file system that does not say how much is free gets the benefit of the doubt.
        let Ok(stat) = rustix::fs::statvfs(&self.dir) else { return Ok(()) };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if free >= FREE_BYTES_MIN {
            return Ok(());
        }
        let reason = format!("{} MiB are free on the disk, writing goes on at {}", free >> 20, FREE_BYTES_MIN >> 20);
        Err(LogError::Storage { path: self.dir.display().to_string(), reason })
    }

    pub(super) fn encode(&self, value: &impl Serialize) -> Result<Vec<u8>, LogError> {
        postcard::to_stdvec(value).map_err(|e| LogError::Storage { path: self.dir.display().to_string(), reason: e.to_string() })
    }

    pub(super) fn damaged(&self, reason: &str) -> LogError {
        damaged(&self.dir, reason)
    }

    /// Blocks that hold offsets of the range, in order, without their records.
    pub(super) fn blocks(&self, partition: u32, range: OffsetRange) -> impl Iterator<Item = Result<BlockKey, LogError>> + '_ {
        let from_start = position_key(partition, range.start)..position_key(partition, i64::MAX);
        self.records
            .range(from_start)
            .map(|item| {
                let key = item.key().map_err(|e| storage(&self.dir, &e))?;
                BlockKey::read(&key).ok_or_else(|| self.damaged("the key of a block of records"))
            })
            .take_while(move |key| key.as_ref().map_or(true, |k| k.first < range.end))
    }

    /// Records of a block that lie in the range.
    fn records_of(
        &self,
        key: BlockKey,
        body: fjall::UserValue,
        range: OffsetRange,
    ) -> impl Iterator<Item = Result<Record, LogError>> + '_ {
        BlockRecords::new(key, Bytes::from_owner(body))
            .map(move |r| {
                let (first, last, partition) = (key.first, key.last, key.partition);
                r.map_err(|_| self.damaged(&format!("records {first} to {last} of partition number {partition}")))
            })
            .filter(move |r| r.as_ref().map_or(true, |r| (range.start..range.end).contains(&r.offset)))
    }
}

impl fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallStore").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Store for FjallStore {
    fn create_topic(&self, spec: &TopicSpec, first: u32) -> Result<(), LogError> {
        let stored = StoredTopic {
            name: spec.name.clone(),
            first,
            partitions: spec.partitions,
            record_bytes_max: u32::try_from(spec.record_bytes_max).unwrap_or(u32::MAX),
            retention_bytes: spec.retention_bytes,
            retention_age_ns: spec.retention_age.map(|a| u64::try_from(a.as_nanos()).unwrap_or(u64::MAX)),
            append_time: spec.append_time,
        };
        let mut batch = self.batch(1, self.mode);
        batch.insert(&self.small, topic_key(&spec.name), self.encode(&stored)?);
        self.commit(batch)?;
        self.parts().resize(first as usize + spec.partitions as usize, Part::default());
        Ok(())
    }

    fn write(&self, epoch: Epoch) -> Result<(), LogError> {
        let mut parts: BTreeMap<u32, Part> = {
            let parts = self.parts();
            epoch.bounds.keys().map(|&id| (id, parts[id as usize])).collect()
        };
        let size = epoch.records.len() + 2 * epoch.bounds.len() + epoch.offsets.len();
        let mut batch = self.batch(size, self.mode);
        let mut blocks: BTreeMap<u32, BlockBuilder> = BTreeMap::new();
        for placed in &epoch.records {
            // Every partition written to has its bounds in the epoch.
            let part = parts.entry(placed.partition).or_default();
            let record = &placed.record;
            let slot = record.offset >> TIME_SLOT_BITS;
            part.slot = match part.slot {
                Some((s, highest)) if s == slot => Some((s, highest.max(record.timestamp))),
                before => {
                    self.note_times(&mut batch, placed.partition, before);
                    Some((slot, record.timestamp))
                }
            };
            part.end.written += record.size() as u64 + RECORD_OVERHEAD_BYTES;
            match blocks.entry(placed.partition) {
                Entry::Vacant(place) => {
                    place.insert(BlockBuilder::begin(placed.partition, record));
                }
                Entry::Occupied(mut building) if building.get().is_full() => {
                    let full = building.insert(BlockBuilder::begin(placed.partition, record));
                    self.add_block(&mut batch, full);
                }
                Entry::Occupied(mut building) => building.get_mut().push(record),
            }
        }
        for block in blocks.into_values() {
            self.add_block(&mut batch, block);
        }
        for (&id, bounds) in &epoch.bounds {
            let part = parts.entry(id).or_default();
            part.end.next = bounds.next;
            part.end.since_gap = bounds.since_gap;
            batch.insert(&self.small, small_key(kind::END, id), self.encode(&part.end)?);
            self.note_times(&mut batch, id, part.slot);
        }
        for (at, committed) in &epoch.offsets {
            let stored = StoredCommitted::of(&epoch.group, at, committed);
            batch.insert(&self.small, committed_key(&epoch.group, at), self.encode(&stored)?);
        }
        self.commit(batch)?;
        let mut now = self.parts();
        for (id, part) in parts {
            // Only ends and times are ours; a removal may have moved the start meanwhile.
            now[id as usize].end = part.end;
            now[id as usize].slot = part.slot;
        }
        Ok(())
    }

    fn read(&self, partition: u32, range: OffsetRange, limit: PollLimit) -> Result<Vec<Record>, LogError> {
        let from_start = position_key(partition, range.start)..position_key(partition, i64::MAX);
        let mut out = Vec::new();
        let mut bytes = 0;
        for item in self.records.range(from_start) {
            let (key, body) = item.into_inner().map_err(|e| storage(&self.dir, &e))?;
            let key = BlockKey::read(&key).ok_or_else(|| self.damaged("the key of a block of records"))?;
            if key.first >= range.end {
                break;
            }
            for record in self.records_of(key, body, range) {
                let record = record?;
                bytes += record.size();
                out.push(record);
                if out.len() >= limit.records || bytes >= limit.bytes {
                    return Ok(out);
                }
            }
        }
        Ok(out)
    }

    fn first_at(&self, partition: u32, range: OffsetRange, time: EventTime) -> Result<Option<i64>, LogError> {
        if range.start >= range.end {
            return Ok(None);
        }
        let (first_slot, last_slot) = (range.start >> TIME_SLOT_BITS, (range.end - 1) >> TIME_SLOT_BITS);
        for item in self.times.range(position_key(partition, first_slot)..=position_key(partition, last_slot)) {
            let (key, value) = item.into_inner().map_err(|e| storage(&self.dir, &e))?;
            let (Some(slot), Some(highest)) = (key.get(4..).and_then(number), number(&value)) else {
                return Err(self.damaged("an entry of times"));
            };
            if (highest as i64) < time.0 {
                continue;
            }
            let slot = slot as i64;
            let inside =
                OffsetRange { start: range.start.max(slot << TIME_SLOT_BITS), end: range.end.min((slot + 1) << TIME_SLOT_BITS) };
            for block in self.blocks(partition, inside) {
                let block = block?;
                if block.highest < time {
                    continue;
                }
                let body = self.records.get(block.write()).map_err(|e| storage(&self.dir, &e))?;
                // Gone: removed meanwhile, then so is the range that was asked for.
                for record in body.into_iter().flat_map(|body| self.records_of(block, body, inside)) {
                    let record = record?;
                    if record.timestamp >= time {
                        return Ok(Some(record.offset));
                    }
                }
            }
        }
        Ok(None)
    }

    fn first_kept(
        &self,
        partition: u32,
        range: OffsetRange,
        keep: &mut dyn FnMut(EventTime, u64) -> bool,
    ) -> Result<Option<i64>, LogError> {
        for block in self.blocks(partition, range) {
            let block = block?;
            if keep(block.highest, block.bytes) {
                return Ok(Some(block.first.max(range.start)));
            }
        }
        Ok(None)
    }

    fn set_start(&self, partition: u32, start: i64) -> Result<(), LogError> {
        self.move_start(partition, start)
    }

    fn remove(&self, partition: u32, range: OffsetRange) -> Result<(u64, u64), LogError> {
        self.remove_records(partition, range)
    }
}

impl FjallStore {
    fn add_block(&self, batch: &mut OwnedWriteBatch, block: BlockBuilder) {
        let (key, body) = block.finish();
        batch.insert(&self.records, key, body);
    }

    fn note_times(&self, batch: &mut OwnedWriteBatch, partition: u32, slot: Option<(i64, EventTime)>) {
        if let Some((number, highest)) = slot {
            batch.insert(&self.times, position_key(partition, number), highest.0.to_be_bytes());
        }
    }

    /// Forgets entries of times that lie wholly below `offset`.
    pub(super) fn forget_times(&self, batch: &mut OwnedWriteBatch, partition: u32, offset: i64) -> Result<(), LogError> {
        let below = position_key(partition, 0)..position_key(partition, offset >> TIME_SLOT_BITS);
        for item in self.times.range(below) {
            let key = item.key().map_err(|e| storage(&self.dir, &e))?;
            batch.remove(&self.times, key);
        }
        Ok(())
    }
}

pub(super) fn storage(dir: &Path, error: &fjall::Error) -> LogError {
    use fjall::Error::{Decompress, InvalidTag, InvalidTrailer, InvalidVersion, JournalRecovery, Unrecoverable};
    let path = dir.display().to_string();
    let reason = error.to_string();
    match error {
        JournalRecovery(_) | InvalidVersion(_) | Decompress(_) | InvalidTrailer | InvalidTag(_) | Unrecoverable => {
            LogError::Damaged { path, reason }
        }
        _ => LogError::Storage { path, reason },
    }
}

pub(super) fn damaged(dir: &Path, reason: &str) -> LogError {
    LogError::Damaged { path: dir.display().to_string(), reason: reason.to_owned() }
}
