//! Tests of the detector through its operator, without a runtime.
#![allow(clippy::unwrap_used)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::{FlowRow, HttpRow, TlsRow};
use tidewatch_schemas::time::SECOND_NS;

use super::evidence::stream::Stream;
use super::state::PAIRS_MAX;
use super::*;
use crate::key::Host;
use crate::operator::{Footprint, Peer, Position, TenantFacts};

mod proxies;
mod resolved;
mod tenant;

/// 2026-06-04T12:00:00Z.
const T0: f64 = 1_780_574_400.0;
const PEER: Address = Address::v4([203, 0, 113, 66]);
const PROXY: Address = Address::v4([10, 0, 0, 16]);

fn rule(base_confidence: u8, thresholds: &[(&str, f64)]) -> Rule {
    let mut rule = Rule {
        id: "r".into(),
        version: 1,
        kind: "beaconing".into(),
        name: String::new(),
        description: String::new(),
        severity: Severity::Medium,
        base_confidence,
        suppress_ns: 0,
        enabled: true,
        thresholds: DETECTOR.thresholds.iter().map(|t| (t.name.to_owned(), t.default)).collect(),
        lists: DETECTOR.lists.iter().map(|l| (l.name.to_owned(), l.default.iter().map(|s| (*s).to_owned()).collect())).collect(),
        ..Rule::default()
    };
    rule.thresholds.extend(thresholds.iter().map(|(n, v)| ((*n).to_owned(), *v)));
    rule
}

fn time(seconds: f64) -> EventTime {
    EventTime((seconds * 1e3).round() as i64 * 1_000_000)
}

fn seen(what: Observation<'_>, at: f64) -> Seen<'_> {
    Seen { what, at: time(at), position: Position { input: 0, offset: at as i64, row: 0 } }
}

/// A row that outlives the test.
fn kept<T>(row: T) -> &'static T {
    Box::leak(Box::new(row))
}

/// A flow that began at `start`; its row's time says how long it lasted.
fn flow(start: f64, peer: Address, port: u16) -> Flow<'static> {
    Flow {
        row: kept(FlowRow { transport: TCP, sampling_rate: 1, ..FlowRow::default() }),
        opens: true,
        initiator: Initiator::Host,
        peer: Peer { address: Some(peer), name: None, class: 0 },
        host_port: Some(50_000),
        peer_port: Some(port),
        start: time(start),
        bytes_out: Some(512),
        bytes_in: None,
        failed: false,
    }
}

fn contact(start: f64) -> Seen<'static> {
    seen(Observation::Flow(flow(start, PEER, 443)), start)
}

/// Rows through slices of 10 s.
fn run_with(rule: &Rule, rows: &[Seen<'_>], state: &mut HostState) -> Vec<Finding> {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|r| r.at);
    let operator = Beaconing::new(rule);
    let key = HostKey { tenant: "t1".into(), host: Host::Address(Address::v4([10, 0, 0, 5])) };
    let mut out = Vec::new();
    let number = |r: &Seen<'_>| r.at.0.div_euclid(10 * SECOND_NS);
    for rows in rows.chunk_by(|a, b| number(a) == number(b)) {
        let start = EventTime(number(&rows[0]) * 10 * SECOND_NS);
        out.extend(operator.slice(rule, &key, Slice { start, end: start.plus(10 * SECOND_NS) }, rows, state));
    }
    out
}

fn run(rows: &[Seen<'_>]) -> Vec<Finding> {
    run_with(&rule(40, &[]), rows, &mut HostState::default())
}

fn contacts(times: impl IntoIterator<Item = f64>) -> Vec<Seen<'static>> {
    times.into_iter().map(contact).collect()
}

fn sleeping(seed: u64, n: usize, period_s: f64, jitter: f64) -> Vec<Seen<'static>> {
    let mut stream = Stream::new(seed);
    let mut at = T0;
    contacts((0..n).map(|_| {
        at += period_s * (1.0 - jitter * stream.next());
        at
    }))
}

fn long(finding: &Finding, name: &str) -> i64 {
    match finding.evidence[name] {
        Value::Long(v) => v,
        _ => unreachable!("{name} is no whole number"),
    }
}

