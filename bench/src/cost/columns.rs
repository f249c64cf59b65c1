//! The least work that makes columns of a record of flows: one pass over the protobuf, straight into vectors, with the
//! fields that the product takes. Its own reader on purpose: the limit must not become slow or quick with the product.
//!
//! Knows one message. Texts are checked to be UTF-8 and copied, addresses parsed to 16 octets; nothing else is validated.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Rows after which the columns are looked at and emptied, as the product's batches are.
pub(super) const ROWS: usize = 4096;

/// Texts of a column, one after the other.
#[derive(Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Texts {
    fn push(&mut self, text: &[u8]) -> Option<()> {
        std::str::from_utf8(text).ok()?;
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len() as u32);
        Some(())
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Numbers of one flow: observed, start, end, source port, destination port, TCP flags, octets, packets, sampling rate,
/// scaled octets, scaled packets, destination's AS.
const NUMBERS: usize = 12;

/// Texts of one flow: tenant, agent, exporter, protocol of the export, transport, network type.
const TEXTS: usize = 6;

/// The columns.
#[derive(Default)]
pub(super) struct Columns {
    numbers: [Vec<u64>; NUMBERS],
    texts: [Texts; TEXTS],
    source: Vec<[u8; 16]>,
    destination: Vec<[u8; 16]>,
}

impl Columns {
    /// Rows in them.
    pub(super) fn rows(&self) -> usize {
        self.source.len()
    }

    /// Hands them to nobody and empties them: the compiler must believe that somebody looked.
    pub(super) fn take(&mut self) {
        std::hint::black_box(&mut *self);
        self.numbers.iter_mut().for_each(Vec::clear);
        self.texts.iter_mut().for_each(Texts::clear);
        self.source.clear();
        self.destination.clear();
    }

    /// The pair of each flow that a client sent, hashed: for counting pairs, not part of the limit.
    pub(super) fn calls(&self) -> impl Iterator<Item = u64> + '_ {
        let client = |at: &usize| self.numbers[3][*at] >= 49_152;
        (0..self.rows()).filter(client).map(|at| {
            let tenant = &self.texts[0];
            let begin = at.checked_sub(1).map_or(0, |before| tenant.ends[before]);
            let mut hasher = DefaultHasher::new();
            let name = &tenant.bytes[begin as usize..tenant.ends[at] as usize];
            (name, self.source[at], self.destination[at], self.numbers[4][at]).hash(&mut hasher);
            hasher.finish()
        })
    }

    /// Adds the flows of one record; how many. `None` = not such a record.
    pub(super) fn add(&mut self, value: &[u8]) -> Option<u64> {
        let (mut rest, mut flows) = (value, 0);
        while !rest.is_empty() {
            let (tag, after) = varint(rest)?;
            rest = after;
            let field = delimited(tag, &mut rest)?;
            if tag >> 3 == 1 {
                self.flow(field?)?;
                flows += 1;
            }
        }
        Some(flows)
    }

    fn flow(&mut self, mut rest: &[u8]) -> Option<()> {
        let mut numbers = [0_u64; NUMBERS];
        let mut texts: [&[u8]; TEXTS] = [b""; TEXTS];
        let (mut source, mut destination): (&[u8], &[u8]) = (b"", b"");
        while !rest.is_empty() {
            let (tag, after) = varint(rest)?;
            rest = after;
            let number = match tag >> 3 {
                6 => 0,
                7 => 1,
                8 => 2,
                10 => 3,
                12 => 4,
                19 => 5,
                21 => 6,
                22 => 7,
                23 => 8,
                24 => 9,
                25 => 10,
                29 => 11,
                other => {
                    let field = delimited(tag, &mut rest)?;
                    match other {
                        1 => texts[0] = field?,
                        2 => texts[1] = field?,
                        3 => texts[2] = field?,
                        5 => texts[3] = field?,
                        13 => texts[4] = field?,
                        14 => texts[5] = field?,
                        9 => source = field?,
                        11 => destination = field?,
                        _ => {}
                    }
                    continue;
                }
            };
            if tag & 7 != 0 {
                return None;
            }
            (numbers[number], rest) = varint(rest)?;
        }
        for (column, value) in self.numbers.iter_mut().zip(numbers) {
            column.push(value);
        }
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.push(text)?;
        }
        self.source.push(address(source)?);
        self.destination.push(address(destination)?);
        Some(())
    }
}

