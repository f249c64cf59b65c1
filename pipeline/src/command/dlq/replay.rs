//! `tidewatch dlq replay`: rejected records, repaired or as they are, into the topic of replayed records.

use std::path::PathBuf;

use bytes::Bytes;
use serde_json::json;
use tidewatch_schemas::trace::{TRACEPARENT, TRACESTATE};

use super::{REPLAYED_FROM, Rejected, shown};
use crate::command::decode::from_hex;
use crate::command::{Exit, Failure, Output};
use crate::log::{Append, Log, Record, Writer};
use crate::normalize::reject;
use crate::topology::Topology;

/// Records of one transaction, at most.
const BATCH_RECORDS_MAX: usize = 500;

/// Bytes of one transaction, at most (the last record may pass it): well below what the control socket takes.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// Headers that a replayed record keeps: where it first came from.
const KEPT: &[&str] = &[reject::TOPIC, reject::PARTITION, reject::OFFSET, reject::FORMAT, TRACEPARENT, TRACESTATE];

/// Give rejected records to normalize again
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch dlq replay topologies/quickstart.yaml --reason tenant\n  \
                        tidewatch dlq replay topologies/quickstart.yaml --offset 17 --value repaired.bin\n\
                        They go to the topic of replayed records, which normalize reads as if they came on their own input; the \
                        original topic stays as it is. --all and --reason pass over what was replayed before.")]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(false))]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Offset in the rejected topic; may be given several times
    #[arg(long = "offset", value_name = "N", group = "which", value_parser = clap::value_parser!(i64).range(0..))]
    offsets: Vec<i64>,
    /// Everything that was rejected
    #[arg(long, group = "which")]
    all: bool,
    /// What was rejected for this reason: its first words, as bytes, tenant, future or time
    #[arg(long, value_name = "REASON", group = "which")]
    reason: Option<String>,
    /// Partition of the rejected topic, with --offset
    #[arg(long, default_value_t = 0, value_name = "N")]
    partition: u32,
    /// The repaired record, instead of the rejected bytes; with one --offset
    #[arg(long, value_name = "FILE", conflicts_with_all = ["all", "reason"])]
    value: Option<PathBuf>,
    /// The repaired record as hexadecimal text, instead of the rejected bytes; with one --offset
    #[arg(long, value_name = "HEX", conflicts_with_all = ["all", "reason", "value"])]
    hex: Option<String>,
    /// One JSON object with the figures, for machines
    #[arg(long)]
    json: bool,
}

/// Why a record stays where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stays {
    /// Only its first bytes were kept.
    Cut,
    /// Its topic is no input of this topology: it would be rejected again.
    NoInput,
    /// It has no value.
    Empty,
}

impl Stays {
    fn why(self) -> &'static str {
        match self {
            Self::Cut => "only its first bytes were kept; give the whole record with --value FILE",
            Self::NoInput => "header tw-topic names no input of this topology",
            Self::Empty => "it has no value; give one with --value FILE",
        }
    }
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let repaired = repaired(args)?;
    let rejected = Rejected::open(&args.topology)?;
    let topic = rejected.topology.names.replayed();
    let mut sink = Sink::open(&rejected, &topic)?;
    let (mut cut, mut foreign, mut before) = (0u64, 0u64, 0u64);
    if args.offsets.is_empty() {
        let replayed = rejected.replayed()?;
        let each = rejected.each(|partition, record| {
            let reason = shown::text_of(&record, reject::REASON).unwrap_or_default();
            if args.reason.as_ref().is_some_and(|wanted| !reason.starts_with(wanted.as_str())) {
                return Ok(());
            }
            if replayed.contains(&(partition, record.offset)) {
                before += 1;
                return Ok(());
            }
            match replay(&rejected.topology, partition, &record, None) {
                Ok(append) => sink.take(append),
                Err(Stays::NoInput) => {
                    foreign += 1;
                    Ok(())
                }
                Err(Stays::Cut | Stays::Empty) => {
                    cut += 1;
                    Ok(())
                }
            }
        });
        each.and_then(|()| sink.commit()).map_err(|e| sink.midway(&e))?;
    } else {
        // All or nothing: a wrong offset among right ones changes nothing.
        let mut appends = Vec::new();
        for offset in &args.offsets {
            let record = rejected.at(args.partition, *offset)?;
            let append = replay(&rejected.topology, args.partition, &record, repaired.clone())
                .map_err(|stays| Failure::Usage(format!("record {offset} cannot be replayed: {}", stays.why())))?;
            appends.push(append);
        }
        let all = appends.into_iter().try_for_each(|append| sink.take(append));
        all.and_then(|()| sink.commit()).map_err(|e| sink.midway(&e))?;
    }
    let n = sink.committed;
    if args.json {
        out.json(&json!({"replayed": n, "replayed_before": before, "cut": cut, "no_input": foreign, "topic": topic}))?;
        return Ok(Exit::Good);
    }
    out.line(format_args!("{n} records replayed to {topic}"))?;
    for (n, what) in [
        (before, "replayed before"),
        (cut, "not whole: repair them one by one with --offset N --value FILE"),
        (foreign, "of topics that are no input of this topology"),
    ] {
        if n > 0 {
            out.line(format_args!("{n} passed over, {what}"))?;
        }
    }
    Ok(Exit::Good)
}

