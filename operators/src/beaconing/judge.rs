//! The tenant's view of a candidate: how many hosts talk to the destination, and for how long somebody has.

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::signal::{Severity, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::operator::TenantFacts;

/// Hosts from which a share says something: of fewer, one host is always "many".
const HOSTS_MIN: u64 = 10;

/// Share of hosts from which a destination is everybody's: dropped, unless it mostly fails.
const POPULAR: f64 = 0.4;
/// Share from which it is common.
const COMMON: f64 = 0.1;
/// Share up to which it is rare, as a single host always is.
const RARE: f64 = 0.02;

/// A destination that many hosts met within the last hour: how many more will is not known yet, so it waits. A lone host's
/// destination does not wait, and neither does one that mostly fails.
const SETTLING_NS: i64 = 3_600 * SECOND_NS;

/// Few hosts, as infected ones are: so many, or this share of all where that is more. What is few waits until no other
/// has joined for so long, within that hour. Software that many take up in an hour is joined every few minutes, and by all
/// who poll at one period within one period.
const FEW_HOSTS: u64 = 3;
const FEW: f64 = 0.05;
const JOINING_NS: i64 = 600 * SECOND_NS;

/// Days after which a destination is an old acquaintance.
const OLD_DAYS: i64 = 14;

/// Adds prevalence; drops what everybody talks to. What our own probes measure is context, not an alert.
pub(super) fn judge(mut finding: Finding, facts: &TenantFacts) -> Option<Finding> {
    if facts.hosts > 0 {
        finding.why = format!(
            "{}; {} of {} hosts {} to it",
            finding.why,
            facts.knowing,
            facts.hosts,
            if facts.knowing == 1 { "talks" } else { "talk" }
        );
    }
    if facts.hosts >= HOSTS_MIN {
        let share = facts.knowing as f64 / facts.hosts as f64;
        finding.evidence.insert("prevalence".to_owned(), Value::Double(libm::round(share * 10_000.0) / 10_000.0));
        let failing = matches!(finding.evidence.get("failed_ratio"), Some(Value::Double(r)) if *r >= 0.5);
        if share >= POPULAR && !failing {
            return None;
        }
        if facts.knowing >= 2 && !failing && is_spreading(&finding, facts) {
            return None;
        }
        if share >= COMMON {
            adjust(&mut finding, -15);
            if !failing {
                // What every tenth host talks to is context, not an alert.
                finding.severity = finding.severity.min(Severity::Low);
            }
        } else if share <= RARE || facts.knowing <= 1 {
            adjust(&mut finding, 8);
        }
        let old = facts.known_since.is_some_and(|since| finding.decided_at.since(since) > OLD_DAYS * 86_400 * SECOND_NS);
        if old {
            adjust(&mut finding, -8);
        }
    }
    if facts.probed {
        adjust(&mut finding, -15);
        finding.severity = finding.severity.min(Severity::Low);
        finding.why.push_str("; our own probes measure it");
        finding.evidence.entry("ordinary".to_owned()).or_insert_with(|| Value::Text("own probe".to_owned()));
    }
    Some(finding)
}

/// Whether so many may join yet that it would be everybody's.
fn is_spreading(finding: &Finding, facts: &TenantFacts) -> bool {
    let within = |since: Option<EventTime>, ns: i64| since.is_some_and(|since| finding.decided_at.since(since) < ns);
    let few = facts.knowing <= FEW_HOSTS || facts.knowing as f64 <= FEW * facts.hosts as f64;
    within(facts.known_since, SETTLING_NS) && (!few || within(facts.joined_at, JOINING_NS))
}

fn adjust(finding: &mut Finding, by: i8) {
    finding.confidence = finding.confidence.saturating_add_signed(by).min(99);
}
