//! Scenarios of data in names, and of names that look like it.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, Row};
use tidewatch_schemas::signal::{Severity, Value};
use tidewatch_schemas::time::EventTime;

use super::*;
use crate::conformance::{Drive, MIDNIGHT_S, default_rule, findings_of, host, lookup};
use crate::operator::TenantFacts;

const NOON_S: i64 = MIDNIGHT_S + 43_200;
pub(super) const FOUND: Option<u8> = Some(0);
pub(super) const NO_NAME: Option<u8> = Some(3);

fn rule() -> Rule {
    default_rule("dns_exfil")
}

pub(super) fn asks<'a>(names: impl IntoIterator<Item = &'a str>, gap_s: f64, code: Option<u8>) -> Vec<DnsRow<'a>> {
    let at = |i: usize| NOON_S as f64 + i as f64 * gap_s;
    names.into_iter().enumerate().map(|(i, name)| lookup(at(i), host(0, 9), name, code)).collect()
}

pub(super) fn found(rows: &[DnsRow<'_>]) -> Vec<Finding> {
    findings_of(&[rule()], &rows.iter().map(|r| Row::Dns(*r)).collect::<Vec<_>>())
}

pub(super) fn names(names: &[String], gap_s: f64) -> Vec<Finding> {
    found(&asks(names.iter().map(String::as_str), gap_s, FOUND))
}

pub(super) fn seconds(finding: &Finding) -> i64 {
    finding.decided_at.since(EventTime::from_secs(NOON_S)) / 1_000_000_000
}

/// A stream of bits that nobody can foresee, the same every time.
pub(super) struct Bits(pub u64);

impl Bits {
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((u128::from(self.0) * u128::from(n)) >> 64) as u64
    }

    pub(super) fn text(&mut self, letters: &str, len: usize) -> String {
        let letters: Vec<char> = letters.chars().collect();
        (0..len).map(|_| letters[self.below(letters.len() as u64) as usize]).collect()
    }
}

pub(super) const HEX: &str = "0123456789abcdef";
pub(super) const BASE32: &str = "abcdefghijklmnopqrstuvwxyz234567";
const BASE64: &str = "abcdefghijklmnopqrstuvwxyz0123456789+/";
const CUSTOM: &str = "bcdfghjklmnpqrst";

/// Names of `payload` letters, cut into labels of `label` letters, in front of `behind`.
pub(super) fn tunnel(alphabet: &str, payload: usize, label: usize, behind: &str, count: usize) -> Vec<String> {
    let mut bits = Bits(7);
    let name = |_| {
        let letters = bits.text(alphabet, payload);
        let labels: Vec<String> = letters.chars().collect::<Vec<_>>().chunks(label).map(|c| c.iter().collect()).collect();
        format!("{}.{behind}", labels.join("."))
    };
    (0..count).map(name).collect()
}

/// probectl's vector V5, as it stands and with labels that DNS allows.
#[test]
fn v5_numbers_in_long_labels_fire_at_the_thirty_first_query() {
    let one: Vec<String> = (0..40).map(|i| format!("{i:0120}.tunnel.example")).collect();
    let two: Vec<String> = (0..40).map(|i| format!("{i:060}.{:059}.tunnel.example", 0)).collect();
    for names in [&one, &two] {
        assert_eq!(names[0].len(), 135);
        for code in [None, FOUND] {
            let told = found(&asks(names.iter().map(String::as_str), 1.0, code));
            let [f] = told.as_slice() else { panic!("{told:?}") };
            assert_eq!(seconds(f), 30, "{f:?}");
            assert_eq!(f.evidence["queries"], Value::Long(31));
            assert_eq!(f.evidence["qname_bytes"], Value::Long(4185));
            assert_eq!(f.evidence["unique_ratio"], Value::Double(1.0));
            assert_eq!(f.evidence["domain"], Value::Text("tunnel.example".into()));
            assert!(f.confidence >= 95 && f.severity == Severity::Critical, "{f:?}");
            assert_eq!(f.attack, ["T1048.003", "T1071.004"]);
        }
    }
}

#[test]
fn v3_and_v4_are_no_exfiltration() {
    let generated: Vec<String> = (0..25)
        .map(|i| format!("xq{}k7vz0my{}wt3hjb{}fp8c.evil-rendezvous.example", 7 * i + 13, 31 * i + 5, 17 * i + 3))
        .collect();
    assert!(names(&generated, 1.0).is_empty());
    let plain = ["www.example.com", "mail.example.com", "docs.example.com", "api.acme.example", "cdn.assets.example"];
    assert!(found(&asks(plain.into_iter().cycle().take(30), 1.0, None)).is_empty());
}

