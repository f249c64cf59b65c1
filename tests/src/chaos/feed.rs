//! The input: generated once, produced at a steady pace, on a thread of its own, by an idempotent producer that goes
//! around the proxies and knows nothing of transactions.
//!
//! What always holds: records of a topic are dealt out to its partitions one after the other, in the order of their times;
//! a record's timestamp is its event time. What is produced twice or lost at a stop of this process changes nothing that is
//! compared: all runs read the same topics.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use prost::Message as _;
use rdkafka::ClientConfig;
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};
use tidewatch::log::{Log, PollLimit, TopicPartition};
use tidewatch_generator::probectl::Record;
use tidewatch_generator::{Plan, probectl_records};
use tidewatch_schemas::proto::{ebpf, flow};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::scene::Scene;
use crate::traffic::{Contact, flow_record};

/// Pause while nothing is due.
const PACE: Duration = Duration::from_millis(10);
/// A record that was not stored by then is lost to the feed, and the run with it.
const STORE_MS: &str = "300000";
/// Longest wait for the last records to be stored.
const FLUSH_WAIT: Duration = Duration::from_secs(60);
/// Old records kept for repetition.
const STALE_RECORDS_MAX: usize = 4096;

/// Partitions of the input topics, which may grow.
pub type Partitions = Arc<Mutex<BTreeMap<String, u32>>>;

/// What is known of the feed.
#[derive(Default)]
pub struct Fed {
    stop: AtomicBool,
    /// Timestamp of the last record, ns.
    reached_ns: AtomicI64,
    /// Records so far.
    pub records: AtomicU64,
    /// Rows in them.
    pub rows: AtomicU64,
    /// The first offset not stored, by partition.
    ends: Mutex<BTreeMap<TopicPartition, i64>>,
    failed: Mutex<Option<String>>,
}

impl Fed {
    /// Event time reached.
    pub fn reached(&self) -> EventTime {
        EventTime(self.reached_ns.load(Ordering::Relaxed))
    }

    /// The end of a partition, as far as the brokers have confirmed it.
    pub fn end(&self, at: &TopicPartition) -> i64 {
        self.ends.lock().unwrap_or_else(PoisonError::into_inner).get(at).copied().unwrap_or(0)
    }

    /// An error when a record was not stored.
    pub fn check(&self) -> Result<()> {
        match &*self.failed.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(why) => bail!("the feed failed: {why}"),
            None => Ok(()),
        }
    }

    fn fail(&self, why: String) {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(why);
    }
}

/// The running feed.
pub struct Feed {
    /// What is known of it.
    pub fed: Arc<Fed>,
    thread: JoinHandle<Result<()>>,
}

impl Feed {
    /// Begins with the first record after `after`.
    pub fn start(brokers: &str, scene: Scene, plan: Plan, partitions: &Partitions, after: Option<EventTime>) -> Result<Self> {
        let fed = Arc::new(Fed::default());
        let producer = producer(brokers, &fed)?;
        let mut pace =
            Feeder { producer, scene, fed: Arc::clone(&fed), partitions: Arc::clone(partitions), dealt: BTreeMap::new() };
        let thread = std::thread::Builder::new().name("feed".into()).spawn(move || {
            let result = pace.run(&plan, after.unwrap_or(EventTime::MIN));
            if let Err(error) = &result {
                pace.fed.fail(error.to_string());
            }
            result
        })?;
        Ok(Self { fed, thread })
    }

    /// Stops; returns when everything is stored.
    pub fn stop(self) -> Result<()> {
        self.fed.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the feed panicked"))??;
        self.fed.check()
    }
}

