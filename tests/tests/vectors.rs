//! probectl's golden vectors of detection and what must be better than it (V3 to V17, D1 to D18, R1 to R4), each under its
//! name: those that run here, end to end from wire records to signals, and a table of those that stand in other files. A test
//! that the table names and that is gone fails here; what has no test yet is listed with the reason.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;

use tempfile::TempDir;
use tidewatch::rules;
use tidewatch_operators::detectors;
use tidewatch_operators::rule::DEFAULTS;
use tidewatch_schemas::signal::{Severity, Signal, Value};
use tidewatch_tests::project::root;
use tidewatch_tests::scenario::{Layout, Message, Scenario, open_input, read_all};
use tidewatch_tests::traffic::{Contact, FLOW, flow_message, noon};

/// Where each vector is tested: name, file, test.
const NAMED: &[(&str, &str, &str)] = &[
    ("V3", "operators/src/dns_dga/tests.rs", "v3_generated_first_labels_fire_at_the_twentieth_name"),
    ("V4", "operators/src/dns_dga/tests.rs", "v4_ordinary_names_are_silent"),
    ("V5", "operators/src/dns_exfil/tests.rs", "v5_numbers_in_long_labels_fire_at_the_thirty_first_query"),
    ("V6", "tests/tests/golden.rs", "v6_a_beacon_every_thirty_seconds"),
    ("V7", "tests/tests/golden.rs", "v7_gaps_without_a_rhythm"),
    ("V8", "tests/tests/vectors.rs", "v8_the_published_overlay_asks_for_thirteen_arrivals"),
    ("V9", "tests/tests/vectors.rs", "v9_sixty_four_times_the_usual_minute"),
    ("V10", "tests/tests/vectors.rs", "v10_a_large_flow_of_a_host_that_nobody_knows"),
    ("V13", "operators/src/lateral/tests.rs", "v13_neighbours_of_the_service_map_are_left_out"),
    ("V14", "tests/tests/golden.rs", "v14_what_is_no_lateral_movement"),
    ("V17", "tests/tests/vectors.rs", "v17_an_overlay_of_one_replaced_and_one_added_and_six_mistakes"),
    ("D1", "operators/src/states.rs", "at_the_limit_a_new_host_is_tracked_and_the_least_recently_touched_goes"),
    ("D2", "tests/tests/golden.rs", "two_rules_of_one_kind_give_what_each_gives_alone"),
    ("D3", "tests/tests/restart.rs", "crashes_and_stops_change_nothing"),
    ("D4", "tests/tests/restart.rs", "crashes_and_stops_change_nothing"),
    ("D5", "tests/tests/invariance.rs", "rows_made_by_hand"),
    ("D6", "tests/tests/golden.rs", "a_wide_scan_costs_no_more_a_row_than_a_narrow_one"),
    ("D6", "operators/src/conformance.rs", "a_scan_of_100_000_destinations_is_bounded_and_told_a_few_times"),
    ("D7", "schemas/src/address/class.rs", "golden_internal_and_external"),
    ("D7", "schemas/src/address/class.rs", "listed_ranges_are_internal"),
    ("D8", "operators/src/conformance.rs", "a_server_that_answers_10_000_clients_raises_nothing"),
    ("D9", "operators/src/beaconing/tests.rs", "more_contacts_and_less_jitter_rank_higher"),
    ("D9", "operators/src/conformance.rs", "the_scenario_makes_every_detector_speak"),
    ("D9", "tests/tests/vectors.rs", "d9_confidence_ranks_in_the_quality_report"),
    ("D10", "tests/tests/rules.rs", "what_an_exception_keeps_back_is_counted_by_rule"),
    ("D10", "tests/tests/rules_commands.rs", "each_condition_is_told_with_its_value_and_threshold"),
    ("D11", "tests/tests/rules.rs", "rules_read_again_at_run_time_hold_from_one_event_time_live_and_in_a_backtest"),
    ("D12", "tests/tests/vectors.rs", "d12_what_is_not_analysed_is_decided_once_for_all_and_shown"),
    ("D12", "tests/tests/operations.rs", "a_run_is_ready_and_serves_exactly_the_documented_metrics"),
    (
        "D13",
        "operators/src/dns_dga/tests.rs",
        "thirty_two_hexadecimal_digits_are_generated_as_a_name_and_a_digest_in_front_of_one",
    ),
    ("D13", "operators/src/dns_dga/tests.rs", "d13_short_labels_count_and_not_only_the_first"),
    ("D13", "operators/src/dns_dga/tests.rs", "a_burst_of_joined_words_that_do_not_exist_is_told_at_the_tenth"),
    (
        "D14",
        "operators/src/dns_exfil/tests.rs",
        "d14_registered_domains_do_not_share_a_counter_and_the_domain_itself_carries_nothing",
    ),
    ("D14", "operators/src/dns_exfil/tests.rs", "d14_a_slow_leak_is_told_over_a_longer_horizon"),
    ("D15", "tests/tests/vectors.rs", "d15_one_lost_in_eight_half_jitter_and_an_hour_apart"),
    ("D15", "operators/src/beaconing/tests.rs", "quiet_services_and_answers_are_silent"),
    ("D15", "operators/src/beaconing/tests.rs", "what_everybody_talks_to_is_no_beacon"),
    (
        "D15",
        "operators/src/beaconing/tests/tenant.rs",
        "a_new_update_server_that_twenty_of_thirty_hosts_take_up_in_its_first_hour_is_silent",
    ),
    ("D15", "operators/src/beaconing/tests/tenant.rs", "our_own_probes_are_context"),
    ("D15", "operators/src/beaconing/tests/tenant.rs", "only_results_of_our_agents_make_a_target_ours"),
    ("D15", "operators/src/beaconing/tests/resolved.rs", "a_name_that_only_look_ups_tell_is_one_peer_whatever_its_addresses"),
    ("D16", "tests/tests/vectors.rs", "d16_one_flow_or_a_thousand_give_the_same_verdict"),
    ("D16", "operators/src/egress_volume/tests.rs", "a_spike_does_not_raise_its_own_bar"),
    ("D16", "operators/src/egress_volume/tests.rs", "internal_peers_external_hosts_and_answers_do_not_count"),
    ("D18", "operators/src/lateral/tests.rs", "v13_neighbours_of_the_service_map_are_left_out"),
    ("D18", "operators/src/lateral/tests.rs", "failures_raise_confidence"),
    ("D18", "operators/src/lateral/tests.rs", "a_declared_scanner_may"),
    ("D18", "operators/src/scan/tests.rs", "ports_of_one_target"),
    ("D18", "operators/src/scan/tests.rs", "any_pace_inside_and_outside_failing_or_half_answered"),
    ("R1", "tests/tests/rules.rs", "r1_everything_that_is_wrong_is_told_at_once_with_file_line_and_suggestion"),
    ("R2", "tests/tests/rules.rs", "r2_one_id_in_two_files_of_the_overlay_is_a_mistake"),
    ("R3", "tests/tests/rules.rs", "r3_a_tenants_rules_are_its_own"),
    ("R4", "tests/tests/rules.rs", "r4_an_exception_acts_until_its_end_in_event_time_whatever_the_partitions"),
    ("R4", "tests/tests/rules_commands.rs", "r4_an_analyst_mutes_a_host_until_an_end"),
    ("R4", "tests/tests/rules.rs", "r4_what_was_acknowledged_is_told_when_it_becomes_graver"),
    ("R4", "tests/tests/rules_commands.rs", "r4_an_analyst_acknowledges_a_signal"),
];

