//! `tidewatch produce`: records into a topology's input topics, from files or from the generator. Writes nothing else:
//! internal topics belong to the stages.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bumpalo::Bump;
use bytes::Bytes;
use serde_json::json;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, Decoder, RecordMeta};

use super::{Exit, Failure, Output, open, output};
use crate::log::partitioner::murmur2_partition;
use crate::log::{Append, CommitError, Log, LogError, Writer};
use crate::topology::{Input, LogChoice, Topology};
use crate::worker::system_clock;

mod source;

/// Records of one transaction, at most.
const BATCH_RECORDS_MAX: usize = 500;

/// Bytes of one transaction, at most (the last record may pass it): well below what the control socket takes.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How long a full partition is waited for.
const FULL_WAIT_MAX: Duration = Duration::from_secs(60);

/// Between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// How often an aborted transaction is tried again.
const ABORTS_MAX: u32 = 5;

/// Write files or generated traffic into a topology's input topics
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch produce topologies/quickstart.yaml --input zeek:/logs/2026-03-11\n  \
                        tidewatch produce topologies/kafka.yaml --input probectl-flow:flows/probectl.flow.events.records --rate 1000/s\n  \
                        tidewatch produce topologies/quickstart.yaml --generate 7 --preset small --format probectl\n\
                        Records with a key go where the Java client puts that key, others round and round; header lines of text \
                        logs go to every partition.")]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["inputs", "generate"]))]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// FORMAT:PATH (file, folder or glob, .gz and .records too); may be given several times
    #[arg(long = "input", value_name = "FORMAT:PATH")]
    inputs: Vec<String>,
    /// The topic, where several inputs of the topology have the format
    #[arg(long, value_name = "TOPIC", conflicts_with = "generate")]
    topic: Option<String>,
    /// At most so many records a second, as 500/s
    #[arg(long, value_name = "N/s", value_parser = rate)]
    rate: Option<u32>,
    #[command(flatten)]
    generate: source::Generate,
    /// One JSON object with the figures, for machines
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    // Everything that can be wrong is found before the first record is written.
    let plan = args.generate.plan();
    let mut source = match &plan {
        Some(plan) => source::generated(&topology, plan, &args.generate)?,
        None => source::files(&topology, &args.inputs, args.topic.as_deref())?,
    };
    let reached = open::writing(&topology)?;
    let mut sink = Sink::open(&topology, reached.log.as_ref(), &source.topics, args.rate)?;
    let bar = output::progress(source.total, "produce");
    let mut failed = None;
    while let Some(record) = source.next() {
        let done = record.and_then(|record| sink.take(record));
        if let Err(e) = done {
            failed = Some(e);
            break;
        }
        bar.set_position(source.done());
    }
    let ended = match failed {
        None => sink.commit(),
        Some(e) => Err(e),
    };
    bar.finish_and_clear();
    match ended {
        Ok(()) => {}
        Err(e) if sink.committed == 0 => return Err(e),
        // What was committed is there for good: say how much that is.
        Err(e) => return Err(Failure::Failed(format!("{e}; {} records were written before", sink.committed))),
    }
    tell(&sink, &source.passed_over, args.json, out)?;
    Ok(Exit::Good)
}

fn rate(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    number.parse().ok().filter(|n| *n > 0).ok_or_else(|| "expected records a second, as 500/s".to_owned())
}

fn tell(sink: &Sink<'_>, passed_over: &BTreeMap<&'static str, u64>, as_json: bool, out: &mut Output) -> Result<(), Failure> {
    if as_json {
        let topics: serde_json::Map<_, _> = sink
            .topics
            .iter()
            .map(|(topic, t)| {
                let figures = json!({"records": t.records, "rows": t.rows, "bytes": t.bytes, "undecodable": t.undecodable});
                (topic.clone(), figures)
            })
            .collect();
        let (records, rows) = sink.topics.values().fold((0, 0), |(r, n), t| (r + t.records, n + t.rows));
        return out.json(&json!({"records": records, "rows": rows, "topics": topics, "passed_over": passed_over}));
    }
    let rows: Vec<Vec<String>> = sink
        .topics
        .iter()
        .map(|(topic, t)| {
            let mut row = vec![topic.clone()];
            row.extend([u64::from(t.partitions), t.records, t.rows, t.bytes, t.undecodable].map(|n| n.to_string()));
            row
        })
        .collect();
    out.table(&["topic", "partitions", "records", "rows", "bytes", "undecodable"], &rows)?;
    for (what, n) in passed_over {
        out.line(format_args!("{n} records of {what} passed over: no input of the topology has that format"))?;
    }
    Ok(())
}

/// One record to be written.
struct Item {
    topic: String,
    key: Option<Bytes>,
    /// `None` = the log's clock.
    timestamp: Option<EventTime>,
    value: Bytes,
    /// A header line of a text log: every partition needs it.
    everywhere: bool,
}

