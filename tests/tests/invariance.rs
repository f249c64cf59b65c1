//! P2: the same rows give the same signals, whatever the batch, the number of partitions and workers, the order within
//! the lateness, the log, live or backtest. And the suite can fail: an operator that depends on arrival, and one that
//! breaks ties by where a row lay, are both found.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use tidewatch_operators::detectors;
use tidewatch_operators::operator::{Context, Detector, Draft, Footprint, Observation, Operator, Seen};
use tidewatch_operators::rule::Rule;
use tidewatch_operators::runtime::Store;
use tidewatch_schemas::observation::Kind;
use tidewatch_schemas::signal::{Endpoint, Severity};
use tidewatch_tests::scenario::{Drive, Layout, LogKind, Scenario};
use tidewatch_tests::traffic;

/// Every pair of values of two dimensions stands in one of these, all but those of a backtest, which has one worker.
fn layouts() -> Vec<Layout> {
    use Drive::{Backtest, Lockstep, Threads};
    use LogKind::{Embedded, Gaps, Memory};
    let layout = |poll_records, inputs, obs, workers, shuffle, log, drive| Layout {
        poll_records,
        inputs,
        obs,
        findings: obs,
        workers,
        shuffle,
        log,
        drive,
    };
    vec![
        layout(1, 3, 8, 1, Some(1), Memory, Lockstep),
        layout(7, 8, 3, 3, None, Embedded, Threads),
        layout(4096, 8, 8, 3, Some(2), Memory, Threads),
        layout(1, 8, 1, 3, Some(3), Gaps, Lockstep),
        layout(7, 1, 8, 1, Some(4), Gaps, Threads),
        layout(4096, 3, 3, 1, None, Embedded, Lockstep),
        layout(4096, 3, 1, 3, Some(5), Embedded, Threads),
        layout(7, 3, 8, 1, Some(6), Memory, Backtest),
        layout(1, 1, 3, 1, Some(7), Embedded, Backtest),
        layout(4096, 8, 1, 1, None, Gaps, Backtest),
    ]
}

/// Layouts whose signals differ from those of the plainest one, with the first difference.
fn differences(scenario: &Scenario, layouts: &[Layout]) -> Vec<String> {
    let plain = scenario.run(&Layout::default()).unwrap();
    assert!(plain.signals.values().flatten().count() > 0, "{}: nothing to compare", scenario.name);
    let rows = plain.ledger.total();
    assert_eq!((rows.late, rows.rejected), (0, 0), "{}: rows are late: {rows:?}", scenario.name);
    let mut found = Vec::new();
    for layout in layouts {
        let got = scenario.run(layout).unwrap();
        let total = got.ledger.total();
        assert_eq!(
            (total.rows_in, total.late, total.duplicate),
            (rows.rows_in, 0, rows.duplicate),
            "{}: {layout:?}",
            scenario.name
        );
        if got.signals != plain.signals {
            let want: Vec<_> = plain.signals.values().flatten().collect();
            let got: Vec<_> = got.signals.values().flatten().collect();
            let first = want.iter().zip(&got).find(|(a, b)| a != b);
            found.push(format!("{layout:?}: {} signals for {}, first difference {first:#?}", got.len(), want.len()));
        }
    }
    found
}

fn the_same(scenario: &Scenario, layouts: &[Layout]) {
    let found = differences(scenario, layouts);
    assert!(found.is_empty(), "{}:\n{}", scenario.name, found.join("\n"));
}

/// What never speaks is the same in every layout.
fn every_kind_speaks(scenario: &Scenario) {
    let plain = scenario.run(&Layout::default()).unwrap();
    for detector in detectors::ALL {
        assert!(!plain.of_kind(detector.kind).is_empty(), "{}: {} is silent", scenario.name, detector.kind);
    }
}

#[test]
fn rows_made_by_hand() {
    the_same(&traffic::by_hand(), &layouts());
}

#[test]
fn an_office_as_probectl_sees_it() {
    let office = traffic::office(11);
    every_kind_speaks(&office);
    the_same(&office, &layouts());
}

#[test]
fn an_office_as_zeek_sees_it() {
    // No batches: a record is a row, so the smallest polls cost most and the others show as much.
    let some: Vec<_> = layouts().into_iter().filter(|l| l.poll_records != 1).collect();
    let zeek = traffic::zeek(12);
    every_kind_speaks(&zeek);
    the_same(&zeek, &some);
}

/// What the faulty operators keep: nothing.
#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Nothing;

