//! The JSON form of a signal: one object on one line, fields in one order, absent fields left out. Equal signals give
//! equal text, and what is read back is equal to what was written: doubles keep their point (`60.0`) and every bit.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap, SerializeSeq};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{Endpoint, Entity, Evidence, RawRange, RuleRef, Severity, Signal, Value};
use crate::time::EventTime;

/// Longest text that is read, bytes: the record limit of the topics.
pub const JSON_BYTES_MAX: usize = 1 << 20;

/// Why a text is no signal.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Longer than [`JSON_BYTES_MAX`].
    #[error("signal of {got} bytes exceeds {JSON_BYTES_MAX}")]
    TooLarge {
        /// Its length.
        got: usize,
    },
    /// Not JSON, or not the fields of a signal.
    #[error("not a signal: {0}")]
    Json(#[from] serde_json::Error),
    /// A field holds what it cannot.
    #[error("{field}: expected {expected}, got {got}")]
    Field {
        /// Field.
        field: String,
        /// Expected.
        expected: &'static str,
        /// Got, at most 80 characters.
        got: String,
    },
}

/// One line, without the line end.
pub fn to_json(signal: &Signal) -> String {
    let form = Out {
        id: &signal.id,
        tenant: &signal.tenant,
        plane: &signal.plane,
        kind: &signal.kind,
        title: &signal.title,
        why: &signal.why,
        severity: signal.severity,
        confidence: signal.confidence,
        rule: &signal.rule,
        entity: &signal.entity,
        source: known(signal.source.as_ref()),
        destination: known(signal.destination.as_ref()),
        first_seen: signal.first_seen.to_rfc3339(),
        last_seen: signal.last_seen.to_rfc3339(),
        decided_at: signal.decided_at.to_rfc3339(),
        detected_at: signal.detected_at.to_rfc3339(),
        evidence: EvidenceOut(&signal.evidence),
        attack: &signal.attack,
        raw: &signal.raw,
    };
    serde_json::to_string(&form).expect("text keys and values that cannot fail to serialize")
}

/// Reads the form that [`to_json`] writes; unknown fields are left to newer readers.
pub fn from_json(text: &str) -> Result<Signal, JsonError> {
    if text.len() > JSON_BYTES_MAX {
        return Err(JsonError::TooLarge { got: text.len() });
    }
    let form: In<'_> = serde_json::from_str(text)?;
    if form.confidence > 100 {
        return Err(field("confidence", "0 to 100", &form.confidence.to_string()));
    }
    let mut evidence = Evidence::new();
    for (name, raw) in form.evidence {
        let value = parse_value(&name, raw.get(), true)?;
        evidence.insert(name, value);
    }
    Ok(Signal {
        id: form.id,
        tenant: form.tenant,
        plane: form.plane,
        kind: form.kind,
        title: form.title,
        why: form.why,
        severity: form.severity,
        confidence: form.confidence,
        rule: form.rule,
        entity: form.entity,
        source: form.source,
        destination: form.destination,
        first_seen: parse_time("first_seen", &form.first_seen)?,
        last_seen: parse_time("last_seen", &form.last_seen)?,
        decided_at: parse_time("decided_at", &form.decided_at)?,
        detected_at: parse_time("detected_at", &form.detected_at)?,
        evidence,
        attack: form.attack,
        raw: form.raw,
    })
}

/// Numbers as numbers; a double always has a point or an exponent, so that it reads back as one.
impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Long(v) => serializer.serialize_i64(*v),
            Self::Double(v) => serializer.serialize_f64(*v),
            Self::Text(v) => serializer.serialize_str(v),
            Self::Flag(v) => serializer.serialize_bool(*v),
            Self::List(items) => {
                let mut seq = serializer.serialize_seq(None)?;
                for item in items.iter().filter(|v| v.is_scalar()) {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
        }
    }
}

/// The fields in their published order.
#[derive(Serialize)]
struct Out<'a> {
    id: &'a str,
    tenant: &'a str,
    plane: &'a str,
    kind: &'a str,
    title: &'a str,
    why: &'a str,
    severity: Severity,
    confidence: u8,
    rule: &'a RuleRef,
    entity: &'a Entity,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<&'a Endpoint>,
    first_seen: String,
    last_seen: String,
    decided_at: String,
    detected_at: String,
    #[serde(skip_serializing_if = "EvidenceOut::is_empty")]
    evidence: EvidenceOut<'a>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    attack: &'a [String],
    #[serde(skip_serializing_if = "<[RawRange]>::is_empty")]
    raw: &'a [RawRange],
}

/// What no form can carry (a number that is not finite, a list in a list) is left out.
struct EvidenceOut<'a>(&'a Evidence);

impl EvidenceOut<'_> {
    fn is_empty(&self) -> bool {
        !self.0.values().any(Value::is_publishable)
    }
}

impl Serialize for EvidenceOut<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter().filter(|(_, v)| v.is_publishable()) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

#[derive(Deserialize)]
struct In<'a> {
    id: String,
    tenant: String,
    plane: String,
    kind: String,
    title: String,
    why: String,
    severity: Severity,
    confidence: u8,
    rule: RuleRef,
    entity: Entity,
    source: Option<Endpoint>,
    destination: Option<Endpoint>,
    first_seen: String,
    last_seen: String,
    decided_at: String,
    detected_at: String,
    #[serde(default, borrow)]
    evidence: BTreeMap<String, &'a RawValue>,
    #[serde(default)]
    attack: Vec<String>,
    #[serde(default)]
    raw: Vec<RawRange>,
}

fn known(endpoint: Option<&Endpoint>) -> Option<&Endpoint> {
    endpoint.filter(|e| **e != Endpoint::default())
}

