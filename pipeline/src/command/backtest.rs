//! `tidewatch backtest`: the whole way over files or ranges of topics.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;

use ipnet::IpNet;
use serde_json::json;
use tidewatch_operators::detectors;
use tidewatch_schemas::signal::Signal;

use super::{Exit, Failure, Output, output};
use crate::backtest::{self, BacktestConfig, BacktestError, Outcome};
use crate::input::InputSpec;
use crate::topology::Topology;
use crate::worker::system_clock;

/// Run the detectors over files or over ranges of topics
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch backtest --input zeek:/logs/2026-03-11 --tenant acme --out signals.ndjson\n  \
                        tidewatch backtest --topology topologies/kafka.yaml --input \
                        kafka:probectl.flow.events@2026-03-11T00:00:00Z..2026-03-12T00:00:00Z")]
pub struct Args {
    /// FORMAT:PATH (file, folder or glob, .gz too) or kafka:TOPIC@FROM..TO (offsets or times); may be given several times
    #[arg(long = "input", required = true, value_name = "INPUT")]
    inputs: Vec<String>,
    /// Topology: times and limits; formats, tenants and brokers of topics
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
    /// Directory with rules to lay over the built-in ones; topics are then judged by these, not by the recorded ones
    #[arg(long, value_name = "DIR")]
    rules: Option<PathBuf>,
    /// Tenant of inputs whose format carries none (Zeek)
    #[arg(long, value_name = "ID")]
    tenant: Option<String>,
    /// Networks that count as internal besides the private ranges, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "CIDR")]
    internal: Vec<IpNet>,
    /// Where the signals go, one JSON object a line, those of rules in shadow after the others with "shadow": true; a table on standard output when left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// The end of the inputs closes every slice: true for files, false for topics unless given
    #[arg(long, value_name = "BOOL")]
    flush: Option<bool>,
    /// One JSON object with the figures, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let inputs: Result<Vec<InputSpec>, _> = args.inputs.iter().map(|i| i.parse::<InputSpec>()).collect();
    let inputs = inputs.map_err(|e| Failure::Usage(e.to_string()))?;
    let topology = args.topology.as_deref().map(Topology::read).transpose()?;
    let rules_dir = args.rules.clone().or_else(|| topology.as_ref().and_then(|t| t.rules.clone()));
    let rules = crate::rules::load(rules_dir.as_deref(), detectors::ALL).map_err(Failure::Config)?;
    let needs_log = inputs.iter().any(|i| matches!(i, InputSpec::Topic(_)));
    let log = match (&topology, needs_log) {
        (Some(topology), true) => Some(super::open::log(topology)?),
        (None, true) => {
            let what = "kafka: inputs need --topology FILE, which names brokers, formats and tenants";
            return Err(Failure::Usage(what.to_owned()));
        }
        _ => None,
    };
    let config = BacktestConfig {
        inputs,
        topology,
        tenant: args.tenant.clone(),
        internal: args.internal.clone(),
        rules: rules.rules,
        own_rules: args.rules.is_some(),
        flush: args.flush,
        log,
        poll_records: 4096,
        partitions: None,
    };
    // Opened before the work, so that a path that cannot be written is said at once.
    let mut file = args.out.as_ref().map(|path| create(path)).transpose()?;
    let bar = output::progress(0, "backtest");
    let outcome = backtest::run(&config, system_clock(), |done| {
        bar.set_length(done.bytes_total);
        bar.set_position(done.bytes_read);
        bar.set_message(format!("{} signals", done.signals));
    });
    bar.finish_and_clear();
    let outcome = outcome.map_err(failure)?;
    if let (Some(file), Some(path)) = (&mut file, &args.out) {
        let write = |e: std::io::Error| Failure::File { verb: "write", path: path.display().to_string(), reason: e.to_string() };
        for (line, _) in &outcome.signals {
            writeln!(file, "{line}").map_err(write)?;
        }
        for (line, _) in &outcome.shadow {
            // An object, as published: its last character closes it.
            writeln!(file, "{},\"shadow\":true}}", line.strip_suffix('}').unwrap_or(line)).map_err(write)?;
        }
        file.flush().map_err(write)?;
    }
    if args.json {
        out.json(&figures(&outcome))?;
    } else {
        if args.out.is_none() {
            signals(&outcome, out)?;
        }
        summary(&outcome, out)?;
    }
    Ok(Exit::Good)
}

