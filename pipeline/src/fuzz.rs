//! Bodies of the fuzz targets of this crate; see `tidewatch_schemas::fuzz`. Not part of the library's interface.

use std::path::Path;

use bytes::Bytes;
use tidewatch_generator::recordfile::{self, RecordFile, write_record};
use tidewatch_schemas::fuzz::Target;
use tidewatch_schemas::time::EventTime;

use crate::deliver::http::parse_retry_after;
use crate::deliver::sources::parse_since;
use crate::epoch::OutputHash;
use crate::input::InputSpec;
use crate::log::embedded::block::{BLOCK_KEY_BYTES, BlockBuilder, BlockKey, BlockRecords};
use crate::log::{METADATA_BYTES_MAX, Record, socket};
use crate::normalize::tenancy;
use crate::snapshot;
use crate::topology::Topology;
use crate::worker::meta::Meta;

/// A record with its parts, or a text with its mistakes: a few times the input, which is at most 4 KiB.
const SMALL_BYTES_MAX: usize = 1 << 20;

/// A tree of nodes, its mistakes and the topology.
const TREE_BYTES_MAX: usize = 8 << 20;

/// Postcard reserves up to 1 MiB a list before it has seen its elements, and a frame is read three times.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// Every target.
pub const TARGETS: &[Target] = &[
    Target { name: "topology", body: topology, seeds: topology_seeds, heap_bytes_max: TREE_BYTES_MAX },
    Target { name: "record-file", body: record_file, seeds: record_file_seeds, heap_bytes_max: SMALL_BYTES_MAX },
    Target { name: "input-spec", body: input_spec, seeds: input_spec_seeds, heap_bytes_max: SMALL_BYTES_MAX },
    Target { name: "registry", body: registry, seeds: |_| vec![REGISTRY.into()], heap_bytes_max: SMALL_BYTES_MAX },
    Target { name: "offset-metadata", body: offset_metadata, seeds: metadata_seeds, heap_bytes_max: SMALL_BYTES_MAX },
    Target { name: "snapshot", body: snapshot::fuzz, seeds: snapshot::fuzz_seeds, heap_bytes_max: FRAME_BYTES_MAX },
    Target { name: "block", body: block, seeds: block_seeds, heap_bytes_max: SMALL_BYTES_MAX },
    Target {
        name: "socket-request",
        body: socket::fuzz::request,
        seeds: socket::fuzz::request_seeds,
        heap_bytes_max: FRAME_BYTES_MAX,
    },
    Target {
        name: "socket-answer",
        body: socket::fuzz::answer,
        seeds: socket::fuzz::answer_seeds,
        heap_bytes_max: FRAME_BYTES_MAX,
    },
];

const REGISTRY: &str = "# tenant agent\nacme h1\nacme flow-collector-1\n\nbeta h2 # comment\n";

/// Bytes as a topology.
fn topology(bytes: &[u8]) {
    match Topology::parse("fuzz.yaml", &String::from_utf8_lossy(bytes)) {
        Ok(topology) => {
            let _ = (topology.internal_topics(), topology.input_topics());
        }
        Err(mistakes) => assert!(!mistakes.is_empty() && !mistakes.to_string().is_empty()),
    }
}

fn topology_seeds(_: &str) -> Vec<Vec<u8>> {
    [
        include_str!("../../topologies/quickstart.yaml"),
        include_str!("../../topologies/kafka.yaml"),
        include_str!("../../topologies/probectl.yaml"),
    ]
    .map(Into::into)
    .to_vec()
}

/// Bytes as a file of records: what is read can be written, and reads as the same.
fn record_file(bytes: &[u8]) {
    let mut again = Vec::new();
    let mut read = Vec::new();
    for entry in RecordFile::new(bytes).map_while(Result::ok) {
        // The header may have been written shorter than its limit and come back longer: then it is not ours.
        if write_record(&mut again, &entry.header, &entry.value).is_err() {
            return;
        }
        read.push(entry);
    }
    let back: Result<Vec<_>, _> = RecordFile::new(&again[..]).collect();
    assert_eq!(back.expect("what was written can be read"), read);
}

