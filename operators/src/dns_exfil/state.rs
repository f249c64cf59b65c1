//! What is kept per host: of every domain with names in front of it a glance, and of the few that go on a record: how much
//! information went into new names over four horizons at once. Decides nothing about threats.
//!
//! Always holds: at most [`GLANCES_MAX`] glances and [`WATCHED_MAX`] records of a fixed size, whatever is asked; a name
//! counts once while it is among the last [`RECENT_MAX`] that were new.

use std::collections::BTreeMap;

use libm::{exp, log2};
use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::information::Gathered;
use super::question::Carrier;
use super::weights::LONG_BYTES;
use crate::limit::Limit;
use crate::operator::{Footprint, Position, RawRows, vec_bytes};

/// Domains glanced at per host; at the limit the quarter asked for longest ago goes, and begins anew when it comes again.
pub(super) const GLANCES_MAX: usize = 1024;
pub(super) static GLANCES: Limit = Limit::new("GLANCES_MAX");

/// Domains watched per host; at the limit the one asked for longest ago goes.
pub(super) const WATCHED_MAX: usize = 64;
pub(super) static WATCHED: Limit = Limit::new("WATCHED_MAX");

/// Hashes of names, labels and answers remembered per watched domain: a ring, the oldest is overwritten.
pub(super) const RECENT_MAX: usize = 1024;
pub(super) static RECENT: Limit = Limit::new("RECENT_MAX");

/// Labels of a name that are remembered each by itself, from the domain on; what lies further in front counts as one.
pub(super) const LABELS_MAX: usize = 16;
pub(super) static LABELS: Limit = Limit::new("LABELS_MAX");

/// Names told as examples: the first of the episode.
pub(super) const EXAMPLES_MAX: usize = 3;

/// Record types told: the first of the episode; further ones are not named.
pub(super) const TYPES_MAX: usize = 6;

/// Distinct names from which on a domain is watched, as far as a glance can count.
const WATCH_NAMES_MIN: u32 = 5;
/// Bits from which on a domain is watched.
const WATCH_BITS_MIN: f64 = 512.0;

/// Places of a label that are told apart, from the domain on; what lies further in front shares the last.
const PLACES: usize = 8;

/// What is remembered as which sort: places of labels from 16 on.
const NAME: u64 = 2;
const ANSWER: u64 = 3;
const REST: u64 = 4;
const LABEL: u64 = 16;

/// Horizons, seconds: a burst, a transfer, a slow one, a day's drip.
pub(super) const HORIZONS_S: [i64; 4] = [10, 600, 3600, 86_400];

/// Not asked for so long, a domain is forgotten.
pub(super) const LIFETIME_NS: i64 = 86_400 * SECOND_NS;

/// Parts of the window of queries: it slides by a tenth.
pub(super) const PARTS: usize = 10;

/// Below so many bytes over the longest horizon an episode is over.
const QUIET_BYTES: f64 = 16.0;

/// A domain of which little was seen.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Glance {
    first: EventTime,
    last: EventTime,
    /// One bit a name, by its hash.
    names: u64,
    bits: f32,
    queries: u16,
    name_bytes: u32,
}

/// Counts of a part of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    /// Number of the part since the epoch.
    index: i64,
    queries: u32,
    distinct: u32,
    bytes: u32,
}

/// Counts over the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    pub queries: u32,
    pub distinct: u32,
    pub bytes: u32,
}

/// A domain that is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watched {
    hash: u64,
    pub(super) domain: String,
    pub(super) first: EventTime,
    pub(super) last: EventTime,
    /// Information of new names and answers, bytes, fading over each of [`HORIZONS_S`].
    sums: [f64; 4],
    /// New names, fading likewise over the longest horizon.
    lately: f64,
    recent: Vec<u32>,
    next: u16,
    /// Distinct labels by place.
    labels: [u16; PLACES],
    parts: [Part; PARTS],
    pub(super) queries: u32,
    pub(super) names: u32,
    pub(super) name_bytes: u64,
    /// Information of the episode: of names, of answers.
    pub(super) name_information: f64,
    pub(super) answer_information: f64,
    pub(super) wide: u32,
    /// New names that are digests or addresses, with little else.
    digests: u32,
    pub(super) examples: Vec<String>,
    pub(super) types: Vec<u16>,
    pub(super) raw: RawRows,
    told: f64,
    told_at: EventTime,
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    glances: BTreeMap<u64, Glance>,
    watched: Vec<Watched>,
    /// Newest look-up.
    last: EventTime,
    swept: EventTime,
}

