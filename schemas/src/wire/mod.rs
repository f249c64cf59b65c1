//! Input formats: bytes of one record in, rows out. One format per file; pure, no I/O. The list at the end of this file
//! is the only other place a new format touches.
//!
//! A decoder fills what the wire says. Who owns the row (tenant, host, key), which class its addresses have and where it
//! lies is decided later, by normalize. Every byte is hostile: a decoder returns an error, never panics, never allocates
//! more than [`ARENA_BYTES_MAX`] beyond what the rows themselves need, and never reads past its record.

mod dns_codes;
mod probectl_bgp;
mod probectl_ebpf;
mod probectl_flow;
mod probectl_result;
mod protobuf;
mod value;
mod zeek;

#[cfg(test)]
mod tests;

use bumpalo::Bump;

pub use value::shown;

use crate::observation::Row;
use crate::time::EventTime;

/// Rows one record may hold, at most; more is an error of the whole record.
pub const RECORD_ROWS_MAX: usize = 20_000;

/// Bytes of text one record may have built anew (unescaped, lower-cased), at most.
pub const ARENA_BYTES_MAX: usize = 8 << 20;

/// What the record tells besides its value.
#[derive(Clone, Copy, Debug)]
pub struct RecordMeta {
    /// Timestamp of the log.
    pub timestamp: EventTime,
}

/// A decoded row and what it claims of itself.
#[derive(Clone, Copy, Debug)]
pub struct DecodedRow<'a> {
    /// Tenant as claimed by the row; empty where the format has none.
    pub tenant: &'a str,
    /// Agent as claimed by the row; `None` where the element has no such field (service edges).
    pub agent: Option<&'a str>,
    /// Index inside the record: a stable name for the row.
    pub index: u32,
    /// The row. Its common columns but `event_time` and `observer` are still empty.
    pub row: Row<'a>,
}

/// A row that cannot be used, though its neighbours can.
#[derive(Clone, Debug, PartialEq)]
pub struct BadRow {
    /// Index inside the record.
    pub index: u32,
    /// What is wrong.
    pub fault: Fault,
    /// The row alone, re-encoded in the record's own format, so that it can be replayed.
    pub bytes: Vec<u8>,
}

/// What came out of one record.
#[derive(Debug, Default)]
pub struct Decoded<'a> {
    /// Rows, in wire order.
    pub rows: Vec<DecodedRow<'a>>,
    /// Bad rows.
    pub bad: Vec<BadRow>,
    /// Elements that are no observation of ours (control records, other logs, headers), by reason: skipped and counted.
    pub skipped: Vec<(&'static str, u32)>,
}

impl Decoded<'_> {
    /// Counts a skipped element.
    pub fn skip(&mut self, reason: &'static str) {
        match self.skipped.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, n)) => *n += 1,
            None => self.skipped.push((reason, 1)),
        }
    }
}

/// What can be wrong with bytes. The frame adds topic, partition and offset.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Fault {
    /// The record ends too early.
    #[error("cut off: {what} needs more bytes at {at}")]
    CutOff {
        /// Element.
        what: &'static str,
        /// Byte position.
        at: usize,
    },
    /// Not the format it should be.
    #[error("not {expected}: {got}")]
    Format {
        /// Expected.
        expected: &'static str,
        /// Got, at most 80 characters, control characters escaped.
        got: String,
    },
    /// A field holds what it cannot.
    #[error("{field}: expected {expected}, got {got}")]
    Field {
        /// Field.
        field: &'static str,
        /// Expected.
        expected: &'static str,
        /// Got, at most 80 characters, control characters escaped.
        got: String,
    },
    /// A mandatory field is missing.
    #[error("{field} is missing")]
    Missing {
        /// Field.
        field: &'static str,
    },
    /// Too much in one record.
    #[error("{what} exceeds {limit}")]
    TooLarge {
        /// What.
        what: &'static str,
        /// Named limit.
        limit: usize,
    },
    /// Nothing in it.
    #[error("empty record")]
    Empty,
}

/// A decoder; it may learn from the records of its partition (column names of a text log).
pub trait Decoder: Send {
    /// Decodes one record. `Err` rejects the whole record; bad single rows go to [`Decoded::bad`].
    fn decode<'a>(&mut self, value: &'a [u8], meta: RecordMeta, arena: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault>;

    /// Rows of the record that was decoded last, each alone in the record's own format, so that it can be rejected and
    /// replayed without its neighbours: decoded alone it gives the same row, but for a time that neighbours decided.
    /// `rows` are [`DecodedRow::index`], ascending; `each` is called with them and the bytes, in order. One walk over the
    /// record, however many rows. A format whose record is the row gives the record itself.
    fn extract(&self, value: &[u8], rows: &[u32], each: &mut dyn FnMut(u32, Vec<u8>)) {
        rows.iter().for_each(|&row| each(row, value.to_vec()));
    }

