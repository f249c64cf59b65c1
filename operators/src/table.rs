//! Flat records of one host: a vector in the order in which they came, and a small index that finds one by its hash. What
//! a map of maps spreads over the heap lies here in one piece, is found by touching two lines of memory, and travels as it
//! lies.
//!
//! Not a map: it does not know what makes two records equal, and nothing is ordered by key. Always holds: the order is
//! that of the pushes, removal keeps it, and the bytes counted are a function of the number of records alone, so that a
//! table read back from a snapshot weighs what the written one did.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ahead::{Round, ask, ask_all};

/// A record that can be found again.
pub(crate) trait Record {
    /// Equal keys, equal hashes. Fixed within a process; never written.
    fn hash(&self) -> u64;
}

/// Records up to which looking at each one is as fast as an index.
const SCANNED_MAX: usize = 8;

/// Bits of an index entry that hold a place; the rest are the hash's, so that a foreign record is rarely looked at.
const PLACE_BITS: u32 = 24;
const PLACE_MASK: u32 = (1 << PLACE_BITS) - 1;

/// Records of one table, at most; its owner keeps far below.
pub(crate) const RECORDS_MAX: usize = PLACE_MASK as usize - 1;

const EMPTY: u32 = u32::MAX;

/// See the file's header.
#[derive(Clone, Debug)]
pub(crate) struct Table<R> {
    records: Vec<R>,
    /// A power of two of entries, at most three quarters of them taken; none while records are few.
    index: Vec<u32>,
}

impl<R: Serialize> Serialize for Table<R> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.records.serialize(serializer)
    }
}

impl<'de, R: Record + Deserialize<'de>> Deserialize<'de> for Table<R> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self::of)
    }
}

impl<R> Default for Table<R> {
    fn default() -> Self {
        Self { records: Vec::new(), index: Vec::new() }
    }
}

impl<R: PartialEq> PartialEq for Table<R> {
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records
    }
}

/// Two words into one that is as good as random in its high bits.
pub(crate) fn mixed(a: u64, b: u64) -> u64 {
    let product = u128::from(a ^ 0x9e37_79b9_7f4a_7c15) * u128::from(b ^ 0xd1b5_4a32_d192_ed03);
    (product as u64) ^ ((product >> 64) as u64)
}

/// Entries of an index over so many records.
fn entries(records: usize) -> usize {
    if records <= SCANNED_MAX { 0 } else { (records * 4 / 3 + 1).next_power_of_two() }
}

/// Bytes of a table of so many records of a size: the records with the eighth that growth leaves free on average, and the
/// index.
pub(crate) fn table_bytes<R>(records: usize) -> usize {
    records * size_of::<R>() * 9 / 8 + entries(records) * size_of::<u32>()
}

/// Room for some more elements, growing by an eighth or more: doubling would leave a third of all state empty.
pub(crate) fn grow<T>(vec: &mut Vec<T>, more: usize) {
    if vec.capacity() - vec.len() < more {
        let wanted = served::<T>(vec.len() + more.max(vec.len() / 8).max(4));
        if wanted.saturating_mul(size_of::<T>()) > MOVED_BYTES {
            vec.reserve_exact(wanted - vec.len());
            return;
        }
        // The allocator would have to look up how large the old place is, which lies past the caches; here it is known.
        let mut larger = Vec::with_capacity(wanted);
        larger.append(vec);
        *vec = larger;
    }
}

/// Bytes up to which a vector that grows is moved here: beyond them the allocator may find room behind the old place.
const MOVED_BYTES: usize = 16 << 10;

/// Elements that take what so many take of the allocator, which serves sizes in steps, four to each doubling, as most do: what lies
/// between would be nobody's.
pub(crate) fn served<T>(elements: usize) -> usize {
    let bytes = elements.saturating_mul(size_of::<T>());
    if bytes == 0 {
        return elements;
    }
    let step = (1 << (bytes - 1).max(1).ilog2()) / 4;
    bytes.next_multiple_of(step.max(16)) / size_of::<T>()
}

impl<R: Record> Table<R> {
    /// A table of these records, which differ from one another.
    pub fn of(records: Vec<R>) -> Self {
        let mut table = Self { records, index: Vec::new() };
        table.rebuild();
        table
    }

    /// All records, oldest first.
    pub fn records(&self) -> &[R] {
        &self.records
    }

    /// All records, to be changed in what is not their key.
    pub fn records_mut(&mut self) -> &mut [R] {
        &mut self.records
    }

    /// Records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// No record.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Place of the record with this hash that `is` accepts.
    pub fn find(&self, hash: u64, is: impl Fn(&R) -> bool) -> Option<usize> {
        if self.index.is_empty() {
            return self.records.iter().position(is);
        }
        let mask = self.index.len() - 1;
        let mut at = start(hash, mask);
        let tag = tag(hash);
        loop {
            let entry = self.index[at];
            if entry == EMPTY {
                return None;
            }
            let place = (entry & PLACE_MASK) as usize;
            if entry >> PLACE_BITS == tag && is(&self.records[place]) {
                return Some(place);
            }
            at = (at + 1) & mask;
        }
    }

