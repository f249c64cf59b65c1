//! The pace of normalize: a task pauses while its watermark is more than `max_skew` ahead of the lowest one published.
//! Pacing changes when a row is written, never what. One small map, touched once an epoch.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tidewatch_schemas::control::{Cause, Mark};
use tidewatch_schemas::time::EventTime;

use crate::log::TopicPartition;
use crate::task::Progress;

/// Published watermarks.
#[derive(Debug)]
pub struct Pace {
    max_skew_ns: i64,
    published: Mutex<BTreeMap<TopicPartition, EventTime>>,
}

impl Pace {
    /// Nobody has published yet.
    pub fn new(max_skew_ns: i64) -> Self {
        Self { max_skew_ns, published: Mutex::default() }
    }

    /// May the task read on?
    pub fn may_go(&self, at: &TopicPartition) -> bool {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(mine), Some(lowest)) = (published.get(at), published.values().min()) else { return true };
        mine.since(*lowest) <= self.max_skew_ns
    }

    /// A task of this process after an epoch.
    pub fn publish(&self, at: &TopicPartition, progress: Progress) {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        if progress.done {
            published.remove(at);
        } else if let Some(watermark) = progress.watermark {
            published.insert(at.clone(), watermark);
        }
    }

    /// A mark of another process, from the control topic.
    pub fn heard(&self, mark: &Mark) {
        let at = TopicPartition::new(mark.input.topic.clone(), mark.input.partition);
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        match mark.cause {
            Cause::End | Cause::Leave => drop(published.remove(&at)),
            Cause::Join => {}
            Cause::Rows | Cause::Silence => {
                let known = published.entry(at).or_insert(mark.watermark);
                *known = (*known).max(mark.watermark);
            }
        }
    }
}
