//! The Kafka log against a real broker: the suite every log passes, and what only Kafka can get wrong.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewatch::log::conformance::{Capabilities, Fixture, Outcome, suite};
use tidewatch::log::kafka::{GroupProtocol, KafkaConfig, KafkaLog};
use tidewatch::log::{
    Append, CommitError, Committed, Log, LogError, Member, Membership, PollLimit, Reader, Record, TopicPartition, TopicSpec,
};
use tidewatch_tests::kafka::Broker;

const WAIT: Duration = Duration::from_secs(20);

/// A topic of its own.
fn topic(broker: &Broker, log: &KafkaLog, what: &str, partitions: u32) -> String {
    let name = broker.name(what);
    log.create_topic(&TopicSpec::new(&name, partitions)).unwrap();
    name
}

fn append(topic: &str, partition: u32, value: impl Into<Bytes>) -> Append {
    Append {
        topic: topic.into(),
        partition,
        timestamp: None,
        key: Some(Bytes::from_static(b"k")),
        value: Some(value.into()),
        headers: Vec::new(),
    }
}

/// Reads until the end of the partition.
fn read_all(reader: &mut dyn Reader) -> Vec<Record> {
    let deadline = Instant::now() + WAIT;
    let mut all = Vec::new();
    while !reader.at_end() {
        assert!(Instant::now() < deadline, "no end of the partition at {}", reader.position());
        all.extend(reader.poll(PollLimit::default(), Duration::from_millis(500)).unwrap());
    }
    all
}

fn values(records: &[Record]) -> Vec<String> {
    records.iter().map(|r| String::from_utf8_lossy(r.value.as_ref().unwrap()).into_owned()).collect()
}

fn member(id: &str) -> Member {
    Member { id: id.into(), index: 0, of: 1 }
}

/// Polls members until each holds as many partitions as asked.
fn settle_group(members: &mut [(&mut Box<dyn Membership>, usize)]) -> Vec<Vec<TopicPartition>> {
    let deadline = Instant::now() + WAIT;
    let mut held: Vec<Vec<TopicPartition>> = members.iter().map(|_| Vec::new()).collect();
    loop {
        for (i, (member, _)) in members.iter_mut().enumerate() {
            if let Some(now) = member.poll(Duration::from_millis(50)).unwrap() {
                held[i] = now;
            }
        }
        if members.iter().zip(&held).all(|((_, want), held)| held.len() == *want) {
            return held;
        }
        assert!(Instant::now() < deadline, "the group did not settle: {held:?}");
    }
}

fn committed(offset: i64, metadata: &str) -> Committed {
    Committed { offset, metadata: metadata.into() }
}

#[test]
fn the_suite_holds() {
    let broker = Broker::shared();
    let make = |_want| Fixture {
        log: Arc::new(broker.log()),
        // Retention works in the broker's own time; its partitions have no limit of ours.
        capabilities: Capabilities { retention_at_once: false, byte_limit: false, ..Capabilities::LOCAL },
        prefix: broker.name("suite") + "-",
        patience: WAIT,
        keep: Box::new(()),
    };
    let reports = suite(&make);
    let broken: Vec<_> = reports.iter().filter(|r| matches!(r.outcome, Outcome::Fails(_))).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    let held = reports.iter().filter(|r| r.outcome == Outcome::Holds).count();
    assert!(held > 18, "only {held} checks were asked");
}

#[test]
fn the_broker_starts_and_says_how_long_it_took() {
    let broker = Broker::shared();
    eprintln!("broker ready after {:?}, {} MiB", broker.start_time, broker.memory_bytes().unwrap() >> 20);
    assert!(broker.start_time < Duration::from_secs(90));
}