/// A look-up as the state takes it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub of: Carrier<'a>,
    /// Whole length of the name.
    pub name_bytes: u32,
    pub name: &'a str,
    pub query_type: u16,
    /// Length of a part of the window.
    pub part_ns: i64,
    pub at: EventTime,
    pub position: Position,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.glances.is_empty() && self.watched.is_empty()
    }

    /// Domains that are watched.
    pub(super) fn watched(&self) -> &[Watched] {
        &self.watched
    }

    /// Moment of the newest look-up that is kept.
    pub(super) fn newest(&self) -> Option<EventTime> {
        (!self.is_empty()).then_some(self.last)
    }

    /// Takes a look-up; the record of its domain when it is watched and the name is new or the window moved.
    pub(super) fn take(&mut self, asked: &Asked<'_>) -> Option<&mut Watched> {
        self.last = self.last.max(asked.at);
        let hash = xxh3_64_with_seed(asked.of.domain.as_bytes(), 0);
        let place = match self.watched.iter().position(|w| w.hash == hash) {
            Some(place) => place,
            None => self.watch(hash, asked)?,
        };
        let watched = &mut self.watched[place];
        watched.take(asked);
        Some(watched)
    }

    /// Glances at a domain; its place when it is to be watched from this look-up on.
    fn watch(&mut self, hash: u64, asked: &Asked<'_>) -> Option<usize> {
        let (at, bit) = (asked.at, 1_u64 << (xxh3_64_with_seed(asked.of.front.as_bytes(), 1) >> 58));
        let known = self.glances.get(&hash).copied().filter(|g| at.since(g.last) <= LIFETIME_NS);
        let new = Glance { first: at, last: at, names: 0, bits: 0.0, queries: 0, name_bytes: 0 };
        let glance = known.unwrap_or(new);
        let is_new = glance.names & bit == 0;
        let names = (glance.names | bit).count_ones();
        if names >= WATCH_NAMES_MIN || (is_new && f64::from(glance.bits) >= WATCH_BITS_MIN) {
            self.glances.remove(&hash);
            if self.watched.len() >= WATCHED_MAX
                && let Some(oldest) = (0..self.watched.len()).min_by_key(|i| (self.watched[*i].last, self.watched[*i].hash))
            {
                WATCHED.bites();
                self.watched.swap_remove(oldest);
            }
            self.watched.push(Watched::new(hash, asked, &glance));
            return Some(self.watched.len() - 1);
        }
        let mut bits = 0.0;
        if is_new {
            let mut text = Gathered::new();
            asked.of.labels().for_each(|(label, weight)| text.push(label, weight));
            let whole = text.whole();
            bits = text.bits() + asked.of.bonus_bits(whole) + asked.of.answer_bits(whole) / 2.0;
        }
        let glance = Glance {
            last: at,
            names: glance.names | bit,
            bits: glance.bits + bits as f32,
            queries: glance.queries.saturating_add(1),
            name_bytes: glance.name_bytes.saturating_add(asked.name_bytes),
            ..glance
        };
        self.glances.insert(hash, glance);
        if self.glances.len() > GLANCES_MAX {
            GLANCES.bites();
            let mut order: Vec<(EventTime, u64)> = self.glances.iter().map(|(k, g)| (g.last, *k)).collect();
            let gone = order.len() - GLANCES_MAX / 4 * 3;
            order.select_nth_unstable(gone);
            for (_, key) in &order[..gone] {
                self.glances.remove(key);
            }
        }
        None
    }

    /// Forgets what was not asked for long; at most once an hour.
    pub(super) fn sweep(&mut self, now: EventTime) {
        if now.since(self.swept) < 3600 * SECOND_NS {
            return;
        }
        self.swept = now;
        self.glances.retain(|_, g| now.since(g.last) <= LIFETIME_NS);
        self.watched.retain(|w| now.since(w.last) <= LIFETIME_NS);
        self.watched.shrink_to_fit();
    }
}

impl Watched {
    fn new(hash: u64, asked: &Asked<'_>, before: &Glance) -> Self {
        let bytes = f64::from(before.bits) / 8.0;
        let age = asked.at.since(before.first);
        let faded = |horizon_s: i64| bytes * fade(age, horizon_s);
        let names = before.names.count_ones();
        let mut parts = [Part::default(); PARTS];
        if age < PARTS as i64 * asked.part_ns {
            let index = asked.at.0.div_euclid(asked.part_ns);
            let (queries, distinct, bytes) = (u32::from(before.queries), names, before.name_bytes);
            parts[index.rem_euclid(PARTS as i64) as usize] = Part { index, queries, distinct, bytes };
        }
        Self {
            hash,
            domain: asked.of.domain.to_owned(),
            first: before.first,
            last: asked.at,
            sums: HORIZONS_S.map(faded),
            lately: f64::from(names),
            recent: Vec::new(),
            next: 0,
            labels: [0; PLACES],
            parts,
            queries: u32::from(before.queries),
            names,
            name_bytes: u64::from(before.name_bytes),
            name_information: bytes,
            answer_information: 0.0,
            wide: 0,
            digests: 0,
            examples: Vec::new(),
            types: Vec::new(),
            raw: RawRows::default(),
            told: 0.0,
            told_at: EventTime(0),
        }
    }

