//! Commands of `rules` as people give them. `list`, `lint`, `test`, `new`: what acts, whether it is sound, says what its tests
//! want, and how one begins; `score names` beside them. `shadow: true` the whole way. `mute`: a host stays silent until an end; `acknowledge`: unless it becomes graver. `why-not`: of a host about which nothing is said, each condition with its value and threshold, from rows and from the
//! snapshot that a run left; of one that is told of, that it is, and what exceptions and `where` keep back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tidewatch_operators::detectors;
use tidewatch_tests::program::{Process, until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Longest wait for anything.
const WAIT: Duration = Duration::from_secs(120);

struct Place {
    dir: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn command(&self, words: &[&str]) -> (i32, String, String) {
        let done = Command::new(PROGRAM).args(words).current_dir(self.dir.path()).env("NO_COLOR", "1").output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
    }

    fn good(&self, words: &[&str]) -> String {
        let (code, out, err) = self.command(words);
        assert_eq!(code, 0, "{words:?}: {out}{err}");
        out
    }

    /// What a command with `--json` says, an object a line.
    fn lines(&self, words: &[&str]) -> (i32, Vec<Value>) {
        let (code, out, err) = self.command(&[words, &["--json"]].concat());
        (code, out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}{err}"))).collect())
    }

    /// What one rule answers.
    fn answer(&self, rule: &str, words: &[&str]) -> Value {
        let all = [&["rules", "why-not"], words, &["--only", rule, "--json"]].concat();
        serde_json::from_str(self.good(&all).trim()).unwrap()
    }

    /// Zeek's log of connections: 10.0.0.5 calls 203.0.113.66 once a minute, so many times; 10.0.0.6 tries SMB on as many
    /// hosts that do not answer.
    fn conn_log(&self, calls: u32) {
        let fields = "ts uid id.orig_h id.orig_p id.resp_h id.resp_p proto service duration orig_bytes resp_bytes conn_state \
                      local_orig local_resp missed_bytes history orig_pkts orig_ip_bytes resp_pkts resp_ip_bytes";
        let mut text =
            format!("#separator \\x09\n#path\tconn\n#fields\t{}\n", fields.split_whitespace().collect::<Vec<_>>().join("\t"));
        for n in 0..calls {
            let beacon = 1_780_304_400 + 60 * n;
            text += &format!(
                "{beacon}.000000\tC{n}\t10.0.0.5\t{}\t203.0.113.66\t443\ttcp\tssl\t1.5\t500\t4000\tSF\tT\tF\t0\tShADad\t8\t900\t9\t4500\n",
                40_000 + n
            );
            text += &format!(
                "{beacon}.500000\tD{n}\t10.0.0.6\t{}\t10.0.1.{}\t8080\ttcp\t-\t-\t-\t-\tS0\tT\tT\t0\tS\t1\t60\t0\t0\n",
                50_000 + n,
                n % 250 + 1
            );
        }
        self.write("logs/conn.log", &text);
    }
}

const ROWS: [&str; 5] = ["10.0.0.5", "--tenant", "acme", "--input", "zeek:logs"];

/// A case's condition.
fn condition<'a>(answer: &'a Value, case: usize, name: &str) -> &'a Value {
    let all = answer["cases"][case]["conditions"].as_array().unwrap_or_else(|| panic!("no case {case}: {answer}"));
    all.iter().find(|c| c["name"].as_str().unwrap().starts_with(name)).unwrap_or_else(|| panic!("no {name}: {answer}"))
}

