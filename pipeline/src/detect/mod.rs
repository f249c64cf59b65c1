//! Detect: one partition of `obs`. Collects rows into slices, and when a slice is complete puts its rows in the one
//! order and hands them to the operators. Writes findings and contacts, keyed by tenant, and its own mark of time.
//!
//! A pure function of its partition: rows, marks and versions all lie in the log. Knows no wire format and no detector.

mod records;
pub mod slices;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_operators::detection::{Detection, HostRows, RuleStats, SliceOutput};
use tidewatch_operators::operator::{Detector, Slice};
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::control::{Mark, StageMark, Version};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{self, Batch, Filed, Kind, Packers};
use tidewatch_schemas::time::EventTime;

use crate::epoch::Outputs;
use crate::log::{Append, Record, TopicPartition};
use crate::rules::watch::Watch;
use crate::task::{Digest, Progress, RuleFigures, State, Task, TaskError};
use crate::time::closing::{Closing, Scope};
use crate::time::{floor, slice_index, slice_start};
use crate::versions;
use records::write_slice;
pub use records::{FROM_PARTITION, SLICE_END, findings_partition, late_headers};
use slices::{OpenSlices, Origin, SliceLimits};

/// What a detect task needs to know.
#[derive(Clone, Debug)]
pub struct DetectConfig {
    /// Slice, nanoseconds.
    pub slice_ns: i64,
    /// Topic for findings and its partitions.
    pub findings: (String, u32),
    /// Topic for late rows.
    pub late: String,
    /// Partitions of `obs`.
    pub obs_partitions: u32,
    /// Limits of open slices.
    pub slices: SliceLimits,
    /// Limit of the task's state, bytes.
    pub state_bytes_max: usize,
    /// Rules until a version says otherwise.
    pub rules: Vec<Rule>,
    /// Versions known beforehand (a backtest brings the recorded ones), by the event time from which they hold.
    pub versions: BTreeMap<EventTime, Vec<Rule>>,
    /// Detectors that rules may name.
    pub detectors: &'static [&'static Detector],
    /// Somebody asks why nothing is said of a host; no output depends on it.
    pub watch: Option<Arc<Watch>>,
}

/// The task.
#[derive(Debug)]
pub struct DetectTask {
    at: TopicPartition,
    config: DetectConfig,
    detection: Detection,
    closing: Closing,
    open: OpenSlices,
    /// Scope to the end of its last closed slice.
    closed: BTreeMap<Scope, EventTime>,
    /// Closed slices not yet told to correlate.
    untold: bool,
    boundary: bool,
    swept: BTreeMap<Scope, i64>,
    /// Room for what a slice gives; empty between slices.
    output: SliceOutput,
    late_rows: u64,
    versions: BTreeMap<EventTime, Vec<Rule>>,
    /// Which version the operators have now; `None` = the rules of the start.
    applied: Option<EventTime>,
}

#[derive(Serialize, Deserialize)]
struct Head {
    closing: Closing,
    closed: BTreeMap<Scope, EventTime>,
    inputs: Vec<(String, u32)>,
    late_rows: u64,
    versions: BTreeMap<EventTime, Vec<Rule>>,
}

impl DetectTask {
    /// A task that has read nothing.
    pub fn new(at: TopicPartition, config: DetectConfig) -> Self {
        let mut detection = Detection::with(&config.rules, config.detectors);
        detection.limit_bytes(config.state_bytes_max);
        Self {
            detection,
            open: OpenSlices::new(config.slices.clone()),
            at,
            versions: config.versions.clone(),
            applied: None,
            config,
            closing: Closing::default(),
            closed: BTreeMap::new(),
            untold: false,
            boundary: false,
            swept: BTreeMap::new(),
            output: SliceOutput::default(),
            late_rows: 0,
        }
    }

    /// The operators, and up to when slices are closed: for whoever looks into a snapshot.
    pub fn operators(&self) -> (&Detection, EventTime) {
        (&self.detection, self.closed.values().copied().max().unwrap_or(EventTime::MIN))
    }

    fn foreign(&self, record: &Record, reason: impl ToString) -> TaskError {
        TaskError::Foreign {
            topic: self.at.topic.clone(),
            partition: self.at.partition,
            offset: record.offset,
            reason: reason.to_string(),
        }
    }

