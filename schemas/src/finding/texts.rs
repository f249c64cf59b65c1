//! A column of texts in one piece: no allocation per row, neither for who writes it nor for who reads it. Its serde form
//! is that of a list of strings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeSeq, Serializer};

/// See the file's header.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Texts {
    all: String,
    /// End of each text in `all`.
    ends: Vec<u32>,
}

/// Texts for which room is made before they are known, at most.
const RESERVED: usize = 1024;

/// Octets of a text, mostly: an address, a name.
const TEXT_BYTES: usize = 16;

impl Texts {
    /// Room for so many texts of an ordinary length.
    pub fn with_capacity(texts: usize) -> Self {
        Self { all: String::with_capacity(texts * TEXT_BYTES), ends: Vec::with_capacity(texts) }
    }

    /// Adds a text. All texts together are less than 4 GiB; what would pass that is added empty.
    pub fn push(&mut self, text: &str) {
        if self.all.len() + text.len() <= u32::MAX as usize {
            self.all.push_str(text);
        }
        self.ends.push(self.all.len() as u32);
    }

    /// Adds what a value is displayed as.
    pub fn push_display(&mut self, value: &impl fmt::Display) {
        let start = self.all.len();
        if fmt::Write::write_fmt(&mut self.all, format_args!("{value}")).is_err() || self.all.len() > u32::MAX as usize {
            self.all.truncate(start);
        }
        self.ends.push(self.all.len() as u32);
    }

    /// Text `i`; empty beyond the last.
    pub fn get(&self, i: usize) -> &str {
        let start = i.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end as usize);
        self.ends.get(i).map_or("", |end| &self.all[start..*end as usize])
    }

    /// The first text.
    pub fn first(&self) -> Option<&str> {
        (!self.ends.is_empty()).then(|| self.get(0))
    }

    /// All texts.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// Adds all texts of another; what would pass 4 GiB is added empty.
    pub fn append(&mut self, other: &Self) {
        let start = self.all.len();
        if start + other.all.len() > u32::MAX as usize {
            other.iter().for_each(|text| self.push(text));
            return;
        }
        self.all.push_str(&other.all);
        self.ends.extend(other.ends.iter().map(|end| start as u32 + end));
    }

    /// Empties it; the room stays.
    pub fn clear(&mut self) {
        self.all.clear();
        self.ends.clear();
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.all.len()
    }

    /// Texts.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// No text.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl fmt::Debug for Texts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl Serialize for Texts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.len()))?;
        for text in self.iter() {
            seq.serialize_element(text)?;
        }
        seq.end()
    }
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Column;

        impl<'de> Visitor<'de> for Column {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of texts")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Texts, A::Error> {
                // By what the bytes say only a little is reserved: a text is at least a byte of them.
                let mut texts = Texts::with_capacity(seq.size_hint().unwrap_or(0).min(RESERVED));
                while let Some(text) = seq.next_element::<&'de str>()? {
                    if texts.all.len() + text.len() > u32::MAX as usize {
                        return Err(A::Error::custom("more than 4 GiB of texts"));
                    }
                    texts.push(text);
                }
                Ok(texts)
            }
        }

        deserializer.deserialize_seq(Column)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn its_form_is_that_of_a_list_of_strings() {
        let list = ["", "a", "", "ü.example", "10.0.0.5"];
        let mut texts = Texts::default();
        list[..4].iter().for_each(|text| texts.push(text));
        texts.push_display(&std::net::Ipv4Addr::new(10, 0, 0, 5));
        let bytes = postcard::to_stdvec(&texts).unwrap();
        assert_eq!(bytes, postcard::to_stdvec(&list.map(str::to_owned).to_vec()).unwrap());
        assert_eq!(postcard::from_bytes::<Texts>(&bytes).unwrap(), texts);
        assert_eq!((texts.iter().collect::<Vec<_>>(), texts.get(5), texts.first()), (list.to_vec(), "", Some("")));
        let mut twice = texts.clone();
        twice.append(&texts);
        assert_eq!((twice.len(), twice.get(8)), (10, "ü.example"));
        assert!(postcard::from_bytes::<Texts>(&bytes[..bytes.len() - 1]).is_err());
    }
}
