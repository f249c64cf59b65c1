//! What people see of a running process: health, readiness, metrics, `top`, `lag`, `explain-stall`, `drain`, logs; and that it
//! leaves in time, with a snapshot at what is committed.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tidewatch::http;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch::log::memory::MemoryLog;
use tidewatch::log::{Log, TopicPartition};
use tidewatch::metrics::table::{self, Kind};
use tidewatch::status::{Board, Cause, ProcessState, Reporter, RestoreStep, TaskPhase};
use tidewatch::topology::Stage;
use tidewatch::worker::system_clock;
use tidewatch_schemas::time::EventTime;
use tidewatch_tests::program::{Process, until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(60);

struct Place {
    dir: TempDir,
}

/// What a command left behind.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.out, self.err))
    }
}

const INPUTS: &str = "inputs:\n\
    - {topic: probectl.flow.events, format: probectl-flow, tenant: {verified: {open: true}}, partitions: 2}\n\
    - {topic: probectl.ebpf.flows, format: probectl-ebpf, tenant: {verified: {open: true}}, partitions: 1}\n\
    - {topic: probectl.network.results, format: probectl-result, tenant: {verified: {open: true}}, partitions: 1}\n";

impl Place {
    /// A topology on one machine, with further lines.
    fn new(more: &str) -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let text = format!(
            "log: {{embedded: {{dir: log}}}}\n{INPUTS}time: {{idle_after: 1s}}\nepoch: 100ms\nobs: {{partitions: 2}}\n\
             findings: {{partitions: 1}}\nsnapshots: {{url: snapshots, every: 5s}}\nlimits: {{spill_dir: spill}}\n\
             control: control.sock\nhttp: {{listen: \"127.0.0.1:0\"}}\n{more}"
        );
        place.write("t.yaml", &text);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, words: &[&str]) -> Done {
        let done = Command::new(PROGRAM).args(words).current_dir(self.dir.path()).env("NO_COLOR", "1").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
    }

    fn good(&self, words: &[&str]) -> Done {
        let done = self.command(words);
        assert_eq!(done.code, 0, "{words:?}: {}{}", done.out, done.err);
        done
    }

    /// Starts a run that tells everything as JSON.
    fn run(&self, name: &str, more: &[&str]) -> Process {
        let mut words = vec!["run", "t.yaml", "--log-format", "json"];
        words.extend(more);
        Process::start(PROGRAM, name, self.dir.path(), &words).unwrap()
    }

    fn said(&self, name: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path(&format!("{name}.err"))).unwrap_or_default();
        text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect()
    }

    /// Where a run serves HTTP, by what it said.
    fn address(&self, name: &str) -> SocketAddr {
        waited(&format!("{name} serves HTTP"), || {
            let said = self.said(name);
            let line = said.iter().rev().find(|l| l["message"] == "health and metrics")?;
            line["address"].as_str()?.parse().ok()
        })
    }

    fn produce(&self) {
        self.good(&["produce", "t.yaml", "--generate", "7", "--preset", "small", "--format", "probectl"]);
    }
}

/// Waits for something, within a limit.
fn waited<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    until(what, WAIT, || {
        found = look();
        found.is_some()
    })
    .unwrap();
    found.unwrap()
}

/// One request: code, and what follows the head.
fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(WAIT)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let code = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert!(!head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
    (code, body.to_owned())
}

fn reporter(board: &Arc<Board>) -> Arc<Reporter> {
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let flags = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let stages = [Stage::Normalize, Stage::Detect];
    Arc::new(Reporter::new((board.clone(), Arc::default(), log), system_clock(), (3, &stages), Duration::from_secs(9), flags))
}

