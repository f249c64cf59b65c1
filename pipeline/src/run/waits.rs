//! Which workers wait, for what, since when: what people and probes are told while a job cannot go on.
//!
//! What always holds: a change is logged once, then rarely, however often it is tried; a worker that works has no entry.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tidewatch_schemas::time::EventTime;

use super::fault::Cause;

/// A wait that goes on is logged again after so long.
const SAID_EVERY: Duration = Duration::from_secs(300);

/// A worker that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waiting {
    /// Stage.
    pub stage: &'static str,
    /// Number of the worker in its stage.
    pub worker: u32,
    /// One word ([`Cause::name`]).
    pub cause: &'static str,
    /// The error in words.
    pub reason: String,
    /// What somebody can do.
    pub what_to_do: &'static str,
    /// Wall clock, nanoseconds since 1970, at the first failure.
    pub since: EventTime,
    /// Failures so far.
    pub tries: u32,
    #[serde(skip)]
    said: EventTime,
}

/// All workers of a run that wait: at most one entry a worker.
#[derive(Debug, Default)]
pub struct Waits(Mutex<BTreeMap<(&'static str, u32), Waiting>>);

impl Waits {
    /// Everybody who waits, by stage and number.
    pub fn all(&self) -> Vec<Waiting> {
        self.lock().values().cloned().collect()
    }

    /// True when a worker waits.
    pub fn has(&self, stage: &'static str, worker: u32) -> bool {
        self.lock().contains_key(&(stage, worker))
    }

    /// A worker failed, or is held up. Logs when that is news.
    pub(super) fn note(&self, stage: &'static str, worker: u32, cause: Cause, reason: String, now: EventTime) {
        let mut all = self.lock();
        let fresh = Waiting {
            stage,
            worker,
            cause: cause.name(),
            reason,
            what_to_do: cause.what_to_do(),
            since: now,
            tries: 1,
            said: now,
        };
        let Some(known) = all.get_mut(&(stage, worker)) else {
            tell(&fresh);
            all.insert((stage, worker), fresh);
            return;
        };
        let since = known.since;
        let due = now.since(known.said) >= SAID_EVERY.as_nanos() as i64;
        let changed = known.cause != fresh.cause;
        let (tries, said) = (known.tries.saturating_add(1), known.said);
        *known = Waiting { since, tries, said, ..fresh };
        if changed || due {
            known.said = now;
            tell(known);
        }
    }

    /// A worker works again.
    pub(super) fn over(&self, stage: &'static str, worker: u32, now: EventTime) {
        if let Some(was) = self.lock().remove(&(stage, worker)) {
            let waited_s = now.since(was.since) / 1_000_000_000;
            tracing::warn!(stage, worker, cause = was.cause, waited_s, tries = was.tries, "goes on");
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, u32), Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(w: &Waiting) {
    tracing::warn!(
        stage = w.stage,
        worker = w.worker,
        cause = w.cause,
        tries = w.tries,
        reason = %w.reason,
        to_do = w.what_to_do,
        "waiting"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_the_first_failure_and_the_reason_the_last() {
        let waits = Waits::default();
        waits.note("detect", 0, Cause::Unreachable, "a".into(), EventTime(10));
        waits.note("detect", 0, Cause::Denied, "b".into(), EventTime(20));
        waits.note("detect", 1, Cause::Missing, "c".into(), EventTime(30));
        let all = waits.all();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].since, all[0].reason.as_str(), all[0].cause, all[0].tries), (EventTime(10), "b", "denied", 2));
        waits.over("detect", 0, EventTime(40));
        assert!(!waits.has("detect", 0) && waits.has("detect", 1));
    }
}
