//! Destinations a host has sent to, in fixed space: a filter of two generations. May take a new destination for a known
//! one (3 in 100 with a hundred known), never a recent one for new.

use serde::{Deserialize, Serialize};

const WORDS: usize = 16;

/// Bits set at which a generation is full and the older one goes: half, about 350 destinations.
const FULL: u32 = 512;

/// See the file's header.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Known {
    now: [u64; WORDS],
    before: [u64; WORDS],
    /// Of the running minute, not yet known.
    fresh: [u64; WORDS],
    /// Bits set in `now`.
    set: u32,
}

fn places(peer: u64) -> [(usize, u64); 2] {
    [peer >> 16, peer >> 40].map(|h| ((h as usize >> 6) % WORDS, 1 << (h & 63)))
}

impl Known {
    /// Whether it was sent to before this minute.
    pub fn holds(&self, peer: u64) -> bool {
        let at = places(peer);
        [&self.now, &self.before].iter().any(|bits| at.iter().all(|(word, bit)| bits[*word] & bit != 0))
    }

    /// Sent to in this minute.
    pub fn note(&mut self, peer: u64) {
        for (word, bit) in places(peer) {
            self.fresh[word] |= bit;
        }
    }

    /// The minute is over.
    pub fn turn(&mut self) {
        if self.set >= FULL {
            self.before = std::mem::take(&mut self.now);
        }
        for (known, fresh) in self.now.iter_mut().zip(&mut self.fresh) {
            *known |= std::mem::take(fresh);
        }
        self.set = self.now.iter().map(|w| w.count_ones()).sum();
    }
}
