//! Topics made and records removed.
//!
//! What always holds: every request is bounded by [`super::KafkaTimes::reach`]; a topic that `create_topic` accepted has
//! a leader for every partition. The admin client serves no log events, so one that is old or failed is thrown away.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::topic_partition_list::{Offset, TopicPartitionListElem};

use super::client::{About, Quiet, code_of, translate};
use super::config::{BATCH_BYTES_MAX, RECORD_OVERHEAD_BYTES, WRITE_RECORD_BYTES_MAX};
use super::{KafkaConfig, Shared};
use crate::log::{LogError, TopicPartition, TopicSpec};

/// An admin client older than this is replaced.
const ADMIN_AGE_MAX: Duration = Duration::from_secs(120);
/// Pause between looks at a new topic.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// Segments of a topic kept by size or age: an eighth of it, so that retention has something to remove.
const SEGMENTS_KEPT: u64 = 8;
/// Smallest segment, bytes: each costs the broker files and memory.
const SEGMENT_BYTES_MIN: u64 = 64 << 20;
/// Largest segment, bytes: Kafka's default.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// Shortest segment, milliseconds.
const SEGMENT_MS_MIN: u128 = 600_000;
/// Longest segment, milliseconds: Kafka's default.
const SEGMENT_MS_MAX: u128 = 604_800_000;

/// An admin client with its age.
pub(super) struct Admin {
    client: AdminClient<Quiet>,
    born: Instant,
}

