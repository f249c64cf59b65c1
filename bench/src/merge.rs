//! `merge`: one folder of Zeek text logs laid into another, shifted in time, so that a labelled attack can be looked for
//! among somebody's benign days. Knows Zeek's text form and the columns that tidewatch reads; no detection.
//!
//! What always holds: a side's rows keep their own write order, the two sides are merged by it, and every row of a log that
//! is read comes out once. The directory appears when it is complete.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Rows of one side and log, at most: they are sorted in memory.
const ROWS_MAX: usize = 20_000_000;
/// Bytes of one log file once unpacked, at most.
const FILE_BYTES_MAX: u64 = 4 << 30;
/// Folders inside folders that are looked into.
const DEPTH_MAX: u32 = 4;

/// A log and the columns of it that are kept: those that tidewatch reads.
struct Kind {
    log: &'static str,
    /// Column that is added to `ts` for the moment a row was written.
    lasts: Option<&'static str>,
    columns: &'static [(&'static str, &'static str)],
}

const ENDS: [(&str, &str); 6] = [
    ("ts", "time"),
    ("uid", "string"),
    ("id.orig_h", "addr"),
    ("id.orig_p", "port"),
    ("id.resp_h", "addr"),
    ("id.resp_p", "port"),
];

const KINDS: [Kind; 4] = [
    Kind {
        log: "conn",
        lasts: Some("duration"),
        columns: &[
            ("proto", "enum"),
            ("service", "string"),
            ("duration", "interval"),
            ("orig_bytes", "count"),
            ("resp_bytes", "count"),
            ("conn_state", "string"),
            ("history", "string"),
            ("orig_pkts", "count"),
            ("resp_pkts", "count"),
        ],
    },
    Kind {
        log: "dns",
        lasts: Some("rtt"),
        columns: &[
            ("proto", "enum"),
            ("trans_id", "count"),
            ("rtt", "interval"),
            ("query", "string"),
            ("qtype", "count"),
            ("qtype_name", "string"),
            ("rcode", "count"),
            ("rcode_name", "string"),
            ("answers", "vector[string]"),
        ],
    },
    Kind {
        log: "ssl",
        lasts: None,
        columns: &[
            ("version", "string"),
            ("cipher", "string"),
            ("server_name", "string"),
            ("established", "bool"),
            ("ssl_history", "string"),
            ("cert_chain_fps", "vector[string]"),
            ("subject", "string"),
            ("issuer", "string"),
            ("validation_status", "string"),
            ("ja3", "string"),
            ("ja4", "string"),
        ],
    },
    Kind {
        log: "http",
        lasts: None,
        columns: &[
            ("method", "string"),
            ("host", "string"),
            ("uri", "string"),
            ("user_agent", "string"),
            ("request_body_len", "count"),
            ("response_body_len", "count"),
            ("status_code", "count"),
            ("tags", "set[enum]"),
        ],
    },
];

/// Lay one folder of Zeek text logs into another, shifted in time.
///
/// DIR gets conn.log, dns.log, ssl.log and http.log with the columns that tidewatch reads, in write order.
#[derive(clap::Args)]
#[command(after_help = "Example:
  tidewatch-bench merge --beacon /data/proxy --into /data/benign-day --out /tmp/mixed")]
pub struct Args {
    /// Folder whose rows are shifted.
    #[arg(long, value_name = "FOLDER")]
    beacon: PathBuf,
    /// Folder that they are laid into.
    #[arg(long, value_name = "FOLDER")]
    into: PathBuf,
    /// Seconds to add to the beacon's times; auto lets both begin at once.
    #[arg(long, value_name = "SECONDS|auto", default_value = "auto", value_parser = shift, allow_negative_numbers = true)]
    shift: Shift,
    /// An address of the beacon's folder that becomes another.
    #[arg(long, value_name = "ADDRESS", requires = "as_host")]
    source_host: Option<String>,
    /// The address that it becomes.
    #[arg(long, value_name = "ADDRESS", requires = "source_host")]
    as_host: Option<String>,
    /// Directory to make; must not exist.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shift {
    Auto,
    Micros(i64),
}

fn shift(text: &str) -> Result<Shift, String> {
    if text == "auto" {
        return Ok(Shift::Auto);
    }
    micros(text).map(Shift::Micros).ok_or_else(|| "expected seconds, as -3600 or 0.5, or auto".to_owned())
}