fn record_file_seeds(_: &str) -> Vec<Vec<u8>> {
    let mut file = Vec::new();
    for (key, partition) in [(Some("acme|ba"), None), (None, Some(3))] {
        let header = recordfile::Header { key: key.map(str::to_owned), timestamp: EventTime::from_secs(1), partition };
        let _ = write_record(&mut file, &header, b"value");
    }
    vec![file]
}

/// Bytes as an `--input`.
fn input_spec(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Err(e) = text.parse::<InputSpec>()
    {
        assert!(!e.to_string().is_empty());
    }
}

fn input_spec_seeds(_: &str) -> Vec<Vec<u8>> {
    ["zeek:/var/log/zeek/*.gz", "probectl-flow:f.records", "kafka:a@0..1000", "kafka:a.b@2026-03-01T00:00:00Z..", "kafka:a"]
        .map(Into::into)
        .to_vec()
}

/// Bytes as a registry of agents.
fn registry(bytes: &[u8]) {
    if let Ok(pairs) = tenancy::parse(Path::new("fuzz"), &String::from_utf8_lossy(bytes)) {
        assert!(pairs.iter().all(|(tenant, agent)| !tenant.is_empty() && !agent.is_empty()));
    }
}

/// Bytes as an offset's metadata of any stage, and as the words of an HTTP header.
fn offset_metadata(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (parse_since(text), parse_retry_after(text));
    if let Some(hash) = OutputHash::parse(text) {
        assert_eq!(OutputHash::parse(&hash.to_hex()), Some(hash));
    }
    let Some(meta) = Meta::decode(text) else { return };
    let _ = OutputHash::parse(&meta.hash);
    let again = meta.encode();
    if again.len() < METADATA_BYTES_MAX && meta.note.is_none() {
        assert_eq!(Meta::decode(&again), Some(meta));
    }
}

fn metadata_seeds(_: &str) -> Vec<Vec<u8>> {
    let note = Some("{\"event\":1780574400000000000,\"watermark\":-5,\"learned\":\"#fields\\tts\\n\"}".to_owned());
    let (topic, snapshot) = (Some("AAAAAAAAAAAAAAAAAAAAAQ".to_owned()), Some("s-1".to_owned()));
    let meta = Meta { v: 1, hash: "ab".repeat(32), from: 7, outputs: 1, topic, snapshot, note };
    vec![
        meta.encode().into(),
        "since=1780574400000000000".into(),
        "ab".repeat(32).into(),
        "120".into(),
        "Wed, 21 Oct 2026 07:28:00 GMT".into(),
    ]
}

/// Bytes as a block's key and body.
fn block(bytes: &[u8]) {
    let Some((key, body)) = bytes.split_at_checked(BLOCK_KEY_BYTES) else { return };
    let Some(key) = BlockKey::read(key) else { return };
    assert_eq!(BlockKey::read(&key.write()), Some(key));
    let records: Vec<Record> = BlockRecords::new(key, Bytes::copy_from_slice(body)).map_while(Result::ok).collect();
    assert!(records.iter().all(|r| r.offset >= key.first && r.offset <= key.last));
}

fn block_seeds(_: &str) -> Vec<Vec<u8>> {
    let record = |offset| Record {
        offset,
        timestamp: EventTime::from_secs(offset),
        key: Some(Bytes::from_static(b"key")),
        value: Some(Bytes::from_static(b"value")),
        headers: vec![("name".to_owned(), Bytes::from_static(b"header"))],
    };
    let mut builder = BlockBuilder::begin(3, &record(6));
    builder.push(&record(8));
    let (key, body) = builder.finish();
    vec![[&key[..], &body].concat()]
}
