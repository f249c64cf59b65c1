//! Kafka with TLS, logins and rights: a job runs with exactly the rights that docs/kafka.md lists, says when they or its
//! login are taken away, takes a new password from its file, and loses nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;

use tidewatch::log::{Log, TopicSpec};
use tidewatch_tests::job::{INPUTS, Job, WAIT};
use tidewatch_tests::program::Process;
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

/// Names of all topics.
fn topics(log: &dyn Log) -> Vec<String> {
    log.topics().unwrap().into_iter().map(|(name, _)| name).collect()
}

/// What `validate --online` finds; it must end with this code.
fn validate(dir: &Path, code: i32) -> Vec<serde_json::Value> {
    let process = Process::start(PROGRAM, "validate", dir, &["validate", "topology.yaml", "--online", "--json"]).unwrap();
    let status = process.wait(WAIT).unwrap();
    let out = std::fs::read_to_string(dir.join("validate.out")).unwrap();
    let report: serde_json::Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    assert_eq!(status.code(), Some(code), "{report:#}");
    report["online"].as_array().unwrap().clone()
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

    // What is missing is known before a start.
    let before = topics(&log);
    let found = validate(dir, 1);
    let denied = |about: &str| found.iter().any(|f| f["level"] == "problem" && f["about"].as_str().unwrap().contains(about));
    assert!(denied("secure.flows") && denied("secure.tidewatch.obs") && denied("group tidewatch-secure-detect"), "{found:#?}");

    // At a start, what is refused is said at once, and the process ends.
    job.start(&[]).unwrap();
    assert_eq!(job.ended().unwrap().code(), Some(2));
    assert!(job.said().contains("User:tide"), "{}", job.said());

    for right in rights(&input) {
        broker.acl("--add", USER, &right).unwrap();
    }
    let found = validate(dir, 0);
    assert!(found.iter().any(|f| f["found"] == "User:tide may Describe, Read"), "{found:#?}");
    assert!(found.iter().all(|f| f["level"] == "good" || f["level"] == "note"), "{found:#?}");
    assert_eq!(topics(&log), before, "validate makes nothing");

    job.start(&[]).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();

    // The right to write is taken away, and given back.
    let before = job.said().len();
    let write: Vec<&str> = OURS.into_iter().chain(["--operation", "Write"]).collect();
    broker.acl("--remove", USER, &write).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["waiting", "denied", "write an epoch"]).unwrap();
    job.until_not_ready("denied").unwrap();
    eprintln!("{said}");
    broker.acl("--add", USER, &write).unwrap();
    job.until_said(before, &["goes on", "denied"]).unwrap();
    job.until_ready().unwrap();
    job.until_signals(&log).unwrap();

    // The login is taken away; another password is given, and found in the file.
    let before = job.said().len();
    broker.remove_user(USER).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["waiting", "denied", "login"]).unwrap();
    job.until_not_ready("denied").unwrap();
    assert!(!said.contains("first"), "{said}");
    eprintln!("{said}");
    broker.user(USER, "second").unwrap();
    std::fs::write(&password, "second\n").unwrap();
    // Which of its tries comes last, refused or unanswered, is the client's affair.
    job.until_said(before, &["goes on"]).unwrap();
    job.until_ready().unwrap();
    job.produce(&log, 1).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}
