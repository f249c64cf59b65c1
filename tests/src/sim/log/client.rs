//! A client of one transactional id on the simulated cluster, as librdkafka behaves: what it repeats by itself, what it
//! gives up on, which errors it takes for what.
//!
//! More hostile than the real one where that is allowed: a commit that is asked for again is sent again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tidewatch::log::protocol::{Client, Failure, Init, Kind, Standing, Times, Why};
use tidewatch::log::{Append, CommitError, Committed, LogError, METADATA_BYTES_MAX, PollLimit, TopicPartition};
use tidewatch_schemas::time::EventTime;

use super::Bug;
use super::link::{Link, REQUEST_NS, RETRY_NS, ns, unexpected, unreachable};
use super::membership::Group;
use crate::sim::broker::{Producer, Refusal, Request, Response};
use crate::sim::fate::Step;

pub(super) struct SimClient {
    link: Arc<Link>,
    id: String,
    group: Option<Weak<Group>>,
    why: Why,
    live: Option<Live>,
    /// Topics' partition counts, asked again when one seems to be missing.
    known: BTreeMap<String, u32>,
}

/// A producer.
#[derive(Default)]
struct Live {
    /// Once initialised.
    name: Option<Producer>,
    sequences: BTreeMap<TopicPartition, i64>,
    /// Why it can do nothing any more.
    dead: Option<Failure>,
    in_doubt: bool,
    run: Run,
}

/// The running transaction.
#[derive(Default)]
struct Run {
    /// Not yet stored, one batch a partition.
    unsent: Vec<(TopicPartition, Vec<Append>)>,
    partitions: BTreeSet<TopicPartition>,
    group: bool,
    /// The coordinator may know of it.
    touched: bool,
    /// Its commit was asked for and not answered.
    ending: bool,
    stored: Vec<(TopicPartition, i64)>,
    failed: Option<Failure>,
}

impl SimClient {
    pub(super) fn new(link: &Arc<Link>, id: &str, group: Option<&Arc<Group>>) -> Self {
        let mut id = id.to_owned();
        if link.settings.bug == Some(Bug::NoFencing) {
            id = format!("{id}-{}", link.process);
        }
        Self { link: Arc::clone(link), id, group: group.map(Arc::downgrade), why: Why::Start, live: None, known: BTreeMap::new() }
    }

    pub(super) fn bug(&self) -> Option<Bug> {
        self.link.settings.bug
    }

    fn member(&self) -> Option<Arc<Group>> {
        self.group.as_ref().and_then(Weak::upgrade)
    }

    fn live(&mut self) -> Result<(&mut Live, Producer), Failure> {
        let none = || Failure::new(Kind::Fatal, "no producer");
        let live = self.live.as_mut().ok_or_else(none)?;
        if let Some(dead) = &live.dead {
            return Err(dead.clone());
        }
        let name = live.name.clone().ok_or_else(none)?;
        Ok((live, name))
    }

    /// One transactional request, repeated while it is answered with "not yet". `Again` when nobody answers.
    fn call(&mut self, step: Step, request: &Request, wait_ns: i64) -> Result<Response, Failure> {
        let deadline = self.link.now().saturating_add(wait_ns);
        loop {
            let left = (deadline - self.link.now()).max(0);
            let again = |words: &str| Failure::new(Kind::Again, format!("{step}: {words}"));
            let failure = match self.link.ask(step, request, left.min(REQUEST_NS)) {
                Some(Response::Refused(Refusal::ConcurrentTransactions)) if left > 0 => {
                    self.link.sleep(RETRY_NS.min(left));
                    continue;
                }
                Some(Response::Refused(Refusal::ConcurrentTransactions)) => return Err(again("not yet")),
                Some(Response::Refused(refusal)) => Failure::new(kind_of(step, &refusal), format!("{step}: {refusal:?}")),
                Some(response) => return Ok(response),
                None => {
                    if let Some(live) = &mut self.live {
                        live.in_doubt = true;
                    }
                    return Err(again("no answer"));
                }
            };
            if matches!(failure.kind, Kind::Fenced | Kind::Fatal)
                && let Some(live) = &mut self.live
            {
                live.dead = Some(failure.clone());
            }
            return Err(failure);
        }
    }

