//! A running job and what it runs on: a full disk, an object store that is away, brokers that are away, a topic that is
//! deleted. The job says what is wrong, goes on by itself where that is safe, and loses nothing.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch::log::kafka::KafkaLog;
use tidewatch::log::socket::SocketLog;
use tidewatch::log::{Log, TopicSpec};
use tidewatch_tests::job::{self, INPUTS, Job};
use tidewatch_tests::kafka::Broker;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Threads that a client may have more after a reconnect than before it.
const THREADS_MORE: usize = 8;

/// A file system of its own, in memory.
struct Disk(tempfile::TempDir);

impl Disk {
    /// So many MiB large.
    fn new(mib: u32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "tmpfs"]).arg(dir.path()).status();
        assert!(mounted.unwrap().success(), "this test mounts a file system of its own, so it runs as root");
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all space but so many MiB.
    fn fill(&self, but_mib: u64) {
        let stat = Command::new("stat").args(["-f", "-c", "%a %S"]).arg(self.path()).output().unwrap();
        let stat = String::from_utf8(stat.stdout).unwrap();
        let (free, block) = stat.trim().split_once(' ').unwrap();
        let bytes = free.parse::<u64>().unwrap() * block.parse::<u64>().unwrap();
        let take = bytes.saturating_sub(but_mib << 20);
        let status = Command::new("fallocate").args(["-l", &take.to_string()]).arg(self.path().join("ballast")).status();
        assert!(status.unwrap().success());
    }

    fn free(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(self.path()).status());
    }
}

fn kafka_section(brokers: &str) -> String {
    format!(
        "{{kafka: {{brokers: [\"{brokers}\"], allow_plaintext: true, replication: 1, commit_timeout: 2s, transaction_timeout: 3s, \
         session_timeout: 6s}}}}"
    )
}

fn delete_topic(broker: &Broker, topic: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", broker.brokers()).set("log_level", "0").create().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let done = runtime.block_on(admin.delete_topics(&[topic], &AdminOptions::new())).unwrap();
    assert!(done.iter().all(Result::is_ok), "{done:?}");
}

/// A job on a broker, with the signals of two rounds found.
fn running(broker: &Broker, deployment: &'static str, dir: &Path, more: &str) -> (Job, KafkaLog) {
    let log = broker.log();
    let mut job = Job::new(PROGRAM, dir, deployment, &kafka_section(broker.brokers()), more).unwrap();
    log.create_topic(&TopicSpec::new(&job.topic, INPUTS)).unwrap();
    job.start(&[]).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    (job, log)
}

