//! A rule set: defaults with an overlay laid over them by id, and the name of that content.

use std::collections::BTreeMap;

use tidewatch_schemas::document::{Document, Mistakes};

use super::{Rule, parse};
use crate::operator::Detector;

/// A text and the file it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// File as the user knows it.
    pub label: String,
    /// Content.
    pub text: String,
}

/// The rules that act, and those switched off.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RuleSet {
    /// Rules that act, by id.
    pub rules: Vec<Rule>,
    /// Rules with `enabled: false`, by id: they act on nothing and take no part in the hash.
    pub off: Vec<Rule>,
    /// BLAKE3 of a canonical form of the rules that act, hex: equal content, equal version, however it was written.
    pub version_hash: String,
}

impl RuleSet {
    /// Lays the overlay over the defaults: a rule of the same id replaces the whole rule, a new id adds one. All
    /// mistakes of all texts come at once; a set with a mistake is no set.
    pub fn load(defaults: &[Source], overlay: &[Source], detectors: &[&Detector]) -> Result<Self, Mistakes> {
        let mut mistakes = Mistakes::default();
        let mut by_id = BTreeMap::new();
        for layer in [defaults, overlay] {
            let documents = documents(layer, &mut mistakes);
            let (rules, found) = parse(&documents, detectors);
            mistakes.extend(found);
            by_id.extend(rules.into_iter().map(|rule| (rule.id.clone(), rule)));
        }
        mistakes.or(Self::of(by_id.into_values()))
    }

    /// A set of given rules, whose ids differ.
    pub fn of(rules: impl IntoIterator<Item = Rule>) -> Self {
        let (mut rules, mut off): (Vec<Rule>, Vec<Rule>) = rules.into_iter().partition(|r| r.enabled);
        rules.sort_by(|a, b| a.id.cmp(&b.id));
        off.sort_by(|a, b| a.id.cmp(&b.id));
        let version_hash = hash(&rules);
        Self { rules, off, version_hash }
    }
}

fn documents(sources: &[Source], mistakes: &mut Mistakes) -> Vec<Document> {
    let mut all = Vec::new();
    for source in sources {
        match Document::parse_all(&source.label, &source.text) {
            Ok(documents) => all.extend(documents),
            Err(mistake) => mistakes.push(mistake),
        }
    }
    all
}

/// Every field of every rule, in the order of ids, each preceded by its length: no two sets have one form.
fn hash(rules: &[Rule]) -> String {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(b"tidewatch rule set 1");
    for rule in rules {
        field(rule.id.as_bytes());
        field(&rule.version.to_le_bytes());
        field(rule.kind.as_bytes());
        field(rule.name.as_bytes());
        field(rule.description.as_bytes());
        field(&[rule.severity as u8, rule.base_confidence]);
        field(&rule.suppress_ns.to_le_bytes());
        field(&(rule.thresholds.len() as u64).to_le_bytes());
        for (name, value) in &rule.thresholds {
            field(name.as_bytes());
            field(&value.to_bits().to_le_bytes());
        }
        field(&(rule.lists.len() as u64).to_le_bytes());
        for (name, list) in &rule.lists {
            field(name.as_bytes());
            field(&(list.len() as u64).to_le_bytes());
            list.iter().for_each(|entry| field(entry.as_bytes()));
        }
    }
    hasher.finalize().to_hex().to_string()
}
