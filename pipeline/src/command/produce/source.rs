//! What is produced: the records of files, several logs merged by time, or the generator's. Knows formats and topics, no
//! partitions and no log.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use tidewatch_generator::{PRESET_START, Plan, Style, probectl_records, zeek_lines};
use tidewatch_schemas::time::{EventTime, SECOND_NS};

use super::Item;
use crate::command::{Failure, place};
use crate::input::{FileSet, InputSpec, Sources};
use crate::log::{Log, PollLimit, Reader, Record, TopicPartition};
use crate::topology::{Input, Topology};

/// Records read ahead of each log while merging.
const AHEAD_RECORDS: usize = 512;

/// Client hosts when none are given.
const HOSTS_DEFAULT: u32 = 40;

/// Hours when none are given: a working day.
const HOURS_DEFAULT: f64 = 8.0;

/// Longest plan, hours: seconds stay in 32 bits.
const HOURS_MAX: f64 = 100_000.0;

/// What the generator is to make.
#[derive(Debug, clap::Args)]
pub struct Generate {
    /// Seeded traffic with injected attacks instead of files; the same seed gives the same records
    #[arg(long, value_name = "SEED", conflicts_with = "inputs")]
    generate: Option<u64>,
    /// Client hosts (40)
    #[arg(long, value_name = "H", requires = "generate", conflicts_with = "preset",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(tidewatch_generator::world::HOSTS_MAX)))]
    hosts: Option<u32>,
    /// Length in hours (8); fractions are fine
    #[arg(long, value_name = "N", requires = "generate", conflicts_with = "preset", value_parser = hours)]
    hours: Option<f64>,
    /// A ready plan: demo (3 tenants, 8 hours, 8 attacks) or small (2 tenants, 3 hours, 5 attacks)
    #[arg(long, value_enum, requires = "generate", hide_possible_values = true)]
    preset: Option<Preset>,
    /// Wire form: probectl or zeek (one tenant, as Zeek knows none)
    #[arg(long, value_enum, requires = "generate", hide_possible_values = true)]
    format: Option<Form>,
}

/// Ready plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Preset {
    /// [`Plan::demo`].
    Demo,
    /// [`Plan::small`].
    Small,
}

/// Wire forms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// probectl's topics, protobuf.
    Probectl,
    /// Zeek logs, tab-separated.
    Zeek,
}

impl Generate {
    /// The plan; `None` when files are produced.
    pub(super) fn plan(&self) -> Option<Plan> {
        let seed = self.generate?;
        Some(match self.preset {
            Some(Preset::Demo) => Plan::demo(seed),
            Some(Preset::Small) => Plan::small(seed),
            None => {
                let duration_s = ((self.hours.unwrap_or(HOURS_DEFAULT) * 3_600.0) as u32).max(1);
                Plan::office(seed, 1, self.hosts.unwrap_or(HOSTS_DEFAULT), PRESET_START, duration_s)
            }
        })
    }
}

fn hours(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(hours) if hours > 0.0 && hours <= HOURS_MAX => Ok(hours),
        _ => Err(format!("expected a number of hours above 0 and up to {HOURS_MAX}")),
    }
}

/// Records in the order in which they are to be written.
pub(super) struct Source<'t> {
    /// Inputs that may get records.
    pub(super) topics: Vec<&'t Input>,
    /// Steps for the progress bar: bytes of files, seconds of generated time.
    pub(super) total: u64,
    /// Records that have no topic, by format.
    pub(super) passed_over: BTreeMap<&'static str, u64>,
    kind: Kind<'t>,
}

enum Kind<'t> {
    Files(Vec<OneLog>),
    Generated { items: Box<dyn Iterator<Item = (EventTime, &'static str, Item)> + 't>, start: EventTime, now: EventTime },
}

/// One log of several that are merged.
struct OneLog {
    topic: String,
    reader: Box<dyn Reader>,
    ahead: VecDeque<Record>,
    read: Arc<AtomicU64>,
    /// Time of the last row; header lines go with what is before them.
    last: EventTime,
    /// Text lines: headers go to every partition.
    text: bool,
}

