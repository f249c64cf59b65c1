//! Input topics: which format, how late, whose rows.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use tidewatch_schemas::document::{Map, Mistakes, Node, did_you_mean, show_duration, shown};
use tidewatch_schemas::topic::{is_namespace, topic_for};
use tidewatch_schemas::wire::Format;

use super::PARTITIONS_MAX;
use super::section::Section;

/// Inputs of one topology, at most: each may have many partitions.
pub const INPUTS_MAX: usize = 1_000;

/// Longest lateness: a slice waits for it before its signals appear.
const LATENESS_MAX: Duration = Duration::from_secs(24 * 3600);

/// Longest tenant id, bytes.
const TENANT_BYTES_MAX: usize = 128;

/// Longest topic name, bytes (Kafka's own limit).
const TOPIC_BYTES_MAX: usize = 249;

/// One input topic.
#[derive(Clone, Debug)]
pub struct Input {
    /// The topic that is read: on a lane with its namespace in it.
    pub topic: String,
    /// Format of its records.
    pub format: Format,
    /// How long after a row's event time older rows may still come: as given, else the format's own, at least `max_future`.
    pub lateness: Duration,
    /// Whose rows these are.
    pub tenancy: Tenancy,
    /// The siloed tenant's lane, if it is one.
    pub lane: Option<Lane>,
    /// Partitions with which tidewatch makes the topic if it is missing; `None` on Kafka = it must be there.
    pub partitions: Option<u32>,
}

impl PartialEq for Input {
    fn eq(&self, other: &Self) -> bool {
        // A format is its name; its decoder cannot be compared.
        (&self.topic, self.format.name, self.lateness, &self.tenancy, &self.lane, self.partitions)
            == (&other.topic, other.format.name, other.lateness, &other.tenancy, &other.lane, other.partitions)
    }
}

/// Whose rows an input carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tenancy {
    /// All belong to this tenant; the only way for formats that carry none.
    Static(String),
    /// The rows' own claim, verified.
    Verified {
        /// Who may claim what.
        registry: Registry,
        /// Records of a shared topic are rejected: every tenant must come on its lane.
        strict: bool,
    },
}

/// Who may claim to be which tenant's agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Registry {
    /// A file of `tenant agent` pairs, one a line (see `crate::normalize::tenancy`).
    File(PathBuf),
    /// Everybody: for a closed machine and for tests.
    Open,
}

/// A siloed tenant's lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// Namespace in the topic's name.
    pub namespace: String,
    /// Its tenant: authoritative whatever the payload says.
    pub tenant: String,
}

/// A tenant id: 1 to 128 printable ASCII characters without space, `|` (probectl's key separator) or `/`.
pub fn is_tenant(text: &str) -> bool {
    (1..=TENANT_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'|' | b'/'))
}

/// Reads `inputs`; none may have less lateness than `max_future`.
pub(super) fn read(root: &Map<'_>, formats: &[Format], max_future: Duration, mistakes: &mut Mistakes) -> Vec<Input> {
    let Some(node) = root.require("inputs", mistakes) else { return Vec::new() };
    let nodes = node.list(mistakes).unwrap_or_default();
    if nodes.is_empty() && !node.is_map() {
        mistakes.push(node.mistake("inputs is empty: at least one topic must be read"));
    }
    if nodes.len() > INPUTS_MAX {
        mistakes.push(node.mistake(format!("{} inputs; at most {INPUTS_MAX}", nodes.len())));
    }
    let mut inputs = Vec::new();
    let mut lines: BTreeMap<String, u32> = BTreeMap::new();
    for node in nodes.into_iter().take(INPUTS_MAX) {
        let Some(input) = node.map(mistakes).and_then(|map| one(map, formats, max_future, mistakes)) else { continue };
        let place = node.mistake(format!("topic {} stands twice, first at line ", shown(&input.topic)));
        match lines.get(&input.topic) {
            Some(line) => mistakes.push(node.mistake(format!("{}{line}", place.what))),
            None => {
                lines.insert(input.topic.clone(), place.line);
                inputs.push(input);
            }
        }
    }
    inputs
}

