//! The door of detect: what every detector would otherwise have to do for itself, done once. Per host it
//!
//! - recognises rows that are the same event told twice (identical rows lie side by side in the slice order; rows
//!   with true equals, sampled packets, are told apart),
//! - infers who opened a connection where the source does not say,
//! - merges the re-exports of one long connection, and its two directions, and its sightings through several exporters,
//!   so that one connection opens once and its octets count once,
//! - tells correlate of each new (host, destination) pair, and of what our own probes measure, once a day, at most
//!   [`CONTACTS_PER_SLICE_MAX`] a slice.
//!
//! It decides nothing about threats.

mod connection;
mod known;
mod probe;

use tidewatch_schemas::finding::Contacts;
use tidewatch_schemas::observation::{FlowRow, Row};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::ahead::Round;
use crate::detection::{HostRows, ROWS_AHEAD, SliceRow};
use crate::ends::raw_ends;
use crate::key::{Host, HostKey};
use crate::operator::{Flow, Footprint, Initiator, Observation, Peer, Seen, Slice};
use crate::raw::{Input, Raw, serde_as_raw};
use crate::states::{KeyedStates, Place, RestoreError, StateLimits, StateStats};
use connection::Connections;
use known::Known;
pub(crate) use probe::PROBED;

/// New pairs reported per host and slice; beyond it a host is scanning and only the count is kept.
pub const CONTACTS_PER_SLICE_MAX: usize = 64;

/// Pairs remembered per host and day; beyond it none is reported until the day ends.
pub const CONTACTS_PER_DAY_MAX: usize = 4096;

const DAY_NS: i64 = 86_400 * SECOND_NS;

/// What the door counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorStats {
    /// Rows that told an event a second time.
    pub duplicates: u64,
    /// Records that continued a connection already open.
    pub merged: u64,
    /// New pairs not reported because a limit was reached.
    pub contacts_withheld: u64,
    /// Connections dropped at the per-host limit.
    pub connections_evicted: u64,
}

#[derive(Debug, Default)]
struct DoorState {
    connections: Connections,
    day: i64,
    known: Known,
    seen_today: bool,
}

serde_as_raw!(DoorState);

impl Raw for DoorState {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.day.to_le_bytes());
        out.push(u8::from(self.seen_today));
        self.known.write(out);
        self.connections.write(out);
    }

    fn read(input: &mut Input<'_>) -> Option<Self> {
        let (day, seen_today) = (input.i64()?, input.u8()? != 0);
        Some(Self { day, seen_today, known: Known::read(input)?, connections: Connections::read(input)? })
    }
}

impl Footprint for DoorState {
    fn heap_bytes(&self) -> usize {
        self.connections.heap_bytes() + self.known.heap_bytes()
    }
}

/// The door with its memory of every host.
#[derive(Debug)]
pub struct Door {
    states: KeyedStates<DoorState>,
    stats: DoorStats,
}

impl Default for Door {
    fn default() -> Self {
        Self {
            states: KeyedStates::new(StateLimits { lifetime_ns: 2 * DAY_NS, ..StateLimits::default() }),
            stats: DoorStats::default(),
        }
    }
}

