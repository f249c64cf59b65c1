//! Scans: a host that tries many services to see which are there, inside or outside, fast or slow.
//!
//! # What it finds
//! One host whose attempts at new (target, port) pairs fail again and again: one port of many targets (horizontal), many
//! ports of one target (vertical), several of both (block), inside or outside, in seconds or one every quarter of an hour.
//! Inside also the sweep that is answered everywhere: one port of many hosts that the host had never called.
//!
//! # Why it matters
//! Looking around comes before moving (T1046, T1018) and before breaking in elsewhere (T1595.001). Who knows the network
//! gets answers; who looks around does not.
//!
//! # Rows and key
//! Flows begun by the host: TCP, UDP and ICMP, to internal peers and to external ones. An attempt fails when it is refused
//! or not answered; rows whose sender said nothing (backscatter) and records of answers do not count. Per (port, side) and
//! per target the attempts that failed are kept, each pair once however often it is repeated; one that answers later has not
//! failed, and one that had answered before is a server that went down. The evidence is that of a sequential test: new
//! targets that fail speak for a scan, new ones that answer against it. Outside, a high port counts only when it stands out
//! among the ports that failed lately (else it is a peer-to-peer client), and web servers ask for twice the number and more
//! failures than answers; ICMP counts inside alone and for half. What answers inside is remembered as known; a day on which the host was told of teaches nothing,
//! so a scan cannot make its targets known. A sweep that is answered everywhere is looked at for a quarter of an hour before
//! it is told: pollers call again. At most one finding a slice, an hour and side, unless what failed has doubled.
//!
//! # State
//! Nothing for a host that only calls outside and is answered. Else 0.5 KB and 0.2 KB per internal port it uses or target
//! that failed it; at most 96 groups of 64 attempts each and twice 2,048 known services, 16 bytes an attempt: 140 KB for
//! a scanner. At the limit a third of the groups goes, those with the fewest failed attempts first; of a group the oldest
//! attempt (counts then say `at_least`). What is not tried for a day is forgotten.
//!
//! # Thresholds
//! `targets` 20 failed targets of one port in ten minutes, a quarter more in an hour, half more in a day; `ports` 15 failed
//! ports of one target likewise. Inside, new targets that answer count half, up to the number of those that fail. At least
//! three in ten new targets must fail (six in ten of web servers outside). Web servers outside are also told of when half of
//! `targets` fail within a minute and between them others answer, three to seven in ten failing: a list that is tried. Block: 1.5 times `targets` attempts, and likewise more in an
//! hour and a day, over three or more targets and ports. Answered sweeps: twice `targets`, in a day only of a host known for a day. Two benign days had at
//! most 17 targets a day at one port that failed and never answered, and 3 failed ports at one target.
//! Confidence: base, up to 15 for the share that failed, up to 15 for the number, 10 for a block, 5 for the other forms,
//! 5 less for a sweep that is answered, 5 more in minutes and 5 less over a day.
//!
//! Thresholds were fixed on one seed of generated traffic and judged on two others (`tidewatch-bench generate --preset
//! scans`, `tidewatch backtest`, `tidewatch-bench judge`): 115 of 116 scans, movements and held connections found, from
//! 100 targets a second to one in 15 minutes, all failing to all answered; no alert of this detector about an ordinary
//! host, poller, printer driver, peer-to-peer client, crawler or client of a dead server. The one missed: a block of 96
//! attempts over a day of which half were answered. Of one failing port per target and 100 a second it knows after 0.4 s.
//!
//! Severity, at most the rule's:
//!
//! | what | severity |
//! | --- | --- |
//! | the scanner is outside | low |
//! | answered everywhere, over a day or by a host not known for a day | low |
//! | answered everywhere | medium |
//! | inside from confidence 75 on, outside from 80 on | high |
//! | the rest | medium |
//!
//! # False positives
//! Vulnerability scanners, inventory and monitoring that begin with a new range: list them in `scanners`. A poller of twenty
//! or more services that are all dead when it is first seen is told once. ICMP says not whether it asks: a server that
//! tells forty clients of a dead service looks as if it swept them. Services by which clients look around by nature
//! (`quiet_ports`) do not count.
//!
//! # Blind spots
//! UDP and ICMP in records of one direction, which do not tell whether anything answered; ICMP sweeps of fewer than forty hosts
//! that do not answer, because rows tell no echo request from an error message; scans of web servers outside of which half answer; random targets at random high ports; fewer than 30 targets a day; one scanner's targets spread over
//! many sources; sweeps from outside, of which each host sees one attempt; `quiet_ports`.
//!
//! # ATT&CK
//! T1046 Network Service Discovery; inside T1018 Remote System Discovery, outside T1595.001 Active Scanning: Scanning IP
//! Blocks.
//!
//! # Sources
//! Zeek's simple-scan for what counts as failed, threshold random walk (Jung et al. 2004) for new targets as evidence;
//! figures of Slips, Elastic and flowscope for what is too little.

