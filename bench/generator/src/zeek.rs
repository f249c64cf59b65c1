//! The traffic as Zeek writes it: conn, dns, ssl and http logs, tab-separated with their headers or as JSON, each log in
//! the order in which its lines are written (conn at a connection's end, ssl at the handshake's). Zeek knows no tenants:
//! a line carries the tenant beside it, and the caller keeps them apart.

use std::fmt::Write as _;

use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::event::{Answer, Connection, DnsEvent, Event, FlowEvent, HttpEvent, Outcome, TlsEvent, Transport};
use crate::plan::Plan;
use crate::random::mix;
use crate::traffic::Traffic;

/// A log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Log {
    /// Connections.
    Conn,
    /// DNS queries.
    Dns,
    /// TLS handshakes.
    Ssl,
    /// HTTP exchanges.
    Http,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Conn, Self::Dns, Self::Ssl, Self::Http];

    /// Name of the log, as in `#path`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conn => "conn",
            Self::Dns => "dns",
            Self::Ssl => "ssl",
            Self::Http => "http",
        }
    }

    /// Columns in order: (name, Zeek's type).
    pub fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Conn => CONN,
            Self::Dns => DNS,
            Self::Ssl => SSL,
            Self::Http => HTTP,
        }
    }

    /// The lines before the first row of a tab-separated file, with line ends.
    pub fn header(self, open: EventTime) -> String {
        let names: Vec<_> = self.fields().iter().map(|(name, _)| *name).collect();
        let types: Vec<_> = self.fields().iter().map(|(_, kind)| *kind).collect();
        format!(
            "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t{}\n#open\t{}\n#fields\t{}\n#types\t{}\n",
            self.name(),
            stamp(open),
            names.join("\t"),
            types.join("\t")
        )
    }

    /// The line after the last row of a tab-separated file, with line end.
    pub fn footer(close: EventTime) -> String {
        format!("#close\t{}\n", stamp(close))
    }
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Tab-separated values.
    Tsv,
    /// One JSON object.
    Json,
}

/// One line of a log, without line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeekLine {
    /// Log it belongs to.
    pub log: Log,
    /// Index of the tenant in the plan.
    pub tenant: u16,
    /// When it was written: never goes back within a plan.
    pub at: EventTime,
    /// The line.
    pub line: String,
}

/// The lines of a plan, by time of writing.
pub fn zeek_lines(plan: &Plan, style: Style) -> impl Iterator<Item = ZeekLine> + '_ {
    Traffic::new(plan, 0).map(move |event| {
        let (log, row) = match &event {
            Event::Flow(flow) => (Log::Conn, conn(plan.seed, flow)),
            Event::Dns(dns) => (Log::Dns, query(plan.seed, dns)),
            Event::Tls(tls) => (Log::Ssl, handshake(plan.seed, tls)),
            Event::Http(http) => (Log::Http, exchange(plan.seed, http)),
        };
        debug_assert_eq!(row.len(), log.fields().len());
        let line = match style {
            Style::Tsv => tsv(&row),
            Style::Json => json(log.fields(), &row),
        };
        ZeekLine { log, tenant: event.connection().tenant, at: event.at(), line }
    })
}

