//! Tests of the statistics alone.
#![allow(clippy::unwrap_used)]

use super::stream::Stream;
use super::*;

fn sleeps(seed: u64, n: usize, period_s: f64, jitter: f64, lost: f64) -> Vec<f64> {
    let mut stream = Stream::new(seed);
    (0..n)
        .map(|_| {
            let mut gap_s = 0.0;
            loop {
                gap_s += period_s * (1.0 - jitter * stream.next());
                if stream.next() >= lost {
                    break gap_s;
                }
            }
        })
        .collect()
}

#[test]
fn a_clock_weighs_much_after_eight_gaps() {
    let fit = weigh(&[30.0; 8], 2.0, f64::NEG_INFINITY).unwrap();
    assert!(fit.weight > 15.0, "{fit:?}");
    assert_eq!((fit.interval_s, fit.jitter, fit.fitting, fit.missed), (30.0, 0.0, 8, 0));
}

#[test]
fn a_lost_contact_counts_as_lost_not_as_jitter() {
    let mut gaps = vec![30.0; 7];
    gaps.insert(3, 60.0);
    let fit = weigh(&gaps, 2.0, f64::NEG_INFINITY).unwrap();
    assert!(fit.weight > 12.0, "{fit:?}");
    assert_eq!((fit.interval_s, fit.missed), (30.0, 1));
    assert!(fit.jitter < 0.001);
}

#[test]
fn weight_grows_with_contacts_and_falls_with_jitter() {
    let weight = |n, jitter| weigh(&sleeps(7, n, 300.0, jitter, 0.0), 2.0, f64::NEG_INFINITY).unwrap().weight;
    assert!(weight(40, 0.5) > weight(20, 0.5));
    assert!(weight(30, 0.1) > weight(30, 0.5));
    assert!(weight(30, 0.5) > 12.0);
}

#[test]
fn a_night_off_does_not_hide_it() {
    let mut gaps = sleeps(3, 24, 300.0, 0.3, 0.0);
    gaps[11] = 36_000.0;
    assert!(weigh(&gaps, 2.0, f64::NEG_INFINITY).unwrap().weight > 10.0);
}

#[test]
fn memoryless_talkers_pass_the_bar_no_more_often_than_stated() {
    // 200 talkers, each looked at after every contact: at a weight of 7 the stated chance is 0.0009 each.
    let mut passed = 0;
    for seed in 0..200 {
        let mut stream = Stream::new(seed + 1);
        let gaps: Vec<f64> = (0..60).map(|_| 2.0 - 60.0 * log(stream.next())).collect();
        passed += usize::from((8..=60).any(|n| weigh(&gaps[..n], 2.0, f64::NEG_INFINITY).is_ok_and(|f| f.weight > 7.0)));
    }
    assert!(passed <= 1, "{passed}");
}

#[test]
fn nothing_is_missed_by_waiting_for_as_many_gaps_as_are_said_to_be_missing() {
    // Memoryless talkers that turn into sleepers, at any time, over all gaps and over the newest 24.
    let mut waited = 0;
    for seed in 0..60 {
        let mut stream = Stream::new(1_000 + seed);
        let turn = 4 + seed as usize % 25;
        let mut gaps: Vec<f64> = (0..turn).map(|_| 2.0 - 60.0 * log(stream.next())).collect();
        gaps.extend(sleeps(seed + 1, 50, 60.0, [0.0, 0.05, 0.3, 0.5][seed as usize % 4], [0.0, 0.1][seed as usize % 2]));
        for window in [usize::MAX, 24] {
            let judged = |n: usize| {
                let weigh = if n < window { weigh } else { weigh_newest };
                weigh(&gaps[n.saturating_sub(window)..n], 2.0, 6.0)
            };
            let mut free = 0;
            for n in 6..gaps.len() {
                match judged(n) {
                    Ok(_) => {
                        assert!(n >= free, "seed {seed}, window {window}: found after {n} gaps, but not looked for before {free}")
                    }
                    Err(more) => free = free.max(n + more),
                }
                waited += usize::from(n < free.saturating_sub(1));
            }
        }
    }
    assert!(waited > 300, "{waited} looks saved");
}

