//! Lateral movement fan-out: a host that reaches for administration ports of many internal hosts.
//!
//! # What it finds
//! One internal host that opens connections to `fanout` or more other internal hosts within `window_s`, on ports by which
//! a machine is administered; or, slowly, to `fanout_day` or more within a day that it had never called. Whether they are
//! answered does not matter: a sweep over known open ports fails nowhere, nor does who logs on with a stolen password.
//!
//! # Why it matters
//! Somebody who holds one machine needs a second one. Looking for it (T1046) and logging on to it (T1021) both leave the
//! same trace: one source, many new destinations, few ports. It is the last moment before a foothold becomes an outbreak.
//!
//! # Rows and key
//! Flows that open a connection, begun by the host, both ends internal and different, the peer's port in `ports`. Answers
//! of a server never count. Destinations that the host has known for 12 hours or more through a connection that did
//! not fail are neighbours and left out, as are those that the service map (edges) has known for as long; nothing that
//! happens inside the window can make one, and what was told of becomes one only after 72 hours. It is no news for 20 hours
//! after, and no more at all when it was called six times since: a poller is told of once. In the count over a day
//! nothing is left out but what was known before that day, so a few a day cannot be made neighbours first. The window slides
//! over event time. A candidate comes when a count reaches its threshold, at each doubling, and again after a whole window
//! (the day's: after a day, and not when the window's was told), at most one per slice; a slice that crosses several
//! doublings tells of the highest.
//!
//! # State
//! Per host at most 1,024 destinations, 72 bytes each, as many entries of the window, 24 bytes each, and 64 of the day:
//! 89 KB for a scanner, 1 KB for a host with seven, nothing for a host that opens none of the ports. At the limit a quarter of the
//! destinations goes at once, strangers before neighbours, least recently touched first; the count then stops at 1,024 and
//! says so (`at_least`). A destination not touched for eight days is forgotten.
//!
//! # Thresholds
//! `fanout` 10 destinations in `window_s` 300: probectl's rule, between Slips (more than 5 failed in an hour) and Elastic
//! (100 addresses). `ports`: SSH, telnet, RPC, NetBIOS, SMB, RDP, VNC, WinRM. Confidence is the base, 10 per doubling of
//! the count up to 20, up to 15 for failed connections, up to 10 for destinations never seen before, 3 for several ports;
//! the day's count begins 10 lower. `fanout_day` 12 new destinations in a day, twice that on a host's first day, when all
//! are new: people and clients meet one or two a day.
//!
//! Severity, at most the rule's:
//!
//! | what | severity |
//! | --- | --- |
//! | within the window, confidence 60 and more: nearly all new, or many failed, or twice as many | critical |
//! | within the window, confidence 50 and more; over a day, 60 and more | high |
//! | a newcomer on the tenant's first day, fewer than three in ten failed, until it is known whether it comes again | medium |
//! | the rest | medium |
//!
//! On the first day that a tenant is watched every poller looks like somebody who moves: a host that opened none of the ports
//! within 12 hours, reaches many hosts and is answered. It is medium at once and watched for 65 minutes: who has called half of
//! these hosts again by then polls, and is left at that; of any other it is told again with the severity of the table. An
//! intruder who calls again as pollers do stays at medium, but is told of all the same, and from the second day on nobody is
//! given that time.
//!
//! # False positives
//! Vulnerability scanners, monitoring and management stations that begin later than on the first day: list them in
//! `scanners` (addresses, networks or names);
//! a station that goes about the same hosts every day falls silent by itself on the fourth, for they are its neighbours. A service that
//! goes down is many hosts to one, not one to many, and raises nothing.
//!
//! # Blind spots
//! Fewer than `fanout` hosts per window and `fanout_day` per day; movement over ports not listed; many ports of one host
//! (see scan); movement along connections the host has had for long; pairs that no sensor between the two hosts sees.
//!
//! # ATT&CK
//! T1046 Network Service Discovery, T1021 Remote Services; by port T1021.001 Remote Desktop Protocol (3389), T1021.002 SMB/Windows
//! Admin Shares (445), T1021.004 SSH (22), T1021.006 Windows Remote Management (5985, 5986).
//!
//! # Sources
//! probectl's default rule; Zeek's simple-scan and Slips for what counts as failed; thresholds of Elastic's sweep rule.

mod state;

