//! From the wire to the door: which equal rows are one event.

#![allow(clippy::unwrap_used)]

use tidewatch_schemas::address::Address;
use tidewatch_schemas::control::{Cause, InputRef, Roster, RosterInput};
use tidewatch_schemas::observation::{FlowRow, Packers, Row};

use super::*;

fn record(offset: i64, kind: RecordType, value: Vec<u8>) -> Record {
    let headers = vec![
        (header::RECORD.to_owned(), Bytes::from(kind.to_header())),
        (header::INPUT.to_owned(), Bytes::from(header::input_header("flows", 0))),
    ];
    Record { offset, timestamp: EventTime::from_secs(0), key: None, value: Some(value.into()), headers }
}

/// Two equal flows, one obs record each, then the end of the input: the rows counted as duplicates.
fn duplicates(sampled_packet: bool) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let config = DetectConfig {
        slice_ns: 10_000_000_000,
        findings: ("findings".into(), 1),
        late: "late".into(),
        obs_partitions: 1,
        slices: SliceLimits { bytes_max: 1 << 20, spill_dir: dir.path().to_owned() },
        state_bytes_max: 1 << 20,
        rules: Vec::new(),
        watch: None,
        detectors: &[],
        versions: BTreeMap::new(),
    };
    let mut task = DetectTask::new(TopicPartition::new("obs", 0), config);
    let mut out = Outputs::default();
    let roster = Roster::new(1, vec![RosterInput { topic: "flows".into(), partitions: 1, lane: None }]);
    let mark = |watermark, cause| Mark {
        input: InputRef { topic: "flows".into(), partition: 0 },
        lane: None,
        watermark,
        cause,
        input_offset: 0,
        roster: roster.clone(),
    };
    let host = Address::v4([10, 0, 0, 5]);
    let kind = RecordType::Observations(Kind::Flow, Kind::Flow.version());
    for offset in 0..2 {
        let flow = FlowRow {
            tenant: "acme",
            host_address: Some(host),
            primary: true,
            event_time: EventTime::from_secs(1_780_574_400),
            source_address: Some(host),
            transport: 17,
            sampled_packet,
            offset,
            ..FlowRow::default()
        };
        let mut packers = Packers::default();
        packers.push(&Row::Flow(flow));
        for (_, value) in packers.finish() {
            task.record(&record(offset, kind, value), &mut out).unwrap();
        }
    }
    let end = mark(EventTime::from_secs(1_780_574_400), Cause::End);
    task.record(&record(2, RecordType::Mark, end.encode().unwrap()), &mut out).unwrap();
    assert_eq!(task.open.rows(), 0, "the slice is closed");
    out.ledger.line("obs", "acme").duplicate
}

#[test]
fn equal_flows_are_one_event_and_equal_sampled_packets_two() {
    assert_eq!(duplicates(false), 1);
    assert_eq!(duplicates(true), 0);
}
