//! What is kept per host: its pairs, and which names its connections carried, so that a name and its address are one
//! peer and a proxy is none. Every map has a limit; at the limit the least recently touched quarter goes at once, so that
//! a scan costs the same per row however long it is.
//!
//! Pairs are records of one table, in the order in which they were met, and their contacts lie in one arena: a host is a
//! handful of pieces of memory however many peers it has.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::arena::Arena;
use super::key::{PeerKey, Place, TCP};
use super::pair::{Contact, FARM, Pair, PairView};
use super::resolved::Resolved;
use crate::ahead::Round;
use crate::limit::Limit;
use crate::operator::Footprint;
use crate::raw::serde_as_raw;
use crate::table::{Table, table_bytes};

/// Pairs per host. Beyond it the least recently touched of those with fewer than [`ESTABLISHED`] contacts go first, then
/// of the others.
pub(super) const PAIRS_MAX: usize = 4096;
pub(super) static PAIRS: Limit = Limit::new("PAIRS_MAX");

/// Contacts from which a pair outlives a scan.
const ESTABLISHED: u32 = 3;

/// Names seen on connections, per host, waiting for their flow; beyond it the oldest go.
pub(super) const NAMINGS_MAX: usize = 1024;
pub(super) static NAMINGS: Limit = Limit::new("NAMINGS_MAX");

/// Addresses per host whose name or rôle as proxy is known; beyond it the least recently touched go.
pub(super) const SERVICES_MAX: usize = 1024;
pub(super) static SERVICES: Limit = Limit::new("SERVICES_MAX");

/// A name may come this long before its flow's start (clocks of two log lines) ...
const NAME_BEFORE_NS: i64 = SECOND_NS;
/// ... and this long after it (a slow handshake, a second request).
const NAME_AFTER_NS: i64 = 10 * SECOND_NS;

/// A pair not contacted for so long is forgotten: twice the longest period found (24 h) and a weekend.
pub(super) const LIFETIME_NS: i64 = 4 * 86_400 * SECOND_NS;

/// Share of a map that stays when its limit is passed.
pub(super) const fn kept(limit: usize) -> usize {
    limit / 4 * 3
}

/// What an address and port is to the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Names are reached there.
    Server,
    /// A proxy inside: others lie behind it, and it is no peer itself.
    Proxy,
    /// Asked like a proxy, but outside: one request is enough to make one's own server look like that, so it stays a peer.
    Relay,
}

/// What is known of an address and port.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Service {
    /// Latest name asked for there.
    pub key: PeerKey,
    pub role: Role,
    pub touched: EventTime,
}

/// State per host.
#[derive(Clone, Debug, Default)]
pub struct HostState {
    pub(super) pairs: Table<Pair>,
    pub(super) arena: Arena,
    /// Addresses at which names were reached, in the order of their pairs; a pair knows its place.
    pub(super) farms: Vec<Vec<Address>>,
    pub(super) namings: BTreeMap<(Address, u16, EventTime), PeerKey>,
    pub(super) services: BTreeMap<(Address, u16), Service>,
    /// Names that were looked up, where any were.
    pub(super) resolved: Option<Box<Resolved>>,
    /// Bytes of the pairs' names and addresses, kept up to date.
    pub(super) text_bytes: usize,
    /// Pairs that had to go because of the limit.
    pub(super) evicted: u64,
}

serde_as_raw!(HostState);

/// Pairs that got a contact of their own in a slice, by place, each with the row's time.
pub(super) type Noted = SmallVec<[(u32, EventTime); 4]>;

/// Where a name was asked for.
pub(super) struct Asked {
    /// Server, or the proxy.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// What that is.
    pub role: Role,
}

impl HostState {
    /// Place of a pair.
    pub(super) fn find(&self, key: &PeerKey) -> Option<usize> {
        self.pairs.find(key.hash(), |pair| pair.key == *key)
    }

    /// Asks for where a pair lies, and its contacts.
    pub(super) fn ahead(&self, key: &PeerKey, round: Round) {
        let hash = key.hash();
        self.pairs.ahead(hash, round);
        if round == Round::Rest
            && let Some(pair) = self.pairs.likely(hash)
        {
            self.arena.ahead(pair.contacts());
        }
    }

