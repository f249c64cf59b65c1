//! Normalize: one partition of one input. Decodes, checks the tenant, judges time, decides under which host a row is
//! filed, and writes column batches into the partitions of `obs` by key group, with the partition's own marks of time.
//!
//! This is the door where the outside world is met, so it is not pure: its decisions (who is registered, that a partition
//! is silent) are recorded once, in the transaction with its offsets. Knows no detection.

mod batches;
mod marks;
pub mod reject;
pub mod route;
pub mod tenancy;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bumpalo::Bump;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tidewatch_operators::key::{KEY_GROUPS, key_group};
use tidewatch_schemas::address::Classifier;
use tidewatch_schemas::control::{Cause, Roster};
use tidewatch_schemas::header;
use tidewatch_schemas::observation::{self, Filing, Packers, ROWS_MAX, Row};
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, DecodedRow, Decoder, Format, RecordMeta};

use crate::epoch::{Counts, Outputs};
use crate::log::{Record, TopicPartition};
use crate::task::{Progress, Task, TaskError};
use crate::time::floor;
use crate::time::input::{Admission, InputClock, InputTime, Peers};
use crate::worker::Absent;
use reject::{Reason, RejectedTopic};
use route::{Hosts, Workloads};
use tenancy::Tenancy;

/// Bytes of one obs record, at most: a batch is written before it passes this (1 MiB topics).
pub const OBS_RECORD_BYTES_MAX: usize = 900 << 10;

/// Rows of one kind in one obs record: small enough that a batch of flows stays well below [`OBS_RECORD_BYTES_MAX`].
const OBS_RECORD_ROWS_MAX: usize = 4096;

const _: () = assert!(OBS_RECORD_ROWS_MAX <= ROWS_MAX);

/// A record from this size on may hold a row that no record of `obs` can take: its rows are measured one by one. A row
/// of a smaller record fits however its text is escaped (six octets for one at worst).
const MEASURED_BYTES: usize = 128 << 10;

/// Text of one row, bytes of its JSON form; a larger row is rejected.
pub const ROW_BYTES_MAX: usize = 256 << 10;

/// One input topic as normalize sees it.
#[derive(Clone, Debug)]
pub struct InputConfig {
    /// Topic.
    pub topic: String,
    /// Format of its records.
    pub format: &'static Format,
    /// Its time.
    pub time: InputTime,
    /// Whose rows.
    pub tenancy: Tenancy,
}

/// What a normalize task needs to know.
#[derive(Clone, Debug)]
pub struct NormalizeConfig {
    /// The input; or, for the topic of replayed records, all inputs that a record may name.
    pub inputs: Vec<InputConfig>,
    /// The partition holds others back in time and stands on the roster. False for replayed records.
    pub holds: bool,
    /// Slice, nanoseconds.
    pub slice_ns: i64,
    /// Topic of observations and its partitions.
    pub obs: (String, u32),
    /// Topic of control records.
    pub control: String,
    /// Topic of late rows.
    pub late: String,
    /// Rejected records.
    pub rejected: RejectedTopic,
    /// Address classes.
    pub classifier: Arc<Classifier>,
    /// All inputs and their partition counts, as known by now; refreshed beside the tasks.
    pub roster: Arc<Mutex<Roster>>,
    /// Who has not been heard of for too long.
    pub absent: Arc<Absent>,
    /// Silences recorded by an earlier run, by input offset: a backtest replays them.
    pub recorded: VecDeque<(i64, EventTime)>,
}

/// The task.
pub struct NormalizeTask {
    at: TopicPartition,
    config: NormalizeConfig,
    decoders: Vec<Box<dyn Decoder>>,
    clock: InputClock,
    workloads: Workloads,
    /// Rows by partition of `obs`.
    waiting: Vec<Packers>,
    late: Packers,
    arena: Bump,
    next_offset: i64,
    marked: EventTime,
    joined: bool,
    ended: bool,
    cause: Cause,
    input_header: Bytes,
}

impl std::fmt::Debug for NormalizeTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NormalizeTask({})", self.at)
    }
}

#[derive(Serialize, Deserialize)]
struct Note {
    event: EventTime,
    record: EventTime,
    watermark: EventTime,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    learned: Option<String>,
}

