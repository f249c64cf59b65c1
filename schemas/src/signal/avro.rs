//! The Avro form of a signal, as `avro/signal.avsc` says, and the pieces it shares with findings. Field order is the
//! schema's; a test reads every datum back with Avro's own library.

use super::{Endpoint, Entity, Evidence, RawRange, RuleRef, Severity, Signal, Value};
use crate::avro::{AvroError, Reader, Writer};
use crate::time::EventTime;

/// The published schema, as registered.
pub const SIGNAL_SCHEMA: &str = include_str!("../../avro/signal.avsc");

const SEVERITIES: [Severity; 5] = [Severity::Info, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

/// The datum, without framing ([`crate::avro::frame`]). Equal signals give equal bytes.
pub fn to_avro(signal: &Signal) -> Vec<u8> {
    let mut w = Writer::default();
    for text in [&signal.id, &signal.tenant, &signal.plane, &signal.kind, &signal.title, &signal.why] {
        w.text(text);
    }
    put_verdict(&mut w, signal.severity, signal.confidence, &signal.rule, &signal.entity);
    put_endpoint(&mut w, signal.source.as_ref());
    put_endpoint(&mut w, signal.destination.as_ref());
    for time in [signal.first_seen, signal.last_seen, signal.decided_at, signal.detected_at] {
        w.long(time.0);
    }
    put_evidence(&mut w, &signal.evidence);
    put_attack(&mut w, &signal.attack);
    put_raw(&mut w, &signal.raw);
    w.finish()
}

/// Reads a datum. Hostile bytes give an error.
pub fn from_avro(datum: &[u8]) -> Result<Signal, AvroError> {
    let mut r = Reader::new(datum)?;
    let signal = Signal {
        id: r.text("id")?,
        tenant: r.text("tenant")?,
        plane: r.text("plane")?,
        kind: r.text("kind")?,
        title: r.text("title")?,
        why: r.text("why")?,
        severity: get_severity(&mut r)?,
        confidence: get_confidence(&mut r)?,
        rule: get_rule(&mut r)?,
        entity: get_entity(&mut r)?,
        source: get_endpoint(&mut r, "source")?,
        destination: get_endpoint(&mut r, "destination")?,
        first_seen: get_time(&mut r, "first_seen")?,
        last_seen: get_time(&mut r, "last_seen")?,
        decided_at: get_time(&mut r, "decided_at")?,
        detected_at: get_time(&mut r, "detected_at")?,
        evidence: get_evidence(&mut r)?,
        attack: get_attack(&mut r)?,
        raw: get_raw(&mut r)?,
    };
    r.finish()?;
    Ok(signal)
}

pub(crate) fn put_severity(w: &mut Writer, severity: Severity) {
    w.count(SEVERITIES.iter().position(|s| *s == severity).unwrap_or_default());
}

pub(crate) fn put_verdict(w: &mut Writer, severity: Severity, confidence: u8, rule: &RuleRef, entity: &Entity) {
    put_severity(w, severity);
    w.long(i64::from(confidence));
    w.text(&rule.id);
    w.long(i64::from(rule.version));
    w.text(&entity.kind);
    w.text(&entity.id);
}

pub(crate) fn get_severity(r: &mut Reader<'_>) -> Result<Severity, AvroError> {
    let index: usize = r.number("severity", "an index of 0 to 4")?;
    SEVERITIES.get(index).copied().ok_or_else(|| r.fault("severity", "an index of 0 to 4"))
}

pub(crate) fn get_confidence(r: &mut Reader<'_>) -> Result<u8, AvroError> {
    let confidence: u8 = r.number("confidence", "0 to 100")?;
    if confidence > 100 { Err(r.fault("confidence", "0 to 100")) } else { Ok(confidence) }
}

pub(crate) fn get_rule(r: &mut Reader<'_>) -> Result<RuleRef, AvroError> {
    Ok(RuleRef { id: r.text("rule.id")?, version: r.number("rule.version", "0 to 2^32-1")? })
}

pub(crate) fn get_entity(r: &mut Reader<'_>) -> Result<Entity, AvroError> {
    Ok(Entity { kind: r.text("entity.type")?, id: r.text("entity.id")? })
}

/// An end about which nothing is known is written as absent.
pub(crate) fn put_endpoint(w: &mut Writer, endpoint: Option<&Endpoint>) {
    w.option(endpoint.filter(|e| **e != Endpoint::default()), |w, e| {
        w.option(e.ip.as_deref(), Writer::text);
        w.option(e.port, |w, port| w.long(i64::from(port)));
        w.option(e.domain.as_deref(), Writer::text);
        w.option(e.name.as_deref(), Writer::text);
    });
}

pub(crate) fn get_endpoint(r: &mut Reader<'_>, field: &'static str) -> Result<Option<Endpoint>, AvroError> {
    r.option(field, |r| {
        Ok(Endpoint {
            ip: r.option("ip", |r| r.text("ip"))?,
            port: r.option("port", |r| r.number("port", "0 to 65535"))?,
            domain: r.option("domain", |r| r.text("domain"))?,
            name: r.option("name", |r| r.text("name"))?,
        })
    })
}

pub(crate) fn get_time(r: &mut Reader<'_>, field: &'static str) -> Result<EventTime, AvroError> {
    r.long(field).map(EventTime)
}

/// Sorted by name, as the map is; what no form can carry (a number that is not finite, a list in a list) is left out.
pub(crate) fn put_evidence(w: &mut Writer, evidence: &Evidence) {
    let fields: Vec<_> = evidence.iter().filter(|(_, v)| v.is_publishable()).collect();
    w.block(fields.into_iter(), |w, (name, value)| {
        w.text(name);
        put_value(w, value);
    });
}

fn put_value(w: &mut Writer, value: &Value) {
    match value {
        Value::Long(v) => {
            w.long(0);
            w.long(*v);
        }
        Value::Double(v) => {
            w.long(1);
            w.double(*v);
        }
        Value::Text(v) => {
            w.long(2);
            w.text(v);
        }
        Value::Flag(v) => {
            w.long(3);
            w.flag(*v);
        }
        Value::List(items) => {
            w.long(4);
            let items: Vec<_> = items.iter().filter(|v| v.is_scalar()).collect();
            w.block(items.into_iter(), put_value);
        }
    }
}

pub(crate) fn get_evidence(r: &mut Reader<'_>) -> Result<Evidence, AvroError> {
    let mut evidence = Evidence::new();
    r.block("evidence", |r| {
        let name = r.text("evidence")?;
        let value = match r.long("evidence")? {
            4 => {
                let mut items = Vec::new();
                r.block("evidence", |r| {
                    let branch = r.long("evidence")?;
                    items.push(get_scalar(r, branch)?);
                    Ok(())
                })?;
                Value::List(items)
            }
            branch => get_scalar(r, branch)?,
        };
        match evidence.insert(name, value) {
            None => Ok(()),
            Some(_) => Err(r.fault("evidence", "each name once")),
        }
    })?;
    Ok(evidence)
}

fn get_scalar(r: &mut Reader<'_>, branch: i64) -> Result<Value, AvroError> {
    match branch {
        0 => r.long("evidence").map(Value::Long),
        1 => r.double("evidence").map(Value::Double),
        2 => r.text("evidence").map(Value::Text),
        3 => r.flag("evidence").map(Value::Flag),
        _ => Err(r.fault("evidence", "a known union branch")),
    }
}

pub(crate) fn put_attack(w: &mut Writer, attack: &[String]) {
    w.block(attack.iter(), |w, id| w.text(id));
}

pub(crate) fn get_attack(r: &mut Reader<'_>) -> Result<Vec<String>, AvroError> {
    let mut attack = Vec::new();
    r.block("attack", |r| {
        attack.push(r.text("attack")?);
        Ok(())
    })?;
    Ok(attack)
}

pub(crate) fn put_raw(w: &mut Writer, raw: &[RawRange]) {
    w.block(raw.iter(), |w, range| {
        w.text(&range.topic);
        w.long(i64::from(range.partition));
        w.long(range.from);
        w.long(range.to);
        w.long(i64::try_from(range.rows).unwrap_or(i64::MAX));
    });
}

pub(crate) fn get_raw(r: &mut Reader<'_>) -> Result<Vec<RawRange>, AvroError> {
    let mut raw = Vec::new();
    r.block("raw", |r| {
        raw.push(RawRange {
            topic: r.text("raw.topic")?,
            partition: r.number("raw.partition", "0 to 2^32-1")?,
            from: r.long("raw.from")?,
            to: r.long("raw.to")?,
            rows: r.number("raw.rows", "a count")?,
        });
        Ok(())
    })?;
    Ok(raw)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::super::sample;
    use super::*;

    #[test]
    fn datum_is_pinned() {
        expect!["8001626434666133366364353166323664643532663832373632613633343939343466353735326264623564316237626661393663306233356561326562353534650861636d650c7468726561741a6e64722e626561636f6e696e6712426561636f6e696e674c31302e302e302e352063616c6c6564202263646e2e6578616d706c65220a33312074696d657304a8012a6e64722d626561636f6e696e672d64656661756c740208686f73741031302e302e302e3502021031302e302e302e350000000202183230332e302e3131332e363602f606021663646e2e6578616d706c650208656467658080bc82f4beefb531aad4b78297abf0b53180b4c4e999abf0b53180b0b8cde0abf0b5310e14696e74657276616c5f73020000000000004e400c6a6974746572027b14ae47e17ab43f0a6e616d657308080402610001029c7500883ce4377e060100086e6f6e6508000e70726f7869656406000e73616d706c6573003e14757365725f6167656e74040c6375726c2f3800020a543130373100022870726f626563746c2e666c6f772e6576656e747306e212d8153e00"].assert_eq(&hex::encode(to_avro(&sample())));
    }

    #[test]
    fn reads_back_and_refuses_every_cut() {
        let datum = to_avro(&sample());
        assert_eq!(from_avro(&datum).unwrap(), sample());
        for len in 0..datum.len() {
            assert!(from_avro(&datum[..len]).is_err(), "cut at {len}");
        }
        assert!(matches!(from_avro(&[&datum[..], &[0]].concat()), Err(AvroError::Trailing { got: 1 })));
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let datum = to_avro(&sample());
        for at in 0..datum.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = datum.clone();
                bytes[at] ^= flip;
                let _ = from_avro(&bytes);
            }
        }
    }

    #[test]
    fn avros_own_library_agrees() {
        // Its maps have no order: a signal with one evidence field must come back byte for byte, the other value for value.
        let again = crate::avro::through_the_library(SIGNAL_SCHEMA, &to_avro(&sample()));
        assert_eq!(from_avro(&again).unwrap(), sample());
        let mut one = sample();
        one.evidence.retain(|name, _| name == "interval_s");
        assert_eq!(crate::avro::through_the_library(SIGNAL_SCHEMA, &to_avro(&one)), to_avro(&one));
    }

    #[test]
    fn names_are_those_of_the_json_form() {
        let schema: serde_json::Value = serde_json::from_str(SIGNAL_SCHEMA).unwrap();
        let avro: Vec<_> = schema["fields"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
        let line = super::super::json::to_json(&sample());
        let mut at = 0;
        for name in avro {
            let found = line[at..].find(&format!("\"{name}\":"));
            assert!(found.is_some(), "{name} is missing or out of order in {line}");
            at += found.unwrap();
        }
    }
}
