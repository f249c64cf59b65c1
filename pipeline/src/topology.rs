//! Topologies: what is connected to what, typed. A [`Topology`] cannot be wrong: unknown names, values out of bounds and
//! contradictions died in [`Topology::parse`], all reported at once with file, line and column.
//!
//! It knows no log and opens nothing: whether topics exist and brokers answer is found out by who runs it. Paths are
//! relative to the directory in which the command runs. Secrets are never in it, only where they are ([`Secret`]).

mod deliver;
mod destination;
mod input;
mod log;
mod memory;
mod names;
mod read;
mod section;
mod telemetry;

pub use destination::{DESTINATIONS_MAX, Destination, DestinationKind, Secret, Server, StartFrom};
pub use input::{INPUTS_MAX, Input, Lane, Registry, Tenancy, is_tenant};
pub use log::{
    EMBEDDED_LIMIT_BYTES_DEFAULT, EMBEDDED_RETENTION_AGE_DEFAULT, EMBEDDED_RETENTION_BYTES_DEFAULT, EmbeddedLog, GroupProtocol,
    KafkaLog, LogChoice, REPLICATION_DEFAULT, Sasl, SaslMechanism, Timeouts, Tls,
};
pub use memory::{Exceeded, Memory, Need, Term};
pub use names::{Names, Stage};
pub use read::ReadError;
pub(crate) use read::text_of;
pub use telemetry::{TELEMETRY_HEADER_DEFAULT, Telemetry};

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::log::TopicSpec;

/// Length of a slice when the topology names none.
pub const SLICE_DEFAULT: Duration = Duration::from_secs(10);
/// How far ahead of its record's timestamp a row may be, when the topology does not say.
pub const MAX_FUTURE_DEFAULT: Duration = Duration::from_secs(30);
/// How far normalize may run ahead of the lowest watermark, when the topology does not say.
pub const MAX_SKEW_DEFAULT: Duration = Duration::from_secs(300);
/// How long a partition must be seen at its end to count as silent, when the topology does not say.
pub const IDLE_AFTER_DEFAULT: Duration = Duration::from_secs(30);
/// Length of an epoch when the topology names none.
pub const EPOCH_DEFAULT: Duration = Duration::from_millis(500);
/// Time between snapshots when the topology names none.
pub const SNAPSHOT_EVERY_DEFAULT: Duration = Duration::from_secs(60);
/// Where snapshots go when the topology does not say.
pub const SNAPSHOT_URL_DEFAULT: &str = "tidewatch-data/snapshots";
/// Partitions of `obs` when the topology names none.
pub const OBS_PARTITIONS_DEFAULT: u32 = 8;
/// Partitions of `findings` and of `signals` when the topology names none: one tenant's findings lie in one partition.
pub const FINDINGS_PARTITIONS_DEFAULT: u32 = 4;
/// Partitions of an input topic that tidewatch makes itself, when the topology names none.
pub const INPUT_PARTITIONS_DEFAULT: u32 = 4;
/// Most partitions of any topic: as many as there are key groups.
pub const PARTITIONS_MAX: u32 = 1024;
/// How long `obs` is kept when the topology does not say: long enough for a restart from any snapshot.
pub const OBS_RETENTION_DEFAULT: Duration = Duration::from_secs(24 * 3600);
/// How long `signals` are kept when the topology does not say: a week-end and a working day.
pub const SIGNALS_RETENTION_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);
/// State of one task when the topology names no limit, bytes. Beyond it hosts are evicted by (event time, key), counted.
pub const STATE_BYTES_DEFAULT: u64 = 512 << 20;
/// State of one correlate task when the topology names no limit, bytes. Beyond it tenants that hold most forget, counted.
pub const CORRELATE_BYTES_DEFAULT: u64 = 64 << 20;
/// Rows of open slices in memory per task when the topology names no limit, bytes. Beyond it they spill, counted.
pub const SLICE_BYTES_DEFAULT: u64 = 256 << 20;
/// What waits for open slices in memory per correlate task when the topology names no limit, bytes. Beyond it it spills, counted.
pub const CORRELATE_SLICE_BYTES_DEFAULT: u64 = 32 << 20;
/// Where slices spill when the topology does not say.
pub const SPILL_DIR_DEFAULT: &str = "tidewatch-data/spill";
/// Largest input record when the topology does not say, bytes (Kafka's own default).
pub const RECORD_BYTES_DEFAULT: u64 = 1 << 20;
/// What the limit of the rejected topic lies above that of the inputs, bytes: room for the reason and the origin.
pub const REJECTED_EXTRA_BYTES: u64 = 64 << 10;
/// How long a process may take to leave after it was told to stop, when the topology does not say: below the 30 s
/// that Kubernetes gives before it kills (Docker gives 10 s unless `stop_grace_period` says more).
pub const DRAIN_WITHIN_DEFAULT: Duration = Duration::from_secs(25);
/// Control socket when the topology does not say.
pub const CONTROL_SOCKET_DEFAULT: &str = "tidewatch-data/control.sock";
/// Threads per stage, at most.
pub const WORKERS_MAX: u32 = 256;
/// Networks in `internal`, at most.
pub const INTERNAL_MAX: usize = 10_000;

