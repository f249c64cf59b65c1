//! The command as a user runs it: files and generator into topics, topics decoded, rejected records mended and replayed,
//! beside a running process and without one; and what it says when something is wrong.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use serde_json::Value;
use tempfile::TempDir;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch_generator::recordfile::{Header, write_record};
use tidewatch_schemas::time::EventTime;

/// Reference records, one of each format: (name, format, hex, what must be in the JSON).
const GOLDEN: &[(&str, &str, &str, &[&str])] = &[
    (
        "V0a",
        "probectl-flow",
        "0a480a0274311201612a0569706669784080809e81badff7da184a0831302e302e302e355a0c3230332e302e3131332e363660bb036a03746370a8018004b8010ac0018028e801f0f703",
        &[
            "\"tenant\":\"t1\"",
            "\"agent\":\"a\"",
            "2026-06-04T12:00:00Z",
            "\"source_address\":\"10.0.0.5\"",
            "\"destination_port\":443",
            "\"bytes_forward\":5120",
            "\"destination_asn\":64496",
        ],
    ),
    (
        "V0b",
        "probectl-ebpf",
        "1a390a0274311201681a037765623203646e733a0141420d4576696c2e4578616d706c652e4a084e58444f4d41494e50016080809e81badff7da18",
        &["\"tenant\":\"t1\"", "\"agent\":\"h\"", "\"client_name\":\"web\"", "\"query\":\"evil.example\"", "\"response_code\":3"],
    ),
    (
        "V0c",
        "probectl-result",
        "0a0274311a03646e732209612e6578616d706c6540015080809e81badff7da1862160a0b646e732e616e73776572731100000000000000406a140a09646e732e72636f646512074e4f4552524f52",
        &["\"canary_type\":\"dns\"", "\"success\":true", "\"query\":\"a.example\"", "\"answer_count\":2"],
    ),
    (
        "V0d",
        "probectl-bgp",
        "0a0274311002180321333333333333eb3f2a0c3139322e302e322e302f323430f4f70342059c1af4f7035802800180809e81badff7da18",
        &["\"bgp has no observation table yet\":1"],
    ),
];

struct Place {
    dir: TempDir,
}

/// What a command left behind.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Place {
    fn new() -> Self {
        let place = Self { dir: tempfile::tempdir().unwrap() };
        let text = "log: {embedded: {dir: log}}\n\
                    inputs:\n\
                    - {topic: probectl.flow.events, format: probectl-flow, tenant: {verified: {open: true}}, partitions: 2}\n\
                    - {topic: probectl.ebpf.flows, format: probectl-ebpf, tenant: {verified: {open: true}}, partitions: 2}\n\
                    - {topic: zeek.conn, format: zeek-conn, tenant: {static: local}, partitions: 2}\n\
                    time: {idle_after: 1s}\n\
                    epoch: 50ms\n\
                    obs: {partitions: 2}\n\
                    control: control.sock\n";
        place.write("t.yaml", text.as_bytes());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn records(&self, name: &str, values: &[&[u8]]) {
        let mut bytes = Vec::new();
        for value in values {
            let header = Header { key: Some("t1".into()), timestamp: EventTime::from_secs(1_780_574_400), partition: None };
            write_record(&mut bytes, &header, value).unwrap();
        }
        self.write(name, &bytes);
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidewatch"));
        command.args(words).current_dir(self.dir.path()).env("NO_COLOR", "1");
        command
    }

    fn run(&self, words: &[&str]) -> Done {
        self.run_with(words, b"")
    }

    fn run_with(&self, words: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(words);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that fails at once does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input);
        let done = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Done { code: done.status.code().unwrap(), out: text(done.stdout), err: text(done.stderr) }
    }

    /// The output of a command that must end well.
    fn good(&self, words: &[&str]) -> String {
        let done = self.run(words);
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{words:?}");
        done.out
    }

    fn json(&self, words: &[&str]) -> Vec<Value> {
        self.good(words).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The command must fail as usage or configuration, and say so once.
    fn wrong(&self, words: &[&str], message: Expect) {
        let done = self.run(words);
        assert_eq!((done.code, done.out.as_str()), (2, ""), "{words:?}: {}", done.err);
        message.assert_eq(&done.err);
    }

    /// Repeats until the output is as wanted.
    fn until(&self, words: &[&str], wanted: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let out = self.good(words);
            if wanted(&out) {
                return out;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{words:?} never gave what was wanted, but\n{out}");
        }
    }
}

