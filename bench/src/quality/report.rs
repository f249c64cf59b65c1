//! The report: one text for readers, one JSON for machines, and what is shown on a terminal. Everything that was measured
//! stands there, good or bad; nothing is decided here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use tidewatch_operators::rule::Rule;

use super::goals::{ORIGINS, count, host_days};
use super::halves;
use super::interval::{poisson, wilson};
use super::measure::{Case, Goal, Part, Point};

/// About the run.
pub struct Head {
    /// Seed.
    pub seed: u64,
    /// The development sets were there.
    pub data: bool,
    /// How long it took.
    pub wall_s: f64,
}

/// Confidence bins of the calibration, by their lower ends.
const BINS: [u8; 6] = [0, 40, 50, 60, 70, 80];

/// What a terminal shows.
pub fn terminal(head: &Head, part: &Part) -> String {
    let mut out = String::new();
    for goal in &part.goals {
        let _ = writeln!(out, "{:<7} {:<4} {}: {}", met(goal), goal.section, goal.goal, goal.ours);
    }
    for (name, value) in &part.figures {
        let _ = writeln!(out, "{name}: {value}");
    }
    for (kind, state) in &part.states {
        let _ = writeln!(out, "state of {kind}: {} bytes a key ({} keys)", state.bytes / state.keys.max(1), state.keys);
    }
    let _ = writeln!(out, "{}; {:.0} s", sums(part), head.wall_s);
    out
}

fn sums(part: &Part) -> String {
    let of = |met: Option<bool>| part.goals.iter().filter(|g| g.met == met).count();
    format!("goals: {} met, {} missed, {} not decided", of(Some(true)), of(Some(false)), of(None))
}

fn met(goal: &Goal) -> &'static str {
    match goal.met {
        Some(true) => "met",
        Some(false) => "MISSED",
        None => "open",
    }
}

/// The report for readers.
pub fn markdown(head: &Head, rules: &[Rule], part: &Part) -> String {
    let mut out = format!(
        "<!-- Made by `cargo run --release -p tidewatch-bench -- quality`; do not edit. -->\n\n# Detection quality\n\n\
         tidewatch {}, seed {}, {} rows, {:.0} s on this machine. {}\n\n\
         Everything runs on the product's own way (`tidewatch backtest` over Zeek logs, in this process) with the rules that are shipped. \
         An alert is a record of medium severity or more, once per kind, entity, destination and hour. Times and contacts are those \
         until `decided_at`. Intervals are at 95 %: Wilson's for recall, Poisson's exact one for rates. {}.\n",
        env!("CARGO_PKG_VERSION"),
        head.seed,
        part.rows,
        head.wall_s,
        if head.data { "Development sets and generator." } else { "Without the development sets: the generator's part alone." },
        sums(part),
    );
    out += "\n## Goals\n\n| detection.md | goal | ours | | peers |\n| --- | --- | --- | --- | --- |\n";
    for goal in &part.goals {
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            goal.section,
            cell(&goal.goal),
            cell(&goal.ours),
            met(goal),
            cell(&goal.peers)
        );
    }
    recall(&mut out, part);
    benign(&mut out, part);
    halves::table::section(&mut out, &part.halves);
    out += "\n## State\n\nAt the end of the run that held most bytes of it; a key is a host. Limits and what happens there: docs/limits.md.\n\n| detector | keys | bytes a key |\n| --- | ---: | ---: |\n";
    for (kind, state) in &part.states {
        let _ = writeln!(out, "| {kind} | {} | {} |", state.keys, state.bytes / state.keys.max(1));
    }
    out += "\n## Other figures\n\n";
    for (name, value) in &part.figures {
        let _ = writeln!(out, "- {name}: {value}.");
    }
    calibration(&mut out, &part.points);
    out += "\n## Rules and operating points\n\n| rule | version | severity at most | base confidence | thresholds |\n| --- | ---: | --- | ---: | --- |\n";
    for rule in rules {
        let thresholds: Vec<String> = rule.thresholds.iter().map(|(name, value)| format!("`{name}` {value}")).collect();
        let _ = writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            rule.id,
            rule.version,
            rule.severity.name(),
            rule.base_confidence,
            thresholds.join(", ")
        );
    }
    out += "\n## What to know\n\n";
    for note in &part.notes {
        let _ = writeln!(out, "- {note}.");
    }
    out += "- The shipped thresholds of `dns_exfil` were fixed after a look at the first seconds of both tunnels, those of `scan` on one seed of the generator \
            (seeds here are others), those of the other detectors without a split: figures of recall above on captured sets are for tuning, not for \
            claims. What a split says of them is in the section about halves.\n\
            - The generator was written by those who wrote the detectors. What it does not think of, nobody measured.\n";
    out
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn kinds(part: &Part) -> BTreeMap<&str, Vec<&Case>> {
    let mut by: BTreeMap<&str, Vec<&Case>> = BTreeMap::new();
    for case in &part.cases {
        by.entry(&case.kind).or_default().push(case);
    }
    by
}