#[test]
fn each_condition_is_told_with_its_value_and_threshold() {
    let place = Place::new();
    place.conn_log(6);
    let beacon = place.answer("beaconing", &ROWS);
    assert_eq!(
        (beacon["state"].as_str(), beacon["signals"].as_u64(), beacon["rows"]["flow"].as_u64()),
        (Some("cases"), Some(0), Some(6))
    );
    assert!(beacon["cases"][0]["of"].as_str().unwrap().contains("203.0.113.66"), "{beacon}");
    let gaps = condition(&beacon, 0, "gaps");
    assert_eq!((gaps["value"].as_f64(), gaps["threshold"].as_f64(), gaps["met"].as_bool()), (Some(5.0), Some(8.0), Some(false)));
    // Volumes: a window of every length, none of them near.
    let volume = place.answer("egress_volume", &ROWS);
    assert_eq!(volume["cases"].as_array().unwrap().len(), 3, "{volume}");
    assert_eq!(condition(&volume, 0, "octets out")["met"], false);
    // Names: no row of it meant anything.
    assert_eq!(place.answer("dns_dga", &ROWS)["state"], "nothing_kept");
    let scan = place.answer("scan", &["10.0.0.6", "--tenant", "acme", "--input", "zeek:logs"]);
    assert_eq!(condition(&scan, 0, "failed attempts")["value"], 6.0, "{scan}");

    let table = place.good(&[&["rules", "why-not"], &ROWS[..]].concat());
    for wanted in ["10.0.0.5 of acme: rows 6 flow", "gaps (min_samples)", ">= 8", "NO", "no signal"] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    // Another tenant's host, and a host of which there is nothing.
    let other = place.good(&["rules", "why-not", "10.9.9.9", "--tenant", "acme", "--input", "zeek:logs"]);
    assert!(other.contains("no row is filed under this host"), "{other}");
    let (code, _, err) = place.command(&[&["rules", "why-not"], &ROWS[..], &["--only", "beacon"]].concat());
    assert!(code == 2 && err.contains("there is no rule or kind beacon; there are ndr-"), "{err}");
}

#[test]
fn what_is_told_and_what_is_kept_back_is_said() {
    let place = Place::new();
    place.conn_log(60);
    let told = place.answer("beaconing", &ROWS);
    assert!(told["signals"].as_u64() >= Some(1) && told["cases"][0]["met"] == true, "{told}");
    // Before the ninth call: the same host, not yet.
    let before = place.answer("beaconing", &[&ROWS[..], &["--to", "2026-06-01T09:05:00Z"]].concat());
    assert_eq!((before["signals"].as_u64(), before["cases"][0]["met"].as_bool()), (Some(0), Some(false)), "{before}");
    let about = place.answer("beaconing", &[&ROWS[..], &["--about", "198.51.100.1"]].concat());
    assert_eq!(about["cases"].as_array().unwrap().len(), 0, "{about}");

    let rule = |more: &str| {
        format!(
            "rules: [{{id: ndr-beaconing-default, version: 2, kind: beaconing, severity: low, base_confidence: 40, suppress: 1h, {more}}}]\n"
        )
    };
    let with = |more: &str| {
        place.write("rules/r.yaml", &rule(more));
        place.answer("beaconing", &[&ROWS[..], &["--rules", "rules"]].concat())
    };
    let allowed = with("allow: [{destination: 203.0.113.66, owner: me, reason: r, expires: never}]");
    assert!(allowed["signals"] == 0 && allowed["allowed"].as_u64() > Some(0) && allowed["cases"][0]["met"] == true, "{allowed}");
    let sifted = with("where: evidence.interval_s < 30");
    assert!(sifted["signals"] == 0 && sifted["where_findings"].as_u64() > Some(0), "{sifted}");
    let unseen = with("where: destination_port <> 443");
    assert!(unseen["signals"] == 0 && unseen["where_rows"] == 60 && unseen["state"] == "nothing_kept", "{unseen}");
}

#[test]
fn a_deployment_is_asked_through_its_newest_snapshot() {
    let place = Place::new();
    place.conn_log(6);
    place.write(
        "t.yaml",
        "log: {embedded: {dir: log}}\ninputs: [{topic: zeek.conn, format: zeek-conn, tenant: {static: acme}, partitions: 1, lateness: 2s}]\n\
         time: {idle_after: 1s, max_future: 1s}\nepoch: 100ms\nobs: {partitions: 2}\nfindings: {partitions: 1}\n\
         snapshots: {url: snapshots, every: 5s}\nlimits: {spill_dir: spill}\ncontrol: control.sock\n",
    );
    let live = ["10.0.0.5", "--tenant", "acme", "--topology", "t.yaml", "--live"];
    place.good(&["produce", "t.yaml", "--input", "zeek:logs"]);
    let (code, _, err) = place.command(&[&["rules", "why-not"], &live[..]].concat());
    assert!(code == 2 && err.contains("no detect task of this deployment has a snapshot yet"), "{err}");
    let process = Process::start(PROGRAM, "run", place.dir.path(), &["run", "t.yaml"]).unwrap();
    let rows = |words: &[&str]| {
        let (code, out, _) = place.command(&[&["rules", "why-not"], words, &["--only", "beaconing", "--json"]].concat());
        let answer: Option<Value> = serde_json::from_str(out.trim()).ok().filter(|_| code == 0);
        // An earlier snapshot may lie before the last call.
        answer.is_some_and(|a: Value| a["cases"][0]["conditions"][0]["value"] == 5.0)
    };
    // Before that a tool would take the log's directory for itself, and the run could not start.
    until("it runs", WAIT, || place.path("control.sock").exists()).unwrap();
    until("a snapshot holds the host", WAIT, || rows(&live)).unwrap();
    process.stop(WAIT).unwrap();
    // Nobody runs any more: the same, from what it left.
    let answer = place.answer("beaconing", &live);
    let gaps = condition(&answer, 0, "gaps");
    assert_eq!((gaps["value"].as_f64(), gaps["met"].as_bool()), (Some(5.0), Some(false)), "{answer}");
    assert_eq!(answer["signals"], Value::Null);
}

