//! Correlate: the tenant's view of findings. Counts who knows which destination, judges each candidate with that
//! (through its detector's `judge`), and suppresses what was already told. Pure: a closed slice's contacts and findings
//! in, signals out. Contacts of a slice count before its candidates are judged; hosts and who knows what count for this week
//! and the last.
//!
//! Suppression goes by the same subject as the signal's id, and because this state commits with the signals it can only
//! be armed by a signal that was committed. What has become graver than all that was told since suppression began is told at
//! once: at most once for each step of severity, four times. A slice tells of a subject once, its id being that of the slice: of the gravest.
//!
//! What a rule in shadow finds takes the same way and comes out marked. It has suppression of its own, so that what was told
//! in shadow holds back no signal once the rule is live, and what was told live changes nothing about a shadow.

mod destination;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::finding::{Contacts, Finding};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

pub use self::destination::HOSTS_PER_DESTINATION_MAX;
use self::destination::{Destination, counts, name_hash};
use crate::detectors;
use crate::door::PROBED;
use crate::key::{Host, HostKey};
use crate::limit::Limit;
use crate::operator::{Detector, Footprint, Slice, TenantFacts};
use crate::planted::{self, Bug};
use crate::states::{KeyedStates, RestoreError, StateLimits, StateStats};
use crate::table::{RECORDS_MAX, Record, Table, mixed, table_bytes};

/// Destinations remembered per tenant; at the limit the ones silent longest go, a quarter at a time, counted.
pub const DESTINATIONS_PER_TENANT_MAX: usize = 262_144;

/// Hosts named per tenant; beyond it their number stands.
pub const HOSTS_PER_TENANT_MAX: usize = 65_536;
static HOSTS_PER_TENANT: Limit = Limit::new("HOSTS_PER_TENANT_MAX");

/// Limits here at which something is forgotten that [`Correlation::stats`] does not count.
pub static LIMITS: &[&Limit] = &[&HOSTS_PER_TENANT];

/// Suppressed subjects per tenant; at the limit those that would end first go, counted: a signal may then come early.
pub const SUPPRESSED_PER_TENANT_MAX: usize = 65_536;

/// Bytes of one tenant's state or more that a limit leaves it: its name, and what is about to be told.
const TENANT_BYTES_MIN: usize = 4 << 10;

/// Bytes that the allocator and a B-tree's slack add to each text and entry.
const ENTRY_EXTRA_BYTES: usize = 16;

/// A host of the tenant.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    host: u64,
    last: EventTime,
}

impl Record for Known {
    fn hash(&self) -> u64 {
        mixed(self.host, 0)
    }
}

/// What was told of a subject.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Told {
    /// End of suppression.
    until: EventTime,
    /// The gravest since suppression began, as a number.
    severity: u8,
    /// Slice of the last signal.
    slice: EventTime,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct TenantState {
    hosts: Table<Known>,
    destinations: Table<Destination>,
    /// What lies beside the destinations' records, kept up to date.
    destination_bytes: usize,
    /// By [`told_under`], entity and subject.
    suppressed: BTreeMap<(String, String, String), Told>,
    /// Its first slice.
    since: Option<EventTime>,
    evicted: u64,
}

impl Footprint for TenantState {
    /// By lengths, never by capacities: a state that was read back weighs what the written one did.
    fn heap_bytes(&self) -> usize {
        table_bytes::<Known>(self.hosts.len())
            + table_bytes::<Destination>(self.destinations.len())
            + self.destination_bytes
            + self.suppressed.keys().map(suppressed_bytes).sum::<usize>()
    }
}

/// A suppressed subject: its texts, and its entry with a B-tree's slack of one half.
fn suppressed_bytes((rule, entity, subject): &(String, String, String)) -> usize {
    let entry = size_of::<(String, String, String)>() + size_of::<Told>();
    rule.len() + entity.len() + subject.len() + 3 * ENTRY_EXTRA_BYTES + entry * 3 / 2
}

/// What a rule's candidates came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// Candidates seen.
    pub evaluated: u64,
    /// Signals.
    pub fired: u64,
    /// What would have been signals, of a rule in shadow.
    pub shadow: u64,
    /// Held back by suppression.
    pub suppressed: u64,
    /// Dropped in the tenant's view (too common).
    pub dismissed: u64,
    /// Held back by an exception for what is no graver than this.
    pub allowed: u64,
}

