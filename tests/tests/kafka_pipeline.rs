//! The three stages as processes on a real Kafka, stopped and killed in mid-stream: an independent client reads the same
//! signals that a backtest gives, over the same topics to the byte, over the source files all but `raw`.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use prost::Message;
use tidewatch::log::{Append, Log, TopicPartition, TopicSpec, Writer};
use tidewatch::topology::{Names, Stage};
use tidewatch_generator::attack::Scan;
use tidewatch_generator::recordfile::{Header, write_record};
use tidewatch_generator::{Plan, Style, probectl, probectl_records, zeek, zeek_lines};
use tidewatch_schemas::proto::flow::FlowBatch;
use tidewatch_schemas::signal::from_json;
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_tests::kafka::Broker;
use tidewatch_tests::program::Process;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");
/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(60);
/// Tenant of the Zeek topics.
const ZEEK_TENANT: &str = "depot";
const FLOW: &str = probectl::FLOW_TOPIC;
/// Event time of one step of the producer.
const STEP_S: i64 = 120;
/// Lateness of all inputs, s: rows come in order, but a silence of the producer must not make them late.
const LATENESS_S: i64 = 20;
const SLICE_S: i64 = 10;

/// A record to produce, and to write to a file.
struct Item {
    topic: String,
    at: EventTime,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
}

/// Zeek's topics with JSON lines, as its Kafka writers stream them (`_write_ts`), and probectl's flow topic; by time. Every
/// partition begins and ends with a record of the same moment: one without a row yet would count from the wall clock.
fn items(partitions: &BTreeMap<String, u32>) -> Vec<Item> {
    let mut items = Vec::new();
    let mut lines: BTreeMap<String, serde_json::Value> = BTreeMap::new();
    let plan = Plan::small(11);
    for line in zeek_lines(&plan, Style::Json).filter(|l| l.tenant == 0) {
        let topic = format!("zeek.{}", line.log.name());
        let mut object: serde_json::Value = serde_json::from_str(&line.line).unwrap();
        if matches!(line.log, zeek::Log::Ssl | zeek::Log::Http) {
            object["_write_ts"] = line.at.as_secs_f64().into();
        }
        items.push(Item { topic: topic.clone(), at: line.at, key: None, value: object.to_string().into_bytes() });
        lines.insert(topic, object);
    }
    let mut flows = Plan::small(5);
    // Found only when the last slices close.
    let last_s = flows.duration_s - 8;
    flows.attacks.push(Scan { tenant: 1, host: 9, start_s: last_s, ..Scan::smb(30, 10.0) }.into());
    let mut batch = FlowBatch::default();
    for record in probectl_records(&flows).filter(|r| r.topic == FLOW) {
        batch = FlowBatch::decode(&record.value[..]).unwrap();
        let at = record.timestamp;
        items.push(Item { topic: FLOW.into(), at, key: Some(record.key), value: record.value });
    }
    items.sort_by_key(|i| i.at);

    let begin = plan.start.min(flows.start);
    let end = items.last().unwrap().at.plus(SECOND_NS);
    let ends = |at: EventTime| -> Vec<Item> {
        let of = |(topic, n): (&String, &u32)| (0..*n).map(|i| extra(topic, at, i, &batch, lines.get(topic))).collect::<Vec<_>>();
        partitions.iter().flat_map(of).collect()
    };
    let mut all = ends(begin);
    all.append(&mut items);
    all.append(&mut ends(end));
    all
}

/// An ordinary record, moved to another moment.
fn extra(topic: &str, at: EventTime, i: u32, batch: &FlowBatch, line: Option<&serde_json::Value>) -> Item {
    let (value, key) = match line {
        None => {
            let mut flow = batch.flows[0].clone();
            (flow.start_unix_nano, flow.end_unix_nano, flow.observed_at_unix_nano) = (at.0, at.0, at.0);
            flow.source_port = 50_000 + i;
            (FlowBatch { flows: vec![flow] }.encode_to_vec(), Some(b"extra".to_vec()))
        }
        Some(line) => {
            let mut object = line.clone();
            object["ts"] = at.as_secs_f64().into();
            object["uid"] = format!("C{}-{i}", at.0).into();
            if topic == "zeek.conn" {
                object["duration"] = 0.into();
            }
            if object.get("_write_ts").is_some() {
                object["_write_ts"] = at.as_secs_f64().into();
            }
            (object.to_string().into_bytes(), None)
        }
    };
    Item { topic: topic.to_owned(), at, key, value }
}