    /// Asks for the memory in which the record with this hash is found. The records of a table without an index come with
    /// the first round.
    pub fn ahead(&self, hash: u64, round: Round) {
        match round {
            _ if self.index.is_empty() => ask_all(if round == Round::Index { &self.records } else { &[] }),
            Round::Index => ask(&self.index[start(hash, self.index.len() - 1)]),
            Round::Records => self.likely(hash).into_iter().for_each(ask),
            Round::Rest => {}
        }
    }

    /// A record that may be the one with this hash, at the cost of one look: none is compared. `None` without an index.
    pub fn likely(&self, hash: u64) -> Option<&R> {
        self.records.get(self.likely_at(hash)?)
    }

    /// Its place; of an empty entry one beyond all.
    pub fn likely_at(&self, hash: u64) -> Option<usize> {
        let entry = self.index.get(start(hash, self.index.len().wrapping_sub(1)))?;
        Some((entry & PLACE_MASK) as usize)
    }

    /// Adds a record that is not there yet; its place.
    pub fn push(&mut self, record: R) -> usize {
        let place = self.records.len();
        let hash = record.hash();
        grow(&mut self.records, 1);
        self.records.push(record);
        if entries(place + 1) > self.index.len() {
            self.rebuild();
        } else if !self.index.is_empty() {
            insert(&mut self.index, hash, place);
        }
        place
    }

    /// Removes what `keep` does not want; true when something went.
    pub fn retain(&mut self, keep: impl FnMut(&R) -> bool) -> bool {
        let before = self.records.len();
        self.records.retain(keep);
        let gone = self.records.len() < before;
        if gone {
            if self.records.capacity() > 2 * self.records.len() + SCANNED_MAX {
                self.records.shrink_to_fit();
            }
            self.rebuild();
        }
        gone
    }

    fn rebuild(&mut self) {
        let entries = entries(self.records.len());
        if entries == self.index.len() {
            self.index.fill(EMPTY);
        } else {
            self.index = vec![EMPTY; entries];
        }
        if entries > 0 {
            for (place, record) in self.records.iter().enumerate() {
                insert(&mut self.index, record.hash(), place);
            }
        }
    }
}

fn start(hash: u64, mask: usize) -> usize {
    (hash >> 32) as usize & mask
}

fn tag(hash: u64) -> u32 {
    // The last tag would make an entry that looks empty.
    (hash as u32 >> PLACE_BITS).min(0xfe)
}

fn insert(index: &mut [u32], hash: u64, place: usize) {
    let mask = index.len() - 1;
    let mut at = start(hash, mask);
    while index[at] != EMPTY {
        at = (at + 1) & mask;
    }
    index[at] = tag(hash) << PLACE_BITS | (place as u32 & PLACE_MASK);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Number(u64);

    impl Record for Number {
        fn hash(&self) -> u64 {
            // Every eighth number alone begins at a place of its own, and half of them share tags.
            mixed(self.0 / 8, 7)
        }
    }

    fn find(table: &Table<Number>, n: u64) -> Option<usize> {
        table.find(Number(n).hash(), |r| r.0 == n)
    }

    #[test]
    fn what_was_pushed_is_found_at_its_place_through_growth_and_removal() {
        let mut table = Table::default();
        for n in 0..3000 {
            assert_eq!(find(&table, n), None);
            assert_eq!(table.push(Number(n)), n as usize);
            assert_eq!(find(&table, n / 2), Some(n as usize / 2));
        }
        assert!(table.retain(|r| r.0 % 3 == 0));
        for n in 0..3000 {
            assert_eq!(find(&table, n), (n % 3 == 0).then_some(n as usize / 3));
        }
        assert!(table.retain(|r| r.0 < 20) && table.index.is_empty());
        assert_eq!((table.len(), find(&table, 18), find(&table, 21)), (7, Some(6), None));
    }

    #[test]
    fn growth_fills_what_the_allocator_gives_and_takes_no_more_than_a_third_beyond_it() {
        // In octets: 16 to 128 by sixteens, then four steps to each doubling.
        let sizes = [(1, 16), (17, 32), (128, 128), (129, 160), (161, 192), (256, 256), (257, 320), (2240, 2560), (4097, 5120)];
        assert!(sizes.iter().all(|(asked, given)| served::<u8>(*asked) == *given));
        assert_eq!((served::<[u8; 56]>(38), served::<[u8; 56]>(0), served::<()>(7)), (45, 0, 7));
        let mut grown: Vec<[u8; 56]> = Vec::new();
        for n in 1..5000 {
            grow(&mut grown, 1);
            grown.push([0; 56]);
            assert!(grown.capacity() <= n + 4 + n / 3, "{} for {n}", grown.capacity());
        }
    }

    #[test]
    fn a_table_that_shrank_weighs_what_one_that_never_grew_does() {
        let (mut shrunk, mut small) = (Table::default(), Table::default());
        (0..500).for_each(|n| assert!(shrunk.push(Number(n)) < 500));
        shrunk.retain(|r| r.0 < 50);
        (0..50).for_each(|n| assert!(small.push(Number(n)) < 50));
        assert_eq!(shrunk, small);
        assert_eq!((shrunk.index.len(), shrunk.records.capacity() <= 108), (small.index.len(), true));
    }
}
