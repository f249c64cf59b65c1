//! A topology at work: makes its topics, builds the workers of each stage, and drives them, either on threads until
//! somebody says stop, or in lock step on one thread until the inputs have ended (backtests, scenarios).
//!
//! Both ways run the same workers over the same log door; what differs is who calls [`Worker::step`].

mod drive;
pub mod fault;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::address::Classifier;
use tidewatch_schemas::control::{Roster, RosterInput};
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::FORMATS;

use crate::correlate::{CorrelateConfig, CorrelateTask};
use crate::detect::slices::SliceLimits;
use crate::detect::{DetectConfig, DetectTask};
use crate::epoch::Ledger;
use crate::log::{Log, LogError, Member, PollLimit, TopicPartition, TopicSpec};
use crate::metrics::Metrics;
use crate::normalize::reject::RejectedTopic;
use crate::normalize::tenancy::{FileRegistry, RegistryError, Tenancy};
use crate::normalize::{InputConfig, NormalizeConfig, NormalizeTask};
use crate::rules::watch::Watch;
use crate::snapshot::{OUTPUT_VERSION, SnapshotStore};
use crate::status::Board;
use crate::telemetry::Telemetry;
use crate::time::input::InputTime;
use crate::topology::{self, Need, Registry, Stage, Topology};
use crate::worker::{Absent, Bound, Clock, Known, MakeTask, Pace, Recovery, Side, Step, Worker, WorkerConfig, WorkerError};

/// Marks read back from the control topic at a start, at most: enough to know where everybody is.
const CONTROL_TAIL: i64 = 10_000;

/// What can stop a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A worker.
    #[error("{stage}: {source}")]
    Worker {
        /// Stage.
        stage: &'static str,
        /// What happened.
        source: WorkerError,
    },
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A worker thread died of a bug.
    #[error("a {stage} thread panicked; this is a bug")]
    Panic {
        /// Stage.
        stage: &'static str,
    },
}

/// What the workers of one run share, for people and for each other.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Counts of committed epochs.
    pub ledger: Arc<Mutex<Ledger>>,
    /// How every task is.
    pub board: Arc<Board>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Workers that stop leave their groups for good.
    pub for_good: Arc<AtomicBool>,
    /// Offsets that this process saw committed.
    known: Arc<Known>,
    /// Per stage: it has finished.
    done: [Arc<AtomicBool>; 3],
    pace: Arc<Pace>,
    absent: Arc<Absent>,
    roster: Arc<Mutex<Roster>>,
}

/// How a topology is run.
pub struct Run {
    /// What is connected to what.
    pub topology: Topology,
    /// Enabled rules.
    pub rules: Vec<Rule>,
    /// Where inputs are read.
    pub source: Arc<dyn Log>,
    /// Where everything else lives.
    pub log: Arc<dyn Log>,
    /// Wall clock.
    pub clock: Clock,
    /// Where inputs are read from and to; empty = from their start (or what is committed) for ever.
    pub bounds: BTreeMap<TopicPartition, Bound>,
    /// Silences recorded by an earlier run.
    pub recorded: BTreeMap<TopicPartition, VecDeque<(i64, EventTime)>>,
    /// Rule versions known beforehand.
    pub versions: BTreeMap<EventTime, Vec<Rule>>,
    /// Where snapshots go.
    pub snapshots: Option<SnapshotStore>,
    /// Who writes and loads snapshots.
    pub side: Side,
    /// One poll.
    pub poll: PollLimit,
    /// Remove what the next stage has read, inputs excepted.
    pub trim: bool,
    /// Number of this process among its peers: part of its writers' ids.
    pub ordinal: u32,
    /// Who hears of epochs; `None` = nobody.
    pub telemetry: Option<Telemetry>,
    /// Version of this binary's outputs; another one only in tests.
    pub output_version: u32,
    /// Goes on from outputs of another version without comparing them, knowingly.
    pub accept_new_outputs: bool,
    /// Ids of topics as recorded ([`crate::topics`]); empty = nothing is compared with them.
    pub topics: BTreeMap<String, String>,
    /// A position in a topic that was deleted and made again is forgotten, knowingly.
    pub accept_new_topics: bool,
    /// A task that cannot go on stops alone and the others go on; otherwise the run stops.
    pub alone: bool,
    /// Waits at its start, too, for what is missing or refused, instead of saying so and ending.
    pub patient: bool,
    /// Detectors that rules may name; all of them, but for tests that bring their own.
    pub detectors: &'static [&'static Detector],
    /// Somebody asks why nothing is said of a host.
    pub watch: Option<Arc<Watch>>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run").field("source", &self.source).field("log", &self.log).finish_non_exhaustive()
    }
}

