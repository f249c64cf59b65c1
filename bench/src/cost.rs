//! `cost`: what a flow costs on the whole way, from the broker's bytes to the committed signal, beside the limit of the same
//! run: one process that consumes the same topic and decodes the same fields, and does nothing else. Makes the workload
//! once, brings its own Kafka unless told another, and runs the two in turn, each in a process of its own.
//!
//! Judges nothing but whether a run counts: when the limit itself takes too long, the machine had other things to do. The
//! figures are of one machine; a ratio says more than a time.

mod catch_up;
mod columns;
mod job;
mod latency;
mod limit;
pub(crate) mod machine;
mod paired;
mod place;
mod report;
mod watch;
mod whole;
mod workload;

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::ValueEnum;
use tidewatch::topology::SNAPSHOT_EVERY_DEFAULT;
use tidewatch_generator::synthetic::Visits;

use job::{Job, Until, What};
use paired::{Paired, Shape};
use place::Place;
use report::Report;
use workload::{Kind, Workload};

/// Measure what a flow costs from the broker's bytes to a committed signal, beside the least that anybody pays.
///
/// Build with --release; the figures are of this machine and of what else runs on it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  cargo run --release -p tidewatch-bench -- cost --flows 5000000 --pairs 1000000 --json cost.json
  cargo run --release -p tidewatch-bench -- cost --measure all --rounds 5 --json cost.json --markdown cost.md
  cargo run --release -p tidewatch-bench -- cost --log file --here --flows 300000 --pairs 60000 --span 600

A Kafka of its own needs Java and Maven, which brings its jars once. With --brokers topics named cost-* stay behind there.")]
pub struct Args {
    /// Rows; for flows, flow records.
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    flows: u64,
    /// Distinct pairs of host and destination among them.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Detectors that run: all, none, or the kind of one.
    #[arg(long, value_name = "WHICH", default_value = "all")]
    detectors: String,
    /// What is measured.
    #[arg(long, value_enum, default_value_t = Measure::Cost)]
    measure: Measure,
    /// Where topics lie.
    #[arg(long, value_enum, default_value_t = LogKind::Kafka)]
    log: LogKind,
    /// A Kafka that is there, instead of one that is started.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    /// Kind of rows.
    #[arg(long, value_enum, default_value_t = Kind::Flow)]
    input: Kind,
    /// Pairs of runs, limit and pipeline in turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Worker threads of normalize and of detect.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: u32,
    /// Share of all flows that one host has; measured beside the same without.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = share)]
    skew: f64,
    /// Seconds between snapshots: a run is short, and shall pay for some.
    #[arg(long, value_name = "S", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Live pairs of the largest run of --measure scaling.
    #[arg(long, value_name = "N", default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    live: u64,
    /// Event time that the flows are spread over, seconds.
    #[arg(long, value_name = "S", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(1..))]
    span: u32,
    /// Seed of all random numbers.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Where the workload, logs and snapshots go; a temporary directory when not given.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Where the figures go as one JSON object, besides the table.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where they go as a page.
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// With --log file: once, in this process, without the limit; for profilers.
    #[arg(long)]
    here: bool,
    /// This process measures; the order as JSON.
    #[arg(long, hide = true, value_name = "JSON")]
    child: Option<String>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// The cost of a row.
    Cost,
    /// The same on Kafka, on the embedded log, and as a backtest over a file.
    Logs,
    /// The same of flows, DNS calls and Zeek's JSON lines.
    Inputs,
    /// Over 1e5, 1e6 and so on up to --live pairs: memory, and the cost of the last rows; and pairs that call like timers.
    Scaling,
    /// The last of these alone: --live pairs.
    Live,
    /// One worker and two.
    Workers,
    /// How quickly a job that was stopped catches up.
    CatchUp,
    /// From a row's event to the signal that it causes, at half the load that the machine can bear.
    Latency,
    /// Everything.
    All,
}

/// Logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogKind {
    Kafka,
    Embedded,
    File,
}

/// Runs the command.
///
/// # Errors
/// Says what cannot be started, written, read or measured.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(job) = &args.child {
        let measured = serde_json::from_str::<Job>(job).context("the order is not understood")?.here()?;
        return say(&(serde_json::to_string(&measured)? + "\n"));
    }
    whole::check(&args.detectors)?;
    if args.here {
        return here(args);
    }
    let began = Instant::now();
    let mut place = Place::new(args.dir.as_deref(), args.brokers.clone())?;
    let mut report = Report::new(shape(args))?;
    measure(args, &mut place, &mut report)?;
    report.took_s = began.elapsed().as_secs_f64();
    say(&report.text())?;
    save(args, &report)
}

/// Writes what there is: a long run that is stopped has left the measures that it was done with.
fn save(args: &Args, report: &Report) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let json = serde_json::to_string_pretty(&report.json()?)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        std::fs::write(path, report.markdown()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn shape(args: &Args) -> Shape {
    Shape {
        kind: args.input,
        log: args.log,
        flows: args.flows,
        pairs: args.pairs,
        visits: Visits::Uneven,
        replies: true,
        skew: args.skew,
        detectors: args.detectors.clone(),
        workers: args.workers,
        one_core: false,
        rounds: args.rounds,
        every_s: args.every,
        span_s: args.span,
        seed: args.seed,
        tail_rows: 0,
        allocations: true,
    }
}

fn measure(args: &Args, place: &mut Place, report: &mut Report) -> anyhow::Result<()> {
    let base = shape(args);
    let wants = |measure| args.measure == measure || args.measure == Measure::All;
    let run = |place: &mut Place, report: &mut Report, name: &str, shape: Shape| -> anyhow::Result<Paired> {
        place.clear()?;
        eprintln!("measuring {name}: {} rows, {} pairs, {} rounds", shape.flows, shape.pairs, shape.rounds);
        let paired = paired::run(place, &shape)?;
        eprint!("{}", paired.line(name));
        report.sections.push((name.to_owned(), paired.clone()));
        save(args, report)?;
        Ok(paired)
    };
    if args.measure == Measure::Live {
        let shape = Shape { allocations: false, ..scaled(&base, args.live) };
        return run(place, report, &format!("live-{}", args.live), shape).map(drop);
    }
    let others = |shape: Shape| Shape { allocations: false, ..shape };
    let main = if wants(Measure::Logs) {
        let logs = [("kafka", LogKind::Kafka), ("embedded", LogKind::Embedded), ("file", LogKind::File)];
        let further = logs.into_iter().filter(|(_, log)| *log != base.log);
        let further: Vec<_> = further.map(|(name, log)| (name, others(Shape { log, ..base.clone() }))).collect();
        let all: Vec<(&str, Shape)> = [("main", base.clone())].into_iter().chain(further).collect();
        in_turn(args, place, report, &all)?
    } else {
        run(place, report, "main", base.clone())?
    };
    if args.skew > 0.0 {
        run(place, report, "even", Shape { skew: 0.0, ..base.clone() })?;
    } else if args.measure == Measure::All {
        run(place, report, "skewed", Shape { skew: 0.2, allocations: false, ..base.clone() })?;
    }
    if wants(Measure::Inputs) {
        for (name, kind) in [("flow", Kind::Flow), ("dns", Kind::Dns), ("zeek", Kind::Zeek)] {
            if kind != base.kind {
                let flows = base.flows / 5;
                run(place, report, name, others(Shape { kind, flows, ..base.clone() }))?;
            }
        }
    }
    if wants(Measure::Workers) {
        // A broker on the same cores would be measured with it.
        let all = [("workers-1-core-1", 1, true), ("workers-1", 1, false), ("workers-2", 2, false)];
        let all = all.map(|(name, workers, one_core)| {
            // Two workers are done in four seconds, and pay for snapshots like one.
            let every_s = base.every_s.min(2);
            let shape = Shape { workers, one_core, log: LogKind::Embedded, every_s, ..base.clone() };
            (name, others(shape))
        });
        in_turn(args, place, report, &all)?;
    }
    if wants(Measure::CatchUp) {
        place.clear()?;
        report.catch_up = Some(catch_up::run(place, &base)?);
        save(args, report)?;
    }
    if wants(Measure::Latency) {
        place.clear()?;
        report.latency = Some(latency::run(place, &base, main.flows_per_s)?);
        save(args, report)?;
    }
    if wants(Measure::Scaling) {
        let mut pairs = 100_000.min(args.live);
        while pairs <= args.live {
            run(place, report, &format!("live-{pairs}"), others(scaled(&base, pairs)))?;
            pairs *= 10;
        }
        let timers = Shape { visits: Visits::Rounds, ..scaled(&base, 100_000.min(args.live)) };
        run(place, report, &format!("timers-{}", timers.pairs), others(timers))?;
    }
    Ok(())
}

/// Runs several shapes in turn; what the first one came to.
fn in_turn(args: &Args, place: &mut Place, report: &mut Report, all: &[(&str, Shape)]) -> anyhow::Result<Paired> {
    place.clear()?;
    let names: Vec<&str> = all.iter().map(|(name, _)| *name).collect();
    let shapes: Vec<Shape> = all.iter().map(|(_, shape)| shape.clone()).collect();
    let first = shapes.first().context("no shape")?;
    eprintln!("measuring {} in turn: {} rows, {} pairs, {} rounds", names.join(", "), first.flows, first.pairs, first.rounds);
    let measured = paired::run_in_turn(place, &shapes)?;
    for (name, paired) in names.iter().zip(&measured) {
        eprint!("{}", paired.line(name));
        report.sections.push(((*name).to_owned(), paired.clone()));
    }
    save(args, report)?;
    measured.into_iter().next().context("nothing was measured")
}

/// Every pair known well before the last `flows` rows, at the same rate of event time.
fn scaled(base: &Shape, pairs: u64) -> Shape {
    let known = pairs * 37 / 10;
    let flows = known + base.flows.min(5_000_000);
    let span_s = u64::from(base.span_s) * flows / base.flows.max(1);
    Shape {
        pairs,
        flows,
        visits: Visits::Live,
        // A run of minutes pays for snapshots as a deployment does.
        every_s: if pairs > 1_000_000 { SNAPSHOT_EVERY_DEFAULT.as_secs() } else { base.every_s },
        replies: false,
        span_s: u32::try_from(span_s.clamp(600, 100_000)).unwrap_or(u32::MAX),
        tail_rows: base.flows.min(5_000_000),
        ..base.clone()
    }
}

/// For profilers: one process, one run over a file.
fn here(args: &Args) -> anyhow::Result<()> {
    if args.log != LogKind::File {
        bail!("--here goes with --log file");
    }
    let place = Place::new(args.dir.as_deref(), None)?;
    let shape = shape(args);
    let workload = Workload::new(shape.kind, shape.synthetic());
    let path = place.file("flows.records");
    let loaded = workload.write(&path)?;
    let job = Job {
        rows: loaded.rows,
        ..paired::job(&shape, What::Pipeline, job::Source::File(path), Until::Closed(loaded.end), &place)?
    };
    let measured = job.here()?;
    say(&format!(
        "{} flows, {:.2} s wall, {:.2} s CPU, {:.0} ns CPU per flow, {} signals, {:.0} MiB at most\n",
        measured.rows,
        measured.wall_s,
        measured.cpu.total_s(),
        measured.cpu_ns_per_flow,
        measured.signals,
        measured.rss_peak_bytes as f64 / f64::from(1 << 20)
    ))
}

fn say(text: &str) -> anyhow::Result<()> {
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to the standard output")
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0 up to 1".to_owned()),
    }
}
