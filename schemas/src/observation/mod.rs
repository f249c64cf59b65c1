//! Observations: what the pipeline knows of the network, as columns. One table per kind, each in its own file; the list
//! of kinds here is the only other place a new table touches.
//!
//! A batch is at most [`ROWS_MAX`] rows of one kind, travels as packed rows ([`packed`]; up to version 1 of the tables as one
//! Arrow IPC stream, which is still read) and is named in the record's headers by kind and version. Decoding never trusts the
//! bytes: a batch whose columns are not the table's is refused.

pub mod cell;
mod describe;
mod dns;
mod edge;
mod flow;
mod guard;
mod http;
pub mod packed;
mod result;
pub mod table;
mod tls;

use std::cmp::Ordering;
use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::StreamReader;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};

pub use describe::describe;
pub use dns::{DnsBatch, DnsColumns, DnsRow};
pub use edge::{EdgeBatch, EdgeColumns, EdgeRow};
pub use flow::{FlowBatch, FlowColumns, FlowRow};
pub use http::{HttpBatch, HttpColumns, HttpRow};
use packed::Packed;
pub use packed::{Filed, Packer, Packers};
pub use result::{ResultBatch, ResultColumns, ResultRow};
pub use tls::{TlsBatch, TlsColumns, TlsRow};

use crate::address::Address;
use crate::time::EventTime;

/// Rows in one batch, at most; a builder is ended before it passes this.
pub const ROWS_MAX: usize = 1 << 15;

/// Where a row belongs: its key and its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Routing<'a> {
    /// [`route_key`] of tenant and host.
    pub key: u64,
    /// Tenant.
    pub tenant: &'a str,
    /// Host, where its address is known.
    pub host_address: Option<Address>,
    /// Host, where only a name is known.
    pub host_name: Option<&'a str>,
    /// Event time.
    pub event_time: EventTime,
    /// False on the copy filed under a second internal host.
    pub primary: bool,
}

/// What normalize decides of a row: whose it is and where it lies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filing<'a> {
    /// Verified tenant.
    pub tenant: &'a str,
    /// Host, where its address is known.
    pub host_address: Option<Address>,
    /// Host, where only a name is known.
    pub host_name: Option<&'a str>,
    /// False on the copy under a second key.
    pub primary: bool,
    /// Input format.
    pub format: &'a str,
    /// Offset of the input record.
    pub offset: i64,
    /// Row inside the record.
    pub row: u32,
}

/// The routing key: XXH3-64 over tenant, a zero byte, and the host's 16 bytes or its name. Fixed for ever: it places keys
/// in key groups that outlive a process. It only places; equality is always decided on tenant and host themselves.
pub fn route_key(tenant: &str, host_address: Option<Address>, host_name: Option<&str>) -> u64 {
    let host = host_address.as_ref().map_or(host_name.unwrap_or("").as_bytes(), |address| &address.0);
    // For every row: in one piece where it fits, which the hash cannot tell from several.
    let mut whole = [0; ROUTE_KEY_BYTES];
    let (end, len) = (tenant.len() + 1, tenant.len() + 1 + host.len());
    if len <= ROUTE_KEY_BYTES {
        whole[..tenant.len()].copy_from_slice(tenant.as_bytes());
        whole[end..len].copy_from_slice(host);
        return xxhash_rust::xxh3::xxh3_64(&whole[..len]);
    }
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    hasher.update(tenant.as_bytes());
    hasher.update(&[0]);
    hasher.update(host);
    hasher.digest()
}

/// Bytes of tenant and host that are hashed in one piece.
const ROUTE_KEY_BYTES: usize = 128;

