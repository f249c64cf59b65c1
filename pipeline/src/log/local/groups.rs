//! Groups of a local log: who is a member, who holds which partition, and who may still commit.
//!
//! Placement is static: of the sorted partitions of all topics, number i belongs to member i modulo the member count. A
//! member that left for good gives its share to the rest. A partition changes hands only when its old holder has said so
//! by polling or leaving; no two members ever hold one partition.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::log::{Committed, LogError, Member, Membership, TopicPartition, Writer};

use super::state::{GROUP_MEMBERS_MAX, State};
use super::store::Store;
use super::writer::LocalWriter;
use super::{Inner, check};

/// One joining of one member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupSeat {
    pub(crate) group: String,
    member: String,
    generation: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
    last_generation: u64,
}

#[derive(Debug, Default)]
struct Group {
    /// Member name to its newest joining.
    members: BTreeMap<String, u64>,
    /// Holder of each partition.
    held: BTreeMap<TopicPartition, String>,
    /// Numbers of the members that left for good.
    gone: BTreeSet<u32>,
}

impl Groups {
    fn join(&mut self, group: &str, member: &Member) -> Option<GroupSeat> {
        let members: usize = self.groups.values().map(|g| g.members.len()).sum();
        let known = self.groups.get(group).is_some_and(|g| g.members.contains_key(&member.id));
        if !known && members >= GROUP_MEMBERS_MAX {
            return None;
        }
        self.last_generation += 1;
        let generation = self.last_generation;
        let of_group = self.groups.entry(group.to_owned()).or_default();
        of_group.members.insert(member.id.clone(), generation);
        of_group.held.retain(|_, holder| *holder != member.id);
        of_group.gone.remove(&member.index);
        Some(GroupSeat { group: group.to_owned(), member: member.id.clone(), generation })
    }

    fn is_current(&self, seat: &GroupSeat) -> bool {
        self.groups.get(&seat.group).and_then(|g| g.members.get(&seat.member)) == Some(&seat.generation)
    }

    fn leave(&mut self, seat: &GroupSeat, index: u32, for_good: bool) {
        if !self.is_current(seat) {
            return;
        }
        if let Some(group) = self.groups.get_mut(&seat.group) {
            group.members.remove(&seat.member);
            group.held.retain(|_, holder| *holder != seat.member);
            if for_good {
                group.gone.insert(index);
            }
        }
    }

