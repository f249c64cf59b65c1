//! What facts about a cluster mean for a topology: pure, facts in, findings out. Every finding that is not good says what
//! to do.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tidewatch_schemas::document::show_duration;

use crate::log::kafka::inspect::{BrokerFacts, Settings, TopicFacts};
use crate::log::kafka::rights::{NoRights, Operation, Rights};
use crate::log::{METADATA_BYTES_MAX, TopicSpec};

/// Shortest retention of an input that is passed over in silence: an outage that lasts longer loses rows.
const INPUT_RETENTION_MIN: Duration = Duration::from_secs(24 * 3600);

/// How a finding is to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// As it should be.
    Good,
    /// Worth knowing; also what could not be found out.
    Note,
    /// Works, and will hurt one day.
    Warning,
    /// Will not work.
    Problem,
}

impl Level {
    /// In tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How to take it.
    pub level: Level,
    /// Broker, topic, group, destination.
    pub about: String,
    /// What is so.
    pub found: String,
    /// What to do; empty when nothing is.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub to_do: String,
}

impl Finding {
    /// As it should be.
    pub fn good(about: impl Into<String>, found: impl Into<String>) -> Self {
        Self { level: Level::Good, about: about.into(), found: found.into(), to_do: String::new() }
    }

    /// Anything else.
    pub fn of(level: Level, about: impl Into<String>, found: impl Into<String>, to_do: impl Into<String>) -> Self {
        Self { level, about: about.into(), found: found.into(), to_do: to_do.into() }
    }
}

/// What we need of the brokers.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Replicas of our topics.
    pub replication: usize,
    /// Transaction time-out.
    pub transaction: Duration,
    /// Session time-out; `None` = the brokers' own counts (group protocol `consumer`).
    pub session: Option<Duration>,
}

/// Brokers: reached, enough of them, settings that fit ours.
pub fn brokers(brokers: &[BrokerFacts], wanted: Wanted) -> Vec<Finding> {
    let mut all = Vec::new();
    for broker in brokers {
        let about = format!("broker {} {}", broker.id, broker.address);
        all.push(match &broker.reached {
            Ok(()) => Finding::good(about, "answers"),
            Err(words) => Finding::of(
                Level::Problem,
                about,
                words.clone(),
                "make it reachable from here under the address it advertises, with this TLS and login",
            ),
        });
    }
    if brokers.len() < wanted.replication {
        let found = format!("{} brokers, replication {}", brokers.len(), wanted.replication);
        all.push(Finding::of(Level::Problem, "cluster", found, "lower log.kafka.replication, or add brokers"));
    }
    match brokers.iter().find_map(|b| b.settings.as_ref().ok()) {
        Some(_) => {
            let known = brokers.iter().filter_map(|b| Some((b, b.settings.as_ref().ok()?)));
            for (broker, settings) in known {
                let about = format!("broker {}", broker.id);
                all.extend(settings_of(&about, &|name| settings.get(name).map(String::as_str), brokers.len(), wanted));
            }
            all.dedup_by(|a, b| a.level == Level::Good && a.found == b.found);
        }
        None => all.push(Finding::of(
            Level::Note,
            "brokers",
            "their settings may not be read: transaction and session limits are not checked",
            "give DescribeConfigs on the cluster to whoever runs this, if you want them checked",
        )),
    }
    all
}