use libm::{log2, round};
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{EdgeRow, Kind};
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

pub use self::state::HostState;
use self::state::{Reach, Touch};
use crate::ends::{host_class, peer_class, peer_hash};
use crate::key::{Host, HostKey};
use crate::listed::Listed;
use crate::operator::{
    Context, Detector, Draft, Field, Flow, Initiator, ListEntry, ListField, Observation, Operator, Seen, TenantFacts, Threshold,
};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, Case, Condition};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.lateral",
    rule_kind: "lateral",
    title: "Lateral movement fan-out",
    page: include_str!("lateral.rs"),
    reads: &[Kind::Flow, Kind::Edge],
    attack: &["T1046", "T1021"],
    thresholds: &[
        Threshold {
            name: "fanout",
            default: 10.0,
            min: 2.0,
            max: 512.0,
            meaning: "distinct destinations within window_s, neighbours left out; few people log on to ten machines in five minutes",
        },
        Threshold {
            name: "window_s",
            default: 300.0,
            min: 1.0,
            max: 21_600.0,
            meaning: "length of the sliding window; half the age at which a destination becomes a neighbour is the most",
        },
        Threshold {
            name: "fanout_day",
            default: 12.0,
            min: 2.0,
            max: 32.0,
            meaning: "destinations never called before within a day, twice that on a host's first day",
        },
    ],
    lists: &[
        ListField {
            name: "ports",
            default: &["22", "23", "135", "139", "445", "3389", "5900", "5985", "5986"],
            entry: ListEntry::WatchedPort,
            meaning: "ports by which machines are administered; clients open few of them, and to few servers",
        },
        ListField {
            name: "scanners",
            default: &[],
            entry: ListEntry::Text,
            meaning: "hosts that may: addresses, networks (10.0.9.0/24) or workload names",
        },
    ],
    evidence: &[
        ("fanout", Field::Long),
        ("at_least", Field::Flag),
        ("ports", Field::List),
        ("failed_ratio", Field::Double),
        ("first_seen", Field::Long),
        ("excluded", Field::Long),
        ("targets", Field::List),
        ("window_s", Field::Double),
        ("newcomer", Field::Flag),
        ("went_on", Field::Flag),
    ],
    limits: &[&state::PEERS, &state::RECENT, &state::FRESH],
    build: |rule| Store::boxed(&DETECTOR, rule, Lateral::new),
    judge,
};

/// Share of failed connections from which whoever is new here is no poller.
const FAILED_SHARE: f64 = 0.3;

/// A tenant watched for less than a day shows nothing but newcomers.
const FIRST_DAY_NS: i64 = 86_400 * SECOND_NS;

/// On a tenant's first day nobody knows who has always polled: a newcomer is medium until it has not come again. Later a
/// newcomer was told of as it is at once, and its not coming again is no news.
fn judge(mut finding: Finding, facts: &TenantFacts) -> Option<Finding> {
    let flag = |name| finding.evidence.get(name) == Some(&Value::Flag(true));
    let watched_ns = facts.watched_since.map_or(0, |since| finding.decided_at.since(since));
    if flag("went_on") {
        return (watched_ns < FIRST_DAY_NS + state::COMES_AGAIN_NS).then_some(finding);
    }
    if flag("newcomer") && watched_ns < FIRST_DAY_NS {
        finding.severity = finding.severity.min(Severity::Medium);
        finding.why.push_str("; on the first day that is watched, so it may have polled them for long");
    }
    Some(finding)
}

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct Lateral {
    fanout: usize,
    fanout_day: usize,
    window_ns: i64,
    base_confidence: f64,
    ports: Vec<u16>,
    scanners: Listed,
}

impl Lateral {
    /// For a rule whose thresholds and lists are filled in.
    pub fn new(rule: &Rule) -> Self {
        let mut ports: Vec<u16> = rule.list("ports").iter().filter_map(|p| p.parse().ok()).collect();
        ports.sort_unstable();
        Self {
            fanout: (rule.threshold("fanout") as usize).max(1),
            fanout_day: (rule.threshold("fanout_day") as usize).max(1),
            window_ns: (rule.threshold("window_s") * SECOND_NS as f64) as i64,
            base_confidence: f64::from(rule.base_confidence),
            ports,
            scanners: Listed::of(rule.list("scanners")),
        }
    }