    /// A pair with its contacts.
    pub(super) fn view(&self, place: usize) -> PairView<'_> {
        let pair = &self.pairs.records()[place];
        let farm = usize::from(pair.farm).checked_sub(1).and_then(|at| self.farms.get(at));
        PairView { pair, contacts: self.arena.of(pair.contacts()), addresses: farm.map_or(&[], Vec::as_slice) }
    }

    /// A contact with a peer. Notes the pair, unless the contact belongs to an earlier one.
    pub(super) fn contact(
        &mut self,
        key: &PeerKey,
        contact: Contact,
        at: EventTime,
        internal: bool,
        address: Option<Address>,
        noted: &mut Noted,
    ) {
        let place = match self.find(key) {
            Some(place) => place,
            None => {
                self.text_bytes = self.text_bytes.saturating_add(key.heap_bytes());
                self.pairs.push(Pair::new(key.clone()))
            }
        };
        if self.arena.is_ragged() {
            self.arena.compact(self.pairs.records_mut());
        }
        let pair = &mut self.pairs.records_mut()[place];
        let new = pair.add(&mut self.arena, contact);
        pair.touched = pair.touched.max(at);
        pair.internal = internal;
        if let Some(address) = address {
            self.reached_at(place, address);
        }
        if new {
            noted.push((place as u32, at));
        }
        if self.pairs.len() > PAIRS_MAX {
            PAIRS.bites();
            self.evict(noted);
        }
    }

    /// A name was reached at an address.
    fn reached_at(&mut self, place: usize, address: Address) {
        let pair = &mut self.pairs.records_mut()[place];
        if pair.farm == 0 {
            self.farms.push(Vec::new());
            // As many as pairs at most, which a u16 holds.
            pair.farm = self.farms.len() as u16;
        }
        let Some(farm) = self.farms.get_mut(usize::from(pair.farm) - 1) else { return };
        if farm.len() < FARM && !farm.contains(&address) {
            farm.reserve_exact(1);
            farm.push(address);
            self.text_bytes = self.text_bytes.saturating_add(size_of::<Address>());
        }
    }

    /// A name asked for at an address.
    pub(super) fn name(&mut self, key: &PeerKey, asked: &Asked, start: EventTime, at: EventTime) {
        // A relay's flow is its own as well.
        if asked.role != Role::Relay {
            self.namings.entry((asked.address, asked.port, start)).or_insert_with(|| key.clone());
        }
        if self.namings.len() > NAMINGS_MAX {
            NAMINGS.bites();
            let mut starts: Vec<EventTime> = self.namings.keys().map(|k| k.2).collect();
            let gone = starts.len() - kept(NAMINGS_MAX);
            let (_, &mut first_kept, _) = starts.select_nth_unstable(gone);
            self.namings.retain(|k, _| k.2 >= first_kept);
        }
        let service = self.services.entry((asked.address, asked.port)).or_insert_with(|| Service {
            key: key.clone(),
            role: asked.role,
            touched: at,
        });
        if service.key != *key {
            service.key = key.clone();
        }
        if service.role != Role::Proxy {
            service.role = asked.role;
        }
        service.touched = service.touched.max(at);
        if self.services.len() > SERVICES_MAX {
            SERVICES.bites();
            let mut order: Vec<(bool, EventTime, (Address, u16))> =
                self.services.iter().map(|(k, s)| (s.role == Role::Proxy, s.touched, *k)).collect();
            let gone = order.len() - kept(SERVICES_MAX);
            order.select_nth_unstable(gone);
            for (_, _, k) in &order[..gone] {
                self.services.remove(k);
            }
        }
    }

    /// The name that a flow carried, and when it was asked for: the nearest to the flow's start.
    pub(super) fn named(&self, address: Address, port: u16, start: EventTime) -> Option<(PeerKey, EventTime)> {
        if self.namings.is_empty() {
            return None;
        }
        let range = (address, port, start.minus(NAME_BEFORE_NS))..=(address, port, start.plus(NAME_AFTER_NS));
        let nearest = self.namings.range(range).min_by_key(|(k, _)| k.2.since(start).unsigned_abs())?;
        Some((nearest.1.clone(), nearest.0.2))
    }

    /// Completes a name's contact with what its flow tells.
    pub(super) fn complete(&mut self, key: &PeerKey, named: EventTime, flow: Contact) {
        if let Some(place) = self.find(key) {
            self.pairs.records()[place].complete(&mut self.arena, named, flow);
        }
    }

    /// The address is a proxy.
    pub(super) fn is_proxy(&self, address: Address, port: u16) -> bool {
        self.services.get(&(address, port)).is_some_and(|s| s.role == Role::Proxy)
    }

    /// The same of one whose place a flow tells: a range that the operator lists as inside is known there alone.
    pub(super) fn is_proxy_at(&mut self, address: Address, port: u16, place: Place) -> bool {
        let Some(service) = self.services.get_mut(&(address, port)) else { return false };
        if service.role == Role::Relay && place == Place::Inside {
            service.role = Role::Proxy;
        }
        service.role == Role::Proxy
    }

    /// A name was the latest to be asked for through a proxy outside: a handshake there belongs to that.
    pub(super) fn is_relayed(&self, address: Address, port: u16, key: &PeerKey) -> bool {
        let asked = self.services.get(&(address, port)).filter(|s| s.role == Role::Relay);
        matches!((asked.map(|s| &s.key), key), (Some(PeerKey::Name { name: a, .. }), PeerKey::Name { name: b, .. }) if a == b)
    }

    /// The latest name that was reached at an address.
    pub(super) fn usual_name(&self, address: Address, port: u16) -> Option<&PeerKey> {
        self.services.get(&(address, port)).filter(|s| s.role == Role::Server).map(|s| &s.key)
    }

    /// An address that a name explains at least as well, or a proxy, is not a peer of its own.
    pub(super) fn explained(&self, key: &PeerKey) -> bool {
        let &PeerKey::Address { address, port, transport: TCP } = key else { return false };
        if self.is_proxy(address, port) {
            return true;
        }
        let total = |k: &PeerKey| self.find(k).map_or(0, |place| self.pairs.records()[place].total);
        self.usual_name(address, port).is_some_and(|name| total(name) >= total(key))
    }

    /// Forgets what has outlived its lifetime; true when nothing is left.
    pub(super) fn expire(&mut self, now: EventTime) -> bool {
        let old = now.minus(LIFETIME_NS);
        self.namings.retain(|k, _| k.2 >= old);
        self.services.retain(|_, s| s.touched >= old);
        Resolved::expire(&mut self.resolved, now);
        if self.pairs.retain(|p| p.touched >= old) {
            self.close_gaps();
        }
        self.is_bare()
    }

    /// Nothing is known of a peer.
    pub(super) fn is_bare(&self) -> bool {
        self.pairs.is_empty() && self.services.is_empty()
    }

    /// When something may expire next.
    pub(super) fn next_expiry(&self) -> Option<EventTime> {
        let pairs = self.pairs.records().iter().map(|p| p.touched);
        pairs.chain(self.services.values().map(|s| s.touched)).min().map(|t| t.plus(LIFETIME_NS))
    }

    fn evict(&mut self, noted: &mut Noted) {
        let records = self.pairs.records();
        let mut order: Vec<(bool, EventTime, &PeerKey, u32)> =
            records.iter().enumerate().map(|(at, p)| (p.total >= ESTABLISHED, p.touched, &p.key, at as u32)).collect();
        let gone = order.len() - kept(PAIRS_MAX);
        order.select_nth_unstable(gone);
        // Old place to new one.
        let mut places = vec![Some(0_u32); records.len()];
        order[..gone].iter().for_each(|(.., at)| places[*at as usize] = None);
        places.iter_mut().flatten().enumerate().for_each(|(new, place)| *place = new as u32);
        let mut stays = places.iter().map(Option::is_some);
        self.pairs.retain(|_| stays.next().unwrap_or(true));
        noted.retain(|(place, _)| match places.get(*place as usize).copied().flatten() {
            Some(new) => {
                *place = new;
                true
            }
            None => false,
        });
        self.evicted += gone as u64;
        self.close_gaps();
    }

    /// Pairs have gone: closes the gaps that they leave in what lies beside them.
    fn close_gaps(&mut self) {
        self.arena.compact(self.pairs.records_mut());
        let mut farms = std::mem::take(&mut self.farms);
        for pair in self.pairs.records_mut() {
            if let Some(farm) = usize::from(pair.farm).checked_sub(1).and_then(|at| farms.get_mut(at)) {
                self.farms.push(std::mem::take(farm));
                pair.farm = self.farms.len() as u16;
            }
        }
        self.count_texts();
    }

    /// Counts the names and addresses anew.
    pub(super) fn count_texts(&mut self) {
        let names: usize = self.pairs.records().iter().map(|pair| pair.key.heap_bytes()).sum();
        self.text_bytes = names + self.farms.iter().map(|farm| farm.len() * size_of::<Address>()).sum::<usize>();
    }
}

impl PartialEq for HostState {
    fn eq(&self, other: &Self) -> bool {
        crate::raw::to_bytes(self) == crate::raw::to_bytes(other)
    }
}

/// Bytes of a map's entry beyond key and value, as of a B-tree filled to two thirds: half of their size.
pub(super) fn entries(len: usize, entry_bytes: usize) -> usize {
    len * (entry_bytes + entry_bytes / 2)
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        // A naming or service counts 32 bytes for a name that no pair has any more: exact counting would walk the map.
        table_bytes::<Pair>(self.pairs.len())
            + self.arena.bytes()
            + self.farms.len() * size_of::<Vec<Address>>()
            + entries(self.namings.len(), size_of::<((Address, u16, EventTime), PeerKey)>() + 32)
            + entries(self.services.len(), size_of::<((Address, u16), Service)>() + 32)
            + self.resolved.as_ref().map_or(0, |resolved| resolved.heap_bytes())
            + self.text_bytes
    }
}
