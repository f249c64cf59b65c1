//! Scenarios of generated names, and of what fails on ordinary hosts.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, Row};
use tidewatch_schemas::signal::Value;
use tidewatch_schemas::time::EventTime;

use super::state::{DOMAINS_MAX, HostState};
use crate::conformance::{Drive, MIDNIGHT_S, default_rule, findings_of, generated_name, host, lookup};
use crate::operator::Footprint;
use crate::rule::Rule;

pub(super) const NOON_S: i64 = MIDNIGHT_S + 43_200;
pub(super) const NO_NAME: Option<u8> = Some(3);
pub(super) const FOUND: Option<u8> = Some(0);

fn rule() -> Rule {
    default_rule("dns_dga")
}

/// Look-ups of one host, `gap_s` apart from noon on.
pub(super) fn asks<'a>(names: impl IntoIterator<Item = (&'a str, Option<u8>)>, gap_s: f64) -> Vec<DnsRow<'a>> {
    let at = |i: usize| NOON_S as f64 + i as f64 * gap_s;
    names.into_iter().enumerate().map(|(i, (name, code))| lookup(at(i), host(0, 7), name, code)).collect()
}

pub(super) fn found(rows: &[DnsRow<'_>]) -> Vec<Finding> {
    findings_of(&[rule()], &rows.iter().map(|r| Row::Dns(*r)).collect::<Vec<_>>())
}

pub(super) fn failing(names: &[String], gap_s: f64) -> Vec<Finding> {
    found(&asks(names.iter().map(|n| (n.as_str(), NO_NAME)), gap_s))
}

pub(super) fn generated(n: u64) -> Vec<String> {
    (0..n).map(generated_name).collect()
}

pub(super) fn long(finding: &Finding, name: &str) -> i64 {
    match finding.evidence[name] {
        Value::Long(v) => v,
        ref other => panic!("{name}: {other:?}"),
    }
}

/// What people look at, for rows around the interesting ones.
const ORDINARY: &[&str] = &[
    "www.wikipedia.org",
    "mail.google.com",
    "login.microsoftonline.com",
    "www.nytimes.com",
    "api.github.com",
    "static.bbci.co.uk",
    "www.spiegel.de",
    "fonts.gstatic.com",
    "www.amazon.co.uk",
    "cdn.jsdelivr.net",
    "www.lemonde.fr",
    "outlook.office365.com",
];

#[test]
fn a_search_for_the_server_is_told_within_ten_failing_domains() {
    let f = &failing(&generated(40), 2.0)[0];
    assert!(f.decided_at <= EventTime::from_secs(NOON_S + 2 * 9), "{f:?}");
    assert!(long(f, "failed_domains") <= 10 && f.confidence >= 70);
    assert_eq!((f.subject.as_str(), &f.evidence["example"]), ("dga", &Value::Text(generated_name(0))));
    assert_eq!(f.attack, ["T1071.004", "T1568.002"]);
}

/// What a generator registers is a name; in front of somebody's domain it is a file that is looked up.
#[test]
fn thirty_two_hexadecimal_digits_are_generated_as_a_name_and_a_digest_in_front_of_one() {
    let digits = |n: u64| xxhash_rust::xxh3::xxh3_128(&n.to_le_bytes());
    for suffixes in [&["com"][..], &["com", "net", "org", "info"]] {
        let names: Vec<String> =
            (0..30).map(|n| format!("{:032x}.{}", digits(n), suffixes[n as usize % suffixes.len()])).collect();
        let f = &failing(&names, 5.0)[0];
        assert!(long(f, "failed_domains") <= 10, "{f:?}");
    }
    for service in ["files.reputation-service.com", "reputation-service.co.uk"] {
        let names: Vec<String> = (0..300).map(|n| format!("{:032x}.{service}", digits(n))).collect();
        assert_eq!(failing(&names, 1.0), Vec::<Finding>::new());
        assert_eq!(found(&asks(names.iter().map(|n| (n.as_str(), FOUND)), 1.0)), Vec::<Finding>::new());
    }
}

#[test]
fn one_name_an_hour_is_told_within_the_day() {
    let f = &failing(&generated(24), 3600.0)[0];
    assert!(long(f, "failed_domains") <= 10);
}

#[test]
fn the_one_that_answers_is_named() {
    let names = generated(60);
    let rows = asks(names.iter().enumerate().map(|(i, n)| (n.as_str(), if i % 30 == 29 { FOUND } else { NO_NAME })), 2.0);
    let told = found(&rows);
    let last = told.last().unwrap();
    assert_eq!(last.evidence["found"], Value::List(vec![Value::Text(names[29].clone())]));
    assert_eq!(last.destination.as_ref().unwrap().domain.as_deref(), Some(names[29].as_str()));
    assert!(last.why.contains(&names[29]));
}

#[test]
fn generated_names_among_ordinary_ones_are_found() {
    let names = generated(30);
    let mut rows = Vec::new();
    for (i, name) in names.iter().enumerate() {
        rows.push((ORDINARY[i % ORDINARY.len()], FOUND));
        rows.push((ORDINARY[(i + 5) % ORDINARY.len()], FOUND));
        rows.push((name.as_str(), NO_NAME));
    }
    assert!(!found(&asks(rows, 20.0)).is_empty());
}

#[test]
fn names_under_dynamic_dns_and_behind_www_are_judged_by_what_was_registered() {
    for wrap in [|n: &str| format!("{n}.ddns.net"), |n: &str| format!("www.{n}.com")] {
        let names: Vec<String> = generated(20).iter().map(|n| wrap(n.split('.').next().unwrap())).collect();
        assert!(!failing(&names, 2.0).is_empty(), "{}", names[0]);
    }
}

/// Words that two lists of a made-up generator hold.
pub(super) const LEFT: &[&str] =
    &["window", "journey", "silver", "paper", "kitchen", "winter", "garden", "orange", "bridge", "travel"];
pub(super) const RIGHT: &[&str] =
    &["consider", "remember", "yellow", "mountain", "captain", "station", "harvest", "silent", "gather", "letter"];

#[test]
fn a_burst_of_joined_words_that_do_not_exist_is_told_at_the_tenth() {
    let names: Vec<String> = (0..30).map(|i| format!("{}{}.com", LEFT[i % 10], RIGHT[(i * 7 + i / 10) % 10])).collect();
    let told = failing(&names, 5.0);
    assert!(told[0].decided_at <= EventTime::from_secs(NOON_S + 5 * 9), "{told:?}");
    assert!(told[0].confidence < 75, "doubtful names, a doubtful finding: {}", told[0].confidence);
}

#[test]
fn short_names_that_one_could_pronounce_are_told_by_their_burst() {
    let (consonants, vowels) = (b"bcdfglmnprstvxz", b"aeiouy");
    let name = |i: usize| -> String {
        let letter = |k: usize| {
            let at = (i + 3) * (k * k + 7) * 13 + i / 2 + k;
            char::from(if k.is_multiple_of(2) { consonants[at % consonants.len()] } else { vowels[at % vowels.len()] })
        };
        (0..8).map(letter).chain(".ru".chars()).collect()
    };
    let told = failing(&(0..40).map(name).collect::<Vec<_>>(), 5.0);
    assert!(told.first().is_some_and(|f| long(f, "failed_domains") <= 10), "{told:?}");
    // As many typing errors in as short a time are somebody's bad keyboard.
    const TYPED: &[&str] = &[
        "gogle.com",
        "facebok.com",
        "wikpedia.org",
        "youtub.com",
        "amazn.de",
        "yaho.com",
        "githib.com",
        "linkedn.com",
        "spotfy.com",
        "netfilx.com",
        "ebya.com",
        "redit.com",
        "twiter.com",
        "paypl.com",
        "adobee.com",
    ];
    assert!(found(&asks(TYPED.iter().map(|n| (*n, NO_NAME)), 20.0)).is_empty());
}

#[test]
fn going_through_a_list_of_names_is_silent() {
    let words = |i: usize| format!("{}{}{}.com", LEFT[i % 10], RIGHT[i / 10 % 10], LEFT[i / 100 % 10]);
    let names: Vec<(String, Option<u8>)> = (0..1000)
        .map(|i| match i {
            // Of a hundred one is gone, and looks strange.
            _ if i % 100 == 50 => (generated_name(i as u64), NO_NAME),
            _ if i % 40 == 7 => (generated_name(i as u64), FOUND),
            _ => (words(i), FOUND),
        })
        .collect();
    assert!(found(&asks(names.iter().map(|(n, c)| (n.as_str(), *c)), 0.5)).is_empty());
}

#[test]
fn what_fails_on_ordinary_hosts_is_silent() {
    let with = |f: &dyn Fn(usize) -> String, n: usize| (0..n).map(f).collect::<Vec<_>>();
    let label = |i: usize| generated_name(i as u64).split('.').next().unwrap().to_owned();
    let cases: [(&str, Vec<String>); 9] = [
        ("browser probes", with(&label, 60)),
        ("probes with a search suffix", with(&|i| format!("{}.corp.example.com", label(i)), 60)),
        ("local zones", with(&|i| format!("{}.lan", label(i)), 60)),
        ("reverse look-ups", with(&|i| format!("{i}.1.0.10.in-addr.arpa"), 60)),
        ("block lists", with(&|i| format!("{i}.4.51.198.zen.list{}.example", i % 9), 60)),
        ("hash look-ups", with(&|i| format!("{:032x}.hash.scanner.example", i as u128 * 0x1234_5678_9abc_def1), 60)),
        ("service discovery", with(&|i| format!("_ldap._tcp.{}.example.com", label(i)), 60)),
        ("content network", with(&|i| format!("d{}.cloudfront.net", label(i)), 60)),
        ("one dead domain retried", with(&|_| "ghjwqkzxv.com".to_owned(), 500)),
    ];
    for (case, names) in cases {
        let told = failing(&names, 3.0);
        assert!(told.is_empty(), "{case}: {told:?}");
    }
}

#[test]
fn typing_errors_and_expired_domains_over_a_day_are_silent() {
    let names = [
        "gogle.com",
        "facebok.com",
        "wikpedia.org",
        "youtub.com",
        "amazn.de",
        "yaho.com",
        "oldcompanyblog.com",
        "mysummertrip2009.net",
        "githib.com",
        "stackoverlow.com",
        "thegardencentre-offers.co.uk",
        "linkedn.com",
        "spotfy.com",
        "netfilx.com",
        "ebya.com",
    ];
    assert!(found(&asks(names.iter().map(|n| (*n, NO_NAME)), 2400.0)).is_empty());
}

#[test]
fn filtered_advertisements_are_silent() {
    const ADS: &[&str] = &[
        "pagead2.googlesyndication.com",
        "securepubads.g.doubleclick.net",
        "ib.adnxs.com",
        "static.criteo.net",
        "cdn.taboola.com",
        "widgets.outbrain.com",
        "c.amazon-adsystem.com",
        "fastlane.rubiconproject.com",
        "sb.scorecardresearch.com",
        "match.adsrvr.org",
        "pixel.quantserve.com",
        "ads.pubmatic.com",
        "bidder.criteo.com",
        "tlx.3lift.com",
        "dpm.demdex.net",
        "cm.everesttech.net",
        "sync.mathtag.com",
        "eb2.3lift.com",
        "ads.yahoo.com",
        "x.bidswitch.net",
        "idsync.rlcdn.com",
        "tags.bluekai.com",
        "ssum-sec.casalemedia.com",
        "rtb.openx.net",
        "sync.crwdcntrl.net",
        "trc.taboola.com",
        "stats.g.doubleclick.net",
        "s.innovid.com",
    ];
    for code in [NO_NAME, FOUND] {
        let mut rows = Vec::new();
        for (i, name) in ADS.iter().cycle().take(200).enumerate() {
            rows.push((ORDINARY[i % ORDINARY.len()], FOUND));
            rows.push((*name, code));
        }
        let mut rows = asks(rows, 4.0);
        // A filter that answers, answers with nothing.
        rows.iter_mut().filter(|r| ADS.contains(&r.query) && code == FOUND).for_each(|r| r.answers = Some("0.0.0.0"));
        let told = found(&rows);
        assert!(told.is_empty(), "{code:?}: {told:?}");
    }
}

/// `n` times what a browser asks when it starts: three names of letters by chance, each with its search suffix and, where
/// `alone`, by itself, `apart_s` after the former three.
fn starts(n: u64, alone: bool, suffixes: &[&str], apart_s: f64) -> Vec<(f64, String)> {
    let mut rows = Vec::new();
    for i in 0..3 * n {
        let at = NOON_S as f64 + (i / 3) as f64 * apart_s + (i % 3) as f64 * 0.004;
        let letters = generated_name(i).bytes().filter(u8::is_ascii_lowercase).map(char::from).take(15).collect::<String>();
        let label = &letters[..letters.len().min(10 + i as usize % 6)];
        rows.extend(suffixes.iter().map(|suffix| (at, format!("{label}.{suffix}"))));
        if alone {
            rows.push((at + 0.002, label.to_owned()));
        }
    }
    rows
}

#[test]
fn a_browsers_starts_are_silent_with_and_without_a_search_suffix() {
    let told =
        |rows: &[(f64, String)]| found(&rows.iter().map(|(at, n)| lookup(*at, host(0, 7), n, NO_NAME)).collect::<Vec<_>>());
    for suffixes in [&["corp.example"][..], &["corp.example", "office.example"]] {
        for alone in [true, false] {
            assert_eq!(told(&starts(40, alone, suffixes, 11.0)), Vec::<Finding>::new(), "{suffixes:?} {alone}");
        }
    }
    // The resolver tries the name by itself first, and slowly.
    let mut slow = starts(40, true, &["corp.example"], 11.0);
    slow.iter_mut().filter(|(_, name)| name.contains('.')).for_each(|(at, _)| *at += 5.0);
    slow.sort_by(|a, b| a.0.total_cmp(&b.0));
    assert_eq!(told(&slow), Vec::<Finding>::new());
    // The same labels in front of somebody's domain without a pause are no browser's.
    for apart_s in [0.9, 1.2, 4.0] {
        assert!(!told(&starts(40, false, &["rendezvous.example"], apart_s)).is_empty(), "{apart_s}");
    }
    let one_by_one = starts(40, false, &["rendezvous.example"], 11.0);
    let one_by_one: Vec<_> = one_by_one.into_iter().enumerate().map(|(i, (_, n))| (NOON_S as f64 + i as f64 * 8.0, n)).collect();
    assert!(!told(&one_by_one).is_empty());
}

#[test]
fn other_business_and_our_own_probes_do_not_count() {
    let names = generated(40);
    let rows = asks(names.iter().map(|n| (n.as_str(), NO_NAME)), 2.0);
    let change = |f: &dyn Fn(&mut DnsRow<'_>)| {
        let mut rows = rows.clone();
        rows.iter_mut().for_each(f);
        found(&rows)
    };
    assert!(change(&|r| r.query_type = 12).is_empty(), "PTR");
    assert!(change(&|r| r.query_type = 33).is_empty(), "SRV");
    assert!(change(&|r| r.server_port = Some(5355)).is_empty(), "LLMNR");
    assert!(change(&|r| r.synthetic = true).is_empty(), "probes");
    let mut mail = Vec::new();
    for row in &rows {
        mail.push(DnsRow { query_type: 15, ..*row });
        mail.push(DnsRow { event_time: row.event_time.plus(1_000_000), ..*row });
    }
    assert!(found(&mail).is_empty(), "a mail server looks senders up");
}

/// probectl's vector V3.
#[test]
fn v3_generated_first_labels_fire_at_the_twentieth_name() {
    let names: Vec<String> = (0..25)
        .map(|i| format!("xq{}k7vz0my{}wt3hjb{}fp8c.evil-rendezvous.example", 7 * i + 13, 31 * i + 5, 17 * i + 3))
        .collect();
    for code in [None, FOUND] {
        let told = found(&asks(names.iter().map(|n| (n.as_str(), code)), 1.0));
        let [f] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((long(f, "names_distinct"), &f.evidence["generated_ratio"]), (20, &Value::Double(1.0)));
        assert_eq!(f.evidence["example"], Value::Text(names[0].clone()));
        assert_eq!(f.decided_at, EventTime::from_secs(NOON_S + 19));
        assert!(f.confidence >= 90, "{}", f.confidence);
    }
}

/// probectl's vector V4.
#[test]
fn v4_ordinary_names_are_silent() {
    let names = [
        "www.example.com",
        "mail.example.com",
        "docs.example.com",
        "shop.example.com",
        "blog.example.com",
        "api.acme.example",
        "cdn.assets.example",
        "login.corp.example",
    ];
    for code in [None, FOUND, NO_NAME] {
        assert!(found(&asks(names.iter().cycle().take(30).map(|n| (*n, code)), 1.0)).is_empty());
    }
}

#[test]
fn d13_short_labels_count_and_not_only_the_first() {
    let label = |i: u64| generated_name(i)[..11].to_owned();
    let short: Vec<String> = (0..30).map(|i| format!("{}.com", label(i))).collect();
    let behind: Vec<String> = (0..30).map(|i| format!("www.{}.com", label(i))).collect();
    for names in [&short, &behind] {
        let unknown = found(&asks(names.iter().map(|n| (n.as_str(), None)), 1.0));
        let told = failing(names, 1.0);
        assert!(!unknown.is_empty() && !told.is_empty());
        assert!(told[0].decided_at < unknown[0].decided_at, "names that do not exist are told earlier");
    }
    let machine: Vec<String> = (0..40)
        .map(|i| format!("k8s-default-ingress-{:010x}.eu.clusters.example", 0x001a_2b3c_4d5e_u64 * (i + 1) % (1 << 40)))
        .collect();
    let hashed: Vec<String> = (0..40).map(|i| format!("d{}.cdn-assets.example", &generated_name(i)[..13])).collect();
    for names in [&machine, &hashed] {
        assert!(found(&asks(names.iter().map(|n| (n.as_str(), FOUND)), 1.0)).is_empty(), "{}", names[0]);
    }
}

#[test]
fn state_is_bounded_by_a_flood_of_names_and_let_go_of_when_all_is_quiet() {
    let names: Vec<String> = (0..5000).map(generated_name).collect();
    let rows: Vec<Row<'_>> = asks(names.iter().map(|n| (n.as_str(), FOUND)), 0.01).into_iter().map(Row::Dns).collect();
    let mut drive = Drive::new(&[rule()]);
    drive.run(&rows);
    let bytes = drive.detection.stats().1[0].states.bytes;
    assert!(bytes < 60_000, "{bytes}");
    // Another look-up, an hour later: the window is empty by then.
    let late = lookup((NOON_S + 7200) as f64, host(0, 8), "www.example.com", FOUND);
    drive.run(&[Row::Dns(late)]);
    assert!(drive.detection.stats().1[0].states.bytes < bytes - 8_000);
    let mut state = HostState::default();
    for i in 0..10 * DOMAINS_MAX as u64 {
        state.meet(i, false, EventTime(i as i64));
    }
    assert!(state.heap_bytes() <= DOMAINS_MAX * 36);
}
