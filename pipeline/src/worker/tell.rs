//! What a worker tells the outside: lines on the board, counts in the metrics. Once per epoch and per change, never per row.

use tidewatch_schemas::control::Mark;
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::Worker;
use crate::epoch::Ledger;
use crate::log::{Append, CommitError, Committed, LogError, TopicPartition};
use crate::metrics::table;
use crate::status::{Board, Cause, EpochFacts, about};
use crate::telemetry::Tasks;

/// What a slot counts for its worker to tell.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Records read since the worker last looked.
    pub records: u64,
    /// Timestamp of the last one.
    pub last: Option<EventTime>,
    /// When the task was begun, until it is live.
    pub restoring: Option<EventTime>,
    /// Keys that the task had dropped at its limit when the worker last looked.
    pub evicted: Option<u64>,
    /// When it last dropped some.
    pub evicted_at: Option<EventTime>,
}

/// A task that has dropped no key for so long is well again, ns.
const EVICTED_TOLD_NS: i64 = 600 * SECOND_NS;

/// An input that said nothing for `hold_at_most` is gone on without, or is back.
pub(super) fn tell_absent(board: &Board, mark: &Mark, gone: bool, now: EventTime) {
    let input = format!("{}/{}", mark.input.topic, mark.input.partition);
    if gone {
        board.raise(Cause::WithoutInput, &input, "not heard of for hold_at_most: slices close without it".to_owned(), now);
    } else {
        board.clear(Cause::WithoutInput, &input);
    }
}

impl Heard {
    /// Takes note of the keys that a task has dropped so far, and tells it while that goes on.
    fn evictions(&mut self, evicted: u64, about: &str, board: &Board, now: EventTime) {
        let before = self.evicted.replace(evicted).unwrap_or(evicted);
        if evicted > before {
            self.evicted_at = Some(now);
            let reason = match about.split_once(' ') {
                Some(("correlate", _)) => format!(
                    "{evicted} destinations, hosts and suppressions forgotten at limits.correlate_bytes or at a tenant's number, the longest \
                     silent first"
                ),
                _ => format!("{evicted} keys dropped at limits.state_bytes so far, the least recently touched first"),
            };
            board.raise(Cause::Evicted, about, reason, now);
        } else if self.evicted_at.is_some_and(|at| now.since(at) > EVICTED_TOLD_NS) {
            self.evicted_at = None;
            board.clear(Cause::Evicted, about);
        }
    }
}

/// Moments of one epoch, by the worker's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moments {
    /// It began.
    pub began: EventTime,
    /// Its commit began.
    pub closing: EventTime,
    /// Its commit returned.
    pub committed: EventTime,
}

fn seconds(from: EventTime, to: EventTime) -> f64 {
    to.since(from).max(0) as f64 / SECOND_NS as f64
}

/// Classes of failed commits.
const CLASSES: [&str; 6] = ["aborted", "fenced", "full", "too_large", "unreachable", "other"];

/// Reasons for changes of tasks.
const CHANGES: [&str; 5] = ["joined", "gained", "lost", "moved", "epoch_lost"];

/// A change of the tasks given to a worker.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    reason: &'static str,
    gained: usize,
    lost: usize,
}

/// Class of a failed commit, as the metrics name it.
fn class(error: &CommitError) -> &'static str {
    match error {
        CommitError::Aborted { .. } => "aborted",
        CommitError::Fenced { .. } => "fenced",
        CommitError::Full { .. } => "full",
        CommitError::TooLarge { .. } => "too_large",
        CommitError::Log(LogError::Unreachable { .. }) => "unreachable",
        CommitError::Log(_) => "other",
    }
}

impl Worker {
    /// An epoch has committed.
    pub(super) fn tell_epoch(
        &mut self,
        moments: Moments,
        appends: &[Append],
        offsets: &[(TopicPartition, Committed)],
        ledger: &Ledger,
    ) {
        let (metrics, stage) = (&self.config.metrics, self.config.stage);
        let (took_s, commit_s) = (seconds(moments.began, moments.committed), seconds(moments.closing, moments.committed));
        metrics.add(&table::EPOCHS, &[stage], 1);
        metrics.observe(&table::EPOCH_DURATION, &[stage], took_s);
        metrics.observe(&table::COMMIT_DURATION, &[stage], commit_s);
        metrics.add(&table::WRITTEN_RECORDS, &[stage], appends.len() as u64);
        let bytes: usize = appends.iter().filter_map(|a| a.value.as_ref()).map(bytes::Bytes::len).sum();
        metrics.add(&table::WRITTEN_BYTES, &[stage], bytes as u64);
        metrics.ledger(ledger);
        for (at, _) in offsets {
            self.config.board.epoch(stage, at, EpochFacts { at: moments.committed, took_s, commit_s });
        }
    }

