//! Doubt about a group's brokers and topics: a member that holds nothing may be idle, or cut off, or its topics may be
//! gone. The client heals quietly in all three cases, so this asks.
//!
//! What always holds: without a sign of trouble nothing is asked; with one, at most every [`ASK_EVERY`], each question
//! bounded by [`ASK_WAIT`]; a moment of trouble, as a restarting broker makes it, is no failure.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::KafkaConfig;
use super::client::{About, Words, code_of, is_unreachable, plain, translate, unreachable};
use crate::log::LogError;

/// Time between two questions while in doubt.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Longest single question.
const ASK_WAIT: Duration = Duration::from_millis(300);
/// A topic that the brokers did not know for so long is gone.
const MISSING_AFTER: Duration = Duration::from_secs(3);

/// Doubts of one member.
#[derive(Debug)]
pub(super) struct Doubts {
    topics: Vec<String>,
    since: Option<Instant>,
    missing: Option<Instant>,
    asked: Instant,
}

impl Doubts {
    /// None so far.
    pub(super) fn new(topics: &[String]) -> Self {
        Self { topics: topics.to_vec(), since: None, missing: None, asked: Instant::now() }
    }

    /// A sign of trouble.
    pub(super) fn raise(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// An error of the group's client, if it is such a sign.
    pub(super) fn hear(&mut self, error: &KafkaError) {
        let unknown = [Code::UnknownTopicOrPartition, Code::UnknownTopic, Code::UnknownPartition];
        if code_of(error).is_some_and(|code| is_unreachable(code) || unknown.contains(&code)) {
            self.raise();
        }
    }

    /// Asks, when in doubt. An error when the brokers stay away for [`super::KafkaTimes::reach`], or a topic is gone.
    pub(super) fn look<C: ConsumerContext>(
        &mut self,
        consumer: &BaseConsumer<C>,
        config: &KafkaConfig,
        words: &Words,
    ) -> Result<(), LogError> {
        let Some(since) = self.since.filter(|_| self.asked.elapsed() >= ASK_EVERY) else { return Ok(()) };
        self.asked = Instant::now();
        for topic in &self.topics {
            match known(consumer, topic) {
                Ok(true) => {}
                Ok(false) if self.missing.get_or_insert_with(Instant::now).elapsed() >= MISSING_AFTER => {
                    return Err(LogError::UnknownTopic { topic: topic.clone() });
                }
                Ok(false) => return Ok(()),
                Err(error) if code_of(&error).is_some_and(is_unreachable) => {
                    let away = since.elapsed() >= config.times.reach;
                    return if away { Err(unreachable(config, words, &plain(&error))) } else { Ok(()) };
                }
                Err(error) => return Err(translate("ask for topic", About::Topic(topic), &error, config, words)),
            }
        }
        (self.since, self.missing) = (None, None);
        Ok(())
    }
}

/// Whether the brokers know the topic.
fn known<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> Result<bool, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_WAIT)?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    match found.and_then(|t| t.error()).map(Code::from) {
        None => Ok(found.is_some_and(|t| !t.partitions().is_empty())),
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Ok(false),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}
