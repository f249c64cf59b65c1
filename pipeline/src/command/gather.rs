//! `tidewatch gather`: everything that somebody needs who looks into a task that stopped, in one directory. Reads only; what
//! cannot be had is named in the directory and does not stop the rest.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tidewatch_operators::detectors;

use super::{Exit, Failure, Output, open, place};
use crate::log::{Log, PollLimit, Record, TopicPartition};
use crate::snapshot::{LAYOUT, OUTPUT_VERSION, SnapshotStore};
use crate::topology::{Stage, Topology};
use crate::worker::meta::Meta;

/// Gather what is needed to look into a task that stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tidewatch gather topologies/kafka.yaml --task detect/3 --out detect-3\n\n\
                        Writes into a new directory: the committed offset with its metadata, the snapshot's objects, the log's \
                        records from where a restart begins to the committed offset, rules, topology and versions. Nothing is \
                        changed. The records are your telemetry: look at them before you hand them on. `tar -cf - DIR` makes one \
                        file of it.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// The task: detect/PARTITION or correlate/PARTITION
    #[arg(long, value_name = "STAGE/PARTITION")]
    task: TaskName,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object with what was gathered
    #[arg(long)]
    json: bool,
}

/// A task that keeps state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct TaskName {
    stage: Stage,
    partition: u32,
}

impl FromStr for TaskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not detect/PARTITION or correlate/PARTITION");
        let (stage, partition) = text.split_once('/').ok_or_else(wrong)?;
        let stage = match stage {
            "detect" => Stage::Detect,
            "correlate" => Stage::Correlate,
            _ => return Err(wrong()),
        };
        Ok(Self { stage, partition: partition.parse().map_err(|_| wrong())? })
    }
}

/// What was gathered, and what could not be.
#[derive(Debug, Default)]
struct Gathered {
    files: Vec<(String, u64)>,
    missing: Vec<String>,
}

impl Gathered {
    fn file(&mut self, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let path = dir.join(name);
        std::fs::write(&path, bytes).map_err(|e| unwritten(&path, &e))?;
        self.files.push((name.to_owned(), bytes.len() as u64));
        Ok(())
    }
}

fn unwritten(path: &Path, e: &std::io::Error) -> Failure {
    Failure::File { verb: "write", path: path.display().to_string(), reason: e.to_string() }
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let reached = open::reading(&topology)?;
    let log = reached.log.as_ref();
    let TaskName { stage, partition } = args.task;
    let names = &topology.names;
    let topic = if stage == Stage::Detect { names.obs() } else { names.findings() };
    let partitions = log.partitions(&topic)?;
    if partition >= partitions {
        return Err(Failure::Usage(format!("topic {topic} has {partitions} partitions, 0 to {}", partitions - 1)));
    }
    let at = TopicPartition::new(topic, partition);
    std::fs::create_dir(&args.out).map_err(|e| unwritten(&args.out, &e))?;
    let mut gathered = Gathered::default();
    let group = names.group(stage);
    let committed = log.committed(&group, std::slice::from_ref(&at))?.pop().flatten();
    let range = log.offsets(&at)?;
    let metadata = committed.as_ref().map(|c| serde_json::from_str(&c.metadata).unwrap_or(Value::String(c.metadata.clone())));
    let offsets = json!({
        "task": format!("{}/{partition}", stage.name()), "group": group, "topic": at.topic, "partition": partition,
        "committed": committed.as_ref().map(|c| c.offset), "metadata": metadata, "log_begins": range.start, "log_ends": range.end,
    });
    gathered.file(&args.out, "offsets.json", pretty(&offsets).as_bytes())?;
    gathered.file(&args.out, "versions.json", pretty(&versions(&topology, log)).as_bytes())?;
    let text = std::fs::read_to_string(&args.topology).unwrap_or_default();
    gathered.file(&args.out, "topology.yaml", without_credentials(&text).as_bytes())?;
    let meta = committed.as_ref().and_then(|c| Meta::decode(&c.metadata)).unwrap_or_default();
    let mut from = meta.from;
    if let Some(id) = &meta.snapshot {
        let begins = snapshots(args, &topology, id, &mut gathered)?;
        from = begins.unwrap_or(from);
    }
    let to = committed.as_ref().map_or(range.end, |c| c.offset);
    records(&args.out, log, &at, from, to, &mut gathered)?;
    gathered.file(&args.out, "README.txt", read_me(args, &gathered, from, to).as_bytes())?;
    if args.json {
        let files: Vec<Value> = gathered.files.iter().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect();
        out.json(&json!({"dir": args.out, "files": files, "missing": gathered.missing}))?;
    } else {
        for (name, bytes) in &gathered.files {
            out.line(format_args!("{bytes:>12}  {}", args.out.join(name).display()))?;
        }
        gathered.missing.iter().for_each(|what| tracing::warn!("missing: {what}"));
    }
    Ok(if gathered.missing.is_empty() { Exit::Good } else { Exit::Findings })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

fn versions(topology: &Topology, log: &dyn Log) -> Value {
    let recorded = crate::versions::by_time(log, topology);
    let recorded = match &recorded {
        Ok(versions) => versions.iter().map(|(from, rules)| json!({"from": from.to_rfc3339(), "rules": rules})).collect(),
        Err(e) => Value::String(e.to_string()),
    };
    let local = match crate::rules::load(topology.rules.as_deref(), detectors::ALL) {
        Ok(rules) => json!(rules.rules),
        Err(mistakes) => Value::String(mistakes.to_string()),
    };
    json!({
        "tidewatch": env!("CARGO_PKG_VERSION"), "outputs": OUTPUT_VERSION, "layout": LAYOUT,
        "machine": std::env::consts::ARCH, "rules_recorded": recorded, "rules_local": local,
    })
}

/// The snapshot's objects; returns the offset at which a restart from it begins to read.
fn snapshots(args: &Args, topology: &Topology, id: &str, gathered: &mut Gathered) -> Result<Option<i64>, Failure> {
    let TaskName { stage, partition } = args.task;
    let store = match SnapshotStore::open(&topology.snapshots.url) {
        Ok(store) => store,
        Err(e) => {
            gathered.missing.push(e.to_string());
            return Ok(None);
        }
    };
    let store = match topology.names.deployment() {
        Some(deployment) => store.of(deployment),
        None => store,
    };
    let store = store.of(&format!("{}-{partition}", stage.name()));
    let mut wanted = BTreeSet::from([id.to_owned()]);
    let mut done = BTreeSet::new();
    let mut begins = None;
    while let Some(name) = wanted.pop_first() {
        match store.raw(&name) {
            Ok((bytes, referred)) => {
                gathered.file(&args.out, &format!("{name}.snap"), &bytes)?;
                if name == id {
                    match store.taken(&name, &bytes) {
                        Ok((taken, _)) => begins = Some(taken.replay_offset),
                        Err(reason) => gathered.missing.push(format!("what the snapshot {name} says: {reason}")),
                    }
                    wanted.extend(referred.into_iter().filter(|o| !done.contains(o)));
                }
            }
            Err(e) => gathered.missing.push(e.to_string()),
        }
        done.insert(name);
    }
    Ok(begins)
}

/// The records of `from..to`, one JSON object a line.
fn records(dir: &Path, log: &dyn Log, at: &TopicPartition, from: i64, to: i64, gathered: &mut Gathered) -> Result<(), Failure> {
    let start = log.offsets(at)?.start;
    if start > from {
        gathered.missing.push(format!("records {from}..{start} of {at}: the log begins at {start}"));
    }
    let path = dir.join("records.ndjson");
    let failed = |e: std::io::Error| unwritten(&path, &e);
    let mut file = BufWriter::new(File::create_new(&path).map_err(failed)?);
    let mut reader = log.reader(at, from.max(start).min(to.max(start)))?;
    let mut stalled = 0;
    'all: while reader.position() < to {
        let records = reader.poll(PollLimit::default(), super::POLL_WAIT)?;
        stalled = if records.is_empty() { stalled + 1 } else { 0 };
        if records.is_empty() && (reader.at_end() || stalled >= place::STALLED_POLLS) {
            break;
        }
        for record in &records {
            if record.offset >= to {
                break 'all;
            }
            writeln!(file, "{}", line(record)).map_err(failed)?;
        }
    }
    file.flush().map_err(failed)?;
    let bytes = std::fs::metadata(&path).map_err(failed)?.len();
    gathered.files.push(("records.ndjson".to_owned(), bytes));
    Ok(())
}

