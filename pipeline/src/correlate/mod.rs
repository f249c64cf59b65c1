//! Correlate: one partition of `findings`, which holds whole tenants. Waits, slice by slice, for every detect task, then
//! lets the tenant's view judge: prevalence, suppression. Writes signals, keyed by tenant; those of rules in shadow, of the
//! same form and with the same ids, to a topic of their own with as many partitions.
//!
//! Ordered by slice like detect, so that it does not matter how the findings of several detect tasks interleaved. What waits for
//! a slice is 64 contacts a host and slice at most, for the slices that one detect task is behind the others; beyond a byte
//! limit it goes to local disk.

mod waiting;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_operators::correlate::{Correlation, Verdicts};
use tidewatch_operators::operator::{Detector, Slice};
use tidewatch_schemas::control::StageMark;
use tidewatch_schemas::finding::{Contacts, Finding};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::signal::{ContentType, Signal, headers as cloudevent_headers, signal_id, to_json};
use tidewatch_schemas::time::EventTime;

use crate::detect::SLICE_END;
use crate::detect::slices::SliceLimits;
use crate::epoch::Outputs;
use crate::log::partitioner::murmur2_partition;
use crate::log::{Append, Record, TopicPartition};
use crate::task::{Digest, JudgedFigures, Progress, State, Task, TaskError};
use waiting::{Came, Waiting};

/// Name of the state group in snapshots.
const PART: &str = "correlate";

/// What a correlate task needs to know.
#[derive(Clone, Debug)]
pub struct CorrelateConfig {
    /// Slice, nanoseconds.
    pub slice_ns: i64,
    /// Topic of signals and its partitions.
    pub signals: (String, u32),
    /// Topic of what rules in shadow say; as many partitions.
    pub shadow: String,
    /// Name of the cluster or deployment in `ce_source`.
    pub source: String,
    /// State of the task, bytes.
    pub state_bytes_max: usize,
    /// Limits of what waits for open slices.
    pub slices: SliceLimits,
    /// Detectors whose findings are judged.
    pub detectors: &'static [&'static Detector],
}

/// The task.
#[derive(Debug)]
pub struct CorrelateTask {
    at: TopicPartition,
    config: CorrelateConfig,
    correlation: Correlation,
    marks: BTreeMap<u32, StageMark>,
    open: Waiting,
    closed_shared: EventTime,
    closed_lanes: BTreeMap<String, EventTime>,
    boundary: bool,
    late: u64,
}

#[derive(Serialize, Deserialize)]
struct Head {
    marks: BTreeMap<u32, StageMark>,
    closed_shared: EventTime,
    closed_lanes: BTreeMap<String, EventTime>,
}

impl CorrelateTask {
    /// A task that has read nothing.
    pub fn new(at: TopicPartition, config: CorrelateConfig) -> Self {
        let mut correlation = Correlation::with(config.detectors);
        correlation.limit_bytes(config.state_bytes_max);
        Self {
            at,
            correlation,
            open: Waiting::new(config.slices.clone()),
            config,
            marks: BTreeMap::new(),
            closed_shared: EventTime::MIN,
            closed_lanes: BTreeMap::new(),
            boundary: false,
            late: 0,
        }
    }

    fn foreign(&self, record: &Record, reason: impl ToString) -> TaskError {
        TaskError::Foreign {
            topic: self.at.topic.clone(),
            partition: self.at.partition,
            offset: record.offset,
            reason: reason.to_string(),
        }
    }

    fn closed(&self, tenant: &str) -> EventTime {
        self.closed_lanes.get(tenant).copied().unwrap_or(self.closed_shared)
    }

