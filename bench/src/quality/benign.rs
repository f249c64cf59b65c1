//! Traffic without attacks: the two benign days whole, days made of them, captured look-ups, and the generator's offices.
//! Every alert here is one too many.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result};
use tidewatch_generator::zeek::Log;
use tidewatch_generator::{PRESET_START, Plan};
use tidewatch_schemas::signal::Signal;

use super::logs::{Table, write_looks};
use super::measure::{ALERT, Benign, Case, Goal, Origin, Part, Wanted, destination};
use super::replay::{DAYS, Day, NETWORK, REPLAYS};
use super::{Context, made, replay, way};
use crate::dns::capture;

/// Hosts and days of the generator's office.
const OFFICE: (u32, u32) = (60, 2);
/// Ordinary look-ups that are generated: with no false domain among as many, the upper end of the 95 % interval, 3.69 in so
/// many, is below one in a million.
const MILLIONS: f64 = 3.75e6;
/// Offices made for them, at most: each of another seed.
const OFFICES_MAX: u64 = 40;

/// Both days in full, from their files as they are.
pub fn days(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let mut all = Vec::new();
    for Day { folder, hours, .. } in DAYS {
        let ran = way::run(&context.set("flows-ctu").join(folder), &[NETWORK], &context.rules)?;
        ran.note(folder, &mut part);
        part.benign.push(Benign::of(&format!("flows-ctu/{folder}"), Origin::Real, hours / 24.0, 0, &ran.signals));
        part.calibrate(&ran.signals, |_| false);
        all.extend(ran.signals);
    }
    let alerts: usize = part.benign.iter().map(|b| b.count(None)).sum();
    let which: Vec<String> =
        part.benign.iter().flat_map(|b| b.alerts.values()).flat_map(|(_, words)| words.iter().cloned()).collect();
    let low: BTreeSet<(String, String)> = all.iter().map(|s| (s.kind.clone(), destination(s))).collect();
    let ours = format!(
        "{alerts} alerts{}; {} pairs are told of with low severity",
        if which.is_empty() { String::new() } else { format!(" ({})", which.join("; ")) },
        low.len()
    );
    let peers = "Slips 261 high in one day; RITA >= 0.7 4 to 7 pairs a host-day";
    part.goals.push(Goal::of(
        "1",
        "the two benign days of flows-ctu in full: at most one alert in all",
        alerts <= 1,
        ours,
        peers,
    ));
    part.notes.push(format!(
        "flows-ctu/008 and 010: the hosts have public addresses, so the runs name {NETWORK} as internal; attacks from outside are in the traffic"
    ));
    Ok(part)
}

/// The days again and again, each time shifted, with hours and rows missing and under another address.
pub fn replayed(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    for day in DAYS {
        let all = replay::of(context, &day, "benign", &context.rules)?;
        all.ran.note(&format!("replays of {}", day.folder), &mut part);
        let set = format!("flows-ctu/{}, replayed {REPLAYS} times", day.folder);
        part.benign.push(Benign::of(&set, Origin::Replayed, all.host_days, 0, &all.ran.signals));
    }
    part.notes.push(
        "replays are not independent of the two days: they show that no alert hangs by a thread, not a rate in the field".into(),
    );
    Ok(part)
}

/// Captured look-ups: the crawl (one client, 119,999 queries, packets put into order), and the logs of flows-rita-scenarios.
pub fn look_ups(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let folder = context.set("dns-tunnel-pcap/normal");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    files.sort();
    let mut looks = Vec::new();
    for file in &files {
        looks.extend(capture::read(file)?);
    }
    let mut queries = looks.len() as u64;
    let dir = context.folder("crawl")?;
    write_looks(&dir, looks)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    ran.note("crawl", &mut part);
    let mut false_domains = domains(&ran.signals);
    part.benign.push(Benign::of("dns-tunnel-pcap/normal, a crawl by one client", Origin::Real, 0.0, queries, &ran.signals));
    part.calibrate(&ran.signals, |_| false);
    for folder in ["proxy_rolling", "open_conns"] {
        let logs = context.set("flows-rita-scenarios").join(folder);
        let ran = way::run(&logs, &[], &context.rules)?;
        ran.note(folder, &mut part);
        let tunnel = if folder == "open_conns" { Some(tunnel(&logs)?) } else { None };
        let explained = |s: &Signal| tunnel.as_ref().is_some_and(|w| w.explains(s));
        part.calibrate(&ran.signals, explained);
        let others: Vec<Signal> = ran.signals.iter().filter(|s| !explained(s)).cloned().collect();
        let set = format!("flows-rita-scenarios/{folder}, unlabelled lab traffic");
        part.benign.push(Benign::of(&set, Origin::Real, 0.0, 0, &others));
        false_domains += domains(&others);
        // What these logs hold beside: 3,209 look-ups.
        queries += if folder == "proxy_rolling" { 3_209 } else { 0 };
        if let Some(want) = tunnel {
            let what = "a tunnel that only polls, one TXT a second (not labelled, but its names are a tunnel's)";
            let mut case = Case::of("ndr.dns_exfil", "flows-rita-scenarios/open_conns", "-", what);
            let signals: Vec<&Signal> = ran.signals.iter().collect();
            case.add(want.found(&signals, false), want.found(&signals, true));
            part.cases.push(case);
        }
    }
    let (low, high) = super::interval::poisson(false_domains, queries as f64 / 1e6);
    let ours = format!("{false_domains} in {queries} captured queries (95 % {low:.1} to {high:.1} in a million)");
    part.goals.push(Goal::of(
        "4.4",
        "at most 1 false registered domain per million ordinary queries [captured]",
        one_in_a_million(false_domains, queries),
        ours,
        "RITA 5 in the day of a list crawl; flowscope 0",
    ));
    Ok(part)
}

