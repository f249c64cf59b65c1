//! Scenarios of generated names that hide behind what does not count, each beside the ordinary look-ups that look alike.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::DnsRow;
use tidewatch_schemas::signal::Value;
use tidewatch_schemas::time::EventTime;

use super::tests::{FOUND, LEFT, NO_NAME, NOON_S, RIGHT, asks, failing, found, generated, long};
use crate::conformance::generated_name;

/// Block lists that exist, or did.
const LISTS: &[&str] = &[
    "zen.spamhaus.org",
    "b.barracudacentral.org",
    "bl.spamcop.net",
    "dnsbl.sorbs.net",
    "dnsbl-1.uceprotect.net",
    "psbl.surriel.com",
    "ix.dnsbl.manitu.net",
    "bl.mailspike.net",
    "hostkarma.junkemailfilter.com",
    "db.wpbl.info",
    "all.s5h.net",
    "bl.0spam.org",
    "truncate.gbudb.net",
    "rbl.interserver.net",
    "dnsbl.dronebl.org",
    "cbl.abuseat.org",
    "dnsbl.njabl.org",
    "list.dsbl.org",
    "dnsbl.ahbl.org",
    "bl.mxrbl.com",
    "bl.nszones.com",
    "spamrbl.imp.ch",
    "wormrbl.imp.ch",
    "virbl.bit.nl",
    "dnsbl.inps.de",
    "korea.services.net",
    "rbl.efnetrbl.org",
    "dnsrbl.swinog.ch",
    "bl.drmx.org",
    "spam.pedantic.org",
    "bogons.cymru.com",
    "dnsbl.rv-soft.info",
    "dnsbl.zapbl.net",
    "bl.suomispam.net",
    "bl.nordspam.com",
    "fnrbl.fast.net",
    "backscatter.spameatingmonkey.net",
    "ips.backscatterer.org",
    "bl.blocklist.de",
    "singular.ttk.pte.hu",
    "mail-abuse.blacklist.jippg.org",
    "dnsbl.kempt.net",
    "bl.konstant.no",
    "dnsbl.tornevall.org",
    "rbl.abuse.ro",
    "dnsbl.cobion.com",
    "st.technovision.dk",
    "dul.pacifier.net",
    "gl.suomispam.net",
    "z.mailspike.net",
    "query.senderbase.org",
    "score.senderscore.com",
];

#[test]
fn an_address_or_a_service_in_front_hides_no_generated_name() {
    let nibbles = ["a"; 32].join(".");
    for front in ["1.2.3.4", "4.3.2.1.www", nibbles.as_str(), "_x", "_tcp.a", "a._b.c"] {
        let names: Vec<String> = generated(40).iter().map(|n| format!("{front}.{n}")).collect();
        let told = failing(&names, 5.0);
        assert!(told.first().is_some_and(|f| long(f, "failed_domains") <= 16), "{front}: {told:?}");
        let Value::Text(example) = &told[0].evidence["example"] else { panic!("{told:?}") };
        assert_eq!(example, &names[0]);
    }
    // First labels that look generated, behind an address.
    let label = |i: u64| generated_name(i).split('.').next().unwrap().to_owned();
    let behind: Vec<String> = (0..40).map(|i| format!("1.2.3.4.{}.evil.example", label(i))).collect();
    assert!(!failing(&behind, 5.0).is_empty());
}

#[test]
fn mail_servers_that_ask_many_lists_are_silent() {
    // Every letter, every list: one after the other, all at once, and hundreds of addresses.
    let address = |i: usize| format!("{}.{}.51.198", i * 7 % 256, i % 256);
    for gap_s in [0.05, 5.0] {
        let names: Vec<String> =
            (0..30 * LISTS.len()).map(|i| format!("{}.{}", address(i / LISTS.len()), LISTS[i % LISTS.len()])).collect();
        assert_eq!(failing(&names, gap_s), Vec::<Finding>::new());
    }
    let nibbles = |i: usize| format!("{i:032x}").chars().map(String::from).collect::<Vec<_>>().join(".");
    let key = |i: usize| format!("{}.hq7o3kzv5w2xj4tqy6mdbn8c4e.{}", address(i), ["list.example", "guard.example"][i % 2]);
    let cases = [
        (0..400).map(|i| format!("{}.{}", nibbles(i), LISTS[i % LISTS.len()])).collect::<Vec<_>>(),
        (0..400).map(key).collect(),
        (0..400).map(|i| format!("_ldap._tcp.dc{}._msdcs.{}", i % 9, ["corp.example", "branch.example"][i % 2])).collect(),
    ];
    for names in cases {
        assert_eq!(failing(&names, 2.0), Vec::<Finding>::new(), "{}", names[0]);
    }
    // Policies of senders whose domains look strange and are gone, asked by type or without one.
    for query_type in [16, 0] {
        let names: Vec<String> = generated(60).iter().map(|n| format!("_dmarc.{n}")).collect();
        let mut rows = asks(names.iter().map(|n| (n.as_str(), NO_NAME)), 20.0);
        rows.iter_mut().for_each(|r| r.query_type = query_type);
        assert_eq!(found(&rows), Vec::<Finding>::new());
    }
}

