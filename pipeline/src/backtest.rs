//! Backtests: the live stages over bounded inputs, in lock step, in memory. The same code over the same rows gives the
//! same signals with the same ids as a live run.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::control::{Cause, Mark};
use tidewatch_schemas::signal::{Signal, from_json};
use tidewatch_schemas::time::EventTime;

use crate::epoch::Ledger;
use crate::input::{InputSpec, Range, RangeEnd, Sources, SpecError};
use crate::log::memory::MemoryLog;
use crate::log::{Log, LogError, PollLimit, Reader, TopicPartition};
use crate::rules::watch::Watch;
use crate::run::{Run, RunError};
use crate::task::Progress;
use crate::topology::{Input, LogChoice, Registry, Tenancy, Topology};
use crate::versions::{self, VersionError};
use crate::worker::{Bound, Clock};

/// Partitions of a backtest's findings and signals. Signals do not depend on partitions; findings are few.
const FINDINGS_PARTITIONS: u32 = 1;

/// Bytes of files for which obs has a partition each, where that is more than the topology says, up to [`OBS_PARTITIONS_MOST`]:
/// the states of all hosts together are more than the caches hold, those of a part are not, and a part works through some
/// slices at a time. Every slice is told of by every partition, which few rows do not repay.
const OBS_PARTITION_BYTES: u64 = 16 << 20;

/// See [`OBS_PARTITION_BYTES`].
const OBS_PARTITIONS_MOST: u64 = 32;

/// State that a part may hold at least: below it hosts would be forgotten for being in one part and not in another.
const OBS_PARTITION_STATE_BYTES: u64 = 64 << 20;

/// A log that has to be asked over a network hands its records out within so long, or is asked again.
const READ_WAIT: Duration = Duration::from_millis(200);

/// What a backtest runs over.
#[derive(Clone, Debug)]
pub struct BacktestConfig {
    /// Inputs.
    pub inputs: Vec<InputSpec>,
    /// Times, limits and, for topics, formats and tenants; `None` = defaults.
    pub topology: Option<Topology>,
    /// Tenant of inputs whose format carries none.
    pub tenant: Option<String>,
    /// Networks that count as internal, besides the private ranges.
    pub internal: Vec<IpNet>,
    /// Rules: those of files, and of topics that no run has recorded rules for.
    pub rules: Vec<Rule>,
    /// Use `rules` for topics too, whatever a live run recorded.
    pub own_rules: bool,
    /// The end of the inputs closes everything; `None` = for files yes, for topics no.
    pub flush: Option<bool>,
    /// Log of the topics among the inputs.
    pub log: Option<Arc<dyn Log>>,
    /// Records read in one poll.
    pub poll_records: usize,
    /// Partitions of `obs` and `findings`, for tests that vary them.
    pub partitions: Option<(u32, u32)>,
}

/// What a backtest gave.
#[derive(Debug)]
pub struct Outcome {
    /// The signals, by (detected, tenant), each tenant's in published order: JSON as published, and parsed.
    pub signals: Vec<(String, Signal)>,
    /// What rules in shadow say, in the same order and form.
    pub shadow: Vec<(String, Signal)>,
    /// Where every row went.
    pub ledger: Ledger,
    /// How far each task came.
    pub board: BTreeMap<String, Progress>,
}

/// What stops a backtest.
#[derive(Debug, thiserror::Error)]
pub enum BacktestError {
    /// An input.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A topic that the topology does not know.
    #[error(
        "topic {topic} is no input of the topology; its format and tenant are taken from there: add it under inputs, or give --topology"
    )]
    UnknownTopic {
        /// Topic.
        topic: String,
    },
    /// No tenant.
    #[error("format {format} carries no tenant: say whose rows these are with --tenant ID")]
    NoTenant {
        /// Format.
        format: &'static str,
    },
    /// Nothing to read.
    #[error("no input: give at least one --input")]
    NoInput,
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Recorded rules.
    #[error(transparent)]
    Versions(#[from] VersionError),
    /// The run.
    #[error(transparent)]
    Run(#[from] RunError),
}

/// What progress shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Done {
    /// Bytes of files, compressed; 0 when there are none.
    pub bytes_total: u64,
    /// Read of them.
    pub bytes_read: u64,
    /// Signals so far.
    pub signals: u64,
}

