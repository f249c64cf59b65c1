//! A laboratory for the beaconing detector: synthetic beacons and controls on a grid, and, given folders of Zeek logs,
//! false pairs per host-day and the rank of a known beacon shifted into them. Prints tables; decides nothing.
//!
//! `cargo run -p tidewatch-operators --example beacon_lab -- grid`
//! `cargo run -p tidewatch-operators --example beacon_lab -- day FOLDER HOST [--with FOLDER HOST]`
//! `cargo run -p tidewatch-operators --example beacon_lab -- replay FOLDER HOST`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

mod synthetic;
mod zeek;

use std::collections::BTreeMap;

use tidewatch_operators::beaconing::{Beaconing, DETECTOR, HostState};
use tidewatch_operators::key::{Host, HostKey};
use tidewatch_operators::operator::{Flow, Initiator, Observation, Peer, Position, Seen, Slice};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{FlowRow, HttpRow, Row, TlsRow};
use tidewatch_schemas::signal::{Severity, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

const SLICE_NS: i64 = 10 * SECOND_NS;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("day") => day(&args[1..]),
        Some("replay") => replay(&args[1..]),
        _ => {
            if args.is_empty() || args[0] == "grid" {
                synthetic::grid();
            }
            synthetic::situations();
            synthetic::controls();
        }
    }
}

fn rule() -> Rule {
    Rule {
        id: "lab".into(),
        version: 1,
        kind: "beaconing".into(),
        name: String::new(),
        description: String::new(),
        severity: Severity::Medium,
        base_confidence: 40,
        suppress_ns: 3600 * SECOND_NS,
        enabled: true,
        thresholds: DETECTOR.thresholds.iter().map(|t| (t.name.to_owned(), t.default)).collect(),
        lists: DETECTOR
            .lists
            .iter()
            .filter(|l| l.name != "quiet_names" || std::env::var("LAB_NO_LIST").is_err())
            .map(|l| (l.name.to_owned(), l.default.iter().map(|s| (*s).to_owned()).collect()))
            .collect(),
        ..Rule::default()
    }
}

/// A record of any kind, owned.
#[derive(Clone, Debug)]
enum Record {
    Flow { start: f64, at: f64, peer: Address, port: u16, transport: u8, bytes: u64, state: String, flags: u8 },
    Tls { at: f64, peer: Address, port: u16, name: String },
    Http { at: f64, peer: Address, port: u16, name: String, name_port: Option<u16>, proxy: bool },
}

impl Record {
    fn at(&self) -> f64 {
        match self {
            Self::Flow { at, .. } | Self::Tls { at, .. } | Self::Http { at, .. } => *at,
        }
    }

    fn shifted(&self, by: f64) -> Self {
        let mut out = self.clone();
        match &mut out {
            Self::Flow { start, at, .. } => {
                *start += by;
                *at += by;
            }
            Self::Tls { at, .. } | Self::Http { at, .. } => *at += by,
        }
        out
    }

    /// As observed.
    fn row(&self) -> Row<'_> {
        match self {
            Self::Flow { transport, state, flags, .. } => Row::Flow(FlowRow {
                transport: *transport,
                tcp_flags: (*flags != 0).then_some(*flags),
                connection_state: Some(state.as_str()),
                sampling_rate: 1,
                ..FlowRow::default()
            }),
            Self::Tls { at, peer, port, name } => Row::Tls(TlsRow {
                start_time: Some(time(*at)),
                destination_address: Some(*peer),
                destination_port: Some(*port),
                server_name: Some(name),
                ..TlsRow::default()
            }),
            Self::Http { at, peer, port, name, name_port, proxy } => Row::Http(HttpRow {
                start_time: Some(time(*at)),
                destination_address: Some(*peer),
                destination_port: Some(*port),
                host: Some(name),
                host_port: *name_port,
                via_proxy: *proxy,
                ..HttpRow::default()
            }),
        }
    }

    /// As the detector gets it, with its row.
    fn seen<'a>(&'a self, row: &'a Row<'a>) -> Option<Seen<'a>> {
        let what = match (self, row) {
            (Self::Flow { start, peer, port, bytes, state, .. }, Row::Flow(row)) => Observation::Flow(Flow {
                row,
                opens: true,
                initiator: Initiator::Host,
                peer: Peer { address: Some(*peer), name: None, class: 0 },
                host_port: None,
                peer_port: Some(*port),
                start: time(*start),
                bytes_out: Some(*bytes),
                bytes_in: None,
                failed: matches!(state.as_str(), "S0" | "REJ" | "RSTOS0" | "SH"),
            }),
            (_, Row::Tls(row)) => Observation::Tls(row),
            (_, Row::Http(row)) => Observation::Http(row),
            _ => return None,
        };
        Some(Seen { what, at: time(self.at()), position: Position { input: 0, offset: 0, row: 0 } })
    }
}

fn time(seconds: f64) -> EventTime {
    EventTime((seconds * 1e9) as i64)
}

