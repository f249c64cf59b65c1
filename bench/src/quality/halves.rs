//! Thresholds fixed on one half of the material and judged on the other (detection.md 10.7). Cases and traffic without
//! attacks are divided by a hash of what they are, never by what came of them; each half has offices of its own. On half A the
//! deciding threshold of each detector is tried around its shipped value; half B is run with what A chose and with what is
//! shipped, and with nothing else.
//!
//! Changes no default: what A chose and what B says of it stands in the report. What always holds: the same thing is in the
//! same half however often this is run, and the rule of choice sees half A alone.

mod beacons;
mod held;
mod look_ups;
mod ordinary;
mod scans;
pub mod table;
mod tally;
mod uploads;

use anyhow::{Context as _, Result};
use serde::Serialize;
use tidewatch_generator::random::mix;
use tidewatch_operators::rule::Rule;

use self::tally::{Score, Tally};
use super::Context;
use super::goals;
use super::interval::wilson;
use super::measure::Part;

/// A half of the material.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// Thresholds are chosen on it.
    A,
    /// They are judged on it.
    B,
}

impl Half {
    /// Seeds of the halves lie apart, and apart from those of the grids.
    fn seed(self, context: &Context) -> u64 {
        context.seed + [1_000, 2_000][self as usize]
    }

    /// For names of folders.
    fn name(self) -> &'static str {
        ["a", "b"][self as usize]
    }

    /// Those of the things that are in this half: in the order of the hash of what each is called, every other one, so
    /// that the halves differ by one at most.
    pub fn of<T>(self, things: Vec<T>, name: impl Fn(&T) -> String) -> Vec<T> {
        let mut named: Vec<(u64, String, T)> = things
            .into_iter()
            .map(|thing| {
                let name = name(&thing);
                (mix(&name.bytes().map(u64::from).collect::<Vec<_>>()), name, thing)
            })
            .collect();
        named.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        named.into_iter().skip(self as usize).step_by(2).map(|(_, _, thing)| thing).collect()
    }
}

/// What is turned: one threshold of a rule, or several in proportion.
struct Dial {
    /// Rule kind.
    kind: &'static str,
    /// Names of the thresholds.
    thresholds: &'static [&'static str],
    /// The values are factors on the shipped ones.
    factors: bool,
    /// Values tried; the shipped one is tried besides.
    values: &'static [f64],
    /// What else decides and is no threshold.
    about: &'static str,
}

impl Dial {
    fn shipped(&self, rule: &Rule) -> f64 {
        if self.factors { 1.0 } else { self.thresholds.first().map_or(0.0, |name| rule.threshold(name)) }
    }

    fn values(&self, rule: &Rule) -> Vec<f64> {
        let mut values = self.values.to_vec();
        values.push(self.shipped(rule));
        values.sort_by(f64::total_cmp);
        values.dedup();
        values
    }

    /// The shipped rule with this value; with the shipped value it is the shipped rule.
    fn rule(&self, shipped: &Rule, value: f64) -> Rule {
        let mut rule = shipped.clone();
        if value != self.shipped(shipped) {
            rule.id = format!("{}-{}-{value}", shipped.id, self.thresholds.join("-"));
            for name in self.thresholds {
                let value = if self.factors { shipped.threshold(name) * value } else { value };
                rule.thresholds.insert((*name).to_owned(), value);
            }
        }
        rule
    }
}

/// What came of one dial.
#[derive(Clone, Debug, Serialize)]
pub struct Sweep {
    /// Signal kind.
    pub detector: String,
    /// Thresholds turned.
    pub thresholds: Vec<String>,
    /// Values are factors on the shipped ones.
    pub factors: bool,
    /// Alerts per benign host-day at most.
    pub budget: f64,
    /// Values with what came of them on half A, in order.
    pub tried_on_a: Vec<Tried>,
    /// Chosen on half A.
    pub chosen: f64,
    /// Shipped.
    pub shipped: f64,
    /// The chosen one on half B.
    pub chosen_on_b: Score,
    /// The shipped one on half B.
    pub shipped_on_b: Score,
    /// What follows, in words.
    pub verdict: String,
    /// What else decides and is no threshold.
    pub about: String,
}

/// One value on half A.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// The value.
    pub value: f64,
    /// What came of it.
    pub score: Score,
}

/// Runs the material of a half under rules and tells the tally of it.
type Material = fn(&Context, Half, &[Rule], &mut Tally) -> Result<()>;

/// Beaconing.
pub fn beacons(context: &Context) -> Result<Part> {
    let about = "the weights that evidence must reach (9, 5 and 14 to 16) are constants of the detector, no thresholds of its rule, and are not turned here";
    let dial = |thresholds, values| Dial { kind: "beaconing", thresholds, factors: false, values, about };
    let dials =
        [dial(&["min_samples"], &[5.0, 6.0, 8.0, 10.0, 13.0, 18.0]), dial(&["max_jitter"], &[0.25, 0.35, 0.45, 0.55, 0.65])];
    sweep(context, &dials, beacons::material)
}