/// The tunnel in the logs of open connections.
fn tunnel(logs: &std::path::Path) -> Result<Wanted> {
    let domain = "r-1x.com";
    let table = Table::read(&logs.join("open/dns.log"))?;
    let contacts = table.moments(|t, row| t.cell(row, "query").ends_with(domain));
    let last = contacts.last().copied().unwrap_or_default();
    Ok(Wanted { kinds: vec!["ndr.dns_exfil"], host: None, destinations: vec![domain.to_owned()], contacts, last })
}

fn domains(signals: &[Signal]) -> usize {
    let told = signals.iter().filter(|s| s.kind == "ndr.dns_exfil" && s.severity >= ALERT);
    told.map(destination).collect::<BTreeSet<_>>().len()
}

/// The generator's office with all that machines ask for, without attacks.
pub fn office(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let (hosts, days) = OFFICE;
    let office = Plan::office(context.seed + 300, 0, hosts, PRESET_START, days * 86_400);
    let plan = Plan { tenants: vec!["quality".into()], lookups: true, ..office };
    let dir = context.folder("office")?;
    let queries = made::write(&plan, &made::Renames::new(), &dir)?;
    let ran = way::run(&dir, &[], &context.rules)?;
    fs::remove_dir_all(&dir)?;
    ran.note("office", &mut part);
    let set = format!("office of {hosts} hosts for {days} days, every look-up");
    part.benign.push(Benign::of(&set, Origin::Synthetic, f64::from(hosts * days), queries, &ran.signals));
    part.calibrate(&ran.signals, |_| false);
    Ok(part)
}

/// Look-ups by the million, of offices of many seeds, with everything that machines ask for; the rules of names alone, for no
/// other reads look-ups by themselves.
pub fn millions(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let (hosts, days) = OFFICE;
    let rules: Vec<_> = context.rules.iter().filter(|r| r.kind.starts_with("dns_")).cloned().collect();
    let began = way::thread_cpu_ns();
    let (mut wrong, mut queries, mut offices) = (0, 0, 0);
    let mut signals = Vec::new();
    while (queries as f64) < MILLIONS && offices < OFFICES_MAX {
        let office = Plan::office(context.seed + 600 + offices, 0, hosts, PRESET_START, days * 86_400);
        let plan = Plan { tenants: vec!["quality".into()], lookups: true, ..office };
        let dir = context.folder(&format!("millions-{offices}"))?;
        queries += made::write_logs(&plan, &made::Renames::new(), &dir, &[Log::Dns])?;
        let ran = way::run(&dir, &[], &rules)?;
        fs::remove_dir_all(&dir)?;
        ran.note("ordinary look-ups", &mut part);
        wrong += domains(&ran.signals);
        signals.extend(ran.signals.into_iter().map(|mut s| {
            s.entity.id = format!("{} (office {offices})", s.entity.id);
            s
        }));
        offices += 1;
    }
    let cpu_s = (way::thread_cpu_ns() - began) as f64 / 1e9;
    part.calibrate(&signals, |_| false);
    // Without flows these are no host-days of all detectors.
    let set = format!("{offices} offices of {hosts} hosts for {days} days, look-ups alone");
    part.benign.push(Benign::of(&set, Origin::Synthetic, 0.0, queries, &signals));
    let (low, high) = super::interval::poisson(wrong, queries as f64 / 1e6);
    let ours = format!(
        "{wrong} in {queries} generated queries of {} host-days (95 % {low:.2} to {high:.2} in a million)",
        offices * u64::from(hosts * days)
    );
    part.goals.push(Goal::of(
        "4.4",
        "at most 1 false registered domain per million ordinary queries [generator]",
        one_in_a_million(wrong, queries),
        ours,
        "",
    ));
    part.figures.push(("ordinary look-ups".into(), format!("{queries} made, written and run in {cpu_s:.0} s of CPU")));
    Ok(part)
}

/// Met where the whole 95 % interval is at or below one in a million, missed where the rate is above it; else these are too few
/// to tell.
fn one_in_a_million(wrong: usize, queries: u64) -> Option<bool> {
    let millions = queries as f64 / 1e6;
    let (_, high) = super::interval::poisson(wrong, millions);
    if high <= 1.0 {
        Some(true)
    } else if wrong as f64 > millions {
        Some(false)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_million_is_decided_by_enough_queries_alone() {
        assert_eq!(one_in_a_million(0, 3_750_000), Some(true));
        assert_eq!(one_in_a_million(0, 3_500_000), None);
        assert_eq!(one_in_a_million(1, 3_750_000), None);
        assert_eq!(one_in_a_million(4, 3_750_000), Some(false));
        assert_eq!(one_in_a_million(1, 120_000), Some(false));
    }
}
