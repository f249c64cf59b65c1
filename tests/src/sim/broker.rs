//! A simulated Kafka cluster: a state machine that takes requests and moments, and behaves as clients of transaction
//! protocol v1 see Kafka 4.
//!
//! Not a Kafka: no replicas, no bytes on a wire, no leader elections; what is away ([`Broker::set_away`]) just does not
//! answer. What always holds: nothing happens but by a request or by time passing, and equal requests at equal moments
//! give equal answers; records and offsets of a transaction become visible when its marker is written, partition by
//! partition, some time after its end was answered; what a transaction coordinator decided stays decided.
//!
//! What v1 leaves open stays open: requests carry the producer's epoch and nothing that names their transaction, so one
//! that arrives late is applied to the next transaction of the same epoch.

mod groups;
mod partition;
mod transactions;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use tidewatch::log::{Append, Committed, OffsetRange, PollLimit, Record, TopicPartition, TopicSpec};
use tidewatch_schemas::time::EventTime;

pub use groups::{Moved, Seat};

use groups::Group;
use partition::Partition;
use transactions::Transaction;

/// How this cluster is set up. Times in ns.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// A member unheard of for so long is expelled.
    pub session_ns: i64,
    /// How often the coordinator looks for transactions that ran out of time.
    pub scan_ns: i64,
    /// From the decision to the first marker, and from marker to marker. May be changed at any time.
    pub marker_ns: i64,
    /// `transaction.partition.verification.enable`: partitions ask the coordinator before they take a transaction's first
    /// records or offsets.
    pub verify: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { session_ns: 30_000_000_000, scan_ns: 10_000_000_000, marker_ns: 1_000_000, verify: true }
    }
}

/// A part of the cluster that can be away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Partition leaders, metadata.
    Data,
    /// Transaction coordinators.
    Transactions,
    /// Group coordinators.
    Groups,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Data, Self::Transactions, Self::Groups];
}

/// A producer as it names itself in requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// `transactional.id`.
    pub id: String,
    /// Producer id.
    pub pid: i64,
    /// Its epoch.
    pub epoch: i32,
}

/// A request.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "named after Kafka's requests and their fields")]
pub enum Request {
    Metadata,
    CreateTopic(TopicSpec),
    Offsets(TopicPartition),
    ByTime(TopicPartition, EventTime),
    DeleteBefore(TopicPartition, i64),
    Fetch { at: TopicPartition, from: i64, limit: PollLimit },
    InitProducer { id: String, timeout_ns: i64 },
    AddPartitions { producer: Producer, at: Vec<TopicPartition> },
    Produce { producer: Producer, at: TopicPartition, sequence: i64, records: Vec<Append> },
    AddGroup { producer: Producer, group: String },
    TxnOffsets { producer: Producer, group: String, seat: Option<Seat>, offsets: Vec<(TopicPartition, Committed)> },
    CommitOffsets { group: String, seat: Seat, offsets: Vec<(TopicPartition, Committed)> },
    EndTxn { producer: Producer, commit: bool },
    FetchOffsets { group: String, at: Vec<TopicPartition> },
    Join { group: String, instance: String, topics: Vec<String> },
    Serve { group: String, seat: Seat, owned: BTreeSet<TopicPartition> },
    Leave { group: String, seat: Seat },
}

