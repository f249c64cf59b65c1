//! Data in DNS names: a host that carries something out, or keeps a tunnel, in the names that it asks for.
//!
//! # What it finds
//! Information that goes into distinct names under one registered domain: bytes within 10 seconds, ten minutes, an hour and
//! a day at once, so a tunnel at full speed is told within seconds and a drip of a byte a second within the hour. No look
//! of a single name decides, no tool is known by its layout: hexadecimal, base 32, base 64, raw octets and words, in one
//! label or many, at any place of the name, of any record type, in any rhythm count by what they carry.
//!
//! # Why it matters
//! Names pass where nothing else does: every network resolves them, through its own resolver, for whoever registered the
//! domain (T1048.003, T1071.004).
//!
//! # Rows and key
//! Look-ups of any type by the host; per host and registered domain, by the public suffix list with its private section.
//! Names under no top-level domain at all are taken together, because some tools send straight to their server. Left out:
//! the domain itself, names under `arpa` and local zones, multicast names, our own probes, names that content networks and
//! clouds hand out under their own domains (nobody else can answer there), and `services`. An address at the begin of a name
//! (four octets, 32 nibbles: block lists, policies of mail) is taken away, and the name is what stands behind it: a list's
//! own labels are known after the first look-up and carry nothing.
//!
//! A name that was not asked lately carries, for its new labels, what the frequencies of their letters leave open (four
//! bits a digit of hexadecimal, five a letter of base 32), a quarter of it where the name model takes them for words; for
//! a label that is known, the choice among those at its place, so a fixed label carries nothing and one of 32 five bits.
//! A name of a type that holds texts or names (TXT, NULL, CNAME, MX and the like) counts 16 bytes more, within ten seconds 56
//! (a tunnel that only waits for orders), and half of what its answer carries, by text or by size. Labels that machines ask for by design count less, each for itself: labels right in front of a service
//! (`_domainkey`, `_msdcs`; 48 letters together at most) a quarter; whole other names in front (block lists of domains, search
//! suffixes), when fewer than 20 letters stand in front of what was registered, and digests of files that are not known an
//! eighth. What the type adds counts as the lightest of them, behind an address nothing, unless 20 new letters of the
//! name count whole. Names answered with 127.x.x.x count a quarter.
//!
//! # State
//! Per host at most 1,024 domains at 72 bytes, and 64 that have five names or 64 bytes of information, each of 512 to 6,100
//! bytes: four sums, counts by place and minute, a ring of 1,024 hashes that makes a name count once; of a name it remembers 16
//! labels from the domain on, and what lies further in front as one. At most 500 KB a host;
//! in a made-up office with all that machines ask, a host takes 19 KB a day, one that crawls 15,000 domains 90 KB. At the
//! limit the domains asked for longest ago go. A domain not asked for a day is forgotten.
//!
//! # Thresholds
//! Each horizon has its own, and they grow with it: what a page with all its parts asks within seconds is not what a
//! machine asks in a day. A sum fades with its horizon. At least `min_names` new names within about a day. Beside that
//! probectl's rule: `min_queries` queries of `qname_bytes` within `window_s`, of which the share `unique_ratio` is new, unless
//! most of them are digests or stand behind an address, with fewer than 20 letters beside that count whole.
//! Confidence is the base and: how much a name carries (up to 14), the share of wide types (6), how short the horizon is
//! (10), how far above its threshold (8); probectl's rule gives 40 times the share. Below 85 a signal is high at most,
//! below 70 medium. A domain that a tenth of the tenant's hosts put long names into, three at least, loses 35 and is low.
//!
//! Measured with `tidewatch-bench dns --data DIR`; the thresholds were set after a look at the first seconds of both tunnels
//! and not changed by any run: dnscat2 is told 1.6 s and 1.3 kB of names after it begins, iodine after 1.5 s and 0.6 kB; of ten
//! parts of each, all at every rate down to a hundredth, at 10 and at 0.7 bytes of names a second within the hour (latest
//! 39 minutes), at a kilobyte an hour within the day (7.6 hours); names of four tools without types and answers, at those
//! three rates, all too (43 minutes, 8.7 hours). Of
//! 24 made-up layouts (encodings, chunks, places, rhythms, types; five seeds each) 23 at all three rates: 10 bytes a second
//! within 98 s, 0.7 within 34 minutes, a kilobyte an hour within 6.6 hours. The one that is missed writes 32 hexadecimal
//! digits into names that do not exist, as file reputation does. A dnscat2 that only polls once a second is told within ten
//! seconds. Ordinary look-ups: no domain in 118,623 of a crawl, none in 93,470 of a made-up office of 50 hosts (digests,
//! block lists, mail, shards), which together prove no better than 14 in a million. A look-up takes 0.6 us on one shared
//! core, in the office 2 us, a tunnel's own 6 us, the door included.
//!
//! # False positives
//! A look-up service that is not among `services` and whose digests have an unusual length; hosts that look up thousands
//! of addresses' names; resolvers that ask for many clients (watch the clients); leak tests of browsers.
//!
//! # Blind spots
//! Less than 150 bytes an hour; data spread over many registered domains; look-ups over an encrypted resolver outside; data
//! in the order or the time of ordinary look-ups; data in the address itself, four octets (or 32 nibbles) at the begin of a
//! name behind which nothing changes, as if a block list were asked. What looks like a label that counts less is found so
//! much later, 0.7 bytes a second after seven hours (a quarter: selectors of keys, a server that answers all with 127.x.x.x)
//! or 22 (an eighth: digests of files, fewer than 20 letters in front of another name).
//!
//! # ATT&CK
//! T1048.003 Exfiltration Over Unencrypted Non-C2 Protocol, T1071.004 DNS; with answers that carry something, so that it is a
//! channel in both directions, T1572 Protocol Tunneling and T1041 Exfiltration Over C2 Channel.
//!
//! # Sources
//! ibHH (NDSS 2024) for information in distinct names instead of verdicts on single ones; probectl's default rule for
//! `min_queries`, `qname_bytes`, `unique_ratio`.