/// What has no test, and why.
const WITHOUT: &[(&str, &str)] = &[("D17", "comes with threat intelligence")];

#[test]
fn every_vector_has_its_test_or_a_reason() {
    let ids = ["V3", "V4", "V5", "V6", "V7", "V8", "V9", "V10", "V13", "V14", "V17"].map(str::to_owned).into_iter();
    let ids = ids.chain((1..=18).map(|n| format!("D{n}"))).chain((1..=4).map(|n| format!("R{n}")));
    for id in ids {
        let named = NAMED.iter().any(|(of, ..)| *of == id);
        let without = WITHOUT.iter().any(|(of, _)| *of == id);
        assert!(named != without, "{id} must have either tests or a reason");
    }
    for (id, file, test) in NAMED {
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        assert!(
            text.contains(&format!("#[test]\nfn {test}()")) || text.contains(&format!("#[test]\n    fn {test}()")),
            "{id}: {file} has no test {test}"
        );
    }
}

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

fn scenario(contacts: &[Contact<'_>]) -> Scenario {
    let mut messages: Vec<Message> = contacts.iter().map(flow_message).collect();
    messages.sort_by_key(|m| m.at);
    Scenario::new("vectors", vec![open_input(FLOW, "probectl-flow")], messages)
}

fn told(scenario: &Scenario, kind: &str) -> Vec<Signal> {
    scenario.run(&Layout::default()).unwrap().of_kind(kind)
}

/// Contacts of one host with one destination at so many seconds after noon.
fn calls(times: impl IntoIterator<Item = f64>, bytes: u64) -> Vec<Contact<'static>> {
    let contact = |at_s| Contact { tenant: "t1", at_s, from: "10.0.0.5", to: "203.0.113.66", port: 443, bytes };
    times.into_iter().map(contact).collect()
}

