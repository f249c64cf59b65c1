//! Scenarios: a set of input records and the signals that they mean, whatever way they take. A [`Scenario`] says what
//! comes; a [`Layout`] says how it is cut, spread, ordered and worked on; [`Scenario::run`] loads the records into a log
//! and runs the stages over them. Knows no detector and judges nothing: tests compare.
//!
//! What always holds: the same scenario and layout write the same records into the same partitions; a shuffle never moves
//! a record by more than [`SHUFFLE_NS`], far less than the lateness of any input.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidewatch::backtest::{self, BacktestConfig, SignalReader};
use tidewatch::epoch::Ledger;
use tidewatch::input::{InputSpec, Range};
use tidewatch::log::embedded::{Durability, EmbeddedLog, Options};
use tidewatch::log::memory::MemoryLog;
use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, Log, PollLimit, Record, TopicPartition, TopicSpec};
use tidewatch::run::Run;
use tidewatch::topology::{Input, Lane, LogChoice, Registry, Stage, Tenancy, Topology, Workers};
use tidewatch::worker::{Bound, Clock};
use tidewatch_operators::detectors;
use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::wire;

/// A shuffle moves a record by at most so much of its timestamp: below 60 s of lateness by what a batch may hold back.
pub const SHUFFLE_NS: i64 = 40 * SECOND_NS;

/// One input record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Topic.
    pub topic: String,
    /// Key.
    pub key: Vec<u8>,
    /// Timestamp.
    pub at: EventTime,
    /// Bytes.
    pub value: Vec<u8>,
    /// Headers.
    pub headers: Vec<(String, Bytes)>,
    /// Written into every partition, before everything else (the header lines of a text log).
    pub everywhere: bool,
    /// Never shuffled: a line that tells no time of its own takes it from the lines before it, so that their order is part
    /// of what they say (Zeek's ssl and http).
    pub ordered: bool,
}

impl Message {
    /// A record without headers.
    pub fn new(topic: &str, key: impl Into<Vec<u8>>, at: EventTime, value: Vec<u8>) -> Self {
        Self { topic: topic.to_owned(), key: key.into(), at, value, headers: Vec::new(), everywhere: false, ordered: false }
    }
}

/// What comes, and what it is judged by.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Name, for messages.
    pub name: &'static str,
    /// Input topics.
    pub inputs: Vec<Input>,
    /// Records in the order of their timestamps.
    pub messages: Vec<Message>,
    /// Rules.
    pub rules: Vec<Rule>,
    /// Detectors that the rules name.
    pub detectors: &'static [&'static Detector],
}

/// Which log holds the topics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// In memory.
    Memory,
    /// In memory, with gaps between offsets as Kafka has them.
    Gaps,
    /// In a directory.
    Embedded,
}

/// Who drives the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drive {
    /// One thread, in turn.
    Lockstep,
    /// A thread each.
    Threads,
    /// `tidewatch backtest` over the topics.
    Backtest,
}

/// How a scenario is cut, spread and worked on.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Records of one poll.
    pub poll_records: usize,
    /// Partitions of every input.
    pub inputs: u32,
    /// Partitions of `obs`.
    pub obs: u32,
    /// Partitions of `findings`.
    pub findings: u32,
    /// Workers of each stage.
    pub workers: u32,
    /// Seed of the order within the lateness; `None` = by timestamp.
    pub shuffle: Option<u64>,
    /// Log.
    pub log: LogKind,
    /// Who drives.
    pub drive: Drive,
}

impl Default for Layout {
    fn default() -> Self {
        Self {
            poll_records: 4096,
            inputs: 1,
            obs: 1,
            findings: 1,
            workers: 1,
            shuffle: None,
            log: LogKind::Memory,
            drive: Drive::Lockstep,
        }
    }
}

/// Signals of each tenant, as published, in order.
pub type Signals = BTreeMap<String, Vec<String>>;

/// What a run gave.
#[derive(Debug)]
pub struct Outcome {
    /// Signals as published, byte for byte.
    pub published: Signals,
    /// The same without `raw`, which alone says where the rows lay.
    pub signals: Signals,
    /// Where the rows went.
    pub ledger: Ledger,
    /// The log, to look into.
    pub log: Arc<dyn Log>,
    /// Names of topics, and what was connected.
    pub topology: Topology,
    _keep: Option<tempfile::TempDir>,
}

impl Outcome {
    /// Signals of a kind.
    pub fn of_kind(&self, kind: &str) -> Vec<Signal> {
        let all = self.published.values().flatten();
        all.filter_map(|text| tidewatch_schemas::signal::from_json(text).ok()).filter(|s| s.kind == kind).collect()
    }
}

