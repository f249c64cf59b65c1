//! One host's open connections: which record opens one, which continues it, who opened it, whose octets count.
//!
//! Needed because no flow export names the initiator, each direction is a record of its own, an active time-out
//! re-exports a long connection every minute or so, and two exporters may tell of the same packets.

use tidewatch_schemas::observation::FlowRow;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::ahead::Round;
use crate::operator::{Initiator, Peer};
use crate::raw::{Input, part};
use crate::table::{RECORDS_MAX, Record, Table, mixed, table_bytes};

/// Connections kept per host; at the limit the half that ended first goes, counted.
pub const CONNECTIONS_PER_HOST_MAX: usize = 4096;

/// A connection silent for so long is forgotten.
const IDLE_NS: i64 = 600 * SECOND_NS;

/// Clocks of two exporters, and start and end of neighbouring re-exports, may differ by so much.
const CLOCK_SLACK_NS: i64 = 2 * SECOND_NS;

/// TCP: a record without SYN belongs to an open connection; common active time-outs are 60 s and 120 s.
const TCP_GAP_NS: i64 = 130 * SECOND_NS;

/// TCP whose flags are not known: one active time-out of 60 s and some.
const FLAGLESS_GAP_NS: i64 = 70 * SECOND_NS;

/// UDP has no SYN: neighbouring records continue each other only when they touch (re-export), else they are new
/// exchanges over a fixed port.
const UDP_GAP_NS: i64 = 5 * SECOND_NS;

const SYN: u8 = 2;
const ACK: u8 = 16;

/// Ends of a connection as one of them sees it. Two words: read as they were written, neither waits for the caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Tuple {
    peer: u64,
    /// Port of the host, port of the peer, transport, from the highest bits on.
    rest: u64,
}

impl Tuple {
    fn new(peer: u64, host_port: u16, peer_port: u16, transport: u8) -> Self {
        Self { peer, rest: u64::from(host_port) << 32 | u64::from(peer_port) << 8 | u64::from(transport) }
    }

    fn hash(&self) -> u64 {
        mixed(self.peer, self.rest)
    }
}

/// A connection: flat, 40 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Connection {
    peer: u64,
    start: EventTime,
    last: EventTime,
    observer: u32,
    host_port: u16,
    peer_port: u16,
    transport: u8,
    host_opened: bool,
    counted: bool,
}

const _: () = assert!(size_of::<Connection>() == 40);

/// Bytes of a connection in a snapshot.
const CONNECTION_RAW: usize = 34;

impl Connection {
    fn tuple(&self) -> Tuple {
        Tuple::new(self.peer, self.host_port, self.peer_port, self.transport)
    }

    fn to_raw(self) -> [u8; CONNECTION_RAW] {
        let mut raw = [0; CONNECTION_RAW];
        raw[..8].copy_from_slice(&self.peer.to_le_bytes());
        raw[8..16].copy_from_slice(&self.start.0.to_le_bytes());
        raw[16..24].copy_from_slice(&self.last.0.to_le_bytes());
        raw[24..28].copy_from_slice(&self.observer.to_le_bytes());
        raw[28..30].copy_from_slice(&self.host_port.to_le_bytes());
        raw[30..32].copy_from_slice(&self.peer_port.to_le_bytes());
        raw[32] = self.transport;
        raw[33] = u8::from(self.host_opened) | u8::from(self.counted) << 1;
        raw
    }

    fn from_raw(raw: &[u8; CONNECTION_RAW]) -> Self {
        Self {
            peer: u64::from_le_bytes(part(raw, 0)),
            start: EventTime(i64::from_le_bytes(part(raw, 8))),
            last: EventTime(i64::from_le_bytes(part(raw, 16))),
            observer: u32::from_le_bytes(part(raw, 24)),
            host_port: u16::from_le_bytes(part(raw, 28)),
            peer_port: u16::from_le_bytes(part(raw, 30)),
            transport: raw[32],
            host_opened: raw[33] & 1 != 0,
            counted: raw[33] & 2 != 0,
        }
    }
}

impl Record for Connection {
    fn hash(&self) -> u64 {
        self.tuple().hash()
    }
}

/// The connections of one host.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Table<Connection>,
    pruned_at: EventTime,
}

/// What one record is.
pub(super) struct Sighting {
    pub(super) opens: bool,
    pub(super) initiator: Initiator,
    pub(super) counts: bool,
}

