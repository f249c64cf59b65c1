//! Headers of a published signal: CloudEvents 1.0, Kafka binding, binary mode, and our own. Consumers must not need them:
//! everything they say is in the value too.

use super::{Severity, Signal};
use crate::trace::{TRACEPARENT, TraceContext};

/// Which form the value has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentType {
    /// One JSON object.
    Json,
    /// An Avro datum in Confluent framing.
    Avro,
}

impl ContentType {
    /// Media type, as in the `content-type` header.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Avro => "application/avro",
        }
    }
}

/// Name of the header that tells the value's form.
pub const CONTENT_TYPE: &str = "content-type";

impl Severity {
    /// Name as published.
    pub fn name(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// The headers of one signal. `deployment` names who published it (`ce_source` is `/tidewatch/<deployment>`). The trace
/// context is made of the id alone ([`TraceContext::of_id`]).
pub fn headers(signal: &Signal, deployment: &str, content: ContentType) -> Vec<(String, Vec<u8>)> {
    let text = |name: &str, value: &str| (name.to_owned(), value.as_bytes().to_vec());
    vec![
        text("ce_specversion", "1.0"),
        text("ce_id", &signal.id),
        text("ce_source", &format!("/tidewatch/{deployment}")),
        text("ce_type", &format!("io.tidewatch.signal.{}.v1", signal.kind)),
        text("ce_time", &signal.detected_at.to_rfc3339()),
        text("ce_subject", &signal.entity.id),
        text("ce_tenant", &signal.tenant),
        text(CONTENT_TYPE, content.name()),
        text("tw-detector", &signal.kind),
        text("tw-severity", signal.severity.name()),
        text("tw-rule-rev", &signal.rule.version.to_string()),
        text(TRACEPARENT, &TraceContext::of_id(signal.id.as_bytes()).to_header()),
    ]
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::super::sample;
    use super::*;

    #[test]
    fn headers_are_pinned() {
        let lines: Vec<_> = headers(&sample(), "prod", ContentType::Json)
            .into_iter()
            .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(&value)))
            .collect();
        expect![[r#"
            ce_specversion: 1.0
            ce_id: bd4fa36cd51f26dd52f82762a6349944f5752bdb5d1b7bfa96c0b35ea2eb554e
            ce_source: /tidewatch/prod
            ce_type: io.tidewatch.signal.ndr.beaconing.v1
            ce_time: 2026-06-04T12:31:10Z
            ce_subject: 10.0.0.5
            ce_tenant: acme
            content-type: application/json
            tw-detector: ndr.beaconing
            tw-severity: medium
            tw-rule-rev: 1
            traceparent: 00-ff78ef1b23ba10de91604de07ee59a17-977563dacd6e5ad5-01
        "#]]
        .assert_eq(&lines.concat());
    }
}