    /// Sends what is queued until it is stored, refused, or time is up.
    fn flush(&mut self, wait_ns: i64) -> Result<(), Failure> {
        let deadline = self.link.now().saturating_add(wait_ns);
        loop {
            let (live, producer) = self.live()?;
            if let Some(failed) = &live.run.failed {
                return Err(failed.clone());
            }
            let left = (deadline - self.link.now()).max(0);
            let (live, _) = self.live()?;
            let Some((at, records)) = live.run.unsent.first().cloned() else { return Ok(()) };
            if !live.run.partitions.contains(&at) {
                let new: Vec<TopicPartition> =
                    live.run.unsent.iter().map(|(at, _)| at).filter(|at| !live.run.partitions.contains(*at)).cloned().collect();
                live.run.touched = true;
                let request = Request::AddPartitions { producer, at: new.clone() };
                self.call(Step::EpochPartitions, &request, left)?;
                self.live()?.0.run.partitions.extend(new);
                continue;
            }
            let sequence = live.sequences.get(&at).copied().unwrap_or(0);
            let count = records.len() as i64;
            let request = Request::Produce { producer, at: at.clone(), sequence, records };
            match self.call(Step::EpochAppend, &request, left) {
                Ok(Response::Offset(last)) => {
                    let (live, _) = self.live()?;
                    live.sequences.insert(at.clone(), sequence + count);
                    live.run.unsent.remove(0);
                    match live.run.stored.iter_mut().find(|(known, _)| *known == at) {
                        Some((_, offset)) => *offset = last,
                        None => live.run.stored.push((at, last)),
                    }
                }
                Ok(other) => return Err(Failure::new(Kind::Fatal, format!("unexpected answer {other:?}"))),
                Err(failure) if failure.kind == Kind::Again => return Err(failure),
                Err(failure) => {
                    self.live()?.0.run.failed = Some(failure.clone());
                    return Err(failure);
                }
            }
        }
    }
}

/// As librdkafka takes it.
fn kind_of(step: Step, refusal: &Refusal) -> Kind {
    match (step, refusal) {
        // A refused batch fails the transaction; the producer learns of its fencing at the next coordinator request.
        (Step::EpochAppend, _) | (_, Refusal::IllegalGeneration) => Kind::MustAbort,
        (_, Refusal::UnknownMember | Refusal::FencedInstance) => Kind::Expelled,
        (_, Refusal::ProducerFenced) => Kind::Fenced,
        (_, Refusal::UnknownTopic(_) | Refusal::UnknownPartition(_)) => Kind::MustAbort,
        _ => Kind::Fatal,
    }
}

impl Client for SimClient {
    fn id(&self) -> &str {
        &self.id
    }

