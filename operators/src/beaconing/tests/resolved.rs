//! Peers whose name only look-ups tell.

use tidewatch_schemas::observation::{DnsRow, Row};

use super::tenant::{calls, of, office, told};
use super::*;
use crate::conformance::{self, host};

fn look_up(at: f64, query: &'static str, answers: &[Address]) -> DnsRow<'static> {
    let texts: Vec<String> = answers.iter().map(Address::to_string).collect();
    let answers = Some(&**kept(texts.join(",")));
    DnsRow { event_time: time(at), query, query_type: 1, response_code: Some(0), answers, ..DnsRow::default() }
}

/// A look-up and half a second later a call, at one of so many addresses, thirty times.
fn rotating(query: &'static str, addresses: u8) -> Vec<Seen<'static>> {
    let call = |i: u8| {
        let (t, peer) = (T0 + 60.0 * f64::from(i), Address::v4([203, 0, 113, i % addresses]));
        let look_up = Observation::Dns(kept(look_up(t, query, &[peer])));
        [seen(look_up, t), seen(Observation::Flow(flow(t + 0.5, peer, 443)), t + 0.8)]
    };
    (0..30).flat_map(call).collect()
}

#[test]
fn a_name_that_only_look_ups_tell_is_one_peer_whatever_its_addresses() {
    let found = run(&rotating("c2.example", 30));
    assert!(!found.is_empty() && found.iter().all(|f| f.subject == "c2.example:443"), "{found:?}");
    let first = &found[0];
    assert_eq!((double(first, "interval_s"), &first.evidence["key"]), (60.0, &Value::Text("look-up".to_owned())));
    let destination = first.destination.clone().unwrap();
    assert_eq!((destination.ip, destination.domain.as_deref()), (None, Some("c2.example")));
    // Who else calls it is known by its addresses: the name is in no contact row.
    assert_eq!(first.contact.as_deref(), Some("203.0.113.0,203.0.113.1,203.0.113.2,203.0.113.3,203.0.113.4"));
}

#[test]
fn a_look_up_silences_no_address() {
    let found = run(&rotating("www.example.com", 1));
    assert!(!found.is_empty() && found.iter().all(|f| f.subject == "203.0.113.0:443/tcp"), "{found:?}");
    let mut subjects: Vec<String> = run(&rotating("www.example.com", 2)).into_iter().map(|f| f.subject).collect();
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects, ["203.0.113.0:443/tcp", "203.0.113.1:443/tcp", "www.example.com:443"]);
}

#[test]
fn a_handshake_says_better_than_a_look_up() {
    let mut rows = rotating("cdn.example", 30);
    for i in 0..30_u8 {
        let t = T0 + 60.0 * f64::from(i) + 0.6;
        let tls = TlsRow {
            start_time: Some(time(t)),
            destination_address: Some(Address::v4([203, 0, 113, i])),
            destination_port: Some(443),
            server_name: Some("c2.example"),
            ..TlsRow::default()
        };
        rows.push(seen(Observation::Tls(kept(tls)), t));
    }
    let found = run(&rows);
    assert!(!found.is_empty() && found.iter().all(|f| f.subject == "c2.example:443"), "{found:?}");
}

#[test]
fn what_look_ups_told_travels_and_a_host_that_only_looks_up_is_not_kept() {
    let rows = rotating("c2.example", 30);
    let (first, rest) = rows.split_at(30);
    let mut state = HostState::default();
    run_with(&rule(40, &[]), first, &mut state);
    let packed = postcard::to_stdvec(&state).unwrap();
    let mut again: HostState = postcard::from_bytes(&packed).unwrap();
    assert_eq!((&again, again.heap_bytes()), (&state, state.heap_bytes()));
    assert_eq!(again.resolved.as_ref().unwrap().names.len(), 15);
    let found = run_with(&rule(40, &[]), rest, &mut again);
    assert!(!found.is_empty() && found == run_with(&rule(40, &[]), rest, &mut state));
    assert!(again.expire(time(T0 + 10.0 * 86_400.0)) && again.heap_bytes() == 0);

    let mut bare = HostState::default();
    let look_ups: Vec<Seen<'_>> = rows.iter().filter(|row| matches!(row.what, Observation::Dns(_))).copied().collect();
    assert!(run_with(&rule(40, &[]), &look_ups, &mut bare).is_empty());
    assert_eq!((bare.heap_bytes(), bare.resolved.is_none()), (0, true));
}

#[test]
fn a_farm_that_everybody_polls_is_silent_though_only_look_ups_name_it() {
    let farm: Vec<Address> = (0..4).map(|n| Address::v4([198, 51, 100, n])).collect();
    let polling = |hosts: std::ops::RangeInclusive<u8>| {
        let mut rows = office();
        for n in hosts {
            let start_s = 60.0 + 20.0 * f64::from(n);
            rows.push(of(n, Row::Dns(look_up(T0 + start_s - 1.0, "update.example", &farm))));
            for k in 0..40_u8 {
                let t = T0 + start_s + 60.0 * f64::from(k);
                // Not in turn: no address alone is called in rhythm.
                let peer = farm[usize::from(k * k / 3 + k) % 4];
                rows.push(of(n, Row::Flow(conformance::flow(t, host(0, n), peer, 443, 500, 4000))));
            }
        }
        told(rows)
    };
    assert!(polling(1..=1).iter().any(|s| s.subject == "update.example:443" && s.severity == Severity::Medium));
    assert_eq!(polling(1..=20), vec![]);
    // And one address alone that a host calls on is told as ever.
    let mut rows = office();
    rows.extend(calls(1, farm[0], 60.0, 60.0, 20));
    assert!(told(rows).iter().all(|s| s.subject == "198.51.100.0:443/tcp"));
}
