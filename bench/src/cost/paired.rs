//! One workload, loaded once, and the limit and the pipeline over it in turn: what each took, and their medians. What always
//! holds: every run has internal topics of its own and must account for every row, else there are no figures.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use tidewatch::backtest::SignalReader;
use tidewatch::log::{PollLimit, TopicPartition};
use tidewatch::topology::Names;
use tidewatch_generator::Synthetic;
use tidewatch_generator::synthetic::Visits;

use super::LogKind;
use super::job::{Job, Measured, Source, Until, What};
use super::machine::load;
use super::place::Place;
use super::workload::{Kind, Loaded, Workload};

/// The limit may take so long per flow, nanoseconds; beyond it the machine was busy with something else.
pub(super) const LIMIT_NS_MAX: f64 = 350.0;

/// What is to be measured.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) kind: Kind,
    pub(super) log: LogKind,
    pub(super) flows: u64,
    pub(super) pairs: u64,
    pub(super) visits: Visits,
    pub(super) replies: bool,
    pub(super) skew: f64,
    pub(super) detectors: String,
    pub(super) workers: u32,
    /// On one of the machine's cores.
    pub(super) one_core: bool,
    pub(super) rounds: u32,
    pub(super) every_s: u64,
    pub(super) span_s: u32,
    pub(super) seed: u64,
    pub(super) tail_rows: u64,
    /// One more run in which allocations are counted.
    pub(super) allocations: bool,
}

impl Shape {
    pub(super) fn synthetic(&self) -> Synthetic {
        Synthetic {
            seed: self.seed,
            flows: self.flows,
            pairs: self.pairs,
            duration_s: self.span_s,
            replies: self.replies,
            skew: self.skew,
            visits: self.visits,
            ..Synthetic::default()
        }
    }
}

/// The limit and the pipeline, one after the other.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Round {
    pub(super) ratio: f64,
    /// Processes that wanted a core in the minute before.
    pub(super) load_before: Option<f64>,
    pub(super) limit: Measured,
    pub(super) pipeline: Measured,
    /// Of the broker while the pipeline ran.
    pub(super) broker_cpu_ns_per_flow: Option<f64>,
    /// And while the limit ran.
    pub(super) broker_cpu_ns_per_flow_limit: Option<f64>,
}

/// Least and most.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Spread {
    pub(super) pipeline: [f64; 2],
    pub(super) limit: [f64; 2],
    pub(super) ratio: [f64; 2],
}

/// What came of it; medians unless said otherwise.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Paired {
    pub(super) pipeline_cpu_ns_per_flow: f64,
    pub(super) limit_cpu_ns_per_flow: f64,
    pub(super) ratio: f64,
    /// Resident memory of the pipeline's process, at most.
    pub(super) rss_mib: f64,
    /// State by its own count, over the pairs that called; of flows only.
    pub(super) bytes_per_pair: Option<f64>,
    /// The limit took longer than it may: the figures do not count.
    pub(super) void: bool,
    pub(super) spread: Spread,
    pub(super) pipeline_user_ns_per_flow: f64,
    pub(super) pipeline_system_ns_per_flow: f64,
    pub(super) limit_user_ns_per_flow: f64,
    pub(super) limit_system_ns_per_flow: f64,
    pub(super) broker_cpu_ns_per_flow: Option<f64>,
    pub(super) tail_cpu_ns_per_flow: Option<f64>,
    /// Of the pipeline by what its threads do; empty where one does all.
    pub(super) threads_cpu_ns_per_flow: BTreeMap<String, f64>,
    pub(super) wall_s: f64,
    pub(super) flows_per_s: f64,
    pub(super) limit_flows_per_s: f64,
    /// After the last row was committed.
    pub(super) rss_settled_mib: f64,
    /// Rows of open slices at most, which the budget of memory sets apart.
    pub(super) slice_mib_max: f64,
    pub(super) state_mib: f64,
    pub(super) keys: u64,
    pub(super) evicted: u64,
    pub(super) snapshots: u64,
    pub(super) signals: u64,
    pub(super) allocations_per_flow: Option<f64>,
    pub(super) allocated_bytes_per_flow: Option<f64>,
    /// Bytes of keys, values and headers per flow of the input.
    pub(super) topic_bytes_per_flow: BTreeMap<String, f64>,
    /// Share of one host in all flows.
    pub(super) skew: f64,
    /// The limit decodes with the product's decoder, not with its own.
    pub(super) limit_uses_product_decoder: bool,
    pub(super) workers: u32,
    pub(super) detectors: String,
    pub(super) workload: Loaded,
    pub(super) rounds: Vec<Round>,
}

