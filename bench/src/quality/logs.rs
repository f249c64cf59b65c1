//! Writing and reading of what a sensor would have written: Zeek's conn.log and dns.log, from captures, from Argus' text
//! and from rows of other logs. Lines come in the order in which Zeek writes them, by end.

use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context, Result};
use tidewatch_schemas::time::EventTime;

use crate::dns::Look;

/// A connection.
#[derive(Clone, Debug, Default)]
pub struct Conn {
    /// First packet, nanoseconds since 1970.
    pub start_ns: i64,
    /// Last packet.
    pub end_ns: i64,
    /// Initiator.
    pub from: String,
    /// Its port.
    pub from_port: u16,
    /// Responder.
    pub to: String,
    /// Its port.
    pub to_port: u16,
    /// `tcp`, `udp`, `icmp`.
    pub proto: &'static str,
    /// Zeek's state.
    pub state: String,
    /// Zeek's history.
    pub history: String,
    /// Payload from the initiator.
    pub sent: u64,
    /// Payload from the responder.
    pub received: u64,
    /// Packets from the initiator.
    pub packets_sent: u64,
    /// Packets from the responder.
    pub packets_received: u64,
}

const CONN: &[&str] = &[
    "ts",
    "uid",
    "id.orig_h",
    "id.orig_p",
    "id.resp_h",
    "id.resp_p",
    "proto",
    "service",
    "duration",
    "orig_bytes",
    "resp_bytes",
    "conn_state",
    "history",
    "orig_pkts",
    "resp_pkts",
];

const DNS: &[&str] =
    &["ts", "uid", "id.orig_h", "id.orig_p", "id.resp_h", "id.resp_p", "proto", "trans_id", "query", "qtype", "rcode", "answers"];

/// Writes conn.log.
///
/// # Errors
/// Says which file cannot be written.
pub fn write_conns(dir: &Path, mut conns: Vec<Conn>) -> Result<()> {
    conns.sort_by_key(|c| c.end_ns);
    let mut out = header("conn", CONN);
    for (n, c) in conns.iter().enumerate() {
        let _ = writeln!(
            out,
            "{}\tCq{n}\t{}\t{}\t{}\t{}\t{}\t-\t{}\t{}\t{}\t{}\t{}\t{}\t{}",
            seconds(c.start_ns),
            c.from,
            c.from_port,
            c.to,
            c.to_port,
            c.proto,
            seconds(c.end_ns - c.start_ns),
            c.sent,
            c.received,
            c.state,
            if c.history.is_empty() { "-" } else { &c.history },
            c.packets_sent,
            c.packets_received,
        );
    }
    write(dir, "conn.log", &out)
}

/// Writes dns.log, all asked of one resolver.
///
/// # Errors
/// Says which file cannot be written.
pub fn write_looks(dir: &Path, mut looks: Vec<Look>) -> Result<()> {
    looks.sort_by(|a, b| (a.at_ns, &a.host, &a.name).cmp(&(b.at_ns, &b.host, &b.name)));
    let mut out = header("dns", DNS);
    for (n, look) in looks.iter().enumerate() {
        let code = look.code.map_or("-".to_owned(), |c| c.to_string());
        let answers: String = look.answers.chars().filter(|c| !c.is_control()).collect();
        let answers = if answers.is_empty() { "-" } else { &answers };
        let kind = if look.kind == 0 { "-".to_owned() } else { look.kind.to_string() };
        let _ = writeln!(
            out,
            "{}\tDq{n}\t{}\t{}\t10.255.255.53\t53\tudp\t{}\t{}\t{kind}\t{code}\t{answers}",
            seconds(look.at_ns),
            look.host,
            1_024 + n % 60_000,
            n % 65_536,
            look.name,
        );
    }
    write(dir, "dns.log", &out)
}

fn header(log: &str, fields: &[&str]) -> String {
    format!(
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t{log}\n#fields\t{}\n",
        fields.join("\t")
    )
}

fn write(dir: &Path, name: &str, text: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(name);
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// Nanoseconds as Zeek prints seconds.
fn seconds(ns: i64) -> String {
    format!("{}.{:06}", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000) / 1_000)
}

/// A text file, unpacked if it is packed.
///
/// # Errors
/// Says which file cannot be read.
pub fn text(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    let mut text = Vec::new();
    flate2::read::MultiGzDecoder::new(&bytes[..])
        .read_to_end(&mut text)
        .with_context(|| format!("cannot unpack {}", path.display()))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A tab-separated Zeek log: its column names and its rows.
#[derive(Debug, Default)]
pub struct Table {
    /// Lines that begin with `#`, with line ends.
    pub header: String,
    fields: Vec<String>,
    /// Cells.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Reads one.
    ///
    /// # Errors
    /// Says which file cannot be read.
    pub fn read(path: &Path) -> Result<Self> {
        let text = text(path)?;
        let mut out = Self::default();
        for line in text.lines() {
            if let Some(fields) = line.strip_prefix("#fields\t") {
                out.fields = fields.split('\t').map(str::to_owned).collect();
            }
            if line.starts_with('#') {
                if !line.starts_with("#close") {
                    let _ = writeln!(out.header, "{line}");
                }
            } else if !line.is_empty() {
                out.rows.push(line.split('\t').map(str::to_owned).collect());
            }
        }
        Ok(out)
    }

    /// Place of a column.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f == name)
    }

    /// A cell; `-` where there is none.
    pub fn cell<'r>(&self, row: &'r [String], name: &str) -> &'r str {
        self.column(name).and_then(|at| row.get(at)).map_or("-", String::as_str)
    }

    /// Moments of the rows that `takes` takes, in order.
    pub fn moments(&self, takes: impl Fn(&Self, &[String]) -> bool) -> Vec<EventTime> {
        let rows = self.rows.iter().filter(|row| takes(self, row));
        let mut at: Vec<EventTime> = rows.filter_map(|row| moment(self.cell(row, "ts"))).collect();
        at.sort_unstable();
        at
    }
}

