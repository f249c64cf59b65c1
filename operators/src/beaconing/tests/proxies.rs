//! Who is a proxy: one inside is never a peer, and no request makes a server outside one.

use tidewatch_schemas::address::AddressClass;

use super::*;

/// What is asked of an address, as a proxy is asked.
fn asked(at: f64, address: Address, port: u16, host: &'static str, host_port: u16) -> Seen<'static> {
    let http = HttpRow {
        start_time: Some(time(at)),
        destination_address: Some(address),
        destination_port: Some(port),
        host: Some(host),
        host_port: Some(host_port),
        via_proxy: true,
        ..HttpRow::default()
    };
    seen(Observation::Http(kept(http)), at)
}

fn handshake(at: f64, address: Address, port: u16, name: &'static str) -> Seen<'static> {
    let tls = TlsRow {
        start_time: Some(time(at)),
        destination_address: Some(address),
        destination_port: Some(port),
        server_name: Some(name),
        ..TlsRow::default()
    };
    seen(Observation::Tls(kept(tls)), at)
}

fn subjects(rows: &[Seen<'_>]) -> Vec<String> {
    let mut found: Vec<String> = run(rows).into_iter().map(|f| f.subject).collect();
    found.sort();
    found.dedup();
    found
}

fn times() -> impl Iterator<Item = f64> {
    (0..30).map(|i| T0 + 60.0 * f64::from(i))
}

#[test]
fn one_request_does_not_make_a_server_outside_a_proxy() {
    let request = asked(T0, PEER, 443, "x", 80);
    let mut rows = vec![request];
    rows.extend(contacts(times()));
    assert_eq!(subjects(&rows), ["203.0.113.66:443/tcp"]);
    let mut rows = vec![request];
    for t in times() {
        rows.extend([contact(t), handshake(t + 0.05, PEER, 443, "c2.example")]);
    }
    assert_eq!(subjects(&rows), ["c2.example:443"]);
    // Nor do requests at every call, whatever they name.
    let rows: Vec<Seen<'_>> = times().flat_map(|t| [contact(t), asked(t + 0.05, PEER, 443, "everybodys.example", 80)]).collect();
    assert_eq!(subjects(&rows), ["203.0.113.66:443/tcp", "everybodys.example:80"]);
}

#[test]
fn through_a_proxy_outside_the_name_is_one_peer_and_the_proxy_another() {
    let port = 8080;
    let rows: Vec<Seen<'_>> = times()
        .flat_map(|t| {
            let tunnel = seen(Observation::Flow(flow(t, PEER, port)), t + 0.3);
            [tunnel, asked(t + 0.02, PEER, port, "c2.example", 443), handshake(t + 0.05, PEER, port, "c2.example")]
        })
        .collect();
    assert_eq!(subjects(&rows), ["203.0.113.66:8080/tcp", "c2.example:443"]);
}

#[test]
fn a_proxy_in_a_range_that_the_operator_lists_as_inside_is_no_peer() {
    let port = 8080;
    let rows: Vec<Seen<'_>> = times()
        .flat_map(|t| {
            let mut tunnel = flow(t, PEER, port);
            tunnel.peer.class = AddressClass::Internal.as_u8();
            [seen(Observation::Flow(tunnel), t + 0.3), asked(t + 0.02, PEER, port, "c2.example", 443)]
        })
        .collect();
    assert_eq!(subjects(&rows), ["c2.example:443"]);
}
