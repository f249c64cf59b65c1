//! `tidewatch lag`: how far every stage is behind, partition by partition, and which input holds the watermark. Reads
//! committed positions and recorded marks; it works beside a running process and without one.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;
use tidewatch_schemas::control::StageMark;
use tidewatch_schemas::document::show_duration;
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::marks::{MARKS_MAX, Recorded};
use super::{Exit, Failure, Output, open, place, processes};
use crate::log::{Log, LogError, PollLimit, TopicPartition};
use crate::status::TaskStatus;
use crate::topology::{Stage, Topology};

/// Show how far each stage is behind, and what holds the watermark
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch lag topologies/kafka.yaml --json\n\
                        A watermark says up to which event time a partition is complete; a slice waits for the lowest one.")]
pub struct Args {
    /// The topology file
    topology: PathBuf,
    /// Only this stage: normalize, detect, correlate or deliver
    #[arg(long, value_name = "STAGE", value_parser = stage)]
    stage: Option<Stage>,
    /// One JSON object, for machines
    #[arg(long)]
    json: bool,
}

fn stage(text: &str) -> Result<Stage, String> {
    Stage::parse(text).ok_or_else(|| "expected normalize, detect, correlate or deliver".to_owned())
}

/// One partition of one group.
#[derive(Debug, Serialize)]
struct Line {
    stage: &'static str,
    group: String,
    topic: String,
    partition: u32,
    /// Next offset to read; absent when the group has never committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    committed: Option<i64>,
    end: i64,
    lag: i64,
    /// Seconds between the next record and the last one, by the log's timestamps.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<EventTimeText>,
    /// What the process that has the task says; absent when none on this machine has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    held_by: Option<String>,
}

/// Event time as text.
#[derive(Debug, Clone)]
struct EventTimeText(EventTime);

impl Serialize for EventTimeText {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

/// The input partition whose watermark is the lowest, or that has told none yet.
#[derive(Debug, Serialize)]
struct Holder {
    /// Tenant whose own lane it is; absent = all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    lane: Option<String>,
    topic: String,
    partition: u32,
    /// Absent = none recorded.
    #[serde(skip_serializing_if = "Option::is_none")]
    watermark: Option<EventTimeText>,
}

#[derive(Serialize)]
struct Report<'a> {
    lag: i64,
    partitions: &'a [Line],
    held_by: &'a [Holder],
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let topology = Topology::read(&args.topology)?;
    let reached = open::reading(&topology)?;
    let log = reached.log.as_ref();
    let live = live(&topology);
    let mut lines = Vec::new();
    for (stage, group, topics) in groups(&topology) {
        if args.stage.is_some_and(|wanted| wanted != stage) {
            continue;
        }
        for topic in topics {
            lines.extend(lag_of(log, stage, &group, &topic, &live, &topology.names.findings())?);
        }
    }
    let held_by = holders(log, &topology)?;
    if args.json {
        out.json(&Report { lag: lines.iter().map(|l| l.lag).sum(), partitions: &lines, held_by: &held_by })?;
    } else {
        tell(&lines, &held_by, out)?;
    }
    Ok(Exit::Good)
}

/// What the processes on this machine say of their tasks, by `stage:topic/partition`; empty where none runs.
fn live(topology: &Topology) -> BTreeMap<String, TaskStatus> {
    let running = processes::running(topology).into_iter();
    running.flat_map(|p| p.status.tasks).map(|t| (format!("{}:{}", t.stage, t.at()), t)).collect()
}

/// Every group and what it reads.
fn groups(topology: &Topology) -> Vec<(Stage, String, Vec<String>)> {
    let names = &topology.names;
    let mut inputs: Vec<String> = topology.inputs.iter().map(|i| i.topic.clone()).collect();
    inputs.push(names.replayed());
    let mut groups = vec![
        (Stage::Normalize, names.group(Stage::Normalize), inputs),
        (Stage::Detect, names.group(Stage::Detect), vec![names.obs()]),
        (Stage::Correlate, names.group(Stage::Correlate), vec![names.findings()]),
    ];
    for destination in &topology.destinations {
        groups.push((Stage::Deliver, names.destination_group(&destination.name), vec![names.signals()]));
    }
    groups
}

