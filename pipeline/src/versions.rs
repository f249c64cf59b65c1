//! Versions of rules: how a change reaches every task at the same event time. A version is copied in one transaction into
//! every partition of `obs` and `findings` and into `control`, naming the moment T from which it holds; a task applies it
//! to slices that begin at or after T. A local rules directory only proposes: what is recorded wins, and proposing the
//! content that is already recorded changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tidewatch_operators::detectors;
use tidewatch_operators::rule::{self, Rule, RuleSet};
use tidewatch_schemas::control::{ControlError, Version};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::time::EventTime;

use crate::log::{Append, CommitError, Log, LogError, PollLimit, TopicPartition};
use crate::time::ceil;
use crate::topology::Topology;

/// What rule versions are called in [`Version::what`].
pub const RULES: &str = "rules";

/// Versions a task keeps: beyond it the oldest goes, which only a lane with an older backlog than all of them could miss.
pub const VERSIONS_MAX: usize = 64;

/// A proposal that other processes push aside is repeated so often.
const PROPOSALS_MAX: u32 = 20;

/// Pause before that: longer than a commit takes, so that whoever pushed it aside is done.
const PROPOSAL_PAUSE: Duration = Duration::from_secs(1);

/// A version cannot be proposed or read.
#[derive(Debug, thiserror::Error)]
pub enum VersionError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Writing it.
    #[error("a version could not be recorded: {0}")]
    Commit(#[from] CommitError),
    /// Larger than a record.
    #[error("a version could not be recorded: {0}")]
    Control(#[from] ControlError),
    /// Recorded rules that this binary cannot read.
    #[error("recorded rules {hash} cannot be read: {reason}")]
    Content {
        /// Version hash.
        hash: String,
        /// What is wrong.
        reason: String,
    },
}

/// What became of a proposal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proposed {
    /// The same content is recorded already.
    Unchanged,
    /// The first version: it holds from the beginning.
    First,
    /// It holds from this event time on.
    From(EventTime),
}

/// The rules of a version.
pub fn rules_of(version: &Version) -> Result<Vec<Rule>, VersionError> {
    let wrong = |reason: String| VersionError::Content { hash: version.hash.clone(), reason };
    let rules: Vec<Rule> = serde_json::from_str(&version.content).map_err(|e| wrong(e.to_string()))?;
    // An expression that only a newer binary can read: better to stop than to judge without it.
    match rule::unreadable(&rules, detectors::ALL) {
        Some(what) => Err(wrong(what)),
        None => Ok(rules),
    }
}

/// The rules of a set as a version carries them.
pub fn content_of(set: &RuleSet) -> String {
    serde_json::to_string(&set.rules).expect("rules are plain data")
}

/// Rule versions recorded in the control topic, in order; none when the topic does not exist.
pub fn recorded(log: &dyn Log, control: &str) -> Result<Vec<Version>, LogError> {
    recorded_of(log, control, RULES)
}

/// Versions of one kind recorded in the control topic, in order; none when the topic does not exist.
pub(crate) fn recorded_of(log: &dyn Log, control: &str, what: &str) -> Result<Vec<Version>, LogError> {
    let at = TopicPartition::new(control, 0);
    let range = match log.offsets(&at) {
        Err(LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. }) => return Ok(Vec::new()),
        range => range?,
    };
    let mut found = Vec::new();
    let mut reader = log.reader(&at, range.start)?;
    while reader.position() < range.end {
        let records = reader.poll(PollLimit::default(), Duration::from_secs(5))?;
        if records.is_empty() && reader.at_end() {
            break;
        }
        for record in &records {
            if record.header(header::RECORD).and_then(|h| RecordType::parse(h)) == Some(RecordType::Version)
                && let Ok(version) = Version::decode(record.value.as_deref().unwrap_or_default())
                && version.what == what
            {
                found.push(version);
            }
        }
    }
    Ok(found)
}

/// Recorded rules by the event time from which they hold.
pub fn by_time(log: &dyn Log, topology: &Topology) -> Result<BTreeMap<EventTime, Vec<Rule>>, VersionError> {
    let mut versions = BTreeMap::new();
    for version in recorded(log, &topology.names.control())? {
        versions.insert(version.from, rules_of(&version)?);
    }
    Ok(versions)
}

/// Records a rule set, unless it is the newest recorded one. `now` is the wall clock: no watermark runs ahead of it by
/// more than `max_future`, so a version that begins a slice later cannot come too late for anybody.
///
/// Processes of one deployment that start together propose together: one of them writes, the others find it written.
pub fn propose(log: &dyn Log, topology: &Topology, rules: &RuleSet, now: EventTime) -> Result<Proposed, VersionError> {
    in_turn(|| propose_once(log, topology, rules, now))
}

/// Repeats what another process of the deployment pushed aside.
pub(crate) fn in_turn<T>(mut once: impl FnMut() -> Result<T, VersionError>) -> Result<T, VersionError> {
    let mut left = PROPOSALS_MAX;
    loop {
        match once() {
            // Whoever came later goes on; who was pushed aside waits for longer than a commit takes, and looks again.
            Err(VersionError::Commit(error @ (CommitError::Fenced { .. } | CommitError::Aborted { .. }))) => {
                left -= 1;
                if left == 0 {
                    return Err(error.into());
                }
                tracing::debug!(%error, "another process records a version: looking again");
                std::thread::sleep(PROPOSAL_PAUSE);
            }
            other => return other,
        }
    }
}

fn propose_once(log: &dyn Log, topology: &Topology, rules: &RuleSet, now: EventTime) -> Result<Proposed, VersionError> {
    let names = &topology.names;
    let is_newest = |known: &[Version]| known.last().is_some_and(|last| last.hash == rules.version_hash);
    if is_newest(&recorded(log, &names.control())?) {
        return Ok(Proposed::Unchanged);
    }
    // One writer id for all: whoever opens it last shuts the others out, and sees what they had written.
    let mut writer = log.writer(&format!("{}-versions", names.group(crate::topology::Stage::Detect)))?;
    let known = recorded(log, &names.control())?;
    if is_newest(&known) {
        return Ok(Proposed::Unchanged);
    }
    let from = if known.is_empty() {
        EventTime::MIN
    } else {
        let slice_ns = topology.time.slice.as_nanos() as i64;
        ceil(now.plus(slice_ns + topology.time.max_future.as_nanos() as i64), slice_ns)
    };
    let version = Version {
        what: RULES.to_owned(),
        id: RULES.to_owned(),
        hash: rules.version_hash.clone(),
        from,
        content: content_of(rules),
    };
    let value = bytes::Bytes::from(version.encode()?);
    let append = |topic: &str, partition| Append {
        topic: topic.to_owned(),
        partition,
        timestamp: None,
        key: None,
        value: Some(value.clone()),
        headers: vec![(header::RECORD.to_owned(), RecordType::Version.to_header().into())],
    };
    let mut appends = vec![append(&names.control(), 0)];
    for topic in [names.obs(), names.findings()] {
        appends.extend((0..log.partitions(&topic)?).map(|partition| append(&topic, partition)));
    }
    writer.commit(&appends, &[])?;
    Ok(if from == EventTime::MIN { Proposed::First } else { Proposed::From(from) })
}
