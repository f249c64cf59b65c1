//! A destination of a tenant and the hosts that met it, this week and the last: what is older does not count, so that
//! addresses that are given out anew do not make an old destination everybody's. Weeks are those of event time.
//!
//! Not a judgement: how many hosts are many is a detector's to say. Always holds: no host is named twice, and what is kept
//! of a destination depends on its contacts alone, in their order.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::ENTRY_EXTRA_BYTES;
use crate::table::{Record, mixed};

/// Hosts named per destination; beyond it only their number grows, by those that come back on later days as well.
pub const HOSTS_PER_DESTINATION_MAX: usize = 64;

/// A destination silent for longer begins anew. Hosts count in the span of this length in which they were heard of, counted
/// from the epoch, and in the one after it.
pub(super) const MEMORY_NS: i64 = 7 * 86_400 * SECOND_NS;

/// In a host's hash: it came this week. Without it, last week.
const THIS_WEEK: u64 = 1;

/// Whether a host that was last heard of then counts now.
pub(super) fn counts(last: EventTime, now: EventTime) -> bool {
    week(now) - week(last) <= 1
}

fn week(at: EventTime) -> i64 {
    at.0.div_euclid(MEMORY_NS)
}

/// See the file's header.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Destination {
    pub(super) name: Box<str>,
    /// The first host that knew it; most have no other.
    host: u64,
    /// Further hosts, in the order in which they came.
    others: Vec<u64>,
    /// Hosts beyond [`HOSTS_PER_DESTINATION_MAX`], this week and last week.
    more: u32,
    more_before: u32,
    pub(super) first: EventTime,
    pub(super) last: EventTime,
    /// When the latest of its hosts came.
    pub(super) joined: EventTime,
}

impl Record for Destination {
    fn hash(&self) -> u64 {
        name_hash(&self.name)
    }
}

pub(super) fn name_hash(name: &str) -> u64 {
    mixed(xxhash_rust::xxh3::xxh3_64(name.as_bytes()), 0)
}

impl Destination {
    /// One that a host meets.
    pub(super) fn new(name: Box<str>, host: u64, at: EventTime) -> Self {
        let host = host | THIS_WEEK;
        Self { name, host, others: Vec::new(), more: 0, more_before: 0, first: at, last: at, joined: at }
    }

    /// What lies beside the record.
    pub(super) fn heap_bytes(&self) -> usize {
        let heap = |bytes: usize| if bytes == 0 { 0 } else { bytes + ENTRY_EXTRA_BYTES };
        heap(self.name.len()) + heap(self.others.len() * size_of::<u64>())
    }

    /// A host meets it, for the first time or again.
    pub(super) fn met_by(&mut self, host: u64, at: EventTime) {
        let host = host | THIS_WEEK;
        if at.since(self.last) > MEMORY_NS {
            *self = Self::new(std::mem::take(&mut self.name), host, at);
            return;
        }
        if week(at) > week(self.last) {
            self.turn(host, at);
        }
        self.first = self.first.min(at);
        self.last = self.last.max(at);
        let mut named = std::iter::once(&mut self.host).chain(&mut self.others);
        if let Some(known) = named.find(|known| **known | THIS_WEEK == host) {
            *known = host;
            return;
        }
        self.joined = self.joined.max(at);
        if 1 + self.others.len() < HOSTS_PER_DESTINATION_MAX {
            self.others.push(host);
        } else {
            self.more = self.more.saturating_add(1);
        }
    }

    /// A week ends: who did not come in it goes. Somebody comes now, should nobody named be left.
    fn turn(&mut self, comes: u64, at: EventTime) {
        self.others.retain(|known| known & THIS_WEEK != 0);
        self.others.shrink_to_fit();
        if self.host & THIS_WEEK == 0 {
            self.host = if self.others.is_empty() {
                self.joined = self.joined.max(at);
                comes
            } else {
                self.others.remove(0)
            };
        }
        std::iter::once(&mut self.host).chain(&mut self.others).for_each(|known| *known &= !THIS_WEEK);
        self.more_before = std::mem::take(&mut self.more);
    }

    /// Hosts that know it; 0 when it has been silent for too long. Past the exact limit a host counts once for every day it
    /// came back, so the number is an upper bound there; 64 hosts already say "not rare".
    pub(super) fn knowing(&self, now: EventTime) -> u64 {
        if now.since(self.last) > MEMORY_NS {
            return 0;
        }
        if week(now) <= week(self.last) {
            return 1 + self.others.len() as u64 + u64::from(self.more) + u64::from(self.more_before);
        }
        // Its week has ended since.
        let named = std::iter::once(&self.host).chain(&self.others).filter(|known| *known & THIS_WEEK != 0).count();
        (named as u64 + u64::from(self.more)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noon of a day, counted from the begin of a week.
    fn day(n: i64) -> EventTime {
        EventTime(2_900 * MEMORY_NS + n * MEMORY_NS / 7 + MEMORY_NS / 14)
    }

    /// Hash of a host, far from its neighbours'.
    fn host(n: u64) -> u64 {
        (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn hosts_of_this_week_and_the_last_count() {
        let mut destination = Destination::new("x".into(), host(0), day(0));
        (1..=3).for_each(|n| destination.met_by(host(n), day(1)));
        assert_eq!(destination.knowing(day(2)), 4);
        // In the second week two of them come back, with a fifth.
        [1, 3, 4].iter().for_each(|n| destination.met_by(host(*n), day(7)));
        assert_eq!((destination.knowing(day(7)), destination.joined), (5, day(7)));
        // In the third the two are gone that did not.
        assert_eq!(destination.knowing(day(14)), 3);
        destination.met_by(host(4), day(14));
        assert_eq!((destination.knowing(day(14)), destination.first), (3, day(0)));
        destination.met_by(host(2), day(15));
        assert_eq!((destination.knowing(day(15)), destination.joined), (4, day(15)));
    }

    #[test]
    fn what_was_silent_for_longer_than_a_week_begins_anew() {
        let mut destination = Destination::new("x".into(), host(0), day(0));
        (1..100).for_each(|n| destination.met_by(host(n), day(0)));
        assert_eq!((destination.knowing(day(7)), destination.knowing(day(8))), (100, 0));
        destination.met_by(host(0), day(8));
        assert_eq!((destination.knowing(day(8)), destination.first, destination.joined), (1, day(8), day(8)));
    }

    #[test]
    fn a_host_with_another_address_every_day_does_not_make_it_everybodys() {
        let mut destination = Destination::new("x".into(), host(0), day(0));
        for n in 1..200 {
            destination.met_by(host(n), day(n as i64));
            assert!(destination.knowing(day(n as i64)) <= 14);
        }
        // Nor do a hundred, of which most are not named.
        for n in 200..20_200 {
            destination.met_by(host(n), day(n as i64 / 100 + 198));
            assert!(destination.knowing(day(n as i64 / 100 + 198)) <= 1_400);
        }
        assert!(destination.others.len() < HOSTS_PER_DESTINATION_MAX);
    }
}
