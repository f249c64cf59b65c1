//! Removes old records of a local log. The start moves first, the records follow: a reader below it is told.

use tidewatch_schemas::time::EventTime;

use crate::log::{LogError, OffsetRange, TopicPartition};

use super::store::Store;
use super::{Inner, lock};

pub(crate) fn delete_before<S: Store>(log: &Inner<S>, at: &TopicPartition, offset: i64) -> Result<(), LogError> {
    let _one_at_a_time = lock(&log.trims);
    let (id, range) = {
        let state = log.state();
        let id = state.partition(at)?;
        (id, state.range(id))
    };
    if offset > range.end || offset < 0 {
        return Err(LogError::OutOfRange { at: at.clone(), wanted: offset, start: range.start, end: range.end });
    }
    move_start(log, id, range, offset).map(drop)
}

pub(crate) fn enforce_retention<S: Store>(log: &Inner<S>, now: EventTime) -> Result<u64, LogError> {
    let _one_at_a_time = lock(&log.trims);
    let kept: Vec<(u32, Option<u64>, Option<EventTime>)> = {
        let state = log.state();
        let limits = |t: &super::state::Topic| {
            let oldest = t.spec.retention_age.map(|age| now.minus(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)));
            (t.spec.retention_bytes, oldest)
        };
        state
            .topics
            .values()
            .flat_map(|t| (0..t.spec.partitions).map(move |p| (t.first + p, limits(t).0, limits(t).1)))
            .filter(|(_, bytes, age)| bytes.is_some() || age.is_some())
            .collect()
    };
    let mut removed = 0;
    for (id, bytes_max, oldest) in kept {
        let (range, held) = {
            let state = log.state();
            (state.range(id), state.bounds(id).bytes)
        };
        let mut over = bytes_max.map_or(0, |max| held.saturating_sub(max));
        // As in Kafka only a prefix goes: the first record that is to stay keeps all that follow.
        let mut keep = |timestamp: EventTime, bytes: u64| {
            let stays = over == 0 && oldest.is_none_or(|o| timestamp >= o);
            over = over.saturating_sub(bytes);
            stays
        };
        let start = log.store.first_kept(id, range, &mut keep)?.unwrap_or(range.end);
        removed += move_start(log, id, range, start)?;
    }
    Ok(removed)
}

fn move_start<S: Store>(log: &Inner<S>, id: u32, range: OffsetRange, start: i64) -> Result<u64, LogError> {
    if start <= range.start {
        return Ok(0);
    }
    log.store.set_start(id, start)?;
    log.state().bounds[id as usize].start = start;
    log.changed.notify_all();
    let (records, bytes) = log.store.remove(id, OffsetRange { start: range.start, end: start })?;
    let mut state = log.state();
    let held = &mut state.bounds[id as usize].bytes;
    *held = held.saturating_sub(bytes);
    state.stats.removed += records;
    Ok(records)
}
