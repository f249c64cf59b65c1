//! What a part of the measurement gives: cases with what was found of them, alerts on benign traffic, points of
//! calibration, states. And the one way in which a signal is held against the truth.
//!
//! What always holds: an alert is a record of medium severity or more, counted once per (kind, entity, destination) and
//! hour; times and contacts are those until `decided_at`.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidewatch_schemas::signal::{Severity, Signal};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::halves::Sweep;

/// Severity from which a signal is an alert.
pub const ALERT: Severity = Severity::Medium;

const HOUR_NS: i64 = 3_600 * SECOND_NS;

/// How long after its end something may still be told of by what came later. A signal whose rows reach back into it is about
/// it however late it comes: evidence may outlive what it is about by a day.
const AFTER_NS: i64 = HOUR_NS;

/// Something that ought to be found.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Signal kinds that are right.
    pub kinds: Vec<&'static str>,
    /// Who does it; `None` = whoever.
    pub host: Option<String>,
    /// Names or addresses of what it goes to, any of them; empty = whatever.
    pub destinations: Vec<String>,
    /// Moments of its contacts (failed targets, look-ups), in order.
    pub contacts: Vec<EventTime>,
    /// Its last moment.
    pub last: EventTime,
}

/// How it was found.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Found {
    /// Seconds from the first contact to `decided_at`.
    pub seconds: f64,
    /// Contacts up to `decided_at`.
    pub contacts: u64,
    /// Confidence of that first alert.
    pub confidence: u8,
}

impl Wanted {
    /// The signal is about this.
    pub fn explains(&self, signal: &Signal) -> bool {
        let to = || {
            let end = signal.destination.as_ref();
            let named = [end.and_then(|d| d.domain.as_deref()), end.and_then(|d| d.ip.as_deref())];
            self.destinations.iter().any(|d| named.contains(&Some(d.as_str())))
        };
        self.kinds.contains(&signal.kind.as_str())
            && self.host.as_ref().is_none_or(|h| *h == signal.entity.id)
            && self.contacts.first().is_none_or(|first| signal.decided_at >= *first)
            && (signal.decided_at.since(self.last) <= AFTER_NS || signal.first_seen <= self.last)
            && (self.destinations.is_empty() || to())
    }

    /// The first alert about it; `low` takes signals of any severity.
    pub fn found(&self, signals: &[&Signal], low: bool) -> Option<Found> {
        let right = signals.iter().filter(|s| (low || s.severity >= ALERT) && self.explains(s));
        let first = right.min_by_key(|s| s.decided_at)?;
        let began = self.contacts.first().copied().unwrap_or(first.first_seen);
        Some(Found {
            seconds: first.decided_at.since(began) as f64 / SECOND_NS as f64,
            contacts: self.contacts.partition_point(|at| *at <= first.decided_at) as u64,
            confidence: first.confidence,
        })
    }
}

/// Signals by the entity that they are about.
pub fn by_host(signals: &[Signal]) -> BTreeMap<&str, Vec<&Signal>> {
    let mut by: BTreeMap<&str, Vec<&Signal>> = BTreeMap::new();
    for signal in signals {
        by.entry(signal.entity.id.as_str()).or_default().push(signal);
    }
    by
}

/// Recall of one case of one detector.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Case {
    /// Signal kind.
    pub kind: String,
    /// Set that it is measured on.
    pub set: String,
    /// Which half of its set: `tuning`, `judging`, or `-` where the set was not split.
    pub half: String,
    /// What varies.
    pub case: String,
    /// Counted ones.
    pub positives: usize,
    /// Alerted.
    pub detected: usize,
    /// Not alerted, but told of with low severity.
    pub low_only: usize,
    /// With fewer than five contacts: listed, not counted.
    pub too_few: usize,
    /// Of those alerted.
    pub found: Vec<Found>,
    /// Rank of the true pair by confidence among all pairs, where there is one.
    pub rank: Option<usize>,
    /// In words.
    pub note: String,
}

impl Case {
    /// Of one detector and set.
    pub fn of(kind: &str, set: &str, half: &str, case: impl Into<String>) -> Self {
        Self { kind: kind.into(), set: set.into(), half: half.into(), case: case.into(), ..Self::default() }
    }

    /// Adds one positive.
    pub fn add(&mut self, alert: Option<Found>, low: Option<Found>) {
        self.positives += 1;
        match (alert, low) {
            (Some(found), _) => {
                self.detected += 1;
                self.found.push(found);
            }
            (None, Some(_)) => self.low_only += 1,
            (None, None) => {}
        }
    }

    /// Share alerted; 0 of nothing.
    pub fn recall(&self) -> f64 {
        self.detected as f64 / self.positives.max(1) as f64
    }

    /// Middle, nine in ten, and last of the seconds.
    pub fn seconds(&self) -> [f64; 3] {
        quantiles(self.found.iter().map(|f| f.seconds).collect())
    }