#[test]
fn readiness_names_every_reason_until_there_is_none() {
    let board: Arc<Board> = Arc::default();
    let reporter = reporter(&board);
    let server = http::serve("127.0.0.1:0".parse().unwrap(), reporter.clone()).unwrap();
    let at = server.address;
    assert_eq!(get(at, "/livez").0, 200);
    assert_eq!((get(at, "/startupz").0, get(at, "/readyz").0, get(at, "/nothing").0), (503, 503, 404));

    board.set_state(ProcessState::Running);
    let obs = TopicPartition::new("tidewatch.obs", 3);
    let since = EventTime(reporter.status().now.0 - 10_000_000_000);
    board.task("detect", &obs, |t| {
        t.phase = TaskPhase::Restoring { step: RestoreStep::Muted, done: 40, of: 100, since };
    });
    board.raise(Cause::Unreachable, "normalize worker 0", "no broker answers", EventTime(5));
    board.raise(Cause::Evicted, "detect tidewatch.obs/3", "12 keys", EventTime(6));
    let (code, body) = get(at, "/readyz");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &body["ready"]), (503, &Value::Bool(false)), "{body}");
    let causes: Vec<&str> = body["reasons"].as_array().unwrap().iter().map(|r| r["cause"].as_str().unwrap()).collect();
    assert_eq!(causes, ["muted", "unreachable"]);
    assert!(body["reasons"][0]["reason"].as_str().unwrap().contains("40 %, about 15 s left"), "{body}");
    assert_eq!(body["reasons"][1]["since"], "1970-01-01T00:00:00.000000005Z");
    assert_eq!(body["degraded"][0]["cause"], "evicted");
    assert_eq!(get(at, "/startupz").0, 200);
    assert!(get(at, "/metrics").1.contains("tidewatch_ready 0"), "a scrape says the same");

    board.task("detect", &obs, |t| t.phase = TaskPhase::Live);
    board.clear(Cause::Unreachable, "normalize worker 0");
    assert_eq!(get(at, "/readyz").0, 200, "what is degraded alone is ready");
    assert!(!reporter.status().not_ready().iter().any(|r| r.cause == "evicted"));
    reporter.drain(false);
    assert_eq!(get(at, "/readyz").0, 503);
}

#[test]
fn a_silent_client_takes_no_place_from_others_for_long() {
    let board: Arc<Board> = Arc::default();
    let reporter = reporter(&board);
    let server = http::serve("127.0.0.1:0".parse().unwrap(), reporter.clone()).unwrap();
    let silent: Vec<TcpStream> = (0..http::CONNECTIONS_MAX + 8).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    // All places are taken; those beyond are closed, and in a few seconds the places are free again.
    until("a place is free again", WAIT, || {
        let Ok(mut stream) = TcpStream::connect(server.address) else { return false };
        let mut text = String::new();
        let asked = write!(stream, "GET /livez HTTP/1.1\r\nHost: t\r\n\r\n").is_ok() && stream.read_to_string(&mut text).is_ok();
        asked && text.contains("alive")
    })
    .unwrap();
    drop(silent);
    let text = get(server.address, "/metrics").1;
    let refused = value(&text, "tidewatch_http_refused_connections_total").unwrap();
    assert!(refused >= 8.0, "{refused}");
}

/// A series without labels.
fn value(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
}

/// Name to (type, help) of what a scrape told, and the names with samples.
fn scraped(text: &str) -> (BTreeMap<String, (String, String)>, BTreeSet<String>) {
    let mut told: BTreeMap<String, (String, String)> = BTreeMap::new();
    let mut samples = BTreeSet::new();
    for line in text.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|l| l.split_once(' ')) {
            told.entry(name.to_owned()).or_default().1 = help.to_owned();
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|l| l.split_once(' ')) {
            told.entry(name.to_owned()).or_default().0 = kind.to_owned();
        } else if !line.is_empty() {
            samples.insert(line.split(['{', ' ']).next().unwrap().to_owned());
        }
    }
    (told, samples)
}

/// What `promtool check metrics` would say of a metric.
fn lint(name: &str, kind: &str, help: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let words: Vec<&str> = name.split('_').collect();
    let mut rule = |broken: bool, words: &'static str| {
        if broken {
            found.push(words);
        }
    };
    rule(help.trim().is_empty(), "no help text");
    rule((kind == "counter") != name.ends_with("_total"), "_total belongs to counters");
    let parts = ["_bucket", "_sum", "_count"];
    rule(parts.iter().any(|p| name.ends_with(p)), "_bucket, _sum and _count belong to the parts of histograms");
    rule(name.contains(':'), "colons belong to recording rules");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == ':';
    rule(!name.chars().all(plain), "names are snake_case");
    let types = ["counter", "gauge", "histogram", "summary", "untyped"];
    rule(words.iter().any(|w| types.contains(w)), "the type does not belong into the name");
    let units = [
        "milliseconds",
        "microseconds",
        "nanoseconds",
        "minutes",
        "hours",
        "days",
        "kilobytes",
        "megabytes",
        "bits",
        "percent",
        "s",
        "ms",
        "us",
        "ns",
        "sec",
        "b",
        "kb",
        "mb",
        "gb",
        "m",
        "h",
        "d",
    ];
    rule(words.iter().any(|w| units.contains(w)), "units are base units, not abbreviated");
    found
}