/// Decimal seconds.
pub fn moment(text: &str) -> Option<EventTime> {
    text.parse().ok().and_then(EventTime::from_secs_f64)
}

/// Connections of Argus' text, comma or tab between its cells. Times are taken as UTC.
///
/// # Errors
/// Says which file cannot be read.
pub fn argus(path: &Path) -> Result<Vec<Conn>> {
    let text = text(path)?;
    let mut lines = text.lines();
    let first = lines.next().unwrap_or("");
    let separator = if first.contains('\t') { '\t' } else { ',' };
    let names: Vec<&str> = first.split(separator).collect();
    let mut out = Vec::new();
    for line in lines {
        let cells: Vec<&str> = line.split(separator).collect();
        let cell = |name: &str| names.iter().position(|n| *n == name).and_then(|at| cells.get(at)).map_or("", |c| c.trim());
        let proto = match cell("Proto") {
            "tcp" => "tcp",
            "udp" => "udp",
            "icmp" => "icmp",
            _ => continue,
        };
        let iso = cell("StartTime").replace('/', "-").replacen(' ', "T", 1);
        let Some(start) = EventTime::parse_rfc3339(&format!("{iso}Z")) else { continue };
        let lasts_s: f64 = cell("Dur").parse().unwrap_or(0.0);
        let number = |name: &str| cell(name).parse::<u64>().unwrap_or(0);
        let port = |name: &str| cell(name).parse::<u16>().unwrap_or(0);
        let (sent, all) = (number("SrcBytes"), number("TotPkts"));
        // Not every export tells the packets of the source: then by their share of the octets, at least the first.
        let packets = match names.contains(&"SrcPkts") {
            true => number("SrcPkts"),
            false => (all * sent).div_ceil(number("TotBytes").max(1)).clamp(1, all.max(1)),
        };
        let (state, history) = argus_state(proto, cell("State"));
        out.push(Conn {
            start_ns: start.0,
            end_ns: start.0 + (lasts_s * 1e9) as i64,
            from: cell("SrcAddr").to_owned(),
            from_port: port("Sport"),
            to: cell("DstAddr").to_owned(),
            to_port: port("Dport"),
            proto,
            state: state.to_owned(),
            history: history.to_owned(),
            // Argus counts headers; payload is what detectors mean.
            sent: sent.saturating_sub(54 * packets),
            received: number("TotBytes").saturating_sub(sent).saturating_sub(54 * all.saturating_sub(packets)),
            packets_sent: packets,
            packets_received: all.saturating_sub(packets),
        });
    }
    Ok(out)
}

/// Zeek's state and history of Argus' state: a word, or the flags of both sides as `S_RA`.
fn argus_state(proto: &str, state: &str) -> (&'static str, &'static str) {
    if proto != "tcp" {
        return match state {
            "CON" | "RSP" | "ECO" => ("SF", "Dd"),
            _ => ("S0", "D"),
        };
    }
    // One word for both sides, or the flags of each.
    match state {
        "REQ" | "INT" => return ("S0", "S"),
        "CON" | "EST" | "FIN" | "CLO" => return ("SF", "ShADadFf"),
        "RST" => return ("RSTO", "ShADaR"),
        _ => {}
    }
    let (ours, theirs) = state.split_once('_').unwrap_or((state, if state == "S0" { "" } else { "SA" }));
    match (ours.contains('S'), theirs.contains('S'), theirs.contains('R')) {
        (true, false, true) => ("REJ", "Sr"),
        (true, false, false) => ("S0", "S"),
        (true, true, _) => ("SF", "ShADadFf"),
        (false, ..) => ("OTH", "Cc"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn argus_text_becomes_connections_that_the_product_reads() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.binetflow");
        let text = "StartTime,Dur,Proto,SrcAddr,Sport,Dir,DstAddr,Dport,State,sTos,dTos,TotPkts,TotBytes,SrcBytes,Label\n\
                    2026/03/11 08:00:00.500000,1.5,tcp,10.0.0.66,4000,   ->,10.0.1.1,81,REQ,0,0,2,120,120,\n\
                    2026/03/11 08:00:01.000000,0.1,tcp,10.0.0.66,4001,   ->,10.0.1.2,81,S_RA,0,0,2,114,60,\n\
                    2026/03/11 08:00:01.000000,0.1,arp,10.0.0.66,0,   ->,10.0.1.2,0,INT,0,0,2,114,60,\n";
        fs::write(&path, text).unwrap();
        let conns = argus(&path).unwrap();
        let told: Vec<_> = conns.iter().map(|c| (c.state.as_str(), c.to_port, c.packets_sent, c.end_ns - c.start_ns)).collect();
        assert_eq!(told, [("S0", 81, 2, 1_500_000_000), ("REJ", 81, 2, 100_000_000)]);
        write_conns(dir.path(), conns).unwrap();
        fs::remove_file(&path).unwrap();
        let ran = super::super::way::run(dir.path(), &[], &[]).unwrap();
        assert_eq!((ran.rows, ran.lost), (2, 0));
        let table = Table::read(&dir.path().join("conn.log")).unwrap();
        let failed = table.moments(|t, row| t.cell(row, "conn_state") == "S0");
        assert_eq!(failed.iter().map(|at| at.to_rfc3339()).collect::<Vec<_>>(), ["2026-03-11T08:00:00.5Z"]);
    }
}
