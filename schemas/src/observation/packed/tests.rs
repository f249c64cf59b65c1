//! What was written reads back, and nothing else reads.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::super::{Batch, FlowRow, ROWS_MAX, Row, decode};
use super::*;
use crate::address::Address;
use crate::fuzz;

/// A flow whose columns are all that can be made of three numbers, absent ones and largest ones among them.
fn flow<'a>(a: u64, b: i64, c: u32, text: &'a str, other: &'a str) -> FlowRow<'a> {
    let some = |bit: u32| c >> bit & 1 == 0;
    let address = |bit: u32| match c >> bit & 3 {
        0 => None,
        1 => Some(Address::v4([10, 0, 0, c as u8])),
        2 => Some(Address([c as u8; 16])),
        _ => Some(Address::v4((a as u32).to_be_bytes())),
    };
    FlowRow {
        tenant: text,
        key: a,
        host_address: address(3),
        host_name: some(1).then_some(other),
        primary: some(2),
        event_time: EventTime(b),
        format: other,
        observer: some(3).then_some(text),
        start_time: some(4).then_some(EventTime(b.wrapping_sub(a as i64))),
        end_time: some(5).then_some(EventTime(a as i64)),
        source_address: address(5),
        source_port: some(6).then_some(c as u16),
        source_name: None,
        source_class: c as u8,
        destination_address: address(7),
        destination_port: some(7).then_some(0),
        destination_name: some(8).then_some(""),
        destination_class: (c >> 8) as u8,
        transport: a as u8,
        direction_known: some(9),
        bytes_forward: some(10).then_some(a),
        bytes_reverse: some(11).then_some(a >> 33),
        packets_forward: some(12).then_some(0),
        packets_reverse: None,
        sampling_rate: c,
        sampled_packet: some(13),
        tcp_flags: some(14).then_some(c as u8),
        connection_state: some(15).then_some(text),
        service: None,
        destination_asn: some(16).then_some(c),
        process_name: some(17).then_some(other),
        uid: some(18).then_some(text),
        offset: b,
        row: c,
    }
}

fn packed(rows: &[FlowRow<'_>]) -> Vec<u8> {
    let mut packer = Packer::new(Kind::Flow);
    rows.iter().for_each(|row| packer.push(&Row::Flow(*row)));
    let expected = packer.bytes();
    let bytes = packer.finish();
    assert!(packer.is_empty() && bytes.len() == expected);
    bytes
}

#[test]
fn our_own_rows_read_back() {
    let texts = ["acme", "", "ü.example"];
    for n in [0, 1, 2, 700] {
        let rows: Vec<FlowRow<'_>> = (0..n as u64)
            .map(|i| flow(i * 0x0123_4567_89ab, 1_780_574_400_000_000_000 + i as i64, i as u32 * 77, texts[i as usize % 3], "x"))
            .collect();
        let bytes = packed(&rows);
        let batch = decode(Kind::Flow, &bytes).unwrap();
        assert_eq!((batch.len(), batch.kind()), (n, Kind::Flow));
        for (i, row) in rows.iter().enumerate() {
            assert_eq!(batch.row(i), Row::Flow(*row));
            assert_eq!(batch.position(i), (row.offset, row.row));
            assert_eq!(batch.filed(i), Filed { key: row.key, tenant: row.tenant, event_time: row.event_time });
        }
        assert!(decode(Kind::Dns, &bytes).is_err());
    }
    for seed in fuzz::seeds("batch") {
        fuzz::batch(&seed);
    }
}

#[test]
fn an_ordinary_flow_is_small() {
    let host = Some(Address::v4([10, 0, 0, 5]));
    let at = EventTime::from_secs(1_780_574_400);
    let row = |i: i64| FlowRow {
        tenant: "acme",
        key: 0x0123_4567_89ab_cdef,
        host_address: host,
        primary: true,
        event_time: at.plus(i),
        format: "probectl-flow",
        observer: Some("10.0.0.1"),
        start_time: Some(at.minus(2_000_000_000)),
        end_time: Some(at.minus(1_000_000_000)),
        source_address: host,
        source_port: Some(51_514),
        destination_address: Some(Address::v4([203, 0, 113, 66])),
        destination_port: Some(443),
        transport: 6,
        bytes_forward: Some(900),
        packets_forward: Some(8),
        sampling_rate: 1,
        tcp_flags: Some(27),
        offset: 7,
        row: i as u32,
        ..FlowRow::default()
    };
    let rows: Vec<FlowRow<'_>> = (0..1000).map(row).collect();
    let each = packed(&rows).len() / rows.len();
    assert!(each <= 72, "{each}");
}

#[test]
fn cut_off_or_hostile_everywhere() {
    let rows: Vec<FlowRow<'_>> = (0..3).map(|i| flow(i << 40, i as i64, i as u32, "acme", "y")).collect();
    let whole = packed(&rows);
    for cut in 0..whole.len() {
        assert!(Packed::open(Kind::Flow, &whole[..cut]).is_err(), "{cut}");
    }
    for at in 0..whole.len() {
        for to in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = to;
            fuzz::batch(&bytes);
        }
    }
    let many: Vec<FlowRow<'_>> = vec![FlowRow::default(); ROWS_MAX + 1];
    assert_eq!(Packed::open(Kind::Flow, &packed(&many)).err(), Some("too many rows"));
}

#[test]
fn every_kind_has_room_for_its_columns() {
    assert!(Kind::ALL.iter().all(|kind| kind.width() <= COLUMNS_MAX && kind.width() == kind.columns().len()));
    assert!(Kind::ALL.iter().enumerate().all(|(i, kind)| *kind as usize == i));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn any_row(a: u64, b: i64, c: u32, d: u64, e: i64, f: u32, text in ".{0,9}", other in "[a-c]{0,2}") {
        let rows = [flow(a, b, c, &text, &other), flow(d, e, f, &other, &text), flow(a >> 20, b, f, &text, &text)];
        let Batch::Packed(batch) = decode(Kind::Flow, &packed(&rows)).unwrap() else { panic!("packed") };
        for (i, row) in rows.iter().enumerate() {
            prop_assert_eq!(batch.row(i), Row::Flow(*row));
        }
    }

    #[test]
    fn two_bytes_changed(a in any::<prop::sample::Index>(), b in any::<prop::sample::Index>(), x: u8, y: u8) {
        let mut bytes = packed(&[flow(5, 6, 7, "acme", "x"), flow(1 << 50, -6, 0x00ff_ff00, "", "x")]);
        let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
        (bytes[a], bytes[b]) = (x, y);
        fuzz::batch(&bytes);
    }
}
