//! How a label's letters follow each other among ordinary names: what each letter costs after the two before it. The table of
//! costs is learned from benign names; rare sequences cost much. Decides nothing.
//!
//! Always holds: no allocation; sums of integers, so the same label gives the same numbers on every machine.

use super::grams::{CODES, Coded};

/// Bytes of the table: the cost of a code after two others.
pub const CHAIN_BYTES: usize = CODES * CODES * CODES;

/// Costs are in sixteenths of a nat.
pub const COST_UNIT: f32 = 16.0;

/// Numbers that [`measures`] gives.
pub const CHAIN_MEASURES: usize = 7;

/// A step that costs as much is a strange one: 5 nats, one in 150.
const STRANGE: u32 = 80;

/// Where a cost lies in the table.
pub fn place(before: u8, last: u8, next: u8) -> usize {
    (usize::from(before) * CODES + usize::from(last)) * CODES + usize::from(next)
}

/// Measures of a label by a table of [`CHAIN_BYTES`], each about 0 to 1.
pub fn measures(table: &[u8], label: &Coded) -> [f32; CHAIN_MEASURES] {
    let codes = label.codes();
    let (mut sum, mut most, mut strange, mut worst, mut start) = (0_u32, 0_u32, 0_u32, 0_u32, 0_u32);
    let mut lately = [0_u32; 3];
    let mut before = 1;
    let mut last = 1;
    for (n, &next) in codes[1..].iter().enumerate() {
        let cost = u32::from(table[place(before, last, next)]);
        (before, last) = (last, next);
        sum += cost;
        most = most.max(cost);
        strange += u32::from(cost >= STRANGE);
        lately = [lately[1], lately[2], cost];
        worst = worst.max(lately.iter().sum());
        if n < 3 {
            start += cost;
        }
    }
    let steps = (codes.len() - 1) as f32;
    let of = |cost: u32, nats: f32| cost as f32 / (nats * COST_UNIT);
    [
        of(sum, 4.0) / steps,
        of(most, 12.0),
        of(worst, 24.0),
        strange as f32 / steps,
        strange.min(8) as f32 / 8.0,
        of(start, 12.0),
        of(sum.min(1600), 100.0),
    ]
}
