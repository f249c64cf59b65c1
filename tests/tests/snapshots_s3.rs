//! Snapshots in a real S3-compatible object store: written in one piece and in many, read back, removed; a server that dies
//! and comes back; credentials from the environment alone, and never in a message.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tidewatch::log::Log;
use tidewatch::snapshot::{Index, LoadProgress, SnapshotError, SnapshotStore, Stamp, Taken, objects};
use tidewatch::status::Cause;
use tidewatch::task::State;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::live::Live;
use tidewatch_tests::s3::{SECRET, Server};
use tidewatch_tests::scenario::{self, Layout, Signals};
use tidewatch_tests::traffic;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");
/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(120);

fn open(server: &Server) -> SnapshotStore {
    SnapshotStore::open_with(&server.url(), server.variables()).unwrap()
}

fn state(full: bool, groups: std::ops::Range<u16>, byte: u8, len: usize) -> State {
    let parts = groups.map(|g| (("rule".to_owned(), g), Bytes::from(vec![byte; len]))).collect();
    State { head: vec![byte], parts, full, replay_offset: None }
}

#[test]
fn objects_small_and_large_are_written_read_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).unwrap();
    let store = open(&server).of("detect-0");
    let stamp = Stamp::own(1);
    let taken = |position| Taken { position, replay_offset: 0, hash: [1; 32] };
    let load = |id: &str| store.load(id, &LoadProgress::default(), &|| EventTime(0));
    // 40 MiB go in pieces, and come back in pieces.
    let (one, bytes) = store.write("g0000000001-a", &stamp, &taken(1), state(true, 0..40, 7, 1 << 20), &Index::new()).unwrap();
    assert!(bytes > 40 << 20);
    let loaded = load("g0000000001-a").unwrap();
    assert!(loaded.state.parts.len() == 40 && loaded.state.parts.values().all(|p| p.len() == 1 << 20 && p[9] == 7));
    // An increment is small and finds the rest where it is.
    let (two, bytes) = store.write("g0000000002-b", &stamp, &taken(2), state(false, 3..5, 9, 100), &one).unwrap();
    assert!(bytes < 8 << 10, "{bytes}");
    let progress = LoadProgress::default();
    let loaded = store.load("g0000000002-b", &progress, &|| EventTime(0)).unwrap();
    let sizes: BTreeMap<usize, usize> = loaded.state.parts.values().fold(BTreeMap::new(), |mut sizes, p| {
        *sizes.entry(p.len()).or_default() += 1;
        sizes
    });
    assert_eq!(sizes, BTreeMap::from([(100, 2), (1 << 20, 38)]));
    assert!(progress.total_bytes() == loaded.bytes && progress.done_bytes() > 0);
    assert_eq!(store.sweep("g0000000002-b", &objects(&two)), 0);
    let (three, _) = store.write("g0000000003-c", &stamp, &taken(3), state(true, 0..1, 1, 10), &two).unwrap();
    assert_eq!(store.sweep("g0000000003-c", &objects(&three)), 2);
    assert!(matches!(load("g0000000002-b"), Err(SnapshotError::Missing { .. })));
    assert_eq!(server.objects().len(), 1);
}

#[test]
fn wrong_credentials_are_named_and_the_secret_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).unwrap();
    for (name, value) in [("AWS_SECRET_ACCESS_KEY", "not-the-secret"), ("AWS_ACCESS_KEY_ID", "nobody")] {
        let mut variables = server.variables();
        variables.retain(|(n, _)| n != name);
        variables.push((name.to_owned(), value.to_owned()));
        let store = SnapshotStore::open_with(&server.url(), variables).unwrap();
        let taken = Taken { position: 1, replay_offset: 0, hash: [1; 32] };
        let error = store.write("g0000000001-a", &Stamp::own(1), &taken, state(true, 0..1, 1, 10), &Index::new()).unwrap_err();
        let words = format!("{error} {error:?}");
        assert!(matches!(error, SnapshotError::Denied { .. }), "{words}");
        assert!(!words.contains("not-the-secret") && !words.contains(SECRET), "{words}");
    }
    // Plain HTTP is for the loopback interface and whoever asks for it.
    let mut variables = server.variables();
    variables.retain(|(n, _)| n != "AWS_ALLOW_HTTP");
    let store = SnapshotStore::open_with(&server.url(), variables);
    let refused = store.and_then(|s| s.load("x", &LoadProgress::default(), &|| EventTime(0)).map(drop));
    assert!(refused.is_err_and(|e| !e.is_lost()), "no request goes out without TLS unless that is asked for");
}