/// Generated names and data in names.
pub fn look_ups(context: &Context) -> Result<Part> {
    let dials = [
        Dial {
            kind: "dns_dga",
            thresholds: &["evidence"],
            factors: false,
            values: &[4.0, 6.0, 9.0, 13.0, 18.0, 25.0],
            about: "",
        },
        Dial { kind: "dns_dga", thresholds: &["score"], factors: false, values: &[0.6, 0.7, 0.8, 0.9, 0.97], about: "" },
        Dial {
            kind: "dns_exfil",
            thresholds: &["bytes_10s", "bytes_10m", "bytes_1h", "bytes_24h"],
            factors: true,
            values: &[0.25, 0.5, 1.0, 2.0, 4.0],
            about: "",
        },
    ];
    sweep(context, &dials, look_ups::material)
}

/// Egress volume.
pub fn uploads(context: &Context) -> Result<Part> {
    let about = "hours count at 0.6 and eight hours at 0.4 of it, by constants of the detector";
    let dial = |thresholds, values| Dial { kind: "egress_volume", thresholds, factors: false, values, about };
    let dials = [dial(&["spike_factor"], &[4.0, 6.0, 10.0, 16.0, 25.0, 40.0])];
    sweep(context, &dials, uploads::material)
}

/// Scans and lateral movement.
pub fn scans(context: &Context) -> Result<Part> {
    let dials = [
        Dial {
            kind: "scan",
            thresholds: &["targets", "ports"],
            factors: true,
            values: &[0.4, 0.6, 0.8, 1.0, 1.5, 2.0],
            about: "",
        },
        Dial { kind: "lateral", thresholds: &["fanout"], factors: false, values: &[4.0, 6.0, 8.0, 10.0, 14.0, 20.0], about: "" },
        Dial { kind: "lateral", thresholds: &["fanout_day"], factors: false, values: &[6.0, 9.0, 12.0, 18.0, 26.0], about: "" },
    ];
    sweep(context, &dials, scans::material)
}

/// Held connections.
pub fn held(context: &Context) -> Result<Part> {
    const HOUR: f64 = 3_600.0;
    let about = "detection.md gives long connections no budget of their own; the least of the others' is taken";
    let dial = |thresholds, values| Dial { kind: "long_connection", thresholds, factors: false, values, about };
    let dials = [dial(&["open_s"], &[12.0 * HOUR, 24.0 * HOUR, 36.0 * HOUR, 48.0 * HOUR, 72.0 * HOUR, 96.0 * HOUR])];
    sweep(context, &dials, held::material)
}

fn sweep(context: &Context, dials: &[Dial], material: Material) -> Result<Part> {
    let mut part = Part::default();
    let shipped: Vec<&Rule> = dials
        .iter()
        .map(|dial| context.rules.iter().find(|r| r.kind == dial.kind).with_context(|| format!("no rule of {}", dial.kind)))
        .collect::<Result<_>>()?;
    let mut on = |half: Half, wanted: Vec<Rule>| -> Result<Tally> {
        let mut rules: Vec<Rule> = Vec::new();
        for rule in wanted {
            if rules.iter().all(|r| r.id != rule.id) {
                rules.push(rule);
            }
        }
        let mut tally = Tally::of(&rules);
        material(context, half, &rules, &mut tally)?;
        part.rows += tally.rows;
        if tally.lost > 0 {
            part.notes.push(format!(
                "half {half:?} of {}: {} of {} rows were rejected or late",
                dials[0].kind,
                tally.lost,
                tally.rows + tally.lost
            ));
        }
        Ok(tally)
    };
    let all = dials.iter().zip(&shipped).flat_map(|(dial, rule)| dial.values(rule).into_iter().map(|v| dial.rule(rule, v)));
    let on_a = on(Half::A, all.collect())?;
    let mut choices = Vec::new();
    for (dial, rule) in dials.iter().zip(&shipped) {
        let budget = goals::budget_of(dial.kind);
        let tried: Vec<Tried> =
            dial.values(rule).into_iter().map(|value| Tried { value, score: on_a.score(&dial.rule(rule, value)) }).collect();
        let chosen = choose(&tried, dial.shipped(rule), budget);
        choices.push((dial, *rule, budget, tried, chosen));
    }
    let judged = choices.iter().flat_map(|(dial, rule, _, _, chosen)| [(*rule).clone(), dial.rule(rule, *chosen)]);
    let on_b = on(Half::B, judged.collect())?;
    for (dial, rule, budget, tried, chosen) in choices {
        let (chosen_on_b, shipped_on_b) = (on_b.score(&dial.rule(rule, chosen)), on_b.score(rule));
        let shipped = dial.shipped(rule);
        part.halves.push(Sweep {
            detector: format!("ndr.{}", dial.kind),
            thresholds: dial.thresholds.iter().map(|t| (*t).to_owned()).collect(),
            factors: dial.factors,
            budget,
            tried_on_a: tried,
            chosen,
            shipped,
            verdict: verdict(chosen, shipped, &chosen_on_b, &shipped_on_b, budget, on_a.score(rule).rate() > budget),
            chosen_on_b,
            shipped_on_b,
            about: dial.about.to_owned(),
        });
    }
    Ok(part)
}

