//! Texts that repeat, once each, by number. Knows no column.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

use super::COLUMNS_MAX;

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    all: String,
    /// End of each text in `all`.
    ends: Vec<u32>,
}

impl Names {
    /// Text of that number; empty where there is none.
    #[inline]
    pub fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = match number.checked_sub(1) {
            Some(before) => self.ends.get(before).copied().unwrap_or(0) as usize,
            None => 0,
        };
        self.ends.get(number).and_then(|end| self.all.get(start..*end as usize)).unwrap_or("")
    }

    /// Texts.
    #[inline]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.all.len() + self.ends.len() * size_of::<u32>()
    }

    fn push(&mut self, text: &str) -> u32 {
        self.all.push_str(text);
        self.ends.push(self.all.len() as u32);
        (self.ends.len() - 1) as u32
    }

    /// Appends ends and texts.
    pub fn write(&self, out: &mut Vec<u8>) {
        self.ends.iter().for_each(|end| out.extend_from_slice(&end.to_le_bytes()));
        out.extend_from_slice(self.all.as_bytes());
    }

    /// Bytes of the texts alone.
    pub fn text_bytes(&self) -> usize {
        self.all.len()
    }

    /// What [`Self::write`] wrote; `None` when the bytes are something else.
    pub fn read(ends: &[u8], text: &[u8]) -> Option<Self> {
        let all = std::str::from_utf8(text).ok()?;
        let mut before = 0;
        let mut numbers = Vec::with_capacity(ends.len() / 4);
        for end in ends.as_chunks::<4>().0 {
            let end = u32::from_le_bytes(*end);
            if end < before || !all.is_char_boundary(end as usize) {
                return None;
            }
            numbers.push(end);
            before = end;
        }
        (before as usize == all.len()).then(|| Self { all: all.to_owned(), ends: numbers })
    }
}

/// Names under construction: finds the number of a text, or gives it the next one.
#[derive(Debug)]
pub(super) struct Naming {
    names: Names,
    index: HashTable<u32>,
    /// Last number of each column, plus one: neighbours are mostly equal.
    last: [u32; COLUMNS_MAX],
}

impl Default for Naming {
    fn default() -> Self {
        Self { names: Names::default(), index: HashTable::new(), last: [0; COLUMNS_MAX] }
    }
}

impl Naming {
    /// Number of a text that a column holds.
    #[inline]
    pub fn number(&mut self, column: usize, text: &str) -> u32 {
        let last = self.last[column % COLUMNS_MAX];
        if last > 0 && self.names.get(last - 1) == text {
            return last - 1;
        }
        let number = self.find(text);
        self.last[column % COLUMNS_MAX] = number + 1;
        number
    }

    fn find(&mut self, text: &str) -> u32 {
        let hash = xxh3_64(text.as_bytes());
        if let Some(number) = self.index.find(hash, |n| self.names.get(*n) == text) {
            return *number;
        }
        let number = self.names.push(text);
        let names = &self.names;
        self.index.insert_unique(hash, number, |n| xxh3_64(names.get(*n).as_bytes()));
        number
    }

    /// The texts so far.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Begins anew.
    pub fn clear(&mut self) {
        self.names.all.clear();
        self.names.ends.clear();
        self.index.clear();
        self.last = [0; COLUMNS_MAX];
    }
}
