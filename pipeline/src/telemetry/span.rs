//! The spans there are, as OTLP has them, with the attributes of OpenTelemetry's messaging conventions where there are any.
//!
//! What always holds: ids are hashes of what a span is about, no chance is in them; a signal's span has the very context that
//! its record carries.

use std::borrow::Cow;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{Span, Status};
use tidewatch_schemas::trace::TraceContext;

use super::Links;
use super::links::link;
use crate::log::{Append, TopicPartition};
use crate::status::RestoreTimes;

/// Spans of signals that one epoch of a task tells, at most; the others are a number on the epoch's span.
pub const SIGNAL_SPANS_MAX: usize = 64;

/// Header of a signal that holds its id.
const SIGNAL_ID: &str = "ce_id";

/// An epoch of one task. Moments in nanoseconds, Unix time.
pub(crate) struct Epoch<'a> {
    pub stage: &'static str,
    pub group: &'a str,
    pub at: &'a TopicPartition,
    /// Offsets read: `from` included, `to` not.
    pub from: i64,
    pub to: i64,
    /// Records read.
    pub records: u64,
    /// Rows that came in, as the ledger counts them.
    pub rows: u64,
    pub began_ns: i64,
    /// Its commit began.
    pub closing_ns: i64,
    pub ended_ns: i64,
    /// Why it did not commit.
    pub failed: Option<String>,
    /// What it writes.
    pub outputs: &'a [Append],
    pub links: Links,
}

impl Epoch<'_> {
    /// Its place in a trace of its own.
    pub(super) fn context(&self) -> TraceContext {
        context(&[
            b"epoch",
            self.stage.as_bytes(),
            self.group.as_bytes(),
            self.at.topic.as_bytes(),
            &self.at.partition.to_le_bytes(),
            &self.from.to_le_bytes(),
            &self.to.to_le_bytes(),
            &self.began_ns.to_le_bytes(),
        ])
    }

    fn signal_ids(&self) -> impl Iterator<Item = &bytes::Bytes> {
        let all = if self.failed.is_none() { self.outputs } else { &[] };
        all.iter().filter_map(|a| a.headers.iter().find(|(name, _)| name == SIGNAL_ID)).map(|(_, id)| id)
    }

    /// Spans of the signals it published, each linked to the epoch.
    pub(super) fn signals(&self, epoch: Option<TraceContext>) -> Vec<Span> {
        let one = |id: &bytes::Bytes| Span {
            kind: SpanKind::Producer.into(),
            attributes: vec![text("tidewatch.signal.id", String::from_utf8_lossy(id).into_owned())],
            links: epoch.map(link).into_iter().collect(),
            ..span("signal".into(), TraceContext::of_id(id), self.began_ns, self.ended_ns)
        };
        self.signal_ids().take(SIGNAL_SPANS_MAX).map(one).collect()
    }

    pub(super) fn into_span(mut self, own: TraceContext, system: &'static str) -> Span {
        let written_bytes: usize = self.outputs.iter().filter_map(|a| a.value.as_ref()).map(bytes::Bytes::len).sum();
        let mut attributes = vec![
            text("messaging.system", system),
            text("messaging.operation.name", "process"),
            text("messaging.operation.type", "process"),
            text("messaging.destination.name", self.at.topic.clone()),
            text("messaging.destination.partition.id", self.at.partition.to_string()),
            text("messaging.consumer.group.name", self.group),
            int("messaging.batch.message_count", self.records),
            text("tidewatch.stage", self.stage),
            number("tidewatch.offset.from", self.from),
            number("tidewatch.offset.to", self.to),
            int("tidewatch.rows", self.rows),
            int("tidewatch.written.records", self.outputs.len() as u64),
            int("tidewatch.written.bytes", written_bytes as u64),
            text("tidewatch.outcome", if self.failed.is_none() { "committed" } else { "lost" }),
            real("tidewatch.process.duration_s", self.began_ns, self.closing_ns),
            real("tidewatch.commit.duration_s", self.closing_ns, self.ended_ns),
        ];
        let left_out = self.signal_ids().count().saturating_sub(SIGNAL_SPANS_MAX);
        if left_out > 0 {
            attributes.push(int("tidewatch.signals.left_out", left_out as u64));
        }
        let links = self.links.take();
        let status = self.failed.take().map(|message| Status { message, code: StatusCode::Error.into() });
        Span {
            kind: SpanKind::Consumer.into(),
            attributes,
            links,
            dropped_links_count: self.links.left_out,
            status,
            ..span(format!("process {}", self.at.topic).into(), own, self.began_ns, self.ended_ns)
        }
    }
}

