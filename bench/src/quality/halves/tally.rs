//! What several rules came to over one half: many rules of one kind run side by side in one pass, each with its own id, state
//! and suppression, and each is judged by its own signals alone.

use std::collections::BTreeMap;

use serde::Serialize;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::signal::Signal;

use super::super::measure::{Benign, Found, Origin, Wanted, by_host};
use super::super::way::Ran;

/// Alerts on traffic without attacks.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Exposure {
    /// How many.
    pub alerts: usize,
    /// Hosts times days; 0 where none is known, and then the alerts count all the same.
    pub host_days: f64,
}

impl Exposure {
    /// Alerts per host-day; of no host-days 0, unless there are alerts.
    pub fn rate(&self) -> f64 {
        match (self.alerts, self.host_days > 0.0) {
            (0, _) => 0.0,
            (n, true) => n as f64 / self.host_days,
            (_, false) => f64::INFINITY,
        }
    }
}

/// What one rule came to.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Score {
    /// Cases that ought to be found.
    pub positives: usize,
    /// Found, with medium severity or more.
    pub detected: usize,
    /// On captured traffic, and days made of it.
    pub captured: Exposure,
    /// On the generator's.
    pub generated: Exposure,
}

impl Score {
    /// Share found; 0 of nothing.
    pub fn recall(&self) -> f64 {
        self.detected as f64 / self.positives.max(1) as f64
    }

    /// Alerts per benign host-day: the worse of captured and generated traffic, for the one must not hide the other.
    pub fn rate(&self) -> f64 {
        self.captured.rate().max(self.generated.rate())
    }
}

/// How soon something must be found; later it is not found.
#[derive(Clone, Copy)]
pub enum Soon {
    /// However late.
    Ever,
    /// Within seconds.
    Seconds(f64),
    /// Within contacts.
    Contacts(u64),
    /// Within seconds or contacts.
    Either(f64, u64),
}

impl Soon {
    fn is(self, found: &Found) -> bool {
        match self {
            Self::Ever => true,
            Self::Seconds(s) => found.seconds <= s,
            Self::Contacts(n) => found.contacts <= n,
            Self::Either(s, n) => found.seconds <= s || found.contacts <= n,
        }
    }
}

/// Something that ought to be found.
pub struct Truth {
    /// Signal kind whose case it is.
    pub kind: &'static str,
    /// What ought to be found.
    pub wanted: Wanted,
    /// How soon.
    pub soon: Soon,
}

impl Truth {
    /// However late.
    pub fn of(kind: &'static str, wanted: Wanted) -> Self {
        Self { kind, wanted, soon: Soon::Ever }
    }
}

/// Whose traffic was around the cases.
#[derive(Clone, Copy)]
pub enum Around {
    /// Nobody's.
    Nothing,
    /// Captured, for so many host-days.
    Captured(f64),
    /// The generator's.
    Generated(f64),
}

/// Scores by rule.
pub struct Tally {
    by: BTreeMap<String, (String, Score)>,
    /// Rows analysed.
    pub rows: u64,
    /// Rows rejected or late.
    pub lost: u64,
}

impl Tally {
    /// Of these rules.
    pub fn of(rules: &[Rule]) -> Self {
        let by = rules.iter().map(|r| (r.id.clone(), (format!("ndr.{}", r.kind), Score::default()))).collect();
        Self { by, rows: 0, lost: 0 }
    }

    /// What a rule came to.
    pub fn score(&self, rule: &Rule) -> Score {
        self.by.get(&rule.id).map_or_else(Score::default, |(_, score)| *score)
    }

