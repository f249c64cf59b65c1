//! Captured beacons, scans and other attacks of the development sets.

use std::path::Path;

use anyhow::Result;
use tidewatch_schemas::signal::Signal;
use tidewatch_schemas::time::EventTime;

use super::captured::{PROXIED, SCANS, failures, wanted};
use super::logs::{Conn, Table, text};
use super::measure::{ALERT, Benign, Case, Goal, Origin, Part, Wanted, destination, rank};
use super::{Context, captured, packets, way};
use crate::merge;

const BEACON: &str = "ndr.beaconing";

/// Adds a positive to a case.
fn judge(case: &mut Case, want: &Wanted, signals: &[Signal]) {
    let all: Vec<&Signal> = signals.iter().collect();
    case.add(want.found(&all, false), want.found(&all, true));
}

/// The remote-access tool of 001, the beacon through a proxy (alone and in the benign days), two made-up ones of slips.
pub fn beacons(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let rat = captured::rat(context)?;
    let ran = way::run(&rat.dir, &[], &context.rules)?;
    ran.note("001", &mut part);
    let want = rat.wanted;
    let mut case = Case::of(BEACON, &rat.name, "-", rat.what);
    judge(&mut case, &want, &ran.signals);
    case.rank = rank(&ran.signals, BEACON, |s| s.severity >= ALERT, |s| want.explains(s));
    part.calibrate(&ran.signals, |s| want.explains(s));
    let [_, _, seconds] = case.seconds();
    let ours = if case.detected > 0 {
        format!("after {:.1} min, {} contacts", seconds / 60.0, case.contacts()[2])
    } else {
        "missed".into()
    };
    part.goals.push(Goal::of(
        "2.4",
        "a RAT that calls for 50 minutes: alert in 15 min [flows-ctu/001]",
        case.detected > 0 && seconds <= 900.0,
        ours,
        "RITA 24 h: miss; flowscope RITA type hit; others miss",
    ));
    part.cases.push(case);
    proxied(context, &mut part)?;
    for (file, home, what) in [
        ("test-cc-capture-1.pcap", "141.193.213.21", "curl every 2 s"),
        ("test-cc-capture-2.pcap", "141.193.213.20", "curl every 2 to 3.6 s, 67 s"),
    ] {
        let (ran, conns) = run_capture(context, &context.set("flows-slips/test-cc").join(file), &["147.32.0.0/16"], &mut part)?;
        let contacts = conns.iter().filter(|c| c.to == home && c.proto == "tcp").map(|c| EventTime(c.start_ns)).collect();
        let mut case = Case::of(BEACON, "flows-slips/test-cc", "-", what);
        judge(&mut case, &wanted(&[BEACON], Some("147.32.80.37"), &[home], contacts), &ran);
        case.note = "below the shortest period (5 s) and life (180 s) that the detector looks at".into();
        part.cases.push(case);
    }
    Ok(part)
}

fn proxied(context: &Context, part: &mut Part) -> Result<()> {
    let folder = context.set("flows-rita-scenarios/proxy");
    let days = context.set("flows-ctu");
    let mut good = Vec::new();
    for (name, day) in [
        ("alone", None),
        ("in 008-benign-day", Some(("008-benign-day", "147.32.81.167"))),
        ("in 010-benign-day", Some(("010-benign-day", "147.32.83.234"))),
    ] {
        let (from, host, network) = match day {
            None => (folder.clone(), PROXIED.0, "10.0.0.0/8"),
            Some((day, host)) => {
                let mixed = context.room.path().join(format!("mixed-{day}"));
                merge::together(&folder, &days.join(day), (PROXIED.0, host), &mixed)?;
                (mixed, host, "147.32.0.0/16")
            }
        };
        let ran = way::run(&from, &[network], &context.rules)?;
        ran.note(name, part);
        let http = if day.is_some() { from.join("http.log") } else { from.join("http.log.gz") };
        let contacts = Table::read(&http)?.moments(|t, row| t.cell(row, "host") == PROXIED.1);
        let want = wanted(&[BEACON], Some(host), &[PROXIED.1], contacts);
        let mut case =
            Case::of(BEACON, "flows-rita-scenarios/proxy", "-", format!("HTTPS through a proxy, 200 to 300 s, {name}"));
        judge(&mut case, &want, &ran.signals);
        case.rank = rank(&ran.signals, BEACON, |s| s.entity.id == host, |s| want.explains(s));
        part.calibrate(&ran.signals, |s| want.explains(s));
        let others = Benign::of("", Origin::Real, 1.0, 0, ran.signals.iter().filter(|s| !want.explains(s))).count(Some(BEACON));
        case.note = format!("{others} other beacon alerts");
        good.push((name, case.clone(), others));
        part.cases.push(case);
    }
    let met = good.iter().all(|(_, c, others)| c.detected == 1 && c.seconds()[2] <= 7_200.0 && c.rank == Some(1) && *others <= 2);
    let ours: Vec<String> = good
        .iter()
        .map(|(name, c, others)| {
            let rank = c.rank.map_or("-".to_owned(), |r| r.to_string());
            format!("{name}: {:.0} min, {} contacts, rank {rank}, {others} others", c.seconds()[2] / 60.0, c.contacts()[2])
        })
        .collect();
    part.goals.push(Goal::of(
        "2.4",
        "a 200-350 s HTTP beacon in noise: found in 2 h, rank 1 among the host's pairs (every severity), at most 2 other alerts a day",
        met,
        ours.join("; "),
        "RITA 6th to 19th with 24-42 others at >= 0.9",
    ));
    Ok(())
}