impl NormalizeTask {
    /// A task that has read nothing.
    pub fn new(at: TopicPartition, config: NormalizeConfig) -> Self {
        let time = config
            .inputs
            .first()
            .map_or(InputTime { lateness_ns: 0, max_future_ns: 0, idle_after_ns: 0, slice_ns: 1 }, |i| i.time);
        Self {
            decoders: config.inputs.iter().map(|i| (i.format.decoder)()).collect(),
            clock: InputClock::new(time),
            workloads: Workloads::default(),
            waiting: (0..config.obs.1).map(|_| Packers::default()).collect(),
            late: Packers::default(),
            arena: Bump::new(),
            next_offset: 0,
            marked: EventTime::MIN,
            joined: false,
            ended: false,
            cause: Cause::Rows,
            input_header: header::input_header(&at.topic, at.partition).into(),
            at,
            config,
        }
    }

    /// Which input a record belongs to: the topic's own, or the one a replayed record names.
    fn input_of(&self, record: &Record) -> Option<usize> {
        if self.config.holds {
            return Some(0);
        }
        let topic = record.header(reject::TOPIC)?;
        self.config.inputs.iter().position(|i| i.topic.as_bytes() == &topic[..])
    }

    fn take(&mut self, record: &Record, value: &Bytes, arena: &Bump, out: &mut Outputs) {
        let Some(input) = self.input_of(record) else {
            self.reject(record, value, None, None, &Reason::UnknownInput, out);
            return;
        };
        let mut decoded = Decoded::default();
        let meta = RecordMeta { timestamp: record.timestamp };
        if let Err(fault) = self.decoders[input].decode(value, meta, arena, &mut decoded) {
            self.reject(record, value, Some(input), None, &Reason::Bytes(fault), out);
            return;
        }
        if !decoded.skipped.is_empty() {
            let n: u32 = decoded.skipped.iter().map(|(_, n)| n).sum();
            out.ledger.line(&self.at.topic, reject::NO_TENANT).skipped += u64::from(n);
        }
        if decoded.rows.is_empty() && decoded.bad.is_empty() {
            return;
        }
        if decoded.rows.is_empty() && matches!(self.config.inputs[input].tenancy, Tenancy::Verified { .. }) {
            // Nothing that could be verified: each row goes with what is wrong with it, not as an empty batch.
            for bad in &decoded.bad {
                let bytes = Bytes::copy_from_slice(&bad.bytes);
                let row = Some((bad.index, reject::NO_TENANT));
                self.reject(record, &bytes, Some(input), row, &Reason::Bytes(bad.fault.clone()), out);
            }
            return;
        }
        let verified = match self.config.inputs[input].tenancy.verify(&decoded.rows) {
            Ok(verified) => verified,
            Err(fault) => {
                self.reject(record, value, Some(input), None, &Reason::Tenant(fault), out);
                return;
            }
        };
        let tenant: &str = arena.alloc_str(&verified);
        for bad in &decoded.bad {
            let bytes = Bytes::copy_from_slice(&bad.bytes);
            self.reject(record, &bytes, Some(input), Some((bad.index, tenant)), &Reason::Bytes(bad.fault.clone()), out);
        }
        let mut refused = Vec::new();
        // One look-up of the tenant's line for a record, not for a row.
        let mut counts = Counts::default();
        for row in &mut decoded.rows {
            let too_large = value.len() >= MEASURED_BYTES && observation::describe(&row.row).to_string().len() > ROW_BYTES_MAX;
            let filed = if too_large { Err(Reason::RowTooLarge) } else { self.row(record, input, tenant, row, &mut counts, out) };
            if let Err(reason) = filed {
                refused.push((row.index, reason));
            }
        }
        if !refused.is_empty() {
            self.refuse(record, value, input, tenant, refused, out);
        }
        out.ledger.line(&self.at.topic, tenant).add(&counts);
    }

