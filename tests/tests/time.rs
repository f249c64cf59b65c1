//! Event time, end to end: clocks that run ahead, backlogs, workers that are missing, partitions that fall silent, come
//! back, are added; the night; late rows; and that what silence decided is found again by a backtest, byte for byte.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;
use std::time::Duration;

use tidewatch::backtest::{self, BacktestConfig};
use tidewatch::input::{InputSpec, Range};
use tidewatch::log::Log;
use tidewatch::topology::Stage;
use tidewatch_schemas::observation::{self, Kind};
use tidewatch_schemas::time::SECOND_NS;
use tidewatch_tests::growing::Growing;
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{self, Layout, LogKind, Message, Scenario, Signals, fixed_clock, lane_input};
use tidewatch_tests::traffic::{self, Contact, noon};

/// The lane of a siloed tenant.
const LANE: &str = "probectl.brook.flow.events";

const THREE: Layout = Layout {
    poll_records: 64,
    inputs: 3,
    obs: 2,
    findings: 1,
    workers: 1,
    shuffle: None,
    log: LogKind::Memory,
    drive: scenario::Drive::Lockstep,
};

fn memory() -> Arc<dyn Log> {
    scenario::open(LogKind::Memory).unwrap().0
}

/// Flow records alone, so that every partition of one topic matters.
fn flows() -> Scenario {
    let mut scenario = traffic::by_hand();
    scenario.inputs.truncate(1);
    scenario.messages.retain(|m| m.topic == traffic::FLOW);
    scenario
}

fn started(scenario: &Scenario, log: Arc<dyn Log>) -> Live {
    let empty = Scenario { messages: Vec::new(), ..scenario.clone() };
    empty.load(&THREE, &log).unwrap();
    let mut live = Live::new(scenario, THREE, log, noon(0.0)).unwrap();
    live.start_all().unwrap();
    live
}

fn sum(signals: &Signals) -> usize {
    signals.values().map(Vec::len).sum()
}

/// Signals of a bounded run over the same records: what must come out.
fn expected(scenario: &Scenario) -> Signals {
    let outcome = scenario.run(&THREE).unwrap();
    assert!(sum(&outcome.published) > 3);
    outcome.published
}

/// Contacts of tenant `c` every minute, whose exporter's clock is `ahead_s` fast.
fn fast(ahead_s: f64) -> Vec<Message> {
    let contact = |n| Contact { tenant: "c", at_s: n * 60.0 + ahead_s, from: "10.0.0.5", to: "203.0.113.9", port: 443, bytes: 9 };
    let message = |n: u32| {
        let message = traffic::flow_message(&contact(f64::from(n)));
        Message { at: message.at.minus((ahead_s * 1e9) as i64), ..message }
    };
    (0..60).map(message).collect()
}

fn with(scenario: &Scenario, more: Vec<Message>) -> Scenario {
    let mut scenario = scenario.clone();
    scenario.messages.extend(more);
    scenario.messages.sort_by_key(|m| m.at);
    scenario
}

#[test]
fn a_fast_clock_changes_nothing_for_the_others() {
    let alone = flows();
    let want = alone.run(&THREE).unwrap().signals;
    for (ahead_s, rejected) in [(600.0, 60), (31.0, 60), (29.0, 0)] {
        let got = with(&alone, fast(ahead_s)).run(&THREE).unwrap();
        let total = got.ledger.total();
        assert_eq!((total.rejected, total.late), (rejected, 0), "{ahead_s} s ahead");
        assert_eq!(got.signals.contains_key("c"), rejected == 0, "a beacon that is believed is found, one that is not is not");
        let others: Signals = got.signals.into_iter().filter(|(tenant, _)| tenant != "c").collect();
        assert_eq!(others, want, "{ahead_s} s ahead");
    }
}

/// A day-old beacon of the siloed tenant, written in the first minute of today.
fn backlog() -> Vec<Message> {
    let day = 86_400.0;
    let contact = |n| Contact { tenant: "brook", at_s: n * 60.0 - day, from: "10.0.0.5", to: "203.0.113.9", port: 443, bytes: 9 };
    let old = (0..90).map(|n: u32| traffic::flow_message(&contact(f64::from(n))));
    old.map(|m| Message { topic: LANE.to_owned(), at: noon(5.0), ..m }).collect()
}

