//! One host and one peer: when it was contacted, in bounded space. The same set of contacts gives the same pair in
//! whatever order they came, as long as the newest [`CONTACTS_MAX`] are looked at.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::operator::{Position, RawRows, vec_bytes};

/// Contacts kept per pair, the newest: enough for sleeps with 90 % jitter, whose evidence is slow.
pub(super) const CONTACTS_MAX: usize = 96;

/// Contacts that begin in the same second are one.
const CELL_NS: i64 = SECOND_NS;

/// Contacts nearer than this to the first of a burst belong to it, seconds: a page, a retry, a parallel connection.
pub(super) const BURST_S: f64 = 2.0;

/// A name served from so many addresses is a farm's; implants' names have one to three, behind a CDN two.
pub(super) const FARM: usize = 5;

/// Octets not known.
const BYTES_UNKNOWN: u32 = u32::MAX;

/// One contact: everything that began in one second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Contact {
    /// Beginning of the first connection.
    pub start: EventTime,
    bytes: u32,
    /// Longest connection, tenths of a second.
    lasting_ds: u16,
    /// All connections failed.
    pub failed: bool,
    input: u16,
    offset: i64,
}

impl Contact {
    /// A contact. `bytes` are the octets sent, `lasting_ns` how long the connection stayed open.
    pub fn new(start: EventTime, at: Position) -> Self {
        Self { start, bytes: BYTES_UNKNOWN, lasting_ds: 0, failed: false, input: at.input, offset: at.offset }
    }

    /// With what the flow tells.
    pub fn with_flow(mut self, bytes: Option<u64>, lasting_ns: i64, failed: bool) -> Self {
        self.bytes = bytes.map_or(BYTES_UNKNOWN, |b| u32::try_from(b).unwrap_or(BYTES_UNKNOWN - 1).min(BYTES_UNKNOWN - 1));
        self.lasting_ds = u16::try_from(lasting_ns.max(0) / (SECOND_NS / 10)).unwrap_or(u16::MAX);
        self.failed = failed;
        self
    }

    fn cell(&self) -> i64 {
        self.start.0.div_euclid(CELL_NS)
    }

    /// Takes up another contact of the same second; the order does not matter, but for where its row lies: of several
    /// rows the first in the slice's order is named. (Input indices have no order: they are given out as inputs come.)
    fn merge(&mut self, other: &Self) {
        self.start = self.start.min(other.start);
        self.bytes = match (self.bytes, other.bytes) {
            (BYTES_UNKNOWN, b) | (b, BYTES_UNKNOWN) => b,
            (a, b) => a.saturating_add(b).min(BYTES_UNKNOWN - 1),
        };
        self.lasting_ds = self.lasting_ds.max(other.lasting_ds);
        self.failed &= other.failed;
    }
}

/// State of one pair.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Pair {
    /// Newest contacts, by cell, at most [`CONTACTS_MAX`].
    contacts: Vec<Contact>,
    /// Contacts ever.
    pub total: u32,
    /// First contact ever.
    pub first: EventTime,
    /// Latest row.
    pub touched: EventTime,
    /// No look before this many contacts.
    pub next_look: u32,
    /// Peer is inside.
    pub internal: bool,
    /// Addresses at which a name was reached directly, the first [`FARM`] of them.
    pub addresses: Vec<Address>,
}

impl Pair {
    /// Adds a contact; true when it is one of its own and not part of one already known.
    pub fn add(&mut self, contact: Contact) -> bool {
        let cell = contact.cell();
        match self.contacts.binary_search_by_key(&cell, Contact::cell) {
            Ok(i) => {
                self.contacts[i].merge(&contact);
                self.first = self.first.min(contact.start);
                false
            }
            Err(i) => {
                if self.contacts.len() >= CONTACTS_MAX {
                    if i == 0 {
                        return false;
                    }
                    self.contacts.remove(0);
                    self.contacts.insert(i - 1, contact);
                } else {
                    // One by one: most pairs are seen once or twice.
                    if self.contacts.len() < 4 {
                        self.contacts.reserve_exact(1);
                    }
                    self.contacts.insert(i, contact);
                }
                self.first = if self.total == 0 { contact.start } else { self.first.min(contact.start) };
                self.total = self.total.saturating_add(1);
                true
            }
        }
    }

