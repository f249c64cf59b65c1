//! What is kept per host: whom it has reached for, since when, and which of them within the window. Decides nothing about
//! threats.
//!
//! Always holds: at most [`PEERS_MAX`] destinations, whatever is scanned; the cost per row does not grow with the length
//! of a scan; a destination becomes a neighbour by age alone, never by a contact inside the window.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::limit::Limit;
use crate::operator::{Footprint, Position, RawRows};

/// Destinations per host. At the limit a quarter goes, strangers first, then least recently touched.
pub(super) const PEERS_MAX: usize = 1024;
pub(super) static PEERS: Limit = Limit::new("PEERS_MAX");

/// Destinations within the window; at the limit the one touched longest ago leaves and the count says "at least".
pub(super) const RECENT_MAX: usize = 1024;
pub(super) static RECENT: Limit = Limit::new("RECENT_MAX");

/// First destinations named in the evidence.
pub(super) const TARGETS_MAX: usize = 8;

/// Ports kept per destination; further ones are not named.
const PORTS_MAX: usize = 4;

/// From this age on, and after a connection that did not fail, a destination is a neighbour: twice the longest window,
/// and long enough that an intruder would have to wait for half a day between looking and coming.
pub(super) const NEIGHBOUR_AGE_NS: i64 = 12 * 3600 * SECOND_NS;

/// The age from which a destination that was told of is one: three nights in which somebody could have looked.
pub(super) const TOLD_AGE_NS: i64 = 72 * 3600 * SECOND_NS;

/// What was told of is no news for so long.
const OLD_NEWS_NS: i64 = 20 * 3600 * SECOND_NS;

/// So many calls that did not fail after a destination was told of make whoever calls a poller.
const POLLS: u8 = 6;

/// Destinations first met within a day, of which the times are kept; beyond it the count is a lower bound.
pub(super) const FRESH_MAX: usize = 64;
pub(super) static FRESH: Limit = Limit::new("FRESH_MAX");

const DAY_NS: i64 = 86_400 * SECOND_NS;

/// Who opened none of the ports for longer than so is new here.
const NEW_NS: i64 = NEIGHBOUR_AGE_NS;

/// How long a newcomer whose connections nearly all succeeded is watched: pollers come again within it, hourly ones as well.
pub(super) const COMES_AGAIN_NS: i64 = 3900 * SECOND_NS;

/// A destination not touched for so long is forgotten: a week and a day, so that weekly work stays known.
const LIFETIME_NS: i64 = 8 * 86_400 * SECOND_NS;

/// One destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Peer {
    first: EventTime,
    last: EventTime,
    /// First connection that did not fail; `EventTime::MAX` while there is none.
    met: EventTime,
    /// The latest connection failed.
    failed: bool,
    /// It was among those that a finding told of.
    told: bool,
    /// Calls since that did not fail, a minute or more apart.
    again: u8,
    /// Ports reached for since it last came into the window, 0 = none.
    ports: [u16; PORTS_MAX],
}

impl Peer {
    /// Told of half a window ago or earlier, so that whoever calls again has left the count when the window ends: for most of a
    /// day, and for good where it is called on and on, as pollers do.
    fn is_old_news(&self, at: EventTime, told_at: EventTime, window_ns: i64) -> bool {
        let since = at.since(told_at);
        self.told && since >= window_ns / 2 && (since < OLD_NEWS_NS || self.again >= POLLS)
    }

