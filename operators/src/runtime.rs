//! The runtime of operators: one [`Instance`] per rule, each with its own states, so that two rules of one kind can
//! neither share nor corrupt what they know. A tenant that has a rule of its own under the same id is judged by that one;
//! its states are its own anyway.

use std::collections::BTreeMap;

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::time::EventTime;

use crate::ahead::Round;
use crate::detection::HostRows;
use crate::key::HostKey;
use crate::operator::{Context, Detector, Initiator, Observation, Operator, Seen, Slice};
use crate::rule::filter::{Filters, Numbered};
use crate::rule::{AllowTable, Cover, Rule};
pub use crate::states::{KeyedStates, Place, RestoreError, StateLimits, StateStats};
use crate::why::{About, Answer, RuleAnswer};

/// What an instance may use while it works on a slice.
pub struct Env<'a> {
    /// The slice.
    pub slice: Slice,
    /// Input partitions by index, for the `raw` of findings.
    pub inputs: &'a [(String, u32)],
    /// Candidates so far.
    pub findings: &'a mut Vec<Finding>,
    /// For each row the bits of the expressions (`where`) that let it through; empty = no rule has one over rows.
    pub passes: &'a [u64],
}

/// A rule at work: an operator and the states of its keys, behind one object-safe face.
pub trait Instance: Send {
    /// The rule; where it is not everybody's, that of its first tenant.
    fn rule(&self) -> &Rule;
    /// Takes up other rules of the same id and kind: everybody's, and those of single tenants; states stay.
    fn set_rules(&mut self, common: Option<&Rule>, own: &[&Rule], filters: &mut Filters);
    /// What exceptions and `where` of the rule kept back so far.
    fn kept_back(&self) -> KeptBack;
    /// The detector.
    fn detector(&self) -> &'static Detector;
    /// One key's rows of a slice. Rows of kinds it does not read are skipped; without any, nothing happens. `place` is what
    /// is known of where its state lies.
    fn rows(&mut self, key: &HostKey, route: u64, place: &mut Place, rows: &[Seen<'_>], env: &mut Env<'_>);
    /// Asks for the state of a host whose rows come next; see [`crate::ahead`].
    fn ask(&self, place: Place);
    /// Asks for what that state leads to.
    fn ahead(&self, place: Place, host: &HostRows<'_>, round: Round);
    /// Earliest wake-up of tenants in scope.
    fn next_wake(&self, in_scope: &dyn Fn(&str) -> bool) -> Option<EventTime>;
    /// Serves the wake-ups that lie before the slice's end.
    fn wake(&mut self, in_scope: &dyn Fn(&str) -> bool, env: &mut Env<'_>);
    /// Keeps byte limits; once a slice.
    fn enforce(&mut self);
    /// Another limit on its states, bytes.
    fn limit_bytes(&mut self, bytes_max: usize);
    /// Frees what has outlived its lifetime.
    fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime);
    /// Key groups to write: those changed since [`Instance::clean`], or all that hold a key.
    fn groups(&self, changed_only: bool) -> Vec<u16>;
    /// Forgets which groups changed.
    fn clean(&mut self);
    /// A group's states.
    fn pack(&self, group: u16) -> Vec<u8>;
    /// Takes a group's states up.
    fn unpack(&mut self, group: u16, bytes: &[u8]) -> Result<(), RestoreError>;
    /// What the rule's state of a host says of each condition.
    fn why(&self, key: &HostKey, about: &About<'_>) -> RuleAnswer;
    /// Figures.
    fn stats(&self) -> StateStats;
}

/// What a rule's exceptions and its `where` kept back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeptBack {
    /// Findings that an exception covered.
    pub allowed: u64,
    /// Rows that `where` let the detector not see.
    pub rows: u64,
    /// Findings that `where` did not let through.
    pub findings: u64,
    /// Rows or findings that did not match because `where` had an error in them; rows of other rules' tenants included.
    pub errors: u64,
}

/// An operator with the states of its keys.
pub struct Store<O: Operator> {
    detector: &'static Detector,
    rule: Rule,
    make: fn(&Rule) -> O,
    common: Option<Work<O>>,
    own: BTreeMap<String, Option<Work<O>>>,
    states: KeyedStates<O::State>,
    kept_back: KeptBack,
}

/// A rule that acts.
struct Work<O> {
    rule: Rule,
    operator: O,
    allow: AllowTable,
    filter: Option<Numbered>,
}

impl<O: Operator> Work<O> {
    /// `None` = it is switched off, or its expression is none that this binary reads.
    fn of(rule: &Rule, detector: &'static Detector, make: fn(&Rule) -> O, filters: &mut Filters) -> Option<Self> {
        if !rule.enabled {
            return None;
        }
        let filter = filters.take(rule, detector).ok()?;
        Some(Self { rule: rule.clone(), operator: make(rule), allow: AllowTable::new(&rule.allow), filter })
    }

    /// The rows that its `where` lets it see; `None` = all.
    fn let_through<'a>(&self, rows: &[Seen<'a>], passes: &[u64]) -> Option<Vec<Seen<'a>>> {
        let bit = self.filter.as_ref()?.bit?;
        let seen = rows.iter().zip(passes).filter(|(_, passes)| *passes >> bit & 1 == 1);
        Some(seen.map(|(row, _)| *row).collect())
    }

    /// Takes out, of the findings from `first` on, what its `where` does not let through and what an exception covers.
    fn sift(&self, findings: &mut Vec<Finding>, first: usize, rows: &[Seen<'_>], kept_back: &mut KeptBack) {
        if findings.len() == first {
            return;
        }
        if let Some(Numbered { filter, bit: None }) = &self.filter {
            let before = findings.len();
            let new = findings.split_off(first);
            let matches = filter.findings(&new);
            findings.extend(new.into_iter().zip(matches).filter(|(_, is)| *is).map(|(finding, _)| finding));
            kept_back.findings += (before - findings.len()) as u64;
        }
        kept_back.allowed += self.without_allowed(findings, first, rows);
    }

    fn without_allowed(&self, findings: &mut Vec<Finding>, first: usize, rows: &[Seen<'_>]) -> u64 {
        if self.allow.is_empty() || findings.len() == first {
            return 0;
        }
        let before = findings.len();
        let new = findings.split_off(first);
        findings.extend(new.into_iter().filter_map(|finding| {
            let asn = if self.allow.asks_for_asn() { asn_of(&finding, rows) } else { None };
            match self.allow.covers(&finding, asn) {
                Cover::Open => Some(finding),
                Cover::Held => None,
                Cover::HeldUpTo(severity) => Some(Finding { held_up_to: Some(severity), ..finding }),
            }
        }));
        (before - findings.len()) as u64
    }
}

/// AS number of a finding's destination, as the rows that decided it tell. The column is that of where a row goes: of a
/// record that went back it is the host's own, which says nothing of the other end.
fn asn_of(finding: &Finding, rows: &[Seen<'_>]) -> Option<u32> {
    let to = Address::parse(finding.destination.as_ref()?.ip.as_deref()?.as_bytes())?;
    rows.iter().rev().find_map(|seen| match &seen.what {
        Observation::Flow(flow)
            if flow.initiator == Initiator::Host
                && flow.peer.address == Some(to)
                && flow.row.destination_address == flow.peer.address =>
        {
            flow.row.destination_asn.filter(|asn| *asn != 0)
        }
        _ => None,
    })
}

impl<O: Operator> Store<O> {
    /// An instance of a rule; `make` types the rule's config once.
    pub fn new(detector: &'static Detector, rule: &Rule, make: fn(&Rule) -> O) -> Self {
        Self {
            detector,
            rule: rule.clone(),
            make,
            // Until the rules are set, which [`crate::detection::Detection`] does at once.
            common: None,
            own: BTreeMap::new(),
            states: KeyedStates::new(StateLimits::default()),
            kept_back: KeptBack::default(),
        }
    }

    /// For `Detector::build`.
    pub fn boxed(detector: &'static Detector, rule: &Rule, make: fn(&Rule) -> O) -> Box<dyn Instance> {
        Box::new(Self::new(detector, rule, make))
    }
}

/// The rule that acts for a tenant.
fn work_of<'w, O>(common: &'w Option<Work<O>>, own: &'w BTreeMap<String, Option<Work<O>>>, tenant: &str) -> Option<&'w Work<O>> {
    own.get(tenant).unwrap_or(common).as_ref()
}

impl<O: Operator> Instance for Store<O> {
    fn rule(&self) -> &Rule {
        &self.rule
    }

    fn set_rules(&mut self, common: Option<&Rule>, own: &[&Rule], filters: &mut Filters) {
        if let Some(rule) = common.or(own.first().copied()) {
            self.rule = rule.clone();
        }
        let (detector, make) = (self.detector, self.make);
        let mut work = |rule: &Rule| Work::of(rule, detector, make, filters);
        self.common = common.and_then(&mut work);
        self.own = own.iter().filter_map(|rule| Some((rule.tenant.clone()?, work(rule)))).collect();
    }

    fn kept_back(&self) -> KeptBack {
        let mut filters: Vec<_> = self
            .common
            .iter()
            .chain(self.own.values().flatten())
            .filter_map(|work| Some(&work.filter.as_ref()?.filter))
            .collect();
        filters.sort_by_key(|f| std::sync::Arc::as_ptr(f));
        filters.dedup_by_key(|f| std::sync::Arc::as_ptr(f));
        KeptBack { errors: filters.iter().map(|f| f.errors()).sum(), ..self.kept_back }
    }

    fn detector(&self) -> &'static Detector {
        self.detector
    }

    fn rows(&mut self, key: &HostKey, route: u64, place: &mut Place, rows: &[Seen<'_>], env: &mut Env<'_>) {
        if !rows.iter().any(|s| self.detector.reads.contains(&s.what.kind())) {
            return;
        }
        let Self { detector, common, own, states, kept_back, .. } = self;
        let Some(work) = work_of(common, own, &key.tenant) else { return };
        let let_through = work.let_through(rows, env.passes);
        if let Some(let_through) = &let_through {
            let read = |rows: &[Seen<'_>]| rows.iter().filter(|s| detector.reads.contains(&s.what.kind())).count();
            let (all, left) = (read(rows), read(let_through));
            kept_back.rows += (all - left) as u64;
            if left == 0 {
                return;
            }
        }
        let rows = let_through.as_deref().unwrap_or(rows);
        let Work { rule, operator, .. } = work;
        let slice = env.slice;
        let (inputs, findings) = (env.inputs, &mut *env.findings);
        let first = findings.len();
        let concerned = || operator.concerns(key, rows);
        states.touch_where(key, route, place, slice.start, concerned, |state, wake, forget| {
            let mut ctx = Context { key, slice, rule, detector, inputs, findings, wake, forget };
            operator.rows(rows, state, &mut ctx);
        });
        work.sift(env.findings, first, rows, kept_back);
    }

    fn ask(&self, place: Place) {
        self.states.ask(place);
    }

    fn ahead(&self, place: Place, host: &HostRows<'_>, round: Round) {
        self.states.look(place, |state| O::ahead(state, host, round));
    }

    fn next_wake(&self, in_scope: &dyn Fn(&str) -> bool) -> Option<EventTime> {
        self.states.next_wake(in_scope)
    }

    fn wake(&mut self, in_scope: &dyn Fn(&str) -> bool, env: &mut Env<'_>) {
        for (at, key) in self.states.due(env.slice.end, in_scope) {
            if !self.states.contains(&key) {
                continue;
            }
            let Self { detector, common, own, states, kept_back, .. } = self;
            let Some(work) = work_of(common, own, &key.tenant) else { continue };
            let Work { rule, operator, .. } = work;
            let slice = env.slice;
            let (inputs, findings) = (env.inputs, &mut *env.findings);
            let first = findings.len();
            states.touch(&key, key.route(), slice.start, |state, wake, forget| {
                let mut ctx = Context { key: &key, slice, rule, detector, inputs, findings, wake, forget };
                operator.wake(at, state, &mut ctx);
                // A wish inside this slice would be served in the next one at the earliest.
            });
            work.sift(env.findings, first, &[], kept_back);
        }
    }

    fn enforce(&mut self) {
        self.states.enforce();
    }

    fn limit_bytes(&mut self, bytes_max: usize) {
        self.states.limit_bytes(bytes_max);
    }

    fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime) {
        self.states.sweep(in_scope, now);
    }

    fn groups(&self, changed_only: bool) -> Vec<u16> {
        if changed_only { self.states.dirty().collect() } else { self.states.occupied().collect() }
    }

    fn clean(&mut self) {
        self.states.clean();
    }

    fn pack(&self, group: u16) -> Vec<u8> {
        self.states.pack(group)
    }

    fn unpack(&mut self, group: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        self.states.unpack(&self.rule.id, group, bytes)
    }

    fn why(&self, key: &HostKey, about: &About<'_>) -> RuleAnswer {
        let work = work_of(&self.common, &self.own, &key.tenant);
        let answer = match (work, self.states.peek(key)) {
            (None, _) => Answer::Off,
            (Some(_), None) => Answer::NothingKept,
            (Some(work), Some(state)) => work.operator.conditions(state, about).map_or(Answer::CannotTell, Answer::Cases),
        };
        let rule = work.map_or(&self.rule, |work| &work.rule);
        RuleAnswer { rule: rule.id.clone(), version: rule.version, kind: rule.kind.clone(), answer }
    }

    fn stats(&self) -> StateStats {
        self.states.stats()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_schemas::address::Address;
    use tidewatch_schemas::observation::FlowRow;

    use crate::conformance::{MIDNIGHT_S, default_rule, findings, flow, host};
    use crate::rule::Allow;

    const OURS: u32 = 64_496;
    const THEIRS: u32 = 64_500;

    /// A record each way, as NetFlow exports them; the answer is seen last.
    fn both_ways(at_s: i64, out: u64) -> [FlowRow<'static>; 2] {
        let asked = FlowRow {
            direction_known: false,
            connection_state: None,
            bytes_reverse: None,
            tcp_flags: Some(0x1b),
            destination_asn: Some(THEIRS),
            ..flow(at_s as f64, host(0, 8), Address::v4([198, 51, 100, 20]), 443, out, 0)
        };
        let answered = FlowRow {
            event_time: asked.event_time.plus(500_000_000),
            source_address: asked.destination_address,
            source_port: asked.destination_port,
            source_class: asked.destination_class,
            destination_address: asked.source_address,
            destination_port: asked.source_port,
            destination_class: asked.source_class,
            bytes_forward: Some(3000),
            destination_asn: Some(OURS),
            ..asked
        };
        [asked, answered]
    }

    #[test]
    fn an_exception_for_an_as_is_asked_of_rows_that_go_there_not_of_answers() {
        let mut rows: Vec<FlowRow<'_>> = (0..15).flat_map(|i| both_ways(MIDNIGHT_S + 43_200 + i * 60, 1 << 20)).collect();
        rows.extend(both_ways(MIDNIGHT_S + 43_200 + 1200, 64 << 20));
        let told = |asn: Vec<u32>| {
            let mut rule = default_rule("egress_volume");
            rule.allow.push(Allow { asn, owner: "net".into(), reason: "ours".into(), ..Allow::default() });
            findings(&[rule], &rows).len()
        };
        assert_eq!((told(vec![THEIRS]), told(vec![OURS]), told(vec![1])), (0, 1, 1));
    }
}