fn recall(out: &mut String, part: &Part) {
    *out += "\n## Recall\n\n`low`: told of, but below an alert. `few`: with fewer than five contacts, listed and not counted. Seconds and contacts: \
             median / nine in ten / last of those found; of scans the contacts are targets that failed, of look-ups the names.\n";
    for (kind, cases) in kinds(part) {
        let _ = write!(
            out,
            "\n### {kind}\n\n| set | half | case | found | recall | 95 % | low | few | seconds | contacts | rank | |\n\
             | --- | --- | --- | ---: | ---: | --- | ---: | ---: | --- | --- | ---: | --- |\n"
        );
        for case in cases {
            let (low, high) = wilson(case.detected, case.positives);
            let three = |v: [f64; 3], digits: usize| {
                if case.found.is_empty() {
                    "-".to_owned()
                } else {
                    format!("{:.digits$} / {:.digits$} / {:.digits$}", v[0], v[1], v[2])
                }
            };
            let _ = writeln!(
                out,
                "| {} | {} | {} | {} of {} | {:.3} | {low:.3}-{high:.3} | {} | {} | {} | {} | {} | {} |",
                case.set,
                case.half,
                cell(&case.case),
                case.detected,
                case.positives,
                case.recall(),
                case.low_only,
                case.too_few,
                three(case.seconds(), 1),
                three(case.contacts(), 0),
                case.rank.map_or("-".to_owned(), |r| r.to_string()),
                cell(&case.note),
            );
        }
    }
}

fn benign(out: &mut String, part: &Part) {
    *out += "\n## Alerts on benign traffic\n\nPer host-day, by detector; sets without host-days (look-ups of one client, single captures) are below.\n\n\
             | detector | real days | real days, replayed | generator |\n| --- | --- | --- | --- |\n";
    let kinds: std::collections::BTreeSet<&str> = part
        .benign
        .iter()
        .flat_map(|b| b.alerts.keys().map(String::as_str))
        .chain(part.cases.iter().map(|c| c.kind.as_str()))
        .collect();
    let rate = |origin, kind: Option<&str>| {
        let days = host_days(&part.benign, origin);
        if days == 0.0 {
            return "-".to_owned();
        }
        let n = count(&part.benign, origin, kind);
        let (low, high) = poisson(n, days);
        format!("{n} in {days:.1}: {:.3} ({low:.3}-{high:.3})", n as f64 / days)
    };
    for kind in kinds.iter().map(|k| Some(*k)).chain([None]) {
        let cells: Vec<String> = ORIGINS.iter().map(|(origin, _)| rate(*origin, kind)).collect();
        let _ = writeln!(out, "| {} | {} |", kind.unwrap_or("all together"), cells.join(" | "));
    }
    *out += "\n| set | host-days | look-ups | alerts | below an alert |\n| --- | ---: | ---: | --- | --- |\n";
    for b in &part.benign {
        let _ = writeln!(
            out,
            "| {} | {:.1} | {} | {} | {} |",
            cell(&b.set),
            b.host_days,
            b.queries,
            list(b.alerts.iter().map(|(kind, (n, _))| format!("{kind} {n}")).collect()),
            list(b.low.iter().map(|(kind, n)| format!("{kind} {n}")).collect()),
        );
    }
    let mut first = true;
    for b in part.benign.iter().filter(|b| b.count(None) > 0) {
        if std::mem::take(&mut first) {
            *out += "\nWhat they say, eight of each kind and set at most:\n\n";
        }
        for (kind, (n, words)) in &b.alerts {
            let _ = writeln!(out, "- {}, {kind}, {n}:", b.set);
            for word in words {
                let _ = writeln!(out, "  - {word}");
            }
        }
    }
}

fn list(words: Vec<String>) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

