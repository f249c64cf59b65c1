//! Training of the name model: stochastic gradient descent over labelled names, each network in one thread and a fixed order,
//! so that the same examples and seed give the same bytes. Knows nothing of families or sources.

#![allow(clippy::needless_range_loop, reason = "several arrays are walked by one index")]

use tidewatch_operators::names::grams::{BUCKETS, CODES, Coded, buckets};
use tidewatch_operators::names::model::{
    CLASSES, FILTER_CODES, FILTERS, HIDDEN, INPUTS, MAGIC, MEASURES, MEMBERS, MODEL_BYTES, WIDTH, measures, windows,
};

use super::chance::Chance;
use super::learned::{Learned, PARTS};

/// What a label is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Somebody's name.
    Benign,
    /// Made up letter by letter.
    Chance,
    /// Made up from words.
    Words,
}

/// A label with what it is.
#[derive(Clone, Debug)]
pub struct Example {
    coded: Coded,
    measures: [f32; MEASURES],
    class: Class,
    weight: f32,
}

impl Example {
    /// From a label that counts `weight`; `part` = the part of the benign names whose chain it must not be measured by.
    pub fn new(label: &str, class: Class, weight: f32, learned: &Learned, part: usize) -> Self {
        let coded = Coded::of(label.as_bytes());
        let measures = measures(&learned.chains[part % PARTS], &learned.words, label.as_bytes(), &coded);
        Self { coded, measures, class, weight }
    }

    /// How much it counts.
    pub fn weight(&self) -> f32 {
        self.weight
    }
}

/// What may be turned.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Passes over the examples.
    pub epochs: u32,
    /// Step of the runs' vectors and the filters at the start, and of the layers; both fall linearly to a twentieth.
    pub step: f32,
    pub layer_step: f32,
    /// Share of runs left out at random: no single run may decide.
    pub dropout: f64,
    /// Share of hidden neurons left out.
    pub hidden_dropout: f64,
    /// Pull of the vectors towards zero, per touch.
    pub decay: f32,
}

impl Default for Settings {
    fn default() -> Self {
        Self { epochs: 4, step: 0.03, layer_step: 0.02, dropout: 0.5, hidden_dropout: 0.1, decay: 1e-5 }
    }
}

/// Examples between two steps of the layers.
const BATCH: usize = 8;

/// Numbers of a network: its weights, their gradients, or their sums of squared gradients (Adagrad).
struct Numbers {
    table: Vec<[f32; WIDTH]>,
    filters: Vec<[f32; FILTERS]>,
    filter_bias: [f32; FILTERS],
    hidden: Vec<[f32; HIDDEN]>,
    hidden_bias: [f32; HIDDEN],
    last: [[f32; HIDDEN]; CLASSES],
    last_bias: [f32; CLASSES],
}

