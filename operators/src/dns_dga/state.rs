//! What is kept per host: which registered domains it asked for, the names of the last minutes, and the evidence that has
//! come together. Decides nothing about threats.
//!
//! Always holds: at most [`DOMAINS_MAX`] domains and [`WINDOW_NAMES_MAX`] names, whatever is asked; a domain counts once,
//! however often it is retried; names kept as text are the few that a finding tells.

use std::collections::{BTreeMap, VecDeque};

use libm::exp2;
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use xxhash_rust::xxh3::xxh3_64;

use super::start::Recent;
use crate::limit::Limit;
use crate::operator::{Footprint, Position, RawRows, vec_bytes};

/// Registered domains remembered per host; at the limit the quarter asked for longest ago goes, and counts as new when it
/// comes again.
pub(super) const DOMAINS_MAX: usize = 1024;
pub(super) static DOMAINS: Limit = Limit::new("DOMAINS_MAX");

/// Distinct names within the window; at the limit the oldest leaves.
pub(super) const WINDOW_NAMES_MAX: usize = 512;
pub(super) static WINDOW_NAMES: Limit = Limit::new("WINDOW_NAMES_MAX");

/// Generated names told as examples: the first of the episode.
pub(super) const EXAMPLES_MAX: usize = 8;

/// Generated names told that exist: the first of the episode.
pub(super) const FOUND_MAX: usize = 4;

/// Suffixes told: the first of the episode; further ones are not named.
pub(super) const SUFFIXES_MAX: usize = 6;

/// A domain not asked for so long is new again: a week and a day.
const LIFETIME_NS: i64 = 8 * 86_400 * SECOND_NS;

/// Domains known by their mail from which on a host serves mail.
const MAIL_DOMAINS_MIN: usize = 5;

/// Evidence loses half its weight in so long: a generator that asks once an hour is found within the morning, and what a
/// host meets by chance in a week does not add up.
const HALF_LIFE_NS: i64 = 24 * 3600 * SECOND_NS;

/// Below it evidence is gone and a new episode begins.
const EVIDENCE_MIN: f64 = 0.05;

/// A distinct name within the window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub at: EventTime,
    /// Hash of the name.
    pub name: u64,
    /// Looks generated, in its registered label or its first.
    pub generated: bool,
    /// Bytes of the first label, when it alone looks generated; else 0.
    pub first_bytes: u8,
    /// Does not exist.
    pub failed: bool,
    /// The first look-up of its registered domain, which is the name itself or its `www`.
    pub new_apex: bool,
    /// The first look-up of its registered domain, and it exists.
    pub new_found: bool,
    /// Bytes of the label that was judged.
    pub label_bytes: u8,
    /// Its score, per cent: whole, so that sums over the window stay exact.
    pub score_percent: u8,
}

/// Counts over the window, kept as names come and go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub names: u32,
    pub generated: u32,
    pub failed: u32,
    /// New registered domains that do not exist and were asked for themselves.
    pub failed_apex: u32,
    /// Bytes of their labels.
    pub failed_apex_bytes: u32,
    /// Their scores, per cent.
    pub failed_apex_percent: u32,
    /// New registered domains that exist.
    pub found: u32,
}

/// What has come together since evidence was last nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Episode {
    pub first: EventTime,
    pub last: EventTime,
    /// Registered domains that failed.
    pub failed: u32,
    /// Those of them that look generated.
    pub generated: u32,
    /// Generated-looking ones that exist.
    pub found: u32,
    pub examples: Vec<String>,
    pub found_names: Vec<String>,
    pub suffixes: Vec<String>,
    pub raw: RawRows,
}

/// A registered domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Domain {
    last: EventTime,
    /// Known to the host for another reason than that it wanted to go there.
    other_business: bool,
}

