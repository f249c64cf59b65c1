//! Browsing: one page with what it draws in. Think times have a heavy tail, pages come in sessions, and a page is a dozen
//! connections to the site and to the content networks that everybody uses.

use tidewatch_schemas::address::Address;
use tidewatch_schemas::time::EventTime;

use crate::event::{Answer, HttpEvent, Outcome, QueryKind, Transport};
use crate::habit::{Client, tcp};
use crate::queue::{Call, Out};
use crate::random::mix;
use crate::world::{self, SITES, Server};

/// Sites a person comes back to.
const FAVOURITES: u64 = 12;

/// Opens one page; seconds until the next.
pub(crate) fn page(client: &Client, out: &mut Out<'_>, at_ns: i64) -> f64 {
    match out.random.unit() {
        p if p < 0.08 => own_page(client, out, at_ns, Server::Intranet, "intranet.corp.example"),
        p if p < 0.12 => own_page(client, out, at_ns, Server::Web, "www.corp.example"),
        _ => outside_page(client, out, at_ns),
    }
    if out.random.chance(0.1) { out.random.exponential(1_200.0) } else { out.random.pareto(3.0, 1.3, 900.0) }
}

/// A page of the office's own servers: one connection, never through the proxy.
fn own_page(client: &Client, out: &mut Out<'_>, at_ns: i64, which: Server, name: &str) {
    let to = world::server(out.office, which);
    let received = out.random.log_normal(30_000.0, 1.0) as u64;
    let lasts_s = out.random.log_normal(1.0, 0.8).min(120.0);
    let connection = out.call(Call { lasts_s, sent: 1_500, received, ..tcp(at_ns, client.address, to, 443, "ssl") });
    out.tls(connection, at_ns, name);
}

fn outside_page(client: &Client, out: &mut Out<'_>, at_ns: i64) {
    let site = if out.random.chance(0.6) {
        let favourite = mix(&[out.seed, 51, u64::from(out.tenant), u64::from(client.index), out.random.below(FAVOURITES)]);
        // The square makes popular sites likelier favourites.
        let share = (favourite >> 40) as f64 / (1_u64 << 24) as f64;
        (share * share * SITES as f64) as u64
    } else {
        out.random.rank(SITES)
    };
    let name = world::site_name(site);
    let address = world::site_address(out.seed, site, &mut out.random);
    let received = out.random.log_normal(45_000.0, 1.1) as u64;
    // Now and then someone sends a form, a picture, an attachment.
    let sent = if out.random.chance(0.03) { out.random.log_normal(600_000.0, 1.1).min(2e7) } else { 1_800.0 } as u64;
    let mut at_ns = fetch(client, out, at_ns, &name, address, sent, received);
    for _ in 0..out.random.below(6) {
        at_ns += (out.random.exponential(0.12) * 1e9) as i64;
        let (name, address) = world::part(out.seed, site, &mut out.random);
        let received = out.random.log_normal(18_000.0, 1.4) as u64;
        fetch(client, out, at_ns, &name, address, 1_100, received);
    }
}

/// One fetch: look-up, connection, what is said in it. The moment the connection began.
fn fetch(client: &Client, out: &mut Out<'_>, at_ns: i64, name: &str, address: Address, sent: u64, received: u64) -> i64 {
    let from = client.address;
    let lasts_s = out.random.log_normal(2.5, 1.3).min(600.0);
    if client.proxied {
        // The proxy looks the name up.
        let call = Call { lasts_s, sent, received, ..tcp(at_ns, from, address, 443, "ssl") };
        out.proxied(call, name);
        return at_ns;
    }
    let mut at_ns = at_ns;
    if out.random.chance(0.45) {
        if out.random.chance(0.02) {
            // A slip of the finger.
            let typed = name.replacen('e', "w", 1);
            out.lookup(at_ns, from, &typed, QueryKind::A, Answer::NoName);
        }
        if out.random.chance(0.3) {
            out.lookup(at_ns, from, name, QueryKind::Aaaa, Answer::Empty);
        }
        at_ns = out.lookup(at_ns, from, name, QueryKind::A, Answer::Address(address)) + 1_000_000;
    }
    let outcome = match out.random.unit() {
        p if p < 0.008 => Outcome::NoReply,
        p if p < 0.012 => Outcome::Refused,
        p if p < 0.03 => Outcome::Reset,
        _ => Outcome::Complete,
    };
    let established = matches!(outcome, Outcome::Complete | Outcome::Reset);
    let call = Call { lasts_s, sent, received, outcome, ..tcp(at_ns, from, address, 443, "ssl") };
    match out.random.unit() {
        p if p < 0.2 && established => {
            out.call(Call { transport: Transport::Udp, service: "quic", outcome: Outcome::Complete, ..call });
        }
        p if p < 0.24 => {
            let connection = out.call(Call { port: 80, service: if established { "http" } else { "" }, ..call });
            if established {
                let http = HttpEvent {
                    connection,
                    start: EventTime(at_ns + 20_000_000),
                    at: EventTime(0),
                    method: if sent > 10_000 { "POST" } else { "GET" },
                    host: name.to_owned(),
                    uri: format!("/{:x}", mix(&[received]) & 0xffff),
                    status: if out.random.chance(0.04) { 404 } else { 200 },
                    bytes_sent: if sent > 10_000 { sent } else { 0 },
                    bytes_received: received,
                };
                let after_s = out.random.between(0.02, 0.4).min(lasts_s);
                out.http(http, after_s);
            }
        }
        _ => {
            let connection = out.call(Call { service: if established { "ssl" } else { "" }, ..call });
            if established {
                out.tls(connection, at_ns, name);
            }
        }
    }
    at_ns
}
