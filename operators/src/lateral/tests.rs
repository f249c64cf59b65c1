//! Scenarios of fan-out.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{EdgeRow, FlowRow, Row};
use tidewatch_schemas::signal::{Severity, Value};

use super::judge;
use super::state::{HostState, NEIGHBOUR_AGE_NS, PEERS_MAX, Touch};
use crate::conformance::{MIDNIGHT_S, default_rule, findings, findings_of, flow, host};
use crate::operator::{Footprint, Position, TenantFacts};
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
    assert_eq!(f.attack, ["T1021", "T1021.002", "T1046"]);
}

#[test]
fn the_ports_say_by_which_service_it_moves() {
    let attack = |ports: &[u16]| {
        let rows: Vec<FlowRow<'_>> = (1..=12u8)
            .map(|i| flow((NOON_S + i64::from(i)) as f64, host(0, 66), host(1, i), ports[usize::from(i) % ports.len()], 400, 400))
            .collect();
        findings(&[rule()], &rows).remove(0).attack
    };
    assert_eq!(attack(&[22]), ["T1021", "T1021.004", "T1046"]);
    assert_eq!(attack(&[5985, 5986]), ["T1021", "T1021.006", "T1046"]);
    assert_eq!(attack(&[3389, 445, 5900]), ["T1021", "T1021.001", "T1021.002", "T1046"]);
    assert_eq!(attack(&[135]), ["T1021", "T1046"]);
}

#[test]
fn nine_destinations_are_not_enough_nor_are_ten_over_more_than_the_window() {
    assert!(findings(&[rule()], &sweep(NOON_S, 9, 1, 445)).is_empty());
    // The day's count is another one.
    assert!(findings(&[rule()], &sweep(NOON_S, 23, 34, 445)).is_empty());
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

/// `n` destinations of a network, one every `gap_s`.
fn slow(from_s: i64, n: u8, gap_s: i64, network: u8) -> Vec<FlowRow<'static>> {
    (1..=n).map(|i| flow((from_s + i64::from(i) * gap_s) as f64, host(0, 66), host(network, i), 3389, 4000, 9000)).collect()
}

#[test]
fn slow_movement_over_a_day_is_told_once_a_day() {
    // One every quarter of an hour by a host known since yesterday.
    let mut rows = slow(NOON_S - 90_000, 2, 60, 9);
    rows.extend(slow(NOON_S, 40, 900, 1));
    let found = findings(&[rule()], &rows);
    let told: Vec<i64> = found.iter().map(|f| long(f, "fanout")).collect();
    assert_eq!(told, [12, 24], "{found:?}");
    assert_eq!((found[0].severity, found[0].confidence), (Severity::Medium, 50));
    assert_eq!(found[0].decided_at, EventTime::from_secs(NOON_S + 12 * 900));
    // A host's first day holds nothing but new ones.
    let found = findings(&[rule()], &slow(NOON_S, 40, 900, 1));
    assert_eq!(found.iter().map(|f| long(f, "fanout")).collect::<Vec<_>>(), [24]);
}

#[test]
fn who_comes_back_to_the_same_hosts_moves_nowhere() {
    let mut rows = Vec::new();
    for day in 0..5 {
        rows.extend(slow(NOON_S + day * 86_400, 9, 400, 1));
    }
    assert!(findings(&[rule()], &rows).is_empty());
}

#[test]
fn what_was_told_of_is_no_neighbour_for_three_days() {
    let days: Vec<FlowRow<'_>> = (0..5).flat_map(|day| sweep(NOON_S + day * 86_400, 13, 1, 445)).collect();
    let found = findings(&[rule()], &days);
    let on: Vec<i64> = found.iter().map(|f| (f.decided_at.0 / 1_000_000_000 - NOON_S) / 86_400).collect();
    assert_eq!(on, [0, 1, 2]);
}

#[test]
fn a_poller_is_told_of_once() {
    // Twenty hosts every five minutes, one of them dead, for four days.
    let rounds: Vec<FlowRow<'_>> = (0..1152).flat_map(|k| sweep(NOON_S + k * 300, 20, 1, 22)).collect();
    assert_eq!(findings(&[rule()], &rounds).iter().map(|f| long(f, "fanout")).collect::<Vec<_>>(), [10, 20]);
}

