//! Tests of rules: a rule's example rows take the way that any rows take from normalize on (filed under their hosts,
//! encoded, closed slice by slice, judged in the tenant's view), with that rule alone, in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::Rule;
use tidewatch_operators::rule::example::{Example, Made};
use tidewatch_schemas::address::Classifier;
use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster, RosterInput};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{Filing, Kind, Packers, Row};
use tidewatch_schemas::signal::{Signal, from_json};
use tidewatch_schemas::time::EventTime;

use crate::correlate::{CorrelateConfig, CorrelateTask};
use crate::detect::slices::SliceLimits;
use crate::detect::{DetectConfig, DetectTask};
use crate::epoch::Outputs;
use crate::log::{Append, Record, TopicPartition};
use crate::normalize::route::Hosts;
use crate::task::{RuleFigures, Task, TaskError};

/// Rows of one record, as normalize cuts them.
const RECORD_ROWS: usize = 4_096;

/// Slices as a topology has them unless it says otherwise, nanoseconds.
const SLICE_NS: i64 = 10_000_000_000;

/// Limits that no test reaches: its rows are bounded.
const BYTES_MAX: usize = 1 << 30;

/// Tenant of rules that are everybody's.
const TENANT: &str = "test";

/// Name of the only input.
const INPUT: &str = "rows";

/// What a test gave.
#[derive(Debug)]
pub struct Tried {
    /// The signals.
    pub signals: Vec<Signal>,
    /// Findings that an exception kept back.
    pub allowed: u64,
    /// Rows that the rule's `where` let its detector not see.
    pub where_rows: u64,
    /// Findings that it did not let through.
    pub where_findings: u64,
    /// Rows or findings with an error in it.
    pub where_errors: u64,
    /// Findings held back by suppression.
    pub suppressed: u64,
    /// Findings dismissed in the tenant's view.
    pub dismissed: u64,
    /// Rows of the test.
    pub rows: usize,
    /// What is not as expected; `None` = the test is passed.
    pub wrong: Option<String>,
}

/// Runs one test of a rule.
pub fn run(rule: &Rule, example: &Example, detectors: &'static [&'static Detector]) -> Result<Tried, TaskError> {
    let made = example.rows();
    let tenant = rule.tenant.as_deref().unwrap_or(TENANT);
    let mut out = Outputs::default();
    let mut detect = DetectTask::new(TopicPartition::new("obs", 0), detect_config(rule, detectors));
    let mut offset = 0..;
    let mut next = || offset.next().unwrap_or_default();
    for value in records(&made, tenant) {
        detect.record(&value.at(next()), &mut out)?;
    }
    let last = made.last().map_or(EventTime::MIN, |m| m.at);
    detect.record(&end(last).at(next()), &mut out)?;
    detect.flush(&mut out);
    let mut correlate = CorrelateTask::new(TopicPartition::new("findings", 0), correlate_config(detectors));
    let mut judged = Outputs::default();
    for (offset, append) in (0..).zip(out.appends()) {
        correlate.record(&Sent::of(append).at(offset), &mut judged)?;
    }
    let texts = judged.appends().iter().filter_map(|a| std::str::from_utf8(a.value.as_deref()?).ok());
    let mut signals: Vec<Signal> = texts.filter_map(|t| from_json(t).ok()).collect();
    signals.sort_by_key(|s| s.decided_at);
    let (before, after) = (detect.progress(), correlate.progress());
    let sum = |of: fn(&RuleFigures) -> u64| before.rules.iter().map(of).sum::<u64>();
    let allowed = sum(|r| r.allowed) + after.judged.iter().map(|j| j.allowed).sum::<u64>();
    let where_rows = sum(|r| r.where_rows);
    let (where_findings, where_errors) = (sum(|r| r.where_findings), sum(|r| r.where_errors));
    let (suppressed, dismissed) = after.judged.iter().fold((0, 0), |(s, d), j| (s + j.suppressed, d + j.dismissed));
    let wrong = example.judge(&signals).map(|what| {
        let why = [
            (allowed, "findings allowed"),
            (dismissed, "dismissed in the tenant's view"),
            (where_findings, "findings not let through by where"),
            (where_rows, "rows not seen because of where"),
            (where_errors, "errors in where"),
        ];
        let why = why.into_iter().filter(|(n, _)| *n > 0 && signals.is_empty()).map(|(n, what)| format!("; {n} {what}"));
        what + &why.collect::<String>()
    });
    Ok(Tried { signals, allowed, where_rows, where_findings, where_errors, suppressed, dismissed, rows: made.len(), wrong })
}