    /// What it has learned, at most 2 KiB of text; `None` when nothing. Survives a restart in the offset's metadata.
    fn learned(&self) -> Option<String> {
        None
    }

    /// Takes up what [`Decoder::learned`] gave.
    fn resume(&mut self, learned: &str) {
        let _ = learned;
    }
}

/// One input format.
#[derive(Clone, Copy)]
pub struct Format {
    /// Name in topologies and on the command line.
    pub name: &'static str,
    /// One line for people.
    pub about: &'static str,
    /// Lateness when the topology names none, seconds.
    pub lateness_s: u32,
    /// Rows carry tenant and agent (else the topology names a static tenant).
    pub has_tenant: bool,
    /// A fresh decoder.
    pub decoder: fn() -> Box<dyn Decoder>,
}

impl std::fmt::Debug for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Whether one more row may be filed under its record. An error when the record holds too many.
#[inline]
fn check_room(out: &Decoded<'_>) -> Result<(), Fault> {
    if out.rows.len() + out.bad.len() >= RECORD_ROWS_MAX {
        return Err(Fault::TooLarge { what: "rows in one record", limit: RECORD_ROWS_MAX });
    }
    Ok(())
}

/// Files a row under its record, or its fault with the row re-encoded. An error when the record holds too many.
#[inline]
fn push_row<'a>(
    out: &mut Decoded<'a>,
    index: u32,
    row: Result<DecodedRow<'a>, Fault>,
    bytes: impl FnOnce() -> Vec<u8>,
) -> Result<(), Fault> {
    check_room(out)?;
    match row {
        Ok(row) => out.rows.push(row),
        Err(fault) => out.bad.push(BadRow { index, fault, bytes: bytes() }),
    }
    Ok(())
}

/// All formats, in the order of the documents.
pub static FORMATS: &[Format] = &[
    Format {
        name: "probectl-flow",
        about: "probectl.flow.v1.FlowBatch: NetFlow, IPFIX and sFlow records of probectl's collectors",
        // Collectors batch for 2 s; exporters hold a record back for up to one active time-out.
        lateness_s: 60,
        has_tenant: true,
        decoder: || Box::new(probectl_flow::ProbectlFlow),
    },
    Format {
        name: "probectl-ebpf",
        about: "probectl.ebpf.v1.FlowBatch: connections, service edges and DNS calls seen by probectl's agents",
        // Agents flush every few seconds and keep batches while the broker is away.
        lateness_s: 60,
        has_tenant: true,
        decoder: || Box::new(probectl_ebpf::ProbectlEbpf),
    },
    Format {
        name: "probectl-result",
        about: "probectl.result.v1.Result: outcomes of synthetic tests; DNS tests also as look-ups",
        // Agents retry for about a minute.
        lateness_s: 60,
        has_tenant: true,
        decoder: || Box::new(probectl_result::ProbectlResult),
    },
    Format {
        name: "probectl-bgp",
        about: "probectl.bgp.v1.BGPEvent: checked and counted, not yet observed",
        // As for results.
        lateness_s: 60,
        has_tenant: true,
        decoder: || Box::new(probectl_bgp::ProbectlBgp),
    },
    Format {
        name: "zeek",
        about: "any of Zeek's logs below, told apart line by line; TSV or JSON",
        // The slowest of its logs, conn.
        lateness_s: 360,
        has_tenant: false,
        decoder: || Box::new(zeek::Zeek::new(None)),
    },
    Format {
        name: "zeek-conn",
        about: "Zeek conn.log: connections; TSV or JSON",
        // Written at the end, but UDP and broken TCP only after a time-out of 1 to 5 min without packets.
        lateness_s: 360,
        has_tenant: false,
        decoder: || Box::new(zeek::Zeek::new(Some(zeek::Log::Conn))),
    },
    Format {
        name: "zeek-dns",
        about: "Zeek dns.log: look-ups; TSV or JSON",
        // Unanswered queries are written after 10 s of waiting, or when their connection ends.
        lateness_s: 60,
        has_tenant: false,
        decoder: || Box::new(zeek::Zeek::new(Some(zeek::Log::Dns))),
    },
    Format {
        name: "zeek-ssl",
        about: "Zeek ssl.log: TLS handshakes; TSV or JSON",
        // Event time is the write time or never goes back; workers of a cluster differ by seconds.
        lateness_s: 10,
        has_tenant: false,
        decoder: || Box::new(zeek::Zeek::new(Some(zeek::Log::Ssl))),
    },
    Format {
        name: "zeek-http",
        about: "Zeek http.log: requests; TSV or JSON",
        // As for ssl.
        lateness_s: 10,
        has_tenant: false,
        decoder: || Box::new(zeek::Zeek::new(Some(zeek::Log::Http))),
    },
];

/// A format by name.
pub fn format(name: &str) -> Option<&'static Format> {
    FORMATS.iter().find(|f| f.name == name)
}