    fn times(&self) -> Times {
        self.link.settings.times
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.link.now().max(0) as u64)
    }

    fn serve(&mut self, wait: Duration) {
        if self.in_flight() > 0 {
            // What fails shows at the commit.
            drop(self.flush(REQUEST_NS));
        }
        if !wait.is_zero() {
            self.link.sleep(ns(wait));
        }
    }

    fn close(&mut self) {
        self.live = None;
    }

    fn is_open(&self) -> bool {
        self.live.as_ref().is_some_and(|l| l.name.is_some())
    }

    fn renew(&mut self, why: Why) -> Result<(), LogError> {
        self.why = why;
        self.live = Some(Live::default());
        Ok(())
    }

    fn init(&mut self, wait: Duration) -> Result<Init, LogError> {
        let step = match self.why {
            Why::Start => Step::RestartInitProducer,
            Why::Reopen => Step::EpochReopen,
            Why::Settle => Step::SettleInit,
        };
        let request = Request::InitProducer { id: self.id.clone(), timeout_ns: ns(self.times().transaction) };
        match self.call(step, &request, ns(wait)) {
            Ok(Response::Producer { pid, epoch }) => {
                if let Some(live) = &mut self.live {
                    live.name = Some(Producer { id: self.id.clone(), pid, epoch });
                    // A lost init is answered by its repetition: nothing of this producer is under way.
                    live.in_doubt = false;
                }
                Ok(Init::Done)
            }
            Ok(other) => Err(unexpected("open writer", &other)),
            Err(failure) if failure.kind == Kind::Again => Ok(Init::NotYet(unreachable("open writer"))),
            Err(failure) => Err(LogError::Client { call: "open writer", reason: failure.reason }),
        }
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.link.local(Step::EpochBegin);
        self.live()?.0.run = Run::default();
        Ok(())
    }

    fn append(&mut self, append: &Append) -> Result<(), Failure> {
        let (live, _) = self.live()?;
        let at = TopicPartition::new(&append.topic, append.partition);
        // Kafka's times are milliseconds.
        let timestamp = append.timestamp.map(|t| EventTime(t.0.div_euclid(1_000_000).max(1) * 1_000_000));
        let append = Append { timestamp, ..append.clone() };
        match live.run.unsent.iter_mut().find(|(known, _)| *known == at) {
            Some((_, batch)) => batch.push(append),
            None => live.run.unsent.push((at, vec![append])),
        }
        Ok(())
    }

    fn in_flight(&self) -> usize {
        let Some(live) = self.live.as_ref().filter(|l| l.dead.is_none() && l.run.failed.is_none()) else { return 0 };
        live.run.unsent.iter().map(|(_, records)| records.len()).sum()
    }

    fn send_offsets(&mut self, offsets: &[(TopicPartition, Committed)], wait: Duration) -> Result<(), Failure> {
        // Records are on their way by themselves; one round of it.
        drop(self.flush(ns(wait)));
        let Some(member) = self.member() else { return Err(Failure::new(Kind::Expelled, "its member has left the group")) };
        let Some(seat) = member.seat() else { return Err(Failure::new(Kind::Expelled, "not a member")) };
        let (group, offsets) = (member.name.clone(), offsets.to_vec());
        if self.bug() == Some(Bug::OffsetsOutside) {
            let request = Request::CommitOffsets { group, seat, offsets };
            return self.call(Step::EpochOffsets, &request, ns(wait)).map(drop);
        }
        let (live, producer) = self.live()?;
        if !live.run.group {
            live.run.touched = true;
            let request = Request::AddGroup { producer: producer.clone(), group: group.clone() };
            self.call(Step::EpochGroup, &request, ns(wait))?;
            self.live()?.0.run.group = true;
        }
        // The generation of this moment.
        let seat = member.seat().filter(|_| self.bug() != Some(Bug::NoFencing));
        let request = Request::TxnOffsets { producer, group, seat, offsets };
        self.call(Step::EpochOffsets, &request, ns(wait)).map(drop)
    }

    fn commit(&mut self, wait: Duration) -> Result<(), Failure> {
        let deadline = self.link.now().saturating_add(ns(wait));
        match self.flush(ns(wait)) {
            Err(failure) if failure.kind == Kind::Again => return Err(Failure { kind: Kind::Unstored, ..failure }),
            flushed => flushed?,
        }
        let (live, producer) = self.live()?;
        if !live.run.touched {
            return Ok(());
        }
        live.run.ending = true;
        let left = (deadline - self.link.now()).max(0);
        let ended = self.call(Step::EpochEnd, &Request::EndTxn { producer, commit: true }, left).map(drop);
        match ended {
            Err(failure) if self.bug() == Some(Bug::AbortUnclear) && failure.kind == Kind::Again => {
                Err(Failure { kind: Kind::Unstorable, ..failure })
            }
            ended => ended,
        }
    }

    fn abort(&mut self, wait: Duration) -> Result<(), Failure> {
        if self.bug() == Some(Bug::AbortUnclear) {
            // Whatever the answer.
            if let Ok((_, producer)) = self.live() {
                drop(self.call(Step::EpochAbort, &Request::EndTxn { producer, commit: false }, ns(wait)));
            }
            return Ok(());
        }
        let (live, producer) = self.live()?;
        live.run.unsent.clear();
        live.run.failed = None;
        if live.run.ending {
            return Err(Failure::new(Kind::Again, "conflicting commit in progress"));
        }
        if !live.run.touched {
            return Ok(());
        }
        self.call(Step::EpochAbort, &Request::EndTxn { producer, commit: false }, ns(wait)).map(drop)
    }

    fn stored(&self) -> Vec<(TopicPartition, i64)> {
        self.live.as_ref().map(|l| l.run.stored.clone()).unwrap_or_default()
    }

    fn refusal(&mut self) -> Option<CommitError> {
        None
    }

    fn is_in_doubt(&self) -> bool {
        self.live.as_ref().is_some_and(|l| l.in_doubt)
    }

    fn standing(&self) -> Standing {
        match (&self.group, self.member()) {
            (None, _) => Standing::Alone,
            (Some(_), Some(_)) => Standing::Member,
            (Some(_), None) => Standing::Left,
        }
    }

    fn holds(&self, offsets: &[(TopicPartition, Committed)]) -> bool {
        let blind = self.bug() == Some(Bug::NoFencing);
        self.member().is_some_and(|m| m.holds(offsets.iter().map(|(at, _)| at.clone()), blind))
    }

    fn changes(&self) -> u64 {
        self.member().map_or(0, |m| m.changes())
    }

    fn committed(&mut self, at: &[TopicPartition], why: Why, wait: Duration) -> Result<Vec<Option<Committed>>, LogError> {
        let step = if why == Why::Settle { Step::SettleCommitted } else { Step::EpochStarts };
        let member =
            self.member().ok_or(LogError::Client { call: "read committed offsets", reason: "the member has left".into() })?;
        self.link.committed(step, &member.name, at, wait)
    }

    fn read_back(&mut self, at: &TopicPartition, offset: i64, wait: Duration) -> Result<bool, LogError> {
        let deadline = self.link.now().saturating_add(ns(wait));
        let mut from = offset;
        loop {
            let request = Request::Fetch { at: at.clone(), from, limit: PollLimit { records: 1, bytes: 1 } };
            if let Response::Batch(batch) = self.link.insist("read back an epoch", Step::SettleReadBack, &request)? {
                if let Some(first) = batch.records.first() {
                    return Ok(first.offset == offset);
                }
                from = batch.next;
                if from > offset {
                    return Ok(false);
                }
            }
            if self.link.now() >= deadline {
                return Err(unreachable("read back an epoch"));
            }
            self.link.sleep(RETRY_NS);
        }
    }

    fn is_visible(&mut self, stored: &[(TopicPartition, i64)], _wait: Duration) -> Result<bool, LogError> {
        for (at, offset) in stored {
            match self.link.ask(Step::EpochVisible, &Request::Offsets(at.clone()), RETRY_NS) {
                Some(Response::Range(range)) if range.end > *offset => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    fn check(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        for append in appends {
            let at = || TopicPartition::new(&append.topic, append.partition);
            if self.known.get(&append.topic).is_none_or(|count| append.partition >= *count) {
                let topics = self.link.insist("ask for topic", Step::LogMetadata, &Request::Metadata)?;
                if let Response::Topics(topics) = topics {
                    self.known = topics.into_iter().collect();
                }
            }
            match self.known.get(&append.topic) {
                None => return Err(LogError::UnknownTopic { topic: append.topic.clone() }.into()),
                Some(count) if append.partition >= *count => return Err(LogError::UnknownPartition { at: at() }.into()),
                Some(_) => {}
            }
            let limit_bytes = self.link.record_bytes_max(&append.topic);
            let bytes = append.key.as_ref().map_or(0, bytes::Bytes::len)
                + append.value.as_ref().map_or(0, bytes::Bytes::len)
                + append.headers.iter().map(|(n, v)| n.len() + v.len()).sum::<usize>();
            if let Some(limit_bytes) = limit_bytes.filter(|limit| bytes > *limit) {
                return Err(CommitError::TooLarge { at: at(), bytes, limit_bytes });
            }
        }
        for (at, committed) in offsets {
            if committed.metadata.len() > METADATA_BYTES_MAX {
                let reason = format!("{} bytes for {at}, at most {METADATA_BYTES_MAX}", committed.metadata.len());
                return Err(LogError::Client { call: "commit offset metadata", reason }.into());
            }
        }
        Ok(())
    }
}
