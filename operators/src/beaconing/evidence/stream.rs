//! Seeded numbers for tests: the same on every machine.

/// A fixed stream of numbers in (0, 1).
pub(in crate::beaconing) struct Stream(u64);

impl Stream {
    pub(in crate::beaconing) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::beaconing) fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}