fn line(record: &Record) -> Value {
    let text = |bytes: &[u8]| STANDARD.encode(bytes);
    let headers: Vec<(&str, String)> = record.headers.iter().map(|(name, value)| (name.as_str(), text(value))).collect();
    json!({
        "offset": record.offset, "timestamp_ns": record.timestamp.0, "key": record.key.as_deref().map(text),
        "value": record.value.as_deref().map(text), "headers": headers,
    })
}

/// A topology names no secret; what somebody may have put into an URL all the same goes.
fn without_credentials(text: &str) -> String {
    let strip = |line: &str| -> String {
        let Some((before, url)) = line.split_once("://") else { return line.to_owned() };
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | ',' | '}')).unwrap_or(url.len());
        let (url, after) = url.split_at(end);
        let url = url.split_once('?').map_or(url, |(path, _)| path);
        let url = url.rsplit_once('@').map_or(url, |(_, host)| host);
        format!("{before}://{url}{after}")
    };
    text.lines().map(|line| strip(line) + "\n").collect()
}

fn read_me(args: &Args, gathered: &Gathered, from: i64, to: i64) -> String {
    let TaskName { stage, partition } = args.task;
    let mut text = format!(
        "What task {}/{partition} of tidewatch {} had at hand, gathered with `tidewatch gather`.\n\n\
         offsets.json    what is committed: offset, output hash, snapshot\n\
         *.snap          the snapshot and the objects it refers to\n\
         records.ndjson  the log's records {from}..{to}, bytes in base64\n\
         versions.json   versions and rules\n\
         topology.yaml   the topology, without what might be credentials\n",
        stage.name(),
        env!("CARGO_PKG_VERSION"),
    );
    for what in &gathered.missing {
        text += &format!("\nmissing: {what}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_by_name() {
        assert_eq!("detect/3".parse(), Ok(TaskName { stage: Stage::Detect, partition: 3 }));
        assert!("normalize/3".parse::<TaskName>().is_err() && "detect".parse::<TaskName>().is_err());
    }

    #[test]
    fn credentials_in_urls_go() {
        let text = "url: \"https://u:p@siem/x?token=1\", name: a\nplain: line\nurl: s3://bucket/path\n";
        assert_eq!(without_credentials(text), "url: \"https://siem/x\", name: a\nplain: line\nurl: s3://bucket/path\n");
    }
}
