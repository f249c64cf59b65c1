//! `simulate`: the deterministic simulation of the whole pipeline, many seeds or one, and the controls.
//!
//! `cargo run --release -p tidewatch-tests --bin simulate -- --seeds 1000 --start 1 --json report.json --controls`
//!
//! Exit code 0 = every seed passed and every control that was asked for was found.

#![allow(clippy::print_stdout, reason = "a command says what it does")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::sim::controls::Control;
use tidewatch_tests::sim::plan::plan;
use tidewatch_tests::sim::report::{Failure, POINTS_SEEDS_MIN, Report};
use tidewatch_tests::sim::suite::{self, References};
use tidewatch_tests::sim::world::{Outcome, told};

/// Failing seeds that are explained; the others are only named.
const EXPLAINED_MAX: usize = 3;

/// Runs worlds until one breaks a promise, or none does.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Args {
    /// Number of seeds; 0 = none, for controls alone
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// First seed
    #[arg(long, default_value_t = 1)]
    start: u64,
    /// Writes the report there
    #[arg(long)]
    json: Option<PathBuf>,
    /// Looks for every planted bug, too
    #[arg(long)]
    controls: bool,
    /// Looks for the planted bug of this number only (see --controls for their order), from 0
    #[arg(long)]
    control: Option<usize>,
    /// Runs this seed alone and tells its history
    #[arg(long)]
    seed: Option<u64>,
    /// With --seed: makes a failing history as short as it goes
    #[arg(long)]
    shrink: bool,
    /// With --seed: only the accidents of these numbers happen
    #[arg(long, value_delimiter = ',')]
    faults: Option<Vec<usize>>,
    /// Worlds at a time
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let good = match args.seed {
        Some(seed) => single(seed, &args)?,
        None => many(&args)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One seed, told.
fn single(seed: u64, args: &Args) -> anyhow::Result<bool> {
    let all = plan(seed);
    if args.shrink {
        return Ok(match suite::explain(seed, true)? {
            Some(failure) => tell(&failure),
            None => {
                println!("seed {seed} passes");
                true
            }
        });
    }
    let chosen = |n: &usize| args.faults.as_ref().is_none_or(|f| f.contains(n));
    let accidents: Vec<_> = all.iter().enumerate().filter(|(n, _)| chosen(n)).map(|(_, a)| *a).collect();
    for (n, accident) in all.iter().enumerate().filter(|(n, _)| chosen(n)) {
        println!("{n:>3} {accident}");
    }
    let control = args.control.and_then(|n| Control::ALL.get(n)).copied();
    let outcome = suite::one(seed, accidents, &References::new(control))?;
    print!("{}", told(&outcome.history, usize::MAX));
    summary(&outcome);
    Ok(outcome.broken.is_none())
}

fn summary(o: &Outcome) {
    println!(
        "seed {}: {} steps, {} s simulated, {} crashes, {} moves of partitions, {} signals, {} states compared, history {:016x}",
        o.seed,
        o.history.count,
        o.took_ns / 1_000_000_000,
        o.history.crashes.len(),
        o.rebalances,
        o.signals,
        o.compared,
        o.history.digest
    );
    match &o.broken {
        Some(broken) => println!("BROKEN: {broken}"),
        None => println!("every promise held"),
    }
}

fn tell(failure: &Failure) -> bool {
    println!("seed {} BROKEN: {}", failure.seed, failure.broken);
    println!("accidents:\n{}", failure.accidents.join("\n"));
    println!("the end of its history:\n{}", failure.history);
    println!("repeat it with\n  {}", failure.command);
    false
}

fn many(args: &Args) -> anyhow::Result<bool> {
    let began = Instant::now();
    let done = AtomicU64::new(0);
    let mut report = if args.seeds == 0 {
        Report::default()
    } else {
        suite::seeds(args.start, args.seeds, args.threads, |outcome| {
            let n = done.fetch_add(1, Ordering::Relaxed) + 1;
            if outcome.broken.is_some() || n.is_multiple_of(50) {
                let state = if outcome.broken.is_some() { "BROKEN" } else { "" };
                println!("{n} of {} seeds, {:.0} s; seed {} {state}", args.seeds, began.elapsed().as_secs_f64(), outcome.seed);
            }
        })?
    };
    report.took_s = began.elapsed().as_secs_f64();
    for (n, control) in Control::ALL.iter().enumerate() {
        if args.controls || args.control == Some(n) {
            let line = suite::control(*control, args.start, args.threads);
            println!("{n:>2} {}: {}", line.name, line.after.map_or("not found".to_owned(), |s| format!("found in seed {s}")));
            report.controls.push(line);
        }
    }
    print!("{}", report.table());
    println!("all        {:.1} s", began.elapsed().as_secs_f64());
    if let Some(path) = &args.json {
        let mut json = report.json();
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let now: EventTime = (tidewatch::worker::system_clock())();
        json["command"] = format!("cargo run --release -p tidewatch-tests --bin simulate -- {}", arguments.join(" ")).into();
        json["at"] = now.to_rfc3339().into();
        json["commit"] = commit().into();
        std::fs::write(path, serde_json::to_string_pretty(&json)? + "\n")?;
    }
    for seed in report.failed.keys().take(EXPLAINED_MAX) {
        if let Some(failure) = suite::explain(*seed, true)? {
            tell(&failure);
        }
    }
    for name in report.not_found() {
        println!("control NOT FOUND: {name}");
    }
    let enough = report.is_enough();
    if !enough {
        println!("NOT ENOUGH: worlds that count, or crash points hit (asked of {POINTS_SEEDS_MIN} seeds and more)");
    }
    Ok(report.failed.is_empty() && report.not_found().is_empty() && enough)
}

/// The commit that was built, if this is its working copy.
fn commit() -> Option<String> {
    let out = std::process::Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=10"]).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
