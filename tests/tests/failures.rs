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
use tidewatch::log::{Log, TopicPartition, TopicSpec};
use tidewatch_tests::cluster::{Cluster, ClusterOptions};
use tidewatch_tests::job::{self, INPUTS, Job};
use tidewatch_tests::kafka::Broker;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Brokers are away for so long: commit, transaction and session time-out together, and several tries.
const AWAY: Duration = Duration::from_secs(40);

/// Most of the brokers are away for so long: longer than anybody plans a restart of a quorum to take.
const QUORUM_AWAY: Duration = Duration::from_secs(120);

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

fn kafka_section(brokers: &str, replication: u16) -> String {
    let brokers = brokers.replace(',', "\", \"");
    format!(
        "{{kafka: {{brokers: [\"{brokers}\"], allow_plaintext: true, replication: {replication}, commit_timeout: 2s, transaction_timeout: 3s, \
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
    let mut job = Job::new(PROGRAM, dir, deployment, &kafka_section(broker.brokers(), 1), more).unwrap();
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
    let log = job::until("the control socket", || SocketLog::connect(dir.join("control.sock")).ok()).unwrap();
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
    job.until_not_ready("disk_full").unwrap();
    disk.free();
    let log = job::until("the control socket", || SocketLog::connect(dir.join("control.sock")).ok()).unwrap();
    let got = job.until_signals(&log).unwrap();
    drop(log);
    job.until_said(0, &["goes on", "disk_full"]).unwrap();
    job.until_ready().unwrap();
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
    // Normalize waits when it is minutes ahead, so a few rounds must bring the rows.
    job.produce_ahead(&log, 10, 300).unwrap();
    job.until_said(before, &["waiting", "disk_full", "spill"]).unwrap();
    job.until_not_ready("disk_full").unwrap();
    disk.free();
    job.until_said(before, &["goes on", "disk_full"]).unwrap();
    job.until_ready().unwrap();
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
    job.until_not_ready("unreachable").unwrap();
    std::thread::sleep(AWAY);
    let while_away = job.threads().unwrap();
    job.check().unwrap();
    broker.launch().unwrap();
    job.until_said(before, &["goes on", "unreachable"]).unwrap();
    job.until_ready().unwrap();
    job.produce(&log, 2).unwrap();
    let got = job.until_signals(&log).unwrap();
    let after = job::until("threads of before", || job.threads().ok().filter(|n| *n <= threads + THREADS_MORE)).unwrap();
    eprintln!("threads: {threads} before, {while_away} while away, {after} afterwards");
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn most_of_the_brokers_away_for_longer_than_every_time_out() {
    let mut cluster = Cluster::start(&ClusterOptions::default()).unwrap();
    let place = tempfile::tempdir().unwrap();
    let log = cluster.log().unwrap();
    let mut job = Job::new(PROGRAM, place.path(), "quorum", &kafka_section(cluster.brokers(), 3), "").unwrap();
    log.create_topic(&TopicSpec::new(&job.topic, INPUTS)).unwrap();
    job.start(&[]).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    // Rows that are there and cannot be worked off: one broker of three takes no record and decides nothing.
    job.produce(&log, 1).unwrap();
    let before = job.said().len();
    cluster.kill(0).unwrap();
    cluster.kill(1).unwrap();
    job.until_said(before, &["waiting", "worker"]).unwrap();
    job.until_not_ready("since").unwrap();
    std::thread::sleep(QUORUM_AWAY);
    job.check().unwrap();
    cluster.launch(0).unwrap();
    cluster.launch(1).unwrap();
    cluster.wait_until_in_sync(job::WAIT).unwrap();
    job.until_said(before, &["goes on"]).unwrap();
    job.until_ready().unwrap();
    job.produce(&log, 2).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}

#[test]
fn an_idle_job_has_a_position_everywhere_and_no_lag() {
    let broker = Broker::shared();
    let place = tempfile::tempdir().unwrap();
    let log = broker.log();
    let mut job = Job::new(PROGRAM, place.path(), "idle", &kafka_section(broker.brokers(), 1), "").unwrap();
    log.create_topic(&TopicSpec::new(&job.topic, INPUTS)).unwrap();
    let at: Vec<TopicPartition> = (0..INPUTS).map(|p| TopicPartition::new(&job.topic, p)).collect();
    let committed = || -> Vec<Option<i64>> {
        let all = log.committed("tidewatch-idle-normalize", &at).unwrap();
        all.into_iter().map(|c| c.map(|c| c.offset)).collect()
    };
    job.start(&[]).unwrap();
    // Before any record: scalers count from a position, or from the beginning of time.
    job::until("the first positions", || (committed() == [Some(0), Some(0)]).then_some(())).unwrap();
    job.produce(&log, 2).unwrap();
    job.until_signals(&log).unwrap();
    // Transaction markers end the input; a position before them would look like a record not read, for ever.
    let ends: Vec<Option<i64>> = at.iter().map(|at| Some(log.offsets(at).unwrap().end)).collect();
    job::until("positions at the end", || (committed() == ends).then_some(())).unwrap();
    job.stop().unwrap();
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
    job.until_not_ready("topic_missing").unwrap();
    job.check().unwrap();

    // Another topic of the same name: the job does not take it for the first one.
    log.create_topic(&TopicSpec::new(&topic, INPUTS)).unwrap();
    job.produce(&log, 1).unwrap();
    let said = job.until_said(before, &["was deleted and made again", "--accept-new-topics"]).unwrap();
    assert!(said.contains("tidewatch-gone-normalize"), "{said}");
    job.until_not_ready("was deleted and made again").unwrap();
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
    job.until_not_ready("topic_missing").unwrap();
    // Nobody but readers of signals had a position in it: made again, it takes what comes next.
    log.create_topic(&TopicSpec::new(signals, 1)).unwrap();
    job.until_said(before, &["goes on", "topic_missing"]).unwrap();
    job.until_ready().unwrap();
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
    job.until_said(before, &["the snapshot cannot be read now"]).unwrap();
    job.until_not_ready("load").unwrap();
    std::fs::remove_file(&own).unwrap();
    std::fs::rename(&aside, &own).unwrap();
    job.produce(&log, 1).unwrap();
    let got = job.until_signals(&log).unwrap();
    job.stop().unwrap();
    job.assert_nothing_lost(&got).unwrap();
}
