//! A topic is the one that it was, by its id; what a group has committed never goes back, and never lies beyond the end of
//! its partition. Where that does not hold, the topic is another one of the same name, or somebody set the positions: nothing
//! may be read then without being told to.
//!
//! Remembers what this process saw committed, and knows the ids that the deployment recorded ([`crate::topics`]), because the
//! brokers forget the positions of a deleted topic.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tidewatch_schemas::time::SECOND_NS;

use super::meta::Meta;
use super::{WorkerConfig, WorkerError};
use crate::log::{Committed, LogError, TopicPartition};

/// How often a position above the end is asked for again before it is believed: a new leader may lag for a moment.
const END_CHECKS: u32 = 10;

/// Pause between two such questions.
const END_PAUSE: Duration = Duration::from_millis(200);

/// Longest question for the id of a topic that is known again.
const ID_WAIT: Duration = Duration::from_millis(300);

/// So long such questions may stay without an answer.
const ANSWER_NS: i64 = 10 * SECOND_NS;

/// What this process knows of topics and of positions in them.
#[derive(Debug, Default)]
pub struct Known {
    /// Highest committed offsets by stage and partition, at most one per partition that this process ever owned.
    committed: Mutex<BTreeMap<(&'static str, TopicPartition), i64>>,
    /// Ids of the topology's topics, as recorded when the process started.
    topics: BTreeMap<String, String>,
}

impl Known {
    /// With the recorded ids of topics.
    pub fn of(topics: BTreeMap<String, String>) -> Self {
        Self { topics, ..Self::default() }
    }

    /// The id of a task's topic. An error when it is not the one in which the group worked; `committed` is emptied when that is
    /// meant (`--accept-new-topics`): a position in another topic is none.
    pub(super) fn check_topic(
        &self,
        config: &WorkerConfig,
        at: &TopicPartition,
        committed: &mut Option<Committed>,
    ) -> Result<Option<String>, WorkerError> {
        let Some(now) = config.source.topic_id(&at.topic)? else { return Ok(None) };
        let recreated = |was: &str, offset: Option<i64>| WorkerError::Recreated {
            task: format!("{} {at}", config.stage).into(),
            topic: at.topic.as_str().into(),
            group: config.group.as_str().into(),
            was: was.into(),
            now: now.as_str().into(),
            committed: offset.map_or(String::new(), |offset| format!(" and stands at offset {offset}")).into(),
        };
        // Recorded anew where it was meant, so this one changed under the running process, or nobody meant it.
        if let Some(was) = self.topics.get(&at.topic).filter(|was| **was != now) {
            return Err(recreated(was, committed.as_ref().map(|c| c.offset)));
        }
        let meta = committed.as_ref().and_then(|c| Some((c.offset, Meta::decode(&c.metadata)?.topic?)));
        if let Some((offset, was)) = meta.filter(|(_, was)| *was != now) {
            if !config.accept_new_topics {
                return Err(recreated(&was, Some(offset)));
            }
            tracing::warn!(stage = config.stage, task = %at, was, now, offset,
                "new topic accepted: the position in the old one is forgotten, the new one is read from its first record");
            *committed = None;
        }
        Ok(Some(now))
    }

    /// Whether a topic that the brokers did not know for a while is the one that it was, of this id; false while nobody says so.
    /// Where there are no ids, positions are compared.
    ///
    /// Waits for one short question, because a stage's other partitions wait behind it; when nobody has answered for long,
    /// the reason is asked for, and is an error.
    pub(super) fn is_itself(
        &self,
        config: &WorkerConfig,
        at: &TopicPartition,
        id: Option<&str>,
        waited_ns: i64,
    ) -> Result<bool, WorkerError> {
        let asked = if waited_ns < ANSWER_NS {
            config.source.topic_id_within(&at.topic, ID_WAIT)
        } else {
            config.source.topic_id(&at.topic)
        };
        match asked {
            Ok(now) if now.is_some() && now.as_deref() == id => return Ok(true),
            Ok(_) => {}
            Err(LogError::Unreachable { .. }) if waited_ns < ANSWER_NS => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let mut committed = config.sink.committed(&config.group, std::slice::from_ref(at))?.pop().flatten();
        self.check_topic(config, at, &mut committed)?;
        self.check(config, at, committed.map(|c| c.offset))?;
        Ok(true)
    }

    /// An epoch has committed.
    pub(super) fn note(&self, stage: &'static str, at: &TopicPartition, offset: i64) {
        let mut known = self.committed.lock().unwrap_or_else(PoisonError::into_inner);
        let highest = known.entry((stage, at.clone())).or_insert(offset);
        *highest = offset.max(*highest);
    }

    /// Compares what is committed with what was, and with the partition's end.
    pub(super) fn check(&self, config: &WorkerConfig, at: &TopicPartition, committed: Option<i64>) -> Result<(), WorkerError> {
        let known = self.committed.lock().unwrap_or_else(PoisonError::into_inner).get(&(config.stage, at.clone())).copied();
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