#[test]
fn hostile_gaps_are_refused() {
    assert_eq!(weigh(&[], 2.0, f64::NEG_INFINITY), Err(1));
    assert_eq!(weigh(&[1.0, f64::NAN, 2.0, 3.0], 2.0, f64::NEG_INFINITY), Err(1));
    assert_eq!(weigh(&[0.0; 9], 2.0, f64::NEG_INFINITY), Err(1));
    assert!(weigh(&[1e18; 9], 2.0, f64::NEG_INFINITY).map_or(true, |f| f.weight.is_finite()));
    assert!(weigh(&[1e-9; 9], 2.0, f64::NEG_INFINITY).map_or(true, |f| !f.weight.is_nan()));
    // As many as are kept and more, from the shortest to the longest, in any order.
    let mixed: Vec<f64> = (0..200).map(|i| [1e-9, 1e18, 30.0, 1e-3, 1e9][i * 7 % 5] * (1.0 + i as f64 / 100.0)).collect();
    for n in [3, 94, 95, 96, 200] {
        for least in [f64::NEG_INFINITY, 6.0] {
            assert!(weigh(&mixed[..n], 2.0, least).map_or(true, |f| f.weight.is_finite()), "{n}");
            assert!(n < 9 || weigh(&vec![30.0; n], 2.0, least).is_ok_and(|f| f.weight > 6.0), "{n}");
        }
    }
}

#[test]
fn what_need_not_be_known_is_not_worked_out_and_the_rest_is_the_same() {
    let mut stream = Stream::new(7);
    for round in 0..400 {
        // From clocks to memoryless talkers, and a few that are both.
        let gaps: Vec<f64> = match round % 4 {
            0 => sleeps(round, 8 + round as usize % 60, 60.0, (round % 10) as f64 / 10.0, 0.1),
            1 => (0..20).map(|_| 2.0 - 50.0 * log(stream.next())).collect(),
            2 => (0..12).map(|i| if i % 3 == 0 { 2.0 - 90.0 * log(stream.next()) } else { 30.0 }).collect(),
            _ => sleeps(round, 30, 300.0, 0.5, 0.2),
        };
        let whole = weigh(&gaps, 2.0, f64::NEG_INFINITY);
        for least in [-5.0, 0.0, 9.0, 14.0, 40.0] {
            assert_eq!(weigh(&gaps, 2.0, least).ok(), whole.ok().filter(|fit| fit.weight >= least), "{gaps:?}");
        }
    }
}

#[test]
fn two_rates_come_to_no_more_than_their_bound() {
    let mut stream = Stream::new(11);
    let mut passed_over = 0;
    for round in 0..600u64 {
        let n = 8 + (round % 80) as usize;
        let gaps: Vec<f64> = match round % 5 {
            0 => sleeps(round, n, 60.0, 0.9, 0.2),
            1 => (0..n).map(|_| 2.0 - 50.0 * log(stream.next())).collect(),
            2 => (0..n).map(|i| if i % 3 == 0 { 2.0 - 900.0 * log(stream.next()) } else { 5.0 * stream.next() + 2.0 }).collect(),
            3 => vec![30.0; n],
            _ => sleeps(round, n, 3600.0, 0.1, 0.0),
        };
        let null = null::Gaps::new(&gaps, 2.0);
        let (at_most, is) = (null.two_rates_at_most(), null.two_rates());
        assert!(is <= at_most, "{is} {at_most} {gaps:?}");
        passed_over += usize::from(at_most <= null.simple());
    }
    // Else it saves nothing.
    assert!(passed_over > 250, "{passed_over}");
}

