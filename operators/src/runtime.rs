//! The runtime of operators: one [`Instance`] per rule, each with its own states, so that two rules of one kind can
//! neither share nor corrupt what they know.

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::time::EventTime;

use crate::key::HostKey;
use crate::operator::{Context, Detector, Observation, Operator, Seen, Slice};
use crate::rule::Rule;
pub use crate::states::{KeyedStates, RestoreError, StateLimits, StateStats};

/// What an instance may use while it works on a slice.
pub struct Env<'a> {
    /// The slice.
    pub slice: Slice,
    /// Input partitions by index, for the `raw` of findings.
    pub inputs: &'a [(String, u32)],
    /// Candidates so far.
    pub findings: &'a mut Vec<Finding>,
}

/// A rule at work: an operator and the states of its keys, behind one object-safe face.
pub trait Instance: Send {
    /// The rule.
    fn rule(&self) -> &Rule;
    /// Takes up another version of the same rule; states stay.
    fn set_rule(&mut self, rule: &Rule);
    /// The detector.
    fn detector(&self) -> &'static Detector;
    /// One key's rows of a slice. Rows of kinds it does not read are skipped; without any, nothing happens.
    fn rows(&mut self, key: &HostKey, route: u64, rows: &[Seen<'_>], env: &mut Env<'_>);
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
    /// Figures.
    fn stats(&self) -> StateStats;
}

/// An operator with the states of its keys.
pub struct Store<O: Operator> {
    detector: &'static Detector,
    rule: Rule,
    make: fn(&Rule) -> O,
    operator: O,
    states: KeyedStates<O::State>,
}

impl<O: Operator> Store<O> {
    /// An instance of a rule; `make` types the rule's config once.
    pub fn new(detector: &'static Detector, rule: &Rule, make: fn(&Rule) -> O) -> Self {
        Self { detector, rule: rule.clone(), make, operator: make(rule), states: KeyedStates::new(StateLimits::default()) }
    }

    /// For `Detector::build`.
    pub fn boxed(detector: &'static Detector, rule: &Rule, make: fn(&Rule) -> O) -> Box<dyn Instance> {
        Box::new(Self::new(detector, rule, make))
    }
}

fn kind_of(what: &Observation<'_>) -> Kind {
    match what {
        Observation::Flow(_) => Kind::Flow,
        Observation::Dns(_) => Kind::Dns,
        Observation::Tls(_) => Kind::Tls,
        Observation::Http(_) => Kind::Http,
        Observation::Edge(_) => Kind::Edge,
        Observation::Result(_) => Kind::Result,
    }
}

impl<O: Operator> Instance for Store<O> {
    fn rule(&self) -> &Rule {
        &self.rule
    }

    fn set_rule(&mut self, rule: &Rule) {
        self.rule = rule.clone();
        self.operator = (self.make)(rule);
    }

    fn detector(&self) -> &'static Detector {
        self.detector
    }

    fn rows(&mut self, key: &HostKey, route: u64, rows: &[Seen<'_>], env: &mut Env<'_>) {
        if !rows.iter().any(|s| self.detector.reads.contains(&kind_of(&s.what))) {
            return;
        }
        let Self { detector, rule, operator, states, .. } = self;
        let slice = env.slice;
        let (inputs, findings) = (env.inputs, &mut *env.findings);
        let concerned = || operator.concerns(key, rows);
        states.touch_where(key, route, slice.start, concerned, |state, wake, forget| {
            let mut ctx = Context { key, slice, rule, detector, inputs, findings, wake, forget };
            operator.rows(rows, state, &mut ctx);
        });
    }

    fn next_wake(&self, in_scope: &dyn Fn(&str) -> bool) -> Option<EventTime> {
        self.states.next_wake(in_scope)
    }

    fn wake(&mut self, in_scope: &dyn Fn(&str) -> bool, env: &mut Env<'_>) {
        for (at, key) in self.states.due(env.slice.end, in_scope) {
            if !self.states.contains(&key) {
                continue;
            }
            let Self { detector, rule, operator, states, .. } = self;
            let slice = env.slice;
            let (inputs, findings) = (env.inputs, &mut *env.findings);
            states.touch(&key, key.route(), slice.start, |state, wake, forget| {
                let mut ctx = Context { key: &key, slice, rule, detector, inputs, findings, wake, forget };
                operator.wake(at, state, &mut ctx);
                // A wish inside this slice would be served in the next one at the earliest.
            });
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

    fn stats(&self) -> StateStats {
        self.states.stats()
    }
}
