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
use tidewatch_schemas::control::Mark;

use super::{Exit, Failure, Output, open, place};
use crate::log::{Log, OffsetRange, PollLimit, Record, TopicPartition};
use crate::snapshot::{LAYOUT, OUTPUT_VERSION, SnapshotStore};
use crate::topology::{Stage, Topology};
use crate::worker::meta::Meta;

/// Gather what is needed to look into a task that stopped
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tidewatch gather topologies/kafka.yaml --task detect/3 --out detect-3\n\n\
                        Writes into a new directory: the committed offset with its metadata, the snapshot's objects, the log's \
                        records from where a restart begins to the committed offset, rules, topology and versions. Normalize has no \
                        snapshot and processes nothing again: what it decided are its marks in the control topic, and what it \
                        stands at are the records from its committed offset on. Nothing is changed. The records are your telemetry: look at them before you hand them on. `tar -cf - DIR` makes one \
                        file of it.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// The task: normalize/TOPIC/PARTITION, detect/PARTITION or correlate/PARTITION
    #[arg(long, value_name = "TASK")]
    task: TaskName,
    /// Directory to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Print one JSON object with what was gathered
    #[arg(long)]
    json: bool,
}

/// Records after a normalize task's committed offset that are gathered, at most: the first of them is the one it stands at.
const AHEAD_RECORDS_MAX: usize = 10_000;

/// Bytes of such records, at most.
const AHEAD_BYTES_MAX: usize = 64 << 20;

/// The newest records of the control topic in which marks are looked for.
const MARKS_LOOKED_MAX: i64 = 200_000;

/// A task by its stage and partition; an input's by its topic too.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TaskName {
    stage: Stage,
    input: Option<String>,
    partition: u32,
}

impl FromStr for TaskName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is not normalize/TOPIC/PARTITION, detect/PARTITION or correlate/PARTITION");
        let (of, partition) = text.rsplit_once('/').ok_or_else(wrong)?;
        let partition = partition.parse().map_err(|_| wrong())?;
        let (stage, input) = match of {
            "detect" => (Stage::Detect, None),
            "correlate" => (Stage::Correlate, None),
            of => {
                let topic = of.strip_prefix("normalize/").filter(|topic| !topic.is_empty()).ok_or_else(wrong)?;
                (Stage::Normalize, Some(topic.to_owned()))
            }
        };
        Ok(Self { stage, input, partition })
    }
}

impl TaskName {
    /// The partition that the task reads.
    fn reads(&self, topology: &Topology) -> Result<TopicPartition, Failure> {
        let names = &topology.names;
        let topic = match (&self.input, self.stage) {
            (Some(topic), _) if *topic == names.replayed() => topic.clone(),
            (Some(topic), _) => place::input(topology, topic)?.topic.clone(),
            (None, Stage::Detect) => names.obs(),
            (None, _) => names.findings(),
        };
        Ok(TopicPartition::new(topic, self.partition))
    }
}

impl std::fmt::Display for TaskName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stage, input, partition } = self;
        match input {
            Some(topic) => write!(f, "{}/{topic}/{partition}", stage.name()),
            None => write!(f, "{}/{partition}", stage.name()),
        }
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
    let TaskName { stage, partition, .. } = args.task;
    let names = &topology.names;
    let at = args.task.reads(&topology)?;
    let partitions = log.partitions(&at.topic)?;
    if partition >= partitions {
        return Err(Failure::Usage(format!("topic {} has {partitions} partitions, 0 to {}", at.topic, partitions - 1)));
    }
    std::fs::create_dir(&args.out).map_err(|e| unwritten(&args.out, &e))?;
    let mut gathered = Gathered::default();
    let group = names.group(stage);
    let committed = log.committed(&group, std::slice::from_ref(&at))?.pop().flatten();
    let range = log.offsets(&at)?;
    let metadata = committed.as_ref().map(|c| serde_json::from_str(&c.metadata).unwrap_or(Value::String(c.metadata.clone())));
    let recorded = crate::topics::recorded(log, &topology)?;
    let offsets = json!({
        "task": args.task.to_string(), "group": group, "topic": at.topic, "partition": partition,
        "committed": committed.as_ref().map(|c| c.offset), "metadata": metadata, "log_begins": range.start, "log_ends": range.end,
        "topic_id": log.topic_id(&at.topic)?, "topic_id_recorded": recorded.get(&at.topic),
    });
    gathered.file(&args.out, "offsets.json", pretty(&offsets).as_bytes())?;
    gathered.file(&args.out, "versions.json", pretty(&versions(&topology, log)).as_bytes())?;
    let text = std::fs::read_to_string(&args.topology).unwrap_or_default();
    gathered.file(&args.out, "topology.yaml", without_credentials(&text).as_bytes())?;
    let (mut from, mut to) = (committed.as_ref().map_or(range.start, |c| c.offset), range.end);
    if stage == Stage::Normalize {
        marks(&args.out, log, &names.control(), &at, &mut gathered)?;
        to = records(&args.out, log, &at, from, to, Some(AHEAD_RECORDS_MAX), &mut gathered)?;
    } else {
        to = committed.as_ref().map_or(range.end, |c| c.offset);
        let meta = committed.as_ref().and_then(|c| Meta::decode(&c.metadata)).unwrap_or_default();
        from = meta.from;
        if let Some(id) = &meta.snapshot {
            let begins = snapshots(args, &topology, id, &mut gathered)?;
            from = begins.unwrap_or(from);
        }
        records(&args.out, log, &at, from, to, None, &mut gathered)?;
    }
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
    let TaskName { stage, partition, .. } = args.task;
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

