//! Group coordinators: static members, cooperative rebalances, committed and pending offsets.
//!
//! A member's heartbeats and re-joins are its process's life ([`Broker::touch`]): the real client does both in the
//! background. What always holds: no partition is assigned to a member before its last one has given it up or was
//! expelled; offsets are taken only from who is a member in the group's generation.

use std::collections::{BTreeMap, BTreeSet};

use tidewatch::log::{Committed, TopicPartition};

use super::transactions::Target;
use super::{Broker, Part, Producer, Refusal, Response};

/// Who a member says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// `group.instance.id`.
    pub instance: String,
    /// Member id: another with every joining.
    pub member: u64,
    /// Generation.
    pub generation: i32,
}

/// One change of a group's committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// When.
    pub at_ns: i64,
    /// Group.
    pub group: String,
    /// Partition.
    pub partition: TopicPartition,
    /// Before.
    pub before: Option<i64>,
    /// Now.
    pub after: i64,
    /// Transactional id that moved it; `None` = outside a transaction.
    pub by: Option<String>,
}

struct Member {
    member: u64,
    seen_ns: i64,
    /// Has joined the coming generation.
    joined: bool,
    assigned: BTreeSet<TopicPartition>,
    /// Assigned, or not given up yet.
    holding: BTreeSet<TopicPartition>,
}

/// One group.
#[derive(Default)]
pub(super) struct Group {
    topics: BTreeSet<String>,
    generation: i32,
    preparing: bool,
    members: BTreeMap<String, Member>,
    committed: BTreeMap<TopicPartition, Committed>,
    /// Producer to the offsets of its open transaction.
    pending: BTreeMap<i64, BTreeMap<TopicPartition, Committed>>,
    /// Highest epoch of a producer.
    epochs: BTreeMap<i64, i32>,
}

impl Group {
    pub(super) fn reads(&self, topic: &str) -> bool {
        self.topics.contains(topic)
    }

    /// Sessions begin anew.
    pub(super) fn refresh(&mut self, now_ns: i64) {
        self.members.values_mut().for_each(|m| m.seen_ns = now_ns);
    }

    /// Who is expelled next, and when.
    pub(super) fn expires(&self, session_ns: i64) -> Option<(i64, &str)> {
        self.members.iter().map(|(i, m)| (m.seen_ns + session_ns, i.as_str())).min()
    }

    /// Everybody has to join again.
    pub(super) fn prepare(&mut self) {
        self.preparing = true;
        self.members.values_mut().for_each(|m| m.joined = false);
    }

    fn check(&self, seat: &Seat) -> Result<(), Refusal> {
        let member = self.members.get(&seat.instance).ok_or(Refusal::UnknownMember)?;
        if member.member != seat.member {
            return Err(Refusal::FencedInstance);
        }
        if seat.generation != self.generation { Err(Refusal::IllegalGeneration) } else { Ok(()) }
    }

    /// The next generation, when everybody has joined: sticky and even; what has to move is first given up by its holder.
    fn complete(&mut self, partitions: &[TopicPartition]) {
        if !self.preparing || self.members.is_empty() || self.members.values().any(|m| !m.joined) {
            return;
        }
        self.preparing = false;
        self.generation += 1;
        let mut order: Vec<String> = self.members.keys().cloned().collect();
        order.sort_by_key(|i| std::cmp::Reverse(self.members[i].holding.len()));
        let (least, more) = (partitions.len() / order.len(), partitions.len() % order.len());
        let mut free: BTreeSet<&TopicPartition> = partitions.iter().collect();
        let mut targets: Vec<BTreeSet<TopicPartition>> = Vec::new();
        for (i, instance) in order.iter().enumerate() {
            let quota = least + usize::from(i < more);
            let kept: BTreeSet<TopicPartition> =
                self.members[instance].holding.iter().filter(|at| free.contains(at)).take(quota).cloned().collect();
            free.retain(|at| !kept.contains(at));
            targets.push(kept);
        }
        let mut free = free.into_iter();
        for (i, target) in targets.iter_mut().enumerate() {
            let missing = least + usize::from(i < more) - target.len();
            target.extend(free.by_ref().take(missing).cloned());
        }
        for (instance, target) in order.iter().zip(targets) {
            let others = |at: &TopicPartition| self.members.iter().any(|(i, m)| i != instance && m.holding.contains(at));
            let assigned: BTreeSet<TopicPartition> = target.into_iter().filter(|at| !others(at)).collect();
            let Some(member) = self.members.get_mut(instance) else { continue };
            member.holding.extend(assigned.iter().cloned());
            member.assigned = assigned;
        }
    }

