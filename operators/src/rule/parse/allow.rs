//! Exceptions as documents write them: in a rule, or beside the rules for several at once.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::document::{Map, Mistakes, Node, did_you_mean, shown};
use tidewatch_schemas::time::EventTime;

use super::{RULE_ID_BYTES_MAX, Shared, TEXT_BYTES_MAX, severity, text};
use crate::operator::Detector;
use crate::rule::allow::{Allow, network};
use crate::rule::set::Place;

/// Exceptions of one rule, at most.
pub const ALLOW_ENTRIES_MAX: usize = 10_000;

/// Values of one field of an exception, at most.
const VALUES_MAX: usize = 1_000;

/// Longest name of a domain, bytes, as DNS has it.
const DOMAIN_BYTES_MAX: usize = 253;

/// Names an exception may have, whether it must have them, and what they mean.
pub const ALLOW_FIELDS: &[(&str, bool, &str)] = &[
    ("source", false, "whom the finding is about: addresses, networks (`10.0.3.0/24`), workload names"),
    ("destination", false, "the other end: addresses, networks, workload names"),
    ("domain", false, "a name asked for, and everything below it"),
    ("asn", false, "number of the other end's network, where the exporter tells it"),
    ("port", false, "port of the other end"),
    ("owner", true, "who answers for the exception"),
    ("reason", true, "why it is there"),
    (
        "expires",
        true,
        "a day (`2026-12-31`) or a moment (`2026-12-31T12:00:00Z`) from which it acts no more, in event time; or `never`",
    ),
    (
        "up_to",
        false,
        "`info` to `critical`: what is graver is told all the same, as of something that somebody has seen; nothing is when left out",
    ),
    ("kinds", false, "beside the rules alone: the kinds of rules it is for; all when left out"),
    ("rules", false, "beside the rules alone: the ids of rules it is for; all when left out"),
];

/// Names that an exception inside a rule has not: it is that rule's.
const SHARED_FIELDS: [&str; 2] = ["kinds", "rules"];

