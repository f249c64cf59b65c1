//! Detection of one task: a closed slice's rows in, findings and contacts out. Pure: the answer depends on the set of
//! rows, the rules and what earlier slices left behind; not on how the rows came.

use std::sync::Arc;

use arrayvec::ArrayVec;
use tidewatch_schemas::finding::{Contacts, Finding};
use tidewatch_schemas::observation::{Kind, Row};
use tidewatch_schemas::time::EventTime;

use crate::ahead::Round;
use crate::detectors;
use crate::door::{Door, DoorStats};
use crate::key::HostKey;
use crate::operator::{Detector, Position, Seen, Slice};
use crate::places::Places;
use crate::planted::{self, Bug};
use crate::rule::Rule;
use crate::rule::filter::Filters;
use crate::runtime::{Env, Instance, KeptBack, RestoreError, StateStats};
use crate::why::{About, RuleAnswer};

/// A row of a slice as detection takes it. The slice's rows come sorted by [`SliceRow::order`] within one host.
#[derive(Clone, Copy, Debug)]
pub struct SliceRow<'a> {
    /// Event time.
    pub at: EventTime,
    /// The row.
    pub row: Row<'a>,
    /// Where it lies.
    pub position: Position,
    /// False on a copy under a second key.
    pub primary: bool,
    /// Bits of the expressions that let it through, see [`Filters::select`]; all of them where there are none.
    pub passes: u64,
}

impl SliceRow<'_> {
    /// The one order of a host's rows: event time, kind, content. Position comes last and only breaks ties between
    /// identical rows, which differ in nothing else; `ranks` gives an input's place by name, because its index is given
    /// out by arrival.
    pub fn order(&self, other: &SliceRow<'_>, ranks: &[u16]) -> std::cmp::Ordering {
        let lies = || {
            let (a, b) = (self.position, other.position);
            let rank = |p: Position| ranks.get(usize::from(p.input)).copied().unwrap_or(p.input);
            (rank(a), a.offset, a.row).cmp(&(rank(b), b.offset, b.row))
        };
        let first = self.at.cmp(&other.at);
        let first = if planted::is(Bug::TiesByPosition) { first.then_with(lies) } else { first };
        first.then_with(|| self.row.compare_content(&other.row)).then_with(lies)
    }
}

/// One host's rows of a slice, sorted by [`SliceRow::order`].
#[derive(Clone, Debug)]
pub struct HostRows<'a> {
    /// Whose.
    pub key: HostKey,
    /// Its routing key.
    pub route: u64,
    /// The rows.
    pub rows: &'a [SliceRow<'a>],
}

/// What a slice gave.
#[derive(Debug, Default)]
pub struct SliceOutput {
    /// Candidates, in the order of hosts and rules.
    pub findings: Vec<Finding>,
    /// New pairs.
    pub contacts: Contacts,
    /// Primary rows recognised as duplicates.
    pub duplicates: u64,
}

impl SliceOutput {
    /// Empties it for the next slice. The room for an ordinary one's pairs stays.
    pub fn clear(&mut self) {
        (self.findings, self.duplicates) = (Vec::new(), 0);
        if self.contacts.bytes() > ROOM_BYTES { self.contacts = Contacts::default() } else { self.contacts.clear() }
    }
}

/// Hosts that are looked ahead for at a time: as many as their states' ways through memory can overlap.
pub const HOSTS_AHEAD: usize = 16;

/// Rows of a host for which is looked ahead: most hosts have no more in a slice, and those of one that does come soon.
pub(crate) const ROWS_AHEAD: usize = 4;

/// Rows whose room is kept for the next host; what a scanning host took goes back.
const ROOM_ROWS_MAX: usize = 4096;

/// Bytes of a slice's new pairs whose room is kept for the next one.
const ROOM_BYTES: usize = 256 << 10;

/// Hosts of one slice between two looks at the limits of state: a slice with many newcomers cannot outgrow them by more.
const HOSTS_UNCHECKED_MAX: u32 = 1024;

