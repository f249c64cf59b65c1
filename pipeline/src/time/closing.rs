//! When a slice is complete: who must have passed its end, and who is holding it up.
//!
//! A tenant with lanes of its own waits for those alone; every other tenant waits for all shared inputs. The roster only
//! grows (partitions are never taken away from a topic), except by a recorded leave, so rosters are merged, not compared.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidewatch_operators::planted::{self, Bug};
use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster};
use tidewatch_schemas::time::EventTime;

use super::ceil;

/// Whose slices: a lane's tenant, or everybody without a lane.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All tenants without lanes of their own.
    Shared,
    /// One tenant with lanes.
    Lane(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Heard {
    watermark: EventTime,
    ended: bool,
}

/// The marks heard so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Closing {
    /// Topic to (partitions, lane).
    roster: BTreeMap<String, (u32, Option<Arc<str>>)>,
    heard: BTreeMap<InputRef, Heard>,
    left: BTreeSet<InputRef>,
}

/// What holds a scope's next slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The partition.
    pub input: InputRef,
    /// Its watermark; `None` = never heard of.
    pub watermark: Option<EventTime>,
}

impl Closing {
    /// Takes a mark in.
    pub fn mark(&mut self, mark: &Mark) {
        self.roster(&mark.roster);
        match mark.cause {
            Cause::Leave => {
                self.left.insert(mark.input.clone());
                self.heard.remove(&mark.input);
                return;
            }
            // Whoever speaks is there, again or still.
            Cause::Join | Cause::Rows | Cause::Silence | Cause::End => drop(self.left.remove(&mark.input)),
        }
        let heard = self.heard.entry(mark.input.clone()).or_insert(Heard { watermark: EventTime::MIN, ended: false });
        heard.watermark = heard.watermark.max(mark.watermark);
        heard.ended |= mark.cause == Cause::End;
    }

    fn roster(&mut self, roster: &Roster) {
        for input in &roster.inputs {
            let lane = input.lane.as_deref().map(Arc::from);
            let known = self.roster.entry(input.topic.clone()).or_insert((input.partitions, lane));
            known.0 = known.0.max(input.partitions);
        }
    }

    /// The scope of a tenant.
    pub fn scope(&self, tenant: &str) -> Scope {
        let own = self.roster.values().find_map(|(_, lane)| lane.as_ref().filter(|l| &***l == tenant));
        own.map_or(Scope::Shared, |lane| Scope::Lane(lane.clone()))
    }

    /// All scopes of the roster.
    pub fn scopes(&self) -> BTreeSet<Scope> {
        self.roster.values().map(|(_, lane)| lane.clone().map_or(Scope::Shared, Scope::Lane)).collect()
    }

