//! From what a topology says to running destinations. The one place where a kind in a topology meets its file here.

use std::time::Duration;

use super::destination::Opener;
use super::http::HttpConfig;
use super::ndjson::NdjsonConfig;
use super::secret::SecretSource;
use super::sources::Start;
use super::splunk_hec::SplunkHecConfig;
use super::webhook::{self, WebhookConfig};
use super::{DeliverConfig, DestinationConfig};
use crate::log::{Member, TopicSpec};
use crate::topology::{Destination, DestinationKind, Names, Secret, Stage, StartFrom};

/// Base name of the undelivered topic ([`Names::topic`]).
pub const UNDELIVERED: &str = "undelivered";

/// Bytes by which a dead letter may exceed its signal: original headers, destination, reason.
pub const LETTER_EXTRA_BYTES: usize = 64 << 10;

/// How the undelivered topic is made, given the signals topic's largest record.
pub fn undelivered_topic(names: &Names, partitions: u32, signal_bytes_max: usize) -> TopicSpec {
    let record_bytes_max = signal_bytes_max + LETTER_EXTRA_BYTES;
    TopicSpec { record_bytes_max, ..TopicSpec::new(names.topic(UNDELIVERED), partitions) }
}

impl DeliverConfig {
    /// The stage of a topology.
    pub fn of(names: &Names, destinations: &[Destination], member: Member) -> Self {
        Self {
            signals_topic: names.signals(),
            group_prefix: format!("{}-", names.group(Stage::Deliver)),
            undelivered_topic: names.topic(UNDELIVERED),
            member,
            destinations: destinations.iter().map(DestinationConfig::of).collect(),
        }
    }
}

impl DestinationConfig {
    /// A topology's destination, with the defaults for batches and pauses.
    pub fn of(destination: &Destination) -> Self {
        let tenants = &destination.tenants;
        Self {
            start: match destination.from {
                StartFrom::Now => Start::Now,
                StartFrom::Beginning => Start::Beginning,
            },
            tenants: (!tenants.is_empty()).then(|| tenants.iter().cloned().collect()),
            ..Self::new(destination.name.clone(), opener(&destination.kind))
        }
    }
}

fn opener(kind: &DestinationKind) -> Opener {
    match kind {
        DestinationKind::Ndjson { path } => NdjsonConfig { path: path.clone() }.opener(),
        DestinationKind::Webhook { url, token } => WebhookConfig {
            http: http(url, webhook::TIMEOUT),
            signing: None,
            bearer: token.as_ref().map(source),
            headers: Vec::new(),
        }
        .opener(),
        DestinationKind::SplunkHec { url, token } => SplunkHecConfig::new(url, source(token)).opener(),
    }
}

/// Whoever writes a topology runs this process and may name internal receivers; a URL that a tenant gave would have to
/// come in with `private_allowed: false`.
fn http(url: &str, timeout: Duration) -> HttpConfig {
    HttpConfig { url: url.to_owned(), timeout, ca_file: None, private_allowed: true }
}

fn source(secret: &Secret) -> SecretSource {
    match secret {
        Secret::File(path) => SecretSource::File(path.clone()),
        Secret::Env(name) => SecretSource::Env(name.clone()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_and_filters_follow_the_topology() {
        let destination = |name: &str, kind, tenants: &[&str]| Destination {
            name: name.into(),
            kind,
            from: StartFrom::Beginning,
            tenants: tenants.iter().map(|t| (*t).to_owned()).collect(),
        };
        let token = Secret::File("/nowhere/token".into());
        let all = [
            destination("siem", DestinationKind::SplunkHec { url: "https://siem.example:8088".into(), token }, &["acme"]),
            destination("file", DestinationKind::Ndjson { path: "/nowhere/x".into() }, &[]),
        ];
        let names = Names::of("prod").unwrap();
        let config = DeliverConfig::of(&names, &all, Member { id: "m".into(), index: 0, of: 1 });
        assert_eq!(config.signals_topic, "prod.tidewatch.signals");
        assert_eq!(config.undelivered_topic, undelivered_topic(&names, 1, 1 << 20).name);
        assert_eq!(config.group_prefix, "tidewatch-prod-deliver-");
        assert_eq!(config.destinations[0].start, Start::Beginning);
        assert_eq!(config.destinations[0].tenants, Some(["acme".to_owned()].into()));
        assert_eq!(config.destinations[1].tenants, None);
        let refused = (config.destinations[0].open)().err().unwrap().to_string();
        assert!(refused.contains("/nowhere/token"), "{refused}");
    }
}
