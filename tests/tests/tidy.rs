//! What a machine can check of the house style: headers, rooms that do not know each other, lists that are complete, limits
//! that are documented, links that resolve. A rule that no test enforces is no rule.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use tidewatch_operators::detectors;
use tidewatch_operators::rule::DEFAULTS;
use tidewatch_tests::project::{Source, files, root};

/// Files over [`LINES_LONG`] lines, and why each is better whole.
const LONG_ALLOWED: &[(&str, &str)] = &[];
const LINES_LONG: usize = 500;

/// Tests that let time pass, and why they cannot do otherwise.
const SLEEPS_ALLOWED: &[(&str, &str)] = &[
    ("tests/broker/src/kafka.rs", "asks a starting broker again"),
    ("tests/tests/failures.rs", "keeps a broker away for longer than every time-out"),
    ("tests/src/job.rs", "asks a running job again, within a limit"),
    ("tests/src/cluster.rs", "asks a starting or recovering cluster again, within a limit"),
    ("tests/src/chaos/feed.rs", "rows come at the pace of the clock"),
    ("tests/src/chaos/mod.rs", "asks a running deployment again, within a limit"),
    ("tests/src/chaos/rotation.rs", "asks a running deployment again, within a limit; zombies sleep"),
    ("tests/src/chaos/watch.rs", "looks again and again until it is told to stop"),
    ("tests/src/program.rs", "asks a process again, within a limit"),
    ("tests/tests/kafka_pipeline.rs", "asks a running pipeline again, within a limit"),
    ("tests/tests/deliver.rs", "asks a condition again, within a limit"),
    ("pipeline/src/log/kafka/client.rs", "asks a client again whether it has said much, within a limit"),
    ("tests/tests/kafka_log.rs", "transactions come apart, so that the client sees an end behind each"),
    ("tests/tests/log_conformance.rs", "kills a writer at a random moment"),
    ("tests/src/gate.rs", "holds a store's answers back for as long as a test says"),
    ("tests/src/s3.rs", "asks a starting server again, within a limit"),
    ("tests/tests/snapshots_s3.rs", "asks a running job again, within a limit"),
];

/// What a room may import of ours, by the folder of its Cargo.toml. An import never runs the other way.
const IMPORTS: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("operators", &["tidewatch-schemas"]),
    ("bench/generator", &["tidewatch-schemas"]),
    ("pipeline", &["tidewatch-schemas", "tidewatch-operators", "tidewatch-generator"]),
    ("tests/broker", &["tidewatch"]),
    ("bench", &["tidewatch-schemas", "tidewatch-operators", "tidewatch-generator", "tidewatch", "tidewatch-broker"]),
    ("tests", &["tidewatch-schemas", "tidewatch-operators", "tidewatch-generator", "tidewatch", "tidewatch-broker"]),
];

/// What the pure rooms must not depend on: logs, async, clocks, networks, unseeded chance.
const IMPURE: &[&str] = &[
    "rdkafka",
    "tokio",
    "futures",
    "fjall",
    "object_store",
    "reqwest",
    "rustls",
    "signal-hook",
    "chrono",
    "time",
    "getrandom",
    "indicatif",
    "clap",
    "tracing",
    "rand",
    "async-trait",
];

fn rust() -> Vec<Source> {
    let files = files(".rs");
    assert!(files.len() > 100, "the tree was not found");
    files
}

