//! Removal of old records from disk: the start is stored first, then records go in small batches that say how far they
//! came, so that an interrupted removal goes on at the next opening.

use fjall::PersistMode;

use crate::log::{LogError, OffsetRange};

use super::block::BlockKey;
use super::form::{kind, position_key, small_key};
use super::store::{FjallStore, storage};

/// Blocks per batch of a removal: keeps commits from waiting long behind one.
const REMOVE_BLOCKS: usize = 4096;

impl FjallStore {
    pub(super) fn move_start(&self, partition: u32, start: i64) -> Result<(), LogError> {
        let mut stored = self.parts()[partition as usize].start;
        stored.start = start;
        let mut batch = self.batch(1, self.mode);
        batch.insert(&self.small, small_key(kind::START, partition), self.encode(&stored)?);
        self.commit(batch)?;
        self.parts()[partition as usize].start = stored;
        Ok(())
    }

    pub(super) fn remove_records(&self, partition: u32, range: OffsetRange) -> Result<(u64, u64), LogError> {
        let (mut records, mut bytes) = (0, 0);
        let mut from = range.start;
        while from < range.end {
            let mut stored = self.parts()[partition as usize].start;
            // Not synced: what a crash undoes is removed again.
            let mut batch = self.batch(REMOVE_BLOCKS + 2, PersistMode::Buffer);
            let mut next = range.end;
            // A block goes when its last record is below the start.
            let ends_below = position_key(partition, from)..position_key(partition, range.end);
            for (here, item) in self.records.range(ends_below).enumerate() {
                let raw = item.key().map_err(|e| storage(self.dir(), &e))?;
                let block = BlockKey::read(&raw).ok_or_else(|| self.damaged("the key of a block of records"))?;
                if here == REMOVE_BLOCKS {
                    next = block.first;
                    break;
                }
                batch.remove(&self.records, raw);
                records += u64::from(block.records);
                bytes += block.bytes;
                stored.removed += block.bytes;
            }
            stored.cleared = next;
            self.forget_times(&mut batch, partition, next)?;
            batch.insert(&self.small, small_key(kind::START, partition), self.encode(&stored)?);
            self.commit(batch)?;
            self.parts()[partition as usize].start = stored;
            from = next;
        }
        Ok((records, bytes))
    }
}
