//! A record of any topic as people and scripts read it: what it holds, whose it is and when, one [`Shown`] for each row,
//! finding, contact, mark or signal in it. Never fails: what cannot be decoded is shown as that, with its first bytes.

use bumpalo::Bump;
use serde_json::{Map, Value, json};
use tidewatch_schemas::control::{Mark, SnapshotRef, StageMark, Version};
use tidewatch_schemas::finding::{Contacts, Finding};
use tidewatch_schemas::header::{self, RecordType};
use tidewatch_schemas::observation::{self, Kind, Row};
use tidewatch_schemas::signal::{self, from_json};
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, Decoder, Format, RecordMeta};

use super::place;
use crate::log::{Log, LogError, PollLimit, Record, TopicPartition};
use crate::normalize::reject;
use crate::topology::{Tenancy, Topology};

mod rows;

use rows::{row_json, row_text};

pub use rows::attempt;

/// Bytes of a value that cannot be decoded that are shown as hex in a line.
const HEX_BYTES: usize = 24;

/// First records of a partition that are looked through for the header of a text log.
const HEADER_RECORDS: usize = 64;

/// One thing in a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// Event time, else the record's timestamp.
    pub time: EventTime,
    /// Tenant; of inputs as claimed, not verified.
    pub tenant: Option<String>,
    /// `flow`, `dns`, ..., `finding`, `contact`, `mark`, ..., `signal`, `rejected`, `header`, `undecodable`, `tombstone`.
    pub kind: String,
    /// Kind of a finding or signal: `ndr.beaconing`.
    pub of: Option<String>,
    /// For people.
    pub text: String,
    /// For machines.
    pub json: Value,
}

/// Shows the records of one partition. Read them in order: text logs name their columns once.
pub struct Shower {
    role: Role,
}

