//! The trace contexts of the records that one epoch of one task has read.
//!
//! What always holds: at most [`LINKS_MAX`] of them are kept, the first ones, each once; the others and those that are none are
//! counted.

use opentelemetry_proto::tonic::trace::v1::span::Link;
use tidewatch_schemas::trace::{TRACEPARENT, TRACESTATE, TraceContext, tracestate};

use crate::log::Record;

/// Links of one span, at most; further contexts are counted, not kept.
pub const LINKS_MAX: usize = 32;

/// What was seen since the last epoch.
#[derive(Debug, Default)]
pub(crate) struct Links {
    seen: Vec<(TraceContext, String)>,
    /// Contexts beyond the limit.
    pub(super) left_out: u32,
    /// Headers that are no trace context.
    pub(super) refused: u32,
}

impl Links {
    /// Looks at a record's headers.
    pub(crate) fn see(&mut self, record: &Record) {
        let Some(header) = record.header(TRACEPARENT) else { return };
        let Some(context) = TraceContext::parse(header) else {
            self.refused = self.refused.saturating_add(1);
            return;
        };
        if self.seen.iter().any(|(seen, _)| *seen == context) {
            return;
        }
        if self.seen.len() == LINKS_MAX {
            self.left_out = self.left_out.saturating_add(1);
            return;
        }
        let state = record.header(TRACESTATE).and_then(|h| tracestate(h)).unwrap_or_default();
        self.seen.push((context, state.to_owned()));
    }

    /// As links of a span.
    pub(super) fn take(&mut self) -> Vec<Link> {
        self.seen.drain(..).map(|(context, state)| Link { trace_state: state, ..link(context) }).collect()
    }
}

/// A link to a place in a trace.
pub(super) fn link(to: TraceContext) -> Link {
    Link { trace_id: to.trace.to_vec(), span_id: to.span.to_vec(), flags: u32::from(to.flags), ..Link::default() }
}

#[cfg(test)]
mod tests {
    use tidewatch_schemas::time::EventTime;

    use super::*;

    fn record(parent: String) -> Record {
        Record {
            offset: 0,
            timestamp: EventTime(0),
            key: None,
            value: None,
            headers: vec![(TRACEPARENT.to_owned(), parent.into()), (TRACESTATE.to_owned(), "a=1".into())],
        }
    }

    #[test]
    fn the_first_are_kept_once_and_the_others_counted() {
        let mut links = Links::default();
        for round in 0..2 {
            for n in 1..=LINKS_MAX + 8 {
                links.see(&record(format!("00-{n:032x}-{n:016x}-01")));
            }
            assert_eq!(links.left_out, 8 * (round + 1));
        }
        links.see(&record("nonsense".to_owned()));
        assert_eq!(links.refused, 1);
        let links = links.take();
        assert_eq!(links.len(), LINKS_MAX);
        assert_eq!(links[0].trace_state, "a=1");
    }
}
