//! The pace of normalize: a task pauses while its watermark is more than `max_skew` ahead of the lowest one published
//! among the inputs that a slice waits for together: all shared ones, or the lanes of one tenant, so that a backlog on a
//! lane slows nobody else. Pacing changes when a row is written, never what. One small map, touched once an epoch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tidewatch_schemas::control::{Cause, Mark};
use tidewatch_schemas::time::EventTime;

use crate::log::TopicPartition;
use crate::task::Progress;
use crate::time::input::Peers;

/// What is known of a partition.
#[derive(Clone, Copy, Debug)]
struct Published {
    watermark: EventTime,
    /// It has rows; otherwise it is silent.
    active: bool,
}

/// Published watermarks.
#[derive(Debug)]
pub struct Pace {
    max_skew_ns: i64,
    /// Input topic to the tenant whose lane it is. Marks of other topics (an input that was taken out of the topology)
    /// hold nobody.
    lanes: BTreeMap<String, Option<String>>,
    published: Mutex<BTreeMap<TopicPartition, Published>>,
}

impl Pace {
    /// Nobody has published yet. `lanes` names every input topic, with the tenant whose lane it is.
    pub fn new(max_skew_ns: i64, lanes: BTreeMap<String, Option<String>>) -> Self {
        Self { max_skew_ns, lanes, published: Mutex::default() }
    }

    /// May the task read on?
    pub fn may_go(&self, at: &TopicPartition) -> bool {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = self.lanes.get(&at.topic);
        let together = published.iter().filter(|(other, _)| self.lanes.get(&other.topic) == lane);
        let lowest = together.map(|(_, p)| p.watermark).min();
        let (Some(mine), Some(lowest)) = (published.get(at), lowest) else { return true };
        mine.watermark.since(lowest) <= self.max_skew_ns
    }

    /// Where the others are that a slice waits for together with this one.
    pub fn peers(&self, at: &TopicPartition) -> Peers {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = self.lanes.get(&at.topic);
        let mut peers = Peers::default();
        for (_, known) in published.iter().filter(|(o, _)| *o != at && self.lanes.get(&o.topic) == lane) {
            if known.active {
                peers.active = Some(peers.active.map_or(known.watermark, |t| t.min(known.watermark)));
            } else {
                peers.silent = peers.silent.max(Some(known.watermark));
            }
        }
        peers
    }

    /// A task of this process after an epoch. `finished` = it will read no more.
    pub fn publish(&self, at: &TopicPartition, progress: Progress, finished: bool) {
        if !self.lanes.contains_key(&at.topic) {
            return;
        }
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if finished || progress.done {
            published.remove(at);
        } else if let Some(watermark) = progress.watermark {
            published.insert(at.clone(), Published { watermark, active: progress.active });
        }
    }

    /// A mark of another process, from the control topic.
    pub fn heard(&self, mark: &Mark) {
        if !self.lanes.contains_key(&mark.input.topic) {
            return;
        }
        let at = TopicPartition::new(mark.input.topic.clone(), mark.input.partition);
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match mark.cause {
            Cause::End | Cause::Leave => drop(published.remove(&at)),
            Cause::Join => {}
            Cause::Rows | Cause::Silence => {
                let active = mark.cause == Cause::Rows;
                let known = published.entry(at).or_insert(Published { watermark: mark.watermark, active });
                *known = Published { watermark: known.watermark.max(mark.watermark), active };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(topic: &str) -> TopicPartition {
        TopicPartition::new(topic, 0)
    }

    fn reached(s: i64) -> Progress {
        Progress { watermark: Some(EventTime::from_secs(s)), ..Progress::default() }
    }

    fn pace() -> Pace {
        let lanes = [("flow", None), ("dns", None), ("acme.flow", Some("acme".to_owned()))];
        Pace::new(300_000_000_000, lanes.map(|(t, l)| (t.to_owned(), l)).into())
    }

    #[test]
    fn who_is_ahead_waits_for_those_a_slice_waits_for() {
        let pace = pace();
        pace.publish(&at("flow"), reached(1000), false);
        pace.publish(&at("dns"), reached(100), false);
        assert!(!pace.may_go(&at("flow")) && pace.may_go(&at("dns")));
        pace.publish(&at("dns"), reached(100), true);
        assert!(pace.may_go(&at("flow")), "who reads no more holds nobody");
    }

    #[test]
    fn a_backlog_on_a_lane_slows_nobody_else() {
        let pace = pace();
        pace.publish(&at("flow"), reached(100_000), false);
        pace.publish(&at("acme.flow"), reached(100), false);
        assert!(pace.may_go(&at("flow")) && pace.may_go(&at("acme.flow")));
    }

    #[test]
    fn an_input_that_is_no_longer_there_holds_nobody() {
        let pace = pace();
        pace.publish(&at("flow"), reached(100_000), false);
        pace.publish(&at("gone"), reached(1), false);
        assert!(pace.may_go(&at("flow")));
    }
}