fn double(finding: &Finding, name: &str) -> f64 {
    match finding.evidence[name] {
        Value::Double(v) => v,
        _ => unreachable!("{name} is no number"),
    }
}

#[test]
fn twelve_calls_every_thirty_seconds_are_found_at_the_ninth() {
    let rows = contacts((0..12).map(|i| T0 + 30.0 * f64::from(i)));
    let found = run(&rows);
    let first = &found[0];
    assert_eq!(first.decided_at, time(T0 + 240.0));
    assert_eq!((double(first, "interval_s"), double(first, "jitter"), long(first, "samples")), (30.0, 0.0, 8));
    assert!(found.iter().all(|f| f.confidence >= 65 && f.severity == Severity::Medium), "{found:?}");
    assert_eq!((first.subject.as_str(), first.contact.as_deref()), ("203.0.113.66:443/tcp", Some("203.0.113.66")));
    assert!(
        first.why.starts_with("10.0.0.5 called 203.0.113.66:443/tcp 9 times in 4 min, every 30 s, jitter 0 %"),
        "{}",
        first.why
    );
    // In a tenant of one host its share says nothing.
    let facts = TenantFacts { hosts: 1, knowing: 1, ..TenantFacts::default() };
    assert!(judge::judge(first.clone(), &facts).unwrap().confidence >= 65);
}

#[test]
fn irregular_calls_are_not_found() {
    let mut at = T0;
    let gaps = [5.0, 180.0, 11.0, 2400.0, 90.0, 7.0, 1500.0, 2.0, 840.0, 33.0, 2880.0, 6.0];
    let rows = contacts(std::iter::once(T0).chain(gaps.map(|g| {
        at += g;
        at
    })));
    assert_eq!(run(&rows), vec![]);
}

#[test]
fn a_stricter_rule_is_kept() {
    let strict = rule(45, &[("min_samples", 12.0), ("max_jitter", 0.08), ("min_interval_s", 10.0), ("max_interval_s", 3600.0)]);
    let rows = contacts((0..14).map(|i| T0 + 30.0 * f64::from(i)));
    assert_eq!(run_with(&strict, &rows[..12], &mut HostState::default()), vec![]);
    let found = run_with(&strict, &rows, &mut HostState::default());
    assert_eq!(found[0].decided_at, time(T0 + 360.0));
    assert!(found[0].confidence >= 70);
    assert_eq!(run_with(&strict, &sleeping(1, 60, 60.0, 0.5), &mut HostState::default()), vec![]);
}

#[test]
fn lost_calls_do_not_hide_it() {
    for (n, lost) in [(9, 4), (32, 15)] {
        let rows = contacts((0..=n).filter(|i| *i != lost).map(|i| T0 + 60.0 * f64::from(i)));
        let found = run(&rows);
        let last = found.last().unwrap();
        assert_eq!((double(last, "jitter"), long(last, "missed")), (0.0, 1));
    }
}

#[test]
fn half_jitter_is_found_within_thirty_calls() {
    let missed = (1..=40).filter(|seed| run(&sleeping(*seed, 30, 300.0, 0.5)).is_empty()).count();
    assert!(missed <= 2, "{missed} of 40");
}

/// Sleeps of `period * (1 ± 0.5)` of which a fifth is lost; `sizes` gives the octets of each contact.
fn both_ways(seed: u64, n: usize, sizes: impl Fn(&mut Stream) -> u64) -> Vec<Seen<'static>> {
    let (mut stream, mut at, mut rows) = (Stream::new(seed), T0, Vec::new());
    while rows.len() < n {
        at += 300.0 * (0.5 + stream.next());
        if stream.next() >= 0.2 {
            let bytes_out = Some(sizes(&mut stream));
            rows.push(seen(Observation::Flow(Flow { bytes_out, ..flow(at, PEER, 443) }), at + 0.3));
        }
    }
    rows
}

#[test]
fn half_jitter_both_ways_and_losses_are_found_within_thirty_calls_where_sizes_are_alike() {
    let found =
        |sizes: fn(&mut Stream) -> u64| (0..60).filter(|seed| !run(&both_ways(seed * 31 + 5, 30, sizes)).is_empty()).count();
    let (alike, half, any) =
        (found(|_| 512), found(|s| (600.0 * (0.5 + s.next())) as u64), found(|s| libm::exp(14.0 * s.next()) as u64));
    assert!(alike >= 40 && half >= 38, "{alike} and {half} of 60");
    // What sends now this, now that has to weigh as much as ever.
    assert!(any <= 25, "{any} of 60");
}

