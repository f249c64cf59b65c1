//! What is measured with: rows of one kind, made once from a seed, and how they get into a topic or a file. What always
//! holds: the same arguments give the same rows; one record per partition follows them, so far ahead in event time that
//! every slice of the workload closes.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use bumpalo::Bump;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, Log, TopicSpec};
use tidewatch::topology::{Input, Registry, Tenancy};
use tidewatch_generator::recordfile::{Header, write_record};
use tidewatch_generator::{PRESET_START, Plan, Record, Style, Synthetic, probectl_records, zeek_lines};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::wire::{self, Decoded, RecordMeta};

use super::columns::Columns;

/// Partitions of the input topic.
pub(super) const PARTITIONS: u32 = 8;

/// Bytes written in one transaction while a topic is loaded.
const LOAD_BYTES: usize = 8 << 20;

/// The last record of a partition lies so far behind what closes the last slice, seconds.
const CLOSING_S: i64 = 30;

/// Kinds of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// Flow records of probectl's collectors, protobuf, 500 a record.
    Flow,
    /// DNS calls of probectl's agents, protobuf, up to 500 a record.
    Dns,
    /// Zeek's logs as JSON, one line a record.
    Zeek,
}

impl Kind {
    /// Format as topologies name it.
    pub(super) fn format(self) -> anyhow::Result<&'static wire::Format> {
        let name = match self {
            Self::Flow => "probectl-flow",
            Self::Dns => "probectl-ebpf",
            Self::Zeek => "zeek",
        };
        wire::format(name).with_context(|| format!("no format {name}"))
    }

    /// The input as a topology has it.
    pub(super) fn input(self, topic: &str) -> anyhow::Result<Input> {
        let format = *self.format()?;
        let tenancy = if format.has_tenant {
            Tenancy::Verified { registry: Registry::Open, strict: false }
        } else {
            Tenancy::Static("bench-1".to_owned())
        };
        let lateness = Duration::from_secs(u64::from(format.lateness_s));
        Ok(Input { topic: topic.to_owned(), format, lateness, tenancy, lane: None, partitions: Some(PARTITIONS) })
    }
}

/// A workload.
pub(super) struct Workload {
    kind: Kind,
    synthetic: Synthetic,
    plan: Plan,
}

/// What a workload came to.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Loaded {
    /// Rows, those that close the last slices included.
    pub(super) rows: u64,
    /// Records.
    pub(super) records: u64,
    /// Bytes of values.
    pub(super) bytes: u64,
    /// Event time after the last row that counts.
    #[serde(skip)]
    pub(super) end: EventTime,
    /// Pairs that called at least once, three and ten times; of flows only.
    pub(super) pairs: u64,
    pub(super) pairs_3: u64,
    pub(super) pairs_10: u64,
}

impl Workload {
    /// Rows of a kind in the shape of `synthetic`; for the others than flows, an office with as many hosts.
    pub(super) fn new(kind: Kind, synthetic: Synthetic) -> Self {
        let tenants = if kind == Kind::Zeek { 1 } else { synthetic.tenants };
        let hosts = (synthetic.pairs / 40 / u64::from(tenants)).clamp(10, 20_000) as u32;
        let mut plan = Plan::office(synthetic.seed, tenants, hosts, PRESET_START, 4 * 3_600).with_dns();
        for (n, tenant) in plan.tenants.iter_mut().enumerate() {
            *tenant = format!("bench-{}", n + 1);
        }
        Self { kind, synthetic, plan }
    }

    /// The rows' records by time, until there are enough rows.
    pub(super) fn records(&self) -> Box<dyn Iterator<Item = Record> + '_> {
        records(self.kind, &self.synthetic, &self.plan)
    }

    /// A record far behind `end`, which closes what lies before.
    fn closing(&self, end: EventTime) -> anyhow::Result<Record> {
        let at = end.plus((i64::from(self.kind.format()?.lateness_s) + CLOSING_S) * SECOND_NS);
        let synthetic = Synthetic { flows: 1, start: at, duration_s: 1, batch: 1, ..self.synthetic.clone() };
        let plan = Plan { start: at, ..self.plan.clone() };
        records(self.kind, &synthetic, &plan).next().context("a workload without a row")
    }

    /// Makes the topic and writes `records` to it, then what closes them if `close`.
    pub(super) fn load(
        &self,
        log: &dyn Log,
        topic: &str,
        records: &mut dyn Iterator<Item = Record>,
        close: bool,
    ) -> anyhow::Result<Loaded> {
        log.create_topic(&TopicSpec { append_time: true, ..TopicSpec::new(topic, PARTITIONS) })?;
        let mut writer = log.writer("cost-loader")?;
        let mut count = Count::new(self.kind)?;
        let mut appends = Vec::new();
        let mut waiting = 0;
        let mut put = |record: Record, partition, more: bool| -> anyhow::Result<()> {
            waiting += record.value.len();
            appends.push(Append {
                topic: topic.to_owned(),
                partition,
                timestamp: Some(record.timestamp),
                key: (!record.key.is_empty()).then(|| record.key.into()),
                value: Some(record.value.into()),
                headers: Vec::new(),
            });
            if waiting > LOAD_BYTES || !more {
                writer.commit(&appends, &[])?;
                appends.clear();
                waiting = 0;
            }
            Ok(())
        };
        for record in records {
            count.take(&record, true)?;
            let n = count.loaded.records as u32;
            let partition = if record.key.is_empty() { n % PARTITIONS } else { murmur2_partition(&record.key, PARTITIONS) };
            put(record, partition, true)?;
        }
        count.loaded.end = count.last.plus(1);
        if close {
            let closing = self.closing(count.loaded.end)?;
            for partition in 0..PARTITIONS {
                count.take(&closing, false)?;
                put(closing.clone(), partition, partition + 1 < PARTITIONS)?;
            }
        } else {
            writer.commit(&appends, &[])?;
        }
        Ok(count.done())
    }

    /// Writes them to a file as a backtest reads it.
    pub(super) fn write(&self, path: &Path) -> anyhow::Result<Loaded> {
        let say = || format!("cannot write {}", path.display());
        let mut out = BufWriter::with_capacity(1 << 20, File::create_new(path).with_context(say)?);
        let mut count = Count::new(self.kind)?;
        for record in self.records() {
            count.take(&record, true)?;
            if self.kind == Kind::Zeek {
                out.write_all(&record.value).and_then(|()| out.write_all(b"\n")).with_context(say)?;
                continue;
            }
            let header = Header { key: String::from_utf8(record.key).ok(), timestamp: record.timestamp, partition: None };
            write_record(&mut out, &header, &record.value).with_context(say)?;
        }
        out.flush().with_context(say)?;
        count.loaded.end = count.last.plus(1);
        Ok(count.done())
    }
}

