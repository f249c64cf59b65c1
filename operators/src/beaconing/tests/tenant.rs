//! What becomes of beacons in the view of a tenant of thirty hosts: rows through detection and correlation, slice by slice.

use std::collections::BTreeMap;

use tidewatch_schemas::observation::{ResultRow, Row};

use super::*;
use crate::conformance::{flow, host};
use crate::correlate::Correlation;
use crate::detection::{Detection, SliceOutput, SliceRow};

/// Hosts of the tenant.
const HOSTS: u8 = 30;
const OUTSIDE: Address = Address::v4([198, 51, 100, 66]);

static DETECTORS: &[&Detector] = &[&DETECTOR];

/// A row of a host, under its key.
type HostRow = (HostKey, Row<'static>);

pub(super) fn of(n: u8, row: Row<'static>) -> HostRow {
    (HostKey { tenant: "t".into(), host: Host::Address(host(0, n)) }, row)
}

/// Calls of host `n` to a server outside, from `start_s` after T0 on.
pub(super) fn calls(n: u8, peer: Address, start_s: f64, every_s: f64, count: u32) -> Vec<HostRow> {
    let call = |k: u32| of(n, Row::Flow(flow(T0 + start_s + every_s * f64::from(k), host(0, n), peer, 443, 500, 4000)));
    (0..count).map(call).collect()
}

/// Every host is there, each with a server of its own.
pub(super) fn office() -> Vec<HostRow> {
    (1..=HOSTS).flat_map(|n| calls(n, Address::v4([203, 0, 113, n]), 0.0, 1.0, 1)).collect()
}

/// Signals of the default detector, by host.
pub(super) fn told(rows: Vec<HostRow>) -> Vec<Finding> {
    let mut detection = Detection::with(&[rule(40, &[])], DETECTORS);
    detection.input("flows", 0);
    let mut correlation = Correlation::with(DETECTORS);
    let mut slices: BTreeMap<i64, BTreeMap<HostKey, Vec<SliceRow<'_>>>> = BTreeMap::new();
    for (n, (key, row)) in rows.into_iter().enumerate() {
        let at = row.event_time();
        let position = Position { input: 0, offset: n as i64, row: 0 };
        let row = SliceRow { at, row, position, primary: true, passes: u64::MAX };
        slices.entry(at.0.div_euclid(10 * SECOND_NS)).or_default().entry(key).or_default().push(row);
    }
    let mut signals = Vec::new();
    for (number, hosts) in slices {
        let start = EventTime(number * 10 * SECOND_NS);
        let slice = Slice { start, end: start.plus(10 * SECOND_NS) };
        let mut out = SliceOutput::default();
        for (key, mut rows) in hosts {
            rows.sort_by(|a, b| a.order(b, &[]));
            detection.host(&key, key.route(), slice, &rows, &mut out);
        }
        detection.end(slice, &|_| true, &mut out);
        signals.extend(correlation.slice("t", slice, out.contacts, out.findings));
    }
    signals
}

#[test]
fn two_or_three_hosts_with_one_beacon_are_told_within_thirty_contacts() {
    for infected in [2_u8, 3] {
        for apart_s in [7.0, 200.0] {
            let start_s = |n: u8| 60.0 + apart_s * f64::from(n);
            // Of forty hosts: what every tenth calls is low.
            let mut rows = office();
            rows.extend((31..=40).flat_map(|n| calls(n, Address::v4([203, 0, 113, n]), 0.0, 1.0, 1)));
            rows.extend((1..=infected).flat_map(|n| calls(n, OUTSIDE, start_s(n), 60.0, 50)));
            let signals = told(rows);
            for n in 1..=infected {
                let first = signals.iter().find(|s| s.entity.id == host(0, n).to_string()).expect("it is told");
                assert_eq!(first.severity, Severity::Medium);
                let contacts = first.decided_at.since(time(T0 + start_s(n))) / (60 * SECOND_NS) + 1;
                assert!(contacts <= 30, "host {n} of {infected}, {apart_s} s apart: {contacts} contacts");
            }
        }
    }
}

#[test]
fn a_new_update_server_that_twenty_of_thirty_hosts_take_up_in_its_first_hour_is_silent() {
    for (every_s, apart_s) in [(60.0, 5.0), (60.0, 170.0), (300.0, 170.0)] {
        let mut rows = office();
        rows.extend((1..=20).flat_map(|n| calls(n, OUTSIDE, 60.0 + apart_s * f64::from(n), every_s, 120)));
        let signals = told(rows);
        assert!(signals.is_empty(), "every {every_s} s, {apart_s} s apart: {:?}", signals[0]);
    }
}

/// Results of our own test of a target, every minute, by an agent; and that agent's connections.
fn probing(agent: &'static str, n: u8, canary_type: &'static str, server: &'static str) -> Vec<HostRow> {
    let mut rows = calls(n, OUTSIDE, 60.0, 60.0, 40);
    let key = HostKey { tenant: "t".into(), host: Host::Name(agent.into()) };
    rows.extend((0..40).map(|k| {
        let event_time = time(T0 + 60.5 + 60.0 * f64::from(k));
        let result = ResultRow { event_time, observer: Some(agent), canary_type, server, success: true, ..ResultRow::default() };
        (key.clone(), Row::Result(result))
    }));
    rows
}

#[test]
fn our_own_probes_are_context() {
    for rows in [office(), Vec::new()] {
        let signals = told([rows, probing("agent-1", 1, "http", "https://198.51.100.66/health")].concat());
        assert!(!signals.is_empty() && signals.iter().all(|s| s.severity == Severity::Low), "{signals:?}");
        assert_eq!(signals[0].evidence["ordinary"], Value::Text("own probe".to_owned()));
    }
}

#[test]
fn only_results_of_our_agents_make_a_target_ours() {
    // Another target; and what a browser reports.
    for rows in [probing("agent-1", 1, "http", "198.51.100.67"), probing("agent-1", 1, "rum", "198.51.100.66")] {
        assert!(told([office(), rows].concat()).iter().any(|s| s.severity == Severity::Medium));
    }
    // A host asks for a name that reads like a target.
    let mut rows = [office(), calls(1, OUTSIDE, 60.0, 60.0, 40)].concat();
    for at in [T0 + 5.0, T0 + 50.0] {
        let tls = TlsRow {
            event_time: time(at),
            start_time: Some(time(at)),
            destination_address: Some(Address::v4([203, 0, 113, 200])),
            destination_port: Some(443),
            server_name: Some("probe:198.51.100.66"),
            ..TlsRow::default()
        };
        rows.push(of(1, Row::Tls(tls)));
    }
    assert!(told(rows).iter().any(|s| s.severity == Severity::Medium));
}

#[test]
fn new_peers_wait_until_it_is_known_how_many_will_call() {
    let found = run(&contacts((0..40).map(|i| T0 + 60.0 * f64::from(i)))).pop().unwrap();
    let minutes_ago = |minutes: i64| Some(found.decided_at.minus(minutes * 60 * SECOND_NS));
    let severity = |hosts: u64, knowing: u64, known: i64, joined: i64| {
        let (known_since, joined_at) = (minutes_ago(known), minutes_ago(joined));
        let facts = TenantFacts { hosts, knowing, known_since, joined_at, ..TenantFacts::default() };
        judge::judge(found.clone(), &facts).map(|f| f.severity)
    };
    // Few: until nobody has joined for ten minutes.
    assert_eq!((severity(40, 3, 39, 9), severity(40, 3, 39, 11)), (None, Some(Severity::Medium)));
    assert_eq!((severity(400, 20, 39, 9), severity(400, 20, 39, 11)), (None, Some(Severity::Medium)));
    // More: an hour. A lone host: not at all.
    assert_eq!((severity(30, 4, 39, 11), severity(400, 21, 59, 30)), (None, None));
    assert_eq!((severity(30, 4, 61, 11), severity(400, 21, 61, 1)), (Some(Severity::Low), Some(Severity::Medium)));
    assert_eq!(severity(30, 1, 1, 1), Some(Severity::Medium));
}
