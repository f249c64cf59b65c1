//! One host and one peer: when it was contacted, in bounded space. The same set of contacts gives the same pair in
//! whatever order they came, as long as the newest [`CONTACTS_MAX`] are looked at.
//!
//! A pair is one fixed-size record; its contacts lie with those of the host's other pairs in one piece ([`Arena`]).

use arrayvec::ArrayVec;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::arena::{Arena, Block};
use super::key::PeerKey;
use crate::operator::{Position, RawRows};
use crate::raw::part;
use crate::table::Record;

/// Contacts kept per pair, the newest: enough for sleeps with 90 % jitter, whose evidence is slow.
pub(super) const CONTACTS_MAX: usize = 96;

/// Contacts nearer than this to the first of a burst belong to it, seconds: a page, a retry, a parallel connection.
pub(super) const BURST_S: f64 = 2.0;

/// A name served from so many addresses is a farm's; implants' names have one to three, behind a CDN two.
pub(super) const FARM: usize = 5;

/// Pieces of a second in which a contact's beginning is told: finer than any clock of a flow exporter is right.
const TICKS_PER_S: i64 = 256;
const TICK_NS: i64 = SECOND_NS / TICKS_PER_S;

/// Bits of a beginning: ticks from 1970 to 2106.
const START_BITS: u32 = 40;
/// Bits of the longest connection, tenths of a second: exact to 12.7 s, to one part in 128 beyond, as far as 48 days.
const LASTING_BITS: u32 = 11;
const LASTING_FRACTION: u32 = 7;
/// Bits of the index of a row's input; rows of inputs beyond are not pointed at.
const INPUT_BITS: u32 = 12;
/// Bits of a row's offset.
const OFFSET_BITS: u32 = 48;
/// Of the octets sent: exact to 2,047, to one part in 2,048 beyond.
const BYTES_FRACTION: u32 = 11;

const _: () = assert!(START_BITS + LASTING_BITS + 1 + INPUT_BITS == 64 && OFFSET_BITS + 16 == 64);

/// Octets not known.
const BYTES_UNKNOWN: u64 = 0xffff;

/// One contact: everything that began in one second. Sixteen bytes, because there are a handful of them for each of
/// millions of pairs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Contact {
    /// From the high bits down: beginning of the first connection, longest connection, whether all failed, input of the row.
    when: u64,
    /// Offset of the row, octets sent.
    what: u64,
}

/// Bytes of a contact in a snapshot.
pub(super) const CONTACT_RAW: usize = 16;

/// A number in few bits: itself while it fits into `fraction` bits, then with so many digits behind the first. Greater
/// numbers have greater codes.
const fn short(number: u64, fraction: u32, code_max: u64) -> u64 {
    if number >> fraction == 0 {
        return number;
    }
    let shift = 63 - number.leading_zeros() - fraction;
    let code = ((shift as u64 + 1) << fraction) | ((number >> shift) & ((1 << fraction) - 1));
    if code < code_max { code } else { code_max }
}

/// The least number of a code.
const fn long(code: u64, fraction: u32) -> u64 {
    let (shift, digits) = (code >> fraction, code & ((1 << fraction) - 1));
    if shift == 0 { digits } else { (digits | 1 << fraction) << (shift - 1) }
}

impl Contact {
    /// A contact, of which only a name is known. What its bits do not hold is taken to their ends.
    pub fn new(start: EventTime, at: Position) -> Self {
        let ticks = start.0.div_euclid(TICK_NS).clamp(0, (1 << START_BITS) - 1) as u64;
        let input = u64::from(at.input).min((1 << INPUT_BITS) - 1);
        let offset = at.offset.clamp(0, (1 << OFFSET_BITS) - 1) as u64;
        Self { when: ticks << (64 - START_BITS) | input, what: offset << 16 | BYTES_UNKNOWN }
    }

