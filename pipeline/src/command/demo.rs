//! `tidewatch demo`: the whole pipeline on generated traffic, no broker, no configuration. Generates a working day with
//! attacks in it, produces it into an embedded log, runs every stage, prints signals as they commit, and holds what was
//! found against what was injected.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tidewatch_generator::{Plan, Truth, probectl_records, truths};
use tidewatch_operators::detectors;
use tidewatch_schemas::signal::{Severity, Signal};

use super::{Exit, Failure, Output, output};
use crate::backtest::SignalReader;
use crate::epoch::Counts;
use crate::log::embedded::{Durability, EmbeddedLog, Options};
use crate::log::partitioner::murmur2_partition;
use crate::log::{Append, Log};
use crate::run::{Run, Shared};
use crate::topology::{Stage, Topology};
use crate::worker::system_clock;

/// Records in one transaction of the producer.
const BATCH_RECORDS: usize = 500;

/// Signals printed one by one; the table counts them all.
const PRINTED_MAX: usize = 40;

const TOPOLOGY: &str = "\
log: {memory: {}}
inputs:
  - {topic: probectl.flow.events, format: probectl-flow, tenant: {verified: {open: true}}, partitions: 4}
  - {topic: probectl.ebpf.flows, format: probectl-ebpf, tenant: {verified: {open: true}}, partitions: 2}
";

/// See the whole pipeline at work on generated traffic
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch demo --seed 7")]
pub struct Args {
    /// Seed of the traffic; the same seed gives the same signals
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the embedded log goes; kept afterwards when given (default: a temporary directory)
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// One JSON object a line: every signal, then the figures
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let began = Instant::now();
    let dir = Directory::new(args.dir.clone())?;
    let options = Options { durability: Durability::Process, ..Options::default() };
    let log: Arc<dyn Log> = Arc::new(EmbeddedLog::open(dir.path.join("log"), options)?);
    let plan = Plan::demo(args.seed);
    let injected = truths(&plan);
    let mut topology = Topology::parse("the demo's topology", TOPOLOGY).map_err(Failure::Config)?;
    topology.limits.spill_dir = dir.path.join("spill");
    let rules = crate::rules::load(None, detectors::ALL).map_err(Failure::Config)?;
    let mut run = Run::new(topology, rules.rules, log.clone(), system_clock());
    run.create_topics()?;
    if !args.json {
        out.line(format!(
            "A working day of {} tenants with {} hosts each, {} attacks injected (seed {}).",
            plan.tenants.len(),
            plan.hosts_per_tenant,
            injected.len(),
            args.seed
        ))?;
        out.flush()?;
    }
    produce(&run, &plan)?;
    super::run::bound_by_what_is_there(&mut run)?;
    let produced = began.elapsed();

    let cpu_before = cpu_s();
    let shared = run.shared();
    let mut signals = SignalReader::open(&log, &run.topology.names.signals())?;
    let first_after = watch(&run, &shared, &mut signals, began, args.json, out)?;
    let cpu = cpu_s() - cpu_before;

    let found: Vec<Signal> = signals.found.into_iter().map(|(_, s)| s).collect();
    let score = Score::of(&injected, &found);
    let total = shared.ledger.lock().unwrap_or_else(PoisonError::into_inner).total();
    let figures = Figures { total, cpu, seconds: began.elapsed(), produced, first_after };
    if args.json {
        out.json(&json!({
            "rows_in": total.rows_in,
            "rows_accounted": total.normalized + total.rejected + total.late,
            "injected": injected.len(),
            "found": score.found.iter().filter(|f| **f).count(),
            "false_alarms": score.false_alarms.len(),
            "seconds": figures.seconds.as_secs_f64(),
            "first_signal_after_s": first_after.map(|d| d.as_secs_f64()),
            "signals": found.len(),
            "cpu_us_per_row": cpu * 1e6 / total.rows_in.max(1) as f64,
        }))?;
    } else {
        tell(&injected, &score, &found, &figures, out)?;
    }
    let good = score.found.iter().all(|f| *f) && total.rows_in == total.normalized + total.rejected + total.late;
    Ok(if good { Exit::Good } else { Exit::Findings })
}