impl Footprint for Nothing {
    fn heap_bytes(&self) -> usize {
        0
    }
}

fn tell(seen: &Seen<'_>, ctx: &mut Context<'_>) {
    let Observation::Flow(flow) = &seen.what else { return };
    let peer = flow.peer.address.map(|a| a.to_string()).unwrap_or_default();
    ctx.emit(Draft {
        why: format!("{peer} was chosen"),
        confidence: 50,
        subject: peer.clone(),
        destination: Some(Endpoint { ip: Some(peer), ..Endpoint::default() }),
        first_seen: seen.at,
        last_seen: seen.at,
        decided_at: seen.at,
        ..Draft::default()
    });
}

fn lies(seen: &Seen<'_>) -> (i64, u16, u32) {
    (seen.position.offset, seen.position.input, seen.position.row)
}

/// Fault: tells of the row that arrived first in a slice.
struct ByArrival;

impl Operator for ByArrival {
    type State = Nothing;

    fn rows(&self, rows: &[Seen<'_>], _: &mut Nothing, ctx: &mut Context<'_>) {
        if let Some(first) = rows.iter().min_by_key(|s| lies(s)) {
            tell(first, ctx);
        }
    }
}

/// Fault: tells of the last contact of a slice, and where several share that moment, of the one that lies first.
struct TiesByPosition;

impl Operator for TiesByPosition {
    type State = Nothing;

    fn rows(&self, rows: &[Seen<'_>], _: &mut Nothing, ctx: &mut Context<'_>) {
        if let Some(last) = rows.iter().max_by_key(|s| (s.at, std::cmp::Reverse(lies(s)))) {
            tell(last, ctx);
        }
    }
}

/// No fault: the same, ties broken by the order in which the runtime hands rows over.
struct TiesByOrder;

impl Operator for TiesByOrder {
    type State = Nothing;

    fn rows(&self, rows: &[Seen<'_>], _: &mut Nothing, ctx: &mut Context<'_>) {
        if let Some(last) = rows.iter().max_by_key(|s| s.at) {
            tell(last, ctx);
        }
    }
}

const fn detector(
    kind: &'static str,
    rule_kind: &'static str,
    build: fn(&Rule) -> Box<dyn tidewatch_operators::runtime::Instance>,
) -> Detector {
    Detector {
        kind,
        rule_kind,
        title: "Test",
        page: "",
        reads: &[Kind::Flow],
        attack: &[],
        thresholds: &[],
        lists: &[],
        evidence: &[],
        limits: &[],
        build,
        judge: |finding, _| Some(finding),
    }
}

static BY_ARRIVAL: Detector = detector("test.arrival", "arrival", |rule| Store::boxed(&BY_ARRIVAL, rule, |_| ByArrival));
static TIES_BY_POSITION: Detector =
    detector("test.position", "position", |rule| Store::boxed(&TIES_BY_POSITION, rule, |_| TiesByPosition));
static TIES_BY_ORDER: Detector = detector("test.order", "order", |rule| Store::boxed(&TIES_BY_ORDER, rule, |_| TiesByOrder));

static ARRIVAL: &[&Detector] = &[&BY_ARRIVAL];
static POSITION: &[&Detector] = &[&TIES_BY_POSITION];
static ORDER: &[&Detector] = &[&TIES_BY_ORDER];

fn rule(kind: &str) -> Rule {
    Rule {
        id: format!("test-{kind}"),
        version: 1,
        kind: kind.to_owned(),
        name: String::new(),
        description: String::new(),
        severity: Severity::Low,
        base_confidence: 50,
        suppress_ns: 0,
        enabled: true,
        thresholds: BTreeMap::new(),
        lists: BTreeMap::new(),
        ..Rule::default()
    }
}

fn with(detectors: &'static [&'static Detector]) -> Scenario {
    Scenario { rules: vec![rule(detectors[0].rule_kind)], detectors, ..traffic::by_hand() }
}

/// Of the live layouts: a backtest has the product's detectors alone.
fn live() -> Vec<Layout> {
    layouts().into_iter().filter(|l| l.drive != Drive::Backtest).collect()
}

#[test]
fn an_operator_that_depends_on_arrival_is_found() {
    assert!(!differences(&with(ARRIVAL), &live()).is_empty());
}

#[test]
fn an_operator_that_breaks_ties_by_position_is_found() {
    assert!(!differences(&with(POSITION), &live()).is_empty());
}

#[test]
fn the_same_operator_without_the_fault_is_not() {
    the_same(&with(ORDER), &live());
}