#[test]
fn records_come_back_with_everything_they_had() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "whole", 2);
    let mut one = append(&topic, 1, "value");
    one.timestamp = Some(tidewatch_schemas::time::EventTime::from_secs(1_700_000_000));
    one.headers =
        vec![("a".into(), Bytes::from_static(b"1")), ("a".into(), Bytes::new()), ("b".into(), Bytes::from_static(b"\xff"))];
    let mut tombstone = append(&topic, 1, "");
    tombstone.value = None;
    let mut keyless = append(&topic, 1, vec![7u8; 1 << 20]);
    keyless.key = None;
    let mut writer = log.writer(&broker.name("w")).unwrap();
    writer.commit(&[one.clone(), tombstone, keyless], &[]).unwrap();
    let at = TopicPartition::new(&topic, 1);
    let records = read_all(&mut *log.reader(&at, 0).unwrap());
    assert_eq!(records.len(), 3);
    assert_eq!(records[0].key, one.key);
    assert_eq!(records[0].value, one.value);
    assert_eq!(records[0].headers, one.headers);
    assert_eq!(Some(records[0].timestamp), one.timestamp);
    assert_eq!(records[1].value, None);
    assert_eq!((records[2].key.clone(), records[2].value.as_ref().unwrap().len()), (None, 1 << 20));
    assert!(read_all(&mut *log.reader(&TopicPartition::new(&topic, 0), 0).unwrap()).is_empty());
}

#[test]
fn the_end_is_reached_past_transaction_markers() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "markers", 1);
    let at = TopicPartition::new(&topic, 0);
    let mut writer = log.writer(&broker.name("w")).unwrap();
    let mut reader = log.reader(&at, 0).unwrap();
    assert!(!reader.at_end(), "an end nobody has confirmed");
    for epoch in 0..3 {
        writer.commit(&[append(&topic, 0, format!("e{epoch}"))], &[]).unwrap();
        let deadline = Instant::now() + WAIT;
        while reader.position() < 2 * (epoch + 1) {
            assert!(Instant::now() < deadline);
            reader.poll(PollLimit::default(), Duration::from_millis(200)).unwrap();
        }
        // One record and one marker an epoch.
        assert_eq!(reader.position(), 2 * (epoch + 1));
        assert!(reader.at_end());
        assert_eq!(log.offsets(&at).unwrap().end, 2 * (epoch + 1));
    }
}

#[test]
fn aborted_and_open_records_are_hidden() {
    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "aborted", 1);
    let at = TopicPartition::new(&topic, 0);
    let raw: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", broker.brokers())
        .set("transactional.id", broker.name("raw"))
        .create()
        .unwrap();
    raw.init_transactions(WAIT).unwrap();
    let send = |text: &str| {
        raw.send(BaseRecord::<[u8], str>::to(&topic).partition(0).payload(text)).map_err(|(e, _)| e).unwrap();
        raw.flush(WAIT).unwrap();
    };
    raw.begin_transaction().unwrap();
    send("aborted");
    raw.abort_transaction(WAIT).unwrap();
    let mut writer = log.writer(&broker.name("w")).unwrap();
    writer.commit(&[append(&topic, 0, "committed")], &[]).unwrap();
    raw.begin_transaction().unwrap();
    send("open");
    let mut reader = log.reader(&at, 0).unwrap();
    let records = read_all(&mut *reader);
    assert_eq!(values(&records), ["committed"]);
    // The open record is beyond the last stable offset: neither shown nor passed.
    assert_eq!(reader.position(), log.offsets(&at).unwrap().end);
    raw.abort_transaction(WAIT).unwrap();
    writer.commit(&[append(&topic, 0, "after")], &[]).unwrap();
    let deadline = Instant::now() + WAIT;
    let mut after = Vec::new();
    while after.is_empty() {
        assert!(Instant::now() < deadline);
        after = reader.poll(PollLimit::default(), Duration::from_millis(200)).unwrap();
    }
    assert_eq!(values(&after), ["after"]);
    // The independent reader agrees.
    let seen = broker.console_consume(&topic, Some(2), Duration::from_secs(15)).unwrap();
    assert_eq!(seen, [("k".to_owned(), "committed".to_owned()), ("k".to_owned(), "after".to_owned())]);
}

#[test]
fn a_second_writer_of_an_id_fences_the_first() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "fence", 1);
    let id = broker.name("w");
    let mut first = log.writer(&id).unwrap();
    first.commit(&[append(&topic, 0, "1")], &[]).unwrap();
    let mut second = log.writer(&id).unwrap();
    for _ in 0..2 {
        let error = first.commit(&[append(&topic, 0, "zombie")], &[]).unwrap_err();
        assert!(matches!(error, CommitError::Fenced { .. }), "{error:?}");
    }
    // The fenced writer has not taken the id back.
    second.commit(&[append(&topic, 0, "2")], &[]).unwrap();
    let records = read_all(&mut *log.reader(&TopicPartition::new(&topic, 0), 0).unwrap());
    assert_eq!(values(&records), ["1", "2"]);
}

