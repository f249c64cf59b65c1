//! The name model: how likely a label was made up by a machine, and in which way: by chance, or from words. Four views of the
//! label go through one hidden layer: hashed runs of characters (the sum of their vectors), filters that look for five
//! characters in a row (each one's highest answer), what its letters cost after each other and as words, and its shape.
//! Three such networks, trained from different beginnings, are asked and their answers averaged: each has its own whims.
//! Trained by `tidewatch-bench train-names`; the weights are compiled in.
//!
//! Always holds: no allocation per name; the same label gives the same score on every machine: sums of integers, then
//! float additions and multiplications in a fixed order, and `libm`.

use arrayvec::ArrayVec;

use super::chain::{self, CHAIN_BYTES, CHAIN_MEASURES};
use super::domain::LABEL_BYTES_MAX;
use super::grams::{BUCKETS, CODES, Coded, RUNS, SHAPES, buckets, shape};
use super::words::{self, WORD_MEASURES, WORDS_BYTES};

/// Networks whose answers are averaged.
pub const MEMBERS: usize = 3;

/// Numbers per bucket and network.
pub const WIDTH: usize = 16;

/// Filters.
pub const FILTERS: usize = 32;
/// Characters in a row that a filter sees.
pub const FILTER_CODES: usize = 5;

/// Measures of a label: its shape, its chain of letters, its words.
pub const MEASURES: usize = SHAPES + CHAIN_MEASURES + WORD_MEASURES;

/// Inputs of the hidden layer: the sum of the vectors, the filters, the measures.
pub const INPUTS: usize = WIDTH + FILTERS + MEASURES;

/// Width of the hidden layer.
pub const HIDDEN: usize = 32;

/// What a label may be: somebody's name, made up by chance, made up from words.
pub const CLASSES: usize = 3;

/// First bytes of a model file, with its layout's version.
pub const MAGIC: &[u8; 8] = b"twnames2";

/// Numbers of the filters: of each place, code and filter.
pub const FILTER_NUMBERS: usize = FILTER_CODES * CODES * FILTERS;

/// Numbers of a bucket: those of the networks one after the other.
pub const ROW: usize = MEMBERS * WIDTH;

/// Bytes of a model file: 8 of magic, the two tables learned from benign names, a byte per number of the runs' vectors,
/// four per other number.
pub const MODEL_BYTES: usize = MAGIC.len() + CHAIN_BYTES + WORDS_BYTES + BUCKETS * ROW + 4 * (MEMBERS * SMALL + 2);

/// Numbers of a network that are not in a table: its vectors' scale, filters with bias, the hidden layer with bias, the last
/// with bias. Slope and shift of the calibration follow those of all networks.
const SMALL: usize = 1 + FILTER_NUMBERS + FILTERS + HIDDEN * (INPUTS + 1) + CLASSES * (HIDDEN + 1);

/// Labels up to so long are too short to tell: any three letters are somebody's initials.
pub const TOO_SHORT_BYTES: usize = 3;

/// Score of a label that the model does not judge (too short, or an internationalised name in its ASCII form, whose
/// letters say nothing about the name): low, but not nothing.
pub const UNJUDGED: f32 = 0.02;

static BYTES: &[u8] = include_bytes!("model.bin");

/// Weights, read from bytes. The tables stay where they are.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    chain: &'a [u8],
    words: &'a [u8],
    table: &'a [u8],
    members: Vec<Member>,
    slope: f32,
    shift: f32,
}

/// One of the networks.
#[derive(Clone, Debug)]
struct Member {
    scale: f32,
    filters: Vec<[f32; FILTERS]>,
    filter_bias: [f32; FILTERS],
    hidden: Vec<[f32; HIDDEN]>,
    hidden_bias: [f32; HIDDEN],
    last: [[f32; HIDDEN]; CLASSES],
    last_bias: [f32; CLASSES],
}

