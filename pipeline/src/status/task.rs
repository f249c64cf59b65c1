//! One task as it is now: where it stands in its partition, its phase, its last epoch, its snapshot.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::log::TopicPartition;
use crate::task::Progress;

/// Seconds over which a rate is smoothed.
const RATE_OVER_S: f64 = 5.0;

/// Steps of a restart, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStep {
    /// Reading the snapshot from the object store; progress in bytes.
    Load,
    /// Reading the rows of slices that were open at the snapshot again; progress in offsets.
    Refill,
    /// Re-processing with outputs muted, up to the committed offset; progress in offsets.
    Muted,
}

impl RestoreStep {
    /// Name, in metrics and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Refill => "refill",
            Self::Muted => "muted",
        }
    }
}

/// How far a task is on its way to work.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum TaskPhase {
    /// Given to this process and not begun: memory, or its turn.
    #[default]
    Assigned,
    /// Held back on purpose, until something is there.
    Waiting {
        /// For what, in words.
        reason: String,
    },
    /// Being brought back from a snapshot.
    Restoring {
        /// Which step.
        step: RestoreStep,
        /// Done of this step.
        done: u64,
        /// All of this step; 0 = not known.
        of: u64,
        /// When this step began.
        since: EventTime,
    },
    /// Taking part in epochs.
    Live,
    /// Stopped by something that a retry cannot heal; the others go on.
    Stopped {
        /// Why, and what to do, in words.
        reason: String,
    },
    /// Its input has ended.
    Finished,
}

impl TaskPhase {
    /// Every phase's name, in metrics: a task is in exactly one.
    pub const NAMES: &'static [&'static str] = &["assigned", "waiting", "load", "refill", "muted", "live", "stopped", "finished"];

    /// Name, in metrics and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Waiting { .. } => "waiting",
            Self::Restoring { step, .. } => step.name(),
            Self::Live => "live",
            Self::Stopped { .. } => "stopped",
            Self::Finished => "finished",
        }
    }

    /// Nothing is left to bring back.
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Live | Self::Finished)
    }

    /// Done of the running step, 0 to 1; `None` when nothing is being restored or its size is not known.
    pub fn fraction(&self) -> Option<f64> {
        match self {
            Self::Restoring { done, of, .. } if *of > 0 => Some((*done as f64 / *of as f64).min(1.0)),
            _ => None,
        }
    }

    /// Seconds left of the running step at the rate so far.
    pub fn left_s(&self, now: EventTime) -> Option<f64> {
        let Self::Restoring { done, of, since, .. } = self else { return None };
        let took_s = now.since(*since).max(0) as f64 / SECOND_NS as f64;
        (*done > 0 && *of > *done).then(|| took_s * (*of - *done) as f64 / *done as f64)
    }

    /// In words, for people.
    pub fn words(&self, now: EventTime) -> String {
        match self {
            Self::Assigned => "assigned, not begun".to_owned(),
            Self::Waiting { reason } => format!("waiting: {reason}"),
            Self::Restoring { step, .. } => {
                let what = match step {
                    RestoreStep::Load => "restoring: loading the snapshot",
                    RestoreStep::Refill => "restoring: refilling open slices",
                    RestoreStep::Muted => "restoring: re-processing",
                };
                let done = self.fraction().map(|f| format!(" {:.0} %", f * 100.0)).unwrap_or_default();
                let left = self.left_s(now).map(|s| format!(", about {s:.0} s left")).unwrap_or_default();
                format!("{what}{done}{left}")
            }
            Self::Live => "live".to_owned(),
            Self::Stopped { reason } => format!("stopped: {reason}"),
            Self::Finished => "finished".to_owned(),
        }
    }
}

/// A task's last committed epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochStatus {
    /// When it committed, by this process's clock.
    pub at: EventTime,
    /// From its first record to its commit, seconds.
    pub took_s: f64,
    /// Of which the commit, seconds.
    pub commit_s: f64,
}

/// How long a task took from its start to its first committed epoch, by parts, seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RestoreTimes {
    /// Asking for what is committed.
    pub committed_s: f64,
    /// Loading the snapshot beside the worker, from asking for it to the worker's taking it up; the next three are parts of it.
    pub load_s: f64,
    /// Reading objects.
    pub read_s: f64,
    /// Comparing digests.
    pub verify_s: f64,
    /// Taking up states.
    pub decode_s: f64,
    /// Opening the reader.
    pub open_s: f64,
    /// Refilling slices that were open.
    pub refill_s: f64,
    /// Re-processing in silence.
    pub muted_s: f64,
    /// From live to the first commit.
    pub commit_s: f64,
    /// All together.
    pub total_s: f64,
    /// Bytes of state loaded.
    pub bytes: u64,
}