/// A topic that nobody has made yet has no lines.
fn lag_of(
    log: &dyn Log,
    stage: Stage,
    group: &str,
    topic: &str,
    live: &BTreeMap<String, TaskStatus>,
    findings: &str,
) -> Result<Vec<Line>, Failure> {
    let partitions = match log.partitions(topic) {
        Err(LogError::UnknownTopic { .. }) => return Ok(Vec::new()),
        partitions => partitions?,
    };
    let at: Vec<TopicPartition> = (0..partitions).map(|p| TopicPartition::new(topic, p)).collect();
    let committed = log.committed(group, &at)?;
    let detected =
        if stage == Stage::Detect { closed(log, &TopicPartition::new(findings, 0), i64::MAX)?.1 } else { BTreeMap::new() };
    let mut lines = Vec::new();
    for (at, committed) in at.iter().zip(committed) {
        let kept = log.offsets(at)?;
        let next = committed.as_ref().map_or(kept.start, |c| c.offset.clamp(kept.start, kept.end));
        let now = live.get(&format!("{}:{at}", stage.name()));
        let noted = match stage {
            Stage::Normalize => committed.as_ref().and_then(|c| noted_watermark(&c.metadata)),
            Stage::Detect => detected.get(&at.partition).copied(),
            // What all tasks of detect have told it so far.
            Stage::Correlate => committed.as_ref().map(|c| closed(log, at, c.offset)).transpose()?.and_then(|of| lowest(&of)),
            Stage::Deliver => None,
        };
        // On Kafka the end may lie behind a transaction's marker: then offsets remain, but no record does.
        let lag_s = if next < kept.end { waiting_s(log, at, next, kept.end)? } else { None };
        let lag = if next < kept.end && lag_s.is_none() { 0 } else { kept.end - next };
        lines.push(Line {
            stage: stage.name(),
            group: group.to_owned(),
            topic: topic.to_owned(),
            partition: at.partition,
            committed: committed.map(|c| c.offset),
            end: kept.end,
            lag,
            lag_s,
            watermark: now.and_then(|t| t.progress.watermark).or(noted).map(EventTimeText),
            phase: now.map(|t| t.phase.name()),
            held_by: now.and_then(|t| t.progress.held_by.clone()),
        });
    }
    Ok(lines)
}

/// Seconds between the record at `next` and the last one before `end`; `None` when no record is between them.
fn waiting_s(log: &dyn Log, at: &TopicPartition, next: i64, end: i64) -> Result<Option<f64>, LogError> {
    let one = PollLimit { records: 1, ..PollLimit::default() };
    let Some(first) = log.reader(at, next)?.poll(one, super::POLL_WAIT)?.pop() else { return Ok(None) };
    // The last offset may be a gap: look back a little further each time.
    for back in [1, 2, 16, 256] {
        let from = (end - back).max(first.offset);
        let mut reader = log.reader(at, from)?;
        if let Some(last) = reader.poll(PollLimit { records: back as usize, ..one }, Duration::from_millis(200))?.pop() {
            return Ok(Some(last.timestamp.since(first.timestamp).max(0) as f64 / SECOND_NS as f64));
        }
    }
    Ok(Some(0.0))
}

/// The watermark in normalize's note, where an offset's metadata carries one.
fn noted_watermark(metadata: &str) -> Option<EventTime> {
    let meta: Value = serde_json::from_str(metadata).ok()?;
    let note: Value = serde_json::from_str(meta.get("note")?.as_str()?).ok()?;
    note.get("watermark")?.as_i64().map(EventTime).filter(|t| *t != EventTime::MIN)
}

/// Up to which time each task of detect has closed its slices, by the marks in a partition of `findings` before `to`; and
/// how many tasks there are.
fn closed(log: &dyn Log, at: &TopicPartition, to: i64) -> Result<(u32, BTreeMap<u32, EventTime>), Failure> {
    let range = match log.offsets(at) {
        Err(LogError::UnknownTopic { .. }) => return Ok((0, BTreeMap::new())),
        range => range?,
    };
    let to = to.min(range.end);
    let (mut of, mut closed) = (0, BTreeMap::new());
    place::each_record(log, at, range.start.max(to - MARKS_MAX).min(range.end), to, |record| {
        if record.header(header::RECORD).is_some_and(|kind| RecordType::parse(kind) == Some(RecordType::StageMark))
            && let Some(mark) = record.value.as_deref().and_then(|v| StageMark::decode(v).ok())
        {
            of = mark.partitions;
            closed.insert(mark.partition, mark.closed_shared);
        }
        Ok(())
    })?;
    closed.retain(|_, time| *time != EventTime::MIN);
    Ok((of, closed))
}