macro_rules! kinds {
    ($($kind:ident, $batch:ident, $columns:ident, $row:ident, $field:ident;)*) => {
        /// The kinds of observation, in the order in which rows of equal time are handed out.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind { $(#[doc = concat!("See [`", stringify!($batch), "`].")] $kind,)* }

        impl Kind {
            /// All kinds.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Name as in headers and documents.
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $batch::NAME,)* }
            }

            /// Version written by this binary.
            pub fn version(self) -> u16 {
                match self { $(Self::$kind => $batch::VERSION,)* }
            }

            /// By name.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($batch::NAME => Some(Self::$kind),)* _ => None }
            }

            /// The table's columns.
            pub fn columns(self) -> Vec<table::Column> {
                match self { $(Self::$kind => $batch::columns(),)* }
            }

            /// How many columns it has.
            pub(crate) fn width(self) -> usize {
                match self { $(Self::$kind => $row::WIDTH,)* }
            }

            /// Reads the packed row that begins at `at`.
            #[inline]
            pub(crate) fn unpack<'a>(self, rows: packed::Rows<'a>, at: usize) -> Row<'a> {
                match self { $(Self::$kind => {
                    Row::$kind($row::unpack(&mut packed::RowReader::begin::<{ $row::WIDTH }>(rows, at)))
                })* }
            }

            /// Passes over the packed row that begins at `at`; its routing key and its time.
            #[inline]
            pub(crate) fn pass(self, rows: packed::Rows<'_>, at: usize) -> (u64, EventTime, packed::End) {
                match self { $(Self::$kind => {
                    let mut reader = packed::RowReader::begin::<{ $row::WIDTH }>(rows, at);
                    let (key, time) = $row::pass(&mut reader);
                    (key, time, reader.end())
                })* }
            }
        }

        /// A batch of any kind, opened.
        // One lives for thousands of rows, behind an `Arc` where it waits: a box would only add a step to every read.
        #[derive(Clone, Debug)]
        #[allow(clippy::large_enum_variant, reason = "a few per task, never one per row")]
        pub enum Batch {
            $(#[doc = concat!("Rows of [`", stringify!($batch), "`].")] $kind($batch),)*
            /// Packed rows of any kind.
            Packed(Packed),
        }

        impl Batch {
            /// Opens an Arrow batch as a kind.
            pub fn open(kind: Kind, batch: &RecordBatch) -> Option<Self> {
                match kind { $(Kind::$kind => $batch::open(batch).map(Self::$kind),)* }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* Self::Packed(b) => b.kind() }
            }

            /// Its columns: of packed rows they are built here, for whoever judges whole columns.
            pub fn source(&self) -> RecordBatch {
                let batch = match self {
                    $(Self::$kind(b) => return b.source().clone(),)*
                    Self::Packed(batch) => batch,
                };
                let mut columns = Columns::default();
                (0..batch.len()).for_each(|i| columns.push(&batch.row(i)));
                match batch.kind() { $(Kind::$kind => columns.$field.finish(),)* }
            }

            /// Rows.
            pub fn len(&self) -> usize {
                match self { $(Self::$kind(b) => b.len(),)* Self::Packed(b) => b.len() }
            }

            /// No rows.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Routing columns of row `i`.
            pub fn routing(&self, i: usize) -> Routing<'_> {
                match self { $(Self::$kind(b) => b.routing(i),)* Self::Packed(b) => b.row(i).routing() }
            }

            /// Whose row `i` is and when: the part of [`Self::routing`] that costs next to nothing.
            pub fn filed(&self, i: usize) -> Filed<'_> {
                if let Self::Packed(batch) = self {
                    return batch.filed(i);
                }
                let Routing { key, tenant, event_time, .. } = self.routing(i);
                Filed { key, tenant, event_time }
            }

            /// Position of row `i` in the input.
            pub fn position(&self, i: usize) -> (i64, u32) {
                match self { $(Self::$kind(b) => b.position(i),)* Self::Packed(b) => b.row(i).position() }
            }

            /// Row `i`.
            pub fn row(&self, i: usize) -> Row<'_> {
                match self { $(Self::$kind(b) => Row::$kind(b.row(i)),)* Self::Packed(b) => b.row(i) }
            }

            /// See [`Packed::glance`].
            pub fn glance(&self, i: usize) -> u64 {
                if let Self::Packed(batch) = self { batch.glance(i) } else { 0 }
            }

            /// Bytes that it holds, where they can be told.
            pub fn bytes(&self) -> Option<usize> {
                if let Self::Packed(batch) = self { Some(batch.bytes()) } else { None }
            }
        }

        /// A row of any kind.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Row<'a> { $(#[doc = concat!("See [`", stringify!($row), "`].")] $kind($row<'a>),)* }

        impl Row<'_> {
            /// Orders rows of one time: by kind, then by content.
            pub fn compare_content(&self, other: &Row<'_>) -> Ordering {
                match (self, other) {
                    $((Row::$kind(a), Row::$kind(b)) => a.compare_content(b),)*
                    _ => self.kind().cmp(&other.kind()),
                }
            }

            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Row::$kind(_) => Kind::$kind,)* }
            }

            /// Rows equal to this one are other events (sampled packets), not this one seen twice.
            pub fn has_true_equals(&self) -> bool {
                matches!(self, Row::Flow(flow) if flow.sampled_packet)
            }

            /// Its event time.
            pub fn event_time(&self) -> EventTime {
                match self { $(Row::$kind(r) => r.event_time,)* }
            }

            /// Column names and values, absent ones left out; see [`describe()`].
            pub fn describe(&self) -> serde_json::Map<String, serde_json::Value> {
                match self { $(Row::$kind(r) => r.describe(),)* }
            }
        }

        impl<'a> Row<'a> {
            /// Its tenant.
            pub fn tenant(&self) -> &'a str {
                match self { $(Row::$kind(r) => r.tenant,)* }
            }

            /// False on the copy filed under a second internal host.
            pub fn primary(&self) -> bool {
                match self { $(Row::$kind(r) => r.primary,)* }
            }

            /// Its routing key.
            pub fn key(&self) -> u64 {
                match self { $(Row::$kind(r) => r.key,)* }
            }

            /// Its position in the input: offset, row in the record.
            pub fn position(&self) -> (i64, u32) {
                match self { $(Row::$kind(r) => (r.offset, r.row),)* }
            }

            /// Where it belongs.
            pub fn routing(&self) -> Routing<'a> {
                match self { $(Row::$kind(r) => Routing {
                    key: r.key,
                    tenant: r.tenant,
                    host_address: r.host_address,
                    host_name: r.host_name,
                    event_time: r.event_time,
                    primary: r.primary,
                },)* }
            }

            /// Writes its columns.
            #[inline]
            pub(crate) fn pack(&self, to: &mut packed::Writing) {
                match self { $(Row::$kind(r) => {
                    let mut writer = packed::RowWriter::begin::<{ $row::WIDTH }>(to);
                    r.pack(&mut writer);
                    writer.end::<{ $row::WIDTH }>();
                })* }
            }

            /// Its input format.
            pub fn format(&self) -> &'a str {
                match self { $(Row::$kind(r) => r.format,)* }
            }

            /// Files the row: owner, host and routing key, format, place in the input.
            pub fn file(&mut self, filing: &Filing<'a>) {
                match self { $(Row::$kind(r) => {
                    r.tenant = filing.tenant;
                    r.host_address = filing.host_address;
                    r.host_name = filing.host_name;
                    r.key = route_key(filing.tenant, filing.host_address, filing.host_name);
                    r.primary = filing.primary;
                    r.format = filing.format;
                    r.offset = filing.offset;
                    r.row = filing.row;
                })* }
            }
        }

        /// One builder per kind.
        #[derive(Debug, Default)]
        pub struct Columns { $(#[doc = concat!("Rows of [`", stringify!($batch), "`].")] pub $field: $columns,)* }

        impl Columns {
            /// Rows in all builders.
            pub fn len(&self) -> usize {
                0 $(+ self.$field.len())*
            }

            /// No rows.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }

            /// Appends a row to its table.
            pub fn push(&mut self, row: &Row<'_>) {
                match row { $(Row::$kind(r) => self.$field.push(r),)* }
            }

            /// Ends every builder that has rows.
            pub fn finish(&mut self) -> Vec<(Kind, RecordBatch)> {
                let mut out = Vec::new();
                $(if !self.$field.is_empty() { out.push((Kind::$kind, self.$field.finish())); })*
                out
            }
        }
    };
}