    fn seat(&self, instance: &str) -> Option<Seat> {
        let member = self.members.get(instance)?;
        Some(Seat { instance: instance.to_owned(), member: member.member, generation: self.generation })
    }
}

impl Broker {
    fn group(&mut self, name: &str) -> Result<&mut Group, Refusal> {
        self.groups.get_mut(name).ok_or(Refusal::UnknownMember)
    }

    /// Completes a rebalance that everybody has joined.
    fn complete(&mut self, name: &str) {
        let Some(group) = self.groups.get(name).filter(|g| g.preparing) else { return };
        let mut partitions = Vec::new();
        for topic in &group.topics {
            let count = self.topics.get(topic).map_or(0, |t| t.partitions.len() as u32);
            partitions.extend((0..count).map(|p| TopicPartition::new(topic, p)));
        }
        self.changes += 1;
        if let Some(group) = self.groups.get_mut(name) {
            group.complete(&partitions);
        }
    }

    /// Joins. A static member that returns takes its own place, at once and without a rebalance; its former self is fenced.
    pub(super) fn join(&mut self, name: String, instance: String, topics: Vec<String>) -> Result<Response, Refusal> {
        for topic in &topics {
            if !self.topics.contains_key(topic) {
                return Err(Refusal::UnknownTopic(topic.clone()));
            }
        }
        self.numbers += 1;
        let (member, now) = (self.numbers, self.now_ns);
        let group = self.groups.entry(name.clone()).or_default();
        let known_topics = group.topics.len();
        group.topics.extend(topics);
        let mut grows = group.topics.len() > known_topics;
        match group.members.get_mut(&instance) {
            Some(known) => {
                known.member = member;
                known.seen_ns = now;
                // Its former self holds nothing any more; what it had still to give up is free.
                grows |= known.holding != known.assigned;
                known.holding.clone_from(&known.assigned);
            }
            None => {
                let (assigned, holding) = (BTreeSet::new(), BTreeSet::new());
                group.members.insert(instance.clone(), Member { member, seen_ns: now, joined: true, assigned, holding });
                group.prepare();
            }
        }
        if grows {
            group.prepare();
        }
        if let Some(known) = group.members.get_mut(&instance) {
            known.joined = true;
        }
        self.complete(&name);
        let seat = self.groups.get(&name).and_then(|g| g.seat(&instance));
        seat.map(Response::Seat).ok_or(Refusal::UnknownMember)
    }

    /// A sign of life of a member: heartbeat, and the answer to a rebalance. Its seat as the group sees it now; `None` =
    /// nobody answers.
    pub fn touch(&mut self, now_ns: i64, name: &str, seat: &Seat) -> Option<Result<Seat, Refusal>> {
        self.advance(now_ns);
        (!self.is_away(Part::Groups)).then(|| self.beat(name, seat))
    }

    fn beat(&mut self, name: &str, seat: &Seat) -> Result<Seat, Refusal> {
        let now = self.now_ns;
        let member = self.group(name)?.members.get_mut(&seat.instance).ok_or(Refusal::UnknownMember)?;
        if member.member != seat.member {
            return Err(Refusal::FencedInstance);
        }
        member.seen_ns = now;
        member.joined = true;
        self.complete(name);
        self.group(name)?.seat(&seat.instance).ok_or(Refusal::UnknownMember)
    }

    /// Tells a member what it is assigned; `owned` is what it holds. Having given something up starts the next rebalance.
    pub(super) fn serve(&mut self, name: &str, seat: &Seat, owned: BTreeSet<TopicPartition>) -> Result<Response, Refusal> {
        let group = self.group(name)?;
        let member = group.members.get_mut(&seat.instance).ok_or(Refusal::UnknownMember)?;
        if member.member != seat.member {
            return Err(Refusal::FencedInstance);
        }
        let holding: BTreeSet<TopicPartition> = member.assigned.union(&owned).cloned().collect();
        let gave_up = member.holding.difference(&holding).next().is_some();
        member.holding = holding;
        let assigned = member.assigned.clone();
        if gave_up {
            group.prepare();
            if let Some(member) = group.members.get_mut(&seat.instance) {
                member.joined = true;
            }
            self.complete(name);
        }
        Ok(Response::Assigned(assigned))
    }

