//! Bodies of the fuzz targets of the socket's frames; see `tidewatch_schemas::fuzz`.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidewatch_schemas::time::EventTime;

use super::wire::{Answer, Request, VERSION, append_out, receive, record_out, send};
use super::{ANSWER_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::log::{Append, Record, TopicSpec};

/// Bytes as one frame: what is read can be written, and reads as the same.
fn frame<T: Serialize + DeserializeOwned>(bytes: &[u8], bytes_max: usize) {
    let Ok(read) = receive::<T>(&mut &*bytes, bytes_max) else { return };
    let mut again = Vec::new();
    if send(&mut again, &read, bytes_max).is_err() {
        return;
    }
    let back: T = receive(&mut &*again, bytes_max).expect("what was written can be read");
    let mut third = Vec::new();
    send(&mut third, &back, bytes_max).expect("it was written before");
    assert_eq!(again, third);
}

pub(crate) fn request(bytes: &[u8]) {
    frame::<Request>(bytes, REQUEST_BYTES_MAX);
}

pub(crate) fn answer(bytes: &[u8]) {
    frame::<Answer>(bytes, ANSWER_BYTES_MAX);
}

fn framed(values: &[impl Serialize], bytes_max: usize) -> Vec<Vec<u8>> {
    let write = |value| {
        let mut out = Vec::new();
        send(&mut out, value, bytes_max).ok().map(|()| out)
    };
    values.iter().filter_map(write).collect()
}

pub(crate) fn request_seeds(_: &str) -> Vec<Vec<u8>> {
    let append = Append {
        topic: "probectl.flow.events".into(),
        partition: 3,
        timestamp: Some(EventTime::from_secs(1)),
        key: Some(Bytes::from_static(b"acme|ba")),
        value: Some(Bytes::from_static(b"value")),
        headers: vec![("tw-record".into(), Bytes::from_static(b"flow/1"))],
    };
    let requests = [
        Request::Hello { version: VERSION },
        Request::CreateTopic((&TopicSpec::new("a", 3)).into()),
        Request::Topics,
        Request::OffsetAt(("a".into(), 1), EventTime::from_secs(1)),
        Request::Read { at: ("a".into(), 1), from: 7, records: 100, bytes: 1 << 20, timeout_ms: 50 },
        Request::Committed { group: "g".into(), at: vec![("a".into(), 1), ("b".into(), 0)] },
        Request::OpenWriter("w".into()),
        Request::Append(vec![append_out(&append), append_out(&append)]),
        Request::Status,
        Request::Drain { for_good: true },
        Request::Reload,
    ];
    framed(&requests, REQUEST_BYTES_MAX)
}

pub(crate) fn answer_seeds(_: &str) -> Vec<Vec<u8>> {
    let record = Record {
        offset: 8,
        timestamp: EventTime::from_secs(1),
        key: None,
        value: Some(Bytes::from_static(b"value")),
        headers: vec![("a".into(), Bytes::new())],
    };
    let answers = [
        Answer::Done,
        Answer::Topics(vec![("a".into(), 3)]),
        Answer::Records { records: vec![record_out(record.clone()), record_out(record)], position: 9, at_end: true },
        Answer::Committed(vec![None, Some((8, "{\"v\":1}".into()))]),
        Answer::Status("{}".into()),
        Answer::Draining(true),
        Answer::Reloaded(Err("a.yaml:1:1: not YAML".into())),
    ];
    framed(&answers, ANSWER_BYTES_MAX)
}