#[test]
fn memoryless_talkers_are_silent() {
    let loud = (1..=100)
        .filter(|seed| {
            let mut stream = Stream::new(*seed);
            let mut at = T0;
            let rows = contacts((0..200).map(|_| {
                at -= 60.0 * libm::log(stream.next());
                at
            }));
            !run(&rows).is_empty()
        })
        .count();
    assert!(loud <= 1, "{loud} of 100");
}

#[test]
fn quiet_services_and_answers_are_silent() {
    let times = (0..40).map(|i| T0 + 64.0 * f64::from(i));
    let ntp: Vec<Seen<'_>> = times
        .clone()
        .map(|t| {
            let mut f = flow(t, PEER, 123);
            f.row = kept(FlowRow { transport: UDP, ..*f.row });
            seen(Observation::Flow(f), t)
        })
        .collect();
    assert_eq!(run(&ntp), vec![]);
    let answers: Vec<Seen<'_>> =
        times.clone().map(|t| seen(Observation::Flow(Flow { initiator: Initiator::Peer, ..flow(t, PEER, 443) }), t)).collect();
    assert_eq!(run(&answers), vec![]);
    let pieces: Vec<Seen<'_>> = times
        .clone()
        .map(|t| {
            let mut f = flow(t, PEER, 443);
            f.row = kept(FlowRow { tcp_flags: Some(0x18), ..*f.row });
            seen(Observation::Flow(f), t)
        })
        .collect();
    assert_eq!(run(&pieces), vec![]);
    let multicast: Vec<Seen<'_>> =
        times.map(|t| seen(Observation::Flow(flow(t, Address::v4([239, 1, 2, 3]), 5000)), t)).collect();
    assert_eq!(run(&multicast), vec![]);
}

#[test]
fn inside_is_context_and_failures_count() {
    let times = || (0..20).map(|i| T0 + 60.0 * f64::from(i));
    let inside: Vec<Seen<'_>> = times().map(|t| seen(Observation::Flow(flow(t, Address::v4([10, 0, 0, 9]), 8080)), t)).collect();
    let found = run(&inside);
    assert!(!found.is_empty() && found.iter().all(|f| f.severity == Severity::Low && f.confidence < 65));
    let refused: Vec<Seen<'_>> =
        times().map(|t| seen(Observation::Flow(Flow { failed: true, ..flow(t, PEER, 443) }), t)).collect();
    let found = run(&refused);
    assert_eq!(double(found.last().unwrap(), "failed_ratio"), 1.0);
    assert!(found.last().unwrap().why.ends_with("mostly failing"));
}

#[test]
fn order_of_arrival_does_not_matter() {
    // Flows are known when they end: long ones come after later, short ones.
    let mut stream = Stream::new(5);
    let rows: Vec<Seen<'_>> =
        sleeping(9, 40, 60.0, 0.3).iter().map(|r| Seen { at: r.at.plus((400.0 * stream.next() * 1e9) as i64), ..*r }).collect();
    let mut late = HostState::default();
    run_with(&rule(40, &[]), &rows, &mut late);
    let mut prompt = HostState::default();
    run_with(&rule(40, &[]), &sleeping(9, 40, 60.0, 0.3), &mut prompt);
    let starts = |s: &HostState| (0..s.pairs.len()).flat_map(|at| s.view(at).collapsed()).map(|c| c.start()).collect::<Vec<_>>();
    assert_eq!(starts(&late), starts(&prompt));
}