/// Correlation of one task.
#[derive(Debug)]
pub struct Correlation {
    detectors: &'static [&'static Detector],
    states: KeyedStates<TenantState>,
    verdicts: BTreeMap<String, Verdicts>,
    /// What tenants forgot at a limit, of their own, since this began.
    forgotten: u64,
}

impl Default for Correlation {
    fn default() -> Self {
        Self::with(detectors::ALL)
    }
}

impl Correlation {
    /// For findings of these detectors.
    pub fn with(detectors: &'static [&'static Detector]) -> Self {
        let limits = StateLimits { lifetime_ns: 30 * 86_400 * SECOND_NS, ..StateLimits::default() };
        Self { detectors, states: KeyedStates::new(limits), verdicts: BTreeMap::new(), forgotten: 0 }
    }

    /// Bytes of all tenants of the task together; one of them may take three quarters. At the limit those who hold most forget,
    /// down to one common level, each of its own what was silent longest: destinations, then hosts, then suppressions that
    /// end first. Who holds less than that level forgets nothing.
    pub fn limit_bytes(&mut self, task_bytes_max: usize) {
        self.states.limit_bytes(task_bytes_max);
    }
}

impl Correlation {
    /// A closed slice of one tenant. Returns the findings that become signals, in order; those of rules in shadow among them.
    pub fn slice(&mut self, tenant: &str, slice: Slice, contacts: Contacts, mut findings: Vec<Finding>) -> Vec<Finding> {
        findings.sort_by(|a, b| {
            (&a.kind, &a.rule.id, &a.entity.id, &a.subject, a.decided_at).cmp(&(
                &b.kind,
                &b.rule.id,
                &b.entity.id,
                &b.subject,
                b.decided_at,
            ))
        });
        let key = HostKey { tenant: Arc::from(tenant), host: Host::Name(Arc::from("")) };
        let Self { detectors, states, verdicts, forgotten } = self;
        let out = states.touch(&key, key.route(), slice.start, |state, _, _| {
            state.since.get_or_insert(slice.start);
            state.count(tenant, &contacts);
            // Counting walks all hosts: only where somebody asks.
            let hosts = if findings.is_empty() { 0 } else { state.hosts_within(slice.start) };
            let mut signals = Vec::new();
            for finding in findings {
                let verdict = verdicts.entry(finding.rule.id.clone()).or_default();
                verdict.evaluated += 1;
                let Some(detector) = detectors.iter().find(|d| d.kind == finding.kind) else { continue };
                let facts = state.facts(finding.contact.as_deref(), hosts, slice.start);
                let Some(finding) = (detector.judge)(finding, &facts) else {
                    verdict.dismissed += 1;
                    continue;
                };
                if finding.held_up_to.is_some_and(|up_to| finding.severity <= up_to) {
                    verdict.allowed += 1;
                    continue;
                }
                let subject = (told_under(&finding), finding.entity.id.clone(), finding.subject.clone());
                let severity = finding.severity as u8;
                let told = state.suppressed.get(&subject).filter(|told| finding.decided_at < told.until).copied();
                if told.is_some_and(|told| severity <= told.severity) || planted_suppression(&subject, &finding) {
                    verdict.suppressed += 1;
                    continue;
                }
                // Armed from the deciding row's event time, which lies inside this closed slice: never ahead of it.
                let until = finding.decided_at.plus(finding.suppress_ns);
                state.suppressed.insert(subject, Told { until, severity, slice: slice.start });
                if told.is_some_and(|told| told.slice == slice.start)
                    && let Some(last) = signals.iter_mut().rev().find(|last: &&mut Finding| same_subject(last, &finding))
                {
                    verdict.suppressed += 1;
                    *last = finding;
                    continue;
                }
                if finding.shadow {
                    verdict.shadow += 1;
                } else {
                    verdict.fired += 1;
                }
                signals.push(finding);
            }
            *forgotten += state.limit(slice.start);
            signals
        });
        self.enforce(slice.start);
        out
    }

    /// Keeps the byte limits: tenants give of what they hold before any is dropped whole.
    fn enforce(&mut self, now: EventTime) {
        let Self { states, forgotten, .. } = self;
        for (tenant, level_bytes) in states.above() {
            let key = HostKey { tenant, host: Host::Name(Arc::from("")) };
            states.touch(&key, key.route(), now, |state, _, _| *forgotten += state.shrink(level_bytes));
        }
        states.enforce();
    }

