//! The columns of each log, and events as their cells.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::Cell;
use crate::event::{Answer, Connection, DnsEvent, FlowEvent, HttpEvent, Outcome, QueryKind, TlsEvent, Transport};
use crate::random::mix;

/// The six columns every log begins with.
fn begin(seed: u64, start: EventTime, c: &Connection) -> Vec<Cell> {
    vec![
        Cell::Seconds(start.0),
        Cell::Text(uid(seed, c.id)),
        Cell::Text(c.initiator.to_string()),
        Cell::Count(u64::from(c.initiator_port)),
        Cell::Text(c.responder.to_string()),
        Cell::Count(u64::from(c.responder_port)),
    ]
}

pub(super) fn conn(seed: u64, flow: &FlowEvent) -> Vec<Cell> {
    let c = &flow.connection;
    let tcp = c.transport == Transport::Tcp;
    let (state, history) = match (flow.outcome, tcp) {
        (Outcome::NoReply, true) => ("S0", "S"),
        (Outcome::NoReply, false) => ("S0", "D"),
        (Outcome::Refused, _) => ("REJ", "Sr"),
        (Outcome::Reset, _) => ("RSTO", "ShADadR"),
        (Outcome::Open, true) => ("S1", "ShADad"),
        (Outcome::Complete, true) => ("SF", "ShADadFf"),
        (Outcome::Complete | Outcome::Open, false) => ("SF", "Dd"),
    };
    let (orig_ip, resp_ip) = flow.ip_bytes();
    let internal = |a: Address| a.0[12] == 10;
    let mut row = begin(seed, flow.start, c);
    row.extend([
        Cell::Fixed(if tcp { "tcp" } else { "udp" }),
        if flow.service.is_empty() { Cell::Unset } else { Cell::Fixed(flow.service) },
        Cell::Seconds(flow.end.since(flow.start)),
        Cell::Count(flow.bytes_sent),
        Cell::Count(flow.bytes_received),
        Cell::Fixed(state),
        Cell::Bool(internal(c.initiator)),
        Cell::Bool(internal(c.responder)),
        Cell::Count(0),
        Cell::Fixed(history),
        Cell::Count(flow.packets_sent),
        Cell::Count(orig_ip),
        Cell::Count(flow.packets_received),
        Cell::Count(resp_ip),
        Cell::Unset,
        Cell::Count(if tcp { 6 } else { 17 }),
    ]);
    row
}

pub(super) fn query(seed: u64, dns: &DnsEvent) -> Vec<Cell> {
    let (kind, kind_name) = dns.kind.code();
    let no_name = dns.answer == Answer::NoName;
    let answer = match &dns.answer {
        Answer::Address(address) => Some(address.to_string()),
        Answer::Text(text) if dns.kind == QueryKind::Txt => Some(format!("TXT {} {text}", text.len())),
        Answer::Text(text) => Some(text.clone()),
        Answer::Empty | Answer::NoName => None,
    };
    let mut row = begin(seed, dns.start, &dns.connection);
    row.extend([
        Cell::Fixed("udp"),
        Cell::Count(u64::from(dns.query_id)),
        Cell::Seconds(dns.end.since(dns.start)),
        Cell::Text(dns.name.clone()),
        Cell::Count(1),
        Cell::Fixed("C_INTERNET"),
        Cell::Count(u64::from(kind)),
        Cell::Fixed(kind_name),
        Cell::Count(if no_name { 3 } else { 0 }),
        Cell::Fixed(if no_name { "NXDOMAIN" } else { "NOERROR" }),
        Cell::Bool(false),
        Cell::Bool(false),
        Cell::Bool(true),
        Cell::Bool(true),
        Cell::Count(0),
        answer.as_ref().map_or(Cell::Unset, |text| Cell::Texts(vec![text.clone()])),
        answer.as_ref().map_or(Cell::Unset, |_| Cell::Intervals(vec![300 * SECOND_NS])),
        Cell::Bool(false),
    ]);
    row
}

