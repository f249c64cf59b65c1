//! How dense the gaps of a sleeper lie, worked out once for each way of sleeping: a look at a pair goes over every gap under
//! every way, and exponentials there were most of what detection cost.
//!
//! Everything is over the ratio of a gap to the mean sleep, and over its logarithm, so that one curve does for every
//! period. A curve is linear between knots that lie a twelfth of its spread apart: the densest bell is 0.1 % low between
//! two of them.

use std::sync::LazyLock;

use libm::{exp, fabs, lgamma, log, sqrt};

/// Alternatives: how one sleep varies. Clocks and busy clients as a bell around the period; implants draw evenly from
/// an interval, which a bell describes badly when it is wide.
pub(super) const ALTERNATIVES: [Alternative; 14] = [
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

/// So many of them are bells, the first.
pub(super) const BELLS: usize = 6;

/// The longest of one sleep over the shortest, of the even intervals.
pub(super) const WIDTHS: [f64; ALTERNATIVES.len() - BELLS] = {
    let mut widths = [0.0; ALTERNATIVES.len() - BELLS];
    let mut at = 0;
    while at < ALTERNATIVES.len() {
        match ALTERNATIVES[at].half() {
            Some(half) => widths[at - BELLS] = (1.0 + half) / (1.0 - half),
            None => assert!(at < BELLS),
        }
        at += 1;
    }
    widths
};

/// One way in which sleeps vary.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alternative {
    /// Even over an interval, else a bell (gamma).
    pub even: bool,
    /// Standard deviation over mean.
    pub spread: f64,
}

/// How much wider than its spread says an even interval is taken: delays of the network blur its ends.
const BLUR: f64 = 1.03;

impl Alternative {
    /// Half the width, over the mean, of an even interval; `None` of a bell.
    pub const fn half(self) -> Option<f64> {
        if self.even { Some(self.spread * 1.732_050_807_568_877_2 * BLUR) } else { None }
    }
}

/// Shares of lost contacts that are tried.
pub(super) const LOST: [f64; 2] = [0.03, 0.25];

/// Consecutive lost contacts looked for; a longer hole is foreign.
pub(super) const SLEEPS_MAX: usize = 8;

/// Knots to a standard deviation of the sleeps around which they lie.
const KNOTS_PER_SPREAD: f64 = 12.0;

/// Standard deviations beyond which a bell is nothing beside a foreign gap: its density is e^-18 there.
const SPREADS_MAX: f64 = 6.0;

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

/// The curves of [`ALTERNATIVES`], some 60 KB, made in two milliseconds.
pub(super) static CURVES: LazyLock<[Curve; ALTERNATIVES.len()]> = LazyLock::new(|| ALTERNATIVES.map(Curve::new));

/// Densities of one alternative over the logarithm of the ratio, one for each share of lost contacts.
#[derive(Debug)]
pub(super) struct Curve {
    /// By number of sleeps that a ratio is nearest to, less one.
    cells: [Cell; SLEEPS_MAX],
    /// Bells: of every number of sleeps; of an even interval from three on, which are as good as bells.
    knots: Vec<[f32; LOST.len()]>,
    peak_ln: f64,
}

/// Where the knots around a number of sleeps lie.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    /// Ratio of the first.
    from: f64,
    /// Knots to a ratio of one.
    per_ratio: f64,
    /// Place of the first.
    first: usize,
    /// Pieces between them.
    pieces: f64,
}

impl Curve {
    fn new(alternative: Alternative) -> Self {
        let (mut cells, mut knots) = ([Cell::default(); SLEEPS_MAX], Vec::new());
        for (i, cell) in cells.iter_mut().enumerate() {
            let middle = (i + 1) as f64;
            let spread = alternative.spread * sqrt(middle);
            let reach = SPREADS_MAX * spread;
            // A cell ends where the next begins, the first at nothing, the last where its bell does.
            let from = if reach < 0.5 {
                middle - reach
            } else if i == 0 {
                0.0
            } else {
                middle - 0.5
            };
            let to = if reach < 0.5 || i + 1 == SLEEPS_MAX { middle + reach } else { middle + 0.5 };
            let pieces = libm::ceil((to - from) * KNOTS_PER_SPREAD / spread);
            let per_ratio = pieces / (to - from);
            *cell = Cell { from, per_ratio, first: knots.len(), pieces };
            knots.extend((0..=pieces as usize).map(|knot| tabulated(alternative, from + knot as f64 / per_ratio)));
        }
        let mut peak = f64::from(knots.iter().flatten().copied().fold(0.0, f32::max));
        if let Some(half) = alternative.half() {
            // At the far edge of one sleep, just inside; what lies there of three and more is nothing beside it.
            peak = peak.max(Edges::new(half).of(1.0 + 0.999 * half).into_iter().fold(0.0, f64::max));
        }
        Self { cells, knots, peak_ln: log(peak) }
    }