    /// Figures per rule.
    pub fn verdicts(&self) -> &BTreeMap<String, Verdicts> {
        &self.verdicts
    }

    /// Key groups to write.
    pub fn groups(&self, changed_only: bool) -> Vec<u16> {
        if changed_only { self.states.dirty().collect() } else { self.states.occupied().collect() }
    }

    /// Forgets which groups changed.
    pub fn clean(&mut self) {
        self.states.clean();
    }

    /// A group's states.
    pub fn pack(&self, group: u16) -> Vec<u8> {
        self.states.pack(group)
    }

    /// Takes a group's states up.
    pub fn unpack(&mut self, group: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        self.states.unpack("correlate", group, bytes)
    }

    /// Figures; what tenants forgot at a limit counts as evicted.
    pub fn stats(&self) -> StateStats {
        let stats = self.states.stats();
        StateStats { evicted: stats.evicted + self.forgotten, ..stats }
    }
}

fn same_subject(a: &Finding, b: &Finding) -> bool {
    (&a.rule.id, a.shadow, &a.entity.id, &a.subject) == (&b.rule.id, b.shadow, &b.entity.id, &b.subject)
}

/// Under what its rule's suppression is kept: the rule's id, in shadow with a word more. No id has a blank in it.
fn told_under(finding: &Finding) -> String {
    let id = &finding.rule.id;
    if finding.shadow { format!("{id} shadow") } else { id.clone() }
}

/// With [`Bug::SuppressionUncommitted`]: the process remembers what it said, committed or not. What it says anew in the
/// same slice of its first life it had not said yet.
fn planted_suppression(subject: &(String, String, String), finding: &Finding) -> bool {
    if !planted::is(Bug::SuppressionUncommitted) {
        return false;
    }
    let name = format!("{}\n{}\n{}\n{}", finding.tenant, subject.0, subject.1, subject.2);
    let held = planted::remembered(&name).is_some_and(|until| finding.decided_at.0 < until);
    if !held {
        planted::remember(name, finding.decided_at.plus(finding.suppress_ns).0);
    }
    held
}

impl TenantState {
    fn count(&mut self, tenant: &str, contacts: &Contacts) {
        // In an order of their own: which hosts are named where only the first 64 are must not depend on which detect task
        // spoke first.
        let mut order: Vec<usize> = (0..contacts.len()).filter(|i| contacts.tenant.get(*i) == tenant).collect();
        order.sort_unstable_by(|&a, &b| {
            // Times alone tell most apart.
            let texts = |i: usize| (contacts.host.get(i), contacts.destination.get(i));
            contacts.at[a].cmp(&contacts.at[b]).then_with(|| texts(a).cmp(&texts(b)))
        });
        for i in order {
            let name = contacts.destination.get(i);
            let host = xxhash_rust::xxh3::xxh3_64(contacts.host.get(i).as_bytes());
            let at = contacts.at[i];
            self.heard_of(host, at);
            if name.is_empty() {
                continue;
            }
            match self.destinations.find(name_hash(name), |d| *d.name == *name) {
                Some(place) => {
                    let destination = &mut self.destinations.records_mut()[place];
                    let before = destination.heap_bytes();
                    destination.met_by(host, at);
                    self.destination_bytes = self.destination_bytes + destination.heap_bytes() - before;
                }
                None if self.destinations.len() < RECORDS_MAX => {
                    let destination = Destination::new(name.into(), host, at);
                    self.destination_bytes += destination.heap_bytes();
                    self.destinations.push(destination);
                }
                None => self.evicted += 1,
            }
        }
    }

    fn heard_of(&mut self, host: u64, at: EventTime) {
        match self.hosts.find(mixed(host, 0), |known| known.host == host) {
            Some(place) => {
                let known = &mut self.hosts.records_mut()[place];
                known.last = known.last.max(at);
            }
            None if self.hosts.len() < HOSTS_PER_TENANT_MAX => {
                self.hosts.push(Known { host, last: at });
            }
            None => HOSTS_PER_TENANT.bites(),
        }
    }

    /// Hosts heard of this week or the last, as for destinations.
    fn hosts_within(&self, now: EventTime) -> u64 {
        self.hosts.records().iter().filter(|known| counts(known.last, now)).count() as u64
    }

