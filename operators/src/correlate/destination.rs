//! A destination of a tenant and the hosts that met it, this week and the last: what is older does not count, so that
//! addresses that are given out anew do not make an old destination everybody's. Weeks are those of event time.
//!
//! Not a judgement: how many hosts are many is a detector's to say. Always holds: no host is named twice, and what is kept
//! of a destination depends on its contacts alone, in their order.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
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
#[derive(Debug, Deserialize)]
#[serde(from = "Written")]
pub(super) struct Destination {
    pub(super) name: Box<str>,
    /// The first host that knew it; most have no other, and are held by the hundred thousand.
    host: u64,
    crowd: Option<Box<Crowd>>,
    pub(super) first: EventTime,
    pub(super) last: EventTime,
    /// When the latest of its hosts came.
    pub(super) joined: EventTime,
}

/// Who else knows a destination.
#[derive(Debug, Default)]
struct Crowd {
    /// Further hosts, in the order in which they came.
    others: Vec<u64>,
    /// Hosts beyond [`HOSTS_PER_DESTINATION_MAX`], this week and last week.
    more: u32,
    more_before: u32,
}

/// One as it lies in a snapshot.
#[derive(Deserialize)]
struct Written {
    name: Box<str>,
    host: u64,
    others: Vec<u64>,
    more: u32,
    more_before: u32,
    first: EventTime,
    last: EventTime,
    joined: EventTime,
}

impl From<Written> for Destination {
    fn from(written: Written) -> Self {
        let Written { name, host, others, more, more_before, first, last, joined } = written;
        let crowd = (!others.is_empty() || more | more_before != 0).then(|| Box::new(Crowd { others, more, more_before }));
        Self { name, host, crowd, first, last, joined }
    }
}

impl Serialize for Destination {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("Destination", 8)?;
        out.serialize_field("name", &self.name)?;
        out.serialize_field("host", &self.host)?;
        out.serialize_field("others", self.others())?;
        out.serialize_field("more", &self.more())?;
        out.serialize_field("more_before", &self.more_before())?;
        out.serialize_field("first", &self.first)?;
        out.serialize_field("last", &self.last)?;
        out.serialize_field("joined", &self.joined)?;
        out.end()
    }
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
        Self { name, host, crowd: None, first: at, last: at, joined: at }
    }

    fn others(&self) -> &[u64] {
        self.crowd.as_ref().map_or(&[], |crowd| &crowd.others)
    }

    fn more(&self) -> u32 {
        self.crowd.as_ref().map_or(0, |crowd| crowd.more)
    }

    fn more_before(&self) -> u32 {
        self.crowd.as_ref().map_or(0, |crowd| crowd.more_before)
    }

    /// All hosts that are named, the first one first.
    fn named(&mut self) -> impl Iterator<Item = &mut u64> {
        std::iter::once(&mut self.host).chain(self.crowd.iter_mut().flat_map(|crowd| &mut crowd.others))
    }

    /// What lies beside the record.
    pub(super) fn heap_bytes(&self) -> usize {
        let heap = |bytes: usize| if bytes == 0 { 0 } else { bytes + ENTRY_EXTRA_BYTES };
        let crowd = self.crowd.as_ref().map_or(0, |crowd| heap(size_of::<Crowd>()) + heap(crowd.others.len() * size_of::<u64>()));
        heap(self.name.len()) + crowd
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
        if let Some(known) = self.named().find(|known| **known | THIS_WEEK == host) {
            *known = host;
            return;
        }
        self.joined = self.joined.max(at);
        let crowd = self.crowd.get_or_insert_default();
        if 1 + crowd.others.len() < HOSTS_PER_DESTINATION_MAX {
            crowd.others.push(host);
        } else {
            crowd.more = crowd.more.saturating_add(1);
        }
    }

    /// A week ends: who did not come in it goes. Somebody comes now, should nobody named be left.
    fn turn(&mut self, comes: u64, at: EventTime) {
        let mut next = None;
        if let Some(crowd) = &mut self.crowd {
            crowd.others.retain(|known| known & THIS_WEEK != 0);
            if self.host & THIS_WEEK == 0 && !crowd.others.is_empty() {
                next = Some(crowd.others.remove(0));
            }
            crowd.others.shrink_to_fit();
            crowd.more_before = std::mem::take(&mut crowd.more);
            if crowd.others.is_empty() && crowd.more_before == 0 {
                self.crowd = None;
            }
        }
        if self.host & THIS_WEEK == 0 {
            self.host = next.unwrap_or_else(|| {
                self.joined = self.joined.max(at);
                comes
            });
        }
        self.named().for_each(|known| *known &= !THIS_WEEK);
    }

    /// Hosts that know it; 0 when it has been silent for too long. Past the exact limit a host counts once for every day it
    /// came back, so the number is an upper bound there; 64 hosts already say "not rare".
    pub(super) fn knowing(&self, now: EventTime) -> u64 {
        if now.since(self.last) > MEMORY_NS {
            return 0;
        }
        if week(now) <= week(self.last) {
            return 1 + self.others().len() as u64 + u64::from(self.more()) + u64::from(self.more_before());
        }
        // Its week has ended since.
        let named = std::iter::once(&self.host).chain(self.others()).filter(|known| *known & THIS_WEEK != 0).count();
        (named as u64 + u64::from(self.more())).max(1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
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
        assert!(destination.others().len() < HOSTS_PER_DESTINATION_MAX);
    }

    #[test]
    fn a_snapshot_holds_its_fields_one_after_the_other_and_gives_them_back() {
        let alone = Destination::new("x".into(), host(0), day(0));
        let mut common = Destination::new("y".into(), host(0), day(0));
        (1..100).for_each(|n| common.met_by(host(n), day(1)));
        common.met_by(host(3), day(7));
        (200..300).for_each(|n| common.met_by(host(n), day(8)));
        for d in [alone, common] {
            let bytes = postcard::to_stdvec(&d).unwrap();
            let fields = (&d.name, d.host, d.others(), d.more(), d.more_before(), d.first, d.last, d.joined);
            assert_eq!(bytes, postcard::to_stdvec(&fields).unwrap());
            let read: Destination = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(postcard::to_stdvec(&read).unwrap(), bytes);
            assert_eq!((read.crowd.is_some(), read.heap_bytes()), (d.crowd.is_some(), d.heap_bytes()));
        }
        // Millions of them are held.
        assert_eq!(size_of::<Destination>(), 56);
    }
}
