//! Reads one partition: fetches are steps, named after the phase of a restart that they belong to.

use std::sync::Arc;
use std::time::Duration;

use tidewatch::log::{LogError, PollLimit, Reader, Record, TopicPartition};

use super::link::{Link, Mark, ns, unexpected, unreachable};
use crate::sim::broker::{Refusal, Request, Response};
use crate::sim::fate::Step;

/// Between two looks of a waiting poll.
const LOOK_NS: i64 = 10_000_000;

pub(super) struct SimReader {
    link: Arc<Link>,
    at: TopicPartition,
    position: i64,
    at_end: bool,
    mark: Mark,
    /// Since when nobody answers.
    doubt_since: Option<i64>,
}

impl SimReader {
    pub(super) fn new(link: &Arc<Link>, at: &TopicPartition, from: i64) -> Self {
        let mark = link.mark(at);
        Self { link: Arc::clone(link), at: at.clone(), position: from, at_end: false, mark, doubt_since: None }
    }

    fn step(&self) -> Step {
        if self.position < self.mark.snapshot.min(self.mark.committed) {
            Step::RestartRefillPoll
        } else if self.position < self.mark.committed {
            Step::RestartMutedPoll
        } else {
            Step::LivePoll
        }
    }

    /// One fetch; empty and not at its end when nobody answers, an error when that lasts.
    fn fetch(&mut self, limit: PollLimit) -> Result<Vec<Record>, LogError> {
        let request = Request::Fetch { at: self.at.clone(), from: self.position, limit };
        match self.link.ask(self.step(), &request, 0) {
            Some(Response::Batch(batch)) => {
                self.position = batch.next;
                self.at_end = batch.next >= batch.end;
                self.doubt_since = None;
                Ok(batch.records)
            }
            Some(Response::Refused(Refusal::OutOfRange(range))) => {
                self.at_end = false;
                let (at, wanted) = (self.at.clone(), self.position);
                Err(LogError::OutOfRange { at, wanted, start: range.start, end: range.end })
            }
            Some(Response::Refused(Refusal::UnknownTopic(topic))) => Err(LogError::UnknownTopic { topic }),
            Some(Response::Refused(Refusal::UnknownPartition(at))) => Err(LogError::UnknownPartition { at }),
            Some(other) => Err(unexpected("read", &other)),
            None => {
                self.at_end = false;
                let now = self.link.now();
                let since = *self.doubt_since.get_or_insert(now);
                if now - since >= ns(self.link.settings.times.reach) { Err(unreachable("read")) } else { Ok(Vec::new()) }
            }
        }
    }
}

impl Reader for SimReader {
    fn poll(&mut self, limit: PollLimit, timeout: Duration) -> Result<Vec<Record>, LogError> {
        let now = self.link.now();
        let deadline = now.saturating_add(ns(timeout));
        // The client's thread that fetches stood still, too: a poll finds what it knew before.
        if timeout.is_zero() && self.link.stood_still() {
            return Ok(Vec::new());
        }
        loop {
            let was_at_end = self.at_end;
            let records = self.fetch(limit)?;
            let now = self.link.now();
            if !records.is_empty() || (self.at_end && !was_at_end) || now >= deadline {
                return Ok(records);
            }
            self.link.sleep_until(deadline.min(now + LOOK_NS));
        }
    }

    fn position(&self) -> i64 {
        self.position
    }

    fn at_end(&self) -> bool {
        self.at_end
    }
}
