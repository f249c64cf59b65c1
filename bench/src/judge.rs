//! `judge`: signals against the labels of generated traffic: which attacks were found, how soon after they began, and which
//! alerts no attack explains. Reads only labels and signals; knows nothing of how either came about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use tidewatch_generator::Truth;
use tidewatch_schemas::signal::{Severity, Signal, from_json};

/// Severity from which a signal is an alert.
const ALERT: Severity = Severity::Medium;

/// Judge signals by the labels of what was injected.
///
/// An attack is found by a signal of its kind, or of one that would be right besides, about its host while it lasts or
/// within an hour. An alert is a signal of medium severity or more.
#[derive(clap::Args)]
#[command(after_help = "Example:
  tidewatch-bench generate --preset scans --format zeek --out /tmp/scans
  tidewatch backtest --input zeek:/tmp/scans --tenant acme --out /tmp/scans.ndjson
  tidewatch-bench judge /tmp/scans/truth.ndjson /tmp/scans.ndjson")]
pub struct Args {
    /// Labels, one JSON object a line.
    #[arg(value_name = "TRUTH.ndjson")]
    truth: PathBuf,
    /// Signals, one JSON object a line.
    #[arg(value_name = "SIGNALS.ndjson")]
    signals: PathBuf,
    /// Only alerts of these kinds are counted as false.
    #[arg(long, value_name = "KIND")]
    kind: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Says which file cannot be read, or which line is no label or signal.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let read = |path: &PathBuf| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let lines = |text: &str| text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let truths: Result<Vec<Truth>, _> = lines(&read(&args.truth)?).iter().map(|l| Truth::from_line(l)).collect();
    let truths = truths.with_context(|| format!("{} is not a file of labels", args.truth.display()))?;
    let signals: Result<Vec<Signal>, _> = lines(&read(&args.signals)?).iter().map(|l| from_json(l)).collect();
    let signals = signals.with_context(|| format!("{} is not a file of signals", args.signals.display()))?;
    let text = table(&truths, &signals, &args.kind);
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to the standard output")
}

fn right(truth: &Truth, signal: &Signal) -> bool {
    let kind = signal.kind == truth.kind || truth.also.contains(&signal.kind);
    let hour = 3_600_000_000_000;
    let while_on = signal.decided_at >= truth.first && signal.decided_at.since(truth.last) <= hour;
    kind && while_on && signal.tenant == truth.tenant && signal.entity.id == truth.host
}

fn table(truths: &[Truth], signals: &[Signal], kinds: &[String]) -> String {
    let mut out = String::new();
    let mut explained = BTreeSet::new();
    let mut found = 0;
    for truth in truths {
        let hits: Vec<(usize, &Signal)> = signals.iter().enumerate().filter(|(_, s)| right(truth, s)).collect();
        explained.extend(hits.iter().map(|(n, _)| *n));
        let first = hits.iter().map(|(_, s)| *s).min_by_key(|s| s.decided_at);
        found += usize::from(first.is_some());
        let when = first.map_or("not found".to_owned(), |s| {
            let after_s = s.decided_at.since(truth.first) as f64 / 1e9;
            format!("after {after_s:.1} s, {} {} {}, {} signals", s.kind, s.severity.name(), s.confidence, hits.len())
        });
        let _ = writeln!(out, "{:<16} {:<14} {}: {when}", truth.kind, truth.host, truth.note);
    }
    let mut false_alarms: BTreeMap<(&str, &str, &str), usize> = BTreeMap::new();
    for (n, s) in signals.iter().enumerate() {
        let counted = kinds.is_empty() || kinds.contains(&s.kind);
        if counted && s.severity >= ALERT && !explained.contains(&n) {
            *false_alarms.entry((&s.kind, &s.entity.id, s.why.as_str())).or_default() += 1;
        }
    }
    let _ = writeln!(out, "found {found} of {}", truths.len());
    let _ = writeln!(out, "alerts that nothing explains: {}", false_alarms.values().sum::<usize>());
    for ((kind, host, why), n) in false_alarms {
        let _ = writeln!(out, "  {n} {kind} {host}: {why}");
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_found_and_what_nothing_explains() {
        let truth = Truth::from_line(
            r#"{"tenant":"t","kind":"ndr.lateral","also":["ndr.scan"],"host":"10.4.0.1","first":"2026-03-11T08:00:00Z","last":"2026-03-11T08:10:00Z","contacts":9,"note":"n"}"#,
        );
        let signal = |host: &str, at: &str| {
            let text = format!(
                r#"{{"id":"x","tenant":"t","plane":"threat","kind":"ndr.scan","title":"t","why":"w","severity":"medium","confidence":50,"rule":{{"id":"r","version":1}},"entity":{{"type":"host","id":"{host}"}},"first_seen":"{at}","last_seen":"{at}","decided_at":"{at}","detected_at":"{at}","evidence":{{}},"attack":[],"raw":[]}}"#
            );
            from_json(&text).unwrap()
        };
        let signals = [signal("10.4.0.1", "2026-03-11T08:00:05Z"), signal("10.4.0.9", "2026-03-11T08:00:05Z")];
        let text = table(&[truth.unwrap()], &signals, &[]);
        assert!(text.contains("after 5.0 s") && text.contains("found 1 of 1") && text.contains("explains: 1"), "{text}");
    }
}
