//! Commands of `rules` as people give them. `mute`: a host stays silent until an end; `acknowledge`: unless it becomes graver. `why-not`: of a host about which nothing is said, each condition with its value and threshold, from rows and from the
//! snapshot that a run left; of one that is told of, that it is, and what exceptions and `where` keep back.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
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
