//! What a cluster says of itself: brokers, settings, topics. Questions only; nothing is changed and nothing judged.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{ConfigResource, ResourceSpecifier};

use super::client::About;
use super::{KafkaConfig, KafkaLog};
use crate::log::{LogError, TopicSpec};

/// How long one broker is tried.
const BROKER_WAIT: Duration = Duration::from_secs(4);

/// Settings by name; the error is in words (mostly a right that is missing).
pub type Settings = Result<BTreeMap<String, String>, String>;

/// A broker.
#[derive(Clone, Debug)]
pub struct BrokerFacts {
    /// Its number.
    pub id: i32,
    /// `host:port` that it tells clients to use.
    pub address: String,
    /// Whether it answers there, with our TLS and login.
    pub reached: Result<(), String>,
    /// Its settings.
    pub settings: Settings,
}

/// A topic.
#[derive(Clone, Debug)]
pub struct TopicFacts {
    /// Replicas and in-sync replicas of each partition.
    pub partitions: Vec<(usize, usize)>,
    /// Partitions without a leader.
    pub leaderless: usize,
    /// Its settings.
    pub settings: Settings,
}

impl KafkaLog {
    /// Every broker that the cluster names, each tried at its own address.
    pub fn inspect_brokers(&self) -> Result<Vec<BrokerFacts>, LogError> {
        let s = &self.shared;
        let metadata = s.ask("list brokers", About::Cluster, |t| s.tools.fetch_metadata(None, t))?;
        let mut found: Vec<(i32, String)> =
            metadata.brokers().iter().map(|b| (b.id(), format!("{}:{}", b.host(), b.port()))).collect();
        found.sort_unstable();
        Ok(found
            .into_iter()
            .map(|(id, address)| {
                let mut config = KafkaConfig { brokers: address.clone(), ..s.config.clone() };
                config.times.reach = BROKER_WAIT;
                let reached = Self::connect(config).map(drop).map_err(|e| e.to_string());
                let settings = self.settings(ResourceSpecifier::Broker(id));
                BrokerFacts { id, address, reached, settings }
            })
            .collect())
    }

    /// A topic; `None` = it is not there.
    pub fn inspect_topic(&self, topic: &str) -> Result<Option<TopicFacts>, LogError> {
        let s = &self.shared;
        match s.partitions(topic) {
            Ok(_) => {}
            Err(LogError::UnknownTopic { .. }) => return Ok(None),
            Err(error) => return Err(error),
        }
        let metadata = s.ask("ask for topic", About::Topic(topic), |t| s.tools.fetch_metadata(Some(topic), t))?;
        let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
        Ok(Some(TopicFacts {
            partitions: found.partitions().iter().map(|p| (p.replicas().len(), p.isr().len())).collect(),
            leaderless: found.partitions().iter().filter(|p| p.leader() < 0).count(),
            settings: self.settings(ResourceSpecifier::Topic(topic)),
        }))
    }

    /// Whether a topic could be made: the controller checks rights, replicas and settings, and makes nothing.
    pub fn could_create(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.shared.could_create(spec)
    }

    fn settings(&self, of: ResourceSpecifier<'_>) -> Settings {
        let about = match of {
            ResourceSpecifier::Topic(topic) => About::Topic(topic),
            _ => About::Cluster,
        };
        let resources = [of];
        let described = self.shared.with_admin("describe", about, |admin, options| admin.describe_configs(&resources, options));
        match described.map_err(|e| e.to_string())?.pop() {
            // What the brokers refuse here comes as no settings at all.
            Some(Ok(ConfigResource { entries, .. })) if entries.is_empty() => Err("DescribeConfigs is not allowed".to_owned()),
            Some(Ok(ConfigResource { entries, .. })) => {
                Ok(entries.into_iter().filter_map(|e| Some((e.name, e.value?))).collect())
            }
            Some(Err(code)) => Err(code.to_string()),
            None => Err("no answer".to_owned()),
        }
    }
}
