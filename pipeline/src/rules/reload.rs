//! Rules read again at run time: what a directory says now is proposed as a new version, which every task of every process
//! takes up at the event time that the record names. What cannot be read changes nothing.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;
use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::lint;
use tidewatch_schemas::document::Mistakes;
use tidewatch_schemas::time::EventTime;

use crate::log::Log;
use crate::topology::Topology;
use crate::versions::{self, Proposed, VersionError};

/// Where rules come from and where they are recorded.
pub struct Reload {
    /// Directory laid over the built-in rules.
    pub dir: Option<PathBuf>,
    /// Detectors that rules may name.
    pub detectors: &'static [&'static Detector],
    /// The log.
    pub log: Arc<dyn Log>,
    /// Its topics, and the times from which a version's beginning follows.
    pub topology: Topology,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Reloaded {
    /// `recorded`, or `unchanged`: the newest recorded version is this one already.
    pub outcome: &'static str,
    /// Hash of the set.
    pub rule_set: String,
    /// Rules that act.
    pub rules: usize,
    /// Event time from which it holds; `None` = as recorded before, or from the beginning.
    pub from: Option<String>,
    /// What should be looked at.
    pub warnings: Vec<String>,
}

/// Why the rules stay as they are.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// They are wrong: one mistake a line.
    #[error("{0}")]
    Mistakes(Mistakes),
    /// They cannot be recorded.
    #[error(transparent)]
    Version(#[from] VersionError),
}

impl Reload {
    /// Reads and proposes them.
    pub fn now(&self, now: EventTime) -> Result<Reloaded, ReloadError> {
        let set = super::load(self.dir.as_deref(), self.detectors).map_err(ReloadError::Mistakes)?;
        let proposed = versions::propose(&*self.log, &self.topology, &set, now)?;
        let (outcome, from) = match proposed {
            Proposed::Unchanged => ("unchanged", None),
            Proposed::First => ("recorded", None),
            Proposed::From(from) => ("recorded", Some(from.to_rfc3339())),
        };
        let warnings = lint(&set, now).iter().map(ToString::to_string).collect();
        Ok(Reloaded { outcome, rule_set: set.version_hash, rules: set.rules.len(), from, warnings })
    }
}
