//! What goes over the socket: frames of a length (4 bytes, big endian) and a postcard value. Both ends are the same
//! program; another version is refused in words.

use std::fmt;
use std::io::{self, Read, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tidewatch_schemas::time::EventTime;

use crate::log::{Append, CommitError, Committed, LogError, OffsetRange, Record, TopicPartition, TopicSpec};

/// Changes with every change of the types below.
pub(super) const VERSION: u32 = 3;

/// A partition.
pub(super) type At = (String, u32);

/// An append: topic, partition, timestamp, key, value, headers.
pub(super) type WireAppend = (String, u32, Option<EventTime>, Option<Blob>, Option<Blob>, Vec<(String, Blob)>);

/// A record: offset, timestamp, key, value, headers.
pub(super) type WireRecord = (i64, EventTime, Option<Blob>, Option<Blob>, Vec<(String, Blob)>);

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    Hello { version: u32 },
    CreateTopic(WireSpec),
    Topics,
    Partitions(String),
    Offsets(At),
    OffsetAt(At, EventTime),
    Read { at: At, from: i64, records: u64, bytes: u64, timeout_ms: u32 },
    Committed { group: String, at: Vec<At> },
    OpenWriter(String),
    Append(Vec<WireAppend>),
    Status,
    Drain { for_good: bool },
    Reload,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    Done,
    Topics(Vec<(String, u32)>),
    Partitions(u32),
    Offsets(i64, i64),
    Offset(i64),
    Records {
        records: Vec<WireRecord>,
        position: i64,
        at_end: bool,
    },
    Committed(Vec<Option<(i64, String)>>),
    Refused(WireError),
    NotCommitted(WireCommitError),
    /// JSON, so that fields can be added.
    Status(String),
    /// Whether it was the first to ask.
    Draining(bool),
    /// JSON of what came of it, or why the rules stay as they are.
    Reloaded(Result<String, String>),
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WireSpec {
    name: String,
    partitions: u32,
    record_bytes_max: u64,
    retention_bytes: Option<u64>,
    retention_age: Option<Duration>,
    append_time: bool,
}

impl From<&TopicSpec> for WireSpec {
    fn from(s: &TopicSpec) -> Self {
        Self {
            name: s.name.clone(),
            partitions: s.partitions,
            record_bytes_max: s.record_bytes_max as u64,
            retention_bytes: s.retention_bytes,
            retention_age: s.retention_age,
            append_time: s.append_time,
        }
    }
}

impl From<WireSpec> for TopicSpec {
    fn from(s: WireSpec) -> Self {
        Self {
            name: s.name,
            partitions: s.partitions,
            record_bytes_max: usize::try_from(s.record_bytes_max).unwrap_or(usize::MAX),
            retention_bytes: s.retention_bytes,
            retention_age: s.retention_age,
            append_time: s.append_time,
        }
    }
}

/// The errors a client can tell apart; the rest travels as words.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireError {
    UnknownTopic(String),
    UnknownPartition(At),
    Partitions { topic: String, expected: u32, got: u32 },
    OutOfRange { at: At, wanted: i64, start: i64, end: i64 },
    Busy,
    Other(String),
}

impl From<LogError> for WireError {
    fn from(e: LogError) -> Self {
        match e {
            LogError::UnknownTopic { topic } => Self::UnknownTopic(topic),
            LogError::UnknownPartition { at } => Self::UnknownPartition(pair(&at)),
            LogError::Partitions { topic, expected, got } => Self::Partitions { topic, expected, got },
            LogError::OutOfRange { at, wanted, start, end } => Self::OutOfRange { at: pair(&at), wanted, start, end },
            other => Self::Other(other.to_string()),
        }
    }
}