    /// Files a finding or a batch of contacts. `None` for records of other types.
    fn file(&mut self, record: &Record) -> Result<Option<()>, TaskError> {
        let value = record.value.as_deref().unwrap_or_default();
        let end = || {
            let text = record.header(SLICE_END).and_then(|h| std::str::from_utf8(h).ok());
            text.and_then(|t| t.parse().ok()).map(EventTime).ok_or_else(|| self.foreign(record, "header tw-slice-end is missing"))
        };
        match record.header(header::RECORD).and_then(|h| RecordType::parse(h)) {
            Some(RecordType::Finding) => {
                let finding = Finding::decode(value).map_err(|e| self.foreign(record, e))?;
                let (end, tenant) = (finding.slice_end, finding.tenant.clone());
                self.wait(end, tenant, Came::Finding(Box::new(finding)), record)?;
                Ok(Some(()))
            }
            Some(RecordType::Contacts) => {
                let contacts = Contacts::decode(value).map_err(|e| self.foreign(record, e))?;
                let end = end()?;
                let Some(tenant) = contacts.tenant.first().map(str::to_owned) else { return Ok(Some(())) };
                self.wait(end, tenant, Came::Contacts(contacts), record)?;
                Ok(Some(()))
            }
            _ => Ok(None),
        }
    }

    fn wait(&mut self, end: EventTime, tenant: String, came: Came, record: &Record) -> Result<(), TaskError> {
        if end <= self.closed(&tenant) {
            self.late += 1;
            return Ok(());
        }
        Ok(self.open.add(end, tenant, came, record.value.as_deref().unwrap_or_default(), record.offset)?)
    }

    fn mark(&mut self, mark: StageMark, out: &mut Outputs) -> Result<(), TaskError> {
        let partitions = mark.partitions;
        self.marks.insert(mark.partition, mark);
        if (self.marks.len() as u64) < u64::from(partitions) {
            return Ok(());
        }
        let shared = self.marks.values().map(|m| m.closed_shared).min().unwrap_or(EventTime::MIN);
        let lanes: Vec<String> = self.marks.values().flat_map(|m| m.closed_lanes.keys().cloned()).collect();
        for tenant in lanes {
            let bound = self.marks.values().map(|m| m.closed_lanes.get(&tenant).copied().unwrap_or(EventTime::MIN)).min();
            self.closed_lanes.insert(tenant, bound.unwrap_or(EventTime::MIN));
        }
        self.closed_shared = self.closed_shared.max(shared);
        for key in self.open.complete(|tenant| self.closed(tenant)) {
            let (contacts, findings) = self.open.take(&key)?;
            let (end, tenant) = key;
            let slice = Slice { start: end.minus(self.config.slice_ns), end };
            for finding in self.correlation.slice(&tenant, slice, contacts, findings) {
                let topic = if finding.shadow { &self.config.shadow } else { &self.config.signals.0 };
                let append = self.append(topic, &publish(finding));
                out.answer(append);
            }
        }
        self.boundary = true;
        out.urgent = true;
        Ok(())
    }

    fn append(&self, topic: &str, signal: &Signal) -> Append {
        let tenant = signal.tenant.as_bytes();
        let headers = cloudevent_headers(signal, &self.config.source, ContentType::Json);
        Append {
            topic: topic.to_owned(),
            partition: murmur2_partition(tenant, self.config.signals.1),
            timestamp: None,
            key: Some(Bytes::copy_from_slice(tenant)),
            value: Some(to_json(signal).into()),
            headers: headers.into_iter().map(|(n, v)| (n, v.into())).collect(),
        }
    }
}

/// A finding that was judged and not suppressed, with its id.
fn publish(finding: Finding) -> Signal {
    let id = signal_id(
        &finding.tenant,
        &finding.rule.id,
        finding.rule.version,
        &finding.entity,
        &finding.subject,
        finding.slice_start,
    );
    Signal {
        id,
        tenant: finding.tenant,
        plane: finding.plane,
        kind: finding.kind,
        title: finding.title,
        why: finding.why,
        severity: finding.severity,
        confidence: finding.confidence,
        rule: finding.rule,
        entity: finding.entity,
        source: finding.source,
        destination: finding.destination,
        first_seen: finding.first_seen,
        last_seen: finding.last_seen,
        decided_at: finding.decided_at,
        detected_at: finding.slice_end,
        evidence: finding.evidence,
        attack: finding.attack,
        raw: finding.raw,
    }
}

