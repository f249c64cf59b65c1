//! Long connections: an interactive connection to the outside that stays open for days.
//!
//! # What it finds
//! One connection between an internal host and the outside that has been open for `open_s` and over which both ends have
//! spoken all the while: a remote shell, a desktop, a tunnel. Told once.
//!
//! # Why it matters
//! Most connections end in minutes. One that is held open for days is held by something that wants to stay reachable:
//! remote access tools (T1219) and tunnels (T1572) are, and nobody looks at a connection that never ends.
//!
//! # Rows and key
//! TCP and UDP flows with both ports known, to external peers; begun by the host, or by the peer on a port by which machines
//! are administered (`ports`): web and mail servers are held open by whoever likes. Between internal hosts connections
//! that last are the rule, and none counts. Where a source tells of whole connections (Zeek), records with one start are one
//! connection, and what passed is the most that any of them says; where it tells of parts (active time-outs), parts
//! over the same ports without a new first packet are one connection, with silence of up to six hours in TCP and of two
//! minutes in UDP. Only connections with a part of 50 s or more take a place. Interactive: both ends sent at least 1,000
//! octets, neither 200 times what the other did.
//!
//! # State
//! Nothing for a host without a part of 50 s. Else 150 bytes per connection, at most 512: 85 KB. At the limit half goes,
//! the youngest first. Forgotten after a quarter of an hour without a record, or after 26 hours when it lasted an hour.
//!
//! # Thresholds
//! `open_s` 172,800, two days: what people leave open over night has ended, and on two benign days the longest connection
//! lasted 6.6 hours. Duration by itself says little (RITA lists three destinations of 4 hours or more a host and day), so
//! nothing is told earlier. `known_ports` are those of push, mail, calls, VPN, time and routing, which last by design.
//! Confidence: base, up to 15 for age, 10 for less than 1,000 octets a second, 10 for another port than that of web
//! servers, 5 for a peer that began it; 20 less where two of five hosts know the destination, and such a one is low. Else
//! severity is medium, at most the rule's.
//!
//! Duration is a factor for other detectors rather than a finding: beaconing lowers a pair by 20 and to low severity whose
//! connections last as long as the rhythm (a reconnection) or are held for ten seconds and more on a timer, and every one
//! of its findings says in `open_s` how long they stay open; egress volume counts what a connection sends while it is still
//! open, not when it ends. This detector tells only what none of them can: one connection that does not end.
//!
//! # False positives
//! Remote work by shell or desktop on a machine outside; chat and monitoring agents over port 443; VPNs on other ports.
//!
//! # Blind spots
//! Connections that are closed and opened anew every few hours (beaconing sees those that come in rhythm); QUIC that moves
//! between addresses; `known_ports`; connections between internal hosts; what is open for less than two days.
//!
//! # ATT&CK
//! T1219 Remote Access Tools, T1572 Protocol Tunneling.
//!
//! # Sources
//! RITA and Slips for what duration alone is worth.

mod state;

use libm::{log2, round};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::SECOND_NS;

pub use self::state::HostState;
use self::state::{Open, Part};
use crate::ends::{peer_class, peer_hash};
use crate::operator::{
    Context, Detector, Draft, Field, Flow, Initiator, ListEntry, ListField, Observation, Operator, Seen, TenantFacts, Threshold,
};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::table::mixed;
use crate::why::{About, CASES_MAX, Case, Condition};

/// A part that lasts so long takes a place; common active time-outs are 60 s and more.
const PART_NS: i64 = 50 * SECOND_NS;
/// A connection told of as a whole takes one from here on: it may be told of again, still open.
const WHOLE_NS: i64 = 1800 * SECOND_NS;

const TCP_GAP_NS: i64 = 6 * 3600 * SECOND_NS;
const UDP_GAP_NS: i64 = 130 * SECOND_NS;

/// Octets that each end must have sent, and how many times what the other sent either may send.
const SPOKEN_BYTES: u64 = 1000;
const UNEVEN: u64 = 200;

