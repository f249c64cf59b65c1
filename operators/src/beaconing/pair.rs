//! One host and one peer: when it was contacted, in bounded space. The same set of contacts gives the same pair in
//! whatever order they came, as long as the newest [`CONTACTS_MAX`] are looked at.
//!
//! A pair is one fixed-size record; its contacts lie with those of the host's other pairs in one piece ([`Arena`]).

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::arena::{Arena, Block};
use super::key::PeerKey;
use crate::operator::{Position, RawRows};
use crate::raw::part;
use crate::table::Record;

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contact {
    /// Beginning of the first connection.
    pub start: EventTime,
    /// Twice the offset of its row; odd when all connections failed.
    place: u64,
    bytes: u32,
    /// Longest connection, tenths of a second.
    lasting_ds: u16,
    input: u16,
}

/// Bytes of a contact in a snapshot.
pub(super) const CONTACT_RAW: usize = 24;

impl Contact {
    /// A contact. `bytes` are the octets sent, `lasting_ns` how long the connection stayed open.
    pub fn new(start: EventTime, at: Position) -> Self {
        Self { start, place: (at.offset as u64) << 1, bytes: BYTES_UNKNOWN, lasting_ds: 0, input: at.input }
    }

    /// With what the flow tells.
    pub fn with_flow(mut self, bytes: Option<u64>, lasting_ns: i64, failed: bool) -> Self {
        self.bytes = bytes.map_or(BYTES_UNKNOWN, |b| u32::try_from(b).unwrap_or(BYTES_UNKNOWN - 1).min(BYTES_UNKNOWN - 1));
        self.lasting_ds = u16::try_from(lasting_ns.max(0) / (SECOND_NS / 10)).unwrap_or(u16::MAX);
        self.place = self.place >> 1 << 1 | u64::from(failed);
        self
    }

    /// All connections failed.
    pub fn failed(&self) -> bool {
        self.place & 1 == 1
    }

    /// Raw form.
    pub fn to_raw(self) -> [u8; CONTACT_RAW] {
        let mut raw = [0; CONTACT_RAW];
        raw[..8].copy_from_slice(&self.start.0.to_le_bytes());
        raw[8..16].copy_from_slice(&self.place.to_le_bytes());
        raw[16..20].copy_from_slice(&self.bytes.to_le_bytes());
        raw[20..22].copy_from_slice(&self.lasting_ds.to_le_bytes());
        raw[22..].copy_from_slice(&self.input.to_le_bytes());
        raw
    }

    /// From the raw form; any bytes are a contact.
    pub fn from_raw(raw: &[u8; CONTACT_RAW]) -> Self {
        Self {
            start: EventTime(i64::from_le_bytes(part(raw, 0))),
            place: u64::from_le_bytes(part(raw, 8)),
            bytes: u32::from_le_bytes(part(raw, 16)),
            lasting_ds: u16::from_le_bytes(part(raw, 20)),
            input: u16::from_le_bytes(part(raw, 22)),
        }
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
        self.place &= other.place | !1;
    }
}

/// State of one pair.
#[derive(Clone, Debug)]
pub(super) struct Pair {
    /// The peer.
    pub key: PeerKey,
    /// First contact ever.
    pub first: EventTime,
    /// Latest row.
    pub touched: EventTime,
    /// Contacts ever.
    pub total: u32,
    /// No look before this many contacts.
    pub next_look: u32,
    /// Where the newest contacts lie, by cell, at most [`CONTACTS_MAX`]: a [`Block`] without its padding.
    contacts_at: u32,
    contacts_len: u8,
    /// Place of the addresses at which its name was reached, plus one; 0 = none kept.
    pub farm: u16,
    /// Peer is inside.
    pub internal: bool,
}

const _: () = assert!(size_of::<Contact>() == 24 && size_of::<Pair>() <= 56);

impl Record for Pair {
    fn hash(&self) -> u64 {
        self.key.hash()
    }
}

impl Pair {
    /// A pair without a contact.
    pub fn new(key: PeerKey) -> Self {
        Self {
            key,
            first: EventTime::default(),
            touched: EventTime::default(),
            total: 0,
            next_look: 0,
            contacts_at: 0,
            contacts_len: 0,
            farm: 0,
            internal: false,
        }
    }

    /// Its contacts.
    pub fn contacts(&self) -> Block {
        Block { at: self.contacts_at, len: self.contacts_len }
    }

    /// Its contacts lie elsewhere now.
    pub fn set_contacts(&mut self, block: Block) {
        (self.contacts_at, self.contacts_len) = (block.at, block.len);
    }

