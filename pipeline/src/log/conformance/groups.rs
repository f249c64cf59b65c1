//! Checks of groups: every partition has exactly one owner, and only the owner commits.

use std::collections::BTreeMap;

use crate::log::{CommitError, Member, Membership, TopicPartition};

use super::Check;
use super::fixture::{Broken, Fixture, Want, append, committed, expect, same};

const NOTHING: Want = Want { partition_bytes_max: None, gap_every: None };

pub(super) const CHECKS: &[Check] = &[
    Check { name: "three_members_share_all_partitions", want: NOTHING, applies: |c| c.groups, run: shared },
    Check {
        name: "the_rest_takes_over_from_a_member_that_left_for_good",
        want: NOTHING,
        applies: |c| c.groups && c.takes_over,
        run: taken_over,
    },
    Check {
        name: "a_member_that_returns_finds_its_partitions_and_positions",
        want: NOTHING,
        applies: |c| c.groups,
        run: returns,
    },
    Check { name: "a_member_that_joins_again_fences_its_former_self", want: NOTHING, applies: |c| c.groups, run: replaced },
];

/// A member and what it was last told.
struct Seat {
    membership: Box<dyn Membership>,
    held: Vec<TopicPartition>,
}

fn join(f: &Fixture, group: &str, topics: &[String], index: u32, of: u32) -> Result<Seat, Broken> {
    let member = Member { id: f.name(&format!("member-{index}")), index, of };
    Ok(Seat { membership: f.log.join(group, topics, &member)?, held: Vec::new() })
}

/// Polls in turn until the members hold every partition exactly once, and each of them at least one (the checks have more
/// partitions than members): where joining takes time, the old owners still hold everything at first.
fn settle(f: &Fixture, seats: &mut [Seat], all: &[TopicPartition]) -> Result<(), Broken> {
    let mut owners = BTreeMap::new();
    // Each look takes a step per member: three times the patience at most.
    for _ in 0..f.looks() {
        for seat in seats.iter_mut() {
            if let Some(held) = seat.membership.poll(f.step())? {
                expect(held.is_sorted(), || format!("assignment is not sorted: {held:?}"))?;
                seat.held = held;
            }
        }
        owners = BTreeMap::new();
        for at in seats.iter().flat_map(|s| &s.held) {
            *owners.entry(at.clone()).or_insert(0) += 1;
        }
        let each_holds = seats.iter().all(|s| !s.held.is_empty());
        if each_holds && owners.len() == all.len() && owners.values().all(|n| *n == 1) {
            return Ok(());
        }
    }
    Err(Broken::new(format!("{} partitions, owners: {owners:?}", all.len())))
}

fn all(topics: &[(String, u32)]) -> Vec<TopicPartition> {
    topics.iter().flat_map(|(t, n)| (0..*n).map(move |p| TopicPartition::new(t, p))).collect()
}

fn shared(f: &Fixture) -> Result<(), Broken> {
    let topics = [f.topic("a", 4)?, f.topic("b", 3)?];
    let all = all(&[(topics[0].clone(), 4), (topics[1].clone(), 3)]);
    let group = f.name("shared");
    let mut seats = (0..3).map(|i| join(f, &group, &topics, i, 3)).collect::<Result<Vec<_>, _>>()?;
    settle(f, &mut seats, &all)?;
    expect(seats.iter().all(|s| !s.held.is_empty()), || "a member holds nothing of 7 partitions".to_owned())?;
    let unchanged = seats[0].membership.poll(f.step())?;
    same("poll without a change", &unchanged, &None)?;
    seats.into_iter().try_for_each(|s| s.membership.leave(true)).map_err(Broken::from)
}

fn taken_over(f: &Fixture) -> Result<(), Broken> {
    let topics = [f.topic("a", 5)?];
    let all = all(&[(topics[0].clone(), 5)]);
    let group = f.name("taken");
    let mut seats = (0..3).map(|i| join(f, &group, &topics, i, 3)).collect::<Result<Vec<_>, _>>()?;
    settle(f, &mut seats, &all)?;
    let left = seats.remove(1);
    left.membership.leave(true)?;
    settle(f, &mut seats, &all)?;
    seats.push(join(f, &group, &topics, 1, 3)?);
    settle(f, &mut seats, &all)?;
    expect(seats.iter().all(|s| !s.held.is_empty()), || "the member that came back holds nothing".to_owned())?;
    seats.into_iter().try_for_each(|s| s.membership.leave(true)).map_err(Broken::from)
}

fn returns(f: &Fixture) -> Result<(), Broken> {
    let topics = [f.topic("in", 4)?];
    let all = all(&[(topics[0].clone(), 4)]);
    let group = f.name("returns");
    let records: Vec<_> = (0..4).map(|p| append(&topics[0], p, "x")).collect();
    f.log.writer(&f.name("feeder"))?.commit(&records, &[])?;
    let mut seats = (0..2).map(|i| join(f, &group, &topics, i, 2)).collect::<Result<Vec<_>, _>>()?;
    settle(f, &mut seats, &all)?;
    let seat = seats.remove(0);
    let at = seat.held[0].clone();
    seat.membership.writer(&f.name("task"))?.commit(&[], &[(at.clone(), committed(1, "here"))])?;
    let held = seat.held.clone();
    seat.membership.leave(false)?;
    same("the other's partitions while it is away", &seats[0].membership.poll(f.step())?, &None)?;
    seats.push(join(f, &group, &topics, 0, 2)?);
    settle(f, &mut seats, &all)?;
    same("its partitions", &seats[1].held, &held)?;
    same("its position", &f.log.committed(&group, &[at])?, &vec![Some(committed(1, "here"))])?;
    seats.into_iter().try_for_each(|s| s.membership.leave(true)).map_err(Broken::from)
}

fn replaced(f: &Fixture) -> Result<(), Broken> {
    let topics = [f.topic("in", 1)?];
    let all = all(&[(topics[0].clone(), 1)]);
    let group = f.name("replaced");
    f.log.writer(&f.name("feeder"))?.commit(&[append(&topics[0], 0, "x")], &[])?;
    let mut first = [join(f, &group, &topics, 0, 1)?];
    settle(f, &mut first, &all)?;
    let mut old = first[0].membership.writer(&f.name("task"))?;
    old.commit(&[], &[(all[0].clone(), committed(0, "old"))])?;
    let mut second = [join(f, &group, &topics, 0, 1)?];
    settle(f, &mut second, &all)?;
    let mut new = second[0].membership.writer(&f.name("task"))?;
    let outcome = old.commit(&[], &[(all[0].clone(), committed(1, "ghost"))]);
    expect(matches!(outcome, Err(CommitError::Fenced { .. })), || format!("replaced member's writer: {outcome:?}"))?;
    new.commit(&[], &[(all[0].clone(), committed(1, "new"))])?;
    same("position", &f.log.committed(&group, &all)?, &vec![Some(committed(1, "new"))])?;
    let [second] = second;
    second.membership.leave(true).map_err(Broken::from)
}