struct Directory {
    path: PathBuf,
    temporary: bool,
}

impl Directory {
    fn new(given: Option<PathBuf>) -> Result<Self, Failure> {
        let temporary = given.is_none();
        let path = given.unwrap_or_else(|| std::env::temp_dir().join(format!("tidewatch-demo-{}", std::process::id())));
        let made = if temporary { std::fs::create_dir(&path) } else { std::fs::create_dir_all(&path) };
        made.map_err(|e| Failure::File { verb: "make", path: path.display().to_string(), reason: e.to_string() })?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.temporary {
            // Left behind at worst: it is a temporary directory.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn produce(run: &Run, plan: &Plan) -> Result<(), Failure> {
    let failed = |e: crate::log::CommitError| Failure::Failed(format!("producing failed: {e}"));
    let mut writer = run.log.writer("tidewatch-demo-producer")?;
    let mut partitions: BTreeMap<&str, u32> = BTreeMap::new();
    let bar = output::progress(0, "records produced");
    let mut batch = Vec::with_capacity(BATCH_RECORDS);
    for record in probectl_records(plan) {
        let count = match partitions.get(record.topic) {
            Some(count) => *count,
            None => *partitions.entry(record.topic).or_insert(run.log.partitions(record.topic)?),
        };
        batch.push(Append {
            topic: record.topic.to_owned(),
            partition: murmur2_partition(&record.key, count),
            timestamp: None,
            key: Some(record.key.into()),
            value: Some(record.value.into()),
            headers: Vec::new(),
        });
        if batch.len() == BATCH_RECORDS {
            writer.commit(&batch, &[]).map_err(failed)?;
            bar.inc(batch.len() as u64);
            batch.clear();
        }
    }
    writer.commit(&batch, &[]).map_err(failed)?;
    bar.finish_and_clear();
    Ok(())
}

/// Runs the stages on threads and prints what commits. Returns when the first signal was there.
fn watch(
    run: &Run,
    shared: &Shared,
    signals: &mut SignalReader,
    began: Instant,
    json: bool,
    out: &mut Output,
) -> Result<Option<Duration>, Failure> {
    let stop = AtomicBool::new(false);
    let mut first = None;
    let mut told = 0;
    let stages = [Stage::Normalize, Stage::Detect, Stage::Correlate];
    std::thread::scope(|scope| {
        let work = scope.spawn(|| run.threaded(&stages, shared, &stop, true));
        loop {
            let finished = work.is_finished();
            signals.read()?;
            for (line, signal) in &signals.found[told..] {
                first.get_or_insert_with(|| began.elapsed());
                if json {
                    out.line(line)?;
                } else if told < PRINTED_MAX {
                    out.line(format!(
                        "{}  {:<8} {:>3}  {:<6} {}",
                        signal.decided_at,
                        signal.severity.name(),
                        signal.confidence,
                        signal.tenant,
                        signal.why
                    ))?;
                }
                told += 1;
            }
            out.flush()?;
            if finished {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        match work.join() {
            Ok(result) => result.map_err(|e| Failure::Failed(e.to_string())),
            Err(_) => Err(Failure::Failed("a worker panicked; this is a bug".to_owned())),
        }
    })?;
    Ok(first)
}

/// What was found against what was injected.
struct Score {
    /// Per injected attack.
    found: Vec<bool>,
    /// (tenant, kind, host, subject) of alerts that no attack explains: severity medium or more.
    false_alarms: BTreeSet<(String, String, String, String)>,
}

impl Score {
    fn of(injected: &[Truth], signals: &[Signal]) -> Self {
        let mut found = vec![false; injected.len()];
        let mut false_alarms = BTreeSet::new();
        for signal in signals {
            let mut explained = false;
            for (i, truth) in injected.iter().enumerate() {
                if signal.tenant == truth.tenant && signal.entity.id == truth.host {
                    let right = signal.kind == truth.kind && goes_to(signal, truth);
                    found[i] |= right;
                    explained |= right || truth.also.contains(&signal.kind);
                }
            }
            if !explained && signal.severity >= Severity::Medium {
                let to = signal.destination.as_ref().map(|d| format!("{:?} {:?}", d.ip, d.domain)).unwrap_or_default();
                false_alarms.insert((signal.tenant.clone(), signal.kind.clone(), signal.entity.id.clone(), to));
            }
        }
        Self { found, false_alarms }
    }
}

/// An attack with one destination must be found as a call to that one.
fn goes_to(signal: &Signal, truth: &Truth) -> bool {
    let Some(wanted) = &truth.destination else { return true };
    signal.destination.as_ref().is_some_and(|d| d.ip.as_ref() == Some(wanted) || d.domain.as_ref() == Some(wanted))
}

struct Figures {
    total: Counts,
    cpu: f64,
    seconds: Duration,
    produced: Duration,
    first_after: Option<Duration>,
}

fn tell(injected: &[Truth], score: &Score, signals: &[Signal], figures: &Figures, out: &mut Output) -> Result<(), Failure> {
    out.line("")?;
    let rows: Vec<Vec<String>> = injected
        .iter()
        .zip(&score.found)
        .map(|(t, found)| {
            let to = t.destination.clone().unwrap_or_default();
            vec![
                if *found { "found" } else { "MISSED" }.to_owned(),
                t.kind.clone(),
                t.tenant.clone(),
                t.host.clone(),
                to,
                t.note.clone(),
            ]
        })
        .collect();
    out.table(&["", "injected", "tenant", "host", "destination", "what"], &rows)?;
    out.line("")?;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for signal in signals {
        *kinds.entry(&signal.kind).or_default() += 1;
    }
    let kinds: Vec<Vec<String>> = kinds.into_iter().map(|(k, n)| vec![k.to_owned(), n.to_string()]).collect();
    out.table(&["kind", "signals"], &kinds)?;
    out.line("")?;
    let c = &figures.total;
    let n = |n: u64| n.to_string();
    let accounted = c.normalized + c.rejected + c.late;
    let lines = [
        vec!["rows in".to_owned(), n(c.rows_in)],
        vec![
            "accounted for".to_owned(),
            format!("{accounted} ({} normalized, {} rejected, {} late)", c.normalized, c.rejected, c.late),
        ],
        vec!["injected".to_owned(), n(injected.len() as u64)],
        vec!["found".to_owned(), n(score.found.iter().filter(|f| **f).count() as u64)],
        vec!["false alarms".to_owned(), n(score.false_alarms.len() as u64)],
        vec!["CPU per row".to_owned(), format!("{:.2} µs (all stages and the log)", figures.cpu * 1e6 / c.rows_in.max(1) as f64)],
        vec![
            "first signal after".to_owned(),
            figures.first_after.map_or("-".to_owned(), |d| format!("{:.1} s", d.as_secs_f64())),
        ],
        vec![
            "seconds".to_owned(),
            format!("{:.1} (producing {:.1})", figures.seconds.as_secs_f64(), figures.produced.as_secs_f64()),
        ],
    ];
    out.table(&["", ""], &lines)?;
    for (tenant, kind, host, to) in &score.false_alarms {
        out.line(format!("false alarm: {tenant} {kind} {host} {to}"))?;
    }
    Ok(())
}

/// CPU seconds of this process so far: user and system, from the kernel's own count. 0 where there is no `/proc`.
fn cpu_s() -> f64 {
    // Clock ticks are 1/100 s on every Linux that Rust runs on (USER_HZ is part of the kernel's ABI).
    const TICKS_PER_S: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / TICKS_PER_S
}