fn directory(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn v8_the_published_overlay_asks_for_thirteen_arrivals() {
    let dir = directory(&[("beaconing.yaml", OVERLAY)]);
    let rules = rules::load(Some(dir.path()), detectors::ALL).unwrap().rules;
    let under = |n: u32| {
        let calls = calls((0..n).map(|i| 30.0 * f64::from(i)), 512);
        told(&Scenario { rules: rules.clone(), ..scenario(&calls) }, "ndr.beaconing")
    };
    assert!(under(12).is_empty());
    let found = under(14);
    let [signal] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!((signal.rule.version, signal.evidence.get("samples")), (2, Some(&Value::Long(12))));
    // The thirteenth arrival decides, when its record has come.
    let decided = signal.decided_at.since(noon(360.0));
    assert!((0..=1_000_000_000).contains(&decided), "{decided}");
    assert!(signal.confidence >= 70 && signal.severity == Severity::Medium, "{} {:?}", signal.confidence, signal.severity);
}

const MIB: u64 = 1 << 20;

/// Fifteen minutes of a MiB each, not in rhythm.
fn usual() -> Vec<Contact<'static>> {
    let to = |at_s| Contact { tenant: "t1", at_s, from: "10.0.0.8", to: "198.51.100.20", port: 443, bytes: MIB };
    (0..15).map(|n| to(f64::from(n) * 60.0)).collect()
}

#[test]
fn v9_sixty_four_times_the_usual_minute() {
    let mut all = usual();
    all.push(Contact { at_s: 1_200.0, bytes: 64 * MIB, ..all[0] });
    let found = told(&scenario(&all), "ndr.egress_volume");
    let [signal] = found.as_slice() else { panic!("{found:#?}") };
    assert_eq!(signal.entity.id, "10.0.0.8");
    assert_eq!(signal.evidence.get("ratio"), Some(&Value::Double(64.0)));
    assert!(signal.confidence >= 65, "{}", signal.confidence);
    assert!(told(&scenario(&usual()), "ndr.egress_volume").is_empty());
}

#[test]
fn v10_a_large_flow_of_a_host_that_nobody_knows() {
    let one = Contact { tenant: "t1", at_s: 0.0, from: "10.0.0.9", to: "198.51.100.20", port: 443, bytes: 1024 * MIB };
    assert!(told(&scenario(&[one]), "ndr.egress_volume").is_empty());
}

