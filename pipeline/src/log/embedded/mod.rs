//! A durable log in one directory, on one machine: the default where no broker is. One process owns the directory; other
//! processes on the machine speak to that one over [`super::socket`].
//!
//! It is a [`LocalLog`] over a [`FjallStore`]: this folder knows bytes and disks, not fencing or visibility. What always
//! holds: an epoch is one atomic batch of the store, on disk before the commit returns (see [`Durability`]); after a
//! crash at any moment every epoch is there whole or not at all; offsets are never given out twice.
//! Disk: what retention keeps, the journals, and up to about 1 GB of removed records that compaction has not yet dropped.
//! Short of free space it refuses commits until there is some again. When the disk fails a commit halfway, the log refuses everything from then on: whether that epoch is there is known when the
//! directory is opened again, from the committed offsets.

use std::path::Path;

use super::LogError;
use super::local::LocalLog;
pub use super::local::Settings;

pub(crate) mod block;
mod form;
mod lock;
mod recover;
mod remove;
mod store;

pub use lock::LOCK_FILE;
pub use store::FjallStore;

/// A log in a directory. Clone it to share it. Records read share memory with their block (64 KiB and one record at most);
/// retention drops whole blocks. The directory is free again when the last handle, reader, writer and
/// membership is gone.
pub type EmbeddedLog = LocalLog<FjallStore>;

/// What a committed epoch survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Crash of the process and of the machine: fsync before the commit returns.
    #[default]
    Machine,
    /// Crash of the process only; after a loss of power the newest epochs may be missing, in part. For tests and demos.
    Process,
}

/// How a directory is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Clock, byte limit, gaps.
    pub settings: Settings,
    /// What a commit survives.
    pub durability: Durability,
    /// Memory for blocks read, bytes.
    pub cache_bytes: u64,
    /// Write-ahead bytes on disk before older ones are moved into tables; what an opening after a crash may have to
    /// read again. At least [`JOURNAL_BYTES_MIN`].
    pub journal_bytes_max: u64,
}

/// Least size of the write-ahead journals (the store's own lower limit).
pub const JOURNAL_BYTES_MIN: u64 = 64 << 20;

impl Default for Options {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            durability: Durability::default(),
            cache_bytes: 32 << 20,
            journal_bytes_max: 256 << 20,
        }
    }
}

impl EmbeddedLog {
    /// Opens the log in `dir`, making it when it is not there. [`LogError::Locked`] when a process has it open,
    /// [`LogError::Damaged`] when what lies there is not a log.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Self, LogError> {
        let (store, recovered) = FjallStore::open(dir.as_ref(), &options)?;
        Ok(Self::over(store, recovered, options.settings))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        self.store().dir()
    }

    /// Bytes on disk.
    pub fn disk_bytes(&self) -> Result<u64, LogError> {
        self.store().disk_bytes()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use tidewatch_schemas::time::EventTime;

    use super::*;
    use crate::log::{Append, Log, OffsetRange, PollLimit, TopicPartition, TopicSpec};

    fn append(n: i64, bytes: usize) -> Append {
        Append {
            topic: "t".into(),
            partition: 1,
            timestamp: Some(EventTime(n)),
            key: None,
            value: Some(Bytes::from(vec![n as u8; bytes])),
            headers: vec![],
        }
    }

    fn options() -> Options {
        Options { durability: Durability::Process, ..Options::default() }
    }

    #[test]
    fn what_was_written_is_there_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let at = TopicPartition::new("t", 1);
        for round in 0..3 {
            let log = EmbeddedLog::open(dir.path(), options()).unwrap();
            log.create_topic(&TopicSpec::new("t", 2)).unwrap();
            assert_eq!(log.offsets(&at).unwrap(), OffsetRange { start: round.max(0) * 2, end: round * 10 });
            let mut writer = log.writer("w").unwrap();
            let records: Vec<_> = (0..10).map(|i| append(round * 10 + i, 2000)).collect();
            writer.commit(&records, &[]).unwrap();
            log.delete_before(&at, (round + 1) * 2).unwrap();
            let mut reader = log.reader(&at, (round + 1) * 2).unwrap();
            let got = reader.poll(PollLimit::default(), std::time::Duration::ZERO).unwrap();
            let times: Vec<_> = got.iter().map(|r| (r.offset, r.timestamp.0)).collect();
            assert_eq!(times, ((round + 1) * 2..(round + 1) * 10).map(|o| (o, o)).collect::<Vec<_>>());
            assert!(reader.at_end());
        }
    }

    #[test]
    fn a_directory_has_one_owner() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        let refused = EmbeddedLog::open(dir.path(), options()).unwrap_err();
        assert!(matches!(&refused, LogError::Locked { pid, .. } if *pid == std::process::id().to_string()), "{refused}");
        drop(log);
        EmbeddedLog::open(dir.path(), options()).unwrap();
    }

    #[test]
    fn search_by_time_crosses_blocks_and_ignores_what_was_removed() {
        let dir = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        log.create_topic(&TopicSpec::new("t", 2)).unwrap();
        let at = TopicPartition::new("t", 1);
        let mut writer = log.writer("w").unwrap();
        let mut records: Vec<_> = (0..10_000).map(|i| append(i, 1)).collect();
        records[3].timestamp = Some(EventTime(9_500));
        writer.commit(&records, &[]).unwrap();
        assert_eq!(log.offset_at(&at, EventTime(9_000)).unwrap(), 3);
        log.delete_before(&at, 100).unwrap();
        assert_eq!(log.offset_at(&at, EventTime(9_000)).unwrap(), 9_000);
        assert_eq!(log.offset_at(&at, EventTime(0)).unwrap(), 100);
        assert_eq!(log.offset_at(&at, EventTime(10_000)).unwrap(), 10_000);
        log.delete_before(&at, 10_000).unwrap();
        assert_eq!(log.offset_at(&at, EventTime(0)).unwrap(), 10_000);
        assert_eq!(log.held_bytes(&at).unwrap(), 0);
    }

    #[test]
    fn an_interrupted_removal_is_finished_at_the_next_opening() {
        use crate::log::local::Store;
        let dir = tempfile::tempdir().unwrap();
        {
            let log = EmbeddedLog::open(dir.path(), options()).unwrap();
            log.create_topic(&TopicSpec::new("t", 2)).unwrap();
            let mut writer = log.writer("w").unwrap();
            for block in [0..3, 3..7, 7..10] {
                writer.commit(&block.map(|i| append(i, 10)).collect::<Vec<_>>(), &[]).unwrap();
            }
            // As if the process died between the two steps of a removal.
            log.store().set_start(1, 4).unwrap();
        }
        let log = EmbeddedLog::open(dir.path(), options()).unwrap();
        let at = TopicPartition::new("t", 1);
        assert_eq!(log.offsets(&at).unwrap(), OffsetRange { start: 4, end: 10 });
        let all = log.store().read(1, OffsetRange { start: 0, end: 10 }, PollLimit::default()).unwrap();
        // The block that straddles the start stays, what is below the start cannot be read through the log.
        assert_eq!(all.iter().map(|r| r.offset).collect::<Vec<_>>(), [3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(log.held_bytes(&at).unwrap(), 7 * (10 + 32));
    }
}