/// What is connected to what.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    /// Names of internal topics, groups and transactional ids (`deployment`).
    pub names: Names,
    /// Where topics live (`log`).
    pub log: LogChoice,
    /// Time (`time`).
    pub time: Time,
    /// Input topics (`inputs`), at least one, in written order.
    pub inputs: Vec<Input>,
    /// Networks that count as internal besides the private ranges (`internal`).
    pub internal: Vec<IpNet>,
    /// The topic between normalize and detect (`obs`).
    pub obs: Kept,
    /// The topic between detect and correlate (`findings`).
    pub findings: Kept,
    /// The topic that others read (`signals`).
    pub signals: Kept,
    /// Limits (`limits`).
    pub limits: Limits,
    /// What one process may take (`memory`).
    pub memory: Memory,
    /// Length of one transaction (`epoch`), 50 ms to 5 s.
    pub epoch: Duration,
    /// Snapshots (`snapshots`).
    pub snapshots: Snapshots,
    /// Threads per stage (`workers`).
    pub workers: Workers,
    /// Directory with the user's rules (`rules`); `None` = the built-in ones alone.
    pub rules: Option<PathBuf>,
    /// Who gets the signals (`destinations`), in written order.
    pub destinations: Vec<Destination>,
    /// Local socket through which other commands reach a running process (`control`); see [`Topology::control_of`].
    pub control: PathBuf,
    /// Where health and metrics are served (`http.listen`); `None` = nowhere.
    pub http: Option<SocketAddr>,
    /// Who gets traces of the pipeline itself (`telemetry`); `None` = nobody.
    pub telemetry: Option<Telemetry>,
    /// A process that was told to stop gives up what is not done after so long (`drain_within`), 1 s to 10 min.
    pub drain_within: Duration,
}

/// Event time and waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Length of a slice, 1 s to 10 min, whole seconds.
    pub slice: Duration,
    /// A row further ahead of its record's timestamp is rejected; at most the smallest lateness of the inputs.
    pub max_future: Duration,
    /// Normalize pauses while it is further ahead of the lowest watermark; at least one slice.
    pub max_skew: Duration,
    /// A partition seen at its end for so long is silent; at least 1 s.
    pub idle_after: Duration,
    /// An unreachable upstream holds its downstream so long and then counts as gone, reported as degraded; `None` = for
    /// ever.
    pub hold_at_most: Option<Duration>,
}

/// An internal topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Partitions, 1 to [`PARTITIONS_MAX`].
    pub partitions: u32,
    /// How long records are kept.
    pub retention: Duration,
}

/// Limits that the user may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// State of one detect task, bytes.
    pub state_bytes: u64,
    /// State of one correlate task, bytes.
    pub correlate_bytes: u64,
    /// Rows of open slices in memory, per task, bytes.
    pub slice_bytes: u64,
    /// Findings and contacts of open slices in memory, per correlate task, bytes.
    pub correlate_slice_bytes: u64,
    /// Where what is beyond those two goes.
    pub spill_dir: PathBuf,
    /// Largest input record, bytes.
    pub record_bytes: u64,
}

/// Snapshots of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshots {
    /// An object store URL (`s3://bucket/path`, `file:///path`) or a path.
    pub url: String,
    /// Time between two, 5 s to 1 h.
    pub every: Duration,
}

/// Threads per stage in one process, 1 to [`WORKERS_MAX`] each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Threads of normalize.
    pub normalize: u32,
    /// Threads of detect.
    pub detect: u32,
    /// Threads of correlate.
    pub correlate: u32,
}

impl Default for Time {
    fn default() -> Self {
        Self {
            slice: SLICE_DEFAULT,
            max_future: MAX_FUTURE_DEFAULT,
            max_skew: MAX_SKEW_DEFAULT,
            idle_after: IDLE_AFTER_DEFAULT,
            hold_at_most: None,
        }
    }
}