struct TopicSink {
    partitions: u32,
    turn: u32,
    decoder: Box<dyn Decoder>,
    records: u64,
    rows: u64,
    bytes: u64,
    undecodable: u64,
}

/// Fills transactions and commits them.
struct Sink<'l> {
    log: &'l dyn Log,
    writer: Box<dyn Writer>,
    topics: BTreeMap<String, TopicSink>,
    batch: Vec<Append>,
    batch_bytes: usize,
    batch_records_max: usize,
    /// Records a second, when the pace is set; since when; how many.
    pace: Option<(u32, Instant, u64)>,
    committed: u64,
}

impl<'l> Sink<'l> {
    fn open(topology: &Topology, log: &'l dyn Log, inputs: &[&Input], rate: Option<u32>) -> Result<Self, Failure> {
        let ours = topology.input_topics();
        let mut topics = BTreeMap::new();
        for input in inputs {
            if let Some(spec) = ours.iter().find(|s| s.name == input.topic) {
                log.create_topic(spec)?;
            }
            let partitions = log.partitions(&input.topic).map_err(|e| match e {
                LogError::UnknownTopic { topic } if matches!(topology.log, LogChoice::Kafka(_)) => Failure::Usage(format!(
                    "topic {topic} does not exist, and the topology gives it no `partitions`, so it is not ours to make"
                )),
                e => e.into(),
            })?;
            let sink = TopicSink {
                partitions,
                turn: 0,
                decoder: (input.format.decoder)(),
                records: 0,
                rows: 0,
                bytes: 0,
                undecodable: 0,
            };
            topics.insert(input.topic.clone(), sink);
        }
        let deployment = topology.names.deployment().map(|d| format!("{d}-")).unwrap_or_default();
        // Two that produce at once must not fence each other.
        let writer = log.writer(&format!("tidewatch-{deployment}produce-{}", std::process::id()))?;
        let batch_records_max = rate.map_or(BATCH_RECORDS_MAX, |r| (r as usize / 10).clamp(1, BATCH_RECORDS_MAX));
        Ok(Self {
            log,
            writer,
            topics,
            batch: Vec::new(),
            batch_bytes: 0,
            batch_records_max,
            pace: rate.map(|r| (r, Instant::now(), 0)),
            committed: 0,
        })
    }

    fn take(&mut self, item: Item) -> Result<(), Failure> {
        let Some(topic) = self.topics.get_mut(&item.topic) else { return Ok(()) };
        topic.count(&item);
        let partitions = match &item.key {
            _ if item.everywhere => 0..topic.partitions,
            Some(key) => {
                let partition = murmur2_partition(key, topic.partitions);
                partition..partition + 1
            }
            None => {
                let partition = topic.turn;
                topic.turn = (topic.turn + 1) % topic.partitions.max(1);
                partition..partition + 1
            }
        };
        for partition in partitions {
            self.batch_bytes += item.value.len();
            self.batch.push(Append {
                topic: item.topic.clone(),
                partition,
                timestamp: item.timestamp,
                key: item.key.clone(),
                value: Some(item.value.clone()),
                headers: Vec::new(),
            });
        }
        if self.batch.len() >= self.batch_records_max || self.batch_bytes >= BATCH_BYTES_MAX { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let since = Instant::now();
        let mut aborts = 0;
        loop {
            match self.writer.commit(&self.batch, &[]) {
                Ok(()) => break,
                Err(CommitError::Full { .. }) if since.elapsed() < FULL_WAIT_MAX => {
                    // Nobody else does it for a directory that is ours alone.
                    if self.log.enforce_retention(system_clock()())? == 0 {
                        std::thread::sleep(TRY_AGAIN);
                    }
                }
                Err(CommitError::Aborted { .. }) if aborts < ABORTS_MAX => {
                    aborts += 1;
                    std::thread::sleep(TRY_AGAIN);
                }
                Err(e) => return Err(Failure::Failed(e.to_string())),
            }
        }
        let n = self.batch.len() as u64;
        self.committed += n;
        self.batch.clear();
        self.batch_bytes = 0;
        if let Some((rate, began, done)) = &mut self.pace {
            *done += n;
            let due = Duration::from_secs_f64(*done as f64 / f64::from(*rate));
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        Ok(())
    }
}

impl TopicSink {
    /// Counts what normalize will find in it.
    fn count(&mut self, item: &Item) {
        self.records += 1;
        self.bytes += item.value.len() as u64;
        let arena = Bump::new();
        let mut decoded = Decoded::default();
        let meta = RecordMeta { timestamp: item.timestamp.unwrap_or(EventTime::MAX) };
        match self.decoder.decode(&item.value, meta, &arena, &mut decoded) {
            Ok(()) => self.rows += (decoded.rows.len() + decoded.bad.len()) as u64,
            Err(_) => self.undecodable += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_records_a_second() {
        assert_eq!(rate("500/s"), Ok(500));
        assert_eq!(rate("7"), Ok(7));
        for wrong in ["0", "-1/s", "5/min", "", "fast"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