#[test]
fn a_full_disk_under_the_embedded_log_is_waited_out() {
    let disk = Disk::new(512);
    let dir = disk.path();
    let topology = "{embedded: {dir: log, limit: 1GiB}}";
    let mut job = Job::new(PROGRAM, dir, "full", topology, "").unwrap();
    job.start(&[]).unwrap();
    let log = job::until("the control socket", || SocketLog::connect(&dir.join("control.sock")).ok()).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    // Others are refused, and hear why.
    disk.fill(64);
    let refused = log.writer("other").unwrap().commit(&[job::any_row(&job.topic)], &[]).unwrap_err().to_string();
    assert!(refused.contains("MiB are free on the disk"), "{refused}");
    disk.free();
    drop(log);
    job.stop().unwrap();

    // Rows that wait when the disk is full: the job cannot commit what it makes of them.
    let log = EmbeddedLog::open(dir.join("log"), Options::default()).unwrap();
    job.produce(&log, 3).unwrap();
    drop(log);
    disk.fill(64);
    job.start(&["--wait"]).unwrap();
    job.until_said(0, &["waiting", "disk_full", "MiB are free on the disk"]).unwrap();
    disk.free();
    let log = job::until("the control socket", || SocketLog::connect(&dir.join("control.sock")).ok()).unwrap();
    let got = job.until_signals(&log).unwrap();
    drop(log);
    job.until_said(0, &["goes on", "disk_full"]).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn a_full_disk_under_snapshots_and_spilled_slices_is_waited_out() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::new(64);
    let more = format!(
        "snapshots: {{url: {0}/snapshots, every: 5s}}\nlimits: {{slice_bytes: 1MiB, spill_dir: {0}/spill}}",
        disk.path().display()
    );
    let (mut job, log) = running(broker, "spill", place.path(), &more);
    disk.fill(0);
    // One partition alone is ahead: its slices stay open, and become too many for the memory they may take.
    let before = job.said().len();
    job.produce_ahead(&log, 400).unwrap();
    job.until_said(before, &["waiting", "disk_full", "spill"]).unwrap();
    disk.free();
    job.until_said(before, &["goes on", "disk_full"]).unwrap();
    job.produce_rest(&log).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn brokers_that_are_away_for_longer_than_every_time_out() {
    let mut broker = Broker::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = running(&broker, "away", place.path(), "");
    let threads = job.threads().unwrap();
    job.produce(&log, 1).unwrap();
    let before = job.said().len();
    broker.kill().unwrap();
    job.until_said(before, &["waiting", "unreachable"]).unwrap();
    // Longer than commit, transaction and session time-outs together, and than several tries.
    std::thread::sleep(Duration::from_secs(40));
    let while_away = job.threads().unwrap();
    job.check().unwrap();
    broker.launch().unwrap();
    job.until_said(before, &["goes on", "unreachable"]).unwrap();
    job.produce(&log, 2).unwrap();
    let got = job.until_signals(&log).unwrap();
    let after = job::until("threads of before", || job.threads().ok().filter(|n| *n <= threads + THREADS_MORE)).unwrap();
    eprintln!("threads: {threads} before, {while_away} while away, {after} afterwards");
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn an_input_topic_deleted_under_a_running_job() {
    let broker = Broker::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = running(&broker, "gone", place.path(), "");
    let before = job.said().len();
    let topic = job.topic.clone();
    delete_topic(&broker, &topic);
    job.until_said(before, &["waiting", "topic_missing", &topic]).unwrap();
    job.check().unwrap();

    // Another topic of the same name: the job does not take it for the first one.
    log.create_topic(&TopicSpec::new(&topic, INPUTS)).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["was deleted and made again", "--reset-offsets"]).unwrap();
    assert!(said.contains("tidewatch-gone-normalize"), "{said}");
}

#[test]
fn an_internal_topic_deleted_under_a_running_job() {
    let broker = Broker::start().unwrap();
    let place = tempfile::tempdir().unwrap();
    let (mut job, log) = running(&broker, "inner", place.path(), "");
    let signals = "inner.tidewatch.signals";
    let kept = job::signals(&log, "inner").unwrap();
    let before = job.said().len();
    delete_topic(&broker, signals);
    job.produce(&log, 2).unwrap();
    job.until_said(before, &["waiting", "topic_missing", signals]).unwrap();
    // Nobody but readers of signals had a position in it: made again, it takes what comes next.
    log.create_topic(&TopicSpec::new(signals, 1)).unwrap();
    job.until_said(before, &["goes on", "topic_missing"]).unwrap();
    let mut got = kept;
    got.extend(job::until("the signals of the new topic", || job::signals(&log, "inner").ok().filter(|s| s.len() == 2)).unwrap());
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn an_object_store_that_is_away_holds_up_nothing() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let store = place.path().join("snapshots");
    let more = format!("snapshots: {{url: {}, every: 5s}}", store.display());
    let (mut job, log) = running(broker, "store", place.path(), &more);
    let before = job.said().len();
    // A file where the directory was: every write fails, as with a mount that is gone.
    let (own, aside) = (store.join("store"), place.path().join("aside"));
    job::until("a snapshot", || std::fs::read_dir(own.join("correlate-0")).ok()?.next()).unwrap().unwrap();
    std::fs::rename(&own, &aside).unwrap();
    std::fs::write(&own, b"").unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    job.until_said(before, &["snapshot not written"]).unwrap();
    // Whoever must load one waits for it.
    job.kill().unwrap();
    job.start(&["--wait"]).unwrap();
    job.until_said(before, &["waiting", "snapshot_store"]).unwrap();
    std::fs::remove_file(&own).unwrap();
    std::fs::rename(&aside, &own).unwrap();
    job.until_said(before, &["goes on", "snapshot_store"]).unwrap();
    job.produce(&log, 1).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}