    fn take(&mut self, asked: &Asked<'_>) {
        let gap = asked.at.since(self.last).max(0);
        for (sum, horizon_s) in self.sums.iter_mut().zip(HORIZONS_S) {
            *sum *= fade(gap, horizon_s);
        }
        self.lately *= fade(gap, HORIZONS_S[3]);
        self.last = self.last.max(asked.at);
        if self.sums[3] < QUIET_BYTES && gap > HORIZONS_S[2] * SECOND_NS {
            self.quiet(asked.at);
        }
        let index = asked.at.0.div_euclid(asked.part_ns);
        let slot = index.rem_euclid(PARTS as i64) as usize;
        if self.parts[slot].index != index {
            self.parts[slot] = Part { index, ..Part::default() };
        }
        let new = self.is_new(asked.of.front, NAME);
        let part = &mut self.parts[slot];
        part.queries = part.queries.saturating_add(1);
        part.distinct = part.distinct.saturating_add(u32::from(new));
        part.bytes = part.bytes.saturating_add(asked.name_bytes);
        self.queries = self.queries.saturating_add(1);
        self.name_bytes += u64::from(asked.name_bytes);
        // What a list says of one address after the other is its own text, however often it is asked.
        let tells = (new || !asked.of.addressed) && asked.of.answer.is_none_or(|text| self.is_new(text, ANSWER));
        let (bits, whole) = if new { self.name_bits(&asked.of) } else { (0.0, 0) };
        let answer = if tells { asked.of.answer_bits(whole) / 16.0 } else { 0.0 };
        self.answer_information += answer;
        let (mut bytes, mut burst) = (answer, 0.0);
        if new {
            burst = asked.of.burst_bits(whole) / 8.0;
            self.name_information += bits / 8.0;
            bytes += (bits + asked.of.bonus_bits(whole)) / 8.0;
            self.names = self.names.saturating_add(1);
            self.lately += 1.0;
            self.wide = self.wide.saturating_add(u32::from(asked.of.wide));
            let by_design = (asked.of.digest || asked.of.addressed) && whole < LONG_BYTES;
            self.digests = self.digests.saturating_add(u32::from(by_design));
            if self.examples.len() < EXAMPLES_MAX {
                self.examples.push(start(asked.name).to_owned());
            }
            if self.types.len() < TYPES_MAX && !self.types.contains(&asked.query_type) {
                self.types.push(asked.query_type);
            }
            self.raw.add(asked.position);
        }
        self.sums.iter_mut().for_each(|sum| *sum += bytes);
        self.sums[0] += burst;
    }

    /// A new episode: what was told is forgotten, what was learned is not.
    fn quiet(&mut self, at: EventTime) {
        self.first = at;
        (self.queries, self.names, self.name_bytes, self.wide, self.digests) = (0, 0, 0, 0, 0);
        (self.name_information, self.answer_information, self.told) = (0.0, 0.0, 0.0);
        self.examples.clear();
        self.types.clear();
        self.raw = RawRows::default();
    }

    /// Bits of a new name, and its new letters that weigh their whole: its new labels by their letters, one that is known by
    /// how many there are at its place. Beyond [`LABELS_MAX`] the rest is one label.
    fn name_bits(&mut self, of: &Carrier<'_>) -> (f64, usize) {
        let single = !of.front.contains('.');
        let (mut text, mut bits) = (Gathered::new(), 0.0);
        let mut labels = of.labels();
        let mut rest = of.front.len();
        for (n, (label, weight)) in labels.by_ref().take(LABELS_MAX).enumerate() {
            rest = rest.saturating_sub(label.len() + usize::from(n > 0));
            let place = n.min(PLACES - 1);
            // The only label is the name, which was new.
            if single || self.is_new(label, LABEL + place as u64) {
                self.labels[place] = self.labels[place].saturating_add(1);
                text.push(label, weight);
            } else {
                bits += log2(f64::from(self.labels[place].max(1))) * weight;
            }
        }
        if rest > 0 {
            LABELS.bites();
            if self.is_new(&of.front[..rest - 1], REST) {
                labels.for_each(|(label, weight)| text.push(label, weight));
            }
        }
        (bits + text.bits(), text.whole())
    }

