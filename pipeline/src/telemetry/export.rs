//! The thread that sends spans: OTLP over HTTP, protobuf.
//!
//! What always holds: a collector that is away, slow or refuses costs spans, a counter and one line in the log; it is asked
//! again after growing pauses, with the same batch, while the queue behind it fills and then drops.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::InstrumentationScope;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span};
use prost::Message;

use super::SPANS_BATCH_MAX;
use crate::deliver::http::{HttpClient, excerpt};
use crate::metrics::{Metrics, table};

/// Spans are gathered for so long before they are sent.
const GATHER: Duration = Duration::from_secs(1);
/// First pause before a collector is asked again; doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Exporter {
    client: HttpClient,
    resource: Resource,
    spans: Receiver<Span>,
    stop: Receiver<()>,
    metrics: Arc<Metrics>,
    /// The last attempt failed, and that was said.
    told: bool,
}

/// What came of a request.
enum Outcome {
    /// All but so many taken.
    Taken { refused: usize, reason: String },
    /// Never will be.
    Refused(String),
    /// Not now.
    Away(String, Option<Duration>),
}

impl Exporter {
    pub(super) fn new(
        client: HttpClient,
        resource: Resource,
        spans: Receiver<Span>,
        stop: Receiver<()>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { client, resource, spans, stop, metrics, told: false }
    }

    /// Sends until it is told to stop and nothing waits.
    pub(super) fn run(mut self) {
        let mut stopping = false;
        loop {
            let spans: Vec<Span> = self.spans.try_iter().take(SPANS_BATCH_MAX).collect();
            if spans.is_empty() && stopping {
                return;
            }
            let full = spans.len() == SPANS_BATCH_MAX;
            if !spans.is_empty() && !self.deliver(spans, &mut stopping) {
                return;
            }
            if !full && !stopping {
                stopping = self.rest(GATHER);
            }
        }
    }

    /// Sends one batch, for as long as it takes. False when it is time to leave without.
    fn deliver(&mut self, spans: Vec<Span>, stopping: &mut bool) -> bool {
        let count = spans.len();
        let body = request(self.resource.clone(), spans).encode_to_vec();
        let mut pause = PAUSE_MIN;
        loop {
            match self.post(body.clone(), count) {
                Outcome::Taken { refused, reason } => {
                    self.metrics.add(&table::SPANS_SENT, &[], (count - refused) as u64);
                    self.drop_counted(refused);
                    if refused > 0 {
                        self.tell(&reason);
                    } else if std::mem::take(&mut self.told) {
                        tracing::info!("the collector takes spans again");
                    }
                    return true;
                }
                Outcome::Refused(reason) => {
                    self.drop_counted(count);
                    self.tell(&reason);
                    return true;
                }
                Outcome::Away(reason, wish) => {
                    self.tell(&reason);
                    if *stopping {
                        let waiting = self.spans.try_iter().count();
                        self.drop_counted(count + waiting);
                        return false;
                    }
                    *stopping = self.rest(wish.unwrap_or(pause).min(PAUSE_MAX));
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn post(&self, body: Vec<u8>, count: usize) -> Outcome {
        let (status, retry_after, reply) = match self.client.post_bytes("application/x-protobuf", body) {
            Ok(reply) => reply,
            Err(reason) => return Outcome::Away(reason, None),
        };
        match status {
            200..=299 => {
                let partial = ExportTraceServiceResponse::decode(&*reply).ok().and_then(|r| r.partial_success);
                let (refused, message) = partial.map_or((0, String::new()), |p| (p.rejected_spans, p.error_message));
                let refused = usize::try_from(refused).unwrap_or(0).min(count);
                Outcome::Taken {
                    refused,
                    reason: format!("refused {refused} of {count} spans: {}", excerpt(&self.client.scrub(&message))),
                }
            }
            // The only ones that OTLP allows to be repeated.
            429 | 502 | 503 | 504 => Outcome::Away(format!("status {status}"), retry_after),
            _ => Outcome::Refused(format!("status {status}")),
        }
    }

    /// Once, until it is well again.
    fn tell(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.told, true) {
            let counter = table::SPANS_DROPPED.name;
            tracing::warn!(reason, counter, "the collector does not take spans; the job goes on without them");
        }
    }

    fn drop_counted(&self, spans: usize) {
        self.metrics.add(&table::SPANS_DROPPED, &[], spans as u64);
    }

    /// Pauses. True when told to stop.
    fn rest(&self, pause: Duration) -> bool {
        self.stop.recv_timeout(pause) != Err(RecvTimeoutError::Timeout)
    }
}

fn request(resource: Resource, spans: Vec<Span>) -> ExportTraceServiceRequest {
    let scope = InstrumentationScope {
        name: "tidewatch".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() }],
    }
}
