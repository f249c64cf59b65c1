//! Scenarios of generated names that hide behind what does not count, each beside the ordinary look-ups that look alike.
#![allow(clippy::unwrap_used, clippy::panic)]

use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::signal::Value;

use super::tests::{NO_NAME, asks, failing, found, generated, long};
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
    let nibbles = vec!["a"; 32].join(".");
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
