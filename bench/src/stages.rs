//! One stage at a time: what it needs is made beforehand, what it does is one call, and what it leaves is given back, so that
//! dropping it is not measured. What always holds: equal input every time, from a seed, on one thread, without a log.

use std::any::Any;
use std::rc::Rc;

use bumpalo::Bump;
use bytes::Bytes;
use tidewatch::correlate::{CorrelateConfig, CorrelateTask};
use tidewatch::detect::slices::SliceLimits;
use tidewatch::detect::{DetectConfig, DetectTask};
use tidewatch::epoch::Outputs;
use tidewatch::log::{Append, Record, TopicPartition};
use tidewatch::task::{State, Task};
use tidewatch_generator::{PRESET_START, Plan, Synthetic};
use tidewatch_operators::detectors;
use tidewatch_operators::rule::Rule;
use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster, RosterInput};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{self, Filing, Kind, Packers, Row};
use tidewatch_schemas::time::{EventTime, SECOND_NS};
use tidewatch_schemas::wire::{self, Decoded, RecordMeta};

/// Format of the flows.
const FORMAT: &str = "probectl-flow";

/// Flows of a slice, all of one partition.
const SLICE_FLOWS: u64 = 8_192;

/// Pairs that they come from.
const PAIRS: u64 = 10_000;

/// Slices that came before the one that is measured.
const SLICES_BEFORE: u64 = 2;

const SLICE_NS: i64 = 10 * SECOND_NS;

/// Rows of a batch.
const BATCH_ROWS: usize = 4_096;

/// What a stage left behind.
pub type Left = Box<dyn Any>;

/// A stage with its input, once.
pub type Ready = Box<dyn FnOnce() -> Left>;

/// Makes a stage's input anew for every run.
pub type Prepare = Box<dyn Fn() -> Ready>;

/// A stage.
pub struct Stage {
    /// Name: words, for people and for baseline files.
    pub name: String,
    /// Rows that one run works off.
    pub rows: u64,
    /// A regression of its instructions fails the gate.
    pub counted: bool,
    make: Box<dyn Fn() -> Result<Prepare, String>>,
}

impl Stage {
    fn new(name: &str, rows: u64, counted: bool, make: impl Fn() -> Result<Prepare, String> + 'static) -> Self {
        Self { name: name.to_owned(), rows, counted, make: Box::new(make) }
    }

