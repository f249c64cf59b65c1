//! How much a row of gaps looks like a beacon: a likelihood ratio of "one sleep after the other, some contacts lost"
//! against everything memoryless or clustered. Pure arithmetic over gaps in seconds: knows no host, no peer, no rule.
//!
//! What is meant to hold: the weight is a log e-value. The beacon side is an average over fixed alternatives, the null
//! side ([`null`]) a maximum over its shapes, and both average over the scale, so that under any of those nulls the chance
//! of ever passing `ln(1/a)` is about `a`, however often one looks (Ville's inequality). It is approximate, because the
//! average over the scale is Laplace's and the newest gaps slide; the laboratory measures what it comes to.

use arrayvec::ArrayVec;
use libm::{fabs, log, sqrt};

use self::curve::{ALTERNATIVES, Alternative, BELLS, CURVES, Curve, Edges, LOST, SLEEPS_MAX, WIDTHS};

mod curve;
mod null;

/// Gaps that are looked at, the newest.
pub(super) const GAPS_KEPT: usize = super::pair::CONTACTS_MAX - 1;

/// Gaps in a place of their own: a look is too frequent to ask for memory.
type Gaps = ArrayVec<f64, { GAPS_KEPT.next_multiple_of(LANES) }>;

/// Gaps that [`slept`] takes at a time: none waits for the one before, and two share a register.
const LANES: usize = 4;

/// Shares of gaps that belong to something else (another program, a night off) that are tried, with their weight in the
/// average: a pair has mostly one user.
const FOREIGN: [(f64, f64); 2] = [(0.02, 0.8), (0.2, 0.2)];

/// Logarithm of the range of periods and of foreign gaps, 1 s to 4 days. It cancels out of the scale's cost: see
/// [`Sleep::period_kept`].
const LN_RANGE: f64 = 12.753;

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

/// Nats by which one more gap brings an alternative nearer to what is asked of it, at most, besides the logarithm of its
/// highest density: about 1 because it is an odd gap for the null models, 1.1 because of more gaps less is asked, the rest
/// because the period settles, which makes those before fit better.
const GAIN_NATS: f64 = 5.0;

/// What a gap that leaves costs at most: it was foreign, of which few are expected (`-ln(0.02 / LN_RANGE)`).
const LEAVING_NATS: f64 = 6.46;

/// Weighs gaps, seconds, all > 0. `floor_s` is the shortest gap that collapsing leaves: null models start there. An error when
/// there are too few (< 3), they are scattered beyond any alternative, or they weigh less than `least`: most pairs do, and
/// what they weigh then need not be known. The error is how many more gaps it takes at least before that can change.
pub fn weigh(gaps: &[f64], floor_s: f64, least: f64) -> Result<Fit, usize> {
    weigh_where(gaps, floor_s, least, 0.0)
}

/// The same of the newest gaps of more: with each that comes one leaves, perhaps one that fitted nothing.
pub fn weigh_newest(gaps: &[f64], floor_s: f64, least: f64) -> Result<Fit, usize> {
    weigh_where(gaps, floor_s, least, LEAVING_NATS)
}

fn weigh_where(gaps: &[f64], floor_s: f64, least: f64, leaving: f64) -> Result<Fit, usize> {
    let gaps = &gaps[gaps.len().saturating_sub(GAPS_KEPT)..];
    if gaps.len() < 3 || gaps.iter().any(|g| !g.is_finite() || *g <= 0.0) {
        return Err(1);
    }
    let sorted = sorted(gaps);
    let wide = densest(&sorted, 2.5);
    let gathered_min = if gaps.len() < GATHERED_MANY { GATHERED_MIN } else { GATHERED_MANY_MIN };
    let missing = gathered_min * gaps.len() as f64 - wide.len() as f64;
    if missing > 0.0 {
        return Err(missing.ceil() as usize);
    }
    let (wide_s, tight_s) = (mean(wide), mean(densest(&sorted, 1.35)));

    let mut filled_up = sorted.clone();
    while filled_up.len() % LANES > 0 {
        // A gap of nothing is near no sleep.
        filled_up.push(0.0);
    }
    let (in_lanes, _) = filled_up.as_chunks::<LANES>();
    let windows = densest_of(&sorted, WIDTHS);

    let null = null::Gaps::new(gaps, floor_s);
    let against = null.simple();
    let mut all = [[Product::ONE; WAYS]; ALTERNATIVES.len()];
    let mut best: Option<(Product, Sleep)> = None;
    for (at, (curve, of)) in CURVES.iter().zip(&mut all).enumerate() {
        let alternative = ALTERNATIVES[at];
        let sleep = match at.checked_sub(BELLS) {
            Some(even) => Sleep::even(windows[even], alternative),
            None => Sleep::bell(in_lanes, if alternative.spread < WIDE_SPREAD { tight_s } else { wide_s }, alternative),
        };
        // In order the same cell of the curve serves one gap after the other.
        *of = sleep.likelihoods(&sorted, curve);
        let top = most(of);
        if best.is_none_or(|(b, _)| top > b) {
            best = Some((top, sleep));
        }
    }
    let Some((_, sleep)) = best else { return Err(1) };
    // The curves are over logarithms of gaps, the null models over gaps.
    let product = ln_product(gaps);
    // Whichever alternative comes there first, were it alone.
    let lacking = |against: f64| {
        let gaps = all.iter().zip(&*CURVES).map(|(of, curve)| {
            let weight = most(of).ln() - product - against;
            (least - weight) / (GAIN_NATS + leaving + curve.peak_ln())
        });
        (gaps.fold(f64::INFINITY, f64::min).ceil() as usize).max(1)
    };
    let beacon = ln_sum(all.as_flattened()) - log((ALTERNATIVES.len() * LOST.len()) as f64) - product;
    // The last null model costs as much as all of this, can only make it lighter, and hardly ever does.
    if beacon - against < least {
        return Err(lacking(against));
    }
    let against = if null.two_rates_at_most() <= against { against } else { against.max(null.two_rates()) };
    let weight = beacon - against;
    let same = densest(&sorted, 1.02).len() as f64 / gaps.len() as f64;
    if weight >= least { Ok(Fit { weight, same, ..sleep.fit(gaps) }) } else { Err(lacking(against)) }
}