    /// With what the flow tells: the octets sent, how long the connection stayed open, whether it failed.
    pub fn with_flow(self, bytes: Option<u64>, lasting_ns: i64, failed: bool) -> Self {
        let bytes = bytes.map_or(BYTES_UNKNOWN, |b| short(b, BYTES_FRACTION, BYTES_UNKNOWN - 1));
        let lasting_ds = (lasting_ns.max(0) / (SECOND_NS / 10)) as u64;
        let lasting = short(lasting_ds, LASTING_FRACTION, (1 << LASTING_BITS) - 1);
        self.with_bytes(bytes).with_lasting(lasting).with_failed(failed)
    }

    /// Beginning of its first connection, to 1/256 of a second.
    pub fn start(self) -> EventTime {
        EventTime(self.ticks() as i64 * TICK_NS)
    }

    /// All connections failed.
    pub fn failed(self) -> bool {
        self.when >> INPUT_BITS & 1 == 1
    }

    /// Octets sent, where known.
    pub fn bytes(self) -> Option<f64> {
        let code = self.bytes_code();
        (code != BYTES_UNKNOWN).then(|| long(code, BYTES_FRACTION) as f64)
    }

    /// How long its longest connection stayed open, seconds; `None` while only a name is known of it.
    pub fn lasting_s(self) -> Option<f64> {
        let code = self.lasting_code();
        (code > 0 || self.bytes_code() != BYTES_UNKNOWN).then(|| long(code, LASTING_FRACTION) as f64 / 10.0)
    }

    /// Where the row of its first connection lies; `None` beyond the inputs that can be told.
    fn position(self) -> Option<Position> {
        let input = (self.when & ((1 << INPUT_BITS) - 1)) as u16;
        let offset = (self.what >> 16) as i64;
        (u32::from(input) + 1 < 1 << INPUT_BITS).then_some(Position { input, offset, row: 0 })
    }

    /// Raw form.
    pub fn to_raw(self) -> [u8; CONTACT_RAW] {
        let mut raw = [0; CONTACT_RAW];
        raw[..8].copy_from_slice(&self.when.to_le_bytes());
        raw[8..].copy_from_slice(&self.what.to_le_bytes());
        raw
    }

    /// From the raw form; any bytes are a contact.
    pub fn from_raw(raw: &[u8; CONTACT_RAW]) -> Self {
        Self { when: u64::from_le_bytes(part(raw, 0)), what: u64::from_le_bytes(part(raw, 8)) }
    }

    fn ticks(self) -> u64 {
        self.when >> (64 - START_BITS)
    }

    fn lasting_code(self) -> u64 {
        self.when >> (INPUT_BITS + 1) & ((1 << LASTING_BITS) - 1)
    }

    fn bytes_code(self) -> u64 {
        self.what & 0xffff
    }

    fn with_bytes(self, code: u64) -> Self {
        Self { what: self.what >> 16 << 16 | code, ..self }
    }

    fn with_lasting(self, code: u64) -> Self {
        let field = ((1 << LASTING_BITS) - 1) << (INPUT_BITS + 1);
        Self { when: self.when & !field | code << (INPUT_BITS + 1), ..self }
    }

    fn with_failed(self, failed: bool) -> Self {
        Self { when: self.when & !(1 << INPUT_BITS) | u64::from(failed) << INPUT_BITS, ..self }
    }

    fn with_ticks(self, ticks: u64) -> Self {
        Self { when: self.when << START_BITS >> START_BITS | ticks << (64 - START_BITS), ..self }
    }

    /// The second in which it began.
    fn cell(self) -> u64 {
        self.ticks() / TICKS_PER_S as u64
    }

