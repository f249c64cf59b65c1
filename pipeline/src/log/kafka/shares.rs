//! Whether a group's partitions are all dealt out: asked of its coordinator after every change.
//!
//! A cooperative group moves a partition in two rounds: the first takes it from one member, the second, which that member
//! asks for, gives it to another. A static member that dies between the two comes back to what it had, without a round, and
//! the partition stays nobody's until somebody comes or goes. What always holds: nothing is asked while the group stands as it
//! was found good; what is odd is acted upon only when nothing about it has changed for [`PATIENCE`], by one member after the other,
//! those with the least first, and ever more seldom. How evenly they are dealt is the assignor's business.

use std::time::{Duration, Instant};

use bytes::Buf;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::groups::GroupInfo;

use crate::log::TopicPartition;

/// Time from a change to the first question, and between two while it is odd.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// Longest time between two questions, while nobody answers.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(16);
/// Longest single question.
const ASK_WAIT: Duration = Duration::from_millis(300);
/// What is odd for so long is no round under way: giving a partition up waits for the end of an epoch.
const PATIENCE: Duration = Duration::from_secs(10);
/// The patience doubles with every attempt, so often.
const DOUBLINGS_MAX: u32 = 6;
/// Members of a large group do not wait for more than so many others.
const TURNS_MAX: u32 = 6;
/// Length of what a broker appends to a static member's name: a hyphen and a UUID.
const MEMBER_SUFFIX_BYTES: usize = 37;

/// What one member sees of its group.
#[derive(Debug)]
pub(super) struct Shares {
    topics: Vec<String>,
    /// When to ask; `None` = all was well, and nothing has changed since.
    due: Option<Instant>,
    /// Time to the question after.
    pause: Duration,
    /// What was odd, and since when.
    odd: Option<(Vec<Share>, Instant)>,
    attempts: u32,
}

/// What a member holds.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Share {
    /// Its name as the broker calls it.
    member: String,
    /// Sorted.
    held: Vec<TopicPartition>,
}

impl Shares {
    /// A member that has just asked to join.
    pub(super) fn new(topics: &[String]) -> Self {
        let due = Some(Instant::now() + LOOK_EVERY);
        Self { topics: topics.to_vec(), due, pause: LOOK_EVERY, odd: None, attempts: 0 }
    }

    /// This member was given something, or gave something up.
    pub(super) fn changed(&mut self) {
        (self.due, self.pause) = (Some(Instant::now() + LOOK_EVERY), LOOK_EVERY);
    }

    /// Asks, when it is time. True when the group needs another round and this member is the one to ask for it.
    pub(super) fn look<C: ConsumerContext>(&mut self, consumer: &BaseConsumer<C>, group: &str, instance: &str) -> bool {
        let now = Instant::now();
        if self.due.is_none_or(|due| now < due) {
            return false;
        }
        let Some((shares, partitions)) = ask(consumer, group, &self.topics) else {
            // Nobody answers, or a round is under way: what was odd before it says nothing any more.
            self.odd = None;
            self.due = Some(Instant::now() + self.pause);
            self.pause = (self.pause * 2).min(LOOK_EVERY_MAX);
            return false;
        };
        (self.due, self.pause) = (Some(Instant::now() + LOOK_EVERY), LOOK_EVERY);
        if is_dealt(&shares, partitions) {
            (self.due, self.odd, self.attempts) = (None, None, 0);
            return false;
        }
        match &self.odd {
            Some((same, since)) if *same == shares => {
                let turn = LOOK_EVERY * rank(&shares, instance).min(TURNS_MAX);
                if now.duration_since(*since) < PATIENCE * 2_u32.pow(self.attempts) + turn {
                    return false;
                }
                tracing::warn!(
                    group,
                    partitions,
                    held = ?shares.iter().map(|s| (&*s.member, s.held.len())).collect::<Vec<_>>(),
                    "the group's partitions are not dealt out: joining anew, for another round"
                );
                self.attempts = (self.attempts + 1).min(DOUBLINGS_MAX);
                self.odd = None;
                true
            }
            _ => {
                self.odd = Some((shares, now));
                false
            }
        }
    }
}

