//! What is kept per host: its pairs, and which names its connections carried, so that a name and its address are one
//! peer and a proxy is none. Every map has a limit; at the limit the least recently touched quarter goes at once, so that
//! a scan costs the same per row however long it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::key::{PeerKey, TCP};
use super::pair::{Contact, Pair};
use crate::operator::Footprint;

/// Pairs per host. Beyond it the least recently touched of those with fewer than [`ESTABLISHED`] contacts go first, then
/// of the others.
pub(super) const PAIRS_MAX: usize = 4096;

/// Contacts from which a pair outlives a scan.
const ESTABLISHED: u32 = 3;

/// Names seen on connections, per host, waiting for their flow; beyond it the oldest go.
pub(super) const NAMINGS_MAX: usize = 1024;

/// Addresses per host whose name or rôle as proxy is known; beyond it the least recently touched go.
pub(super) const SERVICES_MAX: usize = 1024;

/// A name may come this long before its flow's start (clocks of two log lines) ...
const NAME_BEFORE_NS: i64 = SECOND_NS;
/// ... and this long after it (a slow handshake, a second request).
const NAME_AFTER_NS: i64 = 10 * SECOND_NS;

/// A pair not contacted for so long is forgotten: twice the longest period found (24 h) and a weekend.
pub(super) const LIFETIME_NS: i64 = 4 * 86_400 * SECOND_NS;

/// Share of a map that stays when its limit is passed.
const fn kept(limit: usize) -> usize {
    limit / 4 * 3
}

/// A name seen on a connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Naming {
    key: PeerKey,
}

/// What is known of an address and port.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Service {
    /// Latest name asked for there.
    key: PeerKey,
    /// Others lie behind it.
    proxy: bool,
    touched: EventTime,
}

/// State per host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostState {
    pub(super) pairs: BTreeMap<PeerKey, Pair>,
    namings: BTreeMap<(Address, u16, EventTime), Naming>,
    services: BTreeMap<(Address, u16), Service>,
    /// Heap bytes of the pairs' contacts and names, kept up to date.
    pair_heap_bytes: usize,
    /// Pairs that had to go because of the limit.
    pub(super) evicted: u64,
}

/// Where a name was asked for.
pub(super) struct Asked {
    /// Server, or the proxy.
    pub address: Address,
    /// Its port.
    pub port: u16,
    /// The address is a proxy.
    pub proxy: bool,
    /// The address is inside.
    pub internal: bool,
}

impl HostState {
    /// A contact with a peer. Returns the pair's contacts so far, or `None` when it belongs to an earlier one.
    pub(super) fn contact(
        &mut self,
        key: &PeerKey,
        contact: Contact,
        at: EventTime,
        internal: bool,
        address: Option<Address>,
    ) -> Option<u32> {
        let pair = match self.pairs.get_mut(key) {
            Some(known) => known,
            None => {
                self.pair_heap_bytes = self.pair_heap_bytes.saturating_add(key.heap_bytes());
                self.pairs.entry(key.clone()).or_default()
            }
        };
        let before = pair.heap_bytes();
        let new = pair.add(contact);
        pair.touched = pair.touched.max(at);
        pair.internal = internal;
        if let Some(address) = address {
            pair.reached_at(address);
        }
        let total = pair.total;
        self.pair_heap_bytes = self.pair_heap_bytes.saturating_add(pair.heap_bytes()).saturating_sub(before);
        if self.pairs.len() > PAIRS_MAX {
            self.evict();
        }
        new.then_some(total)
    }

    /// A name asked for at an address.
    pub(super) fn name(&mut self, key: &PeerKey, asked: &Asked, start: EventTime, at: EventTime) {
        self.namings.entry((asked.address, asked.port, start)).or_insert_with(|| Naming { key: key.clone() });
        if self.namings.len() > NAMINGS_MAX {
            let mut starts: Vec<EventTime> = self.namings.keys().map(|k| k.2).collect();
            let gone = starts.len() - kept(NAMINGS_MAX);
            let (_, &mut first_kept, _) = starts.select_nth_unstable(gone);
            self.namings.retain(|k, _| k.2 >= first_kept);
        }
        let service = self.services.entry((asked.address, asked.port)).or_insert_with(|| Service {
            key: key.clone(),
            proxy: false,
            touched: at,
        });
        if service.key != *key {
            service.key = key.clone();
        }
        service.proxy |= asked.proxy;
        service.touched = service.touched.max(at);
        if self.services.len() > SERVICES_MAX {
            let mut order: Vec<(bool, EventTime, (Address, u16))> =
                self.services.iter().map(|(k, s)| (s.proxy, s.touched, *k)).collect();
            let gone = order.len() - kept(SERVICES_MAX);
            order.select_nth_unstable(gone);
            for (_, _, k) in &order[..gone] {
                self.services.remove(k);
            }
        }
    }

