//! P3 and P6: every row is accounted for, by the counters and by counting the topics; whatever bytes come, they end in
//! `tidewatch.rejected` with their reason, and change no signal of the rows around them.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidewatch::log::Record;
use tidewatch::normalize::reject;
use tidewatch::topology::{Registry, Tenancy};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation;
use tidewatch_schemas::proto::flow::{FlowBatch, FlowRecord};
use tidewatch_schemas::time::SECOND_NS;
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{self, Drive, Layout, LogKind, Message, Outcome, Scenario, input};
use tidewatch_tests::traffic::{self, Contact, FLOW, flow_message, flow_record, noon};

/// Rows of observation records in a topic, copies to a second host left out.
fn primary_rows(records: &[Record]) -> u64 {
    let mut rows = 0;
    for record in records {
        let kind = record.header(header::RECORD).and_then(|h| RecordType::parse(h));
        let Some(RecordType::Observations(kind, _)) = kind else { continue };
        let batch = observation::decode(kind, record.value.as_deref().unwrap()).unwrap();
        rows += (0..batch.len()).filter(|i| batch.row(*i).primary()).count() as u64;
    }
    rows
}

/// The counters add up, and the topics hold what they say.
fn accounted(outcome: &Outcome) {
    for ((topic, tenant), c) in &outcome.ledger.0 {
        if topic.starts_with("tidewatch.") {
            continue;
        }
        assert_eq!(c.rows_in, c.normalized + c.rejected + c.late, "{topic} {tenant}: {c:?}");
    }
    let names = &outcome.topology.names;
    let total = outcome.ledger.total();
    let read = |topic: &str| scenario::read_all(&outcome.log, topic).unwrap();
    assert_eq!(primary_rows(&read(&names.obs())), total.normalized);
    assert_eq!(primary_rows(&read(&names.late())), total.late);
    assert_eq!(read(&names.rejected()).len() as u64, total.rejected);
    assert!(total.duplicate <= total.normalized);
}

#[test]
fn every_row_is_accounted_for_in_every_scenario() {
    for scenario in [traffic::by_hand(), traffic::office(3), traffic::zeek(4)] {
        let layout = Layout { inputs: 3, obs: 3, findings: 2, shuffle: Some(9), poll_records: 64, ..Layout::default() };
        let outcome = scenario.run(&layout).unwrap();
        accounted(&outcome);
        assert_eq!(outcome.ledger.total().late, 0);
        if scenario.name == "by hand" {
            // The exporter that says everything twice, and so its sixty rows.
            assert_eq!(outcome.ledger.total().duplicate, 60);
        }
    }
}

/// Rows that come two hours late, and rows that come too early.
#[test]
fn late_and_future_rows_are_accounted_for() {
    let mut scenario = traffic::by_hand();
    let contact = |at_s| Contact { tenant: "a", at_s, from: "10.0.0.5", to: "203.0.113.9", port: 443, bytes: 9 };
    for n in 0..50 {
        let at = noon(1_800.0 + f64::from(n));
        scenario.messages.push(Message { at, ..flow_message(&contact(f64::from(n) - 5_400.0)) });
        scenario.messages.push(Message { at, ..flow_message(&contact(f64::from(n) + 5_400.0)) });
    }
    scenario.messages.sort_by_key(|m| m.at);
    let outcome = scenario.run(&Layout::default()).unwrap();
    accounted(&outcome);
    let counts = outcome.ledger.0[&(FLOW.to_owned(), "a".to_owned())];
    assert_eq!((counts.late, counts.rejected), (50, 50));
}

const HOSTILE: u32 = 10_000;

fn registered() -> (tempfile::TempDir, Tenancy) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry");
    std::fs::write(&path, "a collector-1\nb collector-1\na agent-web-1\n").unwrap();
    let tenancy = Tenancy::Verified { registry: Registry::File(path), strict: false };
    (dir, tenancy)
}