mod information;
mod question;
mod state;
mod verdict;
mod weights;

use tidewatch_schemas::observation::{DnsRow, Kind};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use self::question::{Carrier, carrier, place};
use self::state::{Asked, PARTS};
pub use self::state::{HostState, Watched};
use crate::key::HostKey;
use crate::operator::{Context, Detector, Draft, Field, ListEntry, ListField, Observation, Operator, Seen, Threshold};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, Case};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.dns_exfil",
    rule_kind: "dns_exfil",
    title: "Data in DNS names",
    page: include_str!("dns_exfil.rs"),
    reads: &[Kind::Dns],
    attack: &["T1048.003", "T1071.004"],
    thresholds: &[
        Threshold {
            name: "bytes_10s",
            default: 384.0,
            min: 32.0,
            max: 1e9,
            meaning: "bytes of information within 10 s that are told; a page that asks for fifty parts under one domain has 150",
        },
        Threshold { name: "bytes_10m", default: 640.0, min: 32.0, max: 1e9, meaning: "the same within ten minutes" },
        Threshold {
            name: "bytes_1h",
            default: 768.0,
            min: 32.0,
            max: 1e9,
            meaning: "the same within an hour; 0.7 bytes a second are 1,600 there",
        },
        Threshold {
            name: "bytes_24h",
            default: 4096.0,
            min: 32.0,
            max: 1e9,
            meaning: "the same within a day; one kilobyte an hour are 15,000 there",
        },
        Threshold {
            name: "min_names",
            default: 6.0,
            min: 2.0,
            max: 1e6,
            meaning: "new names within about a day before their information counts",
        },
        Threshold {
            name: "min_queries",
            default: 30.0,
            min: 5.0,
            max: 1e6,
            meaning: "queries within window_s before their share of new names counts; probectl's",
        },
        Threshold {
            name: "qname_bytes",
            default: 4096.0,
            min: 64.0,
            max: 1e9,
            meaning: "octets of all names within window_s; probectl's",
        },
        Threshold {
            name: "unique_ratio",
            default: 0.9,
            min: 0.1,
            max: 1.0,
            meaning: "share of the queries within window_s that ask for new names; probectl's",
        },
        Threshold {
            name: "window_s",
            default: 600.0,
            min: 10.0,
            max: 86_400.0,
            meaning: "length of the window of queries, which slides by a tenth; information has horizons of its own",
        },
    ],
    lists: &[ListField {
        name: "services",
        default: SERVICES,
        entry: ListEntry::Text,
        meaning: "domains, with all below them, that are asked about digests, addresses or names by design",
    }],
    evidence: &[
        ("domain", Field::Text),
        ("queries", Field::Long),
        ("qname_bytes", Field::Long),
        ("unique_ratio", Field::Double),
        ("names_distinct", Field::Long),
        ("information_bytes", Field::Long),
        ("answer_bytes", Field::Long),
        ("horizon_s", Field::Long),
        ("horizon_bytes", Field::Long),
        ("span_s", Field::Double),
        ("types", Field::List),
        ("examples", Field::List),
    ],
    limits: &[&state::GLANCES, &state::WATCHED, &state::RECENT, &state::LABELS],
    build: |rule| Store::boxed(&DETECTOR, rule, DnsExfil::new),
    judge: verdict::judge,
};