    /// Takes a run in: its cases, and the signals that no case explains and `counts` takes as alerts on traffic without
    /// attacks.
    pub fn take(&mut self, ran: &Ran, truths: &[Truth], around: Around, counts: impl Fn(&Signal) -> bool) {
        self.rows += ran.rows;
        self.lost += ran.lost;
        let hosts = by_host(&ran.signals);
        let all: Vec<&Signal> = ran.signals.iter().collect();
        let mut about: BTreeMap<Option<&str>, Vec<&Truth>> = BTreeMap::new();
        for truth in truths {
            about.entry(truth.wanted.host.as_deref()).or_default().push(truth);
        }
        for (id, (kind, score)) in &mut self.by {
            for truth in truths.iter().filter(|t| t.kind == kind) {
                let signals = match &truth.wanted.host {
                    Some(host) => hosts.get(host.as_str()).map_or_else(Vec::new, |of| of_rule(of, id)),
                    None => of_rule(&all, id),
                };
                score.positives += 1;
                let found = truth.wanted.found(&signals, false).filter(|f| truth.soon.is(f));
                score.detected += usize::from(found.is_some());
            }
            let exposure = match around {
                Around::Nothing => continue,
                Around::Captured(days) => (&mut score.captured, days),
                Around::Generated(days) => (&mut score.generated, days),
            };
            let explained = |s: &Signal| {
                let of = |host: Option<&str>| about.get(&host).is_some_and(|of| of.iter().any(|t| t.wanted.explains(s)));
                of(Some(&s.entity.id)) || of(None)
            };
            let others = of_rule(&all, id).into_iter().filter(|s| counts(s) && !explained(s));
            exposure.0.alerts += Benign::of("", Origin::Synthetic, 0.0, 0, others).count(None);
            exposure.0.host_days += exposure.1;
        }
    }
}

fn of_rule<'s>(of: &[&'s Signal], id: &str) -> Vec<&'s Signal> {
    of.iter().copied().filter(|s| s.rule.id == id).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_generator::attack::Scan;
    use tidewatch_generator::{PRESET_START, Plan};

    use super::super::super::{made, way};
    use super::*;

    #[test]
    fn a_rule_comes_to_the_same_beside_others_of_its_kind() {
        let scan = Scan { host: 3, start_s: 3_600, ..Scan::smb(30, 1.0) };
        let office = Plan::office(5, 0, 8, PRESET_START, 6 * 3_600);
        let plan = Plan { tenants: vec!["quality".into()], attacks: vec![scan.into()], ..office };
        let dir = tempfile::tempdir().unwrap();
        made::write(&plan, &made::Renames::new(), dir.path()).unwrap();
        let shipped: Vec<Rule> = way::shipped().unwrap().into_iter().filter(|r| r.kind == "lateral").collect();
        let mut never = shipped[0].clone();
        never.id = "never".into();
        never.thresholds.insert("fanout".into(), 500.0);
        never.thresholds.insert("fanout_day".into(), 32.0);
        let both = [shipped[0].clone(), never.clone()];
        let truths = || -> Vec<Truth> {
            made::wanted(&plan, &made::Renames::new()).into_iter().flatten().map(|w| Truth::of("ndr.lateral", w)).collect()
        };
        let (mut alone, mut beside) = (Tally::of(&shipped), Tally::of(&both));
        let (one, two) = (way::run(dir.path(), &[], &shipped).unwrap(), way::run(dir.path(), &[], &both).unwrap());
        alone.take(&one, &truths(), Around::Generated(2.0), |_| true);
        beside.take(&two, &truths(), Around::Generated(2.0), |_| true);
        let (a, b, n) = (alone.score(&shipped[0]), beside.score(&shipped[0]), beside.score(&never));
        assert_eq!((a.positives, a.detected, a.generated.alerts), (1, 1, 0));
        assert_eq!((b.positives, b.detected, b.generated.alerts), (1, 1, 0));
        assert_eq!((n.positives, n.detected), (1, 0));
        // Without the truth the same signal is an alert in vain.
        let mut blind = Tally::of(&shipped);
        blind.take(&one, &[], Around::Generated(2.0), |_| true);
        assert!(blind.score(&shipped[0]).rate() >= 0.5);
        // Nor is it found where it ought to have been within two contacts.
        let mut hasty = Tally::of(&shipped);
        let soon = |soon| -> Vec<Truth> { truths().into_iter().map(|t| Truth { soon, ..t }).collect() };
        hasty.take(&one, &soon(Soon::Contacts(2)), Around::Nothing, |_| true);
        assert_eq!(hasty.score(&shipped[0]).detected, 0);
        hasty.take(&one, &soon(Soon::Either(1e9, 2)), Around::Nothing, |_| true);
        assert_eq!(hasty.score(&shipped[0]).detected, 1);
    }
}
