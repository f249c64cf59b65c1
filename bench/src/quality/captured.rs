//! Captured attacks of the development sets as folders that a sensor would have logged, each with what ought to be found of
//! it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tidewatch_schemas::time::EventTime;

use super::logs::{Conn, Table, argus, moment, text, write_conns};
use super::measure::Wanted;
use super::{Context, packets};

/// The host that asks through the proxy, and the name that it calls (flows-rita-scenarios/labels.csv).
pub const PROXIED: (&str, &str) = ("10.136.0.18", "www.honestimnotevil.com");
const BEACON: &str = "ndr.beaconing";
/// Kinds that are right about a scan.
pub const SCANS: [&str; 2] = ["ndr.scan", "ndr.lateral"];

/// One of them.
pub struct Captured {
    /// The set that it is of.
    pub name: String,
    /// In words.
    pub what: &'static str,
    /// Logs.
    pub dir: PathBuf,
    /// Networks that are inside.
    pub internal: Vec<&'static str>,
    /// What ought to be found.
    pub wanted: Wanted,
}

/// What ought to be found, by kinds, host, places and contacts.
pub fn wanted(kinds: &[&'static str], host: Option<&str>, to: &[&str], contacts: Vec<EventTime>) -> Wanted {
    let last = contacts.last().copied().unwrap_or(EventTime::MAX);
    let destinations = to.iter().map(|d| (*d).to_owned()).collect();
    Wanted { kinds: kinds.to_vec(), host: host.map(str::to_owned), destinations, contacts, last }
}

/// The remote-access tool of 001.
pub fn rat(context: &Context) -> Result<Captured> {
    let dir = context.set("flows-ctu/001-rat-cc");
    let home = "41.108.179.197";
    let contacts = Table::read(&dir.join("conn.labeled.log.gz"))?
        .moments(|t, row| t.cell(row, "id.resp_h") == home && t.cell(row, "id.resp_p") == "1177");
    let wanted = wanted(&[BEACON], Some("192.168.1.115"), &[home], contacts);
    Ok(Captured { name: "flows-ctu/001".into(), what: "RAT, refused SYNs, 45 min", dir, internal: Vec::new(), wanted })
}

/// The beacon through a proxy, alone.
pub fn proxied(context: &Context) -> Result<Captured> {
    let dir = context.set("flows-rita-scenarios/proxy");
    let contacts = Table::read(&dir.join("http.log.gz"))?.moments(|t, row| t.cell(row, "host") == PROXIED.1);
    let wanted = wanted(&[BEACON], Some(PROXIED.0), &[PROXIED.1], contacts);
    let what = "HTTPS through a proxy, 200 to 300 s";
    Ok(Captured { name: "flows-rita-scenarios/proxy".into(), what, dir, internal: vec!["10.0.0.0/8"], wanted })
}

/// nmap of 002: contacts are its distinct targets that failed.
pub fn nmap(context: &Context) -> Result<Captured> {
    let dir = context.set("flows-ctu/002-nmap-scans");
    let host = "172.16.1.11";
    let mut pairs = BTreeSet::new();
    let mut contacts = Vec::new();
    for line in text(&dir.join("conn.json.log.gz"))?.lines() {
        let row: serde_json::Value = serde_json::from_str(line).context("002: not JSON")?;
        let of = |name: &str| row.get(name).map(|v| v.to_string().trim_matches('"').to_owned()).unwrap_or_default();
        let counts = of("id.orig_h") == host && of("proto") != "icmp" && failed(&of("conn_state"));
        if counts
            && let Some(at) = moment(&of("ts"))
            && pairs.insert((of("id.resp_h"), of("id.resp_p"), of("proto")))
        {
            contacts.push(at);
        }
    }
    contacts.sort_unstable();
    let wanted = wanted(&SCANS, Some(host), &[], contacts);
    let what = "nmap against three networks: distinct failed TCP and UDP targets";
    Ok(Captured { name: "flows-ctu/002".into(), what, dir, internal: Vec::new(), wanted })
}

/// The scans of slips; `name` keeps the folders of measurements apart that run side by side.
pub fn scans(context: &Context, name: &str) -> Result<Vec<Captured>> {
    let mut all = Vec::new();
    for (folder, host, what) in [
        ("horizontal", "10.0.2.112", "31 web servers outside, 10 of them silent"),
        ("vertical", "192.168.1.9", "vertical, outbound"),
    ] {
        let dir = context.set("flows-slips/port-scans").join(folder);
        let table = text(&dir.join("conn.log"))?;
        let contacts = if table.starts_with('#') {
            Table::read(&dir.join("conn.log"))?
                .moments(|t, row| t.cell(row, "id.orig_h") == host && failed(t.cell(row, "conn_state")))
        } else {
            table.lines().filter(|l| l.contains(host)).filter_map(json_moment).collect()
        };
        let mut wanted = wanted(&SCANS, Some(host), &[], contacts);
        wanted.last = EventTime::MAX;
        all.push(Captured { name: format!("flows-slips/port-scans/{folder}"), what, dir, internal: Vec::new(), wanted });
    }
    for (file, host, internal, what) in [
        ("test11-portscan.binetflow", "10.8.0.69", "10.0.0.0/8", "vertical, outbound, one port a second (Argus)"),
        ("test3-mixed.binetflow", "46.166.151.160", "147.32.0.0/16", "horizontal, from outside (Argus)"),
        ("test4-malicious.binetflow", "192.168.2.12", "192.168.0.0/16", "horizontal, outbound, port 81 (Argus)"),
    ] {
        let conns = argus(&context.set("flows-slips").join(file))?;
        let wanted = wanted(&SCANS, Some(host), &[], failures(&conns, host));
        let dir = logged(context, name, file, conns)?;
        all.push(Captured { name: format!("flows-slips/{file}"), what, dir, internal: vec![internal], wanted });
    }
    let file = "test12-icmp-portscan.pcap";
    let conns = packets::connections(&context.set("flows-slips").join(file))?;
    let contacts = conns.iter().filter(|c| c.proto == "icmp").map(|c| EventTime(c.start_ns)).collect();
    let wanted = wanted(&SCANS, None, &[], contacts);
    let dir = logged(context, name, file, conns)?;
    all.push(Captured { name: format!("flows-slips/{file}"), what: "ICMP, 19 targets", dir, internal: Vec::new(), wanted });
    Ok(all)
}

/// Connections as a sensor would have logged them.
pub fn logged(context: &Context, name: &str, file: impl AsRef<Path>, conns: Vec<Conn>) -> Result<PathBuf> {
    let file = file.as_ref().file_name().and_then(|n| n.to_str()).unwrap_or("capture").to_owned();
    let dir = context.folder(&format!("log-{name}-{file}"))?;
    write_conns(&dir, conns)?;
    Ok(dir)
}

/// Attempts of a host that failed; of everybody where it is empty.
pub fn failures(conns: &[Conn], host: &str) -> Vec<EventTime> {
    let mut at: Vec<EventTime> =
        conns.iter().filter(|c| (host.is_empty() || c.from == host) && failed(&c.state)).map(|c| EventTime(c.start_ns)).collect();
    at.sort_unstable();
    at
}

fn failed(state: &str) -> bool {
    matches!(state, "S0" | "REJ" | "RSTOS0" | "SH")
}

fn json_moment(line: &str) -> Option<EventTime> {
    moment(&serde_json::from_str::<serde_json::Value>(line).ok()?.get("ts")?.to_string())
}
