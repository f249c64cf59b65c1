//! Commits epochs to a local log: checks everything, stores once, then publishes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidewatch_schemas::time::EventTime;

use crate::log::{Append, CommitError, Committed, LogError, Record, TopicPartition, Writer};

use super::groups::GroupSeat;
use super::settings::{RECORD_OVERHEAD_BYTES, Settings};
use super::state::{State, Summary};
use super::store::{Epoch, Placed, Store};
use super::{Inner, check};

pub(crate) struct LocalWriter<S> {
    log: Arc<Inner<S>>,
    id: String,
    number: u64,
    /// The membership it came from, if any.
    seat: Option<GroupSeat>,
}

impl<S: Store> LocalWriter<S> {
    /// Waits until a commit in flight is settled: what the new writer's owner reads afterwards is final.
    pub(crate) fn open(log: Arc<Inner<S>>, id: &str, seat: Option<GroupSeat>) -> Result<Self, LogError> {
        check::id("writer", id)?;
        let settled = log.commits();
        let number = log.state().open_writer(id)?;
        drop(settled);
        Ok(Self { log, id: id.to_owned(), number, seat })
    }

    fn fenced(&self, reason: impl Into<String>) -> CommitError {
        CommitError::Fenced { id: self.id.clone(), reason: reason.into() }
    }

    fn may_commit(&self, state: &State, offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        if !state.is_newest_writer(&self.id, self.number) {
            return Err(self.fenced("a newer writer of this id was opened"));
        }
        match &self.seat {
            Some(seat) => state.groups.may_commit(seat, offsets).map_err(|reason| self.fenced(reason)),
            None if offsets.is_empty() => Ok(()),
            None => Err(LogError::Unsupported { what: "committing offsets with a writer that belongs to no group" }.into()),
        }
    }
}

impl<S: Store> Writer for LocalWriter<S> {
    fn commit(&mut self, appends: &[Append], offsets: &[(TopicPartition, Committed)]) -> Result<(), CommitError> {
        check::offsets(offsets)?;
        let _settling = self.log.commits();
        let (epoch, summary) = {
            let mut state = self.log.state();
            let refused = match self.may_commit(&state, offsets) {
                Ok(()) => match prepare(&mut state, &self.log.settings, self.seat.as_ref(), appends, offsets) {
                    Ok(ready) => Ok(ready),
                    Err(e) => Err(e),
                },
                Err(e) => Err(e),
            };
            match refused {
                Ok(ready) => ready,
                Err(e) => {
                    match e {
                        CommitError::Fenced { .. } => state.stats.refused_fenced += 1,
                        CommitError::Full { .. } => state.stats.refused_full += 1,
                        CommitError::TooLarge { .. } => state.stats.refused_too_large += 1,
                        _ => {}
                    }
                    return Err(e);
                }
            }
        };
        self.log.store.write(epoch)?;
        self.log.state().publish(&summary);
        self.log.changed.notify_all();
        Ok(())
    }
}

/// Gives every record its place, or refuses the whole epoch.
fn prepare(
    state: &mut State,
    settings: &Settings,
    seat: Option<&GroupSeat>,
    appends: &[Append],
    offsets: &[(TopicPartition, Committed)],
) -> Result<(Epoch, Summary), CommitError> {
    let group = seat.map_or("", |s| s.group.as_str());
    for (at, _) in offsets {
        state.partition(at)?;
    }
    state.has_room_for(group, offsets)?;
    let mut epoch = Epoch { group: group.to_owned(), offsets: offsets.to_vec(), ..Epoch::default() };
    epoch.records.reserve(appends.len());
    let mut added: BTreeMap<u32, u64> = BTreeMap::new();
    let now = (settings.clock)();
    for append in appends {
        let topic = state.topic(&append.topic)?;
        if append.partition >= topic.spec.partitions {
            return Err(LogError::UnknownPartition { at: place(append) }.into());
        }
        let id = topic.first + append.partition;
        let limit_bytes = topic.spec.record_bytes_max;
        let bounds = epoch.bounds.entry(id).or_insert_with(|| state.bounds(id));
        let record = Record {
            offset: bounds.next,
            timestamp: if topic.spec.append_time { now } else { stamp(append, now) },
            key: append.key.clone(),
            value: append.value.clone(),
            headers: append.headers.clone(),
        };
        let bytes = record.size();
        if bytes > limit_bytes {
            return Err(CommitError::TooLarge { at: place(append), bytes, limit_bytes });
        }
        let cost = bytes as u64 + RECORD_OVERHEAD_BYTES;
        if bounds.bytes.saturating_add(cost) > settings.partition_bytes_max {
            return Err(CommitError::Full { at: place(append), limit_bytes: settings.partition_bytes_max });
        }
        bounds.bytes += cost;
        bounds.next += 1;
        bounds.since_gap += 1;
        if settings.gap_every.is_some_and(|n| bounds.since_gap >= n) {
            bounds.next += 1;
            bounds.since_gap = 0;
        }
        *added.entry(id).or_default() += cost;
        epoch.records.push(Placed { partition: id, record });
    }
    let summary = Summary::of(&epoch, added);
    Ok((epoch, summary))
}

fn stamp(append: &Append, now: EventTime) -> EventTime {
    append.timestamp.unwrap_or(now)
}

fn place(append: &Append) -> TopicPartition {
    TopicPartition::new(append.topic.clone(), append.partition)
}