/// What the model says of a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judged {
    /// How likely a machine made it up, before calibration: log-odds.
    pub logit: f32,
    /// If so, how likely by chance and not from words: 0 to 1.
    pub by_chance: f32,
}

/// How likely a machine made up a label (without dots, lower case), by the model that is compiled in: 0 to 1.
pub fn score_label(label: &str) -> f32 {
    shipped().score(label.as_bytes())
}

/// How likely a label was made up letter by letter, not from words: 0 to 1, never above [`score_label`].
pub fn score_by_chance(label: &str) -> f32 {
    shipped().score_by_chance(label.as_bytes())
}

fn shipped() -> &'static Model<'static> {
    static MODEL: std::sync::LazyLock<Model<'static>> =
        std::sync::LazyLock::new(|| Model::read(BYTES).expect("the file in the project was written by the trainer"));
    &MODEL
}

/// The measures of a label, by the two tables learned from benign names.
pub fn measures(chain: &[u8], words: &[u8], label: &[u8], coded: &Coded) -> [f32; MEASURES] {
    let mut all = [0.0; MEASURES];
    all[..SHAPES].copy_from_slice(&shape(label));
    all[SHAPES..SHAPES + CHAIN_MEASURES].copy_from_slice(&chain::measures(chain, coded));
    all[SHAPES + CHAIN_MEASURES..].copy_from_slice(&words::measures(words, label));
    all
}

/// Calls `each` with every place of a label that a filter looks at: a code for each of its characters, 0 beyond the end.
pub fn windows(coded: &Coded, mut each: impl FnMut([usize; FILTER_CODES])) {
    let codes = coded.codes();
    for start in 0..codes.len() - 1 {
        let mut window = [0; FILTER_CODES];
        for (place, code) in window.iter_mut().zip(&codes[start..]) {
            *place = usize::from(*code);
        }
        each(window);
    }
}

// Sums of a row's numbers over all runs of a label are that small: twice as many fit a register.
const _: () = assert!(RUNS * 128 <= i16::MAX as usize);

impl<'a> Model<'a> {
    /// Reads a model file. `None` = not one of this layout.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() != MODEL_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let (chain, rest) = bytes[MAGIC.len()..].split_at(CHAIN_BYTES);
        let (words, rest) = rest.split_at(WORDS_BYTES);
        let (table, small) = rest.split_at(BUCKETS * ROW);
        let mut numbers = small.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut next = || numbers.next().filter(|n| n.is_finite());
        let members = (0..MEMBERS).map(|_| Member::read(&mut next)).collect::<Option<_>>()?;
        Some(Self { chain, words, table, members, slope: next()?, shift: next()? })
    }

    /// Score of a label, 0 to 1.
    pub fn score(&self, label: &[u8]) -> f32 {
        if is_unjudged(label) {
            return UNJUDGED;
        }
        self.calibrated(self.judge(label).logit)
    }

    /// Score of a label as made up letter by letter, 0 to 1.
    pub fn score_by_chance(&self, label: &[u8]) -> f32 {
        if is_unjudged(label) {
            return UNJUDGED;
        }
        let judged = self.judge(label);
        let score = self.calibrated(judged.logit) * judged.by_chance;
        if score.is_nan() { UNJUDGED } else { score }
    }

    fn calibrated(&self, logit: f32) -> f32 {
        // Finite weights may still add up to what is no number; that is nothing to judge by.
        let score = 1.0 / (1.0 + libm::expf(-(self.slope * logit + self.shift)));
        if score.is_nan() { UNJUDGED } else { score }
    }

    /// What the networks say on average, before calibration.
    pub fn judge(&self, label: &[u8]) -> Judged {
        let label = &label[..label.len().min(LABEL_BYTES_MAX)];
        let coded = Coded::of(label);
        let measures = measures(self.chain, self.words, label, &coded);
        let mut runs = ArrayVec::<usize, RUNS>::new();
        buckets(&coded, |bucket| runs.push(bucket));
        let sums = self.sums(&runs);
        // By the root of the number of runs: a long label's evidence is stronger than a short one's, but not by its length.
        let factor = 1.0 / libm::sqrtf(runs.len().max(1) as f32);
        let mut judged = Judged { logit: 0.0, by_chance: 0.0 };
        for (member, sums) in self.members.iter().zip(sums.chunks_exact(WIDTH)) {
            let mut inputs = [0.0_f32; INPUTS];
            for (input, sum) in inputs.iter_mut().zip(sums) {
                *input = f32::from(*sum) * (member.scale * factor);
            }
            inputs[WIDTH..WIDTH + FILTERS].copy_from_slice(&member.filtered(&coded));
            inputs[WIDTH + FILTERS..].copy_from_slice(&measures);
            let one = member.judge(&inputs);
            judged.logit += one.logit / MEMBERS as f32;
            judged.by_chance += one.by_chance / MEMBERS as f32;
        }
        judged
    }

    /// The sum of the rows of these buckets. On its own, so that the sums stay in registers from the first row to the last.
    #[inline(never)]
    fn sums(&self, buckets: &[usize]) -> [i16; ROW] {
        let mut sums = [0_i16; ROW];
        for bucket in buckets {
            let row = &self.table[bucket * ROW..(bucket + 1) * ROW];
            for (sum, number) in sums.iter_mut().zip(row) {
                *sum += i16::from(*number as i8);
            }
        }
        sums
    }
}

