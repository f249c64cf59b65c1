//! `where` in rules: which rows a detector sees, which findings go on, the same ones whatever the layout; what is no expression
//! is told with its place.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;

use expect_test::expect;
use tempfile::TempDir;
use tidewatch::rules::{self, testing};
use tidewatch_operators::detectors;
use tidewatch_operators::rule::{Rule, RuleSet};
use tidewatch_schemas::signal::{Signal, from_json};
use tidewatch_tests::scenario::{Layout, Scenario, default_rules};
use tidewatch_tests::traffic;

/// The defaults with a file laid over them; mistakes with the directory as `DIR`.
fn load(text: &str) -> Result<RuleSet, String> {
    let dir: TempDir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("w.yaml"), text).unwrap();
    let told = rules::load(Some(dir.path()), detectors::ALL);
    told.map_err(|m| m.to_string().replace(&dir.path().display().to_string(), "DIR"))
}

fn signals(base: &Scenario, rules: &[Rule], layout: &Layout) -> Vec<Signal> {
    let outcome = Scenario { rules: rules.to_vec(), ..base.clone() }.run(layout).unwrap();
    outcome.signals.values().flatten().map(|s| from_json(s).unwrap()).collect()
}

fn of<'s>(all: &'s [Signal], tenant: &str, kind: &str) -> Vec<&'s Signal> {
    all.iter().filter(|s| s.tenant == tenant && s.kind == kind).collect()
}

/// A rule of one's own with tests: which rows the detector sees, which findings go on.
const WHERE: &str = "rules:
  - id: only-clear-text
    version: 1
    kind: beaconing
    severity: medium
    base_confidence: 40
    suppress: 1h
    where: >-
      destination_port IN (80, 8080)
      AND NOT in_network(destination_address, '198.51.100.0/24')
    tests:
      - name: a beacon to a port that is looked at
        rows:
          - flow: {from: 10.0.0.5, to: 203.0.113.66, port: 8080, out: 500, in: 4000}
            every: 60s
            count: 60
        expect: {signals: 1+, host: 10.0.0.5, destination: 203.0.113.66}
      - name: the same to another port
        rows:
          - flow: {from: 10.0.0.5, to: 203.0.113.66, port: 443, out: 500, in: 4000}
            every: 60s
            count: 60
        expect: none
      - name: the same to a network that is left out
        rows:
          - flow: {from: 10.0.0.5, to: 198.51.100.7, port: 8080, out: 500, in: 4000}
            every: 60s
            count: 60
        expect: none
  - id: only-fast
    version: 1
    kind: beaconing
    severity: medium
    base_confidence: 40
    suppress: 1h
    where: evidence.interval_s < 120 AND confidence / evidence.missed <> 0
    tests:
      - name: one minute, and no call is missed, by which nothing can be divided
        rows:
          - flow: {from: 10.0.0.5, to: 203.0.113.66, port: 443, out: 500, in: 4000}
            every: 60s
            count: 60
        expect: none
  - id: only-slow
    version: 1
    kind: beaconing
    severity: medium
    base_confidence: 40
    suppress: 1h
    where: evidence.interval_s >= 120 AND destination.port = 443
    tests:
      - name: one minute
        rows:
          - flow: {from: 10.0.0.5, to: 203.0.113.66, port: 443, out: 500, in: 4000}
            every: 60s
            count: 60
        expect: none
      - name: five minutes
        rows:
          - flow: {from: 10.0.0.5, to: 203.0.113.66, port: 443, out: 500, in: 4000}
            every: 5m
            count: 60
        expect: {signals: 1+, host: 10.0.0.5}
";

