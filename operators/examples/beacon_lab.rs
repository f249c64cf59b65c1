//! A laboratory for the beaconing detector: synthetic beacons and controls on a grid, and, given folders of Zeek logs,
//! false pairs per host-day and the rank of a known beacon shifted into them. Prints tables; decides nothing.
//!
//! `cargo run -p tidewatch-operators --example beacon_lab -- grid`
//! `cargo run -p tidewatch-operators --example beacon_lab -- day FOLDER HOST [--with FOLDER HOST]`
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types, missing_docs)]

use std::collections::BTreeMap;
use std::io::Read;

use tidewatch_operators::beaconing::{Beaconing, DETECTOR, HostState};
use tidewatch_operators::key::{Host, HostKey};
use tidewatch_operators::operator::{Flow, Initiator, Observation, Peer, Position, Seen, Slice};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::finding::Finding;
use tidewatch_schemas::observation::{FlowRow, HttpRow, TlsRow};
use tidewatch_schemas::signal::{Severity, Value};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

const SLICE_NS: i64 = 10 * SECOND_NS;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("day") => day(&args[1..]),
        _ => {
            if args.is_empty() || args[0] == "grid" {
                grid();
            }
            situations();
            controls();
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
        lists: DETECTOR.lists.iter().map(|l| (l.name.to_owned(), l.default.iter().map(|s| (*s).to_owned()).collect())).collect(),
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

    fn seen(&self) -> Seen<'_> {
        let time = |s: f64| EventTime((s * 1e9) as i64);
        let what = match self {
            Self::Flow { start, peer, port, transport, bytes, state, flags, .. } => Observation::Flow(Flow {
                row: FlowRow {
                    transport: *transport,
                    tcp_flags: (*flags != 0).then_some(*flags),
                    connection_state: Some(state.as_str()),
                    sampling_rate: 1,
                    ..FlowRow::default()
                },
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
            Self::Tls { at, peer, port, name } => Observation::Tls(TlsRow {
                start_time: Some(time(*at)),
                destination_address: Some(*peer),
                destination_port: Some(*port),
                server_name: Some(name),
                ..TlsRow::default()
            }),
            Self::Http { at, peer, port, name, name_port, proxy } => Observation::Http(HttpRow {
                start_time: Some(time(*at)),
                destination_address: Some(*peer),
                destination_port: Some(*port),
                host: Some(name),
                host_port: *name_port,
                via_proxy: *proxy,
                ..HttpRow::default()
            }),
        };
        Seen { what, at: time(self.at()), position: Position { input: 0, offset: 0, row: 0 } }
    }
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
        let rows: Vec<Seen<'_>> = records[from..to].iter().map(Record::seen).collect();
        out.extend(detector.slice(&rule, &key, slice, &rows, &mut state));
        from = to;
    }
    out
}

struct Stream(u64);

impl Stream {
    fn new(seed: u64) -> Self {
        let mut s = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..8 {
            s.next();
        }
        s
    }

    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }
}

fn contact(start: f64, bytes: u64) -> Record {
    Record::Flow {
        start,
        at: start + 0.2,
        peer: Address::v4([203, 0, 113, 66]),
        port: 443,
        transport: 6,
        bytes,
        state: "SF".into(),
        flags: 0x1b,
    }
}

fn first_alert(found: &[Finding]) -> Option<&Finding> {
    found.iter().find(|f| f.severity >= Severity::Medium)
}

fn beacon(seed: u64, period: f64, jitter: f64, symmetric: bool, lost: f64, contacts: usize) -> Vec<Record> {
    let mut s = Stream::new(seed);
    let mut t = 1_700_000_000.0 + 1000.0 * s.next();
    let mut out = Vec::new();
    while out.len() < contacts {
        let u = s.next();
        t += if symmetric { period * (1.0 + jitter * (2.0 * u - 1.0)) } else { period * (1.0 - jitter * u) };
        if s.next() >= lost {
            out.push(contact(t + 0.3 * s.next(), (500.0 * (0.8 + 0.4 * s.next())) as u64));
        }
    }
    out
}

