//! `dns`: how well data in DNS names is found, and what it costs: captures of real tunnels at their own rate and slowed down,
//! names of real tools, made-up layouts one axis at a time, and ordinary look-ups. Everything goes through the whole of
//! detection with the default rule.
//!
//! Not the way of the published figures of whole topologies: rows are made here, not decoded. What always holds: the same
//! data gives the same table, but for the times.

#![allow(clippy::print_stdout, reason = "a measurement tells its figures on the standard output")]

pub mod capture;
mod ordinary;
pub mod tunnels;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use tidewatch_operators::detection::{Detection, SliceOutput, SliceRow};
use tidewatch_operators::detectors;
use tidewatch_operators::key::{Host, HostKey};
use tidewatch_operators::operator::{Position, Slice};
use tidewatch_operators::rule::{DEFAULTS, Rule, RuleSet, Source};
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{DnsRow, Row};
use tidewatch_schemas::time::EventTime;

/// Measure how data in DNS names is found: recall, time, false alarms, cost.
#[derive(clap::Args)]
#[command(after_help = "Example:
  tidewatch-bench dns --data /data --seed 1")]
pub struct Args {
    /// Folder of the labelled data (dns-tunnel-pcap, dns-tunnel-names, flows-rita-scenarios); without it the made-up part
    /// alone.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Seed of what is made up.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Kind of rule.
    #[arg(long, default_value = "dns_exfil", value_parser = ["dns_exfil", "dns_dga"])]
    kind: String,
    /// Hosts of the made-up office, for a day.
    #[arg(long, default_value_t = 50)]
    hosts: u32,
}

/// Parts that a capture is cut into, each a tunnel of its own once it is slowed down.
pub const PARTS: usize = 10;
/// Seeds of each made-up layout.
const SEEDS: u64 = 5;
const SLICE_NS: i64 = 10_000_000_000;
/// 2026-06-04T12:00:00Z, where made-up tunnels begin.
pub const START_S: i64 = 1_780_574_400;

/// A look-up.
#[derive(Clone, Debug)]
pub struct Look {
    /// When the answer came, nanoseconds since 1970.
    pub at_ns: i64,
    /// Who asked.
    pub host: String,
    /// Name asked for.
    pub name: String,
    /// Type.
    pub kind: u16,
    /// Response code; `None` when no answer came.
    pub code: Option<u8>,
    /// Answers as a log writes them.
    pub answers: String,
    /// Octets of the question; 0 = not known.
    pub request_bytes: u32,
    /// Octets of the answer; 0 = not known.
    pub response_bytes: u32,
}

impl Look {
    /// Of the one host of a made-up tunnel, so long after its start.
    pub fn of(at_s: f64, name: String, kind: u16, code: u8) -> Self {
        let at_ns = START_S * 1_000_000_000 + (at_s * 1e9) as i64;
        let (host, answers) = ("10.0.0.9".to_owned(), String::new());
        Self { at_ns, host, name, kind, code: Some(code), answers, request_bytes: 0, response_bytes: 0 }
    }

    fn row(&self) -> DnsRow<'_> {
        let present = |n: u32| (n > 0).then_some(n);
        DnsRow {
            event_time: EventTime(self.at_ns),
            query: &self.name,
            query_type: self.kind,
            response_code: self.code,
            answers: Some(self.answers.as_str()).filter(|a| !a.is_empty()),
            request_bytes: present(self.request_bytes),
            response_bytes: present(self.response_bytes),
            server_port: Some(53),
            transport: 17,
            ..DnsRow::default()
        }
    }
}

/// What came of some look-ups.
struct Outcome {
    findings: Vec<Finding>,
    /// Most bytes of state of the task at the end of a slice, and keys then.
    bytes: u64,
    keys: u64,
    ns: f64,
}

