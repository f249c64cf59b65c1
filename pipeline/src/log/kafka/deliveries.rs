//! Delivery reports of one producer, and what they say about the running epoch.
//!
//! Callbacks only record; a broken connection is remembered as long as the producer lives. What always holds: after a flush, the last stored offset of every partition is known; the first
//! refusal is kept, because later ones follow from it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::ProducerContext;

use super::client::{Words, code_of, hear, hear_error};
use crate::log::TopicPartition;

/// Delivery reports of the running epoch.
#[derive(Clone, Default)]
pub(super) struct Deliveries {
    /// Last complaint of the client.
    pub(super) words: Words,
    epoch: Arc<Mutex<Epoch>>,
    broken: Arc<AtomicBool>,
}

/// What the delivery reports said.
#[derive(Default)]
pub(super) struct Epoch {
    /// The last stored record of each partition: visible exactly if the transaction committed.
    pub(super) stored: Vec<(TopicPartition, i64)>,
    /// The first refusal: why and where.
    pub(super) refused: Option<(Code, TopicPartition)>,
}

impl Epoch {
    /// Notes a stored record. Reports come in runs of one partition, so the last entry nearly always matches.
    fn store(&mut self, message: &impl Message) {
        let same = |at: &TopicPartition| at.partition as i32 == message.partition() && at.topic == message.topic();
        match self.stored.iter_mut().rev().find(|(at, _)| same(at)) {
            Some((_, offset)) => *offset = message.offset(),
            None => self.stored.push((place_of(message), message.offset())),
        }
    }
}

impl Deliveries {
    /// What is known of the running epoch.
    pub(super) fn lock(&self) -> MutexGuard<'_, Epoch> {
        self.epoch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of this producer broke: a request that was then repeated on another one may still be under way.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        if may_have_cut_a_request(fac, message) {
            self.broken.store(true, Ordering::Relaxed);
        }
        hear(&self.words, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        hear_error(&self.words, &error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut epoch = self.lock();
        match result {
            Ok(message) => epoch.store(message),
            // What an abort throws away was not refused.
            Err((KafkaError::MessageProduction(Code::PurgeQueue | Code::PurgeInflight), _)) => {}
            Err((error, message)) if epoch.refused.is_none() => {
                epoch.refused = code_of(error).map(|code| (code, place_of(message)));
            }
            Err(_) => {}
        }
    }
}

/// A line about a broken connection that stood, so that it may have carried a request. One that could not be made has not
/// (a broker that stays away is tried again and again, and must not cost a producer each time); idle ones are not told.
/// The client has no other word for it: disconnects are logged and repeated, not reported.
fn may_have_cut_a_request(fac: &str, message: &str) -> bool {
    fac == "FAIL" && message.contains(" in state UP")
}

/// Where a message went.
fn place_of(message: &impl Message) -> TopicPartition {
    TopicPartition::new(message.topic(), u32::try_from(message.partition()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_stays_away_is_no_doubt_and_a_cut_connection_is() {
        let away = "127.0.0.1:1/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)";
        assert!(!may_have_cut_a_request("FAIL", away));
        let cut = "[thrd:127.0.0.1:1/1]: 127.0.0.1:1/1: Disconnected (after 1200ms in state UP)";
        assert!(may_have_cut_a_request("FAIL", cut));
        let late = "[thrd:127.0.0.1:1/1]: 127.0.0.1:1/1: 1 request(s) timed out: disconnect (after 9900ms in state UP)";
        assert!(may_have_cut_a_request("FAIL", late));
    }
}