impl Connections {
    pub(super) fn heap_bytes(&self) -> usize {
        table_bytes::<Connection>(self.open.len())
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.pruned_at.0.to_le_bytes());
        out.extend_from_slice(&(self.open.len() as u32).to_le_bytes());
        self.open.records().iter().for_each(|c| out.extend_from_slice(&c.to_raw()));
    }

    pub(super) fn read(input: &mut Input<'_>) -> Option<Self> {
        let pruned_at = EventTime(input.i64()?);
        let open = input.u32()? as usize;
        let records = input.records::<CONNECTION_RAW>(open)?.iter().map(Connection::from_raw).collect();
        Some(Self { open: Table::of(records), pruned_at })
    }

    /// Asks for where a record of these ends would be filed.
    pub(super) fn ahead(&self, peer: u64, host_port: u16, peer_port: u16, transport: u8, round: Round) {
        self.open.ahead(Tuple::new(peer, host_port, peer_port, transport).hash(), round);
    }

    /// Files one record. Records come in event-time order within a slice.
    pub(super) fn see(
        &mut self,
        row: &FlowRow<'_>,
        host_is_source: bool,
        peer: &Peer<'_>,
        host_port: Option<u16>,
        peer_port: Option<u16>,
    ) -> Sighting {
        let initiator = |host_opened: bool| if host_opened { Initiator::Host } else { Initiator::Peer };
        let (Some(host_port), Some(peer_port)) = (host_port, peer_port) else {
            // Without both ports two records cannot be told to be one connection: each stands for itself.
            let host_opened = match (host_port, peer_port) {
                (Some(_), None) if !row.direction_known => !host_is_source || row.source_port.is_none(),
                _ => host_is_source,
            };
            let host_opened = if row.direction_known { host_is_source } else { host_opened && !answers(row, host_is_source) };
            return Sighting { opens: true, initiator: initiator(host_opened), counts: true };
        };
        let tuple = Tuple::new(peer_hash(peer), host_port, peer_port, row.transport);
        let start = row.start_time.unwrap_or(row.event_time);
        let end = row.end_time.unwrap_or(row.event_time).max(start);
        let observer = row.observer.map_or(0, |o| xxhash_rust::xxh3::xxh3_64(o.as_bytes()) as u32);
        let octets = row.bytes_forward.is_some() || row.bytes_reverse.is_some();

        let known = self.open.find(tuple.hash(), |c| c.tuple() == tuple);
        if let Some(known) = known.map(|place| &mut self.open.records_mut()[place])
            && start.since(known.last) <= gap_ns(row, known)
        {
            known.start = known.start.min(start);
            known.last = known.last.max(end);
            if octets && !known.counted {
                known.observer = observer;
                known.counted = true;
            }
            return Sighting { opens: false, initiator: initiator(known.host_opened), counts: known.observer == observer };
        }
        let host_opened = opened_by_host(row, host_is_source, host_port, peer_port);
        let opened = Connection {
            peer: tuple.peer,
            start,
            last: end,
            observer,
            host_port,
            peer_port,
            transport: row.transport,
            host_opened,
            counted: octets,
        };
        match known {
            Some(place) => self.open.records_mut()[place] = opened,
            // Within one slice there is no other limit; what finds no place stands for itself.
            None if self.open.len() >= RECORDS_MAX => {}
            None => {
                self.open.push(opened);
            }
        }
        Sighting { opens: true, initiator: initiator(host_opened), counts: true }
    }

    /// Forgets idle connections now and then, and the older half at the limit.
    pub(super) fn prune(&mut self, now: EventTime, evicted: &mut u64) {
        if now.since(self.pruned_at) > IDLE_NS / 2 || self.open.len() > CONNECTIONS_PER_HOST_MAX {
            self.pruned_at = now;
            self.open.retain(|c| now.since(c.last) <= IDLE_NS);
        }
        if self.open.len() > CONNECTIONS_PER_HOST_MAX {
            let mut order: Vec<(EventTime, Tuple)> = self.open.records().iter().map(|c| (c.last, c.tuple())).collect();
            let drop = order.len() - CONNECTIONS_PER_HOST_MAX / 2;
            // No two are equal: what stays is what is not less than the first that does.
            let (_, first, _) = order.select_nth_unstable(drop);
            let first = *first;
            self.open.retain(|c| (c.last, c.tuple()) >= first);
            *evicted += drop as u64;
        }
    }
}

fn peer_hash(peer: &Peer<'_>) -> u64 {
    match (peer.address, peer.name) {
        (Some(address), _) => xxhash_rust::xxh3::xxh3_64(&address.0),
        (None, name) => xxhash_rust::xxh3::xxh3_64(name.unwrap_or("").as_bytes()),
    }
}

/// How long after the last record another one still belongs to the connection.
fn gap_ns(row: &FlowRow<'_>, known: &Connection) -> i64 {
    if row.direction_known {
        // The source writes whole connections; only a repeated state of the same one (same start) continues it.
        let start = row.start_time.unwrap_or(row.event_time);
        return if start.since(known.start).abs() < SECOND_NS { i64::MAX } else { i64::MIN };
    }
    match (row.transport, row.tcp_flags) {
        (6, Some(flags)) if flags & SYN != 0 => CLOCK_SLACK_NS,
        (6, Some(flags)) if flags != 0 => TCP_GAP_NS,
        (6, _) => FLAGLESS_GAP_NS,
        _ => UDP_GAP_NS,
    }
}