    /// The name that a flow carried, and when it was asked for: the nearest to the flow's start.
    pub(super) fn named(&self, address: Address, port: u16, start: EventTime) -> Option<(PeerKey, EventTime)> {
        let range = (address, port, start.minus(NAME_BEFORE_NS))..=(address, port, start.plus(NAME_AFTER_NS));
        let nearest = self.namings.range(range).min_by_key(|(k, _)| k.2.since(start).unsigned_abs())?;
        Some((nearest.1.key.clone(), nearest.0.2))
    }

    /// Completes a name's contact with what its flow tells.
    pub(super) fn complete(&mut self, key: &PeerKey, named: EventTime, flow: Contact) {
        if let Some(pair) = self.pairs.get_mut(key) {
            pair.complete(named, flow);
        }
    }

    /// The address is a proxy.
    pub(super) fn is_proxy(&self, address: Address, port: u16) -> bool {
        self.services.get(&(address, port)).is_some_and(|s| s.proxy)
    }

    /// The latest name asked for at an address that is no proxy.
    pub(super) fn usual_name(&self, address: Address, port: u16) -> Option<&PeerKey> {
        self.services.get(&(address, port)).filter(|s| !s.proxy).map(|s| &s.key)
    }

    /// An address that a name explains at least as well, or a proxy, is not a peer of its own.
    pub(super) fn explained(&self, key: &PeerKey) -> bool {
        let &PeerKey::Address { address, port, transport: TCP } = key else { return false };
        if self.is_proxy(address, port) {
            return true;
        }
        let total = |k: &PeerKey| self.pairs.get(k).map_or(0, |p| p.total);
        self.usual_name(address, port).is_some_and(|name| total(name) >= total(key))
    }

    /// Forgets what has outlived its lifetime; true when nothing is left.
    pub(super) fn expire(&mut self, now: EventTime) -> bool {
        let old = now.minus(LIFETIME_NS);
        self.namings.retain(|k, _| k.2 >= old);
        self.services.retain(|_, s| s.touched >= old);
        self.pairs.retain(|_, p| p.touched >= old);
        self.count_pairs();
        self.pairs.is_empty() && self.services.is_empty()
    }

    /// When something may expire next.
    pub(super) fn next_expiry(&self) -> Option<EventTime> {
        let pairs = self.pairs.values().map(|p| p.touched);
        pairs.chain(self.services.values().map(|s| s.touched)).min().map(|t| t.plus(LIFETIME_NS))
    }

    fn evict(&mut self) {
        let mut order: Vec<(bool, EventTime, &PeerKey)> =
            self.pairs.iter().map(|(k, p)| (p.total >= ESTABLISHED, p.touched, k)).collect();
        let gone = order.len() - kept(PAIRS_MAX);
        order.select_nth_unstable(gone);
        let gone: Vec<PeerKey> = order[..gone].iter().map(|(_, _, k)| (*k).clone()).collect();
        for key in &gone {
            self.pairs.remove(key);
        }
        self.evicted += gone.len() as u64;
        self.count_pairs();
    }

    fn count_pairs(&mut self) {
        self.pair_heap_bytes = self.pairs.iter().map(|(k, p)| k.heap_bytes() + p.heap_bytes()).sum();
    }
}

/// Bytes of a map's entry beyond key and value, as of a B-tree filled to two thirds: half of their size.
fn entries(len: usize, entry_bytes: usize) -> usize {
    len * (entry_bytes + entry_bytes / 2)
}

impl Footprint for HostState {
    fn heap_bytes(&self) -> usize {
        // A name in a naming or service is counted as 32 bytes: exact counting would walk the map.
        // What a snapshot says of the pairs may be any number.
        let tables = entries(self.pairs.len(), size_of::<(PeerKey, Pair)>())
            + entries(self.namings.len(), size_of::<((Address, u16, EventTime), Naming)>() + 32)
            + entries(self.services.len(), size_of::<((Address, u16), Service)>() + 32);
        tables.saturating_add(self.pair_heap_bytes)
    }
}