#[test]
fn d14_registered_domains_do_not_share_a_counter_and_the_domain_itself_carries_nothing() {
    // Each half alone is below everything; together they would not be.
    let half = |domain: &str, n| tunnel(HEX, 60, 60, domain, n);
    let mixed: Vec<String> = half("a.co.uk", 12).into_iter().zip(half("b.co.uk", 12)).flat_map(|(a, b)| [a, b]).collect();
    assert!(names(&mixed, 20.0).is_empty());
    assert!(!names(&half("a.co.uk", 40), 20.0).is_empty());
    assert!(names(&vec!["evil.example".to_owned(); 500], 1.0).is_empty());
}

#[test]
fn d14_a_slow_leak_is_told_over_a_longer_horizon() {
    // Fewer than thirty names in ten minutes: 0.7 bytes a second in names of 40 bytes.
    let slow = tunnel(BASE32, 64, 32, "evil.example", 90);
    let told = names(&slow, 57.0);
    assert!(told.first().is_some_and(|f| seconds(f) <= 3600), "{told:?}");
    // A kilobyte an hour in hexadecimal.
    let drip = tunnel(HEX, 120, 60, "evil.example", 24 * 17);
    let told = names(&drip, 211.0);
    assert!(told.first().is_some_and(|f| seconds(f) <= 86_400), "{told:?}");
    assert!(told[0].confidence < 90, "{}", told[0].confidence);
}

#[test]
fn every_layout_and_encoding_at_ten_bytes_a_second_is_told_within_minutes() {
    let layouts: [(&str, usize, usize, &str); 9] = [
        (HEX, 60, 60, "t.evil.example"),
        (HEX, 32, 32, "evil.example"),
        (BASE32, 180, 60, "evil.example"),
        (BASE64, 100, 50, "evil.example"),
        (CUSTOM, 60, 30, "evil.example"),
        (BASE32, 24, 8, "evil.example"),
        (BASE32, 12, 3, "evil.example"),
        (HEX, 40, 1, "evil.example"),
        (BASE32, 60, 60, "constant-part.of.the.name.evil.example"),
    ];
    for (alphabet, payload, label, behind) in layouts {
        let all = tunnel(alphabet, payload, label, behind, 400);
        let bytes = payload as f64 * libm::log2(alphabet.len() as f64) / 8.0;
        let told = names(&all, bytes / 10.0);
        let f = told.first().unwrap_or_else(|| panic!("{}", all[0]));
        assert!(seconds(f) <= 300, "{} s: {}", seconds(f), all[0]);
    }
}

#[test]
fn payload_behind_a_constant_label_counts_as_much() {
    let front: Vec<String> = tunnel(HEX, 60, 60, "evil.example", 60);
    let behind: Vec<String> = front.iter().map(|n| format!("www.cdn.{n}")).collect();
    let between: Vec<String> = front.iter().map(|n| format!("img.{}", n.replace(".evil", ".eu.evil"))).collect();
    let [a, b, c] = [&front, &behind, &between].map(|n| seconds(&names(n, 3.0)[0]));
    assert!((a - b).abs() <= 3 && (a - c).abs() <= 3, "{a} s, {b} s, {c} s");
}

#[test]
fn words_that_code_bytes_are_told_too() {
    const WORDS: &[&str] = &[
        "amber", "bridge", "candle", "desert", "ember", "forest", "garden", "harbor", "island", "jungle", "kettle", "lemon",
        "marble", "needle", "ocean", "pepper", "quarry", "river", "silver", "timber", "umbrella", "valley", "window", "yellow",
        "anchor", "basket", "copper", "dragon", "engine", "falcon", "guitar", "hammer",
    ];
    let mut bits = Bits(3);
    let mut name = |_| {
        let words: Vec<&str> = (0..6).map(|_| WORDS[bits.below(32) as usize]).collect();
        format!("{}.{}.evil.example", words[..3].join("-"), words[3..].join("-"))
    };
    let all: Vec<String> = (0..400).map(&mut name).collect();
    // Four bytes a name.
    assert!(!names(&all, 4.0).is_empty());
}