fn grid() {
    const RUNS: u64 = 40;
    println!("period_s jitter shape  lost   recall@30 recall@60 median_contacts p90 confidence@end");
    for period in [10.0, 30.0, 60.0, 300.0, 3600.0, 14_400.0, 86_400.0] {
        for (jitter, symmetric) in
            [(0.0, false), (0.1, false), (0.2, false), (0.37, false), (0.5, false), (0.9, false), (0.5, true)]
        {
            for lost in [0.0, 0.2] {
                let mut needed: Vec<usize> = Vec::new();
                let mut confidence = 0;
                for seed in 0..RUNS {
                    let records = beacon(seed + 1, period, jitter, symmetric, lost, 60);
                    let found = run(records.clone());
                    if let Some(f) = first_alert(&found) {
                        let at = f.decided_at.as_secs_f64();
                        needed.push(records.iter().filter(|r| r.at() <= at + 1e-6).count());
                        confidence += u32::from(found.last().unwrap().confidence);
                    }
                }
                needed.sort_unstable();
                let within = |n: usize| needed.iter().filter(|c| **c <= n).count() as f64 / RUNS as f64;
                let q = |p: f64| needed.get(((needed.len() as f64 - 1.0) * p) as usize).copied().unwrap_or(0);
                println!(
                    "{period:>8} {jitter:>5} {} {lost:>5}   {:>8.2} {:>8.2} {:>8} {:>6} {:>6}",
                    if symmetric { "sym" } else { "one" },
                    within(30),
                    within(60),
                    q(0.5),
                    q(0.9),
                    confidence / (needed.len().max(1) as u32)
                );
            }
        }
    }
}

/// Situations of detection.md's list that are not on the grid.
fn situations() {
    println!("\nsituation                        runs  found  median contacts");
    situation("60 s jitter 50 %, 2 h", |s| (0..160).scan(1.7e9, |t, _| { *t += 60.0 * (1.0 - 0.5 * s.next()); Some(contact(*t, 500)) }).collect());
    situation("300 s jitter 20 %, 2 h", |s| (0..27).scan(1.7e9, |t, _| { *t += 300.0 * (1.0 - 0.2 * s.next()); Some(contact(*t, 500)) }).collect());
    situation("60 s jitter 20 %, 30 min", |s| (0..33).scan(1.7e9, |t, _| { *t += 60.0 * (1.0 - 0.2 * s.next()); Some(contact(*t, 500)) }).collect());
    situation("60 s jitter 90 %, 24 h", |s| (0..2600).scan(1.7e9, |t, _| { *t += 60.0 * (1.0 - 0.9 * s.next()); Some(contact(*t, 500)) }).collect());
    situation("60 s +-50 % 20 % lost, 8 h", |s| beacon((s.next() * 1e6) as u64, 60.0, 0.5, true, 0.2, 400));
    situation("4 h jitter 50 %, 7 d", |s| (0..56).scan(1.7e9, |t, _| { *t += 14_400.0 * (1.0 - 0.5 * s.next()); Some(contact(*t, 500)) }).take_while(|r| r.at() < 1.7e9 + 604_800.0).collect());
    situation("24 h jitter 10 %, 14 d", |s| (0..14).scan(1.7e9, |t, _| { *t += 86_400.0 * (1.0 - 0.1 * s.next()); Some(contact(*t, 500)) }).collect());
    situation("60 s jitter 20 % after 5 h of Poisson", |s| {
        let mut t = 1.7e9;
        let mut out: Vec<Record> = (0..300).map(|_| { t -= 60.0 * s.next().ln(); contact(t, 500) }).collect();
        out.extend((0..60).map(|_| { t += 60.0 * (1.0 - 0.2 * s.next()); contact(t, 500) }));
        out
    });
    situation("300 s jitter 20 % under 20 visits a day", |s| {
        let mut t = 1.7e9;
        let mut out: Vec<Record> = (0..320).map(|_| { t += 300.0 * (1.0 - 0.2 * s.next()); contact(t, 500) }).collect();
        out.extend((0..20).map(|_| contact(1.7e9 + 86_400.0 * s.next(), 2000)));
        out
    });
    situation("60 s jitter 20 %, bursts of 3", |s| {
        let mut t = 1.7e9;
        (0..30).flat_map(|_| { t += 60.0 * (1.0 - 0.2 * s.next()); [contact(t, 500), contact(t + 0.7 * s.next(), 500), contact(t + 1.5 * s.next(), 500)] }).collect()
    });
}

