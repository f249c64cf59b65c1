//! Golden bytes of the messages: every field distinct, both forms of repeated numbers, unknown fields, known vectors.

#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use prost::Message;

use super::{bgp, ebpf, flow, result};

/// Sets every field of a message to a distinct value by writing it field by field: `(number, wire type)`.
/// Wire type 0 gets the number times 3, 1 a double of the number, 2 the text `f<number>`.
fn every_field(fields: &[(u32, u8)]) -> Vec<u8> {
    let mut out = Vec::new();
    for &(number, wire) in fields {
        prost::encoding::encode_varint(u64::from(number << 3 | u32::from(wire)), &mut out);
        match wire {
            0 => prost::encoding::encode_varint(u64::from(number * 3), &mut out),
            1 => out.extend(f64::from(number).to_le_bytes()),
            _ => {
                let text = format!("f{number}");
                prost::encoding::encode_varint(text.len() as u64, &mut out);
                out.extend(text.as_bytes());
            }
        }
    }
    out
}

/// The bytes come back unchanged, so no field is dropped, renumbered or of another type; and unknown fields are skipped.
fn round_trips<M: Message + Default + PartialEq + Debug>(bytes: &[u8]) -> M {
    let message = M::decode(bytes).unwrap();
    assert_eq!(hex::encode(message.encode_to_vec()), hex::encode(bytes));
    let mut more = bytes.to_vec();
    more.extend(every_field(&[(900, 0), (901, 1), (902, 2)]));
    assert_eq!(M::decode(&*more).unwrap(), message);
    message
}

fn wire(fields: &[(std::ops::RangeInclusive<u32>, u8)]) -> Vec<u8> {
    let list: Vec<(u32, u8)> = fields.iter().flat_map(|(numbers, wire)| numbers.clone().map(|n| (n, *wire))).collect();
    every_field(&list)
}

fn nested(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    prost::encoding::encode_varint(body.len() as u64, &mut out);
    out.extend(body);
    out
}

#[test]
fn flow_fields() {
    let record = wire(&[
        (1..=3, 2),
        (4..=4, 0),
        (5..=5, 2),
        (6..=8, 0),
        (9..=9, 2),
        (10..=10, 0),
        (11..=11, 2),
        (12..=12, 0),
        (13..=14, 2),
        (15..=19, 0),
        (20..=20, 2),
        (21..=26, 0),
        (27..=28, 2),
        (29..=29, 0),
        (30..=31, 2),
    ]);
    let f: flow::FlowRecord = round_trips(&record);
    assert_eq!((f.tenant_id.as_str(), f.exporter_address.as_str(), f.observation_domain), ("f1", "f3", 12));
    assert_eq!((f.observed_at_unix_nano, f.start_unix_nano, f.end_unix_nano), (18, 21, 24));
    assert_eq!(
        (f.source_address.as_str(), f.source_port, f.destination_address.as_str(), f.destination_port),
        ("f9", 30, "f11", 36)
    );
    assert_eq!((f.network_transport.as_str(), f.network_type.as_str(), f.vlan, f.tos, f.tcp_flags), ("f13", "f14", 51, 54, 57));
    assert_eq!((f.bytes, f.packets, f.sampling_rate, f.bytes_scaled, f.packets_scaled), (63, 66, 69, 72, 75));
    assert_eq!((f.source_asn, f.destination_asn, f.destination_country.as_str()), (78, 87, "f31"));
    let batch: flow::FlowBatch = round_trips(&nested(0x0a, &record));
    assert_eq!(batch.flows, [f]);
}

#[test]
fn ebpf_fields() {
    let flow = wire(&[
        (1..=3, 2),
        (4..=4, 0),
        (5..=5, 2),
        (6..=6, 0),
        (7..=7, 2),
        (8..=8, 0),
        (9..=10, 2),
        (11..=11, 0),
        (12..=14, 2),
        (15..=16, 0),
        (17..=18, 2),
    ]);
    let edge = wire(&[(1..=3, 2), (4..=4, 0), (5..=5, 2), (6..=10, 0), (11..=11, 2), (12..=15, 0)]);
    // `error` and `encrypted` are booleans: any number but 1 comes back as 1.
    let mut call = wire(&[(1..=4, 2), (5..=5, 0), (6..=9, 2)]);
    call.extend([10 << 3, 1, 11 << 3, 1]);
    call.extend(wire(&[(12..=15, 0)]));
    let f: ebpf::Flow = round_trips(&flow);
    assert_eq!((f.host.as_str(), f.process_name.as_str(), f.workload.as_str(), f.state.as_str()), ("f3", "f12", "f14", "f18"));
    let e: ebpf::ServiceEdge = round_trips(&edge);
    assert_eq!((e.first_seen_unix_nano, e.last_seen_unix_nano, e.l7_calls, e.l7_latency_max_nano), (27, 30, 36, 45));
    let c: ebpf::L7Call = round_trips(&call);
    assert_eq!((c.method.as_str(), c.resource.as_str(), c.error, c.encrypted, c.response_bytes), ("f7", "f8", true, true, 45));
    let all = [nested(0x0a, &flow), nested(0x12, &edge), nested(0x1a, &call)].concat();
    let batch: ebpf::FlowBatch = round_trips(&all);
    assert_eq!((batch.flows.len(), batch.edges.len(), batch.l7_calls.len()), (1, 1, 1));
}