/// An order for this shape; rows are to be filled in.
pub(super) fn job(shape: &Shape, what: What, source: Source, until: Until, place: &Place) -> anyhow::Result<Job> {
    Ok(Job {
        what,
        source,
        kind: shape.kind,
        topic: String::new(),
        rows: 0,
        until,
        tail_rows: shape.tail_rows,
        start: shape.synthetic().start,
        detectors: shape.detectors.clone(),
        workers: shape.workers,
        one_core: shape.one_core,
        deployment: "cost".to_owned(),
        every_s: shape.every_s,
        dir: place.file("run"),
        count: false,
    })
}

/// Runs all rounds.
pub(super) fn run(place: &mut Place, shape: &Shape) -> anyhow::Result<Paired> {
    let mut loaded = Under::load(place, shape)?;
    for _ in 0..shape.rounds {
        loaded.round(place)?;
    }
    loaded.end(place)
}

/// Runs the rounds of several shapes in turn, first each one's first: what the machine does besides, which changes from minute to
/// minute, meets them all, so that they can be compared with one another.
pub(super) fn run_in_turn(place: &mut Place, shapes: &[Shape]) -> anyhow::Result<Vec<Paired>> {
    let mut all = shapes.iter().map(|shape| Under::load(place, shape)).collect::<anyhow::Result<Vec<_>>>()?;
    for round in 0..shapes.iter().map(|shape| shape.rounds).max().unwrap_or(0) {
        for under in all.iter_mut().filter(|under| round < under.shape.rounds) {
            under.round(place)?;
        }
    }
    all.into_iter().map(|under| under.end(place)).collect()
}

/// A shape that is being measured.
struct Under {
    shape: Shape,
    source: Source,
    topic: String,
    loaded: Loaded,
    /// Of the last round.
    deployment: String,
    rounds: Vec<Round>,
}

impl Under {
    fn load(place: &mut Place, shape: &Shape) -> anyhow::Result<Self> {
        let workload = Workload::new(shape.kind, shape.synthetic());
        let topic = place.name();
        let ending = if shape.kind == Kind::Zeek { "log" } else { "records" };
        let source = place.source(shape.log, &format!("{topic}.{ending}"))?;
        let loaded = match &source {
            Source::File(path) => workload.write(path)?,
            _ => workload.load(&*source.log()?, &topic, &mut workload.records(), true)?,
        };
        Ok(Self { shape: shape.clone(), source, topic, loaded, deployment: String::new(), rounds: Vec::new() })
    }

    fn order(&self, what: What, place: &Place) -> anyhow::Result<Job> {
        let base = job(&self.shape, what, self.source.clone(), Until::Closed(self.loaded.end), place)?;
        Ok(Job { topic: self.topic.clone(), rows: self.loaded.rows, ..base })
    }

    /// The limit, then the pipeline.
    fn round(&mut self, place: &mut Place) -> anyhow::Result<()> {
        let load_before = load();
        let (limit, broker_limit) = with_broker(place, &self.order(What::Limit, place)?)?;
        self.deployment = place.name();
        let dir = place.file(&self.deployment);
        let order = Job { deployment: self.deployment.clone(), dir, ..self.order(What::Pipeline, place)? };
        let (mut pipeline, broker) = with_broker(place, &order)?;
        let rows = self.loaded.rows;
        if pipeline.rows_in != rows || pipeline.rows_accounted != rows {
            bail!("{rows} rows, but {} in and {} accounted for", pipeline.rows_in, pipeline.rows_accounted);
        }
        if !matches!(self.source, Source::File(_)) {
            pipeline.signals = signals(&self.source, &self.deployment)?;
        }
        let ratio = pipeline.cpu_ns_per_flow / limit.cpu_ns_per_flow.max(1e-9);
        self.rounds.push(Round {
            ratio,
            load_before,
            limit,
            pipeline,
            broker_cpu_ns_per_flow: broker,
            broker_cpu_ns_per_flow_limit: broker_limit,
        });
        Ok(())
    }