mod group;
mod known;
mod state;
mod verdict;

use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

pub use self::state::HostState;
use self::state::{Attempt, seconds};
use crate::ends::{host_class, peer_class, peer_hash};
use crate::key::{Host, HostKey};
use crate::listed::Listed;
use crate::operator::{Context, Detector, Field, Flow, Initiator, ListEntry, ListField, Observation, Operator, Seen, Threshold};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, Case};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.scan",
    rule_kind: "scan",
    title: "Scan",
    page: include_str!("scan.rs"),
    reads: &[Kind::Flow],
    attack: &["T1046"],
    thresholds: &[
        Threshold {
            name: "targets",
            default: 20.0,
            min: 4.0,
            max: 40.0,
            meaning: "failed targets of one port in ten minutes; 1.25 times in an hour, 1.5 times in a day",
        },
        Threshold {
            name: "ports",
            default: 15.0,
            min: 4.0,
            max: 40.0,
            meaning: "failed ports of one target in ten minutes; 1.25 times in an hour, 1.5 times in a day",
        },
    ],
    lists: &[
        ListField {
            name: "scanners",
            default: &[],
            entry: ListEntry::Text,
            meaning: "hosts that may: addresses, networks (10.0.9.0/24) or workload names",
        },
        ListField {
            name: "quiet_ports",
            default: &["53", "123", "137", "138", "161", "427", "515", "631", "1900", "3702", "5353", "5355", "9100"],
            entry: ListEntry::Port,
            meaning: "ports by which printers, names, clocks and neighbours are looked for by nature; attempts at them do not count",
        },
    ],
    evidence: &[
        ("form", Field::Text),
        ("side", Field::Text),
        ("targets", Field::Long),
        ("ports", Field::List),
        ("failed", Field::Long),
        ("answered", Field::Long),
        ("failed_ratio", Field::Double),
        ("at_least", Field::Flag),
        ("window_s", Field::Long),
        ("span_s", Field::Long),
        ("examples", Field::List),
    ],
    limits: &[&state::GROUPS, &group::FAILS, &known::KNOWN],
    build: |rule| Store::boxed(&DETECTOR, rule, Scan::new),
    judge: |finding, _| Some(finding),
};

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct Scan {
    targets: f64,
    ports: f64,
    base_confidence: f64,
    scanners: Listed,
    quiet: Vec<u16>,
}