    /// The destination and port, when the flow is one of those that count.
    fn reach(&self, key: &HostKey, flow: &Flow<'_>) -> Option<(u64, u16)> {
        let port = flow.peer_port?;
        let counts = flow.opens
            && flow.initiator == Initiator::Host
            && self.ports.binary_search(&port).is_ok()
            && peer_class(flow).is_internal()
            && host_class(key, flow).is_internal();
        let same = matches!((&key.host, flow.peer.address), (Host::Address(a), Some(b)) if *a == b)
            || matches!((&key.host, flow.peer.address, flow.peer.name), (Host::Name(a), None, Some(b)) if **a == *b);
        if !counts || same {
            return None;
        }
        Some((peer_hash(flow)?, port))
    }

    /// An edge that the service map has from this host to an administration port: to whom, since when.
    fn edge(&self, edge: &EdgeRow<'_>) -> Option<(u64, EventTime)> {
        let counts = edge.connections > 0 && self.ports.binary_search(&edge.destination_port?).is_ok();
        let name = edge.destination_name.as_bytes();
        let bytes = Address::parse(name);
        let hash = xxhash_rust::xxh3::xxh3_64(bytes.as_ref().map_or(name, |address| &address.0));
        counts.then_some((hash, edge.first_seen?))
    }

    /// 0 to 100.
    fn confidence(&self, reach: &Reach, day: bool) -> f64 {
        let count = reach.fanout as f64;
        let (bar, less) = if day { (self.fanout_day, 10.0) } else { (self.fanout, 0.0) };
        let wide = (10.0 * log2(count / bar as f64)).clamp(0.0, 20.0) - less;
        let failed = 15.0 * reach.failed as f64 / count;
        let strange = 10.0 * reach.fresh as f64 / count;
        let several = if reach.ports.len() > 1 { 3.0 } else { 0.0 };
        (self.base_confidence + wide + failed + strange + several).clamp(1.0, 99.0)
    }

    fn draft(&self, reach: &Reach, day: bool, newcomer: bool, peer: Endpoint, ctx: &Context<'_>) -> Draft {
        let confidence = self.confidence(reach, day) as u8;
        let severity = match (day, confidence) {
            (false, 60..) => Severity::Critical,
            (false, 50..) | (true, 60..) => Severity::High,
            _ => Severity::Medium,
        };
        let ratio = round(reach.failed as f64 / reach.fanout as f64 * 1000.0) / 1000.0;
        let ports: Vec<String> = reach.ports.iter().map(u16::to_string).collect();
        let span_s = round(reach.last.since(reach.first) as f64 / 1e9);
        let failed = if reach.failed > 0 { format!(", {} failed", reach.failed) } else { String::new() };
        let known = if reach.excluded > 0 { format!("; {} known neighbours left out", reach.excluded) } else { String::new() };
        let why = format!(
            "{} opened {} {} on {} internal hosts{} within {span_s} s{failed}{known}",
            ctx.key.host,
            if ports.len() == 1 { "port" } else { "ports" },
            ports.join(", "),
            reach.fanout,
            if day { " that it had never called" } else { "" },
        );
        let mut evidence = Evidence::new();
        let mut put = |name: &str, value: Value| evidence.insert(name.to_owned(), value);
        put("fanout", Value::Long(reach.fanout as i64));
        put("at_least", Value::Flag(reach.at_least));
        put("ports", Value::List(reach.ports.iter().map(|p| Value::Long(i64::from(*p))).collect()));
        put("failed_ratio", Value::Double(ratio));
        put("first_seen", Value::Long(reach.fresh as i64));
        put("excluded", Value::Long(reach.excluded as i64));
        put("targets", Value::List(reach.targets.iter().map(|t| Value::Text(t.clone())).collect()));
        put("window_s", Value::Double(if day { 86_400.0 } else { self.window_ns as f64 / 1e9 }));
        put("newcomer", Value::Flag(newcomer));
        Draft {
            why,
            confidence,
            severity: Some(severity),
            subject: "lateral".to_owned(),
            destination: Some(peer),
            first_seen: reach.first,
            last_seen: reach.last,
            decided_at: reach.last,
            evidence,
            attack: reach.ports.iter().filter_map(|port| technique(*port)).collect(),
            raw: reach.raw.clone(),
            ..Draft::default()
        }
    }
}