impl Scenario {
    /// With the default rules and detectors.
    pub fn new(name: &'static str, inputs: Vec<Input>, messages: Vec<Message>) -> Self {
        Self { name, inputs, messages, rules: default_rules(), detectors: detectors::ALL }
    }

    /// The topology of a layout.
    pub fn topology(&self, layout: &Layout) -> Topology {
        let mut topology = Topology::of(LogChoice::Memory, self.inputs.clone());
        for input in &mut topology.inputs {
            input.partitions = Some(layout.inputs);
        }
        topology.obs.partitions = layout.obs;
        topology.findings.partitions = layout.findings;
        topology.signals.partitions = layout.findings;
        topology.workers = Workers { normalize: layout.workers, detect: layout.workers, correlate: layout.workers };
        topology
    }

    /// Runs it to the end of its inputs.
    pub fn run(&self, layout: &Layout) -> anyhow::Result<Outcome> {
        let (log, keep) = open(layout.log)?;
        let mut outcome = self.run_on(layout, log)?;
        outcome._keep = keep;
        Ok(outcome)
    }

    /// Runs it on a log that holds nothing of it yet.
    pub fn run_on(&self, layout: &Layout, log: Arc<dyn Log>) -> anyhow::Result<Outcome> {
        self.load(layout, &log)?;
        let topology = self.topology(layout);
        if layout.drive == Drive::Backtest {
            return self.backtest(layout, log, topology);
        }
        let run = self.bounded(layout, &log)?;
        run.create_topics()?;
        let shared = run.shared();
        match layout.drive {
            Drive::Lockstep => run.lockstep(&shared, || Ok(()))?,
            _ => run.threaded(Stage::ALL, &shared, &AtomicBool::new(false), true)?,
        }
        let published = published(&log, &topology.names.signals())?;
        let ledger = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(Outcome { signals: without_raw(&published), published, ledger, log, topology, _keep: None })
    }

    /// A run over what is loaded, whose inputs end where they end.
    pub fn bounded(&self, layout: &Layout, log: &Arc<dyn Log>) -> anyhow::Result<Run> {
        let mut run = Run::new(self.topology(layout), self.rules.clone(), log.clone(), fixed_clock());
        run.detectors = self.detectors;
        run.poll = PollLimit { records: layout.poll_records, ..PollLimit::default() };
        for input in &self.inputs {
            for partition in 0..log.partitions(&input.topic)? {
                let bound = Bound { from: None, until: None, ends: true };
                run.bounds.insert(TopicPartition::new(input.topic.clone(), partition), bound);
            }
        }
        Ok(run)
    }

    fn backtest(&self, layout: &Layout, log: Arc<dyn Log>, topology: Topology) -> anyhow::Result<Outcome> {
        let range = |i: &Input| InputSpec::Topic(Range { topic: i.topic.clone(), from: None, to: None });
        let config = BacktestConfig {
            inputs: self.inputs.iter().map(range).collect(),
            topology: Some(topology.clone()),
            tenant: None,
            internal: Vec::new(),
            own_rules: true,
            rules: self.rules.clone(),
            flush: Some(true),
            log: Some(log.clone()),
            poll_records: layout.poll_records,
            partitions: Some((layout.obs, layout.findings)),
        };
        let outcome = backtest::run(&config, fixed_clock(), |_| ())?;
        let mut published = Signals::new();
        for (text, signal) in outcome.signals {
            published.entry(signal.tenant).or_default().push(text);
        }
        Ok(Outcome { signals: without_raw(&published), published, ledger: outcome.ledger, log, topology, _keep: None })
    }

    /// Makes the input topics and writes the records, spread by key and ordered as the layout says.
    pub fn load(&self, layout: &Layout, log: &Arc<dyn Log>) -> anyhow::Result<()> {
        for input in &self.inputs {
            log.create_topic(&TopicSpec { record_bytes_max: 2 << 20, ..TopicSpec::new(input.topic.clone(), layout.inputs) })?;
        }
        let mut order: Vec<(EventTime, &Message)> = self.messages.iter().map(|m| (m.at, m)).collect();
        if let Some(seed) = layout.shuffle {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            for (at, message) in &mut order {
                if !message.everywhere && !message.ordered {
                    *at = at.plus(random.random_range(0..SHUFFLE_NS));
                }
            }
        }
        order.sort_by_key(|(at, message)| (!message.everywhere, *at));
        let messages: Vec<&Message> = order.into_iter().map(|(_, m)| m).collect();
        append(log, "scenario", layout.inputs, &messages)
    }
}