impl Topology {
    /// These inputs on this log, everything else as by default; for commands and tests that have no file. What
    /// [`Topology::parse`] would refuse is the caller's to avoid.
    pub fn of(log: LogChoice, inputs: Vec<Input>) -> Self {
        Self {
            names: Names::default(),
            log,
            time: Time::default(),
            inputs,
            internal: Vec::new(),
            obs: Kept { partitions: OBS_PARTITIONS_DEFAULT, retention: OBS_RETENTION_DEFAULT },
            findings: Kept { partitions: FINDINGS_PARTITIONS_DEFAULT, retention: OBS_RETENTION_DEFAULT },
            signals: Kept { partitions: FINDINGS_PARTITIONS_DEFAULT, retention: SIGNALS_RETENTION_DEFAULT },
            limits: Limits {
                state_bytes: STATE_BYTES_DEFAULT,
                correlate_bytes: CORRELATE_BYTES_DEFAULT,
                slice_bytes: SLICE_BYTES_DEFAULT,
                correlate_slice_bytes: CORRELATE_SLICE_BYTES_DEFAULT,
                spill_dir: SPILL_DIR_DEFAULT.into(),
                record_bytes: RECORD_BYTES_DEFAULT,
            },
            memory: Memory::default(),
            epoch: EPOCH_DEFAULT,
            snapshots: Snapshots { url: SNAPSHOT_URL_DEFAULT.to_owned(), every: SNAPSHOT_EVERY_DEFAULT },
            workers: Workers { normalize: 1, detect: 1, correlate: 1 },
            rules: None,
            destinations: Vec::new(),
            control: CONTROL_SOCKET_DEFAULT.into(),
            http: None,
            telemetry: None,
            drain_within: DRAIN_WITHIN_DEFAULT,
        }
    }

    /// The control socket of one process. Several on one machine need names of their own: all stages under ordinal 0 have
    /// `control` itself, any other `control` with stages and ordinal before its ending, as in `control.detect-1.sock`.
    pub fn control_of(&self, stages: &[Stage], ordinal: u32) -> PathBuf {
        let all = Stage::ALL.iter().all(|s| stages.contains(s));
        if all && ordinal == 0 {
            return self.control.clone();
        }
        let names: Vec<&str> = Stage::ALL.iter().filter(|s| stages.contains(s)).map(|s| s.name()).collect();
        let names = if all { "all".to_owned() } else { names.join("+") };
        let ending = self.control.extension().map_or_else(|| "sock".into(), |e| e.to_string_lossy());
        self.control.with_extension(format!("{names}-{ordinal}.{ending}"))
    }

    /// The input topics that tidewatch makes if they are missing: all on the embedded and the memory log; on Kafka those
    /// whose `partitions` are given (the others belong to somebody else and must be there).
    pub fn input_topics(&self) -> Vec<TopicSpec> {
        let foreign = matches!(self.log, LogChoice::Kafka(_));
        self.inputs
            .iter()
            .filter(|input| input.partitions.is_some() || !foreign)
            .map(|input| TopicSpec {
                record_bytes_max: self.limits.record_bytes as usize,
                append_time: true,
                ..self.spec(input.topic.clone(), input.partitions.unwrap_or(INPUT_PARTITIONS_DEFAULT), None)
            })
            .collect()
    }

    /// The internal topics: made by tidewatch, owned by this deployment.
    pub fn internal_topics(&self) -> Vec<TopicSpec> {
        let names = &self.names;
        let rejected_bytes = (self.limits.record_bytes + REJECTED_EXTRA_BYTES) as usize;
        let long = Some(SIGNALS_RETENTION_DEFAULT);
        vec![
            self.spec(names.obs(), self.obs.partitions, Some(self.obs.retention)),
            self.spec(names.findings(), self.findings.partitions, Some(self.findings.retention)),
            self.spec(names.signals(), self.signals.partitions, Some(self.signals.retention)),
            self.spec(names.shadow(), self.signals.partitions, Some(self.signals.retention)),
            // Kept for ever: it holds the versions and marks that a backtest replays; it is small.
            self.spec(names.control(), 1, None),
            TopicSpec { record_bytes_max: rejected_bytes, ..self.spec(names.rejected(), 1, long) },
            TopicSpec { record_bytes_max: rejected_bytes, ..self.spec(names.late(), 1, long) },
            TopicSpec { record_bytes_max: rejected_bytes, ..self.spec(names.replayed(), 1, long) },
            TopicSpec { record_bytes_max: rejected_bytes, ..self.spec(names.undelivered(), 1, long) },
        ]
    }

    fn spec(&self, name: String, partitions: u32, retention_age: Option<Duration>) -> TopicSpec {
        let mut spec = TopicSpec { retention_age, ..TopicSpec::new(name, partitions) };
        if let LogChoice::Embedded(embedded) = &self.log {
            spec.retention_bytes = Some(embedded.retention_bytes);
            // Inputs have no retention of their own; the log's holds for them.
            spec.retention_age = retention_age.or(Some(embedded.retention_age));
        }
        spec
    }
}

#[cfg(test)]
pub(crate) mod tests;
