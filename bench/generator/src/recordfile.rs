//! Records of one topic in a file, `TOPIC.records`. For each record, one after the other:
//!
//! ```text
//! u32 big-endian   length of the header
//! header           JSON: {"key":"text","timestamp":ns} and optionally "partition":n
//! u32 big-endian   length of the value
//! value            the record's bytes
//! ```
//!
//! The key is text (probectl's keys are); a record without one leaves it out. The reader takes nothing on trust: lengths
//! have limits and are never reserved before the bytes are there.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

/// Longest header, octets.
pub const HEADER_BYTES_MAX: u32 = 16 << 10;
/// Longest value, octets: far above any broker's record limit.
pub const VALUE_BYTES_MAX: u32 = 64 << 20;
/// Room made for a part before it is read, at most: a usual batch fits in.
const ROOM_BYTES_MAX: u32 = 256 << 10;
/// Ending of such files' names.
pub const EXTENSION: &str = "records";

/// What stands before a record's value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Partitioning key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Record timestamp, nanoseconds since the epoch.
    pub timestamp: EventTime,
    /// Partition it was read from, or is to be written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
}

/// One record of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Header.
    pub header: Header,
    /// Value.
    pub value: Vec<u8>,
}

/// Why a file cannot be read on. `position` is the octet at which the record begins.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordFileError {
    /// The file could not be read.
    #[error("cannot read the record at octet {position}")]
    Read {
        /// Begin of the record.
        position: u64,
        /// Cause.
        source: io::Error,
    },
    /// The file ends inside a record.
    #[error("file ends inside the record at octet {position}")]
    CutOff {
        /// Begin of the record.
        position: u64,
    },
    /// A length is beyond its limit: not such a file, or a damaged one.
    #[error("{part} of the record at octet {position} has {length} octets, expected at most {limit}")]
    TooLong {
        /// Begin of the record.
        position: u64,
        /// `header` or `value`.
        part: &'static str,
        /// Length said.
        length: u32,
        /// Limit.
        limit: u32,
    },
    /// The header is not what it should be.
    #[error("header of the record at octet {position} is not the expected JSON")]
    Header {
        /// Begin of the record.
        position: u64,
        /// Cause.
        source: serde_json::Error,
    },
}

/// Appends one record.
///
/// # Errors
/// Of the writer; `InvalidInput` when header or value is beyond its limit.
pub fn write_record(out: &mut impl Write, header: &Header, value: &[u8]) -> io::Result<()> {
    let head = serde_json::to_vec(header)?;
    let length = |n: usize, limit: u32, part: &str| {
        u32::try_from(n).ok().filter(|&n| n <= limit).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("{part} of {n} octets, at most {limit} can be written"))
        })
    };
    let (head_length, value_length) =
        (length(head.len(), HEADER_BYTES_MAX, "header")?, length(value.len(), VALUE_BYTES_MAX, "value")?);
    out.write_all(&head_length.to_be_bytes())?;
    out.write_all(&head)?;
    out.write_all(&value_length.to_be_bytes())?;
    out.write_all(value)
}

/// Reads records one after the other. After an error there is nothing more: what follows has no known begin.
pub struct RecordFile<R> {
    from: R,
    position: u64,
    ended: bool,
}

impl<R: Read> RecordFile<R> {
    /// Reads from the current place of `from`; give it a buffer.
    pub fn new(from: R) -> Self {
        Self { from, position: 0, ended: false }
    }

    /// Octets of the records read so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    fn read(&mut self) -> Result<Option<Entry>, RecordFileError> {
        let position = self.position;
        let Some(head) = self.part(position, "header", HEADER_BYTES_MAX, true)? else { return Ok(None) };
        let header = serde_json::from_slice(&head).map_err(|source| RecordFileError::Header { position, source })?;
        let value = self.part(position, "value", VALUE_BYTES_MAX, false)?.ok_or(RecordFileError::CutOff { position })?;
        self.position += 8 + head.len() as u64 + value.len() as u64;
        Ok(Some(Entry { header, value }))
    }

    /// A length and that many octets; `None` at the file's end when it may end here.
    fn part(&mut self, position: u64, part: &'static str, limit: u32, may_end: bool) -> Result<Option<Vec<u8>>, RecordFileError> {
        let failed = |source| RecordFileError::Read { position, source };
        let mut bytes = Vec::new();
        self.from.by_ref().take(4).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.is_empty() && may_end {
            return Ok(None);
        }
        let length = <[u8; 4]>::try_from(bytes.as_slice()).map_err(|_| RecordFileError::CutOff { position })?;
        let length = u32::from_be_bytes(length);
        if length > limit {
            return Err(RecordFileError::TooLong { position, part, length, limit });
        }
        // Beyond the room made here `read_to_end` grows with what really comes, so a lying length costs next to nothing.
        bytes.clear();
        bytes.reserve_exact(length.min(ROOM_BYTES_MAX) as usize);
        self.from.by_ref().take(u64::from(length)).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 != u64::from(length) {
            return Err(RecordFileError::CutOff { position });
        }
        Ok(Some(bytes))
    }
}

impl<R: Read> Iterator for RecordFile<R> {
    type Item = Result<Entry, RecordFileError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let read = self.read().transpose();
        self.ended = !matches!(read, Some(Ok(_)));
        read
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sample() -> (Vec<Entry>, Vec<u8>) {
        let entry = |key: Option<&str>, partition, value: &[u8]| Entry {
            header: Header { key: key.map(str::to_owned), timestamp: EventTime(17), partition },
            value: value.to_vec(),
        };
        let entries = vec![entry(Some("acme|ba"), None, b"one"), entry(None, Some(3), b""), entry(Some(""), None, &[0xff; 300])];
        let mut file = Vec::new();
        for entry in &entries {
            write_record(&mut file, &entry.header, &entry.value).unwrap();
        }
        (entries, file)
    }

    #[test]
    fn what_is_written_is_read() {
        let (entries, file) = sample();
        assert_eq!(RecordFile::new(&file[..]).collect::<Result<Vec<_>, _>>().unwrap(), entries);
        assert!(file.starts_with(b"\x00\x00\x00\x20{\"key\":\"acme|ba\",\"timestamp\":17}"), "the layout is fixed");
    }

    #[test]
    fn every_cut_is_an_error_and_ends_the_file() {
        let (entries, file) = sample();
        let mut whole = 0;
        for cut in 0..file.len() {
            let read: Vec<_> = RecordFile::new(&file[..cut]).collect();
            let good = read.iter().filter(|r| r.is_ok()).count();
            assert!(good < entries.len());
            match read.last() {
                Some(Err(RecordFileError::CutOff { .. })) => assert_eq!(read.len(), good + 1),
                _ => whole += 1,
            }
        }
        assert_eq!(whole, entries.len(), "only between two records is a cut no error");
    }

    #[test]
    fn lying_lengths_and_foreign_files_are_errors() {
        let huge = [0xff; 64];
        assert!(matches!(
            RecordFile::new(&huge[..]).next(),
            Some(Err(RecordFileError::TooLong { part: "header", length: u32::MAX, .. }))
        ));
        let (_, mut file) = sample();
        file[5] = b'!';
        assert!(matches!(RecordFile::new(&file[..]).next(), Some(Err(RecordFileError::Header { position: 0, .. }))));
        let long = Header { key: Some("k".repeat(20_000)), ..Header::default() };
        assert!(write_record(&mut Vec::new(), &long, b"").is_err());
    }
}