enum Role {
    /// By its header.
    Internal,
    /// Signals; of rules in shadow.
    Signals,
    Shadow,
    Rejected(Vec<(String, &'static Format)>),
    Input {
        tenant: Option<String>,
        decoder: Box<dyn Decoder>,
    },
    /// Of an input each: the record names it.
    Replayed(Vec<(String, &'static Format)>),
    Foreign,
}

impl Shower {
    /// For a partition of the topology's log.
    pub fn new(topology: &Topology, log: &dyn Log, at: &TopicPartition) -> Result<Self, LogError> {
        let names = &topology.names;
        let formats =
            || topology.inputs.iter().filter_map(|i| Some((i.topic.clone(), place::format(i.format.name).ok()?))).collect();
        let input = topology.inputs.iter().find(|i| i.topic == at.topic);
        let role = if at.topic == names.signals() {
            Role::Signals
        } else if at.topic == names.shadow() {
            Role::Shadow
        } else if at.topic == names.rejected() {
            Role::Rejected(formats())
        } else if at.topic == names.replayed() {
            Role::Replayed(formats())
        } else if [names.obs(), names.findings(), names.late(), names.control()].contains(&at.topic) {
            Role::Internal
        } else if let Some(input) = input {
            let tenant = match (&input.lane, &input.tenancy) {
                (Some(lane), _) => Some(lane.tenant.clone()),
                (None, Tenancy::Static(tenant)) => Some(tenant.clone()),
                (None, Tenancy::Verified { .. }) => None,
            };
            Role::Input { tenant, decoder: decoder(&input.format, log, at)? }
        } else {
            Role::Foreign
        };
        Ok(Self { role })
    }

    /// What the record holds; empty when there is nothing in it to show.
    pub fn show(&mut self, record: &Record) -> Vec<Shown> {
        let Some(value) = record.value.as_deref() else {
            return vec![plain(record, "tombstone", "no value", Value::Null)];
        };
        match &mut self.role {
            Role::Internal => internal(record, value),
            Role::Signals => vec![published(record, value, "signal")],
            Role::Shadow => vec![published(record, value, "shadow")],
            Role::Rejected(formats) => vec![rejected(record, value, formats)],
            Role::Input { tenant, decoder } => decoded(record, value, tenant.as_deref(), decoder.as_mut()),
            Role::Replayed(formats) => {
                let format = named_format(record, formats);
                let Some(format) = format else { return vec![undecodable(record, value, "header tw-topic names no input")] };
                decoded(record, value, None, (format.decoder)().as_mut())
            }
            Role::Foreign => vec![undecodable(record, value, "topic of no input")],
        }
    }
}

/// A decoder that knows the columns of a text log, if the partition's first records name them.
pub fn decoder(format: &Format, log: &dyn Log, at: &TopicPartition) -> Result<Box<dyn Decoder>, LogError> {
    let mut decoder = (format.decoder)();
    let range = log.offsets(at)?;
    if range.start < range.end {
        let limit = PollLimit { records: HEADER_RECORDS, ..PollLimit::default() };
        let mut reader = log.reader(at, range.start)?;
        for record in reader.poll(limit, super::POLL_WAIT)? {
            if let Some(value) = record.value.as_deref().filter(|v| v.starts_with(b"#") || v.starts_with(b"ts\t")) {
                // A header that cannot be read is told when its rows are shown.
                let _ = decoder.decode(value, RecordMeta { timestamp: record.timestamp }, &Bump::new(), &mut Decoded::default());
            }
        }
    }
    Ok(decoder)
}

/// The format of the input that a rejected or replayed record names.
pub fn named_format(record: &Record, formats: &[(String, &'static Format)]) -> Option<&'static Format> {
    let topic = text_of(record, reject::TOPIC)?;
    formats.iter().find(|(t, _)| *t == topic).map(|(_, f)| *f)
}

/// A header as text.
pub fn text_of(record: &Record, name: &str) -> Option<String> {
    record.header(name).map(|v| String::from_utf8_lossy(v).into_owned())
}

fn internal(record: &Record, value: &[u8]) -> Vec<Shown> {
    let Some(kind) = record.header(header::RECORD) else { return vec![undecodable(record, value, "no header tw-record")] };
    let Some(kind) = RecordType::parse(kind) else {
        let name = String::from_utf8_lossy(kind).into_owned();
        return vec![undecodable(record, value, &format!("record type {name:?} is not known"))];
    };
    let bad = |e: &dyn std::fmt::Display| vec![undecodable(record, value, &e.to_string())];
    match kind {
        RecordType::Observations(kind, _) => batch(kind, value).unwrap_or_else(|e| bad(&e)),
        RecordType::Mark => Mark::decode(value).map_or_else(|e| bad(&e), |mark| vec![marked(record, &mark)]),
        RecordType::StageMark => StageMark::decode(value).map_or_else(
            |e| bad(&e),
            |m| {
                let text = format!(
                    "obs/{} of {} closed up to {}{}",
                    m.partition,
                    m.partitions,
                    m.closed_shared,
                    if m.ended { ", ended" } else { "" }
                );
                vec![plain(record, "stage-mark", &text, json!(m))]
            },
        ),
        RecordType::Version => Version::decode(value).map_or_else(
            |e| bad(&e),
            |v| vec![plain(record, "version", &format!("{} {} from {}", v.what, v.id, v.from), json!(v))],
        ),
        RecordType::Snapshot => SnapshotRef::decode(value).map_or_else(
            |e| bad(&e),
            |s| vec![plain(record, "snapshot", &format!("{} at offset {}", s.id, s.position), json!(s))],
        ),
        RecordType::Finding => Finding::decode(value).map_or_else(|e| bad(&e), |f| vec![finding(&f)]),
        RecordType::Contacts => Contacts::decode(value).map_or_else(|e| bad(&e), |c| contacts(&c)),
    }
}

fn batch(kind: Kind, value: &[u8]) -> Result<Vec<Shown>, observation::BatchError> {
    let batch = observation::decode(kind, value)?;
    let one = |row: Row<'_>| Shown {
        time: row.event_time(),
        tenant: Some(row.tenant().to_owned()),
        kind: kind.name().to_owned(),
        of: None,
        text: row_text(&row),
        json: row_json(&row, None, None, None),
    };
    Ok((0..batch.len()).map(|i| one(batch.row(i))).collect())
}

fn marked(record: &Record, mark: &Mark) -> Shown {
    let cause = json!(mark.cause);
    let text = format!(
        "{}/{} at {} ({}, offset {})",
        mark.input.topic,
        mark.input.partition,
        mark.watermark,
        cause.as_str().unwrap_or_default(),
        mark.input_offset
    );
    Shown { tenant: mark.lane.clone(), ..plain(record, "mark", &text, json!(mark)) }
}

fn finding(f: &Finding) -> Shown {
    let evidence: Map<String, Value> = f.evidence.iter().map(|(name, value)| (name.clone(), evidence(value))).collect();
    Shown {
        time: f.decided_at,
        tenant: Some(f.tenant.clone()),
        kind: "finding".to_owned(),
        of: Some(f.kind.clone()),
        text: format!("{} {} {} {}", f.kind, f.severity.name(), f.confidence, f.why),
        json: json!({
            "tenant": f.tenant, "plane": f.plane, "kind": f.kind, "title": f.title, "why": f.why,
            "severity": f.severity, "confidence": f.confidence, "rule": f.rule, "entity": f.entity,
            "source": f.source, "destination": f.destination, "subject": f.subject, "contact": f.contact,
            "first_seen": f.first_seen.to_rfc3339(), "last_seen": f.last_seen.to_rfc3339(),
            "decided_at": f.decided_at.to_rfc3339(), "slice_start": f.slice_start.to_rfc3339(),
            "slice_end": f.slice_end.to_rfc3339(), "evidence": evidence, "attack": f.attack,
            "raw": f.raw, "suppress_ns": f.suppress_ns,
            "held_up_to": f.held_up_to, "shadow": f.shadow,
        }),
    }
}

fn evidence(value: &signal::Value) -> Value {
    match value {
        signal::Value::Long(v) => json!(v),
        signal::Value::Double(v) => json!(v),
        signal::Value::Text(v) => json!(v),
        signal::Value::Flag(v) => json!(v),
        signal::Value::List(values) => values.iter().map(evidence).collect(),
    }
}

fn contacts(contacts: &Contacts) -> Vec<Shown> {
    let one = |(tenant, host, destination, at): (&str, &str, &str, EventTime)| Shown {
        time: at,
        tenant: Some(tenant.to_owned()),
        kind: "contact".to_owned(),
        of: None,
        text: if destination.is_empty() { format!("{host} seen") } else { format!("{host} -> {destination}") },
        json: json!({"tenant": tenant, "host": host, "destination": destination, "at": at.to_rfc3339()}),
    };
    contacts.rows().map(one).collect()
}

fn published(record: &Record, value: &[u8], kind: &str) -> Shown {
    let signal = std::str::from_utf8(value).ok().and_then(|text| from_json(text).ok());
    let Some(s) = signal else { return undecodable(record, value, "not a signal") };
    Shown {
        time: s.decided_at,
        tenant: Some(s.tenant.clone()),
        kind: kind.to_owned(),
        of: Some(s.kind.clone()),
        text: format!("{} {} {} {}", s.kind, s.severity.name(), s.confidence, s.why),
        json: serde_json::from_slice(value).unwrap_or(Value::Null),
    }
}

fn rejected(record: &Record, value: &[u8], formats: &[(String, &'static Format)]) -> Shown {
    let header = |name: &str| text_of(record, name);
    let place = format!(
        "{}@{}:{}",
        header(reject::TOPIC).unwrap_or_default(),
        header(reject::PARTITION).unwrap_or_default(),
        header(reject::OFFSET).unwrap_or_default()
    );
    let reason = header(reject::REASON).unwrap_or_else(|| "no reason".to_owned());
    let row = header(reject::ROW);
    let decoded = named_format(record, formats).map(|format| {
        attempt((format.decoder)().as_mut(), value, record.timestamp).unwrap_or_else(|fault| json!({"fault": fault.to_string()}))
    });
    let text = format!("{place}{} {reason}", row.as_ref().map(|r| format!(" row {r}")).unwrap_or_default());
    let json = json!({
        "reason": reason, "topic": header(reject::TOPIC), "partition": header(reject::PARTITION),
        "offset": header(reject::OFFSET), "row": row, "format": header(reject::FORMAT),
        "length": header(reject::LENGTH), "digest": header(reject::DIGEST), "decoded": decoded,
        "value_hex": hex::encode(value),
    });
    plain(record, "rejected", &text, without_nulls(json))
}

fn decoded(record: &Record, value: &[u8], tenant: Option<&str>, decoder: &mut dyn Decoder) -> Vec<Shown> {
    let arena = Bump::new();
    let mut out = Decoded::default();
    if let Err(fault) = decoder.decode(value, RecordMeta { timestamp: record.timestamp }, &arena, &mut out) {
        return vec![Shown { tenant: tenant.map(str::to_owned), ..undecodable(record, value, &fault.to_string()) }];
    }
    let mut shown = Vec::new();
    for row in &out.rows {
        let claimed = Some(row.tenant).filter(|t| !t.is_empty()).or(tenant);
        shown.push(Shown {
            time: row.row.event_time(),
            tenant: claimed.map(str::to_owned),
            kind: row.row.kind().name().to_owned(),
            of: None,
            text: row_text(&row.row),
            json: row_json(&row.row, claimed, row.agent, Some(row.index)),
        });
    }
    for bad in &out.bad {
        let text = format!("row {}: {}", bad.index, bad.fault);
        let json = json!({"index": bad.index, "fault": bad.fault.to_string(), "bytes_hex": hex::encode(&bad.bytes)});
        shown.push(Shown { tenant: tenant.map(str::to_owned), ..plain(record, "bad-row", &text, json) });
    }
    for (reason, n) in &out.skipped {
        let json = json!({"reason": reason, "elements": n});
        shown.push(Shown { tenant: tenant.map(str::to_owned), ..plain(record, "skipped", &format!("{n} x {reason}"), json) });
    }
    shown
}

fn undecodable(record: &Record, value: &[u8], why: &str) -> Shown {
    let more = if value.len() > HEX_BYTES { "…" } else { "" };
    let text = format!("{why}: {} bytes {}{more}", value.len(), hex::encode(&value[..value.len().min(HEX_BYTES)]));
    plain(record, "undecodable", &text, json!({"fault": why, "value_hex": hex::encode(value)}))
}

fn plain(record: &Record, kind: &str, text: &str, json: Value) -> Shown {
    Shown { time: record.timestamp, tenant: None, kind: kind.to_owned(), of: None, text: text.to_owned(), json }
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map.into_iter().filter(|(_, v)| !v.is_null()).collect::<Map<_, _>>().into(),
        other => other,
    }
}