    /// Of several destinations, joined by commas, the one that most hosts know.
    fn facts(&self, contact: Option<&str>, hosts: u64, now: EventTime) -> TenantFacts {
        let of = |name: &str| self.destinations.find(name_hash(name), |d| *d.name == *name);
        let names = || contact.into_iter().flat_map(|contact| contact.split(','));
        let known = |place: usize| &self.destinations.records()[place];
        let probed = names().filter_map(|name| of(&format!("{PROBED}{name}"))).any(|place| known(place).knowing(now) > 0);
        let known = names().filter_map(of).map(known).map(|d| (d.knowing(now), d));
        let facts = TenantFacts { hosts, watched_since: self.since, probed, ..TenantFacts::default() };
        match known.max_by_key(|(knowing, _)| *knowing) {
            None | Some((0, _)) => facts,
            Some((knowing, destination)) => TenantFacts {
                knowing: knowing.min(hosts.max(1)),
                known_since: Some(destination.first),
                joined_at: Some(destination.joined),
                ..facts
            },
        }
    }

    /// Keeps the limits by number. Returns how many entries went.
    fn limit(&mut self, now: EventTime) -> u64 {
        let before = self.evicted;
        self.suppressed.retain(|_, told| told.until > now);
        self.forget_suppressed(self.suppressed.len().saturating_sub(SUPPRESSED_PER_TENANT_MAX));
        if self.destinations.len() > DESTINATIONS_PER_TENANT_MAX {
            self.forget_destinations(DESTINATIONS_PER_TENANT_MAX / 4);
        }
        if self.hosts.len() >= HOSTS_PER_TENANT_MAX {
            self.hosts.retain(|known| counts(known.last, now));
        }
        self.evicted - before
    }

    /// Forgets until no more than so many bytes are held. Returns how many entries went.
    fn shrink(&mut self, bytes_max: usize) -> u64 {
        let (before, bytes_max) = (self.evicted, bytes_max.max(TENANT_BYTES_MIN));
        while self.heap_bytes() > bytes_max {
            if !self.destinations.is_empty() {
                self.forget_destinations(self.destinations.len().div_ceil(4));
            } else if !self.hosts.is_empty() {
                self.forget_hosts(self.hosts.len().div_ceil(4));
            } else if !self.suppressed.is_empty() {
                self.forget_suppressed(self.suppressed.len().div_ceil(4));
            } else {
                break;
            }
        }
        self.evicted - before
    }

    /// The destinations silent longest go.
    fn forget_destinations(&mut self, gone: usize) {
        let records = self.destinations.records();
        let mut order: Vec<(EventTime, &str, u32)> =
            records.iter().enumerate().map(|(at, d)| (d.last, &*d.name, at as u32)).collect();
        let stays = staying(&mut order, gone, |(.., at)| *at);
        let mut stays = stays.into_iter();
        self.destinations.retain(|_| stays.next().unwrap_or(true));
        self.destination_bytes = self.destinations.records().iter().map(Destination::heap_bytes).sum();
        self.evicted += gone as u64;
    }

    /// The hosts silent longest go.
    fn forget_hosts(&mut self, gone: usize) {
        let records = self.hosts.records();
        let mut order: Vec<(EventTime, u64, u32)> =
            records.iter().enumerate().map(|(at, known)| (known.last, known.host, at as u32)).collect();
        let stays = staying(&mut order, gone, |(.., at)| *at);
        let mut stays = stays.into_iter();
        self.hosts.retain(|_| stays.next().unwrap_or(true));
        self.evicted += gone as u64;
    }

    /// The suppressions that would end first go.
    fn forget_suppressed(&mut self, gone: usize) {
        if gone == 0 {
            return;
        }
        let mut order: Vec<_> = self.suppressed.iter().map(|(k, told)| (told.until, k.clone())).collect();
        order.sort_unstable();
        for (_, key) in order.iter().take(gone) {
            self.suppressed.remove(key);
            self.evicted += 1;
        }
    }
}

/// Which records stay when the first `gone` of an order go; `place` says where each of them lies.
fn staying<T: Ord>(order: &mut [T], gone: usize, place: impl Fn(&T) -> u32) -> Vec<bool> {
    let mut stays = vec![true; order.len()];
    if gone < order.len() {
        order.select_nth_unstable(gone);
    }
    order[..gone.min(order.len())].iter().for_each(|one| stays[place(one) as usize] = false);
    stays
}

#[cfg(test)]
mod tests;
