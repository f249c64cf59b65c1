//! A process's connection to the cluster: requests as steps, waiting, and the life of its group members.
//!
//! What always holds: no lock is held while fate is asked; a request that is not answered costs the whole wait, as a
//! time-out does; heartbeats go on while the process waits, and stop while it is not scheduled.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tidewatch::log::{Committed, LogError, OffsetRange, TopicPartition};

use super::Settings;
use super::membership::Group;
use crate::sim::broker::{Broker, Refusal, Request, Response};
use crate::sim::fate::{Fate, Performed, ProcessId, Step, perform};

/// Between two heartbeats.
const BEAT_NS: i64 = 1_000_000_000;
/// Before a request is repeated that was answered with "not yet".
pub(super) const RETRY_NS: i64 = 20_000_000;
/// Longest wait for one answer where the caller has time for more.
pub(super) const REQUEST_NS: i64 = 1_000_000_000;

/// A process that did nothing for so long stood still: it heartbeats more often than that.
const STILL_NS: i64 = 3 * BEAT_NS;

/// What the process last heard of a partition's committed offset: it names the phase of a restart that a poll belongs to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mark {
    /// Committed offset.
    pub(super) committed: i64,
    /// Position of the snapshot from which it restarts.
    pub(super) snapshot: i64,
}

/// The connection.
pub(super) struct Link {
    broker: Arc<Mutex<Broker>>,
    fate: Arc<dyn Fate>,
    pub(super) process: ProcessId,
    pub(super) settings: Settings,
    members: Mutex<Vec<Weak<Group>>>,
    marks: Mutex<BTreeMap<TopicPartition, Mark>>,
    /// When the process last did anything with the cluster, ns.
    alive_ns: AtomicI64,
}