#[test]
fn a_proxy_is_never_the_peer() {
    let mut rows = Vec::new();
    for i in 0..20 {
        let t = T0 + 250.0 * f64::from(i);
        rows.push(seen(Observation::Flow(flow(t, PROXY, 3128)), t + 0.1));
        let http = HttpRow {
            start_time: Some(time(t + 0.002)),
            destination_address: Some(PROXY),
            destination_port: Some(3128),
            host: Some("c2.example"),
            host_port: Some(443),
            via_proxy: true,
            ..HttpRow::default()
        };
        rows.push(seen(Observation::Http(kept(http)), t + 0.002));
    }
    let found = run(&rows);
    assert!(!found.is_empty() && found.iter().all(|f| f.subject == "c2.example:443"), "{found:?}");
    let destination = found[0].destination.clone().unwrap();
    assert_eq!((destination.ip, destination.domain.as_deref(), destination.port), (None, Some("c2.example"), Some(443)));
    assert_eq!(long(&found[0], "bytes_median"), 512);
}

#[test]
fn a_name_and_its_addresses_are_one_peer() {
    let mut rows = Vec::new();
    for i in 0..30 {
        let t = T0 + 60.0 * f64::from(i);
        // Three addresses behind one name, and a server that refuses now and then.
        let peer = Address::v4([203, 0, 113, (i % 3) as u8]);
        let failed = i % 7 == 6;
        rows.push(seen(Observation::Flow(Flow { failed, ..flow(t, peer, 443) }), t + 0.5));
        if !failed {
            let tls = TlsRow {
                start_time: Some(time(t + 0.05)),
                destination_address: Some(peer),
                destination_port: Some(443),
                server_name: Some("c2.example"),
                ..TlsRow::default()
            };
            rows.push(seen(Observation::Tls(kept(tls)), t + 0.05));
        }
    }
    let found = run(&rows);
    assert!(found.iter().all(|f| f.subject == "c2.example:443"), "{found:?}");
    assert_eq!(long(found.last().unwrap(), "missed"), 0);
    assert_eq!(found.last().unwrap().severity, Severity::Medium);
}

#[test]
fn timers_with_kept_connections_are_context() {
    let rows: Vec<Seen<'_>> = (0..20)
        .map(|i| {
            let t = T0 + 900.0 * f64::from(i);
            seen(Observation::Flow(flow(t, PEER, 443)), t + 60.0)
        })
        .collect();
    let found = run(&rows);
    assert!(!found.is_empty() && found.iter().all(|f| f.severity == Severity::Low));
}

#[test]
fn what_is_not_called_any_more_is_forgotten() {
    let rule = rule(40, &[]);
    let mut state = HostState::default();
    run_with(&rule, &contacts([T0, T0 + 90_000.0]), &mut state);
    state.contact(
        &PeerKey::named("c2.example", 443).unwrap(),
        Contact::new(time(T0), Position { input: 0, offset: 0, row: 0 }),
        time(T0),
        false,
        Some(PEER),
        &mut Noted::new(),
    );
    assert!(!state.expire(time(T0 + 4.5 * 86_400.0)));
    assert_eq!(state.pairs.len(), 1);
    assert!(state.expire(state.next_expiry().unwrap().plus(1)));
    assert_eq!(state.heap_bytes(), 0);
}

#[test]
fn uploads_on_a_timer_are_not_beacons() {
    let rows: Vec<Seen<'_>> = (0..15)
        .map(|i| {
            let t = T0 + 60.0 * f64::from(i);
            seen(Observation::Flow(Flow { bytes_out: Some(1 << 20), ..flow(t, PEER, 443) }), t)
        })
        .collect();
    assert_eq!(run(&rows), vec![]);
}

#[test]
fn a_scan_stays_small_and_does_not_push_the_beacon_out() {
    let mut rows = Vec::new();
    for i in 0..100_000_u32 {
        let [_, b, c, d] = i.to_be_bytes();
        let t = T0 + 0.01 * f64::from(i);
        rows.push(seen(Observation::Flow(flow(t, Address::v4([45, b, c, d]), 445)), t));
    }
    rows.extend(contacts((0..33).map(|i| T0 + 30.0 * f64::from(i))));
    let mut state = HostState::default();
    let found = run_with(&rule(40, &[]), &rows, &mut state);
    assert!(found.iter().any(|f| f.subject == "203.0.113.66:443/tcp"));
    assert!(state.pairs.len() <= PAIRS_MAX);
    assert!(state.evicted >= 95_000);
    assert!(state.heap_bytes() < 2_000_000, "{}", state.heap_bytes());
    let packed = postcard::to_stdvec(&state).unwrap();
    assert_eq!(postcard::from_bytes::<HostState>(&packed).unwrap(), state);
}