#[test]
fn what_stands_in_front_hides_no_generated_name_that_fails() {
    for front in ["a.b", "www.cdn.eu", "api.v2"] {
        let names: Vec<String> = generated(40).iter().map(|n| format!("{front}.{n}")).collect();
        let told = failing(&names, 5.0);
        assert!(told.first().is_some_and(|f| long(f, "failed_domains") <= 16), "{front}: {told:?}");
    }
    let words: Vec<String> = (0..30).map(|i| format!("www.{}{}.com", LEFT[i % 10], RIGHT[(i * 7 + i / 10) % 10])).collect();
    let told = failing(&words, 5.0);
    assert!(told[0].decided_at <= EventTime::from_secs(NOON_S + 5 * 9), "{told:?}");
    // The same names under domains that exist, and typing errors behind `www`.
    let names: Vec<String> = generated(60).iter().map(|n| format!("a.b.{n}")).collect();
    assert_eq!(found(&asks(names.iter().map(|n| (n.as_str(), FOUND)), 5.0)), Vec::<Finding>::new());
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
    let typed: Vec<String> = TYPED.iter().map(|n| format!("www.{n}")).collect();
    assert_eq!(failing(&typed, 20.0), Vec::<Finding>::new());
}

/// Companies of advertisements with names that nobody could read.
const TRACKERS: &[&str] = &[
    "krxd.net",
    "rlcdn.com",
    "3lift.com",
    "bttrack.com",
    "adsrvr.org",
    "adnxs.com",
    "rfihub.com",
    "w55c.net",
    "mxptint.net",
    "tapad.com",
    "exelator.com",
    "agkn.com",
    "bluekai.com",
    "crwdcntrl.net",
    "demdex.net",
    "dotomi.com",
    "eyeota.net",
    "nexac.com",
    "pippio.com",
    "rkdms.com",
    "semasio.net",
    "simpli.fi",
    "sitescout.com",
    "tidaltv.com",
    "turn.com",
    "tremorhub.com",
    "undertone.com",
    "gwallet.com",
    "ipredictive.com",
    "mookie1.com",
    "netmng.com",
    "mediaplex.com",
    "brealtime.com",
    "lijit.com",
    "sharethrough.com",
    "yieldmo.com",
    "1rx.io",
    "bidr.io",
    "contextweb.com",
    "emxdgt.com",
    "gumgum.com",
    "openx.net",
    "smaato.net",
    "spotxchange.com",
    "stickyads.tv",
    "rundsp.com",
    "zemanta.com",
    "imrworldwide.com",
    "vidible.tv",
    "fwmrm.net",
    "everesttech.net",
    "adform.net",
    "bidswitch.net",
    "casalemedia.com",
    "mathtag.com",
    "scorecardresearch.com",
    "quantserve.com",
    "2mdn.net",
    "serving-sys.com",
    "moatads.com",
];

#[test]
fn filtered_trackers_with_labels_in_front_are_silent() {
    for front in ["sync.prod", "a.b.c", "cm.g"] {
        for (code, answers) in [(NO_NAME, None), (FOUND, Some("0.0.0.0"))] {
            for gap_s in [1.0, 60.0] {
                let names: Vec<String> = TRACKERS.iter().cycle().take(180).map(|n| format!("{front}.{n}")).collect();
                let mut rows = asks(names.iter().map(|n| (n.as_str(), code)), gap_s);
                rows.iter_mut().for_each(|r| r.answers = answers);
                assert_eq!(found(&rows), Vec::<Finding>::new(), "{front} {code:?}");
            }
        }
    }
}

/// Look-ups of each name by each type in turn, half a second apart.
fn by_types(names: &[String], types: &[u16], gap_s: f64) -> Vec<Finding> {
    let mut rows = Vec::new();
    for row in asks(names.iter().map(|n| (n.as_str(), NO_NAME)), gap_s) {
        for (n, query_type) in types.iter().enumerate() {
            rows.push(DnsRow { query_type: *query_type, event_time: row.event_time.plus(n as i64 * 500_000_000), ..row });
        }
    }
    found(&rows)
}

#[test]
fn only_the_look_up_of_where_mail_goes_excludes_a_domain_or_on_a_host_that_serves_mail_its_policies() {
    const A: u16 = 1;
    const NS: u16 = 2;
    const SOA: u16 = 6;
    const MX: u16 = 15;
    const TXT: u16 = 16;
    let names = generated(40);
    for other in [NS, SOA, TXT] {
        let told = by_types(&names, &[other, A], 5.0);
        assert!(told.first().is_some_and(|f| long(f, "failed_domains") <= 10), "{other}: {told:?}");
    }
    // Senders that do not exist, whatever is asked first.
    for types in [&[MX, A][..], &[TXT, MX, A], &[NS, TXT, MX, A, 28]] {
        assert_eq!(by_types(&names, types, 5.0), Vec::<Finding>::new());
    }
    // A filter of mail looks at what stands in letters, between senders whose MX is asked.
    let senders: Vec<String> = (0..40).map(|i| format!("{}{}.com", LEFT[i % 10], RIGHT[(i * 7 + i / 10) % 10])).collect();
    let mut rows = Vec::new();
    for (i, row) in asks(senders.iter().map(|n| (n.as_str(), FOUND)), 10.0).into_iter().enumerate() {
        rows.push(DnsRow { query_type: MX, ..row });
        if i >= 5 {
            let linked = DnsRow { query: &names[i], response_code: NO_NAME, answers: None, ..row };
            rows.push(DnsRow { query_type: NS, event_time: row.event_time.plus(1_000_000_000), ..linked });
            rows.push(DnsRow { event_time: row.event_time.plus(2_000_000_000), ..linked });
        }
    }
    assert_eq!(found(&rows), Vec::<Finding>::new());
}