    /// Writes every task's line.
    pub(super) fn publish(&mut self) {
        let now = (self.config.clock)();
        let (stage, worker) = (self.config.stage, self.config.index);
        for (at, slot) in &mut self.slots {
            let paced = !slot.finished && self.config.pace.as_ref().is_some_and(|p| !p.may_go(at));
            self.config.board.task(stage, at, |line| {
                slot.report(line);
                line.worker = worker;
                line.paced = paced;
                line.last_record = slot.heard.last.or(line.last_record);
                line.read(slot.heard.records, now);
            });
            let evicted = slot.progress().evicted;
            slot.heard.evictions(evicted, &about(stage, at), &self.config.board, now);
            self.config.metrics.add(&table::RECORDS_READ, &[stage], std::mem::take(&mut slot.heard.records));
            if slot.is_live()
                && let Some(began) = slot.heard.restoring.take()
            {
                self.config.metrics.add(&table::RESTORES, &[stage], 1);
                self.config.metrics.observe(&table::RESTORE_DURATION, &[stage], seconds(began, now));
            }
        }
    }

    /// A commit did not go through.
    pub(super) fn tell_failed(&self, error: &CommitError) {
        self.config.metrics.add(&table::COMMIT_FAILURES, &[self.config.stage, class(error)], 1);
        if let CommitError::Full { at, limit_bytes } = error {
            let reason = format!("{at} is full at {limit_bytes} bytes: its readers are behind");
            self.config.board.raise(Cause::LogFull, &self.about(), reason, (self.config.clock)());
        }
    }

    /// An epoch is lost with all that its tasks wrote.
    pub(super) fn trace_lost(&mut self, error: &CommitError, closing: EventTime) {
        if self.config.telemetry.is_none() {
            return;
        }
        let moments = Moments { began: self.epoch_began, closing, committed: (self.config.clock)() };
        for slot in self.slots.values_mut().filter(|s| s.moved()) {
            slot.trace(&self.config, moments, Some(class(error)));
        }
    }

    /// A full partition has room again.
    pub(super) fn tell_room(&self) {
        self.config.board.clear(Cause::LogFull, &self.about());
    }

    /// The worker waits for its first assignment. Its counters begin, so that nobody has to tell "never" from "not there".
    pub(super) fn tell_waiting(&self) {
        let (metrics, stage) = (&self.config.metrics, self.config.stage);
        CLASSES.iter().for_each(|class| metrics.add(&table::COMMIT_FAILURES, &[stage, class], 0));
        CHANGES.iter().for_each(|reason| metrics.add(&table::REBALANCES, &[stage, reason], 0));
        let reason = format!("group {} has not given this worker its tasks yet", self.config.group);
        self.config.board.raise(Cause::Group, &self.about(), reason, (self.config.clock)());
    }

    /// Every task that was given is on the board. `change`: what was given, and when, for whoever traces it.
    pub(super) fn tell_begun(&self, change: Option<(EventTime, Change)>) {
        self.config.board.clear(Cause::Group, &self.about());
        if let (Some(telemetry), Some((began, Change { reason, gained, lost }))) = (&self.config.telemetry, change) {
            let (stage, group, worker) = (self.config.stage, self.config.group.as_str(), self.config.index);
            let (began_ns, ended_ns) = (began.0, (self.config.clock)().0);
            telemetry.tasks(Tasks { stage, group, worker, reason, gained, lost, began_ns, ended_ns });
        }
    }

    /// The group has decided. What was gained stands on the board before it is begun: the process is not ready until then.
    pub(super) fn tell_assigned(&self, before: Option<&[TopicPartition]>, after: &[TopicPartition]) -> Option<Change> {
        let new: Vec<&TopicPartition> = after.iter().filter(|at| before.is_none_or(|b| !b.contains(at))).collect();
        new.iter().for_each(|at| self.config.board.task(self.config.stage, at, |_| {}));
        let gained = new.len();
        let lost = before.map_or(0, |b| b.iter().filter(|at| !after.contains(at)).count());
        let reason = match (before, gained, lost) {
            (None, ..) => "joined",
            (_, 0, 0) => return None,
            (_, _, 0) => "gained",
            (_, 0, _) => "lost",
            _ => "moved",
        };
        self.tell_rebalance(reason);
        tracing::info!(stage = self.config.stage, worker = self.config.index, reason, gained, lost, "tasks changed");
        Some(Change { reason, gained, lost })
    }

    pub(super) fn tell_rebalance(&self, reason: &'static str) {
        self.config.metrics.add(&table::REBALANCES, &[self.config.stage, reason], 1);
    }

    /// The worker leaves: its lines go.
    pub(super) fn tell_gone(&self) {
        for at in self.slots.keys().chain(self.stopped.keys()) {
            self.config.board.remove(self.config.stage, at);
        }
        self.config.board.clear_all(&self.about());
    }

    fn about(&self) -> String {
        format!("{} worker {}", self.config.stage, self.config.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_keys_are_told_while_they_are_dropped() {
        let (board, mut heard) = (Board::default(), Heard::default());
        let t = EventTime::from_secs;
        let told = || board.conditions().0.iter().map(|c| (c.cause, c.about.clone())).collect::<Vec<_>>();
        // What a restored state had dropped before is no news.
        heard.evictions(7, "detect obs/1", &board, t(0));
        assert!(told().is_empty());
        heard.evictions(9, "detect obs/1", &board, t(10));
        assert_eq!(told(), [(Cause::Evicted, "detect obs/1".to_owned())]);
        heard.evictions(9, "detect obs/1", &board, t(600));
        assert_eq!(told().len(), 1);
        heard.evictions(9, "detect obs/1", &board, t(611));
        assert!(told().is_empty());
    }
}
