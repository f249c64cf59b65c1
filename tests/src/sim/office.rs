//! What comes in a simulated world: two tenants with equal addresses, an evening that falls silent and a second beginning,
//! records that cannot be read and rows that come far too late. Few rows, each of which counts.
//!
//! What always holds: an [`Arrangement`] only says how the same records are spread and ordered; the signals may not show
//! it but in `raw`. No row but those that are meant to is ever late, whatever happens to whoever reads them.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use tidewatch::log::partitioner::murmur2_partition;
use tidewatch::log::{Append, TopicPartition};
use tidewatch::topology::{Input, LogChoice, Topology, Workers};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::proto::flow;
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::topic::tenant_key;

use super::baton::{MS, Random};
use super::tally;
use crate::scenario::{self, open_input};
use crate::traffic::{Contact, EBPF, FLOW, NOON, ebpf_message, flow_record, noon};

/// The clock of a world begins here.
pub const BEGAN: EventTime = NOON;

/// The first part of the traffic ends, seconds after the beginning.
pub const EVENING_S: u32 = 170;
/// And goes on here: longer than silence needs to close every slice.
pub const MORNING_S: u32 = 230;
/// The last row.
pub const LAST_S: u32 = 320;

/// How far a row may lag behind the others of its partition.
const LATENESS: Duration = Duration::from_secs(12);
/// How far a record is moved from its place, at most: below the lateness.
const SHUFFLE_NS: i64 = 8 * SECOND_NS;

/// Partitions of `obs` and of `findings`.
const OBS: u32 = 3;
const FINDINGS: u32 = 2;

/// Ways in which the same rows are spread.
pub const ARRANGEMENTS: u64 = 4;

/// How the records lie: partitions of the inputs, and the seed of their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrangement(pub u64);

impl Arrangement {
    /// That of a seed.
    pub fn of(seed: u64) -> Self {
        Self(seed % ARRANGEMENTS)
    }

    fn inputs(self) -> u32 {
        2 + (self.0 % 2) as u32
    }
}

/// A record on its way in: when it is written, and how many rows it brings.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// When it is written.
    pub at: EventTime,
    /// The record.
    pub append: Append,
    /// Rows, or 1 when it cannot be read.
    pub rows: u64,
}

/// All records of an arrangement, in the order in which they are written.
pub fn arrivals(arrangement: Arrangement) -> Vec<Arrival> {
    let mut all: Vec<Arrival> = Vec::new();
    let mut random = Random::of(&[arrangement.0, 77]);
    let partitions = arrangement.inputs();
    let mut put = |topic: &str, key: Vec<u8>, at: EventTime, value: Vec<u8>, rows: u64| {
        let moved = if arrangement.0 == 0 { 0 } else { random.between(0, SHUFFLE_NS) };
        let append = Append {
            topic: topic.to_owned(),
            partition: murmur2_partition(&key, partitions),
            timestamp: Some(EventTime(at.0 / MS * MS)),
            key: Some(key.into()),
            value: Some(value.into()),
            headers: Vec::new(),
        };
        // Kafka's times are milliseconds.
        all.push(Arrival { at: EventTime((at.0 + moved) / MS * MS), append, rows });
    };
    for (contacts, key) in batches() {
        let records: Vec<flow::FlowRecord> = contacts.iter().map(flow_record).collect();
        let at = EventTime(records.iter().map(|r| r.observed_at_unix_nano).max().unwrap_or_default());
        let rows = records.len() as u64;
        put(FLOW, key, at, flow::FlowBatch { flows: records }.encode_to_vec(), rows);
    }
    for at_s in seconds().step_by(15) {
        let at_s = f64::from(at_s);
        let contact = Contact { tenant: "a", at_s, from: "10.0.0.5", to: "203.0.113.66", port: 443, bytes: 512 };
        let message = ebpf_message(&contact, "web-1");
        put(EBPF, message.key, message.at, message.value, 1);
    }
    for n in 0..4_u32 {
        // Nobody can read these, and nobody waits for those.
        let at = noon(f64::from(60 + n * 60)).plus(SECOND_NS / 3);
        if (EVENING_S..MORNING_S).contains(&(60 + n * 60)) {
            continue;
        }
        put(FLOW, format!("garbage {n}").into_bytes(), at, vec![0xff; 7 + n as usize], 1);
        let old = flow_record(&Contact { tenant: "a", at_s: -900.0, from: "10.0.0.9", to: "203.0.113.9", port: 80, bytes: 1 });
        // Behind other rows of its own partition, so that it is late wherever it is read.
        let key = tenant_key("a", "late").into();
        put(FLOW, key, at, flow::FlowBatch { flows: vec![old] }.encode_to_vec(), 1);
    }
    all.sort_by_key(|a| a.at);
    all
}

/// Seconds with traffic.
fn seconds() -> impl Iterator<Item = u32> {
    (0..EVENING_S).chain(MORNING_S..LAST_S)
}