impl Request {
    /// Who must be there to answer.
    pub fn part(&self) -> Part {
        match self {
            Self::Metadata | Self::CreateTopic(_) | Self::Offsets(_) | Self::ByTime(..) => Part::Data,
            Self::DeleteBefore(..) | Self::Fetch { .. } | Self::Produce { .. } => Part::Data,
            Self::InitProducer { .. } | Self::AddPartitions { .. } | Self::AddGroup { .. } => Part::Transactions,
            Self::EndTxn { .. } => Part::Transactions,
            Self::TxnOffsets { .. } | Self::CommitOffsets { .. } | Self::FetchOffsets { .. } => Part::Groups,
            Self::Join { .. } | Self::Serve { .. } | Self::Leave { .. } => Part::Groups,
        }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named after what was asked")]
pub enum Response {
    Done,
    Topics(Vec<(String, u32)>),
    Range(OffsetRange),
    Offset(i64),
    Batch(Batch),
    Producer {
        pid: i64,
        epoch: i32,
    },
    Committed(Vec<Option<Committed>>),
    Seat(Seat),
    /// What the member is assigned in its generation.
    Assigned(BTreeSet<TopicPartition>),
    Refused(Refusal),
}

/// What a fetch brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Committed records.
    pub records: Vec<Record>,
    /// Where to read on: past markers and aborted records.
    pub next: i64,
    /// Last stable offset.
    pub end: i64,
}

/// Why a request was refused, after Kafka's codes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "Kafka's names")]
pub enum Refusal {
    UnknownTopic(String),
    UnknownPartition(TopicPartition),
    Partitions { topic: String, expected: u32, got: u32 },
    OutOfRange(OffsetRange),
    ConcurrentTransactions,
    ProducerFenced,
    InvalidTxnState,
    OutOfOrderSequence,
    UnstableOffsetCommit,
    IllegalGeneration,
    UnknownMember,
    FencedInstance,
}

struct Topic {
    spec: TopicSpec,
    partitions: Vec<Partition>,
}

/// The cluster.
pub struct Broker {
    settings: Settings,
    now_ns: i64,
    topics: BTreeMap<String, Topic>,
    transactions: BTreeMap<String, Transaction>,
    groups: BTreeMap<String, Group>,
    /// Requests under way, by the moment of their arrival and their number.
    under_way: BTreeMap<(i64, u64), Request>,
    /// Answers to requests that were late, until somebody asks.
    answers: BTreeMap<u64, Response>,
    away: BTreeSet<Part>,
    /// Partitions that do not answer.
    silent: BTreeSet<TopicPartition>,
    numbers: u64,
    moved: Vec<Moved>,
    changes: u64,
}

/// What happens by itself.
enum Due {
    Arrives((i64, u64)),
    Marker(String),
    TimesOut(String),
    Expires { group: String, instance: String },
}

impl Broker {
    /// An empty cluster at a moment.
    pub fn new(settings: Settings, now_ns: i64) -> Self {
        Self {
            settings,
            now_ns,
            topics: BTreeMap::new(),
            transactions: BTreeMap::new(),
            groups: BTreeMap::new(),
            under_way: BTreeMap::new(),
            answers: BTreeMap::new(),
            away: BTreeSet::new(),
            silent: BTreeSet::new(),
            numbers: 0,
            moved: Vec::new(),
            changes: 0,
        }
    }

    /// How it is set up; may be changed between requests.
    pub fn settings_mut(&mut self) -> &mut Settings {
        &mut self.settings
    }

    /// A part goes away or comes back. What it had decided is kept; sessions begin anew.
    pub fn set_away(&mut self, part: Part, is_away: bool) {
        if is_away {
            self.away.insert(part);
        } else if self.away.remove(&part) && part == Part::Groups {
            let now = self.now_ns;
            self.groups.values_mut().for_each(|g| g.refresh(now));
        }
    }

    /// One partition stops answering, or answers again.
    pub fn set_silent(&mut self, at: TopicPartition, is_silent: bool) {
        if is_silent {
            self.silent.insert(at);
        } else {
            self.silent.remove(&at);
        }
    }

    fn answers(&self, request: &Request) -> bool {
        let asked = match request {
            Request::Fetch { at, .. } | Request::Produce { at, .. } | Request::Offsets(at) => Some(at),
            _ => None,
        };
        !self.away.contains(&request.part()) && asked.is_none_or(|at| !self.silent.contains(at))
    }

    /// Whether a part is away.
    pub fn is_away(&self, part: Part) -> bool {
        self.away.contains(&part)
    }