fn settings_of<'s>(about: &str, get: &dyn Fn(&str) -> Option<&'s str>, brokers: usize, wanted: Wanted) -> Vec<Finding> {
    let number = |name: &str| get(name).and_then(|v| v.parse::<u128>().ok());
    let mut all = Vec::new();
    let mut say = |level: Level, found: String, to_do: &str| all.push(Finding::of(level, about, found, to_do));
    let version = match (get("share.coordinator.state.topic.num.partitions"), get("transaction.partition.verification.enable")) {
        (Some(_), _) => "4.0 or later",
        (None, Some(_)) => "3.6 or later",
        (None, None) => "before 3.6",
    };
    if version == "before 3.6" {
        let to_do = "upgrade the brokers: late requests of an earlier transaction can be applied to the next one (KAFKA-14402)";
        say(Level::Warning, format!("Kafka {version}, by its settings"), to_do);
    } else {
        say(Level::Good, format!("Kafka {version}, by its settings"), "");
    }
    if get("transaction.partition.verification.enable") == Some("false") {
        let to_do = "set it to true: it shuts late requests of an earlier transaction out";
        say(Level::Warning, "transaction.partition.verification.enable is false".into(), to_do);
    }
    if let Some(max) = number("transaction.max.timeout.ms").filter(|max| *max < wanted.transaction.as_millis()) {
        let found =
            format!("transaction.max.timeout.ms {max} is below transaction_timeout {}", show_duration(wanted.transaction));
        say(Level::Problem, found, "raise it, or lower log.kafka.transaction_timeout");
    }
    if let Some(session) = wanted.session {
        let (min, max) = (number("group.min.session.timeout.ms"), number("group.max.session.timeout.ms"));
        if min.is_some_and(|min| session.as_millis() < min) || max.is_some_and(|max| session.as_millis() > max) {
            let found = format!(
                "session_timeout {} is outside group.min/max.session.timeout.ms {}..{}",
                show_duration(session),
                min.unwrap_or(0),
                max.unwrap_or(0)
            );
            say(Level::Problem, found, "change one of the two: members cannot join");
        }
    }
    if let Some(max) = number("offset.metadata.max.bytes").filter(|max| *max < METADATA_BYTES_MAX as u128) {
        let to_do = "raise it: positions carry that much and would be refused";
        say(Level::Problem, format!("offset.metadata.max.bytes {max} is below {METADATA_BYTES_MAX}"), to_do);
    }
    for name in ["transaction.state.log.replication.factor", "offsets.topic.replication.factor"] {
        let Some(replicas) = number(name) else { continue };
        if replicas > brokers as u128 {
            say(
                Level::Problem,
                format!("{name} {replicas} with {brokers} brokers"),
                "lower it, or add brokers: no transaction can begin",
            );
        } else if replicas < 3 && brokers >= 3 {
            say(Level::Warning, format!("{name} is {replicas}"), "raise it to 3: one lost disk loses what is committed");
        }
    }
    if number("transaction.state.log.min.isr") == Some(1) && brokers >= 3 {
        say(Level::Warning, "transaction.state.log.min.isr is 1".into(), "raise it to 2: a commit may be lost with one broker");
    }
    all
}

/// What a topic is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Somebody else's, read.
    Input,
    /// Ours.
    Internal,
}

/// A topic against what it should be. `made` = it is made at the start if it is missing.
pub fn topic(facts: Option<&TopicFacts>, spec: &TopicSpec, role: Role, made: bool, replication: usize) -> Vec<Finding> {
    let about = format!("topic {}", spec.name);
    let Some(facts) = facts else {
        return vec![match made {
            true => Finding::of(Level::Note, about, "is not there; it is made at the start", ""),
            false => Finding::of(Level::Problem, about, "is not there", "make it, or give its `partitions` to have it made"),
        }];
    };
    let mut all = Vec::new();
    let mut say = |level: Level, found: String, to_do: &str| all.push(Finding::of(level, about.clone(), found, to_do));
    let count = facts.partitions.len();
    if (role == Role::Internal || made) && count != spec.partitions as usize {
        let to_do = "change the topology to what is there; internal topics are never grown in place, because keys would move";
        say(Level::Problem, format!("{count} partitions, the topology says {}", spec.partitions), to_do);
    }
    if facts.leaderless > 0 {
        say(Level::Problem, format!("{} partitions without a leader", facts.leaderless), "bring the brokers that hold it back");
    }
    let replicas = facts.partitions.iter().map(|p| p.0).min().unwrap_or(0);
    if role == Role::Internal && replicas < replication {
        let to_do = "reassign it to more brokers (kafka-reassign-partitions.sh)";
        say(Level::Warning, format!("{replicas} replicas, the topology says {replication}"), to_do);
    }
    match &facts.settings {
        Err(words) => say(
            Level::Note,
            format!("its settings may not be read: {words}"),
            "give DescribeConfigs on it, if you want them checked",
        ),
        Ok(settings) => {
            let number = |name: &str| settings.get(name).and_then(|v| v.parse::<i128>().ok());
            let in_sync = number("min.insync.replicas").unwrap_or(1);
            let below = facts.partitions.iter().filter(|p| (p.1 as i128) < in_sync).count();
            if below > 0 {
                say(
                    Level::Problem,
                    format!("{below} partitions have fewer than {in_sync} replicas in sync"),
                    "bring the missing brokers back: nothing can be written",
                );
            } else if in_sync < 2 && replicas >= 3 {
                say(Level::Warning, "min.insync.replicas is 1".into(), "set it to 2: a commit may be lost with one broker");
            }
            if settings.get("cleanup.policy").is_some_and(|p| p.contains("compact")) {
                say(
                    Level::Problem,
                    "cleanup.policy is compact".into(),
                    "set it to delete: rows with equal keys would be dropped",
                );
            }
            limits(&mut say, settings_number(&facts.settings), spec, role);
        }
    }
    if all.iter().all(|f| f.level < Level::Warning) {
        let stamp = facts.settings.as_ref().ok().and_then(|s| s.get("message.timestamp.type")).map_or("", String::as_str);
        all.insert(0, Finding::good(about, format!("{count} partitions, {replicas} replicas {stamp}").trim_end().to_owned()));
    }
    all
}