#[test]
fn a_backlog_on_its_lane_changes_nothing_for_the_others() {
    let alone = flows();
    let mut both = with(&alone, backlog());
    both.inputs.push(lane_input(LANE, "probectl-flow", "brook"));
    let want = expected(&alone);
    let got = both.run(&THREE).unwrap();
    assert_eq!(got.ledger.total().late, 0);
    assert!(got.of_kind("ndr.beaconing").iter().any(|s| s.tenant == "brook"), "the backlog is judged as well");
    let others: Signals = got.published.into_iter().filter(|(tenant, _)| tenant != "brook").collect();
    assert_eq!(others, want);

    // Live, where the lane's time is a day behind for as long as the run lasts: the others wait for nothing.
    let mut live = started(&both, memory());
    live.play(&both.messages).unwrap();
    live.pass(120).unwrap();
    let others: Signals = live.published().unwrap().into_iter().filter(|(tenant, _)| tenant != "brook").collect();
    assert_eq!(others, want);
}

#[test]
fn a_start_with_a_worker_missing_loses_nothing() {
    let scenario = flows();
    let log = memory();
    let layout = Layout { workers: 2, ..THREE };
    scenario.load(&layout, &log).unwrap();
    let mut live = Live::new(&scenario, layout, log, noon(4_000.0)).unwrap();
    for stage in [Stage::Normalize, Stage::Detect, Stage::Correlate] {
        live.start(stage, 0).unwrap();
    }
    live.start(Stage::Detect, 1).unwrap();
    live.start(Stage::Correlate, 1).unwrap();
    live.settle().unwrap();
    live.pass(600).unwrap();
    assert_eq!(sum(&live.published().unwrap()), 0, "partitions that nobody reads have not spoken");
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(200).unwrap();
    assert_eq!(live.ledger().total().late, 0);
    assert_eq!(live.published().unwrap(), expected(&scenario));
}

/// A key for each partition.
fn key_of(partition: u32) -> String {
    (0..100)
        .map(|n| n.to_string())
        .find(|k| tidewatch::log::partitioner::murmur2_partition(k.as_bytes(), 3) == partition)
        .unwrap()
}

#[test]
fn a_partition_that_falls_silent_and_comes_back() {
    let mut scenario = flows();
    // Partition 2 is used in the first ten minutes and again in the last twenty.
    for (n, message) in scenario.messages.iter_mut().enumerate() {
        let used = message.at < noon(600.0) || message.at > noon(2_400.0);
        message.key = key_of(if used { n as u32 % 3 } else { n as u32 % 2 }).into_bytes();
    }
    let want = expected(&scenario);
    let mut live = started(&scenario, memory());
    let (before, after): (Vec<&Message>, Vec<&Message>) = scenario.messages.iter().partition(|m| m.at <= noon(2_400.0));
    live.play(before).unwrap();
    let meanwhile = sum(&live.published().unwrap());
    assert!(meanwhile > 0, "the others do not wait for a silent partition");
    live.play(after).unwrap();
    live.pass(200).unwrap();
    assert_eq!(live.ledger().total().late, 0);
    assert_eq!(live.published().unwrap(), want);
}

#[test]
fn at_night_the_last_slices_close() {
    let scenario = flows();
    let want = expected(&scenario);
    let mut live = started(&scenario, memory());
    live.play(&scenario.messages).unwrap();
    let last_row = live.now();
    while live.published().unwrap() != want {
        live.pass(1).unwrap();
        assert!(live.now().since(last_row) < 600 * SECOND_NS, "not all closed after ten minutes");
    }
    let topology = &live.run.topology;
    let most = topology.time.slice + topology.inputs[0].lateness + topology.time.idle_after + Duration::from_secs(5);
    let took = live.now().since(last_row);
    assert!(took <= most.as_nanos() as i64, "took {} s, at most {most:?}", took / SECOND_NS);
}

#[test]
fn an_input_that_is_added_is_waited_for() {
    // A beacon that only an agent sees; the agents' topic is added while it already runs.
    let calls = |n: u32| Contact {
        tenant: "b",
        at_s: 1_300.0 + f64::from(n) * 40.0,
        from: "10.0.0.9",
        to: "203.0.113.77",
        port: 443,
        bytes: 0,
    };
    let agent = (0..50).map(|n| traffic::ebpf_message(&calls(n), "db-1")).collect();
    let mut whole = with(&flows(), agent);
    let first = whole.clone();
    whole.inputs.push(scenario::open_input(traffic::EBPF, "probectl-ebpf"));
    let want = expected(&whole);
    assert!(want["b"].iter().any(|s| s.contains("10.0.0.9")), "the agent's beacon is found");

    let log = memory();
    Scenario { messages: Vec::new(), ..whole.clone() }.load(&THREE, &log).unwrap();
    let (early, late): (Vec<&Message>, Vec<&Message>) = whole.messages.iter().partition(|m| m.at <= noon(1_500.0));
    let mut live = Live::new(&first, THREE, log.clone(), noon(0.0)).unwrap();
    live.start_all().unwrap();
    live.play(early.iter().copied().filter(|m| m.topic == traffic::FLOW)).unwrap();
    live.stop().unwrap();
    // What the agents said of the last two minutes is there when the topic becomes an input: not one row may be lost.
    let waiting: Vec<&Message> = early.into_iter().filter(|m| m.topic == traffic::EBPF && m.at > noon(1_295.0)).collect();
    assert!(waiting.len() > 3);
    live.write(&waiting).unwrap();
    let mut live = Live::new(&whole, THREE, log, noon(1_500.0)).unwrap();
    live.start_all().unwrap();
    live.play(late).unwrap();
    live.pass(200).unwrap();
    let total = live.ledger().total();
    // Those of slices that had closed before it was an input are late, and said to be; all others count.
    assert!(total.late <= 4, "{total:?}");
    let told = |signals: &Signals| signals["b"].iter().filter(|s| s.contains("10.0.0.9")).count();
    assert_eq!(told(&live.published().unwrap()), told(&want));
}

