//! Measures of scores: area under the curve, share found at a share of false alarms, calibration. Knows no names.

/// A score with what is true.
#[derive(Clone, Copy, Debug)]
pub struct Scored {
    /// The score.
    pub score: f32,
    /// Made up by a machine.
    pub generated: bool,
}

/// Area under the curve: how often a generated name scores above a benign one, ties counting half.
pub fn area(all: &[Scored]) -> f64 {
    let mut sorted: Vec<Scored> = all.to_vec();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let (mut below, mut wins, mut start) = (0_f64, 0_f64, 0);
    while start < sorted.len() {
        let end = start + sorted[start..].partition_point(|s| s.score <= sorted[start].score);
        let generated = sorted[start..end].iter().filter(|s| s.generated).count() as f64;
        let benign = (end - start) as f64 - generated;
        wins += generated * (below + benign / 2.0);
        below += benign;
        start = end;
    }
    wins / (below * (all.len() as f64 - below)).max(1.0)
}

/// The lowest threshold at which at most that share of these scores lies at or above it.
pub fn threshold(benign: &[f32], share: f64) -> f32 {
    let mut sorted = benign.to_vec();
    sorted.sort_by(|a, b| b.total_cmp(a));
    let allowed = (sorted.len() as f64 * share) as usize;
    sorted.get(allowed).map_or(0.0, |s| s.next_up())
}

/// Share of scores at or above a threshold.
pub fn share(scores: &[f32], threshold: f32) -> f64 {
    scores.iter().filter(|s| **s >= threshold).count() as f64 / scores.len().max(1) as f64
}

/// Expected calibration error over ten bins, benign and generated names weighing the same.
pub fn calibration_error(all: &[Scored]) -> f64 {
    let generated = all.iter().filter(|s| s.generated).count() as f64;
    let benign = all.len() as f64 - generated;
    let mut bins = [(0.0_f64, 0.0_f64, 0.0_f64); 10];
    for s in all {
        let weight = if s.generated { 0.5 / generated } else { 0.5 / benign };
        let bin = &mut bins[((s.score * 10.0) as usize).min(9)];
        bin.0 += weight;
        bin.1 += weight * f64::from(s.score);
        bin.2 += if s.generated { weight } else { 0.0 };
    }
    bins.iter().map(|(_, score, truth)| (score - truth).abs()).sum()
}

/// Slope and shift that make logits probabilities (Platt), benign and generated names weighing the same.
pub fn calibrate(logits: &[Scored]) -> (f32, f32) {
    let generated = logits.iter().filter(|s| s.generated).count() as f64;
    let benign = logits.len() as f64 - generated;
    let (mut slope, mut shift) = (0.1_f64, 0.0_f64);
    for _ in 0..200 {
        // Newton's method on two numbers.
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for s in logits {
            let x = f64::from(s.score);
            let p = 1.0 / (1.0 + libm::exp(-(slope * x + shift)));
            let (weight, y) = if s.generated { (0.5 / generated, 1.0) } else { (0.5 / benign, 0.0) };
            let (e, c) = (weight * (p - y), weight * p * (1.0 - p));
            g0 += e * x;
            g1 += e;
            h00 += c * x * x;
            h01 += c * x;
            h11 += c;
        }
        let determinant = h00 * h11 - h01 * h01;
        // Short steps: far from the answer the curve is flat and a whole step overshoots.
        slope -= ((h11 * g0 - h01 * g1) / determinant).clamp(-0.05, 0.05);
        shift -= ((h00 * g1 - h01 * g0) / determinant).clamp(-0.1, 0.1);
    }
    (slope as f32, shift as f32)
}
