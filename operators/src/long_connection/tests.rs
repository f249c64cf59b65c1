//! Scenarios of connections that last.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::FlowRow;
use tidewatch_schemas::signal::{Severity, Value};
use tidewatch_schemas::time::EventTime;

use super::state::{OPEN, OPEN_MAX, Part};
use super::{HostState, LongConnection};
use crate::conformance::{MIDNIGHT_S, default_rule, findings, flow, host};
use crate::operator::{Operator, Position, TenantFacts};
use crate::why::{About, Condition};

const DAY_S: f64 = 86_400.0;
const START_S: f64 = MIDNIGHT_S as f64;

fn outside() -> Address {
    Address::v4([203, 0, 113, 40])
}

fn told(rows: &[FlowRow<'_>]) -> Vec<Finding> {
    findings(&[default_rule("long_connection")], rows)
}

/// A whole connection that ends `age_s` after it began.
fn whole(age_s: f64, out: u64, back: u64) -> FlowRow<'static> {
    let row = flow(START_S + age_s, host(0, 5), outside(), 8022, out, back);
    FlowRow { start_time: Some(row.event_time.minus((age_s * 1e9) as i64)), source_port: Some(40_000), ..row }
}

/// A minute of a connection as a router exports it, a record each way.
fn part(end_s: f64, first: bool) -> [FlowRow<'static>; 2] {
    let mut row = flow(START_S + end_s, host(0, 5), outside(), 8022, 400, 0);
    row.start_time = Some(row.event_time.minus(60_000_000_000));
    (row.direction_known, row.connection_state, row.bytes_reverse) = (false, None, None);
    (row.source_port, row.tcp_flags) = (Some(40_000), Some(if first { 0x1a } else { 0x18 }));
    let mut answer = FlowRow { bytes_forward: Some(900), ..row };
    std::mem::swap(&mut answer.source_address, &mut answer.destination_address);
    std::mem::swap(&mut answer.source_port, &mut answer.destination_port);
    std::mem::swap(&mut answer.source_class, &mut answer.destination_class);
    [row, answer]
}

/// Days of one connection: a part a minute in each direction while somebody types, silence at night.
fn parts(days: i64) -> Vec<FlowRow<'static>> {
    let typing = (0..days * 1440).filter(|minute| (minute / 60) % 24 < 20);
    typing.flat_map(|minute| part((minute * 60 + 60) as f64, minute == 0)).collect()
}

#[test]
fn three_days_are_told_once() {
    let found = told(&[whole(3.0 * DAY_S, 400_000, 900_000)]);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((f.severity, &f.evidence["open_s"]), (Severity::Medium, &Value::Long(259_200)));
    assert_eq!(f.destination.as_ref().unwrap().port, Some(8022));
}

#[test]
fn parts_of_one_connection_are_one_however_often_it_is_told_of() {
    let found = told(&parts(4));
    let [f] = found.as_slice() else { panic!("{found:?}") };
    // The first part after the night.
    assert_eq!(f.evidence["open_s"], Value::Long(172_860));
}

#[test]
fn states_of_an_open_connection_are_counted_once() {
    let rows: Vec<FlowRow<'_>> = (1..=96).map(|h| whole(f64::from(h) * 3600.0, 5_000, 9_000)).collect();
    let found = told(&rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!((&f.evidence["bytes_out"], &f.evidence["open_s"]), (&Value::Long(5_000), &Value::Long(172_800)));
}

#[test]
fn a_day_one_sided_traffic_and_services_that_last_are_silent() {
    assert!(told(&[whole(1.9 * DAY_S, 400_000, 900_000)]).is_empty());
    assert!(told(&[whole(3.0 * DAY_S, 400, 900)]).is_empty());
    assert!(told(&[whole(3.0 * DAY_S, 2_000, 900_000_000)]).is_empty());
    for port in [5228, 8883, 1194] {
        assert!(told(&[FlowRow { destination_port: Some(port), ..whole(3.0 * DAY_S, 400_000, 900_000) }]).is_empty(), "{port}");
    }
    let inside = host(1, 1);
    let inside = FlowRow { destination_address: Some(inside), destination_class: 1, ..whole(3.0 * DAY_S, 400_000, 900_000) };
    assert!(told(&[inside]).is_empty());
}

#[test]
fn from_outside_only_a_shell_or_desktop_counts() {
    let inward = |port: u16| {
        let mut row = whole(3.0 * DAY_S, 400_000, 900_000);
        std::mem::swap(&mut row.source_address, &mut row.destination_address);
        std::mem::swap(&mut row.source_class, &mut row.destination_class);
        row.destination_port = Some(port);
        told(&[row]).len()
    };
    assert_eq!((inward(3389), inward(443)), (1, 0));
}

/// Connections of three quarters of an hour, each to another place, within some minutes of the second day.
fn flood(connections: u32) -> impl Iterator<Item = FlowRow<'static>> {
    (0..connections).map(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        let row = flow(START_S + DAY_S + f64::from(n) * 0.05, host(0, 5), Address::v4([45, a, b, c]), 443, 2000, 2000);
        FlowRow { start_time: Some(row.event_time.minus(2_700_000_000_000)), ..row }
    })
}

