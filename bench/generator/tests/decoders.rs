//! What the generator writes, the product's decoders read: every row, none bad, with the values meant.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bumpalo::Bump;
use tidewatch_generator::event::Event;
use tidewatch_generator::probectl::{ACTIVE_TIMEOUT_S, EBPF_TOPIC, FLOW_TOPIC};
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{Plan, Style, Traffic, probectl_records, zeek_lines};
use tidewatch_schemas::observation::Row;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, Decoder, RecordMeta, format};

/// Decodes one record and gives (rows, bad rows) after looking at each row.
fn decode(decoder: &mut dyn Decoder, value: &[u8], timestamp: EventTime, mut look: impl FnMut(&str, &Row<'_>)) -> usize {
    let arena = Bump::new();
    let mut out = Decoded::default();
    decoder.decode(value, RecordMeta { timestamp }, &arena, &mut out).unwrap();
    assert_eq!(out.bad, [], "of a record at {timestamp}");
    for row in &out.rows {
        look(row.tenant, &row.row);
    }
    out.rows.len()
}

#[test]
fn probectl_records_decode_whole() {
    let plan = Plan::small(11);
    let (mut bytes, mut calls, mut flows) = (BTreeMap::<String, u64>::new(), 0, 0);
    let mut flow_decoder = (format("probectl-flow").unwrap().decoder)();
    let mut ebpf_decoder = (format("probectl-ebpf").unwrap().decoder)();
    for record in probectl_records(&plan) {
        match record.topic {
            FLOW_TOPIC => {
                flows += decode(flow_decoder.as_mut(), &record.value, record.timestamp, |tenant, row| {
                    let Row::Flow(flow) = row else { unreachable!("a flow") };
                    assert!(flow.event_time <= record.timestamp && flow.event_time >= plan.start);
                    *bytes.entry(tenant.to_owned()).or_default() += flow.bytes_forward.unwrap();
                });
            }
            EBPF_TOPIC => {
                calls += decode(ebpf_decoder.as_mut(), &record.value, record.timestamp, |_, row| {
                    assert!(matches!(row, Row::Dns(_)), "{row:?}");
                });
            }
            other => unreachable!("{other}"),
        }
    }
    let (mut expected, mut queries, mut directions) = (BTreeMap::<String, u64>::new(), 0, 0);
    for event in Traffic::new(&plan, ACTIVE_TIMEOUT_S) {
        match event {
            Event::Flow(flow) => {
                let (sent, received) = flow.ip_bytes();
                directions += 1 + usize::from(flow.packets_received > 0);
                *expected.entry(plan.tenant(flow.connection.tenant).to_owned()).or_default() += sent + received;
            }
            Event::Dns(_) => queries += 1,
            Event::Tls(_) | Event::Http(_) => {}
        }
    }
    assert_eq!((flows, calls), (directions, queries));
    assert_eq!(bytes, expected);
}

#[test]
fn zeek_lines_decode_whole() {
    let plan = Plan { flows_max: Some(15_000), proxied_share: 0.3, ..Plan::small(12) };
    for style in [Style::Tsv, Style::Json] {
        let mut decoders: BTreeMap<Log, Box<dyn Decoder>> = BTreeMap::new();
        for log in Log::ALL {
            let mut decoder = (format(&format!("zeek-{}", log.name())).unwrap().decoder)();
            if style == Style::Tsv {
                assert_eq!(decode(decoder.as_mut(), log.header(plan.start).as_bytes(), plan.start, |_, _| {}), 0);
            }
            decoders.insert(log, decoder);
        }
        let mut rows: BTreeMap<Log, usize> = BTreeMap::new();
        for line in zeek_lines(&plan, style) {
            let decoder = decoders.get_mut(&line.log).unwrap();
            let n = decode(decoder.as_mut(), line.line.as_bytes(), line.at, |_, row| match row {
                // Zeek writes microseconds and seconds as decimals: the sum of start and duration may miss by one.
                Row::Flow(flow) => assert!(flow.event_time.since(line.at).abs() <= 2_000, "{flow:?} at {}", line.at),
                Row::Dns(dns) => assert!(dns.event_time.since(line.at).abs() <= 2_000, "{dns:?} at {}", line.at),
                _ => {}
            });
            assert_eq!(n, 1, "{}", line.line);
            *rows.entry(line.log).or_default() += n;
        }
        assert_eq!(rows.len(), 4, "{rows:?}");
    }
}