#[test]
fn the_naming_rules_can_be_broken() {
    assert!(lint("tidewatch_rows", "counter", "x").contains(&"_total belongs to counters"));
    assert!(lint("tidewatch_lag_ms", "gauge", "x").contains(&"units are base units, not abbreviated"));
    assert!(lint("tidewatch_lag_total", "gauge", "x").contains(&"_total belongs to counters"));
    assert!(lint("tidewatch:lag", "gauge", "").len() == 2);
    assert!(lint("tidewatch_lag_seconds", "gauge", "x").is_empty());
}

/// Metrics whose series come only with what must not happen in an undisturbed run.
const ONLY_IN_TROUBLE: &[&str] = &[];

#[test]
fn a_run_is_ready_and_serves_exactly_the_documented_metrics() {
    let more = "destinations:\n- {name: file, kind: ndjson, path: signals.ndjson, from: beginning}\n";
    let place = Place::new(more);
    let process = place.run("run", &[]);
    let at = place.address("run");
    until("ready", WAIT, || get(at, "/readyz").0 == 200).unwrap();
    assert_eq!((get(at, "/livez").0, get(at, "/startupz").0), (200, 200));
    let (_, body) = get(at, "/readyz");
    let ready: Value = serde_json::from_str(&body).unwrap();
    // 5 input partitions with the replayed topic, 2 of obs, 1 of findings.
    assert_eq!((&ready["tasks"]["owned"], &ready["tasks"]["live"]), (&8.into(), &8.into()), "{ready}");

    place.produce();
    let documented: BTreeSet<String> = table::ALL.iter().map(|m| m.name.to_owned()).collect();
    let mut text = String::new();
    let missing = |text: &str| -> Vec<String> {
        let (told, _) = scraped(text);
        documented.iter().filter(|m| !told.contains_key(*m) && !ONLY_IN_TROUBLE.contains(&m.as_str())).cloned().collect()
    };
    let all = until("every metric has a series", WAIT, || {
        text = get(at, "/metrics").1;
        missing(&text).is_empty()
    });
    assert!(all.is_ok(), "documented, not served: {:?}", missing(&text));
    let (told, samples) = scraped(&text);
    for (name, (kind, help)) in &told {
        let metric = table::ALL.iter().find(|m| m.name == *name).unwrap_or_else(|| panic!("{name} is served, not documented"));
        assert_eq!(metric.kind.name(), kind, "{name}");
        assert_eq!(lint(name, kind, help), Vec::<&str>::new(), "{name}");
        let suffix = if metric.kind == Kind::Histogram { "_count" } else { "" };
        assert!(samples.contains(&format!("{name}{suffix}")), "{name} has no sample");
    }

    // Every row that came in is accounted for in the metrics, too.
    let sum = |name: &str| -> f64 {
        let of = |l: &str| l.rsplit(' ').next().unwrap().parse::<f64>().unwrap();
        text.lines().filter(|l| l.starts_with(&format!("{name}{{"))).map(of).sum()
    };
    let rows = sum("tidewatch_input_rows_total");
    assert!(rows > 0.0);
    assert_eq!(
        rows,
        sum("tidewatch_normalized_rows_total") + sum("tidewatch_late_rows_total") + sum("tidewatch_rejected_rows_total")
    );

    // The same figures for people and machines.
    let top = place.good(&["top", "t.yaml", "--once", "--json"]).json();
    let tasks = top["processes"][0]["tasks"].as_array().unwrap().clone();
    assert_eq!(tasks.len(), 8, "{top}");
    assert!(tasks.iter().all(|t| t["phase"]["is"] == "live"), "{top}");
    assert_eq!(top["processes"][0]["ready"], true);
    let detect: Vec<&Value> = tasks.iter().filter(|t| t["stage"] == "detect").collect();
    assert!(detect.iter().any(|t| t["progress"]["keys"].as_u64() > Some(0)), "{top}");
    assert!(detect.iter().all(|t| !t["epoch"].is_null() && !t["lag"].is_null()), "{top}");
    let table = place.good(&["top", "t.yaml"]).out;
    assert!(table.contains("tidewatch.obs/1") && table.contains("live"), "{table}");
    let lag = place.good(&["lag", "t.yaml", "--json"]).json();
    let live = lag["partitions"].as_array().unwrap().iter().filter(|p| p["phase"] == "live").count();
    assert_eq!(live, 8, "{lag}");
    process.stop(WAIT).unwrap();
    let gone = place.command(&["top", "t.yaml", "--once", "--json"]);
    assert_eq!((gone.code, gone.json()["processes"].as_array().unwrap().len()), (1, 0));
}