    /// Rejects rows of a good record, each in its own bytes.
    fn refuse(
        &mut self,
        record: &Record,
        value: &Bytes,
        input: usize,
        tenant: &str,
        refused: Vec<(u32, Reason)>,
        out: &mut Outputs,
    ) {
        let rows: Vec<u32> = refused.iter().map(|(index, _)| *index).collect();
        let mut rest = refused.into_iter().peekable();
        self.decoders[input].extract(value, &rows, &mut |index, bytes| {
            if let Some((_, reason)) = rest.next_if(|(wanted, _)| *wanted == index) {
                self.reject(record, &bytes.into(), Some(input), Some((index, tenant)), &reason, out);
            }
        });
        // A row that the decoder does not find again takes its whole record along: nothing is lost.
        for (index, reason) in rest {
            self.reject(record, value, Some(input), Some((index, tenant)), &reason, out);
        }
    }

    /// Files one row where it belongs; an error when it has to be rejected for its time.
    fn row<'a>(
        &mut self,
        record: &Record,
        input: usize,
        tenant: &'a str,
        decoded: &mut DecodedRow<'a>,
        counts: &mut Counts,
        out: &mut Outputs,
    ) -> Result<(), Reason> {
        // In its place: a row is some hundred bytes, and nobody else wants it.
        let DecodedRow { agent, index, row, .. } = decoded;
        self.classify(row);
        let agent = agent.unwrap_or("");
        self.workloads.learn(tenant, agent, row);
        let hosts = Hosts::of(row, |name| self.workloads.resolve(tenant, agent, name));
        let mut filing = Filing {
            tenant,
            host_address: hosts.primary.0,
            host_name: hosts.primary.1,
            primary: true,
            format: self.config.inputs[input].format.name,
            offset: record.offset,
            row: *index,
        };
        row.file(&filing);

        let at = row.event_time();
        // A replayed row is never late here, whatever its age; but ahead of the clock it would open a slice that never ends.
        let admission = if self.config.holds {
            self.clock.admit(at, record.timestamp)
        } else {
            InputClock::too_far_ahead(&self.config.inputs[input].time, at, record.timestamp)
                .map_or(Admission::OnTime, Admission::Future)
        };
        match admission {
            _ if at == EventTime::MAX || at == EventTime::MIN => return Err(Reason::NoTime),
            Admission::Future(ahead_ns) => return Err(Reason::Future { ahead_ns }),
            Admission::Late(_) => {
                counts.rows_in += 1;
                counts.late += 1;
                self.late.push(row);
                self.write_late(row.kind(), out);
            }
            Admission::OnTime => {
                counts.rows_in += 1;
                counts.normalized += 1;
                self.put(row, out);
                if let Some((address, name)) = hosts.second {
                    counts.copies += 1;
                    filing.host_address = address;
                    filing.host_name = name;
                    filing.primary = false;
                    row.file(&filing);
                    self.put(row, out);
                }
            }
        }
        Ok(())
    }

    /// Lets a row wait for its record of `obs`; a record that is full is written, so that none has to be cut by rows.
    fn put(&mut self, row: &Row<'_>, out: &mut Outputs) {
        let partition = obs_partition(row, self.config.obs.1);
        self.waiting[partition].push(row);
        self.write_full(partition, row.kind(), out);
    }

    fn classify(&self, row: &mut Row<'_>) {
        if let Row::Flow(flow) = row {
            let class = |a: Option<_>| a.map_or(0, |a| self.config.classifier.classify(a) as u8);
            flow.source_class = class(flow.source_address);
            flow.destination_class = class(flow.destination_address);
        }
    }

    fn reject(
        &self,
        record: &Record,
        value: &Bytes,
        input: Option<usize>,
        row: Option<(u32, &str)>,
        reason: &Reason,
        out: &mut Outputs,
    ) {
        let counts = out.ledger.line(&self.at.topic, row.map_or(reject::NO_TENANT, |(_, tenant)| tenant));
        counts.rows_in += 1;
        counts.rejected += 1;
        let format = input.map(|i| self.config.inputs[i].format.name);
        out.note(self.config.rejected.append(&self.at, record, value, format, row.map(|(index, _)| index), reason));
    }

    /// Whether the watermark has crossed a slice boundary since it was last told.
    fn crossed(&self) -> bool {
        floor(self.clock.watermark(), self.config.slice_ns) > floor(self.marked, self.config.slice_ns)
    }

    fn replay_silences(&mut self, offset: i64) {
        while self.config.recorded.front().is_some_and(|(at, _)| *at <= offset) {
            if let Some((_, watermark)) = self.config.recorded.pop_front() {
                self.clock.recorded_silence(watermark);
                self.cause = Cause::Silence;
            }
        }
    }
}