    /// The same of contacts.
    pub fn contacts(&self) -> [f64; 3] {
        quantiles(self.found.iter().map(|f| f.contacts as f64).collect())
    }
}

/// The smallest values at or below which half, nine in ten and all lie.
fn quantiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [0.5, 0.9, 1.0].map(|q| {
        let at = (values.len() as f64 * q).ceil() as usize;
        values.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
    })
}

/// Whose traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Of a real network, as it was captured.
    Real,
    /// Of a real network, made into further days that depend on it.
    Replayed,
    /// The generator's.
    Synthetic,
}

/// Alerts on traffic without attacks.
#[derive(Clone, Debug, Serialize)]
pub struct Benign {
    /// Set.
    pub set: String,
    /// Whose traffic.
    pub origin: Origin,
    /// Hosts times days; 0 where only look-ups count.
    pub host_days: f64,
    /// Look-ups.
    pub queries: u64,
    /// Alerts by kind: how many, and the first of them in words.
    pub alerts: BTreeMap<String, (usize, Vec<String>)>,
    /// Signals below an alert, by kind.
    pub low: BTreeMap<String, usize>,
}

/// Alerts told in words, of each kind and set, at most.
const EXAMPLES_MAX: usize = 8;

impl Benign {
    /// Counts the signals that `ours` takes, each pair once an hour.
    pub fn of<'s>(
        set: &str,
        origin: Origin,
        host_days: f64,
        queries: u64,
        signals: impl IntoIterator<Item = &'s Signal>,
    ) -> Self {
        let mut out = Self { set: set.into(), origin, host_days, queries, alerts: BTreeMap::new(), low: BTreeMap::new() };
        let mut seen = BTreeSet::new();
        for signal in signals {
            if signal.severity < ALERT {
                *out.low.entry(signal.kind.clone()).or_default() += 1;
            } else if seen.insert(alert_key(signal)) {
                let entry = out.alerts.entry(signal.kind.clone()).or_default();
                entry.0 += 1;
                if entry.1.len() < EXAMPLES_MAX {
                    entry.1.push(format!("{} {} {}", signal.severity.name(), signal.confidence, signal.why));
                }
            }
        }
        out
    }

    /// Alerts of a kind, or of all.
    pub fn count(&self, kind: Option<&str>) -> usize {
        self.alerts.iter().filter(|(k, _)| kind.is_none_or(|kind| *k == kind)).map(|(_, (n, _))| n).sum()
    }
}

/// An alert counts once per this.
fn alert_key(signal: &Signal) -> (String, String, String, i64) {
    (signal.kind.clone(), signal.entity.id.clone(), destination(signal), signal.decided_at.0.div_euclid(HOUR_NS))
}

/// What a signal's destination is called.
pub fn destination(signal: &Signal) -> String {
    let end = signal.destination.as_ref();
    let whom = end.and_then(|e| e.domain.as_deref().or(e.ip.as_deref()).or(e.name.as_deref())).unwrap_or("-");
    match end.and_then(|e| e.port) {
        Some(port) => format!("{whom} port {port}"),
        None => whom.to_owned(),
    }
}

/// Strict rank of what `ours` takes among all pairs of a kind, by the highest confidence of their signals that `counts`
/// takes: pairs of one confidence share the rank of the last of them.
pub fn rank(signals: &[Signal], kind: &str, counts: impl Fn(&Signal) -> bool, ours: impl Fn(&Signal) -> bool) -> Option<usize> {
    let mut pairs: BTreeMap<(String, String), (u8, bool)> = BTreeMap::new();
    for signal in signals.iter().filter(|s| s.kind == kind && counts(s)) {
        let pair = pairs.entry((signal.entity.id.clone(), destination(signal))).or_default();
        *pair = (pair.0.max(signal.confidence), pair.1 || ours(signal));
    }
    let best = pairs.values().filter(|p| p.1).map(|p| p.0).max()?;
    // Several pairs of the true one (name and address) are one.
    Some(1 + pairs.values().filter(|p| !p.1 && p.0 >= best).count())
}

/// State of one rule at its fullest run.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct State {
    /// Keys (hosts) with state.
    pub keys: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// One pair with the highest confidence that an alert about it reached, and whether it was right.
#[derive(Clone, Debug, Serialize)]
pub struct Point {
    /// Kind.
    pub kind: String,
    /// 0 to 100.
    pub confidence: u8,
    /// An attack explains it.
    pub right: bool,
}

/// A goal of the reference.
#[derive(Clone, Debug, Serialize)]
pub struct Goal {
    /// Where it stands, as `2.4`.
    pub section: String,
    /// What is asked.
    pub goal: String,
    /// What came out.
    pub ours: String,
    /// Met; `None` = these data cannot tell.
    pub met: Option<bool>,
    /// What peers reach, where the reference says.
    pub peers: String,
}

