//! Commits of the Kafka log whose outcome the client cannot know: the end of the transaction is asked for and the answer
//! is lost, or the question is. A proxy before a real broker loses them. Whatever happened, `commit` must say it.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::{Append, CommitError, Committed, Log, LogError, Member, Membership, PollLimit, TopicPartition, TopicSpec};
use tidewatch_tests::kafka::Broker;
use tidewatch_tests::node::free_ports;
use tidewatch_tests::proxy::{Lose, Proxy, Trap};

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
    let trap = Trap::default();
    let behind = |port| {
        let own = free_ports(1).unwrap()[0];
        Proxy::start(own, port, &trap).unwrap();
        own
    };
    let broker = Broker::start_behind(Some(&behind)).unwrap();
    let mut config = broker.config();
    config.times.commit_budget = Duration::from_millis(1500);
    config.times.transaction = Duration::from_secs(4);
    let log = KafkaLog::connect(config).unwrap();

    // Without a group: told by a stored record.
    let plain = broker.name("plain");
    log.create_topic(&TopicSpec::new(&plain, 1)).unwrap();
    let mut writer = log.writer("plain").unwrap();
    writer.commit(&[append(&plain, "1")], &[]).unwrap();
    trap.arm(Lose::Answer, "", None);
    writer.commit(&[append(&plain, "2")], &[]).unwrap();
    assert!(trap.caught() > 0, "the proxy lost nothing");
    trap.arm(Lose::Request, "", None);
    let outcome = writer.commit(&[append(&plain, "lost")], &[]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    assert!(trap.caught() > 0, "the proxy lost nothing");
    trap.disarm();
    writer.commit(&[append(&plain, "3")], &[]).unwrap();
    assert_eq!(read(&log, &plain), ["1", "2", "3"]);
    // A connection that breaks before the answer: the client asks again by itself, and says so in passing. The first
    // request may still be under way somewhere, so the next epoch must not carry its producer epoch.
    let inits = trap.inits();
    trap.arm(Lose::Connection, "", Some(1));
    writer.commit(&[append(&plain, "4")], &[]).unwrap();
    assert!(trap.caught() > 0, "the proxy cut nothing");
    assert_eq!(trap.inits(), inits + 1, "a new producer epoch after a broken connection");
    writer.commit(&[append(&plain, "5")], &[]).unwrap();
    assert_eq!(trap.inits(), inits + 1, "and no other");
    assert_eq!(read(&log, &plain), ["1", "2", "3", "4", "5"]);

    // With a group: told by the committed offsets.
    let (input, output, group) = (broker.name("in"), broker.name("out"), broker.name("g"));
    log.create_topic(&TopicSpec::new(&input, 1)).unwrap();
    log.create_topic(&TopicSpec::new(&output, 1)).unwrap();
    let at = TopicPartition::new(&input, 0);
    let held = || log.committed(&group, std::slice::from_ref(&at)).unwrap().remove(0);
    let member = alone(&log, &group, &input);
    let mut writer = member.writer("task").unwrap();
    trap.arm(Lose::Request, "", None);
    let outcome = writer.commit(&[append(&output, "lost")], &[(at.clone(), at_offset(1))]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    assert_eq!(held(), None);
    trap.arm(Lose::Answer, "", None);
    writer.commit(&[append(&output, "a")], &[(at.clone(), at_offset(1))]).unwrap();
    assert_eq!(held(), Some(at_offset(1)));
    // Offsets alone, both ways.
    writer.commit(&[], &[(at.clone(), at_offset(2))]).unwrap();
    assert_eq!(held(), Some(at_offset(2)));
    trap.arm(Lose::Request, "", None);
    let outcome = writer.commit(&[], &[(at.clone(), at_offset(3))]);
    assert!(matches!(outcome, Err(CommitError::Aborted { .. })), "{outcome:?}");
    // Records with an offset that does not move: told by a stored record again.
    trap.arm(Lose::Answer, "", None);
    writer.commit(&[append(&output, "b")], &[(at.clone(), at_offset(2))]).unwrap();
    trap.disarm();
    writer.commit(&[append(&output, "c")], &[(at.clone(), at_offset(3))]).unwrap();
    assert_eq!(held(), Some(at_offset(3)));
    assert_eq!(read(&log, &output), ["a", "b", "c"]);
}

/// What members hold, polled until it is as wanted or the time is up.
fn held_by(members: &mut [Box<dyn Membership>], held: &mut Vec<Vec<TopicPartition>>, wanted: &[usize], within: Duration) {
    let deadline = Instant::now() + within;
    held.resize(members.len(), Vec::new());
    while held.iter().map(Vec::len).ne(wanted.iter().copied()) && Instant::now() < deadline {
        for (member, held) in members.iter_mut().zip(held.iter_mut()) {
            if let Some(now) = member.poll(Duration::from_millis(50)).unwrap() {
                *held = now;
            }
        }
    }
}

/// The group moves a partition in two rounds, and the member that has to ask for the second is gone before it could. It
/// comes back within its session, as a static member does: to what it had, without a round.
#[test]
fn a_partition_given_up_by_a_member_that_died_is_given_out() {
    let trap = Trap::default();
    let behind = |port| {
        let own = free_ports(1).unwrap()[0];
        Proxy::start(own, port, &trap).unwrap();
        own
    };
    let broker = Broker::start_behind(Some(&behind)).unwrap();
    let mut config = broker.config();
    // Not the end of the session deals anew.
    config.times.session = Duration::from_secs(200);
    let log = KafkaLog::connect(config).unwrap();
    let (topic, group) = (broker.name("moving"), broker.name("g"));
    log.create_topic(&TopicSpec::new(&topic, 2)).unwrap();
    let join = |id: &str| {
        let member = Member { id: id.into(), index: 0, of: 2 };
        log.join(&group, std::slice::from_ref(&topic), &member).unwrap()
    };
    let mut members = vec![join("giver")];
    let mut held = Vec::new();
    held_by(&mut members, &mut held, &[2], Duration::from_secs(30));
    assert_eq!(held[0].len(), 2);

    trap.arm_joining("giver", 1);
    members.push(join("taker"));
    let deadline = Instant::now() + Duration::from_secs(30);
    while trap.caught() == 0 {
        assert!(Instant::now() < deadline, "the giver never asked for the second round");
        for member in &mut members {
            member.poll(Duration::from_millis(50)).unwrap();
        }
    }
    members.remove(0).leave(false).unwrap();
    trap.disarm();
    members.insert(0, join("giver"));
    held = vec![Vec::new(); 2];
    // That there is something to mend: it has come back, and the other was given nothing.
    held_by(&mut members, &mut held, &[1, 0], Duration::from_secs(30));
    assert_eq!([held[0].len(), held[1].len()], [1, 0], "the group dealt by itself");
    held_by(&mut members, &mut held, &[1, 1], Duration::from_secs(60));
    let mut held = held.concat();
    held.sort();
    assert_eq!(held, [TopicPartition::new(&topic, 0), TopicPartition::new(&topic, 1)]);
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