impl Run {
    /// A run for ever on one log, with its rules.
    pub fn new(topology: Topology, rules: Vec<Rule>, log: Arc<dyn Log>, clock: Clock) -> Self {
        Self {
            topology,
            rules,
            source: log.clone(),
            log,
            clock,
            bounds: BTreeMap::new(),
            recorded: BTreeMap::new(),
            versions: BTreeMap::new(),
            snapshots: None,
            side: Side::default(),
            poll: PollLimit::default(),
            trim: false,
            ordinal: 0,
            telemetry: None,
            output_version: OUTPUT_VERSION,
            accept_new_outputs: false,
            topics: BTreeMap::new(),
            accept_new_topics: false,
            alone: false,
            patient: false,
            detectors: tidewatch_operators::detectors::ALL,
            watch: None,
        }
    }

    /// Makes the topics that are ours to make.
    pub fn create_topics(&self) -> Result<(), LogError> {
        let inputs = self.topology.input_topics();
        for spec in inputs.iter().chain(&self.topology.internal_topics()) {
            self.log.create_topic(spec)?;
        }
        Ok(())
    }

    /// Names the topics of a source that is another log than the run's own, so that positions in them can be committed.
    pub fn mirror_inputs(&self) -> Result<(), RunError> {
        for input in &self.topology.inputs {
            let partitions = self.source.partitions(&input.topic)?;
            self.log.create_topic(&TopicSpec::new(input.topic.clone(), partitions))?;
        }
        for spec in self.topology.internal_topics() {
            self.log.create_topic(&spec)?;
        }
        Ok(())
    }

    /// What this process may need at its limits, with the partitions that its inputs have now.
    pub fn need(&self, stages: &[Stage]) -> Result<Need, LogError> {
        let mut partitions = 0;
        for input in self.topology.inputs.iter().filter(|_| stages.contains(&Stage::Normalize)) {
            partitions += u64::from(self.source.partitions(&input.topic)?);
        }
        Ok(Need::of(&self.topology, stages, partitions))
    }

    /// Fresh shared state. `bounded` inputs have an end, which passes down the stages.
    pub fn shared(&self) -> Shared {
        let bounded = !self.bounds.is_empty();
        Shared {
            ledger: Arc::default(),
            board: Arc::default(),
            metrics: Arc::default(),
            for_good: Arc::default(),
            known: Arc::new(Known::of(self.topics.clone())),
            done: [Arc::new(AtomicBool::new(bounded)), Arc::default(), Arc::default()],
            pace: Arc::new(Pace::new(self.topology.time.max_skew.as_nanos() as i64, self.lanes())),
            absent: Arc::new(Absent::new(self.topology.time.hold_at_most.map(|d| d.as_nanos() as i64))),
            roster: Arc::default(),
        }
    }

    /// One worker of a stage: number `index` of `of`.
    pub fn worker(&self, stage: Stage, index: u32, of: u32, shared: &Shared) -> Result<Worker, RunError> {
        let names = &self.topology.names;
        let group = names.group(stage);
        let writer_id = names.writer_id(stage, self.ordinal, index);
        let member = Member { id: writer_id.clone(), index, of };
        let at = |source: WorkerError| RunError::Worker { stage: stage.name(), source };
        let replay = || Recovery::Replay { snapshots: self.snapshots.clone(), every: self.topology.snapshots.every };
        let (topics, make, recovery): (Vec<String>, MakeTask, Recovery) = match stage {
            Stage::Normalize => (self.input_names(), self.make_normalize(shared)?, Recovery::Note),
            Stage::Detect => (vec![names.obs()], self.make_detect(), replay()),
            _ => (vec![names.findings()], self.make_correlate(), replay()),
        };
        let normalize = stage == Stage::Normalize;
        let control = if normalize { Some(self.control_tail()?) } else { None };
        let place = match stage {
            Stage::Normalize => 0,
            Stage::Detect => 1,
            _ => 2,
        };
        // Before anything is read: a topic that is gone is named, instead of a time-out at the first commit.
        let outputs = self.outputs(stage);
        for topic in &outputs {
            self.log.partitions(topic)?;
        }
        let membership = self.log.join(&group, &topics, &member)?;
        Worker::new(WorkerConfig {
            stage: stage.name(),
            source: if normalize { self.source.clone() } else { self.log.clone() },
            sink: self.log.clone(),
            membership,
            writer_id,
            group,
            make,
            recovery,
            epoch: self.topology.epoch,
            poll: self.poll,
            side: self.side,
            clock: self.clock.clone(),
            bounds: if normalize { self.bounds.clone() } else { BTreeMap::new() },
            pace: normalize.then(|| shared.pace.clone()),
            absent: normalize.then(|| (shared.absent.clone(), shared.roster.clone())),
            control,
            upstream_done: shared.done[place].clone(),
            ledger: shared.ledger.clone(),
            index,
            board: shared.board.clone(),
            metrics: shared.metrics.clone(),
            telemetry: self.telemetry.clone(),
            output_version: self.output_version,
            accept_new_outputs: self.accept_new_outputs,
            accept_new_topics: self.accept_new_topics,
            alone: self.alone,
            known: shared.known.clone(),
            outputs,
            eager: !self.bounds.is_empty(),
            trim: self.trim && !normalize,
        })
        .map_err(at)
    }