fn detect_config(rule: &Rule, detectors: &'static [&'static Detector]) -> DetectConfig {
    DetectConfig {
        slice_ns: SLICE_NS,
        findings: ("findings".to_owned(), 1),
        late: "late".to_owned(),
        obs_partitions: 1,
        slices: slices(),
        state_bytes_max: BYTES_MAX,
        rules: vec![rule.clone()],
        versions: BTreeMap::new(),
        detectors,
        watch: None,
    }
}

fn correlate_config(detectors: &'static [&'static Detector]) -> CorrelateConfig {
    CorrelateConfig {
        slice_ns: SLICE_NS,
        signals: ("signals".to_owned(), 1),
        shadow: "shadow".to_owned(),
        source: TENANT.to_owned(),
        state_bytes_max: BYTES_MAX,
        slices: slices(),
        detectors,
    }
}

fn slices() -> SliceLimits {
    SliceLimits { bytes_max: BYTES_MAX, spill_dir: std::env::temp_dir() }
}

/// A record without its place.
struct Sent {
    key: Option<Bytes>,
    value: Bytes,
    headers: Vec<(String, Bytes)>,
}

impl Sent {
    fn of(append: &Append) -> Self {
        Self { key: append.key.clone(), value: append.value.clone().unwrap_or_default(), headers: append.headers.clone() }
    }

    fn at(self, offset: i64) -> Record {
        let Self { key, value, headers } = self;
        Record { offset, timestamp: EventTime::from_secs(0), key, value: Some(value), headers }
    }
}

/// Rows as records of `obs`.
fn records(made: &[Made], tenant: &str) -> Vec<Sent> {
    let classifier = Classifier::default();
    let mut all = Vec::new();
    let mut waiting = Packers::default();
    for (offset, made) in (0..).zip(made) {
        let mut row = made.row();
        if let Row::Flow(flow) = &mut row {
            let class = |a: Option<_>| a.map_or(0, |a| classifier.classify(a) as u8);
            flow.source_class = class(flow.source_address);
            flow.destination_class = class(flow.destination_address);
        }
        let hosts = Hosts::of(&row, |_| None);
        for (primary, (host_address, host_name)) in
            [(true, Some(hosts.primary)), (false, hosts.second)].into_iter().filter_map(|(p, h)| Some((p, h?)))
        {
            row.file(&Filing { tenant, host_address, host_name, primary, format: INPUT, offset, row: 0 });
            waiting.push(&row);
        }
        if waiting.len() >= RECORD_ROWS {
            all.append(&mut finished(&mut waiting));
        }
    }
    all.append(&mut finished(&mut waiting));
    all
}

fn finished(waiting: &mut Packers) -> Vec<Sent> {
    let sent = |(kind, value): (Kind, Vec<u8>)| Sent {
        key: None,
        value: value.into(),
        headers: headers(RecordType::Observations(kind, kind.version())),
    };
    waiting.finish().into_iter().map(sent).collect()
}

/// The end of the rows: every slice closes.
fn end(last: EventTime) -> Sent {
    let roster = Roster::new(1, vec![RosterInput { topic: INPUT.to_owned(), partitions: 1, lane: None }]);
    let input = InputRef { topic: INPUT.to_owned(), partition: 0 };
    let mark = Mark { input, lane: None, watermark: last.plus(1), cause: Cause::End, input_offset: 0, roster };
    let value = mark.encode().expect("a mark of one input is small").into();
    Sent { key: None, value, headers: headers(RecordType::Mark) }
}

fn headers(kind: RecordType) -> Vec<(String, Bytes)> {
    vec![(header::RECORD.to_owned(), kind.to_header().into()), (header::INPUT.to_owned(), header::input_header(INPUT, 0).into())]
}
