//! Signals: one record per decision, as published on the signals topic. JSON and Avro carry the same names.
//!
//! Both forms are functions of the signal alone: equal signals give equal bytes, whatever wrote them.

mod avro;
mod cloudevent;
mod id;
mod json;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::avro::{SIGNAL_SCHEMA, from_avro, to_avro};
pub(crate) use self::avro::{
    get_attack, get_confidence, get_endpoint, get_entity, get_evidence, get_raw, get_rule, get_severity, get_time, put_attack,
    put_endpoint, put_evidence, put_raw, put_severity, put_verdict,
};
pub use self::cloudevent::{CONTENT_TYPE, ContentType, headers};
pub use self::id::signal_id;
pub use self::json::{JSON_BYTES_MAX, JsonError, from_json, to_json};
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

impl Value {
    /// No list, and finite if a number: what may stand in a list.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Self::Double(v) => v.is_finite(),
            Self::List(_) => false,
            Self::Long(_) | Self::Text(_) | Self::Flag(_) => true,
        }
    }

    /// What the published forms can carry.
    pub(crate) fn is_publishable(&self) -> bool {
        self.is_scalar() || matches!(self, Self::List(_))
    }
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

/// A signal with every field.
#[cfg(test)]
pub(crate) fn sample() -> Signal {
    let time = |text| EventTime::parse_rfc3339(text).unwrap_or_default();
    let (tenant, rule, version, subject) = ("acme", "ndr-beaconing-default", 1, "203.0.113.66:443");
    let entity = Entity { kind: "host".into(), id: "10.0.0.5".into() };
    Signal {
        id: signal_id(tenant, rule, version, &entity, subject, time("2026-06-04T12:31:00Z")),
        tenant: tenant.into(),
        plane: "threat".into(),
        kind: "ndr.beaconing".into(),
        title: "Beaconing".into(),
        why: "10.0.0.5 called \"cdn.example\"\n31 times".into(),
        severity: Severity::Medium,
        confidence: 84,
        rule: RuleRef { id: rule.into(), version },
        entity,
        source: Some(Endpoint { ip: Some("10.0.0.5".into()), ..Endpoint::default() }),
        destination: Some(Endpoint {
            ip: Some("203.0.113.66".into()),
            port: Some(443),
            domain: Some("cdn.example".into()),
            name: Some("edge".into()),
        }),
        first_seen: time("2026-06-04T12:00:00Z"),
        last_seen: time("2026-06-04T12:31:00.123456789Z"),
        decided_at: time("2026-06-04T12:31:00.5Z"),
        detected_at: time("2026-06-04T12:31:10Z"),
        evidence: Evidence::from([
            ("interval_s".into(), Value::Double(60.0)),
            ("jitter".into(), Value::Double(0.08)),
            ("samples".into(), Value::Long(31)),
            ("proxied".into(), Value::Flag(false)),
            (
                "names".into(),
                Value::List(vec![Value::Text("a".into()), Value::Long(-1), Value::Double(1e300), Value::Flag(true)]),
            ),
            ("none".into(), Value::List(vec![])),
            ("user_agent".into(), Value::Text("curl/8".into())),
        ]),
        attack: vec!["T1071".into()],
        raw: vec![RawRange { topic: "probectl.flow.events".into(), partition: 3, from: 1201, to: 1388, rows: 31 }],
    }
}

/// A signal with nothing that may be absent.
#[cfg(test)]
pub(crate) fn minimal() -> Signal {
    Signal { source: None, destination: None, evidence: Evidence::new(), attack: Vec::new(), raw: Vec::new(), ..sample() }
}