/// Partition of `obs` for a row: ranges of key groups, so that a topic can grow by splitting ranges.
pub fn obs_partition(row: &Row<'_>, partitions: u32) -> usize {
    let key = row.key();
    usize::from(key_group(key)) * partitions as usize / usize::from(KEY_GROUPS)
}

impl Task for NormalizeTask {
    fn begin(&mut self, position: i64) {
        self.next_offset = position;
    }

    fn record(&mut self, record: &Record, out: &mut Outputs) -> Result<(), TaskError> {
        if self.cause == Cause::Silence && self.crossed() {
            // Silence that this record ends was decided before it, and must be found again before it. Into `control` alone:
            // rows from before the silence still wait for the epoch's end, and the mark in `obs` must follow them.
            self.mark_in(&self.config.control, 0, self.clock.watermark(), Cause::Silence, out);
        }
        self.replay_silences(record.offset);
        self.next_offset = record.offset + 1;
        self.clock.record(record.timestamp);
        self.cause = Cause::Rows;
        let Some(value) = &record.value else {
            out.ledger.line(&self.at.topic, reject::NO_TENANT).skipped += 1;
            return Ok(());
        };
        let mut arena = std::mem::take(&mut self.arena);
        self.take(record, value, &arena, out);
        arena.reset();
        self.arena = arena;
        Ok(())
    }

    fn quiet(&mut self, now: EventTime, at_end: bool, peers: Peers) {
        if !self.config.holds || self.ended {
            return;
        }
        if !at_end {
            self.clock.busy();
        } else if self.clock.quiet(now, peers) {
            self.cause = Cause::Silence;
        }
    }

    fn end(&mut self, closes: bool) {
        self.replay_silences(i64::MAX);
        self.ended = closes;
    }

    fn flush(&mut self, out: &mut Outputs) {
        if self.config.holds && !self.joined {
            // Before the first row: only the roster says which tenants have lanes of their own.
            self.joined = true;
            self.mark(EventTime::MIN, Cause::Join, out);
        }
        self.write_pending(out);
        if !self.config.holds {
            return;
        }
        if self.ended {
            if self.cause != Cause::End {
                self.cause = Cause::End;
                self.mark(self.clock.highest_event(), Cause::End, out);
            }
            return;
        }
        for input in self.config.absent.overdue() {
            self.leave_of(input, out);
        }
        if self.crossed() {
            let watermark = self.clock.watermark();
            self.marked = watermark;
            self.mark(watermark, self.cause, out);
        }
    }

    fn note(&self) -> Option<String> {
        let note = Note {
            event: self.clock.highest_event(),
            record: self.clock.highest_record(),
            watermark: self.clock.watermark(),
            learned: self.decoders.first().filter(|_| self.config.holds).and_then(|d| d.learned()),
        };
        serde_json::to_string(&note).ok()
    }

    fn resume(&mut self, note: &str) {
        if let Ok(note) = serde_json::from_str::<Note>(note) {
            self.clock.resume(note.event, note.record, note.watermark);
            // Told again as what it was: two partitions without a row that each took the other for one with rows would
            // wait for each other for ever.
            if self.clock.is_past_rows() {
                self.cause = Cause::Silence;
            }
            if let (Some(learned), Some(decoder)) = (&note.learned, self.decoders.first_mut()) {
                decoder.resume(learned);
            }
        }
    }

    fn progress(&self) -> Progress {
        let watermark = self.clock.watermark();
        Progress {
            watermark: (watermark != EventTime::MIN).then_some(watermark),
            active: self.clock.highest_event() != EventTime::MIN && self.cause == Cause::Rows,
            done: self.ended && (self.cause == Cause::End || !self.config.holds),
            ..Progress::default()
        }
    }
}
