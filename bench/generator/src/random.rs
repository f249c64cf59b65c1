//! Random numbers that are the same on every machine: ChaCha8 streams named by four words, own conversions, libm only.
//!
//! Not for secrets. What always holds: a stream depends on its four words alone, so one host's traffic does not change
//! when another host, habit or attack is added.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A stream of random numbers.
pub struct Random(ChaCha8Rng);

impl Random {
    /// The stream of these four words.
    pub fn of(words: [u64; 4]) -> Self {
        let mut seed = [0; 32];
        for (bytes, word) in seed.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        Self(ChaCha8Rng::from_seed(seed))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`, 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }

    /// Uniform in `0..n`; 0 when `n` is 0. The bias of the multiply-shift is below `n / 2^64`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Exponential with that mean: the gaps of a memoryless source.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * libm::log(1.0 - self.unit())
    }

    /// Log-normal with that median; `sigma` is the deviation of the logarithm. Sizes of transfers look like this.
    pub fn log_normal(&mut self, median: f64, sigma: f64) -> f64 {
        // Box and Muller, one of the pair.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        let normal = radius * libm::cos(std::f64::consts::TAU * self.unit());
        median * libm::exp(sigma * normal)
    }

    /// Pareto from `low` on, cut at `high`. Think times have such a tail.
    pub fn pareto(&mut self, low: f64, shape: f64, high: f64) -> f64 {
        (low * libm::pow(1.0 - self.unit(), -1.0 / shape)).min(high)
    }

    /// A rank in `0..n` with probability about `1 / (rank + 1)`: popularity of sites.
    pub fn rank(&mut self, n: u64) -> u64 {
        let drawn = libm::exp(self.unit() * libm::log(n as f64 + 1.0)) - 1.0;
        (drawn as u64).min(n.saturating_sub(1))
    }

    /// One of the slice; `None` when it is empty.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }

    /// A port from the range clients call from (RFC 6335, 49152..=65535).
    pub fn client_port(&mut self) -> u16 {
        49_152 + self.below(16_384) as u16
    }
}

/// Mixes words into one: fixed properties of a host or name that need no stream (the SplitMix64 finaliser, chained).
pub fn mix(words: &[u64]) -> u64 {
    let mut hash = 0x9e37_79b9_7f4a_7c15_u64;
    for &word in words {
        hash = hash.wrapping_add(word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^= hash >> 31;
    }
    hash
}

/// `mix` as a share in `[0, 1)`.
pub fn share(words: &[u64]) -> f64 {
    (mix(words) >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_have_the_promised_means_and_bounds() {
        let mut random = Random::of([1, 2, 3, 4]);
        let n = 20_000;
        let mean = (0..n).map(|_| random.exponential(10.0)).sum::<f64>() / f64::from(n);
        assert!((9.5..10.5).contains(&mean), "{mean}");
        let mut sizes: Vec<f64> = (0..n).map(|_| random.log_normal(100.0, 1.0)).collect();
        sizes.sort_by(f64::total_cmp);
        assert!((95.0..105.0).contains(&sizes[n as usize / 2]));
        let tail = (0..n).map(|_| random.pareto(3.0, 1.3, 900.0)).fold(0.0, f64::max);
        assert!(tail > 300.0 && tail <= 900.0);
        let first = (0..n).filter(|_| random.rank(1000) == 0).count();
        assert!((1500..2500).contains(&first), "log(2)/log(1001) is a tenth, got {first}");
        assert!((0..n).all(|_| random.client_port() >= 49_152 && random.below(7) < 7));
        assert_eq!((random.below(0), random.one_of::<u8>(&[])), (0, None));
    }
}
