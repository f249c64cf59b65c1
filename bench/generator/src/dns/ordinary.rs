//! What machines ask in their ordinary work that looks like something else: names that fail, names made of digests,
//! numbers and ids. Each draw is one occasion, with all the look-ups it causes.

use tidewatch_schemas::address::Address;

use super::layout::text;
use crate::event::{Answer, QueryKind};
use crate::queue::Out;
use crate::random::mix;
use crate::world::{self, Server};

const HEX: &[u8] = b"0123456789abcdef";
const BASE32: &[u8] = b"abcdefghijklmnopqrstuvwxyz234567";
const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz";

/// Hosts of advertisements that a filter answers with nothing, by the number of their company.
const ADS: [&str; 24] = [
    "pagead.clickhub",
    "ib.adnex",
    "static.critero",
    "cdn.tabloola",
    "widgets.outbrand",
    "fastlane.rubikon",
    "sb.scorecards",
    "match.adsrver",
    "pixel.quantserv",
    "ads.pubmatter",
    "tlx.threelift",
    "dpm.demdax",
    "cm.everesttec",
    "sync.mathtags",
    "x.bidswitcher",
    "idsync.rlcd",
    "tags.bluekey",
    "ssum.casalemedias",
    "rtb.openxs",
    "sync.crwdcntr",
    "s.innovidd",
    "stats.dblclick",
    "c.adsystems",
    "trc.tabloola",
];

/// One occasion of a client host. Seconds until the next.
pub(crate) fn occasion(from: Address, index: u32, out: &mut Out<'_>, at_ns: i64) -> f64 {
    let own = mix(&[out.seed, 95, u64::from(out.tenant), u64::from(index)]);
    match out.random.unit() {
        p if p < 0.25 => advertisements(from, own, out, at_ns),
        p if p < 0.35 => probes(from, out, at_ns),
        p if p < 0.5 => suffixes(from, out, at_ns),
        p if p < 0.62 => reverse(from, out, at_ns),
        p if p < 0.75 => digests(from, out, at_ns),
        p if p < 0.9 => shards(from, out, at_ns),
        p if p < 0.96 => telemetry(from, own, out, at_ns),
        _ => typing(from, out, at_ns),
    }
    out.random.exponential(120.0)
}

/// A page's advertisements, filtered: half of the networks' filters say that the name does not exist.
fn advertisements(from: Address, own: u64, out: &mut Out<'_>, at_ns: i64) {
    for n in 0..1 + out.random.below(8) {
        let name = format!("{}.example", ADS[out.random.below(ADS.len() as u64) as usize]);
        let answer = if own & 1 == 0 { Answer::NoName } else { Answer::Address(Address::v4([0, 0, 0, 0])) };
        out.lookup(at_ns + n as i64 * 9_000_000, from, &name, QueryKind::A, answer);
    }
}

/// A browser starts: three names by chance, to see whether somebody answers for what does not exist.
fn probes(from: Address, out: &mut Out<'_>, at_ns: i64) {
    for n in 0..3 {
        let length = 7 + out.random.below(9) as usize;
        let name = text(&mut out.random, LETTERS, length);
        out.lookup(at_ns + n * 4_000_000, from, &name, QueryKind::A, Answer::NoName);
        out.lookup(at_ns + n * 4_000_000 + 2_000_000, from, &format!("{name}.corp.example"), QueryKind::A, Answer::NoName);
    }
}

/// The resolver's search list: the suffix first, then the name itself.
fn suffixes(from: Address, out: &mut Out<'_>, at_ns: i64) {
    let site = out.random.rank(world::SITES);
    let name = world::site_name(site);
    out.lookup(at_ns, from, &format!("{name}.corp.example"), QueryKind::A, Answer::NoName);
    let address = world::site_address(out.seed, site, &mut out.random);
    out.lookup(at_ns + 5_000_000, from, &name, QueryKind::A, Answer::Address(address));
}

/// Addresses back to names.
fn reverse(from: Address, out: &mut Out<'_>, at_ns: i64) {
    for n in 0..1 + out.random.below(6) {
        let (a, b) = (out.random.below(4), out.random.below(250));
        let name = format!("{b}.{a}.4.10.in-addr.arpa");
        out.lookup(at_ns + n as i64 * 20_000_000, from, &name, QueryKind::Ptr, Answer::NoName);
    }
}

