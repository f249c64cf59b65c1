//! Who has not been heard of for too long. An upstream that cannot be reached holds its downstream without limit, unless
//! the topology says `hold_at_most`: then its partitions are taken off the roster by a recorded leave, reported as
//! degraded, and stand on it again with their next mark. A leave is written by every process that notices; that changes
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster};
use tidewatch_schemas::time::EventTime;

/// The inputs' last words, by the wall clock of this process.
#[derive(Debug)]
pub struct Absent {
    hold_ns: Option<i64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    heard: BTreeMap<InputRef, EventTime>,
    left: BTreeSet<InputRef>,
    overdue: Vec<InputRef>,
}

impl Absent {
    /// Nobody is missing yet; `None` = nobody ever is.
    pub fn new(hold_ns: Option<i64>) -> Self {
        Self { hold_ns, state: Mutex::default() }
    }

    /// A mark from the control topic. Says when it took an input away (`Some(true)`) or brought it back (`Some(false)`).
    pub fn heard(&self, mark: &Mark, now: EventTime) -> Option<bool> {
        self.hold_ns?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if mark.cause == Cause::Leave {
            state.left.insert(mark.input.clone()).then_some(true)
        } else {
            state.heard.insert(mark.input.clone(), now);
            state.left.remove(&mark.input).then_some(false)
        }
    }

    /// Looks who is overdue. Whoever is seen on the roster for the first time has from now on.
    pub fn look(&self, roster: &Roster, now: EventTime) {
        let Some(hold_ns) = self.hold_ns else { return };
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut overdue = Vec::new();
        for (input, _) in roster.partitions() {
            let heard = *state.heard.entry(input.clone()).or_insert(now);
            if now.since(heard) >= hold_ns && !state.left.contains(&input) {
                tracing::warn!(input = %format!("{}/{}", input.topic, input.partition), "not heard of for hold_at_most: goes on without it, degraded");
                overdue.push(input);
            }
        }
        state.overdue = overdue;
    }

    /// Who is overdue, for a leave to be written; each is given out once a look.
    pub fn overdue(&self) -> Vec<InputRef> {
        std::mem::take(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner).overdue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_schemas::control::RosterInput;

    fn mark(cause: Cause) -> Mark {
        let input = InputRef { topic: "flow".into(), partition: 1 };
        Mark { input, lane: None, watermark: EventTime::MIN, cause, input_offset: 0, roster: Roster::default() }
    }

    #[test]
    fn who_says_nothing_is_overdue_once_and_back_with_its_next_mark() {
        let roster = Roster::new(1, vec![RosterInput { topic: "flow".into(), partitions: 2, lane: None }]);
        let absent = Absent::new(Some(60_000_000_000));
        let t = EventTime::from_secs;
        absent.look(&roster, t(0));
        let other = Mark { input: InputRef { topic: "flow".into(), partition: 0 }, ..mark(Cause::Rows) };
        assert_eq!(absent.heard(&other, t(50)), None);
        absent.look(&roster, t(61));
        assert_eq!(absent.overdue(), vec![mark(Cause::Leave).input]);
        assert_eq!(absent.heard(&mark(Cause::Leave), t(61)), Some(true));
        assert_eq!(absent.heard(&mark(Cause::Leave), t(61)), None, "told by another process, too");
        absent.look(&roster, t(100));
        assert!(absent.overdue().is_empty());
        assert_eq!(absent.heard(&mark(Cause::Rows), t(100)), Some(false));
        absent.look(&roster, t(105));
        assert!(absent.overdue().is_empty());
    }
}
