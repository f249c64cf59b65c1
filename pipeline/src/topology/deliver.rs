//! A topology's destinations as the deliver stage takes them.

use crate::deliver::http::HttpConfig;
use crate::deliver::ndjson::NdjsonConfig;
use crate::deliver::splunk_hec::SplunkHecConfig;
use crate::deliver::webhook::{self, WebhookConfig};
use crate::deliver::{DeliverConfig, DestinationConfig, KnownTopic, Start};
use crate::log::Member;

use super::{Destination, DestinationKind, StartFrom, Topology};

impl Topology {
    /// What the deliver stage needs. Opens nothing and reads no secret.
    pub fn deliver(&self, member: Member, topic: KnownTopic) -> DeliverConfig {
        DeliverConfig {
            signals_topic: self.names.signals(),
            topic,
            group_prefix: self.names.destination_group_prefix(),
            undelivered_topic: self.names.undelivered(),
            member,
            destinations: self.destinations.iter().map(config).collect(),
        }
    }
}

fn config(destination: &Destination) -> DestinationConfig {
    let open = match destination.kind.clone() {
        DestinationKind::Ndjson { path } => NdjsonConfig { path }.opener(),
        DestinationKind::Webhook { server, authorization, signing } => {
            let headers = authorization.map(|a| ("Authorization".to_owned(), a)).into_iter().collect();
            // The URL is the operator's own word, so it may name a private address.
            let http = HttpConfig { url: server.url, timeout: webhook::TIMEOUT, ca_file: server.ca_file, private_allowed: true };
            WebhookConfig { http, signing, bearer: None, headers }.opener()
        }
        DestinationKind::SplunkHec { server, token, index } => {
            let mut splunk = SplunkHecConfig { index, ..SplunkHecConfig::new(server.url, token) };
            splunk.http.ca_file = server.ca_file;
            splunk.opener()
        }
    };
    DestinationConfig {
        start: match destination.from {
            StartFrom::Now => Start::Now,
            StartFrom::Beginning => Start::Beginning,
        },
        tenants: (!destination.tenants.is_empty()).then(|| destination.tenants.iter().cloned().collect()),
        ..DestinationConfig::new(destination.name.clone(), open)
    }
}