/// Nothing is shed. What no detector sees, because it came too late or lies too far ahead, is decided once, in normalize, for
/// whatever rules there are, is kept with its reason, and counts by tenant. A coverage gap that an API shows, there is not yet.
#[test]
fn d12_what_is_not_analysed_is_decided_once_for_all_and_shown() {
    let mut base = scenario(&calls((0..120).map(|n| 30.0 * f64::from(n)), 512));
    for n in 0..10 {
        let at = noon(1_800.0 + f64::from(n));
        for off_s in [-5_400.0, 5_400.0] {
            let contact = Contact { at_s: f64::from(n) + off_s, bytes: 9, ..calls([0.0], 9)[0] };
            base.messages.push(Message { at, ..flow_message(&contact) });
        }
    }
    base.messages.sort_by_key(|m| m.at);
    let of = |kinds: &[&str]| {
        let rules = base.rules.iter().filter(|r| kinds.contains(&r.kind.as_str())).cloned().collect();
        let outcome = Scenario { rules, ..base.clone() }.run(&Layout::default()).unwrap();
        let names = &outcome.topology.names;
        let kept = [names.late(), names.rejected()].map(|topic| {
            let records = read_all(&outcome.log, &topic).unwrap();
            records.into_iter().map(|r| (r.value, r.headers)).collect::<Vec<_>>()
        });
        let counts = outcome.ledger.0[&(FLOW.to_owned(), "t1".to_owned())];
        (kept, (counts.rows_in, counts.normalized, counts.late, counts.rejected), outcome.of_kind("ndr.beaconing").len())
    };
    let all: Vec<&str> = detectors::ALL.iter().map(|d| d.rule_kind).collect();
    let (kept, counts, signals) = of(&all);
    assert_eq!(counts, (140, 120, 10, 10));
    assert!(kept.iter().all(|records| !records.is_empty()) && signals > 0);
    for fewer in [&["beaconing"][..], &["dns_dga", "scan"], &[]] {
        let (same, counts_of_fewer, signals_of_fewer) = of(fewer);
        assert!(same == kept && counts_of_fewer == counts, "{fewer:?}");
        assert_eq!(signals_of_fewer, if fewer.contains(&"beaconing") { signals } else { 0 });
    }
}

#[test]
fn d15_one_lost_in_eight_half_jitter_and_an_hour_apart() {
    // One arrival in eight, and one in thirty-one, does not come.
    for lost in [8, 31] {
        let times = (0..48_u32).filter(|n| n % lost != lost - 1).map(|n| 60.0 * f64::from(n));
        assert!(!told(&scenario(&calls(times, 512)), "ndr.beaconing").is_empty(), "one of {lost} lost");
    }
    // Sleeps of 60 s, up to half of each left out; and of two hours.
    let share = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 8) / f64::from(1 << 24);
    for (period_s, arrivals) in [(60.0, 30), (7_200.0, 24)] {
        let mut at_s = 0.0;
        let times: Vec<f64> = (0..arrivals)
            .map(|n| {
                at_s += period_s * (1.0 - 0.5 * share(n + 1));
                at_s
            })
            .collect();
        assert!(!told(&scenario(&calls(times, 512)), "ndr.beaconing").is_empty(), "period {period_s} s");
    }
}

#[test]
fn d16_one_flow_or_a_thousand_give_the_same_verdict() {
    let verdict = |flows: u32| {
        let mut all = usual();
        let part = Contact { bytes: 64 * MIB / u64::from(flows), ..all[0] };
        // Within one slice: a verdict comes as soon as there is one, and would come earlier of many flows.
        all.extend((0..flows).map(|n| Contact { at_s: 1_200.0 + 8.0 * f64::from(n) / f64::from(flows), ..part }));
        let found = told(&scenario(&all), "ndr.egress_volume");
        let [signal] = found.as_slice() else { panic!("{flows} flows: {found:#?}") };
        (signal.severity, signal.confidence)
    };
    assert_eq!(verdict(1), verdict(1_000));
}

/// Signals of a detector of some confidence: lower end of the bin, right ones, all.
type Bin = (u64, u64, u64);

/// The 95 % interval of a share (Wilson).
fn interval(right: u64, all: u64) -> (f64, f64) {
    let (n, z) = (all as f64, 1.96_f64);
    let p = right as f64 / n;
    let (middle, half) = (p + z * z / (2.0 * n), z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt());
    let by = 1.0 + z * z / n;
    ((middle - half) / by, (middle + half) / by)
}