/// Deals records out to the partitions of their topics, one after the other.
struct Producer<'a> {
    writer: Box<dyn Writer>,
    partitions: &'a BTreeMap<String, u32>,
    dealt: BTreeMap<&'a str, u32>,
}

impl<'a> Producer<'a> {
    fn produce(&mut self, items: &'a [Item]) {
        let appends: Vec<Append> = items
            .iter()
            .map(|item| {
                let dealt = self.dealt.entry(&item.topic).or_default();
                *dealt += 1;
                Append {
                    topic: item.topic.clone(),
                    partition: *dealt % self.partitions[&item.topic],
                    timestamp: Some(item.at),
                    key: item.key.clone().map(Into::into),
                    value: Some(item.value.clone().into()),
                    headers: Vec::new(),
                }
            })
            .collect();
        self.writer.commit(&appends, &[]).unwrap();
    }
}

fn topology(broker: &Broker, dir: &Path) -> PathBuf {
    let zeek = |log: &str| {
        format!("  - {{topic: zeek.{log}, format: zeek-{log}, tenant: {{static: {ZEEK_TENANT}}}, lateness: {LATENESS_S}s}}\n")
    };
    let text = format!(
        "deployment: e2e\n\
         log: {{kafka: {{brokers: [\"{}\"], allow_plaintext: true, replication: 1}}}}\n\
         time: {{slice: {SLICE_S}s, max_future: 5s, idle_after: 2s}}\n\
         inputs:\n{}{}{}{}  \
         - {{topic: {FLOW}, format: probectl-flow, tenant: {{verified: {{open: true}}}}, lateness: {LATENESS_S}s}}\n\
         obs: {{partitions: 4}}\n\
         findings: {{partitions: 2}}\n\
         signals: {{partitions: 2}}\n\
         workers: {{normalize: 2, detect: 2, correlate: 1}}\n\
         snapshots: {{url: {}, every: 5s}}\n\
         limits: {{spill_dir: {}}}\n",
        broker.brokers(),
        zeek("conn"),
        zeek("dns"),
        zeek("ssl"),
        zeek("http"),
        dir.join("snapshots").display(),
        dir.join("spill").display(),
    );
    let path = dir.join("topology.yaml");
    std::fs::write(&path, text).unwrap();
    path
}

const STAGES: [&str; 3] = ["normalize", "detect", "correlate"];

fn start(stage: &str, dir: &Path) -> Process {
    Process::start(PROGRAM, stage, dir, &["run", "topology.yaml", "--stage", stage]).unwrap()
}

/// Signals of each tenant in order.
type PerTenant = BTreeMap<String, Vec<String>>;

fn read_signals(broker: &Broker, topic: &str) -> PerTenant {
    let mut out = PerTenant::new();
    for (key, value) in broker.console_consume(topic, None, Duration::from_secs(4)).unwrap() {
        assert_eq!(from_json(&value).unwrap().tenant, key);
        out.entry(key).or_default().push(value);
    }
    out
}

fn backtest(name: &str, dir: &Path, args: &[String]) -> PerTenant {
    let out = format!("{name}.ndjson");
    let mut all = vec!["backtest", "--topology", "topology.yaml", "--out", &out];
    all.extend(args.iter().map(String::as_str));
    let process = Process::start(PROGRAM, name, dir, &all).unwrap();
    let status = process.wait(WAIT).unwrap();
    let told = std::fs::read_to_string(dir.join(format!("{name}.err"))).unwrap_or_default();
    assert!(status.success(), "{name}: {status}\n{told}");
    let mut signals = PerTenant::new();
    for line in std::fs::read_to_string(dir.join(&out)).unwrap().lines() {
        signals.entry(from_json(line).unwrap().tenant).or_default().push(line.to_owned());
    }
    signals
}

/// Everything but where the rows lie.
fn without_raw(signals: &PerTenant) -> PerTenant {
    let strip = |line: &String| {
        let mut value: serde_json::Value = serde_json::from_str(line).unwrap();
        value.as_object_mut().unwrap().remove("raw").expect("every signal says where its rows lie");
        value.to_string()
    };
    signals.iter().map(|(tenant, lines)| (tenant.clone(), lines.iter().map(strip).collect())).collect()
}

