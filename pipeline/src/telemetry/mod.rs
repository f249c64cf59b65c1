//! Traces of the pipeline itself, for an OpenTelemetry collector, if a topology names one: a span per epoch of a task, per
//! restore, per change of tasks and per signal.
//!
//! What always holds: without the `telemetry` section nothing of this runs, and nothing connects; with it no worker ever
//! waits: a span that finds the queue full is dropped and counted. Spans look at records and outputs and never change them.
//! No address, name, tenant or content of a row is in a span.

mod export;
mod links;
mod span;

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;

pub(crate) use links::Links;
pub(crate) use span::{Epoch, Tasks};

use crate::deliver::DestinationError;
use crate::deliver::http::{HttpClient, HttpConfig};
use crate::log::TopicPartition;
use crate::metrics::{Metrics, table};
use crate::status::RestoreTimes;
use crate::topology::{LogChoice, Stage, Topology};

/// Spans that wait for the collector, at most; further ones are dropped and counted.
pub const SPANS_QUEUED_MAX: usize = 4096;

/// Spans of one request, at most; the rest goes into the next.
pub const SPANS_BATCH_MAX: usize = 512;

/// Longest request to the collector; one that takes longer counts as not answered.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// A process that ends waits so long for its last spans, then goes without them.
pub const LAST_SPANS_WITHIN: Duration = Duration::from_secs(2);

/// Path of OTLP over HTTP, when the URL names none.
const PATH: &str = "/v1/traces";

/// Where spans go; clones share one queue. Ends with [`Telemetry::stop`].
#[derive(Clone)]
pub struct Telemetry {
    queue: SyncSender<Span>,
    metrics: Arc<Metrics>,
    /// What the log is called in attributes.
    system: &'static str,
    /// Epochs of which a span is told, of a hundred.
    sample_percent: u64,
    stop: SyncSender<()>,
    /// Closed when the exporter has ended.
    ended: Arc<Mutex<Receiver<()>>>,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Telemetry").field("sample_percent", &self.sample_percent).finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Starts the exporter of a topology that names a collector. Reads its secret; connects when the first span comes.
    pub fn start(
        topology: &Topology,
        stages: &[Stage],
        ordinal: u32,
        metrics: Arc<Metrics>,
    ) -> Result<Option<Self>, DestinationError> {
        let Some(config) = &topology.telemetry else { return Ok(None) };
        let headers = match &config.header {
            Some((name, secret)) => vec![(name.clone(), secret.read()?)],
            None => vec![],
        };
        let http = HttpConfig {
            url: config.server.url.clone(),
            timeout: REQUEST_WITHIN,
            ca_file: config.server.ca_file.clone(),
            // The URL is the operator's own word.
            private_allowed: true,
        };
        let client = HttpClient::open(&http, headers, PATH)?;
        let system = if matches!(topology.log, LogChoice::Kafka(_)) { "kafka" } else { "tidewatch" };
        let (queue, spans) = sync_channel(SPANS_QUEUED_MAX);
        let (stop, stopping) = sync_channel(1);
        let (end, ended) = sync_channel(0);
        let resource = resource(topology, stages, ordinal);
        let exporter = export::Exporter::new(client, resource, spans, stopping, metrics.clone());
        std::thread::Builder::new()
            .name("telemetry".to_owned())
            .spawn(move || {
                exporter.run();
                drop(end);
            })
            .expect("the system gives threads");
        let ended = Arc::new(Mutex::new(ended));
        Ok(Some(Self { queue, metrics, system, sample_percent: u64::from(config.sample_percent), stop, ended }))
    }

    /// Sends what waits, within [`LAST_SPANS_WITHIN`].
    pub fn stop(self) {
        // Full: it was told already.
        let _ = self.stop.try_send(());
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.recv_timeout(LAST_SPANS_WITHIN) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            tracing::warn!("the collector has not taken the last spans; leaving without it");
        }
    }

    /// An epoch of one task has ended.
    pub(crate) fn epoch(&self, epoch: Epoch<'_>) {
        let own = epoch.context();
        let told = epoch.failed.is_some() || span::share(own) < self.sample_percent;
        self.metrics.add(&table::TRACE_LINKS_LEFT_OUT, &[], u64::from(epoch.links.left_out));
        self.metrics.add(&table::TRACE_CONTEXTS_REFUSED, &[], u64::from(epoch.links.refused));
        for signal in epoch.signals(told.then_some(own)) {
            self.send(signal);
        }
        if told {
            self.send(epoch.into_span(own, self.system));
        }
    }

    /// A task is back and has committed.
    pub(crate) fn restored(&self, stage: &str, at: &TopicPartition, now_ns: i64, times: &RestoreTimes) {
        self.send(span::restored(stage, at, now_ns, times));
    }

    /// The group has changed a worker's tasks.
    pub(crate) fn tasks(&self, tasks: Tasks<'_>) {
        self.send(tasks.into_span());
    }

    fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            self.metrics.add(&table::SPANS_DROPPED, &[], 1);
        }
    }
}

/// Who speaks.
fn resource(topology: &Topology, stages: &[Stage], ordinal: u32) -> Resource {
    let names: Vec<&str> = Stage::ALL.iter().filter(|s| stages.contains(s)).map(|s| s.name()).collect();
    let names = if names.len() == Stage::ALL.len() { "all".to_owned() } else { names.join("+") };
    let mut attributes = vec![
        span::text("service.name", "tidewatch"),
        span::text("service.version", env!("CARGO_PKG_VERSION")),
        span::text("service.instance.id", format!("{names}-{ordinal}")),
    ];
    if let Some(deployment) = topology.names.deployment() {
        attributes.push(span::text("service.namespace", deployment));
    }
    Resource { attributes, ..Resource::default() }
}
