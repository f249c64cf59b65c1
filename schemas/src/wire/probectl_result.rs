//! `probectl-result`: one `probectl.result.v1.Result`: a row of its own, and for DNS tests a look-up marked synthetic.
//!
//! Event time is the test's finish. Attributes and metrics are kept as one JSON object with sorted keys; of a key given
//! twice the last one holds, as protobuf says; of an attribute and a metric of one name, the metric goes by `metric:NAME`.

use bumpalo::Bump;

use super::dns_codes::{query_type, response_code};
use super::protobuf::Reader;
use super::value::{Scratch, TCP, UDP, port, present, unix_ns, wrong};
use super::{Decoded, DecodedRow, Decoder, Fault, RecordMeta, push_row};
use crate::address::Address;
use crate::observation::{DnsRow, ResultRow, Row};
use crate::time::EventTime;

/// Attributes and metrics of one result, at most; more rejects it.
const ENTRIES_MAX: usize = 1024;

/// Decoder of `probectl-result`.
#[derive(Debug, Default)]
pub(super) struct ProbectlResult;

impl Decoder for ProbectlResult {
    fn decode<'a>(&mut self, value: &'a [u8], meta: RecordMeta, arena: &'a Bump, out: &mut Decoded<'a>) -> Result<(), Fault> {
        if value.is_empty() {
            return Err(Fault::Empty);
        }
        let wire = Wire::read(Reader::new(value))?;
        let scratch = Scratch::new(arena);
        let result = wire.result(meta, &scratch);
        let finish = result.as_ref().map(|row| row.event_time).unwrap_or(meta.timestamp);
        let good = result.is_ok();
        let decoded = |index, row| DecodedRow { tenant: wire.tenant, agent: Some(wire.agent), index, row };
        push_row(out, 0, result.map(|row| decoded(0, Row::Result(row))), || value.to_vec())?;
        if good && matches!(wire.canary_type, "dns" | "dnstrace") && !wire.server.is_empty() {
            // The whole record is the row: a bad one is reported once.
            if let Ok(row) = wire.look_up(finish, &scratch) {
                push_row(out, 1, Ok(decoded(1, Row::Dns(row))), Vec::new)?;
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Wire<'a> {
    tenant: &'a str,
    agent: &'a str,
    canary_type: &'a str,
    server: &'a str,
    server_port: u64,
    success: bool,
    error: &'a str,
    start_ns: i64,
    duration_ns: i64,
    metrics: Vec<(&'a str, f64)>,
    attributes: Vec<(&'a str, &'a str)>,
    result_id: &'a str,
}

impl<'a> Wire<'a> {
    fn read(mut r: Reader<'a>) -> Result<Self, Fault> {
        let mut w = Self::default();
        while let Some(tag) = r.tag()? {
            match tag.number {
                1 => w.tenant = r.text(tag, "tenant_id")?,
                2 => w.agent = r.text(tag, "agent_id")?,
                3 => w.canary_type = r.text(tag, "canary_type")?,
                4 => w.server = r.text(tag, "server_address")?,
                5 => w.server_port = r.u64(tag, "server_port")?,
                8 => w.success = r.u64(tag, "success")? != 0,
                9 => w.error = r.text(tag, "error_message")?,
                10 => w.start_ns = r.i64(tag, "start_time_unix_nano")?,
                11 => w.duration_ns = r.i64(tag, "duration_nano")?,
                12 | 13 => {
                    if w.metrics.len() + w.attributes.len() >= ENTRIES_MAX {
                        return Err(Fault::TooLarge { what: "attributes and metrics of one result", limit: ENTRIES_MAX });
                    }
                    w.entry(tag.number == 12, r.message(tag, "metrics or attributes")?)?;
                }
                14 => w.result_id = r.text(tag, "result_id")?,
                _ => r.skip(tag)?,
            }
        }
        // Stable: of equal keys the last on the wire stays last.
        w.metrics.sort_by(|a, b| a.0.cmp(b.0));
        w.attributes.sort_by(|a, b| a.0.cmp(b.0));
        Ok(w)
    }

    fn entry(&mut self, metric: bool, mut r: Reader<'a>) -> Result<(), Fault> {
        let (mut key, mut number, mut text) = ("", 0.0, "");
        while let Some(tag) = r.tag()? {
            match (tag.number, metric) {
                (1, _) => key = r.text(tag, "key")?,
                (2, true) => number = r.f64(tag, "metrics")?,
                (2, false) => text = r.text(tag, "attributes")?,
                _ => r.skip(tag)?,
            }
        }
        if metric {
            self.metrics.push((key, number))
        } else {
            self.attributes.push((key, text))
        }
        Ok(())
    }

    fn attribute(&self, key: &str) -> Option<&'a str> {
        let after = self.attributes.partition_point(|(k, _)| *k <= key);
        let &(found, text) = self.attributes.get(after.checked_sub(1)?)?;
        (found == key && !text.is_empty()).then_some(text)
    }

    fn metric(&self, key: &str) -> Option<f64> {
        let after = self.metrics.partition_point(|(k, _)| *k <= key);
        let &(found, number) = self.metrics.get(after.checked_sub(1)?)?;
        (found == key && number.is_finite()).then_some(number)
    }

    fn result(&self, meta: RecordMeta, scratch: &Scratch<'a>) -> Result<ResultRow<'a>, Fault> {
        if self.canary_type.is_empty() {
            return Err(Fault::Missing { field: "canary_type" });
        }
        if self.duration_ns < 0 {
            return Err(wrong("duration_nano", "nanoseconds from 0", self.duration_ns));
        }
        let start_time = unix_ns("start_time_unix_nano", self.start_ns)?;
        let peer = self.attribute("network.peer.address").and_then(|text| Address::parse_endpoint(text.as_bytes()));
        Ok(ResultRow {
            event_time: start_time.map_or(meta.timestamp, |t| t.plus(self.duration_ns)),
            observer: present(self.agent),
            canary_type: self.canary_type,
            server: self.server,
            server_port: port("server_port", self.server_port)?,
            peer_address: peer.map(|(address, _)| address),
            success: self.success,
            error: present(self.error),
            start_time,
            duration_s: self.duration_ns as f64 / 1e9,
            result_id: present(self.result_id),
            tls_version: self.attribute("tls.protocol.version"),
            attributes: scratch.keep(&self.json())?,
            ..ResultRow::default()
        })
    }

    fn look_up(&self, finish: EventTime, scratch: &Scratch<'a>) -> Result<DnsRow<'a>, Fault> {
        let server = self.attribute("dns.server").and_then(|text| Address::parse_endpoint(text.as_bytes()));
        let latency_s = self.metric("dns.query.ms").map(|ms| ms / 1e3).filter(|&s| s > 0.0);
        Ok(DnsRow {
            event_time: finish,
            observer: present(self.agent),
            client_name: present(self.agent),
            server_address: server.map(|(address, _)| address),
            server_port: server.and_then(|(_, port)| port),
            transport: match self.attribute("dns.transport") {
                Some("tcp" | "dot" | "doh") => TCP,
                _ => UDP,
            },
            query: scratch.dns_name("server_address", self.server)?,
            query_type: self.attribute("dns.qtype").map_or(0, query_type),
            response_code: self.attribute("dns.rcode").and_then(response_code),
            answers: self.attribute("dns.answer"),
            answer_count: self.metric("dns.answers").filter(|n| (0.0..=65535.0).contains(n)).map(|n| n as u16),
            latency_s,
            synthetic: true,
            ..DnsRow::default()
        })
    }

    /// Keys sorted by merging the two sorted lists.
    fn json(&self) -> String {
        let mut object = serde_json::Map::new();
        for &(key, text) in &self.attributes {
            object.insert(key.to_owned(), text.into());
        }
        for &(key, number) in &self.metrics {
            // JSON has no NaN and no infinity.
            let value = if number.is_finite() { number.into() } else { number.to_string().into() };
            let taken = self.attributes.binary_search_by(|(k, _)| (*k).cmp(key)).is_ok();
            object.insert(if taken { format!("metric:{key}") } else { key.to_owned() }, value);
        }
        object.sort_keys();
        serde_json::Value::Object(object).to_string()
    }
}
