//! A topic that was deleted and made again while no process ran: its tasks see it at the start, whatever the brokers have
//! forgotten and however far the new topic is filled; they stop, say what happened and how to go on, and go on that way. Destinations do the same over the signals' topic.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::process::Command;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::{Committed, Log, Member, TopicPartition, TopicSpec};
use tidewatch_tests::job::{self, INPUTS, Job};
use tidewatch_tests::kafka::Broker;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

fn kafka_section(brokers: &str) -> String {
    format!(
        "{{kafka: {{brokers: [\"{brokers}\"], allow_plaintext: true, replication: 1, commit_timeout: 2s, transaction_timeout: 3s, \
         session_timeout: 6s}}}}"
    )
}

/// A job that has found the signals of two rounds and was stopped.
fn stopped(broker: &Broker, deployment: &'static str, dir: &Path) -> (Job, KafkaLog) {
    let log = broker.log();
    let mut job = Job::new(PROGRAM, dir, deployment, &kafka_section(broker.brokers()), "").unwrap();
    log.create_topic(&TopicSpec::new(&job.topic, INPUTS)).unwrap();
    job.start(&[]).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    job.stop().unwrap();
    (job, log)
}

/// Deletes a topic, waits until it is gone everywhere, and makes it again.
fn make_again(broker: &Broker, log: &KafkaLog, topic: &str, partitions: u32) {
    let id = |log: &KafkaLog| log.topic_id(topic).unwrap().expect("Kafka 4 gives ids");
    let before = id(log);
    assert_eq!(before, id(log), "it keeps its id");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.brokers()).set("log_level", "0").create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(admin.delete_topics(&[topic], &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
    job::until("the topic is gone", || log.topics().unwrap().iter().all(|(name, _)| name != topic).then_some(())).unwrap();
    // A log of its own: what another one remembers of the old topic is not asked.
    let fresh = broker.log();
    fresh.create_topic(&TopicSpec::new(topic, partitions)).unwrap();
    assert_ne!(before, id(&fresh), "a new one has another");
}

/// Commits positions of a group that nobody is in.
fn commit_again(broker: &Broker, group: &str, topic: &str, positions: &[(TopicPartition, Committed)]) {
    let member = Member { id: "keeper".to_owned(), index: 0, of: 1 };
    let log = broker.log();
    let mut membership = log.join(group, &[topic.to_owned()], &member).unwrap();
    job::until("the group", || membership.poll(std::time::Duration::from_millis(100)).unwrap()).unwrap();
    membership.writer("keeper").unwrap().commit(&[], positions).unwrap();
    membership.leave(true).unwrap();
}

/// The words in which a task of a stage stopped, once `/readyz` says them too.
fn stopped_words(job: &mut Job, before: usize, topic: &str, group: &str) -> String {
    let words = ["task stopped", topic, "was deleted and made again", group, "--accept-new-topics", "tidewatch gather"];
    let said = job.until_said(before, &words).unwrap();
    job.until_not_ready("was deleted and made again").unwrap();
    said
}

/// Runs the command that a stopped task names; the JSON of `offsets.json`, and the directory.
fn gather(job: &Job, said: &str, out: &str) -> (Value, std::path::PathBuf) {
    let task = said.split("--task ").nth(1).unwrap().split(' ').next().unwrap();
    let done = Command::new(PROGRAM)
        .args(["gather", "topology.yaml", "--task", task, "--out", out, "--json"])
        .current_dir(&job.dir)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&done.stderr).into_owned();
    let json: Value = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {told}"));
    let dir = job.dir.join(out);
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let offsets: Value = serde_json::from_str(&text("offsets.json")).unwrap();
    assert_eq!(offsets["task"], task, "{json}");
    assert_ne!(offsets["topic_id"], offsets["topic_id_recorded"]);
    assert!(text("README.txt").contains(task) && text("versions.json").contains("rules_recorded"));
    (offsets, dir)
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn an_input_that_the_brokers_have_forgotten_and_filled_beyond_the_old_position() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = stopped(broker, "input", place.path());
    let kept = job::signals(&log, "input").unwrap();
    let topic = job.topic.clone();
    make_again(broker, &log, &topic, INPUTS);
    let at: Vec<TopicPartition> = (0..INPUTS).map(|p| TopicPartition::new(&topic, p)).collect();
    let forgotten = || log.committed("tidewatch-input-normalize", &at).unwrap().iter().all(Option::is_none).then_some(());
    job::until("the brokers have forgotten the positions", forgotten).unwrap();
    // More than the old one ever held.
    job.produce(&log, 3).unwrap();
    let before = job.said().len();
    job.start(&[]).unwrap();
    let said = stopped_words(&mut job, before, &topic, "tidewatch-input-normalize");
    assert_eq!(job::signals(&log, "input").unwrap(), kept, "nothing was read");

    // What normalize decided, and the records at which it stands.
    let (offsets, dir) = gather(&job, &said, "gathered");
    assert!(offsets["committed"].is_null());
    let marks = lines(&dir.join("marks.ndjson"));
    assert!(
        !marks.is_empty()
            && marks.iter().all(|m| m["mark"]["body"]["input"]["topic"] == *topic || m["mark"]["input"]["topic"] == *topic)
    );
    let records = lines(&dir.join("records.ndjson"));
    assert_eq!(records[0]["offset"], 0);
    job.stop().unwrap();

    // Begun anew: once, knowingly, and from then on as ever.
    job.start(&["--accept-new-topics"]).unwrap();
    job.until_signals(&log).unwrap();
    job.until_ready().unwrap();
    job.stop().unwrap();
    job.start(&[]).unwrap();
    job.until_ready().unwrap();
    job.produce(&log, 1).unwrap();
    let got = job.until_signals(&log).unwrap();
    assert_eq!(got[..kept.len()], kept[..]);
    job.stop().unwrap();
}