fn lowest((of, closed): &(u32, BTreeMap<u32, EventTime>)) -> Option<EventTime> {
    if closed.len() == *of as usize { closed.values().min().copied() } else { None }
}

/// Who holds the shared slices, and each lane, by the marks that normalize has recorded.
fn holders(log: &dyn Log, topology: &Topology) -> Result<Vec<Holder>, Failure> {
    let holders = Recorded::read(log, topology)?.holders().into_iter();
    Ok(holders
        .map(|(lane, input, watermark)| Holder {
            lane,
            topic: input.topic,
            partition: input.partition,
            watermark: watermark.map(EventTimeText),
        })
        .collect())
}

fn tell(lines: &[Line], held_by: &[Holder], out: &mut Output) -> Result<(), Failure> {
    let shown = |time: &Option<EventTimeText>| time.as_ref().map_or_else(|| "-".to_owned(), |t| t.0.to_string());
    let rows: Vec<Vec<String>> = lines
        .iter()
        .map(|l| {
            vec![
                l.stage.to_owned(),
                format!("{}/{}", l.topic, l.partition),
                l.committed.map_or_else(|| "-".to_owned(), |c| c.to_string()),
                l.end.to_string(),
                l.lag.to_string(),
                l.lag_s.map_or_else(|| "-".to_owned(), |s| show_duration(Duration::from_secs(s as u64))),
                shown(&l.watermark),
                l.phase.unwrap_or("-").to_owned(),
                l.held_by.clone().unwrap_or_default(),
            ]
        })
        .collect();
    out.table(&["stage", "partition", "committed", "end", "lag", "time", "watermark", "phase", "held by"], &rows)?;
    if held_by.is_empty() {
        return Ok(());
    }
    out.line("")?;
    for holder in held_by {
        let whose = holder.lane.as_ref().map_or_else(String::new, |lane| format!(" of lane {lane}"));
        let since = match &holder.watermark {
            Some(time) => format!("at {}", time.0),
            None => "has told no time yet".to_owned(),
        };
        out.line(format_args!("watermark{whose} is held by {}/{}: {since}", holder.topic, holder.partition))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use tidewatch_schemas::control::{Cause, InputRef, Mark, Roster, RosterInput};

    use super::*;
    use crate::log::memory::MemoryLog;
    use crate::log::{Append, TopicSpec};
    use crate::topology::{LogChoice, Topology};

    #[test]
    fn the_lowest_mark_of_each_lane_holds() {
        let topology = Topology::of(LogChoice::Memory, Vec::new());
        let log: Arc<dyn Log> = Arc::new(MemoryLog::new());
        log.create_topic(&TopicSpec::new("tidewatch.control", 1)).unwrap();
        let input =
            |topic: &str, lane: Option<&str>| RosterInput { topic: topic.into(), partitions: 2, lane: lane.map(str::to_owned) };
        let roster = Roster::new(1, vec![input("a", None), input("b", Some("acme"))]);
        let mut writer = log.writer("w").unwrap();
        for (topic, partition, watermark) in [("a", 0, 10), ("a", 1, 20), ("a", 0, 30), ("b", 1, 5)] {
            let mark = Mark {
                input: InputRef { topic: topic.into(), partition },
                lane: None,
                watermark: EventTime(watermark),
                cause: Cause::Rows,
                input_offset: 1,
                roster: roster.clone(),
            };
            let append = Append {
                topic: "tidewatch.control".into(),
                partition: 0,
                timestamp: None,
                key: None,
                value: Some(mark.encode().unwrap().into()),
                headers: vec![],
            };
            writer.commit(&[append], &[]).unwrap();
        }
        let held: Vec<_> = holders(log.as_ref(), &topology)
            .unwrap()
            .into_iter()
            .map(|h| (h.lane, h.topic, h.partition, h.watermark.map(|w| w.0.0)))
            .collect();
        assert_eq!(held, [(None, "a".into(), 1, Some(20)), (Some("acme".into()), "b".into(), 0, None)]);
    }

    #[test]
    fn a_note_tells_its_watermark() {
        let metadata = r#"{"v":1,"from":0,"note":"{\"event\":7,\"watermark\":5}"}"#;
        assert_eq!(noted_watermark(metadata), Some(EventTime(5)));
        for other in ["", "{}", r#"{"v":1,"note":"x"}"#, r#"{"v":1,"note":"{\"watermark\":-9223372036854775808}"}"#] {
            assert_eq!(noted_watermark(other), None, "{other}");
        }
    }
}