/// Contacts by batch, with the batch's key.
fn batches() -> Vec<(Vec<Contact<'static>>, Vec<u8>)> {
    let mut all = Vec::new();
    let mut one = |tenant: &'static str, n: u32, contacts: Vec<Contact<'static>>| {
        all.push((contacts, tenant_key(tenant, &n.to_string()).into()));
    };
    for second in seconds() {
        let at_s = f64::from(second);
        let base = Contact { tenant: "a", at_s, from: "10.0.0.5", to: "203.0.113.66", port: 443, bytes: 512 };
        if second % 6 == 0 {
            // A beacon, and the other tenant's host of the same address.
            one("a", second, vec![base]);
            one("b", second, vec![Contact { tenant: "b", at_s: at_s + 0.7, bytes: 700 + u64::from(second), ..base }]);
        }
        if second % 5 == 1 {
            // Three peers in one moment, equal but for the peer, each in a record of its own.
            for (n, to) in ["198.51.100.1", "198.51.100.2", "198.51.100.3"].into_iter().enumerate() {
                one("a", second + 1000 * n as u32, vec![Contact { from: "10.0.0.7", to, bytes: 900, ..base }]);
            }
        }
        if second % 4 == 2 {
            let from = ["10.0.0.11", "10.0.0.12", "10.0.0.13"][(second as usize / 4) % 3];
            let to = ["203.0.113.1", "203.0.113.2", "203.0.113.66"][(second as usize / 3) % 3];
            let contact = Contact { tenant: "b", from, to, port: 8443, bytes: 3000 + u64::from(second), ..base };
            one("b", second, vec![contact, Contact { at_s: at_s + 0.4, from: "10.0.0.14", ..contact }]);
        }
        if (40..60).contains(&second) || (250..265).contains(&second) {
            // A scan.
            const TARGETS: [&str; 5] = ["10.0.1.1", "10.0.1.2", "10.0.1.3", "10.0.1.4", "10.0.1.5"];
            let to = TARGETS[second as usize % 5];
            one("b", second + 5000, vec![Contact { tenant: "b", from: "10.0.0.66", to, port: 445, bytes: 80, ..base }]);
        }
    }
    all
}

/// The topology of an arrangement.
pub fn topology(arrangement: Arrangement) -> Topology {
    let input = |topic: &str, format: &str| Input {
        lateness: LATENESS,
        partitions: Some(arrangement.inputs()),
        ..open_input(topic, format)
    };
    let mut topology = Topology::of(LogChoice::Memory, vec![input(FLOW, "probectl-flow"), input(EBPF, "probectl-ebpf")]);
    topology.time.idle_after = Duration::from_secs(4);
    topology.time.max_future = Duration::from_secs(10);
    topology.time.max_skew = Duration::from_secs(60);
    topology.time.slice = Duration::from_secs(10);
    topology.obs.partitions = OBS;
    topology.findings.partitions = FINDINGS;
    topology.signals.partitions = FINDINGS;
    topology.snapshots.every = Duration::from_secs(8);
    topology.workers = Workers { normalize: 1, detect: 1, correlate: 1 };
    topology
}

/// The product's rules, quick to speak, and the tally's.
pub fn rules() -> Vec<Rule> {
    let mut rules = scenario::default_rules();
    for rule in &mut rules {
        rule.suppress_ns = 20 * SECOND_NS;
        let quick: &[(&str, f64)] = match rule.kind.as_str() {
            "lateral" => &[("fanout", 3.0), ("window_s", 30.0)],
            "beaconing" => &[("min_samples", 5.0)],
            _ => &[],
        };
        rule.thresholds.extend(quick.iter().map(|(name, value)| ((*name).to_owned(), *value)));
    }
    rules.push(tally::rule());
    rules
}

/// Rows that lie below each offset of each input partition, when the records are written in order: what must have come
/// out when that offset is committed.
#[derive(Clone, Debug, Default)]
pub struct RowsBelow(BTreeMap<TopicPartition, Vec<(i64, u64)>>);

impl RowsBelow {
    /// A record was written at an offset.
    pub fn written(&mut self, at: TopicPartition, offset: i64, rows: u64) {
        let all = self.0.entry(at).or_default();
        let before = all.last().map_or(0, |(_, rows)| *rows);
        all.push((offset, before + rows));
    }

    /// Rows in records below the offset.
    pub fn below(&self, at: &TopicPartition, offset: i64) -> u64 {
        let all = self.0.get(at).map_or(&[][..], Vec::as_slice);
        let index = all.partition_point(|(o, _)| *o < offset);
        index.checked_sub(1).map_or(0, |i| all[i].1)
    }

    /// Records below the offset of which other rows came out than came in, in words.
    pub fn differs(&self, at: &TopicPartition, below: i64, out: &BTreeMap<i64, u64>) -> String {
        let mut before = 0;
        let mut found = Vec::new();
        for (offset, rows) in self.0.get(at).into_iter().flatten() {
            let (came, went) = (rows - before, out.get(offset).copied().unwrap_or(0));
            before = *rows;
            if (*offset < below && came != went) || (*offset >= below && went > 0) {
                found.push(format!("offset {offset}: {came} in, {went} out"));
            }
        }
        found.join(", ")
    }

    /// Rows written so far.
    pub fn total(&self) -> u64 {
        self.0.values().filter_map(|all| all.last()).map(|(_, rows)| rows).sum()
    }
}