/// How a host knows a registered domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acquaintance {
    /// Not yet.
    New,
    /// From an earlier look-up.
    Known,
    /// From its other business.
    OtherBusiness,
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    /// Hash of a registered domain to its last look-up.
    domains: BTreeMap<u64, Domain>,
    window: VecDeque<Asked>,
    pub(super) counts: Counts,
    evidence: f64,
    evidence_at: EventTime,
    pub(super) episode: Episode,
    /// Labels in front of domains that may be nobody's choice.
    recent: Recent,
    /// Names told last, when, and suspicious ones since.
    told: u32,
    told_at: EventTime,
    since_told: u32,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.domains.is_empty() && self.window.is_empty() && self.recent.is_empty()
    }

    /// Notes a look-up of a registered domain; how the host knew it before.
    pub(super) fn meet(&mut self, domain: u64, other_business: bool, at: EventTime) -> Acquaintance {
        let before = self.domains.get(&domain).copied().filter(|known| at.since(known.last) <= LIFETIME_NS);
        let other_business = other_business || before.is_some_and(|known| known.other_business);
        self.domains.insert(domain, Domain { last: at, other_business });
        if self.domains.len() > DOMAINS_MAX {
            DOMAINS.bites();
            self.evict();
        }
        match (before, other_business) {
            (_, true) => Acquaintance::OtherBusiness,
            (None, false) => Acquaintance::New,
            (Some(_), false) => Acquaintance::Known,
        }
    }

    /// Whether the host asks where mail goes, for more domains than somebody tries by hand.
    pub(super) fn serves_mail(&self) -> bool {
        // On a mail server the first few tell; no other host asks often.
        self.domains.values().filter(|known| known.other_business).take(MAIL_DOMAINS_MIN).count() >= MAIL_DOMAINS_MIN
    }

    /// Whether the window already has the name.
    pub(super) fn asked_lately(&self, name: u64) -> bool {
        let (a, b) = self.window.as_slices();
        a.iter().chain(b).any(|asked| asked.name == name)
    }

    /// Takes a distinct name into the window.
    pub(super) fn ask(&mut self, asked: Asked) {
        self.window.push_back(asked);
        self.count(&asked, true);
        if self.window.len() > WINDOW_NAMES_MAX {
            WINDOW_NAMES.bites();
            self.leave();
        }
    }

    /// Notes a first label in front of a domain, `name` the whole; whether nobody chose it.
    pub(super) fn front(&mut self, label: u64, name: u64, at: EventTime) -> bool {
        self.recent.behind(label, name, at)
    }

    /// Notes a label asked for alone: names that it stood in front of just before do not count.
    pub(super) fn alone(&mut self, label: u64, at: EventTime) {
        let mut recent = std::mem::take(&mut self.recent);
        recent.alone(label, at, |name| self.withdraw(name));
        self.recent = recent;
    }

    /// Takes a name out of the window, and from what would be told of it.
    fn withdraw(&mut self, name: u64) {
        let Some(i) = self.window.iter().rposition(|asked| asked.name == name) else { return };
        let Some(asked) = self.window.remove(i) else { return };
        self.count(&asked, false);
        if asked.generated {
            self.since_told = self.since_told.saturating_sub(1);
            self.episode.examples.retain(|told| xxh3_64(told.as_bytes()) != name);
        }
    }

    /// Time is `at`: what was asked at or before `bound` leaves the window.
    pub(super) fn advance(&mut self, at: EventTime, bound: EventTime) {
        if !self.recent.is_empty() {
            let mut recent = std::mem::take(&mut self.recent);
            recent.advance(at, |name| self.withdraw(name));
            self.recent = recent;
        }
        while self.window.front().is_some_and(|asked| asked.at <= bound) {
            self.leave();
        }
    }

    fn leave(&mut self) {
        if let Some(asked) = self.window.pop_front() {
            self.count(&asked, false);
        }
        if self.window.is_empty() {
            self.window = VecDeque::new();
        }
    }

    fn count(&mut self, asked: &Asked, comes: bool) {
        let step = |value: &mut u32, by: u32| *value = if comes { *value + by } else { value.saturating_sub(by) };
        let counts = &mut self.counts;
        step(&mut counts.names, 1);
        step(&mut counts.generated, u32::from(asked.generated));
        step(&mut counts.failed, u32::from(asked.failed));
        step(&mut counts.found, u32::from(asked.new_found));
        if asked.new_apex && asked.failed {
            step(&mut counts.failed_apex, 1);
            step(&mut counts.failed_apex_bytes, u32::from(asked.label_bytes));
            step(&mut counts.failed_apex_percent, u32::from(asked.score_percent));
        }
    }

    /// Moment of the newest name in the window, or label.
    pub(super) fn newest(&self) -> Option<EventTime> {
        self.window.back().map(|asked| asked.at).max(self.recent.newest())
    }

    /// Names of the window whose first label alone looks generated, when all those labels are of one length: digests and
    /// devices' ids are, generated names are not.
    pub(super) fn of_one_length(&self) -> u32 {
        let mut lengths = self.window.iter().map(|asked| asked.first_bytes).filter(|bytes| *bytes > 0);
        let Some(first) = lengths.next() else { return 0 };
        // At most WINDOW_NAMES_MAX.
        lengths.try_fold(1_u32, |n, bytes| (bytes == first).then_some(n + 1)).unwrap_or(0)
    }

    /// Evidence at a moment.
    pub(super) fn evidence(&self, at: EventTime) -> f64 {
        let age = at.since(self.evidence_at).max(0) as f64;
        self.evidence * exp2(-age / HALF_LIFE_NS as f64)
    }

    /// Adds to the evidence, which is never below nothing. When it falls to nothing the episode ends.
    pub(super) fn weigh(&mut self, weight: f64, at: EventTime) {
        let before = self.evidence(at);
        self.evidence = (before + weight).max(0.0);
        self.evidence_at = at;
        if self.evidence < EVIDENCE_MIN && self.counts.generated == 0 {
            self.evidence = 0.0;
            self.episode = Episode::default();
            self.told = 0;
        }
    }

    /// Notes a name that a finding would tell.
    pub(super) fn tell(&mut self, name: &str, suffix: &str, found: bool, at: EventTime, position: Position) {
        self.since_told = self.since_told.saturating_add(1);
        let episode = &mut self.episode;
        if episode.examples.is_empty() && episode.found_names.is_empty() {
            episode.first = at;
        }
        episode.last = at;
        let (list, most) = if found { (&mut episode.found_names, FOUND_MAX) } else { (&mut episode.examples, EXAMPLES_MAX) };
        if list.len() < most && !list.iter().any(|n| n == name) {
            list.push(name.to_owned());
        }
        if episode.suffixes.len() < SUFFIXES_MAX && !episode.suffixes.iter().any(|s| s == suffix) {
            episode.suffixes.push(suffix.to_owned());
        }
        episode.raw.add(position);
    }

    /// Whether a count is to be told: the first, each doubling of what was told, and when there were `more` since and
    /// nothing was told for `again_ns`.
    pub(super) fn says(&mut self, count: u32, more: u32, at: EventTime, again_ns: i64) -> bool {
        let lately = at.since(self.told_at) < again_ns;
        let says = self.told == 0 || count >= self.told.saturating_mul(2) || (!lately && self.since_told >= more);
        if count == 0 || !says {
            return false;
        }
        (self.told, self.told_at, self.since_told) = (count, at, 0);
        true
    }

    fn evict(&mut self) {
        let mut order: Vec<(EventTime, u64)> = self.domains.iter().map(|(k, known)| (known.last, *k)).collect();
        let gone = order.len() - DOMAINS_MAX / 4 * 3;
        order.select_nth_unstable(gone);
        for (_, key) in &order[..gone] {
            self.domains.remove(key);
        }
    }
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        // Nodes of the B-tree filled to two thirds; a text counts as the longest name.
        let texts = self.episode.examples.len() + self.episode.found_names.len();
        self.domains.len() * (size_of::<(u64, Domain)>() * 3 / 2)
            + vec_bytes::<Asked>(self.window.len())
            + texts * (size_of::<String>() + crate::names::domain::NAME_BYTES_MAX)
            + self.episode.suffixes.len() * 64
            + self.episode.raw.heap_bytes()
            + self.recent.heap_bytes()
    }
}
