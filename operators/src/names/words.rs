//! Words in a label: the cheapest way to cut it into pieces that ordinary names are made of, and single letters. The pieces
//! are learned from benign names and kept as hashes with a cost. Decides nothing.
//!
//! Always holds: no allocation; integers alone, so that the same label is cut alike on every machine; any bytes are a table.

use super::domain::LABEL_BYTES_MAX;

/// Shortest piece, letters.
pub const PIECE_BYTES_MIN: usize = 3;
/// Longest piece, letters.
pub const PIECE_BYTES_MAX: usize = 12;

/// Slots of the table, four to a place.
pub const SLOTS: usize = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 15;

/// Slots that share a place.
pub const SLOTS_A_PLACE: usize = 4;

/// Bytes of the table: a check of two bytes a slot, then a cost of one byte a slot.
pub const WORDS_BYTES: usize = 3 * SLOTS;

/// Numbers that [`measures`] gives.
pub const WORD_MEASURES: usize = 12;

/// What a character in no piece costs, sixteenths of a nat.
const LETTER_COST: u32 = 88;
const DIGIT_COST: u32 = 64;
const HYPHEN_COST: u32 = 16;

/// A label in pieces.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// Sixteenths of a nat in all.
    pub cost: u32,
    lens: [u8; LABEL_BYTES_MAX],
    count: usize,
}

impl Cut {
    /// Lengths of the pieces in order; 1 = a character in no piece.
    pub fn lens(&self) -> &[u8] {
        &self.lens[..self.count]
    }
}

/// Hash of the beginning of a piece continued by a letter; it begins with 0.
pub fn continued(hash: u64, letter: u8) -> u64 {
    (hash ^ u64::from(letter)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
}

/// The slots in which a piece may lie, and what its check is there.
pub fn slot(hash: u64) -> (usize, u16) {
    let mixed = hash.wrapping_mul(0xd6e8_feb8_6659_fd93);
    // The check is never that of an empty slot.
    ((mixed >> (64 - SLOT_BITS)) as usize / SLOTS_A_PLACE * SLOTS_A_PLACE, (mixed as u16) | 1)
}

/// The cost of a piece in a table of [`WORDS_BYTES`].
fn find(table: &[u8], hash: u64) -> Option<u8> {
    let (first, check) = slot(hash);
    (first..first + SLOTS_A_PLACE)
        .find(|at| u16::from_le_bytes([table[2 * at], table[2 * at + 1]]) == check)
        .map(|at| table[2 * SLOTS + at])
}

/// The cheapest cut of a label, by the cost of a piece's hash.
pub fn cut(label: &[u8], mut cost: impl FnMut(u64) -> Option<u8>) -> Cut {
    let label = &label[..label.len().min(LABEL_BYTES_MAX)];
    let mut best = [u32::MAX; LABEL_BYTES_MAX + 1];
    let mut by = [1_u8; LABEL_BYTES_MAX + 1];
    best[0] = 0;
    for start in 0..label.len() {
        let here = best[start];
        let alone = match label[start] {
            b'a'..=b'z' => LETTER_COST,
            b'0'..=b'9' => DIGIT_COST,
            b'-' => HYPHEN_COST,
            _ => LETTER_COST,
        };
        if here + alone < best[start + 1] {
            (best[start + 1], by[start + 1]) = (here + alone, 1);
        }
        let mut hash = 0;
        for (n, letter) in label[start..].iter().take(PIECE_BYTES_MAX).enumerate() {
            if !letter.is_ascii_lowercase() {
                break;
            }
            hash = continued(hash, *letter);
            let len = n + 1;
            if len >= PIECE_BYTES_MIN
                && let Some(piece) = cost(hash)
                && here + u32::from(piece) < best[start + len]
            {
                // At most PIECE_BYTES_MAX.
                (best[start + len], by[start + len]) = (here + u32::from(piece), len as u8);
            }
        }
    }
    let mut cut = Cut { cost: best[label.len()], lens: [0; LABEL_BYTES_MAX], count: 0 };
    let mut end = label.len();
    while end > 0 {
        cut.lens[cut.count] = by[end];
        cut.count += 1;
        end -= usize::from(by[end]);
    }
    cut.lens[..cut.count].reverse();
    cut
}

/// Measures of a label by a table of [`WORDS_BYTES`], each about 0 to 1.
pub fn measures(table: &[u8], label: &[u8]) -> [f32; WORD_MEASURES] {
    let label = &label[..label.len().min(LABEL_BYTES_MAX)];
    let cut = cut(label, |hash| find(table, hash));
    let (mut covered, mut counts) = ([0_u32; 3], [0_u32; 3]);
    let (mut longest, mut alone, mut run, mut runs) = (0_u32, 0_u32, 0_u32, 0_u32);
    let mut shortest = PIECE_BYTES_MAX as u32;
    for len in cut.lens().iter().map(|l| u32::from(*l)) {
        if len == 1 {
            alone += 1;
            run += 1;
            runs = runs.max(run);
            continue;
        }
        run = 0;
        longest = longest.max(len);
        shortest = shortest.min(len);
        for (at, least) in [3, 4, 6].into_iter().enumerate() {
            if len >= least {
                covered[at] += len;
                counts[at] += 1;
            }
        }
    }
    let len = label.len().max(1) as f32;
    [
        cut.cost as f32 / (len * 80.0),
        cut.cost.min(1600) as f32 / 1600.0,
        covered[0] as f32 / len,
        covered[1] as f32 / len,
        covered[2] as f32 / len,
        counts[0].min(6) as f32 / 6.0,
        counts[1].min(6) as f32 / 6.0,
        counts[2].min(4) as f32 / 4.0,
        longest as f32 / PIECE_BYTES_MAX as f32,
        if alone == 0 { shortest as f32 / 8.0 } else { 0.0 },
        alone as f32 / len,
        runs.min(10) as f32 / 10.0,
    ]
}