/// Good records, by tenants that are registered.
fn good(tenancy: &Tenancy) -> Scenario {
    let mut scenario = traffic::by_hand();
    scenario.inputs = scenario.inputs.iter().map(|i| input(&i.topic, i.format.name, tenancy.clone())).collect();
    scenario
}

/// One bad record of each kind in turn, with how its reason begins. `None` = the decoder may find nothing wrong in it.
fn bad(n: u32, random: &mut ChaCha8Rng) -> (Vec<u8>, &'static str) {
    let contact = Contact { tenant: "a", at_s: f64::from(n % 3_500), from: "10.0.0.5", to: "203.0.113.9", port: 443, bytes: 9 };
    let record = flow_record(&contact);
    let encode = |flows: Vec<FlowRecord>| FlowBatch { flows }.encode_to_vec();
    match n % 10 {
        0 => {
            // Field number 0 does not exist: no random tail can mend that.
            let mut bytes = vec![0x00];
            bytes.extend((0..random.random_range(0..200)).map(|_| random.random::<u8>()));
            (bytes, "bytes:")
        }
        1 => {
            let mut bytes = encode(vec![record]);
            bytes.truncate(bytes.len() - random.random_range(1..bytes.len() - 4));
            (bytes, "bytes:")
        }
        2 => (encode(vec![FlowRecord { tenant_id: "mallory".to_owned(), ..record }]), "tenant:"),
        3 => (encode(vec![record.clone(), FlowRecord { tenant_id: "b".to_owned(), ..record }]), "tenant:"),
        4 => {
            let far = record.observed_at_unix_nano + 7_200 * SECOND_NS;
            (encode(vec![FlowRecord { observed_at_unix_nano: far, end_unix_nano: far, ..record }]), "future:")
        }
        5 => (Vec::new(), "bytes:"),
        6 => (encode(vec![FlowRecord { source_address: "x".repeat(60), ..record }]), "bytes:"),
        // A message of some other topic: a JSON object, a line of a log.
        7 => (br#"{"tenant_id":"a","hello":"world"}"#.to_vec(), "bytes:"),
        8 => (encode(vec![FlowRecord { tenant_id: String::new(), ..record }]), "tenant:"),
        // Huge: names of pages, in every thousandth of them a megabyte.
        _ => {
            let len = if n % 1_000 == 9 { 900_000 } else { 5_000 };
            let name: String = (0..len).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
            (encode(vec![FlowRecord { agent_id: name, ..record }]), "bytes:")
        }
    }
}

#[test]
fn hostile_records_are_kept_with_their_reason_and_change_nothing() {
    let (_dir, tenancy) = registered();
    let clean = good(&tenancy);
    let layout = Layout { obs: 3, poll_records: 512, ..Layout::default() };
    let want = clean.run(&layout).unwrap();
    assert!(want.signals.values().flatten().count() > 3);
    assert_eq!(want.ledger.total().rejected, 0);

    let mut random = ChaCha8Rng::seed_from_u64(32);
    let mut dirty = clean.clone();
    let mut sent: BTreeMap<Vec<u8>, (u64, &'static str)> = BTreeMap::new();
    for n in 0..HOSTILE {
        let (value, reason) = bad(n, &mut random);
        sent.entry(value.clone()).or_insert((0, reason)).0 += 1;
        let at = noon(f64::from(n % 3_500) + 1.0);
        dirty.messages.push(Message::new(FLOW, n.to_string(), at, value));
    }
    // Fields that nobody knows are no fault.
    for message in dirty.messages.iter_mut().filter(|m| m.at > noon(0.0) && m.key.starts_with(b"a|")).take(20) {
        message.value.extend_from_slice(&[0xfa, 0x3f, 3, 1, 2, 3]);
    }
    dirty.messages.sort_by_key(|m| m.at);
    let got = dirty.run(&layout).unwrap();
    accounted(&got);
    assert_eq!(got.signals, want.signals);
    assert_eq!(got.ledger.total().normalized, want.ledger.total().normalized);
    assert_eq!(got.ledger.total().rejected, u64::from(HOSTILE));

    for record in scenario::read_all(&got.log, &got.topology.names.rejected()).unwrap() {
        let text = |name: &str| String::from_utf8(record.header(name).expect(name).to_vec()).unwrap();
        assert_eq!(text(reject::TOPIC), FLOW);
        let value = record.value.clone().unwrap();
        let (left, reason) = match record.header(reject::ROW) {
            // The only row of its batch, re-encoded: the record as it came.
            Some(row) => {
                assert_eq!(&row[..], b"0");
                sent.get_mut(&value[..]).expect("a rejected row in its record's own form")
            }
            None => sent.get_mut(&value[..]).expect("the bytes as they came"),
        };
        assert!(text(reject::REASON).starts_with(*reason), "{} for one that is {reason}", text(reject::REASON));
        *left = left.checked_sub(1).expect("each of them once");
    }
    assert!(sent.values().all(|(left, _)| *left == 0));
}

/// A beacon of which one call was written with a broken address; repaired and replayed in time, the signal is the one that
/// an unbroken run gives.
#[test]
fn a_repaired_record_counts_as_if_it_had_never_been_bad() {
    let contacts =
        |n: u32| Contact { tenant: "a", at_s: f64::from(n) * 30.0, from: "10.0.0.5", to: "203.0.113.66", port: 443, bytes: 512 };
    let messages: Vec<Message> = (0..12).map(|n| flow_message(&contacts(n))).collect();
    let whole = Scenario::new("replay", vec![scenario::open_input(FLOW, "probectl-flow")], messages);
    let layout = Layout { poll_records: 64, log: LogKind::Memory, drive: Drive::Lockstep, ..Layout::default() };
    let want = whole.run(&layout).unwrap().signals;
    assert_eq!(want.values().flatten().count(), 1);

    let mut broken = whole.clone();
    let mut batch = FlowBatch::decode(&broken.messages[6].value[..]).unwrap();
    batch.flows[0].source_address = "10.0.0.5.6".to_owned();
    broken.messages[6].value = batch.encode_to_vec();
    let log = scenario::open(LogKind::Memory).unwrap().0;
    Scenario { messages: Vec::new(), ..broken.clone() }.load(&layout, &log).unwrap();
    let mut live = Live::new(&broken, layout, log, noon(0.0)).unwrap();
    live.start_all().unwrap();
    live.play(&broken.messages[..7]).unwrap();
    live.settle().unwrap();
    let names = live.run.topology.names.clone();
    let rejected = scenario::read_all(&live.log, &names.rejected()).unwrap();
    assert_eq!(rejected.len(), 1);

    // What a person does with it.
    let mut batch = FlowBatch::decode(rejected[0].value.as_deref().unwrap()).unwrap();
    batch.flows[0].source_address = "10.0.0.5".to_owned();
    let headers: Vec<(String, Bytes)> = rejected[0].headers.clone();
    let mended = Message::new(&names.replayed(), "", live.now(), batch.encode_to_vec());
    let mended = Message { headers, ..mended };
    scenario::append(&live.log, "person", 1, &[&mended]).unwrap();
    live.play(&broken.messages[7..]).unwrap();
    live.pass(200).unwrap();
    assert_eq!(scenario::without_raw(&live.published().unwrap()), want);
    let total = live.ledger().total();
    assert_eq!((total.rows_in, total.normalized, total.rejected, total.late), (13, 12, 1, 0));
    // Too late, or of a topic that is no input: it stays accounted for.
    let mut stray = mended.clone();
    stray.headers.retain(|(name, _)| name != reject::TOPIC);
    scenario::append(&live.log, "person", 1, &[&stray, &mended]).unwrap();
    live.pass(10).unwrap();
    let after = live.ledger().total();
    assert_eq!((after.rows_in, after.normalized, after.rejected, after.late), (15, 13, 2, 1));
}