    /// Whether a text is none of those remembered; it is from now on.
    fn is_new(&mut self, text: &str, sort: u64) -> bool {
        let hash = (xxh3_64_with_seed(text.as_bytes(), sort) >> 32) as u32;
        if self.recent.contains(&hash) {
            return false;
        }
        if self.recent.len() < RECENT_MAX {
            self.recent.push(hash);
        } else {
            RECENT.bites();
            self.recent[usize::from(self.next) % RECENT_MAX] = hash;
            self.next = (self.next + 1) % RECENT_MAX as u16;
        }
        true
    }

    /// Information within about each horizon, bytes.
    pub(super) fn sums(&self) -> [f64; 4] {
        self.sums
    }

    /// New names within about a day.
    pub(super) fn lately(&self) -> f64 {
        self.lately
    }

    /// Counts over the window.
    pub(super) fn window(&self, part_ns: i64) -> Window {
        let oldest = self.last.0.div_euclid(part_ns) - PARTS as i64;
        let mut window = Window::default();
        for part in self.parts.iter().filter(|p| p.index > oldest) {
            window.queries += part.queries;
            window.distinct += part.distinct;
            window.bytes = window.bytes.saturating_add(part.bytes);
        }
        window
    }

    /// Most of the names are digests or addresses that a service is asked about.
    pub(super) fn asks_for_digests(&self) -> bool {
        self.digests * 2 > self.names
    }

    /// Whether so strong a finding is to be told: the first, each that is four times as strong, and one an hour.
    pub(super) fn says(&mut self, strength: f64, at: EventTime) -> bool {
        let says = self.told == 0.0 || strength >= 4.0 * self.told || at.since(self.told_at) >= 3600 * SECOND_NS;
        if says {
            (self.told, self.told_at) = (strength.max(self.told), at);
        }
        says
    }
}

/// What is left of a thing after so long.
fn fade(age_ns: i64, horizon_s: i64) -> f64 {
    exp(-(age_ns.max(0) as f64) / (horizon_s * SECOND_NS) as f64)
}

/// Longest part of a name that is told as an example.
const EXAMPLE_BYTES_MAX: usize = 253;

fn start(name: &str) -> &str {
    let mut end = name.len().min(EXAMPLE_BYTES_MAX);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        // Nodes of the B-tree filled to two thirds; an example counts as the longest.
        let of = |w: &Watched| {
            w.domain.len()
                + vec_bytes::<u32>(w.recent.len())
                + w.examples.len() * (size_of::<String>() + EXAMPLE_BYTES_MAX)
                + w.types.len() * 2
                + w.raw.heap_bytes()
        };
        self.glances.len() * (size_of::<(u64, Glance)>() * 3 / 2)
            + vec_bytes::<Watched>(self.watched.len())
            + self.watched.iter().map(of).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_schemas::observation::DnsRow;

    use super::super::question::carrier;
    use super::*;

    #[test]
    fn a_name_of_many_labels_is_remembered_as_few() {
        let mut state = HostState::default();
        let mut ask = |name: &str| {
            let of = carrier(&DnsRow { query: name, query_type: 1, ..DnsRow::default() }).unwrap();
            let position = Position { input: 0, offset: 0, row: 0 };
            let (name_bytes, part_ns) = (name.len() as u32, 60 * SECOND_NS);
            let asked = Asked { of, name_bytes, name, query_type: 1, part_ns, at: EventTime(0), position };
            state.take(&asked).map(|watched| (watched.recent.len(), watched.name_information))
        };
        for n in 0..5 {
            ask(&format!("n{n}.evil.example"));
        }
        let before = LABELS.reached();
        let (mut kept, mut information) = ask("first.evil.example").unwrap();
        for n in 0..50_u8 {
            // 116 labels: what changes is in the one that is furthest in front.
            let rest: Vec<String> = (0..115).map(|k| char::from(b'a' + (k % 26) as u8).to_string()).collect();
            let (now, carried) = ask(&format!("x{n}.{}.evil.example", rest.join("."))).unwrap();
            assert!(now - kept <= 2 + LABELS_MAX, "{}", now - kept);
            assert!(carried > information + 8.0, "{n}: {carried} {information}");
            (kept, information) = (now, carried);
        }
        assert!(LABELS.reached() >= before + 50);
        // Sixteen labels are each for themselves.
        let (_, carried) = ask("a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.evil.example").unwrap();
        assert!(carried - information < 30.0, "{}", carried - information);
    }
}
