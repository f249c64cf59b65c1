//! Generated domain names: a host that looks for its command server among names that a machine made up.
//!
//! # What it finds
//! A host that asks for registered domains that do not exist and look generated; a burst of failing domains, whatever they
//! look like (word lists); and a host most of whose names look generated, whether they exist or not. Evidence comes
//! together over a day, so a generator that asks once an hour is found as well as one that asks twice a second.
//!
//! # Why it matters
//! An implant that tries today's hundred names until one answers needs no fixed address that could be blocked (T1568.002).
//! The names that fail are the noise it cannot avoid, and the one that answers is the server to look at.
//!
//! # Rows and key
//! Look-ups of A, AAAA, HTTPS or unknown type by the host. The registered domain is what counts, by the public suffix list
//! with its private section; each counts once, however often it is retried, and only when it is new to the host. Left out:
//! single labels (browsers' probes), names under no public suffix (`lan`, `corp`), reverse look-ups, services by SRV,
//! multicast names, names that content networks and clouds hand out, our own probes; domains whose MX was asked for before,
//! and on a host that serves mail (MX of five domains) those whose TXT, NS or SOA was. More than one label in front of the
//! registered domain says that somebody knows its structure (anti-virus look-ups, filtered advertisements' hosts), an
//! address (block lists) or a service (`_tcp`) that somebody has it from a list: such a name counts half, and only when it
//! fails and looks generated.
//!
//! # State
//! Per host at most 1,024 registered domains at 24 bytes and 512 names of the window at 32 bytes, with the tree's slack
//! 53 KB; 32 labels of the last ten seconds at 32 bytes; 12 names of at most 253 bytes. A host with a hundred domains a day
//! takes 5 KB. At the limit the domains asked for longest ago go, and count as new when they come again. A domain not asked
//! for eight days is forgotten.
//!
//! # Thresholds
//! Each new failing domain weighs 0.6 of the log-odds that the name model gives it, between -1 and 2.4; a resolver's
//! failure or a filter's 0.0.0.0 half of that; a generated-looking one that exists a quarter; an ordinary one that exists
//! takes 0.02 away, and 0.1 from the hundredth new one within the window on, because who goes through a list of names
//! meets some that are strange and gone. It is told at `evidence`, from
//! `min_failed` generated-looking domains on. Independently: `burst` new failing domains within `window_s`, asked for
//! themselves or with `www`, not fewer than twice those that exist, of `burst_label_bytes` on average or of a mean
//! score of 0.25; and probectl's rule: of at least
//! `min_names` names within `window_s` the share `ratio` looks generated. A first label looks generated when the model
//! says so, its characters spread (`entropy`, for short labels 0.85 of what their length allows), it is no digest
//! (hexadecimal) and such labels differ in length. A browser's start does not count: labels of letters that do not exist
//! and were asked for alone as well within ten seconds, by any name service, or that came as three within a second and no
//! others within five (a search suffix was put behind the three names by which a browser tries the network).
//! Confidence is the base, 20 at the threshold, up to 45 at twice the
//! evidence; the share of generated names gives up to 40; a burst of ordinary-looking names 10.
//!
//! The name model has 1,858,984 bytes and takes 1.6 us of a core for a name, suffix list included. Its scores are
//! probabilities where as many names are generated as not, so 0.5 is the balanced point and `score` asks for more.
//! Trained on one source and tested on another (bench/reports/quality.md, by `tidewatch-bench quality`), it ranks at an area
//! of 0.982, without word lists 0.986; it finds 0.507 of the names at a false rate of 0.001 and 0.746 at 0.01 (without word
//! lists 0.678 and 0.833), and is right 0.932 of the time at 0.5; at `score` 0.8 look 0.022 of the names of services
//! generated. By `tidewatch-bench train-names --on half --folds 0`, at 0.8 it finds 0.78 at a false rate of 0.014 among
//! less popular sites; of families left out altogether, judged by a third list's names, it finds 0.41 at 0.001 and 0.80
//! at 0.01; of word lists nothing and 0.26: two words are as often somebody's name, the more there are the likelier a
//! machine's. In front of a registered domain words are a service's, so there a label looks generated only when it does
//! so by chance.
//!
//! # False positives
//! Scanners of lists of domains, mail gateways that look senders up by A alone, software whose many servers have random
//! names and are gone. Resolvers that forward for others: their clients are the hosts to watch.
//!
//! # Blind spots
//! Names that exist when they are asked for and come one by one; look-ups over an encrypted resolver outside; generators
//! of two or three names a day that look like words; names under a content network's own domain; names of words with two
//! labels or an address in front; a host that asks for the MX of every name first.
//!
//! # ATT&CK
//! T1568.002 Domain Generation Algorithms, T1071.004 DNS.
//!
//! # Sources
//! FANCI and Woodbridge et al. for models of single names; the count of distinct failing domains instead of queries is an
//! answer to Slips' alerts; probectl's default rule for `min_names`, `entropy`, `ratio`, `window_s`.

