//! How much a row of gaps looks like a beacon: a likelihood ratio of "one sleep after the other, some contacts lost"
//! against everything memoryless or clustered. Pure arithmetic over gaps in seconds: knows no host, no peer, no rule.
//!
//! What is meant to hold: the weight is a log e-value. The beacon side is an average over fixed alternatives, the null
//! side ([`null`]) a maximum over its shapes, and both average over the scale, so that under any of those nulls the chance
//! of ever passing `ln(1/a)` is about `a`, however often one looks (Ville's inequality). It is approximate, because the
//! average over the scale is Laplace's and the newest gaps slide; the laboratory measures what it comes to.

use std::sync::LazyLock;

use libm::{exp, fabs, lgamma, log, sqrt};

mod null;

/// Alternatives: how one sleep varies. Clocks and busy clients as a bell around the period; implants draw evenly from
/// an interval, which a bell describes badly when it is wide.
const ALTERNATIVES: [Alternative; 14] = [
    Alternative { even: false, spread: 0.003 },
    Alternative { even: false, spread: 0.01 },
    Alternative { even: false, spread: 0.03 },
    Alternative { even: false, spread: 0.07 },
    Alternative { even: false, spread: 0.12 },
    Alternative { even: false, spread: 0.19 },
    // Even spreads, of half widths that widen by a fifth each: 0.13 is 37 % jitter one-sided, 0.19 is 50 %, 0.29 is 50 % both
    // ways, 0.47 is 90 % one-sided, 0.53 both ways.
    Alternative { even: true, spread: 0.13 },
    Alternative { even: true, spread: 0.19 },
    Alternative { even: true, spread: 0.24 },
    Alternative { even: true, spread: 0.29 },
    Alternative { even: true, spread: 0.35 },
    Alternative { even: true, spread: 0.41 },
    Alternative { even: true, spread: 0.47 },
    Alternative { even: true, spread: 0.53 },
];

/// One way in which sleeps vary.
#[derive(Clone, Copy)]
struct Alternative {
    /// Even over an interval, else a bell (gamma).
    even: bool,
    /// Standard deviation over mean.
    spread: f64,
}

/// How much wider than its spread says an even interval is taken: delays of the network blur its ends.
const BLUR: f64 = 1.03;

/// Shares of lost contacts that are tried.
const LOST: [f64; 2] = [0.03, 0.25];

/// Shares of gaps that belong to something else (another program, a night off) that are tried, with the logarithm of
/// their weight in the average: a pair has mostly one user.
const FOREIGN: [(f64, f64); 2] = [(0.02, -0.223_143_551), (0.2, -1.609_437_912)];

/// Consecutive lost contacts looked for; a longer hole is foreign.
const SLEEPS_MAX: usize = 8;

/// Logarithm of the range of periods and of foreign gaps, 1 s to 4 days. It cancels out of the scale's cost: see
/// [`Sleep::period_cost`].
const LN_RANGE: f64 = 12.753;

/// Log density, times the gap, below which a sleep is nothing beside a foreign gap: e^-23 of the least share of such,
/// 0.02 over [`LN_RANGE`].
const LN_NOTHING: f64 = -29.5;

/// Rounds of refinement of the period; it settles in two.
const REFINEMENTS: usize = 3;

/// Share of gaps that must lie within a factor of 2.5 of each other before the models are fitted at all. A memoryless
/// talker has 0.33, sleeps with 90 % jitter and 20 % loss 0.55: what fails here could never weigh enough.
const GATHERED_MIN: f64 = 0.42;
/// The same from [`GATHERED_MANY`] gaps on, where chance reaches less far.
const GATHERED_MANY_MIN: f64 = 0.48;
const GATHERED_MANY: usize = 24;

/// Spread from which the factor-2.5 window, else the factor-1.35 window, gives the first guess of the period.
const WIDE_SPREAD: f64 = 0.15;

/// What the gaps say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fit {
    /// Natural logarithm of the e-value: beacon against not.
    pub weight: f64,
    /// Mean of one sleep, seconds.
    pub interval_s: f64,
    /// Standard deviation of one sleep over its mean, after taking lost contacts out.
    pub jitter: f64,
    /// Gaps that are one or more sleeps.
    pub fitting: usize,
    /// Gaps that are exactly one sleep.
    pub single: usize,
    /// Contacts that must have been lost in the gaps.
    pub missed: usize,
    /// Share of the gaps that are the same to 2 %: a timer's, whatever else the pair does.
    pub same: f64,
}

/// Nats that one more gap adds at most, even where another leaves the window for it.
const GAIN_NATS_MAX: f64 = 12.0;