#[test]
fn at_the_limit_half_goes_and_what_is_open_longest_stays() {
    let mut state = HostState::default();
    let bitten = OPEN.reached();
    let file = |state: &mut HostState, key: u64, start_s: i64, end_s: i64| {
        let (start, end) = (EventTime::from_secs(start_s), EventTime::from_secs(end_s));
        let part = Part {
            key,
            peer: Some(outside()),
            port: 8022,
            start,
            end,
            out: 10,
            back: 10,
            whole: true,
            syn: true,
            gap_ns: 0,
            at: end,
            position: Position { input: 0, offset: 0, row: 0 },
        };
        state.file(&part, true);
    };
    for key in 0..OPEN_MAX as u64 / 4 {
        file(&mut state, key, key as i64, 86_400 + key as i64);
    }
    let mut most = 0;
    for key in 1000..9000 {
        file(&mut state, key, 87_000, 87_000 + 600 + (key / 100) as i64);
        most = most.max(state.connections().len());
        assert!(state.connections().iter().any(|o| o.age_ns() < 3_600_000_000_000), "the newest has a place");
    }
    assert_eq!(most, OPEN_MAX);
    let days = state.connections().iter().filter(|o| o.age_ns() >= 86_000_000_000_000).count();
    assert_eq!((days, OPEN.reached() > bitten), (OPEN_MAX / 4, true));
}

#[test]
fn a_connection_of_days_outlasts_a_flood_of_young_ones() {
    // Each minute for an hour and more, then every five hours.
    let minutes = (1..=70).map(|minute| f64::from(minute) * 60.0).chain((1..=10).map(|n| f64::from(n) * 18_000.0 + 60.0));
    let mut rows: Vec<FlowRow<'_>> = minutes.flat_map(|end_s| part(end_s, end_s == 60.0)).collect();
    rows.extend(flood(5_000));
    rows.sort_by_key(|r| r.event_time);
    let found = told(&rows);
    let [f] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(f.evidence["open_s"], Value::Long(50 * 3600 + 60));
}

#[test]
fn everybodys_destination_is_no_alert() {
    let finding = told(&[whole(3.0 * DAY_S, 400_000, 900_000)]).remove(0);
    let facts = TenantFacts { hosts: 50, knowing: 30, ..TenantFacts::default() };
    assert_eq!(super::judge(finding, &facts).unwrap().severity, Severity::Low);
}

#[test]
fn why_not_tells_what_a_connection_lacks() {
    let mut state = HostState::default();
    let detector = LongConnection::new(&default_rule("long_connection"));
    let part = Part {
        key: 7,
        peer: Some(outside()),
        port: 8022,
        start: EventTime::from_secs(0),
        end: EventTime::from_secs(86_400),
        out: 10,
        back: 90_000,
        whole: true,
        syn: true,
        gap_ns: 0,
        at: EventTime::from_secs(86_400),
        position: Position { input: 0, offset: 0, row: 0 },
    };
    state.file(&part, true);
    let about = |subject: Option<&'static str>| About { at: EventTime::from_secs(86_400), subject };
    let cases = detector.conditions(&state, &about(None)).unwrap();
    let [case] = cases.as_slice() else { panic!("{cases:?}") };
    assert_eq!((case.subject.as_str(), case.way), ("203.0.113.40 8022", "open"));
    let met: Vec<bool> = case.conditions.iter().map(Condition::met).collect();
    assert_eq!(met, [false, false, false, true], "{case:?}");
    assert_eq!(case.conditions[0].value, 86_400.0);
    assert_eq!(detector.conditions(&state, &about(Some("203.0.113.40"))).unwrap().len(), 1);
    assert!(detector.conditions(&state, &about(Some("198.51.100.1"))).unwrap().is_empty());
}
