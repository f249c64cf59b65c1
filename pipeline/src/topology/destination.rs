//! Destinations of signals and the places of the secrets they need. Nothing here connects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use tidewatch_schemas::document::{Map, Mistakes, shown};

use super::input::is_tenant;
use super::section::Section;

pub use crate::deliver::DESTINATIONS_MAX;
/// Where a secret is. Never the secret itself, so that it can be printed.
pub use crate::deliver::secret::SecretSource as Secret;

/// Tenants named by one destination, at most.
const TENANTS_MAX: usize = 10_000;

/// Who gets signals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Unique; its position is kept under this name.
    pub name: String,
    /// What it is.
    pub kind: DestinationKind,
    /// Where a new destination begins.
    pub from: StartFrom,
    /// Only these tenants' signals, sorted; empty = all.
    pub tenants: Vec<String>,
}

/// What a destination is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DestinationKind {
    /// A file, one JSON object a line.
    Ndjson {
        /// The file.
        path: PathBuf,
    },
    /// An HTTPS endpoint that takes JSON, one signal a request (Standard Webhooks).
    Webhook {
        /// Where.
        server: Server,
        /// Whole value of the `Authorization` header, such as `Bearer ...` (`authorization_file`, `authorization_env`).
        authorization: Option<Secret>,
        /// Key of the signature (`signing_file`, `signing_env`).
        signing: Option<Secret>,
    },
    /// Splunk's HTTP Event Collector.
    SplunkHec {
        /// Where; without a path, `/services/collector/event`.
        server: Server,
        /// HEC token (`token_file`, `token_env`).
        token: Secret,
        /// Index; `None` = the token's default.
        index: Option<String>,
    },
}

/// An HTTPS server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `https://...`; `http://` only towards this machine.
    pub url: String,
    /// Further authorities (PEM).
    pub ca_file: Option<PathBuf>,
}

impl DestinationKind {
    const WORDS: &'static [&'static str] = &["ndjson", "webhook", "splunk_hec"];

    /// Name as in topologies.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Ndjson { .. } => "ndjson",
            Self::Webhook { .. } => "webhook",
            Self::SplunkHec { .. } => "splunk_hec",
        }
    }
}

/// Where a new destination begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StartFrom {
    /// With the next signal.
    #[default]
    Now,
    /// With the oldest signal kept.
    Beginning,
}

/// Where a secret is, as `<name>_file` or `<name>_env`; `None` when neither is given, a mistake when both are.
pub(super) fn secret(s: &mut Section<'_, '_>, name: &str) -> Option<Secret> {
    let (file, env) = (format!("{name}_file"), format!("{name}_env"));
    match (s.path(&file), s.text(&env)) {
        (Some(path), None) => Some(Secret::File(path)),
        (None, Some(variable)) => Some(Secret::Env(variable.to_owned())),
        (Some(_), Some(_)) => {
            s.mistake(&env, format!("{file} and {env} are given; one is enough"));
            None
        }
        (None, None) => None,
    }
}

/// Reads `destinations`.
pub(super) fn read(root: &Map<'_>, mistakes: &mut Mistakes) -> Vec<Destination> {
    let Some(node) = root.get("destinations") else { return Vec::new() };
    let nodes = node.list(mistakes).unwrap_or_default();
    if nodes.len() > DESTINATIONS_MAX {
        mistakes.push(node.mistake(format!("{} destinations; at most {DESTINATIONS_MAX}", nodes.len())));
    }
    let mut names = BTreeSet::new();
    let mut destinations = Vec::new();
    for node in nodes.into_iter().take(DESTINATIONS_MAX) {
        let Some(destination) = node.map(mistakes).and_then(|map| one(map, mistakes)) else { continue };
        if names.insert(destination.name.clone()) {
            destinations.push(destination);
        } else {
            mistakes.push(node.mistake(format!("destination {} stands twice", destination.name)));
        }
    }
    destinations
}