    fn waited_for<'a>(&'a self, scope: &'a Scope) -> impl Iterator<Item = (InputRef, Option<&'a Heard>)> + 'a {
        let member = move |lane: &Option<Arc<str>>| match (scope, lane) {
            (Scope::Shared, None) => true,
            (Scope::Lane(tenant), Some(lane)) => tenant == lane,
            _ => false,
        };
        self.roster
            .iter()
            .filter(move |(_, (_, lane))| member(lane))
            .flat_map(|(topic, (partitions, _))| {
                (0..*partitions).map(move |partition| InputRef { topic: topic.clone(), partition })
            })
            .filter(|input| !self.left.contains(input))
            .map(|input| {
                let heard = self.heard.get(&input);
                (input, heard)
            })
    }

    /// Every row before this moment is there. `MIN` while somebody on the roster has not spoken. Once all inputs have
    /// ended it is the end of the slice of the last row.
    pub fn bound(&self, scope: &Scope, slice_ns: i64) -> EventTime {
        let mut bound = EventTime::MAX;
        let mut last = EventTime::MIN;
        let mut any = false;
        for (_, heard) in self.waited_for(scope) {
            any = true;
            match heard {
                None if planted::is(Bug::RosterIncomplete) => {}
                None => return EventTime::MIN,
                Some(heard) if planted::is(Bug::OneUpstream) => last = last.max(heard.watermark),
                Some(heard) if heard.ended => last = last.max(heard.watermark),
                Some(heard) => bound = bound.min(heard.watermark),
            }
        }
        match (any, bound) {
            (false, _) => EventTime::MIN,
            (true, _) if planted::is(Bug::OneUpstream) => last,
            (true, EventTime::MAX) if planted::is(Bug::RosterIncomplete) && last == EventTime::MIN => EventTime::MIN,
            (true, EventTime::MAX) if last == EventTime::MIN => EventTime::MAX,
            (true, EventTime::MAX) => ceil(last, slice_ns),
            (true, bound) => bound,
        }
    }

    /// Every input of the scope has ended.
    pub fn ended(&self, scope: &Scope) -> bool {
        let mut any = false;
        for (_, heard) in self.waited_for(scope) {
            any = true;
            if !heard.is_some_and(|h| h.ended) {
                return false;
            }
        }
        any
    }

    /// Every input of the roster has ended.
    pub fn all_ended(&self) -> bool {
        let scopes = self.scopes();
        !scopes.is_empty() && scopes.iter().all(|s| self.ended(s))
    }

    /// The partition that holds the scope's next slice.
    pub fn holder(&self, scope: &Scope) -> Option<Holder> {
        self.waited_for(scope)
            .filter(|(_, heard)| !heard.is_some_and(|h| h.ended))
            .map(|(input, heard)| Holder { input, watermark: heard.map(|h| h.watermark) })
            .min_by_key(|h| h.watermark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidewatch_schemas::control::RosterInput;

    const S: i64 = 1_000_000_000;

    fn mark(topic: &str, partition: u32, s: i64, cause: Cause, inputs: &[(&str, u32, Option<&str>)]) -> Mark {
        let inputs = inputs
            .iter()
            .map(|(t, p, lane)| RosterInput { topic: (*t).into(), partitions: *p, lane: lane.map(Into::into) })
            .collect();
        Mark {
            input: InputRef { topic: topic.into(), partition },
            lane: None,
            watermark: EventTime::from_secs(s),
            cause,
            input_offset: 0,
            roster: Roster::new(1, inputs),
        }
    }

    #[test]
    fn a_slice_waits_for_everyone_on_the_roster() {
        let mut c = Closing::default();
        let roster = [("flow", 2, None)];
        c.mark(&mark("flow", 0, 100, Cause::Rows, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::MIN);
        assert_eq!(c.holder(&Scope::Shared).map(|h| (h.input.partition, h.watermark)), Some((1, None)));
        c.mark(&mark("flow", 1, 70, Cause::Silence, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(70));
    }

    #[test]
    fn a_new_partition_holds_until_it_speaks() {
        let mut c = Closing::default();
        c.mark(&mark("flow", 0, 100, Cause::Rows, &[("flow", 1, None)]));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(100));
        c.mark(&mark("flow", 0, 110, Cause::Rows, &[("flow", 2, None)]));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::MIN);
    }

    #[test]
    fn a_backlog_on_a_lane_holds_only_its_tenant() {
        let mut c = Closing::default();
        let roster = [("flow", 1, None), ("acme.flow", 1, Some("acme"))];
        c.mark(&mark("flow", 0, 100_000, Cause::Rows, &roster));
        c.mark(&mark("acme.flow", 0, 100, Cause::Rows, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(100_000));
        assert_eq!(c.scope("acme"), Scope::Lane("acme".into()));
        assert_eq!(c.bound(&c.scope("acme"), 10 * S), EventTime::from_secs(100));
    }

    #[test]
    fn the_end_of_all_inputs_closes_the_last_slice_and_no_more() {
        let mut c = Closing::default();
        let roster = [("a", 1, None), ("b", 1, None)];
        c.mark(&mark("a", 0, 33, Cause::End, &roster));
        c.mark(&mark("b", 0, 12, Cause::Rows, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(12));
        c.mark(&mark("b", 0, 14, Cause::End, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(40));
        assert!(c.all_ended());
    }

    #[test]
    fn a_leave_lets_go() {
        let mut c = Closing::default();
        let roster = [("a", 2, None)];
        c.mark(&mark("a", 0, 50, Cause::Rows, &roster));
        c.mark(&mark("a", 1, 0, Cause::Leave, &roster));
        assert_eq!(c.bound(&Scope::Shared, 10 * S), EventTime::from_secs(50));
    }
}