    /// One request at a moment; `None` = nobody answers.
    pub fn handle(&mut self, now_ns: i64, request: Request) -> Option<Response> {
        self.advance(now_ns);
        if !self.answers(&request) {
            return None;
        }
        Some(self.apply(request).unwrap_or_else(Response::Refused))
    }

    /// A request that arrives later, whatever becomes of its sender. Its number, for [`Broker::answer`].
    pub fn later(&mut self, at_ns: i64, request: Request) -> u64 {
        self.numbers += 1;
        self.under_way.insert((at_ns.max(self.now_ns), self.numbers), request);
        self.numbers
    }

    /// The answer to a late request, once.
    pub fn answer(&mut self, number: u64) -> Option<Response> {
        self.answers.remove(&number)
    }

    /// Requests that have not arrived yet.
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Lets time pass: late requests arrive, markers are written, transactions and sessions run out.
    pub fn advance(&mut self, now_ns: i64) {
        while let Some((at, due)) = self.next(now_ns) {
            self.now_ns = self.now_ns.max(at);
            match due {
                Due::Arrives(key) => {
                    let Some(request) = self.under_way.remove(&key) else { continue };
                    // Nobody is there: it is lost for good.
                    if self.answers(&request) {
                        let answer = self.apply(request).unwrap_or_else(Response::Refused);
                        self.answers.insert(key.1, answer);
                    }
                }
                Due::Marker(id) => self.write_marker(&id),
                Due::TimesOut(id) => self.time_out(&id),
                Due::Expires { group, instance } => self.expel(&group, &instance),
            }
        }
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// When something happens by itself next.
    pub fn next_due_ns(&self) -> Option<i64> {
        self.next(i64::MAX).map(|(at, _)| at)
    }

    /// The next thing that happens by itself, up to a moment.
    fn next(&self, until_ns: i64) -> Option<(i64, Due)> {
        let mut next: Option<(i64, Due)> = None;
        let mut offer = |at: i64, due: &dyn Fn() -> Due| {
            if at <= until_ns && next.as_ref().is_none_or(|(t, _)| at < *t) {
                next = Some((at, due()));
            }
        };
        if let Some(key) = self.under_way.keys().next() {
            offer(key.0, &|| Due::Arrives(*key));
        }
        if !self.away.contains(&Part::Transactions) {
            for (id, t) in &self.transactions {
                if let Some(at) = t.marker_due(&self.away) {
                    offer(at, &|| Due::Marker(id.clone()));
                }
                if let Some(at) = t.times_out(self.settings.scan_ns) {
                    offer(at, &|| Due::TimesOut(id.clone()));
                }
            }
        }
        if !self.away.contains(&Part::Groups) {
            for (name, g) in &self.groups {
                if let Some((at, instance)) = g.expires(self.settings.session_ns) {
                    offer(at, &|| Due::Expires { group: name.clone(), instance: instance.to_owned() });
                }
            }
        }
        next
    }

    fn apply(&mut self, request: Request) -> Result<Response, Refusal> {
        match request {
            Request::Metadata => {
                Ok(Response::Topics(self.topics.iter().map(|(n, t)| (n.clone(), t.partitions.len() as u32)).collect()))
            }
            Request::CreateTopic(spec) => self.create_topic(spec),
            Request::Offsets(at) => Ok(Response::Range(self.partition(&at)?.range())),
            Request::ByTime(at, time) => Ok(Response::Offset(self.partition(&at)?.first_at(time))),
            Request::DeleteBefore(at, offset) => {
                self.partition(&at)?.delete_before(offset);
                Ok(Response::Done)
            }
            Request::Fetch { at, from, limit } => Ok(Response::Batch(self.partition(&at)?.fetch(from, limit)?)),
            Request::InitProducer { id, timeout_ns } => self.init_producer(id, timeout_ns),
            Request::AddPartitions { producer, at } => self.add_partitions(&producer, at),
            Request::Produce { producer, at, sequence, records } => self.produce(&producer, &at, sequence, records),
            Request::AddGroup { producer, group } => self.add_group(&producer, group),
            Request::TxnOffsets { producer, group, seat, offsets } => self.txn_offsets(&producer, &group, seat, offsets),
            Request::CommitOffsets { group, seat, offsets } => self.commit_offsets(&group, &seat, offsets),
            Request::EndTxn { producer, commit } => self.end_txn(&producer, commit),
            Request::FetchOffsets { group, at } => self.fetch_offsets(&group, &at),
            Request::Join { group, instance, topics } => self.join(group, instance, topics),
            Request::Serve { group, seat, owned } => self.serve(&group, &seat, owned),
            Request::Leave { group, seat } => self.leave(&group, &seat),
        }
    }

    fn create_topic(&mut self, spec: TopicSpec) -> Result<Response, Refusal> {
        if let Some(topic) = self.topics.get(&spec.name) {
            let got = topic.partitions.len() as u32;
            if got != spec.partitions {
                return Err(Refusal::Partitions { topic: spec.name, expected: spec.partitions, got });
            }
            return Ok(Response::Done);
        }
        let partitions = (0..spec.partitions).map(|_| Partition::new(spec.append_time)).collect();
        self.topics.insert(spec.name.clone(), Topic { spec, partitions });
        Ok(Response::Done)
    }

    /// Adds partitions to a topic, as an operator does; its groups rebalance.
    pub fn grow_topic(&mut self, topic: &str, partitions: u32) {
        let Some(found) = self.topics.get_mut(topic) else { return };
        let stamped = found.spec.append_time;
        while found.partitions.len() < partitions as usize {
            found.partitions.push(Partition::new(stamped));
        }
        for group in self.groups.values_mut().filter(|g| g.reads(topic)) {
            group.prepare();
        }
    }

    /// A record of somebody who needs no transactions. Its offset.
    pub fn put(&mut self, now_ns: i64, append: Append) -> Option<i64> {
        self.advance(now_ns);
        let at = TopicPartition::new(&append.topic, append.partition);
        self.changes += 1;
        self.partition(&at).ok().map(|p| p.put(append, now_ns))
    }

    /// Grows whenever something may have become visible, or an offset moved.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// Record limit of a topic, as its settings say.
    pub fn record_bytes_max(&self, topic: &str) -> Option<usize> {
        self.topics.get(topic).map(|t| t.spec.record_bytes_max)
    }

    /// Committed records from an offset on: for checks, not for clients.
    pub fn read(&self, at: &TopicPartition, from: i64, limit: PollLimit) -> Option<Batch> {
        let found = self.topics.get(&at.topic).and_then(|t| t.partitions.get(at.partition as usize));
        found.and_then(|p| p.fetch(from, limit).ok())
    }

    /// Whether an open transaction hides what was committed after it began: for checks.
    pub fn is_held(&self, at: &TopicPartition) -> bool {
        let found = self.topics.get(&at.topic).and_then(|t| t.partitions.get(at.partition as usize));
        found.is_some_and(Partition::is_held)
    }

    /// Everything committed in a partition, in order: for checks, not for clients.
    pub fn records(&self, at: &TopicPartition) -> Vec<Record> {
        let found = self.topics.get(&at.topic).and_then(|t| t.partitions.get(at.partition as usize));
        let all = PollLimit { records: usize::MAX, bytes: usize::MAX };
        found.and_then(|p| p.fetch(p.range().start, all).ok()).map(|b| b.records).unwrap_or_default()
    }

    fn partition(&mut self, at: &TopicPartition) -> Result<&mut Partition, Refusal> {
        let topic = self.topics.get_mut(&at.topic).ok_or_else(|| Refusal::UnknownTopic(at.topic.clone()))?;
        topic.partitions.get_mut(at.partition as usize).ok_or_else(|| Refusal::UnknownPartition(at.clone()))
    }
}