fn one(map: Map<'_>, mistakes: &mut Mistakes) -> Option<Destination> {
    const COMMON: &[&str] = &["name", "kind", "from", "tenants"];
    let kind = map.require("kind", mistakes).and_then(|n| n.one_of(DestinationKind::WORDS, mistakes));
    const WEBHOOK: &[&str] = &["url", "ca_file", "authorization_file", "authorization_env", "signing_file", "signing_env"];
    const SPLUNK: &[&str] = &["url", "ca_file", "token_file", "token_env", "index"];
    let own = match kind {
        Some(0) => vec!["path"],
        Some(1) => WEBHOOK.to_vec(),
        Some(_) => SPLUNK.to_vec(),
        // The kind is the mistake to mend first.
        None => [&["path"], WEBHOOK, SPLUNK].concat(),
    };
    let mut s = Section::new(map, &[COMMON, own.as_slice()].concat(), mistakes);
    let name = s.require("name").filter(|name| {
        let good = !name.is_empty()
            && name.len() <= 63
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'));
        if !good {
            s.mistake("name", format!("a destination's name is 1 to 63 of a-z, 0-9, - and _, got {}", shown(name)));
        }
        good
    });
    let from = match s.get("from").and_then(|n| n.one_of(&["now", "beginning"], s.mistakes)) {
        Some(1) => StartFrom::Beginning,
        _ => StartFrom::Now,
    };
    let tenants = tenants(&mut s);
    let kind = match kind? {
        0 => DestinationKind::Ndjson { path: s.require("path")?.into() },
        1 => {
            let (server, authorization) = (server(&mut s), secret(&mut s, "authorization"));
            DestinationKind::Webhook { server: server?, authorization, signing: secret(&mut s, "signing") }
        }
        _ => {
            let (server, token) = (server(&mut s), secret(&mut s, "token"));
            if token.is_none() {
                s.mistake("", "splunk_hec needs a token: token_file or token_env".into());
            }
            DestinationKind::SplunkHec { server: server?, token: token?, index: s.text("index").map(str::to_owned) }
        }
    };
    Some(Destination { name: name?.to_owned(), kind, from, tenants })
}

/// `url` and `ca_file`.
pub(super) fn server(s: &mut Section<'_, '_>) -> Option<Server> {
    let ca_file = s.path("ca_file");
    let url = s.require("url")?;
    let secure = url.strip_prefix("https://");
    let plain = url.strip_prefix("http://");
    let rest = secure.or(plain).unwrap_or("");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let good = !authority.is_empty() && url.bytes().all(|b| b.is_ascii_graphic());
    if !good {
        s.mistake("url", format!("expected a URL like https://siem.example/services/collector, got {}", shown(url)));
    } else if authority.contains('@') {
        s.mistake("url", "a URL holds no user or password; name a file or an environment variable that does".into());
    } else if secure.is_none() && !is_this_machine(authority) {
        s.mistake("url", "an http:// URL can be read on its way, and is taken only towards this machine; use https://".into());
    }
    Some(Server { url: url.to_owned(), ca_file })
}

/// `localhost` or a loopback address, with or without port.
fn is_this_machine(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or(""),
        None => authority.split(':').next().unwrap_or(""),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn tenants(s: &mut Section<'_, '_>) -> Vec<String> {
    let Some(node) = s.get("tenants") else { return Vec::new() };
    let nodes = node.list(s.mistakes).unwrap_or_default();
    if nodes.is_empty() || nodes.len() > TENANTS_MAX {
        s.mistake("tenants", format!("tenants names 1 to {TENANTS_MAX}; leave it out for all"));
    }
    let mut tenants = BTreeSet::new();
    for node in nodes.into_iter().take(TENANTS_MAX) {
        match node.str(s.mistakes) {
            Some(tenant) if is_tenant(tenant) => {
                tenants.insert(tenant.to_owned());
            }
            Some(tenant) => s.mistakes.push(node.mistake(format!("{} is no tenant id", shown(tenant)))),
            None => {}
        }
    }
    tenants.into_iter().collect()
}
