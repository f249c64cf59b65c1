//! Which topics a deployment works on, by the ids that the brokers gave them: recorded in `control` when a process first
//! meets a topic, compared at every start. A topic that was deleted and made again has the same name and another id, and the
//! brokers have forgotten the positions in the old one, so that nothing else tells it from a topic that is simply new.
//!
//! What always holds: a recorded id is replaced only where somebody says so; a log without ids records and compares nothing.
//! Who stops over a difference is the worker's business (`worker/known.rs`), and that of deliver (`deliver/sources.rs`).

use std::collections::BTreeMap;

use tidewatch_schemas::control::Version;
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::time::EventTime;

use crate::log::{Append, Log, LogError};
use crate::topology::{Stage, Topology};
use crate::versions::{VersionError, in_turn, recorded_of};

/// What ids of topics are called in [`Version::what`]; `id` is the topic, `hash` its id.
const TOPIC: &str = "topic";

/// The recorded ids of the topics that stages and destinations read, after those that were not recorded yet have been; with `accept` the ids
/// of now are recorded wherever they differ.
pub fn settle(log: &dyn Log, topology: &Topology, accept: bool) -> Result<BTreeMap<String, String>, VersionError> {
    let now = ids(log, topology)?;
    if now.is_empty() {
        return Ok(now);
    }
    in_turn(|| settle_once(log, topology, &now, accept))
}

/// Recorded ids by topic.
pub fn recorded(log: &dyn Log, topology: &Topology) -> Result<BTreeMap<String, String>, LogError> {
    let versions = recorded_of(log, &topology.names.control(), TOPIC)?;
    Ok(versions.into_iter().map(|v| (v.id, v.hash)).collect())
}

/// Whether another topic of this name was recorded before the one that is recorded last.
pub fn made_again(log: &dyn Log, topology: &Topology, topic: &str) -> Result<bool, LogError> {
    let versions = recorded_of(log, &topology.names.control(), TOPIC)?;
    let mut ids = versions.into_iter().filter(|v| v.id == topic).map(|v| v.hash);
    Ok(ids.next().is_some_and(|first| ids.any(|id| id != first)))
}

fn settle_once(
    log: &dyn Log,
    topology: &Topology,
    now: &BTreeMap<String, String>,
    accept: bool,
) -> Result<BTreeMap<String, String>, VersionError> {
    let names = &topology.names;
    let news = |known: &BTreeMap<String, String>| -> BTreeMap<String, String> {
        let is_news = |topic: &str, id: &str| known.get(topic).is_none_or(|was| accept && was != id);
        now.iter().filter(|(topic, id)| is_news(topic, id)).map(|(topic, id)| (topic.clone(), id.clone())).collect()
    };
    let mut known = recorded(log, topology)?;
    if news(&known).is_empty() {
        return Ok(known);
    }
    // One writer id for all: whoever opens it last shuts the others out, and sees what they had written.
    let mut writer = log.writer(&format!("{}-topics", names.group(Stage::Detect)))?;
    known = recorded(log, topology)?;
    let news = news(&known);
    let mut appends = Vec::new();
    for (topic, id) in &news {
        if let Some(was) = known.get(topic) {
            tracing::warn!(topic, was, now = id, "new topic accepted in place of the one that was deleted");
        }
        let version =
            Version { what: TOPIC.to_owned(), id: topic.clone(), hash: id.clone(), from: EventTime::MIN, content: String::new() };
        appends.push(Append {
            topic: names.control(),
            partition: 0,
            timestamp: None,
            key: None,
            value: Some(version.encode()?.into()),
            headers: vec![(header::RECORD.to_owned(), RecordType::Version.to_header().into())],
        });
    }
    writer.commit(&appends, &[])?;
    known.extend(news);
    Ok(known)
}

/// What the brokers say now of the topics that stages and destinations read.
fn ids(log: &dyn Log, topology: &Topology) -> Result<BTreeMap<String, String>, LogError> {
    let names = &topology.names;
    let inputs = topology.inputs.iter().map(|input| input.topic.clone());
    let mut ids = BTreeMap::new();
    for topic in inputs.chain([names.replayed(), names.obs(), names.findings(), names.signals()]) {
        if let Some(id) = log.topic_id(&topic)? {
            ids.insert(topic, id);
        }
    }
    Ok(ids)
}
