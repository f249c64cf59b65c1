//! Transaction coordinators, protocol v1: one state per transactional id.

use std::collections::{BTreeMap, BTreeSet};

use tidewatch::log::{Append, TopicPartition};

use super::{Broker, Part, Producer, Refusal, Response};

/// Where a marker goes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    Partition(TopicPartition),
    Group(String),
}

enum State {
    Empty,
    Ongoing {
        since_ns: i64,
    },
    /// Decided and answered; markers are still to be written, each not before its moment.
    Prepared {
        commit: bool,
        left: BTreeMap<Target, i64>,
    },
    Complete {
        commit: bool,
    },
}

/// What a coordinator knows of a transactional id.
pub(super) struct Transaction {
    pid: i64,
    epoch: i32,
    timeout_ns: i64,
    state: State,
    targets: BTreeSet<Target>,
}

impl Transaction {
    /// When the next marker is written.
    pub(super) fn marker_due(&self, away: &BTreeSet<Part>) -> Option<i64> {
        let State::Prepared { left, .. } = &self.state else { return None };
        left.iter().filter(|(t, _)| !away.contains(&part_of(t))).map(|(_, at)| *at).min()
    }

    /// When the coordinator will find that it ran out of time: at a scan.
    pub(super) fn times_out(&self, scan_ns: i64) -> Option<i64> {
        let State::Ongoing { since_ns } = self.state else { return None };
        let over = since_ns + self.timeout_ns;
        Some((over.div_euclid(scan_ns) + 1) * scan_ns)
    }

    /// Decides. A decision without targets is complete at once.
    fn decide(&mut self, commit: bool, now_ns: i64, marker_ns: i64) {
        let targets = std::mem::take(&mut self.targets);
        let due = (1i64..).map(|i| now_ns + i * marker_ns);
        let left: BTreeMap<Target, i64> = targets.into_iter().zip(due).collect();
        self.state = if left.is_empty() { State::Complete { commit } } else { State::Prepared { commit, left } };
    }

    fn is_of(&self, producer: &Producer) -> bool {
        self.pid == producer.pid && self.epoch == producer.epoch
    }
}

fn part_of(target: &Target) -> Part {
    match target {
        Target::Partition(_) => Part::Data,
        Target::Group(_) => Part::Groups,
    }
}

impl Broker {
    /// Ends what an earlier producer of the id left, and gives out the next epoch.
    pub(super) fn init_producer(&mut self, id: String, timeout_ns: i64) -> Result<Response, Refusal> {
        let (now, marker) = (self.now_ns, self.settings.marker_ns);
        let pid = self.transactions.len() as i64 + 1;
        let new = || Transaction { pid, epoch: -1, timeout_ns, state: State::Empty, targets: BTreeSet::new() };
        let t = self.transactions.entry(id).or_insert_with(new);
        match t.state {
            State::Ongoing { .. } => {
                // Fences at once; the caller asks again until the abort is written.
                t.epoch += 1;
                t.decide(false, now, marker);
                Err(Refusal::ConcurrentTransactions)
            }
            State::Prepared { .. } => Err(Refusal::ConcurrentTransactions),
            State::Empty | State::Complete { .. } => {
                t.epoch += 1;
                t.timeout_ns = timeout_ns;
                t.state = State::Empty;
                Ok(Response::Producer { pid: t.pid, epoch: t.epoch })
            }
        }
    }

    pub(super) fn add_partitions(&mut self, producer: &Producer, at: Vec<TopicPartition>) -> Result<Response, Refusal> {
        for at in &at {
            self.partition(at)?;
        }
        self.add_targets(producer, at.into_iter().map(Target::Partition))
    }

    pub(super) fn add_group(&mut self, producer: &Producer, group: String) -> Result<Response, Refusal> {
        self.add_targets(producer, std::iter::once(Target::Group(group)))
    }

    fn add_targets(&mut self, producer: &Producer, targets: impl Iterator<Item = Target>) -> Result<Response, Refusal> {
        let now_ns = self.now_ns;
        let t = self.transactions.get_mut(&producer.id).ok_or(Refusal::InvalidTxnState)?;
        if !t.is_of(producer) {
            return Err(Refusal::ProducerFenced);
        }
        match t.state {
            State::Prepared { .. } => return Err(Refusal::ConcurrentTransactions),
            State::Ongoing { .. } => {}
            State::Empty | State::Complete { .. } => t.state = State::Ongoing { since_ns: now_ns },
        }
        t.targets.extend(targets);
        Ok(Response::Done)
    }

