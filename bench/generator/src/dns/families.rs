//! Families of generated domain names, made up after the ways that real ones use. None is a real family: no name here has
//! ever been anybody's.

use serde::{Deserialize, Serialize};

use crate::random::{Random, mix};

/// How a family makes its names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Letters by chance, 12 to 20; no two hosts ask for the same.
    #[default]
    Letters,
    /// Letters of a multiplicative generator, 8 to 12; all hosts ask for the same.
    Arithmetic,
    /// Hexadecimal digits of a hash, 16 to 28.
    Hex,
    /// Two words of a list, joined.
    Words,
    /// Syllables that change with the day.
    Dated,
}

/// Words that [`Family::Words`] joins.
const WORDS: [&str; 64] = [
    "above",
    "action",
    "afraid",
    "answer",
    "basket",
    "become",
    "beside",
    "bottle",
    "branch",
    "bucket",
    "captain",
    "carry",
    "circle",
    "consider",
    "corner",
    "cotton",
    "dance",
    "decide",
    "doctor",
    "double",
    "early",
    "either",
    "engine",
    "escape",
    "family",
    "father",
    "finger",
    "follow",
    "former",
    "friend",
    "gather",
    "gentle",
    "ground",
    "hammer",
    "heavy",
    "hundred",
    "indeed",
    "journey",
    "kitchen",
    "labor",
    "letter",
    "listen",
    "middle",
    "minute",
    "narrow",
    "nothing",
    "office",
    "partner",
    "picture",
    "prepare",
    "question",
    "reason",
    "remain",
    "school",
    "season",
    "shoulder",
    "simple",
    "station",
    "strange",
    "suppose",
    "therefore",
    "thousand",
    "various",
    "yesterday",
];

impl Family {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Letters, Self::Arithmetic, Self::Hex, Self::Words, Self::Dated];

    /// The `n`-th name that a host asks for on a day (days since 1970). `seed` names the campaign.
    pub fn name(self, seed: u64, day: u64, n: u32, random: &mut Random) -> String {
        let word = mix(&[seed, 91, self as u64, if self == Self::Dated { day } else { 0 }, u64::from(n)]);
        let label: String = match self {
            Self::Letters => {
                let length = 12 + random.below(9);
                (0..length).map(|_| letter(random.below(26))).collect()
            }
            Self::Arithmetic => {
                let mut state = word as u32;
                let length = 8 + word % 5;
                let mut next = || {
                    state = state.wrapping_mul(1_103_515_245).wrapping_add(12_345);
                    letter(u64::from(state >> 16) % 26)
                };
                (0..length).map(|_| next()).collect()
            }
            Self::Hex => format!("{:016x}{:016x}", word, mix(&[word]))[..16 + (word % 13) as usize].to_owned(),
            Self::Words => {
                let of = |shift: u32| WORDS[(word >> shift) as usize % WORDS.len()];
                format!("{}{}", of(0), of(13))
            }
            Self::Dated => {
                let (consonants, vowels) = (b"bcdfghklmnprstvz", b"aeiou");
                let syllable = |k: u64| {
                    let part = word >> (7 * k);
                    [consonants[part as usize % 16], vowels[(part >> 4) as usize % 5]]
                };
                (0..4 + word % 2).flat_map(syllable).map(char::from).collect()
            }
        };
        format!("{label}.example")
    }
}

fn letter(n: u64) -> char {
    char::from(b'a' + n as u8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_family_has_many_names_and_the_same_for_the_same_seed() {
        for family in Family::ALL {
            let names = |day| -> BTreeSet<String> {
                let mut random = Random::of([1, 2, 3, 4]);
                (0..300).map(|n| family.name(7, day, n, &mut random)).collect()
            };
            let (one, again, later) = (names(1), names(1), names(2));
            assert!(one.len() > 280 && one == again, "{family:?}: {}", one.len());
            assert_eq!(one == later, family != Family::Dated, "{family:?}");
            assert!(one.iter().all(|n| n.len() >= 16 && n.ends_with(".example")), "{family:?}");
        }
    }
}
