//! Layouts of tunnels in names: how the payload is written, cut and placed, and what is asked for.

use serde::{Deserialize, Serialize};

use crate::event::{Answer, QueryKind};
use crate::random::Random;
use crate::world;

/// How a tunnel's names look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Two long labels of base 32 in front of a constant one, TXT, answered by as much.
    #[default]
    Base32,
    /// One label of hexadecimal, A, no such name: one-way.
    Hex,
    /// Labels of eight letters of base 64 (in lower case), CNAME.
    Base64,
    /// A running number and a short label, NULL: a tunnel that polls and is answered at length.
    Poll,
    /// Words with hyphens behind a constant label, A, with an address.
    Words,
}

const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const HEX: &[u8] = b"0123456789abcdef";
const BASE64: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-_";

/// Words that code four bits each.
const WORDS: [&str; 16] = [
    "acorn", "beacon", "cactus", "dingo", "elbow", "fable", "gravel", "hollow", "ivory", "jacket", "kernel", "ladder", "magnet",
    "nickel", "orchid", "pillow",
];

impl Layout {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Base32, Self::Hex, Self::Base64, Self::Poll, Self::Words];

    /// The `n`-th query under a domain: name, type, answer.
    pub(crate) fn query(self, random: &mut Random, seed: u64, domain: &str, n: u32) -> (String, QueryKind, Answer) {
        match self {
            Self::Base32 => {
                let (first, second) = (text(random, BASE32, 58), text(random, BASE32, 40));
                let reply = text(random, BASE32, 120);
                (format!("{first}.{second}.t.{domain}"), QueryKind::Txt, Answer::Text(reply))
            }
            Self::Hex => (format!("{}.{domain}", text(random, HEX, 60)), QueryKind::A, Answer::NoName),
            Self::Base64 => {
                let labels: Vec<String> = (0..8).map(|_| text(random, BASE64, 8)).collect();
                let reply = format!("{}.{domain}", text(random, BASE64, 40));
                (format!("{}.{domain}", labels.join(".")), QueryKind::Cname, Answer::Text(reply))
            }
            Self::Poll => {
                let reply = text(random, BASE64, 180);
                (format!("r{n}.{}.{domain}", text(random, BASE32, 4)), QueryKind::Null, Answer::Text(reply))
            }
            Self::Words => {
                let words: Vec<&str> = (0..6).map(|_| WORDS[random.below(16) as usize]).collect();
                let name = format!("{}.{}.{domain}", words[..3].join("-"), words[3..].join("-"));
                (name, QueryKind::A, Answer::Address(world::hosting(seed, 78)))
            }
        }
    }
}

/// So many letters by chance.
pub(crate) fn text(random: &mut Random, letters: &[u8], length: usize) -> String {
    (0..length).map(|_| random.one_of(letters).map_or('a', |&b| char::from(b))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_query_is_a_name_that_dns_allows_under_its_domain() {
        for layout in Layout::ALL {
            let mut random = Random::of([5, 6, 7, 8]);
            for n in 0..200 {
                let (name, ..) = layout.query(&mut random, 1, "home.example", n);
                assert!(name.len() <= 253 && name.ends_with(".home.example"), "{name}");
                assert!(name.split('.').all(|l| (1..=63).contains(&l.len())), "{name}");
            }
        }
    }
}
