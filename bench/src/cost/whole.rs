//! The whole way in this process: over a log as a live run, threads and transactions and snapshots included, or over a file
//! as a backtest. What is measured ends when the last slice is committed, before anything is taken down.

use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidewatch::backtest::{self, BacktestConfig};
use tidewatch::epoch::Ledger;
use tidewatch::input::InputSpec;
use tidewatch::run::{Run, Shared};
use tidewatch::snapshot::SnapshotStore;
use tidewatch::topology::{LogChoice, Names, Stage, Topology, Workers};
use tidewatch::worker::system_clock;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::Rule;

use super::job::{Job, Measured};
use super::machine::{Cpu, cpu_of_threads, resident_bytes};
use super::watch::Watch;
use crate::allocations;

/// The board is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Bytes of state per task: so many that nothing is evicted while costs are measured; what is, is told.
const STATE_BYTES: u64 = 8 << 30;

/// Internal topics are kept so long: the rows' times lie in the past.
const KEPT: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The rules of the detectors that are wanted.
fn rules(wanted: &str) -> anyhow::Result<Vec<Rule>> {
    let mut rules = tidewatch::rules::load(None, detectors::ALL).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?.rules;
    match wanted {
        "all" => {}
        "none" => rules.clear(),
        kind => rules.retain(|rule| rule.kind == kind),
    }
    if rules.is_empty() && wanted != "none" {
        let kinds: Vec<&str> = detectors::ALL.iter().map(|d| d.rule_kind).collect();
        bail!("no detector {wanted}; there are all, none, {}", kinds.join(", "));
    }
    Ok(rules)
}

/// Whether such detectors exist.
pub(super) fn check(wanted: &str) -> anyhow::Result<()> {
    rules(wanted).map(drop)
}

/// Over a log.
pub(super) fn live(job: &Job) -> anyhow::Result<Measured> {
    let log = job.source.log()?;
    // As on Kafka where the input is somebody else's; `LogChoice` only says who makes topics.
    let mut topology = Topology::of(LogChoice::Memory, vec![job.kind.input(&job.topic)?]);
    topology.names = Names::of(&job.deployment).context("a deployment's name")?;
    topology.workers = Workers { normalize: job.workers, detect: job.workers, correlate: 1 };
    topology.snapshots.every = Duration::from_secs(job.every_s);
    topology.limits.spill_dir = job.dir.join("spill");
    topology.limits.state_bytes = STATE_BYTES;
    topology.obs.retention = KEPT;
    topology.findings.retention = KEPT;
    topology.signals.retention = KEPT;
    let mut run = Run::new(topology, rules(&job.detectors)?, log, system_clock());
    run.create_topics()?;
    run.snapshots = Some(SnapshotStore::open(&job.dir.join("snapshots").display().to_string())?);
    let shared = run.shared();
    let stop = AtomicBool::new(false);
    if job.count {
        allocations::start();
    }
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let measured = watch(job, &run, &shared, &stop);
            stop.store(true, Ordering::Release);
            measured
        });
        run.threaded(Stage::ALL, &shared, &stop, true)?;
        watching.join().map_err(|_| anyhow::anyhow!("the watching thread panicked"))?
    })
}

/// Looks until the job is done; its figures then.
fn watch(job: &Job, run: &Run, shared: &Shared, stop: &AtomicBool) -> anyhow::Result<Measured> {
    let (began, cpu) = (Instant::now(), Cpu::of(None)?);
    let (rss_start_bytes, _) = resident_bytes()?;
    let mut watch = Watch::new(job, &run.topology);
    loop {
        std::thread::sleep(LOOK_EVERY);
        let rows = rows_in(shared);
        let used = Cpu::of(None)?.since(cpu);
        let (wall_s, tasks) = (began.elapsed().as_secs_f64(), shared.board.tasks());
        let done = watch.look(wall_s, used.total_s(), rows, &tasks);
        if stop.load(Ordering::Acquire) && !done {
            bail!("the run ended before its rows did");
        }
        if done {
            let (rss_settled_bytes, rss_peak_bytes) = resident_bytes()?;
            let allocations = job.count.then(allocations::counted);
            let times = Measured::timed(rows, wall_s, used);
            let ledger = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let times = accounted(times, &ledger);
            let threads = cpu_of_threads()?;
            let memory = Measured { rss_start_bytes, rss_settled_bytes, rss_peak_bytes, allocations, threads, ..times };
            return Ok(watch.figures(memory, &tasks));
        }
    }
}

fn rows_in(shared: &Shared) -> u64 {
    shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).total().rows_in
}