/// The files of `--input`s.
pub(super) fn files<'t>(topology: &'t Topology, specs: &[String], topic: Option<&str>) -> Result<Source<'t>, Failure> {
    let mut sources = Sources::new(None);
    let mut found: Vec<(&Input, String, FileSet)> = Vec::new();
    let usage = |e: &dyn std::fmt::Display| Failure::Usage(e.to_string());
    for text in specs {
        let spec: InputSpec = text.parse().map_err(|e| usage(&e))?;
        if let InputSpec::Topic(_) = spec {
            return Err(Failure::Usage(format!("{text}: produce takes files; to run over a topic use `tidewatch backtest`")));
        }
        for (label, format, set) in spec.files().map_err(|e| usage(&e))? {
            let input = input_of(topology, format.name, topic)?;
            // Two inputs may lie under one path.
            let name = format!("{}:{label}", found.len());
            sources.add(name.clone(), set.clone());
            found.push((input, name, set));
        }
    }
    let mut topics: Vec<&Input> = Vec::new();
    let mut logs = Vec::new();
    let mut total = 0;
    for (input, name, set) in found {
        if !topics.iter().any(|i| i.topic == input.topic) {
            topics.push(input);
        }
        total += set.bytes;
        logs.push(OneLog {
            topic: input.topic.clone(),
            reader: sources.reader(&TopicPartition::new(name, 0), 0)?,
            ahead: VecDeque::new(),
            read: set.read,
            last: EventTime::MIN,
            text: input.format.name.starts_with("zeek"),
        });
    }
    Ok(Source { topics, total, passed_over: BTreeMap::new(), kind: Kind::Files(logs) })
}

/// The generator's records of a plan.
pub(super) fn generated<'t>(topology: &'t Topology, plan: &'t Plan, options: &Generate) -> Result<Source<'t>, Failure> {
    let form = options.format.unwrap_or(Form::Probectl);
    let formats: &[&'static str] = match form {
        Form::Probectl => &["probectl-flow", "probectl-ebpf"],
        Form::Zeek => &["zeek-conn", "zeek-dns", "zeek-ssl", "zeek-http"],
    };
    let mut topics: Vec<&Input> = Vec::new();
    let mut to: BTreeMap<&'static str, String> = BTreeMap::new();
    for format in formats {
        if let Some(input) = inputs_of(topology, format).first() {
            to.insert(format, input.topic.clone());
            if !topics.iter().any(|i| i.topic == input.topic) {
                topics.push(input);
            }
        }
    }
    if topics.is_empty() {
        return Err(Failure::Usage(format!("no input of the topology has one of the formats {}", formats.join(", "))));
    }
    let (start, total) = (plan.start, u64::from(plan.duration_s));
    let items: Box<dyn Iterator<Item = (EventTime, &'static str, Item)> + 't> = match form {
        Form::Probectl => Box::new(probectl_records(plan).map(move |r| {
            let format = if r.topic == tidewatch_generator::probectl::FLOW_TOPIC { "probectl-flow" } else { "probectl-ebpf" };
            let topic = to.get(format).cloned().unwrap_or_default();
            let key = Some(Bytes::from(r.key));
            (r.timestamp, format, Item { topic, key, timestamp: Some(r.timestamp), value: r.value.into(), everywhere: false })
        })),
        Form::Zeek => {
            let of_lines = to.clone();
            let headers = tidewatch_generator::zeek::Log::ALL.into_iter().flat_map(move |log| {
                let format = zeek_format(log);
                let topic = to.get(format).cloned().unwrap_or_default();
                let lines: Vec<String> = log.header(start).lines().map(str::to_owned).collect();
                lines.into_iter().map(move |line| {
                    let value = Bytes::from(line);
                    (start, format, Item { topic: topic.clone(), key: None, timestamp: Some(start), value, everywhere: true })
                })
            });
            // Tenants have equal addresses and Zeek keeps no tenants apart: one is enough.
            let lines = zeek_lines(plan, Style::Tsv).filter(|line| line.tenant == 0).map(move |line| {
                let format = zeek_format(line.log);
                let topic = of_lines.get(format).cloned().unwrap_or_default();
                let value = Bytes::from(line.line);
                (line.at, format, Item { topic, key: None, timestamp: Some(line.at), value, everywhere: false })
            });
            Box::new(headers.chain(lines))
        }
    };
    Ok(Source { topics, total, passed_over: BTreeMap::new(), kind: Kind::Generated { items, start, now: start } })
}

fn zeek_format(log: tidewatch_generator::zeek::Log) -> &'static str {
    use tidewatch_generator::zeek::Log;
    match log {
        Log::Conn => "zeek-conn",
        Log::Dns => "zeek-dns",
        Log::Ssl => "zeek-ssl",
        Log::Http => "zeek-http",
    }
}

/// The inputs that take a format: exactly that one, else `zeek` for any of its logs.
fn inputs_of<'t>(topology: &'t Topology, format: &str) -> Vec<&'t Input> {
    let of = |name: &str| topology.inputs.iter().filter(|i| i.format.name == name).collect::<Vec<_>>();
    let exact = of(format);
    if exact.is_empty() && format.starts_with("zeek-") { of("zeek") } else { exact }
}