/// The operators of one task.
pub struct Detection {
    detectors: &'static [&'static Detector],
    door: Door,
    instances: Vec<Box<dyn Instance>>,
    filters: Arc<Filters>,
    inputs: Vec<(String, u32)>,
    /// Limit on all states; `None` = the defaults of each.
    bytes_max: Option<usize>,
    /// Room for one host's rows; empty between hosts.
    room: Vec<Seen<'static>>,
    /// Where the states of hosts lie: the door's, then each instance's.
    places: Places,
    /// Hosts of this slice since the limits of state were looked at.
    unchecked: u32,
}

impl std::fmt::Debug for Detection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Detection").field("rules", &self.instances.len()).finish_non_exhaustive()
    }
}

/// Figures of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleStats {
    /// Rule id.
    pub rule: String,
    /// Kind of rule: which detector.
    pub kind: String,
    /// States.
    pub states: StateStats,
    /// What its exceptions and its `where` kept back.
    pub kept_back: KeptBack,
}

/// Name under which the door's states travel in snapshots; no rule id may be equal (ids hold no space).
pub(crate) const DOOR: &str = "the door";

/// A state group of an operator: (operator, key group).
pub type Part = (String, u16);

impl Detection {
    /// Operators for the enabled rules, in their order.
    pub fn new(rules: &[Rule]) -> Self {
        Self::with(rules, detectors::ALL)
    }

