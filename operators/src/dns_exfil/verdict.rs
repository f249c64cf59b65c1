//! From what is kept to what is told: how strong it is, and the words for it.

use libm::{log2, round};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::signal::{Endpoint, Evidence, Severity, Value};
use tidewatch_schemas::time::EventTime;

use super::DnsExfil;
use super::question::NO_DOMAIN;
use super::state::{HORIZONS_S, HostState, Watched, Window};
use crate::door::dns_contact;
use crate::operator::{Context, Draft, TenantFacts};
use crate::why::{About, CASES_MAX, Case, Condition};

/// Hosts that must know a domain, and share of the tenant's, for it to be everybody's.
const COMMON_HOSTS_MIN: u64 = 3;
const COMMON_SHARE_MIN: f64 = 0.1;
/// What is taken from the confidence of a domain that is everybody's.
const COMMON_CONFIDENCE: u8 = 35;

impl DnsExfil {
    /// A draft when something is to be told now.
    pub(super) fn judge(&self, watched: &mut Watched, at: EventTime, ctx: &Context<'_>) -> Option<Draft> {
        let sums = watched.sums();
        // The horizon over which it is strongest; the shorter of equals.
        let (mut horizon, mut strength) = (0, 0.0_f64);
        for (n, (sum, wanted)) in sums.iter().zip(self.bytes).enumerate() {
            if sum / wanted > strength {
                (horizon, strength) = (n, sum / wanted);
            }
        }
        let by_information = strength >= 1.0 && watched.lately() >= self.min_names;
        let window = watched.window(self.part_ns);
        let unique = f64::from(window.distinct) / f64::from(window.queries.max(1));
        let by_window = window.queries >= self.min_queries
            && f64::from(window.bytes) >= self.qname_bytes
            && unique >= self.unique_ratio
            && !watched.asks_for_digests();
        if !(by_information || by_window) || !watched.says(strength.max(1.0), at) {
            return None;
        }
        let names = f64::from(watched.names.max(1));
        let mean = (watched.name_information + watched.answer_information) / names;
        let mut more = 0.0_f64;
        if by_information {
            // How much a name carries, and types that hardly anything else asks for; a drip over a day is doubtful.
            let dense = ((log2(mean.max(1.0)) - 1.0) / 4.0).clamp(0.0, 1.0);
            let wide = f64::from(watched.wide) / names;
            let quick = [10.0, 8.0, 5.0, 0.0][horizon];
            let strong = (4.0 * log2(strength.max(1.0))).min(8.0);
            more = 5.0 + 14.0 * dense + 6.0 * wide.min(1.0) + quick + strong;
        }
        if by_window {
            more = more.max(libm::trunc(30.0 * unique) + 10.0);
        }
        let confidence = (self.base_confidence + more).clamp(1.0, 99.0) as u8;
        Some(draft(watched, confidence, &sums, horizon, window, at, ctx))
    }
}

/// What the state says of each condition, domain by domain.
pub(super) fn cases(of: &DnsExfil, state: &HostState, about: &About<'_>) -> Vec<Case> {
    const HORIZONS: [&str; 4] = ["bytes within 10 s", "bytes within 10 min", "bytes within 1 h", "bytes within 24 h"];
    let mut watched: Vec<&Watched> = state.watched().iter().filter(|w| about.is(&w.domain)).collect();
    watched.sort_by(|a, b| (b.names, &a.domain).cmp(&(a.names, &b.domain)));
    let mut cases = Vec::new();
    for watched in watched.into_iter().take(CASES_MAX / 2) {
        let strength = |n: &usize| watched.sums()[*n] / of.bytes[*n];
        let horizon = (0..HORIZONS.len()).max_by(|a, b| strength(a).total_cmp(&strength(b))).unwrap_or(0);
        let window = watched.window(of.part_ns);
        let unique = f64::from(window.distinct) / f64::from(window.queries.max(1));
        let case = |way, conditions| Case { subject: watched.domain.clone(), way, conditions };
        cases.push(case(
            "information",
            vec![
                Condition::at_least("new names within a day (min_names)", watched.lately(), of.min_names),
                Condition::at_least(HORIZONS[horizon], watched.sums()[horizon], of.bytes[horizon]),
            ],
        ));
        cases.push(case(
            "many new names",
            vec![
                Condition::at_least("queries (min_queries)", f64::from(window.queries), f64::from(of.min_queries)),
                Condition::at_least("octets of names (qname_bytes)", f64::from(window.bytes), of.qname_bytes),
                Condition::at_least("share of new names (unique_ratio)", unique, of.unique_ratio),
                Condition::is("mostly digests or addresses", watched.asks_for_digests(), false),
            ],
        ));
    }
    cases
}

