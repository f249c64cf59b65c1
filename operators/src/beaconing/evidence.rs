//! How much a row of gaps looks like a beacon: a likelihood ratio of "one sleep after the other, some contacts lost"
//! against everything memoryless or clustered. Pure arithmetic over gaps in seconds: knows no host, no peer, no rule.
//!
//! Always holds: the weight is a log e-value. Under every null model listed in [`null`] the chance that it ever passes
//! `ln(1/a)` is at most `a`, however often one looks (Ville's inequality), because the beacon side is an average over
//! fixed alternatives and the null side a maximum.

use libm::{exp, fabs, lgamma, log, round, sqrt};

mod null;

/// Relative standard deviations of one sleep that are tried: from a clock (0.3 %) to `period * (1 - 0.9 * U[0,1])`,
/// whose value is 0.47. Half of the period one-sided is 0.19, plus or minus half 0.29.
const SPREADS: [f64; 9] = [0.003, 0.01, 0.03, 0.07, 0.12, 0.19, 0.27, 0.36, 0.47];

/// Shares of lost contacts that are tried.
const LOST: [f64; 2] = [0.03, 0.25];

/// Shares of gaps that belong to something else (another program, a night off) that are tried.
const FOREIGN: [f64; 2] = [0.02, 0.2];

/// Consecutive lost contacts looked for; a longer hole is foreign.
const SLEEPS_MAX: usize = 8;

/// Logarithm of the range of periods and of foreign gaps, 1 s to 4 days.
const LN_RANGE: f64 = 12.753;

/// Rounds of refinement of the period; it settles in two.
const REFINEMENTS: usize = 3;

/// Share of gaps that must lie within a factor of 2.5 of each other before the models are fitted at all. A memoryless
/// talker has 0.33, sleeps with 90 % jitter and 20 % loss 0.55: what fails here could never weigh enough.
const GATHERED_MIN: f64 = 0.42;

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
}

/// Weighs gaps, seconds, all > 0. `floor_s` is the shortest gap that collapsing leaves: null models start there. `None`
/// when there are too few (< 3) or they are scattered beyond any alternative.
pub fn weigh(gaps: &[f64], floor_s: f64) -> Option<Fit> {
    if gaps.len() < 3 || gaps.iter().any(|g| !g.is_finite() || *g <= 0.0) {
        return None;
    }
    let mut sorted = gaps.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (wide_s, gathered) = densest(&sorted, 2.5);
    if (gathered as f64) < GATHERED_MIN * gaps.len() as f64 {
        return None;
    }
    let (tight_s, _) = densest(&sorted, 1.35);

    let against = null::ln_likelihood(gaps, floor_s);
    let mut all = Vec::with_capacity(SPREADS.len() * LOST.len() * FOREIGN.len());
    let mut best: Option<(f64, Fit)> = None;
    for spread in SPREADS {
        let start_s = if spread < WIDE_SPREAD { tight_s } else { wide_s };
        let sleep = Sleep::fitted(gaps, start_s, spread);
        let densities: Vec<[f64; 3]> = gaps.iter().map(|g| sleep.densities(*g)).collect();
        let fit = sleep.fit(gaps);
        let cost = sleep.period_cost(fit.fitting + fit.missed);
        for lost in LOST {
            for foreign in FOREIGN {
                let ln = gaps.iter().zip(&densities).map(|(g, d)| sleep.ln_mixture(*g, d, lost, foreign)).sum::<f64>() - cost;
                all.push(ln);
                if best.is_none_or(|(b, _)| ln > b) {
                    best = Some((ln, fit));
                }
            }
        }
    }
    let (_, fit) = best?;
    Some(Fit { weight: ln_mean_exp(&all) - against, ..fit })
}

/// The fullest window `[x, factor * x]` of sorted gaps: mean inside, number inside.
fn densest(sorted: &[f64], factor: f64) -> (f64, usize) {
    let (mut from, mut to, mut end) = (0, 0, 0);
    for start in 0..sorted.len() {
        while end < sorted.len() && sorted[end] <= sorted[start] * factor {
            end += 1;
        }
        if end - start > to - from {
            (from, to) = (start, end);
        }
    }
    (sorted[from..to].iter().sum::<f64>() / (to - from) as f64, to - from)
}

/// One alternative: sleeps of mean `mean_s` with gamma density of relative spread `spread`.
struct Sleep {
    mean_s: f64,
    spread: f64,
    /// Of one sleep: 1 / spread².
    shape: f64,
    /// `ln_norm[k - 1]`: normalisation of the density of k sleeps in a row.
    ln_norm: [f64; SLEEPS_MAX],
}

