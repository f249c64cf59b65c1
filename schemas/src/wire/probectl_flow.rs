//! `probectl-flow`: `probectl.flow.v1.FlowBatch`, straight into flow rows. The hot path of the product: no allocation per
//! row, no text copied.
//!
//! What protobuf itself would refuse (cut off, wrong wire type, bad UTF-8) rejects the record; what only a flow cannot be
//! (no address, port 70000, a time in 1970) rejects that row, re-encoded as a batch of one.
//!
//! Event time is `observed_at` (the export was received), else the flow's end, else the record's timestamp. 0 octets or
//! packets mean "not known". The initiator is not known to NetFlow and IPFIX. Each sFlow record is one sampled packet, and
//! two packets may be equal in everything that is told of them.

use bumpalo::Bump;

use super::protobuf::{Reader, Tag, batch_of_one, extract};
use super::value::{ICMP, ICMP_V6, TCP, address, port, transport, unix_ns};
use super::{BadRow, Decoded, DecodedRow, Decoder, Fault, RecordMeta, check_room};
use crate::observation::{FlowRow, Row};

/// The protocol whose every record is one sampled packet.
const SFLOW: &[u8] = b"sflow5";

/// Decoder of `probectl-flow`.
#[derive(Debug, Default)]
pub(super) struct ProbectlFlow;

impl Decoder for ProbectlFlow {
    fn decode<'a>(&mut self, value: &'a [u8], meta: RecordMeta, _: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        let mut reader = Reader::new(value);
        let mut index = 0;
        let mut before = Texts::default();
        while let Some(tag) = reader.tag()? {
            if tag.number != 1 {
                reader.skip(tag)?;
                continue;
            }
            let message = reader.message(tag, "flows")?;
            if index == 0 {
                // Flows of a batch are about as long as its first.
                out.rows.reserve((value.len() / message.whole().len().max(1) + 1).min(ROWS_RESERVED_MAX));
            }
            let wire = Wire::read(message, before)?;
            before = wire.texts;
            check_room(out)?;
            if let Err(fault) = wire.push(index, meta, out) {
                out.bad.push(BadRow { index, fault, bytes: batch_of_one(1, message.whole()) });
            }
            index += 1;
        }
        Ok(())
    }

    fn extract(&self, value: &[u8], rows: &[u32], each: &mut dyn FnMut(u32, Vec<u8>)) {
        extract(value, 1, rows, each);
    }
}

/// Rows for which there is room before they come; more make room as they do.
const ROWS_RESERVED_MAX: usize = 1024;

/// Texts of a flow that are mostly those of the flow before it.
#[derive(Clone, Copy, Default)]
struct Texts<'a> {
    tenant: &'a str,
    agent: &'a str,
    exporter: &'a str,
}

/// A FlowRecord as it stands on the wire.
#[derive(Default)]
struct Wire<'a> {
    texts: Texts<'a>,
    flow_protocol: &'a [u8],
    observed_at_ns: i64,
    start_ns: i64,
    end_ns: i64,
    source_address: &'a [u8],
    source_port: u64,
    destination_address: &'a [u8],
    destination_port: u64,
    transport: &'a [u8],
    network_type: &'a [u8],
    tcp_flags: u64,
    bytes: u64,
    packets: u64,
    sampling_rate: u64,
    bytes_scaled: u64,
    packets_scaled: u64,
    destination_asn: u64,
}

impl<'a> Wire<'a> {
    #[inline]
    fn read(mut reader: Reader<'a>, before: Texts<'a>) -> Result<Self, Fault> {
        let mut w = Self::default();
        while let Some(tag) = reader.tag()? {
            w.field(tag, &mut reader, before)?;
        }
        Ok(w)
    }