fn repaired(args: &Args) -> Result<Option<Bytes>, Failure> {
    let value = match (&args.value, &args.hex) {
        (Some(path), _) => std::fs::read(path).map_err(|e| Failure::File {
            verb: "read",
            path: path.display().to_string(),
            reason: e.to_string(),
        })?,
        (None, Some(text)) => from_hex(text.as_bytes()).map_err(|e| Failure::Usage(format!("--hex is not hexadecimal: {e}")))?,
        (None, None) => return Ok(None),
    };
    if args.offsets.len() != 1 {
        return Err(Failure::Usage("a repaired record replaces one: give exactly one --offset".to_owned()));
    }
    Ok(Some(value.into()))
}

/// The record to be written, without its partition's bounds.
fn replay(topology: &Topology, partition: u32, record: &Record, repaired: Option<Bytes>) -> Result<Append, Stays> {
    let from = shown::text_of(record, reject::TOPIC);
    if !topology.inputs.iter().any(|i| Some(&i.topic) == from.as_ref()) {
        return Err(Stays::NoInput);
    }
    let value = match repaired {
        Some(value) => value,
        None if record.header(reject::LENGTH).is_some() => return Err(Stays::Cut),
        None => record.value.clone().ok_or(Stays::Empty)?,
    };
    let mut headers: Vec<(String, Bytes)> =
        record.headers.iter().filter(|(name, _)| KEPT.contains(&name.as_str())).cloned().collect();
    headers.push((REPLAYED_FROM.to_owned(), format!("{partition}:{}", record.offset).into()));
    Ok(Append {
        topic: topology.names.replayed(),
        partition,
        // Now: a row of the past is late, not in the future.
        timestamp: None,
        key: record.key.clone(),
        value: Some(value),
        headers,
    })
}

struct Sink {
    writer: Box<dyn Writer>,
    partitions: u32,
    batch: Vec<Append>,
    bytes: usize,
    committed: u64,
}

impl Sink {
    fn open(rejected: &Rejected, topic: &str) -> Result<Self, Failure> {
        if let Some(spec) = rejected.topology.internal_topics().iter().find(|s| s.name == topic) {
            rejected.log.create_topic(spec)?;
        }
        let log: &dyn Log = rejected.log.as_ref();
        let deployment = rejected.topology.names.deployment().map(|d| format!("{d}-")).unwrap_or_default();
        let writer = log.writer(&format!("tidewatch-{deployment}replay-{}", std::process::id()))?;
        Ok(Self { writer, partitions: log.partitions(topic)?.max(1), batch: Vec::new(), bytes: 0, committed: 0 })
    }

    fn take(&mut self, mut append: Append) -> Result<(), Failure> {
        append.partition %= self.partitions;
        self.bytes += append.value.as_ref().map_or(0, Bytes::len);
        self.batch.push(append);
        if self.batch.len() >= BATCH_RECORDS_MAX || self.bytes >= BATCH_BYTES_MAX { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.writer.commit(&self.batch, &[]).map_err(|e| Failure::Failed(e.to_string()))?;
        self.committed += self.batch.len() as u64;
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }

    fn midway(&self, e: &Failure) -> Failure {
        Failure::Failed(format!("{e}; {} records were replayed before", self.committed))
    }
}
