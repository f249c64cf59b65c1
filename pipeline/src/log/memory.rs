//! A log in memory: tests, simulation, backtests over files. Nothing survives the process; everything else is as in
//! [`super::embedded`], because both are a [`LocalLog`].

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tidewatch_schemas::time::EventTime;

use super::local::{Epoch, LocalLog, RECORD_OVERHEAD_BYTES, Recovered, Settings, Store};
use super::{LogError, OffsetRange, PollLimit, Record, TopicSpec};

/// A log in memory. Clone it to share it.
pub type MemoryLog = LocalLog<MemoryStore>;

impl MemoryLog {
    /// An empty log with the machine's clock.
    pub fn new() -> Self {
        Self::with(Settings::default())
    }

    /// An empty log with its own clock, limit or gaps.
    pub fn with(settings: Settings) -> Self {
        Self::over(MemoryStore::default(), Recovered::default(), settings)
    }

    /// An empty log that leaves an offset unused after every `every_n` records of a partition.
    pub fn with_gaps(every_n: u64) -> Self {
        Self::with(Settings { gap_every: Some(every_n), ..Settings::default() })
    }

    /// An empty log whose clock is `clock`.
    pub fn with_clock(clock: impl Fn() -> EventTime + Send + Sync + 'static) -> Self {
        Self::with(Settings { clock: Arc::new(clock), ..Settings::default() })
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Records by partition id, in order.
#[derive(Debug, Default)]
pub struct MemoryStore {
    partitions: RwLock<Vec<VecDeque<Record>>>,
}

impl MemoryStore {
    fn shared(&self) -> RwLockReadGuard<'_, Vec<VecDeque<Record>>> {
        self.partitions.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn exclusive(&self) -> RwLockWriteGuard<'_, Vec<VecDeque<Record>>> {
        self.partitions.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records of a range, in order.
fn range(records: &VecDeque<Record>, range: OffsetRange) -> impl Iterator<Item = &Record> {
    let from = records.partition_point(|r| r.offset < range.start);
    let to = records.partition_point(|r| r.offset < range.end);
    records.range(from..to.max(from))
}

impl Store for MemoryStore {
    fn create_topic(&self, spec: &TopicSpec, first: u32) -> Result<(), LogError> {
        self.exclusive().resize_with(first as usize + spec.partitions as usize, VecDeque::new);
        Ok(())
    }

    fn write(&self, epoch: Epoch) -> Result<(), LogError> {
        let mut partitions = self.exclusive();
        for placed in epoch.records {
            partitions[placed.partition as usize].push_back(placed.record);
        }
        Ok(())
    }

    fn read(&self, partition: u32, wanted: OffsetRange, limit: PollLimit) -> Result<Vec<Record>, LogError> {
        let partitions = self.shared();
        let mut out = Vec::new();
        let mut bytes = 0;
        for record in range(&partitions[partition as usize], wanted) {
            bytes += record.size();
            out.push(record.clone());
            if out.len() >= limit.records || bytes >= limit.bytes {
                break;
            }
        }
        Ok(out)
    }

    fn first_at(&self, partition: u32, wanted: OffsetRange, time: EventTime) -> Result<Option<i64>, LogError> {
        let partitions = self.shared();
        Ok(range(&partitions[partition as usize], wanted).find(|r| r.timestamp >= time).map(|r| r.offset))
    }

    fn first_kept(
        &self,
        partition: u32,
        wanted: OffsetRange,
        keep: &mut dyn FnMut(EventTime, u64) -> bool,
    ) -> Result<Option<i64>, LogError> {
        let partitions = self.shared();
        Ok(range(&partitions[partition as usize], wanted).find(|r| keep(r.timestamp, cost(r))).map(|r| r.offset))
    }

    fn set_start(&self, _partition: u32, _start: i64) -> Result<(), LogError> {
        Ok(())
    }

    fn remove(&self, partition: u32, gone: OffsetRange) -> Result<(u64, u64), LogError> {
        let mut partitions = self.exclusive();
        let records = &mut partitions[partition as usize];
        let to = records.partition_point(|r| r.offset < gone.end);
        let bytes = records.drain(..to).map(|r| cost(&r)).sum();
        Ok((to as u64, bytes))
    }
}

fn cost(record: &Record) -> u64 {
    record.size() as u64 + RECORD_OVERHEAD_BYTES
}
