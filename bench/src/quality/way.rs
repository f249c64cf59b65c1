//! The product's own way over a folder of Zeek logs: what `tidewatch backtest --input zeek:DIR --tenant quality` runs, in
//! this process, with the rules that are shipped. Nothing of a detector is rebuilt here.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use tidewatch::backtest::{self, BacktestConfig};
use tidewatch::input::InputSpec;
use tidewatch::worker::system_clock;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::signal::Signal;

use super::measure::{Part, State};

/// Tenant of everything.
const TENANT: &str = "quality";

/// What a run gave.
#[derive(Debug)]
pub struct Ran {
    /// Signals, in order.
    pub signals: Vec<Signal>,
    /// Rows normalized.
    pub rows: u64,
    /// Rows rejected or late.
    pub lost: u64,
    /// Keys and bytes by rule kind at the end.
    pub states: Vec<(String, State)>,
    /// Processor time of the thread, nanoseconds; 0 where the system does not tell.
    pub cpu_ns: u64,
}

impl Ran {
    /// Notes rows and states of the run, and says when rows were lost.
    pub fn note(&self, what: &str, part: &mut Part) {
        let mut of = Part { rows: self.rows, ..Part::default() };
        for (kind, state) in &self.states {
            of.states.insert(kind.clone(), *state);
        }
        if self.lost > 0 {
            of.notes.push(format!("{what}: {} of {} rows were rejected or late", self.lost, self.rows + self.lost));
        }
        part.merge(of);
    }
}

/// The rules that are shipped.
pub fn shipped() -> Result<Vec<Rule>> {
    Ok(tidewatch::rules::load(None, detectors::ALL).map_err(|mistakes| anyhow::anyhow!("{mistakes}"))?.rules)
}

/// Runs over a folder (or glob) of Zeek logs.
///
/// # Errors
/// Says what cannot be read, or what stopped the run.
pub fn run(dir: &Path, internal: &[&str], rules: &[Rule]) -> Result<Ran> {
    let mut config = BacktestConfig {
        inputs: vec![InputSpec::Files { format: "zeek".to_owned(), path: dir.display().to_string() }],
        topology: None,
        tenant: Some(TENANT.to_owned()),
        internal: Vec::new(),
        own_rules: true,
        rules: rules.to_vec(),
        flush: None,
        log: None,
        poll_records: 4096,
        partitions: None,
    };
    for net in internal {
        config.internal.push(net.parse().map_err(|_| anyhow::anyhow!("{net} is no network"))?);
    }
    let before = thread_cpu_ns();
    let outcome = backtest::run(&config, system_clock(), |_| ()).with_context(|| dir.display().to_string())?;
    let cpu_ns = thread_cpu_ns().saturating_sub(before);
    let total = outcome.ledger.total();
    let mut states: BTreeMap<String, State> = BTreeMap::new();
    for rule in outcome.board.values().flat_map(|task| &task.rules) {
        let state = states.entry(rule.detector.clone()).or_default();
        (state.keys, state.bytes) = (state.keys + rule.keys, state.bytes + rule.bytes);
    }
    Ok(Ran {
        signals: outcome.signals.into_iter().map(|(_, signal)| signal).collect(),
        rows: total.normalized,
        lost: total.rejected + total.late,
        states: states.into_iter().collect(),
        cpu_ns,
    })
}

/// Processor time of this thread: the first field of schedstat (proc(5)). A backtest works in the thread that calls it.
pub fn thread_cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0)
}