/// Reputation, block lists, policies of mail, measurements and frames of advertisements that are made of names by design.
const SERVICES: &[&str] = &[
    "barracudacentral.org",
    "cymru.com",
    "dnswl.org",
    "e5.sk",
    "googlesyndication.com",
    "gstatic.com",
    "mailspike.net",
    "mcafee.com",
    "pphosted.com",
    "senderscore.com",
    "sophosxl.net",
    "spamcop.net",
    "spamhaus.org",
    "surbl.org",
    "trendmicro.com",
    "uribl.com",
    "vali.email",
];

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct DnsExfil {
    /// By horizon.
    bytes: [f64; 4],
    min_names: f64,
    min_queries: u32,
    qname_bytes: f64,
    unique_ratio: f64,
    /// Length of a part of the window.
    part_ns: i64,
    base_confidence: f64,
    /// Sorted.
    services: Vec<String>,
}

impl DnsExfil {
    /// For a rule whose thresholds are filled in.
    pub fn new(rule: &Rule) -> Self {
        let mut services: Vec<String> = rule.list("services").iter().map(|s| s.trim_matches('.').to_ascii_lowercase()).collect();
        services.sort();
        Self {
            bytes: ["bytes_10s", "bytes_10m", "bytes_1h", "bytes_24h"].map(|name| rule.threshold(name)),
            min_names: rule.threshold("min_names"),
            min_queries: rule.threshold("min_queries") as u32,
            qname_bytes: rule.threshold("qname_bytes"),
            unique_ratio: rule.threshold("unique_ratio"),
            part_ns: (rule.threshold("window_s") * SECOND_NS as f64) as i64 / PARTS as i64,
            base_confidence: f64::from(rule.base_confidence),
            services,
        }
    }

    /// Whether the name, or a domain above it, is one of the services.
    fn is_service(&self, name: &str) -> bool {
        let mut rest = name;
        loop {
            if self.services.binary_search_by(|s| s.as_str().cmp(rest)).is_ok() {
                return true;
            }
            match rest.split_once('.') {
                Some((_, above)) => rest = above,
                None => return false,
            }
        }
    }

    /// What a row carries, unless to a service.
    fn carries<'a>(&self, row: &DnsRow<'a>) -> Option<Carrier<'a>> {
        carrier(row).filter(|_| !self.is_service(row.query))
    }
}

impl Operator for DnsExfil {
    type State = HostState;

    fn concerns(&self, _: &HostKey, rows: &[Seen<'_>]) -> bool {
        rows.iter().any(|seen| matches!(&seen.what, Observation::Dns(row) if place(row).is_some() && !self.is_service(row.query)))
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let mut found: Vec<Draft> = Vec::new();
        for seen in rows {
            let Observation::Dns(row) = &seen.what else { continue };
            let Some(of) = self.carries(row) else { continue };
            let asked = Asked {
                of,
                name_bytes: row.query.len() as u32,
                name: row.query,
                query_type: row.query_type,
                part_ns: self.part_ns,
                at: seen.at,
                position: seen.position,
            };
            let Some(watched) = state.take(&asked) else { continue };
            if let Some(draft) = self.judge(watched, seen.at, ctx) {
                // One a domain and slice: the last says most, the first decided.
                match found.iter_mut().find(|d| d.subject == draft.subject) {
                    Some(before) => before.confidence = before.confidence.max(draft.confidence),
                    None => found.push(draft),
                }
            }
        }
        found.into_iter().for_each(|draft| ctx.emit(draft));
        self.rest(state, ctx);
    }

    fn wake(&self, at: EventTime, state: &mut HostState, ctx: &mut Context<'_>) {
        state.sweep(at);
        self.rest(state, ctx);
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        Some(verdict::cases(self, state, about))
    }
}

impl DnsExfil {
    /// Nothing kept: forget; else come back when all of it has outlived itself.
    fn rest(&self, state: &mut HostState, ctx: &mut Context<'_>) {
        state.sweep(ctx.slice.end);
        match state.newest() {
            None => ctx.forget(),
            Some(newest) => ctx.wake_at(newest.plus(state::LIFETIME_NS + 1)),
        }
    }
}

#[cfg(test)]
mod evasions;
#[cfg(test)]
mod tests;
