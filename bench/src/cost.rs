//! `cost`: what a flow costs on the whole way, from the octets of a probectl record to a committed signal. Generates
//! synthetic records once into a file and runs the library's backtest over it in this process, so that nothing but the
//! product is measured. Judges nothing; the figures are of this machine.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use bumpalo::Bump;
use serde::Serialize;
use tidewatch::backtest::{self, BacktestConfig};
use tidewatch::input::InputSpec;
use tidewatch::worker::system_clock;
use tidewatch_generator::recordfile::{EXTENSION, Header, RecordFile, write_record};
use tidewatch_generator::{Plan, Synthetic};
use tidewatch_operators::detectors;
use tidewatch_schemas::wire::{self, Decoded, RecordMeta};

const FORMAT: &str = "probectl-flow";

/// Measure what a flow costs from its octets to a committed signal.
///
/// Build with --release; the figures are of this machine and of what else runs on it.
#[derive(clap::Args)]
#[command(after_help = "Example:
  cargo run --release -p tidewatch-bench -- cost --flows 5000000 --pairs 1000000 --limit")]
pub struct Args {
    /// Flow records.
    #[arg(long, value_name = "N", default_value_t = 5_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    flows: u64,
    /// Distinct pairs of host and destination among them.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    pairs: u64,
    /// Seed of all random numbers.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Event time that the flows are spread over, seconds.
    #[arg(long, value_name = "S", default_value_t = 3_600, value_parser = clap::value_parser!(u32).range(1..))]
    span: u32,
    /// First only read and decode the same octets: the least that any consumer pays.
    #[arg(long)]
    limit: bool,
    /// Where the figures go as one JSON object, besides standard output.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What a run came to.
#[derive(Debug, Serialize)]
struct Figures {
    flows: u64,
    pairs: u64,
    seed: u64,
    /// Octets of the record file.
    bytes: u64,
    backtest: Part,
    /// Reading and decoding alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<Part>,
    rows_in: u64,
    rows_accounted: u64,
    signals: u64,
    /// Highest resident set of the process, octets.
    resident_bytes_max: u64,
}

/// One measured part.
#[derive(Clone, Copy, Debug, Serialize)]
struct Part {
    wall_s: f64,
    cpu_s: f64,
    cpu_ns_per_flow: f64,
    flows_per_wall_s: f64,
}

impl Part {
    /// Runs `work` and measures it.
    fn measure<T>(flows: u64, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(Self, T)> {
        let (cpu, wall) = (cpu_s()?, Instant::now());
        let out = work()?;
        let (cpu_s, wall_s) = (cpu_s()? - cpu, wall.elapsed().as_secs_f64());
        let per_flow = cpu_s * 1e9 / flows as f64;
        Ok((Self { wall_s, cpu_s, cpu_ns_per_flow: per_flow, flows_per_wall_s: flows as f64 / wall_s.max(1e-9) }, out))
    }

    fn line(&self, what: &str) -> String {
        format!(
            "{what:<16} {:>8.2} s wall {:>8.2} s CPU {:>8.0} ns CPU per flow {:>10.0} flows/s\n",
            self.wall_s, self.cpu_s, self.cpu_ns_per_flow, self.flows_per_wall_s
        )
    }
}

/// Runs the command.
///
/// # Errors
/// Says what cannot be written, read or measured.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let dir = tempfile::Builder::new().prefix("tidewatch-cost").tempdir().context("cannot make a temporary directory")?;
    let path = dir.path().join(format!("flows.{EXTENSION}"));
    let synthetic = Synthetic { seed: args.seed, duration_s: args.span, ..Plan::bench(args.flows, args.pairs) };
    let (made, bytes) = Part::measure(args.flows, || generate(&synthetic, &path))?;
    let mut text = made.line("generate");
    let mut limit = None;
    if args.limit {
        let (part, rows) = Part::measure(args.flows, || decode(&path))?;
        if rows != args.flows {
            bail!("decoded {rows} of {} flows", args.flows);
        }
        text += &part.line("read and decode");
        limit = Some(part);
    }
    let (part, outcome) = Part::measure(args.flows, || whole(&path))?;
    text += &part.line("backtest");
    let total = outcome.ledger.total();
    let figures = Figures {
        flows: args.flows,
        pairs: args.pairs,
        seed: args.seed,
        bytes,
        backtest: part,
        limit,
        rows_in: total.rows_in,
        rows_accounted: total.normalized + total.rejected + total.late,
        signals: outcome.signals.len() as u64,
        resident_bytes_max: resident_bytes_max()?,
    };
    if let Some(limit) = limit {
        text += &format!("{:<16} {:>8.1} times read and decode\n", "ratio", part.cpu_s / limit.cpu_s.max(1e-9));
    }
    text += &format!(
        "{:<16} {} rows in, {} accounted, {} copies, {} signals; {:.0} MiB resident at most; {:.0} MiB of records\n",
        "rows",
        figures.rows_in,
        figures.rows_accounted,
        total.copies,
        figures.signals,
        figures.resident_bytes_max as f64 / f64::from(1 << 20),
        bytes as f64 / f64::from(1 << 20),
    );
    std::io::stdout().lock().write_all(text.as_bytes()).context("cannot write to the standard output")?;
    if let Some(path) = &args.json {
        let json = serde_json::to_string(&figures)? + "\n";
        std::fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if figures.rows_in != args.flows || figures.rows_accounted != args.flows {
        bail!("{} flows, but {} in and {} accounted for", args.flows, figures.rows_in, figures.rows_accounted);
    }
    Ok(())
}

/// Writes the records; octets written.
fn generate(synthetic: &Synthetic, path: &Path) -> anyhow::Result<u64> {
    let say = || format!("cannot write {}", path.display());
    let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path).with_context(say)?);
    for record in synthetic.records() {
        let header = Header { key: String::from_utf8(record.key).ok(), timestamp: record.timestamp, partition: None };
        write_record(&mut out, &header, &record.value).with_context(say)?;
    }
    out.flush().with_context(say)?;
    Ok(std::fs::metadata(path).with_context(say)?.len())
}

