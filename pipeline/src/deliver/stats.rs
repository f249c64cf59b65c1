//! What a destination's thread tells the outside: counters and a status. Written by the thread, read by anyone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How a destination is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Not yet at work.
    Starting,
    /// Delivering, or waiting for signals.
    Running,
    /// Something is away; it is tried again.
    Retrying {
        /// What.
        reason: String,
    },
    /// Holds everything until it is resumed or restarted.
    Stopped {
        /// Why.
        reason: String,
    },
    /// Ended with the stage.
    Ended,
}

/// A destination's figures. Counters count since the stage started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationStats {
    /// Name.
    pub name: String,
    /// Status.
    pub status: Status,
    /// Signals that the other side has taken.
    pub delivered: u64,
    /// Attempts that have to be repeated, per signal.
    pub retried: u64,
    /// Signals put into the undelivered topic.
    pub set_aside: u64,
    /// Records that were nothing for this destination: replays, other tenants, tombstones.
    pub skipped: u64,
    /// Signals that retention had removed before they could be read; known only after a resume.
    pub lost: u64,
    /// Times the stage had to join its group anew.
    pub rejoined: u64,
    /// Records not yet done with; an upper bound where offsets have gaps.
    pub backlog: u64,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) set_aside: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) lost: AtomicU64,
    pub(super) rejoined: AtomicU64,
    pub(super) backlog: AtomicU64,
}

pub(super) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// Shared between a destination's thread and the handle.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) name: String,
    pub(super) counters: Counters,
    status: Mutex<Status>,
    stop: AtomicBool,
    resume: AtomicBool,
    /// Every partition was read to its end and nothing was pending, at the thread's last look.
    idle: AtomicBool,
    /// Looks taken: whoever waits for idleness waits for one that began after it asked.
    looks: AtomicU64,
}

impl Shared {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            counters: Counters::default(),
            status: Mutex::new(Status::Starting),
            stop: AtomicBool::new(false),
            resume: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            looks: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn status(&self) -> Status {
        self.lock().clone()
    }

    /// Sets the status, with one log line per change of kind: a destination away for an hour does not fill the log.
    pub(super) fn set_status(&self, status: Status) {
        let mut current = self.lock();
        let changed = std::mem::discriminant(&*current) != std::mem::discriminant(&status);
        match &status {
            Status::Stopped { reason } if changed => {
                tracing::error!(destination = %self.name, %reason, "destination stopped; signals are held");
            }
            Status::Retrying { reason } if changed => {
                tracing::warn!(destination = %self.name, %reason, "destination cannot be reached; trying again");
            }
            Status::Running if changed && *current != Status::Starting => {
                tracing::info!(destination = %self.name, "destination is delivering again");
            }
            _ => {}
        }
        *current = status;
    }

    pub(super) fn is_stopped(&self) -> bool {
        matches!(*self.lock(), Status::Stopped { .. })
    }

    pub(super) fn ask_stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    pub(super) fn stop_asked(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(super) fn ask_resume(&self) {
        self.resume.store(true, Ordering::Release);
    }

    pub(super) fn take_resume(&self) -> bool {
        self.resume.swap(false, Ordering::AcqRel)
    }

    pub(super) fn set_idle(&self, idle: bool) {
        self.idle.store(idle, Ordering::Release);
        self.looks.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn looks(&self) -> u64 {
        self.looks.load(Ordering::Acquire)
    }

    /// Idle at a look that began after `looks` was read: the one then under way may have begun before.
    pub(super) fn is_idle_since(&self, looks: u64) -> bool {
        self.looks() >= looks + 2 && self.idle.load(Ordering::Acquire)
    }

    pub(super) fn stats(&self) -> DestinationStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        DestinationStats {
            name: self.name.clone(),
            status: self.status(),
            delivered: read(&self.counters.delivered),
            retried: read(&self.counters.retried),
            set_aside: read(&self.counters.set_aside),
            skipped: read(&self.counters.skipped),
            lost: read(&self.counters.lost),
            rejoined: read(&self.counters.rejoined),
            backlog: read(&self.counters.backlog),
        }
    }
}
