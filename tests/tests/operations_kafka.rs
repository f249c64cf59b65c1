//! Operations on a real Kafka: several processes with sockets of their own, an open transaction that holds readers up, and
//! places in the groups that are given up for good.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use tidewatch::log::{Log, PollLimit, TopicPartition};
use tidewatch_schemas::control::{Cause, Mark};
use tidewatch_tests::kafka::Broker;
use tidewatch_tests::program::{Process, until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(90);

const FLOW: &str = "probectl.flow.events";

fn command(dir: &Path, words: &[&str]) -> (i32, Value) {
    let Output { status, stdout, stderr } = Command::new(PROGRAM).args(words).current_dir(dir).output().unwrap();
    let text = String::from_utf8_lossy(&stdout);
    let json =
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{words:?}: {e}: {text}{}", String::from_utf8_lossy(&stderr)));
    (status.code().unwrap(), json)
}

/// Marks of silence of the flow topic's partitions.
fn silences(broker: &Broker, control: &str) -> BTreeMap<u32, usize> {
    let mut reader = broker.log().reader(&TopicPartition::new(control, 0), 0).unwrap();
    let mut count = BTreeMap::new();
    while !reader.at_end() {
        for record in reader.poll(PollLimit::default(), Duration::from_secs(1)).unwrap() {
            // Versions lie there, too.
            let Ok(mark) = Mark::decode(record.value.as_deref().unwrap()) else { continue };
            if mark.cause == Cause::Silence && mark.input.topic == FLOW {
                *count.entry(mark.input.partition).or_default() += 1;
            }
        }
    }
    count
}

#[test]
fn processes_of_one_machine_are_found_and_an_open_transaction_is_named() {
    let broker = Broker::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let text = format!(
        "deployment: ops\nlog: {{kafka: {{brokers: [\"{}\"], allow_plaintext: true, replication: 1}}}}\n\
         time: {{idle_after: 1s}}\ninputs:\n\
         - {{topic: {FLOW}, format: probectl-flow, tenant: {{verified: {{open: true}}}}, partitions: 2}}\n\
         - {{topic: probectl.ebpf.flows, format: probectl-ebpf, tenant: {{verified: {{open: true}}}}, partitions: 1}}\n\
         - {{topic: probectl.network.results, format: probectl-result, tenant: {{verified: {{open: true}}}}, partitions: 1}}\n\
         obs: {{partitions: 2}}\nfindings: {{partitions: 1}}\nsignals: {{partitions: 1}}\n\
         snapshots: {{url: snapshots}}\nlimits: {{spill_dir: spill}}\ncontrol: control.sock\n",
        broker.brokers()
    );
    std::fs::write(dir.join("t.yaml"), text).unwrap();
    let start = |name: &str, words: &[&str]| {
        let mut all = vec!["run", "t.yaml"];
        all.extend(words);
        Process::start(PROGRAM, name, dir, &all).unwrap()
    };
    let first = start("first", &["--stage", "normalize"]);
    let second = start("second", &["--stage", "detect", "--stage", "correlate", "--ordinal", "1"]);
    let top = || command(dir, &["top", "t.yaml", "--once", "--json"]).1;
    until("both are ready", WAIT, || {
        let top = top();
        let processes = top["processes"].as_array().unwrap();
        processes.len() == 2 && processes.iter().all(|p| p["ready"] == true)
    })
    .unwrap_or_else(|e| panic!("{e}\n{}\n{}", first.told(), second.told()));
    assert!(dir.join("control.normalize-0.sock").exists() && dir.join("control.detect+correlate-1.sock").exists());

    let words = ["produce", "t.yaml", "--generate", "7", "--preset", "small", "--format", "probectl", "--json"];
    assert_eq!(command(dir, &words).0, 0);
    let found = || command(dir, &["explain-stall", "t.yaml", "--json"]);
    until("nothing is held", WAIT, || found().0 == 0).unwrap_or_else(|e| panic!("{e}: {}", found().1));

    // A producer begins a transaction and does not end it.
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("transactional.id", "forgotten")
        .set("transaction.timeout.ms", "600000")
        .create()
        .unwrap();
    producer.init_transactions(WAIT).unwrap();
    producer.begin_transaction().unwrap();
    producer.send(BaseRecord::<(), [u8]>::to(FLOW).partition(1).payload(b"open".as_slice())).map_err(|(e, _)| e).unwrap();
    producer.flush(WAIT).unwrap();
    let open = format!("{FLOW}/1");
    until("the transaction is named", WAIT, || {
        let (code, found) = found();
        code == 1
            && found["held"].as_array().unwrap().iter().any(|h| h["by"] == "open_transaction" && h["about"] == open.as_str())
    })
    .unwrap_or_else(|e| panic!("{e}: {}", found().1));
    // What it holds may be rows: the partition is not silent, however long that lasts. The other one is.
    let silences = |partition: u32| silences(&broker, "ops.tidewatch.control").get(&partition).copied().unwrap_or(0);
    let before = [silences(0), silences(1)];
    until("the other partition is silent for some slices", WAIT, || silences(0) >= before[0] + 2).unwrap();
    assert_eq!(silences(1), before[1]);
    producer.abort_transaction(WAIT).unwrap();
    let named = || found().1["held"].as_array().unwrap().iter().any(|h| h["by"] == "open_transaction");
    until("it counts as silent again", WAIT, || silences(1) > before[1] && !named()).unwrap();

    // One of two has to be chosen; given up for good its places in the groups are free at once.
    let unclear = Command::new(PROGRAM).args(["drain", "t.yaml"]).current_dir(dir).output().unwrap();
    assert_eq!(unclear.status.code(), Some(2));
    let (code, drained) = command(dir, &["drain", "t.yaml", "--ordinal", "1", "--for-good", "--json"]);
    assert_eq!((code, drained["processes"].as_array().unwrap().len()), (0, 1), "{drained}");
    assert!(second.wait(WAIT).unwrap().success());
    let took = std::time::Instant::now();
    let third = start("third", &["--stage", "detect", "--ordinal", "2"]);
    until("another process has the tasks, within less than a session", Duration::from_secs(25), || {
        let top = top();
        let of_third = top["processes"].as_array().unwrap().iter().find(|p| p["ordinal"] == 2).cloned();
        of_third.is_some_and(|p| p["tasks"].as_array().unwrap().iter().filter(|t| t["phase"]["is"] == "live").count() == 2)
    })
    .unwrap_or_else(|e| panic!("{e} ({:?})\n{}", took.elapsed(), third.told()));
    third.stop(WAIT).unwrap();
    first.stop(WAIT).unwrap();
}
