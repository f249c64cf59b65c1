//! How many bits a text carries. Not the look of a name: hexadecimal, base 32, base 64, raw octets and words all carry what
//! their letters do not let foresee.
//!
//! Always holds: no allocation; equal texts give equal numbers on every machine.

use libm::log2;

use super::weights::LONG_BYTES;
use crate::names::domain::LABEL_BYTES_MAX;
use crate::names::score_by_chance;

/// Longest text that counts, bytes: a name, or the begin of an answer.
pub(super) const TEXT_BYTES_MAX: usize = 512;

/// What the letters of a text count that looks like words: somebody chose them out of far fewer than their letters could
/// spell.
const WORDS: f64 = 0.25;

/// A text gathered from labels.
pub(super) struct Gathered {
    bytes: [u8; TEXT_BYTES_MAX],
    len: usize,
    /// Letters by what their labels weigh.
    weighed: f64,
    whole: usize,
}

impl Gathered {
    pub(super) fn new() -> Self {
        Self { bytes: [0; TEXT_BYTES_MAX], len: 0, weighed: 0.0, whole: 0 }
    }

    /// Adds a label that weighs so much; what does not fit is left out.
    pub(super) fn push(&mut self, label: &str, weight: f64) {
        let room = &mut self.bytes[self.len..];
        let more = label.len().min(room.len());
        room[..more].copy_from_slice(&label.as_bytes()[..more]);
        self.len += more;
        self.weighed += more as f64 * weight;
        if weight >= 1.0 && !(label.starts_with('_') && label.len() < LONG_BYTES) {
            self.whole += more;
        }
    }

    /// Letters that weigh their whole, without the short labels of services.
    pub(super) fn whole(&self) -> usize {
        self.whole
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Bits of a name's new letters: what their frequencies do not let foresee, a quarter of it when they look like words;
    /// each letter its share, by what its label weighs.
    pub(super) fn bits(&self) -> f64 {
        let text = self.bytes();
        if text.is_empty() {
            return 0.0;
        }
        let start = &text[..text.len().min(LABEL_BYTES_MAX)];
        let score = std::str::from_utf8(start).map_or(1.0, |label| f64::from(score_by_chance(label)));
        bits(text) * (WORDS + (1.0 - WORDS) * score) * (self.weighed / text.len() as f64)
    }
}

/// Bits of a text, from the frequencies of its bytes; of the first [`TEXT_BYTES_MAX`] bytes at most.
pub(super) fn bits(text: &[u8]) -> f64 {
    let text = &text[..text.len().min(TEXT_BYTES_MAX)];
    let mut counts = [0_u16; 256];
    for byte in text {
        counts[usize::from(*byte)] += 1;
    }
    let len = text.len() as f64;
    let spread: f64 = counts.iter().filter(|c| **c > 1).map(|c| f64::from(*c) * log2(f64::from(*c))).sum();
    if text.is_empty() { 0.0 } else { len * log2(len) - spread }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(label: &str) -> f64 {
        let mut gathered = Gathered::new();
        gathered.push(label, 1.0);
        gathered.bits()
    }

    #[test]
    fn encodings_carry_what_they_hold_and_words_and_counters_little() {
        let hex = "5d2301340f59af309420872c7ac913512997f5ed0fcea88b85809b88409a";
        assert!((190.0..=240.0).contains(&of(hex)), "{}", of(hex));
        let base32 = "aaaaqqcwzbpmwzegxvdctqkbkfphis2467vsjt6qcgxun4slqknhhlw6rxpl5t";
        assert!((230.0..=310.0).contains(&of(base32)), "{}", of(base32));
        assert!(of("static-content") < 24.0, "{}", of("static-content"));
        let counter = format!("{:060}", 17);
        assert!(of(&counter) < 25.0, "{}", of(&counter));
        assert_eq!((bits(b""), bits(b"aaaa"), of("")), (0.0, 0.0, 0.0));
    }

    #[test]
    fn a_text_of_any_length_is_bounded() {
        let long = "ab1".repeat(10_000);
        assert!(of(&long) <= 8.0 * TEXT_BYTES_MAX as f64);
    }
}