fn settings_number(settings: &Settings) -> impl Fn(&str) -> Option<i128> + '_ {
    move |name| settings.as_ref().ok()?.get(name)?.parse().ok()
}

fn limits(say: &mut impl FnMut(Level, String, &str), number: impl Fn(&str) -> Option<i128>, spec: &TopicSpec, role: Role) {
    let (max, ours) = (number("max.message.bytes"), spec.record_bytes_max as i128);
    match role {
        Role::Internal if max.is_some_and(|max| max < ours) => {
            let to_do = "raise it: epochs with larger records would be refused for ever";
            say(Level::Problem, format!("max.message.bytes {} is below {ours}", max.unwrap_or(0)), to_do);
        }
        // What frames and headers add is not in our limit.
        Role::Input if max.is_some_and(|max| max > ours + (64 << 10)) => {
            let to_do = "raise limits.record_bytes to it, if such records come: larger ones cannot be kept whole when rejected";
            say(Level::Warning, format!("max.message.bytes {} is above limits.record_bytes {ours}", max.unwrap_or(0)), to_do);
        }
        _ => {}
    }
    let Some(kept) = number("retention.ms").filter(|ms| *ms >= 0) else { return };
    let wanted = match role {
        Role::Internal => spec.retention_age.map_or(i128::MAX, |age| age.as_millis() as i128),
        Role::Input => INPUT_RETENTION_MIN.as_millis() as i128,
    };
    if kept < wanted {
        let to_do = match role {
            Role::Internal => "set retention.ms to it (-1 for ever): a restart may need what is dropped",
            Role::Input => "keep inputs for as long as an outage may last: what is dropped unread is lost",
        };
        let wanted = if wanted == i128::MAX { "for ever".to_owned() } else { format!("{wanted}") };
        say(Level::Warning, format!("retention.ms is {kept}, wanted {wanted}"), to_do);
    }
}