fn draft(
    watched: &Watched,
    confidence: u8,
    sums: &[f64; 4],
    horizon: usize,
    window: Window,
    at: EventTime,
    ctx: &Context<'_>,
) -> Draft {
    let whole = |bytes: f64| Value::Long(round(bytes) as i64);
    let to = if watched.domain == NO_DOMAIN { "names under no top-level domain" } else { &watched.domain };
    let span_s = round(at.since(watched.first).max(0) as f64 / 1e9);
    let back = watched.answer_information;
    let mut why = format!(
        "{} asked for {} distinct names under {to} in {} queries within {span_s} s; they carry about {} bytes",
        ctx.key.host,
        watched.names,
        watched.queries,
        round(watched.name_information),
    );
    if back >= 1.0 {
        why += &format!(", the answers about {}", round(back));
    }
    if let Some(example) = watched.examples.first() {
        why += &format!("; such as {example}");
    }
    let mut fields = Evidence::new();
    let mut put = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    put("domain", Value::Text(watched.domain.clone()));
    put("queries", Value::Long(i64::from(watched.queries)));
    put("qname_bytes", Value::Long(watched.name_bytes as i64));
    put("unique_ratio", Value::Double(round(f64::from(window.distinct) / f64::from(window.queries.max(1)) * 100.0) / 100.0));
    put("names_distinct", Value::Long(i64::from(watched.names)));
    put("information_bytes", whole(watched.name_information));
    put("answer_bytes", whole(back));
    put("horizon_s", Value::Long(HORIZONS_S[horizon]));
    put("horizon_bytes", whole(sums[horizon]));
    put("span_s", Value::Double(span_s));
    put("types", Value::List(watched.types.iter().map(|t| Value::Long(i64::from(*t))).collect()));
    put("examples", Value::List(watched.examples.iter().map(|n| Value::Text(n.clone())).collect()));
    let severity = match confidence {
        0..70 => Some(Severity::Medium),
        70..85 => Some(Severity::High),
        _ => None,
    };
    Draft {
        why,
        confidence,
        severity,
        subject: watched.domain.clone(),
        contact: Some(dns_contact(&watched.domain)),
        destination: Some(Endpoint { domain: Some(watched.domain.clone()), ..Endpoint::default() }),
        first_seen: watched.first,
        last_seen: at,
        decided_at: at,
        evidence: fields,
        // A channel in both directions is a tunnel, and what leaves through it goes where the orders come from.
        attack: if back >= 64.0 { vec!["T1041", "T1572"] } else { Vec::new() },
        raw: watched.raw.clone(),
    }
}

/// The tenant's view: a domain into which many hosts put long names is a service that they all use, or worse; it is told
/// all the same, below what is one host's own.
pub(super) fn judge(mut finding: Finding, facts: &TenantFacts) -> Option<Finding> {
    let share = facts.knowing as f64 / facts.hosts.max(1) as f64;
    if facts.knowing >= COMMON_HOSTS_MIN && share >= COMMON_SHARE_MIN {
        finding.confidence = finding.confidence.saturating_sub(COMMON_CONFIDENCE);
        finding.severity = finding.severity.min(Severity::Low);
        finding.why += &format!("; {} of {} hosts do", facts.knowing, facts.hosts);
    }
    finding.evidence.insert("hosts_knowing".to_owned(), Value::Long(facts.knowing as i64));
    Some(finding)
}