#[test]
fn a_tunnel_that_only_polls_is_told_by_type_and_answers() {
    let polls = tunnel(HEX, 18, 18, "t.evil.example", 40);
    let mut rows = asks(polls.iter().map(String::as_str), 1.0, FOUND);
    rows.iter_mut().for_each(|r| r.query_type = 16);
    let plain = found(&rows);
    assert!(plain.first().is_some_and(|f| seconds(f) <= 10), "{plain:?}");
    let answers = tunnel(BASE32, 200, 200, "x", 40);
    rows.iter_mut().zip(&answers).for_each(|(r, a)| r.answers = Some(a));
    let answered = found(&rows);
    assert!(seconds(&answered[0]) <= 10, "{answered:?}");
    assert!(plain.first().is_some_and(|f| seconds(f) >= seconds(&answered[0])), "{plain:?}");
    assert_eq!(answered[0].attack, ["T1041", "T1048.003", "T1071.004", "T1572"]);
    // Without the text, by its size.
    rows.iter_mut().for_each(|r| (r.answers, r.request_bytes, r.response_bytes) = (None, Some(60), Some(320)));
    assert!(seconds(&found(&rows)[0]) <= 10);
}

#[test]
fn a_few_texts_at_once_and_mail_policies_in_a_row_are_no_tunnel() {
    let mut bits = Bits(11);
    // Six names at once under one domain; keys of mail by the dozen, each with its text.
    let few: Vec<String> = (0..6).map(|_| format!("{}.parts.example", bits.text(BASE32, 10))).collect();
    let keys: Vec<String> = (0..9).map(|_| format!("{}._domainkey.sender.example", bits.text(BASE32, 16))).collect();
    for names in [few, keys] {
        let mut rows = asks(names.iter().map(String::as_str), 0.2, FOUND);
        rows.iter_mut().for_each(|r| r.query_type = 16);
        assert!(found(&rows).is_empty(), "{}", names[0]);
    }
    // A dozen in ten minutes.
    let slow: Vec<String> = (0..12).map(|_| format!("{}.parts.example", bits.text(BASE32, 10))).collect();
    let mut rows = asks(slow.iter().map(String::as_str), 50.0, FOUND);
    rows.iter_mut().for_each(|r| r.query_type = 16);
    assert!(found(&rows).is_empty());
}

#[test]
fn names_that_no_host_could_have_and_names_under_no_domain_count() {
    let raw: Vec<String> = tunnel("abcdef\u{bc}\u{c5}\u{d0}\u{e9}\u{f8}\u{fd}ghijkl", 60, 30, "t.evil.example", 30);
    assert_eq!(names(&raw, 0.3)[0].evidence["domain"], Value::Text("evil.example".into()));
    let mut bits = Bits(9);
    let direct: Vec<String> = (0..60).map(|_| format!("dnscat.{}1", bits.text(HEX, 40))).collect();
    assert_eq!(names(&direct, 1.0)[0].subject, ".");
}

#[test]
fn what_machines_ask_in_their_work_is_silent() {
    let mut bits = Bits(5);
    let mut with = |n: usize, f: &mut dyn FnMut(&mut Bits, usize) -> String| (0..n).map(|i| f(&mut bits, i)).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<String>, f64, Option<u8>)> = vec![
        ("hashes of files", with(400, &mut |b, _| format!("{}.hash.guard.example", b.text(HEX, 32))), 60.0, NO_NAME),
        ("hashes in base 32", with(400, &mut |b, _| format!("{}7.avqs.guard.example", b.text(BASE32, 25))), 60.0, NO_NAME),
        ("a known service", with(2000, &mut |b, _| format!("{}.avqs.mcafee.com", b.text(BASE32, 40))), 1.0, FOUND),
        ("content network", with(400, &mut |b, _| format!("d{}.cloudfront.net", b.text(HEX, 13))), 5.0, FOUND),
        ("shards", with(300, &mut |b, _| format!("img{}.cdn.example", b.below(64))), 5.0, FOUND),
        ("block lists", with(2000, &mut |b, i| format!("{}.{}.51.198.zen.list.example", b.below(256), i % 256)), 2.0, NO_NAME),
        (
            "block lists of domains",
            with(600, &mut |b, _| format!("{}shop.com.multi.list.example", b.text("aeioulnrst", 6))),
            60.0,
            NO_NAME,
        ),
        (
            "telemetry",
            with(300, &mut |_, i| format!("device-5f3a9c71d2e84b06.{}.metrics.vendor.example", ["eu", "us", "ap"][i % 3])),
            30.0,
            FOUND,
        ),
        ("reverse", with(3000, &mut |b, i| format!("{}.{}.0.10.in-addr.arpa", b.below(256), i % 256)), 1.0, NO_NAME),
        ("mail policies", with(60, &mut |b, _| format!("{}._domainkey.sender.example", b.text(BASE32, 8))), 300.0, FOUND),
        ("services", with(500, &mut |_, i| format!("_ldap._tcp.site-{}._sites.dc._msdcs.corp.example.com", i % 12)), 10.0, FOUND),
        (
            "search suffixes",
            with(400, &mut |b, _| format!("www.{}.com.corp.example.com", b.text("aeioulnrst", 7))),
            40.0,
            NO_NAME,
        ),
        ("local zones", with(400, &mut |b, _| format!("desktop-{}.corp.lan", b.text(BASE32, 7))), 1.0, FOUND),
        (
            "browser probes",
            with(30, &mut |b, _| format!("{}.corp.example.com", b.text("abcdefghijklmnopqrst", 11))),
            600.0,
            NO_NAME,
        ),
        (
            "subscribers' names",
            with(100, &mut |b, _| format!("host-{}-{}.dsl.provider.example", b.below(256), b.below(256))),
            60.0,
            FOUND,
        ),
        ("one name again and again", vec!["a5d8f9e0b1c2d3e4f5a6b7c8d9e0f1a2b3.evil.example".to_owned(); 3000], 1.0, FOUND),
    ];
    for (case, names, gap_s, code) in cases {
        let told = found(&asks(names.iter().map(String::as_str), gap_s, code));
        assert!(told.is_empty(), "{case}: {told:?}");
    }
}