fn records<'a>(kind: Kind, synthetic: &'a Synthetic, plan: &'a Plan) -> Box<dyn Iterator<Item = Record> + 'a> {
    let wanted = synthetic.flows;
    match kind {
        Kind::Flow => Box::new(synthetic.records()),
        Kind::Dns => {
            let calls = probectl_records(plan).filter(|r| r.topic == tidewatch_generator::probectl::EBPF_TOPIC);
            let mut rows = 0;
            Box::new(calls.take_while(move |record| {
                let enough = rows >= wanted;
                rows += rows_of(Kind::Dns, record).unwrap_or(0);
                !enough
            }))
        }
        Kind::Zeek => {
            let lines = zeek_lines(plan, Style::Json).take(usize::try_from(wanted).unwrap_or(usize::MAX));
            let record = |line: tidewatch_generator::zeek::ZeekLine| Record {
                topic: "zeek",
                key: Vec::new(),
                timestamp: line.at,
                value: line.line.into_bytes(),
            };
            Box::new(lines.map(record))
        }
    }
}

/// Rows of a record, as the product decodes it.
fn rows_of(kind: Kind, record: &Record) -> anyhow::Result<u64> {
    let (arena, mut decoded) = (Bump::new(), Decoded::default());
    (kind.format()?.decoder)().decode(&record.value, RecordMeta { timestamp: record.timestamp }, &arena, &mut decoded)?;
    Ok(decoded.rows.len() as u64)
}

struct Count {
    kind: Kind,
    columns: Columns,
    calls: HashMap<u64, u8>,
    last: EventTime,
    loaded: Loaded,
}

impl Count {
    fn new(kind: Kind) -> anyhow::Result<Self> {
        Ok(Self { kind, columns: Columns::default(), calls: HashMap::new(), last: EventTime::MIN, loaded: Loaded::default() })
    }

    fn take(&mut self, record: &Record, counts: bool) -> anyhow::Result<()> {
        self.loaded.records += 1;
        self.loaded.bytes += record.value.len() as u64;
        if counts {
            // Never below the rows' own times: they lie before their record's.
            self.last = self.last.max(record.timestamp);
        }
        self.loaded.rows += match self.kind {
            Kind::Flow => {
                let Some(rows) = self.columns.add(&record.value) else { bail!("a record that is none") };
                for call in self.columns.calls() {
                    let calls = self.calls.entry(call).or_default();
                    *calls = calls.saturating_add(1);
                }
                self.columns.take();
                rows
            }
            Kind::Dns => rows_of(self.kind, record)?,
            Kind::Zeek => 1,
        };
        Ok(())
    }

    fn done(self) -> Loaded {
        let at_least = |n| self.calls.values().filter(|calls| **calls >= n).count() as u64;
        Loaded { pairs: at_least(1), pairs_3: at_least(3), pairs_10: at_least(10), ..self.loaded }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tidewatch::log::TopicPartition;
    use tidewatch::log::memory::MemoryLog;

    use super::*;

    #[test]
    fn every_kind_is_loaded_with_the_rows_asked_for_and_closed() {
        for kind in [Kind::Flow, Kind::Dns, Kind::Zeek] {
            let workload = Workload::new(kind, Plan::bench(2_000, 4_000));
            let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
            let loaded = workload.load(&*log, "in", &mut workload.records(), true).unwrap();
            assert!((2_000..2_600).contains(&loaded.rows), "{kind:?}: {}", loaded.rows);
            for partition in 0..PARTITIONS {
                assert!(log.offsets(&TopicPartition::new("in", partition)).unwrap().end > 0, "{kind:?}");
            }
            let written = workload.write(&tempfile::tempdir().unwrap().path().join("x.records")).unwrap();
            assert!(written.rows < loaded.rows && written.end == loaded.end);
        }
    }
}