/// Rights that are there against those that are needed.
pub fn rights(about: &str, rights: &Rights, needed: &[Operation], principal: &str) -> Finding {
    match rights {
        Err(NoRights::NotThere) => Finding::of(
            Level::Note,
            about,
            format!("is not there yet; {principal} may see that, the rest shows at its first start"),
            "",
        ),
        Err(NoRights::Words(words) | NoRights::NotNow(words)) => Finding::of(
            Level::Problem,
            about,
            format!("rights of {principal} cannot be asked: {words}"),
            "give at least Describe; docs/kafka.md lists all rights",
        ),
        Ok(allowed) => {
            let missing: BTreeSet<&str> = needed.iter().filter(|n| !allowed.contains(n)).map(|n| n.name()).collect();
            let names = |all: &mut dyn Iterator<Item = &str>| all.collect::<Vec<_>>().join(", ");
            if missing.is_empty() {
                return Finding::good(about, format!("{principal} may {}", names(&mut needed.iter().map(|n| n.name()))));
            }
            let missing = names(&mut missing.into_iter());
            Finding::of(
                Level::Problem,
                about,
                format!("{principal} may not {missing}"),
                format!("allow {missing} (docs/kafka.md)"),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn settings(all: &[(&str, &str)]) -> Settings {
        Ok(all.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect())
    }

    fn worst(all: &[Finding]) -> Level {
        all.iter().map(|f| f.level).max().unwrap()
    }

    const WANTED: Wanted =
        Wanted { replication: 3, transaction: Duration::from_secs(10), session: Some(Duration::from_secs(30)) };

    fn three(with: &[(&str, &str)]) -> Vec<BrokerFacts> {
        let base =
            [("share.coordinator.state.topic.num.partitions", "50"), ("transaction.partition.verification.enable", "true")];
        let all: Vec<_> = base.iter().chain(with).copied().collect();
        (1..=3).map(|id| BrokerFacts { id, address: format!("b{id}:9092"), reached: Ok(()), settings: settings(&all) }).collect()
    }

    #[test]
    fn brokers_that_fit_and_that_do_not() {
        assert_eq!(worst(&brokers(&three(&[]), WANTED)), Level::Good);
        assert_eq!(worst(&brokers(&three(&[("transaction.max.timeout.ms", "5000")]), WANTED)), Level::Problem);
        assert_eq!(worst(&brokers(&three(&[("group.min.session.timeout.ms", "60000")]), WANTED)), Level::Problem);
        assert_eq!(worst(&brokers(&three(&[("transaction.partition.verification.enable", "false")]), WANTED)), Level::Warning);
        assert_eq!(worst(&brokers(&three(&[("transaction.state.log.replication.factor", "1")]), WANTED)), Level::Warning);
        assert_eq!(worst(&brokers(&three(&[])[..2], WANTED)), Level::Problem);
    }

    #[test]
    fn topics_that_fit_and_that_do_not() {
        let spec = TopicSpec { retention_age: Some(Duration::from_secs(3600)), ..TopicSpec::new("t", 2) };
        let facts = |with: &[(&str, &str)]| TopicFacts {
            partitions: vec![(3, 3), (3, 3)],
            leaderless: 0,
            settings: settings(
                &[&[("min.insync.replicas", "2"), ("max.message.bytes", "1100000"), ("retention.ms", "3600000")][..], with]
                    .concat(),
            ),
        };
        let judge = |facts: &TopicFacts| topic(Some(facts), &spec, Role::Internal, true, 3);
        assert_eq!(worst(&judge(&facts(&[]))), Level::Good);
        assert_eq!(worst(&judge(&facts(&[("retention.ms", "1000")]))), Level::Warning);
        assert_eq!(worst(&judge(&facts(&[("max.message.bytes", "1000")]))), Level::Problem);
        assert_eq!(worst(&judge(&facts(&[("cleanup.policy", "compact,delete")]))), Level::Problem);
        assert_eq!(worst(&judge(&facts(&[("min.insync.replicas", "4")]))), Level::Problem);
        assert_eq!(worst(&judge(&TopicFacts { partitions: vec![(3, 3)], ..facts(&[]) })), Level::Problem);
        assert_eq!(worst(&topic(None, &spec, Role::Input, false, 3)), Level::Problem);
        assert_eq!(worst(&topic(None, &spec, Role::Internal, true, 3)), Level::Note);
    }

    #[test]
    fn what_is_not_good_says_what_to_do() {
        let all = brokers(&three(&[("transaction.max.timeout.ms", "5000")]), WANTED);
        assert!(all.iter().all(|f| f.level == Level::Good || !f.to_do.is_empty()));
        let may = Ok([Operation::Read].into());
        let finding = rights("topic t", &may, &[Operation::Read, Operation::Write], "User:x");
        assert_eq!((finding.level, finding.found.as_str()), (Level::Problem, "User:x may not Write"));
    }
}
