//! One signal on its way out: the record as published, opened once for all destinations' formats. A record that is no
//! signal of its tenant never becomes an event.

use tidewatch_schemas::avro::unframe;
use tidewatch_schemas::header::RUN_ID;
use tidewatch_schemas::signal::{Signal, from_avro, from_json, to_json};

use crate::log::Record;

/// A signal to be delivered.
#[derive(Clone, Debug)]
pub struct Event {
    /// Partition of the signals topic.
    pub partition: u32,
    /// The record.
    pub record: Record,
    /// The signal in it.
    pub signal: Signal,
    /// Its JSON form: one line without control characters.
    pub json: String,
}

/// Why a record is no event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoEvent {
    /// Nothing to deliver: a tombstone, or a replay where those are not wanted.
    Skip,
    /// Cannot be delivered anywhere.
    Unreadable {
        /// `unreadable` or `tenant`.
        code: &'static str,
        /// What is wrong.
        reason: String,
    },
}

impl Event {
    /// Opens a record of the signals topic: JSON, or Avro in Confluent framing.
    pub(super) fn open(partition: u32, record: &Record, replays_wanted: bool) -> Result<Self, NoEvent> {
        if !replays_wanted && record.header(RUN_ID).is_some() {
            return Err(NoEvent::Skip);
        }
        let Some(value) = &record.value else { return Err(NoEvent::Skip) };
        let (signal, json) = read(value).map_err(|reason| NoEvent::Unreadable { code: "unreadable", reason })?;
        if record.key.as_ref().is_some_and(|key| key[..] != *signal.tenant.as_bytes()) {
            let reason = "the record's key is not the signal's tenant".to_owned();
            return Err(NoEvent::Unreadable { code: "tenant", reason });
        }
        Ok(Self { partition, record: record.clone(), signal, json })
    }

    /// Bytes that count against a batch's limit.
    pub fn size(&self) -> usize {
        self.json.len()
    }
}

fn read(value: &[u8]) -> Result<(Signal, String), String> {
    if let Some((_, datum)) = unframe(value) {
        let signal = from_avro(datum).map_err(|e| e.to_string())?;
        let json = to_json(&signal);
        return Ok((signal, json));
    }
    let text = std::str::from_utf8(value).map_err(|e| e.to_string())?;
    let signal = from_json(text).map_err(|e| e.to_string())?;
    // As published where possible (a newer binary's fields stay in); a foreign writer's line ends must not forge lines.
    let json = if text.bytes().any(|b| b < 0x20) { to_json(&signal) } else { text.trim().to_owned() };
    Ok((signal, json))
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use bytes::Bytes;
    use tidewatch_schemas::avro::frame;
    use tidewatch_schemas::signal::to_avro;
    use tidewatch_schemas::time::EventTime;

    use super::*;

    /// A published signal.
    pub(in crate::deliver) const LINE: &str = r#"{"id":"ab12","tenant":"acme","plane":"threat","kind":"ndr.beaconing","title":"Beaconing","why":"w","severity":"high","confidence":84,"rule":{"id":"r","version":1},"entity":{"type":"host","id":"10.0.0.5"},"first_seen":"2026-01-01T06:00:00Z","last_seen":"2026-01-01T06:00:01Z","decided_at":"2026-01-01T06:00:02.25Z","detected_at":"2026-01-01T06:00:10Z"}"#;

    pub(in crate::deliver) fn record(key: Option<&str>, value: &[u8]) -> Record {
        Record {
            offset: 7,
            timestamp: EventTime(0),
            key: key.map(|k| Bytes::copy_from_slice(k.as_bytes())),
            value: Some(Bytes::copy_from_slice(value)),
            headers: vec![],
        }
    }

    /// An event with that id.
    pub(in crate::deliver) fn event(id: &str) -> Event {
        let line = LINE.replace("ab12", id);
        Event::open(0, &record(Some("acme"), line.as_bytes()), false).unwrap()
    }

    #[test]
    fn json_and_avro_open_alike() {
        let json = event("ab12");
        assert_eq!(json.json, LINE);
        let avro = Event::open(0, &record(Some("acme"), &frame(9, &to_avro(&json.signal))), false).unwrap();
        assert_eq!((avro.signal, avro.json), (json.signal, json.json));
    }

    #[test]
    fn line_ends_of_a_foreign_writer_are_taken_out() {
        let spread = LINE.replace(",\"tenant\"", ",\n\"new\":1,\"tenant\"");
        assert_eq!(Event::open(0, &record(None, spread.as_bytes()), false).unwrap().json, LINE);
        let newer = LINE.replace(",\"tenant\"", ",\"new\":1,\"tenant\"");
        assert_eq!(Event::open(0, &record(None, newer.as_bytes()), false).unwrap().json, newer);
    }

    #[test]
    fn what_is_no_event() {
        let mut replay = record(None, LINE.as_bytes());
        replay.headers.push((RUN_ID.into(), Bytes::from_static(b"run")));
        assert_eq!(Event::open(0, &replay, false).unwrap_err(), NoEvent::Skip);
        assert!(Event::open(0, &replay, true).is_ok());
        let tombstone = Record { value: None, ..record(None, b"") };
        assert_eq!(Event::open(0, &tombstone, false).unwrap_err(), NoEvent::Skip);
        let code = |key, value: &[u8]| match Event::open(0, &record(key, value), false).unwrap_err() {
            NoEvent::Unreadable { code, .. } => code,
            NoEvent::Skip => "",
        };
        assert_eq!(code(None, b"{}"), "unreadable");
        assert_eq!(code(None, b"\0\0\0\0\x01\x02"), "unreadable");
        assert_eq!(code(Some("other"), LINE.as_bytes()), "tenant");
    }
}
