//! Scenarios of fan-out.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::FlowRow;
use tidewatch_schemas::signal::Value;

use super::state::{HostState, NEIGHBOUR_AGE_NS, PEERS_MAX, Touch};
use crate::conformance::{MIDNIGHT_S, default_rule, findings, flow, host};
use crate::operator::{Footprint, Position};
use crate::rule::Rule;
use tidewatch_schemas::time::EventTime;

const NOON_S: i64 = MIDNIGHT_S + 43_200;

fn rule() -> Rule {
    default_rule("lateral")
}

/// `n` destinations from .1 on, `gap_s` apart.
fn sweep(from_s: i64, n: u8, gap_s: i64, port: u16) -> Vec<FlowRow<'static>> {
    (1..=n).map(|i| flow((from_s + i64::from(i) * gap_s) as f64, host(0, 66), host(1, i), port, 400, 400)).collect()
}

fn long(finding: &Finding, name: &str) -> i64 {
    match finding.evidence[name] {
        Value::Long(v) => v,
        ref other => panic!("{name}: {other:?}"),
    }
}

#[test]
fn thirteen_destinations_are_told_once_at_the_tenth() {
    let found = findings(&[rule()], &sweep(NOON_S, 13, 1, 445));
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((long(f, "fanout"), long(f, "excluded"), f.subject.as_str()), (10, 0, "lateral"));
    assert_eq!(f.decided_at, EventTime::from_secs(NOON_S + 10));
    assert_eq!(f.confidence, 60);
    assert_eq!(f.evidence["ports"], Value::List(vec![Value::Long(445)]));
}

#[test]
fn nine_destinations_are_not_enough_nor_are_ten_over_more_than_the_window() {
    assert!(findings(&[rule()], &sweep(NOON_S, 9, 1, 445)).is_empty());
    assert!(findings(&[rule()], &sweep(NOON_S, 60, 34, 445)).is_empty());
    assert!(!findings(&[rule()], &sweep(NOON_S, 60, 30, 445)).is_empty());
}

#[test]
fn other_ports_outside_peers_and_answers_do_not_count() {
    assert!(findings(&[rule()], &sweep(NOON_S, 20, 1, 80)).is_empty());
    let outside: Vec<FlowRow<'_>> =
        (1..=20).map(|i| flow((NOON_S + i) as f64, host(0, 66), Address::v4([198, 51, 100, i as u8]), 445, 400, 400)).collect();
    assert!(findings(&[rule()], &outside).is_empty());
    let asked: Vec<FlowRow<'_>> =
        (1..=20).map(|i| flow((NOON_S + i) as f64, host(1, i as u8), host(0, 66), 445, 400, 400)).collect();
    assert!(findings(&[rule()], &asked).is_empty());
}

#[test]
fn neighbours_of_an_earlier_day_are_left_out_but_not_those_of_the_same_hour() {
    let mut rows = sweep(NOON_S - 86_400, 2, 1, 445);
    rows.extend(sweep(NOON_S, 13, 1, 445));
    let found = findings(&[rule()], &rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((long(f, "fanout"), long(f, "excluded")), (10, 2));
    assert_eq!(f.decided_at, EventTime::from_secs(NOON_S + 12));

    let mut rows = sweep(NOON_S - 1800, 9, 1, 445);
    rows.extend(sweep(NOON_S, 13, 1, 445));
    let found = findings(&[rule()], &rows);
    assert_eq!((found.len(), long(&found[0], "excluded"), long(&found[0], "first_seen")), (1, 0, 1));
}

#[test]
fn what_only_ever_failed_is_no_neighbour() {
    let mut rows = sweep(NOON_S - 86_400, 9, 60, 445);
    rows.iter_mut().for_each(|r| r.connection_state = Some("REJ"));
    rows.extend(sweep(NOON_S, 10, 1, 445));
    assert_eq!(findings(&[rule()], &rows).len(), 1);
}

#[test]
fn failures_raise_confidence() {
    let mut rows = sweep(NOON_S, 13, 1, 445);
    rows.iter_mut().for_each(|r| r.connection_state = Some("S0"));
    let found = findings(&[rule()], &rows);
    assert_eq!((found[0].confidence, &found[0].evidence["failed_ratio"]), (75, &Value::Double(1.0)));
}

#[test]
fn a_long_sweep_is_told_at_doublings_and_again_after_a_window() {
    let found = findings(&[rule()], &sweep(NOON_S, 240, 2, 445));
    let told: Vec<i64> = found.iter().map(|f| long(f, "fanout")).collect();
    assert_eq!(told, [10, 20, 40, 80, 150]);
}

#[test]
fn a_declared_scanner_may() {
    for entry in ["10.0.0.66", "10.0.0.0/24"] {
        let mut rule = rule();
        rule.lists.insert("scanners".to_owned(), vec![entry.to_owned()]);
        assert!(findings(&[rule], &sweep(NOON_S, 20, 1, 445)).is_empty(), "{entry}");
    }
}

#[test]
fn a_scan_does_not_push_neighbours_out() {
    let mut state = HostState::default();
    let touch = |state: &mut HostState, peer: u64, at: i64| {
        let at = EventTime(at);
        let position = Position { input: 0, offset: 0, row: 0 };
        state.touch(&Touch { peer, port: 22, failed: false, at, position }, 300_000_000_000, || "10.0.0.1".to_owned())
    };
    touch(&mut state, 7, 0);
    touch(&mut state, 7, NEIGHBOUR_AGE_NS + 1);
    for i in 0..50_000 {
        let count = touch(&mut state, 1000 + i, NEIGHBOUR_AGE_NS + 2 + i as i64 * 1000);
        assert!(count <= PEERS_MAX);
    }
    assert!(state.heap_bytes() < 200_000, "{}", state.heap_bytes());
    assert_eq!(touch(&mut state, 7, NEIGHBOUR_AGE_NS + 400_000_000_000), 0, "still a neighbour");
}