/// Runs a capture as a sensor would have logged it.
fn run_capture(context: &Context, path: &Path, internal: &[&str], part: &mut Part) -> Result<(Vec<Signal>, Vec<Conn>)> {
    let conns = packets::connections(path)?;
    Ok((logged(context, path, conns.clone(), internal, part)?, conns))
}

fn logged(context: &Context, path: &Path, conns: Vec<Conn>, internal: &[&str], part: &mut Part) -> Result<Vec<Signal>> {
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("capture").to_owned();
    let dir = captured::logged(context, "real", &name, conns)?;
    let ran = way::run(&dir, internal, &context.rules)?;
    ran.note(&name, part);
    Ok(ran.signals)
}

/// nmap of 002, the scans of slips and scan-simple; backscatter must stay silent.
pub fn scans(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    nmap(context, &mut part)?;
    for it in captured::scans(context, "real")? {
        let ran = way::run(&it.dir, &it.internal, &context.rules)?;
        ran.note(&it.name, &mut part);
        let mut case = Case::of("ndr.scan", &it.name, "-", it.what);
        judge(&mut case, &it.wanted, &ran.signals);
        part.cases.push(case);
    }
    simple(context, &mut part)?;
    Ok(part)
}

fn nmap(context: &Context, part: &mut Part) -> Result<()> {
    let it = captured::nmap(context)?;
    let ran = way::run(&it.dir, &[], &context.rules)?;
    ran.note("002", part);
    let want = it.wanted;
    let (contacts, host) = (&want.contacts, want.host.clone().unwrap_or_default());
    let mut case = Case::of("ndr.scan", &it.name, "-", it.what);
    judge(&mut case, &want, &ran.signals);
    // The burst that it is told of: the failed targets of the ten seconds before the decision.
    let first = ran.signals.iter().filter(|s| want.explains(s) && s.severity >= ALERT).map(|s| s.decided_at).min();
    let burst = first.map(|at| contacts.iter().filter(|c| **c <= at && at.since(**c) <= 10_000_000_000).count());
    let ours = match (case.found.first(), burst) {
        (Some(f), Some(burst)) => format!(
            "after {} failed targets and {:.0} s from the very first one; {burst} failed targets in the ten seconds before the decision",
            f.contacts, f.seconds
        ),
        _ => "missed".to_owned(),
    };
    let met =
        burst.is_some_and(|n| n > 0 && n <= 25) || case.found.first().is_some_and(|f| f.contacts <= 25 || f.seconds <= 10.0);
    case.note = ours.clone();
    part.goals.push(Goal::of(
        "7",
        "an nmap sweep within 25 failed targets or 10 s [flows-ctu/002]",
        met,
        ours,
        "flowscope about 4 failures in a row; Zeek 25 remote, 250 local; Elastic 100 addresses",
    ));
    part.calibrate(&ran.signals, |s| s.entity.id == host);
    part.cases.push(case);
    Ok(())
}

fn simple(context: &Context, part: &mut Part) -> Result<()> {
    for (file, host, what) in [
        ("445_scan.pcap", "176.192.150.3", "from outside, 9 hosts at port 445"),
        ("multiport_scan.pcap", "125.27.226.209", "from outside, 5 hosts at 3 ports"),
        ("port_scan.pcap", "192.168.2.154", "vertical, 5 ports"),
        ("scan_with_zero_windows.pcap", "10.0.0.1", "5 hosts at port 23"),
    ] {
        let path = context.set("scan-simple").join(file);
        let (signals, conns) = run_capture(context, &path, &[], part)?;
        let mut case = Case::of("ndr.scan", &format!("scan-simple/{file}"), "-", what);
        judge(&mut case, &wanted(&SCANS, Some(host), &[], failures(&conns, host)), &signals);
        case.note = "upstream lowers its thresholds for it, or counts dark addresses; missing it at ours is no defect".into();
        part.cases.push(case);
    }
    let path = context.set("scan-simple/backscatter.trace");
    let (signals, conns) = run_capture(context, &path, &["192.150.0.0/16"], part)?;
    let silent = Benign::of("scan-simple/backscatter.trace", Origin::Real, 0.0, 0, &signals);
    let ours = format!("{} alerts of {} connections", silent.count(None), conns.len());
    part.goals.push(Goal::of("7", "the backscatter capture: 0 alerts", silent.count(None) == 0, ours, "Zeek 0"));
    part.benign.push(silent);
    Ok(())
}