fn create(path: &std::path::Path) -> Result<std::io::BufWriter<std::fs::File>, Failure> {
    let file = std::fs::File::create(path);
    file.map(std::io::BufWriter::new).map_err(|e| Failure::File {
        verb: "write",
        path: path.display().to_string(),
        reason: e.to_string(),
    })
}

/// As the command line tells it.
pub(crate) fn failure(e: BacktestError) -> Failure {
    match e {
        BacktestError::Log(e) => Failure::Log(e),
        BacktestError::Run(crate::run::RunError::Log(e)) => Failure::Log(e),
        BacktestError::Run(e) => Failure::Failed(e.to_string()),
        e => Failure::Usage(e.to_string()),
    }
}

fn by_kind(signals: &[(String, Signal)]) -> BTreeMap<&str, u64> {
    let mut kinds = BTreeMap::new();
    for (_, signal) in signals {
        *kinds.entry(signal.kind.as_str()).or_default() += 1;
    }
    kinds
}

fn figures(outcome: &Outcome) -> serde_json::Value {
    let inputs: Vec<_> = outcome
        .ledger
        .0
        .iter()
        .map(|((topic, tenant), counts)| json!({"topic": topic, "tenant": tenant, "counts": counts}))
        .collect();
    json!({
        "signals": outcome.signals.len(),
        "by_kind": by_kind(&outcome.signals),
        "shadow": outcome.shadow.len(),
        "shadow_by_kind": by_kind(&outcome.shadow),
        "total": outcome.ledger.total(),
        "inputs": inputs,
    })
}

fn signals(outcome: &Outcome, out: &mut Output) -> Result<(), Failure> {
    let live = outcome.signals.iter().map(|(_, s)| (s, ""));
    let mut all: Vec<(&Signal, &str)> = live.chain(outcome.shadow.iter().map(|(_, s)| (s, "in shadow: "))).collect();
    // A stable sort, as each of the two is sorted.
    all.sort_by(|(a, _), (b, _)| (a.detected_at, &a.tenant).cmp(&(b.detected_at, &b.tenant)));
    let rows: Vec<Vec<String>> = all
        .into_iter()
        .map(|(s, mark)| {
            vec![
                s.decided_at.to_rfc3339(),
                s.tenant.clone(),
                s.severity.name().to_owned(),
                s.confidence.to_string(),
                format!("{mark}{}", s.why),
            ]
        })
        .collect();
    if rows.is_empty() {
        return out.line("no signals");
    }
    out.table(&["time", "tenant", "severity", "conf", "why"], &rows)?;
    out.line("")
}

fn summary(outcome: &Outcome, out: &mut Output) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = outcome
        .ledger
        .0
        .iter()
        .map(|((topic, tenant), c)| {
            let n = |n: u64| n.to_string();
            let mut row = vec![topic.clone(), tenant.clone()];
            row.extend([c.rows_in, c.normalized, c.rejected, c.late, c.duplicate, c.skipped].map(n));
            row
        })
        .collect();
    out.table(&["topic", "tenant", "rows in", "normalized", "rejected", "late", "duplicate", "skipped"], &rows)?;
    for (head, signals) in [("signals", &outcome.signals), ("in shadow", &outcome.shadow)] {
        let kinds: Vec<Vec<String>> = by_kind(signals).into_iter().map(|(k, n)| vec![k.to_owned(), n.to_string()]).collect();
        if !kinds.is_empty() {
            out.line("")?;
            out.table(&["kind", head], &kinds)?;
        }
    }
    Ok(())
}
