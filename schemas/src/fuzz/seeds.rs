//! Good inputs to start from: from golden files and from our own writers.

use crate::address::Address;
use crate::control::{Cause, InputRef, Mark, Roster, RosterInput, SnapshotRef, StageMark, Version};
use crate::finding::Contacts;
use crate::observation::{self, Batch, Columns, Packers};
use crate::time::EventTime;

const SIGNAL_JSON: &str = r#"{"id":"bd4fa36c","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"10.0.0.5 called \"cdn.example\"\n31 times","severity":"medium","confidence":84,"rule":{"id":"ndr-beaconing-default","version":1},"entity":{"type":"host","id":"10.0.0.5"},"source":{"ip":"10.0.0.5"},"destination":{"ip":"203.0.113.66","port":443,"domain":"cdn.example","name":"edge"},"first_seen":"2026-06-04T12:00:00Z","last_seen":"2026-06-04T12:31:00.123456789Z","decided_at":"2026-06-04T12:31:00.5Z","detected_at":"2026-06-04T12:31:10Z","evidence":{"interval_s":60.0,"jitter":0.08,"names":["a",-1,1e+300,true],"none":[],"proxied":false,"samples":31},"attack":["T1071"],"raw":[{"topic":"probectl.flow.events","partition":3,"from":1201,"to":1388,"rows":31}]}"#;

const FINDING: &str = "0861636d650c7468726561741a6e64722e626561636f6e696e6712426561636f6e696e674c31302e302e302e352063616c6c6564202263646e2e6578616d706c65220a33312074696d657304a8012a6e64722d626561636f6e696e672d64656661756c740208686f73741031302e302e302e3502021031302e302e302e350000000202183230332e302e3131332e363602f606021663646e2e6578616d706c650208656467658080bc82f4beefb531aad4b78297abf0b53180b4c4e999abf0b531ecafb8cde0abf0b53180b0b8cde0abf0b5310e14696e74657276616c5f73020000000000004e400c6a6974746572027b14ae47e17ab43f0a6e616d657308080402610001029c7500883ce4377e060100086e6f6e6508000e70726f7869656406000e73616d706c6573003e14757365725f6167656e74040c6375726c2f3800020a543130373100022870726f626563746c2e666c6f772e6576656e747306e212d8153e00203230332e302e3131332e36363a343433021663646e2e6578616d706c658080c58bc6d101";

const YAML: &str = "# rules\nrules:\n- id: &x \"a\\u0041\"\n  every: 1h30m\n  size: 64 MiB\n  list: [1, 2.5, true, null, ~]\n  text: |\n    two\n    lines\n  same: *x\n  map: {a: 1, b: {c: d}}\n---\nsecond: 'document'\n";

/// Good records to start from; several records follow one another where a format keeps state.
pub(super) fn of(target: &str) -> Vec<Vec<u8>> {
    let hex = |text: &str| hex::decode(text).unwrap_or_default();
    let zeek = |text: &str| vec![text.as_bytes().to_vec()];
    match target {
        "probectl-flow" => vec![hex(
            "0a480a0274311201612a0569706669784080809e81badff7da184a0831302e302e302e355a0c3230332e302e3131332e363660bb036a03746370a8018004b8010ac0018028e801f0f703",
        )],
        "probectl-ebpf" => vec![hex(
            "1a390a0274311201681a037765623203646e733a0141420d4576696c2e4578616d706c652e4a084e58444f4d41494e50016080809e81badff7da18",
        )],
        "probectl-result" => vec![hex(
            "0a0274311a03646e732209612e6578616d706c6540015080809e81badff7da1862160a0b646e732e616e73776572731100000000000000406a140a09646e732e72636f646512074e4f4552524f52",
        )],
        "probectl-bgp" => {
            vec![hex(
                "0a0274311002180321333333333333eb3f2a0c3139322e302e322e302f323430f4f70342059c1af4f7035802800180809e81badff7da18",
            )]
        }
        "zeek-conn" | "zeek" => zeek(concat!(
            "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n",
            "#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tduration\torig_bytes\tconn_state\thistory\n",
            "1780574400.4\tC1\t192.0.2.10\t51514\t203.0.113.7\t443\ttcp\t4.5\t900\tSF\tShADadFf\n",
            "{\"ts\":1780574400.25,\"id\":{\"orig_h\":\"192.0.2.10\",\"orig_p\":51514,\"resp_h\":\"203.0.113.7\",\"resp_p\":443},\"proto\":\"udp\",\"conn_state\":\"SF\"}\n",
        )),
        "zeek-dns" => zeek(concat!(
            "#separator \\x09\n#path\tdns\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\trtt\tquery\tqtype\trcode\tanswers\n",
            "1780574400.1\t192.0.2.10\t40001\t192.0.2.53\t53\tudp\t0.012\tW\\x77w.Example.com\t1\t0\tc.example,192.0.2.80\n",
            "{\"dns\":{\"ts\":1.5,\"id.orig_h\":\"::1\",\"id.resp_h\":\"::2\",\"proto\":\"tcp\",\"query\":\"A\\u0041.\",\"qtype_name\":\"MX\",\"answers\":[\"a\",\"b\"]}}\n",
        )),
        "zeek-ssl" => zeek(concat!(
            "#separator \\x09\n#path\tssl\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tversion\tserver_name\testablished\tsubject   label\n",
            "1780574410.0\t192.0.2.10\t40001\t203.0.113.7\t443\tTLSv13\tWWW.Example.com\tT\tCN=a\\\\, b   Benign\n",
        )),
        "zeek-http" => zeek(concat!(
            "#separator \\x09\n#path\thttp\n#fields\tts\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tmethod\thost\turi\tstatus_code\n",
            "1780574410.0\t192.0.2.10\t40001\t203.0.113.7\t3128\tCONNECT\t-\t[2001:db8::1]:8443\t200\n",
            "1780574410.0\t192.0.2.10\t40001\t203.0.113.7\t3128\tGET\tA.example:81\thttp://u@b.example/x\t200\n",
        )),
        "batch" => batch_seeds(),
        "address" => {
            ["10.0.0.1", "::ffff:1.2.3.4", "[2606:4700::1111]:443", "fe80::1%eth0", "100.64.1.2:443"].map(Into::into).to_vec()
        }
        "topic" => ["t-acme", "", "t-acme\0probectl.flow.events", "UPPER\0other"].map(Into::into).to_vec(),
        "header" => ["flow/1", "mark/1", "contacts/1", "probectl.flow.events/12"].map(Into::into).to_vec(),
        "quantity" => ["2026-06-04T12:00:00.123456789Z", "1h30m1.5s", "0.25h", "64MiB", "1.5 GB"].map(Into::into).to_vec(),
        "document" => vec![YAML.into()],
        "signal-json" => vec![SIGNAL_JSON.into()],
        "signal-avro" => crate::signal::from_json(SIGNAL_JSON).iter().map(crate::signal::to_avro).collect(),
        "finding" => vec![hex(FINDING)],
        "avro-frame" => vec![crate::avro::frame(258, &hex(FINDING))],
        "contacts" => vec![contacts_seed()],
        "control" => control_seeds(),
        _ => Vec::new(),
    }
}

