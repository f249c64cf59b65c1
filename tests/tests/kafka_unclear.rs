//! Commits of the Kafka log whose outcome the client cannot know: the end of the transaction is asked for and the answer
//! is lost, or the question is. A proxy before a real broker loses them. Whatever happened, `commit` must say it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::{Append, CommitError, Committed, Log, LogError, Member, Membership, PollLimit, TopicPartition, TopicSpec};
use tidewatch_tests::kafka::Broker;

/// `EndTxn` in the Kafka protocol.
const END_TXN: [u8; 2] = [0, 26];
/// `InitProducerId`.
const INIT_PRODUCER_ID: [u8; 2] = [0, 22];
/// Larger than any request of these tests.
const FRAME_BYTES_MAX: usize = 8 << 20;

/// What happens to the end of a transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lose {
    Nothing = 0,
    /// The broker never gets the request.
    Request = 1,
    /// The client never gets the answer.
    Answer = 2,
    /// The broker gets the request, and the connection is cut before its answer; once.
    Cut = 3,
}

/// A proxy that can lose the end of a transaction; the connection is dead from then on, but stays open.
#[derive(Clone, Default)]
struct Proxy {
    lose: Arc<AtomicU8>,
    lost: Arc<AtomicU32>,
    inits: Arc<AtomicU32>,
}

impl Proxy {
    fn start(&self, broker: u16) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = self.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let proxy = proxy.clone();
                std::thread::spawn(move || proxy.serve(client, broker));
            }
        });
        port
    }

    /// From now on.
    fn lose(&self, what: Lose) {
        self.lost.store(0, Ordering::SeqCst);
        self.lose.store(what as u8, Ordering::SeqCst);
    }

    /// How many were lost since.
    fn lost(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }

    /// Passes requests on, frame by frame, until the client goes away. Answers pass on a thread of their own.
    fn serve(&self, mut client: TcpStream, broker: u16) -> Option<()> {
        let mut server = TcpStream::connect(("127.0.0.1", broker)).ok()?;
        let dead = Arc::new(AtomicU8::new(0));
        let (mut from, mut to, silent) = (server.try_clone().ok()?, client.try_clone().ok()?, Arc::clone(&dead));
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n) = from.read(&mut buffer) {
                let muted = silent.load(Ordering::SeqCst) != 0;
                if n == 0 || (!muted && to.write_all(&buffer[..n]).is_err()) {
                    break;
                }
            }
            drop(to.shutdown(Shutdown::Both));
        });
        let done = loop {
            let Some(frame) = frame(&mut client) else { break None };
            let lose = self.lose.load(Ordering::SeqCst);
            self.inits.fetch_add(u32::from(frame[4..6] == INIT_PRODUCER_ID), Ordering::SeqCst);
            if frame[4..6] == END_TXN && lose == Lose::Cut as u8 {
                dead.store(1, Ordering::SeqCst);
                self.lose(Lose::Nothing);
                self.lost.fetch_add(1, Ordering::SeqCst);
                server.write_all(&frame).ok()?;
                drop(client.shutdown(Shutdown::Both));
                break None;
            }
            if frame[4..6] == END_TXN && lose != Lose::Nothing as u8 {
                // Muted before the broker can answer.
                dead.store(1, Ordering::SeqCst);
                self.lost.fetch_add(1, Ordering::SeqCst);
                if lose == Lose::Answer as u8 {
                    server.write_all(&frame).ok()?;
                }
            } else if dead.load(Ordering::SeqCst) == 0 && server.write_all(&frame).is_err() {
                break None;
            }
        };
        drop(server.shutdown(Shutdown::Both));
        done
    }
}

/// One request with its length.
fn frame(client: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 4];
    client.read_exact(&mut length).ok()?;
    let n = usize::try_from(i32::from_be_bytes(length)).ok()?;
    if !(2..=FRAME_BYTES_MAX).contains(&n) {
        return None;
    }
    let mut frame = vec![0; 4 + n];
    frame[..4].copy_from_slice(&length);
    client.read_exact(&mut frame[4..]).ok()?;
    Some(frame)
}

fn append(topic: &str, value: &str) -> Append {
    Append {
        topic: topic.into(),
        partition: 0,
        timestamp: None,
        key: None,
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        headers: Vec::new(),
    }
}

/// Everything committed to partition 0.
fn read(log: &KafkaLog, topic: &str) -> Vec<String> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut reader = log.reader(&TopicPartition::new(topic, 0), 0).unwrap();
    let mut all = Vec::new();
    while !reader.at_end() {
        assert!(Instant::now() < deadline);
        let records = reader.poll(PollLimit::default(), Duration::from_millis(500)).unwrap();
        all.extend(records.iter().map(|r| String::from_utf8_lossy(r.value.as_ref().unwrap()).into_owned()));
    }
    all
}

fn alone(log: &KafkaLog, group: &str, topic: &str) -> Box<dyn Membership> {
    let member = Member { id: "only".into(), index: 0, of: 1 };
    let mut membership = log.join(group, &[topic.to_owned()], &member).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while membership.poll(Duration::from_millis(100)).unwrap().is_none() {
        assert!(Instant::now() < deadline);
    }
    membership
}

fn at_offset(offset: i64) -> Committed {
    Committed { offset, metadata: format!("at {offset}") }
}