impl Goal {
    /// One goal.
    pub fn of(section: &str, goal: &str, met: impl Into<Option<bool>>, ours: String, peers: &str) -> Self {
        Self { section: section.into(), goal: goal.into(), ours, met: met.into(), peers: peers.into() }
    }
}

/// What one part of the measurement gives.
#[derive(Debug, Default)]
pub struct Part {
    /// Recall.
    pub cases: Vec<Case>,
    /// Alerts on benign traffic.
    pub benign: Vec<Benign>,
    /// Calibration.
    pub points: Vec<Point>,
    /// Goals that this part decides.
    pub goals: Vec<Goal>,
    /// States by rule kind.
    pub states: BTreeMap<String, State>,
    /// What a reader must know, in words.
    pub notes: Vec<String>,
    /// Other figures, each a name and a value in words.
    pub figures: Vec<(String, String)>,
    /// Thresholds fixed on one half and judged on the other.
    pub halves: Vec<Sweep>,
    /// Rows analysed.
    pub rows: u64,
}

impl Part {
    /// Takes another part in; of states the run counts that held most.
    pub fn merge(&mut self, other: Self) {
        self.cases.extend(other.cases);
        self.benign.extend(other.benign);
        self.points.extend(other.points);
        self.goals.extend(other.goals);
        self.notes.extend(other.notes);
        self.figures.extend(other.figures);
        self.halves.extend(other.halves);
        self.rows += other.rows;
        for (kind, state) in other.states {
            let most = self.states.entry(kind).or_default();
            if state.bytes > most.bytes {
                *most = state;
            }
        }
    }

    /// Points of all alerts: each pair once, right when `explained` says so.
    pub fn calibrate(&mut self, signals: &[Signal], explained: impl Fn(&Signal) -> bool) {
        let mut pairs: BTreeMap<(String, String, String), (u8, bool)> = BTreeMap::new();
        for signal in signals.iter().filter(|s| s.severity >= ALERT) {
            let key = (signal.kind.clone(), signal.entity.id.clone(), destination(signal));
            let pair = pairs.entry(key).or_default();
            *pair = (pair.0.max(signal.confidence), pair.1 || explained(signal));
        }
        self.points.extend(pairs.into_iter().map(|((kind, ..), (confidence, right))| Point { kind, confidence, right }));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn signal(kind: &str, host: &str, to: &str, severity: Severity, confidence: u8, at_s: i64) -> Signal {
        let at = EventTime::from_secs(at_s).to_rfc3339();
        let text = format!(
            r#"{{"id":"x","tenant":"t","plane":"threat","kind":"{kind}","title":"t","why":"w","severity":"{}","confidence":{confidence},"rule":{{"id":"r","version":1}},"entity":{{"type":"host","id":"{host}"}},"destination":{{"domain":"{to}"}},"first_seen":"{at}","last_seen":"{at}","decided_at":"{at}","detected_at":"{at}","evidence":{{}},"attack":[],"raw":[]}}"#,
            severity.name()
        );
        tidewatch_schemas::signal::from_json(&text).unwrap()
    }

    #[test]
    fn time_and_contacts_are_those_until_the_decision() {
        let wanted = Wanted {
            kinds: vec!["k"],
            host: Some("h".into()),
            destinations: vec!["d".into()],
            contacts: (0..20).map(|n| EventTime::from_secs(n * 10)).collect(),
            last: EventTime::from_secs(190),
        };
        let all = [
            signal("k", "h", "d", Severity::Low, 40, 50),
            signal("k", "h", "other", Severity::High, 90, 60),
            signal("k", "h", "d", Severity::Medium, 70, 105),
            signal("k", "h", "d", Severity::Medium, 80, 100_000),
        ];
        let reaching_back = Signal { first_seen: EventTime::from_secs(180), ..all[3].clone() };
        let signals: Vec<&Signal> = all.iter().collect();
        let found = wanted.found(&signals, false).unwrap();
        assert_eq!((found.seconds, found.contacts, found.confidence), (105.0, 11, 70));
        assert_eq!(wanted.found(&signals, true).unwrap().contacts, 6);
        assert!(!wanted.explains(&all[3]) && wanted.explains(&reaching_back), "long after its end");
        assert_eq!(rank(&all, "k", |_| true, |s| destination(s) == "d"), Some(2));
    }

    #[test]
    fn an_alert_counts_once_a_pair_and_hour_and_low_ones_apart() {
        let all = [
            signal("k", "h", "d", Severity::Medium, 50, 10),
            signal("k", "h", "d", Severity::High, 60, 20),
            signal("k", "h", "d", Severity::High, 60, 4_000),
            signal("k", "h", "e", Severity::Low, 60, 20),
        ];
        let benign = Benign::of("s", Origin::Real, 1.0, 0, &all);
        assert_eq!((benign.count(Some("k")), benign.count(Some("other")), benign.low["k"]), (2, 0, 1));
    }
}