impl Door {
    /// Lets the rows of one host, known with its routing key, through a slice, in order. `seen` receives what detectors get; contacts go to `contacts`.
    /// Returns how many rows were recognised as duplicates, counting primary rows only.
    pub fn rows<'a>(
        &mut self,
        (key, route): (&HostKey, u64),
        place: &mut Place,
        slice: Slice,
        rows: &'a [SliceRow<'a>],
        seen: &mut Vec<Seen<'a>>,
        contacts: &mut Contacts,
    ) -> u64 {
        let Self { states, stats } = self;
        let told_again = states.touch_where(
            key,
            route,
            place,
            slice.start,
            || true,
            |state, _, _| {
                let mut duplicates = 0;
                let day = slice.start.0.div_euclid(DAY_NS);
                if state.day != day {
                    state.day = day;
                    state.known = Known::default();
                    state.seen_today = false;
                }
                if !state.seen_today {
                    state.seen_today = true;
                    contacts.push(&key.tenant, &key.host, "", slice.start);
                }
                let mut budget = CONTACTS_PER_SLICE_MAX;
                for (i, row) in rows.iter().enumerate() {
                    // The time is part of the content; it alone tells most neighbours apart.
                    let again = |last: &SliceRow<'_>| last.at == row.at && last.row.compare_content(&row.row).is_eq();
                    if i > 0 && !row.row.has_true_equals() && again(&rows[i - 1]) {
                        stats.duplicates += 1;
                        duplicates += u64::from(row.primary);
                        continue;
                    }
                    let what = match &row.row {
                        Row::Flow(flow) => {
                            let flow = through(key, flow, &mut state.connections, stats);
                            if flow.opens && flow.initiator == Initiator::Host {
                                meet_peer(key, state, &flow.peer, row.at, &mut budget, contacts, stats);
                            }
                            Observation::Flow(flow)
                        }
                        Row::Tls(tls) => {
                            if let Some(name) = tls.server_name {
                                meet(key, state, name, row.at, &mut budget, contacts, stats);
                            }
                            Observation::Tls(tls)
                        }
                        Row::Http(http) => {
                            if let Some(name) = http.host {
                                meet(key, state, name, row.at, &mut budget, contacts, stats);
                            }
                            Observation::Http(http)
                        }
                        Row::Dns(dns) => {
                            // How many hosts put long names under a domain tells a service from a tunnel.
                            if let Some(domain) = crate::names::domain_with_long_front(dns.query)
                                && admit(state, xxhash_rust::xxh3::xxh3_64_with_seed(domain.as_bytes(), 1), &mut budget, stats)
                            {
                                contacts.push(&key.tenant, &key.host, dns_contact(domain), row.at);
                            }
                            Observation::Dns(dns)
                        }
                        Row::Edge(edge) => Observation::Edge(edge),
                        Row::Result(result) => {
                            for target in probe::targets(result) {
                                if admit(state, target.hash(), &mut budget, stats) {
                                    contacts.push(&key.tenant, &key.host, target.contact(), row.at);
                                }
                            }
                            Observation::Result(result)
                        }
                    };
                    seen.push(Seen { what, at: row.at, position: row.position });
                }
                state.connections.prune(slice.start, &mut stats.connections_evicted);
                duplicates
            },
        );
        told_again.unwrap_or(0)
    }

    /// Asks for the state of a host whose rows come next; see [`crate::ahead`].
    pub fn ask(&self, place: Place) {
        self.states.ask(place);
    }

    /// Asks for what that state leads to.
    pub fn ahead(&self, place: Place, host: &HostRows<'_>, round: Round) {
        if round == Round::Rest {
            return;
        }
        let ask = |state: &DoorState, row: &SliceRow<'_>| {
            let Row::Flow(flow) = &row.row else { return };
            let Some((peer, host_port, peer_port)) = raw_ends(&host.key.host, flow) else { return };
            let peer = xxhash_rust::xxh3::xxh3_64(&peer.0);
            state.connections.ahead(peer, host_port, peer_port, flow.transport, round);
            if round == Round::Index {
                state.known.ahead(peer);
            }
        };
        self.states.look(place, |state| host.rows.iter().take(ROWS_AHEAD).for_each(|row| ask(state, row)));
    }

    /// Another limit on its states, bytes.
    pub fn limit_bytes(&mut self, bytes_max: usize) {
        self.states.limit_bytes(bytes_max);
    }

    /// Keeps byte limits.
    pub fn enforce(&mut self) {
        self.states.enforce();
    }

    /// Frees what has outlived its lifetime.
    pub fn sweep(&mut self, in_scope: &dyn Fn(&str) -> bool, now: EventTime) {
        self.states.sweep(in_scope, now);
    }

    /// Key groups to write.
    pub fn groups(&self, changed_only: bool) -> Vec<u16> {
        if changed_only { self.states.dirty().collect() } else { self.states.occupied().collect() }
    }

    /// Forgets which groups changed.
    pub fn clean(&mut self) {
        self.states.clean();
    }

    /// A group's states.
    pub fn pack(&self, group: u16) -> Vec<u8> {
        self.states.pack(group)
    }

    /// Takes a group's states up.
    pub fn unpack(&mut self, group: u16, bytes: &[u8]) -> Result<(), RestoreError> {
        self.states.unpack("door", group, bytes)
    }

    /// Figures.
    pub fn stats(&self) -> (DoorStats, StateStats) {
        (self.stats, self.states.stats())
    }
}

/// How a domain that is only asked for is named among the destinations of a tenant.
pub(crate) fn dns_contact(domain: &str) -> String {
    format!("dns:{domain}")
}

fn meet_peer(
    key: &HostKey,
    state: &mut DoorState,
    peer: &Peer<'_>,
    at: EventTime,
    budget: &mut usize,
    contacts: &mut Contacts,
    stats: &mut DoorStats,
) {
    // The common case is a pair already known today: decided on the hash of the bytes, before any text is built.
    let hash = match (peer.address, peer.name) {
        (Some(address), _) => xxhash_rust::xxh3::xxh3_64(&address.0),
        (None, Some(name)) => xxhash_rust::xxh3::xxh3_64(name.as_bytes()),
        (None, None) => return,
    };
    if peer.name.is_some_and(|name| name.starts_with(PROBED)) {
        return;
    }
    if admit(state, hash, budget, stats) {
        match peer.address {
            Some(address) => contacts.push_display(&key.tenant, &key.host, &address, at),
            None => contacts.push(&key.tenant, &key.host, peer.name.unwrap_or(""), at),
        }
    }
}

