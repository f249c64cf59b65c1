//! Rule documents to typed rules, checked against what the detectors declare.

mod allow;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidewatch_schemas::document::{Document, Map, Mistakes, Node, did_you_mean, shown};
use tidewatch_schemas::signal::Severity;

pub use self::allow::{ALLOW_ENTRIES_MAX, ALLOW_FIELDS};
use super::allow::Allow;
use super::filter::Filter;
use super::set::{Notes, Place};
use super::{Rule, SHADOW, WHERE, example};
use crate::operator::{Detector, ListEntry, ListField};

/// Rules of one set, at most.
pub const RULES_MAX: usize = 1_000;

/// Longest rule id, bytes: it travels with every signal.
pub const RULE_ID_BYTES_MAX: usize = 128;

/// Longest name, description or list entry, bytes.
pub const TEXT_BYTES_MAX: usize = 4_096;

/// Longest suppression: a rule that should be silent for longer should be off.
pub const SUPPRESS_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Entries of one list, at most.
const LIST_ENTRIES_MAX: usize = 10_000;

/// Words for a severity; `warning` is probectl's word for medium.
pub const KINDS_OF_SEVERITY: &[(&str, Severity)] = &[
    ("info", Severity::Info),
    ("low", Severity::Low),
    ("medium", Severity::Medium),
    ("warning", Severity::Medium),
    ("high", Severity::High),
    ("critical", Severity::Critical),
];

/// Names a rule may have, whether it must have them, and what they mean.
pub const FIELDS: &[(&str, bool, &str)] = &[
    ("id", true, "unique; a rule of your own with the id of a default replaces the whole of it; part of every signal's id"),
    ("version", true, "a whole number from 1; raise it with every change: signals carry it, and it is part of their id"),
    ("kind", true, "the detector; see the list of detectors"),
    ("name", false, "what people call it; the detector's title when left out"),
    ("description", false, "for people"),
    ("severity", true, "ceiling of its signals: `info`, `low`, `medium` (or `warning`), `high`, `critical`"),
    ("base_confidence", true, "0 to 100; where the detector's confidence starts"),
    (
        "suppress",
        true,
        "how long the same subject of the same host stays silent after a signal, as `4h` or `30m`, at most 720h; what becomes graver is told at once",
    ),
    ("enabled", false, "`false` switches it off; `true` when left out"),
    (
        "shadow",
        false,
        "`true`: what it finds is judged, suppressed and counted as ever, but goes to `tidewatch.shadow` instead of the signals, see below; `false` when left out",
    ),
    ("thresholds", false, "numbers by name; the detector's defaults when left out"),
    ("lists", false, "lists by name; the detector's defaults when left out"),
    ("where", false, "an SQL expression over columns of the rows, or over fields of the findings, see below"),
    ("allow", false, "what it says nothing about, see below"),
    ("tests", false, "rows in, signals out; `tidewatch rules test` runs them"),
    ("false_positives", false, "what else looks like this, in words"),
    ("references", false, "where it is described, in words or addresses"),
];

/// Words or addresses of one list of notes, at most.
const NOTES_MAX: usize = 100;

/// What the documents of one layer say.
#[derive(Debug, Default)]
pub struct Parsed {
    /// Rules, in the order of the documents.
    pub rules: Vec<(Rule, Notes)>,
    /// Exceptions that documents make for several rules.
    pub allow: Vec<Shared>,
}

/// An exception of several rules: those of the kinds and ids given, or all.
#[derive(Debug)]
pub struct Shared {
    /// Rule kinds; empty = every kind.
    pub kinds: Vec<String>,
    /// Rule ids with their places; empty = every rule.
    pub ids: Vec<(String, Place)>,
    /// The exception.
    pub allow: Allow,
    /// Where it stands.
    pub place: Place,
}

