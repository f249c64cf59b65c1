//! Made-up tunnels: the same payload in other layouts, one axis at a time, and at other rates. Seeded.

use std::fmt::Write as _;

use tidewatch_generator::random::Random;

use super::Look;

/// Letters of an encoding, as a log shows them (lower case).
pub const ENCODINGS: &[(&str, &str)] = &[
    ("base32", "abcdefghijklmnopqrstuvwxyz234567"),
    ("base16", "0123456789abcdef"),
    ("base64url", "abcdefghijklmnopqrstuvwxyz0123456789-_abcdefghijklmnopqrstuvwxyz"),
    ("custom of 16", "bcdfghjklmnpqrst"),
    ("decimal", "0123456789"),
];

/// Words that code five bits each.
const WORDS: &str = "amber bridge candle desert ember forest garden harbor island jungle kettle lemon marble needle ocean pepper \
                     quarry river silver timber umbrella valley window yellow anchor basket copper dragon engine falcon guitar hammer";

/// How a tunnel's names look and when they come.
#[derive(Clone, Copy)]
pub struct Layout {
    /// Place in [`ENCODINGS`]; beyond it: words.
    pub encoding: usize,
    /// Letters (words) of payload in a name.
    pub letters: usize,
    /// Longest label; words: words a label.
    pub label: usize,
    /// What stands between payload and domain.
    pub behind: &'static str,
    /// What stands in front of the payload.
    pub before: &'static str,
    /// 0 regular, 1 memoryless, 2 bursts of 20.
    pub timing: usize,
    /// Record type.
    pub kind: u16,
    /// Response code.
    pub code: u8,
}

/// The middle of all axes.
pub const PLAIN: Layout = Layout { encoding: 0, letters: 96, label: 48, behind: "", before: "", timing: 0, kind: 1, code: 0 };

/// The axes, one changed at a time: (axis, value, layout).
pub fn axes() -> Vec<(&'static str, &'static str, Layout)> {
    let mut out = vec![("as it is", "", PLAIN)];
    for (n, (name, _)) in ENCODINGS.iter().enumerate().skip(1) {
        out.push(("encoding", *name, Layout { encoding: n, ..PLAIN }));
    }
    out.push(("encoding", "words", Layout { encoding: ENCODINGS.len(), letters: 6, label: 3, ..PLAIN }));
    for (name, letters, label) in [
        ("one label of 60", 60, 60),
        ("one of 32", 32, 32),
        ("one of 16", 16, 16),
        ("labels of 8", 96, 8),
        ("of 4", 60, 4),
        ("of 1", 40, 1),
    ] {
        out.push(("chunks", name, Layout { letters, label, ..PLAIN }));
    }
    out.push(("chunks", "hex, one of 32", Layout { encoding: 1, letters: 32, label: 32, ..PLAIN }));
    out.push(("chunks", "hex, one of 32, no such name", Layout { encoding: 1, letters: 32, label: 32, code: 3, ..PLAIN }));
    for (name, before, behind) in [
        ("behind a label", "www.", ""),
        ("in front of labels", "", ".cdn.static-content"),
        ("between", "img.", ".eu"),
        ("behind an address", "7.113.0.203.", ""),
        ("behind a service", "_a.", ""),
        ("in front of another name", "", ".www.partner.example"),
    ] {
        out.push(("position", name, Layout { before, behind, ..PLAIN }));
    }
    let digest = Layout { before: "5d41402abc4b2a76b9719d911017c592.", code: 3, ..PLAIN };
    out.push(("position", "behind a digest, no such name", digest));
    for (n, name) in ["memoryless", "bursts of 20"].into_iter().enumerate() {
        out.push(("timing", name, Layout { timing: n + 1, ..PLAIN }));
    }
    for (name, kind, code) in [("AAAA", 28, 0), ("TXT", 16, 0), ("NULL", 10, 0), ("A, no such name", 1, 3), ("A, failed", 1, 2)] {
        out.push(("type", name, Layout { kind, code, ..PLAIN }));
    }
    out
}

impl Layout {
    /// Bytes of payload in a name.
    fn bytes(&self) -> f64 {
        let bits = match ENCODINGS.get(self.encoding) {
            Some((_, letters)) => libm::log2(letters.len() as f64),
            None => 5.0,
        };
        bits * self.letters as f64 / 8.0
    }

    fn name(&self, random: &mut Random, domain: &str) -> String {
        let mut out = self.before.to_owned();
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        for n in 0..self.letters {
            let ends = n > 0 && n % self.label == 0;
            match ENCODINGS.get(self.encoding) {
                Some((_, letters)) => {
                    out += if ends { "." } else { "" };
                    out.extend(random.one_of(letters.as_bytes()).map(|b| char::from(*b)));
                }
                None => {
                    out += match (n, ends) {
                        (0, _) => "",
                        (_, true) => ".",
                        _ => "-",
                    };
                    out += random.one_of(&words).copied().unwrap_or("");
                }
            }
        }
        let _ = write!(out, "{}.{domain}", self.behind);
        out
    }

    /// A tunnel under a domain at so many bytes of payload a second for so long.
    pub fn looks(&self, seed: u64, domain: &str, bytes_s: f64, lasts_s: f64) -> Vec<Look> {
        let mut random = Random::of([seed, 1, self.encoding as u64, self.label as u64]);
        let gap_s = self.bytes() / bytes_s;
        let (mut at_s, mut looks) = (gap_s * random.unit(), Vec::new());
        while at_s < lasts_s {
            let name = self.name(&mut random, domain);
            looks.push(Look::of(at_s, name, self.kind, self.code));
            at_s += match self.timing {
                1 => random.exponential(gap_s),
                2 if looks.len() % 20 == 0 => gap_s * 19.5,
                2 => gap_s / 40.0,
                _ => gap_s,
            };
        }
        looks
    }
}
