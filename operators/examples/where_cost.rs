//! What a `where` costs: nanoseconds a row over batches as they lie in `obs`, one expression after the other. Not a
//! promise, a measurement: `cargo run --release -p tidewatch-operators --example where_cost`.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a measurement for a person")]

use std::hint::black_box;
use std::time::Instant;

use tidewatch_operators::detectors;
use tidewatch_operators::rule::filter::Filter;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::{Batch, DnsColumns, DnsRow, FlowColumns, FlowRow, Kind, decode, encode};
use tidewatch_schemas::time::EventTime;

/// Rows of a record of `obs`.
const ROWS: u32 = 4_096;

/// Times that each is measured; the smallest counts.
const ROUNDS: u32 = 200;

fn main() {
    let (flows, dns) = (flows(), dns());
    for (kind, text) in [
        ("egress_volume", "destination_port = 443"),
        ("egress_volume", "destination_port IN (80, 443, 8080, 8443, 9000)"),
        ("egress_volume", "in_network(destination_address, '10.0.0.0/8', '192.168.0.0/16')"),
        ("egress_volume", "connection_state = 'SF' AND bytes_forward > 1000"),
        ("egress_volume", "bytes_reverse <> 0 AND bytes_forward / bytes_reverse > 3"),
        ("egress_volume", "bytes_forward / bytes_reverse > 3"),
        ("dns_exfil", "NOT under(query, 'example.com', 'cdn.example')"),
        ("dns_exfil", "query LIKE '%.example.com'"),
        ("dns_exfil", "query ~ '^[a-z0-9]{12,}[.]'"),
    ] {
        let began = Instant::now();
        let filter = Filter::compile(text, detectors::by_rule_kind(kind).unwrap()).unwrap();
        let compiled = began.elapsed();
        let batch = if kind == "dns_exfil" { &dns } else { &flows };
        let once = || {
            let began = Instant::now();
            black_box(filter.rows(black_box(batch)));
            began.elapsed()
        };
        let best = (0..ROUNDS).map(|_| once()).min().unwrap_or_default();
        let ns = best.as_nanos() as f64 / f64::from(ROWS);
        println!(
            "{ns:8.1} ns/row, compiled in {:4} us: {text} ({} errors)",
            compiled.as_micros(),
            filter.errors() / u64::from(ROUNDS)
        );
    }
}

fn flows() -> Batch {
    let mut columns = FlowColumns::default();
    for i in 0..ROWS {
        let bytes = i.to_be_bytes();
        columns.push(&FlowRow {
            tenant: "acme",
            event_time: EventTime::from_secs(i64::from(1_780_272_000 + i)),
            source_address: Some(Address::v4([10, 0, bytes[2], bytes[3]])),
            destination_address: Some(Address::v4([bytes[3] | 1, 7, bytes[3], 9])),
            destination_port: Some([80, 443, 53, 22, 8080][(i % 5) as usize]),
            bytes_forward: Some(u64::from(i * 37)),
            // One row in a thousand divides by nothing.
            bytes_reverse: Some(u64::from(i % 1000)),
            connection_state: Some(["SF", "S0", "REJ"][(i % 3) as usize]),
            transport: 6,
            ..FlowRow::default()
        });
    }
    decode(Kind::Flow, &encode(&columns.finish())).unwrap()
}

fn dns() -> Batch {
    let mut columns = DnsColumns::default();
    for i in 0..ROWS {
        let query = format!("host{i}.{}", ["example.com", "cdn.example", "mail.example.org"][(i % 3) as usize]);
        columns.push(&DnsRow { tenant: "acme", query: &query, query_type: 1, ..DnsRow::default() });
    }
    decode(Kind::Dns, &encode(&columns.finish())).unwrap()
}