/// Committed offset and position of the committed snapshot, by partition of `obs`.
fn committed(place: &Place) -> Vec<(i64, i64)> {
    let log = EmbeddedLog::open(place.path("log"), Options::default()).unwrap();
    let at: Vec<TopicPartition> = (0..2).map(|p| TopicPartition::new("tidewatch.obs", p)).collect();
    let committed = log.committed("tidewatch-detect", &at).unwrap();
    let of = |c: tidewatch::log::Committed| {
        let meta: Value = serde_json::from_str(&c.metadata).unwrap();
        let snapshot = meta["snapshot"].as_str().unwrap_or_else(|| panic!("no snapshot in {meta}"));
        (c.offset, snapshot.split('-').nth(1).unwrap().parse().unwrap())
    };
    committed.into_iter().map(|c| of(c.unwrap())).collect()
}

#[test]
fn sigterm_and_drain_leave_in_time_with_a_snapshot_at_what_is_committed() {
    // Longer than the test: the snapshots are those of the stops.
    let place = Place::new("drain_within: 30s\n");
    let text = std::fs::read_to_string(place.path("t.yaml")).unwrap().replace("every: 5s", "every: 1h");
    place.write("t.yaml", &text);
    let process = place.run("first", &[]);
    let at = place.address("first");
    place.produce();
    until("rows are read", WAIT, || {
        get(at, "/metrics").1.lines().any(|l| l.starts_with("tidewatch_normalized_rows_total") && !l.ends_with(" 0"))
    })
    .unwrap();
    let took = process.stop(WAIT).unwrap();
    assert!(took < Duration::from_secs(30), "{took:?}");
    for (offset, position) in committed(&place) {
        assert_eq!(offset, position, "the snapshot lies at the committed offset");
    }

    // From there it is live at once: nothing is processed again.
    let process = place.run("second", &[]);
    let at = place.address("second");
    until("ready", WAIT, || get(at, "/readyz").0 == 200).unwrap();
    let drained = place.good(&["drain", "t.yaml", "--json"]).json();
    assert_eq!(drained["given_up"].as_array().unwrap().len(), 0, "{drained}");
    assert!(process.wait(WAIT).unwrap().success());
    let told = place.said("second");
    assert!(told.iter().any(|l| l["message"].as_str().is_some_and(|m| m.starts_with("told to stop"))), "{told:?}");
    assert_eq!(place.command(&["drain", "t.yaml"]).code, 2, "nobody is there to be drained");
}

