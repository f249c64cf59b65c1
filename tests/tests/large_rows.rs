//! P6: rows that no record of `obs` could take. Texts that never repeat fill every dictionary, and a line of almost a
//! mebibyte is larger than any batch may be: the first are cut into records that fit, the second is rejected, and nothing
//! stands still.

#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;

use prost::Message as _;
use tidewatch_schemas::proto::flow::{FlowBatch, FlowRecord};
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::scenario::{Layout, Message, Scenario, open_input, static_input};

const START_S: i64 = 1_780_000_000;

/// Text without a pattern that a compressor could use.
fn noise(seed: u64, letters: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    while text.len() < letters {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        write!(text, "{state:x}").unwrap();
    }
    text.truncate(letters);
    text
}

#[test]
fn texts_that_never_repeat_are_cut_into_records_that_fit() {
    let record = |i: u64| FlowRecord {
        tenant_id: "acme".into(),
        agent_id: "a".into(),
        exporter_address: noise(i + 1, 90),
        flow_protocol: "ipfix".into(),
        observed_at_unix_nano: EventTime::from_secs(START_S).0,
        source_address: "10.0.0.5".into(),
        destination_address: "203.0.113.9".into(),
        destination_port: 443,
        network_transport: "tcp".into(),
        ..FlowRecord::default()
    };
    let messages: Vec<Message> = (0..20_u64)
        .map(|n| {
            let batch = FlowBatch { flows: (0..4_000).map(|i| record(n * 4_000 + i)).collect() };
            Message::new("flows", "acme", EventTime::from_secs(START_S), batch.encode_to_vec())
        })
        .collect();
    let scenario = Scenario::new("never repeats", vec![open_input("flows", "probectl-flow")], messages);
    let outcome = scenario.run(&Layout::default()).unwrap();
    let total = outcome.ledger.total();
    assert_eq!((total.rows_in, total.normalized, total.rejected), (80_000, 80_000, 0));
}

#[test]
fn a_line_larger_than_a_batch_is_rejected_and_its_neighbours_go_on() {
    let line = |answers: &str| {
        let head = format!(r#"{{"ts":{START_S}.0,"uid":"C1","id.orig_h":"10.0.0.5","id.orig_p":5000,"#);
        let rest = r#""id.resp_h":"10.0.0.53","id.resp_p":53,"proto":"udp","trans_id":1,"query":"a.example","#;
        format!(r#"{head}{rest}"qtype":16,"rcode":0,"answers":["{answers}"]}}"#).into_bytes()
    };
    let at = EventTime::from_secs(START_S);
    let lines = [line("192.0.2.1"), line(&noise(7, 1_000_000)), line("192.0.2.2")];
    let messages = lines.into_iter().map(|l| Message::new("dns", "", at, l)).collect();
    let scenario = Scenario::new("a large line", vec![static_input("dns", "zeek-dns", "acme")], messages);
    let outcome = scenario.run(&Layout::default()).unwrap();
    let total = outcome.ledger.total();
    assert_eq!((total.rows_in, total.normalized, total.rejected), (3, 2, 1));
}
