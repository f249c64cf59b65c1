//! `probectl-ebpf`: `probectl.ebpf.v1.FlowBatch`: flows, service edges and DNS calls. Other application calls are skipped
//! and counted.
//!
//! Live producers send neither octets nor packets (0, so: not known) and say `egress` for every connection, accepted ones
//! too, so the initiator stays unknown. DNS calls are answered queries seen by the agent: their time is the answer's.
//! Edges are cumulative totals re-sent at every flush and carry no time of it: theirs is the latest time of the batch,
//! never beyond the record's timestamp, so that an idle edge is not late and a wrong clock in one element moves no other.

use bumpalo::Bump;

use super::dns_codes::{query_type, response_code};
use super::protobuf::{Reader, batch_of_one, extract};
use super::value::{Scratch, TCP, UDP, address, port, present, transport, unix_ns, wrong};
use super::{Decoded, DecodedRow, Decoder, Fault, RecordMeta, push_row};
use crate::address::Address;
use crate::observation::{DnsRow, EdgeRow, FlowRow, Row};
use crate::time::EventTime;

/// Decoder of `probectl-ebpf`.
#[derive(Debug, Default)]
pub(super) struct ProbectlEbpf;

impl Decoder for ProbectlEbpf {
    fn decode<'a>(&mut self, value: &'a [u8], meta: RecordMeta, arena: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        let scratch = Scratch::new(arena);
        let first = out.rows.len();
        let mut reader = Reader::new(value);
        let mut index = 0;
        while let Some(tag) = reader.tag()? {
            let (number, field) = match tag.number {
                1 => (1, "flows"),
                2 => (2, "edges"),
                3 => (3, "l7_calls"),
                _ => {
                    reader.skip(tag)?;
                    continue;
                }
            };
            let message = reader.message(tag, field)?;
            let row = match number {
                1 => Flow::read(message)?.row(index, meta),
                2 => Edge::read(message)?.row(index),
                _ => {
                    let call = Call::read(message)?;
                    if call.protocol != b"dns" {
                        out.skip("application call other than dns");
                        index += 1;
                        continue;
                    }
                    call.row(index, meta, &scratch)
                }
            };
            push_row(out, index, row, || batch_of_one(number, message.whole()))?;
            index += 1;
        }
        date_edges(&mut out.rows[first..], meta);
        Ok(())
    }

    /// An edge alone has only its own time, not its batch's.
    fn extract(&self, value: &[u8], rows: &[u32], each: &mut dyn FnMut(u32, Vec<u8>)) {
        extract(value, 3, rows, each);
    }
}

/// Gives edges the time of their batch.
fn date_edges(rows: &mut [DecodedRow<'_>], meta: RecordMeta) {
    let latest = rows.iter().map(|r| r.row.event_time()).max().unwrap_or(EventTime::MIN);
    let flushed = match (latest.0 > 0, meta.timestamp.0 > 0) {
        (true, true) => latest.min(meta.timestamp),
        (true, false) => latest,
        (false, _) => meta.timestamp,
    };
    for decoded in rows {
        if let Row::Edge(edge) = &mut decoded.row {
            edge.event_time = edge.event_time.max(flushed);
        }
    }
}

#[derive(Default)]
struct Flow<'a> {
    tenant: &'a str,
    agent: &'a str,
    host: &'a str,
    observed_at_ns: i64,
    source_address: &'a [u8],
    source_port: u64,
    destination_address: &'a [u8],
    destination_port: u64,
    transport: &'a [u8],
    process_name: &'a str,
    workload: &'a str,
    bytes: u64,
    packets: u64,
    state: &'a str,
}