/// What the tenant's view makes of findings, the tenant being watched since then.
fn judged(rows: &[FlowRow<'_>], watched_s: i64) -> Vec<(Severity, i64)> {
    let facts = TenantFacts { watched_since: Some(EventTime::from_secs(watched_s)), ..TenantFacts::default() };
    let found = findings(&[rule()], rows).into_iter();
    let told = found.filter_map(|f| judge(f, &facts));
    told.map(|f| (f.severity, f.decided_at.0 / 1_000_000_000 - NOON_S)).collect()
}

#[test]
fn a_poller_on_the_first_day_is_medium_and_one_who_does_not_come_again_rises() {
    use Severity::{Critical, Medium};
    let morning = NOON_S - 3600;
    // Something else keeps time going.
    let later = flow((NOON_S + 5000) as f64, host(0, 66), host(9, 9), 22, 400, 400);
    let once: Vec<_> = sweep(NOON_S, 10, 1, 22).into_iter().chain([later]).collect();
    let [first, rise] = judged(&once, morning)[..] else { panic!("{:?}", judged(&once, morning)) };
    assert_eq!((first, rise.0), ((Medium, 10), Critical));
    // At the first slice after the hour.
    assert!((3900..=5000).contains(&rise.1), "{}", rise.1);
    // A tenant known for long gives nobody that time, and hears of it once.
    assert_eq!(judged(&once, NOON_S - 100_000), [(Critical, 10)]);
    // Every half an hour, one of them dead.
    let mut polls: Vec<_> = (0..6).flat_map(|round| sweep(NOON_S + round * 1800, 10, 1, 22)).collect();
    polls.iter_mut().filter(|row| row.destination_address == Some(host(1, 4))).for_each(|row| row.connection_state = Some("S0"));
    assert_eq!(judged(&polls, morning), [(Medium, 10)]);
    // Who mostly fails is no poller; nor is who has used the ports since yesterday.
    let mut failing = once.clone();
    failing.iter_mut().take(4).for_each(|row| row.connection_state = Some("S0"));
    assert_eq!(judged(&failing, morning), [(Critical, 10)]);
    let known: Vec<_> = [flow((NOON_S - 50_000) as f64, host(0, 66), host(9, 9), 22, 400, 400)].into_iter().chain(once).collect();
    assert_eq!(judged(&known, morning), [(Critical, 10)]);
}

#[test]
fn severity_follows_the_evidence() {
    let severity = |rows: &[FlowRow<'_>]| findings(&[rule()], rows)[0].severity;
    assert_eq!(severity(&sweep(NOON_S, 13, 1, 445)), Severity::Critical);
    // Known since the morning, if not for half a day: less.
    let mut rows = sweep(NOON_S - 6 * 3600, 9, 60, 445);
    rows.extend(sweep(NOON_S, 10, 1, 445));
    assert_eq!(severity(&rows), Severity::High);
}

/// V13: known neighbours of the service map are left out, but not those that the map has only since the sweep began.
#[test]
fn v13_neighbours_of_the_service_map_are_left_out() {
    let edge = |to: &'static str, since_s: i64| {
        Row::Edge(EdgeRow {
            event_time: EventTime::from_secs(NOON_S - 5),
            source_name: "10.0.0.66",
            destination_name: to,
            destination_port: Some(445),
            transport: 6,
            connections: 3,
            first_seen: Some(EventTime::from_secs(NOON_S - since_s)),
            ..EdgeRow::default()
        })
    };
    let mut rows = vec![edge("10.0.1.1", 90_000), edge("10.0.1.2", 90_000), edge("10.0.1.3", 60)];
    rows.extend(sweep(NOON_S, 13, 1, 445).into_iter().map(Row::Flow));
    let found = findings_of(&[rule()], &rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((long(f, "fanout"), long(f, "excluded"), f.severity), (10, 2, Severity::Critical));
    assert_eq!((f.decided_at, f.confidence), (EventTime::from_secs(NOON_S + 12), 60));
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
        state
            .touch(&Touch { peer, alias: None, port: 22, failed: false, at, position }, 300_000_000_000, || "10.0.0.1".to_owned())
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
