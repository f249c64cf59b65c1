//! Scenarios of data that hides behind what counts less or not at all, each beside the ordinary look-ups that look alike.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::tests::{BASE32, Bits, FOUND, HEX, NO_NAME, asks, found, names, seconds, tunnel};

/// Thirty-two nibbles of an address.
fn nibbles(bits: &mut Bits) -> String {
    let digits: Vec<String> = bits.text(HEX, 32).chars().map(String::from).collect();
    digits.join(".")
}

#[test]
fn an_address_in_front_hides_nothing() {
    let mut bits = Bits(13);
    let plain = tunnel(HEX, 60, 60, "evil.example", 120);
    let with = |front: &mut dyn FnMut() -> String| plain.iter().map(|n| format!("{}.{n}", front())).collect::<Vec<_>>();
    let fixed = with(&mut || "1.2.3.4".to_owned());
    let turning = with(&mut || format!("{}.{}.51.198", bits.below(256), bits.below(256)));
    let long = with(&mut || nibbles(&mut bits));
    let policy = with(&mut || "4.3.2.1.in-addr".to_owned());
    for (kind, code) in [(1, NO_NAME), (28, FOUND), (16, FOUND), (10, FOUND)] {
        let first = |names: &[String]| {
            let mut rows = asks(names.iter().map(String::as_str), 3.0, code);
            rows.iter_mut().for_each(|r| (r.query_type, r.answers) = (kind, None));
            seconds(&found(&rows)[0])
        };
        let as_it_is = first(&plain);
        for names in [&fixed, &turning, &long, &policy] {
            assert!(first(names) <= as_it_is + 3, "{kind}: {} s, {as_it_is} s: {}", first(names), names[0]);
        }
    }
    // Seven tenths of a byte a second.
    let slow = names(&fixed, 30.0 / 0.7);
    assert!(slow.first().is_some_and(|f| seconds(f) <= 3600), "{slow:?}");
}

#[test]
fn addresses_in_front_of_lists_and_policies_of_mail_are_silent() {
    let mut bits = Bits(17);
    let mut with = |n: usize, f: &mut dyn FnMut(&mut Bits, usize) -> String| (0..n).map(|i| f(&mut bits, i)).collect::<Vec<_>>();
    let v4 = |b: &mut Bits| format!("{}.{}.{}.{}", b.below(256), b.below(256), b.below(256), b.below(256));
    let lists = ["zen", "sbl", "xbl", "pbl", "bl", "css", "drop", "dnswl"];
    let cases = [
        ("a list", with(20_000, &mut |b, _| format!("{}.zen.list.example", v4(b)))),
        ("the zone itself", with(20_000, &mut |b, _| format!("{}.list.example", v4(b)))),
        ("a customer's key", with(20_000, &mut |b, _| format!("{}.hq7o3kzv5w2xj4tqy6mdbn8c4e.zen.dq.list.example", v4(b)))),
        ("eight lists", with(20_000, &mut |b, i| format!("{}.{}.list.example", v4(b), lists[i % 8]))),
        ("IPv6", with(5_000, &mut |b, _| format!("{}.zen.list.example", nibbles(b)))),
        (
            "names of subscribers",
            with(5_000, &mut |b, i| format!("{}.{}.dsl.provider.example", v4(b), ["north", "south"][i % 2])),
        ),
        // Policies of mail that ask a service about the address and the sender.
        (
            "policies by sender",
            with(900, &mut |b, _| format!("{}.in-addr.{}shop.com.spf.has.guard.example", v4(b), b.text("aeioulnrst", 6))),
        ),
        ("a known service", with(5_000, &mut |b, _| format!("{}._ip.{}.com._spf.vali.email", v4(b), b.text(BASE32, 12)))),
    ];
    for (case, names) in &cases {
        for (kind, code, answers) in [(1, NO_NAME, None), (1, FOUND, Some("127.0.0.2")), (16, NO_NAME, None)] {
            let mut rows = asks(names.iter().map(String::as_str), 4.0, code);
            rows.iter_mut().for_each(|r| (r.query_type, r.answers) = (kind, answers));
            let told = found(&rows);
            assert!(told.is_empty(), "{case}, {kind}: {told:?}");
        }
    }
    // A list says why, with the address in its text.
    let (_, names) = &cases[3];
    let texts: Vec<String> = names.iter().map(|n| format!("https://www.list.example/query/ip/{}", &n[..12])).collect();
    let mut rows = asks(names.iter().map(String::as_str), 4.0, FOUND);
    rows.iter_mut().zip(&texts).for_each(|(r, t)| (r.query_type, r.answers) = (16, Some(t.as_str())));
    assert!(found(&rows).is_empty());
}

