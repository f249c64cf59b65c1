//! Training of the name model: stochastic gradient descent over labelled names, in one thread and a fixed order, so that
//! the same examples and seed give the same bytes. Knows nothing of families or sources.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked by one index")]

use tidewatch_operators::names::grams::{BUCKETS, SHAPES, buckets, shape};
use tidewatch_operators::names::model::{HIDDEN, INPUTS, MAGIC, MODEL_BYTES, WIDTH};

use super::chance::Chance;

/// A label with what it is.
#[derive(Clone, Debug)]
pub struct Example {
    /// Runs of characters.
    pub buckets: Vec<u16>,
    /// Shape.
    pub shape: [f32; SHAPES],
    /// Made up by a machine.
    pub generated: bool,
    /// How much it counts.
    pub weight: f32,
}

impl Example {
    /// From a label.
    pub fn new(label: &str, generated: bool, weight: f32) -> Self {
        let mut found = Vec::new();
        // A bucket's index has at most 16 bits.
        buckets(label.as_bytes(), |b| found.push(b as u16));
        Self { buckets: found, shape: shape(label.as_bytes()), generated, weight }
    }
}

/// What may be turned.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Passes over the examples.
    pub epochs: u32,
    /// Step at the start; it falls linearly to a tenth.
    pub step: f32,
    /// Share of runs left out at random: no single run may decide.
    pub dropout: f64,
    /// Pull of the table towards zero, per touch.
    pub decay: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { epochs: 3, step: 0.08, dropout: 0.3, decay: 1e-5 }
    }
}

/// A network in training.
pub struct Net {
    table: Vec<[f32; WIDTH]>,
    hidden: Vec<[f32; INPUTS]>,
    hidden_bias: Vec<f32>,
    last: Vec<f32>,
    last_bias: f32,
}

/// Sums of squared gradients (Adagrad).
struct Steps {
    table: Vec<[f32; WIDTH]>,
    hidden: Vec<[f32; INPUTS]>,
    hidden_bias: Vec<f32>,
    last: Vec<f32>,
    last_bias: f32,
}

fn nudge(value: &mut f32, squares: &mut f32, gradient: f32, step: f32) {
    *squares += gradient * gradient;
    *value -= step * gradient / (squares.sqrt() + 1e-6);
}

impl Net {
    /// Trains on examples.
    pub fn train(examples: &[Example], settings: Settings, seed: u64) -> Self {
        let mut chance = Chance::of(seed, "net");
        let mut random = |size: f64| ((chance.unit() * 2.0 - 1.0) * size) as f32;
        let mut net = Self {
            table: (0..BUCKETS).map(|_| [0.0; WIDTH].map(|_: f32| random(0.1))).collect(),
            hidden: (0..HIDDEN).map(|_| [0.0; INPUTS].map(|_: f32| random(0.35))).collect(),
            hidden_bias: vec![0.0; HIDDEN],
            last: (0..HIDDEN).map(|_| random(0.35)).collect(),
            last_bias: 0.0,
        };
        let mut steps = Steps {
            table: vec![[1e-4; WIDTH]; BUCKETS],
            hidden: vec![[1e-2; INPUTS]; HIDDEN],
            hidden_bias: vec![1e-2; HIDDEN],
            last: vec![1e-2; HIDDEN],
            last_bias: 1e-2,
        };
        let mut order: Vec<u32> = (0..examples.len() as u32).collect();
        let total = settings.epochs as usize * examples.len();
        let mut done = 0_usize;
        let mut kept = Vec::new();
        for _ in 0..settings.epochs {
            chance.shuffle(&mut order);
            for &index in &order {
                let example = &examples[index as usize];
                kept.clear();
                kept.extend(example.buckets.iter().copied().filter(|_| !chance.chance(settings.dropout)));
                let step = settings.step * (1.0 - 0.9 * done as f32 / total as f32);
                net.learn(example, &kept, &mut steps, step, settings.decay);
                done += 1;
            }
        }
        net
    }

    fn learn(&mut self, example: &Example, kept: &[u16], steps: &mut Steps, step: f32, decay: f32) {
        let root = 1.0 / (kept.len().max(1) as f32).sqrt();
        let mut inputs = [0.0_f32; INPUTS];
        for b in kept {
            for (input, number) in inputs.iter_mut().zip(&self.table[usize::from(*b)]) {
                *input += number * root;
            }
        }
        inputs[WIDTH..].copy_from_slice(&example.shape);
        let mut active = [0.0_f32; HIDDEN];
        let mut logit = self.last_bias;
        for h in 0..HIDDEN {
            let sum: f32 = self.hidden[h].iter().zip(&inputs).map(|(w, x)| w * x).sum::<f32>() + self.hidden_bias[h];
            active[h] = sum.max(0.0);
            logit += active[h] * self.last[h];
        }
        let probability = 1.0 / (1.0 + libm::expf(-logit));
        let error = (probability - if example.generated { 1.0 } else { 0.0 }) * example.weight;
        let mut back = [0.0_f32; INPUTS];
        for h in 0..HIDDEN {
            if active[h] <= 0.0 {
                continue;
            }
            let error_here = error * self.last[h];
            nudge(&mut self.last[h], &mut steps.last[h], error * active[h], step);
            for i in 0..INPUTS {
                back[i] += error_here * self.hidden[h][i];
                nudge(&mut self.hidden[h][i], &mut steps.hidden[h][i], error_here * inputs[i], step);
            }
            nudge(&mut self.hidden_bias[h], &mut steps.hidden_bias[h], error_here, step);
        }
        nudge(&mut self.last_bias, &mut steps.last_bias, error, step);
        for b in kept {
            let row = &mut self.table[usize::from(*b)];
            let squares = &mut steps.table[usize::from(*b)];
            for i in 0..WIDTH {
                let gradient = back[i] * root + decay * row[i] * example.weight;
                nudge(&mut row[i], &mut squares[i], gradient, step);
            }
        }
    }

    /// The model file: the table in bytes, the rest in floats. `slope` and `shift` calibrate.
    pub fn bytes(&self, slope: f32, shift: f32) -> Vec<u8> {
        let scale = scale_of(self.table.iter().flatten());
        let mut bytes = MAGIC.to_vec();
        // Within -127..=127 by the choice of the scale.
        bytes.extend(self.table.iter().flatten().map(|v| (v / scale).round() as i8 as u8));
        let small = std::iter::once(&scale)
            .chain(self.hidden.iter().flatten())
            .chain(&self.hidden_bias)
            .chain(&self.last)
            .chain([&self.last_bias, &slope, &shift]);
        bytes.extend(small.flat_map(|v| v.to_le_bytes()));
        assert_eq!(bytes.len(), MODEL_BYTES, "the layout is the model's");
        bytes
    }
}

fn scale_of<'a>(numbers: impl Iterator<Item = &'a f32>) -> f32 {
    let most = numbers.fold(0.0_f32, |m, v| m.max(v.abs()));
    if most > 0.0 { most / 127.0 } else { 1.0 }
}
