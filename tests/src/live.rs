//! A live run under a simulated clock, step by step on one thread: records come when the script says, workers may be
//! missing, crash, stop and start again. Nothing here waits for real time but snapshots, which are written on a thread.
//!
//! What always holds: time moves only by [`Live::round`] and [`Live::until`]; a crash drops workers as they are, a stop
//! ends them properly.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tidewatch::epoch::Ledger;
use tidewatch::log::{Log, PollLimit};
use tidewatch::run::{Run, Shared};
use tidewatch::snapshot::SnapshotStore;
use tidewatch::topology::{Stage, Topology};
use tidewatch::worker::{Clock, Step, Worker};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::scenario::{self, Layout, Message, Scenario, Signals};

/// The clock moves so far in a round: a quarter of an epoch and less.
const ROUND_NS: i64 = SECOND_NS / 4;

/// Rounds without anything to do after which a run has settled: longer than an epoch for each stage.
const SETTLED_ROUNDS: u32 = 12;

/// The three stages, in the order in which a record meets them.
const STAGES: [Stage; 3] = [Stage::Normalize, Stage::Detect, Stage::Correlate];

/// A live run.
pub struct Live {
    /// What the workers run.
    pub run: Run,
    /// Where everything lies.
    pub log: Arc<dyn Log>,
    /// Workers of each stage.
    pub layout: Layout,
    clock: Arc<AtomicI64>,
    shared: Shared,
    workers: BTreeMap<(Stage, u32), Worker>,
}

impl Live {
    /// All topics made, no worker started; the clock stands at `now`.
    pub fn new(scenario: &Scenario, layout: Layout, log: Arc<dyn Log>, now: EventTime) -> anyhow::Result<Self> {
        Self::with(scenario, scenario.topology(&layout), layout, log, now, None)
    }

    /// The same with a topology of its own and a place for snapshots.
    pub fn with(
        scenario: &Scenario,
        topology: Topology,
        layout: Layout,
        log: Arc<dyn Log>,
        now: EventTime,
        snapshots: Option<SnapshotStore>,
    ) -> anyhow::Result<Self> {
        let at = Arc::new(AtomicI64::new(now.0));
        let reads = at.clone();
        let clock: Clock = Arc::new(move || EventTime(reads.load(Ordering::Relaxed)));
        let mut run = Run::new(topology, scenario.rules.clone(), log.clone(), clock);
        run.detectors = scenario.detectors;
        run.snapshots = snapshots;
        run.poll = PollLimit { records: layout.poll_records, ..PollLimit::default() };
        // Inputs are the script's own: the log's clock must not stamp them.
        for spec in run.topology.internal_topics() {
            log.create_topic(&spec)?;
        }
        let shared = run.shared();
        Ok(Self { run, log, layout, clock: at, shared, workers: BTreeMap::new() })
    }

    /// The simulated moment.
    pub fn now(&self) -> EventTime {
        EventTime(self.clock.load(Ordering::Relaxed))
    }

    /// Starts a worker of a stage.
    pub fn start(&mut self, stage: Stage, index: u32) -> anyhow::Result<()> {
        let worker = self.run.worker(stage, index, self.layout.workers, &self.shared)?;
        self.workers.insert((stage, index), worker);
        Ok(())
    }

    /// Starts all workers that are not there.
    pub fn start_all(&mut self) -> anyhow::Result<()> {
        for stage in STAGES {
            for index in 0..self.layout.workers {
                if !self.workers.contains_key(&(stage, index)) {
                    self.start(stage, index)?;
                }
            }
        }
        Ok(())
    }

    /// One step of the worker whose turn is `turn`; the clock moves on by its share of a round.
    pub fn step(&mut self, turn: usize) -> anyhow::Result<Step> {
        let count = self.workers.len().max(1);
        self.clock.fetch_add(ROUND_NS / count as i64, Ordering::Relaxed);
        match self.workers.values_mut().nth(turn % count) {
            Some(worker) => Ok(worker.step(Duration::ZERO)?),
            None => Ok(Step::Idle),
        }
    }

    /// One step of every worker. True when one had something to do.
    pub fn round(&mut self) -> anyhow::Result<bool> {
        self.clock.fetch_add(ROUND_NS, Ordering::Relaxed);
        let mut busy = false;
        for worker in self.workers.values_mut() {
            busy |= worker.step(Duration::ZERO)? == Step::Busy;
        }
        Ok(busy)
    }

    /// Rounds until nothing is left to do.
    pub fn settle(&mut self) -> anyhow::Result<()> {
        let mut idle = 0;
        while idle < SETTLED_ROUNDS {
            idle = if self.round()? { 0 } else { idle + 1 };
        }
        Ok(())
    }

    /// Lets the time until `at` pass, seconds at a time: every second the workers have their rounds.
    pub fn until(&mut self, at: EventTime) -> anyhow::Result<()> {
        while self.now() < at {
            let next = self.now().plus(SECOND_NS).min(at);
            self.clock.fetch_max(next.minus(ROUND_NS).0, Ordering::Relaxed);
            self.round()?;
        }
        Ok(())
    }

    /// Lets so many seconds pass.
    pub fn pass(&mut self, secs: i64) -> anyhow::Result<()> {
        self.until(self.now().plus(secs * SECOND_NS))
    }

    /// Writes records now, as they are.
    pub fn write(&mut self, messages: &[&Message]) -> anyhow::Result<()> {
        scenario::append(&self.log, "script", self.layout.inputs, messages)
    }

    /// Writes each record at its own moment.
    pub fn play<'m>(&mut self, messages: impl IntoIterator<Item = &'m Message>) -> anyhow::Result<()> {
        for message in messages {
            self.until(message.at)?;
            self.write(&[message])?;
        }
        Ok(())
    }

    /// All workers are gone, as they are.
    pub fn crash(&mut self) {
        self.workers.clear();
    }

    /// All workers end their work properly and come back later.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        for (_, worker) in std::mem::take(&mut self.workers) {
            worker.stop(false)?;
        }
        Ok(())
    }

    /// Signals so far, byte for byte.
    pub fn published(&self) -> anyhow::Result<Signals> {
        scenario::published(&self.log, &self.run.topology.names.signals())
    }

    /// What the workers say of themselves.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Where the rows went, as far as this process knows.
    pub fn ledger(&self) -> Ledger {
        self.shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