#[test]
fn two_members_share_and_one_leaves_for_good() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "group", 4);
    let group = broker.name("g");
    let topics = [topic.clone()];
    let mut a = log.join(&group, &topics, &member("a")).unwrap();
    assert_eq!(settle_group(&mut [(&mut a, 4)])[0].len(), 4);
    let mut b = log.join(&group, &topics, &member("b")).unwrap();
    let held = settle_group(&mut [(&mut a, 2), (&mut b, 2)]);
    assert!(held[0].iter().all(|at| !held[1].contains(at)), "{held:?}");
    let began = Instant::now();
    b.leave(true).unwrap();
    settle_group(&mut [(&mut a, 4)]);
    assert!(began.elapsed() < Duration::from_secs(15), "the session ran out instead: {:?}", began.elapsed());
    a.leave(true).unwrap();
}

#[test]
fn a_member_that_returns_keeps_its_partitions() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "static", 4);
    let group = broker.name("g");
    let topics = [topic.clone()];
    let mut a = log.join(&group, &topics, &member("a")).unwrap();
    let mut b = log.join(&group, &topics, &member("b")).unwrap();
    let before = settle_group(&mut [(&mut a, 2), (&mut b, 2)]);
    b.leave(false).unwrap();
    assert_eq!(a.poll(Duration::from_secs(2)).unwrap(), None, "nothing moves while the member is away");
    let mut b = log.join(&group, &topics, &member("b")).unwrap();
    let after = settle_group(&mut [(&mut b, 2)]);
    assert_eq!(after[0], before[1]);
    assert_eq!(a.poll(Duration::from_millis(500)).unwrap(), None);
}

#[test]
fn records_and_offsets_are_one() {
    let broker = Broker::shared();
    let log = broker.log();
    let input = topic(broker, &log, "in", 1);
    let output = topic(broker, &log, "out", 2);
    let group = broker.name("g");
    let at = TopicPartition::new(&input, 0);
    let mut m = log.join(&group, std::slice::from_ref(&input), &member("a")).unwrap();
    settle_group(&mut [(&mut m, 1)]);
    let id = broker.name("w");
    let mut writer = m.writer(&id).unwrap();
    assert_eq!(log.committed(&group, std::slice::from_ref(&at)).unwrap(), [None]);
    writer.commit(&[append(&output, 0, "x"), append(&output, 1, "y")], &[(at.clone(), committed(7, "hash"))]).unwrap();
    assert_eq!(log.committed(&group, std::slice::from_ref(&at)).unwrap(), [Some(committed(7, "hash"))]);
    // Offsets alone, and records alone.
    writer.commit(&[], &[(at.clone(), committed(9, ""))]).unwrap();
    writer.commit(&[append(&output, 0, "z")], &[]).unwrap();
    assert_eq!(log.committed(&group, std::slice::from_ref(&at)).unwrap(), [Some(committed(9, ""))]);
    // A refused epoch leaves nothing.
    let error = writer
        .commit(&[append(&output, 0, "no"), append(&output, 1, vec![0u8; (1 << 20) + 1])], &[(at.clone(), committed(11, ""))]);
    assert!(matches!(error, Err(CommitError::TooLarge { bytes, .. }) if bytes == (1 << 20) + 2), "{error:?}");
    // Offsets of a partition that is not held are not committed.
    let foreign = TopicPartition::new(&output, 0);
    assert!(matches!(writer.commit(&[], &[(foreign, committed(1, ""))]), Err(CommitError::Fenced { .. })));
    assert_eq!(log.committed(&group, &[at]).unwrap(), [Some(committed(9, ""))]);
    let records = read_all(&mut *log.reader(&TopicPartition::new(&output, 0), 0).unwrap());
    assert_eq!(values(&records), ["x", "z"]);
}

