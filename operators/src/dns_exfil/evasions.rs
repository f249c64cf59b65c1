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
    rows.iter_mut().zip(&texts).for_each(|(r, t)| (r.query_type, r.answers) = (16, Some(t)));
    assert!(found(&rows).is_empty());
}