    /// Looks how many partitions the inputs have now. A partition that was added holds slices as soon as anybody's next
    /// mark names it.
    pub fn refresh_roster(&self, shared: &Shared) -> Result<(), LogError> {
        let mut inputs = Vec::new();
        for input in &self.topology.inputs {
            let lane = input.lane.as_ref().map(|l| l.tenant.clone());
            let partitions = self.source.partitions(&input.topic)?;
            inputs.push(RosterInput { topic: input.topic.clone(), partitions, lane });
        }
        let epoch = inputs.iter().map(|r| u64::from(r.partitions)).sum();
        *shared.roster.lock().unwrap_or_else(PoisonError::into_inner) = Roster::new(epoch, inputs);
        Ok(())
    }

    fn lanes(&self) -> BTreeMap<String, Option<String>> {
        self.topology.inputs.iter().map(|i| (i.topic.clone(), i.lane.as_ref().map(|l| l.tenant.clone()))).collect()
    }

    fn input_names(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.topology.inputs.iter().map(|i| i.topic.clone()).collect();
        if self.bounds.is_empty() {
            topics.push(self.topology.names.replayed());
        }
        topics
    }

    /// Topics that a stage writes.
    fn outputs(&self, stage: Stage) -> Vec<String> {
        let names = &self.topology.names;
        match stage {
            Stage::Normalize => vec![names.obs(), names.control(), names.rejected(), names.late()],
            Stage::Detect => vec![names.findings(), names.late()],
            _ => vec![names.signals(), names.shadow()],
        }
    }

    fn control_tail(&self) -> Result<Box<dyn crate::log::Reader>, RunError> {
        let at = TopicPartition::new(self.topology.names.control(), 0);
        let range = self.log.offsets(&at)?;
        Ok(self.log.reader(&at, range.start.max(range.end - CONTROL_TAIL))?)
    }

    fn make_normalize(&self, shared: &Shared) -> Result<MakeTask, RunError> {
        let topology = &self.topology;
        let names = &topology.names;
        let mut inputs = Vec::new();
        for input in &topology.inputs {
            let lane = input.lane.as_ref().map(|l| l.tenant.clone());
            let tenancy = match &input.tenancy {
                topology::Tenancy::Static(tenant) => Tenancy::Static(tenant.as_str().into()),
                topology::Tenancy::Verified { registry, strict } => Tenancy::Verified {
                    registry: match registry {
                        Registry::Open => None,
                        Registry::File(path) => Some(Arc::new(FileRegistry::open(path)?)),
                    },
                    strict: *strict,
                    lane: lane.as_deref().map(Arc::from),
                },
            };
            inputs.push(InputConfig {
                topic: input.topic.clone(),
                format: FORMATS.iter().find(|f| f.name == input.format.name).unwrap_or(&FORMATS[0]),
                time: InputTime {
                    lateness_ns: input.lateness.as_nanos() as i64,
                    max_future_ns: topology.time.max_future.as_nanos() as i64,
                    idle_after_ns: topology.time.idle_after.as_nanos() as i64,
                    slice_ns: topology.time.slice.as_nanos() as i64,
                },
                tenancy,
            });
        }
        let rejected = RejectedTopic {
            topic: names.rejected(),
            partitions: self.log.partitions(&names.rejected())?,
            record_bytes_max: topology
                .internal_topics()
                .into_iter()
                .find(|t| t.name == names.rejected())
                .map_or(1 << 20, |t| t.record_bytes_max),
        };
        self.refresh_roster(shared)?;
        let all = inputs.clone();
        let base = NormalizeConfig {
            inputs: Vec::new(),
            holds: true,
            slice_ns: topology.time.slice.as_nanos() as i64,
            obs: (names.obs(), topology.obs.partitions),
            control: names.control(),
            late: names.late(),
            rejected,
            classifier: Arc::new(Classifier::new(topology.internal.clone())),
            roster: shared.roster.clone(),
            absent: shared.absent.clone(),
            recorded: VecDeque::new(),
        };
        let recorded = self.recorded.clone();
        let (source, roster) = (self.source.clone(), shared.roster.clone());
        Ok(Box::new(move |at| {
            // Asked again for every task: a partition that was added since the start must stand on the roster that its own
            // task tells. Asked without the lock: an answer may take long.
            let now = |i: &InputConfig| source.partitions(&i.topic).unwrap_or(0);
            let now: BTreeMap<&str, u32> = all.iter().map(|i| (i.topic.as_str(), now(i))).collect();
            let mut known = roster.lock().unwrap_or_else(PoisonError::into_inner);
            let mut inputs = known.inputs.clone();
            for input in &mut inputs {
                let now = now.get(input.topic.as_str()).copied().unwrap_or(0);
                let own = if input.topic == at.topic { at.partition + 1 } else { 0 };
                input.partitions = input.partitions.max(now).max(own);
            }
            *known = Roster::new(inputs.iter().map(|r| u64::from(r.partitions)).sum(), inputs);
            drop(known);
            let own = all.iter().find(|i| i.topic == at.topic).cloned();
            let mut config = base.clone();
            config.holds = own.is_some();
            config.inputs = own.map_or_else(|| all.clone(), |i| vec![i]);
            config.recorded = recorded.get(at).cloned().unwrap_or_default();
            Box::new(NormalizeTask::new(at.clone(), config))
        }))
    }

