//! `tidewatch rules list`.

use serde_json::json;
use tidewatch_schemas::document::show_duration;

use super::{Exit, Failure, Output, Which, state, tenant};

/// List the rules that would act, and those switched off
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: tidewatch rules list --rules my-rules")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// One JSON object a rule
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let set = args.which.load()?;
    let mut rows = Vec::new();
    for (rule, notes) in set.all() {
        let suppress = show_duration(std::time::Duration::from_nanos(rule.suppress_ns as u64));
        if args.json {
            out.json(&json!({
                "where": rule.filter(), "shadow": rule.shadow(), "rule": rule, "file": notes.place.file, "line": notes.place.line, "tests": notes.examples.len(),
                "false_positives": notes.false_positives, "references": notes.references, "rule_set": set.version_hash,
            }))?;
            continue;
        }
        rows.push(vec![
            rule.id.clone(),
            rule.version.to_string(),
            rule.kind.clone(),
            tenant(rule),
            rule.severity.name().to_owned(),
            suppress,
            state(rule).to_owned(),
            rule.allow.len().to_string(),
            notes.examples.len().to_string(),
            format!("{}:{}", notes.place.file, notes.place.line),
        ]);
    }
    if !args.json {
        let head = ["rule", "version", "kind", "tenant", "severity", "suppress", "state", "allow", "tests", "where"];
        out.table(&head, &rows)?;
        out.line("")?;
        out.line(format_args!("rule set {}", &set.version_hash[..16]))?;
    }
    Ok(Exit::Good)
}
