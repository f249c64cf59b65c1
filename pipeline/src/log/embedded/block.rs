//! The stored form of records. Pure. Everything that is read back is checked; damage is an error.
//!
//! What one epoch writes to one partition is cut into blocks, so that small records cost one entry of the store together,
//! not one each. A block's key says where it ends, which finds the block that holds an offset, and carries what retention
//! and search by time need, so that neither loads records for nothing.

use bytes::Bytes;
use tidewatch_schemas::time::EventTime;

use crate::log::Record;
use crate::log::local::RECORD_OVERHEAD_BYTES;

use super::form::{number, position_key};

/// A block is closed by the record that reaches this many bytes. A record that was read keeps its whole block in memory.
pub(crate) const BLOCK_BYTES: usize = 64 << 10;

/// partition (4), last offset (8), first offset (8), highest timestamp (8), bytes (8), records (4).
pub(crate) const BLOCK_KEY_BYTES: usize = 40;

/// What a block's key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockKey {
    pub(crate) partition: u32,
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) highest: EventTime,
    /// Record bytes, overhead included: what limits and retention count.
    pub(crate) bytes: u64,
    pub(crate) records: u32,
}

impl BlockKey {
    pub(crate) fn write(&self) -> [u8; BLOCK_KEY_BYTES] {
        let mut key = [0; BLOCK_KEY_BYTES];
        key[..12].copy_from_slice(&position_key(self.partition, self.last));
        key[12..20].copy_from_slice(&self.first.to_be_bytes());
        key[20..28].copy_from_slice(&self.highest.0.to_be_bytes());
        key[28..36].copy_from_slice(&self.bytes.to_be_bytes());
        key[36..].copy_from_slice(&self.records.to_be_bytes());
        key
    }

    /// `None` when the bytes are not a block's key.
    pub(crate) fn read(key: &[u8]) -> Option<Self> {
        if key.len() != BLOCK_KEY_BYTES {
            return None;
        }
        let read = Self {
            partition: u32::from_be_bytes(key[..4].try_into().ok()?),
            last: i64::try_from(number(&key[4..12])?).ok()?,
            first: i64::try_from(number(&key[12..20])?).ok()?,
            highest: EventTime(number(&key[20..28])? as i64),
            bytes: number(&key[28..36])?,
            records: u32::from_be_bytes(key[36..].try_into().ok()?),
        };
        (read.first <= read.last && read.records > 0).then_some(read)
    }
}

/// Collects the records of one partition until they make a block.
#[derive(Debug)]
pub(crate) struct BlockBuilder {
    key: BlockKey,
    body: Vec<u8>,
}

impl BlockBuilder {
    /// A block that begins with this record.
    pub(crate) fn begin(partition: u32, record: &Record) -> Self {
        let key =
            BlockKey { partition, first: record.offset, last: record.offset, highest: record.timestamp, bytes: 0, records: 0 };
        let mut builder = Self { key, body: Vec::with_capacity(record.size() + 64) };
        builder.push(record);
        builder
    }

    /// Adds the next record.
    pub(crate) fn push(&mut self, record: &Record) {
        self.key.last = record.offset;
        self.key.highest = self.key.highest.max(record.timestamp);
        self.key.bytes += record.size() as u64 + RECORD_OVERHEAD_BYTES;
        self.key.records += 1;
        write_record(&mut self.body, self.key.first, record);
    }

    /// Nothing more should be added.
    pub(crate) fn is_full(&self) -> bool {
        self.body.len() >= BLOCK_BYTES
    }

    pub(crate) fn finish(self) -> ([u8; BLOCK_KEY_BYTES], Vec<u8>) {
        (self.key.write(), self.body)
    }
}

const HAS_KEY: u8 = 1;
const HAS_VALUE: u8 = 2;
/// offset after the block's first (4), timestamp (8), flags (1), headers (4), bytes of the value (4).
const FIXED_BYTES: usize = 21;

/// Fixed part, key, names and values of headers (lengths before each), value.
fn write_record(out: &mut Vec<u8>, first: i64, record: &Record) {
    // One epoch writes fewer than 2^32 records; one record has less than 4 GiB (both checked by the log).
    let value = record.value.as_ref();
    out.extend_from_slice(&((record.offset - first) as u32).to_be_bytes());
    out.extend_from_slice(&record.timestamp.0.to_be_bytes());
    out.push((u8::from(record.key.is_some()) * HAS_KEY) | (u8::from(value.is_some()) * HAS_VALUE));
    out.extend_from_slice(&(record.headers.len() as u32).to_be_bytes());
    out.extend_from_slice(&(value.map_or(0, Bytes::len) as u32).to_be_bytes());
    let mut part = |bytes: &[u8]| {
        out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
        out.extend_from_slice(bytes);
    };
    if let Some(key) = &record.key {
        part(key);
    }
    for (name, value) in &record.headers {
        part(name.as_bytes());
        part(value);
    }
    if let Some(value) = value {
        out.extend_from_slice(value);
    }
}

