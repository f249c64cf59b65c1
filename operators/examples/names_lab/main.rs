//! A laboratory for the detector of generated names: infected hosts made of labelled names, and look-ups of real hosts, through
//! the whole of detection. Not a test and not shipped.
//!
//! `families DIR SOURCE`: of each family in DIR/dga-names that SOURCE lists, 20 hosts that ask for 60 failing names;
//! standard input otherwise: lines of time, host, name, type, response code and answers, tab-separated, sorted by time.
#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, Read as _};

use tidewatch_operators::detection::{Detection, SliceOutput, SliceRow};
use tidewatch_operators::detectors::ALL;
use tidewatch_operators::key::{Host, HostKey};
use tidewatch_operators::names::registered;
use tidewatch_operators::operator::{Position, Slice};
use tidewatch_operators::rule::{DEFAULTS, Rule, RuleSet, Source};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, Row};
use tidewatch_schemas::signal::Value;
use tidewatch_schemas::time::EventTime;

const HOSTS: usize = 20;
const NAMES: usize = 60;
const SLICE_NS: i64 = 10_000_000_000;

fn rule() -> Rule {
    let sources: Vec<Source> = DEFAULTS.iter().map(|d| Source { label: d.file.to_owned(), text: d.text.to_owned() }).collect();
    RuleSet::load(&sources, &[], ALL).unwrap().rules.into_iter().find(|r| r.kind == "dns_dga").unwrap()
}

struct Look {
    at: EventTime,
    host: String,
    name: String,
    kind: u16,
    code: Option<u8>,
    answers: String,
}

fn found(looks: &[Look]) -> (Vec<Finding>, u64) {
    let mut detection = Detection::new(&[rule()]);
    detection.input("dns", 0);
    let mut slices: BTreeMap<i64, BTreeMap<&str, Vec<SliceRow<'_>>>> = BTreeMap::new();
    for look in looks {
        let row = DnsRow {
            event_time: look.at,
            query: &look.name,
            query_type: look.kind,
            response_code: look.code,
            answers: Some(look.answers.as_str()).filter(|a| !a.is_empty()),
            server_port: Some(53),
            ..DnsRow::default()
        };
        let row = SliceRow {
            at: look.at,
            row: Row::Dns(row),
            position: Position { input: 0, offset: 0, row: 0 },
            primary: true,
            passes: u64::MAX,
        };
        slices.entry(look.at.0.div_euclid(SLICE_NS)).or_default().entry(&look.host).or_default().push(row);
    }
    let mut out = SliceOutput::default();
    let mut most = 0;
    for (k, hosts) in slices {
        let start = EventTime(k * SLICE_NS);
        let slice = Slice { start, end: start.plus(SLICE_NS) };
        for (host, mut rows) in hosts {
            rows.sort_by(|a, b| a.order(b, &[]));
            let key = HostKey { tenant: "lab".into(), host: Host::Name(host.into()) };
            detection.host(&key, key.route(), slice, &rows, &mut out);
        }
        detection.end(slice, &|_| true, &mut out);
        most = most.max(detection.stats().1[0].states.bytes);
    }
    (out.findings, most)
}

fn families(data: &str, source: &str) {
    let bytes = std::fs::read(format!("{data}/dga-names/dga.csv.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
    let mut by: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let f: Vec<&str> = line.split(',').collect();
        if f[3] == source || source == "any" {
            by.entry(f[0]).or_default().push(f[2]);
        }
    }
    for (family, mut names) in by {
        // A host's names in no order, the same every time.
        names.sort_by_key(|n| n.bytes().fold(7_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)));
        let (mut hosts, mut at, mut confidence) = (0, Vec::new(), 0);
        for host in 0..HOSTS {
            let mine: Vec<Look> = names
                .iter()
                .skip(host * NAMES % names.len())
                .take(NAMES)
                .enumerate()
                .map(|(i, n)| Look {
                    at: EventTime::from_secs(1_780_574_400 + 5 * i as i64),
                    host: "h".to_owned(),
                    name: (*n).to_owned(),
                    kind: 1,
                    code: Some(3),
                    answers: String::new(),
                })
                .collect();
            hosts += 1;
            if let Some(f) = found(&mine).0.first() {
                // Distinct registered domains asked for until then.
                let domains: BTreeSet<&str> = mine
                    .iter()
                    .filter(|l| l.at <= f.decided_at)
                    .filter_map(|l| registered(&l.name).ok().map(|r| r.domain))
                    .collect();
                at.push(domains.len());
                confidence += usize::from(f.confidence);
            }
        }
        at.sort_unstable();
        let (mid, most) = (at.get(at.len() / 2).copied().unwrap_or(0), at.last().copied().unwrap_or(0));
        println!(
            "{family}: {} of {hosts} hosts, failing domains at detection median {mid}, most {most}; mean confidence {}",
            at.len(),
            confidence / at.len().max(1)
        );
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, data, source] = &args[..]
        && mode == "families"
    {
        families(data, source);
        return;
    }
    let mut looks: Vec<Look> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let f: Vec<&str> = line.split('\t').collect();
        let Ok(at) = f[0].parse::<f64>() else { continue };
        looks.push(Look {
            at: EventTime((at * 1e9) as i64),
            host: f[1].to_owned(),
            name: f[2].trim_end_matches('.').to_ascii_lowercase(),
            kind: f[3].parse().unwrap_or(0),
            code: f[4].parse().ok(),
            answers: f.get(5).map_or(String::new(), |a| (*a).to_owned()),
        });
    }
    let hosts: BTreeSet<&str> = looks.iter().map(|l| l.host.as_str()).collect();
    let failing: BTreeSet<&str> =
        looks.iter().filter(|l| l.code == Some(3)).filter_map(|l| registered(&l.name).ok().map(|r| r.domain)).collect();
    let (findings, most) = found(&looks);
    println!(
        "{} look-ups, {} hosts, {} failing domains, {most} bytes of state, {} findings",
        looks.len(),
        hosts.len(),
        failing.len(),
        findings.len()
    );
    for f in &findings {
        println!("  {} {} {} {:?}", f.decided_at, f.confidence, f.why, f.evidence.get("examples").unwrap_or(&Value::Long(0)));
    }
}