/// Runs the command.
///
/// # Errors
/// Says which folder or file cannot be read or written, or what in it is no Zeek text log.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let (counts, shift) = lay(args)?;
    let mut out = std::io::stdout().lock();
    for (log, theirs, ours) in counts {
        writeln!(out, "{log:<5} {ours:>9} rows of {}, {theirs:>9} shifted by {} s", args.into.display(), seconds(shift))?;
    }
    Ok(())
}

/// Lays one folder into another so that both begin at once, one host's address becoming another.
///
/// # Errors
/// As [`run`].
pub fn together(beacon: &Path, into: &Path, (host, as_host): (&str, &str), out: &Path) -> anyhow::Result<()> {
    let args = Args {
        beacon: beacon.to_owned(),
        into: into.to_owned(),
        shift: Shift::Auto,
        source_host: Some(host.to_owned()),
        as_host: Some(as_host.to_owned()),
        out: out.to_owned(),
    };
    lay(&args).map(|_| ())
}

/// A log, and its rows of either side.
type Counts = Vec<(&'static str, usize, usize)>;

/// Does it; rows by log, and the shift in microseconds.
fn lay(args: &Args) -> anyhow::Result<(Counts, i64)> {
    if args.out.exists() {
        bail!("--out {}: is there already; name a new directory", args.out.display());
    }
    let rename = args.source_host.as_deref().zip(args.as_host.as_deref());
    let beacon = Folder::read(&args.beacon, rename)?;
    let into = Folder::read(&args.into, None)?;
    let shift = match args.shift {
        Shift::Micros(by) => by,
        Shift::Auto => match (beacon.first(), into.first()) {
            (Some(from), Some(to)) => to - from,
            _ => bail!("a folder without rows has no beginning: give --shift SECONDS"),
        },
    };
    let mut name = args.out.file_name().context("--out has no name; name a new directory")?.to_owned();
    name.push(".partial");
    let partial = args.out.with_file_name(name);
    fs::create_dir_all(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
    let written = write(&partial, beacon, into, shift);
    let counts = match written {
        Ok(counts) => counts,
        Err(error) => {
            let _ = fs::remove_dir_all(&partial);
            return Err(error);
        }
    };
    fs::rename(&partial, &args.out).with_context(|| format!("cannot move the result to {}", args.out.display()))?;
    Ok((counts, shift))
}

/// One row: when it was written, when it began, and its values in the order of its kind's columns.
struct Row {
    written: i64,
    ts: i64,
    values: Vec<String>,
}

/// The rows of a folder by log, each in its own write order.
struct Folder(BTreeMap<&'static str, Vec<Row>>);

impl Folder {
    fn read(dir: &Path, rename: Option<(&str, &str)>) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        walk(dir, 0, &mut paths).with_context(|| format!("cannot read {}", dir.display()))?;
        paths.sort();
        let mut logs = BTreeMap::new();
        for kind in &KINDS {
            let mut files: Vec<Vec<Row>> = Vec::new();
            for path in paths.iter().filter(|p| is_log(p, kind.log)) {
                let rows = read(path, kind, rename).with_context(|| path.display().to_string())?;
                files.push(rows);
            }
            // Hourly files in the order of their first moment.
            files.sort_by_key(|rows| rows.first().map_or(i64::MAX, |r| r.written));
            let mut rows: Vec<Row> = files.into_iter().flatten().collect();
            if rows.len() > ROWS_MAX {
                bail!("{}: more than {ROWS_MAX} rows of {}", dir.display(), kind.log);
            }
            // Lines lie in the order in which they were written, whatever their times say.
            let mut highest = i64::MIN;
            for row in &mut rows {
                highest = highest.max(row.written);
                row.written = highest;
            }
            logs.insert(kind.log, rows);
        }
        if logs.values().all(Vec::is_empty) {
            bail!("{}: no row in a conn, dns, ssl or http log", dir.display());
        }
        Ok(Self(logs))
    }

    /// When it begins: by the connections, if it has any. Other logs of a folder may be of another time.
    fn first(&self) -> Option<i64> {
        let first = |rows: &Vec<Row>| rows.iter().map(|r| r.ts).min();
        self.0.get("conn").and_then(first).or_else(|| self.0.values().filter_map(first).min())
    }
}

fn walk(dir: &Path, depth: u32, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if !path.is_dir() {
            found.push(path);
        } else if depth < DEPTH_MAX {
            walk(&path, depth + 1, found)?;
        }
    }
    Ok(())
}

fn is_log(path: &Path, log: &str) -> bool {
    path.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('.').next()).is_some_and(|stem| stem == log)
}

