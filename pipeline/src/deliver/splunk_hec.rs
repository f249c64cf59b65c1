//! Splunk HTTP Event Collector: batches of JSON objects one after the other, `signal_id` and `tenant` as indexed fields
//! so that a search can drop repetitions. Without indexer acknowledgement: 200 means that the collector has taken the
//! batch.
//!
//! Splunk's own code decides, the HTTP status only where there is none. Busy and unavailable come again; a token or
//! configuration fault stops the destination and holds the data; an event that is refused for itself is set aside and
//! the rest sent again; where Splunk does not say which one it is, they are sent one by one.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::destination::{Destination, DestinationError, Opener, Outcome};
use super::event::Event;
use super::http::{CALLS_BUDGET, HttpClient, HttpConfig, Reply, excerpt};
use super::secret::{Secret, SecretSource};

/// Default time for one call: Splunk may hold an answer while its queues are full.
pub const TIMEOUT: Duration = Duration::from_secs(15);

/// Settings of a collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SplunkHecConfig {
    /// `https://host:8088`; without a path, `/services/collector/event`.
    pub http: HttpConfig,
    /// The token.
    pub token: SecretSource,
    /// Index; `None` = the token's default.
    pub index: Option<String>,
    /// `host` of every event; `None` = Splunk's choice.
    pub host: Option<String>,
    /// `source` of every event.
    pub source: String,
    /// `sourcetype` of every event.
    pub sourcetype: String,
    /// Compress the body.
    pub gzip: bool,
}

impl SplunkHecConfig {
    /// A collector with the usual source and sourcetype.
    pub fn new(url: impl Into<String>, token: SecretSource) -> Self {
        Self {
            http: HttpConfig { url: url.into(), timeout: TIMEOUT, ca_file: None, private_allowed: true },
            token,
            index: None,
            host: None,
            source: "tidewatch".into(),
            sourcetype: "tidewatch:signal".into(),
            gzip: true,
        }
    }

    /// For [`super::DestinationConfig`].
    pub fn opener(self) -> Opener {
        Arc::new(move || Ok(Box::new(SplunkHec::open(self.clone())?)))
    }
}

struct SplunkHec {
    client: HttpClient,
    config: SplunkHecConfig,
}

/// What a reply means for the batch that was sent.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Later,
    Halt,
    /// One event is at fault: this one, or one that Splunk does not name.
    Event(Option<usize>),
}

#[derive(Debug, Default, Deserialize)]
struct HecReply {
    code: Option<u32>,
    #[serde(rename = "invalid-event-number")]
    invalid_event_number: Option<usize>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    time: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
    source: &'a str,
    sourcetype: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<&'a str>,
    event: &'a RawValue,
    fields: Fields<'a>,
}

#[derive(Serialize)]
struct Fields<'a> {
    tenant: &'a str,
    signal_id: &'a str,
}

impl SplunkHec {
    fn open(config: SplunkHecConfig) -> Result<Self, DestinationError> {
        let token = config.token.read()?;
        let header = Secret::derived(&token, |token| format!("Splunk {token}"));
        let mut client = HttpClient::open(&config.http, vec![("Authorization".into(), header)], "/services/collector/event")?;
        client.guard(token);
        Ok(Self { client, config })
    }

    /// Posts a part of the batch and fills in its outcomes.
    fn post(&self, events: &[Event], out: &mut Vec<Outcome>) {
        let reply = match self.body(events).and_then(|body| self.client.post("application/json", self.config.gzip, &[], body)) {
            Ok(reply) => reply,
            Err(reason) => {
                out.resize(out.len() + events.len(), Outcome::Retry { after: None, reason });
                return;
            }
        };
        let said: HecReply = serde_json::from_str(&reply.body).unwrap_or_default();
        let reason = format!("http {}: {}", reply.status, excerpt(&reply.body));
        match judge(&reply, &said) {
            Verdict::Taken => out.resize(out.len() + events.len(), Outcome::Delivered),
            Verdict::Later => out.resize(out.len() + events.len(), Outcome::Retry { after: reply.retry_after, reason }),
            Verdict::Halt => out.resize(out.len() + events.len(), Outcome::Stop { reason }),
            Verdict::Event(named) => {
                let code = said.code.map_or_else(|| format!("http-{}", reply.status), |code| format!("hec-{code}"));
                match named.filter(|n| *n < events.len()).or((events.len() == 1).then_some(0)) {
                    Some(at) => {
                        // Whether the earlier ones were taken is not documented: they come again, and the id tells.
                        let again =
                            Outcome::Retry { after: Some(Duration::ZERO), reason: "resent without the refused event".into() };
                        let start = out.len();
                        out.resize(start + events.len(), again);
                        out[start + at] = Outcome::SetAside { code, reason };
                    }
                    None => self.post_singly(events, out),
                }
            }
        }
    }

    /// One event a request; the first that has to wait stops the rest.
    fn post_singly(&self, events: &[Event], out: &mut Vec<Outcome>) {
        let (began, end) = (Instant::now(), out.len() + events.len());
        for event in events {
            self.post(std::slice::from_ref(event), out);
            let waits = matches!(out.last(), Some(Outcome::Retry { .. } | Outcome::Stop { .. }));
            if waits || began.elapsed() > CALLS_BUDGET {
                break;
            }
        }
        out.resize(end, Outcome::Untried);
    }

    fn body(&self, events: &[Event]) -> Result<Vec<u8>, String> {
        let mut plain = Vec::new();
        for event in events {
            self.envelope(event, &mut plain).map_err(|e| e.to_string())?;
        }
        if !self.config.gzip {
            return Ok(plain);
        }
        let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
        gz.write_all(&plain).and_then(|()| gz.finish()).map_err(|e| e.to_string())
    }