    /// A name was reached at an address.
    pub fn reached_at(&mut self, address: Address) {
        if self.addresses.len() < FARM && !self.addresses.contains(&address) {
            self.addresses.reserve_exact(1);
            self.addresses.push(address);
        }
    }

    /// Completes the contact that a name gave with what its flow tells, told later.
    pub fn complete(&mut self, named: EventTime, flow: Contact) {
        let cell = named.0.div_euclid(CELL_NS);
        if let Ok(i) = self.contacts.binary_search_by_key(&cell, Contact::cell) {
            let start = self.contacts[i].start;
            self.contacts[i].merge(&Contact { start, ..flow });
        }
    }

    /// Contacts kept.
    pub fn len(&self) -> usize {
        self.contacts.len()
    }

    /// Contacts with bursts made one: the first connection's time, the burst's octets and longest connection.
    pub fn collapsed(&self) -> Vec<Contact> {
        let mut out: Vec<Contact> = Vec::with_capacity(self.contacts.len());
        for contact in &self.contacts {
            match out.last_mut() {
                Some(last) if (contact.start.since(last.start) as f64) < BURST_S * 1e9 => last.merge(contact),
                _ => out.push(*contact),
            }
        }
        out
    }

    /// Where the rows of the contacts kept lie.
    pub fn raw(&self) -> RawRows {
        let mut raw = RawRows::default();
        for c in &self.contacts {
            raw.add(Position { input: c.input, offset: c.offset, row: 0 });
        }
        raw
    }

    /// Heap bytes.
    pub fn heap_bytes(&self) -> usize {
        vec_bytes::<Contact>(self.contacts.len()) + vec_bytes::<Address>(self.addresses.len())
    }
}

/// Octets of a contact, where known.
pub(super) fn bytes(contact: &Contact) -> Option<f64> {
    (contact.bytes != BYTES_UNKNOWN).then_some(f64::from(contact.bytes))
}

/// How long a contact's longest connection stayed open, seconds; `None` while only a name is known of it.
pub(super) fn lasting_s(contact: &Contact) -> Option<f64> {
    (contact.lasting_ds > 0 || contact.bytes != BYTES_UNKNOWN).then(|| f64::from(contact.lasting_ds) / 10.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn contact(ms: i64) -> Contact {
        Contact::new(EventTime(ms * 1_000_000), Position { input: 0, offset: ms, row: 0 }).with_flow(
            Some(100),
            5_000_000_000,
            false,
        )
    }

    #[test]
    fn any_order_gives_the_same_pair() {
        let times: Vec<i64> = (0..200).map(|i| i * 700 + (i * i) % 300).collect();
        let mut forward = Pair::default();
        let mut backward = Pair::default();
        // Where the rows lie is told of the first row, so it is left out here.
        for t in &times[..60] {
            forward.add(Contact { offset: 0, ..contact(*t) });
        }
        for t in times[..60].iter().rev() {
            backward.add(Contact { offset: 0, ..contact(*t) });
        }
        assert_eq!(forward, backward);
        assert!(forward.collapsed().windows(2).all(|w| w[1].start.since(w[0].start) >= 2 * SECOND_NS));
    }

    #[test]
    fn the_newest_are_kept() {
        let mut pair = Pair::default();
        for i in 0..1000 {
            pair.add(contact(i * 5000));
        }
        assert_eq!((pair.len(), pair.total), (CONTACTS_MAX, 1000));
        assert_eq!(pair.collapsed()[0].start, EventTime((1000 - CONTACTS_MAX as i64) * 5_000_000_000));
        assert!(!pair.add(contact(10_000)));
        assert!(pair.heap_bytes() <= 2 * CONTACTS_MAX * size_of::<Contact>());
    }

    #[test]
    fn a_single_contact_costs_one_slot() {
        let mut pair = Pair::default();
        pair.add(contact(1));
        assert_eq!(pair.heap_bytes(), size_of::<Contact>());
        assert!(size_of::<Contact>() <= 32 && size_of::<Pair>() <= 80);
    }
}