/// A record that can only be an answer: SYN and ACK without the first SYN cannot be told from an OR, so ports decide.
fn answers(row: &FlowRow<'_>, host_is_source: bool) -> bool {
    let (from, to) = (row.source_port, row.destination_port);
    matches!((from, to), (Some(p), None) if service_rank(p) == 0) && host_is_source
}

/// Who opened it: the source says so; else a lone SYN's sender; else the end whose port looks less like a service; else
/// the host.
fn opened_by_host(row: &FlowRow<'_>, host_is_source: bool, host_port: u16, peer_port: u16) -> bool {
    if row.direction_known {
        return host_is_source;
    }
    if let Some(flags) = row.tcp_flags
        && row.transport == 6
        && flags & SYN != 0
        && flags & ACK == 0
    {
        return host_is_source;
    }
    match service_rank(peer_port).cmp(&service_rank(host_port)) {
        std::cmp::Ordering::Less => true,
        std::cmp::Ordering::Greater => false,
        std::cmp::Ordering::Equal => peer_port <= host_port,
    }
}

/// 0 for system ports, 1 for user ports, 2 for the ephemeral range most systems use (Linux from 32768, IANA from 49152).
fn service_rank(port: u16) -> u8 {
    match port {
        0..=1023 => 0,
        1024..=32767 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_schemas::address::Address;

    fn row(start_s: i64, end_s: i64, flags: u8, forward: bool) -> FlowRow<'static> {
        let (a, b) = (Address::v4([10, 0, 0, 5]), Address::v4([198, 51, 100, 7]));
        let (source, destination, sport, dport) = if forward { (a, b, 51514, 443) } else { (b, a, 443, 51514) };
        FlowRow {
            event_time: EventTime::from_secs(end_s),
            start_time: Some(EventTime::from_secs(start_s)),
            end_time: Some(EventTime::from_secs(end_s)),
            source_address: Some(source),
            destination_address: Some(destination),
            source_port: Some(sport),
            destination_port: Some(dport),
            transport: 6,
            tcp_flags: Some(flags),
            bytes_forward: Some(100),
            observer: Some("r1"),
            ..FlowRow::default()
        }
    }

    fn see(connections: &mut Connections, row: &FlowRow<'_>) -> Sighting {
        let host = Some(Address::v4([10, 0, 0, 5]));
        let is_source = row.source_address == host;
        let peer = Peer { address: if is_source { row.destination_address } else { row.source_address }, name: None, class: 0 };
        let (hp, pp) = if is_source { (row.source_port, row.destination_port) } else { (row.destination_port, row.source_port) };
        connections.see(row, is_source, &peer, hp, pp)
    }

    #[test]
    fn ten_minutes_exported_every_minute_open_once() {
        let mut c = Connections::default();
        let mut opens = 0;
        for minute in 0..10 {
            let flags = if minute == 0 { 0x1b } else { 0x18 };
            for forward in [true, false] {
                let s = see(&mut c, &row(minute * 60, minute * 60 + 60, flags, forward));
                opens += u32::from(s.opens);
                assert_eq!(s.initiator, Initiator::Host);
            }
        }
        assert_eq!(opens, 1);
    }

    #[test]
    fn a_reply_seen_first_does_not_make_the_server_the_initiator() {
        let mut c = Connections::default();
        assert_eq!(see(&mut c, &row(0, 1, 0x1b, false)).initiator, Initiator::Host);
        assert!(!see(&mut c, &row(0, 2, 0x1b, true)).opens);
    }

    #[test]
    fn a_second_exporter_adds_no_octets() {
        let mut c = Connections::default();
        assert!(see(&mut c, &row(0, 1, 0x1b, true)).counts);
        let other = FlowRow { observer: Some("r2"), ..row(0, 1, 0x1b, true) };
        let s = see(&mut c, &other);
        assert!(!s.opens && !s.counts);
    }

    #[test]
    fn the_same_port_again_after_a_syn_is_a_new_connection() {
        let mut c = Connections::default();
        assert!(see(&mut c, &row(0, 1, 0x1b, true)).opens);
        assert!(see(&mut c, &row(30, 31, 0x1b, true)).opens);
    }

    #[test]
    fn a_scan_stays_bounded() {
        let mut c = Connections::default();
        let mut evicted = 0;
        for i in 0..50_000_u32 {
            let mut r = row(i64::from(i / 1000), i64::from(i / 1000), 2, true);
            r.destination_address = Some(Address::v4([100, (i >> 16) as u8, (i >> 8) as u8, i as u8]));
            see(&mut c, &r);
            c.prune(EventTime::from_secs(i64::from(i / 1000)), &mut evicted);
        }
        assert!(c.open.len() <= CONNECTIONS_PER_HOST_MAX);
        assert!(evicted > 0);
    }
}
