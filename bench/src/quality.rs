//! `quality`: how well the shipped detectors find what they should and how often they speak in vain: the development sets
//! and the generator's grid, through the product's own way over Zeek logs, with the rules that are shipped. Writes
//! bench/reports/quality.md and .json.
//!
//! Decides nothing and tunes nothing: goals are those of the reference, and one that is missed stands there as missed. What
//! always holds: the same data and seed give the same figures, but for times.

mod beacons;
mod benign;
mod captured;
mod cost;
mod egress;
mod families;
mod goals;
mod halves;
mod interval;
mod left_out;
mod logs;
mod look_ups;
mod made;
mod measure;
mod packets;
mod real;
mod replay;
mod report;
mod scans;
mod way;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result};
use tidewatch_operators::rule::Rule;

use self::measure::Part;

/// Measure what the shipped detectors find, and how often they speak in vain.
///
/// Runs the rules that are shipped over the development sets and the generator's grid, prints the goals and writes the report.
/// Without the folder of development sets only the generator's part is run, and the report says so.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo run --release -p tidewatch-bench -- quality --data ../shared/data")]
pub struct Args {
    /// Folder of the development sets [default: ../shared/data, else ../../shared/data].
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder that quality.md and quality.json go to.
    #[arg(long, value_name = "DIR", default_value = "bench/reports")]
    out: PathBuf,
    /// Seed of everything that is made up.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Parts that are measured side by side; the cost is measured alone.
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=64))]
    threads: u64,
    /// Only parts whose name contains this; no report is written then.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

/// What every part is given.
pub struct Context {
    /// Folder of the development sets, where it is there.
    pub data: PathBuf,
    /// Seed.
    pub seed: u64,
    /// The rules that are shipped.
    pub rules: Vec<Rule>,
    /// Room for logs that are made; goes away.
    pub room: tempfile::TempDir,
}

impl Context {
    /// A folder of the development sets.
    pub fn set(&self, name: &str) -> PathBuf {
        self.data.join(name)
    }

    /// The development sets are there.
    pub fn has_sets(&self) -> bool {
        self.data.join("flows-ctu").is_dir()
    }

    /// A new folder for logs.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.room.path().join(name);
        std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

/// A part: its name, whether it needs the development sets, and what measures it. The longest first.
type Job = (&'static str, bool, fn(&Context) -> Result<Part>);

const JOBS: &[Job] = &[
    ("ordinary look-ups", false, benign::millions),
    ("beacons, jitter one-sided", false, beacons::one_sided),
    ("beacons, jitter both ways", false, beacons::symmetric),
    ("halves: beacons", false, halves::beacons),
    ("halves: scans and movement", false, halves::scans),
    ("names of families left out", true, left_out::hosts),
    ("names across sources", true, families::across_sources),
    ("scans and held connections", false, scans::grid),
    ("halves: uploads", false, halves::uploads),
    ("egress", false, egress::grid),
    ("halves: names and tunnels", false, halves::look_ups),
    ("halves: held connections", false, halves::held),
    ("offices without attacks", false, benign::office),
    ("generated names and tunnels in an office", false, look_ups::office),
    ("memoryless controls", false, beacons::controls),
    ("tunnels by layout", false, look_ups::layouts),
    ("captured tunnels at other rates", true, look_ups::captures),
    ("crawl and other captured look-ups", true, benign::look_ups),
    ("benign days, replayed", true, benign::replayed),
    ("benign days", true, benign::days),
    ("families of generated names", true, families::hosts),
    ("captured beacons", true, real::beacons),
    ("captured scans", true, real::scans),
    ("other captures", true, real::others),
];

/// Runs the command.
///
/// # Errors
/// Says which part cannot be measured and why, or what cannot be written.
pub fn run(args: &Args) -> Result<()> {
    let began = now();
    let data = args.data.clone().or_else(found_data);
    let there = data.as_ref().is_some_and(|d| d.join("flows-ctu").is_dir());
    if !there {
        let asked = data.as_ref().map_or_else(|| "../shared/data".to_owned(), |d| d.display().to_string());
        eprintln!("no development sets in {asked}: only the generator's part is measured (--data DIR names their folder)");
    }
    let room = tempfile::Builder::new().prefix("tidewatch-quality").tempdir().context("cannot make a temporary directory")?;
    let context = Context { data: data.unwrap_or_default(), seed: args.seed, rules: way::shipped()?, room };
    let wanted = |job: &&Job| (there || !job.1) && args.only.as_ref().is_none_or(|only| job.0.contains(only.as_str()));
    let jobs: Vec<&Job> = JOBS.iter().filter(wanted).collect();
    let mut whole = Part::default();
    for part in side_by_side(&jobs, &context, args.threads as usize)? {
        whole.merge(part);
    }
    if args.only.as_ref().is_none_or(|only| "cost".contains(only.as_str())) {
        whole.merge(timed("cost", || cost::measure(&context))?);
    }
    goals::over_all(&mut whole, there);
    let head = report::Head { seed: args.seed, data: there, wall_s: began.elapsed().as_secs_f64() };
    let text = report::markdown(&head, &context.rules, &whole);
    if args.only.is_none() {
        std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
        write(&args.out.join("quality.md"), &text)?;
        write(&args.out.join("quality.json"), &report::json(&head, &context.rules, &whole)?)?;
    }
    let shown = if args.only.is_some() { text } else { report::terminal(&head, &whole) };
    std::io::stdout().lock().write_all(shown.as_bytes()).context("cannot write to the standard output")
}

fn found_data() -> Option<PathBuf> {
    ["../shared/data", "../../shared/data"].into_iter().map(PathBuf::from).find(|d| d.is_dir())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Runs jobs on so many threads; their parts in the order of the jobs.
fn side_by_side(jobs: &[&Job], context: &Context, threads: usize) -> Result<Vec<Part>> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some((name, _, work)) = jobs.get(n) else { break };
                    let part = timed(name, || work(context));
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((n, part));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(n, _)| *n);
    done.into_iter().map(|(n, part)| part.with_context(|| jobs[n].0.to_owned())).collect()
}

/// Says on the error output when a part begins and what it took.
fn timed(name: &str, work: impl FnOnce() -> Result<Part>) -> Result<Part> {
    let began = now();
    eprintln!("begin   {name}");
    let part = work();
    let rows = part.as_ref().map_or(0, |p| p.rows);
    eprintln!("{:>6.1} s {name}: {rows} rows", began.elapsed().as_secs_f64());
    part
}

#[allow(clippy::disallowed_methods, reason = "a measurement of time")]
fn now() -> Instant {
    Instant::now()
}
