//! Signals: one record per decision, as published on the signals topic. JSON and Avro carry the same names.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::time::EventTime;

/// How bad it would be, by the rule's ceiling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Context.
    Info,
    /// Worth a look when there is time.
    Low,
    /// Look today.
    Medium,
    /// Look now.
    High,
    /// Wake somebody.
    Critical,
}

/// One value of a detector's evidence.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Whole number.
    Long(i64),
    /// Number; always finite.
    Double(f64),
    /// Text.
    Text(String),
    /// Truth value.
    Flag(bool),
    /// Several of the above; never nested.
    List(Vec<Value>),
}

/// Evidence by name, sorted.
pub type Evidence = BTreeMap<String, Value>;

/// The rule that decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleRef {
    /// Rule id.
    pub id: String,
    /// Rule version.
    pub version: u32,
}

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entity {
    /// `host`, `workload`, `domain`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// Canonical id: an address or a name.
    pub id: String,
}

/// One end of what was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ip: Option<String>,
    /// Port.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub port: Option<u16>,
    /// Name asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub domain: Option<String>,
    /// Workload name.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub name: Option<String>,
}

/// Where the rows lie in the inputs. Depends on how the input was partitioned, so it takes no part in the id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RawRange {
    /// Input topic.
    pub topic: String,
    /// Its partition.
    pub partition: u32,
    /// First offset.
    pub from: i64,
    /// Last offset.
    pub to: i64,
    /// Rows of this signal inside the range.
    pub rows: u64,
}

/// Ranges in one signal, at most; further ones widen the last.
pub const RAW_RANGES_MAX: usize = 8;

/// A published signal.
#[derive(Clone, Debug, PartialEq)]
pub struct Signal {
    /// BLAKE3 of (tenant, rule id, version, entity, subject, slice start), hex.
    pub id: String,
    /// Tenant.
    pub tenant: String,
    /// `threat`, `compliance`, `outage`, ...
    pub plane: String,
    /// `ndr.beaconing`, ...
    pub kind: String,
    /// Short, for a list.
    pub title: String,
    /// One sentence that an analyst reads first.
    pub why: String,
    /// Severity.
    pub severity: Severity,
    /// 0 to 100; ranks inside one kind.
    pub confidence: u8,
    /// Rule.
    pub rule: RuleRef,
    /// Whom it is about.
    pub entity: Entity,
    /// Source end.
    pub source: Option<Endpoint>,
    /// Destination end.
    pub destination: Option<Endpoint>,
    /// First row.
    pub first_seen: EventTime,
    /// Last row.
    pub last_seen: EventTime,
    /// Event time of the row that decided.
    pub decided_at: EventTime,
    /// End of its slice.
    pub detected_at: EventTime,
    /// Detector's own fields.
    pub evidence: Evidence,
    /// ATT&CK technique ids.
    pub attack: Vec<String>,
    /// Where the rows lie.
    pub raw: Vec<RawRange>,
}