fn accounted(measured: Measured, ledger: &Ledger) -> Measured {
    let total = ledger.total();
    Measured { rows_in: total.rows_in, rows_accounted: total.normalized + total.rejected + total.late, ..measured }
}

/// Over a file.
pub(super) fn file(job: &Job, path: &Path) -> anyhow::Result<Measured> {
    let format = job.kind.format()?;
    let config = BacktestConfig {
        inputs: vec![InputSpec::Files { format: format.name.to_owned(), path: path.display().to_string() }],
        topology: None,
        tenant: (!format.has_tenant).then(|| "bench-1".to_owned()),
        internal: Vec::new(),
        own_rules: true,
        rules: rules(&job.detectors)?,
        flush: None,
        log: None,
        poll_records: 4096,
        partitions: None,
    };
    if job.count {
        allocations::start();
    }
    let (began, cpu) = (Instant::now(), Cpu::of(None)?);
    let (rss_start_bytes, _) = resident_bytes()?;
    let outcome = backtest::run(&config, system_clock(), |_| ())?;
    let (wall_s, used) = (began.elapsed().as_secs_f64(), Cpu::of(None)?.since(cpu));
    let (rss_settled_bytes, rss_peak_bytes) = resident_bytes()?;
    let rows = outcome.ledger.total().rows_in;
    // Of the tasks of detect, as over a log.
    let detect = || outcome.board.iter().filter(|(task, _)| task.starts_with(Stage::Detect.name())).map(|(_, progress)| progress);
    let sum = |of: fn(&tidewatch::task::Progress) -> u64| detect().map(of).sum();
    Ok(Measured {
        rss_start_bytes,
        rss_settled_bytes,
        rss_peak_bytes,
        keys: sum(|p| p.keys),
        state_bytes: sum(|p| p.state_bytes),
        evicted: sum(|p| p.evicted),
        spilled_rows: sum(|p| p.spilled_rows),
        signals: outcome.signals.len() as u64,
        allocations: job.count.then(allocations::counted),
        ..accounted(Measured::timed(rows, wall_s, used), &outcome.ledger)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tidewatch_generator::synthetic::Visits;

    use super::super::LogKind;
    use super::super::job::{Until, What};
    use super::super::paired::{self, Shape};
    use super::super::place::Place;
    use super::super::workload::{Kind, Workload};
    use super::*;

    fn shape(kind: Kind, log: LogKind) -> Shape {
        Shape {
            kind,
            log,
            flows: 4_000,
            pairs: 400,
            visits: Visits::Uneven,
            replies: true,
            skew: 0.0,
            detectors: "all".to_owned(),
            workers: 2,
            one_core: false,
            rounds: 1,
            every_s: 5,
            span_s: 600,
            seed: 3,
            tail_rows: 1_000,
            allocations: false,
        }
    }

    #[test]
    fn limit_and_pipeline_take_every_row_on_a_log_and_over_a_file() {
        for (kind, log) in [(Kind::Flow, LogKind::Embedded), (Kind::Zeek, LogKind::Embedded), (Kind::Flow, LogKind::File)] {
            let mut place = Place::new(None, None).unwrap();
            let shape = shape(kind, log);
            let workload = Workload::new(kind, shape.synthetic());
            let source = place.source(log, "rows.records").unwrap();
            let loaded = match log {
                LogKind::File => workload.write(&place.file("rows.records")).unwrap(),
                _ => workload.load(&*source.log().unwrap(), "in", &mut workload.records(), true).unwrap(),
            };
            let order = |what| Job {
                topic: "in".to_owned(),
                rows: loaded.rows,
                ..paired::job(&shape, what, source.clone(), Until::Closed(loaded.end), &place).unwrap()
            };
            assert_eq!(order(What::Limit).here().unwrap().rows, loaded.rows, "{kind:?}");
            let measured = order(What::Pipeline).here().unwrap();
            assert_eq!((measured.rows_in, measured.rows_accounted), (loaded.rows, loaded.rows), "{kind:?}");
            assert!(measured.keys > 0 && measured.state_bytes > 0 && measured.evicted == 0, "{kind:?}: {measured:?}");
            if log == LogKind::Embedded {
                assert!(measured.slice_bytes_max > 0 && measured.tail_cpu_ns_per_flow.is_some() && measured.tasks.len() == 8);
            }
        }
    }

    #[test]
    fn unknown_detectors_are_refused_with_the_list() {
        assert!(check("all").is_ok() && check("none").is_ok() && check(detectors::ALL[0].rule_kind).is_ok());
        assert!(check("nonesuch").unwrap_err().to_string().contains(detectors::ALL[0].rule_kind));
    }
}