/// The exceptions of a rule. `None` = a mistake.
pub(super) fn list(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Vec<(Allow, Place)>> {
    let nodes = node.list(mistakes)?;
    if nodes.len() > ALLOW_ENTRIES_MAX {
        mistakes.push(node.mistake(format!("{} exceptions; at most {ALLOW_ENTRIES_MAX}", nodes.len())));
        return None;
    }
    let known: Vec<&str> = ALLOW_FIELDS.iter().map(|(n, ..)| *n).filter(|n| !SHARED_FIELDS.contains(n)).collect();
    let expected = nodes.len();
    let read: Vec<(Allow, Place)> = nodes
        .into_iter()
        .filter_map(|node| {
            let map = node.map(mistakes)?;
            map.expect_keys(&known, mistakes);
            Some((one(&map, mistakes)?, Place::of(node)))
        })
        .collect();
    (read.len() == expected).then_some(read)
}

/// The exceptions that stand beside the rules.
pub(super) fn shared(node: Node<'_>, detectors: &[&Detector], mistakes: &mut Mistakes) -> Vec<Shared> {
    let Some(nodes) = node.list(mistakes) else { return Vec::new() };
    if nodes.len() > ALLOW_ENTRIES_MAX {
        mistakes.push(node.mistake(format!("{} exceptions; at most {ALLOW_ENTRIES_MAX}", nodes.len())));
        return Vec::new();
    }
    let known: Vec<&str> = ALLOW_FIELDS.iter().map(|(n, ..)| *n).collect();
    let kinds: Vec<&str> = detectors.iter().map(|d| d.rule_kind).collect();
    let mut all = Vec::new();
    for node in nodes {
        let Some(map) = node.map(mistakes) else { continue };
        map.expect_keys(&known, mistakes);
        let of_kinds = values(&map, "kinds", mistakes, |n, m| n.one_of(&kinds, m).map(|i| kinds[i].to_owned()));
        let ids = values(&map, "rules", mistakes, |n, m| Some((text(n, RULE_ID_BYTES_MAX, m)?.to_owned(), Place::of(n))));
        if let (Some(kinds), Some(ids), Some(allow)) = (of_kinds, ids, one(&map, mistakes)) {
            all.push(Shared { kinds, ids, allow, place: Place::of(node) });
        }
    }
    all
}

fn one(map: &Map<'_>, mistakes: &mut Mistakes) -> Option<Allow> {
    let source = values(map, "source", mistakes, end);
    let destination = values(map, "destination", mistakes, end);
    let domain = values(map, "domain", mistakes, domain);
    let asn = values(map, "asn", mistakes, |n, m| n.u32_in(1, u32::MAX, m));
    let port = values(map, "port", mistakes, |n, m| n.u32_in(0, 65_535, m).map(|p| p as u16));
    let owner = map.require("owner", mistakes).and_then(|n| text(n, TEXT_BYTES_MAX, mistakes));
    let reason = map.require("reason", mistakes).and_then(|n| text(n, TEXT_BYTES_MAX, mistakes));
    let expires = map.require("expires", mistakes).and_then(|n| expires(n, mistakes));
    let up_to = map.get("up_to").map_or(Some(None), |n| severity(n, mistakes).map(Some));
    let allow = Allow {
        source: source?,
        destination: destination?,
        domain: domain?,
        asn: asn?,
        port: port?,
        owner: owner?.to_owned(),
        reason: reason?.to_owned(),
        expires: expires?,
        up_to: up_to?,
    };
    if allow.is_for_all() {
        let what =
            "an exception names at least one of source, destination, domain, asn, port; to switch a rule off: enabled: false";
        mistakes.push(map.node().mistake(what));
        return None;
    }
    Some(allow)
}

/// One value or a list of them, sorted. `None` = a mistake.
fn values<'a, T: Ord>(
    map: &Map<'a>,
    name: &str,
    mistakes: &mut Mistakes,
    read: impl Fn(Node<'a>, &mut Mistakes) -> Option<T>,
) -> Option<Vec<T>> {
    let Some(node) = map.get(name) else { return Some(Vec::new()) };
    let nodes = if node.is_list() { node.list(mistakes)? } else { vec![node] };
    if nodes.len() > VALUES_MAX {
        mistakes.push(node.mistake(format!("{} entries; at most {VALUES_MAX}", nodes.len())));
        return None;
    }
    let expected = nodes.len();
    let mut all: Vec<T> = nodes.into_iter().filter_map(|n| read(n, mistakes)).collect();
    let good = all.len() == expected;
    all.sort_unstable();
    all.dedup();
    good.then_some(all)
}

/// An address, a network, or a workload's name, in one form.
fn end(node: Node<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let written = text(node, TEXT_BYTES_MAX, mistakes)?;
    if let Some(address) = Address::parse(written.as_bytes()) {
        return Some(address.to_string());
    }
    if let Some(network) = network(written) {
        return Some(network.trunc().to_string());
    }
    if written.split_once('/').is_some_and(|(address, _)| Address::parse(address.as_bytes()).is_some()) {
        mistakes.push(
            node.mistake(format!("expected an address, a network as 10.0.3.0/24 or a workload's name, got {}", shown(written))),
        );
        return None;
    }
    Some(written.to_lowercase())
}

/// A domain in lower case, without the dots and stars that people write around it.
fn domain(node: Node<'_>, mistakes: &mut Mistakes) -> Option<String> {
    let written = text(node, TEXT_BYTES_MAX, mistakes)?;
    let name = written.trim_start_matches("*.").trim_matches('.').to_lowercase();
    let label = |l: &str| !l.is_empty() && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let is_address = network(&name).is_some();
    if is_address || name.len() > DOMAIN_BYTES_MAX || !name.split('.').all(label) {
        let mut mistake = node.mistake(format!("expected a domain as updates.example, got {}", shown(written)));
        if is_address {
            mistake.what.push_str("; addresses go under destination");
        }
        mistakes.push(mistake);
        return None;
    }
    Some(name)
}

/// `Some(None)` = never.
fn expires(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Option<EventTime>> {
    let written = text(node, TEXT_BYTES_MAX, mistakes)?;
    if written == "never" {
        return Some(None);
    }
    let at = if written.len() == 10 {
        EventTime::parse_rfc3339(&format!("{written}T00:00:00Z"))
    } else {
        EventTime::parse_rfc3339(written)
    };
    if at.is_none() {
        let what = format!("expected a day as 2026-12-31, a moment as 2026-12-31T12:00:00Z, or never, got {}", shown(written));
        let mut mistake = node.mistake(what);
        mistake.suggestion = did_you_mean(written, ["never"]);
        mistakes.push(mistake);
    }
    at.map(Some)
}