#[test]
fn a_crash_between_produce_and_commit_leaves_nothing() {
    use rdkafka::ClientConfig;
    use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "crash", 1);
    let at = TopicPartition::new(&topic, 0);
    let id = broker.name("w");
    // A process that dies with an open transaction, played by a bare producer of the same id.
    let dead: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", broker.brokers()).set("transactional.id", &id).create().unwrap();
    dead.init_transactions(WAIT).unwrap();
    dead.begin_transaction().unwrap();
    dead.send(BaseRecord::<[u8], str>::to(&topic).partition(0).payload("half")).map_err(|(e, _)| e).unwrap();
    dead.flush(WAIT).unwrap();
    drop(dead);
    assert_eq!(log.offsets(&at).unwrap().end, 0, "the open record is not stable");
    // The successor aborts it.
    let mut writer = log.writer(&id).unwrap();
    writer.commit(&[append(&topic, 0, "whole")], &[]).unwrap();
    assert_eq!(values(&read_all(&mut *log.reader(&at, 0).unwrap())), ["whole"]);
}

#[test]
fn an_offset_outside_the_partition_is_an_error() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "range", 1);
    let at = TopicPartition::new(&topic, 0);
    let mut writer = log.writer(&broker.name("w")).unwrap();
    let batch: Vec<Append> = (0..10).map(|i| append(&topic, 0, format!("{i}"))).collect();
    writer.commit(&batch, &[]).unwrap();
    let mut late = log.reader(&at, 2).unwrap();
    log.delete_before(&at, 5).unwrap();
    assert_eq!(log.offsets(&at).unwrap().start, 5);
    let wanted_start = |error: &LogError| matches!(error, LogError::OutOfRange { wanted: 2, start: 5, end: 11, .. });
    let error = log.reader(&at, 2).err().unwrap();
    assert!(wanted_start(&error), "{error}");
    assert!(matches!(log.reader(&at, 12).err().unwrap(), LogError::OutOfRange { .. }));
    assert_eq!(values(&read_all(&mut *log.reader(&at, 5).unwrap())).len(), 5);
    // A reader whose next record was deleted: either its fetch came first, or it says so; it never jumps.
    match late.poll(PollLimit { records: 1, bytes: 1 }, Duration::from_secs(5)) {
        Ok(records) => assert_eq!(records[0].offset, 2),
        Err(error) => assert!(wanted_start(&error), "{error}"),
    }
}

#[test]
fn offsets_are_found_by_time() {
    use tidewatch_schemas::time::EventTime;
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "times", 1);
    let at = TopicPartition::new(&topic, 0);
    let mut writer = log.writer(&broker.name("w")).unwrap();
    let batch: Vec<Append> =
        (0..10).map(|i| Append { timestamp: Some(EventTime::from_secs(1000 + 10 * i)), ..append(&topic, 0, "v") }).collect();
    writer.commit(&batch, &[]).unwrap();
    for (secs, offset) in [(0, 0), (1000, 0), (1001, 1), (1050, 5), (1090, 9), (1091, 11)] {
        assert_eq!(log.offset_at(&at, EventTime::from_secs(secs)).unwrap(), offset, "{secs}");
    }
    assert_eq!(log.offset_at(&at, EventTime::from_secs(1010).plus(1)).unwrap(), 2);
    assert_eq!(log.offset_at(&at, EventTime::MIN).unwrap(), 0);
    assert_eq!(log.offset_at(&at, EventTime::MAX).unwrap(), 11);
}