const CONN: &[(&str, &str)] = &[
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

const DNS: &[(&str, &str)] = &[
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

const SSL: &[(&str, &str)] = &[
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

const HTTP: &[(&str, &str)] = &[
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

/// A cell; what it looks like depends on the style alone.
enum Cell {
    Unset,
    /// Seconds with six decimals, from nanoseconds: times and intervals.
    Seconds(i64),
    Count(u64),
    Bool(bool),
    Text(String),
    Fixed(&'static str),
    Texts(Vec<String>),
    Intervals(Vec<i64>),
}

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

fn conn(seed: u64, flow: &FlowEvent) -> Vec<Cell> {
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
    let internal = |a: tidewatch_schemas::address::Address| a.0[12] == 10;
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

fn query(seed: u64, dns: &DnsEvent) -> Vec<Cell> {
    let (kind, kind_name) = dns.kind.code();
    let no_name = dns.answer == Answer::NoName;
    let answer = match &dns.answer {
        Answer::Address(address) => Some(address.to_string()),
        Answer::Text(text) => Some(format!("TXT {} {text}", text.len())),
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

fn handshake(seed: u64, tls: &TlsEvent) -> Vec<Cell> {
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

fn exchange(seed: u64, http: &HttpEvent) -> Vec<Cell> {
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
fn uid(seed: u64, id: u64) -> String {
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

fn tsv(row: &[Cell]) -> String {
    let mut line = String::with_capacity(192);
    for (n, cell) in row.iter().enumerate() {
        if n > 0 {
            line.push('\t');
        }
        match cell {
            Cell::Unset => line.push('-'),
            Cell::Seconds(ns) => seconds(&mut line, *ns),
            Cell::Count(count) => _ = write!(line, "{count}"),
            Cell::Bool(yes) => line.push(if *yes { 'T' } else { 'F' }),
            // Generated texts hold no tab, no line end and nothing unprintable.
            Cell::Text(text) => line.push_str(text),
            Cell::Fixed(text) => line.push_str(text),
            Cell::Texts(texts) => line.push_str(&texts.join(",")),
            Cell::Intervals(all) => joined(&mut line, all),
        }
    }
    line
}

fn json(fields: &[(&str, &str)], row: &[Cell]) -> String {
    let mut line = String::with_capacity(512);
    for ((name, _), cell) in fields.iter().zip(row) {
        if matches!(cell, Cell::Unset) {
            continue;
        }
        line.push(if line.is_empty() { '{' } else { ',' });
        _ = write!(line, "\"{name}\":");
        match cell {
            Cell::Unset => {}
            Cell::Seconds(ns) => seconds(&mut line, *ns),
            Cell::Count(count) => _ = write!(line, "{count}"),
            Cell::Bool(yes) => line.push_str(if *yes { "true" } else { "false" }),
            // Generated texts hold nothing that JSON would escape.
            Cell::Text(text) => _ = write!(line, "\"{text}\""),
            Cell::Fixed(text) => _ = write!(line, "\"{text}\""),
            Cell::Texts(texts) => _ = write!(line, "[\"{}\"]", texts.join("\",\"")),
            Cell::Intervals(all) => {
                line.push('[');
                joined(&mut line, all);
                line.push(']');
            }
        }
    }
    line.push('}');
    line
}

fn joined(line: &mut String, intervals: &[i64]) {
    for (n, &ns) in intervals.iter().enumerate() {
        if n > 0 {
            line.push(',');
        }
        seconds(line, ns);
    }
}

fn seconds(line: &mut String, ns: i64) {
    _ = write!(line, "{}.{:06}", ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS) / 1_000);
}

/// `2026-03-11-08-00-00`.
fn stamp(at: EventTime) -> String {
    let whole = EventTime(at.0 - at.0.rem_euclid(SECOND_NS)).to_rfc3339();
    whole.trim_end_matches('Z').replace(['T', ':'], "-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::attack::{Attack, Beacon, Peer};

    fn plan() -> Plan {
        let beacon = Beacon { peer: Peer::Proxied, duration_s: 7_200, ..Beacon::default() };
        Plan { attacks: vec![Attack::from(beacon)], proxied_share: 0.3, flows_max: Some(12_000), ..Plan::small(9) }
    }

    /// Reads columns by their names, as a reader of Zeek's files must.
    fn columns<'a>(header: &'a str, line: &'a str) -> BTreeMap<&'a str, &'a str> {
        let fields = header.lines().find_map(|l| l.strip_prefix("#fields\t")).unwrap();
        let types = header.lines().find_map(|l| l.strip_prefix("#types\t")).unwrap();
        assert_eq!(fields.split('\t').count(), types.split('\t').count());
        assert_eq!(fields.split('\t').count(), line.split('\t').count(), "{line}");
        fields.split('\t').zip(line.split('\t')).collect()
    }

    #[test]
    fn tabs_and_json_say_the_same() {
        let plan = plan();
        let headers: BTreeMap<_, _> = Log::ALL.iter().map(|&log| (log, log.header(plan.start))).collect();
        let mut seen: BTreeMap<Log, u64> = BTreeMap::new();
        let mut last = plan.start;
        for (tsv, json) in zeek_lines(&plan, Style::Tsv).zip(zeek_lines(&plan, Style::Json)) {
            assert_eq!((tsv.log, tsv.at, tsv.tenant), (json.log, json.at, json.tenant));
            assert!(tsv.at >= last);
            last = tsv.at;
            *seen.entry(tsv.log).or_default() += 1;
            let cells = columns(&headers[&tsv.log], &tsv.line);
            let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(&json.line).unwrap();
            for (name, cell) in &cells {
                match object.get(*name) {
                    None => assert_eq!(*cell, "-"),
                    Some(serde_json::Value::Bool(yes)) => assert_eq!(*cell, if *yes { "T" } else { "F" }),
                    Some(serde_json::Value::String(text)) => assert_eq!(cell, text),
                    Some(serde_json::Value::Number(number)) => {
                        assert_eq!(cell.parse::<f64>().unwrap(), number.as_f64().unwrap());
                    }
                    Some(serde_json::Value::Array(_)) => assert!(!cell.contains('[')),
                    other => unreachable!("{other:?}"),
                }
            }
            if tsv.log == Log::Conn {
                let start = EventTime::from_secs_f64(cells["ts"].parse().unwrap()).unwrap();
                let lasts = EventTime::from_secs_f64(cells["duration"].parse().unwrap()).unwrap();
                assert!((start.plus(lasts.0).since(tsv.at)).abs() < 2_000, "written at the end: {}", tsv.line);
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn only_http_names_what_is_behind_the_proxy() {
        let plan = plan();
        let label = crate::truths(&plan).remove(0);
        assert_eq!(label.needs.as_deref(), Some("http"));
        let name = label.destination.unwrap();
        let connects = zeek_lines(&plan, Style::Tsv)
            .filter(|l| l.log == Log::Http && l.line.contains("\tCONNECT\t") && l.line.contains(&name))
            .count();
        assert!(connects > 60, "{connects}");
        let to_proxy = |l: &ZeekLine| l.log == Log::Conn && l.line.contains("\t10.0.0.80\t3128\t");
        let proxied = zeek_lines(&plan, Style::Tsv).filter(to_proxy).count();
        assert!(proxied > 3 * connects, "others use the proxy too: {proxied}");
    }

    #[test]
    fn a_file_begins_and_ends_as_zeeks_do() {
        let header = Log::Conn.header(EventTime::from_secs(1_773_216_000).plus(999));
        assert!(header.starts_with("#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"));
        assert!(header.contains("#open\t2026-03-11-08-00-00\n#fields\tts\tuid\tid.orig_h\t"));
        assert_eq!(Log::footer(EventTime::from_secs(1_773_216_000)), "#close\t2026-03-11-08-00-00\n");
        assert!(uid(1, 2) != uid(1, 3) && uid(1, 2).len() == 18);
    }
}