    fn rows(&mut self, record: &Record, kind: Kind, out: Option<&mut Outputs>) -> Result<(), TaskError> {
        let value = record.value.clone().unwrap_or_default();
        let batch = observation::decode(kind, &value).map_err(|e| self.foreign(record, e))?;
        let (topic, partition) = record
            .header(header::INPUT)
            .and_then(|h| header::parse_input_header(h))
            .ok_or_else(|| self.foreign(record, "header tw-input is missing"))?;
        let input = self.detection.input(topic, partition);
        let slice_ns = self.config.slice_ns;
        let (closing, closed) = (&self.closing, &self.closed);
        // Rows of one tenant come by the thousand: its scope and how far that is closed are looked up once.
        let mut last: Option<(String, Scope, EventTime)> = None;
        let place = |filed: &Filed<'_>| {
            let (scope, closed) = match &last {
                Some((tenant, scope, closed)) if *tenant == filed.tenant => (scope.clone(), *closed),
                _ => {
                    let scope = closing.scope(filed.tenant);
                    let closed = closed.get(&scope).copied().unwrap_or(EventTime::MIN);
                    last = Some((filed.tenant.to_owned(), scope.clone(), closed));
                    (scope, closed)
                }
            };
            let index = slice_index(filed.event_time, slice_ns);
            let end = slice_start(index.saturating_add(1), slice_ns);
            (end > closed).then_some((scope, index))
        };
        let origin = Origin { input, offset: record.offset };
        let refused = self.open.add(batch.clone(), &value, origin, place)?;
        if let Some(out) = out
            && !refused.is_empty()
        {
            self.late(record, &batch, &refused, out);
        }
        Ok(())
    }

    /// Rows of a slice that is already closed: only a roster that grew too late can let them come this far.
    fn late(&mut self, record: &Record, batch: &Batch, rows: &[u32], out: &mut Outputs) {
        // No more rows than the record had, hence no more bytes but for those of texts that it shared.
        let mut late = Packers::default();
        for &row in rows {
            let row = batch.row(row as usize);
            if row.primary() {
                out.ledger.line(&self.at.topic, row.tenant()).late += 1;
                self.late_rows += 1;
            }
            late.push(&row);
        }
        for (kind, value) in late.finish() {
            out.answer(Append {
                topic: self.config.late.clone(),
                partition: 0,
                timestamp: None,
                key: record.key.clone(),
                value: Some(value.into()),
                headers: late_headers(kind, record.header(header::INPUT).cloned().unwrap_or_default(), "detect"),
            });
        }
    }

    fn version(&mut self, record: &Record) -> Result<(), TaskError> {
        let value = record.value.as_deref().unwrap_or_default();
        let version = Version::decode(value).map_err(|e| self.foreign(record, e))?;
        if version.what == versions::RULES {
            let rules = versions::rules_of(&version).map_err(|e| self.foreign(record, e))?;
            self.versions.insert(version.from, rules);
            if self.versions.len() > versions::VERSIONS_MAX {
                self.versions.pop_first();
            }
            // Should the version hold already, the next slice takes it up.
            if self.applied == Some(version.from) {
                self.applied = None;
            }
        }
        Ok(())
    }

    fn mark(&mut self, mark: &Mark, out: &mut Outputs) -> Result<(), TaskError> {
        self.closing.mark(mark);
        // Inputs get their places from the roster, which stands before the first row, not from who came first: equal
        // states are then equal bytes, whatever way the rows took.
        let inputs: usize = mark.roster.inputs.iter().map(|i| i.partitions as usize).sum();
        if inputs > self.detection.inputs().len() {
            for (input, _) in mark.roster.partitions() {
                self.detection.input(&input.topic, input.partition);
            }
        }
        for scope in self.closing.scopes() {
            self.close(&scope, out)?;
        }
        Ok(())
    }

    /// Closes the scope's complete slices, in order: those with rows and those with wake-ups.
    fn close(&mut self, scope: &Scope, out: &mut Outputs) -> Result<(), TaskError> {
        let slice_ns = self.config.slice_ns;
        let bound = floor(self.closing.bound(scope, slice_ns), slice_ns);
        let closed = self.closed.get(scope).copied().unwrap_or(EventTime::MIN);
        if bound <= closed {
            return Ok(());
        }
        let closing = &self.closing;
        let in_scope = |tenant: &str| closing.scope(tenant) == *scope;
        let mut after = closed;
        loop {
            let rows = self.open.first(scope);
            let wake = self.detection.next_wake(&in_scope).map(|at| slice_index(at, slice_ns));
            let Some(index) = rows.into_iter().chain(wake).min() else { break };
            // A wake-up asked for in the past is served in the first slice that still can.
            let index = if after == EventTime::MIN { index } else { index.max(slice_index(after, slice_ns)) };
            let slice = Slice { start: slice_start(index, slice_ns), end: slice_start(index.saturating_add(1), slice_ns) };
            if slice.end > bound {
                break;
            }
            apply(&self.versions, &self.config.rules, &mut self.applied, slice.start, &mut self.detection);
            let mut output = std::mem::take(&mut self.output);
            let ranks = self.detection.ranks();
            let filters = self.detection.filters();
            let watch = &self.config.watch;
            let detection = &mut self.detection;
            let mut duplicates: BTreeMap<String, u64> = BTreeMap::new();
            self.open.close(scope, index, &ranks, &filters, |hosts| {
                detection.ahead(hosts);
                for HostRows { key, route, rows } in hosts {
                    let before = output.duplicates;
                    let watch = watch.as_deref().filter(|watch| watch.is_on(key, slice));
                    let kept_back = watch.map(|watch| watch.before(detection));
                    detection.host(key, *route, slice, rows, &mut output);
                    watch.zip(kept_back).into_iter().for_each(|(watch, before)| watch.after(detection, rows, &before));
                    if output.duplicates > before {
                        *duplicates.entry(key.tenant.to_string()).or_default() += output.duplicates - before;
                    }
                }
            })?;
            self.detection.end(slice, &in_scope, &mut output);
            self.config.watch.iter().for_each(|watch| watch.found(slice, &output.findings));
            let hour = slice_index(slice.start, 3_600_000_000_000);
            if self.swept.insert(scope.clone(), hour).is_some_and(|last| last != hour) {
                self.detection.sweep(&in_scope, slice.start);
            }
            for (tenant, n) in duplicates {
                out.ledger.line(&self.at.topic, &tenant).duplicate += n;
            }
            write_slice(&self.config, &self.at, slice, &output, out);
            output.clear();
            self.output = output;
            after = slice.end;
        }
        self.closed.insert(scope.clone(), bound);
        self.untold = true;
        self.boundary = true;
        out.urgent = true;
        Ok(())
    }
}