#[test]
fn a_product_is_that_of_its_logarithms() {
    let mut stream = Stream::new(5);
    for n in [1, 7, 8, 9, 95] {
        let terms: Vec<f64> = (0..n).map(|_| libm::exp(60.0 * stream.next() - 45.0)).collect();
        let mut product = Product::ONE;
        for chunk in terms.chunks(PRODUCT_TERMS) {
            chunk.iter().for_each(|t| product.mantissa *= t);
            product.settle();
        }
        let whole: f64 = terms.iter().map(|t| log(*t)).sum();
        assert!(fabs(product.ln() - whole) < 1e-9, "{n}");
    }
}

#[test]
fn the_short_ways_are_exact() {
    assert!(SQRT.iter().enumerate().all(|(k, root)| *root == sqrt(k as f64)));
    let mut stream = Stream::new(3);
    let some = (0..10_000).map(|i| stream.next() * f64::from(i));
    let edges = [0.0, 0.5, 0.499_999_999_999_999_94, 1.5, 2.5, 0.1, 7.999_999_999_999_999, 4_503_599_627_370_497.5, 1e18];
    for value in some.chain(edges) {
        assert_eq!(nearest(value), libm::round(value), "{value:e}");
    }
}

#[test]
fn many_at_a_time_is_one_after_the_other() {
    let mut stream = Stream::new(17);
    for round in 0..300u64 {
        let n = 3 + round as usize % (GAPS_KEPT - 2);
        let period_s = [0.003, 10.0, 300.0, 1e9][round as usize % 4];
        let gaps: Vec<f64> = match round % 3 {
            0 => sleeps(round + 1, n, period_s, stream.next(), 0.3),
            1 => (0..n).map(|_| -period_s * log(stream.next())).collect(),
            _ => (0..n).map(|i| period_s * (i % 5 + 1) as f64).collect(),
        };
        let sorted = sorted(&gaps);
        let mut expected = gaps.clone();
        expected.sort_by(f64::total_cmp);
        assert_eq!(sorted.as_slice(), expected);

        let factors = [1.0, 1.02, 1.35, 2.5, 40.0];
        assert_eq!(densest_of(&sorted, factors), factors.map(|factor| densest(&sorted, factor)));

        let mut filled_up = sorted.clone();
        filled_up.extend(std::iter::repeat_n(0.0, n.next_multiple_of(LANES) - n));
        for Alternative { spread, .. } in &ALTERNATIVES[..BELLS] {
            let (sum_s, sleeps) = slept(filled_up.as_chunks().0, period_s, *spread);
            let fitting = sorted.iter().filter_map(|g| Some((g, sleeps_in(g * (1.0 / period_s), *spread)?)));
            let (expected_s, expected) = fitting.fold((0.0, 0), |(sum_s, sleeps), (g, k)| (sum_s + g, sleeps + k));
            assert!(sleeps == expected as f64 && fabs(sum_s - expected_s) <= 1e-12 * expected_s, "{spread} {period_s} {gaps:?}");
        }
    }
}

#[test]
fn a_sum_of_products_is_that_of_numbers() {
    let mut stream = Stream::new(23);
    for n in 1..60 {
        let values: Vec<f64> = (0..n).map(|_| libm::exp(200.0 * stream.next() - 100.0)).collect();
        let products: Vec<Product> = values
            .iter()
            .map(|value| {
                let mut product = Product { mantissa: *value, ..Product::ONE };
                product.settle();
                product
            })
            .collect();
        assert!(fabs(ln_sum(&products) - log(values.iter().sum())) < 1e-12);
        // Beyond a double's range as well.
        let far: Vec<Product> = products.iter().map(|p| Product { exponent: p.exponent - 5_000, ..*p }).collect();
        assert!(fabs(ln_sum(&far) - ln_sum(&products) + 5_000.0 * std::f64::consts::LN_2) < 1e-9);
        assert!(fabs(most(&products).ln() - log(values.iter().copied().fold(0.0, f64::max))) < 1e-12);
    }
}