#[test]
fn what_cannot_be_finished_is_given_up_at_the_end_of_the_budget() {
    // A destination that takes a request and never answers: its thread is in that call when the process shall leave.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", deaf.local_addr().unwrap());
    let place = Place::new(&format!(
        "drain_within: 1s\ndestinations:\n- {{name: deaf, kind: webhook, url: \"{url}\", from: beginning, signing_file: key}}\n"
    ));
    place.write("key", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n");
    let process = place.run("stuck", &[]);
    place.address("stuck");
    place.produce();
    let (_held, _) = deaf.accept().unwrap();
    process.signal("TERM").unwrap();
    let began = Instant::now();
    let status = process.wait(WAIT).unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let told = place.said("stuck");
    let line = told.iter().find(|l| l["message"].as_str().is_some_and(|m| m.starts_with("drain_within is spent"))).unwrap();
    assert!(line["not_done"].as_str().unwrap().contains("destination deaf"), "{line}");
}

#[test]
fn explain_stall_names_the_holder() {
    let more = "destinations:\n- {name: siem, kind: webhook, url: \"http://127.0.0.1:9/\", from: beginning, authorization_file: secret}\n";
    let place = Place::new(more);
    place.write("secret", "Bearer dont-tell-anybody\n");
    let by = |done: &Done| -> Vec<(String, String)> {
        let text = |v: &Value| v.as_str().unwrap().to_owned();
        done.json()["held"].as_array().unwrap().iter().map(|h| (text(&h["by"]), text(&h["about"]))).collect()
    };
    // Nobody runs.
    place.produce();
    let nobody = place.command(&["explain-stall", "t.yaml", "--json"]);
    assert_eq!((nobody.code, by(&nobody)), (1, vec![("nobody_runs".into(), "process".into())]));

    // A partition that has no rows yet and is not silent for a long time.
    let text = std::fs::read_to_string(place.path("t.yaml")).unwrap();
    place.write("t.yaml", &text.replace("idle_after: 1s", "idle_after: 1h"));
    let process = place.run("slow", &["--log-level", "trace"]);
    let at = place.address("slow");
    until("ready", WAIT, || get(at, "/readyz").0 == 200).unwrap();
    until("the quiet partition holds", WAIT, || {
        let found = place.command(&["explain-stall", "t.yaml", "--json"]);
        found.code == 1 && by(&found).iter().any(|(by, about)| by == "silent_soon" && about.starts_with("probectl."))
    })
    .unwrap();
    let words = place.command(&["explain-stall", "t.yaml"]).out;
    assert!(words.contains("idle_after"), "{words}");
    process.stop(WAIT).unwrap();

    // A destination that is away: signals come, and nobody takes them.
    place.write("t.yaml", &text);
    let process = place.run("away", &["--log-level", "trace"]);
    // A tool that looks before the directory is taken would hold it itself for a moment.
    let at = place.address("away");
    until("ready", WAIT, || get(at, "/readyz").0 == 200).unwrap();
    until("the destination is named", WAIT, || {
        let found = place.command(&["explain-stall", "t.yaml", "--json"]);
        by(&found).contains(&("destination".into(), "destination siem".into()))
    })
    .unwrap();
    process.stop(WAIT).unwrap();

    // Everything they said is JSON, and the secret is nowhere.
    for name in ["slow", "away"] {
        let text = std::fs::read_to_string(place.path(&format!("{name}.err"))).unwrap();
        assert!(text.lines().count() > 5);
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            assert!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
        }
        assert!(!text.contains("dont-tell-anybody"), "a secret in the log");
    }
}

#[test]
fn nothing_is_held_in_a_quiet_run() {
    let place = Place::new("");
    let process = place.run("run", &[]);
    place.address("run");
    until("nothing is held", WAIT, || place.command(&["explain-stall", "t.yaml"]).code == 0).unwrap();
    process.stop(WAIT).unwrap();
}

/// SIGHUP and `rules reload` read the rules again: a bad set leaves the old one and says so, a good one is recorded for all.
#[test]
fn rules_are_read_again_by_signal_and_by_command() {
    let place = Place::new("rules: my-rules\n");
    std::fs::create_dir(place.path("my-rules")).unwrap();
    let process = place.run("run", &[]);
    let at = place.address("run");
    until("ready", WAIT, || get(at, "/readyz").0 == 200).unwrap();
    let count = |outcome: &str| {
        let line = format!("tidewatch_rule_reloads_total{{outcome=\"{outcome}\"}} ");
        let text = get(at, "/metrics").1;
        text.lines().find_map(|l| l.strip_prefix(&line)?.parse::<u64>().ok()).unwrap()
    };
    place.write("my-rules/a.yaml", "rules: [{id: x, kind: beacon}]\n");
    process.signal("HUP").unwrap();
    until("the signal is heard", WAIT, || count("refused") == 1).unwrap();
    let refused = place.command(&["rules", "reload", "t.yaml"]);
    assert!(refused.code == 2 && refused.err.contains("a.yaml:1:23: expected one of beaconing"), "{}", refused.err);
    assert_eq!(place.said("run").iter().filter(|l| l["level"] == "ERROR").count(), 2, "told once a try");
    let rule = "{id: x, version: 1, kind: beaconing, severity: low, base_confidence: 1, suppress: 1h}";
    place.write("my-rules/a.yaml", &format!("rules: [{rule}]\n"));
    let done = place.good(&["rules", "reload", "t.yaml", "--json"]).json();
    assert!(done["reloaded"]["outcome"] == "recorded" && done["reloaded"]["from"].is_string(), "{done}");
    place.good(&["rules", "reload", "t.yaml"]);
    assert_eq!((count("recorded"), count("unchanged"), count("refused")), (1, 1, 2));
}