/// The most found among the values whose alerts are within the budget; of equals the nearest to the shipped one. Where none
/// is within it, among those with the fewest alerts.
fn choose(tried: &[Tried], shipped: f64, budget: f64) -> f64 {
    let least = tried.iter().map(|t| t.score.rate()).fold(f64::INFINITY, f64::min);
    let most = tried.iter().filter(|t| t.score.rate() <= budget.max(least)).max_by(|a, b| {
        let near = |t: &Tried| (t.value - shipped).abs();
        a.score.detected.cmp(&b.score.detected).then(near(b).total_cmp(&near(a)))
    });
    most.map_or(shipped, |t| t.value)
}

/// What half B says of the chosen value. `over` = the shipped one is over its budget on half A.
fn verdict(chosen: f64, shipped: f64, on_b: &Score, shipped_on_b: &Score, budget: f64, over: bool) -> String {
    let over = if over { "the shipped one is over its budget on A; " } else { "" };
    if chosen == shipped {
        return format!("{over}A chooses what is shipped");
    }
    let (low, high) = wilson(on_b.detected, on_b.positives);
    let (shipped_low, shipped_high) = wilson(shipped_on_b.detected, shipped_on_b.positives);
    let says = if on_b.rate() > budget {
        "is over its budget on B: the shipped one stays"
    } else if low > shipped_high {
        "finds clearly more on B, within its budget"
    } else if high < shipped_low {
        "finds clearly less on B: the shipped one stays"
    } else if shipped_on_b.rate() > budget {
        "finds as much on B and is within its budget, where the shipped one is not"
    } else {
        "differs on B by no more than chance allows, and both are within their budget: the shipped one stays"
    };
    format!("{over}A chooses another, which {says}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::tally::Exposure;
    use super::*;
    use crate::quality::way;

    fn tried(value: f64, detected: usize, alerts: usize) -> Tried {
        let generated = Exposure { alerts, host_days: 10.0 };
        Tried { value, score: Score { positives: 10, detected, generated, ..Score::default() } }
    }

    #[test]
    fn the_most_within_the_budget_is_chosen_and_of_equals_the_nearest() {
        let all = [tried(1.0, 10, 9), tried(2.0, 9, 1), tried(3.0, 9, 1), tried(4.0, 7, 0)];
        assert_eq!(choose(&all, 4.0, 0.2), 3.0);
        assert_eq!(choose(&all, 1.0, 0.2), 2.0);
        assert_eq!(choose(&all, 1.0, 1.0), 1.0);
        assert_eq!(choose(&all[..3], 3.0, 0.0), 3.0, "none is within it: the fewest alerts");
    }

    #[test]
    fn halves_take_everything_once_whatever_its_order() {
        let things: Vec<u32> = (0..101).collect();
        let name = |n: &u32| format!("case {n}");
        let (mut a, b) = (Half::A.of(things.clone(), name), Half::B.of(things.clone(), name));
        assert_eq!((a.len(), b.len()), (51, 50));
        assert_eq!(Half::A.of(things.iter().rev().copied().collect(), name), a);
        a.extend(b);
        a.sort_unstable();
        assert_eq!(a, things);
    }

    #[test]
    fn dials_turn_thresholds_that_rules_have_and_try_the_shipped_value() {
        let rules = way::shipped().unwrap();
        let rule = rules.iter().find(|r| r.kind == "scan").unwrap();
        let dial = Dial { kind: "scan", thresholds: &["targets", "ports"], factors: true, values: &[0.5, 2.0], about: "" };
        assert_eq!(dial.values(rule), [0.5, 1.0, 2.0]);
        assert_eq!(&dial.rule(rule, 1.0), rule);
        let half = dial.rule(rule, 0.5);
        assert_ne!(half.id, rule.id);
        assert_eq!(half.threshold("ports"), rule.threshold("ports") / 2.0);
    }

    #[test]
    fn another_value_is_better_only_where_the_intervals_part_and_the_budget_holds() {
        let score = |detected, alerts| tried(0.0, detected, alerts).score;
        let says = |chosen, on_b, shipped_on_b, over| verdict(chosen, 1.0, &on_b, &shipped_on_b, 0.1, over);
        assert_eq!(says(1.0, score(1, 0), score(1, 0), false), "A chooses what is shipped");
        assert!(says(2.0, score(10, 9), score(1, 0), false).contains("over its budget on B"));
        assert!(says(2.0, score(10, 0), score(1, 0), false).contains("clearly more"));
        assert!(says(2.0, score(1, 0), score(10, 0), true).contains("clearly less"));
        assert!(says(2.0, score(10, 0), score(9, 0), true).starts_with("the shipped one is over its budget on A"));
        assert!(says(2.0, score(10, 0), score(9, 5), false).contains("where the shipped one is not"));
    }
}