mod question;
mod start;
mod state;
mod verdict;

use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use xxhash_rust::xxh3::xxh3_64;

use self::question::{Answer, Question, Sort, sort};
pub use self::state::HostState;
use self::state::{Acquaintance, Asked};
use crate::key::HostKey;
use crate::names::{score_by_chance, score_label};
use crate::operator::{Context, Detector, Draft, Field, Observation, Operator, Position, Seen, Threshold};
use crate::rule::Rule;
use crate::runtime::Store;
use crate::why::{About, Case};

/// The detector.
pub static DETECTOR: Detector = Detector {
    kind: "ndr.dns_dga",
    rule_kind: "dns_dga",
    title: "Generated domain names",
    page: include_str!("dns_dga.rs"),
    reads: &[Kind::Dns],
    attack: &["T1568.002", "T1071.004"],
    thresholds: &[
        Threshold {
            name: "evidence",
            default: 9.0,
            min: 2.0,
            max: 1000.0,
            meaning: "natural logarithm of the odds that must come together; 9 is four names beyond doubt, or ten that are likely",
        },
        Threshold {
            name: "min_failed",
            default: 5.0,
            min: 2.0,
            max: 512.0,
            meaning: "distinct failing registered domains that look generated, at least; four strange names are a bad day",
        },
        Threshold {
            name: "score",
            default: 0.8,
            min: 0.5,
            max: 0.999,
            meaning: "score of the name model from which a label looks generated",
        },
        Threshold {
            name: "burst",
            default: 10.0,
            min: 5.0,
            max: 512.0,
            meaning: "new failing registered domains within window_s that are told whatever they look like (word lists)",
        },
        Threshold {
            name: "burst_label_bytes",
            default: 10.0,
            min: 1.0,
            max: 63.0,
            meaning: "length that the labels of such a burst have on average, unless their mean score is 0.25; typing errors and initials are shorter",
        },
        Threshold {
            name: "min_names",
            default: 20.0,
            min: 5.0,
            max: 512.0,
            meaning: "distinct names within window_s before their share counts; probectl's",
        },
        Threshold {
            name: "entropy",
            default: 3.8,
            min: 0.0,
            max: 6.0,
            meaning: "bits per character of a generated first label, less for short ones; probectl's",
        },
        Threshold {
            name: "ratio",
            default: 0.5,
            min: 0.05,
            max: 1.0,
            meaning: "share of the names within window_s that look generated; probectl's",
        },
        Threshold {
            name: "window_s",
            default: 600.0,
            min: 10.0,
            max: 86_400.0,
            meaning: "length of the sliding window of names; evidence outlives it",
        },
    ],
    lists: &[],
    evidence: &[
        ("names_distinct", Field::Long),
        ("generated_ratio", Field::Double),
        ("example", Field::Text),
        ("examples", Field::List),
        ("found", Field::List),
        ("suffixes", Field::List),
        ("failed_domains", Field::Long),
        ("generated_domains", Field::Long),
        ("burst_domains", Field::Long),
        ("weight", Field::Double),
        ("span_s", Field::Double),
    ],
    limits: &[&state::DOMAINS, &state::WINDOW_NAMES, &start::RECENT_LABELS],
    build: |rule| Store::boxed(&DETECTOR, rule, DnsDga::new),
    judge: |finding, _| Some(finding),
};

/// Share of the log-odds that a failing name counts: what fails on ordinary hosts is stranger than what is popular.
const TRUST: f64 = 0.6;

/// Most and least that one name weighs.
const WEIGHT_MAX: f64 = 2.4;
const WEIGHT_MIN: f64 = -1.0;

