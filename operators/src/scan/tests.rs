//! Scenarios of scans, and of what must not be taken for one.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::FlowRow;
use tidewatch_schemas::signal::{Severity, Value};

use crate::conformance::{MIDNIGHT_S, default_rule, findings, flow, host};

const NOON: f64 = (MIDNIGHT_S + 43_200) as f64;
const MINUTE: f64 = 60.0;
const DAY: f64 = 86_400.0;

fn scanner() -> Address {
    host(0, 66)
}

fn outside(i: u32) -> Address {
    let [_, a, b, c] = i.to_be_bytes();
    Address::v4([45, 10 + a, b, c])
}

fn try_at(at_s: f64, to: Address, port: u16, state: &'static str) -> FlowRow<'static> {
    FlowRow { connection_state: Some(state), packets_forward: Some(1), ..flow(at_s, scanner(), to, port, 0, 0) }
}

/// `n` targets, `gap_s` apart, of which every `fails`-th is not answered.
fn sweep(n: u32, gap_s: f64, port: u16, fails: u32, to: impl Fn(u32) -> Address) -> Vec<FlowRow<'static>> {
    let state = |i: u32| match (i % fails, i % 4) {
        (0, 0 | 1) => "REJ",
        (0, _) => "S0",
        _ => "SF",
    };
    (0..n).map(|i| try_at(NOON + f64::from(i) * gap_s, to(i), port, state(i))).collect()
}

fn inside(i: u32) -> Address {
    host(1 + (i / 250) as u8, (1 + i % 250) as u8)
}

fn told(rows: &[FlowRow<'_>]) -> Vec<Finding> {
    findings(&[default_rule("scan")], rows)
}

fn long(finding: &Finding, name: &str) -> i64 {
    match finding.evidence[name] {
        Value::Long(v) => v,
        ref other => panic!("{name}: {other:?}"),
    }
}

fn seconds(finding: &Finding) -> f64 {
    finding.decided_at.0 as f64 / 1e9 - NOON
}

#[test]
fn a_list_of_web_servers_of_which_half_answer_is_told_within_a_minute() {
    let found = told(&sweep(31, 0.3, 80, 2, outside));
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((long(f, "failed"), long(f, "window_s"), f.severity), (10, 60, Severity::Medium));
    // Seldom: a page whose third parties are dead; and when nothing answers, the network is down.
    assert_eq!(told(&sweep(31, 3.0, 80, 3, outside)), []);
    assert_eq!(told(&sweep(31, 0.3, 80, 5, outside)), []);
    assert_eq!(told(&sweep(31, 0.3, 443, 1, outside)), []);
}

#[test]
fn a_sweep_is_told_at_the_twentieth_target_and_seldom_after() {
    let found = told(&sweep(254, 0.1, 8080, 1, inside));
    assert!((1..=3).contains(&found.len()), "{found:?}");
    let f = &found[0];
    assert_eq!((long(f, "failed"), &f.evidence["form"]), (20, &Value::Text("horizontal".to_owned())));
    assert!(seconds(f) < 2.5 && f.severity == Severity::High, "{f:?}");
}

#[test]
fn any_pace_inside_and_outside_failing_or_half_answered() {
    // (gap, fails every n-th, targets, found within)
    for (gap_s, fails, n, within) in [
        (0.01, 1, 100, 10.0),
        (1.0, 1, 100, 25.0),
        (1.0, 2, 100, 50.0),
        (30.0, 1, 100, 15.0 * MINUTE),
        (30.0, 2, 100, 40.0 * MINUTE),
        (300.0, 1, 288, 4.0 * 3600.0),
        (300.0, 2, 288, 6.0 * 3600.0),
        (900.0, 1, 96, 8.0 * 3600.0),
        (900.0, 2, 96, 16.0 * 3600.0),
    ] {
        for found in [told(&sweep(n, gap_s, 3306, fails, inside)), told(&sweep(n, gap_s, 3306, fails, outside))] {
            assert!(!found.is_empty() && found.len() <= 4, "{gap_s} s, 1 in {fails}: {found:?}");
            assert!(seconds(&found[0]) <= within, "{gap_s} s, 1 in {fails}: {} s", seconds(&found[0]));
        }
    }
}

#[test]
fn ports_of_one_target() {
    for (gap_s, n) in [(0.01, 1000), (30.0, 60), (900.0, 96)] {
        let rows: Vec<FlowRow<'_>> = (1..=n).map(|i| try_at(NOON + f64::from(i) * gap_s, inside(7), i as u16, "REJ")).collect();
        let found = told(&rows);
        assert!((1..=8).contains(&found.len()), "{gap_s}: {}", found.len());
        assert_eq!(found[0].evidence["form"], Value::Text("vertical".to_owned()));
        assert_eq!(found[0].destination.as_ref().unwrap().ip.as_deref(), Some("10.0.1.8"));
    }
}

#[test]
fn a_block_of_eight_by_eight() {
    let rows: Vec<FlowRow<'_>> =
        (0..64).map(|i| try_at(NOON + f64::from(i) * 2.0, inside(i / 8), 1000 + (i % 8) as u16, "S0")).collect();
    let found = told(&rows);
    assert!(!found.is_empty() && found[0].evidence["form"] == Value::Text("block".to_owned()), "{found:?}");
}

#[test]
fn a_sweep_that_is_answered_everywhere_is_told_unless_the_targets_are_called_again() {
    let mut rows = sweep(60, 1.0, 5432, u32::MAX, |i| inside(i + 1));
    rows.remove(0);
    // Something else goes on.
    rows.extend((0..60).map(|i| flow(NOON + f64::from(i) * MINUTE, scanner(), host(9, 9), 80, 100, 100)));
    let found = told(&rows);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].evidence["form"], Value::Text("sweep".to_owned()));
    // A poller comes every five minutes.
    let polls: Vec<FlowRow<'_>> = (0..12)
        .flat_map(|k| (0..60).map(move |i| try_at(NOON + f64::from(k) * 300.0 + f64::from(i), inside(i), 5432, "SF")))
        .collect();
    assert!(told(&polls).is_empty());
}

