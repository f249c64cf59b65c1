//! Egress volume: a host that sends far more to the outside than it ever does.
//!
//! # What it finds
//! Octets that one internal host sends to external peers, summed over connections and destinations, in the running minute,
//! hour and the last eight hours, when the sum is `spike_factor` times what the host's own busy minutes amount to (0.6 of
//! the factor for hours, 0.4 for eight hours: the longer the window, the less chance varies) and at least `min_bytes`.
//!
//! # Why it matters
//! Data that leaves is the damage. However it is split over connections, addresses or names, the sum has to pass, and few
//! hosts send much: most only ask.
//!
//! # Rows and key
//! Flows begun by the host, from an internal host to an external peer, whose octets are known and above 0. Answers of a
//! server never count, nor does a second exporter's view. A flow that lasted longer than a window adds to that window only
//! the part that fits in, so that sources that tell of a connection at its end and such that tell every minute agree. A
//! destination that sends back half as much or more is a conversation (a call, a game, a mirror) and left out. Only a slice
//! that brought rows can bring a candidate, at most one a minute; hours are told again after eight hours, or when they have
//! doubled. Eight hours leave out the hours that a shorter window has told of.
//!
//! Eight destinations of a window are kept; any other takes the place of the least one, with what was counted there as
//! the bound of how much more it may have got (Space-Saving). So whoever got more than an eighth of the window is among
//! them, in however small pieces, and `top_destination_bytes` is what the destination named certainly got, between that
//! and `top_destination_bytes_max` what it did get. Destinations are known as conversations by what passed while they
//! were kept. Where all that are kept are conversations, and what others got is too much, it is told without a destination.
//!
//! # State
//! Per host 1.4 to 2.8 KB, with many habits 4.2 KB: three windows, the third highest value of today and of seven earlier
//! days for each, eight destinations of the running minute and hour, two filters of 1,024 bits of destinations seen (one
//! is replaced when half of its bits are set), and twelve habits (at the limit the one least often seen goes, of equals the
//! oldest). Nothing for a host that sends nothing outside.
//!
//! # Thresholds
//! The bar is the highest of the daily highs of eight days, where a day's high is its third highest window: two odd
//! minutes do not move it. What is over the bar never enters it, nor does an hour that holds such a minute, and a day
//! raises the bar to three times the former one at most. `min_samples` 12 minutes with traffic must be known; hours and
//! eight hours also need a day of history. `min_bytes` 10 MiB is what a person would miss. Ratios are taken against the
//! bar or `min_bytes / spike_factor`, whichever is higher. Confidence: base, 5 per doubling of the ratio up to 30, 3 per
//! doubling over `min_bytes` up to 15, 10 for destinations not seen before, 5 less in the first day.
//!
//! # False positives
//! Back-ups and scheduled reports fire twice: the third time at the same time of day to the same network (autonomous
//! system where known, else /16 or /32) they are a habit and silent up to twice their size. It is one occurrence that
//! begins 2 hours early to 2 hours late, goes on within an hour of what was last sent or within 2 hours of its beginning,
//! and lasts 4 hours, or twice as long as any before it. The same network at any other hour is another thing: it is told,
//! and becomes a habit of its own at its third time. Uploads by people: large, rare, to new places, as a theft is; look
//! at the destination. Uploads to one service at hours that change are told until the hours repeat.
//!
//! # Blind spots
//! Less than `min_bytes` in eight hours; a bar raised slowly over days; a thief who pulls data from a server outside in;
//! a receiver that sends half of it back; a habit's network at the habit's hour, and as long after it as the habit lasts;
//! the first minutes of a new host; which destinations got less than an eighth of a window each.
//!
//! # ATT&CK
//! T1048 Exfiltration Over Alternative Protocol; where the busiest destination is reached at a port of the web (80, 443, 8080,
//! 8443) T1567 Exfiltration Over Web Service.
//!
//! # Sources
//! probectl's default rule for names and values of thresholds; sigwood's share of the originator; flowscope and Slips for
//! what judging flow by flow misses; Metwally, Agrawal, El Abbadi 2005 for Space-Saving.

mod habit;
mod known;
mod state;
mod window;

use libm::{log2, round};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{Kind, Row};
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};