fn input_of<'t>(topology: &'t Topology, format: &str, topic: Option<&str>) -> Result<&'t Input, Failure> {
    if let Some(topic) = topic {
        let input = place::input(topology, topic)?;
        let fits = input.format.name == format || input.format.name == "zeek" && format.starts_with("zeek");
        if !fits {
            let what = format!("input {topic} has the format {}; the files were called {format}", input.format.name);
            return Err(Failure::Usage(what));
        }
        return Ok(input);
    }
    match inputs_of(topology, format).as_slice() {
        [one] => Ok(one),
        [] => {
            let known: Vec<String> = topology.inputs.iter().map(|i| format!("{} ({})", i.topic, i.format.name)).collect();
            Err(Failure::Usage(format!(
                "no input of the topology has the format {format}: add one, or say --topic; inputs are {}",
                known.join(", ")
            )))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|i| i.topic.as_str()).collect();
            Err(Failure::Usage(format!("{} inputs have the format {format}: say --topic {}", several.len(), names.join(" or "))))
        }
    }
}

impl Source<'_> {
    /// Steps of [`Source::total`] done.
    pub(super) fn done(&self) -> u64 {
        match &self.kind {
            Kind::Files(logs) => logs.iter().map(|l| l.read.load(Ordering::Relaxed)).sum(),
            Kind::Generated { start, now, .. } => (now.since(*start).max(0) / SECOND_NS) as u64,
        }
    }

    /// The next record.
    pub(super) fn next(&mut self) -> Option<Result<Item, Failure>> {
        match &mut self.kind {
            Kind::Files(logs) => earliest(logs).transpose(),
            Kind::Generated { items, now, .. } => loop {
                let (at, format, item) = items.next()?;
                *now = at;
                if !item.topic.is_empty() {
                    return Some(Ok(item));
                }
                *self.passed_over.entry(format).or_default() += 1;
            },
        }
    }
}

/// The record of the log that is furthest behind in time: topics that are read together stay together.
fn earliest(logs: &mut [OneLog]) -> Result<Option<Item>, Failure> {
    let mut first: Option<(EventTime, usize)> = None;
    for (i, log) in logs.iter_mut().enumerate() {
        if let Some(time) = log.next_time()?
            && first.is_none_or(|(t, _)| time < t)
        {
            first = Some((time, i));
        }
    }
    Ok(first.and_then(|(time, i)| logs.get_mut(i)?.take(time)))
}

impl OneLog {
    fn next_time(&mut self) -> Result<Option<EventTime>, Failure> {
        if self.ahead.is_empty() {
            let limit = PollLimit { records: AHEAD_RECORDS, ..PollLimit::default() };
            self.ahead = self.reader.poll(limit, Duration::ZERO)?.into();
        }
        let Some(record) = self.ahead.front() else { return Ok(None) };
        // Files of lines have no timestamps.
        let own = (record.timestamp != EventTime::MAX).then_some(record.timestamp);
        Ok(Some(own.or_else(|| record.value.as_deref().and_then(line_time)).unwrap_or(self.last)))
    }

    fn take(&mut self, time: EventTime) -> Option<Item> {
        let record = self.ahead.pop_front()?;
        self.last = time;
        let value = record.value?;
        let timestamp = (record.timestamp != EventTime::MAX).then_some(record.timestamp);
        let everywhere = self.text && (value.starts_with(b"#") || value.starts_with(b"ts\t"));
        Some(Item { topic: self.topic.clone(), key: record.key, timestamp, value, everywhere })
    }
}

/// Time of a line of a text log: its first column, or `ts` of a JSON object. Only for merging.
fn line_time(line: &[u8]) -> Option<EventTime> {
    let text = std::str::from_utf8(line.get(..line.len().min(4096))?).ok()?;
    let first = match text.find("\"ts\":") {
        Some(at) => text[at + 5..].split([',', '}']).next()?,
        None => text.split('\t').next()?,
    };
    let first = first.trim().trim_matches('"');
    first.parse().ok().and_then(EventTime::from_secs_f64).or_else(|| EventTime::parse_rfc3339(first))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_tell_their_time() {
        let at = EventTime::from_secs(1_773_216_000);
        assert_eq!(line_time(b"1773216000.000000\tCx\t10.0.0.1"), Some(at));
        assert_eq!(line_time(br#"{"ts":1773216000.0,"uid":"Cx"}"#), Some(at));
        assert_eq!(line_time(br#"{"uid":"Cx", "ts": "2026-03-11T08:00:00Z"}"#), Some(at));
        assert_eq!(line_time(b"#fields\tts"), None);
        assert_eq!(line_time(b"\xff"), None);
    }
}
