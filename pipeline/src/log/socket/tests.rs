//! The socket in one process: reading and appending through it, and clients that behave badly.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidewatch_schemas::time::EventTime;

use super::*;
use crate::log::memory::MemoryLog;
use crate::log::{Append, CommitError, Committed, Log, Member, OffsetRange, PollLimit, TopicPartition, TopicSpec};

struct Owner {
    log: MemoryLog,
    handle: Handle,
    path: PathBuf,
    _dir: tempfile::TempDir,
}

fn owner() -> Owner {
    let dir = tempfile::tempdir().unwrap();
    let path = socket_path(dir.path());
    let log = MemoryLog::with_gaps(2);
    log.create_topic(&TopicSpec::new("t", 2)).unwrap();
    let handle = serve(Arc::new(log.clone()), &path).unwrap();
    Owner { log, handle, path, _dir: dir }
}

fn append(n: u8, bytes: usize) -> Append {
    Append {
        topic: "t".into(),
        partition: 1,
        timestamp: Some(EventTime(i64::from(n))),
        key: Some(Bytes::from(vec![n])),
        value: (n != 3).then(|| Bytes::from(vec![n; bytes])),
        headers: vec![("h".into(), Bytes::from(vec![n])), ("h".into(), Bytes::new())],
    }
}

fn all(log: &dyn Log, at: &TopicPartition) -> Vec<crate::log::Record> {
    let mut reader = log.reader(at, 0).unwrap();
    let mut out = Vec::new();
    while !reader.at_end() {
        out.extend(reader.poll(PollLimit { records: 2, bytes: 1 << 20 }, Duration::ZERO).unwrap());
    }
    assert_eq!(reader.position(), log.offsets(at).unwrap().end);
    out
}

#[test]
fn a_command_reads_and_appends_what_the_owner_has() {
    let o = owner();
    let at = TopicPartition::new("t", 1);
    let log = SocketLog::connect(&o.path).unwrap();
    let mut writer = log.writer("tool").unwrap();
    writer.commit(&(0..5).map(|n| append(n, 1000)).collect::<Vec<_>>(), &[]).unwrap();
    writer.commit(&[append(5, 1 << 19)], &[]).unwrap();
    assert_eq!(all(&log, &at), all(&o.log, &at));
    assert_eq!(all(&log, &at).len(), 6);
    assert_eq!(log.topics().unwrap(), vec![("t".to_owned(), 2)]);
    assert_eq!(log.offsets(&TopicPartition::new("t", 0)).unwrap(), OffsetRange { start: 0, end: 0 });
    assert_eq!(log.offset_at(&at, EventTime(4)).unwrap(), o.log.offset_at(&at, EventTime(4)).unwrap());
    log.create_topic(&TopicSpec::new("u", 3)).unwrap();
    assert_eq!(o.log.partitions("u").unwrap(), 3);

    let member = Member { id: "m".into(), index: 0, of: 1 };
    let seat = o.log.join("g", &["t".into()], &member).unwrap();
    let position = Committed { offset: 2, metadata: "m".into() };
    seat.writer("w").unwrap().commit(&[], &[(at.clone(), position.clone())]).unwrap();
    assert_eq!(log.committed("g", &[TopicPartition::new("t", 0), at]).unwrap(), vec![None, Some(position)]);
}

#[test]
fn refusals_keep_their_meaning() {
    let o = owner();
    let at = TopicPartition::new("t", 1);
    let log = SocketLog::connect(&o.path).unwrap();
    assert!(matches!(log.partitions("x"), Err(LogError::UnknownTopic { .. })));
    assert!(matches!(log.offsets(&TopicPartition::new("t", 2)), Err(LogError::UnknownPartition { .. })));
    assert!(matches!(log.reader(&at, 1).map(drop), Err(LogError::OutOfRange { .. })));
    assert!(matches!(log.create_topic(&TopicSpec::new("t", 3)), Err(LogError::Partitions { got: 2, .. })));
    let member = Member { id: "m".into(), index: 0, of: 1 };
    assert!(matches!(log.join("g", &["t".into()], &member).map(drop), Err(LogError::Unsupported { .. })));
    let mut first = log.writer("tool").unwrap();
    assert!(matches!(first.commit(&[append(1, 2 << 20)], &[]), Err(CommitError::TooLarge { .. })));
    let too_much: Vec<_> = (0..17).map(|n| append(n, 1 << 20)).collect();
    assert!(matches!(first.commit(&too_much, &[]), Err(CommitError::Log(LogError::Client { .. }))));
    first.commit(&[append(1, 10)], &[]).unwrap();
    let mut reader = log.reader(&at, 0).unwrap();
    o.log.delete_before(&at, 1).unwrap();
    assert!(matches!(reader.poll(PollLimit::default(), Duration::ZERO), Err(LogError::OutOfRange { start: 1, .. })));
    log.writer("tool").unwrap();
    assert!(matches!(first.commit(&[append(1, 10)], &[]), Err(CommitError::Fenced { .. })));
}

