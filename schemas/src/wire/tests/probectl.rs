//! probectl's formats.

use expect_test::expect;
use prost::Message;

use super::{show_fresh, *};
use crate::proto::tests::{V0A, V0B, V0C, V0D};
use crate::proto::{ebpf, flow, result};

fn record() -> flow::FlowRecord {
    flow::FlowRecord {
        tenant_id: "t1".into(),
        agent_id: "collector".into(),
        exporter_address: "192.0.2.1".into(),
        flow_protocol: "netflow9".into(),
        observed_at_unix_nano: T0_NS + 2_000_000_000,
        start_unix_nano: T0_NS - 60_000_000_000,
        end_unix_nano: T0_NS,
        source_address: "2001:db8::1".into(),
        source_port: 51514,
        destination_address: "::ffff:203.0.113.7".into(),
        destination_port: 443,
        network_transport: "tcp".into(),
        network_type: "ipv6".into(),
        tcp_flags: 0x1b,
        bytes: 1000,
        packets: 10,
        sampling_rate: 1,
        ..Default::default()
    }
}

#[test]
fn golden_vectors() {
    expect![[r#"
        0 flow tenant="t1" agent=Some("a")
          bytes_forward=5120 destination_address="203.0.113.66" destination_asn=64496 destination_port=443 direction_known=false end_time="2026-06-04T12:00:00Z" event_time="2026-06-04T12:00:00Z" observer="a" sampled_packet=false sampling_rate=10 source_address="10.0.0.5" transport=6
    "#]].assert_eq(&show_fresh("probectl-flow", &hex::decode(V0A).unwrap()));
    expect![[r#"
        0 dns tenant="t1" agent=Some("h")
          client_name="web" event_time="2026-06-04T12:00:00Z" observer="h" query="evil.example" query_type=1 response_code=3 synthetic=false transport=17
    "#]].assert_eq(&show_fresh("probectl-ebpf", &hex::decode(V0B).unwrap()));
    expect![[r#"
        0 result tenant="t1" agent=Some("")
          attributes="{\"dns.answers\":2.0,\"dns.rcode\":\"NOERROR\"}" canary_type="dns" duration_s=0.0 event_time="2026-06-04T12:00:00Z" server="a.example" start_time="2026-06-04T12:00:00Z" success=true
        1 dns tenant="t1" agent=Some("")
          answer_count=2 event_time="2026-06-04T12:00:00Z" query="a.example" query_type=0 response_code=0 synthetic=true transport=17
    "#]].assert_eq(&show_fresh("probectl-result", &hex::decode(V0C).unwrap()));
    expect![[r#"
        skipped 1: bgp has no observation table yet
    "#]]
    .assert_eq(&show_fresh("probectl-bgp", &hex::decode(V0D).unwrap()));
}

#[test]
fn flows() {
    let flows = vec![
        record(),
        flow::FlowRecord { network_transport: "icmp".into(), source_port: 3, destination_port: 769, ..record() },
        flow::FlowRecord {
            network_transport: "132".into(),
            source_port: 0,
            bytes: 0,
            packets: 0,
            observed_at_unix_nano: 0,
            ..record()
        },
        flow::FlowRecord { sampling_rate: 100, bytes_scaled: 100_000, packets_scaled: 1_000, end_unix_nano: 0, ..record() },
        flow::FlowRecord {
            observed_at_unix_nano: 0,
            end_unix_nano: 0,
            start_unix_nano: 0,
            network_transport: String::new(),
            ..record()
        },
    ];
    expect![[r#"
        0 flow tenant="t1" agent=Some("collector")
          bytes_forward=1000 destination_address="203.0.113.7" destination_port=443 direction_known=false end_time="2026-06-04T12:00:00Z" event_time="2026-06-04T12:00:02Z" observer="192.0.2.1" packets_forward=10 sampled_packet=false sampling_rate=1 source_address="2001:db8::1" source_port=51514 start_time="2026-06-04T11:59:00Z" tcp_flags=27 transport=6
        1 flow tenant="t1" agent=Some("collector")
          bytes_forward=1000 destination_address="203.0.113.7" direction_known=false end_time="2026-06-04T12:00:00Z" event_time="2026-06-04T12:00:02Z" observer="192.0.2.1" packets_forward=10 sampled_packet=false sampling_rate=1 source_address="2001:db8::1" start_time="2026-06-04T11:59:00Z" transport=58
        2 flow tenant="t1" agent=Some("collector")
          destination_address="203.0.113.7" destination_port=443 direction_known=false end_time="2026-06-04T12:00:00Z" event_time="2026-06-04T12:00:00Z" observer="192.0.2.1" sampled_packet=false sampling_rate=1 source_address="2001:db8::1" start_time="2026-06-04T11:59:00Z" transport=132
        3 flow tenant="t1" agent=Some("collector")
          bytes_forward=100000 destination_address="203.0.113.7" destination_port=443 direction_known=false event_time="2026-06-04T12:00:02Z" observer="192.0.2.1" packets_forward=1000 sampled_packet=false sampling_rate=100 source_address="2001:db8::1" source_port=51514 start_time="2026-06-04T11:59:00Z" tcp_flags=27 transport=6
        4 flow tenant="t1" agent=Some("collector")
          bytes_forward=1000 destination_address="203.0.113.7" destination_port=443 direction_known=false event_time="2026-06-04T13:00:00Z" observer="192.0.2.1" packets_forward=10 sampled_packet=false sampling_rate=1 source_address="2001:db8::1" source_port=51514 transport=0
    "#]].assert_eq(&show_fresh("probectl-flow", &flow::FlowBatch { flows }.encode_to_vec()));
}

/// Each bad row is reported with its fault, and its bytes are a record of the same format with the same fault.
#[test]
fn bad_flows_alone() {
    let bad = [
        flow::FlowRecord { source_address: "web.example".into(), ..record() },
        flow::FlowRecord { destination_address: String::new(), ..record() },
        flow::FlowRecord { destination_port: 65_536, ..record() },
        flow::FlowRecord { network_transport: "nonsense".into(), ..record() },
        flow::FlowRecord { observed_at_unix_nano: 1_780_574_400, ..record() },
        flow::FlowRecord { end_unix_nano: i64::MIN, ..record() },
    ];
    let mut flows = vec![record()];
    flows.extend(bad.iter().cloned());
    flows.push(record());
    let value = flow::FlowBatch { flows }.encode_to_vec();
    expect![[r#"
        1 bad: source_address: expected an address, got web.example
        2 bad: destination_address is missing
        3 bad: destination_port: expected a port up to 65535, got 65536
        4 bad: network_transport: expected tcp, udp, icmp or a protocol number, got nonsense
        5 bad: observed_at_unix_nano: expected unix nanoseconds after 1990, got 1780574400
        6 bad: end_unix_nano: expected unix nanoseconds after 1990, got -9223372036854775808"#]]
    .assert_eq(&show_fresh("probectl-flow", &value).lines().filter(|l| l.contains("bad")).collect::<Vec<_>>().join("\n"));
    let arena = Bump::new();
    let mut out = Decoded::default();
    (format("probectl-flow").unwrap().decoder)().decode(&value, META, &arena, &mut out).unwrap();
    assert_eq!((out.rows.len(), out.rows[1].index), (2, 7));
    for (row, original) in out.bad.iter().zip(&bad) {
        assert_eq!(flow::FlowBatch::decode(&*row.bytes).unwrap().flows, std::slice::from_ref(original));
    }
}

#[test]
fn whole_records_rejected() {
    assert_eq!(show_fresh("probectl-flow", b""), "rejected: empty record\n");
    let good = flow::FlowBatch { flows: vec![record()] }.encode_to_vec();
    let mut wrong_type = good.clone();
    wrong_type.extend([0x08, 1]);
    let mut inner = vec![0x0a, 2, 0x08, 1];
    inner.extend(&good);
    let not_utf8 = [&[0x0a, 4, 0x0a, 2, 0xff, 0xfe][..], &good].concat();
    let too_many: Vec<u8> = [0x0a, 0].repeat(RECORD_ROWS_MAX + 1);
    let text: Vec<String> =
        [&wrong_type[..], &inner, &not_utf8, &too_many, b"{\"a\":1}"].iter().map(|v| show_fresh("probectl-flow", v)).collect();
    expect![[r#"
        rejected: flows: expected length-delimited, got varint
        rejected: tenant_id: expected length-delimited, got varint
        rejected: tenant_id: expected utf-8, got ��
        rejected: rows in one record exceeds 20000
        rejected: not protobuf: bad wire type at 1
    "#]]
    .assert_eq(&text.concat());
}

#[test]
fn ebpf_rows() {
    let flow = ebpf::Flow {
        tenant_id: "t1".into(),
        agent_id: "h1".into(),
        host: "h1".into(),
        observed_at_unix_nano: T0_NS,
        source_address: "10.0.0.5".into(),
        source_port: 40_000,
        destination_address: "10.0.0.9".into(),
        destination_port: 5432,
        network_transport: "tcp".into(),
        process_name: "psql".into(),
        workload: "billing".into(),
        direction: "egress".into(),
        state: "established".into(),
        ..Default::default()
    };
    let edge = ebpf::ServiceEdge {
        tenant_id: "t1".into(),
        source: "billing".into(),
        destination: "db".into(),
        destination_port: 5432,
        network_transport: "tcp".into(),
        connections: 7,
        bytes: 900,
        packets: 9,
        first_seen_unix_nano: T0_NS - 7_200_000_000_000,
        last_seen_unix_nano: T0_NS - 3_600_000_000_000,
        l7_protocol: "postgres".into(),
        l7_calls: 4,
        l7_errors: 1,
        ..Default::default()
    };
    let call = ebpf::L7Call {
        tenant_id: "t1".into(),
        agent_id: "h1".into(),
        source: "10.0.0.5".into(),
        destination: "10.0.0.53:53".into(),
        protocol: "dns".into(),
        method: "TYPE65".into(),
        resource: "WWW.Example.com.".into(),
        status: "odd".into(),
        encrypted: true,
        start_unix_nano: T0_NS,
        latency_nano: 12_000_000,
        request_bytes: 40,
        response_bytes: 1 << 40,
        ..Default::default()
    };
    let batch = ebpf::FlowBatch {
        flows: vec![flow.clone(), ebpf::Flow { source_address: "billing".into(), ..flow }],
        edges: vec![edge.clone(), ebpf::ServiceEdge { destination: String::new(), ..edge }],
        l7_calls: vec![
            call.clone(),
            ebpf::L7Call { protocol: "http1".into(), ..call.clone() },
            ebpf::L7Call { resource: String::new(), ..call.clone() },
            ebpf::L7Call { latency_nano: -1, ..call },
        ],
    };
    expect![[r#"
        0 flow tenant="t1" agent=Some("h1")
          connection_state="established" destination_address="10.0.0.9" destination_port=5432 direction_known=false event_time="2026-06-04T12:00:00Z" observer="h1" process_name="psql" sampled_packet=false sampling_rate=1 source_address="10.0.0.5" source_name="billing" source_port=40000 transport=6
        2 edge tenant="t1" agent=None
          bytes=900 connections=7 destination_name="db" destination_port=5432 event_time="2026-06-04T12:00:00.012Z" first_seen="2026-06-04T10:00:00Z" l7_calls=4 l7_errors=1 l7_protocol="postgres" last_seen="2026-06-04T11:00:00Z" packets=9 source_name="billing" transport=6
        4 dns tenant="t1" agent=Some("h1")
          client_address="10.0.0.5" event_time="2026-06-04T12:00:00.012Z" latency_s=0.012 observer="h1" query="www.example.com" query_type=65 request_bytes=40 response_bytes=4294967295 server_address="10.0.0.53" server_port=53 synthetic=false transport=6
        1 bad: source_address: expected an address, got billing
        3 bad: destination is missing
        6 bad: resource is missing
        7 bad: latency_nano: expected nanoseconds from 0, got -1
        skipped 1: application call other than dns
    "#]].assert_eq(&show_fresh("probectl-ebpf", &batch.encode_to_vec()));
}

#[test]
fn an_edge_alone_has_its_own_time() {
    let edge = ebpf::ServiceEdge {
        source: "a".into(),
        destination: "b".into(),
        last_seen_unix_nano: META.timestamp.0 + 86_400_000_000_000,
        ..Default::default()
    };
    let idle = ebpf::ServiceEdge { last_seen_unix_nano: T0_NS, ..edge.clone() };
    let value = ebpf::FlowBatch { edges: vec![edge, idle], ..Default::default() }.encode_to_vec();
    let text = show_fresh("probectl-ebpf", &value);
    // A clock that runs ahead dates its own row and pulls no other past the record's timestamp.
    assert!(text.contains("event_time=\"2026-06-05T13:00:00Z\""), "{text}");
    assert!(text.contains("event_time=\"2026-06-04T13:00:00Z\""), "{text}");
}

#[test]
fn results() {
    let result = result::Result {
        tenant_id: "t1".into(),
        agent_id: "probe-1".into(),
        canary_type: "http".into(),
        server_address: "www.example.com".into(),
        server_port: 443,
        success: false,
        error_message: "expired".into(),
        start_time_unix_nano: T0_NS,
        duration_nano: 250_000_000,
        metrics: [("http.ms".to_owned(), 12.5), ("odd".to_owned(), f64::NAN), ("both".to_owned(), 1.0)].into(),
        attributes: [("tls.protocol.version", "1.3"), ("network.peer.address", "203.0.113.7"), ("both", "x\"y")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
        result_id: "r-1".into(),
        ..Default::default()
    };
    expect![[r#"
        0 result tenant="t1" agent=Some("probe-1")
          attributes="{\"both\":\"x\\\"y\",\"http.ms\":12.5,\"metric:both\":1.0,\"network.peer.address\":\"203.0.113.7\",\"odd\":\"NaN\",\"tls.protocol.version\":\"1.3\"}" canary_type="http" duration_s=0.25 error="expired" event_time="2026-06-04T12:00:00.25Z" observer="probe-1" peer_address="203.0.113.7" result_id="r-1" server="www.example.com" server_port=443 start_time="2026-06-04T12:00:00Z" success=false tls_version="1.3"
    "#]].assert_eq(&show_fresh("probectl-result", &result.encode_to_vec()));
    let dns = result::Result {
        canary_type: "dns".into(),
        server_address: "A.example".into(),
        metrics: [("dns.query.ms".to_owned(), 8.0), ("dns.answers".to_owned(), 2.0)].into(),
        attributes: [
            ("dns.qtype", "AAAA"),
            ("dns.transport", "dot"),
            ("dns.server", "9.9.9.9:853"),
            ("dns.rcode", "NXDOMAIN"),
            ("dns.answer", "::1,::2"),
        ]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into(),
        ..result.clone()
    };
    expect![[r#"
        0 result tenant="t1" agent=Some("probe-1")
          attributes="{\"dns.answer\":\"::1,::2\",\"dns.answers\":2.0,\"dns.qtype\":\"AAAA\",\"dns.query.ms\":8.0,\"dns.rcode\":\"NXDOMAIN\",\"dns.server\":\"9.9.9.9:853\",\"dns.transport\":\"dot\"}" canary_type="dns" duration_s=0.25 error="expired" event_time="2026-06-04T12:00:00.25Z" observer="probe-1" result_id="r-1" server="A.example" server_port=443 start_time="2026-06-04T12:00:00Z" success=false
        1 dns tenant="t1" agent=Some("probe-1")
          answer_count=2 answers="::1,::2" client_name="probe-1" event_time="2026-06-04T12:00:00.25Z" latency_s=0.008 observer="probe-1" query="a.example" query_type=28 response_code=3 server_address="9.9.9.9" server_port=853 synthetic=true transport=6
    "#]].assert_eq(&show_fresh("probectl-result", &dns.encode_to_vec()));
    let bad = result::Result { server_port: 70_000, canary_type: "dns".into(), ..result };
    expect![[r#"
        0 bad: server_port: expected a port up to 65535, got 70000
    "#]]
    .assert_eq(&show_fresh("probectl-result", &bad.encode_to_vec()));
}