fn read(path: &Path, kind: &Kind, rename: Option<(&str, &str)>) -> anyhow::Result<Vec<Row>> {
    let bytes = fs::read(path)?;
    let mut text = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        flate2::read::MultiGzDecoder::new(&bytes[..]).take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    } else {
        text = bytes;
    }
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("more than {FILE_BYTES_MAX} octets once unpacked");
    }
    // Zeek escapes what is not UTF-8; what still is not cannot matter to the columns kept.
    rows(&String::from_utf8_lossy(&text), kind, rename)
}

fn rows(text: &str, kind: &Kind, rename: Option<(&str, &str)>) -> anyhow::Result<Vec<Row>> {
    let columns: Vec<&str> = names(kind).collect();
    let mut places: Vec<Option<usize>> = Vec::new();
    let (mut unset, mut empty) = ("-", "(empty)");
    let mut rows = Vec::new();
    for (n, line) in text.lines().enumerate() {
        if let Some(header) = line.strip_prefix('#') {
            match header.split_once('\t') {
                Some(("fields", names)) => {
                    let names: Vec<&str> = names.split('\t').collect();
                    places = columns.iter().map(|c| names.iter().position(|n| n == c)).collect();
                }
                Some(("unset_field", word)) => unset = word,
                Some(("empty_field", word)) => empty = word,
                _ if header.starts_with("separator") && !header.ends_with("\\x09") => {
                    bail!("line {}: columns are not separated by tabs", n + 1)
                }
                _ => {}
            }
            continue;
        }
        if line.trim().is_empty() {
            continue;
        }
        if places.is_empty() {
            bail!("line {}: a row before #fields; only Zeek's text logs are merged, not JSON", n + 1);
        }
        let cells: Vec<&str> = line.split('\t').collect();
        let values: Vec<String> = places
            .iter()
            .map(|place| match place.and_then(|p| cells.get(p)) {
                None => "-".to_owned(),
                Some(cell) if *cell == unset => "-".to_owned(),
                Some(cell) if *cell == empty => "(empty)".to_owned(),
                Some(cell) => match rename {
                    Some((from, to)) if *cell == from => to.to_owned(),
                    _ => (*cell).to_owned(),
                },
            })
            .collect();
        let ts = micros(&values[0]).with_context(|| format!("line {}: ts {:?} is no time", n + 1, values[0]))?;
        let lasts = kind.lasts.and_then(|name| columns.iter().position(|c| *c == name));
        let lasts = lasts.and_then(|at| micros(&values[at])).unwrap_or(0);
        rows.push(Row { written: ts.saturating_add(lasts), ts, values });
    }
    Ok(rows)
}

fn names(kind: &Kind) -> impl Iterator<Item = &'static str> {
    ENDS.iter().chain(kind.columns).map(|(name, _)| *name)
}

/// Writes the merged logs; for each: its name, rows shifted, rows of the other side.
fn write(dir: &Path, mut beacon: Folder, mut into: Folder, shift: i64) -> anyhow::Result<Vec<(&'static str, usize, usize)>> {
    let mut counts = Vec::new();
    for kind in &KINDS {
        let mut rows = into.0.remove(kind.log).unwrap_or_default();
        let mut theirs = beacon.0.remove(kind.log).unwrap_or_default();
        let (ours_len, theirs_len) = (rows.len(), theirs.len());
        if ours_len + theirs_len == 0 {
            continue;
        }
        for row in &mut theirs {
            row.written = row.written.saturating_add(shift);
            row.ts = row.ts.saturating_add(shift);
            if row.ts < 0 {
                bail!("--shift {}: a row of {} would lie before 1970", seconds(shift), kind.log);
            }
            row.values[0] = seconds(row.ts);
        }
        rows.append(&mut theirs);
        // Stable: each side keeps its own order.
        rows.sort_by_key(|r| r.written);
        let path = dir.join(format!("{}.log", kind.log));
        fs::write(&path, text(kind, &rows)).with_context(|| format!("cannot write {}", path.display()))?;
        counts.push((kind.log, theirs_len, ours_len));
    }
    Ok(counts)
}