pub(super) fn ns(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    pub(super) fn new(broker: Arc<Mutex<Broker>>, fate: Arc<dyn Fate>, process: ProcessId, settings: Settings) -> Self {
        Self {
            broker,
            fate,
            process,
            settings,
            members: Mutex::default(),
            marks: Mutex::default(),
            alive_ns: AtomicI64::new(i64::MAX),
        }
    }

    pub(super) fn now(&self) -> i64 {
        self.fate.now_ns()
    }

    /// A member whose life this process is.
    pub(super) fn add_member(&self, group: &Arc<Group>) {
        let mut members = lock(&self.members);
        members.retain(|m| m.strong_count() > 0);
        members.push(Arc::downgrade(group));
    }

    /// Whether the process stood still until now.
    pub(super) fn stood_still(&self) -> bool {
        self.now().saturating_sub(self.alive_ns.load(Ordering::Relaxed)) > STILL_NS
    }

    /// Heartbeats of all members, in the background.
    pub(super) fn beat(&self) {
        self.alive_ns.store(self.now(), Ordering::Relaxed);
        if !self.fate.reaches(self.process) {
            return;
        }
        let now = self.now();
        let members: Vec<Arc<Group>> = lock(&self.members).iter().filter_map(Weak::upgrade).collect();
        for member in members {
            let Some(seat) = member.seat() else { continue };
            let heard = lock(&self.broker).touch(now, &member.name, &seat);
            member.heard(heard);
        }
    }

    /// Waits, heartbeating.
    pub(super) fn sleep_until(&self, until_ns: i64) {
        loop {
            let now = self.now();
            if now >= until_ns {
                return;
            }
            self.fate.wait(self.process, until_ns.min(now + BEAT_NS));
            self.beat();
        }
    }

    pub(super) fn sleep(&self, wait_ns: i64) {
        self.sleep_until(self.now().saturating_add(wait_ns));
    }

    /// Something that happens inside the process.
    pub(super) fn local(&self, step: Step) {
        perform(&*self.fate, self.process, step, || ());
    }

    /// One request; `None` = not answered within the wait, and nothing is known.
    pub(super) fn ask(&self, step: Step, request: &Request, wait_ns: i64) -> Option<Response> {
        self.beat();
        let handle = || {
            let now = self.now();
            lock(&self.broker).handle(now, request.clone())
        };
        match perform(&*self.fate, self.process, step, handle) {
            Performed::Done(Some(response)) => Some(response),
            Performed::Done(None) | Performed::Lost | Performed::Unheard(_) => {
                self.sleep(wait_ns);
                None
            }
            Performed::Late(late_ns) => {
                let sent = self.now();
                let number = lock(&self.broker).later(sent + late_ns, request.clone());
                self.sleep_until(sent + late_ns.min(wait_ns));
                let now = self.now();
                let mut broker = lock(&self.broker);
                broker.advance(now);
                broker.answer(number)
            }
        }
    }

    /// A request that is repeated until it is answered, as long as brokers may be away.
    pub(super) fn insist(&self, call: &'static str, step: Step, request: &Request) -> Result<Response, LogError> {
        self.insist_for(call, step, request, self.settings.times.reach)
    }

    pub(super) fn insist_for(
        &self,
        call: &'static str,
        step: Step,
        request: &Request,
        wait: Duration,
    ) -> Result<Response, LogError> {
        let deadline = self.now().saturating_add(ns(wait));
        loop {
            let left = deadline - self.now();
            match self.ask(step, request, REQUEST_NS.min(left.max(0))) {
                Some(Response::Refused(Refusal::UnstableOffsetCommit | Refusal::ConcurrentTransactions)) if left > 0 => {
                    self.sleep(RETRY_NS);
                }
                Some(Response::Refused(refusal)) => return Err(error_of(call, request, refusal)),
                Some(response) => return Ok(response),
                None if left > 0 => {}
                None => return Err(unreachable(call)),
            }
        }
    }

    pub(super) fn range(&self, step: Step, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        match self.insist("ask for offsets", step, &Request::Offsets(at.clone()))? {
            Response::Range(range) => Ok(range),
            other => Err(unexpected("ask for offsets", &other)),
        }
    }

    pub(super) fn committed(
        &self,
        step: Step,
        group: &str,
        at: &[TopicPartition],
        wait: Duration,
    ) -> Result<Vec<Option<Committed>>, LogError> {
        let request = Request::FetchOffsets { group: group.to_owned(), at: at.to_vec() };
        match self.insist_for("read committed offsets", step, &request, wait)? {
            Response::Committed(found) => Ok(found),
            other => Err(unexpected("read committed offsets", &other)),
        }
    }

    /// Record limit of a topic, as a client knows it.
    pub(super) fn record_bytes_max(&self, topic: &str) -> Option<usize> {
        lock(&self.broker).record_bytes_max(topic)
    }

    pub(super) fn note_committed(&self, at: &[TopicPartition], found: &[Option<Committed>]) {
        let mut marks = lock(&self.marks);
        for (at, found) in at.iter().zip(found) {
            let mark = found.as_ref().map(mark_of).unwrap_or_default();
            marks.insert(at.clone(), mark);
        }
    }

    pub(super) fn mark(&self, at: &TopicPartition) -> Mark {
        lock(&self.marks).get(at).copied().unwrap_or_default()
    }
}

/// A snapshot's id is its generation, then its position.
fn mark_of(committed: &Committed) -> Mark {
    let meta: serde_json::Value = serde_json::from_str(&committed.metadata).unwrap_or_default();
    let id = meta.get("snapshot").and_then(serde_json::Value::as_str).unwrap_or_default();
    let position = id.split('-').nth(1).and_then(|digits| digits.parse().ok());
    Mark { committed: committed.offset, snapshot: position.unwrap_or_default() }
}

/// Nobody answers.
pub(super) fn unreachable(call: &'static str) -> LogError {
    LogError::Unreachable { what: "the simulated cluster".to_owned(), reason: format!("{call}: no answer") }
}

/// An answer to something else.
pub(super) fn unexpected(call: &'static str, response: &Response) -> LogError {
    LogError::Client { call, reason: format!("unexpected answer {response:?}") }
}

fn error_of(call: &'static str, request: &Request, refusal: Refusal) -> LogError {
    match (refusal, request) {
        (Refusal::UnknownTopic(topic), _) => LogError::UnknownTopic { topic },
        (Refusal::UnknownPartition(at), _) => LogError::UnknownPartition { at },
        (Refusal::Partitions { topic, expected, got }, _) => LogError::Partitions { topic, expected, got },
        (Refusal::UnstableOffsetCommit | Refusal::ConcurrentTransactions, _) => unreachable(call),
        (refusal, _) => LogError::Client { call, reason: format!("{refusal:?}") },
    }
}
