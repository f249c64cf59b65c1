//! What is learned from benign names alone, before the network: what a letter costs after two others, and which pieces names
//! are cut into. Only costs and hashes leave this file, no name and no word.
//!
//! Always holds: what a benign name is measured by in training was learned from other names, as it will be for names that
//! nobody has seen; the same names give the same bytes.

use std::collections::{BTreeSet, HashMap};

use tidewatch_operators::names::chain::{CHAIN_BYTES, place};
use tidewatch_operators::names::grams::{CODES, Coded};
use tidewatch_operators::names::words::{
    PIECE_BYTES_MAX, PIECE_BYTES_MIN, SLOTS, SLOTS_A_PLACE, WORDS_BYTES, continued, cut, slot,
};

/// Parts of the benign names; each part is measured by a chain learned from the others.
pub const PARTS: usize = 8;

/// Pieces kept, the ones that save most; others are no words.
const PIECES_MAX: usize = 20_000;

/// A piece occurs in so many names at least.
const NAMES_MIN: u32 = 12;

/// Rounds in which names are cut and pieces counted again.
const ROUNDS: usize = 5;

/// How often a word that is known from elsewhere counts without having been met.
const KNOWN_COUNT: f64 = 2.0;

/// The tables.
pub struct Learned {
    /// Learned from all names.
    pub chain: Vec<u8>,
    /// Learned without one part of the names each.
    pub chains: Vec<Vec<u8>>,
    /// Pieces by hash.
    pub words: Vec<u8>,
    /// Their letters, for making names up; the most useful first.
    pub pieces: Vec<String>,
}

impl Learned {
    /// From benign labels and words known from elsewhere.
    pub fn from(benign: &[&String], known: &[String]) -> Self {
        let parts: Vec<Vec<u32>> =
            (0..PARTS).map(|part| counts(benign.iter().skip(part).step_by(PARTS).map(|l| l.as_bytes()))).collect();
        let sum = |without: Option<usize>| -> Vec<u32> {
            let kept = parts.iter().enumerate().filter(|(n, _)| Some(*n) != without);
            kept.fold(vec![0; CHAIN_BYTES], |sum, (_, part)| sum.iter().zip(part).map(|(a, b)| a + b).collect())
        };
        let pieces = pieces(benign, known);
        Self {
            chain: costs(&sum(None)),
            chains: (0..PARTS).map(|part| costs(&sum(Some(part)))).collect(),
            words: table(&pieces),
            pieces: pieces.into_iter().map(|p| p.0).collect(),
        }
    }
}

/// How often each code follows two others.
fn counts<'a>(labels: impl Iterator<Item = &'a [u8]>) -> Vec<u32> {
    let mut counts = vec![0; CHAIN_BYTES];
    for label in labels {
        let coded = Coded::of(label);
        let (mut before, mut last) = (1, 1);
        for &next in &coded.codes()[1..] {
            counts[place(before, last, next)] += 1;
            (before, last) = (last, next);
        }
    }
    counts
}

/// Costs of each code after two others, smoothed by the shorter contexts.
fn costs(counts: &[u32]) -> Vec<u8> {
    let codes = 0..CODES as u8;
    let (mut one, mut two) = (vec![0_u32; CODES], vec![0_u32; CODES * CODES]);
    for before in codes.clone() {
        for last in codes.clone() {
            for next in codes.clone() {
                let count = counts[place(before, last, next)];
                one[usize::from(next)] += count;
                two[usize::from(last) * CODES + usize::from(next)] += count;
            }
        }
    }
    let all: u32 = one.iter().sum();
    let share = |count: u32, of: u32, trust: f64, shorter: f64| (f64::from(count) + trust * shorter) / (f64::from(of) + trust);
    let mut costs = vec![0_u8; CHAIN_BYTES];
    for before in codes.clone() {
        for last in codes.clone() {
            let of_three: u32 = codes.clone().map(|c| counts[place(before, last, c)]).sum();
            let of_two: u32 = two[usize::from(last) * CODES..][..CODES].iter().sum();
            for next in codes.clone() {
                let alone = share(one[usize::from(next)], all, 1.0, 1.0 / CODES as f64);
                let pair = share(two[usize::from(last) * CODES + usize::from(next)], of_two, 10.0, alone);
                let three = share(counts[place(before, last, next)], of_three, 10.0, pair);
                costs[place(before, last, next)] = sixteenths(three);
            }
        }
    }
    costs
}

