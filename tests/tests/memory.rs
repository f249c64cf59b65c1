//! P5 and P4 under attack: one tenant makes up new pairs by the hundred thousand in a minute. State stays at its limit all the
//! while, hosts that go are the attacker's own, and the others' signals are those of a run without it. Where one host's state
//! has to forget, `/metrics` counts it. What waits in correlate for its slice stays at its limit, too, and no signal shows that it
//! went to disk.
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tidewatch::topology::Stage;
use tidewatch_generator::synthetic::Visits;
use tidewatch_generator::{Plan, Synthetic, probectl_records};
use tidewatch_schemas::time::SECOND_NS;
use tidewatch_tests::program::{Process, until};
use tidewatch_tests::scenario::{self, Drive, Layout, LogKind, Message, Scenario, Signals, open_input, published};
use tidewatch_tests::traffic::{EBPF, FLOW};

const LAYOUT: Layout = Layout {
    poll_records: 256,
    inputs: 2,
    obs: 2,
    findings: 1,
    workers: 1,
    shuffle: None,
    log: LogKind::Memory,
    drive: Drive::Lockstep,
};

/// State of a task: room for a small office in every detector, not for the attack.
const STATE_BYTES: u64 = 24 << 20;

/// New pairs within a minute, from as many hosts as there are for 40 pairs each: 20 times what the limit holds.
/// `ATTACK_PAIRS=10000000` in the environment makes it ten million (some minutes, 12 GB for rows and logs).
const PAIRS: u64 = 600_000;

#[allow(clippy::disallowed_methods, reason = "how large the test is; no product reads it")]
fn pairs() -> u64 {
    std::env::var("ATTACK_PAIRS").map_or(PAIRS, |pairs| pairs.parse().expect("ATTACK_PAIRS is a number"))
}

/// What may wait in a correlate task: an office's minute, not the attack's slice.
const WAITING_BYTES: u64 = 256 << 10;

/// Room for all that waits in any of these runs, however many pairs are made up.
const ROOMY_BYTES: u64 = 1 << 40;

/// What a place on disk takes in memory at most, bytes.
const PLACE_BYTES: u64 = 128;

#[derive(Default)]
struct Correlate {
    waiting_bytes_max: u64,
    spilled: u64,
    left: u64,
}

struct Seen {
    correlate: Correlate,
    signals: Signals,
    state_bytes_max: u64,
    evicted: u64,
    rows: u64,
}

fn run(messages: Vec<Message>, waiting_bytes: u64) -> Seen {
    let inputs = vec![open_input(FLOW, "probectl-flow"), open_input(EBPF, "probectl-ebpf")];
    let scenario = Scenario::new("attack", inputs, messages);
    let (log, _keep) = scenario::open(LAYOUT.log).unwrap();
    scenario.load(&LAYOUT, &log).unwrap();
    let mut run = scenario.bounded(&LAYOUT, &log).unwrap();
    run.topology.limits.state_bytes = STATE_BYTES;
    run.topology.limits.correlate_slice_bytes = waiting_bytes;
    let spill = tempfile::tempdir().unwrap();
    run.topology.limits.spill_dir = spill.path().to_owned();
    run.create_topics().unwrap();
    let shared = run.shared();
    let mut correlate = Correlate::default();
    let (most, evicted) = (AtomicU64::new(0), AtomicU64::new(0));
    run.lockstep(&shared, || {
        for task in shared.board.tasks().iter().filter(|t| t.stage == Stage::Detect.name()) {
            most.fetch_max(task.progress.state_bytes, Ordering::Relaxed);
            evicted.fetch_max(task.progress.evicted, Ordering::Relaxed);
        }
        for task in shared.board.tasks().iter().filter(|t| t.stage == Stage::Correlate.name()) {
            correlate.waiting_bytes_max = correlate.waiting_bytes_max.max(task.progress.slice_bytes);
            correlate.spilled = task.progress.spilled_rows;
            correlate.left = task.progress.slice_bytes;
        }
        Ok(())
    })
    .unwrap();
    let rows = shared.ledger.lock().unwrap().total().rows_in;
    Seen {
        correlate,
        signals: published(&log, &run.topology.names.signals()).unwrap(),
        state_bytes_max: most.into_inner(),
        evicted: evicted.into_inner(),
        rows,
    }
}

/// Without the places in the log, which other records move.
fn of(signals: &Signals, tenant: &str) -> Vec<String> {
    scenario::without_raw(signals).get(tenant).cloned().unwrap_or_default()
}

