//! Opening a directory: take the lock, open the database, read topics, bounds and positions back, finish interrupted
//! removals. Reads nothing that grows with the number of records.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fjall::config::FilterPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use serde::de::DeserializeOwned;
use tidewatch_schemas::time::EventTime;

use crate::log::local::{Bounds, COMMITTED_MAX, PARTITIONS_MAX, Recovered, TOPICS_MAX};
use crate::log::{Committed, LogError, OffsetRange, TopicPartition, TopicSpec};

use super::form::{FORMAT_VERSION, StoredCommitted, StoredEnd, StoredStart, StoredTopic, kind, number, position_key, small_key};
use super::lock::{DirLock, locked};
use super::store::{FjallStore, Part, damaged, storage};
use super::{Durability, JOURNAL_BYTES_MIN, Options};

/// The database's own folder inside the directory.
const STORE_DIR: &str = "store";

/// Records in memory until they go into a table, bytes; as many again while they do.
const MEMTABLE_BYTES_MAX: u64 = 16 << 20;

/// Values from this many bytes on lie beside the table, so that compaction does not move them again and again.
const BESIDE_BYTES_MIN: u32 = 1024;

impl FjallStore {
    pub(super) fn open(dir: &Path, options: &Options) -> Result<(Self, Recovered), LogError> {
        std::fs::create_dir_all(dir).map_err(|e| LogError::Storage { path: dir.display().to_string(), reason: e.to_string() })?;
        let lock = DirLock::take(dir)?;
        let failed = |e: fjall::Error| match e {
            fjall::Error::Locked => locked(dir, "unknown".to_owned()),
            e => storage(dir, &e),
        };
        let db = Database::builder(dir.join(STORE_DIR))
            .cache_size(options.cache_bytes)
            .max_journaling_size(options.journal_bytes_max.max(JOURNAL_BYTES_MIN))
            // Large values are compressed by those who write them; small ones when they reach their table.
            .journal_compression(CompressionType::None)
            .open()
            .map_err(failed)?;
        let records = db
            .keyspace("records", || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES_MAX)
                    // Hardly ever looked up by exact key.
                    .filter_policy(FilterPolicy::disabled())
                    .with_kv_separation(Some(
                        KvSeparationOptions::default().separation_threshold(BESIDE_BYTES_MIN).compression(CompressionType::None),
                    ))
            })
            .map_err(failed)?;
        let times = db.keyspace("times", KeyspaceCreateOptions::default).map_err(failed)?;
        let small = db.keyspace("small", KeyspaceCreateOptions::default).map_err(failed)?;
        let mut store = Self {
            db,
            records,
            times,
            small,
            parts: Mutex::default(),
            mode: match options.durability {
                Durability::Machine => PersistMode::SyncAll,
                Durability::Process => PersistMode::Buffer,
            },
            dir: dir.to_owned(),
            failed: AtomicBool::new(false),
            _lock: lock,
        };
        store.check_version()?;
        let topics = store.topics()?;
        let count: usize = topics.iter().map(|(spec, _)| spec.partitions as usize).sum();
        let parts = (0..count as u32).map(|id| store.part(id)).collect::<Result<Vec<_>, _>>()?;
        store.parts = Mutex::new(parts);
        store.finish_removals(count as u32)?;
        let bounds = store.parts().iter().map(bounds).collect();
        let committed = store.committed()?;
        Ok((store, Recovered { topics, bounds, committed }))
    }

    fn check_version(&self) -> Result<(), LogError> {
        match self.small_value::<u32>(&[kind::VERSION])? {
            Some(FORMAT_VERSION) => Ok(()),
            Some(other) => Err(self.damaged(&format!("format version {other}, this program reads version {FORMAT_VERSION}"))),
            None => {
                let mut batch = self.batch(1, self.mode);
                batch.insert(&self.small, [kind::VERSION], self.encode(&FORMAT_VERSION)?);
                self.commit(batch)
            }
        }
    }

    fn topics(&self) -> Result<Vec<(TopicSpec, u32)>, LogError> {
        let mut topics = Vec::new();
        for stored in values::<StoredTopic>(&self.dir, &self.small, kind::TOPIC) {
            let t = stored?;
            let spec = TopicSpec {
                name: t.name,
                partitions: t.partitions,
                record_bytes_max: t.record_bytes_max as usize,
                retention_bytes: t.retention_bytes,
                retention_age: t.retention_age_ns.map(Duration::from_nanos),
                append_time: t.append_time,
            };
            topics.push((spec, t.first));
            if topics.len() > TOPICS_MAX {
                return Err(self.damaged("more topics than a log may have"));
            }
        }
        topics.sort_by_key(|(_, first)| *first);
        let mut expected = 0u32;
        for (spec, first) in &topics {
            if *first != expected || spec.partitions as usize > PARTITIONS_MAX - expected as usize {
                return Err(self.damaged(&format!("partitions of topic {}", spec.name)));
            }
            expected += spec.partitions;
        }
        Ok(topics)
    }

    fn part(&self, id: u32) -> Result<Part, LogError> {
        let end: StoredEnd = self.small_value(&small_key(kind::END, id))?.unwrap_or_default();
        let start: StoredStart = self.small_value(&small_key(kind::START, id))?.unwrap_or_default();
        if start.start < 0 || start.cleared < 0 || start.cleared > start.start || start.start > end.next {
            return Err(self.damaged(&format!("bounds of partition {id}")));
        }
        let slots = position_key(id, 0)..position_key(id, i64::MAX);
        let slot = match self.times.range(slots).next_back() {
            None => None,
            Some(item) => {
                let (key, value) = item.into_inner().map_err(|e| storage(&self.dir, &e))?;
                match (key.get(4..).and_then(number), number(&value)) {
                    (Some(slot), Some(highest)) => Some((slot as i64, EventTime(highest as i64))),
                    _ => return Err(self.damaged("an entry of times")),
                }
            }
        };
        Ok(Part { end, start, slot })
    }

    fn finish_removals(&self, count: u32) -> Result<(), LogError> {
        for id in 0..count {
            let start = self.parts()[id as usize].start;
            if start.cleared < start.start {
                self.remove_records(id, OffsetRange { start: start.cleared, end: start.start })?;
            }
        }
        Ok(())
    }

    fn committed(&self) -> Result<BTreeMap<String, BTreeMap<TopicPartition, Committed>>, LogError> {
        let mut committed = BTreeMap::<String, BTreeMap<_, _>>::new();
        for (count, stored) in values::<StoredCommitted>(&self.dir, &self.small, kind::COMMITTED).enumerate() {
            if count >= COMMITTED_MAX {
                return Err(self.damaged("more committed positions than a log may have"));
            }
            let c = stored?;
            let at = TopicPartition::new(c.topic, c.partition);
            committed.entry(c.group).or_default().insert(at, Committed { offset: c.offset, metadata: c.metadata });
        }
        Ok(committed)
    }

    fn small_value<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, LogError> {
        match self.small.get(key).map_err(|e| storage(&self.dir, &e))? {
            None => Ok(None),
            Some(bytes) => decode(&self.dir, key, &bytes).map(Some),
        }
    }
}

fn bounds(part: &Part) -> Bounds {
    Bounds {
        start: part.start.start,
        next: part.end.next,
        bytes: part.end.written.saturating_sub(part.start.removed),
        since_gap: part.end.since_gap,
    }
}

/// All values of one kind in the small table.
fn values<'a, T: DeserializeOwned>(
    dir: &'a Path,
    small: &Keyspace,
    kind: u8,
) -> impl Iterator<Item = Result<T, LogError>> + use<'a, T> {
    small.prefix([kind]).map(move |item| {
        let (key, value) = item.into_inner().map_err(|e| storage(dir, &e))?;
        decode(dir, &key, &value)
    })
}

fn decode<T: DeserializeOwned>(dir: &Path, key: &[u8], bytes: &[u8]) -> Result<T, LogError> {
    postcard::from_bytes(bytes).map_err(|e| damaged(dir, &format!("entry {}: {e}", hex::encode(key))))
}
