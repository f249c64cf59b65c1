//! probectl's names on the log: record keys and topics of lanes. Text in, text out; knows no broker.

/// Buckets that one tenant's records are spread over.
pub const BUCKETS: u32 = 16;

/// Characters of a lane's namespace, at most (it is a DNS label).
pub const NAMESPACE_BYTES_MAX: usize = 63;

/// Prefix of every probectl topic.
pub const PREFIX: &str = "probectl.";

/// Record key of a tenant's data: the tenant alone when `entropy` is empty, else `tenant|bX`, X = one of 16 letters chosen
/// by FNV-1a-32 of `entropy` (the agent). Equal to the producers' own, so that order per agent holds across both.
pub fn tenant_key(tenant: &str, entropy: &str) -> String {
    if entropy.is_empty() {
        return tenant.to_owned();
    }
    // Below 16, so it fits a byte.
    let letter = b'a' + (fnv1a_32(entropy.as_bytes()) % BUCKETS) as u8;
    format!("{tenant}|b{}", char::from(letter))
}

/// FNV-1a, 32 bit (offset basis and prime of draft-eastlake-fnv).
pub fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(2_166_136_261, |hash, &b| (hash ^ u32::from(b)).wrapping_mul(16_777_619))
}

/// Why a topic has no lane form. It never falls back to the shared topic: that would mix a siloed tenant's data in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Not a namespace.
    #[error("namespace: expected a lower-case letter or digit, then at most 62 of a-z 0-9 -, got {got:?}")]
    Namespace {
        /// As given, at most 80 characters.
        got: String,
    },
    /// Not a probectl topic.
    #[error("topic: expected the prefix probectl., got {got:?}")]
    Base {
        /// As given, at most 80 characters.
        got: String,
    },
}

/// The topic of a lane: `probectl.X` of namespace `ns` is `probectl.<ns>.X`; an empty namespace is the shared topic.
pub fn topic_for(namespace: &str, base: &str) -> Result<String, TopicError> {
    let Some(rest) = base.strip_prefix(PREFIX).filter(|rest| !rest.is_empty()) else {
        return Err(TopicError::Base { got: base.chars().take(80).collect() });
    };
    if namespace.is_empty() {
        return Ok(base.to_owned());
    }
    if !is_namespace(namespace) {
        return Err(TopicError::Namespace { got: namespace.chars().take(80).collect() });
    }
    Ok(format!("{PREFIX}{namespace}.{rest}"))
}

/// A non-empty namespace: `^[a-z0-9][a-z0-9-]{0,62}$`.
pub fn is_namespace(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    text.len() <= NAMESPACE_BYTES_MAX
        && text.bytes().next().is_some_and(word)
        && text.bytes().skip(1).all(|c| word(c) || c == b'-')
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn golden_keys() {
        assert_eq!(fnv1a_32(b"a"), 0xe40c_292c);
        assert_eq!(fnv1a_32(b"agent-1"), 0xe354_67a0);
        for (entropy, expected) in [
            ("", "t1"),
            ("agent-1", "t1|ba"),
            ("agent-b", "t1|bj"),
            ("flow-collector-1", "t1|bn"),
            ("ebpf-host-7", "t1|bf"),
            ("a", "t1|bm"),
        ] {
            assert_eq!(tenant_key("t1", entropy), expected, "{entropy}");
        }
    }

    #[test]
    fn golden_topics() {
        assert_eq!(topic_for("", "probectl.network.results").unwrap(), "probectl.network.results");
        assert_eq!(topic_for("t-acme", "probectl.flow.events").unwrap(), "probectl.t-acme.flow.events");
        for namespace in ["Bad.Namespace", "UPPER", "-lead", &"a".repeat(64)] {
            assert!(matches!(topic_for(namespace, "probectl.flow.events"), Err(TopicError::Namespace { .. })), "{namespace}");
        }
        for base in ["other.topic", "probectl.", ""] {
            assert!(matches!(topic_for("", base), Err(TopicError::Base { .. })), "{base}");
        }
        assert!(is_namespace(&"a".repeat(63)));
    }
}
