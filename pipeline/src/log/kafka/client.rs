//! What all Kafka clients of this log share: callbacks that only record, and one translation of the client's errors.
//!
//! What always holds: a callback blocks nothing; every error names its topic, group or writer; no error carries a secret.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::BorrowedMessage;

use super::config::KafkaConfig;
use crate::log::{LogError, TopicPartition};

/// Longest wait for a consumer to close before a thread is left to finish it alone.
const CLOSE_WAIT: Duration = Duration::from_secs(5);
/// Events served in one go while looking for the client's last words.
const EVENTS_SERVED_MAX: usize = 64;

/// Lines of a client's log handed out in one poll, at most; the rest come with the next.
const LINES_SERVED_MAX: usize = 1024;

/// The last complaint a client logged: the reason behind a bare "timed out".
#[derive(Clone, Debug, Default)]
pub(super) struct Words(Arc<Said>);

/// What a client has said.
#[derive(Debug, Default)]
struct Said {
    last: Mutex<String>,
    lines: AtomicU64,
}

impl Words {
    /// Replaces the last complaint.
    pub(super) fn put(&self, words: &str) {
        let mut last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.clear();
        last.push_str(words);
    }

    /// The last complaint; empty when there was none.
    pub(super) fn last(&self) -> String {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lines of log so far, complaints or not.
    fn lines(&self) -> u64 {
        self.0.lines.load(Ordering::Relaxed)
    }
}

/// The client's next message or error. rdkafka comes back with nothing after every line of log that a poll without a wait
/// hands out, and a broker that goes away leaves hundreds of them in front of the records: so it is asked again until there
/// is nothing at all.
pub(super) fn poll<'c, C: ConsumerContext>(
    consumer: &'c BaseConsumer<C>,
    words: &Words,
    wait: Duration,
) -> Option<Result<BorrowedMessage<'c>, KafkaError>> {
    for _ in 0..LINES_SERVED_MAX {
        let lines = words.lines();
        let polled = consumer.poll(wait);
        if polled.is_some() || words.lines() == lines || !wait.is_zero() {
            return polled;
        }
    }
    None
}

/// Callbacks of tools and readers: record, nothing else.
#[derive(Clone, Debug, Default)]
pub(super) struct Quiet {
    /// Last complaint.
    pub(super) words: Words,
}

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        hear(&self.words, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        hear_error(&self.words, &error, reason);
    }
}

impl ConsumerContext for Quiet {}

/// One line of the client's log: kept when it is a complaint.
pub(super) fn hear(words: &Words, level: RDKafkaLogLevel, fac: &str, message: &str) {
    // Lines read "[thrd:host:port/bootstrap]: host:port/bootstrap: Connect to ... failed": the thread is noise.
    let message = message.split_once("]: ").map_or(message, |(_, rest)| rest);
    if (level as i32) <= RDKafkaLogLevel::Warning as i32 {
        words.put(message);
    }
    words.0.lines.fetch_add(1, Ordering::Relaxed);
    tracing::debug!(fac, message, "kafka client");
}

/// One error event: kept unless it only counts the brokers that are down, which would hide why.
pub(super) fn hear_error(words: &Words, error: &KafkaError, reason: &str) {
    if code_of(error) != Some(Code::AllBrokersDown) || words.last().is_empty() {
        words.put(reason);
    }
    tracing::debug!(%error, reason, "kafka client");
}

/// What a call was about.
#[derive(Clone, Copy, Debug)]
pub(super) enum About<'a> {
    /// The cluster.
    Cluster,
    /// A topic.
    Topic(&'a str),
    /// A partition.
    Partition(&'a TopicPartition),
    /// A group.
    Group(&'a str),
    /// A writer, by transactional id.
    Writer(&'a str),
}

impl std::fmt::Display for About<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cluster => f.write_str("the cluster"),
            Self::Topic(topic) => write!(f, "topic {topic}"),
            Self::Partition(at) => write!(f, "topic {} (partition {})", at.topic, at.partition),
            Self::Group(group) => write!(f, "group {group}"),
            Self::Writer(id) => write!(f, "transactional id {id}"),
        }
    }
}