fn run(mut records: Vec<Record>) -> Vec<Finding> {
    records.sort_by(|a, b| a.at().total_cmp(&b.at()));
    let rule = rule();
    let detector = Beaconing::new(&rule);
    let key = HostKey { tenant: "t1".into(), host: Host::Address(Address::v4([10, 0, 0, 5])) };
    let mut state = HostState::default();
    let mut out = Vec::new();
    let mut from = 0;
    while from < records.len() {
        let start = ((records[from].at() * 1e9) as i64).div_euclid(SLICE_NS) * SLICE_NS;
        let slice = Slice { start: EventTime(start), end: EventTime(start + SLICE_NS) };
        let mut to = from;
        while to < records.len() && ((records[to].at() * 1e9) as i64) < slice.end.0 {
            to += 1;
        }
        let observed: Vec<Row<'_>> = records[from..to].iter().map(Record::row).collect();
        let rows: Vec<Seen<'_>> = records[from..to].iter().zip(&observed).filter_map(|(record, row)| record.seen(row)).collect();
        out.extend(detector.slice(&rule, &key, slice, &rows, &mut state));
        from = to;
    }
    out
}

fn first_alert(found: &[Finding]) -> Option<&Finding> {
    found.iter().find(|f| f.severity >= Severity::Medium)
}

/// The day fifty times over, each time with other hours, connections and names missing: false pairs per host-day.
fn replay(args: &[String]) {
    let records = zeek::load(&args[0], &args[1]);
    let mut subjects: BTreeMap<String, (u32, u8)> = BTreeMap::new();
    let runs = 50;
    for seed in 0..runs {
        let mut s = synthetic::Stream::new(seed + 77);
        let (lost, unnamed) = (0.3 * s.next(), 0.5 * s.next());
        let hours: Vec<bool> = (0..48).map(|_| s.next() < 0.15).collect();
        let kept: Vec<Record> = records
            .iter()
            .filter(|r| {
                let hour = (r.at() / 3600.0) as usize % 48;
                !hours[hour] && s.next() >= lost && (matches!(r, Record::Flow { .. }) || s.next() >= unnamed)
            })
            .cloned()
            .collect();
        let mut worst: BTreeMap<String, u8> = BTreeMap::new();
        for f in run(kept).iter().filter(|f| f.severity >= Severity::Medium) {
            let c = worst.entry(f.subject.clone()).or_default();
            *c = (*c).max(f.confidence);
        }
        for (subject, c) in worst {
            let e = subjects.entry(subject).or_default();
            *e = (e.0 + 1, e.1.max(c));
        }
    }
    let all: u32 = subjects.values().map(|e| e.0).sum();
    println!("{:.2} pairs per replayed day", f64::from(all) / runs as f64);
    for (subject, (n, c)) in subjects {
        println!("{n:>4} of {runs}, confidence up to {c}: {subject}");
    }
}

fn day(args: &[String]) {
    let mut records = zeek::load(&args[0], &args[1]);
    let from = records.iter().map(Record::at).fold(f64::INFINITY, f64::min);
    let to = records.iter().map(Record::at).fold(0.0, f64::max);
    println!("{} records, {:.1} h", records.len(), (to - from) / 3600.0);
    if let Some(i) = args.iter().position(|a| a == "--with") {
        let other = zeek::load(&args[i + 1], &args[i + 2]);
        let first = other.iter().map(Record::at).fold(f64::INFINITY, f64::min);
        records.extend(other.iter().map(|r| r.shifted(from - first)));
    }
    let started = std::time::Instant::now();
    let n = records.len();
    let found = run(records);
    println!("{:.2} us per record", started.elapsed().as_secs_f64() * 1e6 / n as f64);
    let mut by: BTreeMap<String, Vec<&Finding>> = BTreeMap::new();
    for f in &found {
        by.entry(f.subject.clone()).or_default().push(f);
    }
    let mut rows: Vec<_> = by.values().collect();
    rows.sort_by_key(|v| std::cmp::Reverse(v.iter().map(|f| f.confidence).max()));
    for v in rows {
        let f = v.iter().max_by_key(|f| f.confidence).unwrap();
        let first = v[0].decided_at.as_secs_f64() - from;
        let get = |k: &str| match f.evidence.get(k) {
            Some(Value::Double(d)) => format!("{d}"),
            Some(Value::Long(d)) => format!("{d}"),
            Some(Value::Text(d)) => d.clone(),
            _ => "-".into(),
        };
        println!(
            "{:>3} {:?} medium={} first +{:.1} h  {} T={} j={} n={} missed={} total={} open={} w={} size={} failed={} {} dst={:?}",
            f.confidence,
            f.severity,
            v.iter().filter(|f| f.severity >= Severity::Medium).count(),
            first / 3600.0,
            f.subject,
            get("interval_s"),
            get("jitter"),
            get("samples"),
            get("missed"),
            get("contacts"),
            get("open_s"),
            get("weight"),
            get("size_evenness"),
            get("failed_ratio"),
            get("ordinary"),
            f.destination.as_ref().and_then(|d| d.ip.clone())
        );
    }
}