impl Numbers {
    fn of(mut number: impl FnMut(Kind) -> f32) -> Self {
        Self {
            table: (0..BUCKETS).map(|_| std::array::from_fn(|_| number(Kind::Table))).collect(),
            filters: (0..FILTER_CODES * CODES).map(|_| std::array::from_fn(|_| number(Kind::Filter))).collect(),
            filter_bias: [number(Kind::Bias); FILTERS],
            hidden: (0..INPUTS).map(|_| std::array::from_fn(|_| number(Kind::Layer))).collect(),
            hidden_bias: [number(Kind::Bias); HIDDEN],
            last: std::array::from_fn(|_| std::array::from_fn(|_| number(Kind::Layer))),
            last_bias: [number(Kind::Bias); CLASSES],
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Table,
    Filter,
    Layer,
    Bias,
}

/// A network in training.
pub struct Net {
    weights: Numbers,
}

fn nudge(value: &mut f32, squares: &mut f32, gradient: f32, step: f32) {
    *squares += gradient * gradient;
    *value -= step * gradient / (squares.sqrt() + 1e-6);
}

fn nudge_all<const N: usize>(values: &mut [f32; N], squares: &mut [f32; N], gradients: &mut [f32; N], step: f32) {
    for i in 0..N {
        squares[i] += gradients[i] * gradients[i];
        values[i] -= step * gradients[i] / (squares[i].sqrt() + 1e-6);
        gradients[i] = 0.0;
    }
}

impl Net {
    /// Trains on examples.
    pub fn train(examples: &[Example], settings: Settings, seed: u64) -> Self {
        let mut chance = Chance::of(seed, "net");
        let mut random = |size: f64| ((chance.unit() * 2.0 - 1.0) * size) as f32;
        let weights = Numbers::of(|kind| match kind {
            Kind::Table => random(0.1),
            Kind::Filter => random(0.2),
            Kind::Layer => random(0.15),
            Kind::Bias => 0.0,
        });
        let squares = Numbers::of(|kind| match kind {
            Kind::Table => 1e-4,
            Kind::Filter | Kind::Layer | Kind::Bias => 1e-3,
        });
        let mut gradients = Numbers::of(|_| 0.0);
        gradients.table = Vec::new();
        gradients.filters = Vec::new();
        let mut run = Run { net: Self { weights }, squares, gradients, settings, runs: Vec::new(), kept: Vec::new() };
        let mut order: Vec<u32> = (0..examples.len() as u32).collect();
        let total = settings.epochs as usize * examples.len();
        let mut done = 0_usize;
        for _ in 0..settings.epochs {
            chance.shuffle(&mut order);
            for &index in &order {
                let pace = 1.0 - 0.95 * done as f32 / total as f32;
                run.learn(&examples[index as usize], pace, &mut chance);
                done += 1;
                if done.is_multiple_of(BATCH) {
                    run.step(pace);
                }
            }
        }
        run.net
    }

    fn scale(&self) -> f32 {
        scale_of(self.weights.table.iter().flatten())
    }

    fn small(&self) -> impl Iterator<Item = &f32> {
        let w = &self.weights;
        let small = w.filters.iter().flatten().chain(&w.filter_bias).chain(w.hidden.iter().flatten()).chain(&w.hidden_bias);
        small.chain(w.last.iter().flatten()).chain(&w.last_bias)
    }
}

/// The networks of a model, each from its own beginning, side by side.
pub fn networks(examples: &[Example], settings: Settings, seed: u64) -> Vec<Net> {
    std::thread::scope(|scope| {
        let start = |n| scope.spawn(move || Net::train(examples, settings, seed.wrapping_mul(1000) + n as u64));
        let running: Vec<_> = (0..MEMBERS).map(start).collect();
        running.into_iter().map(|thread| thread.join().expect("training does not panic")).collect()
    })
}

/// The model file: tables, vectors in bytes, the rest in floats. `slope` and `shift` calibrate.
pub fn bytes(nets: &[Net], learned: &Learned, (slope, shift): (f32, f32)) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(&learned.chain);
    bytes.extend(&learned.words);
    let scales: Vec<f32> = nets.iter().map(Net::scale).collect();
    for bucket in 0..BUCKETS {
        for (net, scale) in nets.iter().zip(&scales) {
            // Cut to -127..=127: the few that are larger than the scale allows.
            bytes.extend(net.weights.table[bucket].iter().map(|v| (v / scale).round().clamp(-127.0, 127.0) as i8 as u8));
        }
    }
    for (net, scale) in nets.iter().zip(&scales) {
        bytes.extend(std::iter::once(scale).chain(net.small()).flat_map(|v| v.to_le_bytes()));
    }
    bytes.extend([slope, shift].iter().flat_map(|v| v.to_le_bytes()));
    assert_eq!(bytes.len(), MODEL_BYTES, "the layout is the model's");
    bytes
}

/// A scale at which one number in ten thousand is cut.
fn scale_of<'a>(numbers: impl Iterator<Item = &'a f32>) -> f32 {
    let mut sizes: Vec<f32> = numbers.map(|v| v.abs()).collect();
    sizes.sort_unstable_by(f32::total_cmp);
    let most = sizes.get(sizes.len() - 1 - sizes.len() / 10_000).copied().unwrap_or(0.0);
    if most > 0.0 { most / 127.0 } else { 1.0 }
}

/// A training under way.
struct Run {
    net: Net,
    squares: Numbers,
    gradients: Numbers,
    settings: Settings,
    /// Buckets of the example, and those not left out.
    runs: Vec<u16>,
    kept: Vec<u16>,
}

