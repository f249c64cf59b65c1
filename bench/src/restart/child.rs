//! The job that is killed: the whole way over an embedded log, with rows that keep coming at a steady rate, and a thread
//! that says how far it is. Begins where the log ends, so that it can be killed and started at any time.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, Log, TopicPartition};
use tidewatch::run::{Run, Shared};
use tidewatch::snapshot::SnapshotStore;
use tidewatch::status::TaskStatus;
use tidewatch::topology::{Input, LogChoice, Registry, Stage, Tenancy, Topology, Workers};
use tidewatch::worker::system_clock;
use tidewatch_generator::{Plan, Synthetic};
use tidewatch_operators::detectors;
use tidewatch_schemas::wire;

use super::{Args, Said};

const TOPIC: &str = "probectl.flow.events";

/// Partitions of the input.
const INPUTS: u32 = 2;

/// The board is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Ages are said this often.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// Records appended at once before the steady rate begins.
const APPEND_RECORDS: usize = 200;

/// Runs until it is killed.
pub(super) fn run(args: &Args, dir: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(dir.join("log"), Options::default())?);
    say(&Said::Opened { took_s: began.elapsed().as_secs_f64() });
    let format = *wire::format("probectl-flow").context("no format probectl-flow")?;
    let input = Input {
        topic: TOPIC.to_owned(),
        format,
        lateness: Duration::from_secs(u64::from(format.lateness_s)),
        tenancy: Tenancy::Verified { registry: Registry::Open, strict: false },
        lane: None,
        partitions: Some(INPUTS),
    };
    let mut topology = Topology::of(LogChoice::Memory, vec![input]);
    topology.obs.partitions = args.partitions;
    topology.workers = Workers { normalize: args.workers, detect: args.workers, correlate: args.workers };
    topology.snapshots.every = Duration::from_secs(args.every);
    topology.limits.spill_dir = dir.join("spill");
    let rules = tidewatch::rules::load(None, detectors::ALL).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
    let mut run = Run::new(topology, rules.rules, log.clone(), system_clock());
    run.create_topics()?;
    run.snapshots = Some(SnapshotStore::open(&dir.join("snapshots").display().to_string())?);
    let shared = run.shared();
    let caught_up = AtomicBool::new(false);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let producing = scope.spawn(|| produce(args, &log, &caught_up));
        scope.spawn(|| watch(args, &*log, &run, &shared, &caught_up));
        run.threaded(Stage::ALL, &shared, &stop, false)?;
        producing.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?
    })
}

fn say(what: &Said) {
    let mut out = std::io::stdout().lock();
    // Who is killed may write into nothing.
    let _ = serde_json::to_string(what).map(|line| writeln!(out, "{line}"));
    let _ = out.flush();
}

/// Writes the first part as fast as it goes, waits until it has been worked off, then goes on at the steady rate.
fn produce(args: &Args, log: &Arc<dyn Log>, caught_up: &AtomicBool) -> anyhow::Result<()> {
    // Event time goes on at the steady rate from the start, so that the first part is as spread as the rest.
    let rows = args.flows + args.rate * 3_600;
    let duration_s = u32::try_from(rows / args.rate).unwrap_or(u32::MAX);
    let synthetic = Synthetic { seed: args.seed, duration_s, ..Plan::bench(rows, args.pairs) };
    let batch = u64::from(synthetic.batch.max(1));
    let mut there = 0;
    for partition in 0..INPUTS {
        there += log.offsets(&TopicPartition::new(TOPIC, partition))?.end.unsigned_abs();
    }
    let mut writer = log.writer("bench-producer")?;
    let mut appends = Vec::new();
    let mut steady: Option<(u64, Instant)> = None;
    for (n, record) in synthetic.records().enumerate().skip(usize::try_from(there)?) {
        let first_part = n as u64 * batch < args.flows;
        if !first_part && steady.is_none() {
            writer.commit(&appends, &[])?;
            appends.clear();
            while there == 0 && !caught_up.load(Ordering::Acquire) {
                std::thread::sleep(LOOK_EVERY);
            }
            steady = Some((n as u64, Instant::now()));
        }
        appends.push(Append {
            topic: TOPIC.to_owned(),
            partition: murmur2_partition(&record.key, INPUTS),
            timestamp: Some(record.timestamp),
            key: Some(record.key.into()),
            value: Some(record.value.into()),
            headers: Vec::new(),
        });
        let Some((from, since)) = steady else {
            if appends.len() >= APPEND_RECORDS {
                writer.commit(&appends, &[])?;
                appends.clear();
            }
            continue;
        };
        let due = Duration::from_secs_f64((n as u64 - from) as f64 * batch as f64 / args.rate as f64);
        let early = due.saturating_sub(since.elapsed());
        if !early.is_zero() {
            writer.commit(&appends, &[])?;
            appends.clear();
            std::thread::sleep(early);
        }
    }
    Ok(())
}

/// Says how far it is, for ever.
fn watch(args: &Args, log: &dyn Log, run: &Run, shared: &Shared, caught_up: &AtomicBool) {
    let (mut first, mut all) = (false, false);
    let mut said = Instant::now();
    loop {
        std::thread::sleep(LOOK_EVERY);
        let tasks = shared.board.tasks();
        let detect: Vec<&TaskStatus> = tasks.iter().filter(|t| t.stage == Stage::Detect.name()).collect();
        if !first && detect.iter().any(|t| t.restored.is_some()) {
            first = true;
            say(&Said::First);
        }
        if !all && detect.len() == args.partitions as usize && detect.iter().all(|t| t.restored.is_some()) {
            all = true;
            let times = detect.iter().filter_map(|t| t.restored);
            let sum = |of: fn(&TaskStatus) -> u64| detect.iter().map(|t| of(t)).sum();
            say(&Said::All {
                slowest: times.clone().max_by(|a, b| a.total_s.total_cmp(&b.total_s)).unwrap_or_default(),
                bytes: times.map(|t| t.bytes).sum(),
                keys: sum(|t| t.progress.keys),
                state_bytes: sum(|t| t.progress.state_bytes),
                evicted: sum(|t| t.progress.evicted),
            });
        }
        if !caught_up.load(Ordering::Acquire) && is_caught_up(args, log, &tasks) {
            caught_up.store(true, Ordering::Release);
            say(&Said::CaughtUp);
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            let now = (run.clock)();
            let age = |t: &&TaskStatus| t.snapshot.as_ref().and_then(|s| s.at).map(|at| now.since(at) as f64 / 1e9);
            let ages: Option<Vec<f64>> = detect.iter().map(age).collect();
            let age_s = ages.filter(|_| caught_up.load(Ordering::Acquire) && !detect.is_empty());
            say(&Said::Age { age_s: age_s.map(|ages| ages.into_iter().fold(0.0, f64::max)) });
        }
    }
}

/// The first part has been written and every task has committed all there is for it.
fn is_caught_up(args: &Args, log: &dyn Log, tasks: &[TaskStatus]) -> bool {
    let end = |at: &TopicPartition| log.offsets(at).map(|range| range.end).unwrap_or(i64::MAX);
    let batch = i64::from(Synthetic::default().batch);
    let written: i64 = (0..INPUTS).map(|p| end(&TopicPartition::new(TOPIC, p))).sum();
    let all = args.partitions as usize + INPUTS as usize;
    written * batch >= args.flows as i64
        && tasks.len() > all
        && tasks.iter().all(|t| {
            let end = end(&TopicPartition::new(t.topic.clone(), t.partition));
            end == 0 || t.committed == Some(end)
        })
}
