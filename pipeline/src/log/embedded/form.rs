//! The stored form of everything but records ([`super::block`]): topics, bounds, committed positions. Pure.

use crate::log::{Committed, TopicPartition};
use serde::{Deserialize, Serialize};

/// Version of everything stored; another version is refused.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Sorts before every block that ends at that offset and after every block that ends below it. Also the key of an entry
/// of times.
pub(crate) fn position_key(partition: u32, offset: i64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    // Offsets are never negative.
    key[4..].copy_from_slice(&(offset as u64).to_be_bytes());
    key
}

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

/// A topic as stored.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredTopic {
    pub(crate) name: String,
    pub(crate) first: u32,
    pub(crate) partitions: u32,
    pub(crate) record_bytes_max: u32,
    pub(crate) retention_bytes: Option<u64>,
    pub(crate) retention_age_ns: Option<u64>,
    pub(crate) append_time: bool,
}

/// Where a partition ends; written with every epoch.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredEnd {
    pub(crate) next: i64,
    /// Bytes ever written, overhead included.
    pub(crate) written: u64,
    pub(crate) since_gap: u64,
}

/// Where a partition begins; written by removals.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct StoredStart {
    pub(crate) start: i64,
    /// Every record below is gone; between here and the start a removal was interrupted.
    pub(crate) cleared: i64,
    /// Bytes ever removed, overhead included.
    pub(crate) removed: u64,
}

/// A committed position as stored; the place is in the value, so that the key needs no parsing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoredCommitted {
    pub(crate) group: String,
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) metadata: String,
}

impl StoredCommitted {
    pub(crate) fn of(group: &str, at: &TopicPartition, committed: &Committed) -> Self {
        Self {
            group: group.to_owned(),
            topic: at.topic.clone(),
            partition: at.partition,
            offset: committed.offset,
            metadata: committed.metadata.clone(),
        }
    }
}

/// The first byte of a key of the small table says what it is.
pub(crate) mod kind {
    pub(crate) const COMMITTED: u8 = b'c';
    pub(crate) const END: u8 = b'e';
    pub(crate) const START: u8 = b's';
    pub(crate) const TOPIC: u8 = b't';
    pub(crate) const VERSION: u8 = b'v';
}

pub(crate) fn small_key(kind: u8, partition: u32) -> [u8; 5] {
    let p = partition.to_be_bytes();
    [kind, p[0], p[1], p[2], p[3]]
}

pub(crate) fn topic_key(name: &str) -> Vec<u8> {
    let mut key = vec![kind::TOPIC];
    key.extend_from_slice(name.as_bytes());
    key
}

pub(crate) fn committed_key(group: &str, at: &TopicPartition) -> Vec<u8> {
    let mut key = vec![kind::COMMITTED];
    // Group names are at most 512 bytes.
    key.extend_from_slice(&(group.len() as u16).to_be_bytes());
    key.extend_from_slice(group.as_bytes());
    key.extend_from_slice(&at.partition.to_be_bytes());
    key.extend_from_slice(at.topic.as_bytes());
    key
}
