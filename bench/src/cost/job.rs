//! What a process of its own measures: the order that its parent writes, and the figures that it gives back, both as JSON.
//! One process per measurement, so that processor time and memory are its own.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tidewatch::log::Log;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch::log::kafka::{KafkaConfig, KafkaLog};
use tidewatch_schemas::time::EventTime;

use super::machine::Cpu;
use super::workload::Kind;

/// Where the rows are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Source {
    /// Brokers.
    Kafka(String),
    /// Directory of an embedded log.
    Embedded(PathBuf),
    /// A file of records or lines.
    File(PathBuf),
}

impl Source {
    /// The log; files have none.
    pub(super) fn log(&self) -> anyhow::Result<Arc<dyn Log>> {
        Ok(match self {
            // Whoever names brokers for a measurement means them, encrypted or not.
            Self::Kafka(brokers) => Arc::new(KafkaLog::connect(KafkaConfig {
                replicas: Some(1),
                allow_plaintext: true,
                ..KafkaConfig::new(brokers)
            })?),
            Self::Embedded(dir) => Arc::new(EmbeddedLog::open(dir, Options::default())?),
            Self::File(path) => bail!("{} is a file, no log", path.display()),
        })
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Consuming and decoding alone.
    Limit,
    /// The whole way.
    Pipeline,
}

/// When a run of the pipeline is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Until {
    /// Every slice before this time is closed, judged and committed.
    Closed(EventTime),
    /// All rows are normalized, and what that gave is read and committed.
    Read,
    /// So many seconds have passed.
    Passed(u64),
}

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) what: What,
    pub(super) source: Source,
    pub(super) kind: Kind,
    pub(super) topic: String,
    /// Rows that are there.
    pub(super) rows: u64,
    pub(super) until: Until,
    /// Last rows whose cost is told apart; 0 = none.
    pub(super) tail_rows: u64,
    /// Event time of the first row.
    pub(super) start: EventTime,
    /// `all`, `none`, or the kind of one detector.
    pub(super) detectors: String,
    /// Worker threads of normalize and of detect.
    pub(super) workers: u32,
    /// The process may use the first of the machine's cores alone.
    pub(super) one_core: bool,
    /// Names internal topics, groups and writers.
    pub(super) deployment: String,
    /// Seconds between snapshots.
    pub(super) every_s: u64,
    /// Snapshots and spilled rows.
    pub(super) dir: PathBuf,
    /// Counts allocations; slower.
    pub(super) count: bool,
}

/// One task of detect.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct TaskFigures {
    pub(super) partition: u32,
    pub(super) keys: u64,
    pub(super) state_bytes: u64,
    /// Rows of open slices, at most.
    pub(super) slice_bytes_max: u64,
    pub(super) waiting_rows_max: u64,
    /// Seconds from the start until everything of it was committed.
    pub(super) closed_s: f64,
}

/// What came of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Measured {
    pub(super) rows: u64,
    pub(super) wall_s: f64,
    pub(super) cpu: Cpu,
    pub(super) cpu_ns_per_flow: f64,
    pub(super) flows_per_s: f64,
    /// Of the last rows alone.
    pub(super) tail_cpu_ns_per_flow: Option<f64>,
    pub(super) rss_start_bytes: u64,
    pub(super) rss_settled_bytes: u64,
    pub(super) rss_peak_bytes: u64,
    /// Rows in, by the product's own count, and of them accounted for.
    pub(super) rows_in: u64,
    pub(super) rows_accounted: u64,
    pub(super) keys: u64,
    pub(super) state_bytes: u64,
    pub(super) evicted: u64,
    /// Rows of open slices of all tasks, at most.
    pub(super) slice_bytes_max: u64,
    pub(super) spilled_rows: u64,
    /// Snapshots that became current, and their bytes.
    pub(super) snapshots: u64,
    pub(super) snapshot_bytes: u64,
    pub(super) signals: u64,
    /// Processor time by what threads do, seconds; empty where one thread does all.
    pub(super) threads: BTreeMap<String, f64>,
    /// Allocations and bytes asked for, when counted.
    pub(super) allocations: Option<(u64, u64)>,
    pub(super) tasks: Vec<TaskFigures>,
}

impl Job {
    /// Starts a process that does it.
    pub(super) fn start(&self) -> anyhow::Result<std::process::Child> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut command = match self.one_core {
            true => Command::new("taskset"),
            false => Command::new(&program),
        };
        if self.one_core {
            command.args(["--cpu-list", "0"]).arg(program);
        }
        command.arg("cost").arg("--child").arg(serde_json::to_string(self)?);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))
    }

    /// Has it done by a process of its own, and waits for it.
    pub(super) fn run(&self) -> anyhow::Result<Measured> {
        finish(self.start()?)
    }

    /// Does it here.
    pub(super) fn here(&self) -> anyhow::Result<Measured> {
        match (self.what, &self.source) {
            (What::Limit, _) => super::limit::run(self),
            (What::Pipeline, Source::File(path)) => super::whole::file(self, path),
            (What::Pipeline, _) => super::whole::live(self),
        }
    }
}

/// Waits for a process; its figures.
pub(super) fn finish(process: std::process::Child) -> anyhow::Result<Measured> {
    let output = process.wait_with_output().context("cannot wait for a process")?;
    if !output.status.success() {
        bail!("a measured process failed ({}): what it said stands above", output.status);
    }
    serde_json::from_slice(&output.stdout).context("a measured process gave no figures")
}

impl Measured {
    /// Fills in what follows from wall and processor time.
    pub(super) fn timed(rows: u64, wall_s: f64, cpu: Cpu) -> Self {
        Self {
            rows,
            wall_s,
            cpu,
            cpu_ns_per_flow: cpu.total_s() * 1e9 / rows.max(1) as f64,
            flows_per_s: rows as f64 / wall_s.max(1e-9),
            ..Self::default()
        }
    }
}