/// Reads the rules of one layer (the defaults, an overlay, one tenant's overlay), in the order of the documents. A rule with
/// a mistake is left out; an id that stands twice, in one document or in two, is a mistake.
pub fn parse(documents: &[Document], tenant: Option<&str>, detectors: &[&Detector]) -> (Parsed, Mistakes) {
    let mut mistakes = Mistakes::default();
    let mut parsed = Parsed::default();
    let mut places: BTreeMap<String, String> = BTreeMap::new();
    for document in documents {
        let root = document.root(&mut mistakes);
        if root.is_null() {
            continue;
        }
        let Some(map) = root.map(&mut mistakes) else { continue };
        map.expect_keys(&["rules", "allow"], &mut mistakes);
        if let Some(node) = map.get("allow") {
            parsed.allow.extend(allow::shared(node, detectors, &mut mistakes));
        }
        let list = map.get("rules").and_then(|n| n.list(&mut mistakes)).unwrap_or_default();
        for node in list {
            if parsed.rules.len() >= RULES_MAX {
                mistakes.push(node.mistake(format!("more than {RULES_MAX} rules")));
                return (parsed, mistakes);
            }
            let Some(map) = node.map(&mut mistakes) else { continue };
            check_id_is_new(&map, &mut places, &mut mistakes);
            parsed.rules.extend(rule(&map, tenant, detectors, &mut mistakes));
        }
    }
    (parsed, mistakes)
}

fn check_id_is_new(map: &Map<'_>, places: &mut BTreeMap<String, String>, mistakes: &mut Mistakes) {
    let Some(node) = map.get("id") else { return };
    // What is wrong with the id itself is reported by `rule`.
    let Some(id) = node.str(&mut Mistakes::default()) else { return };
    let here = node.mistake("");
    let place = format!("{}:{}", here.file, here.line);
    match places.get(id) {
        Some(first) => mistakes.push(node.mistake(format!("rule id {} stands twice, first at {first}", shown(id)))),
        None => {
            places.insert(id.to_owned(), place);
        }
    }
}

fn rule(map: &Map<'_>, tenant: Option<&str>, detectors: &[&Detector], mistakes: &mut Mistakes) -> Option<(Rule, Notes)> {
    let names: Vec<&str> = FIELDS.iter().map(|(name, ..)| *name).collect();
    map.expect_keys(&names, mistakes);
    let id = map.require("id", mistakes).and_then(|n| id(n, mistakes));
    let version = map.require("version", mistakes).and_then(|n| n.u32_in(1, u32::MAX, mistakes));
    let detector = map.require("kind", mistakes).and_then(|n| kind(n, detectors, mistakes));
    let name = optional_text(map, "name", mistakes);
    let description = optional_text(map, "description", mistakes);
    let severity = map.require("severity", mistakes).and_then(|n| severity(n, mistakes));
    let base_confidence = map.require("base_confidence", mistakes).and_then(|n| n.u32_in(0, 100, mistakes));
    let suppress = map.require("suppress", mistakes).and_then(|n| suppress(n, mistakes));
    let enabled = map.get("enabled").map_or(Some(true), |n| n.bool(mistakes));
    let shadow = map.get(SHADOW).map_or(Some(false), |n| n.bool(mistakes));
    let allow = map.get("allow").map_or(Some(Vec::new()), |n| allow::list(n, mistakes));
    let examples = map.get("tests").map_or(Some(Vec::new()), |n| example::parse(n, mistakes));
    let false_positives = texts(map, "false_positives", mistakes);
    let references = texts(map, "references", mistakes);
    // Without a kind there is nothing to check thresholds and lists against; the kind is the mistake to mend first.
    let detector = detector?;
    let thresholds = thresholds(map, detector, mistakes);
    let lists = lists(map, detector, mistakes);
    let filter = filter(map, detector, mistakes);
    let (allow, allow_places): (Vec<Allow>, Vec<Place>) = allow?.into_iter().unzip();
    let mut lists = lists?;
    lists.extend(filter?.map(|text| (WHERE.to_owned(), vec![text])));
    lists.extend(shadow?.then(|| (SHADOW.to_owned(), vec![true.to_string()])));
    let rule = Rule {
        id: id?.to_owned(),
        version: version?,
        kind: detector.rule_kind.to_owned(),
        name: name?.unwrap_or(detector.title).to_owned(),
        description: description?.unwrap_or_default().to_owned(),
        severity: severity?,
        // At most 100, as read.
        base_confidence: base_confidence? as u8,
        // At most SUPPRESS_MAX.
        suppress_ns: suppress?.as_nanos() as i64,
        enabled: enabled?,
        thresholds: thresholds?,
        lists,
        tenant: tenant.map(str::to_owned),
        allow,
    };
    let place = map.get("id").map_or_else(|| Place::of(map.node()), Place::of);
    let notes = Notes {
        place,
        allow_places,
        examples: examples?,
        false_positives: false_positives?,
        references: references?,
        replaces: None,
    };
    Some((rule, notes))
}

