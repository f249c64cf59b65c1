//! The traffic as Zeek writes it: conn, dns, ssl and http logs, tab-separated with their headers or as JSON, each log in
//! the order in which its lines are written (conn at a connection's end, ssl at the handshake's). Zeek knows no tenants:
//! a line carries the tenant beside it, and the caller keeps them apart.

use std::fmt::Write as _;

use tidewatch_schemas::time::{EventTime, SECOND_NS};

use crate::event::Event;
use crate::plan::Plan;
use crate::traffic::Traffic;

mod rows;

/// A log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Log {
    /// Connections.
    Conn,
    /// DNS queries.
    Dns,
    /// TLS handshakes.
    Ssl,
    /// HTTP exchanges.
    Http,
}

impl Log {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Conn, Self::Dns, Self::Ssl, Self::Http];

    /// Name of the log, as in `#path`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Conn => "conn",
            Self::Dns => "dns",
            Self::Ssl => "ssl",
            Self::Http => "http",
        }
    }

    /// Columns in order: (name, Zeek's type).
    pub fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Conn => rows::CONN,
            Self::Dns => rows::DNS,
            Self::Ssl => rows::SSL,
            Self::Http => rows::HTTP,
        }
    }

    /// The lines before the first row of a tab-separated file, with line ends.
    pub fn header(self, open: EventTime) -> String {
        let names: Vec<_> = self.fields().iter().map(|(name, _)| *name).collect();
        let types: Vec<_> = self.fields().iter().map(|(_, kind)| *kind).collect();
        format!(
            "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\t{}\n#open\t{}\n#fields\t{}\n#types\t{}\n",
            self.name(),
            stamp(open),
            names.join("\t"),
            types.join("\t")
        )
    }

    /// The line after the last row of a tab-separated file, with line end.
    pub fn footer(close: EventTime) -> String {
        format!("#close\t{}\n", stamp(close))
    }
}

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Tab-separated values.
    Tsv,
    /// One JSON object.
    Json,
}

/// One line of a log, without line end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZeekLine {
    /// Log it belongs to.
    pub log: Log,
    /// Index of the tenant in the plan.
    pub tenant: u16,
    /// When it was written: never goes back within a plan.
    pub at: EventTime,
    /// The line.
    pub line: String,
}

/// The lines of a plan, by time of writing.
pub fn zeek_lines(plan: &Plan, style: Style) -> impl Iterator<Item = ZeekLine> + '_ {
    zeek_lines_of(plan, style, &Log::ALL)
}

/// The lines of some logs of a plan: the same as among all others.
pub fn zeek_lines_of<'p>(plan: &'p Plan, style: Style, logs: &'p [Log]) -> impl Iterator<Item = ZeekLine> + 'p {
    let wanted = |event: &Event| {
        logs.contains(&match event {
            Event::Flow(_) => Log::Conn,
            Event::Dns(_) => Log::Dns,
            Event::Tls(_) => Log::Ssl,
            Event::Http(_) => Log::Http,
        })
    };
    Traffic::new(plan, 0).filter(wanted).map(move |event| {
        let (log, row) = match &event {
            Event::Flow(flow) => (Log::Conn, rows::conn(plan.seed, flow)),
            Event::Dns(dns) => (Log::Dns, rows::query(plan.seed, dns)),
            Event::Tls(tls) => (Log::Ssl, rows::handshake(plan.seed, tls)),
            Event::Http(http) => (Log::Http, rows::exchange(plan.seed, http)),
        };
        debug_assert_eq!(row.len(), log.fields().len());
        let line = match style {
            Style::Tsv => tsv(&row),
            Style::Json => json(log.fields(), &row),
        };
        ZeekLine { log, tenant: event.connection().tenant, at: event.at(), line }
    })
}

