//! What waits for a slice: in memory, on disk, and over a restart, it makes no difference.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use tidewatch_operators::detectors;
use tidewatch_schemas::signal::{Entity, Evidence, RuleRef, Severity};
use tidewatch_schemas::time::SECOND_NS;

use super::*;

const SLICE_NS: i64 = 10 * SECOND_NS;
const SLICES: i64 = 4;
const TENANTS: [&str; 2] = ["acme", "brook"];
/// Detect tasks.
const PARTITIONS: u32 = 2;

/// Room for about one of the records below.
const TIGHT_BYTES: usize = 20 << 10;

fn task(bytes_max: usize, dir: &Path) -> CorrelateTask {
    let config = CorrelateConfig {
        slice_ns: SLICE_NS,
        signals: ("signals".into(), 1),
        shadow: "shadow".into(),
        source: "test".into(),
        state_bytes_max: 64 << 20,
        slices: SliceLimits { bytes_max, spill_dir: dir.to_owned() },
        detectors: detectors::ALL,
    };
    CorrelateTask::new(TopicPartition::new("findings", 0), config)
}

fn finding(tenant: &str, n: i64, at: EventTime, end: EventTime) -> Finding {
    Finding {
        tenant: tenant.into(),
        plane: "threat".into(),
        kind: detectors::ALL[n as usize % detectors::ALL.len()].kind.into(),
        title: "Found".into(),
        why: format!("for the {n}th time"),
        severity: Severity::High,
        confidence: 90,
        rule: RuleRef { id: "a-rule".into(), version: 1 },
        entity: Entity { kind: "host".into(), id: format!("10.0.0.{n}") },
        source: None,
        destination: None,
        first_seen: at,
        last_seen: at,
        decided_at: at,
        slice_start: end.minus(SLICE_NS),
        slice_end: end,
        evidence: Evidence::new(),
        attack: Vec::new(),
        raw: Vec::new(),
        subject: format!("subject {n}"),
        contact: None,
        suppress_ns: SLICE_NS,
        held_up_to: None,
        shadow: false,
    }
}

/// Two detect tasks, the second of which is slices behind the first: the first's findings wait.
fn records() -> Vec<Record> {
    let mut all = Vec::new();
    let mut push = |kind: RecordType, end: EventTime, value: Vec<u8>| {
        let headers = vec![
            (header::RECORD.to_owned(), Bytes::from(kind.to_header())),
            (SLICE_END.to_owned(), Bytes::from(end.0.to_string())),
        ];
        // Offsets have gaps on Kafka.
        let offset = all.len() as i64 * 3;
        all.push(Record { offset, timestamp: EventTime::from_secs(0), key: None, value: Some(value.into()), headers });
    };
    for partition in 0..PARTITIONS {
        for slice in 1..=SLICES {
            let end = EventTime(slice * SLICE_NS);
            for tenant in TENANTS {
                let at = end.minus(SECOND_NS);
                let mut contacts = Contacts::default();
                for i in 0..150 {
                    contacts.push(
                        tenant,
                        &format!("h{}", i % 40 + slice),
                        format!("d{}", i % 30),
                        at.minus(i64::from(partition)),
                    );
                }
                push(RecordType::Contacts, end, contacts.encode().unwrap());
                for n in 0..3 {
                    let n = n + slice % 2 + 10 * i64::from(partition);
                    push(RecordType::Finding, end, finding(tenant, n, at, end).encode());
                }
            }
            let mark = StageMark {
                partition,
                partitions: PARTITIONS,
                closed_shared: end,
                closed_lanes: BTreeMap::new(),
                ended: slice == SLICES,
            };
            push(RecordType::StageMark, end, mark.encode().unwrap());
        }
    }
    all
}

fn feed(task: &mut CorrelateTask, records: &[Record]) -> Vec<Append> {
    let mut out = Outputs::default();
    for record in records {
        task.record(record, &mut out).unwrap();
    }
    out.appends().to_vec()
}

#[test]
fn what_goes_to_disk_comes_back_in_its_order_and_memory_keeps_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut roomy, mut tight) = (task(usize::MAX, dir.path()), task(TIGHT_BYTES, dir.path()));
    let mut most = [0, 0];
    for record in records() {
        for (task, most) in [&mut roomy, &mut tight].into_iter().zip(&mut most) {
            feed(task, std::slice::from_ref(&record));
            *most = task.progress().slice_bytes.max(*most);
        }
        assert_eq!(roomy.progress().waiting_rows, tight.progress().waiting_rows);
    }
    let (roomy, tight) = (roomy.progress(), tight.progress());
    assert_eq!((roomy.spilled_rows, tight.slice_bytes_max), (0, TIGHT_BYTES as u64));
    assert!(tight.spilled_rows > 500, "{}", tight.spilled_rows);
    let places = 100 * tight.spilled_rows.min(records().len() as u64);
    assert!(most[0] > 4 * TIGHT_BYTES as u64 && most[1] <= TIGHT_BYTES as u64 + places, "{most:?}");
    assert_eq!((tight.open_slices, tight.slice_bytes, tight.waiting_rows), (0, 0, 0));

    let all = records();
    let (mut roomy, mut tight) = (task(usize::MAX, dir.path()), task(TIGHT_BYTES, dir.path()));
    let signals = feed(&mut roomy, &all);
    assert!(signals.len() > 10, "{} signals", signals.len());
    assert_eq!(feed(&mut tight, &all), signals);
    assert_eq!(tight.digest(), roomy.digest());
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_restart_at_any_record_finds_what_had_gone_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let all = records();
    let mut whole = task(usize::MAX, dir.path());
    let each: Vec<Vec<Append>> = all.iter().map(|record| feed(&mut whole, std::slice::from_ref(record))).collect();
    for at in 0..all.len() {
        let mut before = task(TIGHT_BYTES, dir.path());
        feed(&mut before, &all[..at]);
        let state = before.state(true).unwrap();
        let mut after = task(TIGHT_BYTES, dir.path());
        after.restore(&state, &|_| ()).unwrap();
        for record in all[..at].iter().filter(|r| state.replay_offset.is_some_and(|from| from <= r.offset)) {
            after.replay(record).unwrap();
        }
        assert_eq!(after.progress().waiting_rows, before.progress().waiting_rows, "at {at}");
        assert_eq!(feed(&mut after, &all[at..]), each[at..].concat(), "at {at}");
        assert_eq!(after.digest(), whole.digest(), "at {at}");
    }
}