/// The expression of `where`, which compiles. `None` = a mistake; `Some(None)` = not given.
fn filter(rule: &Map<'_>, detector: &Detector, mistakes: &mut Mistakes) -> Option<Option<String>> {
    let Some(node) = rule.get(WHERE) else { return Some(None) };
    let text = node.str(mistakes)?.trim();
    match Filter::compile(text, detector) {
        Ok(_) => Some(Some(text.to_owned())),
        Err(all) => {
            for wrong in all {
                let mut mistake = node.mistake(format!("where: {}", wrong.what));
                mistake.suggestion = wrong.suggestion;
                mistakes.push(mistake);
            }
            None
        }
    }
}

fn id<'a>(node: Node<'a>, mistakes: &mut Mistakes) -> Option<&'a str> {
    let id = text(node, RULE_ID_BYTES_MAX, mistakes)?;
    if id.contains(|c: char| c.is_whitespace() || c.is_control()) {
        mistakes.push(node.mistake("an id has no blanks; join its words with - or _"));
        return None;
    }
    Some(id)
}

/// Texts of a list, or one text. `None` = a mistake.
fn texts(map: &Map<'_>, name: &str, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let Some(node) = map.get(name) else { return Some(Vec::new()) };
    let nodes = if node.is_list() { node.list(mistakes)? } else { vec![node] };
    if nodes.len() > NOTES_MAX {
        mistakes.push(node.mistake(format!("{} entries; at most {NOTES_MAX}", nodes.len())));
        return None;
    }
    let expected = nodes.len();
    let read: Vec<String> = nodes.into_iter().filter_map(|n| text(n, TEXT_BYTES_MAX, mistakes).map(str::to_owned)).collect();
    (read.len() == expected).then_some(read)
}

fn text<'a>(node: Node<'a>, bytes_max: usize, mistakes: &mut Mistakes) -> Option<&'a str> {
    let text = node.str(mistakes)?;
    if text.len() > bytes_max {
        mistakes.push(node.mistake(format!("{} bytes of text; at most {bytes_max}", text.len())));
        return None;
    }
    Some(text)
}

/// `None` = a mistake; `Some(None)` = not given.
fn optional_text<'a>(map: &Map<'a>, name: &str, mistakes: &mut Mistakes) -> Option<Option<&'a str>> {
    map.get(name).map_or(Some(None), |n| text(n, TEXT_BYTES_MAX, mistakes).map(Some))
}