/// A cell; what it looks like depends on the style alone.
enum Cell {
    Unset,
    /// Seconds with six decimals, from nanoseconds: times and intervals.
    Seconds(i64),
    Count(u64),
    Bool(bool),
    Text(String),
    Fixed(&'static str),
    Texts(Vec<String>),
    Intervals(Vec<i64>),
}

fn tsv(row: &[Cell]) -> String {
    let mut line = String::with_capacity(192);
    for (n, cell) in row.iter().enumerate() {
        if n > 0 {
            line.push('\t');
        }
        match cell {
            Cell::Unset => line.push('-'),
            Cell::Seconds(ns) => seconds(&mut line, *ns),
            Cell::Count(count) => _ = write!(line, "{count}"),
            Cell::Bool(yes) => line.push(if *yes { 'T' } else { 'F' }),
            // Generated texts hold no tab, no line end and nothing unprintable.
            Cell::Text(text) => line.push_str(text),
            Cell::Fixed(text) => line.push_str(text),
            Cell::Texts(texts) => line.push_str(&texts.join(",")),
            Cell::Intervals(all) => joined(&mut line, all),
        }
    }
    line
}

fn json(fields: &[(&str, &str)], row: &[Cell]) -> String {
    let mut line = String::with_capacity(512);
    for ((name, _), cell) in fields.iter().zip(row) {
        if matches!(cell, Cell::Unset) {
            continue;
        }
        line.push(if line.is_empty() { '{' } else { ',' });
        _ = write!(line, "\"{name}\":");
        match cell {
            Cell::Unset => {}
            Cell::Seconds(ns) => seconds(&mut line, *ns),
            Cell::Count(count) => _ = write!(line, "{count}"),
            Cell::Bool(yes) => line.push_str(if *yes { "true" } else { "false" }),
            // Generated texts hold nothing that JSON would escape.
            Cell::Text(text) => _ = write!(line, "\"{text}\""),
            Cell::Fixed(text) => _ = write!(line, "\"{text}\""),
            Cell::Texts(texts) => _ = write!(line, "[\"{}\"]", texts.join("\",\"")),
            Cell::Intervals(all) => {
                line.push('[');
                joined(&mut line, all);
                line.push(']');
            }
        }
    }
    line.push('}');
    line
}

fn joined(line: &mut String, intervals: &[i64]) {
    for (n, &ns) in intervals.iter().enumerate() {
        if n > 0 {
            line.push(',');
        }
        seconds(line, ns);
    }
}

fn seconds(line: &mut String, ns: i64) {
    _ = write!(line, "{}.{:06}", ns.div_euclid(SECOND_NS), ns.rem_euclid(SECOND_NS) / 1_000);
}

/// `2026-03-11-08-00-00`.
fn stamp(at: EventTime) -> String {
    let whole = EventTime(at.0 - at.0.rem_euclid(SECOND_NS)).to_rfc3339();
    whole.trim_end_matches('Z').replace(['T', ':'], "-")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;
    use crate::attack::{Attack, Beacon, Peer};

    fn plan() -> Plan {
        let beacon = Beacon { peer: Peer::Proxied, duration_s: 7_200, ..Beacon::default() };
        Plan { attacks: vec![Attack::from(beacon)], proxied_share: 0.3, flows_max: Some(12_000), ..Plan::small(9) }
    }

    /// Reads columns by their names, as a reader of Zeek's files must.
    fn columns<'a>(header: &'a str, line: &'a str) -> BTreeMap<&'a str, &'a str> {
        let fields = header.lines().find_map(|l| l.strip_prefix("#fields\t")).unwrap();
        let types = header.lines().find_map(|l| l.strip_prefix("#types\t")).unwrap();
        assert_eq!(fields.split('\t').count(), types.split('\t').count());
        assert_eq!(fields.split('\t').count(), line.split('\t').count(), "{line}");
        fields.split('\t').zip(line.split('\t')).collect()
    }

