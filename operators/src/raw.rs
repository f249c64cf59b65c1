//! States as raw little-endian fields, for those of which there are millions: read and written at the speed of memory,
//! without one allocation per record. Inside a snapshot such a state is one string of bytes.
//!
//! Always holds: equal states give equal bytes, and bytes of any other kind give an error, with memory bounded by the
//! bytes themselves.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserializer, Error, Visitor};

/// A state with a raw form.
pub(crate) trait Raw: Sized {
    /// Appends the raw form.
    fn write(&self, out: &mut Vec<u8>);
    /// Reads what [`Self::write`] wrote; `None` when the bytes are something else.
    fn read(input: &mut Input<'_>) -> Option<Self>;
}

/// Bytes still to be read.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of these.
    #[cfg(test)]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Nothing is left.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next `n` bytes.
    pub fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }

    /// The next `n` records of `N` bytes each.
    pub fn records<const N: usize>(&mut self, n: usize) -> Option<&'a [[u8; N]]> {
        Some(self.bytes(n.checked_mul(N)?)?.as_chunks::<N>().0)
    }

    /// A number.
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|b| b[0])
    }

    /// A number.
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// A number.
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number.
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A number.
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// A text of this length.
    pub fn text(&mut self, len: usize) -> Option<&'a str> {
        std::str::from_utf8(self.bytes(len)?).ok()
    }
}

/// Of a record of bytes, the part `[at, at + N)`; the record is long enough.
pub(crate) fn part<const N: usize, const M: usize>(record: &[u8; N], at: usize) -> [u8; M] {
    let mut out = [0; M];
    out.copy_from_slice(&record[at..at + M]);
    out
}

/// For `Serialize`.
pub(crate) fn to_bytes(state: &impl Raw) -> Vec<u8> {
    let mut out = Vec::new();
    state.write(&mut out);
    out
}

/// For `Deserialize`.
pub(crate) fn from_bytes<'de, T: Raw, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Whole<T>(PhantomData<T>);

    impl<T: Raw> Visitor<'_> for Whole<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the raw form of a state")
        }

        fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<T, E> {
            let mut input = Input(bytes);
            let state = T::read(&mut input).ok_or_else(|| E::custom("not the raw form of a state"))?;
            if input.0.is_empty() { Ok(state) } else { Err(E::custom("bytes after the raw form of a state")) }
        }
    }

    deserializer.deserialize_bytes(Whole(PhantomData))
}

/// `Serialize` and `Deserialize` of a type through its raw form.
macro_rules! serde_as_raw {
    ($state:ty) => {
        impl serde::Serialize for $state {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_bytes(&$crate::raw::to_bytes(self))
            }
        }

        impl<'de> serde::Deserialize<'de> for $state {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::raw::from_bytes(deserializer)
            }
        }
    };
}

pub(crate) use serde_as_raw;
