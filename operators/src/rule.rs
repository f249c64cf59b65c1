//! Typed rules: what an analyst may change, after parsing. A `Rule` cannot be wrong: unknown names, values out of range
//! and unknown kinds died on the way here. Knows no files: texts come in, rules or mistakes go out.

mod allow;
mod defaults;
pub mod example;
pub mod filter;
mod lint;
mod parse;
mod set;

pub use allow::{Allow, AllowTable, Cover};
pub use defaults::{DEFAULTS, DefaultRules};
pub use lint::lint;
pub use parse::{
    ALLOW_ENTRIES_MAX, ALLOW_FIELDS, FIELDS, KINDS_OF_SEVERITY, Parsed, RULE_ID_BYTES_MAX, RULES_MAX, SUPPRESS_MAX,
    TEXT_BYTES_MAX, parse,
};
pub use set::{Layers, Notes, Place, RuleKey, RuleSet, Source, TENANTS_MAX};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tidewatch_schemas::signal::Severity;

use crate::operator::Detector;

/// One rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Unique id.
    pub id: String,
    /// Version, from 1.
    pub version: u32,
    /// Kind as in rule files: `beaconing`, `egress_volume`, ...
    pub kind: String,
    /// Display name.
    pub name: String,
    /// Description.
    pub description: String,
    /// Ceiling of its signals' severity.
    pub severity: Severity,
    /// Base confidence, 0 to 100.
    pub base_confidence: u8,
    /// Suppression per (entity, subject), nanoseconds.
    pub suppress_ns: i64,
    /// Off when false.
    pub enabled: bool,
    /// Thresholds, the detector's defaults filled in: every name the detector declares is present.
    pub thresholds: BTreeMap<String, f64>,
    /// Lists, the detector's defaults filled in, and `where` and `shadow`, see [`Rule::filter`] and [`Rule::shadow`].
    pub lists: BTreeMap<String, Vec<String>>,
    /// Whose it is; `None` = everybody's but those tenants' that have one of the same id.
    #[serde(default)]
    pub tenant: Option<String>,
    /// What it says nothing about.
    #[serde(default)]
    pub allow: Vec<Allow>,
}

/// For tests that build one by hand: version 1, on, info, silent about nothing.
impl Default for Rule {
    fn default() -> Self {
        Self {
            id: String::new(),
            version: 1,
            kind: String::new(),
            name: String::new(),
            description: String::new(),
            severity: Severity::Info,
            base_confidence: 0,
            suppress_ns: 0,
            enabled: true,
            thresholds: BTreeMap::new(),
            lists: BTreeMap::new(),
            tenant: None,
            allow: Vec::new(),
        }
    }
}

/// Under which name `where` travels among the lists: in recorded versions and snapshots it is then what it always was to
/// whoever does not know it, and part of the set's hash. No detector may have a list of that name.
pub(crate) const WHERE: &str = "where";

/// The same for `shadow`; there only where it is on.
pub(crate) const SHADOW: &str = "shadow";

impl Rule {
    /// Its `where`, see [`filter`].
    pub fn filter(&self) -> Option<&str> {
        self.list(WHERE).first().map(String::as_str)
    }

    /// It runs in shadow: what it finds is judged, suppressed and counted, and told beside the signals alone.
    pub fn shadow(&self) -> bool {
        !self.list(SHADOW).is_empty()
    }

    /// A threshold the detector declares. 0 if it does not, which the rule parser and a test exclude.
    pub fn threshold(&self, name: &str) -> f64 {
        self.thresholds.get(name).copied().unwrap_or_default()
    }

    /// A list the detector declares.
    pub fn list(&self, name: &str) -> &[String] {
        self.lists.get(name).map_or(&[], Vec::as_slice)
    }
}

/// The first `where` of a set that cannot be read, in words: of rules that were not parsed here, but recorded.
pub fn unreadable(rules: &[Rule], detectors: &[&Detector]) -> Option<String> {
    let mut filters = filter::Filters::default();
    rules.iter().find_map(|rule| {
        let detector = detectors.iter().find(|d| d.rule_kind == rule.kind)?;
        filters.take(rule, detector).err()?;
        Some(format!("where of rule {} cannot be read: {}", rule.id, rule.filter().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests;