impl Shared {
    /// See [`crate::log::Log::create_topic`].
    pub(super) fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        if spec.record_bytes_max > WRITE_RECORD_BYTES_MAX {
            return Err(LogError::Unsupported { what: "a record limit above 32 MiB" });
        }
        match self.partitions(&spec.name) {
            Ok(got) => return self.accept(spec, got),
            Err(LogError::UnknownTopic { .. }) => {}
            Err(other) => return Err(other),
        }
        let about = About::Topic(&spec.name);
        let mut settings = settings_of(spec);
        let mut made = self.create(spec, &settings, false)?;
        if made == Err(Code::InvalidConfig) {
            // Brokers before 3.6 do not know the bounds of timestamps, and have none.
            settings.retain(|(name, _)| *name != TIMESTAMP_AFTER);
            made = self.create(spec, &settings, false)?;
        }
        match made {
            Ok(()) | Err(Code::TopicAlreadyExists) => {}
            Err(code) => {
                let error = KafkaError::AdminOp(code);
                return Err(translate("create", about, &error, &self.config, &self.quiet.words));
            }
        }
        self.remember(&spec.name, |known| known.accepted = Some(Instant::now()));
        let got = self.wait_for_leaders(&spec.name)?;
        self.accept(spec, got)
    }

    /// See [`crate::log::Log::delete_before`].
    pub(super) fn delete_before(&self, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
        let range = self.offsets(at)?;
        if offset <= range.start {
            return Ok(());
        }
        if offset > range.end {
            return Err(LogError::OutOfRange { at: at.clone(), wanted: offset, start: range.start, end: range.end });
        }
        let about = About::Partition(at);
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&at.topic, at.partition as i32, Offset::Offset(offset))
            .map_err(|e| translate("delete records", about, &e, &self.config, &self.quiet.words))?;
        let done = self.with_admin("delete records", about, |admin, options| admin.delete_records(&list, options))?;
        let result = done.elements().iter().try_for_each(TopicPartitionListElem::error);
        result.map_err(|e| translate("delete records", about, &e, &self.config, &self.quiet.words))
    }

    /// Largest record of a topic: as made here, or as the broker's settings say. A topic whose settings may not be read
    /// gets the writer's own limit; the broker then has the last word.
    pub(super) fn record_bytes_max(&self, topic: &str) -> usize {
        if let Some(limit) = self.known(topic).record_bytes_max {
            return limit;
        }
        let resource = [ResourceSpecifier::Topic(topic)];
        let described = self
            .with_admin("describe", About::Topic(topic), |admin, options| admin.describe_configs(&resource, options))
            .ok()
            .and_then(|mut all| all.pop())
            .and_then(Result::ok);
        let limit = described
            .as_ref()
            .and_then(|config| config.get("max.message.bytes")?.value.as_deref()?.parse::<usize>().ok())
            .map_or(WRITE_RECORD_BYTES_MAX, |bytes| bytes.saturating_sub(RECORD_OVERHEAD_BYTES).min(WRITE_RECORD_BYTES_MAX));
        self.remember(topic, |known| known.record_bytes_max = Some(limit));
        limit
    }

    /// Accepts an existing topic, or says what differs.
    fn accept(&self, spec: &TopicSpec, got: u32) -> Result<(), LogError> {
        if got != spec.partitions {
            return Err(LogError::Partitions { topic: spec.name.clone(), expected: spec.partitions, got });
        }
        self.remember(&spec.name, |known| {
            known.record_bytes_max = Some(spec.record_bytes_max);
            known.accepted = Some(Instant::now());
        });
        Ok(())
    }

    /// See [`super::KafkaLog::could_create`].
    pub(super) fn could_create(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.create(spec, &settings_of(spec), true)?.map_err(|code| {
            let error = KafkaError::AdminOp(code);
            translate("create", About::Topic(&spec.name), &error, &self.config, &self.quiet.words)
        })
    }

    /// One create request, or only the question whether it would be granted. The inner result is the topic's.
    fn create(&self, spec: &TopicSpec, settings: &[(&'static str, String)], ask: bool) -> Result<Result<(), Code>, LogError> {
        let replicas = self.config.replicas.map_or(-1, i32::from);
        let mut topic = NewTopic::new(&spec.name, spec.partitions as i32, TopicReplication::Fixed(replicas));
        for (name, value) in settings {
            topic = topic.set(name, value);
        }
        let all = self.with_admin("create", About::Topic(&spec.name), |admin, options| {
            // The question must not wait for anything to be made.
            let asking = AdminOptions::new().request_timeout(Some(self.config.times.reach)).validate_only(true);
            admin.create_topics([&topic], if ask { &asking } else { options })
        })?;
        Ok(all.into_iter().next().map_or(Ok(()), |one| one.map(|_| ()).map_err(|(_, code)| code)))
    }

    /// Waits until a new topic is known with a leader for every partition.
    fn wait_for_leaders(&self, topic: &str) -> Result<u32, LogError> {
        let deadline = Instant::now() + self.config.times.reach;
        loop {
            let metadata = self.ask("ask for topic", About::Topic(topic), |t| self.tools.fetch_metadata(Some(topic), t));
            if let Ok(metadata) = &metadata {
                let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
                if found.is_some_and(|t| !t.partitions().is_empty() && t.partitions().iter().all(|p| p.leader() >= 0)) {
                    return self.partitions(topic);
                }
            }
            if Instant::now() >= deadline {
                return Err(LogError::Client { call: "create topic", reason: format!("{topic} got no leaders in time") });
            }
            std::thread::sleep(LOOK_PAUSE);
        }
    }

    /// One admin request, waited for.
    pub(super) fn with_admin<T, F: Future<Output = Result<T, KafkaError>>>(
        &self,
        call: &'static str,
        about: About<'_>,
        request: impl FnOnce(&AdminClient<Quiet>, &AdminOptions) -> F,
    ) -> Result<T, LogError> {
        let mut slot = self.admin.lock().unwrap_or_else(PoisonError::into_inner);
        let admin = match slot.take() {
            Some(admin) if admin.born.elapsed() < ADMIN_AGE_MAX => admin,
            _ => Admin { client: self.open_admin(&self.config)?, born: Instant::now() },
        };
        let reach = self.config.times.reach;
        let options = AdminOptions::new().request_timeout(Some(reach)).operation_timeout(Some(reach));
        // The request ends by its own time-out; the margin is for the client's thread.
        let result = wait(request(&admin.client, &options), reach + Duration::from_secs(2))
            .unwrap_or(Err(KafkaError::AdminOp(Code::OperationTimedOut)));
        match result {
            Ok(value) => {
                *slot = Some(admin);
                Ok(value)
            }
            Err(error) => {
                tracing::debug!(call, code = ?code_of(&error), "kafka admin request failed");
                self.tools.serve();
                Err(translate(call, about, &error, &self.config, &self.quiet.words))
            }
        }
    }

    /// A new admin client.
    fn open_admin(&self, config: &KafkaConfig) -> Result<AdminClient<Quiet>, LogError> {
        let mut settings = config.client()?;
        // Nobody serves its log events.
        settings.set_log_level(RDKafkaLogLevel::Emerg);
        settings
            .create_with_context(self.quiet.clone())
            .map_err(|e| translate("connect", About::Cluster, &e, config, &self.quiet.words))
    }
}

/// The bound that Kafka 4 puts on timestamps ahead of its clock.
const TIMESTAMP_AFTER: &str = "message.timestamp.after.max.ms";

/// A topic's settings.
fn settings_of(spec: &TopicSpec) -> Vec<(&'static str, String)> {
    // The broker compares whole batches: it must take the largest record and the largest batch of small ones.
    let message_bytes = spec.record_bytes_max.max(BATCH_BYTES_MAX) + RECORD_OVERHEAD_BYTES;
    let stamp = if spec.append_time { "LogAppendTime" } else { "CreateTime" };
    let mut settings = vec![
        ("cleanup.policy", "delete".to_owned()),
        ("max.message.bytes", message_bytes.to_string()),
        ("message.timestamp.type", stamp.to_owned()),
        ("retention.bytes", spec.retention_bytes.map_or("-1".to_owned(), |b| i64::try_from(b).unwrap_or(i64::MAX).to_string())),
        ("retention.ms", spec.retention_age.map_or("-1".to_owned(), |a| ms(a.as_millis()))),
    ];
    if !spec.append_time {
        // What is too far ahead is for normalize to judge, row by row; the broker would refuse the whole epoch.
        settings.push((TIMESTAMP_AFTER, i64::MAX.to_string()));
    }
    if let Some(bytes) = spec.retention_bytes {
        let segment = (bytes / SEGMENTS_KEPT).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        settings.push(("segment.bytes", segment.to_string()));
    }
    if let Some(age) = spec.retention_age {
        let segment = (age.as_millis() / u128::from(SEGMENTS_KEPT)).clamp(SEGMENT_MS_MIN, SEGMENT_MS_MAX);
        settings.push(("segment.ms", ms(segment)));
    }
    settings
}

/// Milliseconds as Kafka takes them.
fn ms(ms: u128) -> String {
    i64::try_from(ms).unwrap_or(i64::MAX).to_string()
}

/// Blocks on a future of the admin client; `None` when the time is up.
fn wait<T>(future: impl Future<Output = T>, limit: Duration) -> Option<T> {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let deadline = Instant::now() + limit;
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        std::thread::park_timeout(left);
    }
}