/// Appends messages in their order, by key as Kafka's default partitioner places them.
pub fn append(log: &Arc<dyn Log>, writer: &str, partitions: u32, messages: &[&Message]) -> anyhow::Result<()> {
    let mut writer = log.writer(writer)?;
    let mut appends = Vec::new();
    for message in messages {
        let places = if message.everywhere {
            0..partitions
        } else {
            let place = murmur2_partition(&message.key, partitions);
            place..place + 1
        };
        for partition in places {
            appends.push(Append {
                topic: message.topic.clone(),
                partition,
                timestamp: Some(message.at),
                key: Some(message.key.clone().into()),
                value: Some(message.value.clone().into()),
                headers: message.headers.clone(),
            });
        }
        if appends.len() >= 500 {
            writer.commit(&appends, &[])?;
            appends.clear();
        }
    }
    writer.commit(&appends, &[])?;
    Ok(())
}

/// The built-in rules.
pub fn default_rules() -> Vec<Rule> {
    tidewatch::rules::load(None, detectors::ALL).expect("the built-in rules are right").rules
}

/// An input whose rows claim their tenant and are believed.
pub fn open_input(topic: &str, format: &str) -> Input {
    input(topic, format, Tenancy::Verified { registry: Registry::Open, strict: false })
}

/// An input of one tenant whose format carries none.
pub fn static_input(topic: &str, format: &str, tenant: &str) -> Input {
    input(topic, format, Tenancy::Static(tenant.to_owned()))
}

/// A siloed tenant's lane.
pub fn lane_input(topic: &str, format: &str, tenant: &str) -> Input {
    Input { lane: Some(Lane { namespace: tenant.to_owned(), tenant: tenant.to_owned() }), ..open_input(topic, format) }
}

/// An input with its format's own lateness.
pub fn input(topic: &str, format: &str, tenancy: Tenancy) -> Input {
    let format = *wire::format(format).expect("tests name formats that exist");
    let lateness = Duration::from_secs(u64::from(format.lateness_s));
    Input { topic: topic.to_owned(), format, lateness, tenancy, lane: None, partitions: Some(1) }
}

/// A clock that stands still: nothing is ever silent, and epochs end because there is nothing more to read.
pub fn fixed_clock() -> Clock {
    Arc::new(|| EventTime::from_secs(1_800_000_000))
}

/// An empty log of a kind, with the directory that it lives in.
pub fn open(kind: LogKind) -> anyhow::Result<(Arc<dyn Log>, Option<tempfile::TempDir>)> {
    Ok(match kind {
        LogKind::Memory => (Arc::new(MemoryLog::new()), None),
        LogKind::Gaps => (Arc::new(MemoryLog::with_gaps(5)), None),
        LogKind::Embedded => {
            let dir = tempfile::tempdir()?;
            let options = Options { durability: Durability::Process, ..Options::default() };
            (Arc::new(EmbeddedLog::open(dir.path(), options)?), Some(dir))
        }
    })
}

/// What lies on the signals topic, by tenant, in order.
pub fn published(log: &Arc<dyn Log>, topic: &str) -> anyhow::Result<Signals> {
    let mut reader = SignalReader::open(log, topic)?;
    reader.read_to_end()?;
    let mut signals = Signals::new();
    for (text, signal) in reader.found {
        signals.entry(signal.tenant).or_default().push(text);
    }
    Ok(signals)
}

/// Signals without the one field that says where their rows lay.
pub fn without_raw(signals: &Signals) -> Signals {
    let strip = |text: &String| {
        let mut value: serde_json::Value = serde_json::from_str(text).expect("signals are JSON");
        if let Some(object) = value.as_object_mut() {
            object.remove("raw");
        }
        value.to_string()
    };
    signals.iter().map(|(tenant, all)| (tenant.clone(), all.iter().map(strip).collect())).collect()
}

/// Every record of a topic, partition by partition.
pub fn read_all(log: &Arc<dyn Log>, topic: &str) -> anyhow::Result<Vec<Record>> {
    let mut all = Vec::new();
    for partition in 0..log.partitions(topic)? {
        all.extend(read_partition(log, &TopicPartition::new(topic, partition))?);
    }
    Ok(all)
}

/// Every record of a partition.
pub fn read_partition(log: &Arc<dyn Log>, at: &TopicPartition) -> anyhow::Result<Vec<Record>> {
    let range = log.offsets(at)?;
    let (mut reader, mut all) = (log.reader(at, range.start)?, Vec::new());
    while reader.position() < range.end {
        let records = reader.poll(PollLimit::default(), Duration::ZERO)?;
        if records.is_empty() && reader.at_end() {
            break;
        }
        all.extend(records);
    }
    Ok(all)
}
