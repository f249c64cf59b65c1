//! Tests of `where`: what it decides on, what it answers row by row in whatever batch, what it refuses.
#![allow(clippy::unwrap_used, clippy::panic)]

use expect_test::expect;
use proptest::prelude::*;
use tidewatch_schemas::address::Address;
use tidewatch_schemas::observation::{DnsColumns, DnsRow, FlowColumns, FlowRow};
use tidewatch_schemas::signal::{Endpoint, Entity, Evidence, RuleRef, Severity, Value};
use tidewatch_schemas::time::EventTime;

use super::*;
use crate::detectors;
use crate::operator::Field;

/// What a finding's evidence holds stands in the detector's list, which `where` goes by.
pub(crate) fn declared(finding: &Finding) {
    let Some(detector) = detectors::by_kind(&finding.kind) else { return };
    for (name, value) in &finding.evidence {
        let is = match value {
            Value::Long(_) => Field::Long,
            Value::Double(_) => Field::Double,
            Value::Text(_) => Field::Text,
            Value::Flag(_) => Field::Flag,
            Value::List(_) => Field::List,
        };
        assert!(detector.evidence.contains(&(name.as_str(), is)), "{}: evidence {name} is {is:?}", detector.kind);
    }
}

fn compile(kind: &str, text: &str) -> Result<Filter, String> {
    let told = |all: Vec<Wrong>| {
        let one = |w: Wrong| w.what + &w.suggestion.map(|s| format!("; did you mean {s}?")).unwrap_or_default();
        all.into_iter().map(one).collect::<Vec<_>>().join("\n")
    };
    Filter::compile(text, detectors::by_rule_kind(kind).unwrap()).map_err(told)
}

/// 2026-06-01T02:00:00Z, a Monday.
const NIGHT: EventTime = EventTime::from_secs(1_780_279_200);

fn flow(to: [u8; 4], port: Option<u16>, out: Option<u64>, back: Option<u64>) -> FlowRow<'static> {
    FlowRow {
        tenant: "t",
        host_address: Some(Address::v4([10, 0, 0, 5])),
        source_address: Some(Address::v4([10, 0, 0, 5])),
        destination_address: Some(Address::v4(to)),
        destination_port: port,
        bytes_forward: out,
        bytes_reverse: back,
        event_time: NIGHT,
        connection_state: Some("SF"),
        transport: 6,
        ..FlowRow::default()
    }
}

