//! A label as numbers: hashed runs of 2 to 5 characters, and a dozen measures of its shape. Shared by the model and by the
//! program that trains it, so that both see the same.
//!
//! Always holds: no allocation; the same label gives the same numbers on every machine (integers, and divisions of small
//! integers).

use super::domain::LABEL_BYTES_MAX;

/// Bits of a bucket's index.
pub const BUCKET_BITS: u32 = 15;

/// Buckets that runs of characters are hashed into.
pub const BUCKETS: usize = 1 << BUCKET_BITS;

/// Measures of shape.
pub const SHAPES: usize = 14;

/// Longest run of characters, the ends of the label included.
const RUN_MAX: usize = 5;

/// Runs of the longest label: of two characters and more, each length one place fewer than the one before.
pub const RUNS: usize = (RUN_MAX - 1) * (LABEL_BYTES_MAX + 2) - RUN_MAX * (RUN_MAX - 1) / 2;

/// Characters as the model knows them: 0 nothing, 1 and 2 the ends, letters, digits, hyphen, underscore, all others.
pub const CODES: usize = 42;

/// A label in codes, its ends included; at most 63 characters count.
#[derive(Clone, Copy, Debug)]
pub struct Coded {
    codes: [u8; LABEL_BYTES_MAX + 2],
    len: usize,
}

impl Coded {
    /// Of a label.
    pub fn of(label: &[u8]) -> Self {
        let mut codes = [0_u8; LABEL_BYTES_MAX + 2];
        let mut len = 1;
        codes[0] = 1;
        for byte in label.iter().take(LABEL_BYTES_MAX) {
            codes[len] = code(*byte);
            len += 1;
        }
        codes[len] = 2;
        Self { codes, len: len + 1 }
    }

    /// The codes, each below [`CODES`].
    pub fn codes(&self) -> &[u8] {
        &self.codes[..self.len]
    }
}

/// Calls `each` with the bucket of every run of characters of a label.
pub fn buckets(label: &Coded, mut each: impl FnMut(usize)) {
    let codes = label.codes();
    for start in 0..codes.len() {
        // A leading one tells runs of different lengths apart; 6 bits a character, so five fit.
        let mut run = 1_u64;
        for (n, c) in codes[start..].iter().take(RUN_MAX).enumerate() {
            run = (run << 6) | u64::from(*c);
            if n >= 1 {
                each((run.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - BUCKET_BITS)) as usize);
            }
        }
    }
}

fn code(byte: u8) -> u8 {
    match byte {
        b'a'..=b'z' => 3 + byte - b'a',
        b'0'..=b'9' => 29 + byte - b'0',
        b'-' => 39,
        b'_' => 40,
        _ => 41,
    }
}

fn is_vowel(byte: u8) -> bool {
    matches!(byte, b'a' | b'e' | b'i' | b'o' | b'u')
}

/// Measures of a label's shape, each about 0 to 1.
pub fn shape(label: &[u8]) -> [f32; SHAPES] {
    let label = &label[..label.len().min(LABEL_BYTES_MAX)];
    let (mut digits, mut vowels, mut hyphens, mut hex) = (0_u32, 0_u32, 0_u32, 0_u32);
    let (mut consonant_run, mut consonant_max, mut vowel_run, mut vowel_max) = (0_u32, 0_u32, 0_u32, 0_u32);
    let (mut digit_run, mut digit_max, mut changes, mut doubles, mut rare) = (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
    let mut seen = 0_u64;
    let mut before = 0_u8;
    for &b in label {
        let (digit, vowel) = (b.is_ascii_digit(), is_vowel(b));
        let consonant = b.is_ascii_lowercase() && !vowel;
        digits += u32::from(digit);
        vowels += u32::from(vowel);
        hyphens += u32::from(b == b'-' || b == b'_');
        hex += u32::from(digit || (b'a'..=b'f').contains(&b));
        rare += u32::from(matches!(b, b'j' | b'q' | b'x' | b'z' | b'w' | b'k'));
        consonant_run = if consonant { consonant_run + 1 } else { 0 };
        vowel_run = if vowel { vowel_run + 1 } else { 0 };
        digit_run = if digit { digit_run + 1 } else { 0 };
        consonant_max = consonant_max.max(consonant_run);
        vowel_max = vowel_max.max(vowel_run);
        digit_max = digit_max.max(digit_run);
        if before != 0 {
            changes += u32::from(before.is_ascii_digit() != digit);
            doubles += u32::from(before == b);
        }
        seen |= 1 << code(b);
        before = b;
    }
    let len = label.len() as f32;
    let of = |count: u32| if label.is_empty() { 0.0 } else { count as f32 / len };
    let up_to = |value: f32, most: f32| if value > most { 1.0 } else { value / most };
    [
        up_to(len, 32.0),
        up_to(len, 12.0),
        of(digits),
        of(vowels),
        up_to(hyphens as f32, 3.0),
        up_to(consonant_max as f32, 8.0),
        up_to(vowel_max as f32, 5.0),
        up_to(digit_max as f32, 8.0),
        up_to(changes as f32, 8.0),
        up_to(doubles as f32, 4.0),
        of(seen.count_ones()),
        up_to(seen.count_ones() as f32, 20.0),
        of(rare),
        if hex == label.len() as u32 && digits > 0 { 1.0 } else { 0.0 },
    ]
}