/// Octets a second below which a connection is slow: people's and tools' orders, not files.
const SLOW_BYTES_S: f64 = 1000.0;

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.long_connection",
    rule_kind: "long_connection",
    title: "Long connection",
    page: include_str!("long_connection.rs"),
    reads: &[Kind::Flow],
    attack: &["T1219", "T1572"],
    thresholds: &[Threshold {
        name: "open_s",
        default: 172_800.0,
        min: 3600.0,
        max: 2_592_000.0,
        meaning: "age from which an interactive connection is told; two days outlast a working day and its night",
    }],
    lists: &[
        ListField {
            name: "known_ports",
            default: &[
                "53", "123", "143", "179", "443/udp", "500", "993", "995", "1194", "1701", "1883", "3478", "4500", "5060",
                "5061", "5222", "5223", "5228", "5349", "8883", "51820",
            ],
            entry: ListEntry::Text,
            meaning: "services whose connections last by design; `443/udp` means one transport only",
        },
        ListField {
            name: "ports",
            default: &["22", "23", "135", "445", "3389", "5900", "5938", "5985", "5986"],
            entry: ListEntry::Port,
            meaning: "own ports on which a connection from outside counts",
        },
    ],
    evidence: &[
        ("open_s", Field::Long),
        ("bytes_out", Field::Long),
        ("bytes_in", Field::Long),
        ("bytes_s", Field::Double),
        ("records", Field::Long),
        ("hours_heard", Field::Long),
        ("opened_by_host", Field::Flag),
        ("port", Field::Long),
    ],
    limits: &[&state::OPEN],
    build: |rule| Store::boxed(&DETECTOR, rule, LongConnection::new),
    judge,
};

/// Hosts from which a share says something, and the share from which a destination is everybody's.
const HOSTS_MIN: u64 = 10;
const POPULAR: f64 = 0.4;

fn judge(mut finding: Finding, facts: &TenantFacts) -> Option<Finding> {
    if facts.hosts >= HOSTS_MIN && facts.knowing as f64 >= POPULAR * facts.hosts as f64 {
        finding.confidence = finding.confidence.saturating_sub(20);
        finding.severity = finding.severity.min(Severity::Low);
    }
    Some(finding)
}

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct LongConnection {
    open_ns: i64,
    base_confidence: f64,
    /// Port, and transport where only one is meant.
    known: Vec<(u16, Option<u8>)>,
    ports: Vec<u16>,
}

impl LongConnection {
    /// For a rule whose thresholds and lists are filled in.
    pub fn new(rule: &Rule) -> Self {
        let known = |entry: &String| match entry.split_once('/') {
            Some((port, "udp")) => Some((port.parse().ok()?, Some(17))),
            Some((port, "tcp")) => Some((port.parse().ok()?, Some(6))),
            _ => Some((entry.parse().ok()?, None)),
        };
        Self {
            open_ns: (rule.threshold("open_s") * SECOND_NS as f64) as i64,
            base_confidence: f64::from(rule.base_confidence),
            known: rule.list("known_ports").iter().filter_map(known).collect(),
            ports: rule.list("ports").iter().filter_map(|p| p.parse().ok()).collect(),
        }
    }

    /// Whether a row alone makes its connection worth a place.
    fn begins(&self, seen: &Seen<'_>, flow: &Flow<'_>) -> bool {
        seen.at.since(flow.start) >= if flow.row.direction_known { WHOLE_NS } else { PART_NS }
    }

    /// The part of a connection that a flow is, when it is one of those that count.
    fn part(&self, seen: &Seen<'_>, flow: &Flow<'_>) -> Option<Part> {
        let (host_port, peer_port) = (flow.host_port?, flow.peer_port?);
        let transport = flow.row.transport;
        let service = if flow.initiator == Initiator::Host { peer_port } else { host_port };
        let counts = matches!(transport, 6 | 17)
            && peer_class(flow).is_external()
            && (flow.initiator == Initiator::Host || self.ports.contains(&host_port))
            && !self.known.iter().any(|(port, only)| *port == service && only.is_none_or(|t| t == transport));
        if !counts {
            return None;
        }
        let ports = u64::from(host_port) << 32 | u64::from(peer_port) << 8 | u64::from(transport);
        Some(Part {
            key: mixed(peer_hash(flow)?, ports),
            peer: flow.peer.address,
            port: service,
            start: flow.start,
            end: flow.row.end_time.unwrap_or(seen.at).max(flow.start),
            out: flow.bytes_out.unwrap_or(0),
            back: flow.bytes_in.unwrap_or(0),
            whole: flow.row.direction_known,
            syn: transport == 6 && flow.row.tcp_flags.is_some_and(|flags| flags & 2 != 0),
            gap_ns: if transport == 6 { TCP_GAP_NS } else { UDP_GAP_NS },
            at: seen.at,
            position: seen.position,
        })
    }

    fn is_due(&self, open: &Open) -> bool {
        let (less, more) = (open.out.min(open.back), open.out.max(open.back));
        !open.told && open.age_ns() >= self.open_ns && less >= SPOKEN_BYTES && more <= less.saturating_mul(UNEVEN)
    }