/// The cost of a probability.
fn sixteenths(probability: f64) -> u8 {
    libm::round(-16.0 * libm::log(probability)).clamp(0.0, 255.0) as u8
}

fn hash(piece: &[u8]) -> u64 {
    piece.iter().fold(0, |hash, letter| continued(hash, *letter))
}

/// The pieces that names are best cut into, with their costs, the most useful first: counted, names cut by them, and counted
/// again as the names were cut.
fn pieces(benign: &[&String], known: &[String]) -> Vec<(String, u8)> {
    let runs: Vec<&[u8]> = benign
        .iter()
        .flat_map(|label| label.as_bytes().split(|b| !b.is_ascii_lowercase()))
        .filter(|run| run.len() >= PIECE_BYTES_MIN)
        .collect();
    let mut met: HashMap<&[u8], u32> = HashMap::new();
    for run in &runs {
        for start in 0..run.len() {
            for len in PIECE_BYTES_MIN..=PIECE_BYTES_MAX.min(run.len() - start) {
                *met.entry(&run[start..start + len]).or_default() += 1;
            }
        }
    }
    let words: BTreeSet<&[u8]> = known
        .iter()
        .map(|w| w.as_bytes())
        .filter(|w| (PIECE_BYTES_MIN..=PIECE_BYTES_MAX).contains(&w.len()) && w.iter().all(u8::is_ascii_lowercase))
        .collect();
    let mut counted: Vec<(&[u8], f64)> =
        met.iter().filter(|(_, n)| **n >= NAMES_MIN).map(|(piece, n)| (*piece, f64::from(*n))).collect();
    counted.extend(words.iter().filter(|w| met.get(*w).is_none_or(|n| *n < NAMES_MIN)).map(|w| (*w, KNOWN_COUNT)));
    counted.sort_unstable_by_key(|c| c.0);
    drop(met);
    for round in 0..ROUNDS {
        let total: f64 = counted.iter().map(|c| c.1).sum();
        let at: HashMap<u64, u32> = counted.iter().zip(0_u32..).map(|((piece, _), n)| (hash(piece), n)).collect();
        // In the first round long pieces are held back by their short parts, which were counted in them.
        let cost: Vec<u8> = counted.iter().map(|(_, n)| sixteenths(n / total)).collect();
        let mut again = vec![0_u32; counted.len()];
        for run in &runs {
            let found = cut(run, |hash| at.get(&hash).map(|n| cost[*n as usize]));
            let mut start = 0;
            for len in found.lens().iter().map(|l| usize::from(*l)) {
                // A run that is one piece says nothing: every name would be a word.
                if len > 1
                    && (len < run.len() || run.len() < 6)
                    && let Some(n) = at.get(&hash(&run[start..start + len]))
                {
                    again[*n as usize] += 1;
                }
                start += len;
            }
        }
        let least = if round + 1 < ROUNDS { 3.0 } else { 4.0 };
        counted = counted
            .iter()
            .zip(again)
            .map(|((piece, _), n)| (*piece, f64::from(n) + if words.contains(piece) { KNOWN_COUNT } else { 0.0 }))
            .filter(|(piece, n)| {
                *n >= least || (words.contains(piece) && *n > KNOWN_COUNT) || (words.contains(piece) && piece.len() > 3)
            })
            .collect();
    }
    let total: f64 = counted.iter().map(|c| c.1).sum();
    counted.sort_by(|a, b| (b.1 * b.0.len() as f64).total_cmp(&(a.1 * a.0.len() as f64)).then(a.0.cmp(b.0)));
    counted.truncate(PIECES_MAX);
    counted.iter().map(|(piece, n)| (String::from_utf8_lossy(piece).into_owned(), sixteenths(n / total))).collect()
}

/// Pieces by hash. Where a place is full, the less useful piece is left out.
fn table(pieces: &[(String, u8)]) -> Vec<u8> {
    let mut table = vec![0_u8; WORDS_BYTES];
    for (piece, cost) in pieces {
        let (first, check) = slot(hash(piece.as_bytes()));
        let free = (first..first + SLOTS_A_PLACE).find(|at| table[2 * at] == 0 && table[2 * at + 1] == 0);
        if let Some(at) = free {
            table[2 * at..2 * at + 2].copy_from_slice(&check.to_le_bytes());
            table[2 * SLOTS + at] = *cost;
        }
    }
    table
}