#[test]
fn a_where_decides_which_rows_are_seen_or_which_findings_go_on() {
    let set = load(WHERE).unwrap();
    let mut kept_back = BTreeMap::new();
    for (rule, notes) in set.all().filter(|(rule, _)| rule.filter().is_some()) {
        for example in &notes.examples {
            let tried = testing::run(rule, example, detectors::ALL).unwrap();
            assert_eq!(tried.wrong, None, "{}: {}", rule.id, example.name);
            kept_back.insert(example.name.clone(), (tried.where_rows, tried.where_findings > 0, tried.where_errors > 0));
        }
    }
    let of = |name: &str| kept_back[name];
    assert_eq!(of("a beacon to a port that is looked at"), (0, false, false));
    assert_eq!(of("the same to another port"), (60, false, false));
    assert_eq!(of("the same to a network that is left out"), (60, false, false));
    assert_eq!(of("one minute, and no call is missed, by which nothing can be divided"), (0, true, true));
    assert_eq!(of("one minute"), (0, true, false));
    // The name of the content is another with another expression.
    let other = load(&WHERE.replace(">= 120", ">= 121")).unwrap();
    assert_ne!(set.version_hash, other.version_hash);
    let plain = Rule { lists: BTreeMap::new(), ..set.rules[0].clone() };
    assert_eq!((plain.filter(), default_rules().iter().find_map(Rule::filter)), (None, None));
}

#[test]
fn a_where_that_is_none_is_told_with_file_line_and_suggestion() {
    let rule = |text: &str| {
        format!(
            "rules:\n  - id: a\n    version: 1\n    kind: scan\n    severity: low\n    base_confidence: 1\n    suppress: 1h\n    where: {text}\n"
        )
    };
    let told = |text: &str| load(&rule(text)).unwrap_err();
    expect![[r#"DIR/w.yaml:8:12: where: unknown column destination_prt of kind scan; did you mean "destination_port"?"#]]
        .assert_eq(&told("destination_prt = 22"));
    expect!["DIR/w.yaml:8:12: where: mixes columns of rows (transport) with fields of findings (confidence)"]
        .assert_eq(&told("confidence > 3 AND transport = 6"));
    expect![
        "DIR/w.yaml:8:12: where: now is volatile: a backtest would be told otherwise than the live run; rows have event_time"
    ]
    .assert_eq(&told("event_time > now()"));
    assert!(told("[a, b]").contains("DIR/w.yaml:8:12: expected text"), "{}", told("[a, b]"));
    let many: String = (0..70)
        .map(|n| rule(&format!("destination_port = {n}")).replace("id: a", &format!("id: a{n}")).replace("rules:\n", ""))
        .collect();
    let told = load(&format!("rules:\n{many}")).unwrap_err();
    assert!(told.contains("where: more than 64 different expressions over rows in one set of rules"), "{told}");
}

/// Rows and findings that an expression chooses are the same ones whatever the partitions, workers and batches.
#[test]
fn a_where_chooses_the_same_whatever_the_partitions() {
    let base = traffic::by_hand();
    let plain = signals(&base, &default_rules(), &Layout::default());
    let with = |text: &str| {
        let kinds = ["beaconing", "lateral"];
        let lists = |rule: &Rule| {
            let mut lists = rule.lists.clone();
            if kinds.contains(&rule.kind.as_str()) {
                lists.insert("where".to_owned(), vec![text.to_owned()]);
            }
            lists
        };
        default_rules().into_iter().map(|rule| Rule { lists: lists(&rule), ..rule }).collect::<Vec<Rule>>()
    };
    for text in ["destination_port <> 445 AND bytes_forward / bytes_reverse >= 0", "confidence >= 60 AND destination.port <> 445"]
    {
        let sorted = |layout: &Layout| {
            let mut all = signals(&base, &with(text), layout);
            all.sort_by(|a, b| (&a.tenant, &a.id).cmp(&(&b.tenant, &b.id)));
            all.iter_mut().for_each(|s| s.raw.clear());
            all
        };
        let first = sorted(&Layout::default());
        assert!(of(&first, "b", "ndr.lateral").is_empty() && !of(&plain, "b", "ndr.lateral").is_empty(), "{text}");
        for (obs, workers, poll_records) in [(2, 1, 100), (5, 3, 7)] {
            assert_eq!(sorted(&Layout { obs, workers, poll_records, ..Layout::default() }), first, "{text}: {obs} partitions");
        }
    }
}
