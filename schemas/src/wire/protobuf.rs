//! A reader of protobuf bytes: tags, varints, lengths, within one slice. Knows no message. Never panics, never allocates,
//! never reads past its slice; every position in a fault is a byte position in the whole record.

use super::{Fault, shown};

/// Bytes of a varint, at most.
const VARINT_BYTES_MAX: usize = 10;

/// Bytes of one text, at most: names, addresses, states. A longer one is none, and would make rows that no record of ours
/// can carry.
const TEXT_BYTES_MAX: usize = 4096;

/// Wire type of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Varint.
    Varint,
    /// Eight bytes.
    Fixed64,
    /// Length, then bytes.
    Bytes,
    /// Four bytes.
    Fixed32,
}

impl Wire {
    const fn name(self) -> &'static str {
        match self {
            Self::Varint => "varint",
            Self::Fixed64 => "fixed64",
            Self::Bytes => "length-delimited",
            Self::Fixed32 => "fixed32",
        }
    }
}

/// A position in a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader<'a> {
    data: &'a [u8],
    at: usize,
    /// Where `data` starts in the record.
    base: usize,
}

/// A field: its number and its wire type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) number: u32,
    pub(super) wire: Wire,
}

impl<'a> Reader<'a> {
    /// Over a whole record.
    pub(super) const fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, base: 0 }
    }

    /// The next field; `None` at the end.
    // Forced inline: called some twenty times a flow, and its result is wide because of the fault.
    #[inline(always)]
    pub(super) fn tag(&mut self) -> Result<Option<Tag>, Fault> {
        let raw = match self.data[self.at..] {
            [] => return Ok(None),
            [a, ..] if a < 0x80 => {
                self.at += 1;
                u32::from(a)
            }
            [a, b, ..] if b < 0x80 => {
                self.at += 2;
                u32::from(a & 0x7f) | u32::from(b) << 7
            }
            _ => self.tag_long()?,
        };
        let wire = match raw & 7 {
            0 => Wire::Varint,
            1 => Wire::Fixed64,
            2 => Wire::Bytes,
            5 => Wire::Fixed32,
            // 3 and 4 are groups: proto3 has none; 6 and 7 do not exist.
            _ => return Err(self.malformed("wire type")),
        };
        let number = raw >> 3;
        if number == 0 {
            return Err(self.malformed("field number"));
        }
        Ok(Some(Tag { number, wire }))
    }

    fn tag_long(&mut self) -> Result<u32, Fault> {
        let raw = self.varint("tag")?;
        u32::try_from(raw).map_err(|_| self.malformed("field number"))
    }

    #[inline(always)]
    fn varint(&mut self, what: &'static str) -> Result<u64, Fault> {
        let rest = &self.data[self.at..];
        match *rest {
            [a, ..] if a < 0x80 => {
                self.at += 1;
                Ok(u64::from(a))
            }
            [a, b, ..] if b < 0x80 => {
                self.at += 2;
                Ok(u64::from(a & 0x7f) | u64::from(b) << 7)
            }
            _ => self.varint_long(what),
        }
    }

    fn varint_long(&mut self, what: &'static str) -> Result<u64, Fault> {
        // Times take nine octets: gathered at once where as many are left.
        if let Some([a, b, c, d, e, f, g, h, ninth]) = self.data[self.at..].first_chunk::<9>() {
            let word = u64::from_le_bytes([*a, *b, *c, *d, *e, *f, *g, *h]);
            let ends = !word & 0x8080_8080_8080_8080;
            if ends != 0 {
                let octets = ends.trailing_zeros() as usize / 8 + 1;
                self.at += octets;
                return Ok(gathered(word & u64::MAX >> (64 - 8 * octets)));
            }
            if *ninth < 0x80 {
                self.at += 9;
                return Ok(gathered(word) | u64::from(*ninth) << 56);
            }
        }
        let mut value = 0u64;
        for (i, &byte) in self.data[self.at..].iter().take(VARINT_BYTES_MAX).enumerate() {
            // The tenth byte holds one bit.
            if i == VARINT_BYTES_MAX - 1 && byte > 1 {
                return Err(self.malformed("varint"));
            }
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                self.at += i + 1;
                return Ok(value);
            }
        }
        if self.data.len() - self.at >= VARINT_BYTES_MAX { Err(self.malformed("varint")) } else { Err(self.cut_off(what)) }
    }

    /// The bytes of a length-delimited field, and where they start in the record.
    #[inline(always)]
    fn delimited(&mut self, what: &'static str) -> Result<&'a [u8], Fault> {
        let len = self.varint(what)?;
        let rest = &self.data[self.at..];
        if len > rest.len() as u64 {
            return Err(self.cut_off(what));
        }
        let (bytes, _) = rest.split_at(len as usize);
        self.at += bytes.len();
        Ok(bytes)
    }

    /// Value of a number field.
    #[inline(always)]
    pub(super) fn u64(&mut self, tag: Tag, field: &'static str) -> Result<u64, Fault> {
        self.expect(tag, Wire::Varint, field)?;
        self.varint(field)
    }

    /// Value of an `int64` field.
    #[inline]
    pub(super) fn i64(&mut self, tag: Tag, field: &'static str) -> Result<i64, Fault> {
        // int64 is the two's complement of the varint.
        Ok(self.u64(tag, field)? as i64)
    }

    /// Value of a `double` field.
    pub(super) fn f64(&mut self, tag: Tag, field: &'static str) -> Result<f64, Fault> {
        self.expect(tag, Wire::Fixed64, field)?;
        match self.data[self.at..].first_chunk::<8>() {
            Some(bytes) => {
                self.at += 8;
                Ok(f64::from_le_bytes(*bytes))
            }
            None => Err(self.cut_off(field)),
        }
    }

    /// Value of a `bytes` field, or of text that is validated later.
    #[inline(always)]
    pub(super) fn bytes(&mut self, tag: Tag, field: &'static str) -> Result<&'a [u8], Fault> {
        self.expect(tag, Wire::Bytes, field)?;
        self.delimited(field)
    }

    /// Value of a `string` field.
    #[inline]
    pub(super) fn text(&mut self, tag: Tag, field: &'static str) -> Result<&'a str, Fault> {
        let bytes = self.bytes(tag, field)?;
        if bytes.len() > TEXT_BYTES_MAX {
            return Err(Fault::TooLarge { what: field, limit: TEXT_BYTES_MAX });
        }
        std::str::from_utf8(bytes).map_err(|_| Fault::Field { field, expected: "utf-8", got: shown(bytes) })
    }

    /// Value of a `string` field that is likely the one that an earlier message had: equal texts need no second check.
    #[inline]
    pub(super) fn text_like(&mut self, tag: Tag, field: &'static str, before: &'a str) -> Result<&'a str, Fault> {
        let start = self.at;
        if self.bytes(tag, field)? == before.as_bytes() {
            return Ok(before);
        }
        self.at = start;
        self.text(tag, field)
    }

    /// A message inside this one.
    #[inline]
    pub(super) fn message(&mut self, tag: Tag, field: &'static str) -> Result<Reader<'a>, Fault> {
        let bytes = self.bytes(tag, field)?;
        Ok(Reader { data: bytes, at: 0, base: self.base + self.at - bytes.len() })
    }

    /// Numbers of a repeated field, packed or not; each goes to `each`.
    pub(super) fn numbers(&mut self, tag: Tag, field: &'static str, mut each: impl FnMut(u64)) -> Result<(), Fault> {
        if tag.wire == Wire::Varint {
            each(self.varint(field)?);
            return Ok(());
        }
        let mut packed = self.message(tag, field)?;
        while packed.at < packed.data.len() {
            each(packed.varint(field)?);
        }
        Ok(())
    }

    /// Passes over an unknown field.
    pub(super) fn skip(&mut self, tag: Tag) -> Result<(), Fault> {
        let fixed = match tag.wire {
            Wire::Varint => return self.varint("unknown field").map(drop),
            Wire::Bytes => return self.delimited("unknown field").map(drop),
            Wire::Fixed64 => 8,
            Wire::Fixed32 => 4,
        };
        if self.data.len() - self.at < fixed {
            return Err(self.cut_off("unknown field"));
        }
        self.at += fixed;
        Ok(())
    }

    /// All bytes of this message.
    pub(super) const fn whole(&self) -> &'a [u8] {
        self.data
    }

    #[inline(always)]
    fn expect(&self, tag: Tag, wire: Wire, field: &'static str) -> Result<(), Fault> {
        if tag.wire == wire { Ok(()) } else { Err(mismatch(tag, wire, field)) }
    }

    #[cold]
    fn cut_off(&self, what: &'static str) -> Fault {
        Fault::CutOff { what, at: self.base + self.at }
    }

    #[cold]
    fn malformed(&self, what: &str) -> Fault {
        Fault::Format { expected: "protobuf", got: format!("bad {what} at {}", self.base + self.at) }
    }
}

/// Seven bits of each of eight octets, side by side.
#[inline(always)]
const fn gathered(word: u64) -> u64 {
    let word = word & 0x7f7f_7f7f_7f7f_7f7f;
    let word = word & 0x007f_007f_007f_007f | (word & 0x7f00_7f00_7f00_7f00) >> 1;
    let word = word & 0x0000_3fff_0000_3fff | (word & 0x3fff_0000_3fff_0000) >> 2;
    word & 0x0fff_ffff | (word & 0x0fff_ffff_0000_0000) >> 4
}

#[cold]
fn mismatch(tag: Tag, wire: Wire, field: &'static str) -> Fault {
    Fault::Field { field, expected: wire.name(), got: tag.wire.name().to_owned() }
}

/// A message that holds `body` as its only field `number`, which is below 16: a batch of one.
pub(super) fn batch_of_one(number: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 6);
    out.push(number << 3 | 2);
    let mut len = body.len();
    while len >= 0x80 {
        out.push(len as u8 | 0x80);
        len >>= 7;
    }
    out.push(len as u8);
    out.extend_from_slice(body);
    out
}