    fn draft(&self, open: &Open, flow: &Flow<'_>, ctx: &Context<'_>, seen: &Seen<'_>) -> Draft {
        let by_host = flow.initiator == Initiator::Host;
        let age_s = open.age_ns() as f64 / 1e9;
        let rate = (open.out as f64 + open.back as f64) / age_s.max(1.0);
        let service = if by_host { flow.peer_port } else { flow.host_port };
        let web = matches!(service, Some(80 | 443));
        let confidence = self.base_confidence
            + (10.0 * log2(open.age_ns() as f64 / self.open_ns.max(1) as f64)).clamp(0.0, 15.0)
            + if rate < SLOW_BYTES_S { 10.0 } else { 0.0 }
            + if web { 0.0 } else { 10.0 }
            + if by_host { 0.0 } else { 5.0 };
        let peer = match flow.peer.address {
            Some(address) => address.to_string(),
            None => flow.peer.name.unwrap_or("").to_owned(),
        };
        let port = service.unwrap_or(0);
        let days = round(age_s / 8640.0) / 10.0;
        let how = if by_host { "to" } else { "opened by" };
        let own = if by_host { String::new() } else { format!(" to its own port {port}") };
        let shown = if by_host { format!("{peer}:{port}") } else { peer.clone() };
        let why = format!(
            "{} has had a connection {how} {shown}{own} open for {days} days, over which both ends spoke: {} octets out, {} in",
            ctx.key.host, open.out, open.back
        );
        let mut evidence = Evidence::new();
        let mut put = |name: &str, value: Value| evidence.insert(name.to_owned(), value);
        put("open_s", Value::Long(age_s as i64));
        put("bytes_out", Value::Long(open.out.min(i64::MAX as u64) as i64));
        put("bytes_in", Value::Long(open.back.min(i64::MAX as u64) as i64));
        put("bytes_s", Value::Double(round(rate * 100.0) / 100.0));
        put("records", Value::Long(i64::from(open.records)));
        put("hours_heard", Value::Long(i64::from(open.hours)));
        put("opened_by_host", Value::Flag(by_host));
        put("port", Value::Long(i64::from(port)));
        Draft {
            why,
            confidence: confidence.clamp(1.0, 99.0) as u8,
            severity: Some(Severity::Medium),
            subject: format!("{peer} {port}"),
            contact: by_host.then(|| peer.clone()),
            destination: Some(Endpoint {
                ip: flow.peer.address.map(|a| a.to_string()),
                name: flow.peer.name.filter(|_| flow.peer.address.is_none()).map(str::to_owned),
                port: flow.peer_port.filter(|_| by_host),
                ..Endpoint::default()
            }),
            first_seen: open.start.min(seen.at),
            last_seen: open.last.min(seen.at),
            decided_at: seen.at,
            evidence,
            raw: open.raw.clone(),
            ..Draft::default()
        }
    }
}

impl Operator for LongConnection {
    type State = HostState;

    fn concerns(&self, _: &crate::key::HostKey, rows: &[Seen<'_>]) -> bool {
        rows.iter().any(
            |seen| matches!(&seen.what, Observation::Flow(flow) if self.begins(seen, flow) && self.part(seen, flow).is_some()),
        )
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        for seen in rows {
            let Observation::Flow(flow) = &seen.what else { continue };
            let begins = self.begins(seen, flow);
            // Whole connections that are short continue nothing.
            if !begins && (state.is_empty() || flow.row.direction_known) {
                continue;
            }
            let Some(part) = self.part(seen, flow) else { continue };
            if let Some(open) = state.file(&part, begins)
                && self.is_due(open)
            {
                open.told = true;
                let draft = self.draft(open, flow, ctx, seen);
                ctx.emit(draft);
            }
        }
        if state.is_empty() {
            ctx.forget();
        }
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        let subject = |open: &Open| {
            let peer = open.peer.map_or_else(|| "a peer known by name alone".to_owned(), |address| address.to_string());
            format!("{peer} {}", open.port)
        };
        let mut open: Vec<&Open> = state.connections().iter().filter(|open| about.is(&subject(open))).collect();
        open.sort_by_key(|open| (std::cmp::Reverse(open.age_ns()), open.peer, open.port));
        open.truncate(CASES_MAX);
        let case = |open: &Open| {
            let (less, more) = (open.out.min(open.back) as f64, open.out.max(open.back) as f64);
            let conditions = vec![
                Condition::at_least("open, s (open_s)", open.age_ns() as f64 / 1e9, self.open_ns as f64 / 1e9),
                Condition::at_least("octets of the end that sent less", less, SPOKEN_BYTES as f64),
                Condition::at_most("octets of the other, times that", more / less.max(1.0), UNEVEN as f64),
                Condition::is("told already", open.told, false),
            ];
            Case { subject: subject(open), way: "open", conditions }
        };
        Some(open.into_iter().map(case).collect())
    }
}

#[cfg(test)]
mod tests;