    #[inline]
    fn field(&mut self, tag: Tag, r: &mut Reader<'a>, before: Texts<'a>) -> Result<(), Fault> {
        match tag.number {
            1 => self.texts.tenant = r.text_like(tag, "tenant_id", before.tenant)?,
            2 => self.texts.agent = r.text_like(tag, "agent_id", before.agent)?,
            3 => self.texts.exporter = r.text_like(tag, "exporter_address", before.exporter)?,
            5 => self.flow_protocol = r.bytes(tag, "flow_protocol")?,
            6 => self.observed_at_ns = r.i64(tag, "observed_at_unix_nano")?,
            7 => self.start_ns = r.i64(tag, "start_unix_nano")?,
            8 => self.end_ns = r.i64(tag, "end_unix_nano")?,
            9 => self.source_address = r.bytes(tag, "source_address")?,
            10 => self.source_port = r.u64(tag, "source_port")?,
            11 => self.destination_address = r.bytes(tag, "destination_address")?,
            12 => self.destination_port = r.u64(tag, "destination_port")?,
            13 => self.transport = r.bytes(tag, "network_transport")?,
            14 => self.network_type = r.bytes(tag, "network_type")?,
            19 => self.tcp_flags = r.u64(tag, "tcp_flags")?,
            21 => self.bytes = r.u64(tag, "bytes")?,
            22 => self.packets = r.u64(tag, "packets")?,
            23 => self.sampling_rate = r.u64(tag, "sampling_rate")?,
            24 => self.bytes_scaled = r.u64(tag, "bytes_scaled")?,
            25 => self.packets_scaled = r.u64(tag, "packets_scaled")?,
            29 => self.destination_asn = r.u64(tag, "destination_asn")?,
            _ => r.skip(tag)?,
        }
        Ok(())
    }

    /// Files the row, or says what is wrong with it.
    // Made where it stays: a row is some hundred bytes, and handed on it would be copied twice.
    #[inline(always)]
    fn push(&self, index: u32, meta: RecordMeta, out: &mut Decoded<'a>) -> Result<(), Fault> {
        let source = address("source_address", self.source_address)?;
        let destination = address("destination_address", self.destination_address)?;
        let v6 = if self.network_type.is_empty() { source.to_v4().is_none() } else { self.network_type == b"ipv6" };
        let transport = transport("network_transport", self.transport, v6)?;
        let mut source_port = port("source_port", self.source_port)?;
        let mut destination_port = port("destination_port", self.destination_port)?;
        if transport == ICMP || transport == ICMP_V6 {
            // Exporters put type and code there.
            (source_port, destination_port) = (None, None);
        }
        let observed_at = unix_ns("observed_at_unix_nano", self.observed_at_ns)?;
        let start_time = unix_ns("start_unix_nano", self.start_ns)?;
        let end_time = unix_ns("end_unix_nano", self.end_ns)?;
        let Texts { tenant, agent, exporter } = self.texts;
        let row = FlowRow {
            event_time: observed_at.or(end_time).unwrap_or(meta.timestamp),
            observer: [exporter, agent].into_iter().find(|o| !o.is_empty()),
            start_time,
            end_time,
            source_address: Some(source),
            source_port,
            destination_address: Some(destination),
            destination_port,
            transport,
            bytes_forward: known(self.bytes_scaled, self.bytes),
            packets_forward: known(self.packets_scaled, self.packets),
            sampling_rate: u32::try_from(self.sampling_rate.max(1)).unwrap_or(u32::MAX),
            sampled_packet: self.flow_protocol == SFLOW,
            // IPFIX has 16 bits of flags; the upper ones are NS and reserved. Some exporters set ACK on UDP.
            tcp_flags: (self.tcp_flags != 0 && transport == TCP).then_some(self.tcp_flags as u8),
            destination_asn: u32::try_from(self.destination_asn).ok().filter(|&asn| asn != 0),
            ..FlowRow::default()
        };
        out.rows.push(DecodedRow { tenant, agent: Some(agent), index, row: Row::Flow(row) });
        Ok(())
    }
}

/// The scaled count, else the raw one; 0 is not known.
fn known(scaled: u64, raw: u64) -> Option<u64> {
    [scaled, raw].into_iter().find(|&n| n != 0)
}
