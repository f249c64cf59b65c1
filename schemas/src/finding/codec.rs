//! The Avro form of a finding on the findings topic, as `avro/finding.avsc` says. Internal: unframed, told apart by the
//! record's header. Equal findings give equal bytes, which the outputs' running hash relies on.
//!
//! The last two fields are left out where they say nothing (null, false) and nothing follows, so that a finding that nothing
//! holds and no shadow lies on has the bytes that it had before there were those fields, and older ones are read.

use super::Finding;
use crate::avro::{AvroError, Reader, Writer};
use crate::signal::{
    get_attack, get_confidence, get_endpoint, get_entity, get_evidence, get_raw, get_rule, get_severity, get_time, put_attack,
    put_endpoint, put_evidence, put_raw, put_severity, put_verdict,
};

/// The schema.
pub const FINDING_SCHEMA: &str = include_str!("../../avro/finding.avsc");

impl Finding {
    /// The datum.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        for text in [&self.tenant, &self.plane, &self.kind, &self.title, &self.why] {
            w.text(text);
        }
        put_verdict(&mut w, self.severity, self.confidence, &self.rule, &self.entity);
        put_endpoint(&mut w, self.source.as_ref());
        put_endpoint(&mut w, self.destination.as_ref());
        for time in [self.first_seen, self.last_seen, self.decided_at, self.slice_start, self.slice_end] {
            w.long(time.0);
        }
        put_evidence(&mut w, &self.evidence);
        put_attack(&mut w, &self.attack);
        put_raw(&mut w, &self.raw);
        w.text(&self.subject);
        w.option(self.contact.as_deref(), Writer::text);
        w.long(self.suppress_ns);
        if self.held_up_to.is_some() || self.shadow {
            w.option(self.held_up_to, put_severity);
        }
        if self.shadow {
            w.flag(true);
        }
        w.finish()
    }

    /// Reads a datum. Hostile bytes give an error.
    pub fn decode(datum: &[u8]) -> Result<Self, AvroError> {
        let mut r = Reader::new(datum)?;
        let finding = Self {
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
            slice_start: get_time(&mut r, "slice_start")?,
            slice_end: get_time(&mut r, "slice_end")?,
            evidence: get_evidence(&mut r)?,
            attack: get_attack(&mut r)?,
            raw: get_raw(&mut r)?,
            subject: r.text("subject")?,
            contact: r.option("contact", |r| r.text("contact"))?,
            suppress_ns: r.long("suppress_ns")?,
            held_up_to: if r.is_at_end() { None } else { r.option("held_up_to", get_severity)? },
            shadow: if r.is_at_end() { false } else { r.flag("shadow")? },
        };
        r.finish()?;
        Ok(finding)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::*;
    use crate::signal::{Severity, sample as signal};

    fn sample() -> Finding {
        let s = signal();
        Finding {
            tenant: s.tenant,
            plane: s.plane,
            kind: s.kind,
            title: s.title,
            why: s.why,
            severity: s.severity,
            confidence: s.confidence,
            rule: s.rule,
            entity: s.entity,
            source: s.source,
            destination: s.destination,
            first_seen: s.first_seen,
            last_seen: s.last_seen,
            decided_at: s.decided_at,
            slice_start: s.detected_at.minus(10),
            slice_end: s.detected_at,
            evidence: s.evidence,
            attack: s.attack,
            raw: s.raw,
            subject: "203.0.113.66:443".into(),
            contact: Some("cdn.example".into()),
            suppress_ns: 3_600_000_000_000,
            held_up_to: None,
            shadow: false,
        }
    }

    #[test]
    fn datum_is_pinned() {
        expect!["0861636d650c7468726561741a6e64722e626561636f6e696e6712426561636f6e696e674c31302e302e302e352063616c6c6564202263646e2e6578616d706c65220a33312074696d657304a8012a6e64722d626561636f6e696e672d64656661756c740208686f73741031302e302e302e3502021031302e302e302e350000000202183230332e302e3131332e363602f606021663646e2e6578616d706c650208656467658080bc82f4beefb531aad4b78297abf0b53180b4c4e999abf0b531ecafb8cde0abf0b53180b0b8cde0abf0b5310e14696e74657276616c5f73020000000000004e400c6a6974746572027b14ae47e17ab43f0a6e616d657308080402610001029c7500883ce4377e060100086e6f6e6508000e70726f7869656406000e73616d706c6573003e14757365725f6167656e74040c6375726c2f3800020a543130373100022870726f626563746c2e666c6f772e6576656e747306e212d8153e00203230332e302e3131332e36363a343433021663646e2e6578616d706c658080c58bc6d101"].assert_eq(&hex::encode(sample().encode()));
    }

    #[test]
    fn reads_back_and_refuses_every_cut() {
        let mut other = sample();
        other.contact = None;
        other.source = None;
        let held = Finding { held_up_to: Some(Severity::Medium), ..sample() };
        let shadow = Finding { shadow: true, ..sample() };
        let both = Finding { shadow: true, ..held.clone() };
        for finding in [sample(), other, held, shadow, both] {
            let datum = finding.encode();
            assert_eq!(Finding::decode(&datum).unwrap(), finding);
            // Cut right before what holds it, it is a finding that nothing holds; before its shadow, one without.
            let whole = Finding { held_up_to: None, shadow: false, ..finding.clone() }.encode().len();
            let without_shadow = datum.len() - usize::from(finding.shadow);
            for len in (0..datum.len()).filter(|len| *len != whole && *len != without_shadow) {
                assert!(Finding::decode(&datum[..len]).is_err(), "cut at {len}");
            }
        }
    }

    #[test]
    fn flipped_bytes_never_panic() {
        let datum = sample().encode();
        for at in 0..datum.len() {
            for flip in [0x01, 0x80, 0xff] {
                let mut bytes = datum.clone();
                bytes[at] ^= flip;
                let _ = Finding::decode(&bytes);
            }
        }
    }

    #[test]
    fn avros_own_library_agrees() {
        let whole = Finding { held_up_to: Some(Severity::Medium), shadow: true, ..sample() };
        let again = crate::avro::through_the_library(FINDING_SCHEMA, &whole.encode());
        assert_eq!(Finding::decode(&again).unwrap(), whole);
    }

    #[test]
    fn oversized_data_is_refused() {
        let mut finding = sample();
        finding.why = "x".repeat(crate::avro::DATUM_BYTES_MAX);
        assert!(matches!(Finding::decode(&finding.encode()), Err(AvroError::TooLarge { .. })));
    }
}
