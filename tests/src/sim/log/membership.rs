//! A member of a group, as the Kafka log's: partitions change hands inside its poll and nowhere else.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidewatch::log::{LogError, Member, Membership, TopicPartition, Writer};

use super::client::SimClient;
use super::link::{Link, REQUEST_NS, ns};
use crate::sim::broker::{Refusal, Request, Response, Seat};
use crate::sim::fate::Step;

/// Between two looks of a waiting poll.
const LOOK_NS: i64 = 10_000_000;

/// What a member knows.
#[derive(Default)]
struct State {
    held: BTreeSet<TopicPartition>,
    /// Counts assignments and revocations.
    changes: u64,
    seat: Option<Seat>,
    /// The group has expelled it; the next poll says so.
    lost: bool,
    /// Another process joined under its name.
    replaced: bool,
}

/// A member, shared with its writers.
pub(super) struct Group {
    pub(super) name: String,
    state: Mutex<State>,
}

impl Group {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who it says that it is; the generation is the newest it has heard of.
    pub(super) fn seat(&self) -> Option<Seat> {
        self.state().seat.clone()
    }

    /// A heartbeat's answer.
    pub(super) fn heard(&self, answer: Option<Result<Seat, Refusal>>) {
        let mut state = self.state();
        match answer {
            None => {}
            // Expelled members join again only after their loss was told, so the generation stays what it was.
            Some(Ok(seat)) if !state.lost => state.seat = Some(seat),
            Some(Ok(_)) => {}
            Some(Err(Refusal::FencedInstance)) => state.replaced = true,
            Some(Err(_)) => state.lost = true,
        }
    }

    /// Whether it holds all these; `blind` = whatever it has heard of the group since.
    pub(super) fn holds(&self, mut at: impl Iterator<Item = TopicPartition>, blind: bool) -> bool {
        let state = self.state();
        (blind || (!state.lost && !state.replaced)) && at.all(|at| state.held.contains(&at))
    }

    pub(super) fn changes(&self) -> u64 {
        self.state().changes
    }
}

pub(super) struct SimMembership {
    link: Arc<Link>,
    group: Arc<Group>,
    instance: String,
    topics: Vec<String>,
    reported: BTreeSet<TopicPartition>,
}

impl SimMembership {
    /// Joins; when nobody answers, the next poll tries again.
    pub(super) fn join(link: &Arc<Link>, group: &str, topics: &[String], member: &Member) -> Self {
        let group = Arc::new(Group { name: group.to_owned(), state: Mutex::default() });
        link.add_member(&group);
        let instance = member.id.clone();
        let mut member = Self { link: Arc::clone(link), group, instance, topics: topics.to_vec(), reported: BTreeSet::new() };
        member.take_seat(REQUEST_NS);
        member
    }

    fn take_seat(&mut self, wait_ns: i64) {
        let (group, instance) = (self.group.name.clone(), self.instance.clone());
        let request = Request::Join { group, instance, topics: self.topics.clone() };
        if let Some(Response::Seat(seat)) = self.link.ask(Step::RestartJoin, &request, wait_ns) {
            self.group.state().seat = Some(seat);
        }
    }

    /// Takes over what the group says: gives up first, and says so.
    fn serve(&mut self, seat: &Seat) {
        for _ in 0..2 {
            let owned = self.group.state().held.clone();
            let request = Request::Serve { group: self.group.name.clone(), seat: seat.clone(), owned: owned.clone() };
            let assigned = match self.link.ask(Step::GroupPoll, &request, 0) {
                Some(Response::Assigned(assigned)) => assigned,
                Some(Response::Refused(refusal)) => return self.group.heard(Some(Err(refusal))),
                _ => return,
            };
            let mut state = self.group.state();
            let gives_up = owned.difference(&assigned).next().is_some();
            state.changes += u64::from(assigned != owned);
            state.held = assigned;
            if !gives_up {
                return;
            }
        }
    }

    fn look(&mut self) -> Result<(), LogError> {
        // What the background has heard is told first.
        self.link.beat();
        {
            let mut state = self.group.state();
            if state.replaced {
                let reason = format!("another member of group {} runs under the same name", self.group.name);
                return Err(LogError::Client { call: "group membership", reason });
            }
            if state.lost {
                // Told as an assignment of nothing; the next poll joins anew.
                state.lost = false;
                state.seat = None;
                state.changes += 1;
                state.held.clear();
                if !self.reported.is_empty() {
                    return Ok(());
                }
            }
        }
        match self.group.seat() {
            None => self.take_seat(0),
            Some(seat) => self.serve(&seat),
        }
        Ok(())
    }
}

impl Membership for SimMembership {
    fn poll(&mut self, timeout: Duration) -> Result<Option<Vec<TopicPartition>>, LogError> {
        let deadline = self.link.now().saturating_add(ns(timeout));
        loop {
            self.look()?;
            let held = self.group.state().held.clone();
            if held != self.reported {
                self.reported.clone_from(&held);
                return Ok(Some(held.into_iter().collect()));
            }
            let now = self.link.now();
            if now >= deadline {
                return Ok(None);
            }
            self.link.sleep_until(deadline.min(now + LOOK_NS));
        }
    }

    fn writer(&self, id: &str) -> Result<Box<dyn Writer>, LogError> {
        super::open(SimClient::new(&self.link, id, Some(&self.group)))
    }

    fn leave(self: Box<Self>, for_good: bool) -> Result<(), LogError> {
        if for_good && let Some(seat) = self.group.seat() {
            let request = Request::Leave { group: self.group.name.clone(), seat };
            // As the real client: asked for, and not insisted on.
            drop(self.link.ask(Step::GroupLeave, &request, REQUEST_NS));
        }
        Ok(())
    }
}
