//! Signal ids: what anyone can compute again from the published fields and the rule. No randomness, no clock; where the
//! rows lay plays no part.

use super::Entity;
use crate::time::EventTime;

/// BLAKE3 in lower hex over tenant, rule id, version, entity type, entity id, subject, slice start. Each text is preceded
/// by its length in bytes (u64, little-endian), so no two different lists of fields give the same input; version is u32
/// and slice start i64 nanoseconds, both little-endian.
pub fn signal_id(tenant: &str, rule_id: &str, version: u32, entity: &Entity, subject: &str, slice_start: EventTime) -> String {
    let mut hasher = blake3::Hasher::new();
    text(&mut hasher, tenant);
    text(&mut hasher, rule_id);
    hasher.update(&version.to_le_bytes());
    text(&mut hasher, &entity.kind);
    text(&mut hasher, &entity.id);
    text(&mut hasher, subject);
    hasher.update(&slice_start.0.to_le_bytes());
    hasher.finalize().to_hex().to_string()
}

fn text(hasher: &mut blake3::Hasher, text: &str) {
    hasher.update(&(text.len() as u64).to_le_bytes());
    hasher.update(text.as_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::*;

    fn host(id: &str) -> Entity {
        Entity { kind: "host".into(), id: id.into() }
    }

    #[test]
    fn golden_vectors() {
        let at = EventTime::parse_rfc3339("2026-06-04T12:31:00Z").unwrap();
        let id = signal_id("acme", "ndr-beaconing-default", 1, &host("10.0.0.5"), "203.0.113.66:443", at);
        expect!["bd4fa36cd51f26dd52f82762a6349944f5752bdb5d1b7bfa96c0b35ea2eb554e"].assert_eq(&id);
        expect!["7d429aa373c16dfec89afc5ff70a13908a4cb9b2cb33a740a97415535d8cab83"].assert_eq(&signal_id(
            "",
            "",
            0,
            &host(""),
            "",
            EventTime(0),
        ));
        expect!["4237fe4a647d9fb26e1311265d8e8334757b9878778248f345aedbeff8a28844"].assert_eq(&signal_id(
            "täne",
            "r",
            u32::MAX,
            &host("::1"),
            "a|b",
            EventTime::MIN,
        ));
    }

    #[test]
    fn the_input_is_what_the_doc_says() {
        let mut input = Vec::new();
        for text in ["t", "r"] {
            input.extend((text.len() as u64).to_le_bytes());
            input.extend(text.as_bytes());
        }
        input.extend(7u32.to_le_bytes());
        for text in ["host", "h", "s"] {
            input.extend((text.len() as u64).to_le_bytes());
            input.extend(text.as_bytes());
        }
        input.extend((-5i64).to_le_bytes());
        let expected = blake3::hash(&input).to_hex().to_string();
        assert_eq!(signal_id("t", "r", 7, &host("h"), "s", EventTime(-5)), expected);
    }

    #[test]
    fn fields_do_not_run_into_each_other() {
        let at = EventTime(0);
        let ids = [
            signal_id("ab", "c", 1, &host("h"), "s", at),
            signal_id("a", "bc", 1, &host("h"), "s", at),
            signal_id("a", "b", 1, &host("hs"), "", at),
            signal_id("a", "b", 1, &host("h"), "s", at),
            signal_id("a", "b", 2, &host("h"), "s", at),
            signal_id("a", "b", 1, &host("h"), "s", EventTime(1)),
        ];
        let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }
}
