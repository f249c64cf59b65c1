//! From a file or a text to a [`Topology`]: the sections in order, then what only shows when they are seen together.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use tidewatch_schemas::document::{DOCUMENT_BYTES_MAX, Document, Map, Mistakes, Node, show_duration, shown};
use tidewatch_schemas::wire::{self, Format};

use super::log::{RETENTION_MAX, RETENTION_MIN};
use super::section::Section;
use super::*;

/// Names at the outermost level.
const SECTIONS: &[&str] = &[
    "deployment",
    "log",
    "time",
    "inputs",
    "internal",
    "obs",
    "findings",
    "signals",
    "limits",
    "memory",
    "epoch",
    "snapshots",
    "workers",
    "rules",
    "destinations",
    "control",
    "http",
    "telemetry",
    "drain_within",
];

/// Why there is no topology.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file cannot be read.
    #[error("cannot read {path}: {reason}")]
    File {
        /// File.
        path: String,
        /// The system's words.
        reason: String,
    },
    /// The file is wrong.
    #[error("{0}")]
    Mistakes(Mistakes),
}

impl Topology {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let label = path.display().to_string();
        let text = text_of(path, DOCUMENT_BYTES_MAX as u64).map_err(|reason| ReadError::File { path: label.clone(), reason })?;
        Self::parse(&label, &text).map_err(ReadError::Mistakes)
    }

    /// Parses a text; `label` is the file as the user named it.
    pub fn parse(label: &str, text: &str) -> Result<Self, Mistakes> {
        Self::parse_with(label, text, wire::FORMATS)
    }

    /// Parses a text against a given list of formats.
    pub fn parse_with(label: &str, text: &str, formats: &[Format]) -> Result<Self, Mistakes> {
        let document = Document::parse(label, text)?;
        let mut mistakes = Mistakes::default();
        let root = document.root(&mut mistakes);
        let Some(map) = root.map(&mut mistakes) else { return Err(mistakes) };
        map.expect_keys(SECTIONS, &mut mistakes);
        let topology = whole(&map, formats, &mut mistakes);
        together(&topology, &map, &mut mistakes);
        mistakes.or(topology)
    }
}

/// The text of a file of at most so many bytes.
pub(crate) fn text_of(path: &Path, bytes_max: u64) -> Result<String, String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let mut text = String::new();
    let read = file.take(bytes_max + 1).read_to_string(&mut text).map_err(|e| e.to_string())?;
    if read as u64 > bytes_max { Err(format!("larger than {bytes_max} bytes")) } else { Ok(text) }
}

fn whole(map: &Map<'_>, formats: &[Format], mistakes: &mut Mistakes) -> Topology {
    let log = log::read(map, mistakes);
    let time = time(map, mistakes);
    let inputs = input::read(map, formats, time.max_future, mistakes);
    let default = Topology::of(log, inputs);
    Topology {
        names: Names::read(map.get("deployment"), mistakes),
        time,
        internal: internal(map.get("internal"), mistakes),
        obs: kept(map, "obs", default.obs, mistakes),
        findings: kept(map, "findings", default.findings, mistakes),
        signals: kept(map, "signals", default.signals, mistakes),
        limits: limits(map, default.limits, mistakes),
        memory: memory::read(map, mistakes),
        epoch: epoch(map, default.epoch, mistakes),
        snapshots: snapshots(map, default.snapshots, mistakes),
        workers: workers(map, default.workers, mistakes),
        rules: map.get("rules").and_then(|n| n.str(mistakes)).map(PathBuf::from),
        destinations: destination::read(map, mistakes),
        control: map.get("control").and_then(|n| n.str(mistakes)).map_or(default.control, PathBuf::from),
        http: http(map, mistakes),
        telemetry: telemetry::read(map, mistakes),
        drain_within: drain_within(map, default.drain_within, mistakes),
        ..Topology::of(default.log, default.inputs)
    }
}

fn time(map: &Map<'_>, mistakes: &mut Mistakes) -> Time {
    const HOUR: Duration = Duration::from_secs(3600);
    let second = Duration::from_secs(1);
    let default = Time::default();
    let mut s = Section::of(map, "time", &["slice", "max_future", "max_skew", "idle_after", "hold_at_most"], mistakes);
    let slice = s.duration("slice", default.slice, second, Duration::from_secs(600));
    if slice.subsec_nanos() != 0 {
        s.mistake("slice", "a slice is a whole number of seconds".into());
    }
    let time = Time {
        slice,
        max_future: s.duration("max_future", default.max_future, Duration::ZERO, HOUR),
        max_skew: s.duration("max_skew", default.max_skew, second, 24 * HOUR),
        idle_after: s.duration("idle_after", default.idle_after, second, HOUR),
        hold_at_most: s.duration_if_given("hold_at_most", Duration::from_secs(60), 30 * 24 * HOUR),
    };
    if time.max_skew < time.slice {
        s.mistake("max_skew", format!("max_skew is at least one slice ({})", show_duration(time.slice)));
    }
    time
}