#[test]
fn a_partition_that_is_added_is_waited_for() {
    let mut scenario = flows();
    for (n, message) in scenario.messages.iter_mut().enumerate() {
        let used = message.at > noon(1_200.0);
        message.key = key_of(if used { n as u32 % 3 } else { n as u32 % 2 }).into_bytes();
    }
    let want = expected(&scenario);
    let growing = Growing::new(memory(), traffic::FLOW, 2);
    let mut live = started(&scenario, growing.clone());
    let (before, after): (Vec<&Message>, Vec<&Message>) = scenario.messages.iter().partition(|m| m.at <= noon(1_200.0));
    live.play(before).unwrap();
    growing.grow(3);
    live.play(after).unwrap();
    live.pass(200).unwrap();
    assert_eq!(live.ledger().total().late, 0);
    assert_eq!(live.published().unwrap(), want);
}

/// Rows of the late topic.
fn late_rows(live: &Live) -> usize {
    let records = scenario::read_all(&live.log, &live.run.topology.names.late()).unwrap();
    records.iter().map(|r| observation::decode(Kind::Flow, r.value.as_deref().unwrap()).unwrap().len()).sum()
}

fn backtest_over(live: &Live, scenario: &Scenario) -> (Signals, u64) {
    let range = |topic: &str| InputSpec::Topic(Range { topic: topic.to_owned(), from: None, to: None });
    let config = BacktestConfig {
        inputs: scenario.inputs.iter().map(|i| range(&i.topic)).collect(),
        topology: Some(live.run.topology.clone()),
        tenant: None,
        internal: Vec::new(),
        rules: scenario.rules.clone(),
        own_rules: false,
        flush: None,
        log: Some(live.log.clone()),
        poll_records: 64,
        partitions: Some((THREE.obs, THREE.findings)),
    };
    let outcome = backtest::run(&config, fixed_clock(), |_| ()).unwrap();
    let mut signals = Signals::new();
    for (text, signal) in &outcome.signals {
        signals.entry(signal.tenant.clone()).or_default().push(text.clone());
    }
    (signals, outcome.ledger.total().late)
}

#[test]
fn what_silence_decided_is_found_again_by_a_backtest() {
    let scenario = flows();
    let mut live = started(&scenario, memory());
    let (before, after): (Vec<&Message>, Vec<&Message>) = scenario.messages.iter().partition(|m| m.at <= noon(1_200.0));
    live.play(before).unwrap();
    // A pause of all inputs (an exporter that restarts), in the middle of which rows come that are too old by then, some
    // by hours, some only because silence has moved on; the workers are restarted in it, too.
    live.pass(130).unwrap();
    live.crash();
    live.start_all().unwrap();
    live.pass(60).unwrap();
    let old = |at_s: f64| Contact { tenant: "a", at_s, from: "10.0.0.7", to: "198.51.100.1", port: 443, bytes: 900 };
    let ages = [-3_600.0, 900.0, 1_195.0, 1_199.0, 1_260.0, 1_280.0, 1_300.0, 1_315.0, 1_320.0, 1_325.0, 1_330.0, 1_340.0];
    let stragglers: Vec<Message> =
        ages.iter().map(|at_s| Message { at: live.now(), ..traffic::flow_message(&old(*at_s)) }).collect();
    for straggler in &stragglers {
        live.write(&[straggler]).unwrap();
        live.round().unwrap();
    }
    live.pass(5).unwrap();
    let late = late_rows(&live);
    assert!((4..stragglers.len()).contains(&late), "{late} late");
    assert_eq!(live.ledger().total().late, late as u64);
    live.play(after).unwrap();
    live.pass(200).unwrap();
    let published = live.published().unwrap();
    assert!(sum(&published) > 3);
    let (again, late_again) = backtest_over(&live, &scenario);
    assert_eq!(late_again, late_rows(&live) as u64);
    assert_eq!(again, published);
}
