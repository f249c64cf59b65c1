//! The goals that all parts decide together: alerts per benign host-day, by detector and in sum.

use super::interval::poisson;
use super::measure::{Benign, Goal, Origin, Part};

/// Kinds of signals of a budget, in words, and alerts per benign host-day at most (detection.md 1).
const BUDGETS: [(&str, &[&str], f64); 5] = [
    ("beaconing", &["ndr.beaconing"], 0.2),
    ("DGA", &["ndr.dns_dga"], 0.05),
    ("DNS tunnel / exfil", &["ndr.dns_exfil"], 0.05),
    ("egress volume", &["ndr.egress_volume"], 0.1),
    ("fan-out and scans", &["ndr.scan", "ndr.lateral"], 0.2),
];
const ALL: f64 = 0.5;
/// Of a kind that detection.md gives no budget: the least of the others'.
const LEAST: f64 = 0.05;

/// Alerts per benign host-day that one rule kind may have; kinds that share a budget have equal parts of it.
pub fn budget_of(rule_kind: &str) -> f64 {
    let kind = format!("ndr.{rule_kind}");
    let budget = BUDGETS.iter().find(|(_, kinds, _)| kinds.contains(&kind.as_str()));
    budget.map_or(LEAST, |(_, kinds, most)| most / kinds.len() as f64)
}

/// Origins with their names.
pub const ORIGINS: [(Origin, &str); 3] =
    [(Origin::Real, "real days"), (Origin::Replayed, "real days, replayed"), (Origin::Synthetic, "generator")];

/// Adds them, and puts all into the order of the reference.
pub fn over_all(part: &mut Part, data: bool) {
    for (origin, name) in ORIGINS {
        let days = host_days(&part.benign, origin);
        if days == 0.0 {
            continue;
        }
        for (what, kinds, most) in BUDGETS {
            let n = kinds.iter().map(|k| count(&part.benign, origin, Some(*k))).sum();
            part.goals.push(budget(what, name, n, days, most));
        }
        let n = count(&part.benign, origin, None);
        part.goals.push(budget("all together", name, n, days, ALL));
    }
    let dga: usize = part.benign.iter().map(|b| b.count(Some("ndr.dns_dga"))).sum();
    let ours = format!("{dga} in {} sets", part.benign.len());
    let what = if data {
        "0 alerts of generated names on all benign days"
    } else {
        "0 alerts of generated names on the generator's benign days"
    };
    part.goals.push(Goal::of("3.4", what, dga == 0, ours, "Slips 205 in one day"));
    part.goals.sort_by(|a, b| a.section.cmp(&b.section));
}

/// Host-days of an origin.
pub fn host_days(benign: &[Benign], origin: Origin) -> f64 {
    benign.iter().filter(|b| b.origin == origin).map(|b| b.host_days).sum()
}

/// Alerts of an origin on sets that have host-days.
pub fn count(benign: &[Benign], origin: Origin, kind: Option<&str>) -> usize {
    benign.iter().filter(|b| b.origin == origin && b.host_days > 0.0).map(|b| b.count(kind)).sum()
}

fn budget(what: &str, origin: &str, n: usize, days: f64, most: f64) -> Goal {
    let (low, high) = poisson(n, days);
    let rate = n as f64 / days;
    let ours = format!("{n} in {days:.1} host-days: {rate:.3} (95 % {low:.3} to {high:.3})");
    let peers = match (what, origin) {
        ("beaconing", "real days") => "RITA >= .5/.7/.9 14.5/7.0/1.0; Elastic 5.0/1.5; flowscope 5.0/16.0; Sentinel, sigwood 0",
        ("egress volume", "real days") => "Slips, sigwood 0; flowscope 9 in both days",
        ("fan-out and scans", "real days") => "random walk 38 verdicts in both days, first contacts only 3; Zeek (250) 0",
        ("all together", "real days") => "Slips 261 high in one day",
        _ => "",
    };
    Goal::of("1", &format!("{what}: at most {most} alerts a benign host-day [{origin}]"), rate <= most, ours, peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_held_against_its_budget_and_goals_come_in_order() {
        let mut part = Part::default();
        part.goals.push(Goal::of("8", "last", true, String::new(), ""));
        part.benign.push(Benign::of("days", Origin::Real, 4.0, 0, []));
        over_all(&mut part, true);
        assert_eq!(part.goals.len(), 8);
        assert_eq!(part.goals.last().map(|g| g.goal.as_str()), Some("last"));
        assert!(part.goals.iter().all(|g| g.met == Some(true)), "{:?}", part.goals);
        assert!(budget("x", "y", 3, 4.0, 0.5).met == Some(false));
        assert_eq!([budget_of("beaconing"), budget_of("scan"), budget_of("long_connection")], [0.2, 0.1, 0.05]);
    }
}
