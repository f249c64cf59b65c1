//! `generate`: a plan from the arguments, its traffic into a directory. The directory appears when it is complete: until
//! then everything goes to `DIR.partial`. The same arguments give the same bytes.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use tidewatch_generator::recordfile::{self, Header, write_record};
use tidewatch_generator::truth::TRUTH_FILE;
use tidewatch_generator::world::HOSTS_MAX;
use tidewatch_generator::zeek::ZeekLine;
use tidewatch_generator::{PRESET_START, Plan, Record, Style, probectl_records, truths_until, zeek_lines};
use tidewatch_schemas::time::EventTime;

use crate::zeek_files::{Rotate, ZeekFiles};

/// Tenants of a Zeek output at most: each keeps four files open.
const ZEEK_TENANTS_MAX: u32 = 200;
/// Tenants of any output at most.
const TENANTS_MAX: u32 = tidewatch_generator::plan::TENANTS_MAX;
/// Longest plan, days: seconds stay in 32 bits.
const DAYS_MAX: f64 = 3_660.0;

/// Write seeded traffic with injected attacks and the truth about them.
///
/// The same arguments give the same bytes on every machine. DIR gets the traffic, truth.ndjson (one label for each attack)
/// and plan.json (everything that was decided).
#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidewatch-bench generate --seed 7 --hosts 200 --days 2 --out /tmp/flows
  tidewatch-bench generate --seed 7 --hosts 50 --days 1 --format zeek --rotate hourly --out /tmp/zeek
  tidewatch-bench generate --preset demo --out /tmp/demo

probectl: DIR/TOPIC.records, for each record a 4-octet big-endian length, a JSON header {key,timestamp}, a 4-octet length
and the value. zeek: DIR/{conn,dns,ssl,http}.log, below a directory for each tenant when there are several.")]
pub struct Args {
    /// Seed of all random numbers.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Client hosts of each tenant; servers come on top.
    #[arg(long, value_name = "H", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=i64::from(HOSTS_MAX)))]
    hosts: u32,
    /// Length in days; fractions are fine.
    #[arg(long, value_name = "D", default_value_t = 1.0, value_parser = days)]
    days: f64,
    /// Tenants, all with the same internal addresses.
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(TENANTS_MAX)))]
    tenants: u32,
    /// End after this many connections (or parts of long ones).
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    flows: Option<u64>,
    /// All the look-ups that ordinary machines make, and every family of generated names and layout of a tunnel.
    #[arg(long)]
    dns: bool,
    /// Wire form.
    #[arg(long, value_enum, default_value_t = Format::Probectl)]
    format: Format,
    /// One file for each log, or an hourly .gz in a directory for each day (Zeek formats).
    #[arg(long, value_enum, default_value_t = Rotate::Never)]
    rotate: Rotate,
    /// First moment [default: 2026-03-11T08:00:00Z].
    #[arg(long, value_name = "RFC3339", value_parser = start)]
    start: Option<EventTime>,
    /// A ready plan in place of hosts, days and tenants.
    #[arg(long, value_enum, conflicts_with_all = ["hosts", "days", "tenants", "start"])]
    preset: Option<Preset>,
    /// Directory to make; must not exist, or be empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Wire forms.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// probectl's topics, protobuf.
    Probectl,
    /// Zeek logs, tab-separated.
    Zeek,
    /// Zeek logs, JSON.
    ZeekJson,
}

/// Ready plans.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// Three tenants, a working day, eight attacks.
    Demo,
    /// Two tenants, three hours, five attacks.
    Small,
    /// One tenant, three days, scans of every form and pace, and hosts that look alike.
    Scans,
}

