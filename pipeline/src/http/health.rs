//! `/livez`, `/startupz`, `/readyz`, `/metrics`.
//!
//! Alive is whoever can answer: a process that waits for brokers is alive, and killing it would help nobody. Ready is whoever
//! has all its tasks restored and nothing in its way.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use axum::routing::get;
use serde_json::json;

use crate::metrics::{self, table};
use crate::status::{ProcessState, Reporter};

type Answer = (StatusCode, [(HeaderName, &'static str); 1], String);

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

pub(super) fn routes(reporter: Arc<Reporter>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/startupz", get(startupz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .fallback(nothing)
        .with_state(reporter)
}

fn answer(reporter: &Reporter, path: &str, code: StatusCode, kind: &'static str, body: String) -> Answer {
    reporter.metrics.add(&table::HTTP_REQUESTS, &[path, code.as_str()], 1);
    (code, [(header::CONTENT_TYPE, kind)], body)
}

async fn livez(State(reporter): State<Arc<Reporter>>) -> Answer {
    answer(&reporter, "/livez", StatusCode::OK, TEXT, "alive\n".to_owned())
}

async fn startupz(State(reporter): State<Arc<Reporter>>) -> Answer {
    let started = reporter.board.state() != ProcessState::Starting;
    let (code, words) = if started { (StatusCode::OK, "started\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "starting\n") };
    answer(&reporter, "/startupz", code, TEXT, words.to_owned())
}

/// 200 when all tasks that this process owns are restored and nothing is in their way; else 503 and why. The body says in
/// both cases what is degraded without being a reason.
async fn readyz(State(reporter): State<Arc<Reporter>>) -> Answer {
    let status = reporter.status();
    let reasons = status.not_ready();
    let degraded: Vec<_> = status.conditions.iter().filter(|c| c.cause.is_ready()).collect();
    let live = status.tasks.iter().filter(|t| t.phase.is_ready()).count();
    let body = json!({
        "ready": reasons.is_empty(),
        "tasks": {"owned": status.tasks.len(), "live": live},
        "reasons": reasons,
        "degraded": degraded.iter().map(|c| json!({
            "cause": c.cause.name(), "about": c.about, "reason": c.reason, "advice": c.cause.advice(), "since": c.since.to_rfc3339(),
        })).collect::<Vec<_>>(),
    });
    let code = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    answer(&reporter, "/readyz", code, JSON, format!("{body}\n"))
}

async fn metrics(State(reporter): State<Arc<Reporter>>) -> Answer {
    // Counted before, so that the first scrape has it, too.
    reporter.metrics.add(&table::HTTP_REQUESTS, &["/metrics", "200"], 1);
    (StatusCode::OK, [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], reporter.metrics_text())
}

async fn nothing(State(reporter): State<Arc<Reporter>>) -> Answer {
    let words = "there is /livez, /startupz, /readyz and /metrics\n".to_owned();
    answer(&reporter, "(other)", StatusCode::NOT_FOUND, TEXT, words)
}
