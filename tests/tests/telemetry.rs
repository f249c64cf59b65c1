//! Traces of the pipeline itself: a running job, a collector that is a real server and reads what comes with OpenTelemetry's own
//! messages. On, off, refused or left hanging: the signals are the same, byte for byte, headers among them.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tidewatch::log::embedded::{EmbeddedLog, Options};
use tidewatch::log::socket::SocketLog;
use tidewatch::log::{Append, Log, PollLimit, Record, TopicPartition};
use tidewatch_schemas::trace::TraceContext;
use tidewatch_tests::http_server::{HttpServer, answer};
use tidewatch_tests::job::{self, Job, until};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_tidewatch_program");

/// Contexts that come in: more than one span links.
const CONTEXTS: u32 = 40;

const SECRET: &str = "Bearer hunter2";

struct Running {
    job: Job,
    dir: tempfile::TempDir,
}

/// A job that has found its signals: first rows with trace contexts and a record that is none, then three rounds.
fn running(more: &str) -> Running {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), SECRET).unwrap();
    let mut job = Job::new(PROGRAM, dir.path(), "traced", "{embedded: {dir: log}}", more).unwrap();
    job.start(&[]).unwrap();
    let log = socket(dir.path());
    let mut first: Vec<Append> = (1..=CONTEXTS).map(|n| with_context(job::any_row(&job.topic), &parent(n))).collect();
    first.push(with_context(job::any_row(&job.topic), "no context"));
    first.push(Append { value: Some("no row".into()), ..with_context(job::any_row(&job.topic), &parent(CONTEXTS + 1)) });
    log.writer("first").unwrap().commit(&first, &[]).unwrap();
    job.produce(&log, 3).unwrap();
    job.until_signals(&log).unwrap();
    Running { job, dir }
}

impl Running {
    /// Stops it and reads what it published: key, value and headers.
    fn published(mut self) -> (Vec<Record>, Vec<Record>, String) {
        let took = self.job.stop().unwrap();
        assert!(took < Duration::from_secs(25), "a stop waits for no collector: {took:?}");
        let log = EmbeddedLog::open(self.dir.path().join("log"), Options::default()).unwrap();
        (read(&log, "signals"), read(&log, "rejected"), self.job.said())
    }
}

fn socket(dir: &Path) -> SocketLog {
    until("the control socket", || SocketLog::connect(dir.join("control.sock")).ok()).unwrap()
}

fn parent(n: u32) -> String {
    format!("00-{n:032x}-{n:016x}-01")
}

fn with_context(row: Append, parent: &str) -> Append {
    let headers = vec![("traceparent".to_owned(), parent.to_owned().into()), ("tracestate".to_owned(), "a=1".into())];
    Append { headers, ..row }
}

/// Without what the clock of the run put on them.
fn read(log: &dyn Log, topic: &str) -> Vec<Record> {
    let at = TopicPartition::new(format!("traced.tidewatch.{topic}"), 0);
    let range = log.offsets(&at).unwrap();
    let mut reader = log.reader(&at, range.start).unwrap();
    let mut found = Vec::new();
    while reader.position() < range.end && !reader.at_end() {
        found.extend(reader.poll(PollLimit::default(), Duration::from_secs(1)).unwrap());
    }
    found.iter_mut().for_each(|r| r.timestamp = Default::default());
    found
}

fn telemetry(url: &str) -> String {
    format!("telemetry: {{url: \"{url}\", header: x-key, header_file: secret}}")
}

/// What a collector has got.
fn spans(server: &HttpServer) -> Vec<Span> {
    let requests = server.seen();
    let mut found = Vec::new();
    for request in requests {
        assert_eq!(request.path, "/v1/traces");
        assert_eq!(request.header("content-type"), Some("application/x-protobuf"));
        assert_eq!(request.header("x-key"), Some(SECRET));
        let export = ExportTraceServiceRequest::decode(&*request.body).unwrap();
        for resource in export.resource_spans {
            let attributes = resource.resource.unwrap().attributes;
            assert_eq!(attribute(&attributes, "service.name"), Some(&Value::StringValue("tidewatch".into())));
            found.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans));
        }
    }
    found
}

fn attribute<'a>(all: &'a [KeyValue], key: &str) -> Option<&'a Value> {
    all.iter().find(|a| a.key == key)?.value.as_ref()?.value.as_ref()
}

fn number(span: &Span, key: &str) -> i64 {
    match attribute(&span.attributes, key) {
        Some(Value::IntValue(n)) => *n,
        other => panic!("{key} of {}: {other:?}", span.name),
    }
}

/// TCP connections that a process has, as the kernel lists them.
fn connections(pid: u32) -> Vec<String> {
    let mut own = BTreeSet::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        if let Some(inode) = target.to_string_lossy().strip_prefix("socket:[").and_then(|t| t.strip_suffix(']')) {
            own.insert(inode.to_owned());
        }
    }
    let mut found = Vec::new();
    for table in ["tcp", "tcp6"] {
        for line in std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            // 0A: listens.
            if own.contains(fields[9]) && fields[3] != "0A" {
                found.push(line.to_owned());
            }
        }
    }
    found
}

