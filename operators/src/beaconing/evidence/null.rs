//! What is not a beacon: memoryless, clustered and heavy-tailed gaps. The best of these models is what a beacon has to
//! beat, so a talker whose gaps are a little more even than chance stays silent.

use std::sync::LazyLock;

use libm::{exp, lgamma, log, sqrt};

/// Shapes of the gamma nulls: 1 is memoryless (Poisson); up to 1.5 (relative spread 0.82) covers people and retries that
/// are more even than chance; below 1 clusters.
const SHAPES: [f64; 3] = [0.5, 1.0, 1.5];

/// Narrowest log-normal null: relative spread 1.3.
const LOG_SPREAD_MIN: f64 = 1.0;

/// Rounds of the two-rate fit.
const ROUNDS: usize = 8;

/// Gaps are taken from the floor on, but not below this, seconds.
const LEAST_S: f64 = 0.05;

/// Where the rates of [`Gaps::two_rates_at_most`] are divided: by 1.19, closer around 1.
const RATES: [f64; 40] = {
    let mut rates = [0.0; 40];
    let (mut i, mut rate) = (0, 0.03);
    while i < 40 {
        rates[i] = rate;
        rate *= 1.19;
        i += 1;
    }
    rates
};

/// Gaps as the null models see them. A likelihood is in nats, less what it costs to choose the scale (Laplace, as for the
/// beacons).
pub(super) struct Gaps {
    /// Beyond the floor.
    past: super::Gaps,
    mean: f64,
}

/// Logarithms of the gamma function at [`SHAPES`].
static LN_GAMMAS: LazyLock<[f64; SHAPES.len()]> = LazyLock::new(|| SHAPES.map(lgamma));

impl Gaps {
    /// Of gaps in seconds, not none.
    pub fn new(gaps: &[f64], floor_s: f64) -> Self {
        let past: super::Gaps = gaps.iter().map(|g| (g - floor_s).max(LEAST_S)).collect();
        let mean = past.iter().sum::<f64>() / past.len() as f64;
        Self { past, mean }
    }

    /// The best log-likelihood under the nulls of one rate.
    pub fn simple(&self) -> f64 {
        let Self { past, mean } = self;
        let n = past.len() as f64;
        let logs: super::Gaps = past.iter().map(|x| log(*x)).collect();
        let log_mean = logs.iter().sum::<f64>() / n;

        let gamma = SHAPES.iter().zip(&*LN_GAMMAS).map(|(&a, ln_gamma)| {
            let scale = mean / a;
            n * ((a - 1.0) * log_mean - mean / scale - a * log(scale) - ln_gamma) - cost(1.0 / sqrt(a), n)
        });
        let log_spread = sqrt(logs.iter().map(|l| (l - log_mean) * (l - log_mean)).sum::<f64>() / n).max(LOG_SPREAD_MIN);
        let ln_spread = log(log_spread);
        let log_normal = logs
            .iter()
            .map(|l| {
                let z = (l - log_mean) / log_spread;
                -l - ln_spread - 0.918_938_533_204_672_7 - 0.5 * z * z
            })
            .sum::<f64>()
            - cost(log_spread, n);
        gamma.chain([log_normal]).fold(f64::NEG_INFINITY, f64::max)
    }

    /// What [`Self::two_rates`] can come to at most, for much less. Of any mixture of rates the likelihood over that of one
    /// rate is on average at most n times the logarithm of the largest mean ratio under a single other rate (Jensen), and that
    /// mean, of a convex function of the gaps, at most what gaps at the least and the most of them would give.
    pub fn two_rates_at_most(&self) -> f64 {
        let n = self.past.len() as f64;
        let (least, most) = self.past.iter().fold((f64::INFINITY, 0.0), |(a, b): (f64, f64), x| (a.min(*x), b.max(*x)));
        let (least, most) = (least / self.mean, most / self.mean);
        // Share of gaps at the least one; their mean is 1.
        let share = if most > least { ((most - 1.0) / (most - least)).clamp(0.0, 1.0) } else { 1.0 };
        // A rate as so many times the mean's. Between two of the grid each part is at most its own maximum there.
        let part = |c: f64, from: f64, to: f64| {
            let at = (1.0 / c).clamp(from, to);
            at * exp(c * (1.0 - at))
        };
        let (mut from, mut top) = (0.0, 1.0_f64);
        for to in RATES.into_iter().chain([f64::INFINITY]) {
            top = top.max(share * part(least, from, to) + (1.0 - share) * part(most, from, to));
            from = to;
        }
        n * (log(top) - log(self.mean) - 1.0) - cost(1.0, n) + 1e-6
    }

    /// The log-likelihood under two rates. Its further parameters stay chosen for free: the null side may only be too good.
    pub fn two_rates(&self) -> f64 {
        two_rates(&self.past, self.mean) - cost(1.0, self.past.len() as f64)
    }
}

/// Cost of a scale known to `spread` per gap, nats.
fn cost(spread: f64, n: f64) -> f64 {
    log(super::LN_RANGE / (spread * sqrt(2.0 * std::f64::consts::PI / n))).max(0.0)
}

/// Two memoryless rates, as of bursts and pauses, fitted by expectation and maximisation.
fn two_rates(past: &[f64], mean: f64) -> f64 {
    let (mut share, mut fast, mut slow) = (0.5, 4.0 / mean, 0.4 / mean);
    let n = past.len() as f64;
    for _ in 0..ROUNDS {
        let (mut weight, mut fast_sum, mut slow_sum) = (0.0, 0.0, 0.0);
        for &x in past {
            let (f, s) = (share * fast * exp(-fast * x), (1.0 - share) * slow * exp(-slow * x));
            let r = if f + s > 0.0 { f / (f + s) } else { 0.0 };
            weight += r;
            fast_sum += r * x;
            slow_sum += (1.0 - r) * x;
        }
        if weight < 0.5 || n - weight < 0.5 {
            break;
        }
        share = weight / n;
        fast = weight / fast_sum.max(LEAST_S);
        slow = (n - weight) / slow_sum.max(LEAST_S);
    }
    past.iter().map(|&x| log((share * fast * exp(-fast * x) + (1.0 - share) * slow * exp(-slow * x)).max(1e-300))).sum()
}
