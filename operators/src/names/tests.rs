//! What the shipped model must say, whatever it was trained on.
#![allow(clippy::unwrap_used)]

use super::model::{MODEL_BYTES, UNJUDGED};
use super::*;

#[test]
fn ordinary_names_of_many_kinds_score_low() {
    let names = [
        "wikipedia.org",
        "bbc.co.uk",
        "stackoverflow.com",
        "zeit.de",
        "lemonde.fr",
        "corriere.it",
        "elpais.com",
        "onet.pl",
        "yandex.ru",
        "zhihu.com",
        "rakuten.co.jp",
        "naver.com",
        "hurriyet.com.tr",
        "uol.com.br",
        "doubleclick.net",
        "googlesyndication.com",
        "gstatic.com",
        "cloudflare-dns.com",
        "jsdelivr.net",
        "fbcdn.net",
        "ytimg.com",
        "k8s.io",
        "ietf.org",
        "3lift.com",
        "kernel.org",
        "office365.com",
        "booking.com",
        "deutsche-bank.de",
        "mercadolibre.com.ar",
        "thepaperstore-online.com",
    ];
    let high: Vec<(&str, f32)> = names.iter().map(|n| (*n, score(n).unwrap())).filter(|(_, s)| *s >= 0.5).collect();
    assert!(high.is_empty(), "{high:?}");
}

#[test]
fn names_by_chance_score_high_whatever_their_alphabet() {
    let names = [
        "xjwqpzkvbntr.com",
        "kq3v9zxw1p7t.net",
        "b7d09e41c5aa83f2.info",
        "qmzxnwbvlkjhgf.biz",
        "wqzrtplkjh.ru",
        "a1x9k2m8q7z3p5.ddns.net",
        "uqoxezgwfbmynt.org",
        "gezdgnbvgy3tqojq.com",
    ];
    let low: Vec<(&str, f32)> = names.iter().map(|n| (*n, score(n).unwrap())).filter(|(_, s)| *s < 0.8).collect();
    assert!(low.is_empty(), "{low:?}");
}

#[test]
fn what_cannot_be_judged_gets_a_low_score_or_a_reason() {
    for name in ["abc.com", "xn--80ak6aa92e.com", "d111111abcdef8.cloudfront.net", "münchen.de"] {
        assert_eq!(score(name), Ok(UNJUDGED), "{name}");
    }
    assert_eq!(score(""), Err(Unregistered::Malformed));
    assert_eq!(score("a b.com"), Err(Unregistered::Malformed));
    assert_eq!(score("co.uk"), Err(Unregistered::Suffix));
}

#[test]
fn any_bytes_have_a_score_from_0_to_1_and_long_labels_are_cut() {
    for byte in 0..=255_u8 {
        for len in [0, 1, 4, 63, 64, 300] {
            let label = vec![byte; len];
            let model = Model::read(include_bytes!("model.bin")).unwrap();
            assert!((0.0..=1.0).contains(&model.score(&label)), "{byte} {len}");
        }
    }
}

#[test]
fn a_file_of_another_layout_is_refused() {
    let bytes = include_bytes!("model.bin").to_vec();
    assert_eq!(bytes.len(), MODEL_BYTES);
    assert!(Model::read(&bytes[1..]).is_none());
    let mut other = bytes.clone();
    other[7] = b'9';
    assert!(Model::read(&other).is_none());
    let at = MODEL_BYTES - 4;
    let mut not_a_number = bytes;
    not_a_number[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(Model::read(&not_a_number).is_none());
}
