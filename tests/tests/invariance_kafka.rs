//! P2 on a real Kafka: the same rows give the same signals as in memory, whatever the partitions, workers and order, live
//! and in a backtest over the topics. The full set of layouts runs on the other logs (`invariance.rs`).

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use tidewatch_tests::kafka::Broker;
use tidewatch_tests::scenario::{Drive, Layout, Scenario};
use tidewatch_tests::traffic;

fn the_same_on_kafka(scenario: &Scenario, layouts: &[Layout]) {
    let plain = scenario.run(&Layout::default()).unwrap();
    assert!(plain.signals.values().flatten().count() > 0, "{}: nothing to compare", scenario.name);
    for layout in layouts {
        // A broker for each: topics of one name have another number of partitions every time.
        let broker = Broker::start().unwrap();
        let got = scenario.run_on(layout, Arc::new(broker.log())).unwrap();
        assert_eq!(got.signals, plain.signals, "{}: {layout:?}", scenario.name);
        assert_eq!(got.ledger.total().rows_in, plain.ledger.total().rows_in, "{}: {layout:?}", scenario.name);
    }
}

#[test]
fn an_office_live_and_in_a_backtest() {
    let live = Layout {
        poll_records: 7,
        inputs: 3,
        obs: 3,
        findings: 3,
        workers: 3,
        shuffle: Some(11),
        drive: Drive::Threads,
        ..Layout::default()
    };
    let backtest = Layout { inputs: 8, obs: 1, shuffle: Some(12), drive: Drive::Backtest, ..Layout::default() };
    the_same_on_kafka(&traffic::office(1), &[live, backtest]);
}

#[test]
fn rows_made_by_hand() {
    let lockstep = Layout { poll_records: 1, inputs: 1, obs: 8, findings: 8, ..Layout::default() };
    let live = Layout { inputs: 8, obs: 1, workers: 3, drive: Drive::Threads, ..Layout::default() };
    the_same_on_kafka(&traffic::by_hand(), &[lockstep, live]);
}