#[test]
fn a_position_that_outlived_its_topic() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = stopped(broker, "outlived", place.path());
    let topic = job.topic.clone();
    let group = "tidewatch-outlived-normalize";
    let at: Vec<TopicPartition> = (0..INPUTS).map(|p| TopicPartition::new(&topic, p)).collect();
    let old: Vec<(TopicPartition, Committed)> =
        at.iter().cloned().zip(log.committed(group, &at).unwrap().into_iter().map(Option::unwrap)).collect();
    make_again(broker, &log, &topic, INPUTS);
    // A coordinator that was away at the deletion keeps the positions.
    let rounds_before = 2;
    job.produce(&log, 1 + rounds_before).unwrap();
    commit_again(broker, group, &topic, &old);
    let log = broker.log();
    // And nothing else remembers the topic: the control topic went, too.
    make_again(broker, &log, "outlived.tidewatch.control", 1);
    let before = job.said().len();
    job.start(&[]).unwrap();
    let said = stopped_words(&mut job, before, &topic, group);
    assert!(said.contains("and stands at offset"), "{said}");
    job.kill().unwrap();
    job.start(&["--accept-new-topics", "--wait"]).unwrap();
    job.until_signals(&log).unwrap();
    job.stop().unwrap();
}

#[test]
fn an_internal_topic_whose_tasks_have_snapshots() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = stopped(broker, "inner-again", place.path());
    let kept = job::signals(&log, "inner-again").unwrap();
    let obs = "inner-again.tidewatch.obs";
    make_again(broker, &log, obs, 2);
    let before = job.said().len();
    job.start(&[]).unwrap();
    let said = stopped_words(&mut job, before, obs, "tidewatch-inner-again-detect");
    let (offsets, dir) = gather(&job, &said, "gathered");
    assert!(offsets["committed"].is_null() && dir.join("records.ndjson").exists());
    // Normalize goes on: its rows wait in the new topic.
    job.produce(&log, 2).unwrap();
    let at: Vec<TopicPartition> = (0..2).map(|p| TopicPartition::new(obs, p)).collect();
    job::until("rows", || at.iter().all(|at| log.offsets(at).is_ok_and(|range| range.end > 0)).then_some(())).unwrap();
    assert_eq!(job::signals(&log, "inner-again").unwrap(), kept);
    job.stop().unwrap();
    job.start(&["--accept-new-topics"]).unwrap();
    let got = job.until_signals(&log).unwrap();
    assert_eq!(got[..kept.len()], kept[..]);
    job.until_ready().unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

/// The signals topic made again while a destination that begins "now" had read the old one: with the position forgotten by the
/// brokers, or kept.
fn signals_made_again(deployment: &'static str, kept: bool) {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let more = "destinations:\n  - {name: file, kind: ndjson, path: delivered.ndjson}";
    let log = broker.log();
    let mut job = Job::new(PROGRAM, place.path(), deployment, &kafka_section(broker.brokers()), more).unwrap();
    log.create_topic(&TopicSpec::new(&job.topic, INPUTS)).unwrap();
    let signals = format!("{deployment}.tidewatch.signals");
    let group = format!("tidewatch-{deployment}-deliver-file");
    let delivered = || {
        let text = std::fs::read_to_string(place.path().join("delivered.ndjson")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let until_delivered = |n: usize| job::until("delivery", || Some(delivered()).filter(|d| d.len() == n)).unwrap();
    let at = TopicPartition::new(&signals, 0);
    let position = || log.committed(&group, std::slice::from_ref(&at)).unwrap().pop().flatten();
    job.start(&[]).unwrap();
    job::until("its beginning is remembered", position).unwrap();
    job.produce(&log, 2).unwrap();
    let before = until_delivered(2);
    job.stop().unwrap();
    let old = position().unwrap();
    make_again(broker, &log, &signals, 1);
    job::until("the brokers have forgotten the position", || position().is_none().then_some(())).unwrap();
    let log = broker.log();
    if kept {
        commit_again(broker, &group, &signals, &[(at.clone(), old)]);
        make_again(broker, &log, &format!("{deployment}.tidewatch.control"), 1);
    }

    // The stages go on, the destination does not touch the new topic: not even to begin at its end.
    let said_before = job.said().len();
    job.produce(&log, 1).unwrap();
    job.start(&[]).unwrap();
    let words = ["destination stopped", &signals, "was deleted and made again", &group, "--accept-new-topics"];
    job.until_said(said_before, &words).unwrap();
    let log = broker.log();
    let new = |n: usize| job::until("signals", || job::signals(&log, deployment).ok().filter(|s| s.len() >= n)).unwrap();
    new(1);
    job.stop().unwrap();
    assert_eq!(delivered().len(), before.len());

    // Begun anew: what came meanwhile is delivered, once, and what comes later as ever.
    job.start(&["--accept-new-topics"]).unwrap();
    until_delivered(before.len() + 1);
    job.stop().unwrap();
    job.produce(&log, 1).unwrap();
    job.start(&[]).unwrap();
    let got = until_delivered(before.len() + 2);
    job.stop().unwrap();
    assert_eq!(got[before.len()..], new(2)[..]);
}

#[test]
fn the_signals_of_a_destination_whose_position_is_forgotten() {
    signals_made_again("told-forgotten", false);
}

#[test]
fn the_signals_of_a_destination_whose_position_is_kept() {
    signals_made_again("told-kept", true);
}