    /// Adds a contact; true when it is one of its own and not part of one already known.
    pub fn add(&mut self, arena: &mut Arena, contact: Contact) -> bool {
        let kept = arena.of_mut(self.contacts());
        let cell = contact.cell();
        // Nearly always it is the newest one, or part of that.
        let found = match kept.last() {
            Some(last) if last.cell() < cell => Err(kept.len()),
            _ => kept.binary_search_by_key(&cell, Contact::cell),
        };
        match found {
            Ok(i) => {
                kept[i].merge(&contact);
                self.first = self.first.min(contact.start);
                false
            }
            Err(i) => {
                if kept.len() >= CONTACTS_MAX {
                    if i == 0 {
                        return false;
                    }
                    kept.copy_within(1..i, 0);
                    kept[i - 1] = contact;
                } else {
                    let block = arena.insert(self.contacts(), i, contact);
                    self.set_contacts(block);
                }
                self.first = if self.total == 0 { contact.start } else { self.first.min(contact.start) };
                self.total = self.total.saturating_add(1);
                true
            }
        }
    }

    /// Completes the contact that a name gave with what its flow tells, told later.
    pub fn complete(&self, arena: &mut Arena, named: EventTime, flow: Contact) {
        let kept = arena.of_mut(self.contacts());
        let cell = named.0.div_euclid(CELL_NS);
        if let Ok(i) = kept.binary_search_by_key(&cell, Contact::cell) {
            let start = kept[i].start;
            kept[i].merge(&Contact { start, ..flow });
        }
    }
}

/// A pair with its contacts, for judging.
#[derive(Clone, Copy)]
pub(super) struct PairView<'a> {
    /// The record.
    pub pair: &'a Pair,
    /// Its contacts, by cell.
    pub contacts: &'a [Contact],
    /// Addresses at which a name was reached directly, the first [`FARM`] of them.
    pub addresses: &'a [Address],
}

impl PairView<'_> {
    /// Contacts with bursts made one: the first connection's time, the burst's octets and longest connection.
    pub fn collapsed(&self) -> Vec<Contact> {
        let mut out: Vec<Contact> = Vec::with_capacity(self.contacts.len());
        for contact in self.contacts {
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
        for c in self.contacts {
            raw.add(Position { input: c.input, offset: (c.place >> 1) as i64, row: 0 });
        }
        raw
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
    use super::*;

    fn contact(ms: i64) -> Contact {
        Contact::new(EventTime(ms * 1_000_000), Position { input: 0, offset: ms, row: 0 }).with_flow(
            Some(100),
            5_000_000_000,
            false,
        )
    }

    fn pair() -> Pair {
        Pair::new(PeerKey::Address { address: Address::v4([9, 9, 9, 9]), port: 443, transport: 6 })
    }

    fn collapsed(pair: &Pair, arena: &Arena) -> Vec<Contact> {
        PairView { pair, contacts: arena.of(pair.contacts()), addresses: &[] }.collapsed()
    }

    #[test]
    fn any_order_gives_the_same_pair() {
        let times: Vec<i64> = (0..200).map(|i| i * 700 + (i * i) % 300).collect();
        let (mut forward, mut there) = (pair(), Arena::default());
        let (mut backward, mut back) = (pair(), Arena::default());
        // Where the rows lie is told of the first row, so it is left out here.
        for t in &times[..60] {
            forward.add(&mut there, Contact { place: 0, ..contact(*t) });
        }
        for t in times[..60].iter().rev() {
            backward.add(&mut back, Contact { place: 0, ..contact(*t) });
        }
        assert_eq!(there.of(forward.contacts()), back.of(backward.contacts()));
        assert_eq!((forward.total, forward.first), (backward.total, backward.first));
        let bursts = collapsed(&forward, &there);
        assert!(bursts.windows(2).all(|w| w[1].start.since(w[0].start) >= 2 * SECOND_NS));
    }

    #[test]
    fn the_newest_are_kept() {
        let (mut pair, mut arena) = (pair(), Arena::default());
        for i in 0..1000 {
            assert!(pair.add(&mut arena, contact(i * 5000)));
        }
        assert_eq!((arena.of(pair.contacts()).len(), pair.total), (CONTACTS_MAX, 1000));
        assert_eq!(collapsed(&pair, &arena)[0].start, EventTime((1000 - CONTACTS_MAX as i64) * 5_000_000_000));
        assert!(!pair.add(&mut arena, contact(10_000)));
        assert!(arena.bytes() <= 2 * CONTACTS_MAX * size_of::<Contact>());
    }

    #[test]
    fn what_is_between_the_kept_pushes_the_oldest_out() {
        let (mut pair, mut arena) = (pair(), Arena::default());
        for i in 0..CONTACTS_MAX as i64 {
            pair.add(&mut arena, contact(i * 5000));
        }
        assert!(pair.add(&mut arena, contact(12_500)));
        let starts: Vec<i64> = arena.of(pair.contacts())[..4].iter().map(|c| c.start.0 / 1_000_000).collect();
        assert_eq!(starts, [5000, 10_000, 12_500, 15_000]);
    }

    #[test]
    fn a_contact_reads_back_and_fails_only_when_all_of_its_connections_did() {
        let position = Position { input: 7, offset: 1 << 40, row: 0 };
        let mut failed = Contact::new(EventTime(-5), position).with_flow(Some(9), 1_000_000_000, true);
        assert_eq!(Contact::from_raw(&failed.to_raw()), failed);
        assert!(failed.failed());
        failed.merge(&contact(0));
        assert!(!failed.failed());
        assert_eq!(failed.place >> 1, 1 << 40);
    }
}