    #[test]
    fn a_seed_gives_the_same_lines_for_ever() {
        let mut hash = blake3::Hasher::new();
        let mut lines = 0;
        for line in zeek_lines(&plan(), Style::Tsv) {
            hash.update(line.log.name().as_bytes()).update(&line.at.0.to_be_bytes()).update(line.line.as_bytes());
            lines += 1;
        }
        expect_test::expect!["18819 lines, 7a4b5e08664b0127"]
            .assert_eq(&format!("{lines} lines, {}", &hash.finalize().to_hex()[..16]));
    }

    #[test]
    fn tabs_and_json_say_the_same() {
        let plan = plan();
        let headers: BTreeMap<_, _> = Log::ALL.iter().map(|&log| (log, log.header(plan.start))).collect();
        let mut seen: BTreeMap<Log, u64> = BTreeMap::new();
        let mut last = plan.start;
        for (tsv, json) in zeek_lines(&plan, Style::Tsv).zip(zeek_lines(&plan, Style::Json)) {
            assert_eq!((tsv.log, tsv.at, tsv.tenant), (json.log, json.at, json.tenant));
            assert!(tsv.at >= last);
            last = tsv.at;
            *seen.entry(tsv.log).or_default() += 1;
            let cells = columns(&headers[&tsv.log], &tsv.line);
            let object: BTreeMap<String, serde_json::Value> = serde_json::from_str(&json.line).unwrap();
            for (name, cell) in &cells {
                match object.get(*name) {
                    None => assert_eq!(*cell, "-"),
                    Some(serde_json::Value::Bool(yes)) => assert_eq!(*cell, if *yes { "T" } else { "F" }),
                    Some(serde_json::Value::String(text)) => assert_eq!(cell, text),
                    Some(serde_json::Value::Number(number)) => {
                        assert_eq!(cell.parse::<f64>().unwrap(), number.as_f64().unwrap());
                    }
                    Some(serde_json::Value::Array(_)) => assert!(!cell.contains('[')),
                    other => unreachable!("{other:?}"),
                }
            }
            if tsv.log == Log::Conn {
                let start = EventTime::from_secs_f64(cells["ts"].parse().unwrap()).unwrap();
                let lasts = EventTime::from_secs_f64(cells["duration"].parse().unwrap()).unwrap();
                assert!((start.plus(lasts.0).since(tsv.at)).abs() < 2_000, "written at the end: {}", tsv.line);
            }
        }
        assert_eq!(seen.len(), 4, "{seen:?}");
    }

    #[test]
    fn only_http_names_what_is_behind_the_proxy() {
        let plan = plan();
        let label = crate::truths(&plan).remove(0);
        assert_eq!(label.needs.as_deref(), Some("http"));
        let name = label.destination.unwrap();
        let connects = zeek_lines(&plan, Style::Tsv)
            .filter(|l| l.log == Log::Http && l.line.contains("\tCONNECT\t") && l.line.contains(&name))
            .count();
        assert!(connects > 60, "{connects}");
        let to_proxy = |l: &ZeekLine| l.log == Log::Conn && l.line.contains("\t10.0.0.80\t3128\t");
        let proxied = zeek_lines(&plan, Style::Tsv).filter(to_proxy).count();
        assert!(proxied > 3 * connects, "others use the proxy too: {proxied}");
    }

    #[test]
    fn a_file_begins_and_ends_as_zeeks_do() {
        let header = Log::Conn.header(EventTime::from_secs(1_773_216_000).plus(999));
        assert!(header.starts_with("#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n#path\tconn\n"));
        assert!(header.contains("#open\t2026-03-11-08-00-00\n#fields\tts\tuid\tid.orig_h\t"));
        assert_eq!(Log::footer(EventTime::from_secs(1_773_216_000)), "#close\t2026-03-11-08-00-00\n");
        assert!(rows::uid(1, 2) != rows::uid(1, 3) && rows::uid(1, 2).len() == 18);
    }
}