/// Passes a field that is no number column: its bytes when it has a length, `Some(None)` when it is a number.
#[inline]
#[allow(clippy::option_option)] // Broken, without bytes, with bytes: three cases.
fn delimited<'a>(tag: u64, rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = match tag & 7 {
        0 => {
            *rest = varint(rest)?.1;
            return Some(None);
        }
        1 => 8,
        5 => 4,
        2 => {
            let (length, after) = varint(rest)?;
            *rest = after;
            usize::try_from(length).ok()?
        }
        _ => return None,
    };
    let (field, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(Some(field))
}

#[inline]
fn varint(from: &[u8]) -> Option<(u64, &[u8])> {
    match from {
        [a, rest @ ..] if *a < 0x80 => Some((u64::from(*a), rest)),
        [a, b, rest @ ..] if *b < 0x80 => Some((u64::from(a & 0x7f) | u64::from(*b) << 7, rest)),
        _ => long(from),
    }
}

fn long(from: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, byte) in from.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if *byte < 0x80 {
            return Some((value, &from[i + 1..]));
        }
    }
    None
}

/// 16 octets; IPv4 mapped.
#[inline]
fn address(text: &[u8]) -> Option<[u8; 16]> {
    let mut octets = [0; 4];
    let (mut part, mut value, mut digits) = (0, 0_u32, 0);
    for &c in text {
        match c {
            b'0'..=b'9' => {
                value = value * 10 + u32::from(c - b'0');
                digits += 1;
            }
            b'.' if part < 3 && digits > 0 && value < 256 => {
                octets[part] = value as u8;
                (part, value, digits) = (part + 1, 0, 0);
            }
            _ => return other(text),
        }
        if digits > 3 {
            return other(text);
        }
    }
    if part != 3 || digits == 0 || value > 255 {
        return other(text);
    }
    octets[3] = value as u8;
    let [a, b, c, d] = octets;
    Some([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d])
}

#[cold]
fn other(text: &[u8]) -> Option<[u8; 16]> {
    match std::str::from_utf8(text).ok()?.parse().ok()? {
        IpAddr::V4(v4) => Some(v4.to_ipv6_mapped().octets()),
        IpAddr::V6(v6) => Some(v6.octets()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use bumpalo::Bump;
    use tidewatch_generator::{Plan, Synthetic};
    use tidewatch_schemas::observation::Row;
    use tidewatch_schemas::wire::{self, Decoded, RecordMeta};

    use super::*;

    #[test]
    fn the_columns_hold_what_the_product_decodes() {
        let synthetic = Synthetic { batch: 50, ..Plan::bench(1_000, 100) };
        let mut columns = Columns::default();
        for record in synthetic.records() {
            assert_eq!(columns.add(&record.value), Some(50));
            let (arena, mut decoded) = (Bump::new(), Decoded::default());
            let mut decoder = (wire::format("probectl-flow").unwrap().decoder)();
            decoder.decode(&record.value, RecordMeta { timestamp: record.timestamp }, &arena, &mut decoded).unwrap();
            for (at, row) in (columns.rows() - 50..).zip(&decoded.rows) {
                let Row::Flow(flow) = row.row else { continue };
                assert_eq!(columns.numbers[0][at] as i64, flow.event_time.0);
                assert_eq!(columns.numbers[3][at] as u16, flow.source_port.unwrap());
                assert_eq!(columns.numbers[9][at], flow.bytes_forward.unwrap());
                assert_eq!(columns.source[at][12..], flow.source_address.and_then(|a| a.to_v4()).unwrap());
            }
            let tenant = &columns.texts[0];
            assert!(tenant.bytes.starts_with(b"bench-") && tenant.ends.len() == columns.rows());
        }
        assert_eq!(columns.rows(), 1_000);
        columns.take();
        assert_eq!((columns.rows(), columns.add(b"\x0a\x05abc")), (0, None));
        assert_eq!(address(b"2001:db8::1").map(|a| a[15]), Some(1));
        assert!(address(b"1.2.3.400").is_none() && address(b"").is_none());
    }
}
