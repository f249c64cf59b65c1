//! The stored form of keys and values. Pure. Everything that is read back is checked; damage is an error.
//!
//! A record's key carries what retention and search by time need (timestamp, size), so that neither ever loads a value.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

use crate::log::{Committed, Record, TopicPartition};

/// Version of everything below; another version is refused.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// partition (4), offset (8), timestamp (8), bytes (4).
pub(crate) const RECORD_KEY_BYTES: usize = 24;

/// Values up to this many bytes lie in shared blocks, so they are copied out of them; larger ones lie alone.
pub(crate) const ALONE_BYTES_MIN: u32 = 1024;

/// What a record key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RecordKey {
    pub(crate) offset: i64,
    pub(crate) timestamp: EventTime,
    /// As [`Record::size`].
    pub(crate) bytes: u32,
}

/// Orders signed numbers as unsigned ones.
const SIGN: u64 = 1 << 63;

pub(crate) fn record_key(partition: u32, record: &Record) -> [u8; RECORD_KEY_BYTES] {
    let mut key = [0; RECORD_KEY_BYTES];
    key[..12].copy_from_slice(&position_key(partition, record.offset));
    key[12..20].copy_from_slice(&((record.timestamp.0 as u64) ^ SIGN).to_be_bytes());
    // Topics whose records may reach 4 GiB are refused when they are made.
    key[20..].copy_from_slice(&(record.size() as u32).to_be_bytes());
    key
}

/// Sorts before every record at that offset and after every record below it. Also the key of a block of times.
pub(crate) fn position_key(partition: u32, offset: i64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    // Offsets are never negative.
    key[4..].copy_from_slice(&(offset as u64).to_be_bytes());
    key
}

pub(crate) fn read_record_key(key: &[u8]) -> Option<RecordKey> {
    if key.len() != RECORD_KEY_BYTES {
        return None;
    }
    let offset = i64::try_from(number(&key[4..12])?).ok()?;
    let timestamp = EventTime((number(&key[12..20])? ^ SIGN) as i64);
    let bytes = u32::from_be_bytes(key[20..].try_into().ok()?);
    Some(RecordKey { offset, timestamp, bytes })
}

pub(crate) fn number(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.try_into().ok()?))
}

const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;

/// flags, then key, headers and value; lengths before key, names and header values; the value is the rest.
pub(crate) fn record_value(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.size() + 16 + record.headers.len() * 8);
    out.push(u8::from(record.key.is_some()) * HAS_KEY | u8::from(record.value.is_some()) * HAS_VALUE);
    let mut part = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    if let Some(key) = &record.key {
        part(key);
    }
    let count = record.headers.len() as u32;
    for (name, value) in &record.headers {
        part(name.as_bytes());
        part(value);
    }
    if let Some(value) = &record.value {
        out.extend_from_slice(value);
    }
    // The count goes last, where it is found without knowing the rest.
    out.extend_from_slice(&count.to_be_bytes());
    out
}

/// `None` when the bytes are not a record.
pub(crate) fn read_record(key: RecordKey, stored: Bytes) -> Option<Record> {
    let count_at = stored.len().checked_sub(4)?;
    let count = u32::from_be_bytes(stored[count_at..].try_into().ok()?) as usize;
    let mut rest = stored.slice(..count_at);
    if rest.is_empty() {
        return None;
    }
    let flags = rest.split_to(1)[0];
    let record_key = if flags & HAS_KEY != 0 { Some(part(&mut rest)?) } else { None };
    // Every header has at least its two lengths: a damaged count cannot make us reserve more than is there.
    if count > rest.len() / 8 {
        return None;
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = String::from_utf8(part(&mut rest)?.to_vec()).ok()?;
        headers.push((name, part(&mut rest)?));
    }
    let value = if flags & HAS_VALUE != 0 { Some(rest) } else { None };
    Some(Record { offset: key.offset, timestamp: key.timestamp, key: record_key, value, headers })
}

fn part(rest: &mut Bytes) -> Option<Bytes> {
    if rest.len() < 4 {
        return None;
    }
    let len = u32::from_be_bytes(rest.split_to(4)[..].try_into().ok()?) as usize;
    if rest.len() < len {
        return None;
    }
    Some(rest.split_to(len))
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record() -> Record {
        Record {
            offset: 7,
            timestamp: EventTime(-5),
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::from_static(b"value")),
            headers: vec![("a".into(), Bytes::new()), ("a".into(), Bytes::from_static(&[0, 255])), (String::new(), Bytes::new())],
        }
    }

    #[test]
    fn a_record_survives() {
        for (key, value) in [(true, true), (true, false), (false, true), (false, false)] {
            let mut r = record();
            if !key {
                r.key = None;
            }
            if !value {
                r.value = None;
            }
            let k = read_record_key(&record_key(3, &r)).unwrap();
            assert_eq!(k.bytes as usize, r.size());
            assert_eq!(read_record(k, record_value(&r).into()).unwrap(), r);
        }
    }

    #[test]
    fn keys_sort_by_partition_then_offset() {
        let mut r = record();
        let first = record_key(1, &r);
        r.offset = 300;
        r.timestamp = EventTime::MIN;
        let second = record_key(1, &r);
        assert!(first < second && second < record_key(2, &record()));
        assert!(position_key(1, 300).as_slice() < second.as_slice() && position_key(1, 301).as_slice() > second.as_slice());
    }

    #[test]
    fn damage_is_seen_and_never_panics() {
        let key = read_record_key(&record_key(1, &record())).unwrap();
        let good = record_value(&record());
        for cut in 0..4 {
            assert_eq!(read_record(key, Bytes::copy_from_slice(&good[..cut])), None);
        }
        for cut in 0..good.len() {
            let _ = read_record(key, Bytes::copy_from_slice(&good[..cut]));
        }
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0xff;
            let _ = read_record(key, bad.into());
        }
        assert_eq!(read_record_key(&[0; 23]), None);
    }
}