fn kind<'d>(node: Node<'_>, detectors: &[&'d Detector], mistakes: &mut Mistakes) -> Option<&'d Detector> {
    let kinds: Vec<&str> = detectors.iter().map(|d| d.rule_kind).collect();
    node.one_of(&kinds, mistakes).map(|i| detectors[i])
}

fn severity(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Severity> {
    let words: Vec<&str> = KINDS_OF_SEVERITY.iter().map(|(word, _)| *word).collect();
    node.one_of(&words, mistakes).map(|i| KINDS_OF_SEVERITY[i].1)
}

fn suppress(node: Node<'_>, mistakes: &mut Mistakes) -> Option<Duration> {
    let suppress = node.duration(mistakes)?;
    if suppress > SUPPRESS_MAX {
        mistakes.push(node.mistake(format!("suppress is at most {}h", SUPPRESS_MAX.as_secs() / 3600)));
        return None;
    }
    Some(suppress)
}

/// The rule's thresholds over the detector's defaults. `None` = a mistake.
fn thresholds(rule: &Map<'_>, detector: &Detector, mistakes: &mut Mistakes) -> Option<BTreeMap<String, f64>> {
    let mut values: BTreeMap<String, f64> = detector.thresholds.iter().map(|t| (t.name.to_owned(), t.default)).collect();
    let Some(node) = rule.get("thresholds") else { return Some(values) };
    let mut good = true;
    for (name, key, value) in node.map(mistakes)?.entries() {
        let Some(declared) = detector.thresholds.iter().find(|t| t.name == name) else {
            good = false;
            unknown("threshold", key, name, detector, detector.thresholds.iter().map(|t| t.name), mistakes);
            continue;
        };
        match value.f64(mistakes) {
            Some(v) if (declared.min..=declared.max).contains(&v) => {
                values.insert(name.to_owned(), v);
            }
            Some(v) => {
                good = false;
                mistakes.push(value.mistake(format!("{name} is from {} to {}, got {v}", declared.min, declared.max)));
            }
            None => good = false,
        }
    }
    if good {
        good = in_order(&values, &node, mistakes);
    }
    good.then_some(values)
}

/// A `min_x` above its `max_x` would never let the rule speak.
fn in_order(values: &BTreeMap<String, f64>, node: &Node<'_>, mistakes: &mut Mistakes) -> bool {
    let mut good = true;
    for (name, min) in values {
        let Some(max_name) = name.strip_prefix("min_").map(|rest| format!("max_{rest}")) else { continue };
        if let Some(max) = values.get(&max_name)
            && min > max
        {
            good = false;
            mistakes.push(node.mistake(format!("{name} {min} is above {max_name} {max}: the rule could never speak")));
        }
    }
    good
}

/// The rule's lists over the detector's defaults. `None` = a mistake.
fn lists(rule: &Map<'_>, detector: &Detector, mistakes: &mut Mistakes) -> Option<BTreeMap<String, Vec<String>>> {
    let default = |d: &[&str]| d.iter().map(|e| (*e).to_owned()).collect();
    let mut values: BTreeMap<String, Vec<String>> =
        detector.lists.iter().map(|l| (l.name.to_owned(), default(l.default))).collect();
    let Some(node) = rule.get("lists") else { return Some(values) };
    let mut good = true;
    for (name, key, value) in node.map(mistakes)?.entries() {
        let Some(declared) = detector.lists.iter().find(|l| l.name == name) else {
            good = false;
            unknown("list", key, name, detector, detector.lists.iter().map(|l| l.name), mistakes);
            continue;
        };
        match entries(value, declared, mistakes) {
            Some(list) => {
                values.insert(name.to_owned(), list);
            }
            None => good = false,
        }
    }
    good.then_some(values)
}

/// One list, sorted and without repeats, so that its order changes no version. `None` = a mistake.
fn entries(list: Node<'_>, declared: &ListField, mistakes: &mut Mistakes) -> Option<Vec<String>> {
    let nodes = list.list(mistakes)?;
    if nodes.is_empty() && declared.entry == ListEntry::WatchedPort {
        mistakes.push(list.mistake(format!(
            "{} is empty, so the rule would see nothing and never speak; name its ports, leave the list out for the detector's own \
             ({}), or switch the rule off with enabled: false",
            declared.name,
            declared.default.join(", ")
        )));
        return None;
    }
    if nodes.len() > LIST_ENTRIES_MAX {
        mistakes.push(list.mistake(format!("{} entries; at most {LIST_ENTRIES_MAX}", nodes.len())));
        return None;
    }
    let expected = nodes.len();
    let read: Vec<&str> = nodes
        .into_iter()
        .filter_map(|node| {
            let written = text(node, TEXT_BYTES_MAX, mistakes)?;
            if declared.entry != ListEntry::Text && !is_port(written) {
                mistakes.push(node.mistake(format!("expected a port 0 to 65535, got {}", shown(written))));
                return None;
            }
            Some(written)
        })
        .collect();
    let sorted: BTreeSet<&str> = read.iter().copied().collect();
    (read.len() == expected).then(|| sorted.into_iter().map(str::to_owned).collect())
}

fn is_port(text: &str) -> bool {
    // Only the canonical form, so that equal ports are equal texts.
    text.parse::<u16>().is_ok_and(|port| port.to_string() == text)
}

fn unknown<'k>(
    what: &str,
    key: Node<'_>,
    name: &str,
    detector: &Detector,
    known: impl Iterator<Item = &'k str>,
    mistakes: &mut Mistakes,
) {
    let mut mistake = key.mistake(format!("unknown {what} {} of kind {}", shown(name), detector.rule_kind));
    mistake.suggestion = did_you_mean(name, known);
    mistakes.push(mistake);
}
