//! A host's state as it travels in a snapshot: fixed-size records of its pairs, then their contacts, names and addresses,
//! then what is known of names. Nothing that can be worked out travels.

use std::sync::Arc;

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::EventTime;

use super::key::{NAME_BYTES_MAX, PeerKey};
use super::pair::{CONTACT_RAW, CONTACTS_MAX, Contact, FARM, Pair};
use super::resolved::Resolved;
use super::state::{HostState, PAIRS_MAX, Role, Service};
use crate::raw::{Input, Raw, part};
use crate::table::Table;

/// Bytes of a pair: 16 of its address, or of its name's length; port, transport, flags, contacts kept, addresses kept;
/// total, next look, first, latest.
const PAIR_RAW: usize = 46;

const IS_NAME: u8 = 1;
const IS_INTERNAL: u8 = 2;
const IS_RESOLVED: u8 = 4;

impl Raw for HostState {
    fn write(&self, out: &mut Vec<u8>) {
        let records = self.pairs.records();
        let contacts: usize = records.iter().map(|p| p.contacts().len()).sum();
        out.reserve(64 + records.len() * PAIR_RAW + contacts * CONTACT_RAW + self.text_bytes);
        let resolved = self.resolved.as_ref().map_or(0, |resolved| resolved.names.len());
        for number in [records.len(), contacts, self.namings.len(), self.services.len(), resolved] {
            out.extend_from_slice(&(number as u32).to_le_bytes());
        }
        out.extend_from_slice(&self.evicted.to_le_bytes());
        for place in 0..records.len() {
            let view = self.view(place);
            let pair = view.pair;
            let (peer, port, transport, name) = match &pair.key {
                PeerKey::Address { address, port, transport } => (address.0, *port, *transport, 0),
                PeerKey::Name { name, port } => ([name.len() as u8; 16], *port, 0, IS_NAME),
                PeerKey::Resolved { name, port } => ([name.len() as u8; 16], *port, 0, IS_RESOLVED),
            };
            let flags = name | if pair.internal { IS_INTERNAL } else { 0 };
            let mut raw = [0; PAIR_RAW];
            raw[..16].copy_from_slice(&peer);
            raw[16..18].copy_from_slice(&port.to_le_bytes());
            raw[18..22].copy_from_slice(&[transport, flags, view.contacts.len() as u8, view.addresses.len() as u8]);
            raw[22..26].copy_from_slice(&pair.total.to_le_bytes());
            raw[26..30].copy_from_slice(&pair.next_look.to_le_bytes());
            raw[30..38].copy_from_slice(&pair.first.0.to_le_bytes());
            raw[38..].copy_from_slice(&pair.touched.0.to_le_bytes());
            out.extend_from_slice(&raw);
        }
        for pair in records {
            self.arena.of(pair.contacts()).iter().for_each(|c| out.extend_from_slice(&c.to_raw()));
        }
        for place in 0..records.len() {
            let view = self.view(place);
            if let PeerKey::Name { name, .. } | PeerKey::Resolved { name, .. } = &view.pair.key {
                out.extend_from_slice(name.as_bytes());
            }
            view.addresses.iter().for_each(|a| out.extend_from_slice(&a.0));
        }
        for ((address, port, start), key) in &self.namings {
            write_place(*address, *port, *start, out);
            write_key(key, out);
        }
        for ((address, port), service) in &self.services {
            write_place(*address, *port, service.touched, out);
            out.push(match service.role {
                Role::Server => 0,
                Role::Proxy => 1,
                Role::Relay => 2,
            });
            write_key(&service.key, out);
        }
        let Some(resolved) = &self.resolved else { return };
        out.extend_from_slice(&resolved.pruned.0.to_le_bytes());
        for (address, (name, told)) in &resolved.names {
            out.extend_from_slice(&address.0);
            out.extend_from_slice(&told.0.to_le_bytes());
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
    }

    fn read(input: &mut Input<'_>) -> Option<Self> {
        let mut number = || input.u32().map(|n| n as usize);
        let [pairs, contacts, namings, services, resolved] = [number()?, number()?, number()?, number()?, number()?];
        let evicted = input.u64()?;
        if pairs > PAIRS_MAX {
            return None;
        }
        let records = input.records::<PAIR_RAW>(pairs)?;
        let mut rest = input.records::<CONTACT_RAW>(contacts)?;
        let mut state = Self { evicted, ..Self::default() };
        let mut table = Vec::with_capacity(pairs + pairs / 16);
        state.arena.reserve(contacts + contacts / 8);
        for raw in records {
            let [transport, flags, kept, addresses] = part(raw, 18);
            let port = u16::from_le_bytes(part(raw, 16));
            let key = match flags & (IS_NAME | IS_RESOLVED) {
                0 => PeerKey::Address { address: Address(part(raw, 0)), port, transport },
                IS_NAME => PeerKey::Name { name: Arc::from(input.text(usize::from(raw[0]))?), port },
                IS_RESOLVED => PeerKey::Resolved { name: Arc::from(input.text(usize::from(raw[0]))?), port },
                _ => return None,
            };
            let (own, others) = rest.split_at_checked(usize::from(kept))?;
            rest = others;
            if own.len() > CONTACTS_MAX || usize::from(addresses) > FARM {
                return None;
            }
            let mut farm = 0;
            if addresses > 0 {
                let reached = input.records::<16>(usize::from(addresses))?;
                state.farms.push(reached.iter().map(|a| Address(*a)).collect());
                farm = state.farms.len() as u16;
            }
            let mut pair = Pair::new(key);
            pair.total = u32::from_le_bytes(part(raw, 22));
            pair.next_look = u32::from_le_bytes(part(raw, 26));
            pair.first = EventTime(i64::from_le_bytes(part(raw, 30)));
            pair.touched = EventTime(i64::from_le_bytes(part(raw, 38)));
            (pair.farm, pair.internal) = (farm, flags & IS_INTERNAL != 0);
            pair.set_contacts(state.arena.push(own.iter().map(Contact::from_raw)));
            table.push(pair);
        }
        if !rest.is_empty() {
            return None;
        }
        state.pairs = Table::of(table);
        for _ in 0..namings {
            let (address, port, start) = read_place(input)?;
            let key = state.shared(read_key(input)?);
            state.namings.insert((address, port, start), key);
        }
        for _ in 0..services {
            let (address, port, touched) = read_place(input)?;
            let role = match input.u8()? {
                0 => Role::Server,
                1 => Role::Proxy,
                2 => Role::Relay,
                _ => return None,
            };
            let key = state.shared(read_key(input)?);
            state.services.insert((address, port), Service { key, role, touched });
        }
        if resolved > 0 {
            let mut known = Resolved { pruned: EventTime(input.i64()?), ..Resolved::default() };
            for _ in 0..resolved {
                let (address, told) = (Address(input.array()?), EventTime(input.i64()?));
                let len = usize::from(input.u8()?);
                known.names.insert(address, (Arc::from(input.text(len)?), told));
            }
            state.resolved = Some(Box::new(known));
        }
        state.count_texts();
        Some(state)
    }
}

impl HostState {
    /// The same key with the text that a pair already has.
    fn shared(&self, key: PeerKey) -> PeerKey {
        self.find(&key).map_or(key, |place| self.pairs.records()[place].key.clone())
    }
}

fn write_place(address: Address, port: u16, at: EventTime, out: &mut Vec<u8>) {
    out.extend_from_slice(&address.0);
    out.extend_from_slice(&port.to_le_bytes());
    out.extend_from_slice(&at.0.to_le_bytes());
}

fn read_place(input: &mut Input<'_>) -> Option<(Address, u16, EventTime)> {
    Some((Address(input.array()?), input.u16()?, EventTime(input.i64()?)))
}

/// Only names are asked for.
fn write_key(key: &PeerKey, out: &mut Vec<u8>) {
    if let PeerKey::Name { name, port } = key {
        out.extend_from_slice(&port.to_le_bytes());
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
    }
}

fn read_key(input: &mut Input<'_>) -> Option<PeerKey> {
    let port = input.u16()?;
    let len = usize::from(input.u8()?);
    Some(PeerKey::Name { name: Arc::from(input.text(len)?), port })
}

const _: () = assert!(NAME_BYTES_MAX <= u8::MAX as usize && PAIRS_MAX < u16::MAX as usize);