/// Elements of a batch by index, each as a batch of one. Elements are the messages in fields 1 to `numbers_max` (below
/// 16), counted together in wire order, as the decoders of batches count them. `rows` is ascending.
pub(super) fn extract(value: &[u8], numbers_max: u8, rows: &[u32], each: &mut dyn FnMut(u32, Vec<u8>)) {
    let mut wanted = rows.iter().copied().peekable();
    let mut reader = Reader::new(value);
    let mut index = 0;
    while wanted.peek().is_some() {
        // The record has been decoded, so there is no fault; if there were, what is left is not found.
        let Ok(Some(tag)) = reader.tag() else { return };
        let Some(number) = u8::try_from(tag.number).ok().filter(|n| *n <= numbers_max) else {
            if reader.skip(tag).is_err() {
                return;
            }
            continue;
        };
        let Ok(body) = reader.bytes(tag, "element") else { return };
        if wanted.next_if_eq(&index).is_some() {
            each(index, batch_of_one(number, body));
        }
        index += 1;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn all(data: &[u8]) -> Result<u32, Fault> {
        let mut reader = Reader::new(data);
        let mut n = 0;
        while let Some(tag) = reader.tag()? {
            reader.skip(tag)?;
            n += 1;
        }
        Ok(n)
    }

    #[test]
    fn varints() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut data = vec![1 << 3];
            prost::encoding::encode_varint(value, &mut data);
            let mut reader = Reader::new(&data);
            let tag = reader.tag().unwrap().unwrap();
            assert_eq!(reader.u64(tag, "n"), Ok(value));
            assert_eq!(reader.tag(), Ok(None));
            for cut in 1..data.len() {
                assert_eq!(all(&data[..cut]), Err(Fault::CutOff { what: "unknown field", at: 1 }));
            }
        }
        assert!(matches!(all(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2]), Err(Fault::Format { .. })));
        assert!(matches!(all(&[8, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]), Err(Fault::Format { .. })));
    }

    #[test]
    fn faults() {
        for data in [&[0u8, 0][..], &[3], &[4], &[6], &[7], &[0xff, 0xff, 0xff, 0xff, 0xff, 1]] {
            assert!(matches!(all(data), Err(Fault::Format { .. })), "{data:?}");
        }
        for data in
            [&[0x0a, 5, 1][..], &[9, 0, 0, 0], &[13, 0, 0], &[0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1], &[0x0a]]
        {
            assert!(matches!(all(data), Err(Fault::CutOff { .. })), "{data:?}");
        }
        let mut reader = Reader::new(&[0x0a, 0]);
        let tag = reader.tag().unwrap().unwrap();
        assert!(matches!(reader.u64(tag, "n"), Err(Fault::Field { field: "n", expected: "varint", .. })));
        assert_eq!(all(&[8, 1, 0x12, 1, 0, 0x19, 0, 0, 0, 0, 0, 0, 0, 0, 0x25, 0, 0, 0, 0]), Ok(4));
    }

    #[test]
    fn positions_are_the_records() {
        let data = batch_of_one(1, &[0x0a, 9, 1]);
        let mut reader = Reader::new(&data);
        let tag = reader.tag().unwrap().unwrap();
        let mut inner = reader.message(tag, "m").unwrap();
        let tag = inner.tag().unwrap().unwrap();
        assert_eq!(inner.bytes(tag, "b"), Err(Fault::CutOff { what: "b", at: 4 }));
        assert_eq!(batch_of_one(1, &[7; 300])[..3], [0x0a, 0xac, 2]);
    }
}