fn meet(
    key: &HostKey,
    state: &mut DoorState,
    name: &str,
    at: EventTime,
    budget: &mut usize,
    contacts: &mut Contacts,
    stats: &mut DoorStats,
) {
    // No host may say what our probes say.
    if !name.starts_with(PROBED) && admit(state, xxhash_rust::xxh3::xxh3_64(name.as_bytes()), budget, stats) {
        contacts.push(&key.tenant, &key.host, name, at);
    }
}

fn admit(state: &mut DoorState, hash: u64, budget: &mut usize, stats: &mut DoorStats) -> bool {
    if state.known.contains(hash) {
        return false;
    }
    if *budget == 0 || state.known.len() >= CONTACTS_PER_DAY_MAX {
        stats.contacts_withheld += 1;
        return false;
    }
    *budget -= 1;
    state.known.insert(hash);
    true
}

fn through<'a>(key: &HostKey, row: &'a FlowRow<'a>, connections: &mut Connections, stats: &mut DoorStats) -> Flow<'a> {
    let host_is_source = match &key.host {
        Host::Address(address) => row.source_address == Some(*address),
        Host::Name(name) => row.source_name == Some(name) && row.source_address.is_none(),
    };
    let (host_port, peer_port) =
        if host_is_source { (row.source_port, row.destination_port) } else { (row.destination_port, row.source_port) };
    let peer = if host_is_source {
        Peer { address: row.destination_address, name: row.destination_name, class: row.destination_class }
    } else {
        Peer { address: row.source_address, name: row.source_name, class: row.source_class }
    };
    let sighting = connections.see(row, host_is_source, &peer, host_port, peer_port);
    if !sighting.opens {
        stats.merged += 1;
    }
    let (forward, reverse) = if sighting.counts { (row.bytes_forward, row.bytes_reverse) } else { (None, None) };
    let (bytes_out, bytes_in) = if host_is_source { (forward, reverse) } else { (reverse, forward) };
    Flow {
        row,
        opens: sighting.opens,
        initiator: sighting.initiator,
        peer,
        host_port,
        peer_port,
        start: row.start_time.unwrap_or(row.event_time),
        bytes_out,
        bytes_in,
        failed: failed(row),
    }
}

/// Refused or never answered, as far as one record tells. Zeek's states for "no data could flow"; for flow exports a TCP
/// record without any ACK.
fn failed(row: &FlowRow<'_>) -> bool {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    match (row.connection_state, row.tcp_flags) {
        (Some(state), _) => matches!(state, "S0" | "REJ" | "RSTOS0" | "RSTRH" | "SH" | "SHR"),
        (None, Some(flags)) => row.transport == 6 && flags & SYN != 0 && flags & ACK == 0,
        (None, None) => false,
    }
}

#[cfg(test)]
mod tests {
    use tidewatch_schemas::address::Address;

    use super::*;
    use crate::detection::{Detection, SliceOutput};
    use crate::operator::Position;

    /// How many of two equal rows are taken as seen before.
    fn duplicates(sampled_packet: bool) -> u64 {
        let at = EventTime::from_secs(1_780_574_400);
        let host = Address::v4([10, 0, 0, 5]);
        let row = FlowRow {
            tenant: "acme",
            event_time: at,
            source_address: Some(host),
            source_class: 1,
            destination_address: Some(Address::v4([203, 0, 113, 66])),
            destination_port: Some(443),
            transport: 6,
            sampling_rate: 100,
            sampled_packet,
            ..FlowRow::default()
        };
        let row = SliceRow {
            at,
            row: Row::Flow(row),
            position: Position { input: 0, offset: 0, row: 0 },
            primary: true,
            passes: u64::MAX,
        };
        let key = HostKey { tenant: "acme".into(), host: Host::Address(host) };
        let slice = Slice { start: at, end: at.plus(10 * SECOND_NS) };
        let mut out = SliceOutput::default();
        Detection::new(&[]).host(&key, key.route(), slice, &[row, row], &mut out);
        out.duplicates
    }

    #[test]
    fn equal_rows_are_one_event_but_sampled_packets_are_two() {
        assert_eq!(duplicates(false), 1);
        assert_eq!(duplicates(true), 0);
    }
}
