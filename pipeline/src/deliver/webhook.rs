//! Webhook: one HTTPS POST per signal, signed as Standard Webhooks says, in order. `webhook-id` is the signal id, so a
//! receiver can tell a repetition.
//!
//! 2xx is delivered; 408, 425, 429, 5xx and no answer come again; 401, 403, 410 and redirects stop the destination; every
//! other 4xx sets that one signal aside.

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;

use super::destination::{Destination, DestinationError, Opener, Outcome};
use super::event::Event;
use super::http::{CALLS_BUDGET, HttpClient, HttpConfig, Reply, excerpt};
use super::secret::{Secret, SecretSource};

/// Largest body, bytes: what receivers of Standard Webhooks must take.
pub const BODY_BYTES_MAX: usize = 1_000_000;

/// Default time for one call.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Settings of a webhook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookConfig {
    /// Where to.
    pub http: HttpConfig,
    /// Signing secret: `whsec_` and base64, or any text, whose bytes are then the key.
    pub signing: Option<SecretSource>,
    /// Token, sent as `Authorization: Bearer <token>`.
    pub bearer: Option<SecretSource>,
    /// Further headers whose values are secrets: `Authorization` and the like.
    pub headers: Vec<(String, SecretSource)>,
}

impl WebhookConfig {
    /// For [`super::DestinationConfig`].
    pub fn opener(self) -> Opener {
        Arc::new(move || Ok(Box::new(Webhook::open(&self)?)))
    }
}

struct Webhook {
    client: HttpClient,
    key: Option<hmac::Key>,
}

impl Webhook {
    fn open(config: &WebhookConfig) -> Result<Self, DestinationError> {
        let mut headers = Vec::new();
        for (name, source) in &config.headers {
            headers.push((name.clone(), source.read()?));
        }
        let bearer = config.bearer.as_ref().map(SecretSource::read).transpose()?;
        if let Some(token) = &bearer {
            headers.push(("Authorization".to_owned(), Secret::derived(token, |token| format!("Bearer {token}"))));
        }
        let mut client = HttpClient::open(&config.http, headers, "/")?;
        if let Some(token) = bearer {
            client.guard(token);
        }
        let mut key = None;
        if let Some(source) = &config.signing {
            let secret = source.read()?;
            key = Some(signing_key(&secret)?);
            client.guard(secret);
        }
        Ok(Self { client, key })
    }

    fn post(&self, event: &Event) -> Outcome {
        if event.json.len() > BODY_BYTES_MAX {
            let reason = format!("{} bytes exceed {BODY_BYTES_MAX}", event.json.len());
            return Outcome::SetAside { code: "too-large".into(), reason };
        }
        let id = &event.signal.id;
        let timestamp_s = (crate::log::local::wall_clock())().0 / tidewatch_schemas::time::SECOND_NS;
        let mut headers = vec![("webhook-id", id.clone()), ("webhook-timestamp", timestamp_s.to_string())];
        if let Some(key) = &self.key {
            headers.push(("webhook-signature", sign(key, id, timestamp_s, &event.json)));
        }
        match self.client.post("application/json", false, &headers, event.json.clone().into_bytes()) {
            Ok(reply) => judge(&reply),
            Err(reason) => Outcome::Retry { after: None, reason },
        }
    }
}

impl Destination for Webhook {
    fn send(&mut self, batch: &[Event]) -> Vec<Outcome> {
        let began = Instant::now();
        let mut outcomes = Vec::with_capacity(batch.len());
        for event in batch {
            let outcome = self.post(event);
            let waits = matches!(outcome, Outcome::Retry { .. } | Outcome::Stop { .. });
            outcomes.push(outcome);
            if waits || began.elapsed() > CALLS_BUDGET {
                break;
            }
        }
        outcomes.resize(batch.len(), Outcome::Untried);
        outcomes
    }
}

fn judge(reply: &Reply) -> Outcome {
    let reason = || format!("http {}: {}", reply.status, excerpt(&reply.body));
    match reply.status {
        200..=299 => Outcome::Delivered,
        300..=399 => Outcome::Stop { reason: format!("http {}: redirects are not followed", reply.status) },
        401 | 403 => Outcome::Stop { reason: reason() },
        410 => Outcome::Stop { reason: format!("{} (the receiver is gone for good)", reason()) },
        408 | 425 | 429 => Outcome::Retry { after: reply.retry_after, reason: reason() },
        400..=499 => Outcome::SetAside { code: reply.status.to_string(), reason: reason() },
        _ => Outcome::Retry { after: reply.retry_after, reason: reason() },
    }
}

fn signing_key(secret: &Secret) -> Result<hmac::Key, DestinationError> {
    let bytes = match secret.expose().strip_prefix("whsec_") {
        None => secret.expose().as_bytes().to_vec(),
        Some(encoded) => STANDARD.decode(encoded).map_err(|_| DestinationError::Setting {
            setting: "signing secret",
            reason: "what follows whsec_ is not base64".into(),
        })?,
    };
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn sign(key: &hmac::Key, id: &str, timestamp_s: i64, body: &str) -> String {
    let tag = hmac::sign(key, format!("{id}.{timestamp_s}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signatures_are_those_of_the_standard() {
        // The example of the Standard Webhooks specification.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        std::fs::write(&path, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let key = signing_key(&SecretSource::File(path.clone()).read().unwrap()).unwrap();
        let signature = sign(&key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        std::fs::write(&path, "whsec_***").unwrap();
        assert!(signing_key(&SecretSource::File(path).read().unwrap()).is_err());
    }

    #[test]
    fn every_status_has_its_outcome() {
        let kind = |status| match judge(&Reply { status, retry_after: Some(Duration::from_secs(3)), body: "no".into() }) {
            Outcome::Delivered => "delivered",
            Outcome::Retry { after, .. } => {
                assert_eq!(after, Some(Duration::from_secs(3)));
                "retry"
            }
            Outcome::SetAside { code, .. } => {
                assert_eq!(code, status.to_string());
                "aside"
            }
            Outcome::Stop { .. } => "stop",
            Outcome::Untried => "untried",
        };
        for (statuses, expected) in [
            (&[200, 202, 204][..], "delivered"),
            (&[408, 425, 429, 500, 502, 503, 504, 101], "retry"),
            (&[400, 404, 413, 422], "aside"),
            (&[301, 302, 308, 401, 403, 410], "stop"),
        ] {
            for status in statuses {
                assert_eq!(kind(*status), expected, "{status}");
            }
        }
    }
}