    fn envelope(&self, event: &Event, out: &mut Vec<u8>) -> serde_json::Result<()> {
        // Seconds with three decimals: what the collector documents.
        let ms = event.signal.decided_at.0.div_euclid(1_000_000);
        let (sign, ms) = (if ms < 0 { "-" } else { "" }, ms.unsigned_abs());
        let time = RawValue::from_string(format!("{sign}{}.{:03}", ms / 1000, ms % 1000))?;
        let body: &RawValue = serde_json::from_str(&event.json)?;
        let envelope = Envelope {
            time: &time,
            host: self.config.host.as_deref(),
            source: &self.config.source,
            sourcetype: &self.config.sourcetype,
            index: self.config.index.as_deref(),
            event: body,
            fields: Fields { tenant: &event.signal.tenant, signal_id: &event.signal.id },
        };
        serde_json::to_writer(out, &envelope)
    }
}

impl Destination for SplunkHec {
    fn send(&mut self, batch: &[Event]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(batch.len());
        self.post(batch, &mut outcomes);
        outcomes
    }
}

fn judge(reply: &Reply, said: &HecReply) -> Verdict {
    match said.code {
        Some(0 | 17 | 24 | 25) => Verdict::Taken,
        Some(8 | 9 | 18 | 19 | 20 | 23 | 26 | 27) => Verdict::Later,
        Some(5 | 6 | 12 | 13 | 15) => Verdict::Event(said.invalid_event_number),
        // Token faults, configuration faults, and an index that the token may not write: ours is one for all events.
        Some(1..=4 | 7 | 10 | 11 | 14 | 16 | 21 | 22) => Verdict::Halt,
        _ => match reply.status {
            200..=299 => Verdict::Taken,
            300..=399 | 401 | 403 | 404 | 405 => Verdict::Halt,
            408 | 429 => Verdict::Later,
            400..=499 => Verdict::Event(None),
            _ => Verdict::Later,
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use expect_test::expect;

    use super::super::event::tests::event;
    use super::*;

    fn hec(gzip: bool) -> SplunkHec {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "t0ken").unwrap();
        let mut config = SplunkHecConfig::new("http://127.0.0.1:9", SecretSource::File(path));
        config.gzip = gzip;
        config.index = Some("security".into());
        SplunkHec::open(config).unwrap()
    }

    #[test]
    fn bodies_are_objects_one_after_the_other() {
        let plain = hec(false).body(&[event("a"), event("b")]).unwrap();
        expect![[r#"{"time":1767247202.250,"source":"tidewatch","sourcetype":"tidewatch:signal","index":"security","event":{"id":"a","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"w","severity":"high","confidence":84,"rule":{"id":"r","version":1},"entity":{"type":"host","id":"10.0.0.5"},"first_seen":"2026-01-01T06:00:00Z","last_seen":"2026-01-01T06:00:01Z","decided_at":"2026-01-01T06:00:02.25Z","detected_at":"2026-01-01T06:00:10Z"},"fields":{"tenant":"acme","signal_id":"a"}}{"time":1767247202.250,"source":"tidewatch","sourcetype":"tidewatch:signal","index":"security","event":{"id":"b","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"w","severity":"high","confidence":84,"rule":{"id":"r","version":1},"entity":{"type":"host","id":"10.0.0.5"},"first_seen":"2026-01-01T06:00:00Z","last_seen":"2026-01-01T06:00:01Z","decided_at":"2026-01-01T06:00:02.25Z","detected_at":"2026-01-01T06:00:10Z"},"fields":{"tenant":"acme","signal_id":"b"}}"#]].assert_eq(&String::from_utf8(plain.clone()).unwrap());
        let mut unpacked = Vec::new();
        let packed = hec(true).body(&[event("a"), event("b")]).unwrap();
        std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed[..]), &mut unpacked).unwrap();
        assert_eq!(unpacked, plain);
    }

    #[test]
    fn every_code_has_its_verdict() {
        let verdict = |status, body: &str| {
            let reply = Reply { status, retry_after: None, body: body.into() };
            judge(&reply, &serde_json::from_str(body).unwrap_or_default())
        };
        for (code, status) in [(0, 200), (17, 200), (24, 200), (25, 200)] {
            assert_eq!(verdict(status, &format!("{{\"code\":{code}}}")), Verdict::Taken);
        }
        for (code, status) in [(8, 500), (9, 503), (18, 503), (19, 503), (20, 503), (23, 503), (26, 429), (27, 429)] {
            assert_eq!(verdict(status, &format!("{{\"code\":{code}}}")), Verdict::Later);
        }
        for code in [1, 2, 3, 4, 7, 10, 11, 14, 16, 21, 22] {
            assert_eq!(verdict(400, &format!("{{\"code\":{code}}}")), Verdict::Halt);
        }
        for code in [5, 6, 12, 13, 15] {
            assert_eq!(verdict(400, &format!("{{\"code\":{code},\"invalid-event-number\":2}}")), Verdict::Event(Some(2)));
            assert_eq!(verdict(400, &format!("{{\"code\":{code}}}")), Verdict::Event(None));
        }
        for (status, expected) in [
            (200, Verdict::Taken),
            (401, Verdict::Halt),
            (403, Verdict::Halt),
            (302, Verdict::Halt),
            (429, Verdict::Later),
            (502, Verdict::Later),
            (413, Verdict::Event(None)),
        ] {
            assert_eq!(verdict(status, "<html>"), expected, "{status}");
        }
    }
}
