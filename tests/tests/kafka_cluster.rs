//! A cluster of three brokers that lose their coordinator or their answers: a commit says what happened, and what was
//! committed is read by an independent client.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::time::Duration;

use tidewatch::log::kafka::{KafkaConfig, KafkaLog};
use tidewatch::log::{Append, CommitError, Log, LogError, TopicPartition, TopicSpec, Writer};
use tidewatch_tests::cluster::{Cluster, ClusterOptions};
use tidewatch_tests::proxy::Lose;

/// Longest wait for all replicas after a broker's start.
const IN_SYNC: Duration = Duration::from_secs(90);

fn append(value: &str) -> Append {
    Append {
        topic: "t".into(),
        partition: 0,
        timestamp: None,
        key: Some("k".to_owned().into()),
        value: Some(value.to_owned().into()),
        headers: Vec::new(),
    }
}

/// Until it is committed: an epoch that was aborted, or that could not begin, is done again by its caller.
fn commit(writer: &mut dyn Writer, value: &str) -> u32 {
    for again in 0..20 {
        match writer.commit(&[append(value)], &[]) {
            Ok(()) => return again,
            Err(CommitError::Aborted { .. } | CommitError::Log(LogError::Unreachable { .. })) => {}
            Err(other) => panic!("{value}: {other}"),
        }
    }
    panic!("{value} was never committed")
}

/// One cluster for all cases: its start takes seconds.
#[test]
fn answers_and_coordinators_may_be_lost() {
    let mut cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    eprintln!("three brokers started in {:?}", cluster.start_time);
    cluster.log().unwrap().create_topic(&TopicSpec::new("t", 1)).unwrap();
    let mut config = KafkaConfig { replicas: Some(3), ..KafkaConfig::new(cluster.brokers()) };
    config.times.commit_budget = Duration::from_secs(2);
    config.times.transaction = Duration::from_secs(6);
    let log = KafkaLog::connect(config).unwrap();
    let mut writer = log.writer("w").unwrap();
    assert_eq!(commit(&mut *writer, "plain"), 0);

    // The connection breaks between the end of the transaction and the answer, once; then at every try.
    cluster.trap().arm(Lose::Connection, "w", Some(1));
    assert_eq!(commit(&mut *writer, "cut"), 0);
    assert_eq!(cluster.trap().caught(), 1);
    cluster.trap().arm(Lose::Connection, "w", None);
    assert_eq!(commit(&mut *writer, "cut again and again"), 0);
    assert!(cluster.trap().caught() > 1);
    cluster.trap().disarm();

    let coordinator = cluster.transaction_coordinator("w").unwrap();
    cluster.kill(coordinator).unwrap();
    let again = commit(&mut *writer, "coordinator killed");
    eprintln!("committed after {again} aborts");
    assert_ne!(cluster.transaction_coordinator("w").unwrap(), coordinator);
    cluster.launch(coordinator).unwrap();
    eprintln!("in sync {:?} after the launch", cluster.wait_until_in_sync(IN_SYNC).unwrap());

    let leader = cluster.leader(&TopicPartition::new("t", 0)).unwrap();
    cluster.kill(leader).unwrap();
    commit(&mut *writer, "leader killed");
    cluster.launch(leader).unwrap();
    cluster.wait_until_in_sync(IN_SYNC).unwrap();

    cluster.grow("t", 2).unwrap();
    assert_eq!(log.partitions("t").unwrap(), 2);
    let read = cluster.console_consume("t", Some(5), Duration::from_secs(10)).unwrap();
    let values: Vec<&str> = read.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["plain", "cut", "cut again and again", "coordinator killed", "leader killed"]);
}
