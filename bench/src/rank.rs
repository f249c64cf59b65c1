//! `rank`: the pairs of a file of signals, by the confidence that each reached, with what an analyst would have been
//! troubled with. Reads only signals; knows nothing of how they came about.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use anyhow::Context;
use tidewatch_schemas::signal::{Severity, Signal, from_json};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

const DAY_NS: i64 = 86_400 * SECOND_NS;
/// Pairs held, at most; signals of further ones are counted alone.
const PAIRS_MAX: usize = 1_000_000;
/// Severity from which a signal is an alert.
const ALERT: Severity = Severity::Medium;

/// Rank pairs by confidence, and count alerts a day.
///
/// A pair is host and destination. An alert is a pair and calendar day (UTC) with a signal of medium severity or more.
#[derive(clap::Args)]
#[command(after_help = "Example:
  tidewatch-bench rank signals.ndjson --kind ndr.beaconing")]
pub struct Args {
    /// Signals, one JSON object a line.
    #[arg(value_name = "SIGNALS.ndjson")]
    signals: PathBuf,
    /// Only signals of this kind.
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Length of the input in days; the calendar days that have a signal, when left out.
    #[arg(long, value_name = "D")]
    days: Option<f64>,
}

/// Runs the command.
///
/// # Errors
/// Says which file cannot be read, or which line is no signal.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let name = args.signals.display();
    let file = File::open(&args.signals).with_context(|| format!("cannot open {name}"))?;
    let mut pairs = Pairs::default();
    for (n, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {name}"))?;
        if line.trim().is_empty() {
            continue;
        }
        let signal = from_json(&line).with_context(|| format!("{name}, line {}", n + 1))?;
        if args.kind.as_ref().is_none_or(|k| *k == signal.kind) {
            pairs.add(&signal);
        }
    }
    std::io::stdout().lock().write_all(pairs.table(args.days).as_bytes()).context("cannot write to the standard output")
}

/// (kind, tenant, host, destination).
type Key = (String, String, String, String);

#[derive(Default)]
struct Pairs {
    pairs: BTreeMap<Key, Pair>,
    days: BTreeSet<i64>,
    left_out: u64,
}

struct Pair {
    confidence: u8,
    severity: Severity,
    signals: u64,
    alert_days: BTreeSet<i64>,
    first: EventTime,
    last: EventTime,
}

impl Pairs {
    fn add(&mut self, signal: &Signal) {
        let key = (signal.kind.clone(), signal.tenant.clone(), signal.entity.id.clone(), destination(signal));
        let day = signal.decided_at.0.div_euclid(DAY_NS);
        self.days.insert(day);
        if self.pairs.len() >= PAIRS_MAX && !self.pairs.contains_key(&key) {
            self.left_out += 1;
            return;
        }
        let at = signal.decided_at;
        let pair = self.pairs.entry(key).or_insert_with(|| Pair {
            confidence: 0,
            severity: Severity::Info,
            signals: 0,
            alert_days: BTreeSet::new(),
            first: at,
            last: at,
        });
        pair.confidence = pair.confidence.max(signal.confidence);
        pair.severity = pair.severity.max(signal.severity);
        pair.signals += 1;
        pair.first = pair.first.min(at);
        pair.last = pair.last.max(at);
        if signal.severity >= ALERT {
            pair.alert_days.insert(day);
        }
    }

    /// Pairs of one confidence share the rank of the last of them, so rank 1 is strict.
    fn table(&self, days: Option<f64>) -> String {
        let days = days.unwrap_or(self.days.len().max(1) as f64);
        let mut order: Vec<(&Key, &Pair)> = self.pairs.iter().collect();
        order.sort_by_key(|(_, pair)| Reverse((pair.confidence, pair.severity)));
        let mut out = format!(
            "{:>4} {:>4} {:<8} {:>7} {:>6}  {:<20} {:<20} {:<22} {:<18} destination\n",
            "rank", "conf", "severity", "signals", "alerts", "first", "last", "kind", "host"
        );
        for ((kind, _, host, destination), pair) in &order {
            let rank = order.iter().filter(|(_, other)| other.confidence >= pair.confidence).count();
            out += &format!(
                "{rank:>4} {:>4} {:<8} {:>7} {:>6}  {:<20} {:<20} {kind:<22} {host:<18} {destination}\n",
                pair.confidence,
                pair.severity.name(),
                pair.signals,
                pair.alert_days.len(),
                second(pair.first),
                second(pair.last),
            );
        }
        let alerts: usize = self.pairs.values().map(|p| p.alert_days.len()).sum();
        out += &format!("{} pairs, {alerts} alerts in {days:.2} days: {:.2} a day\n", self.pairs.len(), alerts as f64 / days);
        if self.left_out > 0 {
            out += &format!("{} signals of further pairs left out (limit {PAIRS_MAX})\n", self.left_out);
        }
        out
    }
}

fn second(at: EventTime) -> String {
    EventTime(at.0.div_euclid(SECOND_NS) * SECOND_NS).to_rfc3339()
}

fn destination(signal: &Signal) -> String {
    let Some(end) = &signal.destination else { return "-".to_owned() };
    let whom = end.domain.as_deref().or(end.name.as_deref()).or(end.ip.as_deref()).unwrap_or("-");
    match end.port {
        Some(port) if whom.contains(':') => format!("[{whom}]:{port}"),
        Some(port) => format!("{whom}:{port}"),
        None => whom.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use tidewatch_schemas::signal::{Endpoint, Entity, RuleRef};

    use super::*;

    fn signal(domain: &str, confidence: u8, severity: Severity, hour: i64) -> Signal {
        let at = EventTime::from_secs(hour * 3600);
        Signal {
            id: String::new(),
            tenant: "t".into(),
            plane: "threat".into(),
            kind: "ndr.beaconing".into(),
            title: String::new(),
            why: String::new(),
            severity,
            confidence,
            rule: RuleRef { id: "r".into(), version: 1 },
            entity: Entity { kind: "host".into(), id: "10.0.0.1".into() },
            source: None,
            destination: Some(Endpoint { domain: Some(domain.into()), port: Some(443), ..Endpoint::default() }),
            first_seen: at,
            last_seen: at,
            decided_at: at,
            detected_at: at,
            evidence: BTreeMap::new(),
            attack: Vec::new(),
            raw: Vec::new(),
        }
    }

    #[test]
    fn a_tie_is_no_first_rank_and_a_day_counts_once() {
        let mut pairs = Pairs::default();
        for signal in [
            signal("a", 70, Severity::Medium, 1),
            signal("a", 90, Severity::Medium, 3),
            signal("a", 80, Severity::Low, 30),
            signal("b", 90, Severity::Low, 3),
        ] {
            pairs.add(&signal);
        }
        let text = pairs.table(None);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        assert_eq!((rows[1][0], rows[1][1], rows[1][4], rows[1][9]), ("2", "90", "1", "a:443"), "{text}");
        assert_eq!((rows[2][0], rows[2][4]), ("2", "0"), "{text}");
        assert!(text.ends_with("2 pairs, 1 alerts in 2.00 days: 0.50 a day\n"), "{text}");
    }
}