/// R4: an analyst mutes one host for one tenant; what was there stays when it would be wrong.
#[test]
fn r4_an_analyst_mutes_a_host_until_an_end() {
    let place = Place::new();
    place.conn_log(60);
    place.write("rules/own.yaml", "rules: []\n");
    let rows = [&ROWS[..], &["--rules", "rules"]].concat();
    assert!(place.answer("beaconing", &rows)["signals"].as_u64() > Some(0));
    let mute = |more: &[&str]| {
        let words = ["rules", "mute", "--rules", "rules", "--owner", "ann", "--reason", "ticket \"4711\": known, by #7"];
        place.command(&[&words[..], more].concat())
    };
    let (code, _, err) = mute(&["--source", "10.0.0.5", "--rule", "ndr-beaconing-defaul", "--for", "8h"]);
    assert!(code == 2 && err.contains("did you mean \"ndr-beaconing-default\"?"), "{err}");
    assert!(!place.path("rules/muted.yaml").exists());
    let (code, _, err) = mute(&["--source", "10.0.0.5", "--for", "9999h"]);
    assert!(code == 2 && err.contains("at most 720h"), "{err}");
    let (code, _, err) = mute(&["--for", "8h"]);
    assert!(code == 2 && err.contains("an exception names at least one of"), "{err}");

    // Rows of long ago are before its end in event time.
    let (code, out, err) = mute(&["--tenant", "acme", "--source", "10.0.0.5", "--kind", "beaconing", "--for", "8h"]);
    assert!(code == 0 && out.contains("muted until 2"), "{out}{err}");
    let muted = place.answer("beaconing", &rows);
    assert!(muted["signals"] == 0 && muted["allowed"].as_u64() > Some(0), "{muted}");
    mute(&["--tenant", "acme", "--domain", "x.example", "--port", "8443", "--for", "30m"]);
    let text = std::fs::read_to_string(place.path("rules/tenants/acme/muted.yaml")).unwrap();
    assert_eq!(text.matches("expires: ").count(), 2, "{text}");
    place.good(&["rules", "lint", "--rules", "rules"]);
}

