//! What is wrong, in a fixed list of causes, each with whether the process is still ready and what a person can do.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

/// Causes. A new one is a variant, a line in each of the tables below, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Brokers, or the disk of a log, do not answer.
    Unreachable,
    /// Credentials or rights were refused.
    Denied,
    /// A topic or a partition is gone.
    TopicMissing,
    /// A partition of the log is at its limit and its readers are behind.
    LogFull,
    /// The local disk is full: log, spill files or snapshots.
    DiskFull,
    /// The object store does not take or give snapshots.
    SnapshotStore,
    /// A task has stopped for good.
    TaskStopped,
    /// More tasks were given to this process than its memory holds.
    Memory,
    /// A destination does not take signals.
    Destination,
    /// The group has not given this process its tasks yet.
    Group,
    /// Epochs are lost again and again.
    Commit,
    /// An input was silent for `hold_at_most` and is gone on without.
    WithoutInput,
    /// State was dropped at the task's limit.
    Evicted,
    /// Told to stop; leaves when the last epoch and snapshot are through.
    Draining,
    /// Anything else that stops a stage, in its words.
    Other,
}

impl Cause {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::Unreachable,
        Self::Denied,
        Self::TopicMissing,
        Self::LogFull,
        Self::DiskFull,
        Self::SnapshotStore,
        Self::TaskStopped,
        Self::Memory,
        Self::Destination,
        Self::Group,
        Self::Commit,
        Self::WithoutInput,
        Self::Evicted,
        Self::Draining,
        Self::Other,
    ];

    /// Name in JSON and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::TopicMissing => "topic_missing",
            Self::LogFull => "log_full",
            Self::DiskFull => "disk_full",
            Self::SnapshotStore => "snapshot_store",
            Self::TaskStopped => "task_stopped",
            Self::Memory => "memory",
            Self::Destination => "destination",
            Self::Group => "group",
            Self::Commit => "commit",
            Self::WithoutInput => "without_input",
            Self::Evicted => "evicted",
            Self::Draining => "draining",
            Self::Other => "other",
        }
    }

    /// What a person can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unreachable => {
                "look whether the brokers are up and reachable from here; it goes on by itself when they are back"
            }
            Self::Denied => "look at the credentials and ACLs of this principal; secrets are read again at the next attempt",
            Self::TopicMissing => "restore the topic, or start the process again: it makes those that are its own",
            Self::LogFull => "look at who reads that topic: it is behind, stopped, or its limit is too small",
            Self::DiskFull => "free space on the disk that is named; it goes on by itself",
            Self::SnapshotStore => {
                "look at the object store and its credentials; epochs go on, a restart takes longer until then"
            }
            Self::TaskStopped => "read its words: they name the command that gathers what is needed",
            Self::Memory => "start another process, or give this one more memory",
            Self::Destination => "look at the destination and its credentials; its signals wait, the others are not held up",
            Self::Group => "look whether other members of the group hang, and at the group's coordinator",
            Self::Commit => "look for a second process with the same --ordinal, and at the brokers' transaction coordinator",
            Self::WithoutInput => "bring the input back; it counts again with its next mark",
            Self::Evicted => {
                "raise limits.state_bytes (correlate: limits.correlate_bytes), or spread the hosts over more partitions"
            }
            Self::Draining => "wait: it leaves by itself",
            Self::Other => "read its words",
        }
    }

    /// The process counts as ready although this is so: it slows nothing down that another process could do better.
    pub fn is_ready(self) -> bool {
        matches!(self, Self::Destination | Self::WithoutInput | Self::Evicted | Self::SnapshotStore)
    }
}

/// Something that is not as it should be, now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// What kind of thing.
    pub cause: Cause,
    /// Whom it is about: `detect`, `detect tidewatch.obs/3`, `destination splunk`.
    pub about: String,
    /// In words.
    pub reason: String,
    /// Since when, by this process's clock.
    pub since: EventTime,
}