fn detect(rules: &[Rule], looks: &[Look]) -> Outcome {
    let mut detection = Detection::new(rules);
    detection.input("dns", 0);
    let mut slices: BTreeMap<i64, BTreeMap<&str, Vec<SliceRow<'_>>>> = BTreeMap::new();
    for look in looks {
        let position = Position { input: 0, offset: 0, row: 0 };
        let row = SliceRow { at: EventTime(look.at_ns), row: Row::Dns(look.row()), position, primary: true, passes: u64::MAX };
        slices.entry(look.at_ns.div_euclid(SLICE_NS)).or_default().entry(&look.host).or_default().push(row);
    }
    let (mut out, mut bytes, mut keys, mut ns) = (SliceOutput::default(), 0, 0, 0.0);
    for (k, hosts) in slices {
        let start = EventTime(k * SLICE_NS);
        let slice = Slice { start, end: start.plus(SLICE_NS) };
        for (host, mut rows) in hosts {
            rows.sort_by(|a, b| a.order(b, &[]));
            let key = HostKey { tenant: "bench".into(), host: Host::Name(host.into()) };
            #[allow(clippy::disallowed_methods, reason = "a measurement of time")]
            let began = Instant::now();
            detection.host(&key, key.route(), slice, &rows, &mut out);
            ns += began.elapsed().as_nanos() as f64;
        }
        detection.end(slice, &|_| true, &mut out);
        if let Some(rule) = detection.stats().1.first()
            && rule.states.bytes > bytes
        {
            (bytes, keys) = (rule.states.bytes, rule.states.keys);
        }
    }
    Outcome { findings: out.findings, bytes, keys, ns: ns / looks.len().max(1) as f64 }
}

/// Recall of one kind of case.
#[derive(Default)]
struct Recall {
    cases: usize,
    /// Seconds, octets of names, distinct names until told.
    found: Vec<(f64, usize, usize)>,
    confidence: Vec<u8>,
}

impl Recall {
    /// Judges a tunnel under a domain; found later than `within_s` is not found.
    fn add(&mut self, rules: &[Rule], looks: &[Look], domain: &str, within_s: f64) {
        self.cases += 1;
        let outcome = detect(rules, looks);
        let Some(f) = outcome.findings.iter().find(|f| f.subject == domain || f.subject == "dga") else { return };
        let began = looks.first().map_or(0, |l| l.at_ns);
        let took_s = (f.decided_at.0 - began) as f64 / 1e9;
        if took_s > within_s {
            return;
        }
        let names: BTreeSet<&str> = looks.iter().filter(|l| l.at_ns <= f.decided_at.0).map(|l| l.name.as_str()).collect();
        self.found.push((took_s, names.iter().map(|n| n.len()).sum(), names.len()));
        self.confidence.push(f.confidence);
    }

    fn tell(&mut self, what: &str) {
        self.found.sort_by(|a, b| a.0.total_cmp(&b.0));
        let middle = self.found.get(self.found.len() / 2).copied().unwrap_or_default();
        let last = self.found.last().copied().unwrap_or_default();
        let (low, high) = self.confidence.iter().fold((100, 0), |(l, h), c| (l.min(*c), h.max(*c)));
        println!(
            "  {what:<44} {:>3} of {:>3}   median {:>7.1} s {:>6} B {:>4} names, latest {:>7.1} s; confidence {low}-{high}",
            self.found.len(),
            self.cases,
            middle.0,
            middle.1,
            middle.2,
            last.0,
        );
    }
}

/// Rates that tunnels are slowed down to: name, octets a second, how long they last at most and may take.
pub const RATES: [(&str, f64, f64); 3] =
    [("10 B/s", 10.0, 600.0), ("0.7 B/s", 0.7, 3_600.0), ("1 kB/h", 1_000.0 / 3_600.0, 86_400.0)];

/// Runs the command.
///
/// # Errors
/// Says what cannot be read.
pub fn run(args: &Args) -> Result<()> {
    let sources: Vec<Source> = DEFAULTS.iter().map(|d| Source { label: d.file.to_owned(), text: d.text.to_owned() }).collect();
    let mut rules = RuleSet::load(&sources, &[], detectors::ALL).map_err(|m| anyhow::anyhow!("{m}"))?.rules;
    rules.retain(|r| r.kind == args.kind);
    for rule in &rules {
        println!("{} version {}: {:?}", rule.id, rule.version, rule.thresholds);
    }
    if let Some(data) = &args.data {
        if args.kind == "dns_exfil" {
            captures(&rules, data)?;
            tools(&rules, data)?;
        }
        ordinary::captured(&rules, data)?;
    }
    if args.kind == "dns_exfil" {
        layouts(&rules, args.seed);
    }
    ordinary::office(&rules, args.seed, args.hosts);
    Ok(())
}