/// Says the first difference, not all of both.
fn assert_same(what: &str, got: &PerTenant, expected: &PerTenant) {
    let count = |s: &PerTenant| s.iter().map(|(t, l)| (t.clone(), l.len())).collect::<Vec<_>>();
    for (tenant, lines) in expected {
        let empty = Vec::new();
        let got = got.get(tenant).unwrap_or(&empty);
        for (i, (got, expected)) in got.iter().zip(lines).enumerate() {
            assert!(got == expected, "{what}: signal {i} of {tenant}\n     got {got}\nexpected {expected}");
        }
    }
    assert_eq!(count(got), count(expected), "{what}");
}

fn until(what: &str, mut good: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !good() {
        assert!(began.elapsed() < WAIT, "{what}: not within {WAIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    began.elapsed()
}

#[test]
fn stages_stopped_and_killed_in_mid_stream_give_what_a_backtest_gives() {
    let broker = Broker::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    topology(&broker, dir);
    let log = broker.log();
    let names = Names::of("e2e").unwrap();
    let partitions: BTreeMap<String, u32> =
        [("zeek.conn", 3), ("zeek.dns", 2), ("zeek.ssl", 2), ("zeek.http", 2), (FLOW, 3)].map(|(t, n)| (t.to_owned(), n)).into();
    for (topic, n) in &partitions {
        log.create_topic(&TopicSpec::new(topic, *n)).unwrap();
    }
    let items = items(&partitions);
    let mut steps: Vec<&[Item]> =
        items.chunk_by(|a, b| a.at.0.div_euclid(STEP_S * SECOND_NS) == b.at.0.div_euclid(STEP_S * SECOND_NS)).collect();
    let last_steps = steps.split_off(steps.len() - 1);
    eprintln!("{} records in {} steps, {} topics", items.len(), steps.len() + 1, partitions.len());
    let mut producer = Producer { writer: log.writer("e2e-producer").unwrap(), partitions: &partitions, dealt: BTreeMap::new() };

    // One after the other or all at once, politely or not, and rows keep coming.
    let mut running: Vec<Option<Process>> = STAGES.iter().map(|s| Some(start(s, dir))).collect();
    let inputs: Vec<TopicPartition> =
        partitions.iter().flat_map(|(t, n)| (0..*n).map(|p| TopicPartition::new(t.clone(), p))).collect();
    let committed = |group: &str, at: &[TopicPartition]| -> Vec<i64> {
        log.committed(group, at).unwrap().into_iter().map(|c| c.map_or(0, |c| c.offset)).collect()
    };
    let of = |topic: &str| -> Vec<TopicPartition> {
        (0..log.partitions(topic).unwrap()).map(|p| TopicPartition::new(topic, p)).collect()
    };
    let read = |stage: Stage, at: &[TopicPartition]| committed(&names.group(stage), at).iter().sum::<i64>();
    let (first, second, third) = (steps.len() / 4, steps.len() / 2, steps.len() * 3 / 4);
    for (i, step) in steps.iter().enumerate() {
        producer.produce(step);
        for process in running.iter_mut().flatten() {
            process.check().unwrap();
        }
        if i == 0 {
            // The stages make their topics themselves, each in its own time.
            until("findings have a topic", || log.partitions(&names.findings()).is_ok());
            eprintln!(
                "first commit of correlate after {:?}",
                until("a first signal mark", || { read(Stage::Correlate, &of(&names.findings())) > 0 })
            );
        } else if i == first {
            for (process, stage) in running.iter_mut().zip(STAGES) {
                eprintln!("{stage} ended {:?} after SIGTERM", process.take().unwrap().stop(WAIT).unwrap());
            }
        } else if i == first + 3 {
            let before = read(Stage::Normalize, &inputs);
            let began = Instant::now();
            running = STAGES.iter().map(|s| Some(start(s, dir))).collect();
            until("a commit after the restart", || read(Stage::Normalize, &inputs) > before);
            eprintln!("first commit of normalize {:?} after the restart", began.elapsed());
        } else if i == second {
            let before = read(Stage::Detect, &of(&names.obs()));
            for (n, stage) in STAGES.iter().enumerate().skip(1) {
                running[n].take().unwrap().kill().unwrap();
                running[n] = Some(start(stage, dir));
            }
            let began = Instant::now();
            until("a commit of detect after SIGKILL", || read(Stage::Detect, &of(&names.obs())) > before);
            eprintln!("first commit of detect {:?} after SIGKILL", began.elapsed());
        } else if i == third {
            running[0].take().unwrap().kill().unwrap();
            // Long enough for the other partitions' readers to see their end, not for rows to become late.
            std::thread::sleep(Duration::from_millis(300));
            running[0] = Some(start(STAGES[0], dir));
        } else {
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    last_steps.iter().for_each(|step| producer.produce(step));
    let produced = Instant::now();

    // Rows alone close up to here; the rest is closed by silence.
    let end = items.last().unwrap().at;
    let by_rows = end.plus(-LATENESS_S * SECOND_NS);
    let signals = broker.log();
    let mut reader = tidewatch::backtest::SignalReader::open(&(std::sync::Arc::new(signals) as _), &names.signals()).unwrap();
    let mut at_the_end = None;
    until("the signal of the last slices", || {
        running.iter_mut().flatten().for_each(|p| p.check().unwrap());
        reader.read().unwrap();
        at_the_end = reader.found.iter().find(|(_, s)| s.detected_at > by_rows).map(|(_, s)| s.detected_at);
        at_the_end.is_some()
    });
    let bound = Duration::from_secs((SLICE_S + LATENESS_S + 5 + 2) as u64);
    eprintln!("signal of the last slices {:?} after the last row (bound {bound:?})", produced.elapsed());
    assert!(produced.elapsed() <= bound);

    // Everything is closed and handed on, then the end.
    let closes = EventTime((end.0.div_euclid(SLICE_S * SECOND_NS) + 1) * SECOND_NS * SLICE_S);
    std::thread::sleep(bound.saturating_sub(produced.elapsed()));
    let mut rest = running.into_iter().map(Option::unwrap);
    rest.next().unwrap().stop(WAIT).unwrap();
    for (stage, topic, process) in [(Stage::Detect, names.obs(), rest.next()), (Stage::Correlate, names.findings(), rest.next())]
    {
        let at = of(&topic);
        let ends: Vec<i64> = at.iter().map(|at| log.offsets(at).unwrap().end).collect();
        until("the last marks are read", || committed(&names.group(stage), &at) == ends);
        process.unwrap().stop(WAIT).unwrap();
    }
    let got = read_signals(&broker, &names.signals());
    let kinds: BTreeMap<String, usize> = got.values().flatten().fold(BTreeMap::new(), |mut kinds, line| {
        *kinds.entry(from_json(line).unwrap().kind).or_default() += 1;
        kinds
    });
    eprintln!("signals by kind: {kinds:?}; closed up to {closes}");
    assert_eq!(got.keys().collect::<Vec<_>>(), ["acme", "brook", ZEEK_TENANT]);
    for topic in [names.rejected(), names.late()] {
        assert_eq!(log.offsets(&TopicPartition::new(&topic, 0)).unwrap().end, 0, "{topic} is empty");
    }

    let inputs: Vec<String> = partitions.keys().flat_map(|t| ["--input".to_owned(), format!("kafka:{t}@..")]).collect();
    let began = Instant::now();
    let again = backtest("over-topics", dir, &inputs);
    eprintln!("backtest over the topics took {:?}", began.elapsed());
    assert_same("live against a backtest over the same topics", &got, &again);

    let inputs = files(dir, &items);
    let again = backtest("over-files", dir, &inputs);
    assert_same("live against a backtest over the source files", &without_raw(&got), &without_raw(&again));
}

/// The same records as files; the arguments that name them.
fn files(dir: &Path, items: &[Item]) -> Vec<String> {
    let logs = dir.join("logs");
    std::fs::create_dir(&logs).unwrap();
    let mut open: BTreeMap<&str, BufWriter<File>> = BTreeMap::new();
    for item in items {
        let name = item.topic.strip_prefix("zeek.").map_or(dir.join("flows.records"), |log| logs.join(format!("{log}.log")));
        let file = open.entry(&item.topic).or_insert_with(|| BufWriter::new(File::create(name).unwrap()));
        match &item.key {
            Some(key) => {
                let key = String::from_utf8(key.clone()).ok();
                write_record(file, &Header { key, timestamp: item.at, partition: None }, &item.value).unwrap();
            }
            None => {
                file.write_all(&item.value).unwrap();
                file.write_all(b"\n").unwrap();
            }
        }
    }
    open.into_values().for_each(|mut file| file.flush().unwrap());
    ["--tenant", ZEEK_TENANT, "--input", "zeek:logs", "--input", "probectl-flow:flows.records"].map(str::to_owned).into()
}