/// What has no detector of its own yet, or no label: told of, not judged.
pub fn others(context: &Context) -> Result<Part> {
    let mut part = Part::default();
    let apt = apt29(context)?;
    let ran = way::run(&apt, &[], &context.rules)?;
    ran.note("apt29", &mut part);
    told(
        "flows-apt29-day1 (38 minutes, attackers with private addresses; a fast implant without period, which no detector here is for)",
        &ran.signals,
        &mut part,
    );
    for (file, host, to) in [
        ("asyncrat/asyncrat-pcap.pcap", "192.168.100.124", "181.131.218.39"),
        ("asyncrat/dcrat-pcap.pcap", "192.168.100.20", "186.169.47.11"),
        ("asyncrat/sxn-pcap.pcap", "192.168.100.163", "94.156.71.237"),
        ("agenttesla/c2-ftp.pcap", "192.168.100.164", "143.95.79.226"),
        ("agenttesla/c2-http.pcap", "192.168.100.134", "78.41.139.12"),
        ("agenttesla/c2-smtp.pcap", "192.168.100.122", "208.91.198.143"),
        ("agenttesla/c2-smtp-2.pcap", "192.168.100.40", "43.255.154.57"),
    ] {
        let path = context.set("rat-pcap").join(file);
        let (signals, conns) = run_capture(context, &path, &[], &mut part)?;
        let n = conns.iter().filter(|c| c.from == host && c.to == to).count();
        told(
            &format!("rat-pcap/{file} ({n} connections with its server; certificates and indicators have no detector yet)"),
            &signals,
            &mut part,
        );
    }
    for folder in ["open_sni", "open_conns/open"] {
        let ran = way::run(&context.set("flows-rita-scenarios").join(folder), &[], &context.rules)?;
        ran.note(folder, &mut part);
        let long = ran.signals.iter().filter(|s| s.kind == "ndr.long_connection").count();
        part.notes.push(format!("flows-rita-scenarios/{folder}: {long} signals of long connections (none lasts two days)"));
    }
    part.notes.push("not run: flows-slips/test8 (ARP), test13 (DHCP) and test19 (password guessing), which no detector is for; test1 (nfdump), test6 (Suricata EVE), which have no reader here; test2 and test5, whose 1,500 s connections are no alert by our definition (two days)".into());
    Ok(part)
}

fn told(what: &str, signals: &[Signal], part: &mut Part) {
    let alerts: Vec<String> = signals
        .iter()
        .filter(|s| s.severity >= ALERT)
        .take(6)
        .map(|s| format!("{} {} {} to {}", s.kind, s.confidence, s.entity.id, destination(s)))
        .collect();
    let alerts = if alerts.is_empty() { "no alert".to_owned() } else { alerts.join("; ") };
    part.notes.push(format!("{what}: {alerts}"));
}

/// The JSON of apt29 with Zeek's own names, one file for each log.
fn apt29(context: &Context) -> Result<std::path::PathBuf> {
    let dir = context.folder("apt29")?;
    let all = text(&context.set("flows-apt29-day1/combined_zeek.json.log.gz"))?;
    for log in ["conn", "dns", "ssl", "http"] {
        let marker = format!("\"@stream\":\"{log}\"");
        let mut lines: Vec<(f64, String)> = all
            .lines()
            .filter(|l| l.contains(&marker))
            .filter_map(|l| {
                let row: serde_json::Value = serde_json::from_str(l).ok()?;
                let at = row.get("ts")?.as_f64()? + row.get("duration").and_then(serde_json::Value::as_f64).unwrap_or(0.0);
                let line = ["orig_h", "orig_p", "resp_h", "resp_p"]
                    .iter()
                    .fold(l.to_owned(), |l, name| l.replace(&format!("\"id_{name}\""), &format!("\"id.{name}\"")));
                Some((at, line))
            })
            .collect();
        lines.sort_by(|a, b| a.0.total_cmp(&b.0));
        let text: String = lines.into_iter().map(|(_, l)| l + "\n").collect();
        std::fs::write(dir.join(format!("{log}.log")), text)?;
    }
    Ok(dir)
}