/// How directly a generated-looking domain that fails was asked for at least, whatever stands in front of it.
const STRANGE_DIRECTNESS: f64 = 0.5;

/// What an ordinary new domain that exists takes away.
const FOUND_WEIGHT: f64 = -0.02;

/// New domains that exist within the window from which on a host goes through a list: no person opens so many. Among
/// thousands of names some are strange and some are gone, so each that exists takes away more, however it looks.
const LIST_FOUND_MIN: u32 = 100;
const LIST_FOUND_WEIGHT: f64 = -0.1;

/// First labels shorter than this are not judged; probectl's.
const FIRST_LABEL_BYTES_MIN: usize = 10;

/// The operator of one rule.
#[derive(Clone, Debug)]
pub struct DnsDga {
    evidence: f64,
    min_failed: u32,
    score: f64,
    burst: u32,
    burst_label_bytes: f64,
    min_names: u32,
    entropy: f64,
    ratio: f64,
    window_ns: i64,
    base_confidence: f64,
}

impl DnsDga {
    /// For a rule whose thresholds are filled in.
    pub fn new(rule: &Rule) -> Self {
        let whole = |name: &str| rule.threshold(name) as u32;
        Self {
            evidence: rule.threshold("evidence"),
            min_failed: whole("min_failed"),
            score: rule.threshold("score"),
            burst: whole("burst"),
            burst_label_bytes: rule.threshold("burst_label_bytes"),
            min_names: whole("min_names"),
            entropy: rule.threshold("entropy"),
            ratio: rule.threshold("ratio"),
            window_ns: (rule.threshold("window_s") * SECOND_NS as f64) as i64,
            base_confidence: f64::from(rule.base_confidence),
        }
    }

    /// A look-up that counts; a draft when it decides.
    fn take(
        &self,
        asked: &Question<'_>,
        at: EventTime,
        position: Position,
        state: &mut HostState,
        ctx: &Context<'_>,
    ) -> Option<Draft> {
        state.advance(at, at.minus(self.window_ns));
        // Before it is met: nobody makes a domain known by asking a block list about it.
        if asked.aside && !self.stands_out(asked) {
            return None;
        }
        let new = match state.meet(xxh3_64(asked.of.domain.as_bytes()), false, at) {
            Acquaintance::New => true,
            Acquaintance::Known => false,
            Acquaintance::OtherBusiness => return None,
        };
        let name = xxh3_64(asked.counted.as_bytes());
        if !new && state.asked_lately(name) {
            return None;
        }
        let score = f64::from(score_label(asked.of.label));
        let strange = score >= self.score;
        // Whatever stands in front: nobody needs to know the structure of a domain that does not exist.
        let directness =
            if strange && asked.answer.fails() { asked.directness.max(STRANGE_DIRECTNESS) } else { asked.directness };
        let looks = strange && directness > 0.0;
        let plain = !looks && asked.answer != Answer::Found && start::is_plain(asked.of.front);
        if plain && state.front(xxh3_64(asked.of.front.as_bytes()), name, at) {
            return None;
        }
        let first = self.first_label(asked);
        if new {
            let goes_through_a_list = state.counts.found >= LIST_FOUND_MIN;
            state.weigh(weight(score, asked, goes_through_a_list) * directness, at);
            let episode = &mut state.episode;
            match asked.answer {
                Answer::NoName | Answer::Refused => {
                    episode.failed = episode.failed.saturating_add(u32::from(directness > 0.0));
                    episode.generated = episode.generated.saturating_add(u32::from(looks));
                }
                Answer::Found if looks => episode.found = episode.found.saturating_add(1),
                _ => {}
            }
        }
        state.ask(Asked {
            at,
            name,
            generated: looks || first,
            first_bytes: if first && !looks { asked.of.front.len() as u8 } else { 0 },
            failed: asked.answer == Answer::NoName,
            new_apex: new && asked.directness >= 1.0,
            new_found: new && asked.answer == Answer::Found,
            label_bytes: asked.of.label.len() as u8,
            score_percent: (score * 100.0) as u8,
        });
        let burst = self.is_burst(state);
        if looks || first || (burst && asked.answer == Answer::NoName) {
            let found = looks && asked.answer == Answer::Found;
            state.tell(asked.name, asked.of.suffix, found, at, position);
        }
        self.judge(state, burst, at, ctx)
    }