/// Runs the command.
///
/// # Errors
/// Says which argument cannot be, or which file cannot be written.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let plan = plan_of(args)?;
    let partial = partial_of(&args.out)?;
    let written = write(args, &plan, &partial);
    let rows = match written {
        Ok(rows) => rows,
        Err(error) => {
            // What is half done is no use to anybody; the first error is the one to tell.
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    if args.out.exists() {
        fs::remove_dir(&args.out).with_context(|| format!("cannot replace the empty {}", args.out.display()))?;
    }
    fs::rename(&partial, &args.out).with_context(|| format!("cannot move the result to {}", args.out.display()))?;
    let mut out = std::io::stdout().lock();
    for (what, count) in rows {
        writeln!(out, "{count:>12}  {what}").context("cannot write to the standard output")?;
    }
    Ok(())
}

fn plan_of(args: &Args) -> anyhow::Result<Plan> {
    if args.format == Format::Probectl && args.rotate != Rotate::Never {
        bail!("--rotate hourly goes with --format zeek or zeek-json");
    }
    if args.format != Format::Probectl && args.tenants > ZEEK_TENANTS_MAX {
        bail!("--tenants {}: at most {ZEEK_TENANTS_MAX} with a Zeek format (four open files each)", args.tenants);
    }
    let mut plan = match args.preset {
        Some(Preset::Demo) => Plan::demo(args.seed),
        Some(Preset::Small) => Plan::small(args.seed),
        Some(Preset::Scans) => Plan::scans(args.seed),
        None => {
            let duration_s = ((args.days * 86_400.0) as u32).max(1);
            Plan::office(args.seed, args.tenants, args.hosts, args.start.unwrap_or(PRESET_START), duration_s)
        }
    };
    plan.flows_max = args.flows;
    Ok(if args.dns { plan.with_dns() } else { plan })
}

/// The directory to work in, made anew.
fn partial_of(out: &Path) -> anyhow::Result<PathBuf> {
    match fs::read_dir(out) {
        Ok(mut entries) => {
            if entries.next().is_some() {
                bail!("--out {}: is not empty; name a new directory", out.display());
            }
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("--out {}: cannot be used as a directory", out.display())),
    }
    let Some(name) = out.file_name() else { bail!("--out {}: has no name; name a new directory", out.display()) };
    let mut partial_name = name.to_owned();
    partial_name.push(".partial");
    let partial = out.with_file_name(partial_name);
    if partial.exists() {
        bail!("{} is there, left by a run that was stopped or still at work; remove it first", partial.display());
    }
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    Ok(partial)
}

/// Writes everything; what was written, with counts.
fn write(args: &Args, plan: &Plan, dir: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let plan_path = dir.join("plan.json");
    let plan_text = serde_json::to_string_pretty(plan)? + "\n";
    fs::write(&plan_path, plan_text).with_context(|| format!("cannot write {}", plan_path.display()))?;

    let progress = Progress::new(plan);
    let mut counts = match args.format {
        Format::Probectl => write_probectl(plan, dir, &progress)?,
        Format::Zeek => write_zeek(plan, dir, Style::Tsv, args.rotate, &progress)?,
        Format::ZeekJson => write_zeek(plan, dir, Style::Json, args.rotate, &progress)?,
    };
    progress.bar.finish_and_clear();
    let truth_path = dir.join(TRUTH_FILE);
    // What `--flows` cut off has no label.
    let labels = truths_until(plan, if plan.flows_max.is_some() { progress.last.get() } else { plan.end() });
    let lines: String = labels.iter().map(|label| label.to_line() + "\n").collect();
    fs::write(&truth_path, lines).with_context(|| format!("cannot write {}", truth_path.display()))?;
    counts.push(("injected attacks".to_owned(), labels.len() as u64));
    Ok(counts)
}

fn write_probectl(plan: &Plan, dir: &Path, progress: &Progress) -> anyhow::Result<Vec<(String, u64)>> {
    let mut files: Vec<(&'static str, PathBuf, BufWriter<File>, u64)> = Vec::new();
    let mut records = probectl_records(plan);
    for Record { topic, key, timestamp, value } in records.by_ref() {
        // There are two topics.
        let at = match files.iter().position(|(name, ..)| *name == topic) {
            Some(at) => at,
            None => {
                let path = dir.join(format!("{topic}.{}", recordfile::EXTENSION));
                let file = File::create_new(&path).with_context(|| format!("cannot make {}", path.display()))?;
                files.push((topic, path, BufWriter::with_capacity(1 << 20, file), 0));
                files.len() - 1
            }
        };
        let (_, path, out, count) = &mut files[at];
        let header = Header { key: String::from_utf8(key).ok(), timestamp, partition: None };
        write_record(out, &header, &value).with_context(|| format!("cannot write {}", path.display()))?;
        *count += 1;
        progress.at(timestamp);
    }
    progress.last.set(records.reached());
    for (_, path, out, _) in &mut files {
        out.flush().with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut counts: Vec<_> = files.iter().map(|(topic, _, _, count)| (format!("records of {topic}"), *count)).collect();
    counts.push(("flow records and calls in them".to_owned(), records.rows()));
    Ok(counts)
}

fn write_zeek(plan: &Plan, dir: &Path, style: Style, rotate: Rotate, progress: &Progress) -> anyhow::Result<Vec<(String, u64)>> {
    let mut files = ZeekFiles::new(plan, dir, style, rotate);
    for ZeekLine { log, tenant, at, line } in zeek_lines(plan, style) {
        files.write(tenant, log, at, &line)?;
        progress.at(at);
    }
    files.finish()
}

/// A bar over event time; nothing is drawn when the error output is no terminal.
struct Progress {
    bar: ProgressBar,
    start: EventTime,
    /// Event time reached; exact once the traffic has ended.
    last: Cell<EventTime>,
}

impl Progress {
    fn new(plan: &Plan) -> Self {
        let bar = ProgressBar::new(u64::from(plan.duration_s));
        if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent:>3} % of the time, {eta} left") {
            bar.set_style(style);
        }
        Self { bar, start: plan.start, last: Cell::new(plan.start) }
    }

    fn at(&self, now: EventTime) {
        self.last.set(now);
        let seconds = now.since(self.start).max(0) as u64 / 1_000_000_000;
        // One draw a minute of event time at most.
        if seconds >= self.bar.position() + 60 {
            self.bar.set_position(seconds);
        }
    }
}

fn days(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(days) if days > 0.0 && days <= DAYS_MAX => Ok(days),
        _ => Err(format!("expected a number of days above 0 and up to {DAYS_MAX}")),
    }
}