fn flows(rows: &[FlowRow<'_>]) -> Batch {
    let mut columns = FlowColumns::default();
    rows.iter().for_each(|row| columns.push(row));
    Batch::open(Kind::Flow, &columns.finish()).unwrap()
}

fn names(all: &[&str]) -> Batch {
    let mut columns = DnsColumns::default();
    all.iter().for_each(|query| columns.push(&DnsRow { query, ..DnsRow::default() }));
    Batch::open(Kind::Dns, &columns.finish()).unwrap()
}

/// Numbers of the rows that match.
fn matched(filter: &Filter, batch: &Batch) -> Vec<usize> {
    filter.rows(batch).unwrap().iter().enumerate().filter(|(_, is)| **is).map(|(i, _)| i).collect()
}

#[test]
fn rows_match_by_addresses_ports_octets_texts_and_times() {
    let batch = flows(&[
        flow([10, 0, 1, 9], Some(445), Some(100), Some(50)),
        flow([203, 0, 113, 66], Some(443), Some(5_000), Some(100)),
        flow([203, 0, 113, 7], None, None, Some(1)),
    ]);
    for (text, wanted) in [
        ("destination_port = 443", vec![1]),
        ("destination_port <> 443", vec![0]),
        ("destination_port IS NULL OR destination_port = 445", vec![0, 2]),
        ("destination_port IN (443, 445)", vec![0, 1]),
        ("destination_port NOT IN (443)", vec![0]),
        ("destination_address = '203.0.113.66'", vec![1]),
        ("destination_address IN ('203.0.113.66', '10.0.1.9')", vec![0, 1]),
        ("in_network(destination_address, '10.0.0.0/8')", vec![0]),
        ("NOT in_network(destination_address, '10.0.0.0/8', '203.0.113.64/27')", vec![2]),
        ("bytes_forward BETWEEN 100 AND 4999", vec![0]),
        ("bytes_reverse - bytes_forward < 0", vec![0, 1]),
        ("bytes_forward / bytes_reverse > 10", vec![1]),
        ("coalesce(bytes_forward, 0) < 101", vec![0, 2]),
        ("connection_state = 'SF' AND destination_port < 444", vec![1]),
        ("connection_state LIKE 'S_' AND transport = 6 AND bytes_forward > 1", vec![0, 1]),
        ("connection_state ~ '^S[FX]$' AND bytes_forward IS NULL", vec![2]),
        ("hour(event_time) = 2 AND weekday(event_time) = 1 AND destination_port = 445", vec![0]),
        ("event_time >= '2026-06-01T02:00:00Z' AND event_time < '2026-06-02' AND destination_port = 445", vec![0]),
        ("seconds(event_time) - 1 < 1780279200 AND destination_port = 443", vec![1]),
        ("CASE WHEN destination_port = 443 THEN bytes_forward > 1 ELSE false END", vec![1]),
        ("CAST(bytes_forward AS DOUBLE) / 3 > 1666.6", vec![1]),
    ] {
        let filter = compile("egress_volume", text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(filter.scope(), Scope::Rows(vec![Kind::Flow]), "{text}");
        assert_eq!(matched(&filter, &batch), wanted, "{text}");
        assert_eq!(filter.errors(), 0, "{text}");
    }
}

#[test]
fn names_match_by_whole_labels_and_patterns() {
    let batch = names(&["a.cdn.example", "cdn.example", "xcdn.example", "w\u{fc}ste.example", ""]);
    for (text, wanted) in [
        ("under(query, 'CDN.example')", vec![0, 1]),
        ("NOT under(query, '*.cdn.example', 'w\u{fc}ste.example')", vec![2, 4]),
        ("query LIKE '%cdn.example'", vec![0, 1, 2]),
        ("query ILIKE 'A.%'", vec![0]),
        ("starts_with(query, 'cdn', 'x')", vec![1, 2]),
        ("ends_with(query, '.example') AND length(query) = 13", vec![0, 3]),
        ("contains(query, '.cdn.')", vec![0]),
        ("lower(query) = 'cdn.example'", vec![1]),
    ] {
        let filter = compile("dns_exfil", text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(matched(&filter, &batch), wanted, "{text}");
    }
}

#[test]
fn an_error_in_a_row_is_that_rows_alone_and_counted() {
    let row = |out: u64, back: u64| flow([203, 0, 113, 7], Some(443), Some(out), Some(back));
    let rows: Vec<FlowRow<'_>> = (0..1000).map(|i| row(i, u64::from(i % 100 != 7))).collect();
    let filter = compile("egress_volume", "bytes_forward / bytes_reverse >= 500").unwrap();
    let answers = matched(&filter, &flows(&rows));
    assert_eq!(answers, (500..1000).filter(|i| i % 100 != 7).collect::<Vec<_>>());
    assert_eq!(filter.errors(), 10);
    // Beyond 64 bits, and beyond what has a sign.
    for (text, out, back) in [
        ("bytes_forward * bytes_reverse > 0", 1 << 40, 1 << 40),
        ("bytes_forward + bytes_reverse > 0", i64::MAX as u64, 1),
        ("bytes_forward + 0 > 0", u64::MAX, 0),
        ("CAST(connection_state AS BIGINT) = bytes_reverse", 0, 0),
        ("10 % bytes_forward = 0", 0, 0),
    ] {
        let filter = compile("egress_volume", text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(matched(&filter, &flows(&[row(out, back)])), Vec::<usize>::new(), "{text}");
        assert_eq!(filter.errors(), 1, "{text}");
    }
    // What is not reached in a row is no error of it.
    let filter = compile("egress_volume", "bytes_reverse <> 0 AND bytes_forward / bytes_reverse >= 500").unwrap();
    assert_eq!(matched(&filter, &flows(&rows)), answers);
    assert_eq!(filter.errors(), 0);
}

#[test]
fn which_of_rows_or_findings_follows_from_the_names() {
    let scope = |kind: &str, text: &str| compile(kind, text).map(|f| f.scope().words());
    assert_eq!(scope("beaconing", "confidence > 60").unwrap(), "which findings go on");
    assert_eq!(scope("beaconing", "evidence.interval_s < 60 AND destination.port = 443").unwrap(), "which findings go on");
    assert_eq!(scope("dns_dga", "query_type = 1").unwrap(), "which dns rows are seen");
    let several = compile("beaconing", "destination_port <> 8443").unwrap();
    let Scope::Rows(kinds) = several.scope() else { panic!() };
    assert!(kinds.contains(&Kind::Flow) && kinds.contains(&Kind::Tls) && !kinds.contains(&Kind::Dns), "{kinds:?}");
    assert!(several.rows(&names(&["a"])).is_none(), "of a table without the column all rows are seen");
}

#[test]
fn what_is_refused_and_why() {
    let mut told = String::new();
    for text in [
        "",
        "destination_port =",
        "destination_port = 443; DROP TABLE x",
        "destination_prt = 443 AND bytes_foward > 3",
        "evidence.byte > 3",
        "confidence > 60 AND destination_port = 443",
        "offset = 3",
        "1 = 1",
        "bytes_forward = NULL",
        "bytes_forward = service",
        "destination_port IN (443, 70000)",
        "NOT bytes_forward",
        "CASE WHEN destination_port = 1 THEN 1 ELSE 'a' END = 1",
        "bytes_forward + 1",
        "event_time > now() - 5",
        "random() < 0.5 AND bytes_forward > 1",
        "event_time < current_timestamp",
        "count(bytes_forward) > 3",
        "sum(bytes_forward) OVER () > 3",
        "bytes_forward > (SELECT 1)",
        "bytes_forward IN (SELECT 1)",
        "EXISTS (SELECT 1)",
        "bytes_forward IN (bytes_reverse)",
        "lenght(service) > 3",
        "in_network(destination_address)",
        "in_network(destination_address, '10.0.0.0/33')",
        "in_network(service, '10.0.0.0/8')",
        "destination_address = '10.0.0.0/8'",
        "destination_address = 'server'",
        "destination_address = 10",
        "destination_address LIKE '10.%'",
        "service = \"http\"",
        "service ~ '('",
        "service ~ service",
        "event_time > 'yesterday'",
        "event_time - event_time > 3",
        "service + 1 > 2",
        "repeat(service, 1000000) = 'a'",
        "CAST(service AS DATE) > 3",
    ] {
        let wrong = compile("egress_volume", text).map(|f| f.scope().words()).unwrap_err();
        told += &format!("{text}\n    {}\n", wrong.replace('\n', "\n    "));
    }
    expect![[r#"

            is no SQL expression: sql parser error: Expected: an expression, found: EOF
        destination_port =
            is no SQL expression: sql parser error: Expected: an expression, found: EOF
        destination_port = 443; DROP TABLE x
            is one SQL expression; after it comes ;
        destination_prt = 443 AND bytes_foward > 3
            unknown column bytes_foward of kind egress_volume; did you mean bytes_forward?
            unknown column destination_prt of kind egress_volume; did you mean destination_port?
        evidence.byte > 3
            unknown column evidence.byte of kind egress_volume; did you mean evidence.bytes?
        confidence > 60 AND destination_port = 443
            mixes columns of rows (destination_port) with fields of findings (confidence)
        offset = 3
            unknown column offset of kind egress_volume
        1 = 1
            names no column: it would say the same of every row
        bytes_forward = NULL
            compares with NULL, which is never true; there are IS NULL and IS NOT NULL
        bytes_forward = service
            compares a whole number with a text
        destination_port IN (443, 70000)
            looks for a whole number among 70000
        NOT bytes_forward
            expected a condition, got a whole number in bytes_forward
        CASE WHEN destination_port = 1 THEN 1 ELSE 'a' END = 1
            has results of several kinds: a whole number, a text
        bytes_forward + 1
            is no condition: its value is a whole number
        event_time > now() - 5
            now is volatile: a backtest would be told otherwise than the live run; rows have event_time
        random() < 0.5 AND bytes_forward > 1
            random is volatile: a backtest would be told otherwise than the live run; rows have event_time
        event_time < current_timestamp
            current_timestamp is volatile: a backtest would be told otherwise than the live run; rows have event_time
        count(bytes_forward) > 3
            takes no aggregates: a row is judged by itself, got count; counting is the detector's
        sum(bytes_forward) OVER () > 3
            takes no window functions: a row is judged by itself, got sum
        bytes_forward > (SELECT 1)
            takes no subquery: a row is judged by itself, got (SELECT 1)
        bytes_forward IN (SELECT 1)
            takes no subquery: a row is judged by itself, got bytes_forward IN (SELECT 1)
        EXISTS (SELECT 1)
            takes no subquery: a row is judged by itself, got EXISTS (SELECT 1)
        bytes_forward IN (bytes_reverse)
            takes literals alone in IN, got bytes_reverse
        lenght(service) > 3
            unknown function lenght; did you mean length?
        in_network(destination_address)
            expected in_network(address, 'network', ...)
        in_network(destination_address, '10.0.0.0/33')
            expected a network as 10.0.0.0/8, got 10.0.0.0/33
        in_network(service, '10.0.0.0/8')
            expected in_network(address, 'network', ...), got a text
        destination_address = '10.0.0.0/8'
            expected an address, got the network 10.0.0.0/8; there is in_network(address, '10.0.0.0/8')
        destination_address = 'server'
            expected an address, got server
        destination_address = 10
            compares an address with 10; addresses stand in single quotes
        destination_address LIKE '10.%'
            LIKE is of texts, not of addresses; there is in_network(address, '10.0.0.0/8')
        service = "http"
            unknown column http of kind egress_volume; a text stands in single quotes
        service ~ '('
            cannot be evaluated: unclosed group\n~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~~…
        service ~ service
            takes literal patterns alone, got service
        event_time > 'yesterday'
            expected a moment as 2026-06-01T12:00:00Z, got yesterday
        event_time - event_time > 3
            - is of numbers; seconds() makes one of a time
        service + 1 > 2
            + is of numbers, got a text
        repeat(service, 1000000) = 'a'
            unknown function repeat
        CAST(service AS DATE) > 3
            casts to BIGINT, DOUBLE, TEXT and BOOLEAN, got DATE
    "#]]
    .assert_eq(&told);
    let long = format!("service IN ({})", vec!["'a'"; 2000].join(","));
    assert!(compile("egress_volume", &long).unwrap_err().starts_with("8"), "bytes are counted");
    let deep = vec!["bytes_forward > 1"; 70].join(" AND ");
    assert!(compile("egress_volume", &deep).unwrap_err().contains("64 operators deep"));
    let nested = format!("{}bytes_forward > 1{}", "(".repeat(500), ")".repeat(500));
    assert!(!compile("egress_volume", &nested).unwrap_err().is_empty());
}

fn finding(confidence: u8, port: u16, interval_s: f64) -> Finding {
    let at = NIGHT;
    Finding {
        tenant: "t".into(),
        plane: String::new(),
        kind: String::new(),
        title: String::new(),
        why: String::new(),
        severity: Severity::Low,
        confidence,
        rule: RuleRef { id: "r".into(), version: 1 },
        entity: Entity { kind: "host".into(), id: "10.0.0.5".into() },
        source: None,
        destination: Some(Endpoint { ip: Some("203.0.113.66".into()), port: Some(port), ..Endpoint::default() }),
        first_seen: at,
        last_seen: at,
        decided_at: at,
        slice_start: at,
        slice_end: at,
        evidence: Evidence::from([
            ("interval_s".to_owned(), Value::Double(interval_s)),
            ("key".to_owned(), Value::Text("name".to_owned())),
            ("samples".to_owned(), Value::Long(9)),
        ]),
        attack: Vec::new(),
        raw: Vec::new(),
        subject: "203.0.113.66:443".into(),
        contact: None,
        suppress_ns: 0,
        held_up_to: None,
        shadow: false,
    }
}

#[test]
fn findings_match_by_their_published_fields_and_evidence() {
    let findings = [finding(80, 443, 60.0), finding(40, 443, 3.0), finding(90, 53, 60.0)];
    for (text, wanted) in [
        ("confidence >= 80", [true, false, true]),
        ("destination.port = 443 AND evidence.interval_s >= 30", [true, false, false]),
        ("severity = 'low' AND evidence.key = 'name' AND confidence > 40", [true, false, true]),
        ("evidence.samples / (destination.port - 53) >= 0", [true, true, false]),
        ("in_network(destination.ip, '203.0.113.0/24') AND entity.id = '10.0.0.5' AND confidence < 50", [false, true, false]),
        ("source.ip IS NULL AND hour(decided_at) = 2 AND destination.port <> 443", [false, false, true]),
        ("evidence.bytes_median > 10 OR evidence.ordinary IS NOT NULL", [false, false, false]),
    ] {
        let filter = compile("beaconing", text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert_eq!(filter.findings(&findings), wanted, "{text}");
        let alone: Vec<bool> = findings.iter().flat_map(|f| filter.findings(std::slice::from_ref(f))).collect();
        assert_eq!(alone, wanted, "{text}");
    }
}

proptest! {
    /// A row's answer is its own, however the rows are put into batches.
    #[test]
    fn answers_do_not_depend_on_the_batch(
        rows in prop::collection::vec((prop::option::of(0u16..4), prop::option::of(0u64..4), prop::option::of(0u64..3)), 1..80),
        cut in 1usize..80,
        which in 0usize..6,
    ) {
        let text = [
            "bytes_forward / bytes_reverse >= 1",
            "destination_port = 1 AND bytes_forward / bytes_reverse >= 1",
            "NOT (destination_port = 1 AND bytes_forward / bytes_reverse >= 1)",
            "(destination_port = 1 AND bytes_forward / bytes_reverse >= 1) IS NULL",
            "destination_port > 1 OR bytes_forward / bytes_reverse >= 1",
            "CASE WHEN destination_port = 1 THEN bytes_forward / bytes_reverse ELSE bytes_reverse / destination_port END > 0",
        ][which];
        let filter = compile("egress_volume", text).unwrap();
        let rows: Vec<FlowRow<'_>> = rows.into_iter().map(|(p, o, b)| flow([203, 0, 113, 7], p, o, b)).collect();
        let whole = filter.rows(&flows(&rows)).unwrap();
        let parts: Vec<bool> = rows.chunks(cut).flat_map(|part| filter.rows(&flows(part)).unwrap()).collect();
        prop_assert_eq!(&whole, &parts);
        let alone: Vec<bool> = rows.iter().flat_map(|row| filter.rows(&flows(&[*row])).unwrap()).collect();
        prop_assert_eq!(&whole, &alone);
    }

    /// Whatever is written, it is refused or taken, never a panic.
    #[test]
    fn any_text_is_refused_or_taken(text in "[a-z_.()'0-9 <>=+*/%,~|&-]{0,80}") {
        let _ = compile("beaconing", &text);
    }
}