impl<'a> Flow<'a> {
    fn read(mut r: Reader<'a>) -> Result<Self, Fault> {
        let mut w = Self::default();
        while let Some(tag) = r.tag()? {
            match tag.number {
                1 => w.tenant = r.text(tag, "tenant_id")?,
                2 => w.agent = r.text(tag, "agent_id")?,
                3 => w.host = r.text(tag, "host")?,
                4 => w.observed_at_ns = r.i64(tag, "observed_at_unix_nano")?,
                5 => w.source_address = r.bytes(tag, "source_address")?,
                6 => w.source_port = r.u64(tag, "source_port")?,
                7 => w.destination_address = r.bytes(tag, "destination_address")?,
                8 => w.destination_port = r.u64(tag, "destination_port")?,
                9 => w.transport = r.bytes(tag, "network_transport")?,
                12 => w.process_name = r.text(tag, "process_name")?,
                14 => w.workload = r.text(tag, "workload")?,
                15 => w.bytes = r.u64(tag, "bytes")?,
                16 => w.packets = r.u64(tag, "packets")?,
                18 => w.state = r.text(tag, "state")?,
                _ => r.skip(tag)?,
            }
        }
        Ok(w)
    }

    fn row(&self, index: u32, meta: RecordMeta) -> Result<DecodedRow<'a>, Fault> {
        let source = address("source_address", self.source_address)?;
        let row = FlowRow {
            event_time: unix_ns("observed_at_unix_nano", self.observed_at_ns)?.unwrap_or(meta.timestamp),
            observer: present(self.agent).or(present(self.host)),
            source_address: Some(source),
            source_port: port("source_port", self.source_port)?,
            source_name: present(self.workload),
            destination_address: Some(address("destination_address", self.destination_address)?),
            destination_port: port("destination_port", self.destination_port)?,
            transport: transport("network_transport", self.transport, source.to_v4().is_none())?,
            bytes_forward: (self.bytes != 0).then_some(self.bytes),
            packets_forward: (self.packets != 0).then_some(self.packets),
            sampling_rate: 1,
            connection_state: present(self.state),
            process_name: present(self.process_name),
            ..FlowRow::default()
        };
        Ok(DecodedRow { tenant: self.tenant, agent: Some(self.agent), index, row: Row::Flow(row) })
    }
}

#[derive(Default)]
struct Edge<'a> {
    tenant: &'a str,
    source: &'a str,
    destination: &'a str,
    destination_port: u64,
    transport: &'a [u8],
    connections: u64,
    bytes: u64,
    packets: u64,
    first_seen_ns: i64,
    last_seen_ns: i64,
    l7_protocol: &'a str,
    l7_calls: u64,
    l7_errors: u64,
}

impl<'a> Edge<'a> {
    fn read(mut r: Reader<'a>) -> Result<Self, Fault> {
        let mut w = Self::default();
        while let Some(tag) = r.tag()? {
            match tag.number {
                1 => w.tenant = r.text(tag, "tenant_id")?,
                2 => w.source = r.text(tag, "source")?,
                3 => w.destination = r.text(tag, "destination")?,
                4 => w.destination_port = r.u64(tag, "destination_port")?,
                5 => w.transport = r.bytes(tag, "network_transport")?,
                6 => w.connections = r.u64(tag, "connections")?,
                7 => w.bytes = r.u64(tag, "bytes")?,
                8 => w.packets = r.u64(tag, "packets")?,
                9 => w.first_seen_ns = r.i64(tag, "first_seen_unix_nano")?,
                10 => w.last_seen_ns = r.i64(tag, "last_seen_unix_nano")?,
                11 => w.l7_protocol = r.text(tag, "l7_protocol")?,
                12 => w.l7_calls = r.u64(tag, "l7_calls")?,
                13 => w.l7_errors = r.u64(tag, "l7_errors")?,
                _ => r.skip(tag)?,
            }
        }
        Ok(w)
    }