    fn is_neighbour(&self, at: EventTime) -> bool {
        self.met != EventTime::MAX && at.since(self.met) >= if self.told { TOLD_AGE_NS } else { NEIGHBOUR_AGE_NS }
    }
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    peers: BTreeMap<u64, Peer>,
    /// Destinations within the window that are no neighbours, by latest contact.
    recent: BTreeSet<(EventTime, u64)>,
    /// Neighbours touched within the window, by latest contact.
    near: BTreeSet<(EventTime, u64)>,
    /// Destinations left the window's list at its limit; until the window is empty again the count is a lower bound.
    overflowed: bool,
    /// First of the window, as they came since it was last empty.
    targets: Vec<String>,
    raw: RawRows,
    /// Count last told, and when.
    told: u64,
    told_at: EventTime,
    /// Destinations first met within a day, oldest first.
    fresh: Vec<(EventTime, u64)>,
    /// Count of those last told, and when.
    told_fresh: u64,
    told_fresh_at: EventTime,
    /// First contact of all.
    born: Option<EventTime>,
    /// What a newcomer was told of, until it is known whether it comes again.
    newcomer: Option<Box<Newcomer>>,
}

/// See [`HostState::watch`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newcomer {
    until: EventTime,
    reach: Reach,
}

/// One connection that counts.
pub(super) struct Touch {
    pub peer: u64,
    /// The same destination by its name, where it has both.
    pub alias: Option<u64>,
    pub port: u16,
    pub failed: bool,
    pub at: EventTime,
    pub position: Position,
}