#[test]
fn result_fields() {
    let mut bytes = wire(&[(1..=4, 2), (5..=5, 0), (6..=7, 2)]);
    bytes.extend([8 << 3, 1]);
    bytes.extend(wire(&[(9..=9, 2), (10..=11, 0)]));
    bytes.extend(nested(0x62, &[b"\x0a\x01m\x11".as_slice(), &2.5f64.to_le_bytes()].concat()));
    bytes.extend(nested(0x6a, b"\x0a\x01a\x12\x01v"));
    bytes.extend(wire(&[(14..=14, 2)]));
    let r: result::Result = round_trips(&bytes);
    assert_eq!((r.metrics["m"], r.attributes["a"].as_str(), r.result_id.as_str(), r.duration_nano), (2.5, "v", "f14", 33));
    let batch: result::ResultBatch = round_trips(&nested(0x0a, &bytes));
    assert_eq!(batch.results, [r]);
}

#[test]
fn bgp_fields_packed_and_unpacked() {
    let head = wire(&[(1..=1, 2), (2..=3, 0), (4..=4, 1), (5..=5, 2), (6..=7, 0)]);
    let tail = wire(&[(11..=11, 0), (12..=12, 2), (13..=13, 0), (14..=15, 2), (16..=16, 0)]);
    let packed = [&head[..], b"\x42\x02\x05\x06\x4a\x01\x07\x52\x01\x08", &tail].concat();
    let unpacked = [&head[..], b"\x40\x05\x40\x06\x48\x07\x50\x08", &tail].concat();
    let event: bgp::BgpEvent = round_trips(&packed);
    assert_eq!(bgp::BgpEvent::decode(&*unpacked).unwrap(), event);
    assert_eq!((&event.new_as_path[..], &event.old_as_path[..], &event.expected_origins[..]), (&[5, 6][..], &[7][..], &[8][..]));
    assert_eq!((event.confidence, event.rpki_status, event.peer_asn, event.detected_at_unix_nano), (4.0, 33, 39, 48));
}

/// Vectors written down independently of this code.
pub(crate) const V0A: &str = "0a480a0274311201612a0569706669784080809e81badff7da184a0831302e302e302e355a0c3230332e302e3131332e363660bb036a03746370a8018004b8010ac0018028e801f0f703";
pub(crate) const V0B: &str =
    "1a390a0274311201681a037765623203646e733a0141420d4576696c2e4578616d706c652e4a084e58444f4d41494e50016080809e81badff7da18";
pub(crate) const V0C: &str = "0a0274311a03646e732209612e6578616d706c6540015080809e81badff7da1862160a0b646e732e616e73776572731100000000000000406a140a09646e732e72636f646512074e4f4552524f52";
pub(crate) const V0D: &str =
    "0a0274311002180321333333333333eb3f2a0c3139322e302e322e302f323430f4f70342059c1af4f7035802800180809e81badff7da18";

/// 2026-06-04T12:00:00Z.
pub(crate) const T0_NS: i64 = 1_780_574_400_000_000_000;

#[test]
fn golden_vectors() {
    let f = &round_trips::<flow::FlowBatch>(&hex::decode(V0A).unwrap()).flows[0];
    assert_eq!(
        (f.tenant_id.as_str(), f.agent_id.as_str(), f.flow_protocol.as_str(), f.end_unix_nano),
        ("t1", "a", "ipfix", T0_NS)
    );
    assert_eq!(
        (f.source_address.as_str(), f.destination_address.as_str(), f.destination_port),
        ("10.0.0.5", "203.0.113.66", 443)
    );
    assert_eq!((f.bytes, f.sampling_rate, f.bytes_scaled, f.destination_asn), (512, 10, 5120, 64496));

    let c = &round_trips::<ebpf::FlowBatch>(&hex::decode(V0B).unwrap()).l7_calls[0];
    assert_eq!((c.tenant_id.as_str(), c.agent_id.as_str(), c.source.as_str(), c.protocol.as_str()), ("t1", "h", "web", "dns"));
    assert_eq!((c.method.as_str(), c.resource.as_str(), c.status.as_str()), ("A", "Evil.Example.", "NXDOMAIN"));
    assert_eq!((c.error, c.start_unix_nano), (true, T0_NS));

    let r: result::Result = round_trips(&hex::decode(V0C).unwrap());
    assert_eq!(
        (r.canary_type.as_str(), r.server_address.as_str(), r.success, r.start_time_unix_nano),
        ("dns", "a.example", true, T0_NS)
    );
    assert_eq!((r.metrics["dns.answers"], r.attributes["dns.rcode"].as_str()), (2.0, "NOERROR"));

    let b: bgp::BgpEvent = round_trips(&hex::decode(V0D).unwrap());
    assert_eq!((b.event_type(), b.severity(), b.confidence), (bgp::EventType::PossibleHijack, bgp::Severity::Critical, 0.85));
    assert_eq!((b.prefix.as_str(), b.new_origin_asn, &b.new_as_path[..]), ("192.0.2.0/24", 64500, &[3356, 64500][..]));
    assert_eq!((b.rpki_status(), b.detected_at_unix_nano), (bgp::RpkiStatus::Invalid, T0_NS));
}