/// A change of the tasks that the group gives to a worker, until they were begun.
pub(crate) struct Tasks<'a> {
    pub stage: &'static str,
    pub group: &'a str,
    pub worker: u32,
    pub reason: &'static str,
    pub gained: usize,
    pub lost: usize,
    pub began_ns: i64,
    pub ended_ns: i64,
}

impl Tasks<'_> {
    pub(super) fn into_span(self) -> Span {
        let worker = self.worker.to_le_bytes();
        let own = context(&[b"tasks", self.stage.as_bytes(), self.group.as_bytes(), &worker, &self.began_ns.to_le_bytes()]);
        let attributes = vec![
            text("messaging.consumer.group.name", self.group),
            text("tidewatch.stage", self.stage),
            int("tidewatch.worker", u64::from(self.worker)),
            text("tidewatch.reason", self.reason),
            int("tidewatch.tasks.gained", self.gained as u64),
            int("tidewatch.tasks.lost", self.lost as u64),
        ];
        Span { attributes, ..span("rebalance".into(), own, self.began_ns, self.ended_ns) }
    }
}

/// A task that came back, from its begin to its first commit.
pub(super) fn restored(stage: &str, at: &TopicPartition, now_ns: i64, times: &RestoreTimes) -> Span {
    let began_ns = now_ns - (times.total_s * 1e9) as i64;
    let (partition, now) = (at.partition.to_le_bytes(), now_ns.to_le_bytes());
    let own = context(&[b"restore", stage.as_bytes(), at.topic.as_bytes(), &partition, &now]);
    let seconds = |key: &str, value: f64| of(key, Value::DoubleValue(value));
    let attributes = vec![
        text("messaging.destination.name", at.topic.clone()),
        text("messaging.destination.partition.id", at.partition.to_string()),
        text("tidewatch.stage", stage),
        int("tidewatch.restore.bytes", times.bytes),
        seconds("tidewatch.restore.committed_s", times.committed_s),
        seconds("tidewatch.restore.load_s", times.load_s),
        seconds("tidewatch.restore.open_s", times.open_s),
        seconds("tidewatch.restore.refill_s", times.refill_s),
        seconds("tidewatch.restore.muted_s", times.muted_s),
        seconds("tidewatch.restore.commit_s", times.commit_s),
    ];
    Span { attributes, ..span(format!("restore {}", at.topic).into(), own, began_ns, now_ns) }
}

/// Which of a hundred equal parts of all traces it is in.
pub(super) fn share(context: TraceContext) -> u64 {
    context.trace[8..].iter().fold(0, |n, byte| (n << 8 | u64::from(*byte)) % 100)
}

fn span(name: Cow<'static, str>, own: TraceContext, began_ns: i64, ended_ns: i64) -> Span {
    let moment = |ns: i64| u64::try_from(ns).unwrap_or(0);
    Span {
        trace_id: own.trace.to_vec(),
        span_id: own.span.to_vec(),
        flags: u32::from(own.flags),
        name: name.into_owned(),
        kind: SpanKind::Internal.into(),
        start_time_unix_nano: moment(began_ns),
        end_time_unix_nano: moment(ended_ns.max(began_ns)),
        ..Span::default()
    }
}

fn context(fields: &[&[u8]]) -> TraceContext {
    let mut id = Vec::new();
    for field in fields {
        id.extend_from_slice(&(field.len() as u64).to_le_bytes());
        id.extend_from_slice(field);
    }
    TraceContext::of_id(&id)
}

pub(super) fn text(key: &str, value: impl Into<String>) -> KeyValue {
    of(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: u64) -> KeyValue {
    number(key, i64::try_from(value).unwrap_or(i64::MAX))
}

fn number(key: &str, value: i64) -> KeyValue {
    of(key, Value::IntValue(value))
}

/// Seconds between two moments.
fn real(key: &str, from_ns: i64, to_ns: i64) -> KeyValue {
    of(key, Value::DoubleValue((to_ns - from_ns).max(0) as f64 / 1e9))
}

fn of(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
