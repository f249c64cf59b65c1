//! dns.log: a query with its reply. Also holds mDNS (5353), LLMNR (5355) and NetBIOS (137): the server's port tells.

use super::super::Fault;
use super::super::dns_codes::{query_type, response_code};
use super::super::value::{Scratch, UDP, transport};
use super::fields::{Field, Fields};
use crate::observation::{DnsRow, Row};

/// A look-up; event time is the reply's, else the query's.
pub(super) fn row<'a>(f: &Fields<'a>, scratch: &Scratch<'a>) -> Result<Row<'a>, Fault> {
    let asked = f.ts()?;
    let rtt_ns = f.interval(Field::Rtt)?;
    let answers = f.text(Field::Answers);
    let transport = match f.text(Field::Proto) {
        Some(name) => transport("proto", name.as_bytes(), false)?,
        None => UDP,
    };
    Ok(Row::Dns(DnsRow {
        event_time: asked.plus(rtt_ns.unwrap_or(0)),
        observer: f.text(Field::System),
        client_address: Some(f.address(Field::OrigH)?),
        server_address: Some(f.address(Field::RespH)?),
        server_port: f.port(Field::RespP)?,
        transport,
        query: f.name(Field::Query, scratch)?.ok_or(Fault::Missing { field: "query" })?,
        query_type: match f.number(Field::Qtype)? {
            Some(number) => number,
            None => f.text(Field::QtypeName).map_or(0, query_type),
        },
        response_code: match f.number(Field::Rcode)? {
            Some(number) => Some(number),
            None => f.text(Field::RcodeName).and_then(response_code),
        },
        answers,
        answer_count: answers.map(|_| u16::try_from(f.members(Field::Answers).count()).unwrap_or(u16::MAX)),
        latency_s: rtt_ns.map(|ns| ns as f64 / 1e9),
        uid: f.text(Field::Uid),
        ..DnsRow::default()
    }))
}
