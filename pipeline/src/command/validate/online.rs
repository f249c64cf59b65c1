//! `validate --online`: asks the cluster, the object store and the disk, and changes none of them. What the facts mean is
//! in [`super::judge`].

use std::path::Path;

use super::judge::{self, Finding, Level, Role, Wanted};
use crate::command::open;
use crate::log::TopicSpec;
use crate::log::kafka::KafkaLog;
use crate::log::kafka::rights::Operation::{Create, Describe, Read, Write};
use crate::snapshot::SnapshotStore;
use crate::topology::{DestinationKind, GroupProtocol, INPUT_PARTITIONS_DEFAULT, KafkaLog as Choice, LogChoice, Stage, Topology};

/// Everything that was found, in the order it was asked.
pub(super) fn look(topology: &Topology) -> Vec<Finding> {
    let mut all = match &topology.log {
        LogChoice::Memory => vec![Finding::of(Level::Note, "log", "in memory: gone with the process", "")],
        LogChoice::Embedded(choice) => vec![directory("log", &choice.dir)],
        LogChoice::Kafka(choice) => cluster(topology, choice),
    };
    all.push(snapshots(&topology.snapshots.url));
    all.push(directory("spilled slices", &topology.limits.spill_dir));
    for destination in &topology.destinations {
        let about = format!("destination {}", destination.name);
        all.push(match &destination.kind {
            DestinationKind::Ndjson { path } => directory(&about, path.parent().unwrap_or(Path::new("."))),
            kind => Finding::of(Level::Note, about, format!("{}: not contacted", kind.name()), ""),
        });
    }
    all
}

fn cluster(topology: &Topology, choice: &Choice) -> Vec<Finding> {
    let config = open::kafka_config(choice);
    let principal = config.principal();
    let brokers = choice.brokers.join(",");
    let log = match KafkaLog::connect(config) {
        Ok(log) => log,
        Err(error) => {
            let to_do = "look whether the brokers run and are reachable from here, and at tls and sasl in the topology";
            return vec![Finding::of(Level::Problem, format!("Kafka at {brokers}"), error.to_string(), to_do)];
        }
    };
    let replication = choice.replication as usize;
    let session = (choice.group_protocol == GroupProtocol::Classic).then_some(choice.timeouts.session);
    let wanted = Wanted { replication, transaction: choice.timeouts.transaction, session };
    let mut all = match log.inspect_brokers() {
        Ok(brokers) => judge::brokers(&brokers, wanted),
        Err(error) => vec![Finding::of(Level::Problem, "brokers", error.to_string(), "look at the brokers")],
    };
    let made: Vec<String> = topology.input_topics().into_iter().map(|t| t.name).collect();
    for input in &topology.inputs {
        let spec = TopicSpec {
            record_bytes_max: topology.limits.record_bytes as usize,
            ..TopicSpec::new(input.topic.clone(), input.partitions.unwrap_or(INPUT_PARTITIONS_DEFAULT))
        };
        all.extend(topic(&log, &spec, Role::Input, made.contains(&spec.name), replication, &principal));
    }
    for spec in topology.internal_topics() {
        all.extend(topic(&log, &spec, Role::Internal, true, replication, &principal));
    }
    let names = &topology.names;
    let mut groups: Vec<String> = [Stage::Normalize, Stage::Detect, Stage::Correlate].map(|s| names.group(s)).into();
    groups.extend(topology.destinations.iter().map(|d| names.destination_group(&d.name)));
    for group in groups {
        let rights = log.group_rights(&group);
        all.push(judge::rights(&format!("group {group}"), &rights, &[Describe, Read], &principal));
    }
    let ids = names.writer_id(Stage::Normalize, 0, 0);
    let found = "rights on transactional ids are not checked: asking would fence a running job";
    let to_do = format!("allow Describe and Write on those that begin like {ids}; a start says when they are missing");
    all.push(Finding::of(Level::Note, "transactional ids", found, to_do));
    all
}

fn topic(log: &KafkaLog, spec: &TopicSpec, role: Role, made: bool, replication: usize, principal: &str) -> Vec<Finding> {
    let about = format!("topic {}", spec.name);
    let facts = match log.inspect_topic(&spec.name) {
        Ok(facts) => facts,
        Err(error) => {
            return vec![Finding::of(Level::Problem, about, error.to_string(), "allow at least Describe (docs/kafka.md)")];
        }
    };
    let mut all = judge::topic(facts.as_ref(), spec, role, made, replication);
    let needed: &[_] = match role {
        Role::Input => &[Describe, Read],
        Role::Internal => &[Describe, Read, Write],
    };
    if facts.is_some() {
        all.push(judge::rights(&about, &log.topic_rights(&spec.name), needed, principal));
    } else if made && let Err(error) = log.could_create(spec) {
        let to_do = format!("allow {} on it, or have it made by somebody who may; see the reason", Create.name());
        all.push(Finding::of(Level::Problem, about, format!("could not be made: {error}"), to_do));
    }
    all
}

fn snapshots(url: &str) -> Finding {
    let about = "snapshots";
    let local = match url.split_once("://") {
        None => Some(url),
        Some(("file", path)) => Some(path),
        Some(_) => None,
    };
    if let Some(path) = local {
        return directory(about, Path::new(path));
    }
    match SnapshotStore::open(url).and_then(|store| store.answers()) {
        Ok(()) => Finding::good(about, format!("{url} answers")),
        Err(error) => {
            let to_do = "look at the URL, the bucket and the cloud's credentials in the environment";
            Finding::of(Level::Problem, about, error.to_string(), to_do)
        }
    }
}

/// A directory that is used, or made at the start.
fn directory(about: &str, path: &Path) -> Finding {
    let shown = path.display();
    let there = path.ancestors().find(|p| std::fs::metadata(if p.as_os_str().is_empty() { Path::new(".") } else { p }).is_ok());
    let there = there.map_or(Path::new("."), |p| if p.as_os_str().is_empty() { Path::new(".") } else { p });
    if !std::fs::metadata(there).is_ok_and(|m| m.is_dir()) {
        return Finding::of(Level::Problem, about, format!("{} is no directory", there.display()), "name another path");
    }
    let free = rustix::fs::statvfs(there).map(|s| s.f_bavail.saturating_mul(s.f_frsize) >> 20);
    let free = free.map_or(String::new(), |mib| format!(", {mib} MiB free"));
    match there == path {
        true => Finding::good(about, format!("directory {shown}{free}")),
        false => {
            Finding::of(Level::Note, about, format!("directory {shown} is not there yet{free}; it is made at the start"), "")
        }
    }
}
