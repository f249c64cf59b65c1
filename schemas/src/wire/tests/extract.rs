//! A row alone: extracted from its record, it decodes to exactly that row.

use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::observation::Row;
use crate::proto::{ebpf, flow};

/// Extracts every row, one at a time and all at once, and compares each with the row in its record.
fn check(name: &str, decoder: &mut dyn Decoder, value: &[u8]) -> usize {
    let arena = Bump::new();
    let mut whole = Decoded::default();
    decoder.decode(value, META, &arena, &mut whole).unwrap();
    let all: Vec<u32> = whole.rows.iter().map(|r| r.index).collect();
    let mut together = Vec::new();
    decoder.extract(value, &all, &mut |index, bytes| together.push((index, bytes)));
    assert_eq!(together.iter().map(|(index, _)| *index).collect::<Vec<_>>(), all);
    for (row, (index, bytes)) in whole.rows.iter().zip(&together) {
        let mut one = Vec::new();
        decoder.extract(value, &[*index], &mut |index, bytes| one.push((index, bytes)));
        assert_eq!(one, [(*index, bytes.clone())]);
        let arena = Bump::new();
        let mut alone = Decoded::default();
        (format(name).unwrap().decoder)().decode(bytes, META, &arena, &mut alone).unwrap();
        assert_eq!((alone.rows.len(), alone.bad.len()), (1, 0));
        let mut got = alone.rows[0];
        got.index = row.index;
        if let (Row::Edge(got), Row::Edge(row)) = (&mut got.row, &row.row) {
            // Dated by its batch; alone by itself.
            assert!(got.event_time <= row.event_time);
            got.event_time = row.event_time;
        }
        assert_eq!(format!("{got:?}"), format!("{row:?}"));
    }
    let mut none = 0;
    decoder.extract(value, &[u32::MAX], &mut |_, _| none += 1);
    decoder.extract(value, &[], &mut |_, _| none += 1);
    assert_eq!(none, 0);
    all.len()
}

fn flow(n: u16, good: bool) -> flow::FlowRecord {
    flow::FlowRecord {
        tenant_id: "t1".into(),
        agent_id: "a".into(),
        flow_protocol: if n.is_multiple_of(2) { "sflow5" } else { "ipfix" }.into(),
        observed_at_unix_nano: T0_NS + i64::from(n),
        source_address: "10.0.0.5".into(),
        source_port: n.into(),
        destination_address: if good { "203.0.113.7" } else { "nowhere" }.into(),
        destination_port: 443,
        network_transport: "tcp".into(),
        bytes: u64::from(n) * 100,
        ..Default::default()
    }
}

proptest! {
    #[test]
    fn of_probectl_flow(records in proptest::collection::vec(any::<(u16, bool)>(), 1..40)) {
        let flows: Vec<_> = records.iter().map(|(n, good)| flow(*n, *good)).collect();
        let good = records.iter().filter(|(_, good)| *good).count();
        let value = flow::FlowBatch { flows }.encode_to_vec();
        prop_assert_eq!(check("probectl-flow", &mut probectl_flow::ProbectlFlow, &value), good);
    }

    /// Elements come in any order, with fields of no interest and calls that are no rows between them.
    #[test]
    fn of_probectl_ebpf(elements in proptest::collection::vec(any::<(u8, u16)>(), 1..40)) {
        let mut value = Vec::new();
        let mut good = 0;
        for (which, n) in elements {
            let mut batch = ebpf::FlowBatch::default();
            match which % 5 {
                0 => batch.flows.push(ebpf::Flow {
                    tenant_id: "t1".into(),
                    observed_at_unix_nano: T0_NS + i64::from(n),
                    source_address: "10.0.0.5".into(),
                    destination_address: "10.0.0.9".into(),
                    destination_port: n.into(),
                    network_transport: "tcp".into(),
                    ..Default::default()
                }),
                1 => batch.edges.push(ebpf::ServiceEdge {
                    tenant_id: "t1".into(),
                    source: "a".into(),
                    destination: format!("b{n}"),
                    last_seen_unix_nano: T0_NS + i64::from(n),
                    ..Default::default()
                }),
                2 => batch.l7_calls.push(ebpf::L7Call {
                    tenant_id: "t1".into(),
                    protocol: "dns".into(),
                    resource: format!("h{n}.example"),
                    start_unix_nano: T0_NS + i64::from(n),
                    ..Default::default()
                }),
                3 => batch.l7_calls.push(ebpf::L7Call { protocol: "http".into(), ..Default::default() }),
                // A field that no version has yet.
                _ => value.extend([0x7a, 1, 0]),
            }
            good += usize::from(which % 5 < 3);
            batch.encode(&mut value).unwrap();
        }
        prop_assume!(!value.is_empty());
        prop_assert_eq!(check("probectl-ebpf", &mut probectl_ebpf::ProbectlEbpf, &value), good);
    }

    /// Text and JSON in turn, headers of other logs and other columns in the middle, the first header from an earlier record.
    #[test]
    fn of_zeek(lines in proptest::collection::vec(any::<(u8, u16)>(), 1..40), learned: bool) {
        const CONN: &str = "#separator \\x09\n#path\tconn\n#fields\tts\tuid\tid.orig_h\tid.resp_h\tid.resp_p\tproto\tconn_state\n";
        const OTHER: &str = "#separator \\x7c\n#path|conn\n#unset_field|?\n#fields|id.orig_h|ts|id.resp_h|extra|uid|proto\n";
        let mut decoder = (format("zeek").unwrap().decoder)();
        let mut text = String::new();
        if learned {
            assert!(show(&mut *decoder, CONN.as_bytes()).starts_with("skipped"));
        } else {
            text.push_str(CONN);
        }
        let (mut other, mut good) = (false, 0);
        for (which, n) in lines {
            good += usize::from(which % 6 < 4);
            match which % 6 {
                0..3 if other => text += &format!("10.0.0.5|178057440{}.5|203.0.113.7|x|C{n}|udp\n", n % 10),
                0..3 => text += &format!("178057440{}.5\tC{n}\t10.0.0.5\t203.0.113.7\t{n}\ttcp\tSF\r\n", n % 10),
                3 => text += &format!(
                    " {{\"ts\":1780574400.5,\"uid\":\"C{n}\",\"id.orig_h\":\"10.0.0.5\",\"id.resp_h\":\"::1\",\"proto\":\"udp\",\"conn_state\":\"S0\"}}\n\n"
                ),
                4 => {
                    other = !other;
                    text += if other { OTHER } else { CONN };
                }
                _ => text += "neither\n",
            }
        }
        prop_assert_eq!(check("zeek", &mut *decoder, text.as_bytes()), good);
    }
}

#[test]
fn a_record_that_is_its_row_is_given_whole() {
    let seed = crate::fuzz::seeds("probectl-result").concat();
    let mut out = Vec::new();
    (format("probectl-result").unwrap().decoder)().extract(&seed, &[0, 1], &mut |index, bytes| out.push((index, bytes)));
    assert_eq!(out, [(0, seed.clone()), (1, seed)]);
}

#[test]
fn sampled_packets_are_told_by_their_protocol() {
    let arena = Bump::new();
    let value = flow::FlowBatch { flows: vec![flow(2, true), flow(3, true)] }.encode_to_vec();
    let mut out = Decoded::default();
    probectl_flow::ProbectlFlow.decode(&value, META, &arena, &mut out).unwrap();
    assert_eq!(out.rows.iter().map(|r| r.row.has_true_equals()).collect::<Vec<_>>(), [true, false]);
}