fn fail_if_any(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

#[test]
fn every_file_begins_with_what_it_is() {
    let found: Vec<String> =
        rust().iter().filter(|s| s.header().first().is_none_or(|l| l.trim().is_empty())).map(|s| s.path.clone()).collect();
    fail_if_any("no //! header on the first line", &found);
}

#[test]
fn files_stay_small() {
    let is_allowed = |path: &str| LONG_ALLOWED.iter().any(|(p, _)| *p == path);
    let found: Vec<String> = rust()
        .iter()
        .map(|s| (s.text.lines().count(), s))
        .filter(|(lines, s)| *lines > LINES_LONG && !is_allowed(&s.path))
        .map(|(lines, s)| format!("{}: {lines} lines", s.path))
        .collect();
    fail_if_any("too long: split by purpose, or give the reason in LONG_ALLOWED", &found);
}

#[test]
fn every_detector_has_its_rule_and_its_tests() {
    for detector in detectors::ALL {
        let kind = detector.rule_kind;
        assert!(root().join(format!("rules/{kind}.yaml")).is_file(), "rules/{kind}.yaml is missing");
        assert!(DEFAULTS.iter().any(|d| d.rule_kind == kind), "{kind} is not built in");
        // What its rules and headings must be is asked in operators/src/conformance.rs, of every detector of the list.
        let dir = root().join("operators/src").join(kind);
        assert!(dir.join("tests.rs").is_file(), "operators/src/{kind}/tests.rs is missing: a detector has scenarios");
    }
    let listed: BTreeSet<&str> = detectors::ALL.iter().map(|d| d.kind).collect();
    assert_eq!(listed.len(), detectors::ALL.len(), "a detector stands in the list twice");
    let declared = files(".rs").iter().filter(|s| s.product().contains("pub static DETECTOR: Detector")).count();
    assert_eq!(declared, detectors::ALL.len(), "a detector is not in the list");
}

#[test]
fn the_pipeline_names_no_detector() {
    let mut found = Vec::new();
    for source in rust().iter().filter(|s| s.path.starts_with("pipeline/src/")) {
        for (i, line) in source.product().lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if detectors::ALL.iter().any(|d| words.contains(d.rule_kind)) {
                found.push(format!("{}:{}: {}", source.path, i + 1, line.trim()));
            }
        }
    }
    fail_if_any("pipeline/ knows no detection", &found);
}

/// The names under `[dependencies]` and `[dev-dependencies]` of a manifest, apart.
fn dependencies(folder: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
    let mut sections: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut section = String::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']').to_owned();
        } else if let Some((name, _)) = line.split_once(['.', ' ', '=']) {
            sections.entry(section.clone()).or_default().insert(name.to_owned());
        }
    }
    let mut take = |name: &str| sections.remove(name).unwrap_or_default();
    (take("dependencies"), take("dev-dependencies"))
}

#[test]
fn imports_run_one_way() {
    for (folder, allowed) in IMPORTS {
        let (normal, dev) = dependencies(folder);
        assert!(!normal.is_empty(), "{folder}/Cargo.toml was not understood");
        for name in normal.iter().chain(&dev).filter(|n| n.starts_with("tidewatch")) {
            assert!(allowed.contains(&name.as_str()), "{folder} must not import {name}");
        }
    }
    let members = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let members = members.lines().find(|l| l.starts_with("members")).unwrap();
    assert_eq!(members.matches('"').count() / 2, IMPORTS.len(), "a crate without a line in IMPORTS");
}

#[test]
fn the_pure_rooms_depend_on_nothing_that_acts() {
    for folder in ["schemas", "operators"] {
        let (normal, _) = dependencies(folder);
        let impure: Vec<&String> = normal.iter().filter(|n| IMPURE.contains(&n.as_str())).collect();
        assert!(impure.is_empty(), "{folder} depends on {impure:?}");
        assert!(root().join(folder).join("clippy.toml").is_file(), "{folder} has no list of refused methods");
    }
}

#[test]
fn every_limit_says_what_it_limits() {
    let mut found = Vec::new();
    let mut count = 0;
    for source in rust().iter().filter(|s| s.path.contains("/src/") && !s.path.starts_with("tests/")) {
        for limit in source.limits() {
            count += 1;
            if limit.meaning.split_whitespace().count() < 3 {
                found.push(format!("{}: {}", source.path, limit.name));
            }
        }
    }
    assert!(count > 50, "limits were not found");
    fail_if_any("limits without a comment that says what is limited and what happens there", &found);
}

/// Limits in detectors that forget nothing which is looked for later: examples that are told, the newest or busiest few by
/// design, what is read of one row.
const NOT_COUNTED: &[&str] = &[
    "ANSWERS_MAX",
    "CONTACTS_MAX",
    "EXAMPLES_MAX",
    "EXAMPLE_BYTES_MAX",
    "FOUND_MAX",
    "LATEST_MAX",
    "LIGHT_MAX",
    "NAME_BYTES_MAX",
    "NAME_LABEL_BYTES_MAX",
    "NAME_LABELS_MAX",
    "PORTS_MAX",
    "SELECTOR_BYTES_MAX",
    "SLEEPS_MAX",
    "SUFFIXES_MAX",
    "TARGETS_MAX",
    "TEXT_BYTES_MAX",
    "TOPS_MAX",
    "TYPES_MAX",
];