/// Writes a last row to every partition of every input, so late that all slices before it close.
pub fn close(brokers: &str, scene: Scene, partitions: &Partitions, at: EventTime) -> Result<()> {
    let fed = Arc::new(Fed::default());
    let producer = producer(brokers, &fed)?;
    for source in scene.sources {
        let count = partitions.lock().unwrap_or_else(PoisonError::into_inner).get(source.topic).copied().unwrap_or(0);
        for partition in 0..count {
            let (key, value) = last_row(source.format, at);
            send(&producer, &fed, source.topic, partition, at, &key, &value)?;
        }
    }
    producer.flush(FLUSH_WAIT)?;
    fed.check()
}

/// The highest timestamp in the input topics; `None` when they are empty.
pub fn last(log: &dyn Log, scene: Scene) -> Result<Option<EventTime>> {
    let mut highest = None;
    for source in scene.sources {
        for partition in 0..log.partitions(source.topic)? {
            let at = TopicPartition::new(source.topic, partition);
            let range = log.offsets(&at)?;
            if range.end == range.start {
                continue;
            }
            let mut reader = log.reader(&at, range.end - 1)?;
            let began = Instant::now();
            while !reader.at_end() && began.elapsed() < FLUSH_WAIT {
                for record in reader.poll(PollLimit::default(), Duration::from_millis(500))? {
                    highest = highest.max(Some(record.timestamp));
                }
            }
        }
    }
    Ok(highest)
}

struct Feeder {
    producer: ThreadedProducer<Stored>,
    scene: Scene,
    fed: Arc<Fed>,
    partitions: Partitions,
    dealt: BTreeMap<&'static str, (u32, u32)>,
}

impl Feeder {
    fn run(&mut self, plan: &Plan, after: EventTime) -> Result<()> {
        let mut records = probectl_records(plan);
        let mut old: VecDeque<Record> = VecDeque::new();
        let mut began: Option<(Instant, EventTime)> = None;
        let (mut rested, mut turn) = (Duration::ZERO, 0);
        let mut skipped = 0;
        while let Some(record) = records.next() {
            if record.timestamp <= after {
                skipped = records.rows();
                continue;
            }
            let (begin, first) = *began.get_or_insert((Instant::now(), record.timestamp));
            let due = Duration::from_nanos((record.timestamp.since(first) / i64::from(self.scene.speed)).max(0) as u64);
            if let Some((on_s, off_s)) = self.scene.pauses
                && due.as_secs() / u64::from(on_s) > turn
            {
                turn = due.as_secs() / u64::from(on_s);
                rested += self.rest(off_s)?;
            }
            while begin.elapsed().saturating_sub(rested) < due {
                if self.fed.stop.load(Ordering::Relaxed) {
                    break;
                }
                std::thread::sleep(PACE);
            }
            if self.fed.stop.load(Ordering::Relaxed) {
                self.producer.flush(FLUSH_WAIT)?;
                return Ok(());
            }
            self.deal(&record, record.timestamp)?;
            let number = self.fed.records.fetch_add(1, Ordering::Relaxed);
            self.fed.rows.store(records.rows() - skipped, Ordering::Relaxed);
            self.fed.reached_ns.store(record.timestamp.0, Ordering::Relaxed);
            if let Some(every) = self.scene.stale_every {
                // Well past the lateness: late wherever it goes.
                let stale = record.timestamp.minus(i64::from(self.scene.lateness_s) * 3 / 2 * SECOND_NS);
                let now = record.timestamp;
                old.push_back(record);
                while old.len() > STALE_RECORDS_MAX || old.get(1).is_some_and(|r| r.timestamp <= stale) {
                    old.pop_front();
                }
                if number % every == every - 1
                    && let Some(again) = old.front().filter(|r| r.timestamp <= stale)
                {
                    self.deal(&again.clone(), now)?;
                }
            }
        }
        bail!("the traffic has run out: rotations took longer than planned for")
    }

    /// Lets the rows pause; returns for how long.
    fn rest(&self, off_s: u32) -> Result<Duration> {
        self.producer.flush(FLUSH_WAIT)?;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(off_s.into()) && !self.fed.stop.load(Ordering::Relaxed) {
            std::thread::sleep(PACE);
        }
        Ok(began.elapsed())
    }