    fn row(&self, index: u32) -> Result<DecodedRow<'a>, Fault> {
        for (field, text) in [("source", self.source), ("destination", self.destination)] {
            if text.is_empty() {
                return Err(Fault::Missing { field });
            }
        }
        let last_seen = unix_ns("last_seen_unix_nano", self.last_seen_ns)?;
        let row = EdgeRow {
            // Raised to the batch's time when that is known.
            event_time: last_seen.unwrap_or_default(),
            source_name: self.source,
            destination_name: self.destination,
            destination_port: port("destination_port", self.destination_port)?,
            transport: transport("network_transport", self.transport, false)?,
            connections: self.connections,
            bytes: self.bytes,
            packets: self.packets,
            first_seen: unix_ns("first_seen_unix_nano", self.first_seen_ns)?,
            last_seen,
            l7_protocol: present(self.l7_protocol),
            l7_calls: self.l7_calls,
            l7_errors: self.l7_errors,
            ..EdgeRow::default()
        };
        Ok(DecodedRow { tenant: self.tenant, agent: None, index, row: Row::Edge(row) })
    }
}

#[derive(Default)]
struct Call<'a> {
    tenant: &'a str,
    agent: &'a str,
    source: &'a str,
    destination: &'a str,
    destination_port: u64,
    protocol: &'a [u8],
    method: &'a str,
    resource: &'a str,
    status: &'a str,
    encrypted: bool,
    start_ns: i64,
    latency_ns: i64,
    request_bytes: u64,
    response_bytes: u64,
}

impl<'a> Call<'a> {
    fn read(mut r: Reader<'a>) -> Result<Self, Fault> {
        let mut w = Self::default();
        while let Some(tag) = r.tag()? {
            match tag.number {
                1 => w.tenant = r.text(tag, "tenant_id")?,
                2 => w.agent = r.text(tag, "agent_id")?,
                3 => w.source = r.text(tag, "source")?,
                4 => w.destination = r.text(tag, "destination")?,
                5 => w.destination_port = r.u64(tag, "destination_port")?,
                6 => w.protocol = r.bytes(tag, "protocol")?,
                7 => w.method = r.text(tag, "method")?,
                8 => w.resource = r.text(tag, "resource")?,
                9 => w.status = r.text(tag, "status")?,
                11 => w.encrypted = r.u64(tag, "encrypted")? != 0,
                12 => w.start_ns = r.i64(tag, "start_unix_nano")?,
                13 => w.latency_ns = r.i64(tag, "latency_nano")?,
                14 => w.request_bytes = r.u64(tag, "request_bytes")?,
                15 => w.response_bytes = r.u64(tag, "response_bytes")?,
                _ => r.skip(tag)?,
            }
        }
        Ok(w)
    }

    fn row(&self, index: u32, meta: RecordMeta, scratch: &Scratch<'a>) -> Result<DecodedRow<'a>, Fault> {
        if self.latency_ns < 0 {
            return Err(wrong("latency_nano", "nanoseconds from 0", self.latency_ns));
        }
        let start = unix_ns("start_unix_nano", self.start_ns)?;
        let client = Address::parse_endpoint(self.source.as_bytes()).map(|(address, _)| address);
        let server = Address::parse_endpoint(self.destination.as_bytes());
        let row = DnsRow {
            event_time: start.map_or(meta.timestamp, |t| t.plus(self.latency_ns)),
            observer: present(self.agent),
            client_address: client,
            client_name: if client.is_none() { present(self.source) } else { None },
            server_address: server.map(|(address, _)| address),
            server_port: port("destination_port", self.destination_port)?.or(server.and_then(|(_, port)| port)),
            // The call does not say; inside TLS it is TCP, else nearly always UDP.
            transport: if self.encrypted { TCP } else { UDP },
            query: scratch.dns_name("resource", self.resource)?,
            query_type: query_type(self.method),
            response_code: response_code(self.status),
            request_bytes: octets(self.request_bytes),
            response_bytes: octets(self.response_bytes),
            latency_s: (self.latency_ns > 0).then_some(self.latency_ns as f64 / 1e9),
            ..DnsRow::default()
        };
        Ok(DecodedRow { tenant: self.tenant, agent: Some(self.agent), index, row: Row::Dns(row) })
    }
}

/// 0 is not known.
fn octets(n: u64) -> Option<u32> {
    (n != 0).then(|| u32::try_from(n).unwrap_or(u32::MAX))
}