    /// What a detect task is given.
    pub fn detect_config(&self) -> DetectConfig {
        let topology = &self.topology;
        DetectConfig {
            slice_ns: topology.time.slice.as_nanos() as i64,
            findings: (topology.names.findings(), topology.findings.partitions),
            late: topology.names.late(),
            obs_partitions: topology.obs.partitions,
            slices: self.slices(topology.limits.slice_bytes),
            state_bytes_max: usize::try_from(topology.limits.state_bytes).unwrap_or(usize::MAX),
            rules: self.rules.clone(),
            versions: self.versions.clone(),
            detectors: self.detectors,
            watch: self.watch.clone(),
        }
    }

    fn slices(&self, bytes_max: u64) -> SliceLimits {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        SliceLimits { bytes_max, spill_dir: self.topology.limits.spill_dir.clone() }
    }

    fn make_detect(&self) -> MakeTask {
        let config = self.detect_config();
        Box::new(move |at| Box::new(DetectTask::new(at.clone(), config.clone())))
    }

    fn make_correlate(&self) -> MakeTask {
        let config = CorrelateConfig {
            slice_ns: self.topology.time.slice.as_nanos() as i64,
            signals: (self.topology.names.signals(), self.topology.signals.partitions),
            shadow: self.topology.names.shadow(),
            source: self.topology.names.deployment().unwrap_or("tidewatch").to_owned(),
            state_bytes_max: usize::try_from(self.topology.limits.correlate_bytes).unwrap_or(usize::MAX),
            slices: self.slices(self.topology.limits.correlate_slice_bytes),
            detectors: self.detectors,
        };
        Box::new(move |at| Box::new(CorrelateTask::new(at.clone(), config.clone())))
    }

    fn threads(&self, stage: Stage) -> u32 {
        match stage {
            Stage::Normalize => self.topology.workers.normalize,
            Stage::Detect => self.topology.workers.detect,
            _ => self.topology.workers.correlate,
        }
    }

    /// Runs bounded inputs to their end on this thread. `after` is called between rounds, for progress and for reading
    /// signals as they come.
    pub fn lockstep(&self, shared: &Shared, mut after: impl FnMut() -> Result<(), LogError>) -> Result<(), RunError> {
        let mut stages = Vec::new();
        for (place, stage) in [Stage::Normalize, Stage::Detect, Stage::Correlate].into_iter().enumerate() {
            let of = self.threads(stage);
            let workers: Result<Vec<Worker>, RunError> = (0..of).map(|i| self.worker(stage, i, of, shared)).collect();
            stages.push((place, stage, workers?));
        }
        loop {
            let mut all_done = true;
            for (place, stage, workers) in &mut stages {
                let mut done = true;
                for worker in workers.iter_mut() {
                    let step = worker.step(Duration::ZERO).map_err(|source| RunError::Worker { stage: stage.name(), source })?;
                    done &= step == Step::Done;
                }
                if done && *place < 2 {
                    shared.done[*place + 1].store(true, Ordering::Release);
                }
                all_done &= done;
            }
            after()?;
            if all_done {
                return Ok(());
            }
        }
    }
}