#[test]
fn spans_arrive_and_signals_are_those_of_a_run_without() {
    let without = running("");
    assert_eq!(connections(without.job.pid().unwrap()), Vec::<String>::new(), "nothing leaves a job that is not told to");
    let (expected, rejected, _) = without.published();
    assert_eq!(expected.len(), 3);

    let server = HttpServer::start(|_| answer(200, ""));
    let with = running(&telemetry(&format!("http://{}", server.address())));
    let (signals, rejected_too, said) = with.published();
    assert_eq!(signals, expected);
    assert_eq!(rejected_too, rejected);
    assert!(!said.contains("hunter2"), "{said}");
    // One record made one: its context goes on as it came.
    let passed_on = |name: &str| rejected.iter().find_map(|r| r.header(name)).map(|h| String::from_utf8_lossy(h).into_owned());
    assert_eq!(passed_on("traceparent"), Some(parent(CONTEXTS + 1)));
    assert_eq!(passed_on("tracestate"), Some("a=1".to_owned()));

    let spans = spans(&server);
    let of = |stage: &str| -> Vec<&Span> {
        let stage = Value::StringValue(stage.into());
        let epoch = |s: &&Span| s.name.starts_with("process ") && attribute(&s.attributes, "tidewatch.stage") == Some(&stage);
        spans.iter().filter(epoch).collect()
    };
    for stage in ["normalize", "detect", "correlate"] {
        let epochs = of(stage);
        assert!(!epochs.is_empty(), "no span of {stage}");
        for partition in ["0", "1"] {
            let here = Value::StringValue(partition.into());
            let mut ranges: Vec<(i64, i64)> = epochs
                .iter()
                .filter(|s| attribute(&s.attributes, "messaging.destination.partition.id") == Some(&here))
                .map(|s| (number(s, "tidewatch.offset.from"), number(s, "tidewatch.offset.to")))
                .collect();
            ranges.sort_unstable();
            assert!(ranges.windows(2).all(|w| w[0].1 == w[1].0), "epochs of {stage} {partition} leave nothing out: {ranges:?}");
        }
        let ids: BTreeSet<&[u8]> = epochs.iter().map(|s| &*s.span_id).collect();
        assert_eq!(ids.len(), epochs.len());
        assert!(epochs.iter().all(|s| s.end_time_unix_nano >= s.start_time_unix_nano && s.status.is_none()));
    }
    assert!(spans.iter().filter(|s| s.name == "rebalance").count() >= 3);

    // What came in is linked, within the limit: all forty lie in one partition, in one epoch or a few.
    let linked: Vec<_> = of("normalize").into_iter().flat_map(|s| &s.links).collect();
    let left_out: u32 = of("normalize").iter().map(|s| s.dropped_links_count).sum();
    assert_eq!(linked.len() + left_out as usize, CONTEXTS as usize + 1);
    assert!(of("normalize").iter().all(|s| s.links.len() <= 32));
    assert!(linked.iter().all(|l| l.trace_state == "a=1"));
    assert!(linked.iter().any(|l| l.trace_id == 1u128.to_be_bytes() && l.span_id == 1u64.to_be_bytes()));

    // Each signal's span has the context of its record, and leads to the epoch that published it.
    let epochs: BTreeSet<&[u8]> = of("correlate").iter().map(|s| &*s.span_id).collect();
    for signal in &signals {
        let context = TraceContext::parse(signal.header("traceparent").unwrap()).unwrap();
        assert_eq!(context, TraceContext::of_id(signal.header("ce_id").unwrap()));
        let span = spans.iter().find(|s| s.trace_id == context.trace && s.span_id == context.span).unwrap();
        assert!(epochs.contains(&*span.links[0].span_id));
    }
}

#[test]
fn a_collector_that_hangs_holds_nothing_up() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut running = running(&telemetry(&format!("http://{}", hangs.local_addr().unwrap())));
    let pid = running.job.pid().unwrap();
    until("a connection", || (!connections(pid).is_empty()).then_some(())).unwrap();
    running.job.until_said(0, &["the collector does not take spans"]).unwrap();
    // It hangs again in its second request; the job goes on.
    let log = socket(running.dir.path());
    running.job.produce(&log, 3).unwrap();
    running.job.until_signals(&log).unwrap();
    drop(log);
    let (signals, _, said) = running.published();
    assert_eq!(signals.len(), 6);
    assert_eq!(said.matches("the collector does not take spans").count(), 1, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn a_collector_that_refuses_costs_spans_and_one_line() {
    let server = HttpServer::start(|_| answer(401, SECRET));
    let running = running(&telemetry(&format!("http://{}", server.address())));
    let dropped = || running.job.metric("tidewatch_spans_dropped_total").filter(|n| *n > 0.0);
    until("spans are counted as dropped", dropped).unwrap();
    assert_eq!(running.job.metric("tidewatch_spans_sent_total"), Some(0.0));
    assert_eq!(running.job.metric("tidewatch_trace_contexts_refused_total"), Some(1.0));
    let (signals, _, said) = running.published();
    assert_eq!(signals.len(), 3);
    assert_eq!(said.matches("the collector does not take spans").count(), 1, "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}
