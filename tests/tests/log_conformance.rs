//! The suite that every log passes, on the two local logs, and what only a log on disk can be asked: a torn write after
//! SIGKILL, a second process, reopening. Kafka's run of the suite stands beside its broker.

#![allow(clippy::unwrap_used)]

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tidewatch::log::conformance::{Capabilities, Fixture, Outcome, Report, Want, suite};
use tidewatch::log::embedded::{Durability, EmbeddedLog, Options};
use tidewatch::log::local::{Epoch, LocalLog, Recovered, Settings, Store};
use tidewatch::log::memory::{MemoryLog, MemoryStore};
use tidewatch::log::socket::{SocketLog, serve, socket_path};
use tidewatch::log::{Log, LogError, OffsetRange, PollLimit, Record, TopicPartition, TopicSpec};
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::epochs::{GROUP, INPUT, OUTPUT, OUTPUT_PARTITIONS, RECORDS_PER_PARTITION, prepare};

fn settings(want: Want) -> Settings {
    let defaults = Settings::default();
    Settings {
        partition_bytes_max: want.partition_bytes_max.unwrap_or(defaults.partition_bytes_max),
        gap_every: want.gap_every,
        ..defaults
    }
}

fn fixture(log: Arc<dyn Log>, keep: Box<dyn std::any::Any>) -> Fixture {
    let patience = Duration::from_secs(2);
    Fixture { log, capabilities: Capabilities::LOCAL, prefix: "c.".to_owned(), patience, keep }
}

/// Every check holds, none is skipped.
fn all_hold(reports: Vec<Report>) {
    let bad: Vec<_> = reports.iter().filter(|r| r.outcome != Outcome::Holds).collect();
    assert!(bad.is_empty(), "{bad:#?}");
    assert!(reports.len() > 20, "the suite has shrunk to {}", reports.len());
}

#[test]
fn the_memory_log_conforms() {
    all_hold(suite(&|want| fixture(Arc::new(MemoryLog::with(settings(want))), Box::new(()))));
}

/// Checks that want the same share a directory: making one costs dozens of syncs, and other topics must not matter.
#[test]
fn the_embedded_log_conforms() {
    let dir = tempfile::tempdir().unwrap();
    let open: RefCell<Vec<(Want, EmbeddedLog)>> = RefCell::default();
    let runs = Cell::new(0);
    all_hold(suite(&|want| {
        runs.set(runs.get() + 1);
        let mut open = open.borrow_mut();
        let known = open.iter().find(|(w, _)| *w == want).map(|(_, log)| log.clone());
        let log = known.unwrap_or_else(|| {
            let options = Options { settings: settings(want), durability: Durability::Process, ..Options::default() };
            let log = EmbeddedLog::open(dir.path().join(runs.get().to_string()), options).unwrap();
            open.push((want, log.clone()));
            log
        });
        Fixture { prefix: format!("c{}.", runs.get()), ..fixture(Arc::new(log), Box::new(())) }
    }));
}

/// What a tool can do through the control socket holds as it does inside.
#[test]
fn the_control_socket_conforms() {
    let reports = suite(&|want| {
        let dir = tempfile::tempdir().unwrap();
        let path = socket_path(dir.path());
        let handle = serve(Arc::new(MemoryLog::with(settings(want))), &path).unwrap();
        let log = SocketLog::connect(&path).unwrap();
        let nothing =
            Capabilities { retention_at_once: false, byte_limit: false, takes_over: false, groups: false, deletes: false };
        Fixture { capabilities: nothing, ..fixture(Arc::new(log), Box::new((handle, dir))) }
    });
    let (held, rest): (Vec<_>, Vec<_>) = reports.into_iter().partition(|r| r.outcome == Outcome::Holds);
    assert!(rest.iter().all(|r| r.outcome == Outcome::Skipped), "{rest:#?}");
    assert!(held.len() >= 14, "only {} checks were run", held.len());
}

/// Keeps records as the memory log does, but loses what an epoch writes to any partition but its first.
#[derive(Debug, Default)]
struct Forgetful(MemoryStore);

impl Store for Forgetful {
    fn create_topic(&self, spec: &TopicSpec, first: u32) -> Result<(), LogError> {
        self.0.create_topic(spec, first)
    }

    fn write(&self, mut epoch: Epoch) -> Result<(), LogError> {
        let first = epoch.bounds.keys().next().copied();
        epoch.records.retain(|r| Some(r.partition) == first);
        self.0.write(epoch)
    }

    fn read(&self, partition: u32, range: OffsetRange, limit: PollLimit) -> Result<Vec<Record>, LogError> {
        self.0.read(partition, range, limit)
    }

    fn first_at(&self, partition: u32, range: OffsetRange, time: EventTime) -> Result<Option<i64>, LogError> {
        self.0.first_at(partition, range, EventTime(time.0 + 1))
    }

