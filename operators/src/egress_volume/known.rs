//! Destinations a host has sent to, in fixed space: a filter of two generations. May take a new destination for a known
//! one (3 in 100 with a hundred known), never a recent one for new.

use serde::{Deserialize, Serialize};

use crate::ahead::ask;

const WORDS: usize = 16;

/// Bits set at which a generation is full and the older one goes: half, about 350 destinations.
const FULL: u32 = 512;

/// A word of the filter, all that is said of one destination: in one line of memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Word {
    now: u64,
    before: u64,
    /// Of the running minute, not yet known.
    fresh: u64,
}

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    /// Bits set in `now`.
    set: u32,
    /// One bit for each word that has something fresh.
    touched: u16,
    words: [Word; WORDS],
}

const _: () = assert!(WORDS <= u16::BITS as usize);

/// Word and bits of a destination.
fn place(peer: u64) -> (usize, u64) {
    ((peer >> 52) as usize % WORDS, 1 << (peer >> 16 & 63) | 1 << (peer >> 40 & 63))
}

impl Known {
    /// Asks for what tells of a destination, and for what the end of a minute changes.
    pub fn ahead(&self, peer: u64) {
        ask(&self.set);
        ask(&self.words[place(peer).0]);
    }

    /// Asks for what becomes known at the end of the minute.
    pub fn ahead_of_turn(&self) {
        self.touched().for_each(|word| ask(&self.words[word]));
    }

    /// Words that have something fresh.
    fn touched(&self) -> impl Iterator<Item = usize> + use<> {
        let mut touched = self.touched;
        std::iter::from_fn(move || {
            let word = touched.trailing_zeros() as usize;
            touched &= touched.wrapping_sub(1);
            (word < WORDS).then_some(word)
        })
    }

    /// Whether it was sent to before this minute.
    pub fn holds(&self, peer: u64) -> bool {
        let (word, bits) = place(peer);
        let Word { now, before, .. } = self.words[word];
        now & bits == bits || before & bits == bits
    }

    /// Sent to in this minute.
    pub fn note(&mut self, peer: u64) {
        let (word, bits) = place(peer);
        self.words[word].fresh |= bits;
        self.touched |= 1 << word;
    }

    /// The minute is over.
    pub fn turn(&mut self) {
        if self.set >= FULL {
            for word in &mut self.words {
                (word.before, word.now) = (word.now, 0);
            }
            self.set = 0;
        }
        for word in self.touched() {
            let word = &mut self.words[word];
            let fresh = std::mem::take(&mut word.fresh);
            self.set += (fresh & !word.now).count_ones();
            word.now |= fresh;
        }
        self.touched = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_to_lately_is_known_and_few_others_are_taken_for_it() {
        let peer = |n: u64| xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes());
        let mut known = Known::default();
        for n in 0..2_000 {
            known.note(peer(n));
            assert!(n > 0 || !known.holds(peer(n)), "known in its own minute");
            if n % 10 == 9 {
                known.turn();
                assert!((n.saturating_sub(250)..=n).all(|n| known.holds(peer(n))), "{n}");
                assert_eq!(known.set, known.words.iter().map(|w| w.now.count_ones()).sum::<u32>());
            }
            if n == 99 {
                let taken = (10_000..20_000).filter(|n| known.holds(peer(*n))).count();
                assert!((200..500).contains(&taken), "{taken} of 10,000");
            }
        }
    }
}
