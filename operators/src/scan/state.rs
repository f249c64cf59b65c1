//! What is kept per host: groups of attempts by port and by target, which services answered, and what was told.
//!
//! Always holds: at most [`GROUPS_MAX`] groups and then those with the fewest failed attempts go; cost per row does not
//! grow with the length of a scan.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::group::{DAY_S, Group, What};
use super::known::Known;
use crate::limit::Limit;
use crate::operator::{Footprint, Position, RawRows};
use crate::table::{Table, mixed, table_bytes};

/// Groups kept per host; at the limit a third goes, fewest failed attempts first, then longest untouched.
pub(super) const GROUPS_MAX: usize = 96;
pub(super) static GROUPS: Limit = Limit::new("GROUPS_MAX");

/// Latest failed attempts outside whose ports are kept: whether one port stands out.
pub(super) const LATEST_MAX: usize = 64;

/// One attempt as the operator sees it.
pub(super) struct Attempt {
    pub peer: u64,
    pub transport: u8,
    pub port: u16,
    pub outside: bool,
    pub at: EventTime,
    pub position: Position,
}

impl Attempt {
    fn at_s(&self) -> u32 {
        seconds(self.at)
    }

    pub fn port_group(&self) -> What {
        What::Port { transport: self.transport, port: self.port, outside: self.outside }
    }

    pub fn target_group(&self) -> What {
        What::Target { peer: self.peer, outside: self.outside }
    }

    fn target_id(&self) -> u32 {
        (self.peer >> 32) as u32
    }

    /// The port, low, and the transport.
    fn port_id(&self) -> u32 {
        u32::from(self.transport) << 16 | u32::from(self.port)
    }

    fn pair(&self) -> u64 {
        mixed(self.peer, u64::from(self.port_id()) << 1 | u64::from(self.outside))
    }
}

/// Event time in seconds; a time before 1970 is 0.
pub(super) fn seconds(at: EventTime) -> u32 {
    u32::try_from(at.0.div_euclid(SECOND_NS)).unwrap_or(0)
}

/// What is kept of one side, inside or outside.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Side {
    /// New attempts that failed.
    pub pairs: u32,
    pub told_pairs: u32,
    pub told_at: Option<EventTime>,
    /// Since nothing new failed for an hour.
    pub first: EventTime,
    pub last: EventTime,
    pub raw: RawRows,
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState(Option<Box<Seen>>);

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Seen {
    born_s: u32,
    day: u32,
    /// Something was told today.
    pub tainted: bool,
    known: Known,
    pub groups: Table<Group>,
    /// Inside, outside.
    pub sides: [Side; 2],
    /// Groups outside.
    outside: u32,
    latest: Vec<u16>,
    /// Groups whose sweep is waited for.
    pub waiting: u32,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// What is kept.
    pub(super) fn kept(&self) -> Option<&Seen> {
        self.0.as_deref()
    }

    pub(super) fn seen(&mut self) -> Option<&mut Seen> {
        self.0.as_deref_mut()
    }

    /// Whether an answer from outside would say anything: only where something failed.
    pub(super) fn hears_outside(&self) -> bool {
        self.0.as_ref().is_some_and(|seen| seen.outside > 0)
    }

    /// Made at the first attempt.
    pub(super) fn made(&mut self, at: EventTime) -> &mut Seen {
        let at_s = seconds(at);
        self.0.get_or_insert_with(|| Box::new(Seen { born_s: at_s, day: at_s / DAY_S, ..Seen::default() }))
    }
}

impl Seen {
    /// A row's time: a new day begins.
    pub fn turns(&mut self, at: EventTime) {
        let day = seconds(at) / DAY_S;
        if day > self.day {
            self.day = day;
            self.known.turn(!std::mem::take(&mut self.tainted));
            if self.groups.retain(|g| g.last_s + 2 * DAY_S >= day * DAY_S) {
                self.count();
            }
        }
    }

    /// Known for a day.
    pub fn is_old(&self, at_s: u32) -> bool {
        at_s >= self.born_s + DAY_S
    }

    /// Share of the latest failed attempts outside that were made at the port.
    pub fn standing_out(&self, port: u16) -> f64 {
        let here = self.latest.iter().filter(|p| **p == port).count();
        here as f64 / self.latest.len().max(1) as f64
    }

