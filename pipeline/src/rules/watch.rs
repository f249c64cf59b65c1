//! A watch on one host: what every rule's state says of its conditions, slice by slice, while a detect task works. Kept is,
//! for each subject, the moment at which it came nearest to being found, and what became of what was found. Only looks: no
//! answer of the task depends on it.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tidewatch_operators::detection::{Detection, SliceRow};
use tidewatch_operators::key::HostKey;
use tidewatch_operators::operator::Slice;
use tidewatch_operators::runtime::KeptBack;
use tidewatch_operators::why::{About, Answer, Case};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::time::EventTime;

/// Subjects kept for one rule, at most: when there are more, those farthest from being found go.
pub const SUBJECTS_MAX: usize = 200;

/// A watch.
#[derive(Debug)]
pub struct Watch {
    /// Whom.
    pub key: HostKey,
    /// Only subjects with this text in them.
    pub subject: Option<String>,
    /// Slices that end after this.
    pub from: EventTime,
    /// Slices that begin before this.
    pub to: EventTime,
    seen: Mutex<Watched>,
}

/// What was seen of the host.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Its rows within the span, by kind.
    pub rows: BTreeMap<&'static str, u64>,
    /// The first and the last of them.
    pub span: Option<(EventTime, EventTime)>,
    /// By rule id.
    pub rules: BTreeMap<String, OfRule>,
}

/// What one rule said.
#[derive(Clone, Debug)]
pub struct OfRule {
    /// Its version in the last slice.
    pub version: u32,
    /// Kind of rule.
    pub kind: String,
    /// The last answer, without cases.
    pub answer: Answer,
    /// By subject and way: when it came nearest, and how.
    pub nearest: BTreeMap<(String, &'static str), (EventTime, Case)>,
    /// Candidates of the host that went on to the tenant's view.
    pub findings: u64,
    /// What the rule's exceptions and `where` kept back of it.
    pub kept_back: KeptBack,
}

impl Default for OfRule {
    fn default() -> Self {
        Self {
            version: 0,
            kind: String::new(),
            answer: Answer::NothingKept,
            nearest: BTreeMap::new(),
            findings: 0,
            kept_back: KeptBack::default(),
        }
    }
}

impl Watch {
    /// On a host, within a span.
    pub fn new(key: HostKey, subject: Option<String>, from: EventTime, to: EventTime) -> Self {
        Self { key, subject, from, to, seen: Mutex::default() }
    }

    /// What was seen.
    pub fn seen(&self) -> Watched {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether a slice of a host is looked at.
    pub(crate) fn is_on(&self, key: &HostKey, slice: Slice) -> bool {
        *key == self.key && self.covers(slice)
    }

    fn covers(&self, slice: Slice) -> bool {
        slice.end > self.from && slice.start < self.to
    }

    /// What every rule has kept back so far.
    pub(crate) fn before(&self, detection: &Detection) -> BTreeMap<String, KeptBack> {
        detection.stats().1.into_iter().map(|rule| (rule.rule, rule.kept_back)).collect()
    }

    /// The host's rows of a slice have been worked on.
    pub(crate) fn after(&self, detection: &Detection, rows: &[SliceRow<'_>], before: &BTreeMap<String, KeptBack>) {
        let Some(newest) = rows.last() else { return };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for row in rows {
            *seen.rows.entry(row.row.kind().name()).or_default() += 1;
        }
        let (first, last) = (rows[0].at, newest.at);
        seen.span = Some(seen.span.map_or((first, last), |(a, b)| (a.min(first), b.max(last))));
        self.take(detection, newest.at, &mut seen);
        for rule in detection.stats().1 {
            let was = before.get(&rule.rule).copied().unwrap_or_default();
            let of = seen.rules.entry(rule.rule).or_default();
            let now = rule.kept_back;
            of.kept_back.allowed += now.allowed.saturating_sub(was.allowed);
            of.kept_back.rows += now.rows.saturating_sub(was.rows);
            of.kept_back.findings += now.findings.saturating_sub(was.findings);
        }
    }

    /// A slice has ended: the candidates of all hosts.
    pub(crate) fn found(&self, slice: Slice, findings: &[Finding]) {
        if !self.covers(slice) {
            return;
        }
        let host = self.key.host.to_string();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in findings.iter().filter(|f| *f.tenant == *self.key.tenant && f.entity.id == host) {
            seen.rules.entry(finding.rule.id.clone()).or_default().findings += 1;
        }
    }

    /// Takes in what a state says at a moment.
    pub(crate) fn take(&self, detection: &Detection, at: EventTime, seen: &mut Watched) {
        let about = About { subject: self.subject.as_deref(), at };
        for told in detection.why(&self.key, &about) {
            let of = seen.rules.entry(told.rule).or_default();
            (of.version, of.kind) = (told.version, told.kind);
            let Answer::Cases(cases) = told.answer else {
                // What was kept before, or by another task, is not undone by what is no more.
                if told.answer != Answer::NothingKept {
                    of.answer = told.answer;
                }
                continue;
            };
            of.answer = Answer::Cases(Vec::new());
            for case in cases {
                let key = (case.subject.clone(), case.way);
                let nearer = of.nearest.get(&key).is_none_or(|(_, known)| case.distance() < known.distance());
                if nearer {
                    of.nearest.insert(key, (at, case));
                }
            }
            while of.nearest.len() > SUBJECTS_MAX {
                let farthest = of.nearest.iter().max_by(|(_, a), (_, b)| a.1.distance().total_cmp(&b.1.distance()));
                let Some(key) = farthest.map(|(key, _)| key.clone()) else { break };
                of.nearest.remove(&key);
            }
        }
    }

    /// What a state says now, without rows: of a snapshot.
    pub fn now(&self, detection: &Detection, at: EventTime) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.take(detection, at, &mut seen);
    }
}
