//! Destinations of signals and the secrets they need. Nothing here connects.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;

use tidewatch_schemas::document::{Map, Mistakes, shown};

use super::input::is_tenant;
use super::section::Section;

/// Destinations of one topology, at most.
pub const DESTINATIONS_MAX: usize = 64;

/// Tenants named by one destination, at most.
const TENANTS_MAX: usize = 10_000;

/// Largest secret read from a file, bytes.
const SECRET_BYTES_MAX: u64 = 64 << 10;

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
    /// An HTTPS endpoint that takes JSON.
    Webhook {
        /// Its URL.
        url: String,
        /// Bearer token.
        token: Option<Secret>,
    },
    /// Splunk's HTTP Event Collector.
    SplunkHec {
        /// Its URL.
        url: String,
        /// HEC token.
        token: Secret,
    },
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

/// Where a secret is. Never the secret itself, so that it can be printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The content of a file, without the line end.
    File(PathBuf),
    /// The value of an environment variable.
    Env(String),
}

/// Why a secret cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read the secret in {path}: {reason}")]
    File {
        /// File.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The variable is not set.
    #[error("environment variable {name} is not set, or no text")]
    Env {
        /// Variable.
        name: String,
    },
    /// There is nothing in it.
    #[error("the secret of {at} is empty")]
    Empty {
        /// File or variable.
        at: String,
    },
}

impl Secret {
    /// Fetches the secret. Called where it is needed, never by parsing.
    pub fn fetch(&self) -> Result<String, SecretError> {
        let text = match self {
            Self::File(path) => crate::topology::text_of(path, SECRET_BYTES_MAX)
                .map_err(|reason| SecretError::File { path: path.display().to_string(), reason })?,
            Self::Env(name) => std::env::var(name).map_err(|_| SecretError::Env { name: name.clone() })?,
        };
        let text = text.trim_end_matches(['\r', '\n']);
        if text.is_empty() { Err(SecretError::Empty { at: self.to_string() }) } else { Ok(text.to_owned()) }
    }

    /// `<name>_file` or `<name>_env`; `None` when neither is given, and a mistake when both are.
    pub(super) fn read_from(s: &mut Section<'_, '_>, name: &str) -> Option<Self> {
        let (file, env) = (format!("{name}_file"), format!("{name}_env"));
        match (s.path(&file), s.text(&env)) {
            (Some(path), None) => Some(Self::File(path)),
            (None, Some(variable)) => Some(Self::Env(variable.to_owned())),
            (Some(_), Some(_)) => {
                s.mistake(&env, format!("{file} and {env} are given; one is enough"));
                None
            }
            (None, None) => None,
        }
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
        }
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
    let own: &[&str] = match kind {
        Some(0) => &["path"],
        Some(_) => &["url", "token_file", "token_env", "allow_plaintext"],
        None => &["path", "url", "token_file", "token_env", "allow_plaintext"],
    };
    let mut s = Section::new(map, &[COMMON, own].concat(), mistakes);
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
            let (url, token) = (url(&mut s), Secret::read_from(&mut s, "token"));
            DestinationKind::Webhook { url: url?, token }
        }
        _ => {
            let (url, token) = (url(&mut s), Secret::read_from(&mut s, "token"));
            if token.is_none() {
                s.mistake("", "splunk_hec needs a token: token_file or token_env".into());
            }
            DestinationKind::SplunkHec { url: url?, token: token? }
        }
    };
    Some(Destination { name: name?.to_owned(), kind, from, tenants })
}

fn url(s: &mut Section<'_, '_>) -> Option<String> {
    let plaintext = s.flag("allow_plaintext", false);
    let url = s.require("url")?;
    let secure = url.strip_prefix("https://");
    let plain = url.strip_prefix("http://");
    let rest = secure.or(plain).unwrap_or("");
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let good = !authority.is_empty() && url.bytes().all(|b| b.is_ascii_graphic());
    if !good {
        s.mistake("url", format!("expected a URL like https://siem.example/services/collector, got {}", shown(url)));
    } else if authority.contains('@') {
        s.mistake("url", "a URL holds no user or password; give token_file or token_env".into());
    } else if secure.is_none() && !plaintext {
        s.mistake("url", "an http:// URL sends signals readable; use https://, or allow_plaintext: true if that is meant".into());
    }
    Some(url.to_owned())
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
