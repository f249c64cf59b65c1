//! The list of detectors, in the order of the manual. Adding one: its file, its line here, its default rule in `rules/`,
//! its scenarios in `tests/`.

use crate::limit::Limit;
use crate::operator::Detector;
use crate::{beaconing, correlate, dns_dga, dns_exfil, egress_volume, lateral, long_connection, scan};

/// All detectors.
pub static ALL: &[&Detector] = &[
    &beaconing::DETECTOR,
    &dns_dga::DETECTOR,
    &dns_exfil::DETECTOR,
    &egress_volume::DETECTOR,
    &lateral::DETECTOR,
    &scan::DETECTOR,
    &long_connection::DETECTOR,
];

/// The limits within states, each with whose it is: a rule kind, or `correlate`.
pub fn limits() -> impl Iterator<Item = (&'static str, &'static Limit)> {
    let of_detectors = ALL.iter().flat_map(|d| d.limits.iter().map(|limit| (d.rule_kind, *limit)));
    of_detectors.chain(correlate::LIMITS.iter().map(|limit| ("correlate", *limit)))
}

/// The detector of a rule kind.
pub fn by_rule_kind(kind: &str) -> Option<&'static Detector> {
    of_rule_kind(ALL, kind)
}

/// The detector of a rule kind in a list.
pub fn of_rule_kind(list: &[&'static Detector], kind: &str) -> Option<&'static Detector> {
    list.iter().copied().find(|d| d.rule_kind == kind)
}

/// The detector of a signal kind.
pub fn by_kind(kind: &str) -> Option<&'static Detector> {
    ALL.iter().copied().find(|d| d.kind == kind)
}