    /// Sends a record to the next partition of its topic.
    fn deal(&mut self, record: &Record, timestamp: EventTime) -> Result<()> {
        let source = self.scene.sources.iter().find(|s| s.generated == record.topic);
        let Some(topic) = source.map(|s| s.topic) else { bail!("the generator wrote to {}", record.topic) };
        let count = self.partitions.lock().unwrap_or_else(PoisonError::into_inner).get(topic).copied().unwrap_or(1);
        let (next, known) = self.dealt.entry(topic).or_default();
        if *known < count {
            // The client refuses partitions that it has not heard of.
            let metadata = self.producer.client().fetch_metadata(Some(topic), Duration::from_secs(5));
            let heard = metadata.ok().and_then(|m| m.topics().first().map(|t| t.partitions().len() as u32));
            *known = heard.unwrap_or(*known).min(count);
        }
        *next = (*next + 1) % (*known).max(1);
        send(&self.producer, &self.fed, topic, *next, timestamp, &record.key, &record.value)
    }
}

fn send(
    producer: &ThreadedProducer<Stored>,
    fed: &Fed,
    topic: &str,
    partition: u32,
    at: EventTime,
    key: &[u8],
    value: &[u8],
) -> Result<()> {
    let record = BaseRecord::to(topic).partition(partition as i32).key(key).payload(value);
    let mut record = record.timestamp(at.0.div_euclid(1_000_000));
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                record = back;
                std::thread::sleep(PACE);
            }
            Err((error, _)) => bail!("{topic} ({partition}): {error}"),
        }
        fed.check()?;
    }
}

fn producer(brokers: &str, fed: &Arc<Fed>) -> Result<ThreadedProducer<Stored>> {
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", brokers).set("log_level", "0");
    settings.set("enable.idempotence", "true").set("message.timeout.ms", STORE_MS).set("linger.ms", "5");
    Ok(settings.create_with_context(Stored(Arc::clone(fed)))?)
}

/// Hears of what was stored.
struct Stored(Arc<Fed>);

impl ClientContext for Stored {}

impl ProducerContext for Stored {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(message) => {
                let at = TopicPartition::new(message.topic(), message.partition() as u32);
                let mut ends = self.0.ends.lock().unwrap_or_else(PoisonError::into_inner);
                let end = ends.entry(at).or_default();
                *end = (*end).max(message.offset() + 1);
            }
            Err((error, message)) => self.0.fail(format!("{} ({}): {error}", message.topic(), message.partition())),
        }
    }
}

/// An ordinary row at that time.
fn last_row(format: &str, at: EventTime) -> (Vec<u8>, Vec<u8>) {
    let contact = Contact { tenant: "acme", at_s: 0.0, from: "10.4.0.2", to: "198.51.100.7", port: 443, bytes: 512 };
    let record =
        flow::FlowRecord { observed_at_unix_nano: at.0, start_unix_nano: at.0, end_unix_nano: at.0, ..flow_record(&contact) };
    let value = if format == "probectl-flow" {
        flow::FlowBatch { flows: vec![record] }.encode_to_vec()
    } else {
        let seen = ebpf::Flow {
            tenant_id: record.tenant_id,
            agent_id: "agent-last".to_owned(),
            host: "last".to_owned(),
            observed_at_unix_nano: at.0,
            source_address: record.source_address,
            source_port: record.source_port,
            destination_address: record.destination_address,
            destination_port: record.destination_port,
            network_transport: "tcp".to_owned(),
            network_type: "ipv4".to_owned(),
            direction: "egress".to_owned(),
            state: "established".to_owned(),
            ..ebpf::Flow::default()
        };
        ebpf::FlowBatch { flows: vec![seen], ..ebpf::FlowBatch::default() }.encode_to_vec()
    };
    (b"acme".to_vec(), value)
}
