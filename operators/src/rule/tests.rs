//! Tests of rules, against a detector that exists only here.
#![allow(clippy::unwrap_used, clippy::panic)]

use expect_test::expect;

use super::*;
use crate::operator::{Context, Detector, Field, Footprint, ListEntry, ListField, Operator, Seen, Threshold};
use crate::runtime::Store;

struct Nothing;

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct NoState;

impl Footprint for NoState {
    fn heap_bytes(&self) -> usize {
        0
    }
}

impl Operator for Nothing {
    type State = NoState;

    fn rows(&self, _: &[Seen<'_>], _: &mut NoState, _: &mut Context<'_>) {}
}

const fn threshold(name: &'static str, default: f64, min: f64, max: f64) -> Threshold {
    Threshold { name, default, min, max, meaning: "test" }
}

static BEACONING: Detector = Detector {
    kind: "ndr.beaconing",
    rule_kind: "beaconing",
    title: "Beaconing",
    page: "",
    reads: &[],
    attack: &[],
    thresholds: &[
        threshold("min_samples", 8.0, 3.0, 512.0),
        threshold("max_jitter", 0.12, 0.0, 1.0),
        threshold("min_interval_s", 5.0, 1.0, 86_400.0),
        threshold("max_interval_s", 3_600.0, 1.0, 86_400.0),
    ],
    lists: &[],
    evidence: &[("score", Field::Double), ("ports", Field::List)],
    limits: &[],
    build: |rule| Store::boxed(&BEACONING, rule, |_| Nothing),
    judge: |finding, _| Some(finding),
};

static LATERAL: Detector = Detector {
    kind: "ndr.lateral",
    rule_kind: "lateral",
    title: "Lateral movement",
    page: "",
    reads: &[],
    attack: &[],
    thresholds: &[threshold("fanout", 10.0, 2.0, 10_000.0)],
    lists: &[
        ListField { name: "ports", default: &["22", "445"], entry: ListEntry::WatchedPort, meaning: "test" },
        ListField { name: "allow", default: &[], entry: ListEntry::Text, meaning: "test" },
    ],
    evidence: &[("score", Field::Double), ("ports", Field::List)],
    limits: &[],
    build: |rule| Store::boxed(&LATERAL, rule, |_| Nothing),
    judge: |finding, _| Some(finding),
};

static DETECTORS: &[&Detector] = &[&BEACONING, &LATERAL];

const DEFAULT: &str = "rules:
  - id: ndr-beaconing-default
    version: 1
    kind: beaconing
    severity: warning
    base_confidence: 40
    suppress: 1h
";

/// The overlay of probectl's documents.
const OVERLAY: &str = "rules:
  - id: ndr-beaconing-default
    version: 2
    kind: beaconing
    name: Beaconing
    severity: warning
    base_confidence: 45
    suppress: 4h
    thresholds:
      min_samples: 12
      max_jitter: 0.08
      min_interval_s: 10
      max_interval_s: 3600
";

fn sources(texts: &[&str]) -> Vec<Source> {
    texts.iter().enumerate().map(|(i, t)| Source { label: format!("{i}.yaml"), text: (*t).to_owned() }).collect()
}

fn load(defaults: &[&str], overlay: &[&str]) -> Result<RuleSet, String> {
    RuleSet::load(&sources(defaults), &sources(overlay), DETECTORS).map_err(|m| m.to_string())
}

#[test]
fn thresholds_and_lists_that_are_not_set_have_the_detectors_values() {
    let set =
        load(&[DEFAULT], &["rules: [{id: l, version: 3, kind: lateral, severity: high, base_confidence: 50, suppress: 0s}]"]);
    let set = set.unwrap();
    assert_eq!(set.rules[0].id, "l");
    assert_eq!(set.rules[0].list("ports"), ["22", "445"]);
    assert_eq!(set.rules[0].name, "Lateral movement");
    assert_eq!(set.rules[1].threshold("min_samples"), 8.0);
    assert_eq!(set.rules[1].severity, Severity::Medium);
    assert_eq!(set.rules[1].suppress_ns, 3_600_000_000_000);
}

#[test]
fn the_published_overlay_replaces_the_whole_rule() {
    let set = load(&[DEFAULT], &[OVERLAY]).unwrap();
    let [rule] = set.rules.as_slice() else { panic!("{set:?}") };
    assert_eq!((rule.version, rule.base_confidence, rule.suppress_ns), (2, 45, 4 * 3_600_000_000_000));
    assert_eq!(rule.threshold("min_samples"), 12.0);
    assert_eq!(rule.threshold("max_jitter"), 0.08);
    assert_eq!(rule.threshold("min_interval_s"), 10.0);
    assert_eq!(rule.threshold("max_interval_s"), 3600.0);
}

#[test]
fn a_rule_is_switched_off_by_its_overlay() {
    let off = format!("{OVERLAY}    enabled: false\n");
    let set = load(&[DEFAULT], &[&off]).unwrap();
    assert!(set.rules.is_empty());
    assert_eq!(set.off.len(), 1);
    assert_eq!(set.version_hash, load(&[], &[]).unwrap().version_hash);
}

#[test]
fn the_hash_names_the_content_not_its_writing() {
    let plain = load(&[DEFAULT], &[OVERLAY]).unwrap();
    let other_order = OVERLAY.replace("    version: 2\n", "").replace("    kind:", "    version: 2\n    kind:");
    let spelled_out = other_order.replace("4h", "240m").replace("warning", "medium");
    let spelled_out = load(&[], &[&spelled_out]).unwrap();
    assert_eq!((&plain.rules, &plain.version_hash), (&spelled_out.rules, &spelled_out.version_hash));
    for (from, to) in [("0.08", "0.09"), ("version: 2", "version: 3"), ("4h", "5h"), ("45", "46"), ("warning", "high")] {
        assert_ne!(plain.version_hash, load(&[], &[&OVERLAY.replace(from, to)]).unwrap().version_hash, "{from}");
    }
    let ports =
        "rules: [{id: l, version: 1, kind: lateral, severity: low, base_confidence: 1, suppress: 1s, lists: {ports: [PORTS]}}]";
    let hash = |p: &str| load(&[], &[&ports.replace("PORTS", p)]).unwrap().version_hash;
    assert_eq!(hash("22, \"445\""), hash("445, 22, 22"));
    assert_ne!(hash("22"), hash("23"));
}

#[test]
fn all_mistakes_of_a_rule_at_once() {
    let text = "rules:
  - id: a
    version: 0
    kind: beaconing
    severty: high
    base_confidence: 101
    thresholds:
      min_sample: 3
      max_jitter: 2
      min_interval_s: soon
    lists:
      ports: [22]
  - kind: beaconin
    version: 1
    severity: urgent
    base_confidence: 1
    suppress: 1d
  - id: l
    version: 1
    kind: lateral
    severity: high
    base_confidence: 1
    suppress: 30
    enabled: maybe
    lists:
      ports: [22, 70000, ssh, 0445]
rule: []
";
    expect![[r#"
        0.yaml:2:5: severity is missing
        0.yaml:2:5: suppress is missing
        0.yaml:3:14: expected a whole number from 1 to 4294967295, got 0
        0.yaml:5:5: unknown name severty; did you mean "severity"?
        0.yaml:6:22: expected a whole number from 0 to 100, got 101
        0.yaml:8:7: unknown threshold min_sample of kind beaconing; did you mean "min_samples"?
        0.yaml:9:19: max_jitter is from 0 to 1, got 2
        0.yaml:10:23: expected a number, got soon
        0.yaml:12:7: unknown list ports of kind beaconing
        0.yaml:13:5: id is missing
        0.yaml:13:11: expected one of beaconing, lateral, got beaconin; did you mean "beaconing"?
        0.yaml:15:15: expected one of info, low, medium, warning, high, critical, got urgent
        0.yaml:17:15: expected a duration like 10s, 5m or 1h30m, got 1d; days have no fixed length in durations, write hours (24h)
        0.yaml:23:15: expected a duration like 10s, 5m or 1h30m, got 30; it has no unit; did you mean "30s"?
        0.yaml:24:14: expected true or false, got maybe
        0.yaml:26:19: expected a port 0 to 65535, got 70000
        0.yaml:26:26: expected a port 0 to 65535, got ssh
        0.yaml:26:31: expected a port 0 to 65535, got 0445
        0.yaml:27:1: unknown name rule; did you mean "rules"?"#]]
    .assert_eq(&load(&[], &[text]).unwrap_err());
}

/// A detector that looks at no port would be silent, and nobody would know.
#[test]
fn a_list_of_ports_to_look_at_is_never_empty() {
    let rule = "rules:
  - id: l
    version: 1
    kind: lateral
    severity: high
    base_confidence: 1
    suppress: 30m
    lists:
      ports: []
      allow: []
";
    expect!["0.yaml:9:14: ports is empty, so the rule would see nothing and never speak; name its ports, leave the list out for the detector's own (22, 445), or switch the rule off with enabled: false"]
        .assert_eq(&load(&[], &[rule]).unwrap_err());
    assert_eq!(load(&[], &[&rule.replace("      ports: []\n", "")]).unwrap().rules[0].list("ports"), ["22", "445"]);
}

#[test]
fn an_id_twice_is_a_mistake_in_one_file_and_in_two_but_not_over_a_default() {
    let twice = format!("{OVERLAY}{}", OVERLAY.trim_start_matches("rules:\n"));
    expect!["0.yaml:14:9: rule id ndr-beaconing-default stands twice, first at 0.yaml:2"]
        .assert_eq(&load(&[DEFAULT], &[&twice]).unwrap_err());
    expect!["1.yaml:2:9: rule id ndr-beaconing-default stands twice, first at 0.yaml:2"]
        .assert_eq(&load(&[DEFAULT], &[OVERLAY, OVERLAY]).unwrap_err());
    assert!(load(&[DEFAULT], &[OVERLAY]).is_ok());
}

#[test]
fn broken_yaml_and_bad_rules_of_several_files_come_together() {
    expect![[r#"
        0.yaml:2:1: not YAML: while parsing a node, did not find expected node content
        1.yaml:3:14: expected a whole number from 1 to 4294967295, got two"#]]
    .assert_eq(&load(&[], &["rules: [", &OVERLAY.replace("version: 2", "version: two"), "rules:", ""]).unwrap_err());
}