kinds! {
    Flow, FlowBatch, FlowColumns, FlowRow, flow;
    Dns, DnsBatch, DnsColumns, DnsRow, dns;
    Tls, TlsBatch, TlsColumns, TlsRow, tls;
    Http, HttpBatch, HttpColumns, HttpRow, http;
    Edge, EdgeBatch, EdgeColumns, EdgeRow, edge;
    Result, ResultBatch, ResultColumns, ResultRow, result;
}

/// Why an obs record cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BatchError {
    /// The header names a kind that does not exist.
    #[error("unknown observation kind {got}")]
    Kind {
        /// As named.
        got: String,
    },
    /// They are packed rows, but damaged or of another table.
    #[error("not packed rows of {kind} version {version}: {reason}")]
    Packed {
        /// Kind.
        kind: &'static str,
        /// Version of this binary.
        version: u16,
        /// What is wrong.
        reason: &'static str,
    },
    /// The bytes are no Arrow stream of one batch.
    #[error("not an arrow stream of one batch: {reason}")]
    Ipc {
        /// Arrow's words.
        reason: String,
    },
    /// The columns are not the table's.
    #[error("columns are not those of {kind} version {version}")]
    Columns {
        /// Kind.
        kind: &'static str,
        /// Version of this binary.
        version: u16,
    },
}

