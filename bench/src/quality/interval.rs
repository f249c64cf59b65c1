//! Intervals at 95 %: Wilson's for shares, the exact one of Poisson for rates. Arithmetic alone; knows no detector.

/// Standard normal quantile of 97.5 %.
const Z: f64 = 1.959_963_984_540_054;

/// Wilson's interval of a share, `found` of `of`; (0, 1) of nothing.
pub fn wilson(found: usize, of: usize) -> (f64, f64) {
    if of == 0 {
        return (0.0, 1.0);
    }
    let (n, p) = (of as f64, found as f64 / of as f64);
    let middle = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((middle - half).max(0.0), (middle + half).min(1.0))
}

/// The exact interval (Garwood) of a rate: `events` in `exposure`. With no event the upper end is 3.69 / exposure; who
/// asks one-sided says 3.0.
pub fn poisson(events: usize, exposure: f64) -> (f64, f64) {
    if exposure <= 0.0 {
        return (0.0, f64::INFINITY);
    }
    let low = if events == 0 { 0.0 } else { solve(|mean| 1.0 - below(events - 1, mean), 0.025) };
    let high = solve(|mean| 1.0 - below(events, mean), 0.975);
    (low / exposure, high / exposure)
}

/// Probability of at most so many events at a mean.
fn below(events: usize, mean: f64) -> f64 {
    let (mut term, mut sum) = (libm::exp(-mean), 0.0);
    for n in 0..=events {
        sum += term;
        term *= mean / (n + 1) as f64;
    }
    sum
}

/// Where a function that grows with the mean reaches a value.
fn solve(f: impl Fn(f64) -> f64, value: f64) -> f64 {
    // Means up to 600 keep exp(-mean) a normal number; more events than that nobody reads an exact interval of.
    let (mut low, mut high) = (0.0, 600.0);
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if f(middle) < value { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_tables() {
        let near = |a: f64, b: f64| (a - b).abs() < 5e-4;
        let (low, high) = wilson(9, 10);
        assert!(near(low, 0.5958) && near(high, 0.9821), "{low} {high}");
        let (low, high) = wilson(0, 20);
        assert!(near(low, 0.0) && near(high, 0.1611), "{low} {high}");
        let (low, high) = poisson(0, 1.0);
        assert!(near(low, 0.0) && near(high, 3.6889), "{low} {high}");
        let (low, high) = poisson(10, 2.0);
        assert!(near(low, 4.7954 / 2.0) && near(high, 18.3904 / 2.0), "{low} {high}");
        assert_eq!(wilson(0, 0), (0.0, 1.0));
    }
}
