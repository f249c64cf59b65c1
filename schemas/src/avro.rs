//! Avro's binary encoding, the part our records need: long, double, string, boolean, blocks. Written here, because what
//! the published schemas promise must also be the same bytes every time (maps in sorted order) and must refuse a datum
//! that ends early; the schema's own library, which tests compare with, does neither.
//!
//! What always holds: equal values give equal bytes; reading never panics, never reads past the datum, and needs at most
//! about 64 times the datum's own bytes (a one-byte list element becomes one value).

/// Largest datum that is read, bytes: the record limit of the topics.
pub const DATUM_BYTES_MAX: usize = 1 << 20;

/// First byte of a value in Confluent framing; four bytes of schema id follow, big-endian.
pub const FRAME_MAGIC: u8 = 0;

/// Why a datum cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AvroError {
    /// Larger than [`DATUM_BYTES_MAX`].
    #[error("datum of {got} bytes exceeds {DATUM_BYTES_MAX}")]
    TooLarge {
        /// Its size.
        got: usize,
    },
    /// It ends too early.
    #[error("cut off: {field} needs more bytes at {at}")]
    CutOff {
        /// Field being read.
        field: &'static str,
        /// Byte position.
        at: usize,
    },
    /// A field holds what it cannot.
    #[error("{field}: expected {expected} at {at}")]
    Field {
        /// Field.
        field: &'static str,
        /// Expected.
        expected: &'static str,
        /// Byte position.
        at: usize,
    },
    /// Bytes follow the datum.
    #[error("{got} bytes follow the datum")]
    Trailing {
        /// How many.
        got: usize,
    },
}

/// A datum in Confluent framing: magic byte, schema id, datum.
pub fn frame(schema_id: u32, datum: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(datum.len() + 5);
    out.push(FRAME_MAGIC);
    out.extend_from_slice(&schema_id.to_be_bytes());
    out.extend_from_slice(datum);
    out
}

/// Schema id and datum of a framed value; `None` when it is not framed.
pub fn unframe(value: &[u8]) -> Option<(u32, &[u8])> {
    let (id, datum) = value.strip_prefix(&[FRAME_MAGIC])?.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*id), datum))
}