fn situation(name: &str, mut make: impl FnMut(&mut Stream) -> Vec<Record>) {
    let runs = 40;
    let mut needed = Vec::new();
    for seed in 0..runs {
        let records = make(&mut Stream::new(seed + 500));
        if let Some(f) = first_alert(&run(records.clone())) {
            let at = f.decided_at.as_secs_f64();
            needed.push(records.iter().filter(|r| r.at() <= at + 1e-6).count());
        }
    }
    needed.sort_unstable();
    println!("{name:<40} {runs:>4}  {:.2}  {}", needed.len() as f64 / runs as f64, needed.get(needed.len() / 2).copied().unwrap_or(0));
}

fn controls() {
    println!("\ncontrol                      runs  share with an alert");
    for mean in [5.0, 10.0, 30.0, 60.0, 300.0, 3600.0] {
        let n = (86_400.0_f64 / mean).clamp(200.0, 2000.0) as usize;
        control(&format!("poisson mean {mean} s n {n}"), 200, |s| {
            let mut t = 1.7e9;
            (0..n)
                .map(|_| {
                    t -= mean * s.next().ln();
                    contact(t, 500)
                })
                .collect()
        });
    }
    for shape in [2.0f64, 3.0] {
        control(&format!("erlang-{shape} mean 60 s n 1000"), 100, |s| {
            let mut t = 1.7e9;
            (0..1000)
                .map(|_| {
                    for _ in 0..shape as usize {
                        t -= 60.0 / shape * s.next().ln();
                    }
                    contact(t, 500)
                })
                .collect()
        });
    }
    control("business hours, 5 days", 100, |s| {
        let mut out = Vec::new();
        for day in 0..5 {
            let mut t = 1.7e9 + 86_400.0 * f64::from(day) + 28_800.0;
            let end = t + 32_400.0;
            while t < end {
                // A visit: a page of some clicks, then something else.
                for _ in 0..(1.0 - 4.0 * s.next().ln()) as usize {
                    t -= 25.0 * s.next().ln();
                    for _ in 0..(1.0 + 4.0 * s.next()) as usize {
                        out.push(contact(t + 3.0 * s.next(), (300.0 + 3000.0 * s.next()) as u64));
                    }
                }
                t -= 1500.0 * s.next().ln();
            }
        }
        out
    });
    control("log-normal sigma 1 mean ~60 s", 100, |s| {
        let mut t = 1.7e9;
        (0..1000)
            .map(|_| {
                let z = (-2.0 * s.next().ln()).sqrt() * (std::f64::consts::TAU * s.next()).cos();
                t += 40.0 * z.exp();
                contact(t, 500)
            })
            .collect()
    });
}

fn control(name: &str, runs: u64, mut make: impl FnMut(&mut Stream) -> Vec<Record>) {
    let hit = (0..runs).filter(|seed| first_alert(&run(make(&mut Stream::new(seed + 1000)))).is_some()).count();
    println!("{name:<32} {runs:>4}  {:.3}", hit as f64 / runs as f64);
}