impl Run {
    fn learn(&mut self, example: &Example, pace: f32, chance: &mut Chance) {
        let Self { net: Net { weights }, squares, gradients, settings, runs, kept } = self;
        runs.clear();
        // A bucket's index has at most 16 bits.
        buckets(&example.coded, |b| runs.push(b as u16));
        kept.clear();
        kept.extend(runs.iter().copied().filter(|_| !chance.chance(settings.dropout)));
        let root = 1.0 / (kept.len().max(1) as f32).sqrt();
        let mut inputs = [0.0_f32; INPUTS];
        for b in kept.iter() {
            for (input, number) in inputs.iter_mut().zip(&weights.table[usize::from(*b)]) {
                *input += number * root;
            }
        }
        let (mut highest, mut window_of) = ([0.0_f32; FILTERS], [usize::MAX; FILTERS]);
        let mut seen: Vec<[usize; FILTER_CODES]> = Vec::with_capacity(64);
        windows(&example.coded, |window| {
            let mut answer = weights.filter_bias;
            for (place, code) in window.into_iter().enumerate() {
                for (sum, number) in answer.iter_mut().zip(&weights.filters[place * CODES + code]) {
                    *sum += number;
                }
            }
            for f in 0..FILTERS {
                if answer[f] > highest[f] {
                    (highest[f], window_of[f]) = (answer[f], seen.len());
                }
            }
            seen.push(window);
        });
        inputs[WIDTH..WIDTH + FILTERS].copy_from_slice(&highest);
        inputs[WIDTH + FILTERS..].copy_from_slice(&example.measures);

        let mut sums = weights.hidden_bias;
        for (row, input) in weights.hidden.iter().zip(inputs) {
            for (sum, weight) in sums.iter_mut().zip(row) {
                *sum += weight * input;
            }
        }
        let keep = 1.0 / (1.0 - settings.hidden_dropout) as f32;
        let mut active = [0.0_f32; HIDDEN];
        for h in 0..HIDDEN {
            if sums[h] > 0.0 && !chance.chance(settings.hidden_dropout) {
                active[h] = sums[h] * keep;
            }
        }
        let mut classes = weights.last_bias;
        for (class, row) in classes.iter_mut().zip(&weights.last) {
            *class += row.iter().zip(active).map(|(w, a)| w * a).sum::<f32>();
        }
        let most = classes.iter().fold(f32::MIN, |m, c| m.max(*c));
        let exps = classes.map(|c| libm::expf(c - most));
        let total: f32 = exps.iter().sum();
        let mut back = [0.0_f32; HIDDEN];
        for c in 0..CLASSES {
            let truth = if c == example.class as usize { 1.0 } else { 0.0 };
            let error = (exps[c] / total - truth) * example.weight;
            gradients.last_bias[c] += error;
            for h in 0..HIDDEN {
                gradients.last[c][h] += error * active[h];
                back[h] += error * weights.last[c][h];
            }
        }
        for h in 0..HIDDEN {
            back[h] = if active[h] > 0.0 { back[h] * keep } else { 0.0 };
            gradients.hidden_bias[h] += back[h];
        }
        let mut to_input = [0.0_f32; INPUTS];
        for i in 0..INPUTS {
            let mut sum = [0.0_f32; 8];
            for h in 0..HIDDEN {
                gradients.hidden[i][h] += back[h] * inputs[i];
                sum[h % 8] += back[h] * weights.hidden[i][h];
            }
            to_input[i] = sum.iter().sum();
        }

        let step = settings.step * pace;
        for b in kept.iter() {
            let row = &mut weights.table[usize::from(*b)];
            let sq = &mut squares.table[usize::from(*b)];
            for i in 0..WIDTH {
                let gradient = to_input[i] * root + settings.decay * row[i] * example.weight;
                nudge(&mut row[i], &mut sq[i], gradient, step);
            }
        }
        for f in 0..FILTERS {
            let Some(window) = seen.get(window_of[f]) else { continue };
            let gradient = to_input[WIDTH + f];
            nudge(&mut weights.filter_bias[f], &mut squares.filter_bias[f], gradient, step);
            for (place, code) in window.iter().enumerate() {
                let at = place * CODES + code;
                nudge(&mut weights.filters[at][f], &mut squares.filters[at][f], gradient, step);
            }
        }
    }

    /// A step of the layers by what has come together.
    fn step(&mut self, pace: f32) {
        let Self { net: Net { weights: w }, squares: s, gradients: g, settings, .. } = self;
        let step = settings.layer_step * pace;
        for i in 0..INPUTS {
            nudge_all(&mut w.hidden[i], &mut s.hidden[i], &mut g.hidden[i], step);
        }
        nudge_all(&mut w.hidden_bias, &mut s.hidden_bias, &mut g.hidden_bias, step);
        for c in 0..CLASSES {
            nudge_all(&mut w.last[c], &mut s.last[c], &mut g.last[c], step);
        }
        nudge_all(&mut w.last_bias, &mut s.last_bias, &mut g.last_bias, step);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_operators::names::model::Model;

    use super::*;

    #[test]
    fn the_same_names_and_seed_give_the_same_bytes_and_names_are_told_apart() {
        let mut chance = Chance::of(7, "test");
        let words = ["river", "stone", "market", "cloud", "paper", "garden", "light", "silver"];
        let benign: Vec<String> = (0..200).map(|_| format!("{}{}", chance.of_list(&words), chance.of_list(&words))).collect();
        let made: Vec<String> =
            (0..200).map(|_| (0..12).map(|_| char::from(*chance.of_list(b"qxzjkvwpbg7293"))).collect()).collect();
        let benign: Vec<&String> = benign.iter().collect();
        let train = |seed| {
            let learned = Learned::from(&benign, &[]);
            let mut examples: Vec<Example> =
                benign.iter().enumerate().map(|(n, l)| Example::new(l, Class::Benign, 1.0, &learned, n)).collect();
            examples.extend(made.iter().enumerate().map(|(n, l)| Example::new(l, Class::Chance, 1.0, &learned, n)));
            bytes(&networks(&examples, Settings::default(), seed), &learned, (1.0, 0.0))
        };
        let first = train(1);
        assert!(first == train(1), "the same bytes");
        assert!(first != train(2), "a seed says something");
        let model = Model::read(&first).unwrap();
        assert!(model.score(b"gardenpaper") < 0.3 && model.score(b"kx7zqj2wvpb9") > 0.7);
    }
}
