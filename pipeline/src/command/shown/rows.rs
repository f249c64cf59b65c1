//! Rows as JSON and as a line for people.

use bumpalo::Bump;
use serde_json::{Map, Value, json};
use tidewatch_schemas::observation::Row;
use tidewatch_schemas::time::EventTime;
use tidewatch_schemas::wire::{Decoded, Decoder, Fault, RecordMeta};

/// Columns that a line for people leaves out: shown in front, or of use to the engine alone.
const QUIET: &[&str] =
    &["tenant", "key", "host_address", "host_name", "primary", "event_time", "format", "observer", "offset", "row"];

/// What a record in a format holds, as one JSON object: rows, bad rows, skipped elements.
pub fn attempt(decoder: &mut dyn Decoder, value: &[u8], timestamp: EventTime) -> Result<Value, Fault> {
    let arena = Bump::new();
    let mut out = Decoded::default();
    decoder.decode(value, RecordMeta { timestamp }, &arena, &mut out)?;
    let rows: Vec<Value> = out.rows.iter().map(|r| row_json(&r.row, Some(r.tenant), r.agent, Some(r.index))).collect();
    let bad: Vec<Value> = out
        .bad
        .iter()
        .map(|b| json!({"index": b.index, "fault": b.fault.to_string(), "bytes_hex": hex::encode(&b.bytes)}))
        .collect();
    let skipped: Map<String, Value> = out.skipped.iter().map(|(reason, n)| ((*reason).to_owned(), json!(n))).collect();
    Ok(json!({"rows": rows, "bad": bad, "skipped": skipped}))
}

/// All columns; with `index` the row is not filed yet, and what normalize decides is left out.
pub(super) fn row_json(row: &Row<'_>, tenant: Option<&str>, agent: Option<&str>, index: Option<u32>) -> Value {
    let mut out = row.describe();
    if index.is_some() {
        for column in QUIET.iter().filter(|c| !matches!(**c, "event_time" | "observer")) {
            out.remove(*column);
        }
        for column in ["source_class", "destination_class", "client_class", "server_class"] {
            out.remove(column);
        }
    }
    out.insert("kind".to_owned(), json!(row.kind().name()));
    if let Some(tenant) = tenant.filter(|t| !t.is_empty()) {
        out.insert("tenant".to_owned(), json!(tenant));
    }
    if let Some(agent) = agent {
        out.insert("agent".to_owned(), json!(agent));
    }
    if let Some(index) = index {
        out.insert("index".to_owned(), json!(index));
    }
    Value::Object(out)
}

/// Who to whom, then what else there is.
pub(super) fn row_text(row: &Row<'_>) -> String {
    let mut columns = row.describe();
    let mut take = |name: &str| columns.remove(name).map(|v| bare(&v));
    let mut end = |side: &str| {
        let address = take(&format!("{side}_address"));
        let name = take(&format!("{side}_name"));
        let port = take(&format!("{side}_port"));
        take(&format!("{side}_class"));
        address.or(name).map(|who| if let Some(port) = port { format!("{who}:{port}") } else { who })
    };
    let ends = match (end("source").or_else(|| end("client")), end("destination").or_else(|| end("server"))) {
        (Some(from), Some(to)) => format!("{from} -> {to}"),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => String::new(),
    };
    let mut out = ends;
    for (name, value) in columns.iter().filter(|(name, _)| !QUIET.contains(&name.as_str())) {
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&format!("{name}={}", bare(value)));
    }
    out
}

fn bare(value: &Value) -> String {
    match value {
        // A control character would reach the terminal.
        Value::String(text) if text.chars().any(|c| c.is_control() || c == ' ') => value.to_string(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