    /// What came of it.
    fn end(self, place: &mut Place) -> anyhow::Result<Paired> {
        let counted = match self.shape.allocations {
            true => {
                let deployment = place.name();
                let dir = place.file(&deployment);
                Job { deployment, dir, count: true, ..self.order(What::Pipeline, place)? }.run()?.allocations
            }
            false => None,
        };
        let topics = match self.source {
            Source::File(_) => BTreeMap::new(),
            _ => topic_bytes(&self.source, &self.topic, &self.deployment, self.loaded.rows)?,
        };
        Ok(summary(&self.shape, self.loaded, self.rounds, counted, topics))
    }
}

/// A run, and what our broker took per row meanwhile; of a run that needs one.
fn with_broker(place: &Place, job: &Job) -> anyhow::Result<(Measured, Option<f64>)> {
    // What others wrote is on the disk first: a file system that has to write it before it can answer a sync of ours bills us.
    std::process::Command::new("sync").status().context("cannot run sync")?;
    let broker = || place.broker_cpu().filter(|_| matches!(job.source, Source::Kafka(_)));
    let before = broker();
    let measured = job.run()?;
    let used = before.zip(broker()).map(|(before, after)| after.since(before).total_s());
    Ok((measured, used.map(|s| s * 1e9 / job.rows.max(1) as f64)))
}

/// Signals that are committed.
fn signals(source: &Source, deployment: &str) -> anyhow::Result<u64> {
    let names = Names::of(deployment).unwrap_or_default();
    let mut reader = SignalReader::open(&source.log()?, &names.signals())?;
    reader.read_to_end()?;
    Ok(reader.found.len() as u64)
}

/// Bytes on each topic, per row.
fn topic_bytes(source: &Source, input: &str, deployment: &str, rows: u64) -> anyhow::Result<BTreeMap<String, f64>> {
    let names = Names::of(deployment).unwrap_or_default();
    let log = source.log()?;
    let mut out = BTreeMap::new();
    let topics =
        [("input", input.to_owned()), ("obs", names.obs()), ("findings", names.findings()), ("signals", names.signals())];
    for (name, topic) in topics {
        let mut bytes = 0;
        for partition in 0..log.partitions(&topic)? {
            let at = TopicPartition::new(topic.clone(), partition);
            let range = log.offsets(&at)?;
            let mut reader = log.reader(&at, range.start)?;
            while reader.position() < range.end {
                let records = reader.poll(PollLimit::default(), Duration::from_millis(500))?;
                bytes += records.iter().map(tidewatch::log::Record::size).sum::<usize>();
            }
        }
        out.insert(name.to_owned(), bytes as f64 / rows.max(1) as f64);
    }
    Ok(out)
}

fn summary(
    shape: &Shape,
    workload: Loaded,
    rounds: Vec<Round>,
    counted: Option<(u64, u64)>,
    topic_bytes_per_flow: BTreeMap<String, f64>,
) -> Paired {
    let all = |of: &dyn Fn(&Round) -> f64| rounds.iter().map(of).collect::<Vec<f64>>();
    let mid = |of: &dyn Fn(&Round) -> f64| median(all(of));
    let rows = workload.rows.max(1) as f64;
    let mib = |bytes: f64| bytes / f64::from(1 << 20);
    let last = |of: fn(&Measured) -> u64| rounds.last().map_or(0, |r| of(&r.pipeline));
    let limit = mid(&|r| r.limit.cpu_ns_per_flow);
    let some = |of: fn(&Round) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| median(values))
    };
    Paired {
        pipeline_cpu_ns_per_flow: mid(&|r| r.pipeline.cpu_ns_per_flow),
        limit_cpu_ns_per_flow: limit,
        ratio: mid(&|r| r.ratio),
        rss_mib: mib(mid(&|r| r.pipeline.rss_peak_bytes as f64)),
        bytes_per_pair: (workload.pairs > 0).then(|| mid(&|r| r.pipeline.state_bytes as f64) / workload.pairs as f64),
        void: shape.kind == Kind::Flow && shape.log == LogKind::Kafka && limit > LIMIT_NS_MAX,
        spread: Spread {
            pipeline: range(all(&|r| r.pipeline.cpu_ns_per_flow)),
            limit: range(all(&|r| r.limit.cpu_ns_per_flow)),
            ratio: range(all(&|r| r.ratio)),
        },
        pipeline_user_ns_per_flow: mid(&|r| r.pipeline.cpu.user_s * 1e9) / rows,
        pipeline_system_ns_per_flow: mid(&|r| r.pipeline.cpu.system_s * 1e9) / rows,
        limit_user_ns_per_flow: mid(&|r| r.limit.cpu.user_s * 1e9) / rows,
        limit_system_ns_per_flow: mid(&|r| r.limit.cpu.system_s * 1e9) / rows,
        broker_cpu_ns_per_flow: some(|r| r.broker_cpu_ns_per_flow),
        tail_cpu_ns_per_flow: some(|r| r.pipeline.tail_cpu_ns_per_flow),
        threads_cpu_ns_per_flow: rounds
            .iter()
            .flat_map(|r| r.pipeline.threads.keys())
            .map(|work| (work.clone(), mid(&|r| r.pipeline.threads.get(work).copied().unwrap_or(0.0) * 1e9) / rows))
            .collect(),
        wall_s: mid(&|r| r.pipeline.wall_s),
        flows_per_s: mid(&|r| r.pipeline.flows_per_s),
        limit_flows_per_s: mid(&|r| r.limit.flows_per_s),
        rss_settled_mib: mib(mid(&|r| r.pipeline.rss_settled_bytes as f64)),
        slice_mib_max: mib(mid(&|r| r.pipeline.slice_bytes_max as f64)),
        state_mib: mib(mid(&|r| r.pipeline.state_bytes as f64)),
        keys: last(|m| m.keys),
        evicted: last(|m| m.evicted),
        snapshots: last(|m| m.snapshots),
        signals: last(|m| m.signals),
        allocations_per_flow: counted.map(|(calls, _)| calls as f64 / rows),
        allocated_bytes_per_flow: counted.map(|(_, bytes)| bytes as f64 / rows),
        topic_bytes_per_flow,
        skew: shape.skew,
        limit_uses_product_decoder: shape.kind != Kind::Flow,
        workers: shape.workers,
        detectors: shape.detectors.clone(),
        workload,
        rounds,
    }
}

