//! The job that is killed: the whole way, begun as `tidewatch run` begins it, and a thread that says how far it is. Over an
//! embedded log, which one process owns, the rows come from here, too. Can be killed and started at any time.

use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tidewatch::log::embedded::{EmbeddedLog, Options, Settings};
use tidewatch::log::{Log, TopicPartition};
use tidewatch::run::{Run, Shared};
use tidewatch::snapshot::SnapshotStore;
use tidewatch::status::{TaskPhase, TaskStatus};
use tidewatch::topology::{Input, LogChoice, Names, Registry, Stage, Tenancy, Topology, Workers};
use tidewatch::worker::system_clock;
use tidewatch::{topics, versions};
use tidewatch_operators::detectors;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire;

use super::feed::{self, Feed, INPUTS};
use super::{Args, Said};
use crate::cost::machine::resident_bytes;

/// Bytes of state per task: so many that nothing is evicted; what is, is told.
const STATE_BYTES: u64 = 8 << 30;

/// Bytes that a partition of the embedded log may hold: a first part of any size.
const PARTITION_BYTES: u64 = 1 << 40;

/// Internal topics are kept so long: the rows' times lie in the past.
const KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The board is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Ages are said this often.
const SAY_EVERY: Duration = Duration::from_millis(500);

/// Runs until it is killed.
pub(super) fn run(args: &Args, dir: &Path) -> anyhow::Result<()> {
    let began = Instant::now();
    let open = || -> anyhow::Result<EmbeddedLog> {
        let settings = Settings { partition_bytes_max: PARTITION_BYTES, ..Settings::default() };
        Ok(EmbeddedLog::open(dir.join("log"), Options { settings, ..Options::default() })?)
    };
    let (log, own): (Arc<dyn Log>, Option<Box<dyn Log>>) = match &args.brokers {
        Some(brokers) => (Arc::new(super::kafka(brokers)?), None),
        None => {
            let log = open()?;
            (Arc::new(log.clone()), Some(Box::new(log)))
        }
    };
    say(&Said::Opened { took_s: began.elapsed().as_secs_f64() });
    let format = *wire::format("probectl-flow").context("no format probectl-flow")?;
    let input = Input {
        topic: feed::topic(args),
        format,
        lateness: Duration::from_secs(u64::from(format.lateness_s)),
        tenancy: Tenancy::Verified { registry: Registry::Open, strict: false },
        lane: None,
        partitions: Some(INPUTS),
    };
    let mut topology = Topology::of(LogChoice::Memory, vec![input]);
    topology.names = Names::of(&args.deployment).context("a deployment's name")?;
    topology.limits.state_bytes = STATE_BYTES;
    topology.obs.retention = KEPT;
    topology.findings.retention = KEPT;
    topology.signals.retention = KEPT;
    topology.obs.partitions = args.partitions;
    topology.workers = Workers { normalize: args.workers, detect: args.workers, correlate: args.workers };
    topology.snapshots.every = Duration::from_secs(args.every);
    topology.limits.spill_dir = dir.join("spill");
    let rules = tidewatch::rules::load(None, detectors::ALL).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
    let opened = Instant::now();
    let mut run = Run::new(topology, rules.rules.clone(), log.clone(), system_clock());
    run.alone = true;
    let feed = own.map(|log| Feed::new(args, log));
    if let Some(feed) = &feed {
        feed.make_topic()?;
    }
    run.create_topics()?;
    run.topics = topics::settle(&*log, &run.topology, false)?;
    versions::propose(&*log, &run.topology, &rules, (run.clock)())?;
    run.versions = versions::by_time(&*log, &run.topology)?;
    run.snapshots = Some(SnapshotStore::open(&dir.join("snapshots").display().to_string())?);
    let shared = run.shared();
    let stop = AtomicBool::new(false);
    say(&Said::Begun { took_s: opened.elapsed().as_secs_f64() });
    std::thread::scope(|scope| -> anyhow::Result<()> {
        // Without rows nothing more will come of it.
        let feeding = feed.as_ref().map(|feed| scope.spawn(|| feed.run().inspect_err(|_| stop.store(true, Ordering::Release))));
        scope.spawn(|| watch(args, &*log, &run, &shared, feed.as_ref()));
        run.threaded(Stage::ALL, &shared, &stop, false)?;
        match feeding {
            Some(feeding) => feeding.join().map_err(|_| anyhow::anyhow!("the producer panicked"))?,
            None => Ok(()),
        }
    })
}

fn say(what: &Said) {
    let mut out = std::io::stdout().lock();
    // Who is killed may write into nothing.
    let _ = serde_json::to_string(what).map(|line| writeln!(out, "{line}"));
    let _ = out.flush();
}

/// Says how far it is, for ever.
fn watch(args: &Args, log: &dyn Log, run: &Run, shared: &Shared, feed: Option<&Feed<'_>>) {
    let (mut first, mut all, mut every) = (false, false, false);
    // When what was there at first had been read. Snapshots before that lie behind all its rows, which a job that catches up
    // reads as fast as it can: a restart would be as long as the time since then.
    let mut caught_up = args.again.then_some(EventTime::MIN);
    let mut said = Instant::now();
    // The input's partitions, the one of replayed records, obs and findings.
    let tasks_of_all = (INPUTS + 1 + args.partitions + run.topology.findings.partitions) as usize;
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
        // A task that has nothing to commit has nothing to restore either.
        let is_back = |t: &TaskStatus| t.restored.is_some() || t.committed.is_some() && t.phase == TaskPhase::Live;
        if all && !every && tasks.len() >= tasks_of_all && tasks.iter().all(is_back) {
            every = true;
            say(&Said::Every);
        }
        if said.elapsed() >= SAY_EVERY {
            said = Instant::now();
            if caught_up.is_none() && is_caught_up(args, log, shared, &tasks, tasks_of_all) {
                caught_up = Some((run.clock)());
                say(&Said::CaughtUp);
                if let Some(feed) = feed {
                    feed.caught_up();
                }
            }
            let now = (run.clock)();
            let age = |t: &&TaskStatus| {
                let at = t.snapshot.as_ref().and_then(|s| s.at).filter(|at| caught_up.is_some_and(|since| *at >= since))?;
                Some(now.since(at) as f64 / 1e9)
            };
            let ages: Option<Vec<f64>> = detect.iter().map(age).collect();
            let age_s = ages.filter(|_| !detect.is_empty());
            let rss_bytes = resident_bytes().map_or(0, |(now, _)| now);
            say(&Said::Age { age_s: age_s.map(|ages| ages.into_iter().fold(0.0, f64::max)), rss_bytes });
        }
    }
}

/// The first part has been read, and every task has committed all there is for it.
fn is_caught_up(args: &Args, log: &dyn Log, shared: &Shared, tasks: &[TaskStatus], tasks_of_all: usize) -> bool {
    let rows = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).total().rows_in;
    let end =
        |t: &TaskStatus| log.offsets(&TopicPartition::new(t.topic.clone(), t.partition)).map_or(i64::MAX, |range| range.end);
    rows >= args.first_part() && tasks.len() >= tasks_of_all && tasks.iter().all(|t| t.committed == Some(end(t)))
}
