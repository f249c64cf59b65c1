//! Kafka with TLS, logins and rights: a job runs with exactly the rights that docs/kafka.md lists, says when they or its
//! login are taken away, takes a new password from its file, and loses nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use tidewatch::log::{Log, TopicSpec};
use tidewatch_tests::job::{INPUTS, Job};
use tidewatch_tests::secure::SecureBroker;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");
const USER: &str = "tide";
const OURS: [&str; 4] = ["--topic", "secure.tidewatch.", "--resource-pattern-type", "prefixed"];

/// The rights of docs/kafka.md, as arguments of `kafka-acls.sh`: every table row is one entry.
fn rights<'a>(input: &'a str) -> Vec<Vec<&'a str>> {
    let prefixed = |kind: &'a str, name: &'a str| vec![kind, name, "--resource-pattern-type", "prefixed"];
    let with = |mut resource: Vec<&'a str>, operations: &[&'a str]| {
        operations.iter().for_each(|o| resource.extend(["--operation", o]));
        resource
    };
    vec![
        with(vec!["--topic", input], &["Describe", "Read"]),
        with(prefixed("--topic", "secure.tidewatch."), &["Describe", "Read", "Write", "Create", "DescribeConfigs"]),
        with(prefixed("--group", "tidewatch-secure-"), &["Describe", "Read"]),
        with(prefixed("--transactional-id", "tidewatch-secure-"), &["Describe", "Write"]),
    ]
}

#[test]
fn a_job_with_the_least_rights_and_without_them() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path();
    let broker = SecureBroker::start(dir).unwrap();
    let log = broker.cluster.log().unwrap();
    let password = dir.join("password");
    std::fs::write(&password, "first\n").unwrap();
    broker.user(USER, "first").unwrap();
    let section = format!(
        "{{kafka: {{brokers: [\"{}\"], tls: {{ca_file: {}}}, sasl: {{mechanism: scram-sha-512, user: {USER}, password_file: {}}}, \
         replication: 1, commit_timeout: 2s, transaction_timeout: 3s, session_timeout: 6s}}}}",
        broker.cluster.brokers(),
        broker.ca_file.display(),
        password.display()
    );
    let mut job = Job::new(PROGRAM, dir, "secure", &section, "").unwrap();
    let input = job.topic.clone();
    log.create_topic(&TopicSpec::new(&input, INPUTS)).unwrap();

    // At a start, what is refused is said at once, and the process ends.
    job.start(&[]).unwrap();
    assert_eq!(job.ended().unwrap().code(), Some(2));
    assert!(job.said().contains("User:tide"), "{}", job.said());

    for right in rights(&input) {
        broker.acl("--add", USER, &right).unwrap();
    }
    job.start(&[]).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();

    // The right to write is taken away, and given back.
    let before = job.said().len();
    let write: Vec<&str> = OURS.into_iter().chain(["--operation", "Write"]).collect();
    broker.acl("--remove", USER, &write).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["waiting", "denied", "secure.tidewatch."]).unwrap();
    eprintln!("{said}");
    broker.acl("--add", USER, &write).unwrap();
    job.until_said(before, &["goes on", "denied"]).unwrap();
    job.until_signals(&log).unwrap();

    // The login is taken away; another password is given, and found in the file.
    let before = job.said().len();
    broker.remove_user(USER).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["waiting", "denied", "login"]).unwrap();
    assert!(!said.contains("first"), "{said}");
    eprintln!("{said}");
    broker.user(USER, "second").unwrap();
    std::fs::write(&password, "second\n").unwrap();
    job.until_said(before, &["goes on", "denied"]).unwrap();
    job.produce(&log, 1).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}