impl Sleep {
    fn new(mean_s: f64, spread: f64) -> Self {
        let shape = 1.0 / (spread * spread);
        let ln_scale = log(mean_s / shape);
        let mut ln_norm = [0.0; SLEEPS_MAX];
        for (i, norm) in ln_norm.iter_mut().enumerate() {
            let k = (i + 1) as f64 * shape;
            *norm = -k * ln_scale - lgamma(k);
        }
        Self { mean_s, spread, shape, ln_norm }
    }

    /// Starts at `start_s` and moves the mean to where the gaps that fit put it.
    fn fitted(gaps: &[f64], start_s: f64, spread: f64) -> Self {
        let mut mean_s = start_s;
        for _ in 0..REFINEMENTS {
            let (mut sum_s, mut sleeps) = (0.0, 0.0);
            for &g in gaps {
                if let Some(k) = sleeps_in(g, mean_s, spread) {
                    sum_s += g;
                    sleeps += k as f64;
                }
            }
            if sleeps > 0.0 {
                mean_s = sum_s / sleeps;
            }
        }
        Self::new(mean_s, spread)
    }

    /// Index of the first of the three numbers of sleeps that are considered for a gap, from 0.
    fn first(&self, gap_s: f64) -> usize {
        let nearest = round(gap_s / self.mean_s).clamp(1.0, SLEEPS_MAX as f64) as usize;
        nearest.saturating_sub(2).min(SLEEPS_MAX - 3)
    }

    /// Densities of the gap as `first + 1 ..= first + 3` sleeps.
    fn densities(&self, gap_s: f64) -> [f64; 3] {
        let first = self.first(gap_s);
        let (ln_gap, by_scale) = (log(gap_s), gap_s * self.shape / self.mean_s);
        std::array::from_fn(|i| {
            let k = (first + i + 1) as f64 * self.shape;
            exp((k - 1.0) * ln_gap - by_scale + self.ln_norm[first + i])
        })
    }

    /// Log density of a gap when contacts get lost and some gaps are foreign (spread evenly over the logarithm).
    fn ln_mixture(&self, gap_s: f64, densities: &[f64; 3], lost: f64, foreign: f64) -> f64 {
        let mut weight = 1.0 - lost;
        for _ in 0..self.first(gap_s) {
            weight *= lost;
        }
        let core = weight * (densities[0] + lost * (densities[1] + lost * densities[2]));
        log((1.0 - foreign) * core + foreign / (gap_s * LN_RANGE))
    }

    /// What it costs to have chosen the period from the data: Laplace's approximation of the integral over periods
    /// spread evenly over the logarithm, nats.
    fn period_cost(&self, sleeps: usize) -> f64 {
        let width = self.spread * sqrt(2.0 * std::f64::consts::PI / sleeps.max(1) as f64);
        log(LN_RANGE / width).max(0.0)
    }

    /// What the gaps look like under this alternative.
    fn fit(&self, gaps: &[f64]) -> Fit {
        let (mut fitting, mut single, mut sleeps, mut squares) = (0, 0, 0, 0.0);
        for &g in gaps {
            if let Some(k) = sleeps_in(g, self.mean_s, self.spread) {
                let off = g / self.mean_s - k as f64;
                squares += off * off / k as f64;
                fitting += 1;
                single += usize::from(k == 1);
                sleeps += k;
            }
        }
        let jitter = sqrt(squares / fitting.max(1) as f64);
        Fit { weight: 0.0, interval_s: self.mean_s, jitter, fitting, single, missed: sleeps - fitting }
    }
}

/// How many sleeps a gap is, when it lies within three standard deviations (and at least 2 %) of a whole number.
fn sleeps_in(gap_s: f64, mean_s: f64, spread: f64) -> Option<usize> {
    let k = round(gap_s / mean_s).max(1.0);
    let near = fabs(gap_s / mean_s - k) <= (3.0 * spread * sqrt(k)).max(0.02);
    (near && k <= SLEEPS_MAX as f64).then_some(k as usize)
}

/// Logarithm of the mean of exponentials.
fn ln_mean_exp(values: &[f64]) -> f64 {
    let top = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !top.is_finite() {
        return f64::NEG_INFINITY;
    }
    top + log(values.iter().map(|v| exp(v - top)).sum::<f64>() / values.len() as f64)
}

#[cfg(test)]
mod tests;