    /// Files an attempt that was answered; the place of its port's group when it is new there and inside.
    pub fn answered(&mut self, a: &Attempt, name: impl FnOnce() -> String) -> Option<usize> {
        let at_s = a.at_s();
        if self.known.holds(a.pair()) {
            if self.waiting > 0
                && let Some(place) = self.find(a.port_group())
            {
                self.groups.records_mut()[place].answered_again(at_s);
            }
            return None;
        }
        let port = self.find(a.port_group());
        if a.outside && port.is_none() {
            return None;
        }
        if !self.known.insert(a.pair()) {
            // Whether it is new cannot be told any more: it speaks against a scan, never for one.
            if let Some(place) = port {
                self.groups.records_mut()[place].answered(at_s);
            }
            return None;
        }
        if port.is_none() && self.groups.len() >= GROUPS_MAX {
            self.evict();
        }
        let place = port.unwrap_or_else(|| self.group(a.port_group(), at_s));
        let group = &mut self.groups.records_mut()[place];
        group.recovers(a.target_id());
        group.answered(at_s);
        if !a.outside {
            if group.is_wide() {
                group.example(name);
            }
            self.sides[0].raw.add(a.position);
        }
        if let Some(target) = self.find(a.target_group()) {
            let target = &mut self.groups.records_mut()[target];
            target.recovers(a.port_id());
            target.answered(at_s);
        }
        Some(place)
    }

    /// Files an attempt that failed; the places of its groups when it is new.
    pub fn failed(&mut self, a: &Attempt, name: impl Fn() -> String) -> Option<[usize; 2]> {
        let at_s = a.at_s();
        // A service that answered and does not now is down.
        if self.known.holds(a.pair()) {
            return None;
        }
        if self.groups.len() + 2 > GROUPS_MAX {
            self.evict();
        }
        let places = [self.group(a.port_group(), at_s), self.group(a.target_group(), at_s)];
        let [port, target] = places;
        let groups = self.groups.records_mut();
        let new = groups[port].fail(a.target_id(), at_s);
        if new {
            groups[port].example(&name);
        }
        let new = groups[target].fail(a.port_id(), at_s) && new;
        if groups[target].examples.is_empty() {
            groups[target].example(&name);
        }
        if !new {
            return None;
        }
        let side = &mut self.sides[usize::from(a.outside)];
        if side.pairs == 0 || a.at.since(side.last) > 3600 * SECOND_NS {
            (side.first, side.raw) = (a.at, RawRows::default());
        }
        side.pairs = side.pairs.saturating_add(1);
        side.last = side.last.max(a.at);
        side.raw.add(a.position);
        if a.outside {
            if self.latest.len() >= LATEST_MAX {
                self.latest.remove(0);
            }
            self.latest.push(a.port);
        }
        Some(places)
    }

    pub fn find(&self, what: What) -> Option<usize> {
        self.groups.find(what.hash(), |g| g.what == what)
    }

    /// Its place, made where it is not.
    fn group(&mut self, what: What, at_s: u32) -> usize {
        if let Some(place) = self.find(what) {
            return place;
        }
        self.outside += u32::from(what.outside());
        self.groups.push(Group::new(what, at_s))
    }

    /// A third of the groups goes, those that say least.
    fn evict(&mut self) {
        GROUPS.bites();
        let mut order: Vec<(usize, u32, u64)> =
            self.groups.records().iter().map(|g| (g.fails(), g.last_s, g.what.hash())).collect();
        order.sort_unstable();
        let first = order[order.len() / 3];
        self.groups.retain(|g| (g.fails(), g.last_s, g.what.hash()) >= first);
        self.count();
    }

    fn count(&mut self) {
        let groups = self.groups.records();
        self.outside = groups.iter().filter(|g| g.what.outside()).count() as u32;
        self.waiting = groups.iter().filter(|g| matches!(g.sweep, super::group::Sweep::Until(_))).count() as u32;
    }
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |s| {
            size_of::<Seen>()
                + s.known.heap_bytes()
                + table_bytes::<Group>(s.groups.len())
                + s.groups.records().iter().map(Group::heap_bytes).sum::<usize>()
                + s.latest.len() * size_of::<u16>()
                + s.sides.iter().map(|s| s.raw.heap_bytes()).sum::<usize>()
        })
    }
}