/// The client's error in this log's terms.
pub(super) fn translate(
    call: &'static str,
    about: About<'_>,
    error: &KafkaError,
    config: &KafkaConfig,
    words: &Words,
) -> LogError {
    let Some(code) = code_of(error) else {
        return LogError::Client { call, reason: plain(error) };
    };
    match (code, about) {
        (Code::UnknownTopicOrPartition | Code::UnknownTopic, About::Topic(topic)) => {
            LogError::UnknownTopic { topic: topic.to_owned() }
        }
        (Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition, About::Partition(at)) => {
            LogError::UnknownPartition { at: at.clone() }
        }
        (Code::SaslAuthenticationFailed | Code::Authentication, _) => login(config, words, &plain(error)),
        _ if is_denied(code) => {
            LogError::Denied { what: format!("{call} on {about} as {}: {}", config.principal(), plain(error)) }
        }
        _ if is_unreachable(code) => unreachable(config, words, &plain(error)),
        _ => LogError::Client { call, reason: format!("{about}: {}", plain(error)) },
    }
}

/// No answer: with the client's last words where there are any.
pub(super) fn unreachable(config: &KafkaConfig, words: &Words, otherwise: &str) -> LogError {
    let last = words.last();
    // A refused login looks like a dead broker to every call; the client's log knows better.
    if last.contains("uthentication fail") || last.contains("Invalid username or password") {
        return login(config, words, otherwise);
    }
    LogError::Unreachable {
        what: format!("Kafka at {}", config.brokers),
        reason: if last.is_empty() { otherwise.to_owned() } else { last },
    }
}

/// The login was refused: every call fails alike then, whatever it was about.
fn login(config: &KafkaConfig, words: &Words, otherwise: &str) -> LogError {
    let words = words.last();
    let why = if words.is_empty() { otherwise } else { &words };
    LogError::Denied { what: format!("login at {} as {}: {why}", config.brokers, config.principal()) }
}

/// The code behind an error.
pub(super) fn code_of(error: &KafkaError) -> Option<Code> {
    match error {
        KafkaError::AdminOp(code) | KafkaError::MessageConsumption(code) | KafkaError::MessageConsumptionFatal(code) => {
            Some(*code)
        }
        other => other.rdkafka_error_code(),
    }
}

/// The client's words without configured values: a value may be a secret.
pub(super) fn plain(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, description, key, _) => format!("setting {key}: {description}"),
        other => other.to_string(),
    }
}

/// Rights are missing, or the login failed.
pub(super) fn is_denied(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
            | Code::SaslAuthenticationFailed
            | Code::Authentication
    )
}

/// Nobody answered, or nobody is in charge yet.
pub(super) fn is_unreachable(code: Code) -> bool {
    matches!(
        code,
        Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::MessageTimedOut
            | Code::TimedOutQueue
            | Code::Resolve
            | Code::SSL
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::ReplicaNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::NotCoordinator
            | Code::WaitingForCoordinator
            | Code::FencedLeaderEpoch
            | Code::UnknownLeaderEpoch
            | Code::OffsetNotAvailable
    )
}

/// Repeats a call while nobody answers, until the deadline.
pub(super) fn retry<T>(deadline: Instant, mut call: impl FnMut(Duration) -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match call(left.max(Duration::from_millis(1))) {
            Err(error) if code_of(&error).is_some_and(is_unreachable) && left > RETRY_PAUSE => {
                std::thread::sleep(RETRY_PAUSE);
            }
            other => return other,
        }
    }
}

/// Pause between two tries of a call.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// Serves waiting log and error events of a client that is not polled regularly, so that they do not pile up and the
/// last words are known.
pub(super) fn serve<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    for _ in 0..EVENTS_SERVED_MAX {
        // `poll` serves at most one event when it may not wait; `None` does not tell an event from an empty queue.
        drop(consumer.poll(Duration::ZERO));
    }
}

/// Closes a reader's consumer without waiting for it: it has committed nothing, so nothing depends on its end.
pub(super) fn close<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>) {
    drop(consumer.unassign());
    drop(close_apart(consumer));
}