/// The records of a block, in order. `Err` once, at the first thing that is not a record.
pub(crate) struct BlockRecords {
    key: BlockKey,
    rest: Bytes,
    left: u32,
}

/// The bytes are not what the block's key says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotARecord;

impl BlockRecords {
    pub(crate) fn new(key: BlockKey, body: Bytes) -> Self {
        Self { key, rest: body, left: key.records }
    }
}

impl Iterator for BlockRecords {
    type Item = Result<Record, NotARecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        self.left -= 1;
        match read_record(&mut self.rest, self.key) {
            Some(record) => Some(Ok(record)),
            None => {
                self.left = 0;
                Some(Err(NotARecord))
            }
        }
    }
}

fn read_record(rest: &mut Bytes, block: BlockKey) -> Option<Record> {
    let fixed: [u8; FIXED_BYTES] = rest.get(..FIXED_BYTES)?.try_into().ok()?;
    bytes::Buf::advance(rest, FIXED_BYTES);
    let offset = block.first.checked_add(i64::from(u32::from_be_bytes(fixed[..4].try_into().ok()?)))?;
    let timestamp = EventTime(number(&fixed[4..12])? as i64);
    let flags = fixed[12];
    let headers_len = u32::from_be_bytes(fixed[13..17].try_into().ok()?) as usize;
    let value_len = u32::from_be_bytes(fixed[17..].try_into().ok()?) as usize;
    if offset > block.last {
        return None;
    }
    let key = if flags & HAS_KEY != 0 { Some(part(rest)?) } else { None };
    // Every header has at least its two lengths: damage cannot make us reserve more than is there.
    if headers_len > rest.len() / 8 {
        return None;
    }
    let mut headers = Vec::with_capacity(headers_len);
    for _ in 0..headers_len {
        let name = String::from_utf8(part(rest)?.to_vec()).ok()?;
        headers.push((name, part(rest)?));
    }
    let value = take(rest, value_len)?;
    Some(Record { offset, timestamp, key, value: (flags & HAS_VALUE != 0).then_some(value), headers })
}

fn part(rest: &mut Bytes) -> Option<Bytes> {
    let len = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    bytes::Buf::advance(rest, 4);
    take(rest, len)
}

fn take(rest: &mut Bytes, len: usize) -> Option<Bytes> {
    (rest.len() >= len).then(|| rest.split_to(len))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(offset: i64) -> Record {
        Record {
            offset,
            timestamp: EventTime(-5 - offset),
            key: (offset % 2 == 0).then(|| Bytes::from_static(b"k")),
            value: (offset % 3 != 0).then(|| Bytes::from_static(b"value")),
            headers: vec![("a".into(), Bytes::new()), ("a".into(), Bytes::from_static(&[0, 255])), (String::new(), Bytes::new())],
        }
    }

    fn block(offsets: &[i64]) -> (BlockKey, Bytes, Vec<Record>) {
        let records: Vec<_> = offsets.iter().map(|o| record(*o)).collect();
        let mut builder = BlockBuilder::begin(3, &records[0]);
        records[1..].iter().for_each(|r| builder.push(r));
        let (key, body) = builder.finish();
        (BlockKey::read(&key).unwrap(), body.into(), records)
    }

    #[test]
    fn records_survive() {
        let (key, body, records) = block(&[6, 7, 8, 10, 11]);
        assert_eq!((key.first, key.last, key.records, key.highest), (6, 11, 5, EventTime(-11)));
        assert_eq!(key.bytes, records.iter().map(|r| r.size() as u64 + RECORD_OVERHEAD_BYTES).sum::<u64>());
        let got: Result<Vec<_>, _> = BlockRecords::new(key, body).collect();
        assert_eq!(got.unwrap(), records);
    }

    #[test]
    fn blocks_sort_by_partition_then_end() {
        let key =
            |partition, first, last| BlockKey { partition, first, last, highest: EventTime::MIN, bytes: 1, records: 1 }.write();
        assert!(key(1, 250, 255) < key(1, 256, 300) && key(1, 256, 300) < key(2, 0, 1));
        assert!(position_key(1, 300).as_slice() < key(1, 256, 300).as_slice());
        assert!(position_key(1, 301).as_slice() > key(1, 256, 300).as_slice());
    }

    #[test]
    fn damage_is_seen_and_never_panics() {
        let (key, body, records) = block(&[6, 7, 8]);
        for cut in 0..body.len() {
            let got: Vec<_> = BlockRecords::new(key, body.slice(..cut)).collect();
            assert_eq!(got.last(), Some(&Err(NotARecord)), "cut at {cut}");
        }
        for at in 0..body.len() {
            let mut bad = body.to_vec();
            bad[at] ^= 0xff;
            let got: Vec<_> = BlockRecords::new(key, bad.into()).collect();
            assert_ne!(got, records.iter().cloned().map(Ok).collect::<Vec<_>>());
        }
        assert_eq!(BlockKey::read(&[0; BLOCK_KEY_BYTES - 1]), None);
        assert_eq!(BlockKey::read(&[0; BLOCK_KEY_BYTES]), None);
    }
}