fn one(map: Map<'_>, formats: &[Format], max_future: Duration, mistakes: &mut Mistakes) -> Option<Input> {
    let mut s = Section::new(map, &["topic", "format", "lateness", "tenant", "lane", "partitions"], mistakes);
    let topic = s.require("topic").filter(|topic| is_topic(topic, &mut s));
    let format = map.require("format", s.mistakes).and_then(|n| format(n, formats, s.mistakes));
    let lateness = s.duration_if_given("lateness", Duration::from_secs(1), LATENESS_MAX);
    let partitions = s.get("partitions").and_then(|n| n.u32_in(1, PARTITIONS_MAX, s.mistakes));
    let lane = s.get("lane").and_then(|n| n.map(s.mistakes)).and_then(|map| lane(map, s.mistakes));
    let tenancy = map.require("tenant", s.mistakes).and_then(|n| n.map(s.mistakes)).and_then(|m| tenancy(m, s.mistakes));
    if let (Some(format), Some(Tenancy::Verified { .. })) = (format, &tenancy)
        && !format.has_tenant
        && lane.is_none()
    {
        s.mistake("tenant", format!("rows of format {} carry no tenant to verify; name one: {{static: TENANT}}", format.name));
    }
    if lane.is_some() && matches!(tenancy, Some(Tenancy::Static(_))) {
        s.mistake("tenant", "on a lane the lane's tenant holds; tenant is {verified: ...} there, for the agents".into());
    }
    let topic = match &lane {
        Some(lane) => {
            let base = topic?;
            match topic_for(&lane.namespace, base) {
                Ok(laned) => laned,
                Err(_) => {
                    s.mistake("topic", format!("only topics that begin with probectl. have lanes, got {}", shown(base)));
                    return None;
                }
            }
        }
        None => topic?.to_owned(),
    };
    let format = *format?;
    if let Some(given) = lateness.filter(|given| *given < max_future) {
        let (given, max_future) = (show_duration(given), show_duration(max_future));
        let why = "one row ahead of the others would make them late";
        s.mistake("lateness", format!("lateness of {topic} is {given}, below max_future ({max_future}): {why}"));
    }
    let lateness = lateness.unwrap_or(Duration::from_secs(u64::from(format.lateness_s)).max(max_future));
    Some(Input { topic, format, lateness, tenancy: tenancy?, lane, partitions })
}

fn is_topic(topic: &str, s: &mut Section<'_, '_>) -> bool {
    let legal = topic.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    let good = legal && topic.len() <= TOPIC_BYTES_MAX && topic != "." && topic != "..";
    if !good {
        let what = format!("a topic is 1 to {TOPIC_BYTES_MAX} letters, digits, dots, _ and -, got {}", shown(topic));
        s.mistake("topic", what);
    } else if topic.starts_with("tidewatch.") || topic.contains(".tidewatch.") {
        s.mistake("topic", format!("{topic} is a topic that tidewatch itself writes"));
        return false;
    }
    good
}

fn format<'f>(node: Node<'_>, formats: &'f [Format], mistakes: &mut Mistakes) -> Option<&'f Format> {
    let name = node.str(mistakes)?;
    let found = formats.iter().find(|f| f.name == name);
    if found.is_none() {
        let names: Vec<&str> = formats.iter().map(|f| f.name).collect();
        let mut mistake = node.mistake(format!("unknown format {}; known are {}", shown(name), names.join(", ")));
        mistake.suggestion = did_you_mean(name, names);
        mistakes.push(mistake);
    }
    found
}

fn lane(map: Map<'_>, mistakes: &mut Mistakes) -> Option<Lane> {
    let mut s = Section::new(map, &["namespace", "tenant"], mistakes);
    let namespace = s.require("namespace").filter(|ns| {
        let good = is_namespace(ns);
        if !good {
            let rule = "a namespace is 1 to 63 of a-z, 0-9 and -, not beginning with -";
            s.mistake("namespace", format!("{rule}, got {}", shown(ns)));
        }
        good
    });
    let tenant = tenant_of(&mut s, "tenant");
    Some(Lane { namespace: namespace?.to_owned(), tenant: tenant? })
}

fn tenancy(map: Map<'_>, mistakes: &mut Mistakes) -> Option<Tenancy> {
    let mut s = Section::new(map, &["static", "verified"], mistakes);
    match (s.get("static"), s.get("verified")) {
        (Some(_), None) => tenant_of(&mut s, "static").map(Tenancy::Static),
        (None, Some(node)) => node.map(s.mistakes).and_then(|map| verified(map, s.mistakes)),
        _ => {
            s.mistake("", "tenant is exactly one of {static: TENANT} and {verified: {registry: FILE}}".into());
            None
        }
    }
}

fn verified(map: Map<'_>, mistakes: &mut Mistakes) -> Option<Tenancy> {
    let mut s = Section::new(map, &["registry", "open", "strict"], mistakes);
    let strict = s.flag("strict", false);
    let open = s.flag("open", false);
    let registry = match (s.path("registry"), open) {
        (Some(file), false) => Registry::File(file),
        (None, true) => Registry::Open,
        _ => {
            s.mistake("", "verified is exactly one of registry: FILE and open: true".into());
            return None;
        }
    };
    Some(Tenancy::Verified { registry, strict })
}

fn tenant_of(s: &mut Section<'_, '_>, name: &str) -> Option<String> {
    let tenant = s.require(name)?;
    if !is_tenant(tenant) {
        s.mistake(name, format!("a tenant is 1 to 128 visible ASCII characters without | and /, got {}", shown(tenant)));
        return None;
    }
    Some(tenant.to_owned())
}
