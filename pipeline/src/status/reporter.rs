//! Puts a process's status together, and takes the wish that it stop: behind the HTTP server and the control socket.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch_schemas::time::EventTime;

use super::{Board, DestinationStatus, ProcessState, ProcessStatus};
use crate::deliver::{DestinationStats, Status, Watch};
use crate::log::Log;
use crate::log::socket::{SocketWatch, Voice};
use crate::metrics::{Metrics, table};
use crate::rules::reload::Reload;
use crate::topology::Stage;
use crate::worker::Clock;

/// What came of asking a process to drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrainAsked {
    /// It begins now.
    Begun,
    /// It had begun before.
    Already,
}

/// One process's voice.
pub struct Reporter {
    /// How tasks are.
    pub board: Arc<Board>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    log: Arc<dyn Log>,
    clock: Clock,
    ordinal: u32,
    stages: Vec<String>,
    started: EventTime,
    drain_within: Duration,
    delivery: Mutex<Watch>,
    socket: Mutex<Option<SocketWatch>>,
    reload: Mutex<Option<Reload>>,
    stop: Arc<AtomicBool>,
    for_good: Arc<AtomicBool>,
}

impl std::fmt::Debug for Reporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reporter").field("ordinal", &self.ordinal).field("stages", &self.stages).finish_non_exhaustive()
    }
}

impl Reporter {
    /// A process that starts now. `stop` ends it, `for_good` makes it give its place in the groups up.
    pub fn new(
        (board, metrics, log): (Arc<Board>, Arc<Metrics>, Arc<dyn Log>),
        clock: Clock,
        (ordinal, stages): (u32, &[Stage]),
        drain_within: Duration,
        (stop, for_good): (Arc<AtomicBool>, Arc<AtomicBool>),
    ) -> Self {
        let started = clock();
        for outcome in ["recorded", "unchanged", "refused"] {
            metrics.add(&table::RULE_RELOADS, &[outcome], 0);
        }
        let stages = stages.iter().map(|s| s.name().to_owned()).collect();
        Self {
            board,
            metrics,
            log,
            clock,
            ordinal,
            stages,
            started,
            drain_within,
            delivery: Mutex::default(),
            socket: Mutex::default(),
            reload: Mutex::default(),
            stop,
            for_good,
        }
    }

    /// The destinations are there.
    pub fn delivers(&self, watch: Watch) {
        *self.delivery.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    /// The control socket is open.
    pub fn listens(&self, watch: SocketWatch) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(watch);
    }

    /// Rules can be read again from here on.
    pub fn reloads(&self, reload: Reload) {
        *self.reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(reload);
    }

    /// Reads the rules again and proposes them. What came of it as JSON, or why they stay as they are; both are logged. One
    /// at a time.
    pub fn reload(&self) -> Result<String, String> {
        let reload = self.reload.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match reload.as_ref() {
            Some(reload) => reload.now((self.clock)()).map_err(|e| e.to_string()),
            None => Err("this process has not started yet".to_owned()),
        };
        match &outcome {
            Ok(done) => {
                self.metrics.add(&table::RULE_RELOADS, &[done.outcome], 1);
                tracing::info!(outcome = done.outcome, rule_set = done.rule_set, from = done.from, "rules read again");
                done.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            }
            Err(reason) => {
                self.metrics.add(&table::RULE_RELOADS, &["refused"], 1);
                tracing::error!(reason, "the rules cannot be taken up: those that are recorded go on");
            }
        }
        outcome.map(|done| serde_json::to_string(&done).expect("plain data with text keys"))
    }

    /// How everything is.
    pub fn status(&self) -> ProcessStatus {
        let (conditions, conditions_left_out) = self.board.conditions();
        let destinations = self.delivery.lock().unwrap_or_else(PoisonError::into_inner).stats();
        let stopping = self.stop.load(Ordering::Acquire);
        ProcessStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            ordinal: self.ordinal,
            stages: self.stages.clone(),
            state: if stopping { ProcessState::Draining } else { self.board.state() },
            started: self.started,
            now: (self.clock)(),
            drain_within_s: self.drain_within.as_secs(),
            control: self
                .socket
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .as_ref()
                .map(SocketWatch::stats)
                .unwrap_or_default(),
            settled: self.log.settled(),
            tasks: self.board.tasks(),
            conditions,
            conditions_left_out,
            destinations: destinations.into_iter().map(told).collect(),
        }
    }

    /// Everything in Prometheus's text format.
    pub fn metrics_text(&self) -> String {
        self.metrics.text(&self.status())
    }

    /// Stops the process as SIGTERM does.
    pub fn drain(&self, for_good: bool) -> DrainAsked {
        if for_good {
            self.for_good.store(true, Ordering::Release);
        }
        if self.stop.swap(true, Ordering::AcqRel) { DrainAsked::Already } else { DrainAsked::Begun }
    }
}

impl Voice for Reporter {
    fn status(&self) -> String {
        serde_json::to_string(&Self::status(self)).expect("plain data with text keys")
    }

    fn drain(&self, for_good: bool) -> bool {
        Self::drain(self, for_good) == DrainAsked::Begun
    }

    fn reload(&self) -> Result<String, String> {
        Self::reload(self)
    }
}

fn told(stats: DestinationStats) -> DestinationStatus {
    let (is, reason) = match stats.status {
        Status::Starting => ("starting", None),
        Status::Running => ("running", None),
        Status::Retrying { reason } => ("retrying", Some(reason)),
        Status::Stopped { reason } => ("stopped", Some(reason)),
        Status::Ended => ("ended", None),
    };
    DestinationStatus {
        name: stats.name,
        is: is.to_owned(),
        reason,
        delivered: stats.delivered,
        retried: stats.retried,
        set_aside: stats.set_aside,
        lost: stats.lost,
        backlog: stats.backlog,
    }
}