/// The remote service of a port.
fn technique(port: u16) -> Option<&'static str> {
    match port {
        22 => Some("T1021.004"),
        445 => Some("T1021.002"),
        3389 => Some("T1021.001"),
        5985 | 5986 => Some("T1021.006"),
        _ => None,
    }
}

fn endpoint(flow: &Flow<'_>) -> Endpoint {
    Endpoint {
        ip: flow.peer.address.map(|a| a.to_string()),
        name: flow.peer.name.filter(|_| flow.peer.address.is_none()).map(str::to_owned),
        port: flow.peer_port,
        ..Endpoint::default()
    }
}

impl Operator for Lateral {
    type State = HostState;

    fn concerns(&self, key: &HostKey, rows: &[Seen<'_>]) -> bool {
        let reaches = |seen: &Seen<'_>| match &seen.what {
            Observation::Flow(flow) => self.reach(key, flow).is_some(),
            Observation::Edge(edge) => self.edge(edge).is_some(),
            _ => false,
        };
        rows.iter().any(reaches) && !self.scanners.holds(key)
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let mut found: Option<Draft> = None;
        let rows = if self.scanners.holds(ctx.key) { &[] } else { rows };
        for seen in rows {
            let flow = match &seen.what {
                Observation::Flow(flow) => flow,
                Observation::Edge(edge) => {
                    if let Some((peer, first)) = self.edge(edge) {
                        state.known(peer, first.min(seen.at), seen.at);
                    }
                    continue;
                }
                _ => continue,
            };
            let Some((peer, port)) = self.reach(ctx.key, flow) else { continue };
            // A workload that the service map knows by its name.
            let alias = flow.peer.name.filter(|_| flow.peer.address.is_some());
            let alias = alias.map(|name| xxhash_rust::xxh3::xxh3_64(name.as_bytes()));
            let touch = Touch { peer, alias, port, failed: flow.failed, at: seen.at, position: seen.position };
            let count = state.touch(&touch, self.window_ns, || match flow.peer.address {
                Some(address) => address.to_string(),
                None => flow.peer.name.unwrap_or("").to_owned(),
            });
            let day = if state.says(count, self.fanout, seen.at, self.window_ns) {
                false
            } else if state.says_fresh(self.fanout_day, seen.at) {
                true
            } else {
                continue;
            };
            let reach = if day { state.reach_fresh(seen.at) } else { state.reach(seen.at, self.window_ns) };
            state.mark_told(day);
            let few_failed = (reach.failed as f64) < FAILED_SHARE * reach.fanout as f64;
            let newcomer = !day && few_failed && state.is_new(seen.at);
            found = Some(self.draft(&reach, day, newcomer, endpoint(flow), ctx));
            if newcomer {
                ctx.wake_at(state.watch(reach, seen.at));
            }
        }
        if let Some(draft) = found {
            ctx.emit(draft);
        }
        if state.is_empty() {
            ctx.forget();
        }
    }

    fn wake(&self, at: EventTime, state: &mut HostState, ctx: &mut Context<'_>) {
        // A wish that was overtaken by an earlier one is made again.
        let at = at.max(ctx.slice.start);
        if let Some(reach) = state.went_on(at) {
            let target = reach.targets.first().cloned().unwrap_or_default();
            let ip = Address::parse(target.as_bytes()).is_some();
            let peer = Endpoint {
                name: (!ip && !target.is_empty()).then(|| target.clone()),
                ip: ip.then_some(target),
                port: reach.ports.first().copied(),
                ..Endpoint::default()
            };
            let mut draft = self.draft(&reach, false, true, peer, ctx);
            draft.why.push_str("; it did not come again to them within an hour, as a poller would");
            draft.decided_at = at;
            draft.evidence.insert("went_on".to_owned(), Value::Flag(true));
            ctx.emit(draft);
        } else if let Some(until) = state.asked_at() {
            ctx.wake_at(until);
        }
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        let case = |way, name, reach: Reach, least: usize| Case {
            subject: format!("ports {}", reach.ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ")),
            way,
            conditions: vec![Condition::at_least(name, reach.fanout as f64, least as f64)],
        };
        Some(vec![
            case("window", "hosts reached (fanout)", state.reach(about.at, self.window_ns), self.fanout),
            case("day", "hosts first reached (fanout_day)", state.reach_fresh(about.at), self.fanout_day),
        ])
    }
}

#[cfg(test)]
mod tests;