/// A running topology; SIGTERM when it goes.
struct Running(Child);

impl Running {
    fn start(place: &Place) -> Self {
        let child = place.command(&["run", "t.yaml"]).stdin(Stdio::null()).spawn().unwrap();
        let running = Self(child);
        let began = Instant::now();
        // Whoever opens the directory before the run has it would keep it from starting.
        while !place.path("control.sock").exists() {
            assert!(began.elapsed() < Duration::from_secs(60), "the run never opened its socket");
            std::thread::yield_now();
        }
        running
    }

    /// Stops it, and says whether it ended well.
    fn stop(mut self) -> bool {
        self.terminate();
        self.0.wait().unwrap().success()
    }

    fn terminate(&self) {
        let sent = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}

#[test]
fn reference_records_decode_from_hex() {
    let place = Place::new();
    for (name, format, hex, wanted) in GOLDEN {
        let done = place.run_with(&["decode", format, "--hex"], hex.as_bytes());
        assert_eq!((done.code, done.err.as_str()), (0, ""), "{name}");
        for part in *wanted {
            assert!(done.out.contains(part), "{name}: no {part} in {}", done.out);
        }
    }
    let cut = place.run_with(&["decode", "probectl-flow", "--hex"], b"0a 48 0a");
    assert_eq!((cut.code, cut.out.as_str()), (1, ""));
    expect!["error: not a record of probectl-flow: cut off: flows needs more bytes at 2\n"].assert_eq(&cut.err);
    let raw = place.run_with(&["decode", "probectl-result"], &hex::decode(GOLDEN[2].2).unwrap());
    assert_eq!(raw.code, 0);
    assert!(place.good(&["decode", "--list"]).contains("zeek-http"));
}

#[test]
fn generated_records_are_where_they_belong_and_decode() {
    let place = Place::new();
    let figures = place.json(&["produce", "t.yaml", "--generate", "7", "--preset", "small", "--json"]);
    expect![[r#"[{"passed_over":{},"records":4880,"rows":60512,"topics":{"probectl.ebpf.flows":{"bytes":570893,"records":1329,"rows":4867,"undecodable":0},"probectl.flow.events":{"bytes":7817351,"records":3551,"rows":55645,"undecodable":0}}}]"#]]
        .assert_eq(&serde_json::to_string(&figures).unwrap());
    let first = place.good(&["tap", "t.yaml", "probectl.flow.events", "--limit", "1"]);
    expect![[r#"
        2026-03-11T08:00:08.64738Z  brook  flow  10.0.0.60:65486 -> 10.0.0.10:389 bytes_forward=280 direction_known=false end_time=2026-03-11T08:00:07.64738Z packets_forward=4 sampled_packet=false sampling_rate=1 start_time=2026-03-11T08:00:07.609152Z tcp_flags=27 transport=6
    "#]]
        .assert_eq(&first);
    // All rows of a tenant lie in one of the partitions: keys are placed as the Java client places them.
    let rows = |more: &[&str]| {
        let words = [&["tap", "t.yaml", "probectl.flow.events"][..], more].concat();
        place.good(&words).lines().count()
    };
    assert_eq!(rows(&[]), 55_645);
    assert_eq!(rows(&["--partition", "0"]) + rows(&["--partition", "1"]), 55_645);
    assert_eq!(rows(&["--tenant", "acme"]) + rows(&["--tenant", "brook"]), 55_645);
    assert_eq!(rows(&["--tenant", "nobody"]) + rows(&["--kind", "dns"]) + rows(&["--from", "end"]), 0);
    assert_eq!(rows(&["--grep", "104.135.121.253:53", "--limit", "1"]), 1);
    let last = place.json(&["tap", "t.yaml", "probectl.flow.events", "--limit", "1", "--json"]);
    let at = format!("probectl.flow.events@{}:{}", last[0]["partition"], last[0]["offset"]);
    let decoded = place.json(&["decode", "probectl-flow", "--topic", &at, "--topology", "t.yaml"]);
    assert_eq!(decoded[0]["rows"][0]["source_address"], "10.0.0.60");
    let lag = place.json(&["lag", "t.yaml", "--json"]);
    assert_eq!(lag[0]["lag"], 4880);

    let counts = &place.json(&["--log-level", "warn", "run", "t.yaml", "--until-end", "--json"])[0]["counts"];
    assert_eq!((&counts["rows_in"], &counts["rejected"]), (&60_512.into(), &0.into()), "{counts}");
    assert_eq!(place.json(&["lag", "t.yaml", "--stage", "normalize", "--json"])[0]["lag"], 0);
    let signals = place.json(&["tap", "t.yaml", "signals", "--json", "--kind", "ndr.beaconing"]);
    assert!(signals.iter().any(|s| s["tenant"] == "acme" && s["value"]["entity"]["type"] == "host"), "{signals:?}");
    let findings = place.json(&["tap", "t.yaml", "findings", "--json", "--kind", "finding"]);
    assert!(findings.len() >= signals.len() && findings[0]["value"]["evidence"].is_object());
    let contacts = place.good(&["tap", "t.yaml", "findings", "--kind", "contact", "--limit", "3"]);
    assert_eq!(contacts.lines().count(), 3);
}

#[test]
fn lines_of_a_folder_go_round_and_headers_everywhere() {
    let place = Place::new();
    std::fs::create_dir(place.path("logs")).unwrap();
    let line = |n: u32| format!("{}.5\tC{n}\t10.0.0.1\t{}\t10.0.0.2\t80\ttcp\tSF\n", 1_773_216_000 + n, 1024 + n);
    let header =
        "#separator \\x09\n#path\tconn\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\tproto\tconn_state\n";
    place.write("logs/conn.log", (header.to_owned() + &line(1) + &line(2) + &line(3)).as_bytes());
    let out = place.good(&["produce", "t.yaml", "--input", "zeek:logs"]);
    expect![[r#"
        topic      partitions  records  rows  bytes  undecodable
        zeek.conn  2           6        3     240    0
    "#]]
    .assert_eq(&out);
    let partition = |n| place.good(&["tap", "t.yaml", "zeek.conn", "--partition", n, "--kind", "flow"]);
    expect![[r#"
        2026-03-11T08:00:01.5Z  local  flow  10.0.0.1:1025 -> 10.0.0.2:80 connection_state=SF direction_known=true sampled_packet=false sampling_rate=1 start_time=2026-03-11T08:00:01.5Z transport=6 uid=C1
        2026-03-11T08:00:03.5Z  local  flow  10.0.0.1:1027 -> 10.0.0.2:80 connection_state=SF direction_known=true sampled_packet=false sampling_rate=1 start_time=2026-03-11T08:00:03.5Z transport=6 uid=C3
    "#]].assert_eq(&partition("0"));
    expect![[r#"
        2026-03-11T08:00:02.5Z  local  flow  10.0.0.1:1026 -> 10.0.0.2:80 connection_state=SF direction_known=true sampled_packet=false sampling_rate=1 start_time=2026-03-11T08:00:02.5Z transport=6 uid=C2
    "#]].assert_eq(&partition("1"));
    // From the middle of a partition the columns are known, too.
    let place_of_row = ["decode", "zeek-conn", "--topic", "zeek.conn@0:4", "--topology", "t.yaml"];
    assert_eq!(place.json(&place_of_row)[0]["rows"][0]["uid"], "C3");
}

#[test]
fn rejected_records_are_mended_and_replayed_through_the_control_socket() {
    let place = Place::new();
    let whole = hex::decode(GOLDEN[0].2).unwrap();
    place.records("f.records", &[&whole, &whole[..20], b"\xff\xff"]);
    place.good(&["produce", "t.yaml", "--input", "probectl-flow:f.records"]);
    let running = Running::start(&place);
    let mut follow = place.command(&["tap", "t.yaml", "obs", "--kind", "flow", "--follow", "--limit", "3", "--json"]);
    let follow = follow.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let counted = |out: &str| serde_json::from_str::<Value>(out).unwrap()["records"] == 2;
    let list = place.until(&["dlq", "list", "t.yaml", "--json"], counted);
    expect![[r#"
        {"beyond_limit":0,"groups":[{"example":"bytes: cut off: tag needs more bytes at 0","first":{"offset":0,"partition":0},"format":"probectl-flow","last":{"offset":1,"partition":0},"reason":"bytes","records":2,"replayed":0,"tenant":"t1","topic":"probectl.flow.events"}],"records":2}
    "#]].assert_eq(&list);
    let shown = place.good(&["dlq", "show", "t.yaml", "1"]);
    assert!(shown.contains("tw-topic: probectl.flow.events\n") && shown.contains("00000000  ff ff"), "{shown}");
    // Produce, too, comes in while the directory is owned.
    place.good(&["produce", "t.yaml", "--input", "probectl-flow:f.records"]);
    place.until(&["dlq", "list", "t.yaml", "--json"], |out| serde_json::from_str::<Value>(out).unwrap()["records"] == 4);
    let replayed = place.good(&["dlq", "replay", "t.yaml", "--offset", "1", "--hex", GOLDEN[0].2]);
    expect!["1 records replayed to tidewatch.replayed\n"].assert_eq(&replayed);
    // As they are they fail again, and keep saying where they first came from.
    let again = place.good(&["dlq", "replay", "t.yaml", "--reason", "bytes"]);
    expect!["3 records replayed to tidewatch.replayed\n1 passed over, replayed before\n"].assert_eq(&again);
    let list = place.until(&["dlq", "list", "t.yaml"], |out| out.contains("\n7 ") || out.starts_with("7 "));
    expect![[r#"
        records  replayed  reason  topic                 format         tenant  offsets  newest
        7        4         bytes   probectl.flow.events  probectl-flow  t1      0..6     bytes: cut off: tag needs more bytes at 0
    "#]]
    .assert_eq(&list);
    // Three good rows: two as they came, one mended; the original topic has what was produced.
    let rows = place.until(&["tap", "t.yaml", "obs", "--kind", "flow"], |out| out.lines().count() == 3);
    assert!(rows.lines().all(|l| l.starts_with("2026-06-04T12:00:00Z  t1  flow  10.0.0.5 -> 203.0.113.66:443 ")), "{rows}");
    assert_eq!(place.good(&["tap", "t.yaml", "probectl.flow.events"]).lines().count(), 6);
    place.until(&["lag", "t.yaml", "--stage", "normalize", "--json"], |out| {
        serde_json::from_str::<Value>(out).unwrap()["lag"] == 0
    });
    let lag = place.good(&["lag", "t.yaml"]);
    assert!(lag.contains("watermark is held by "), "{lag}");
    let marks = place.json(&["tap", "t.yaml", "control", "--kind", "mark", "--json", "--limit", "1"]);
    assert_eq!(marks[0]["value"]["cause"], "join");
    // Who follows has seen each of them as it came.
    let followed = follow.wait_with_output().unwrap();
    let lines = String::from_utf8(followed.stdout).unwrap();
    assert_eq!((followed.status.code(), lines.lines().count()), (Some(0), 3), "{lines}");
    assert!(running.stop());
    // The same without a run.
    assert_eq!(place.good(&["tap", "t.yaml", "rejected"]).lines().count(), 7);
}

#[test]
fn what_is_wrong_is_said_once_and_nothing_is_done() {
    let place = Place::new();
    place.wrong(
        &["produce", "no.yaml", "--generate", "1"],
        expect![[r#"
        error: cannot read no.yaml: No such file or directory (os error 2)
    "#]],
    );
    place.write("broken.yaml", b"log: {embedded: {dir: log}}\ninputs:\n- {topic: a, formt: zeek-conn, tenant: {static: t}}\n");
    place.wrong(
        &["tap", "broken.yaml", "obs"],
        expect![[r#"
        broken.yaml:3:3: format is missing
        broken.yaml:3:14: unknown name formt; did you mean "format"?
        error: 2 mistakes; nothing was done
    "#]],
    );
    place.wrong(
        &["produce", "t.yaml", "--input", "zeek:nowhere"],
        expect![[r#"
        error: no file matches nowhere; give a file, a folder or a glob that names at least one
    "#]],
    );
    place.wrong(&["produce", "t.yaml", "--input", "zek:logs"], expect![[r#"
        error: unknown format "zek"; formats are probectl-flow, probectl-ebpf, probectl-result, probectl-bgp, zeek, zeek-conn, zeek-dns, zeek-ssl, zeek-http
    "#]]);
    place.wrong(&["produce", "t.yaml", "--input", "probectl-bgp:t.yaml"], expect![[r#"
        error: no input of the topology has the format probectl-bgp: add one, or say --topic; inputs are probectl.flow.events (probectl-flow), probectl.ebpf.flows (probectl-ebpf), zeek.conn (zeek-conn)
    "#]]);
    place.wrong(&["produce", "t.yaml", "--input", "zeek-conn:t.yaml", "--topic", "zeek.con"], expect![[r#"
        error: unknown input topic "zeek.con"; did you mean zeek.conn? known are probectl.flow.events, probectl.ebpf.flows, zeek.conn
    "#]]);
    place.wrong(
        &["produce", "t.yaml", "--input", "zeek-conn:t.yaml", "--topic", "probectl.flow.events"],
        expect![[r#"
        error: input probectl.flow.events has the format probectl-flow; the files were called zeek-conn
    "#]],
    );
    place.wrong(
        &["tap", "t.yaml", "obs"],
        expect![[r#"
        error: there is no log in log yet: `tidewatch run` or `tidewatch produce` with this topology makes it
    "#]],
    );
    place.wrong(
        &["lag", "t.yaml"],
        expect![[r#"
        error: there is no log in log yet: `tidewatch run` or `tidewatch produce` with this topology makes it
    "#]],
    );
    place.wrong(&["decode", "zeek-con"], expect![[r#"
        error: unknown format "zeek-con"; did you mean zeek-conn? known are probectl-flow, probectl-ebpf, probectl-result, probectl-bgp, zeek, zeek-conn, zeek-dns, zeek-ssl, zeek-http
    "#]]);
    place.wrong(
        &["dlq", "replay", "t.yaml", "--offset", "1", "--offset", "2", "--hex", "00"],
        expect![[r#"
        error: a repaired record replaces one: give exactly one --offset
    "#]],
    );
    assert!(!place.path("log").exists(), "a command that failed made a log");

    place.write("memory.yaml", b"log: {memory: {}}\ninputs:\n- {topic: a, format: zeek-conn, tenant: {static: t}}\n");
    place.wrong(&["tap", "memory.yaml", "signals"], expect![[r#"
        error: the topology's log is memory: it lives and ends inside `tidewatch run`, no other command can reach it; use an embedded or a kafka log
    "#]]);
    place.write(
        "kafka.yaml",
        b"log: {kafka: {brokers: ['127.0.0.1:1'], allow_plaintext: true}}\ninputs:\n- {topic: a, format: zeek-conn, tenant: {static: t}}\n",
    );
    // The client's own words differ from time to time.
    let unreachable = place.run(&["tap", "kafka.yaml", "signals"]);
    assert_eq!(unreachable.code, 2);
    assert!(unreachable.err.starts_with("error: cannot reach Kafka at 127.0.0.1:1: "), "{}", unreachable.err);

    place.records("f.records", &[&hex::decode(GOLDEN[0].2).unwrap()]);
    place.good(&["produce", "t.yaml", "--input", "probectl-flow:f.records"]);
    place.wrong(&["tap", "t.yaml", "sgnals"], expect![[r#"
        error: unknown topic "sgnals"; did you mean signals? known are obs, findings, signals, shadow, rejected, late, replayed, control, probectl.flow.events
    "#]]);
    place.wrong(
        &["tap", "t.yaml", "signals"],
        expect![[r#"
        error: topic tidewatch.signals is not there yet: `tidewatch run` makes it when it starts
    "#]],
    );
    place.wrong(
        &["tap", "t.yaml", "probectl.flow.events", "--partition", "7"],
        expect![[r#"
        error: topic probectl.flow.events has 2 partitions, 0 to 1
    "#]],
    );
    place.wrong(
        &["decode", "probectl-flow", "--topic", "probectl.flow.events@1:44", "--topology", "t.yaml"],
        expect![[r#"
        error: offset 44 of probectl.flow.events/1 is outside 0..1
    "#]],
    );
    place.write("file", b"");
    place.write("dir.yaml", b"log: {embedded: {dir: file/log}}\ninputs:\n- {topic: a, format: zeek-conn, tenant: {static: t}}\n");
    place.wrong(
        &["produce", "dir.yaml", "--generate", "1", "--format", "zeek", "--hours", "1"],
        expect![[r#"
        error: storage of file/log failed: Not a directory (os error 20)
    "#]],
    );
    // Another process has the directory and does not serve it.
    let _held = EmbeddedLog::open(place.path("log"), Options::default()).unwrap();
    let done = place.run(&["tap", "t.yaml", "probectl.flow.events"]);
    assert_eq!(done.code, 2);
    expect![[r#"
        error: log is in use by process PID, which is not to be reached: cannot reach control.sock: no process serves this directory; is `tidewatch run` running?; a run that was started with another `control` than this topology names cannot be found
    "#]].assert_eq(&done.err.replace(&std::process::id().to_string(), "PID"));
}
