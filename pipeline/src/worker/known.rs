//! What a group has committed never goes back, and never lies beyond the end of its partition. Where it does, the topic is
//! another one of the same name, or somebody set the positions: nothing may be read then without being told to.
//!
//! Remembers what this process saw committed, because the brokers forget the positions of a deleted topic.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::{WorkerConfig, WorkerError};
use crate::log::TopicPartition;

/// How often a position above the end is asked for again before it is believed: a new leader may lag for a moment.
const END_CHECKS: u32 = 10;

/// Pause between two such questions.
const END_PAUSE: Duration = Duration::from_millis(200);

/// Highest committed offsets by stage and partition, at most one per partition that this process ever owned.
#[derive(Debug, Default)]
pub struct Known(Mutex<BTreeMap<(&'static str, TopicPartition), i64>>);

impl Known {
    /// An epoch has committed.
    pub(super) fn note(&self, stage: &'static str, at: &TopicPartition, offset: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = known.entry((stage, at.clone())).or_insert(offset);
        *highest = offset.max(*highest);
    }

    /// Compares what is committed with what was, and with the partition's end.
    pub(super) fn check(&self, config: &WorkerConfig, at: &TopicPartition, committed: Option<i64>) -> Result<(), WorkerError> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&(config.stage, at.clone())).copied();
        if let Some(known) = known.filter(|known| committed.is_none_or(|c| c < *known)) {
            let found = committed.map_or("now it has none".to_owned(), |c| format!("now it stands at {c}"));
            return Err(rewound(config, at, known, found));
        }
        let Some(committed) = committed else { return Ok(()) };
        let mut range = config.source.offsets(at)?;
        for _ in 1..END_CHECKS {
            if committed <= range.end {
                return Ok(());
            }
            std::thread::sleep(END_PAUSE);
            range = config.source.offsets(at)?;
        }
        if committed <= range.end {
            return Ok(());
        }
        Err(rewound(config, at, committed, format!("the partition holds {}..{}", range.start, range.end)))
    }
}

/// What a position outside the partition means.
pub(super) fn gone(config: &WorkerConfig, at: &TopicPartition, wanted: i64, start: i64, end: i64) -> WorkerError {
    if wanted < start {
        return WorkerError::Lost { task: format!("{} {at}", config.stage), from: wanted, to: start };
    }
    rewound(config, at, wanted, format!("the partition holds {start}..{end}"))
}

fn rewound(config: &WorkerConfig, at: &TopicPartition, committed: i64, found: String) -> WorkerError {
    WorkerError::Rewound {
        task: format!("{} {at}", config.stage),
        topic: at.topic.clone(),
        group: config.group.clone(),
        committed,
        found: found.into(),
    }
}