/// Writes one datum.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Long, int, enum index, union index, length.
    pub(crate) fn long(&mut self, value: i64) {
        let mut rest = ((value << 1) ^ (value >> 63)) as u64;
        while rest >= 0x80 {
            self.out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        self.out.push(rest as u8);
    }

    /// A count or index. Nothing in memory has more than `i64::MAX` of anything.
    pub(crate) fn count(&mut self, value: usize) {
        self.long(i64::try_from(value).unwrap_or(i64::MAX));
    }

    pub(crate) fn double(&mut self, value: f64) {
        self.out.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.out.push(u8::from(value));
    }

    pub(crate) fn text(&mut self, value: &str) {
        self.count(value.len());
        self.out.extend_from_slice(value.as_bytes());
    }

    /// A union of null and something.
    pub(crate) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.long(0),
            Some(value) => {
                self.long(1);
                write(self, value);
            }
        }
    }

    /// An array or map: one block, then the end.
    pub(crate) fn block<T>(&mut self, items: impl ExactSizeIterator<Item = T>, mut write: impl FnMut(&mut Self, T)) {
        if items.len() > 0 {
            self.count(items.len());
            items.for_each(|item| write(self, item));
        }
        self.long(0);
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// Reads one datum.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Result<Self, AvroError> {
        if bytes.len() > DATUM_BYTES_MAX {
            return Err(AvroError::TooLarge { got: bytes.len() });
        }
        Ok(Self { bytes, at: 0 })
    }

    pub(crate) fn fault(&self, field: &'static str, expected: &'static str) -> AvroError {
        AvroError::Field { field, expected, at: self.at }
    }

    fn take(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], AvroError> {
        let end = self.at.checked_add(len).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(AvroError::CutOff { field, at: self.at })?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(crate) fn long(&mut self, field: &'static str) -> Result<i64, AvroError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(field, 1)?[0];
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(self.fault(field, "a variable-length number of at most 64 bits"))
    }

    /// A number that fits `T`.
    pub(crate) fn number<T: TryFrom<i64>>(&mut self, field: &'static str, expected: &'static str) -> Result<T, AvroError> {
        let value = self.long(field)?;
        T::try_from(value).map_err(|_| self.fault(field, expected))
    }

    /// Always finite: no field of ours can be otherwise.
    pub(crate) fn double(&mut self, field: &'static str) -> Result<f64, AvroError> {
        let mut raw = [0; 8];
        raw.copy_from_slice(self.take(field, 8)?);
        Some(f64::from_le_bytes(raw)).filter(|v| v.is_finite()).ok_or_else(|| self.fault(field, "a finite number"))
    }

    pub(crate) fn flag(&mut self, field: &'static str) -> Result<bool, AvroError> {
        match self.take(field, 1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.fault(field, "0 or 1")),
        }
    }

    pub(crate) fn text(&mut self, field: &'static str) -> Result<String, AvroError> {
        let len = self.number(field, "a length")?;
        let text = std::str::from_utf8(self.take(field, len)?).map_err(|_| self.fault(field, "utf-8"))?;
        Ok(text.to_owned())
    }

    pub(crate) fn option<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&mut Self) -> Result<T, AvroError>,
    ) -> Result<Option<T>, AvroError> {
        match self.long(field)? {
            0 => Ok(None),
            1 => read(self).map(Some),
            _ => Err(self.fault(field, "union branch 0 or 1")),
        }
    }

    /// Calls `read` for every item of an array or map. Every item of ours takes at least one byte, so a count beyond the
    /// bytes that are left is refused before anything is read.
    pub(crate) fn block(
        &mut self,
        field: &'static str,
        mut read: impl FnMut(&mut Self) -> Result<(), AvroError>,
    ) -> Result<(), AvroError> {
        loop {
            let mut count = self.long(field)?;
            if count < 0 {
                // A negative count announces the block's size in bytes, which a reader of everything does not need.
                self.long(field)?;
                count = count.saturating_neg();
            }
            if count == 0 {
                return Ok(());
            }
            if count as u64 > (self.bytes.len() - self.at) as u64 {
                return Err(AvroError::CutOff { field, at: self.at });
            }
            for _ in 0..count {
                read(self)?;
            }
        }
    }

    /// Nothing is left.
    pub(crate) fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn finish(self) -> Result<(), AvroError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            got => Err(AvroError::Trailing { got }),
        }
    }
}

/// A datum through Avro's own library and back: its bytes for what it read.
#[cfg(test)]
pub(crate) fn through_the_library(schema: &str, datum: &[u8]) -> Vec<u8> {
    let schema = apache_avro::Schema::parse_str(schema).expect("test schema");
    let reader = apache_avro::reader::datum::GenericDatumReader::builder(&schema).build().expect("test schema");
    let value = reader.read_value(&mut &datum[..]).expect("the library reads our datum");
    let writer = apache_avro::writer::datum::GenericDatumWriter::builder(&schema).build().expect("test schema");
    writer.write_value_to_vec(value).expect("the library writes what it read")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn longs_are_zigzag_and_read_back() {
        for (value, bytes) in [(0, vec![0u8]), (-1, vec![1]), (1, vec![2]), (-64, vec![127]), (64, vec![128, 1])] {
            let mut w = Writer::default();
            w.long(value);
            assert_eq!(w.finish(), bytes);
        }
        for value in [0, 1, -1, 63, 64, -65, i64::MAX, i64::MIN] {
            let mut w = Writer::default();
            w.long(value);
            let bytes = w.finish();
            let mut r = Reader::new(&bytes).unwrap();
            assert_eq!(r.long("x"), Ok(value));
            r.finish().unwrap();
        }
    }

    #[test]
    fn overlong_numbers_and_counts_are_refused() {
        assert!(matches!(Reader::new(&[0xff; 11]).unwrap().long("x"), Err(AvroError::Field { .. })));
        let mut w = Writer::default();
        w.long(i64::MAX);
        w.long(0);
        let bytes = w.finish();
        assert!(matches!(Reader::new(&bytes).unwrap().block("x", |_| Ok(())), Err(AvroError::CutOff { .. })));
    }

    #[test]
    fn frames_open() {
        assert_eq!(frame(258, b"d"), [0, 0, 0, 1, 2, b'd']);
        assert_eq!(unframe(&[0, 0, 0, 1, 2, b'd']), Some((258, &b"d"[..])));
        assert_eq!(unframe(b"{}"), None);
        assert_eq!(unframe(&[0, 0, 0]), None);
    }
}
