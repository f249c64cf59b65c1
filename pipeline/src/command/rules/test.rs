//! `tidewatch rules test`: runs every rule's tests and prints a table.

use std::time::Instant;

use serde_json::json;
use tidewatch_operators::detectors;

use super::{Exit, Failure, Output, Which, of_id, tenant};
use crate::rules::testing;

/// Run the tests that stand in rules
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  tidewatch rules test\n  tidewatch rules test --rules my-rules --only my-rule\n\n\
                        A test's rows take the way that all rows take from normalize on, judged by its rule alone. Exit code 1 when \
                        a test fails.")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Only the rules with this id
    #[arg(long, value_name = "ID")]
    only: Option<String>,
    /// One JSON object a test
    #[arg(long)]
    json: bool,
}

/// Runs it.
pub fn run(args: &Args, out: &mut Output) -> Result<Exit, Failure> {
    let set = args.which.load()?;
    if let Some(id) = &args.only {
        of_id(&set, id)?;
    }
    let (mut rows, mut failed, mut passed) = (Vec::new(), 0, 0);
    for (rule, notes) in set.all().filter(|(rule, _)| args.only.as_ref().is_none_or(|id| *id == rule.id)) {
        // What is switched off for a tenant is silent whatever comes.
        let mut rule = rule.clone();
        rule.enabled = true;
        for example in &notes.examples {
            let began = Instant::now();
            let tried = testing::run(&rule, example, detectors::ALL).map_err(|e| Failure::Failed(e.to_string()))?;
            let took = began.elapsed();
            if tried.wrong.is_none() {
                passed += 1
            } else {
                failed += 1
            }
            if args.json {
                out.json(&json!({
                    "rule": rule.id, "tenant": rule.tenant, "test": example.name, "file": example.place.file,
                    "line": example.place.line, "expected": example.expected(), "signals": tried.signals.len(),
                    "where_rows": tried.where_rows, "where_findings": tried.where_findings, "where_errors": tried.where_errors,
                    "allowed": tried.allowed, "suppressed": tried.suppressed, "dismissed": tried.dismissed, "rows": tried.rows,
                    "passed": tried.wrong.is_none(), "wrong": tried.wrong, "took_ms": took.as_millis() as u64,
                }))?;
                continue;
            }
            rows.push(vec![
                rule.id.clone(),
                tenant(&rule),
                example.name.clone(),
                tried.rows.to_string(),
                example.expected(),
                tried.signals.len().to_string(),
                format!("{} ms", took.as_millis()),
                match &tried.wrong {
                    None => "passed".to_owned(),
                    Some(what) => format!("FAILED {}:{}: {what}", example.place.file, example.place.line),
                },
            ]);
        }
    }
    if !args.json {
        out.table(&["rule", "tenant", "test", "rows", "expected", "signals", "took", "result"], &rows)?;
        out.line("")?;
        out.line(format_args!("{passed} passed, {failed} failed"))?;
    }
    Ok(if failed > 0 { Exit::Findings } else { Exit::Good })
}
