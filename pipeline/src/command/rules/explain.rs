//! `tidewatch rules explain`: a rule as it acts, then the page of its detector.

use std::time::Duration;

use serde_json::json;
use tidewatch_operators::attack;
use tidewatch_operators::detectors;
use tidewatch_operators::operator::Detector;
use tidewatch_operators::rule::filter::{Filter, Scope};
use tidewatch_operators::rule::{Notes, Rule};
use tidewatch_schemas::document::show_duration;

use super::{Exit, Failure, Output, Which, of_id, state, tenant};

/// Explain a rule: its values, exceptions and tests, and what its detector sees and does not see
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch rules explain my-rule --rules my-rules\n  tidewatch rules explain KIND")]
pub struct Args {
    /// Id of a rule, or a kind
    id: String,
    #[command(flatten)]
    which: Which,
    /// One JSON object a rule
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let set = args.which.load()?;
    if let Some(detector) = detectors::by_rule_kind(&args.id) {
        let ids: Vec<&str> = set.all().map(|(r, _)| r).filter(|r| r.kind == args.id).map(|r| r.id.as_str()).collect();
        if args.json {
            out.json(&json!({"kind": detector.rule_kind, "title": detector.title, "rules": ids, "page": page(detector)}))?;
        } else {
            out.line(format_args!("{}: {}", detector.rule_kind, detector.title))?;
            out.line(format_args!("rules of this kind: {}", ids.join(", ")))?;
            attack_lines(detector, out)?;
            out.line("")?;
            out.line(page(detector))?;
        }
        return Ok(Exit::Good);
    }
    let found = of_id(&set, &args.id)?;
    let last = found.len() - 1;
    for (place, rule) in found.into_iter().enumerate() {
        let notes = &set.notes[&(rule.id.clone(), rule.tenant.clone())];
        let Some(detector) = detectors::by_rule_kind(&rule.kind) else { continue };
        if args.json {
            out.json(&json!({
                "where": rule.filter(), "shadow": rule.shadow(),
                "where_decides": rule.filter().and_then(|text| scope(text, detector)).map(|scope| scope.words()),
                "rule": rule, "file": notes.place.file, "line": notes.place.line,
                "tests": notes.examples.iter().map(|e| json!({"name": e.name, "expected": e.expected()})).collect::<Vec<_>>(),
                "false_positives": notes.false_positives, "references": notes.references, "attack": detector.attack,
                "page": page(detector),
            }))?;
            continue;
        }
        explain(rule, notes, detector, out)?;
        if place == last {
            out.line("")?;
            out.line(page(detector))?;
        } else {
            out.line("")?;
        }
    }
    Ok(Exit::Good)
}

fn explain(rule: &Rule, notes: &Notes, detector: &Detector, out: &mut Output) -> Result<(), Failure> {
    let state = state(rule);
    out.line(format_args!("{} version {}: {} ({state}, tenant: {})", rule.id, rule.version, rule.name, tenant(rule)))?;
    if !rule.description.is_empty() {
        out.line(&rule.description)?;
    }
    out.line("")?;
    let suppress = show_duration(Duration::from_nanos(rule.suppress_ns as u64));
    out.line(format_args!("stands in {}:{}; kind {}", notes.place.file, notes.place.line, rule.kind))?;
    out.line(format_args!(
        "severity at most {}, confidence from {}, the same is said again after {suppress}",
        rule.severity.name(),
        rule.base_confidence
    ))?;
    attack_lines(detector, out)?;
    if let Some(text) = rule.filter() {
        let decides = scope(text, detector).map(|scope| format!(" (decides {})", scope.words())).unwrap_or_default();
        out.line(format_args!("where {text}{decides}"))?;
    }
    out.line("")?;
    let thresholds: Vec<Vec<String>> = detector
        .thresholds
        .iter()
        .map(|t| vec![t.name.to_owned(), rule.threshold(t.name).to_string(), t.default.to_string(), t.meaning.to_owned()])
        .collect();
    out.table(&["threshold", "here", "default", "meaning"], &thresholds)?;
    if !detector.lists.is_empty() {
        out.line("")?;
        let lists: Vec<Vec<String>> =
            detector.lists.iter().map(|l| vec![l.name.to_owned(), rule.list(l.name).join(", "), l.meaning.to_owned()]).collect();
        out.table(&["list", "here", "meaning"], &lists)?;
    }
    if !rule.allow.is_empty() {
        out.line("")?;
        let allow: Vec<Vec<String>> = rule
            .allow
            .iter()
            .map(|a| {
                let end = a.expires.map_or_else(|| "never".to_owned(), |t| t.to_rfc3339());
                vec![a.what(), a.owner.clone(), a.reason.clone(), end]
            })
            .collect();
        out.table(&["silent about", "owner", "reason", "until"], &allow)?;
    }
    if !notes.examples.is_empty() {
        out.line("")?;
        let tests: Vec<Vec<String>> = notes.examples.iter().map(|e| vec![e.name.clone(), e.expected()]).collect();
        out.table(&["test", "expects"], &tests)?;
    }
    for (head, texts) in [("looks like it and is not:", &notes.false_positives), ("described in:", &notes.references)] {
        if !texts.is_empty() {
            out.line("")?;
            out.line(head)?;
            for text in texts {
                out.line(format_args!("  - {text}"))?;
            }
        }
    }
    Ok(())
}

/// What an expression decides on.
fn scope(text: &str, detector: &Detector) -> Option<Scope> {
    Filter::compile(text, detector).ok().map(|filter| filter.scope())
}

fn attack_lines(detector: &Detector, out: &mut Output) -> Result<(), Failure> {
    let named = |id: &&str| format!("{id} {}", attack::name(id).unwrap_or("(not in the list)"));
    let all: Vec<String> = detector.attack.iter().map(named).collect();
    out.line(format_args!("MITRE ATT&CK {}: {}", attack::VERSION, all.join("; ")))
}

/// The detector's page: the document at the head of its file.
fn page(detector: &Detector) -> String {
    let lines = detector.page.lines().map_while(|l| l.strip_prefix("//!"));
    lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect::<Vec<_>>().join("\n")
}