/// Reads and decodes every record; rows decoded.
fn decode(path: &Path) -> anyhow::Result<u64> {
    let format = wire::format(FORMAT).with_context(|| format!("no format {FORMAT}"))?;
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let (mut decoder, mut arena, mut rows) = ((format.decoder)(), Bump::new(), 0);
    for entry in RecordFile::new(BufReader::with_capacity(256 << 10, file)) {
        let entry = entry.with_context(|| path.display().to_string())?;
        let mut decoded = Decoded::default();
        decoder.decode(&entry.value, RecordMeta { timestamp: entry.header.timestamp }, &arena, &mut decoded)?;
        rows += decoded.rows.len() as u64;
        drop(decoded);
        arena.reset();
    }
    Ok(rows)
}

/// The product's own way over the file.
fn whole(path: &Path) -> anyhow::Result<backtest::Outcome> {
    let rules = tidewatch::rules::load(None, detectors::ALL).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?;
    let config = BacktestConfig {
        inputs: vec![InputSpec::Files { format: FORMAT.to_owned(), path: path.display().to_string() }],
        topology: None,
        tenant: None,
        internal: Vec::new(),
        own_rules: true,
        rules: rules.rules,
        flush: None,
        log: None,
        poll_records: 4096,
        partitions: None,
    };
    Ok(backtest::run(&config, system_clock(), |_| ())?)
}

/// Processor time of this process, user and system, seconds.
fn cpu_s() -> anyhow::Result<f64> {
    let stat = proc_file("/proc/self/stat")?;
    stat_cpu_ticks(&stat).map(|ticks| ticks as f64 / TICKS_PER_S).context("/proc/self/stat is not as proc(5) says")
}

/// `USER_HZ`: 100 on every Linux that this runs on (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_S: f64 = 100.0;

/// utime and stime: the 12th and 13th field after the command's name, which may hold anything but ends with the last `)`.
fn stat_cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system) = (fields.next()?.parse::<u64>().ok()?, fields.next()?.parse::<u64>().ok()?);
    Some(user + system)
}

fn resident_bytes_max() -> anyhow::Result<u64> {
    let status = proc_file("/proc/self/status")?;
    status_peak_bytes(&status).context("/proc/self/status has no VmHWM")
}

fn status_peak_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
}

fn proc_file(path: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {path}: cost is measured on Linux only"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn proc_is_read_as_it_is_written() {
        let stat = "42 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 700 55 1 1 20 0";
        assert_eq!(stat_cpu_ticks(stat), Some(755));
        assert_eq!(stat_cpu_ticks("42 (a S 1"), None);
        assert_eq!(status_peak_bytes("VmPeak:\t 9 kB\nVmHWM:\t   2048 kB\n"), Some(2 << 20));
        assert!(cpu_s().is_ok() && resident_bytes_max().unwrap() > 1 << 20);
    }

    #[test]
    fn every_flow_is_accounted_for() {
        let dir = tempfile::tempdir().unwrap();
        let json = dir.path().join("figures.json");
        let args = Args { flows: 3_001, pairs: 500, seed: 3, span: 600, limit: true, json: Some(json.clone()) };
        run(&args).unwrap();
        let figures: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
        assert_eq!((&figures["rows_in"], &figures["rows_accounted"]), (&3_001.into(), &3_001.into()));
        assert!(figures["limit"]["cpu_s"].is_number() && figures["bytes"].as_u64() > Some(300_000));
    }
}
