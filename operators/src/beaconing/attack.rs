//! ATT&CK techniques of a beacon beyond the detector's own: what the rows of the slice that decided say of its protocol.
//!
//! Keeps nothing, so that the state need not know protocols: a pair is judged only in a slice that brought it a contact. Says
//! nothing that no row says: without a protocol only the port is left to go by.

use tidewatch_schemas::address::Address;

use super::key::PeerKey;
use super::pair::PairView;
use crate::operator::{Flow, Observation, Seen};

/// Ports at which TLS is usual, mail, directories, databases and remote desktops that begin it later included; sorted.
const TLS_PORTS: &[u16] = &[
    21, 25, 110, 143, 389, 443, 465, 563, 587, 636, 853, 989, 990, 992, 993, 994, 995, 1433, 2376, 3269, 3306, 3389, 5061, 5222,
    5223, 5228, 5349, 5432, 5671, 5986, 6443, 6697, 8443, 8883, 9443,
];

/// Ports at which HTTP is usual; sorted.
const HTTP_PORTS: &[u16] = &[80, 591, 631, 2375, 3128, 5985, 8000, 8008, 8080, 8081, 8088, 8888];

/// Usual services from 1024 on besides those; sorted.
const OTHER_PORTS: &[u16] =
    &[1080, 1194, 1521, 1701, 1723, 1883, 1935, 3478, 4500, 5060, 5672, 5900, 5938, 6379, 6667, 9418, 11_211, 27_017, 51_820];

/// What a row tells of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tls,
    Http,
    /// Through a proxy: HTTP, and the port is another's.
    Proxied,
    /// Another one that its source knows.
    Other,
}

/// By the newest row of the pair. Inside, ports are whatever people chose.
pub(super) fn techniques(view: PairView<'_>, rows: &[Seen<'_>]) -> Vec<&'static str> {
    let (key, internal) = (&view.pair.key, view.pair.internal);
    let protocol = rows.iter().rev().find_map(|row| protocol(key, view.addresses, row));
    let (PeerKey::Address { port, .. } | PeerKey::Name { port, .. } | PeerKey::Resolved { port, .. }) = key;
    let usual = |ports: &[u16]| ports.binary_search(port).is_ok();
    let (own, odd) = match protocol.flatten() {
        Some(Protocol::Tls) => (Some("T1573"), !usual(TLS_PORTS)),
        Some(Protocol::Http) => (Some("T1071.001"), !usual(HTTP_PORTS)),
        Some(Protocol::Proxied) => (Some("T1071.001"), false),
        Some(Protocol::Other) => (None, false),
        None => (None, *port >= 1024 && ![TLS_PORTS, HTTP_PORTS, OTHER_PORTS].into_iter().any(usual)),
    };
    own.into_iter().chain((odd && !internal).then_some("T1571")).collect()
}

/// `None` = the row is not of the pair; `Some(None)` = it is, and does not tell.
fn protocol(key: &PeerKey, addresses: &[Address], row: &Seen<'_>) -> Option<Option<Protocol>> {
    let service = |flow: &Flow<'_>| flow.row.service.filter(|service| !service.is_empty()).map(of_service);
    match (&row.what, key) {
        (Observation::Tls(tls), PeerKey::Name { name, port }) => {
            (tls.server_name == Some(&**name) && tls.destination_port == Some(*port)).then_some(Some(Protocol::Tls))
        }
        (Observation::Http(http), PeerKey::Name { name, port }) => {
            let asked = if http.via_proxy { http.host_port.or(http.destination_port) } else { http.destination_port };
            let protocol = if http.via_proxy { Protocol::Proxied } else { Protocol::Http };
            (http.host == Some(&**name) && asked == Some(*port)).then_some(Some(protocol))
        }
        (Observation::Flow(flow), PeerKey::Address { address, port, transport }) => {
            let is = flow.peer.address == Some(*address) && flow.peer_port == Some(*port) && flow.row.transport == *transport;
            is.then(|| service(flow))
        }
        (Observation::Flow(flow), PeerKey::Resolved { port, .. }) => {
            let is = flow.peer_port == Some(*port) && flow.peer.address.is_some_and(|address| addresses.contains(&address));
            is.then(|| service(flow))
        }
        _ => None,
    }
}

/// As the flow's source names it; Zeek joins several by commas.
fn of_service(service: &str) -> Protocol {
    let has = |names: &[&str]| service.split(',').any(|part| names.contains(&part));
    if has(&["ssl", "tls", "https", "quic", "dtls"]) {
        Protocol::Tls
    } else if has(&["http"]) {
        Protocol::Http
    } else {
        Protocol::Other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_sorted() {
        assert!([TLS_PORTS, HTTP_PORTS, OTHER_PORTS].into_iter().all(|ports| ports.is_sorted_by(|a, b| a < b)));
    }
}