/// Writes one batch as an Arrow IPC stream, lz4 inside: the form of version 1 of the tables.
pub fn encode(batch: &RecordBatch) -> Vec<u8> {
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME)).expect("lz4 is compiled in");
    let mut out = Vec::with_capacity(batch.num_rows() * 32 + 1024);
    let mut writer =
        StreamWriter::try_new_with_options(&mut out, &batch.schema(), options).expect("writing to memory cannot fail");
    writer.write(batch).expect("writing to memory cannot fail");
    writer.finish().expect("writing to memory cannot fail");
    drop(writer);
    out
}

/// Reason of a batch that the guard let through and that Arrow panicked on: a gap in the guard. Fuzzing looks for it.
pub(crate) const ARROW_PANICKED: &str = "arrow's reader panicked";

/// Reads one batch of either form. Never panics on hostile bytes; memory is bounded by the bytes themselves, for an Arrow
/// stream by 128 MiB of unpacked buffers beside its own length. Every length is checked before Arrow takes it at its word (`guard.rs`); a panic inside Arrow would still be
/// an error, not the end of the task.
pub fn decode(kind: Kind, bytes: &[u8]) -> Result<Batch, BatchError> {
    if Packed::is(bytes) {
        let wrong = |reason| BatchError::Packed { kind: kind.name(), version: kind.version(), reason };
        return Packed::open(kind, bytes).map(Batch::Packed).map_err(wrong);
    }
    guard::check(bytes).map_err(|reason| BatchError::Ipc { reason: reason.into() })?;
    // Nothing is shared with the closure but the bytes, which it cannot change.
    let batch =
        std::panic::catch_unwind(|| read(bytes)).unwrap_or_else(|_| Err(BatchError::Ipc { reason: ARROW_PANICKED.into() }))?;
    Batch::open(kind, &batch).ok_or(BatchError::Columns { kind: kind.name(), version: kind.version() })
}

fn read(bytes: &[u8]) -> Result<RecordBatch, BatchError> {
    let ipc = |e: arrow_schema::ArrowError| BatchError::Ipc { reason: e.to_string() };
    let mut reader = StreamReader::try_new(Cursor::new(bytes), None).map_err(ipc)?;
    reader.next().ok_or_else(|| BatchError::Ipc { reason: "empty stream".into() })?.map_err(ipc)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_routing_key_is_the_same_in_one_piece_or_several() {
        let pieces = |tenant: &str, host: &[u8]| {
            let mut hasher = xxhash_rust::xxh3::Xxh3::new();
            [tenant.as_bytes(), &[0], host].iter().for_each(|piece| hasher.update(piece));
            hasher.digest()
        };
        let address = Address::v4([10, 0, 0, 5]);
        for len in [0, 1, 16, 110, 111, 112, 300] {
            let tenant = "t".repeat(len);
            assert_eq!(route_key(&tenant, Some(address), Some("ignored")), pieces(&tenant, &address.0));
            assert_eq!(route_key(&tenant, None, Some("host")), pieces(&tenant, b"host"));
            assert_eq!(route_key(&tenant, None, None), pieces(&tenant, b""));
        }
    }
}