impl Scan {
    /// For a rule whose thresholds and lists are filled in.
    pub fn new(rule: &Rule) -> Self {
        let mut quiet: Vec<u16> = rule.list("quiet_ports").iter().filter_map(|p| p.parse().ok()).collect();
        quiet.sort_unstable();
        Self {
            targets: rule.threshold("targets").max(1.0),
            ports: rule.threshold("ports").max(1.0),
            base_confidence: f64::from(rule.base_confidence),
            scanners: Listed::of(rule.list("scanners")),
            quiet,
        }
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Failed,
    Answered,
}

/// The outcome of a flow begun by the host; `None` when it is not an attempt of the host's.
fn outcome(key: &HostKey, flow: &Flow<'_>) -> Option<Outcome> {
    const SYN: u8 = 2;
    const ACK: u8 = 16;
    let row = &flow.row;
    if row.direction_known {
        // The sender said nothing: somebody answers to what was never asked.
        if row.packets_forward == Some(0) {
            return None;
        }
        return match row.connection_state {
            Some("SHR" | "RSTRH") => None,
            // In the middle of something; of ICMP, the only state there is.
            Some("OTH") if row.transport == 6 => None,
            _ if flow.failed => Some(Outcome::Failed),
            _ if matches!(row.transport, 1 | 58) && row.packets_reverse == Some(0) => Some(Outcome::Failed),
            _ => Some(Outcome::Answered),
        };
    }
    let sent = match &key.host {
        Host::Address(address) => row.source_address == Some(*address),
        Host::Name(name) => row.source_name == Some(name),
    };
    match row.tcp_flags {
        _ if !sent => None,
        _ if flow.failed => Some(Outcome::Failed),
        // Neither asks nor agrees: a refusal of something unasked.
        Some(flags) if row.transport == 6 && flags != 0 && flags & (SYN | ACK) == 0 => None,
        _ => Some(Outcome::Answered),
    }
}

/// What a row is at first sight: enough to leave most rows alone.
struct Glance {
    outside: bool,
    port: u16,
    outcome: Outcome,
}

impl Scan {
    fn glance(&self, key: &HostKey, flow: &Flow<'_>) -> Option<Glance> {
        if flow.initiator != Initiator::Host {
            return None;
        }
        let class = peer_class(flow);
        let outside = class.is_external();
        if !outside && !class.is_internal() {
            return None;
        }
        let port = match (flow.row.transport, flow.peer_port) {
            // Outside, what a host answers to the noise cannot be told from what it asks.
            (1 | 58, _) if outside => return None,
            (1 | 58, _) => 0,
            (_, port) => port?,
        };
        let outcome = outcome(key, flow)?;
        (port == 0 || self.quiet.binary_search(&port).is_err()).then_some(Glance { outside, port, outcome })
    }
}

fn attempt(key: &HostKey, flow: &Flow<'_>, seen: &Seen<'_>, glance: &Glance) -> Option<Attempt> {
    let own = matches!((&key.host, flow.peer.address), (Host::Address(a), Some(b)) if *a == b);
    let &Glance { outside, port, .. } = glance;
    let peer = peer_hash(flow).filter(|_| !own)?;
    Some(Attempt { peer, transport: flow.row.transport, port, outside, at: seen.at, position: seen.position })
}

fn name(flow: &Flow<'_>) -> String {
    match flow.peer.address {
        Some(address) => address.to_string(),
        None => flow.peer.name.unwrap_or("").to_owned(),
    }
}

impl Operator for Scan {
    type State = HostState;

    fn concerns(&self, key: &HostKey, rows: &[Seen<'_>]) -> bool {
        let matters = |seen: &Seen<'_>| match &seen.what {
            // Most rows are answers from outside: told at a glance.
            Observation::Flow(flow) => {
                (flow.failed || !peer_class(flow).is_external())
                    && self.glance(key, flow).is_some_and(|g| g.outcome == Outcome::Failed || !g.outside)
            }
            _ => false,
        };
        rows.iter().any(matters) && !self.scanners.holds(key)
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let mut told = None;
        let rows = if self.scanners.holds(ctx.key) { &[] } else { rows };
        for seen in rows {
            let Observation::Flow(flow) = &seen.what else { continue };
            // An answer from outside says something only where something failed.
            if !flow.failed && !state.hears_outside() && peer_class(flow).is_external() {
                continue;
            }
            let Some(glance) = self.glance(ctx.key, flow) else { continue };
            let answered = glance.outcome == Outcome::Answered;
            let Some(attempt) = attempt(ctx.key, flow, seen, &glance) else { continue };
            let kept = state.made(seen.at);
            kept.turns(seen.at);
            if answered {
                if let Some(place) = kept.answered(&attempt, || name(flow))
                    && !attempt.outside
                    && let Some(until_s) = self.sweeps(kept, place, seconds(seen.at))
                {
                    ctx.wake_at(EventTime::from_secs(i64::from(until_s)));
                }
            } else if let Some(places) = kept.failed(&attempt, || name(flow))
                && let Some(shape) = self.judge(kept, &attempt, places)
            {
                // The first of a slice: the earliest decision.
                told = told.or(Some((shape, host_class(ctx.key, flow).is_internal())));
            }
        }
        if let Some((shape, inside)) = told {
            let draft = self.draft(&shape, inside, ctx);
            ctx.emit(draft);
        }
        if state.is_empty() {
            ctx.forget();
        }
    }

    fn wake(&self, at: EventTime, state: &mut HostState, ctx: &mut Context<'_>) {
        let Some(seen) = state.seen() else { return };
        // A wish that was overtaken by an earlier one is made again.
        let at = at.max(ctx.slice.start);
        if let Some(shape) = self.swept(seen, at) {
            // Answers are looked for inside only.
            let draft = self.draft(&shape, true, ctx);
            ctx.emit(draft);
        }
        if seen.waiting > 0 {
            ctx.wake_at(at.plus(60 * SECOND_NS));
        }
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        Some(verdict::cases(self, state, about))
    }
}

#[cfg(test)]
mod tests;