/// Closes a group member and waits for it, within [`CLOSE_WAIT`]; its revocation is served while closing.
pub(super) fn close_member<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>) {
    let Some(closed) = close_apart(consumer) else { return };
    // The sender is dropped when the consumer is gone; a time-out leaves the thread to finish alone.
    if closed.recv_timeout(CLOSE_WAIT) == Err(RecvTimeoutError::Timeout) {
        tracing::warn!("closing a kafka consumer takes longer than {CLOSE_WAIT:?}");
    }
}

/// Closes a consumer on a thread of its own: closing takes 100 ms, and can hang while brokers are away.
fn close_apart<C: ConsumerContext + 'static>(consumer: BaseConsumer<C>) -> Option<Receiver<()>> {
    let (done, closed) = channel::<()>();
    let work = move || {
        drop(consumer);
        drop(done);
    };
    match std::thread::Builder::new().name("kafka-close".into()).spawn(work) {
        Ok(_) => Some(closed),
        // The closure, and the consumer in it, was dropped by the failed spawn.
        Err(error) => {
            tracing::warn!(%error, "no thread to close a kafka consumer on");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::config::ClientConfig;
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    /// A client that says much gives its lines in one poll, not one with each.
    #[test]
    fn lines_of_log_do_not_hold_records_up() {
        let words = Words::default();
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Debug).set("debug", "all").set("group.id", "g");
        let consumer: BaseConsumer<Quiet> = config
            .set("bootstrap.servers", "127.0.0.1:1")
            .create_with_context(Quiet { words: words.clone() })
            .expect("a consumer without a broker");
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut most = 0;
        while most < 20 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
            let before = words.lines();
            assert!(poll(&consumer, &words, Duration::ZERO).is_none_or(|polled| polled.is_err()));
            most = most.max(words.lines() - before);
        }
        assert!(most >= 20, "{most} lines in one poll");
    }

    fn said(error: &KafkaError, about: About<'_>) -> LogError {
        translate("read", about, error, &KafkaConfig::new("localhost:9092"), &Words::default())
    }

    #[test]
    fn errors_name_what_they_are_about() {
        let at = TopicPartition::new("t", 3);
        let denied = said(&KafkaError::MessageConsumption(Code::TopicAuthorizationFailed), About::Partition(&at));
        let text = denied.to_string();
        assert!(matches!(denied, LogError::Denied { .. }), "{text}");
        assert!(text.contains("topic t") && text.contains("User:ANONYMOUS"), "{text}");
        let gone = said(&KafkaError::MetadataFetch(Code::UnknownTopicOrPartition), About::Partition(&at));
        assert!(matches!(gone, LogError::UnknownPartition { at } if at.partition == 3));
        let gone = said(&KafkaError::MetadataFetch(Code::UnknownTopicOrPartition), About::Topic("t"));
        assert!(matches!(gone, LogError::UnknownTopic { .. }));
        let away = said(&KafkaError::AdminOp(Code::OperationTimedOut), About::Cluster);
        assert!(matches!(away, LogError::Unreachable { .. }));
    }

    #[test]
    fn a_refused_login_is_no_dead_broker() {
        let words = Words::default();
        words.put("localhost:9092: SASL authentication error: Authentication failed: Invalid username or password");
        let error = unreachable(&KafkaConfig::new("localhost:9092"), &words, "timed out");
        assert!(matches!(error, LogError::Denied { .. }), "{error}");
    }

    #[test]
    fn a_refused_setting_does_not_show_its_value() {
        let error = KafkaError::ClientConfig(
            RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "bad value".into(),
            "sasl.password".into(),
            "hunter2".into(),
        );
        let text = said(&error, About::Cluster).to_string();
        assert!(text.contains("sasl.password") && !text.contains("hunter2"), "{text}");
    }

    #[test]
    fn the_count_of_dead_brokers_does_not_hide_why() {
        let words = Words::default();
        words.put("Connect to 127.0.0.1:1 failed: Connection refused");
        hear_error(&words, &KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        assert!(words.last().contains("refused"));
    }
}