    pub(crate) fn may_commit(&self, seat: &GroupSeat, offsets: &[(TopicPartition, Committed)]) -> Result<(), String> {
        if !self.is_current(seat) {
            return Err(format!("member {} of group {} has left or joined again", seat.member, seat.group));
        }
        let held = self.groups.get(&seat.group).map(|g| &g.held);
        for (at, _) in offsets {
            match held.and_then(|h| h.get(at)) {
                Some(holder) if *holder != seat.member => return Err(format!("{at} now belongs to member {holder}")),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives up what no longer belongs to the member and takes what is free. Returns all it holds; `None` when it is
    /// no longer a member.
    fn settle(&mut self, seat: &GroupSeat, member: &Member, partitions: &[TopicPartition]) -> Option<Vec<TopicPartition>> {
        if !self.is_current(seat) {
            return None;
        }
        let group = self.groups.get_mut(&seat.group)?;
        let target: BTreeSet<&TopicPartition> = share(partitions, member, &group.gone).collect();
        group.held.retain(|at, holder| *holder != seat.member || target.contains(at));
        for at in target {
            group.held.entry(at.clone()).or_insert_with(|| seat.member.clone());
        }
        Some(group.held.iter().filter(|(_, h)| **h == seat.member).map(|(at, _)| at.clone()).collect())
    }
}

/// The partitions that belong to a member.
fn share<'a>(
    partitions: &'a [TopicPartition],
    member: &Member,
    gone: &BTreeSet<u32>,
) -> impl Iterator<Item = &'a TopicPartition> {
    let of = member.of.max(1);
    let rest: Vec<u32> = (0..of).filter(|i| !gone.contains(i)).collect();
    let mut orphans = 0;
    let gone = gone.clone();
    let index = member.index;
    partitions
        .iter()
        .enumerate()
        .filter(move |(i, _)| {
            let home = (*i % of as usize) as u32;
            if !gone.contains(&home) || rest.is_empty() {
                return home == index;
            }
            orphans += 1;
            rest[(orphans - 1) % rest.len()] == index
        })
        .map(|(_, at)| at)
}

pub(crate) struct LocalMembership<S: Store> {
    log: Arc<Inner<S>>,
    seat: GroupSeat,
    member: Member,
    topics: Vec<String>,
    /// What the caller was last told.
    told: Option<Vec<TopicPartition>>,
    left: bool,
}

impl<S: Store> LocalMembership<S> {
    /// Joining under a name that is taken replaces its bearer.
    pub(crate) fn join(log: Arc<Inner<S>>, group: &str, topics: &[String], member: &Member) -> Result<Self, LogError> {
        check::id("join", group)?;
        check::id("join", &member.id)?;
        if member.index >= member.of || member.of as usize > GROUP_MEMBERS_MAX {
            return Err(LogError::Client { call: "join", reason: format!("member number {} of {}", member.index, member.of) });
        }
        let settled = log.commits();
        let seat = {
            let mut state = log.state();
            for topic in topics {
                state.topic(topic)?;
            }
            match state.groups.join(group, member) {
                Some(seat) => seat,
                None => {
                    state.stats.refused_limit += 1;
                    return Err(LogError::Client {
                        call: "join",
                        reason: format!("this log holds at most {GROUP_MEMBERS_MAX} group members"),
                    });
                }
            }
        };
        log.changed.notify_all();
        drop(settled);
        let topics = topics.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect();
        Ok(Self { log, seat, member: member.clone(), topics, told: None, left: false })
    }

    /// The whole new assignment, when it is not what the caller knows.
    fn look(&self, state: &mut State) -> Result<Option<Vec<TopicPartition>>, LogError> {
        let mut partitions = Vec::new();
        for name in &self.topics {
            let count = state.topic(name)?.spec.partitions;
            partitions.extend((0..count).map(|p| TopicPartition::new(name.clone(), p)));
        }
        let before = self.told.as_deref();
        match state.groups.settle(&self.seat, &self.member, &partitions) {
            Some(held) if before == Some(held.as_slice()) => Ok(None),
            Some(held) => Ok(Some(held)),
            None => Err(LogError::Client {
                call: "poll",
                reason: format!("another process joined group {} as member {}", self.seat.group, self.seat.member),
            }),
        }
    }

    fn go(&mut self, for_good: bool) {
        if self.left {
            return;
        }
        self.left = true;
        let settled = self.log.commits();
        self.log.state().groups.leave(&self.seat, self.member.index, for_good);
        self.log.changed.notify_all();
        drop(settled);
    }
}

impl<S: Store> Membership for LocalMembership<S> {
    fn poll(&mut self, timeout: Duration) -> Result<Option<Vec<TopicPartition>>, LogError> {
        let log = Arc::clone(&self.log);
        let mut outcome = Ok(None);
        let state = log.state();
        // A holder that gives a partition up polls between its epochs, so none of its commits is in flight.
        let waited = log.changed.wait_timeout_while(state, timeout, |state| {
            outcome = self.look(state);
            matches!(outcome, Ok(None))
        });
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        if let Ok(Some(held)) = &outcome {
            self.told = Some(held.clone());
            log.changed.notify_all();
        }
        outcome
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        Ok(Box::new(LocalWriter::open(Arc::clone(&self.log), id, Some(self.seat.clone()))?))
    }

    fn leave(mut self: Box<Self>, for_good: bool) -> Result<(), LogError> {
        self.go(for_good);
        Ok(())
    }
}

impl<S: Store> Drop for LocalMembership<S> {
    fn drop(&mut self) {
        self.go(false);
    }
}
