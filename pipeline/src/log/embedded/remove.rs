//! Removal of old records from disk: the start is stored first, then records go in small batches that say how far they
//! came, so that an interrupted removal goes on at the next opening.

use fjall::PersistMode;

use crate::log::local::RECORD_OVERHEAD_BYTES;
use crate::log::{LogError, OffsetRange};

use super::form::{kind, small_key};
use super::store::FjallStore;

/// Records per batch of a removal: keeps commits from waiting long behind one.
const REMOVE_RECORDS: usize = 4096;

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
            let mut batch = self.batch(REMOVE_RECORDS + 2, PersistMode::Buffer);
            let mut here = 0;
            let mut next = range.end;
            for key in self.keys(partition, OffsetRange { start: from, end: range.end }) {
                let (raw, key) = key?;
                if here == REMOVE_RECORDS {
                    next = key.offset;
                    break;
                }
                batch.remove(&self.records, raw);
                here += 1;
                bytes += u64::from(key.bytes) + RECORD_OVERHEAD_BYTES;
                stored.removed += u64::from(key.bytes) + RECORD_OVERHEAD_BYTES;
            }
            stored.cleared = next;
            self.forget_blocks(&mut batch, partition, next)?;
            batch.insert(&self.small, small_key(kind::START, partition), self.encode(&stored)?);
            self.commit(batch)?;
            self.parts()[partition as usize].start = stored;
            records += here as u64;
            from = next;
        }
        Ok((records, bytes))
    }
}
