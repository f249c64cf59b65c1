//! Reads one partition of a local log. Holds no lock between polls.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use crate::log::{LogError, OffsetRange, PollLimit, Reader, Record, TopicPartition};

use super::Inner;
use super::store::Store;

pub(crate) struct LocalReader<S> {
    log: Arc<Inner<S>>,
    at: TopicPartition,
    id: u32,
    position: i64,
    at_end: bool,
}

impl<S: Store> LocalReader<S> {
    pub(crate) fn open(log: Arc<Inner<S>>, at: &TopicPartition, from: i64) -> Result<Self, LogError> {
        let (id, range) = {
            let state = log.state();
            let id = state.partition(at)?;
            (id, state.range(id))
        };
        within(at, from, range)?;
        Ok(Self { log, at: at.clone(), id, position: from, at_end: false })
    }
}

impl<S: Store> Reader for LocalReader<S> {
    fn poll(&mut self, limit: PollLimit, timeout: Duration) -> Result<Vec<Record>, LogError> {
        let range = {
            let state = self.log.state();
            let waiting = self
                .log
                .changed
                .wait_timeout_while(state, timeout, |s| {
                    let range = s.range(self.id);
                    range.end <= self.position && range.start <= self.position
                })
                .unwrap_or_else(PoisonError::into_inner);
            waiting.0.range(self.id)
        };
        self.at_end = false;
        within(&self.at, self.position, range)?;
        if range.end == self.position {
            self.at_end = true;
            return Ok(Vec::new());
        }
        let wanted = OffsetRange { start: self.position, end: range.end };
        let records = self.log.store.read(self.id, wanted, limit)?;
        // The start may have moved while we read; then records may be missing from what we got.
        within(&self.at, self.position, self.log.state().range(self.id))?;
        let read_to = records.last().map_or(range.end, |r| r.offset + 1);
        let rest = OffsetRange { start: read_to, end: range.end };
        let one = PollLimit { records: 1, bytes: 1 };
        // Only gaps may remain: the position passes them, so that the end can be recognised.
        self.at_end = read_to >= range.end
            || (range.end - read_to <= GAP_LOOK_AHEAD && self.log.store.read(self.id, rest, one)?.is_empty());
        self.position = if self.at_end { range.end } else { read_to };
        Ok(records)
    }

    fn position(&self) -> i64 {
        self.position
    }

    fn at_end(&self) -> bool {
        self.at_end
    }
}

/// Local logs leave one offset free at a time; beyond that there is a record.
const GAP_LOOK_AHEAD: i64 = 1;

fn within(at: &TopicPartition, position: i64, range: OffsetRange) -> Result<(), LogError> {
    if position < range.start || position > range.end {
        return Err(LogError::OutOfRange { at: at.clone(), wanted: position, start: range.start, end: range.end });
    }
    Ok(())
}
