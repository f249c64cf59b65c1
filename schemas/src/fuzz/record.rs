//! What our own records (signals, findings, contacts, control records) promise of any bytes: what is read can be written,
//! and what was written reads as the same.

use crate::avro::{frame, unframe};
use crate::control::{Mark, ROSTER_PARTITIONS_MAX, SnapshotRef, StageMark, Version};
use crate::finding::{Contacts, Finding};
use crate::signal;

/// Bytes as a signal's JSON.
pub(super) fn signal_json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(read) = signal::from_json(text) else { return };
    let line = signal::to_json(&read);
    assert!(!line.contains('\n'));
    // What says nothing (an endpoint without a field) is left out, so the text is what comes back, not the value.
    assert_eq!(signal::to_json(&signal::from_json(&line).expect("what was written can be read")), line);
    assert!(signal::from_avro(&signal::to_avro(&read)).is_ok());
}

/// Bytes as a signal's Avro datum.
pub(super) fn signal_avro(bytes: &[u8]) {
    let Ok(read) = signal::from_avro(bytes) else { return };
    let datum = signal::to_avro(&read);
    assert_eq!(signal::to_avro(&signal::from_avro(&datum).expect("what was written can be read")), datum);
    let _ = signal::to_json(&read);
}

/// Bytes as a finding.
pub(super) fn finding(bytes: &[u8]) {
    let Ok(read) = Finding::decode(bytes) else { return };
    let datum = read.encode();
    assert_eq!(Finding::decode(&datum).expect("what was written can be read").encode(), datum);
}

/// Bytes as a framed datum.
pub(super) fn avro_frame(bytes: &[u8]) {
    if let Some((id, datum)) = unframe(bytes) {
        assert_eq!(frame(id, datum), bytes);
    }
}

/// Bytes as contacts.
pub(super) fn contacts(bytes: &[u8]) {
    let Ok(read) = Contacts::decode(bytes) else { return };
    // Numbers may come longer than they need to be, so the bytes can differ; the rows cannot.
    let again = read.encode().expect("what was read keeps to the limits");
    assert_eq!(Contacts::decode(&again).as_ref(), Ok(&read));
    assert_eq!(read.rows().count(), read.len());
}

/// Bytes as any control record.
pub(super) fn control(bytes: &[u8]) {
    macro_rules! check {
        ($($record:ident)*) => {
            $(if let Ok(read) = $record::decode(bytes)
                && let Ok(again) = read.encode()
            {
                assert_eq!($record::decode(&again).expect("what was written can be read"), read);
            })*
        };
    }
    check!(Mark StageMark Version SnapshotRef);
    if let Ok(mark) = Mark::decode(bytes) {
        assert!(mark.roster.partitions().count() <= ROSTER_PARTITIONS_MAX as usize);
    }
}