/// Everybody's shares and the number of partitions there are; `None` when nobody answers or the group is between rounds.
fn ask<C: ConsumerContext>(consumer: &BaseConsumer<C>, group: &str, topics: &[String]) -> Option<(Vec<Share>, usize)> {
    let groups = consumer.client().fetch_group_list(Some(group), ASK_WAIT).ok()?;
    let shares = shares_of(groups.groups().iter().find(|g| g.name() == group && g.state() == "Stable")?, topics)?;
    let mut partitions = 0;
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), ASK_WAIT).ok()?;
        let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none())?;
        partitions += found.partitions().len();
    }
    Some((shares, partitions))
}

/// What the members hold of the topics, by name of member.
fn shares_of(group: &GroupInfo, topics: &[String]) -> Option<Vec<Share>> {
    let mut shares = Vec::new();
    for member in group.members() {
        let mut held = assigned(member.assignment().unwrap_or_default())?;
        held.retain(|at| topics.iter().any(|topic| *topic == *at.topic));
        shares.push(Share { member: member.id().to_owned(), held });
    }
    shares.sort_by(|a, b| a.member.cmp(&b.member));
    Some(shares)
}

/// The partitions of a `ConsumerProtocolAssignment`: version; per topic its name and its partitions; data of the assignor.
/// `None` when it is something else. Nothing at all is no partition.
fn assigned(mut bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    let mut held = Vec::new();
    if bytes.is_empty() {
        return Some(held);
    }
    bytes.try_get_i16().ok()?;
    for _ in 0..bytes.try_get_i32().ok()? {
        let length = usize::try_from(bytes.try_get_i16().ok()?).ok()?;
        let topic = std::str::from_utf8(bytes.get(..length)?).ok()?;
        bytes.advance(length);
        for _ in 0..bytes.try_get_i32().ok()? {
            held.push(TopicPartition::new(topic, u32::try_from(bytes.try_get_i32().ok()?).ok()?));
        }
    }
    held.sort();
    Some(held)
}

/// Every partition has its member.
fn is_dealt(shares: &[Share], partitions: usize) -> bool {
    shares.iter().map(|share| share.held.len()).sum::<usize>() >= partitions
}

/// How many members come before this one when somebody has to join anew: those that hold less lose less.
fn rank(shares: &[Share], instance: &str) -> u32 {
    let is_own = |share: &Share| {
        let suffix = share.member.strip_prefix(instance);
        suffix.is_some_and(|suffix| suffix.starts_with('-') && suffix.len() == MEMBER_SUFFIX_BYTES)
    };
    let key = |share: &Share| (share.held.len(), share.member.clone());
    let own = shares.iter().find(|share| is_own(share)).map(key);
    let before = shares.iter().filter(|share| own.as_ref().is_none_or(|own| key(share) < *own)).count();
    u32::try_from(before).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(member: &str, held: &[u32]) -> Share {
        let held = held.iter().map(|p| TopicPartition::new("t", *p)).collect();
        Share { member: format!("{member}-6f0b2c1e-0d0b-4a6f-9d6e-3f5d2b6c7a10"), held }
    }

    #[test]
    fn what_nobody_holds_is_odd() {
        assert!(is_dealt(&[share("a", &[0, 2]), share("b", &[1])], 3));
        assert!(is_dealt(&[share("a", &[0]), share("b", &[])], 1));
        assert!(!is_dealt(&[share("a", &[0]), share("b", &[])], 2));
        // Members that read more topics than this one are uneven in its eyes, and rightly so.
        assert!(is_dealt(&[share("a", &[0, 1]), share("b", &[])], 2));
        assert!(!is_dealt(&[], 1));
    }

    #[test]
    fn who_holds_least_joins_anew_first() {
        let shares = [share("w-1", &[0, 1]), share("w-1-0", &[]), share("w-2", &[2])];
        assert_eq!([rank(&shares, "w-1-0"), rank(&shares, "w-2"), rank(&shares, "w-1")], [0, 1, 2]);
        assert_eq!(rank(&shares, "w-3"), 3);
    }

    #[test]
    fn an_assignment_is_read_and_anything_else_refused() {
        let mut bytes = vec![0, 1, 0, 0, 0, 1, 0, 4];
        bytes.extend(b"flow");
        bytes.extend([0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 3]);
        let held = vec![TopicPartition::new("flow", 3), TopicPartition::new("flow", 7)];
        assert_eq!(assigned(&bytes), Some(held));
        for cut in 1..bytes.len() {
            assert_eq!(assigned(&bytes[..cut]), None, "{cut}");
        }
        assert_eq!(assigned(&[]), Some(Vec::new()));
        assert_eq!(assigned(&[0, 1, 0x7f, 0xff, 0xff, 0xff]), None);
    }
}
