//! An upgrade: what a release left behind (topics, positions, snapshots), this binary goes on from. `golden/state/VERSION.json.gz`
//! holds one deployment of each release, stopped by a crash in mid-work, and the signals it came to in the end. With
//! `UPDATE_GOLDEN=1` the directory of this version is written anew.
//!
//! What must hold: snapshots of this layout are loaded; those of another are left aside, said so, and state comes back from
//! the log; either way the signals are those of the release that began them, unless outputs have changed on purpose since.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::{Deserialize, Serialize};
use tidewatch::log::{Append, Committed, Log, Member, TopicPartition, TopicSpec};
use tidewatch::snapshot::{LAYOUT as SNAPSHOT_LAYOUT, OUTPUT_VERSION, SnapshotStore};
use tidewatch::topology::Stage;
use tidewatch::worker::Side;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{self, Layout, LogKind, Scenario, Signals};
use tidewatch_tests::traffic;

const LAYOUT: Layout = Layout {
    poll_records: 16,
    inputs: 1,
    obs: 2,
    findings: 1,
    workers: 1,
    shuffle: None,
    log: LogKind::Memory,
    drive: scenario::Drive::Lockstep,
};

/// Rounds before the crash: with snapshots, and without.
const ROUNDS: [(usize, Duration); 2] = [(16, Duration::from_secs(1)), (10, Duration::from_secs(3600))];

/// Seconds after which silence has closed everything.
const NIGHT_S: i64 = 200;

/// A deployment at rest.
#[derive(Serialize, Deserialize)]
struct Rest {
    /// Layout of its snapshots.
    layout: u32,
    /// Version of its outputs.
    outputs: u32,
    /// The clock at the crash, nanoseconds.
    now: i64,
    rules: Vec<Rule>,
    records: Vec<Written>,
    positions: Vec<Position>,
    /// Objects by path under the store.
    snapshots: BTreeMap<String, String>,
    /// Signals in the end.
    signals: Signals,
}

#[derive(Serialize, Deserialize)]
struct Written {
    topic: String,
    partition: u32,
    at: i64,
    key: Option<String>,
    value: Option<String>,
    headers: Vec<(String, String)>,
}

#[derive(Serialize, Deserialize)]
struct Position {
    group: String,
    topic: String,
    partition: u32,
    offset: i64,
    metadata: String,
}

fn text(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn bytes(text: &str) -> Bytes {
    STANDARD.decode(text).unwrap().into()
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/state")
}

/// The scenario without its rows: they are in the golden log.
fn scenario(rules: Vec<Rule>) -> Scenario {
    Scenario { rules, ..traffic::by_hand() }
}

fn live(scenario: &Scenario, log: &Arc<dyn Log>, dir: &Path, every: Duration, now: EventTime) -> Live {
    let mut topology = scenario.topology(&LAYOUT);
    topology.snapshots.every = every;
    let store = SnapshotStore::open(dir.to_str().unwrap()).unwrap();
    let mut live = Live::with(scenario, topology, LAYOUT, log.clone(), now, Some(store)).unwrap();
    live.run.side = Side::InPlace;
    live
}

fn finish(live: &mut Live) -> Signals {
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(NIGHT_S).unwrap();
    live.settle().unwrap();
    live.published().unwrap()
}

/// Groups and the topics that they read.
fn groups(scenario: &Scenario) -> Vec<(String, Vec<String>)> {
    let names = scenario.topology(&LAYOUT).names;
    let mut inputs: Vec<String> = scenario.inputs.iter().map(|i| i.topic.clone()).collect();
    inputs.push(names.replayed());
    vec![
        (names.group(Stage::Normalize), inputs),
        (names.group(Stage::Detect), vec![names.obs()]),
        (names.group(Stage::Correlate), vec![names.findings()]),
    ]
}

fn partitions(log: &Arc<dyn Log>, topics: &[String]) -> Vec<TopicPartition> {
    let of =
        |topic: &String| (0..log.partitions(topic).unwrap()).map(|p| TopicPartition::new(topic.clone(), p)).collect::<Vec<_>>();
    topics.iter().flat_map(of).collect()
}

/// A deployment that crashed in mid-work, and what it comes to.
fn rest() -> Rest {
    let (log, dir) = (scenario::open(LAYOUT.log).unwrap().0, tempfile::tempdir().unwrap());
    let scenario = traffic::by_hand();
    scenario.load(&LAYOUT, &log).unwrap();
    let mut now = traffic::noon(4_000.0);
    for (rounds, every) in ROUNDS {
        let mut live = live(&scenario, &log, dir.path(), every, now);
        live.start_all().unwrap();
        for _ in 0..rounds {
            live.round().unwrap();
        }
        now = live.now();
        live.crash();
    }
    let mut rest = Rest {
        layout: SNAPSHOT_LAYOUT,
        outputs: OUTPUT_VERSION,
        now: now.0,
        rules: scenario.rules.clone(),
        records: Vec::new(),
        positions: Vec::new(),
        snapshots: BTreeMap::new(),
        signals: Signals::new(),
    };
    for (topic, count) in log.topics().unwrap() {
        for partition in 0..count {
            let at = TopicPartition::new(topic.clone(), partition);
            rest.records.extend(scenario::read_partition(&log, &at).unwrap().into_iter().map(|r| Written {
                topic: topic.clone(),
                partition,
                at: r.timestamp.0,
                key: r.key.as_deref().map(text),
                value: r.value.as_deref().map(text),
                headers: r.headers.iter().map(|(n, v)| (n.clone(), text(v))).collect(),
            }));
        }
    }
    for (group, topics) in groups(&scenario) {
        let at = partitions(&log, &topics);
        for (at, committed) in at.iter().zip(log.committed(&group, &at).unwrap()) {
            let Some(Committed { offset, metadata }) = committed else { continue };
            let (topic, partition) = (at.topic.clone(), at.partition);
            rest.positions.push(Position { group: group.clone(), topic, partition, offset, metadata });
        }
    }
    for task in fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()) {
        for object in fs::read_dir(task).unwrap().map(|e| e.unwrap().path()) {
            let name = object.strip_prefix(dir.path()).unwrap().to_str().unwrap().to_owned();
            rest.snapshots.insert(name, text(&fs::read(object).unwrap()));
        }
    }
    rest.signals = finish(&mut live(&scenario, &log, dir.path(), Duration::from_secs(3600), now));
    rest
}