fn day(args: &[String]) {
    let mut records = load(&args[0], &args[1]);
    let from = records.iter().map(Record::at).fold(f64::INFINITY, f64::min);
    let to = records.iter().map(Record::at).fold(0.0, f64::max);
    println!("{} records, {:.1} h", records.len(), (to - from) / 3600.0);
    if let Some(i) = args.iter().position(|a| a == "--with") {
        let other = load(&args[i + 1], &args[i + 2]);
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
            "{:>3} {:?} first +{:.1} h  {} T={} j={} n={} missed={} total={} open={} w={} size={} failed={} {} dst={:?}",
            f.confidence,
            f.severity,
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

fn load(folder: &str, host: &str) -> Vec<Record> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).unwrap();
        let mut text = String::new();
        if name.ends_with(".gz") {
            flate2::read::GzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        } else {
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        let kind = name.split('.').next().unwrap();
        if kind != "conn" && std::env::var("LAB_NO_NAMES").is_ok() {
            continue;
        }
        if ["conn", "ssl", "http"].contains(&kind) && text.starts_with('#') {
            parse(kind, &text, host, &mut out);
        }
    }
    out
}

fn parse(kind: &str, text: &str, host: &str, out: &mut Vec<Record>) {
    let mut fields: Vec<&str> = Vec::new();
    for line in text.lines() {
        if let Some(f) = line.strip_prefix("#fields\t") {
            fields = f.split('\t').collect();
        }
        if line.starts_with('#') {
            continue;
        }
        let cells: Vec<&str> = line.split('\t').collect();
        let get = |name: &str| fields.iter().position(|f| *f == name).and_then(|i| cells.get(i)).copied().filter(|v| *v != "-");
        if get("id.orig_h") != Some(host) || get("label") == Some("Malicious") && !folder_is_bad() {
            continue;
        }
        let (Some(ts), Some(Ok(peer)), Some(port)) = (
            get("ts").and_then(|t| t.parse::<f64>().ok()),
            get("id.resp_h").map(|a| a.parse::<std::net::IpAddr>()),
            get("id.resp_p").and_then(|p| p.parse::<u16>().ok()),
        ) else {
            continue;
        };
        let peer = Address::from(peer);
        match kind {
            "conn" => {
                let transport = match get("proto") {
                    Some("tcp") => 6,
                    Some("udp") => 17,
                    _ => continue,
                };
                let duration = get("duration").and_then(|d| d.parse::<f64>().ok()).unwrap_or(0.0);
                let history = get("history").unwrap_or("");
                let mut flags = u8::from(history.contains(['S', 's', 'h', 'H'])) * 2;
                flags |= u8::from(history.contains(['A', 'a', 'D', 'd', 'h'])) * 16;
                flags |= u8::from(history.contains(['F', 'f'])) | (u8::from(history.contains(['R', 'r'])) * 4);
                out.push(Record::Flow {
                    start: ts,
                    at: ts + duration,
                    peer,
                    port,
                    transport,
                    bytes: get("orig_bytes").and_then(|b| b.parse().ok()).unwrap_or(0),
                    state: get("conn_state").unwrap_or("").into(),
                    flags,
                });
            }
            "ssl" => {
                if let Some(name) = get("server_name") {
                    out.push(Record::Tls { at: ts, peer, port, name: name.to_lowercase() });
                }
            }
            _ => {
                let connect = get("method") == Some("CONNECT");
                let target = if connect { get("uri") } else { get("host") };
                if let Some(target) = target {
                    let (name, name_port) = target
                        .rsplit_once(':')
                        .and_then(|(n, p)| Some((n, p.parse().ok()?)))
                        .map_or((target, None), |(n, p)| (n, Some(p)));
                    let proxy = connect || get("uri").is_some_and(|u| u.starts_with("http://"));
                    out.push(Record::Http { at: ts, peer, port, name: name.to_lowercase(), name_port, proxy });
                }
            }
        }
    }
}

fn folder_is_bad() -> bool {
    std::env::var("LAB_KEEP_MALICIOUS").is_ok()
}