    /// Logarithm of the highest density.
    pub fn peak_ln(&self) -> f64 {
        self.peak_ln
    }

    /// Densities at a ratio that is not negative, as far as they are tabulated.
    #[inline]
    pub fn of(&self, ratio: f64) -> [f64; LOST.len()] {
        let nearest = (ratio.min(SLEEPS_MAX as f64) + 0.5) as usize;
        let cell = &self.cells[nearest.saturating_sub(1) & (SLEEPS_MAX - 1)];
        let at = (ratio - cell.from) * cell.per_ratio;
        if !(at >= 0.0 && at < cell.pieces) {
            return [0.0; LOST.len()];
        }
        let piece = at as usize;
        let part = at - piece as f64;
        let [low, high] = [self.knots[cell.first + piece], self.knots[cell.first + piece + 1]];
        std::array::from_fn(|l| {
            let (low, high) = (f64::from(low[l]), f64::from(high[l]));
            low + part * (high - low)
        })
    }
}

const _: () = assert!(SLEEPS_MAX.is_power_of_two());

/// One and two sleeps of an even interval, over the logarithm of the ratio: their edges are too sharp for knots.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edges {
    half: f64,
    level: f64,
}

impl Edges {
    /// Of half a width over the mean.
    pub fn new(half: f64) -> Self {
        Self { half, level: 0.5 / half }
    }

    /// What comes to a curve's densities.
    #[inline]
    pub fn of(self, ratio: f64) -> [f64; LOST.len()] {
        let one = if fabs(ratio - 1.0) <= self.half { self.level * ratio } else { 0.0 };
        let two = (1.0 - fabs(ratio - 2.0) * self.level).max(0.0) * self.level * ratio;
        std::array::from_fn(|l| LOST_BEFORE[l][0] * one + LOST_BEFORE[l][1] * two)
    }
}

/// What is tabulated, at a ratio.
fn tabulated(alternative: Alternative, ratio: f64) -> [f32; LOST.len()] {
    let first = if alternative.even { 3 } else { 1 };
    let bells: [f64; SLEEPS_MAX] =
        std::array::from_fn(|i| if i + 1 < first { 0.0 } else { bell(alternative.spread, i + 1, ratio) });
    std::array::from_fn(|l| bells.iter().zip(&LOST_BEFORE[l]).map(|(bell, lost)| bell * lost).sum::<f64>() as f32)
}

/// Gamma density, over the logarithm of the ratio, of so many sleeps in a row.
fn bell(spread: f64, sleeps: usize, ratio: f64) -> f64 {
    let of_one = 1.0 / (spread * spread);
    let shape = sleeps as f64 * of_one;
    if ratio <= 0.0 { 0.0 } else { exp(shape * log(ratio * of_one) - ratio * of_one - lgamma(shape)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(at: usize, ratio: f64) -> [f64; LOST.len()] {
        let edges = ALTERNATIVES[at].half().map_or([0.0; LOST.len()], |half| Edges::new(half).of(ratio));
        let curve = CURVES[at].of(ratio);
        std::array::from_fn(|l| curve[l] + edges[l])
    }

    #[test]
    fn a_curve_is_a_density() {
        for (at, alternative) in ALTERNATIVES.into_iter().enumerate() {
            let mut sums = [0.0; LOST.len()];
            let step = alternative.spread / 40.0;
            let mut ratio = step / 2.0;
            while ratio < 14.0 {
                whole(at, ratio).iter().zip(&mut sums).for_each(|(density, sum)| *sum += density / ratio * step);
                ratio += step;
            }
            for (sum, lost) in sums.into_iter().zip(LOST) {
                // What is left out is eight and more lost contacts in a row.
                let all = 1.0 - libm::pow(lost, SLEEPS_MAX as f64);
                assert!((0.985..1.004).contains(&(sum / all)), "{alternative:?}, {lost} lost: {sum} of {all}");
            }
        }
    }

    #[test]
    fn between_knots_it_is_the_bells() {
        for (at, alternative) in ALTERNATIVES.into_iter().enumerate() {
            let mut ratio = 0.01;
            while ratio < 9.5 {
                let (is, exact) = (CURVES[at].of(ratio), tabulated(alternative, ratio));
                for (is, exact) in is.into_iter().zip(exact.map(f64::from)) {
                    // Beside foreign gaps, which are 0.002 at least.
                    assert!(fabs(is - exact) < 0.02 * exact + 2e-5, "{alternative:?} at {ratio}: {is}, exactly {exact}");
                }
                ratio += alternative.spread / 7.3;
            }
        }
    }

    #[test]
    fn any_ratio_has_a_density() {
        for ratio in [0.0, 1e-300, 0.5, 8.5, 9.0, 1e18, 1e30] {
            for at in 0..ALTERNATIVES.len() {
                assert!(whole(at, ratio).iter().all(|d| (0.0..200.0).contains(d)), "{ratio}");
            }
        }
    }
}
