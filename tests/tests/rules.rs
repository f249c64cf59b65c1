//! Rules as code: the default rules pass the tests that stand in them; overlays, exceptions and changes at run time do what
//! their documents say, at the event time that is recorded, for one tenant or for all. R1 to R4 are what probectl's rule
//! files must mean here.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use expect_test::expect;
use tempfile::TempDir;
use tidewatch::backtest::{self, BacktestConfig};
use tidewatch::input::{InputSpec, Range};
use tidewatch::log::Log;
use tidewatch::log::memory::MemoryLog;
use tidewatch::rules::reload::Reload;
use tidewatch::rules::{self, testing};
use tidewatch::run::Run;
use tidewatch::versions;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::{Allow, DEFAULTS, Rule, RuleSet, lint};
use tidewatch_schemas::signal::{Severity, Signal, from_json};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_tests::live::Live;
use tidewatch_tests::scenario::{Layout, Scenario, default_rules, fixed_clock};
use tidewatch_tests::traffic::{self, noon};

/// The overlay of probectl's documents.
const PROBECTL: &str = "rules:
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

/// A directory of rule files.
fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    put(dir.path(), files);
    dir
}

fn put(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn load(dir: &TempDir) -> Result<RuleSet, String> {
    let shown = dir.path().display().to_string();
    rules::load(Some(dir.path()), detectors::ALL).map_err(|m| m.to_string().replace(&shown, "DIR"))
}

#[test]
fn the_default_rules_pass_their_tests_and_have_enough_of_them() {
    let set = rules::load(None, detectors::ALL).unwrap();
    assert_eq!(set.rules.len(), DEFAULTS.len());
    for (rule, notes) in set.all() {
        let positive = notes.examples.iter().filter(|e| e.is_positive()).count();
        let negative = notes.examples.len() - positive;
        assert!(positive >= 1 && negative >= 2, "{}: {positive} positive and {negative} negative tests", rule.id);
        assert!(!notes.false_positives.is_empty() && !notes.references.is_empty(), "{}", rule.id);
        for example in &notes.examples {
            let tried = testing::run(rule, example, detectors::ALL).unwrap();
            assert_eq!(tried.wrong, None, "{}: {}", rule.id, example.name);
        }
    }
    assert_eq!(lint(&set, EventTime::from_secs(1_780_000_000)), []);
}

#[test]
fn a_test_that_expects_something_else_fails() {
    let text = fs::read_to_string(tidewatch_tests::project::root().join("rules/lateral.yaml")).unwrap();
    let wrong = text
        .replace("expect: none", "expect: {signals: 1+}")
        .replace("expect: {signals: 1, host: 10.0.0.66", "expect: {signals: 1, host: 10.0.0.67");
    let set = load(&dir(&[("l.yaml", &wrong)])).unwrap();
    let (rule, notes) = set.all().find(|(rule, _)| rule.kind == "lateral").unwrap();
    for example in &notes.examples {
        assert!(testing::run(rule, example, detectors::ALL).unwrap().wrong.is_some(), "{}", example.name);
    }
}

#[test]
fn probectls_overlay_loads_unchanged_and_replaces_the_whole_rule() {
    let set = load(&dir(&[("beacon.yaml", PROBECTL)])).unwrap();
    let rule = set.rules.iter().find(|r| r.id == "ndr-beaconing-default").unwrap();
    assert_eq!((rule.version, rule.base_confidence, rule.severity), (2, 45, Severity::Medium));
    assert_eq!(rule.suppress_ns, 4 * 3600 * SECOND_NS);
    let values = ["min_samples", "max_jitter", "min_interval_s", "max_interval_s"].map(|name| rule.threshold(name));
    assert_eq!(values, [12.0, 0.08, 10.0, 3600.0]);
    assert_eq!(set.rules.len(), DEFAULTS.len());
}

#[test]
fn r1_everything_that_is_wrong_is_told_at_once_with_file_line_and_suggestion() {
    let wrong = "rules:
  - id: a
    version: 1
    kind: lateral
    severity: hgh
    base_confidence: 10
    thresholds: {fan_out: 3}
    lists: {port: [22]}
    allow:
      - sources: 10.0.0.5
        owner: net
        expires: tomorrow
      - {domain: 10.0.0.1, destination: 10.0.0.0/33, owner: net, reason: r, expires: never}
      - {port: 443, owner: net, reason: r, expires: never, up_to: hgh}
      - {owner: net, reason: r, expires: never}
    tests:
      - name: t
        rows:
          - flw: {from: 10.0.0.5}
          - flow: {from: 10.0.0.5, to: \"<lettrs 3>\"}
            count: 3
        expect: nothing
  - id: b c
    version: 1
    kind: beaconing
    severity: low
    base_confidence: 1
    suppress: 1h
    thresholds: {min_interval_s: 100, max_interval_s: 10}
allow:
  - {kinds: [beacon], rules: [ndr-beaconing-defaul], port: 70000, owner: net, reason: r, expires: 2026-12-31}
  - {rules: [ndr-beaconing-defaul], port: 443, owner: net, reason: r, expires: 2026-12-31}
";
    let told =
        load(&dir(&[("a.yaml", wrong), ("tenants/acme/x.yaml", "rules: [{id: 1}]"), ("tenants/stray.yaml", "")])).unwrap_err();
    // The list of kinds grows with the detectors.
    let kinds = "DIR/a.yaml:31:14: expected one of beaconing, ";
    assert!(told.contains(kinds) && told.contains(", got beacon; did you mean \"beaconing\"?"), "{told}");
    let rest: Vec<&str> = told.lines().filter(|l| !l.starts_with(kinds)).collect();
    expect![[r#"
        DIR/a.yaml:2:5: suppress is missing
        DIR/a.yaml:5:15: expected one of info, low, medium, warning, high, critical, got hgh; did you mean "high"?
        DIR/a.yaml:7:18: unknown threshold fan_out of kind lateral; did you mean "fanout"?
        DIR/a.yaml:8:13: unknown list port of kind lateral; did you mean "ports"?
        DIR/a.yaml:10:9: reason is missing
        DIR/a.yaml:10:9: unknown name sources; did you mean "source"?
        DIR/a.yaml:12:18: expected a day as 2026-12-31, a moment as 2026-12-31T12:00:00Z, or never, got tomorrow
        DIR/a.yaml:13:18: expected a domain as updates.example, got 10.0.0.1; addresses go under destination
        DIR/a.yaml:13:41: expected an address, a network as 10.0.3.0/24 or a workload's name, got 10.0.0.0/33
        DIR/a.yaml:14:67: expected one of info, low, medium, warning, high, critical, got hgh; did you mean "high"?
        DIR/a.yaml:15:9: an exception names at least one of source, destination, domain, asn, port; to switch a rule off: enabled: false
        DIR/a.yaml:19:13: a pattern has one of flow, dns, tls, http
        DIR/a.yaml:19:13: unknown name flw; did you mean "flow"?
        DIR/a.yaml:20:13: count without every: say how far apart the rows are
        DIR/a.yaml:20:19: port is missing
        DIR/a.yaml:20:40: expected <n>, <letters 14>, <letters 8-20>, <hex 32>, <number 1-200> or <one|of|these>, got <lettrs 3>
        DIR/a.yaml:22:17: expected none, got nothing
        DIR/a.yaml:23:9: an id has no blanks; join its words with - or _
        DIR/a.yaml:29:17: min_interval_s 100 is above max_interval_s 10: the rule could never speak
        DIR/a.yaml:31:60: expected a whole number from 0 to 65535, got 70000
        DIR/a.yaml:32:14: there is no rule ndr-beaconing-defaul; did you mean "ndr-beaconing-default"?
        DIR/tenants/acme/x.yaml:1:9: base_confidence is missing
        DIR/tenants/acme/x.yaml:1:9: kind is missing
        DIR/tenants/acme/x.yaml:1:9: severity is missing
        DIR/tenants/acme/x.yaml:1:9: suppress is missing
        DIR/tenants/acme/x.yaml:1:9: version is missing
        DIR/tenants/stray.yaml: expected a directory named as a tenant; rules for everybody lie above it"#]]
    .assert_eq(&rest.join("\n"));
}

#[test]
fn r2_one_id_in_two_files_of_the_overlay_is_a_mistake() {
    let told = load(&dir(&[("a.yaml", PROBECTL), ("b.yaml", PROBECTL)])).unwrap_err();
    assert_eq!(told, "DIR/b.yaml:2:9: rule id ndr-beaconing-default stands twice, first at DIR/a.yaml:2");
    // But a tenant's replaces everybody's.
    load(&dir(&[("a.yaml", PROBECTL), ("tenants/acme/b.yaml", PROBECTL)])).unwrap();
}

/// Signals of a scenario under rules.
fn signals(base: &Scenario, rules: &[Rule], layout: &Layout) -> Vec<Signal> {
    let outcome = Scenario { rules: rules.to_vec(), ..base.clone() }.run(layout).unwrap();
    outcome.signals.values().flatten().map(|s| from_json(s).unwrap()).collect()
}

fn of<'s>(all: &'s [Signal], tenant: &str, kind: &str) -> Vec<&'s Signal> {
    all.iter().filter(|s| s.tenant == tenant && s.kind == kind).collect()
}

/// What is said of the host that beacons by hand; three others keep a rhythm, too.
fn of_the_beacon(all: &[Signal]) -> Vec<&Signal> {
    of(all, "a", "ndr.beaconing").into_iter().filter(|s| s.entity.id == "10.0.0.5").collect()
}

#[test]
fn r3_a_tenants_rules_are_its_own() {
    let base = traffic::by_hand();
    let plain = signals(&base, &default_rules(), &Layout::default());
    assert!(!of(&plain, "a", "ndr.beaconing").is_empty() && !of(&plain, "b", "ndr.lateral").is_empty());

    let lateral =
        "rules: [{id: ndr-lateral-default, version: 7, kind: lateral, severity: low, base_confidence: 20, suppress: 30m}]";
    let off = "rules: [{id: ndr-beaconing-default, version: 2, kind: beaconing, severity: low, base_confidence: 1, suppress: 1h, enabled: false}]";
    let set = load(&dir(&[("tenants/b/l.yaml", lateral), ("tenants/a/b.yaml", off)])).unwrap();
    for (obs, workers) in [(1, 1), (3, 2)] {
        let own = signals(&base, &set.rules, &Layout { obs, workers, ..Layout::default() });
        assert_eq!(of(&own, "a", "ndr.beaconing"), Vec::<&Signal>::new());
        let own = of(&own, "b", "ndr.lateral");
        assert!(!own.is_empty());
        assert!(own.iter().all(|s| s.rule.version == 7 && s.severity == Severity::Low));
    }
    // Whose overlay it is changes nothing for the others.
    let only_a = load(&dir(&[("tenants/a/b.yaml", off)])).unwrap();
    let rest = signals(&base, &only_a.rules, &Layout::default());
    assert_eq!(of(&rest, "b", "ndr.lateral"), of(&plain, "b", "ndr.lateral"));

    let other_kind = off.replace("kind: beaconing", "kind: lateral");
    let told = load(&dir(&[("tenants/a/b.yaml", &other_kind)])).unwrap_err();
    assert!(told.starts_with("DIR/tenants/a/b.yaml:1:14: a tenant's rule keeps the kind of the rule"), "{told}");
}

/// The default rules, each with an exception.
fn excepting(allow: &Allow) -> Vec<Rule> {
    default_rules().into_iter().map(|rule| Rule { allow: vec![allow.clone()], suppress_ns: 300 * SECOND_NS, ..rule }).collect()
}

#[test]
fn r4_an_exception_acts_until_its_end_in_event_time_whatever_the_partitions() {
    let base = traffic::by_hand();
    let nobody = Allow { source: vec!["10.9.9.9".into()], ..Allow::default() };
    let all = signals(&base, &excepting(&nobody), &Layout::default());
    let beacons = of_the_beacon(&all);
    assert!(beacons.len() >= 4, "{}", beacons.len());
    let middle = beacons[beacons.len() / 2].decided_at;

    let until = |expires| Allow {
        source: vec!["10.0.0.4/30".into()],
        destination: vec!["203.0.113.66".into()],
        expires,
        ..Allow::default()
    };
    let never = signals(&base, &excepting(&until(None)), &Layout::default());
    assert_eq!(of_the_beacon(&never), Vec::<&Signal>::new());
    let others = |all: &[Signal]| of(all, "a", "ndr.beaconing").len() - of_the_beacon(all).len();
    assert_eq!(others(&never), others(&all));
    assert_eq!(of(&never, "b", "ndr.lateral"), of(&all, "b", "ndr.lateral"), "what it does not name is told");

    let first = signals(&base, &excepting(&until(Some(middle))), &Layout::default());
    let left = of_the_beacon(&first);
    assert!(!left.is_empty() && left.iter().all(|s| s.decided_at >= middle), "from {middle} on: {left:?}");
    for (obs, workers) in [(2, 1), (5, 3)] {
        let mut other =
            signals(&base, &excepting(&until(Some(middle))), &Layout { obs, workers, poll_records: 7, ..Layout::default() });
        other.sort_by(|a, b| (&a.tenant, &a.id).cmp(&(&b.tenant, &b.id)));
        let mut first = first.clone();
        first.sort_by(|a, b| (&a.tenant, &a.id).cmp(&(&b.tenant, &b.id)));
        assert_eq!(other, first, "{obs} partitions");
    }
}

/// Fourteen hosts that do not answer at a port beside twelve that do: a scan, medium. An hour later two hundred more: high.
const GROWING: &str = "rules:
  - id: ndr-scan-default
    version: 2
    kind: scan
    severity: high
    base_confidence: 50
    suppress: 30m
    tests:
      - name: a scan that becomes graver
        rows:
          - {at: 0s, count: 12, every: 2s, flow: {from: 10.0.0.66, to: '10.0.2.<n>', port: 8080}}
          - {at: 1s, count: 14, every: 2s, flow: {from: 10.0.0.66, to: '10.0.1.<n>', port: 8080, state: S0}}
          - {at: 2h, count: 200, every: 1s, flow: {from: 10.0.0.66, to: '10.0.3.<n>', port: 8080, state: S0}}
        expect: {signals: 2+, host: 10.0.0.66, severity: high}
";

#[test]
fn r4_what_was_acknowledged_is_told_when_it_becomes_graver() {
    let set = load(&dir(&[("scan.yaml", GROWING)])).unwrap();
    let (rule, notes) = set.all().find(|(rule, _)| rule.kind == "scan").unwrap();
    let told = |allow: &[Allow]| {
        let tried = testing::run(&Rule { allow: allow.to_vec(), ..rule.clone() }, &notes.examples[0], detectors::ALL).unwrap();
        let all: Vec<(Severity, EventTime)> = tried.signals.iter().map(|s| (s.severity, s.decided_at)).collect();
        (all, tried.allowed)
    };
    let (all, nothing) = told(&[]);
    let (mediums, highs): (Vec<_>, Vec<_>) = all.iter().copied().partition(|(severity, _)| *severity == Severity::Medium);
    assert!(all[0].0 == Severity::Medium && !highs.is_empty() && nothing == 0, "{all:?}");
    assert_eq!(mediums.len() + highs.len(), all.len());

    let seen = |up_to| Allow { source: vec!["10.0.0.66".into()], port: vec![8080], up_to: Some(up_to), ..Allow::default() };
    let (left, allowed) = told(&[seen(Severity::Medium)]);
    assert_eq!(left[0], highs[0], "what is graver is told, when it is");
    assert!(left.iter().all(|(severity, _)| *severity == Severity::High) && allowed > 0, "{left:?} {allowed}");
    assert_eq!(told(&[seen(Severity::Low)]).0, all, "what is above it is told as ever");
    assert_eq!(told(&[seen(Severity::High)]).0, []);
    let over = Allow { expires: Some(all[0].1), ..seen(Severity::High) };
    assert_eq!(told(&[over]).0, all, "it has ended");
}

#[test]
fn what_an_exception_keeps_back_is_counted_by_rule() {
    let base = traffic::by_hand();
    let rules = excepting(&Allow { port: vec![445], ..Allow::default() });
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    let scenario = Scenario { rules, ..base };
    scenario.load(&Layout::default(), &log).unwrap();
    let run: Run = scenario.bounded(&Layout::default(), &log).unwrap();
    run.create_topics().unwrap();
    let shared = run.shared();
    run.lockstep(&shared, || Ok(())).unwrap();
    let mut allowed: BTreeMap<String, u64> = BTreeMap::new();
    for rule in shared.board.progress().into_values().flat_map(|p| p.rules) {
        *allowed.entry(rule.detector).or_default() += rule.allowed;
    }
    assert!(allowed["lateral"] > 0, "{allowed:?}");
    assert_eq!(allowed["beaconing"], 0);
}

#[test]
fn an_exception_beside_the_rules_is_for_the_kinds_and_rules_that_it_names() {
    let shared = "allow:
  - {kinds: [lateral], source: 10.0.0.66, owner: net, reason: scanner, expires: 2030-01-01}
  - {rules: [ndr-beaconing-default], domain: '*.Updates.Example.', owner: it, reason: updates, expires: never}
";
    let own = "allow:\n  - {destination: 203.0.113.0/24, owner: acme, reason: partner, expires: 2026-01-01}\n";
    let set = load(&dir(&[("allow.yaml", shared), ("tenants/acme/allow.yaml", own)])).unwrap();
    let number = |kind: &str, tenant: Option<&str>| {
        let rule = set.rules.iter().find(|r| r.kind == kind && r.tenant.as_deref() == tenant).unwrap();
        rule.allow.len()
    };
    assert_eq!((number("lateral", None), number("beaconing", None), number("dns_dga", None)), (1, 1, 0));
    assert_eq!((number("lateral", Some("acme")), number("dns_dga", Some("acme"))), (2, 1));
    let beaconing = set.rules.iter().find(|r| r.kind == "beaconing" && r.tenant.is_none()).unwrap();
    assert_eq!(beaconing.allow[0].domain, ["updates.example"]);

    let warnings: Vec<String> = lint(&set, EventTime::from_secs(1_780_000_000)).iter().map(|w| w.what.clone()).collect();
    assert_eq!(
        warnings,
        [
            "the exception for domain updates.example of it never ends",
            "the exception for destination 203.0.113.0/24 of acme ended at 2026-01-01T00:00:00Z and acts no more: take it out, or give it another end",
        ]
    );
}

/// Rules that change while the job runs hold from one event time on, for every task; a backtest over the topics says the same.
#[test]
fn rules_read_again_at_run_time_hold_from_one_event_time_live_and_in_a_backtest() {
    read_again("c.yaml", "allow: [{source: 10.0.0.5, owner: me, reason: r, expires: never}]");
}

/// So does an expression over rows: it is part of the version.
#[test]
fn a_where_over_rows_holds_from_the_versions_event_time_live_and_in_a_backtest() {
    read_again(
        "b.yaml",
        "rules: [{id: ndr-beaconing-default, version: 3, kind: beaconing, severity: low, base_confidence: 40, suppress: 2m, \
         where: \"source_address <> '10.0.0.5'\"}]",
    );
}

/// Plays half of the traffic, lays a file over the rules that silences the beacon of 10.0.0.5, plays the rest.
fn read_again(file: &str, silent: &str) {
    let beaconing =
        "rules: [{id: ndr-beaconing-default, version: 2, kind: beaconing, severity: low, base_confidence: 40, suppress: 2m}]";
    let overlay = dir(&[("b.yaml", beaconing)]);
    let base = traffic::by_hand();
    let layout = Layout { obs: 3, workers: 2, ..Layout::default() };
    let scenario = Scenario { rules: load(&overlay).unwrap().rules, ..base };
    let topology = scenario.topology(&layout);
    let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
    for input in &scenario.inputs {
        log.create_topic(&tidewatch::log::TopicSpec::new(input.topic.clone(), layout.inputs)).unwrap();
    }
    let mut live = Live::with(&scenario, topology.clone(), layout, log.clone(), noon(-1.0), None).unwrap();
    let reload =
        Reload { dir: Some(overlay.path().to_owned()), detectors: detectors::ALL, log: log.clone(), topology: topology.clone() };
    let recorded = || versions::recorded(&*log, &topology.names.control()).unwrap().len();
    assert_eq!(reload.now(live.now()).unwrap().outcome, "recorded");
    live.start_all().unwrap();
    let (before, after): (Vec<_>, Vec<_>) = scenario.messages.iter().partition(|m| m.at < noon(1500.0));
    live.play(before).unwrap();

    // A set with a mistake changes nothing, and says what is wrong.
    put(overlay.path(), &[("d.yaml", "rules: [{id: x}]")]);
    let refused = reload.now(live.now()).unwrap_err().to_string();
    assert!(refused.contains("d.yaml:1:9: kind is missing"), "{refused}");
    assert_eq!(recorded(), 1);
    put(overlay.path(), &[("d.yaml", ""), (file, silent)]);
    let from = EventTime::parse_rfc3339(&reload.now(live.now()).unwrap().from.unwrap()).unwrap();
    assert!(from > live.now() && from < noon(3000.0), "{from}");
    assert_eq!(reload.now(live.now()).unwrap().outcome, "unchanged");
    assert_eq!(recorded(), 2);
    live.play(after).unwrap();
    live.pass(900).unwrap();
    live.settle().unwrap();

    let told: Vec<Signal> = live.published().unwrap().values().flatten().map(|s| from_json(s).unwrap()).collect();
    let beacons: Vec<EventTime> = of_the_beacon(&told).iter().map(|s| s.decided_at).collect();
    assert!(!beacons.is_empty() && beacons.iter().all(|t| *t < from), "{from}: {beacons:?}");

    let range = |topic: &str| InputSpec::Topic(Range { topic: topic.to_owned(), from: None, to: None });
    let config = BacktestConfig {
        inputs: scenario.inputs.iter().map(|i| range(&i.topic)).collect(),
        topology: Some(topology.clone()),
        tenant: None,
        internal: Vec::new(),
        own_rules: false,
        rules: Vec::new(),
        flush: Some(true),
        log: Some(log.clone()),
        poll_records: 100,
        partitions: Some((1, 1)),
    };
    let outcome = backtest::run(&config, fixed_clock(), |_| ()).unwrap();
    let ids = |all: &mut dyn Iterator<Item = String>| {
        let mut ids: Vec<String> = all.collect();
        ids.sort();
        ids
    };
    assert_eq!(
        ids(&mut outcome.signals.iter().map(|(_, s)| s.id.clone())),
        ids(&mut told.iter().map(|s| s.id.clone())),
        "a backtest over the topics is judged by what was recorded"
    );
}

/// D11: a rule in shadow says what it would say live, with the same ids, and not on the topic of signals.
#[test]
fn d11_a_rule_in_shadow_says_the_same_with_the_same_ids_beside_the_signals() {
    let text = fs::read_to_string(tidewatch_tests::project::root().join("rules/beaconing.yaml")).unwrap();
    let shadowed = text.replacen("    suppress:", "    shadow: true\n    suppress:", 1);
    let rules = |text: &str| load(&dir(&[("b.yaml", text)])).unwrap();
    assert_eq!(lint(&rules(&shadowed), EventTime::from_secs(1_780_000_000)), []);
    assert_ne!(rules(&text).version_hash, rules(&shadowed).version_hash, "it is part of what is recorded");
    let recorded = versions::content_of(&rules(&shadowed));
    let again: Vec<Rule> = serde_json::from_str(&recorded).unwrap();
    assert_eq!(again.iter().filter(|r| r.shadow()).map(|r| r.kind.as_str()).collect::<Vec<_>>(), ["beaconing"]);

    let run = |text: &str| Scenario { rules: rules(text).rules, ..traffic::by_hand() }.run(&Layout::default()).unwrap();
    let ids = |outcome: &tidewatch_tests::scenario::Outcome, topic: &str| -> Vec<(String, String)> {
        let published = tidewatch_tests::scenario::published(&outcome.log, topic).unwrap();
        let mut all: Vec<_> = published.values().flatten().map(|s| from_json(s).unwrap()).map(|s| (s.kind, s.id)).collect();
        all.sort();
        all
    };
    let (live, shadow) = (run(&text), run(&shadowed));
    let names = &live.topology.names;
    let (beacons, others): (Vec<_>, Vec<_>) =
        ids(&live, &names.signals()).into_iter().partition(|(kind, _)| kind == "ndr.beaconing");
    assert!(!beacons.is_empty() && !others.is_empty());
    assert_eq!(ids(&live, &names.shadow()), []);
    assert_eq!(ids(&shadow, &names.signals()), others);
    assert_eq!(ids(&shadow, &names.shadow()), beacons);
}