impl From<WireError> for LogError {
    fn from(e: WireError) -> Self {
        match e {
            WireError::UnknownTopic(topic) => Self::UnknownTopic { topic },
            WireError::UnknownPartition(at) => Self::UnknownPartition { at: place(at) },
            WireError::Partitions { topic, expected, got } => Self::Partitions { topic, expected, got },
            WireError::OutOfRange { at, wanted, start, end } => Self::OutOfRange { at: place(at), wanted, start, end },
            WireError::Busy => Self::Unreachable {
                what: "the process that owns the log".to_owned(),
                reason: format!("it serves {} connections already", super::CONNECTIONS_MAX),
            },
            WireError::Other(reason) => Self::Client { call: "the owner's log", reason },
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) enum WireCommitError {
    Aborted(String),
    Fenced { id: String, reason: String },
    Full { at: At, limit_bytes: u64 },
    TooLarge { at: At, bytes: u64, limit_bytes: u64 },
    Log(WireError),
}

impl From<CommitError> for WireCommitError {
    fn from(e: CommitError) -> Self {
        match e {
            CommitError::Aborted { reason } => Self::Aborted(reason),
            CommitError::Fenced { id, reason } => Self::Fenced { id, reason },
            CommitError::Full { at, limit_bytes } => Self::Full { at: pair(&at), limit_bytes },
            CommitError::TooLarge { at, bytes, limit_bytes } => {
                Self::TooLarge { at: pair(&at), bytes: bytes as u64, limit_bytes: limit_bytes as u64 }
            }
            CommitError::Log(e) => Self::Log(e.into()),
        }
    }
}

impl From<WireCommitError> for CommitError {
    fn from(e: WireCommitError) -> Self {
        match e {
            WireCommitError::Aborted(reason) => Self::Aborted { reason },
            WireCommitError::Fenced { id, reason } => Self::Fenced { id, reason },
            WireCommitError::Full { at, limit_bytes } => Self::Full { at: place(at), limit_bytes },
            WireCommitError::TooLarge { at, bytes, limit_bytes } => {
                Self::TooLarge { at: place(at), bytes: bytes as usize, limit_bytes: limit_bytes as usize }
            }
            WireCommitError::Log(e) => Self::Log(e.into()),
        }
    }
}

pub(super) fn pair(at: &TopicPartition) -> At {
    (at.topic.clone(), at.partition)
}

pub(super) fn place(at: At) -> TopicPartition {
    TopicPartition { topic: at.0, partition: at.1 }
}

pub(super) fn record_out(r: Record) -> WireRecord {
    (r.offset, r.timestamp, r.key.map(Blob), r.value.map(Blob), blobs(r.headers))
}

pub(super) fn record_in(r: WireRecord) -> Record {
    let (offset, timestamp, key, value, headers) = r;
    Record { offset, timestamp, key: key.map(|b| b.0), value: value.map(|b| b.0), headers: unblob(headers) }
}

pub(super) fn append_out(a: &Append) -> WireAppend {
    let headers = blobs(a.headers.clone());
    (a.topic.clone(), a.partition, a.timestamp, a.key.clone().map(Blob), a.value.clone().map(Blob), headers)
}

pub(super) fn append_in(a: WireAppend) -> Append {
    let (topic, partition, timestamp, key, value, headers) = a;
    let (key, value) = (key.map(|b| b.0), value.map(|b| b.0));
    Append { topic, partition, timestamp, key, value, headers: unblob(headers) }
}

pub(super) fn committed_in(c: (i64, String)) -> Committed {
    Committed { offset: c.0, metadata: c.1 }
}

pub(super) fn range_in(start: i64, end: i64) -> OffsetRange {
    OffsetRange { start, end }
}

fn blobs(headers: Vec<(String, Bytes)>) -> Vec<(String, Blob)> {
    headers.into_iter().map(|(n, v)| (n, Blob(v))).collect()
}

fn unblob(headers: Vec<(String, Blob)>) -> Vec<(String, Bytes)> {
    headers.into_iter().map(|(n, v)| (n, v.0)).collect()
}

/// Bytes that travel as one run, not one by one.
#[derive(Debug)]
pub(super) struct Blob(pub(super) Bytes);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Run;
        impl<'de> Visitor<'de> for Run {
            type Value = Blob;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, v: &[u8]) -> Result<Blob, E> {
                Ok(Blob(Bytes::copy_from_slice(v)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Blob, A::Error> {
                Err(de::Error::custom("expected one run of bytes"))
            }
        }
        d.deserialize_bytes(Run)
    }
}

/// Writes one frame, or says that it would be too large.
pub(super) fn send(stream: &mut impl Write, value: &impl Serialize, bytes_max: usize) -> io::Result<()> {
    let body = postcard::to_extend(value, vec![0; 4]).map_err(io::Error::other)?;
    let len = body.len() - 4;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes, at most {bytes_max} fit")));
    }
    let mut body = body;
    // Limits are far below 4 GiB.
    body[..4].copy_from_slice(&(len as u32).to_be_bytes());
    stream.write_all(&body)
}

/// Reads the body of a frame whose length is known. Memory grows with what arrives, not with what was announced.
pub(super) fn receive_body<T: DeserializeOwned>(stream: &mut impl Read, len: [u8; 4], bytes_max: usize) -> io::Result<T> {
    let len = u32::from_be_bytes(len) as usize;
    if len > bytes_max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("frame of {len} bytes, at most {bytes_max}")));
    }
    let mut body = Vec::new();
    stream.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&body).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
}

/// Reads one frame.
pub(super) fn receive<T: DeserializeOwned>(stream: &mut impl Read, bytes_max: usize) -> io::Result<T> {
    let mut len = [0; 4];
    stream.read_exact(&mut len)?;
    receive_body(stream, len, bytes_max)
}