fn start(text: &str) -> Result<EventTime, String> {
    EventTime::parse_rfc3339(text)
        .filter(|at| at.0 >= 0 && at.since(EventTime::from_secs(7_258_118_400)) < 0)
        .ok_or_else(|| "expected an RFC 3339 time from 1970 to 2199, as 2026-03-11T08:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::Parser;
    use tidewatch_generator::Truth;
    use tidewatch_generator::recordfile::RecordFile;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Result<Args, clap::Error> {
        Only::try_parse_from(std::iter::once("generate").chain(words.iter().copied())).map(|only| only.args)
    }

    #[test]
    fn the_directory_holds_records_truth_and_plan() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("made");
        let text = out.to_str().unwrap();
        run(&args(&["--preset", "small", "--flows", "10000", "--out", text]).unwrap()).unwrap();
        let file = File::open(out.join("probectl.flow.events.records")).unwrap();
        let records: Vec<_> = RecordFile::new(std::io::BufReader::new(file)).map(Result::unwrap).collect();
        let plan: Plan = serde_json::from_str(&fs::read_to_string(out.join("plan.json")).unwrap()).unwrap();
        let expected: Vec<_> = probectl_records(&plan).filter(|r| r.topic == "probectl.flow.events").collect();
        assert_eq!(records.len(), expected.len());
        assert!(records.iter().zip(&expected).all(|(r, e)| r.value == e.value && r.header.timestamp == e.timestamp));
        let truth = fs::read_to_string(out.join(TRUTH_FILE)).unwrap();
        let labels: Vec<_> = truth.lines().map(|line| Truth::from_line(line).unwrap()).collect();
        let end = records.last().unwrap().header.timestamp;
        assert!(!labels.is_empty() && labels.len() < 5 && labels.iter().all(|l| l.last <= end), "10000 flows are not all");
        assert!(!place.path().join("made.partial").exists());
        let again = run(&args(&["--preset", "small", "--out", text]).unwrap()).unwrap_err();
        assert!(again.to_string().contains("is not empty"), "{again}");
    }

    #[test]
    fn hourly_files_begin_and_end_as_they_should() {
        let place = tempfile::tempdir().unwrap();
        let out = place.path().join("zeek");
        let words = ["--hosts", "3", "--days", "0.1", "--format", "zeek", "--rotate", "hourly", "--out", out.to_str().unwrap()];
        run(&args(&words).unwrap()).unwrap();
        let mut lines = 0;
        for hours in ["08_00_00-09_00_00", "09_00_00-10_00_00", "10_00_00-11_00_00"] {
            let file = File::open(out.join(format!("2026-03-11/conn.{hours}.log.gz"))).unwrap();
            let text = std::io::read_to_string(flate2::read::GzDecoder::new(file)).unwrap();
            assert!(text.starts_with("#separator \\x09\n"));
            assert_eq!(text.matches("#fields").count(), 1);
            assert!(text.lines().last().unwrap().starts_with("#close\t2026-03-11-"), "{hours}");
            lines += text.lines().filter(|l| !l.starts_with('#')).count();
        }
        let plan: Plan = serde_json::from_str(&fs::read_to_string(out.join("plan.json")).unwrap()).unwrap();
        let expected = zeek_lines(&plan, Style::Tsv).filter(|l| l.log == tidewatch_generator::zeek::Log::Conn).count();
        assert_eq!(lines, expected);
    }

    #[test]
    fn bad_arguments_are_told_apart() {
        for words in [
            &["--hosts", "0", "--out", "x"][..],
            &["--days", "-1", "--out", "x"],
            &["--days", "nan", "--out", "x"],
            &["--start", "yesterday", "--out", "x"],
            &["--format", "pcap", "--out", "x"],
            &["--preset", "demo", "--hosts", "3", "--out", "x"],
            &["--tenants", "1"],
        ] {
            assert_eq!(args(words).err().map(|e| e.exit_code()), Some(2), "{words:?}");
        }
        let wrong = args(&["--rotate", "hourly", "--out", "x"]).unwrap();
        assert!(plan_of(&wrong).unwrap_err().to_string().contains("--format zeek"));
        let many = args(&["--format", "zeek", "--tenants", "500", "--out", "x"]).unwrap();
        assert!(plan_of(&many).unwrap_err().to_string().contains("at most 200"));
    }
}
