//! Membership of a consumer group: which partitions are ours.
//!
//! The group's consumer places tasks and heartbeats; its partitions are paused as soon as they come and records are read
//! by readers of their own. What always holds: callbacks only record; partitions are given up inside [`Membership::poll`]
//! and nowhere else; offsets are committed with the group metadata of the moment, and only for partitions held.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::Shared;
use super::client::{self, About, Words, code_of, hear, hear_error, is_denied, translate};
use super::config::GroupProtocol;
use super::doubt::Doubts;
use super::producer::KafkaClient;
use super::pulse::Pulse;
use super::shares::Shares;
use crate::log::protocol::TransactionalWriter;
use crate::log::{LogError, Member, Membership, TopicPartition, Writer};

/// Longest single wait inside the client, so that a long poll notices its deadline.
const POLL_STEP: Duration = Duration::from_millis(500);
/// How long leaving for good waits for the partitions to be handed back.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// One member.
pub(super) struct KafkaMembership {
    group: Arc<Group>,
    reported: Vec<TopicPartition>,
    doubts: Doubts,
    /// With the classic protocol only: with the newer one the broker itself deals until all is dealt.
    shares: Option<Shares>,
}

/// The group consumer, shared with this member's writers.
pub(super) struct Group {
    /// Its consumer. `None` only while closing.
    consumer: Option<BaseConsumer<Callbacks>>,
    callbacks: Callbacks,
    /// Group name.
    pub(super) name: String,
    /// Member's name.
    member: String,
    topics: Vec<String>,
    shared: Arc<Shared>,
}

/// Callbacks: record, nothing else.
#[derive(Clone)]
pub(super) struct Callbacks {
    words: Words,
    held: Arc<Mutex<Held>>,
    /// Pauses of this process since partitions were last given.
    pulse: Pulse,
}

/// What the callbacks recorded.
#[derive(Default)]
struct Held {
    partitions: BTreeSet<TopicPartition>,
    /// Counts assignments and revocations.
    changes: u64,
    /// The last revocation was a loss.
    lost: bool,
    /// When the group was last served.
    polled: Option<Instant>,
}

impl KafkaMembership {
    /// Joins; the first assignment comes with a later poll.
    pub(super) fn join(shared: &Arc<Shared>, group: &str, topics: &[String], member: &Member) -> Result<Self, LogError> {
        for topic in topics {
            shared.partitions(topic)?;
        }
        let callbacks = Callbacks { words: Words::default(), held: Arc::default(), pulse: Pulse::start() };
        let fail = |e: KafkaError| translate("join", About::Group(group), &e, &shared.config, &callbacks.words);
        let settings = shared.config.member(group, &member.id)?;
        let consumer: BaseConsumer<Callbacks> = settings.create_with_context(callbacks.clone()).map_err(fail)?;
        let group = Group {
            consumer: Some(consumer),
            callbacks,
            name: group.to_owned(),
            member: member.id.clone(),
            topics: topics.to_vec(),
            shared: Arc::clone(shared),
        };
        group.subscribe()?;
        let shares = (shared.config.group_protocol == GroupProtocol::Classic).then(|| Shares::new(topics));
        Ok(Self { group: Arc::new(group), reported: Vec::new(), doubts: Doubts::new(topics), shares })
    }
}

impl Membership for KafkaMembership {
    fn poll(&mut self, timeout: Duration) -> Result<Option<Vec<TopicPartition>>, LogError> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            self.group.callbacks.lock().polled = Some(Instant::now());
            match client::poll(self.group.consumer()?, self.group.words(), left.min(POLL_STEP)) {
                // A record fetched before its partition was paused: readers will read it.
                None | Some(Ok(_)) => {}
                Some(Err(error)) => {
                    self.doubts.hear(&error);
                    self.group.failed(&error)?;
                }
            }
            let held = self.group.held();
            if held != self.reported {
                self.group.tell(&self.reported, &held);
                if held.is_empty() {
                    // Others may have them all; or the group was lost, or its topics are.
                    self.doubts.raise();
                }
                if let Some(shares) = &mut self.shares {
                    shares.changed();
                }
                self.reported.clone_from(&held);
                return Ok(Some(held));
            }
            if let Some(shares) = &mut self.shares
                && shares.look(self.group.consumer()?, &self.group.name, &self.group.member)
            {
                self.group.resign()?;
                self.group.subscribe()?;
                continue;
            }
            if let Err(error) = self.doubts.look(self.group.consumer()?, &self.group.shared.config, self.group.words()) {
                // A static member that comes back is given what it had: nothing, without the topic. One that left is given
                // its share of what is there then.
                if matches!(error, LogError::UnknownTopic { .. }) {
                    self.group.resign()?;
                }
                return Err(error);
            }
            if Instant::now() >= deadline {
                return Ok(None);
            }
        }
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        let client = KafkaClient::new(&self.group.shared, id, Some(Arc::downgrade(&self.group)));
        Ok(Box::new(TransactionalWriter::open(client)?))
    }

    fn leave(self: Box<Self>, for_good: bool) -> Result<(), LogError> {
        // A static member that closes stays in the group until its session ends; one that unsubscribes leaves at once.
        // (With the newer group protocol the client announces a temporary absence either way.)
        if for_good {
            self.group.resign()?;
        }
        Ok(())
    }
}

impl Group {
    /// The consumer.
    pub(super) fn consumer(&self) -> Result<&BaseConsumer<Callbacks>, LogError> {
        self.consumer.as_ref().ok_or(LogError::Client { call: "group", reason: "the member has left".into() })
    }