    /// Takes up another contact of the same second; the order matters only to the last digit of the octets and for where
    /// its row lies: of several rows the first in the slice's order is named. (Input indices have no order: they are given
    /// out as inputs come.)
    fn merge(&mut self, other: Self) {
        let bytes = match (self.bytes_code(), other.bytes_code()) {
            (BYTES_UNKNOWN, code) | (code, BYTES_UNKNOWN) => code,
            (a, b) => short(long(a, BYTES_FRACTION) + long(b, BYTES_FRACTION), BYTES_FRACTION, BYTES_UNKNOWN - 1),
        };
        *self = self
            .with_ticks(self.ticks().min(other.ticks()))
            .with_bytes(bytes)
            .with_lasting(self.lasting_code().max(other.lasting_code()))
            .with_failed(self.failed() && other.failed());
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

const _: () = assert!(size_of::<Contact>() == CONTACT_RAW && size_of::<Pair>() <= 56);

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
            _ => kept.binary_search_by_key(&cell, |kept| kept.cell()),
        };
        match found {
            Ok(i) => {
                kept[i].merge(contact);
                self.first = self.first.min(contact.start());
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
                self.first = if self.total == 0 { contact.start() } else { self.first.min(contact.start()) };
                self.total = self.total.saturating_add(1);
                true
            }
        }
    }

    /// Completes the contact that a name gave with what its flow tells, told later.
    pub fn complete(&self, arena: &mut Arena, named: EventTime, flow: Contact) {
        let kept = arena.of_mut(self.contacts());
        let cell = Contact::new(named, Position { input: 0, offset: 0, row: 0 }).cell();
        if let Ok(i) = kept.binary_search_by_key(&cell, |kept| kept.cell()) {
            // When it began is the name's to say.
            let ticks = kept[i].ticks();
            kept[i].merge(flow.with_ticks(ticks));
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
    /// Whether it says anything that another pair does not: a name that was only looked up and reached at one address is
    /// that address.
    pub fn is_own(&self) -> bool {
        !matches!(self.pair.key, PeerKey::Resolved { .. }) || self.addresses.len() > 1
    }

    /// What it is named by, as in evidence.
    pub fn named_by(&self) -> &'static str {
        match self.pair.key {
            PeerKey::Address { .. } => "address",
            PeerKey::Name { .. } => "name",
            PeerKey::Resolved { .. } => "look-up",
        }
    }

    /// Destination as in contact rows. A name that was only looked up is in none: its addresses are, joined by commas.
    pub fn contact(&self) -> String {
        match self.pair.key {
            PeerKey::Resolved { .. } => self.addresses.iter().map(Address::to_string).collect::<Vec<_>>().join(","),
            _ => self.pair.key.contact(),
        }
    }

    /// Contacts with bursts made one: the first connection's time, the burst's octets and longest connection.
    pub fn collapsed(&self) -> ArrayVec<Contact, CONTACTS_MAX> {
        let mut out: ArrayVec<Contact, CONTACTS_MAX> = ArrayVec::new();
        for contact in self.contacts.iter().take(CONTACTS_MAX) {
            match out.last_mut() {
                Some(last) if (contact.start().since(last.start()) as f64) < BURST_S * 1e9 => last.merge(*contact),
                _ => out.push(*contact),
            }
        }
        out
    }

    /// Where the rows of the contacts kept lie.
    pub fn raw(&self) -> RawRows {
        let mut raw = RawRows::default();
        self.contacts.iter().filter_map(|contact| contact.position()).for_each(|at| raw.add(at));
        raw
    }
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

    /// The same, with its row at no place in particular.
    fn nowhere(ms: i64) -> Contact {
        let contact = contact(ms);
        Contact { what: contact.bytes_code(), ..contact }
    }

    fn pair() -> Pair {
        Pair::new(PeerKey::Address { address: Address::v4([9, 9, 9, 9]), port: 443, transport: 6 })
    }

    fn collapsed(pair: &Pair, arena: &Arena) -> ArrayVec<Contact, CONTACTS_MAX> {
        PairView { pair, contacts: arena.of(pair.contacts()), addresses: &[] }.collapsed()
    }

    #[test]
    fn any_order_gives_the_same_pair() {
        let times: Vec<i64> = (0..200).map(|i| i * 700 + (i * i) % 300).collect();
        let (mut forward, mut there) = (pair(), Arena::default());
        let (mut backward, mut back) = (pair(), Arena::default());
        // Where the rows lie is told of the first row, so it is left out here.
        for t in &times[..60] {
            forward.add(&mut there, nowhere(*t));
        }
        for t in times[..60].iter().rev() {
            backward.add(&mut back, nowhere(*t));
        }
        assert_eq!(there.of(forward.contacts()), back.of(backward.contacts()));
        assert_eq!((forward.total, forward.first), (backward.total, backward.first));
        let bursts = collapsed(&forward, &there);
        assert!(bursts.windows(2).all(|w| w[1].start().since(w[0].start()) >= 2 * SECOND_NS));
    }

    #[test]
    fn the_newest_are_kept() {
        let (mut pair, mut arena) = (pair(), Arena::default());
        for i in 0..1000 {
            assert!(pair.add(&mut arena, contact(i * 5000)));
        }
        assert_eq!((arena.of(pair.contacts()).len(), pair.total), (CONTACTS_MAX, 1000));
        assert_eq!(collapsed(&pair, &arena)[0].start(), EventTime((1000 - CONTACTS_MAX as i64) * 5_000_000_000));
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
        let starts: Vec<i64> = arena.of(pair.contacts())[..4].iter().map(|c| c.start().0 / 1_000_000).collect();
        assert_eq!(starts, [5000, 10_000, 12_500, 15_000]);
    }

    #[test]
    fn a_contact_reads_back_and_fails_only_when_all_of_its_connections_did() {
        let position = Position { input: 7, offset: 1 << 40, row: 0 };
        let mut failed = Contact::new(EventTime(1_500_000_000), position).with_flow(Some(9), 1_000_000_000, true);
        assert_eq!(Contact::from_raw(&failed.to_raw()), failed);
        assert_eq!((failed.start(), failed.bytes(), failed.lasting_s()), (EventTime(1_500_000_000), Some(9.0), Some(1.0)));
        assert!(failed.failed());
        failed.merge(contact(1_200));
        assert_eq!((failed.bytes(), failed.lasting_s()), (Some(109.0), Some(5.0)));
        assert!(!failed.failed() && failed.start() < EventTime(1_200_000_001));
        assert_eq!(failed.position(), Some(position));
    }

    #[test]
    fn what_a_contact_cannot_hold_is_taken_to_its_ends() {
        let far = Position { input: u16::MAX, offset: i64::MAX, row: 9 };
        let contact = Contact::new(EventTime::MIN, far).with_flow(Some(u64::MAX), i64::MAX, true);
        assert_eq!((contact.start(), contact.position()), (EventTime(0), None));
        assert!(contact.bytes().is_some_and(|b| b > 1e12) && contact.lasting_s().is_some_and(|s| s > 1e5) && contact.failed());
        let late = Contact::new(EventTime(i64::MAX), Position { input: 3, ..far });
        assert_eq!((late.bytes(), late.lasting_s()), (None, None));
        assert_eq!(late.position(), Some(Position { input: 3, offset: (1 << 48) - 1, row: 0 }));
    }

    #[test]
    fn short_numbers_keep_their_order_and_their_first_digits() {
        let mut before = 0;
        for number in (0..5_000).chain((13..42).map(|bits| (1 << bits) + 12_345)) {
            let code = short(number, BYTES_FRACTION, BYTES_UNKNOWN - 1);
            let back = long(code, BYTES_FRACTION);
            assert!(code >= before && back <= number && number - back <= number >> BYTES_FRACTION, "{number}: {back}");
            before = code;
        }
        assert_eq!(long(short(2_047, BYTES_FRACTION, BYTES_UNKNOWN - 1), BYTES_FRACTION), 2_047);
    }
}