/// Weighs gaps, seconds, all > 0. `floor_s` is the shortest gap that collapsing leaves: null models start there. An error when
/// there are too few (< 3), they are scattered beyond any alternative, or they weigh less than `least`: most pairs do, and
/// what they weigh then need not be known. The error is how many more gaps it takes at least before that can change.
pub fn weigh(gaps: &[f64], floor_s: f64, least: f64) -> Result<Fit, usize> {
    if gaps.len() < 3 || gaps.iter().any(|g| !g.is_finite() || *g <= 0.0) {
        return Err(1);
    }
    let mut sorted = gaps.to_vec();
    sorted.sort_by(f64::total_cmp);
    let wide = densest(&sorted, 2.5);
    let gathered_min = if gaps.len() < GATHERED_MANY { GATHERED_MIN } else { GATHERED_MANY_MIN };
    let missing = gathered_min * gaps.len() as f64 - wide.len() as f64;
    if missing > 0.0 {
        return Err(missing.ceil() as usize);
    }
    let (wide_s, tight_s) = (mean(wide), mean(densest(&sorted, 1.35)));

    let null = null::Gaps::new(gaps, floor_s);
    let against = null.simple();
    // What depends on the gap alone is worked out once.
    let points: Vec<Point> = gaps.iter().map(|&gap_s| Point::new(gap_s)).collect();
    let mut all = [[0.0; WAYS]; ALTERNATIVES.len()];
    let mut best: Option<(f64, Sleep)> = None;
    for ((alternative, ln_gammas), of) in ALTERNATIVES.into_iter().zip(&*LN_GAMMAS).zip(&mut all) {
        let guess_s = if alternative.spread < WIDE_SPREAD { tight_s } else { wide_s };
        let sleep = Sleep::fitted(gaps, &sorted, guess_s, alternative, ln_gammas);
        *of = sleep.weights(&points);
        for &ln in of.iter() {
            if best.is_none_or(|(b, _)| ln > b) {
                best = Some((ln, sleep));
            }
        }
    }
    let Some((_, sleep)) = best else { return Err(1) };
    let lacking = |weight: f64| (((least - weight) / GAIN_NATS_MAX).ceil() as usize).max(1);
    let beacon = ln_sum_exp(all.as_flattened()) - log((ALTERNATIVES.len() * LOST.len()) as f64);
    // The last null model costs as much as all of this, can only make it lighter, and hardly ever does.
    if beacon - against < least {
        return Err(lacking(beacon - against));
    }
    let against = if null.two_rates_at_most() <= against { against } else { against.max(null.two_rates()) };
    let weight = beacon - against;
    let same = densest(&sorted, 1.02).len() as f64 / gaps.len() as f64;
    if weight >= least { Ok(Fit { weight, same, ..sleep.fit(gaps) }) } else { Err(lacking(weight)) }
}

/// Ways in which an alternative is tried: shares of lost contacts, each with shares of foreign gaps.
const WAYS: usize = LOST.len() * FOREIGN.len();

/// A gap with what depends on it alone.
struct Point {
    gap_s: f64,
    ln: f64,
    /// Log density below which a sleep is nothing beside a foreign gap.
    ln_nothing: f64,
    /// Density as a foreign gap, spread evenly over the logarithm, times the share of such.
    foreign: [f64; FOREIGN.len()],
}

impl Point {
    fn new(gap_s: f64) -> Self {
        let ln = log(gap_s);
        Self { gap_s, ln, ln_nothing: LN_NOTHING - ln, foreign: FOREIGN.map(|(share, _)| share / (gap_s * LN_RANGE)) }
    }
}

