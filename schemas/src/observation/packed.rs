//! Rows as they travel on `obs`: one after the other, every column in as few octets as its value takes. Written in one pass
//! over the row that normalize has at hand, read back row by row where the slice wants them, so that no column is ever
//! built, compressed, unpacked or gathered.
//!
//! A row is its lengths, half an octet a column in the order of the table, then the values. Numbers are little endian and
//! as short as they can be; times are differences to the time before them, offsets to the first one of the batch; an
//! address that the row has named already is not named again; texts of the dictionary kind stand once in front.
//!
//! What always holds: what was written reads back as the same row. Damaged bytes are an error before anybody sees a row
//! ([`Packed::open`] compares a checksum and walks over the lengths of every row); bytes forged with their checksum are an
//! error or some rows, never a panic. Memory is bounded by the bytes themselves.
//!
//! Knows no table: those bring their columns ([`super::table`]), and [`super::cell`] says how one value is written.

mod names;
mod reader;
mod writer;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::names::Names;
pub use self::reader::{End, RowReader, Rows};
pub use self::writer::{Packer, Packers, RowWriter, Writing};
use super::{Kind, Row};
use crate::time::EventTime;

/// Beginning of every batch in this form. An Arrow stream begins with four octets of all ones.
const MAGIC: [u8; 4] = *b"TwR2";

/// Octets in front of the texts: magic, kind, columns, rows, texts, their octets, first time, first offset, checksum.
const HEAD: usize = 4 + 2 + 2 + 4 + 4 + 4 + 8 + 8 + 8;

/// Where the checksum stands: of all that lies before and behind it.
const CHECKSUM: usize = HEAD - 8;

/// What the checksum of these bytes has to be; they are a head at least.
fn checksum(bytes: &[u8]) -> u64 {
    let before = xxhash_rust::xxh3::xxh3_64(&bytes[..CHECKSUM]);
    xxhash_rust::xxh3::xxh3_64_with_seed(&bytes[HEAD..], before)
}

/// Writes the checksum; shorter bytes have no place for it.
pub(crate) fn seal(bytes: &mut [u8]) {
    if bytes.len() >= HEAD {
        let sum = checksum(bytes).to_le_bytes();
        bytes[CHECKSUM..HEAD].copy_from_slice(&sum);
    }
}

/// Octets behind the last row, so that the longest number may always be read whole.
const TAIL: usize = 24;

/// Columns of a table, at most.
const COLUMNS_MAX: usize = 64;

/// Words of lengths: sixteen columns each.
const WORDS: usize = COLUMNS_MAX / 16;

/// Lengths that are none: octets 0 to 8 of a number are themselves.
mod length {
    /// An address that is no IPv4.
    pub const LONG: u8 = 9;
    /// The address that the row named first.
    pub const AGAIN: u8 = 10;
    /// Truth.
    pub const YES: u8 = 11;
    /// Absent.
    pub const NONE: u8 = 15;
}

/// A batch of rows of one kind, opened for reading. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Packed(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: Kind,
    /// Rows alone, with the tail.
    body: Vec<u8>,
    names: Names,
    base: Base,
    rows: Vec<Place>,
}

/// What the first row gave.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Base {
    time: i64,
    offset: i64,
}

/// A row, and what is asked of it before it is read.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: u64,
    time: EventTime,
    at: u32,
    tenant: u32,
}

/// Whose a row is and when, as [`super::Batch::filed`] tells it without reading the row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Filed<'a> {
    /// Routing key.
    pub key: u64,
    /// Tenant.
    pub tenant: &'a str,
    /// Event time.
    pub event_time: EventTime,
}

impl Packed {
    /// Whether bytes claim to be of this form.
    pub fn is(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Opens a batch; the reason when it is none of that kind. Copies the bytes: what came from a log's block must not hold
    /// the block. Reads of every row only whose it is and when; the rest is passed over until somebody asks for the row.
    pub fn open(kind: Kind, bytes: &[u8]) -> Result<Self, &'static str> {
        const CUT_OFF: &str = "cut off";
        let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or(CUT_OFF)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let long = |at: usize| {
            let mut octets = [0; 8];
            octets.copy_from_slice(&head[at..at + 8]);
            i64::from_le_bytes(octets)
        };
        if head[..4] != MAGIC || usize::from(head[4]) != kind as usize || usize::from(head[5]) != kind.width() {
            return Err("rows of another kind");
        }
        if long(CHECKSUM) as u64 != checksum(bytes) {
            return Err("the checksum is another one");
        }
        let (rows, texts, text_bytes) = (number(8), number(12), number(16));
        let base = Base { time: long(20), offset: long(28) };
        if rows > super::ROWS_MAX {
            return Err("too many rows");
        }
        let ends_len = texts.checked_mul(4).ok_or(CUT_OFF)?;
        let (ends, rest) = rest.split_at_checked(ends_len).ok_or(CUT_OFF)?;
        let (text, body) = rest.split_at_checked(text_bytes).ok_or(CUT_OFF)?;
        let names = Names::read(ends, text).ok_or("texts that are none")?;
        let end = body.len().checked_sub(TAIL).ok_or(CUT_OFF)?;
        // A row takes at least its lengths.
        if rows.saturating_mul(kind.width().div_ceil(2)) > end || u32::try_from(body.len()).is_err() {
            return Err(CUT_OFF);
        }
        let mut places = Vec::with_capacity(rows);
        let mut at = 0;
        for _ in 0..rows {
            let (key, time, next) = kind.pass(Rows { body, names: &names, base }, at);
            if !next.sound || next.at > end {
                return Err("a row that is none");
            }
            places.push(Place { key, time, at: at as u32, tenant: next.tenant });
            at = next.at;
        }
        if at != end {
            return Err("bytes behind the last row");
        }
        Ok(Self(Arc::new(Inner { kind, body: body.to_vec(), names, base, rows: places })))
    }

    /// Kind of its rows.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Rows.
    pub fn len(&self) -> usize {
        self.0.rows.len()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.0.rows.is_empty()
    }

    /// Whose row `i` is and when.
    pub fn filed(&self, i: usize) -> Filed<'_> {
        let place = &self.0.rows[i];
        Filed { key: place.key, tenant: self.0.names.get(place.tenant), event_time: place.time }
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> Row<'_> {
        let Inner { kind, body, names, base, rows } = &*self.0;
        kind.unpack(Rows { body, names, base: *base }, rows[i].at as usize)
    }

    /// Looks at where row `i` lies, without reading it: who looks at many before reading the first waits for memory once.
    pub fn glance(&self, i: usize) -> u64 {
        let at = self.0.rows.get(i).map_or(0, |place| place.at as usize);
        self.0.body.get(at).copied().map_or(0, u64::from)
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.0.body.len() + self.0.names.bytes() + self.0.rows.len() * size_of::<Place>()
    }
}