pub use self::state::HostState;
use self::state::{Octets, Sent, Spike};
use crate::ahead::Round;
use crate::detection::{HostRows, SliceRow};
use crate::ends::{address_hash, host_class, peer_class, peer_hash, raw_ends};
use crate::key::HostKey;
use crate::operator::{Context, Detector, Draft, Field, Flow, Initiator, Observation, Operator, Seen, TenantFacts, Threshold};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, Case};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.egress_volume",
    rule_kind: "egress_volume",
    title: "Unusual egress volume",
    page: include_str!("egress_volume.rs"),
    reads: &[Kind::Flow],
    attack: &["T1048"],
    thresholds: &[
        Threshold {
            name: "min_samples",
            default: 12.0,
            min: 3.0,
            max: 10_080.0,
            meaning: "minutes with traffic that must be known before anything is unusual; 12 as in probectl, 10,080 is a week",
        },
        Threshold {
            name: "spike_factor",
            default: 10.0,
            min: 2.0,
            max: 10_000.0,
            meaning: "a minute's octets over the host's own busy minutes; 0.6 of it for an hour, 0.4 for eight, never below 2",
        },
        Threshold {
            name: "min_bytes",
            default: 10_485_760.0,
            min: 1.0,
            max: 1e15,
            meaning: "octets below which a window is never told; 10 MiB",
        },
    ],
    lists: &[],
    evidence: &[
        ("bytes", Field::Long),
        ("baseline_bytes", Field::Long),
        ("ratio", Field::Double),
        ("window_s", Field::Long),
        ("top_destination", Field::Text),
        ("top_destination_bytes", Field::Long),
        ("top_destination_bytes_max", Field::Long),
        ("destinations", Field::Long),
        ("new_destination_share", Field::Double),
        ("history_days", Field::Long),
    ],
    limits: &[&habit::HABITS],
    build: |rule| Store::boxed(&DETECTOR, rule, EgressVolume::new),
    judge,
};

/// Hosts from which a share says something, and the share from which a destination is everybody's.
const HOSTS_MIN: u64 = 10;
const POPULAR: f64 = 0.4;

/// Confidence from which an unusual volume is an alert: about ten times the busy window and a clear excess in octets.
const ALERT_CONFIDENCE: u8 = 50;

/// Where everybody sends, an upload says less; what was found stays.
fn judge(mut finding: Finding, facts: &TenantFacts) -> Option<Finding> {
    if facts.hosts >= HOSTS_MIN && facts.knowing as f64 >= POPULAR * facts.hosts as f64 {
        finding.confidence = finding.confidence.saturating_sub(10);
    }
    if finding.confidence < ALERT_CONFIDENCE {
        // A few times a quiet minute: context for the analyst, not an alert.
        finding.severity = finding.severity.min(Severity::Low);
    }
    Some(finding)
}

/// What of a rule decides.
#[derive(Clone, Copy, Debug)]
struct Limits {
    samples_min: u32,
    factor: f64,
    bytes_min: f64,
    base_confidence: f64,
}

/// The operator of one rule.
#[derive(Clone, Copy, Debug)]
pub struct EgressVolume {
    limits: Limits,
}

impl EgressVolume {
    /// For a rule whose thresholds are filled in.
    pub fn new(rule: &Rule) -> Self {
        Self {
            limits: Limits {
                samples_min: rule.threshold("min_samples") as u32,
                factor: rule.threshold("spike_factor").max(1.0),
                bytes_min: rule.threshold("min_bytes").max(1.0),
                base_confidence: f64::from(rule.base_confidence),
            },
        }
    }

    fn confidence(&self, spike: &Spike) -> f64 {
        let Limits { bytes_min, base_confidence, .. } = self.limits;
        let ratio = (5.0 * log2(spike.ratio)).clamp(0.0, 30.0);
        let size = (3.0 * log2(spike.bytes / bytes_min)).clamp(0.0, 15.0);
        let fresh = 10.0 * spike.new_share;
        let young = if spike.days == 0 { 5.0 } else { 0.0 };
        (base_confidence + ratio + size + fresh - young).clamp(1.0, 99.0)
    }