    /// Asks to join.
    fn subscribe(&self) -> Result<(), LogError> {
        let names: Vec<&str> = self.topics.iter().map(String::as_str).collect();
        let about = About::Group(&self.name);
        self.consumer()?.subscribe(&names).map_err(|e| translate("join", about, &e, &self.shared.config, self.words()))
    }

    /// Gives the static membership up.
    fn resign(&self) -> Result<(), LogError> {
        let consumer = self.consumer()?;
        consumer.unsubscribe();
        let deadline = Instant::now() + LEAVE_WAIT;
        while !self.held().is_empty() && Instant::now() < deadline {
            self.heed(consumer.poll(Duration::from_millis(20)))?;
        }
        // Even without partitions the request has to get out.
        self.heed(consumer.poll(Duration::from_millis(100)))
    }

    /// An error that came while something else was waited for.
    fn heed<T>(&self, polled: Option<Result<T, KafkaError>>) -> Result<(), LogError> {
        match polled {
            Some(Err(error)) => self.failed(&error),
            _ => Ok(()),
        }
    }

    /// Partitions held, sorted.
    pub(super) fn held(&self) -> Vec<TopicPartition> {
        self.callbacks.lock().partitions.iter().cloned().collect()
    }

    /// True when all these partitions are held and the assignment was not lost.
    ///
    /// Invariant: a lost assignment, or a last poll longer ago than the group allows, holds nothing; the client cannot be
    /// made to heartbeat, so these two stand for it.
    pub(super) fn holds<'a>(&self, mut at: impl Iterator<Item = &'a TopicPartition>) -> bool {
        let lost = self.consumer.as_ref().is_none_or(Consumer::assignment_lost);
        let held = self.callbacks.lock();
        let overdue = held.polled.is_some_and(|p| p.elapsed() >= self.shared.config.times.poll_interval_max);
        !lost && !overdue && at.all(|at| held.partitions.contains(at))
    }

    /// Grows with every assignment and revocation.
    pub(super) fn changes(&self) -> u64 {
        self.callbacks.lock().changes
    }

    /// Logs a rebalance: what came, what went, and why.
    fn tell(&self, before: &[TopicPartition], now: &[TopicPartition]) {
        let names = |of: &[TopicPartition], but: &[TopicPartition]| -> String {
            of.iter().filter(|at| !but.contains(at)).map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        let lost = self.callbacks.lock().lost;
        let reason = match (lost, now.len() > before.len()) {
            (true, _) => "lost: the session or the poll interval ran out",
            (false, true) => "given by the group",
            (false, false) => "taken back by the group: a member came or went, or partitions changed",
        };
        let (given, taken) = (names(now, before), names(before, now));
        tracing::info!(group = self.name, %given, %taken, reason, "rebalance");
    }

    /// Last complaint of the client.
    pub(super) fn words(&self) -> &Words {
        &self.callbacks.words
    }

    /// What an error of the group's client means. `Ok` = it heals by itself: the client rejoins, and a lost membership
    /// shows as an assignment of nothing.
    fn failed(&self, error: &KafkaError) -> Result<(), LogError> {
        let config = &self.shared.config;
        let about = About::Group(&self.name);
        match (error, code_of(error)) {
            (KafkaError::MessageConsumptionFatal(Code::FencedInstanceId | Code::UnreleasedInstanceId), _) => Err(self.fenced()),
            (KafkaError::MessageConsumptionFatal(_), _) => Err(translate("group membership", about, error, config, self.words())),
            (_, Some(code)) if is_denied(code) => Err(translate("group membership", about, error, config, self.words())),
            _ => {
                tracing::debug!(%error, group = self.name, "kafka group");
                Ok(())
            }
        }
    }

    /// The group knows this member's name under another identity. Either another process runs under it, which is for
    /// somebody to decide; or the coordinator was away for longer than the session, the client asked for a new identity,
    /// and an answer to one of its requests was lost: then it was this process itself, and joining again heals it.
    ///
    /// Invariant: it was this process itself only if it had lost its partitions by time *and* never stood still.
    /// One that did may have been replaced for good, and must not take the place back.
    fn fenced(&self) -> LogError {
        let stood_still = self.callbacks.pulse.longest_pause() >= self.shared.config.times.session / 2;
        if self.callbacks.lock().lost && !stood_still {
            return LogError::Unreachable {
                what: format!("coordinator of group {}", self.name),
                reason: "it was away for longer than the session, and no longer knows this member; it joins again".into(),
            };
        }
        LogError::Replaced { group: self.name.clone(), member: self.member.clone() }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            client::close_member(consumer);
        }
    }
}

/// A writer's view of its group: gone when the member has left.
pub(super) type GroupRef = Weak<Group>;

impl Callbacks {
    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        hear(&self.words, level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        hear_error(&self.words, &error, reason);
    }
}

impl ConsumerContext for Callbacks {
    // The default `rebalance` assigns and unassigns, incrementally where the protocol is; these two record.

    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            let lost = consumer.assignment_lost();
            let mut held = self.lock();
            held.lost = lost;
            for at in named(list) {
                held.partitions.remove(&at);
            }
            held.changes += 1;
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            if let Err(error) = consumer.pause(list) {
                tracing::warn!(%error, "pausing the partitions of a group member failed; records are read twice");
            }
            self.pulse.reset();
            let mut held = self.lock();
            held.partitions.extend(named(list));
            held.lost = false;
            held.changes += 1;
        }
    }
}

/// Partitions of a client list.
fn named(list: &TopicPartitionList) -> Vec<TopicPartition> {
    list.elements().iter().filter_map(|e| Some(TopicPartition::new(e.topic(), u32::try_from(e.partition()).ok()?))).collect()
}