/// The fullest window `[x, factor * x]` of sorted gaps, the first of several; not empty when `sorted` is not.
fn densest(sorted: &[f64], factor: f64) -> &[f64] {
    let (mut from, mut to, mut end) = (0, 0, 0);
    for start in 0..sorted.len() {
        while end < sorted.len() && sorted[end] <= sorted[start] * factor {
            end += 1;
        }
        if end - start > to - from {
            (from, to) = (start, end);
        }
    }
    &sorted[from..to]
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// `LN_GAMMAS[a][k - 1]`: logarithm of the gamma function at k times the shape of an alternative.
static LN_GAMMAS: LazyLock<[[f64; SLEEPS_MAX]; ALTERNATIVES.len()]> =
    LazyLock::new(|| ALTERNATIVES.map(|a| std::array::from_fn(|i| lgamma((i + 1) as f64 * (1.0 / (a.spread * a.spread))))));

/// One alternative with its period.
#[derive(Clone, Copy)]
struct Sleep {
    mean_s: f64,
    spread: f64,
    /// Half the width of the interval over the mean, when sleeps are even.
    half: Option<f64>,
    /// Of one sleep: 1 / spread².
    shape: f64,
    /// `ln_norm[k - 1]`: normalisation of the gamma density of k sleeps in a row.
    ln_norm: [f64; SLEEPS_MAX],
}

impl Sleep {
    fn new(mean_s: f64, alternative: Alternative, ln_gammas: &[f64; SLEEPS_MAX]) -> Self {
        let Alternative { even, spread } = alternative;
        let shape = 1.0 / (spread * spread);
        let ln_scale = log(mean_s / shape);
        let mut ln_norm = [0.0; SLEEPS_MAX];
        for (i, norm) in ln_norm.iter_mut().enumerate() {
            let k = (i + 1) as f64 * shape;
            *norm = -k * ln_scale - ln_gammas[i];
        }
        Self { mean_s, spread, half: even.then_some(half_width(spread)), shape, ln_norm }
    }

    /// The alternative with the period that the gaps suggest: of a box where most gaps fit in, of a bell the mean of what
    /// fits, from a first guess on.
    fn fitted(gaps: &[f64], sorted: &[f64], guess_s: f64, alternative: Alternative, ln_gammas: &[f64; SLEEPS_MAX]) -> Self {
        let Alternative { even, spread } = alternative;
        if even {
            let half = half_width(spread);
            let inside = densest(sorted, (1.0 + half) / (1.0 - half));
            return Self::new(0.5 * (inside[0] + inside[inside.len() - 1]), alternative, ln_gammas);
        }
        let mut mean_s = guess_s;
        for _ in 0..REFINEMENTS {
            let (mut sum_s, mut sleeps) = (0.0, 0.0);
            for &g in gaps {
                if let Some(k) = sleeps_in(g / mean_s, spread) {
                    sum_s += g;
                    sleeps += k as f64;
                }
            }
            let before_s = mean_s;
            if sleeps > 0.0 {
                mean_s = sum_s / sleeps;
            }
            if mean_s == before_s {
                // It has settled: another round would do the same.
                break;
            }
        }
        Self::new(mean_s, alternative, ln_gammas)
    }

    /// Index of the first of the three numbers of sleeps that are considered for a gap, from 0.
    fn first(ratio: f64) -> usize {
        let nearest = nearest(ratio).clamp(1.0, SLEEPS_MAX as f64) as usize;
        nearest.saturating_sub(2).min(SLEEPS_MAX - 3)
    }

    /// Log-likelihoods of the gaps, one for each way in which contacts get lost and foreign ones come in between, less what
    /// the period costs and with the logarithm of the way's share in the average.
    fn weights(&self, points: &[Point]) -> [f64; WAYS] {
        let mut products = [Product::ONE; WAYS];
        let mut room = Room { sleeps: 0, least: 1.0, most: 1.0 };
        for chunk in points.chunks(PRODUCT_TERMS) {
            for point in chunk {
                let ratio = point.gap_s / self.mean_s;
                let first = Self::first(ratio);
                let by_scale = ratio * self.shape;
                let bell = |n: usize| {
                    let ln = (n as f64 * self.shape - 1.0) * point.ln - by_scale + self.ln_norm[n - 1];
                    if ln > point.ln_nothing { exp(ln) } else { 0.0 }
                };
                let of = match (self.half, first) {
                    (Some(half), 0) => [box_of(half, ratio, self.mean_s), triangle(half, ratio, self.mean_s), bell(3)],
                    (Some(half), 1) => [triangle(half, ratio, self.mean_s), bell(3), bell(4)],
                    _ => [bell(first + 1), bell(first + 2), bell(first + 3)],
                };
                room.take(self, ratio);
                for (l, lost) in LOST.into_iter().enumerate() {
                    let core = LOST_BEFORE[l][first] * (of[0] + lost * (of[1] + lost * of[2]));
                    for (f, (share, _)) in FOREIGN.into_iter().enumerate() {
                        products[l * FOREIGN.len() + f].mantissa *= (1.0 - share) * core + point.foreign[f];
                    }
                }
            }
            products.iter_mut().for_each(Product::settle);
        }
        let cost = self.period_cost(&room);
        std::array::from_fn(|way| products[way].ln() + FOREIGN[way % FOREIGN.len()].1 - cost)
    }

    /// What it costs to have chosen the period from the data, nats: the integral over periods spread evenly over the
    /// logarithm, by Laplace for a bell, by the room that the gaps leave for a box. The null models pay likewise, so that
    /// the ratio is one of marginal likelihoods under the scale's invariant prior, which keeps it an e-value (Pérez-Ortiz
    /// et al. 2022).
    fn period_cost(&self, room: &Room) -> f64 {
        let width = match self.half {
            None => self.spread * sqrt(2.0 * std::f64::consts::PI / room.sleeps.max(1) as f64),
            Some(half) => (2.0 * half - (room.most - room.least)).max(0.01),
        };
        log(LN_RANGE / width).max(0.0)
    }

    /// What the gaps look like under this alternative.
    fn fit(&self, gaps: &[f64]) -> Fit {
        let (mut fitting, mut single, mut sleeps, mut squares) = (0, 0, 0, 0.0);
        for &g in gaps {
            if let Some(k) = sleeps_in(g / self.mean_s, self.spread) {
                let off = g / self.mean_s - k as f64;
                squares += off * off / k as f64;
                fitting += 1;
                single += usize::from(k == 1);
                sleeps += k;
            }
        }
        let jitter = sqrt(squares / fitting.max(1) as f64);
        Fit { weight: 0.0, interval_s: self.mean_s, jitter, fitting, single, missed: sleeps - fitting, same: 0.0 }
    }
}

/// What the gaps tell of the period: sleeps that they are (bells), the least and the most over the mean (boxes).
struct Room {
    sleeps: usize,
    least: f64,
    most: f64,
}

impl Room {
    #[inline]
    fn take(&mut self, sleep: &Sleep, ratio: f64) {
        match sleep.half {
            None => self.sleeps += sleeps_in(ratio, sleep.spread).unwrap_or(0),
            Some(half) if fabs(ratio - 1.0) <= half => {
                (self.least, self.most) = (self.least.min(ratio), self.most.max(ratio));
            }
            Some(_) => {}
        }
    }
}

/// `LOST_BEFORE[l][k]`: chance that a contact comes after k that were lost, at `LOST[l]`.
const LOST_BEFORE: [[f64; SLEEPS_MAX]; LOST.len()] = {
    let mut of = [[0.0; SLEEPS_MAX]; LOST.len()];
    let mut l = 0;
    while l < LOST.len() {
        of[l][0] = 1.0 - LOST[l];
        let mut k = 1;
        while k < SLEEPS_MAX {
            of[l][k] = of[l][k - 1] * LOST[l];
            k += 1;
        }
        l += 1;
    }
    of
};

/// Density of one even sleep.
#[inline]
fn box_of(half: f64, ratio: f64, mean_s: f64) -> f64 {
    if fabs(ratio - 1.0) <= half { 0.5 / (half * mean_s) } else { 0.0 }
}

/// Density of two even sleeps; more are as good as a bell.
#[inline]
fn triangle(half: f64, ratio: f64, mean_s: f64) -> f64 {
    let off = fabs(ratio - 2.0) / (2.0 * half);
    (1.0 - off).max(0.0) / (2.0 * half * mean_s)
}

/// Half the width, over the mean, of an even interval with this spread.
fn half_width(spread: f64) -> f64 {
    spread * 1.732_050_807_568_877_2 * BLUR
}

/// How many sleeps a gap is, by its ratio to one, when it lies within three standard deviations (and at least 2 %) of a whole
/// number.
#[inline]
fn sleeps_in(ratio: f64, spread: f64) -> Option<usize> {
    let k = nearest(ratio).max(1.0);
    if k > SLEEPS_MAX as f64 {
        return None;
    }
    let near = fabs(ratio - k) <= (3.0 * spread * SQRT[k as usize]).max(0.02);
    near.then_some(k as usize)
}

/// Square roots of 0 to [`SLEEPS_MAX`].
const SQRT: [f64; SLEEPS_MAX + 1] = [
    0.0,
    1.0,
    std::f64::consts::SQRT_2,
    1.732_050_807_568_877_2,
    2.0,
    2.236_067_977_499_79,
    2.449_489_742_783_178,
    2.645_751_311_064_590_7,
    2.828_427_124_746_190_3,
];

/// The whole number next to one that is not negative, the larger of two; of one beyond what an `i64` holds something as large.
#[inline]
fn nearest(value: f64) -> f64 {
    let whole = value as i64 as f64;
    if value - whole >= 0.5 { whole + 1.0 } else { whole }
}

/// Densities multiplied before the exponent is set apart: each lies between e^-45 and 1e12, eight far inside a double's range.
const PRODUCT_TERMS: usize = 8;

/// A product of densities, its exponent apart, so that one logarithm does for all: logarithms cost the most here.
#[derive(Clone, Copy)]
struct Product {
    mantissa: f64,
    exponent: i64,
}

impl Product {
    const ONE: Self = Self { mantissa: 1.0, exponent: 0 };

    /// Sets the exponent apart.
    #[inline]
    fn settle(&mut self) {
        let bits = self.mantissa.to_bits();
        self.exponent += (bits >> 52) as i64 - 1023;
        self.mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    }

    fn ln(self) -> f64 {
        log(self.mantissa) + self.exponent as f64 * std::f64::consts::LN_2
    }
}

/// Logarithm of the sum of exponentials.
fn ln_sum_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return f64::NEG_INFINITY;
    }
    top + log(values.iter().map(|v| exp(v - top)).sum::<f64>())
}

#[cfg(test)]
pub(super) mod stream;
#[cfg(test)]
mod tests;
