//! The brokers of a world.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidewatch::log::local::Settings;
use tidewatch::log::memory::MemoryLog;
use tidewatch::log::{
    Append, CommitError, Committed, Log, LogError, Member, Membership, OffsetRange, PollLimit, Reader, Record, TopicPartition,
    TopicSpec, Writer,
};
use tidewatch_schemas::time::EventTime;

use super::baton::Baton;
use super::check::Broken;
use super::controls::Control;
use super::fate::{Fate, Performed, ProcessId, SimClock, Step, perform};

pub struct Cluster {
    baton: Arc<Baton>,
    log: MemoryLog,
    changes: Arc<AtomicU64>,
}

impl Cluster {
    pub fn new(baton: &Arc<Baton>, clock: &SimClock, _control: Option<Control>) -> Self {
        let clock = clock.clone();
        let log = MemoryLog::with(Settings { clock: Arc::new(move || EventTime(clock.now_ns())), ..Settings::default() });
        Self { baton: baton.clone(), log, changes: Arc::default() }
    }
    pub fn eye(&self) -> Arc<dyn Log> {
        Arc::new(self.log.clone())
    }
    pub fn log(&self, process: ProcessId, _host: u32) -> Arc<dyn Log> {
        Arc::new(Stepped { process, baton: self.baton.clone(), log: self.log.clone(), changes: self.changes.clone() })
    }
    pub fn write(&self, append: Append) -> (TopicPartition, i64) {
        let at = TopicPartition::new(append.topic.clone(), append.partition);
        let offset = self.log.offsets(&at).expect("there").end;
        self.log.writer("script").expect("opens").commit(&[append], &[]).expect("commits");
        (at, offset)
    }
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }
    pub fn check(&self) -> Result<(), Broken> {
        Ok(())
    }
    pub fn died(&self, _: ProcessId) {}
    pub fn heal(&self) {}
    pub fn rebalances(&self) -> u64 {
        0
    }
    pub fn partition_away(&self, _: &str, _: u32, _: bool) {}
}

#[derive(Clone)]
struct Stepped {
    process: ProcessId,
    baton: Arc<Baton>,
    log: MemoryLog,
    changes: Arc<AtomicU64>,
}

impl fmt::Debug for Stepped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("stepped")
    }
}

impl Stepped {
    fn step<T>(&self, step: Step, act: impl FnOnce() -> Result<T, LogError>) -> Result<T, LogError> {
        match perform(&*self.baton, self.process, step, act) {
            Performed::Done(x) => x,
            _ => Err(LogError::Unreachable { what: "broker".into(), reason: "lost".into() }),
        }
    }
}

impl Log for Stepped {
    fn create_topic(&self, spec: &TopicSpec) -> Result<(), LogError> {
        self.step(Step::LogCreate, || self.log.create_topic(spec))
    }
    fn topics(&self) -> Result<Vec<(String, u32)>, LogError> {
        self.step(Step::LogMetadata, || self.log.topics())
    }
    fn partitions(&self, topic: &str) -> Result<u32, LogError> {
        self.step(Step::LogMetadata, || self.log.partitions(topic))
    }
    fn offsets(&self, at: &TopicPartition) -> Result<OffsetRange, LogError> {
        self.step(Step::RestartOffsets, || self.log.offsets(at))
    }
    fn offset_at(&self, at: &TopicPartition, time: EventTime) -> Result<i64, LogError> {
        self.log.offset_at(at, time)
    }
    fn reader(&self, at: &TopicPartition, from: i64) -> Result<Box<dyn Reader>, LogError> {
        let inner = self.step(Step::RestartReader, || self.log.reader(at, from))?;
        Ok(Box::new(R(self.clone(), inner)))
    }
    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        let inner = self.step(Step::RestartInitProducer, || self.log.writer(id))?;
        Ok(Box::new(W(self.clone(), inner)))
    }
    fn committed(&self, group: &str, at: &[TopicPartition]) -> Result<Vec<Option<Committed>>, LogError> {
        self.step(Step::RestartCommitted, || self.log.committed(group, at))
    }
    fn join(&self, group: &str, topics: &[String], member: &Member) -> Result<Box<dyn Membership>, LogError> {
        let inner = self.step(Step::RestartJoin, || self.log.join(group, topics, member))?;
        Ok(Box::new(M(self.clone(), inner)))
    }
    fn enforce_retention(&self, _: EventTime) -> Result<u64, LogError> {
        Ok(0)
    }
    fn delete_before(&self, _: &TopicPartition, _: i64) -> Result<(), LogError> {
        Ok(())
    }
}

struct R(Stepped, Box<dyn Reader>);
impl Reader for R {
    fn poll(&mut self, limit: PollLimit, _: Duration) -> Result<Vec<Record>, LogError> {
        let inner = &mut self.1;
        self.0.step(Step::LivePoll, || inner.poll(limit, Duration::ZERO))
    }
    fn position(&self) -> i64 {
        self.1.position()
    }
    fn at_end(&self) -> bool {
        self.1.at_end()
    }
}
struct W(Stepped, Box<dyn Writer>);
impl Writer for W {
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        let inner = &mut self.1;
        let lost = |reason: &str| CommitError::Aborted { reason: reason.into() };
        match perform(&*self.0.baton, self.0.process, Step::EpochEnd, || {
            self.0.changes.fetch_add(1, Ordering::Relaxed);
            inner.commit(appends, offsets)
        }) {
            Performed::Done(x) => x,
            Performed::Unheard(x) => x,
            _ => Err(lost("lost")),
        }
    }
}
struct M(Stepped, Box<dyn Membership>);
impl Membership for M {
    fn poll(&mut self, _: Duration) -> Result<Option<Vec<TopicPartition>>, LogError> {
        let inner = &mut self.1;
        self.0.step(Step::GroupPoll, || inner.poll(Duration::ZERO))
    }
    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        let inner = self.0.step(Step::RestartInitProducer, || self.1.writer(id))?;
        Ok(Box::new(W(self.0.clone(), inner)))
    }
    fn leave(self: Box<Self>, for_good: bool) -> Result<(), LogError> {
        let M(stepped, inner) = *self;
        stepped.step(Step::GroupLeave, || inner.leave(for_good))
    }
}