#[test]
fn a_tenant_that_makes_up_pairs_loses_its_own_state_and_nobody_else_s() {
    let plan = Plan::small(5);
    let office = || probectl_records(&plan).map(|r| Message::new(r.topic, r.key, r.timestamp, r.value));
    let attack = Synthetic {
        tenants: 1,
        replies: false,
        visits: Visits::Live,
        // In the middle of what the others do.
        start: plan.start.plus(5_400 * SECOND_NS),
        duration_s: 60,
        ..Plan::bench(pairs(), pairs())
    };
    let quiet = run(office().collect(), ROOMY_BYTES);
    assert_eq!(quiet.evicted, 0, "the office alone fits");
    assert!(of(&quiet.signals, "acme").len() >= 3 && !of(&quiet.signals, "brook").is_empty());

    let mut messages: Vec<Message> = office().collect();
    messages.extend(attack.records().map(|r| Message::new(r.topic, r.key, r.timestamp, r.value)));
    let loud = run(messages.clone(), ROOMY_BYTES);
    assert_eq!(loud.rows, quiet.rows + pairs(), "every row is accounted for");
    assert!(loud.evicted > 1_000, "{} hosts went", loud.evicted);
    assert!(loud.state_bytes_max < STATE_BYTES, "{} bytes of state", loud.state_bytes_max);
    for tenant in ["acme", "brook"] {
        assert_eq!(of(&loud.signals, tenant), of(&quiet.signals, tenant), "{tenant}");
    }

    let Correlate { waiting_bytes_max, spilled, .. } = loud.correlate;
    assert!(waiting_bytes_max > 4 * WAITING_BYTES, "{waiting_bytes_max} bytes wait where they may");
    assert_eq!(spilled, 0);
    let tight = run(messages, WAITING_BYTES);
    let Correlate { waiting_bytes_max, spilled, left } = tight.correlate;
    assert!(spilled > 10_000, "{spilled} findings and contacts went to disk");
    assert!(waiting_bytes_max <= WAITING_BYTES + spilled * PLACE_BYTES, "{waiting_bytes_max} bytes waited");
    assert_eq!(left, 0, "nothing is left behind");
    assert_eq!(tight.signals, loud.signals);
}

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(120);

/// A host that tries a port of its own on each of 150 others: more groups than the state of a scan holds.
#[test]
fn where_a_hosts_state_has_to_forget_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "t.yaml",
        "log: {embedded: {dir: log}}\ninputs: [{topic: zeek.conn, format: zeek-conn, tenant: {static: acme}, partitions: 1, lateness: 2s}]\n\
         time: {idle_after: 1s, max_future: 1s}\nepoch: 100ms\nobs: {partitions: 1}\nfindings: {partitions: 1}\nlimits: {spill_dir: spill}\n\
         control: control.sock\nhttp: {listen: \"127.0.0.1:0\"}\n",
    );
    let row = |n: u32| {
        let (at, from, port) = (1_780_304_400 + n, 40_000 + n, 1_000 + n);
        format!(
            "{{\"ts\": {at}.5, \"uid\": \"C{n}\", \"id.orig_h\": \"10.0.0.6\", \"id.orig_p\": {from}, \"id.resp_h\": \"10.0.1.{n}\", \
             \"id.resp_p\": {port}, \"proto\": \"tcp\", \"conn_state\": \"S0\", \"orig_pkts\": 1, \"resp_pkts\": 0}}\n"
        )
    };
    std::fs::create_dir(dir.path().join("logs")).unwrap();
    write("logs/conn.log", &(1..=150).map(row).collect::<String>());
    let words = ["produce", "t.yaml", "--input", "zeek:logs"];
    let done = Command::new(PROGRAM).args(words).current_dir(dir.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    let process = Process::start(PROGRAM, "run", dir.path(), &["run", "t.yaml", "--log-format", "json"]).unwrap();
    let address = || -> Option<String> {
        let said = std::fs::read_to_string(dir.path().join("run.err")).ok()?;
        let mut lines = said.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
        let line = lines.find(|l| l["message"] == "health and metrics")?;
        line["address"].as_str().map(str::to_owned)
    };
    let counted = |limit: &str| -> Option<f64> {
        let mut stream = TcpStream::connect(address()?).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: test\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let series = format!("tidewatch_state_limit_reached_total{{detector=\"scan\",limit=\"{limit}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&series)?.parse().ok())
    };
    until("a limit has bitten", WAIT, || counted("GROUPS_MAX") > Some(0.0)).unwrap();
    assert_eq!(counted("KNOWN_MAX"), Some(0.0), "what has not is there all the same");
    process.stop(WAIT).unwrap();
}