/// Runs a backtest. `progress` is called between rounds.
pub fn run(config: &BacktestConfig, clock: Clock, progress: impl FnMut(Done)) -> Result<Outcome, BacktestError> {
    run_watched(config, clock, None, progress)
}

/// The same with a watch on one host.
pub fn run_watched(
    config: &BacktestConfig,
    clock: Clock,
    watch: Option<Arc<Watch>>,
    mut progress: impl FnMut(Done),
) -> Result<Outcome, BacktestError> {
    let mut plan = Plan::new(config)?;
    plan.fill(config)?;
    plan.part(config);
    let Plan { topology, sources, bounds, recorded, files, .. } = plan;
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let versions = match &config.log {
        Some(log) if !config.own_rules => versions::by_time(&**log, &topology)?,
        _ => BTreeMap::new(),
    };
    let run = Run {
        versions,
        source: Arc::new(sources),
        bounds,
        recorded,
        poll: PollLimit { records: config.poll_records, ..PollLimit::default() },
        trim: true,
        watch,
        ..Run::new(topology, config.rules.clone(), log.clone(), clock)
    };
    run.mirror_inputs()?;
    let shared = run.shared();
    let mut signals = SignalReader::open(&log, &run.topology.names.signals())?;
    let mut shadow = SignalReader::open(&log, &run.topology.names.shadow())?;
    let mut done = Done { bytes_total: files.iter().map(|f| f.bytes).sum(), ..Done::default() };
    run.lockstep(&shared, || {
        signals.read()?;
        shadow.read()?;
        done.bytes_read = files.iter().map(|f| f.read.load(std::sync::atomic::Ordering::Relaxed)).sum();
        done.signals = signals.found.len() as u64;
        progress(done);
        Ok(())
    })?;
    let in_order = |mut reader: SignalReader| {
        reader.read()?;
        // A stable sort: inside one tenant the published order stays.
        reader.found.sort_by(|a, b| (a.1.detected_at, &a.1.tenant).cmp(&(b.1.detected_at, &b.1.tenant)));
        Ok::<_, LogError>(reader.found)
    };
    let (signals, shadow) = (in_order(signals)?, in_order(shadow)?);
    let ledger = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let board = shared.board.progress();
    Ok(Outcome { signals, shadow, ledger, board })
}

struct Plan {
    topology: Topology,
    sources: Sources,
    bounds: BTreeMap<TopicPartition, Bound>,
    recorded: BTreeMap<TopicPartition, VecDeque<(i64, EventTime)>>,
    files: Vec<crate::input::FileSet>,
}

impl Plan {
    fn new(config: &BacktestConfig) -> Result<Self, BacktestError> {
        if config.inputs.is_empty() {
            return Err(BacktestError::NoInput);
        }
        let mut topology = match &config.topology {
            Some(topology) => Topology { log: LogChoice::Memory, ..topology.clone() },
            None => Topology::of(LogChoice::Memory, Vec::new()),
        };
        topology.internal.extend(&config.internal);
        topology.workers = crate::topology::Workers { normalize: 1, detect: 1, correlate: 1 };
        Ok(Self {
            topology,
            sources: Sources::new(config.log.clone()),
            bounds: BTreeMap::new(),
            recorded: BTreeMap::new(),
            files: Vec::new(),
        })
    }

    /// Parts the work among tasks.
    fn part(&mut self, config: &BacktestConfig) {
        let Self { topology, files, .. } = self;
        let bytes: u64 = files.iter().map(|f| f.bytes).sum();
        let state_bytes = topology.limits.state_bytes.saturating_mul(topology.obs.partitions.into());
        let of_bytes = (bytes / OBS_PARTITION_BYTES).min(state_bytes / OBS_PARTITION_STATE_BYTES).min(OBS_PARTITIONS_MOST) as u32;
        let (obs, findings) = config.partitions.unwrap_or((topology.obs.partitions.max(of_bytes), FINDINGS_PARTITIONS));
        // A task of a backtest holds what several of a deployment hold together: limits act at the same amount of state.
        let together = |bytes: u64, tasks: u32, here: u32| bytes.saturating_mul(tasks.into()) / u64::from(here.max(1));
        topology.limits.state_bytes = together(topology.limits.state_bytes, topology.obs.partitions, obs);
        topology.limits.slice_bytes = together(topology.limits.slice_bytes, topology.obs.partitions, obs);
        topology.limits.correlate_bytes = together(topology.limits.correlate_bytes, topology.findings.partitions, findings);
        topology.obs.partitions = obs;
        topology.findings.partitions = findings;
        topology.signals.partitions = findings;
    }

