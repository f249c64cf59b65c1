//! Bodies of the fuzz targets: bytes in, nothing out, a panic where a promise is broken. Shared by `fuzz/` (libFuzzer) and
//! by the smoke test that runs on the stable toolchain. Not part of the library's interface.

use bumpalo::Bump;

use crate::address::{Address, Classifier};
use crate::observation::{self, BatchError, Columns, Kind, Row};
use crate::time::EventTime;
use crate::topic;
use crate::wire::{self, Decoded, RECORD_ROWS_MAX, RecordMeta};

/// Bytes of learned state, at most: what an offset's metadata has room for.
const LEARNED_BYTES_MAX: usize = 2048;

/// Bytes of rejected rows per byte of input and beside it, at most: every bad line repeats its header.
const BAD_BYTES_MAX: usize = (8 << 20) + (64 << 10);

/// A body: the targets of `fuzz/` by name.
pub type Body = fn(&[u8]);

/// Every target that is no format.
pub const BODIES: &[(&str, Body)] = &[("batch", batch), ("address", address), ("topic", topic)];

/// One record of a format: no panic, bounded output, the same twice, and rows that fit the tables.
pub fn format(name: &str, bytes: &[u8]) {
    let Some(format) = wire::format(name) else { return };
    let meta = RecordMeta { timestamp: EventTime::from_secs(1_780_574_400) };
    let (first, second) = (Bump::new(), Bump::new());
    let (mut one, mut two) = (Decoded::default(), Decoded::default());
    let mut decoder = (format.decoder)();
    let verdict = decoder.decode(bytes, meta, &first, &mut one);
    let again = (format.decoder)().decode(bytes, meta, &second, &mut two);
    assert_eq!(verdict, again, "not deterministic");
    assert_eq!(format!("{one:?}"), format!("{two:?}"), "not deterministic");
    assert!(one.rows.len() + one.bad.len() <= RECORD_ROWS_MAX);
    assert!(one.bad.iter().map(|b| b.bytes.len()).sum::<usize>() <= bytes.len() * 4 + BAD_BYTES_MAX);
    if let Some(learned) = decoder.learned() {
        assert!(learned.len() <= LEARNED_BYTES_MAX, "learned {} bytes", learned.len());
        let mut resumed = (format.decoder)();
        resumed.resume(&learned);
        assert_eq!(resumed.learned().as_deref(), Some(&*learned), "resume loses what was learned");
    }
    if verdict.is_err() {
        return;
    }
    columns(&one);
    for bad in one.bad.iter().take(8) {
        let arena = Bump::new();
        let mut alone = Decoded::default();
        let verdict = (format.decoder)().decode(&bad.bytes, meta, &arena, &mut alone);
        assert_eq!(verdict, Ok(()), "a bad row's bytes are no record");
        assert!(alone.bad.len() == 1 && alone.rows.is_empty(), "a bad row alone is not bad");
        assert_eq!(alone.bad[0].fault, bad.fault);
    }
}

/// Rows survive the way through columns and Arrow IPC.
fn columns(decoded: &Decoded<'_>) {
    let mut columns = Columns::default();
    for row in decoded.rows.iter().map(|r| r.row) {
        match &row {
            Row::Flow(r) => columns.flow.push(r),
            Row::Dns(r) => columns.dns.push(r),
            Row::Tls(r) => columns.tls.push(r),
            Row::Http(r) => columns.http.push(r),
            Row::Edge(r) => columns.edge.push(r),
            Row::Result(r) => columns.result.push(r),
        }
    }
    for (kind, batch) in columns.finish() {
        let back = observation::decode(kind, &observation::encode(&batch)).expect("what was written can be read");
        let rows: Vec<Row<'_>> = decoded.rows.iter().map(|r| r.row).filter(|r| r.kind() == kind).collect();
        assert_eq!(back.len(), rows.len());
        for (i, row) in rows.iter().enumerate() {
            // Doubles compare by bits, so that a NaN equals itself.
            assert!(back.row(i).compare_content(row).is_eq());
            let _ = observation::describe(row);
        }
    }
}

/// Bytes as a batch of every kind.
pub fn batch(bytes: &[u8]) {
    for &kind in Kind::ALL {
        match observation::decode(kind, bytes) {
            Ok(batch) => {
                for i in 0..batch.len() {
                    let _ = (batch.routing(i), batch.position(i), batch.row(i).compare_content(&batch.row(0)));
                }
            }
            Err(BatchError::Ipc { reason }) => assert_ne!(reason, observation::ARROW_PANICKED, "the guard has a gap"),
            Err(_) => {}
        }
    }
}

/// Bytes as an address: what is read prints and reads as itself, and is either inside, outside or neither.
pub fn address(bytes: &[u8]) {
    let classifier = Classifier::default();
    if let Some((address, _)) = Address::parse_endpoint(bytes) {
        assert_eq!(Address::parse(address.to_string().as_bytes()), Some(address));
        let class = classifier.classify(address);
        assert!(!(class.is_internal() && class.is_external()));
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = classifier.classify_text(text);
        if !text.contains('%') {
            let expected = text.parse::<std::net::IpAddr>().ok().map(Address::from);
            assert_eq!(Address::parse(bytes), expected);
        }
    }
}

/// Bytes as a namespace and a topic, split at the first zero.
pub fn topic(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (namespace, base) = text.split_once('\0').unwrap_or((&text, "probectl.flow.events"));
    if let Ok(lane) = topic::topic_for(namespace, base) {
        assert!(lane.starts_with(topic::PREFIX));
        assert!(namespace.is_empty() || lane.starts_with(&format!("{}{namespace}.", topic::PREFIX)));
    }
    let key = topic::tenant_key(namespace, base);
    assert!(key.len() <= namespace.len() + 3);
}

/// Good records to start from; several records follow one another where a format keeps state.
pub fn seeds(target: &str) -> Vec<Vec<u8>> {
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
        _ => Vec::new(),
    }
}

/// One small batch of each kind.
fn batch_seeds() -> Vec<Vec<u8>> {
    let mut columns = Columns::default();
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
    columns.finish().iter().map(|(_, batch)| observation::encode(batch)).collect()
}
