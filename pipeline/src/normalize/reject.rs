//! Rejected records: the original bytes with the reason and where they came from, so that they can be mended and
//! replayed. A fault of bytes or tenancy rejects the whole record; a bad row only itself, in its record's own format.

use std::fmt;

use bytes::Bytes;
use tidewatch_schemas::trace::{TRACEPARENT, TRACESTATE, TraceContext, tracestate};
use tidewatch_schemas::wire::Fault;

use super::tenancy::TenancyFault;
use crate::log::{Append, Record, TopicPartition};

/// Ledger line of rows whose tenant is not known.
pub const NO_TENANT: &str = "-";

/// Header: why.
pub const REASON: &str = "tw-reason";
/// Header: input topic.
pub const TOPIC: &str = "tw-topic";
/// Header: input partition.
pub const PARTITION: &str = "tw-partition";
/// Header: input offset.
pub const OFFSET: &str = "tw-offset";
/// Header: index of the row inside its record.
pub const ROW: &str = "tw-row";
/// Header: input format.
pub const FORMAT: &str = "tw-format";
/// Header: original length, where the bytes were cut.
pub const LENGTH: &str = "tw-length";
/// Header: BLAKE3 of the original bytes, where they were cut.
pub const DIGEST: &str = "tw-digest";

/// Bytes kept of a record that the rejected topic cannot take whole.
pub const KEPT_BYTES: usize = 512 << 10;

/// Room that headers and key take in a rejected record.
const ROOM_BYTES: usize = 16 << 10;

/// Why a record or row was rejected.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Its bytes.
    Bytes(Fault),
    /// Its tenant.
    Tenant(TenancyFault),
    /// Ahead of its record's timestamp.
    Future {
        /// By so much, nanoseconds.
        ahead_ns: i64,
    },
    /// More text than a record of `obs` takes.
    RowTooLarge,
    /// No time can be told.
    NoTime,
    /// A replayed record that names no input of this topology.
    UnknownInput,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(fault) => write!(f, "bytes: {fault}"),
            Self::Tenant(fault) => write!(f, "tenant: {fault}"),
            Self::Future { ahead_ns } => write!(f, "future: {:.1} s ahead of its record", *ahead_ns as f64 / 1e9),
            Self::RowTooLarge => write!(f, "size: the row's text exceeds {} bytes", super::ROW_BYTES_MAX),
            Self::NoTime => f.write_str("time: the row tells none"),
            Self::UnknownInput => f.write_str("replay: header tw-topic names no input of this topology"),
        }
    }
}

/// The topic of rejected records.
#[derive(Clone, Debug)]
pub struct RejectedTopic {
    /// Topic.
    pub topic: String,
    /// Its partitions.
    pub partitions: u32,
    /// Largest record it takes, bytes.
    pub record_bytes_max: usize,
}

impl RejectedTopic {
    /// The rejected record.
    pub fn append(
        &self,
        at: &TopicPartition,
        record: &Record,
        value: &Bytes,
        format: Option<&str>,
        row: Option<u32>,
        reason: &Reason,
    ) -> Append {
        // A replayed record that fails again keeps naming where it first came from.
        let first = |name: &str, here: String| record.header(name).cloned().unwrap_or_else(|| here.into());
        let mut headers = vec![
            (REASON.to_owned(), Bytes::from(reason.to_string())),
            (TOPIC.to_owned(), first(TOPIC, at.topic.clone())),
            (PARTITION.to_owned(), first(PARTITION, at.partition.to_string())),
            (OFFSET.to_owned(), first(OFFSET, record.offset.to_string())),
        ];
        if let Some(row) = row {
            headers.push((ROW.to_owned(), row.to_string().into()));
        }
        if let Some(format) = format {
            headers.push((FORMAT.to_owned(), format.to_owned().into()));
        }
        // One record made this one: its trace goes on.
        if let Some(parent) = record.header(TRACEPARENT).filter(|h| TraceContext::parse(h).is_some()) {
            headers.push((TRACEPARENT.to_owned(), parent.clone()));
            if let Some(state) = record.header(TRACESTATE).filter(|h| tracestate(h).is_some()) {
                headers.push((TRACESTATE.to_owned(), state.clone()));
            }
        }
        let key = record.key.clone().filter(|k| k.len() <= ROOM_BYTES / 2);
        let fits = value.len() + ROOM_BYTES <= self.record_bytes_max;
        let kept = if fits {
            value.clone()
        } else {
            headers.push((LENGTH.to_owned(), value.len().to_string().into()));
            headers.push((DIGEST.to_owned(), blake3::hash(value).to_hex().to_string().into()));
            value.slice(..KEPT_BYTES.min(value.len()).min(self.record_bytes_max.saturating_sub(ROOM_BYTES)))
        };
        Append {
            topic: self.topic.clone(),
            partition: at.partition % self.partitions.max(1),
            timestamp: None,
            key,
            value: Some(kept),
            headers,
        }
    }
}