    pub(super) fn leave(&mut self, name: &str, seat: &Seat) -> Result<Response, Refusal> {
        let group = self.group(name)?;
        if group.members.get(&seat.instance).is_some_and(|m| m.member == seat.member) {
            self.expel(name, &seat.instance);
        }
        Ok(Response::Done)
    }

    /// A member is gone: the others share what it held.
    pub(super) fn expel(&mut self, name: &str, instance: &str) {
        let Some(group) = self.groups.get_mut(name) else { return };
        group.members.remove(instance);
        group.prepare();
    }

    /// Offsets of an open transaction. `None` for the seat is a client without group metadata, as before KIP-447.
    pub(super) fn txn_offsets(
        &mut self,
        producer: &Producer,
        name: &str,
        seat: Option<Seat>,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<Response, Refusal> {
        let group = self.groups.entry(name.to_owned()).or_default();
        if let Some(seat) = seat {
            group.check(&seat)?;
        }
        if producer.epoch < group.epochs.get(&producer.pid).copied().unwrap_or_default() {
            return Err(Refusal::ProducerFenced);
        }
        if !group.pending.contains_key(&producer.pid) {
            self.verify(producer, &Target::Group(name.to_owned()))?;
        }
        let group = self.group(name)?;
        group.epochs.insert(producer.pid, producer.epoch);
        group.pending.entry(producer.pid).or_default().extend(offsets);
        Ok(Response::Done)
    }

    /// Offsets outside a transaction.
    pub(super) fn commit_offsets(
        &mut self,
        name: &str,
        seat: &Seat,
        offsets: Vec<(TopicPartition, Committed)>,
    ) -> Result<Response, Refusal> {
        self.group(name)?.check(seat)?;
        for (at, committed) in offsets {
            self.move_to(name, at, committed, None);
        }
        Ok(Response::Done)
    }

    /// Stable offsets only: pending ones make the asker wait.
    pub(super) fn fetch_offsets(&mut self, name: &str, at: &[TopicPartition]) -> Result<Response, Refusal> {
        let Some(group) = self.groups.get(name) else { return Ok(Response::Committed(vec![None; at.len()])) };
        if group.pending.values().any(|pending| at.iter().any(|at| pending.contains_key(at))) {
            return Err(Refusal::UnstableOffsetCommit);
        }
        Ok(Response::Committed(at.iter().map(|at| group.committed.get(at).cloned()).collect()))
    }

    /// The marker of a transaction in the group's own partition.
    pub(super) fn end_offsets(&mut self, name: &str, id: &str, pid: i64, epoch: i32, commit: bool) {
        let Some(group) = self.groups.get_mut(name) else { return };
        let known = group.epochs.entry(pid).or_default();
        *known = (*known).max(epoch);
        let pending = group.pending.remove(&pid).unwrap_or_default();
        if commit {
            for (at, committed) in pending {
                self.move_to(name, at, committed, Some(id.to_owned()));
            }
        }
    }

    fn move_to(&mut self, name: &str, at: TopicPartition, committed: Committed, by: Option<String>) {
        let at_ns = self.now_ns;
        let Some(group) = self.groups.get_mut(name) else { return };
        self.changes += 1;
        let after = committed.offset;
        let before = group.committed.insert(at.clone(), committed).map(|c| c.offset);
        self.moved.push(Moved { at_ns, group: name.to_owned(), partition: at, before, after, by });
    }

    /// Every change of a committed offset so far, in order: for checks.
    pub fn moved(&self) -> &[Moved] {
        &self.moved
    }

    /// Committed offsets of a group, whatever is pending: for checks.
    pub fn committed(&self, group: &str) -> BTreeMap<TopicPartition, Committed> {
        self.groups.get(group).map(|g| g.committed.clone()).unwrap_or_default()
    }

    /// Who holds which partitions of a group, as the coordinator sees it; for checks.
    pub fn holders(&self, group: &str) -> BTreeMap<TopicPartition, String> {
        let members = self.groups.get(group).into_iter().flat_map(|g| &g.members);
        members.flat_map(|(i, m)| m.holding.iter().map(move |at| (at.clone(), i.clone()))).collect()
    }
}