#[test]
fn every_limit_of_a_detectors_state_is_counted() {
    let mut found = Vec::new();
    for detector in detectors::ALL {
        let own = format!("operators/src/{}", detector.rule_kind);
        let sources = rust();
        let own = |s: &&Source| s.path == format!("{own}.rs") || s.path.starts_with(&format!("{own}/"));
        let there: Vec<String> = sources
            .iter()
            .filter(own)
            .flat_map(|s| s.text.lines())
            .filter_map(|line| line.trim_start_matches("pub(super) ").strip_prefix("const ")?.split_once(": usize"))
            .map(|(name, _)| name.to_owned())
            .filter(|name| name.ends_with("_MAX"))
            .collect();
        let counted: Vec<&str> = detector.limits.iter().map(|limit| limit.name).collect();
        let open = there.iter().filter(|n| !counted.contains(&n.as_str()) && !NOT_COUNTED.contains(&n.as_str()));
        found.extend(open.map(|name| format!("{}: {name} is not counted", detector.rule_kind)));
        let gone = counted.iter().filter(|n| !there.contains(&(**n).to_owned()));
        found.extend(gone.map(|name| format!("{}: {name} is no constant", detector.rule_kind)));
    }
    fail_if_any("limits of detectors' states", &found);
}

#[test]
fn no_test_is_ignored_and_none_sleeps_without_a_reason() {
    let ignore = format!("#[{}", "ignore");
    let found: Vec<String> = rust().iter().filter(|s| s.text.contains(&ignore)).map(|s| s.path.clone()).collect();
    fail_if_any("ignored tests", &found);
    let tests = |s: &Source| s.path.starts_with("tests/") || s.text.len() > s.product().len();
    let sleep = format!("thread::{}(", "sleep");
    let found: Vec<String> = rust()
        .iter()
        .filter(|s| {
            tests(s) && s.text[s.product().len()..].contains(&sleep) || s.path.starts_with("tests/src") && s.text.contains(&sleep)
        })
        .map(|s| s.path.clone())
        .filter(|path| !SLEEPS_ALLOWED.iter().any(|(p, _)| p == path))
        .collect();
    fail_if_any("tests that sleep; give the reason in SLEEPS_ALLOWED or wait for something", &found);
}

/// Files of the product that reach out, and to whom.
const REACH_OUT: &[(&str, &str)] = &[
    ("pipeline/src/deliver/http.rs", "destinations named in the topology"),
    ("pipeline/src/deliver/target.rs", "looks up the addresses of destinations, to refuse private ones"),
    ("pipeline/src/snapshot.rs", "the object store named in the topology"),
];

/// Promise P8, as far as sources show it: no process is started, no packet made, no device spoken to.
#[test]
fn nothing_acts() {
    let mut found = Vec::new();
    // Benches are no part of the product; some of them start processes of their own.
    let measures = |path: &str| ["bench/src/restart", "bench/src/cost"].iter().any(|own| path.starts_with(own));
    for source in rust().iter().filter(|s| !s.path.starts_with("tests/") && !measures(&s.path)) {
        let code = source.product();
        for word in ["process::Command", "Command::new(", "CommandExt", "SOCK_RAW", "libc::"] {
            if code.contains(word) {
                found.push(format!("{}: {word}", source.path));
            }
        }
        let reaches = ["reqwest::", "TcpStream::connect", "UdpSocket", "ToSocketAddrs", "to_socket_addrs"];
        if reaches.iter().any(|r| code.contains(r)) && !REACH_OUT.iter().any(|(p, _)| *p == source.path) {
            found.push(format!("{}: reaches out", source.path));
        }
    }
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for name in ["rtnetlink", "netlink-sys", "nftables", "iptables", "pnet", "pcap", "ssh2", "russh", "snmp", "netconf"] {
        if lock.contains(&format!("name = \"{name}\"\n")) {
            found.push(format!("Cargo.lock: {name}"));
        }
    }
    fail_if_any("nothing in the product may act on a network", &found);
}