    fn fill(&mut self, config: &BacktestConfig) -> Result<(), BacktestError> {
        let known = std::mem::take(&mut self.topology.inputs);
        let mut recorded = None;
        for spec in &config.inputs {
            match spec {
                InputSpec::Files { .. } => self.files(config, spec)?,
                InputSpec::Topic(range) => {
                    let input = known.iter().find(|i| i.topic == range.topic).cloned();
                    let input = input.ok_or_else(|| BacktestError::UnknownTopic { topic: range.topic.clone() })?;
                    let silences = match &recorded {
                        Some(silences) => silences,
                        None => &*recorded.insert(self.silences(config)?),
                    };
                    let silences: Vec<_> = silences.clone();
                    self.topic(config, input, range, &silences)?;
                }
            }
        }
        Ok(())
    }

    fn files(&mut self, config: &BacktestConfig, spec: &InputSpec) -> Result<(), BacktestError> {
        for (topic, format, files) in spec.files()? {
            let tenancy = if format.has_tenant {
                Tenancy::Verified { registry: Registry::Open, strict: false }
            } else {
                Tenancy::Static(config.tenant.clone().ok_or(BacktestError::NoTenant { format: format.name })?)
            };
            let lateness = Duration::from_secs(u64::from(format.lateness_s));
            self.topology.inputs.push(Input {
                topic: topic.clone(),
                format: *format,
                lateness,
                tenancy,
                lane: None,
                partitions: Some(1),
            });
            let bound = Bound { from: None, until: None, ends: config.flush.unwrap_or(true) };
            self.bounds.insert(TopicPartition::new(topic.clone(), 0), bound);
            self.files.push(files.clone());
            self.sources.add(topic, files);
        }
        Ok(())
    }

    fn topic(
        &mut self,
        config: &BacktestConfig,
        input: Input,
        range: &Range,
        silences: &[(TopicPartition, i64, EventTime)],
    ) -> Result<(), BacktestError> {
        let log = config.log.as_ref().ok_or_else(|| LogError::UnknownTopic { topic: range.topic.clone() })?;
        for partition in 0..log.partitions(&range.topic)? {
            let at = TopicPartition::new(range.topic.clone(), partition);
            let kept = log.offsets(&at)?;
            let place = |end: RangeEnd| match end {
                RangeEnd::Offset(offset) => Ok(offset),
                RangeEnd::Time(time) => log.offset_at(&at, time),
            };
            let from = range.from.map(place).transpose()?.unwrap_or(kept.start).max(kept.start);
            let until = range.to.map(place).transpose()?.unwrap_or(kept.end).min(kept.end).max(from);
            let ends = config.flush.unwrap_or(false);
            self.bounds.insert(at.clone(), Bound { from: Some(from), until: Some(until), ends });
            let of_partition = silences.iter().filter(|(p, offset, _)| *p == at && *offset >= from && *offset <= until);
            let mut of_partition: Vec<(i64, EventTime)> = of_partition.map(|(_, offset, t)| (*offset, *t)).collect();
            of_partition.sort_unstable();
            self.recorded.insert(at, of_partition.into());
        }
        self.topology.inputs.push(input);
        Ok(())
    }

    /// Silences that the live run recorded.
    fn silences(&self, config: &BacktestConfig) -> Result<Vec<(TopicPartition, i64, EventTime)>, BacktestError> {
        let Some(log) = &config.log else { return Ok(Vec::new()) };
        let at = TopicPartition::new(self.topology.names.control(), 0);
        let range = match log.offsets(&at) {
            // No live run has been here.
            Err(LogError::UnknownTopic { .. } | LogError::UnknownPartition { .. }) => return Ok(Vec::new()),
            range => range?,
        };
        let mut out = Vec::new();
        let mut reader = log.reader(&at, range.start)?;
        while reader.position() < range.end {
            let records = reader.poll(PollLimit::default(), Duration::from_secs(5))?;
            if records.is_empty() && reader.at_end() {
                break;
            }
            for record in records {
                let mark = record.value.as_deref().and_then(|v| Mark::decode(v).ok());
                if let Some(mark) = mark.filter(|m| m.cause == Cause::Silence) {
                    let at = TopicPartition::new(mark.input.topic, mark.input.partition);
                    out.push((at, mark.input_offset, mark.watermark));
                }
            }
        }
        Ok(out)
    }
}