/// What is wrong with how confidence ranks: one bin alone has signals, or precision from a threshold on is above what the
/// interval of a higher threshold allows.
fn misranked(bins: &[Bin]) -> Option<String> {
    if bins.iter().filter(|(_, _, all)| *all > 0).count() < 2 {
        return Some("one constant confidence".to_owned());
    }
    let from = |threshold: u64| {
        let above = bins.iter().filter(|(bin, ..)| *bin >= threshold);
        above.fold((0, 0), |(right, all), bin| (right + bin.1, all + bin.2))
    };
    let thresholds: Vec<u64> = bins.iter().map(|(bin, ..)| *bin).filter(|bin| from(*bin).1 > 0).collect();
    for (n, higher) in thresholds.iter().enumerate() {
        let (right, all) = from(*higher);
        let most = interval(right, all).1;
        for lower in &thresholds[..n] {
            let (right, all) = from(*lower);
            let precision = right as f64 / all as f64;
            // Of a hundred in a hundred the interval ends at 1, but for rounding.
            if precision > most + 1e-9 {
                return Some(format!("precision from {lower} on is {precision:.3}, from {higher} on at most {most:.3}"));
            }
        }
    }
    None
}

#[test]
fn d9_confidence_ranks_in_the_quality_report() {
    let text = fs::read_to_string(root().join("bench/reports/quality.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    for detector in detectors::ALL {
        let bins = report["calibration"][detector.kind].as_array().unwrap_or_else(|| panic!("{}: not measured", detector.kind));
        let number = |bin: &serde_json::Value, name: &str| bin[name].as_u64().unwrap();
        let bins: Vec<Bin> = bins.iter().map(|b| (number(b, "from"), number(b, "right"), number(b, "all"))).collect();
        assert_eq!(misranked(&bins), None, "{}: {bins:?}", detector.kind);
    }
    // And the test can fail.
    assert!(misranked(&[(0, 0, 0), (50, 40, 50), (80, 0, 0)]).is_some_and(|what| what.contains("constant")));
    assert!(misranked(&[(50, 400, 400), (80, 50, 100)]).is_some_and(|what| what.contains("from 50 on is 0.900")));
    assert!(misranked(&[(50, 9, 29), (60, 30, 34), (70, 17, 17), (80, 28, 32)]).is_none());
}

/// The defaults with an overlay that replaces one and adds one; five bad files and a directory that is not there.
#[test]
fn v17_an_overlay_of_one_replaced_and_one_added_and_six_mistakes() {
    let added = OVERLAY.replace("ndr-beaconing-default", "acme-beaconing");
    let good = directory(&[("a.yaml", OVERLAY), ("b.yml", &added)]);
    let set = rules::load(Some(good.path()), detectors::ALL).unwrap();
    assert_eq!(set.rules.len(), DEFAULTS.len() + 1);
    let version = |id: &str| set.rules.iter().find(|r| r.id == id).map(|r| r.version);
    assert_eq!(
        (version("ndr-beaconing-default"), version("acme-beaconing"), version("ndr-scan-default")),
        (Some(2), Some(2), Some(1))
    );
    let twice = format!("{OVERLAY}{}", OVERLAY.trim_start_matches("rules:\n"));
    let bad = [
        OVERLAY.replace("kind: beaconing", "kind: telepathy"),
        OVERLAY.replace("severity: warning", "severity: loud"),
        OVERLAY.replace("version: 2", "version: 0"),
        twice,
        "{{{{".to_owned(),
    ];
    for text in &bad {
        let dir = directory(&[("bad.yaml", text)]);
        let mistakes = rules::load(Some(dir.path()), detectors::ALL).unwrap_err().to_string();
        assert!(mistakes.contains("bad.yaml"), "{mistakes}");
    }
    let gone = directory(&[]).path().join("gone");
    assert!(rules::load(Some(&gone), detectors::ALL).unwrap_err().to_string().contains("gone"));
}