#[test]
fn more_contacts_and_less_jitter_rank_higher() {
    let last = |rows: &[Seen<'_>]| run(rows).last().unwrap().confidence;
    assert!(last(&sleeping(2, 101, 60.0, 0.05)) >= 85);
    assert!(last(&sleeping(2, 100, 60.0, 0.2)) > last(&sleeping(2, 20, 60.0, 0.2)));
    assert!(last(&sleeping(2, 24, 60.0, 0.05)) > last(&sleeping(2, 24, 60.0, 0.5)));
}

#[test]
fn what_everybody_talks_to_is_no_beacon() {
    let found = run(&contacts((0..12).map(|i| T0 + 30.0 * f64::from(i)))).remove(0);
    let facts = |hosts, knowing| TenantFacts { hosts, knowing, ..TenantFacts::default() };
    assert_eq!(judge::judge(found.clone(), &facts(100, 60)), None);
    let rare = judge::judge(found.clone(), &facts(412, 1)).unwrap();
    assert!(rare.confidence > found.confidence && rare.why.ends_with("; 1 of 412 hosts talks to it"));
    assert_eq!(rare.evidence["prevalence"], Value::Double(0.0024));
    assert!(judge::judge(found.clone(), &facts(100, 20)).unwrap().confidence < found.confidence);
    assert_eq!(judge::judge(found.clone(), &facts(3, 3)).unwrap().confidence, found.confidence);
    let mut failing = found;
    failing.evidence.insert("failed_ratio".into(), Value::Double(1.0));
    assert!(judge::judge(failing, &facts(100, 60)).is_some());
}

/// Of a beacon once a minute to a port, each contact as these rows say.
fn attack(port: u16, rows: impl Fn(f64) -> Vec<Seen<'static>>) -> Vec<String> {
    let times = (0..20).map(|n| T0 + 60.0 * f64::from(n));
    let found = run(&times.flat_map(rows).collect::<Vec<_>>());
    let f = found.first().unwrap();
    assert_eq!(f.destination.as_ref().and_then(|d| d.port), Some(port));
    f.attack.clone()
}

#[test]
fn the_rows_that_decide_say_by_which_protocol_it_calls() {
    let called = |port: u16, service: Option<&'static str>| {
        attack(port, |at| {
            let row = FlowRow { transport: TCP, sampling_rate: 1, service, ..FlowRow::default() };
            vec![seen(Observation::Flow(Flow { row: kept(row), ..flow(at, PEER, port) }), at)]
        })
    };
    assert_eq!(called(443, None), ["T1071"]);
    assert_eq!(called(4444, None), ["T1071", "T1571"]);
    assert_eq!(called(443, Some("ssl")), ["T1071", "T1573"]);
    assert_eq!(called(4444, Some("gssapi,ssl")), ["T1071", "T1571", "T1573"]);
    assert_eq!(called(8080, Some("http")), ["T1071", "T1071.001"]);
    assert_eq!(called(443, Some("http")), ["T1071", "T1071.001", "T1571"]);
    assert_eq!(called(2222, Some("ssh")), ["T1071"]);
    let by_tls = |port: u16| {
        attack(port, |at| {
            let start_time = Some(time(at));
            let server_name = Some("cdn.example");
            let row = TlsRow {
                start_time,
                server_name,
                destination_address: Some(PEER),
                destination_port: Some(port),
                ..TlsRow::default()
            };
            vec![seen(Observation::Tls(kept(row)), at), seen(Observation::Flow(flow(at, PEER, port)), at + 1.0)]
        })
    };
    assert_eq!(
        (by_tls(443), by_tls(4444)),
        (vec!["T1071".to_owned(), "T1573".into()], vec!["T1071".into(), "T1571".into(), "T1573".into()])
    );
    let asked = attack(80, |at| {
        let (start_time, host) = (Some(time(at)), Some("cdn.example"));
        let row = HttpRow { start_time, host, destination_address: Some(PEER), destination_port: Some(80), ..HttpRow::default() };
        vec![seen(Observation::Http(kept(row)), at), seen(Observation::Flow(flow(at, PEER, 80)), at + 1.0)]
    });
    assert_eq!(asked, ["T1071", "T1071.001"]);
}
