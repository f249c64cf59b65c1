//! Ordinary look-ups: captures and logs of the labelled data, and the made-up office with all that machines ask.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use tidewatch_generator::event::{Answer, Event};
use tidewatch_generator::{PRESET_START, Plan, Traffic};
use tidewatch_operators::rule::Rule;

use super::{Look, capture, detect};

/// The captures of ordinary look-ups, half by half, and the logs of flows-rita-scenarios (one of which holds a tunnel).
pub fn captured(rules: &[Rule], data: &Path) -> Result<()> {
    let folder = data.join("dns-tunnel-pcap/normal");
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .collect();
    files.sort();
    let (tuning, judging) = files.split_at(files.len() / 2);
    for (half, files) in [("tuning half", tuning), ("judging half", judging)] {
        let mut looks = Vec::new();
        for file in files {
            looks.extend(capture::read(file)?);
        }
        tell(rules, &format!("ordinary captures ({half})"), &looks);
    }
    for log in [
        "proxy/dns.log.gz",
        "proxy_rolling/dns.15-00-00-16-00-00.log.gz",
        "proxy_rolling/dns.16-00-00-17-00-00.log.gz",
        "open_conns/open/dns.log",
    ] {
        tell(rules, log, &zeek(&data.join("flows-rita-scenarios").join(log))?);
    }
    Ok(())
}

/// A working day of a made-up office, no attack in it.
pub fn office(rules: &[Rule], seed: u64, hosts: u32) {
    let plan = Plan { lookups: true, attacks: Vec::new(), ..Plan::office(seed, 1, hosts, PRESET_START, 86_400) };
    let looks: Vec<Look> = Traffic::new(&plan, 0)
        .filter_map(|event| match event {
            Event::Dns(dns) => Some(look(dns)),
            _ => None,
        })
        .collect();
    tell(rules, &format!("made-up office, {hosts} hosts, a day"), &looks);
}

fn look(dns: tidewatch_generator::event::DnsEvent) -> Look {
    let (code, answers) = match &dns.answer {
        Answer::Address(a) => (0, a.to_string()),
        Answer::Text(text) => (0, text.clone()),
        Answer::Empty => (0, String::new()),
        Answer::NoName => (3, String::new()),
    };
    Look {
        at_ns: dns.end.0,
        host: dns.connection.initiator.to_string(),
        name: dns.name,
        kind: dns.kind.code().0,
        code: Some(code),
        answers,
        request_bytes: dns.bytes_sent as u32,
        response_bytes: dns.bytes_received as u32,
    }
}

/// A Zeek dns.log, tab-separated.
fn zeek(path: &Path) -> Result<Vec<Look>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut text = String::new();
    if path.extension().is_some_and(|e| e == "gz") {
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text)?;
    } else {
        text = String::from_utf8_lossy(&bytes).into_owned();
    }
    let fields: Vec<&str> = text.lines().find_map(|l| l.strip_prefix("#fields\t")).unwrap_or("").split('\t').collect();
    let mut looks = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let cells: Vec<&str> = line.split('\t').collect();
        let of = |name: &str| fields.iter().position(|f| *f == name).and_then(|i| cells.get(i)).copied().unwrap_or("-");
        let Ok(at_s) = of("ts").parse::<f64>() else { continue };
        looks.push(Look {
            at_ns: (at_s * 1e9) as i64,
            host: of("id.orig_h").to_owned(),
            name: of("query").to_ascii_lowercase(),
            kind: of("qtype").parse().unwrap_or(0),
            code: of("rcode").parse().ok(),
            answers: of("answers").trim_matches('-').to_owned(),
            request_bytes: 0,
            response_bytes: 0,
        });
    }
    Ok(looks)
}

fn tell(rules: &[Rule], what: &str, looks: &[Look]) {
    let outcome = detect(rules, looks);
    let domains: BTreeSet<(&str, &str)> = outcome.findings.iter().map(|f| (f.entity.id.as_str(), f.subject.as_str())).collect();
    let hosts: BTreeSet<&str> = looks.iter().map(|l| l.host.as_str()).collect();
    println!(
        "{what}: {} look-ups of {} hosts, {} false domains ({:.1} in a million); at most {} bytes of state for {} hosts, {:.0} ns a look-up",
        looks.len(),
        hosts.len(),
        domains.len(),
        domains.len() as f64 * 1e6 / looks.len().max(1) as f64,
        outcome.bytes,
        outcome.keys,
        outcome.ns,
    );
    for f in &outcome.findings {
        println!("  {} {:?} {} {}", f.decided_at.to_rfc3339(), f.severity, f.confidence, f.why);
    }
}
