//! The consumer behind questions that belong to no reader and no group: metadata, offsets, times.
//!
//! It lives as long as the log, longer than a password may: after a refused login it is made anew, and the password read
//! again. What always holds: no call takes longer than its time-out; nothing is committed.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::Metadata;

use super::KafkaConfig;
use super::client::{self, About, Quiet, translate};
use crate::log::LogError;

/// A refused login is answered with a new client at most this often.
const RENEW_EVERY: Duration = Duration::from_secs(5);

/// The consumer.
pub(super) struct Tools {
    quiet: Quiet,
    now: Mutex<(Arc<BaseConsumer<Quiet>>, Instant)>,
}

impl Tools {
    /// Makes it; reads the password.
    pub(super) fn open(config: &KafkaConfig, quiet: &Quiet) -> Result<Self, LogError> {
        let consumer = Arc::new(make(config, quiet)?);
        Ok(Self { quiet: quiet.clone(), now: Mutex::new((consumer, Instant::now())) })
    }

    /// Makes it anew after a refused login. What is wrong with the new one shows at its next call.
    pub(super) fn renew(&self, config: &KafkaConfig) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if now.1.elapsed() < RENEW_EVERY {
            return;
        }
        now.1 = Instant::now();
        // The refusal was the old one's.
        self.quiet.words.put("");
        match make(config, &self.quiet) {
            Ok(consumer) => {
                let old = std::mem::replace(&mut now.0, Arc::new(consumer));
                if let Some(old) = Arc::into_inner(old) {
                    client::close(old);
                }
            }
            Err(error) => tracing::debug!(%error, "no new kafka client"),
        }
    }

    pub(super) fn fetch_metadata(&self, topic: Option<&str>, timeout: Duration) -> Result<Metadata, KafkaError> {
        self.get().fetch_metadata(topic, timeout)
    }

    pub(super) fn fetch_watermarks(&self, topic: &str, partition: i32, timeout: Duration) -> Result<(i64, i64), KafkaError> {
        self.get().fetch_watermarks(topic, partition, timeout)
    }

    pub(super) fn offsets_for_times(
        &self,
        list: TopicPartitionList,
        timeout: Duration,
    ) -> Result<TopicPartitionList, KafkaError> {
        self.get().offsets_for_times(list, timeout)
    }

    /// Serves waiting events, so that the last words are known.
    pub(super) fn serve(&self) {
        client::serve(&self.get());
    }

    /// The client of the moment.
    pub(super) fn get(&self) -> Arc<BaseConsumer<Quiet>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

fn make(config: &KafkaConfig, quiet: &Quiet) -> Result<BaseConsumer<Quiet>, LogError> {
    let mut settings = config.client()?;
    settings.set("isolation.level", "read_committed");
    settings.set("socket.timeout.ms", "10000");
    settings.create_with_context(quiet.clone()).map_err(|e| translate("connect", About::Cluster, &e, config, &quiet.words))
}