fn calibration(out: &mut String, points: &[Point]) {
    *out += "\n## Confidence against truth\n\nPairs that an alert was about, by the highest confidence that it reached, over all runs above: right ones of \
             all. How many wrong ones there are depends on how much benign traffic was run, so only the order along a line says something.\n\n| detector |";
    for (n, low) in BINS.iter().enumerate() {
        let high = BINS.get(n + 1).map_or(100, |h| h - 1);
        let _ = write!(out, " {low}-{high} |");
    }
    *out += "\n| --- |";
    *out += &" ---: |".repeat(BINS.len());
    *out += "\n";
    for (kind, bins) in binned(points) {
        let _ = write!(out, "| {kind} |");
        for (right, all) in bins {
            let share = if all == 0 { "-".to_owned() } else { format!("{right} of {all} ({:.2})", right as f64 / all as f64) };
            let _ = write!(out, " {share} |");
        }
        *out += "\n";
    }
}

/// By kind: right and all in each bin.
fn binned(points: &[Point]) -> BTreeMap<&str, [(usize, usize); BINS.len()]> {
    let mut by: BTreeMap<&str, [(usize, usize); BINS.len()]> = BTreeMap::new();
    for point in points {
        let bin = BINS.partition_point(|low| *low <= point.confidence).saturating_sub(1);
        let entry = &mut by.entry(&point.kind).or_default()[bin];
        entry.0 += usize::from(point.right);
        entry.1 += 1;
    }
    by
}

/// The report for machines: per case and set one object, with the rule's version and thresholds.
///
/// # Errors
/// None in practice: a value that is no JSON.
pub fn json(head: &Head, rules: &[Rule], part: &Part) -> Result<String> {
    let rule = |kind: &str| rules.iter().find(|r| kind == format!("ndr.{}", r.kind));
    let cases: Vec<Value> = part
        .cases
        .iter()
        .map(|c| {
            let interval = wilson(c.detected, c.positives);
            let rule = rule(&c.kind);
            json!({
                "detector": c.kind, "set": c.set, "half": c.half, "case": c.case,
                "version": rule.map(|r| r.version), "thresholds": rule.map(|r| &r.thresholds),
                "positives": c.positives, "detected": c.detected, "low_only": c.low_only, "too_few": c.too_few,
                "recall": c.recall(), "interval": [interval.0, interval.1],
                "seconds": if c.found.is_empty() { Value::Null } else { json!(c.seconds()) },
                "contacts": if c.found.is_empty() { Value::Null } else { json!(c.contacts()) },
                "rank": c.rank, "note": c.note,
            })
        })
        .collect();
    let benign: Vec<Value> = part
        .benign
        .iter()
        .map(|b| {
            let n = b.count(None);
            let rate = (b.host_days > 0.0).then(|| n as f64 / b.host_days);
            let interval = (b.host_days > 0.0).then(|| poisson(n, b.host_days));
            json!({"set": b.set, "origin": b.origin, "host_days": b.host_days, "queries": b.queries, "alerts": b.alerts,
                   "below_alert": b.low, "rate": rate, "interval": interval})
        })
        .collect();
    let calibration: BTreeMap<&str, Value> = binned(&part.points)
        .into_iter()
        .map(|(kind, bins)| {
            let bins: Vec<Value> =
                BINS.iter().zip(bins).map(|(low, (right, all))| json!({"from": low, "right": right, "all": all})).collect();
            (kind, json!(bins))
        })
        .collect();
    let value = json!({
        "command": "cargo run --release -p tidewatch-bench -- quality", "version": env!("CARGO_PKG_VERSION"), "seed": head.seed,
        "development_sets": head.data, "wall_s": head.wall_s.round(), "rows": part.rows,
        "goals": part.goals, "cases": cases, "benign": benign, "states": part.states, "figures": part.figures,
        "calibration": calibration, "halves": part.halves, "notes": part.notes,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_missed_stands_in_every_form() {
        let mut part = Part::default();
        part.goals.push(Goal::of("2.4", "a | goal", false, "0 of 3".into(), "peer"));
        let mut case = Case::of("ndr.scan", "set", "-", "case");
        case.add(None, None);
        part.cases.push(case);
        part.points.push(Point { kind: "ndr.scan".into(), confidence: 79, right: false });
        let head = Head { seed: 1, data: false, wall_s: 1.0 };
        let text = markdown(&head, &[], &part);
        assert!(
            text.contains("| a \\| goal | 0 of 3 | MISSED | peer |") && text.contains("0 of 1 | 0.000 | 0.000-0.793"),
            "{text}"
        );
        assert!(text.contains("0 of 1 (0.00)"), "{text}");
        assert!(terminal(&head, &part).contains("MISSED"));
        let value: Value = serde_json::from_str(&json(&head, &[], &part).unwrap()).unwrap();
        assert_eq!((&value["goals"][0]["met"], &value["cases"][0]["positives"]), (&false.into(), &1.into()));
    }
}