/// One broker for all cases: each costs seconds to start.
#[test]
fn an_unclear_commit_is_settled() {
    let proxy = Proxy::default();
    let broker = Broker::start_behind(Some(&|port| proxy.start(port))).unwrap();
    let mut config = broker.config();
    config.times.commit_budget = Duration::from_millis(1500);
    config.times.transaction = Duration::from_secs(4);
    let log = KafkaLog::connect(config).unwrap();

    // Without a group: told by a stored record.
    let plain = broker.name("plain");
    log.create_topic(&TopicSpec::new(&plain, 1)).unwrap();
    let mut writer = log.writer("plain").unwrap();
    writer.commit(&[append(&plain, "1")], &[]).unwrap();
    proxy.lose(Lose::Answer);
    writer.commit(&[append(&plain, "2")], &[]).unwrap();
    assert!(proxy.lost() > 0, "the proxy lost nothing");
    proxy.lose(Lose::Request);
    let outcome = writer.commit(&[append(&plain, "lost")], &[]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    assert!(proxy.lost() > 0, "the proxy lost nothing");
    proxy.lose(Lose::Nothing);
    writer.commit(&[append(&plain, "3")], &[]).unwrap();
    assert_eq!(read(&log, &plain), ["1", "2", "3"]);
    // A connection that breaks after the request: the client asks again by itself, and says so in passing. The first
    // request may still be under way somewhere, so the next epoch must not carry its producer epoch.
    let inits = proxy.inits.load(Ordering::SeqCst);
    proxy.lose(Lose::Cut);
    writer.commit(&[append(&plain, "4")], &[]).unwrap();
    assert!(proxy.lost() > 0, "the proxy cut nothing");
    assert_eq!(proxy.inits.load(Ordering::SeqCst), inits + 1, "a new producer epoch after a broken connection");
    writer.commit(&[append(&plain, "5")], &[]).unwrap();
    assert_eq!(proxy.inits.load(Ordering::SeqCst), inits + 1, "and no other");
    assert_eq!(read(&log, &plain), ["1", "2", "3", "4", "5"]);

    // With a group: told by the committed offsets.
    let (input, output, group) = (broker.name("in"), broker.name("out"), broker.name("g"));
    log.create_topic(&TopicSpec::new(&input, 1)).unwrap();
    log.create_topic(&TopicSpec::new(&output, 1)).unwrap();
    let at = TopicPartition::new(&input, 0);
    let held = || log.committed(&group, std::slice::from_ref(&at)).unwrap().remove(0);
    let member = alone(&log, &group, &input);
    let mut writer = member.writer("task").unwrap();
    proxy.lose(Lose::Request);
    let outcome = writer.commit(&[append(&output, "lost")], &[(at.clone(), at_offset(1))]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    assert_eq!(held(), None);
    proxy.lose(Lose::Answer);
    writer.commit(&[append(&output, "a")], &[(at.clone(), at_offset(1))]).unwrap();
    assert_eq!(held(), Some(at_offset(1)));
    // Offsets alone, both ways.
    writer.commit(&[], &[(at.clone(), at_offset(2))]).unwrap();
    assert_eq!(held(), Some(at_offset(2)));
    proxy.lose(Lose::Request);
    let outcome = writer.commit(&[], &[(at.clone(), at_offset(3))]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    // Records with an offset that does not move: told by a stored record again.
    proxy.lose(Lose::Answer);
    writer.commit(&[append(&output, "b")], &[(at.clone(), at_offset(2))]).unwrap();
    proxy.lose(Lose::Nothing);
    writer.commit(&[append(&output, "c")], &[(at.clone(), at_offset(3))]).unwrap();
    assert_eq!(held(), Some(at_offset(3)));
    assert_eq!(read(&log, &output), ["a", "b", "c"]);
}

#[test]
fn a_broker_that_goes_away_is_no_end_and_no_loss() {
    let mut broker = Broker::start().unwrap();
    let mut config = broker.config();
    config.times.commit_budget = Duration::from_millis(1500);
    config.times.transaction = Duration::from_secs(4);
    config.times.reach = Duration::from_secs(3);
    let log = KafkaLog::connect(config).unwrap();
    let topic = broker.name("away");
    log.create_topic(&TopicSpec::new(&topic, 1)).unwrap();
    let mut writer = log.writer("away").unwrap();
    writer.commit(&[append(&topic, "1")], &[]).unwrap();
    let mut reader = log.reader(&TopicPartition::new(&topic, 0), 0).unwrap();
    while !reader.at_end() {
        reader.poll(PollLimit::default(), Duration::from_millis(500)).unwrap();
    }
    broker.kill().unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    let told = loop {
        assert!(Instant::now() < deadline, "the reader never said that its broker is away");
        match reader.poll(PollLimit::default(), Duration::from_millis(500)) {
            Ok(records) => assert!(records.is_empty()),
            Err(error) => break error,
        }
    };
    assert!(matches!(told, LogError::Unreachable { .. }), "{told}");
    assert!(!reader.at_end(), "an unreachable partition is at its end");
    let outcome = writer.commit(&[append(&topic, "2")], &[]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. } | CommitError::Log(LogError::Unreachable { .. }))), "{outcome:?}");
    broker.launch().unwrap();
    // The same reader and the same writer go on.
    writer.commit(&[append(&topic, "2")], &[]).unwrap();
    let mut seen = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while seen.is_empty() || !reader.at_end() {
        assert!(Instant::now() < deadline);
        // Still in doubt until the first answer.
        let records = reader.poll(PollLimit::default(), Duration::from_millis(500)).unwrap_or_default();
        seen.extend(records.iter().map(|r| r.value.clone().unwrap()));
    }
    assert_eq!(seen, ["2"]);
}
