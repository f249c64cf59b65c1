//! The limit: one process that consumes the same records and decodes the same fields into columns, and does nothing else.
//! Of flows with a decoder of its own ([`super::columns`]); of the other kinds with the product's, which is told.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bumpalo::Bump;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use tidewatch::log::{PollLimit, TopicPartition};
use tidewatch_generator::recordfile::RecordFile;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, Decoder, RecordMeta};

use super::columns::{Columns, ROWS};
use super::job::{Job, Measured, Source};
use super::machine::{Cpu, resident_bytes};
use super::workload::{Kind, PARTITIONS};

/// Nothing came for so long: something is wrong.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// Measures it in this process.
pub(super) fn run(job: &Job) -> anyhow::Result<Measured> {
    let (began, cpu) = (Instant::now(), Cpu::of(None)?);
    let mut sink = Sink::new(job)?;
    match &job.source {
        Source::Kafka(brokers) => kafka(brokers, job, &mut sink)?,
        Source::Embedded(_) => embedded(job, &mut sink)?,
        Source::File(path) => file(path, job.kind, &mut sink)?,
    }
    let (wall_s, cpu) = (began.elapsed().as_secs_f64(), Cpu::of(None)?.since(cpu));
    if sink.rows != job.rows {
        bail!("decoded {} of {} rows", sink.rows, job.rows);
    }
    let (rss_settled_bytes, rss_peak_bytes) = resident_bytes()?;
    Ok(Measured { rss_settled_bytes, rss_peak_bytes, ..Measured::timed(sink.rows, wall_s, cpu) })
}

/// Where records end.
struct Sink {
    columns: Option<Columns>,
    decoder: Box<dyn Decoder>,
    arena: Bump,
    rows: u64,
}

impl Sink {
    fn new(job: &Job) -> anyhow::Result<Self> {
        let columns = (job.kind == Kind::Flow).then(Columns::default);
        Ok(Self { columns, decoder: (job.kind.format()?.decoder)(), arena: Bump::new(), rows: 0 })
    }

    fn take(&mut self, value: &[u8], timestamp: EventTime) -> anyhow::Result<()> {
        if let Some(columns) = &mut self.columns {
            self.rows += columns.add(value).context("a record that is no batch of flows")?;
            if columns.rows() >= ROWS {
                columns.take();
            }
            return Ok(());
        }
        let mut decoded = Decoded::default();
        self.decoder.decode(value, RecordMeta { timestamp }, &self.arena, &mut decoded)?;
        self.rows += std::hint::black_box(&decoded).rows.len() as u64;
        drop(decoded);
        self.arena.reset();
        Ok(())
    }
}

/// librdkafka with its defaults, but for the pause after a full queue: with the default of a second it sleeps most of the
/// time.
fn kafka(brokers: &str, job: &Job, sink: &mut Sink) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers).set("group.id", "tidewatch-cost-limit");
    config.set("enable.auto.commit", "false").set("fetch.queue.backoff.ms", "10");
    let consumer: BaseConsumer = config.create()?;
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&job.topic, partition as i32, Offset::Beginning)?;
    }
    consumer.assign(&all)?;
    while sink.rows < job.rows {
        let Some(message) = consumer.poll(SILENCE_MAX) else { bail!("no record for {SILENCE_MAX:?}") };
        let message = message?;
        let timestamp = EventTime(message.timestamp().to_millis().unwrap_or(0).saturating_mul(1_000_000));
        sink.take(message.payload().unwrap_or_default(), timestamp)?;
    }
    Ok(())
}

fn embedded(job: &Job, sink: &mut Sink) -> anyhow::Result<()> {
    let log = job.source.log()?;
    for partition in 0..PARTITIONS {
        let at = TopicPartition::new(job.topic.clone(), partition);
        let range = log.offsets(&at)?;
        let mut reader = log.reader(&at, range.start)?;
        while reader.position() < range.end {
            for record in reader.poll(PollLimit::default(), SILENCE_MAX)? {
                sink.take(record.value.as_deref().unwrap_or_default(), record.timestamp)?;
            }
        }
    }
    Ok(())
}

fn file(path: &Path, kind: Kind, sink: &mut Sink) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let mut file = BufReader::with_capacity(256 << 10, file);
    if kind == Kind::Zeek {
        let mut line = Vec::new();
        while file.read_until(b'\n', &mut line)? > 0 {
            sink.take(line.trim_ascii_end(), EventTime::MIN)?;
            line.clear();
        }
        return Ok(());
    }
    for entry in RecordFile::new(file) {
        let entry = entry.with_context(|| path.display().to_string())?;
        sink.take(&entry.value, entry.header.timestamp)?;
    }
    Ok(())
}