fn internal(node: Option<Node<'_>>, mistakes: &mut Mistakes) -> Vec<IpNet> {
    let Some(node) = node else { return Vec::new() };
    let nodes = node.list(mistakes).unwrap_or_default();
    if nodes.len() > INTERNAL_MAX {
        mistakes.push(node.mistake(format!("{} networks; at most {INTERNAL_MAX}", nodes.len())));
    }
    let mut networks = Vec::new();
    for node in nodes.into_iter().take(INTERNAL_MAX) {
        let Some(text) = node.str(mistakes) else { continue };
        match text.parse::<IpNet>() {
            Ok(network) if network == network.trunc() => networks.push(network),
            Ok(network) => {
                let mut mistake = node.mistake(format!("{text} names a host inside a network"));
                mistake.suggestion = Some(network.trunc().to_string());
                mistakes.push(mistake);
            }
            Err(_) => mistakes.push(node.mistake(format!("expected a network like 10.0.0.0/8, got {}", shown(text)))),
        }
    }
    networks.sort();
    networks.dedup();
    networks
}

fn kept(map: &Map<'_>, name: &str, default: Kept, mistakes: &mut Mistakes) -> Kept {
    let mut s = Section::of(map, name, &["partitions", "retention"], mistakes);
    Kept {
        partitions: s.count("partitions", default.partitions, PARTITIONS_MAX),
        retention: s.duration("retention", default.retention, RETENTION_MIN, RETENTION_MAX),
    }
}

fn limits(map: &Map<'_>, default: Limits, mistakes: &mut Mistakes) -> Limits {
    let fields = ["state_bytes", "correlate_bytes", "slice_bytes", "correlate_slice_bytes", "spill_dir", "record_bytes"];
    let mut s = Section::of(map, "limits", &fields, mistakes);
    let limits = Limits {
        state_bytes: s.bytes("state_bytes", default.state_bytes, 1 << 20),
        correlate_bytes: s.bytes("correlate_bytes", default.correlate_bytes, 1 << 20),
        slice_bytes: s.bytes("slice_bytes", default.slice_bytes, 1 << 20),
        correlate_slice_bytes: s.bytes("correlate_slice_bytes", default.correlate_slice_bytes, 1 << 20),
        spill_dir: s.path("spill_dir").unwrap_or(default.spill_dir),
        record_bytes: s.bytes("record_bytes", default.record_bytes, 1 << 10),
    };
    if limits.record_bytes > 64 << 20 {
        s.mistake("record_bytes", "record_bytes is at most 64MiB".into());
    }
    limits
}

fn epoch(map: &Map<'_>, default: Duration, mistakes: &mut Mistakes) -> Duration {
    // Half of the transaction time-out (10 s): a commit needs the other half.
    let (min, max) = (Duration::from_millis(50), Duration::from_secs(5));
    let Some(node) = map.get("epoch") else { return default };
    match node.duration(mistakes) {
        Some(epoch) if (min..=max).contains(&epoch) => epoch,
        Some(epoch) => {
            let (min, max, epoch) = (show_duration(min), show_duration(max), show_duration(epoch));
            mistakes.push(node.mistake(format!("epoch is from {min} to {max}, got {epoch}")));
            default
        }
        None => default,
    }
}

fn snapshots(map: &Map<'_>, default: Snapshots, mistakes: &mut Mistakes) -> Snapshots {
    let mut s = Section::of(map, "snapshots", &["url", "every"], mistakes);
    Snapshots {
        url: s.text("url").map_or(default.url, str::to_owned),
        every: s.duration("every", default.every, Duration::from_secs(5), Duration::from_secs(3600)),
    }
}

fn http(map: &Map<'_>, mistakes: &mut Mistakes) -> Option<SocketAddr> {
    let mut s = Section::of(map, "http", &["listen"], mistakes);
    let text = s.text("listen")?;
    let address = text.parse().ok();
    if address.is_none() {
        s.mistake("listen", format!("listen is an address and a port, as 127.0.0.1:9464, got {}", shown(text)));
    }
    address
}

fn drain_within(map: &Map<'_>, default: Duration, mistakes: &mut Mistakes) -> Duration {
    let (min, max) = (Duration::from_secs(1), Duration::from_secs(600));
    let Some(node) = map.get("drain_within") else { return default };
    match node.duration(mistakes) {
        Some(within) if (min..=max).contains(&within) => within,
        Some(within) => {
            let (min, max, within) = (show_duration(min), show_duration(max), show_duration(within));
            mistakes.push(node.mistake(format!("drain_within is from {min} to {max}, got {within}")));
            default
        }
        None => default,
    }
}

fn workers(map: &Map<'_>, default: Workers, mistakes: &mut Mistakes) -> Workers {
    let mut s = Section::of(map, "workers", &["normalize", "detect", "correlate"], mistakes);
    Workers {
        normalize: s.count("normalize", default.normalize, WORKERS_MAX),
        detect: s.count("detect", default.detect, WORKERS_MAX),
        correlate: s.count("correlate", default.correlate, WORKERS_MAX),
    }
}

/// What only shows when the sections are seen together.
fn together(topology: &Topology, map: &Map<'_>, mistakes: &mut Mistakes) {
    let at = |name: &str| map.get(name).unwrap_or(map.node());
    // A restart seeks back to the last snapshot, and an open slice may begin a lateness before that.
    let lateness = topology.inputs.iter().map(|i| i.lateness).max().unwrap_or_default();
    let needed = 2 * topology.snapshots.every + topology.time.slice + lateness + topology.time.max_skew;
    for (name, kept) in [("obs", topology.obs), ("findings", topology.findings)] {
        if kept.retention < needed {
            mistakes.push(at(name).mistake(format!(
                "{name} is kept {}; a restart may need {} (two snapshots, a slice, lateness and max_skew)",
                show_duration(kept.retention),
                show_duration(needed)
            )));
        }
    }
}
