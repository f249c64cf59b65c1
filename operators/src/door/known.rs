//! Hashes of what a host has met today: one flat piece with open addressing.
//!
//! Always holds: bytes counted follow from the number of hashes alone; a snapshot holds them in order.

use crate::raw::Input;

/// Slots of the smallest set that is not empty.
const SLOTS_MIN: usize = 8;

/// A set of hashes.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// A power of two of slots, at most three quarters of them taken; 0 = free.
    slots: Vec<u64>,
    len: u32,
    /// The hash 0 is one of them.
    zero: bool,
}

/// Slots for so many hashes.
fn slots(len: usize) -> usize {
    if len == 0 { 0 } else { (len * 4).div_ceil(3).next_power_of_two().max(SLOTS_MIN) }
}

impl Known {
    /// Hashes.
    pub fn len(&self) -> usize {
        self.len as usize + usize::from(self.zero)
    }

    /// Whether it was met.
    pub fn contains(&self, hash: u64) -> bool {
        if hash == 0 {
            return self.zero;
        }
        !self.slots.is_empty() && self.slots[self.place(hash)] == hash
    }

    /// Asks for where it would be.
    pub fn ahead(&self, hash: u64) {
        if let Some(slot) = self.slots.get(hash as usize & self.slots.len().wrapping_sub(1)) {
            crate::ahead::ask(slot);
        }
    }

    /// Adds one that is not there.
    pub fn insert(&mut self, hash: u64) {
        if hash == 0 {
            self.zero = true;
            return;
        }
        self.len += 1;
        let wanted = slots(self.len as usize);
        if wanted > self.slots.len() {
            let old = std::mem::replace(&mut self.slots, vec![0; wanted]);
            for hash in old.into_iter().filter(|hash| *hash != 0) {
                let place = self.place(hash);
                self.slots[place] = hash;
            }
        }
        let place = self.place(hash);
        self.slots[place] = hash;
    }

    /// Where a hash is, or would be.
    fn place(&self, hash: u64) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        while self.slots[at] != 0 && self.slots[at] != hash {
            at = (at + 1) & mask;
        }
        at
    }

    pub fn heap_bytes(&self) -> usize {
        slots(self.len as usize) * size_of::<u64>()
    }

    pub fn write(&self, out: &mut Vec<u8>) {
        let mut hashes: Vec<u64> = self.slots.iter().copied().filter(|hash| *hash != 0).collect();
        hashes.extend(self.zero.then_some(0));
        hashes.sort_unstable();
        out.extend_from_slice(&(hashes.len() as u32).to_le_bytes());
        hashes.iter().for_each(|hash| out.extend_from_slice(&hash.to_le_bytes()));
    }

    pub fn read(input: &mut Input<'_>) -> Option<Self> {
        let len = input.u32()? as usize;
        let hashes = input.records::<8>(len)?;
        let zero = usize::from(hashes.first() == Some(&[0; 8]));
        let mut known = Self { slots: vec![0; slots(len - zero)], ..Self::default() };
        for hash in hashes.iter().map(|raw| u64::from_le_bytes(*raw)) {
            if !known.contains(hash) {
                known.insert(hash);
            }
        }
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_met_is_known_and_reads_back() {
        let mut known = Known::default();
        // Half of them would like the same place.
        let hashes: Vec<u64> = (0..1000_u64).map(|i| if i % 2 == 0 { i << 20 } else { i * 77 }).collect();
        for (n, hash) in hashes.iter().enumerate() {
            assert!(!known.contains(*hash));
            known.insert(*hash);
            assert!(known.contains(*hash));
            assert_eq!(known.len(), n + 1);
        }
        let write = |known: &Known| {
            let mut bytes = Vec::new();
            known.write(&mut bytes);
            bytes
        };
        let bytes = write(&known);
        let mut input = Input::new(&bytes);
        let read = Known::read(&mut input).unwrap();
        assert!(input.is_empty() && hashes.iter().all(|hash| read.contains(*hash)) && !read.contains(5));
        assert_eq!((write(&read), read.heap_bytes(), read.slots.len()), (bytes, known.heap_bytes(), known.slots.len()));
    }
}