impl Member {
    fn read(next: &mut impl FnMut() -> Option<f32>) -> Option<Self> {
        let mut member = Self {
            scale: next()?,
            filters: vec![[0.0; FILTERS]; FILTER_CODES * CODES],
            filter_bias: [0.0; FILTERS],
            hidden: vec![[0.0; HIDDEN]; INPUTS],
            hidden_bias: [0.0; HIDDEN],
            last: [[0.0; HIDDEN]; CLASSES],
            last_bias: [0.0; CLASSES],
        };
        let small = member.filters.iter_mut().flatten().chain(&mut member.filter_bias);
        let small = small.chain(member.hidden.iter_mut().flatten()).chain(&mut member.hidden_bias);
        for weight in small.chain(member.last.iter_mut().flatten()).chain(&mut member.last_bias) {
            *weight = next()?;
        }
        Some(member)
    }

    /// The highest answer of each filter, 0 at least.
    fn filtered(&self, coded: &Coded) -> [f32; FILTERS] {
        let mut highest = [0.0_f32; FILTERS];
        windows(coded, |window| {
            let mut answer = self.filter_bias;
            for (place, code) in window.into_iter().enumerate() {
                for (sum, number) in answer.iter_mut().zip(&self.filters[place * CODES + code]) {
                    *sum += number;
                }
            }
            for (most, answer) in highest.iter_mut().zip(answer) {
                *most = if answer > *most { answer } else { *most };
            }
        });
        highest
    }

    fn judge(&self, inputs: &[f32; INPUTS]) -> Judged {
        // By input and not by neuron: neighbours in memory are added side by side.
        let mut sums = self.hidden_bias;
        for (weights, input) in self.hidden.iter().zip(inputs) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum += weight * input;
            }
        }
        let mut classes = self.last_bias;
        for (class, weights) in classes.iter_mut().zip(&self.last) {
            for (weight, sum) in weights.iter().zip(sums) {
                *class += weight * sum.max(0.0);
            }
        }
        let [benign, chance, words] = classes;
        let most = chance.max(words);
        let (chance, words) = (libm::expf(chance - most), libm::expf(words - most));
        Judged { logit: most + libm::logf(chance + words) - benign, by_chance: chance / (chance + words) }
    }
}

fn is_unjudged(label: &[u8]) -> bool {
    label.len() <= TOO_SHORT_BYTES || label.starts_with(b"xn--")
}