fn parse_time(name: &'static str, text: &str) -> Result<EventTime, JsonError> {
    EventTime::parse_rfc3339(text).ok_or_else(|| field(name, "an RFC 3339 time", text))
}

/// Reads the token itself: the standard library's number parser is exact, and only the token tells `60` from `60.0`.
fn parse_value(name: &str, token: &str, list_allowed: bool) -> Result<Value, JsonError> {
    let wrong = || field(name, "a number, text, truth value or flat list", token);
    match token.as_bytes().first() {
        Some(b'"') => Ok(Value::Text(serde_json::from_str(token)?)),
        Some(b't' | b'f') => Ok(Value::Flag(serde_json::from_str(token)?)),
        Some(b'[') if list_allowed => {
            let items: Vec<&RawValue> = serde_json::from_str(token)?;
            let items = items.iter().map(|item| parse_value(name, item.get(), false)).collect::<Result<_, _>>()?;
            Ok(Value::List(items))
        }
        Some(b'-' | b'0'..=b'9') if !token.contains(['.', 'e', 'E']) => token.parse().map(Value::Long).map_err(|_| wrong()),
        Some(b'-' | b'0'..=b'9') => token.parse().ok().filter(|v: &f64| v.is_finite()).map(Value::Double).ok_or_else(wrong),
        _ => Err(wrong()),
    }
}

fn field(name: &str, expected: &'static str, got: &str) -> JsonError {
    JsonError::Field { field: name.chars().take(80).collect(), expected, got: got.chars().take(80).collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;
    use proptest::prelude::*;

    use super::super::{minimal, sample};
    use super::*;

    #[test]
    fn form_is_pinned() {
        expect![[r#"{"id":"bd4fa36cd51f26dd52f82762a6349944f5752bdb5d1b7bfa96c0b35ea2eb554e","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"10.0.0.5 called \"cdn.example\"\n31 times","severity":"medium","confidence":84,"rule":{"id":"ndr-beaconing-default","version":1},"entity":{"type":"host","id":"10.0.0.5"},"source":{"ip":"10.0.0.5"},"destination":{"ip":"203.0.113.66","port":443,"domain":"cdn.example","name":"edge"},"first_seen":"2026-06-04T12:00:00Z","last_seen":"2026-06-04T12:31:00.123456789Z","decided_at":"2026-06-04T12:31:00.5Z","detected_at":"2026-06-04T12:31:10Z","evidence":{"interval_s":60.0,"jitter":0.08,"names":["a",-1,1e+300,true],"none":[],"proxied":false,"samples":31,"user_agent":"curl/8"},"attack":["T1071"],"raw":[{"topic":"probectl.flow.events","partition":3,"from":1201,"to":1388,"rows":31}]}"#]].assert_eq(&to_json(&sample()));
        expect![[r#"{"id":"bd4fa36cd51f26dd52f82762a6349944f5752bdb5d1b7bfa96c0b35ea2eb554e","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"10.0.0.5 called \"cdn.example\"\n31 times","severity":"medium","confidence":84,"rule":{"id":"ndr-beaconing-default","version":1},"entity":{"type":"host","id":"10.0.0.5"},"first_seen":"2026-06-04T12:00:00Z","last_seen":"2026-06-04T12:31:00.123456789Z","decided_at":"2026-06-04T12:31:00.5Z","detected_at":"2026-06-04T12:31:10Z"}"#]].assert_eq(&to_json(&minimal()));
    }

    #[test]
    fn reads_back() {
        for signal in [sample(), minimal()] {
            let line = to_json(&signal);
            assert!(!line.contains('\n'));
            assert_eq!(from_json(&line).unwrap(), signal);
        }
    }

    #[test]
    fn what_cannot_be_carried_is_left_out() {
        let mut signal = minimal();
        signal.source = Some(Endpoint::default());
        signal.evidence.insert("nan".into(), Value::Double(f64::NAN));
        assert_eq!(to_json(&signal), to_json(&minimal()));
        assert_eq!(super::super::to_avro(&signal), super::super::to_avro(&minimal()));
    }

    #[test]
    fn wrong_texts_are_refused() {
        let line = to_json(&sample());
        for (from, to) in [
            ("\"confidence\":84", "\"confidence\":101"),
            ("\"severity\":\"medium\"", "\"severity\":\"warning\""),
            ("2026-06-04T12:00:00Z", "yesterday"),
            ("\"samples\":31", "\"samples\":null"),
            ("\"samples\":31", "\"samples\":[[1]]"),
            ("\"samples\":31", "\"samples\":1e999"),
            ("\"samples\":31", "\"samples\":99999999999999999999"),
            ("\"tenant\":\"acme\",", ""),
        ] {
            assert!(line.contains(from), "{from}");
            assert!(from_json(&line.replacen(from, to, 1)).is_err(), "{to}");
        }
        assert!(from_json(&"[".repeat(100_000)).is_err());
    }

    proptest! {
        #[test]
        fn doubles_keep_every_bit(bits: u64, long: i64, text: String) {
            let double = f64::from_bits(bits);
            prop_assume!(double.is_finite());
            let mut signal = minimal();
            signal.why = text.clone();
            signal.evidence.insert(text.clone(), Value::List(vec![Value::Double(double), Value::Long(long), Value::Text(text)]));
            let line = to_json(&signal);
            let back = from_json(&line).unwrap();
            prop_assert_eq!(to_json(&back), line);
            let Some(Value::List(items)) = back.evidence.values().next() else { unreachable!() };
            let Value::Double(read) = items[0] else { unreachable!("{items:?}") };
            prop_assert_eq!(read.to_bits(), bits);
            prop_assert_eq!(super::super::from_avro(&super::super::to_avro(&signal)).unwrap(), signal);
        }
    }
}