fn text(kind: &Kind, rows: &[Row]) -> String {
    let joined = |words: Vec<&str>| words.join("\t");
    let mut out = format!(
        "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t{}\n#fields\t{}\n#types\t{}\n",
        kind.log,
        joined(names(kind).collect()),
        joined(ENDS.iter().chain(kind.columns).map(|(_, kind)| *kind).collect()),
    );
    for row in rows {
        out.push_str(&row.values.join("\t"));
        out.push('\n');
    }
    out
}

/// Decimal seconds to microseconds, exactly; digits beyond the sixth are dropped.
fn micros(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, decimals) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || !whole.bytes().chain(decimals.bytes()).all(|c| c.is_ascii_digit()) {
        return None;
    }
    let decimals: String = decimals.chars().chain("000000".chars()).take(6).collect();
    let sum = whole.parse::<i64>().ok()?.checked_mul(1_000_000)?.checked_add(decimals.parse().ok()?)?;
    Some(if negative { -sum } else { sum })
}

/// Microseconds as Zeek prints seconds.
fn seconds(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    format!("{sign}{}.{:06}", micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CONN: &str = "#separator \\x09\n#unset_field\t?\n#path\tconn\n#fields\tts\tuid\tid.orig_h\tid.orig_p\tid.resp_h\tid.resp_p\
                        \tproto\tduration\tlabel\n";

    #[test]
    fn times_are_exact_both_ways() {
        for text in ["1672843056.913119", "0.000001", "-12.500000"] {
            assert_eq!(seconds(micros(text).unwrap()), text);
        }
        assert_eq!(micros("2.0000019"), Some(2_000_001));
        assert!(["", "-", "1e3", "NaN", "1.2.3", "+5", "9223372036854775807"].iter().all(|t| micros(t).is_none()));
        assert_eq!(shift("auto"), Ok(Shift::Auto));
        assert_eq!(shift("-1.5"), Ok(Shift::Micros(-1_500_000)));
    }

    #[test]
    fn a_beacon_is_laid_into_a_day() {
        let place = tempfile::tempdir().unwrap();
        let dir = |name: &str, rows: &str| {
            let dir = place.path().join(name);
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("conn.labeled.log"), format!("{CONN}{rows}")).unwrap();
            dir
        };
        let beacon =
            dir("beacon", "100.5\tb1\t10.0.0.1\t1\t9.9.9.9\t443\ttcp\t?\tx\n160.5\tb2\t10.0.0.1\t1\t9.9.9.9\t443\ttcp\t1\tx\n");
        // Long connections are written late: the file's order is kept.
        let into = dir("into", "1010\td1\t10.0.0.2\t1\t8.8.8.8\t53\tudp\t?\tx\n1000\td2\t10.0.0.2\t1\t8.8.8.8\t53\tudp\t59\tx\n");
        let args = Args {
            beacon,
            into,
            shift: Shift::Auto,
            source_host: Some("10.0.0.1".into()),
            as_host: Some("10.0.0.2".into()),
            out: place.path().join("out"),
        };
        run(&args).unwrap();
        let text = fs::read_to_string(args.out.join("conn.log")).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().filter(|l| !l.starts_with('#')).map(|l| l.split('\t').collect()).collect();
        let told: Vec<(&str, &str, &str)> = rows.iter().map(|r| (r[0], r[1], r[2])).collect();
        let expected = [
            ("1000.000000", "b1", "10.0.0.2"),
            ("1010", "d1", "10.0.0.2"),
            ("1000", "d2", "10.0.0.2"),
            ("1060.000000", "b2", "10.0.0.2"),
        ];
        assert_eq!(told, expected);
        assert_eq!(rows[0][8], "-", "an unset duration in the words of the new header");
        assert!(run(&args).unwrap_err().to_string().contains("is there already"));
    }

    #[test]
    fn what_is_no_text_log_is_said() {
        let error = rows("{\"ts\":1}\n", &KINDS[0], None).err().unwrap().to_string();
        assert!(error.contains("not JSON"), "{error}");
        let error = rows(&format!("{CONN}soon\tu\n"), &KINDS[0], None).err().unwrap().to_string();
        assert!(error.contains("line 5") && error.contains("soon"), "{error}");
    }
}
