//! Whose rows these are. Verification comes before every other stage: a record is accepted for exactly one tenant or
//! rejected whole, and every element of it is stamped with the verified tenant.
//!
//! The order of checks: an empty batch; two (tenant, agent) pairs in one record; no tenant; then, on a lane, the lane's
//! tenant counts and the agent must be registered there; on a shared topic strict mode refuses everything, else the
//! pair must be registered. A registry that cannot answer rejects: absence of proof is no proof.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use tidewatch_schemas::wire::DecodedRow;

/// Pairs a registry file may hold.
pub const REGISTERED_MAX: usize = 1_000_000;

/// A registry file is looked at again after so long.
const REREAD_AFTER: Duration = Duration::from_secs(10);

/// What a registry answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Known.
    Registered,
    /// Not known.
    Unknown,
    /// No answer to be had.
    Unavailable,
}

/// Who may speak for whom.
pub trait Registry: Send + Sync + fmt::Debug {
    /// May this agent speak for this tenant? `None` asks for the tenant alone (elements that carry no agent).
    fn ask(&self, tenant: &str, agent: Option<&str>) -> Answer;
}

/// How the rows of an input find their tenant.
#[derive(Clone, Debug)]
pub enum Tenancy {
    /// The topic belongs to one tenant; the format carries none.
    Static(Arc<str>),
    /// Rows claim tenant and agent.
    Verified {
        /// `None` = every non-empty tenant is taken at its word.
        registry: Option<Arc<dyn Registry>>,
        /// Shared topics are refused.
        strict: bool,
        /// The topic is this tenant's lane.
        lane: Option<Arc<str>>,
    },
}

/// Why a record is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TenancyFault {
    /// No element.
    #[error("empty batch")]
    Empty,
    /// More than one (tenant, agent) pair.
    #[error("more than one tenant or agent in one record")]
    Mixed,
    /// No tenant named.
    #[error("tenant_id is missing")]
    NoTenant,
    /// No agent named.
    #[error("agent_id is missing")]
    NoAgent,
    /// Strict mode.
    #[error("shared topic refused by strict mode")]
    Strict,
    /// Not registered.
    #[error("agent is not registered for the tenant")]
    NotRegistered,
    /// The registry does not answer.
    #[error("registry unavailable")]
    RegistryUnavailable,
}

impl Tenancy {
    /// The lane's tenant.
    pub fn lane(&self) -> Option<&str> {
        match self {
            Self::Static(_) => None,
            Self::Verified { lane, .. } => lane.as_deref(),
        }
    }

    /// The tenant of a record's rows.
    pub fn verify(&self, rows: &[DecodedRow<'_>]) -> Result<Arc<str>, TenancyFault> {
        let (registry, strict, lane) = match self {
            Self::Static(tenant) => return Ok(tenant.clone()),
            Self::Verified { registry, strict, lane } => (registry, *strict, lane),
        };
        let first = rows.first().ok_or(TenancyFault::Empty)?;
        let agent = rows.iter().find_map(|r| r.agent);
        if rows.iter().any(|r| !same(r.tenant, first.tenant) || r.agent.is_some_and(|a| agent.is_none_or(|b| !same(a, b)))) {
            return Err(TenancyFault::Mixed);
        }
        if first.tenant.is_empty() && lane.is_none() {
            return Err(TenancyFault::NoTenant);
        }
        if lane.is_none() && strict {
            return Err(TenancyFault::Strict);
        }
        let tenant: Arc<str> = lane.clone().unwrap_or_else(|| first.tenant.into());
        let Some(registry) = registry else { return Ok(tenant) };
        if agent == Some("") {
            return Err(TenancyFault::NoAgent);
        }
        match registry.ask(&tenant, agent) {
            Answer::Registered => Ok(tenant),
            Answer::Unknown => Err(TenancyFault::NotRegistered),
            Answer::Unavailable => Err(TenancyFault::RegistryUnavailable),
        }
    }
}

/// Equal texts. Decoders give the rows of a record the very same text where they can, and then nothing is compared.
fn same(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || a == b
}

/// A registry kept in a text file: one `tenant agent` pair a line, `#` comments. Read again when the file changes; a file
/// that cannot be read any more answers [`Answer::Unavailable`].
#[derive(Debug)]
pub struct FileRegistry {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

#[derive(Debug, Default)]
struct Loaded {
    pairs: Option<BTreeSet<(String, String)>>,
    modified: Option<SystemTime>,
    looked_at: Option<Instant>,
}

/// A registry file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// Not readable.
    #[error("cannot read registry {path}: {source}")]
    Read {
        /// File.
        path: PathBuf,
        /// System's words.
        source: std::io::Error,
    },
    /// A line that is no pair.
    #[error("{path}:{line}: expected \"tenant agent\", got {got:?}")]
    Line {
        /// File.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The line, at most 80 characters.
        got: String,
    },
    /// Too many.
    #[error("registry {path} holds more than {REGISTERED_MAX} pairs")]
    TooMany {
        /// File.
        path: PathBuf,
    },
}

impl FileRegistry {
    /// Opens a registry; a file that cannot be read or parsed stops the start.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let (pairs, modified) = read(path)?;
        let loaded = Loaded { pairs: Some(pairs), modified, looked_at: Some(Instant::now()) };
        Ok(Self { path: path.to_owned(), loaded: Mutex::new(loaded) })
    }
}