/// R4: an analyst has seen a signal; of the same no more is said, of what is graver is.
#[test]
fn r4_an_analyst_acknowledges_a_signal() {
    let place = Place::new();
    place.conn_log(60);
    place.write("rules/own.yaml", "rules: []\n");
    let signals = || -> Vec<Value> {
        place.good(&["backtest", "--input", "zeek:logs", "--tenant", "acme", "--rules", "rules", "--out", "signals.ndjson"]);
        let text = std::fs::read_to_string(place.path("signals.ndjson")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let of = |all: &[Value], host: &str| all.iter().filter(|s| s["entity"]["id"] == host).cloned().collect::<Vec<_>>();
    let all = signals();
    let (beacons, scans) = (of(&all, "10.0.0.5"), of(&all, "10.0.0.6"));
    assert!(!beacons.is_empty() && !scans.is_empty() && beacons.iter().all(|s| s["severity"] == "medium"), "{all:?}");
    let acknowledge = |signal: &str, more: &[&str]| {
        let words = ["rules", "acknowledge", signal, "--rules", "rules", "--owner", "ann", "--reason", "partner's #7: known"];
        place.command(&[&words[..], more].concat())
    };
    place.write("both.json", &format!("{}\n{}\n", beacons[0], scans[0]));
    let (code, _, err) = acknowledge("both.json", &["--for", "30d"]);
    assert!(code == 2 && err.contains("more than one line"), "{err}");
    place.write("one.json", &beacons[0].to_string());
    let (code, _, err) = acknowledge("one.json", &["--for", "91d"]);
    assert!(code == 2 && err.contains("at most 2160h"), "{err}");
    let (code, _, err) = acknowledge("none.json", &["--for", "30d"]);
    assert!(code == 2 && err.contains("to find a signal by its id: --topology"), "{err}");
    assert!(!place.path("rules/tenants").exists());

    // As `tap --json` wraps it.
    place.write("one.json", &format!("{}\n", serde_json::json!({"kind": "signal", "tenant": "acme", "value": beacons[0]})));
    let (code, out, err) = acknowledge("one.json", &["--for", "30d"]);
    assert!(code == 0 && out.contains("acknowledged up to medium until 2"), "{out}{err}");
    assert!(out.contains("up_to: \"medium\"") && out.contains("tidewatch rules reload TOPOLOGY"), "{out}");
    let written = std::fs::read_to_string(place.path("rules/tenants/acme/acknowledged.yaml")).unwrap();
    for part in ["rules: [\"ndr-beaconing-default\"]", "source: \"10.0.0.5\"", "destination: \"203.0.113.66\"", "port: 443"] {
        assert!(written.contains(part), "{part}: {written}");
    }
    place.good(&["rules", "lint", "--rules", "rules"]);
    assert!(place.good(&["rules", "explain", "ndr-beaconing-default", "--rules", "rules"]).contains("up to medium"));

    let left = signals();
    assert_eq!(of(&left, "10.0.0.5"), Vec::<Value>::new());
    assert_eq!(of(&left, "10.0.0.6"), scans, "it is about this host alone");
    // What the rule holds for graver from now on is told.
    let graver =
        "rules: [{id: ndr-beaconing-default, version: 2, kind: beaconing, severity: high, base_confidence: 40, suppress: 1h}]\n";
    place.write("rules/own.yaml", graver);
    assert!(of(&signals(), "10.0.0.5").iter().any(|s| s["severity"] == "high"));
}

/// A signal of a running deployment by its id; the process takes the exception up.
#[test]
fn r4_a_signal_is_acknowledged_by_its_id_while_it_runs() {
    let place = Place::new();
    place.conn_log(60);
    place.write("rules/own.yaml", "rules: []\n");
    place.write(
        "t.yaml",
        "log: {embedded: {dir: log}}\ninputs: [{topic: zeek.conn, format: zeek-conn, tenant: {static: acme}, partitions: 1, lateness: 2s}]\n\
         time: {idle_after: 1s, max_future: 1s}\nepoch: 100ms\nobs: {partitions: 2}\nfindings: {partitions: 1}\nrules: rules\n\
         limits: {spill_dir: spill}\ncontrol: control.sock\n",
    );
    place.good(&["produce", "t.yaml", "--input", "zeek:logs"]);
    let process = Process::start(PROGRAM, "run", place.dir.path(), &["run", "t.yaml"]).unwrap();
    until("it runs", WAIT, || place.path("control.sock").exists()).unwrap();
    let first = || {
        let (code, out, _) = place.command(&["tap", "t.yaml", "signals", "--kind", "ndr.beaconing", "--limit", "1", "--json"]);
        serde_json::from_str::<Value>(out.trim()).ok().filter(|_| code == 0)
    };
    until("a signal is there", WAIT, || first().is_some()).unwrap();
    let id = first().unwrap()["value"]["id"].as_str().unwrap().to_owned();
    let words = |id: &str| {
        let words =
            ["rules", "acknowledge", id, "--topology", "t.yaml", "--for", "30d", "--owner", "ann", "--reason", "r", "--json"];
        place.command(&words)
    };
    let (code, _, err) = words("0123456789abcdef");
    assert!(code == 2 && err.contains("neither a file nor the id of a signal"), "{err}");
    let (code, out, err) = words(&id);
    assert_eq!(code, 0, "{out}{err}");
    let told: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((told["signal"].as_str(), told["up_to"].as_str()), (Some(id.as_str()), Some("medium")), "{told}");
    assert!(told["reloaded"]["from"].is_string(), "the process recorded it: {told}");
    process.stop(WAIT).unwrap();
}

/// Every default rule of every kind, and what is laid over them.
#[test]
fn rules_list_shows_what_acts_and_what_does_not() {
    let place = Place::new();
    place.write("rules/off.yaml", "rules: [{id: ndr-lateral-default, version: 2, kind: lateral, severity: high, base_confidence: 1, suppress: 1h, enabled: false}]\n");
    place.write(
        "rules/tenants/acme/own.yaml",
        "rules:\n  - {id: own, version: 3, kind: scan, severity: low, base_confidence: 40, suppress: 2h, shadow: true, where: confidence > 50}\n",
    );
    let (code, all) = place.lines(&["rules", "list", "--rules", "rules"]);
    assert_eq!((code, all.len()), (0, detectors::ALL.len() + 1), "{all:?}");
    for detector in detectors::ALL {
        let rule = all.iter().find(|r| r["rule"]["kind"] == detector.rule_kind && r["rule"]["tenant"].is_null()).unwrap();
        let off = detector.rule_kind == "lateral";
        assert_eq!(rule["rule"]["enabled"], !off, "{rule}");
        assert!(off || rule["tests"].as_u64() >= Some(3) && rule["file"].as_str().unwrap().starts_with("built-in "), "{rule}");
        assert_eq!((rule["shadow"].as_bool(), &rule["rule_set"]), (Some(false), &all[0]["rule_set"]));
    }
    let own = all.iter().find(|r| r["rule"]["id"] == "own").unwrap();
    assert_eq!(
        (own["shadow"].as_bool(), own["where"].as_str(), own["line"].as_u64()),
        (Some(true), Some("confidence > 50"), Some(2))
    );

    let table = place.good(&["rules", "list", "--rules", "rules"]);
    let row = |id: &str| -> Vec<String> {
        let line = table.lines().find(|l| l.starts_with(id)).unwrap_or_else(|| panic!("no {id}: {table}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("own")[..9], ["own", "3", "scan", "acme", "low", "2h", "shadow", "0", "0"]);
    assert_eq!(row("ndr-lateral-default")[6], "off");
    assert_eq!(row("ndr-beaconing-default")[6], "on");
    assert!(table.contains(&format!("rule set {}", &all[0]["rule_set"].as_str().unwrap()[..16])), "{table}");
    let explained = place.good(&["rules", "explain", "own", "--rules", "rules"]);
    assert!(explained.contains("own version 3") && explained.contains("(shadow, tenant: acme)"), "{explained}");
    let (code, _, err) = place.command(&["rules", "list", "--rules", "none"]);
    assert!(code == 2 && err.contains("cannot read the rules directory"), "{err}");
}

/// The tests of the default rules by the command that people and CI use.
#[test]
fn rules_test_runs_every_test_and_fails_when_one_does() {
    let place = Place::new();
    let (code, all) = place.lines(&["rules", "test"]);
    assert_eq!(code, 0, "{all:?}");
    assert!(all.len() >= 3 * detectors::ALL.len() && all.iter().all(|t| t["passed"] == true && t["wrong"].is_null()), "{all:?}");
    let (_, only) = place.lines(&["rules", "test", "--only", "ndr-lateral-default"]);
    assert!(!only.is_empty() && only.iter().all(|t| t["rule"] == "ndr-lateral-default"), "{only:?}");

    let lateral = std::fs::read_to_string(tidewatch_tests::project::root().join("rules/lateral.yaml")).unwrap();
    place.write("rules/l.yaml", &lateral.replacen("expect: none", "expect: {signals: 1+}", 1));
    let wrong = ["rules", "test", "--rules", "rules", "--only", "ndr-lateral-default"];
    let (code, tried) = place.lines(&wrong);
    let failed: Vec<&Value> = tried.iter().filter(|t| t["passed"] == false).collect();
    assert!(
        code == 1 && failed.len() == 1 && failed[0]["wrong"].is_string() && failed[0]["line"].as_u64() > Some(1),
        "{tried:?}"
    );
    let (code, table, _) = place.command(&wrong);
    assert!(code == 1 && table.contains("FAILED rules/l.yaml:") && table.contains("1 failed"), "{table}");
    let (code, _, err) = place.command(&["rules", "test", "--only", "ndr-latera"]);
    assert!(code == 2 && err.contains("there is no rule ndr-latera"), "{err}");
}

/// A skeleton of every kind is sound, and its own test fails until somebody has written it.
#[test]
fn rules_new_gives_a_skeleton_that_lints_and_whose_test_fails() {
    for detector in detectors::ALL {
        let place = Place::new();
        let kind = detector.rule_kind;
        place.write("rules/mine.yaml", &place.good(&["rules", "new", kind, "--id", "mine"]));
        let (code, linted) = place.lines(&["rules", "lint", "--strict", "--rules", "rules"]);
        assert_eq!(
            (code, linted[0]["good"].as_bool(), linted[0]["warnings"].as_array().map(Vec::len)),
            (0, Some(true), Some(0)),
            "{kind}: {linted:?}"
        );
        let (code, tried) = place.lines(&["rules", "test", "--rules", "rules", "--only", "mine"]);
        let passed: Vec<bool> = tried.iter().map(|t| t["passed"].as_bool().unwrap()).collect();
        assert_eq!((code, passed), (1, vec![false, true]), "{kind}: {tried:?}");
        let (_, listed) = place.lines(&["rules", "list", "--rules", "rules"]);
        assert!(listed.iter().any(|r| r["rule"]["id"] == "mine" && r["rule"]["kind"] == kind), "{kind}");
        assert!(place.good(&["rules", "new", kind]).contains(&format!("id: my-{}", kind.replace('_', "-"))), "{kind}");
    }
    let place = Place::new();
    let (code, out, err) = place.command(&["rules", "new", "beacon"]);
    assert!(code == 2 && out.is_empty() && err.contains("there is no kind beacon; there are beaconing, "), "{err}");
    place.write(
        "rules/bad.yaml",
        "rules: [{id: a, version: 1, kind: lateral, severity: high, base_confidence: 1, suppress: 1h, lists: {ports: []}}]\n",
    );
    let (code, linted) = place.lines(&["rules", "lint", "--rules", "rules"]);
    let mistake = &linted[0]["mistakes"][0];
    assert_eq!((code, linted[0]["good"].as_bool(), mistake["line"].as_u64()), (2, Some(false), Some(1)), "{linted:?}");
    assert!(mistake["message"].as_str().unwrap().contains("ports is empty"), "{mistake}");
}

/// A name a line in; name, tab, score out; a third column where there is nothing to score.
#[test]
fn score_names_scores_what_comes_in() {
    let mut process =
        Command::new(PROGRAM).args(["score", "names"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let names = "kqzvxwpjthbn.com\n\nwww.wikipedia.org\nco.uk\nnot a name\nqx7fk2pz9vbw.net";
    process.stdin.take().unwrap().write_all(names.as_bytes()).unwrap();
    let done = process.wait_with_output().unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert!(done.status.success(), "{text}");
    let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split('\t').collect()).collect();
    let names: Vec<&str> = rows.iter().map(|r| r[0]).collect();
    assert_eq!(names, ["kqzvxwpjthbn.com", "www.wikipedia.org", "co.uk", "not a name", "qx7fk2pz9vbw.net"]);
    let scores: Vec<f64> = rows.iter().map(|r| r[1].parse().unwrap()).collect();
    assert!(scores.iter().all(|s| (0.0..=1.0).contains(s)) && scores[0] > 0.9 && scores[4] > 0.9 && scores[1] < 0.2, "{text}");
    assert_eq!((rows[2].get(2), rows[3].get(2), rows[0].get(2)), (Some(&"a public suffix"), Some(&"not a name"), None));
}

/// D11, as people use it: over rows and live, marked wherever it is shown, and nowhere among the signals.
#[test]
fn d11_a_rule_in_shadow_is_marked_in_a_backtest_and_has_a_topic_of_its_own_live() {
    let place = Place::new();
    place.conn_log(60);
    let rule = |more: &str| {
        format!(
            "rules: [{{id: ndr-beaconing-default, version: 2, kind: beaconing, severity: high, base_confidence: 40, suppress: 1h{more}}}]\n"
        )
    };
    let backtest = |more: &str| -> Vec<Value> {
        place.write("rules/b.yaml", &rule(more));
        place.good(&["backtest", "--input", "zeek:logs", "--tenant", "acme", "--rules", "rules", "--out", "s.ndjson"]);
        let text = std::fs::read_to_string(place.path("s.ndjson")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let beacons = |all: &[Value]| -> Vec<(String, bool)> {
        let of = all.iter().filter(|s| s["kind"] == "ndr.beaconing");
        of.map(|s| (s["id"].as_str().unwrap().to_owned(), s["shadow"] == true)).collect()
    };
    let (live, shadow) = (backtest(""), backtest(", shadow: true"));
    let ids: Vec<String> = beacons(&live).into_iter().map(|(id, _)| id).collect();
    assert!(!ids.is_empty() && beacons(&live).iter().all(|(_, shadow)| !shadow), "{live:?}");
    assert_eq!(beacons(&shadow), ids.iter().map(|id| (id.clone(), true)).collect::<Vec<_>>());
    assert_eq!(live.len(), shadow.len());
    let words = ["backtest", "--input", "zeek:logs", "--tenant", "acme", "--rules", "rules"];
    let table = place.good(&words);
    assert!(
        table.contains("in shadow: 10.0.0.5 called") && table.lines().any(|l| l.starts_with("kind") && l.contains("in shadow")),
        "{table}"
    );
    let (_, figures) = place.lines(&words);
    assert_eq!(
        (figures[0]["shadow"].as_u64(), figures[0]["signals"].as_u64()),
        (Some(ids.len() as u64), Some((live.len() - ids.len()) as u64))
    );
    let why = place.answer("beaconing", &[&ROWS[..], &["--rules", "rules"]].concat());
    assert_eq!((why["signals"].as_u64(), why["shadow"].as_u64()), (Some(0), Some(ids.len() as u64)), "{why}");

    place.write(
        "t.yaml",
        "log: {embedded: {dir: log}}\ninputs: [{topic: zeek.conn, format: zeek-conn, tenant: {static: acme}, partitions: 1, lateness: 2s}]\n\
         time: {idle_after: 1s, max_future: 1s}\nepoch: 100ms\nobs: {partitions: 2}\nfindings: {partitions: 1}\nrules: rules\n\
         limits: {spill_dir: spill}\ncontrol: control.sock\n",
    );
    place.good(&["produce", "t.yaml", "--input", "zeek:logs"]);
    let process = Process::start(PROGRAM, "run", place.dir.path(), &["run", "t.yaml"]).unwrap();
    until("it runs", WAIT, || place.path("control.sock").exists()).unwrap();
    let tap = |topic: &str| {
        let (code, out, _) = place.command(&["tap", "t.yaml", topic, "--json"]);
        let all: Vec<Value> = out.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        if code == 0 { all } else { Vec::new() }
    };
    until("the scan is told of, and the beacon in shadow", WAIT, || {
        !tap("signals").is_empty() && tap("shadow").len() >= ids.len()
    })
    .unwrap();
    let told: Vec<Value> = tap("shadow");
    assert!(told.iter().all(|one| one["kind"] == "shadow" && one["topic"] == "tidewatch.shadow"), "{told:?}");
    assert_eq!(told.iter().map(|one| one["value"]["id"].as_str().unwrap()).collect::<Vec<_>>(), ids);
    assert!(tap("signals").iter().all(|one| one["value"]["kind"] != "ndr.beaconing"));
    let counted = || -> Option<(Value, Value)> {
        let (_, looks) = place.lines(&["top", "t.yaml", "--once"]);
        let tasks = looks.first()?["processes"][0]["tasks"].as_array()?.clone();
        let mut judged = tasks.iter().filter_map(|t| t["progress"]["judged"].as_array()).flatten();
        let of = judged.find(|j| j["rule"] == "ndr-beaconing-default")?;
        Some((of["shadow"].clone(), of["signals"].clone()))
    };
    // What a process tells of itself may be a moment behind what it has committed.
    let wanted = Some((Value::from(ids.len()), Value::from(0)));
    until("top counts it as said in shadow", WAIT, || counted() == wanted).unwrap();
    let top = place.good(&["top", "t.yaml", "--once"]);
    assert!(top.contains(&format!("rule ndr-beaconing-default  shadow {}", ids.len())), "{top}");
    process.stop(WAIT).unwrap();
}