#[test]
fn unknown_things_are_named() {
    let broker = Broker::shared();
    let log = broker.log();
    let name = topic(broker, &log, "known", 2);
    assert!(log.topics().unwrap().contains(&(name.clone(), 2)));
    assert!(log.topics().unwrap().iter().all(|(t, _)| !t.starts_with("__")));
    log.create_topic(&TopicSpec::new(&name, 2)).unwrap();
    assert!(matches!(log.create_topic(&TopicSpec::new(&name, 3)), Err(LogError::Partitions { expected: 3, got: 2, .. })));
    let began = Instant::now();
    assert!(matches!(log.partitions("nowhere"), Err(LogError::UnknownTopic { .. })));
    assert!(matches!(log.offsets(&TopicPartition::new("nowhere", 0)), Err(LogError::UnknownTopic { .. })));
    assert!(matches!(log.reader(&TopicPartition::new(&name, 2), 0).err(), Some(LogError::UnknownPartition { .. })));
    let mut writer = log.writer(&broker.name("w")).unwrap();
    let error = writer.commit(&[append("nowhere", 0, "v")], &[]).unwrap_err();
    assert!(matches!(error, CommitError::Log(LogError::UnknownTopic { .. })), "{error:?}");
    let error = writer.commit(&[append(&name, 9, "v")], &[]).unwrap_err();
    assert!(matches!(error, CommitError::Log(LogError::UnknownPartition { .. })), "{error:?}");
    assert!(matches!(log.join("g", &["nowhere".to_owned()], &member("a")).err(), Some(LogError::UnknownTopic { .. })));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[test]
fn an_unreachable_broker_is_said_so_in_time() {
    let began = Instant::now();
    let error = KafkaLog::connect(KafkaConfig::new("127.0.0.1:1")).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(15));
    let text = error.to_string();
    assert!(matches!(error, LogError::Unreachable { .. }), "{text}");
    assert!(text.contains("127.0.0.1:1") && text.contains("refused"), "{text}");
}

#[test]
fn reading_keeps_up() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "speed", 1);
    let mut writer = log.writer(&broker.name("w")).unwrap();
    let batch: Vec<Append> = (0..100_000).map(|_| append(&topic, 0, vec![b'x'; 150])).collect();
    let began = Instant::now();
    writer.commit(&batch, &[]).unwrap();
    writer.commit(&batch, &[]).unwrap();
    let wrote = began.elapsed();
    let began = Instant::now();
    let records = read_all(&mut *log.reader(&TopicPartition::new(&topic, 0), 0).unwrap());
    let read = began.elapsed();
    eprintln!("200000 records of 150 bytes: written in {wrote:?}, read in {read:?}");
    assert_eq!(records.len(), 200_000);
}

/// Small transactions, so far apart that the client finds an end behind each, wait in it when somebody looks at last.
#[test]
fn who_polls_seldom_gets_all_that_came() {
    let broker = Broker::shared();
    let log = broker.log();
    let topic = topic(broker, &log, "seldom", 1);
    let mut reader = log.reader(&TopicPartition::new(&topic, 0), 0).unwrap();
    while !reader.at_end() {
        reader.poll(PollLimit::default(), Duration::from_millis(200)).unwrap();
    }
    let mut writer = log.writer(&broker.name("w")).unwrap();
    for i in 0..8 {
        writer.commit(&[append(&topic, 0, format!("{i}"))], &[]).unwrap();
        std::thread::sleep(Duration::from_millis(800));
    }
    let deadline = Instant::now() + Duration::from_secs(20);
    let (mut records, mut polls) = (0, 0);
    while records < 8 {
        assert!(Instant::now() < deadline);
        let came = reader.poll(PollLimit::default(), Duration::ZERO).unwrap().len();
        (records, polls) = (records + came, polls + u32::from(came > 0));
    }
    // The first takes what is there; the client may still have been fetching the last one.
    assert!(polls <= 2, "{polls} polls for 8 records");
}

#[test]
fn the_newer_group_protocol_works_behind_its_switch() {
    let broker = Broker::shared();
    let mut config = broker.config();
    config.group_protocol = GroupProtocol::Consumer;
    let log = KafkaLog::connect(config).unwrap();
    let topic = topic(broker, &log, "kip848", 4);
    let group = broker.name("g");
    let topics = [topic.clone()];
    let mut a = log.join(&group, &topics, &member("a")).unwrap();
    settle_group(&mut [(&mut a, 4)]);
    let mut b = log.join(&group, &topics, &member("b")).unwrap();
    let held = settle_group(&mut [(&mut a, 2), (&mut b, 2)]);
    let at = held[1][0].clone();
    b.writer(&broker.name("w")).unwrap().commit(&[], &[(at.clone(), committed(3, "x"))]).unwrap();
    assert_eq!(log.committed(&group, &[at]).unwrap(), [Some(committed(3, "x"))]);
}