    /// Operators of other detectors than [`detectors::ALL`]: for tests that bring their own.
    pub fn with(rules: &[Rule], detectors: &'static [&'static Detector]) -> Self {
        let mut detection = Self {
            detectors,
            door: Door::default(),
            instances: Vec::new(),
            filters: Arc::default(),
            inputs: Vec::new(),
            bytes_max: None,
            room: Vec::new(),
            places: Places::default(),
            unchecked: 0,
        };
        detection.set_rules(rules);
        detection
    }

    /// Takes up another version of the rules: rules that stay keep their states, new ones start empty, others go. Rules
    /// of one id and kind, everybody's and single tenants', are one instance.
    pub fn set_rules(&mut self, rules: &[Rule]) {
        let mut old = std::mem::take(&mut self.instances);
        let mut filters = Filters::after(&self.filters);
        let mut groups: Vec<(&Rule, Vec<&Rule>)> = Vec::new();
        for rule in rules.iter().filter(|r| r.enabled || r.tenant.is_some()) {
            match groups.iter_mut().find(|(first, _)| first.id == rule.id && first.kind == rule.kind) {
                Some((_, group)) => group.push(rule),
                None => groups.push((rule, vec![rule])),
            }
        }
        for (first, group) in groups {
            let Some(detector) = detectors::of_rule_kind(self.detectors, &first.kind) else { continue };
            let kept = old.iter().position(|i| i.rule().id == first.id && i.rule().kind == first.kind);
            let mut instance = match kept {
                Some(at) => old.swap_remove(at),
                None => (detector.build)(first),
            };
            let common = group.iter().copied().find(|r| r.tenant.is_none());
            let own: Vec<&Rule> = group.into_iter().filter(|r| r.tenant.is_some()).collect();
            instance.set_rules(common, &own, &mut filters);
            self.instances.push(instance);
        }
        filters.complete();
        self.filters = Arc::new(filters);
        self.places.reset(1 + self.instances.len());
        self.share_limit();
    }

    /// The expressions over rows of the rules that act: what [`SliceRow::passes`] comes from.
    pub fn filters(&self) -> Arc<Filters> {
        self.filters.clone()
    }

    /// Limits the state of the task, bytes: a quarter for the door, the rest in equal parts for the rules.
    pub fn limit_bytes(&mut self, bytes_max: usize) {
        self.bytes_max = Some(bytes_max);
        self.share_limit();
    }

    fn share_limit(&mut self) {
        let Some(bytes_max) = self.bytes_max else { return };
        self.door.limit_bytes(bytes_max / 4);
        let share = bytes_max / 4 * 3 / self.instances.len().max(1);
        self.instances.iter_mut().for_each(|i| i.limit_bytes(share));
    }

    /// Index of an input partition, for [`Position::input`]. At most 65,536; further ones share the last index.
    pub fn input(&mut self, topic: &str, partition: u32) -> u16 {
        let at = self.inputs.iter().position(|(t, p)| t == topic && *p == partition).unwrap_or_else(|| {
            self.inputs.push((topic.to_owned(), partition));
            self.inputs.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// The input partitions by index.
    pub fn inputs(&self) -> &[(String, u32)] {
        &self.inputs
    }

    /// Place of each input partition by (topic, partition), for [`SliceRow::order`].
    pub fn ranks(&self) -> Vec<u16> {
        let mut by_name: Vec<usize> = (0..self.inputs.len()).collect();
        by_name.sort_by(|&a, &b| self.inputs[a].cmp(&self.inputs[b]));
        let mut ranks = vec![0; by_name.len()];
        for (rank, index) in by_name.into_iter().enumerate() {
            ranks[index] = u16::try_from(rank).unwrap_or(u16::MAX);
        }
        ranks
    }

    /// Restores the list of input partitions.
    pub fn set_inputs(&mut self, inputs: Vec<(String, u32)>) {
        self.inputs = inputs;
    }

    /// Asks for the states of hosts whose rows come next, see [`crate::ahead`]. Changes nothing.
    pub fn ahead(&mut self, hosts: &[HostRows<'_>]) {
        let Self { places, door, instances, .. } = self;
        // First the look-ups and the states, then what they lead to: in each round no look waits for another.
        for hosts in hosts.chunks(HOSTS_AHEAD) {
            for round in Round::ALL {
                hosts.iter().for_each(|host| places.ahead(host.route, round));
            }
            let found: ArrayVec<usize, HOSTS_AHEAD> = hosts.iter().map(|host| places.find(&host.key, host.route)).collect();
            for at in &found {
                let [at_door, places @ ..] = places.at(*at) else { continue };
                door.ask(*at_door);
                instances.iter().zip(places).for_each(|(instance, place)| instance.ask(*place));
            }
            for round in Round::ALL {
                for (host, at) in hosts.iter().zip(&found) {
                    let [at_door, places @ ..] = places.at(*at) else { continue };
                    door.ahead(*at_door, host, round);
                    instances.iter().zip(places).for_each(|(instance, place)| instance.ahead(*place, host, round));
                }
            }
        }
    }

    /// One host's rows of a slice, sorted by [`SliceRow::order`].
    pub fn host(&mut self, key: &HostKey, route: u64, slice: Slice, rows: &[SliceRow<'_>], out: &mut SliceOutput) {
        let mut seen: Vec<Seen<'_>> = emptied(std::mem::take(&mut self.room));
        let Self { places, door, instances, inputs, filters, .. } = self;
        let [at_door, places @ ..] = places.of(key, route) else { return };
        out.duplicates += door.rows((key, route), at_door, slice, rows, &mut seen, &mut out.contacts);
        let passes = if filters.over_rows() { passes_of(rows, &seen) } else { Vec::new() };
        let mut env = Env { slice, inputs, findings: &mut out.findings, passes: &passes };
        for (instance, place) in instances.iter_mut().zip(places) {
            instance.rows(key, route, place, &seen, &mut env);
        }
        if seen.capacity() <= ROOM_ROWS_MAX {
            self.room = emptied(seen);
        }
        // Counted from the slice's begin, and its hosts come in one order: where this falls depends on the rows alone.
        self.unchecked += 1;
        if self.unchecked >= HOSTS_UNCHECKED_MAX {
            self.enforce();
        }
    }

    fn enforce(&mut self) {
        self.unchecked = 0;
        self.instances.iter_mut().for_each(|i| i.enforce());
        self.door.enforce();
    }

    /// Earliest wake-up of tenants in scope.
    pub fn next_wake(&self, in_scope: &dyn Fn(&str) -> bool) -> Option<EventTime> {
        self.instances.iter().filter_map(|i| i.next_wake(in_scope)).min()
    }

    /// Ends a slice: wake-ups that lie before its end, then the limits.
    pub fn end(&mut self, slice: Slice, in_scope: &dyn Fn(&str) -> bool, out: &mut SliceOutput) {
        let mut env = Env { slice, inputs: &self.inputs, findings: &mut out.findings, passes: &[] };
        for instance in &mut self.instances {
            instance.wake(in_scope, &mut env);
        }
        self.enforce();
    }

    /// Frees what tenants in scope have kept beyond its lifetime.
    pub fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime) {
        // Hosts that are gone need no places.
        self.places.clear();
        self.door.sweep(in_scope, now);
        self.instances.iter_mut().for_each(|i| i.sweep(in_scope, now));
    }

    /// State groups to write: those changed since the last [`Self::clean`], or all.
    pub fn parts(&self, changed_only: bool) -> Vec<Part> {
        let door = self.door.groups(changed_only).into_iter().map(|g| (DOOR.to_owned(), g));
        let rules = self.instances.iter().flat_map(|i| i.groups(changed_only).into_iter().map(|g| (i.rule().id.clone(), g)));
        door.chain(rules).collect()
    }

    /// Forgets which groups changed.
    pub fn clean(&mut self) {
        self.door.clean();
        self.instances.iter_mut().for_each(|i| i.clean());
    }

    /// One state group as bytes.
    pub fn pack(&self, part: &Part) -> Vec<u8> {
        if part.0 == DOOR {
            return self.door.pack(part.1);
        }
        self.instances.iter().find(|i| i.rule().id == part.0).map(|i| i.pack(part.1)).unwrap_or_default()
    }

    /// Takes one state group up. A group of a rule that is no longer there is left aside.
    pub fn unpack(&mut self, part: &Part, bytes: &[u8]) -> Result<(), RestoreError> {
        self.places.clear();
        if part.0 == DOOR {
            return self.door.unpack(part.1, bytes);
        }
        match self.instances.iter_mut().find(|i| i.rule().id == part.0) {
            Some(instance) => instance.unpack(part.1, bytes),
            None => Ok(()),
        }
    }

    /// Figures.
    pub fn stats(&self) -> (DoorStats, Vec<RuleStats>) {
        let of = |i: &dyn Instance| RuleStats {
            rule: i.rule().id.clone(),
            kind: i.rule().kind.clone(),
            states: i.stats(),
            kept_back: i.kept_back(),
        };
        let rules = self.instances.iter().map(|i| of(i.as_ref())).collect();
        (self.door.stats().0, rules)
    }

    /// What every rule's state of a host says of its conditions.
    pub fn why(&self, key: &HostKey, about: &About<'_>) -> Vec<RuleAnswer> {
        self.instances.iter().map(|i| i.why(key, about)).collect()
    }

    /// Figures of the door's states.
    pub fn door_states(&self) -> StateStats {
        self.door.stats().1
    }

    /// Kinds of rows that some rule reads.
    pub fn reads(&self, kind: Kind) -> bool {
        self.instances.iter().any(|i| i.detector().reads.contains(&kind))
    }
}

/// Which expressions let the rows through that the door did: it takes some out and leaves the order.
fn passes_of(rows: &[SliceRow<'_>], seen: &[Seen<'_>]) -> Vec<u64> {
    let mut rows = rows.iter();
    let of = |s: &Seen<'_>| rows.find(|r| r.position == s.position && r.row.kind() == s.what.kind());
    seen.iter().map(of).map(|row| row.map_or(u64::MAX, |row| row.passes)).collect()
}

/// The room that rows took, free of what they borrowed. (Collecting in place keeps the allocation.)
#[allow(clippy::unnecessary_filter_map, reason = "a filter would keep the items' lifetime")]
fn emptied<'b>(mut seen: Vec<Seen<'_>>) -> Vec<Seen<'b>> {
    seen.clear();
    seen.into_iter().filter_map(|_| None).collect()
}