    /// Whether a name with an address or a service in front counts all the same: it looks generated and fails, or what
    /// stands behind the address looks generated.
    fn stands_out(&self, asked: &Question<'_>) -> bool {
        (asked.answer.fails() && f64::from(score_label(asked.of.label)) >= self.score) || self.first_label(asked)
    }

    /// Whether the first label, right in front of a registered domain, looks generated.
    fn first_label(&self, asked: &Question<'_>) -> bool {
        let label = asked.of.front;
        label.len() >= FIRST_LABEL_BYTES_MIN
            && !label.contains(['.', '-', '_'])
            // A digest: hash look-ups, devices' ids.
            && !label.bytes().all(|b| b.is_ascii_hexdigit())
            && entropy(label) >= self.entropy.min(0.85 * libm::log2(label.len() as f64))
            // Words in front of a domain are a service's.
            && f64::from(score_by_chance(label)) >= self.score
    }
}

/// What a new domain weighs.
fn weight(score: f64, asked: &Question<'_>, goes_through_a_list: bool) -> f64 {
    let odds = (TRUST * libm::log(score / (1.0 - score).max(1e-6))).clamp(WEIGHT_MIN, WEIGHT_MAX);
    match asked.answer {
        Answer::NoName => odds,
        Answer::Refused => odds / 2.0,
        Answer::Found if goes_through_a_list => LIST_FOUND_WEIGHT,
        Answer::Found if odds > 0.0 => odds / 4.0,
        Answer::Found => FOUND_WEIGHT,
        Answer::Unknown => 0.0,
    }
}

/// Bits per character.
fn entropy(label: &str) -> f64 {
    let mut counts = [0_u32; 128];
    for byte in label.bytes() {
        counts[usize::from(byte & 127)] += 1;
    }
    let len = label.len() as f64;
    counts.iter().filter(|c| **c > 0).map(|c| f64::from(*c) / len).map(|p| -p * libm::log2(p)).sum()
}

impl Operator for DnsDga {
    type State = HostState;

    fn concerns(&self, _: &HostKey, rows: &[Seen<'_>]) -> bool {
        rows.iter().any(|seen| matches!(&seen.what, Observation::Dns(row) if sort(row) != Sort::Nothing))
    }

    fn rows(&self, rows: &[Seen<'_>], state: &mut HostState, ctx: &mut Context<'_>) {
        let mut found: Option<Draft> = None;
        for seen in rows {
            let Observation::Dns(row) = &seen.what else { continue };
            match sort(row) {
                Sort::Counts(asked) => {
                    if let Some(draft) = self.take(&asked, seen.at, seen.position, state, ctx) {
                        found = Some(draft);
                    }
                }
                Sort::Mail(of) => {
                    state.meet(xxh3_64(of.domain.as_bytes()), true, seen.at);
                }
                Sort::Policy(of) if state.serves_mail() => {
                    state.meet(xxh3_64(of.domain.as_bytes()), true, seen.at);
                }
                Sort::Alone(label) => {
                    state.advance(seen.at, seen.at.minus(self.window_ns));
                    state.alone(xxh3_64(label.as_bytes()), seen.at);
                }
                Sort::Policy(_) | Sort::Nothing => {}
            }
        }
        if let Some(draft) = found {
            ctx.emit(draft);
        }
        self.rest(state, ctx);
    }

    fn wake(&self, at: EventTime, state: &mut HostState, ctx: &mut Context<'_>) {
        state.advance(at, at.minus(self.window_ns));
        self.rest(state, ctx);
    }

    fn conditions(&self, state: &HostState, about: &About<'_>) -> Option<Vec<Case>> {
        Some(self.cases(state, about.at))
    }
}

impl DnsDga {
    /// Nothing kept: forget; names in the window: let go of them when it has passed.
    fn rest(&self, state: &HostState, ctx: &mut Context<'_>) {
        if state.is_empty() {
            ctx.forget();
        } else if let Some(newest) = state.newest() {
            ctx.wake_at(newest.plus(self.window_ns));
        }
    }
}

#[cfg(test)]
mod evasions;
#[cfg(test)]
mod tests;