/// The tunnels of dns-tunnel-pcap, whole, and cut into parts at other rates.
fn captures(rules: &[Rule], data: &Path) -> Result<()> {
    for (tool, half, file) in
        [("dnscat2", "tuning half", "dnscat2-cname_00001_20230903170247.pcap"), ("iodine", "judging half", "iodine-cname.pcap")]
    {
        let looks = capture::read(&data.join("dns-tunnel-pcap").join(file))?;
        let domain = looks.first().and_then(|l| tidewatch_operators::names::registered(&l.name).ok()).map_or("", |of| of.domain);
        let outcome = detect(rules, &looks);
        println!(
            "capture of {tool} ({half}), {} queries, {} bytes of state, {:.0} ns a query",
            looks.len(),
            outcome.bytes,
            outcome.ns
        );
        let mut native = Recall::default();
        native.add(rules, &looks, domain, 1e9);
        native.tell("native rate");
        let parts: Vec<&[Look]> = looks.chunks(looks.len().div_ceil(PARTS)).collect();
        for by in [1, 2, 10, 100] {
            let mut recall = Recall::default();
            for part in &parts {
                recall.add(rules, &slowed(part, |gap_ns| gap_ns * by), domain, 1e9);
            }
            recall.tell(&format!("parts at 1/{by} of it"));
        }
        for (name, bytes_s, within_s) in RATES {
            let mut recall = Recall::default();
            for part in &parts {
                recall.add(rules, &at_rate(part, bytes_s, within_s), domain, within_s);
            }
            recall.tell(&format!("parts at {name} of names"));
        }
    }
    Ok(())
}

/// The names of dns-tunnel-names by tool, of no type and without answers, under one domain.
pub fn tool_names(data: &Path) -> Result<BTreeMap<String, Vec<Look>>> {
    let path = data.join("dns-tunnel-names/dev.csv.gz");
    let mut text = String::new();
    let file = std::fs::File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
    flate2::read::MultiGzDecoder::new(file)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let mut by: BTreeMap<String, Vec<Look>> = BTreeMap::new();
    for line in text.lines().skip(1) {
        let mut fields = line.rsplitn(3, ',');
        let (Some("tunneling"), Some(tool), Some(name)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let name = format!("{}.carrier.example", name.to_lowercase());
        by.entry(tool.to_owned()).or_default().push(Look { code: None, ..Look::of(0.0, name, 0, 0) });
    }
    Ok(by)
}

fn tools(rules: &[Rule], data: &Path) -> Result<()> {
    let by = tool_names(data)?;
    println!("names of tools, no types, no answers");
    for (tool, looks) in by {
        for (name, bytes_s, within_s) in RATES {
            let mut recall = Recall::default();
            for part in looks.chunks(looks.len().div_ceil(PARTS)) {
                recall.add(rules, &at_rate(part, bytes_s, within_s), "carrier.example", within_s);
            }
            recall.tell(&format!("{tool} at {name} of names"));
        }
    }
    Ok(())
}

/// Made-up layouts.
fn layouts(rules: &[Rule], seed: u64) {
    for (rate, bytes_s, within_s) in RATES {
        println!("made-up tunnels at {rate} of payload, told within {within_s} s");
        let mut all = Recall::default();
        for (axis, value, layout) in tunnels::axes() {
            let mut recall = Recall::default();
            for n in 0..SEEDS {
                let looks = layout.looks(seed * 1000 + n, "carrier.example", bytes_s, within_s);
                recall.add(rules, &looks, "carrier.example", within_s);
            }
            all.cases += recall.cases;
            all.found.extend(&recall.found);
            all.confidence.extend(&recall.confidence);
            recall.tell(&format!("{axis} {value}"));
        }
        all.tell("all of them");
    }
}

/// The same look-ups with other gaps between them.
pub fn slowed(looks: &[Look], gap: impl Fn(i64) -> i64) -> Vec<Look> {
    let (mut before, mut at_ns) = (looks.first().map_or(0, |l| l.at_ns), START_S * 1_000_000_000);
    looks
        .iter()
        .map(|look| {
            at_ns += gap(look.at_ns - before);
            before = look.at_ns;
            Look { at_ns, ..look.clone() }
        })
        .collect()
}

/// The same look-ups, each when so many octets of names in front of the domain have gone by; for so long.
pub fn at_rate(looks: &[Look], bytes_s: f64, lasts_s: f64) -> Vec<Look> {
    let mut at_s = 0.0;
    let mut out = Vec::new();
    for look in looks {
        if at_s > lasts_s {
            break;
        }
        out.push(Look { at_ns: (START_S * 1_000_000_000) + (at_s * 1e9) as i64, ..look.clone() });
        let domain = tidewatch_operators::names::registered(&look.name).map_or(15, |of| of.domain.len());
        at_s += (look.name.len().saturating_sub(domain)).max(1) as f64 / bytes_s;
    }
    out
}