/// A task's snapshots.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The one that a restart would begin with; `None` = none yet.
    pub current: Option<String>,
    /// When it was taken, by this process's clock; `None` = before this process started.
    pub at: Option<EventTime>,
    /// Bytes written for it.
    pub bytes: u64,
    /// Seconds from taking it to its last byte.
    pub took_s: f64,
    /// Attempts that failed since the process started.
    pub failures: u64,
    /// Snapshots that waited for memory that others of the process took, since it started.
    #[serde(default)]
    pub waited: u64,
    /// What failed last; `None` once one was written again.
    pub failed: Option<String>,
}

/// A task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Stage.
    pub stage: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Worker thread that drives it, among those of its stage in this process.
    pub worker: u32,
    /// Phase.
    pub phase: TaskPhase,
    /// Next offset to read.
    pub position: i64,
    /// Next offset by what is committed; `None` = nothing is.
    pub committed: Option<i64>,
    /// One past the last record that readers of committed records may see (last stable offset); `None` = not asked yet.
    pub stable_end: Option<i64>,
    /// One past the last record, those of open transactions too; equal to `stable_end` where the log does not tell.
    pub end: Option<i64>,
    /// Log's timestamp of the last record read; what is behind it is the lag in time.
    pub last_record: Option<EventTime>,
    /// Records read a second, over the last epochs.
    pub records_per_s: f64,
    /// Moment up to which that was counted.
    #[serde(skip)]
    counted: Option<EventTime>,
    /// The last fetch failed, with these words.
    pub unreachable: Option<String>,
    /// The last fetch showed that nothing more is there.
    pub at_end: bool,
    /// Paused because it is `max_skew` ahead of the others.
    pub paced: bool,
    /// What the task itself knows.
    pub progress: Progress,
    /// Last epoch.
    pub epoch: Option<EpochStatus>,
    /// Snapshots; `None` = this stage takes none.
    pub snapshot: Option<SnapshotStatus>,
    /// How long its last start took; `None` until its first epoch has committed.
    #[serde(default)]
    pub restored: Option<RestoreTimes>,
}

impl TaskStatus {
    pub(super) fn new(stage: &str, at: &TopicPartition) -> Self {
        Self {
            stage: stage.to_owned(),
            topic: at.topic.clone(),
            partition: at.partition,
            worker: 0,
            phase: TaskPhase::default(),
            position: 0,
            committed: None,
            stable_end: None,
            end: None,
            last_record: None,
            records_per_s: 0.0,
            counted: None,
            unreachable: None,
            at_end: false,
            paced: false,
            progress: Progress::default(),
            epoch: None,
            snapshot: None,
            restored: None,
        }
    }

    /// So many records more were read up to now.
    pub fn read(&mut self, records: u64, now: EventTime) {
        let Some(last) = self.counted.replace(now) else { return };
        let since_s = now.since(last).max(1_000_000) as f64 / SECOND_NS as f64;
        self.records_per_s += (records as f64 / since_s - self.records_per_s) * (since_s / RATE_OVER_S).min(1.0);
    }

    /// `topic/partition`.
    pub fn at(&self) -> String {
        format!("{}/{}", self.topic, self.partition)
    }

    /// Records that are there and not committed yet, by stable offsets; markers of transactions count.
    pub fn lag(&self) -> Option<i64> {
        let end = self.stable_end?;
        Some(if self.at_end { 0 } else { (end - self.committed.unwrap_or(self.position)).max(0) })
    }

    /// Records of open transactions: readers must wait for them.
    pub fn unstable(&self) -> i64 {
        self.end.zip(self.stable_end).map_or(0, |(end, stable)| (end - stable).max(0))
    }

    /// Seconds that its reading is behind the clock; 0 at the end. An upper bound where the producer paused.
    pub fn lag_s(&self, now: EventTime) -> Option<f64> {
        match self.last_record {
            _ if self.at_end => Some(0.0),
            Some(last) => Some(now.since(last).max(0) as f64 / SECOND_NS as f64),
            None => None,
        }
    }

    /// Seconds between the clock and the event time up to which it is complete.
    pub fn watermark_lag_s(&self, now: EventTime) -> Option<f64> {
        self.progress.watermark.filter(|w| *w != EventTime::MIN).map(|w| now.since(w).max(0) as f64 / SECOND_NS as f64)
    }
}