/// What the window holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Reach {
    pub fanout: usize,
    pub at_least: bool,
    pub ports: BTreeSet<u16>,
    pub failed: usize,
    /// Never seen before the window.
    pub fresh: usize,
    /// Neighbours touched within the window.
    pub excluded: usize,
    pub targets: Vec<String>,
    pub first: EventTime,
    pub last: EventTime,
    pub raw: RawRows,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Files a connection; returns the number of destinations within the window, neighbours left out.
    pub(super) fn touch(&mut self, touch: &Touch, window_ns: i64, name: impl FnOnce() -> String) -> usize {
        let at = touch.at;
        self.leave(at.minus(window_ns));
        self.born = Some(self.born.unwrap_or(at));
        let by_alias = touch.alias.and_then(|alias| self.peers.get(&alias)).is_some_and(|p| p.is_neighbour(at));
        let new = !by_alias && self.peers.get(&touch.peer).is_none_or(|p| at.since(p.last) > LIFETIME_NS);
        let peer = self.peers.entry(touch.peer).or_insert(Peer {
            first: at,
            last: EventTime::MIN,
            met: EventTime::MAX,
            failed: false,
            told: false,
            again: 0,
            ports: [0; PORTS_MAX],
        });
        if at.since(peer.last) > LIFETIME_NS && peer.last != EventTime::MIN {
            (peer.first, peer.met) = (at, EventTime::MAX);
        }
        if peer.told && !touch.failed && at.since(peer.last) >= 60 * SECOND_NS {
            peer.again = peer.again.saturating_add(1);
        }
        let told_at = self.told_at.max(self.told_fresh_at);
        let neighbour = by_alias || peer.is_neighbour(at) || peer.is_old_news(at, told_at, window_ns);
        let within = self.recent.remove(&(peer.last, touch.peer)) | self.near.remove(&(peer.last, touch.peer));
        if !within {
            peer.ports = [0; PORTS_MAX];
        }
        if let Some(free) = peer.ports.iter().position(|p| *p == touch.port || *p == 0) {
            peer.ports[free] = touch.port;
        }
        peer.last = peer.last.max(at);
        peer.failed = touch.failed;
        if !touch.failed {
            peer.met = peer.met.min(at);
        }
        let last = peer.last;
        let list = if neighbour { &mut self.near } else { &mut self.recent };
        list.insert((last, touch.peer));
        if list.len() > RECENT_MAX {
            RECENT.bites();
            list.pop_first();
            self.overflowed |= !neighbour;
        }
        if new {
            self.fresh.retain(|(first, _)| at.since(*first) < DAY_NS);
            if self.fresh.len() >= FRESH_MAX {
                FRESH.bites();
                self.fresh.remove(0);
            }
            self.fresh.push((at, touch.peer));
        }
        if !neighbour {
            if !within && self.targets.len() < TARGETS_MAX {
                self.targets.push(name());
            }
            self.raw.add(touch.position);
        }
        if self.peers.len() > PEERS_MAX {
            self.evict(at);
        }
        self.recent.len()
    }

    /// Whether a count is to be told: the first that reaches `fanout`, each doubling of what was told, and again when
    /// nothing was told for a whole window.
    pub(super) fn says(&mut self, count: usize, fanout: usize, at: EventTime, window_ns: i64) -> bool {
        let count = count as u64;
        let told_lately = self.told > 0 && at.since(self.told_at) < window_ns;
        let bar = if told_lately { self.told.saturating_mul(2) } else { fanout as u64 };
        if count < bar {
            return false;
        }
        (self.told, self.told_at) = (count, at);
        true
    }

    /// Destinations met within the day before `at`, when that many are to be told: `bar`, more on a host's first day, and at
    /// each doubling; never within a day after the window was told of.
    pub(super) fn says_fresh(&mut self, bar: usize, at: EventTime) -> bool {
        // Only a new one makes news.
        if self.fresh.last().is_none_or(|(first, _)| *first != at) {
            return false;
        }
        if self.fresh.len() < bar || (self.told > 0 && at.since(self.told_at) < DAY_NS) {
            return false;
        }
        let count = self.fresh.iter().filter(|(first, _)| at.since(*first) < DAY_NS).count() as u64;
        let young = self.born.is_none_or(|born| at.since(born) < DAY_NS);
        let bar = if young { 2 * bar as u64 } else { bar as u64 };
        let told_lately = self.told_fresh > 0 && at.since(self.told_fresh_at) < DAY_NS;
        if count < if told_lately { bar.max(2 * self.told_fresh) } else { bar } {
            return false;
        }
        (self.told_fresh, self.told_fresh_at) = (count, at);
        true
    }

    /// A destination that the service map knows since `first`.
    pub(super) fn known(&mut self, peer: u64, first: EventTime, at: EventTime) {
        self.born = Some(self.born.map_or(first, |born| born.min(first)));
        let peer = self.peers.entry(peer).or_insert(Peer {
            first,
            last: first,
            met: first,
            failed: false,
            told: false,
            again: 0,
            ports: [0; PORTS_MAX],
        });
        peer.met = peer.met.min(first);
        // Within the window its place is by its latest contact; else the map keeps it alive.
        if at.since(peer.last) > DAY_NS {
            peer.last = at.minus(DAY_NS);
        }
        if self.peers.len() > PEERS_MAX {
            self.evict(at);
        }
    }

    /// What the last day brought.
    pub(super) fn reach_fresh(&self, at: EventTime) -> Reach {
        let mut reach = self.nothing(at);
        (reach.fanout, reach.at_least) = (0, self.fresh.len() >= FRESH_MAX);
        reach.excluded = self.peers.values().filter(|p| p.is_neighbour(at) && at.since(p.last) < DAY_NS).count();
        for (first, key) in self.fresh.iter().filter(|(first, _)| at.since(*first) < DAY_NS) {
            reach.fanout += 1;
            reach.fresh += 1;
            reach.first = reach.first.min(*first);
            let Some(peer) = self.peers.get(key) else { continue };
            reach.failed += usize::from(peer.failed);
            reach.ports.extend(peer.ports.iter().filter(|p| **p != 0));
        }
        reach
    }

    /// What was told of is not learnt as fast as the rest.
    pub(super) fn mark_told(&mut self, day: bool) {
        let keys: Vec<u64> = match day {
            true => self.fresh.iter().map(|(_, key)| *key).collect(),
            false => self.recent.iter().map(|(_, key)| *key).collect(),
        };
        for key in keys {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.told = true;
            }
        }
    }

    /// Whether the host opened none of the ports until lately.
    pub(super) fn is_new(&self, at: EventTime) -> bool {
        self.born.is_none_or(|born| at.since(born) < NEW_NS)
    }

    /// Watches a newcomer; the moment at which it is to be asked whether it came again.
    pub(super) fn watch(&mut self, reach: Reach, at: EventTime) -> EventTime {
        let until = self.newcomer.as_ref().map_or(at.plus(COMES_AGAIN_NS), |known| known.until);
        self.newcomer = Some(Box::new(Newcomer { until, reach }));
        until
    }

    /// When a newcomer that is watched is to be asked about.
    pub(super) fn asked_at(&self) -> Option<EventTime> {
        self.newcomer.as_ref().map(|known| known.until)
    }

    /// What a newcomer reached that did not come again to half of it, when it is time; it is watched no more then.
    pub(super) fn went_on(&mut self, at: EventTime) -> Option<Reach> {
        let known = self.newcomer.take_if(|known| known.until <= at)?;
        let told = self.peers.values().filter(|p| p.told);
        let (told, again) = told.fold((0, 0), |(told, again), p| (told + 1, again + usize::from(p.again > 0)));
        (2 * again < told || told == 0).then_some(known.reach)
    }

    fn nothing(&self, at: EventTime) -> Reach {
        Reach {
            fanout: self.recent.len(),
            at_least: self.overflowed,
            ports: BTreeSet::new(),
            failed: 0,
            fresh: 0,
            excluded: self.near.len(),
            targets: self.targets.clone(),
            first: at,
            last: at,
            raw: self.raw.clone(),
        }
    }

    /// What the window holds. Walks the window: for what is told, not for every row.
    pub(super) fn reach(&self, at: EventTime, window_ns: i64) -> Reach {
        let mut reach = self.nothing(at);
        for (last, key) in &self.recent {
            reach.first = reach.first.min(*last);
            // An evicted destination is a stranger whose rest is forgotten.
            let Some(peer) = self.peers.get(key) else {
                reach.fresh += 1;
                continue;
            };
            reach.failed += usize::from(peer.failed);
            reach.fresh += usize::from(at.since(peer.first) < window_ns);
            reach.ports.extend(peer.ports.iter().filter(|p| **p != 0));
        }
        reach
    }

    /// What was last touched before `bound` leaves the window.
    fn leave(&mut self, bound: EventTime) {
        for list in [&mut self.recent, &mut self.near] {
            while list.first().is_some_and(|(last, _)| *last <= bound) {
                list.pop_first();
            }
        }
        if self.recent.is_empty() {
            self.overflowed = false;
            self.targets.clear();
            self.raw = RawRows::default();
        }
    }

    fn evict(&mut self, at: EventTime) {
        let mut order: Vec<(bool, EventTime, u64)> =
            self.peers.iter().map(|(k, p)| (p.is_neighbour(at) && at.since(p.last) <= LIFETIME_NS, p.last, *k)).collect();
        let gone = order.len() - PEERS_MAX / 4 * 3;
        PEERS.bites();
        order.select_nth_unstable(gone);
        for (_, last, key) in &order[..gone] {
            self.peers.remove(key);
            // Out of the window as well: the two lists agree, and the count says that it is a lower bound.
            self.overflowed |= self.recent.remove(&(*last, *key));
            self.near.remove(&(*last, *key));
        }
    }
}

/// Bytes of a B-tree's entries, nodes filled to two thirds.
fn entries(len: usize, entry_bytes: usize) -> usize {
    len * (entry_bytes + entry_bytes / 2)
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        // A target's text counts as 40 bytes, an IPv6 address.
        entries(self.peers.len(), size_of::<(u64, Peer)>())
            + entries(self.recent.len() + self.near.len(), size_of::<(EventTime, u64)>())
            + crate::operator::vec_bytes::<[u8; 64]>(self.targets.len())
            + crate::operator::vec_bytes::<(EventTime, u64)>(self.fresh.len())
            + self.raw.heap_bytes()
            + self.newcomer.as_ref().map_or(0, |known| {
                size_of::<Newcomer>()
                    + known.reach.targets.len() * 64
                    + known.reach.ports.len() * 16
                    + known.reach.raw.heap_bytes()
            })
    }
}