#[test]
fn a_waiting_read_wakes_up() {
    let o = owner();
    let log = SocketLog::connect(&o.path).unwrap();
    let mut reader = log.reader(&TopicPartition::new("t", 1), 0).unwrap();
    let inside = o.log.clone();
    let thread = std::thread::spawn(move || inside.writer("w").unwrap().commit(&[append(1, 10)], &[]).unwrap());
    let records = reader.poll(PollLimit::default(), Duration::from_secs(20)).unwrap();
    thread.join().unwrap();
    assert_eq!(records.len(), 1);
    assert!(reader.poll(PollLimit::default(), Duration::from_millis(1)).unwrap().is_empty() && reader.at_end());
}

#[test]
fn bad_clients_cost_their_connection_only() {
    let o = owner();
    let log = SocketLog::connect(&o.path).unwrap();
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\x00\x00\x00\x05\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        // A list of appends that claims to have 2^63 entries.
        b"\x00\x00\x00\x0a\x09\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
    ] {
        let mut bad = UnixStream::connect(&o.path).unwrap();
        bad.write_all(bytes).unwrap();
        bad.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut rest = Vec::new();
        // The end, after an answer in words; or a reset where bytes were left unread.
        match bad.read_to_end(&mut rest) {
            Ok(_) => assert!(rest.len() > 4, "{bytes:?}"),
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset, "{bytes:?}"),
        }
    }
    // Gone in the middle of a request.
    let mut half = UnixStream::connect(&o.path).unwrap();
    half.write_all(b"\x00\x00\x01\x00abc").unwrap();
    drop(half);
    assert_eq!(log.topics().unwrap().len(), 1);
    while o.handle.stats().dropped < 6 {
        std::thread::yield_now();
    }
}

#[test]
fn one_connection_too_many_is_refused_and_places_come_free() {
    let o = owner();
    let crowd: Vec<_> = (0..CONNECTIONS_MAX).map(|_| SocketLog::connect(&o.path).unwrap()).collect();
    let refused = SocketLog::connect(&o.path).unwrap_err();
    assert!(matches!(&refused, LogError::Unreachable { reason, .. } if reason.contains("64")), "{refused}");
    crowd[0].topics().unwrap();
    drop(crowd);
    while o.handle.stats().open > 0 {
        std::thread::yield_now();
    }
    SocketLog::connect(&o.path).unwrap();
    assert_eq!(o.handle.stats().refused, 1);
}

#[test]
fn the_socket_is_private_replaces_a_stale_one_and_goes_with_its_owner() {
    let o = owner();
    assert_eq!(std::fs::metadata(&o.path).unwrap().permissions().mode() & 0o777, 0o600);
    let log = SocketLog::connect(&o.path).unwrap();
    let mut writer = log.writer("w").unwrap();
    let Owner { log: inside, handle, path, _dir } = o;
    drop(handle);
    assert!(!path.exists());
    assert!(matches!(log.topics(), Err(LogError::Unreachable { .. })));
    assert!(matches!(writer.commit(&[append(1, 1)], &[]), Err(CommitError::Log(LogError::Unreachable { .. }))));
    // As a killed owner would leave it.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(matches!(SocketLog::connect(&path), Err(LogError::Unreachable { .. })));
    let _handle = serve(Arc::new(inside), &path).unwrap();
    assert_eq!(log.topics().unwrap().len(), 1);
}

#[test]
fn a_long_path_works() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let path = socket_path(&deep);
    let _handle = serve(Arc::new(MemoryLog::new()), &path).unwrap();
    assert!(SocketLog::connect(&path).unwrap().topics().unwrap().is_empty());
}