#[test]
fn our_own_probes_and_multicast_names_carry_nothing() {
    let all = tunnel(HEX, 60, 60, "evil.example", 60);
    let change = |f: &dyn Fn(&mut DnsRow<'_>)| {
        let mut rows = asks(all.iter().map(String::as_str), 1.0, FOUND);
        rows.iter_mut().for_each(f);
        found(&rows).is_empty()
    };
    assert!(change(&|r| r.synthetic = true) && change(&|r| r.server_port = Some(5353)));
    assert!(!change(&|r| r.query_type = 28));
}

#[test]
fn a_domain_that_everybody_puts_long_names_into_is_lowered() {
    let told = names(&tunnel(HEX, 60, 60, "evil.example", 60), 1.0);
    let facts = |knowing| TenantFacts { hosts: 40, knowing, ..TenantFacts::default() };
    let alone = (DETECTOR.judge)(told[0].clone(), &facts(1)).unwrap();
    let common = (DETECTOR.judge)(told[0].clone(), &facts(12)).unwrap();
    assert_eq!((alone.confidence, alone.severity), (told[0].confidence, told[0].severity));
    assert!(common.confidence + 30 < alone.confidence && common.severity == Severity::Low && common.why.contains("12 of 40"));
}

#[test]
fn services_of_a_rule_cover_what_is_below_them() {
    let all = tunnel(HEX, 60, 60, "t.evil.example", 60);
    let mut rule = rule();
    rule.lists.insert("services".into(), vec!["T.Evil.example.".into()]);
    let rows: Vec<Row<'_>> = asks(all.iter().map(String::as_str), 1.0, FOUND).into_iter().map(Row::Dns).collect();
    assert!(findings_of(&[rule.clone()], &rows).is_empty());
    rule.lists.insert("services".into(), vec!["vil.example".into()]);
    assert!(!findings_of(&[rule], &rows).is_empty());
}

#[test]
fn state_is_bounded_by_floods_of_domains_and_of_names_and_let_go_of_when_all_is_quiet() {
    let mut bits = Bits(1);
    let names: Vec<String> =
        (0..20_000).map(|i| format!("{}.{}.d{}.example", bits.text(HEX, 30), bits.text(HEX, 30), i % 3000)).collect();
    let rows: Vec<Row<'_>> = asks(names.iter().map(String::as_str), 0.01, FOUND).into_iter().map(Row::Dns).collect();
    let mut drive = Drive::new(&[rule()]);
    drive.run(&rows);
    let flood = tunnel(BASE32, 120, 60, "evil.example", 5000);
    let rows: Vec<Row<'_>> = asks(flood.iter().map(String::as_str), 0.1, FOUND).into_iter().map(Row::Dns).collect();
    drive.run(&rows);
    let bytes = drive.detection.stats().1[0].states.bytes;
    assert!(bytes < 500_000, "{bytes}");
    assert!(drive.findings.len() < 8, "{}", drive.findings.len());
    let late = lookup((NOON_S + 90_000) as f64, host(0, 8), "a.example.com", FOUND);
    drive.run(&[Row::Dns(late)]);
    let stats = drive.detection.stats().1[0].states;
    assert!(stats.keys == 1 && stats.bytes < 2_000, "{stats:?}");
}