impl Task for DetectTask {
    fn record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), TaskError> {
        let kind = record.header(header::RECORD).and_then(|h| RecordType::parse(h));
        match kind {
            Some(RecordType::Observations(kind, version)) if version <= kind.version() => self.rows(record, kind, Some(out)),
            Some(RecordType::Mark) => {
                let mark = Mark::decode(record.value.as_deref().unwrap_or_default()).map_err(|e| self.foreign(record, e))?;
                self.mark(&mark, out)
            }
            Some(RecordType::Version) => self.version(record),
            _ => Err(self.foreign(record, "not an observation, mark or version of this binary")),
        }
    }

    fn flush(&mut self, out: &mut Outputs) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        // Every lane of the roster, also those of which nothing has closed: correlate must know that it has to wait for them.
        let lanes = self.closing.scopes().into_iter().filter_map(|scope| match &scope {
            Scope::Lane(tenant) => Some((tenant.to_string(), self.closed.get(&scope).copied().unwrap_or(EventTime::MIN))),
            Scope::Shared => None,
        });
        let mark = StageMark {
            partition: self.at.partition,
            partitions: self.config.obs_partitions,
            closed_shared: self.closed.get(&Scope::Shared).copied().unwrap_or(EventTime::MIN),
            closed_lanes: lanes.collect(),
            ended: self.closing.all_ended(),
        };
        let value = Bytes::from(mark.encode().expect("a stage mark holds one line a lane and lanes are bounded by the topology"));
        for partition in 0..self.config.findings.1 {
            out.note(Append {
                topic: self.config.findings.0.clone(),
                partition,
                timestamp: None,
                key: None,
                value: Some(value.clone()),
                headers: vec![(header::RECORD.to_owned(), RecordType::StageMark.to_header().into())],
            });
        }
    }

    fn at_boundary(&self) -> bool {
        self.boundary
    }

    fn state(&mut self, full: bool) -> Option<State> {
        self.boundary = false;
        let head = Head {
            closing: self.closing.clone(),
            closed: self.closed.clone(),
            inputs: self.detection.inputs().to_vec(),
            late_rows: self.late_rows,
            versions: self.versions.clone(),
        };
        let parts = self.detection.parts(!full).into_iter().map(|p| {
            let bytes = self.detection.pack(&p);
            (p, Bytes::from(bytes))
        });
        let state = State {
            head: postcard::to_stdvec(&head).expect("plain data, memory does not fail"),
            parts: parts.collect(),
            full,
            replay_offset: self.open.replay_offset(),
        };
        self.detection.clean();
        Some(state)
    }

    fn restore(&mut self, state: &State, done: &dyn Fn(usize)) -> Result<(), TaskError> {
        let restore = |reason: String| TaskError::Restore { task: self.at.to_string(), reason };
        let head: Head = postcard::from_bytes(&state.head).map_err(|e| restore(e.to_string()))?;
        self.closing = head.closing;
        self.closed = head.closed;
        self.late_rows = head.late_rows;
        self.versions = head.versions;
        // States are filed by rule: the rules of the snapshot's time must be there before its states are.
        let at = self.closed.values().max().copied().unwrap_or(EventTime::MIN);
        apply(&self.versions, &self.config.rules, &mut self.applied, at, &mut self.detection);
        self.detection.set_inputs(head.inputs);
        for (part, bytes) in &state.parts {
            self.detection
                .unpack(part, bytes)
                .map_err(|e| TaskError::Restore { task: self.at.to_string(), reason: e.to_string() })?;
            done(bytes.len());
        }
        self.detection.clean();
        // Telling correlate once more what is closed changes nothing; not telling could.
        self.untold = true;
        Ok(())
    }

    fn replay(&mut self, record: &Record) -> Result<(), TaskError> {
        match record.header(header::RECORD).and_then(|h| RecordType::parse(h)) {
            Some(RecordType::Observations(kind, version)) if version <= kind.version() => self.rows(record, kind, None),
            _ => Ok(()),
        }
    }

    fn progress(&self) -> Progress {
        let (door, rules) = self.detection.stats();
        let scopes = self.closing.scopes();
        let holder =
            scopes.iter().filter_map(|s| self.closing.holder(s)).min_by_key(|h| h.watermark).map(|h| match h.watermark {
                Some(t) => format!("{}/{} at {t}", h.input.topic, h.input.partition),
                None => format!("{}/{} has not spoken", h.input.topic, h.input.partition),
            });
        Progress {
            watermark: self.closed.values().copied().min(),
            held_by: holder,
            waiting_rows: self.open.rows() as u64,
            spilled_rows: self.open.spilled_rows,
            keys: rules.iter().map(|r| r.states.keys).sum(),
            state_bytes: rules.iter().map(|r| r.states.bytes).sum::<u64>() + self.detection.door_states().bytes,
            evicted: rules.iter().map(|r| r.states.evicted).sum(),
            state_bytes_max: self.config.state_bytes_max as u64,
            open_slices: self.open.slices() as u64,
            slice_bytes: self.open.memory_bytes() as u64,
            slice_bytes_max: self.config.slices.bytes_max as u64,
            contacts_withheld: door.contacts_withheld,
            connections_evicted: door.connections_evicted,
            rules: rules.into_iter().map(figures).collect(),
            judged: Vec::new(),
            active: false,
            done: self.closing.all_ended(),
        }
    }

    fn digest(&self) -> Option<Digest> {
        let closed = self.closed.values().copied().min().unwrap_or(EventTime::MIN);
        let groups = self.detection.parts(false).into_iter().map(|part| {
            let bytes = self.detection.pack(&part);
            (part, bytes)
        });
        Some(Digest::over(closed, groups))
    }
}

fn figures(rule: RuleStats) -> RuleFigures {
    let RuleStats { rule, kind, states, kept_back } = rule;
    RuleFigures {
        rule,
        detector: kind,
        keys: states.keys,
        bytes: states.bytes,
        evicted: states.evicted,
        allowed: kept_back.allowed,
        where_rows: kept_back.rows,
        where_findings: kept_back.findings,
        where_errors: kept_back.errors,
    }
}

/// Gives the operators the rules that hold at a moment, if they have others.
fn apply(
    versions: &BTreeMap<EventTime, Vec<Rule>>,
    initial: &[Rule],
    applied: &mut Option<EventTime>,
    at: EventTime,
    detection: &mut Detection,
) {
    let holds = versions.range(..=at).next_back();
    if holds.map(|(from, _)| *from) != *applied {
        *applied = holds.map(|(from, _)| *from);
        detection.set_rules(holds.map_or(initial, |(_, rules)| rules));
    }
}