/// Ways in which an alternative is tried: shares of lost contacts, each with shares of foreign gaps.
const WAYS: usize = LOST.len() * FOREIGN.len();

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

/// [`densest`] for several factors at once, none of which waits for another: a window's end moves on gap by gap, and its start with
/// it unless the window holds one gap more than any before.
fn densest_of<const N: usize>(sorted: &[f64], factors: [f64; N]) -> [&[f64]; N] {
    let (mut start, mut from) = ([0; N], [0; N]);
    for last in sorted {
        for at in 0..N {
            let first = start[at];
            let grows = *last <= sorted[first] * factors[at];
            from[at] = if grows { first } else { from[at] };
            start[at] = first + usize::from(!grows);
        }
    }
    // Windows never shrink, so the last is as long as the fullest.
    std::array::from_fn(|at| &sorted[from[at]..from[at] + sorted.len() - start[at]])
}

/// Gaps in order; numbers above zero are ordered as their bits are.
fn sorted(gaps: &[f64]) -> Gaps {
    let mut bits: ArrayVec<u64, GAPS_KEPT> = gaps.iter().map(|gap_s| gap_s.to_bits()).collect();
    bits.sort_unstable();
    bits.into_iter().map(f64::from_bits).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// One alternative with its period.
#[derive(Clone, Copy)]
struct Sleep {
    mean_s: f64,
    alternative: Alternative,
    /// What of the logarithm of the period the gaps leave open.
    open: f64,
}

impl Sleep {
    /// The alternative with the period that the gaps suggest: of an even interval from the window that holds most of them.
    fn even(inside: &[f64], alternative: Alternative) -> Self {
        let (least_s, most_s) = (inside[0], inside[inside.len() - 1]);
        let mean_s = 0.5 * (least_s + most_s);
        let open = (2.0 * alternative.half().unwrap_or_default() - (most_s - least_s) / mean_s).max(0.01);
        Self { mean_s, alternative, open }
    }

    /// The same of a bell: the mean of what fits, from a first guess on.
    fn bell(gaps: &[[f64; LANES]], guess_s: f64, alternative: Alternative) -> Self {
        let (mut mean_s, mut sleeps) = (guess_s, 0.0);
        for _ in 0..REFINEMENTS {
            let (sum_s, of) = slept(gaps, mean_s, alternative.spread);
            sleeps = of;
            let before_s = mean_s;
            if sleeps > 0.0 {
                mean_s = sum_s / sleeps;
            }
            if mean_s == before_s {
                // It has settled: another round would do the same.
                break;
            }
        }
        Self { mean_s, alternative, open: alternative.spread * sqrt(2.0 * std::f64::consts::PI / sleeps.max(1.0)) }
    }

    /// Likelihoods of the gaps over their logarithms, one for each way in which contacts get lost and foreign ones come
    /// in between, less what the period costs and times the way's share in the average.
    fn likelihoods(&self, gaps: &[f64], curve: &Curve) -> [Product; WAYS] {
        let mut products = match self.alternative.half() {
            None => self.products(gaps, |ratio| curve.of(ratio)),
            Some(half) => {
                let edges = Edges::new(half);
                self.products(gaps, |ratio| {
                    let (curve, edges) = (curve.of(ratio), edges.of(ratio));
                    std::array::from_fn(|l| curve[l] + edges[l])
                })
            }
        };
        let kept = self.period_kept();
        for (way, product) in products.iter_mut().enumerate() {
            product.mantissa *= kept * FOREIGN[way % FOREIGN.len()].1;
            product.settle();
        }
        products
    }

    #[inline]
    fn products(&self, gaps: &[f64], densities: impl Fn(f64) -> [f64; LOST.len()]) -> [Product; WAYS] {
        let per_s = 1.0 / self.mean_s;
        let mut products = [Product::ONE; WAYS];
        for chunk in gaps.chunks(PRODUCT_TERMS) {
            for gap_s in chunk {
                for (l, density) in densities(gap_s * per_s).into_iter().enumerate() {
                    for (f, (share, _)) in FOREIGN.into_iter().enumerate() {
                        // A foreign gap lies evenly over the logarithm.
                        products[l * FOREIGN.len() + f].mantissa *= (1.0 - share) * density + share / LN_RANGE;
                    }
                }
            }
            products.iter_mut().for_each(Product::settle);
        }
        products
    }

    /// What is left of a likelihood after its period was chosen from the data: the integral over periods spread evenly over
    /// the logarithm, by Laplace for a bell, by the room that the gaps leave for a box. The null models pay likewise, so that
    /// the ratio is one of marginal likelihoods under the scale's invariant prior, which keeps it an e-value (Pérez-Ortiz
    /// et al. 2022).
    fn period_kept(&self) -> f64 {
        (self.open / LN_RANGE).min(1.0)
    }

    /// What the gaps look like under this alternative.
    fn fit(&self, gaps: &[f64]) -> Fit {
        let (mut fitting, mut single, mut sleeps, mut squares) = (0, 0, 0, 0.0);
        for &g in gaps {
            if let Some(k) = sleeps_in(g / self.mean_s, self.alternative.spread) {
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

/// The sum of the gaps that are one or more sleeps of `mean_s`, and of the sleeps, as [`sleeps_in`] says, but that a half goes to the
/// even number: without a branch or a table, since the period of every bell is refined by it.
fn slept(gaps: &[[f64; LANES]], mean_s: f64, spread: f64) -> (f64, f64) {
    const BEYOND: f64 = (SLEEPS_MAX + 1) as f64;
    // Added to and taken from a small number it leaves the whole number next to it.
    const WHOLE: f64 = 1.5 * (1u64 << 52) as f64;
    let (per_s, variance) = (1.0 / mean_s, 9.0 * spread * spread);
    let (mut sum_s, mut sleeps) = ([0.0; LANES], [0.0; LANES]);
    for gaps in gaps {
        for lane in 0..LANES {
            let ratio = gaps[lane] * per_s;
            let ratio = if ratio < BEYOND { ratio } else { BEYOND };
            let k = (ratio + WHOLE) - WHOLE;
            let k = if k > 1.0 { k } else { 1.0 };
            let (off, reach) = (ratio - k, variance * k);
            let reach = if reach > 0.02 * 0.02 { reach } else { 0.02 * 0.02 };
            let fits = (off * off <= reach) & (k < BEYOND);
            sum_s[lane] += if fits { gaps[lane] } else { 0.0 };
            sleeps[lane] += if fits { k } else { 0.0 };
        }
    }
    (sum_s.iter().sum(), sleeps.iter().sum())
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

/// Densities multiplied before the exponent is set apart: each lies between 0.001 and 200, gaps between 1e-9 and 1e18; eight
/// of them are far inside a double's range.
const PRODUCT_TERMS: usize = 8;

/// A product of densities, its exponent apart, so that one logarithm does for all: logarithms cost the most here. Settled ones are
/// ordered as the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
struct Product {
    exponent: i64,
    /// From 1 up to 2 once settled.
    mantissa: f64,
}

impl Product {
    const ONE: Self = Self { exponent: 0, mantissa: 1.0 };

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

/// Logarithm of the product of gaps.
fn ln_product(gaps: &[f64]) -> f64 {
    let mut product = Product::ONE;
    for chunk in gaps.chunks(PRODUCT_TERMS) {
        chunk.iter().for_each(|gap_s| product.mantissa *= gap_s);
        product.settle();
    }
    product.ln()
}

/// The largest of settled products.
fn most(products: &[Product]) -> Product {
    products.iter().copied().fold(Product { exponent: i64::MIN, mantissa: 1.0 }, |a, b| if b > a { b } else { a })
}

/// Logarithm of the sum of settled products.
fn ln_sum(products: &[Product]) -> f64 {
    let top = most(products).exponent;
    // What lies 2^60 below the largest is nothing beside it.
    let part = |p: &Product| {
        if top - p.exponent < 60 { p.mantissa * f64::from_bits(((1023 - (top - p.exponent)) as u64) << 52) } else { 0.0 }
    };
    log(products.iter().map(part).sum::<f64>()) + top as f64 * std::f64::consts::LN_2
}

#[cfg(test)]
pub(super) mod stream;
#[cfg(test)]
mod tests;