/// Puts a deployment back where it was.
fn restored(rest: &Rest, dir: &Path) -> Arc<dyn Log> {
    let log = scenario::open(LAYOUT.log).unwrap().0;
    let scenario = scenario(rest.rules.clone());
    let topology = scenario.topology(&LAYOUT);
    for spec in topology.internal_topics() {
        log.create_topic(&spec).unwrap();
    }
    for input in &scenario.inputs {
        log.create_topic(&TopicSpec { record_bytes_max: 2 << 20, ..TopicSpec::new(input.topic.clone(), LAYOUT.inputs) }).unwrap();
    }
    let mut writer = log.writer("golden").unwrap();
    for record in &rest.records {
        let append = Append {
            topic: record.topic.clone(),
            partition: record.partition,
            timestamp: Some(EventTime(record.at)),
            key: record.key.as_deref().map(bytes),
            value: record.value.as_deref().map(bytes),
            headers: record.headers.iter().map(|(n, v)| (n.clone(), bytes(v))).collect(),
        };
        writer.commit(&[append], &[]).unwrap();
    }
    for (group, topics) in groups(&scenario) {
        let member = Member { id: "golden".to_owned(), index: 0, of: 1 };
        let mut membership = log.join(&group, &topics, &member).unwrap();
        membership.poll(Duration::ZERO).unwrap();
        let positions = rest.positions.iter().filter(|p| p.group == group).map(|p| {
            let committed = Committed { offset: p.offset, metadata: p.metadata.clone() };
            (TopicPartition::new(p.topic.clone(), p.partition), committed)
        });
        let positions: Vec<_> = positions.collect();
        membership.writer("golden").unwrap().commit(&[], &positions).unwrap();
        membership.leave(true).unwrap();
    }
    for (name, content) in &rest.snapshots {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes(content)).unwrap();
    }
    log
}

/// Tasks that took their state from a snapshot.
fn loaded(live: &Live) -> usize {
    live.shared().board.tasks().iter().filter(|t| t.restored.as_ref().is_some_and(|r| r.bytes > 0)).count()
}

/// Goes on from where a release stopped: how many tasks took a snapshot up, and the signals in the end.
fn gone_on(rest: &Rest) -> (usize, Signals) {
    let dir = tempfile::tempdir().unwrap();
    let log = restored(rest, dir.path());
    let scenario = scenario(rest.rules.clone());
    let mut live = live(&scenario, &log, dir.path(), Duration::from_secs(3600), EventTime(rest.now));
    // Signals that would now be others are gone on from knowingly, as `run --accept-new-outputs` does.
    live.run.accept_new_outputs = rest.outputs != OUTPUT_VERSION;
    let signals = finish(&mut live);
    (loaded(&live), signals)
}

#[test]
fn snapshots_of_another_layout_are_left_aside_and_state_comes_back_from_the_log() {
    let mut rest = rest();
    for object in rest.snapshots.values_mut() {
        // The layout's number stands behind the first eight bytes.
        let mut content = bytes(object).to_vec();
        content[8..12].copy_from_slice(&(SNAPSHOT_LAYOUT + 1).to_le_bytes());
        *object = text(&content);
    }
    let (loaded, signals) = gone_on(&rest);
    assert_eq!(loaded, 0);
    assert_eq!(signals, rest.signals);
}

#[test]
fn every_release_is_gone_on_from() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(golden()).unwrap();
        let file = fs::File::create(golden().join(concat!(env!("CARGO_PKG_VERSION"), ".json.gz"))).unwrap();
        let mut file = GzEncoder::new(file, Compression::best());
        serde_json::to_writer(&mut file, &rest()).unwrap();
        file.finish().unwrap();
    }
    let mut releases = 0;
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        let rest: Rest = serde_json::from_reader(GzDecoder::new(fs::File::open(&path).unwrap())).unwrap();
        let (loaded, signals) = gone_on(&rest);
        if rest.layout == SNAPSHOT_LAYOUT {
            assert!(loaded >= 3, "{}: {loaded} snapshots were taken up", path.display());
        }
        if rest.outputs == OUTPUT_VERSION {
            assert_eq!(signals, rest.signals, "{}", path.display());
        }
        releases += 1;
    }
    assert!(releases > 0);
}