#[test]
fn a_listed_scanner_may() {
    let mut rule = default_rule("scan");
    rule.lists.insert("scanners".to_owned(), vec!["10.0.0.64/26".to_owned()]);
    assert!(findings(&[rule], &sweep(254, 0.1, 8080, 1, inside)).is_empty());
}

#[test]
fn servers_that_went_down_are_no_scan() {
    // Forty back ends, known since an hour, then all down; and one dead server called for a day.
    let mut rows = Vec::new();
    for k in 0..24 {
        let state = if k < 12 { "SF" } else { "S0" };
        rows.extend((0..40).map(|i| try_at(NOON + f64::from(k) * 300.0 + f64::from(i), inside(i), 8080, state)));
    }
    rows.extend((0..2000).map(|i| try_at(NOON + f64::from(i) * 40.0, host(9, 9), 443, "S0")));
    rows.sort_by_key(|r| r.event_time);
    assert!(told(&rows).is_empty());
}

#[test]
fn backscatter_is_nobodys_scan() {
    let replies = |state: &'static str| -> Vec<FlowRow<'static>> {
        (0..500)
            .map(|i| FlowRow {
                connection_state: Some(state),
                packets_forward: Some(0),
                ..flow(NOON + f64::from(i) * 0.1, scanner(), outside(i), 80, 0, 40)
            })
            .collect()
    };
    for state in ["SHR", "RSTRH", "OTH", "S0"] {
        assert!(told(&replies(state)).is_empty(), "{state}");
    }
    // As a router exports it: answers to what was never asked, and the refusal of each.
    let mut rows = Vec::new();
    for i in 0..500 {
        let mut answer = flow(NOON + f64::from(i) * 0.1, outside(i), scanner(), 40_000 + i as u16, 40, 0);
        (answer.direction_known, answer.connection_state, answer.source_port) = (false, None, Some(80));
        (answer.tcp_flags, answer.bytes_reverse) = (Some(0x12), None);
        let mut refusal = FlowRow { tcp_flags: Some(0x04), ..answer };
        std::mem::swap(&mut refusal.source_address, &mut refusal.destination_address);
        std::mem::swap(&mut refusal.source_port, &mut refusal.destination_port);
        std::mem::swap(&mut refusal.source_class, &mut refusal.destination_class);
        rows.extend([answer, refusal]);
    }
    assert!(told(&rows).is_empty());
}

#[test]
fn peer_to_peer_printers_and_browsing_are_silent() {
    // Peers at ports of their own, half of them gone; every eighth at the usual port.
    let peers: Vec<FlowRow<'_>> = (0..2000_u32)
        .map(|i| {
            let port = if i % 8 == 0 { 6881 } else { 1024 + (i * 7919 % 60_000) as u16 };
            try_at(NOON + f64::from(i) * 3.0, outside(i), port, if i % 2 == 0 { "S0" } else { "SF" })
        })
        .collect();
    assert!(told(&peers).is_empty());
    // A driver looks for printers in its network every hour.
    let printers: Vec<FlowRow<'_>> = (0..254 * 3)
        .map(|i| {
            let at_s = NOON + f64::from(i / 254) * 3600.0 + f64::from(i % 254) * 0.05;
            FlowRow { transport: 17, ..try_at(at_s, inside(i % 254), 161, "S0") }
        })
        .collect();
    assert!(told(&printers).is_empty());
    // A day of web sites, of which a third does not answer.
    let sites: Vec<FlowRow<'_>> = (0..3000_u32)
        .map(|i| try_at(NOON + f64::from(i) * 20.0, outside(i), 443, if i % 3 == 0 { "S0" } else { "SF" }))
        .collect();
    assert!(told(&sites).is_empty());
}

#[test]
fn who_scans_from_outside_is_noise() {
    let rows: Vec<FlowRow<'_>> = (0..100_u32)
        .map(|i| FlowRow {
            connection_state: Some("S0"),
            packets_forward: Some(1),
            ..flow(NOON + f64::from(i), Address::v4([9, 9, 9, 9]), outside(i), 23, 0, 0)
        })
        .collect();
    // Between two outside ends no internal host is concerned; were one declared, it would be low.
    assert!(told(&rows).iter().all(|f| f.severity == Severity::Low));
}

#[test]
fn what_a_scan_found_is_not_known_the_day_after() {
    let mut rows = sweep(60, 1.0, 8080, 2, inside);
    let again: Vec<FlowRow<'_>> = (0..60_u32)
        .map(|i| try_at(NOON + DAY + 3600.0 + f64::from(i), inside(i), 8080, if i % 2 == 0 { "S0" } else { "SF" }))
        .collect();
    rows.extend(again);
    let found = told(&rows);
    assert!(found.iter().any(|f| seconds(f) > DAY), "{found:?}");
}