    fn first_kept(
        &self,
        partition: u32,
        range: OffsetRange,
        keep: &mut dyn FnMut(EventTime, u64) -> bool,
    ) -> Result<Option<i64>, LogError> {
        self.0.first_kept(partition, range, keep)
    }

    fn set_start(&self, partition: u32, start: i64) -> Result<(), LogError> {
        self.0.set_start(partition, start)
    }

    fn remove(&self, partition: u32, range: OffsetRange) -> Result<(u64, u64), LogError> {
        self.0.remove(partition, range)
    }
}

/// A log that loses records and searches wrongly is found out, by the checks whose names say so and by no others.
#[test]
fn the_suite_can_fail() {
    let reports = suite(&|want| {
        let log = LocalLog::over(Forgetful::default(), Recovered::default(), settings(want));
        Fixture { patience: Duration::from_millis(100), ..fixture(Arc::new(log), Box::new(())) }
    });
    let failing: Vec<_> = reports.iter().filter(|r| matches!(r.outcome, Outcome::Fails(_))).map(|r| r.check).collect();
    for check in [
        "records_keep_their_order_per_partition",
        "an_epoch_reaches_all_partitions_with_its_offsets",
        "readers_see_whole_epochs_only",
        "offsets_are_found_by_time",
    ] {
        assert!(failing.contains(&check), "{check} holds for a log that loses records: {failing:?}");
    }
    assert!(!failing.contains(&"a_second_writer_fences_the_first"), "{failing:?}");
}

fn start_writer(dir: &Path, durability: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_log_writer"))
        .arg(dir)
        .arg(durability)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, Options::default()).unwrap()
}

fn read_all(log: &EmbeddedLog, at: &TopicPartition) -> Vec<Record> {
    let mut reader = log.reader(at, 0).unwrap();
    let mut out = Vec::new();
    loop {
        out.extend(reader.poll(PollLimit::default(), Duration::ZERO).unwrap());
        if reader.at_end() {
            return out;
        }
    }
}

/// How many epochs are there; fails unless each is whole and in place in all partitions and in the group's position.
fn whole_epochs(log: &EmbeddedLog) -> i64 {
    let at = TopicPartition::new(INPUT, 0);
    let position = log.committed(GROUP, &[at]).unwrap()[0].clone();
    let epochs = position.as_ref().map_or(0, |c| c.offset);
    assert_eq!(position.map(|c| c.metadata), (epochs > 0).then(|| format!("epoch {epochs}")));
    for partition in 0..OUTPUT_PARTITIONS {
        let got: Vec<String> = read_all(log, &TopicPartition::new(OUTPUT, partition))
            .iter()
            .map(|r| String::from_utf8(r.key.clone().unwrap().to_vec()).unwrap())
            .collect();
        let expected: Vec<String> =
            (1..=epochs).flat_map(|e| (0..RECORDS_PER_PARTITION).map(move |i| format!("{e}.{i}"))).collect();
        assert_eq!(got, expected, "partition {partition}");
    }
    epochs
}

#[test]
fn a_kill_in_the_middle_of_a_commit_leaves_whole_epochs() {
    let dir = tempfile::tempdir().unwrap();
    prepare(&open(dir.path()));
    let mut rng = ChaCha8Rng::seed_from_u64(20_260_604);
    let mut epochs = 0;
    let mut grew = 0;
    for round in 0..10 {
        let durability = if round % 2 == 0 { "machine" } else { "process" };
        let mut child = start_writer(dir.path(), durability);
        // The first line says that the writer runs; from there on a commit is nearly always in flight.
        let mut line = [0; 1];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        std::thread::sleep(Duration::from_micros(rng.random_range(1_000..120_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = whole_epochs(&open(dir.path()));
        assert!(now >= epochs, "committed epochs are gone: {epochs} before, {now} after");
        grew += i32::from(now > epochs);
        epochs = now;
    }
    assert!(grew >= 5, "the writer hardly ever committed anything before it was killed");
}

#[test]
fn a_second_process_is_refused_with_the_owner_named() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path());
    prepare(&log);
    let output = start_writer(dir.path(), "machine").wait_with_output().unwrap();
    assert!(!output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    let owner = format!("is in use by process {}", std::process::id());
    assert!(message.contains(&owner) && message.contains("needs its own directory"), "{message}");
    drop(log);

    let mut child = start_writer(dir.path(), "process");
    let mut line = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
    let refused = EmbeddedLog::open(dir.path(), Options::default()).unwrap_err();
    assert!(matches!(&refused, LogError::Locked { pid, .. } if *pid == child.id().to_string()), "{refused}");
    child.kill().unwrap();
    child.wait().unwrap();
    open(dir.path());
}