/// Reads what is committed to the signals topic.
pub struct SignalReader {
    readers: Vec<Box<dyn Reader>>,
    /// What has been read.
    pub found: Vec<(String, Signal)>,
}

impl std::fmt::Debug for SignalReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SignalReader").field("found", &self.found.len()).finish_non_exhaustive()
    }
}

impl SignalReader {
    /// From what is there now on.
    pub fn open(log: &Arc<dyn Log>, topic: &str) -> Result<Self, LogError> {
        let readers: Result<Vec<_>, LogError> = (0..log.partitions(topic)?)
            .map(|partition| {
                let at = TopicPartition::new(topic, partition);
                let start = log.offsets(&at)?.start;
                log.reader(&at, start)
            })
            .collect();
        Ok(Self { readers: readers?, found: Vec::new() })
    }

    /// Takes in what is there without waiting; true when something was.
    pub fn read(&mut self) -> Result<bool, LogError> {
        self.take(Duration::ZERO)
    }

    /// Takes in everything committed so far, however long the log takes to hand it out.
    pub fn read_to_end(&mut self) -> Result<(), LogError> {
        while self.take(READ_WAIT)? || !self.readers.iter().all(|r| r.at_end()) {}
        Ok(())
    }

    fn take(&mut self, wait: Duration) -> Result<bool, LogError> {
        let before = self.found.len();
        for reader in &mut self.readers {
            loop {
                let wait = if reader.at_end() { Duration::ZERO } else { wait };
                let records = reader.poll(PollLimit::default(), wait)?;
                if records.is_empty() {
                    break;
                }
                for record in records {
                    let Some(text) = record.value.as_deref().and_then(|v| std::str::from_utf8(v).ok()) else { continue };
                    if let Ok(signal) = from_json(text) {
                        self.found.push((text.to_owned(), signal));
                    }
                }
            }
        }
        Ok(self.found.len() > before)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::input::{FileInput, FileSet};

    #[test]
    fn much_data_is_worked_through_in_more_parts_that_may_hold_the_same_together() {
        let parted = |mib: u64, state_bytes: Option<u64>, partitions: Option<(u32, u32)>| {
            let mut topology = Topology::of(LogChoice::Memory, Vec::new());
            topology.limits.state_bytes = state_bytes.unwrap_or(topology.limits.state_bytes);
            let config = BacktestConfig {
                inputs: vec![InputSpec::Files { format: "probectl-flow".to_owned(), path: "unread".to_owned() }],
                topology: Some(topology.clone()),
                tenant: None,
                internal: Vec::new(),
                rules: Vec::new(),
                own_rules: true,
                flush: None,
                log: None,
                poll_records: 1,
                partitions,
            };
            let mut plan = Plan::new(&config).unwrap();
            let mut files = FileSet::new(Vec::new(), FileInput::Records).unwrap();
            files.bytes = mib << 20;
            plan.files.push(files);
            plan.part(&config);
            let (here, there) = (plan.topology.obs.partitions, topology.obs.partitions);
            let (parts, limits) = (u64::from(here), (plan.topology.limits, topology.limits));
            for (of_part, of_task) in [(limits.0.state_bytes, limits.1.state_bytes), (limits.0.slice_bytes, limits.1.slice_bytes)]
            {
                let (together, wanted) = (of_part * parts, of_task * u64::from(there));
                assert!((wanted - parts + 1..=wanted).contains(&together), "{together} of {wanted}");
            }
            here
        };
        let (few, most) = (Topology::of(LogChoice::Memory, Vec::new()).obs.partitions, OBS_PARTITIONS_MOST as u32);
        assert_eq!((parted(0, None, None), parted(20 * 16, None, None), parted(100_000, None, None)), (few, 20, most));
        // A part that could hold next to nothing would forget hosts that a larger one keeps.
        assert_eq!(parted(100_000, Some(20 << 20), None), few);
        assert_eq!(parted(100_000, None, Some((3, 1))), 3);
    }
}