    /// Whether a partition may take what this producer sends to a target.
    pub(super) fn verify(&self, producer: &Producer, target: &Target) -> Result<(), Refusal> {
        if !self.settings.verify {
            return Ok(());
        }
        let t = self.transactions.get(&producer.id).ok_or(Refusal::InvalidTxnState)?;
        if !t.is_of(producer) {
            return Err(Refusal::ProducerFenced);
        }
        let taken = matches!(t.state, State::Ongoing { .. }) && t.targets.contains(target);
        if taken { Ok(()) } else { Err(Refusal::InvalidTxnState) }
    }

    pub(super) fn produce(
        &mut self,
        producer: &Producer,
        at: &TopicPartition,
        sequence: i64,
        records: Vec<Append>,
    ) -> Result<Response, Refusal> {
        if !self.partition(at)?.is_open(producer.pid) {
            self.verify(producer, &Target::Partition(at.clone()))?;
        }
        let now = self.now_ns;
        let last = self.partition(at)?.append(producer.pid, producer.epoch, sequence, records, now)?;
        Ok(Response::Offset(last))
    }

    /// Decides a transaction, or repeats what was decided.
    pub(super) fn end_txn(&mut self, producer: &Producer, commit: bool) -> Result<Response, Refusal> {
        let (now, marker) = (self.now_ns, self.settings.marker_ns);
        let t = self.transactions.get_mut(&producer.id).ok_or(Refusal::InvalidTxnState)?;
        if !t.is_of(producer) {
            return Err(Refusal::ProducerFenced);
        }
        match t.state {
            State::Ongoing { .. } => {
                t.decide(commit, now, marker);
                Ok(Response::Done)
            }
            State::Prepared { commit: was, .. } if was == commit => Err(Refusal::ConcurrentTransactions),
            State::Complete { commit: was } if was == commit => Ok(Response::Done),
            State::Empty | State::Prepared { .. } | State::Complete { .. } => Err(Refusal::InvalidTxnState),
        }
    }

    /// The coordinator aborts what ran out of time, and fences its producer.
    pub(super) fn time_out(&mut self, id: &str) {
        let (now, marker) = (self.now_ns, self.settings.marker_ns);
        if let Some(t) = self.transactions.get_mut(id) {
            t.epoch += 1;
            t.decide(false, now, marker);
        }
    }

    /// Writes one marker.
    pub(super) fn write_marker(&mut self, id: &str) {
        let Some(t) = self.transactions.get_mut(id) else { return };
        let (pid, epoch) = (t.pid, t.epoch);
        let State::Prepared { commit, left } = &mut t.state else { return };
        let commit = *commit;
        let away = &self.away;
        let due = left.iter().filter(|(t, _)| !away.contains(&part_of(t))).min_by_key(|(_, at)| **at);
        let Some(target) = due.map(|(t, _)| t.clone()) else { return };
        left.remove(&target);
        self.changes += 1;
        if left.is_empty() {
            t.state = State::Complete { commit };
        }
        match target {
            Target::Partition(at) => {
                let now = self.now_ns;
                if let Ok(partition) = self.partition(&at) {
                    partition.end(pid, epoch, commit, now);
                }
            }
            Target::Group(group) => self.end_offsets(&group, id, pid, epoch, commit),
        }
    }

    /// Something was decided whose markers are not all written: what is visible is then part of it.
    pub fn is_settling(&self) -> bool {
        self.transactions.values().any(|t| matches!(t.state, State::Prepared { .. }))
    }

    /// Transactions that are neither empty nor complete: for checks at the end of a run.
    pub fn unfinished(&self) -> Vec<&str> {
        let open = |t: &Transaction| matches!(t.state, State::Ongoing { .. } | State::Prepared { .. });
        self.transactions.iter().filter(|(_, t)| open(t)).map(|(id, _)| id.as_str()).collect()
    }
}
