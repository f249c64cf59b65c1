//! What is kept per host: connections that last, with what passed. Decides nothing.
//!
//! Always holds: at most [`OPEN_MAX`] connections; a connection that is told of again and again (open states, active
//! time-outs) is one.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::limit::Limit;
use crate::operator::{Footprint, Position, RawRows};
use crate::table::{Record, Table, table_bytes};

/// Connections kept per host; at the limit the half that was seen longest ago goes, older connections last.
pub(super) const OPEN_MAX: usize = 512;
pub(super) static OPEN: Limit = Limit::new("OPEN_MAX");

/// A young connection is forgotten after so long without a record; one that lasts may be silent for longer.
const YOUNG_IDLE_NS: i64 = 900 * SECOND_NS;
const OLD_IDLE_NS: i64 = 26 * HOUR_NS;

const HOUR_NS: i64 = 3600 * SECOND_NS;

/// One record of a connection.
pub(super) struct Part {
    pub key: u64,
    /// The peer's address, where it has one, and the service's port: to name the connection by.
    pub peer: Option<Address>,
    pub port: u16,
    pub start: EventTime,
    pub end: EventTime,
    pub out: u64,
    pub back: u64,
    /// The record tells of the connection from its start on, not of what is new.
    pub whole: bool,
    /// The record holds the connection's first packet.
    pub syn: bool,
    /// Silence after which the same ports are another connection, nanoseconds.
    pub gap_ns: i64,
    pub at: EventTime,
    pub position: Position,
}

/// A connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    key: u64,
    pub peer: Option<Address>,
    pub port: u16,
    pub start: EventTime,
    pub last: EventTime,
    pub out: u64,
    pub back: u64,
    /// Hours of the clock in which it was heard of, and the last of them.
    pub hours: u32,
    hour: i64,
    pub records: u32,
    pub told: bool,
    pub raw: RawRows,
}

impl Record for Open {
    fn hash(&self) -> u64 {
        self.key
    }
}

impl Open {
    pub fn age_ns(&self) -> i64 {
        self.last.since(self.start)
    }

    fn is_kept(&self, now: EventTime) -> bool {
        now.since(self.last) <= if self.age_ns() >= HOUR_NS { OLD_IDLE_NS } else { YOUNG_IDLE_NS }
    }

    fn of(part: &Part) -> Self {
        let mut open = Self {
            key: part.key,
            peer: part.peer,
            port: part.port,
            start: part.start,
            last: part.end,
            out: part.out,
            back: part.back,
            hours: 0,
            hour: i64::MIN,
            records: 0,
            told: false,
            raw: RawRows::default(),
        };
        open.heard(part);
        open
    }

    fn heard(&mut self, part: &Part) {
        let hour = part.end.0.div_euclid(HOUR_NS);
        if hour > self.hour {
            (self.hour, self.hours) = (hour, self.hours.saturating_add(1));
        }
        self.records = self.records.saturating_add(1);
        self.raw.add(part.position);
    }

    fn continues(&self, part: &Part) -> bool {
        if part.whole {
            return part.start.since(self.start).abs() <= SECOND_NS;
        }
        let gap = part.start.since(self.last);
        gap <= if part.syn { 2 * SECOND_NS } else { part.gap_ns }
    }

    fn add(&mut self, part: &Part) {
        self.start = self.start.min(part.start);
        self.last = self.last.max(part.end);
        (self.out, self.back) = if part.whole {
            (self.out.max(part.out), self.back.max(part.back))
        } else {
            (self.out.saturating_add(part.out), self.back.saturating_add(part.back))
        };
        self.heard(part);
    }
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    open: Table<Open>,
    pruned_at: EventTime,
}

impl HostState {
    /// Nothing kept.
    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// What is kept, in no order that means anything.
    pub(super) fn connections(&self) -> &[Open] {
        self.open.records()
    }

    /// Files a record; the connection it belongs to, when one is kept. `begins`: it is worth a place.
    pub(super) fn file(&mut self, part: &Part, begins: bool) -> Option<&mut Open> {
        if part.at.since(self.pruned_at) > YOUNG_IDLE_NS {
            self.pruned_at = part.at;
            self.open.retain(|o| o.is_kept(part.at));
        }
        let place = match self.open.find(part.key, |o| o.key == part.key) {
            Some(place) => {
                let open = &mut self.open.records_mut()[place];
                if open.continues(part) {
                    open.add(part);
                } else if begins {
                    *open = Open::of(part);
                } else {
                    return None;
                }
                place
            }
            None if begins => {
                if self.open.len() >= OPEN_MAX {
                    OPEN.bites();
                    self.evict();
                }
                self.open.push(Open::of(part))
            }
            None => return None,
        };
        self.open.records_mut().get_mut(place)
    }

    fn evict(&mut self) {
        let rank = |o: &Open| (o.age_ns() / HOUR_NS, o.last, o.key);
        let mut order: Vec<_> = self.open.records().iter().map(rank).collect();
        let (_, first, _) = order.select_nth_unstable(OPEN_MAX / 2);
        let first = *first;
        self.open.retain(|o| rank(o) >= first);
    }
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        table_bytes::<Open>(self.open.len()) + self.open.records().iter().map(|o| o.raw.heap_bytes()).sum::<usize>()
    }
}