pub(super) fn handshake(seed: u64, tls: &TlsEvent) -> Vec<Cell> {
    let mut row = begin(seed, tls.start, &tls.connection);
    row.extend([
        Cell::Fixed("TLSv13"),
        Cell::Fixed("TLS_AES_128_GCM_SHA256"),
        Cell::Fixed("x25519"),
        Cell::Text(tls.server_name.clone()),
        Cell::Bool(false),
        Cell::Unset,
        Cell::Fixed("h2"),
        Cell::Bool(true),
        Cell::Fixed("CsiI"),
    ]);
    row
}

pub(super) fn exchange(seed: u64, http: &HttpEvent) -> Vec<Cell> {
    let status = match http.status {
        200 if http.method == "CONNECT" => "Connection established",
        200 => "OK",
        404 => "Not Found",
        _ => "Service Unavailable",
    };
    let mut row = begin(seed, http.start, &http.connection);
    row.extend([
        Cell::Count(1),
        Cell::Fixed(http.method),
        Cell::Text(http.host.clone()),
        Cell::Text(http.uri.clone()),
        Cell::Unset,
        Cell::Fixed("1.1"),
        Cell::Fixed("Mozilla/5.0 (generated)"),
        Cell::Unset,
        Cell::Count(http.bytes_sent),
        Cell::Count(http.bytes_received),
        Cell::Count(u64::from(http.status)),
        Cell::Fixed(status),
    ]);
    row
}

/// `C` and 17 letters or digits, as Zeek's are; the same for all lines of a connection.
pub(super) fn uid(seed: u64, id: u64) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut rest = u128::from(mix(&[seed, 81, id])) << 64 | u128::from(mix(&[seed, 82, id]));
    let mut text = String::with_capacity(18);
    text.push('C');
    for _ in 0..17 {
        text.push(char::from(DIGITS[(rest % 62) as usize]));
        rest /= 62;
    }
    text
}

pub(super) const CONN: &[(&str, &str)] = &[
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("proto", "enum"),
    ("service", "string"),
    ("duration", "interval"),
    ("orig_bytes", "count"),
    ("resp_bytes", "count"),
    ("conn_state", "string"),
    ("local_orig", "bool"),
    ("local_resp", "bool"),
    ("missed_bytes", "count"),
    ("history", "string"),
    ("orig_pkts", "count"),
    ("orig_ip_bytes", "count"),
    ("resp_pkts", "count"),
    ("resp_ip_bytes", "count"),
    ("tunnel_parents", "set[string]"),
    ("ip_proto", "count"),
];

pub(super) const DNS: &[(&str, &str)] = &[
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("proto", "enum"),
    ("trans_id", "count"),
    ("rtt", "interval"),
    ("query", "string"),
    ("qclass", "count"),
    ("qclass_name", "string"),
    ("qtype", "count"),
    ("qtype_name", "string"),
    ("rcode", "count"),
    ("rcode_name", "string"),
    ("AA", "bool"),
    ("TC", "bool"),
    ("RD", "bool"),
    ("RA", "bool"),
    ("Z", "count"),
    ("answers", "vector[string]"),
    ("TTLs", "vector[interval]"),
    ("rejected", "bool"),
];

pub(super) const SSL: &[(&str, &str)] = &[
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("version", "string"),
    ("cipher", "string"),
    ("curve", "string"),
    ("server_name", "string"),
    ("resumed", "bool"),
    ("last_alert", "string"),
    ("next_protocol", "string"),
    ("established", "bool"),
    ("ssl_history", "string"),
];

pub(super) const HTTP: &[(&str, &str)] = &[
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
    ("trans_depth", "count"),
    ("method", "string"),
    ("host", "string"),
    ("uri", "string"),
    ("referrer", "string"),
    ("version", "string"),
    ("user_agent", "string"),
    ("origin", "string"),
    ("request_body_len", "count"),
    ("response_body_len", "count"),
    ("status_code", "count"),
    ("status_msg", "string"),
];