fn contacts_seed() -> Vec<u8> {
    let mut contacts = Contacts::default();
    for (host, destination) in [("10.0.0.5", ""), ("10.0.0.5", "cdn.example"), ("h1", "203.0.113.66")] {
        contacts.push("acme", &host, destination, EventTime::from_secs(1_780_574_400));
    }
    contacts.encode().unwrap_or_default()
}

/// One of each kind.
fn control_seeds() -> Vec<Vec<u8>> {
    let input =
        |topic: &str, lane: Option<&str>| RosterInput { topic: topic.into(), partitions: 8, lane: lane.map(str::to_owned) };
    let mark = Mark {
        input: InputRef { topic: "probectl.flow.events".into(), partition: 3 },
        lane: Some("acme".into()),
        watermark: EventTime::from_secs(1_780_574_400),
        cause: Cause::Silence,
        input_offset: 1389,
        roster: Roster::new(2, vec![input("probectl.flow.events", None), input("acme.flow", Some("acme"))]),
    };
    let stage = StageMark {
        partition: 0,
        partitions: 2,
        closed_shared: EventTime::MIN,
        closed_lanes: [("acme".to_owned(), EventTime::MAX)].into(),
        ended: true,
    };
    let version =
        Version { what: "rules".into(), id: "default".into(), hash: "ab".into(), from: EventTime(5), content: "a: 1\n".into() };
    let snapshot = SnapshotRef { id: "s1".into(), url_path: "detect/0/s1".into(), replay_offset: 10, position: 20 };
    [mark.encode(), stage.encode(), version.encode(), snapshot.encode()].into_iter().flatten().collect()
}

/// One small batch of each kind, in both forms.
fn batch_seeds() -> Vec<Vec<u8>> {
    let mut columns = Columns::default();
    let mut packers = Packers::default();
    for tenant in ["t1", "t2"] {
        columns.flow.push(&observation::FlowRow {
            tenant,
            source_address: Some(Address::v4([10, 0, 0, 1])),
            ..Default::default()
        });
        columns.dns.push(&observation::DnsRow { tenant, query: "www.example.com", ..Default::default() });
        columns.tls.push(&observation::TlsRow { tenant, server_name: Some("a.example"), ..Default::default() });
        columns.http.push(&observation::HttpRow { tenant, host: Some("a.example"), ..Default::default() });
        columns.edge.push(&observation::EdgeRow { tenant, source_name: "a", destination_name: "b", ..Default::default() });
        columns.result.push(&observation::ResultRow { tenant, canary_type: "dns", ..Default::default() });
    }
    let arrow: Vec<_> = columns.finish();
    for (kind, batch) in &arrow {
        let opened = Batch::open(*kind, batch);
        opened.iter().flat_map(|batch| (0..batch.len()).map(|i| batch.row(i))).for_each(|row| packers.push(&row));
    }
    let packed = packers.finish().into_iter().map(|(_, bytes)| bytes);
    arrow.iter().map(|(_, batch)| observation::encode(batch)).chain(packed).collect()
}