fn judged((rule, verdicts): (&String, &Verdicts)) -> JudgedFigures {
    let Verdicts { fired, shadow, suppressed, dismissed, allowed, .. } = *verdicts;
    JudgedFigures { rule: rule.clone(), signals: fired, shadow, suppressed, dismissed, allowed }
}

impl Task for CorrelateTask {
    fn record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), TaskError> {
        if self.file(record)?.is_some() {
            return Ok(());
        }
        match record.header(header::RECORD).and_then(|h| RecordType::parse(h)) {
            Some(RecordType::StageMark) => {
                let value = record.value.as_deref().unwrap_or_default();
                let mark = StageMark::decode(value).map_err(|e| self.foreign(record, e))?;
                self.mark(mark, out)
            }
            Some(RecordType::Version) => Ok(()),
            _ => Err(self.foreign(record, "not a finding, contacts, mark or version of this binary")),
        }
    }

    fn at_boundary(&self) -> bool {
        self.boundary
    }

    fn state(&mut self, full: bool) -> Option<State> {
        self.boundary = false;
        let head = Head { marks: self.marks.clone(), closed_shared: self.closed_shared, closed_lanes: self.closed_lanes.clone() };
        let groups = self.correlation.groups(!full);
        let parts = groups.into_iter().map(|g| ((PART.to_owned(), g), self.correlation.pack(g).into())).collect();
        self.correlation.clean();
        Some(State {
            head: postcard::to_stdvec(&head).expect("plain data, memory does not fail"),
            parts,
            full,
            replay_offset: self.open.replay_offset(),
        })
    }

    fn restore(&mut self, state: &State, done: &dyn Fn(usize)) -> Result<(), TaskError> {
        let restore = |reason: String| TaskError::Restore { task: self.at.to_string(), reason };
        let head: Head = postcard::from_bytes(&state.head).map_err(|e| restore(e.to_string()))?;
        self.marks = head.marks;
        self.closed_shared = head.closed_shared;
        self.closed_lanes = head.closed_lanes;
        for ((_, group), bytes) in &state.parts {
            self.correlation
                .unpack(*group, bytes)
                .map_err(|e| TaskError::Restore { task: self.at.to_string(), reason: e.to_string() })?;
            done(bytes.len());
        }
        self.correlation.clean();
        Ok(())
    }

    fn replay(&mut self, record: &Record) -> Result<(), TaskError> {
        self.file(record).map(drop)
    }

    fn progress(&self) -> Progress {
        let stats = self.correlation.stats();
        Progress {
            watermark: (self.closed_shared != EventTime::MIN).then_some(self.closed_shared),
            held_by: self.marks.values().min_by_key(|m| m.closed_shared).map(|m| format!("detect task {}", m.partition)),
            waiting_rows: self.open.findings() as u64,
            spilled_rows: self.open.spilled_rows(),
            keys: stats.keys,
            state_bytes: stats.bytes,
            state_bytes_max: self.config.state_bytes_max as u64,
            evicted: stats.evicted,
            open_slices: self.open.slices() as u64,
            slice_bytes: self.open.memory_bytes() as u64,
            slice_bytes_max: self.open.bytes_max() as u64,
            judged: self.correlation.verdicts().iter().map(judged).collect(),
            active: false,
            done: self.marks.values().next().is_some_and(|m| self.marks.len() as u64 >= u64::from(m.partitions))
                && self.marks.values().all(|m| m.ended),
            ..Progress::default()
        }
    }

    fn digest(&self) -> Option<Digest> {
        let groups = self.correlation.groups(false).into_iter();
        Some(Digest::over(self.closed_shared, groups.map(|g| ((PART.to_owned(), g), self.correlation.pack(g)))))
    }
}