/// Texts a reader meets: sources, documents, configuration.
fn texts() -> Vec<Source> {
    let mut all: Vec<Source> = [".rs", ".md", ".yaml", ".yml", ".toml"].iter().flat_map(|e| files(e)).collect();
    all.push(Source { path: ".ci/run".to_owned(), text: fs::read_to_string(root().join(".ci/run")).unwrap() });
    all.retain(|s| s.path != "tests/tests/tidy.rs");
    all
}

#[test]
fn nothing_is_left_to_do_and_nothing_speaks_of_its_making() {
    let words = ["TODO", "FIXME", "XXX:", "TBD", "/work/", "issue #", "this issue", "issues show", "the brief", "this session"];
    let mut found = Vec::new();
    for source in texts() {
        for (i, line) in source.text.lines().enumerate() {
            if let Some(word) = words.iter().find(|w| line.contains(**w)) {
                found.push(format!("{}:{}: {word}", source.path, i + 1));
            }
        }
    }
    fail_if_any("words that do not belong into the project", &found);
}

/// Targets of the Markdown links of a text: `](target)`, code left out.
fn links(text: &str) -> Vec<String> {
    let mut fenced = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if !fenced {
            links.extend(line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target.to_owned()));
        }
    }
    links
}

/// The anchors that a Markdown renderer makes of the headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let heading = |l: &str| l.starts_with('#').then(|| l.trim_start_matches('#').trim().to_owned());
    text.lines()
        .filter_map(heading)
        .map(|h| {
            let kept: String = h.to_lowercase().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).collect();
            kept.replace(' ', "-")
        })
        .collect()
}

#[test]
fn links_resolve() {
    let mut found = Vec::new();
    let documents = files(".md");
    assert!(documents.len() >= 3);
    for source in &documents {
        let folder = root().join(&source.path).parent().unwrap().to_owned();
        for link in links(&source.text).iter().filter(|l| !l.contains("://")) {
            let (path, anchor) = link.split_once('#').map_or((link.as_str(), None), |(p, a)| (p, Some(a)));
            let target = if path.is_empty() { root().join(&source.path) } else { folder.join(path) };
            let good = target.exists()
                && anchor.is_none_or(|a| fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(a)));
            if !good {
                found.push(format!("{}: {link}", source.path));
            }
        }
    }
    fail_if_any("links that lead nowhere", &found);
}

#[test]
fn the_code_map_names_every_room() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut found = Vec::new();
    for source in rust() {
        let mut parts = source.path.split('/');
        let (Some(room), Some("src"), Some(name)) = (parts.next(), parts.next(), parts.next()) else { continue };
        let name = name.trim_end_matches(".rs");
        if ["schemas", "operators", "pipeline"].contains(&room)
            && !["lib", "main", "tests"].contains(&name)
            && !map.contains(&format!("`{name}`"))
        {
            found.push(format!("{room}/src/{name}"));
        }
    }
    found.dedup();
    fail_if_any("rooms that ARCHITECTURE.md does not name", &found);
    for (id, _) in PROMISES {
        assert!(map.contains(&format!("| {id} |")), "{id} has no line in ARCHITECTURE.md");
    }
}

/// What is promised; each has a line in ARCHITECTURE.md that names its test or says "not yet".
const PROMISES: &[(&str, &str)] = &[
    ("P1", "no signal lost, none twice, none altered"),
    ("P2", "same rows, same signals"),
    ("P3", "every row accounted for"),
    ("P4", "tenants apart"),
    ("P5", "bounded memory"),
    ("P6", "hostile input gives an error"),
    ("P7", "delivery delays, never loses"),
    ("P8", "nothing acts"),
    ("P9", "absence is explained"),
    ("P10", "what is published can be verified"),
];

#[test]
fn every_test_file_that_a_promise_names_is_there() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut named = 0;
    for (id, _) in PROMISES {
        let line = map.lines().find(|l| l.starts_with(&format!("| {id} |"))).unwrap();
        let tests: Vec<&str> = line.split('`').skip(1).step_by(2).filter(|t| t.ends_with(".rs")).collect();
        assert!(!tests.is_empty() || line.contains("not yet"), "{id} names neither a test nor \"not yet\"");
        for test in tests {
            assert!(root().join(test).is_file(), "{id} names {test}, which is not there");
            named += 1;
        }
    }
    assert!(named > 5);
}
