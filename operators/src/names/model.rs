//! The name model: how likely a label was made up by a machine. Runs of characters are looked up in a table of small
//! vectors, their sum and the label's shape go through one hidden layer. Trained by `tidewatch-bench train-names`; the
//! weights are compiled in.
//!
//! Always holds: no allocation per name; the same label gives the same score on every machine: sums of integers, then
//! float additions and multiplications in a fixed order, and `libm`.

use super::domain::LABEL_BYTES_MAX;
use super::grams::{BUCKETS, SHAPES, buckets, shape};

/// Numbers per bucket.
pub const WIDTH: usize = 16;

/// Width of the hidden layer.
pub const HIDDEN: usize = 32;

/// Inputs of the hidden layer: the sum of the vectors, and the shape.
pub const INPUTS: usize = WIDTH + SHAPES;

/// First bytes of a model file, with its layout's version.
pub const MAGIC: &[u8; 8] = b"twnames1";

/// Bytes of a model file: 8 of magic, a byte per number of the table, four per other number.
pub const MODEL_BYTES: usize = MAGIC.len() + BUCKETS * WIDTH + 4 * SMALL;

/// Numbers that are not in the table: its scale, the hidden layer with bias, the last with bias, slope and shift of the
/// calibration.
const SMALL: usize = 1 + HIDDEN * (INPUTS + 1) + HIDDEN + 1 + 2;

/// Labels up to so long are too short to tell: any three letters are somebody's initials.
pub const TOO_SHORT_BYTES: usize = 3;

/// Score of a label that the model does not judge (too short, or an internationalised name in its ASCII form, whose
/// letters say nothing about the name): low, but not nothing.
pub const UNJUDGED: f32 = 0.02;

static BYTES: &[u8] = include_bytes!("model.bin");

/// Weights, read from bytes. The table stays where it is.
#[derive(Clone, Debug)]
pub struct Model<'a> {
    table: &'a [u8],
    scale: f32,
    hidden: [[f32; INPUTS]; HIDDEN],
    hidden_bias: [f32; HIDDEN],
    last: [f32; HIDDEN],
    last_bias: f32,
    slope: f32,
    shift: f32,
}

/// How likely a machine made up a label (without dots, lower case), by the model that is compiled in: 0 to 1.
pub fn score_label(label: &str) -> f32 {
    static MODEL: std::sync::LazyLock<Model<'static>> =
        std::sync::LazyLock::new(|| Model::read(BYTES).expect("the file in the project was written by the trainer"));
    MODEL.score(label.as_bytes())
}

impl<'a> Model<'a> {
    /// Reads a model file. `None` = not one of this layout.
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        if bytes.len() != MODEL_BYTES || !bytes.starts_with(MAGIC) {
            return None;
        }
        let (table, small) = bytes[MAGIC.len()..].split_at(BUCKETS * WIDTH);
        let mut numbers = small.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]]));
        let mut next = || numbers.next().filter(|n| n.is_finite());
        let mut model = Self {
            table,
            scale: next()?,
            hidden: [[0.0; INPUTS]; HIDDEN],
            hidden_bias: [0.0; HIDDEN],
            last: [0.0; HIDDEN],
            last_bias: 0.0,
            slope: 0.0,
            shift: 0.0,
        };
        for row in &mut model.hidden {
            for weight in row {
                *weight = next()?;
            }
        }
        for weight in model.hidden_bias.iter_mut().chain(&mut model.last) {
            *weight = next()?;
        }
        for weight in [&mut model.last_bias, &mut model.slope, &mut model.shift] {
            *weight = next()?;
        }
        Some(model)
    }

    /// Score of a label, 0 to 1.
    pub fn score(&self, label: &[u8]) -> f32 {
        if label.len() <= TOO_SHORT_BYTES || label.starts_with(b"xn--") {
            return UNJUDGED;
        }
        let logit = self.slope * self.logit(&label[..label.len().min(LABEL_BYTES_MAX)]) + self.shift;
        1.0 / (1.0 + libm::expf(-logit))
    }

    /// The last layer's sum, before calibration.
    pub fn logit(&self, label: &[u8]) -> f32 {
        let mut sums = [0_i32; WIDTH];
        let mut runs = 0_u32;
        buckets(label, |bucket| {
            let vector = &self.table[bucket * WIDTH..(bucket + 1) * WIDTH];
            for (sum, number) in sums.iter_mut().zip(vector) {
                *sum += i32::from(*number as i8);
            }
            runs += 1;
        });
        // By the root of the number of runs: a long label's evidence is stronger than a short one's, but not by its length.
        let factor = self.scale / libm::sqrtf(runs.max(1) as f32);
        let mut inputs = [0.0_f32; INPUTS];
        for (input, sum) in inputs.iter_mut().zip(sums) {
            *input = sum as f32 * factor;
        }
        inputs[WIDTH..].copy_from_slice(&shape(label));
        let mut logit = self.last_bias;
        for ((weights, bias), last) in self.hidden.iter().zip(self.hidden_bias).zip(self.last) {
            let mut sum = bias;
            for (weight, input) in weights.iter().zip(inputs) {
                sum += weight * input;
            }
            if sum > 0.0 {
                logit += last * sum;
            }
        }
        logit
    }
}