impl Paired {
    /// A figure over that of another shape: the middle one of the rounds that ran in turn.
    pub(super) fn against(&self, other: &Self, of: fn(&Measured) -> f64) -> f64 {
        let pairs = self.rounds.iter().zip(&other.rounds);
        median(pairs.map(|(here, there)| of(&here.pipeline) / of(&there.pipeline)).collect())
    }

    /// One line for people.
    pub(super) fn line(&self, name: &str) -> String {
        format!(
            "{name:<14} {:>6.0} ns pipeline {:>5.0} ns limit {:>5.1} times {:>9.0} flows/s {:>6.0} MiB{}{}\n",
            self.pipeline_cpu_ns_per_flow,
            self.limit_cpu_ns_per_flow,
            self.ratio,
            self.flows_per_s,
            self.rss_mib,
            self.bytes_per_pair.map_or_else(String::new, |bytes| format!(" {bytes:>5.0} B/pair")),
            if self.void { "  VOID: the limit took too long" } else { "" }
        )
    }

    /// The partition of `obs` with most rows waiting at once, against the middle one: (partition, rows, open slices'
    /// bytes, state's bytes, seconds to the end), each of the hot one and of the middle one.
    pub(super) fn hot(&self) -> Option<Hot> {
        let tasks = &self.rounds.last()?.pipeline.tasks;
        let hot = tasks.iter().max_by_key(|t| t.waiting_rows_max)?;
        let middle = |of: fn(&super::job::TaskFigures) -> f64| {
            median(tasks.iter().filter(|t| t.partition != hot.partition).map(of).collect())
        };
        let pair = |of: fn(&super::job::TaskFigures) -> f64| [of(hot), middle(of)];
        Some(Hot {
            partition: hot.partition,
            waiting_rows_max: pair(|t| t.waiting_rows_max as f64),
            slice_bytes_max: pair(|t| t.slice_bytes_max as f64),
            state_bytes: pair(|t| t.state_bytes as f64),
            closed_s: pair(|t| t.closed_s),
        })
    }
}

/// The busiest partition beside the middle one of the others.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Hot {
    pub(super) partition: u32,
    pub(super) waiting_rows_max: [f64; 2],
    pub(super) slice_bytes_max: [f64; 2],
    pub(super) state_bytes: [f64; 2],
    pub(super) closed_s: [f64; 2],
}

/// The middle value; of an even number the mean of the two in the middle; 0 of none.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn range(values: Vec<f64>) -> [f64; 2] {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    [least, values.into_iter().fold(0.0, f64::max)]
}
