//! Services that answered a host, by hash, in two generations: those of today and those of earlier days. Exact up to its
//! limit.
//!
//! Always holds: what came in today counts as of an earlier day only after [`Known::turn`], which a day that was told of
//! does not get.

use serde::{Deserialize, Serialize};

use crate::limit::Limit;

/// Services kept per generation; at the limit no further one comes in, and none of those makes a sweep.
pub(super) const KNOWN_MAX: usize = 2048;
pub(super) static KNOWN: Limit = Limit::new("KNOWN_MAX");

/// Slots of the smallest set that is not empty.
const SLOTS_MIN: usize = 8;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Set {
    /// A power of two of slots, at most three quarters of them taken; 0 = free.
    slots: Vec<u32>,
    len: u32,
}

impl Set {
    fn place(&self, hash: u32) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        // A free slot is found: a quarter of them is free; a snapshot's may not be, so one turn is enough.
        for _ in 0..=mask {
            if self.slots[at] == 0 || self.slots[at] == hash {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    fn holds(&self, hash: u32) -> bool {
        !self.slots.is_empty() && self.slots[self.place(hash)] == hash
    }

    fn insert(&mut self, hash: u32) {
        self.len = self.len.saturating_add(1);
        if self.len as usize * 4 > self.slots.len() * 3 {
            let wanted = (self.slots.len() * 2).max(SLOTS_MIN);
            let old = std::mem::replace(&mut self.slots, vec![0; wanted]);
            for hash in old.into_iter().filter(|hash| *hash != 0) {
                let place = self.place(hash);
                self.slots[place] = hash;
            }
        }
        let place = self.place(hash);
        self.slots[place] = hash;
    }
}

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    today: Set,
    earlier: Set,
}

impl Known {
    /// Whether it answered, today or before.
    pub fn holds(&self, pair: u64) -> bool {
        let hash = short(pair);
        self.today.holds(hash) || self.earlier.holds(hash)
    }

    /// Takes in one that is not there; false at the limit.
    pub fn insert(&mut self, pair: u64) -> bool {
        let room = (self.today.len as usize) < KNOWN_MAX;
        if room {
            self.today.insert(short(pair));
        } else {
            KNOWN.bites();
        }
        room
    }

    /// A day is over. What it brought counts from now on, unless the day is not to be trusted.
    pub fn turn(&mut self, trusted: bool) {
        let today = std::mem::take(&mut self.today);
        if !trusted {
            return;
        }
        if (self.earlier.len + today.len) as usize > KNOWN_MAX {
            KNOWN.bites();
            self.earlier = today;
            return;
        }
        for hash in today.slots.into_iter().filter(|hash| *hash != 0) {
            if !self.earlier.holds(hash) {
                self.earlier.insert(hash);
            }
        }
    }

    pub fn heap_bytes(&self) -> usize {
        (self.today.slots.len() + self.earlier.slots.len()) * size_of::<u32>()
    }
}

/// 0 marks a free slot.
fn short(pair: u64) -> u32 {
    ((pair >> 32) as u32).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_that_is_not_trusted_teaches_nothing() {
        let mut known = Known::default();
        assert!(known.insert(7 << 32) && known.holds(7 << 32));
        known.turn(true);
        assert!(known.holds(7 << 32) && known.insert(9 << 32));
        known.turn(false);
        assert!(known.holds(7 << 32) && !known.holds(9 << 32));
    }

    #[test]
    fn it_is_bounded_and_says_when_it_is_full() {
        let mut known = Known::default();
        let taken = (1..10_000_u64).filter(|n| known.insert(n << 32)).count();
        assert_eq!(taken, KNOWN_MAX);
        known.turn(true);
        assert!((1..=KNOWN_MAX as u64).all(|n| known.holds(n << 32)) && !known.holds(3000 << 32));
        assert!(known.heap_bytes() <= 2 * 4096 * 4);
    }
}