    /// What all its runs share; no part of any. An error says what could not be made.
    pub fn make(&self) -> Result<Prepare, String> {
        (self.make)()
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("name", &self.name).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// All of them, in the order of the way.
pub fn all() -> Vec<Stage> {
    let batch = BATCH_ROWS as u64;
    let mut stages = vec![
        Stage::new("decode: protobuf into packed rows", batch, true, decode),
        Stage::new("obs: a batch read and encoded", batch, true, encode_batch),
        Stage::new("obs: a batch decoded", batch, true, decode_batch),
        Stage::new("detect: read, sort, group and door alone", SLICE_FLOWS, false, || Obs::new()?.slice(Vec::new())),
    ];
    for kind in detectors::ALL.iter().map(|d| d.rule_kind) {
        let only = move || Obs::new()?.slice(rules()?.into_iter().filter(|r| r.kind == kind).collect());
        stages.push(Stage::new(&format!("detect: with {kind}"), SLICE_FLOWS, false, only));
    }
    stages.extend([
        Stage::new("detect: a slice with all detectors", SLICE_FLOWS, true, || Obs::new()?.slice(rules()?)),
        Stage::new("correlate: contacts and findings of a slice", SLICE_FLOWS, true, || Obs::new()?.correlate(&rules()?)),
        Stage::new("snapshot: write the state of a task", PAIRS, true, write_state),
        Stage::new("snapshot: load the state of a task", PAIRS, true, load_state),
    ]);
    stages
}

fn rules() -> Result<Vec<Rule>, String> {
    Ok(tidewatch::rules::load(None, detectors::ALL).map_err(|m| m.to_string())?.rules)
}

fn write_state() -> Result<Prepare, String> {
    let (obs, rules) = (Obs::new()?, rules()?);
    let warm = obs.warm(&rules)?;
    Ok(Box::new(move || {
        let mut task = restored(&obs, &rules, &warm);
        Box::new(move || {
            let state = task.state(true);
            Box::new((task, state))
        })
    }))
}

fn load_state() -> Result<Prepare, String> {
    let (obs, rules) = (Obs::new()?, rules()?);
    let warm = Rc::new(obs.warm(&rules)?);
    Ok(Box::new(move || {
        let (mut task, warm) = (obs.task(&rules), warm.clone());
        Box::new(move || {
            let result = task.restore(&warm, &|_| ());
            Box::new((task, result))
        })
    }))
}

fn restored(obs: &Obs, rules: &[Rule], state: &State) -> DetectTask {
    let mut task = obs.task(rules);
    // What such a task wrote it takes up: [`Obs::warm`] has tried it.
    let _ = task.restore(state, &|_| ());
    task
}

fn synthetic(flows: u64, slice: u64) -> Synthetic {
    // All flows of a slice are one tenant's, and inside it; the preset starts at a full hour.
    let start = PRESET_START.plus(slice as i64 * SLICE_NS);
    Synthetic { seed: 1 + slice, duration_s: 9, tenants: 1, start, ..Plan::bench(flows, PAIRS) }
}

/// Decodes records, files every row under its inside end, as normalize does, and gives it to `each`.
fn rows(
    records: impl Iterator<Item = tidewatch_generator::Record>,
    arena: &mut Bump,
    mut each: impl FnMut(&Row<'_>),
) -> Result<u64, String> {
    let mut decoder = (wire::format(FORMAT).ok_or("no such format")?.decoder)();
    let mut rows = 0;
    for (offset, record) in records.enumerate() {
        {
            let mut decoded = Decoded::default();
            let meta = RecordMeta { timestamp: record.timestamp };
            decoder.decode(&record.value, meta, arena, &mut decoded).map_err(|e| e.to_string())?;
            for decoded in &decoded.rows {
                let mut row = decoded.row;
                let Row::Flow(flow) = &mut row else { continue };
                (flow.source_class, flow.destination_class) = (0, 0);
                let inside = |a: &tidewatch_schemas::address::Address| a.to_v4().is_some_and(|v4| v4[0] == 10);
                let host = flow.source_address.filter(inside).or(flow.destination_address);
                row.file(&Filing {
                    tenant: decoded.tenant,
                    host_address: host,
                    host_name: None,
                    primary: true,
                    format: FORMAT,
                    offset: offset as i64,
                    row: decoded.index,
                });
                each(&row);
                rows += 1;
            }
        }
        arena.reset();
    }
    Ok(rows)
}

fn decode() -> Result<Prepare, String> {
    let records: Vec<_> = synthetic(BATCH_ROWS as u64, 0).records().collect();
    rows(records.iter().cloned(), &mut Bump::new(), |_| ())?;
    Ok(Box::new(move || {
        let records = records.clone();
        let (mut into, mut arena) = (Packers::default(), Bump::new());
        Box::new(move || {
            let rows = rows(records.into_iter(), &mut arena, |row| into.push(row));
            Box::new((rows, into, arena))
        })
    }))
}

fn filled() -> Result<Packers, String> {
    let mut filled = Packers::default();
    rows(synthetic(BATCH_ROWS as u64, 0).records(), &mut Bump::new(), |row| filled.push(row))?;
    Ok(filled)
}

fn encode_batch() -> Result<Prepare, String> {
    let (_, bytes) = filled()?.finish().pop().ok_or("no batch")?;
    let batch = Rc::new(observation::decode(Kind::Flow, &bytes).map_err(|e| e.to_string())?);
    Ok(Box::new(move || {
        let (batch, mut into) = (batch.clone(), Packers::default());
        Box::new(move || {
            (0..batch.len()).for_each(|i| into.push(&batch.row(i)));
            Box::new((into.finish(), batch))
        })
    }))
}

fn decode_batch() -> Result<Prepare, String> {
    let (_, bytes) = filled()?.finish().pop().ok_or("no batch")?;
    let bytes = Bytes::from(bytes);
    observation::decode(Kind::Flow, &bytes).map_err(|e| e.to_string())?;
    Ok(Box::new(move || {
        let bytes = bytes.clone();
        Box::new(move || Box::new((observation::decode(Kind::Flow, &bytes), bytes)))
    }))
}

/// Records of one partition of `obs`: slices before, and the one that is measured, each closed by its mark.
struct Obs {
    before: Vec<Record>,
    measured: Vec<Record>,
}

impl Obs {
    fn new() -> Result<Self, String> {
        let mut offset = 0;
        let mut slice = |n| -> Result<Vec<Record>, String> {
            let mut records = Vec::new();
            let mut filled = Packers::default();
            let mut end = |filled: &mut Packers| {
                for (kind, bytes) in filled.finish() {
                    records.push(record(&mut offset, RecordType::Observations(kind, kind.version()), bytes));
                }
            };
            rows(synthetic(SLICE_FLOWS, n).records(), &mut Bump::new(), |row| {
                filled.push(row);
                if filled.len() == BATCH_ROWS {
                    end(&mut filled);
                }
            })?;
            end(&mut filled);
            let mark = Mark {
                input: InputRef { topic: "flows".to_owned(), partition: 0 },
                lane: None,
                watermark: PRESET_START.plus((n as i64 + 1) * SLICE_NS),
                cause: Cause::Rows,
                input_offset: offset,
                roster: Roster::new(1, vec![RosterInput { topic: "flows".to_owned(), partitions: 1, lane: None }]),
            };
            records.push(record(&mut offset, RecordType::Mark, mark.encode().map_err(|e| e.to_string())?));
            Ok(records)
        };
        let mut before = Vec::new();
        for n in 0..SLICES_BEFORE {
            before.extend(slice(n)?);
        }
        Ok(Self { before, measured: slice(SLICES_BEFORE)? })
    }

    fn task(&self, rules: &[Rule]) -> DetectTask {
        let config = DetectConfig {
            slice_ns: SLICE_NS,
            findings: ("findings".to_owned(), 1),
            late: "late".to_owned(),
            obs_partitions: 1,
            slices: unspilled(),
            state_bytes_max: 1 << 30,
            rules: rules.to_vec(),
            versions: std::collections::BTreeMap::new(),
            detectors: detectors::ALL,
            watch: None,
        };
        DetectTask::new(TopicPartition::new("obs", 0), config)
    }

    /// The state after the slices before.
    fn warm(&self, rules: &[Rule]) -> Result<State, String> {
        let mut task = self.task(rules);
        feed(&mut task, &self.before)?;
        let state = task.state(true).ok_or("detect keeps no state")?;
        self.task(rules).restore(&state, &|_| ()).map_err(|e| e.to_string())?;
        Ok(state)
    }

    /// The measured slice, after those before, under these rules.
    fn slice(self, rules: Vec<Rule>) -> Result<Prepare, String> {
        let warm = self.warm(&rules)?;
        let mut check = restored(&self, &rules, &warm);
        feed(&mut check, &self.measured)?;
        if check.progress().waiting_rows > 0 {
            return Err("the slice did not close".to_owned());
        }
        Ok(Box::new(move || {
            let mut task = restored(&self, &rules, &warm);
            let records = self.measured.clone();
            Box::new(move || {
                let result = feed(&mut task, &records);
                Box::new((task, records, result))
            })
        }))
    }

    fn correlate(&self, rules: &[Rule]) -> Result<Prepare, String> {
        let mut detect = self.task(rules);
        let mut offset = 0;
        let mut findings = |records: &[Record]| -> Result<Vec<Record>, String> {
            let outputs = feed(&mut detect, records)?;
            Ok(outputs.appends().iter().filter(|a| a.topic == "findings").map(|a| of_append(&mut offset, a)).collect())
        };
        let (before, measured) = (findings(&self.before)?, findings(&self.measured)?);
        let new = || {
            let config = CorrelateConfig {
                slice_ns: SLICE_NS,
                signals: ("signals".to_owned(), 1),
                shadow: "shadow".to_owned(),
                source: "bench".to_owned(),
                state_bytes_max: usize::MAX,
                slices: unspilled(),
                detectors: detectors::ALL,
            };
            CorrelateTask::new(TopicPartition::new("findings", 0), config)
        };
        let mut warm = new();
        feed(&mut warm, &before)?;
        let state = warm.state(true).ok_or("correlate keeps no state")?;
        new().restore(&state, &|_| ()).map_err(|e| e.to_string())?;
        Ok(Box::new(move || {
            let mut task = new();
            // Shown to work above.
            let _ = task.restore(&state, &|_| ());
            let records = measured.clone();
            Box::new(move || {
                let result = feed(&mut task, &records);
                Box::new((task, records, result))
            })
        }))
    }
}

fn unspilled() -> SliceLimits {
    SliceLimits { bytes_max: 1 << 30, spill_dir: std::path::PathBuf::new() }
}

/// Gives a task records and the end of its epoch.
fn feed(task: &mut dyn Task, records: &[Record]) -> Result<Outputs, String> {
    let mut outputs = Outputs::default();
    for record in records {
        task.record(record, &mut outputs).map_err(|e| e.to_string())?;
    }
    task.flush(&mut outputs);
    Ok(outputs)
}

fn record(offset: &mut i64, kind: RecordType, value: Vec<u8>) -> Record {
    let headers = vec![
        (header::RECORD.to_owned(), Bytes::from(kind.to_header())),
        (header::INPUT.to_owned(), Bytes::from(header::input_header("flows", 0))),
    ];
    *offset += 1;
    Record { offset: *offset - 1, timestamp: EventTime::from_secs(0), key: None, value: Some(value.into()), headers }
}

fn of_append(offset: &mut i64, append: &Append) -> Record {
    *offset += 1;
    Record {
        offset: *offset - 1,
        timestamp: append.timestamp.unwrap_or_default(),
        key: append.key.clone(),
        value: append.value.clone(),
        headers: append.headers.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;

    /// The function that callgrind watches: everything inside it counts, and nothing else.
    #[inline(never)]
    fn one_counted_run(ready: Ready) -> Left {
        std::hint::black_box(ready())
    }

    /// Under valgrind, by tests/src/bin/instructions.rs: it reads what is said here.
    #[test]
    fn the_stages_that_are_counted() {
        for stage in all().iter().filter(|s| s.counted) {
            let prepare = stage.make().unwrap_or_else(|e| panic!("{}: {e}", stage.name));
            let ready = prepare();
            println!("counted\t{}\t{}", stage.name, stage.rows);
            drop(one_counted_run(ready));
        }
    }

    #[test]
    fn every_stage_can_be_prepared_and_run_and_names_are_told_apart() {
        let stages = all();
        let mut names: Vec<&str> = stages.iter().map(|s| s.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), stages.len());
        assert!(stages.iter().filter(|s| s.counted).count() >= 7);
        for stage in &stages {
            let prepare = stage.make().unwrap_or_else(|e| panic!("{}: {e}", stage.name));
            drop(prepare()());
        }
    }
}
