//! A process as it is now, and whether it is ready.

use serde::{Deserialize, Serialize};
use tidewatch_schemas::time::EventTime;

use super::{Condition, TaskStatus};
use crate::log::Settled;
use crate::log::socket::SocketStats;

/// How far the process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProcessState {
    /// Making topics, reading rules, joining.
    #[default]
    Starting,
    /// At work.
    Running,
    /// Told to stop: the last epoch and snapshot are under way.
    Draining,
}

/// A destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationStatus {
    /// Name.
    pub name: String,
    /// `starting`, `running`, `retrying`, `stopped` or `ended`.
    pub is: String,
    /// Why it is retrying or stopped.
    pub reason: Option<String>,
    /// Signals taken by the other side since the start.
    pub delivered: u64,
    /// Attempts that had to be repeated, per signal.
    pub retried: u64,
    /// Signals put into the undelivered topic.
    pub set_aside: u64,
    /// Signals gone by retention before they were read.
    pub lost: u64,
    /// Records not yet done with, at most.
    pub backlog: u64,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Version of the program.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// `--ordinal`.
    pub ordinal: u32,
    /// Stages it runs.
    pub stages: Vec<String>,
    /// How far it is.
    pub state: ProcessState,
    /// When it started, by its clock.
    pub started: EventTime,
    /// When this was told, by its clock.
    pub now: EventTime,
    /// `drain_within`: it is gone so many seconds after it was told to stop.
    #[serde(default)]
    pub drain_within_s: u64,
    /// Connections of its control socket.
    #[serde(default)]
    pub control: SocketStats,
    /// Commits of unclear outcome that were settled.
    #[serde(default)]
    pub settled: Settled,
    /// Its tasks, by stage and partition.
    pub tasks: Vec<TaskStatus>,
    /// What is wrong, oldest first.
    pub conditions: Vec<Condition>,
    /// Conditions that did not fit.
    pub conditions_left_out: u64,
    /// Destinations.
    pub destinations: Vec<DestinationStatus>,
}

/// A reason for not being ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NotReady {
    /// A cause's name, or a phase's.
    pub cause: String,
    /// Whom it is about.
    pub about: String,
    /// In words.
    pub reason: String,
    /// What to do.
    pub advice: String,
    /// Since when, RFC 3339; absent for a phase.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
}

impl ProcessStatus {
    /// Why the process should get no work yet, or no more; empty = ready.
    pub fn not_ready(&self) -> Vec<NotReady> {
        let mut reasons = Vec::new();
        let mut push = |cause: &str, about: &str, reason: String, advice: &str, since: Option<EventTime>| {
            reasons.push(NotReady {
                cause: cause.to_owned(),
                about: about.to_owned(),
                reason,
                advice: advice.to_owned(),
                since: since.map(EventTime::to_rfc3339),
            });
        };
        match self.state {
            ProcessState::Starting => push("starting", "process", "topics, rules and groups".into(), "wait", Some(self.started)),
            ProcessState::Draining => push("draining", "process", "told to stop".into(), super::Cause::Draining.advice(), None),
            ProcessState::Running => {}
        }
        for task in self.tasks.iter().filter(|t| !t.phase.is_ready()) {
            let about = format!("{} {}", task.stage, task.at());
            let advice = match task.phase {
                super::TaskPhase::Stopped { .. } => super::Cause::TaskStopped.advice(),
                super::TaskPhase::Waiting { .. } => super::Cause::Memory.advice(),
                _ => "wait",
            };
            push(task.phase.name(), &about, task.phase.words(self.now), advice, None);
        }
        for c in self.conditions.iter().filter(|c| !c.cause.is_ready()) {
            push(c.cause.name(), &c.about, c.reason.clone(), c.cause.advice(), Some(c.since));
        }
        reasons
    }
}