fn live(log: &Arc<dyn Log>, store: SnapshotStore) -> Live {
    let scenario = traffic::by_hand();
    let layout = Layout { poll_records: 16, ..Layout::default() };
    let mut topology = scenario.topology(&layout);
    topology.snapshots.every = Duration::from_secs(1);
    Live::with(&scenario, topology, layout, log.clone(), traffic::noon(4_000.0), Some(store)).unwrap()
}

fn finish(live: &mut Live) -> Signals {
    live.start_all().unwrap();
    live.settle().unwrap();
    live.pass(200).unwrap();
    live.settle().unwrap();
    live.published().unwrap()
}

fn is_degraded(live: &Live) -> bool {
    live.shared().board.conditions().0.iter().any(|c| c.cause == Cause::SnapshotStore)
}

/// Rounds until `wanted`; snapshots are written on threads, in real time.
fn rounds_until(live: &mut Live, what: &str, wanted: impl Fn(&Live) -> bool) {
    let began = Instant::now();
    while !wanted(live) {
        assert!(began.elapsed() < WAIT, "{what}");
        live.round().unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_server_that_dies_and_comes_back_changes_no_signal() {
    let scenario = traffic::by_hand();
    let layout = Layout { poll_records: 16, ..Layout::default() };
    let load = || {
        let log = scenario::open(layout.log).unwrap().0;
        scenario.load(&layout, &log).unwrap();
        log
    };
    let want = finish(&mut live(&load(), SnapshotStore::memory().unwrap()));
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::start(dir.path()).unwrap();
    let log = load();
    let mut first = live(&log, open(&server));
    first.start_all().unwrap();
    let current = |live: &Live| {
        let tasks = live.shared().board.tasks();
        tasks.into_iter().find(|t| t.stage == "detect").and_then(|t| t.snapshot).and_then(|s| s.current)
    };
    rounds_until(&mut first, "a first snapshot", |live| current(live).is_some());
    server.kill();
    rounds_until(&mut first, "the board says that the store is away", is_degraded);
    server.launch().unwrap();
    rounds_until(&mut first, "snapshots are written again", |live| !is_degraded(live));
    first.stop().unwrap();
    // Away at the restart: waited for.
    server.kill();
    let mut second = live(&log, open(&server));
    second.start_all().unwrap();
    second.round().unwrap();
    rounds_until(&mut second, "the board says what is waited for", is_degraded);
    server.launch().unwrap();
    rounds_until(&mut second, "loaded", |live| !is_degraded(live));
    assert_eq!(finish(&mut second), want);
    second.stop().unwrap();
    assert!(!server.objects().is_empty());
}

#[test]
fn the_program_takes_credentials_from_its_environment() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path()).unwrap();
    let topology = format!(
        "log: {{embedded: {{dir: log}}}}\ninputs:\n  - {{topic: probectl.flow.events, format: probectl-flow, \
         tenant: {{verified: {{open: true}}}}, partitions: 1}}\nobs: {{partitions: 1}}\nsnapshots: {{url: \"{}\"}}\n",
        server.url()
    );
    std::fs::write(dir.path().join("t.yaml"), topology).unwrap();
    let run = |variables: Vec<(String, String)>| {
        let mut command = Command::new(PROGRAM);
        command.args(["run", "t.yaml", "--until-end"]).current_dir(dir.path()).envs(variables);
        command.output().unwrap()
    };
    let mut wrong = server.variables();
    wrong.retain(|(n, _)| n != "AWS_SECRET_ACCESS_KEY");
    wrong.push(("AWS_SECRET_ACCESS_KEY".to_owned(), "not-the-secret".to_owned()));
    let output = run(wrong);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "a store that refuses costs snapshots and nothing else: {told}");
    assert!(told.contains("the object store refuses access") && !told.contains("not-the-secret"), "{told}");
    assert!(server.objects().is_empty());
    let output = run(server.variables());
    assert!(output.status.success() && !server.objects().is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