/// The virus scanner asks about files: most are not known.
fn digests(from: Address, out: &mut Out<'_>, at_ns: i64) {
    for n in 0..1 + out.random.below(4) {
        let digest = text(&mut out.random, HEX, 32);
        let listed = out.random.chance(0.1);
        let answer = if listed { Answer::Address(Address::v4([127, 0, 0, 4])) } else { Answer::NoName };
        out.lookup(at_ns + n as i64 * 30_000_000, from, &format!("{digest}.files.guardsoft.example"), QueryKind::A, answer);
    }
}

/// Parts of a page and chunks of a film from a content network's many names.
fn shards(from: Address, out: &mut Out<'_>, at_ns: i64) {
    for n in 0..1 + out.random.below(10) {
        let hash = mix(&[out.seed, 96, out.random.rank(4_000)]);
        let name = match hash % 3 {
            0 => format!("d{:013x}.cloudfiles.example", hash >> 12),
            1 => format!("r{}---sn-{:x}.filmstream.example", hash % 20, hash >> 44 & 0xf_ffff),
            _ => format!("e{}.g{}.edgenet.example", hash >> 20 & 0x7fff, hash % 7),
        };
        let to = world::public(out.seed, hash % 500);
        out.lookup(at_ns + n as i64 * 11_000_000, from, &name, QueryKind::A, Answer::Address(to));
    }
}

/// A device reports under its own id.
fn telemetry(from: Address, own: u64, out: &mut Out<'_>, at_ns: i64) {
    let region = ["eu-west", "us-east", "ap-south"][out.random.below(3) as usize];
    let name = format!("{own:016x}-{:08x}.{region}.devices.deskware.example", own >> 32);
    let to = world::public(out.seed, 600);
    out.lookup(at_ns, from, &name, QueryKind::A, Answer::Address(to));
}

/// A name typed wrong, tried twice.
fn typing(from: Address, out: &mut Out<'_>, at_ns: i64) {
    let name = world::site_name(out.random.rank(world::SITES));
    let at = 4 + out.random.below(name.len() as u64 / 2) as usize;
    let typed = format!("{}{}", &name[..at], &name[at + 1..]);
    for n in 0..2 {
        out.lookup(at_ns + n * 3_000_000_000, from, &typed, QueryKind::A, Answer::NoName);
    }
}

/// The mail server takes a letter: block lists by address and by domain, the sender's policies. Seconds until the next.
pub(crate) fn letter(out: &mut Out<'_>, at_ns: i64) -> f64 {
    let from = world::server(out.office, Server::Mail);
    let [a, b, c] = [0, 1, 2].map(|_| out.random.below(256));
    let sender = world::site_name(out.random.rank(world::SITES));
    let sender = sender.trim_start_matches("www.").to_owned();
    let mut at_ns = at_ns;
    for list in ["zen.spamlist.example", "bl.mailguard.example"] {
        let listed = out.random.chance(0.3);
        let answer = if listed { Answer::Address(Address::v4([127, 0, 0, 2])) } else { Answer::NoName };
        at_ns += 3_000_000;
        out.lookup(at_ns, from, &format!("{a}.{b}.{c}.91.{list}"), QueryKind::A, answer);
    }
    out.lookup(at_ns, from, &format!("{sender}.uri.mailguard.example"), QueryKind::A, Answer::NoName);
    let policy = "v=spf1 include:_spf.postoffice.example ip4:198.51.100.0/24 -all".to_owned();
    out.lookup(at_ns + 2_000_000, from, &sender, QueryKind::Txt, Answer::Text(policy));
    let selector = format!("s{}", mix(&[out.seed, 97, sender.len() as u64]) % 4);
    let key = format!("v=DKIM1; k=rsa; p={}", text(&mut out.random, BASE32, 216));
    out.lookup(at_ns + 4_000_000, from, &format!("{selector}._domainkey.{sender}"), QueryKind::Txt, Answer::Text(key));
    let dmarc = "v=DMARC1; p=reject; rua=mailto:reports@postoffice.example".to_owned();
    out.lookup(at_ns + 6_000_000, from, &format!("_dmarc.{sender}"), QueryKind::Txt, Answer::Text(dmarc));
    out.random.exponential(25.0)
}