    fn draft(&self, spike: &Spike, ctx: &Context<'_>) -> Draft {
        let top = spike.top.as_ref();
        let whom = match top {
            Some(top) => {
                let at_least = if top.more > 0.0 { "at least " } else { "" };
                format!("{at_least}{} to {}", octets(top.bytes), top.place.to_text())
            }
            None => "to many destinations".to_owned(),
        };
        let why = format!(
            "{} sent {} to the outside in {}, {} times its busy {} ({}), {whom}",
            ctx.key.host,
            octets(spike.bytes),
            spike.scale.words(),
            round(spike.ratio * 10.0) / 10.0,
            spike.scale.words(),
            octets(spike.baseline),
        );
        let mut evidence = Evidence::new();
        let mut put = |name: &str, value: Value| evidence.insert(name.to_owned(), value);
        put("bytes", Value::Long(round(spike.bytes) as i64));
        put("baseline_bytes", Value::Long(round(spike.baseline) as i64));
        put("ratio", Value::Double(round(spike.ratio * 10.0) / 10.0));
        put("window_s", Value::Long(spike.scale.length_s()));
        if let Some(top) = top {
            put("top_destination", Value::Text(top.place.to_text()));
            put("top_destination_bytes", Value::Long(round(top.bytes) as i64));
            put("top_destination_bytes_max", Value::Long(round(top.bytes + top.more) as i64));
        }
        put("destinations", Value::Long(spike.destinations as i64));
        put("new_destination_share", Value::Double(round(spike.new_share * 1000.0) / 1000.0));
        put("history_days", Value::Long(i64::from(spike.days)));
        Draft {
            why,
            confidence: self.confidence(spike) as u8,
            subject: "egress".to_owned(),
            contact: top.map(|top| top.place.to_text()),
            destination: top.map(|top| Endpoint {
                ip: top.place.address().map(|a| a.to_string()),
                name: top.place.name().map(str::to_owned),
                port: top.port,
                ..Endpoint::default()
            }),
            first_seen: spike.first,
            last_seen: spike.last,
            decided_at: spike.last,
            evidence,
            attack: if matches!(top.and_then(|top| top.port), Some(80 | 443 | 8080 | 8443)) { vec!["T1567"] } else { Vec::new() },
            raw: spike.raw.clone(),
            ..Draft::default()
        }
    }
}

/// What a flow adds; `None` when it is none of those that count.
// In place: handed back through memory, its first use waits until all that was written before it has reached the caches.
#[inline(always)]
fn sent<'a>(key: &HostKey, flow: &Flow<'a>, seen: &Seen<'_>) -> Option<(Sent<'a>, Octets)> {
    let (out, back) = (flow.bytes_out.unwrap_or(0), flow.bytes_in.unwrap_or(0));
    let counts = flow.initiator == Initiator::Host
        && (out > 0 || back > 0)
        && peer_class(flow).is_external()
        && host_class(key, flow).is_internal();
    if !counts {
        return None;
    }
    let sent = Sent {
        peer: peer_hash(flow)?,
        address: flow.peer.address,
        name: flow.peer.name,
        port: flow.peer_port,
        asn: flow.row.destination_asn.filter(|_| flow.row.destination_address == flow.peer.address).filter(|a| *a != 0),
        lasting_s: (seen.at.since(flow.start) as f64 / 1e9).max(0.0),
        at: seen.at,
        position: seen.position,
    };
    Some((sent, Octets { out: out as f64, back: back as f64 }))
}

/// Octets for people.
fn octets(bytes: f64) -> String {
    const STEPS: [(f64, &str); 4] =
        [(1_099_511_627_776.0, "TiB"), (1_073_741_824.0, "GiB"), (1_048_576.0, "MiB"), (1024.0, "KiB")];
    for (step, unit) in STEPS {
        if bytes >= step {
            return format!("{} {unit}", round(bytes / step * 10.0) / 10.0);
        }
    }
    format!("{} B", round(bytes))
}

impl Operator for EgressVolume {
    type State = HostState;

    fn ahead(state: &HostState, host: &HostRows<'_>, round: Round) {
        let first = || {
            let flow = |row: &SliceRow<'_>| match &row.row {
                Row::Flow(flow) => raw_ends(&host.key.host, flow),
                _ => None,
            };
            host.rows.iter().find_map(flow).map(|(peer, ..)| address_hash(peer))
        };
        state.ahead(first, round);
    }

    fn concerns(&self, key: &HostKey, rows: &[Seen<'_>]) -> bool {
        rows.iter().any(|seen| matches!(&seen.what, Observation::Flow(flow) if sent(key, flow, seen).is_some()))
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let mut best: Option<Box<Spike>> = None;
        for seen in rows {
            let Observation::Flow(flow) = &seen.what else { continue };
            let Some((sent, octets)) = sent(ctx.key, flow, seen) else { continue };
            if state.turns(seen.at) {
                // A slice may hold several minutes: each is judged when it is full.
                best = Spike::greater(best, state.judge(&self.limits));
            }
            state.add(&sent, octets, &self.limits);
        }
        best = Spike::greater(best, state.judge(&self.limits));
        if let Some(spike) = best {
            ctx.emit(self.draft(&spike, ctx));
        }
        if state.is_empty() {
            ctx.forget();
        }
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        Some(state.cases(&self.limits).into_iter().filter(|case| about.is(&case.subject)).collect())
    }
}

#[cfg(test)]
mod tests;