#[test]
fn what_weighs_less_hides_nothing_beside_it() {
    let mut bits = Bits(19);
    let (hex, long) = (tunnel(HEX, 60, 60, "evil.example", 160), tunnel(BASE32, 180, 60, "evil.example", 60));
    let in_front = |front: &str| hex.iter().map(|n| format!("{front}.{n}")).collect::<Vec<_>>();
    let behind = |labels: &str| hex.iter().map(|n| n.replace(".evil", &format!(".{labels}.evil"))).collect::<Vec<_>>();
    let digests: Vec<String> = long.iter().map(|n| format!("{}.{n}", bits.text(HEX, 32))).collect();
    let digest: Vec<String> = in_front("5d41402abc4b2a76b9719d911017c592");
    let cases = [
        ("another name behind", behind("google.com"), 30.0, FOUND),
        ("a content network behind", behind("d1.cloudfront.net"), 30.0, FOUND),
        ("another name in front", in_front("www.google.com"), 30.0, FOUND),
        ("a service in front", in_front("_a"), 30.0, FOUND),
        ("a service behind", behind("_a"), 30.0, FOUND),
        ("services all over", behind("_x._tcp").iter().map(|n| format!("_y.{n}")).collect(), 30.0, FOUND),
        ("a policy behind", behind("_dmarc"), 30.0, FOUND),
        ("a digest in front that is always the same", digest, 30.0, NO_NAME),
        ("digests in front", digests, 112.0, NO_NAME),
    ];
    for (case, names, bytes, code) in cases {
        let told = found(&asks(names.iter().map(String::as_str), bytes / 0.7, code));
        assert!(told.first().is_some_and(|f| seconds(f) <= 3600), "{case}: {}: {told:?}", names[0]);
    }
    // A tunnel that polls with texts, a name a second.
    for labels in ["_a", "google.com"] {
        let names = behind(labels);
        let mut rows = asks(names.iter().map(String::as_str), 1.0, FOUND);
        rows.iter_mut().for_each(|r| r.query_type = 16);
        assert!(found(&rows).first().is_some_and(|f| seconds(f) <= 10), "{labels}");
    }
}

#[test]
fn services_names_and_digests_within_a_domain_are_silent() {
    let mut bits = Bits(23);
    let mut with = |n: usize, f: &mut dyn FnMut(&mut Bits, usize) -> String| (0..n).map(|i| f(&mut bits, i)).collect::<Vec<_>>();
    let id = |i: usize| {
        let x = xxhash_rust::xxh3::xxh3_128(&i.to_le_bytes());
        format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", x as u32, x >> 32 & 0xffff, x >> 48 & 0xffff, x >> 64 & 0xffff, x >> 80)
    };
    const AGENTS: [&str; 4] = ["cdn", "ads", "img", "www"];
    let cases = [
        (
            "selectors of keys",
            16,
            with(100, &mut |b, _| format!("{}._domainkey.sender.example", b.text(BASE32, 32))),
            600.0,
            FOUND,
        ),
        ("policies below a sender", 16, with(400, &mut |_, i| format!("_dmarc.mail{}.sender.example", i % 40)), 5.0, FOUND),
        (
            "where reports go",
            16,
            with(400, &mut |b, _| format!("{}shop.com._report._dmarc.reports.example", b.text("aeioulnrst", 6))),
            60.0,
            NO_NAME,
        ),
        ("domain controllers", 1, with(300, &mut |_, i| format!("{}._msdcs.corp.example.com", id(i % 120))), 20.0, FOUND),
        (
            "the domain's own id",
            33,
            with(300, &mut |_, i| format!("_ldap._tcp.{}.domains._msdcs.corp.example.com", id(i % 3))),
            5.0,
            FOUND,
        ),
        (
            "sites",
            33,
            with(600, &mut |_, i| format!("_kerberos._tcp.site-{}._sites.dc._msdcs.corp.example.com", i % 60)),
            5.0,
            FOUND,
        ),
        (
            "digests in two labels",
            1,
            with(400, &mut |b, _| format!("{}.{}.files.guard.example", b.text(HEX, 32), b.text(HEX, 32))),
            60.0,
            NO_NAME,
        ),
        (
            "digests in base 32 and a region",
            1,
            with(400, &mut |b, i| format!("{}7.{}.files.guard.example", b.text(BASE32, 51), ["eu", "us"][i % 2])),
            60.0,
            NO_NAME,
        ),
        (
            "advertisements for sites",
            1,
            with(900, &mut |b, i| format!("{}.{}shop.com.prebid.adhouse.example", AGENTS[i % 4], b.text("aeioulnrst", 6))),
            60.0,
            FOUND,
        ),
        (
            "content networks with a search suffix",
            1,
            with(400, &mut |b, i| format!("d{}.cloudfront.net.corp.example.com", b.text(HEX, 13 + i % 2))),
            100.0,
            NO_NAME,
        ),
        (
            "what senders' policies ask",
            16,
            with(900, &mut |b, _| {
                format!(
                    "_ip.mx{}.{}post.com._ehlo.{}shop.com._spf.guard.example",
                    b.below(9),
                    b.text("aeioulnrst", 4),
                    b.text("aeioulnrst", 5)
                )
            }),
            90.0,
            FOUND,
        ),
    ];
    for (case, kind, names, gap_s, code) in cases {
        let mut rows = asks(names.iter().map(String::as_str), gap_s, code);
        rows.iter_mut().for_each(|r| (r.query_type, r.answers) = (kind, None));
        let told = found(&rows);
        assert!(told.is_empty(), "{case}: {told:?}");
    }
}