/// The records of `from..to`, one JSON object a line, at most so many of them. Returns where they end.
fn records(
    dir: &Path,
    log: &dyn Log,
    at: &TopicPartition,
    from: i64,
    to: i64,
    records_max: Option<usize>,
    gathered: &mut Gathered,
) -> Result<i64, Failure> {
    let OffsetRange { start, end } = log.offsets(at)?;
    if start > from {
        gathered.missing.push(format!("records {from}..{start} of {at}: the log begins at {start}"));
    }
    if to > end {
        gathered.missing.push(format!("records {}..{to} of {at}: the log ends at {end}", end.max(from)));
    }
    let path = dir.join("records.ndjson");
    let failed = |e: std::io::Error| unwritten(&path, &e);
    let mut file = BufWriter::new(File::create_new(&path).map_err(failed)?);
    let mut reader = log.reader(at, from.max(start).min(to.max(start)).min(end))?;
    let (mut stalled, mut written, mut bytes) = (0, 0, 0);
    let mut reached = reader.position();
    'all: while reader.position() < to {
        let records = reader.poll(PollLimit::default(), super::POLL_WAIT)?;
        stalled = if records.is_empty() { stalled + 1 } else { 0 };
        if records.is_empty() && (reader.at_end() || stalled >= place::STALLED_POLLS) {
            break;
        }
        for record in &records {
            let is_full = records_max.is_some_and(|max| written >= max || bytes >= AHEAD_BYTES_MAX);
            if record.offset >= to || is_full {
                break 'all;
            }
            writeln!(file, "{}", line(record)).map_err(failed)?;
            (written, bytes, reached) = (written + 1, bytes + record.size(), record.offset + 1);
        }
    }
    file.flush().map_err(failed)?;
    let bytes = std::fs::metadata(&path).map_err(failed)?.len();
    gathered.files.push(("records.ndjson".to_owned(), bytes));
    Ok(reached)
}

/// What a normalize task decided: its marks of time, as they stand in the control topic.
fn marks(dir: &Path, log: &dyn Log, control: &str, of: &TopicPartition, gathered: &mut Gathered) -> Result<(), Failure> {
    let at = TopicPartition::new(control, 0);
    let OffsetRange { start, end } = log.offsets(&at)?;
    let from = start.max(end - MARKS_LOOKED_MAX);
    if from > start {
        gathered.missing.push(format!("marks before offset {from} of {at}: only the newest are looked at"));
    }
    let mut reader = log.reader(&at, from)?;
    let (mut text, mut stalled) = (String::new(), 0);
    while reader.position() < end && stalled < place::STALLED_POLLS {
        let records = reader.poll(PollLimit::default(), super::POLL_WAIT)?;
        stalled = if records.is_empty() { stalled + 1 } else { 0 };
        if records.is_empty() && reader.at_end() {
            break;
        }
        for record in &records {
            if let Some(Ok(mark)) = record.value.as_deref().map(Mark::decode)
                && (mark.input.topic.as_str(), mark.input.partition) == (of.topic.as_str(), of.partition)
            {
                text += &format!("{}\n", json!({"offset": record.offset, "timestamp_ns": record.timestamp.0, "mark": mark}));
            }
        }
    }
    gathered.file(dir, "marks.ndjson", text.as_bytes())
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
    let own = match args.task.stage {
        Stage::Normalize => "marks.ndjson    what it decided: its marks of time in the control topic",
        _ => "*.snap          the snapshot and the objects it refers to",
    };
    let mut text = format!(
        "What task {} of tidewatch {} had at hand, gathered with `tidewatch gather`.\n\n\
         offsets.json    what is committed: offset, output hash, snapshot; where the log begins and ends; ids of the topic\n\
         {own}\n\
         records.ndjson  the log's records {from}..{to}, bytes in base64\n\
         versions.json   versions and rules\n\
         topology.yaml   the topology, without what might be credentials\n",
        args.task,
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
        assert_eq!("detect/3".parse(), Ok(TaskName { stage: Stage::Detect, input: None, partition: 3 }));
        for text in ["normalize/acme.flows/12", "correlate/0"] {
            assert_eq!(text.parse::<TaskName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
        for wrong in ["normalize/3", "normalize//3", "detect", "detect/x", "deliver/1"] {
            assert!(wrong.parse::<TaskName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn credentials_in_urls_go() {
        let text = "url: \"https://u:p@siem/x?token=1\", name: a\nplain: line\nurl: s3://bucket/path\n";
        assert_eq!(without_credentials(text), "url: \"https://siem/x\", name: a\nplain: line\nurl: s3://bucket/path\n");
    }
}