/// The pairs of a registry file, and when it was last changed.
type Pairs = (BTreeSet<(String, String)>, Option<SystemTime>);

fn read(path: &Path) -> Result<Pairs, RegistryError> {
    let failed = |source| RegistryError::Read { path: path.to_owned(), source };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
    Ok((parse(path, &text)?, modified))
}

/// The pairs of a registry's text.
pub(crate) fn parse(path: &Path, text: &str) -> Result<BTreeSet<(String, String)>, RegistryError> {
    let mut pairs = BTreeSet::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or("").trim();
        if line.is_empty() {
            continue;
        }
        let mut words = line.split_whitespace();
        let (Some(tenant), Some(agent), None) = (words.next(), words.next(), words.next()) else {
            return Err(RegistryError::Line { path: path.to_owned(), line: i + 1, got: line.chars().take(80).collect() });
        };
        pairs.insert((tenant.to_owned(), agent.to_owned()));
        if pairs.len() > REGISTERED_MAX {
            return Err(RegistryError::TooMany { path: path.to_owned() });
        }
    }
    Ok(pairs)
}

impl Registry for FileRegistry {
    fn ask(&self, tenant: &str, agent: Option<&str>) -> Answer {
        let mut loaded = self.loaded.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if loaded.looked_at.is_none_or(|t| t.elapsed() >= REREAD_AFTER) {
            loaded.looked_at = Some(Instant::now());
            let modified = std::fs::metadata(&self.path).and_then(|m| m.modified()).ok();
            if modified.is_none() || modified != loaded.modified {
                match read(&self.path) {
                    Ok((pairs, modified)) => {
                        loaded.pairs = Some(pairs);
                        loaded.modified = modified;
                    }
                    Err(e) => {
                        tracing::warn!(error = %e, "registry unavailable: records are rejected until it can be read");
                        loaded.pairs = None;
                        loaded.modified = None;
                    }
                }
            }
        }
        let Some(pairs) = &loaded.pairs else { return Answer::Unavailable };
        let known = match agent {
            Some(agent) => pairs.contains(&(tenant.to_owned(), agent.to_owned())),
            None => pairs.range((tenant.to_owned(), String::new())..).next().is_some_and(|(t, _)| t == tenant),
        };
        if known { Answer::Registered } else { Answer::Unknown }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_schemas::observation::{FlowRow, Row};

    #[derive(Debug)]
    struct Fixed(Answer);
    impl Registry for Fixed {
        fn ask(&self, tenant: &str, agent: Option<&str>) -> Answer {
            match self.0 {
                Answer::Registered if (tenant, agent) == ("a", Some("agent-1")) => Answer::Registered,
                Answer::Registered => Answer::Unknown,
                other => other,
            }
        }
    }

    fn rows<'a>(claims: &[(&'a str, &'a str)]) -> Vec<DecodedRow<'a>> {
        let row = |&(tenant, agent)| DecodedRow { tenant, agent: Some(agent), index: 0, row: Row::Flow(FlowRow::default()) };
        claims.iter().map(row).collect()
    }

    fn verify(answer: Answer, strict: bool, lane: Option<&str>, claims: &[(&str, &str)]) -> Result<String, TenancyFault> {
        let registry: Option<Arc<dyn Registry>> = Some(Arc::new(Fixed(answer)));
        let tenancy = Tenancy::Verified { registry, strict, lane: lane.map(Arc::from) };
        tenancy.verify(&rows(claims)).map(|t| t.to_string())
    }

    /// The tenant checks of the wire contract, case by case.
    #[test]
    fn v32() {
        use Answer::{Registered, Unavailable};
        assert_eq!(verify(Registered, false, None, &[("a", "agent-1")]), Ok("a".into()));
        assert_eq!(verify(Registered, false, None, &[("b", "agent-1")]), Err(TenancyFault::NotRegistered));
        assert_eq!(verify(Registered, false, None, &[("a", "ghost")]), Err(TenancyFault::NotRegistered));
        assert_eq!(verify(Unavailable, false, None, &[("a", "agent-1")]), Err(TenancyFault::RegistryUnavailable));
        assert_eq!(verify(Registered, false, Some("a"), &[("b", "agent-1")]), Ok("a".into()));
        assert_eq!(verify(Registered, false, Some("z"), &[("z", "agent-1")]), Err(TenancyFault::NotRegistered));
        assert_eq!(verify(Registered, false, None, &[("a", "agent-1"), ("b", "agent-1")]), Err(TenancyFault::Mixed));
        assert_eq!(verify(Registered, false, None, &[]), Err(TenancyFault::Empty));
        assert_eq!(verify(Registered, true, None, &[("a", "agent-1")]), Err(TenancyFault::Strict));
        assert_eq!(verify(Registered, false, None, &[("a", "")]), Err(TenancyFault::NoAgent));
        assert_eq!(verify(Registered, false, None, &[("", "agent-1")]), Err(TenancyFault::NoTenant));
    }
}
